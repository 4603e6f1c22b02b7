/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy_extents.c - find what need not be read: holes of the source, and among them those that are
 * holes of the destination as well.
 *
 * Copying asks the source for the next data and the next hole. What lies in front of the data is a
 * hole: it reads as zeroes, so the destination must too. Where the destination can say that it has
 * a hole there itself, nothing is to be done; else stale data is cleared. Nothing is assumed of a
 * destination that was just made: a device that says "new" may still show what was there before.
 *
 *	COPY     SRC_DATA -> [DST_DATA: is the hole one there too?] -> SRC_HOLE -> SRC_DATA ...
 *	COMPARE  SRC_DATA -> DST_DATA -> SRC_HOLE -> DST_HOLE -> SRC_DATA ...
 *
 * Comparing takes the union: a byte is looked at when either side has data there.
 *
 * Extents are found ahead of their use, since a seek goes through the worker pool and may take as
 * long as a read. They begin and end at multiples of the unit, and data is taken to be at least
 * EXTENT_MIN long, so that a file of crumbs does not cost two seeks per crumb.
 *
 * A device that knows no holes is all data. A seek that fails makes the rest data as well: slower,
 * never wrong.
 *
 * Invariants: extents in the ring touch each other and end at pos; the last one ends at to; one
 * seek is in flight or none (is_busy).
 *
 * Thread: the primary reactor.
 */
#include "cli/copy.h"

enum extents_step {
	STEP_SRC_DATA,
	STEP_DST_DATA,
	STEP_SRC_HOLE,
	STEP_DST_HOLE,
};

enum {
	EXTENT_MIN = 64 << 10, /* bytes of the shortest data extent */
};

static void extents_walk(struct extents *x);

static bool ring_is_full(const struct extents *x)
{
	return x->head - x->tail >= EXTENTS_AHEAD - 2; /* a step may add two */
}

static void extents_add(struct extents *x, enum extent_kind kind, uint64_t to)
{
	if (to <= x->pos)
		return;
	x->ring[x->head++ % EXTENTS_AHEAD] = (struct extent){ .kind = kind,
							      .from = x->pos,
							      .to = to };
	x->pos = to;
}

struct extent *extents_first(struct extents *x)
{
	return x->head == x->tail ? NULL : &x->ring[x->tail % EXTENTS_AHEAD];
}

void extents_pop(struct extents *x)
{
	x->tail++;
	extents_walk(x);
}

bool extents_is_over(const struct extents *x)
{
	return x->head == x->tail && x->pos >= x->to && !x->is_busy;
}

/* Ask @side for the first data or hole at or after @off. */
static void extents_seek(struct extents *x, struct opened *side, enum io_op op, uint64_t off)
{
	x->is_busy = true;
	x->io.op = (uint8_t)op;
	x->io.flags = 0;
	x->io.lba = off >> side->dev->block_shift;
	x->io.nlb = 0;
	x->io.iov = NULL;
	x->io.iovcnt = 0;
	x->io.result = 0;
	io_submit(side->handle[0], &x->io);
}

/* The whole blocks of a last, partial unit must be treated as data: zeroing could not be exact. */
static uint64_t hole_end(const struct extents *x, uint64_t off)
{
	uint64_t end = ALIGN_DOWN(MIN(off, x->to), x->unit);

	return MAX(end, x->pos);
}

static void extents_add_data(struct extents *x, uint64_t end)
{
	end = MAX(end, x->pos + EXTENT_MIN);
	if (!u64_align_up(end, x->unit, &end))
		end = x->to;
	extents_add(x, EXTENT_DATA, MIN(end, x->to));
	x->step = STEP_SRC_DATA;
}

/* The next seek of the walk, or an extent that needs none. */
static void extents_step(struct extents *x)
{
	switch ((enum extents_step)x->step) {
	case STEP_SRC_DATA:
		if (!x->can_seek_src || (x->is_compare && !x->can_seek_dst))
			extents_add_data(x, x->to);
		else
			extents_seek(x, x->src, IO_SEEK_DATA, x->pos);
		break;
	case STEP_DST_DATA:
		extents_seek(x, x->dst, IO_SEEK_DATA, x->pos);
		break;
	case STEP_SRC_HOLE:
		extents_seek(x, x->src, IO_SEEK_HOLE, x->pos);
		break;
	case STEP_DST_HOLE:
		extents_seek(x, x->dst, IO_SEEK_HOLE, x->pos);
		break;
	}
}

static void extents_walk(struct extents *x)
{
	while (!x->is_busy && x->pos < x->to && !ring_is_full(x))
		extents_step(x);
}

/* Data begins at x->data on the source, and on the destination at x->data_dst. */
static void extents_have_data(struct extents *x)
{
	uint64_t hole = hole_end(x, x->data);

	if (x->is_compare) {
		extents_add(x, EXTENT_SAME, hole_end(x, MIN(x->data, x->data_dst)));
	} else if (x->can_seek_dst) {
		extents_add(x, EXTENT_SAME, MIN(hole_end(x, x->data_dst), hole));
		extents_add(x, EXTENT_ZERO, hole);
	} else {
		extents_add(x, EXTENT_ZERO, hole);
	}
	x->step = STEP_SRC_HOLE;
	if (x->pos < x->to && ALIGN_UP(x->pos + 1, x->unit) > x->size)
		extents_add_data(x, x->to); /* the last, partial unit */
}

static void extents_sought(struct extents *x, uint64_t off)
{
	switch ((enum extents_step)x->step) {
	case STEP_SRC_DATA:
		x->data = off;
		x->data_dst = x->pos;
		x->step = STEP_DST_DATA;
		if (!x->can_seek_dst || (!x->is_compare && hole_end(x, off) <= x->pos))
			extents_have_data(x);
		break;
	case STEP_DST_DATA:
		x->data_dst = off;
		extents_have_data(x);
		break;
	case STEP_SRC_HOLE:
		x->end = off;
		x->step = STEP_DST_HOLE;
		if (!x->is_compare)
			extents_add_data(x, off);
		break;
	case STEP_DST_HOLE:
		extents_add_data(x, MAX(x->end, off));
		break;
	}
}

static void extents_done(struct io *io)
{
	struct extents *x = container_of(io, struct extents, io);
	bool is_dst = x->step == STEP_DST_DATA || x->step == STEP_DST_HOLE;
	const struct device *dev = is_dst ? x->dst->dev : x->src->dev;

	x->is_busy = false;
	if (io->status != IO_OK) {
		x->status = io->status;
		x->can_seek_src = x->can_seek_dst = false;
		x->step = STEP_SRC_DATA;
	} else {
		extents_sought(x, MIN(io->result, dev->nblocks) << dev->block_shift);
	}
	extents_walk(x);
	x->ready(x);
}

static bool can_seek(const struct opened *o)
{
	return (o->dev->ops & IO_BIT(IO_SEEK_DATA)) != 0 &&
	       (o->dev->ops & IO_BIT(IO_SEEK_HOLE)) != 0;
}

void extents_start(struct extents *x)
{
	x->can_seek_src = can_seek(x->src);
	x->can_seek_dst = can_seek(x->dst);
	x->step = STEP_SRC_DATA;
	x->io.done = extents_done;
	extents_walk(x);
}
