/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lane.c - the slow lane of a channel.
 *
 * Some calls have no asynchronous form that is worth its name: a BLKDISCARD of a terabyte, lseek()
 * over the extents of a fragmented file, a large MADV_DONTNEED. They may take seconds and must not
 * stop a reactor. A lane hands such requests to the worker pool, a few at a time, and completes
 * them back home.
 *
 *   lane_push() -> waiting -> batch (pool thread: run() each) -> back on the reactor: io_complete()
 *
 * Invariants:
 *   1. The batch belongs to the pool from work_submit() to done(); the reactor only adds to
 *      waiting.
 *   2. A lane uses one pool thread at a time, so a channel that is flooded with unmaps cannot
 *      occupy the pool. What must not wait behind what gets a lane of its own.
 *   3. A batch is short: the first of many requests is answered long before the last.
 *
 * Nothing is allocated: requests are linked by their own msg.
 *
 * Rejected: one struct work per request (does not fit in the request's scratch space, and gives a
 * flood the whole pool); io_uring's fallocate (one kernel worker per request, and nothing like it
 * for block devices before Linux 6.12).
 */
#include "drivers/lane.h"

#include "base/base.h"

static struct io *io_of(struct msg *msg)
{
	return container_of(msg, struct io, msg);
}

static void lane_work(struct work *work)
{
	struct lane *lane = container_of(work, struct lane, work);
	struct msg *msg = lane->batch.head;

	for (; msg != NULL; msg = atomic_load_explicit(&msg->next, memory_order_relaxed))
		lane->run(io_of(msg));
}

static void lane_start(struct lane *lane)
{
	struct msg *msg;

	for (unsigned i = 0; i < LANE_BATCH && (msg = msg_list_pop(&lane->waiting)) != NULL; i++)
		msg_list_push(&lane->batch, msg);
	lane->is_running = true;
	work_submit(&lane->work);
}

static void lane_done(struct work *work)
{
	struct lane *lane = container_of(work, struct lane, work);
	struct msg *msg = msg_list_take_all(&lane->batch);

	lane->is_running = false;
	if (lane->waiting.head != NULL)
		lane_start(lane);
	while (msg != NULL) {
		struct io *io = io_of(msg);

		msg = atomic_load_explicit(&msg->next, memory_order_relaxed);
		io_complete(io, io->status);
	}
}

void lane_init(struct lane *lane, void (*run)(struct io *io))
{
	*lane = (struct lane){ .run = run };
	lane->work.fn = lane_work;
	lane->work.done = lane_done;
}

void lane_push(struct lane *lane, struct io *io)
{
	msg_list_push(&lane->waiting, &io->msg);
	if (!lane->is_running)
		lane_start(lane);
}
