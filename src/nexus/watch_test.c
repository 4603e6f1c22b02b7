/* SPDX-License-Identifier: Apache-2.0 */
/* Children that are slow, and too slow. */
#include "base/units.h"
#include "nexus/testing.h"

static uint8_t buf[8 * BLOCK], back[8 * BLOCK];

/* The watch looks now: of all timers its own is due first. */
static void look(void)
{
	struct reactor *r = reactor_primary();

	if (CHECK(r->timers.root != NULL))
		timer_arm(r, r->timers.root, 0);
	turns(2);
}

/* Marked before, so that what is held is the data's write and not the mark's. */
static bool slow_make(unsigned nchildren, uint64_t timeout_ns)
{
	if (!nexus_make(nchildren))
		return false;
	nx->child_timeout_ns = timeout_ns;
	return CHECK_EQ(do_io(&o, IO_WRITE, 0, 8, buf, 0), IO_OK);
}

/* The second child, as timed out; before the test is. */
static void until_timed_out(void)
{
	uint64_t start_ns = reactor_self()->now_ns;

	while (recorded(1) != 0 && reactor_self()->now_ns < start_ns + 5 * NS_PER_S)
		task_yield();
	CHECK_EQ(recorded(1), 0);
	CHECK_EQ(child_info(1).state, CHILD_FAULTED);
	CHECK_EQ(child_info(1).reason, NEXUS_REASON_TIMED_OUT);
}

ENGINE_TEST(slow_is_not_dead)
{
	struct late_io late;
	struct hold hold;

	if (!slow_make(2, 10 * NS_PER_S))
		return;
	hold_begin(&hold, "c1", START, 8);
	late_start(&late, IO_WRITE, 0, 8, buf);
	for (unsigned i = 0; i < 20; i++)
		look();
	CHECK(!late.is_done);
	hold_end(&hold);
	task_event_wait(&late.event);
	CHECK_EQ(late.io.status, IO_OK);
	CHECK_EQ(status(), NEXUS_ONLINE);
	CHECK_EQ(recorded(1), 1);
	nexus_unmake();
}

ENGINE_TEST(too_slow_a_writer_is_timed_out)
{
	struct late_io late;
	struct hold hold;

	if (!slow_make(2, 50 * NS_PER_MS))
		return;
	hold_begin(&hold, "c1", START, 8);
	fill(buf, sizeof(buf), 2);
	late_start(&late, IO_WRITE, 0, 8, buf);
	until_timed_out();
	CHECK_EQ(status(), NEXUS_DEGRADED);
	/* others go on; the one that waits for the child's memory goes on waiting */
	CHECK_EQ(do_io(&o, IO_WRITE, 64, 8, buf, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_READ, 64, 8, back, 0), IO_OK);
	CHECK_MEM(back, buf, sizeof(buf));
	CHECK(!late.is_done);
	hold_end(&hold);
	task_event_wait(&late.event);
	CHECK_EQ(late.io.status, IO_OK);
	settle_down();
	nexus_unmake();
}

ENGINE_TEST(a_silent_reader_is_timed_out)
{
	struct late_io late[2];
	struct hold hold;

	if (!slow_make(2, 50 * NS_PER_MS))
		return;
	hold_begin(&hold, "c1", START, 8);
	for (unsigned i = 0; i < 2; i++) /* one of each child */
		late_start(&late[i], IO_READ, 0, 8, back);
	until_timed_out();
	CHECK_EQ(child_info(0).health, CHILD_HEALTH_ONLINE);
	hold_end(&hold);
	for (unsigned i = 0; i < 2; i++)
		task_event_wait(&late[i].event);
	settle_down();
	nexus_unmake();
}

/* Held for three times what others are given. */
ENGINE_TEST(the_last_child_may_be_slow)
{
	static const enum io_op ops[] = { IO_WRITE, IO_READ };

	if (!slow_make(1, 20 * NS_PER_MS))
		return;
	for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
		uint64_t start_ns = reactor_self()->now_ns;
		struct late_io late;
		struct hold hold;

		hold_begin(&hold, "c0", START, 8);
		late_start(&late, ops[i], 0, 8, buf);
		while (reactor_self()->now_ns < start_ns + 3 * nx->child_timeout_ns)
			task_yield();
		CHECK(!late.is_done);
		if (!CHECK(!nx->is_frozen))
			nexus_end_io(nx);
		hold_end(&hold);
		task_event_wait(&late.event);
		CHECK_EQ(late.io.status, IO_OK);
	}
	CHECK_EQ(status(), NEXUS_ONLINE);
	nexus_unmake();
}

ENGINE_TEST(a_child_that_cannot_be_marked_in_time_is_timed_out)
{
	struct late_io late;
	struct hold hold;

	if (!nexus_make(2))
		return;
	nx->child_timeout_ns = 50 * NS_PER_MS;
	hold_begin(&hold, "c1", META, META_NLB);
	late_start(&late, IO_WRITE, 0, 8, buf);
	until_timed_out();
	hold_end(&hold);
	task_event_wait(&late.event);
	CHECK_EQ(late.io.status, IO_OK);
	settle_down();
	nexus_unmake();
}

TAP_MAIN()
