/* SPDX-License-Identifier: Apache-2.0 */
/* A nexus over real devices: data, children that fail, the last of them. */
#include "nexus/testing.h"

/* ---- data ----------------------------------------------------------------------------------- */

ENGINE_TEST(writes_reach_all_children)
{
	static uint8_t buf[8 * BLOCK], back[8 * BLOCK];
	struct io_stats stats;

	if (!nexus_make(3))
		return;
	CHECK_EQ(o.dev->nblocks, NBLOCKS);
	fill(buf, sizeof(buf), 1);
	CHECK_EQ(do_io(&o, IO_WRITE, 100, 8, buf, 0), IO_OK);
	for (unsigned i = 0; i < 3; i++) {
		char name[] = { 'c', (char)('0' + i), 0 };

		memset(back, 0, sizeof(back));
		CHECK_EQ(child_do(name, IO_READ, 10240 + 100, 8, back), IO_OK);
		CHECK_MEM(back, buf, sizeof(buf));
		memset(back, 0, sizeof(back));
		CHECK_EQ(do_io(&o, IO_READ, 100, 8, back, 0), IO_OK);
		CHECK_MEM(back, buf, sizeof(buf));
	}
	CHECK_EQ(do_io(&o, IO_WRITE, NBLOCKS - 8, 8, buf, IO_FUA), IO_OK);
	CHECK_EQ(do_io(&o, IO_WRITE, NBLOCKS - 7, 8, buf, 0), IO_OUT_OF_RANGE);
	CHECK_EQ(do_io(&o, IO_FLUSH, 0, 0, NULL, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_RESET, 0, 0, NULL, 0), IO_OK);
	device_stats(device_lookup("c0"), &stats);
	CHECK_EQ(stats.op[IO_RESET].ops, 0); /* no child is connected anew in silence */
	CHECK_EQ(status(), NEXUS_ONLINE);
	nexus_unmake();
}

ENGINE_TEST(zeroes_and_unmap_reach_all_children)
{
	static uint8_t buf[8 * BLOCK], zero[8 * BLOCK], back[8 * BLOCK];
	static const enum io_op ops[] = { IO_WRITE_ZEROES, IO_UNMAP };

	if (!nexus_make(2))
		return;
	fill(buf, sizeof(buf), 2);
	for (unsigned i = 0; i < 2; i++) {
		CHECK_EQ(do_io(&o, IO_WRITE, 64, 8, buf, 0), IO_OK);
		CHECK_EQ(do_io(&o, ops[i], 64, 8, NULL, 0), IO_OK);
		CHECK_EQ(child_do("c0", IO_READ, 10240 + 64, 8, back), IO_OK);
		CHECK_MEM(back, zero, sizeof(zero));
		CHECK_EQ(child_do("c1", IO_READ, 10240 + 64, 8, back), IO_OK);
		CHECK_MEM(back, zero, sizeof(zero));
	}
	/* larger than a span: it takes the whole table */
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 8, buf, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_WRITE_ZEROES, 0, NBLOCKS, NULL, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_READ, 0, 8, back, 0), IO_OK);
	CHECK_MEM(back, zero, sizeof(zero));
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 8, buf, 0), IO_OK);
	check_equal("c0", "c1");
	nexus_unmake();
}

ENGINE_TEST(holes_are_seen_through_the_offset)
{
	static uint8_t buf[8 * BLOCK];

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_seek(&o, IO_SEEK_DATA, 0), NBLOCKS);
	CHECK_EQ(do_io(&o, IO_WRITE, 4096, 8, buf, 0), IO_OK);
	CHECK_EQ(do_seek(&o, IO_SEEK_DATA, 0), 4096);
	CHECK_EQ(do_seek(&o, IO_SEEK_HOLE, 4096), 4104);
	nexus_unmake();
}

ENGINE_TEST(compare_and_write_is_made_for_all_legs)
{
	static uint8_t buf[2 * BLOCK], back[BLOCK];

	if (!nexus_make(2))
		return;
	fill(buf + BLOCK, BLOCK, 3);
	CHECK_EQ(do_io(&o, IO_COMPARE_WRITE, 7, 1, buf, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_COMPARE_WRITE, 7, 1, buf, 0), IO_MISCOMPARE);
	CHECK_EQ(child_do("c1", IO_READ, 10240 + 7, 1, back), IO_OK);
	CHECK_MEM(back, buf + BLOCK, BLOCK);
	check_equal("c0", "c1");
	CHECK_EQ(status(), NEXUS_ONLINE);
	nexus_unmake();
}

/* What a child lends goes on to be seen, and with it writes that other children do not have yet. */
ENGINE_TEST(what_is_read_is_a_copy)
{
	static uint8_t buf[8 * BLOCK], back[8 * BLOCK];
	struct io_loan loan;

	if (!nexus_make(2))
		return;
	fill(buf, sizeof(buf), 4);
	CHECK_EQ(do_io(&o, IO_WRITE, 100, 8, buf, 0), IO_OK);
	for (unsigned i = 0; i < 2; i++) { /* of each child */
		memset(back, 0, sizeof(back));
		io_offer(&o.io, &loan);
		CHECK_EQ(do_io(&o, IO_READ, 100, 8, back, IO_BORROW), IO_OK);
		CHECK(!io_is_lent(&o.io));
		CHECK(o.io.flags & IO_BORROW); /* the owner's request is as it was */
		CHECK_MEM(back, buf, sizeof(buf));
		io_return(&o.io);
	}
	nexus_unmake();
}

/* ---- failing children ----------------------------------------------------------------------- */

ENGINE_TEST(a_failing_leg_is_retired_and_the_host_sees_nothing)
{
	static const struct {
		const char *fault;
		enum io_op op;
		enum nexus_reason reason;
	} rows[] = {
		{ "inject://c1?op=write&stage=completion", IO_WRITE, NEXUS_REASON_IO_ERROR },
		{ "inject://c1?op=write&stage=submit", IO_WRITE, NEXUS_REASON_IO_ERROR },
		{ "inject://c1?op=write&method=status-lvol-nospace&stage=completion", IO_WRITE,
		  NEXUS_REASON_NO_SPACE },
		{ "inject://c1?op=write&method=status-nvme-3-60&stage=completion", IO_WRITE,
		  NEXUS_REASON_IO_ERROR },
		{ "inject://c1?domain=child&op=write&offset=100&num_blk=1&stage=completion",
		  IO_WRITE, NEXUS_REASON_IO_ERROR },
		{ "inject://c1?domain=child&op=write&offset=100&num_blk=1", IO_WRITE,
		  NEXUS_REASON_IO_ERROR },
		{ "inject://c1?op=all&stage=completion", IO_WRITE_ZEROES, NEXUS_REASON_IO_ERROR },
		{ "inject://c1?op=all&stage=completion", IO_UNMAP, NEXUS_REASON_IO_ERROR },
		{ "inject://c1?op=all&stage=completion", IO_FLUSH, NEXUS_REASON_IO_ERROR },
	};
	static uint8_t buf[8 * BLOCK], back[8 * BLOCK];

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		bool has_range = rows[i].op != IO_FLUSH;

		TAP_ROW(rows[i].fault);
		if (!nexus_make(2))
			return;
		CHECK_EQ(do_io(&o, IO_WRITE, 96, 8, buf, 0), IO_OK); /* the segment is marked */
		inject(rows[i].fault);
		fill(buf, sizeof(buf), (unsigned)i);
		CHECK_EQ(do_io(&o, rows[i].op, has_range ? 96 : 0, has_range ? 8 : 0, buf, 0),
			 IO_OK);
		CHECK_EQ(recorded(0), 1);
		CHECK_EQ(recorded(1), 0); /* when it was acknowledged, not later */
		settle_down();
		CHECK_EQ(status(), NEXUS_DEGRADED);
		CHECK_EQ(child_info(1).state, CHILD_FAULTED);
		CHECK_EQ(child_info(1).reason, rows[i].reason);
		CHECK(child_info(1).has_io_log);
		CHECK_EQ(child_info(1).missed_segments, has_range);
		CHECK(device_lookup("c1") == NULL);
		CHECK_EQ(do_io(&o, IO_WRITE, 4096, 8, buf, 0), IO_OK);
		CHECK_EQ(child_info(1).missed_segments, has_range + 1u);
		CHECK_EQ(do_io(&o, IO_READ, 4096, 8, back, 0), IO_OK);
		CHECK_MEM(back, buf, sizeof(buf));
		CHECK_EQ(fault_remove(rows[i].fault, NULL), 0);
		nexus_unmake();
		CHECK(recorded_clean());
	}
}

ENGINE_TEST(a_read_is_answered_by_another_child)
{
	static uint8_t buf[8 * BLOCK], back[8 * BLOCK];

	if (!nexus_make(2))
		return;
	fill(buf, sizeof(buf), 5);
	CHECK_EQ(do_io(&o, IO_WRITE, 100, 8, buf, 0), IO_OK);
	inject("inject://c1?op=read&stage=completion");
	for (unsigned i = 0; i < 2; i++) {
		memset(back, 0, sizeof(back));
		CHECK_EQ(do_io(&o, IO_READ, 100, 8, back, 0), IO_OK);
		CHECK_MEM(back, buf, sizeof(buf));
	}
	settle_down();
	CHECK_EQ(child_info(1).state, CHILD_FAULTED);
	CHECK_EQ(recorded(1), 0);
	CHECK_EQ(fault_remove("inject://c1?op=read&stage=completion", NULL), 0);
	nexus_unmake();
}

/* Unrecovered read error: media, 0x81. */
ENGINE_TEST(a_medium_error_is_repaired_and_the_child_stays)
{
	static uint8_t buf[8 * BLOCK], back[8 * BLOCK];
	const char *fault = "inject://c1?op=read&stage=completion&method=status-nvme-2-81"
			    "&offset=10340&num_blk=8&retries=1";
	struct nexus_info info;

	if (!nexus_make(2))
		return;
	fill(buf, sizeof(buf), 6);
	CHECK_EQ(do_io(&o, IO_WRITE, 100, 8, buf, 0), IO_OK);
	memset(back, 0, sizeof(back));
	CHECK_EQ(child_do("c1", IO_WRITE, 10340, 8, back),
		 IO_OK); /* what repair has to put right */
	inject(fault);
	for (unsigned i = 0; i < 2; i++) {
		CHECK_EQ(do_io(&o, IO_READ, 100, 8, back, 0), IO_OK);
		CHECK_MEM(back, buf, sizeof(buf));
		errand_wait(&nx->mend);
	}
	nexus_info(nx, &info);
	CHECK_EQ(info.repairs, 1);
	CHECK_EQ(info.status, NEXUS_ONLINE);
	CHECK_EQ(child_do("c1", IO_READ, 10340, 8, back), IO_OK);
	CHECK_MEM(back, buf, sizeof(buf));
	CHECK_EQ(fault_remove(fault, NULL), 0);
	nexus_unmake();
}

/* One cannot read its medium, the other falls: the blocks are lost, and that is the answer. */
ENGINE_TEST(who_falls_has_no_say_about_the_blocks)
{
	static uint8_t buf[BLOCK];

	if (!nexus_make(2))
		return;
	inject("inject://c1?op=read&stage=completion&method=status-nvme-2-81&retries=1");
	inject("inject://c0?op=read&stage=completion&retries=1");
	CHECK_EQ(nx->child[0]->is_local, nx->child[1]->is_local); /* so the second is asked first */
	CHECK_EQ(do_io(&o, IO_READ, 100, 1, buf, 0), IO_READ_ERROR);
	settle_down();
	CHECK_EQ(child_info(0).state, CHILD_FAULTED);
	CHECK_EQ(child_info(1).health, CHILD_HEALTH_ONLINE);
	fault_remove_all();
	nexus_unmake();
}

ENGINE_TEST(without_a_healthy_child_io_is_held_until_the_end)
{
	static uint8_t buf[BLOCK];
	struct late_io write, read, flush;
	struct nexus_err ne = {};
	struct nexus_info info;

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	inject("inject://c0?op=write&stage=completion");
	inject("inject://c1?op=write&stage=completion");
	late_start(&write, IO_WRITE, 0, 1, buf);
	while (status() != NEXUS_FAULTED)
		task_yield();
	settle_down();
	late_start(&read, IO_READ, 0, 1, buf);
	late_start(&flush, IO_FLUSH, 0, 0, NULL);
	turns(100);
	CHECK(!write.is_done);
	CHECK(!read.is_done);
	CHECK(!flush.is_done);
	nexus_info(nx, &info);
	CHECK_EQ(info.status, NEXUS_FAULTED);
	CHECK(info.is_frozen);
	CHECK_EQ(recorded(0) + recorded(1), 1); /* never nobody */
	CHECK(nexus_child_add(nx, uris[2], true, &ne) < 0);
	CHECK_EQ(ne.why, NEXUS_E_NOT_ALLOWED);
	ne = (struct nexus_err){};
	CHECK(nexus_child_online(nx, uris[0], &ne) < 0);
	CHECK_EQ(ne.why, NEXUS_E_NOT_ALLOWED);
	ne = (struct nexus_err){};
	CHECK_EQ(nexus_shutdown(nx, &ne), 0);
	task_event_wait(&write.event);
	task_event_wait(&read.event);
	task_event_wait(&flush.event);
	CHECK(write.io.status != IO_OK);
	CHECK(read.io.status != IO_OK);
	CHECK(flush.io.status != IO_OK);
	fault_remove_all();
	nexus_unmake();
}

/* The openers close only when their I/O has ended, and it ends only because the nexus goes. */
ENGINE_TEST(a_frozen_nexus_can_be_destroyed_under_its_openers)
{
	static uint8_t buf[BLOCK];
	struct late_io write;
	struct nexus_err ne = {};

	if (!nexus_make(1))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	inject("inject://c0?op=write&stage=completion");
	late_start(&write, IO_WRITE, 0, 1, buf);
	while (status() != NEXUS_FAULTED)
		task_yield();
	settle_down();
	CHECK(!write.is_done);
	CHECK_EQ(recorded(0), 1);
	CHECK_EQ(task_spawn("closer", close_when_done, &write), 0);
	CHECK_EQ(nexus_destroy(nx, &ne), 0);
	CHECK(write.io.status != IO_OK);
	CHECK(device_next(NULL) == NULL);
	fault_remove_all();
}

/* ---- the last child -------------------------------------------------------------------------- */

/* One finds fault with the request, the other one dies of it: nobody has it, and one goes on. */
ENGINE_TEST(a_request_that_is_refused_does_not_cost_the_last_child)
{
	static uint8_t buf[BLOCK];

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	inject("inject://c0?op=write&method=status-nvme-0-2&offset=10240&num_blk=1");
	inject("inject://c1?op=write&method=status-nvme-0-6&offset=10240&num_blk=1");
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_INVALID);
	settle_down();
	CHECK_EQ(status(), NEXUS_DEGRADED);
	CHECK_EQ(recorded(1), 0);
	CHECK_EQ(do_io(&o, IO_WRITE, 1, 1, buf, 0), IO_OK);
	fault_remove_all();
	nexus_unmake();
}

/* All are short of something for longer than they may be: one is kept, and the host may try
 * again. */
ENGINE_TEST(a_shortage_everywhere_does_not_freeze)
{
	static uint8_t buf[BLOCK];
	struct nexus_info info;

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	inject("inject://c0?op=rw&method=status-nvme-0-82&offset=10240&num_blk=128");
	inject("inject://c1?op=rw&method=status-nvme-0-82&offset=10240&num_blk=128");
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_NOT_READY);
	CHECK_EQ(status(), NEXUS_DEGRADED);
	CHECK_EQ(do_io(&o, IO_READ, 0, 1, buf, 0), IO_NOT_READY);
	nexus_info(nx, &info);
	CHECK(!info.is_frozen);
	fault_remove_all();
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_READ, 0, 1, buf, 0), IO_OK);
	nexus_unmake();
}

static void fall(void *arg)
{
	(void)nexus_child_fail(arg, CHILD_FAULTED, NEXUS_REASON_IO_ERROR);
}

/* The other one falls while this is on its way out: the record must not end up without anybody. */
ENGINE_TEST(who_became_the_last_is_not_removed)
{
	struct nexus_err ne = {};

	if (!nexus_make(2))
		return;
	CHECK_EQ(task_spawn("fall", fall, nx->child[0]), 0);
	CHECK(nexus_child_remove(nx, uris[1], &ne) < 0);
	CHECK_EQ(ne.why, NEXUS_E_REMOVE_LAST_HEALTHY);
	settle_down();
	CHECK_EQ(recorded(0) + recorded(1), 1);
	nexus_unmake();
}

TAP_MAIN()
