// SPDX-License-Identifier: Apache-2.0
/*
 * Scatter lists against a flat copy: random cuts, empty pieces included, must never show.
 */
#include "device/io.h"

#include "base/rng.h"
#include "base/tap.h"

enum {
	BYTES = 1000,
	PIECES = 16,
	ROUNDS = 2000,
};

struct cut {
	uint8_t bytes[BYTES + PIECES]; /* a canary behind each piece */
	struct iovec iov[PIECES];
};

/* Cut BYTES bytes into PIECES pieces, some empty, a gap of one byte between them. */
static void cut_make(struct cut *cut, struct rng *rng)
{
	size_t left = BYTES;
	uint8_t *at = cut->bytes;

	memset(cut->bytes, 0xee, sizeof(cut->bytes));
	for (int i = 0; i < PIECES; i++) {
		size_t len = i == PIECES - 1         ? left
			     : rng_chance(rng, 1, 4) ? 0
						     : rng_below(rng, left / 3 + 1);

		cut->iov[i] = (struct iovec){ .iov_base = at, .iov_len = len };
		at += len + 1;
		left -= len;
	}
}

static bool cut_gaps_are_untouched(const struct cut *cut)
{
	for (int i = 0; i < PIECES; i++) {
		const uint8_t *base = cut->iov[i].iov_base;

		if (base[cut->iov[i].iov_len] != 0xee)
			return false;
	}
	return true;
}

TEST(iov_copies_like_a_flat_buffer)
{
	static struct cut cut;
	uint8_t flat[BYTES], in[BYTES + 100], out[BYTES + 100];
	struct rng rng;

	rng_init(&rng, 1);
	for (int round = 0; round < ROUNDS && tap_.failed == 0; round++) {
		size_t off = rng_below(&rng, BYTES + 50);
		size_t len = rng_below(&rng, BYTES + 50);
		size_t want = off >= (size_t)BYTES ? 0 : MIN(len, (size_t)BYTES - off);

		cut_make(&cut, &rng);
		rng_fill(&rng, flat, sizeof(flat));
		rng_fill(&rng, in, sizeof(in));
		CHECK_EQ(iov_bytes(cut.iov, PIECES), BYTES);
		CHECK_EQ(iov_from_buf(cut.iov, PIECES, 0, flat, BYTES), BYTES);
		CHECK_EQ(iov_from_buf(cut.iov, PIECES, off, in, len), want);
		memcpy(flat + MIN(off, (size_t)BYTES), in, want);
		memset(out, 0x11, sizeof(out));
		CHECK_EQ(iov_to_buf(cut.iov, PIECES, off, out, len), want);
		CHECK_MEM(out, in, want);
		CHECK_EQ(out[want], 0x11);
		CHECK_EQ(iov_fill(cut.iov, PIECES, off, 0x5a, len / 2), MIN(want, len / 2));
		memset(flat + MIN(off, (size_t)BYTES), 0x5a, MIN(want, len / 2));
		CHECK_EQ(iov_to_buf(cut.iov, PIECES, 0, out, sizeof(out)), BYTES);
		CHECK_MEM(out, flat, BYTES);
		CHECK(cut_gaps_are_untouched(&cut));
	}
}

TEST(iov_compare_finds_the_first_difference)
{
	static struct cut cut;
	uint8_t flat[BYTES];
	struct rng rng;

	rng_init(&rng, 2);
	for (int round = 0; round < ROUNDS && tap_.failed == 0; round++) {
		size_t off = rng_below(&rng, BYTES);
		size_t len = rng_below(&rng, BYTES - off + 1);
		size_t at;

		cut_make(&cut, &rng);
		rng_fill(&rng, flat, sizeof(flat));
		(void)iov_from_buf(cut.iov, PIECES, 0, flat, BYTES);
		CHECK_EQ(iov_compare(cut.iov, PIECES, off, flat + off, len), len);
		if (len == 0)
			continue;
		at = rng_below(&rng, len);
		flat[off + at] ^= (uint8_t)(1u << rng_below(&rng, 8));
		flat[off + len - 1] ^= at == len - 1 ? 0 : 1;
		CHECK_EQ(iov_compare(cut.iov, PIECES, off, flat + off, len), at);
	}
	/* A vector that ends early differs where it ends. */
	cut_make(&cut, &rng);
	(void)iov_from_buf(cut.iov, PIECES, 0, flat, BYTES);
	CHECK_EQ(iov_compare(cut.iov, PIECES, BYTES - 4, flat + BYTES - 4, 10), 4);
}

TEST(iov_alignment_needs_every_base_and_length)
{
	_Alignas(4096) static uint8_t mem[3 * 4096];
	struct iovec iov[] = {
		{ .iov_base = mem, .iov_len = 4096 },
		{ .iov_base = mem + 4096, .iov_len = 512 },
	};

	CHECK(iov_is_aligned(iov, 1, 4096));
	CHECK(!iov_is_aligned(iov, 2, 4096));
	CHECK(iov_is_aligned(iov, 2, 512));
	iov[1].iov_base = mem + 4097;
	CHECK(!iov_is_aligned(iov, 2, 2));
	CHECK(iov_is_aligned(iov, 2, 1));
	CHECK(iov_is_aligned(iov, 0, 4096));
}

TEST(iov_nothing_is_nothing)
{
	uint8_t byte = 7;

	CHECK_EQ(iov_bytes(NULL, 0), 0);
	CHECK_EQ(iov_to_buf(NULL, 0, 0, &byte, 1), 0);
	CHECK_EQ(iov_from_buf(NULL, 0, 5, &byte, 1), 0);
	CHECK_EQ(iov_fill(NULL, 0, 0, 0, 1), 0);
	CHECK_EQ(iov_compare(NULL, 0, 0, &byte, 1), 0);
	CHECK_EQ(byte, 7);
}

TEST(op_names_are_all_different)
{
	for (int a = 0; a < IO_OP_COUNT_; a++) {
		for (int b = 0; b < a; b++)
			CHECK(strcmp(io_op_name(a), io_op_name(b)) != 0);
	}
	CHECK_STR(io_op_name(IO_WRITE_ZEROES), "write_zeroes");
	CHECK_STR(io_op_name(IO_OP_COUNT_), "unknown");
}

TAP_MAIN()
