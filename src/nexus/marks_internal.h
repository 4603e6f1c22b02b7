/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marks_internal.h - what the files of the write-intent marks share; nobody else includes it.
 *
 *   marks.c        marking before a write, clearing when nothing happens; a life from open to close
 *   marks_page.c   one page on one child, or on all that are written to
 *   marks_child.c  children that come and go: their pages, and those about them
 *   marks_read.c   what the pages of an earlier life say
 *   marks_size.c   the maps of a nexus that grows
 */
#ifndef ASHLAR_NEXUS_MARKS_INTERNAL_H
#define ASHLAR_NEXUS_MARKS_INTERNAL_H

#include "nexus/internal.h"
#include "nexus/marks.h"

struct marks {
	struct nexus *nx;
	struct segmap durable, wanted;
	struct segmap
		written; /* of those marked; not flushed on all writers since, for all we know */
	struct segmap noted, candidates; /* of a tick */
	struct task_mutex lock;
	struct timer timer;
	bool is_tick_due, is_fold_due;
	uint8_t full; /* who had no space for a page, 1 << slot */
	uint64_t sequence;
	bool is_recorded; /* the record tells of this life; the sequence stays until then */
	uint8_t copy[INTENT_PAGES];   /* of a pair: which is written next */
	bool is_single[INTENT_PAGES]; /* the other one is older */
	uint32_t unit;                /* bytes per page on disk */
	void *buf;                    /* owned; unit bytes */
	uint64_t nwrites;             /* pages, all children */
};

/* Writes go to it. */
static inline bool is_writer(const struct child *child)
{
	uint32_t word = atomic_load(&child->word);

	return child_state_of(word) == CHILD_OPEN && (word & CHILD_SYNCED || child->is_writer);
}

/* Pages that @map fills. */
static inline unsigned npages(const struct segmap *map)
{
	return (unsigned)DIV_ROUND_UP(map->nsegments, (uint32_t)INTENT_BITS_BYTES * 8);
}

/* ---- marks_page.c ---------------------------------------------------------------------------- */

struct intent_id marks_id(const struct marks *marks, const struct child *child);
/* A request of ours to @child, again where it asks for patience; the last one may ask for more. */
uint16_t marks_child_io(struct child *child, const struct io *what) MAY_SUSPEND;
/* One copy of one page on one child. */
uint16_t marks_page_io(struct marks *marks, struct child *child, enum io_op op, unsigned index,
		       unsigned copy, void *buf) MAY_SUSPEND;
/* False: the child is out. */
bool marks_page_write(struct marks *marks, struct child *child, unsigned index, unsigned copy,
		      const struct uuid *subject, const struct segmap *map) MAY_SUSPEND;
/* The page on every writer, the copy that is older. How many have it. */
unsigned marks_page_write_all(struct marks *marks, unsigned index, const struct uuid *subject,
			      const struct segmap *map) MAY_SUSPEND;
/* Both copies. */
unsigned marks_pair_write_all(struct marks *marks, unsigned index, const struct uuid *subject,
			      const struct segmap *map) MAY_SUSPEND;

/* ---- marks_child.c --------------------------------------------------------------------------- */

/* What lost children miss, to the others' pages. marks->lock is held. */
bool marks_fold_missed(struct marks *marks) MAY_SUSPEND;

#endif
