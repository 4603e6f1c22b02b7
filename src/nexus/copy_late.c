/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy_late.c - requests of a copy that a device does not answer.
 *
 *   in flight --timeout_ns--> told --LATE_GRACE--> late --the answer comes--> counted off
 *                |                   |               the last one: copy_free() goes on
 *                |                   +-> the copy fails; its lanes come back without it, their
 *                |                       ranges are unlocked
 *                +-> the child is retired, and cut off if it is remote: then the answer comes, and
 *                    another source has the word
 *
 * A disk of this machine cannot be made to answer, and a range that is locked for it holds the
 * writes of hosts. So nobody waits for it but who frees the copy: until the answer comes the
 * device may read from the buffers or write to them, and its descriptor cannot be closed.
 *
 * Is it sound to unlock? A read that is late changes no device. A write may land at any time
 * later, on top of what a host wrote there after the range was unlocked. So before that the owner
 * of the destination is told (dst_hangs()): it is out, nobody reads it or relies on it, its device
 * stays open until it has answered, and what it is then is worth nothing: everything is copied
 * again. The same as for a child that hangs under the write of a host (retire.c).
 *
 * A timer looks at the slots, some times per timeout_ns; it runs while anything is in flight.
 *
 * Thread: the copy's reactor; copy_late_wait() and what is asked at the end in tasks.
 *
 * Rejected: going on with another source (the window is lost with the one that hangs, for its
 * buffers are not ours; a new copy is a new job); a timer for each request.
 */
#include "base/units.h"
#include "nexus/copy_internal.h"

enum {
	LATE_TICKS = 8, /* per timeout_ns: how late it may be noticed */
};

#define LATE_TICK_MIN (5 * NS_PER_MS)
#define LATE_TICK_MAX (1 * NS_PER_S)
#define LATE_GRACE    (2 * NS_PER_S) /* or timeout_ns, if that is less: for a child to be cut off */

static void watch_again(struct copy *copy)
{
	uint64_t tick_ns = copy->opts.timeout_ns / LATE_TICKS;

	timer_arm(copy->reactor, &copy->late_timer, CLAMP(tick_ns, LATE_TICK_MIN, LATE_TICK_MAX));
}

void copy_late_watch(struct copy *copy)
{
	if (unlikely(!copy->late_timer.is_armed) && copy->opts.timeout_ns != 0)
		watch_again(copy);
}

/* @source: COPY_SOURCES_MAX: it is the destination. */
static void tell(struct copy *copy, uint8_t source)
{
	struct source_state *s = &copy->source[source];

	if (source == COPY_SOURCES_MAX) {
		if (!copy->is_dst_told && copy->opts.dst_hangs != NULL)
			copy->opts.dst_hangs(copy->opts.owner);
		copy->is_dst_told = true;
	} else if (!s->is_told) {
		s->is_told = true;
		reactor_post(reactor_primary(), &s->hangs);
	}
}

void copy_late_told(struct msg *msg)
{
	struct source_state *s = container_of(msg, struct source_state, hangs);
	struct copy *copy = s->copy;

	if (!s->is_gone && copy->opts.source_hangs != NULL)
		copy->opts.source_hangs(copy->opts.source[s - copy->source].owner);
}

static void give_up(struct copy *copy, uint8_t op, uint8_t source, uint64_t lba)
{
	bool is_dst = source == COPY_SOURCES_MAX;

	atomic_fetch_add(&copy->nlate, 1);
	copy->is_dst_late |= is_dst;
	copy->is_failed_late |= copy->status == IO_OK;
	copy_fail(copy, IO_TIMED_OUT, is_dst, op, is_dst ? 0 : source, lba);
}

/* How a request stands that was sent at @sent_ns. True: it is late from now on. */
static bool look(struct copy *copy, uint8_t source, uint64_t sent_ns)
{
	uint64_t timeout_ns = copy->opts.timeout_ns, age_ns = copy->reactor->now_ns - sent_ns;

	if (age_ns >= timeout_ns)
		tell(copy, source);
	return age_ns >= timeout_ns + MIN(timeout_ns, LATE_GRACE);
}

static uint8_t slot_source(const struct copy_slot *slot)
{
	return slot->step == COPY_READ ? slot->source : COPY_SOURCES_MAX;
}

static void slot_give_up(struct copy_slot *slot)
{
	struct copy *copy = slot->copy;

	slot->is_late = true;
	slot->sent_ns = 0;
	slot->lane->busy--;
	atomic_fetch_sub_explicit(&copy->active, 1, memory_order_relaxed);
	give_up(copy, slot->io.op, slot_source(slot), slot->lba);
}

static void seek_give_up(struct copy_lane *lane)
{
	lane->is_seek_late = true;
	lane->seek = LANE_SEEK_NONE;
	give_up(lane->copy, lane->seek_io.op, lane->seek_source, lane->cursor);
}

void copy_late_due(struct timer *timer)
{
	struct copy *copy = container_of(timer, struct copy, late_timer);
	bool is_any = false;

	for (unsigned i = 0; i < copy->opts.window; i++) {
		struct copy_slot *slot = &copy->slots[i];

		if (slot->sent_ns != 0 && look(copy, slot_source(slot), slot->sent_ns))
			slot_give_up(slot);
		is_any |= slot->sent_ns != 0;
	}
	for (unsigned i = 0; i < COPY_LANES; i++) {
		struct copy_lane *lane = &copy->lane[i];

		if (lane->seek != LANE_SEEK_NONE &&
		    look(copy, lane->seek_source, lane->seek_sent_ns))
			seek_give_up(lane);
		is_any |= lane->seek != LANE_SEEK_NONE;
	}
	if (is_any)
		watch_again(copy);
}

void copy_late_back(struct copy *copy, uint8_t source)
{
	if (source != COPY_SOURCES_MAX)
		copy_source_back(copy, source);
	if (atomic_fetch_sub(&copy->nlate, 1) == 1 && copy->is_late_awaited)
		reactor_post(reactor_primary(), &copy->late_msg);
}

/* ---- at the end, in a task ------------------------------------------------------------------ */

bool copy_is_late(const struct copy *copy)
{
	return atomic_load(&copy->nlate) > 0;
}

bool copy_is_dst_late(const struct copy *copy)
{
	return copy->is_dst_late;
}

static void late_arrived(struct msg *msg)
{
	task_event_fire(container_of(msg, struct copy, late_msg)->late);
}

static void await_here(void *arg)
{
	struct copy *copy = arg;

	timer_disarm(copy->reactor, &copy->late_timer);
	copy->is_late_awaited = atomic_load(&copy->nlate) > 0;
}

void copy_late_wait(struct copy *copy)
{
	struct task_event event = {};

	copy->late = &event;
	copy->late_msg.fn = late_arrived;
	task_call(copy->reactor, await_here, copy);
	if (copy->is_late_awaited)
		task_event_wait(&event);
}
