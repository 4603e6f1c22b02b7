/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alloc.c - the engine's allocations, counted by wrapping the C library's functions at link time.
 *
 * Every seed must end with as much memory as it began with, and a control operation must survive
 * the failure of each allocation in it. Both need to see allocations one by one: a set of live
 * pointers (open addressing, grown when half full) remembers size and caller.
 *
 * Invariants
 *   1. A pointer is in the set from its allocation until free() or until the next mark.
 *   2. free() of a pointer that is not in the set is passed on: libraries allocate too (strdup's
 *      wrapper is here, asprintf and uriparser are not).
 *
 * What the engine frees is filled with FREED_BYTE and kept until the next mark, at most
 * QUARANTINE_MAX bytes of it: who still reads it meets nonsense, and who writes to it is found, as
 * each block is looked at again before it goes. Under a sanitizer this is left to the sanitizer.
 *
 * Rejected: mallinfo2(), whose figures jump with the caches of the C library; the leak sanitizer,
 * which looks only once, when the process ends, and cannot say which seed.
 */
#include "alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "world.h"

struct cell {
	void *ptr; /* NULL: free, DELETED: was used */
	void *caller;
	size_t size;
	bool is_engine; /* not of the simulator's own */
};

#define DELETED ((void *)1)

#if defined(__SANITIZE_ADDRESS__)
#define WITH_QUARANTINE 0
#else
#define WITH_QUARANTINE 1
#endif

enum {
	FREED_BYTE = 0xdd,
	QUARANTINE_MAX = 16 << 20,
	QUARANTINE_BLOCK_MAX = 8 << 10, /* larger ones cost more than they tell */
};

static struct {
	struct cell *cell;
	size_t count, room, bytes;
} quarantine;

static struct {
	struct cell *cell;
	size_t size, used, live; /* used: with the deleted ones */
	uint64_t count;
	unsigned fail_at;
	bool (*applies)(void);
	bool has_failed;
} set;

extern const char __executable_start[]; /* the linker's */

/* Where in the program, as addr2line wants it. */
static size_t place_of(const void *caller)
{
	return (size_t)((const char *)caller - __executable_start);
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *ptr, size_t size);
void *__real_reallocarray(void *ptr, size_t n, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
char *__real_strdup(const char *text);
void __real_free(void *ptr);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *ptr, size_t size);
void *__wrap_reallocarray(void *ptr, size_t n, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
char *__wrap_strdup(const char *text);
void __wrap_free(void *ptr);

static size_t set_place(const void *ptr)
{
	return (size_t)(((uintptr_t)ptr >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 20) &
	       (set.size - 1);
}

static void set_put(struct cell cell)
{
	size_t i = set_place(cell.ptr);

	while (set.cell[i].ptr != NULL && set.cell[i].ptr != DELETED)
		i = (i + 1) & (set.size - 1);
	set.used += set.cell[i].ptr == NULL;
	set.cell[i] = cell;
	set.live++;
}

static void set_grow(void)
{
	struct cell *old = set.cell;
	size_t old_size = set.size;

	set.size = MAX(set.live * 4, (size_t)4096);
	set.size = (size_t)1 << (u64_log2(set.size - 1) + 1);
	set.cell = __real_calloc(set.size, sizeof(*set.cell));
	if (set.cell == NULL)
		abort();
	set.used = set.live = 0;
	for (size_t i = 0; i < old_size; i++) {
		if (old[i].ptr != NULL && old[i].ptr != DELETED)
			set_put(old[i]);
	}
	__real_free(old);
}

static void *note(void *ptr, size_t size, void *caller)
{
	if (ptr == NULL)
		return NULL;
	if (set.used * 2 >= set.size)
		set_grow();
	set_put((struct cell){
		.ptr = ptr, .caller = caller, .size = size, .is_engine = sim_alloc_shield == 0 });
	return ptr;
}

/* Off the set; *ret_cell (may be NULL) says what it was. False: it was not in it. */
static bool unnote(const void *ptr, struct cell *ret_cell)
{
	if (ptr == NULL || set.size == 0)
		return false;
	for (size_t i = set_place(ptr); set.cell[i].ptr != NULL; i = (i + 1) & (set.size - 1)) {
		if (set.cell[i].ptr == ptr) {
			if (ret_cell != NULL)
				*ret_cell = set.cell[i];
			set.cell[i].ptr = DELETED;
			set.live--;
			return true;
		}
	}
	return false;
}

static void quarantine_put(const struct cell *cell)
{
	if (quarantine.count == quarantine.room) {
		quarantine.room = quarantine.room * 2 + 1024;
		quarantine.cell = __real_reallocarray(quarantine.cell, quarantine.room,
						      sizeof(*quarantine.cell));
		if (quarantine.cell == NULL)
			abort();
	}
	memset(cell->ptr, FREED_BYTE, cell->size);
	quarantine.cell[quarantine.count++] = *cell;
	quarantine.bytes += cell->size;
}

size_t alloc_check_freed(void)
{
	size_t spoilt = 0;

	for (size_t i = 0; i < quarantine.count; i++) {
		const struct cell *cell = &quarantine.cell[i];
		const uint8_t *bytes = cell->ptr;
		size_t at = 0;

		while (at < cell->size && bytes[at] == FREED_BYTE)
			at++;
		if (at < cell->size && spoilt++ < 5)
			fprintf(stderr,
				"    byte %zu of %zu bytes from %p was written after free\n", at,
				cell->size, cell->caller);
		__real_free(cell->ptr);
	}
	quarantine.count = quarantine.bytes = 0;
	return spoilt;
}

static bool must_fail(void)
{
	set.count++;
	if (set.fail_at == 0 || sim_alloc_shield > 0 || !set.applies() || --set.fail_at > 0)
		return false;
	set.has_failed = true;
	return true;
}

void *__wrap_malloc(size_t size)
{
	return must_fail() ? NULL : note(__real_malloc(size), size, __builtin_return_address(0));
}

void *__wrap_calloc(size_t n, size_t size)
{
	return must_fail() ? NULL
			   : note(__real_calloc(n, size), n * size, __builtin_return_address(0));
}

void *__wrap_realloc(void *ptr, size_t size)
{
	return __wrap_reallocarray(ptr, 1, size);
}

void *__wrap_reallocarray(void *ptr, size_t n, size_t size)
{
	void *moved;

	if (must_fail())
		return NULL;
	(void)unnote(ptr, NULL);
	moved = __real_reallocarray(ptr, n, size);
	return note(moved, n * size, __builtin_return_address(0));
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
	return must_fail()
		       ? NULL
		       : note(__real_aligned_alloc(align, size), size, __builtin_return_address(0));
}

char *__wrap_strdup(const char *text)
{
	return must_fail()
		       ? NULL
		       : note(__real_strdup(text), strlen(text) + 1, __builtin_return_address(0));
}

void __wrap_free(void *ptr)
{
	struct cell cell;

	if (unnote(ptr, &cell) && WITH_QUARANTINE && cell.is_engine &&
	    cell.size <= QUARANTINE_BLOCK_MAX && quarantine.bytes + cell.size <= QUARANTINE_MAX)
		quarantine_put(&cell);
	else
		__real_free(ptr);
}

void alloc_mark(void)
{
	if (set.size > 0)
		memset(set.cell, 0, set.size * sizeof(*set.cell));
	set.used = set.live = 0;
}

size_t alloc_live(void)
{
	return set.live;
}

size_t alloc_live_engine(void)
{
	size_t count = 0;

	for (size_t i = 0; i < set.size; i++)
		count += set.cell[i].ptr != NULL && set.cell[i].ptr != DELETED &&
			 set.cell[i].is_engine;
	return count;
}

uint64_t alloc_count(void)
{
	return set.count;
}

void alloc_print(unsigned max)
{
	for (size_t i = 0; i < set.size && max > 0; i++) {
		const struct cell *cell = &set.cell[i];

		if (cell->ptr == NULL || cell->ptr == DELETED)
			continue;
		fprintf(stderr, "    %zu bytes from %#zx%s\n", cell->size, place_of(cell->caller),
			cell->is_engine ? "" : " (simulator)");
		max--;
	}
}

void alloc_fail_at(unsigned nth, bool (*applies)(void))
{
	set.applies = applies;
	set.fail_at = nth;
	set.has_failed = false;
}

bool alloc_has_failed(void)
{
	return set.has_failed;
}
