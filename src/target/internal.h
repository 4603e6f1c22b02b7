/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - what the files of the target share. Nobody outside src/target/ includes it.
 *
 *                    primary reactor                    every reactor
 *      target --- listeners                             core --- connections that live here
 *        +------- subsystem --------------------------- subsys_core: its state on this reactor
 *        |          +--- ns (desc) -------------------- ns_core: handle, what writes cost
 *        |          +--- ctrlr --- queue[] -----------> conn --- cmd[]: slots, tag = index
 *
 * Thread: the left column is touched by the primary reactor only, the right one by the reactor it
 *         belongs to. What crosses is a message: a cmd (admin and fabrics commands run on the
 *         primary and travel there and back) or a conn (birth, unlinking, death).
 */
#ifndef ASHLAR_TARGET_INTERNAL_H
#define ASHLAR_TARGET_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "device/device.h"
#include "drivers/nvme/spec.h"
#include "reactor/mem.h"
#include "reactor/reactor.h"
#include "reactor/stream.h"
#include "reactor/task.h"
#include "target/resv.h"
#include "target/target.h"
#include "drivers/nvme/tcp_pdu.h"

enum {
	ADMIN_DEPTH_MAX = 128,     /* entries of an admin queue; Linux asks for 32 */
	ADMIN_AER_MAX = 4,         /* Asynchronous Event Requests one controller holds (AERL 3) */
	RX_CHUNK_SIZE = 512 << 10, /* bytes; a batch of 128 writes of 4 KiB fits */
	RX_CHUNK_COUNT = 4,        /* per reactor; one more never lends its memory */
	RX_ROOM_MIN = 64 << 10,    /* bytes; less room is not worth a system call */
	RX_IDLE_US = 100,          /* a connection is polled so long after its last byte */
	BATCH_MAX = 64,            /* commands of one connection started in one turn */
	TX_IOV_MAX = STREAM_IOV_MAX,
	TX_STAGING = TX_IOV_MAX * (PDU_HEADER_MAX + 32) /
		     2,        /* bytes of headers per gathered send */
	LENT_TURNS_MAX = 3,    /* a device that keeps lent memory longer gets copies */
	LENT_RETRY = 4096,     /* writes copied before lending is tried again */
	CONN_LINGER_MS = 1000, /* to let a terminated host read why */
	PRESSURE_MS = 1000,    /* while commands wait for buffers, look who sits on them */
	DRAIN_MS = 5000,       /* that a graceful disconnect waits for commands in flight */
	HANG_UP_MS = 100,      /* that a change waits for a device once the target stops */
	STALL_MS = 5000,       /* ... without having taken or sent a byte of data for so long */
	R2T_MS = 20000,        /* ... or with data asked for so long ago */
	KATO_GRANULARITY_MS = 1000, /* KAS; timeouts are rounded up to it */
	KATO_DISCOVERY_MS = 120000, /* of a discovery controller that asked for none */
	SMALL_BUF = 4096,           /* bytes each slot of an I/O queue owns at least */
	BOOT_DATA = 1024,           /* bytes the Connect command carries */
	RESV_LINES_MAX = 5, /* lines in our log about changes of one namespace's reservations ... */
	RESV_LINES_S = 60,  /* ... within so many seconds */
	RESV_LOG_MAX = 32,  /* unread reservation notifications of a controller; older ones go */
	TAIL_MAX = PDU_HEADER_MAX + 256 + 16384, /* the longest capsule that is kept in parts */
	ERROR_LOG_MAX = 64,                      /* entries of a controller's error log */
	ERROR_NOTES = 8,                         /* of a connection, on their way there */
	SNAPSHOT_TASKS_MAX = 8,                  /* snapshots being made, all subsystems */
	TEMPERATURE_DEFAULT = 343,               /* kelvin; a threshold nobody measures against */
	TAG_BOOT = 0xffff,                       /* the slot that Connect uses */
};

struct conn;
struct core;
struct ctrlr;

/* ---- a command slot ------------------------------------------------------------------------- */

enum cmd_state {
	CMD_FREE,
	CMD_START,   /* inside cmd_start() */
	CMD_WAIT,    /* for a buffer; linked in core.waiters */
	CMD_R2T_OUT, /* R2T queued */
	CMD_R2T,     /* R2T sent: for the host's data */
	CMD_HELD,    /* subsystem paused; linked in subsys_core.held */
	CMD_FUSED,   /* for the other half, or its data */
	CMD_DEVICE,  /* with the device */
	CMD_PRIMARY, /* with the primary reactor */
	CMD_SEND,    /* response queued */
};

enum cmd_dir {
	CMD_NO_DATA,
	CMD_H2C,     /* host to controller: write */
	CMD_C2H,     /* controller to host: read */
	CMD_SCRATCH, /* needs a buffer, moves nothing (Verify) */
};

/* What is queued for sending. Embedded in cmd and conn. */
enum out_kind { OUT_RESP, OUT_DATA, OUT_DATA_RESP, OUT_R2T, OUT_IC, OUT_TERM };
struct out {
	struct out *next;
	uint32_t size; /* bytes on the wire, known once formatted */
	uint8_t kind;
};

struct cmd {
	struct io io;
	/* hot */
	struct conn *conn;
	struct ns_core *ns;
	uint8_t *buf; /* where the data is: slot, pool or lent receive memory */
	uint32_t len; /* bytes of data to transfer */
	uint32_t got; /* bytes that arrived of them */
	uint16_t tag; /* index in conn->slots, TTAG on the wire */
	uint16_t cid;
	uint16_t status; /* NVMe status with NVME_STATUS_DNR */
	uint16_t sqhd;
	uint8_t state;       /* enum cmd_state */
	uint8_t dir;         /* enum cmd_dir */
	uint8_t is_in_pool;  /* buf came from core->large */
	uint8_t has_digest;  /* ddgst is computed */
	uint8_t is_data_bad; /* the data digest was wrong */
	uint8_t is_via_primary;
	uint8_t is_preempted; /* Preempt and Abort met it while it waited for its data */
	uint8_t fuse;         /* half of a fused pair: which, NVME_CMD_FUSE_*; 0: none */
	uint32_t dw0, dw1;
	uint32_t ddgst;
	uint32_t buf_size; /* bytes at buf; for commands of the primary */
	struct out out;
	struct rx_chunk *lent; /* buf lies in it */
	uint64_t lent_turn;
	/* cold */
	uint64_t r2t_ns;  /* when the R2T was sent */
	struct list link; /* waiters, held */
	struct msg msg;   /* to the primary and back */
	struct nvme_cmd sqe;
	uint32_t ns_generation;  /* of the table when ns was looked up */
	uint16_t range, ranges;  /* dataset management: next and number */
	struct conn *abort_conn; /* Abort: the queue that is searched */
	uint64_t cross_instance; /* Cross-Controller Reset: whose end it waits for */
	struct cmd *mate;        /* the other half of a fused pair, NULL: not there yet */
	struct io_loan loan;     /* of a read: the data lies with the device, not at buf */
};

/* Slots begin with a cache line. Elsewhere a cmd need not: lists compare addresses of none. */
struct slot {
	_Alignas(64) struct cmd cmd;
};

/* ---- one reactor's half --------------------------------------------------------------------- */

struct rx_chunk {
	uint8_t *base;
	uint32_t used;
	uint32_t refs; /* commands whose data lies in it */
	bool may_lend;
	struct rx_chunk *next; /* in core.rx_free */
};

struct core_stats {
	uint64_t commands, buffer_waits, digest_errors, terminated, connect_timeouts;
	uint64_t reads_lent;
};

struct core {
	struct target *target;
	struct reactor *reactor;
	struct poller poller;
	struct list active; /* connections whose recv is tried each turn */
	struct list conns;
	struct list outs; /* connections with something to send */
	struct msg flush;
	bool is_flush_queued;
	unsigned load;            /* the primary's: connections here, but for admin queues */
	uint64_t turn;            /* counts polls and flushes: the age of lent memory */
	struct rx_chunk *rx;      /* the one received into now */
	struct rx_chunk *rx_free; /* last in, first out */
	struct rx_chunk chunk[RX_CHUNK_COUNT + 1]; /* the last one never lends */
	uint8_t *rx_mem;                           /* owned, all chunks */
	struct bufpool large;                      /* io_size_max each */
	uint64_t *large_owner; /* by buffer: whose data alone is in it; 0: mixed */
	struct list waiters;   /* commands without a buffer, in order */
	struct msg waiters_msg;
	bool is_waiters_queued;
	struct timer pressure; /* armed while there are waiters */
	struct iovec *iov;     /* TX_IOV_MAX, owned */
	uint8_t *staging;      /* TX_STAGING, owned */
	struct core_stats stats;
};

enum conn_state {
	CONN_NEW,        /* waits for ICReq */
	CONN_READY,      /* waits for Connect */
	CONN_CONNECTING, /* the primary judges Connect */
	CONN_LIVE,
	CONN_DRAINING,   /* answers what it has; new commands are left unanswered */
	CONN_TERMINATED, /* C2HTermReq is under way; what arrives is thrown away */
	CONN_CLOSED,     /* no stream any more; waits for its commands */
};

/* Of the two neighbours that make a fused pair, see fused.c. */
enum fuse_state {
	FUSE_NONE,
	FUSE_WAITING, /* a first half is there */
	FUSE_FAILED,  /* it was, and is answered */
};

/* Failed commands on their way to the error log, see errlog.c. */
struct error_note {
	uint64_t lba;
	uint32_t nsid;
	uint16_t status, cid;
};
struct error_notes {
	_Atomic uint32_t in, out, lost;
	atomic_bool is_posted;
	struct msg msg;
	struct error_note note[ERROR_NOTES];
};

/* What the primary decided about a Connect; read by the reactor when the command comes back. */
struct connect_result {
	struct subsys_core *sc;
	const _Atomic uint8_t *denied;
	uint16_t qid, sqsize; /* entries */
	bool is_flow_controlled;
};

struct conn {
	/* hot */
	struct core *core;
	struct stream *stream; /* owned; NULL once closed */
	struct list active_link, out_link, link;
	struct slot *slots; /* owned, ncmds */
	uint16_t *free;     /* stack of free tags, owned */
	uint16_t nfree, ncmds;
	uint16_t qid, sqhd, sqsize;
	uint16_t silent; /* completions the host saw without an SQHD */
	uint8_t state;
	uint8_t fuse_state; /* enum fuse_state */
	bool is_send_blocked;
	bool is_flow_controlled;
	uint8_t data_align; /* of data in C2HData, bytes - 1 */
	struct pdu_rules rules;
	struct subsys_core *sc; /* NULL before Connect */
	/* By NSID - 1, RESV_DENY_*: the controller's, which outlives what is done on this queue. */
	const _Atomic uint8_t *denied;
	uint64_t ana_blocked; /* groups that are not for this path: bit 0 is group 1 */
	uint8_t *bufs;        /* owned, ncmds * buf_size */
	uint32_t buf_size;
	uint32_t borrow_min; /* bytes of a read that is sent from where it lies */
	uint32_t busy;       /* commands with a device or the primary */
	uint32_t pool_held;  /* buffers of core->large */
	uint64_t serial;     /* unlike any other connection's, never 0 */
	uint64_t last_tx_ns, last_h2c_ns;
	_Atomic uint64_t last_rx_ns; /* read by the keep-alive timer on the primary */

	/* sending */
	struct out *out_head, **out_tail;
	uint32_t out_skip; /* bytes of the head that are sent */

	/* receiving host data */
	struct cmd *h2c; /* command whose data is arriving, NULL: none */
	uint8_t *h2c_at;
	uint32_t h2c_left;        /* bytes of data */
	uint32_t h2c_digest_left; /* bytes of digest */
	uint32_t h2c_crc;
	uint8_t h2c_digest[NVME_TCP_DIGEST_SIZE];

	/* received, not judged yet: the batch was full */
	struct rx_chunk *rest_chunk; /* counted; NULL: none */
	uint8_t *rest_at;
	size_t rest_len;
	uint32_t batch_left;

	uint32_t tail_len;
	uint8_t tail[TAIL_MAX]; /* the beginning of a PDU that is not complete */

	struct cmd *fuse_first; /* while FUSE_WAITING */

	/* life */
	struct msg msg;       /* birth, unlinking, death: one at a time */
	struct msg close_msg; /* primary to reactor */
	struct error_notes errors;
	struct msg drain_msg; /* primary to reactor: drain; and back: drained */
	bool is_drained;      /* has been said */
	bool is_unlinked;     /* the primary has let go of it */
	uint8_t listener;     /* its controller's, by number; of a stranger the one it came over */
	_Atomic bool is_acre; /* the host honours retry delays; written by the primary */
	struct timer timer;   /* connect, then linger */
	struct cmd boot;      /* the Connect command */
	uint8_t boot_data[BOOT_DATA];
	struct connect_result result;
	struct out ic_out, term_out;
	struct nvme_tcp_ic ic;
	struct nvme_tcp_term term;
	uint8_t term_data[NVME_TCP_TERM_DATA_MAX];
	uint32_t term_data_len;
	char peer[STREAM_ADDR_MAX], local[STREAM_ADDR_MAX];

	/* the primary's */
	struct target *target;
	struct ctrlr *ctrlr;       /* NULL: not linked */
	struct subsystem *counted; /* whose conns count includes this one */
	uint16_t linked_qid;
	bool is_close_posted;
	bool is_load;             /* counted in core->load */
	uint64_t memory;          /* bytes counted in target->conn_memory */
	struct list counted_link; /* subsystem.conn_list */
	struct fence *fence;      /* somebody waits for its end; NULL: nobody */
	uint64_t instance;        /* of its controller, which may be gone before it; 0: none */
	char hostnqn[TARGET_NQN_MAX + 1]; /* whose it is; so the next */
	uint8_t hostid[16];
};

/* Which groups a listener's hosts cannot use, and why. Bit 0 is group 1. */
struct ana_masks {
	uint64_t blocked; /* any of the three */
	uint64_t lost;    /* persistent loss */
	uint64_t changing;
};

/* Where namespaces go whose device has ended: inaccessible on every path, for good. */
enum { ANA_GROUP_ENDED = TARGET_ANA_GROUPS_MAX + 1 };
static_assert(ANA_GROUP_ENDED <= 64, "a bit for each group in conn.ana_blocked");

static inline uint64_t ana_bit_of(uint32_t group)
{
	return 1ull << (group - 1);
}

/* A subsystem on one reactor. */
struct subsys_core {
	struct subsystem *subsystem;
	struct reactor *reactor;
	struct ana_masks ana[TARGET_LISTENERS_MAX]; /* without ANA: ANA_GROUP_ENDED only */
	struct ns_core *ns[TARGET_NAMESPACES_MAX];  /* by NSID - 1; owned by struct ns */
	uint32_t ns_generation;                     /* counts changes of ns[] */
	struct list held;                           /* commands of namespaces that are on hold */
};

/* What becomes of commands that would go to a namespace's device, see hold.c. */
enum hold {
	HOLD_NO,    /* they go there */
	HOLD_STAY,  /* they are held until somebody says so */
	HOLD_DRAIN, /* they are held until those before them have ended */
};

struct ns_core {
	struct handle *handle; /* borrowed from the ns' desc */
	uint32_t inflight;     /* commands with the device */
	uint32_t copy_left;    /* writes to copy before lending again */
	uint16_t write_flags;  /* added to every write */
	uint8_t shift;         /* log2 of the block size */
	bool never_lend;       /* device wants aligned memory */
	bool fills_reads;      /* proven: a read overwrites the whole buffer */
	bool is_reserved;      /* some hosts may not do everything: look at conn->denied */
	uint8_t hold;          /* enum hold */
	bool is_idle_awaited;
	uint32_t generation; /* of the table when it came in */
	uint64_t ana_bit;    /* of its group, as in conn.ana_blocked */
	struct ns *ns;
	struct msg idle_msg; /* to the primary: inflight reached 0 while that was awaited */
};

/* ---- the primary's half --------------------------------------------------------------------- */

/* What is reserved, and where that is written down. */
struct ns_resv {
	struct resv state;
	char *path;         /* owned; NULL: does not survive a restart */
	int lock_fd;        /* owned, while there is a path; -1: none */
	uint8_t notice_off; /* feature 82h: bit n masks notices of type n */
	/* lines about changes: when the interval began, how many are written, and kept back */
	uint64_t lines_since_ns;
	uint32_t lines, lines_kept;
};

struct ns {
	uint32_t nsid;
	struct device *dev; /* borrowed through desc */
	struct desc *desc;  /* owned */
	struct subsystem *subsystem;
	struct ns_core *cores; /* owned, one per reactor */
	struct ns_resv resv;
	uint32_t ana_group; /* 1 ... TARGET_ANA_GROUPS_MAX, or ANA_GROUP_ENDED */
	unsigned holds;
	struct wait *wait; /* of a hold that begins; NULL: none does */
	bool is_lost;      /* its device was removed; a task takes it out */
	bool is_ended;     /* its device ended; a task closes its path */
};

struct subsystem {
	struct list link; /* target.subsystems */
	struct target *target;
	char nqn[TARGET_NQN_MAX + 1];
	char serial[SUBSYSTEM_SERIAL_SIZE];
	struct uuid uuid;
	bool is_discovery;
	bool is_removing;
	struct ns *ns[TARGET_NAMESPACES_MAX];
	enum subsystem_kind kind;
	struct ana *ana; /* owned; NULL: not reported */
	bool is_any_host;
	char **allowed_hosts; /* owned, as the strings; not looked at while is_any_host */
	unsigned allowed_host_count;
	struct list conn_list;        /* connections that count in conns */
	struct list resets;           /* Cross-Controller Reset commands that wait (cross.c) */
	struct task_mutex fence_lock; /* one waits at a time (disconnect.c) */
	struct list ctrlrs;
	unsigned ctrlr_count;
	uint16_t cntlid_min, cntlid_max, cntlid_next;
	bool said_no_cache;      /* some controller was told that there is no volatile cache */
	unsigned conns;          /* connections that may still point here */
	unsigned tasks;          /* tasks that will look at it again */
	struct list resv_ctrlrs; /* with commands that change reservations: their turn, in order */
	bool is_resv_running;    /* a task works on them */
	struct task_event *gone; /* fired when conns and tasks reached 0 */
	struct task_mutex control;
	unsigned pause_count;      /* holds that namespaces get which are added */
	struct subsys_core *cores; /* owned, one per reactor */
};

struct target {
	struct target_opts opts;
	struct core *cores; /* owned, one per reactor */
	unsigned core_count, next_core;
	struct listener *listeners[TARGET_LISTENERS_MAX];
	unsigned listener_count;
	struct list subsystems;
	unsigned subsystem_count;
	struct subsystem *discovery;
	uint64_t genctr; /* of the discovery log */
	unsigned conns;
	bool is_stopping;
	struct wait *gone;       /* for conns to reach 0; NULL: nobody waits */
	struct list waits;       /* struct wait */
	struct timer reap_timer; /* tries again to spawn a clean-up task */
	uint64_t conns_accepted, conns_refused, keep_alive_timeouts;
	uint64_t connects_refused, idle_timeouts;
	uint64_t conn_memory, conn_memory_peak; /* bytes */
	uint64_t started_ns;
	target_snapshot_fn snapshot; /* NULL: nobody makes snapshots */
	void *snapshot_owner;
	unsigned snapshot_tasks;
};

/* Notifications that the host has not read yet, oldest first: a ring. */
struct resv_log {
	uint64_t count; /* ever made: the number of the newest */
	unsigned first, used;
	struct resv_log_entry {
		uint64_t number;
		uint32_t nsid;
		uint8_t type; /* enum nvme_resv_notice */
	} entry[RESV_LOG_MAX];
};

struct ctrlr {
	struct list link; /* subsystem.ctrlrs */
	struct subsystem *subsystem;
	uint16_t cntlid;
	char hostnqn[TARGET_NQN_MAX + 1];
	uint8_t hostid[16];
	uint32_t cc, csts;
	uint32_t kato_ms;
	struct timer kato_timer;
	struct conn *queue[TARGET_QUEUES_MAX + 1]; /* [0] is the admin queue */
	unsigned nqueues;
	unsigned drain_left; /* queues that have commands in flight */
	bool is_closing, is_draining;
	uint8_t ciu;           /* tells instances of one id apart, with: */
	uint64_t instance;     /* CIRN: random, never 0 */
	unsigned ncross;       /* of its commands in ss->resets */
	uint8_t listener;      /* the one its admin queue came over, by number */
	bool is_acre;          /* the host honours retry delays (Host Behavior Support) */
	uint32_t async_config; /* feature 0Bh */
	struct cmd *aer[ADMIN_AER_MAX];
	unsigned naer;
	uint8_t changed[TARGET_NAMESPACES_MAX / 8]; /* NSIDs - 1 of the changed namespace list */
	bool is_ns_event_due, is_ns_event_masked;
	bool is_disc_event_due, is_disc_event_masked;
	bool is_resv_event_masked; /* one is due while resv_log is not empty */
	struct resv_log resv_log;
	struct list resv_cmds, resv_link; /* commands that wait; in subsystem.resv_ctrlrs if any */
	/* By NSID - 1: RESV_DENY_* and RESV_ABORTING. Written by the primary, read by the
	 * reactors of its queues. */
	_Atomic uint8_t denied[TARGET_NAMESPACES_MAX];
	bool is_ana_event_due, is_ana_event_masked;
	uint16_t temp_threshold[2]; /* kelvin; over, under */
	uint64_t timestamp_ms;      /* feature 0Eh: as set, 0 before */
	uint64_t timestamp_ns;      /* when that was */
	bool has_timestamp;
	struct nvme_error_entry errors[ERROR_LOG_MAX]; /* a ring */
	uint64_t error_entries;                        /* put there */
	uint64_t error_count; /* with those that found no room on the way */
};

/* ---- target.c ------------------------------------------------------------------------------- */

/* Primary: a connection is dead; drop it from the counts and free it. */
void target_conn_gone(struct conn *conn);
/* Primary: the set of subsystems or listeners changed. */
void target_discovery_changed(struct target *target);

/* ---- subsystem.c ---------------------------------------------------------------------------- */

bool subsystem_allows(const struct subsystem *ss, const char *hostnqn);
void subsystem_put_conn(struct subsystem *ss);
/* A task counted in ss->tasks is done with @ss. */
void subsystem_put_task(struct subsystem *ss);
/* Primary: take out the namespaces whose devices are gone. */
void subsystem_reap(struct target *target);
/* Without ANA, and every namespace has ended: no host gets anywhere here. */
bool subsystem_is_over(const struct subsystem *ss);
/*
 * For who changes @ss: take ss->control, and count in ss->tasks until it is given back. -ENODEV: it
 * is being removed. Behind subsystem_leave() @ss may be gone.
 */
int subsystem_enter(struct subsystem *ss, struct err *err) MAY_SUSPEND WARN_UNUSED;
void subsystem_leave(struct subsystem *ss);

static inline struct ns *subsystem_ns(const struct subsystem *ss, uint32_t nsid)
{
	return nsid - 1 < TARGET_NAMESPACES_MAX ? ss->ns[nsid - 1] : NULL;
}

/* ---- hold.c --------------------------------------------------------------------------------- */

/* A task waits until something was counted down, but no longer than devices may take. */
struct wait {
	unsigned left;
	uint32_t limit_ms; /* 0: it was ended before */
	bool is_late;
	struct task_event event;
	struct timer timer;
	struct list link; /* in target.waits */
};

/* True: left reached 0. False: it took longer than @limit_ms, or the target stops. */
bool wait_for(struct target *target, struct wait *wait, uint32_t limit_ms) MAY_SUSPEND WARN_UNUSED;
/* How long devices may take: device_timeout_ms, little once the target stops. */
uint32_t wait_limit_ms(const struct target *target);
void wait_one(struct wait *wait);
/* Whoever waits gives up. */
void wait_end_all(struct target *target);

/* Commands that a device did not let go of, by NSID - 1. */
struct stuck {
	uint32_t commands[TARGET_NAMESPACES_MAX];
	uint64_t total;
	uint32_t waited_ms; /* for the text; 0: not said */
};
void stuck_add(struct stuck *stuck, uint32_t nsid, uint32_t commands);
/* -ETIMEDOUT with the device's name in @err. */
int stuck_tell(const struct subsystem *ss, const struct stuck *stuck, struct err *err);

/*
 * With ss->control held: hold new commands of @ns and wait for those with its device. They nest.
 * -ETIMEDOUT: its device does not let go of some; nothing is on hold then.
 */
int ns_hold(struct ns *ns, struct err *err) MAY_SUSPEND WARN_UNUSED;
void ns_let_go(struct ns *ns) MAY_SUSPEND;
/*
 * With ss->control held: wait for what is with devices now of namespaces in @groups (bit 0 is group
 * 1; 0: all). -ETIMEDOUT.
 */
int subsystem_drain(struct subsystem *ss, uint64_t groups, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* On the reactor: the last command left the device, and that is awaited. And: @nc is not on hold
 * any more, also because it has left the table. */
void ns_core_idle(struct subsys_core *sc, struct ns_core *nc);
void ns_core_go_on(struct subsys_core *sc, struct ns_core *nc);

/* ---- ctrlr.c -------------------------------------------------------------------------------- */

struct ctrlr *ctrlr_new(struct subsystem *ss, const char *hostnqn, const uint8_t hostid[16]);
struct ctrlr *ctrlr_find(struct subsystem *ss, uint16_t cntlid);
void ctrlr_link(struct ctrlr *ctrlr, struct conn *conn, uint16_t qid);
/* A connection is closing: out of its controller; without an admin queue that ends as well. */
void ctrlr_unlink(struct conn *conn);
/* Close all its connections; it is freed when the last has gone. */
void ctrlr_close(struct ctrlr *ctrlr);
/* The same once its commands are answered, or DRAIN_MS later. */
void ctrlr_drain(struct ctrlr *ctrlr);
void ctrlr_set_kato(struct ctrlr *ctrlr, uint32_t kato_ms);
uint64_t ctrlr_cap(const struct target *target);
/* Are its commands still carried out? Also while it drains; not where it is gone (NULL). */
static inline bool ctrlr_may_command(const struct ctrlr *ctrlr)
{
	return ctrlr != NULL && (!ctrlr->is_closing || ctrlr->is_draining);
}
/* Property Set of CC. */
void ctrlr_set_cc(struct ctrlr *ctrlr, uint32_t cc);
void ctrlr_ns_changed(struct ctrlr *ctrlr, uint32_t nsid);
void ctrlr_discovery_changed(struct ctrlr *ctrlr);
void ctrlr_ana_changed(struct ctrlr *ctrlr);
/* Complete waiting Asynchronous Event Requests with what is due. */
void ctrlr_send_events(struct ctrlr *ctrlr);
void ctrlr_abort_events(struct ctrlr *ctrlr);

/* ---- ana.c ---------------------------------------------------------------------------------- */

/* -EINVAL, -ENOMEM. Without opts->has_ana there is nothing to do. */
int ana_init(struct subsystem *ss, const struct subsystem_opts *opts, struct err *err);
void ana_done(struct subsystem *ss);
/* Primary: @ns joined or left its group. */
void ana_ns_changed(const struct ns *ns);
/* With ss->control held: if subsystem_is_over(), its controllers end. */
void subsystem_end_hosts(struct subsystem *ss);
/* With ss->control held: the device of @ns ended. Its path is closed, hosts are told. */
void ana_ns_ended(struct ns *ns) MAY_SUSPEND;
void ana_identify_ctrl(const struct subsystem *ss, struct nvme_id_ctrl *id);
/* What Identify Namespace says: 0 without ANA. */
uint32_t ana_identify_group(const struct ns *ns);
/* The log page, malloc'd; NULL: no memory. Only with ANA. */
void *ana_log(const struct ctrlr *ctrlr, bool is_groups_only, size_t *ret_size);
/* On the reactor: why a command's group is blocked, as NVMe status. */
uint16_t ana_io_status(const struct cmd *cmd);

/* ---- hosts.c -------------------------------------------------------------------------------- */

/* "nqn." and something behind it, TARGET_NQN_MAX bytes at most. */
bool nqn_is_good(const char *nqn);
/* Take over the list. -EINVAL, -ENOSPC, -ENOMEM. */
int hosts_init(struct subsystem *ss, const char *const *hosts, unsigned count, struct err *err);
void hosts_done(struct subsystem *ss);

/* ---- cross.c -------------------------------------------------------------------------------- */

void cross_init(struct ctrlr *ctrlr);
void cross_identify(const struct ctrlr *ctrlr, struct nvme_id_ctrl *id);
/* Cross-Controller Reset. */
void cross_reset(struct ctrlr *ctrlr, struct cmd *cmd);
/* A connection of that controller is dead and out of the subsystem's list. */
void cross_conn_gone(struct subsystem *ss, uint64_t instance);
/* An admin queue ends: give back what waits there. */
void cross_abort(struct ctrlr *ctrlr, struct conn *conn);
/* Log page DEh: what dead connections of the same host left; malloc'd, NULL: no memory. */
void *leftover_log_page(const struct ctrlr *ctrlr, size_t *ret_size);

/* ---- disconnect.c --------------------------------------------------------------------------- */

/* Primary: wait until no connection of a controller that is closing is left. -ETIMEDOUT: a device
 * does not let go of a command of theirs. */
int fence_wait(struct subsystem *ss, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* Count what devices hold of connections of @ss that are closed. */
void fence_find_stuck(struct subsystem *ss, struct stuck *stuck) MAY_SUSPEND;
/* Primary: a connection is dead. */
void fence_conn_gone(struct conn *conn);
/* On the reactor of a connection that drains: is there anything left? */
void conn_check_drained(struct conn *conn);
void conn_drain(struct msg *msg);

/* ---- limits.c ------------------------------------------------------------------------------- */

int limits_check(const struct target_opts *opts, struct err *err);
/* Bytes that a connection takes at once, and with a queue of @entries, an admin queue with its
 * controller. */
uint64_t limits_conn_memory(void);
uint64_t limits_queue_memory(const struct target_opts *opts, uint16_t qid, uint32_t entries);
/* May one more connection of an unknown host come in? */
bool limits_admit(const struct target *target);
/* May this host have a queue of @entries? 0 or an NVMe status; logs the limit. */
uint16_t limits_connect(struct conn *conn, const struct subsystem *ss, const char *hostnqn,
			uint16_t qid, uint32_t entries);
/* Count memory that @conn takes, until limits_release(). */
void limits_charge(struct conn *conn, uint64_t bytes);
void limits_release(struct conn *conn);
/* Where the next connection shall live. */
struct core *limits_pick_core(struct target *target);
/* @conn turned out to be an admin queue: it is no load. */
void limits_is_admin(struct conn *conn);

/* ---- crd.c ---------------------------------------------------------------------------------- */

/* Which delay an error of @kind's device carries: 1 to 3. */
unsigned crd_index(enum subsystem_kind kind, uint16_t io_status);
/* On the reactor: the CRD bits of a command's error. */
uint16_t crd_bits(const struct cmd *cmd, uint16_t io_status);
/* Feature 16h; 0 or an NVMe status. */
uint16_t crd_get_behavior(const struct ctrlr *ctrlr, struct cmd *cmd);
uint16_t crd_set_behavior(struct ctrlr *ctrlr, const struct cmd *cmd);
void crd_enable(struct ctrlr *ctrlr, bool is_acre);

/* ---- commands on the primary: admin.c, fabrics.c, identify.c, log.c, discovery.c ------------ */

/* Each sets cmd->status, dw0 and, for data to the host, cmd->len <= what the host asked for. */
void admin_execute(struct cmd *cmd);
void fabrics_execute(struct cmd *cmd);
void identify_execute(struct ctrlr *ctrlr, struct cmd *cmd);
void log_execute(struct ctrlr *ctrlr, struct cmd *cmd);
/* The discovery log as @host sees it over @conn; malloc'd, NULL: no memory. */
struct nvme_discovery_log *discovery_log(struct target *target, const struct ctrlr *ctrlr,
					 const struct conn *conn, size_t *ret_size);
/* Send a command that the primary finished back to its reactor. */
void cmd_return(struct cmd *cmd);
/* The same with a status, to which an error adds that trying again is in vain. */
void cmd_finish(struct cmd *cmd, uint16_t status);
/* Give @len bytes at @data to the host, cut to what it asked for. */
void cmd_reply(struct cmd *cmd, const void *data, size_t len);

/* ---- errlog.c, log_pages.c, snapshot.c ------------------------------------------------------ */

/* On the connection's reactor: cmd ended with cmd->status. */
void error_note(const struct cmd *cmd);
/* Primary; malloc'd, NULL: no memory. */
void *error_log_page(const struct ctrlr *ctrlr, size_t *ret_size);
void *supported_log_page(const struct subsystem *ss, size_t *ret_size);
void *feature_effects_page(size_t *ret_size);
/* Primary: the vendor command; answers later. */
void snapshot_execute(struct ctrlr *ctrlr, struct cmd *cmd);

/* ---- commands on their reactor: cmd.c ------------------------------------------------------- */

/* A command capsule arrived, cmd->sqe is set; @data lies in @chunk and is valid during the call. */
void cmd_start(struct cmd *cmd, const uint8_t *data, uint32_t data_len, bool is_data_good,
	       struct rx_chunk *chunk);
/* All of the host's data arrived (after R2T). */
void cmd_data_ready(struct cmd *cmd);
/* Answer with NVMe status; data goes along when the status is success. */
void cmd_complete(struct cmd *cmd, uint16_t status);
/* Its buffers and its slot are free again. */
void cmd_release(struct cmd *cmd);
/* Let go of every command that is not elsewhere; of those queued for sending only if @is_closed. */
void cmd_drop_all(struct conn *conn, bool is_closed);
/* Memory for its data, now or when there is some; then the data is asked for. */
void cmd_fetch(struct cmd *cmd);
/* Send it to the primary. */
void cmd_post(struct cmd *cmd);
/* Stop lending the receive buffer: move the data into the slot's own memory. */
void cmd_take_data(struct cmd *cmd);
void rx_chunk_put(struct core *core, struct rx_chunk *chunk);
void core_run_waiters(struct msg *msg);

/* ---- I/O commands: io.c --------------------------------------------------------------------- */

/* Check the command, find namespace, direction and length. 0 or an NVMe status. */
uint16_t io_cmd_check(struct cmd *cmd);
/* The data is in place: give it to the device, or hold it while the subsystem is paused. */
void io_cmd_submit(struct cmd *cmd);
/* Is it wise to let the device read straight from the receive buffer? */
bool io_cmd_may_lend(const struct cmd *cmd);

/* The NVMe status, with the do-not-retry bit, for how a request ended. */
uint16_t io_cmd_status(const struct cmd *cmd, uint16_t status);
void io_cmd_hold(struct cmd *cmd);
/* Did what it was checked against change since? 0: it may go on, else an NVMe status. */
uint16_t io_cmd_recheck(struct cmd *cmd);
/* It is with the device. And: one that was is not any more, and answered. */
void io_cmd_pending(struct cmd *cmd);
void io_cmd_left(struct conn *conn, struct ns_core *ns);

/* ---- fused pairs: fused.c ------------------------------------------------------------------- */

/* A capsule came that is half of a pair (@fuse), or follows one; @status is what its own checks
 * say. Returns its status: 0, it goes on. */
uint16_t fused_arrived(struct cmd *cmd, unsigned fuse, uint16_t status);
/* A good half whose data did not come along. */
void fused_start(struct cmd *cmd);
/* The data of a half is in place, or the pair was held. */
void fused_ready(struct cmd *cmd);
/* No capsule will come any more: a first half is dropped, unanswered as the second one would be. */
void fused_forget(struct conn *conn);
/* Take a half back, and the other with it. False: too late. */
bool fused_abort(struct cmd *cmd);

/* ---- reservations: resv_ns.c ---------------------------------------------------------------- */

enum { RESV_ABORTING = 1 << 7 }; /* in ctrlr.denied while Preempt and Abort runs */

/* Find the namespace's reservations, on disk if it has any there. */
int resv_ns_open(struct ns *ns, struct err *err) MAY_SUSPEND WARN_UNUSED;
void resv_ns_done(struct ns *ns);
/* The namespace joins its subsystem / the controller joins: who may do what on it. */
void resv_ns_joins(struct ns *ns);
void resv_ctrlr_joins(struct ctrlr *ctrlr);
/* Its connections are gone: nobody waits for what its commands would have done. */
void resv_ctrlr_leaves(struct ctrlr *ctrlr);
/* A reservation command arrived on an I/O queue: direction and length. 0 or an NVMe status. */
uint16_t resv_cmd_check(struct cmd *cmd);
/* On the I/O path, only where ns_core.is_reserved: may the host not do this? */
bool resv_cmd_is_denied(const struct cmd *cmd);
/* Primary: carry out a reservation command, or Set Features 83h, and send it back. */
void resv_execute(struct cmd *cmd);
/* Features 82h and 83h. 0 or an NVMe status without DNR. */
uint16_t resv_feature_get(const struct ctrlr *ctrlr, const struct cmd *cmd, uint8_t fid,
			  uint32_t *ret_value);
uint16_t resv_feature_mask(struct ctrlr *ctrlr, const struct cmd *cmd, uint32_t value);
/* RESCAP of Identify Namespace. */
uint8_t resv_capabilities(const struct ns *ns);
/* Log page 80h: the oldest notification; NULL: no memory. And: it was read, it goes. */
void *resv_log_page(const struct ctrlr *ctrlr, size_t *ret_size);
void resv_log_read(struct ctrlr *ctrlr);
/* A controller level reset. */
void resv_log_reset(struct ctrlr *ctrlr);

/* ---- transport: tcp.c, tcp_tx.c, tcp_conn.c ------------------------------------------------- */

unsigned core_poll(struct poller *poller);
bool core_arm(struct poller *poller);
void core_flush(struct msg *msg);

/* Primary: make a connection for a stream and send it to a reactor. */
int conn_new(struct target *target, struct core *core, struct stream *stream, unsigned listener);
/* On its reactor. */
void conn_close(struct conn *conn);
void conn_broke(const struct conn *conn, int error);
void conn_terminate(struct conn *conn, const struct pdu_fault *fault, const uint8_t *header,
		    size_t len);
void conn_activate(struct conn *conn);
void conn_drop_rest(struct conn *conn);
/* A busy command ended: free the connection if it was the last thing it waited for. */
void conn_put_busy(struct conn *conn);
/* The Connect command came back from the primary with success. 0 or a negative errno. */
int conn_go_live(struct conn *conn);
void conn_queue_out(struct conn *conn, struct out *out, enum out_kind kind);
void conn_out_reset(struct conn *conn);
/* Everything of the TermReq is in the kernel. */
void conn_term_sent(struct conn *conn);

/* Bytes of memory that each slot of an I/O queue has; a half of a fused pair must fit. */
static inline uint32_t fused_size_max(const struct target_opts *opts)
{
	return MAX(opts->in_capsule_size, (uint32_t)SMALL_BUF);
}

static inline struct cmd *out_cmd(struct out *out)
{
	return container_of(out, struct cmd, out);
}

#endif
