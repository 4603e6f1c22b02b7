/* SPDX-License-Identifier: Apache-2.0 */
/* What is recorded before anything is acknowledged; a store that is away; another owner. */
#include "nexus/testing.h"

ENGINE_TEST(nothing_is_acknowledged_while_the_store_is_away)
{
	static uint8_t buf[8 * BLOCK], back[8 * BLOCK];
	struct late_io first, second, read;

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 100, 8, buf, 0), IO_OK); /* marked, so the next is sent */
	fill(buf, sizeof(buf), 8);
	inject("inject://c1?op=write&stage=completion");
	fake.is_hanging = true;
	late_start(&first, IO_WRITE, 100, 8, buf);
	while (fake.let_go == NULL)
		task_yield();
	late_start(&second, IO_WRITE, 2000, 8, buf);
	late_start(&read, IO_READ, 100, 8, back);
	turns(100);
	CHECK(!first.is_done && !second.is_done);
	CHECK(!read.is_done); /* its blocks are new on one leg only */
	CHECK_EQ(do_io(&o, IO_READ, 5000, 8, back, 0), IO_OK); /* others are read */
	CHECK_EQ(recorded(1), 1);
	fake.is_hanging = false;
	task_event_fire(fake.let_go);
	task_event_wait(&first.event);
	task_event_wait(&second.event);
	task_event_wait(&read.event);
	CHECK_EQ(first.io.status, IO_OK);
	CHECK_EQ(second.io.status, IO_OK);
	CHECK_EQ(read.io.status, IO_OK);
	CHECK_EQ(recorded(1), 0);
	CHECK_EQ(status(), NEXUS_DEGRADED);
	fault_remove_all();
	nexus_unmake();
}

ENGINE_TEST(a_store_that_fails_is_asked_again)
{
	static uint8_t buf[BLOCK];

	if (!nexus_make(2))
		return;
	inject("inject://c1?op=write&stage=completion");
	fake.fail_next = 2;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(fake.nfailed, 2);
	CHECK_EQ(recorded(1), 0);
	fault_remove_all();
	nexus_unmake();
}

ENGINE_TEST(a_store_that_is_lost_ends_the_nexus)
{
	static uint8_t buf[BLOCK];
	struct nexus_info info;

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK); /* marked, so the next is sent */
	inject("inject://c1?op=write&stage=completion");
	fake.fail_next = 1000;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_ENDED); /* hosts go elsewhere */
	CHECK_EQ(fake.nfailed, 3);
	CHECK_EQ(recorded(1), 1); /* untouched: somebody else may own it */
	CHECK(!recorded_clean());
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_ENDED);
	CHECK_EQ(do_io(&o, IO_READ, 0, 1, buf, 0), IO_ENDED);
	CHECK_EQ(do_io(&o, IO_FLUSH, 0, 0, NULL, 0), IO_ENDED);
	CHECK(nx->dev.is_ended);
	nexus_info(nx, &info);
	CHECK_EQ(info.state, NEXUS_SHUTDOWN);
	fault_remove_all();
	nexus_unmake();
	CHECK(!recorded_clean());
}

ENGINE_TEST(a_reservation_conflict_ends_the_nexus)
{
	static uint8_t buf[BLOCK];
	struct nexus_info info;

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	inject("inject://c1?op=write&stage=completion&method=status-nvme-0-83");
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_ENDED);
	errand_wait(&nx->retire);
	CHECK_EQ(do_io(&o, IO_READ, 0, 1, buf, 0), IO_ENDED);
	nexus_info(nx, &info);
	CHECK_EQ(info.state, NEXUS_SHUTDOWN);
	CHECK_EQ(recorded(1), 1);
	fault_remove_all();
	nexus_unmake();
}

/* A shortage is no fault: what it has it had before, and whoever reads it next asks again. */
ENGINE_TEST(a_child_that_is_not_ready_to_be_mended_stays)
{
	static uint8_t buf[8 * BLOCK];

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 100, 8, buf, 0), IO_OK);
	inject("inject://c1?op=write&stage=completion&method=status-nvme-0-82&retries=1");
	nexus_repair_ring(nx, 1, 100, 8);
	errand_wait(&nx->mend);
	errand_wait(&nx->retire);
	CHECK_EQ(nx->nrepairs_failed, 1);
	CHECK(child_info(1).is_synced);
	nexus_repair_ring(nx, 1, 100, 8);
	errand_wait(&nx->mend);
	CHECK_EQ(nx->nrepairs, 1);
	fault_remove_all();
	nexus_unmake();
}

/* Who was to say what is right has gone meanwhile. One bad block is better than none at all. */
ENGINE_TEST(the_last_child_is_not_lost_to_a_repair)
{
	static uint8_t buf[8 * BLOCK];
	struct hold hold;

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 100, 8, buf, 0), IO_OK);
	inject("inject://c1?op=write&stage=completion&offset=10340&num_blk=8");
	hold_begin(&hold, "c1", START + 100, 8);
	nexus_repair_ring(nx, 1, 100, 8);
	while (nx->child[1]->users == 0)
		task_yield();
	offline_uri(uris[0]);
	hold_end(&hold);
	errand_wait(&nx->mend);
	errand_wait(&nx->retire);
	CHECK_EQ(nx->nrepairs_failed, 1);
	CHECK(!nx->is_frozen);
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	fault_remove_all();
	nexus_unmake();
}

/* Its pages are refused while it is made: the record stays the other owner's. */
ENGINE_TEST(a_reservation_conflict_of_a_page_makes_none)
{
	char before[RECORD_TEXT_MAX];

	bases_make(false);
	if (!remake(2))
		return;
	nexus_unmake_kept();
	memcpy(before, fake.text, sizeof(before));
	inject("inject://m1?op=write&method=status-nvme-0-83");
	REFUSED(kept_create(kept, 2, &ne_), NEXUS_E_STORE);
	CHECK_STR(fake.text, before);
	bases_unmake();
}

/* What is mended is written, too: the record may be another owner's by then. */
ENGINE_TEST(a_reservation_conflict_of_a_repair_ends_the_nexus)
{
	static uint8_t buf[8 * BLOCK], back[8 * BLOCK];
	char before[RECORD_TEXT_MAX];
	struct nexus_info info;

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 100, 8, buf, 0), IO_OK);
	memcpy(before, fake.text, sizeof(before));
	inject("inject://c1?op=read&stage=completion&method=status-nvme-2-81&retries=1");
	inject("inject://c1?op=write&stage=completion&method=status-nvme-0-83");
	for (unsigned i = 0; i < 2; i++) {
		CHECK_EQ(do_io(&o, IO_READ, 100, 8, back, 0), IO_OK);
		errand_wait(&nx->mend);
		errand_wait(&nx->retire);
		nexus_info(nx, &info);
		if (info.state != NEXUS_OPEN)
			break;
	}
	CHECK_EQ(info.state, NEXUS_SHUTDOWN);
	CHECK_STR(fake.text, before);
	fault_remove_all();
	nexus_unmake();
}

/* Namespace Not Ready, five times. */
ENGINE_TEST(patience_with_a_child_that_is_not_ready)
{
	static uint8_t buf[BLOCK];
	const char *fault = "inject://c1?op=rw&stage=completion&method=status-nvme-0-82&retries=3";

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	inject(fault);
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(status(), NEXUS_ONLINE);
	fault_remove_all();
	check_equal("c0", "c1");
	nexus_unmake();
}

TAP_MAIN()
