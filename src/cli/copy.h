/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy.h - what the parts of `ashlar copy` share.
 *
 *   copy.c          options, the task: open, resume, copy, flush, verify, report
 *   copy_move.c     the windowed machine that reads, writes and compares
 *   copy_extents.c  where there is data and where there are holes
 *   copy_journal.c  the position of an unfinished copy, on disk
 *
 * Positions are in bytes from the start of both devices. A *unit* is the larger of the two block
 * sizes; extents and chunks begin at multiples of it.
 *
 * Thread: everything runs on the primary reactor; journal_load() and journal_save() block and run
 *         on the worker pool.
 */
#ifndef ASHLAR_CLI_COPY_H
#define ASHLAR_CLI_COPY_H

#include "cli/open.h"
#include "cli/opt.h"

enum {
	EXTENTS_AHEAD = 64, /* extents found before they are needed; a power of two */
	COPY_QD_MAX = 256,
};

/* ---- extents ------------------------------------------------------------------------------- */

enum extent_kind {
	EXTENT_DATA, /* must be copied, or compared */
	EXTENT_ZERO, /* a hole of the source over something of the destination */
	EXTENT_SAME, /* holes on both sides: nothing to do */
};

struct extent {
	enum extent_kind kind;
	uint64_t from, to;
};

/* Walks from..to and finds extents ahead of their use, one seek at a time. */
struct extents {
	struct opened *src, *dst; /* borrowed */
	bool is_compare;          /* data on either side counts as data */
	bool can_seek_src, can_seek_dst;
	uint64_t pos, to; /* what is in front of pos is known */
	uint64_t unit, size;
	struct extent ring[EXTENTS_AHEAD];
	unsigned head, tail;
	/* the walk */
	unsigned step; /* enum in copy_extents.c */
	uint64_t data, data_dst, end;
	struct io io;
	bool is_busy;
	uint16_t status;                  /* the first seek that failed; 0: none */
	void (*ready)(struct extents *x); /* an extent came, or the walk ended */
};

void extents_start(struct extents *x);
/* The first extent, NULL: none is known (see extents_is_over). Valid until extents_pop(). */
struct extent *extents_first(struct extents *x);
void extents_pop(struct extents *x);
bool extents_is_over(const struct extents *x);

/* ---- the machine ----------------------------------------------------------------------------- */

struct move;

enum move_state {
	MOVE_FREE,
	MOVE_READ_SRC,
	MOVE_READ_DST, /* to compare, or for a last block that is only partly ours */
	MOVE_WRITE,
	MOVE_ZERO,
};

struct move_slot {
	struct io io;
	struct move *move;
	uint8_t state; /* enum move_state */
	uint64_t off, len;
	uint8_t *src_buf, *dst_buf; /* chunk bytes each, the move's */
	struct move_slot *next;     /* free list */
};

struct move_opts {
	struct opened *src, *dst;
	bool is_compare;
	uint64_t from, to, size; /* bytes; size is the whole source's */
	uint64_t chunk;          /* bytes, multiple of unit */
	uint64_t unit;
	uint64_t rate; /* bytes per second read from the source; 0: no limit */
	unsigned qd;
};

struct move {
	struct move_opts opts;
	struct extents extents;
	struct move_slot *slots, *free; /* slots owned */
	uint8_t *bufs;                  /* owned */
	unsigned busy;
	bool is_stopping; /* take no new chunk */
	bool is_feed_queued;
	struct msg feed;
	struct task *waiter;
	struct timer pace; /* when the rate allows the next chunk */
	uint64_t started_ns, taken_bytes;

	uint64_t fed;         /* chunks up to here were taken */
	uint64_t moved_bytes; /* read and written, or compared */
	uint64_t zeroed_bytes;
	uint64_t same_bytes;                         /* holes on both sides */
	uint64_t differing_chunks, first_difference; /* compare; byte offset */

	/* the first failure */
	uint16_t status;
	uint8_t failed_op;
	bool failed_dst;
	uint64_t failed_off, failed_len;
};

int move_init(struct move *m, const struct move_opts *opts, struct err *err) WARN_UNUSED;
void move_done(struct move *m);
void move_start(struct move *m);
/* Everything is done, or failed, or stopped, and nothing is in flight. */
bool move_is_over(const struct move *m);
/* Everything below is on the destination, though maybe in its cache. */
uint64_t move_position(const struct move *m);
/* Wait until it is over or @timeout_ns passed. */
void move_wait(struct move *m, uint64_t timeout_ns) MAY_SUSPEND;
/* What failed, in @err; 0 when nothing did. */
int move_error(const struct move *m, struct err *err);

/* ---- the journal ----------------------------------------------------------------------------- */

struct journal {
	char *path;                    /* owned; NULL: none can be kept */
	const char *src_uri, *dst_uri; /* borrowed */
	uint64_t src_size, dst_size;
	uint32_t src_block, dst_block;
	uint64_t position;
};

/* Where it lies: @state if given, else below the user's state directory. */
int journal_place(struct journal *j, const char *state, struct err *err) WARN_UNUSED;
/* -ENOENT without a message: there is none. -EINVAL: it is of something else, or damaged. */
int journal_load(struct journal *j, struct err *err) WARN_UNUSED;
int journal_save(const struct journal *j, struct err *err) WARN_UNUSED;
void journal_remove(const struct journal *j);
void journal_done(struct journal *j);

#endif
