/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.h - where a command keeps the records of the mirrors that it makes.
 *
 * Owner:  the store lives as long as the process.
 * Thread: a task.
 */
#ifndef ASHLAR_CLI_STORE_H
#define ASHLAR_CLI_STORE_H

#include "base/err.h"
#include "nexus/store.h"

/* The store that the environment names; made at the first call. *ret: NULL for one in memory. */
int cli_store(struct nexus_store **ret, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* A device is about to be made from @uri: if it is a mirror, there is a store for it. */
int cli_store_for(const char *uri, struct err *err) MAY_SUSPEND WARN_UNUSED;

#endif
