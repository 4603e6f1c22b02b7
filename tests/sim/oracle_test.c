/* SPDX-License-Identifier: Apache-2.0 */
/* The judge is judged: histories that a correct disk can produce pass, each broken one fails. */
#include "base/tap.h"

#include "oracle.h"

enum { BS = 512, NBLOCKS = 8 };

static struct oracle *o;
static uint64_t buf[BS / 8 * NBLOCKS];
static char why[ORACLE_TEXT_MAX];

static void begin(void)
{
	o = oracle_new(NBLOCKS, BS, 42);
}

static void end(void)
{
	oracle_free(o);
}

static uint64_t write_at(uint64_t lba, enum write_outcome outcome)
{
	uint64_t id = oracle_write_begin(o, lba, 1, VALUE_DATA);

	oracle_write_end(o, id, lba, 1, outcome);
	return id;
}

/* Would a read that begins and ends now, and finds write @id (0: zeroes), be accepted? */
static bool read_finds(uint64_t token, uint64_t lba, uint64_t id)
{
	memset(buf, 0, sizeof(buf));
	if (id != 0)
		oracle_fill(o, buf, lba, 1, id);
	return oracle_read_end(o, token, lba, 1, buf, why);
}

static bool finds(uint64_t lba, uint64_t id)
{
	return read_finds(oracle_read_begin(o), lba, id);
}

TEST(oracle_fresh_blocks_are_zero)
{
	begin();
	CHECK(finds(0, 0));
	CHECK(!finds(0, 7));
	CHECK_HAS(why, "holds write 7");
	end();
}

TEST(oracle_acknowledged_write_is_the_value)
{
	uint64_t a, b;

	begin();
	a = write_at(3, WRITE_ACKED);
	CHECK(finds(3, a));
	CHECK(!finds(3, 0));
	b = write_at(3, WRITE_ACKED);
	CHECK(finds(3, b));
	CHECK(!finds(3, a));
	CHECK_HAS(why, "lost what followed it");
	end();
}

TEST(oracle_misplaced_and_corrupt_are_told_apart)
{
	uint64_t a;

	begin();
	a = write_at(3, WRITE_ACKED);
	oracle_fill(o, buf, 3, 1, a);
	CHECK(!oracle_read_end(o, oracle_read_begin(o), 4, 1, buf, why));
	CHECK_HAS(why, "another block");
	buf[17] ^= 4;
	CHECK(!oracle_read_end(o, oracle_read_begin(o), 3, 1, buf, why));
	CHECK_HAS(why, "corrupt");
	end();
}

TEST(oracle_concurrent_read_may_see_either_then_never_back)
{
	uint64_t a, b, token;

	begin();
	a = write_at(0, WRITE_ACKED);
	b = oracle_write_begin(o, 0, 1, VALUE_DATA);
	CHECK(finds(0, a));
	CHECK(finds(0, b)); /* in flight, but seen */
	CHECK(!finds(0, a));
	oracle_write_end(o, b, 0, 1, WRITE_ACKED);
	CHECK(finds(0, b));
	token = oracle_read_begin(o);
	a = write_at(0, WRITE_ACKED);
	CHECK(read_finds(token, 0, b)); /* the read began before that write */
	CHECK(!finds(0, b));
	CHECK(finds(0, a));
	end();
}

TEST(oracle_overlapping_writes_settle_for_one)
{
	uint64_t a, b;

	begin();
	a = oracle_write_begin(o, 0, 1, VALUE_DATA);
	b = oracle_write_begin(o, 0, 1, VALUE_DATA);
	oracle_write_end(o, b, 0, 1, WRITE_ACKED);
	oracle_write_end(o, a, 0, 1, WRITE_ACKED);
	CHECK(finds(0, b));
	CHECK(!finds(0, a));
	CHECK(!finds(0, 0));
	end();
}

TEST(oracle_failed_write_is_possible_not_certain)
{
	uint64_t a, b;

	begin();
	a = write_at(0, WRITE_ACKED);
	b = write_at(0, WRITE_MAYBE);
	CHECK(finds(0, a));
	CHECK(!finds(0, b)); /* seen the old one afterwards: it never took effect */
	b = write_at(0, WRITE_MAYBE);
	CHECK(finds(0, b));
	CHECK(!finds(0, a));
	end();
}

TEST(oracle_refused_write_is_nothing)
{
	uint64_t a;

	begin();
	a = write_at(0, WRITE_NEVER);
	CHECK(!finds(0, a));
	end();
}

TEST(oracle_power_cut_may_lose_what_was_not_flushed)
{
	uint64_t a, b, c;

	begin();
	a = write_at(0, WRITE_ACKED);
	oracle_flush_end(o, oracle_flush_begin(o));
	b = write_at(0, WRITE_ACKED);
	c = write_at(0, WRITE_ACKED);
	CHECK(!finds(0, b));
	oracle_crash(o);
	CHECK(!finds(0, 0)); /* before the flush */
	CHECK(finds(0, b));  /* any of the others, but then for good */
	CHECK(!finds(0, a));
	CHECK(!finds(0, c));
	oracle_crash(o);
	CHECK(finds(0, b));
	end();
}

TEST(oracle_power_cut_keeps_what_was_flushed)
{
	uint64_t a, b;

	begin();
	a = write_at(0, WRITE_ACKED);
	b = write_at(1, WRITE_ACKED_STABLE);
	oracle_flush_end(o, oracle_flush_begin(o));
	oracle_crash(o);
	CHECK(!finds(0, 0));
	CHECK(finds(0, a));
	CHECK(!finds(1, 0));
	CHECK(finds(1, b));
	end();
}

TEST(oracle_flush_covers_only_what_completed_before_it_began)
{
	uint64_t a, token;

	begin();
	a = oracle_write_begin(o, 0, 1, VALUE_DATA);
	token = oracle_flush_begin(o);
	oracle_write_end(o, a, 0, 1, WRITE_ACKED);
	oracle_flush_end(o, token);
	oracle_crash(o);
	CHECK(finds(0, 0));
	CHECK(!finds(0, a));
	end();
}

TEST(oracle_what_a_stable_write_replaced_never_comes_back)
{
	uint64_t a, b, c;

	begin();
	a = write_at(0, WRITE_ACKED);
	b = write_at(0, WRITE_ACKED_STABLE);
	c = write_at(0, WRITE_ACKED);
	(void)c;
	oracle_crash(o);
	CHECK(!finds(0, a));
	CHECK(finds(0, b));
	end();
}

TEST(oracle_a_repeated_write_comes_again_until_it_ends)
{
	uint64_t a, b;

	begin();
	oracle_set_repeats(o, true);
	a = oracle_write_begin(o, 0, 1, VALUE_DATA);
	CHECK(finds(0, a));
	b = write_at(0, WRITE_ACKED);
	CHECK(finds(0, b));
	CHECK(finds(0, a));
	CHECK(!finds(0, b));
	b = write_at(0, WRITE_ACKED);
	oracle_write_end(o, a, 0, 1, WRITE_ACKED);
	CHECK(finds(0, b));
	CHECK(!finds(0, a));
	end();
}

TEST(oracle_an_ordinary_write_comes_once)
{
	uint64_t a, b;

	begin();
	a = oracle_write_begin(o, 0, 1, VALUE_DATA);
	CHECK(finds(0, a));
	b = write_at(0, WRITE_ACKED);
	CHECK(finds(0, b));
	CHECK(!finds(0, a));
	end();
}

TEST(oracle_who_lives_through_a_power_cut_is_told_less)
{
	uint64_t a, b, read, flush;

	begin();
	a = oracle_write_begin(o, 0, 1, VALUE_DATA);
	b = oracle_write_begin(o, 1, 1, VALUE_DATA);
	read = oracle_read_begin(o);
	(void)write_at(2, WRITE_ACKED);
	flush = oracle_flush_begin(o);
	oracle_crash(o);
	oracle_write_end(o, a, 0, 1, WRITE_ACKED);
	oracle_write_end(o, b, 1, 1, WRITE_ACKED_STABLE);
	memset(buf, 0x5a, sizeof(buf));
	CHECK(oracle_read_end(o, read, 0, 1, buf, why));
	CHECK(finds(0, 0));
	CHECK(!finds(0, a));
	CHECK(finds(1, b));
	CHECK(!finds(1, 0));
	oracle_flush_end(o, flush);
	CHECK(finds(2, 0));
	end();
}

TEST(oracle_wild_is_anything_until_it_is_replaced)
{
	uint64_t a, id;

	begin();
	id = oracle_write_begin(o, 0, 1, VALUE_WILD);
	oracle_write_end(o, id, 0, 1, WRITE_ACKED);
	CHECK(finds(0, 0));
	memset(buf, 0x5a, sizeof(buf));
	CHECK(oracle_read_end(o, oracle_read_begin(o), 0, 1, buf, why));
	a = write_at(0, WRITE_ACKED);
	CHECK(!finds(0, 0));
	CHECK(finds(0, a));
	end();
}

TEST(oracle_compare_is_judged_too)
{
	uint64_t a;

	begin();
	a = write_at(0, WRITE_ACKED);
	oracle_fill(o, buf, 0, 1, a);
	CHECK(!oracle_differ_end(o, oracle_read_begin(o), 0, 1, buf, why));
	(void)oracle_write_begin(o, 0, 1, VALUE_DATA);
	CHECK(oracle_differ_end(o, oracle_read_begin(o), 0, 1, buf, why));
	end();
}

TEST(oracle_a_wrong_copy_may_be_taken_for_the_truth_once)
{
	uint64_t a, b, c;

	begin();
	for (unsigned lba = 0; lba < 2; lba++) {
		a = write_at(lba, WRITE_ACKED_STABLE);
		b = write_at(lba, WRITE_ACKED_STABLE);
		CHECK(finds(lba, b));
		CHECK(!finds(lba, a));
		oracle_fill(o, buf, lba, 1, a);
		oracle_may_hold(o, lba, 1, buf);
		CHECK(!finds(lba, 0));
		CHECK(finds(lba, lba == 0 ? a : b)); /* either, and from now on that */
		CHECK(!finds(lba, lba == 0 ? b : a));
		oracle_crash(o);
		CHECK(!finds(lba, lba == 0 ? b : a));
		CHECK(finds(lba, lba == 0 ? a : b));
		c = write_at(lba, WRITE_ACKED);
		CHECK(finds(lba, c));
		CHECK(!finds(lba, a));
	}
	end();
}

TEST(oracle_cut_off_blocks_are_zero_again)
{
	begin();
	(void)write_at(5, WRITE_ACKED_STABLE);
	oracle_clear_from(o, 5);
	CHECK(finds(5, 0));
	end();
}

TAP_MAIN()
