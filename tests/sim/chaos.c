/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chaos.c - those who disturb: control tasks that do to a device in use all that may be done to it.
 *
 * Each disturber is a task on virtual reactor 0 that picks an action, carries it out from beginning
 * to end (arm and disarm, quiesce and resume), and sleeps. Several run at once, so the actions meet
 * each other in every state. A disturber holds the device it works on open, as everybody must.
 *
 *   quiesce   hold all I/O of one device of the stack for a while; sometimes nested
 *   lock      hold a range; sometimes with I/O of its holder
 *   resize    the bottom device; the layers above follow
 *   open      another opening, with or without claim, with handles on other reactors, two at once;
 *             sometimes with an allocation that fails
 *   stats     counters never go back
 *   break     bad blocks, failing flushes, stuck requests, a slow disk
 *   inject    the engine's own faults, by URI
 *   remove    a device of the stack, in use
 *   cut       the power
 *
 * What an action does to requests is announced as a cause before it starts and withdrawn after it
 * ended, so a failure without a cause is a violation.
 */
#include "scene.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "alloc.h"
#include "cover.h"
#include "device/fault.h"
#include "disk.h"
#include "guard.h"
#include "pair.h"
#include "reactor/task.h"

enum { DISTURBERS = 4 };

/* One disturber's opening of the device that it works on. */
struct hold {
	struct device *dev;
	struct desc *desc;
};

static bool hold_open(struct scene *scene, struct hold *hold, unsigned index, unsigned flags)
{
	struct desc_opts opts = { .flags = flags };
	struct err err = {};

	hold->dev = device_lookup(scene->name[index]);
	return hold->dev != NULL && desc_open(hold->dev, &opts, &hold->desc, &err) == 0;
}

static unsigned any_device(const struct scene *scene)
{
	return (unsigned)world_rand(scene->ndevices);
}

static bool is_over(const struct scene *scene)
{
	return scene->is_ending || world_failed();
}

/* ---- quiesce, lock, resize ------------------------------------------------------------------ */

static void act_quiesce(struct scene *scene)
{
	struct hold hold;

	if (!hold_open(scene, &hold, any_device(scene), 0))
		return;
	world_trace("quiesce", hold.dev->stack_depth, 0);
	device_quiesce(hold.dev);
	guard_quiesced(hold.dev);
	cover_state_begin(COVER_QUIESCED);
	world_trace("quiesced", hold.dev->stack_depth, 0);
	task_sleep(world_latency(0, 200 * USEC));
	if (world_chance(1, 4)) {
		device_quiesce(hold.dev);
		task_sleep(world_rand(50 * USEC));
		device_resume(hold.dev);
		task_sleep(world_rand(50 * USEC));
	}
	guard_resuming(hold.dev);
	cover_state_end(COVER_QUIESCED);
	device_resume(hold.dev);
	world_trace("resumed", 0, 0);
	desc_close(hold.desc);
}

/* The holder of a lock reads and writes inside it, past the gate. */
static void lock_holder_io(struct scene *scene, struct device *dev, uint64_t lba)
{
	struct io io = { .op = IO_READ, .flags = IO_LOCK_HOLDER, .lba = lba, .nlb = 1 };
	uint64_t page[512], token;
	struct desc *desc;
	struct handle *h;
	struct err err = {};
	char why[ORACLE_TEXT_MAX];

	if (desc_open(dev, &(struct desc_opts){ 0 }, &desc, &err) < 0)
		return;
	if (handle_open(desc, reactor_primary(), &h, &err) == 0) {
		uint64_t since_ns = world_now();
		unsigned i = scene_index(scene, dev);

		io_set_buf(&io, page, scene->block_size);
		token = oracle_read_begin(scene->oracle);
		(void)io_wait(h, &io);
		if (dev == scene->top)
			load_count(scene, &io);
		if (io.status != IO_OK || cause_since(scene, CAUSE_LIE, since_ns))
			oracle_read_drop(scene->oracle, token);
		else if (!oracle_read_end(scene->oracle, token, lba + scene->offset[i], 1, page,
					  why))
			world_fail("the lock holder's read: %s", why);
	}
	desc_close(desc);
}

static void act_lock(struct scene *scene)
{
	struct range_lock lock;
	struct hold hold;
	struct err err = {};
	uint64_t lba, nlb;

	if (!hold_open(scene, &hold, any_device(scene), 0))
		return;
	lba = world_rand(world_chance(1, 2) ? 12 : hold.dev->nblocks);
	nlb = 1 + world_rand(world_chance(1, 8) ? hold.dev->nblocks : 8);
	world_trace("lock", lba, nlb);
	if (range_lock(hold.dev, &lock, lba, nlb, &err) == 0) {
		guard_locked(hold.dev, lba, nlb);
		cover_state_begin(COVER_LOCKED);
		world_trace("locked", lba, nlb);
		task_sleep(world_latency(0, 100 * USEC));
		if (world_chance(1, 3) && !scene->is_stopping)
			lock_holder_io(scene, hold.dev, lba);
		guard_unlocking(hold.dev, lba, nlb);
		cover_state_end(COVER_LOCKED);
		range_unlock(hold.dev, &lock);
		world_trace("unlocked", lba, nlb);
	} else if (range_fits(lba, nlb, hold.dev->nblocks)) {
		world_fail("range_lock(%" PRIu64 "+%" PRIu64 ") failed: %s", lba, nlb, err.msg);
	}
	desc_close(hold.desc);
}

static bool channels_agree(const struct device *dev)
{
	for (unsigned i = 0; i < world_nreactors(); i++) {
		if (dev->channel[i] != NULL && dev->channel[i]->nblocks != dev->nblocks)
			return false;
	}
	return true;
}

/* Do all devices of the stack agree on the size? Those that lose their base never will. */
static bool sizes_agree(const struct scene *scene, bool *ret_is_torn)
{
	*ret_is_torn = false;
	for (unsigned i = 1; i < scene->ndevices; i++) {
		struct device *below = device_lookup(scene->name[i - 1]);
		struct device *dev = device_lookup(scene->name[i]);

		if (below == NULL || dev == NULL || below->is_removed || dev->is_removed)
			*ret_is_torn = true;
		if (*ret_is_torn)
			return false;
		if (dev->nblocks + scene->offset[i] - scene->offset[i - 1] != below->nblocks ||
		    !channels_agree(dev))
			return false;
	}
	return true;
}

/* A memory device grows by its URI; it does not shrink. */
static int grow_memory(struct scene *scene, uint64_t nblocks, struct err *err)
{
	char uri[SCENE_URI_MAX];
	struct device *dev;

	(void)snprintf(uri, sizeof(uri), "malloc:///%s?num_blocks=%" PRIu64 "&blk_size=%u&resize%s",
		       scene->name[0], nblocks, scene->block_size,
		       scene->has_capacity ? "&capacity_mb=1" : "");
	return device_create(uri, &dev, err);
}

static int resize_bottom(struct scene *scene, struct device *dev, uint64_t nblocks)
{
	struct err err = {};
	int result;

	if (scene->medium != NULL)
		result = device_resize(dev, nblocks, &err);
	else
		result = grow_memory(scene, MAX(nblocks, dev->nblocks), &err);
	if (result < 0 && !dev->is_removed)
		world_fail("resize to %" PRIu64 " blocks: %s", nblocks, err.msg);
	return result;
}

static void act_resize(struct scene *scene)
{
	uint64_t nblocks = scene->nblocks / 2 + world_rand(scene->nblocks * 3 / 2);
	uint64_t since_ns = world_now(), step_ns = scene->remote > 0 ? MSEC : 10 * USEC;
	struct hold hold;
	bool is_torn;

	if (scene->is_active[CAUSE_RESIZE] || !hold_open(scene, &hold, 0, 0))
		return;
	cause_begin(scene, CAUSE_RESIZE);
	cover_state_begin(COVER_RESIZING);
	world_trace("resize", hold.dev->nblocks, nblocks);
	(void)resize_bottom(scene, hold.dev, nblocks);
	for (unsigned i = 0; !sizes_agree(scene, &is_torn) && !is_torn && !world_failed(); i++) {
		if (i == 100000)
			world_fail("the layers do not follow a resize to %" PRIu64, nblocks);
		task_sleep(step_ns);
		if (scene->remote > 0 && pair_may_be_lost(since_ns)) {
			is_torn = true;
			break;
		}
	}
	world_trace("resized", nblocks, 0);
	cover_state_end(COVER_RESIZING);
	if (!is_torn) /* else the sizes differ until the epoch ends */
		cause_end(scene, CAUSE_RESIZE);
	desc_close(hold.desc);
}

/* ---- openings ------------------------------------------------------------------------------- */

static struct task *failing_task; /* whose allocations fail */

static bool fails_here(void)
{
	return task_self() == failing_task;
}

struct second {
	struct desc *desc;
	struct reactor *r;
	struct task_event event;
};

static void second_open(void *arg)
{
	struct second *second = arg;
	struct handle *h;
	int result = handle_open(second->desc, second->r, &h, NULL);

	world_trace("second handle", second->r->id, (uint64_t)-result);
	task_event_fire(&second->event);
}

/* Two tasks that need a handle of the same opening at the same time. */
static void open_twice(struct desc *desc, struct reactor *r)
{
	struct second second = { .desc = desc, .r = r };
	struct handle *h;
	int result;

	if (task_spawn("second", second_open, &second) < 0)
		return;
	result = handle_open(desc, r, &h, NULL);
	world_trace("first handle", r->id, (uint64_t)-result);
	task_event_wait(&second.event);
}

static bool somebody_claims(const struct device *dev)
{
	const struct desc *desc;

	list_for_each (desc, &dev->descs, link) {
		if (desc->flags & DESC_CLAIM)
			return true;
	}
	return false;
}

static void open_and_judge(struct scene *scene, struct device *dev, unsigned flags,
			   bool may_lack_memory)
{
	struct desc_opts opts = { .flags = flags, .claim = "chaos" };
	bool was_claimed = somebody_claims(dev), was_removed = dev->is_removed;
	struct reactor *r = world_reactor((unsigned)world_rand(world_nreactors()));
	struct err err = {};
	struct desc *desc;
	struct handle *h;
	int result = desc_open(dev, &opts, &desc, &err);

	if (result == 0 && was_claimed && flags & DESC_CLAIM)
		world_fail("%s was claimed twice", dev->name);
	if (result < 0 && !was_removed && !may_lack_memory && !(was_claimed && flags))
		world_fail("cannot open %s: %s", dev->name, err.msg);
	if (result < 0)
		return;
	result = handle_open(desc, r, &h, &err);
	if (scene->remote > 0 && pair_had_trouble(scene, world_now())) /* a queue cannot connect */
		may_lack_memory = true;
	if (result < 0 && !may_lack_memory && !dev->is_removed && !scene->is_stopping)
		world_fail("cannot get a handle of %s: %s", dev->name, err.msg);
	task_sleep(world_rand(100 * USEC));
	if (world_chance(1, 2))
		open_twice(desc, world_reactor((unsigned)world_rand(world_nreactors())));
	desc_close(desc);
}

static void act_open(struct scene *scene)
{
	unsigned index = any_device(scene);
	struct device *dev = device_lookup(scene->name[index]);
	bool has_fault = world_chance(1, 2) && failing_task == NULL;
	unsigned flags = 0;
	struct hold hold;

	if (dev == NULL || dev->is_removed || !hold_open(scene, &hold, index, 0))
		return;
	if (world_chance(1, 3))
		flags = world_chance(1, 2) ? DESC_WRITE : DESC_WRITE | DESC_CLAIM;
	world_trace("open", index, flags);
	cover_state_begin(COVER_OPENING);
	if (has_fault) {
		failing_task = task_self();
		cover_fault_begin(COVER_NO_MEMORY);
		alloc_fail_at(1 + (unsigned)world_rand(8), fails_here);
	}
	open_and_judge(scene, dev, flags, has_fault);
	if (has_fault) {
		alloc_fail_at(0, fails_here);
		cover_fault_end(COVER_NO_MEMORY);
		failing_task = NULL;
	}
	cover_state_end(COVER_OPENING);
	desc_close(hold.desc);
}

static void act_stats(struct scene *scene)
{
	struct io_stats *before = sim_zalloc(sizeof(*before)), *after = sim_zalloc(sizeof(*after));
	struct hold hold;

	if (hold_open(scene, &hold, any_device(scene), 0)) {
		device_stats(hold.dev, before);
		task_sleep(world_rand(100 * USEC));
		device_stats(hold.dev, after);
		for (unsigned op = 0; op < IO_OP_COUNT_; op++) {
			if (after->op[op].ops < before->op[op].ops ||
			    after->op[op].bytes < before->op[op].bytes ||
			    after->op[op].errors < before->op[op].errors)
				world_fail("the counters of %s for %s went back", hold.dev->name,
					   io_op_name(op));
		}
		desc_close(hold.desc);
	}
	free(before);
	free(after);
}

/* ---- breaking the disk ---------------------------------------------------------------------- */

static void break_blocks(struct scene *scene, struct medium *m)
{
	bool is_read = world_chance(1, 2);
	uint32_t ops = is_read ? IO_BIT(IO_READ) | IO_BIT(IO_COMPARE) : IO_OPS_WRITING;
	enum cover_fault fault = is_read ? COVER_MEDIUM_READ : COVER_MEDIUM_WRITE;

	cause_begin(scene, CAUSE_MEDIUM);
	cover_fault_begin(fault);
	world_trace("bad blocks", ops, 0);
	medium_bad_add(m, world_rand(m->nblocks), 1 + world_rand(8), ops);
	medium_bad_add(m, world_rand(12), 1, ops);
	task_sleep(world_latency(0, 500 * USEC));
	m->nbad = 0;
	cover_fault_end(fault);
	cause_end(scene, CAUSE_MEDIUM);
}

static void break_flush(struct scene *scene, struct medium *m)
{
	cause_begin(scene, CAUSE_MEDIUM);
	cover_fault_begin(COVER_FLUSH_ERROR);
	m->flush_failures = 1 + (unsigned)world_rand(3);
	task_sleep(world_latency(0, 500 * USEC));
	m->flush_failures = 0;
	cover_fault_end(COVER_FLUSH_ERROR);
	cause_end(scene, CAUSE_MEDIUM);
}

static void break_stuck(struct scene *scene, struct medium *m)
{
	cause_begin(scene, CAUSE_ABORT);
	cover_fault_begin(COVER_STUCK);
	m->sticky = 1 + (unsigned)world_rand(6);
	task_sleep(world_latency(100 * USEC, 2 * MSEC));
	m->sticky = 0;
	(void)disk_unstick(m);
	cover_fault_end(COVER_STUCK);
	cause_end(scene, CAUSE_ABORT);
}

static void act_break(struct scene *scene)
{
	struct medium *m = scene->medium;

	if (m == NULL || m->is_broken)
		return;
	m->is_broken = true;
	switch (world_rand(4)) {
	case 0:
		break_blocks(scene, m);
		break;
	case 1:
		break_flush(scene, m);
		break;
	case 2:
		break_stuck(scene, m);
		break;
	default:
		cover_fault_begin(COVER_SLOW);
		m->is_slow = true;
		task_sleep(world_latency(0, MSEC));
		m->is_slow = false;
		cover_fault_end(COVER_SLOW);
		break;
	}
	m->is_broken = false;
}

/* ---- the engine's own faults ---------------------------------------------------------------- */

static const struct {
	const char *params;
	enum cover_fault cover;
	enum cause cause; /* CAUSE_COUNT_: none, nothing may fail */
} injections[] = {
	{ "op=rw&method=status", COVER_INJECT_STATUS, CAUSE_INJECT },
	{ "op=all&method=status-nvme-2-81", COVER_INJECT_STATUS, CAUSE_INJECT },
	{ "op=all&stage=completion&method=status", COVER_INJECT_STATUS, CAUSE_INJECT },
	{ "op=flush&method=status", COVER_INJECT_STATUS, CAUSE_INJECT },
	{ "op=all&method=delay&delay_us=1-300", COVER_INJECT_DELAY, CAUSE_COUNT_ },
	{ "op=all&stage=completion&method=delay&delay_us=1-300", COVER_INJECT_DELAY, CAUSE_COUNT_ },
	{ "op=write&method=delay&delay_us=500", COVER_INJECT_DELAY, CAUSE_COUNT_ },
	{ "op=write&method=torn", COVER_INJECT_TORN, CAUSE_INJECT },
	{ "op=all&method=torn", COVER_INJECT_TORN, CAUSE_INJECT },
	{ "op=write&method=torn&torn_ok=true", COVER_INJECT_LIE, CAUSE_LIE },
	{ "op=rw&method=data", COVER_INJECT_LIE, CAUSE_LIE },
	{ "op=all&method=corrupt&bits=3", COVER_INJECT_LIE, CAUSE_LIE },
	{ "op=all&method=drop", COVER_INJECT_LIE, CAUSE_LIE },
};

static void act_inject(struct scene *scene)
{
	unsigned at = (unsigned)world_rand(ARRAY_LEN(injections));
	enum cause cause = injections[at].cause;
	char uri[SCENE_URI_MAX];
	struct err err = {};
	int n = snprintf(uri, sizeof(uri), "inject://%s?%s&probability=0.%u&seed=%u",
			 scene->name[any_device(scene)], injections[at].params,
			 1 + (unsigned)world_rand(9), (unsigned)world_rand(1000000));

	if (world_chance(1, 3))
		n += snprintf(uri + n, sizeof(uri) - (size_t)n, "&offset=%u&num_blk=%u",
			      (unsigned)world_rand(12), 1 + (unsigned)world_rand(12));
	if (world_chance(1, 3))
		(void)snprintf(uri + n, sizeof(uri) - (size_t)n, "&retries=%u",
			       1 + (unsigned)world_rand(8));
	world_say("%s", uri);
	world_trace("inject", at, 0);
	if (cause != CAUSE_COUNT_)
		cause_begin(scene, cause);
	cover_fault_begin(injections[at].cover);
	if (fault_add(uri, &err) < 0) {
		if (err.code != -EEXIST)
			world_fail("%s: %s", uri, err.msg);
	} else {
		task_sleep(world_latency(0, 400 * USEC));
		if (fault_remove(uri, &err) < 0)
			world_fail("cannot remove %s: %s", uri, err.msg);
	}
	world_trace("injected", at, 0);
	cover_fault_end(injections[at].cover);
	if (cause != CAUSE_COUNT_)
		cause_end(scene, cause);
}

/* ---- the end of the epoch, by force --------------------------------------------------------- */

static void act_remove(struct scene *scene)
{
	struct device *dev = device_lookup(scene->name[any_device(scene)]);
	struct err err = {};

	if (dev == NULL || dev->is_removed || scene->is_removed || world_chance(3, 4))
		return;
	scene->is_removed = true;
	world_trace("remove", dev->stack_depth, 0);
	cause_begin(scene, CAUSE_GONE);
	cover_fault_begin(COVER_HOT_REMOVAL);
	cover_state_begin(COVER_REMOVING);
	if (scene->medium != NULL) /* a disk that is pulled answers what was stuck */
		(void)disk_unstick(scene->medium);
	if (device_remove(dev, &err) < 0)
		world_fail("removal: %s", err.msg);
	world_trace("removed", 0, 0);
	scene->is_stopping = true;
	cover_state_end(COVER_REMOVING);
	cover_fault_end(COVER_HOT_REMOVAL);
}

static void act_power_cut(struct scene *scene)
{
	if (scene->medium == NULL || scene->has_power_cut || pair_is_down() || world_chance(3, 4))
		return;
	scene->has_power_cut = true;
	cause_begin(scene, CAUSE_GONE);
	cover_fault_begin(COVER_POWER_CUT);
	disk_power_cut(scene->medium);
	task_sleep(world_latency(0, 300 * USEC));
	scene->is_stopping = true;
}

/* ---- tasks ---------------------------------------------------------------------------------- */

static const struct {
	void (*act)(struct scene *scene);
	unsigned weight;
} actions[] = {
	{ act_quiesce, 20 }, { act_lock, 20 },  { act_resize, 8 },
	{ act_open, 15 },    { act_stats, 4 },  { act_break, 20 },
	{ act_inject, 25 },  { act_remove, 5 }, { act_power_cut, 5 },
};

void chaos_act_any(struct scene *scene)
{
	static void (*const any[])(struct scene * scene) = { act_quiesce, act_quiesce, act_lock,
							     act_lock,    act_open,    act_stats,
							     act_inject };

	any[world_rand(ARRAY_LEN(any))](scene);
}

void chaos_reset(void)
{
	failing_task = NULL;
}

static void disturber(void *arg)
{
	struct scene *scene = arg;
	unsigned total = 0;

	for (unsigned i = 0; i < ARRAY_LEN(actions); i++)
		total += actions[i].weight;
	while (!is_over(scene)) {
		unsigned roll = (unsigned)world_rand(total), i = 0;

		task_sleep(world_latency(0, 300 * USEC));
		if (is_over(scene))
			break;
		while (roll >= actions[i].weight)
			roll -= actions[i++].weight;
		actions[i].act(scene);
	}
	scene->nchaos--;
}

void chaos_start(struct scene *scene)
{
	unsigned count = (unsigned)world_rand(DISTURBERS + 1);

	failing_task = NULL;
	for (unsigned i = 0; i < count; i++) {
		scene->nchaos++;
		if (task_spawn("chaos", disturber, scene) < 0)
			scene->nchaos--;
	}
}
