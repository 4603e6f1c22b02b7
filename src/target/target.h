/* SPDX-License-Identifier: Apache-2.0 */
/*
 * target.h - an NVMe/TCP target: listeners, subsystems, namespaces.
 *
 *   target             the transport of this process: listeners, connections on every reactor
 *     subsystem        an NQN that hosts connect to; controllers come and go with them
 *       namespace      a device under a number (NSID)
 *
 * Owner:  the target owns everything made here; pointers stay valid until their remove or stop.
 * Thread: all functions run in a task (MAY_SUSPEND) or at least on the primary reactor.
 * Errors: 0 or a negative errno and the sentence in @err.
 */
#ifndef ASHLAR_TARGET_TARGET_H
#define ASHLAR_TARGET_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/uuid.h"
#include "device/device.h"
#include "reactor/task.h"
#include "target/resv.h"

enum {
	TARGET_NQN_MAX = 223,        /* bytes without the NUL (NVMe Base 2.0, 4.5) */
	TARGET_NAMESPACES_MAX = 256, /* per subsystem: NN in Identify Controller */
	TARGET_SUBSYSTEMS_MAX = 2048,
	TARGET_QUEUES_MAX = 128, /* upper bound of target_opts.queues_max */
	TARGET_DEPTH_MAX = 1024, /* upper bound of target_opts.queue_depth_max */
	TARGET_LISTENERS_MAX = 16,
	TARGET_ANA_GROUPS_MAX = 32, /* per subsystem; hosts see one more, see ana.c */
	TARGET_CRDT_MAX = 100,      /* units of 100 ms: upper bound of target_opts.crdt */
};

struct target;
struct subsystem;

struct target_opts {
	uint32_t queues_max;         /* I/O queues per controller, 1 ... TARGET_QUEUES_MAX; 32 */
	uint32_t queue_depth_max;    /* entries per I/O queue, 2 ... TARGET_DEPTH_MAX; 128 */
	uint32_t in_capsule_size;    /* bytes of data a command may carry, 4096 ... 16384; 4096 */
	uint32_t io_size_max;        /* bytes, power of two, 8192 ... 1 MiB (MDTS); 128 KiB */
	uint32_t buffers;            /* of io_size_max, per reactor, for I/O above 4 KiB; 128 */
	uint32_t conns_max;          /* TCP connections at once; 4096 */
	uint32_t conns_per_host_max; /* of one host NQN, over all subsystems; 2048 */
	uint32_t conns_per_subsystem_max; /* 2048 */
	uint32_t hosts_max;               /* names in a subsystem's list of allowed hosts; 256 */
	uint64_t conn_memory_max;         /* bytes that connections take in all; 2 GiB */
	uint32_t connect_timeout_ms;      /* from accept to a good Connect command; 10000 */
	/* A controller without a keep-alive time ends when all its queues were silent for so long;
	 * 0: it may be silent for ever; 3600000. */
	uint32_t idle_timeout_ms;
	/* CRDT1 to 3 of Identify Controller, units of 100 ms, at most TARGET_CRDT_MAX: see crd.c */
	uint16_t crdt[3];
	/* How long a change waits for commands that a device does not end, see hold.c; 10000. */
	uint32_t device_timeout_ms;
	/* Reads of so many bytes or more are sent from the device's memory, if it lends it; 16384.
	 * UINT32_MAX: none. Never with data digests. */
	uint32_t borrow_min;
	bool no_success_flag; /* end each read with a response capsule */
	/*
	 * Folder for reservations that are to survive loss of power, made if it is missing. NULL:
	 * hosts are told that theirs do not. Borrowed until target_stop().
	 */
	const char *ptpl_dir;
};

/* The defaults named above. */
void target_opts_init(struct target_opts *opts);

/* One target per process, with the discovery subsystem. -EINVAL, -ENOMEM, -EALREADY. */
int target_start(const struct target_opts *opts, struct target **ret_target,
		 struct err *err) MAY_SUSPEND WARN_UNUSED;
/*
 * Close listeners and connections and return at once: what hosts had sent is not answered any more.
 * For who has to let go of held I/O before target_stop(), which waits for it.
 */
void target_hang_up(struct target *target);
/*
 * Hang up, and wait until nothing of any host is with a device, at most device_timeout_ms.
 * -ETIMEDOUT: a device hangs, @err names it. Then target_stop() would wait for it; namespaces with
 * other devices can still be removed.
 */
int target_drain(struct target *target, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* Close listeners and connections, remove the subsystems, free everything. NULL is fine. Waits for
 * devices however long they take. */
void target_stop(struct target *target) MAY_SUSPEND;

/*
 * Listen on @host (numeric IPv4 or IPv6, no brackets) and @port (0: the system picks). Every
 * subsystem can be reached on every listener. -EADDRINUSE, -EINVAL, -ENOSPC ...
 */
int target_listen(struct target *target, const char *host, uint16_t port,
		  struct err *err) MAY_SUSPEND WARN_UNUSED;
/*
 * The same, but nobody is let in before target_admit(): for who wants to know that an address can
 * be had before anything else begins. Hosts that knock wait; they never see what is half made.
 */
int target_bind(struct target *target, const char *host, uint16_t port,
		struct err *err) MAY_SUSPEND WARN_UNUSED;
void target_admit(struct target *target);
unsigned target_listener_count(const struct target *target);
/* "127.0.0.1:4420", "[::1]:4420"; of the listener that was made @index-th. */
const char *target_listener_addr(const struct target *target, unsigned index);
uint16_t target_listener_port(const struct target *target, unsigned index);

/* What stands behind a subsystem: decides which retry delay its errors carry (crd.c). */
enum subsystem_kind {
	SUBSYSTEM_REPLICA, /* a device */
	SUBSYSTEM_NEXUS,   /* a mirror that hosts use */
};

/* What a path is good for; the numbers are those of the wire (NVMe Base 2.0, 8.1). */
enum ana_state {
	ANA_OPTIMIZED = 1,
	ANA_NON_OPTIMIZED = 2,
	ANA_INACCESSIBLE = 3,
	ANA_PERSISTENT_LOSS = 4,
	ANA_CHANGE = 15,
};

struct subsystem_opts {
	const char *nqn;  /* "nqn.2019-05.io.openebs:disk0"; copied */
	struct uuid uuid; /* the serial number is made from it, see subsystem_serial() */
	/* Hosts that may connect; NULL or empty: any. Copied. At most target_opts.hosts_max. */
	const char *const *allowed_hosts;
	unsigned allowed_host_count;
	/* Controller ids handed out; both 0: 1 ... 0xffef. */
	uint16_t cntlid_min, cntlid_max;
	enum subsystem_kind kind;
	bool has_ana;             /* report asymmetric namespace access to hosts */
	enum ana_state ana_state; /* of every group on every listener at first; 0: optimized */
};

/* -EINVAL for a bad NQN, -EEXIST, -ENOSPC. Hosts may connect at once, also before a namespace. */
int subsystem_add(struct target *target, const struct subsystem_opts *opts,
		  struct subsystem **ret_subsystem, struct err *err) MAY_SUSPEND WARN_UNUSED;
/*
 * Ends its controllers, waits for their I/O however long it takes, closes the namespaces. Changes
 * that are under way or queued come to an end first, those whose turn comes later with -ENODEV, as
 * does whatever begins while this waits. Who removes what is being removed returns at once. NULL is
 * fine.
 */
void subsystem_remove(struct subsystem *subsystem) MAY_SUSPEND;
/* By NQN; NULL: not found. */
struct subsystem *subsystem_find(struct target *target, const char *nqn);
const char *subsystem_nqn(const struct subsystem *subsystem);
/* How many controllers (hosts) are connected now. */
unsigned subsystem_controller_count(const struct subsystem *subsystem);

/*
 * Serve @dev as namespace @nsid (0: the lowest free). The device is opened read-write unless it is
 * read-only. NGUID and UUID are the device's uuid. When the device is removed, the namespace goes;
 * when it ends (device_end()) the namespace stays and its path is closed: hosts use another, or
 * wait. Hosts are told (asynchronous event). -EEXIST, -ENOSPC, -ENODEV, errors of opening.
 */
int subsystem_add_ns(struct subsystem *subsystem, struct device *dev, uint32_t nsid,
		     uint32_t *ret_nsid, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* -ENOENT. Waits for its I/O to end; later commands get Invalid Namespace. -ETIMEDOUT: stays. */
int subsystem_remove_ns(struct subsystem *subsystem, uint32_t nsid,
			struct err *err) MAY_SUSPEND WARN_UNUSED;

/* The reservations of a namespace, valid until the task suspends; NULL: no such namespace. */
const struct resv *subsystem_reservations(const struct subsystem *subsystem, uint32_t nsid);

/*
 * Hold new I/O commands and wait for those in flight; let the held ones go. Calls nest. Admin
 * commands and connects are served all the time, so hosts stay connected for as long as it takes.
 * -ETIMEDOUT: a device does not end what it has, see hold.c; then nothing is held.
 */
int subsystem_pause(struct subsystem *subsystem, struct err *err) MAY_SUSPEND WARN_UNUSED;
void subsystem_resume(struct subsystem *subsystem) MAY_SUSPEND;

/* ---- asymmetric namespace access (ana.c) ----------------------------------------------------- */

/* "optimized", "non-optimized", "inaccessible", "persistent-loss", "change". */
const char *ana_state_name(enum ana_state state);
int ana_state_parse(const char *text, enum ana_state *ret_state, struct err *err) WARN_UNUSED;

/*
 * Set the state of @group (0: all) for hosts that came over @listener (TARGET_LISTENER_ALL: every
 * one, also those to come). What comes later sees the new state, and hosts are told; where that
 * closed a path, what was in flight has ended when the call returns. -EOPNOTSUPP without has_ana,
 * -EINVAL; -ETIMEDOUT: the state is set, but a device hangs with what was in flight.
 */
enum { TARGET_LISTENER_ALL = -1 };
int subsystem_set_ana(struct subsystem *subsystem, int listener, uint32_t group,
		      enum ana_state state, struct err *err) MAY_SUSPEND WARN_UNUSED;
enum ana_state subsystem_ana(const struct subsystem *subsystem, unsigned listener, uint32_t group);
/* Move a namespace to another group; all begin in group 1. -ENOENT, and as above. */
int subsystem_set_ns_group(struct subsystem *subsystem, uint32_t nsid, uint32_t group,
			   struct err *err) MAY_SUSPEND WARN_UNUSED;

/* ---- who may connect (hosts.c) --------------------------------------------------------------- */

/*
 * Change the list of a subsystem that is served. The hosts that may not connect any more have lost
 * their controllers, and everything they had sent has ended, when the call returns: nothing of
 * theirs reaches a device afterwards. -ETIMEDOUT: the list is changed, but a device hangs with what
 * they had sent.
 *
 * The first name that is added to a subsystem of any host shuts all others out. A list that became
 * empty lets nobody in; only subsystem_set_hosts() with count 0 opens it to any host again.
 */
int subsystem_set_hosts(struct subsystem *subsystem, const char *const *hosts, unsigned count,
			struct err *err) MAY_SUSPEND WARN_UNUSED;
/* -EEXIST is not an error: a host that is listed already stays so. -ENOSPC, -EINVAL. */
int subsystem_allow_host(struct subsystem *subsystem, const char *hostnqn,
			 struct err *err) MAY_SUSPEND WARN_UNUSED;
/* -ENOENT: it is not listed; -EINVAL: any host may connect, there is no list. */
int subsystem_disallow_host(struct subsystem *subsystem, const char *hostnqn,
			    struct err *err) MAY_SUSPEND WARN_UNUSED;
/* True: any host. Otherwise *ret_hosts (borrowed until the next change) and *ret_count. */
bool subsystem_hosts(const struct subsystem *subsystem, const char *const **ret_hosts,
		     unsigned *ret_count);

/* ---- controllers (disconnect.c) -------------------------------------------------------------- */

struct controller_info {
	char hostnqn[TARGET_NQN_MAX + 1];
	uint16_t cntlid;
	uint16_t io_queues;
	uint32_t kato_ms; /* 0: none */
	uint32_t listener;
	bool is_closing;
};

/* Up to @max of them into @infos, in the order in which they came; returns how many there are. */
unsigned subsystem_controllers(const struct subsystem *subsystem, struct controller_info *infos,
			       unsigned max);

/*
 * End the controllers of @hostnqn, or if that is NULL the one with @cntlid. Without @is_forced new
 * commands are left unanswered, those in flight are finished and answered, within a few seconds.
 * When it returns nothing of theirs is in flight. *ret_count: how many. -ENOENT: there is none;
 * -ETIMEDOUT: they are ended, but a device hangs with what they had sent.
 */
int subsystem_disconnect(struct subsystem *subsystem, const char *hostnqn, uint16_t cntlid,
			 bool is_forced, unsigned *ret_count,
			 struct err *err) MAY_SUSPEND WARN_UNUSED;

enum { SUBSYSTEM_SERIAL_SIZE = 21 }; /* 20 characters and the NUL (Identify Controller, SN) */
/* "DCS" and the first 17 upper-case hex digits of the SHA-256 over the 16 bytes of @uuid. */
void subsystem_serial(const struct uuid *uuid, char serial[SUBSYSTEM_SERIAL_SIZE]);

enum { SNAPSHOT_TEXT_MAX = 255 }; /* bytes of one parameter, without the NUL */

/* What a vendor snapshot command (opcode C1h) asks for. A parameter that was left out is empty. */
struct snapshot_params {
	char entity_id[SNAPSHOT_TEXT_MAX + 1];
	char parent_id[SNAPSHOT_TEXT_MAX + 1];
	char txn_id[SNAPSHOT_TEXT_MAX + 1];
	char name[SNAPSHOT_TEXT_MAX + 1];
	char uuid[SNAPSHOT_TEXT_MAX + 1];
	char create_time[SNAPSHOT_TEXT_MAX + 1];
	bool is_discarded;
	uint64_t time_s; /* the operation's time stamp and id */
};

/* Take @len bytes apart. -EINVAL: not such a payload, or a text too long or not printable. */
int snapshot_parse(const void *payload, size_t len, struct snapshot_params *ret) WARN_UNUSED;

/*
 * Who makes snapshots of devices says so here; NULL: nobody. Called in a task, @dev stays until it
 * returns 0 or a negative errno, which the host is told.
 */
typedef int (*target_snapshot_fn)(struct device *dev, const struct snapshot_params *params,
				  void *owner);
void target_set_snapshot(struct target *target, target_snapshot_fn fn, void *owner);

/* What the target counts, summed over the reactors. */
struct target_stats {
	uint64_t conns_accepted, conns_refused; /* refused: over conns_max, or no memory */
	uint64_t conns_terminated;              /* ended by us with a termination request */
	uint64_t connects_refused;              /* over a limit of host, subsystem or memory */
	uint64_t connect_timeouts, keep_alive_timeouts, idle_timeouts;
	uint64_t commands;
	uint64_t buffer_waits; /* commands that found no buffer and waited */
	uint64_t digest_errors;
	uint64_t reads_lent;       /* sent from the device's memory */
	uint32_t conns;            /* now */
	uint32_t buffers_free_min; /* lowest seen on any reactor */
	uint64_t conn_memory;      /* bytes that connections hold now */
	uint64_t conn_memory_peak; /* highest seen */
	uint64_t conn_memory_each; /* what the largest queue a host may ask for takes */
};
/* Connections of reactor @index, without admin queues: what the next one is placed by. */
unsigned target_core_load(const struct target *target, unsigned index);
void target_stats(struct target *target, struct target_stats *ret_stats) MAY_SUSPEND;

#endif
