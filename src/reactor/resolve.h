/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resolve.h - host names to numeric addresses, off the reactor.
 *
 * Owner:  the caller's buffer receives the answer.
 * Thread: a task on the primary reactor; the look-up itself runs where it may block.
 */
#ifndef ASHLAR_REACTOR_RESOLVE_H
#define ASHLAR_REACTOR_RESOLVE_H

#include <stddef.h>

#include "base/err.h"
#include "reactor/task.h"

enum {
	RESOLVE_ADDR_MAX = 64, /* "fe80::1%eth0" and its NUL */
	RESOLVE_MAX = 8,       /* addresses of one name that are told; more are left out */
};

/* In the order in which they should be tried, as text without brackets. */
struct resolved {
	unsigned count; /* at least 1 */
	char addr[RESOLVE_MAX][RESOLVE_ADDR_MAX];
};

/* Look @host up; may block. 0, or a negative errno and the resolver's reason in @err. */
typedef int (*resolve_fn)(const char *host, struct resolved *ret, struct err *err);

/*
 * The addresses of @host; a numeric address is its own answer. -ENOENT: nobody knows the name;
 * -EAGAIN: nobody who would know it answers; -ENOMEM.
 */
int resolve_host(const char *host, struct resolved *ret, struct err *err) MAY_SUSPEND WARN_UNUSED;

/* Replace the system's resolver, for a simulator or a test; NULL gives it back. */
void resolve_set(resolve_fn fn);

#endif
