/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.h - where the nexuses of a command keep their record.
 *
 * Owner:  this file; one store per process, made when the first nexus: URI is met.
 * Thread: store_prepare() in a task; store_done() when no engine runs.
 */
#ifndef ASHLAR_CLI_STORE_H
#define ASHLAR_CLI_STORE_H

#include "base/err.h"
#include "reactor/task.h"

struct nexus_store;

/*
 * Before a device is made of @uri. @where: a directory, "memory", or NULL for what ASHLAR_STORE
 * says, else the user's own directory. Nothing to do for other schemes, and after the first time.
 */
int store_prepare(const char *uri, const char *where, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* For who wants to look a record up. */
int store_get(struct nexus_store **ret, struct err *err) MAY_SUSPEND WARN_UNUSED;
void store_done(void);

#endif
