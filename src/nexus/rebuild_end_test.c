/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rebuilds that do not run to their end by themselves: a client pauses or stops them, a source or
 * the child falls, the nexus ends or dies; and what is copied the next time.
 */
#include "base/units.h"
#include "nexus/rebuild_testing.h"

ENGINE_TEST(pause_resume_stop_and_start_again)
{
	struct rebuild_stats stats = {}, later = {};
	struct nexus_err ne = {};
	uint32_t missed;

	if (!all_make(2))
		return;
	put_all();
	offline(1);
	put_all();
	slow();
	online(1);
	until_it_moves(uris[1]);
	CHECK_EQ(nexus_rebuild_pause(nx, uris[1], &ne), 0);
	CHECK_EQ(nexus_rebuild_stats(nx, uris[1], &stats, &ne), 0);
	CHECK_EQ(stats.state, REBUILD_PAUSED);
	CHECK_EQ(stats.tasks_active, 0);
	CHECK(stats.blocks_remaining > 0 && stats.blocks_remaining < NBLOCKS);
	task_sleep(5 * NS_PER_MS);
	CHECK_EQ(nexus_rebuild_stats(nx, uris[1], &later, &ne), 0);
	CHECK_EQ(later.blocks_transferred, stats.blocks_transferred);
	CHECK_EQ(nexus_rebuild_start(nx, uris[1], &ne), -EPERM); /* not from paused */
	ne = (struct nexus_err){};
	CHECK_EQ(nexus_rebuild_resume(nx, uris[1], &ne), 0);
	CHECK_EQ(nexus_rebuild_resume(nx, uris[1], &ne), 0);
	CHECK_EQ(nexus_rebuild_stop(nx, uris[1], &ne), 0);
	CHECK_EQ(last()->stats.state, REBUILD_STOPPED);
	CHECK_EQ(child(1).state, CHILD_OPEN);
	CHECK(!child(1).is_synced);
	missed = child(1).missed_segments;
	CHECK(missed > 0 && missed < NBLOCKS / SEGMENT);
	CHECK_EQ((uint64_t)missed * SEGMENT, NBLOCKS - last()->stats.blocks_recovered);
	CHECK_EQ(nexus_rebuild_stop(nx, uris[1], &ne), 0); /* none: fine */
	CHECK_EQ(nexus_rebuild_pause(nx, uris[1], &ne), -ENOENT);
	CHECK_EQ(ne.why, NEXUS_E_REBUILD_NOT_FOUND);
	touch(0, 4, 3); /* behind the position: it goes to the child, and is not copied again */
	fast();
	ne = (struct nexus_err){};
	CHECK_EQ(nexus_rebuild_start(nx, uris[1], &ne), 0);
	nexus_rebuild_wait(nx);
	CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
	CHECK_EQ(last()->stats.blocks_transferred, (uint64_t)missed * SEGMENT);
	CHECK(are_equal(0, 1));
	CHECK_EQ(nexus_rebuild_start(nx, uris[1], &ne), -EPERM); /* it is healthy */
	all_unmake();
}

ENGINE_TEST(a_source_falls_and_another_takes_over)
{
	if (!all_make(3))
		return;
	put_all();
	offline(1);
	put_all();
	slow();
	online(1);
	until_it_moves(uris[1]);
	offline(0); /* returns: the rebuild has let it go */
	CHECK_EQ(child(0).health, CHILD_HEALTH_DEGRADED);
	fast();
	nexus_rebuild_wait(nx);
	CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
	CHECK_STR(last()->source, uris[2]);
	CHECK(are_equal(1, 2));
	all_unmake();
}

/* A rebuild goes on when one of its sources has been removed, and asks nothing of it. */
ENGINE_TEST(a_source_is_removed)
{
	struct nexus_err ne = {};

	if (!all_make(3))
		return;
	put_all();
	offline(1);
	put_all();
	slow();
	online(1);
	until_it_moves(uris[1]);
	CHECK_EQ(nexus_child_remove(nx, uris[0], &ne), 0); /* returns: it is freed */
	CHECK_EQ(nexus_rebuild_leave_source(nx, uris[1], uris[0], &ne), -ENOENT);
	CHECK_EQ(ne.why, NEXUS_E_CHILD_NOT_FOUND);
	offline(1); /* its rebuild is over, and says what it was from */
	CHECK_EQ(last()->stats.state, REBUILD_FAILED);
	CHECK_STR(last()->source, uris[2]);
	fast();
	all_unmake();
}

ENGINE_TEST(another_source_on_request)
{
	struct nexus_err ne = {};

	if (!all_make(3))
		return;
	put_all();
	offline(1);
	put_all();
	slow();
	online(1);
	until_it_moves(uris[1]);
	CHECK_EQ(nexus_rebuild_leave_source(nx, uris[1], uris[3], &ne), -ENOENT);
	ne = (struct nexus_err){};
	CHECK_EQ(nexus_rebuild_leave_source(nx, uris[1], uris[0], &ne), 0);
	fast();
	nexus_rebuild_wait(nx);
	CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
	CHECK_STR(last()->source, uris[2]);
	CHECK_EQ(child(0).health, CHILD_HEALTH_ONLINE);
	CHECK(are_equal(0, 1));
	all_unmake();
}

ENGINE_TEST(the_child_falls_while_it_is_rebuilt)
{
	static const char *const how[] = { "offline", "remove", "a host's write fails" };

	for (unsigned i = 0; i < ARRAY_LEN(how); i++) {
		struct nexus_err ne = {};

		TAP_ROW(how[i]);
		if (!all_make(2))
			return;
		put_all();
		offline(1);
		put_all();
		slow();
		online(1);
		until_it_moves(uris[1]);
		if (i == 0) {
			offline(1);
		} else if (i == 1) {
			CHECK_EQ(nexus_child_remove(nx, uris[1], &ne), 0);
		} else {
			inject("inject://m1?op=write&stage=completion&offset=42000&num_blk=10");
			put(42000 - START, 1, 1);
			settle_down();
		}
		CHECK_EQ(nexus_rebuild_count(nx), 0);
		CHECK_EQ(last()->stats.state, REBUILD_FAILED);
		fault_remove_all();
		fast();
		if (i == 1)
			CHECK_EQ(nexus_child_add(nx, uris[1], true, &ne), 0);
		else
			online(1);
		nexus_rebuild_wait(nx);
		CHECK(!last()->stats.is_partial);
		CHECK_EQ(child(1).health, CHILD_HEALTH_ONLINE);
		CHECK(are_equal(0, 1));
		all_unmake();
	}
	TAP_ROW(NULL);
}

ENGINE_TEST(the_only_source_cannot_be_read)
{
	if (!all_make(2))
		return;
	put_all();
	offline(1);
	put_all();
	inject("inject://m0?op=read&stage=completion&offset=20000&num_blk=1");
	online(1);
	nexus_rebuild_wait(nx);
	settle_down();
	CHECK_EQ(last()->stats.state, REBUILD_FAILED);
	CHECK_HAS(err_text(&last()->why), "no source could be read");
	CHECK_EQ(child(0).health, CHILD_HEALTH_ONLINE); /* a host has not missed anything yet */
	CHECK_EQ(child(1).reason, NEXUS_REASON_REBUILD_FAILED);
	all_unmake();
}

ENGINE_TEST(the_child_is_full)
{
	struct nexus_err ne = {};
	struct device *dev;
	const char *small = "malloc:///small?size_mb=32&capacity_mb=6";

	if (!all_make(1))
		return;
	put_all();
	CHECK_EQ(device_create(small, &dev, NULL), 0);
	CHECK_EQ(nexus_child_add(nx, "bdev:///small", true, &ne), 0);
	nexus_rebuild_wait(nx);
	settle_down();
	CHECK_EQ(last()->stats.state, REBUILD_FAILED);
	CHECK_HAS(err_text(&last()->why), "no space");
	CHECK_EQ(child(1).reason, NEXUS_REASON_REBUILD_FAILED);
	CHECK_EQ(do_io(&o, IO_READ, 0, 1, x, 0), IO_OK);
	put(0, 1, 1);
	all_unmake();
}

ENGINE_TEST(two_at_once_and_the_third_waits)
{
	struct rebuild_stats stats = {};
	struct nexus_err ne = {};

	if (!all_make(1))
		return;
	put_all();
	slow();
	for (unsigned i = 1; i < NCHILDREN; i++)
		CHECK_EQ(nexus_child_add(nx, uris[i], true, &ne), 0);
	CHECK_EQ(nexus_rebuild_count(nx), 3);
	CHECK_EQ(nexus_rebuild_stats(nx, uris[2], &stats, &ne), 0);
	CHECK_EQ(stats.state, REBUILD_RUNNING);
	CHECK_EQ(nexus_rebuild_stats(nx, uris[3], &stats, &ne), 0);
	CHECK_EQ(stats.state, REBUILD_INIT);
	put(7, 1, 99); /* the third does not get it: it is not attached */
	CHECK_EQ(nexus_child_remove(nx, uris[1], &ne), 0);
	fast();
	nexus_rebuild_wait(nx);
	CHECK_EQ(child(1).health, CHILD_HEALTH_ONLINE);
	CHECK_EQ(child(2).health, CHILD_HEALTH_ONLINE);
	CHECK(are_equal(0, 2) && are_equal(0, 3));
	all_unmake();
}

ENGINE_TEST(one_that_waits_is_stopped_or_goes_with_its_child)
{
	struct nexus_err ne = {};

	if (!all_make(1))
		return;
	put_all();
	slow();
	for (unsigned i = 1; i < NCHILDREN; i++)
		CHECK_EQ(nexus_child_add(nx, uris[i], true, &ne), 0);
	CHECK_EQ(nexus_rebuild_pause(nx, uris[3], &ne), 0);
	CHECK_EQ(nexus_rebuild_resume(nx, uris[3], &ne), 0);
	CHECK_EQ(nexus_rebuild_stop(nx, uris[3], &ne), 0);
	CHECK_EQ(nexus_rebuild_count(nx), 2);
	CHECK_EQ(nexus_rebuild_start(nx, uris[3], &ne), 0);
	CHECK_EQ(nexus_child_remove(nx, uris[3], &ne), 0);
	CHECK_EQ(nexus_rebuild_count(nx), 2);
	all_unmake(); /* destroyed while two run */
}

ENGINE_TEST(the_nexus_ends_while_it_rebuilds)
{
	struct nexus_err ne = {};

	if (!all_make(2))
		return;
	put_all();
	offline(1);
	put_all();
	slow();
	online(1);
	until_it_moves(uris[1]);
	CHECK_EQ(nexus_shutdown(nx, &ne), 0);
	CHECK_EQ(nexus_rebuild_count(nx), 0);
	CHECK_EQ(last()->stats.state, REBUILD_STOPPED);
	nexus_unmake();
	fast();
	if (!nexus_make(2)) /* made again: what is left */
		return;
	nexus_rebuild_wait(nx);
	CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
	CHECK(last()->stats.is_partial);
	CHECK(last()->stats.blocks_transferred < NBLOCKS);
	CHECK(are_equal(0, 1));
	all_unmake();
}

ENGINE_TEST(after_a_crash_no_more_than_missed_and_in_flight)
{
	if (!all_make(3))
		return;
	put_all();
	crash(); /* all is in flight still; the next one starts with nothing */
	if (!nexus_make(3))
		return;
	nexus_rebuild_wait(nx);
	CHECK(are_equal(0, 1) && are_equal(0, 2));
	touch(3, 2, 1);
	offline(2);
	touch(50, 5, 2);
	crash();
	memset(x, 0x66, sizeof(x)); /* a write that only one child has got */
	CHECK_EQ(base_do(1, IO_WRITE, START + 3 * SEGMENT, 1, x), IO_OK);
	if (!nexus_make(3))
		return;
	nexus_rebuild_wait(nx);
	for (unsigned i = 0; i < 2; i++) {
		const struct rebuild_record *record = nexus_rebuild_history(nx, i);

		if (!CHECK(record != NULL))
			continue;
		CHECK_EQ(record->stats.state, REBUILD_COMPLETED);
		CHECK(record->stats.is_partial);
		CHECK(record->stats.blocks_transferred <= 7 * SEGMENT);
		CHECK(record->stats.blocks_transferred >= 2 * SEGMENT);
	}
	CHECK(are_equal(0, 1) && are_equal(0, 2));
	all_unmake();
}

/* What was noted when the child was attached holds until it falls. */
ENGINE_TEST(a_crash_in_the_middle_of_a_rebuild)
{
	static const struct {
		const char *how;
		bool is_partial;
	} rows[] = { { "while it runs", true },
		     { "after the child has failed", false },
		     { "after it has ended", true } };

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		TAP_ROW(rows[i].how);
		if (!all_make(2))
			return;
		put_all();
		nexus_unmake(); /* nothing is in flight any more */
		if (!nexus_make(2))
			return;
		nexus_settings.intent_fine = 1000; /* no more is in flight than is written to */
		offline(1);
		touch(0, 200, 3);
		if (i < 2)
			slow();
		online(1);
		if (i < 2)
			until_it_moves(uris[1]);
		else
			nexus_rebuild_wait(nx);
		touch(230, 2, 4);
		if (i == 1) {
			inject("inject://m1?op=write&stage=completion&retries=1");
			touch(240, 1, 5);
			settle_down();
			touch(250, 1, 6);
			errand_wait(&nx->mark);
		}
		fault_remove_all();
		fast();
		crash();
		if (!nexus_make(2))
			return;
		nexus_rebuild_wait(nx);
		CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
		CHECK_EQ(last()->stats.is_partial, rows[i].is_partial);
		if (rows[i].is_partial)
			CHECK(last()->stats.blocks_transferred <= 202 * SEGMENT);
		CHECK(are_equal(0, 1));
		all_unmake();
	}
	TAP_ROW(NULL);
}

/* A volume made of @uri alone, under the same record. */
static enum nexus_error make_alone(const char *uri)
{
	struct nexus_opts opts = { .name = "n0",
				   .size = 16 << 20,
				   .children = &uri,
				   .nchildren = 1,
				   .info_key = "volume" };
	struct nexus_err ne = {};
	struct nexus *made;

	if (nexus_create(&opts, &made, &ne) == 0)
		CHECK_EQ(nexus_destroy(made, NULL), 0);
	return ne.why;
}

ENGINE_TEST(who_was_left_out_does_not_come_back_alone)
{
	struct nexus_err ne = {};

	if (!all_make(2))
		return;
	put_all();
	nexus_unmake();
	if (!nexus_make(1))
		return;
	touch(3, 1, 1); /* only the first has it */
	nexus_unmake();
	CHECK_EQ(make_alone(uris[1]), NEXUS_E_INCOMPLETE);
	CHECK_EQ(make_alone(uris[0]), NEXUS_OK);
	if (!nexus_make(2))
		return;
	CHECK(!child(1).is_synced);
	nexus_rebuild_wait(nx);
	CHECK(are_equal(0, 1));
	/* one that was removed is a stranger, and may not replace the others after a crash */
	CHECK_EQ(nexus_child_remove(nx, uris[1], &ne), 0);
	touch(4, 1, 1);
	crash();
	CHECK_EQ(make_alone(uris[1]), NEXUS_E_INCOMPLETE);
	if (nexus_make(1))
		all_unmake();
}

TAP_MAIN()
