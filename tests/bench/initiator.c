// SPDX-License-Identifier: Apache-2.0
/*
 * bench-initiator - the initiator's queues against a target, driven without anything above them.
 *
 *   bench-initiator --port P [--nqn NQN] [options]
 *
 * One reactor makes an admin queue and N I/O queues and keeps each full of reads or writes of one
 * size, into and from one buffer per command. Prints what bench-target prints (nvmetcp_load.c); of
 * that, cpu_ns is the time of all turns in which something was done, per command. Both programs
 * count it the same way, so their difference is what the initiator costs more than the least that
 * a client can do. Time spent polling in vain is nobody's cost.
 *
 * Options: --rw read|write, --bs BYTES, --qd N, --conns N, --time S, --core N, --nsid N,
 *          --blocks N (of 512 bytes, to choose from), --in-capsule BYTES, --hdgst, --ddgst,
 *          --poll-always (never sleep)
 */
#include <errno.h>
#include <getopt.h>
#include <semaphore.h>
#include <string.h>
#include <time.h>

#include "base/hist.h"
#include "base/rng.h"
#include "drivers/nvmf/queue.h"
#include "reactor/mem.h"

enum {
	CONNS_MAX = 64,
	DEPTH_MAX = 512,
	CONNECT_MS = 5000,
};

static struct {
	const char *nqn;
	uint16_t port;
	bool is_write, hdgst, ddgst, poll_always;
	uint32_t bs, qd, conns, nsid, in_capsule;
	double time_s;
	int core;
	uint64_t blocks;
} opt = { .nqn = "nqn.2019-05.io.openebs:test",
	  .bs = 4096,
	  .qd = 128,
	  .conns = 1,
	  .nsid = 1,
	  .in_capsule = 4096,
	  .time_s = 1,
	  .core = 1,
	  .blocks = 1 << 20 };

/* One command that is sent again and again. */
struct job {
	struct queue *q;
	struct iovec iov;
	uint64_t started_ns;
};

static struct {
	struct queue *admin, *io[CONNS_MAX];
	unsigned nlive, ndown;
	struct job jobs[CONNS_MAX][DEPTH_MAX];
	uint8_t *memory;
	struct rng rng;
	struct hist latency;
	struct timer end;
	struct poller clock;
	uint64_t begin_ns, last_ns, busy_ns, done;
	uint64_t busy_turn, busy_before; /* the last two in which a command ended */
	bool is_ending, has_failed;
	sem_t finished;
} run;

static void fail(const char *what, const char *why)
{
	(void)fprintf(stderr, "bench-initiator: %s: %s\n", what, why);
	exit(1);
}

/* ---- the load ------------------------------------------------------------------------------- */

static void job_send(struct job *job);

static void job_done(struct slot *slot)
{
	struct job *job = slot->owner;
	uint64_t turn = reactor_self()->stats.turns;

	if (slot->status != 0 && !run.is_ending) {
		(void)fprintf(stderr, "bench-initiator: status %#x\n", slot->status);
		exit(1);
	}
	hist_add(&run.latency, run.last_ns - job->started_ns, 1);
	run.done++;
	if (run.busy_turn != turn) {
		run.busy_before = run.busy_turn;
		run.busy_turn = turn;
	}
	if (!run.is_ending)
		job_send(job);
}

static void job_send(struct job *job)
{
	uint32_t nlb = opt.bs / 512;
	uint64_t lba = rng_next(&run.rng) % (opt.blocks / nlb) * nlb;
	struct slot *slot = queue_get(job->q);

	if (slot == NULL)
		fail("queue_get", "no slot");
	slot->sqe.opcode = opt.is_write ? NVME_IO_WRITE : NVME_IO_READ;
	slot->sqe.nsid = le32_of(opt.nsid);
	slot->sqe.cdw10 = le32_of((uint32_t)lba);
	slot->sqe.cdw11 = le32_of((uint32_t)(lba >> 32));
	slot->sqe.cdw12 = le32_of(nlb - 1);
	slot->iov = &job->iov;
	slot->iovcnt = 1;
	slot->len = opt.bs;
	slot->dir = opt.is_write ? SLOT_H2C : SLOT_C2H;
	slot->done = job_done;
	slot->owner = job;
	job->started_ns = run.last_ns;
	queue_send(slot);
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
	for (unsigned i = 0; i < opt.conns; i++)
		queue_disconnect(run.io[i], -ECANCELED);
	queue_disconnect(run.admin, -ECANCELED);
}

static void load_begin(void)
{
	struct reactor *r = reactor_self();

	run.memory = dma_alloc((size_t)opt.conns * opt.qd * opt.bs);
	if (run.memory == NULL)
		fail("memory", "none");
	memset(run.memory, 2, (size_t)opt.conns * opt.qd * opt.bs);
	run.begin_ns = run.last_ns = reactor_clock(r);
	run.end.fn = load_end;
	timer_arm(r, &run.end, (uint64_t)(opt.time_s * 1e9));
	run.clock.poll = clock_poll;
	run.clock.arm = clock_arm;
	poller_start(r, &run.clock);
	for (unsigned i = 0; i < opt.conns; i++) {
		for (unsigned j = 0; j < opt.qd; j++) {
			uint8_t *at = run.memory + ((size_t)i * opt.qd + j) * opt.bs;

			run.jobs[i][j] = (struct job){ .q = run.io[i], .iov = { at, opt.bs } };
			job_send(&run.jobs[i][j]);
		}
	}
}

/* ---- connecting ----------------------------------------------------------------------------- */

static void dial(struct queue *q, uint16_t cntlid)
{
	struct queue_target target = {
		.host = "127.0.0.1",
		.port = opt.port,
		.subnqn = opt.nqn,
		.hostnqn = "nqn.2014-08.org.nvmexpress:bench",
		.cntlid = cntlid,
		.hdgst = opt.hdgst,
		.ddgst = opt.ddgst,
		.capsule_data_max = queue_qid(q) == 0 ? NVME_TCP_ADMIN_CAPSULE_DATA
						      : opt.in_capsule,
		.connect_timeout_ns = CONNECT_MS * 1000000ull,
		.io_timeout_ns = 30000000000ull,
	};
	struct err err = {};

	if (queue_connect(q, &target, &err) < 0)
		fail("connect", err.msg);
}

static void io_up(struct queue *q)
{
	(void)q;
	if (++run.nlive == opt.conns)
		load_begin();
}

static void any_down(struct queue *q, int reason)
{
	(void)reason;
	if (!run.is_ending)
		fail("connection", queue_err(q)->msg);
	queue_free(q);
	if (++run.ndown == opt.conns + 1)
		(void)sem_post(&run.finished);
}

static void enabled(struct slot *slot)
{
	struct err err = {};

	if (slot->status != 0)
		fail("enable", "refused");
	for (unsigned i = 0; i < opt.conns; i++) {
		struct queue_opts opts = { .qid = (uint16_t)(i + 1),
					   .depth = (uint16_t)(opt.qd + 1),
					   .up = io_up,
					   .down = any_down };

		if (queue_new(&opts, &run.io[i], &err) < 0)
			fail("queue", err.msg);
		dial(run.io[i], queue_cntlid(run.admin));
	}
}

/* Controller configuration: enabled, 64 and 16 bytes per entry (Base 3.1.3.5). */
static void admin_up(struct queue *q)
{
	struct slot *slot = queue_get(q);
	struct nvme_property_cmd *cmd = (void *)&slot->sqe;

	cmd->opcode = NVME_FABRICS;
	cmd->fctype = NVME_FABRICS_PROPERTY_SET;
	cmd->offset = le32_of(NVME_PROP_CC);
	cmd->value = le64_of(NVME_CC_EN | 6 << NVME_CC_IOSQES_SHIFT | 4 << NVME_CC_IOCQES_SHIFT);
	slot->done = enabled;
	queue_send(slot);
}

static void begin(struct msg *msg)
{
	struct queue_opts opts = { .depth = 32, .up = admin_up, .down = any_down };
	struct err err = {};

	(void)msg;
	rng_init(&run.rng, 2);
	if (queue_new(&opts, &run.admin, &err) < 0)
		fail("queue", err.msg);
	dial(run.admin, NVME_CNTLID_DYNAMIC);
}

/* ---- the program ---------------------------------------------------------------------------- */

static const struct option options[] = {
	{ "port", 1, NULL, 'p' },       { "nqn", 1, NULL, 'n' },         { "rw", 1, NULL, 'r' },
	{ "bs", 1, NULL, 'b' },         { "qd", 1, NULL, 'q' },          { "conns", 1, NULL, 'c' },
	{ "time", 1, NULL, 't' },       { "core", 1, NULL, 'C' },        { "blocks", 1, NULL, 'B' },
	{ "nsid", 1, NULL, 'N' },       { "hdgst", 0, NULL, 'H' },       { "ddgst", 0, NULL, 'D' },
	{ "in-capsule", 1, NULL, 'I' }, { "poll-always", 0, NULL, 'P' }, {},
};

static bool parse_one(int c)
{
	unsigned long value = optarg == NULL ? 0 : strtoul(optarg, NULL, 0);

	switch (c) {
	case 'n':
		opt.nqn = optarg;
		return true;
	case 'r':
		opt.is_write = strcmp(optarg, "write") == 0;
		return true;
	case 't':
		opt.time_s = strtod(optarg, NULL);
		return true;
	case 'H':
		opt.hdgst = true;
		return true;
	case 'D':
		opt.ddgst = true;
		return true;
	case 'P':
		opt.poll_always = true;
		return true;
	case 'p':
		opt.port = (uint16_t)value;
		return true;
	case 'b':
		opt.bs = (uint32_t)value;
		return true;
	case 'q':
		opt.qd = (uint32_t)value;
		return true;
	case 'c':
		opt.conns = (uint32_t)value;
		return true;
	case 'C':
		opt.core = (int)value;
		return true;
	case 'B':
		opt.blocks = value;
		return true;
	case 'N':
		opt.nsid = (uint32_t)value;
		return true;
	case 'I':
		opt.in_capsule = (uint32_t)value;
		return true;
	default:
		return false;
	}
}

static bool parse(int argc, char **argv)
{
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (!parse_one(c))
			return false;
	}
	return opt.qd >= 1 && opt.qd < DEPTH_MAX && opt.conns >= 1 && opt.conns <= CONNS_MAX &&
	       opt.port != 0 && opt.bs >= 512 && opt.bs % 512 == 0 && opt.bs <= QUEUE_DATA_MAX;
}

int main(int argc, char **argv)
{
	struct reactor_opts opts = {};
	struct msg msg = { .fn = begin };
	struct err err = {};

	if (!parse(argc, argv)) {
		(void)fprintf(stderr, "bench-initiator: wrong usage, see the head of its source\n");
		return 2;
	}
	opts.poll_always = opt.poll_always;
	opts.core_mask = opt.core >= 0 ? 1ull << opt.core : 0;
	(void)sem_init(&run.finished, 0, 0);
	if (reactors_start(&opts, &err) < 0)
		fail("reactor", err.msg);
	reactor_post(reactor_primary(), &msg);
	while (sem_wait(&run.finished) < 0)
		;
	reactors_stop();
	return 0;
}
