/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.h - from a set of replicas, without a nexus: which is the newest, which are stale, and why.
 *
 * Nothing is written. For `ashlar nexus check`, and for whoever has to choose from what to make a
 * volume again.
 *
 * Owner:  the caller owns the report; texts in it are its own.
 * Thread: a task on the primary.
 */
#ifndef ASHLAR_NEXUS_CHECK_H
#define ASHLAR_NEXUS_CHECK_H

#include "base/err.h"
#include "nexus/nexus.h"

enum check_verdict {
	CHECK_UNREADABLE, /* cannot be opened or read */
	CHECK_UNKNOWN,    /* nothing on it, or in the record, says what it is */
	CHECK_STALE,      /* it misses writes that others have */
	CHECK_IN_SYNC,    /* it has every acknowledged write */
	CHECK_SOURCE,     /* the same, and the others would be rebuilt from it */
};

enum check_rebuild {
	CHECK_REBUILD_NONE,
	CHECK_REBUILD_PARTIAL,
	CHECK_REBUILD_FULL,
};

struct check_replica {
	struct uuid uuid; /* of the device */
	enum check_verdict verdict;
	char why[256];
	enum check_rebuild rebuild; /* what making the nexus of these would do to it */
	uint32_t segments;          /* of a partial one */
	/* its write-intent records */
	bool has_marks;     /* there are some, and they are this replica's */
	bool is_unrecorded; /* by a life that had no record */
	struct uuid nexus;
	uint64_t generation;
	uint64_t sequence;  /* of the last page written */
	uint32_t in_flight; /* segments */
	int recorded;       /* in the record: 1 healthy, 0 not, -1 not there, or no record */
};

struct check_report {
	unsigned nreplicas;
	struct check_replica replica[NEXUS_CHILDREN_MAX];
	int source;            /* index; -1: none can be told */
	uint64_t segment_size; /* bytes; 0: no marks */
	/* that the record, or the newest, names, and that were not given */
	unsigned nmissing;
	struct uuid missing[RECORD_CHILDREN_MAX];
	char advice[384];
};

/* @record: NULL: there is none. -EINVAL for too many URIs; what is wrong with a replica is in the
 * report. */
int nexus_check(const char *const *uris, unsigned count, const struct nexus_record *record,
		struct check_report *ret, struct err *err) MAY_SUSPEND WARN_UNUSED;
const char *check_verdict_name(enum check_verdict verdict); /* "in sync" */

#endif
