/* SPDX-License-Identifier: Apache-2.0 */
/* Pages of write-intent records: the way to disk and back, and every kind of damage. */
#include "nexus/intent.h"

#include "base/rng.h"
#include "base/tap.h"

static struct intent_id id_of(const struct segmap *map)
{
	struct intent_id id = { .generation = 0x1234567890abcdef,
				.nsegments = map->nsegments,
				.shift = map->shift };

	memset(id.nexus.b, 1, sizeof(id.nexus.b));
	memset(id.replica.b, 2, sizeof(id.replica.b));
	return id;
}

TEST(segments_grow_with_the_volume)
{
	static const struct {
		uint64_t nblocks;
		unsigned block_shift, shift;
	} rows[] = {
		{ 1, 9, 7 },
		{ 1 << 20, 9, 7 },
		{ 256000ull << 7, 9, 7 },
		{ (256000ull << 7) + 1, 9, 8 },
		{ 1ull << 31, 9, 14 },
		{ 1ull << 20, 12, 4 },
		{ 1ull << 40, 12, 23 },
		{ 1, 16, 0 },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		unsigned shift = segment_shift(rows[i].nblocks, rows[i].block_shift);

		CHECK_EQ(shift, rows[i].shift);
		CHECK((rows[i].nblocks - 1) >> shift < SEGMENTS_MAX);
	}
}

TEST(ranges_and_walks)
{
	struct segmap map, other;

	CHECK_EQ(segmap_init(&map, 1000 << 7, 7), 0);
	CHECK_EQ(segmap_init(&other, 1000 << 7, 7), 0);
	CHECK_EQ(map.nsegments, 1000);
	CHECK_EQ(segmap_next(&map, 0), 1000);
	segmap_set_range(&map, 127, 2); /* the end of one, the start of the next */
	segmap_set_range(&map, 999 << 7, 128);
	segmap_set_range(&map, 0, 0);
	CHECK_EQ(segmap_count(&map), 3);
	CHECK_EQ(segmap_next(&map, 0), 0);
	CHECK_EQ(segmap_next(&map, 1), 1);
	CHECK_EQ(segmap_next(&map, 2), 999);
	segmap_clear(&map, 1);
	segmap_or(&other, &map);
	CHECK_EQ(segmap_count(&other), 2);
	segmap_fill(&other);
	CHECK_EQ(segmap_count(&other), 1000);
	segmap_zero(&other);
	CHECK_EQ(segmap_count(&other), 0);
	segmap_done(&map);
	segmap_done(&other);
}

TEST(a_map_comes_back_page_by_page)
{
	static struct intent_page page;
	struct segmap map, back;
	struct intent_id id;
	struct rng rng;

	rng_init(&rng, 1);
	CHECK_EQ(segmap_init(&map, 70001, 0), 0); /* three pages, the last one broken */
	CHECK_EQ(segmap_init(&back, 70001, 0), 0);
	for (unsigned i = 0; i < 5000; i++)
		segmap_set(&map, (uint32_t)rng_below(&rng, map.nsegments));
	segmap_set(&map, 70000);
	id = id_of(&map);
	for (unsigned i = 0; i < INTENT_MAP_PAGES; i++) {
		unsigned index = intent_page_missed(3) + i;

		intent_page_encode(&page, &id, index, 7, &id.replica, &map);
		CHECK(intent_page_is_valid(&page, index));
		CHECK(!intent_page_is_valid(&page, index + 1));
		CHECK(intent_page_is_bound(&page, &id));
		intent_page_or(&page, &back);
	}
	CHECK_EQ(segmap_count(&back), segmap_count(&map));
	for (size_t i = 0; i < segmap_nwords(&map); i++)
		CHECK(map.words[i] == back.words[i]);
	segmap_done(&map);
	segmap_done(&back);
}

TEST(no_damaged_bit_is_believed)
{
	static struct intent_page page, bad;
	struct segmap map;
	struct intent_id id;

	CHECK_EQ(segmap_init(&map, 1000, 0), 0);
	segmap_set(&map, 500);
	id = id_of(&map);
	intent_page_encode(&page, &id, INTENT_PAGE_IN_FLIGHT, 1, NULL, &map);
	for (size_t bit = 0; bit < sizeof(page) * 8; bit++) {
		bad = page;
		((uint8_t *)&bad)[bit / 8] ^= (uint8_t)(1 << bit % 8);
		if (!CHECK(!intent_page_is_valid(&bad, INTENT_PAGE_IN_FLIGHT)))
			break;
	}
	segmap_done(&map);
}

TEST(a_page_of_another_is_not_bound)
{
	static struct intent_page page;
	struct segmap map;
	struct intent_id id, other;

	CHECK_EQ(segmap_init(&map, 1000, 0), 0);
	id = id_of(&map);
	intent_page_encode(&page, &id, INTENT_PAGE_HEAD, 1, NULL, NULL);
	for (unsigned what = 0; what < 5; what++) {
		other = id;
		other.generation ^= what == 0;
		other.nexus.b[15] ^= what == 1;
		other.replica.b[0] ^= what == 2;
		other.nsegments += what == 3;
		other.shift = (uint8_t)(other.shift + (what == 4));
		CHECK(!intent_page_is_bound(&page, &other));
	}
	segmap_done(&map);
}

TEST(of_two_copies_the_newer_whole_one_counts)
{
	static struct intent_page pair[2], none;
	struct segmap map;
	struct intent_id id, other;
	unsigned index = INTENT_PAGE_IN_FLIGHT;

	CHECK_EQ(segmap_init(&map, 1000, 0), 0);
	id = other = id_of(&map);
	other.generation--;
	CHECK_EQ(intent_pair_pick(pair, &id, index), -1);
	intent_page_encode(&pair[0], &id, index, 5, NULL, &map);
	CHECK_EQ(intent_pair_pick(pair, &id, index), 0);
	intent_page_encode(&pair[1], &id, index, 6, NULL, &map);
	CHECK_EQ(intent_pair_pick(pair, &id, index), 1);
	intent_page_encode(&pair[0], &id, index, 7, NULL, &map);
	CHECK_EQ(intent_pair_pick(pair, &id, index), 0);
	memset(pair[0].bits + 2048, 0xff, 1024); /* torn */
	CHECK_EQ(intent_pair_pick(pair, &id, index), 1);
	/* an older generation with a higher sequence */
	intent_page_encode(&pair[0], &other, index, 99, NULL, &map);
	CHECK_EQ(intent_pair_pick(pair, &id, index), 1);
	pair[1] = none;
	CHECK_EQ(intent_pair_pick(pair, &id, index), -1);
	segmap_done(&map);
}

TAP_MAIN()
