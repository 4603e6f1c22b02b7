/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recover.c - a nexus is made again: who of its children may be believed.
 *
 *   the record says                  children
 *   nothing, or clean and none       as the children's own pages say; without any all are in sync:
 *                                    new, or a control plane has chosen them
 *   not clean, and none of these     no nexus
 *   clean, healthy                   in sync
 *   not clean, healthy               the first is the source, in sync; the others are not: what was
 *                                    in flight may differ, so they take the source's word
 *   not healthy, or not in it        out of sync
 *
 * What an out-of-sync child has to be given: what it missed, and what was in flight, as the
 * source's write-intent records have it, if they carry the generation of the record; otherwise
 * everything. After a clean end nothing was in flight.
 *
 * What is missed is missed by the disk that was written to. One that was put in its place has its
 * name and its uuid, where the URI gives one, but not its records: it is given everything.
 *
 * A child that the record knows and that is not given stays in the record, as stale: it misses what
 * is written without it, and must not be taken for a new volume when it comes alone.
 *
 * A size smaller than the last one makes none, if a URI asks: it was written before the volume
 * grew. Hosts would find their volume cut off, and what lies behind the end would be stale on some
 * children when it grows once more. A control plane knows the size; it is only told.
 *
 * Another label makes none either: data would be read from where it is not, and written over what
 * is there.
 *
 * A clean record of other children gives way: who chose them all anew has meant it, and who typed a
 * wrong name is told. He is warned where children have pages of another nexus.
 *
 * Children that are all stale make no nexus: the volume would go back in time without a word. A
 * record that cannot be read or understood makes none either.
 *
 * Which of several healthy ones is the source does not matter: no host has seen a value that was
 * not on all of them (io.c), and what was never acknowledged may be there or not.
 *
 * A record speaks of uuids, and a uuid may be a word in a URI. Where some children hold records of
 * this nexus, a healthy one that holds none is not what it was (a disk was replaced, a memory
 * device made anew): it is out of sync, and never the source. Where none holds any the store's
 * record alone counts: not every engine writes them, and not all replicas have room for them.
 *
 * A record may be older than what was written since: it was copied, or another user has a store of
 * his own. Then a replica that is healthy in it has a recorded head of another generation
 * (intent.h, rule 7), and there is no nexus: each side may have acknowledged writes that the other
 * lacks.
 *
 * Who is in sync is flushed before anything else of it is used. The marks of the last life are
 * forgotten with it, and only they would tell what a loss of power takes away from a cache.
 *
 * Where there is no record, but some children hold pages of this nexus, the record is elsewhere: in
 * the store of another user, or lost. To take all as in sync would lose what one of them missed.
 * The sequence of the pages grows over all lives of a nexus, so whose is the highest was a writer
 * longest: it is the source, the others are given everything. Those with the same sequence and the
 * generation of the source, and nothing in flight on any, are alike. A child that was being rebuilt
 * says so in its head and is never the source. It is no proof as a record is: who fell in the
 * moment before a crash has no lower sequence, and one that comes alone cannot know that it is
 * stale. So there is a warning.
 *
 * A record is believed, also one that is not the last: there is nothing to tell it by. Who brings a
 * store back from a backup had better remove the records in it.
 *
 * Thread: tasks on the primary, before the device is registered.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "nexus/internal.h"
#include "nexus/marks.h"

/* What the record says of @uuid: -1 nothing. Once stale is stale, if it says so twice. */
static int recorded(const struct nexus_record *record, const struct uuid *uuid)
{
	int said = -1;

	for (unsigned i = 0; i < record->nchildren; i++) {
		if (uuid_equal(&record->child[i].uuid, uuid))
			said = record->child[i].is_healthy && said != 0;
	}
	return said;
}

/* As often as a record is tried to be written. */
static int text_read(struct nexus *nx, char text[RECORD_TEXT_MAX], struct err *err) MAY_SUSPEND
{
	for (unsigned try = 1;; try++) {
		int result;

		err_clear(err);
		result = record_writer_get(nx->writer, nx->key, text,
					   nexus_settings.store_timeout_ns, err);
		if (result == 0 || result == -ENOENT || try == nexus_settings.store_tries)
			return result;
		log_warn("nexus %s: record not read, try %u of %u: %s", nx->dev.name, try,
			 nexus_settings.store_tries, err_text(err));
		task_sleep(nexus_settings.store_pause_ns);
	}
}

/* -ENOENT: there is none that says anything of these children. */
static int record_read(struct nexus *nx, struct nexus_record *record,
		       struct nexus_err *ne) MAY_SUSPEND
{
	char text[RECORD_TEXT_MAX];
	struct err err = {};
	int result = text_read(nx, text, &err);
	bool is_known = false;

	if (result == -ENOENT)
		return result;
	if (result == 0)
		result = record_parse(text, strlen(text), record, &err);
	if (result < 0) {
		(void)nexus_fail(ne, NEXUS_E_STORE, "nexus %s: its record cannot be read: %s",
				 nx->dev.name, err_text(&err));
		return -EIO;
	}
	for (unsigned i = 0; i < nx->nchildren; i++)
		is_known |= recorded(record, &nx->child[nx->order[i]]->uuid) >= 0;
	if (is_known)
		return 0;
	if (record->is_clean && record->generation != 0)
		log_info("nexus %s: its record knows none of these children, and gives way to one "
			 "that does",
			 nx->dev.name);
	if (record->is_clean || record->generation == 0)
		return -ENOENT;
	(void)nexus_fail(ne, NEXUS_E_INCOMPLETE,
			 "nexus %s: its record knows none of these children, and it did not end in "
			 "order: give those it had, or remove the record",
			 nx->dev.name);
	return -EPERM;
}

/* What @child lacks, from the source's pages. */
static void child_lacks(struct child *child, struct child *source,
			const struct nexus_record *record) MAY_SUSPEND
{
	struct nexus *nx = child->nx;
	bool is_healthy = recorded(record, &child->uuid) == 1;
	bool is_known = record->generation != 0;

	if (is_known && !is_healthy) /* who is not in it may be so old that nobody noted it */
		is_known = recorded(record, &child->uuid) == 0 &&
			   marks_read_missed(nx, source, record->generation, &child->uuid,
					     &child->missed);
	if (is_known && !record->is_clean)
		is_known = marks_read_in_flight(nx, source, record->generation, &child->missed);
	is_known = is_known && marks_are_on(child, 0);
	child->is_missed_known = is_known;
	log_info("nexus %s: child %s is out of sync, %s", nx->dev.name, child->uri,
		 is_known ? "what it lacks is recorded" : "all of it");
}

/* Children of the record that are not given miss what is written from now on. */
static void note_absent(struct nexus *nx, const struct nexus_record *record)
{
	for (unsigned i = 0; i < record->nchildren; i++) {
		bool is_given = false;

		for (unsigned j = 0; j < nx->nchildren; j++)
			is_given |= uuid_equal(&nx->child[nx->order[j]]->uuid,
					       &record->child[i].uuid);
		if (!is_given)
			nx->absent[nx->nabsent++] = record->child[i].uuid;
	}
}

/* Healthy in the record, and what is there now is what was there then, 1 << slot. The generation of
 * the pages is not asked for: a life that ended before its record was written has left its own. */
static uint8_t believed(struct nexus *nx, const struct nexus_record *record) MAY_SUSPEND
{
	uint8_t healthy = 0, same = 0;

	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];

		healthy |= (uint8_t)((recorded(record, &child->uuid) == 1) << child->slot);
		same |= (uint8_t)((record->generation != 0 && marks_are_on(child, 0))
				  << child->slot);
	}
	for (unsigned i = 0; i < nx->nchildren && same != 0; i++) {
		const struct child *child = nx->child[nx->order[i]];

		if (healthy & ~same & 1u << child->slot)
			log_warn(
				"nexus %s: child %s is healthy by the record, but holds no records "
				"of this nexus, as others do: it is another disk",
				nx->dev.name, child->uri);
	}
	return same != 0 ? same & healthy : healthy;
}

/* Who is believed but was written to under another record? */
static int check_one_history(const struct nexus *nx, const struct nexus_record *record,
			     const struct marks_seen *seen, uint8_t good, struct nexus_err *ne)
{
	bool is_known =
		false; /* the record's life has left pages, so it did on all it has as healthy */

	for (unsigned i = 0; i < nx->nchildren; i++)
		is_known |= seen[i].generation == record->generation;
	for (unsigned i = 0; i < nx->nchildren && is_known && record->generation != 0; i++) {
		const struct child *child = nx->child[nx->order[i]];

		if (!(good >> child->slot & 1) || seen[i].generation == 0 ||
		    seen[i].generation == record->generation || seen[i].is_unrecorded)
			continue;
		return nexus_fail(
			ne, NEXUS_E_INCOMPLETE,
			"nexus %s: child %s was written to under another record than "
			"this one, so each may lack what the other has: is --store right, "
			"or is the record an old copy? To drop what is on this child "
			"only, leave it out and add it when the nexus is there",
			nx->dev.name, child->uri);
	}
	return 0;
}

/* What a child has in its cache, marks that are forgotten now may be all that tells of it. */
static int flush_synced(struct nexus *nx, struct nexus_err *ne) MAY_SUSPEND
{
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];

		if (atomic_load(&child->word) & CHILD_SYNCED && !marks_flush(child))
			return nexus_fail(ne, NEXUS_E_INCOMPLETE,
					  "nexus %s: child %s cannot be flushed", nx->dev.name,
					  child->uri);
	}
	return 0;
}

/* Who fell meanwhile stays out. */
static void out_of_sync(struct child *child)
{
	child->is_healthy = false;
	(void)atomic_fetch_and(&child->word, ~(uint32_t)CHILD_SYNCED);
}

/* Nothing was in flight on @child, and its pages are all there to say so. */
static bool is_clear(struct child *child, const struct marks_seen *seen) MAY_SUSPEND
{
	struct segmap *map = &child->missed; /* empty, and of the right shape */
	bool is = seen->is_whole && !seen->is_incomplete &&
		  marks_read_in_flight(child->nx, child, seen->generation, map) &&
		  segmap_count(map) == 0;

	segmap_zero(map);
	return is;
}

/* The newest of those that are whole. -1: none. */
static int newest(const struct nexus *nx, const struct marks_seen *seen)
{
	int best = -1;

	for (unsigned i = 0; i < nx->nchildren; i++) {
		if (seen[i].sequence > 0 && !seen[i].is_incomplete &&
		    (best < 0 || seen[i].sequence > seen[best].sequence))
			best = (int)i;
	}
	return best;
}

static void warn_unrecorded(const struct nexus *nx, unsigned best, unsigned nrebuilt)
{
	const char *uri = nx->child[nx->order[best]]->uri;

	if (nx->nchildren == 1)
		log_warn("nexus %s: no record of it was found although %s was written under it; if "
			 "it had other replicas they may be newer. Is --store right?",
			 nx->dev.name, uri);
	else if (nrebuilt == 0)
		log_warn("nexus %s: no record of it was found although its replicas were written "
			 "under it; they agree, and are taken as they are. Is --store right?",
			 nx->dev.name);
	else
		log_warn("nexus %s: no record of it was found although its replicas were written "
			 "under it: %s is the newest, %u of %u are rebuilt in full. Is --store "
			 "right?",
			 nx->dev.name, uri, nrebuilt, nx->nchildren);
}

/* Data is not looked for where it is not, nor written over. 0: @label is not known. */
static int check_label(const struct nexus *nx, unsigned label, const char *who_says,
		       struct nexus_err *ne)
{
	if (label == 0 || label == nx->label)
		return 0;
	return nexus_fail(
		ne, NEXUS_E_INVALID_ARGUMENTS,
		"nexus %s was made with label=v%u, %s; with label=v%u its data would begin "
		"elsewhere: give label=v%u",
		nx->dev.name, label, who_says, (unsigned)nx->label, label);
}

/* There is no record: what the children say of themselves, if this nexus has written to them. */
static int recover_unrecorded(struct nexus *nx, const struct marks_seen *seen, bool is_read,
			      struct nexus_err *ne) MAY_SUSPEND
{
	int best = newest(nx, seen);
	unsigned nrebuilt = 0;
	bool is_written = false, is_best_clear;

	for (unsigned i = 0; i < nx->nchildren; i++)
		is_written |= seen[i].sequence > 0;
	for (unsigned i = 0; i < nx->nchildren && !is_written && nx->is_size_kept; i++) {
		if (seen[i].is_foreign)
			log_warn(
				"nexus %s: child %s was written to by a nexus of another name, and "
				"is believed to be equal to the others: is the name right?",
				nx->dev.name, nx->child[nx->order[i]]->uri);
	}
	if (!is_written)
		return flush_synced(nx, ne);
	if (!is_read)
		return nexus_fail(ne, NEXUS_E_INCOMPLETE,
				  "nexus %s: no record of it was found, and what its replicas "
				  "themselves record cannot be read from all: is --store right?",
				  nx->dev.name);
	if (best < 0)
		return nexus_fail(ne, NEXUS_E_INCOMPLETE,
				  "nexus %s: no record of it was found, and these replicas are "
				  "those of rebuilds that were not over: give the one that they "
				  "were rebuilt from. Is --store right?",
				  nx->dev.name);
	if (check_label(nx, seen[best].label, "as its replicas say", ne) < 0)
		return ne->err.code;
	is_best_clear = is_clear(nx->child[nx->order[best]], &seen[best]);
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];

		if ((int)i == best ||
		    (is_best_clear && seen[i].sequence == seen[best].sequence &&
		     seen[i].generation == seen[best].generation && is_clear(child, &seen[i])))
			continue;
		out_of_sync(child);
		child->is_missed_known = false;
		nrebuilt++;
	}
	warn_unrecorded(nx, (unsigned)best, nrebuilt);
	return flush_synced(nx, ne);
}

int nexus_recover(struct nexus *nx, struct nexus_err *ne)
{
	struct marks_seen seen[NEXUS_CHILDREN_MAX];
	struct nexus_record record;
	struct child *source = NULL;
	uint8_t good;
	bool is_read = true;
	int result = record_read(nx, &record, ne);

	for (unsigned i = 0; i < nx->nchildren; i++)
		is_read &= marks_look(nx->child[nx->order[i]], &seen[i]);
	if (result < 0)
		return result == -ENOENT ? recover_unrecorded(nx, seen, is_read, ne) : result;
	if (check_label(nx, record.label, "as its record says", ne) < 0)
		return ne->err.code;
	if (nx->size < record.size && nx->is_size_kept)
		return nexus_fail(
			ne, NEXUS_E_INVALID_ARGUMENTS,
			"nexus %s has size=%lu and does not shrink to %lu, as hosts would "
			"find its end missing: give size=%lu",
			nx->dev.name, record.size, nx->size, record.size);
	if (nx->size < record.size)
		log_warn("nexus %s had %lu bytes, and is made with %lu", nx->dev.name, record.size,
			 nx->size);
	note_absent(nx, &record);
	good = believed(nx, &record);
	if (check_one_history(nx, &record, seen, good, ne) < 0)
		return ne->err.code;
	for (unsigned i = nx->nchildren; i-- > 0;) {
		if (good >> nx->order[i] & 1)
			source = nx->child[nx->order[i]];
	}
	if (source == NULL)
		return nexus_fail(ne, NEXUS_E_INCOMPLETE,
				  "nexus %s: its record has none of these children as healthy, or "
				  "who was healthy has been replaced; add a healthy one, or remove "
				  "the record",
				  nx->dev.name);
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];

		if (child == source || (record.is_clean && good >> child->slot & 1))
			continue;
		out_of_sync(child);
	}
	result = flush_synced(nx, ne);
	for (unsigned i = 0; i < nx->nchildren && result == 0; i++) {
		struct child *child = nx->child[nx->order[i]];

		if (!(atomic_load(&child->word) & CHILD_SYNCED))
			child_lacks(child, source, &record);
	}
	return result;
}
