/* SPDX-License-Identifier: Apache-2.0 */
/*
 * child_join.c - a child that is open joins: it is written to, and once it is in sync, read from.
 *
 *   child_start          OPEN, out of sync; a rebuild takes over (the seam in internal.h), or else
 *     |
 *   nexus_child_attach   legs on all channels, its write-intent pages; under a quiesce it becomes a
 *     |                  writer, so every write of a host is wholly before that or goes to it, too
 *     |  copied
 *   nexus_child_synced   SYNCED, on all channels, then in the record
 *
 * If the device is not the replica that left (a new disk under the old name, memory that was
 * emptied), all of it is copied: the write-intent records on it tell.
 *
 * Invariant: a child may fall at any step, on any reactor. Its word is looked at again after each
 * suspension, and only an OPEN one gets further (compare and swap).
 *
 * A record that cannot be written ends the nexus: hosts may have read from the child already.
 *
 * Thread: tasks on the primary.
 */
#include <errno.h>

#include "base/log.h"
#include "nexus/internal.h"
#include "nexus/marks.h"

const struct nexus_rebuilder *nexus_rebuilder = &rebuild_jobs;

void nexus_set_rebuilder(const struct nexus_rebuilder *rebuilder)
{
	nexus_rebuilder = rebuilder;
}

/* A map for what it misses from now on; what was known stays. */
int child_map(struct child *child, struct nexus_err *ne)
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
