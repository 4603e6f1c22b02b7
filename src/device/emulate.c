// SPDX-License-Identifier: Apache-2.0
/*
 * What a driver lacks, made from what it has.
 *
 * A driver that moves blocks is enough to be a device: the rest of the vocabulary (compare, atomic
 * compare-and-write, zeroes, holes, aligned memory) is built here once, so that every device
 * answers the same questions and no driver repeats the code.
 *
 * An emulated request (the parent) is cut into parts of at most EMULATE_CHUNK bytes, one after the
 * other; a part is a request of our own that goes to the driver past gate and statistics, because
 * the parent has been through them and is counted as in flight for all of them.
 *
 *   emulate_submit / io_bounce
 *      | no context free, nor the channel's reserve: parent waits in order
 *      v
 *   step: next part --> driver --(IO_DONE)--> part_finish --> step ... --> parent is done
 *                          '----(IO_PENDING)--> part_done -----^
 *
 * Contexts are a reactor's, so those who wait for them may stand above each other: parts of an
 * upper device end in a lower one that needs contexts of its own, in one stack or, where a process
 * serves what it uses, across a connection. So each channel has one context of its own, its
 * reserve, for when the others are taken. Whatever waits, one request of each channel gets on, and
 * the lowest of them depends on nobody.
 *
 * Atomic compare-and-write takes a range lock of the whole device first, before the parent counts
 * as in flight, because the lock waits for what is in flight:
 *
 *   ASKED --primary: task, range_lock()--> GRANTED --io_reissue()--> gate, step ... --> lock_hook
 *     |                                                                                   |
 *     '--(cannot be locked)--> FAILED --------------------------------------------------->'
 *   lock_hook: on the way up, whatever the end was; the task unlocks, the parent goes on upwards,
 *   so that its owner cannot close the device under the task.
 *
 * Decisions
 *   flush    Without a volatile cache there is nothing to flush: success.
 *   reset    No driver here has a state that a reset could clear, and requests in flight complete
 *            by themselves: success at once. It does not abort anything.
 *   seek     A device that knows no holes is all data.
 *   unmap    Deallocate is advisory (NVM Command Set 1.0, 3.2.3), so pretending would be allowed,
 *            but a host is told by ONCS whether it is worth sending: unsupported.
 *
 * Invariants
 *   1. A context is on its pool's free list, or a reserve at rest, or has a parent; a parent has at
 *      most one.
 *   2. Buffers of the parent are read (write, compare) or written (read), its iovec never.
 *   3. Between GRANTED and lock_hook no other request of this process overlaps the range.
 *   4. Waiters are served in order of arrival, but for those whose channel's reserve is free; where
 *      a channel has one waiting, its reserve is at work.
 *
 * Thread: the channel's reactor; locker() and its queue on the primary.
 *
 * Rejected: parts in parallel (a bounce is a fallback: it should be right and bounded, not fast);
 * a parent's own frame for its parts (the operation it is counted as would change on the way).
 */
#include "device/emulate.h"

#include <errno.h>
#include <string.h>

#include "device/channel.h"
#include "device/fault.h"
#include "reactor/mem.h"

enum {
	ZERO_PIECES = 16, /* zero buffers in one part: 1 MiB */
	LOCKERS_MAX = 8,  /* tasks that hold ranges for compare-and-write, all devices together */
};

struct emulation {
	struct io part;
	struct emulation *next_free;
	struct channel *ch;
	struct io *parent;
	uint8_t op;      /* what is made: IO_COMPARE is made from reads ... */
	bool is_writing; /* compare-and-write: the comparison is over */
	uint64_t done;   /* blocks, of this phase */
	uint8_t *buf;    /* EMULATE_CHUNK bytes */
	struct iovec pieces[ZERO_PIECES];
};

enum lock_state {
	LOCK_ASKED,
	LOCK_GRANTED,
	LOCK_FAILED,
};

/* One compare-and-write that has or wants its range. */
struct range_holder {
	struct range_holder *next; /* free list, or those of this reactor */
	struct msg msg;            /* to the primary and back, one way at a time */
	struct list queue_link;    /* primary */
	struct channel *ch;
	struct io *io;
	unsigned depth; /* of its frame; with io the key */
	enum lock_state state;
	uint16_t status; /* of the request, if it failed */
	bool has_task;   /* who waits for `released` */
	uint64_t lba;
	uint32_t nlb;
	enum io_result (*hook)(struct io *io); /* the frame's own */
	struct range_lock lock;
	struct task_event released;
};

/* One reactor's. */
struct emulate_pool {
	unsigned refs;              /* channels; primary */
	struct emulation *contexts; /* owned, EMULATE_MAX */
	struct emulation *free;
	struct msg_list waiting;      /* parents */
	uint8_t *bufs;                /* owned */
	struct range_holder *holders; /* owned, EMULATE_MAX */
	struct range_holder *holder_free;
	struct range_holder *holder_used;
	struct msg_list lock_waiting; /* parents that found no holder */
};

static struct emulate_pool pools[REACTORS_MAX];

/* Never written: the source of all zeroes. */
static _Alignas(DMA_ALIGN) uint8_t zeroes[EMULATE_CHUNK];

static struct emulate_pool *pool_of(const struct channel *ch)
{
	return &pools[ch->reactor->id];
}

uint32_t emulated_ops(const struct device *dev)
{
	uint32_t ops = IO_BIT(IO_RESET);

	if (!dev->has_write_cache)
		ops |= IO_BIT(IO_FLUSH);
	if (dev->ops & IO_BIT(IO_READ))
		ops |= IO_BIT(IO_SEEK_DATA) | IO_BIT(IO_SEEK_HOLE);
	if (dev->ops & IO_BIT(IO_READ) && !dev->is_void)
		ops |= IO_BIT(IO_COMPARE) | IO_BIT(IO_COMPARE_WRITE);
	if (dev->ops & IO_BIT(IO_WRITE))
		ops |= IO_BIT(IO_WRITE_ZEROES);
	if (!(dev->ops & IO_BIT(IO_WRITE)) || dev->is_read_only)
		ops &= ~(uint32_t)IO_OPS_WRITING;
	return ops & ~dev->ops;
}

/* ---- contexts ----------------------------------------------------------------------------- */

static void pool_free(struct emulate_pool *pool)
{
	free(pool->contexts);
	free(pool->holders);
	if (pool->bufs != NULL)
		dma_free(pool->bufs, (size_t)EMULATE_MAX * EMULATE_CHUNK);
	*pool = (struct emulate_pool){};
}

static int pool_make(struct emulate_pool *pool)
{
	pool->contexts = calloc(EMULATE_MAX, sizeof(*pool->contexts));
	pool->holders = calloc(EMULATE_MAX, sizeof(*pool->holders));
	pool->bufs = dma_alloc((size_t)EMULATE_MAX * EMULATE_CHUNK);
	if (pool->contexts == NULL || pool->holders == NULL || pool->bufs == NULL) {
		pool_free(pool);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < EMULATE_MAX; i++) {
		pool->contexts[i].buf = pool->bufs + (size_t)i * EMULATE_CHUNK;
		pool->contexts[i].next_free = pool->free;
		pool->free = &pool->contexts[i];
		pool->holders[i].next = pool->holder_free;
		pool->holder_free = &pool->holders[i];
	}
	return 0;
}

static void reserve_free(struct channel *ch)
{
	if (ch->reserve == NULL)
		return;
	if (ch->reserve->buf != NULL)
		dma_free(ch->reserve->buf, EMULATE_CHUNK);
	free(take(ch->reserve));
}

static int reserve_make(struct channel *ch)
{
	ch->reserve = calloc(1, sizeof(*ch->reserve));
	if (ch->reserve == NULL)
		return -ENOMEM;
	ch->reserve->buf = dma_alloc(EMULATE_CHUNK);
	return ch->reserve->buf != NULL ? 0 : -ENOMEM;
}

/* Does this device ever need a context? */
static bool needs_pool(const struct device *dev)
{
	return dev->buf_align > 1 || dev->max_io_nlb != 0 ||
	       emulated_ops(dev) &
		       (IO_BIT(IO_COMPARE) | IO_BIT(IO_WRITE_ZEROES) | IO_BIT(IO_COMPARE_WRITE));
}

int emulate_open(struct channel *ch, struct err *err)
{
	struct emulate_pool *pool = pool_of(ch);

	if (!needs_pool(ch->dev))
		return 0;
	if (reserve_make(ch) < 0 || (pool->refs == 0 && pool_make(pool) < 0)) {
		reserve_free(ch);
		return err_set_sys(err, -ENOMEM, "%s: buffers for emulated operations",
				   ch->dev->name);
	}
	pool->refs++;
	return 0;
}

void emulate_close(struct channel *ch)
{
	struct emulate_pool *pool = pool_of(ch);

	reserve_free(ch);
	if (needs_pool(ch->dev) && --pool->refs == 0)
		pool_free(pool);
}

static enum io_result start(struct channel *ch, struct io *io);

static void start_again(struct msg *msg)
{
	struct io *io = container_of(msg, struct io, msg);

	if (start(io_top(io)->ch, io) == IO_DONE)
		io_complete(io, io->status);
}

/* Take the first that waits for @ch out of line; NULL: there is none. */
static struct msg *waiting_of(struct emulate_pool *pool, const struct channel *ch)
{
	struct msg_list list = pool->waiting;
	struct msg *msg, *found = NULL;

	pool->waiting = (struct msg_list){};
	while ((msg = msg_list_pop(&list)) != NULL) {
		if (found == NULL && io_top(container_of(msg, struct io, msg))->ch == ch)
			found = msg;
		else
			msg_list_push(&pool->waiting, msg);
	}
	return found;
}

/* The parent is finished; the next one in line starts from the loop. */
static enum io_result finish(struct emulation *em, uint16_t status)
{
	struct emulate_pool *pool = pool_of(em->ch);
	struct msg *msg;

	em->parent->status = status;
	em->parent = NULL;
	if (em == em->ch->reserve) {
		msg = waiting_of(pool, em->ch);
	} else {
		em->next_free = pool->free;
		pool->free = em;
		msg = msg_list_pop(&pool->waiting);
	}
	if (msg != NULL) {
		msg->fn = start_again;
		reactor_defer(em->ch->reactor, msg);
	}
	return IO_DONE;
}

/* ---- parts -------------------------------------------------------------------------------- */

static size_t blocks_to_bytes(const struct emulation *em, uint64_t nlb)
{
	return (size_t)(nlb << em->ch->block_shift);
}

/* Blocks of the next part, of at most @bytes. */
static uint32_t part_nlb(const struct emulation *em, size_t bytes)
{
	uint64_t nlb = em->parent->nlb - em->done;
	uint32_t max = em->ch->dev->max_io_nlb;

	nlb = MIN(nlb, (uint64_t)bytes >> em->ch->block_shift);
	return (uint32_t)(max > 0 ? MIN(nlb, (uint64_t)max) : nlb);
}

static void part_zeroes(struct emulation *em)
{
	size_t left = blocks_to_bytes(em, em->part.nlb);
	uint16_t n = 0;

	for (; left > 0; n++) {
		size_t len = MIN(left, sizeof(zeroes));

		em->pieces[n] = (struct iovec){ .iov_base = zeroes, .iov_len = len };
		left -= len;
	}
	em->part.iov = em->pieces;
	em->part.iovcnt = n;
}

static void part_done(struct io *part);

/* What the driver is asked to do next. */
static void part_prepare(struct emulation *em)
{
	struct io *parent = em->parent, *part = &em->part;
	bool is_zeroes = em->op == IO_WRITE_ZEROES;
	bool is_write = is_zeroes || em->op == IO_WRITE || em->is_writing;
	size_t off = blocks_to_bytes(em, em->done + (em->is_writing ? parent->nlb : 0));

	memset(part, 0, offsetof(struct io, frame));
	part->op = is_write ? IO_WRITE : IO_READ;
	part->flags = parent->flags & (is_write ? IO_FUA : ~(IO_FUA | IO_BORROW));
	part->lba = parent->lba + em->done;
	part->nlb = part_nlb(em, is_zeroes ? (size_t)ZERO_PIECES * EMULATE_CHUNK : EMULATE_CHUNK);
	part->done = part_done;
	if (is_zeroes) {
		part_zeroes(em);
		return;
	}
	io_set_buf(part, em->buf, blocks_to_bytes(em, part->nlb));
	if (is_write)
		(void)iov_to_buf(parent->iov, parent->iovcnt, off, em->buf, part->one.iov_len);
}

/* The driver did a part. Returns how the parent stands. */
static uint16_t part_finish(struct emulation *em)
{
	struct io *parent = em->parent, *part = &em->part;
	size_t off = blocks_to_bytes(em, em->done), len = part->one.iov_len;

	/* half done, perhaps: not to be tried elsewhere, where it would meet itself */
	if (part->status == IO_ENDED && em->op == IO_COMPARE_WRITE && em->is_writing)
		return IO_ABORTED;
	if (part->status != IO_OK)
		return part->status;
	if (em->op == IO_READ)
		(void)iov_from_buf(parent->iov, parent->iovcnt, off, em->buf, len);
	if (part->op == IO_READ && em->op != IO_READ &&
	    iov_compare(parent->iov, parent->iovcnt, off, em->buf, len) != len)
		return IO_MISCOMPARE;
	em->done += part->nlb;
	if (em->done == parent->nlb && em->op == IO_COMPARE_WRITE && !em->is_writing) {
		em->is_writing = true;
		em->done = 0;
	}
	return IO_OK;
}

/* Part after part until one is pending or the parent is done. */
static enum io_result step(struct emulation *em)
{
	while (em->done < em->parent->nlb) {
		uint16_t status;

		part_prepare(em);
		if (io_issue_part(em->ch, &em->part) == IO_PENDING)
			return IO_PENDING;
		status = part_finish(em);
		if (status != IO_OK)
			return finish(em, status);
	}
	return finish(em, IO_OK);
}

static void part_done(struct io *part)
{
	struct emulation *em = container_of(part, struct emulation, part);
	struct io *parent = em->parent;
	uint16_t status = part_finish(em);
	enum io_result result = status == IO_OK ? step(em) : finish(em, status);

	if (result == IO_DONE)
		io_complete(parent, parent->status);
}

static enum io_result start(struct channel *ch, struct io *io)
{
	struct emulate_pool *pool = pool_of(ch);
	struct emulation *em = pool->free;

	if (em != NULL) {
		pool->free = em->next_free;
	} else if (ch->reserve->parent == NULL) {
		em = ch->reserve;
	} else {
		msg_list_push(&pool->waiting, &io->msg);
		return IO_PENDING;
	}
	em->ch = ch;
	em->parent = io;
	em->op = io->op;
	em->is_writing = false;
	em->done = 0;
	return step(em);
}

enum io_result emulate_submit(struct channel *ch, struct io *io)
{
	io->status = IO_OK;
	switch ((enum io_op)io->op) {
	case IO_FLUSH:
	case IO_RESET:
		return IO_DONE;
	case IO_SEEK_DATA:
		io->result = io->lba;
		return IO_DONE;
	case IO_SEEK_HOLE:
		io->result = ch->nblocks;
		return IO_DONE;
	case IO_COMPARE:
	case IO_COMPARE_WRITE:
	case IO_WRITE_ZEROES:
		return start(ch, io);
	default:
		io->status = IO_UNSUPPORTED;
		return IO_DONE;
	}
}

enum io_result io_bounce(struct channel *ch, struct io *io)
{
	io->status = IO_OK;
	if (io->op != IO_READ && io->op != IO_WRITE && io->op != IO_COMPARE) {
		/* One command or none: compare-and-write cannot be cut into parts here. */
		io->status = IO_INVALID;
		return IO_DONE;
	}
	return start(ch, io);
}

/* ---- compare-and-write: the range ----------------------------------------------------------- */

static struct list lock_queue; /* range_holder.queue_link; primary */
static unsigned nlockers;      /* tasks that run locker(); primary */

static struct range_holder *holder_find(const struct channel *ch, const struct io *io,
					unsigned depth)
{
	struct range_holder *holder = pool_of(ch)->holder_used;

	while (holder != NULL && (holder->io != io || holder->depth != depth))
		holder = holder->next;
	return holder;
}

static void reissue_again(struct msg *msg)
{
	io_reissue(container_of(msg, struct io, msg));
}

/* Free again. All who wait for a holder ask again, in order: the gate may refuse some of them
 * meanwhile, so waking one would not be enough. */
static void holder_put(struct range_holder *holder)
{
	struct emulate_pool *pool = pool_of(holder->ch);
	struct msg *waiter = msg_list_take_all(&pool->lock_waiting);

	holder->next = pool->holder_free;
	pool->holder_free = holder;
	while (waiter != NULL) {
		struct msg *next = atomic_load_explicit(&waiter->next, memory_order_relaxed);

		waiter->fn = reissue_again;
		reactor_defer(holder->ch->reactor, waiter);
		waiter = next;
	}
}

/* The range is unlocked: the parent may go on upwards. */
static void holder_back(struct msg *msg)
{
	struct range_holder *holder = container_of(msg, struct range_holder, msg);
	struct io *io = holder->io;

	holder_put(holder);
	io_unwind_after(io);
}

static void holder_released(struct msg *msg)
{
	task_event_fire(&container_of(msg, struct range_holder, msg)->released);
}

/* The parent's frame is finished: give the range back, then go on. */
static enum io_result lock_hook(struct io *io)
{
	struct io_frame *f = &io->frame[io->depth];
	struct range_holder *holder = holder_find(f->ch, io, io->depth + 1u);
	struct range_holder **link = &pool_of(f->ch)->holder_used;

	while (*link != holder)
		link = &(*link)->next;
	*link = holder->next;
	io->flags &= (uint16_t)~IO_LOCK_HOLDER;
	f->hook = holder->hook;
	if (holder->has_task) {
		holder->msg.fn = holder_released;
		reactor_post(reactor_primary(), &holder->msg);
		return IO_PENDING;
	}
	holder_put(holder);
	return f->hook == NULL ? IO_DONE : f->hook(io);
}

static void holder_granted(struct msg *msg)
{
	struct range_holder *holder = container_of(msg, struct range_holder, msg);
	struct io *io = holder->io;

	if (holder->state == LOCK_GRANTED) {
		io->flags |= IO_LOCK_HOLDER;
		io_reissue(io);
		return;
	}
	holder->ch->stats->op[io->op].errors++;
	io_top(io)->epoch = IO_EPOCH_NONE; /* it was never in flight */
	io_complete(io, holder->status);
}

/* A task: lock for one, wait until it is through, take the next. */
static void locker(void *arg)
{
	struct range_holder *holder;

	(void)arg;
	while ((holder = list_first_entry(&lock_queue, struct range_holder, queue_link)) != NULL) {
		struct device *dev = holder->ch->dev;
		struct reactor *r = holder->ch->reactor;
		struct err err = {};

		list_del(&holder->queue_link);
		holder->has_task = true;
		holder->state = range_lock(dev, &holder->lock, holder->lba, holder->nlb, &err) < 0
					? LOCK_FAILED
					: LOCK_GRANTED;
		holder->status = IO_OUT_OF_RANGE; /* the device shrank: all a lock can fail of */
		holder->msg.fn = holder_granted;
		reactor_post(r, &holder->msg);
		task_event_wait(&holder->released);
		if (holder->state == LOCK_GRANTED)
			range_unlock(dev, &holder->lock);
		holder->msg.fn = holder_back;
		reactor_post(r, &holder->msg);
	}
	nlockers--;
}

static void holder_asks(struct msg *msg)
{
	struct range_holder *holder = container_of(msg, struct range_holder, msg);

	if (lock_queue.next == NULL)
		list_init(&lock_queue);
	list_add_tail(&lock_queue, &holder->queue_link);
	if (nlockers == LOCKERS_MAX)
		return;
	nlockers++;
	if (task_spawn("compare-and-write", locker, NULL) == 0)
		return;
	if (--nlockers > 0)
		return; /* those that run will come to it */
	list_del(&holder->queue_link);
	holder->state = LOCK_FAILED; /* no memory for a stack */
	holder->status = IO_NOT_READY;
	holder->msg.fn = holder_granted;
	reactor_post(holder->ch->reactor, &holder->msg);
}

bool emulate_holds_lock(struct channel *ch, const struct io *io)
{
	return io->op == IO_COMPARE_WRITE && holder_find(ch, io, io->depth) != NULL;
}

bool emulate_lock(struct channel *ch, struct io *io)
{
	struct emulate_pool *pool = pool_of(ch);
	struct io_frame *f = io_top(io);
	struct range_holder *holder;

	if (io->op != IO_COMPARE_WRITE || emulate_holds_lock(ch, io) ||
	    (io->flags & IO_LOCK_HOLDER && io->depth == 1))
		return true;
	holder = pool->holder_free;
	if (holder == NULL) {
		msg_list_push(&pool->lock_waiting, &io->msg);
		return false;
	}
	pool->holder_free = holder->next;
	*holder = (struct range_holder){
		.next = pool->holder_used,
		.ch = ch,
		.io = io,
		.depth = io->depth,
		.lba = io->lba,
		.nlb = io->nlb,
		.hook = f->hook,
	};
	pool->holder_used = holder;
	f->hook = lock_hook;
	holder->msg.fn = holder_asks;
	reactor_post(reactor_primary(), &holder->msg);
	return false;
}
