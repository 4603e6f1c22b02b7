/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.h - faults on purpose, in every build: armed and removed by URI while the engine runs.
 *
 *   inject://DEVICE?domain=&op=&stage=&method=&begin_at=&end_at=&offset=&num_blk=&retries=
 *                  &delay_us=&torn_ok=&bits=&probability=&seed=
 *
 *            io_issue_slow()                                     unwind
 *   owner ---> holds ---> fault_submit() ---> driver ... ---> fault_complete() ---> accounting
 *                 ^           |  |                               |   ^
 *                 |   FAULT_HELD FAULT_DONE             IO_PENDING   |
 *                 +-- io_reissue()                        io_resume_unwind()
 *
 * Owner:  the registry in fault.c owns faults; a channel owns its links to them. A request that a
 *         fault holds or has redirected is the fault layer's until it lets go; the owner's data and
 *         iovec are never changed by a write, and put back before the frame above sees them.
 * Thread: fault_add() to fault_channel_close() in a task on the primary; fault_submit(),
 *         fault_complete() and fault_match() on the channel's reactor.
 * Cost:   GATE_FAULTS is set on a channel only while something is armed on its device (or still in
 *         the hands of a fault that was removed), so nothing armed means nothing called.
 * Limits: FAULTS_MAX armed at a time; FAULT_BYTES_MAX of private data on each reactor, beyond which
 *         requests wait in order.
 */
#ifndef ASHLAR_DEVICE_FAULT_H
#define ASHLAR_DEVICE_FAULT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "device/device.h"
#include "device/io.h"

enum {
	FAULTS_MAX = 256,
	FAULT_BYTES_MAX = 16 << 20,       /* bytes; one request may be larger than this, alone */
	FAULT_BITS_MAX = 4096,            /* bits one `corrupt` may flip */
	FAULT_DELAY_MAX_US = 3600000000u, /* microseconds: an hour */
};

enum fault_domain {
	FAULT_CHILD,   /* a nexus asks about I/O to one child: fault_match() */
	FAULT_BLOCK,   /* a device; it may appear later */
	FAULT_BDEV_IO, /* a device that exists now */
	FAULT_DOMAIN_COUNT_,
};

enum fault_stage {
	FAULT_SUBMIT = 1 << 0,
	FAULT_COMPLETION = 1 << 1,
};

enum fault_method {
	FAULT_STATUS,  /* fail it; at completion: if it succeeded */
	FAULT_DATA,    /* replace the data by a fixed pseudo-random stream */
	FAULT_DELAY,   /* hold it for a while */
	FAULT_TORN,    /* write only a prefix of whole blocks, then fail, or lie */
	FAULT_CORRUPT, /* flip bits */
	FAULT_DROP,    /* acknowledge, do nothing */
	FAULT_METHOD_COUNT_,
};

/* A URI taken apart: what one injection does. */
struct fault_spec {
	char device[DEVICE_NAME_MAX];
	enum fault_domain domain;
	uint32_t ops;    /* IO_BIT()s */
	unsigned stages; /* enum fault_stage */
	enum fault_method method;
	uint16_t status; /* FAULT_STATUS, FAULT_TORN: what the request ends with */
	bool is_torn_ok; /* torn: succeed nevertheless */
	uint32_t bits;   /* corrupt: how many to flip */
	uint64_t delay_min_us, delay_max_us;
	uint64_t begin_ms, end_ms; /* since the first match; end is exclusive */
	uint64_t lba, end_lba;     /* end is exclusive, UINT64_MAX: none */
	uint64_t retries;          /* fires so often; UINT64_MAX: for ever */
	double probability;
	bool has_seed;
	uint64_t seed;
};

/* Pure: needs no device, no reactor. -EINVAL with what is wrong. */
int fault_parse(const char *uri, struct fault_spec *ret_spec, struct err *err) WARN_UNUSED;
/* IO_BIT()s on which @method acts at @stage. */
uint32_t fault_method_ops(enum fault_method method, enum fault_stage stage);

/* ---- control ------------------------------------------------------------------------------ */

/*
 * Arm. -EINVAL for a bad URI, -ENODEV when the domain bdev_io names a device that does not exist,
 * -EEXIST for a text that is armed already, -ENOSPC beyond FAULTS_MAX, -ENOMEM.
 */
int fault_add(const char *uri, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* Disarm by the exact text. -ENOENT. Requests it holds are let go when their time is over. */
int fault_remove(const char *uri, struct err *err) MAY_SUSPEND WARN_UNUSED;
void fault_remove_all(void) MAY_SUSPEND;

struct fault_info {
	const char *uri; /* borrowed, until the fault is removed */
	const char *device;
	bool is_active; /* has a device, and may fire again */
	uint64_t hits;  /* requests that matched */
	uint64_t fired; /* times it did something */
};

/* for (unsigned i = 0; fault_list(i, &info); i++), in the order they were added. Primary. */
bool fault_list(unsigned index, struct fault_info *ret_info);

/* ---- called by the device layer ------------------------------------------------------------ */

/* @dev has entered the registry and has no channels yet; and before it leaves it. */
void fault_device_added(struct device *dev);
void fault_device_removed(struct device *dev);
/* A channel was made and is not in use yet: arms it. And: it is not in use any more. */
int fault_channel_open(struct channel *ch, struct err *err) WARN_UNUSED;
void fault_channel_close(struct channel *ch);

enum fault_action {
	FAULT_PASS, /* go on to the driver's submit */
	FAULT_DONE, /* io->status says how it ended: go on as if submit had said IO_DONE, but do
		     * not ask fault_complete() */
	FAULT_HELD, /* taken over: count nothing, return IO_PENDING. io_reissue() comes later */
};

/*
 * Only while ch->gate has GATE_FAULTS, right before the driver's (or the emulation's) submit, after
 * everything else that may hold or refuse the request. The frame is pushed, nothing counted yet.
 */
enum fault_action fault_submit(struct channel *ch, struct io *io);

/*
 * Only while ch->gate has GATE_FAULTS, first thing of the way up from the driver of @ch (io_top(io)
 * is still its frame, io->status set): before in-flight counters, statistics and hooks. Also when
 * the driver said IO_DONE inside submit: if this answers IO_PENDING then, count it as in flight and
 * return IO_PENDING. IO_DONE: go on. IO_PENDING: held, still in flight; io_resume_unwind() follows.
 */
enum io_result fault_complete(struct channel *ch, struct io *io);

/* ---- provided by gate.c --------------------------------------------------------------------- */

/*
 * From the loop: send the request through the gate of its top frame again, as if a hold had ended
 * (quiesce, locks and removal are looked at again, fault_submit() is called again and lets it
 * pass). If that ends it, the way up and done() follow from here.
 */
void io_reissue(struct io *io);
/* From the loop: go on upwards behind fault_complete() of its top frame. */
void io_resume_unwind(struct io *io);

/* ---- for others that have a domain of their own --------------------------------------------- */

/* How many faults of each domain are armed; fault.c's. */
extern _Atomic unsigned fault_domain_count[FAULT_DOMAIN_COUNT_];

/* May fault_match() find anything? A load and a branch, for those who ask per request. */
static inline bool fault_domain_armed(enum fault_domain domain)
{
	return atomic_load_explicit(&fault_domain_count[domain], memory_order_relaxed) != 0;
}

/*
 * Does an armed fault of @domain for @name fire now for this operation? Then what it does, borrowed
 * until the calling reactor is back in its loop, else NULL. Cheap when nothing of that domain is
 * armed. Any reactor's thread.
 */
const struct fault_spec *fault_match(enum fault_domain domain, enum fault_stage stage,
				     const char *name, const struct io *io);

#endif
