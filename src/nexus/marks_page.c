/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marks_page.c - one page of the write-intent records, on one child or on all that writes go to.
 *
 * intent.h has the format. Invariant: a page is written to the copy that was not written last
 * (marks->copy), so that a torn write leaves the other; the sequence grows over all pages.
 *
 * A request to a child is the engine's own: its device is held open meanwhile (child_use()), it has
 * the time limit of other requests (watch.c), and a child that asks for patience gets as much as a
 * host's write would (CHILD_AGAIN_MAX). A child that cannot be marked is one that cannot be written
 * to: it is out. That it lacked space is noted (marks->full), as the last child is spared then.
 *
 * Thread: tasks on the primary. marks->lock is held where something is written, once it serves.
 */
#include <string.h>

#include "base/units.h"
#include "nexus/marks_internal.h"

struct intent_id marks_id(const struct marks *marks, const struct child *child)
{
	return (struct intent_id){ .nexus = marks->nx->uuid,
				   .replica = child->uuid,
				   .generation = marks->nx->generation,
				   .nsegments = marks->durable.nsegments,
				   .shift = marks->durable.shift,
				   .label = (uint8_t)marks->nx->label,
				   .is_incomplete = !(atomic_load(&child->word) & CHILD_SYNCED),
				   .is_unrecorded = !marks->is_recorded };
}

static bool is_last(const struct child *child)
{
	return child->nx->state == NEXUS_OPEN && !child->nx->is_ended && child_is_healthy(child) &&
	       nexus_nhealthy(child->nx) == 1;
}

uint16_t marks_child_io(struct child *child, const struct io *what)
{
	uint16_t status = IO_NO_DEVICE;

	for (unsigned i = 0; i < CHILD_AGAIN_MAX || is_last(child); i++) {
		struct desc *desc = child_use(child);
		struct io io = *what;
		struct handle *h;

		if (desc == NULL)
			return IO_NO_DEVICE;
		if (what->iov == &what->one)
			io.iov = &io.one;
		status = IO_NO_DEVICE;
		if (handle_open(desc, reactor_primary(), &h, NULL) == 0)
			status = child_io_wait(child, h, &io);
		child_unuse(child);
		if (child_verdict((enum io_op)what->op, status).action != CHILD_AGAIN)
			break;
		task_sleep(CHILD_AGAIN_MS * NS_PER_MS);
	}
	return status;
}

uint16_t marks_page_io(struct marks *marks, struct child *child, enum io_op op, unsigned index,
		       unsigned copy, void *buf)
{
	struct nexus *nx = marks->nx;
	uint32_t nlb = marks->unit >> nx->dev.block_shift;
	struct io io = { .op = (uint8_t)op,
			 .flags = op == IO_WRITE ? IO_FUA : 0,
			 .nlb = nlb,
			 .lba = nx->geometry.meta_start + (uint64_t)(2 * index + copy) * nlb };

	io_set_buf(&io, buf, marks->unit);
	marks->nwrites += op == IO_WRITE;
	return marks_child_io(child, &io);
}

static bool page_done(struct child *child, enum io_op op, uint16_t status)
{
	if (status == IO_OK)
		return true;
	if (child->nx->marks != NULL && child_verdict(op, status).reason == NEXUS_REASON_NO_SPACE)
		child->nx->marks->full |= (uint8_t)(1u << child->slot);
	nexus_child_blame(child, op, status);
	return false;
}

bool marks_page_write(struct marks *marks, struct child *child, unsigned index, unsigned copy,
		      const struct uuid *subject, const struct segmap *map)
{
	struct intent_id id = marks_id(marks, child);

	memset(marks->buf, 0, marks->unit);
	intent_page_encode(marks->buf, &id, index, marks->sequence, subject, map);
	return page_done(child, IO_WRITE,
			 marks_page_io(marks, child, IO_WRITE, index, copy, marks->buf));
}

/* The page on every writer. How many have it. */
unsigned marks_page_write_all(struct marks *marks, unsigned index, const struct uuid *subject,
			      const struct segmap *map)
{
	struct nexus *nx = marks->nx;
	unsigned copy = marks->copy[index], n = 0;

	if (nx->nchildren < 2)
		return 1; /* nobody to differ from */
	marks->sequence += marks->is_recorded;
	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		if (nx->child[slot] != NULL && is_writer(nx->child[slot]))
			n += marks_page_write(marks, nx->child[slot], index, copy, subject, map);
	}
	marks->copy[index] = !copy;
	marks->is_single[index] = true;
	return n;
}

/* Both copies of a page: a newest one that rots later would leave an older one to be believed. */
unsigned marks_pair_write_all(struct marks *marks, unsigned index, const struct uuid *subject,
			      const struct segmap *map)
{
	unsigned n = marks_page_write_all(marks, index, subject, map);

	if (n > 0)
		n = marks_page_write_all(marks, index, subject, map);
	marks->is_single[index] = false;
	return n;
}

bool marks_flush(struct child *child)
{
	struct io io = { .op = IO_FLUSH };

	if (child->desc != NULL && !child->desc->dev->has_write_cache)
		return true;
	return page_done(child, IO_FLUSH, marks_child_io(child, &io));
}
