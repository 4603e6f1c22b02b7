// SPDX-License-Identifier: Apache-2.0
/*
 * bench-stack - a remote namespace as its users have it: device layer, paths and queues.
 *
 *   bench-stack --port P [--nqn NQN] [--rw read|write] [--bs BYTES] [--qd N] [--time S] [--core N]
 *               [--blocks N]
 *
 * Opens nvmf://127.0.0.1:P/NQN, keeps so many requests in flight on a handle, and prints what
 * bench-initiator prints, counted the same way: cpu_ns is the time of all turns in which a request
 * ended, per request. The difference between the two is what stands above the queues; that to
 * bench-target (nvmetcp_load.c), all that a user pays more than the least a client can cost.
 */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "base/hist.h"
#include "base/rng.h"
#include "device/driver.h"
#include "engine.h"
#include "reactor/mem.h"

enum { DEPTH_MAX = 512 };

static struct {
	const char *nqn;
	uint16_t port;
	bool is_write;
	uint32_t bs, qd;
	double time_s;
	int core;
	uint64_t blocks;
} opt = { .nqn = "nqn.2019-05.io.openebs:test",
	  .bs = 4096,
	  .qd = 128,
	  .time_s = 1,
	  .core = 1,
	  .blocks = 1 << 20 };

/* One request that is sent again and again. */
struct job {
	struct io io;
	uint8_t *buf;
	uint64_t started_ns;
};

static struct {
	struct handle *h;
	struct job jobs[DEPTH_MAX];
	struct rng rng;
	struct hist latency;
	struct timer end;
	struct poller clock;
	uint64_t begin_ns, last_ns, busy_ns, done;
	uint64_t busy_turn, busy_before; /* the last two in which a request ended */
	uint32_t nlb, inflight;
	bool is_ending;
	struct task_event over;
} run;

static void job_send(struct job *job);

static void job_done(struct io *io)
{
	struct job *job = io->owner;
	uint64_t turn = reactor_self()->stats.turns;

	if (io->status != IO_OK) {
		(void)fprintf(stderr, "bench-stack: a request failed, status %u\n", io->status);
		exit(1);
	}
	hist_add(&run.latency, run.last_ns - job->started_ns, 1);
	run.done++;
	if (run.busy_turn != turn) {
		run.busy_before = run.busy_turn;
		run.busy_turn = turn;
	}
	run.inflight--;
	if (!run.is_ending)
		job_send(job);
	else if (run.inflight == 0)
		task_event_fire(&run.over);
}

static void job_send(struct job *job)
{
	job->io = (struct io){ .op = opt.is_write ? IO_WRITE : IO_READ,
			       .nlb = run.nlb,
			       .lba = rng_next(&run.rng) % (opt.blocks / run.nlb) * run.nlb,
			       .done = job_done,
			       .owner = job };
	io_set_buf(&job->io, job->buf, opt.bs);
	job->started_ns = run.last_ns;
	run.inflight++;
	if (io_start(run.h, &job->io) != IO_PENDING) {
		(void)fprintf(stderr, "bench-stack: a request was not even sent\n");
		exit(1);
	}
}

/* Once per turn: what did the turn before cost, and was it of use? */
static unsigned clock_poll(struct poller *poller)
{
	const struct reactor *r = reactor_self();

	(void)poller;
	if ((run.busy_turn == r->stats.turns ? run.busy_before : run.busy_turn) + 1 ==
	    r->stats.turns)
		run.busy_ns += r->now_ns - run.last_ns;
	run.last_ns = r->now_ns;
	return 0;
}

static bool clock_arm(struct poller *poller)
{
	(void)poller;
	return true;
}

static void load_end(struct timer *timer)
{
	uint64_t ns = reactor_self()->now_ns - run.begin_ns;

	(void)timer;
	run.is_ending = true;
	printf("iops=%.0f mean_us=%.2f p50_us=%.2f p99_us=%.2f cpu_ns=%.1f\n",
	       (double)run.done / ((double)ns / 1e9), hist_mean(&run.latency) / 1e3,
	       (double)hist_percentile(&run.latency, 0.50) / 1e3,
	       (double)hist_percentile(&run.latency, 0.99) / 1e3,
	       (double)run.busy_ns / (double)run.done);
	poller_stop(reactor_self(), &run.clock);
}

static int load(struct err *err) MAY_SUSPEND
{
	struct reactor *r = reactor_self();
	const size_t size = (size_t)opt.qd * opt.bs;
	uint8_t *memory = dma_alloc(size);

	if (memory == NULL)
		return err_set(err, -ENOMEM, "no memory for the load");
	memset(memory, 2, size);
	rng_init(&run.rng, 2);
	run.begin_ns = run.last_ns = reactor_clock(r);
	run.end.fn = load_end;
	timer_arm(r, &run.end, (uint64_t)(opt.time_s * 1e9));
	run.clock.poll = clock_poll;
	run.clock.arm = clock_arm;
	poller_start(r, &run.clock);
	for (unsigned i = 0; i < opt.qd; i++) {
		run.jobs[i].buf = memory + (size_t)i * opt.bs;
		job_send(&run.jobs[i]);
	}
	task_event_wait(&run.over);
	dma_free(memory, size);
	return 0;
}

static int body(void *arg, struct err *err)
{
	struct desc_opts desc_opts = { .flags = opt.is_write ? DESC_WRITE : 0 };
	struct desc *desc;
	struct device *dev;
	char uri[512];
	int result;

	(void)arg;
	(void)snprintf(uri, sizeof(uri), "nvmf://127.0.0.1:%u/%s?queue_depth=%u", opt.port, opt.nqn,
		       opt.qd + 1);
	result = device_create(uri, &dev, err);
	if (result == 0)
		result = desc_open(dev, &desc_opts, &desc, err);
	if (result < 0)
		return result;
	run.nlb = opt.bs / dev->block_size;
	result = handle_open(desc, reactor_self(), &run.h, err);
	if (result == 0)
		result = load(err);
	desc_close(desc);
	return result;
}

static bool parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "port", 1, NULL, 'p' }, { "nqn", 1, NULL, 'n' },    { "rw", 1, NULL, 'r' },
		{ "bs", 1, NULL, 'b' },   { "qd", 1, NULL, 'q' },     { "time", 1, NULL, 't' },
		{ "core", 1, NULL, 'C' }, { "blocks", 1, NULL, 'B' }, {},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (c == '?')
			return false;
		if (c == 'n')
			opt.nqn = optarg;
		if (c == 'r')
			opt.is_write = strcmp(optarg, "write") == 0;
		if (c == 't')
			opt.time_s = strtod(optarg, NULL);
		if (c == 'p')
			opt.port = (uint16_t)strtoul(optarg, NULL, 0);
		if (c == 'b')
			opt.bs = (uint32_t)strtoul(optarg, NULL, 0);
		if (c == 'q')
			opt.qd = (uint32_t)strtoul(optarg, NULL, 0);
		if (c == 'C')
			opt.core = (int)strtol(optarg, NULL, 0);
		if (c == 'B')
			opt.blocks = strtoull(optarg, NULL, 0);
	}
	return opt.qd >= 1 && opt.qd < DEPTH_MAX && opt.port != 0 && opt.bs >= 512 &&
	       opt.bs % 512 == 0;
}

int main(int argc, char **argv)
{
	struct engine_opts opts = {};
	struct err err = {};

	if (!parse(argc, argv)) {
		(void)fprintf(stderr, "bench-stack: wrong usage, see the head of its source\n");
		return 2;
	}
	opts.reactor.core_mask = opt.core >= 0 ? 1ull << opt.core : 0;
	if (engine_run(&opts, body, NULL, &err) < 0) {
		(void)fprintf(stderr, "bench-stack: %s\n", err_text(&err));
		return 1;
	}
	return 0;
}
