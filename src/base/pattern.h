/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pattern.h - test data that knows where and when it was written.
 *
 * Thread: any; no state.
 * Rules:  a block is 512 bytes to 64 KiB, a power of two; buffers are aligned to 8 bytes. A run is
 *         named by its seed, so that data of an earlier run is not taken for this one's.
 */
#ifndef BASE_PATTERN_H
#define BASE_PATTERN_H
#include "base/base.h"

enum {
	PATTERN_BLOCK_MIN = 512,
	PATTERN_BLOCK_MAX = 64 * 1024,
	PATTERN_TEXT_MAX = 256,
};

enum pattern_verdict {
	PATTERN_OK,
	PATTERN_MISPLACED, /* a sound block of this run that belongs to another LBA */
	PATTERN_STALE,     /* an older generation: a write was lost */
	PATTERN_FUTURE,    /* a newer generation than any that was written */
	PATTERN_FOREIGN,   /* a sound block of another run */
	PATTERN_ZERO,      /* all zeroes: never written, or unmapped */
	PATTERN_CORRUPT,   /* bytes that no run has written this way */
	PATTERN_VERDICT_COUNT_,
};

struct pattern_expect {
	uint64_t first_lba;
	uint64_t gen_min; /* both inclusive; equal for an exact expectation */
	uint64_t gen_max;
	uint64_t seed;
};

/* What was found in the first bad block. Valid when pattern_check did not say PATTERN_OK. */
struct pattern_fault {
	enum pattern_verdict verdict;
	uint64_t block;     /* index within the buffer */
	uint64_t lba;       /* where the block was expected: first_lba + block */
	uint64_t found_lba; /* the next three are what the block itself says; 0 when CORRUPT at */
	uint64_t found_gen; /* its head, or ZERO */
	uint64_t found_seed;
	uint64_t gen_min; /* as expected */
	uint64_t gen_max;
	uint32_t wrong_offset; /* first wrong byte within the block, when CORRUPT */
};

void pattern_fill(void *buf, uint64_t nblocks, uint32_t block_size, uint64_t first_lba,
		  uint64_t generation, uint64_t seed);

/* The verdict on the first block that is not as expected, with details in *@ret_fault (may be
 * NULL); PATTERN_OK when there is none. */
WARN_UNUSED enum pattern_verdict pattern_check(const void *buf, uint64_t nblocks,
					       uint32_t block_size,
					       const struct pattern_expect *expect,
					       struct pattern_fault *ret_fault);

/* A sentence about @fault for a person; returns @text. */
const char *pattern_describe(const struct pattern_fault *fault, char text[PATTERN_TEXT_MAX]);

/* "ok", "misplaced", ... */
const char *pattern_verdict_name(enum pattern_verdict verdict);
#endif
