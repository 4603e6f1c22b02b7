/* SPDX-License-Identifier: Apache-2.0 */
/*
 * schemes.h - the table of all drivers. It stands at the root because drivers, nexus and pools do,
 * and the device layer below them gets it handed over at start.
 */
#ifndef ASHLAR_SCHEMES_H
#define ASHLAR_SCHEMES_H

#include "device/driver.h"

extern const struct driver *const scheme_table[]; /* NULL-terminated */

#endif
