/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of base.h: the macros where C's own rules bite, and arithmetic at its edges. */
#include "base/base.h"

#include <fcntl.h>

#include "base/tap.h"

struct outer {
	int first;
	double inner;
};

TEST(container_of_finds_the_outer)
{
	struct outer outer = {};
	const double *constant = &outer.inner;

	CHECK(container_of(&outer.inner, struct outer, inner) == &outer);
	CHECK(container_of(constant, struct outer, inner) == &outer);
}

TEST(min_max_evaluate_once_and_nest)
{
	int calls = 0;

	CHECK_EQ(MIN(++calls, 100), 1);
	CHECK_EQ(MAX(++calls, -100), 2);
	CHECK_EQ(MIN(MAX(1, 5), MAX(MIN(9, 7), 2)), 5);
	CHECK_EQ(CLAMP(-3, 0, 10), 0);
	CHECK_EQ(CLAMP(33, 0, 10), 10);
	CHECK_EQ(CLAMP(3, 0, 10), 3);
	CHECK_EQ(MAX(0u, UINT32_MAX), UINT32_MAX);
}

TEST(rounding_at_the_edges)
{
	CHECK_EQ(DIV_ROUND_UP(0u, 8u), 0);
	CHECK_EQ(DIV_ROUND_UP(8u, 8u), 1);
	CHECK_EQ(DIV_ROUND_UP(9u, 8u), 2);
	CHECK(DIV_ROUND_UP(UINT64_MAX, 2ull) == 1ull << 63);
	CHECK_EQ(ALIGN_UP(1ull, 4096), 4096);
	CHECK_EQ(ALIGN_UP(4096ull, 4096), 4096);
	CHECK_EQ(ALIGN_DOWN(4095ull, 4096), 0);
	CHECK(ALIGN_DOWN(UINT64_MAX, 4096) == UINT64_MAX - 4095);
	CHECK(IS_ALIGNED(8192ull, 4096));
	CHECK(!IS_ALIGNED(8193ull, 4096));
	CHECK_EQ(ARRAY_LEN(((int[7]){})), 7);
}

TEST(powers_of_two)
{
	CHECK(!is_pow2(0));
	CHECK(is_pow2(1));
	CHECK(!is_pow2(3));
	CHECK(is_pow2(1ull << 63));
	CHECK(!is_pow2(UINT64_MAX));
	CHECK_EQ(u64_log2(1), 0);
	CHECK_EQ(u64_log2(4095), 11);
	CHECK_EQ(u64_log2(UINT64_MAX), 63);
}

TEST(checked_arithmetic_refuses_to_wrap)
{
	uint64_t wide = 0;
	size_t size = 0;

	CHECK(u64_add(UINT64_MAX - 1, 1, &wide) && wide == UINT64_MAX);
	CHECK(!u64_add(UINT64_MAX, 1, &wide));
	CHECK(u64_mul(1ull << 32, (1ull << 32) - 1, &wide) && wide == (1ull << 32) * 0xffffffff);
	CHECK(!u64_mul(1ull << 32, 1ull << 32, &wide));
	CHECK(u64_align_up(UINT64_MAX - 4095, 4096, &wide) && wide == UINT64_MAX - 4095);
	CHECK(!u64_align_up(UINT64_MAX - 4094, 4096, &wide));
	CHECK(size_add(1, 2, &size) && size == 3);
	CHECK(!size_add(SIZE_MAX, 1, &size));
	CHECK(size_mul(3, 5, &size) && size == 15);
	CHECK(!size_mul(SIZE_MAX, 2, &size));
}

TEST(range_fits_at_the_edges)
{
	CHECK(range_fits(0, 0, 0));
	CHECK(!range_fits(0, 1, 0));
	CHECK(!range_fits(1, 0, 0));
	CHECK(range_fits(90, 10, 100));
	CHECK(!range_fits(91, 10, 100));
	CHECK(!range_fits(UINT64_MAX, 2, 100));
	CHECK(!range_fits(2, UINT64_MAX, 100));
	CHECK(range_fits(0, UINT64_MAX, UINT64_MAX));
}

static void *make(void **seen)
{
	CLEANUP(freep) void *block = malloc(8);

	*seen = block;
	return take(block);
}

TEST(take_saves_from_cleanup)
{
	void *seen = NULL;
	CLEANUP(freep) void *block = make(&seen);

	CHECK(block == seen);
	memset(block, 1, 8); /* a sanitizer reports it if make freed the block */
}

TEST(closep_closes_and_take_fd_saves)
{
	int kept = -1, closed = -1;

	{
		CLEANUP(closep) int fd = open("/dev/null", O_RDONLY);
		CLEANUP(closep) int other = open("/dev/null", O_RDONLY);
		CLEANUP(closep) int none = -1;

		CHECK(fd >= 0 && other >= 0 && none == -1);
		closed = fd;
		kept = take_fd(&other);
	}
	CHECK_EQ(fcntl(closed, F_GETFD), -1);
	CHECK_EQ(fcntl(kept, F_GETFD), 0);
	closep(&kept);
	CHECK_EQ(kept, -1);
}

TAP_MAIN()
