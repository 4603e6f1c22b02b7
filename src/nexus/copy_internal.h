/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy_internal.h - what copy.c and the files copy_*.c share; nobody else includes it.
 *
 * A lane is one range: a task locks it, hands it to the copy's reactor, gets it back when its last
 * chunk has ended, unlocks it, takes the next. While it is handed over, everything in it below the
 * line is the reactor's.
 */
#ifndef ASHLAR_NEXUS_COPY_INTERNAL_H
#define ASHLAR_NEXUS_COPY_INTERNAL_H

#include <stdatomic.h>

#include "nexus/copy.h"
#include "nexus/pace.h"

enum copy_step {
	COPY_FREE,
	COPY_READ,
	COPY_WRITE,
	COPY_CHECK,     /* the destination compares */
	COPY_READ_BACK, /* the destination is read and compared here */
	COPY_PROBE,     /* what is on the destination, under a hole of the source? */
	COPY_CLEAR,
};

struct copy_slot {
	struct io io;
	struct copy *copy;
	struct copy_lane *lane;
	struct copy_slot *next; /* free */
	uint64_t sent_ns;       /* its request is with a device since then; 0: it is not */
	bool is_late;           /* nobody waits for it, and it never becomes free again */
	uint64_t lba, end;      /* blocks of the copy that are still to be done */
	uint32_t nlb;           /* of them, in this request */
	uint32_t ahead;         /* behind them, read already: in buf, after theirs */
	uint8_t step;
	uint8_t source, tried; /* index, 1 << index */
	uint8_t again;
	bool is_clear;       /* ends with COPY_CLEAR */
	bool is_grown;       /* current only: the last request was not too large */
	uint8_t *buf, *back; /* back: NULL without COPY_VERIFY_READ */
};

enum lane_seek {
	LANE_SEEK_NONE,
	LANE_SEEK_DATA, /* on the source: where does data begin? */
	LANE_SEEK_HOLE, /* where does it end? */
	LANE_SEEK_DST,  /* is there anything to clear? */
};

struct copy_lane {
	struct copy *copy;
	struct range_lock lock;
	bool is_active; /* it has a range; the primary's */
	uint64_t lba, end;
	uint64_t due_ns;         /* not before this, by the governor */
	struct task_event *wake; /* the task waits for it */
	struct timer timer;
	struct task_event back;
	/* ---- */
	struct msg go, came_back;
	uint64_t cursor;              /* what lies before it was started */
	uint64_t data_from, data_end; /* of the sources: nothing but data, when it was looked */
	uint64_t hole_end,
		clear_from; /* known hole of the source; the destination's first data in it */
	bool is_clear_known;
	unsigned busy; /* slots */
	bool is_over;
	uint8_t seek; /* enum lane_seek: in flight, or NONE */
	uint8_t seek_source;
	uint64_t seek_sent_ns;
	bool is_seek_late;
	struct io seek_io;
};

struct source_state {
	struct handle *h;
	bool is_out, is_dropped; /* the reactor's, as are the next */
	bool is_told;            /* that it hangs */
	struct msg hangs;        /* to the primary */
	unsigned inflight;
	bool is_gone_sent;
	bool is_drop_sent, is_gone; /* the primary's */
	bool has_seek;
	struct msg drop, gone;
	struct copy *copy;
};

struct copy {
	struct copy_opts opts;
	uint8_t block_shift;
	uint32_t chunk_nlb;
	struct reactor *reactor;

	/* the primary's */
	uint64_t next;      /* first block that no lane has taken */
	uint64_t range_nlb; /* of the next range */
	unsigned nlanes;    /* tasks that run */
	bool is_paused, is_stopping;
	enum copy_end end;
	const char *why; /* of copy_abort() */
	struct copy_lane lane[COPY_LANES];
	struct list waiters;
	struct pace pace;
	uint64_t charged; /* bytes */
	uint64_t started_ns, paused_ns, stopped_ns, pauses_ns;
	uint64_t nranges, ndirty;

	/* the reactor's; the primary reads counters */
	struct handle *dst;
	struct source_state source[COPY_SOURCES_MAX];
	_Atomic uint8_t last_source; /* the reactor sets it, anybody reads it */
	bool can_unmap, dst_has_seek, is_probing;
	bool is_dst_thin;        /* a hole within a chunk is worth more requests */
	struct copy_slot *slots; /* owned */
	struct copy_slot *free;
	uint8_t *bufs; /* owned */
	size_t bufs_len;
	struct msg_list again;
	struct timer again_timer;
	struct msg feed;
	bool is_feed_queued;
	struct timer late_timer;
	_Atomic unsigned nlate;  /* requests; the primary reads it */
	bool is_late_awaited;    /* the primary wants to know when there is none */
	struct msg late_msg;     /* to the primary: now */
	struct task_event *late; /* the primary's: who waits for that */
	atomic_bool is_failed;   /* nothing new is started */
	uint16_t status;         /* the first failure */
	bool is_dst_failed, is_failed_late, is_dst_told, is_dst_late;
	uint8_t failed_op, failed_source;
	uint64_t failed_lba;
	_Atomic uint64_t transferred, cleared, same;
	_Atomic unsigned active;
};

/* ---- the reactor's, inline ------------------------------------------------------------------- */

/* Something may be started: from the loop. */
static inline void copy_feed_later(struct copy *copy)
{
	if (copy->is_feed_queued)
		return;
	copy->is_feed_queued = true;
	reactor_defer(copy->reactor, &copy->feed);
}

static inline void copy_count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* Of @nlb blocks. */
static inline size_t copy_bytes(const struct copy *copy, uint64_t nlb)
{
	return (size_t)nlb << copy->block_shift;
}

/* May it be read? What comes from it counts if it still is when the answer is there. */
static inline bool copy_source_is_good(const struct copy *copy, uint8_t i)
{
	const struct source_state *s = &copy->source[i];

	return !s->is_out && !s->is_dropped &&
	       (copy->opts.is_good == NULL || copy->opts.is_good(copy->opts.source[i].owner));
}

/* The first that is good and not in @tried; COPY_SOURCES_MAX: none. */
static inline uint8_t copy_source_pick(const struct copy *copy, uint8_t tried)
{
	for (uint8_t i = 0; i < copy->opts.nsources; i++) {
		if (!(tried >> i & 1) && copy_source_is_good(copy, i))
			return i;
	}
	return COPY_SOURCES_MAX;
}

/* The first step of clearing on the destination. */
static inline enum copy_step copy_clear_step(const struct copy *copy)
{
	return copy->can_unmap ? COPY_CLEAR : COPY_PROBE;
}

/* ---- between the files ----------------------------------------------------------------------- */

/* On the copy's reactor: the first failure ends it. */
void copy_fail(struct copy *copy, uint16_t status, bool is_dst, uint8_t op, uint8_t source,
	       uint64_t lba);
/* On the copy's reactor: a range was handed over. */
void copy_lane_go(struct msg *msg);
void copy_again_due(struct timer *timer);
void copy_feed_due(struct msg *msg);
void copy_source_drop_here(struct msg *msg);
void copy_slot_done(struct io *io);
void copy_seek_done(struct io *io);
/* The lane's blocks from its cursor to @end, as one chunk; a slot is free. */
void copy_chunk_start(struct copy_lane *lane, uint64_t end, bool is_clear);
/* A request to source @i has ended. */
void copy_source_back(struct copy *copy, uint8_t i);

/* copy_late.c, on the copy's reactor: a request goes to a device; one that was late is back. */
void copy_late_watch(struct copy *copy);
void copy_late_due(struct timer *timer);
void copy_late_told(struct msg *msg);
void copy_late_back(struct copy *copy, uint8_t source);
/* In a task: until nothing is late. */
void copy_late_wait(struct copy *copy) MAY_SUSPEND;

#endif
