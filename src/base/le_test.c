/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of le.h and rng.h: bytes in the order of the specification, numbers as published. */
#include "base/le.h"

#include "base/rng.h"
#include "base/tap.h"

TEST(bytes_lie_in_order)
{
	struct {
		struct le16 a;
		struct le32 b;
		struct le64 c;
		struct be16 d;
		struct be32 e;
		struct be64 f;
	} wire = {};
	static const uint8_t expected[] = {
		0x02, 0x01, 0x04, 0x03, 0x02, 0x01, 0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01,
		0x01, 0x02, 0x01, 0x02, 0x03, 0x04, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08,
	};

	static_assert(sizeof(wire) == sizeof(expected), "no padding");
	le16_put(&wire.a, 0x0102);
	le32_put(&wire.b, 0x01020304);
	le64_put(&wire.c, 0x0102030405060708);
	wire.d = be16_of(0x0102);
	wire.e = be32_of(0x01020304);
	wire.f = be64_of(0x0102030405060708);
	CHECK_MEM(&wire, expected, sizeof(wire));
	CHECK_EQ(le16_get(wire.a), 0x0102);
	CHECK_EQ(le32_get(wire.b), 0x01020304);
	CHECK_EQ(le64_get(wire.c), 0x0102030405060708);
	CHECK_EQ(be16_get(wire.d), 0x0102);
	CHECK_EQ(be32_get(wire.e), 0x01020304);
	CHECK_EQ(be64_get(wire.f), 0x0102030405060708);
	CHECK_EQ(le64_get(le64_of(UINT64_MAX)), UINT64_MAX);
}

/* The first outputs of splitmix64 for seed 1234567, as listed with the published reference code. */
TEST(splitmix64_gives_the_published_numbers)
{
	static const uint64_t expected[] = { 6457827717110365317u, 3203168211198807973u,
					     9817491932198370423u, 4593380528125082431u,
					     16408922859458223821u };
	uint64_t state = 1234567;

	for (unsigned i = 0; i < ARRAY_LEN(expected); i++)
		CHECK_EQ(splitmix64(&state), expected[i]);
}

/* xoshiro256** from the state {1, 2, 3, 4}; computed by hand from the definition for the first two:
 * rotl(2 * 5, 7) * 9 = 11520, then s[1] is 0. */
TEST(xoshiro_gives_the_published_numbers)
{
	static const uint64_t expected[] = { 11520, 0, 1509978240, 1215971899390074240 };
	struct rng rng = { { 1, 2, 3, 4 } };

	for (unsigned i = 0; i < ARRAY_LEN(expected); i++)
		CHECK_EQ(rng_next(&rng), expected[i]);
}

TEST(same_seed_same_numbers)
{
	struct rng a, b, c;
	unsigned same = 0;

	rng_init(&a, 42);
	rng_init(&b, 42);
	rng_init(&c, 43);
	for (int i = 0; i < 1000; i++) {
		uint64_t x = rng_next(&a);

		CHECK_EQ(x, rng_next(&b));
		same += x == rng_next(&c);
	}
	CHECK_EQ(same, 0);
}

TEST(bounds_hold_and_all_values_come)
{
	unsigned seen[10] = {};
	struct rng rng;

	rng_init(&rng, 0);
	for (int i = 0; i < 100000; i++) {
		uint64_t x = rng_below(&rng, 10);
		uint64_t y = rng_range(&rng, 5, 7);

		if (!CHECK(x < 10) || !CHECK(y >= 5 && y <= 7))
			return;
		seen[x]++;
	}
	for (unsigned i = 0; i < 10; i++)
		CHECK(seen[i] > 9500 && seen[i] < 10500);
	CHECK_EQ(rng_below(&rng, 1), 0);
	CHECK_EQ(rng_range(&rng, 9, 9), 9);
	CHECK(rng_below(&rng, UINT64_MAX) < UINT64_MAX);
	(void)rng_range(&rng, 0, UINT64_MAX); /* the span wraps to 0: no division by it */
}

TEST(chance_is_near_its_odds)
{
	struct rng rng;
	int hits = 0;

	rng_init(&rng, 99);
	for (int i = 0; i < 100000; i++)
		hits += rng_chance(&rng, 1, 10);
	CHECK(hits > 9500 && hits < 10500);
	CHECK(!rng_chance(&rng, 0, 10));
	CHECK(rng_chance(&rng, 10, 10));
}

TEST(fill_writes_exactly_its_bytes)
{
	for (size_t len = 0; len < 40; len++) {
		uint8_t bytes[48];
		struct rng rng;
		unsigned changed = 0;

		memset(bytes, 0xee, sizeof(bytes));
		rng_init(&rng, len);
		rng_fill(&rng, bytes + 4, len);
		for (size_t i = 0; i < len; i++)
			changed += bytes[4 + i] != 0xee;
		CHECK(changed + 2 >= len);
		CHECK_EQ(bytes[3], 0xee);
		CHECK_EQ(bytes[4 + len], 0xee);
	}
}

TAP_MAIN()
