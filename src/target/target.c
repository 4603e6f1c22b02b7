// SPDX-License-Identifier: Apache-2.0
/*
 * The target itself: its share of every reactor, its listeners, its beginning and end.
 *
 *   start: cores (memory for receiving, gathering, large transfers) -> discovery subsystem
 *   accept (primary) -> connection -> the reactor with the fewest (limits.c)
 *   stop:  listeners -> every subsystem (its controllers, their connections) -> strangers that
 *          never connected -> cores
 *
 * Everything the data path needs is allocated here, once, with named limits: a host can make us
 * refuse a connection, not run out of memory in the middle of a command.
 *
 * There is one target in a process; subsystems are added to it, listeners serve all of them.
 *
 * Thread: the primary reactor; core_* on the reactor they belong to.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "target/internal.h"

static struct target *the_target;

void target_opts_init(struct target_opts *opts)
{
	*opts = (struct target_opts){
		.queues_max = 32,
		.queue_depth_max = 128,
		.in_capsule_size = 4096,
		.io_size_max = 128 << 10,
		.buffers = 128,
		.conns_max = 4096,
		.conns_per_host_max = 2048,
		.conns_per_subsystem_max = 2048,
		.hosts_max = 256,
		.conn_memory_max = 2ull << 30,
		.connect_timeout_ms = 10000,
		.idle_timeout_ms = 3600000,
		.device_timeout_ms = 10000,
		.borrow_min = 16 << 10,
	};
}

static int opts_check(const struct target_opts *o, struct err *err)
{
	if (o->queues_max < 1 || o->queues_max > TARGET_QUEUES_MAX)
		return err_set(err, -EINVAL, "queues_max must be 1 to %d", TARGET_QUEUES_MAX);
	if (o->queue_depth_max < 2 || o->queue_depth_max > TARGET_DEPTH_MAX)
		return err_set(err, -EINVAL, "queue_depth_max must be 2 to %d", TARGET_DEPTH_MAX);
	if (o->in_capsule_size < SMALL_BUF || o->in_capsule_size > 4 * SMALL_BUF ||
	    o->in_capsule_size % SMALL_BUF != 0)
		return err_set(err, -EINVAL, "in_capsule_size must be 4096, 8192, 12288 or 16384");
	/* one page cannot be said: an MDTS of 0 is "no limit" (Base 5.17.2.1) */
	if (!is_pow2(o->io_size_max) || o->io_size_max < 2 * NVME_PAGE_SIZE ||
	    o->io_size_max > 1 << 20)
		return err_set(err, -EINVAL, "io_size_max must be a power of two, 8192 to 1048576");
	if (o->ptpl_dir != NULL && o->ptpl_dir[0] == '\0')
		return err_set(err, -EINVAL, "ptpl_dir must not be empty");
	if (o->buffers < 1)
		return err_set(err, -EINVAL, "buffers must not be 0");
	return limits_check(o, err);
}

/* ---- cores ---------------------------------------------------------------------------------- */

static bool is_older(uint64_t now, uint64_t then, unsigned limit_ms)
{
	return now - then > limit_ms * 1000000ull;
}

/* Does the host sit on buffers? What is with a device is not the host's fault. */
static bool conn_is_stalled(const struct conn *conn, uint64_t now)
{
	if (conn->pool_held == 0)
		return false;
	if (conn->is_send_blocked && is_older(now, conn->last_tx_ns, STALL_MS))
		return true;
	for (uint32_t i = 0; i < conn->ncmds; i++) {
		const struct cmd *cmd = &conn->slots[i].cmd;

		if (cmd->state != CMD_R2T || !cmd->is_in_pool)
			continue;
		if (is_older(now, MAX(cmd->r2t_ns, conn->last_h2c_ns), STALL_MS) ||
		    is_older(now, cmd->r2t_ns, R2T_MS))
			return true;
	}
	return false;
}

/* Commands have waited for buffers for a while: who holds some and moves nothing? */
static void core_pressure(struct timer *timer)
{
	struct core *core = container_of(timer, struct core, pressure);
	struct conn *conn, *next;

	if (list_empty(&core->waiters))
		return;
	timer_arm(core->reactor, timer, PRESSURE_MS * 1000000ull);
	list_for_each_safe (conn, next, &core->conns, link) {
		if (!conn_is_stalled(conn, core->reactor->now_ns))
			continue;
		log_warn("host holds %u buffers and moves no data while others wait, closing "
			 "peer=%s qid=%u",
			 conn->pool_held, conn->peer, conn->qid);
		conn_close(conn);
	}
}

static int core_init(struct core *core, struct target *target, struct reactor *r, struct err *err)
{
	/* The stride is odd in pages, so that equal offsets of neighbours use different sets. */
	size_t large = target->opts.io_size_max + DMA_ALIGN;
	int result;

	core->target = target;
	core->reactor = r;
	core->poller.poll = core_poll;
	core->poller.arm = core_arm;
	core->flush.fn = core_flush;
	core->waiters_msg.fn = core_run_waiters;
	core->pressure.fn = core_pressure;
	list_init(&core->active);
	list_init(&core->conns);
	list_init(&core->outs);
	list_init(&core->waiters);
	core->iov = calloc(TX_IOV_MAX, sizeof(*core->iov));
	core->staging = malloc(TX_STAGING);
	core->rx_mem = dma_alloc((size_t)RX_CHUNK_SIZE * ARRAY_LEN(core->chunk));
	core->large_owner = calloc(target->opts.buffers, sizeof(*core->large_owner));
	if (core->iov == NULL || core->staging == NULL || core->rx_mem == NULL ||
	    core->large_owner == NULL)
		return err_set(err, -ENOMEM, "no memory for the target's receive buffers");
	for (unsigned i = 0; i < ARRAY_LEN(core->chunk); i++) {
		core->chunk[i].base = core->rx_mem + (size_t)i * RX_CHUNK_SIZE;
		core->chunk[i].may_lend = i < RX_CHUNK_COUNT;
		if (i > 0 && i < RX_CHUNK_COUNT) {
			core->chunk[i].next = core->rx_free;
			core->rx_free = &core->chunk[i];
		}
	}
	core->rx = &core->chunk[0];
	result = bufpool_init(&core->large, large, target->opts.buffers, err);
	if (result < 0)
		(void)err_prefix(err, "target");
	return result;
}

static void core_done(struct core *core)
{
	bufpool_done(&core->large);
	free(core->large_owner);
	dma_free(core->rx_mem, (size_t)RX_CHUNK_SIZE * ARRAY_LEN(core->chunk));
	free(core->staging);
	free(core->iov);
}

/* On the core's reactor: nothing of ours may stay registered. */
static void core_quiet(void *arg)
{
	struct core *core = arg;

	poller_stop(core->reactor, &core->poller);
	timer_disarm(core->reactor, &core->pressure);
}

/* On the core's reactor: close whoever is left. */
static void core_close_all(void *arg)
{
	struct core *core = arg;
	struct conn *conn, *next;

	list_for_each_safe (conn, next, &core->conns, link)
		conn_close(conn);
}

/* ---- listeners ------------------------------------------------------------------------------ */

/* One that is just being made is not in the table yet: it is the next. */
static unsigned listener_index(const struct target *target, const struct listener *listener)
{
	unsigned i = 0;

	while (i < target->listener_count && target->listeners[i] != listener)
		i++;
	return MIN(i, (unsigned)TARGET_LISTENERS_MAX - 1);
}

static void target_accepted(struct listener *listener, struct stream *stream, void *arg)
{
	struct target *target = arg;

	target->conns_accepted++;
	if (!limits_admit(target) || target->is_stopping ||
	    conn_new(target, limits_pick_core(target), stream, listener_index(target, listener)) <
		    0) {
		target->conns_refused++;
		log_warn("refusing a connection peer=%s connections=%u of %u memory=%" PRIu64
			 " of %" PRIu64,
			 stream->peer, target->conns, target->opts.conns_max, target->conn_memory,
			 target->opts.conn_memory_max);
		stream_close(stream);
		return;
	}
	target->conns++;
}

static int listen_on(struct target *target, const char *host, uint16_t port, bool is_held,
		     struct err *err) MAY_SUSPEND
{
	struct listener_opts opts = { .host = host,
				      .port = port,
				      .accepted = target_accepted,
				      .arg = target,
				      .is_held = is_held };
	int result;

	if (target->listener_count == TARGET_LISTENERS_MAX)
		return err_set(err, -ENOSPC, "no more than %d listeners", TARGET_LISTENERS_MAX);
	result = net_get()->listen(&opts, &target->listeners[target->listener_count], err);
	if (result < 0)
		return result;
	target->listener_count++;
	log_info("listening addr=%s", target_listener_addr(target, target->listener_count - 1));
	target_discovery_changed(target);
	return 0;
}

int target_listen(struct target *target, const char *host, uint16_t port, struct err *err)
{
	return listen_on(target, host, port, false, err);
}

int target_bind(struct target *target, const char *host, uint16_t port, struct err *err)
{
	return listen_on(target, host, port, true, err);
}

void target_admit(struct target *target)
{
	for (unsigned i = 0; i < target->listener_count; i++)
		net_get()->admit(target->listeners[i]);
}

unsigned target_listener_count(const struct target *target)
{
	return target->listener_count;
}

const char *target_listener_addr(const struct target *target, unsigned index)
{
	return net_get()->listener_addr(target->listeners[index]);
}

uint16_t target_listener_port(const struct target *target, unsigned index)
{
	return net_get()->listener_port(target->listeners[index]);
}

/* ---- connections going ---------------------------------------------------------------------- */

void target_conn_gone(struct conn *conn)
{
	struct target *target = conn->target;
	struct subsystem *ss = conn->counted;

	limits_release(conn);
	fence_conn_gone(conn);
	free(conn);
	if (ss != NULL)
		subsystem_put_conn(ss);
	if (--target->conns == 0 && target->gone != NULL)
		wait_one(target->gone);
}

/* ---- start and stop ------------------------------------------------------------------------- */

static void target_reap_again(struct timer *timer)
{
	subsystem_reap(container_of(timer, struct target, reap_timer));
}

static void target_free(struct target *target)
{
	for (unsigned i = 0; i < target->core_count; i++) {
		if (target->cores[i].reactor != NULL)
			core_done(&target->cores[i]);
	}
	free(target->cores);
	free(target);
	the_target = NULL;
}

static int target_init(struct target *target, struct err *err)
{
	struct subsystem_opts discovery = { .nqn = NVME_DISCOVERY_NQN };
	int result;

	list_init(&target->subsystems);
	list_init(&target->waits);
	target->reap_timer.fn = target_reap_again;
	target->core_count = reactor_count();
	target->cores = calloc(target->core_count, sizeof(*target->cores));
	if (target->cores == NULL) {
		target->core_count = 0; /* for target_free() */
		return err_set(err, -ENOMEM, "no memory for a target");
	}
	for (unsigned i = 0; i < target->core_count; i++) {
		result = core_init(&target->cores[i], target, reactor_get(i), err);
		if (result < 0)
			return result;
	}
	return subsystem_add(target, &discovery, &target->discovery, err);
}

int target_start(const struct target_opts *opts, struct target **ret_target, struct err *err)
{
	struct target *target;
	int result = opts_check(opts, err);

	if (result < 0)
		return result;
	if (the_target != NULL)
		return err_set(err, -EALREADY, "this process has a target already");
	target = calloc(1, sizeof(*target));
	if (target == NULL)
		return err_set(err, -ENOMEM, "no memory for a target");
	the_target = target;
	target->opts = *opts;
	target->started_ns = reactor_primary()->now_ns;
	result = target_init(target, err);
	if (result < 0) {
		target_free(target);
		return result;
	}
	*ret_target = target;
	return 0;
}

void target_hang_up(struct target *target)
{
	struct subsystem *ss;
	struct ctrlr *ctrlr;

	target->is_stopping = true;
	for (unsigned i = 0; i < target->listener_count; i++)
		net_get()->unlisten(target->listeners[i]);
	target->listener_count = 0;
	list_for_each (ss, &target->subsystems, link) {
		list_for_each (ctrlr, &ss->ctrlrs, link)
			ctrlr_close(ctrlr);
	}
	wait_end_all(target);
}

static void close_strangers(struct target *target) MAY_SUSPEND;
static void close_strangers(struct target *target)
{
	for (unsigned i = 0; i < target->core_count; i++)
		task_call(target->cores[i].reactor, core_close_all, &target->cores[i]);
}

int target_drain(struct target *target, struct err *err)
{
	struct wait gone = { .left = 1 };
	struct subsystem *ss;
	bool is_late;

	target_hang_up(target);
	close_strangers(target);
	if (target->conns == 0)
		return 0;
	target->gone = &gone;
	is_late = !wait_for(target, &gone, target->opts.device_timeout_ms);
	target->gone = NULL;
	if (!is_late)
		return 0;
	list_for_each (ss, &target->subsystems, link) {
		struct stuck stuck = { .waited_ms = gone.limit_ms };

		fence_find_stuck(ss, &stuck);
		if (stuck.total > 0)
			return stuck_tell(ss, &stuck, err);
	}
	return err_set(err, -ETIMEDOUT, "%u connections do not end", target->conns);
}

void target_stop(struct target *target)
{
	struct wait gone = { .left = 1 };

	if (target == NULL)
		return;
	target_hang_up(target);
	while (!list_empty(&target->subsystems))
		subsystem_remove(list_first_entry(&target->subsystems, struct subsystem, link));
	close_strangers(target);
	if (target->conns > 0) {
		target->gone = &gone;
		task_event_wait(&gone.event);
	}
	for (unsigned i = 0; i < target->core_count; i++)
		task_call(target->cores[i].reactor, core_quiet, &target->cores[i]);
	timer_disarm(reactor_primary(), &target->reap_timer);
	target_free(target);
}

/* ---- statistics ----------------------------------------------------------------------------- */

struct core_stats_call {
	struct core *core;
	struct target_stats *sum;
};

static void core_stats_add(void *arg)
{
	struct core_stats_call *call = arg;
	const struct core *core = call->core;
	struct target_stats *sum = call->sum;

	sum->commands += core->stats.commands;
	sum->buffer_waits += core->stats.buffer_waits;
	sum->digest_errors += core->stats.digest_errors;
	sum->reads_lent += core->stats.reads_lent;
	sum->conns_terminated += core->stats.terminated;
	sum->connect_timeouts += core->stats.connect_timeouts;
	sum->buffers_free_min = MIN(sum->buffers_free_min, core->large.nfree_min);
}

void target_stats(struct target *target, struct target_stats *ret_stats)
{
	*ret_stats = (struct target_stats){
		.conns_accepted = target->conns_accepted,
		.conns_refused = target->conns_refused,
		.keep_alive_timeouts = target->keep_alive_timeouts,
		.idle_timeouts = target->idle_timeouts,
		.connects_refused = target->connects_refused,
		.conn_memory = target->conn_memory,
		.conn_memory_peak = target->conn_memory_peak,
		.conn_memory_each = limits_conn_memory() +
				    limits_queue_memory(&target->opts, 1,
							target->opts.queue_depth_max),
		.conns = target->conns,
		.buffers_free_min = target->opts.buffers,
	};
	for (unsigned i = 0; i < target->core_count; i++) {
		struct core_stats_call call = { &target->cores[i], ret_stats };

		task_call(target->cores[i].reactor, core_stats_add, &call);
	}
}
