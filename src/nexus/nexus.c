/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nexus.c - a nexus as a device: made, found, grown, shut down, taken away.
 *
 *   nexus_create --> INIT: record locked, children made and opened, geometry, record read
 *                    --> device_register --> OPEN
 *   OPEN --nexus_shutdown--> SHUTTING_DOWN: I/O ended, children closed, record clean --> SHUTDOWN
 *   OPEN --self-shutdown (retire.c)--> SHUTDOWN, nothing recorded
 *   any --device removed--> end errand: I/O ended, own descriptor closed --> nexus_free_device:
 *                           children closed, record clean if it was OPEN
 *
 * All children must open or nothing is made. A record that cannot be written at the start is a
 * reason to make nothing, too: what is not recorded cannot be trusted later.
 *
 * A nexus keeps a descriptor of itself: through it it hears that it is being removed, while its
 * openers still wait for I/O that may be held here for good (frozen), and lets that I/O go.
 *
 * A volatile cache is reported always, and flushes go to all children: one that is added later may
 * have a cache when the first had none, and hosts ask only once.
 *
 * Decisions: a name or uuid that exists is refused, whatever its children are (the engine that this
 * one stands in for said yes without comparing). A nexus never shrinks,
 * and it grows to no size that it could not be made with again.
 *
 * Thread: tasks on the primary.
 */
#include <errno.h>
#include <string.h>

#include "base/identity.h"
#include "base/log.h"
#include "base/units.h"
#include "device/emulate.h"
#include "nexus/internal.h"
#include "nexus/marks.h"
#include "nexus/scrub.h"

static struct list all = { &all, &all };
static struct nexus_store *memory; /* where nobody set a store; lives as long as the process */

struct nexus_settings nexus_settings;

void nexus_settings_set(const struct nexus_settings *settings)
{
	nexus_settings = *settings;
	if (nexus_settings.store_tries == 0)
		nexus_settings.store_tries = 30;
	if (nexus_settings.store_pause_ns == 0)
		nexus_settings.store_pause_ns = NS_PER_S;
	if (nexus_settings.store_timeout_ns == 0)
		nexus_settings.store_timeout_ns = 5 * NS_PER_S;
	if (nexus_settings.child_timeout_ns == 0)
		nexus_settings.child_timeout_ns = 30 * NS_PER_S;
	if (nexus_settings.stall_ns == 0)
		nexus_settings.stall_ns = 5 * NS_PER_S;
	if (nexus_settings.slow_ns == 0)
		nexus_settings.slow_ns = 20 * NS_PER_MS;
	if (nexus_settings.smart_ns == 0)
		nexus_settings.smart_ns = 60 * NS_PER_S;
	if (nexus_settings.health_tick_ns == 0)
		nexus_settings.health_tick_ns = NS_PER_S;
	if (nexus_settings.intent_idle_ns == 0)
		nexus_settings.intent_idle_ns = 5 * NS_PER_S;
	if (nexus_settings.store == NULL) {
		if (memory == NULL)
			memory = store_memory_new();
		nexus_settings.store = memory;
	}
}

/* ---- finding -------------------------------------------------------------------------------- */

struct nexus *nexus_next(struct nexus *prev)
{
	struct list *link = prev == NULL ? all.next : prev->link.next;

	return link == &all ? NULL : container_of(link, struct nexus, link);
}

struct nexus *nexus_lookup(const char *name)
{
	struct uuid uuid;
	bool is_uuid = uuid_from_text(name, &uuid, NULL) == 0;
	struct nexus *nx;

	list_for_each (nx, &all, link) {
		if (strcmp(nx->dev.name, name) == 0 || (is_uuid && uuid_equal(&nx->uuid, &uuid)))
			return nx;
	}
	return NULL;
}

struct device *nexus_device(struct nexus *nx)
{
	return &nx->dev;
}

struct nexus *nexus_of_device(struct device *dev)
{
	return dev->driver == &driver_nexus ? nexus_of(dev) : NULL;
}

void nexus_info(struct nexus *nx, struct nexus_info *ret)
{
	*ret = (struct nexus_info){
		.name = nx->dev.name,
		.uuid = nx->uuid,
		.device_uuid = nx->dev.uuid,
		.size = nx->size,
		.device_size = device_size(&nx->dev),
		.label = nx->label,
		.state = nx->state,
		.status = nexus_status_of(nx),
		.nchildren = nx->nchildren,
		.is_frozen = nx->is_frozen,
		.repairs = atomic_load(&nx->nrepairs),
		.repairs_failed = atomic_load(&nx->nrepairs_failed),
		.overlaps = atomic_load(&nx->noverlaps),
		.segments_in_flight = marks_count(nx),
		.mark_writes = marks_nwrites(nx),
		.segment_size = 1ull << (segment_shift(nx->dev.nblocks, nx->dev.block_shift) +
					 nx->dev.block_shift),
	};
}

void nexus_child_errors(const struct child *child, uint64_t *ret_reads, uint64_t *ret_writes)
{
	const struct nexus *nx = child->nx;

	*ret_reads = child->read_errors;
	*ret_writes = child->write_errors;
	for (unsigned i = 0; i < reactor_count(); i++) {
		const struct leg *leg;

		if (nx->dev.channel[i] == NULL)
			continue;
		leg = &container_of(nx->dev.channel[i], struct nexus_channel, ch)->leg[child->slot];
		*ret_reads += leg->read_errors;
		*ret_writes += leg->write_errors;
	}
}

bool nexus_child_info(struct nexus *nx, unsigned index, struct nexus_child_info *ret)
{
	const struct child *child;
	uint32_t word;

	if (index >= nx->nchildren)
		return false;
	child = nx->child[nx->order[index]];
	word = atomic_load(&child->word);
	*ret = (struct nexus_child_info){
		.uri = child->uri,
		.device_name = child->device_name,
		.uuid = child->uuid,
		.state = child_state_of(word),
		.health = child_health_of(child),
		.reason = child_reason_of(word),
		.why = child->why,
		.is_synced = child_is_healthy(child),
		.is_local = child->is_local,
		.has_io_log = !child_is_healthy(child) && child->is_missed_known,
		.fault_ns = child->fault_ns,
	};
	if (ret->has_io_log)
		ret->missed_segments = segmap_count(&child->missed);
	nexus_child_errors(child, &ret->read_errors, &ret->write_errors);
	nexus_health_of(child, ret);
	return true;
}

bool nexus_child_stats(struct nexus *nx, unsigned index, enum io_op op, struct op_stats *ret)
{
	const struct child *child = index < nx->nchildren ? nx->child[nx->order[index]] : NULL;

	if (child == NULL || child->desc == NULL)
		return false;
	device_op_stats(child->desc->dev, op, ret);
	return true;
}

/* ---- freeing -------------------------------------------------------------------------------- */

static void noop(void *arg)
{
	(void)arg;
}

static void errands_wait(struct nexus *nx)
{
	struct nexus_errand *errands[] = { &nx->retire,  &nx->monitor, &nx->mend, &nx->mark,
					   &nx->rebuild, &nx->end,     &nx->look, &nx->smart };
	bool is_idle;

	/* these have no reserve, and nothing to do for one that goes */
	errand_end(&nx->mend);
	errand_end(&nx->rebuild);
	errand_end(&nx->look);
	errand_end(&nx->smart);
	do {
		is_idle = true;
		for (size_t i = 0; i < ARRAY_LEN(errands); i++) {
			is_idle &= errand_is_idle(errands[i]);
			errand_wait(errands[i]);
		}
	} while (!is_idle);
	for (unsigned i = 0; i < reactor_count(); i++)
		task_call(reactor_get(i), noop, NULL); /* bells on their way have arrived */
}

/* Who still owes an answer to a rebuild or a scrub that is over is cut off, and waited for. */
static void wait_unused(struct nexus *nx) MAY_SUSPEND
{
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];

		if (child->users == 0)
			continue;
		child->is_leaving = true;
		errand_ring(&nx->monitor);
		child_wait_closed(child);
	}
}

static void nexus_free(struct nexus *nx) MAY_SUSPEND
{
	nx->state = NEXUS_CLOSED; /* children may fall until they are closed */
	nx->is_ended = true;
	nexus_health_stop(nx);
	marks_stop(nx);
	errands_wait(nx); /* a mark that hangs on a child wants it cut off */
	wait_unused(nx);
	timer_disarm(reactor_primary(), &nx->monitor_timer); /* for children that are closed here */
	errands_wait(nx);
	while (nx->nchildren > 0) {
		struct child *child = nx->child[nx->order[--nx->nchildren]];

		child_close(child);
		nx->child[child->slot] = NULL;
		child_free(child);
	}
	errands_wait(nx);
	list_del(&nx->link);
	marks_close(nx);
	nexus_scrub_free(nx);
	nexus_rebuild_free(nx);
	record_writer_free(nx->writer);
	free(nx->health);
	free(nx->overlap);
	free(nx);
}

static void nexus_freep(struct nexus **nx)
{
	if (*nx != NULL)
		nexus_free(*nx);
}

/* ---- creating ------------------------------------------------------------------------------- */

static int check_opts(const struct nexus_opts *opts, struct nexus_err *ne)
{
	bool wants_resv = opts->resv_key != 0 || opts->preempt_key != 0 ||
			  opts->preempt_policy != NEXUS_PREEMPT_ARG_KEY;
	unsigned min = opts->cntlid_min != 0 ? opts->cntlid_min : 1;
	unsigned max = opts->cntlid_max != 0 ? opts->cntlid_max : NEXUS_CNTLID_MAX;

	if (opts->name == NULL || opts->name[0] == '\0' || strlen(opts->name) >= DEVICE_NAME_MAX)
		return nexus_fail(ne, NEXUS_E_INVALID_ARGUMENTS,
				  "a nexus needs a name of 1 to %d "
				  "characters",
				  DEVICE_NAME_MAX - 1);
	if (opts->nchildren == 0 || opts->nchildren > NEXUS_CHILDREN_MAX)
		return nexus_fail(ne, NEXUS_E_INVALID_ARGUMENTS,
				  "nexus %s: %u children, 1 to %d are possible", opts->name,
				  opts->nchildren, NEXUS_CHILDREN_MAX);
	if (opts->size == 0)
		return nexus_fail(ne, NEXUS_E_INVALID_ARGUMENTS, "nexus %s: no size given",
				  opts->name);
	if (min > max || max > NEXUS_CNTLID_MAX)
		return nexus_fail(ne, NEXUS_E_INVALID_ARGUMENTS,
				  "nexus %s: controller ids %u to %u, they go from 1 to %d",
				  opts->name, min, max, NEXUS_CNTLID_MAX);
	if (opts->resv_type > 6)
		return nexus_fail(ne, NEXUS_E_INVALID_RESERVATION,
				  "nexus %s: reservation type %u, there are 0 to 6", opts->name,
				  opts->resv_type);
	if (wants_resv && (opts->resv_key == 0 || (opts->preempt_policy == NEXUS_PREEMPT_HOLDER &&
						   opts->preempt_key != 0)))
		return nexus_fail(ne, NEXUS_E_INVALID_ARGUMENTS,
				  "nexus %s: reservations need a key, and a key to preempt goes "
				  "with the policy ArgKey only",
				  opts->name);
	return 0;
}

static int check_duplicate(const char *name, const struct uuid *uuid, struct nexus_err *ne)
{
	struct nexus *nx;

	list_for_each (nx, &all, link) {
		bool is_name = strcmp(nx->dev.name, name) == 0;

		if (!is_name && !uuid_equal(&nx->uuid, uuid))
			continue;
		if (nx->state == NEXUS_INIT)
			return nexus_fail(ne, NEXUS_E_INITIALISING, "nexus %s is being made",
					  nx->dev.name);
		return nexus_fail(ne, is_name ? NEXUS_E_NAME_EXISTS : NEXUS_E_UUID_EXISTS,
				  "nexus %s exists", nx->dev.name);
	}
	if (device_lookup(name) != NULL)
		return nexus_fail(ne, NEXUS_E_NAME_EXISTS, "a device named %s exists", name);
	return 0;
}

static void nexus_init(struct nexus *nx)
{
	list_init(&nx->link);
	list_init(&nx->gone_waiters);
	task_mutex_init(&nx->control);
	task_mutex_init(&nx->record_lock);
	atomic_flag_clear(&nx->repair_lock);
	for (unsigned i = 0; i < REACTORS_MAX; i++)
		nx->bell[i].nx = nx;
}

static void nexus_end_run(struct nexus *nx) MAY_SUSPEND
{
	nexus_end_io(nx);
	errand_wait(&nx->mend);
	nexus_scrub_stop(nx);
	nexus_rebuild_end_all(nx);
	desc_close(take(nx->self));
}

static bool is_reserving(void)
{
	return nexus_settings.is_reserving || getenv("NEXUS_NVMF_RESV_ENABLE") != NULL;
}

static struct nexus *nexus_new(const struct nexus_opts *opts)
{
	struct nexus *nx = calloc(1, sizeof(*nx));
	struct uuid name_uuid;
	char text[UUID_TEXT_SIZE];

	if (nx == NULL)
		return NULL;
	nexus_init(nx);
	errand_init(&nx->retire, nx, "retire", nexus_retire_run);
	errand_init(&nx->monitor, nx, "monitor", nexus_monitor_run);
	errand_init(&nx->mend, nx, "mend", nexus_mend_run);
	errand_init(&nx->mark, nx, "mark", nexus_mark_run);
	errand_init(&nx->rebuild, nx, "rebuild", nexus_rebuild_run);
	errand_init(&nx->end, nx, "end", nexus_end_run);
	errand_init(&nx->look, nx, "look", nexus_look_run);
	errand_init(&nx->smart, nx, "smart", nexus_smart_run);
	/* what others wait for, be memory as short as it may */
	nx->retire.rank = nx->monitor.rank = nx->mark.rank = nx->end.rank = TASK_RETIRE;
	nx->overlap = aligned_alloc(64, sizeof(*nx->overlap));
	nx->writer = record_writer_new();
	nx->health = nexus_health_new(nx);
	if (nx->overlap == NULL || nx->writer == NULL || nx->health == NULL) {
		nexus_free(nx);
		return NULL;
	}
	memset(nx->overlap, 0, sizeof(*nx->overlap));
	nx->dev.driver = &driver_nexus;
	(void)snprintf(nx->dev.name, sizeof(nx->dev.name), "%s", opts->name);
	nx->uuid = opts->uuid;
	if (uuid_is_zero(&nx->uuid) && opts->info_key != NULL)
		identity_derive("nexus", opts->info_key, &nx->uuid); /* the same next time */
	else if (uuid_is_zero(&nx->uuid))
		uuid_random(&nx->uuid);
	nx->dev.uuid = uuid_from_text(opts->name, &name_uuid, NULL) == 0 ? name_uuid : nx->uuid;
	nx->size = opts->size;
	nx->label = opts->label != 0 ? opts->label : NEXUS_LABEL_V1;
	nx->is_size_required = opts->is_size_required;
	nx->is_size_kept = opts->is_size_kept;
	nx->is_round_robin = opts->is_round_robin;
	nx->child_timeout_ns = opts->child_timeout_ns != 0 ? opts->child_timeout_ns
							   : nexus_settings.child_timeout_ns;
	nx->stall_ns = opts->stall_ns != 0 ? opts->stall_ns : nexus_settings.stall_ns;
	nx->slow_ns = opts->slow_ns != 0 ? opts->slow_ns : nexus_settings.slow_ns;
	nx->smart_ns = opts->smart_ns != 0 ? opts->smart_ns : nexus_settings.smart_ns;
	nx->monitor_timer.fn = nexus_monitor_due;
	nx->cntlid_min = opts->cntlid_min != 0 ? opts->cntlid_min : 1;
	nx->cntlid_max = opts->cntlid_max != 0 ? opts->cntlid_max : NEXUS_CNTLID_MAX;
	nx->resv_key = opts->resv_key;
	nx->preempt_key = opts->preempt_key;
	nx->resv_type = opts->resv_type;
	nx->is_reserving = opts->resv_key != 0 && (opts->is_reserving || is_reserving());
	nx->preempt_policy = opts->preempt_policy;
	(void)snprintf(nx->key, sizeof(nx->key), "%s",
		       opts->info_key != NULL && opts->info_key[0] != '\0'
			       ? opts->info_key
			       : uuid_to_text(&nx->uuid, text));
	do
		nx->generation = reactor_random(reactor_primary());
	while (nx->generation == 0);
	list_add_tail(&all, &nx->link);
	return nx;
}

/* A node that is down: is there another way? */
static void explain_unreachable(struct nexus_err *ne, unsigned nchildren)
{
	static const int codes[] = { ECONNREFUSED, ECONNRESET,  ETIMEDOUT, EHOSTUNREACH,
				     EHOSTDOWN,    ENETUNREACH, ENOTCONN };

	for (size_t i = 0; i < ARRAY_LEN(codes) && nchildren > 1; i++) {
		if (ne->err.code == -codes[i])
			(void)err_hint(&ne->err, "all children must be there; without this one in "
						 "the list the others serve, and it is added again "
						 "when it is back");
	}
}

/* Before a child is touched: whoever serves the volume now must not notice that we tried. */
static int lock_record(struct nexus *nx, struct nexus_err *ne) MAY_SUSPEND
{
	int result = record_writer_lock(nx->writer, nx->key, nexus_settings.store_timeout_ns,
					&ne->err);

	if (result == 0)
		return 0;
	(void)nexus_fail(ne, NEXUS_E_STORE, "volume %s", nx->dev.name);
	if (result == -EBUSY)
		(void)err_hint(&ne->err,
			       "end that one, or ask it with 'ashlar ctl'; a volume of its "
			       "own wants another name, or key= in its URI");
	return result;
}

/* All of them, or none. */
static int open_children(struct nexus *nx, const struct nexus_opts *opts, struct nexus_err *ne)
{
	for (unsigned i = 0; i < opts->nchildren; i++) {
		struct child *child;

		if (child_find(nx, opts->children[i]) != NULL)
			return nexus_fail(ne, NEXUS_E_CHILD_EXISTS, "nexus %s: child %s twice",
					  opts->name, opts->children[i]);
		child = child_new(nx, opts->children[i], ne);
		if (child == NULL)
			return ne->err.code;
		nx->child[child->slot] = child;
		nx->order[nx->nchildren++] = child->slot;
		if (child_open(child, ne) < 0) {
			explain_unreachable(ne, opts->nchildren);
			return ne->err.code;
		}
		if (device_size(child->desc->dev) < opts->size) {
			atomic_store(&child->word,
				     child_word(CHILD_CONFIG_INVALID, NEXUS_REASON_NONE, false));
			return nexus_fail(ne, NEXUS_E_INCOMPLETE,
					  "nexus %s: child %s has %lu bytes, less than the %lu "
					  "asked",
					  opts->name, child->uri, device_size(child->desc->dev),
					  opts->size);
		}
	}
	return 0;
}

static int fit_children(struct nexus *nx, uint64_t size, struct nexus_err *ne)
{
	static const struct {
		enum nexus_error why;
		const char *text;
	} texts[] = {
		[GEOMETRY_TOO_SMALL] = { NEXUS_E_CHILD_TOO_SMALL,
					 "is too small for what the nexus keeps on it" },
		[GEOMETRY_BLOCK_SIZE] = { NEXUS_E_CHILD_GEOMETRY, "has an odd block size" },
		[GEOMETRY_MIXED_BLOCKS] = { NEXUS_E_MIXED_BLOCK_SIZES,
					    "has another block size than the first" },
	};
	struct geometry_child shapes[NEXUS_CHILDREN_MAX];
	enum geometry_error error;
	unsigned which = 0;

	for (unsigned i = 0; i < nx->nchildren; i++) {
		const struct device *dev = nx->child[nx->order[i]]->desc->dev;

		shapes[i] = (struct geometry_child){ dev->nblocks, dev->block_size };
	}
	error = geometry_of(nx->label, shapes, nx->nchildren, size, nx->is_size_required,
			    &nx->geometry, &which);
	if (error != GEOMETRY_OK)
		return nexus_fail(ne, texts[error].why, "nexus %s: child %s %s", nx->dev.name,
				  nx->child[nx->order[which]]->uri, texts[error].text);
	return 0;
}

/* What the device can do: what its children have in common. */
static void inherit(struct nexus *nx)
{
	struct device *dev = &nx->dev;
	bool can_unmap = true;

	dev->nblocks = nx->geometry.nblocks;
	dev->buf_align = 1;
	dev->stack_depth = STACK_DEPTH_MIN;
	for (unsigned i = 0; i < nx->nchildren; i++) {
		const struct device *base = nx->child[nx->order[i]]->desc->dev;

		dev->block_size = base->block_size;
		dev->buf_align = MAX(dev->buf_align, base->buf_align);
		dev->physical_block_size = MAX(dev->physical_block_size, base->physical_block_size);
		dev->optimal_io_nlb = MAX(dev->optimal_io_nlb, base->optimal_io_nlb);
		dev->is_thin |= base->is_thin;
		dev->is_rotational |= base->is_rotational;
		dev->is_void |= base->is_void;
		dev->stack_depth = MAX(dev->stack_depth, base->stack_depth + 1);
		can_unmap &= base->ops >> IO_UNMAP & 1;
	}
	dev->is_mirror = true;
	dev->has_write_cache = true;
	dev->unmap_reads_zero = can_unmap;
	dev->ops = IO_BIT(IO_READ) | IO_BIT(IO_WRITE) | IO_BIT(IO_FLUSH) | IO_BIT(IO_RESET) |
		   IO_BIT(IO_WRITE_ZEROES) | IO_BIT(IO_SEEK_DATA) | IO_BIT(IO_SEEK_HOLE);
	if (can_unmap)
		dev->ops |= IO_BIT(IO_UNMAP);
	dev->block_shift = (uint8_t)u64_log2(dev->block_size); /* needed before it is registered */
}

/* In sync, all of them. */
static int start_children(struct nexus *nx, struct nexus_err *ne)
{
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];

		if (segmap_init(&child->missed, nx->dev.nblocks,
				segment_shift(nx->dev.nblocks, nx->dev.block_shift)) < 0)
			return nexus_fail(ne, NEXUS_E_NO_MEMORY, "no memory for child %s",
					  child->uri);
		child->is_missed_known = true;
		child->is_healthy = true;
		atomic_store(&child->word, child_word(CHILD_OPEN, NEXUS_REASON_NONE, true));
	}
	return 0;
}

static void self_event(struct desc *desc, const struct device_event *event)
{
	struct nexus *nx = desc->owner;

	if (event->type == DEVICE_REMOVED) {
		nx->is_removed = true;
		errand_ring(&nx->end);
	}
}

static int serve(struct nexus *nx, struct nexus_err *ne) MAY_SUSPEND
{
	struct desc_opts opts = { .flags = DESC_WRITE, .event = self_event, .owner = nx };
	struct err *err = ne != NULL ? &ne->err : NULL;

	if (device_register(&nx->dev, err) < 0) { /* a child has taken the name */
		int result = nexus_fail(ne, NEXUS_E_NAME_EXISTS, "nexus %s", nx->dev.name);

		nexus_free(nx);
		return result;
	}
	nx->is_registered = true;
	nx->state = NEXUS_OPEN;
	nexus_retire_early(nx);
	if (desc_open(&nx->dev, &opts, &nx->self, err) < 0) {
		(void)nexus_fail(ne, NEXUS_E_INTERNAL, "nexus %s", nx->dev.name);
		return device_remove(&nx->dev, NULL) < 0 ? -EIO : -ENOMEM;
	}
	nexus_tell(nx, NEXUS_EVENT_CREATED, NULL);
	nexus_tell_status(nx);
	return 0;
}

static bool all_open(const struct nexus *nx)
{
	for (unsigned i = 0; i < nx->nchildren; i++) {
		if (child_state_of(atomic_load(&nx->child[nx->order[i]]->word)) != CHILD_OPEN)
			return false;
	}
	return nexus_nhealthy(nx) > 0;
}

/* Those that the record had as stale, or that may differ. One that cannot start is faulted. */
static void start_rebuilds(struct nexus *nx) MAY_SUSPEND
{
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];
		struct nexus_err ne = {};

		if (!child_is_healthy(child) && child_start(child, true, &ne) < 0)
			log_error("nexus %s: child %s stays out of sync: %s", nx->dev.name,
				  child->uri, err_text(&ne.err));
	}
}

static void start_watching(struct nexus *nx)
{
	for (unsigned i = 0; i < nx->nchildren; i++)
		nexus_health_child(nx->child[nx->order[i]]);
}

int nexus_create(const struct nexus_opts *opts, struct nexus **ret_nexus, struct nexus_err *ne)
{
	struct nexus *nx CLEANUP(nexus_freep) = NULL;
	struct nexus_err unread = {};
	int result;

	ne = ne != NULL ? ne : &unread;
	if (nexus_settings.store_tries == 0)
		nexus_settings_set(&(struct nexus_settings){});
	result = check_opts(opts, ne);
	if (result == 0)
		result = check_duplicate(opts->name, &opts->uuid, ne);
	if (result < 0)
		return result;
	nx = nexus_new(opts);
	if (nx == NULL || nexus_settings.store == NULL || task_reserve() < 0)
		return nexus_fail(ne, NEXUS_E_NO_MEMORY, "no memory for nexus %s", opts->name);
	result = lock_record(nx, ne);
	if (result == 0)
		result = open_children(nx, opts, ne);
	if (result == 0)
		result = fit_children(nx, nx->size, ne);
	if (result < 0)
		return result;
	inherit(nx);
	result = start_children(nx, ne);
	for (unsigned i = 0; i < nx->nchildren && result == 0; i++)
		result = nexus_reserve(nx->child[nx->order[i]], ne);
	if (result == 0 && marks_open(nx, &ne->err) < 0)
		result = nexus_fail(ne, NEXUS_E_INTERNAL, "nexus %s", opts->name);
	if (result == 0)
		result = nexus_recover(nx, ne);
	if (result == 0)
		(void)marks_write_children(nx, NULL); /* who fails is found below */
	if (result == 0 && nexus_persist(nx, false, &ne->err) < 0)
		result = nexus_fail(ne, NEXUS_E_STORE, "nexus %s: its record cannot be written",
				    opts->name);
	if (result == 0 && !all_open(nx))
		result = nexus_fail(ne, NEXUS_E_INCOMPLETE, "nexus %s: a child went meanwhile",
				    opts->name);
	if (result < 0)
		return result;
	*ret_nexus = nx;
	result = serve(take(nx), ne);
	if (result == 0) {
		start_watching(*ret_nexus);
		control_begin(*ret_nexus);
		start_rebuilds(*ret_nexus);
		control_end(*ret_nexus);
	}
	return result;
}

/* ---- changing and ending -------------------------------------------------------------------- */

/* Close all children; nothing of them is used on any channel. */
static void close_children(struct nexus *nx)
{
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];
		uint32_t word = atomic_load(&child->word);

		if (child_state_of(word) == CHILD_OPEN)
			atomic_store(&child->word, child_word(CHILD_CLOSED, NEXUS_REASON_NONE,
							      word & CHILD_SYNCED));
		child->is_leaving |= child->desc != NULL;
	}
	nexus_apply(nx);
	errand_ring(&nx->monitor);
	for (unsigned i = 0; i < nx->nchildren; i++)
		child_wait_closed(nx->child[nx->order[i]]);
}

/* The record says that the end was clean; only then may the children's pages forget. */
static void record_clean(struct nexus *nx, bool is_clean) MAY_SUSPEND
{
	struct err err = {};

	if (!is_clean) {
		log_warn("nexus %s: not all was flushed, so the record does not say that it was "
			 "shut down in order",
			 nx->dev.name);
		return;
	}
	if (nexus_persist(nx, true, &err) < 0)
		log_warn("nexus %s: the record does not say that it was shut down in order: %s",
			 nx->dev.name, err_text(&err));
	else
		marks_clear(nx);
}

int nexus_shutdown(struct nexus *nx, struct nexus_err *ne)
{
	bool is_clean;

	if (nx->state == NEXUS_SHUTDOWN)
		return 0;
	if (nx->state != NEXUS_OPEN)
		return nexus_fail(ne, NEXUS_E_NOT_ALLOWED, "nexus %s is %s", nx->dev.name,
				  nexus_state_name(nx->state));
	device_pin(&nx->dev); /* who destroys it meanwhile waits */
	nx->state = NEXUS_SHUTTING_DOWN;
	nexus_tell_status(nx);
	nexus_end_io(nx); /* an operation under way may wait for I/O that is held */
	control_begin(nx);
	nexus_scrub_stop(nx);
	nexus_rebuild_end_all(nx);
	device_quiesce(&nx->dev); /* what is on its way to children tells who has it */
	device_resume(&nx->dev);
	errand_wait(&nx->retire);
	is_clean = marks_finish(nx);
	record_clean(nx, is_clean);
	close_children(nx);
	record_writer_unlock(nx->writer); /* whoever comes next may have it */
	nx->state = NEXUS_SHUTDOWN;
	nexus_tell_status(nx);
	control_end(nx);
	device_unpin(&nx->dev);
	return 0;
}

int nexus_destroy(struct nexus *nx, struct nexus_err *ne)
{
	if (device_remove(&nx->dev, ne != NULL ? &ne->err : NULL) < 0)
		return nexus_fail(ne, NEXUS_E_NOT_ALLOWED, "nexus is going already");
	return 0;
}

/* Driver: all descriptors are closed, no channel is left. */
static void nexus_free_device(struct device *dev)
{
	struct nexus *nx = nexus_of(dev);
	bool is_open = nx->state == NEXUS_OPEN;

	errands_wait(nx);
	nx->is_registered = false;
	if (is_open) {
		bool is_clean = marks_finish(nx);

		record_clean(nx, is_clean);
	}
	nx->state = NEXUS_CLOSED;
	nexus_tell(nx, NEXUS_EVENT_DESTROYED, NULL);
	nexus_free(nx);
}

/* It has another size: the record, too, so that it is not made again with the old one. */
static void resized(struct nexus *nx, uint64_t size) MAY_SUSPEND
{
	struct err err = {};

	nx->size = size;
	nexus_tell(nx, NEXUS_EVENT_RESIZED, NULL);
	if (nexus_persist(nx, false, &err) < 0)
		log_warn("nexus %s: the record does not say that it has grown: %s", nx->dev.name,
			 err_text(&err));
}

/*
 * The smallest and the largest size that make @nx larger than now, in bytes. False: none does. The
 * largest is what the next start takes, too: no child may be smaller than what is asked.
 */
static bool growth(const struct nexus *nx, uint64_t *ret_min, uint64_t *ret_max,
		   const struct child **ret_smallest)
{
	uint64_t now = nx->dev.nblocks, room = 0;
	bool has_slip = nx->label == NEXUS_LABEL_V1 && !nx->is_size_required;

	*ret_max = UINT64_MAX;
	*ret_smallest = NULL;
	for (unsigned i = 0; i < nx->nchildren; i++) {
		const struct child *child = nx->child[nx->order[i]];
		const struct device *dev = child->desc->dev;
		struct geometry_child shape = { dev->nblocks, dev->block_size };
		struct geometry one = {};

		if (*ret_smallest != NULL && device_size(dev) >= *ret_max)
			continue;
		*ret_smallest = child;
		*ret_max = device_size(dev);
		/* as much as there is room for */
		room = geometry_of_child(nx->label, &shape, INT64_MAX, false, &one) == GEOMETRY_OK
			       ? one.nblocks
			       : 0;
	}
	if (nx->is_size_required)
		*ret_max = room * nx->dev.block_size;
	*ret_min = (now + 1 + has_slip) * nx->dev.block_size;
	return room > now;
}

/* Of a size that cannot be, or that would change nothing. */
static int refuse_size(const struct nexus *nx, uint64_t size, const char *why, struct nexus_err *ne)
{
	char asked[UNITS_TEXT_MAX], has[UNITS_TEXT_MAX];
	const struct child *smallest;
	uint64_t min, max;

	if (!growth(nx, &min, &max, &smallest))
		return nexus_fail(
			ne, NEXUS_E_CHILD_TOO_SMALL,
			"nexus %s: %s %s: child %s has %s and no room left; it grows after "
			"its replicas",
			nx->dev.name, size_format(size, asked), why, smallest->uri,
			size_format(device_size(smallest->desc->dev), has));
	return nexus_fail(ne, NEXUS_E_CHILD_TOO_SMALL,
			  "nexus %s: %s %s: child %s has %s; sizes from %lu to %lu bytes would do",
			  nx->dev.name, size_format(size, asked), why, smallest->uri,
			  size_format(device_size(smallest->desc->dev), has), min, max);
}

/* What the next start would not take is not begun with: the record would keep it for good. */
static int check_size(const struct nexus *nx, uint64_t size, struct nexus_err *ne)
{
	const struct child *smallest;
	uint64_t min, max;

	(void)growth(nx, &min, &max, &smallest);
	return size > max && size != nx->size ? refuse_size(nx, size, "do not fit", ne) : 0;
}

int nexus_resize(struct nexus *nx, uint64_t size, struct nexus_err *ne)
{
	struct geometry old;
	struct nexus_err unread = {};
	int result = 0;

	ne = ne != NULL ? ne : &unread;
	control_begin(nx);
	old = nx->geometry;
	if (nx->state != NEXUS_OPEN || nx->is_frozen)
		result = nexus_fail(ne, NEXUS_E_NOT_ALLOWED, "nexus %s is %s", nx->dev.name,
				    nx->is_frozen ? "frozen" : nexus_state_name(nx->state));
	for (unsigned i = 0; i < nx->nchildren && result == 0; i++) {
		if (nx->child[nx->order[i]]->desc == NULL)
			result = nexus_fail(ne, NEXUS_E_RESIZE,
					    "nexus %s: child %s is not open, its size is not known",
					    nx->dev.name, nx->child[nx->order[i]]->uri);
	}
	if (result == 0)
		result = check_size(nx, size, ne);
	if (result == 0)
		result = fit_children(nx, size, ne);
	if (result == 0 && size != nx->size && nx->geometry.nblocks <= old.nblocks)
		result = refuse_size(nx, size, "would not make it larger", ne);
	if (result == 0 && nx->geometry.nblocks > old.nblocks) {
		result = device_resize(&nx->dev, nx->geometry.nblocks, &ne->err);
		if (result < 0)
			result = nexus_fail(ne, NEXUS_E_RESIZE, "nexus %s", nx->dev.name);
		else
			resized(nx, size);
	}
	if (result < 0)
		nx->geometry = old;
	control_end(nx);
	return result;
}

/* Driver: quiesced, dev->nblocks is the new size. */
static int nexus_resized(struct device *dev, uint64_t old_nblocks, struct err *err)
{
	(void)old_nblocks;
	return marks_resize(nexus_of(dev), dev->nblocks, err);
}

/* ---- the driver ----------------------------------------------------------------------------- */

/* URIs between commas; a comma inside one is encoded once more. Freed by the caller. */
static unsigned split_children(char *text, const char *ret[NEXUS_CHILDREN_MAX + 1])
{
	unsigned n = 0;
	char *at = text, *next;

	while (at != NULL && n <= NEXUS_CHILDREN_MAX) {
		next = strchr(at, ',');
		if (next != NULL)
			*next++ = '\0';
		ret[n++] = at;
		at = next;
	}
	return n;
}

struct create_args {
	struct nexus_opts opts;
	char *text; /* owned */
	const char *children[NEXUS_CHILDREN_MAX + 1];
};

/* Any of them asks for reservations; so does the environment, with the defaults. */
static int resv_of_uri(struct uri *uri, struct nexus_opts *opts, struct err *err)
{
	static const char *const policies[] = { "argkey", "holder" };
	unsigned policy = 0;
	uint64_t type = NEXUS_RESV_TYPE;
	bool is_asked = uri_has(uri, "resv_key") || uri_has(uri, "resv_type") ||
			uri_has(uri, "preempt_key") || uri_has(uri, "preempt");
	int result;

	opts->resv_key = NEXUS_RESV_KEY;
	result = uri_param_u64(uri, "resv_key", 1, UINT64_MAX, &opts->resv_key, err);
	if (result == 0)
		result = uri_param_u64(uri, "preempt_key", 1, UINT64_MAX, &opts->preempt_key, err);
	if (result == 0)
		result = uri_param_u64(uri, "resv_type", 1, 6, &type, err);
	if (result == 0)
		result = uri_param_choice(uri, "preempt", policies, ARRAY_LEN(policies), &policy,
					  err);
	opts->is_reserving = is_asked;
	opts->resv_type = (uint8_t)type;
	opts->preempt_policy = policy == 1 ? NEXUS_PREEMPT_HOLDER : NEXUS_PREEMPT_ARG_KEY;
	return result;
}

/* Zero turns it off. */
static int warn_param(struct uri *uri, const char *key, uint64_t *ns, struct err *err)
{
	int result = uri_param_duration(uri, key, ns, err);

	if (result == 0 && uri_has(uri, key) && *ns == 0)
		*ns = UINT64_MAX;
	return result;
}

static int warnings_of_uri(struct uri *uri, struct nexus_opts *opts, struct err *err)
{
	int result = warn_param(uri, "stall_warn", &opts->stall_ns, err);

	if (result == 0)
		result = warn_param(uri, "slow_warn", &opts->slow_ns, err);
	if (result == 0)
		result = warn_param(uri, "smart_every", &opts->smart_ns, err);
	return result;
}

/* No uuid given: the same each time, as hosts, and the notes on the children, know it by it. */
static void uuid_of_name(void *arg)
{
	struct nexus_opts *opts = arg;
	char machine[IDENTITY_WHAT_MAX], name[DEVICE_NAME_MAX + 8];

	identity_machine(machine, sizeof(machine));
	(void)snprintf(name, sizeof(name), "nexus:%s", opts->name);
	identity_derive(machine, name, &opts->uuid);
}

static int args_of_uri(struct uri *uri, struct create_args *args, struct err *err)
{
	static const char *const labels[] = { "v1", "v2" }, *const picks[] = { "load",
									       "round-robin" };
	const char *children = NULL;
	unsigned label = 0, pick = 0;
	int result;

	args->opts.name = uri_name(uri);
	if (uri->authority[0] != '\0')
		return err_set(err, -EINVAL, "nexus://%s: three slashes are meant", uri->authority);
	result = uri_param_size(uri, "size", &args->opts.size, err);
	if (result == 0)
		result = uri_param_str(uri, "children", &children, err);
	if (result == 0)
		result = driver_param_uuid(uri, &args->opts.uuid, err);
	if (result == 0)
		result = uri_param_choice(uri, "label", labels, ARRAY_LEN(labels), &label, err);
	if (result == 0)
		result = uri_param_bool(uri, "required_size", &args->opts.is_size_required, err);
	if (result == 0)
		result = uri_param_choice(uri, "read", picks, ARRAY_LEN(picks), &pick, err);
	if (result == 0)
		result = uri_param_str(uri, "key", &args->opts.info_key, err);
	if (result == 0)
		result = uri_param_duration(uri, "child_timeout", &args->opts.child_timeout_ns,
					    err);
	if (result == 0)
		result = warnings_of_uri(uri, &args->opts, err);
	if (result == 0)
		result = resv_of_uri(uri, &args->opts, err);
	if (result == 0)
		result = uri_reject_unused(uri, err);
	if (result < 0)
		return result;
	if (children == NULL)
		return err_set(err, -EINVAL, "a nexus wants children=URI,URI");
	if (uuid_is_zero(&args->opts.uuid)) {
		if (args->opts.info_key == NULL)
			args->opts.info_key = args->opts.name;
		task_blocking(uuid_of_name, &args->opts);
	}
	args->text = strdup(children);
	if (args->text == NULL)
		return err_set(err, -ENOMEM, "no memory for a nexus");
	args->opts.label = label == 0 ? NEXUS_LABEL_V1 : NEXUS_LABEL_V2;
	args->opts.is_round_robin = pick == 1;
	args->opts.is_size_kept = true;
	args->opts.children = args->children;
	args->opts.nchildren = split_children(args->text, args->children);
	return 0;
}

static int nexus_create_uri(struct uri *uri, struct device **ret_dev, struct err *err)
{
	struct create_args args = {};
	struct nexus_err ne = {};
	struct nexus *nx;
	int result = args_of_uri(uri, &args, err);

	if (result == 0) {
		result = nexus_create(&args.opts, &nx, &ne);
		if (result < 0)
			(void)err_set(err, result, "%s", err_text(&ne.err));
		else
			*ret_dev = &nx->dev;
	}
	free(args.text);
	return result;
}

const struct driver driver_nexus = {
	.name = "nexus",
	.product = NEXUS_PRODUCT,
	.schemes = (const char *const[]){ "nexus", NULL },
	.help = "nexus:///NAME?size=BYTES&children=URI,URI[&uuid=UUID][&label=v1|v2]"
		"[&required_size][&read=load|round-robin][&key=KEY][&child_timeout=TIME]"
		"[&stall_warn=TIME][&slow_warn=TIME][&smart_every=TIME]"
		"[&resv_key=N][&resv_type=N][&preempt=argkey|holder][&preempt_key=N]",
	.channel_size = sizeof(struct nexus_channel),
	.create = nexus_create_uri,
	.destroy = nexus_free_device,
	.channel_open = nexus_channel_open,
	.channel_close = nexus_channel_close,
	.submit = nexus_submit,
	.resized = nexus_resized,
};
