/* SPDX-License-Identifier: Apache-2.0 */
/*
 * repair.c - blocks that one child could not read, written back from one that could.
 *
 *   data path: (slot, lba, nlb) into a short queue --ring--> task:
 *     lock the range -> read a healthy child -> write the other -> read it again, compare ->
 *     unlock
 *
 * The range lock keeps the host's writes away between reading and writing, or old data could land
 * on new. It waits for what is in flight, so it is taken without anything of ours pending. A
 * child that cannot be written either, or gives back something else, is retired. One that is out
 * meanwhile is let be: its rebuild will write these blocks.
 *
 * A full queue drops what comes: the next read of the block brings it again, and a scrub finds
 * it.
 *
 * Thread: nexus_repair_ring() on any reactor; the flag is held for a few stores, in an error
 * path.
 */
#include <string.h>

#include "base/log.h"
#include "nexus/internal.h"
#include "reactor/mem.h"

enum {
	REPAIR_CHUNK = 64 << 10, /* bytes read and written at once, >= DEVICE_BLOCK_SIZE_MAX */
};

static void repair_lock(struct nexus *nx)
{
	while (atomic_flag_test_and_set_explicit(&nx->repair_lock, memory_order_acquire))
		;
}

static void repair_unlock(struct nexus *nx)
{
	atomic_flag_clear_explicit(&nx->repair_lock, memory_order_release);
}

void nexus_repair_ring(struct nexus *nx, uint8_t slot, uint64_t lba, uint32_t nlb)
{
	repair_lock(nx);
	if (nx->nrepairs_queued < NEXUS_REPAIRS_MAX)
		nx->repair[nx->nrepairs_queued++] = (struct repair){ .lba = lba,
								     .nlb = nlb,
								     .slot = slot };
	repair_unlock(nx);
	errand_ring(&nx->mend);
	nexus_health_wake(nx);
}

static bool repair_next(struct nexus *nx, struct repair *ret)
{
	bool has_one;

	repair_lock(nx);
	has_one = nx->nrepairs_queued > 0;
	if (has_one)
		*ret = nx->repair[--nx->nrepairs_queued];
	repair_unlock(nx);
	return has_one;
}

/* One request to one child, in blocks of the nexus. */
static uint16_t child_io(struct child *child, enum io_op op, uint64_t lba, uint32_t nlb,
			 void *buf) MAY_SUSPEND
{
	struct child_request request = {
		.op = op, .lba = lba + child->nx->geometry.data_start, .nlb = nlb, .buf = buf
	};

	return child_io_bounded(child, &request);
}

static uint16_t read_elsewhere(struct nexus *nx, const struct child *bad, uint64_t lba,
			       uint32_t nlb, void *buf) MAY_SUSPEND
{
	uint16_t status = IO_NO_DEVICE;

	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX && status != IO_OK; slot++) {
		if (nx->child[slot] != NULL && nx->child[slot] != bad &&
		    child_is_healthy(nx->child[slot]))
			status = child_io(nx->child[slot], IO_READ, lba, nlb, buf);
	}
	return status;
}

/* The range is locked. True: the child can read the blocks again, or need not. */
static bool mend_chunk(struct nexus *nx, uint8_t slot, uint64_t lba, uint32_t nlb,
		       uint8_t *buf) MAY_SUSPEND
{
	struct child *bad = nx->child[slot];
	size_t len = (size_t)nlb << nx->dev.block_shift;
	uint16_t status;

	if (bad == NULL || !child_is_healthy(bad))
		return false;
	if (read_elsewhere(nx, bad, lba, nlb, buf) != IO_OK)
		return false;
	if (nx->child[slot] != bad)
		return false; /* it was removed while another was read */
	status = child_io(bad, IO_WRITE, lba, nlb, buf);
	if (status == IO_OK)
		status = child_io(bad, IO_READ, lba, nlb, buf + REPAIR_CHUNK);
	if (status == IO_OK && memcmp(buf, buf + REPAIR_CHUNK, len) == 0)
		return true;
	nexus_child_blame(bad, IO_WRITE, status);
	return false;
}

static void mend(struct nexus *nx, const struct repair *repair, uint8_t *buf) MAY_SUSPEND
{
	struct nexus_event event = {
		.type = NEXUS_EVENT_REPAIRED, .nx = nx, .lba = repair->lba, .nlb = repair->nlb
	};
	uint32_t step = REPAIR_CHUNK >> nx->dev.block_shift;
	struct range_lock lock;

	if (range_lock(&nx->dev, &lock, repair->lba, repair->nlb, NULL) < 0)
		return;
	event.is_ok = true;
	for (uint32_t done = 0; done < repair->nlb && event.is_ok; done += step)
		event.is_ok = mend_chunk(nx, repair->slot, repair->lba + done,
					 MIN(step, repair->nlb - done), buf);
	range_unlock(&nx->dev, &lock);
	atomic_fetch_add(event.is_ok ? &nx->nrepairs : &nx->nrepairs_failed, 1);
	if (nx->child[repair->slot] == NULL)
		return;
	event.child = nx->child[repair->slot]->uri;
	event.health = child_health_of(nx->child[repair->slot]);
	log_warn("nexus %s: child %s could not read blocks %lu+%u: %s", nx->dev.name, event.child,
		 repair->lba, repair->nlb, event.is_ok ? "repaired" : "not repaired");
	nexus_tell_event(&event);
}

void nexus_mend_run(struct nexus *nx)
{
	uint8_t *buf = dma_alloc((size_t)2 * REPAIR_CHUNK);
	struct repair repair;

	if (buf == NULL)
		log_error("nexus %s: no memory to repair blocks", nx->dev.name);
	while (repair_next(nx, &repair)) {
		if (buf != NULL && !nx->is_ended)
			mend(nx, &repair, buf);
	}
	if (buf != NULL)
		dma_free(buf, (size_t)2 * REPAIR_CHUNK);
}
