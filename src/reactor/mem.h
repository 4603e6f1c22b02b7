/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mem.h - memory that devices may read and write: page aligned, huge-backed where the kernel has
 * some to give, and buffer pools on top.
 *
 * Owner:  dma_alloc()'s caller; a pool owns its buffers.
 * Thread: dma_alloc()/dma_free() any thread, control path only. A bufpool belongs to one reactor.
 */
#ifndef ASHLAR_REACTOR_MEM_H
#define ASHLAR_REACTOR_MEM_H

#include <stddef.h>
#include <stdint.h>

#include "base/base.h"
#include "base/err.h"

enum {
	DMA_ALIGN = 4096, /* bytes; what every allocation is aligned to at least */
};

/*
 * Zeroed memory of @size bytes rounded up to pages; from 2 MiB on aligned to 2 MiB and advised
 * for transparent huge pages. NULL when memory or address space is short.
 */
void *dma_alloc(size_t size) WARN_UNUSED;
void dma_free(void *ptr, size_t size);
/* Give whole pages inside [ptr, ptr + size) back to the system; they read as zeroes then. */
void dma_discard(void *ptr, size_t size);
/* Bytes handed out now. Any thread. */
uint64_t dma_bytes_in_use(void);

/* Equal buffers, last in first out so that the hot ones stay in the cache. */
struct bufpool {
	void **free;                      /* stack of free buffers, owned */
	void *base;                       /* one dma allocation, owned */
	size_t buf_size;                  /* bytes, multiple of DMA_ALIGN */
	uint32_t count, nfree, nfree_min; /* nfree_min: low-water mark for the statistics */
};

int bufpool_init(struct bufpool *pool, size_t buf_size, uint32_t count,
		 struct err *err) WARN_UNUSED;
void bufpool_done(struct bufpool *pool); /* also of a zeroed or half-made one */

static inline void *bufpool_get(struct bufpool *pool)
{
	if (pool->nfree == 0)
		return NULL;
	if (--pool->nfree < pool->nfree_min)
		pool->nfree_min = pool->nfree;
	return pool->free[pool->nfree];
}

static inline void bufpool_put(struct bufpool *pool, void *buf)
{
	pool->free[pool->nfree++] = buf;
}

#endif
