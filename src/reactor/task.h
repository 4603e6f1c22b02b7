/* SPDX-License-Identifier: Apache-2.0 */
/*
 * task.h - sequential C for control work: small stacks that suspend where others would chain
 * callbacks.
 *
 * Owner:  the task layer owns stacks; a task ends when its function returns.
 * Thread: the primary reactor's, always; a task never migrates.
 * Rules:  a task holds no lock across a suspension and re-validates afterwards what it knew before
 *         (MAY_SUSPEND marks who suspends). It moves no data and never spins.
 * Limits: TASKS_MAX run at once, TASK_STACK_SIZE bytes each with a guard page; further ones wait
 *         their turn in order. TASKS_RESERVE of them are kept for each higher rank, because there
 *         is work that others wait for while they have a stack.
 */
#ifndef ASHLAR_REACTOR_TASK_H
#define ASHLAR_REACTOR_TASK_H

#include <stdbool.h>
#include <stdint.h>

#include "reactor/reactor.h"

enum {
	TASKS_MAX = 64,
	TASKS_RESERVE = 4,           /* kept for each rank above the first */
	TASK_STACK_SIZE = 128 << 10, /* bytes; doubled under AddressSanitizer */
};

/* Documents that a function may suspend the calling task, so it needs one. */
#define MAY_SUSPEND

struct task;

/* The running task, NULL where no task runs. */
struct task *task_self(void);

/* Run fn(arg) as a task. Primary reactor's thread only. -ENOMEM when no stack can be had. */
int task_spawn(const char *name, void (*fn)(void *arg), void *arg) WARN_UNUSED;

enum task_rank {
	TASK_ORDINARY,
	TASK_RETIRE,  /* takes something that failed out of service; ordinary ones wait for it */
	TASK_PERSIST, /* writes down what the above must know to be written; waits for no task */
	TASK_RANKS_,
};

/* The same, with a reserve. */
int task_spawn_ranked(enum task_rank rank, const char *name, void (*fn)(void *arg),
		      void *arg) WARN_UNUSED;

/* The memory of that reserve, now, until the engine ends; without it a spawn may fail. -ENOMEM. */
int task_reserve(void) WARN_UNUSED;

/* Suspend until task_resume(). Resumes are not counted: use a task_event for hand-shakes. */
void task_suspend(void) MAY_SUSPEND;
/* Primary reactor's thread; the task runs in the reactor's next deferred phase. */
void task_resume(struct task *task);

void task_sleep(uint64_t ns) MAY_SUSPEND;
/* Let everything else on the primary reactor have a turn. */
void task_yield(void) MAY_SUSPEND;

/* A one-shot meeting point: wait returns at once if it was fired before. One waiter. */
struct task_event {
	struct task *waiter;
	bool is_fired;
};
void task_event_wait(struct task_event *event) MAY_SUSPEND;
void task_event_fire(struct task_event *event); /* primary reactor's thread */

/* Run fn(arg) on @r's thread and wait for it. fn must not block nor suspend. */
void task_call(struct reactor *r, void (*fn)(void *arg), void *arg) MAY_SUSPEND;
/* Run fn(arg) on the worker pool and wait for it. fn may block. */
void task_blocking(void (*fn)(void *arg), void *arg) MAY_SUSPEND;

/* A lock that suspends, first come first served, for control operations on one object. */
struct task_mutex {
	struct task *owner;
	struct list waiters;
};
void task_mutex_init(struct task_mutex *mutex);
void task_mutex_lock(struct task_mutex *mutex) MAY_SUSPEND;
void task_mutex_unlock(struct task_mutex *mutex);

/* How many tasks exist now: 0 is what a clean shutdown waits for. */
unsigned task_count(void);

/* Free cached stacks. Called when the engine ends. */
void task_pool_drain(void);

#endif
