/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mirror_chaos.c - what happens to a nexus, its replicas and its store while clients use it.
 *
 *   replica   bad blocks (healed by writing, or not), failing writes and flushes, stuck requests, a
 *             slow disk, faults of the engine's own kind, its device quiesced or pulled, its
 *             machine without power for a while, no space, on one or on all at once
 *   store     slow, failing, hanging, losing the record
 *   client    add, remove, offline, fault, retire, online; resize; and what fits any device
 *             (chaos_act_any(): quiesce, nested; range locks; openings; injection)
 *
 * A replica that is safe is left alone: in two epochs of three one is, so that the nexus lives long
 * enough for the rest to be interesting; in the third all may fall, and it freezes.
 *
 * A client's operation is judged by the rules for children: which answers are possible in the state
 * before and after it. Children fall by themselves meanwhile, so a refusal because of that is
 * always possible; what must never succeed is named in op_judge().
 *
 * A replica whose machine lost its power, or whose device was pulled, does not come back behind the
 * nexus' back: its device is gone first. An initiator that reconnects silently would be the bug
 * that a mirror cannot survive.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "cover.h"
#include "device/fault.h"
#include "disk.h"
#include "guard.h"
#include "mirror.h"
#include "nexus/rebuild.h"
#include "nexus/scrub.h"
#include "reactor/task.h"
#include "store_sim.h"

enum {
	DISTURBERS_MAX = 5,
	HEAL_STEPS = 20000,
	HEAL_STEP_NS = 50 * 1000,
	LINGER_STEP_NS = 1000 * 1000,
};

static bool is_over(void)
{
	return mirror.scene->is_ending || mirror.scene->is_dead || world_failed();
}

/* Now and then the dice say seconds. */
void mirror_linger(uint64_t ns)
{
	uint64_t until_ns = world_now() + ns;

	while (world_now() < until_ns && !is_over())
		task_sleep(MIN(until_ns - world_now(), (uint64_t)LINGER_STEP_NS));
}

/* One that may be hurt and is not yet; NULL: none. */
static struct replica *victim_take(void)
{
	struct replica *replica = &mirror.replica[world_rand(mirror.nreplicas)];

	if (replica->is_safe || replica->is_busy || !replica->medium->has_power)
		return NULL;
	replica->is_busy = true;
	return replica;
}

static void victim_give(struct replica *replica)
{
	if (!mirror.scene->is_dead)
		replica->is_busy = false;
}

/* ---- replicas ------------------------------------------------------------------------------- */

static void break_blocks(struct replica *replica)
{
	struct medium *m = replica->medium;
	bool is_read = world_chance(1, 2);
	uint64_t start = mirror.data_start + replica->offset;
	uint64_t span = world_chance(1, 2) ? 12 : mirror.nblocks;

	if (!is_read && world_chance(1, 4)) /* the write-intent records */
		start = replica->offset + (1u << 20) / m->opts.block_size;
	cover_fault_begin(is_read ? COVER_MEDIUM_READ : COVER_MEDIUM_WRITE);
	if (is_read)
		replica_bad_begin(replica);
	medium_bad_add(m, start + world_rand(span), 1 + world_rand(4),
		       is_read ? IO_BIT(IO_READ) | IO_BIT(IO_COMPARE) : IO_OPS_WRITING);
	m->bad[m->nbad - 1].heals = is_read && world_chance(3, 4);
	world_trace("bad blocks", is_read, m->bad[m->nbad - 1].lba);
	mirror_linger(world_latency(10 * USEC, 500 * USEC));
	m->nbad = 0;
	if (is_read)
		replica_bad_end(replica);
	cover_fault_end(is_read ? COVER_MEDIUM_READ : COVER_MEDIUM_WRITE);
}

static void break_flush(struct replica *replica)
{
	cover_fault_begin(COVER_FLUSH_ERROR);
	replica->medium->flush_failures = 1;
	mirror_linger(world_latency(10 * USEC, 500 * USEC));
	replica->medium->flush_failures = 0;
	cover_fault_end(COVER_FLUSH_ERROR);
}

static void break_stuck(struct replica *replica)
{
	struct medium *m = replica->medium;

	cover_fault_begin(COVER_STUCK);
	m->sticky = 1 + (unsigned)world_rand(6);
	mirror_linger(world_latency(100 * USEC, MAX(2 * MSEC, mirror.child_timeout_ns)));
	m->sticky = 0;
	(void)disk_unstick(m);
	cover_fault_end(COVER_STUCK);
}

static void break_slow(struct replica *replica)
{
	cover_fault_begin(COVER_SLOW);
	replica->medium->is_slow = true;
	mirror_linger(world_latency(0, 2 * MSEC));
	replica->medium->is_slow = false;
	cover_fault_end(COVER_SLOW);
}

static void act_break(void)
{
	static void (*const breaks[])(struct replica * replica) = { break_blocks, break_blocks,
								    break_flush,  break_stuck,
								    break_slow,   break_slow };
	struct replica *replica = victim_take();

	if (replica == NULL)
		return;
	breaks[world_rand(ARRAY_LEN(breaks))](replica);
	victim_give(replica);
}

static const struct {
	const char *params;
	enum cover_fault cover;
	bool is_bad;  /* reads may fail of it, so that a client may hear of it */
	bool is_full; /* the same for want of space */
} injections[] = {
	{ "op=write&method=status", COVER_INJECT_STATUS, false, false },
	{ "op=read&method=status-nvme-2-81", COVER_INJECT_STATUS, true, false },
	{ "op=all&stage=completion&method=status", COVER_INJECT_STATUS, true, false },
	{ "op=flush&method=status", COVER_INJECT_STATUS, false, false },
	{ "op=all&method=delay&delay_us=1-900", COVER_INJECT_DELAY, false, false },
	{ "op=all&stage=completion&method=delay&delay_us=1-900", COVER_INJECT_DELAY, false, false },
	{ "op=write&method=torn", COVER_INJECT_TORN, false, false },
	{ "domain=child&op=write&method=status", COVER_INJECT_STATUS, false, false },
	{ "domain=child&op=write&stage=completion&method=status", COVER_INJECT_STATUS, false,
	  false },
	{ "domain=child&op=read&stage=completion&method=status-nvme-2-81", COVER_INJECT_STATUS,
	  true, false },
	{ "op=write&method=status-lvol-nospace", COVER_NO_SPACE, false, true },
};

static void act_inject(void)
{
	unsigned at = (unsigned)world_rand(ARRAY_LEN(injections));
	struct replica *replica = victim_take();
	char uri[SCENE_URI_MAX];
	struct err err = {};

	if (replica == NULL)
		return;
	(void)snprintf(uri, sizeof(uri), "inject://%s?%s&probability=0.%u&seed=%u&retries=%u",
		       replica->top, injections[at].params, 1 + (unsigned)world_rand(9),
		       (unsigned)world_rand(1000000), 1 + (unsigned)world_rand(8));
	world_say("%s", uri);
	world_trace("inject", at, 0);
	cover_fault_begin(injections[at].cover);
	if (injections[at].is_bad)
		replica_bad_begin(replica);
	if (injections[at].is_full)
		replica_full_begin(replica);
	if (fault_add(uri, &err) < 0) {
		if (err.code != -EEXIST)
			world_fail("%s: %s", uri, err.msg);
	} else {
		mirror_linger(world_latency(10 * USEC, 400 * USEC));
		if (fault_remove(uri, &err) < 0)
			world_fail("cannot remove %s: %s", uri, err.msg);
	}
	if (injections[at].is_bad)
		replica_bad_end(replica);
	if (injections[at].is_full)
		replica_full_end(replica);
	cover_fault_end(injections[at].cover);
	victim_give(replica);
}

void mirror_pull(const struct replica *replica, bool is_bottom)
{
	struct device *dev = device_lookup(is_bottom ? replica->disk : replica->top);
	struct err err = {};

	if (dev == NULL || dev->is_removed)
		return;
	world_trace("pull", dev->stack_depth, 0);
	if (device_remove(dev, &err) < 0)
		world_fail("removal of %s: %s", replica->disk, err.msg);
	world_trace("pulled", 0, 0);
}

static void act_pull(void)
{
	struct replica *replica = victim_take();

	if (replica == NULL)
		return;
	cover_fault_begin(COVER_CHILD_GONE);
	mirror_stats.removals++;
	(void)disk_unstick(replica->medium);
	mirror_pull(replica, world_chance(1, 2));
	cover_fault_end(COVER_CHILD_GONE);
	victim_give(replica);
}

static void act_cut(void)
{
	struct replica *replica = victim_take();

	if (replica == NULL)
		return;
	cover_fault_begin(COVER_NODE_CUT);
	mirror_stats.cuts++;
	replica->lost_cache = true;
	disk_power_cut(replica->medium);
	mirror_pull(replica, true);
	mirror_linger(world_latency(0, MSEC));
	if (!mirror.scene->is_dead)
		medium_power_on(replica->medium);
	cover_fault_end(COVER_NODE_CUT);
	victim_give(replica);
}

/* Blocks that are not written yet find no room for a while; on one disk, or on all of a pool. */
static void act_fill(void)
{
	bool is_pool = world_chance(1, 3);
	struct replica *full[REPLICAS_MAX];
	unsigned n = 0;

	for (unsigned i = 0; i < mirror.nreplicas && is_pool; i++) {
		if (!mirror.replica[i].is_busy && mirror.replica[i].medium->has_power)
			full[n++] = &mirror.replica[i];
	}
	if (!is_pool && (full[0] = victim_take()) != NULL)
		n = 1;
	if (n == 0)
		return;
	cover_fault_begin(COVER_NO_SPACE);
	mirror_stats.shortages++;
	for (unsigned i = 0; i < n; i++) {
		full[i]->is_busy = true;
		full[i]->medium->capacity = medium_used(full[i]->medium) + 1 + world_rand(8);
		world_trace("full", (uint64_t)(full[i] - mirror.replica),
			    full[i]->medium->capacity);
		replica_full_begin(full[i]);
	}
	mirror_linger(world_latency(100 * USEC, MSEC));
	for (unsigned i = 0; i < n; i++) {
		full[i]->medium->capacity = 0;
		replica_full_end(full[i]);
		victim_give(full[i]);
	}
	world_trace("no longer full", n, 0);
	cover_fault_end(COVER_NO_SPACE);
}

/* All I/O of one child is held for a while. */
static void act_quiesce_child(void)
{
	const struct replica *replica = &mirror.replica[world_rand(mirror.nreplicas)];
	struct device *dev = device_lookup(replica->top);
	struct desc_opts opts = {};
	struct err err = {};
	struct desc *desc;

	if (dev == NULL || desc_open(dev, &opts, &desc, &err) < 0)
		return;
	device_quiesce(dev);
	guard_quiesced(dev);
	mirror_linger(world_latency(0, 200 * USEC));
	guard_resuming(dev);
	device_resume(dev);
	desc_close(desc);
}

/* ---- the store ------------------------------------------------------------------------------ */

static void act_store(void)
{
	static const enum cover_fault covers[] = { [SIMSTORE_SLOW] = COVER_STORE_SLOW,
						   [SIMSTORE_FAILS] = COVER_STORE_FAILS,
						   [SIMSTORE_HANGS] = COVER_STORE_HANGS };
	static bool is_busy;
	enum simstore_mode mode = 1 + (enum simstore_mode)world_rand(SIMSTORE_MODES_ - 1);

	if (world_chance(1, 6)) {
		mirror_stats.lost_in_life++;
		simstore_lose();
	}
	if (is_busy)
		return;
	is_busy = true;
	cover_fault_begin(covers[mode]);
	simstore_set(mode);
	mirror_linger(world_latency(0, world_chance(1, 4) ? 10 * MSEC : 500 * USEC));
	simstore_set(SIMSTORE_UP);
	cover_fault_end(covers[mode]);
	is_busy = false;
}

/* ---- clients of the nexus ------------------------------------------------------------------- */

enum op { OP_ADD, OP_REMOVE, OP_OFFLINE, OP_RETIRE, OP_FAULT, OP_ONLINE, OPS_ };

static int op_do(struct nexus *nx, enum op op, const char *uri, struct nexus_err *ne) MAY_SUSPEND
{
	switch (op) {
	case OP_ADD:
		return nexus_child_add(nx, uri, true, ne);
	case OP_REMOVE:
		return nexus_child_remove(nx, uri, ne);
	case OP_OFFLINE:
		return nexus_child_fault(nx, uri, NEXUS_REASON_OFFLINE, ne);
	case OP_RETIRE:
		return nexus_child_fault(nx, uri, NEXUS_REASON_IO_ERROR, ne);
	case OP_FAULT:
		return nexus_child_fault(nx, uri, NEXUS_REASON_OFFLINE_PERMANENT, ne);
	default:
		return nexus_child_online(nx, uri, ne);
	}
}

struct before {
	struct nexus_child_info info;
	bool is_listed;
	unsigned nchildren, nhealthy;
};

static void before_note(struct nexus *nx, const struct replica *replica, struct before *ret)
{
	struct nexus_info info;

	nexus_info(nx, &info);
	ret->is_listed = mirror_child(nx, replica, &ret->info);
	ret->nchildren = info.nchildren;
	ret->nhealthy = mirror_nhealthy(nx);
}

static void op_fail(enum op op, const struct replica *replica, int result,
		    const struct nexus_err *ne, const char *what)
{
	static const char *const names[] = {
		"add", "remove", "offline", "retire", "fault", "online"
	};

	world_fail("%s %s: %d (%s: %s) %s", names[op], replica->top, result,
		   nexus_error_name(ne->why), err_text(&ne->err), what);
}

/* Nobody else changes the list meanwhile, but children fall, and the nexus may end itself. */
static void op_judge(struct nexus *nx, enum op op, const struct replica *replica, int result,
		     const struct nexus_err *ne, const struct before *before)
{
	struct nexus_info info;
	struct nexus_child_info child;
	bool is_listed = mirror_child(nx, replica, &child);
	bool is_final = before->is_listed && before->info.state == CHILD_FAULTED &&
			before->info.reason == NEXUS_REASON_OFFLINE_PERMANENT;

	nexus_info(nx, &info);
	if (info.state != NEXUS_OPEN || info.is_frozen || mirror.scene->is_dead ||
	    nexus_device(nx)->is_removed)
		return;
	if ((result < 0) != (ne->why != NEXUS_OK))
		op_fail(op, replica, result, ne, "says two things");
	if (op == OP_ADD && before->is_listed && ne->why != NEXUS_E_CHILD_EXISTS)
		op_fail(op, replica, result, ne, "although it is a child already");
	if (op != OP_ADD && !before->is_listed && ne->why != NEXUS_E_CHILD_NOT_FOUND)
		op_fail(op, replica, result, ne, "although it is no child");
	if (op == OP_ADD && result == 0 && !is_listed)
		op_fail(op, replica, result, ne, "but it is no child");
	if (op == OP_REMOVE && before->is_listed && is_listed != (result < 0))
		op_fail(op, replica, result, ne, is_listed ? "but it is still there" : "but went");
	if (op == OP_ONLINE && is_final && result == 0)
		op_fail(op, replica, result, ne, "although it is faulted for good");
	if (op == OP_ONLINE && before->is_listed && before->info.state == CHILD_OPEN &&
	    child.state == CHILD_OPEN && child.fault_ns == before->info.fault_ns && result < 0)
		op_fail(op, replica, result, ne, "although it is online");
	if (op == OP_ADD || op == OP_ONLINE || !before->is_listed || result < 0)
		return;
	if (before->nchildren == 1)
		op_fail(op, replica, result, ne, "although it is the only child");
	if (before->info.is_synced && before->nhealthy == 1 && mirror_nhealthy(nx) == 0)
		op_fail(op, replica, result, ne, "although it is the last healthy child");
}

static void op_once(enum op op, struct replica *replica) MAY_SUSPEND
{
	struct nexus *nx = mirror_get();
	struct nexus_err ne = {};
	struct before before;
	bool is_alone;
	uint64_t nop;
	int result;

	if (nx == NULL)
		return;
	if (replica->medium->has_power && (op == OP_ADD || op == OP_ONLINE))
		(void)replica_attach(replica);
	cover_state_begin(COVER_CHILD_OP);
	mirror_stats.child_ops++;
	world_trace("child op", op, (uint64_t)(replica - mirror.replica));
	before_note(nx, replica, &before);
	is_alone = mirror.nops == 0;
	nop = ++mirror.nop;
	mirror.nops++;
	result = op_do(nx, op, replica->uri, &ne);
	world_trace("child op ends", op, (uint64_t)-result);
	world_say("op %u %s: %s", op, replica->top, result < 0 ? err_text(&ne.err) : "ok");
	cover_state_end(COVER_CHILD_OP);
	mirror.nops--;
	if (is_alone && nop == mirror.nop)
		op_judge(nx, op, replica, result, &ne, &before);
	mirror_put(nx);
}

static void act_child(void)
{
	static const enum op ops[] = { OP_ADD,   OP_ADD,    OP_REMOVE, OP_OFFLINE, OP_RETIRE,
				       OP_FAULT, OP_ONLINE, OP_ONLINE, OP_ONLINE,  OP_ONLINE };
	enum op op = ops[world_rand(ARRAY_LEN(ops))];
	struct replica *replica = &mirror.replica[world_rand(mirror.nreplicas)];

	if (replica->is_safe && op != OP_ADD && op != OP_ONLINE && world_chance(3, 4))
		return;
	op_once(op, replica);
}

/* ---- rebuilds and scrubs -------------------------------------------------------------------- */

static void rebuild_once(struct nexus *nx, const struct replica *child,
			 const struct replica *source) MAY_SUSPEND
{
	struct nexus_err ne = {};
	int result;

	switch (world_rand(5)) {
	case 0:
		result = nexus_rebuild_stop(nx, child->uri, &ne);
		break;
	case 1:
		result = nexus_rebuild_start(nx, child->uri, &ne);
		break;
	case 2:
		result = nexus_rebuild_leave_source(nx, child->uri, source->uri, &ne);
		break;
	default:
		result = nexus_rebuild_pause(nx, child->uri, &ne);
		mirror_linger(world_latency(0, 300 * USEC));
		if (result == 0) /* it may have ended meanwhile */
			result = nexus_rebuild_resume(nx, child->uri, &(struct nexus_err){});
		break;
	}
	world_trace("rebuild op", (uint64_t)(child - mirror.replica), (uint64_t)-result);
}

static void act_rebuild(void)
{
	struct nexus *nx = mirror_get();
	const struct replica *child = &mirror.replica[world_rand(mirror.nreplicas)];
	const struct replica *source = &mirror.replica[world_rand(mirror.nreplicas)];

	if (nx == NULL)
		return;
	mirror_stats.rebuild_ops++;
	rebuild_once(nx, child, source);
	mirror_put(nx);
}

static void scrub(struct nexus *nx, bool is_repairing) MAY_SUSPEND
{
	struct scrub_opts opts = { .is_repairing = is_repairing, .latency_ns = UINT64_MAX };
	struct nexus_err ne = {};

	/* a scrub's locks look like a rebuild's to that bug, which is not to be found by them */
	if (sim_plant == PLANT_NEXUS_NO_LOCK || nexus_scrub_start(nx, &opts, &ne) < 0)
		return;
	mirror_stats.scrubs++;
	if (world_chance(1, 3)) {
		mirror_linger(world_latency(0, 300 * USEC));
		nexus_scrub_stop(nx);
	}
	nexus_scrub_wait(nx);
}

static void act_scrub(void)
{
	struct nexus *nx = mirror_get();

	if (nx == NULL)
		return;
	scrub(nx, world_chance(1, 2));
	mirror_put(nx);
}

void mirror_scrub(struct nexus *nx)
{
	struct scrub_opts opts = { .latency_ns = UINT64_MAX };
	struct scrub_stats stats;

	if (mirror_nhealthy(nx) < 2 || nexus_scrub_start(nx, &opts, NULL) < 0)
		return;
	nexus_scrub_wait(nx);
	nexus_scrub_stats(nx, &stats);
	if (stats.state != SCRUB_COMPLETED || stats.blocks_differ > 0)
		world_fail("a scrub at rest ends with state %d, %" PRIu64 " blocks differ",
			   (int)stats.state, stats.blocks_differ);
}

/* ---- growing -------------------------------------------------------------------------------- */

static bool replica_grow(struct replica *replica, uint64_t by) MAY_SUSPEND
{
	struct device *dev = device_lookup(replica->disk);
	uint64_t nblocks = replica->medium->nblocks + by;
	struct err err = {};
	int result = 0;

	if (nblocks > replica->medium->nblocks_max)
		return false;
	if (dev == NULL) {
		medium_resize(replica->medium, nblocks);
		return true;
	}
	device_pin(dev);
	result = dev->is_removed ? -ENODEV : device_resize(dev, nblocks, &err);
	device_unpin(dev);
	return result == 0;
}

static void act_resize(void)
{
	uint64_t by = 1 + world_rand(1 + mirror.room / 3), size;
	struct nexus *nx = mirror.is_resizing ? NULL : mirror_get();
	struct nexus_err ne = {};
	struct nexus_info before, after;

	if (nx == NULL)
		return;
	mirror.is_resizing = true;
	cover_state_begin(COVER_RESIZING);
	cause_begin(mirror.scene, CAUSE_RESIZE);
	for (unsigned i = 0; i < mirror.nreplicas; i++) {
		if (world_chance(15, 16))
			(void)replica_grow(&mirror.replica[i], by);
	}
	task_sleep(100 * USEC); /* layers follow */
	nexus_info(nx, &before);
	size = before.size + by * mirror.scene->block_size;
	world_trace("resize", before.size, size);
	/* what is asked, not what came of it: with larger children it comes later */
	if (size <= mirror.scene->nblocks * mirror.scene->block_size) {
		int result = nexus_resize(nx, size, &ne);

		nexus_info(nx, &after);
		world_trace("resized", after.size, after.device_size);
		if (result == 0 && !mirror.scene->is_dead) {
			mirror.size = size;
			mirror.nblocks = after.device_size / mirror.scene->block_size;
		}
		if (result < 0 && after.device_size < before.device_size)
			world_fail("a resize that failed shrank the nexus: %s", err_text(&ne.err));
		mirror_stats.resizes += result == 0;
	}
	mirror.is_resizing = false;
	cause_end(mirror.scene, CAUSE_RESIZE);
	cover_state_end(COVER_RESIZING);
	mirror_put(nx);
}

/* ---- tasks ---------------------------------------------------------------------------------- */

static void act_any(void)
{
	chaos_act_any(mirror.scene);
}

static const struct {
	void (*act)(void);
	unsigned weight;
} actions[] = {
	{ act_any, 30 },   { act_break, 25 },         { act_inject, 20 }, { act_pull, 5 },
	{ act_cut, 8 },    { act_quiesce_child, 10 }, { act_store, 8 },   { act_child, 40 },
	{ act_resize, 4 }, { act_rebuild, 10 },       { act_scrub, 4 },   { act_fill, 8 },
	{ far_act, 20 },
};

static void disturber(void *arg)
{
	unsigned total = 0;

	(void)arg;
	for (unsigned i = 0; i < ARRAY_LEN(actions); i++)
		total += actions[i].weight;
	while (!is_over()) {
		unsigned roll = (unsigned)world_rand(total), i = 0;

		mirror_linger(world_latency(0, mirror.pace_us * USEC));
		if (is_over())
			break;
		while (roll >= actions[i].weight)
			roll -= actions[i++].weight;
		actions[i].act();
	}
	mirror.scene->nchaos--;
}

void mirror_chaos_start(void)
{
	unsigned count = (unsigned)world_rand(DISTURBERS_MAX + 1);
	bool all_may_fall = world_chance(1, 3);
	unsigned safe = (unsigned)world_rand(mirror.nreplicas);
	struct nexus_child_info info;
	struct nexus *nx = mirror_get();

	chaos_reset();
	mirror.pace_us = 100u << world_rand(4);
	for (unsigned i = 0; i < mirror.nreplicas; i++) {
		unsigned at = (safe + i) % mirror.nreplicas;

		mirror.replica[at].is_safe = false;
		if (!all_may_fall && nx != NULL && mirror_child(nx, &mirror.replica[at], &info) &&
		    info.is_synced)
			mirror.replica[at].is_safe = all_may_fall = true;
	}
	if (nx != NULL)
		mirror_put(nx);
	for (unsigned i = 0; i < count; i++) {
		mirror.scene->nchaos++;
		if (task_spawn("chaos", disturber, NULL) < 0)
			mirror.scene->nchaos--;
	}
}

/* ---- a cure --------------------------------------------------------------------------------- */

/* It was stopped; or it has just ended, or begun. */
static void rebuild_again(struct nexus *nx, const struct replica *replica) MAY_SUSPEND
{
	struct nexus_err ne = {};

	if (nexus_rebuild_start(nx, replica->uri, &ne) < 0)
		world_say("rebuild of %s: %s", replica->top, err_text(&ne.err));
}

static void heal_one(struct nexus *nx, struct replica *replica) MAY_SUSPEND
{
	struct nexus_child_info info;

	if (!mirror_child(nx, replica, &info))
		op_once(OP_ADD, replica);
	else if (info.state == CHILD_FAULTED && (info.reason == NEXUS_REASON_OFFLINE_PERMANENT ||
						 info.reason == NEXUS_REASON_CANT_OPEN))
		op_once(OP_REMOVE, replica);
	else if (info.state == CHILD_OPEN && nexus_rebuild_progress(nx, replica->uri) < 0)
		rebuild_again(nx, replica);
	else if (info.state != CHILD_OPEN && info.health != CHILD_HEALTH_UNKNOWN)
		op_once(OP_ONLINE, replica);
}

/* Blocks of the smallest child that is in sync: smaller ones are not taken. */
static uint64_t smallest_synced(struct nexus *nx)
{
	struct nexus_child_info info;
	uint64_t smallest = UINT64_MAX;

	for (unsigned i = 0; i < mirror.nreplicas; i++) {
		const struct replica *replica = &mirror.replica[i];

		if (mirror_child(nx, replica, &info) && info.is_synced)
			smallest = MIN(smallest, replica->medium->nblocks - replica->offset);
	}
	return smallest;
}

/* Nothing is broken any more, so all that are large enough have to come to be in sync. */
void mirror_heal(void)
{
	struct nexus *nx = mirror_get();

	for (unsigned step = 0; nx != NULL && !world_failed() && !mirror.has_ended; step++) {
		struct nexus_child_info info = {};
		uint64_t smallest = smallest_synced(nx);
		unsigned left = 0;

		for (unsigned i = 0; i < mirror.nreplicas; i++) {
			struct replica *replica = &mirror.replica[i];

			if (mirror_child(nx, replica, &info) && info.is_synced)
				continue;
			if (replica->medium->nblocks - replica->offset < smallest)
				continue; /* too small to be taken */
			left++;
			heal_one(nx, replica);
		}
		if (left == 0)
			break;
		if (step == HEAL_STEPS)
			world_fail("%u children do not come to be in sync", left);
		task_sleep(HEAL_STEP_NS + mirror_step_ns());
	}
	if (nx != NULL)
		mirror_put(nx);
}
