/* SPDX-License-Identifier: Apache-2.0 */
/* The virtual machine: order, time, messages, blocking work, tasks, and that a seed is a run. */
#include "base/tap.h"

#include "reactor/task.h"
#include "reactor/worker.h"
#include "world.h"

struct ping {
	struct msg msg;
	unsigned hops;
};

static unsigned total_hops;

static void ping_fn(struct msg *msg)
{
	struct ping *ping = container_of(msg, struct ping, msg);

	total_hops++;
	world_trace("hop", ping->hops, reactor_self()->id);
	if (--ping->hops > 0)
		reactor_post(world_reactor((unsigned)world_rand(world_nreactors())), &ping->msg);
}

static void work_fn(struct work *work)
{
	(void)work;
	CHECK(reactor_self() == NULL);
}

static struct task_event work_event;

static void work_done(struct work *work)
{
	CHECK(reactor_self() == work->origin);
	task_event_fire(&work_event);
}

static void body(void *arg)
{
	struct ping pings[8] = {};
	struct work work = { .fn = work_fn, .done = work_done };

	(void)arg;
	for (unsigned i = 0; i < ARRAY_LEN(pings); i++) {
		pings[i].msg.fn = ping_fn;
		pings[i].hops = 20;
		reactor_post(world_reactor(i % world_nreactors()), &pings[i].msg);
	}
	work_event = (struct task_event){};
	work_submit(&work);
	task_event_wait(&work_event);
	while (total_hops < 8 * 20)
		task_sleep(10 * USEC);
}

static uint64_t run(uint64_t seed)
{
	struct world_opts opts = { .seed = seed };
	uint64_t hash;

	total_hops = 0;
	world_start(&opts);
	CHECK(world_task(body, NULL, 1000000));
	CHECK_EQ(task_count(), 0);
	CHECK_EQ(world_stats()->works, 1);
	hash = world_hash();
	world_stop();
	return hash;
}

TEST(world_same_seed_is_the_same_run)
{
	for (uint64_t seed = 1; seed <= 20; seed++)
		CHECK_EQ(run(seed), run(seed));
}

TEST(world_other_seed_is_another_run)
{
	CHECK(run(1) != run(2));
}

/* ---- events --------------------------------------------------------------------------------- */

static unsigned order[4], norder;

static void note(struct event *event)
{
	order[norder++] = (unsigned)(event->due_ns - SEC) / 100;
}

TEST(world_events_come_in_the_order_of_time)
{
	struct event events[4] = {};
	static const unsigned delays[] = { 300, 100, 400, 200 };

	world_start(&(struct world_opts){ .seed = 1, .nreactors = 1 });
	norder = 0;
	for (unsigned i = 0; i < 4; i++)
		world_at(&events[i], WORLD_NONE, delays[i], note);
	world_cancel(&events[2]);
	while (world_step())
		continue;
	CHECK_EQ(norder, 3);
	for (unsigned i = 0; i < 3; i++)
		CHECK_EQ(order[i], i + 1);
	world_stop();
}

TEST(world_stands_still_when_nothing_is_left)
{
	bool is_done = false;

	world_start(&(struct world_opts){ .seed = 3, .nreactors = 2 });
	CHECK(!world_run(&is_done, 100000));
	world_stop();
}

static void lost(void *arg)
{
	struct task_event never = {};

	(void)arg;
	task_event_wait(&never);
}

TEST(world_notices_a_task_that_nobody_wakes)
{
	/* Last: the task's stack stays behind. */
	world_start(&(struct world_opts){ .seed = 4 });
	CHECK(!world_task(lost, NULL, 100000));
	CHECK_EQ(task_count(), 1);
	world_stop();
}

TAP_MAIN()
