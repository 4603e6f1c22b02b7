/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marks_read.c - what the write-intent records of an earlier life say, for recover.c and for
 * children that come back.
 *
 *   marks_are_on()          is this the replica that we wrote to, or another disk in its place?
 *   marks_look()            all pages of one child, at start: how new, how complete
 *   marks_read_in_flight()  the map of one generation, from one child
 *   marks_read_missed()     likewise what one subject missed, whatever slot it had
 *
 * A map is believed whole or not at all: both heads and, of each pair, one copy of the generation
 * (intent_pair_pick()). "Not believed" costs a full rebuild, no more.
 *
 * Every sequence that is seen raises ours: what this life writes is newer than all that is there.
 *
 * Thread: tasks on the primary, before the nexus serves, when nobody writes; so no lock. But for
 * marks_are_on(), which is also asked of a child that comes later and has memory of its own.
 */
#include <string.h>

#include "nexus/marks_internal.h"
#include "reactor/mem.h"

/* Both copies of a page. A write that was torn leaves the other copy true; a copy that cannot be
 * read may be the newer one. */
static bool pair_read(struct marks *marks, struct child *child, unsigned index,
		      struct intent_page pair[2]) MAY_SUSPEND
{
	bool is_ok = true;

	for (unsigned copy = 0; copy < 2; copy++) {
		is_ok &= marks_page_io(marks, child, IO_READ, index, copy, marks->buf) == IO_OK;
		memcpy(&pair[copy], marks->buf, INTENT_PAGE_SIZE);
	}
	return is_ok;
}

/* The map of pages @first.. is added to @map; @subject, if not NULL, is what they must be about. */
static bool map_read(struct nexus *nx, struct child *child, uint64_t generation, unsigned first,
		     const struct uuid *subject, struct segmap *map) MAY_SUSPEND
{
	struct marks *marks = nx->marks;
	struct intent_page *pair = dma_alloc((size_t)2 * INTENT_PAGE_SIZE);
	struct intent_id id = marks_id(marks, child);
	bool is_ok = pair != NULL;

	id.generation = generation;
	if (is_ok)
		is_ok = pair_read(marks, child, INTENT_PAGE_HEAD, pair) &&
			intent_head_is_bound(pair, &id);
	for (unsigned part = 0; is_ok && part < npages(&marks->durable); part++) {
		int which = -1;

		if (pair_read(marks, child, first + part, pair))
			which = intent_pair_pick(pair, &id, first + part);
		is_ok = which >= 0 && (subject == NULL || memcmp(pair[which].subject, subject->b,
								 sizeof(subject->b)) == 0);
		if (is_ok)
			intent_page_or(&pair[which], map);
	}
	if (pair != NULL)
		dma_free(pair, (size_t)2 * INTENT_PAGE_SIZE);
	return is_ok;
}

bool marks_are_on(struct child *child, uint64_t generation)
{
	struct marks *marks = child->nx->marks;
	/* no lock: hosts do not wait for a child that is not there yet */
	struct intent_page *page = marks != NULL ? dma_alloc(marks->unit) : NULL;
	bool is_ours = false;

	if (page == NULL)
		return false;
	for (unsigned copy = 0; copy < 2 && !is_ours; copy++) {
		struct intent_id id = marks_id(marks, child);

		is_ours = marks_page_io(marks, child, IO_READ, INTENT_PAGE_HEAD, copy, page) ==
				  IO_OK &&
			  intent_page_is_valid(page, INTENT_PAGE_HEAD) &&
			  memcmp(page->nexus, id.nexus.b, sizeof(page->nexus)) == 0 &&
			  memcmp(page->replica, id.replica.b, sizeof(page->replica)) == 0 &&
			  (generation == 0 || le64_get(page->generation) == generation);
	}
	dma_free(page, marks->unit);
	return is_ours;
}

enum { LOOK_PAIRS = 8 }; /* that are read at once */

/* Pairs @first.. of @child, which are in @buf, are added to what was seen of it. */
static void look_at(struct marks *marks, const struct child *child, unsigned first, unsigned n,
		    const uint8_t *buf, struct marks_seen *seen)
{
	const struct intent_id id = marks_id(marks, child);
	unsigned nparts = npages(&marks->durable);

	for (unsigned i = 0; i < 2 * n; i++) {
		const struct intent_page *page = (const void *)(buf + (size_t)i * marks->unit);
		unsigned index = first + i / 2;
		bool is_ours = intent_page_is_valid(page, index) &&
			       memcmp(page->nexus, id.nexus.b, sizeof(page->nexus)) == 0 &&
			       memcmp(page->replica, id.replica.b, sizeof(page->replica)) == 0;

		if (!is_ours) {
			seen->is_whole &= index > INTENT_PAGE_IN_FLIGHT + nparts - 1;
			continue;
		}
		if (le64_get(page->sequence) > seen->sequence)
			seen->sequence = le64_get(page->sequence);
		if (index != INTENT_PAGE_HEAD)
			continue;
		seen->is_incomplete |= page->is_incomplete != 0;
		seen->is_unrecorded |= page->is_unrecorded != 0;
		seen->label = page->label;
		if (seen->generation == 0)
			seen->generation = le64_get(page->generation);
		seen->is_whole &= seen->generation == le64_get(page->generation);
	}
}

bool marks_look(struct child *child, struct marks_seen *ret)
{
	struct marks *marks = child->nx->marks;
	size_t len = marks != NULL ? (size_t)2 * LOOK_PAIRS * marks->unit : 0;
	uint8_t *buf = marks != NULL ? dma_alloc(len) : NULL;
	bool is_ok = marks == NULL || buf != NULL;

	*ret = (struct marks_seen){ .is_whole = marks != NULL };
	for (unsigned first = 0; buf != NULL && is_ok && first < INTENT_PAGES;
	     first += LOOK_PAIRS) {
		unsigned n = MIN((unsigned)LOOK_PAIRS, INTENT_PAGES - first);
		uint32_t nlb = marks->unit >> child->nx->dev.block_shift;
		struct io io = { .op = IO_READ,
				 .nlb = 2 * n * nlb,
				 .lba = child->nx->geometry.meta_start + 2ull * first * nlb };

		io_set_buf(&io, buf, (size_t)2 * n * marks->unit);
		is_ok = marks_child_io(child, &io) == IO_OK;
		if (is_ok)
			look_at(marks, child, first, n, buf, ret);
	}
	if (buf != NULL)
		dma_free(buf, len);
	if (is_ok && marks != NULL) /* the next life goes on from there */
		marks->sequence = MAX(marks->sequence, ret->sequence);
	return is_ok;
}

bool marks_read_in_flight(struct nexus *nx, struct child *source, uint64_t generation,
			  struct segmap *map)
{
	return nx->marks != NULL &&
	       map_read(nx, source, generation, INTENT_PAGE_IN_FLIGHT, NULL, map);
}

bool marks_read_missed(struct nexus *nx, struct child *source, uint64_t generation,
		       const struct uuid *subject, struct segmap *map)
{
	for (unsigned slot = 0; nx->marks != NULL && slot < INTENT_SUBJECTS_MAX; slot++) {
		if (map_read(nx, source, generation, intent_page_missed(slot), subject, map))
			return true;
		segmap_zero(map); /* of pages that were about somebody else in part */
	}
	return false;
}
