/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oracle.h - the shadow model: which values a block may hold, now and after a power cut.
 *
 * Owner:  the scenario, one for each medium; it lives as long as the data.
 * Thread: one.
 * Rules:  every request is told to the oracle when it is submitted and when it ends, in the blocks
 *         of the medium. Times are the oracle's own counter, so that "before" is never a tie.
 */
#ifndef SIM_ORACLE_H
#define SIM_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"

struct oracle;

/* What a write leaves behind. */
enum value_kind {
	VALUE_DATA, /* oracle_fill()'s bytes */
	VALUE_ZERO,
	VALUE_WILD, /* anything: unmapped where nothing is promised, corrupted on purpose */
};

/* How a write ended, as far as the contents are concerned. */
enum write_outcome {
	WRITE_ACKED,
	WRITE_ACKED_STABLE, /* FUA, or there is no volatile cache */
	WRITE_MAYBE,        /* failed, or lied about: any of its blocks may have been written */
	WRITE_SPOILT,       /* as MAYBE, and what was written may be anything */
	WRITE_NEVER,        /* refused before it reached anything */
};

enum { ORACLE_TEXT_MAX = 256 };

struct oracle *oracle_new(uint64_t nblocks, uint32_t block_size, uint64_t seed);
void oracle_free(struct oracle *o); /* NULL is fine */

/* Returns the write's id. @nlb blocks from @lba on will hold @kind. */
uint64_t oracle_write_begin(struct oracle *o, uint64_t lba, uint64_t nlb, enum value_kind kind);
void oracle_write_end(struct oracle *o, uint64_t id, uint64_t lba, uint64_t nlb,
		      enum write_outcome outcome);
/*
 * A write that begins from now on may take effect any number of times before it ends: whoever
 * carries it sends it again when its connection broke. Afterwards it is over, as any other.
 */
void oracle_set_repeats(struct oracle *o, bool may_repeat);
/* Writes in flight may be putting down anything: it is not known whether they were corrupted. */
void oracle_spoil_in_flight(struct oracle *o);
/* The bytes of write @id for these blocks. */
void oracle_fill(const struct oracle *o, void *buf, uint64_t lba, uint64_t nlb, uint64_t id);

/* A read begins: returns its token. It ends: are these bytes allowed? False: @why says why not. */
uint64_t oracle_read_begin(struct oracle *o);
bool oracle_read_end(struct oracle *o, uint64_t token, uint64_t lba, uint64_t nlb, const void *buf,
		     char why[ORACLE_TEXT_MAX]);
/* The read failed or does not count: forget it. */
void oracle_read_drop(struct oracle *o, uint64_t token);

/* A compare said "differs": can it? Ends the read. */
bool oracle_differ_end(struct oracle *o, uint64_t token, uint64_t lba, uint64_t nlb,
		       const void *buf, char why[ORACLE_TEXT_MAX]);
/* May block @lba have been a hole since @token? Does not end the read. */
bool oracle_may_be_zero(const struct oracle *o, uint64_t token, uint64_t lba);
/* Bytes that a compare of these blocks would most likely find. */
void oracle_guess(const struct oracle *o, void *buf, uint64_t lba, uint64_t nlb);

/* A flush covers what was acknowledged before it began. */
uint64_t oracle_flush_begin(struct oracle *o);
void oracle_flush_end(struct oracle *o, uint64_t token);

/*
 * The power was cut. Requests may be in flight, for somebody who survives it: their reads are not
 * judged, their flushes cover nothing, and a write that is acknowledged later without being stable
 * may have been acknowledged before and lost.
 */
void oracle_crash(struct oracle *o);
/*
 * Between two lives, no request in flight: @nlb blocks from @lba on may also turn out to hold what
 * is in @buf, as a copy may be taken for the truth that is not. The next read settles it.
 */
void oracle_may_hold(struct oracle *o, uint64_t lba, uint64_t nlb, const void *buf);
/* The device was emptied (a memory device made anew), or blocks from @lba on were cut off. */
void oracle_clear_from(struct oracle *o, uint64_t lba);

struct oracle_stats {
	uint64_t reads, blocks_judged;
	uint64_t ambiguous; /* judged blocks that might have held more than one value */
	uint64_t crashes, crash_choices; /* blocks with more than one value left after a crash */
	uint64_t versions_max;           /* longest list of one block */
};
const struct oracle_stats *oracle_stats(const struct oracle *o);

#endif
