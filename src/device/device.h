/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h - the three layers: device, descriptor, handle.
 *
 *   device      a named thing with size, block size, uuid, driver, statistics, events
 *     desc      one opening of it: read-only or read-write, with or without an exclusive claim
 *       handle  that opening on one reactor: where I/O is submitted, without locks
 *
 * Behind the handle stands the *channel*: the device's state on that reactor (driver queues, gate,
 * counters), shared by all handles of the reactor and counted by them.
 *
 * Thread: everything here that is MAY_SUSPEND runs in a task, so on the primary reactor.
 *         io_start(), io_submit() and io_forward() run on the handle's reactor.
 * Owner:  the registry owns devices; the opener owns its desc; handles belong to their desc and
 *         are closed before it.
 */
#ifndef ASHLAR_DEVICE_DEVICE_H
#define ASHLAR_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "base/err.h"
#include "base/list.h"
#include "base/uuid.h"
#include "device/io.h"
#include "device/stats.h"
#include "reactor/reactor.h"
#include "reactor/task.h"

struct driver;
struct device;
struct desc;
struct handle;

enum {
	DEVICE_NAME_MAX = 512, /* bytes with the NUL: an NVMe qualified name fits */
	DEVICE_BLOCK_SIZE_MIN = 512,
	DEVICE_BLOCK_SIZE_MAX = 65536,
	RANGE_LOCKS_MAX = 32, /* held at once on one device; further lockers queue */
};

struct lba_range {
	uint64_t lba, nlb;
};

/* ---- device ------------------------------------------------------------------------------- */

enum device_event_type {
	DEVICE_REMOVED,          /* close it: nothing will succeed any more */
	DEVICE_LOOPBACK_REMOVED, /* the alias it was opened through is gone */
	DEVICE_RESIZED,
	DEVICE_FAILED,      /* the driver gave up on it (admin queue, controller, ...) */
	DEVICE_MEDIA,       /* media management: something about the medium changed */
	DEVICE_RESERVATION, /* a remote namespace's reservation changed hands */
	DEVICE_ENDED,       /* it stays, but no I/O succeeds here any more, see device_end() */
	DEVICE_EVENT_COUNT_,
};

struct device_event {
	enum device_event_type type;
	struct device *dev;
	uint64_t old_nblocks; /* resized: before; now is dev->nblocks */
	const char *why;      /* failed: for people, borrowed for the call; NULL: not known */
	bool is_data_lost;    /* failed: it no longer holds all that it once acknowledged */
};

/*
 * Drivers embed it first. Constant after device_register() but for nblocks, is_removed and the
 * lists, which only the primary reactor changes.
 */
struct device {
	/* set by the driver before device_register() */
	const struct driver *driver;
	char name[DEVICE_NAME_MAX];
	struct uuid uuid; /* null: one is made up */
	uint64_t nblocks;
	uint32_t block_size; /* bytes, power of two */
	uint32_t ops;        /* IO_BIT()s that submit() takes; others are emulated or refused */
	uint32_t buf_align;  /* what the driver's memory must be aligned to, bytes, >= 1 */
	uint32_t max_io_nlb; /* largest request it takes, 0: no limit */
	uint32_t max_compare_write_nlb; /* more is IO_INVALID, for it must be atomic; 0: no limit */
	uint32_t physical_block_size;   /* bytes; hint, 0: block_size */
	uint32_t optimal_io_nlb;        /* hint, 0: none */
	bool has_write_cache;           /* volatile: FLUSH and FUA mean something */
	bool is_read_only;
	bool is_thin;          /* unmap gives space back, holes are known */
	bool unmap_reads_zero; /* after IO_UNMAP blocks read as zeroes */
	bool is_rotational;
	bool is_mirror; /* copies of it are elsewhere; it is what hosts use, not a copy itself */
	bool is_void;   /* keeps nothing: reads are undefined, nothing compares */
	unsigned stack_depth; /* 1 + the deepest device below */

	/* the device layer's */
	uint8_t block_shift;
	bool is_removed;
	bool is_ended;       /* device_end() */
	bool is_uuid_random; /* made up: another one next time */
	unsigned quiesce_count;
	struct list link; /* registry */
	struct list descs;
	struct list aliases; /* URIs it answers to */
	unsigned pins;       /* tasks at work on it, see device_pin() */
	const char *claim;   /* name of the module that writes exclusively, NULL: none */
	struct channel *channel[REACTORS_MAX];
	struct task_mutex control; /* channels are made, walked or freed */
	struct task_mutex drain;   /* I/O is being waited for; taken before control */
	struct task_event closed;  /* fired when the last desc of a removed device goes */
	struct list range_locks;
	struct io_stats *baseline;     /* owned; what a reset subtracts, NULL before the first */
	struct io_stats *closed_stats; /* owned; of channels that are gone, NULL: none yet */
};

/*
 * Make a device from a URI: finds the driver by scheme. *ret_dev is borrowed from the registry.
 * -EEXIST when the name is taken, -EINVAL for a bad URI, -ENOENT, -EACCES ... from the driver.
 */
int device_create(const char *uri, struct device **ret_dev,
		  struct err *err) MAY_SUSPEND WARN_UNUSED;
/*
 * Undo device_create() by the same URI: announces DEVICE_REMOVED, ends I/O with IO_NO_DEVICE, waits
 * until every desc is closed. -ENOENT for an unknown URI.
 */
int device_destroy(const char *uri, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* The same for a device in hand, whatever it was made from. */
int device_remove(struct device *dev, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* Destroy everything, openers first. For shutdown. */
void device_remove_all(void) MAY_SUSPEND;

/*
 * Keep a device from going while a task suspends without an opening of it. Removal waits for the
 * unpin as it waits for openers.
 */
void device_pin(struct device *dev);
void device_unpin(struct device *dev);

/* By name, then by alias (URI). NULL: not found. Primary reactor. */
struct device *device_lookup(const char *name);
struct device *device_next(struct device *prev); /* NULL starts; NULL ends */
/* The URI it was made from; borrowed. */
const char *device_uri(const struct device *dev);
bool device_has_alias(const struct device *dev, const char *uri);
static inline uint64_t device_size(const struct device *dev)
{
	return dev->nblocks << dev->block_shift;
}

/* Blocks that take up space, as far as the driver can tell; else all. */
uint64_t device_used(const struct device *dev);

/* Sum over all reactors, less the baseline of the last reset. */
void device_stats(struct device *dev, struct io_stats *ret_stats);
/* One operation only: for those who look often. */
void device_op_stats(struct device *dev, enum io_op op, struct op_stats *ret_stats);
int device_stats_reset(struct device *dev) WARN_UNUSED;

/*
 * The one primitive for structural change: hold new I/O at the gate, wait for what is in flight;
 * swap whatever must be swapped; let the held I/O go. Calls nest.
 */
void device_quiesce(struct device *dev) MAY_SUSPEND;
void device_resume(struct device *dev) MAY_SUSPEND;
/* Quiesced, so that no request sees two sizes; announces DEVICE_RESIZED. */
int device_resize(struct device *dev, uint64_t nblocks, struct err *err) MAY_SUSPEND WARN_UNUSED;
void device_announce(struct device *dev, enum device_event_type type);
/* With what belongs to it. */
void device_announce_event(struct device *dev, const struct device_event *event);
/*
 * Its driver ends it for good although nobody removed it: from the next request on I/O ends with
 * IO_ENDED. Announces DEVICE_ENDED, once. Not "removed": the data is not gone, another engine may
 * serve it, so who gives it to hosts sends them to their other paths instead of failing them.
 */
void device_end(struct device *dev);
/*
 * Its owner gives the device up and will close it: nothing hangs on it any longer than it takes to
 * cut connections. Does not wait. Drivers whose I/O ends by itself do nothing.
 */
void device_abort(struct device *dev) MAY_SUSPEND;

/*
 * Exclusive range: returns once no other I/O overlapping it is in flight and later ones wait at
 * the gate; only requests with IO_LOCK_HOLDER pass. Overlapping lockers queue, first come first
 * served. Owner: the caller, until unlocked.
 */
struct range_lock {
	struct list link; /* in the device's list, held or queued, in order of arrival */
	struct lba_range range;
	struct task *waiter;
	bool is_held;
};
int range_lock(struct device *dev, struct range_lock *lock, uint64_t lba, uint64_t nlb,
	       struct err *err) MAY_SUSPEND WARN_UNUSED;
void range_unlock(struct device *dev, struct range_lock *lock) MAY_SUSPEND;

/* ---- descriptor --------------------------------------------------------------------------- */

enum desc_flag {
	DESC_WRITE = 1 << 0,
	DESC_CLAIM = 1 << 1, /* be the one who owns it; -EBUSY if somebody else is. It stops other
			      * claims, not plain openings: a rebuild writes beside the owner. */
};

struct desc {
	struct device *dev; /* borrowed; stays valid until desc_close() */
	unsigned flags;
	/* Events; primary reactor; must not suspend, may spawn a task. NULL: not interested. */
	void (*event)(struct desc *desc, const struct device_event *event);
	void *owner; /* the opener's */

	struct list link;
	struct handle *handle[REACTORS_MAX]; /* owned */
};

struct desc_opts {
	unsigned flags;
	const char *claim; /* module name for DESC_CLAIM */
	void (*event)(struct desc *desc, const struct device_event *event);
	void *owner;
};

int desc_open(struct device *dev, const struct desc_opts *opts, struct desc **ret_desc,
	      struct err *err) MAY_SUSPEND WARN_UNUSED;
/* Closes its handles too; nothing of this desc may be in flight. NULL is fine. */
void desc_close(struct desc *desc) MAY_SUSPEND;
/* Give up the exclusive claim but stay open. */
void desc_unclaim(struct desc *desc);

/* ---- handle ------------------------------------------------------------------------------- */

struct handle {
	struct channel *ch; /* counted */
	uint32_t ops;       /* IO_BIT()s this opening may submit */
	struct desc *desc;
};

/* The handle of @desc on @r, made on first use. Owned by the desc. */
int handle_open(struct desc *desc, struct reactor *r, struct handle **ret_handle,
		struct err *err) MAY_SUSPEND WARN_UNUSED;

/* On the handle's reactor: every loan that was read through @h becomes a copy (io_unlend()). */
void handle_recall(struct handle *h);

/* ---- channel: a device on one reactor ----------------------------------------------------- */

/* Why a channel's requests cannot take the fast path. */
enum gate {
	GATE_QUIESCED = 1 << 0, /* hold */
	GATE_LOCKED = 1 << 1,   /* some range is locked: look closer */
	GATE_REMOVED = 1 << 2,  /* fail with IO_NO_DEVICE */
	GATE_FAULTS = 1 << 3,   /* faults are armed */
	GATE_DRAINING = 1 << 4, /* someone waits for an epoch to end */
	GATE_LIMITED = 1 << 5,  /* the device has a largest request: look closer */
};

/* Drivers embed it first in their own channel. */
struct channel {
	/* hot */
	enum io_result (*submit)(struct channel *ch, struct io *io);
	uint64_t nblocks;
	uint32_t gate;   /* enum gate; 0: fast path */
	uint32_t ops;    /* what submit takes */
	uint32_t sample; /* counts down to the next exactly timed request */
	uint8_t block_shift;
	uint8_t epoch; /* 0 or 1: which counter new requests go into */
	uint16_t refs; /* handles; primary reactor */
	uint32_t inflight[2];
	struct op_count count[IO_OP_COUNT_]; /* finished well, per operation */
	struct io_stats *stats;              /* owned; latencies and errors */
	struct reactor *reactor;
	struct device *dev;
	/* cold */
	struct msg_list held; /* requests waiting at the gate (io.msg links) */
	struct lba_range locked[RANGE_LOCKS_MAX];
	unsigned nlocked;
	struct emulation *reserve; /* owned; emulate.c's last resort, NULL: never needs one */
	void (*drained)(struct channel *ch, void *arg);
	void *drained_arg;
	uint8_t drain_epoch;
};

/* Slow paths and slow halves, gate.c and channel.c. */
enum io_result io_issue_slow(struct channel *ch, struct io *io);
enum io_result io_account_error(struct channel *ch, struct io *io);
/* Put an IO_DONE request on its reactor's deferred list so that done() is called from the loop. */
void io_defer_done(struct io *io);

static inline bool io_is_in_range(const struct channel *ch, const struct io *io)
{
	return range_fits(io->lba, io->nlb, ch->nblocks);
}

/* What a frame keeps for the way back up; needed once a request stays below. */
static inline void io_frame_keep(struct io_frame *f, enum io_result (*hook)(struct io *io),
				 uint64_t lba, uint32_t nlb)
{
	f->hook = hook;
	f->lba = lba;
	f->nlb = nlb;
}

/* Hand @io to a channel: one frame, one check, the driver. Inline completions touch little. */
static inline enum io_result io_issue(struct channel *ch, struct io *io,
				      enum io_result (*hook)(struct io *io))
{
	const uint8_t depth = io->depth;
	struct io_frame *f = &io->frame[depth];
	struct op_count *count = &ch->count[io->op];
	const uint64_t lba = io->lba;
	const uint32_t nlb = io->nlb;
	const bool is_slow = ch->gate != 0 || !(ch->ops >> io->op & 1) ||
			     !range_fits(lba, nlb, ch->nblocks) || count->ops % STATS_SAMPLE == 0;

	f->ch = ch;
	io->ch = ch;
	io->depth = depth + 1; /* a byte: what is read before need not be read again */
	if (unlikely(is_slow)) {
		io_frame_keep(f, hook, lba, nlb);
		return io_issue_slow(ch, io);
	}
	if (ch->submit(ch, io) == IO_PENDING) {
		io_frame_keep(f, hook, lba, nlb);
		f->submit_ns = ch->reactor->now_ns;
		f->epoch = ch->epoch;
		ch->inflight[ch->epoch]++;
		return IO_PENDING;
	}
	io->depth = depth;
	io->lba = lba;
	io->nlb = nlb;
	if (unlikely(io->status != IO_OK))
		return io_account_error(ch, io);
	count->ops++;
	count->blocks += nlb;
	return IO_DONE;
}

/*
 * Submit from the top. IO_DONE: finished, status is set, done() will not be called.
 * The owner has set op, flags, lba, nlb, iov, iovcnt and done.
 */
static inline enum io_result io_start(struct handle *h, struct io *io)
{
	io->depth = 0;
	io->status = IO_OK;
	if (unlikely(!(h->ops >> io->op & 1))) {
		io->status = IO_BIT(io->op) & IO_OPS_WRITING && !(h->desc->flags & DESC_WRITE)
				     ? IO_READ_ONLY
				     : IO_UNSUPPORTED;
		return IO_DONE;
	}
	return io_issue(h->ch, io, NULL);
}

/* Submit from the top; done() is called from the loop in any case. */
static inline void io_submit(struct handle *h, struct io *io)
{
	if (io_start(h, io) == IO_DONE)
		io_defer_done(io);
}

/* For a layer's submit(): send the request on to the device below; @hook sees it come back. */
static inline enum io_result io_forward(struct handle *below, struct io *io,
					enum io_result (*hook)(struct io *io))
{
	if (io_issue(below->ch, io, hook) == IO_PENDING)
		return IO_PENDING;
	return hook == NULL ? IO_DONE : hook(io);
}

/* For drivers: a pending request ended. On its reactor, outside submit(). */
void io_complete(struct io *io, uint16_t status);

/* ---- waiting forms ------------------------------------------------------------------------ */

/* In a task: submit on a handle of the primary reactor and wait. Returns the status. */
uint16_t io_wait(struct handle *h, struct io *io) MAY_SUSPEND;

#endif
