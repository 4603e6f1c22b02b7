/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check_read.c - the write-intent records of one replica, as they are on its device.
 *
 * No nexus is there that could say what to expect, so the head says it: whose records these are,
 * and how large its segments. It is looked for where both layouts have it (geometry.h). The rest is
 * believed as the nexus itself would believe it (intent_pair_pick()); what is damaged counts as not
 * there.
 *
 * Who came later than the nexus was made is seen by its pages about others: they were written with
 * its head (marks_child.c), and have its sequence.
 *
 * Thread: a task on the primary. The device is opened read-only, and given back before the next.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "nexus/check_internal.h"
#include "reactor/mem.h"

static int pair_read(struct reading *r, unsigned index) MAY_SUSPEND
{
	uint64_t start = DIV_ROUND_UP(1u << 20, r->dev->block_size);
	uint32_t nlb = r->unit >> r->dev->block_shift;

	for (unsigned copy = 0; copy < 2; copy++) {
		struct io io = { .op = IO_READ,
				 .lba = start + (uint64_t)(2 * index + copy) * nlb,
				 .nlb = nlb };
		uint16_t status;

		io_set_buf(&io, r->block, r->unit);
		status = io_wait(r->h, &io);
		if (status != IO_OK)
			return io_status_to_errno(status);
		memcpy(&r->pair[copy], r->block, INTENT_PAGE_SIZE);
	}
	return 0;
}

static unsigned npages(const struct reading *r)
{
	return (unsigned)DIV_ROUND_UP(r->id.nsegments, (uint32_t)INTENT_BITS_BYTES * 8);
}

/* All pages of a map; false: one of them is not there. @ret_subject: of a missed map. */
static bool map_read(struct reading *r, unsigned first, struct segmap *map,
		     struct uuid *ret_subject) MAY_SUSPEND
{
	for (unsigned part = 0; part < npages(r); part++) {
		int which = pair_read(r, first + part) < 0
				    ? -1
				    : intent_pair_pick(r->pair, &r->id, first + part);
		const struct intent_page *page;

		if (which < 0)
			return false;
		page = &r->pair[which];
		intent_page_or(page, map);
		r->replica->sequence = MAX(r->replica->sequence, le64_get(page->sequence));
		if (ret_subject != NULL) {
			memcpy(ret_subject->b, page->subject, sizeof(page->subject));
			r->has_come |= le64_get(page->sequence) == r->head_sequence;
		}
	}
	return true;
}

/* The head: whose records these are. False: none, or another replica's. */
static bool head_read(struct reading *r) MAY_SUSPEND
{
	struct check_replica *replica = r->replica;
	const struct intent_page *head = NULL;

	for (unsigned i = 0; i < 2; i++) {
		const struct intent_page *page = &r->pair[i];

		if (intent_page_is_valid(page, INTENT_PAGE_HEAD) &&
		    (head == NULL || le64_get(page->sequence) > le64_get(head->sequence)))
			head = page;
	}
	if (head == NULL) {
		(void)snprintf(replica->why, sizeof(replica->why),
			       "there are no write-intent records on it");
		return false;
	}
	if (memcmp(head->replica, replica->uuid.b, sizeof(head->replica)) != 0) {
		(void)snprintf(
			replica->why, sizeof(replica->why),
			"its write-intent records are those of another replica: it is a copy "
			"of one, or its URI lacks the right uuid");
		return false;
	}
	if (le32_get(head->nsegments) == 0 || le32_get(head->nsegments) > SEGMENTS_MAX ||
	    head->shift >= 40)
		return false;
	memcpy(r->id.nexus.b, head->nexus, sizeof(head->nexus));
	r->id.replica = replica->uuid;
	r->id.generation = le64_get(head->generation);
	r->id.nsegments = le32_get(head->nsegments);
	r->id.shift = head->shift;
	replica->nexus = r->id.nexus;
	replica->generation = r->id.generation;
	replica->sequence = r->head_sequence = le64_get(head->sequence);
	replica->is_unrecorded = head->is_unrecorded != 0;
	return true;
}

static int maps_make(struct reading *r, struct err *err)
{
	uint64_t nblocks = (uint64_t)r->id.nsegments << r->id.shift;
	int result = segmap_init(&r->in_flight, nblocks, r->id.shift);

	for (unsigned slot = 0; slot < INTENT_SUBJECTS_MAX && result == 0; slot++)
		result = segmap_init(&r->missed[slot], nblocks, r->id.shift);
	return result < 0 ? err_set(err, result, "no memory for maps") : 0;
}

static int marks_read(struct reading *r, struct err *err) MAY_SUSPEND
{
	struct check_replica *replica = r->replica;
	int result = pair_read(r, INTENT_PAGE_HEAD);

	if (result < 0) {
		replica->verdict = CHECK_UNREADABLE;
		(void)snprintf(replica->why, sizeof(replica->why), "it cannot be read: %s",
			       strerror(-result));
		return 0;
	}
	if (!head_read(r))
		return 0;
	result = maps_make(r, err);
	if (result < 0)
		return result;
	replica->has_marks = intent_head_is_bound(r->pair, &r->id) &&
			     map_read(r, INTENT_PAGE_IN_FLIGHT, &r->in_flight, NULL);
	if (!replica->has_marks) {
		(void)snprintf(replica->why, sizeof(replica->why),
			       "its write-intent records are damaged");
		return 0;
	}
	replica->in_flight = segmap_count(&r->in_flight);
	for (unsigned slot = 0; slot < INTENT_SUBJECTS_MAX; slot++) {
		if (!map_read(r, intent_page_missed(slot), &r->missed[slot], &r->subject[slot]))
			r->subject[slot] = (struct uuid){};
	}
	return 0;
}

/* An opening for as long as its records are read. */
static int opened_read(struct reading *r, struct err *why, struct err *err) MAY_SUSPEND
{
	size_t len = 2 * INTENT_PAGE_SIZE + DEVICE_BLOCK_SIZE_MAX;
	struct desc_opts opts = {};
	struct desc *desc;
	int result = desc_open(r->dev, &opts, &desc, why);

	if (result < 0)
		return 0;
	r->replica->uuid = r->dev->uuid;
	r->unit = MAX((uint32_t)INTENT_PAGE_SIZE, r->dev->block_size);
	r->block_size = r->dev->block_size;
	r->pair = dma_alloc(len);
	r->block = (uint8_t *)&r->pair[2];
	if (r->pair == NULL)
		result = err_set(err, -ENOMEM, "no memory to read %s", r->dev->name);
	else if (handle_open(desc, reactor_primary(), &r->h, why) == 0)
		result = marks_read(r, err);
	if (r->pair != NULL)
		dma_free(r->pair, len);
	desc_close(desc);
	return result;
}

int check_replica_read(struct reading *r, const char *uri, struct err *err)
{
	struct err why = {};
	int result = 0;

	if (device_create(uri, &r->dev, &why) == 0) {
		result = opened_read(r, &why, err);
		if (device_destroy(uri, &why) < 0)
			log_debug("%s: %s", uri, err_text(&why));
	}
	if (why.code != 0) {
		r->replica->verdict = CHECK_UNREADABLE;
		(void)snprintf(r->replica->why, sizeof(r->replica->why), "%.250s", err_text(&why));
	}
	return result;
}
