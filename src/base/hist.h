/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hist.h - a latency histogram that costs a nanosecond or two per value.
 *
 * Owner:  embedded; zeroed memory is an empty histogram.
 * Thread: one writer. A reader on another thread sees a histogram that may be a few values behind.
 * Rules:  8 buckets per power of two: a bucket is at most 12.5 % of its lower bound wide, which
 *         bounds the error of every percentile. Values below 8 are exact. Values of 2^40 ns
 *         (18 minutes) and more fall into the last bucket; sum and max stay exact.
 */
#ifndef BASE_HIST_H
#define BASE_HIST_H
#include "base/base.h"

enum {
	HIST_SUB_BITS = 3,
	HIST_VALUE_BITS = 40,
	HIST_BUCKETS = (HIST_VALUE_BITS - HIST_SUB_BITS + 1) << HIST_SUB_BITS, /* 304 */
};

struct hist {
	uint64_t count;  /* sum of all weights */
	uint64_t sum_ns; /* sum of value * weight; wraps after 584 years of latency */
	uint64_t max_ns; /* largest value, exact */
	uint64_t buckets[HIST_BUCKETS];
};

/* Values 0..7 are their own bucket. Above, the top four bits of the value select it: the exponent
 * says which group of eight, the three bits behind the leading one say which of the eight. */
static inline unsigned hist_bucket(uint64_t ns)
{
	unsigned shift;

	if (unlikely(ns >> HIST_VALUE_BITS != 0))
		return HIST_BUCKETS - 1;
	shift = u64_log2(ns | (1u << HIST_SUB_BITS)) - HIST_SUB_BITS;
	return (shift << HIST_SUB_BITS) + (unsigned)(ns >> shift);
}

/* @weight I/Os that took @ns each. */
static inline void hist_add(struct hist *hist, uint64_t ns, uint64_t weight)
{
	hist->buckets[hist_bucket(ns)] += weight;
	hist->count += weight;
	hist->sum_ns += ns * weight;
	hist->max_ns = ns > hist->max_ns ? ns : hist->max_ns;
}

/* Bounds of bucket @i, both inclusive. The last bucket has no upper bound: UINT64_MAX. */
uint64_t hist_bucket_low(unsigned i);
uint64_t hist_bucket_high(unsigned i);

void hist_reset(struct hist *hist);

/* @to += @from. */
void hist_merge(struct hist *to, const struct hist *from);

/* @to -= @from, where @from is an earlier copy of the same histogram: what came since. The largest
 * value of a period is not known exactly; max_ns becomes the upper bound of the highest bucket left
 * in use, or stays when that is lower. */
void hist_subtract(struct hist *to, const struct hist *from);

/* The value below or at which a share @p (0..1, clamped) of all values lies: the upper bound of its
 * bucket, at most max_ns. At or up to 12.5 % above the true value, never below. 0 when empty. */
uint64_t hist_percentile(const struct hist *hist, double p);

/* Exact mean, 0 when empty. */
double hist_mean(const struct hist *hist);

/* The next bucket in use at or after @i, HIST_BUCKETS when there is none:
 * for (i = hist_next(h, 0); i < HIST_BUCKETS; i = hist_next(h, i + 1)) */
unsigned hist_next(const struct hist *hist, unsigned i);
#endif
