/* SPDX-License-Identifier: Apache-2.0 */
/*
 * segmap.h - a bit per segment of a nexus: missed by a child, or written not long ago.
 *
 * A segment is a power of two of blocks. Its size grows with the volume, so that a map has at most
 * SEGMENTS_MAX bits whatever the volume's size; small volumes have segments of 64 KiB.
 *
 * Owner:  embedded; segmap_init() allocates the words, segmap_done() frees them.
 * Thread: segmap_set() and segmap_test() from any reactor at once; a bit that is set already costs
 *         a load. The rest while nobody sets, or where a late bit does no harm (the caller says).
 */
#ifndef ASHLAR_NEXUS_SEGMAP_H
#define ASHLAR_NEXUS_SEGMAP_H

#include <errno.h>
#include <stdatomic.h>

#include "base/base.h"

enum {
	SEGMENT_BYTES_MIN = 64 << 10,
	SEGMENTS_MAX = 8 * 4000 * 8, /* eight pages of 4,000 bytes of bits, see intent.h */
};

struct segmap {
	_Atomic uint64_t *words; /* owned */
	uint32_t nsegments;
	uint8_t shift; /* log2 of blocks per segment */
};

/* log2 of blocks per segment for a volume of @nblocks. */
static inline uint8_t segment_shift(uint64_t nblocks, unsigned block_shift)
{
	uint8_t shift = 0;

	while (1u << (shift + block_shift) < SEGMENT_BYTES_MIN)
		shift++;
	while (nblocks > 0 && (nblocks - 1) >> shift >= SEGMENTS_MAX)
		shift++;
	return shift;
}

static inline size_t segmap_nwords(const struct segmap *map)
{
	return DIV_ROUND_UP(map->nsegments, 64u);
}

/* All clear. -ENOMEM. */
WARN_UNUSED static inline int segmap_init(struct segmap *map, uint64_t nblocks, uint8_t shift)
{
	map->shift = shift;
	map->nsegments = (uint32_t)(nblocks == 0 ? 0 : ((nblocks - 1) >> shift) + 1);
	map->words = calloc(MAX(segmap_nwords(map), (size_t)1), sizeof(*map->words));
	return map->words == NULL ? -ENOMEM : 0;
}

static inline void segmap_done(struct segmap *map)
{
	free((void *)(uintptr_t)map->words);
	map->words = NULL;
}

static inline bool segmap_test(const struct segmap *map, uint32_t seg)
{
	return atomic_load_explicit(&map->words[seg / 64], memory_order_relaxed) >> seg % 64 & 1;
}

static inline void segmap_set(struct segmap *map, uint32_t seg)
{
	if (!segmap_test(map, seg))
		atomic_fetch_or(&map->words[seg / 64], 1ull << seg % 64);
}

static inline void segmap_clear(struct segmap *map, uint32_t seg)
{
	atomic_fetch_and(&map->words[seg / 64], ~(1ull << seg % 64));
}

/* Every segment that the blocks touch. */
static inline void segmap_set_range(struct segmap *map, uint64_t lba, uint64_t nlb)
{
	if (nlb == 0)
		return;
	for (uint64_t seg = lba >> map->shift; seg <= (lba + nlb - 1) >> map->shift; seg++) {
		if (seg < map->nsegments)
			segmap_set(map, (uint32_t)seg);
	}
}

/* @to |= @from; maps of the same shape. */
static inline void segmap_or(struct segmap *to, const struct segmap *from)
{
	for (size_t i = 0; i < segmap_nwords(to); i++) {
		uint64_t word = atomic_load_explicit(&from->words[i], memory_order_relaxed);

		if (word != 0)
			atomic_fetch_or(&to->words[i], word);
	}
}

static inline void segmap_fill(struct segmap *map)
{
	for (uint32_t seg = 0; seg < map->nsegments; seg++)
		segmap_set(map, seg);
}

static inline void segmap_zero(struct segmap *map)
{
	for (size_t i = 0; i < segmap_nwords(map); i++)
		atomic_store_explicit(&map->words[i], 0, memory_order_relaxed);
}

static inline uint32_t segmap_count(const struct segmap *map)
{
	uint32_t count = 0;

	for (size_t i = 0; i < segmap_nwords(map); i++)
		count += (uint32_t)__builtin_popcountll(
			atomic_load_explicit(&map->words[i], memory_order_relaxed));
	return count;
}

/* The first set bit at or after @seg, nsegments when there is none. */
static inline uint32_t segmap_next(const struct segmap *map, uint32_t seg)
{
	while (seg < map->nsegments) {
		uint64_t word = atomic_load_explicit(&map->words[seg / 64], memory_order_relaxed) >>
				seg % 64;

		if (word != 0)
			return seg + (uint32_t)__builtin_ctzll(word);
		seg = (seg / 64 + 1) * 64;
	}
	return map->nsegments;
}

#endif
