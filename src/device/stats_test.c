// SPDX-License-Identifier: Apache-2.0
/*
 * Counters: what is added on several reactors reads like what one reactor would have counted.
 */
#include "device/stats.h"

#include "base/rng.h"
#include "base/tap.h"

static struct io_stats parts[3], sum, whole;

TEST(stats_sum_equals_the_whole)
{
	struct rng rng;

	rng_init(&rng, 7);
	io_stats_init(&sum);
	io_stats_init(&whole);
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		io_stats_init(&parts[i]);
	for (int i = 0; i < 10000; i++) {
		struct op_stats *part = &parts[rng_below(&rng, ARRAY_LEN(parts))].op[IO_WRITE];
		uint64_t ns = rng_range(&rng, 50, 5000000), weight = rng_range(&rng, 1, 64);

		op_stats_latency(part, ns, weight);
		op_stats_latency(&whole.op[IO_WRITE], ns, weight);
		part->ops++;
		whole.op[IO_WRITE].ops++;
		part->bytes += 4096;
		whole.op[IO_WRITE].bytes += 4096;
		part->errors += ns & 1;
		whole.op[IO_WRITE].errors += ns & 1;
	}
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		io_stats_add(&sum, &parts[i]);
	CHECK_MEM(&sum, &whole, sizeof(sum));
	CHECK_EQ(sum.op[IO_WRITE].ops, 10000);
	CHECK_EQ(hist_percentile(&sum.op[IO_WRITE].latency, 1.0), sum.op[IO_WRITE].latency.max_ns);
}

TEST(stats_nothing_timed_has_no_minimum)
{
	struct io_stats *empty = &parts[0];

	io_stats_init(empty);
	io_stats_init(&sum);
	io_stats_add(&sum, empty);
	for (int op = 0; op < IO_OP_COUNT_; op++) {
		CHECK(sum.op[op].latency_min_ns == UINT64_MAX);
		CHECK_EQ(sum.op[op].latency.max_ns, 0);
		CHECK_EQ(sum.op[op].latency.count, 0);
	}
	op_stats_latency(&empty->op[IO_READ], 30, 64);
	io_stats_add(&sum, empty);
	CHECK_EQ(sum.op[IO_READ].latency_min_ns, 30);
	CHECK_EQ(sum.op[IO_READ].latency.sum_ns, 30 * 64);
	CHECK(sum.op[IO_WRITE].latency_min_ns == UINT64_MAX);
}

TAP_MAIN()
