/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disk.h - `simdisk:///MEDIUM[?uuid=UUID]`: a driver of the engine whose disk is simulated.
 *
 * Owner:  as any driver's device. The medium (medium.h) belongs to the scenario and must exist.
 * Thread: one.
 * Rules:  latency, order, batching and loss come from the world's seed; capabilities from the
 *         medium's options.
 */
#ifndef SIM_DISK_H
#define SIM_DISK_H

#include "device/driver.h"
#include "medium.h"

extern const struct driver driver_simdisk;

/* Requests that stuck end now with IO_ABORTED. Returns how many. */
unsigned disk_unstick(struct medium *m);
/* Cut the power: cached writes are lost, what is in flight ends with IO_NO_DEVICE. */
void disk_power_cut(struct medium *m);
/*
 * Who uses the disk has died: what is in flight may have been carried out or not, nothing that is
 * asked of it afterwards is, until medium_power_on(). The cache stays.
 */
void disk_kill(struct medium *m);
/* Requests inside the disk now, of all channels. */
unsigned disk_inside(const struct medium *m);
/* Forget requests that a failed run left behind. */
void disk_forget_all(void);

#endif
