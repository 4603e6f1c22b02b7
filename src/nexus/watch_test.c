/* SPDX-License-Identifier: Apache-2.0 */
/* Children that are slow, and too slow; what hangs at the end. */
#include "base/units.h"
#include "nexus/testing.h"

#define SLOW_WRITES "inject://c1?op=write&method=delay&delay_us=700000&retries=1"
#define SLOW_READS  "inject://c1?op=read&method=delay&delay_us=700000"
#define HOLD_NS     (700 * NS_PER_MS)

static uint8_t buf[8 * BLOCK], back[8 * BLOCK];

ENGINE_TEST(slow_is_not_dead)
{
	uint64_t start_ns;

	if (!nexus_make(2))
		return;
	nx->child_timeout_ns = 10 * NS_PER_S;
	inject(SLOW_WRITES);
	fill(buf, sizeof(buf), 1);
	start_ns = reactor_self()->now_ns;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 8, buf, 0), IO_OK);
	CHECK(reactor_self()->now_ns - start_ns >= HOLD_NS);
	CHECK_EQ(status(), NEXUS_ONLINE);
	CHECK_EQ(recorded(1), 1);
	fault_remove_all();
	nexus_unmake();
}

ENGINE_TEST(too_slow_a_writer_is_timed_out)
{
	struct late_io late;
	uint64_t start_ns;

	if (!nexus_make(2))
		return;
	nx->child_timeout_ns = 50 * NS_PER_MS;
	/* marked before, so that the write that is held is the data's and not the mark's */
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 8, buf, 0), IO_OK);
	inject(SLOW_WRITES);
	fill(buf, sizeof(buf), 2);
	start_ns = reactor_self()->now_ns;
	late_start(&late, IO_WRITE, 0, 8, buf);
	while (recorded(1) != 0 && reactor_self()->now_ns - start_ns < HOLD_NS)
		task_yield();
	CHECK_EQ(recorded(1), 0);
	CHECK_EQ(child_info(1).state, CHILD_FAULTED);
	CHECK_EQ(child_info(1).reason, NEXUS_REASON_TIMED_OUT);
	CHECK_EQ(status(), NEXUS_DEGRADED);
	/* others go on; the one that waits for the child's memory goes on waiting */
	CHECK_EQ(do_io(&o, IO_WRITE, 64, 8, buf, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_READ, 64, 8, back, 0), IO_OK);
	CHECK_MEM(back, buf, sizeof(buf));
	CHECK(!late.is_done);
	CHECK(reactor_self()->now_ns - start_ns < HOLD_NS);
	task_event_wait(&late.event);
	CHECK_EQ(late.io.status, IO_OK);
	settle_down();
	fault_remove_all();
	nexus_unmake();
}

ENGINE_TEST(a_silent_reader_is_timed_out)
{
	struct late_io late[2];

	if (!nexus_make(2))
		return;
	nx->child_timeout_ns = 50 * NS_PER_MS;
	inject(SLOW_READS);
	for (unsigned i = 0; i < 2; i++)
		late_start(&late[i], IO_READ, 0, 8, back);
	for (unsigned i = 0; i < 2; i++)
		task_event_wait(&late[i].event);
	CHECK_EQ(child_info(1).reason, NEXUS_REASON_TIMED_OUT);
	CHECK_EQ(child_info(0).health, CHILD_HEALTH_ONLINE);
	settle_down();
	fault_remove_all();
	nexus_unmake();
}

ENGINE_TEST(the_last_child_may_be_slow)
{
	if (!nexus_make(1))
		return;
	nx->child_timeout_ns = 20 * NS_PER_MS;
	inject("inject://c0?op=all&method=delay&delay_us=150000");
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 8, buf, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_READ, 0, 8, back, 0), IO_OK);
	CHECK_EQ(status(), NEXUS_ONLINE);
	fault_remove_all();
	nexus_unmake();
}

ENGINE_TEST(marks_do_not_wait_for_a_child_that_hangs)
{
	uint64_t start_ns;

	if (!nexus_make(2))
		return;
	nx->child_timeout_ns = 50 * NS_PER_MS;
	inject(SLOW_WRITES); /* the first: of the page that marks the segment */
	start_ns = reactor_self()->now_ns;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 8, buf, 0), IO_OK);
	CHECK(reactor_self()->now_ns - start_ns < 5 * NS_PER_S);
	CHECK_EQ(child_info(1).reason, NEXUS_REASON_TIMED_OUT);
	CHECK_EQ(recorded(1), 0);
	settle_down();
	fault_remove_all();
	nexus_unmake();
}

/* A write that one child did and the other one not is under way when the nexus is shut down. */
ENGINE_TEST(shutdown_does_not_hide_a_child_that_falls)
{
	struct late_io late;
	struct nexus_err ne = {};

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 8, buf, 0), IO_OK);
	inject("inject://c1?op=write&method=delay&delay_us=100000&retries=1");
	inject("inject://c1?domain=child&op=write&stage=completion&retries=1");
	late_start(&late, IO_WRITE, 0, 8, buf);
	CHECK_EQ(nexus_shutdown(nx, &ne), 0);
	CHECK(late.is_done);
	CHECK(late.io.status != IO_OK);
	CHECK(!recorded_clean() || recorded(1) == 0);
	fault_remove_all();
	nexus_unmake();
}

/* The same where both have it in the end. */
ENGINE_TEST(shutdown_waits_for_what_is_in_flight)
{
	struct late_io late;
	struct nexus_err ne = {};

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 8, buf, 0), IO_OK);
	inject("inject://c1?op=write&method=delay&delay_us=100000&retries=1");
	fill(buf, sizeof(buf), 3);
	late_start(&late, IO_WRITE, 0, 8, buf);
	CHECK_EQ(nexus_shutdown(nx, &ne), 0);
	CHECK(late.is_done);
	CHECK(recorded_clean());
	fault_remove_all();
	nexus_unmake();
}

TAP_MAIN()
