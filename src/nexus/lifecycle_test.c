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

/* One disk under two names is no mirror, and two of one uuid are one to the record. */
ENGINE_TEST(a_replica_is_taken_once)
{
	static const char *const twice[][2] = {
		{ "bdev:///m0", "bdev:///m0?uuid=" UUID("0") },
		{ "malloc:///a?size_mb=32&uuid=" UUID("7"),
		  "malloc:///b?size_mb=32&uuid=" UUID("7") },
		{ "malloc:///a?size_mb=32", "bdev:///a" },
	};

	if (!all_make(1))
		return;
	for (size_t i = 0; i < ARRAY_LEN(twice); i++) {
		struct nexus_opts opts = {
			.name = "n1", .size = 16 << 20, .children = twice[i], .nchildren = 2
		};
		struct nexus_err ne = {};
		struct nexus *made;

		CHECK(nexus_create(&opts, &made, &ne) < 0);
		CHECK_EQ(ne.why, NEXUS_E_CHILD_EXISTS);
		CHECK_HAS(err_text(&ne.err), "the same replica as");
		CHECK(device_lookup("a") == NULL && device_lookup("b") == NULL);
	}
	for (size_t i = 0; i < 2; i++) {
		static const char *const more[] = { "bdev:///m0",
						    "malloc:///a?size_mb=32&uuid=" UUID("0") };
		struct nexus_err ne = {};

		CHECK(nexus_child_add(nx, more[i], true, &ne) < 0);
		CHECK_EQ(ne.why, NEXUS_E_CHILD_EXISTS);
		CHECK(device_lookup("m0") != NULL && device_lookup("a") == NULL);
	}
	all_unmake();
}

TAP_MAIN()
