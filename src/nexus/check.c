/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.c - says what the write-intent records of replicas (check_read.c) mean together.
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
 * Who came back, or came new, is a writer from then on, long before its rebuild has ended. It has
 * pages about what others missed that are as old as its head (marks_child.c), and those that were
 * there from the start have none. When it is in sync, all writers note that it misses nothing:
 * until then it is stale, and no source.
 *
 * A replica without records of the source's nexus is not the disk that the record, or the others,
 * speak of, whatever its uuid is: it would be given everything, and it is never the source where
 * others have such records, as in recover.c.
 *
 * Blocks of different sizes make no nexus, so nothing is said of them but that.
 *
 * It is a statement about what is written there, not proof: a replica that fell so late that nobody
 * could write another page looks as good as the rest. With the record that cannot happen.
 *
 * Thread: a task on the primary.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nexus/check_internal.h"

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

/* -1: nothing. Once stale is stale, if it says so twice. */
static int recorded(const struct nexus_record *record, const struct uuid *uuid)
{
	int said = -1;

	for (unsigned i = 0; i < record->nchildren; i++) {
		if (uuid_equal(&record->child[i].uuid, uuid))
			said = record->child[i].is_healthy && said != 0;
	}
	return said;
}

/*
 * The nexus that the record is about, which it does not name: that of the records of its
 * generation, else that of a healthy replica, else of any. NULL: none of them has records.
 */
static const struct uuid *nexus_of(const struct check_report *report,
				   const struct nexus_record *record)
{
	const struct uuid *healthy = NULL, *any = NULL;

	for (unsigned i = report->nreplicas; i-- > 0;) {
		const struct check_replica *replica = &report->replica[i];

		if (uuid_is_zero(&replica->nexus))
			continue;
		if (replica->generation == record->generation)
			return &replica->nexus;
		any = &replica->nexus;
		if (replica->recorded == 1)
			healthy = &replica->nexus;
	}
	return healthy != NULL ? healthy : any;
}

/* Healthy in the record, and what is there now is what was there then, 1 << index: as believed() of
 * recover.c. */
static uint32_t believed(const struct check_report *report, const struct nexus_record *record)
{
	const struct uuid *nexus = record->generation != 0 ? nexus_of(report, record) : NULL;
	uint32_t healthy = 0, same = 0;

	for (unsigned i = 0; i < MIN(report->nreplicas, ARRAY_LEN(report->replica)); i++) {
		const struct check_replica *replica = &report->replica[i];

		if (replica->verdict == CHECK_UNREADABLE)
			continue;
		healthy |= (uint32_t)(replica->recorded == 1) << i;
		same |= (uint32_t)(nexus != NULL && uuid_equal(&replica->nexus, nexus)) << i;
	}
	return same != 0 ? same & healthy : healthy;
}

static const char *reason_by_record(const struct check_replica *replica,
				    const struct nexus_record *record, bool is_believed)
{
	if (replica->recorded == -1)
		return "the record does not know it";
	if (replica->recorded == 0)
		return "the record has it as stale";
	if (!is_believed)
		return "it holds no records of this nexus: it is another disk";
	return record->is_clean ? "the record has it as healthy"
				: "the record has it as healthy; what was in flight may differ";
}

/* Nobody is to be believed. */
static void advise_no_source(struct check_report *report, const struct nexus_record *record)
{
	bool is_any = false;

	for (unsigned i = 0; i < report->nreplicas; i++)
		is_any |= report->replica[i].recorded == 1;
	(void)snprintf(report->advice, sizeof(report->advice), "%s",
		       is_any ? "who was healthy in the record cannot be read, or has been "
				"replaced: find that disk; making a volume of these would lose "
				"acknowledged writes"
		       : report->nmissing == record->nchildren && record->is_clean
			       ? "the record knows none of these: it is another volume's, or a "
				 "nexus of these is a new one, whose replicas are believed to be "
				 "equal"
			       : "none of these is healthy in the record: find the one that is; "
				 "making a volume of these would lose acknowledged writes");
}

/* Is one of @good written to under another record? As check_one_history() of recover.c. */
static bool is_one_history(struct check_report *report, const struct nexus_record *record,
			   uint32_t good)
{
	bool is_one = true, is_known = false;

	for (unsigned i = 0; i < report->nreplicas; i++)
		is_known |= report->replica[i].has_marks &&
			    report->replica[i].generation == record->generation;
	for (unsigned i = 0; i < report->nreplicas && is_known; i++) {
		struct check_replica *replica = &report->replica[i];

		if (!(good >> i & 1) || !replica->has_marks || record->generation == 0 ||
		    replica->generation == record->generation || replica->is_unrecorded)
			continue;
		say(replica, CHECK_UNKNOWN, "it was written to under another record");
		is_one = false;
	}
	if (!is_one)
		(void)snprintf(
			report->advice, sizeof(report->advice),
			"they have been written to under more than one record, so each may "
			"lack what the other has: give the record of the newest; what is only "
			"on a replica that is left out and added later is lost");
	return is_one;
}

/* As recover.c does it. */
static void judge_by_record(struct check_report *report, struct reading *readings,
			    const struct nexus_record *record)
{
	uint32_t good;

	for (unsigned i = 0; i < report->nreplicas; i++)
		report->replica[i].recorded = recorded(record, &report->replica[i].uuid);
	good = believed(report, record);
	if (!is_one_history(report, record, good))
		return;
	if (good != 0)
		report->source = __builtin_ctz(good);
	for (unsigned i = 0; i < report->nreplicas; i++) {
		struct check_replica *replica = &report->replica[i];
		struct reading *source = report->source < 0 ? NULL : &readings[report->source];
		bool is_good = good >> i & 1;

		if (replica->verdict == CHECK_UNREADABLE)
			continue;
		if ((int)i == report->source) {
			say(replica, CHECK_SOURCE, "the record has it as healthy");
			continue;
		}
		say(replica, is_good ? CHECK_IN_SYNC : CHECK_STALE,
		    reason_by_record(replica, record, is_good));
		if (source == NULL)
			continue;
		if (record->generation == 0 || source->replica->generation != record->generation) {
			replica->rebuild = !is_good || !record->is_clean ? CHECK_REBUILD_FULL
									 : CHECK_REBUILD_NONE;
			continue;
		}
		plan(replica, source, !is_good, !record->is_clean);
	}
	if (report->source < 0)
		advise_no_source(report, record);
}

/* Are all records of one nexus and one generation? */
static bool is_one_life(struct check_report *report)
{
	const struct check_replica *first = NULL;

	for (unsigned i = 0; i < report->nreplicas; i++) {
		const struct check_replica *replica = &report->replica[i];

		if (!replica->has_marks)
			continue;
		if (first == NULL)
			first = replica;
		if (!uuid_equal(&replica->nexus, &first->nexus)) {
			(void)snprintf(report->advice, sizeof(report->advice),
				       "these are replicas of more than one nexus");
			return false;
		}
		if (replica->generation != first->generation) {
			(void)snprintf(report->advice, sizeof(report->advice),
				       "their records are of different generations, which only the "
				       "record of the store can tell apart: give it with --record");
			return false;
		}
	}
	return true;
}

/* Do the pages of @r say that @uuid misses nothing? */
static bool is_whole(const struct reading *r, const struct uuid *uuid)
{
	bool is = false;

	for (unsigned slot = 0; slot < INTENT_SUBJECTS_MAX; slot++)
		is |= uuid_equal(&r->subject[slot], uuid) && segmap_count(&r->missed[slot]) == 0;
	return is;
}

/* Was it in sync once, or is its first rebuild not over? */
static bool was_synced(const struct reading *r)
{
	return !r->has_come || is_whole(r, &r->replica->uuid);
}

/*
 * Of those that were in sync, who has the highest sequence. -1: that cannot be said. One that was
 * not, and was written pages that the best has not, went on with somebody who is not here.
 */
static int newest_of(struct check_report *report, const struct reading *readings)
{
	const struct check_replica *best = NULL;
	bool is_beaten = false;
	int index = -1;

	if (!is_one_life(report))
		return -1;
	for (unsigned i = 0; i < report->nreplicas; i++) {
		const struct check_replica *replica = &report->replica[i];

		if (replica->has_marks && was_synced(&readings[i]) &&
		    (best == NULL || replica->sequence > best->sequence)) {
			best = replica;
			index = (int)i;
		}
	}
	for (unsigned i = 0; i < report->nreplicas && best != NULL; i++)
		is_beaten |= report->replica[i].has_marks && !was_synced(&readings[i]) &&
			     report->replica[i].sequence >
				     MAX(best->sequence, readings[i].head_sequence);
	if (best != NULL && !is_beaten)
		return index;
	(void)snprintf(report->advice, sizeof(report->advice),
		       "nothing on them says which is newest: give the record of the store with "
		       "--record");
	return -1;
}

static bool is_named(const struct reading *newest, const struct uuid *uuid)
{
	bool is = false;

	for (unsigned slot = 0; slot < INTENT_SUBJECTS_MAX; slot++)
		is |= uuid_equal(&newest->subject[slot], uuid);
	return is;
}

/* Without a record, and it has records of its own. */
static void judge_against(struct check_replica *replica, const struct reading *r,
			  const struct reading *newest)
{
	bool is_older = replica->sequence < newest->replica->sequence;
	bool was_out = is_older || r->has_come || is_named(newest, &replica->uuid);
	bool is_missing = was_out && !is_whole(newest, &replica->uuid);

	plan(replica, newest, was_out, true);
	if (replica->rebuild == CHECK_REBUILD_PARTIAL && replica->segments == 0)
		replica->rebuild = CHECK_REBUILD_NONE;
	if (is_older && replica->rebuild != CHECK_REBUILD_NONE)
		say(replica, CHECK_STALE,
		    is_named(newest, &replica->uuid)
			    ? "the newest has noted what it missed"
			    : "its last record is older than that of the newest");
	else if (is_missing && replica->rebuild != CHECK_REBUILD_NONE)
		say(replica, CHECK_STALE, "nothing says that its rebuild has ended");
	else
		say(replica, CHECK_IN_SYNC,
		    was_out ? "the newest has noted that it misses nothing"
			    : "its last record is that of the newest");
}

static void judge_by_marks(struct check_report *report, struct reading *readings)
{
	report->source = newest_of(report, readings);
	if (report->source < 0)
		return;
	for (unsigned i = 0; i < report->nreplicas; i++) {
		struct check_replica *replica = &report->replica[i];

		if (replica->verdict == CHECK_UNREADABLE)
			continue;
		if ((int)i == report->source)
			say(replica, CHECK_SOURCE, "nothing newer is known");
		else if (replica->has_marks)
			judge_against(replica, &readings[i], &readings[report->source]);
		else
			replica->rebuild = CHECK_REBUILD_FULL;
	}
	(void)snprintf(
		report->advice, sizeof(report->advice),
		"without the record of the store this is what the replicas say of each other; "
		"give it with --record to be sure");
}

static bool is_given(const struct check_report *report, const struct uuid *uuid)
{
	bool is = uuid_is_zero(uuid);

	for (unsigned i = 0; i < report->nreplicas; i++)
		is |= uuid_equal(&report->replica[i].uuid, uuid);
	for (unsigned i = 0; i < report->nmissing; i++)
		is |= uuid_equal(&report->missing[i], uuid);
	return is;
}

static void note_missing(struct check_report *report, const struct uuid *uuid)
{
	if (!is_given(report, uuid) && report->nmissing < ARRAY_LEN(report->missing))
		report->missing[report->nmissing++] = *uuid;
}

/* Blocks of two sizes: as geometry.c refuses it. */
static bool is_mixed(struct check_report *report, const struct reading *readings)
{
	uint32_t size = 0;
	bool is = false;

	for (unsigned i = 0; i < report->nreplicas; i++) {
		size = size != 0 ? size : readings[i].block_size;
		is |= readings[i].block_size != 0 && readings[i].block_size != size;
	}
	for (unsigned i = 0; i < report->nreplicas && is; i++) {
		struct check_replica *replica = &report->replica[i];

		if (replica->verdict == CHECK_UNREADABLE)
			continue;
		replica->verdict = CHECK_UNKNOWN;
		(void)snprintf(replica->why, sizeof(replica->why), "it has blocks of %u bytes",
			       readings[i].block_size);
	}
	if (is)
		(void)snprintf(report->advice, sizeof(report->advice),
			       "a nexus of blocks of different sizes is refused: give all of them "
			       "the block size they had, with blk_size= in the URI");
	return is;
}

/* All have been read. */
static void judge(struct check_report *report, struct reading *readings,
		  const struct nexus_record *record)
{
	if (is_mixed(report, readings))
		return;
	for (unsigned i = 0; record != NULL && i < record->nchildren; i++)
		note_missing(report, &record->child[i].uuid);
	if (record != NULL) {
		judge_by_record(report, readings, record);
		return;
	}
	judge_by_marks(report, readings);
	for (unsigned slot = 0; report->source >= 0 && slot < INTENT_SUBJECTS_MAX; slot++)
		note_missing(report, &readings[report->source].subject[slot]);
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
		result = check_replica_read(&readings[i], uris[i], err);
		if (ret->replica[i].has_marks)
			ret->segment_size = (uint64_t)readings[i].block_size
					    << readings[i].id.shift;
	}
	if (result == 0)
		judge(ret, readings, record);
	readings_free(readings);
	return result;
}

const char *check_verdict_name(enum check_verdict verdict)
{
	static const char *const names[] = { "unreadable", "unknown", "stale", "in sync",
					     "source" };

	return names[verdict];
}
