/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub.h - are all copies of a nexus equal? Looked at while it serves; mended where it is clear
 * how.
 *
 * Owner:  the nexus owns its scrub.
 * Thread: tasks on the primary.
 */
#ifndef ASHLAR_NEXUS_SCRUB_H
#define ASHLAR_NEXUS_SCRUB_H

#include "nexus/nexus.h"

enum {
	SCRUB_LANES = 2,        /* ranges that are looked at, and locked, at a time */
	SCRUB_RANGE = 1 << 20,  /* bytes of one */
	SCRUB_CHUNK = 64 << 10, /* bytes of one read */
	SCRUB_REPORTS_MAX = 8,  /* differences that are told one by one; more are counted */
};

enum scrub_state {
	SCRUB_NONE, /* there was none */
	SCRUB_RUNNING,
	SCRUB_COMPLETED,
	SCRUB_STOPPED,
	SCRUB_FAILED, /* fewer than two children were left to compare */
};

struct scrub_opts {
	bool is_repairing; /* by majority of three or more, or from `trusted` */
	const char
		*trusted; /* URI of the child that is right, by word of the operator; NULL: none */
	uint64_t rate;    /* bytes per second of each child; 0: no limit */
	uint64_t latency_ns; /* see pace.h; 0: found out, UINT64_MAX: not governed */
};

struct scrub_stats {
	enum scrub_state state;
	uint64_t blocks_total, blocks_done;
	uint64_t blocks_holes;    /* of those done: holes on all children, not read */
	uint64_t blocks_differ;   /* not equal on all children */
	uint64_t blocks_repaired; /* of those, equal now */
	uint64_t first_differ;    /* block, valid if any does */
	uint64_t read_errors;     /* chunks that a child could not read: not compared with it */
	unsigned progress;        /* percent */
	uint64_t run_ns;
	uint64_t bytes_per_s;  /* of each child */
	uint64_t remaining_ns; /* UINT64_MAX: not known */
};

/* One at a time. With fewer than two children in sync there is nothing to compare: an error. */
int nexus_scrub_start(struct nexus *nx, const struct scrub_opts *opts,
		      struct nexus_err *ne) MAY_SUSPEND WARN_UNUSED;
/* Returns when it has ended. None: fine. */
void nexus_scrub_stop(struct nexus *nx) MAY_SUSPEND;
void nexus_scrub_wait(struct nexus *nx) MAY_SUSPEND;
/* Of the one that runs, or the last. */
void nexus_scrub_stats(const struct nexus *nx, struct scrub_stats *ret);

#endif
