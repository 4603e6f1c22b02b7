/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nexus.c - a nexus is made; and found.
 *
 *   nexus_create --> INIT: record locked, children made and opened (all of them, or none)
 *                    --> geometry (size.c) --> reservations --> marks read (marks.c)
 *                    --> who is in sync (recover.c) --> marks and record written
 *                    --> device_register --> OPEN --> rebuilds of those who are not
 *
 * From OPEN on: child.c adds and takes children, size.c grows it, end.c ends it.
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
 * Decision: a name or uuid that exists is refused, whatever its children are (the engine that this
 * one stands in for said yes without comparing).
 *
 * Thread: tasks on the primary.
 */
#include <errno.h>
#include <string.h>

#include "base/identity.h"
#include "base/log.h"
#include "base/units.h"
#include "nexus/internal.h"
#include "nexus/marks.h"

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
	if (nexus_settings.intent_fine == 0)
		nexus_settings.intent_fine = 64;
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
					  "asked: ask for less with size=, or grow its replicas",
					  opts->name, child->uri, device_size(child->desc->dev),
					  opts->size);
		}
	}
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

static void nexus_freep(struct nexus **nx)
{
	if (*nx != NULL)
		nexus_free(*nx);
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
		result = nexus_fit_children(nx, nx->size, ne);
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
	if (result == 0 && all_open(nx))
		marks_note_recorded(nx);
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
