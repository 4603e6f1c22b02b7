/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rebuild.h - bringing a child of a nexus in sync: jobs, what a client may do with them, history.
 *
 * A rebuild starts by itself when a child is added or comes online; from here it is watched, paused
 * and ended. rebuild.c has the how.
 *
 * Owner:  the nexus owns its jobs and their history.
 * Thread: tasks on the primary.
 */
#ifndef ASHLAR_NEXUS_REBUILD_H
#define ASHLAR_NEXUS_REBUILD_H

#include "nexus/copy.h"
#include "nexus/nexus.h"

enum {
	NEXUS_REBUILDS_MAX = 2,   /* that run at once on one nexus; more wait */
	REBUILDS_MAX = 8,         /* that run at once in all: each needs COPY_LANES tasks */
	REBUILD_HISTORY_MAX = 64, /* records per nexus; the oldest go */
};

/* ---- the table of states: pure -------------------------------------------------------------- */

enum rebuild_state {
	REBUILD_INIT, /* waits for its turn */
	REBUILD_RUNNING,
	REBUILD_PAUSED,
	REBUILD_STOPPED,
	REBUILD_FAILED,
	REBUILD_COMPLETED,
	REBUILD_STATE_COUNT_,
};

enum rebuild_op {
	REBUILD_OP_START,
	REBUILD_OP_STOP,
	REBUILD_OP_PAUSE,
	REBUILD_OP_RESUME,
	REBUILD_OP_FORCE_STOP, /* ours: the nexus ends */
	REBUILD_OP_FORCE_FAIL, /* ours: the child or the last source is gone */
	REBUILD_OP_COUNT_,
};

enum rebuild_answer {
	REBUILD_DO,      /* allowed: *ret_pending is what it goes to */
	REBUILD_NOTHING, /* allowed, and so already */
	REBUILD_NO,      /* not from this state */
	REBUILD_BUSY,    /* another operation has not taken effect yet */
};

/* @pending: what the job is on its way to, REBUILD_STATE_COUNT_: nothing. */
enum rebuild_answer rebuild_judge(enum rebuild_state state, enum rebuild_state pending,
				  enum rebuild_op op, enum rebuild_state *ret_pending);
const char *rebuild_state_name(enum rebuild_state state); /* "running" */

/* ---- jobs ----------------------------------------------------------------------------------- */

struct rebuild_stats {
	enum rebuild_state state;
	uint64_t blocks_total, blocks_recovered, blocks_transferred, blocks_remaining;
	uint64_t blocks_cleared; /* zeroed on the child, under holes of the source */
	uint64_t blocks_per_task;
	uint32_t block_size; /* bytes */
	unsigned progress;   /* percent of recovered over total */
	unsigned tasks_total, tasks_active;
	bool is_partial;
	uint64_t start_ns, end_ns; /* reactor clock; 0: not yet */
	uint64_t bytes_per_s;
	uint64_t remaining_ns; /* UINT64_MAX: not known */
	unsigned speed;        /* percent that the governor lets it have */
};

struct rebuild_record {
	char *child, *source; /* URIs; owned by the record */
	struct rebuild_stats stats;
	struct err why; /* of a failure */
};

/* For a child that is open, out of sync, and has no job: one that was stopped. */
int nexus_rebuild_start(struct nexus *nx, const char *child,
			struct nexus_err *ne) MAY_SUSPEND WARN_UNUSED;
/* No such job: fine. Returns when it has ended. */
int nexus_rebuild_stop(struct nexus *nx, const char *child,
		       struct nexus_err *ne) MAY_SUSPEND WARN_UNUSED;
/* Returns when nothing of it is in flight. */
int nexus_rebuild_pause(struct nexus *nx, const char *child,
			struct nexus_err *ne) MAY_SUSPEND WARN_UNUSED;
int nexus_rebuild_resume(struct nexus *nx, const char *child, struct nexus_err *ne) WARN_UNUSED;
int nexus_rebuild_stats(struct nexus *nx, const char *child, struct rebuild_stats *ret,
			struct nexus_err *ne) WARN_UNUSED;
/* Another source, by URI; the present one is not read any more. */
int nexus_rebuild_leave_source(struct nexus *nx, const char *child, const char *source,
			       struct nexus_err *ne) WARN_UNUSED;
unsigned nexus_rebuild_count(const struct nexus *nx);
/* Percent of a child's job, -1: it has none. */
int nexus_rebuild_progress(const struct nexus *nx, const char *child);
/* Newest first: @index 0 .. ; NULL: no more. Borrowed until something suspends. */
const struct rebuild_record *nexus_rebuild_history(const struct nexus *nx, unsigned index);
/* Until no job of the nexus is left. */
void nexus_rebuild_wait(struct nexus *nx) MAY_SUSPEND;

/* ---- settings of the engine ----------------------------------------------------------------- */

struct rebuild_settings {
	uint64_t rate;       /* bytes per second of one rebuild; 0: no limit */
	uint64_t latency_ns; /* see copy.h; 0: found out, UINT64_MAX: not governed */
	enum copy_verify verify;
	bool is_always_full; /* what a child misses is not looked at */
};

/* For jobs that start from now on; the limits of those that run, too. */
void rebuild_settings_set(const struct rebuild_settings *settings);

#endif
