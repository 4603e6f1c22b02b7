/* SPDX-License-Identifier: Apache-2.0 */
/*
 * task.c - stackful control tasks on the primary reactor.
 *
 * Control work is a handful of long stories (create a device, quiesce it on every core, swap,
 * resume). Told as callbacks each becomes a dozen functions in reverse order; told as a task it is
 * one function with early returns. The price, a stack and a context switch, is paid only here and
 * never per I/O.
 *
 *   task_spawn -> READY --run--> RUNNING --suspend--> WAITING --resume--> READY ...
 *                                   |
 *                                   +--function returns--> stack to the cache, task freed
 *
 * Mechanism: ucontext. Its switch costs a system call for the signal mask (a quarter of a
 * microsecond), which control work never notices; a hand-written switch would buy speed nobody
 * needs with assembly per architecture. Sanitizers are told of every switch.
 *
 * Invariants:
 *   1. All tasks run on the primary reactor's thread; nothing here is atomic.
 *   2. A task is in exactly one place: running, on the reactor's ready list (its msg), in the wait
 *      list for a stack, or held by whoever will call task_resume().
 *   3. A task is resumed once per suspension; is_waiting asserts it.
 *   4. Stacks have a guard page below; at most TASKS_MAX exist.
 *   5. A task waits for a stack only while as many run as its rank allows, so one will come back: a
 *      spawn that finds no memory fails at once. Ended tasks are kept, so that once one has run the
 *      next needs no memory at all; the stop of an engine lives by that.
 */
#include "reactor/task.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "reactor/worker.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define WITH_ASAN 1
#else
#define WITH_ASAN 0
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define WITH_TSAN 1
#else
#define WITH_TSAN 0
#endif

struct task {
	struct msg msg;   /* on the ready list */
	struct list link; /* in the wait list for a stack, or of a mutex */
	const char *name;
	void (*fn)(void *arg);
	void *arg;
	void *stack; /* owned; lowest usable address; NULL while it waits for one */
	ucontext_t context;
	bool is_started;
	bool is_waiting;
	bool is_done;
#if WITH_ASAN
	void *fake_stack;
#endif
#if WITH_TSAN
	void *fiber;
#endif
};

static struct {
	struct task *running;
	ucontext_t loop;                  /* where the reactor's loop goes on */
	struct list starved[TASK_RANKS_]; /* tasks that wait for a stack */
	struct task *cache[TASKS_MAX];    /* ended tasks with their stacks, to be used again */
	unsigned ncached, nstacks, ntasks;
	unsigned nrunning; /* with a stack */
	bool has_reserve;  /* the cache keeps stacks for higher ranks */
#if WITH_ASAN
	void *loop_fake;
	const void *loop_stack;
	size_t loop_size;
#endif
#if WITH_TSAN
	void *loop_fiber;
#endif
} tasks;

static const size_t stack_size = (size_t)TASK_STACK_SIZE * (WITH_ASAN ? 2 : 1);

struct task *task_self(void)
{
	const struct reactor *r = reactor_self();

	return r != NULL && r->id == 0 ? tasks.running : NULL;
}

unsigned task_count(void)
{
	return tasks.ntasks;
}

/* ---- stacks ------------------------------------------------------------------------------- */

static void *stack_new(void)
{
	const size_t guard = 4096;
	char *map;

	map = mmap(NULL, guard + stack_size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	if (map == MAP_FAILED)
		return NULL;
	if (mprotect(map, guard, PROT_NONE) < 0) {
		(void)munmap(map, guard + stack_size);
		return NULL;
	}
	tasks.nstacks++;
	return map + guard;
}

void task_pool_drain(void)
{
	const size_t guard = 4096;

	tasks.has_reserve = false;
	while (tasks.ncached > 0) {
		struct task *task = tasks.cache[--tasks.ncached];

		(void)munmap((char *)task->stack - guard, guard + stack_size);
		free(task);
		tasks.nstacks--;
	}
}

/* ---- switching ---------------------------------------------------------------------------- */

static void switch_to_loop(struct task *task)
{
#if WITH_ASAN
	__sanitizer_start_switch_fiber(task->is_done ? NULL : &task->fake_stack, tasks.loop_stack,
				       tasks.loop_size);
#endif
#if WITH_TSAN
	__tsan_switch_to_fiber(tasks.loop_fiber, 0);
#endif
	(void)swapcontext(&task->context, &tasks.loop);
#if WITH_ASAN
	__sanitizer_finish_switch_fiber(task->fake_stack, &tasks.loop_stack, &tasks.loop_size);
#endif
}

static void task_entry(void)
{
	struct task *task = tasks.running;

#if WITH_ASAN
	__sanitizer_finish_switch_fiber(NULL, &tasks.loop_stack, &tasks.loop_size);
#endif
	task->fn(task->arg);
	task->is_done = true;
	switch_to_loop(task);
	__builtin_unreachable();
}

/* Stacks that are not for @rank but for those above. */
static unsigned rank_kept(enum task_rank rank)
{
	return (unsigned)(TASK_RANKS_ - 1 - rank) * TASKS_RESERVE;
}

static bool rank_has_room(enum task_rank rank)
{
	return tasks.nrunning < TASKS_MAX - rank_kept(rank);
}

/* Who may have the stack that came back; NULL: nobody. */
static struct task *task_next_starved(void)
{
	for (unsigned rank = TASK_RANKS_; rank-- > 0;) {
		if (rank_has_room((enum task_rank)rank) && !list_empty(&tasks.starved[rank]))
			return list_first_entry(&tasks.starved[rank], struct task, link);
	}
	return NULL;
}

static void task_free(struct task *task)
{
	struct task *next;

	tasks.nrunning--;
	next = task_next_starved();
#if WITH_TSAN
	__tsan_destroy_fiber(task->fiber);
#endif
	tasks.ntasks--;
	if (next == NULL) {
		tasks.cache[tasks.ncached++] = task;
		return;
	}
	tasks.nrunning++;
	next->stack = task->stack;
	free(task);
	list_del(&next->link);
	reactor_defer(reactor_self(), &next->msg);
}

/* Off the ready list: run until it suspends or ends. */
static void task_run(struct msg *msg)
{
	struct task *task = container_of(msg, struct task, msg);
	bool is_first = !task->is_started;

	if (is_first) {
		task->is_started = true;
		(void)getcontext(&task->context);
		task->context.uc_stack.ss_sp = task->stack;
		task->context.uc_stack.ss_size = stack_size;
		task->context.uc_link = NULL;
		makecontext(&task->context, task_entry, 0);
	}
	tasks.running = task;
#if WITH_ASAN
	__sanitizer_start_switch_fiber(&tasks.loop_fake, task->stack, stack_size);
#endif
#if WITH_TSAN
	if (is_first)
		task->fiber = __tsan_create_fiber(0);
	tasks.loop_fiber = __tsan_get_current_fiber();
	__tsan_switch_to_fiber(task->fiber, 0);
#endif
	(void)swapcontext(&tasks.loop, &task->context);
#if WITH_ASAN
	__sanitizer_finish_switch_fiber(tasks.loop_fake, NULL, NULL);
#endif
	tasks.running = NULL;
	if (task->is_done)
		task_free(task);
}

static struct task *task_new(void)
{
	struct task *task = calloc(1, sizeof(*task));

	if (task == NULL)
		return NULL;
	task->stack = stack_new();
	if (task->stack != NULL)
		return task;
	free(task);
	return NULL;
}

/* From the cache, or new; without a stack when its rank has no room. NULL: no memory. */
static struct task *task_get(enum task_rank rank)
{
	struct task *task;

	if (!rank_has_room(rank))
		return calloc(1, sizeof(*task));
	if (tasks.ncached <= (tasks.has_reserve ? rank_kept(rank) : 0))
		return task_new();
	task = tasks.cache[--tasks.ncached];
	*task = (struct task){ .stack = task->stack };
	return task;
}

int task_reserve(void)
{
	while (tasks.ncached < rank_kept(TASK_ORDINARY) && !tasks.has_reserve) {
		struct task *task = tasks.nstacks < TASKS_MAX ? task_new() : NULL;

		if (task == NULL)
			return -ENOMEM;
		tasks.cache[tasks.ncached++] = task;
	}
	tasks.has_reserve = true;
	return 0;
}

int task_spawn_ranked(enum task_rank rank, const char *name, void (*fn)(void *arg), void *arg)
{
	struct task *task = task_get(rank);

	assert(reactor_self() == reactor_primary());
	if (task == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < TASK_RANKS_ && tasks.starved[i].next == NULL; i++)
		list_init(&tasks.starved[i]);
	task->name = name;
	task->fn = fn;
	task->arg = arg;
	task->msg.fn = task_run;
	tasks.ntasks++;
	if (task->stack != NULL) {
		tasks.nrunning++;
		reactor_defer(reactor_self(), &task->msg);
	} else {
		list_add_tail(&tasks.starved[rank], &task->link);
	}
	return 0;
}

int task_spawn(const char *name, void (*fn)(void *arg), void *arg)
{
	return task_spawn_ranked(TASK_ORDINARY, name, fn, arg);
}

void task_suspend(void)
{
	struct task *task = tasks.running;

	assert(task != NULL && !task->is_waiting);
	task->is_waiting = true;
	switch_to_loop(task);
}

void task_resume(struct task *task)
{
	assert(reactor_self() == reactor_primary());
	assert(task->is_waiting);
	task->is_waiting = false;
	reactor_defer(reactor_self(), &task->msg);
}

void task_yield(void)
{
	struct task *task = tasks.running;

	reactor_defer(reactor_self(), &task->msg);
	switch_to_loop(task);
}

/* ---- waiting forms ------------------------------------------------------------------------ */

void task_event_wait(struct task_event *event)
{
	if (event->is_fired)
		return;
	assert(event->waiter == NULL);
	event->waiter = task_self();
	task_suspend();
}

void task_event_fire(struct task_event *event)
{
	struct task *waiter = event->waiter;

	event->is_fired = true;
	event->waiter = NULL;
	if (waiter != NULL)
		task_resume(waiter);
}

struct task_timer {
	struct timer timer;
	struct task_event event;
};

static void task_timer_fn(struct timer *timer)
{
	task_event_fire(&container_of(timer, struct task_timer, timer)->event);
}

void task_sleep(uint64_t ns)
{
	struct task_timer sleep = { .timer.fn = task_timer_fn };

	timer_arm(reactor_self(), &sleep.timer, ns);
	task_event_wait(&sleep.event);
}

struct task_call {
	struct msg msg;
	struct work work;
	void (*fn)(void *arg);
	void *arg;
	struct task_event event;
};

static void task_call_back(struct msg *msg)
{
	task_event_fire(&container_of(msg, struct task_call, msg)->event);
}

static void task_call_there(struct msg *msg)
{
	struct task_call *call = container_of(msg, struct task_call, msg);

	call->fn(call->arg);
	call->msg.fn = task_call_back;
	reactor_post(reactor_primary(), &call->msg);
}

void task_call(struct reactor *r, void (*fn)(void *arg), void *arg)
{
	struct task_call call = { .msg.fn = task_call_there, .fn = fn, .arg = arg };

	if (r == reactor_self()) {
		fn(arg);
		return;
	}
	reactor_post(r, &call.msg);
	task_event_wait(&call.event);
}

static void task_blocking_there(struct work *work)
{
	struct task_call *call = container_of(work, struct task_call, work);

	call->fn(call->arg);
}

static void task_blocking_done(struct work *work)
{
	task_event_fire(&container_of(work, struct task_call, work)->event);
}

void task_blocking(void (*fn)(void *arg), void *arg)
{
	struct task_call call = { .fn = fn, .arg = arg };

	call.work.fn = task_blocking_there;
	call.work.done = task_blocking_done;
	work_submit(&call.work);
	task_event_wait(&call.event);
}

/* ---- mutex -------------------------------------------------------------------------------- */

void task_mutex_init(struct task_mutex *mutex)
{
	mutex->owner = NULL;
	list_init(&mutex->waiters);
}

void task_mutex_lock(struct task_mutex *mutex)
{
	struct task *task = task_self();

	assert(task != NULL && mutex->owner != task);
	if (mutex->owner == NULL) {
		mutex->owner = task;
		return;
	}
	list_add_tail(&mutex->waiters, &task->link);
	task_suspend(); /* the unlocker made us the owner */
	assert(mutex->owner == task);
}

void task_mutex_unlock(struct task_mutex *mutex)
{
	struct task *next = list_first_entry(&mutex->waiters, struct task, link);

	assert(mutex->owner == task_self());
	mutex->owner = next;
	if (next != NULL) {
		list_del(&next->link);
		task_resume(next);
	}
}
