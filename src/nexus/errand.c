/* SPDX-License-Identifier: Apache-2.0 */
/*
 * errand.c - work for a task that any reactor may ask for.
 *
 *   any reactor: errand_ring() --message, at most one--> primary: task: run(nx), once more if it
 *                                                        was rung meanwhile --> idle
 *
 * A data path cannot suspend and a message handler must not; what they find out (a leg fell, a
 * block wants repair, the last request of a leg came back) is done by a task. The ring is one
 * flag: asking twice before anybody came is asking once. run() looks for what there is to do
 * itself.
 *
 * Invariants: a ring that happened before run() returned is followed by a look; one task per
 * errand; an errand that is idle has no message on its way, so its owner may be freed.
 *
 * Thread: ring anywhere; the rest on the primary.
 */
#include "nexus/internal.h"

#include "base/log.h"

enum {
	ERRAND_RETRY_NS = 100000000, /* where memory for a task is short */
};

struct errand_waiter {
	struct list link;
	struct task_event event;
};

static void errand_task(void *arg)
{
	struct nexus_errand *errand = arg;
	struct errand_waiter *waiter, *next;
	struct list waiters;

	do {
		errand->is_again = false;
		errand->run(errand->nx);
	} while (errand->is_again);
	errand->is_running = false;
	list_init(&waiters);
	list_splice_tail(&waiters, &errand->waiters);
	/* the last waiter may free the errand */
	list_for_each_safe (waiter, next, &waiters, link) {
		list_del(&waiter->link);
		task_event_fire(&waiter->event);
	}
}

static void errand_start(struct nexus_errand *errand)
{
	if (errand->is_running || errand->is_over) {
		errand->is_again = !errand->is_over;
		return;
	}
	errand->is_running = true;
	if (task_spawn_ranked(errand->rank, errand->name, errand_task, errand) == 0)
		return;
	errand->is_running = false;
	log_error("nexus %s: no memory for the task '%s', trying again", errand->nx->dev.name,
		  errand->name);
	atomic_store(&errand->is_rung, true); /* not idle */
	timer_arm(reactor_primary(), &errand->timer, ERRAND_RETRY_NS);
}

static void errand_due(struct timer *timer)
{
	struct nexus_errand *errand = container_of(timer, struct nexus_errand, timer);

	atomic_store(&errand->is_rung, false);
	errand_start(errand);
}

static void errand_arrived(struct msg *msg)
{
	struct nexus_errand *errand = container_of(msg, struct nexus_errand, msg);

	atomic_store(&errand->is_rung, false);
	errand_start(errand);
}

void errand_init(struct nexus_errand *errand, struct nexus *nx, const char *name,
		 void (*run)(struct nexus *nx))
{
	*errand = (struct nexus_errand){
		.nx = nx, .name = name, .run = run, .msg.fn = errand_arrived, .timer.fn = errand_due
	};
	list_init(&errand->waiters);
}

void errand_end(struct nexus_errand *errand)
{
	errand->is_over = true;
	errand->is_again = false;
	if (!errand->timer.is_armed)
		return;
	timer_disarm(reactor_primary(), &errand->timer);
	atomic_store(&errand->is_rung, false);
}

void errand_ring(struct nexus_errand *errand)
{
	if (!atomic_exchange(&errand->is_rung, true))
		reactor_post(reactor_primary(), &errand->msg);
}

void errand_wait(struct nexus_errand *errand)
{
	while (!errand_is_idle(errand)) {
		struct errand_waiter waiter = {};

		if (!errand->is_running) { /* rung, not arrived yet */
			task_yield();
			continue;
		}
		list_add_tail(&errand->waiters, &waiter.link);
		task_event_wait(&waiter.event);
	}
}
