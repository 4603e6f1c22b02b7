/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_interval.c - `--interval`: how the last second was, while the benchmark goes on.
 *
 * One number for a whole run hides what happened in it: a replica that died, a rebuild, a cache
 * that filled up. Each interval is the difference between two sums of the devices' own statistics,
 * so workers do nothing for it and nothing is shared with them. Latencies are therefore those of
 * the device layer: with --rate the time a request was late is not in them, as it is in the result.
 *
 * An interval ends at the first tick at or after its time; rates are over what it really lasted.
 * One without a request is told too: that is what a stall looks like.
 *
 * Rejected: histograms per interval in the workers, which would cost every request a look at the
 * clock.
 *
 * Thread: the task.
 */
#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/units.h"
#include "cli/bench.h"
#include "cli/json_text.h"
#include "cli/term.h"

struct interval_sum {
	uint64_t ops, bytes, errors;
	struct hist latency;
};

struct bench_intervals {
	uint64_t since_ns, last_ns; /* 0: the run has not begun */
	struct interval_sum last, now;
	struct io_stats stats; /* of one device */
};

int interval_init(struct bench *b, struct err *err)
{
	if (b->opts.interval_ns == 0)
		return 0;
	b->intervals = calloc(1, sizeof(*b->intervals));
	return b->intervals != NULL ? 0 : err_set(err, -ENOMEM, "no memory for the intervals");
}

static void sum_take(struct bench *b, struct interval_sum *sum)
{
	static const unsigned ops[] = { IO_READ, IO_WRITE };
	struct io_stats *stats = &b->intervals->stats;

	*sum = (struct interval_sum){};
	for (unsigned i = 0; i < b->ndevices; i++) {
		device_stats(b->devices[i].open.dev, stats);
		for (unsigned o = 0; o < ARRAY_LEN(ops); o++) {
			const struct op_stats *s = &stats->op[ops[o]];

			sum->ops += s->ops;
			sum->bytes += s->bytes;
			sum->errors += s->errors;
			hist_merge(&sum->latency, &s->latency);
		}
	}
}

/* One compact object on a line of its own; the result follows as the last object. */
static void print_json(const struct interval_sum *d, double end_s, double seconds)
{
	json_t *object = json_pack("{s:{s:f, s:f, s:f, s:I, s:I, s:I, s:I}}", "interval", "end_s",
				   end_s, "iops", (double)d->ops / seconds, "bytes_per_s",
				   (double)d->bytes / seconds, "p50_ns",
				   (json_int_t)hist_percentile(&d->latency, 0.5), "p99_ns",
				   (json_int_t)hist_percentile(&d->latency, 0.99), "max_ns",
				   (json_int_t)d->latency.max_ns, "errors", (json_int_t)d->errors);

	(void)json_print(object, false);
}

static void print_text(const struct interval_sum *d, double end_s, double seconds)
{
	char iops[UNITS_TEXT_MAX], rate[UNITS_TEXT_MAX], p50[UNITS_TEXT_MAX], p99[UNITS_TEXT_MAX];

	printf("%6.1f s  %s IOPS  %s  p50 %s  p99 %s  %llu errors\n", end_s,
	       count_format((double)d->ops / seconds, iops),
	       rate_format((double)d->bytes / seconds, rate),
	       duration_format(hist_percentile(&d->latency, 0.5), p50),
	       duration_format(hist_percentile(&d->latency, 0.99), p99),
	       (unsigned long long)d->errors);
}

void interval_tick(struct bench *b, struct progress *bar, uint64_t since_ns)
{
	struct bench_intervals *iv = b->intervals;
	uint64_t now_ns = reactor_clock(reactor_primary());
	struct interval_sum now;
	double seconds;

	if (iv == NULL)
		return;
	if (iv->since_ns != since_ns) { /* it begins; what --fill did is not ours */
		iv->since_ns = iv->last_ns = since_ns;
		sum_take(b, &iv->last);
		return;
	}
	if (now_ns - iv->last_ns < b->opts.interval_ns)
		return;
	sum_take(b, &iv->now);
	now = iv->now;
	seconds = (double)(now_ns - iv->last_ns) / 1e9;
	now.ops -= iv->last.ops;
	now.bytes -= iv->last.bytes;
	now.errors -= iv->last.errors;
	hist_subtract(&now.latency, &iv->last.latency);
	progress_wipe(bar);
	if (b->opts.json)
		print_json(&now, (double)(now_ns - since_ns) / 1e9, seconds);
	else
		print_text(&now, (double)(now_ns - since_ns) / 1e9, seconds);
	(void)fflush(stdout);
	iv->last = iv->now;
	iv->last_ns = now_ns;
}
