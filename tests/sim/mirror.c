/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mirror.c - a nexus over two to five simulated disks, made, used, hurt, ended, and made again.
 *
 *   clients (load.c) on any reactor -> nexus -> [layer] -> disk, each with a medium of its own
 *                                        |
 *                                      record in the store (store_sim.c)
 *
 *   epoch:  power on -> make the nexus from what the record says -> read all -> clients and those
 *           who disturb ... -> one of the ends -> what must be true then
 *   end     quiet     clients finish; everybody may come back; all children compared; destroyed
 *           shutdown  under I/O, then destroyed           destroy  under I/O
 *           kill      the process dies where it is, with it the power of some machines
 *           by itself the store was away for too long, or no child is left: then one of these
 *
 * Death of the process. From that instant nothing reaches a disk or the store (disk_kill(),
 * simstore_kill()), and what clients are told they do not hear (scene->is_dead). What the engine
 * does afterwards, in one process, is its clean end in a world in which everything fails: what it
 * does cannot be seen from outside, but it must come to an end. So a kill costs no code in the
 * engine, and strikes between any two instructions that the world can tell apart.
 *
 * What is judged besides what clients judge (load.c, oracle.c)
 *   - A clean record: all children that it has as healthy hold the same, block by block.
 *   - A quiet end: all children in sync do, and after a cure all children are in sync.
 *   - A death: what was acknowledged is there (no power lost: even if not flushed), blocks of
 *     writes in flight are old or new, and the first read settles which for good: the recovery has
 *     to make the children agree before, or another child would say something else later.
 *   - The record never says that nobody is healthy, and stale children alone make no nexus.
 *   - Where the record was lost all of this holds, with one exception (mirror_lost.c).
 *   - It ends itself only if the store was in trouble, and freezes only if no child is healthy.
 *
 * Power. A replica whose machine lost its power may lack what was not flushed. While it is retired
 * in the record that costs nothing, as it comes back through a rebuild. If it is the last healthy
 * one, or the process dies before the record says so, unflushed ones may be gone (oracle_crash()).
 */
#include "mirror.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "alloc.h"
#include "base/units.h"
#include "cover.h"
#include "device/fault.h"
#include "disk.h"
#include "guard.h"
#include "nexus/rebuild.h"
#include "nexus/scrub.h"
#include "pair.h"
#include "reactor/task.h"
#include "store_sim.h"

enum {
	POLL_NS = 50 * 1000,
	SETTLE_STEPS = 1000000, /* a half-open connection is found out by two time-outs */
	STEP_NS = 10 * 1000,
	FAR_STEP_NS = 200 * 1000,
};

struct mirror mirror;
struct mirror_stats mirror_stats;

/* ---- the nexus and its children ------------------------------------------------------------- */

struct nexus *mirror_get(void)
{
	struct nexus *nx = nexus_lookup(MIRROR_NAME);

	if (nx == NULL || nexus_device(nx)->is_removed || device_lookup(MIRROR_NAME) == NULL)
		return NULL;
	device_pin(nexus_device(nx));
	return nx;
}

void mirror_put(struct nexus *nx)
{
	device_unpin(nexus_device(nx));
}

bool mirror_child(struct nexus *nx, const struct replica *replica, struct nexus_child_info *ret)
{
	for (unsigned i = 0; nexus_child_info(nx, i, ret); i++) {
		if (strcmp(ret->uri, replica->uri) == 0)
			return true;
	}
	return false;
}

unsigned mirror_nhealthy(struct nexus *nx)
{
	struct nexus_child_info info;
	unsigned count = 0;

	for (unsigned i = 0; nexus_child_info(nx, i, &info); i++)
		count += info.is_synced;
	return count;
}

bool replica_attach(struct replica *replica)
{
	struct err err = {};
	struct device *dev;

	if (replica->is_far)
		return far_attach(replica);
	if (!replica->is_layered || device_lookup(replica->disk) != NULL)
		return true;
	return device_create(replica->disk_uri, &dev, &err) == 0;
}

uint64_t mirror_step_ns(void)
{
	return mirror.has_far ? FAR_STEP_NS : STEP_NS;
}

void replica_bad_begin(struct replica *replica)
{
	replica->nbad++;
}

void replica_bad_end(struct replica *replica)
{
	replica->nbad--;
	replica->last_bad_ns = world_now();
}

void replica_full_begin(struct replica *replica)
{
	replica->nfull++;
}

void replica_full_end(struct replica *replica)
{
	replica->nfull--;
	replica->last_full_ns = world_now();
}

/* ---- the record ----------------------------------------------------------------------------- */

/* -1: the record says nothing of it. */
static int recorded(const struct nexus_record *record, const struct replica *replica)
{
	for (unsigned i = 0; i < record->nchildren; i++) {
		if (uuid_equal(&record->child[i].uuid, &replica->uuid))
			return record->child[i].is_healthy;
	}
	return -1;
}

const uint8_t *replica_block(const struct replica *replica, uint64_t lba)
{
	uint64_t at = lba + mirror.data_start + replica->offset;

	return replica->medium->current + at * mirror.scene->block_size;
}

static void compare_two(const struct replica *a, const struct replica *b, const char *when)
{
	for (uint64_t lba = 0; lba < mirror.nblocks; lba++) {
		if (memcmp(replica_block(a, lba), replica_block(b, lba),
			   mirror.scene->block_size) == 0)
			continue;
		world_fail("%s: block %" PRIu64 " is not the same on %s and %s", when, lba, a->disk,
			   b->disk);
		return;
	}
}

/* All replicas in @mask hold the same. */
static void compare(unsigned mask, const char *when)
{
	const struct replica *first = NULL;

	for (unsigned i = 0; i < mirror.nreplicas; i++) {
		if (!(mask >> i & 1))
			continue;
		if (first != NULL)
			compare_two(first, &mirror.replica[i], when);
		else
			first = &mirror.replica[i];
	}
}

static void mirror_applied(const struct nexus_record *record)
{
	unsigned healthy = 0;

	lost_note(record);
	for (unsigned i = 0; i < mirror.nreplicas; i++)
		healthy |= (unsigned)(recorded(record, &mirror.replica[i]) == 1) << i;
	if (record->is_clean)
		compare(healthy, "a clean record");
}

/* ---- configuration -------------------------------------------------------------------------- */

static uint32_t any_ops(bool has_write_cache, bool is_thin)
{
	static const uint8_t optional[] = { IO_FLUSH, IO_UNMAP, IO_WRITE_ZEROES, IO_RESET };
	uint32_t ops = IO_BIT(IO_READ) | IO_BIT(IO_WRITE);

	for (unsigned i = 0; i < ARRAY_LEN(optional); i++) {
		if (world_chance(2, 3))
			ops |= IO_BIT(optional[i]);
	}
	if (has_write_cache)
		ops |= IO_BIT(IO_FLUSH);
	if (is_thin)
		ops |= IO_BIT(IO_SEEK_DATA) | IO_BIT(IO_SEEK_HOLE) | IO_BIT(IO_UNMAP);
	return ops;
}

static void replica_make(struct replica *replica, unsigned index, bool is_thin)
{
	uint32_t bs = mirror.scene->block_size;
	struct medium_opts opts = {
		.name = replica->disk,
		.block_size = bs,
		.buf_align = 1,
		.max_io_nlb = world_chance(1, 4) ? 1 + (uint32_t)world_rand(REQUEST_BLOCKS_MAX) : 0,
		.has_write_cache = world_chance(3, 4),
		.is_thin = is_thin,
		.parallel = 1 + (unsigned)world_rand(16),
		.latency_min_ns = 500 + world_rand(20 * USEC),
		.inline_percent = world_chance(1, 2) ? 0 : (unsigned)world_rand(60),
	};
	char uuid[UUID_TEXT_SIZE];

	(void)snprintf(replica->disk, sizeof(replica->disk), "disk%u", index);
	(void)snprintf(replica->top, sizeof(replica->top), "disk%u", index);
	replica->is_far = mirror.has_far && world_chance(1, 2);
	replica->is_layered = !replica->is_far && world_chance(1, 3);
	replica->offset = replica->is_layered ? world_rand(3) : 0;
	opts.nblocks = mirror.data_start + replica->offset + mirror.nblocks + world_rand(4) +
		       mirror.tail;
	opts.nblocks_max = opts.nblocks + mirror.room + 8;
	opts.latency_mean_ns = opts.latency_min_ns + world_rand(100 * USEC);
	opts.unmap_reads_zero = opts.is_thin || world_chance(1, 2);
	opts.ops = any_ops(opts.has_write_cache, opts.is_thin);
	replica->medium = medium_new(&opts);
	uuid_random(&replica->uuid);
	(void)uuid_to_text(&replica->uuid, uuid);
	(void)snprintf(replica->disk_uri, SCENE_URI_MAX, "simdisk:///disk%u?uuid=%s", index, uuid);
	memcpy(replica->uri, replica->disk_uri, sizeof(replica->uri));
	if (replica->is_far)
		far_replica(replica, index);
	if (!replica->is_layered)
		return;
	(void)snprintf(replica->top, sizeof(replica->top), "layer%u", index);
	(void)snprintf(replica->uri, SCENE_URI_MAX,
		       "simlayer:///layer%u?below=disk%u&offset=%" PRIu64 "&uuid=%s", index, index,
		       replica->offset, uuid);
}

static void mirror_configure(struct scene *scene)
{
	bool is_thin = world_chance(1, 3);

	memset(&mirror, 0, sizeof(mirror));
	mirror.scene = scene;
	scene->is_mirror = scene->is_persistent = true;
	scene->block_size = world_chance(1, 3) ? 512 : 4096;
	scene->ndevices = 1;
	(void)snprintf(scene->name[0], SCENE_NAME_MAX, MIRROR_NAME);
	mirror.label = world_chance(1, 2) ? NEXUS_LABEL_V1 : NEXUS_LABEL_V2;
	mirror.is_exact = world_chance(1, 2);
	mirror.is_round_robin = world_chance(1, 2);
	if (world_chance(1, 4))
		mirror.child_timeout_ns = 21 * MSEC +
					  world_rand(40 * MSEC); /* no disk is as slow */
	mirror.nblocks = scene->block_size == 512 ? 100 + world_rand(400) : 30 + world_rand(90);
	mirror.room = mirror.nblocks;
	mirror.data_start = (mirror.label == NEXUS_LABEL_V1 ? 5 : 4) * MIB / scene->block_size;
	mirror.tail = mirror.label == NEXUS_LABEL_V1 ? 16 * KIB / scene->block_size + 2
						     : 4 * MIB / scene->block_size;
	mirror.size = mirror.nblocks * scene->block_size;
	uuid_random(&mirror.uuid);
	mirror.nreplicas = 2 + (unsigned)world_rand(REPLICAS_MAX - 1);
	mirror.has_far = world_chance(1, 4);
	far_configure();
	for (unsigned i = 0; i < mirror.nreplicas; i++)
		replica_make(&mirror.replica[i], i, is_thin);
	scene->nblocks = mirror.nblocks + mirror.room;
	scene->oracle = oracle_new(scene->nblocks, scene->block_size, world_seed());
	world_say("%u replicas, %" PRIu64 " blocks of %u", mirror.nreplicas, mirror.nblocks,
		  scene->block_size);
}

static void mirror_settings(void)
{
	rebuild_settings_set(&(struct rebuild_settings){
		.latency_ns = world_chance(1, 2) ? UINT64_MAX : 0,
		.is_always_full = world_chance(1, 8),
	});
	nexus_settings_set(&(struct nexus_settings){
		.store = simstore_open(mirror_applied),
		.store_tries = 1 + (unsigned)world_rand(5),
		.store_pause_ns = 20 * USEC + world_rand(MSEC),
		.store_timeout_ns = MSEC + world_rand(5 * MSEC),
		.intent_idle_ns = 50 * USEC + world_latency(0, 2 * MSEC),
		.intent_fine = 1 + (unsigned)world_rand(20),
	});
}

/* ---- what requests may answer --------------------------------------------------------------- */

/* A child that is in sync and could be read all the time would have answered. */
static bool nobody_could_read(uint64_t since_ns)
{
	struct nexus *nx = nexus_lookup(MIRROR_NAME);
	struct nexus_child_info info;

	for (unsigned i = 0; nx != NULL && i < mirror.nreplicas; i++) {
		const struct replica *replica = &mirror.replica[i];

		if (mirror_child(nx, replica, &info) && info.is_synced && replica->nbad == 0 &&
		    replica->last_bad_ns < since_ns)
			return false;
	}
	return true;
}

/* All children that are in sync lacked space: one that did not would have taken the write. */
static bool nobody_had_space(uint64_t since_ns)
{
	struct nexus *nx = nexus_lookup(MIRROR_NAME);
	struct nexus_child_info info;

	for (unsigned i = 0; nx != NULL && i < mirror.nreplicas; i++) {
		const struct replica *replica = &mirror.replica[i];

		if (mirror_child(nx, replica, &info) && info.is_synced && replica->nfull == 0 &&
		    replica->last_full_ns < since_ns)
			return false;
	}
	return true;
}

bool mirror_has_cause(const struct request *req)
{
	switch ((enum io_status)req->io.status) {
	case IO_OK:
		return true;
	case IO_READ_ERROR:
		return nobody_could_read(req->submit_ns);
	case IO_NO_SPACE:
		mirror_stats.told_full++;
		return IO_BIT(req->io.op) & IO_OPS_WRITING && nobody_had_space(req->submit_ns);
	case IO_ABORTED:
	case IO_NO_DEVICE:
	case IO_ENDED:
		return cause_since(mirror.scene, CAUSE_GONE, req->submit_ns);
	case IO_OUT_OF_RANGE:
		return cause_since(mirror.scene, CAUSE_RESIZE, req->submit_ns);
	case IO_MISCOMPARE:
		return req->io.op == IO_COMPARE || req->io.op == IO_COMPARE_WRITE;
	case IO_UNWRITTEN:
		return req->io.flags & IO_UNWRITTEN_FAIL;
	default:
		return false;
	}
}

/* ---- what the nexus says -------------------------------------------------------------------- */

static bool is_degraded, is_frozen, is_rebuilding; /* as cover.h has it now */

static void cover_set(bool *is_in, bool is_now, enum cover_state state)
{
	if (is_now && !*is_in)
		cover_state_begin(state);
	if (!is_now && *is_in)
		cover_state_end(state);
	*is_in = is_now;
}

static void gone_begin(void)
{
	if (mirror.scene->is_active[CAUSE_GONE] == 0)
		cause_begin(mirror.scene, CAUSE_GONE);
	mirror.scene->is_stopping = true;
}

static uint64_t last_rebuilt_ns;

/* One has begun or ended. */
static void rebuild_event(struct nexus *nx)
{
	const struct rebuild_record *record = nexus_rebuild_history(nx, 0);
	bool is_now = nexus_rebuild_count(nx) > 0;

	if (record != NULL && record->stats.state == REBUILD_COMPLETED &&
	    record->stats.end_ns > last_rebuilt_ns) {
		last_rebuilt_ns = record->stats.end_ns;
		mirror_stats.rebuilds++;
		mirror_stats.partial += record->stats.is_partial;
	}
	cover_set(&is_rebuilding, is_now, COVER_REBUILDING);
}

/* A child is said to lack space: it must have. */
static void space_event(const struct nexus_event *event)
{
	mirror_stats.full_children++;
	for (unsigned i = 0; i < mirror.nreplicas; i++) {
		const struct replica *replica = &mirror.replica[i];

		if (strcmp(replica->uri, event->child) == 0 && replica->nfull == 0 &&
		    replica->last_full_ns == 0 && !mirror.scene->is_dead)
			world_fail("%s is retired for want of space, which it had", replica->top);
	}
}

static void mirror_event(struct nexus_listener *listener, const struct nexus_event *event)
{
	(void)listener;
	world_trace("nexus event", event->type, (uint64_t)event->status << 8 | event->health);
	cover_set(&is_degraded,
		  event->type != NEXUS_EVENT_DESTROYED && event->status == NEXUS_DEGRADED,
		  COVER_DEGRADED);
	cover_set(&is_frozen,
		  event->type != NEXUS_EVENT_DESTROYED && event->status == NEXUS_FAULTED,
		  COVER_FROZEN);
	if (event->type == NEXUS_EVENT_CHILD_STATE && event->reason == NEXUS_REASON_NO_SPACE)
		space_event(event);
	mirror_stats.timeouts += event->type == NEXUS_EVENT_CHILD_STATE &&
				 event->reason == NEXUS_REASON_TIMED_OUT;
	if (event->type == NEXUS_EVENT_REBUILD)
		rebuild_event(event->nx);
	if (event->type == NEXUS_EVENT_DESTROYED)
		cover_set(&is_rebuilding, false, COVER_REBUILDING);
	if (event->type == NEXUS_EVENT_MISMATCH && !mirror.scene->is_dead)
		world_fail("a scrub finds block %" PRIu64 " to differ", event->lba);
	if (event->state != NEXUS_SHUTTING_DOWN || mirror.is_expected || mirror.has_ended)
		return;
	mirror.has_ended = true;
	mirror_stats.self_ends++;
	gone_begin();
	if (!simstore_had_trouble() && !mirror.scene->is_dead)
		world_fail("the nexus ends itself, although the store is well");
}

static struct nexus_listener listener = { .fn = mirror_event };

/* ---- death ---------------------------------------------------------------------------------- */

/* A client may have heard of a size before the one who asked for it has. V1 loses a block. */
static void size_note(struct nexus *nx)
{
	uint64_t asked = nexus_device(nx)->nblocks +
			 (mirror.label == NEXUS_LABEL_V1 && !mirror.is_exact);

	mirror.nblocks = MAX(mirror.nblocks, nexus_device(nx)->nblocks);
	mirror.size = MAX(mirror.size, asked * mirror.scene->block_size);
}

void mirror_kill(unsigned cuts)
{
	struct nexus_record record = {};
	struct nexus *nx = nexus_lookup(MIRROR_NAME);
	bool may_lose = false;

	world_trace("kill", cuts, 0);
	cover_fault_begin(COVER_KILL);
	mirror_stats.kills++;
	mirror_stats.kill_cuts += cuts != 0;
	if (nx != NULL)
		size_note(nx);
	mirror.is_expected = true;
	gone_begin();
	mirror.scene->is_dead = true;
	simstore_kill();
	(void)simstore_record(&record);
	for (unsigned i = 0; i < mirror.nreplicas; i++) {
		struct replica *replica = &mirror.replica[i];
		bool had_power = replica->medium->has_power;

		if (had_power)
			disk_kill(replica->medium);
		if (had_power && cuts >> i & 1) {
			medium_power_cut(replica->medium);
			replica->lost_cache = true;
		}
		may_lose |= replica->lost_cache && recorded(&record, replica) == 1;
	}
	if (may_lose)
		oracle_crash(mirror.scene->oracle);
	cover_fault_end(COVER_KILL);
}

/* Power is back everywhere; what was lost with it is known to the oracle. */
static void power_on(void)
{
	struct nexus_record record = {};
	bool may_lose = false;

	(void)simstore_record(&record);
	for (unsigned i = 0; i < mirror.nreplicas; i++) {
		struct replica *replica = &mirror.replica[i];

		may_lose |= replica->lost_cache && recorded(&record, replica) == 1;
		replica->lost_cache = false;
		replica->is_busy = false;
		replica->medium->nbad = 0;
		replica->last_full_ns = 0;
		medium_power_on(replica->medium);
	}
	if (may_lose && !mirror.scene->is_dead) /* else it was told at that instant */
		oracle_crash(mirror.scene->oracle);
	mirror.scene->is_dead = false;
	simstore_revive();
	simstore_set(SIMSTORE_UP);
}

/* ---- making it ------------------------------------------------------------------------------ */

static void shuffle(struct making *making)
{
	for (unsigned i = making->count; i > 1; i--) {
		unsigned k = (unsigned)world_rand(i);
		const char *uri = making->child[i - 1];

		making->child[i - 1] = making->child[k];
		making->child[k] = uri;
	}
}

/* Large enough? One that was away when the others grew may not be, and has to be grown first. */
static bool replica_fits(const struct replica *replica)
{
	return replica->medium->nblocks - replica->offset >=
	       mirror.data_start + mirror.nblocks + mirror.tail;
}

unsigned mirror_pick(struct making *making, const struct nexus_record *record, int word,
		     unsigned times, unsigned out_of)
{
	unsigned before = making->count;

	for (unsigned i = 0; i < mirror.nreplicas; i++) {
		if (recorded(record, &mirror.replica[i]) == word &&
		    replica_fits(&mirror.replica[i]) && world_chance(times, out_of))
			making->child[making->count++] = mirror.replica[i].uri;
	}
	return making->count - before;
}

static struct task *builder; /* whose allocations fail, but for what is another machine's */
static bool is_attaching;

static bool builder_runs(void)
{
	return task_self() == builder && !is_attaching;
}

static bool attach_all(void) MAY_SUSPEND
{
	bool is_ok = true;

	is_attaching = true;
	for (unsigned i = 0; i < mirror.nreplicas; i++)
		is_ok &= replica_attach(&mirror.replica[i]);
	is_attaching = false;
	return is_ok;
}

static int create(const struct making *making, struct nexus_err *ne)
{
	struct nexus_opts opts = {
		.name = MIRROR_NAME,
		.uuid = mirror.uuid,
		.size = mirror.size,
		.children = making->child,
		.nchildren = making->count,
		.label = mirror.label,
		.is_size_required = mirror.is_exact,
		.is_round_robin = mirror.is_round_robin,
		.child_timeout_ns = mirror.child_timeout_ns,
		.info_key = "volume",
	};
	struct nexus *nx;
	int result;

	if (!attach_all())
		return -EIO;
	world_trace("create", making->count, 0);
	result = nexus_create(&opts, &nx, ne);
	world_trace("created", (uint64_t)-result, 0);
	return result;
}

static void destroy(void)
{
	struct nexus *nx = nexus_lookup(MIRROR_NAME);
	struct nexus_err ne = {};

	if (nx != NULL && nexus_destroy(nx, &ne) < 0)
		world_fail("cannot destroy the nexus: %s", err_text(&ne.err));
}

static void disks_remove(void)
{
	struct err err = {};

	far_stop();

	for (unsigned i = 0; i < mirror.nreplicas; i++) {
		const struct replica *replica = &mirror.replica[i];
		struct device *dev = device_lookup(replica->disk);

		if (dev != NULL && !dev->is_removed && device_remove(dev, &err) < 0)
			world_fail("cannot remove %s: %s", replica->disk, err.msg);
	}
	for (unsigned i = 0; device_next(NULL) != NULL && !world_failed(); i++) {
		if (i == SETTLE_STEPS)
			world_fail("%s does not go away", device_next(NULL)->name);
		task_sleep(mirror_step_ns());
	}
}

static void store_recovers(void *arg)
{
	(void)arg;
	task_sleep(world_latency(0, 5 * MSEC));
	simstore_set(SIMSTORE_UP);
	mirror.scene->nchaos--;
}

/* With something in its way: it is there, or nothing is. */
static void create_in_trouble(const struct making *making)
{
	bool lacks_memory = world_chance(1, 2);
	struct nexus_err ne = {};
	size_t live;
	int result;

	disks_remove(); /* what they keep is theirs */
	live = engine_memory();
	builder = task_self();
	if (lacks_memory) {
		cover_fault_begin(COVER_NO_MEMORY);
		alloc_fail_at(1 + (unsigned)world_rand(80), builder_runs);
	} else {
		simstore_set(1 + (enum simstore_mode)world_rand(SIMSTORE_MODES_ - 1));
		mirror.scene->nchaos++;
		if (task_spawn("store", store_recovers, NULL) < 0)
			mirror.scene->nchaos--;
	}
	result = create(making, &ne);
	alloc_fail_at(0, builder_runs);
	if (lacks_memory)
		cover_fault_end(COVER_NO_MEMORY);
	mirror.is_expected = true;
	if (result == 0)
		destroy();
	while (simstore_is_busy() || mirror.scene->nchaos > 0)
		task_sleep(POLL_NS);
	if (nexus_next(NULL) != NULL || device_lookup(MIRROR_NAME) != NULL)
		world_fail("the nexus is there although it could not be made");
	disks_remove();
	if (engine_memory() > live)
		world_fail("%zu allocations are left of a nexus that could not be made",
			   engine_memory() - live);
}

/* Those that the record has as stale, without one that it has as healthy. */
static void create_stale(const struct nexus_record *record)
{
	struct making making = {};
	struct nexus_err ne = {};

	if (mirror_pick(&making, record, 0, 1, 1) == 0)
		return;
	if (create(&making, &ne) == 0)
		world_fail("a nexus was made of stale children only");
	else if (ne.why != NEXUS_E_INCOMPLETE && !mirror.scene->is_dead)
		world_fail("stale children were refused otherwise: %s", err_text(&ne.err));
}

struct killer {
	uint64_t delay_ns;
	bool is_over;
};

static void killer(void *arg)
{
	const struct killer *k = arg;

	task_sleep(k->delay_ns);
	if (!k->is_over)
		mirror_kill(
			(unsigned)(world_chance(1, 2) ? 0 : world_rand(1u << mirror.nreplicas)));
	mirror.scene->nchaos--;
}

/* The process dies while it makes the nexus, or would have. */
static void create_killed(const struct making *making)
{
	struct killer k = { .delay_ns = world_latency(10 * USEC, MSEC) };
	struct nexus_err ne = {};

	mirror.scene->nchaos++;
	if (task_spawn("killer", killer, &k) < 0)
		mirror.scene->nchaos--;
	(void)create(making, &ne);
	k.is_over = true;
	mirror.is_expected = true;
	destroy();
	while (mirror.scene->nchaos > 0)
		task_sleep(POLL_NS);
}

/* False: the epoch is over. */
static bool mirror_make(void)
{
	struct nexus_record record = {};
	struct making making = {};
	struct nexus_err ne = {};

	if (!simstore_record(&record)) {
		unsigned count = 2 + (unsigned)world_rand(MIN(mirror.nreplicas, 4u) - 1);

		for (unsigned i = 0; i < count; i++)
			making.child[making.count++] = mirror.replica[i].uri;
	} else if (simstore_has_lost() && lost_pick(&making, &record)) {
		mirror.size = MAX(mirror.size, record.size);
	} else {
		mirror.size = MAX(mirror.size, record.size); /* it died before it said so */
		while (mirror_pick(&making, &record, 1, 9, 10) == 0)
			;
		(void)mirror_pick(&making, &record, 0, 1, 2);
		if (world_chance(1, 10))
			create_stale(&record);
	}
	shuffle(&making);
	if (world_chance(1, 8))
		create_in_trouble(&making);
	else if (world_chance(1, 8)) {
		create_killed(&making);
		return false;
	}
	if (world_failed())
		return false;
	mirror.is_expected = false;
	if (create(&making, &ne) < 0) {
		world_fail("the nexus cannot be made: %s", err_text(&ne.err));
		return false;
	}
	return true;
}

/* ---- epochs --------------------------------------------------------------------------------- */

static bool clients_rest(void)
{
	return mirror.scene->nrunning == 0;
}

static void wait_clients(void)
{
	while (!clients_rest() && !world_failed())
		task_sleep(POLL_NS);
}

static bool nexus_is_frozen(void)
{
	struct nexus *nx = nexus_lookup(MIRROR_NAME);
	struct nexus_info info;

	if (nx == NULL)
		return false;
	nexus_info(nx, &info);
	return info.is_frozen && info.status == NEXUS_FAULTED;
}

static void destroyer(void *arg)
{
	(void)arg;
	destroy();
	mirror.scene->nchaos--;
}

/* Destroyed while clients are at it; who has it open closes it when he is told. */
static void end_destroyed(void)
{
	struct scene *scene = mirror.scene;

	mirror.is_expected = true;
	gone_begin();
	cover_state_begin(COVER_REMOVING);
	scene->nchaos++;
	if (task_spawn("destroyer", destroyer, NULL) < 0)
		scene->nchaos--;
	wait_clients();
	scene->is_ending = true;
	scene_wait_chaos(scene);
	cover_state_end(COVER_REMOVING);
}

static void end_shut_down(void)
{
	struct nexus *nx = mirror_get();
	struct nexus_err ne = {};

	if (nx == NULL)
		return;
	mirror.is_expected = true;
	gone_begin();
	world_trace("shutdown", 0, 0);
	if (nexus_shutdown(nx, &ne) < 0 && !mirror.has_ended)
		world_fail("the nexus cannot be shut down: %s", err_text(&ne.err));
	world_trace("is shut down", 0, 0);
	mirror_put(nx);
	end_destroyed();
}

static unsigned synced_mask(struct nexus *nx)
{
	struct nexus_child_info info;
	unsigned mask = 0;

	for (unsigned i = 0; i < mirror.nreplicas; i++) {
		if (mirror_child(nx, &mirror.replica[i], &info) && info.is_synced)
			mask |= 1u << i;
	}
	return mask;
}

static void note_info(struct nexus *nx)
{
	struct nexus_info info;

	nexus_info(nx, &info);
	mirror_stats.repairs += info.repairs;
	mirror_stats.overlaps += info.overlaps;
	size_note(nx);
}

static bool device_is_idle(const struct device *dev)
{
	for (unsigned i = 0; i < world_nreactors(); i++) {
		const struct channel *ch = dev->channel[i];

		if (ch != NULL && (ch->inflight[0] + ch->inflight[1] > 0 || ch->held.head != NULL))
			return false;
	}
	return true;
}

bool mirror_has_gone(void)
{
	return mirror.has_ended;
}

/* What the nexus does by itself comes to an end: repairs, rebuilds, records. */
static void settle(void)
{
	unsigned quiet = 0;

	for (unsigned i = 0; quiet < 5 && !world_failed(); i++) {
		bool is_idle = true;

		for (struct device *dev = device_next(NULL); dev != NULL; dev = device_next(dev))
			is_idle &= device_is_idle(dev);
		quiet = is_idle ? quiet + 1 : 0;
		if (i == SETTLE_STEPS)
			world_fail("the nexus does not come to rest");
		task_sleep(POLL_NS / 10);
	}
}

/* A far machine died so lately that the near one hears of it only now: reads are held then. */
static void verify_watch(void *arg)
{
	const bool *is_over = arg;
	struct nexus *nx = nexus_lookup(MIRROR_NAME);
	struct nexus_err ne = {};

	while (!*is_over && !nexus_is_frozen() && !world_failed())
		task_sleep(POLL_NS);
	if (!*is_over && !world_failed()) {
		mirror.is_expected = mirror.has_ended = true;
		gone_begin();
		if (nexus_shutdown(nx, &ne) < 0)
			world_fail("a frozen nexus cannot be shut down: %s", err_text(&ne.err));
	}
	mirror.scene->nchaos--;
}

static void verify_watched(void)
{
	bool is_over = false;

	if (mirror.has_far) {
		mirror.scene->nchaos++;
		if (task_spawn("watch", verify_watch, &is_over) < 0)
			mirror.scene->nchaos--;
	}
	scene_verify(mirror.scene);
	is_over = true;
	while (mirror.scene->nchaos > 0 && !world_failed())
		task_sleep(POLL_NS);
}

/* Nobody disturbs any more, clients have finished; true: it is still there and well. */
static bool end_quiet(void)
{
	struct scene *scene = mirror.scene;
	struct nexus *nx;

	scene->is_ending = true;
	while (scene->nchaos > 0 && !nexus_is_frozen() && !mirror.has_ended && !world_failed())
		task_sleep(POLL_NS);
	if (world_failed() || mirror.has_ended || nexus_is_frozen())
		return false;
	if (world_chance(2, 3))
		mirror_heal();
	nx = mirror_get();
	if (nx == NULL || world_failed() || mirror.has_ended || nexus_is_frozen())
		return nx != NULL ? mirror_put(nx), false : false;
	mirror_stats.quiet++;
	note_info(nx);
	settle();
	if (mirror.has_ended || nexus_is_frozen()) /* of what was done to it last */
		return mirror_put(nx), false;
	verify_watched();
	if (mirror.has_ended || nexus_is_frozen())
		return mirror_put(nx), false;
	mirror_scrub(nx);
	settle();
	compare(synced_mask(nx), "a quiet end");
	scene_check_stats(scene);
	mirror_put(nx);
	return true;
}

static void mirror_end(void)
{
	unsigned cuts = world_chance(1, 2) ? 0 : (unsigned)world_rand(1u << mirror.nreplicas);

	if (nexus_is_frozen()) {
		struct nexus *nx = nexus_lookup(MIRROR_NAME);

		mirror_stats.frozen++;
		if (mirror_nhealthy(nx) > 0)
			world_fail("the nexus is frozen, although a child is healthy");
	}
	if (clients_rest() && end_quiet() && world_chance(1, 2))
		mirror.is_expected = true;
	switch (world_rand(4)) {
	case 0:
		mirror_stats.shutdowns++;
		end_shut_down();
		break;
	case 1:
		mirror_stats.destroys++;
		end_destroyed();
		break;
	default:
		mirror_kill(cuts);
		end_destroyed();
		break;
	}
}

/* Where it stands is the truth, but for what a dead process made of it. */
static void mirror_play(void)
{
	struct scene *scene = mirror.scene;
	uint64_t until_ns;

	scene->top = device_lookup(MIRROR_NAME);
	if (scene->top->nblocks < mirror.nblocks - (mirror.label == NEXUS_LABEL_V1))
		world_fail("the nexus has %" PRIu64 " blocks, it had %" PRIu64, scene->top->nblocks,
			   mirror.nblocks);
	if (scene->top->nblocks > scene->nblocks)
		world_fail("the nexus has %" PRIu64 " blocks, more than was ever asked",
			   scene->top->nblocks);
	mirror.nblocks = scene->top->nblocks;
	if (world_failed() || !scene_open(scene))
		return;
	guard_watch(scene->top); /* far children come and go */
	scene_verify(scene);
	if (world_failed())
		return;
	cover_state_begin(COVER_IDLE);
	mirror_chaos_start();
	load_start(scene);
	until_ns = world_now() + (world_chance(1, 2) ? SEC : world_latency(100 * USEC, 3 * MSEC));
	while (!clients_rest() && world_now() < until_ns && !nexus_is_frozen() &&
	       !mirror.has_ended && !world_failed())
		task_sleep(POLL_NS);
	mirror_end();
	if (!world_failed())
		cover_state_end(COVER_IDLE);
}

static void mirror_take_down(void)
{
	if (mirror.scene->desc != NULL)
		desc_close(take(mirror.scene->desc));
	destroy();
	disks_remove();
	simstore_set(SIMSTORE_UP);
	for (unsigned i = 0; (simstore_is_busy() || task_count() > 1) && !world_failed(); i++) {
		if (i == SETTLE_STEPS)
			world_fail("%u tasks are left", task_count() - 1);
		task_sleep(mirror_step_ns());
	}
}

static void mirror_epoch(void)
{
	struct scene *scene = mirror.scene;

	mirror_stats.epochs++;
	scene_stats.epochs++;
	memset(scene->last_ns, 0, sizeof(scene->last_ns));
	scene->is_stopping = scene->is_ending = scene->must_close = false;
	scene->counts = (struct scene_counts){};
	mirror.has_ended = mirror.is_expected = false;
	(void)simstore_had_trouble();
	world_trace("epoch", mirror.nreplicas, 0);
	power_on();
	lost_begin();
	far_begin();
	nexus_listen(&listener);
	if (mirror_make() && !world_failed())
		mirror_play();
	if (world_failed())
		return;
	mirror.is_expected = true;
	mirror_take_down();
	far_end();
	nexus_unlisten(&listener);
	if (scene->is_active[CAUSE_GONE] > 0)
		cause_end(scene, CAUSE_GONE);
	guard_forget_all();
	if (fault_list(0, &(struct fault_info){}))
		world_fail("a fault is still armed");
	for (unsigned i = 0; i < mirror.nreplicas; i++) {
		if (disk_inside(mirror.replica[i].medium) > 0)
			world_fail("requests are left inside %s", mirror.replica[i].disk);
	}
}

void mirror_run(void *arg)
{
	struct scene *scene = sim_zalloc(sizeof(*scene));
	unsigned nepochs;

	(void)arg;
	cover_restart();
	pair_states_restart();
	is_degraded = is_frozen = is_rebuilding = false;
	last_rebuilt_ns = 0;
	mirror_configure(scene);
	mirror_settings();
	plant_nexus();
	world_at(&scene->watchdog, WORLD_NONE, SEC, scene_watchdog);
	nepochs = 2 + (unsigned)world_rand(5);
	for (unsigned i = 0; i < nepochs && !world_failed(); i++)
		mirror_epoch();
	world_cancel(&scene->watchdog);
	if (world_failed()) /* the wreck is looked at, not cleaned up */
		return;
	simstore_close();
	for (unsigned i = 0; i < mirror.nreplicas; i++)
		medium_free(mirror.replica[i].medium);
	scene_done(scene);
}
