/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy_move.c - the half of a copy that moves bytes: the steps of a chunk, on one reactor.
 *
 *   data of the source       READ -> WRITE -> [CHECK | READ_BACK]
 *   a hole of the source     nothing where the destination has one too (it is asked), else
 *                            CLEAR by unmap where that leaves zeroes, or PROBE -> CLEAR by zeroes
 *   zeroes, where the source knows no holes:  as a hole; within a chunk, too, if the destination is
 *                            thin: runs of zeroes and of data are taken one after the other
 *
 * So a thin destination stays thin, and stale data under a hole does not survive. Where chunks
 * begin and end, and what is a hole, is copy_feed.c's.
 *
 * With is_current_only a block that the source itself does not hold is skipped and not cleared:
 * what the destination has there from its own ancestors is right. Devices say so for a whole
 * request, so a request that is refused is halved, down to a granule.
 *
 * A source that fails is left, another reads the same chunk; by a fault of the medium, for this
 * chunk only. A source is asked whether it is good before and after a read: what a copy that has
 * just missed a write says does not count. Anything but patience that the destination asks for ends
 * the copy, and the first failure is kept.
 *
 * Invariants: a slot is free, or counted in its lane's `busy`, or late (copy_late.c). A lane comes
 * back only when nothing of it is in flight, but for what is late. After is_failed nothing is
 * started.
 *
 * Thread: the copy's reactor.
 */
#include <string.h>

#include "nexus/copy_internal.h"

enum {
	HOLE_BYTES_MIN = 4096, /* of a hole that is looked for in what was read: a page */
};

static void slot_run(struct copy_slot *slot);

/* ---- helpers -------------------------------------------------------------------------------- */

static bool is_zero(const uint8_t *buf, size_t len)
{
	return buf[0] == 0 && memcmp(buf, buf + 1, len - 1) == 0;
}

void copy_fail(struct copy *copy, uint16_t status, bool is_dst, uint8_t op, uint8_t source,
	       uint64_t lba)
{
	if (copy->status == IO_OK) {
		copy->status = status;
		copy->is_dst_failed = is_dst;
		copy->failed_op = op;
		copy->failed_source = source;
		copy->failed_lba = lba;
	}
	atomic_store(&copy->is_failed, true);
	copy_feed_later(copy);
}

/* ---- sources -------------------------------------------------------------------------------- */

static void source_check_gone(struct copy *copy, uint8_t i)
{
	struct source_state *s = &copy->source[i];

	if (!s->is_dropped || s->inflight > 0 || s->is_gone_sent)
		return;
	s->is_gone_sent = true;
	reactor_post(reactor_primary(), &s->gone);
}

void copy_source_back(struct copy *copy, uint8_t i)
{
	copy->source[i].inflight--;
	source_check_gone(copy, i);
}

void copy_source_drop_here(struct msg *msg)
{
	struct source_state *s = container_of(msg, struct source_state, drop);

	s->is_dropped = true;
	source_check_gone(s->copy, (uint8_t)(s - s->copy->source));
}

/* ---- a chunk -------------------------------------------------------------------------------- */

static void slot_free(struct copy_slot *slot)
{
	struct copy *copy = slot->copy;

	slot->step = COPY_FREE;
	slot->lane->busy--;
	slot->next = copy->free;
	copy->free = slot;
	atomic_fetch_sub_explicit(&copy->active, 1, memory_order_relaxed);
	copy_feed_later(copy);
}

static enum io_result slot_issue(struct copy_slot *slot, struct handle *h, uint64_t start,
				 enum io_op op, uint8_t *buf)
{
	struct io *io = &slot->io;

	io->op = (uint8_t)op;
	io->flags = op == IO_READ && slot->copy->opts.is_current_only ? IO_CURRENT_UNWRITTEN_FAIL
								      : 0;
	io->lba = start + slot->lba;
	io->nlb = slot->nlb;
	if (buf != NULL) {
		io_set_buf(io, buf, copy_bytes(slot->copy, slot->nlb));
	} else {
		io->iov = NULL;
		io->iovcnt = 0;
	}
	slot->sent_ns = slot->copy->reactor->now_ns;
	copy_late_watch(slot->copy);
	return io_start(h, io);
}

static enum io_result slot_read(struct copy_slot *slot)
{
	struct copy *copy = slot->copy;
	uint8_t i = copy_source_pick(copy, slot->tried);

	slot->source = i;
	if (i == COPY_SOURCES_MAX) {
		slot->io.status = IO_NO_DEVICE;
		return IO_DONE;
	}
	copy->last_source = i;
	copy->source[i].inflight++;
	return slot_issue(slot, copy->source[i].h, copy->opts.source[i].start, IO_READ, slot->buf);
}

/* Issue what the step says. */
static enum io_result slot_enter(struct copy_slot *slot, enum copy_step step)
{
	struct copy *copy = slot->copy;
	uint64_t start = copy->opts.dst_start;

	slot->step = (uint8_t)step;
	switch (step) {
	case COPY_READ:
		return slot_read(slot);
	case COPY_WRITE:
		return slot_issue(slot, copy->dst, start, IO_WRITE, slot->buf);
	case COPY_CHECK:
		return slot_issue(slot, copy->dst, start, IO_COMPARE, slot->buf);
	case COPY_READ_BACK:
		return slot_issue(slot, copy->dst, start, IO_READ, slot->back);
	case COPY_PROBE:
		return slot_issue(slot, copy->dst, start, IO_READ, slot->buf);
	case COPY_CLEAR:
		return slot_issue(slot, copy->dst, start,
				  copy->can_unmap ? IO_UNMAP : IO_WRITE_ZEROES, NULL);
	case COPY_FREE:
		break;
	}
	return IO_DONE;
}

static enum copy_step slot_verify(const struct copy_slot *slot)
{
	return slot->copy->opts.verify == COPY_VERIFY_READ ? COPY_READ_BACK : COPY_CHECK;
}

/* What was read from a source that knows no holes: all of it, or as much as is data, or zeroes. The
 * rest need not be read again where nothing else wants the buffer, as verifying and probing do. */
static enum copy_step slot_take_run(struct copy_slot *slot)
{
	struct copy *copy = slot->copy;
	size_t len = copy_bytes(copy, slot->nlb), at = len;

	if (!copy->is_dst_thin) {
		slot->is_clear = is_zero(slot->buf, len);
	} else {
		size_t granule = MAX(copy_bytes(copy, 1), (size_t)HOLE_BYTES_MIN);

		slot->is_clear = is_zero(slot->buf, MIN(granule, len));
		for (at = granule; at < len; at += granule) {
			if (is_zero(slot->buf + at, MIN(granule, len - at)) != slot->is_clear)
				break;
		}
	}
	at = MIN(at, len);
	slot->nlb = (uint32_t)(at >> copy->block_shift);
	slot->ahead = 0;
	if (copy->opts.verify == COPY_VERIFY_NONE && (copy->can_unmap || !slot->is_clear))
		slot->ahead = (uint32_t)((len - at) >> copy->block_shift);
	return slot->is_clear ? copy_clear_step(copy) : COPY_WRITE;
}

/* These blocks are done with; is there more of the chunk? */
static enum copy_step slot_advance(struct copy_slot *slot, _Atomic uint64_t *counter)
{
	struct copy *copy = slot->copy;
	uint64_t left;

	copy_count(counter, slot->nlb);
	slot->lba += slot->nlb;
	left = slot->end - slot->lba;
	if (left == 0)
		return COPY_FREE;
	if (slot->ahead > 0) {
		memmove(slot->buf, slot->buf + copy_bytes(copy, slot->nlb),
			copy_bytes(copy, slot->ahead));
		slot->nlb = slot->ahead;
		return slot_take_run(slot);
	}
	if (!copy->opts.is_current_only)
		slot->nlb = (uint32_t)left;
	else if (slot->is_grown)
		slot->nlb *= 2;
	slot->nlb = (uint32_t)MIN((uint64_t)slot->nlb, left);
	slot->is_grown = slot->is_clear = false;
	slot->tried = 0;
	return COPY_READ;
}

/* The source was read well. */
static enum copy_step slot_after_read(struct copy_slot *slot)
{
	struct copy *copy = slot->copy;

	slot->is_grown = true;
	if (copy->opts.is_current_only || copy->source[slot->source].has_seek)
		return COPY_WRITE;
	return slot_take_run(slot);
}

/* The request of the slot's step ended well: what next? COPY_FREE: nothing. */
static enum copy_step slot_next(struct copy_slot *slot)
{
	struct copy *copy = slot->copy;
	size_t len = copy_bytes(copy, slot->nlb);

	switch ((enum copy_step)slot->step) {
	case COPY_READ:
		return slot_after_read(slot);
	case COPY_PROBE:
		return is_zero(slot->buf, len) ? slot_advance(slot, &copy->same) : COPY_CLEAR;
	case COPY_CLEAR:
	case COPY_WRITE:
		if (copy->opts.verify == COPY_VERIFY_NONE)
			break;
		if (slot->step == COPY_CLEAR)
			memset(slot->buf, 0, len);
		return slot_verify(slot);
	case COPY_READ_BACK:
		if (memcmp(slot->buf, slot->back, len) == 0)
			break;
		copy_fail(copy, IO_MISCOMPARE, true, IO_COMPARE, slot->source, slot->lba);
		return COPY_FREE;
	case COPY_CHECK:
	case COPY_FREE:
		break;
	}
	return slot_advance(slot, slot->is_clear ? &copy->cleared : &copy->transferred);
}

/* ---- what goes wrong ------------------------------------------------------------------------ */

static enum copy_step again_later(struct copy_slot *slot)
{
	struct copy *copy = slot->copy;

	slot->again++;
	msg_list_push(&copy->again, &slot->io.msg);
	if (!copy->again_timer.is_armed)
		timer_arm(copy->reactor, &copy->again_timer, COPY_AGAIN_MS * 1000000ull);
	return COPY_FREE;
}

/* Not the source's own: less, or over it. */
static enum copy_step slot_unwritten(struct copy_slot *slot)
{
	struct copy *copy = slot->copy;
	uint32_t granule = MAX(copy->opts.granule_nlb, 1u);

	slot->is_grown = false;
	if (slot->nlb <= granule)
		return slot_advance(slot, &copy->same);
	slot->nlb = MAX(slot->nlb / 2, granule);
	return COPY_READ;
}

/* COPY_READ: another source has the word. COPY_FREE: the chunk is over, or put off. */
static enum copy_step slot_read_failed(struct copy_slot *slot, bool *ret_is_put_off)
{
	struct copy *copy = slot->copy;
	uint16_t status = slot->io.status;
	uint8_t i = slot->source;
	enum io_verdict verdict = io_status_verdict(status);

	if (i < COPY_SOURCES_MAX) {
		if (status == IO_UNWRITTEN && copy->opts.is_current_only)
			return slot_unwritten(slot);
		if (verdict == IO_VERDICT_RETRY && slot->again < COPY_AGAIN_MAX) {
			*ret_is_put_off = true;
			return again_later(slot);
		}
		slot->tried |= (uint8_t)(1u << i);
		copy->source[i].is_out |= verdict != IO_VERDICT_ELSEWHERE;
		/* whoever dropped it may have it back already */
		if (copy->opts.source_failed != NULL && !copy->source[i].is_dropped)
			copy->opts.source_failed(copy->opts.source[i].owner, status,
						 verdict == IO_VERDICT_ELSEWHERE, slot->lba,
						 slot->nlb);
		if (copy_source_pick(copy, slot->tried) != COPY_SOURCES_MAX)
			return COPY_READ;
	}
	copy_fail(copy, status, false, IO_READ, i, slot->lba);
	return COPY_FREE;
}

static enum copy_step slot_failed(struct copy_slot *slot, bool *ret_is_put_off)
{
	struct copy *copy = slot->copy;

	if (slot->step == COPY_READ)
		return slot_read_failed(slot, ret_is_put_off);
	if (io_status_verdict(slot->io.status) == IO_VERDICT_RETRY &&
	    slot->again < COPY_AGAIN_MAX) {
		*ret_is_put_off = true;
		return again_later(slot);
	}
	if (slot->step == COPY_PROBE && io_status_verdict(slot->io.status) == IO_VERDICT_ELSEWHERE)
		return COPY_CLEAR; /* what it says does not matter, it is written over */
	copy_fail(copy, slot->io.status, true, slot->io.op, 0, slot->lba);
	return COPY_FREE;
}

/* The request of the slot's step has ended: go on until one is pending, or the chunk is over. */
static void slot_run(struct copy_slot *slot)
{
	struct copy *copy = slot->copy;

	for (;;) {
		enum copy_step next;
		bool is_put_off = false;

		slot->sent_ns = 0;
		if (slot->step == COPY_READ && slot->source < COPY_SOURCES_MAX) {
			copy_source_back(copy, slot->source);
			if (slot->io.status == IO_OK && !copy_source_is_good(copy, slot->source))
				slot->io.status = IO_ABORTED; /* it fell meanwhile: no word of it */
		}
		next = slot->io.status == IO_OK ? slot_next(slot) : slot_failed(slot, &is_put_off);
		if (is_put_off)
			return;
		if (next == COPY_FREE || atomic_load(&copy->is_failed)) {
			slot_free(slot);
			return;
		}
		if (slot_enter(slot, next) == IO_PENDING)
			return;
	}
}

void copy_slot_done(struct io *io)
{
	struct copy_slot *slot = container_of(io, struct copy_slot, io);

	if (unlikely(slot->is_late))
		copy_late_back(slot->copy,
			       slot->step == COPY_READ ? slot->source : COPY_SOURCES_MAX);
	else
		slot_run(slot);
}

void copy_again_due(struct timer *timer)
{
	struct copy *copy = container_of(timer, struct copy, again_timer);
	struct msg *msg = msg_list_take_all(&copy->again);

	while (msg != NULL) {
		struct msg *next = atomic_load_explicit(&msg->next, memory_order_relaxed);
		struct copy_slot *slot = container_of(msg, struct copy_slot, io.msg);

		if (atomic_load(&copy->is_failed))
			slot_free(slot);
		else if (slot_enter(slot, (enum copy_step)slot->step) == IO_DONE)
			slot_run(slot);
		msg = next;
	}
}

/* ---- a chunk begins ------------------------------------------------------------------------- */

void copy_chunk_start(struct copy_lane *lane, uint64_t end, bool is_clear)
{
	struct copy *copy = lane->copy;
	struct copy_slot *slot = copy->free;

	copy->free = slot->next;
	lane->busy++;
	atomic_fetch_add_explicit(&copy->active, 1, memory_order_relaxed);
	slot->lane = lane;
	slot->lba = lane->cursor;
	slot->end = end;
	slot->nlb = (uint32_t)(end - lane->cursor);
	slot->tried = slot->again = 0;
	slot->source = 0;
	slot->ahead = 0;
	slot->is_clear = is_clear;
	slot->is_grown = false;
	lane->cursor = end;
	if (slot_enter(slot, is_clear ? copy_clear_step(copy) : COPY_READ) == IO_DONE)
		slot_run(slot);
}
