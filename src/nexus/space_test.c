/* SPDX-License-Identifier: Apache-2.0 */
/* Children that are thin and full: who is out, who is told, who may come back. */
#include "nexus/testing.h"

/* The first write of a segment marks it, which wants space, too: so all are marked first. */
static bool thin_make(const char *const *children, unsigned n)
{
	struct nexus_opts opts = {
		.name = "n0", .size = 4 << 20, .children = children, .nchildren = n
	};

	fake_start();
	return nexus_make_of(&opts);
}

ENGINE_TEST(a_full_child_is_out_and_comes_back)
{
	static const char *const thin[] = { "malloc:///t0?size_mb=16",
					    "malloc:///t1?size_mb=16&capacity_mb=1" };
	static uint8_t buf[2048 * BLOCK];
	struct nexus_err ne = {};

	if (!thin_make(thin, 2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 2048, buf, 0), IO_OK); /* 1 MiB and the marks: too much */
	settle_down();
	CHECK_EQ(child_info(1).reason, NEXUS_REASON_NO_SPACE);
	CHECK_EQ(child_info(1).health, CHILD_HEALTH_DEGRADED);
	CHECK_EQ(status(), NEXUS_DEGRADED);
	CHECK_EQ(nexus_child_online(nx, thin[1], &ne), 0);
	CHECK_EQ(child_info(1).state, CHILD_OPEN);
	nexus_unmake();
}

ENGINE_TEST(where_all_are_full_the_host_hears_it)
{
	static const char *const thin[] = { "malloc:///t0?size_mb=16&capacity_mb=1",
					    "malloc:///t1?size_mb=16&capacity_mb=1" };
	static uint8_t buf[2048 * BLOCK], back[BLOCK];
	unsigned nchildren;

	for (nchildren = 1; nchildren <= 2; nchildren++) {
		if (!thin_make(thin, nchildren))
			return;
		fill(buf, sizeof(buf), 10);
		CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
		for (unsigned i = 0; i < 3; i++)
			CHECK_EQ(do_io(&o, IO_WRITE, 1, 2047 + 1, buf, 0), IO_NO_SPACE);
		settle_down();
		CHECK_EQ(status(), nchildren == 1 ? NEXUS_ONLINE : NEXUS_DEGRADED);
		CHECK_EQ(do_io(&o, IO_READ, 0, 1, back, 0), IO_OK); /* it goes on */
		CHECK_MEM(back, buf, BLOCK);
		CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
		nexus_unmake();
	}
}

ENGINE_TEST(a_last_child_without_space_may_be_told_to_be_online)
{
	static const char fault[] =
		"inject://c0?op=write&method=status-lvol-nospace&offset=10240&num_blk=8";
	static uint8_t buf[BLOCK];
	struct late_io write;
	struct nexus_err ne = {};

	if (!nexus_make(1))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	inject(fault);
	late_start(&write, IO_WRITE, 0, 1, buf);
	CHECK_EQ(child_info(0).state, CHILD_FAULTED); /* and will be taken back */
	CHECK_EQ(nexus_child_online(nx, uris[0], &ne), 0);
	CHECK_EQ(child_info(0).state, CHILD_OPEN);
	task_event_wait(&write.event);
	CHECK_EQ(write.io.status, IO_NO_SPACE);
	CHECK_EQ(fault_remove(fault, NULL), 0);
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	nexus_unmake();
}

/* The last child cannot even note what is about to be written to it. */
ENGINE_TEST(no_space_for_marks_is_told_too)
{
	static const char fault[] =
		"inject://c0?op=write&method=status-lvol-nospace&offset=2048&num_blk=512";
	static uint8_t buf[BLOCK];
	struct nexus_err ne = {};
	struct late_io write;

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(nexus_child_fault(nx, uris[1], NEXUS_REASON_OFFLINE, &ne), 0);
	errand_wait(&nx->mark);
	inject(fault);
	late_start(&write, IO_WRITE, 1000, 1, buf); /* another segment */
	turns(1000);
	CHECK(write.is_done);
	CHECK_EQ(fault_remove(fault, NULL), 0);
	task_event_wait(&write.event);
	CHECK_EQ(write.io.status, IO_NO_SPACE);
	errand_wait(&nx->retire);
	CHECK(child_info(0).is_synced);
	CHECK_EQ(do_io(&o, IO_WRITE, 1000, 1, buf, 0), IO_OK);
	nexus_unmake();
}

static int attach_only(struct child *child, struct nexus_err *ne)
{
	(void)ne;
	return nexus_child_attach(child, NULL);
}

/* A rebuild may be past the blocks that only its target has now. */
ENGINE_TEST(who_is_rebuilt_does_not_keep_what_the_host_was_refused)
{
	static const struct nexus_rebuilder rebuilder = { attach_only, note_leave };
	static const char fault[] =
		"inject://c0?op=write&method=status-lvol-nospace&offset=10240&num_blk=8";
	static uint8_t buf[8 * BLOCK];
	struct nexus_err ne = {};

	nexus_set_rebuilder(&rebuilder);
	if (!nexus_make(1))
		return;
	CHECK_EQ(nexus_child_add(nx, uris[1], true, &ne), 0);
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 8, buf, 0), IO_OK);
	CHECK(child_info(1).state == CHILD_OPEN && !child_info(1).is_synced);
	inject(fault);
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 8, buf, 0), IO_NO_SPACE);
	settle_down();
	CHECK(child_info(0).is_synced);
	CHECK_EQ(child_info(1).state, CHILD_FAULTED);
	CHECK_EQ(child_info(1).reason, NEXUS_REASON_REBUILD_FAILED);
	CHECK(!child_info(1).has_io_log); /* all of it, next time */
	CHECK_EQ(fault_remove(fault, NULL), 0);
	nexus_unmake();
	nexus_set_rebuilder(&rebuild_jobs);
}

/* There is no space for the mark of a write on the last child: the host hears it, as of any
 * write. */
ENGINE_TEST(no_space_for_a_mark_is_no_space)
{
	static uint8_t buf[BLOCK];
	struct nexus_err ne = {};
	struct nexus_info info;

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(nexus_child_fault(nx, uris[1], NEXUS_REASON_OFFLINE, &ne), 0);
	errand_wait(&nx->mark);
	inject("inject://c0?op=write&method=status-nvme-0-81&offset=2048&num_blk=1168");
	CHECK_EQ(do_io(&o, IO_WRITE, 1280, 1, buf, 0), IO_NO_SPACE);
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK); /* marked before */
	CHECK_EQ(status(), NEXUS_DEGRADED);
	nexus_info(nx, &info);
	CHECK(!info.is_frozen);
	CHECK_EQ(info.segments_in_flight, 1);
	fault_remove_all();
	CHECK_EQ(do_io(&o, IO_WRITE, 1280, 1, buf, 0), IO_OK);
	nexus_unmake();
}

TAP_MAIN()
