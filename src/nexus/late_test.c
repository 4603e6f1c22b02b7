/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks that do not answer under a rebuild, a scrub or a repair: the job ends, hosts write where it
 * was, and what the disk does at last harms nobody.
 */
#include "base/units.h"
#include "nexus/rebuild_testing.h"
#include "nexus/scrub.h"

enum {
	LBA = 5 * SEGMENT, /* where it hangs, one segment of the nexus */
};

/* Requests to these blocks of a base are not answered while it is held. */
struct hang {
	struct device *dev;
	struct range_lock lock;
};

static void hang_begin(struct hang *hang, const char *name)
{
	hang->dev = device_lookup(name);
	device_pin(hang->dev);
	CHECK_EQ(range_lock(hang->dev, &hang->lock, START + LBA, SEGMENT, NULL), 0);
}

static void hang_end(struct hang *hang)
{
	range_unlock(hang->dev, &hang->lock);
	device_unpin(hang->dev);
}

static bool make(unsigned nchildren)
{
	if (!all_make(nchildren))
		return false;
	put_all();
	nx->child_timeout_ns = 50 * NS_PER_MS;
	return true;
}

/* It missed the segment that will hang. */
static void fall_behind(unsigned i)
{
	offline(i);
	put(LBA, SEGMENT, 77);
}

static void check_failed(const char *device)
{
	CHECK_EQ(last()->stats.state, REBUILD_FAILED);
	CHECK_EQ(last()->why.code, -ETIMEDOUT);
	CHECK(strstr(err_text(&last()->why), device) != NULL);
	CHECK(strstr(err_text(&last()->why), "was not answered within 50.0 ms") != NULL);
}

static void rebuilt(unsigned i)
{
	online(i);
	nexus_rebuild_wait(nx);
	CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
	CHECK(are_equal(0, i));
}

ENGINE_TEST(the_child_that_is_rebuilt_hangs)
{
	struct hang hang;

	if (!make(2))
		return;
	fall_behind(1);
	hang_begin(&hang, "m1");
	online(1);
	nexus_rebuild_wait(nx);
	check_failed("m1: write at block");
	CHECK_EQ(child(1).reason, NEXUS_REASON_TIMED_OUT);
	CHECK_EQ(nexus_rebuild_progress(nx, uris[1]), -1);
	/* nobody waits for it: the range is free, and others may be rebuilt */
	put(LBA, SEGMENT, 78);
	CHECK_EQ(child(1).health, CHILD_HEALTH_UNKNOWN); /* it is being closed */
	hang_end(&hang);
	settle_down();
	CHECK(!are_equal(0, 1)); /* it has what is older */
	rebuilt(1);
	CHECK(!last()->stats.is_partial);
	all_unmake();
}

ENGINE_TEST(the_source_hangs_and_another_is_there)
{
	struct hang hang;

	if (!make(3))
		return;
	fall_behind(2);
	hang_begin(&hang, "m0");
	online(2);
	nexus_rebuild_wait(nx);
	check_failed("m0: read at block");
	CHECK_EQ(child(0).reason, NEXUS_REASON_TIMED_OUT);
	CHECK_EQ(child(2).reason, NEXUS_REASON_REBUILD_FAILED);
	errand_wait(&nx->retire);
	put(LBA, SEGMENT, 78);
	child_wait_closed(nx->child[nx->order[2]]); /* it owes nothing */
	hang_end(&hang);
	settle_down();
	online(0);
	rebuilt(2);
	CHECK(are_equal(0, 1));
	all_unmake();
}

/* Then hosts have to wait for it, too, and nobody but it could serve them. */
ENGINE_TEST(the_only_source_hangs)
{
	struct hang hang;

	if (!make(2))
		return;
	fall_behind(1);
	hang_begin(&hang, "m0");
	online(1);
	nexus_rebuild_wait(nx);
	check_failed("m0: read at block");
	CHECK_EQ(child(0).health, CHILD_HEALTH_ONLINE);
	put(0, 1, 3);
	hang_end(&hang);
	put(LBA, SEGMENT, 78);
	settle_down();
	rebuilt(1);
	all_unmake();
}

struct destroying {
	struct task_event event;
	bool is_done;
};

static void destroy_task(void *arg)
{
	struct destroying *d = arg;

	nexus_unmake();
	d->is_done = true;
	task_event_fire(&d->event);
}

ENGINE_TEST(the_nexus_is_destroyed_while_an_answer_is_late)
{
	struct destroying d = {};
	struct hang hang;

	if (!make(2))
		return;
	fall_behind(1);
	hang_begin(&hang, "m1");
	online(1);
	nexus_rebuild_wait(nx);
	CHECK_EQ(task_spawn("destroy", destroy_task, &d), 0);
	while (nexus_next(NULL)->state != NEXUS_CLOSED)
		task_yield();
	for (unsigned i = 0; i < 100; i++)
		task_yield();
	CHECK(!d.is_done); /* the buffers are the device's */
	hang_end(&hang);
	task_event_wait(&d.event);
	CHECK(nexus_make(2));
	nexus_rebuild_wait(nx);
	CHECK(are_equal(0, 1));
	all_unmake();
}

ENGINE_TEST(a_child_hangs_under_a_scrub)
{
	struct scrub_opts opts = { .is_repairing = true };
	struct nexus_err ne = {}, again = {};
	struct scrub_stats stats;
	struct hang hang;

	if (!make(3))
		return;
	hang_begin(&hang, "m1");
	CHECK_EQ(nexus_scrub_start(nx, &opts, &ne), 0);
	nexus_scrub_wait(nx);
	nexus_scrub_stats(nx, &stats);
	CHECK_EQ(stats.state, SCRUB_FAILED);
	CHECK_EQ(stats.blocks_differ, 0);
	CHECK_EQ(child(1).reason, NEXUS_REASON_TIMED_OUT);
	errand_wait(&nx->retire);
	put(LBA, SEGMENT, 78);
	CHECK(nexus_scrub_start(nx, &opts, &again) < 0);
	CHECK(strstr(err_text(&again.err), "has not yet answered") != NULL);
	hang_end(&hang);
	settle_down();
	rebuilt(1);
	CHECK_EQ(nexus_scrub_start(nx, &opts, &ne), 0);
	nexus_scrub_wait(nx);
	nexus_scrub_stats(nx, &stats);
	CHECK_EQ(stats.state, SCRUB_COMPLETED);
	all_unmake();
}

static void mend_by_scrub(void)
{
	struct scrub_opts opts = { .is_repairing = true };
	struct scrub_stats stats;
	struct nexus_err ne = {};

	memset(y, 0xd0, BLOCK);
	CHECK_EQ(base_do(1, IO_WRITE, START + LBA, 1, y), IO_OK);
	inject("inject://m1?op=write&method=delay&delay_us=400000&offset=10880&num_blk=128");
	CHECK_EQ(nexus_scrub_start(nx, &opts, &ne), 0);
	nexus_scrub_wait(nx);
	nexus_scrub_stats(nx, &stats);
	CHECK_EQ(stats.blocks_differ, 1);
	CHECK_EQ(stats.blocks_repaired, 0);
}

static void mend_by_repair(void)
{
	inject("inject://m1?op=write&method=delay&delay_us=400000&offset=10880&num_blk=128");
	nexus_repair_ring(nx, nx->order[1], LBA, 1);
	errand_wait(&nx->mend);
	CHECK_EQ(nx->nrepairs_failed, 1);
}

/* The write that mends comes late, on top of what a host wrote there meanwhile. */
static void mend_hangs(void (*mend)(void) MAY_SUSPEND) MAY_SUSPEND
{
	uint64_t start_ns;

	if (!make(3))
		return;
	start_ns = reactor_self()->now_ns;
	mend();
	CHECK_EQ(child(1).reason, NEXUS_REASON_TIMED_OUT);
	put(LBA, SEGMENT, 78);
	CHECK(nx->child[nx->order[1]]->is_leaving);
	CHECK(reactor_self()->now_ns < start_ns + 350 * NS_PER_MS);
	settle_down(); /* it has landed */
	fault_remove_all();
	CHECK(child(1).has_io_log);
	rebuilt(1);
	CHECK(are_equal(0, 2));
	all_unmake();
}

ENGINE_TEST(a_scrub_mends_and_the_child_hangs)
{
	mend_hangs(mend_by_scrub);
}

ENGINE_TEST(a_repair_mends_and_the_child_hangs)
{
	mend_hangs(mend_by_repair);
}

TAP_MAIN()
