/* SPDX-License-Identifier: Apache-2.0 */
/*
 * identity.c - uuids derived from what something is.
 *
 * A host that has mounted an exported namespace knows it by its NGUID, which is the device's uuid.
 * If the engine dies and comes back, the uuid must be the same or the host sees a strange disk. So
 * a device that stands for something lasting (a file, a disk, another device) and was given no
 * uuid gets one derived from that something, instead of a random one.
 *
 * Derived means: version 5 of RFC 4122, a SHA-1 over a name space and a name. SHA-1 serves as a
 * well-spread function here; nobody's security hangs on it. Two machines that both have a
 * /var/lib/disk.img must not end up with one uuid, because hosts take equal NGUIDs for two paths
 * to the same data. The machine's own id is therefore part of the name of everything local.
 *
 * Rejected: inode numbers and modification times (change when a file is copied back from a
 * backup), extended attributes (need a writable file system that has them), version 3 (MD5 is not
 * available in FIPS mode).
 *
 * Thread: any; identity_machine() reads a small file and belongs where blocking is allowed.
 */
#include "base/identity.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

/* A random uuid, drawn once: the name space of everything this file derives. */
static const uint8_t name_space[16] = { 0x5b, 0x0c, 0x77, 0x1e, 0x2d, 0x94, 0x4f, 0x3a,
					0x9a, 0x61, 0xc8, 0x40, 0x17, 0xee, 0x53, 0xb6 };

void identity_derive(const char *what, const char *of, struct uuid *ret_uuid)
{
	uint8_t text[sizeof(name_space) + IDENTITY_WHAT_MAX + 1 + IDENTITY_OF_MAX];
	uint8_t digest[EVP_MAX_MD_SIZE] = {};
	size_t nwhat = strnlen(what, IDENTITY_WHAT_MAX), nof = strnlen(of, IDENTITY_OF_MAX);

	memcpy(text, name_space, sizeof(name_space));
	memcpy(text + sizeof(name_space), what, nwhat);
	text[sizeof(name_space) + nwhat] = '\0';
	memcpy(text + sizeof(name_space) + nwhat + 1, of, nof);
	/* It can only fail where libcrypto has no SHA-1; then no identity can be derived. */
	if (EVP_Digest(text, sizeof(name_space) + nwhat + 1 + nof, digest, NULL, EVP_sha1(),
		       NULL) != 1) {
		uuid_random(ret_uuid);
		return;
	}
	memcpy(ret_uuid->b, digest, sizeof(ret_uuid->b));
	ret_uuid->b[6] = (uint8_t)((ret_uuid->b[6] & 0x0f) | 0x50); /* version 5 */
	ret_uuid->b[8] = (uint8_t)((ret_uuid->b[8] & 0x3f) | 0x80); /* variant of RFC 4122 */
}

void identity_machine(char *text, size_t size)
{
	CLEANUP(fclosep) FILE *file = fopen("/etc/machine-id", "re");

	text[0] = '\0';
	if (file != NULL && fgets(text, (int)size, file) != NULL)
		text[strcspn(text, "\n")] = '\0';
	if (text[0] == '\0' && gethostname(text, size) < 0)
		text[0] = '\0';
	text[size - 1] = '\0';
}
