/* SPDX-License-Identifier: Apache-2.0 */
/*
 * open.h - a URI from the command line, made into a device and opened on every reactor.
 *
 * Owner:  the command embeds struct opened; opened_close() gives everything back, also of a zeroed
 *         or half-made one.
 * Thread: a task.
 */
#ifndef ASHLAR_CLI_OPEN_H
#define ASHLAR_CLI_OPEN_H

#include "cli/opt.h"
#include "device/device.h"

struct opened {
	const char *uri;                     /* borrowed */
	struct device *dev;                  /* borrowed from the registry; NULL: not made */
	struct desc *desc;                   /* owned */
	struct handle *handle[REACTORS_MAX]; /* borrowed from desc, one per reactor */
};

/* @flags: enum desc_flag. -EINVAL, -ENOENT, -EBUSY ... with a message that names the URI. */
int opened_open(struct opened *o, const char *uri, unsigned flags,
		struct err *err) MAY_SUSPEND WARN_UNUSED;
/* The two steps of it: the device, which may be one that another URI has made, ... */
int opened_make(struct opened *o, const char *uri, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* ... and the rest. Closed on failure. */
int opened_start(struct opened *o, unsigned flags, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* Add to a message which URI it is about, and how to lift a limit that was met. Returns @rc. */
int opened_explain(const char *uri, int rc, struct err *err);
/* Closes, and destroys the device. */
void opened_close(struct opened *o) MAY_SUSPEND;

/* Arm the faults of --inject, once their devices are there. The engine's end disarms them. */
int faults_arm(const struct opt_list *uris, struct err *err) MAY_SUSPEND WARN_UNUSED;

#endif
