/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ctrlr.h - what the files of the initiator's control half share. Nobody outside includes it.
 *
 *   head (a device)  1 --- n  path  n --- 1  ctrlr  1 --- 1  admin queue    primary reactor
 *     |                                        |
 *     | 1 per reactor                          | 1 per reactor, on demand
 *   chan ------------- view: usable ---------> ioq                          their reactor
 *
 * Owner:  a head owns its paths; a path counts its ctrlr; a ctrlr owns its queues; a chan counts
 *         the ioqs of its head's paths.
 * Thread: all of it is the primary reactor's but for chan and ioq, whose parts say whose they are.
 * Rules:  ctrlr->lock is held by whoever connects or disconnects one of its queues. Nothing that
 *         holds it takes a lock of the device layer or waits for I/O of a device.
 */
#ifndef ASHLAR_DRIVERS_NVMF_CTRLR_H
#define ASHLAR_DRIVERS_NVMF_CTRLR_H

#include <stdatomic.h>
#include <string.h>

#include "base/units.h"
#include "device/driver.h"
#include "drivers/nvmf/ident.h"
#include "drivers/nvmf/opts.h"
#include "drivers/nvmf/queue.h"
#include "reactor/task.h"

enum {
	CTRLRS_MAX = 1024,      /* of a process */
	CTRLR_WORKERS_MAX = 16, /* tasks at work on controllers at once; further ones wait */
	ADMIN_DEPTH = 32,       /* entries of an admin queue */
	AERS_MAX = 2,           /* event requests kept with a controller */
	FENCES_MAX = 16,        /* lost associations of one subsystem and host that may still act */
	VIEW_ACTING_MAX = FENCES_MAX + 2 * PATHS_MAX,
	NVMF_TRIES_MAX = 8, /* how often one request is sent before its error is believed */
};

#define NVMF_LOOK_AGAIN_NS NS_PER_S /* after what should have been read could not be */

struct nvmf_head;
struct nvmf_chan;
struct nvmf_fence;

/* ---- controller --------------------------------------------------------------------------- */

enum ctrlr_state {
	CTRLR_NEW,
	CTRLR_CONNECTING,
	CTRLR_LIVE,
	CTRLR_RESETTING, /* no connection; the next attempt is due later */
	CTRLR_DEAD,      /* given up */
	CTRLR_DELETING,
	CTRLR_STATE_COUNT_,
};

/* Work for the controller's worker. */
enum ctrlr_kick {
	KICK_LOST = 1 << 0,    /* a queue went down */
	KICK_RESET = 1 << 1,   /* someone asks for it */
	KICK_CONNECT = 1 << 2, /* the next attempt is due */
	KICK_GIVE_UP = 1 << 3, /* a late command, on_timeout=remove */
	KICK_RESCAN = 1 << 4,  /* namespaces changed */
	KICK_ANA = 1 << 5,
	KICK_HEALTH = 1 << 6, /* SMART or error event */
	KICK_ERROR_LOG = 1 << 7,
	KICK_RESERVATION = 1 << 8,
	KICK_DELETE = 1 << 9,
	KICK_LOSS_DUE = 1 << 10, /* ctrl_loss has passed */
};

struct ctrlr_stats {
	uint64_t connects;   /* associations made */
	uint64_t lost;       /* connections lost */
	uint64_t attempts;   /* to reconnect, failed ones included */
	uint64_t late_admin; /* admin commands that timed out */
	uint64_t events;     /* asynchronous ones */
	uint64_t retries;    /* requests of its channels that were sent again; so the next: */
	uint64_t late;       /* commands that timed out. Both of queues that are gone */
	uint64_t outage_ns;  /* sum of all times without connection */
};

struct nvmf_ctrlr {
	struct nvmf_opts opts;                         /* of the URI that came first */
	char name[NVMF_HOST_MAX + NVME_NQN_SIZE + 16]; /* for messages */
	char addr[NVMF_HOST_MAX];                      /* numeric, of the last attempt */
	struct list link;                              /* in the table */
	unsigned refs;                                 /* paths, and whoever creates one */
	enum ctrlr_state state;
	bool is_discovery;
	bool is_leaving; /* the last reference went: attempts end early */

	struct queue *admin;                      /* owned */
	struct task_event *admin_up, *admin_down; /* who waits for it */
	int admin_result;
	struct msg_list admin_waiting; /* pass-through commands that found the queue full */
	struct slot *aer[AERS_MAX];
	unsigned aer_due;       /* bit per aer[]: it goes out again when aer_timer fires */
	struct timer aer_timer; /* the second of too many events is over */
	uint64_t aer_second_ns; /* when it began */
	unsigned aer_count;     /* events in it */
	struct timer keep_alive;
	bool has_keep_alive_out; /* one was sent and is not answered */
	unsigned keep_alive_age; /* for so many ticks */

	uint16_t cntlid;
	uint32_t entries_max; /* of an I/O queue: CAP.MQES, not 0's based */
	uint16_t nqueues;     /* I/O queues granted, 0: not connected yet */
	struct nvmf_ctrl_info info;
	struct ana_group *groups; /* owned; info.nanagrpid of them */
	unsigned ngroups;
	struct timer again;   /* to look once more */
	unsigned again_kicks; /* enum ctrlr_kick: at what */

	struct list ioqs;
	struct list paths;

	struct task_mutex lock;
	unsigned kicks;             /* enum ctrlr_kick */
	bool is_queued;             /* waits for a worker or has one */
	struct list work;           /* in the line for a worker */
	struct timer retry;         /* next attempt */
	struct timer loss;          /* when to give up */
	struct task_event *deleted; /* who waits for the end */
	struct list waiters;        /* struct ctrlr_wait: for the end of an attempt */
	struct msg_list resets;     /* IO_RESETs to be answered after the reset */

	uint64_t lost_ns;    /* when the connection was lost; 0: it was not */
	unsigned attempt;    /* since then */
	uint32_t serial;     /* of the association that is or is being made, 0: none (fence.c) */
	bool has_lost_write; /* on a queue of it that is gone */
	unsigned fencing;    /* tasks that end another controller through this one */
	struct nvmf_fence *spare; /* owned */
	struct err why;           /* the last failure */
	struct ctrlr_stats stats;
};

/* An I/O queue of a controller on one reactor. */
struct nvmf_ioq {
	struct nvmf_ctrlr *ctrlr; /* primary; constant */
	struct reactor *reactor;
	uint16_t qid;
	struct queue *q; /* owned; the reactor's */
	struct list link;
	unsigned refs; /* channels */

	/* primary: the hand-shake with the reactor */
	bool is_open; /* connected or being connected */
	struct task_event *up, *down;
	int result;
	struct err err;
	/* the reactor's, posted to the primary */
	struct msg up_msg, down_msg, kick_msg;
	_Atomic unsigned kick; /* what kick_msg is to say */
	atomic_bool is_kicking, is_abort_posted;
	int down_reason;

	/* the reactor's; the primary's while the queue is down */
	uint32_t serial;     /* of the association it was connected for */
	bool has_lost_write; /* a write was sent and not answered */

	/* the reactor's */
	struct nvmf_dsm *dsm;  /* owned: by slot */
	struct list waiters;   /* channels that wait for room */
	struct slot *aborting; /* the command that an Abort was sent for */
	uint16_t abort_cid;
	struct msg abort_msg;
	_Atomic uint64_t retries, late;       /* written here, read by the primary */
	uint64_t late_ns;                     /* when the last one was found */
	_Alignas(64) atomic_bool has_traffic; /* since the last keep alive tick */
};

struct ctrlr_wait {
	struct list link;
	struct task_event event;
};

/* Find or make the controller of @opts, bring it up, count it. Fails with what the target said. */
int ctrlr_get(const struct nvmf_opts *opts, struct nvmf_ctrlr **ret,
	      struct err *err) MAY_SUSPEND WARN_UNUSED;
/* For one that could not be brought up (@why): it is tried again like one that was lost. */
int ctrlr_get_later(const struct nvmf_opts *opts, const struct err *why, struct nvmf_ctrlr **ret,
		    struct err *err) WARN_UNUSED;
/* The last one disconnects it and frees it. NULL is fine. */
void ctrlr_put(struct nvmf_ctrlr *c) MAY_SUSPEND;
/* A controller of its own, to ask for one page and put again. */
int ctrlr_get_discovery(const struct nvmf_opts *opts, struct nvmf_ctrlr **ret,
			struct err *err) MAY_SUSPEND WARN_UNUSED;
void ctrlr_kick(struct nvmf_ctrlr *c, unsigned kicks);
/* The same after @delay_ns, or sooner; a lost connection ends it. */
void ctrlr_kick_later(struct nvmf_ctrlr *c, unsigned kicks, uint64_t delay_ns);
const char *ctrlr_state_name(enum ctrlr_state state);
bool ctrlr_may_go(enum ctrlr_state from, enum ctrlr_state to);
/* All usable facts of a controller changed: its heads look again. */
void ctrlr_refresh_heads(struct nvmf_ctrlr *c);

/* All there are. NULL starts; NULL ends. */
struct nvmf_ctrlr *ctrlr_next(const struct nvmf_ctrlr *prev);

/* Controllers of one subsystem and host: the target counts them as one's. */
static inline bool is_same_family(const struct nvmf_opts *a, const struct nvmf_opts *b)
{
	return strcmp(a->subnqn, b->subnqn) == 0 && strcmp(a->hostnqn, b->hostnqn) == 0 &&
	       memcmp(a->hostid, b->hostid, sizeof(a->hostid)) == 0;
}

/* fence.c: an association begins. -EBUSY, -ENOMEM: it must not. */
int fence_begin(struct nvmf_ctrlr *c, struct err *err) WARN_UNUSED;
/* All its queues are closed. Nothing happens where none had begun. */
void fence_end(struct nvmf_ctrlr *c);
/* A controller is about to be freed. */
void fence_forget(struct nvmf_ctrlr *c);
/* In a task: until no lost write of the subsystem and host of @opts can be carried out any more, or
 * for connect_timeout: -EBUSY. A controller of them is LIVE. */
int fence_settle(const struct nvmf_opts *opts, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* leftover.c: in a task: until the target of @c, which is LIVE, has ended all that connections of
 * this host have left with it, those of other processes too, or for connect_timeout: -EBUSY.
 * -ENOTCONN: @c was lost. A target that does not tell is not waited for. */
int leftover_settle(struct nvmf_ctrlr *c, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* The end of a process, for those who play several in one. No controller is left. */
void fence_drop_all(void);
/* A controller became LIVE: fences may be asked for through it. */
void fence_kick(void);
struct nvmf_view;
/* What of the view tells which lost writes may be sent again. */
void fence_view(const struct nvmf_opts *opts, struct nvmf_view *view);

/* connect.c: from no queue to LIVE's facts; c->lock is held. A failure leaves queues open. */
int ctrlr_connect(struct nvmf_ctrlr *c, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* Close every queue and wait until they are. */
void ctrlr_disconnect(struct nvmf_ctrlr *c, int reason) MAY_SUSPEND;
/* Tell the controller that we go (CC.SHN), bounded by a short time. */
void ctrlr_shutdown(struct nvmf_ctrlr *c) MAY_SUSPEND;

/* The queue on @r, connected if the controller is LIVE; counted. */
int ioq_get(struct nvmf_ctrlr *c, struct reactor *r, struct nvmf_ioq **ret,
	    struct err *err) MAY_SUSPEND WARN_UNUSED;
void ioq_put(struct nvmf_ioq *ioq) MAY_SUSPEND;
/* c->lock is held, the queue is down. */
int ioq_connect(struct nvmf_ioq *ioq, struct err *err) MAY_SUSPEND WARN_UNUSED;

/* ---- admin commands (admin.c) ------------------------------------------------------------- */

int ctrlr_admin_new(struct nvmf_ctrlr *c, struct err *err) WARN_UNUSED;
/*
 * Send an admin command and wait. @buf: memory that stays; direction from the opcode. Returns 0 and
 * the answer's words, -EIO with the NVMe status in *ret_status, -ENOTCONN when the connection went.
 */
struct admin_call {
	struct nvme_cmd cmd;
	void *buf;
	uint32_t len;
	uint64_t timeout_ns; /* 0: the queue's */
	uint16_t status;     /* answer: NVMe type << 8 | code, DNR; NVMF_LOST */
	uint32_t dw0, dw1;
};
int ctrlr_admin(struct nvmf_ctrlr *c, struct admin_call *call, const char *what,
		struct err *err) MAY_SUSPEND WARN_UNUSED;
int ctrlr_identify(struct nvmf_ctrlr *c, uint8_t cns, uint32_t nsid, void *page,
		   struct err *err) MAY_SUSPEND WARN_UNUSED;
int ctrlr_log_page(struct nvmf_ctrlr *c, uint8_t lid, uint8_t lsp, uint64_t off, void *buf,
		   uint32_t len, struct err *err) MAY_SUSPEND WARN_UNUSED;
int ctrlr_property_get(struct nvmf_ctrlr *c, uint32_t off, bool is_64, uint64_t *ret,
		       struct err *err) MAY_SUSPEND WARN_UNUSED;
int ctrlr_property_set(struct nvmf_ctrlr *c, uint32_t off, uint32_t value,
		       struct err *err) MAY_SUSPEND WARN_UNUSED;
/* Identify one namespace with its descriptors. -ENODEV: not active. */
int ctrlr_read_ns(struct nvmf_ctrlr *c, uint32_t nsid, struct nvmf_ns_info *ret,
		  struct err *err) MAY_SUSPEND WARN_UNUSED;
int ctrlr_read_ana(struct nvmf_ctrlr *c, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* Event requests and keep alive of a connection that is up. */
void ctrlr_events_start(struct nvmf_ctrlr *c);
void ctrlr_events_stop(struct nvmf_ctrlr *c);
/* A request's pass-through command or reset, on the primary. */
void ctrlr_forward_admin(struct nvmf_ctrlr *c, struct io *io);
/* Those that waited for room or for the connection. */
void ctrlr_forward_waiting(struct nvmf_ctrlr *c);
void ctrlr_forward_reset(struct nvmf_ctrlr *c, struct io *io);
/* Send a request back to its reactor with @status. Primary. */
void ctrlr_answer(struct io *io, uint16_t status);
/* Pass-through commands that wait for room end as if the connection had. */
void ctrlr_fail_waiting(struct nvmf_ctrlr *c);
/* Those of @dev that wait here, resets too, end with @status. */
void ctrlr_end_waiting(struct nvmf_ctrlr *c, const struct device *dev, uint16_t status);
/* ... go to another controller; resets stay. */
void ctrlr_move_waiting(struct nvmf_ctrlr *c, const struct device *dev, struct nvmf_ctrlr *to);
/* Ask the controller to abort a command of an I/O queue; what comes of it the command tells. */
void ctrlr_abort(struct nvmf_ctrlr *c, uint16_t sqid, uint16_t cid);
/* The text for an NVMe status; static. */
const char *nvmf_status_text(uint16_t status);

/* ---- head and paths (head.c) -------------------------------------------------------------- */

struct nvmf_path {
	struct list link;     /* in the head */
	struct list in_ctrlr; /* in the controller */
	struct nvmf_head *head;
	struct nvmf_ctrlr *ctrlr; /* counted */
	char *uri;                /* owned */
	struct nvmf_ns_info ns;
	bool is_unread;  /* it was never connected: what its namespace is nobody knows */
	bool is_gone;    /* the namespace is not active on this controller */
	bool is_foreign; /* another medium has its number: never used again until ours is back */
	bool is_leaving;
	uint8_t slot; /* index in the channels' arrays */
};

struct nvmf_head {
	struct device dev;
	struct nvmf_opts opts; /* of the first path */
	struct nvmf_ns_info ns;
	struct task_mutex lock; /* paths and channels come and go; taken before a controller's */
	struct list paths;
	unsigned slots; /* bit per slot in use */
	struct nvmf_chan *chan[REACTORS_MAX];
	struct timer fast_fail;
	uint64_t unusable_ns; /* since when no path is usable; 0: one is */
	bool is_failing;      /* fast_io_fail has passed */
	bool is_failed;       /* DEVICE_FAILED was announced */
	bool is_removed;
	bool is_registered;
	unsigned nusable;
	uint64_t want_nblocks;      /* 0: no resize is due */
	bool is_resizing;           /* a task is at it */
	struct task_event *resized; /* who waits for its end */
};

/* What may be used, as one reactor knows it. */
struct nvmf_view {
	struct nvmf_ioq *ioq[PATHS_MAX];
	uint32_t nsid[PATHS_MAX];
	uint8_t n;
	uint16_t fail; /* status for what finds no path; 0: hold it */
	uint8_t nacting;
	uint32_t horizon; /* the newest association that was known */
	uint32_t acting
		[VIEW_ACTING_MAX]; /* associations whose lost writes may still be carried out */
};

struct nvmf_dsm { /* memory of a slot for the list of ranges */
	struct iovec iov;
	struct nvme_dsm_range range;
};

struct nvmf_chan {
	struct channel ch;
	/* the reactor's */
	struct nvmf_view view;
	uint8_t turn;            /* round robin */
	bool is_by_depth;        /* iopolicy */
	struct msg_list waiting; /* for a path or for room */
	struct msg drain;        /* look at them again */
	bool is_draining;
	struct list room;       /* in an ioq's waiters */
	struct msg_list later;  /* for a retry after a while */
	struct msg_list fenced; /* lost writes whose association may still act */
	struct timer later_timer, fence_timer;
	bool is_aborted; /* given up: everything fails */

	/* primary */
	struct nvmf_head *head;
	struct nvmf_ioq *ioq[PATHS_MAX]; /* counted, by path slot */
	struct nvmf_view next;
	struct msg post;
	bool is_posted, is_stale; /* @next is on its way; and it is old already */
	struct task_event *landed;
};

/* chan.c */
int chan_open(struct channel *ch, struct err *err);
void chan_close(struct channel *ch);
void chan_abort(struct channel *ch);
enum io_result chan_submit(struct channel *ch, struct io *io);
/* Primary: send @chan what its head says now. */
void chan_publish(struct nvmf_chan *chan);
/* Wait until every view that was sent has arrived. */
void chan_settle(struct nvmf_chan *chan) MAY_SUSPEND;
int chan_add_path(struct nvmf_chan *chan, struct nvmf_path *path,
		  struct err *err) MAY_SUSPEND WARN_UNUSED;
void chan_remove_path(struct nvmf_chan *chan, struct nvmf_path *path) MAY_SUSPEND;
/* For ioq: callbacks of the queue, on its reactor. */
void ioq_room(struct queue *q);
void ioq_late(struct queue *q, struct slot *slot);
void ioq_wake(struct nvmf_ioq *ioq);

/* head.c */
int head_create(struct uri *uri, struct device **ret_dev, struct err *err);
void head_destroy(struct device *dev);
int head_rescan(struct device *dev, uint64_t *ret_nblocks, struct err *err);
struct device *head_find_uri(const struct uri *uri, const char **ret_alias);
int head_leave(struct device *dev, const char *uri);
void head_removing(struct device *dev);
/* Can a controller carry what the device promises? */
bool head_fits(const struct nvmf_head *head, const struct nvmf_ctrl_info *info);
/* Look at the paths again and tell the channels. */
void head_refresh(struct nvmf_head *head);
/* The view of @chan as the head sees it. */
void head_view(const struct nvmf_head *head, const struct nvmf_chan *chan,
	       struct nvmf_view *ret_view);
/* The best controller for an admin command: one that is connected, or will be; NULL: none. */
struct nvmf_ctrlr *head_ctrlr(const struct nvmf_head *head);
/* A reset or a passed-through admin command goes to the best controller, or fails. Primary. */
void head_forward(struct nvmf_head *head, struct io *io);
/*
 * Read the path's namespace again and judge it; the caller holds the controller's lock. An error:
 * nothing could be found out, the path is what it was, and after a loss must not be used so.
 */
int path_rescan(struct nvmf_path *path, struct err *err) MAY_SUSPEND WARN_UNUSED;

static inline struct nvmf_head *head_of(const struct device *dev)
{
	return container_of((struct device *)(uintptr_t)dev, struct nvmf_head, dev);
}

static inline struct nvmf_chan *chan_of(struct channel *ch)
{
	return container_of(ch, struct nvmf_chan, ch);
}

#endif
