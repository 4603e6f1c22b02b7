/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load.h - what bench-initiator and bench-stack share: options, the clock of a load, its report.
 *
 * Both keep requests in flight from one reactor and print one line that bench-target
 * (nvmetcp_load.c) prints as well. Its cpu_ns is the time of all turns in which a request ended,
 * per request; time spent polling in vain is nobody's cost. Counted here, so that the difference
 * between two programs is what they do and not how they count.
 *
 * Thread: load_parse() before the reactor starts, the rest on it.
 */
#ifndef ASHLAR_BENCH_LOAD_H
#define ASHLAR_BENCH_LOAD_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hist.h"
#include "base/rng.h"
#include "reactor/reactor.h"

enum { LOAD_DEPTH_MAX = 512 };

static struct {
	const char *nqn, *rw, *time;
	int64_t port, bs, qd, core, blocks; /* blocks: of 512 bytes, to choose from */
	bool is_write;
} opt = { .nqn = "nqn.2019-05.io.openebs:test",
	  .rw = "read",
	  .time = "1", /* seconds */
	  .bs = 4096,
	  .qd = 128,
	  .core = 1, /* -1: not pinned */
	  .blocks = 1 << 20 };

/* Where the value of an option goes; one of the three. */
struct load_option {
	const char *name; /* NULL ends a table */
	int64_t *number;
	const char **text;
	bool *flag; /* set, takes no value */
};

static struct {
	struct rng rng;
	uint64_t begin_ns, last_ns, busy_ns, done;
	uint64_t busy_turn, busy_before; /* the last two in which a request ended */
	bool is_ending;
	struct hist latency;
	struct timer timer;
	struct poller clock;
	void (*end)(void);
} load;

/* A request that was started at @started_ns (of load.last_ns) ended. */
static inline void load_count(uint64_t started_ns)
{
	uint64_t turn = reactor_self()->stats.turns;

	hist_add(&load.latency, load.last_ns - started_ns, 1);
	load.done++;
	if (load.busy_turn == turn)
		return;
	load.busy_before = load.busy_turn;
	load.busy_turn = turn;
}

/* Where the next request of @nlb blocks goes, @blocks of them being there. */
static inline uint64_t load_lba(uint64_t blocks, uint32_t nlb)
{
	return rng_next(&load.rng) % (blocks / nlb) * nlb;
}

/* Once per turn: what did the turn before cost, and was it of use? */
static inline unsigned load_clock(struct poller *poller)
{
	const struct reactor *r = reactor_self();

	(void)poller;
	if ((load.busy_turn == r->stats.turns ? load.busy_before : load.busy_turn) + 1 ==
	    r->stats.turns)
		load.busy_ns += r->now_ns - load.last_ns;
	load.last_ns = r->now_ns;
	return 0;
}

static inline bool load_clock_arm(struct poller *poller)
{
	(void)poller;
	return true;
}

static inline void load_timeout(struct timer *timer)
{
	double ns = (double)(reactor_self()->now_ns - load.begin_ns);

	(void)timer;
	load.is_ending = true;
	printf("iops=%.0f mean_us=%.2f p50_us=%.2f p99_us=%.2f cpu_ns=%.1f\n",
	       (double)load.done / (ns / 1e9), hist_mean(&load.latency) / 1e3,
	       (double)hist_percentile(&load.latency, 0.50) / 1e3,
	       (double)hist_percentile(&load.latency, 0.99) / 1e3,
	       (double)load.busy_ns / (double)load.done);
	poller_stop(reactor_self(), &load.clock);
	load.end();
}

/* Count from now on; when the time is over, report, set is_ending and call @end. */
static inline void load_begin(void (*end)(void))
{
	struct reactor *r = reactor_self();

	rng_init(&load.rng, 2);
	load.begin_ns = load.last_ns = reactor_clock(r);
	load.end = end;
	load.timer.fn = load_timeout;
	timer_arm(r, &load.timer, (uint64_t)(strtod(opt.time, NULL) * 1e9));
	load.clock.poll = load_clock;
	load.clock.arm = load_clock_arm;
	poller_start(r, &load.clock);
}

static inline const struct load_option *load_find(const struct load_option *table, const char *word)
{
	for (; table->name != NULL; table++) {
		if (strncmp(word, "--", 2) == 0 && strcmp(table->name, word + 2) == 0)
			return table;
	}
	return NULL;
}

/* The common options and those of @more into opt; false: wrong usage. */
static inline bool load_parse(int argc, char **argv, const struct load_option *more)
{
	static const struct load_option common[] = {
		{ "nqn", .text = &opt.nqn },
		{ "rw", .text = &opt.rw },
		{ "time", .text = &opt.time },
		{ "port", .number = &opt.port },
		{ "bs", .number = &opt.bs },
		{ "qd", .number = &opt.qd },
		{ "core", .number = &opt.core },
		{ "blocks", .number = &opt.blocks },
		{},
	};

	for (int i = 1; i < argc; i++) {
		const struct load_option *o = load_find(common, argv[i]);

		if (o == NULL)
			o = load_find(more, argv[i]);
		if (o == NULL || (o->flag == NULL && ++i == argc))
			return false;
		if (o->flag != NULL)
			*o->flag = true;
		else if (o->text != NULL)
			*o->text = argv[i];
		else
			*o->number = strtoll(argv[i], NULL, 0);
	}
	opt.is_write = strcmp(opt.rw, "write") == 0;
	return opt.qd >= 1 && opt.qd < LOAD_DEPTH_MAX && opt.port > 0 && opt.port <= UINT16_MAX &&
	       opt.bs >= 512 && opt.bs % 512 == 0 && opt.blocks >= opt.bs / 512;
}

#endif
