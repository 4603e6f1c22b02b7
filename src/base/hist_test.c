/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of hist.c: the bucket map is exact at its edges, percentiles keep their promised error. */
#include "base/hist.h"

#include <time.h>

#include "base/rng.h"
#include "base/tap.h"

TEST(buckets_tile_the_range)
{
	CHECK_EQ(hist_bucket_low(0), 0);
	for (unsigned i = 0; i + 1 < HIST_BUCKETS; i++) {
		uint64_t low = hist_bucket_low(i), high = hist_bucket_high(i);

		CHECK_EQ(hist_bucket(low), i);
		CHECK_EQ(hist_bucket(high), i);
		CHECK_EQ(hist_bucket_low(i + 1), high + 1);
		CHECK(high - low <= low / 8);
	}
	CHECK_EQ(hist_bucket_high(HIST_BUCKETS - 1), UINT64_MAX);
	CHECK_EQ(hist_bucket((1ull << 40) - 1), HIST_BUCKETS - 1);
	CHECK_EQ(hist_bucket(1ull << 40), HIST_BUCKETS - 1);
	CHECK_EQ(hist_bucket(UINT64_MAX), HIST_BUCKETS - 1);
}

TEST(empty_histogram)
{
	struct hist hist = {};

	CHECK_EQ(hist_percentile(&hist, 0.5), 0);
	CHECK(hist_mean(&hist) == 0.0);
	CHECK_EQ(hist_next(&hist, 0), HIST_BUCKETS);
}

TEST(small_values_are_exact)
{
	struct hist hist = {};

	for (uint64_t v = 0; v < 8; v++)
		hist_add(&hist, v, 1);
	CHECK_EQ(hist.count, 8);
	CHECK_EQ(hist_percentile(&hist, 0), 0);
	CHECK_EQ(hist_percentile(&hist, 0.5), 3);
	CHECK_EQ(hist_percentile(&hist, 0.51), 4);
	CHECK_EQ(hist_percentile(&hist, 1), 7);
	CHECK_EQ(hist_percentile(&hist, 7), 7);
	CHECK_EQ(hist_percentile(&hist, -1), 0);
	CHECK_EQ(hist_percentile(&hist, __builtin_nan("")), 0);
	CHECK(hist_mean(&hist) == 3.5);
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

TEST(percentiles_are_at_most_an_eighth_above_the_truth)
{
	enum { COUNT = 20000 };
	static uint64_t values[COUNT];
	static const double shares[] = { 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 1 };
	struct hist hist = {};
	struct rng rng;
	double sum = 0;

	rng_init(&rng, 4711);
	for (unsigned i = 0; i < COUNT; i++) {
		values[i] = rng_next(&rng) >> rng_range(&rng, 25, 60);
		hist_add(&hist, values[i], 1);
		sum += (double)values[i];
	}
	qsort(values, COUNT, sizeof(values[0]), compare_u64);
	for (unsigned i = 0; i < ARRAY_LEN(shares); i++) {
		unsigned rank = (unsigned)(shares[i] * COUNT + 0.999999);
		uint64_t truth = values[rank - 1];
		uint64_t said = hist_percentile(&hist, shares[i]);

		CHECK(said >= truth);
		CHECK((double)said <= (double)truth * 1.125);
	}
	CHECK_EQ(hist.max_ns, values[COUNT - 1]);
	CHECK_EQ(hist_percentile(&hist, 1), values[COUNT - 1]);
	CHECK(hist_mean(&hist) > sum / COUNT * 0.999 && hist_mean(&hist) < sum / COUNT * 1.001);
}

TEST(weights_count_as_repetition)
{
	struct hist once = {}, repeated = {};

	hist_add(&once, 1000, 3);
	hist_add(&once, 5, 0);
	for (int i = 0; i < 3; i++)
		hist_add(&repeated, 1000, 1);
	CHECK_MEM(&once, &repeated, sizeof(once));
}

TEST(saturated_values_keep_sum_and_max)
{
	struct hist hist = {};

	hist_add(&hist, 3ull << 40, 1);
	CHECK_EQ(hist.max_ns, 3ull << 40);
	CHECK_EQ(hist_percentile(&hist, 0.5), 3ull << 40);
	CHECK(hist_mean(&hist) == (double)(3ull << 40));
}

TEST(merge_then_subtract_restores)
{
	struct hist before = {}, later = {}, period = {};
	struct rng rng;

	rng_init(&rng, 3);
	for (int i = 0; i < 1000; i++)
		hist_add(&before, rng_below(&rng, 1000), 1);
	for (int i = 0; i < 1000; i++)
		hist_add(&period, 100000 + rng_below(&rng, 1000), 2);
	later = before;
	hist_merge(&later, &period);
	CHECK_EQ(later.count, 3000);
	CHECK_EQ(later.max_ns, period.max_ns);
	hist_subtract(&later, &before);
	CHECK_EQ(later.count, period.count);
	CHECK_EQ(later.sum_ns, period.sum_ns);
	CHECK_EQ(later.max_ns, period.max_ns);
	CHECK_MEM(later.buckets, period.buckets, sizeof(later.buckets));
	hist_merge(&before, &period);
	hist_subtract(&before, &period); /* the slow ones are gone, the bound follows */
	CHECK(before.max_ns <= 1023);
	hist_reset(&before);
	CHECK_EQ(before.count, 0);
}

TEST(iteration_visits_the_buckets_in_use)
{
	struct hist hist = {};
	uint64_t seen = 0;
	unsigned visits = 0;

	hist_add(&hist, 0, 1);
	hist_add(&hist, 77, 2);
	hist_add(&hist, UINT64_MAX, 3);
	for (unsigned i = hist_next(&hist, 0); i < HIST_BUCKETS; i = hist_next(&hist, i + 1)) {
		seen += hist.buckets[i];
		visits++;
	}
	CHECK_EQ(seen, 6);
	CHECK_EQ(visits, 3);
}

TEST(the_cost_of_adding_is_told)
{
	enum { ROUNDS = 2000000 };
	static struct hist hist;
	struct timespec from, to;
	uint64_t value = 1000;
	double ns;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
	for (unsigned i = 0; i < ROUNDS; i++) {
		value = value * 5 + 3;
		hist_add(&hist, value & 0xfffff, 1);
	}
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
	ns = (double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec);
	printf("# hist_add: %.2f ns\n", ns / ROUNDS);
	CHECK_EQ(hist.count, ROUNDS);
}

TAP_MAIN()
