/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Test data that can tell what happened to it.
 *
 * A block that merely differs from what was written says "wrong". A block that carries its own
 * address and age says *how*: a write that went elsewhere, a write that never arrived, data of last
 * week's run, a flipped bit. Storage engines fail in these ways for different reasons, so the
 * verdicts are kept apart.
 *
 * Layout of a block, in little-endian 64-bit words:
 *
 *	0      magic
 *	1      LBA
 *	2      generation
 *	3      seed of the run
 *	4      check: a mix of words 0 to 3
 *	5...   filler: word i is spread(base + i * STRIDE), base being a mix of LBA, generation,
 *seed
 *
 * Invariants
 *   1. Every bit of the block is determined by (LBA, generation, seed), so comparing with what the
 *      head claims finds corruption in any byte; no sum over the filler is needed.
 *   2. Two blocks that differ in any of the three differ in nearly every word: a block torn between
 *      two writes is found at the byte where the older one begins.
 *   3. A verdict other than CORRUPT and ZERO is only given to a block that is sound throughout.
 *   4. No block written here is all zeroes (magic), so zeroes always mean "not written".
 *
 * The filler must be cheap (a benchmark fills and checks every byte it moves), so it is made of
 * additions, shifts and exclusive-ors on independent words, which the compiler turns into vector
 * code; the only multiplications are a handful for each block. It is not compressible by
 *repetition.
 *
 * Thread rule: no state.
 *
 * Rejected: a CRC over random filler (as fio's verify_pattern: tells less and costs two passes);
 * the head in every 512-byte sector (the filler already finds a torn sector).
 */
#include "base/pattern.h"

#include <endian.h>
#include <string.h>

#include "base/rng.h"

#define PATTERN_MAGIC 0x315452504c485341u /* "ASHLPRT1" */
#define STRIDE        0x9e3779b97f4a7c15u /* 2^64 over the golden ratio: odd, bits well spread */

enum { HEAD_WORDS = 5 };

struct head {
	uint64_t lba, generation, seed;
};

static uint64_t mix(uint64_t a, uint64_t b)
{
	uint64_t state = a ^ b * STRIDE;

	return splitmix64(&state);
}

static uint64_t head_base(const struct head *head)
{
	return mix(mix(mix(head->seed, 1), head->generation), head->lba);
}

static inline uint64_t filler_word(uint64_t base, uint64_t i)
{
	uint64_t x = base + i * STRIDE;

	return htole64(x ^ x >> 29);
}

static void head_put(uint64_t *words, const struct head *head)
{
	words[0] = htole64(PATTERN_MAGIC);
	words[1] = htole64(head->lba);
	words[2] = htole64(head->generation);
	words[3] = htole64(head->seed);
	words[4] = htole64(mix(head_base(head), PATTERN_MAGIC));
}

/* False when magic or check are wrong: nothing the head says can be trusted. */
static bool head_get(const uint64_t *words, struct head *ret_head)
{
	struct head head = {
		.lba = le64toh(words[1]),
		.generation = le64toh(words[2]),
		.seed = le64toh(words[3]),
	};

	if (words[0] != htole64(PATTERN_MAGIC) ||
	    words[4] != htole64(mix(head_base(&head), PATTERN_MAGIC)))
		return false;
	*ret_head = head;
	return true;
}

static HOT void fill_block(uint64_t *words, size_t count, const struct head *head)
{
	uint64_t base = head_base(head);

	for (size_t i = 0; i < count; i++)
		words[i] = filler_word(base, i);
	head_put(words, head);
}

/* All words are looked at without leaving early: that is what lets the compiler use vectors. */
static HOT bool filler_is_sound(const uint64_t *words, size_t count, uint64_t base)
{
	uint64_t wrong = 0;

	for (size_t i = HEAD_WORDS; i < count; i++)
		wrong |= words[i] ^ filler_word(base, i);
	return wrong == 0;
}

static void check_args(const void *buf, uint32_t block_size)
{
	assert(is_pow2(block_size));
	assert(block_size >= PATTERN_BLOCK_MIN && block_size <= PATTERN_BLOCK_MAX);
	assert(IS_ALIGNED((uintptr_t)buf, sizeof(uint64_t)));
}

void pattern_fill(void *buf, uint64_t nblocks, uint32_t block_size, uint64_t first_lba,
		  uint64_t generation, uint64_t seed)
{
	uint64_t *words = buf;
	size_t count = block_size / sizeof(*words);

	check_args(buf, block_size);
	for (uint64_t i = 0; i < nblocks; i++) {
		struct head head = { first_lba + i, generation, seed };

		fill_block(words + i * count, count, &head);
	}
}

static bool is_zero(const uint64_t *words, size_t count)
{
	uint64_t any = 0;

	for (size_t i = 0; i < count; i++)
		any |= words[i];
	return any == 0;
}

/* The first byte in which the block differs from what @head makes of it; its size when none. */
static COLD uint32_t first_wrong(const uint64_t *words, size_t count, const struct head *head)
{
	uint64_t base = head_base(head);
	uint64_t right[HEAD_WORDS];

	head_put(right, head);
	for (size_t i = 0; i < count; i++) {
		uint64_t word = i < HEAD_WORDS ? right[i] : filler_word(base, i);
		uint64_t wrong = le64toh(words[i] ^ word);

		if (wrong != 0)
			return (uint32_t)(i * 8 + (unsigned)__builtin_ctzll(wrong) / 8);
	}
	return (uint32_t)(count * 8);
}

static COLD enum pattern_verdict fault_explain(const uint64_t *words, size_t count, uint64_t lba,
					       const struct pattern_expect *expect,
					       struct pattern_fault *fault)
{
	struct head head = { lba, expect->gen_max, expect->seed };
	bool is_known = head_get(words, &head);

	fault->lba = lba;
	fault->gen_min = expect->gen_min;
	fault->gen_max = expect->gen_max;
	if (is_known) {
		fault->found_lba = head.lba;
		fault->found_gen = head.generation;
		fault->found_seed = head.seed;
	}
	if (is_zero(words, count))
		return PATTERN_ZERO;
	fault->wrong_offset = first_wrong(words, count, &head);
	if (!is_known || fault->wrong_offset < count * sizeof(*words))
		return PATTERN_CORRUPT;
	fault->wrong_offset = 0;
	if (head.seed != expect->seed)
		return PATTERN_FOREIGN;
	if (head.lba != lba)
		return PATTERN_MISPLACED;
	return head.generation < expect->gen_min ? PATTERN_STALE : PATTERN_FUTURE;
}

static HOT bool block_is_expected(const uint64_t *words, size_t count, uint64_t lba,
				  const struct pattern_expect *expect)
{
	struct head head;

	return head_get(words, &head) && head.lba == lba && head.seed == expect->seed &&
	       head.generation >= expect->gen_min && head.generation <= expect->gen_max &&
	       filler_is_sound(words, count, head_base(&head));
}

enum pattern_verdict pattern_check(const void *buf, uint64_t nblocks, uint32_t block_size,
				   const struct pattern_expect *expect,
				   struct pattern_fault *ret_fault)
{
	const uint64_t *words = buf;
	size_t count = block_size / sizeof(*words);

	check_args(buf, block_size);
	for (uint64_t i = 0; i < nblocks; i++, words += count) {
		struct pattern_fault fault = { .block = i };

		if (likely(block_is_expected(words, count, expect->first_lba + i, expect)))
			continue;
		fault.verdict = fault_explain(words, count, expect->first_lba + i, expect, &fault);
		if (ret_fault != NULL)
			*ret_fault = fault;
		return fault.verdict;
	}
	return PATTERN_OK;
}

const char *pattern_verdict_name(enum pattern_verdict verdict)
{
	static const char *const names[] = {
		[PATTERN_OK] = "ok",           [PATTERN_MISPLACED] = "misplaced",
		[PATTERN_STALE] = "stale",     [PATTERN_FUTURE] = "future",
		[PATTERN_FOREIGN] = "foreign", [PATTERN_ZERO] = "zero",
		[PATTERN_CORRUPT] = "corrupt",
	};

	static_assert(ARRAY_LEN(names) == PATTERN_VERDICT_COUNT_, "a name for each verdict");
	return (unsigned)verdict < ARRAY_LEN(names) ? names[verdict] : "?";
}

/* "generation 7" or "a generation between 3 and 7" */
static const char *describe_expected(const struct pattern_fault *fault, char *text, size_t size)
{
	if (fault->gen_min == fault->gen_max)
		snprintf(text, size, "generation %llu", (unsigned long long)fault->gen_min);
	else
		snprintf(text, size, "a generation between %llu and %llu",
			 (unsigned long long)fault->gen_min, (unsigned long long)fault->gen_max);
	return text;
}

const char *pattern_describe(const struct pattern_fault *fault, char text[PATTERN_TEXT_MAX])
{
	unsigned long long lba = fault->lba, found_lba = fault->found_lba, gen = fault->found_gen;
	char expected[96];

	describe_expected(fault, expected, sizeof(expected));
	switch (fault->verdict) {
	case PATTERN_MISPLACED:
		snprintf(text, PATTERN_TEXT_MAX,
			 "block %llu holds the data of block %llu (generation %llu): written to or "
			 "read from the wrong place",
			 lba, found_lba, gen);
		break;
	case PATTERN_STALE:
		snprintf(
			text, PATTERN_TEXT_MAX,
			"block %llu holds the older generation %llu where %s was expected: a later "
			"write was lost",
			lba, gen, expected);
		break;
	case PATTERN_FUTURE:
		snprintf(text, PATTERN_TEXT_MAX,
			 "block %llu holds generation %llu where %s was expected: somebody else "
			 "wrote it",
			 lba, gen, expected);
		break;
	case PATTERN_FOREIGN:
		snprintf(text, PATTERN_TEXT_MAX,
			 "block %llu holds data of another run (seed 0x%llx, block %llu): this run "
			 "never wrote it, or its write was lost",
			 lba, (unsigned long long)fault->found_seed, found_lba);
		break;
	case PATTERN_ZERO:
		snprintf(text, PATTERN_TEXT_MAX,
			 "block %llu is all zeroes where %s was expected: its write was lost", lba,
			 expected);
		break;
	case PATTERN_CORRUPT:
		snprintf(text, PATTERN_TEXT_MAX,
			 "block %llu is corrupt from byte %u on, where %s was expected", lba,
			 fault->wrong_offset, expected);
		break;
	case PATTERN_OK:
	case PATTERN_VERDICT_COUNT_:
	default:
		snprintf(text, PATTERN_TEXT_MAX, "block %llu is as expected", lba);
	}
	return text;
}
