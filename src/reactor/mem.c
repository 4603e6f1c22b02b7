/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mem.c - device memory from plain anonymous mappings.
 *
 * Each allocation is its own mapping: allocations are few (per device, connection, pool), live
 * long and are large, so a sub-allocator would only add a way to fragment. From 2 MiB on a mapping
 * is aligned for transparent huge pages and asks for them; measured, they save a third of the time
 * of a cold 4 KiB copy. Nothing is populated in advance: an idle engine holds no memory.
 *
 * Pages are given back with MADV_DONTNEED, after which they read as zeroes; that is what makes the
 * memory device thin.
 *
 * Rejected: hugetlb pages by default (must be reserved by root), mlock (the default limit is
 * 8 MiB and VFIO, the one that needs pinned memory, pins it itself).
 */
#include "reactor/mem.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

enum {
	HUGE_SIZE = 2 << 20, /* bytes; the huge page of x86-64 and of arm64 with 4 KiB pages */
};

static _Atomic uint64_t bytes_in_use;

static void *map(size_t size)
{
	void *ptr = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return ptr == MAP_FAILED ? NULL : ptr;
}

/* Map more than needed and cut the ends off. */
static void *map_aligned(size_t size)
{
	char *ptr = map(size + HUGE_SIZE), *start;

	if (ptr == NULL)
		return NULL;
	start = ptr + (-(uintptr_t)ptr & (HUGE_SIZE - 1));
	if (start > ptr)
		(void)munmap(ptr, (size_t)(start - ptr));
	if (start < ptr + HUGE_SIZE)
		(void)munmap(start + size, (size_t)(ptr + HUGE_SIZE - start));
	(void)madvise(start, size, MADV_HUGEPAGE); /* refused where THP is off: still memory */
	return start;
}

void *dma_alloc(size_t size)
{
	void *ptr;

	if (size == 0 || size > SIZE_MAX / 2)
		return NULL;
	size = ALIGN_UP(size, (size_t)DMA_ALIGN);
	ptr = size >= HUGE_SIZE ? map_aligned(size) : map(size);
	if (ptr != NULL)
		atomic_fetch_add_explicit(&bytes_in_use, size, memory_order_relaxed);
	return ptr;
}

void dma_free(void *ptr, size_t size)
{
	if (ptr == NULL)
		return;
	size = ALIGN_UP(size, (size_t)DMA_ALIGN);
	(void)munmap(ptr, size);
	atomic_fetch_sub_explicit(&bytes_in_use, size, memory_order_relaxed);
}

void dma_discard(void *ptr, size_t size)
{
	uintptr_t start = ALIGN_UP((uintptr_t)ptr, (uintptr_t)DMA_ALIGN);
	uintptr_t end = ALIGN_DOWN((uintptr_t)ptr + size, (uintptr_t)DMA_ALIGN);

	if (start < end)
		(void)madvise((char *)ptr + (start - (uintptr_t)ptr), end - start, MADV_DONTNEED);
}

uint64_t dma_bytes_in_use(void)
{
	return atomic_load_explicit(&bytes_in_use, memory_order_relaxed);
}

int bufpool_init(struct bufpool *pool, size_t buf_size, uint32_t count, struct err *err)
{
	size_t bytes;

	assert(buf_size > 0 && IS_ALIGNED(buf_size, DMA_ALIGN) && count > 0);
	*pool = (struct bufpool){ .buf_size = buf_size, .count = count };
	if (!size_mul(buf_size, count, &bytes))
		return err_set(err, -ENOMEM, "buffer pool too large");
	pool->free = calloc(count, sizeof(*pool->free));
	pool->base = dma_alloc(bytes);
	if (pool->free == NULL || pool->base == NULL) {
		bufpool_done(pool);
		return err_set(err, -ENOMEM, "no memory for %u buffers of %zu bytes", count,
			       buf_size);
	}
	for (uint32_t i = count; i > 0; i--)
		bufpool_put(pool, (char *)pool->base + (i - 1) * buf_size);
	pool->nfree_min = count;
	return 0;
}

void bufpool_done(struct bufpool *pool)
{
	dma_free(pool->base, pool->buf_size * pool->count);
	free(pool->free);
	*pool = (struct bufpool){};
}
