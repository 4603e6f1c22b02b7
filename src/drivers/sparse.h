/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sparse.h - a large memory cut into blocks that knows which of them were written.
 *
 * Owner:  embedded in a device; sparse_done() frees everything.
 * Thread: moving, marking and looking on any number of reactors at once, under the rules in
 *         sparse.c; growing in a task, with the swap under quiesce.
 * Rules:  blocks and bytes must lie inside the size given to sparse_prepare().
 */
#ifndef ASHLAR_DRIVERS_SPARSE_H
#define ASHLAR_DRIVERS_SPARSE_H

#include <stdatomic.h>

#include "base/base.h"
#include "base/err.h"
#include "base/units.h"
#include "device/io.h"

enum {
	SPARSE_SEGMENT_SHIFT = 28, /* 256 MiB of address space each */
};

#define SPARSE_SEGMENT_SIZE (1ull << SPARSE_SEGMENT_SHIFT)
#define SPARSE_SIZE_MAX     (16 * TIB) /* bytes; a process has 128 TiB of address space */

struct sparse_segment {
	char *mem;                 /* SPARSE_SEGMENT_SIZE bytes, owned */
	_Atomic uint64_t *written; /* one bit per block, owned */
	_Atomic uint32_t nwritten; /* bits that are set */
};

struct sparse {
	struct sparse_segment **segment; /* nsegments, owned; swapped under quiesce only */
	struct sparse_segment **grown;   /* prepared and not swapped in yet, NULL: nothing */
	uint64_t nsegments, ngrown;
	unsigned block_shift; /* log2 of the block size */
	unsigned lba_shift;   /* log2 of blocks per segment */
};

void sparse_init(struct sparse *s, uint32_t block_size);
void sparse_done(struct sparse *s);

/* Make room for @nblocks, at least as many as now. Nothing changes before sparse_swap(). */
int sparse_prepare(struct sparse *s, uint64_t nblocks, struct err *err) WARN_UNUSED;
void sparse_swap(struct sparse *s);       /* takes what was prepared; never fails */
void sparse_drop_grown(struct sparse *s); /* forgets it */

/* Blocks of the range that were never written. */
uint64_t sparse_missing(const struct sparse *s, uint64_t lba, uint64_t nlb);
/* Mark them written; how many were not before. */
uint64_t sparse_mark(const struct sparse *s, uint64_t lba, uint64_t nlb);
/* Forget and zero them, memory goes back to the system; how many were written before. */
uint64_t sparse_discard(const struct sparse *s, uint64_t lba, uint64_t nlb);
/* First block from @lba on that was written (@is_data) or was not; @end without one. */
uint64_t sparse_seek(const struct sparse *s, uint64_t lba, uint64_t end, bool is_data);

/* Move the blocks of @io between memory and its buffers. @skip: bytes of the vector passed over. */
void sparse_read(const struct sparse *s, const struct io *io);
void sparse_write(const struct sparse *s, const struct io *io, size_t skip);
/* The same past the caches; stream_end() before anybody is told of it. */
void sparse_write_streamed(const struct sparse *s, const struct io *io, size_t skip);
/* Fill in where the blocks of @io lie: how many pieces, 0: too many for a loan. */
unsigned sparse_lend(const struct sparse *s, const struct io *io, struct iovec *piece);
void sparse_zero(const struct sparse *s, const struct io *io);
bool sparse_equals(const struct sparse *s, const struct io *io);

/* Where byte @off lies; *len is cut to what is in one piece with it. */
static inline char *sparse_at(const struct sparse *s, uint64_t off, size_t *len)
{
	uint64_t in_segment = off & (SPARSE_SEGMENT_SIZE - 1);

	*len = MIN(*len, SPARSE_SEGMENT_SIZE - in_segment);
	return s->segment[off >> SPARSE_SEGMENT_SHIFT]->mem + in_segment;
}

#endif
