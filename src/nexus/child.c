/* SPDX-License-Identifier: Apache-2.0 */
/*
 * child.c - the children of a nexus: their devices, and what a client may do with them.
 *
 * A child is a URI first. Its device is made from it when the child is opened, and removed when
 * it is closed; so a child that was offline comes back as whatever the URI leads to then. If that
 * is not the replica that left (a new disk under the old name, memory that was emptied), all of it
 * is copied: the write-intent records on it tell.
 *
 *   operation   allowed                                 then
 *   add         open, not frozen; unknown URI; fits     opened out of sync, recorded, rebuilt
 *   remove      not the last; not the last healthy      leaves (retire.c), then forgotten
 *   fault       not the last healthy                    leaves, stays listed
 *   online      closed, or its fault can be mended      opened out of sync, rebuilt
 *
 * Removing goes through retirement: the child becomes stale in the record before it disappears
 * from it, so that a crash between the two leaves a record that is true.
 *
 * A replica serves once: what is a child already, of this nexus or another, under whatever name, is
 * refused, and so is a second one of the same uuid, since the record tells children apart by it.
 *
 * Decisions: an add or an online whose rebuild cannot start fails, and says so; the child stays
 * listed, out of sync. A child's uuid is the one in its URI, else that of its device: never a
 * reason to refuse it.
 *
 * Thread: tasks on the primary; child_event() in the announcing task.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "nexus/internal.h"
#include "nexus/marks.h"

const struct nexus_rebuilder *nexus_rebuilder = &rebuild_jobs;

void nexus_set_rebuilder(const struct nexus_rebuilder *rebuilder)
{
	nexus_rebuilder = rebuilder;
}

/* ---- coming and going ----------------------------------------------------------------------- */

static bool is_remote(const char *uri)
{
	return strncmp(uri, "nvmf", 4) == 0;
}

/*
 * The replica's uuid, and the URI of the device. A remote child must not come back by itself after
 * its connection was lost: what it had not flushed may be gone. So its device is told to give up at
 * once, unless the URI says something else.
 */
static int child_read_uri(struct child *child, struct nexus_err *ne)
{
	struct uri *uri CLEANUP(uri_freep) = NULL;
	struct err *err = ne != NULL ? &ne->err : NULL;
	int result = uri_parse(child->uri, &uri, err);
	const char *more = "";
	size_t size;

	if (result == 0)
		result = uri_param_uuid(uri, "uuid", &child->uuid, err);
	if (result < 0)
		return nexus_fail(ne, NEXUS_E_CREATE_CHILD, "child %s", child->uri);
	if (!child->is_local && !uri_has(uri, "ctrl_loss"))
		more = strchr(child->uri, '?') != NULL ? "&ctrl_loss=0" : "?ctrl_loss=0";
	size = strlen(child->uri) + strlen(more) + 1;
	child->device_uri = malloc(size);
	if (child->device_uri == NULL)
		return nexus_fail(ne, NEXUS_E_NO_MEMORY, "no memory for child %s", child->uri);
	(void)snprintf(child->device_uri, size, "%s%s", child->uri, more);
	return 0;
}

void child_free(struct child *child)
{
	if (child == NULL)
		return;
	segmap_done(&child->missed);
	free(child->uri);
	free(child->device_uri);
	free(child);
}

struct child *child_new(struct nexus *nx, const char *uri, struct nexus_err *ne)
{
	struct child *child = calloc(1, sizeof(*child));

	if (child == NULL || (child->uri = strdup(uri)) == NULL) {
		child_free(child);
		(void)nexus_fail(ne, NEXUS_E_NO_MEMORY, "no memory for child %s", uri);
		return NULL;
	}
	child->nx = nx;
	child->is_local = !is_remote(uri);
	if (child_read_uri(child, ne) < 0) {
		child_free(child);
		return NULL;
	}
	while (nx->child[child->slot] != NULL)
		child->slot++;
	return child;
}

struct child *child_find(struct nexus *nx, const char *uri)
{
	for (unsigned i = 0; i < nx->nchildren; i++) {
		if (strcmp(nx->child[nx->order[i]]->uri, uri) == 0)
			return nx->child[nx->order[i]];
	}
	return NULL;
}

/* Its device says something. No suspending here. */
static void child_event(struct desc *desc, const struct device_event *event)
{
	struct child *child = desc->owner;

	switch (event->type) {
	case DEVICE_LOOPBACK_REMOVED:
		if (device_has_alias(desc->dev, child->device_uri))
			break; /* it was another name that went */
		FALLTHROUGH;
	case DEVICE_REMOVED:
		/* one that fell before is being closed; one that never served is closed, too */
		(void)nexus_child_fail(child, CHILD_CLOSED, NEXUS_REASON_NONE);
		break;
	case DEVICE_FAILED:
		(void)snprintf(child->why, sizeof(child->why), "%s",
			       event->why != NULL ? event->why : "");
		(void)nexus_child_fail(child, CHILD_FAULTED, NEXUS_REASON_ADMIN_FAILED);
		break;
	case DEVICE_MEDIA:
		nexus_health_medium(child);
		break;
	case DEVICE_RESIZED:
	case DEVICE_RESERVATION: /* a write that meets it says so itself, as the next does */
	case DEVICE_ENDED:
	case DEVICE_EVENT_COUNT_:
		break;
	}
}

static void child_take_over(struct child *child, const struct device *dev)
{
	(void)snprintf(child->device_name, sizeof(child->device_name), "%s", dev->name);
	if (uuid_is_zero(&child->uuid))
		child->uuid = dev->uuid;
	child->why[0] = '\0';
	child->zeroes_for_unmap = !(dev->ops & IO_BIT(IO_UNMAP)) || !dev->unmap_reads_zero;
}

/* Who has @dev, or in the same nexus the uuid that @child would have with it; NULL: nobody. */
static const struct child *child_twin(const struct child *child, const struct device *dev)
{
	const struct uuid *uuid = uuid_is_zero(&child->uuid) ? &dev->uuid : &child->uuid;
	struct nexus *nx = NULL;

	while ((nx = nexus_next(nx)) != NULL) {
		for (unsigned i = 0; i < nx->nchildren; i++) {
			const struct child *other = nx->child[nx->order[i]];

			if (other != child && ((other->desc != NULL && other->desc->dev == dev) ||
					       (nx == child->nx && uuid_equal(&other->uuid, uuid))))
				return other;
		}
	}
	return NULL;
}

/* What was made for @child is taken away; where it is @twin's device, only the name is. */
static void child_give_back(const struct child *child, const struct device *dev,
			    const struct child *twin)
{
	bool is_shared = twin != NULL && twin->desc != NULL && twin->desc->dev == dev;
	bool is_name = strncmp(child->uri, "bdev:", 5) == 0 ||
		       strncmp(child->uri, "loopback:", 9) == 0 || dev->driver->leave != NULL;

	if (is_shared && (!is_name || strcmp(twin->device_uri, child->device_uri) == 0))
		return;
	if (device_destroy(child->device_uri, NULL) < 0)
		log_debug("child %s went by itself", child->uri);
}

/* Drivers name the URI they were given, ours is the same or the beginning of it. */
static int fail_to_create(const struct child *child, struct nexus_err *ne)
{
	if (ne != NULL &&
	    strncmp(err_text(&ne->err), child->device_uri, strlen(child->device_uri)) == 0)
		return nexus_fail(ne, NEXUS_E_CREATE_CHILD, "child of nexus %s",
				  child->nx->dev.name);
	return nexus_fail(ne, NEXUS_E_CREATE_CHILD, "child %s", child->uri);
}

int child_open(struct child *child, struct nexus_err *ne)
{
	struct desc_opts opts = { .flags = DESC_WRITE, .event = child_event, .owner = child };
	struct err *err = ne != NULL ? &ne->err : NULL;
	const struct child *twin;
	struct device *dev;
	struct handle *h;
	struct desc *desc;
	int result;

	if (device_create(child->device_uri, &dev, err) < 0)
		return fail_to_create(child, ne);
	twin = child_twin(child, dev);
	if (twin != NULL) {
		result = nexus_fail(ne, NEXUS_E_CHILD_EXISTS,
				    "child %s is the same replica as %s of nexus %s", child->uri,
				    twin->uri, twin->nx->dev.name);
		child_give_back(child, dev, twin);
		return result;
	}
	result = desc_open(dev, &opts, &desc, err);
	if (result == 0 && (result = handle_open(desc, reactor_primary(), &h, err)) < 0)
		desc_close(desc); /* without one, no task could do I/O of its own */
	if (result < 0) {
		child_give_back(child, dev, NULL);
		return nexus_fail(ne, NEXUS_E_OPEN_CHILD, "child %s", child->uri);
	}
	child_take_over(child, dev);
	child->desc = desc;
	return 0;
}

void child_close(struct child *child)
{
	struct nexus *nx = child->nx;
	struct desc *desc;
	struct err err = {};

	if (nx->is_registered)
		task_mutex_lock(&nx->dev.control); /* channels that are being made look at it */
	desc = take(child->desc);
	if (nx->is_registered)
		task_mutex_unlock(&nx->dev.control);
	if (desc == NULL)
		return;
	nexus_health_forget(child);
	desc_close(desc);
	/* -ENOENT, -EALREADY: it was removed first, that is why we are here */
	if (device_destroy(child->device_uri, &err) < 0 && err.code != -ENOENT &&
	    err.code != -EALREADY)
		log_warn("nexus %s: the device of child %s stays: %s", nx->dev.name, child->uri,
			 err_text(&err));
}

/* ---- rules ---------------------------------------------------------------------------------- */

static int check_serving(struct nexus *nx, struct nexus_err *ne)
{
	if (nx->state != NEXUS_OPEN || nx->is_ended)
		return nexus_fail(ne, NEXUS_E_NOT_ALLOWED, "nexus %s is %s: it cannot be changed",
				  nx->dev.name, nexus_state_name(nx->state));
	if (nx->is_frozen)
		return nexus_fail(
			ne, NEXUS_E_NOT_ALLOWED,
			"nexus %s is frozen, no child is healthy: stop what serves it and "
			"start it again, hosts wait for that; to remove it from a target "
			"that runs gives them errors",
			nx->dev.name);
	return 0;
}

static int find_child(struct nexus *nx, const char *uri, struct child **ret, struct nexus_err *ne)
{
	*ret = child_find(nx, uri);
	if (*ret == NULL)
		return nexus_fail(ne, NEXUS_E_CHILD_NOT_FOUND, "nexus %s has no child %s",
				  nx->dev.name, uri);
	return 0;
}

static int check_not_last(struct nexus *nx, const struct child *child, struct nexus_err *ne)
{
	if (nx->nchildren == 1)
		return nexus_fail(ne, NEXUS_E_REMOVE_LAST_CHILD, "%s is the only child of nexus %s",
				  child->uri, nx->dev.name);
	if (child_is_healthy(child) && nexus_nhealthy(nx) == 1)
		return nexus_fail(ne, NEXUS_E_REMOVE_LAST_HEALTHY,
				  "%s is the last healthy child of nexus %s", child->uri,
				  nx->dev.name);
	return 0;
}

/* Blocks; 0: none is healthy. */
static uint64_t smallest_healthy(const struct nexus *nx)
{
	uint64_t smallest = 0;

	for (unsigned i = 0; i < nx->nchildren; i++) {
		const struct child *child = nx->child[nx->order[i]];

		if (child_is_healthy(child) && child->desc != NULL &&
		    (smallest == 0 || child->desc->dev->nblocks < smallest))
			smallest = child->desc->dev->nblocks;
	}
	return smallest;
}

/* Does a child that has just been opened fit what is served? */
static int check_fits(struct nexus *nx, const struct child *child, struct nexus_err *ne)
{
	const struct device *dev = child->desc->dev;
	struct geometry_child shape = { dev->nblocks, dev->block_size };
	struct geometry geometry;

	if (dev->block_size != nx->dev.block_size)
		return nexus_fail(ne, NEXUS_E_CHILD_GEOMETRY,
				  "child %s has blocks of %u bytes, nexus %s of %u", child->uri,
				  dev->block_size, nx->dev.name, nx->dev.block_size);
	if (geometry_of_child(nx->label, &shape, device_size(&nx->dev), true, &geometry) !=
	    GEOMETRY_OK)
		return nexus_fail(ne, NEXUS_E_CHILD_GEOMETRY,
				  "child %s is too small: nexus %s needs %lu blocks after its "
				  "reserved area",
				  child->uri, nx->dev.name, nx->dev.nblocks);
	if (dev->stack_depth >= nx->dev.stack_depth)
		return nexus_fail(ne, NEXUS_E_CHILD_GEOMETRY,
				  "child %s is %u devices deep, nexus %s was made for %u",
				  child->uri, dev->stack_depth, nx->dev.name,
				  nx->dev.stack_depth - 1);
	if (dev->nblocks < smallest_healthy(nx))
		return nexus_fail(ne, NEXUS_E_CHILD_GEOMETRY,
				  "child %s has %lu blocks, the smallest healthy one %lu",
				  child->uri, dev->nblocks, smallest_healthy(nx));
	return 0;
}

/* ---- leaving -------------------------------------------------------------------------------- */

/* Out, recorded, closed. */
static void child_leave(struct child *child, enum child_state state, enum nexus_reason reason)
{
	struct nexus *nx = child->nx;

	(void)nexus_child_fail(child, state, reason);
	errand_wait(&nx->retire);
	child_wait_closed(child);
}

int nexus_child_fault(struct nexus *nx, const char *uri, enum nexus_reason reason,
		      struct nexus_err *ne)
{
	struct child *child;
	int result;

	control_begin(nx);
	result = nx->state == NEXUS_OPEN ? find_child(nx, uri, &child, ne)
					 : nexus_fail(ne, NEXUS_E_NOT_ALLOWED, "nexus %s is %s",
						      nx->dev.name, nexus_state_name(nx->state));
	if (result == 0) {
		errand_wait(&nx->retire); /* it may have fallen a moment ago: is that recorded? */
		result = check_not_last(nx, child, ne);
	}
	if (result == 0) {
		uint32_t word = atomic_load(&child->word);

		if (child_state_of(word) == CHILD_OPEN)
			child_leave(child, CHILD_FAULTED, reason);
		else if (reason == NEXUS_REASON_OFFLINE_PERMANENT)
			atomic_store(&child->word,
				     child_word(CHILD_FAULTED, reason, word & CHILD_SYNCED) |
					     (word & CHILD_SETTLED));
		if (nx->state != NEXUS_OPEN)
			result = nexus_fail(ne, NEXUS_E_STORE,
					    "nexus %s ended itself: its record cannot be written",
					    nx->dev.name);
	}
	control_end(nx);
	return result;
}

/* Not in the list any more, on no channel. */
static void child_forget(struct child *child) MAY_SUSPEND
{
	struct nexus *nx = child->nx;
	unsigned n = 0;

	task_mutex_lock(&nx->dev.control);
	for (unsigned i = 0; i < nx->nchildren; i++) {
		if (nx->order[i] != child->slot)
			nx->order[n++] = nx->order[i];
	}
	nx->nchildren = n;
	task_mutex_unlock(&nx->dev.control);
	nexus_apply(nx);
	nx->child[child->slot] = NULL;
}

/* It has left, and is on the way out of the record. */
static int child_drop(struct child *child, struct nexus_err *ne) MAY_SUSPEND
{
	struct nexus *nx = child->nx;
	struct err err = {};

	/* the record keeps the last one healthy, and it may tell of nobody else */
	if (child->is_healthy && nx->state == NEXUS_OPEN)
		return nexus_fail(ne, NEXUS_E_REMOVE_LAST_HEALTHY,
				  "%s is the last healthy child in the record of nexus %s, as the "
				  "others fell meanwhile: it stays listed",
				  child->uri, nx->dev.name);
	marks_lock(nx);
	child->is_missed_known = false; /* no fold any more */
	marks_note_missed(child);
	marks_unlock(nx);
	child_forget(child);
	nexus_tell(nx, NEXUS_EVENT_CHILD_REMOVED, child);
	child_free(child);
	if (nx->state == NEXUS_OPEN && nexus_persist(nx, false, &err) < 0)
		nexus_self_shutdown(nx, err_text(&err));
	if (nx->state == NEXUS_OPEN)
		return 0;
	return nexus_fail(ne, NEXUS_E_STORE, "nexus %s ended itself: its record cannot be written",
			  nx->dev.name);
}

int nexus_child_remove(struct nexus *nx, const char *uri, struct nexus_err *ne)
{
	struct child *child;
	int result;

	control_begin(nx);
	result = check_serving(nx, ne);
	if (result == 0)
		result = find_child(nx, uri, &child, ne);
	if (result == 0)
		result = check_not_last(nx, child, ne);
	if (result == 0) {
		child_leave(child, CHILD_CLOSED, NEXUS_REASON_NONE);
		result = child_drop(child, ne);
		nexus_tell_status(nx);
	}
	control_end(nx);
	return result;
}

/* ---- coming --------------------------------------------------------------------------------- */

/* A map for what it misses from now on; what was known stays. */
static int child_map(struct child *child, struct nexus_err *ne)
{
	struct device *dev = &child->nx->dev;

	if (child->missed.words != NULL)
		return 0;
	if (segmap_init(&child->missed, dev->nblocks,
			segment_shift(dev->nblocks, dev->block_shift)) < 0)
		return nexus_fail(ne, NEXUS_E_NO_MEMORY, "no memory for child %s", child->uri);
	return 0;
}

/* What it misses is known of the replica that left: is this it? */
static void child_check_missed(struct child *child) MAY_SUSPEND
{
	if (!child->is_missed_known || marks_are_on(child, child->head_generation))
		return;
	log_warn("nexus %s: child %s does not hold the write-intent records of the replica that "
		 "left: all of it is copied",
		 child->nx->dev.name, child->uri);
	child->is_missed_known = false;
}

int nexus_child_attach(struct child *child, struct err *err)
{
	struct nexus *nx = child->nx;
	int result = nexus_open_legs(nx, child, err);

	if (result < 0)
		return result;
	child_check_missed(child);
	device_quiesce(&nx->dev);
	/* channels that were made meanwhile; nothing runs now */
	result = nexus_open_legs(nx, child, err);
	marks_lock(nx);
	if (result == 0 && !marks_write_children(nx, child))
		result = err_set(err, -EIO, "write-intent records cannot be written to %s",
				 child->uri);
	/* it came to nothing then, and a child that comes again is no writer before its turn */
	if (result == 0 && child_state_of(atomic_load(&child->word)) != CHILD_OPEN)
		result = err_set(err, -ENODEV, "child %s fell", child->uri);
	child->is_writer = result == 0;
	nexus_apply(nx);
	if (result == 0)
		marks_note_missed(child);
	marks_unlock(nx);
	device_resume(&nx->dev);
	return result;
}

int nexus_child_synced(struct child *child, struct err *err)
{
	struct nexus *nx = child->nx;
	uint32_t word = child_word(CHILD_OPEN, NEXUS_REASON_NONE, false);
	int result;

	/* frozen: a write may be on this child only, and the record's last healthy one lacks it */
	if (nx->is_frozen || nx->is_ended)
		return err_set(err, -ECANCELED, "nexus %s %s", nx->dev.name,
			       nx->is_frozen ? "is frozen" : "has ended");
	segmap_zero(&child->missed);
	if (!child->is_writer ||
	    !atomic_compare_exchange_strong(&child->word, &word, word | CHILD_SYNCED))
		return err_set(err, -ECANCELED, "child %s fell before it was in sync", child->uri);
	child->is_missed_known = true;
	child->is_healthy = true;
	nexus_apply(nx);
	result = nexus_persist(nx, false, err);
	if (result < 0) {
		nexus_self_shutdown(nx, "its record cannot be written");
	} else {
		marks_lock(nx);
		marks_note_synced(child);
		marks_unlock(nx);
	}
	nexus_tell(nx, NEXUS_EVENT_CHILD_STATE, child);
	nexus_tell_status(nx);
	return result;
}

/* Opened, out of sync: writes to it, and a rebuild if there is one who does it. */
int child_start(struct child *child, bool is_rebuilt, struct nexus_err *ne)
{
	struct nexus *nx = child->nx;
	struct err err = {};
	int result;

	atomic_store(&child->word, child_word(CHILD_OPEN, NEXUS_REASON_NONE, false));
	nexus_health_child(child);
	nexus_apply(nx);
	if (is_rebuilt && nexus_rebuilder != NULL)
		result = nexus_rebuilder->start(child, ne);
	else if ((result = nexus_child_attach(child, &err)) < 0)
		result = nexus_fail(ne, NEXUS_E_OPEN_CHILD, "child %s: %s", child->uri,
				    err_text(&err));
	if (result < 0)
		(void)nexus_child_fail(child, CHILD_FAULTED, NEXUS_REASON_REBUILD_FAILED);
	nexus_tell(nx, NEXUS_EVENT_CHILD_STATE, child);
	return result;
}

static int child_list(struct child *child, struct nexus_err *ne) MAY_SUSPEND
{
	struct nexus *nx = child->nx;

	if (child_map(child, ne) < 0)
		return -ENOMEM;
	child->is_missed_known = false;
	child->is_healthy = false;
	task_mutex_lock(&nx->dev.control);
	nx->child[child->slot] = child;
	nx->order[nx->nchildren++] = child->slot;
	task_mutex_unlock(&nx->dev.control);
	return 0;
}

int nexus_child_add(struct nexus *nx, const char *uri, bool is_rebuilt, struct nexus_err *ne)
{
	struct child *child = NULL;
	struct nexus_err unread = {};
	struct err err = {};
	int result;

	ne = ne != NULL ? ne : &unread;
	control_begin(nx);
	result = check_serving(nx, ne);
	if (result == 0 && child_find(nx, uri) != NULL)
		result = nexus_fail(ne, NEXUS_E_CHILD_EXISTS, "nexus %s has child %s already",
				    nx->dev.name, uri);
	if (result == 0 && nx->nchildren == NEXUS_CHILDREN_MAX)
		result = nexus_fail(ne, NEXUS_E_NOT_ALLOWED,
				    "nexus %s has %d children, no more fit", nx->dev.name,
				    NEXUS_CHILDREN_MAX);
	if (result == 0) {
		child = child_new(nx, uri, ne);
		result = child == NULL ? ne->err.code : child_open(child, ne);
	}
	if (result == 0)
		result = check_serving(nx, ne); /* opening may have taken long */
	if (result == 0)
		result = check_fits(nx, child, ne);
	if (result == 0)
		result = nexus_reserve(child, ne);
	if (result == 0)
		result = child_list(child, ne);
	if (result < 0 && child != NULL) {
		child_close(child);
		child_free(child);
	}
	if (result == 0) {
		nexus_tell(nx, NEXUS_EVENT_CHILD_ADDED, child);
		if (nexus_persist(nx, false, &err) < 0) {
			nexus_self_shutdown(nx, err_text(&err));
			result = nexus_fail(ne, NEXUS_E_STORE, "nexus %s ended itself: %s",
					    nx->dev.name, err_text(&err));
		} else {
			result = child_start(child, is_rebuilt, ne);
		}
		nexus_tell_status(nx);
	}
	control_end(nx);
	return result;
}

static bool can_come_back(uint32_t word)
{
	switch (child_reason_of(word)) {
	case NEXUS_REASON_NO_SPACE:
	case NEXUS_REASON_TIMED_OUT:
	case NEXUS_REASON_IO_ERROR:
	case NEXUS_REASON_REBUILD_FAILED:
	case NEXUS_REASON_ADMIN_FAILED:
	case NEXUS_REASON_OFFLINE:
		return child_state_of(word) == CHILD_FAULTED;
	default:
		return child_state_of(word) == CHILD_CLOSED;
	}
}

static int child_online(struct child *child, struct nexus_err *ne) MAY_SUSPEND
{
	struct nexus *nx = child->nx;
	bool is_ours = false; /* else it is in use: the last one, taken back */
	int result;

	errand_wait(&nx->retire);
	child_wait_closed(child);
	result = check_serving(nx, ne);
	if (result == 0 && child_state_of(atomic_load(&child->word)) == CHILD_OPEN)
		return 0; /* the last one, for want of space: it was taken back */
	is_ours = result == 0;
	if (result == 0)
		result = child_open(child, ne);
	if (result == 0)
		result = check_fits(nx, child, ne);
	if (result == 0)
		result = nexus_reserve(child, ne);
	if (result == 0)
		result = child_map(child, ne);
	if (result == 0)
		result = check_serving(nx, ne);          /* all of that may have taken long */
	if (result < 0 && is_ours && !child->is_leaving) /* else the monitor closes it */
		child_close(child);
	return result < 0 ? result : child_start(child, true, ne);
}

int nexus_child_online(struct nexus *nx, const char *uri, struct nexus_err *ne)
{
	struct nexus_err unread = {};
	struct child *child;
	int result;

	ne = ne != NULL ? ne : &unread;
	control_begin(nx);
	result = check_serving(nx, ne);
	if (result == 0)
		result = find_child(nx, uri, &child, ne);
	if (result == 0 && child_state_of(atomic_load(&child->word)) != CHILD_OPEN) {
		if (can_come_back(atomic_load(&child->word)))
			result = child_online(child, ne);
		else
			result = nexus_fail(
				ne, NEXUS_E_NOT_ALLOWED,
				"child %s is faulted for good (%s): remove it, and add "
				"another",
				uri, nexus_reason_name(child_reason_of(atomic_load(&child->word))));
		nexus_tell_status(nx);
	}
	control_end(nx);
	return result;
}
