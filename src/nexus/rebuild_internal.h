/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rebuild_internal.h - what the files of rebuilds share; nobody else includes it.
 *
 *   rebuild.c         jobs: their turn, their beginning, their end
 *   rebuild_client.c  what a client may ask of one
 *   rebuild_state.c   in which state what may be asked
 *   rebuild_stats.c   how far one is, and how those before it ended
 */
#ifndef ASHLAR_NEXUS_REBUILD_INTERNAL_H
#define ASHLAR_NEXUS_REBUILD_INTERNAL_H

#include "nexus/internal.h"
#include "nexus/rebuild.h"

struct job_source {
	struct rebuild *job;
	struct child *child;
	bool is_used; /* child_use()d by us; else the child may be gone */
};

struct rebuild {
	struct list link;
	struct nexus *nx;
	struct child *child;
	enum rebuild_state state, pending;
	bool has_begun, is_partial, is_finishing;
	bool is_lingering;  /* over and off the list, but for answers that are late */
	bool is_child_free; /* it owed none, and may be gone */
	unsigned users;     /* tasks that look at it across a suspension */
	struct copy *copy;  /* owned; NULL: not begun */
	struct segmap map;  /* owned; of a partial one */
	struct copy_opts opts;
	struct job_source source[COPY_SOURCES_MAX];
	struct rebuild_stats before; /* of copies that are over */
	uint64_t start_ns, end_ns;
	struct list waiters;
	struct err why;
};

struct rebuilds {
	struct list jobs;
	struct list waiters; /* for all to be over */
	struct rebuild_record history[REBUILD_HISTORY_MAX];
	unsigned nhistory, newest;
};

/* Nothing is pending. */
#define NOTHING REBUILD_STATE_COUNT_

/* ---- rebuild.c ------------------------------------------------------------------------------ */

/* NULL: @child has none. */
struct rebuild *rebuild_job_of(const struct nexus *nx, const struct child *child);
/* struct nexus_rebuilder, start. */
int rebuild_job_start(struct child *child, struct nexus_err *ne) MAY_SUSPEND;
/* Over in @state; the job is gone afterwards. */
void rebuild_job_finish(struct rebuild *job, enum rebuild_state state) MAY_SUSPEND;
/* Until @waiters, of a job or of all, are told that it is over. */
void rebuild_wait_in(struct list *waiters) MAY_SUSPEND;

/* ---- rebuild_stats.c ------------------------------------------------------------------------ */

void rebuild_job_stats(const struct rebuild *job, struct rebuild_stats *ret);
/* Of the source that was read last; "": there is none. */
const char *rebuild_source_uri(const struct rebuild *job);
/* Into the history, as it is now. */
void rebuild_job_record(const struct rebuild *job, const char *source);
void rebuild_record_free(struct rebuild_record *record);

#endif
