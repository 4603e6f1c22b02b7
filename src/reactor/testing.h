/* SPDX-License-Identifier: Apache-2.0 */
/*
 * testing.h - a test's body in a task, on reactors that live as long as it.
 *
 * Owner:  one at a time, static.
 * Thread: the caller waits; the body is a task on the primary.
 * Rules:  only tests include this.
 */
#ifndef ASHLAR_REACTOR_TESTING_H
#define ASHLAR_REACTOR_TESTING_H

#include <sched.h>

#include "base/tap.h"
#include "reactor/reactor.h"
#include "reactor/task.h"

static struct {
	void (*body)(void);
	_Atomic bool is_over, is_drained;
} in_task_;

static inline void in_task_body(void *arg)
{
	(void)arg;
	in_task_.body();
	in_task_.is_over = true;
}

static inline void in_task_go(struct msg *msg)
{
	(void)msg;
	if (!CHECK_EQ(task_spawn("body", in_task_body, NULL), 0))
		in_task_.is_over = true;
}

static inline void in_task_drain(struct msg *msg)
{
	(void)msg;
	task_pool_drain();
	in_task_.is_drained = true;
}

/* @core_mask: processors, one reactor each. Returns when the reactors are gone. */
static inline void in_task(uint64_t core_mask, void (*body)(void))
{
	struct msg go = { .fn = in_task_go }, end = { .fn = in_task_drain };
	struct reactor_opts opts = { .core_mask = core_mask };

	in_task_.body = body;
	in_task_.is_over = in_task_.is_drained = false;
	if (!CHECK_EQ(reactors_start(&opts, NULL), 0))
		return;
	reactor_post(reactor_primary(), &go);
	while (!in_task_.is_over)
		sched_yield();
	reactor_post(reactor_primary(), &end);
	while (!in_task_.is_drained)
		sched_yield();
	reactors_stop();
}

#endif
