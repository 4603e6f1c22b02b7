/* SPDX-License-Identifier: Apache-2.0 */
/* Tasks: suspension, order, the limit on stacks, calls across reactors, blocking work, mutexes. */
#include "base/tap.h"

#include <unistd.h>

#include "reactor/task.h"
#include "reactor/testing.h"
#include "reactor/worker.h"

static void run(void (*body)(void))
{
	in_task(0x3, body);
	CHECK_EQ(task_count(), 0);
}

static unsigned nran, nmax, nnow;

static void short_task(void *arg)
{
	char deep[20000];

	(void)arg;
	memset(deep, 1, sizeof(deep));
	nnow++;
	nmax = MAX(nmax, nnow);
	task_yield();
	task_sleep(1000);
	CHECK_EQ(deep[sizeof(deep) - 1], 1);
	nnow--;
	nran++;
}

static void many_body(void)
{
	nran = nmax = nnow = 0;
	for (int i = 0; i < 200; i++)
		CHECK_EQ(task_spawn("short", short_task, NULL), 0);
	while (nran < 200)
		task_yield();
	/* one stack is ours, and two ranks have a reserve */
	CHECK_EQ(nmax, TASKS_MAX - 2 * TASKS_RESERVE - 1);
}

TEST(tasks_beyond_the_limit_wait_for_a_stack)
{
	run(many_body);
}

/* Tasks that stay until they are let go; how many of each rank have begun. */
static unsigned nbegun[TASK_RANKS_], nended;
static bool is_let_go;

static void staying_task(void *arg)
{
	nbegun[(uintptr_t)arg]++;
	while (!is_let_go)
		task_yield();
	nended++;
}

static void ranks_body(void)
{
	static const enum task_rank ranks[] = { TASK_ORDINARY, TASK_RETIRE, TASK_PERSIST };

	is_let_go = false;
	nended = 0;
	memset(nbegun, 0, sizeof(nbegun));
	for (unsigned i = 0; i < ARRAY_LEN(ranks); i++) {
		for (unsigned n = 0; n < TASKS_MAX; n++)
			CHECK_EQ(task_spawn_ranked(ranks[i], "staying", staying_task,
						   (void *)(uintptr_t)ranks[i]),
				 0);
		task_yield();
		task_yield();
	}
	/* the lower ranks took all they could get, and left the higher ones theirs */
	CHECK_EQ(nbegun[TASK_ORDINARY], TASKS_MAX - 2 * TASKS_RESERVE - 1);
	CHECK_EQ(nbegun[TASK_RETIRE], TASKS_RESERVE);
	CHECK_EQ(nbegun[TASK_PERSIST], TASKS_RESERVE);
	is_let_go = true;
	while (nended < TASK_RANKS_ * TASKS_MAX)
		task_yield();
}

TEST(each_rank_has_a_reserve)
{
	run(ranks_body);
}

static unsigned there;

static void note_where(void *arg)
{
	(void)arg;
	there = reactor_self()->id;
}

static void call_body(void)
{
	there = 99;
	task_call(reactor_get(1), note_where, NULL);
	CHECK_EQ(there, 1);
	task_call(reactor_primary(), note_where, NULL);
	CHECK_EQ(there, 0);
}

TEST(task_call_runs_there)
{
	run(call_body);
}

static atomic_bool is_outside;

static void note_outside(void *arg)
{
	(void)arg;
	is_outside = reactor_self() == NULL;
	/* lint: allow calls: it may block, that is what it is for. */
	(void)usleep(1000);
}

static atomic_int nblocking;

static void blocking_task(void *arg)
{
	(void)arg;
	task_blocking(note_outside, NULL);
	atomic_fetch_add(&nblocking, 1);
}

static void blocking_body(void)
{
	task_blocking(note_outside, NULL);
	CHECK(is_outside);
	atomic_store(&nblocking, 0);
	for (int i = 0; i < 20; i++)
		CHECK_EQ(task_spawn("blocking", blocking_task, NULL), 0);
	while (atomic_load(&nblocking) < 20)
		task_yield();
}

TEST(task_blocking_runs_outside)
{
	run(blocking_body);
}

static struct task_mutex mutex;
static unsigned holders, order[5], norder;

static void locker(void *arg)
{
	task_mutex_lock(&mutex);
	CHECK_EQ(++holders, 1);
	order[norder++] = *(unsigned *)arg;
	task_yield();
	holders--;
	task_mutex_unlock(&mutex);
}

static void mutex_body(void)
{
	static unsigned id[5] = { 0, 1, 2, 3, 4 };

	task_mutex_init(&mutex);
	norder = holders = 0;
	for (int i = 0; i < 5; i++)
		CHECK_EQ(task_spawn("locker", locker, &id[i]), 0);
	while (norder < 5 || holders > 0)
		task_yield();
	for (unsigned i = 0; i < 5; i++)
		CHECK_EQ(order[i], i);
}

TEST(task_mutex_is_fair)
{
	run(mutex_body);
}

static void event_firer(void *arg)
{
	task_event_fire(arg);
}

static void event_body(void)
{
	struct task_event before = {}, after = {};

	task_event_fire(&before);
	task_event_wait(&before); /* does not suspend */
	CHECK_EQ(task_spawn("firer", event_firer, &after), 0);
	task_event_wait(&after);
	CHECK(after.is_fired);
}

TEST(task_event_meets)
{
	run(event_body);
}

TAP_MAIN()
