/* SPDX-License-Identifier: Apache-2.0 */
/*
 * monitor.c - closes the devices of children that are out, where nothing of them is running.
 *
 * A child falls in the middle of a completion of its own device, or in an event of it. Closing a
 * device there would pull the ground from under whoever called. So it is closed later, by a task,
 * once no channel uses its leg and the last request is back from it (channels ring then).
 *
 *   is_leaving --> rebuilds are told --(in flight 0 on every channel, nobody of ours uses desc)-->
 *   desc closed, device removed --> !is_leaving, whoever waited goes on
 *
 * What does not come back by itself is fetched. A child that timed out, or whose controller was
 * given up, is cut off at once (device_abort()); any other after LEAVE_GRACE, in which an ordinary
 * request has ended. Then connections end, and with them all that hung there, so nothing waits for
 * a child that is out. A device that cannot even do that keeps its child in "closing" for as long;
 * it costs the requests that are on it and nothing else.
 *
 * Thread: tasks on the primary.
 */
#include "base/log.h"
#include "base/units.h"
#include "nexus/internal.h"

#define LEAVE_GRACE (1 * NS_PER_S)

struct gone_waiter {
	struct list link;
	struct task_event event;
};

static void gone_tell(struct nexus *nx)
{
	struct gone_waiter *waiter;

	while ((waiter = list_first_entry(&nx->gone_waiters, struct gone_waiter, link)) != NULL) {
		list_del(&waiter->link);
		task_event_fire(&waiter->event);
	}
}

void child_wait_closed(struct child *child)
{
	while (child->is_leaving) {
		struct gone_waiter waiter = {};

		list_add_tail(&child->nx->gone_waiters, &waiter.link);
		task_event_wait(&waiter.event);
	}
}

struct desc *child_use(struct child *child)
{
	if (child->desc == NULL || child->is_leaving)
		return NULL;
	child->users++;
	return child->desc;
}

void child_unuse(struct child *child)
{
	if (--child->users == 0 && child->is_leaving)
		nexus_gone_ring(child->nx);
}

void nexus_monitor_due(struct timer *timer)
{
	nexus_gone_ring(container_of(timer, struct nexus, monitor_timer));
}

/* Requests are still on @child: cut it off if it is time, or look again when it is. */
static void child_cut(struct child *child) MAY_SUSPEND
{
	enum nexus_reason reason = child_reason_of(atomic_load(&child->word));
	bool is_dead = reason == NEXUS_REASON_TIMED_OUT || reason == NEXUS_REASON_ADMIN_FAILED;
	struct reactor *r = reactor_primary();
	struct nexus *nx = child->nx;

	if (child->is_cut || child->desc == NULL)
		return;
	if (child->leaving_ns == 0)
		child->leaving_ns = r->now_ns;
	if (!is_dead && r->now_ns < child->leaving_ns + LEAVE_GRACE) {
		if (!nx->monitor_timer.is_armed)
			timer_arm(r, &nx->monitor_timer,
				  child->leaving_ns + LEAVE_GRACE - r->now_ns);
		return;
	}
	child->is_cut = true;
	if (child->desc->dev->driver->abort != NULL)
		log_warn("nexus %s: child %s keeps requests, its connections are cut", nx->dev.name,
			 child->uri);
	device_abort(child->desc->dev);
}

static void child_end(struct child *child) MAY_SUSPEND
{
	child_close(child);
	child->is_leaving = child->is_cut = false;
	child->leaving_ns = 0;
	nexus_tell(child->nx, NEXUS_EVENT_CHILD_STATE, child);
}

static uint8_t leaving_slots(const struct nexus *nx)
{
	uint8_t slots = 0;

	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX; slot++)
		slots |= (uint8_t)((nx->child[slot] != NULL && nx->child[slot]->is_leaving)
				   << slot);
	return slots;
}

/* Who fell a moment ago may still be used by a channel that was not told: so tell them first. */
void nexus_monitor_run(struct nexus *nx)
{
	uint8_t leaving = leaving_slots(nx);

	if (leaving != 0)
		nexus_apply(nx);
	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		struct child *child = nx->child[slot];
		uint32_t inflight;

		if (child == NULL)
			continue;
		if (leaving >> slot & 1 && child->is_leaving && nexus_rebuilder != NULL)
			nexus_rebuilder->leave(child);
		if (!(leaving >> slot & 1 && child->is_leaving) && !nx->is_ended)
			continue;
		inflight = nexus_inflight(nx, child);
		if (nx->child[slot] != child)
			continue; /* was not leaving, and a client has removed it meanwhile */
		if (child->users > 0 || inflight > 0)
			child_cut(child);
		else if (child->is_leaving)
			child_end(child);
	}
	gone_tell(nx);
}
