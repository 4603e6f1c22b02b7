/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.c - reads the write-intent records of replicas, and says what they mean together.
 *
 * With the record of the store the answer is that of recover.c: who is healthy there is in sync,
 * but for what was in flight if it did not end in order; everybody else is stale. The record
 * decides, because only there a child is noted as stale before a write that it missed is
 * acknowledged.
 *
 * Without it the replicas' own records are compared. All pages of one run of a nexus carry one
 * generation, and a sequence that grows: who was a writer until the end has the highest, who fell
 * before has a lower one, or is named by the others as one who missed something. Equal ones are
 * taken as in sync but for what was in flight. Different generations cannot be ordered: then only
 * the record can tell, and this says so.
 *
 * A replica without records of the source's nexus is not the disk that the record, or the others,
 * speak of, whatever its uuid is: it would be given everything.
 *
 * It is a statement about what is written there, not proof: a replica that fell so late that nobody
 * could write another page looks as good as the rest. With the record that cannot happen.
 *
 * Thread: a task on the primary. Devices are opened one after the other, read-only, and given back.
 */
#include "nexus/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "nexus/intent.h"
#include "reactor/mem.h"

struct reading {
	struct check_replica *replica;
	struct device *dev;
	struct handle *h;
	struct intent_page *pair; /* two, and a block of the device */
	uint8_t *block;
	uint32_t unit, block_size;
	struct intent_id id;
	struct segmap in_flight;
	struct segmap missed[INTENT_SUBJECTS_MAX];
	struct uuid subject[INTENT_SUBJECTS_MAX]; /* zero: nothing is known there */
};

/* ---- reading -------------------------------------------------------------------------------- */

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

/* All pages of a map; false: one of them is not there. */
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
		if (ret_subject != NULL)
			memcpy(ret_subject->b, page->subject, sizeof(page->subject));
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
	replica->sequence = le64_get(head->sequence);
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

/* < 0: of no use to go on. What is wrong with this replica alone is noted there. */
static int replica_read(struct reading *r, const char *uri, struct err *err) MAY_SUSPEND
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

/* ---- judging -------------------------------------------------------------------------------- */

static void say(struct check_replica *replica, enum check_verdict verdict, const char *why)
{
	replica->verdict = verdict;
	(void)snprintf(replica->why, sizeof(replica->why), "%s", why);
}

/* Does it hold records of another nexus than the source, or none, where the source has some? */
static bool is_stranger(const struct check_replica *replica, const struct reading *source)
{
	return !uuid_is_zero(&source->replica->nexus) &&
	       !uuid_equal(&replica->nexus, &source->replica->nexus);
}

/* What @replica would be given from @source: what it missed, if it was stale, and what was in
 * flight, if it did not end in order. */
static void plan(struct check_replica *replica, const struct reading *source, bool has_missed,
		 bool has_flight)
{
	struct segmap map;
	bool is_known = source->replica->has_marks && !is_stranger(replica, source);

	replica->rebuild = CHECK_REBUILD_FULL;
	if (!is_known || segmap_init(&map, (uint64_t)source->id.nsegments << source->id.shift,
				     source->id.shift) < 0)
		return;
	if (has_missed) {
		is_known = false;
		for (unsigned slot = 0; slot < INTENT_SUBJECTS_MAX && !is_known; slot++) {
			is_known = uuid_equal(&source->subject[slot], &replica->uuid);
			if (is_known)
				segmap_or(&map, &source->missed[slot]);
		}
	}
	if (has_flight)
		segmap_or(&map, &source->in_flight);
	if (is_known) {
		replica->segments = segmap_count(&map);
		replica->rebuild = replica->segments > 0 || has_missed ? CHECK_REBUILD_PARTIAL
								       : CHECK_REBUILD_NONE;
	}
	segmap_done(&map);
}

static int recorded(const struct nexus_record *record, const struct uuid *uuid)
{
	for (unsigned i = 0; i < record->nchildren; i++) {
		if (uuid_equal(&record->child[i].uuid, uuid))
			return record->child[i].is_healthy;
	}
	return -1;
}

/* As recover.c does it. */
static void judge_by_record(struct check_report *report, struct reading *readings,
			    const struct nexus_record *record)
{
	for (unsigned i = report->nreplicas; i-- > 0;) {
		struct check_replica *replica = &report->replica[i];

		replica->recorded = recorded(record, &replica->uuid);
		if (replica->verdict != CHECK_UNREADABLE && replica->recorded == 1)
			report->source = (int)i;
	}
	for (unsigned i = 0; i < report->nreplicas; i++) {
		struct check_replica *replica = &report->replica[i];
		struct reading *source = report->source < 0 ? NULL : &readings[report->source];
		bool is_stale = replica->recorded != 1, is_strange;

		if (replica->verdict == CHECK_UNREADABLE)
			continue;
		if ((int)i == report->source) {
			say(replica, CHECK_SOURCE, "the record has it as healthy");
			continue;
		}
		is_strange = source != NULL && replica->recorded == 1 && record->generation != 0 &&
			     is_stranger(replica, source);
		is_stale |= is_strange;
		say(replica, is_stale ? CHECK_STALE : CHECK_IN_SYNC,
		    is_strange ? "it holds no records of this nexus: it is another disk"
		    : replica->recorded == 0  ? "the record has it as stale"
		    : replica->recorded == -1 ? "the record does not know it"
		    : record->is_clean
			    ? "the record has it as healthy"
			    : "the record has it as healthy; what was in flight may differ");
		if (source == NULL)
			continue;
		if (record->generation == 0 || source->replica->generation != record->generation) {
			replica->rebuild = is_stale || !record->is_clean ? CHECK_REBUILD_FULL
									 : CHECK_REBUILD_NONE;
			continue;
		}
		plan(replica, source, is_stale, !record->is_clean);
	}
	if (report->source < 0)
		(void)snprintf(
			report->advice, sizeof(report->advice),
			"none of these is healthy in the record: find the one that is; making "
			"a volume of these would lose acknowledged writes");
}

/* Who has the highest sequence of one nexus and one generation. -1: that cannot be said. */
static int newest_of(struct check_report *report)
{
	const struct check_replica *best = NULL;
	int index = -1;

	for (unsigned i = 0; i < report->nreplicas; i++) {
		const struct check_replica *replica = &report->replica[i];

		if (!replica->has_marks)
			continue;
		if (best != NULL && !uuid_equal(&replica->nexus, &best->nexus)) {
			(void)snprintf(report->advice, sizeof(report->advice),
				       "these are replicas of more than one nexus");
			return -1;
		}
		if (best != NULL && replica->generation != best->generation) {
			(void)snprintf(report->advice, sizeof(report->advice),
				       "their records are of different generations, which only the "
				       "record of the store can tell apart: give it with --record");
			return -1;
		}
		if (best == NULL || replica->sequence > best->sequence) {
			best = replica;
			index = (int)i;
		}
	}
	if (best == NULL)
		(void)snprintf(report->advice, sizeof(report->advice),
			       "nothing on them says which is newest: give the record of the store "
			       "with --record");
	return index;
}

static bool is_named(const struct reading *newest, const struct uuid *uuid)
{
	bool is = false;

	for (unsigned slot = 0; slot < INTENT_SUBJECTS_MAX; slot++)
		is |= uuid_equal(&newest->subject[slot], uuid);
	return is;
}

static void judge_by_marks(struct check_report *report, struct reading *readings)
{
	const struct reading *newest;

	report->source = newest_of(report);
	if (report->source < 0)
		return;
	newest = &readings[report->source];
	for (unsigned i = 0; i < report->nreplicas; i++) {
		struct check_replica *replica = &report->replica[i];

		if (replica->verdict == CHECK_UNREADABLE)
			continue;
		if ((int)i == report->source) {
			say(replica, CHECK_SOURCE, "nothing newer is known");
		} else if (!replica->has_marks) {
			replica->rebuild = CHECK_REBUILD_FULL;
		} else if (is_named(newest, &replica->uuid)) {
			say(replica, CHECK_STALE, "the newest has noted what it missed");
			plan(replica, newest, true, true);
		} else if (replica->sequence < newest->replica->sequence) {
			say(replica, CHECK_STALE,
			    "its last record is older than that of the newest");
			plan(replica, newest, true, true);
		} else {
			say(replica, CHECK_IN_SYNC, "its last record is that of the newest");
			plan(replica, newest, false, true);
		}
	}
	(void)snprintf(
		report->advice, sizeof(report->advice),
		"without the record of the store this is what the replicas say of each other; "
		"give it with --record to be sure");
}

/* ---- all ------------------------------------------------------------------------------------ */

static void readings_free(struct reading *readings)
{
	for (unsigned i = 0; readings != NULL && i < NEXUS_CHILDREN_MAX; i++) {
		segmap_done(&readings[i].in_flight);
		for (unsigned slot = 0; slot < INTENT_SUBJECTS_MAX; slot++)
			segmap_done(&readings[i].missed[slot]);
	}
	free(readings);
}

int nexus_check(const char *const *uris, unsigned count, const struct nexus_record *record,
		struct check_report *ret, struct err *err)
{
	struct reading *readings;
	int result = 0;

	*ret = (struct check_report){ .nreplicas = count, .source = -1 };
	if (count == 0 || count > NEXUS_CHILDREN_MAX)
		return err_set(err, -EINVAL, "%u replicas, a nexus has 1 to %d", count,
			       NEXUS_CHILDREN_MAX);
	readings = calloc(NEXUS_CHILDREN_MAX, sizeof(*readings));
	if (readings == NULL)
		return err_set(err, -ENOMEM, "no memory to read records");
	for (unsigned i = 0; i < count && result == 0; i++) {
		ret->replica[i].verdict = CHECK_UNKNOWN;
		ret->replica[i].recorded = -1;
		readings[i].replica = &ret->replica[i];
		result = replica_read(&readings[i], uris[i], err);
		if (ret->replica[i].has_marks)
			ret->segment_size = (uint64_t)readings[i].block_size
					    << readings[i].id.shift;
	}
	if (result == 0 && record != NULL)
		judge_by_record(ret, readings, record);
	else if (result == 0)
		judge_by_marks(ret, readings);
	readings_free(readings);
	return result;
}

const char *check_verdict_name(enum check_verdict verdict)
{
	static const char *const names[] = { "unreadable", "unknown", "stale", "in sync",
					     "source" };

	return names[verdict];
}
