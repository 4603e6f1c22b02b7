// SPDX-License-Identifier: Apache-2.0
/*
 * watch.c - children that do not answer: slow is not dead, until it has been for child_timeout.
 *
 *   a request stays with a leg --> the watch of its channel runs (a timer, some ticks per timeout)
 *   tick: nothing in flight?                     the watch ends
 *         a write's part older than the timeout, or
 *         a leg with reads that answered nothing for as long?   its child is TimedOut, and leaves
 *
 * A write waits for every child that is in sync, so one that hangs would hold writes for ever.
 * Until the time is up only reads go elsewhere: they choose the leg with the least to do (io.c).
 *
 * Nothing is kept per request. When a part was sent stands in its frame, where the device layer has
 * put it; whether it is there still, in its depth. So a tick looks through the arena, and the data
 * path pays one test of a flag. Reads are their owners' requests, of which no list exists: for them
 * a leg counts as silent when its device has answered nothing at all since a tick. One read that
 * hangs among others that are answered is for the device to end.
 *
 * The last healthy child is not timed out. There is nobody to go on with, and a nexus that freezes
 * would help less than an answer that comes late. While a nexus is made, it is: whoever makes it
 * can be told.
 *
 * Retirement does not wait for what the child has; what hangs there is ended by force (monitor.c).
 * I/O that tasks send to a child has a timer of its own, child_io_wait().
 *
 * Rejected: a timer per request (it would be armed and disarmed millions of times a second); a list
 * of parts in order of age (two more cache lines per write).
 *
 * Thread: the channel's reactor; child_io_wait() in tasks.
 */
#include "base/log.h"
#include "base/units.h"
#include "nexus/internal.h"

enum {
	WATCH_TICKS = 8, /* per child_timeout: how late it may be noticed */
};

#define WATCH_TICK_MIN (5 * NS_PER_MS)
#define WATCH_TICK_MAX (1 * NS_PER_S)

uint64_t nexus_watch_tick_ns(const struct nexus *nx)
{
	return CLAMP(nx->child_timeout_ns / WATCH_TICKS, WATCH_TICK_MIN, WATCH_TICK_MAX);
}

void nexus_watch_start(struct nexus_channel *nc)
{
	nc->is_watching = true;
	for (uint8_t slot = 0; slot < NEXUS_CHILDREN_MAX; slot++)
		nc->leg[slot].silent_ns = 0;
	timer_arm(nc->ch.reactor, &nc->watch_timer, nexus_watch_tick_ns(nc->nx));
	nexus_health_wake(nc->nx);
}

/* Is somebody else healthy, as far as this reactor can see? */
static bool has_other(const struct nexus_channel *nc, uint8_t slot)
{
	for (uint8_t i = 0; i < nc->nreaders; i++) {
		if (nc->readers[i] != slot && child_is_healthy(nc->nx->child[nc->readers[i]]))
			return true;
	}
	return false;
}

static void leg_time_out(struct nexus_channel *nc, uint8_t slot)
{
	char text[UNITS_TEXT_MAX];

	if (!has_other(nc, slot))
		return;
	log_warn("nexus %s: child %s has not answered for %s", nc->nx->dev.name,
		 nc->nx->child[slot]->uri, duration_format(nc->nx->child_timeout_ns, text));
	nexus_leg_fail(nc, slot, NEXUS_REASON_TIMED_OUT);
}

/* Slots of writers that have kept a part for too long, 1 << slot. */
static uint8_t late_writers(const struct nexus_channel *nc, uint64_t since_ns)
{
	uint8_t late = 0;

	for (size_t at = 0; at < NEXUS_WRITES_MAX * nc->fork_size; at += nc->fork_size) {
		const struct fork *fork = (const struct fork *)(const void *)(nc->arena + at);

		for (uint8_t i = 0; i < nc->nwriters; i++) {
			const struct io *part = &fork->part[nc->writers[i]];

			if (part->depth > 0 && part->frame[0].submit_ns < since_ns)
				late |= (uint8_t)(1u << nc->writers[i]);
		}
	}
	return late;
}

/* Not what a controller says of itself (health.c): it may do so while its medium hangs. */
static uint64_t leg_answers(const struct leg *leg)
{
	const struct channel *ch = leg->h->ch;
	uint64_t n = 0;

	for (unsigned op = 0; op < IO_OP_COUNT_; op++) {
		if (op != IO_NVME_ADMIN)
			n += ch->count[op].ops + ch->stats->op[op].errors;
	}
	return n;
}

/* Has something to answer, and its device has answered nothing since @since_ns? */
static bool leg_is_silent(struct leg *leg, uint64_t now_ns, uint64_t since_ns)
{
	uint64_t n = leg_answers(leg), silent_ns = leg->silent_ns;

	if (leg->inflight == 0 || silent_ns == 0 || n != leg->nanswered) {
		leg->nanswered = n;
		leg->silent_ns = leg->inflight > 0 ? now_ns : 0;
		return false;
	}
	return silent_ns < since_ns;
}

void nexus_watch_due(struct timer *timer)
{
	struct nexus_channel *nc = container_of(timer, struct nexus_channel, watch_timer);
	uint64_t now_ns = nc->ch.reactor->now_ns, timeout_ns = nc->nx->child_timeout_ns;
	uint64_t since_ns = now_ns > timeout_ns ? now_ns - timeout_ns : 0;
	uint64_t tick_ns = nexus_watch_tick_ns(
		nc->nx); /* a read may have come just after the last */
	uint8_t late = 0;
	uint32_t sum = 0;

	for (uint8_t i = 0; i < nc->nwriters; i++) {
		struct leg *leg = &nc->leg[nc->writers[i]];

		sum += leg->inflight;
		if (leg_is_silent(leg, now_ns, since_ns - MIN(since_ns, tick_ns)))
			late |= (uint8_t)(1u << nc->writers[i]);
	}
	nc->is_watching = sum > 0;
	if (!nc->is_watching)
		return;
	late |= late_writers(nc, since_ns);
	for (uint8_t slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		if (late >> slot & 1)
			leg_time_out(nc, slot);
	}
	timer_arm(nc->ch.reactor, &nc->watch_timer, tick_ns);
	nexus_health_wake(nc->nx);
}

/* ---- tasks ---------------------------------------------------------------------------------- */

struct patience {
	struct timer timer;
	struct child *child;
};

static void patience_over(struct timer *timer)
{
	struct child *child = container_of(timer, struct patience, timer)->child;

	if (child->nx->state != NEXUS_INIT && child_is_healthy(child) &&
	    nexus_nhealthy(child->nx) == 1)
		timer_arm(reactor_primary(), timer, child->nx->child_timeout_ns);
	else
		(void)nexus_child_fail(child, CHILD_FAULTED, NEXUS_REASON_TIMED_OUT);
}

uint16_t child_io_wait(struct child *child, struct handle *h, struct io *io)
{
	struct patience patience = { .timer.fn = patience_over, .child = child };
	uint16_t status;

	timer_arm(reactor_primary(), &patience.timer, child->nx->child_timeout_ns);
	if (child->nwaits++ == 0)
		child->waiting_ns = reactor_primary()->now_ns;
	nexus_health_wake(child->nx);
	status = io_wait(h, io);
	child->nwaits--;
	child->waiting_ns = reactor_primary()->now_ns;
	timer_disarm(reactor_primary(), &patience.timer);
	return status;
}
