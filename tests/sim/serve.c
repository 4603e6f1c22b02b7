/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve.c - the play with the NVMe/TCP target in it: hosts, a bad network, the disturbers below.
 *
 *   hosts (tasks on reactor 0) --simulated network--> target on all reactors --> stack --> disk
 *
 * What a host reads is judged by the same oracle as everything else, so the target's handling of
 * data in capsules, R2T, C2HData, its buffers and its namespaces stand under the same rule as the
 * device layer: a block is a register.
 *
 * A host whose connection broke does not know what became of its writes, and the target may still
 * carry them out: they stay in flight for the oracle until the target has stopped. A host that
 * hears nothing for too long gives its connection up and comes back, as hosts do; if the network
 * did nothing to explain the silence, that is a violation.
 *
 * Below them the subsystem is paused, its path is closed and opened (ANA), hosts are disconnected
 * or shut out for a while. What a closed path refuses must not have happened, it must refuse what
 * was sent while it was closed, and hosts that are shut out must be gone when the call returns.
 */
#include "serve.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "alloc.h"
#include "cover.h"
#include "device/emulate.h"
#include "host.h"
#include "net.h"
#include "reactor/task.h"
#include "target/target.h"

enum {
	HOSTS_MAX = 3,
	SERVE_PORT = 4420,
	PATIENCE_NS = 200 * 1000 * 1000, /* of a host, where the network is known to be bad */
	SILENCE_NS_LOG2 = 33,            /* 8 virtual seconds: never, where it is good */
	POLL_NS = 100 * 1000 * 1000,
};

#define SERVE_ADDR "10.0.0.2"
#define SERVE_NQN  "nqn.2024-01.invalid.sim:volume"
#define SERVE_HOST "nqn.2024-01.invalid.sim:host" /* as host.c calls itself */

struct order {
	struct host_cmd cmd;
	uint8_t *buf; /* borrowed from load.c */
	uint8_t opcode;
	bool is_fua, is_flying;
	uint64_t lba; /* of the oracle */
	uint32_t nlb;
	uint64_t write_id, token, submit_ns;
	struct nvme_dsm_range range;
};

struct served_host {
	struct scene *scene;
	struct host_queue admin, io;
	struct order order[HOST_DEPTH_MAX];
	unsigned index, depth, left, failures;
	bool is_connected;
};

struct lost_write {
	uint64_t id, lba, nlb;
};

static struct {
	struct served_host host[HOSTS_MAX];
	unsigned nhosts;
	struct task_event all_done;
	struct subsystem *subsystem;
	bool has_trouble; /* the network misbehaves in this epoch */
	bool has_ana, is_path_closed;
	uint64_t path_closed_ns, path_opened_ns; /* when that was done, and when undoing it was */
	unsigned ntroublers;
	struct lost_write *lost; /* owned */
	size_t nlost, lost_room;
} serve;

struct serve_stats serve_stats;

/* ---- orders --------------------------------------------------------------------------------- */

static const struct {
	uint8_t opcode, op;
	unsigned weight;
} mix[] = {
	{ NVME_IO_READ, IO_READ, 40 },  { NVME_IO_WRITE, IO_WRITE, 40 },
	{ NVME_IO_FLUSH, IO_FLUSH, 8 }, { NVME_IO_COMPARE, IO_COMPARE, 5 },
	{ NVME_IO_DSM, IO_UNMAP, 4 },   { NVME_IO_WRITE_ZEROES, IO_WRITE_ZEROES, 4 },
};

static enum cover_state order_state(const struct order *order)
{
	switch (order->opcode) {
	case NVME_IO_WRITE:
		return COVER_WRITING;
	case NVME_IO_FLUSH:
		return COVER_FLUSHING;
	case NVME_IO_COMPARE:
		return COVER_COMPARING;
	case NVME_IO_READ:
		return COVER_READING;
	default:
		return COVER_UNMAPPING;
	}
}

static uint8_t any_opcode(const struct device *dev)
{
	uint32_t ops = dev->ops | emulated_ops(dev);

	for (;;) {
		unsigned roll = (unsigned)world_rand(101), i = 0;

		while (roll >= mix[i].weight)
			roll -= mix[i++].weight;
		if (ops >> mix[i].op & 1)
			return mix[i].opcode;
	}
}

static void order_begin_write(struct scene *scene, struct order *order)
{
	enum value_kind kind = VALUE_ZERO;

	if (order->opcode == NVME_IO_WRITE)
		kind = VALUE_DATA;
	else if (order->opcode == NVME_IO_DSM && !scene->top->unmap_reads_zero)
		kind = VALUE_WILD;
	order->write_id = oracle_write_begin(scene->oracle, order->lba, order->nlb, kind);
	if (kind == VALUE_DATA)
		oracle_fill(scene->oracle, order->buf, order->lba, order->nlb, order->write_id);
}

static void order_begin_data(struct scene *scene, struct order *order, uint32_t bytes)
{
	switch (order->opcode) {
	case NVME_IO_READ:
	case NVME_IO_COMPARE:
		if (order->opcode == NVME_IO_COMPARE)
			oracle_guess(scene->oracle, order->buf, order->lba, order->nlb);
		else
			memset(order->buf, 0xa5, bytes);
		order->token = oracle_read_begin(scene->oracle);
		break;
	default:
		order_begin_write(scene, order);
		break;
	}
}

static void order_place(struct scene *scene, struct order *order, struct nvme_cmd *sqe)
{
	const struct device *dev = scene->top;
	uint64_t max = MIN(dev->nblocks, (uint64_t)REQUEST_BLOCKS_MAX), lba;
	uint32_t bytes;

	order->nlb = 1 + (uint32_t)world_rand(max);
	lba = world_rand(world_chance(2, 3) ? MIN(dev->nblocks, UINT64_C(12)) : dev->nblocks);
	lba = MIN(lba, dev->nblocks - order->nlb);
	order->lba = lba + scene->offset[scene->ndevices - 1];
	bytes = order->nlb * scene->block_size;
	sqe->cdw10 = le32_of((uint32_t)lba);
	sqe->cdw12 = le32_of((order->nlb - 1) | (order->is_fua ? NVME_RW_FUA : 0));
	order->cmd.data = order->buf;
	order->cmd.len = order->opcode == NVME_IO_WRITE_ZEROES ? 0 : bytes;
	order->cmd.to_controller = order->opcode != NVME_IO_READ;
	if (order->opcode == NVME_IO_DSM) {
		order->range = (struct nvme_dsm_range){ .nlb = le32_of(order->nlb),
							.slba = le64_of(lba) };
		order->cmd.data = (uint8_t *)&order->range;
		order->cmd.len = sizeof(order->range);
		sqe->cdw10 = le32_of(0);
		sqe->cdw11 = le32_of(NVME_DSM_DEALLOCATE);
		sqe->cdw12 = le32_of(0);
	}
	order_begin_data(scene, order, bytes);
}

static void order_begin(struct served_host *host, uint16_t cid)
{
	struct scene *scene = host->scene;
	struct order *order = &host->order[cid];
	struct nvme_cmd sqe = { .nsid = le32_of(1) };

	host->left--;
	order->opcode = any_opcode(scene->top);
	order->cmd = (struct host_cmd){};
	order->write_id = order->token = 0;
	order->nlb = 0;
	order->is_fua = (order->opcode == NVME_IO_WRITE || order->opcode == NVME_IO_WRITE_ZEROES) &&
			world_chance(1, 4);
	sqe.opcode = order->opcode;
	if (order->opcode == NVME_IO_FLUSH)
		order->token = oracle_flush_begin(scene->oracle);
	else
		order_place(scene, order, &sqe);
	order->submit_ns = world_now();
	order->is_flying = true;
	world_trace("order", (uint64_t)order->opcode << 32 | order->nlb, order->lba);
	if (scene->nflying_all++ == 0)
		cover_state_end(COVER_IDLE);
	cover_state_begin(order_state(order));
	host_submit(&host->io, cid, &order->cmd, &sqe);
}

static void order_end(struct scene *scene, struct order *order)
{
	order->is_flying = false;
	scene->nrequests++;
	cover_state_end(order_state(order));
	if (--scene->nflying_all == 0)
		cover_state_begin(COVER_IDLE);
}

/* The connection broke: a write may still be carried out, for as long as the target lives. */
static void order_lost(struct scene *scene, struct order *order)
{
	serve_stats.lost++;
	if (order->write_id != 0) {
		if (serve.nlost == serve.lost_room) {
			serve.lost_room = serve.lost_room * 2 + 64;
			serve.lost = sim_grow(serve.lost, serve.lost_room, sizeof(*serve.lost));
		}
		serve.lost[serve.nlost++] = (struct lost_write){ order->write_id, order->lba,
								 order->nlb };
	} else if (order->opcode != NVME_IO_FLUSH) {
		oracle_read_drop(scene->oracle, order->token);
	}
	order_end(scene, order);
}

/* ---- judging -------------------------------------------------------------------------------- */

static void order_fail(const struct order *order, const char *what)
{
	world_fail("host: opcode %02x, %" PRIu64 "+%u ended with status %03x %s", order->opcode,
		   order->lba, order->nlb, order->cmd.status, what);
}

static bool order_may_fail(const struct scene *scene, const struct order *order)
{
	for (unsigned cause = 0; cause < CAUSE_COUNT_; cause++) {
		if (cause_since(scene, cause, order->submit_ns))
			return true;
	}
	return false;
}

static void order_judge_read(struct scene *scene, struct order *order, bool is_spoilt)
{
	struct oracle *o = scene->oracle;
	char why[ORACLE_TEXT_MAX] = "";
	bool is_good = true;

	if (is_spoilt)
		oracle_read_drop(o, order->token);
	else if (order->cmd.status == 0)
		is_good = oracle_read_end(o, order->token, order->lba, order->nlb, order->buf, why);
	else if (order->cmd.status == NVME_SC_COMPARE_FAILED &&
		 !cause_since(scene, CAUSE_INJECT, order->submit_ns))
		is_good = oracle_differ_end(o, order->token, order->lba, order->nlb, order->buf,
					    why);
	else
		oracle_read_drop(o, order->token);
	if (!is_good)
		order_fail(order, why);
}

/* Did the path refuse it, and may it have? */
static bool path_refused(const struct order *order)
{
	bool was_closed = serve.is_path_closed ||
			  (serve.path_closed_ns != 0 && serve.path_opened_ns >= order->submit_ns);

	return order->cmd.status == NVME_SC_ANA_INACCESSIBLE && was_closed;
}

/* It was sent and answered while the path was closed. */
static bool path_must_refuse(const struct order *order)
{
	return serve.is_path_closed && serve.path_closed_ns < order->submit_ns;
}

static void order_judge(struct scene *scene, struct order *order)
{
	bool is_spoilt = cause_since(scene, CAUSE_LIE, order->submit_ns);
	bool is_stable = order->is_fua || !scene->top->has_write_cache;
	bool is_good = order->cmd.status == 0;
	enum write_outcome outcome = WRITE_MAYBE;

	world_trace("ordered", (uint64_t)order->opcode << 32 | order->cmd.status, order->lba);
	scene->nfailed += !is_good;
	if (is_good && path_must_refuse(order))
		order_fail(order, "although the path is closed");
	if (!is_good && !path_refused(order) && !order_may_fail(scene, order) &&
	    !(order->opcode == NVME_IO_COMPARE && order->cmd.status == NVME_SC_COMPARE_FAILED))
		order_fail(order, "without a cause");
	if (path_refused(order))
		outcome = WRITE_NEVER;
	else if (is_spoilt)
		outcome = WRITE_SPOILT;
	else if (is_good)
		outcome = is_stable ? WRITE_ACKED_STABLE : WRITE_ACKED;
	if (order->write_id != 0)
		oracle_write_end(scene->oracle, order->write_id, order->lba, order->nlb, outcome);
	else if (order->opcode != NVME_IO_FLUSH)
		order_judge_read(scene, order, is_spoilt);
	else if (is_good && !is_spoilt)
		oracle_flush_end(scene->oracle, order->token);
	order_end(scene, order);
}

/* ---- a host --------------------------------------------------------------------------------- */

static bool host_is_over(const struct served_host *host)
{
	return host->left == 0 || host->scene->is_stopping || world_failed();
}

static void host_drop(struct served_host *host)
{
	for (unsigned cid = 0; cid < host->depth; cid++) {
		if (host->order[cid].is_flying)
			order_lost(host->scene, &host->order[cid]);
	}
	host_close(&host->io);
	host_close(&host->admin);
	host->is_connected = false;
}

static void host_try_connect(struct served_host *host)
{
	uint16_t cntlid = 0;
	int result;

	serve_stats.connects++;
	simnet_from(host->index == 0 ? "10.0.0.1" : "10.0.0.3");
	result = host_connect(&host->admin, SERVE_ADDR, SERVE_PORT, SERVE_NQN, 0, 32, &cntlid, SEC);
	if (result == 0) {
		simnet_from(host->index == 0 ? "10.0.0.1" : "10.0.0.3");
		result = host_connect(&host->io, SERVE_ADDR, SERVE_PORT, SERVE_NQN, 1, host->depth,
				      &cntlid, SEC);
	}
	host->is_connected = result == 0;
	if (result == 0)
		return;
	world_trace("connect fails", host->index, (uint64_t)-result);
	if (host->admin.error == -EPROTO || host->io.error == -EPROTO)
		world_fail("connect: %s", host->admin.error == -EPROTO ? host->admin.broken_rule
								       : host->io.broken_rule);
	else if (++host->failures > 1000 || !serve.has_trouble)
		world_fail("host %u cannot connect: %d", host->index, result);
	host_drop(host);
	task_sleep(world_latency(10 * USEC, MSEC));
}

static bool host_gives_up(const struct order *order)
{
	uint64_t age_ns = world_now() - order->submit_ns;

	if (serve.has_trouble)
		return age_ns > PATIENCE_NS;
	if (age_ns >> SILENCE_NS_LOG2 != 0)
		order_fail(order, "never: the target is silent");
	return world_failed();
}

static void host_fill(struct served_host *host)
{
	for (uint16_t cid = 0; cid < host->depth && !host_is_over(host); cid++) {
		if (!host->order[cid].is_flying && world_chance(3, 4))
			order_begin(host, cid);
	}
}

/* Judge what is done; false: the connection is no good any more. */
static bool host_collect(struct served_host *host)
{
	for (unsigned cid = 0; cid < host->depth; cid++) {
		struct order *order = &host->order[cid];

		if (!order->is_flying)
			continue;
		if (order->cmd.is_done)
			order_judge(host->scene, order);
		else if (host_gives_up(order))
			return false;
	}
	if (host->io.error == -EPROTO)
		world_fail("the target broke a rule: %s", host->io.broken_rule);
	if (host->io.error != 0 && !serve.has_trouble && !world_failed())
		world_fail("the target closed a connection: %d", host->io.error);
	return host->io.error == 0;
}

static bool host_is_busy(const struct served_host *host)
{
	for (unsigned cid = 0; cid < host->depth; cid++) {
		if (host->order[cid].is_flying)
			return true;
	}
	return false;
}

static void host_task(void *arg)
{
	struct served_host *host = arg;

	while (!world_failed()) {
		if (host_is_over(host) && !host_is_busy(host))
			break;
		if (!host->is_connected) {
			host_try_connect(host);
			continue;
		}
		host_fill(host);
		(void)host_poll(&host->io, POLL_NS);
		if (!host_collect(host))
			host_drop(host);
	}
	host_drop(host);
	if (--serve.nhosts == 0)
		task_event_fire(&serve.all_done);
}

/* ---- trouble -------------------------------------------------------------------------------- */

/* A host that must go: when the call returns it is gone, with all it had sent. */
static void shut_out_once(void)
{
	unsigned count = 0;
	int result;

	world_trace("shut out", 0, 0);
	if (world_chance(1, 2)) {
		result = subsystem_disconnect(serve.subsystem, SERVE_HOST, 0, world_chance(1, 2),
					      &count, NULL);
		world_trace("disconnected", (uint64_t)-result, count);
		return;
	}
	result = subsystem_allow_host(serve.subsystem, SERVE_HOST, NULL);
	if (result == 0)
		result = subsystem_disallow_host(serve.subsystem, SERVE_HOST, NULL);
	if (result < 0 || subsystem_controller_count(serve.subsystem) > 0)
		world_fail("a host was shut out: %d, %u controllers are left", result,
			   subsystem_controller_count(serve.subsystem));
	task_sleep(world_latency(0, MSEC));
	if (subsystem_set_hosts(serve.subsystem, NULL, 0, NULL) < 0)
		world_fail("hosts cannot be let in again");
	world_trace("let in", 0, 0);
}

static void trouble_once(void)
{
	switch (world_rand(7)) {
	case 0:
		(void)simnet_drop();
		break;
	case 1:
		if (world_chance(1, 4))
			(void)simnet_half_open();
		break;
	case 2:
		simnet_partition("10.0.0.1", SERVE_ADDR, true);
		task_sleep(world_latency(0, 5 * MSEC));
		simnet_partition("10.0.0.1", SERVE_ADDR, false);
		break;
	case 3:
		simnet_slow(20);
		task_sleep(world_latency(0, 2 * MSEC));
		simnet_slow(1);
		break;
	case 4:
		shut_out_once();
		break;
	default:
		break;
	}
}

static void pause_once(void)
{
	world_trace("pause", 0, 0);
	if (subsystem_pause(serve.subsystem, NULL) == 0) {
		task_sleep(world_latency(0, 300 * USEC));
		subsystem_resume(serve.subsystem);
	}
	world_trace("unpause", 0, 0);
}

static void path_set(enum ana_state state)
{
	struct err err = {};

	if (subsystem_set_ana(serve.subsystem, world_chance(1, 2) ? 0 : TARGET_LISTENER_ALL,
			      (uint32_t)world_rand(2), state, &err) < 0)
		world_fail("a path's state is not set: %s", err.msg);
}

static void path_once(void)
{
	world_trace("path closes", 0, 0);
	serve.path_closed_ns = UINT64_MAX; /* from here on it may refuse */
	serve.path_opened_ns = UINT64_MAX;
	path_set(ANA_INACCESSIBLE);
	serve.path_closed_ns = world_now();
	serve.is_path_closed = true;
	task_sleep(world_latency(0, 300 * USEC));
	serve.is_path_closed = false; /* from here on it may serve */
	path_set(ANA_NON_OPTIMIZED);
	serve.path_opened_ns = world_now();
	world_trace("path opens", 0, 0);
}

static void troubler(void *arg)
{
	struct scene *scene = arg;

	while (serve.nhosts > 0 && !scene->is_stopping && !world_failed()) {
		task_sleep(world_latency(50 * USEC, 2 * MSEC));
		if (serve.has_trouble && world_chance(1, 2))
			trouble_once();
		else if (serve.has_ana && world_chance(1, 3))
			path_once();
		else if (world_chance(1, 3))
			pause_once();
	}
	serve.ntroublers--;
}

/* ---- the play ------------------------------------------------------------------------------- */

/* Everything from nothing to a namespace that hosts can use. What was made stays on failure. */
static int serve_make(struct scene *scene, struct target **ret_target, struct err *err)
{
	struct subsystem_opts sub = { .nqn = SERVE_NQN, .uuid.b = { 1 }, .has_ana = serve.has_ana };
	struct target_opts opts;
	uint32_t nsid;
	int result;

	target_opts_init(&opts);
	opts.buffers = 2 + (uint32_t)world_rand(8);
	opts.conns_max = 64;
	opts.device_timeout_ms = 3600000; /* devices are slow here, but none hangs */
	opts.queue_depth_max = 32;
	opts.no_success_flag = world_chance(1, 3);
	opts.borrow_min = world_chance(1, 3) ? UINT32_MAX : 1;
	result = target_start(&opts, ret_target, err);
	if (result == 0)
		result = target_listen(*ret_target, SERVE_ADDR, SERVE_PORT, err);
	if (result == 0)
		result = subsystem_add(*ret_target, &sub, &serve.subsystem, err);
	if (result == 0)
		result = subsystem_add_ns(serve.subsystem, scene->top, 1, &nsid, err);
	return result;
}

static struct task *maker;

static bool maker_runs(void)
{
	return task_self() == maker;
}

/* The same with the n-th allocation failing: whatever was made goes again, and nothing is left. */
static void serve_try_make(struct scene *scene)
{
	struct target *target = NULL;
	struct err err = {};
	size_t live;
	int result;

	/* Devices keep handles below and counters of closed channels: these come first. */
	if (serve_make(scene, &target, &err) < 0)
		world_fail("the target does not start: %s", err.msg);
	target_stop(target);
	target = NULL;
	live = engine_memory();
	maker = task_self();
	cover_fault_begin(COVER_NO_MEMORY);
	alloc_fail_at(1 + (unsigned)world_rand(60), maker_runs);
	result = serve_make(scene, &target, &err);
	alloc_fail_at(0, maker_runs);
	cover_fault_end(COVER_NO_MEMORY);
	world_trace("try target", (uint64_t)-result, 0);
	if (result < 0 && result != -ENOMEM)
		world_fail("a target without memory: %s", err.msg);
	target_stop(target);
	if (engine_memory() > live)
		world_fail("%zu allocations are left of a target without memory",
			   engine_memory() - live);
}

static bool serve_start(struct scene *scene, struct target **ret_target)
{
	struct simnet_opts net = { .latency_min_ns = 2 * USEC,
				   .latency_mean_ns = 2 * USEC + world_rand(60 * USEC),
				   .window_max = 600 + (uint32_t)world_rand(100000),
				   .is_cutting = world_chance(1, 2) };
	struct err err = {};

	serve.has_ana = world_chance(1, 2);
	serve.is_path_closed = false;
	serve.path_closed_ns = serve.path_opened_ns = 0;
	simnet_start(&net);
	net_set(&net_sim);
	if (world_chance(1, 3))
		serve_try_make(scene);
	if (!world_failed() && serve_make(scene, ret_target, &err) < 0)
		world_fail("the target does not start: %s", err.msg);
	return !world_failed();
}

static void serve_hosts(struct scene *scene)
{
	unsigned count = 1 + (unsigned)world_rand(HOSTS_MAX);

	serve.has_trouble = world_chance(1, 2);
	serve.all_done = (struct task_event){};
	serve.nhosts = count;
	for (unsigned i = 0; i < count; i++) {
		struct served_host *host = &serve.host[i];

		*host = (struct served_host){ .scene = scene, .index = i };
		host->depth = 2 + (unsigned)world_rand(HOST_DEPTH_MAX - 1);
		host->left = 20 + (unsigned)world_rand(120);
		for (unsigned k = 0; k < host->depth; k++)
			host->order[k].buf = load_buffer(i * HOST_DEPTH_MAX + k);
		if (task_spawn("host", host_task, host) < 0)
			world_fail("no memory for a host");
	}
	serve.ntroublers = 1;
	if (task_spawn("trouble", troubler, scene) < 0)
		serve.ntroublers--;
	task_event_wait(&serve.all_done);
	while (serve.ntroublers > 0)
		task_sleep(100 * USEC);
}

static void serve_stop(struct scene *scene, struct target *target)
{
	struct target_stats stats;
	unsigned left;

	target_stats(target, &stats);
	serve_stats.commands += stats.commands;
	target_stop(target);
	serve_stats.drops += simnet_stats()->drops;
	serve_stats.half_opens += simnet_stats()->half_opens;
	serve_stats.bytes += simnet_stats()->bytes;
	left = simnet_stop();
	if (left > 0)
		world_fail("the target left %u streams or listeners open", left);
	net_set(&net_tcp);
	for (size_t i = 0; i < serve.nlost; i++)
		oracle_write_end(scene->oracle, serve.lost[i].id, serve.lost[i].lba,
				 serve.lost[i].nlb, WRITE_MAYBE);
	free(serve.lost);
	serve.lost = NULL;
	serve.nlost = serve.lost_room = 0;
}

void serve_play(struct scene *scene, void (*start_chaos)(struct scene *scene),
		void (*wait_chaos)(struct scene *scene))
{
	struct target *target = NULL;

	serve_stats.epochs++;
	if (!serve_start(scene, &target))
		return;
	cover_state_begin(COVER_IDLE);
	start_chaos(scene);
	serve_hosts(scene);
	scene->is_ending = true;
	wait_chaos(scene);
	cover_state_end(COVER_IDLE);
	if (!world_failed())
		serve_stop(scene, target);
}
