/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mirror_far.c - replicas of a nexus on another machine, behind our initiator and our target.
 *
 *   nexus -> nvmf device ==simulated network==> target -> disk
 *   10.0.0.1                                    10.0.0.2
 *
 * One far machine, with a subsystem for each replica that lives there; by the dice none does. The
 * nexus makes the nvmf device from the child's URI and takes it away, and to it a connection that
 * is lost is a child that is lost (ctrl_loss=0). What is new against a disk of this machine:
 *
 *   - a request may be answered late, not at all, or be carried out although nobody hears of it:
 *     also long after its child was retired. None may land on what a rebuild wrote since.
 *   - a child that comes back is another controller of the same host.
 *   - the machine may stop, die with its power, or be cut off, with all that it has.
 *
 * When the near process dies, its disks stop wherever they are (mirror_kill()): what the far target
 * holds and has not given to a disk is lost with it. A target that goes on is not played: what a
 * dead process left there the next one waits for (leftover.c), which a test with real processes
 * shows (test_nvmf_restart.py).
 *
 * A child whose network is slower than its time-outs goes, also while the nexus is made, and then
 * that fails: rightly, but a play needs its nexus. So no connection has a window of a few bytes, by
 * which 64 KiB of marks would take longer than child_timeout; pair.c has those.
 *
 * One at a time works on the far machine (far.lock); faults of the network meet everything.
 */
#include <errno.h>
#include <string.h>

#include "cover.h"
#include "disk.h"
#include "drivers/nvmf/ctrlr.h"
#include "mirror.h"
#include "net.h"
#include "pair.h"
#include "reactor/task.h"
#include "target/target.h"

enum {
	FAR_PORT = 4420,
	FAR_NSID = 1,
	FAR_TRIES = 10000,
	FAR_STEP_NS = 100 * 1000,
	FAR_WINDOW_MIN = 1024, /* bytes: 64 KiB pass within 5 ms, far from child_timeout */
};

#define NEAR_HOST "10.0.0.1"
#define FAR_HOST  "10.0.0.2"
#define FAR_NQN   "nqn.2024-01.invalid.sim:r"

static struct {
	struct task_mutex lock;
	struct target_opts opts;
	struct simnet_opts net;
	struct target *target; /* NULL: off */
	struct subsystem *subsystem[REPLICAS_MAX];
} far;

void far_configure(void)
{
	memset(&far, 0, sizeof(far));
	task_mutex_init(&far.lock);
	target_opts_init(&far.opts);
	far.opts.buffers = 2 + (uint32_t)world_rand(8);
	far.opts.conns_max = 64;
	far.opts.queues_max = WORLD_REACTORS_MAX;
	far.opts.queue_depth_max = 2 + (uint32_t)world_rand(31);
	far.opts.io_size_max = 8192u << world_rand(4);
	far.opts.connect_timeout_ms = 1000;
	far.net = (struct simnet_opts){ .window_min = FAR_WINDOW_MIN,
					.latency_min_ns = 2 * USEC,
					.latency_mean_ns = 2 * USEC + world_rand(20 * USEC),
					.window_max = 600 + (uint32_t)world_rand(100000),
					.is_cutting = world_chance(1, 2) };
}

void far_replica(struct replica *replica, unsigned index)
{
	char uuid[UUID_TEXT_SIZE];

	replica->is_far = true;
	(void)uuid_to_text(&replica->uuid, uuid);
	(void)snprintf(replica->top, sizeof(replica->top), FAR_HOST ":%d/" FAR_NQN "%un%d",
		       FAR_PORT, index, FAR_NSID);
	(void)snprintf(replica->uri, sizeof(replica->uri),
		       "nvmf+tcp://" FAR_HOST ":%d/" FAR_NQN "%u?uuid=%s&nsid=%d"
		       "&hostnqn=nqn.2024-01.invalid.sim:near"
		       "&hostid=00000000-0000-4000-8000-000000000001&queue_depth=%u"
		       "&io_timeout=%ums&admin_timeout=500ms&connect_timeout=%ums&keep_alive=%ums",
		       FAR_PORT, index, uuid, FAR_NSID, 2 + (unsigned)world_rand(31),
		       50 + (unsigned)world_rand(500), 50 + (unsigned)world_rand(200),
		       100 + (unsigned)world_rand(500));
}

/* ---- the machine ---------------------------------------------------------------------------- */

static void far_on(void) MAY_SUSPEND
{
	struct err err = {};

	if (far.target != NULL)
		return;
	if (target_start(&far.opts, &far.target, &err) < 0 ||
	    target_listen(far.target, FAR_HOST, FAR_PORT, &err) < 0)
		world_fail("the target does not start: %s", err.msg);
	world_trace("far is on", 0, 0);
}

static void far_off(void) MAY_SUSPEND
{
	if (far.target == NULL)
		return;
	world_trace("far goes off", 0, 0);
	memset(far.subsystem, 0, sizeof(far.subsystem));
	target_stop(take(far.target));
}

/* Its disk is served, if it has power. */
static bool far_serve(struct replica *replica) MAY_SUSPEND
{
	unsigned index = (unsigned)(replica - mirror.replica);
	struct device *dev = device_lookup(replica->disk);
	char nqn[sizeof(FAR_NQN) + 4];
	struct subsystem_opts opts = { .nqn = nqn, .uuid.b = { (uint8_t)(1 + index) } };
	struct err err = {};

	if (!replica->medium->has_power || (dev != NULL && dev->is_removed) ||
	    (dev == NULL && device_create(replica->disk_uri, &dev, &err) < 0))
		return false;
	far_on();
	(void)snprintf(nqn, sizeof(nqn), FAR_NQN "%u", index);
	if (!world_failed() && far.subsystem[index] == NULL &&
	    subsystem_add(far.target, &opts, &far.subsystem[index], &err) < 0)
		world_fail("%s cannot be added: %s", nqn, err.msg);
	if (world_failed())
		return false;
	return subsystem_add_ns(far.subsystem[index], dev, FAR_NSID, NULL, &err) == 0 ||
	       err.code == -EEXIST;
}

bool far_attach(struct replica *replica)
{
	bool is_served;

	task_mutex_lock(&far.lock);
	is_served = far_serve(replica);
	task_mutex_unlock(&far.lock);
	return is_served;
}

void far_begin(void)
{
	if (!mirror.has_far)
		return;
	simnet_start(&far.net);
	simnet_from(NEAR_HOST);
	net_set(&net_sim);
}

/* Before the disks go: nobody serves them any more, and nobody is connected. */
void far_stop(void)
{
	task_mutex_lock(&far.lock);
	far_off();
	task_mutex_unlock(&far.lock);
	for (unsigned i = 0; mirror.has_far && ctrlr_next(NULL) != NULL && !world_failed(); i++) {
		if (i == FAR_TRIES)
			world_fail("an nvmf controller is left of a nexus that is gone");
		task_sleep(FAR_STEP_NS);
	}
}

void far_end(void)
{
	unsigned left;

	if (!mirror.has_far)
		return;
	pair_process_ends(); /* whoever knew of lost writes has gone, and so has the target */
	left = simnet_stop();
	if (left > 0)
		world_fail("both ends are gone and left %u streams or listeners open", left);
	net_set(&net_tcp);
}

/* ---- faults --------------------------------------------------------------------------------- */

/* May the far machine be hurt? Its network is that of all who live there. */
static bool is_fair_game(void)
{
	bool is_any = false;

	for (unsigned i = 0; i < mirror.nreplicas; i++) {
		if (mirror.replica[i].is_far && mirror.replica[i].is_safe)
			return false;
		is_any |= mirror.replica[i].is_far;
	}
	return is_any;
}

static void net_drop(void)
{
	cover_fault_begin(COVER_NET_DROP);
	mirror_stats.drops += simnet_drop();
	mirror_linger(world_latency(0, 200 * USEC));
	cover_fault_end(COVER_NET_DROP);
}

static void net_half_open(void)
{
	cover_fault_begin(COVER_NET_HALF_OPEN);
	mirror_stats.drops += simnet_half_open();
	mirror_linger(world_latency(0, MSEC));
	cover_fault_end(COVER_NET_HALF_OPEN);
}

static void net_partition(void)
{
	cover_fault_begin(COVER_NET_PARTITION);
	simnet_partition(NEAR_HOST, FAR_HOST, true);
	mirror_linger(world_latency(0, world_chance(1, 3) ? 500 * MSEC : MSEC));
	simnet_partition(NEAR_HOST, FAR_HOST, false);
	cover_fault_end(COVER_NET_PARTITION);
}

static void net_slow(void)
{
	cover_fault_begin(COVER_NET_SLOW);
	simnet_slow(2 + (unsigned)world_rand(100));
	mirror_linger(world_latency(0, MSEC));
	simnet_slow(1);
	cover_fault_end(COVER_NET_SLOW);
}

static void far_restart(void)
{
	task_mutex_lock(&far.lock);
	cover_fault_begin(COVER_TARGET_RESTART);
	mirror_stats.restarts++;
	far_off();
	mirror_linger(world_latency(0, MSEC));
	cover_fault_end(COVER_TARGET_RESTART);
	task_mutex_unlock(&far.lock);
}

/* The far machine's power, and all its disks' with it; who wants them back starts it again. */
static void far_crash(void)
{
	bool is_hit[REPLICAS_MAX] = {};

	task_mutex_lock(&far.lock);
	cover_fault_begin(COVER_TARGET_CRASH);
	mirror_stats.crashes++;
	simnet_crash(FAR_HOST);
	for (unsigned i = 0; i < mirror.nreplicas; i++) {
		struct replica *replica = &mirror.replica[i];

		if (!replica->is_far || replica->is_busy || !replica->medium->has_power)
			continue;
		is_hit[i] = replica->is_busy = replica->lost_cache = true;
		disk_power_cut(replica->medium);
	}
	far_off();
	for (unsigned i = 0; i < mirror.nreplicas; i++) {
		if (is_hit[i])
			mirror_pull(&mirror.replica[i], true);
	}
	mirror_linger(world_latency(0, MSEC));
	for (unsigned i = 0; i < mirror.nreplicas && !mirror.scene->is_dead; i++) {
		if (!is_hit[i])
			continue;
		medium_power_on(mirror.replica[i].medium);
		mirror.replica[i].is_busy = false;
	}
	cover_fault_end(COVER_TARGET_CRASH);
	task_mutex_unlock(&far.lock);
}

void far_act(void)
{
	static void (*const acts[])(void) = { net_drop, net_drop, net_half_open, net_partition,
					      net_slow, net_slow, far_restart,   far_crash };

	if (is_fair_game())
		acts[world_rand(ARRAY_LEN(acts))]();
}
