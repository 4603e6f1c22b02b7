/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.h - what every named device counts, per operation, and how it is read.
 *
 * Counters live per channel, so per reactor, and are plain: the owner adds, readers on other
 * reactors add them up and tolerate a tear between fields. Reset is a snapshot that the reader
 * subtracts. Latency comes from the reactor's cached clock; a request that a driver ends inside
 * submit is timed exactly once in STATS_SAMPLE and counted with that weight.
 */
#ifndef ASHLAR_DEVICE_STATS_H
#define ASHLAR_DEVICE_STATS_H

#include "base/hist.h"
#include "device/io.h"

enum {
	STATS_SAMPLE = 64, /* a power of two; one exact timing per so many inline completions */
};

/* The part that every request touches; in the channel itself, next to what is read anyway. */
struct op_count {
	uint64_t ops;
	uint64_t blocks;
};

struct op_stats {
	uint64_t ops;
	uint64_t bytes;
	uint64_t errors;
	uint64_t latency_min_ns; /* UINT64_MAX before the first */
	struct hist latency;     /* with sum and maximum */
};

struct io_stats {
	struct op_stats op[IO_OP_COUNT_];
};

void io_stats_init(struct io_stats *stats);
/* sum += stats */
void io_stats_add(struct io_stats *sum, const struct io_stats *stats);
/* stats -= earlier, an older copy of the same counters; the minimum of a period is not known and
 * stays. */
void io_stats_subtract(struct io_stats *stats, const struct io_stats *earlier);
/* The same for one operation. */
void op_stats_add(struct op_stats *sum, const struct op_stats *s);
void op_stats_subtract(struct op_stats *s, const struct op_stats *earlier);

static inline void op_stats_latency(struct op_stats *s, uint64_t ns, uint64_t weight)
{
	if (ns < s->latency_min_ns)
		s->latency_min_ns = ns;
	hist_add(&s->latency, ns, weight);
}

#endif
