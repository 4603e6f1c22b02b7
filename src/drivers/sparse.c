/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sparse.c - the memory of a thin device.
 *
 * Address space comes in segments that never move, so a device can grow while addresses stay.
 * Pages appear at the first write and go back to the system when whole pages are discarded. A bit
 * per block says "was written".
 *
 * Invariant: a clear bit means zero memory, once nothing is in flight there. Several reactors move
 * and discard without locks, so the order of steps keeps it:
 *
 *     write: 1. copy   2. fence   3. set the bit, unless it is set
 *   discard: 1. clear the bit   2. zero the memory
 *
 * If a bit ends up clear, its last clear came after the last look of step 3, so that write's copy
 * came before the zeroes. Whatever else overlaps leaves at worst a set bit on zeroes, which is
 * "written with zeroes": one of the two results that overlapping requests may have. The fence is
 * the caller's, one for a whole batch of copies; it keeps the look at the bit behind the copy even
 * in the store buffer.
 *
 * Blocks that share a word of bits share nothing else: words are changed by atomic or/and.
 * A discard that finds no bit set returns at once: the memory is zero, or belongs to a write in
 * flight that may win.
 *
 * Rejected: one mapping that grows (mremap moves memory that someone may have lent out); a bit per
 * page (512-byte blocks would share their "written"); asking the kernel which pages exist (mincore
 * tells pages, not blocks, and costs a system call).
 *
 * Thread: see sparse.h.
 */
#include "drivers/sparse.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/stream.h"
#include "reactor/mem.h"

/* ---- segments ----------------------------------------------------------------------------- */

static void segment_free(struct sparse_segment *seg)
{
	if (seg == NULL)
		return;
	dma_free(seg->mem, SPARSE_SEGMENT_SIZE);
	free((void *)(uintptr_t)seg->written);
	free(seg);
}

static struct sparse_segment *segment_new(unsigned block_shift)
{
	struct sparse_segment *seg = calloc(1, sizeof(*seg));

	if (seg == NULL)
		return NULL;
	seg->mem = dma_alloc(SPARSE_SEGMENT_SIZE);
	seg->written = calloc(SPARSE_SEGMENT_SIZE >> block_shift >> 6, sizeof(*seg->written));
	if (seg->mem == NULL || seg->written == NULL) {
		segment_free(seg);
		return NULL;
	}
	return seg;
}

void sparse_init(struct sparse *s, uint32_t block_size)
{
	*s = (struct sparse){ .block_shift = u64_log2(block_size) };
	s->lba_shift = SPARSE_SEGMENT_SHIFT - s->block_shift;
}

void sparse_done(struct sparse *s)
{
	sparse_drop_grown(s);
	for (uint64_t i = 0; i < s->nsegments; i++)
		segment_free(s->segment[i]);
	free(s->segment);
	*s = (struct sparse){};
}

void sparse_drop_grown(struct sparse *s)
{
	for (uint64_t i = s->nsegments; i < s->ngrown; i++)
		segment_free(s->grown[i]);
	free(s->grown);
	s->grown = NULL;
	s->ngrown = 0;
}

int sparse_prepare(struct sparse *s, uint64_t nblocks, struct err *err)
{
	uint64_t n = (nblocks + (1ull << s->lba_shift) - 1) >> s->lba_shift;

	assert(s->grown == NULL && n >= s->nsegments);
	if (nblocks > SPARSE_SIZE_MAX >> s->block_shift)
		return err_set(err, -EFBIG, "%" PRIu64 " blocks of %llu bytes: at most %llu TiB",
			       nblocks, 1ull << s->block_shift, SPARSE_SIZE_MAX / TIB);
	s->grown = calloc(n, sizeof(*s->grown));
	if (s->grown == NULL)
		return err_set(err, -ENOMEM, "no memory for a table of %" PRIu64 " segments", n);
	if (s->nsegments > 0)
		memcpy(s->grown, s->segment, s->nsegments * sizeof(*s->grown));
	for (s->ngrown = s->nsegments; s->ngrown < n; s->ngrown++) {
		s->grown[s->ngrown] = segment_new(s->block_shift);
		if (s->grown[s->ngrown] == NULL) {
			sparse_drop_grown(s);
			return err_set(err, -ENOMEM,
				       "no address space for %" PRIu64
				       " MiB: look at ulimit -v and vm.overcommit_memory",
				       n << (SPARSE_SEGMENT_SHIFT - 20));
		}
	}
	return 0;
}

void sparse_swap(struct sparse *s)
{
	if (s->grown == NULL)
		return;
	free(s->segment);
	s->segment = take(s->grown);
	s->nsegments = s->ngrown;
	s->ngrown = 0;
}

/* ---- the written bits --------------------------------------------------------------------- */

/* A walk over the bits of a range of blocks, word by word. */
struct bits {
	uint64_t lba, nlb;
	struct sparse_segment *seg;
	_Atomic uint64_t *word;
	uint64_t mask; /* which bits of the word */
};

static inline bool bits_next(const struct sparse *s, struct bits *b)
{
	uint64_t in_seg = b->lba & ((1ull << s->lba_shift) - 1);
	uint64_t n = MIN(b->nlb, 64 - in_seg % 64);

	if (n == 0)
		return false;
	b->seg = s->segment[b->lba >> s->lba_shift];
	b->word = &b->seg->written[in_seg / 64];
	b->mask = (n == 64 ? UINT64_MAX : (1ull << n) - 1) << in_seg % 64;
	b->lba += n;
	b->nlb -= n;
	return true;
}

uint64_t sparse_missing(const struct sparse *s, uint64_t lba, uint64_t nlb)
{
	struct bits b = { .lba = lba, .nlb = nlb };
	uint64_t n = 0;

	while (bits_next(s, &b))
		n += (uint64_t)__builtin_popcountll(
			b.mask & ~atomic_load_explicit(b.word, memory_order_relaxed));
	return n;
}

uint64_t sparse_mark(const struct sparse *s, uint64_t lba, uint64_t nlb)
{
	struct bits b = { .lba = lba, .nlb = nlb };
	uint64_t n = 0;

	while (bits_next(s, &b)) {
		uint64_t old = atomic_load_explicit(b.word, memory_order_relaxed);
		unsigned fresh;

		if (likely((old & b.mask) == b.mask))
			continue;
		old = atomic_fetch_or_explicit(b.word, b.mask, memory_order_relaxed);
		fresh = (unsigned)__builtin_popcountll(b.mask & ~old);
		atomic_fetch_add_explicit(&b.seg->nwritten, fresh, memory_order_relaxed);
		n += fresh;
	}
	return n;
}

static uint64_t sparse_clear(const struct sparse *s, uint64_t lba, uint64_t nlb)
{
	struct bits b = { .lba = lba, .nlb = nlb };
	uint64_t n = 0;

	while (bits_next(s, &b)) {
		unsigned gone;

		if ((atomic_load_explicit(b.word, memory_order_relaxed) & b.mask) == 0)
			continue;
		gone = (unsigned)__builtin_popcountll(
			b.mask & atomic_fetch_and_explicit(b.word, ~b.mask, memory_order_seq_cst));
		atomic_fetch_sub_explicit(&b.seg->nwritten, gone, memory_order_relaxed);
		n += gone;
	}
	return n;
}

uint64_t sparse_seek(const struct sparse *s, uint64_t lba, uint64_t end, bool is_data)
{
	uint32_t per_seg = 1u << s->lba_shift;

	while (lba < end) {
		struct sparse_segment *seg = s->segment[lba >> s->lba_shift];
		uint32_t in_seg = (uint32_t)lba & (per_seg - 1);
		uint64_t word;

		if (atomic_load_explicit(&seg->nwritten, memory_order_relaxed) ==
		    (is_data ? 0 : per_seg)) {
			lba += per_seg - in_seg; /* nothing to find in this one */
			continue;
		}
		word = atomic_load_explicit(&seg->written[in_seg / 64], memory_order_relaxed);
		word = (is_data ? word : ~word) >> in_seg % 64;
		if (word != 0)
			return MIN(lba + (unsigned)__builtin_ctzll(word), end);
		lba += 64 - in_seg % 64;
	}
	return end;
}

/* ---- the memory --------------------------------------------------------------------------- */

/* Zero, giving whole pages back. */
uint64_t sparse_discard(const struct sparse *s, uint64_t lba, uint64_t nlb)
{
	uint64_t gone = sparse_clear(s, lba, nlb);
	uint64_t off = lba << s->block_shift, left = gone > 0 ? nlb << s->block_shift : 0;

	while (left > 0) {
		size_t piece = left;
		char *mem = sparse_at(s, off, &piece);
		size_t head = MIN(piece, -(uintptr_t)mem & (DMA_ALIGN - 1));
		size_t tail = (piece - head) & (DMA_ALIGN - 1);

		memset(mem, 0, head);
		dma_discard(mem + head, piece - head - tail);
		memset(mem + piece - tail, 0, tail);
		left -= piece;
		off += piece;
	}
	return gone;
}

/* How far a move has come; the walk over the pieces that segments cut a request into. */
struct move {
	char *mem;
	size_t piece;
	uint64_t off; /* of the piece, in memory */
	size_t done;  /* of the piece, in the request */
	size_t len;
};

static inline struct move move_start(const struct sparse *s, const struct io *io)
{
	struct move m = { .off = io->lba << s->block_shift,
			  .len = (size_t)io->nlb << s->block_shift };

	m.piece = m.len;
	if (m.len > 0)
		m.mem = sparse_at(s, m.off, &m.piece);
	return m;
}

static inline void move_next(const struct sparse *s, struct move *m)
{
	m->done += m->piece;
	m->off += m->piece;
	m->piece = m->len - m->done;
	if (unlikely(m->piece > 0))
		m->mem = sparse_at(s, m->off, &m->piece);
}

void sparse_read(const struct sparse *s, const struct io *io)
{
	struct move m = move_start(s, io);

	for (; m.piece > 0; move_next(s, &m)) {
		if (likely(io->iovcnt == 1))
			memcpy((char *)io->iov->iov_base + m.done, m.mem, m.piece);
		else
			(void)iov_from_buf(io->iov, io->iovcnt, m.done, m.mem, m.piece);
	}
}

/*
 * Blocks of which none was written come from the zeroes that all share: hot, and no page is made
 * for them. The rest is lent as it is, as memory of blocks that were not written is zero.
 */
unsigned sparse_lend(const struct sparse *s, const struct io *io, struct iovec *piece)
{
	bool is_hole = sparse_missing(s, io->lba, io->nlb) == io->nlb;
	struct move m = move_start(s, io);
	unsigned n = 0;

	if (m.len > (size_t)IO_LEND_MAX * IO_ZEROES_SIZE)
		return 0;
	for (; is_hole && m.done < m.len; m.done += piece[n++].iov_len)
		piece[n] = (struct iovec){ io_zeroes, MIN(m.len - m.done, (size_t)IO_ZEROES_SIZE) };
	for (; !is_hole && m.piece > 0; move_next(s, &m))
		piece[n++] = (struct iovec){ m.mem, m.piece };
	return n;
}

void sparse_write(const struct sparse *s, const struct io *io, size_t skip)
{
	struct move m = move_start(s, io);

	for (; m.piece > 0; move_next(s, &m)) {
		if (likely(io->iovcnt == 1))
			memcpy(m.mem, (const char *)io->iov->iov_base + skip + m.done, m.piece);
		else
			(void)iov_to_buf(io->iov, io->iovcnt, skip + m.done, m.mem, m.piece);
	}
}

/* Blocks are whole lines. A vector of several pieces need not be. */
void sparse_write_streamed(const struct sparse *s, const struct io *io, size_t skip)
{
	struct move m = move_start(s, io);

	if (unlikely(io->iovcnt != 1)) {
		sparse_write(s, io, skip);
		return;
	}
	for (; m.piece > 0; move_next(s, &m))
		stream_copy(m.mem, (const char *)io->iov->iov_base + skip + m.done, m.piece);
}

void sparse_zero(const struct sparse *s, const struct io *io)
{
	struct move m = move_start(s, io);

	for (; m.piece > 0; move_next(s, &m))
		memset(m.mem, 0, m.piece);
}

bool sparse_equals(const struct sparse *s, const struct io *io)
{
	struct move m = move_start(s, io);

	for (; m.piece > 0; move_next(s, &m)) {
		if (iov_compare(io->iov, io->iovcnt, m.done, m.mem, m.piece) != m.piece)
			return false;
	}
	return true;
}
