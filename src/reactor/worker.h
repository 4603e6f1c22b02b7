/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker.h - a small pool of threads for calls that block (name resolution, BLKDISCARD, SEEK_HOLE,
 * fsync where io_uring cannot), so that no reactor ever does.
 *
 * Owner:  the submitter embeds struct work; it is his again when done() runs.
 * Thread: fn() on a pool thread, done() on the reactor that submitted. Order is not kept.
 */
#ifndef ASHLAR_REACTOR_WORKER_H
#define ASHLAR_REACTOR_WORKER_H

#include "reactor/reactor.h"

enum {
	WORKERS_MAX = 4, /* threads, started on demand, ended with the engine */
};

struct work {
	struct msg msg; /* for the pool and the way back */
	struct reactor *origin;
	void (*fn)(struct work *work);
	void (*done)(struct work *work);
};

/* Submit from a reactor's thread. Goes through the reactor's backend: the simulator owns it. */
static inline void work_submit(struct work *work)
{
	work->origin = reactor_self();
	work->origin->backend->work(work->origin, work);
}

/* The real pool, for the kernel backend. */
void worker_pool_run(struct reactor *r, struct work *work);
void worker_pool_stop(void);

#endif
