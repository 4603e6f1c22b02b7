/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub_internal.h - what the files of a scrub share; nobody else includes it.
 *
 *   scrub.c        its life: lanes, pace, figures; what a client may do
 *   scrub_range.c  one range: locked, read from all children, compared
 *   scrub_judge.c  a chunk that differs: who is right, and the others mended
 */
#ifndef ASHLAR_NEXUS_SCRUB_INTERNAL_H
#define ASHLAR_NEXUS_SCRUB_INTERNAL_H

#include "nexus/internal.h"
#include "nexus/pace.h"
#include "nexus/scrub.h"

enum {
	CHUNKS_MAX = SCRUB_RANGE / SCRUB_CHUNK,
};

static_assert(CHUNKS_MAX <= 32, "a bit per chunk");

struct scrub_lane;

/* One chunk from one child. */
struct scrub_read {
	struct io io;
	struct scrub_lane *lane;
	uint8_t chunk, which; /* of the lane's children */
	bool is_ok;
	bool is_sent; /* and not answered; the reactor's */
};

/* A task and the range that it has locked. */
struct scrub_lane {
	struct scrub *scrub;
	struct range_lock lock;
	uint64_t lba;
	uint32_t nlb;
	struct child *child[NEXUS_CHILDREN_MAX]; /* in use */
	struct handle *h[NEXUS_CHILDREN_MAX];
	unsigned nchildren, nchunks;
	uint8_t *buf; /* owned; SCRUB_RANGE for each child, and one chunk to read back */
	struct scrub_read *reads; /* owned */
	struct msg go, back;
	struct task_event event;
	struct timer timer;
	bool is_back, is_late; /* the range, and not in time */
	uint64_t due_ns;
	/* the reactor's, while the range is there */
	unsigned left[CHUNKS_MAX], pending;
	bool is_seeking, is_hole, is_given_up;
	uint32_t differ; /* 1 << chunk */
};

struct scrub {
	struct nexus *nx;
	struct scrub_opts opts;
	char *trusted; /* owned; NULL: none */
	struct reactor *reactor;
	struct pace pace;
	struct scrub_lane lane[SCRUB_LANES];
	unsigned nlanes; /* tasks */
	unsigned nlate;  /* of those that have ended, but for answers that are late */
	bool is_stopping;
	uint64_t next, started_ns;
	uint32_t range_nlb, chunk_nlb;
	unsigned nreports;
	struct scrub_stats stats;
	struct list waiters;
};

static inline uint32_t chunk_nlb(const struct scrub_lane *lane, unsigned chunk)
{
	uint32_t step = lane->scrub->chunk_nlb;

	return MIN(step, lane->nlb - chunk * step);
}

static inline uint8_t *chunk_buf(const struct scrub_lane *lane, unsigned which, unsigned chunk)
{
	return lane->buf + (size_t)which * SCRUB_RANGE + (size_t)chunk * SCRUB_CHUNK;
}

static inline struct scrub_read *read_of(struct scrub_lane *lane, unsigned which, unsigned chunk)
{
	return &lane->reads[which * CHUNKS_MAX + chunk];
}

/* ---- scrub_range.c -------------------------------------------------------------------------- */

/* The next range, from lock to unlock. False: nothing more is to be done. */
bool scrub_lane_range(struct scrub_lane *lane) MAY_SUSPEND;
/* Of a lane that is late: until the last answer is here. */
void scrub_range_linger(struct scrub_lane *lane) MAY_SUSPEND;
void scrub_children_give_back(struct scrub_lane *lane);
/* Messages of a lane: to the reactor, and back. */
void scrub_range_go(struct msg *msg);
void scrub_lane_back(struct msg *msg);

/* ---- scrub_judge.c -------------------------------------------------------------------------- */

/* Not all have the same in this chunk; its range is locked. */
void scrub_judge_chunk(struct scrub_lane *lane, unsigned chunk) MAY_SUSPEND;

#endif
