/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marks_size.c - a nexus grows: its maps in another shape.
 *
 * Segments may become larger with the device, so every map is made anew: those of the marks, those
 * of what children miss, and each channel's. All are made before the first is exchanged, so it
 * happens to all or to none: maps are looked at side by side. Where a bit stood, all segments that
 * its blocks are in have one.
 *
 * Afterwards all pages are written, heads first: their shape is part of what they are bound to.
 *
 * Thread: a task on the primary, while I/O is quiesced; a channel's map on its reactor.
 */
#include "nexus/marks_internal.h"

/* The blocks of @from, in the segments of @to. */
static void convert(struct segmap *to, const struct segmap *from)
{
	for (uint32_t seg = segmap_next(from, 0); seg < from->nsegments;
	     seg = segmap_next(from, seg + 1))
		segmap_set_range(to, (uint64_t)seg << from->shift, 1ull << from->shift);
}

struct reshape {
	uint64_t nblocks;
	uint8_t shift;
	bool is_full;
	struct segmap hot[REACTORS_MAX];
};

static void hot_swap(struct nexus_channel *nc, void *arg)
{
	struct segmap *next = &((struct reshape *)arg)->hot[nc->ch.reactor->id];
	struct segmap old = nc->hot;

	nc->hot = *next;
	*next = old;
}

enum { MAPS_MAX = 5 + NEXUS_CHILDREN_MAX };

static unsigned maps_of(struct nexus *nx, struct segmap *maps[MAPS_MAX])
{
	struct marks *marks = nx->marks;
	unsigned n = 0;

	if (marks != NULL) {
		maps[n++] = &marks->durable;
		maps[n++] = &marks->wanted;
		maps[n++] = &marks->written;
		maps[n++] = &marks->noted;
		maps[n++] = &marks->candidates;
	}
	for (unsigned i = 0; i < nx->nchildren; i++) {
		if (nx->child[nx->order[i]]->missed.words != NULL)
			maps[n++] = &nx->child[nx->order[i]]->missed;
	}
	return n;
}

/* All maps in another shape, or none: they are looked at side by side. The shape is larger, so that
 * no bit falls off its end. */
static int reshape_all(struct nexus *nx, uint64_t nblocks, uint8_t shift)
{
	struct segmap *maps[MAPS_MAX], next[MAPS_MAX] = {};
	unsigned n = maps_of(nx, maps);
	int result = 0;

	for (unsigned i = 0; i < n && result == 0; i++)
		result = segmap_init(&next[i], nblocks, shift);
	for (unsigned i = 0; i < n; i++) {
		struct segmap old = *maps[i];

		if (result == 0) {
			convert(&next[i], &old);
			*maps[i] = next[i];
			next[i] = old;
		}
		segmap_done(&next[i]);
	}
	return result;
}

int marks_resize(struct nexus *nx, uint64_t nblocks, struct err *err)
{
	struct reshape re = { .nblocks = nblocks,
			      .shift = segment_shift(nblocks, nx->dev.block_shift),
			      .is_full = nx->marks == NULL };
	int result = 0;

	marks_lock(nx);
	for (unsigned i = 0; i < reactor_count() && result == 0; i++) {
		result = segmap_init(&re.hot[i], nblocks, re.shift);
		if (result == 0 && re.is_full)
			segmap_fill(&re.hot[i]);
	}
	if (result == 0)
		result = reshape_all(nx, nblocks, re.shift);
	if (result == 0)
		nexus_each_channel(nx, hot_swap, &re);
	for (unsigned i = 0; i < reactor_count(); i++)
		segmap_done(&re.hot[i]);
	if (result == 0)
		(void)marks_write_children(nx, NULL);
	marks_unlock(nx);
	return result < 0 ? err_set(err, result, "no memory for write-intent records") : 0;
}
