/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - what the files of the nexus share; nobody else includes it.
 *
 *   nexus.c    the device: create, destroy, resize, shutdown, lists
 *   child.c    add, remove, online, offline; opening and closing a child's device
 *   io.c       the data path                 overlap.h   one writer per block
 *   retire.c   a child is out: drop, persist, go on; the frozen nexus; self-shutdown
 *   monitor.c  closes devices of children outside of their completion path
 *   repair.c   a medium error of one child is mended from another
 *   intent.c   the format of write-intent records    marks.c   keeping them
 *   store.c    the record of who is healthy  record.c  its JSON
 *   verdict.c  what a child's error means    geometry.c  where the data lies
 *   rebuild    (another file) the seam is at the end of this one
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
 * Two bits say where a retirement stands: child->is_retiring (from the swap until the mark is
 * durable and all channels know) and child->is_closing (until the monitor has closed the device).
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

/* ---- child: the primary's ---------------------------------------------------------------------- */

/* The state word: state | reason << 8 | synced << 16. Swapped by any reactor. */
static inline uint32_t child_word(enum child_state state, enum nexus_reason reason, bool is_synced)
{
	return (uint32_t)state | (uint32_t)reason << 8 | (uint32_t)is_synced << 16;
}

struct child {
	struct nexus *nx;
	uint8_t slot;
	char *uri;                         /* owned */
	struct uuid uuid;                  /* of the replica: uuid= of its URI, else its device's */
	char device_name[DEVICE_NAME_MAX]; /* the last it had */
	_Atomic uint32_t word;             /* child_word() */

	struct desc *desc;     /* owned; NULL: closed */
	bool is_made;          /* the device was made by us, and is removed by us */
	bool is_local;         /* read from first */
	bool zeroes_for_unmap; /* its unmap leaves who knows what */
	bool is_writer;        /* out of sync, but writes go to it (being rebuilt) */

	/* retirement */
	atomic_bool is_retiring; /* set by who swapped the word; cleared when the mark is durable */
	bool is_closing;
	bool was_synced;        /* when it failed: what it misses from then on is exact */
	bool is_recorded_stale; /* the store says healthy = false */
	int64_t fault_ns;

	/* What it misses. Bits are set by channels while it is known but no writer. */
	struct segmap missed;
	bool is_missed_known; /* false: everything */

	/* counted by channels that were closed */
	uint64_t reads, read_errors, write_errors;
};

static inline enum child_state child_state_of(uint32_t word)
{
	return (enum child_state)(word & 0xff);
}

static inline enum nexus_reason child_reason_of(uint32_t word)
{
	return (enum nexus_reason)(word >> 8 & 0xff);
}

static inline bool child_is_healthy(const struct child *child)
{
	return atomic_load(&child->word) == child_word(CHILD_OPEN, NEXUS_REASON_NONE, true);
}

/* ---- channel: one reactor's --------------------------------------------------------------------- */

/* A child as a channel sees it. */
struct leg {
	struct handle *h;  /* NULL: not in use here */
	uint32_t inflight; /* requests it has not answered; inline ones never show */
	bool is_leaving;   /* dropped here: the primary wants to know when the last is back */
	bool is_local;
	bool zeroes_for_unmap;
	uint64_t reads, read_errors, write_errors;
};

/* A write under way: the parent is the owner's, the parts are ours. */
struct fork {
	struct nexus_channel *nc;
	struct fork *next; /* free, or parked */
	struct io *parent;
	uint32_t lba_shift_pad;
	uint8_t remaining;    /* legs that have not answered, + 1 while it is sent */
	uint8_t sent, failed; /* legs, 1 << slot */
	uint8_t parity;       /* of nc->busy */
	bool owns_blocks;
	uint16_t status;  /* the first that was not IO_OK */
	struct io part[]; /* by slot */
};

struct nexus_channel {
	struct channel ch;
	struct nexus *nx;
	uint64_t data_start;

	/* who is asked */
	uint8_t readers[NEXUS_CHILDREN_MAX], writers[NEXUS_CHILDREN_MAX];
	uint8_t nreaders, nwriters;
	uint8_t turn;    /* reader that was asked last, for ties */
	uint8_t missing; /* children whose missed map has to be kept, 1 << slot */
	uint8_t stale;   /* dropped here, mark not durable yet: writes wait */
	bool is_frozen;  /* no healthy child: everything waits */
	bool is_ended;   /* shut down: everything fails */
	struct leg leg[NEXUS_CHILDREN_MAX];

	/* marks.c: segments that may be written without asking; all ones where no marks are kept */
	struct segmap hot;
	uint32_t busy[2]; /* forks under way, by parity */
	uint8_t parity;

	/* fan-out */
	struct fork *free; /* stack */
	char *arena;       /* owned */
	size_t fork_size;
	struct fork *parked; /* answered, not acknowledged: waiting for the mark */

	/* who waits, in order (io.msg) */
	struct msg_list held;     /* for stale, frozen */
	struct msg_list starved;  /* for a fork */
	struct msg_list unmarked; /* for their segment to be marked */
	struct msg_list blocked;  /* for blocks; reads and writes */
	uint32_t nblocked;
	struct msg_list again; /* for CHILD_AGAIN_MS */
	struct timer again_timer;
};

/* Reached from other reactors; as old as the nexus, so that a message never meets a dead channel. */
struct nexus_bell {
	struct msg msg;
	atomic_bool is_rung;
	_Atomic uint32_t nblocked;
	struct nexus *nx;
	struct nexus_channel *nc; /* changed on its own reactor; NULL: none */
};

/* ---- nexus ---------------------------------------------------------------------------------------- */

struct repair {
	uint64_t lba;
	uint32_t nlb;
	uint8_t slot;
};

struct nexus {
	struct device dev;
	struct list link; /* of all */
	struct uuid uuid;
	uint64_t size;
	enum nexus_label label;
	bool is_size_required, is_round_robin;
	uint16_t cntlid_min, cntlid_max;
	uint64_t resv_key, preempt_key;
	uint8_t resv_type;
	enum nexus_preempt_policy preempt_policy;
	char key[STORE_KEY_MAX];
	struct geometry geometry;

	enum nexus_state state;
	enum nexus_status told;                  /* status of the last event */
	struct child *child[NEXUS_CHILDREN_MAX]; /* by slot; NULL: free */
	uint8_t order[NEXUS_CHILDREN_MAX];       /* slots, as they were added */
	unsigned nchildren;
	struct task_mutex control;

	struct desc *self;     /* of our own device: repair, and word of its removal */
	struct handle *self_h; /* on the primary */
	bool is_ending;        /* its removal has begun */

	/* retire.c */
	struct msg retire_msg;
	atomic_bool is_retire_rung;
	_Atomic uint8_t retiring;   /* slots whose word was swapped and whom nobody has looked at */
	atomic_bool wants_shutdown; /* a reservation conflict */
	struct task *retirer;
	struct list retire_waiters; /* tasks */
	bool is_frozen;
	uint64_t generation;
	struct store_writer *writer; /* owned */
	struct task_mutex record_lock;

	/* monitor.c */
	struct task *monitor;
	uint8_t closing; /* slots */
	struct msg gone_msg;
	atomic_bool is_gone_rung;

	/* repair.c */
	struct msg repair_msg[NEXUS_REPAIRS_MAX];
	struct repair repair[NEXUS_REPAIRS_MAX];

	/* marks.c */
	struct marks *marks; /* owned */

	struct overlap *overlap; /* owned */
	_Atomic uint32_t nblocked;
	struct nexus_bell bell[REACTORS_MAX];
	_Atomic uint64_t noverlaps, nrepairs, nrepairs_failed;
};

#endif
