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

/* The good one is the source wherever it stands, and the engine says the same. */
ENGINE_TEST(another_disk_is_never_the_source)
{
	struct check_report report;
	struct nexus_record record;
	struct device *dev;

	for (unsigned good = 0; good < 3; good++) {
		if (!all_make(3))
			return;
		touch(3, 2, 1);
		nexus_unmake();
		record = record_now();
		for (unsigned i = 0; i < 3; i++) {
			if (i == good)
				continue;
			CHECK_EQ(device_destroy(bases[i], NULL), 0);
			CHECK_EQ(device_create(bases[i], &dev, NULL), 0);
		}
		report = check(3, &record);
		CHECK_EQ(report.source, good);
		for (unsigned i = 0; i < 3; i++) {
			if (i == good)
				continue;
			CHECK_EQ(report.replica[i].verdict, CHECK_STALE);
			CHECK_EQ(report.replica[i].rebuild, CHECK_REBUILD_FULL);
			CHECK_HAS(report.replica[i].why, "another disk");
		}
		if (!nexus_make(3))
			return;
		for (unsigned i = 0; i < 3; i++)
			CHECK_EQ(child(i).is_synced, i == good);
		nexus_rebuild_wait(nx);
		all_unmake();
	}
}

/* The good disk was stale, the healthy one is another: nobody is left. */
ENGINE_TEST(the_only_healthy_one_was_replaced)
{
	struct check_report report;
	struct nexus_record record;
	struct device *dev;

	if (!all_make(2))
		return;
	offline(1);
	touch(3, 2, 1);
	nexus_unmake();
	record = record_now();
	CHECK_EQ(device_destroy(bases[0], NULL), 0);
	CHECK_EQ(device_create(bases[0], &dev, NULL), 0);
	report = check(2, &record);
	CHECK_EQ(report.source, -1);
	CHECK_EQ(report.replica[0].verdict, CHECK_STALE);
	CHECK_HAS(report.advice, "replaced");
	bases_unmake();
}

/* It was out, and is back: in sync, and the source if it is the only one. */
ENGINE_TEST(one_that_came_back)
{
	struct check_report report;
	struct nexus_record record;

	for (unsigned missed = 0; missed < 2; missed++) {
		for (unsigned count = 2; count < 4; count++) {
			if (!all_make(count))
				return;
			touch(3, 2, 1);
			offline(1);
			settle_down();
			touch(9, missed, 2);
			online(1);
			nexus_rebuild_wait(nx);
			CHECK(child(1).is_synced);
			nexus_unmake();
			record = record_now();
			for (unsigned i = 0; i < 2; i++) {
				report = check(count, i == 0 ? &record : NULL);
				CHECK_EQ(report.source, 0);
				CHECK_EQ(report.replica[1].verdict, CHECK_IN_SYNC);
				CHECK_EQ(report.replica[1].rebuild, CHECK_REBUILD_NONE);
			}
			CHECK_EQ(nexus_check(&uris[1], 1, NULL, &report, NULL), 0);
			CHECK_EQ(report.source, 0);
			bases_unmake();
		}
	}
}

/* Its rebuild was under way. Its records are the newest, and it lacks nearly everything. */
ENGINE_TEST(one_that_was_being_rebuilt_is_no_source)
{
	struct check_report report;
	struct nexus_err ne = {};

	for (unsigned count = 1; count < 4; count++) {
		if (!all_make(count))
			return;
		put_all();
		rebuild_settings_set(&(struct rebuild_settings){ .rate = 1 << 20 });
		CHECK_EQ(nexus_child_add(nx, uris[count], true, &ne), 0);
		CHECK(!child(count).is_synced);
		touch(3, 2, 1);
		crash();
		report = check(count + 1, NULL);
		CHECK(report.source >= 0 && report.source < (int)count);
		CHECK_EQ(report.replica[count].verdict, CHECK_STALE);
		CHECK_EQ(report.replica[count].rebuild, CHECK_REBUILD_FULL);
		bases_unmake();
	}
	rebuild_settings_set(&(struct rebuild_settings){});
}

ENGINE_TEST(replicas_that_are_missing_are_named)
{
	struct check_report report;
	struct nexus_record record;

	if (!all_make(3))
		return;
	offline(2);
	touch(3, 2, 1);
	errand_wait(&nx->mark);
	nexus_unmake();
	record = record_now();
	report = check(3, &record);
	CHECK_EQ(report.nmissing, 0);
	report = check(1, &record);
	CHECK_EQ(report.nmissing, 2);
	CHECK(uuid_equal(&report.missing[0], &record.child[1].uuid));
	CHECK(uuid_equal(&report.missing[1], &record.child[2].uuid));
	report = check(2, NULL);
	CHECK_EQ(report.nmissing, 1);
	CHECK(uuid_equal(&report.missing[0], &record.child[2].uuid));
	bases_unmake();
}

ENGINE_TEST(blocks_of_two_sizes)
{
	static const char other[] = "malloc:///big?size_mb=32&blk_size=4096&uuid=" UUID("1");
	const char *const mixed[] = { uris[0], other };
	struct check_report report;
	struct nexus_record record;

	if (!all_make(2))
		return;
	nexus_unmake();
	record = record_now();
	for (unsigned i = 0; i < 2; i++) {
		CHECK_EQ(nexus_check(mixed, 2, i == 0 ? &record : NULL, &report, NULL), 0);
		CHECK_EQ(report.source, -1);
		CHECK_EQ(report.replica[0].verdict, CHECK_UNKNOWN);
		CHECK_HAS(report.replica[1].why, "blocks of 4096");
		CHECK_HAS(report.advice, "blk_size");
	}
	bases_unmake();
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
