/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marks.h - keeping the write-intent records of a nexus; marks.c has the how.
 *
 * Owner:  the nexus owns its marks, from marks_open() to marks_close().
 * Thread: tasks on the primary.
 */
#ifndef ASHLAR_NEXUS_MARKS_H
#define ASHLAR_NEXUS_MARKS_H

#include "base/err.h"
#include "base/uuid.h"
#include "nexus/segmap.h"
#include "reactor/task.h"

struct child;
struct nexus;

/* The device's shape is known. Leaves nx->marks NULL where there is no room for the pages. */
int marks_open(struct nexus *nx, struct err *err) WARN_UNUSED;
/* The first record of this life is durable: from now on its pages are newer than all before. */
void marks_note_recorded(struct nexus *nx) MAY_SUSPEND;
/* The record says so: nothing is in flight, for those who look at the children alone. */
void marks_clear(struct nexus *nx) MAY_SUSPEND;
/* No tick any more, where the nexus has ended. Before its errands are waited for. */
void marks_stop(struct nexus *nx);
void marks_close(struct nexus *nx);
/* What @child, which is open, has in its cache is on its medium. False: it is out. */
bool marks_flush(struct child *child) MAY_SUSPEND WARN_UNUSED;
/* I/O has ended in order: all children are flushed, what lost ones missed is written. What was in
 * flight stays marked: a clean record makes that void, and one that is not written needs it. False:
 * not so; the record must not say that the end was clean. */
bool marks_finish(struct nexus *nx) MAY_SUSPEND WARN_UNUSED;

/* Quiesced: maps for @nblocks, more than before. */
int marks_resize(struct nexus *nx, uint64_t nblocks, struct err *err) MAY_SUSPEND WARN_UNUSED;

/* While the set of writers changes. I/O is quiesced before this, or a write that waits for its mark
 * would be waited for. */
void marks_lock(struct nexus *nx) MAY_SUSPEND;
void marks_unlock(struct nexus *nx);
/* All pages to every writer (@coming NULL), or to a child that will be one. False: it failed. */
bool marks_write_children(struct nexus *nx, struct child *coming) MAY_SUSPEND;

/* A child with a volatile cache is lost: what was not flushed may be, too. */
void marks_fold_cache(struct child *child);

/* A child fell: what it misses is written to the others soon. */
void marks_fold(struct nexus *nx);
/* @child, which was rebuilt, is in sync: its head says so. Another one is believed less where there
 * is no record. marks_lock() is held. */
void marks_note_synced(struct child *child) MAY_SUSPEND;
/* What @child misses now, to the others' pages; not known: they say nothing any more. marks_lock()
 * is held. */
void marks_note_missed(struct child *child) MAY_SUSPEND;

/* Add what was in flight, or what @subject missed, in @generation, as @source has it, to @map.
 * False: not to be believed. */
bool marks_read_in_flight(struct nexus *nx, struct child *source, uint64_t generation,
			  struct segmap *map) MAY_SUSPEND;
bool marks_read_missed(struct nexus *nx, struct child *source, uint64_t generation,
		       const struct uuid *subject, struct segmap *map) MAY_SUSPEND;

/*
 * Does @child hold records of its own, written to this replica by this nexus, in @generation (0:
 * any)? Another disk in its place has none, however it is called. False where no marks are kept.
 */
bool marks_are_on(struct child *child, uint64_t generation) MAY_SUSPEND;

/* What the pages on a child say that this nexus wrote to it, in whatever generation. */
struct marks_seen {
	uint64_t sequence;   /* the highest; 0: there are none */
	uint64_t generation; /* of the head */
	uint8_t label;       /* enum nexus_label; 0: they do not say */
	bool is_incomplete;  /* the child was being rebuilt */
	bool is_whole;       /* heads and all pages of what is in flight are there, both copies */
	bool is_unrecorded;  /* by a life that had no record */
};

/* Look at all of them; what this life writes has higher sequences, once the record tells of it.
 * False: they cannot be read. */
bool marks_look(struct child *child, struct marks_seen *ret) MAY_SUSPEND;

uint32_t marks_count(const struct nexus *nx);   /* segments in flight */
uint64_t marks_nwrites(const struct nexus *nx); /* pages written, all children */

#endif
