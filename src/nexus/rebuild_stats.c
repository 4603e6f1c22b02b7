/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rebuild_stats.c - how far a rebuild is, and how those before it ended.
 *
 * Figures are those of the copy that runs; a job whose nexus grew has had others, which stand in
 * job->before. What is recovered counts the blocks that the child has, copied or not: of a partial
 * rebuild the clean ones, too, which are passed over. What remains is, in a partial one, what is
 * still to be copied.
 *
 * The history is a ring of REBUILD_HISTORY_MAX records for each nexus and dies with it.
 *
 * Thread: tasks on the primary.
 */
#include <string.h>

#include "nexus/rebuild_internal.h"

void rebuild_job_stats(const struct rebuild *job, struct rebuild_stats *ret)
{
	struct copy_stats copy = { .remaining_ns = UINT64_MAX, .speed = 100 };
	uint64_t all = job->nx->dev.nblocks;

	if (job->copy != NULL)
		copy_stats(job->copy, &copy);
	*ret = (struct rebuild_stats){
		.state = job->state,
		.blocks_total = all,
		.blocks_recovered = job->before.blocks_recovered + copy.blocks_recovered,
		.blocks_transferred = job->before.blocks_transferred + copy.blocks_transferred,
		.blocks_cleared = job->before.blocks_cleared + copy.blocks_cleared,
		.blocks_per_task = MAX((uint64_t)COPY_CHUNK >> job->nx->dev.block_shift, 1u),
		.block_size = job->nx->dev.block_size,
		.tasks_total = COPY_WINDOW,
		.tasks_active = copy.tasks_active,
		.is_partial = job->is_partial,
		.start_ns = job->start_ns,
		.end_ns = job->end_ns,
		.bytes_per_s = copy.bytes_per_s,
		.remaining_ns = copy.remaining_ns,
		.speed = copy.speed,
	};
	ret->blocks_recovered = MIN(ret->blocks_recovered, all);
	ret->blocks_remaining = all - ret->blocks_recovered;
	if (job->is_partial && job->copy != NULL)
		ret->blocks_remaining = copy.blocks_dirty -
					MIN(copy.blocks_dirty, copy.blocks_transferred +
								       copy.blocks_cleared +
								       copy.blocks_same);
	ret->progress = all > 0 ? (unsigned)(ret->blocks_recovered * 100 / all) : 100;
}

void rebuild_record_free(struct rebuild_record *record)
{
	free(record->child);
	free(record->source);
	*record = (struct rebuild_record){};
}

const char *rebuild_source_uri(const struct rebuild *job)
{
	struct copy_stats stats = {};

	if (job->copy == NULL)
		return "";
	copy_stats(job->copy, &stats);
	return job->source[stats.source].is_used ? job->source[stats.source].child->uri : "";
}

void rebuild_job_record(const struct rebuild *job, const char *source)
{
	struct rebuilds *all = job->nx->rebuilds;
	struct rebuild_record *record;

	all->newest = (all->newest + 1) % REBUILD_HISTORY_MAX;
	all->nhistory = MIN(all->nhistory + 1, (unsigned)REBUILD_HISTORY_MAX);
	record = &all->history[all->newest];
	rebuild_record_free(record);
	rebuild_job_stats(job, &record->stats);
	record->child = strdup(job->child->uri);
	record->source = strdup(source);
	record->why = job->why;
}

const struct rebuild_record *nexus_rebuild_history(const struct nexus *nx, unsigned index)
{
	const struct rebuilds *all = nx->rebuilds;

	if (all == NULL || index >= all->nhistory)
		return NULL;
	return &all->history[(all->newest + REBUILD_HISTORY_MAX - index) % REBUILD_HISTORY_MAX];
}
