/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of uuid.c: the accepted spellings, the refused ones, and the seam for randomness. */
#include "base/uuid.h"

#include <errno.h>

#include "base/tap.h"

#define CANONICAL "8d9cb0f6-2b1a-4a35-9c55-0123456789ab"

static const struct uuid known = { { 0x8d, 0x9c, 0xb0, 0xf6, 0x2b, 0x1a, 0x4a, 0x35, 0x9c, 0x55,
				     0x01, 0x23, 0x45, 0x67, 0x89, 0xab } };

TEST(accepted_spellings)
{
	static const char *const texts[] = {
		CANONICAL,
		"8D9CB0F6-2B1A-4A35-9C55-0123456789AB",
		"8d9cb0f62b1a4a359c550123456789ab",
		"urn:uuid:" CANONICAL,
		"{" CANONICAL "}",
	};

	for (unsigned i = 0; i < ARRAY_LEN(texts); i++) {
		struct uuid uuid = {};

		TAP_ROW(texts[i]);
		CHECK_EQ(uuid_from_text(texts[i], &uuid, NULL), 0);
		CHECK(uuid_equal(&uuid, &known));
	}
}

TEST(refused_spellings)
{
	static const char *const texts[] = {
		"",
		"{}",
		"{",
		"urn:uuid:",
		"8d9cb0f6-2b1a-4a35-9c55-0123456789a",
		"8d9cb0f6-2b1a-4a35-9c55-0123456789abc",
		"8d9cb0f6-2b1a-4a35-9c55-0123456789ag",
		"8d9cb0f62b1a4a359c550123456789ag",
		"8d9cb0f6-2b1a-4a359c55-0123456789abcd",
		"8d9cb0f62b1a4a359c55-0123456789a",
		"{8d9cb0f6-2b1a-4a35-9c55-0123456789ab",
		" 8d9cb0f6-2b1a-4a35-9c55-0123456789ab",
	};

	for (unsigned i = 0; i < ARRAY_LEN(texts); i++) {
		struct uuid uuid = known;
		struct err err = {};

		TAP_ROW(texts[i]);
		CHECK_EQ(uuid_from_text(texts[i], &uuid, &err), -EINVAL);
		CHECK(uuid_equal(&uuid, &known));
		CHECK_HAS(err.msg, "is not a UUID");
	}
}

TEST(text_round_trip)
{
	char text[UUID_TEXT_SIZE];

	CHECK_STR(uuid_to_text(&known, text), CANONICAL);
}

TEST(zero_and_equal)
{
	struct uuid zero = {}, other = known;

	CHECK(uuid_is_zero(&zero));
	CHECK(!uuid_is_zero(&known));
	CHECK(uuid_equal(&known, &other));
	other.b[15] ^= 1;
	CHECK(!uuid_equal(&known, &other));
}

TEST(random_ones_are_version_4_and_differ)
{
	struct uuid a, b;

	uuid_random(&a);
	uuid_random(&b);
	CHECK(!uuid_equal(&a, &b));
	CHECK_EQ(a.b[6] >> 4, 4);
	CHECK_EQ(a.b[8] >> 6, 2);
}

TEST(a_simulator_owns_randomness)
{
	struct uuid first, second, again;
	struct rng rng;

	rng_init(&rng, 5);
	uuid_set_random(rng_fill, &rng);
	uuid_random(&first);
	uuid_random(&second);
	rng_init(&rng, 5);
	uuid_random(&again);
	uuid_set_random(NULL, NULL);
	CHECK(uuid_equal(&first, &again));
	CHECK(!uuid_equal(&first, &second));
	CHECK_EQ(first.b[6] >> 4, 4);
	CHECK_EQ(first.b[8] >> 6, 2);
	uuid_random(&again);
	CHECK(!uuid_equal(&first, &again));
}

TAP_MAIN()
