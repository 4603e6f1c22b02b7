/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scene.c - a seed becomes a stack, a few epochs on it, and a verdict.
 *
 *   configure: what stack, what disk, how many clients
 *   epoch:  build the stack -> open -> read all -> clients and disturbers ... -> all rest
 *           -> read all, compare counters -> close -> take the stack down
 *   between epochs: the power comes back and the disk holds what it promised, or a process of
 *           another life opens the same disk
 *   at the end: no device, no task, no request, no memory is left
 *
 * Judged here: the counters of the top device against the model's, in-flight counters and held
 * lists of every channel, what is left behind. Everything else is judged where it happens.
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
#include "layer.h"
#include "mirror.h"
#include "pair.h"
#include "reactor/task.h"
#include "schemes.h"
#include "serve.h"

enum {
	WATCHDOG_NS = 1000 * 1000 * 1000,
};

struct scene_stats scene_stats;
bool scene_is_paired, scene_is_mirror;

unsigned scene_index(const struct scene *scene, const struct device *dev)
{
	for (unsigned i = 0; i < scene->ndevices; i++) {
		if (strcmp(scene->name[i], dev->name) == 0)
			return i;
	}
	assert(!"a device of another stack");
}

size_t engine_memory(void)
{
	task_pool_drain();
	return alloc_live_engine();
}

/* ---- causes --------------------------------------------------------------------------------- */

void cause_begin(struct scene *scene, enum cause cause)
{
	scene->is_active[cause]++;
}

void cause_end(struct scene *scene, enum cause cause)
{
	scene->is_active[cause]--;
	scene->last_ns[cause] = world_now();
	if (cause == CAUSE_LIE) /* what is in flight may have been spoilt already */
		oracle_spoil_in_flight(scene->oracle);
}

bool cause_since(const struct scene *scene, enum cause cause, uint64_t since_ns)
{
	return scene->is_active[cause] > 0 || scene->last_ns[cause] >= since_ns;
}

/* ---- configuration -------------------------------------------------------------------------- */

static uint32_t any_ops(bool has_write_cache, bool is_thin)
{
	static const struct {
		uint8_t op;
		unsigned percent;
	} optional[] = {
		{ IO_FLUSH, 50 },   { IO_UNMAP, 60 },         { IO_WRITE_ZEROES, 60 },
		{ IO_COMPARE, 40 }, { IO_COMPARE_WRITE, 40 }, { IO_RESET, 50 },
	};
	uint32_t ops = IO_BIT(IO_READ) | IO_BIT(IO_WRITE);

	for (unsigned i = 0; i < ARRAY_LEN(optional); i++) {
		if (world_chance(optional[i].percent, 100))
			ops |= IO_BIT(optional[i].op);
	}
	if (has_write_cache)
		ops |= IO_BIT(IO_FLUSH);
	if (is_thin)
		ops |= IO_BIT(IO_SEEK_DATA) | IO_BIT(IO_SEEK_HOLE) | IO_BIT(IO_UNMAP);
	return ops;
}

static void scene_medium_resized(struct medium *m)
{
	struct scene *scene = m->owner;

	oracle_clear_from(scene->oracle, m->nblocks);
}

static void scene_make_medium(struct scene *scene)
{
	struct medium_opts opts = {
		.name = "disk0",
		.nblocks = 24 + world_rand(100),
		.block_size = world_chance(1, 2) ? 512 : 4096,
		.buf_align = 1,
		.max_io_nlb = world_chance(1, 3) ? 1 + (uint32_t)world_rand(REQUEST_BLOCKS_MAX) : 0,
		.has_write_cache = world_chance(3, 4),
		.is_thin = world_chance(1, 3),
		.parallel = 1 + (unsigned)world_rand(16),
		.latency_min_ns = 500 + world_rand(20 * USEC),
		.inline_percent = world_chance(1, 2) ? 0 : (unsigned)world_rand(60),
	};

	opts.latency_mean_ns = opts.latency_min_ns + world_rand(100 * USEC);
	opts.unmap_reads_zero = opts.is_thin || world_chance(1, 2);
	opts.ops = any_ops(opts.has_write_cache, opts.is_thin);
	scene->medium = medium_new(&opts);
	scene->medium->owner = scene;
	scene->medium->resized = scene_medium_resized;
	scene->nblocks = opts.nblocks;
	scene->block_size = opts.block_size;
	scene->is_persistent = true;
	scene->oracle = oracle_new(scene->medium->nblocks_max, opts.block_size, world_seed());
	(void)snprintf(scene->name[0], SCENE_NAME_MAX, "disk0");
	(void)snprintf(scene->uri[0], SCENE_URI_MAX, "simdisk:///disk0");
	scene->ndevices = 1;
}

/* The engine's own memory device: thin, at times short of room, gone when destroyed. */
static void scene_make_memory(struct scene *scene)
{
	scene->block_size = world_chance(1, 2) ? 512 : 4096;
	scene->nblocks = 24 + world_rand(100);
	scene->has_capacity = world_chance(1, 2);
	if (scene->has_capacity) { /* 1 MiB is the least there is */
		scene->block_size = 4096;
		scene->nblocks = 256 + 32 + world_rand(64);
	}
	scene->oracle = oracle_new(scene->nblocks * 2, scene->block_size, world_seed());
	(void)snprintf(scene->name[0], SCENE_NAME_MAX, "memory0");
	(void)snprintf(scene->uri[0], SCENE_URI_MAX,
		       "malloc:///memory0?num_blocks=%" PRIu64 "&blk_size=%u%s", scene->nblocks,
		       scene->block_size, scene->has_capacity ? "&capacity_mb=1" : "");
	scene->ndevices = 1;
}

static void scene_add_passthru(struct scene *scene)
{
	unsigned i = scene->ndevices++;
	char below[SCENE_NAME_MAX];

	memcpy(below, scene->name[i - 1], sizeof(below));
	(void)snprintf(scene->name[i], SCENE_NAME_MAX, "pass%u", i);
	(void)snprintf(scene->uri[i], SCENE_URI_MAX, "passthru:///pass%u?base=%s", i, below);
	scene->offset[i] = scene->offset[i - 1];
}

static void scene_add_layer(struct scene *scene)
{
	unsigned i = scene->ndevices++;
	uint64_t offset = world_chance(1, 3) ? 0 : world_rand(5);
	char below[SCENE_NAME_MAX];

	memcpy(below, scene->name[i - 1], sizeof(below));
	(void)snprintf(scene->name[i], SCENE_NAME_MAX, "layer%u", i);
	(void)snprintf(scene->uri[i], SCENE_URI_MAX, "simlayer:///layer%u?below=%s&offset=%" PRIu64,
		       i, below, offset);
	scene->offset[i] = scene->offset[i - 1] + offset;
}

static void scene_add_any(struct scene *scene)
{
	if (world_chance(2, 3))
		scene_add_layer(scene);
	else
		scene_add_passthru(scene);
}

static void scene_configure_pair(struct scene *scene)
{
	if (world_chance(1, 3))
		scene_add_any(scene);
	pair_configure(scene);
	if (world_chance(1, 3))
		scene_add_any(scene);
}

static void scene_configure(struct scene *scene)
{
	unsigned nlayers = 0;

	if (world_chance(3, 4))
		scene_make_medium(scene);
	else
		scene_make_memory(scene);
	if (scene_is_paired) {
		scene_configure_pair(scene);
	} else {
		scene->is_served = world_chance(1, 5);
		nlayers = (unsigned)world_rand(SCENE_DEVICES_MAX - 1);
	}
	for (unsigned i = 0; i < nlayers; i++)
		scene_add_any(scene);
	for (unsigned i = 0; i < scene->ndevices; i++)
		world_say("device %s", scene->uri[i]);
}

/* ---- opening and closing -------------------------------------------------------------------- */

static void scene_event(struct desc *desc, const struct device_event *event)
{
	struct scene *scene = desc->owner;

	world_trace("event", event->type, event->dev->nblocks);
	if (event->type == DEVICE_REMOVED)
		scene->is_stopping = scene->must_close = true;
	if (event->type == DEVICE_FAILED) /* an initiator gave up for good */
		scene->is_stopping = true;
}

static struct task *builder;

static bool builder_runs(void)
{
	return task_self() == builder;
}

/* Make a device with its n-th allocation failing: it is there, or nothing of it is. */
static void scene_try_build(const struct scene *scene, unsigned i)
{
	size_t live;
	struct err err = {};
	struct device *dev;
	int result;

	live = engine_memory();
	builder = task_self();
	cover_fault_begin(COVER_NO_MEMORY);
	alloc_fail_at(1 + (unsigned)world_rand(20), builder_runs);
	result = device_create(scene->uri[i], &dev, &err);
	alloc_fail_at(0, builder_runs);
	cover_fault_end(COVER_NO_MEMORY);
	world_trace("try build", i, (uint64_t)-result);
	if (result < 0 && result != -ENOMEM)
		world_fail("%s without memory: %s", scene->uri[i], err.msg);
	if (result == 0)
		result = device_destroy(scene->uri[i], &err);
	if (device_lookup(scene->name[i]) != NULL)
		world_fail("%s is there although it could not be made", scene->name[i]);
	if (i == scene->remote && i > 0)
		pair_forgotten();
	if (engine_memory() > live)
		world_fail("%zu allocations are left of %s", engine_memory() - live, scene->uri[i]);
}

static bool scene_build(struct scene *scene)
{
	struct err err = {};

	for (unsigned i = 0; i < scene->ndevices; i++) {
		struct device *dev;

		if (scene->remote > 0 && i == scene->remote && !pair_start(scene))
			return false;
		if (world_chance(1, 5))
			scene_try_build(scene, i);
		if (world_failed())
			return false;
		if (device_create(scene->uri[i], &dev, &err) < 0) {
			world_fail("cannot make %s: %s", scene->uri[i], err.msg);
			return false;
		}
		scene->top = dev;
		if (scene->remote > 0 && i == scene->remote && !pair_add_paths(scene))
			return false;
	}
	return true;
}

/* The engine's own drivers are watched where they have channels now. */
void scene_watch(void)
{
	for (struct device *dev = device_next(NULL); dev != NULL; dev = device_next(dev)) {
		if (dev->driver != &driver_simdisk && dev->driver != &driver_simlayer)
			guard_watch(dev);
	}
}

bool scene_open(struct scene *scene)
{
	struct desc_opts opts = { .flags = DESC_WRITE | (world_chance(1, 2) ? DESC_CLAIM : 0),
				  .claim = "scene",
				  .event = scene_event,
				  .owner = scene };
	struct err err = {};
	unsigned depth = 1 + (unsigned)world_rand(CLIENT_DEPTH_MAX);

	if (desc_open(scene->top, &opts, &scene->desc, &err) < 0) {
		world_fail("cannot open %s: %s", scene->top->name, err.msg);
		return false;
	}
	scene->nclients = 1 + (unsigned)world_rand(world_nreactors() * 2);
	for (unsigned i = 0; i < scene->nclients; i++) {
		struct client *client = &scene->client[i];

		*client = (struct client){ .scene = scene, .depth = depth };
		client->reactor = world_reactor((unsigned)world_rand(world_nreactors()));
		client->left = 20 + (unsigned)world_rand(100);
		if (handle_open(scene->desc, client->reactor, &client->handle, &err) < 0) {
			world_fail("cannot get a handle: %s", err.msg);
			return false;
		}
	}
	return true;
}

void scene_verify(struct scene *scene)
{
	struct handle *h;
	struct err err = {};

	if (handle_open(scene->desc, reactor_primary(), &h, &err) < 0)
		world_fail("cannot get a handle to verify: %s", err.msg);
	else
		load_verify(scene, h);
}

/* All rest: nothing is in flight anywhere, nobody waits at a gate. */
void scene_check_idle(void)
{
	for (struct device *dev = device_next(NULL); dev != NULL; dev = device_next(dev)) {
		for (unsigned i = 0; i < world_nreactors(); i++) {
			const struct channel *ch = dev->channel[i];

			if (ch == NULL)
				continue;
			if (ch->inflight[0] != 0 || ch->inflight[1] != 0)
				world_fail("%s on reactor %u counts %u + %u requests in flight, "
					   "but all have ended",
					   dev->name, i, ch->inflight[0], ch->inflight[1]);
			if (ch->held.head != NULL)
				world_fail("%s on reactor %u still holds a request", dev->name, i);
			if (ch->nlocked != 0)
				world_fail("%s on reactor %u still has %u locked ranges", dev->name,
					   i, ch->nlocked);
		}
	}
}

void scene_check_stats(struct scene *scene)
{
	struct io_stats *stats = sim_zalloc(sizeof(*stats));
	const struct scene_counts *counts = &scene->counts;

	device_stats(scene->top, stats);
	for (unsigned op = 0; op < IO_OP_COUNT_; op++) {
		const struct op_stats *s = &stats->op[op];

		if (s->ops != counts->ops[op] || s->bytes != counts->bytes[op] ||
		    s->errors != counts->errors[op])
			world_fail("%s counts %" PRIu64 " %s of %" PRIu64 " bytes and %" PRIu64
				   " errors; it were %" PRIu64 ", %" PRIu64 " and %" PRIu64,
				   scene->top->name, s->ops, io_op_name(op), s->bytes, s->errors,
				   counts->ops[op], counts->bytes[op], counts->errors[op]);
	}
	if (device_stats_reset(scene->top) < 0)
		world_fail("the counters of %s cannot be reset", scene->top->name);
	device_stats(scene->top, stats);
	for (unsigned op = 0; op < IO_OP_COUNT_; op++) {
		if (stats->op[op].ops + stats->op[op].bytes + stats->op[op].errors != 0)
			world_fail("the counters of %s are not zero after a reset",
				   scene->top->name);
	}
	free(stats);
}

/* From the top or by pulling the bottom away; what is half gone goes by itself. */
static void scene_take_down(struct scene *scene)
{
	bool is_from_top = world_chance(1, 2);
	struct err err = {};

	for (unsigned i = 0; i < scene->ndevices; i++) {
		unsigned at = is_from_top ? scene->ndevices - 1 - i : i;
		struct device *dev = device_lookup(scene->name[at]);

		if (at == scene->remote && at > 0)
			pair_destroy(scene);
		else if (dev != NULL && !dev->is_removed &&
			 device_destroy(scene->uri[at], &err) < 0)
			world_fail("cannot destroy %s: %s", scene->uri[at], err.msg);
	}
	for (unsigned i = 0; device_next(NULL) != NULL && !world_failed(); i++) {
		if (i == 100000)
			world_fail("%s does not go away", device_next(NULL)->name);
		task_sleep(10 * USEC);
	}
}

/* ---- epochs --------------------------------------------------------------------------------- */

void scene_watchdog(struct event *event)
{
	struct scene *scene = container_of(event, struct scene, watchdog);

	load_check_age(scene);
	world_at(&scene->watchdog, WORLD_NONE, WATCHDOG_NS, scene_watchdog);
}

void scene_wait_chaos(struct scene *scene)
{
	uint64_t step_ns = scene->remote > 0  ? MSEC
			   : scene->is_mirror ? mirror_step_ns()
					      : 10 * USEC;

	for (unsigned i = 0; scene->nchaos > 0 && !world_failed(); i++) {
		if (i == 100000)
			world_fail("%u disturbers do not come to an end", scene->nchaos);
		if (scene->must_close && scene->desc != NULL) /* somebody waits for that */
			desc_close(take(scene->desc));
		task_sleep(step_ns);
	}
}

static void scene_play(struct scene *scene)
{
	bool is_whole;

	if (!scene_open(scene))
		return;
	scene_watch();
	scene_verify(scene);
	if (scene->has_capacity)
		load_prefill(scene);
	cover_state_begin(COVER_IDLE);
	if (scene->remote == 0 || !pair_is_calm())
		chaos_start(scene);
	if (scene->remote > 0)
		pair_trouble(scene);
	load_start(scene);
	load_wait(scene);
	scene->is_ending = true;
	is_whole = !scene->is_stopping;
	scene_wait_chaos(scene);
	if (scene->remote > 0)
		pair_settle(scene);
	cover_state_end(COVER_IDLE);
	if (world_failed())
		return;
	is_whole = is_whole && !scene->is_stopping && !scene->has_power_cut;
	scene_check_idle();
	if (is_whole && scene->desc != NULL) {
		scene_verify(scene);
		scene_check_idle();
		scene_check_stats(scene);
	}
	if (scene->desc != NULL)
		desc_close(take(scene->desc));
}

/* Hosts and the target; when they have gone, look at what they left. */
static void scene_play_served(struct scene *scene)
{
	struct desc_opts opts = { .event = scene_event, .owner = scene };
	struct err err = {};

	scene->nclients = 0;
	if (desc_open(scene->top, &opts, &scene->desc, &err) < 0) {
		world_fail("cannot open %s beside the target: %s", scene->top->name, err.msg);
		return;
	}
	serve_play(scene, chaos_start, scene_wait_chaos);
	if (world_failed() || scene->desc == NULL)
		return;
	if (!scene->is_stopping && !scene->has_power_cut) {
		scene_verify(scene);
		scene_check_idle();
	}
	desc_close(take(scene->desc));
}

static void scene_after_epoch(struct scene *scene)
{
	if (scene->has_power_cut) {
		scene_stats.power_cuts++;
		cover_fault_end(COVER_POWER_CUT);
		cause_end(scene, CAUSE_GONE);
		oracle_crash(scene->oracle);
		medium_power_on(scene->medium);
	}
	if (scene->is_active[CAUSE_RESIZE] > 0)
		cause_end(scene, CAUSE_RESIZE);
	if (scene->is_full)
		cover_fault_end(COVER_NO_SPACE);
	if (scene->is_removed) {
		scene_stats.removals++;
		cause_end(scene, CAUSE_GONE);
	}
	if (!scene->is_persistent)
		oracle_clear_from(scene->oracle, 0);
	guard_forget_all(); /* of real drivers; ours have taken theirs back */
	if (fault_list(0, &(struct fault_info){}))
		world_fail("a fault is still armed");
	if (scene->medium != NULL && disk_inside(scene->medium) > 0)
		world_fail("%u requests are left inside the disk", disk_inside(scene->medium));
	if (task_count() != 1)
		world_fail("%u tasks are left", task_count() - 1);
}

static void scene_epoch(struct scene *scene)
{
	scene_stats.epochs++;
	memset(scene->last_ns, 0, sizeof(scene->last_ns));
	if (scene->has_capacity)
		scene->last_ns[CAUSE_SPACE] = UINT64_MAX;
	scene->is_stopping = scene->is_ending = scene->must_close = false;
	scene->has_power_cut = scene->is_removed = scene->is_full = false;
	scene->counts = (struct scene_counts){};
	world_trace("epoch", scene->ndevices, 0);
	if (!scene_build(scene))
		return;
	if (scene->is_served)
		scene_play_served(scene);
	else
		scene_play(scene);
	if (world_failed())
		return;
	if (scene->remote > 0 && world_chance(1, 3))
		pair_stop(scene);
	scene_take_down(scene);
	if (scene->remote > 0 && !world_failed()) {
		pair_stop(scene);
		pair_end(scene);
	}
	if (!world_failed())
		scene_after_epoch(scene);
}

void scene_done(struct scene *scene)
{
	const struct oracle_stats *stats = oracle_stats(scene->oracle);

	scene_stats.seeds++;
	scene_stats.requests += scene->nrequests;
	scene_stats.failed += scene->nfailed;
	scene_stats.blocks_judged += stats->blocks_judged;
	scene_stats.ambiguous += stats->ambiguous;
	scene_stats.crash_choices += stats->crash_choices;
	oracle_free(scene->oracle);
	if (scene->medium != NULL)
		medium_free(scene->medium);
	free(scene);
}

void scene_run(void *arg)
{
	struct scene *scene = sim_zalloc(sizeof(*scene));
	unsigned nepochs;

	(void)arg;
	cover_restart();
	pair_states_restart();
	scene_configure(scene);
	world_at(&scene->watchdog, WORLD_NONE, WATCHDOG_NS, scene_watchdog);
	nepochs = 1 + (unsigned)world_rand(4);
	for (unsigned i = 0; i < nepochs && !world_failed(); i++)
		scene_epoch(scene);
	world_cancel(&scene->watchdog);
	if (world_failed()) /* the wreck is looked at, not cleaned up */
		return;
	scene_done(scene);
}
