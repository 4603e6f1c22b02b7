/* SPDX-License-Identifier: Apache-2.0 */
/*
 * intent.h - write-intent records: what may differ between the children, written on them.
 *
 * In the reserved metadata area of each child (geometry.h), two copies of every page:
 *
 *   pages of 4 KiB, or of a block where that is larger, in pairs (A, B):
 *     page 0               head: which nexus, which replica, how large the segments are
 *     page 1 .. 8          in flight: segments being written, or written and not yet cleared
 *     page 9 + 8 s .. + 7  missed by the child in slot s: exact, for 8 slots
 *
 *   a page:  magic, version, index, generation, nexus uuid, replica uuid (of the child it is on),
 *            subject uuid (of the child that missed, else zero), sequence, crc32c, 4,000 bytes of
 *            bits; in a head also whether the child is in the middle of a rebuild, the label, and
 *            whether the record tells of this life
 *
 * Of a pair the copy with the older sequence is overwritten, so a torn write leaves the other
 * one. A reader takes the valid copy with the higher sequence. So that a copy that rots later
 * brings no older map back, both say the same soon: pages about what was missed at once, those in
 * flight with the next tick.
 *
 * The rules that make them worth something:
 *   1. A segment is durably in flight on every writer before the first write to it is sent.
 *   2. It is cleared only when no write to it is under way, all that were have been flushed on
 *      every writer, and whatever a lost child missed of it is durable in that child's missed map.
 *   3. So what a lost child lacks is always within missed (of that child) or in flight.
 *   4. All pages carry the generation of the record in the store. Another one, a damaged pair, a
 *      missing page: the map is unknown and the rebuild is full. Never is a doubtful map believed.
 *   5. Pages that are written anew, by the next life of a nexus or for another size, begin with
 *      the head, both copies of which have to be of the generation: a life that ended before its
 *      record was written leaves pages of the one before it, but perhaps not the newest.
 *   6. The sequence grows over all lives of a nexus, with any change of who is a writer, too: whose
 *      is the highest was a writer longest, if no record tells (recover.c). A page goes to one
 *      writer after the other, so at the death of a process they are at most one apart: a life
 *      begins two higher, after its first record.
 *   7. Heads say from then on that they are recorded. Who is healthy in a record, but has a
 *      recorded head of another generation than the record, which others have, was written to
 *      under another record: in a second store, or after this one was copied. Nobody can say whose
 *      writes are to be lost.
 *
 * Rule 3 is why the missed map needs no durable write per request: the in-flight map holds until
 * the missed map is safe. Cost in the common case: one bit test per write, in a map of the
 * channel.
 *
 * Thread: the format is pure. The rest: tasks on the primary.
 */
#ifndef ASHLAR_NEXUS_INTENT_H
#define ASHLAR_NEXUS_INTENT_H

#include "base/err.h"
#include "base/le.h"
#include "base/uuid.h"
#include "nexus/segmap.h"

enum {
	INTENT_PAGE_SIZE = 4096,
	INTENT_BITS_BYTES = 4000,
	INTENT_MAP_PAGES = 8,
	INTENT_SUBJECTS_MAX = 8, /* children whose missed segments are recorded */
	INTENT_PAGES = 1 + INTENT_MAP_PAGES * (1 + INTENT_SUBJECTS_MAX),
	INTENT_VERSION = 1,
	INTENT_PAGE_HEAD = 0,
	INTENT_PAGE_IN_FLIGHT = 1,
};

static_assert(SEGMENTS_MAX == INTENT_MAP_PAGES * INTENT_BITS_BYTES * 8, "a map fits its pages");
/* V2 has the smaller area: 3 MiB. */
static_assert(2 * INTENT_PAGES * INTENT_PAGE_SIZE <= 3 << 20, "both copies fit both layouts");

static inline unsigned intent_page_missed(unsigned slot)
{
	return INTENT_PAGE_IN_FLIGHT + INTENT_MAP_PAGES * (1 + slot);
}

struct intent_page {
	uint8_t magic[8]; /* "ASHLWINT" */
	struct le16 version;
	struct le16 index; /* INTENT_PAGE_... */
	struct le32 crc;   /* crc32c of the page with this field zero */
	struct le64 generation;
	struct le64 sequence;
	uint8_t nexus[16];
	uint8_t replica[16];
	uint8_t subject[16];
	struct le32 nsegments;
	uint8_t shift;         /* log2 of blocks per segment */
	uint8_t is_incomplete; /* head: a rebuild of this child is not over */
	uint8_t label;         /* head: enum nexus_label; 0: it does not say */
	uint8_t is_unrecorded; /* head: the life that wrote it had no record by then */
	uint8_t reserved[8];
	uint8_t bits[INTENT_BITS_BYTES];
};

static_assert(sizeof(struct intent_page) == INTENT_PAGE_SIZE, "a page");

/* What all pages of one child have in common. */
struct intent_id {
	struct uuid nexus, replica;
	uint64_t generation;
	uint32_t nsegments;
	uint8_t shift;
	/* for who writes them; nothing is bound to these */
	bool is_incomplete, is_unrecorded;
	uint8_t label;
};

/* Fill @page. @bits: the map, of which this page's part is taken; NULL: none (head). */
void intent_page_encode(struct intent_page *page, const struct intent_id *id, unsigned index,
			uint64_t sequence, const struct uuid *subject, const struct segmap *map);

/* Is @page valid in itself (magic, version, index, check-sum), whoever wrote it? */
bool intent_page_is_valid(const struct intent_page *page, unsigned index);
/* Is a valid page bound to @id? */
bool intent_page_is_bound(const struct intent_page *page, const struct intent_id *id);

/*
 * Are both copies of the head valid and bound to @id? Who writes a child's pages anew begins with
 * the head. So if not, it may have been the newer copy of any other pair that is gone by now, and
 * the older one is not to be believed either.
 */
bool intent_head_is_bound(const struct intent_page pair[2], const struct intent_id *id);
/* The copy to believe: 0, 1, or -1 when neither is valid and bound to @id. */
int intent_pair_pick(const struct intent_page pair[2], const struct intent_id *id, unsigned index);

/* Add the bits of page @index to @map. */
void intent_page_or(const struct intent_page *page, struct segmap *map);

#endif
