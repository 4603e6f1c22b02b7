/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marks_child.c - the pages of children that come, and about children that are gone.
 *
 *   falls          what it misses --> pages about it on all who stay (fold): soon, both copies
 *   comes          head and all that is in flight, on it; what others miss, too; and room is made
 *                  for what they may come to miss
 *   is rebuilt     its head: no longer incomplete
 *   had a cache    what was in flight may not be on its medium: it misses that (fold_cache)
 *
 * Until a fold is durable, what a lost child misses is still in flight on all who stay, so nothing
 * is lost by being late (intent.h, rule 3).
 *
 * Invariants
 *   1. The head is written first, and both copies of it: whoever dies in between leaves pages that
 *      nobody believes (intent.h, rule 5).
 *   2. A child never keeps a page of this generation about another that is older than what the
 *      others have: who comes back gets the new ones, or a page about nobody.
 *
 * Thread: tasks on the primary. Once the nexus serves, marks->lock is held, but for marks_fold()
 * and marks_fold_cache().
 */
#include <string.h>

#include "nexus/marks_internal.h"
#include "reactor/mem.h"

/* ---- what the lost ones miss ----------------------------------------------------------------- */

/* The map of what @child misses; where that is not known, a page that is about nobody. */
static bool write_missed(struct marks *marks, const struct child *child) MAY_SUSPEND
{
	unsigned first = intent_page_missed(child->slot);

	if (!child->is_missed_known)
		return marks_pair_write_all(marks, first, NULL, NULL) > 0;
	for (unsigned part = 0; part < npages(&child->missed); part++) {
		if (marks_pair_write_all(marks, first + part, &child->uuid, &child->missed) == 0)
			return false;
	}
	return true;
}

/*
 * What lost children miss goes to the others' pages: the in-flight map may forget it then. A child
 * that is being rebuilt keeps its page as it was when it was attached: what it has missed since is
 * in flight, as it is a writer, and what was copied since is copied again after a crash.
 */
bool marks_fold_missed(struct marks *marks)
{
	struct nexus *nx = marks->nx;

	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		struct child *child = nx->child[slot];

		if (child != NULL && !is_writer(child) && !write_missed(marks, child))
			return false;
	}
	return true;
}

/* ---- those who come -------------------------------------------------------------------------- */

/* Everything, both copies, the head first (intent.h, rule 5): what was there before is of no use to
 * anybody then. */
static bool child_write_all(struct marks *marks, struct child *child) MAY_SUSPEND
{
	bool is_ok = true;

	for (unsigned copy = 0; copy < 2 && is_ok; copy++) {
		is_ok = marks_page_write(marks, child, INTENT_PAGE_HEAD, copy, NULL, NULL);
		for (unsigned part = 0; part < npages(&marks->durable) && is_ok; part++)
			is_ok = marks_page_write(marks, child, INTENT_PAGE_IN_FLIGHT + part, copy,
						 NULL, &marks->durable);
	}
	if (is_ok)
		child->head_generation = marks->nx->generation;
	return is_ok;
}

/*
 * What lost children missed, to one that comes: it may have pages of this generation from an
 * earlier stay, and those have grown old. A page about nobody voids them.
 */
static bool child_write_missed(struct marks *marks, struct child *coming) MAY_SUSPEND
{
	struct nexus *nx = marks->nx;
	bool is_ok = true;

	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX && is_ok; slot++) {
		const struct child *child = nx->child[slot];
		unsigned index = intent_page_missed(slot);
		bool is_known = child != NULL && child != coming && !is_writer(child) &&
				child->is_missed_known;
		unsigned n = is_known ? npages(&marks->durable) : 1;

		for (unsigned i = 0; is_ok && i < 2 * n; i++)
			is_ok = marks_page_write(marks, coming, index + i / 2, i % 2,
						 is_known ? &child->uuid : NULL,
						 is_known ? &child->missed : NULL);
	}
	return is_ok;
}

/*
 * Room for what others may miss, on a child that may run out of room: else a full one could not be
 * attached again, nor say what another misses. Zeroes are the page of nobody. If there is no room
 * even now, whoever needs it will find out.
 */
static void child_reserve(struct marks *marks, struct child *child) MAY_SUSPEND
{
	const struct nexus *nx = marks->nx;
	uint32_t n = 2 * npages(&marks->durable), nlb = marks->unit >> nx->dev.block_shift;
	size_t len = (size_t)n * marks->unit;
	void *buf = NULL;
	bool is_ok = true;

	if (child->desc != NULL && child->desc->dev->is_thin)
		buf = dma_alloc(len);
	child->has_room = true;
	if (buf == NULL)
		return;
	memset(buf, 0, len);
	for (unsigned slot = 0; slot < INTENT_SUBJECTS_MAX && is_ok; slot++) {
		struct io io = { .op = IO_WRITE,
				 .nlb = n * nlb,
				 .lba = nx->geometry.meta_start +
					2ull * intent_page_missed(slot) * nlb };

		io_set_buf(&io, buf, len);
		is_ok = marks_child_io(child, &io) == IO_OK;
	}
	dma_free(buf, len);
}

bool marks_write_children(struct nexus *nx, struct child *coming)
{
	struct marks *marks = nx->marks;

	if (marks == NULL || (nx->nchildren < 2 && marks->sequence == 0))
		return true;
	marks->sequence += marks->is_recorded || marks->sequence == 0;
	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		struct child *child = nx->child[slot];

		/* the second child of all: the first has no pages yet */
		if (child != NULL && child != coming && is_writer(child) &&
		    (coming == NULL || nx->nchildren == 2) && child_write_all(marks, child) &&
		    !child->has_room)
			child_reserve(marks, child);
	}
	if (coming == NULL)
		return marks_fold_missed(marks);
	if (!child_write_all(marks, coming))
		return false;
	child_reserve(marks, coming);
	return child_write_missed(marks, coming);
}

/* Both copies of the head, with the sequence as it is. */
static void head_write(struct marks *marks, struct child *child) MAY_SUSPEND
{
	for (unsigned copy = 0; copy < 2; copy++) {
		if (!marks_page_write(marks, child, INTENT_PAGE_HEAD, copy, NULL, NULL))
			return;
	}
}

void marks_note_synced(struct child *child)
{
	/* the sequence stays: this child is no newer than the others */
	if (child->nx->marks != NULL)
		head_write(child->nx->marks, child);
}

/*
 * Who is not given may have one page more than any that is, if the last life died between the two.
 * Past that with two. Not before the record tells of this life: one that never came so far has
 * served nobody, and would make who was given to it newer than who serves next.
 */
void marks_note_recorded(struct nexus *nx)
{
	struct marks *marks = nx->marks;

	if (marks == NULL)
		return;
	task_mutex_lock(&marks->lock);
	marks->is_recorded = true;
	marks->sequence += marks->sequence > 0 ? 2 : 0; /* 0: nobody has pages */
	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX && marks->sequence > 0; slot++) {
		if (nx->child[slot] != NULL && is_writer(nx->child[slot]))
			head_write(marks, nx->child[slot]);
	}
	task_mutex_unlock(&marks->lock);
}

void marks_note_missed(struct child *child)
{
	if (child->nx->marks != NULL)
		(void)write_missed(child->nx->marks, child);
}

void marks_fold(struct nexus *nx)
{
	if (nx->marks == NULL)
		return;
	nx->marks->is_fold_due = true;
	errand_ring(&nx->mark);
}

void marks_fold_cache(struct child *child)
{
	const struct marks *marks = child->nx->marks;

	if (marks != NULL && child->missed.words != NULL)
		segmap_or(&child->missed, &marks->written);
}
