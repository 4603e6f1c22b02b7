/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export.h - what the parts of `ashlar export` share.
 *
 *   export.c             options; the task that opens, serves, waits, stops
 *   export_listen.c      where hosts reach it
 *   export_ns.c          operations on namespaces
 *   export_access.c      hosts, controllers, paths, limits: options and operations
 *   export_show.c        what it serves and has counted, as JSON
 *   export_control.c     the unix socket and its clients
 *   export_command.c     a line of it: verb, words, answer
 *   export_nexus.c       what a mirror can be told; export_nexus_show.c, export_jobs.c and
 *                        export_events.c are the rest of that
 *
 * Thread: operations (export_*) run in tasks; those that change the list of namespaces one at a
 *         time (export.lock). The control socket has threads of its own outside the engine, which
 *         reach it through engine_call().
 */
#ifndef ASHLAR_CLI_EXPORT_H
#define ASHLAR_CLI_EXPORT_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>

#include "cli/opt.h"
#include "device/device.h"
#include "nexus/nexus.h"
#include "target/target.h"

enum {
	CONTROL_LINE_MAX = 8192, /* bytes of a command, line feed included */
	CONTROL_CLIENTS_MAX = 16,
	CONTROL_STOP_S = 10, /* that a stop waits for commands that run, and nexuses */
	/* How often device-time that devices get to close at a stop: a nexus records its end, a
	 * rebuild gives up a disk that hangs, and both wait for replicas first. */
	CLOSE_DEVICE_TIMES = 6,
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
	uint64_t close_ns;            /* how long devices may take to close */
	struct control *control;      /* owned; NULL: none */
	struct export_events *events; /* owned; of all nexuses */
};

/* ---- export_listen.c ------------------------------------------------------------------------- */

/* Is every --listen an address? Touches nothing. */
int export_listen_check(const struct export_opts *opts, struct err *err) WARN_UNUSED;
int export_bind(struct export *e, struct err *err) MAY_SUSPEND WARN_UNUSED;
int export_write_port(const struct export *e, struct err *err) WARN_UNUSED;
/* Print what is served, and what to type on a host. */
void export_tell(const struct export *e);

/* ---- export_ns.c: in a task ------------------------------------------------------------------ */

/* One operation at a time; lets go of devices that went by themselves. Unlock e->lock. */
void export_lock(struct export *e) MAY_SUSPEND;
struct export_ns *export_ns_find(struct export *e, uint32_t nsid);
/* Close it; what goes wrong is logged. */
void export_destroy_device(const char *uri) MAY_SUSPEND;

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

/* ---- export_show.c: JSON that the caller owns; NULL when memory is short --------------------- */

json_t *export_stats(struct export *e);
json_t *export_list(struct export *e);
/* All of it that a person wants to see at once. */
json_t *export_status(struct export *e);
json_t *export_reservations(struct export *e);

/* ---- export_access.c ------------------------------------------------------------------------- */

/* Options into what target and subsystem want; defaults must be there. */
int access_target_opts(const struct export_opts *o, struct target_opts *opts,
		       struct err *err) WARN_UNUSED;
int access_subsystem_opts(const struct export_opts *o, struct subsystem_opts *opts,
			  struct err *err) WARN_UNUSED;

/* @listener: its address or number; NULL: all. */
int export_ana(struct export *e, const char *state, const char *listener,
	       struct err *err) MAY_SUSPEND WARN_UNUSED;
/* @nqn "any": any host. */
int export_host_add(struct export *e, const char *nqn, struct err *err) MAY_SUSPEND WARN_UNUSED;
int export_host_del(struct export *e, const char *nqn, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* @who: NQN or controller id; @how: "force" or NULL. */
int export_disconnect(struct export *e, const char *who, const char *how, unsigned *ret_count,
		      struct err *err) MAY_SUSPEND WARN_UNUSED;
json_t *export_paths(struct export *e);
json_t *export_hosts(struct export *e);
json_t *export_controllers(struct export *e);

/* ---- export_command.c ------------------------------------------------------------------------ */

enum { WORDS_MAX = 4 }; /* of a command, its verb and @NAME not counted */

struct request {
	struct export *e;
	const struct command *command;
	const char *arg;             /* all that follows the verb, while it is not split; or NULL */
	const char *word[WORDS_MAX]; /* else its words, NULL where none is */
	unsigned count;
	const char *nexus; /* after the @; NULL: not said */
	struct nexus *nx;  /* that is meant; NULL: all, or the verb is about none */
	char *text;        /* what follows "ok" in the answer, owned */
	bool is_early;     /* run it again after the next event */
};

/* Which nexus a verb is about. */
enum command_means {
	MEANS_NONE,
	MEANS_ALL,   /* all, or the one that is named */
	MEANS_ONE,   /* the one that is named, or the only one */
	MEANS_CHILD, /* the same, or that which has the child of the first word */
};

struct command {
	const char *name; /* NULL ends a table */
	const char *arg;  /* for the help; in brackets: may be left out; NULL: takes none */
	const char *help;
	const char *example; /* what may follow the socket's path */
	enum command_means nexus;
	unsigned words_min, words_max; /* both 0 and about no nexus: it takes arg */
	/* one of these */
	int (*run)(struct request *req, struct err *err);
	json_t *(*show)(struct export *e);
	int (*child)(struct nexus *nx, const char *uri, struct nexus_err *ne);
};

int request_say(struct request *req, struct err *err, const char *fmt, ...) PRINTF(3, 4);
/* Takes the reference; NULL: there was no memory for it. */
int request_say_json(struct request *req, json_t *json, struct err *err);
/* The error that says how the verb is written. */
int request_usage(const struct request *req, struct err *err);
/* Run @line, which is taken apart, in the engine. The whole line to send, to be freed; NULL: no
 * memory. Any thread but the engine's; blocks, for an event while @fd, its client, may say more. */
char *request_answer(struct export *e, char *line, int fd) WARN_UNUSED;
/* What @verb does, or each (NULL): a list of verb, args, help, example. NULL: there is none. Any
 * thread. */
json_t *command_help(const char *verb, struct err *err);

/* ---- export_nexus.c -------------------------------------------------------------------------- */

extern const struct command nexus_commands[];

/* Fill in req->nx, again after a suspension. */
int nexus_request_find(struct request *req, struct err *err) WARN_UNUSED;
/* Run command->child, say what became of the child. */
int nexus_request_child(struct request *req, struct err *err) MAY_SUSPEND WARN_UNUSED;

/* End I/O that a nexus without a healthy child holds: nobody else does before it is removed. Other
 * devices are let be. A child that hangs is waited for CONTROL_STOP_S. */
void export_nexus_release(struct device *dev) MAY_SUSPEND;
/* The same for all there are, in a task of its own: a child may hang. True: look again later. */
bool export_nexus_releasing(void);
/* What the end of the device @name waits for, for people. */
void export_nexus_waits_for(const char *name, char *text, size_t size);
/* It is a nexus, and is being shut down. */
bool export_nexus_is_ending(struct device *dev);

/* ---- export_events.c ------------------------------------------------------------------------- */

/* Remember what happens to any nexus, from now to the stop. */
int export_events_start(struct export *e, struct err *err) WARN_UNUSED;
void export_events_stop(struct export *e);
/* An eventfd that becomes readable with each event; -1: no file descriptor is left. */
int events_follow(struct export *e);
void events_unfollow(struct export *e, int fd);

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
