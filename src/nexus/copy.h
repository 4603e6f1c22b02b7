/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy.h - a windowed copy machine: blocks of one device, or of any of several equal ones, onto
 * another, while both are in use.
 *
 * For rebuilds of a nexus and for any two devices (a snapshot onto a replica). copy.c has the tasks
 * that lock ranges and watch, copy_move.c what moves the bytes.
 *
 * Owner:  who opens a copy; it lends descriptors and the map until copy_free().
 * Thread: copy_*() in tasks on the primary, but where it says otherwise. The bytes move on the
 *         reactor that the options name.
 * Rules:  blocks are counted from the start of each side. All devices have one block size.
 */
#ifndef ASHLAR_NEXUS_COPY_H
#define ASHLAR_NEXUS_COPY_H

#include "device/device.h"
#include "nexus/segmap.h"

enum {
	COPY_SOURCES_MAX = 8,
	COPY_WINDOW_MAX = 64,
	COPY_WINDOW = 16,         /* chunks in flight, where nobody says */
	COPY_CHUNK = 64 << 10,    /* bytes, where nobody says; one block where that is larger */
	COPY_LANES = 2,           /* ranges that are locked at a time */
	COPY_RANGE_MIN = 1 << 20, /* bytes of a range */
	COPY_RANGE_MAX = 4 << 20,
	COPY_AGAIN_MAX = 20, /* how often a device may ask for patience with one chunk */
	COPY_AGAIN_MS = 50,
};

enum copy_verify {
	COPY_VERIFY_NONE,
	COPY_VERIFY_READ,    /* the destination is read back */
	COPY_VERIFY_COMPARE, /* the destination compares */
};

struct copy;

struct copy_source {
	struct desc *desc; /* borrowed */
	uint64_t start;    /* block of it that is block 0 of the copy */
	void *owner;
};

struct copy_opts {
	struct copy_source source[COPY_SOURCES_MAX]; /* the first that is good is read */
	unsigned nsources;
	struct desc *dst; /* borrowed; writable */
	uint64_t dst_start;
	uint64_t from, nblocks;   /* blocks from .. nblocks - 1 are copied */
	const struct segmap *map; /* of blocks 0 .. nblocks - 1; NULL: all. Borrowed, constant */

	/* Its ranges are locked while they are copied; block 0 of the copy is its block 0. NULL:
	 * nobody writes to the sources. */
	struct device *locked;
	bool is_current_only; /* what the source has from its ancestors is not copied */
	uint32_t granule_nlb; /* of that: written or not as a whole; 0: a block */

	struct reactor *reactor; /* NULL: the primary */
	unsigned window;         /* 0: COPY_WINDOW */
	uint32_t chunk;          /* bytes, 0: COPY_CHUNK */
	enum copy_verify verify;
	uint64_t rate; /* bytes per second that are read at most; 0: no limit */
	/* What requests to `locked` may take on average, see pace.h; 0: not governed. */
	uint64_t latency_ns;
	/* When a device has not answered for so long its owner is told, who may make it answer. A
	 * little later it is not waited for: the copy fails, its ranges are unlocked, and
	 * copy_free() waits for what is late. 0: as long as it takes. */
	uint64_t timeout_ns;

	/* On the copy's reactor. May this source be read now? NULL: always. */
	bool (*is_good)(void *source_owner);
	/* On the copy's reactor. It is not read any more; for these blocks only if @is_medium. */
	void (*source_failed)(void *source_owner, uint16_t status, bool is_medium, uint64_t lba,
			      uint32_t nlb);
	/* On the copy's reactor: the destination does not answer in time. From then on what it is
	 * still doing may land on later writes: it is no copy of anything any more. */
	void (*dst_hangs)(void *owner);
	/* On the primary, not in a task: this source does not. */
	void (*source_hangs)(void *source_owner);
	/* On the primary, not in a task: after copy_drop_source(), nothing is in flight there. */
	void (*source_gone)(void *source_owner);
	/* In a task of the copy: it is over; may suspend, and free it. NULL: see copy_wait(). */
	void (*ended)(struct copy *copy) MAY_SUSPEND;
	void *owner;
};

struct copy_stats {
	uint64_t blocks_total;       /* from .. nblocks */
	uint64_t blocks_recovered;   /* of those, behind us: copied, skipped, clean */
	uint64_t blocks_dirty;       /* of the map, or all */
	uint64_t blocks_transferred; /* read and written */
	uint64_t blocks_cleared;     /* zeroed on the destination */
	uint64_t blocks_same;        /* holes on both sides, or not the source's own */
	unsigned tasks_total, tasks_active;
	unsigned source;        /* index of the one that was read last */
	unsigned speed;         /* percent, as the governor has it */
	uint64_t run_ns;        /* time since the start, pauses not counted */
	uint64_t bytes_per_s;   /* over all of that */
	uint64_t remaining_ns;  /* at that rate; UINT64_MAX: not known yet */
	uint64_t ranges_locked; /* so far */
};

enum copy_end {
	COPY_RUNNING,
	COPY_COMPLETE,
	COPY_STOPPED,
	COPY_FAILED,
};

int copy_open(const struct copy_opts *opts, struct copy **ret,
	      struct err *err) MAY_SUSPEND WARN_UNUSED;
/* -ENOMEM: nothing runs. */
int copy_start(struct copy *copy, struct err *err) WARN_UNUSED;
/*
 * Over, or never started; dropped sources are gone then. NULL is fine. Waits for requests that are
 * late, however long they take: their buffers, and the descriptors, are in use until then.
 */
void copy_free(struct copy *copy) MAY_SUSPEND;

/* No new range; copy_wait_idle() waits for those that are being copied. */
void copy_pause(struct copy *copy);
void copy_resume(struct copy *copy);
/* End after the ranges that are being copied. */
void copy_stop(struct copy *copy);
/* End as failed, as soon as what is in flight has come back. @why is kept. */
void copy_abort(struct copy *copy, const char *why);
void copy_drop_source(struct copy *copy, unsigned index);
void copy_wait_idle(struct copy *copy) MAY_SUSPEND;
/* Until it is over; not with `ended`, which may free it first. */
enum copy_end copy_wait(struct copy *copy) MAY_SUSPEND;

void *copy_owner(const struct copy *copy);
enum copy_end copy_result(const struct copy *copy);
/* It is over, but a device has not answered all it was asked. */
bool copy_is_late(const struct copy *copy);
/* Some of that is with the destination. */
bool copy_is_dst_late(const struct copy *copy);
/* Why it failed, for people; COPY_FAILED. Returns the errno. */
int copy_error(const struct copy *copy, struct err *err);
/* Everything before this block is on the destination, durable after a flush of it. */
uint64_t copy_position(const struct copy *copy);
void copy_stats(const struct copy *copy, struct copy_stats *ret);
void copy_set_limits(struct copy *copy, uint64_t rate, uint64_t latency_ns);

#endif
