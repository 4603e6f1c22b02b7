/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - what the files of the nexus share; nobody else includes it. The way through them:
 *
 *   hosts                                                         clients
 *     |  (the device layer)                                          |  nexus.h, rebuild.h
 *     v                                                              v
 *   io.c --- legs ---> the children's devices <--- child.c <--- child_client.c, nexus.c
 *    | |                        ^                                    |
 *    | |                        +---- copy.c, scrub.c <--- rebuild.c, child_join.c
 *    | |                              (ranges, under a lock)
 *    | +- a leg fails: io_failed.c --> retire.c --> record_writer.c --> store.c
 *    |                                    +-------> monitor.c --> child.c
 *    +- a segment is not marked: marks.c --> pages on the children --> recover.c, another time
 *
 * In the order in which they are best read; foo_bar.c is a part of foo.c.
 *
 *   I/O           channel.c      a nexus on one reactor: who is read, who is written to
 *                 io.c           the data path; io_failed.c where legs fail, io_blocked.c who waits
 *                 overlap.h      one writer per block, on all reactors
 *                 verdict.c      what a child's error means
 *                 watch.c        a child that does not answer in time
 *                 bounded.c      what tasks ask of a child with a range locked
 *   a child falls retire.c       dropped, recorded, let go; the frozen nexus; self-shutdown
 *                 monitor.c      its device is closed, outside of its completion path
 *                 record.c       who is healthy, as JSON; record_writer.c puts it, store.c has it
 *                 repair.c       a medium error of one child is mended from another
 *                 health.c       children that get worse: warnings
 *   may differ    segmap.h       a bit per segment
 *                 intent.c       the format of write-intent records
 *                 marks.c        marking and clearing; _page, _child, _read, _size
 *   a nexus       nexus.c        made, and found         driver.c    its URI
 *                 geometry.c     where the data lies     size.c      what fits, growing
 *                 recover.c      who is believed when it is made again
 *                 resv.c         reservations on NVMe children
 *                 info.c         what it says when asked events.c    and unasked
 *                 errand.c       work for a task         end.c       shut down, destroyed, freed
 *   a child comes child.c        its device; child_client.c add, remove, online, offline
 *                 child_join.c   it becomes a writer, and in sync
 *                 rebuild.c      jobs; _client, _state, _stats. The seam is at this file's end
 *                 copy.c         the machine: ranges and locks; copy_feed.c chunks of them,
 *                                copy_move.c the bytes, copy_late.c who does not answer; pace.c
 *   all equal?    scrub.c        while it serves; scrub_range.c reads, scrub_judge.c mends
 *                 check.c        replicas without a nexus; check_read.c
 *
 * Tests share nexus_testing.h, by way of testing.h or rebuild_testing.h.
 *
 * A child's way, and where its state word changes:
 *
 *            create, online, add                    rebuilt
 *   INIT --> OPEN, out of sync (writer only) --------------------> OPEN, synced (reader, writer)
 *               |                                                      |
 *               +---------- any reactor: compare and swap -------------+
 *                                     v
 *   FAULTED(reason) or CLOSED --retire.c--> dropped on every channel --> stale mark durable
 *        ^                                                                  |
 *        |                                  writes that it missed are acknowledged
 *        +-- device closed and removed by the monitor <---------------------+
 *
 * The word says `settled` once the mark is durable; child->is_leaving stands until the monitor has
 * closed the device. A child that was not in sync is settled from the start: the record has it as
 * unhealthy already.
 *
 * What a channel knows of a child is a leg: handle, how many requests are there. The legs stand in
 * an array by slot, which never moves; readers and writers are compact arrays of slots. A channel
 * changes only on its own reactor: by a leg's failure there, or by a call from the primary. Hence a
 * leg that goes needs no quiesce: the channel stops using it, and requests that are on it come
 * back when they come back. Legs that come are brought in under device_quiesce(), so that every
 * write is either wholly before the change or wholly after it.
 *
 * Locks, in order: nx->control (one control operation at a time; not taken by retirement, which
 * control operations wait for), nx->dev.control (the set of channels; channel_open() runs under
 * it), the children's devices' own.
 *
 * Invariants
 *   1. No write is acknowledged while a child that was in sync and missed it is not durably marked
 *      stale: it stays parked in its channel, with its blocks taken.
 *   2. Between the drop of a leg on a channel and the durable mark, no new write is sent on that
 *      channel: it would miss the child from the start.
 *   3. A write is sent to every leg that the channel's writers name at that moment, with one pass
 *      over the array, and blocks are taken from before the first leg until after the last.
 *   4. The record in the store never says that no child is healthy.
 *   5. A segment is marked in flight, durably, before a write to it is sent (marks.c).
 */
#ifndef ASHLAR_NEXUS_INTERNAL_H
#define ASHLAR_NEXUS_INTERNAL_H

#include "device/driver.h"
#include "device/fault.h"
#include "nexus/intent.h"
#include "nexus/nexus.h"
#include "nexus/overlap.h"
#include "nexus/segmap.h"
#include "nexus/verdict.h"

struct nexus_channel;

struct health;
struct marks;
struct rebuilds;
struct record_writer;
struct scrub;

enum {
	LEG_REMOTE_COST = 8, /* requests that a local leg may have more before a remote one reads */
	STACK_DEPTH_MIN =
		3, /* what a nexus says of itself at least, so that children may be added */
};

/* ---- child: the primary's ------------------------------------------------------------------- */

/*
 * The state word: state | reason << 8 | synced << 16 | settled << 24. Any reactor swaps OPEN for
 * something else; everything else is the primary's. `synced` stays as it was when the child fell.
 * `settled`: the record says that it is stale, so what it misses may be acknowledged.
 */
static inline uint32_t child_word(enum child_state state, enum nexus_reason reason, bool is_synced)
{
	return (uint32_t)state | (uint32_t)reason << 8 | (uint32_t)is_synced << 16;
}

enum {
	CHILD_SYNCED = 1 << 16,
	CHILD_SETTLED = 1 << 24,
};

static inline enum child_state child_state_of(uint32_t word)
{
	return (enum child_state)(word & 0xff);
}

static inline enum nexus_reason child_reason_of(uint32_t word)
{
	return (enum nexus_reason)(word >> 8 & 0xff);
}

/* In sync until it fell, and the record does not say yet that it did. */
static inline bool child_is_pending(uint32_t word)
{
	return child_state_of(word) != CHILD_OPEN && word & CHILD_SYNCED && !(word & CHILD_SETTLED);
}

struct child {
	struct nexus *nx;
	uint8_t slot;
	char *uri;                         /* owned; as it was given */
	char *device_uri;                  /* owned; what its device is made from */
	struct uuid uuid;                  /* of the replica: uuid= of its URI, else its device's */
	char device_name[DEVICE_NAME_MAX]; /* the last it had */
	_Atomic uint32_t word;

	struct desc *desc;      /* owned; NULL: closed. Changed under nx->dev.control */
	bool is_local;          /* read from first */
	bool zeroes_for_unmap;  /* its unmap leaves who knows what */
	bool is_writer;         /* out of sync, but writes go to it (being rebuilt) */
	atomic_bool is_leaving; /* no leg of it is used any more; the monitor closes it */
	unsigned users;      /* tasks with I/O of their own on desc; the monitor waits for them */
	unsigned nwaits;     /* requests of those, in child_io_wait() */
	uint64_t waiting_ns; /* reactor clock of the last answer to them, or of the first */
	uint64_t leaving_ns; /* reactor clock when the monitor saw it leave; 0: it does not */
	bool is_cut;         /* leaving, and device_abort() was called */
	bool is_healthy;     /* as the record has it */
	char why[CHILD_WHY_MAX]; /* what its device said when it failed; "": nothing */
	const char *logged;      /* of what it is, last; NULL: nothing yet */
	enum nexus_reason logged_reason;
	uint64_t fault_ns; /* reactor clock */

	/* What it misses. Set by channels from the failing write on; exact if is_missed_known. */
	bool has_room; /* for the pages of what others miss, marks.c */
	struct segmap missed;
	bool is_missed_known;               /* false: everything */
	bool has_lost_data;                 /* its device said so: it will miss everything */
	uint64_t head_generation;           /* its pages carry it if it is what it was; 0: any */
	uint64_t read_errors, write_errors; /* of channels that are closed */
};

static inline bool child_is_healthy(const struct child *child)
{
	return atomic_load(&child->word) == child_word(CHILD_OPEN, NEXUS_REASON_NONE, true);
}

/* ---- channel: one reactor's ----------------------------------------------------------------- */

/* A child as a channel sees it. */
struct leg {
	struct handle *h;  /* valid while the slot is in readers or writers */
	uint32_t inflight; /* requests it has not answered; inline ones never show */
	uint32_t cost;     /* added to inflight where legs are compared for reading */
	uint32_t failing;  /* forks that it failed and that have not yet drawn the consequence */
	bool is_leaving;   /* dropped here: the primary wants to know when the last is back */
	bool zeroes_for_unmap;
	uint64_t read_errors, write_errors;
	/* watch.c: what its device had answered at the last look, and since when it has something
	 * to answer and that is so; 0: it has nothing. The primary reads that. */
	uint64_t nanswered;
	_Atomic uint64_t silent_ns;
};

/* A write under way: the parent is the owner's, the parts are ours. */
struct fork {
	struct nexus_channel *nc;
	struct fork *next; /* free, or parked */
	struct io *parent;
	uint8_t remaining;    /* legs that have not answered; + 1 while it is being sent */
	uint8_t sent, failed; /* legs, 1 << slot */
	uint8_t again;        /* times that legs asked for patience */
	uint8_t parity;       /* of nc->busy */
	bool owns_blocks;
	_Alignas(64) struct io part[]; /* by slot; lines are not shared with what stands above */
};

struct nexus_channel {
	struct channel ch;
	struct nexus *nx;
	uint64_t data_start;

	/* who is asked */
	uint8_t readers[NEXUS_CHILDREN_MAX], writers[NEXUS_CHILDREN_MAX];
	uint8_t nreaders, nwriters;
	uint8_t turn;       /* reader that was asked last, for ties */
	uint8_t believed;   /* in sync as far as is known here: what they read counts, 1 << slot */
	uint8_t missing;    /* children whose missed map has to be kept, 1 << slot */
	uint8_t mapped;     /* children whose missed map is there and stays, 1 << slot */
	uint8_t stale;      /* dropped here, mark not durable yet, 1 << slot */
	bool is_frozen;     /* no healthy child */
	bool is_ended;      /* shut down: everything fails */
	bool is_waiting;    /* any of these, or nobody to read from: see channel_judge() */
	bool is_watching;   /* the watch runs: something is in flight, watch.c */
	uint32_t load_mask; /* 0: reads take turns */
	struct fork *free;  /* stack */
	struct leg leg[NEXUS_CHILDREN_MAX];

	/* marks.c: segments that may be written without asking; all ones where no marks are kept */
	struct segmap hot;
	uint32_t nwanted; /* since the last turn, that were not hot */
	uint32_t busy[2]; /* forks under way, by parity */
	uint8_t parity;

	char *arena; /* owned; forks */
	size_t arena_size, fork_size;
	struct fork *parked; /* answered, not acknowledged: waiting for the mark */

	/* who waits, in order (io.msg) */
	struct msg_list held;     /* for is_waiting to end */
	struct msg_list starved;  /* for a fork */
	struct msg_list unmarked; /* for their segments to be marked */
	struct msg_list blocked;  /* for blocks; reads and writes */
	uint32_t nblocked;
	struct msg_list again; /* for CHILD_AGAIN_MS */
	struct timer again_timer;
	struct timer watch_timer;
};

/* New writes wait. */
static inline void channel_judge(struct nexus_channel *nc)
{
	nc->is_waiting = nc->stale != 0 || nc->is_frozen || nc->is_ended || nc->nreaders == 0;
}

/* Reached from other reactors; as old as the nexus, so no message meets a dead channel. */
struct nexus_bell {
	struct msg msg;
	atomic_bool is_rung;
	_Atomic uint32_t nblocked;
	struct nexus *nx;
	struct nexus_channel *nc; /* changed on its own reactor; NULL: none */
};

/* ---- nexus ---------------------------------------------------------------------------------- */

/* A call to the primary from any reactor that starts a task unless it is there already. */
struct nexus_errand {
	struct nexus *nx;
	struct msg msg;
	atomic_bool is_rung;
	struct timer timer; /* tries again where no task could be had */
	bool is_running;    /* the task; the primary's, as are the next, and far from is_rung */
	bool is_again;      /* rung while it ran */
	bool is_over;       /* no task is made any more */
	const char *name;
	enum task_rank rank; /* of the task; ordinary, unless changed after errand_init() */
	void (*run)(struct nexus *nx) MAY_SUSPEND;
	struct list waiters; /* errand_wait() */
};

struct repair {
	uint64_t lba;
	uint32_t nlb;
	uint8_t slot;
};

struct nexus {
	struct device dev;
	struct list link; /* of all */
	struct uuid uuid;
	uint64_t size; /* bytes asked */
	enum nexus_label label;
	bool is_size_required, is_size_kept, is_round_robin;
	uint64_t child_timeout_ns;
	uint64_t stall_ns, slow_ns, smart_ns; /* of health.c; UINT64_MAX: never */
	uint16_t cntlid_min, cntlid_max;
	bool is_reserving;
	uint64_t resv_key, preempt_key;
	uint8_t resv_type;
	enum nexus_preempt_policy preempt_policy;
	char key[STORE_KEY_MAX]; /* of the record */
	struct geometry geometry;

	enum nexus_state state;
	enum nexus_status told; /* status of the last event */
	bool is_told;           /* there was one */
	/* Changed under dev.control, because channels read them. */
	struct child *child[NEXUS_CHILDREN_MAX]; /* by slot; NULL: free */
	uint8_t order[NEXUS_CHILDREN_MAX];       /* slots, as they were added */
	unsigned nchildren;
	bool is_frozen;
	bool is_ended;
	struct task_mutex control; /* one control operation at a time */

	struct desc *self;     /* of our own device: word of its removal, and repairs */
	struct handle *self_h; /* on the primary */
	bool is_registered;
	bool is_removed; /* its removal has begun */

	struct nexus_errand retire, monitor, mend, mark, rebuild, end, look, smart;
	struct health *health;      /* owned */
	atomic_bool is_observed;    /* health.c looks by itself: nobody need wake it */
	struct rebuilds *rebuilds;  /* owned; NULL: there was none yet */
	struct scrub *scrub;        /* owned; the last one; NULL: there was none yet */
	struct timer monitor_timer; /* looks again: a child that leaves may hang */
	struct list gone_waiters;   /* child_wait_closed() */
	_Atomic uint8_t fallen;     /* slots that retire.c has not looked at yet */
	atomic_bool wants_shutdown; /* somebody else holds the reservation; for good */
	uint64_t generation;
	struct uuid absent[RECORD_CHILDREN_MAX]; /* recorded once, not given: stale from now on */
	unsigned nabsent;
	struct record_writer *writer; /* owned */
	struct task_mutex record_lock;

	atomic_flag repair_lock; /* of the ring below, held for a few stores */
	struct repair repair[NEXUS_REPAIRS_MAX];
	unsigned nrepairs_queued;

	struct marks *marks;     /* owned; NULL: none are kept */
	struct overlap *overlap; /* owned */
	_Atomic uint32_t nblocked;
	struct nexus_bell bell[REACTORS_MAX];
	_Atomic uint64_t noverlaps, nrepairs, nrepairs_failed;
	char why[NEXUS_WHY_MAX]; /* it ended itself; "": it did not */
};

extern struct nexus_settings nexus_settings; /* defaults filled in */

static inline struct nexus *nexus_of(struct device *dev)
{
	return container_of(dev, struct nexus, dev);
}

/* One control operation at a time, and the nexus stays while it runs. */
static inline void control_begin(struct nexus *nx)
{
	device_pin(&nx->dev);
	task_mutex_lock(&nx->control);
}

static inline void control_end(struct nexus *nx)
{
	task_mutex_unlock(&nx->control);
	device_unpin(&nx->dev);
}

/* ---- size.c ---------------------------------------------------------------------------------- */

/* The geometry of all children, all open, for @size bytes; into nx->geometry. */
int nexus_fit_children(struct nexus *nx, uint64_t size, struct nexus_err *ne) WARN_UNUSED;
/* The driver's: quiesced, dev->nblocks is the new size. */
int nexus_resized(struct device *dev, uint64_t old_nblocks, struct err *err) MAY_SUSPEND;

/* ---- end.c ----------------------------------------------------------------------------------- */

/* The errand: its device is being removed. */
void nexus_end_run(struct nexus *nx) MAY_SUSPEND;
/* The driver's: all descriptors are closed, no channel is left. */
void nexus_free_device(struct device *dev) MAY_SUSPEND;
/* Closes what is open. It is no device, or not any more. */
void nexus_free(struct nexus *nx) MAY_SUSPEND;

/* ---- recover.c: who is in sync, as the record has it; before the device is registered ------- */

int nexus_recover(struct nexus *nx, struct nexus_err *ne) MAY_SUSPEND WARN_UNUSED;

/* ---- io.c, io_failed.c, io_blocked.c: on the channel's reactor ------------------------------- */

enum io_result nexus_submit(struct channel *ch, struct io *io);
void nexus_restart(struct msg *msg);
void nexus_list_start(struct nexus_channel *nc, struct msg_list *list);
void nexus_parked_resolve(struct nexus_channel *nc);
void nexus_blocked_walk(struct nexus_channel *nc);
void nexus_again_due(struct timer *timer);
/* This channel sends nothing more to @slot; its child is out with @reason, if it was not yet. */
void nexus_leg_fail(struct nexus_channel *nc, uint8_t slot, enum nexus_reason reason);
int nexus_arena_make(struct nexus_channel *nc) WARN_UNUSED;

/* ---- channel.c ------------------------------------------------------------------------------ */

int nexus_channel_open(struct channel *ch, struct err *err) MAY_SUSPEND;
void nexus_channel_close(struct channel *ch) MAY_SUSPEND;
/* Wake those on all reactors who wait for blocks. Any reactor. */
void nexus_bells_ring(struct nexus *nx);
/* Run fn(nc, arg) on every channel's reactor, one by one; dev.control is held meanwhile. */
void nexus_each_channel(struct nexus *nx, void (*fn)(struct nexus_channel *nc, void *arg),
			void *arg) MAY_SUSPEND;
/* Every channel looks at the children's words again, and lets go who may go. */
void nexus_apply(struct nexus *nx) MAY_SUSPEND;
/* Handles of @child on every channel's reactor, so that apply finds them. */
int nexus_open_legs(struct nexus *nx, struct child *child, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* Requests on @child's legs, all channels. */
uint32_t nexus_inflight(struct nexus *nx, const struct child *child) MAY_SUSPEND;

/* ---- errand.c ------------------------------------------------------------------------------- */

void errand_init(struct nexus_errand *errand, struct nexus *nx, const char *name,
		 void (*run)(struct nexus *nx));
/* Any reactor: the task runs once more after this. */
void errand_ring(struct nexus_errand *errand);
/* It is not needed any more: nobody waits for memory for its task. */
void errand_end(struct nexus_errand *errand);
/* Until nothing is rung and nothing runs. */
void errand_wait(struct nexus_errand *errand) MAY_SUSPEND;
static inline bool errand_is_idle(struct nexus_errand *errand)
{
	return !errand->is_running && !atomic_load(&errand->is_rung);
}

/* ---- retire.c ------------------------------------------------------------------------------- */

/* One that is out: may a client bring it back? */
bool child_can_come_back(uint32_t word);
/* Any reactor: @child is out, unless it is already. True: this call did it. */
bool nexus_child_fail(struct child *child, enum child_state state, enum nexus_reason reason);
/* The same for who sent @child a request of its own: by what its error means for the child. */
void nexus_child_blame(struct child *child, enum io_op op, uint16_t status);
/* Any reactor: the other owner won. */
void nexus_shutdown_ring(struct nexus *nx);
void nexus_retire_run(struct nexus *nx) MAY_SUSPEND;
/* Write the record as is_healthy is now. Bounded tries; -ETIMEDOUT, or the store's error. */
int nexus_persist(struct nexus *nx, bool is_clean, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* End at once, on our own: I/O fails, children are closed, nothing is written. */
void nexus_self_shutdown(struct nexus *nx, const char *why) MAY_SUSPEND;
void nexus_end_io(struct nexus *nx) MAY_SUSPEND;
unsigned nexus_nhealthy(const struct nexus *nx);

/* ---- record_writer.c: one call at a time, with a limit -------------------------------------- */

struct record_writer *record_writer_new(void);
/* One try. -ETIMEDOUT: it is still at work; the next try waits for it first. */
int record_writer_put(struct record_writer *writer, const char *key, const char *text,
		      uint64_t timeout_ns, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* -ENOENT: there is none; else as put. */
int record_writer_get(struct record_writer *writer, const char *key, char text[RECORD_TEXT_MAX],
		      uint64_t timeout_ns, struct err *err) MAY_SUSPEND WARN_UNUSED;
/*
 * Keep others away from the record of @key, until the writer is freed or unlocked and nothing of it
 * is under way. Once, before any put. Nothing where the store has no locks. -EBUSY: @err says whose
 * it is.
 */
int record_writer_lock(struct record_writer *writer, const char *key, uint64_t timeout_ns,
		       struct err *err) MAY_SUSPEND WARN_UNUSED;
/* No put follows. */
void record_writer_unlock(struct record_writer *writer) MAY_SUSPEND;
void record_writer_free(struct record_writer *writer) MAY_SUSPEND; /* also while it hangs */

/* ---- monitor.c ------------------------------------------------------------------------------ */

void nexus_monitor_run(struct nexus *nx) MAY_SUSPEND;
/* Until the monitor is through with @child. */
void child_wait_closed(struct child *child) MAY_SUSPEND;
/* I/O of a task on child->desc: NULL when it is closed or leaving. Then child_unuse(). */
struct desc *child_use(struct child *child);
void child_unuse(struct child *child);
void nexus_monitor_due(struct timer *timer);
static inline void nexus_gone_ring(struct nexus *nx)
{
	errand_ring(&nx->monitor);
}

/* ---- watch.c: who is slow, and who is too slow ----------------------------------------------- */

/* On the channel's reactor: something is in flight now. */
void nexus_watch_start(struct nexus_channel *nc);
void nexus_watch_due(struct timer *timer);
uint64_t nexus_watch_tick_ns(const struct nexus *nx);
/* io_wait() of a task that has child_use()d it: a child that does not answer in time is out. */
uint16_t child_io_wait(struct child *child, struct handle *h, struct io *io) MAY_SUSPEND;

/* ---- bounded.c: with a range locked --------------------------------------------------------- */

struct child_request {
	enum io_op op; /* IO_READ, or IO_WRITE, which is durable when it has ended */
	uint64_t lba;  /* of the child's device */
	uint32_t nlb;  /* 1 ... */
	uint8_t *buf;
};

/*
 * One request to @child that is not waited for any longer than it may take. IO_TIMED_OUT: the child
 * is out, and what it is still doing harms nobody: ranges may be unlocked, @buf is free.
 */
uint16_t child_io_bounded(struct child *child, const struct child_request *request) MAY_SUSPEND;
/* Blocks of @child could not be written, or not read back: what that means for it. */
void child_not_mended(struct child *child, uint16_t status);

/* ---- health.c: warnings --------------------------------------------------------------------- */

struct health *nexus_health_new(struct nexus *nx);
/* Nothing is started any more; what runs is waited for with the errands. */
void nexus_health_stop(struct nexus *nx);
void nexus_look_run(struct nexus *nx);
void nexus_smart_run(struct nexus *nx) MAY_SUSPEND;
/* @child serves from now on. */
void nexus_health_child(struct child *child);
/* Its device says that something about the medium changed. */
void nexus_health_medium(struct child *child);
/* Its device is closed: what was said of it is void. */
void nexus_health_forget(struct child *child);
void nexus_health_of(const struct child *child, struct nexus_child_info *ret);
/* Any reactor: there is something to look at. */
static inline void nexus_health_wake(struct nexus *nx)
{
	if (!atomic_load_explicit(&nx->is_observed, memory_order_relaxed))
		errand_ring(&nx->look);
}
/* Requests that it failed, all channels. info.c. */
void nexus_child_errors(const struct child *child, uint64_t *ret_reads, uint64_t *ret_writes);

/* ---- resv.c --------------------------------------------------------------------------------- */

/* @child is open: make it ours, if the nexus reserves its children. */
int nexus_reserve(struct child *child, struct nexus_err *ne) MAY_SUSPEND WARN_UNUSED;

/* ---- repair.c ------------------------------------------------------------------------------- */

/* Any reactor: @slot could not read these blocks, another child could. */
void nexus_repair_ring(struct nexus *nx, uint8_t slot, uint64_t lba, uint32_t nlb);
void nexus_mend_run(struct nexus *nx) MAY_SUSPEND;

/* ---- marks.c -------------------------------------------------------------------------------- */

/* On the channel's reactor: may this write go? It may if its segments are durably marked; else they
 * are asked for, and unmarked requests are started when they are. */
bool marks_heat(struct nexus_channel *nc, const struct io *io);
void nexus_mark_run(struct nexus *nx) MAY_SUSPEND;

/* ---- child.c -------------------------------------------------------------------------------- */

/* A child without a device, in a free slot, as the last of the list. NULL: no memory. */
struct child *child_new(struct nexus *nx, const char *uri, struct nexus_err *ne);
void child_free(struct child *child);
/* Make and open its device; it does not get I/O yet. */
int child_open(struct child *child, struct nexus_err *ne) MAY_SUSPEND WARN_UNUSED;
/* Nothing of it may be in flight. */
void child_close(struct child *child) MAY_SUSPEND;
struct child *child_find(struct nexus *nx, const char *uri);

/* ---- child_join.c --------------------------------------------------------------------------- */

/* Room for what it misses. */
int child_map(struct child *child, struct nexus_err *ne) WARN_UNUSED;
/* It is open, out of sync: writes to it, and a rebuild if there is one who does it. */
int child_start(struct child *child, bool is_rebuilt, struct nexus_err *ne) MAY_SUSPEND WARN_UNUSED;

/* ---- events.c ------------------------------------------------------------------------------- */

void nexus_tell(struct nexus *nx, enum nexus_event_type type, struct child *child);
void nexus_tell_event(struct nexus_event *event);
/* State or status changed? Then say so. */
void nexus_tell_status(struct nexus *nx);
enum nexus_status nexus_status_of(const struct nexus *nx);
enum child_health child_health_of(const struct child *child);

/* ---- the seam for rebuild -------------------------------------------------------------------
 *
 * What starts and ends rebuilds is rebuild.c, unless a test says otherwise; without one an added
 * child stays out of sync, with writes going to it.
 *
 *   1. start(child): the child is OPEN, not synced, no writer yet. What it misses is child->missed
 *      if is_missed_known, else everything.
 *   2. nexus_child_attach(): writes go to it from now on (quiesce, swap, resume). The channels have
 *      stopped to keep its missed map; the map is the rebuild's.
 *   3. Per segment: range_lock() on nexus_device(), read a healthy child, write this one (both
 *      through descs of its own or handles of child->desc, at lba + geometry.data_start), unlock.
 *   4. nexus_child_synced(): record first, then it is read from.   Or:
 *      nexus_child_fail(child, CHILD_FAULTED, NEXUS_REASON_REBUILD_FAILED): as any failing child.
 *   leave(child) is called by the monitor, more than once, when a child is leaving: a rebuild of
 *   it must end, one that reads it must read another. Who has child_use()d it gives it back when
 *   its last request has ended; the monitor waits for that.
 */
struct nexus_rebuilder {
	int (*start)(struct child *child, struct nexus_err *ne) MAY_SUSPEND;
	void (*leave)(struct child *child) MAY_SUSPEND;
};

void nexus_set_rebuilder(const struct nexus_rebuilder *rebuilder);
extern const struct nexus_rebuilder *nexus_rebuilder; /* NULL: none */
int nexus_child_attach(struct child *child, struct err *err) MAY_SUSPEND WARN_UNUSED;
int nexus_child_synced(struct child *child, struct err *err) MAY_SUSPEND WARN_UNUSED;

/* ---- rebuild.c ------------------------------------------------------------------------------ */

extern const struct nexus_rebuilder rebuild_jobs;
/* The errand: jobs that wait, if it is their turn. */
void nexus_rebuild_run(struct nexus *nx) MAY_SUSPEND;
/* I/O of the nexus has ended: all jobs, too. */
void nexus_rebuild_end_all(struct nexus *nx) MAY_SUSPEND;
void nexus_rebuild_free(struct nexus *nx);

/* ---- scrub.c -------------------------------------------------------------------------------- */

/* None runs. */
void nexus_scrub_free(struct nexus *nx);

#endif
