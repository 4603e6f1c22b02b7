/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CRC32C over ISA-L.
 *
 * ISA-L's crc32_iscsi is the bare recurrence: it takes the running register as it is, inverts
 * nothing and gives the register back. The sum as the standards define it starts from all ones and
 * is inverted at the end. crc32c() keeps the *standard* value between calls (invert on the way in,
 * invert on the way out), so that 0 starts a sum, results compare with the wire, and
 * crc32c(crc32c(0, a), b) is the sum of a followed by b.
 *
 * ISA-L wants a length of type int and a pointer to non-const bytes that it does not write; both
 * end here.
 *
 * Thread rule: any thread; ISA-L picks the implementation for this CPU once, idempotently.
 *
 * Rejected: the CRC32 instruction by intrinsics (a fifth of the speed without the three-way
 * interleave and folding that ISA-L has); zlib's CRC (another polynomial).
 */
#include "base/crc32c.h"

#include <isa-l/crc.h>
#include <string.h>

enum {
	CRC_STEP = 1 << 30,   /* longest run given to ISA-L, whose length is an int */
	COPY_STEP = 8 * 1024, /* source and copy of one step fit into 32 KiB of cache with room */
};

uint32_t crc32c(uint32_t crc, const void *buf, size_t len)
{
	const uint8_t *from = buf;

	crc = ~crc;
	while (len > 0) {
		size_t step = MIN(len, (size_t)CRC_STEP);

		crc = crc32_iscsi((unsigned char *)(uintptr_t)from, (int)step, crc);
		from += step;
		len -= step;
	}
	return ~crc;
}

uint32_t crc32c_copy(uint32_t crc, void *restrict dst, const void *restrict src, size_t len)
{
	uint8_t *to = dst;
	const uint8_t *from = src;

	while (len > 0) {
		size_t step = MIN(len, (size_t)COPY_STEP);

		memcpy(to, from, step);
		crc = crc32c(crc, from, step);
		to += step;
		from += step;
		len -= step;
	}
	return crc;
}
