/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Queues against the target of this very engine, over loopback: what was written is read back,
 * whatever the digests, sizes and depths, and connections end under load from either side.
 */
#include "base/tap.h"
#include "drivers/nvmf/queue.h"
#include "drivers/testing.h"
#include "reactor/task.h"
#include "target/target.h"

#define NQN "nqn.2019-05.io.openebs:queue"

enum {
	DEPTH = 64,
	AREA = 256 << 10, /* bytes of the device that each job has for itself */
	IO_MAX = 128 << 10,
	ROUNDS = 12, /* of write and read, per job */
	PATIENCE_MS = 20000,
};

static struct target *target;
static uint16_t port;

/* ---- the target ----------------------------------------------------------------------------- */

static bool serve(void)
{
	struct subsystem_opts ss_opts = { .nqn = NQN };
	struct subsystem *ss;
	struct target_opts opts;
	struct device *dev;
	struct err err = {};
	uint32_t nsid;

	target_opts_init(&opts);
	if (!CHECK_EQ(target_start(&opts, &target, &err), 0))
		return false;
	CHECK_EQ(target_listen(target, "127.0.0.1", 0, &err), 0);
	port = target_listener_port(target, 0);
	CHECK_EQ(device_create("malloc:///m0?size_mb=32", &dev, &err), 0);
	CHECK_EQ(subsystem_add(target, &ss_opts, &ss, &err), 0);
	return CHECK_EQ(subsystem_add_ns(ss, dev, 0, &nsid, &err), 0);
}

/* ---- queues --------------------------------------------------------------------------------- */

struct job {
	struct user *user;
	unsigned index, round;
	bool is_reading;
	uint32_t len, off;
	uint64_t pattern;
	uint8_t *buf;
	struct iovec iov[3];
	unsigned nsent, ndone;
};

static struct user {
	struct queue *admin, *io;
	bool is_admin_up, is_io_up, is_admin_down, is_io_down, is_enabled;
	int reason;
	struct queue_target where;
	struct job jobs[DEPTH];
	unsigned running, lost, failed, wrong;
	bool is_endless;
} user;

static void admin_up(struct queue *q)
{
	(void)q;
	user.is_admin_up = true;
}

static void io_up(struct queue *q)
{
	(void)q;
	user.is_io_up = true;
}

static void admin_down(struct queue *q, int reason)
{
	(void)q;
	(void)reason;
	user.is_admin_down = true;
}

static void io_down(struct queue *q, int reason)
{
	(void)q;
	user.is_io_down = true;
	user.reason = reason;
}

static void enabled(struct slot *slot)
{
	user.is_enabled = slot->status == 0;
}

static bool await(const bool *flag)
{
	for (unsigned i = 0; !*flag && i < PATIENCE_MS; i++)
		task_sleep(1000000);
	return *flag;
}

static bool dial(struct queue *q, uint16_t cntlid)
{
	struct err err = {};

	user.where.host = "127.0.0.1";
	user.where.port = port;
	user.where.subnqn = NQN;
	user.where.hostnqn = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-555555555555";
	user.where.cntlid = cntlid;
	user.where.capsule_data_max = queue_qid(q) == 0 ? 8192 : 4096;
	user.where.connect_timeout_ns = 10000000000ull;
	user.where.io_timeout_ns = 10000000000ull;
	return CHECK_EQ(queue_connect(q, &user.where, &err), 0);
}

static bool go_live(uint16_t depth)
{
	struct queue_opts admin = { .depth = 32, .up = admin_up, .down = admin_down };
	struct queue_opts io = { .qid = 1, .depth = depth, .up = io_up, .down = io_down };
	struct nvme_property_cmd *cmd;
	struct slot *slot;

	CHECK_EQ(queue_new(&admin, &user.admin, NULL), 0);
	CHECK_EQ(queue_new(&io, &user.io, NULL), 0);
	if (!dial(user.admin, NVME_CNTLID_DYNAMIC) || !CHECK(await(&user.is_admin_up)))
		return false;
	slot = queue_get(user.admin);
	cmd = (void *)&slot->sqe;
	cmd->opcode = NVME_FABRICS;
	cmd->fctype = NVME_FABRICS_PROPERTY_SET;
	cmd->offset = le32_of(NVME_PROP_CC);
	cmd->value = le64_of(NVME_CC_EN | 6 << NVME_CC_IOSQES_SHIFT | 4 << NVME_CC_IOCQES_SHIFT);
	slot->done = enabled;
	queue_send(slot);
	if (!CHECK(await(&user.is_enabled)))
		return false;
	return dial(user.io, queue_cntlid(user.admin)) && CHECK(await(&user.is_io_up));
}

static void hang_up(void)
{
	queue_disconnect(user.io, -ESHUTDOWN);
	queue_disconnect(user.admin, -ESHUTDOWN);
	if (queue_state(user.io) != QUEUE_IDLE)
		CHECK(await(&user.is_io_down));
	if (queue_state(user.admin) != QUEUE_IDLE)
		CHECK(await(&user.is_admin_down));
	queue_free(user.io);
	queue_free(user.admin);
}

/* ---- jobs: write, read back, compare -------------------------------------------------------- */

static void job_send(struct job *job);

static uint8_t job_byte(const struct job *job, uint32_t i)
{
	return (uint8_t)((job->pattern + i) * 0x9e3779b97f4a7c15ull >> 40);
}

static bool job_agrees(const struct job *job)
{
	for (uint32_t i = 0; i < job->len; i++) {
		if (job->buf[i] != job_byte(job, i))
			return false;
	}
	return true;
}

static void job_plan(struct job *job)
{
	static const uint32_t lens[] = { 512, 4096, 8192, 12288, 65536, IO_MAX };
	uint64_t r = reactor_random(reactor_self());

	job->len = lens[r % ARRAY_LEN(lens)];
	job->off = (uint32_t)(r >> 8) % ((AREA - job->len) / 512 + 1) * 512;
	job->pattern = r;
	for (uint32_t i = 0; i < job->len; i++)
		job->buf[i] = job_byte(job, i);
}

static void job_done(struct slot *slot)
{
	struct job *job = slot->owner;

	job->ndone++;
	if (slot->status != 0) {
		user.lost += slot->status == NVMF_LOST;
		user.failed += slot->status != NVMF_LOST;
		user.running--;
		return;
	}
	if (job->is_reading && !job_agrees(job))
		user.wrong++;
	if (job->is_reading && ++job->round == ROUNDS && !user.is_endless) {
		user.running--;
		return;
	}
	if (job->is_reading)
		job_plan(job);
	else
		memset(job->buf, 0xee, job->len);
	job->is_reading = !job->is_reading;
	job_send(job);
}

static void job_send(struct job *job)
{
	struct slot *slot = queue_get(user.io);
	uint64_t lba = ((uint64_t)job->index * AREA + job->off) / 512;

	if (slot == NULL) {
		user.running--; /* the connection has ended meanwhile */
		return;
	}
	slot->sqe.opcode = job->is_reading ? NVME_IO_READ : NVME_IO_WRITE;
	slot->sqe.nsid = le32_of(1);
	slot->sqe.cdw10 = le32_of((uint32_t)lba);
	slot->sqe.cdw12 = le32_of(job->len / 512 - 1);
	job->iov[0] = (struct iovec){ job->buf, 100 };
	job->iov[1] = (struct iovec){ job->buf + 100, 200 };
	job->iov[2] = (struct iovec){ job->buf + 300, IO_MAX - 300 };
	slot->iov = job->iov;
	slot->iovcnt = 3;
	slot->len = job->len;
	slot->dir = job->is_reading ? SLOT_C2H : SLOT_H2C;
	slot->done = job_done;
	slot->owner = job;
	job->nsent++;
	queue_send(slot);
}

static void jobs_start(unsigned count)
{
	user.running = count;
	for (unsigned i = 0; i < count; i++) {
		struct job *job = &user.jobs[i];

		*job = (struct job){ .index = i, .buf = malloc(IO_MAX) };
		job_plan(job);
		job_send(job);
	}
}

/* Each command that was sent has ended once. */
static void jobs_end(unsigned count)
{
	for (unsigned i = 0; i < PATIENCE_MS && user.running > 0; i++)
		task_sleep(1000000);
	CHECK_EQ(user.running, 0);
	CHECK_EQ(user.wrong, 0);
	CHECK_EQ(user.failed, 0);
	for (unsigned i = 0; i < count; i++) {
		CHECK_EQ(user.jobs[i].nsent, user.jobs[i].ndone);
		free(user.jobs[i].buf);
	}
}

/* ---- tests ---------------------------------------------------------------------------------- */

ENGINE_TEST(queue_reads_what_it_wrote)
{
	if (!serve())
		return;
	for (unsigned digests = 0; digests < 4; digests++) {
		memset(&user, 0, sizeof(user));
		user.where.hdgst = digests & 1;
		user.where.ddgst = digests & 2;
		if (!go_live(DEPTH + 1))
			return;
		jobs_start(DEPTH);
		jobs_end(DEPTH);
		CHECK_EQ(user.lost, 0);
		CHECK_EQ(queue_stats(user.io)->digest_errors, 0);
		CHECK(queue_stats(user.io)->commands >= DEPTH * ROUNDS * 2);
		hang_up();
	}
	target_stop(target);
}

ENGINE_TEST(queue_of_two_entries_works)
{
	if (!serve())
		return;
	memset(&user, 0, sizeof(user));
	if (!go_live(2))
		return;
	jobs_start(1);
	jobs_end(1);
	CHECK_EQ(user.lost, 0);
	hang_up();
	target_stop(target);
}

ENGINE_TEST(queue_ends_under_load)
{
	if (!serve())
		return;
	for (unsigned i = 0; i < 30; i++) {
		memset(&user, 0, sizeof(user));
		user.is_endless = true;
		user.where.ddgst = i % 3 == 0;
		if (!go_live(DEPTH + 1))
			return;
		jobs_start(DEPTH);
		task_sleep(reactor_random(reactor_self()) % 3000000);
		if (i % 2 == 0)
			queue_disconnect(user.admin, -ESHUTDOWN); /* the target ends the other */
		else
			queue_disconnect(user.io, -ESHUTDOWN);
		jobs_end(DEPTH);
		CHECK(user.lost > 0);
		CHECK_EQ(queue_stats(user.io)->lost, user.lost);
		CHECK(await(&user.is_io_down));
		CHECK_EQ(user.reason, i % 2 == 0 ? -ECONNRESET : -ESHUTDOWN);
		hang_up();
	}
	target_stop(target);
}

ENGINE_TEST(queue_survives_the_end_of_the_target)
{
	if (!serve())
		return;
	memset(&user, 0, sizeof(user));
	user.is_endless = true;
	if (!go_live(DEPTH + 1))
		return;
	jobs_start(DEPTH);
	task_sleep(2000000);
	target_stop(target);
	jobs_end(DEPTH);
	CHECK(await(&user.is_io_down) && await(&user.is_admin_down));
	/* and nobody listens any more */
	user.is_io_down = false;
	if (dial(user.io, 1))
		CHECK(await(&user.is_io_down));
	CHECK_EQ(user.reason, -ECONNREFUSED);
	hang_up();
}

static int idle_cpu(void *arg, struct err *err)
{
	struct reactor *r = reactor_self();
	uint64_t turns;

	(void)arg;
	(void)err;
	if (!serve())
		return 0;
	memset(&user, 0, sizeof(user));
	if (!go_live(DEPTH + 1))
		return 0;
	task_sleep(50000000);
	turns = r->stats.turns;
	task_sleep(300000000);
	CHECK(r->stats.turns - turns < 50); /* it slept */
	hang_up();
	target_stop(target);
	return 0;
}

TEST(queue_that_is_idle_costs_nothing)
{
	in_engine(idle_cpu);
}

TAP_MAIN()
