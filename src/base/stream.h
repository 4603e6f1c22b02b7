/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.h - a copy that goes past the caches, for memory that is larger than they are.
 *
 * An ordinary store reads the line that it is going to change, throws a line out of the cache that
 * somebody may have wanted, and is written to memory later all the same. A non-temporal store of a
 * whole line does none of that. Copying hot blocks of 4 KiB to random places, ns per copy, Zen 4
 * with 16 MiB of L3 to the core, huge pages:
 *
 *     destination    1 MiB   4 MiB   8 MiB   16 MiB   64 MiB   256 MiB
 *     memcpy           106     113     162      293      473       575
 *     stream_copy      155     154     153      157      156       160
 *
 * The same holds for 512 bytes (85 and 22 ns at 256 MiB) and for 64 KiB. Where the copy is read
 * back soon, the reader pays what the writer saved: about the same in sum (608 and 589 ns). So it
 * is for whoever knows that what he writes to does not fit a cache; a few hot blocks in there cost
 * him 40 ns each.
 *
 * Rejected: wider registers (no difference); prefetching the destination for an ordinary copy
 * (1 to 16 lines of the next one gain a fifth; there is nothing to fetch for this one).
 *
 * Thread: any. The stores are seen by other threads in no particular order until stream_end().
 * Rules:  @dst is aligned to a line, @len a multiple of it; stream_end() before anybody else is
 *         told of the data. The areas do not overlap.
 */
#ifndef BASE_STREAM_H
#define BASE_STREAM_H
#include <string.h>

#include "base/base.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum {
	STREAM_LINE = 64, /* bytes: a cache line of x86-64 */
};

static inline void stream_copy(void *restrict dst, const void *restrict src, size_t len)
{
#ifdef __SSE2__
	__m128i *to = dst;
	const __m128i *from = src;

	for (; len > 0; len -= STREAM_LINE, to += 4, from += 4) {
		__m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
		__m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);

		_mm_stream_si128(to, a);
		_mm_stream_si128(to + 1, b);
		_mm_stream_si128(to + 2, c);
		_mm_stream_si128(to + 3, d);
	}
#else
	memcpy(dst, src, len);
#endif
}

/* All that this thread has streamed comes before what it stores from now on. */
static inline void stream_end(void)
{
#ifdef __SSE2__
	_mm_sfence();
#endif
}
#endif
