/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of pattern.c: each kind of damage gets its own name, and no damaged byte goes unseen. */
#include "base/pattern.h"

#include <time.h>

#include "base/rng.h"
#include "base/tap.h"

enum { BLOCK = 512, BLOCKS = 8, SEED = 77 };

static _Alignas(8) uint8_t buf[BLOCKS * BLOCK];
static _Alignas(8) uint8_t other[BLOCKS * BLOCK];
static struct pattern_fault fault;

static const struct pattern_expect exact = {
	.first_lba = 100,
	.gen_min = 5,
	.gen_max = 5,
	.seed = SEED,
};

static enum pattern_verdict check(void)
{
	fault = (struct pattern_fault){};
	return pattern_check(buf, BLOCKS, BLOCK, &exact, &fault);
}

static void fresh(void)
{
	pattern_fill(buf, BLOCKS, BLOCK, 100, 5, SEED);
}

TEST(sound_blocks_are_ok)
{
	static _Alignas(8) uint8_t wide[2 * PATTERN_BLOCK_MAX];
	struct pattern_expect any = { .first_lba = 9, .gen_min = 1, .gen_max = 3 };

	fresh();
	CHECK_EQ(check(), PATTERN_OK);
	for (uint32_t size = PATTERN_BLOCK_MIN; size <= PATTERN_BLOCK_MAX; size *= 2) {
		for (uint64_t gen = 1; gen <= 3; gen++) {
			pattern_fill(wide, 2, size, 9, gen, 0);
			CHECK_EQ(pattern_check(wide, 2, size, &any, NULL), PATTERN_OK);
		}
	}
	CHECK_EQ(pattern_check(wide, 0, BLOCK, &any, NULL), PATTERN_OK);
}

TEST(extreme_values_are_ok)
{
	struct pattern_expect expect = { UINT64_MAX - 7, UINT64_MAX, UINT64_MAX, UINT64_MAX };

	pattern_fill(buf, BLOCKS, BLOCK, UINT64_MAX - 7, UINT64_MAX, UINT64_MAX);
	CHECK_EQ(pattern_check(buf, BLOCKS, BLOCK, &expect, NULL), PATTERN_OK);
	expect = (struct pattern_expect){};
	pattern_fill(buf, BLOCKS, BLOCK, 0, 0, 0);
	CHECK_EQ(pattern_check(buf, BLOCKS, BLOCK, &expect, NULL), PATTERN_OK);
	CHECK(buf[0] != 0);
}

TEST(misplaced_block)
{
	char text[PATTERN_TEXT_MAX];

	fresh();
	memcpy(buf + 3 * BLOCK, buf + 6 * BLOCK, BLOCK);
	CHECK_EQ(check(), PATTERN_MISPLACED);
	CHECK_EQ(fault.block, 3);
	CHECK_EQ(fault.lba, 103);
	CHECK_EQ(fault.found_lba, 106);
	CHECK_EQ(fault.found_gen, 5);
	CHECK_HAS(pattern_describe(&fault, text), "block 103 holds the data of block 106");
}

TEST(stale_and_future_blocks)
{
	char text[PATTERN_TEXT_MAX];
	struct pattern_expect range = {
		.first_lba = 100, .gen_min = 3, .gen_max = 9, .seed = SEED
	};

	fresh();
	pattern_fill(buf + BLOCK, 1, BLOCK, 101, 4, SEED);
	CHECK_EQ(check(), PATTERN_STALE);
	CHECK_EQ(fault.found_gen, 4);
	CHECK_HAS(pattern_describe(&fault, text), "generation 4 where generation 5");
	pattern_fill(buf + BLOCK, 1, BLOCK, 101, 6, SEED);
	CHECK_EQ(check(), PATTERN_FUTURE);
	CHECK_EQ(fault.found_gen, 6);
	CHECK_HAS(pattern_describe(&fault, text), "generation 6");
	CHECK_EQ(pattern_check(buf, BLOCKS, BLOCK, &range, &fault), PATTERN_OK);
	pattern_fill(buf, 1, BLOCK, 100, 2, SEED);
	CHECK_EQ(pattern_check(buf, BLOCKS, BLOCK, &range, &fault), PATTERN_STALE);
	CHECK_HAS(pattern_describe(&fault, text), "a generation between 3 and 9");
}

TEST(foreign_block)
{
	char text[PATTERN_TEXT_MAX];

	fresh();
	pattern_fill(buf, 1, BLOCK, 100, 5, 0xabc);
	CHECK_EQ(check(), PATTERN_FOREIGN);
	CHECK_EQ(fault.found_seed, 0xabc);
	CHECK_HAS(pattern_describe(&fault, text), "another run (seed 0xabc");
}

TEST(zero_block)
{
	char text[PATTERN_TEXT_MAX];

	fresh();
	memset(buf + 7 * BLOCK, 0, BLOCK);
	CHECK_EQ(check(), PATTERN_ZERO);
	CHECK_EQ(fault.block, 7);
	CHECK_HAS(pattern_describe(&fault, text), "all zeroes");
}

/* Every bit of a block, one after the other. */
TEST(every_flipped_bit_is_found_where_it_is)
{
	char text[PATTERN_TEXT_MAX];

	fresh();
	for (unsigned bit = 0; bit < BLOCK * 8; bit++) {
		uint8_t *byte = buf + 2 * BLOCK + bit / 8;

		*byte ^= (uint8_t)(1u << bit % 8);
		CHECK_EQ(check(), PATTERN_CORRUPT);
		CHECK_EQ(fault.block, 2);
		CHECK_EQ(fault.wrong_offset, bit / 8);
		*byte ^= (uint8_t)(1u << bit % 8);
	}
	CHECK_EQ(check(), PATTERN_OK);
	buf[2 * BLOCK + 300] ^= 1;
	CHECK_EQ(check(), PATTERN_CORRUPT);
	CHECK_HAS(pattern_describe(&fault, text), "block 102 is corrupt from byte 300 on");
}

/* The head of a new write over the tail of an old one, and the other way round. */
TEST(torn_block_is_corrupt_where_it_tears)
{
	for (unsigned tear = 64; tear < BLOCK; tear += 64) {
		fresh();
		pattern_fill(other, BLOCKS, BLOCK, 100, 4, SEED);
		memcpy(buf + tear, other + tear, BLOCK - tear);
		CHECK_EQ(check(), PATTERN_CORRUPT);
		CHECK(fault.wrong_offset >= tear && fault.wrong_offset <= tear + 1);
		fresh();
		memcpy(buf, other, tear);
		CHECK_EQ(check(), PATTERN_CORRUPT);
		CHECK_EQ(fault.found_gen, 4);
	}
}

TEST(random_bytes_are_corrupt)
{
	struct rng rng;
	char text[PATTERN_TEXT_MAX];

	rng_init(&rng, 8);
	for (int i = 0; i < 1000; i++) {
		rng_fill(&rng, buf, sizeof(buf));
		CHECK_EQ(check(), PATTERN_CORRUPT);
		CHECK(fault.wrong_offset < 4);
		CHECK_EQ(fault.found_lba, 0);
		(void)pattern_describe(&fault, text);
	}
}

TEST(zero_head_over_filler_is_corrupt)
{
	fresh();
	memset(buf, 0, 40);
	CHECK_EQ(check(), PATTERN_CORRUPT);
	CHECK_EQ(fault.wrong_offset, 0);
}

TEST(first_bad_block_is_told)
{
	fresh();
	memset(buf + 4 * BLOCK, 0, BLOCK);
	buf[2 * BLOCK + 9] ^= 0x80;
	CHECK_EQ(check(), PATTERN_CORRUPT);
	CHECK_EQ(fault.block, 2);
}

TEST(words_differ_between_blocks)
{
	unsigned same = 0;

	pattern_fill(buf, 1, BLOCK, 1, 1, 1);
	pattern_fill(other, 1, BLOCK, 2, 1, 1);
	pattern_fill(other + BLOCK, 1, BLOCK, 1, 2, 1);
	pattern_fill(other + 2 * BLOCK, 1, BLOCK, 1, 1, 2);
	for (unsigned i = 40; i < BLOCK; i += 8) {
		for (unsigned j = 0; j < 3; j++)
			same += memcmp(buf + i, other + j * BLOCK + i, 8) == 0;
	}
	CHECK_EQ(same, 0);
}

TEST(verdict_names)
{
	CHECK_STR(pattern_verdict_name(PATTERN_OK), "ok");
	CHECK_STR(pattern_verdict_name(PATTERN_CORRUPT), "corrupt");
	CHECK_STR(pattern_verdict_name(PATTERN_VERDICT_COUNT_), "?");
}

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* Prints the speed; a bound would fail under sanitizers and on busy machines. */
TEST(speed_is_told)
{
	enum { SIZE = 4096, COUNT = 16, ROUNDS = 4000 };
	static _Alignas(64) uint8_t hot[SIZE * COUNT];
	struct pattern_expect expect = { .seed = 1 };
	double filled, checked, from = now_s();
	unsigned wrong = 0;

	for (unsigned i = 0; i < ROUNDS; i++)
		pattern_fill(hot, COUNT, SIZE, i, i, 1);
	filled = now_s() - from;
	from = now_s();
	expect.first_lba = expect.gen_min = expect.gen_max = ROUNDS - 1;
	for (unsigned i = 0; i < ROUNDS; i++)
		wrong += pattern_check(hot, COUNT, SIZE, &expect, NULL) != PATTERN_OK;
	checked = now_s() - from;
	CHECK_EQ(wrong, 0);
	printf("# 4 KiB blocks: fill %.1f GB/s, check %.1f GB/s\n",
	       (double)sizeof(hot) * ROUNDS / filled * 1e-9,
	       (double)sizeof(hot) * ROUNDS / checked * 1e-9);
}

TAP_MAIN()
