/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io_blocked.c - requests that wait: for blocks that somebody writes, for a fork, for leave to go.
 *
 * Which blocks are being written stands in one table for all reactors (overlap.h). Who finds one
 * taken joins the channel's list `blocked`: a write before it is sent, a read after its data came.
 * Whoever gives blocks up rings those channels where somebody waits (channel.c), and there the list
 * is walked from the first to the last:
 *
 *   write   its blocks are free, and no earlier one of the list wants them --> sent
 *   read    nobody writes what it has read --> done; its leg fell meanwhile --> read again
 *   anyone  something else is in the way now (held, no fork, a segment not marked)
 *           --> gives back what it has, starts from the beginning
 *
 * Invariants
 *   1. A waiter is counted before it tries once more, and a writer looks at the count after it gave
 *      up: one of them sees the other (overlap.h). Hence blocked_count() before the walk.
 *   2. Among those who want the same blocks the order of arrival on a channel is kept, so nobody
 *      starves behind smaller ones. Between channels the table decides.
 *   3. Only the first large request of a list takes words of the table one by one and keeps them
 *      while it waits (overlap_take_all()); frame.priv has how many, for when it has to leave.
 *
 * The other lists (held, unmarked, starved) are started by whoever ends their cause.
 *
 * Thread: the channel's reactor.
 */
#include "nexus/io_internal.h"

/* ---- blocks --------------------------------------------------------------------------------- */

static void blocked_count(struct nexus_channel *nc, int by)
{
	struct nexus *nx = nc->nx;

	nc->nblocked += (uint32_t)by;
	atomic_fetch_add(&nx->bell[nc->ch.reactor->id].nblocked, (uint32_t)by);
	atomic_fetch_add(&nx->nblocked, (uint32_t)by);
}

/* Would @io jump the queue of one that has waited longer? */
static bool is_behind(const struct msg_list *list, const struct io *io)
{
	for (struct msg *m = list->head; m != NULL;
	     m = atomic_load_explicit(&m->next, memory_order_relaxed)) {
		const struct io *other = container_of(m, struct io, msg);

		if (io->nlb > OVERLAP_NLB_MAX || other->nlb > OVERLAP_NLB_MAX ||
		    (io->lba < other->lba + other->nlb && other->lba < io->lba + io->nlb))
			return true;
	}
	return false;
}

/* A request too large for a span keeps what it has got of the table; its frame knows how much. */
static void blocked_give_back(struct nexus_channel *nc, struct io *io)
{
	for (uint64_t i = 0; i < io_top(io)->priv; i++)
		atomic_store(&nc->nx->overlap->word[i], 0);
	io_top(io)->priv = 0;
}

static bool blocked_take(struct nexus_channel *nc, const struct msg_list *earlier, struct io *io)
{
	struct overlap *o = nc->nx->overlap;

	if (io->op == IO_READ)
		return overlap_is_free(o, io->lba, io->nlb);
	if (is_behind(earlier, io))
		return false;
	if (io->nlb > OVERLAP_NLB_MAX)
		return overlap_take_all(o, &io_top(io)->priv);
	return overlap_take(o, io->lba, io->nlb);
}

/* From the beginning, from the loop. */
static void read_again(struct nexus_channel *nc, struct io *io)
{
	io->msg.fn = nexus_restart;
	reactor_defer(nc->ch.reactor, &io->msg);
}

/* One who waited for blocks. True: he is on his way, or waits for something else. */
static bool blocked_try(struct nexus_channel *nc, const struct msg_list *earlier, struct io *io)
{
	if (nc->is_ended) {
		if (io->op != IO_READ)
			blocked_give_back(nc, io);
		io_complete(io, end_status(nc, IO_ABORTED));
		return true;
	}
	if (io->op != IO_READ && (nc->is_waiting || nc->free == NULL || !is_hot(nc, io))) {
		blocked_give_back(nc, io);
		io->msg.fn = nexus_restart;
		reactor_defer(nc->ch.reactor, &io->msg);
		return true;
	}
	if (!blocked_take(nc, earlier, io))
		return false;
	if (io->op == IO_READ && !(nc->believed >> note_get(io).slot & 1))
		read_again(nc, io);
	else if (io->op == IO_READ)
		io_complete(io, IO_OK);
	else if (nexus_fork_send(nc, io) == IO_DONE)
		io_complete(io, io->status);
	return true;
}

/* From the first to the last, those who can go. Also called where nobody gave up anything. */
void nexus_blocked_walk(struct nexus_channel *nc)
{
	struct msg *msg = msg_list_take_all(&nc->blocked);
	struct msg_list kept = {};

	while (msg != NULL) {
		struct msg *next = atomic_load_explicit(&msg->next, memory_order_relaxed);

		if (blocked_try(nc, &kept, container_of(msg, struct io, msg)))
			blocked_count(nc, -1);
		else
			msg_list_push(&kept, msg);
		msg = next;
	}
	nc->blocked = kept;
}

COLD enum io_result nexus_blocked_wait(struct nexus_channel *nc, struct io *io)
{
	if (io->op != IO_READ) /* which keeps its note */
		io_top(io)->priv = 0;
	atomic_fetch_add_explicit(&nc->nx->noverlaps, 1, memory_order_relaxed);
	msg_list_push(&nc->blocked, &io->msg);
	blocked_count(nc, 1); /* before looking again: see overlap.h */
	nexus_blocked_walk(nc);
	return IO_PENDING;
}

COLD enum io_result nexus_blocked_write(struct nexus_channel *nc, struct io *io)
{
	if (io->nlb <= OVERLAP_NLB_MAX && !is_behind(&nc->blocked, io) &&
	    overlap_take(nc->nx->overlap, io->lba, io->nlb))
		return nexus_fork_send(nc, io);
	return nexus_blocked_wait(nc, io);
}

/* ---- the other lists ------------------------------------------------------------------------ */

void nexus_starved_start(struct nexus_channel *nc)
{
	struct msg *msg = msg_list_pop(&nc->starved);

	if (msg == NULL)
		return;
	msg->fn = nexus_restart;
	reactor_defer(nc->ch.reactor, msg);
}

/* All of a list, in order. */
void nexus_list_start(struct nexus_channel *nc, struct msg_list *list)
{
	struct msg *msg = msg_list_take_all(list);

	while (msg != NULL) {
		struct msg *next = atomic_load_explicit(&msg->next, memory_order_relaxed);

		msg->fn = nexus_restart;
		reactor_defer(nc->ch.reactor, msg);
		msg = next;
	}
}
