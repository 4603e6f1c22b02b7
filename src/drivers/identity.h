/* SPDX-License-Identifier: Apache-2.0 */
/*
 * identity.h - what drivers have in common when they make a device: its name from the URI, its
 * block size, its uuid from what it stands for.
 *
 * Thread: any; no state.
 */
#ifndef ASHLAR_DRIVERS_IDENTITY_H
#define ASHLAR_DRIVERS_IDENTITY_H

#include "base/err.h"
#include "base/identity.h"
#include "base/uri.h"
#include "device/device.h"

/*
 * Set dev->name. -EINVAL when @name is empty or the URI has a host (two slashes where three are
 * meant), -ENAMETOOLONG beyond DEVICE_NAME_MAX.
 */
int identity_name(struct device *dev, const struct uri *uri, const char *name,
		  struct err *err) WARN_UNUSED;

/* blk_size as memory devices have it: 512 (default) or 4096. -EINVAL for any other. */
int identity_block_size(struct device *dev, struct uri *uri, struct err *err) WARN_UNUSED;

#endif
