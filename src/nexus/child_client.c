/* SPDX-License-Identifier: Apache-2.0 */
/*
 * child_client.c - what a client may do with the children of a nexus that serves.
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
 * Decision: an add or an online whose rebuild cannot start fails, and says so; the child stays
 * listed, out of sync.
 *
 * Invariant: one operation at a time (nx->control). It may suspend for long, and the nexus may
 * freeze or end meanwhile: what was allowed is asked again before the child is started.
 *
 * Thread: tasks on the primary.
 */
#include <errno.h>

#include "nexus/internal.h"
#include "nexus/marks.h"

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

bool child_can_come_back(uint32_t word)
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
		if (child_can_come_back(atomic_load(&child->word)))
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
