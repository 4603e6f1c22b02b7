/* SPDX-License-Identifier: Apache-2.0 */
/*
 * intent.c - pages of write-intent records: to bytes and back, with nothing believed unseen.
 *
 * A page stands for itself: magic, version, its own index, the identity it is bound to, a check-sum
 * over all of it. So a page that was half written, that lies where another belongs, that an older
 * nexus or an older generation of this one left, or that somebody made up, is not taken for ours.
 * intent.h has the layout and the rules.
 *
 *   page k of a map holds the bits of segments 32,000 k .. 32,000 k + 31,999, in words of 64,
 *   little-endian, segment 0 in bit 0 of byte 0
 *
 * Bits beyond the last segment are zero when written and ignored when read.
 *
 * Thread: any; no state.
 */
#include "nexus/intent.h"

#include <string.h>

#include "base/crc32c.h"

enum {
	WORDS_PER_PAGE = INTENT_BITS_BYTES / 8,
};

static const uint8_t magic[8] = "ASHLWINT";

/* Which page of its map is page @index? */
static unsigned map_part(unsigned index)
{
	return (index - INTENT_PAGE_IN_FLIGHT) % INTENT_MAP_PAGES;
}

static uint32_t page_crc(const struct intent_page *page)
{
	static const struct le32 zero;
	size_t at = offsetof(struct intent_page, crc);
	uint32_t crc = crc32c(0, page, at);

	crc = crc32c(crc, &zero, sizeof(zero));
	at += sizeof(zero);
	return crc32c(crc, (const uint8_t *)page + at, sizeof(*page) - at);
}

void intent_page_encode(struct intent_page *page, const struct intent_id *id, unsigned index,
			uint64_t sequence, const struct uuid *subject, const struct segmap *map)
{
	memset(page, 0, sizeof(*page));
	memcpy(page->magic, magic, sizeof(magic));
	le16_put(&page->version, INTENT_VERSION);
	le16_put(&page->index, (uint16_t)index);
	le64_put(&page->generation, id->generation);
	le64_put(&page->sequence, sequence);
	memcpy(page->nexus, id->nexus.b, sizeof(page->nexus));
	memcpy(page->replica, id->replica.b, sizeof(page->replica));
	if (subject != NULL)
		memcpy(page->subject, subject->b, sizeof(page->subject));
	le32_put(&page->nsegments, id->nsegments);
	page->shift = id->shift;
	page->is_incomplete = index == INTENT_PAGE_HEAD && id->is_incomplete;
	page->label = index == INTENT_PAGE_HEAD ? id->label : 0;
	page->is_unrecorded = index == INTENT_PAGE_HEAD && id->is_unrecorded;
	if (map != NULL) {
		size_t first = (size_t)map_part(index) * WORDS_PER_PAGE, n = segmap_nwords(map);

		for (size_t i = 0; i < WORDS_PER_PAGE && first + i < n; i++) {
			struct le64 word = le64_of(atomic_load(&map->words[first + i]));

			memcpy(page->bits + 8 * i, &word, sizeof(word));
		}
	}
	le32_put(&page->crc, page_crc(page));
}

bool intent_page_is_valid(const struct intent_page *page, unsigned index)
{
	return memcmp(page->magic, magic, sizeof(magic)) == 0 &&
	       le16_get(page->version) == INTENT_VERSION && le16_get(page->index) == index &&
	       le32_get(page->crc) == page_crc(page);
}

bool intent_page_is_bound(const struct intent_page *page, const struct intent_id *id)
{
	return le64_get(page->generation) == id->generation &&
	       memcmp(page->nexus, id->nexus.b, sizeof(page->nexus)) == 0 &&
	       memcmp(page->replica, id->replica.b, sizeof(page->replica)) == 0 &&
	       le32_get(page->nsegments) == id->nsegments && page->shift == id->shift;
}

bool intent_head_is_bound(const struct intent_page pair[2], const struct intent_id *id)
{
	bool is_bound = true;

	for (unsigned i = 0; i < 2; i++)
		is_bound &= intent_page_is_valid(&pair[i], INTENT_PAGE_HEAD) &&
			    intent_page_is_bound(&pair[i], id);
	return is_bound;
}

int intent_pair_pick(const struct intent_page pair[2], const struct intent_id *id, unsigned index)
{
	bool is_good[2];

	for (unsigned i = 0; i < 2; i++)
		is_good[i] = intent_page_is_valid(&pair[i], index) &&
			     intent_page_is_bound(&pair[i], id);
	if (is_good[0] && is_good[1])
		return le64_get(pair[1].sequence) > le64_get(pair[0].sequence);
	return is_good[0] ? 0 : is_good[1] ? 1 : -1;
}

void intent_page_or(const struct intent_page *page, struct segmap *map)
{
	unsigned index = le16_get(page->index);
	size_t first = (size_t)map_part(index) * WORDS_PER_PAGE, n = segmap_nwords(map);

	for (size_t i = 0; i < WORDS_PER_PAGE && first + i < n; i++) {
		struct le64 word;
		uint64_t bits;

		memcpy(&word, page->bits + 8 * i, sizeof(word));
		bits = le64_get(word);
		if (first + i == n - 1 && map->nsegments % 64 != 0)
			bits &= (1ull << map->nsegments % 64) - 1;
		if (bits != 0)
			atomic_fetch_or(&map->words[first + i], bits);
	}
}
