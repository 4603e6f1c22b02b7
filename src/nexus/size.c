/* SPDX-License-Identifier: Apache-2.0 */
/*
 * size.c - how large a nexus is: what its children have room for, and growing.
 *
 * The sums are geometry.c's; here they meet devices, and a person reads what does not fit.
 *
 *   nexus_resize: size judged --> geometry of all children --> device_resize (quiesced, and
 *                 nexus_resized() has the marks grow) --> size, event, record
 *
 * The record keeps the size that was asked, and the next start asks for it again. Hence it grows to
 * no size that it could not be made with, and what was refused has changed nothing. It never
 * shrinks.
 *
 * A record that cannot be written is only logged: hosts see the new size already.
 *
 * Thread: tasks on the primary; nexus_resized() while all I/O is quiesced.
 */
#include "base/log.h"
#include "base/units.h"
#include "nexus/internal.h"
#include "nexus/marks.h"

int nexus_fit_children(struct nexus *nx, uint64_t size, struct nexus_err *ne)
{
	static const struct {
		enum nexus_error why;
		const char *text;
	} texts[] = {
		[GEOMETRY_TOO_SMALL] = { NEXUS_E_CHILD_TOO_SMALL,
					 "is too small for what the nexus keeps on it" },
		[GEOMETRY_BLOCK_SIZE] = { NEXUS_E_CHILD_GEOMETRY, "has an odd block size" },
		[GEOMETRY_MIXED_BLOCKS] = { NEXUS_E_MIXED_BLOCK_SIZES,
					    "has another block size than the first" },
	};
	struct geometry_child shapes[NEXUS_CHILDREN_MAX];
	enum geometry_error error;
	unsigned which = 0;

	for (unsigned i = 0; i < nx->nchildren; i++) {
		const struct device *dev = nx->child[nx->order[i]]->desc->dev;

		shapes[i] = (struct geometry_child){ dev->nblocks, dev->block_size };
	}
	error = geometry_of(nx->label, shapes, nx->nchildren, size, nx->is_size_required,
			    &nx->geometry, &which);
	if (error != GEOMETRY_OK)
		return nexus_fail(ne, texts[error].why, "nexus %s: child %s %s", nx->dev.name,
				  nx->child[nx->order[which]]->uri, texts[error].text);
	return 0;
}

/* It has another size: the record, too, so that it is not made again with the old one. */
static void resized(struct nexus *nx, uint64_t size) MAY_SUSPEND
{
	struct err err = {};

	nx->size = size;
	nexus_tell(nx, NEXUS_EVENT_RESIZED, NULL);
	if (nexus_persist(nx, false, &err) < 0)
		log_warn("nexus %s: the record does not say that it has grown: %s", nx->dev.name,
			 err_text(&err));
}

/*
 * The smallest and the largest size that make @nx larger than now, in bytes. False: none does. The
 * largest is what the next start takes, too: no child may be smaller than what is asked.
 */
static bool growth(const struct nexus *nx, uint64_t *ret_min, uint64_t *ret_max,
		   const struct child **ret_smallest)
{
	uint64_t now = nx->dev.nblocks, room = 0;
	bool has_slip = nx->label == NEXUS_LABEL_V1 && !nx->is_size_required;

	*ret_max = UINT64_MAX;
	*ret_smallest = NULL;
	for (unsigned i = 0; i < nx->nchildren; i++) {
		const struct child *child = nx->child[nx->order[i]];
		const struct device *dev = child->desc->dev;
		struct geometry_child shape = { dev->nblocks, dev->block_size };
		struct geometry one = {};

		if (*ret_smallest != NULL && device_size(dev) >= *ret_max)
			continue;
		*ret_smallest = child;
		*ret_max = device_size(dev);
		/* as much as there is room for */
		room = geometry_of_child(nx->label, &shape, INT64_MAX, false, &one) == GEOMETRY_OK
			       ? one.nblocks
			       : 0;
	}
	if (nx->is_size_required)
		*ret_max = room * nx->dev.block_size;
	*ret_min = (now + 1 + has_slip) * nx->dev.block_size;
	return room > now;
}

/* Of a size that cannot be, or that would change nothing. */
static int refuse_size(const struct nexus *nx, uint64_t size, const char *why, struct nexus_err *ne)
{
	char asked[UNITS_TEXT_MAX], has[UNITS_TEXT_MAX];
	const struct child *smallest;
	uint64_t min, max;

	if (!growth(nx, &min, &max, &smallest))
		return nexus_fail(
			ne, NEXUS_E_CHILD_TOO_SMALL,
			"nexus %s: %s %s: child %s has %s and no room left; it grows after "
			"its replicas",
			nx->dev.name, size_format(size, asked), why, smallest->uri,
			size_format(device_size(smallest->desc->dev), has));
	return nexus_fail(ne, NEXUS_E_CHILD_TOO_SMALL,
			  "nexus %s: %s %s: child %s has %s; sizes from %lu to %lu bytes would do",
			  nx->dev.name, size_format(size, asked), why, smallest->uri,
			  size_format(device_size(smallest->desc->dev), has), min, max);
}

/* What the next start would not take is not begun with: the record would keep it for good. */
static int check_size(const struct nexus *nx, uint64_t size, struct nexus_err *ne)
{
	const struct child *smallest;
	uint64_t min, max;

	(void)growth(nx, &min, &max, &smallest);
	return size > max && size != nx->size ? refuse_size(nx, size, "do not fit", ne) : 0;
}

int nexus_resize(struct nexus *nx, uint64_t size, struct nexus_err *ne)
{
	struct geometry old;
	struct nexus_err unread = {};
	int result = 0;

	ne = ne != NULL ? ne : &unread;
	control_begin(nx);
	old = nx->geometry;
	if (nx->state != NEXUS_OPEN || nx->is_frozen)
		result = nexus_fail(ne, NEXUS_E_NOT_ALLOWED, "nexus %s is %s", nx->dev.name,
				    nx->is_frozen ? "frozen" : nexus_state_name(nx->state));
	for (unsigned i = 0; i < nx->nchildren && result == 0; i++) {
		if (nx->child[nx->order[i]]->desc == NULL)
			result = nexus_fail(ne, NEXUS_E_RESIZE,
					    "nexus %s: child %s is not open, its size is not "
					    "known: bring it online or remove it first",
					    nx->dev.name, nx->child[nx->order[i]]->uri);
	}
	if (result == 0)
		result = check_size(nx, size, ne);
	if (result == 0)
		result = nexus_fit_children(nx, size, ne);
	if (result == 0 && size != nx->size && nx->geometry.nblocks <= old.nblocks)
		result = refuse_size(nx, size, "would not make it larger", ne);
	if (result == 0 && nx->geometry.nblocks > old.nblocks) {
		result = device_resize(&nx->dev, nx->geometry.nblocks, &ne->err);
		if (result < 0)
			result = nexus_fail(ne, NEXUS_E_RESIZE, "nexus %s", nx->dev.name);
		else
			resized(nx, size);
	}
	if (result < 0)
		nx->geometry = old;
	control_end(nx);
	return result;
}

/* Driver: quiesced, dev->nblocks is the new size. */
int nexus_resized(struct device *dev, uint64_t old_nblocks, struct err *err)
{
	(void)old_nblocks;
	return marks_resize(nexus_of(dev), dev->nblocks, err);
}
