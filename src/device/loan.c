/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loan.c - reads that are answered with a pointer: the data is used where it lies.
 *
 * A memory device copies a read's data into a buffer from which the socket copies it again. With a
 * loan the first copy is saved. The reader offers (io_offer()), with a buffer at hand as for any
 * read; the driver at the bottom may fill in pieces of its own memory (io_lend()) and completes.
 * The request then comes up through all layers as usual, is counted, timed, and handed to done();
 * but on each channel of its path it goes on to be in flight, until the reader returns it:
 *
 *   io_offer -> submit -> io_lend, io_complete -> frames popped, still counted -> done()
 *                                                                                   |
 *                            channels count it no more <--- io_return or io_unlend <+
 *
 * So everything that waits for I/O (quiesce, resize, range lock, removal of what was freed) waits
 * for loans by the same counters. It must not wait for a reader's peer that reads nothing, though:
 * a drain turns the loans that it would wait for into copies, at once, in the reader's buffer.
 * That is why a buffer belongs to the offer; its price is that large reads take as many buffers as
 * without loans, its gain that nothing waits, times out, or fails for want of memory.
 *
 * Layers: one that only remaps lets the flag pass and need not know more. One that changes data on
 * the way up, or sends the request down again, calls io_unlend() first, or takes IO_BORROW off on
 * the way down (and puts it back in its hook). What the device layer does itself that needs a copy
 * (faults that change data, bounces and other emulations) sees to it.
 *
 * Latency in the statistics ends when the loan is given, not when it is returned.
 *
 * What a loan shows. The memory goes on to be the device's: a write, unmap or compare-and-write
 * that completes meanwhile shows, in whole or in part, within a block too. A reader that computes
 * something over the data before sending it (a digest) takes a copy instead. Memory that an unmap
 * gives back to the system stays mapped and reads as zeroes.
 *
 * Invariants:
 *   1. A lent request has status IO_OK, and its loan is in the list of its reactor exactly while
 *      count > 0.
 *   2. While it is lent, frames[io->depth ... loan->depth - 1] are popped and count in flight.
 *   3. Whoever lends answered IO_PENDING, so every frame of the path was counted.
 *
 * Thread: the request's reactor.
 *
 * Rejected: unwinding only at the return (hooks, which decrypt, repair or retry, would run after
 * the data was used); a callback that asks for the loan back (the copy into the reader's buffer
 * needs nothing that the layer does not know); a link per channel on the path (drains are rare).
 */
#include "device/channel.h"

_Alignas(4096) uint8_t io_zeroes[IO_ZEROES_SIZE];

static struct list lent[REACTORS_MAX];

static struct list *lent_on(const struct channel *ch)
{
	struct list *list = &lent[ch->reactor->id];

	if (unlikely(list->next == NULL))
		list_init(list);
	return list;
}

void io_lend(struct io *io, unsigned count)
{
	struct io_loan *loan = io->loan;

	assert(io->flags & IO_BORROW && loan->count == 0 && count > 0 && count <= IO_LEND_MAX);
	loan->count = (uint16_t)count;
	loan->depth = io->depth;
	loan->io = io;
	list_add_tail(lent_on(io_top(io)->ch), &loan->link);
}

void io_return(struct io *io)
{
	struct io_loan *loan = io->loan;

	if (!io_is_lent(io))
		return;
	loan->count = 0;
	list_del(&loan->link);
	for (unsigned i = io->depth; i < loan->depth; i++) {
		const struct io_frame *f = &io->frame[i];

		if (f->epoch != IO_EPOCH_NONE)
			channel_leave(f->ch, f->epoch);
	}
}

void io_unlend(struct io *io)
{
	const struct io_loan *loan = io->loan;
	size_t done = 0;

	if (!io_is_lent(io))
		return;
	for (unsigned i = 0; i < loan->count; i++)
		done += iov_from_buf(io->iov, io->iovcnt, done, loan->piece[i].iov_base,
				     loan->piece[i].iov_len);
	io_return(io);
}

/* Does @loan keep something in flight on @ch? @epoch: since then; UINT32_MAX: no matter. */
static bool loan_is_on(const struct io_loan *loan, const struct channel *ch, uint32_t epoch)
{
	for (unsigned i = loan->io->depth; i < loan->depth; i++) {
		const struct io_frame *f = &loan->io->frame[i];

		if (f->ch == ch && (epoch == UINT32_MAX || f->epoch == epoch))
			return true;
	}
	return false;
}

void channel_recall(struct channel *ch, uint32_t epoch)
{
	struct io_loan *loan, *next;

	list_for_each_safe (loan, next, lent_on(ch), link) {
		if (loan_is_on(loan, ch, epoch))
			io_unlend(loan->io);
	}
}

void handle_recall(struct handle *h)
{
	channel_recall(h->ch, UINT32_MAX);
}
