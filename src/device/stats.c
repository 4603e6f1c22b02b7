// SPDX-License-Identifier: Apache-2.0
/*
 * Counters of one device on one reactor: making them, and adding them up.
 *
 * The hot half is inline (io_issue() in device.h, op_stats_latency() in stats.h). A reader adds the
 * counters of all reactors while their owners go on counting: each 64-bit field is read whole, two
 * fields may be a request apart. That is what every reader of moving counters gets.
 *
 * Invariant: latency_min_ns is UINT64_MAX exactly while nothing was timed, so that a sum over
 * reactors needs no special case.
 *
 * Rejected: atomics (a locked add costs as much as all the rest of the layer); per-thread shadow
 * copies that are flushed now and then (numbers that lag are worse than numbers that tear).
 */
#include "device/stats.h"

void io_stats_init(struct io_stats *stats)
{
	*stats = (struct io_stats){};
	for (int op = 0; op < IO_OP_COUNT_; op++)
		stats->op[op].latency_min_ns = UINT64_MAX;
}

READS_RACING void op_stats_add(struct op_stats *sum, const struct op_stats *s)
{
	sum->ops += s->ops;
	sum->bytes += s->bytes;
	sum->errors += s->errors;
	sum->latency_min_ns = MIN(sum->latency_min_ns, s->latency_min_ns);
	hist_merge(&sum->latency, &s->latency);
}

void io_stats_add(struct io_stats *sum, const struct io_stats *stats)
{
	for (int op = 0; op < IO_OP_COUNT_; op++)
		op_stats_add(&sum->op[op], &stats->op[op]);
}

void op_stats_subtract(struct op_stats *s, const struct op_stats *earlier)
{
	s->ops -= earlier->ops;
	s->bytes -= earlier->bytes;
	s->errors -= earlier->errors;
	hist_subtract(&s->latency, &earlier->latency);
}

void io_stats_subtract(struct io_stats *stats, const struct io_stats *earlier)
{
	for (unsigned op = 0; op < IO_OP_COUNT_; op++)
		op_stats_subtract(&stats->op[op], &earlier->op[op]);
}
