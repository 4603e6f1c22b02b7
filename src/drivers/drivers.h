/* SPDX-License-Identifier: Apache-2.0 */
/*
 * drivers.h - the drivers of this folder, for the table in src/schemes.c.
 */
#ifndef ASHLAR_DRIVERS_DRIVERS_H
#define ASHLAR_DRIVERS_DRIVERS_H

#include "device/driver.h"

extern const struct driver driver_aio;
extern const struct driver driver_loopback;
extern const struct driver driver_malloc;
extern const struct driver driver_null;
extern const struct driver driver_nvmf;
extern const struct driver driver_passthru;
extern const struct driver driver_uring;

/*
 * How many requests came back through a passthru device, summed over its reactors. 0 for any other
 * device. Primary reactor.
 */
uint64_t passthru_completions(const struct device *dev);

#endif
