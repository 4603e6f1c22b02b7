// SPDX-License-Identifier: Apache-2.0
/*
 * pair.c - both ends of NVMe/TCP in one world, and everything that may happen between them.
 *
 *   clients, layers, nvmf device        10.0.0.1
 *        |  path A        |  path B     the simulated network
 *   10.0.0.2:4420   10.0.0.5:4420       two listeners of one target
 *   target, layers, disk                the far side: stopped, started, crashed as a whole
 *
 * The clients of load.c know nothing of this: a request ends once, on its reactor, in time, and its
 * data is judged by the one oracle. What the network adds to the rules:
 *
 *   - A write in flight may be carried out more than once, as the initiator sends it again when its
 *     connection broke (oracle_set_repeats). Once it is acknowledged no copy of it may be left on
 *     its way: the oracle stays strict about that, which is the hardest promise judged here.
 *   - A write that failed may still be carried out for as long as the target lives: it stays in
 *     flight for the oracle until the target has stopped or its machine has died (pair_lost).
 *   - Requests fail of the network only where the URI says that they may (fast_io_fail), and
 *     only with trouble before. Without, the initiator has to get every request through.
 *   - The far machine may lose its power while the near one lives: what was not flushed may be gone
 *     although nobody saw an error, as with any remote disk (oracle_crash).
 *
 * Trouble is rationed (`left`, and `hard_left` for what keeps requests waiting by itself), and the
 * time-outs of the URI are short, so that the liveness bound of all scenes holds here as well: who
 * breaks every connection as soon as it stands proves nothing.
 *
 * Control of the target is one at a time (`is_busy`): stop, crash, pause and removal exclude each
 * other; all of them meet I/O, network trouble and the disturbers of chaos.c in every state.
 */
#include "pair.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "alloc.h"
#include "cover.h"
#include "device/fault.h"
#include "disk.h"
#include "guard.h"
#include "net.h"
#include "reactor/task.h"
#include "target/target.h"

enum {
	ON_TIMEOUT_IGNORE = 0, /* in the table of pair_choose_host() */
	ON_TIMEOUT_ABORT = 1,
	ON_TIMEOUT_REMOVE = 3,
	PATHS_MAX = 2,
	PAIR_PORT = 4420,
	SETTLE_STEPS = 200000,
	STEP_NS = 100 * 1000,
	MEMORY_NS_LOG2 = 34, /* 17 virtual seconds: trouble that ended so long ago fails nothing */
};

#define LATE_NS        (3 * SEC) /* of a far device, at most */
#define STALL_SLACK_NS (100 * MSEC)
#define NOTICE_NS      (8 * SEC)  /* that a host may take to hear of a change, with trouble */
#define SETTLE_NS      (20 * SEC) /* all time-outs several times over */
#define NEAR_HOST      "10.0.0.1"
#define PAIR_NQN       "nqn.2024-01.invalid.sim:pair"
#define PAIR_HOST      "nqn.2024-01.invalid.sim:near"

static const char *const path_host[PATHS_MAX] = { "10.0.0.2", "10.0.0.5" };

struct lost_write {
	uint64_t id, lba, nlb;
};

static struct {
	/* one seed's */
	unsigned npaths;
	struct target_opts opts;
	uint32_t nsid;
	bool has_ana;
	unsigned on_timeout;
	uint64_t io_timeout_ns, stall_ns; /* stall: what a failover may take */
	bool may_lose;                    /* the URI lets a controller be given up */
	bool may_fail; /* the URI lets requests fail while there is no connection */
	char params[SCENE_URI_MAX - 128];

	/* one epoch's */
	struct target *target; /* NULL: down */
	struct subsystem *subsystem;
	bool has_trouble, is_busy, is_crashed, is_calm;
	unsigned left, hard_left; /* troubles still to come, and the long ones among them */
	uint64_t pace_ns;         /* about so long between two */
	struct lost_write *lost;  /* owned */
	size_t nlost, lost_room;
} pair;

struct pair_stats pair_stats;

/* ---- configuration -------------------------------------------------------------------------- */

static void path_uri(unsigned path, char uri[SCENE_URI_MAX])
{
	(void)snprintf(uri, SCENE_URI_MAX, "nvmf+tcp://%s:%u/%s?%s", path_host[path],
		       (unsigned)PAIR_PORT, PAIR_NQN, pair.params);
}

static void pair_choose_target(void)
{
	target_opts_init(&pair.opts);
	pair.opts.buffers = 2 + (uint32_t)world_rand(8);
	pair.opts.conns_max = 64;
	pair.opts.device_timeout_ms = 3600000; /* devices are slow here, but none hangs */
	pair.opts.queues_max = WORLD_REACTORS_MAX + (uint32_t)world_rand(4); /* one per reactor */
	pair.opts.queue_depth_max = 2 + (uint32_t)world_rand(31);
	pair.opts.in_capsule_size = 4096 * (1 + (uint32_t)world_rand(2));
	pair.opts.io_size_max = 8192u << world_rand(4);
	pair.opts.no_success_flag = world_chance(1, 3);
	pair.opts.connect_timeout_ms = 1000;
}

/* A duration of the URI. */
static void param_ms(const char *key, uint64_t ms)
{
	size_t len = strlen(pair.params);

	(void)snprintf(pair.params + len, sizeof(pair.params) - len, "&%s=%" PRIu64 "ms", key, ms);
}

static void param(const char *key, const char *value)
{
	size_t len = strlen(pair.params);

	(void)snprintf(pair.params + len, sizeof(pair.params) - len, "&%s=%s", key, value);
}

/* Short enough that what fails is found, tried again and given up within the liveness bound. */
static void pair_choose_host(void)
{
	static const char *const actions[] = { "ignore", "abort", "reset", "remove" };
	unsigned action = (unsigned)world_rand(world_chance(1, 4) ? 4 : 3);
	uint64_t io_timeout_ms = 200 + world_rand(1800), keep_alive_ms = 500 + world_rand(1000);
	bool loses = world_chance(1, 6);

	pair.may_lose = loses || action == ON_TIMEOUT_REMOVE;
	pair.may_fail = loses || action == ON_TIMEOUT_REMOVE || world_chance(1, 4);
	(void)snprintf(pair.params, sizeof(pair.params),
		       "hostnqn=%s&hostid=00000000-0000-4000-8000-000000000001&nsid=%u"
		       "&queue_depth=%u",
		       PAIR_HOST, pair.nsid, 2 + (unsigned)world_rand(31));
	param("on_timeout", actions[action]);
	param_ms("io_timeout", io_timeout_ms);
	pair.on_timeout = action;
	pair.io_timeout_ns = io_timeout_ms * MSEC;
	param_ms("admin_timeout", 500 + world_rand(500));
	param_ms("connect_timeout", 200 + world_rand(800));
	param_ms("reconnect_delay", 10 + world_rand(500));
	param_ms("keep_alive", keep_alive_ms);
	/* Found by two and a half ticks of keep alive, or by an abort and then a reset. */
	pair.stall_ns = MAX(keep_alive_ms * 5 / 4, io_timeout_ms * 2) * MSEC + STALL_SLACK_NS;
	if (pair.may_fail && world_chance(1, 2))
		param_ms("fast_io_fail", 1 + world_rand(500));
	if (loses)
		param_ms("ctrl_loss", world_chance(1, 2) ? 0 : 500 + world_rand(1000));
	if (world_chance(1, 3))
		param("hdgst", "true");
	if (world_chance(1, 3))
		param("ddgst", "true");
	if (world_chance(1, 2))
		param("iopolicy", "queue-depth");
}

void pair_configure(struct scene *scene)
{
	unsigned i = scene->ndevices++;

	scene->remote = i;
	pair.npaths = 1 + (unsigned)world_chance(1, 2);
	pair.nsid = world_chance(1, 2) ? 1 : 2 + (uint32_t)world_rand(5);
	pair.has_ana = world_chance(2, 3);
	pair_choose_target();
	pair_choose_host();
	path_uri(0, scene->uri[i]);
	(void)snprintf(scene->name[i], SCENE_NAME_MAX, "%s:%u/%sn%u", path_host[0],
		       (unsigned)PAIR_PORT, PAIR_NQN, pair.nsid);
	scene->offset[i] = scene->offset[i - 1];
}

/* ---- the far side --------------------------------------------------------------------------- */

static struct device *far_device(const struct scene *scene)
{
	struct device *dev = device_lookup(scene->name[scene->remote - 1]);

	return dev == NULL || dev->is_removed ? NULL : dev;
}

static int far_add_ns(const struct scene *scene, struct err *err)
{
	struct device *dev = far_device(scene);

	if (dev == NULL)
		return err_set(err, -ENODEV, "the device is gone");
	return subsystem_add_ns(pair.subsystem, dev, pair.nsid, NULL, err);
}

/* A disturber may hold the claim for a moment, or take the device away altogether. */
static void far_wait_ns(const struct scene *scene)
{
	struct err err = {};

	for (unsigned i = 0; far_add_ns(scene, &err) < 0 && !world_failed(); i++) {
		if (far_device(scene) == NULL)
			return;
		if (i == SETTLE_STEPS)
			world_fail("the namespace cannot be added: %s", err.msg);
		task_sleep(STEP_NS);
	}
}

static int far_add_subsystem(struct err *err)
{
	struct subsystem_opts sub = { .nqn = PAIR_NQN, .uuid.b = { 1 }, .has_ana = pair.has_ana };

	return subsystem_add(pair.target, &sub, &pair.subsystem, err);
}

static bool far_start(const struct scene *scene)
{
	struct err err = {};
	int result = target_start(&pair.opts, &pair.target, &err);

	if (result == 0)
		result = far_add_subsystem(&err);
	if (result == 0)
		far_wait_ns(scene); /* first: who looks and finds none calls the device failed */
	for (unsigned i = 0; result == 0 && i < pair.npaths; i++)
		result = target_listen(pair.target, path_host[i], PAIR_PORT, &err);
	if (result < 0)
		world_fail("the target does not start: %s", err.msg);
	world_trace("target starts", (uint64_t)-result, 0);
	return !world_failed();
}

static void far_stop(void)
{
	world_trace("target stops", 0, 0);
	target_stop(take(pair.target));
	pair.subsystem = NULL;
}

bool pair_start(struct scene *scene)
{
	struct simnet_opts net = { .latency_min_ns = 2 * USEC,
				   .latency_mean_ns = 2 * USEC + world_rand(60 * USEC),
				   .window_max = 600 + (uint32_t)world_rand(100000),
				   .is_cutting = world_chance(1, 2) };

	pair_stats.epochs++;
	pair_stats.two_paths += pair.npaths == 2;
	simnet_start(&net);
	simnet_from(NEAR_HOST);
	net_set(&net_sim);
	pair.has_trouble = world_chance(3, 4);
	pair.left = 1 + (unsigned)world_rand(30);
	pair.hard_left = (unsigned)world_rand(4);
	pair.pace_ns = world_chance(1, 2) ? MSEC : 20 * MSEC;
	pair.is_busy = pair.is_crashed = false;
	pair.is_calm = pair.npaths == 2 && !pair.may_fail && world_chance(1, 2);
	simnet_aim(pair.is_calm ? path_host[0] : NULL);
	pair_stats.calm += pair.is_calm;
	oracle_set_repeats(scene->oracle, true);
	return far_start(scene);
}

bool pair_add_paths(struct scene *scene)
{
	char uri[SCENE_URI_MAX];
	struct err err = {};
	struct device *dev;

	for (unsigned i = 1; i < pair.npaths && !world_failed(); i++) {
		path_uri(i, uri);
		if (device_create(uri, &dev, &err) < 0)
			world_fail("cannot add the path %s: %s", uri, err.msg);
		else if (dev != scene->top)
			world_fail("%s became a device of its own, '%s'", uri, dev->name);
	}
	return !world_failed();
}

void pair_destroy(struct scene *scene)
{
	char uri[SCENE_URI_MAX];
	struct err err = {};

	for (unsigned i = 0; i < pair.npaths; i++) {
		struct device *dev = device_lookup(scene->name[scene->remote]);

		path_uri(i, uri);
		if (dev != NULL && !dev->is_removed && device_has_alias(dev, uri) &&
		    device_destroy(uri, &err) < 0)
			world_fail("cannot destroy %s: %s", uri, err.msg);
	}
}

void pair_forgotten(void)
{
	struct target_stats stats = { .conns = 1 };

	for (unsigned i = 0; stats.conns > 0 && !world_failed(); i++) {
		if (i == SETTLE_STEPS)
			world_fail("the target keeps %u connections of a device that is not there",
				   stats.conns);
		task_sleep(STEP_NS);
		target_stats(pair.target, &stats);
	}
}

/* ---- what was lost -------------------------------------------------------------------------- */

void pair_lost(struct scene *scene, uint64_t id, uint64_t lba, uint64_t nlb)
{
	if (pair.target == NULL && !pair.is_busy) { /* stopped for good */
		oracle_write_end(scene->oracle, id, lba, nlb, WRITE_MAYBE);
		return;
	}
	pair_stats.lost++;
	if (pair.nlost == pair.lost_room) {
		pair.lost_room = pair.lost_room * 2 + 64;
		pair.lost = sim_grow(pair.lost, pair.lost_room, sizeof(*pair.lost));
	}
	pair.lost[pair.nlost++] = (struct lost_write){ id, lba, nlb };
}

/* No connection and no device is left that could carry any of them out. */
static void lost_for_good(struct scene *scene)
{
	for (size_t i = 0; i < pair.nlost; i++)
		oracle_write_end(scene->oracle, pair.lost[i].id, pair.lost[i].lba, pair.lost[i].nlb,
				 WRITE_MAYBE);
	pair.nlost = 0;
}

bool pair_had_trouble(const struct scene *scene, uint64_t since_ns)
{
	uint64_t memory_ns = UINT64_C(1) << MEMORY_NS_LOG2;

	return cause_since(scene, CAUSE_NET, since_ns > memory_ns ? since_ns - memory_ns : 0);
}

/*
 * A reset needs a connection, and half a compare-and-write cannot be sent again: these two may fail
 * whenever there was trouble.
 */
bool pair_may_fail(const struct scene *scene, uint8_t op, uint64_t submit_ns)
{
	if (!pair.may_fail && op != IO_RESET && op != IO_COMPARE_WRITE)
		return false;
	return pair_had_trouble(scene, submit_ns);
}

bool pair_may_time_out(uint64_t submit_ns)
{
	return pair.on_timeout == ON_TIMEOUT_ABORT && world_now() - submit_ns >= pair.io_timeout_ns;
}

bool pair_may_be_lost(uint64_t since_ns)
{
	return pair.may_lose && world_now() - since_ns > 5 * SEC;
}

bool pair_is_calm(void)
{
	return pair.is_calm;
}

void pair_check_stall(const struct request *req)
{
	uint64_t age_ns = world_now() - req->submit_ns;

	if (pair.is_calm && age_ns > pair.stall_ns)
		world_fail("%s %" PRIu64 "+%u took %" PRIu64 " ms although one path was well; a "
			   "failover may take %" PRIu64 " ms",
			   io_op_name(req->io.op), req->io.lba, req->io.nlb, age_ns / MSEC,
			   pair.stall_ns / MSEC);
}

bool pair_is_down(void)
{
	return pair.is_crashed;
}

/* ---- trouble of the network ----------------------------------------------------------------- */

static void net_drop(struct scene *scene)
{
	(void)scene;
	cover_fault_begin(COVER_NET_DROP);
	pair_stats.drops += simnet_drop();
	task_sleep(world_latency(0, 500 * USEC)); /* until it may be mended */
	cover_fault_end(COVER_NET_DROP);
}

/* Who ignores late commands waits for ever on a single queue that is silent. */
static void net_half_open(struct scene *scene)
{
	(void)scene;
	if (pair.on_timeout == ON_TIMEOUT_IGNORE)
		return;
	cover_fault_begin(COVER_NET_HALF_OPEN);
	pair_stats.half_opens += simnet_half_open();
	task_sleep(world_latency(0, 20 * MSEC));
	cover_fault_end(COVER_NET_HALF_OPEN);
}

static void net_partition(struct scene *scene)
{
	const char *host = path_host[pair.is_calm ? 0 : world_rand(pair.npaths)];

	(void)scene;
	cover_fault_begin(COVER_NET_PARTITION);
	pair_stats.partitions++;
	simnet_partition(NEAR_HOST, host, true);
	task_sleep(MIN(world_latency(0, 50 * MSEC), 3 * SEC));
	simnet_partition(NEAR_HOST, host, false);
	cover_fault_end(COVER_NET_PARTITION);
}

static void net_slow(struct scene *scene)
{
	(void)scene;
	cover_fault_begin(COVER_NET_SLOW);
	simnet_slow(2 + (unsigned)world_rand(100));
	task_sleep(world_latency(0, 5 * MSEC));
	simnet_slow(1);
	cover_fault_end(COVER_NET_SLOW);
}

/* ---- trouble of the far side ---------------------------------------------------------------- */

static void far_restart(struct scene *scene)
{
	cover_fault_begin(COVER_TARGET_RESTART);
	pair_stats.restarts++;
	far_stop();
	lost_for_good(scene);
	task_sleep(MIN(world_latency(0, 20 * MSEC), 2 * SEC));
	(void)far_start(scene);
	cover_fault_end(COVER_TARGET_RESTART);
}

/* The far machine loses its power, and comes back; the near one hears nothing. */
static void far_crash(struct scene *scene)
{
	struct medium *m = scene->medium;

	if (m == NULL || scene->has_power_cut || m->is_broken || far_device(scene) == NULL)
		return;
	cover_fault_begin(COVER_TARGET_CRASH);
	pair_stats.crashes++;
	pair.is_crashed = m->is_broken = true;
	for (unsigned i = 0; i < pair.npaths; i++)
		simnet_crash(path_host[i]);
	disk_power_cut(m);
	far_stop();
	while (disk_inside(m) > 0 && !world_failed())
		task_sleep(10 * USEC);
	lost_for_good(scene);
	oracle_crash(scene->oracle);
	task_sleep(MIN(world_latency(0, 20 * MSEC), 2 * SEC));
	medium_power_on(m);
	(void)far_start(scene);
	pair.is_crashed = m->is_broken = false;
	cover_fault_end(COVER_TARGET_CRASH);
}

/* It is there for a moment before it has its namespace; who looks then finds none. */
static void far_resubsystem(struct scene *scene)
{
	struct err err = {};

	cause_begin(scene, CAUSE_GONE);
	cover_fault_begin(COVER_SUBSYSTEM_GONE);
	pair_stats.subsystems++;
	world_trace("subsystem goes", 0, 0);
	subsystem_remove(take(pair.subsystem));
	task_sleep(MIN(world_latency(0, 20 * MSEC), 2 * SEC));
	if (far_add_subsystem(&err) < 0)
		world_fail("the subsystem cannot be added again: %s", err.msg);
	else
		far_wait_ns(scene);
	world_trace("subsystem is back", 0, 0);
	cover_fault_end(COVER_SUBSYSTEM_GONE);
	cause_end(scene, CAUSE_GONE);
	scene->last_ns[CAUSE_GONE] += NOTICE_NS;
}

static void far_pause(struct scene *scene)
{
	(void)scene;
	world_trace("pause", 0, 0);
	if (subsystem_pause(pair.subsystem, NULL) == 0) {
		task_sleep(world_latency(0, 300 * USEC));
		subsystem_resume(pair.subsystem);
	}
	world_trace("unpause", 0, 0);
}

/* The far device takes longer than hosts are ready to wait. */
static void far_late(struct scene *scene)
{
	char uri[SCENE_URI_MAX];
	struct err err = {};

	cover_fault_begin(COVER_LATE);
	cause_begin(scene, CAUSE_ABORT);
	pair_stats.late++;
	(void)snprintf(uri, sizeof(uri),
		       "inject://%s?op=all&method=delay&delay_us=%u&probability=0.%u&seed=%u",
		       scene->name[scene->remote - 1],
		       100000 + (unsigned)world_rand(LATE_NS / USEC - 100000),
		       1 + (unsigned)world_rand(9), (unsigned)world_rand(1000000));
	if (far_device(scene) != NULL && fault_add(uri, &err) == 0) {
		task_sleep(world_latency(0, 2 * MSEC));
		if (fault_remove(uri, &err) < 0)
			world_fail("cannot remove %s: %s", uri, err.msg);
	}
	cause_end(scene, CAUSE_ABORT);
	scene->last_ns[CAUSE_ABORT] += LATE_NS; /* some are held still */
	cover_fault_end(COVER_LATE);
}

/* One path is worth less, or nothing, for a while. */
static void far_ana(struct scene *scene)
{
	static const enum ana_state states[] = { ANA_NON_OPTIMIZED, ANA_INACCESSIBLE, ANA_CHANGE,
						 ANA_PERSISTENT_LOSS };
	enum ana_state state = states[world_rand(ARRAY_LEN(states))];
	int listener = (int)world_rand(pair.npaths);
	struct err err = {};

	(void)scene;
	if (!pair.has_ana)
		return;
	cover_fault_begin(COVER_ANA);
	pair_stats.ana++;
	world_trace("ana", (uint64_t)listener, state);
	if (subsystem_set_ana(pair.subsystem, listener, 0, state, &err) < 0)
		world_fail("the ANA state cannot be set: %s", err.msg);
	task_sleep(world_chance(1, 3) ? SEC + world_rand(2 * SEC) : world_latency(0, 10 * MSEC));
	if (subsystem_set_ana(pair.subsystem, listener, 0, ANA_OPTIMIZED, &err) < 0)
		world_fail("the ANA state cannot be set back: %s", err.msg);
	world_trace("ana is back", (uint64_t)listener, state);
	cover_fault_end(COVER_ANA);
}

/* The target throws the host out; it may come back. */
static void far_disconnect(struct scene *scene)
{
	struct err err = {};
	unsigned count;

	(void)scene;
	cover_fault_begin(COVER_DISCONNECT);
	pair_stats.disconnects++;
	if (subsystem_disconnect(pair.subsystem, PAIR_HOST, 0, world_chance(1, 2), &count, &err) <
		    0 &&
	    err.code != -ENOENT)
		world_fail("the host cannot be disconnected: %s", err.msg);
	task_sleep(world_latency(0, 500 * USEC));
	cover_fault_end(COVER_DISCONNECT);
}

/* Only others are let in for a while. */
static void far_shut_out(struct scene *scene)
{
	static const char *const others[] = { "nqn.2024-01.invalid.sim:somebody-else" };
	struct err err = {};

	(void)scene;
	cover_fault_begin(COVER_SHUT_OUT);
	pair_stats.shut_outs++;
	world_trace("shut out", 0, 0);
	if (subsystem_set_hosts(pair.subsystem, others, 1, &err) < 0)
		world_fail("the host cannot be shut out: %s", err.msg);
	task_sleep(MIN(world_latency(0, 20 * MSEC), 2 * SEC));
	if (subsystem_set_hosts(pair.subsystem, NULL, 0, &err) < 0)
		world_fail("the host cannot be let in again: %s", err.msg);
	world_trace("let in", 0, 0);
	cover_fault_end(COVER_SHUT_OUT);
}

/*
 * Our namespace goes, in use, and comes back. Who asks meanwhile is refused at once, and the device
 * may be called failed: then the epoch ends.
 */
static void far_renamespace(struct scene *scene)
{
	struct err err = {};

	cause_begin(scene, CAUSE_GONE);
	cover_fault_begin(COVER_NAMESPACE_GONE);
	pair_stats.namespaces++;
	world_trace("namespace goes", pair.nsid, 0);
	if (subsystem_remove_ns(pair.subsystem, pair.nsid, &err) == 0) {
		task_sleep(world_latency(0, 5 * MSEC));
		far_wait_ns(scene);
	} else if (far_device(scene) != NULL) {
		world_fail("the namespace cannot be removed: %s", err.msg);
	}
	world_trace("namespace is back", pair.nsid, 0);
	cover_fault_end(COVER_NAMESPACE_GONE);
	cause_end(scene, CAUSE_GONE);
	scene->last_ns[CAUSE_GONE] += NOTICE_NS; /* until hosts have heard of it */
}

/* Another namespace comes and goes: events, and scans that must find ours unchanged. */
static void far_decoy(struct scene *scene)
{
	static const char uri[] = "null:///decoy?num_blocks=7&blk_size=512";
	struct err err = {};
	struct device *dev;

	(void)scene;
	if (device_create(uri, &dev, &err) < 0)
		return;
	cover_fault_begin(COVER_NAMESPACES);
	pair_stats.decoys++;
	if (subsystem_add_ns(pair.subsystem, dev, pair.nsid + 1, NULL, &err) < 0)
		world_fail("another namespace cannot be added: %s", err.msg);
	task_sleep(world_latency(0, 2 * MSEC));
	if (subsystem_remove_ns(pair.subsystem, pair.nsid + 1, &err) < 0 ||
	    device_destroy(uri, &err) < 0)
		world_fail("another namespace cannot be removed: %s", err.msg);
	cover_fault_end(COVER_NAMESPACES);
}

static bool path_is_there(const struct device *dev, unsigned path)
{
	char uri[SCENE_URI_MAX];

	path_uri(path, uri);
	return device_has_alias(dev, uri);
}

/* The device may have been removed meanwhile: then this one is new, and nobody's. */
static void path_come(const struct scene *scene, unsigned path)
{
	char uri[SCENE_URI_MAX];
	struct err err = {};
	struct device *dev;

	path_uri(path, uri);
	if (device_create(uri, &dev, &err) < 0) /* the network may be down */
		world_say("%s", err.msg);
	else if (strcmp(dev->name, scene->name[scene->remote]) != 0 &&
		 device_destroy(uri, &err) < 0)
		world_fail("cannot destroy %s: %s", uri, err.msg);
	world_trace("path is back", path, (uint64_t)-err.code);
}

/* A path goes, under I/O, and comes back; the device stays. */
static void path_change(struct scene *scene)
{
	const struct device *dev = device_lookup(scene->name[scene->remote]);
	unsigned path = (unsigned)world_rand(pair.npaths);
	char uri[SCENE_URI_MAX];
	struct err err = {};

	if (pair.npaths < 2 || dev == NULL || dev->is_removed)
		return;
	cover_fault_begin(COVER_PATH_CHANGE);
	pair_stats.paths++;
	path_uri(path, uri);
	if (path_is_there(dev, path) && path_is_there(dev, !path)) {
		world_trace("path goes", path, 0);
		if (device_destroy(uri, &err) < 0)
			world_fail("cannot remove the path %s: %s", uri, err.msg);
		task_sleep(world_latency(0, 2 * MSEC));
	}
	dev = device_lookup(scene->name[scene->remote]);
	for (unsigned i = 0; i < pair.npaths && dev != NULL && !dev->is_removed; i++) {
		if (!path_is_there(dev, i))
			path_come(scene, i);
		dev = device_lookup(scene->name[scene->remote]);
	}
	cover_fault_end(COVER_PATH_CHANGE);
}

/* ---- troublers ------------------------------------------------------------------------------ */

static const struct {
	void (*act)(struct scene *scene);
	unsigned weight;
	bool is_calm;  /* strikes one path only, if aimed */
	bool is_hard;  /* requests may have to wait for seconds */
	bool is_alone; /* changes target or paths */
} troubles[] = {
	{ net_drop, 20, true, false, false },      { net_half_open, 6, true, true, false },
	{ net_partition, 10, true, true, false },  { net_slow, 10, false, false, false },
	{ far_restart, 8, false, true, true },     { far_crash, 5, false, true, true },
	{ far_resubsystem, 5, false, true, true }, { far_pause, 10, false, false, true },
	{ far_late, 6, false, true, false },       { path_change, 6, false, false, true },
	{ far_ana, 12, false, true, true },        { far_disconnect, 6, false, false, true },
	{ far_decoy, 8, true, false, true },       { far_shut_out, 5, false, true, true },
	{ far_renamespace, 3, false, true, true },
};

static void trouble_once(struct scene *scene)
{
	unsigned total = 0, roll, i = 0;

	for (unsigned k = 0; k < ARRAY_LEN(troubles); k++)
		total += troubles[k].weight;
	roll = (unsigned)world_rand(total);
	while (roll >= troubles[i].weight)
		roll -= troubles[i++].weight;
	if (pair.is_calm && !troubles[i].is_calm)
		return;
	if ((troubles[i].is_hard && pair.hard_left == 0) || (troubles[i].is_alone && pair.is_busy))
		return;
	pair.left--;
	pair.hard_left -= troubles[i].is_hard;
	pair.is_busy |= troubles[i].is_alone;
	cause_begin(scene, CAUSE_NET);
	world_trace("trouble", i, 0);
	troubles[i].act(scene);
	world_trace("trouble is over", i, 0);
	cause_end(scene, CAUSE_NET);
	if (troubles[i].is_alone)
		pair.is_busy = false;
}

static void troubler(void *arg)
{
	struct scene *scene = arg;

	while (!scene->is_ending && !world_failed()) {
		task_sleep(world_latency(20 * USEC, pair.pace_ns));
		if (!scene->is_ending && !world_failed() && pair.left > 0)
			trouble_once(scene);
	}
	scene->nchaos--;
}

void pair_trouble(struct scene *scene)
{
	unsigned count = pair.has_trouble ? 1 + (unsigned)world_rand(2) : 0;

	for (unsigned i = 0; i < count; i++) {
		scene->nchaos++;
		if (task_spawn("trouble", troubler, scene) < 0)
			scene->nchaos--;
	}
}

/* ---- the end -------------------------------------------------------------------------------- */

static bool device_is_idle(const struct device *dev)
{
	for (unsigned i = 0; i < world_nreactors(); i++) {
		const struct channel *ch = dev->channel[i];

		if (ch != NULL && ch->inflight[0] + ch->inflight[1] > 0)
			return false;
		if (ch != NULL && (ch->held.head != NULL || ch->nlocked > 0))
			return false;
	}
	return true;
}

static bool far_is_idle(const struct scene *scene)
{
	for (unsigned i = 0; i < scene->remote; i++) {
		const struct device *dev = device_lookup(scene->name[i]);

		if (dev != NULL && !device_is_idle(dev))
			return false;
	}
	return true;
}

/* One read through the whole stack, counted as any. */
static bool near_answers(struct scene *scene)
{
	struct io io = { .op = IO_READ, .nlb = 1 };
	struct err err = {};
	struct handle *h;

	if (handle_open(scene->desc, reactor_primary(), &h, &err) < 0)
		return false;
	io_set_buf(&io, load_buffer(0), scene->block_size);
	(void)io_wait(h, &io);
	load_count(scene, &io);
	return io.status == IO_OK;
}

/* A controller that lost its connection comes back, unless the URI gave it little time for that. */
static void near_settle(struct scene *scene)
{
	uint64_t since_ns = world_now();

	while (!scene->is_stopping && !scene->has_power_cut && !world_failed() &&
	       !near_answers(scene)) {
		if (world_now() - since_ns > SETTLE_NS && pair.may_lose)
			scene->is_stopping = true;
		else if (world_now() - since_ns > SETTLE_NS)
			world_fail("the network is well again, but the device does not answer");
		task_sleep(10 * MSEC);
	}
}

/* What hosts gave up is still with the far devices. */
void pair_settle(struct scene *scene)
{
	near_settle(scene);
	for (unsigned i = 0; !far_is_idle(scene) && !world_failed(); i++) {
		if (i == SETTLE_STEPS)
			world_fail("the far devices do not come to rest");
		task_sleep(STEP_NS);
	}
}

void pair_stop(struct scene *scene)
{
	if (pair.target == NULL)
		return;
	far_stop();
	lost_for_good(scene);
	free(pair.lost);
	pair.lost = NULL;
	pair.lost_room = 0;
}

void pair_end(struct scene *scene)
{
	unsigned left;

	/* who deleted a controller says so before he has gone himself */
	for (unsigned i = 0; i < 100 && task_count() > 1; i++)
		task_sleep(STEP_NS);
	pair_stats.bytes += simnet_stats()->bytes;
	pair_stats.connects += simnet_stats()->connects;
	pair_process_ends(); /* nobody is left who could be told */
	left = simnet_stop();
	if (left > 0)
		world_fail("both ends are gone and left %u streams or listeners open", left);
	net_set(&net_tcp);
	oracle_set_repeats(scene->oracle, false);
}
