/* SPDX-License-Identifier: Apache-2.0 */
/*
 * overlap.h - who writes which blocks now: one writer per block, on all reactors of a nexus.
 *
 * Writes that overlap in flight must reach every leg in one order, or the legs end up different.
 * A fan-out to several devices cannot promise an order, so the second write waits for the first.
 *
 *   block address     ... | 63 .. 0 | 63 .. 0 | ...       64 blocks are one word
 *                              |         |
 *   table             [ word ][ word ][ word ] ...         OVERLAP_WORDS, index = (lba / 64) folded
 *
 * A writer sets the bits of its blocks with one atomic OR per word. All were clear: they are its
 * own. Some were set: it takes back those it has set itself, and waits. One atomic AND gives them
 * up. Two ranges that lie far apart may fold onto one bit; then one waits without need, which is
 * rare and harmless. A request of more than OVERLAP_NLB_MAX blocks takes the whole table.
 *
 * A read takes nothing. When its data has arrived it looks whether a writer is at work on its
 * blocks, and if so it waits until he is through: what it has read may be the new data of a write
 * that one leg has and another does not, and if everything died now the old data could come back.
 * So nobody ever sees a value that is not yet on all legs.
 *
 * Who waits: in a list of his channel; the count of all who wait is one word of the nexus, which
 * whoever gives up blocks looks at. Order: first a waiter counts himself, then he tries once more;
 * first a writer gives up, then he looks at the count. Both are sequentially consistent, so one of
 * them sees the other.
 *
 * Thread: any reactor. No locks; the table is zeroed memory of the nexus.
 *
 * Rejected: a range lock of the device layer per write (a task and a message to every reactor); a
 * table per channel that others look into (a fence per write, and cost that grows with the number
 * of reactors); a hash of segments with one owner each (sequential writers would queue up).
 */
#ifndef ASHLAR_NEXUS_OVERLAP_H
#define ASHLAR_NEXUS_OVERLAP_H

#include <stdatomic.h>

#include "base/base.h"

enum {
	OVERLAP_WORDS = 8192,                        /* 64 KiB per nexus */
	OVERLAP_NLB_MAX = 64 * (OVERLAP_WORDS / 16), /* blocks; more means the whole table */
};

struct overlap {
	_Atomic uint64_t word[OVERLAP_WORDS];
};

/* The pieces of a range, one word each. */
struct overlap_span {
	uint64_t first, last; /* blocks */
};

static inline struct overlap_span overlap_span(uint64_t lba, uint64_t nlb)
{
	if (unlikely(nlb > OVERLAP_NLB_MAX))
		return (struct overlap_span){ 0, 64ull * OVERLAP_WORDS - 1 };
	return (struct overlap_span){ lba, lba + nlb - (nlb != 0) };
}

static inline _Atomic uint64_t *overlap_word(struct overlap *o, uint64_t group)
{
	return &o->word[group % OVERLAP_WORDS];
}

/* The bits of @span in the word of @group (64 blocks each). */
static inline uint64_t overlap_bits(struct overlap_span span, uint64_t group)
{
	uint64_t bits = ~0ull;

	if (group == span.first / 64)
		bits &= ~0ull << span.first % 64;
	if (group == span.last / 64)
		bits &= ~0ull >> (63 - span.last % 64);
	return bits;
}

/* Give up what overlap_take() took. */
static inline void overlap_give(struct overlap *o, uint64_t lba, uint64_t nlb)
{
	struct overlap_span span = overlap_span(lba, nlb);

	for (uint64_t group = span.first / 64; group <= span.last / 64; group++)
		atomic_fetch_and(overlap_word(o, group), ~overlap_bits(span, group));
}

/* False: somebody writes there; nothing is taken. */
WARN_UNUSED static inline bool overlap_take(struct overlap *o, uint64_t lba, uint64_t nlb)
{
	struct overlap_span span = overlap_span(lba, nlb);

	for (uint64_t group = span.first / 64; group <= span.last / 64; group++) {
		uint64_t bits = overlap_bits(span, group);
		uint64_t old = atomic_fetch_or(overlap_word(o, group), bits);

		if (likely((old & bits) == 0))
			continue;
		atomic_fetch_and(overlap_word(o, group), ~(bits & ~old));
		while (group-- > span.first / 64)
			atomic_fetch_and(overlap_word(o, group), ~overlap_bits(span, group));
		return false;
	}
	return true;
}

/*
 * The whole table, word after word, for a request that is too large for a span: what was taken is
 * kept while it waits for the rest, or writers elsewhere could keep it waiting for ever. All who do
 * so go upwards, and nobody else keeps what he has while he waits, so they cannot block each other.
 * *next starts at 0; true: all is taken.
 */
WARN_UNUSED static inline bool overlap_take_all(struct overlap *o, uint64_t *next)
{
	for (; *next < OVERLAP_WORDS; (*next)++) {
		uint64_t old = atomic_fetch_or(&o->word[*next], ~0ull);

		if (old != 0) {
			atomic_fetch_and(&o->word[*next], old); /* only what was there */
			return false;
		}
	}
	return true;
}

/* Is nobody writing there? */
static inline bool overlap_is_free(struct overlap *o, uint64_t lba, uint64_t nlb)
{
	struct overlap_span span = overlap_span(lba, nlb);

	for (uint64_t group = span.first / 64; group <= span.last / 64; group++) {
		if (atomic_load(overlap_word(o, group)) & overlap_bits(span, group))
			return false;
	}
	return true;
}

#endif
