/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mirror_rebuild.c - the simplest rebuild there can be, to have one below the play of mirrors.
 *
 * One task per child: lock a segment's range, read a healthy child, write the other, unlock; flush;
 * in sync. It is what src/nexus/internal.h says at its end and nothing else.
 */
#include <errno.h>
#include <string.h>

#include "cover.h"
#include "mirror.h"
#include "nexus/internal.h"
#include "reactor/mem.h"
#include "reactor/task.h"

struct job {
	struct list link;
	struct child *child;
	struct nexus *nx;
	bool must_stop;
};

static struct list jobs = { &jobs, &jobs };

static uint16_t child_io(struct child *child, enum io_op op, uint64_t lba, uint32_t nlb,
			 void *buf) MAY_SUSPEND
{
	struct desc *desc = child_use(child);
	struct io io = { .op = (uint8_t)op, .nlb = nlb };
	uint16_t status = IO_NO_DEVICE;
	struct handle *h;

	if (desc == NULL)
		return status;
	if (op != IO_FLUSH)
		io.lba = lba + child->nx->geometry.data_start;
	io_set_buf(&io, buf, (size_t)nlb << child->nx->dev.block_shift);
	if (handle_open(desc, reactor_primary(), &h, NULL) == 0)
		status = io_wait(h, &io);
	child_unuse(child);
	return status;
}

static bool is_over(const struct job *job)
{
	return job->must_stop || job->nx->dev.is_removed || job->nx->is_ended ||
	       job->child->desc == NULL || job->child->is_leaving ||
	       child_state_of(atomic_load(&job->child->word)) != CHILD_OPEN;
}

static bool copy(struct job *job, uint64_t lba, uint32_t nlb, void *buf) MAY_SUSPEND
{
	struct nexus *nx = job->nx;

	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		if (nx->child[slot] == NULL || !child_is_healthy(nx->child[slot]) ||
		    child_io(nx->child[slot], IO_READ, lba, nlb, buf) != IO_OK)
			continue;
		return child_io(job->child, IO_WRITE, lba, nlb, buf) == IO_OK;
	}
	return false;
}

static bool segment_copy(struct job *job, uint32_t seg, void *buf) MAY_SUSPEND
{
	struct nexus *nx = job->nx;
	uint64_t lba = (uint64_t)seg << job->child->missed.shift;
	uint32_t nlb = (uint32_t)MIN(1ull << job->child->missed.shift, nx->dev.nblocks - lba);
	struct range_lock lock;
	bool is_ok;

	if (range_lock(&nx->dev, &lock, lba, nlb, NULL) < 0)
		return false;
	is_ok = !is_over(job) && copy(job, lba, nlb, buf);
	range_unlock(&nx->dev, &lock);
	return is_ok;
}

static bool rebuild(struct job *job, void *buf) MAY_SUSPEND
{
	struct child *child = job->child;

	for (uint32_t seg = 0; seg < child->missed.nsegments; seg++) {
		if (is_over(job))
			return false;
		if (child->is_missed_known && !segmap_test(&child->missed, seg))
			continue;
		if (!segment_copy(job, seg, buf))
			return false;
	}
	return !is_over(job) && (!child->desc->dev->has_write_cache ||
				 child_io(child, IO_FLUSH, 0, 0, NULL) == IO_OK);
}

static void job_run(void *arg)
{
	struct job *job = arg;
	void *buf = dma_alloc(SEGMENT_BYTES_MIN);
	bool is_partial = job->child->is_missed_known;
	struct err err = {};

	cover_state_begin(COVER_REBUILDING);
	world_trace("rebuild", job->child->slot, is_partial);
	if (!rebuild(job, buf) || nexus_child_synced(job->child, &err) < 0) {
		if (!is_over(job))
			(void)nexus_child_fail(job->child, CHILD_FAULTED,
					       NEXUS_REASON_REBUILD_FAILED);
	} else {
		mirror_stats.rebuilds++;
		mirror_stats.partial += is_partial;
	}
	world_trace("rebuilt", 0, 0);
	cover_state_end(COVER_REBUILDING);
	dma_free(buf, SEGMENT_BYTES_MIN);
	device_unpin(&job->nx->dev);
	list_del(&job->link);
	free(job);
}

static int rebuild_start(struct child *child, struct nexus_err *ne)
{
	struct err err = {};
	struct job *job;

	if (nexus_child_attach(child, &err) < 0)
		return nexus_fail(ne, NEXUS_E_OPEN_CHILD, "%s", err_text(&err));
	job = sim_zalloc(sizeof(*job));
	job->child = child;
	job->nx = child->nx;
	device_pin(&child->nx->dev);
	list_add_tail(&jobs, &job->link);
	if (task_spawn("rebuild", job_run, job) == 0)
		return 0;
	device_unpin(&child->nx->dev);
	list_del(&job->link);
	free(job);
	return nexus_fail(ne, NEXUS_E_INTERNAL, "no memory for a rebuild");
}

static bool is_at_work(const struct child *child, bool must_stop)
{
	struct job *job;
	bool found = false;

	list_for_each (job, &jobs, link) {
		if (job->child != child)
			continue;
		job->must_stop |= must_stop;
		found = true;
	}
	return found;
}

static void rebuild_stop(struct child *child)
{
	while (is_at_work(child, true) && !world_failed())
		task_sleep(5 * USEC);
}

static const struct nexus_rebuilder rebuilder = { .start = rebuild_start, .stop = rebuild_stop };

void mirror_rebuild_use(void)
{
	list_init(&jobs);
	nexus_set_rebuilder(&rebuilder);
}
