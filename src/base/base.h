/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base.h - the few words of C that every other file speaks.
 *
 * Owner:  nobody; everything here is a macro or a static inline.
 * Thread: any.
 * Rules:  no function-like macro hides a return, a goto or a declaration. Cleanup helpers end in
 *         `p`, take a pointer to the variable, and accept the empty value (NULL, -1).
 */
#ifndef BASE_BASE_H
#define BASE_BASE_H
#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CLEANUP(fn)  __attribute__((cleanup(fn)))
#define WARN_UNUSED  __attribute__((warn_unused_result))
#define PRINTF(a, b) __attribute__((format(printf, a, b)))
#define HOT          __attribute__((hot))
#define COLD         __attribute__((cold))
#define NOINLINE     __attribute__((noinline))
#define UNUSED       __attribute__((unused))
/* Reads counters while another reactor counts on: each is whole, together they are about now. */
#define READS_RACING __attribute__((no_sanitize("thread")))
#define FALLTHROUGH  __attribute__((fallthrough))

#define likely(x)    __builtin_expect(!!(x), 1)
#define unlikely(x)  __builtin_expect(!!(x), 0)

/* Hands the pointer on and forgets it: the only way ownership leaves a CLEANUP variable. */
#define take(p)                          \
	({                               \
		__auto_type take_ = (p); \
		(p) = NULL;              \
		take_;                   \
	})

/* The same for a file descriptor. */
static inline int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

/* The structure that contains @ptr as @member. The condition is there only to draw a warning for a
 * pointer of another type; the detour through void * is for strict alignment warnings. */
#define container_of(ptr, type, member) \
	((type *)(void *)((uintptr_t)(1 ? (ptr) : &((type *)0)->member) - offsetof(type, member)))

/* Fails to compile for a pointer. */
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]) + 0 * sizeof(char[IS_ARRAY_(a) ? 1 : -1]))
#define IS_ARRAY_(a) (!__builtin_types_compatible_p(__typeof__(a), __typeof__(&(a)[0])))

/* Each argument is evaluated once; the counter keeps nested uses from shadowing each other. */
#define MIN(a, b)          PICK_(a, <, b, __COUNTER__)
#define MAX(a, b)          PICK_(a, >, b, __COUNTER__)
#define CLAMP(x, lo, hi)   MIN(MAX(x, lo), hi)
#define PICK_(a, op, b, n) PICK_AS_(a, op, b, n)
#define PICK_AS_(a, op, b, n)                                       \
	({                                                          \
		__auto_type pick_a_##n = (a);                       \
		__auto_type pick_b_##n = (b);                       \
		pick_a_##n op pick_b_##n ? pick_a_##n : pick_b_##n; \
	})

/* Unsigned arithmetic. ALIGN_* want a power of two and wrap silently: check a size that came from
 * outside with u64_align_up. DIV_ROUND_UP does not wrap. */
#define DIV_ROUND_UP(n, d) ((n) / (d) + ((n) % (d) != 0))
#define ALIGN_DOWN(x, a)   ((x) & ~((__typeof__(x))(a)-1))
#define ALIGN_UP(x, a)     ALIGN_DOWN((x) + ((__typeof__(x))(a)-1), a)
#define IS_ALIGNED(x, a)   (((x) & ((__typeof__(x))(a)-1)) == 0)

static inline bool is_pow2(uint64_t x)
{
	return x != 0 && (x & (x - 1)) == 0;
}

/* The exponent of the highest power of two <= @x; @x must not be 0. */
static inline unsigned u64_log2(uint64_t x)
{
	return 63u - (unsigned)__builtin_clzll(x);
}

/* Checked arithmetic: true and *@ret_sum set, or false when the result does not fit. */
WARN_UNUSED static inline bool u64_add(uint64_t a, uint64_t b, uint64_t *ret_sum)
{
	return !__builtin_add_overflow(a, b, ret_sum);
}

WARN_UNUSED static inline bool u64_mul(uint64_t a, uint64_t b, uint64_t *ret_product)
{
	return !__builtin_mul_overflow(a, b, ret_product);
}

/* @align must be a power of two. */
WARN_UNUSED static inline bool u64_align_up(uint64_t x, uint64_t align, uint64_t *ret_aligned)
{
	uint64_t sum;

	if (!u64_add(x, align - 1, &sum))
		return false;
	*ret_aligned = sum & ~(align - 1);
	return true;
}

WARN_UNUSED static inline bool size_add(size_t a, size_t b, size_t *ret_sum)
{
	return !__builtin_add_overflow(a, b, ret_sum);
}

WARN_UNUSED static inline bool size_mul(size_t a, size_t b, size_t *ret_product)
{
	return !__builtin_mul_overflow(a, b, ret_product);
}

/* Whether [@off, @off + @len) lies within [0, @limit), without computing a sum that may wrap. */
static inline bool range_fits(uint64_t off, uint64_t len, uint64_t limit)
{
	return len <= limit && off <= limit - len;
}

/* Cleanup functions: CLEANUP(freep) char *text = NULL; */
static inline void freep(void *ptr)
{
	void **slot = ptr;

	free(*slot);
	*slot = NULL;
}

static inline void closep(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd); /* nothing was written that a failing close could lose */
	*fd = -1;
}

static inline void fclosep(FILE **file)
{
	if (*file != NULL)
		(void)fclose(*file); /* who writes calls fclose itself and looks at its answer */
	*file = NULL;
}

static_assert(sizeof(size_t) == 8 && sizeof(void *) == 8, "sizes and offsets are 64 bits wide");
static_assert(sizeof(off_t) == 8, "file offsets are 64 bits wide");
#endif
