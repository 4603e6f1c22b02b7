/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mirror_lost.c - the record is lost: what the replicas say of themselves has to do.
 *
 * The store keeps one small file, and people delete files, or bring a store back empty. The engine
 * promises then (recover.c): of all replicas that are given the one that was written to last is the
 * source, the others are rebuilt in full unless all are known to be alike. So whoever was healthy
 * when the record was lost has what was acknowledged, and clients must find it.
 *
 * The one exception needs two losses: a child that fell in the moment before the end may have pages
 * as new as those of the ones that went on without it, as nothing was written there since. It is
 * known here from the disks: the pages of a replica that is not healthy are as new as those of the
 * healthy ones that are given. Only then what it holds may turn out to be the truth
 * (oracle_may_hold()). And no write was acknowledged later than a moment after its fall (TIE_NS,
 * several times what a slow disk makes of it), so that little is lost; else it is a bug. Pages go
 * to one after the other, so while one hangs that is to get the new ones, the moment lasts: it is
 * counted from the last fall of any.
 *
 *   a record is durable  who is not healthy in it any more has fallen: lost_note()
 *   a life begins        who of them may tie; the dice lose the record, or did in the last life
 *   it is made           some of the healthy, one of which at least was not being rebuilt, with any
 *                        of the others, those that were removed and those that never were children,
 *                        too: lost_pick()
 *
 * A healthy one whose head still says that it is being rebuilt is the same exception seen from the
 * other side: its source fell in the moment in which it was done. If there is no other one nobody
 * is promised anything, and the record is found again.
 *
 * What is not played: an older copy of the record. The engine has nothing to tell it from the last
 * one and believes it, so a child that fell since is in sync again. Nothing is promised there.
 */
#include <inttypes.h>
#include <string.h>

#include "mirror.h"
#include "nexus/intent.h"
#include "store_sim.h"

enum {
	PICK_TRIES = 100,
	PAGES_AT = 1 << 20, /* bytes from the start of a child, both labels (geometry.h) */
};

#define TIE_NS (100 * MSEC)

/* Of the pages on a replica's disk; sequence 0: there are none. */
struct pages {
	uint64_t sequence;
	bool is_incomplete;
};

static struct pages pages_of(const struct replica *replica)
{
	const uint8_t *at = replica->medium->current + replica->offset * mirror.scene->block_size +
			    PAGES_AT;
	struct pages pages = {};

	for (unsigned i = 0; i < 2 * INTENT_PAGES; i++) {
		const struct intent_page *page = (const void *)(at + (size_t)i * INTENT_PAGE_SIZE);

		if (!intent_page_is_valid(page, i / 2))
			continue;
		pages.sequence = MAX(pages.sequence, le64_get(page->sequence));
		pages.is_incomplete |= i / 2 == INTENT_PAGE_HEAD && page->is_incomplete;
	}
	return pages;
}

void lost_note(const struct nexus_record *record)
{
	for (unsigned i = 0; i < mirror.nreplicas; i++) {
		struct replica *replica = &mirror.replica[i];
		bool is_healthy = false;

		for (unsigned k = 0; k < record->nchildren; k++)
			is_healthy |= record->child[k].is_healthy &&
				      uuid_equal(&record->child[k].uuid, &replica->uuid);
		if (replica->is_recorded && !is_healthy)
			replica->fell_ns = world_now();
		replica->is_recorded = is_healthy;
	}
	mirror.is_recorded = true;
}

void lost_begin(void)
{
	struct nexus_record record = {};
	uint64_t moment_ns, fell_ns = 0;

	for (unsigned i = 0; i < mirror.nreplicas; i++)
		fell_ns = MAX(fell_ns, mirror.replica[i].fell_ns);
	/* of a life that left no record there is nothing to be forgotten */
	for (unsigned i = 0; i < mirror.nreplicas && mirror.is_recorded; i++) {
		struct replica *replica = &mirror.replica[i];

		/* at a clean end all that fell before is written, but not who fell in the end */
		moment_ns = simstore_record(&record) && record.is_clean ? 0 : TIE_NS;
		replica->may_tie = !replica->is_recorded && replica->fell_ns > 0 &&
				   MAX(replica->fell_ns, moment_ns > 0 ? fell_ns : 0) + moment_ns >
					   mirror.scene->acked_ns;
	}
	mirror.is_recorded = false;
	if (!simstore_has_lost() && world_chance(1, 8))
		simstore_lose();
	mirror_stats.lost += simstore_has_lost();
}

static const struct replica *given(const struct making *making, unsigned at)
{
	for (unsigned i = 0; i < mirror.nreplicas; i++) {
		if (mirror.replica[i].uri == making->child[at])
			return &mirror.replica[i];
	}
	return NULL;
}

/* The newest pages of those that are healthy and were not being rebuilt. 0: there are none. */
static uint64_t newest(const struct making *making)
{
	uint64_t sequence = 0;

	for (unsigned i = 0; i < making->count; i++) {
		const struct replica *replica = given(making, i);
		struct pages pages = pages_of(replica);

		if (replica->is_recorded && !pages.is_incomplete)
			sequence = MAX(sequence, pages.sequence);
	}
	return sequence;
}

/* It may be taken for the source, although it lacks something. */
static void tie(const struct replica *replica, const struct pages *pages, uint64_t sequence)
{
	if (!replica->may_tie) {
		world_fail("without a record %s would be the source: its pages (%" PRIu64
			   ") are as new as those of the healthy ones (%" PRIu64
			   "), but it fell at %" PRIu64,
			   replica->disk, pages->sequence, sequence, replica->fell_ns);
		return;
	}
	mirror_stats.lost_ties++;
	world_trace("may be the source", (uint64_t)(replica - mirror.replica), pages->sequence);
	oracle_may_hold(mirror.scene->oracle, 0, mirror.nblocks, replica_block(replica, 0));
}

bool lost_pick(struct making *making, const struct nexus_record *record)
{
	uint64_t sequence = 0;

	for (unsigned i = 0; sequence == 0 && i < PICK_TRIES; i++) {
		making->count = 0;
		(void)mirror_pick(making, record, 1, 9, 10);
		sequence = newest(making);
	}
	if (sequence == 0) {
		making->count = 0;
		mirror_stats.lost_found++;
		simstore_find();
		return false;
	}
	(void)mirror_pick(making, record, 0, 1, 2);
	(void)mirror_pick(making, record, -1, 1, 2);
	for (unsigned i = 0; i < making->count; i++) {
		const struct replica *replica = given(making, i);
		struct pages pages = pages_of(replica);

		if (!replica->is_recorded && !pages.is_incomplete && pages.sequence >= sequence)
			tie(replica, &pages, sequence);
	}
	return true;
}
