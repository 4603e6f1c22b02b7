/* SPDX-License-Identifier: Apache-2.0 */
/*
 * emulate.h - operations that a driver lacks, made from those it has, and unaligned buffers.
 *
 *   compare         read in chunks, compare          write_zeroes   writes of a shared zero buffer
 *   compare_write   the same, then write, under a    seek           everything is data
 *                   range lock of the whole device   reset          nothing to reset: success
 *   flush           without a volatile cache: success
 *
 * unmap is not emulated: a host sees success only where the device gives something back.
 *
 * Owner:  a request that is emulated is ours until it completes; the parts are ours.
 * Thread: the channel's reactor; emulate_open() in a task on the primary.
 * Limits: EMULATE_MAX emulations at a time on a reactor, EMULATE_CHUNK bytes of data each; more
 *         wait in order.
 */
#ifndef ASHLAR_DEVICE_EMULATE_H
#define ASHLAR_DEVICE_EMULATE_H

#include <stdint.h>

#include "base/err.h"
#include "device/device.h"
#include "device/io.h"

enum {
	EMULATE_MAX = 32,         /* at a time, on one reactor */
	EMULATE_CHUNK = 64 << 10, /* bytes, >= DEVICE_BLOCK_SIZE_MAX */
};

/* IO_BIT()s that emulate_submit() adds to dev->ops; 0 for what the driver does itself. */
uint32_t emulated_ops(const struct device *dev);

/* Buffers of this channel's reactor, counted: once for each channel, before and after its use. */
int emulate_open(struct channel *ch, struct err *err) WARN_UNUSED;
void emulate_close(struct channel *ch);

/*
 * For io_issue_slow(), where the driver's submit would be called but lacks the operation and
 * emulated_ops() has it. The frame is pushed, the same contract as submit.
 */
enum io_result emulate_submit(struct channel *ch, struct io *io);

/*
 * A compare-and-write must own its range before it counts as in flight. Called before
 * emulate_submit() and before fault_submit() when @io is an emulated IO_COMPARE_WRITE.
 * True: go on. False: held, return IO_PENDING without counting; io_reissue() follows once the range
 * is locked. The lock is given back when the request is done.
 */
bool emulate_lock(struct channel *ch, struct io *io);
/* Is it @io, in its top frame, that such a lock was taken for? */
bool emulate_holds_lock(struct channel *ch, const struct io *io);

/*
 * For a driver's submit(): take a read, write or compare whose buffers are not aligned, and do it
 * through aligned ones (base: DMA_ALIGN, length: whole blocks), which come back to submit() as
 * reads and writes. Same contract as submit. Anything else ends with IO_INVALID: compare-and-write
 * cannot be cut into parts and stay atomic.
 */
enum io_result io_bounce(struct channel *ch, struct io *io);

/*
 * Provided by gate.c: a part of an emulated request. Pushes a frame of @ch and calls its driver,
 * past gate, faults and statistics (its parent has been through them). @io->depth is 0 before.
 * IO_DONE or IO_PENDING as io_start(); done() is called from the loop.
 */
enum io_result io_issue_part(struct channel *ch, struct io *io);

#endif
