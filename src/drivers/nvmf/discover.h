/* SPDX-License-Identifier: Apache-2.0 */
/*
 * discover.h - ask a discovery controller what it knows.
 *
 * Owner:  the caller frees the list.
 * Thread: a task on the primary reactor.
 */
#ifndef ASHLAR_DRIVERS_NVMF_DISCOVER_H
#define ASHLAR_DRIVERS_NVMF_DISCOVER_H

#include <stdint.h>

#include "base/err.h"
#include "drivers/nvme/spec.h"
#include "reactor/task.h"

enum { DISCOVER_ENTRIES_MAX = 4096 }; /* a longer log is refused */

struct discover_entry {
	char subnqn[NVME_NQN_SIZE];
	char addr[257], service[33]; /* printable, without blanks at the end */
	uint8_t trtype, adrfam, subtype;
	uint16_t portid, cntlid;
};

struct discover_list {
	uint64_t generation;
	unsigned count;
	struct discover_entry entry[];
};

/* @hostnqn may be NULL: the default. *ret_list is for free(). */
int nvmf_discover(const char *host, uint16_t port, const char *hostnqn,
		  struct discover_list **ret_list, struct err *err) MAY_SUSPEND WARN_UNUSED;

#endif
