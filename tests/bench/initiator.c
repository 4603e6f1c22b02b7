// SPDX-License-Identifier: Apache-2.0
/*
 * bench-initiator - the initiator's queues against a target, driven without anything above them.
 *
 *   bench-initiator --port P [--nqn NQN] [options]
 *
 * One reactor makes an admin queue and N I/O queues and keeps each full of reads or writes of one
 * size, into and from one buffer per command. What it prints and how that is counted: load.h. The
 * difference to bench-target (nvmetcp_load.c) is what the initiator costs more than the least that
 * a client can do.
 *
 * Options: --rw read|write, --bs BYTES, --qd N, --conns N, --time S, --core N, --nsid N,
 *          --blocks N (of 512 bytes, to choose from), --in-capsule BYTES, --hdgst, --ddgst,
 *          --poll-always (never sleep)
 */
#include <errno.h>
#include <semaphore.h>

#include "drivers/nvmf/queue.h"
#include "load.h"
#include "reactor/mem.h"

enum {
	CONNS_MAX = 64,
	CONNECT_MS = 5000,
};

static struct {
	bool hdgst, ddgst, poll_always;
	int64_t conns, nsid, in_capsule;
} own = { .conns = 1, .nsid = 1, .in_capsule = 4096 };

/* One command that is sent again and again. */
struct job {
	struct queue *q;
	struct iovec iov;
	uint64_t started_ns;
};

static struct {
	struct queue *admin, *io[CONNS_MAX];
	unsigned nlive, ndown;
	struct job jobs[CONNS_MAX][LOAD_DEPTH_MAX];
	uint8_t *memory;
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

	if (slot->status != 0 && !load.is_ending) {
		(void)fprintf(stderr, "bench-initiator: status %#x\n", slot->status);
		exit(1);
	}
	load_count(job->started_ns);
	if (!load.is_ending)
		job_send(job);
}

static void job_send(struct job *job)
{
	uint32_t nlb = (uint32_t)opt.bs / 512;
	uint64_t lba = load_lba((uint64_t)opt.blocks, nlb);
	struct slot *slot = queue_get(job->q);

	if (slot == NULL)
		fail("queue_get", "no slot");
	slot->sqe.opcode = opt.is_write ? NVME_IO_WRITE : NVME_IO_READ;
	slot->sqe.nsid = le32_of((uint32_t)own.nsid);
	slot->sqe.cdw10 = le32_of((uint32_t)lba);
	slot->sqe.cdw11 = le32_of((uint32_t)(lba >> 32));
	slot->sqe.cdw12 = le32_of(nlb - 1);
	slot->iov = &job->iov;
	slot->iovcnt = 1;
	slot->len = (uint32_t)opt.bs;
	slot->dir = opt.is_write ? SLOT_H2C : SLOT_C2H;
	slot->done = job_done;
	slot->owner = job;
	job->started_ns = load.last_ns;
	queue_send(slot);
}

static void hang_up(void)
{
	for (unsigned i = 0; i < own.conns; i++)
		queue_disconnect(run.io[i], -ECANCELED);
	queue_disconnect(run.admin, -ECANCELED);
}

static void fill(void)
{
	const size_t bs = (size_t)opt.bs, size = (size_t)own.conns * (size_t)opt.qd * bs;

	run.memory = dma_alloc(size);
	if (run.memory == NULL)
		fail("memory", "none");
	memset(run.memory, 2, size);
	load_begin(hang_up);
	for (unsigned i = 0; i < own.conns; i++) {
		for (unsigned j = 0; j < opt.qd; j++) {
			uint8_t *at = run.memory + (i * (size_t)opt.qd + j) * bs;

			run.jobs[i][j] = (struct job){ .q = run.io[i], .iov = { at, bs } };
			job_send(&run.jobs[i][j]);
		}
	}
}

/* ---- connecting ----------------------------------------------------------------------------- */

static void dial(struct queue *q, uint16_t cntlid)
{
	struct queue_target target = {
		.host = "127.0.0.1",
		.port = (uint16_t)opt.port,
		.subnqn = opt.nqn,
		.hostnqn = "nqn.2014-08.org.nvmexpress:bench",
		.cntlid = cntlid,
		.hdgst = own.hdgst,
		.ddgst = own.ddgst,
		.capsule_data_max = queue_qid(q) == 0 ? NVME_TCP_ADMIN_CAPSULE_DATA
						      : (uint32_t)own.in_capsule,
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
	if (++run.nlive == own.conns)
		fill();
}

static void any_down(struct queue *q, int reason)
{
	(void)reason;
	if (!load.is_ending)
		fail("connection", queue_err(q)->msg);
	queue_free(q);
	if (++run.ndown == own.conns + 1)
		(void)sem_post(&run.finished);
}

static void enabled(struct slot *slot)
{
	struct err err = {};

	if (slot->status != 0)
		fail("enable", "refused");
	for (unsigned i = 0; i < own.conns; i++) {
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
	if (queue_new(&opts, &run.admin, &err) < 0)
		fail("queue", err.msg);
	dial(run.admin, NVME_CNTLID_DYNAMIC);
}

/* ---- the program ---------------------------------------------------------------------------- */

static const struct load_option options[] = {
	{ "conns", .number = &own.conns },
	{ "nsid", .number = &own.nsid },
	{ "in-capsule", .number = &own.in_capsule },
	{ "hdgst", .flag = &own.hdgst },
	{ "ddgst", .flag = &own.ddgst },
	{ "poll-always", .flag = &own.poll_always },
	{},
};

int main(int argc, char **argv)
{
	struct reactor_opts opts = {};
	struct msg msg = { .fn = begin };
	struct err err = {};

	if (!load_parse(argc, argv, options) || own.conns < 1 || own.conns > CONNS_MAX ||
	    opt.bs > QUEUE_DATA_MAX) {
		(void)fprintf(stderr, "bench-initiator: wrong usage, see the head of its source\n");
		return 2;
	}
	opts.poll_always = own.poll_always;
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
