/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lane.h - requests that have to block, taken one after the other through the worker pool.
 *
 * Owner:  embedded in a driver's channel; empty when the channel closes, as nothing is in flight.
 * Thread: lane_push() and completions on the channel's reactor; run() on a pool thread.
 * Rules:  run() sets io->status (and io->result), blocks as it likes, touches nothing of the
 *         channel that its reactor writes. Requests of one lane never overlap each other.
 */
#ifndef ASHLAR_DRIVERS_LANE_H
#define ASHLAR_DRIVERS_LANE_H

#include "device/device.h"
#include "reactor/worker.h"

enum {
	LANE_BATCH = 8, /* requests that go to the pool, and come back, together */
};

struct lane {
	struct work work;
	void (*run)(struct io *io);
	struct msg_list waiting; /* the reactor's: not with the pool yet */
	struct msg_list batch;   /* the pool's while is_running */
	bool is_running;
};

void lane_init(struct lane *lane, void (*run)(struct io *io));
/* Takes @io over; it completes with the status that run() gave it. */
void lane_push(struct lane *lane, struct io *io);

#endif
