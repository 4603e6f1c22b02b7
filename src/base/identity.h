/* SPDX-License-Identifier: Apache-2.0 */
/*
 * identity.h - uuids that are the same the next time, for what stands for something lasting.
 *
 * Thread: any; no state.
 */
#ifndef ASHLAR_BASE_IDENTITY_H
#define ASHLAR_BASE_IDENTITY_H

#include "base/uuid.h"

enum {
	IDENTITY_WHAT_MAX = 256, /* bytes that count */
	IDENTITY_OF_MAX = 1024,
};

/*
 * The same two texts give the same uuid for ever, on every machine: RFC 4122 version 5 (section
 * 4.3) over "@what\0@of" in a name space of our own.
 */
void identity_derive(const char *what, const char *of, struct uuid *ret_uuid);

/* A text that differs between machines: /etc/machine-id, else the host name. */
void identity_machine(char *text, size_t size);

#endif
