/* SPDX-License-Identifier: Apache-2.0 */
/* Messages, timers, pollers, sleep and wake, on real reactors. */
#include "base/tap.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <time.h>

#include "base/rng.h"
#include "reactor/mem.h"
#include "reactor/reactor.h"
#include "reactor/worker.h"

static void wait_until(atomic_int *value, int target)
{
	while (atomic_load(value) < target)
		sched_yield();
}

static bool start(uint64_t mask)
{
	struct err err = {};
	struct reactor_opts opts = { .core_mask = mask };

	return CHECK_EQ(reactors_start(&opts, &err), 0);
}

/* ---- mpsc ----------------------------------------------------------------------------------- */

enum { NPRODUCERS = 4, NMESSAGES = 20000 };

struct tick {
	struct msg msg;
	unsigned producer, sequence;
};

static atomic_int received;
static unsigned next_sequence[NPRODUCERS];
static atomic_int out_of_order;

static void tick_arrived(struct msg *msg)
{
	struct tick *tick = container_of(msg, struct tick, msg);

	if (next_sequence[tick->producer]++ != tick->sequence)
		atomic_fetch_add(&out_of_order, 1);
	atomic_fetch_add(&received, 1);
}

static void *producer(void *arg)
{
	struct tick *ticks = arg;

	for (unsigned i = 0; i < NMESSAGES; i++)
		reactor_post(reactor_primary(), &ticks[i].msg);
	return NULL;
}

TEST(messages_arrive_once_and_in_order)
{
	pthread_t thread[NPRODUCERS];
	struct tick *ticks = calloc((size_t)NPRODUCERS * NMESSAGES, sizeof(*ticks));

	if (!CHECK(ticks != NULL) || !start(0))
		return;
	for (unsigned p = 0; p < NPRODUCERS; p++) {
		for (unsigned i = 0; i < NMESSAGES; i++)
			ticks[p * NMESSAGES + i] = (struct tick){ .msg.fn = tick_arrived,
								  .producer = p,
								  .sequence = i };
		CHECK_EQ(pthread_create(&thread[p], NULL, producer, &ticks[p * NMESSAGES]), 0);
	}
	for (unsigned p = 0; p < NPRODUCERS; p++)
		pthread_join(thread[p], NULL);
	wait_until(&received, NPRODUCERS * NMESSAGES);
	CHECK_EQ(atomic_load(&out_of_order), 0);
	reactors_stop();
	free(ticks);
}

/* ---- ping-pong between two sleeping reactors ---------------------------------------------- */

struct ball {
	struct msg msg;
	int left;
	atomic_int landed;
};

static void ball_hit(struct msg *msg)
{
	struct ball *ball = container_of(msg, struct ball, msg);

	if (ball->left-- == 0)
		atomic_store(&ball->landed, 1);
	else
		reactor_post(reactor_get(!reactor_self()->id), &ball->msg);
}

TEST(reactors_wake_each_other)
{
	struct ball ball = { .msg.fn = ball_hit, .left = 5000 };

	if (!start(0x3))
		return;
	reactor_post(reactor_get(1), &ball.msg);
	wait_until(&ball.landed, 1);
	reactors_stop();
}

/* ---- timers ---------------------------------------------------------------------------------- */

enum { NTIMERS = 500 };

TEST(timer_heap_sorts)
{
	static struct timer timers[NTIMERS];
	struct timer_heap heap = {};
	struct rng rng;
	uint64_t last = 0;
	unsigned n = 0;

	rng_init(&rng, 7);
	for (unsigned i = 0; i < NTIMERS; i++) {
		timers[i].due_ns = rng_below(&rng, 1000);
		timer_heap_insert(&heap, &timers[i]);
	}
	for (unsigned i = 0; i < NTIMERS; i += 3)
		timer_heap_remove(&heap, &timers[i]);
	while (heap.root != NULL) {
		struct timer *t = heap.root;

		CHECK(t->due_ns >= last);
		last = t->due_ns;
		timer_heap_remove(&heap, t);
		CHECK(!t->is_armed);
		n++;
	}
	CHECK_EQ(n, NTIMERS - DIV_ROUND_UP(NTIMERS, 3));
}

static struct timer late, early;
static atomic_int fired;
static uint64_t fired_after_ns;
static uint64_t armed_at_ns;

static void timer_fired(struct timer *timer)
{
	if (timer == &early)
		fired_after_ns = reactor_clock(reactor_self()) - armed_at_ns;
	atomic_fetch_add(&fired, timer == &early ? 1 : 100);
}

static void arm_both(struct msg *msg)
{
	(void)msg;
	armed_at_ns = reactor_clock(reactor_self());
	timer_arm(reactor_self(), &late, 60000000000ull);
	timer_arm(reactor_self(), &early, 5000000);
}

TEST(timer_wakes_a_sleeper)
{
	struct msg go = { .fn = arm_both };

	if (!start(0))
		return;
	late.fn = early.fn = timer_fired;
	reactor_post(reactor_primary(), &go);
	wait_until(&fired, 1);
	CHECK_EQ(atomic_load(&fired), 1);
	CHECK(fired_after_ns >= 5000000);
	reactors_stop();
}

/* ---- pollers --------------------------------------------------------------------------------- */

static struct poller polls[3];
static unsigned polled[3];
static atomic_int poll_done;

static unsigned poll_fn(struct poller *poller)
{
	unsigned i = (unsigned)(poller - polls);

	polled[i]++;
	if (i == 0 && polled[0] == 1) {
		poller_stop(reactor_self(), &polls[1]); /* the next in the walk */
		poller_stop(reactor_self(), &polls[0]); /* itself */
	}
	if (i == 2 && polled[2] == 3) {
		poller_stop(reactor_self(), poller);
		atomic_store(&poll_done, 1);
	}
	return 1;
}

static void polls_start(struct msg *msg)
{
	(void)msg;
	for (unsigned i = 0; i < 3; i++) {
		polls[i].poll = poll_fn;
		poller_start(reactor_self(), &polls[i]);
	}
}

TEST(pollers_may_stop_each_other)
{
	struct msg go = { .fn = polls_start };

	if (!start(0))
		return;
	reactor_post(reactor_primary(), &go);
	wait_until(&poll_done, 1);
	reactors_stop();
	CHECK_EQ(polled[0], 1);
	CHECK_EQ(polled[1], 0);
	CHECK_EQ(polled[2], 3);
}

/* ---- idleness -------------------------------------------------------------------------------- */

TEST(idle_reactors_use_no_cpu)
{
	struct rusage before, after;
	struct timespec second = { .tv_sec = 1 };
	long us;

	if (!start(0x3))
		return;
	(void)getrusage(RUSAGE_SELF, &before);
	(void)nanosleep(&second, NULL); /* the measured interval itself */
	(void)getrusage(RUSAGE_SELF, &after);
	us = (after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec -
	      before.ru_stime.tv_sec) *
		     1000000 +
	     after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec -
	     before.ru_stime.tv_usec;
	printf("# two idle reactors: %ld us of CPU in one second\n", us);
	CHECK(us < 3000);
	reactors_stop();
}

/* ---- refusals -------------------------------------------------------------------------------- */

TEST(start_refuses_a_core_that_is_not_there)
{
	struct err err = {};
	struct reactor_opts opts = { .core_mask = 1ull << 63 };

	CHECK(reactors_start(&opts, &err) < 0);
	CHECK_HAS(err.msg, "core 63");
	CHECK_EQ(reactor_count(), 0);
}

/* ---- memory ---------------------------------------------------------------------------------- */

TEST(dma_memory_is_aligned_zeroed_and_discardable)
{
	size_t size = 6 << 20;
	uint64_t before = dma_bytes_in_use();
	char *p = dma_alloc(size);

	if (!CHECK(p != NULL))
		return;
	CHECK_EQ((uintptr_t)p % (2 << 20), 0);
	CHECK_EQ(dma_bytes_in_use() - before, size);
	memset(p, 1, size);
	dma_discard(p + 100, 8192);
	CHECK_EQ(p[4095], 1);
	CHECK_EQ(p[4096], 0);
	CHECK_EQ(p[8191], 0);
	CHECK_EQ(p[8192], 1);
	dma_free(p, size);
	CHECK_EQ(dma_bytes_in_use(), before);
	CHECK(dma_alloc(0) == NULL);
	CHECK(dma_alloc(SIZE_MAX) == NULL);
}

TEST(bufpool_is_last_in_first_out)
{
	struct bufpool pool;
	void *a, *b;

	if (!CHECK_EQ(bufpool_init(&pool, 4096, 2, NULL), 0))
		return;
	a = bufpool_get(&pool);
	b = bufpool_get(&pool);
	CHECK(a != NULL && b != NULL && a != b);
	CHECK(bufpool_get(&pool) == NULL);
	bufpool_put(&pool, a);
	CHECK(bufpool_get(&pool) == a);
	CHECK_EQ(pool.nfree_min, 0);
	bufpool_put(&pool, a);
	bufpool_put(&pool, b);
	bufpool_done(&pool);
}

TAP_MAIN()
