/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export.h - what the parts of `ashlar export` share.
 *
 *   export.c          options; the task that opens, serves, waits, stops; the operations
 *   export_access.c   hosts, controllers, paths, limits: options and operations
 *   export_control.c  the unix socket and its lines
 *   export_nexus.c    what a nexus can be told there, and its events
 *
 * Thread: operations (export_*) run in tasks; those that change the list of namespaces one at a
 *         time (export.lock). The control socket has threads of its own outside the engine, which
 *         reach it through engine_call().
 */
#ifndef ASHLAR_CLI_EXPORT_H
#define ASHLAR_CLI_EXPORT_H

#include <pthread.h>
#include <stdatomic.h>

#include "cli/opt.h"
#include "device/device.h"
#include "target/target.h"

enum {
	CONTROL_LINE_MAX = 8192, /* bytes of a command, line feed included */
	CONTROL_CLIENTS_MAX = 16,
	CONTROL_STOP_S = 10, /* that a stop waits for commands that run, and nexuses */
};

struct export_ns {
	char *uri;          /* owned; NULL: the place is free */
	struct device *dev; /* borrowed from the registry */
	uint32_t nsid;
};

struct control;
struct export_events;

struct export_opts {
	struct opt_list listen, hosts, inject, limits;
	const char *nqn, *control, *port_file, *cntlid_range, *crdt, *ptpl_dir, *store;
	uint64_t cores;
	unsigned poll, ana_state;
	bool ana;
};

struct export
{
	struct export_opts opts;
	struct opt_args uris;
	struct task_mutex lock;
	struct target *target;       /* owned */
	struct subsystem *subsystem; /* owned by the target */
	struct export_ns ns[TARGET_NAMESPACES_MAX];
	unsigned paused;              /* how often */
	struct control *control;      /* owned; NULL: none */
	struct export_events *events; /* owned; of all nexuses */
};

/* ---- operations, in a task ------------------------------------------------------------------- */

/* @nsid 0: the lowest free. */
int export_add(struct export *e, const char *uri, uint32_t nsid, uint32_t *ret_nsid,
	       struct err *err) MAY_SUSPEND WARN_UNUSED;
int export_remove(struct export *e, uint32_t nsid, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* Read the size of one device again. */
int export_rescan_device(struct device *dev, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* Read those of all namespaces again. All are tried; the first failure is told. */
int export_rescan(struct export *e, struct err *err) MAY_SUSPEND WARN_UNUSED;
int export_pause(struct export *e, struct err *err) MAY_SUSPEND WARN_UNUSED;
int export_resume(struct export *e, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* One line of JSON, to be freed; NULL when memory is short. */
char *export_stats(struct export *e) MAY_SUSPEND;
char *export_list(struct export *e) MAY_SUSPEND;
char *export_reservations(struct export *e) MAY_SUSPEND;

/* ---- export_access.c ------------------------------------------------------------------------- */

/* Options into what target and subsystem want; defaults must be there. */
int access_target_opts(const struct export_opts *o, struct target_opts *opts,
		       struct err *err) WARN_UNUSED;
int access_subsystem_opts(const struct export_opts *o, struct subsystem_opts *opts,
			  struct err *err) WARN_UNUSED;

/* @arg: "STATE", or "STATE LISTENER" by address or number. */
int export_ana(struct export *e, const char *arg, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* @nqn "any": any host. */
int export_host_add(struct export *e, const char *nqn, struct err *err) MAY_SUSPEND WARN_UNUSED;
int export_host_del(struct export *e, const char *nqn, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* @arg: NQN or controller id, and "force". */
int export_disconnect(struct export *e, const char *arg, unsigned *ret_count,
		      struct err *err) MAY_SUSPEND WARN_UNUSED;
/* One line of JSON, to be freed; NULL when memory is short. */
char *export_paths(struct export *e);
char *export_hosts(struct export *e);
char *export_controllers(struct export *e);

/* ---- a command of the control socket --------------------------------------------------------- */

/* Its argument, NULL without one; what follows "ok" in the answer, to be freed. */
struct request {
	struct export *e;
	const struct command *command;
	const char *arg;
	char *text;
};

struct command {
	const char *name; /* NULL ends a table */
	const char *arg;  /* for the help; in brackets: may be left out; NULL: takes none */
	const char *help;
	int (*run)(struct request *req, struct err *err);
};

int request_say(struct request *req, struct err *err, const char *fmt, ...) PRINTF(3, 4);
/* Takes @text; NULL: there was no memory for it. */
int request_say_json(struct request *req, char *text, struct err *err);

/* ---- export_nexus.c -------------------------------------------------------------------------- */

extern const struct command nexus_commands[];

/* End I/O that a nexus without a healthy child holds: nobody else does before it is removed. Other
 * devices are let be. A child that hangs is waited for CONTROL_STOP_S. */
void export_nexus_release(struct device *dev) MAY_SUSPEND;
/* The same for all there are, in a task of its own: a child may hang. True: look again later. */
bool export_nexus_releasing(void);
/* It is a nexus, and is being shut down. */
bool export_nexus_is_ending(struct device *dev);

/* Remember what happens to any nexus, from now to the stop. */
int export_events_start(struct export *e, struct err *err) WARN_UNUSED;
void export_events_stop(struct export *e);

/* ---- the control socket ---------------------------------------------------------------------- */

/* The socket is ours; who connects waits for control_start(). Any thread; blocks only for local
 * system calls. */
int control_open(struct export *e, const char *path, struct err *err) WARN_UNUSED;
/* Serves it from a thread of its own. */
int control_start(struct export *e, struct err *err) WARN_UNUSED;
/* No new command. Those that run go on to their end, if they find one: control_is_over(). */
void control_hang_up(struct export *e);
bool control_is_over(const struct export *e);
/* Over. */
void control_stop(struct export *e);

#endif
