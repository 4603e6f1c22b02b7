/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Latency histograms: the cold half.
 *
 * Every operation of every device on every core keeps one, always on, because the figure that
 * explains an incident is the one that was recorded before anybody asked. So adding must cost next
 * to nothing (hist_add, in the header: one count of leading zeros, two shifts, four additions) and
 * the size must allow hundreds of them (2.4 KiB).
 *
 * The buckets are log-linear: powers of two, each cut into eight equal parts. A percentile is given
 * as the upper bound of the bucket it falls into, so it is never better than the truth and at most
 * 12.5 % worse. Mean and maximum are exact, kept beside the buckets.
 *
 * Invariants
 *   1. count is the sum of all buckets.
 *   2. hist_bucket is monotone, and hist_bucket_low/high are its inverse: every value v lies in
 *      [low(bucket(v)), high(bucket(v))], and high(i) + 1 == low(i + 1).
 *
 * Thread rule: one writer, no atomics; the owner's counters are summed on read.
 *
 * Rejected: HdrHistogram (a dependency and 20 times the memory for a precision nobody reads off a
 * storage latency); t-digest (costs a sort); fixed buckets as Prometheus has them (they answer only
 * the questions that were foreseen; these can be derived from ours).
 */
#include "base/hist.h"

#include <string.h>

uint64_t hist_bucket_low(unsigned i)
{
	unsigned group = i >> HIST_SUB_BITS;
	uint64_t sub = i & ((1u << HIST_SUB_BITS) - 1);

	if (group == 0)
		return sub;
	return (sub | 1u << HIST_SUB_BITS) << (group - 1);
}

uint64_t hist_bucket_high(unsigned i)
{
	return i >= HIST_BUCKETS - 1 ? UINT64_MAX : hist_bucket_low(i + 1) - 1;
}

void hist_reset(struct hist *hist)
{
	*hist = (struct hist){};
}

READS_RACING void hist_merge(struct hist *to, const struct hist *from)
{
	to->count += from->count;
	to->sum_ns += from->sum_ns;
	to->max_ns = MAX(to->max_ns, from->max_ns);
	for (unsigned i = 0; i < HIST_BUCKETS; i++)
		to->buckets[i] += from->buckets[i];
}

void hist_subtract(struct hist *to, const struct hist *from)
{
	uint64_t bound = 0;

	to->count -= from->count;
	to->sum_ns -= from->sum_ns;
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		to->buckets[i] -= from->buckets[i];
		if (to->buckets[i] != 0)
			bound = hist_bucket_high(i);
	}
	to->max_ns = MIN(to->max_ns, bound);
}

uint64_t hist_percentile(const struct hist *hist, double p)
{
	uint64_t seen = 0;
	uint64_t rank;

	if (hist->count == 0)
		return 0;
	/* The written form also sends NaN to 0. */
	p = p > 0.0 ? p < 1.0 ? p : 1.0 : 0.0;
	rank = (uint64_t)(p * (double)hist->count);
	if ((double)rank < p * (double)hist->count || rank == 0)
		rank++;
	rank = MIN(rank, hist->count);
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		seen += hist->buckets[i];
		if (seen >= rank)
			return MIN(hist_bucket_high(i), hist->max_ns);
	}
	return hist->max_ns;
}

double hist_mean(const struct hist *hist)
{
	return hist->count == 0 ? 0.0 : (double)hist->sum_ns / (double)hist->count;
}

unsigned hist_next(const struct hist *hist, unsigned i)
{
	while (i < HIST_BUCKETS && hist->buckets[i] == 0)
		i++;
	return i;
}
