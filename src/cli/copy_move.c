/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy_move.c - the machine that moves bytes from one device to another, or compares them: a window
 * of chunks, each going through its states on its own.
 *
 *	copy data    READ_SRC -> [READ_DST: keep the rest of a partly covered last block] -> WRITE
 *	copy zeroes  ZERO                       (also for a chunk that was read and is all zero)
 *	compare      READ_SRC -> READ_DST -> look
 *	nothing      (holes on both sides) is only counted
 *
 * Chunks are taken in order of their place and end in any order. The *position* is below every
 * chunk in flight and what was not yet taken: everything in front of it is done. That is what the
 * journal records, after a flush.
 *
 * The first failure stops the machine: chunks in flight end, no new one starts. A difference does
 * not stop a comparison; the first is remembered, all are counted by chunks.
 *
 * Zeroes are written with the cheapest operation that leaves zeroes and may free the space: unmap
 * where the device promises zeroes afterwards, else write-zeroes (which the device layer makes from
 * plain writes where a driver has none).
 *
 * Devices that answer inside submit would keep the loop here for the whole copy, so feeding is
 * bounded (FEED_MAX chunks) and goes on in the reactor's next turn.
 *
 * Invariants: a slot is on the free list or counted in `busy`. fed is a multiple of the unit, or
 * the end.
 *
 * Thread: the primary reactor; the task that waits is resumed by the machine or its own timer.
 */
#include <errno.h>
#include <string.h>

#include "cli/copy.h"
#include "reactor/mem.h"

enum {
	FEED_MAX = 16,         /* chunks started in one turn */
	ZERO_CHUNK = 64 << 20, /* bytes zeroed with one request */
};

static void slot_step(struct move_slot *s);

/* ---- the window ------------------------------------------------------------------------------ */

bool move_is_over(const struct move *m)
{
	if (m->busy > 0 || m->is_feed_queued)
		return false;
	if (m->extents.is_busy)
		return false;
	return m->is_stopping || m->fed >= m->opts.to;
}

uint64_t move_position(const struct move *m)
{
	uint64_t least = m->fed;

	for (unsigned i = 0; i < m->opts.qd; i++) {
		if (m->slots[i].state != MOVE_FREE)
			least = MIN(least, m->slots[i].off);
	}
	return least;
}

static void move_tell(struct move *m)
{
	struct task *task = take(m->waiter);

	if (task != NULL)
		task_resume(task);
}

static void move_feed_later(struct move *m)
{
	if (m->is_feed_queued)
		return;
	m->is_feed_queued = true;
	reactor_defer(reactor_primary(), &m->feed);
}

static void slot_free(struct move_slot *s)
{
	struct move *m = s->move;

	s->state = MOVE_FREE;
	s->next = m->free;
	m->free = s;
	m->busy--;
	move_feed_later(m);
}

static void slot_fail(struct move_slot *s, bool is_dst)
{
	struct move *m = s->move;

	if (m->status == IO_OK) {
		m->status = s->io.status;
		m->failed_op = s->io.op;
		m->failed_dst = is_dst;
		m->failed_off = s->off;
		m->failed_len = s->len;
	}
	m->fed = MIN(m->fed, s->off); /* the position may not pass it */
	m->is_stopping = true;
	slot_free(s);
}

/* ---- one chunk ------------------------------------------------------------------------------- */

static bool is_zero(const uint8_t *buf, uint64_t len)
{
	return buf[0] == 0 && memcmp(buf, buf + 1, len - 1) == 0;
}

/* Bytes that the destination's blocks under this chunk have. */
static uint64_t len_in_dst_blocks(const struct move_slot *s)
{
	return ALIGN_UP(s->len, (uint64_t)s->move->opts.dst->dev->block_size);
}

static enum io_result slot_issue(struct move_slot *s, struct opened *side, enum io_op op,
				 uint8_t *buf, uint64_t len)
{
	unsigned shift = side->dev->block_shift;

	s->io.op = (uint8_t)op;
	s->io.flags = 0;
	s->io.lba = s->off >> shift;
	s->io.nlb = (uint32_t)(len >> shift);
	if (buf != NULL) {
		io_set_buf(&s->io, buf, len);
	} else {
		s->io.iov = NULL;
		s->io.iovcnt = 0;
	}
	return io_start(side->handle[0], &s->io);
}

static enum io_result slot_issue_zero(struct move_slot *s)
{
	struct opened *dst = s->move->opts.dst;
	bool can_unmap = dst->dev->unmap_reads_zero && (dst->dev->ops & IO_BIT(IO_UNMAP));

	return slot_issue(s, dst, can_unmap ? IO_UNMAP : IO_WRITE_ZEROES, NULL, s->len);
}

/* Issue what the state says. */
static enum io_result slot_enter(struct move_slot *s, enum move_state state)
{
	struct move *m = s->move;

	s->state = (uint8_t)state;
	switch (state) {
	case MOVE_READ_SRC:
		return slot_issue(s, m->opts.src, IO_READ, s->src_buf, s->len);
	case MOVE_READ_DST:
		return slot_issue(s, m->opts.dst, IO_READ, s->dst_buf, len_in_dst_blocks(s));
	case MOVE_WRITE:
		return slot_issue(s, m->opts.dst, IO_WRITE, s->src_buf, len_in_dst_blocks(s));
	case MOVE_ZERO:
		return slot_issue_zero(s);
	case MOVE_FREE:
		break;
	}
	return IO_DONE;
}

static void slot_compare(struct move_slot *s)
{
	struct move *m = s->move;
	uint64_t i = 0;

	m->moved_bytes += s->len;
	if (memcmp(s->src_buf, s->dst_buf, s->len) == 0)
		return;
	while (s->src_buf[i] == s->dst_buf[i])
		i++;
	if (m->differing_chunks++ == 0 || s->off + i < m->first_difference)
		m->first_difference = s->off + i;
}

/* What follows after the source was read. */
static enum move_state slot_after_read(struct move_slot *s)
{
	if (s->move->opts.is_compare || len_in_dst_blocks(s) != s->len)
		return MOVE_READ_DST;
	return is_zero(s->src_buf, s->len) ? MOVE_ZERO : MOVE_WRITE;
}

/* The request of the slot's state has ended: go on until one is pending or the chunk is done. */
static void slot_step(struct move_slot *s)
{
	struct move *m = s->move;

	for (;;) {
		enum move_state next = MOVE_FREE;

		if (s->io.status != IO_OK) {
			slot_fail(s, s->state != MOVE_READ_SRC);
			return;
		}
		switch ((enum move_state)s->state) {
		case MOVE_READ_SRC:
			next = slot_after_read(s);
			break;
		case MOVE_READ_DST:
			if (m->opts.is_compare) {
				slot_compare(s);
				break;
			}
			memcpy(s->src_buf + s->len, s->dst_buf + s->len,
			       len_in_dst_blocks(s) - s->len);
			next = MOVE_WRITE;
			break;
		case MOVE_WRITE:
			m->moved_bytes += s->len;
			break;
		case MOVE_ZERO:
			m->zeroed_bytes += s->len;
			break;
		case MOVE_FREE:
			break;
		}
		if (next == MOVE_FREE) {
			slot_free(s);
			return;
		}
		if (slot_enter(s, next) == IO_PENDING)
			return;
	}
}

static void slot_io_done(struct io *io)
{
	slot_step(container_of(io, struct move_slot, io));
}

static void slot_begin(struct move *m, enum extent_kind kind, uint64_t off, uint64_t len)
{
	struct move_slot *s = m->free;

	m->free = s->next;
	m->busy++;
	s->off = off;
	s->len = len;
	if (slot_enter(s, kind == EXTENT_ZERO ? MOVE_ZERO : MOVE_READ_SRC) == IO_DONE)
		slot_step(s);
}

/* ---- feeding --------------------------------------------------------------------------------- */

/* Take the next piece of the first extent. False: nothing is known yet, or no slot is free. */
static bool move_feed_one(struct move *m)
{
	struct extent *e = extents_first(&m->extents);
	uint64_t len, off, limit;
	enum extent_kind kind;

	if (e == NULL || (e->kind != EXTENT_SAME && m->free == NULL))
		return false;
	kind = e->kind;
	off = e->from;
	limit = m->opts.chunk;
	if (kind != EXTENT_DATA)
		limit = kind == EXTENT_ZERO ? ZERO_CHUNK : UINT64_MAX;
	len = MIN(e->to - off, limit);
	e->from += len;
	m->fed = e->from;
	if (e->from == e->to)
		extents_pop(&m->extents);
	if (kind == EXTENT_DATA)
		m->taken_bytes += len;
	if (kind == EXTENT_SAME)
		m->same_bytes += len;
	else
		slot_begin(m, kind, off, len);
	return true;
}

/* With a rate: may the next chunk be taken? If not, the timer asks again when it may. */
static bool move_may_take(struct move *m)
{
	struct reactor *r = reactor_primary();
	double due_ns;

	if (m->opts.rate == 0)
		return true;
	due_ns = (double)m->taken_bytes * 1e9 / (double)m->opts.rate;
	if ((double)(r->now_ns - m->started_ns) >= due_ns)
		return true;
	timer_arm(r, &m->pace, (uint64_t)due_ns - (r->now_ns - m->started_ns) + 1);
	return false;
}

static void move_feed(struct msg *msg)
{
	struct move *m = container_of(msg, struct move, feed);
	unsigned budget = FEED_MAX;

	m->is_feed_queued = false;
	while (!m->is_stopping && budget > 0 && move_may_take(m) && move_feed_one(m))
		budget--;
	if (budget == 0)
		move_feed_later(m);
	if (move_is_over(m))
		move_tell(m);
}

static void move_paced(struct timer *timer)
{
	move_feed_later(container_of(timer, struct move, pace));
}

static void move_extents_ready(struct extents *x)
{
	move_feed_later(container_of(x, struct move, extents));
}

/* ---- life ------------------------------------------------------------------------------------ */

int move_init(struct move *m, const struct move_opts *opts, struct err *err)
{
	uint64_t chunk = opts->chunk;

	*m = (struct move){ .opts = *opts, .fed = opts->from };
	m->slots = calloc(opts->qd, sizeof(*m->slots));
	m->bufs = dma_alloc(2 * chunk * opts->qd);
	if (m->slots == NULL || m->bufs == NULL)
		return err_set(err, -ENOMEM,
			       "no memory for %u chunks of %llu bytes; use a smaller --qd or --bs",
			       opts->qd, (unsigned long long)chunk);
	for (unsigned i = opts->qd; i-- > 0;) {
		struct move_slot *s = &m->slots[i];

		s->move = m;
		s->io.done = slot_io_done;
		s->src_buf = m->bufs + 2 * chunk * i;
		s->dst_buf = s->src_buf + chunk;
		s->next = m->free;
		m->free = s;
	}
	m->feed.fn = move_feed;
	m->pace.fn = move_paced;
	m->extents = (struct extents){
		.src = opts->src,
		.dst = opts->dst,
		.is_compare = opts->is_compare,
		.pos = opts->from,
		.to = opts->to,
		.unit = opts->unit,
		.size = opts->size,
		.ready = move_extents_ready,
	};
	return 0;
}

void move_done(struct move *m)
{
	timer_disarm(reactor_primary(), &m->pace);
	if (m->bufs != NULL)
		dma_free(m->bufs, 2 * m->opts.chunk * m->opts.qd);
	free(m->slots);
	m->bufs = NULL;
	m->slots = NULL;
}

void move_start(struct move *m)
{
	m->started_ns = reactor_clock(reactor_primary());
	extents_start(&m->extents);
	move_feed_later(m);
}

struct move_tick {
	struct timer timer;
	struct move *move;
};

static void move_ticked(struct timer *timer)
{
	move_tell(container_of(timer, struct move_tick, timer)->move);
}

void move_wait(struct move *m, uint64_t timeout_ns)
{
	struct move_tick tick = { .timer.fn = move_ticked, .move = m };
	struct reactor *r = reactor_primary();

	if (move_is_over(m))
		return;
	m->waiter = task_self();
	timer_arm(r, &tick.timer, timeout_ns);
	while (m->waiter != NULL)
		task_suspend();
	timer_disarm(r, &tick.timer);
}

int move_error(const struct move *m, struct err *err)
{
	const struct opened *side = m->failed_dst ? m->opts.dst : m->opts.src;
	int rc = io_status_to_errno(m->status);

	if (m->status == IO_OK)
		return 0;
	return err_set(err, rc != 0 ? rc : -EIO, "%s: %s of %llu bytes at byte %llu failed: %s",
		       side->uri, io_op_name(m->failed_op), (unsigned long long)m->failed_len,
		       (unsigned long long)m->failed_off, io_status_name(m->status));
}
