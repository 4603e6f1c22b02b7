/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guard.h - what a driver may be asked for right now: the model of gate, range locks and counts.
 *
 * Owner:  one guard per device, from guard_attach() to guard_detach().
 * Thread: one.
 * Rules:  the simulator's drivers report each request that enters and leaves them; the scenario
 *         reports when it holds a device quiesced or a range locked. Any contradiction is a
 *         violation. Real drivers are watched by guard_watch(), which puts a probe into channels.
 */
#ifndef SIM_GUARD_H
#define SIM_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include "device/device.h"
#include "device/driver.h"

enum {
	GUARD_INSIDE_MAX = 512,
	GUARD_LOCKS_MAX = 8,
};

struct guard_range {
	const struct io *io; /* NULL for a lock */
	uint64_t lba, nlb;
	uint8_t op;
	bool is_holder;
};

struct guard {
	struct device *dev; /* borrowed; the key */
	unsigned quiesced;  /* device_quiesce() returned, device_resume() was not yet called */
	struct guard_range inside[GUARD_INSIDE_MAX];
	unsigned ninside;
	struct guard_range lock[GUARD_LOCKS_MAX];
	unsigned nlocks;
	uint64_t entered[IO_OP_COUNT_];                              /* since guard_attach() */
	enum io_result (*submit)(struct channel *ch, struct io *io); /* a real driver's; or NULL */
};

struct guard *guard_attach(struct device *dev);
/* Checks that nothing is inside any more. */
void guard_detach(struct device *dev);
struct guard *guard_find(const struct device *dev); /* NULL: not watched */
void guard_forget_all(void);
/* Watch a real driver's submit, in all channels that exist now. Again when there are more. */
void guard_watch(struct device *dev);

/* From a driver: a request comes in, goes out. */
void guard_enter(struct device *dev, const struct io *io);
void guard_leave(struct device *dev, const struct io *io);
/* A read's loan is used now: it counts as inside wherever it went through. */
void guard_lent(const struct io *io);
/* A request passes through without coming back this way. */
void guard_pass(struct device *dev, const struct io *io);

/* From the scenario, right after the engine granted and right before it is given back. */
void guard_quiesced(struct device *dev);
void guard_resuming(struct device *dev);
void guard_locked(struct device *dev, uint64_t lba, uint64_t nlb);
void guard_unlocking(struct device *dev, uint64_t lba, uint64_t nlb);

#endif
