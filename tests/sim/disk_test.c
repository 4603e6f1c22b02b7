/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated medium keeps its promises, and breaks everything it did not promise. */
#include "base/tap.h"

#include "medium.h"
#include "world.h"

enum { NBLOCKS = 64 };

static const struct medium_opts opts = {
	.name = "m",
	.nblocks = NBLOCKS,
	.block_size = 512,
	.has_write_cache = true,
	.parallel = 4,
};

static void store(struct medium *m, uint64_t unit, uint8_t byte, bool is_stable)
{
	uint8_t data[4096];

	memset(data, byte, sizeof(data));
	medium_store(m, unit * 4096, sizeof(data), data, is_stable);
}

/* The byte that the whole unit holds, -1 when it is torn. */
static int unit_byte(const struct medium *m, uint64_t unit)
{
	for (unsigned i = 1; i < 4096; i++) {
		if (m->current[unit * 4096 + i] != m->current[unit * 4096])
			return -1;
	}
	return m->current[unit * 4096];
}

TEST(medium_flushed_data_survives_every_power_cut)
{
	for (uint64_t seed = 1; seed <= 200; seed++) {
		struct medium *m;

		world_start(&(struct world_opts){ .seed = seed });
		m = medium_new(&opts);
		store(m, 0, 1, false);
		store(m, 1, 2, true);
		medium_flush(m, 100);
		store(m, 0, 3, false);
		medium_power_cut(m);
		CHECK(unit_byte(m, 0) == 1 || unit_byte(m, 0) == 3);
		CHECK_EQ(unit_byte(m, 1), 2);
		medium_free(m);
		world_stop();
	}
}

TEST(medium_cut_loses_keeps_and_reorders)
{
	unsigned seen[4] = {};

	for (uint64_t seed = 1; seed <= 200; seed++) {
		struct medium *m;
		int byte;

		world_start(&(struct world_opts){ .seed = seed });
		m = medium_new(&opts);
		for (uint8_t i = 1; i <= 3; i++)
			store(m, 2, i, false);
		CHECK_EQ(unit_byte(m, 2), 3);
		medium_power_cut(m);
		byte = unit_byte(m, 2);
		if (CHECK(byte >= 0 && byte <= 3)) /* never torn within a unit */
			seen[byte]++;
		medium_free(m);
		world_stop();
	}
	for (unsigned i = 0; i < 4; i++)
		CHECK(seen[i] > 5); /* lost, and each of the three versions */
}

TEST(medium_failed_flush_is_partial)
{
	unsigned kept = 0, destaged = 0;
	struct medium *m;

	world_start(&(struct world_opts){ .seed = 9 });
	m = medium_new(&opts);
	for (unsigned i = 0; i < 8; i++)
		store(m, i, (uint8_t)(i + 1), false);
	medium_flush(m, 50);
	for (unsigned i = 0; i < 8; i++) {
		destaged += m->stable[i * 4096] == i + 1;
		kept += m->stable[i * 4096] == 0;
	}
	CHECK(kept > 0 && destaged > 0);
	CHECK_EQ(kept + destaged, 8);
	CHECK_EQ(m->npieces, kept);
	medium_free(m);
	world_stop();
}

TEST(medium_without_cache_is_stable_at_once)
{
	struct medium_opts through = opts;
	struct medium *m;

	through.has_write_cache = false;
	world_start(&(struct world_opts){ .seed = 5 });
	m = medium_new(&through);
	store(m, 0, 7, false);
	CHECK_EQ(m->npieces, 0);
	medium_power_cut(m);
	CHECK_EQ(unit_byte(m, 0), 7);
	medium_free(m);
	world_stop();
}

TEST(medium_holes_are_zero_also_after_a_cut)
{
	struct medium_opts thin = opts;

	thin.is_thin = true;
	for (uint64_t seed = 1; seed <= 100; seed++) {
		struct medium *m;

		world_start(&(struct world_opts){ .seed = seed });
		m = medium_new(&thin);
		store(m, 0, 7, true);
		medium_store(m, 0, 4096, NULL, false);
		CHECK_EQ(m->written[0], 0);
		medium_power_cut(m);
		CHECK(m->written[0] || unit_byte(m, 0) == 0);
		medium_free(m);
		world_stop();
	}
}

TEST(medium_grows_with_zeroes)
{
	struct medium *m;

	world_start(&(struct world_opts){ .seed = 5 });
	m = medium_new(&opts);
	store(m, 7, 9, false);
	medium_resize(m, 32);
	medium_resize(m, 128);
	CHECK_EQ(unit_byte(m, 7), 0);
	medium_power_cut(m);
	CHECK_EQ(unit_byte(m, 7), 0);
	medium_free(m);
	world_stop();
}

TEST(medium_bad_blocks_fail_only_their_operations)
{
	struct medium *m;

	world_start(&(struct world_opts){ .seed = 5 });
	m = medium_new(&opts);
	medium_bad_add(m, 10, 2, IO_BIT(IO_READ));
	CHECK(medium_is_bad(m, IO_READ, 9, 2));
	CHECK(!medium_is_bad(m, IO_READ, 8, 2));
	CHECK(!medium_is_bad(m, IO_WRITE, 10, 2));
	CHECK(!medium_is_bad(m, IO_READ, 12, 1));
	medium_free(m);
	world_stop();
}

TAP_MAIN()
