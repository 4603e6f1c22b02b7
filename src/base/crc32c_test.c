/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of crc32c.c: the vectors of RFC 3720 B.4, and every way to cut a sum into pieces. */
#include "base/crc32c.h"

#include "base/rng.h"
#include "base/tap.h"

/* The definition, bit by bit. */
static uint32_t crc32c_slow(uint32_t crc, const uint8_t *buf, size_t len)
{
	crc = ~crc;
	for (size_t i = 0; i < len; i++) {
		crc ^= buf[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

TEST(rfc_3720_vectors)
{
	static const uint8_t read_pdu[48] = { 0x01, 0xc0, 0,    0, 0, 0, 0,    0,    0, 0,
					      0,    0,    0,    0, 0, 0, 0x14, 0,    0, 0,
					      0,    0,    0x04, 0, 0, 0, 0,    0x14, 0, 0,
					      0,    0x18, 0x28, 0, 0, 0, 0,    0,    0, 0,
					      0x02, 0,    0,    0, 0, 0, 0,    0 };
	uint8_t buf[32] = {};

	CHECK_EQ(crc32c(0, buf, 32), 0x8a9136aa);
	memset(buf, 0xff, 32);
	CHECK_EQ(crc32c(0, buf, 32), 0x62a8ab43);
	for (uint8_t i = 0; i < 32; i++)
		buf[i] = i;
	CHECK_EQ(crc32c(0, buf, 32), 0x46dd794e);
	for (uint8_t i = 0; i < 32; i++)
		buf[i] = (uint8_t)(31 - i);
	CHECK_EQ(crc32c(0, buf, 32), 0x113fdb5c);
	CHECK_EQ(crc32c(0, read_pdu, 48), 0xd9963a56);
	CHECK_EQ(crc32c(0, "123456789", 9), 0xe3069283);
}

TEST(nothing_sums_to_zero)
{
	CHECK_EQ(crc32c(0, "", 0), 0);
	CHECK_EQ(crc32c(0x1234, "", 0), 0x1234);
}

TEST(every_cut_gives_the_same_sum)
{
	uint8_t buf[300];
	uint32_t whole;
	struct rng rng;

	rng_init(&rng, 1);
	rng_fill(&rng, buf, sizeof(buf));
	whole = crc32c_slow(0, buf, sizeof(buf));
	CHECK_EQ(crc32c(0, buf, sizeof(buf)), whole);
	for (size_t cut = 0; cut <= sizeof(buf); cut++)
		CHECK_EQ(crc32c(crc32c(0, buf, cut), buf + cut, sizeof(buf) - cut), whole);
}

TEST(copy_copies_and_sums)
{
	enum { SIZE = 40000 };
	static uint8_t from[SIZE], to[SIZE + 1];
	static const size_t lens[] = { 0, 1, 7, 8191, 8192, 8193, 16384, 39999 };
	struct rng rng;

	rng_init(&rng, 2);
	rng_fill(&rng, from, sizeof(from));
	for (unsigned i = 0; i < ARRAY_LEN(lens); i++) {
		memset(to, 0, sizeof(to));
		CHECK_EQ(crc32c_copy(7, to, from + 1, lens[i]), crc32c_slow(7, from + 1, lens[i]));
		CHECK_MEM(to, from + 1, lens[i]);
		CHECK_EQ(to[lens[i]], 0);
	}
}

TAP_MAIN()
