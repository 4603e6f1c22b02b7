/* SPDX-License-Identifier: Apache-2.0 */
/* stream_copy() against memcpy(): lengths of a few lines, from any alignment, nothing beyond. */
#include "base/stream.h"

#include "base/rng.h"
#include "base/tap.h"

enum { LINES = 70 };

TEST(stream_copies_what_memcpy_does)
{
	static uint8_t src[(LINES + 1) * STREAM_LINE];
	static _Alignas(STREAM_LINE) uint8_t dst[(LINES + 1) * STREAM_LINE];
	static uint8_t want[sizeof(dst)];
	struct rng rng;

	rng_init(&rng, 7);
	rng_fill(&rng, src, sizeof(src));
	for (size_t lines = 0; lines < LINES; lines++) {
		for (size_t skew = 0; skew < STREAM_LINE; skew += 7) {
			memset(dst, 0xa5, sizeof(dst));
			memset(want, 0xa5, sizeof(want));
			memcpy(want + STREAM_LINE, src + skew, lines * STREAM_LINE);
			stream_copy(dst + STREAM_LINE, src + skew, lines * STREAM_LINE);
			stream_end();
			if (!CHECK_MEM(dst, want, sizeof(dst)))
				return;
		}
	}
}

TAP_MAIN()
