/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uring.h - the reactor's io_uring: submission entries out, completions back to their owners.
 *
 * Owner:  struct uring belongs to its reactor. A struct uring_op belongs to whoever submits it and
 *         must stay valid until done() ran without URING_MORE.
 * Thread: the reactor's.
 */
#ifndef ASHLAR_REACTOR_URING_H
#define ASHLAR_REACTOR_URING_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>

#include "reactor/reactor.h"

struct uring_op {
	/* @res: result or negative errno; @flags: IORING_CQE_F_*, F_MORE says that more follow. */
	void (*done)(struct uring_op *op, int res, uint32_t flags);
};

enum {
	URING_ENTRIES = 1024, /* submission entries; completions: four times as many */
	URING_DRAIN_MS = 5000,
};

/*
 * A zeroed submission entry that will report to @op; submitted at the latest at the end of the
 * turn. Never fails: when the queue is full it is handed to the kernel first.
 */
struct io_uring_sqe *uring_sqe(struct reactor *r, struct uring_op *op);

/* The kernel backend. */
extern const struct reactor_backend reactor_backend_uring;
int uring_open(struct reactor *r, struct err *err) WARN_UNUSED;
/*
 * The reactor's last act on its own thread: cancel what is still in the ring and report it to its
 * owners (res is -ECANCELED, or whatever came first), so that the kernel holds nothing of theirs
 * any more. Owners do not submit again on -ECANCELED. Gives up with a log line after
 * URING_DRAIN_MS, which only a device that does not answer can cause.
 */
void uring_drain(struct reactor *r);
/* Any thread, once the reactor's has ended. */
void uring_close(struct reactor *r);

#endif
