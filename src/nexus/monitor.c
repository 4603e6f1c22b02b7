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
 * A device that never answers keeps its child in "closing" for as long; it costs the requests that
 * are on it and nothing else.
 *
 * Thread: tasks on the primary.
 */
#include "nexus/internal.h"

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

		if (child == NULL || !(leaving >> slot & 1) || !child->is_leaving)
			continue;
		if (nexus_rebuilder != NULL)
			nexus_rebuilder->leave(child);
		if (child->users > 0 || nexus_inflight(nx, child) > 0)
			continue;
		child_close(child);
		child->is_leaving = false;
		nexus_tell(nx, NEXUS_EVENT_CHILD_STATE, child);
	}
	gone_tell(nx);
}
