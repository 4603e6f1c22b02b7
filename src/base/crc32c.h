/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crc32c.h - CRC32C (Castagnoli) as NVMe/TCP digests and iSCSI use it.
 *
 * Thread: any.
 * Source: RFC 3720 section 12.1 (polynomial 0x11EDC6F41, reflected, initial value and final
 *         exclusive-or 0xFFFFFFFF) and its test vectors in B.4; NVMe/TCP transport specification
 *         1.0, section 3.3.1.1 refers to the same sum.
 */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H
#include "base/base.h"

/* The sum of what @crc covers followed by @buf. Start with 0; feed the result back to continue. */
uint32_t crc32c(uint32_t crc, const void *buf, size_t len);

/* Copies @src to @dst and returns crc32c(@crc, @src, @len), reading memory once: it goes forward in
 * steps that stay in the first-level cache. The areas must not overlap. */
uint32_t crc32c_copy(uint32_t crc, void *restrict dst, const void *restrict src, size_t len);
#endif
