/* SPDX-License-Identifier: Apache-2.0 */
/* What replicas of a nexus say of themselves and each other, with the record and without. */
#include "nexus/check.h"

#include "nexus/rebuild_testing.h"

/* The record of the store, as it is now. */
static struct nexus_record record_now(void)
{
	struct nexus_record record = {};
	char text[RECORD_TEXT_MAX];

	CHECK_EQ(store->get(store, "volume", text, NULL), 0);
	CHECK_EQ(record_parse(text, strlen(text), &record, NULL), 0);
	return record;
}

static struct check_report check(unsigned count, const struct nexus_record *record)
{
	struct check_report report;
	struct err err = {};

	if (nexus_check(uris, count, record, &report, &err) < 0)
		CHECK_STR(err_text(&err), "a report");
	return report;
}

static void bases_unmake(void)
{
	device_remove_all();
	nexus_settings_set(&(struct nexus_settings){});
	store_free(store);
}

static void check_clean_end(bool is_shut_down)
{
	struct check_report report;
	struct nexus_record record;

	if (!all_make(3))
		return;
	put_all();
	if (is_shut_down)
		CHECK_EQ(nexus_shutdown(nx, NULL), 0);
	nexus_unmake();
	record = record_now();
	CHECK(record.is_clean);
	for (unsigned i = 0; i < 2; i++) {
		report = check(3, i == 0 ? &record : NULL);
		CHECK_EQ(report.source, 0);
		CHECK_EQ(report.segment_size, 65536);
		CHECK_EQ(report.replica[0].verdict, CHECK_SOURCE);
		CHECK_EQ(report.replica[0].in_flight, 0);
		for (unsigned j = 1; j < 3; j++) {
			CHECK_EQ(report.replica[j].verdict, CHECK_IN_SYNC);
			CHECK_EQ(report.replica[j].rebuild, CHECK_REBUILD_NONE);
			CHECK_EQ(report.replica[j].in_flight, 0);
		}
	}
	bases_unmake();
}

ENGINE_TEST(after_a_clean_end_all_are_in_sync)
{
	check_clean_end(false);
	check_clean_end(true);
}

ENGINE_TEST(after_a_crash_who_is_stale_and_by_how_much)
{
	struct check_report report;
	struct nexus_record record;

	if (!all_make(3))
		return;
	touch(3, 2, 1);
	offline(1);
	touch(50, 5, 2);
	errand_wait(&nx->mark);
	crash();
	record = record_now();
	for (unsigned i = 0; i < 2; i++) {
		report = check(4, i == 0 ? &record : NULL);
		CHECK_EQ(report.source, 0);
		CHECK_EQ(report.replica[1].verdict, CHECK_STALE);
		CHECK_EQ(report.replica[1].rebuild, CHECK_REBUILD_PARTIAL);
		CHECK_EQ(report.replica[1].segments, 7);
		CHECK_EQ(report.replica[2].verdict, CHECK_IN_SYNC);
		CHECK_EQ(report.replica[2].rebuild, CHECK_REBUILD_PARTIAL);
		CHECK_EQ(report.replica[2].segments, 7);
		CHECK_EQ(report.replica[3].rebuild, CHECK_REBUILD_FULL);
		CHECK_EQ(report.replica[3].recorded, -1);
	}
	/* the stale one alone: the record knows better, it itself does not */
	report.source = 7;
	CHECK_EQ(nexus_check(&uris[1], 1, &record, &report, NULL), 0);
	CHECK_EQ(report.source, -1);
	CHECK_EQ(report.replica[0].verdict, CHECK_STALE);
	CHECK_HAS(report.advice, "would lose");
	/* and what it says is what is done */
	if (!nexus_make(3))
		return;
	nexus_rebuild_wait(nx);
	CHECK_EQ(nexus_rebuild_history(nx, 0)->stats.blocks_transferred +
			 nexus_rebuild_history(nx, 0)->stats.blocks_cleared,
		 nexus_rebuild_history(nx, 1)->stats.blocks_transferred +
			 nexus_rebuild_history(nx, 1)->stats.blocks_cleared);
	all_unmake();
}

/* An empty disk under the name and the uuid of one that was there. */
ENGINE_TEST(another_disk_is_no_replica)
{
	struct check_report report;
	struct nexus_record record;
	struct device *dev;

	for (unsigned i = 0; i < 2; i++) {
		if (!all_make(2))
			return;
		touch(3, 2, 1);
		if (i == 0)
			nexus_unmake();
		else
			crash();
		record = record_now();
		CHECK_EQ(device_destroy(bases[1], NULL), 0);
		CHECK_EQ(device_create(bases[1], &dev, NULL), 0);
		report = check(2, &record);
		CHECK_EQ(report.replica[1].verdict, CHECK_STALE);
		CHECK_EQ(report.replica[1].rebuild, CHECK_REBUILD_FULL);
		CHECK_HAS(report.replica[1].why, "another disk");
		bases_unmake();
	}
}

ENGINE_TEST(damage_and_strangers)
{
	static uint8_t zero[16 * BLOCK];
	struct check_report report;
	struct nexus_record record;
	const char *const gone[] = { "bdev:///nobody" };

	if (!all_make(2))
		return;
	touch(3, 2, 1);
	crash();
	record = record_now();
	/* both copies of the page of what is in flight */
	CHECK_EQ(base_do(0, IO_WRITE, 2048 + 16, 16, zero), IO_OK);
	report = check(2, &record);
	CHECK(!report.replica[0].has_marks);
	CHECK_EQ(report.source, 0);
	CHECK_EQ(report.replica[1].rebuild, CHECK_REBUILD_FULL);
	report = check(2, NULL);
	CHECK_EQ(report.source, 1);
	CHECK_EQ(report.replica[0].verdict, CHECK_UNKNOWN);
	CHECK_HAS(report.replica[0].why, "damaged");
	/* one copy of the head: somebody had begun to write all of it anew */
	CHECK_EQ(base_do(1, IO_WRITE, 2048 + 8, 8, zero), IO_OK);
	report = check(2, NULL);
	CHECK(!report.replica[1].has_marks);
	record.generation ^= 1;
	report = check(2, &record);
	CHECK_EQ(report.replica[1].rebuild, CHECK_REBUILD_FULL);
	/* a block copy of another replica */
	CHECK_EQ(base_do(1, IO_READ, 2048, 512, x), IO_OK);
	CHECK_EQ(base_do(2, IO_WRITE, 2048, 512, x), IO_OK);
	report = check(3, NULL);
	CHECK_EQ(report.replica[2].verdict, CHECK_UNKNOWN);
	CHECK_HAS(report.replica[2].why, "another replica");
	CHECK_EQ(nexus_check(gone, 1, NULL, &report, NULL), 0);
	CHECK_EQ(report.replica[0].verdict, CHECK_UNREADABLE);
	CHECK_EQ(nexus_check(uris, 0, NULL, &report, NULL), -EINVAL);
	bases_unmake();
}

TAP_MAIN()
