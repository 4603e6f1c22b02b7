/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export_nexus.h - what the verbs for a mirror share; export_nexus.c has their table.
 *
 * Thread: tasks on the primary reactor.
 */
#ifndef ASHLAR_CLI_EXPORT_NEXUS_H
#define ASHLAR_CLI_EXPORT_NEXUS_H

#include "cli/export.h"
#include "nexus/scrub.h"

/* What a call on a nexus said, as what the socket says. Returns the code. */
int nexus_request_failed(const struct nexus_err *ne, struct err *err);

const char *child_state_name(enum child_state state); /* "Faulted" */
const char *scrub_state_text(enum scrub_state state); /* "running" */
json_t *json_number(uint64_t value);
json_t *json_ms(uint64_t ns); /* null where it is not known: UINT64_MAX */

json_t *json_nexus(struct nexus *nx);
/* The same of all, with the jobs that run on them: "rebuild" of a child, "scrub" of a nexus. */
json_t *json_mirrors(void);

int run_nexus(struct request *req, struct err *err);
int run_latency(struct request *req, struct err *err);
int run_rebuilds(struct request *req, struct err *err);
int run_rebuild(struct request *req, struct err *err) MAY_SUSPEND;
int run_rebuild_limits(struct request *req, struct err *err);
int run_scrub(struct request *req, struct err *err) MAY_SUSPEND;
int run_events(struct request *req, struct err *err);

#endif
