/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.h - where a command keeps the records of the mirrors that it makes.
 *
 * Owner:  the store lives as long as the process.
 * Thread: a task; cli_store_choose() before there is one.
 */
#ifndef ASHLAR_CLI_STORE_H
#define ASHLAR_CLI_STORE_H

#include "base/err.h"
#include "nexus/store.h"

/* An option's word, a directory or "memory", before that of the environment. Borrowed. */
void cli_store_choose(const char *where);
/* The store that was named; made at the first call. *ret: NULL for one in memory. */
int cli_store(struct nexus_store **ret, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* If an option named a directory: is it one that records can be kept in? It is made. */
int cli_store_check(struct err *err) MAY_SUSPEND WARN_UNUSED;
/* A device is about to be made from @uri: if it is a mirror, there is a store for it. */
int cli_store_for(const char *uri, struct err *err) MAY_SUSPEND WARN_UNUSED;

#endif
