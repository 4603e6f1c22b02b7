/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layer.h - `simlayer:///NAME?below=DEVICE&offset=BLOCKS`: a remapping layer that does everything
 *           a layer may do, by the dice.
 *
 * Owner:  as any driver's device; it holds an exclusive claim on the device below.
 * Thread: one.
 */
#ifndef SIM_LAYER_H
#define SIM_LAYER_H

#include "device/driver.h"

extern const struct driver driver_simlayer;

/* Forget requests and tasks that a failed run left behind. */
void layer_forget_all(void);

#endif
