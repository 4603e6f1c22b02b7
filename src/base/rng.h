/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rng.h - a small seeded generator of random numbers: the same seed gives the same numbers on every
 *         machine, for ever, because a failing simulation is replayed by its seed.
 *
 * Owner:  embedded; nobody shares one.
 * Thread: one at a time.
 * Rules:  not for secrets. The algorithm is xoshiro256** 1.0, seeded through splitmix64, both
 *         published by Blackman and Vigna ("Scrambled linear pseudorandom number generators", ACM
 *         TOMS 47, 2021); constants are theirs.
 */
#ifndef BASE_RNG_H
#define BASE_RNG_H
#include <string.h>

#include "base/base.h"

/* A source of random bytes that cannot fail: the seam through which a simulator owns randomness. */
typedef void (*random_fn)(void *ctx, void *buf, size_t len);

struct rng {
	uint64_t s[4]; /* never all zero */
};

/* One step of splitmix64: also a good mixer of 64 bits. */
static inline uint64_t splitmix64(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static inline void rng_init(struct rng *rng, uint64_t seed)
{
	for (unsigned i = 0; i < ARRAY_LEN(rng->s); i++)
		rng->s[i] = splitmix64(&seed);
}

static inline uint64_t rng_rotate_(uint64_t x, unsigned by)
{
	return x << by | x >> (64 - by);
}

static inline uint64_t rng_next(struct rng *rng)
{
	uint64_t *s = rng->s;
	uint64_t result = rng_rotate_(s[1] * 5, 7) * 9;
	uint64_t t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rng_rotate_(s[3], 45);
	return result;
}

/* 0 .. @bound - 1, each equally likely; @bound must not be 0. Multiplies where others divide, and
 * draws again in the rare case that would favour small results (Lemire, ACM TOMACS 29, 2019). */
static inline uint64_t rng_below(struct rng *rng, uint64_t bound)
{
	unsigned __int128 product = (unsigned __int128)rng_next(rng) * bound;

	if (unlikely((uint64_t)product < bound)) {
		uint64_t reject_below = -bound % bound;

		while ((uint64_t)product < reject_below)
			product = (unsigned __int128)rng_next(rng) * bound;
	}
	return (uint64_t)(product >> 64);
}

/* @low .. @high, both inclusive; @low <= @high. */
static inline uint64_t rng_range(struct rng *rng, uint64_t low, uint64_t high)
{
	uint64_t span = high - low + 1;

	return span == 0 ? rng_next(rng) : low + rng_below(rng, span);
}

/* True @times out of @out_of: rng_chance(rng, 1, 100) is one per cent. */
static inline bool rng_chance(struct rng *rng, uint64_t times, uint64_t out_of)
{
	return rng_below(rng, out_of) < times;
}

/* A random_fn whose context is a struct rng. */
static inline void rng_fill(void *rng, void *buf, size_t len)
{
	uint8_t *to = buf;

	while (len > 0) {
		uint64_t word = rng_next(rng);
		size_t step = len < sizeof(word) ? len : sizeof(word);

		memcpy(to, &word, step);
		to += step;
		len -= step;
	}
}
#endif
