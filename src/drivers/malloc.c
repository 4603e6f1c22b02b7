/* SPDX-License-Identifier: Apache-2.0 */
/*
 * malloc.c - a thin device in memory.
 *
 *   malloc:///NAME?size_mb=N|num_blocks=N[&blk_size=512|4096][&uuid=UUID][&capacity_mb=N][&resize]
 *
 * The memory, and which blocks of it were written, is sparse.c's. This file moves data in batches:
 * submit() only notes a request; the flush phase at the end of the turn copies them one after
 * another. A batch pays once for what keeps reactors apart (below): one announcement, one fence.
 *
 * What several reactors see of each other:
 *   - plain reads and writes of one block at the same time on two reactors may mix within the
 *     block, as on a page cache. Requests of one reactor are atomic to each other.
 *   - compare, and compare-and-write, are atomic to all reads, writes and compares of all reactors
 *     (not to an unmap of the same blocks). A reactor announces its batch in a word of its own;
 *     whoever has a compare-and-write claims the device and lets its own batch wait, turn by turn,
 *     until no other batch runs; a batch that finds the device claimed waits for its next turn.
 *     The common path pays one exchange on its own cache line per batch.
 *   - a read that is lent (device/loan.c) is atomic to nothing: it is read after its batch. The
 *     memory of a segment stays where it is as long as the device lives, so there is nothing to do
 *     when the loan is returned.
 *
 *   queue --flush--> claimed by another? wait a turn : copy all -> fence -> mark and complete all
 *
 * Capacity: `used` counts written blocks and what writes in flight have reserved. It is touched
 * only when a block is written for the first time, is discarded, or is reserved for under a limit,
 * so rewriting costs one look at a bit.
 *
 * A device that holds STREAM_FROM bytes or more is written past the caches (base/stream.h): they
 * would not keep what is written, and an ordinary store to a line that is nowhere near reads it
 * first. Random writes of 4 KiB cost 0.4 of a memcpy() so, and a mirror's 0.5 of as many. Smaller
 * devices are written as ever: their blocks may well be in the cache.
 *
 * Large discards run on the worker pool (lane.h): giving back gigabytes takes milliseconds.
 *
 * Rejected: an address-hashed lock (a shared write per I/O); completing inside submit (the
 * announcement and the fence for every request); copying writes inside submit and the rest as now
 * (a mirror's source would be hot for the second leg, but the engine's locked instructions between
 * the copies wait for the streamed stores: 650 instead of 470 ns for two legs); software prefetch
 * of the requests ahead (1 to 64 lines, 1 to 4 requests ahead, with and without huge pages, with
 * one leg and several: no difference to be measured, though a bare loop of copies gains a fifth).
 *
 * Thread: submit() and flush on each channel's reactor; create, resized, destroy in tasks.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/stream.h"
#include "drivers/drivers.h"
#include "drivers/identity.h"
#include "drivers/lane.h"
#include "drivers/sparse.h"

enum {
	/* Bytes of discards that one turn of the reactor pays for; more goes to the worker pool. A
	 * host may send 256 ranges in each of many commands at once. */
	SPACE_INLINE_MAX = 256 * 1024,
	/* Bytes written from which on a device does not count on the caches: more than a core's
	 * share of them is anywhere. */
	STREAM_FROM = 64 << 20,
};

struct malloc_channel;

/* Whether a reactor is in a batch now; a cache line each. */
struct batch_mark {
	_Alignas(64) atomic_bool is_running;
};

struct malloc_device {
	struct device dev;
	struct sparse sparse;
	_Atomic uint64_t capacity;          /* blocks; UINT64_MAX: no limit */
	_Alignas(64) _Atomic uint64_t used; /* blocks */
	/* The channel whose compare-and-write waits for the others, NULL: none. */
	_Alignas(64) _Atomic(struct malloc_channel *) claimed;
	struct batch_mark batch[REACTORS_MAX];
};

struct malloc_channel {
	struct channel ch;
	struct malloc_device *m;
	struct msg flush;
	struct msg_list queue; /* requests of this turn */
	bool is_queued;
	bool has_write;     /* in the queue: something that marks blocks */
	bool has_exclusive; /* in the queue: a compare or compare-and-write */
	struct lane lane;
	uint64_t space_turn_ns; /* the turn, and what its discards were so far */
	uint64_t space_bytes;
};

/* ---- capacity ----------------------------------------------------------------------------- */

static uint64_t malloc_used(const struct device *dev)
{
	return atomic_load_explicit(&container_of(dev, const struct malloc_device, dev)->used,
				    memory_order_relaxed);
}

/* Room for a write under the limit; how much was taken is in io->scratch[0]. */
static bool reserve(struct malloc_device *m, struct io *io)
{
	uint64_t capacity = atomic_load_explicit(&m->capacity, memory_order_relaxed);
	uint64_t missing;

	io->scratch[0] = 0;
	if (likely(capacity == UINT64_MAX))
		return true;
	missing = sparse_missing(&m->sparse, io->lba, io->nlb);
	if (missing == 0)
		return true;
	if (atomic_fetch_add_explicit(&m->used, missing, memory_order_relaxed) + missing >
	    capacity) {
		atomic_fetch_sub_explicit(&m->used, missing, memory_order_relaxed);
		return false;
	}
	io->scratch[0] = missing;
	return true;
}

/* After the copy of a write, and a fence: the blocks count as written. */
static void settle(struct malloc_device *m, const struct io *io)
{
	uint64_t fresh = sparse_mark(&m->sparse, io->lba, io->nlb);

	if (unlikely(fresh != io->scratch[0]))
		atomic_fetch_add_explicit(&m->used, fresh - io->scratch[0], memory_order_relaxed);
}

/* ---- operations --------------------------------------------------------------------------- */

static uint16_t malloc_read(struct malloc_device *m, struct io *io)
{
	if (unlikely(io->flags & (IO_UNWRITTEN_FAIL | IO_CURRENT_UNWRITTEN_FAIL)) &&
	    sparse_missing(&m->sparse, io->lba, io->nlb) > 0)
		return IO_UNWRITTEN;
	if (unlikely(io->flags & IO_BORROW)) {
		unsigned count = sparse_lend(&m->sparse, io, io->loan->piece);

		if (count > 0) {
			io_lend(io, count);
			return IO_OK;
		}
	}
	sparse_read(&m->sparse, io);
	return IO_OK;
}

/* Everything but settle(). @is_streamed: what is written goes past the caches. */
static uint16_t malloc_move(struct malloc_device *m, struct io *io, bool is_streamed)
{
	const struct sparse *s = &m->sparse;
	bool is_caw = io->op == IO_COMPARE_WRITE;

	if (io->op == IO_READ)
		return malloc_read(m, io);
	if ((is_caw || io->op == IO_COMPARE) && !sparse_equals(s, io))
		return IO_MISCOMPARE;
	if (io->op == IO_COMPARE)
		return IO_OK;
	if (!reserve(m, io))
		return IO_NO_SPACE;
	if (io->op == IO_WRITE_ZEROES)
		sparse_zero(s, io);
	else if (is_streamed)
		sparse_write_streamed(s, io, is_caw ? (size_t)io->nlb << s->block_shift : 0);
	else
		sparse_write(s, io, is_caw ? (size_t)io->nlb << s->block_shift : 0);
	return IO_OK;
}

static bool is_keeping_zeroes(const struct io *io)
{
	return io->op == IO_WRITE_ZEROES && io->flags & IO_NO_DEALLOCATE;
}

/* Unmap and write-zeroes, to the end. Also on a pool thread. */
static void malloc_space(struct io *io)
{
	struct malloc_device *m = container_of(io->ch->dev, struct malloc_device, dev);

	io->status = IO_OK;
	if (is_keeping_zeroes(io)) {
		io->status = malloc_move(m, io, false);
		atomic_thread_fence(memory_order_seq_cst);
		if (io->status == IO_OK)
			settle(m, io);
	} else {
		uint64_t gone = sparse_discard(&m->sparse, io->lba, io->nlb);

		atomic_fetch_sub_explicit(&m->used, gone, memory_order_relaxed);
	}
}

/* ---- the batch ---------------------------------------------------------------------------- */

static inline struct io *io_of(struct msg *msg)
{
	return container_of(msg, struct io, msg);
}

static inline struct msg *msg_after(struct msg *msg)
{
	return atomic_load_explicit(&msg->next, memory_order_relaxed);
}

/* Claim the device; true once no other reactor is in a batch. Tried again every turn. */
static bool batch_begin_exclusive(struct malloc_channel *mc)
{
	struct malloc_channel *owner = NULL;

	if (!atomic_compare_exchange_strong(&mc->m->claimed, &owner, mc) && owner != mc)
		return false;
	for (unsigned id = 0; id < reactor_count(); id++) {
		if (atomic_load(&mc->m->batch[id].is_running))
			return false;
	}
	return true;
}

static inline bool batch_begin(struct malloc_channel *mc)
{
	struct batch_mark *mark = &mc->m->batch[mc->ch.reactor->id];

	if (unlikely(mc->has_exclusive))
		return batch_begin_exclusive(mc);
	atomic_store(&mark->is_running, true);
	if (likely(atomic_load(&mc->m->claimed) == NULL))
		return true;
	atomic_store_explicit(&mark->is_running, false, memory_order_release);
	return false;
}

static inline void batch_end(struct malloc_channel *mc)
{
	if (unlikely(mc->has_exclusive))
		atomic_store(&mc->m->claimed, NULL);
	else
		atomic_store_explicit(&mc->m->batch[mc->ch.reactor->id].is_running, false,
				      memory_order_release);
}

static HOT void batch_move(struct malloc_device *m, struct msg *first)
{
	bool is_streamed = malloc_used(&m->dev) << m->sparse.block_shift >= STREAM_FROM;

	for (struct msg *msg = first; msg != NULL; msg = msg_after(msg)) {
		struct io *io = io_of(msg);

		io->status = malloc_move(m, io, is_streamed);
	}
	if (is_streamed)
		stream_end();
}

/* What was moved takes effect, and is answered from the loop. */
static HOT void batch_finish(struct malloc_channel *mc, struct msg *msg)
{
	if (mc->has_write)
		atomic_thread_fence(memory_order_seq_cst);
	while (msg != NULL) {
		struct io *io = io_of(msg);

		msg = msg_after(msg);
		if (IO_BIT(io->op) & IO_OPS_WRITING && io->status == IO_OK)
			settle(mc->m, io);
		io_complete(io, io->status);
	}
}

static HOT void malloc_flush(struct msg *msg)
{
	struct malloc_channel *mc = container_of(msg, struct malloc_channel, flush);
	struct msg *first;

	if (unlikely(!batch_begin(mc))) {
		reactor_at_flush(mc->ch.reactor, &mc->flush);
		return;
	}
	first = msg_list_take_all(&mc->queue);
	batch_move(mc->m, first);
	batch_finish(mc, first);
	batch_end(mc);
	mc->is_queued = mc->has_write = mc->has_exclusive = false;
}

static inline enum io_result malloc_queue(struct malloc_channel *mc, struct io *io)
{
	msg_list_push(&mc->queue, &io->msg);
	if (!mc->is_queued) {
		mc->is_queued = true;
		reactor_at_flush(mc->ch.reactor, &mc->flush);
	}
	return IO_PENDING;
}

static enum io_result malloc_submit_space(struct malloc_channel *mc, struct io *io)
{
	struct reactor *r = mc->ch.reactor;

	if (mc->space_turn_ns != r->now_ns) {
		mc->space_turn_ns = r->now_ns;
		mc->space_bytes = 0;
	}
	mc->space_bytes += (uint64_t)io->nlb << mc->m->sparse.block_shift;
	if (mc->space_bytes > SPACE_INLINE_MAX) {
		lane_push(&mc->lane, io);
		return IO_PENDING;
	}
	if (is_keeping_zeroes(io)) {
		mc->has_write = true;
		return malloc_queue(mc, io);
	}
	malloc_space(io);
	return IO_DONE;
}

static HOT enum io_result malloc_submit(struct channel *ch, struct io *io)
{
	struct malloc_channel *mc = container_of(ch, struct malloc_channel, ch);

	if (likely(io->op == IO_READ))
		return malloc_queue(mc, io);
	switch (io->op) {
	case IO_COMPARE:
		mc->has_exclusive = true;
		return malloc_queue(mc, io);
	case IO_COMPARE_WRITE:
		mc->has_exclusive = true;
		FALLTHROUGH;
	case IO_WRITE:
		mc->has_write = true;
		return malloc_queue(mc, io);
	case IO_UNMAP:
	case IO_WRITE_ZEROES:
		return malloc_submit_space(mc, io);
	case IO_SEEK_DATA:
	case IO_SEEK_HOLE:
		io->result = sparse_seek(&mc->m->sparse, io->lba, ch->nblocks,
					 io->op == IO_SEEK_DATA);
		FALLTHROUGH;
	default: /* flush and reset have nothing to do */
		io->status = IO_OK;
		return IO_DONE;
	}
}

/* ---- control path ------------------------------------------------------------------------- */

static void malloc_destroy(struct device *dev)
{
	struct malloc_device *m = container_of(dev, struct malloc_device, dev);

	sparse_done(&m->sparse);
	free(m);
}

static void malloc_freep(struct malloc_device **m)
{
	if (*m != NULL)
		malloc_destroy(&(*m)->dev);
}

static int malloc_parse(struct malloc_device *m, struct uri *uri, bool *is_resize, struct err *err)
{
	struct device *dev = &m->dev;
	uint64_t capacity_mb = 0;
	int result;

	result = identity_name(dev, uri, uri_name(uri), err);
	if (result == 0)
		result = identity_block_size(dev, uri, err);
	if (result == 0)
		result = driver_param_size(uri, dev->block_size, true, &dev->nblocks, err);
	if (result == 0)
		result = driver_param_uuid(uri, &dev->uuid, err);
	if (result == 0)
		result = uri_param_bool(uri, "resize", is_resize, err);
	if (result == 0)
		result = uri_param_u64(uri, "capacity_mb", 1, SPARSE_SIZE_MAX / MIB, &capacity_mb,
				       err);
	if (result == 0)
		result = uri_reject_unused(uri, err);
	if (result == 0)
		m->capacity = capacity_mb != 0 ? capacity_mb * MIB / dev->block_size : UINT64_MAX;
	return result;
}

/* resize: give an existing device the size and the limit of this URI. */
static int malloc_grow(struct device *dev, const struct malloc_device *want, struct err *err)
{
	struct malloc_device *m = container_of(dev, struct malloc_device, dev);
	uint64_t nblocks = want->dev.nblocks;
	int result = 0;

	if (want->dev.block_size != dev->block_size)
		return err_set(err, -EINVAL,
			       "'%s' has blocks of %u bytes, not %u: give blk_size=%u", dev->name,
			       dev->block_size, want->dev.block_size, dev->block_size);
	if (!uuid_is_zero(&want->dev.uuid) && !uuid_equal(&want->dev.uuid, &dev->uuid))
		return err_set(err, -EINVAL, "'%s' has another uuid", dev->name);
	if (nblocks < dev->nblocks)
		return err_set(err, -EINVAL,
			       "'%s' has %" PRIu64 " blocks and cannot shrink to %" PRIu64,
			       dev->name, dev->nblocks, nblocks);
	if (m->sparse.grown != NULL)
		return err_set(err, -EBUSY, "'%s' is being resized", dev->name);
	device_pin(dev);
	if (nblocks > dev->nblocks) {
		result = sparse_prepare(&m->sparse, nblocks, err);
		if (result == 0)
			result = device_resize(dev, nblocks, err);
		sparse_drop_grown(&m->sparse);
	}
	if (result == 0)
		atomic_store_explicit(&m->capacity, want->capacity, memory_order_relaxed);
	device_unpin(dev);
	return result;
}

static int malloc_resized(struct device *dev, uint64_t old_nblocks, struct err *err)
{
	struct malloc_device *m = container_of(dev, struct malloc_device, dev);

	(void)old_nblocks;
	if (m->sparse.grown == NULL) /* memory has to be there first: malloc_grow() */
		return err_set(err, -EOPNOTSUPP,
			       "'%s' grows by its URI only: malloc:///%s?size_mb=N&resize",
			       dev->name, dev->name);
	sparse_swap(&m->sparse);
	return 0;
}

static int malloc_create(struct uri *uri, struct device **ret_dev, struct err *err)
{
	CLEANUP(malloc_freep) struct malloc_device *m = aligned_alloc(64, sizeof(*m));
	bool is_resize = false;
	struct device *old;
	int result;

	if (m == NULL)
		return err_set(err, -ENOMEM, "no memory for a malloc device");
	memset(m, 0, sizeof(*m));
	result = malloc_parse(m, uri, &is_resize, err);
	if (result < 0)
		return result;
	old = device_lookup(m->dev.name);
	if (old != NULL && is_resize && old->driver == &driver_malloc) {
		*ret_dev = old;
		return malloc_grow(old, m, err);
	}
	m->dev.driver = &driver_malloc;
	m->dev.ops = IO_OPS_WITH_RANGE | IO_BIT(IO_FLUSH) | IO_BIT(IO_RESET) |
		     IO_BIT(IO_SEEK_DATA) | IO_BIT(IO_SEEK_HOLE);
	m->dev.buf_align = 1;
	m->dev.is_thin = m->dev.unmap_reads_zero = true;
	m->dev.stack_depth = 1;
	sparse_init(&m->sparse, m->dev.block_size);
	result = sparse_prepare(&m->sparse, m->dev.nblocks, err);
	if (result < 0)
		return result;
	sparse_swap(&m->sparse);
	result = device_register(&m->dev, err);
	if (result < 0)
		return result;
	*ret_dev = &take(m)->dev;
	return 0;
}

static int malloc_channel_open(struct channel *ch, struct err *err)
{
	struct malloc_channel *mc = container_of(ch, struct malloc_channel, ch);

	(void)err;
	mc->m = container_of(ch->dev, struct malloc_device, dev);
	mc->flush.fn = malloc_flush;
	lane_init(&mc->lane, malloc_space);
	return 0;
}

const struct driver driver_malloc = {
	.name = "malloc",
	.product = "Malloc disk",
	.schemes = (const char *const[]){ "malloc", NULL },
	.help = "malloc:///NAME?size_mb=N|num_blocks=N[&blk_size=512|4096][&uuid=UUID]"
		"[&capacity_mb=N][&resize]",
	.channel_size = sizeof(struct malloc_channel),
	.create = malloc_create,
	.destroy = malloc_destroy,
	.channel_open = malloc_channel_open,
	.submit = malloc_submit,
	.used = malloc_used,
	.resized = malloc_resized,
};
