/* SPDX-License-Identifier: Apache-2.0 */
/* What a client does with children and rebuilds while something else happens. */
#include "nexus/rebuild.h"
#include "nexus/rebuild_testing.h"

static const struct rebuild_record *last(void)
{
	static const struct rebuild_record none;
	const struct rebuild_record *record = nexus_rebuild_history(nx, 0);

	return CHECK(record != NULL) ? record : &none;
}

/* ---- is it the disk that left? -------------------------------------------------------------- */

/* The disk is taken out, and an empty one of the same name and uuid put in its place. */
static void replace(unsigned i)
{
	struct device *dev;

	CHECK_EQ(device_destroy(bases[i], NULL), 0);
	CHECK_EQ(device_create(bases[i], &dev, NULL), 0);
}

ENGINE_TEST(another_disk_in_its_place_gets_everything)
{
	if (!all_make(2))
		return;
	put_all();
	offline(1);
	replace(1);
	touch(3, 1, 1);
	online(1);
	nexus_rebuild_wait(nx);
	CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
	CHECK(!last()->stats.is_partial);
	CHECK(are_equal(0, 1));
	all_unmake();
}

/* The same between two lives of the nexus, however the first one ended. */
ENGINE_TEST(another_disk_after_the_end_gets_everything)
{
	static const struct {
		const char *how;
		bool is_clean, is_stale;
	} rows[] = { { "after a clean end", true, false },
		     { "after a clean end without it", true, true },
		     { "after a crash", false, false },
		     { "after a crash without it", false, true } };

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		TAP_ROW(rows[i].how);
		if (!all_make(2))
			return;
		put_all();
		if (rows[i].is_stale)
			offline(1);
		touch(3, 1, 1);
		if (rows[i].is_clean)
			nexus_unmake();
		else
			crash();
		replace(1);
		if (!nexus_make(2))
			return;
		CHECK(!child(1).is_synced);
		nexus_rebuild_wait(nx);
		CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
		CHECK(!last()->stats.is_partial);
		CHECK(are_equal(0, 1));
		all_unmake();
	}
	TAP_ROW(NULL);
}

TAP_MAIN()
