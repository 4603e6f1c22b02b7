/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nexus.h - a mirror over devices: made, watched and changed here; I/O goes through its device.
 *
 *   nexus:///NAME?size=BYTES&children=URI,URI[&uuid=UUID][&label=v1|v2][&required_size]...
 *
 * For the daemon, the command line and the simulator. The nexus makes its children's devices from
 * their URIs and removes them. It is a device like any other besides: open it, read, write, export.
 *
 * Owner:  the registry owns the device; a struct nexus lives as long as that. Who suspends while
 *         holding a pointer pins it (device_pin(nexus_device(nx))) or looks it up again.
 * Thread: everything here in a task on the primary reactor, except where it says otherwise. Calls
 *         on one nexus are taken in order.
 * Errors: 0 or a negative errno, and in struct nexus_err the sentence for a person and which of the
 *         errors of enum nexus_error it was, because a control plane tells them apart.
 */
#ifndef ASHLAR_NEXUS_NEXUS_H
#define ASHLAR_NEXUS_NEXUS_H

#include "base/list.h"
#include "device/driver.h"
#include "device/nvme_cmds.h"
#include "nexus/geometry.h"
#include "nexus/store.h"

enum {
	NEXUS_CHILDREN_MAX = 8, /* the one being rebuilt included */
	NEXUS_WRITES_MAX = 256, /* fan-outs in flight per nexus and reactor; more wait in order */
	NEXUS_REPAIRS_MAX =
		32, /* blocks that wait to be repaired per nexus; more stay as they are */
	NEXUS_CNTLID_MAX = 0xffef, /* NVMe Base 2.0, 5.17.2.1: the rest of the range is reserved */
	CHILD_AGAIN_MAX = 20,      /* how often a child may ask for patience in one request */
	CHILD_AGAIN_MS = 50,       /* milliseconds between two of them */
	CHILD_WHY_MAX = 160,       /* bytes of what a device said when it failed */
	NEXUS_WHY_MAX = 160,       /* bytes of why a nexus ended itself */
};

#define NEXUS_PRODUCT   "Nexus CAS Driver v0.0.1"
#define NEXUS_RESV_KEY  0x12345678ull
#define NEXUS_RESV_TYPE 5u /* write exclusive, all registrants */

struct nexus;

/* ---- states and errors ---------------------------------------------------------------------- */

enum nexus_state {
	NEXUS_INIT,
	NEXUS_OPEN,
	NEXUS_RECONFIGURING, /* an initiator went silent, children are being reset */
	NEXUS_SHUTTING_DOWN,
	NEXUS_SHUTDOWN, /* stays listed until it is destroyed */
	NEXUS_CLOSED,
};

/* What is reported: made of the state and the children. */
enum nexus_status {
	NEXUS_ONLINE,   /* every child is healthy */
	NEXUS_DEGRADED, /* at least one is */
	NEXUS_FAULTED,  /* none is; I/O is held */
	NEXUS_STATUS_SHUTTING_DOWN,
	NEXUS_STATUS_SHUTDOWN,
};

enum child_state {
	CHILD_INIT,
	CHILD_CONFIG_INVALID, /* smaller than what the nexus promises */
	CHILD_OPEN,           /* healthy if it is synced, too */
	CHILD_CLOSED,         /* its device went away */
	CHILD_FAULTED,        /* retired, for the reason beside */
};

enum nexus_reason {
	NEXUS_REASON_NONE,
	NEXUS_REASON_UNKNOWN,
	NEXUS_REASON_CANT_OPEN,
	NEXUS_REASON_NO_SPACE,
	NEXUS_REASON_TIMED_OUT,
	NEXUS_REASON_IO_ERROR,
	NEXUS_REASON_REBUILD_FAILED,
	NEXUS_REASON_ADMIN_FAILED,
	NEXUS_REASON_OFFLINE,           /* by a client; comes back with "online" */
	NEXUS_REASON_OFFLINE_PERMANENT, /* by a client, for good */
	NEXUS_REASON_COUNT_,
};

/* As a client sees a child. */
enum child_health {
	CHILD_HEALTH_UNKNOWN, /* faulted, and still being closed */
	CHILD_HEALTH_ONLINE,
	CHILD_HEALTH_DEGRADED,
	CHILD_HEALTH_FAULTED,
};

enum nexus_error {
	NEXUS_OK,
	/* a client's argument */
	NEXUS_E_INVALID_UUID,
	NEXUS_E_INVALID_KEY,
	NEXUS_E_INVALID_ARGUMENTS,
	NEXUS_E_INVALID_RESERVATION,
	NEXUS_E_INVALID_SHARE_PROTOCOL,
	NEXUS_E_ALREADY_SHARED,
	NEXUS_E_NOT_SHARED,
	NEXUS_E_CREATE_CHILD,
	NEXUS_E_OPEN_CHILD,
	NEXUS_E_MIXED_BLOCK_SIZES,
	NEXUS_E_CHILD_GEOMETRY,
	NEXUS_E_CHILD_TOO_SMALL,
	/* not now, or not any more */
	NEXUS_E_NOT_ALLOWED, /* shut down, frozen, or the child's fault is final */
	NEXUS_E_REMOVE_LAST_CHILD,
	NEXUS_E_REMOVE_LAST_HEALTHY,
	NEXUS_E_INCOMPLETE,
	NEXUS_E_RESIZE,
	/* no such thing, or one too many */
	NEXUS_E_NOT_FOUND,
	NEXUS_E_CHILD_NOT_FOUND,
	NEXUS_E_REBUILD_NOT_FOUND,
	NEXUS_E_NAME_EXISTS,
	NEXUS_E_CHILD_EXISTS,
	/* ours */
	NEXUS_E_UUID_EXISTS,
	NEXUS_E_INITIALISING,
	NEXUS_E_STORE,
	NEXUS_E_NO_MEMORY,
	NEXUS_E_INTERNAL,
	NEXUS_E_COUNT_,
};

/* How a control plane groups them. */
enum nexus_error_class {
	NEXUS_CLASS_OK,
	NEXUS_CLASS_INVALID_ARGUMENT,
	NEXUS_CLASS_FAILED_PRECONDITION,
	NEXUS_CLASS_NOT_FOUND,
	NEXUS_CLASS_ALREADY_EXISTS,
	NEXUS_CLASS_INTERNAL,
};

struct nexus_err {
	struct err err;
	enum nexus_error why;
};

/* Record the first trouble; the errno is that of the class, unless err.code was set before by what
 * was called. Returns the code. @ne may be NULL. */
int nexus_fail(struct nexus_err *ne, enum nexus_error why, const char *fmt, ...) PRINTF(3, 4) COLD;
enum nexus_error_class nexus_error_class(enum nexus_error why);
const char *nexus_error_name(enum nexus_error why); /* "ChildNotFound" */

const char *nexus_state_name(enum nexus_state state);
const char *nexus_status_name(enum nexus_status status);
const char *nexus_reason_name(enum nexus_reason reason);
const char *child_health_name(enum child_health health);

/* ---- making and ending ---------------------------------------------------------------------- */

enum nexus_preempt_policy {
	NEXUS_PREEMPT_ARG_KEY,
	NEXUS_PREEMPT_HOLDER,
};

/* All texts are borrowed for the call. Zero means the default where it can. */
struct nexus_opts {
	const char *name; /* a uuid as name is the device's uuid, `uuid` is the nexus' then */
	struct uuid uuid; /* zero: random */
	uint64_t size;    /* bytes asked */
	const char *const *children; /* URIs */
	unsigned nchildren;
	enum nexus_label label; /* 0: V1 */
	bool is_size_required;  /* exactly `size`, or fail */
	bool is_size_kept;      /* fail if it was larger once: the record has that */
	/* version 2 of the request */
	uint16_t cntlid_min, cntlid_max; /* 0: 1 and NEXUS_CNTLID_MAX */
	uint64_t resv_key, preempt_key;
	uint8_t resv_type; /* 0..6 */
	enum nexus_preempt_policy preempt_policy;
	bool is_reserving;    /* take reservations; needs a key. See also the settings */
	const char *info_key; /* key of the record; NULL or "": the nexus' uuid */
	bool is_round_robin;  /* reads take turns, whatever is outstanding where */
	uint64_t
		child_timeout_ns; /* a child that takes longer to answer is out; 0: the setting's */
	/* When to warn, and how often to ask for SMART; 0: the setting's, UINT64_MAX: never */
	uint64_t stall_ns, slow_ns, smart_ns;
};

int nexus_create(const struct nexus_opts *opts, struct nexus **ret_nexus,
		 struct nexus_err *ne) MAY_SUSPEND WARN_UNUSED;
/* Take it away: children closed and removed, record clean. The device is gone afterwards. */
int nexus_destroy(struct nexus *nx, struct nexus_err *ne) MAY_SUSPEND WARN_UNUSED;
/* Stop serving, cleanly; stays listed. Again: fine. While one is under way: NOT_ALLOWED. */
int nexus_shutdown(struct nexus *nx, struct nexus_err *ne) MAY_SUSPEND WARN_UNUSED;
/* Grow to @size bytes; replicas were grown before. Never shrinks. */
int nexus_resize(struct nexus *nx, uint64_t size, struct nexus_err *ne) MAY_SUSPEND WARN_UNUSED;

/* By name, or by nexus uuid in text. NULL: none. */
struct nexus *nexus_lookup(const char *name_or_uuid);
struct nexus *nexus_next(struct nexus *prev); /* NULL starts; NULL ends */
struct device *nexus_device(struct nexus *nx);
struct nexus *nexus_of_device(struct device *dev); /* NULL: it is something else */

/* ---- children ------------------------------------------------------------------------------- */

/* @is_rebuilt: start a rebuild at once. One that cannot start leaves the child faulted, and the
 * call fails with that; the child stays listed. */
int nexus_child_add(struct nexus *nx, const char *uri, bool is_rebuilt,
		    struct nexus_err *ne) MAY_SUSPEND WARN_UNUSED;
int nexus_child_remove(struct nexus *nx, const char *uri,
		       struct nexus_err *ne) MAY_SUSPEND WARN_UNUSED;
int nexus_child_online(struct nexus *nx, const char *uri,
		       struct nexus_err *ne) MAY_SUSPEND WARN_UNUSED;
/* Offline, retire, fault for good: the reason says which. */
int nexus_child_fault(struct nexus *nx, const char *uri, enum nexus_reason reason,
		      struct nexus_err *ne) MAY_SUSPEND WARN_UNUSED;

/* ---- looking -------------------------------------------------------------------------------- */

struct nexus_info {
	const char *name; /* texts are borrowed until the nexus goes */
	struct uuid uuid, device_uuid;
	uint64_t size;        /* bytes asked */
	uint64_t device_size; /* bytes it has */
	enum nexus_label label;
	enum nexus_state state;
	enum nexus_status status;
	const char *why; /* it ended itself; "": it did not */
	unsigned nchildren;
	bool is_frozen; /* writes wait: for the record, or for good where no child is healthy */
	uint64_t repairs, repairs_failed, overlaps;
	uint32_t segments_in_flight; /* of the write-intent record */
	uint64_t segment_size;       /* bytes */
	uint64_t mark_writes;        /* pages of the write-intent record, all children */
};

/* What may be wrong with a child that serves (health.c). Sets of them are 1 << warning. */
enum nexus_warning {
	NEXUS_WARN_STALL,        /* it has requests and answers none */
	NEXUS_WARN_SLOW,         /* it takes several times as long as the others */
	NEXUS_WARN_ERRORS,       /* it fails requests that others answer */
	NEXUS_WARN_MEDIA_ERRORS, /* SMART counts more than before */
	NEXUS_WARN_SPARE,        /* SMART: little spare space is left */
	NEXUS_WARN_WORN,         /* SMART: as much was written as it was made for */
	NEXUS_WARN_HOT,          /* SMART: its temperature is out of bounds */
	NEXUS_WARN_UNRELIABLE,   /* SMART says so */
	NEXUS_WARN_READ_ONLY,    /* SMART: its medium is */
	NEXUS_WARN_BACKUP,       /* SMART: what saves its cache without power has failed */
	NEXUS_WARN_COUNT_,
};

const char *nexus_warning_name(enum nexus_warning warning); /* "media-errors" */

struct nexus_child_info {
	const char *uri;
	const char *device_name; /* "" while it has none */
	struct uuid uuid;        /* of the replica */
	enum child_state state;
	enum child_health health;
	enum nexus_reason reason;
	const char *why; /* for people, beside the reason; "": nothing is known */
	bool is_synced;
	bool is_local;
	bool is_leaving;          /* it is out, and its device is not closed yet */
	bool is_final;            /* it is out, and nexus_child_online() refuses to bring it back */
	bool has_io_log;          /* what it misses is known: a rebuild can be partial */
	uint32_t missed_segments; /* if so */
	uint64_t fault_ns;        /* reactor clock at its last fault, 0: none */
	uint64_t read_errors, write_errors;
	uint32_t warnings; /* 1 << enum nexus_warning */
	bool has_smart;
	struct nvme_health smart; /* as last read */
};

void nexus_info(struct nexus *nx, struct nexus_info *ret);
/* for (i = 0; nexus_child_info(nx, i, &info); i++) */
bool nexus_child_info(struct nexus *nx, unsigned index, struct nexus_child_info *ret);
/*
 * What the child's device did since it was opened, with a histogram of latencies; rebuilds, scrubs
 * and write-intent records included. False: there is no such child, or its device is closed.
 */
bool nexus_child_stats(struct nexus *nx, unsigned index, enum io_op op, struct op_stats *ret);

/* ---- events --------------------------------------------------------------------------------- */

enum nexus_event_type {
	NEXUS_EVENT_CREATED,
	NEXUS_EVENT_DESTROYED,
	NEXUS_EVENT_STATE, /* state or status changed */
	NEXUS_EVENT_RESIZED,
	NEXUS_EVENT_CHILD_ADDED,
	NEXUS_EVENT_CHILD_REMOVED,
	NEXUS_EVENT_CHILD_STATE,
	NEXUS_EVENT_REPAIRED, /* a block was written back to the child that could not read it */
	NEXUS_EVENT_REBUILD,  /* one of `child` has started, or ended: see its history */
	NEXUS_EVENT_SCRUB,    /* one has started, or ended: see its statistics */
	NEXUS_EVENT_MISMATCH, /* copies differ; child: who is wrong, NULL: nobody knows */
	NEXUS_EVENT_STORE,    /* the record could not be written, or can be again */
	NEXUS_EVENT_HEALTH,   /* a warning of `child` begins, or ends (is_ok) */
};

struct nexus_event {
	enum nexus_event_type type;
	struct nexus *nx;
	const char *child; /* URI, NULL: about the nexus */
	enum nexus_state state;
	enum nexus_status status;
	enum child_health health;
	enum nexus_reason reason;
	uint64_t lba, nlb;          /* repaired */
	bool is_ok;                 /* store, repaired, health */
	enum nexus_warning warning; /* health */
	const char *detail;         /* health, end of a scrub: for a person; else NULL */
};

/* Embedded in who wants to hear; called in a task of the primary, must not suspend. */
struct nexus_listener {
	struct list link;
	void (*fn)(struct nexus_listener *listener, const struct nexus_event *event);
};

void nexus_listen(struct nexus_listener *listener);
void nexus_unlisten(struct nexus_listener *listener);

/* ---- settings of the engine ----------------------------------------------------------------- */

struct nexus_settings {
	struct nexus_store *store; /* borrowed; NULL: a store in memory */
	unsigned store_tries;      /* in all; 0: 30 */
	uint64_t store_pause_ns;   /* between two tries; 0: 1 s */
	uint64_t store_timeout_ns; /* of one try; 0: 5 s */
	uint64_t child_timeout_ns; /* of nexuses that do not say; 0: 30 s */
	bool is_reserving;         /* nexuses with a key reserve their NVMe children; also when
			    * NEXUS_NVMF_RESV_ENABLE is in the environment */
	bool is_resv_persistent;   /* ... and targets keep that over a loss of power */
	uint64_t stall_ns;         /* without an answer, to warn of it; 0: 5 s, MAX: never */
	uint64_t slow_ns;          /* no child is slow that is faster; 0: 20 ms, MAX: never */
	uint64_t smart_ns;         /* between two readings of SMART; 0: 60 s, MAX: never */
	uint64_t health_tick_ns;   /* between two looks at children's health; 0: 1 s */
	uint64_t intent_idle_ns; /* how long a segment stays marked after its last write; 0: 5 s */
	unsigned intent_fine;    /* segments marked one by one, before whole regions are; 0: 64 */
};

/* Before the first nexus exists, or between tests. Primary reactor. */
void nexus_settings_set(const struct nexus_settings *settings);

extern const struct driver driver_nexus;

#endif
