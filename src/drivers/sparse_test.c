/* SPDX-License-Identifier: Apache-2.0 */
/* sparse: marks, seeks and discards against a plain array, over a segment's end. */
#include "base/tap.h"

#include <errno.h>

#include "base/rng.h"
#include "drivers/sparse.h"

enum { BLOCKS = 4096, STEPS = 20000 };

TEST(sparse_agrees_with_an_array)
{
	/* The first half lies in segment 0, the second in segment 1. */
	const uint64_t first = (SPARSE_SEGMENT_SIZE >> 9) - BLOCKS / 2;
	static bool written[BLOCKS];
	struct sparse s;
	struct rng rng;

	rng_init(&rng, 42);
	sparse_init(&s, 512);
	CHECK_EQ(sparse_prepare(&s, first + BLOCKS, NULL), 0);
	sparse_swap(&s);
	memset(written, 0, sizeof(written));
	for (unsigned step = 0; step < STEPS; step++) {
		uint64_t at = rng_below(&rng, BLOCKS);
		uint64_t n = rng_range(&rng, 0, MIN(BLOCKS - at, 300u));
		uint64_t set = 0, next;
		bool want = rng_chance(&rng, 1, 2);

		for (uint64_t i = 0; i < n; i++)
			set += written[at + i];
		CHECK_EQ(sparse_missing(&s, first + at, n), n - set);
		for (next = at; next < BLOCKS && written[next] != want; next++)
			;
		CHECK_EQ(sparse_seek(&s, first + at, first + BLOCKS, want), first + next);
		if (want)
			CHECK_EQ(sparse_mark(&s, first + at, n), n - set);
		else
			CHECK_EQ(sparse_discard(&s, first + at, n), set);
		memset(written + at, want, n);
		if (tap_.failed > 0)
			break;
	}
	sparse_done(&s);
}

TEST(sparse_keeps_marks_and_memory_when_it_grows)
{
	struct sparse s;
	size_t len = 1;
	char *mem;

	sparse_init(&s, 4096);
	CHECK_EQ(sparse_prepare(&s, 1, NULL), 0);
	sparse_swap(&s);
	mem = sparse_at(&s, 0, &len);
	*mem = 'x';
	CHECK_EQ(sparse_mark(&s, 0, 1), 1);
	CHECK_EQ(sparse_prepare(&s, 1 << 20, NULL), 0);
	sparse_drop_grown(&s); /* changed its mind */
	CHECK_EQ(s.nsegments, 1);
	CHECK_EQ(sparse_prepare(&s, 1 << 20, NULL), 0);
	sparse_swap(&s);
	CHECK_EQ(s.nsegments, 16);
	CHECK(sparse_at(&s, 0, &len) == mem && *mem == 'x');
	CHECK_EQ(sparse_missing(&s, 0, 1 << 20), (1 << 20) - 1);
	CHECK_EQ(sparse_seek(&s, 0, 1 << 20, true), 0);
	CHECK_EQ(sparse_seek(&s, 1, 1 << 20, true), 1 << 20);
	sparse_done(&s);
}

TEST(sparse_refuses_what_no_process_can_hold)
{
	struct err err = {};
	struct sparse s;

	sparse_init(&s, 512);
	CHECK_EQ(sparse_prepare(&s, (SPARSE_SIZE_MAX >> 9) + 1, &err), -EFBIG);
	CHECK_HAS(err.msg, "16 TiB");
	CHECK(s.grown == NULL && s.segment == NULL);
	sparse_done(&s);
}

TAP_MAIN()
