/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uuid.h - identifiers of devices, hosts and runs (RFC 4122), bytes in the order they are printed.
 *
 * Thread: any; uuid_set_random before threads start.
 * Rules:  names differ from libuuid's, which is linked into the same program.
 */
#ifndef BASE_UUID_H
#define BASE_UUID_H
#include <string.h>

#include "base/base.h"
#include "base/err.h"
#include "base/rng.h"

enum { UUID_TEXT_SIZE = 37 }; /* 36 characters and the NUL */

struct uuid {
	uint8_t b[16];
};

/* Accepts 8-4-4-4-12 hexadecimal digits of either case, the same 32 without hyphens, and either
 * with "urn:uuid:" in front or in braces. -EINVAL otherwise, with @ret_uuid untouched. */
WARN_UNUSED int uuid_from_text(const char *text, struct uuid *ret_uuid, struct err *err);

/* Lower case with hyphens; returns @text. */
const char *uuid_to_text(const struct uuid *uuid, char text[UUID_TEXT_SIZE]);

/* A random uuid (version 4) from the system, or from the source that uuid_set_random named. */
void uuid_random(struct uuid *ret_uuid);

/* Lets a simulator or a test own the randomness; NULL gives it back to the system. */
void uuid_set_random(random_fn source, void *ctx);

static inline bool uuid_is_zero(const struct uuid *uuid)
{
	static const struct uuid zero;

	return memcmp(uuid, &zero, sizeof(zero)) == 0;
}

static inline bool uuid_equal(const struct uuid *a, const struct uuid *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}
#endif
