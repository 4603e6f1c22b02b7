/* SPDX-License-Identifier: Apache-2.0 */
/*
 * driver.h - what a driver is: one const table, found by its URI schemes.
 *
 * The device layer has checked range, capability, state and read-only before submit() is called,
 * it counts, injects faults and completes exactly once. A driver only moves data.
 * src/drivers/null.c is the tutorial.
 */
#ifndef ASHLAR_DEVICE_DRIVER_H
#define ASHLAR_DEVICE_DRIVER_H

#include "base/uri.h"
#include "device/device.h"

struct driver {
	const char *name;           /* "malloc" */
	const char *product;        /* what listings show */
	const char *const *schemes; /* NULL-terminated */
	const char *help;    /* one line: "malloc:///NAME?size_mb=N[&blk_size=512|4096]..." */
	size_t channel_size; /* of the driver's struct that embeds struct channel first */

	/*
	 * Parse the URI, uri_reject_unused() it, make the device, device_register() it.
	 * A driver that finds its device there already decides what that means (-EEXIST, resize,
	 * alias).
	 */
	int (*create)(struct uri *uri, struct device **ret_dev, struct err *err);
	/* Free a device that has no channels any more. */
	void (*destroy)(struct device *dev);

	/* One reactor's state. Run in a task on the primary; task_call() reaches the reactor. */
	int (*channel_open)(struct channel *ch, struct err *err); /* NULL: nothing to do */
	void (*channel_close)(struct channel *ch);                /* NULL: nothing to do */
	/* On the channel's reactor. See io.h for the contract. */
	enum io_result (*submit)(struct channel *ch, struct io *io);

	/* Optional. Read the size again after the backing store changed; sets *ret_nblocks. */
	int (*rescan)(struct device *dev, uint64_t *ret_nblocks, struct err *err);
	/* Optional. Blocks that take up space now, quickly. Primary reactor. */
	uint64_t (*used)(const struct device *dev);
	/*
	 * Optional. Which of the driver's devices @uri leads to, where its path is not the name;
	 * the alias that is meant to *@ret_alias, borrowed. NULL: none.
	 */
	struct device *(*find)(const struct uri *uri, const char **ret_alias);
	/*
	 * Optional. @uri, one of the device's aliases, is being destroyed. 0: it was a part only (a
	 * path), and is gone now; the device stays. 1: it is all there is, remove the device.
	 */
	int (*leave)(struct device *dev, const char *uri);
	/* Optional. The device was removed, openers are about to be told: end what is held below
	 * the gate, for they wait for it. */
	void (*removing)(struct device *dev);
	/*
	 * Optional. In a task on the primary. The device is being given up: what is in flight or
	 * held on this channel ends soon, whatever it waits for, and what comes later fails.
	 */
	void (*abort)(struct channel *ch);
	/* Optional. After device_resize() swapped the size, e.g. to move memory. Quiesced. */
	int (*resized)(struct device *dev, uint64_t old_nblocks, struct err *err);
};

/* The table of all drivers, NULL-terminated; handed over at start because it stands above us. */
void drivers_set(const struct driver *const *table);
const struct driver *driver_by_scheme(const char *scheme);
const struct driver *const *drivers(void);

/*
 * Check the fields, take the name (-EEXIST), enter the registry. The driver still owns @dev on
 * failure.
 */
int device_register(struct device *dev, struct err *err) WARN_UNUSED;

/* Parameters that many drivers share: blk_size (512 or 4096 ...), uuid. 0 or -EINVAL. */
int driver_param_block_size(struct uri *uri, uint32_t fallback, uint32_t *ret,
			    struct err *err) WARN_UNUSED;
int driver_param_uuid(struct uri *uri, struct uuid *ret, struct err *err) WARN_UNUSED;
/* size_mb xor num_blocks; @required: one must be given, else 0 blocks. Overflow is an error. */
int driver_param_size(struct uri *uri, uint32_t block_size, bool required, uint64_t *ret_nblocks,
		      struct err *err) WARN_UNUSED;

#endif
