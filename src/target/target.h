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
};

struct target;
struct subsystem;

struct target_opts {
	uint32_t queues_max;         /* I/O queues per controller, 1 ... TARGET_QUEUES_MAX; 32 */
	uint32_t queue_depth_max;    /* entries per I/O queue, 2 ... TARGET_DEPTH_MAX; 128 */
	uint32_t in_capsule_size;    /* bytes of data a command may carry, 4096 ... 16384; 4096 */
	uint32_t io_size_max;        /* bytes, power of two, 4096 ... 1 MiB (MDTS); 128 KiB */
	uint32_t buffers;            /* of io_size_max, per reactor, for I/O above 4 KiB; 128 */
	uint32_t conns_max;          /* TCP connections at once; 4096 */
	uint32_t connect_timeout_ms; /* from accept to a good Connect command; 10000 */
	bool no_success_flag;        /* end each read with a response capsule of its own */
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
/* Close listeners and connections, remove the subsystems, free everything. NULL is fine. */
void target_stop(struct target *target) MAY_SUSPEND;

/*
 * Listen on @host (numeric IPv4 or IPv6, no brackets) and @port (0: the system picks). Every
 * subsystem can be reached on every listener. -EADDRINUSE, -EINVAL, -ENOSPC ...
 */
int target_listen(struct target *target, const char *host, uint16_t port,
		  struct err *err) MAY_SUSPEND WARN_UNUSED;
unsigned target_listener_count(const struct target *target);
/* "127.0.0.1:4420", "[::1]:4420"; of the listener that was made @index-th. */
const char *target_listener_addr(const struct target *target, unsigned index);
uint16_t target_listener_port(const struct target *target, unsigned index);

struct subsystem_opts {
	const char *nqn;  /* "nqn.2019-05.io.openebs:disk0"; copied */
	struct uuid uuid; /* the serial number is made from it, see subsystem_serial() */
	/* Hosts that may connect; NULL or empty: any. Copied. */
	const char *const *allowed_hosts;
	unsigned allowed_host_count;
	/* Controller ids handed out; both 0: 1 ... 0xffef. */
	uint16_t cntlid_min, cntlid_max;
};

/* -EINVAL for a bad NQN, -EEXIST, -ENOSPC. Hosts may connect at once, also before a namespace. */
int subsystem_add(struct target *target, const struct subsystem_opts *opts,
		  struct subsystem **ret_subsystem, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* Ends its controllers, waits for their I/O, closes the namespaces. NULL is fine. */
void subsystem_remove(struct subsystem *subsystem) MAY_SUSPEND;
/* By NQN; NULL: not found. */
struct subsystem *subsystem_find(struct target *target, const char *nqn);
const char *subsystem_nqn(const struct subsystem *subsystem);
/* How many controllers (hosts) are connected now. */
unsigned subsystem_controller_count(const struct subsystem *subsystem);

/*
 * Serve @dev as namespace @nsid (0: the lowest free). The device is opened read-write unless it is
 * read-only. NGUID and UUID are the device's uuid. When the device is removed, the namespace goes.
 * Hosts are told (asynchronous event). -EEXIST, -ENOSPC, errors of opening.
 */
int subsystem_add_ns(struct subsystem *subsystem, struct device *dev, uint32_t nsid,
		     uint32_t *ret_nsid, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* -ENOENT. Waits for its I/O to end; later commands get Invalid Namespace. */
int subsystem_remove_ns(struct subsystem *subsystem, uint32_t nsid,
			struct err *err) MAY_SUSPEND WARN_UNUSED;

/* The reservations of a namespace, valid until the task suspends; NULL: no such namespace. */
const struct resv *subsystem_reservations(const struct subsystem *subsystem, uint32_t nsid);

/*
 * Hold new I/O commands and wait for those in flight; let the held ones go. Calls nest. Admin
 * commands and connects are served all the time, so hosts stay connected for as long as it takes.
 */
void subsystem_pause(struct subsystem *subsystem) MAY_SUSPEND;
void subsystem_resume(struct subsystem *subsystem) MAY_SUSPEND;

enum { SUBSYSTEM_SERIAL_SIZE = 21 }; /* 20 characters and the NUL (Identify Controller, SN) */
/* "DCS" and the first 17 upper-case hex digits of the SHA-256 over the 16 bytes of @uuid. */
void subsystem_serial(const struct uuid *uuid, char serial[SUBSYSTEM_SERIAL_SIZE]);

/* What the target counts, summed over the reactors. */
struct target_stats {
	uint64_t conns_accepted, conns_refused; /* refused: over conns_max, or no memory */
	uint64_t conns_terminated;              /* ended by us with a termination request */
	uint64_t connect_timeouts, keep_alive_timeouts;
	uint64_t commands;
	uint64_t buffer_waits; /* commands that found no buffer and waited */
	uint64_t digest_errors;
	uint32_t conns;            /* now */
	uint32_t buffers_free_min; /* lowest seen on any reactor */
};
void target_stats(struct target *target, struct target_stats *ret_stats) MAY_SUSPEND;

#endif
