/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UUIDs over libuuid, with our own structure around them.
 *
 * libuuid knows the one canonical spelling and a good source of randomness; both are used. What is
 * added: the spellings that the control plane's language accepts as well (no hyphens, URN, braces),
 * so that a configuration that worked before works here; and a seam for the random source, because
 * a simulated run must name its devices the same way each time it is replayed.
 *
 * Invariants
 *   1. The bytes are in the order in which they are printed; no field is ever swapped.
 *   2. A refused text leaves the result untouched.
 *
 * Rejected: uuid_t in our interfaces (an array type: it cannot be assigned or returned, and
 * decays).
 *
 * Thread rule: see the header.
 */
#include "base/uuid.h"

#include <ctype.h>
#include <errno.h>
#include <uuid/uuid.h>

static random_fn random_source; /* NULL: libuuid */
static void *random_ctx;        /* borrowed */

static const char urn[] = "urn:uuid:";

/* Writes the canonical spelling of 32 hexadecimal digits to @canonical. */
static void add_hyphens(const char *digits, char canonical[UUID_TEXT_SIZE])
{
	unsigned to = 0;

	for (unsigned i = 0; i < 32; i++) {
		if (i == 8 || i == 12 || i == 16 || i == 20)
			canonical[to++] = '-';
		canonical[to++] = digits[i];
	}
	canonical[to] = '\0';
}

int uuid_from_text(const char *text, struct uuid *ret_uuid, struct err *err)
{
	char canonical[UUID_TEXT_SIZE] = "";
	const char *digits = text;
	size_t len = strlen(text);
	uuid_t parsed;

	if (len > 2 && text[0] == '{' && text[len - 1] == '}') {
		digits += 1;
		len -= 2;
	} else if (strncmp(text, urn, sizeof(urn) - 1) == 0) {
		digits += sizeof(urn) - 1;
		len -= sizeof(urn) - 1;
	}
	if (len == 32 && memchr(digits, '-', len) == NULL)
		add_hyphens(digits, canonical);
	else if (len == 36)
		memcpy(canonical, digits, 36);
	if (uuid_parse(canonical, parsed) != 0)
		return err_set(err, -EINVAL,
			       "'%.64s' is not a UUID; write it as "
			       "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx in hexadecimal digits",
			       text);
	memcpy(ret_uuid->b, parsed, sizeof(ret_uuid->b));
	return 0;
}

const char *uuid_to_text(const struct uuid *uuid, char text[UUID_TEXT_SIZE])
{
	uuid_unparse_lower(uuid->b, text);
	return text;
}

void uuid_random(struct uuid *ret_uuid)
{
	if (random_source == NULL) {
		uuid_generate_random(ret_uuid->b);
		return;
	}
	random_source(random_ctx, ret_uuid->b, sizeof(ret_uuid->b));
	ret_uuid->b[6] = (uint8_t)((ret_uuid->b[6] & 0x0f) | 0x40); /* version 4: RFC 4122, 4.4 */
	ret_uuid->b[8] = (uint8_t)((ret_uuid->b[8] & 0x3f) | 0x80); /* variant: RFC 4122, 4.1.1 */
}

void uuid_set_random(random_fn source, void *ctx)
{
	random_source = source;
	random_ctx = ctx;
}
