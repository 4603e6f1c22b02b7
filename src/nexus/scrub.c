/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub.c - compares all children that are in sync, range by range, while hosts go on.
 *
 *   lane task, SCRUB_LANES of them: wait for the pace -> a range, locked: read from all, compared,
 *   what differs judged and mended (scrub_range.c, scrub_judge.c) -> again; the last one ends it
 *
 * One scrub at a time and nexus. What became of it stays until the next one starts.
 *
 * A lane whose children have not answered ends the scrub, but stays behind until they have; its
 * memory is theirs as long, and so the nexus is no earlier scrubbed again.
 *
 * Rejected: check-sums of blocks exchanged instead of data (children are devices and have none);
 * the copy machine in a comparing mode (it has one source and one destination).
 *
 * Thread: tasks on the primary.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "nexus/scrub_internal.h"
#include "reactor/mem.h"

enum {
	NAP_NS = 100000000, /* how soon a stop is noticed */
};

struct scrub_waiter {
	struct list link;
	struct task_event event;
};

static bool lane_wait(struct scrub_lane *lane) MAY_SUSPEND
{
	struct scrub *scrub = lane->scrub;

	for (;;) {
		uint64_t now_ns = reactor_primary()->now_ns;
		uint64_t due_ns = MAX(scrub->pace.due_ns, lane->due_ns);

		if (scrub->is_stopping || scrub->stats.state != SCRUB_RUNNING)
			return false;
		if (due_ns <= now_ns)
			return true;
		task_sleep(MIN(due_ns - now_ns, (uint64_t)NAP_NS));
	}
}

static void lanes_free(struct scrub *scrub)
{
	for (unsigned i = 0; i < SCRUB_LANES; i++) {
		struct scrub_lane *lane = &scrub->lane[i];

		if (lane->buf != NULL)
			dma_free(lane->buf, (size_t)NEXUS_CHILDREN_MAX * SCRUB_RANGE + SCRUB_CHUNK);
		free(lane->reads);
		lane->buf = NULL;
		lane->reads = NULL;
	}
	pace_done(&scrub->pace);
	free(take(scrub->trusted));
}

/* With a sum, if there is something to sum up. */
static void tell_end(struct scrub *scrub)
{
	const struct scrub_stats *stats = &scrub->stats;
	struct nexus_event event = { .type = NEXUS_EVENT_SCRUB, .nx = scrub->nx, .is_ok = true };
	char text[128];

	(void)snprintf(text, sizeof(text),
		       "%lu blocks differ, %lu of them repaired; %u differences were not told one "
		       "by one",
		       stats->blocks_differ, stats->blocks_repaired,
		       scrub->nreports - MIN(scrub->nreports, (unsigned)SCRUB_REPORTS_MAX));
	if (stats->blocks_differ != 0)
		event.detail = text;
	nexus_tell_event(&event);
}

static void scrub_over(struct scrub *scrub)
{
	struct scrub_stats *stats = &scrub->stats;
	struct scrub_waiter *waiter;

	if (stats->state == SCRUB_RUNNING)
		stats->state = stats->blocks_done >= stats->blocks_total ? SCRUB_COMPLETED
									 : SCRUB_STOPPED;
	stats->run_ns = reactor_primary()->now_ns - scrub->started_ns;
	log_info("nexus %s: scrub ended: %lu of %lu blocks compared, %lu differ, %lu of them "
		 "repaired",
		 scrub->nx->dev.name, stats->blocks_done, stats->blocks_total, stats->blocks_differ,
		 stats->blocks_repaired);
	tell_end(scrub);
	while ((waiter = list_first_entry(&scrub->waiters, struct scrub_waiter, link)) != NULL) {
		list_del(&waiter->link);
		task_event_fire(&waiter->event);
	}
}

static void lane_task(void *arg)
{
	struct scrub_lane *lane = arg;
	struct scrub *scrub = lane->scrub;

	while (lane_wait(lane) && scrub_lane_range(lane))
		;
	scrub->nlate += lane->is_late;
	if (--scrub->nlanes == 0)
		scrub_over(scrub);
	if (lane->is_late) { /* the range is unlocked; buffers and children are in use */
		scrub_range_linger(lane);
		scrub_children_give_back(lane);
		scrub->nlate--;
	}
	if (scrub->nlanes == 0 && scrub->nlate == 0)
		lanes_free(scrub);
}

static int lanes_make(struct scrub *scrub, struct nexus_err *ne)
{
	size_t len = (size_t)NEXUS_CHILDREN_MAX * SCRUB_RANGE + SCRUB_CHUNK;

	for (unsigned i = 0; i < SCRUB_LANES; i++) {
		struct scrub_lane *lane = &scrub->lane[i];

		*lane = (struct scrub_lane){ .scrub = scrub };
		lane->go.fn = scrub_range_go;
		lane->back.fn = scrub_lane_back;
		lane->buf = dma_alloc(len);
		lane->reads = calloc((size_t)NEXUS_CHILDREN_MAX * CHUNKS_MAX, sizeof(*lane->reads));
		if (lane->buf == NULL || lane->reads == NULL)
			return nexus_fail(ne, NEXUS_E_INTERNAL, "no memory to scrub nexus %s",
					  scrub->nx->dev.name);
	}
	return 0;
}

static int scrub_run(struct scrub *scrub, struct nexus_err *ne)
{
	for (unsigned i = 0; i < SCRUB_LANES; i++)
		scrub->nlanes += task_spawn("scrub", lane_task, &scrub->lane[i]) == 0;
	if (scrub->nlanes == 0)
		return nexus_fail(ne, NEXUS_E_INTERNAL, "no memory for a task to scrub nexus %s",
				  scrub->nx->dev.name);
	log_info("nexus %s: scrub starts%s", scrub->nx->dev.name,
		 scrub->opts.is_repairing ? ", repairing" : "");
	nexus_tell(scrub->nx, NEXUS_EVENT_SCRUB, NULL);
	return 0;
}

static int check_start(struct nexus *nx, const struct scrub_opts *opts, struct nexus_err *ne)
{
	if (nx->state != NEXUS_OPEN || nx->is_ended)
		return nexus_fail(ne, NEXUS_E_NOT_ALLOWED, "nexus %s is %s", nx->dev.name,
				  nexus_state_name(nx->state));
	if (nx->scrub != NULL && nx->scrub->nlanes > 0)
		return nexus_fail(ne, NEXUS_E_NOT_ALLOWED, "nexus %s is being scrubbed already",
				  nx->dev.name);
	if (nx->scrub != NULL && nx->scrub->nlate > 0)
		return nexus_fail(ne, NEXUS_E_NOT_ALLOWED,
				  "nexus %s: a child has not yet answered the last scrub",
				  nx->dev.name);
	if (nexus_nhealthy(nx) < 2)
		return nexus_fail(ne, NEXUS_E_NOT_ALLOWED,
				  "nexus %s has %u children in sync: nothing to compare",
				  nx->dev.name, nexus_nhealthy(nx));
	if (opts->trusted != NULL && (child_find(nx, opts->trusted) == NULL ||
				      !child_is_healthy(child_find(nx, opts->trusted))))
		return nexus_fail(ne, NEXUS_E_CHILD_NOT_FOUND,
				  "nexus %s has no child %s that is in sync", nx->dev.name,
				  opts->trusted);
	return 0;
}

int nexus_scrub_start(struct nexus *nx, const struct scrub_opts *opts, struct nexus_err *ne)
{
	uint64_t latency_ns = opts->latency_ns == 0 ? PACE_AUTO : opts->latency_ns;
	struct scrub *scrub;
	int result = check_start(nx, opts, ne);

	if (result < 0)
		return result;
	if (nx->scrub == NULL)
		nx->scrub = calloc(1, sizeof(*nx->scrub));
	scrub = nx->scrub;
	if (scrub == NULL)
		return nexus_fail(ne, NEXUS_E_INTERNAL, "no memory to scrub nexus %s",
				  nx->dev.name);
	*scrub = (struct scrub){ .nx = nx, .opts = *opts, .started_ns = reactor_primary()->now_ns };
	list_init(&scrub->waiters);
	scrub->reactor = reactor_get(reactor_count() - 1);
	scrub->chunk_nlb = SCRUB_CHUNK >> nx->dev.block_shift;
	scrub->range_nlb = SCRUB_RANGE >> nx->dev.block_shift;
	scrub->trusted = opts->trusted != NULL ? strdup(opts->trusted) : NULL;
	scrub->stats = (struct scrub_stats){ .state = SCRUB_RUNNING,
					     .blocks_total = nx->dev.nblocks };
	if (pace_init(&scrub->pace, &nx->dev, opts->rate,
		      opts->latency_ns == UINT64_MAX ? 0 : latency_ns,
		      ne != NULL ? &ne->err : NULL) < 0 ||
	    (opts->trusted != NULL && scrub->trusted == NULL))
		result = nexus_fail(ne, NEXUS_E_INTERNAL, "no memory to scrub nexus %s",
				    nx->dev.name);
	if (result == 0)
		result = lanes_make(scrub, ne);
	if (result == 0)
		result = scrub_run(scrub, ne);
	if (result < 0) {
		lanes_free(scrub);
		scrub->stats.state = SCRUB_FAILED;
	}
	return result;
}

void nexus_scrub_wait(struct nexus *nx)
{
	device_pin(&nx->dev); /* it is looked at again after each wait */
	while (nx->scrub != NULL && nx->scrub->nlanes > 0) {
		struct scrub_waiter waiter = {};

		list_add_tail(&nx->scrub->waiters, &waiter.link);
		task_event_wait(&waiter.event);
	}
	device_unpin(&nx->dev);
}

void nexus_scrub_stop(struct nexus *nx)
{
	if (nx->scrub == NULL)
		return;
	nx->scrub->is_stopping = true;
	nexus_scrub_wait(nx);
}

void nexus_scrub_free(struct nexus *nx)
{
	free(take(nx->scrub));
}

void nexus_scrub_stats(const struct nexus *nx, struct scrub_stats *ret)
{
	const struct scrub *scrub = nx->scrub;
	uint64_t left;

	*ret = (struct scrub_stats){ .remaining_ns = UINT64_MAX };
	if (scrub == NULL)
		return;
	*ret = scrub->stats;
	if (scrub->nlanes > 0)
		ret->run_ns = reactor_primary()->now_ns - scrub->started_ns;
	left = ret->blocks_total - MIN(ret->blocks_total, ret->blocks_done);
	ret->progress = ret->blocks_total > 0
				? (unsigned)(ret->blocks_done * 100 / ret->blocks_total)
				: 100;
	ret->progress = MIN(ret->progress, 100u);
	if (ret->run_ns > 0)
		ret->bytes_per_s = (uint64_t)((double)(ret->blocks_done << nx->dev.block_shift) *
					      1e9 / (double)ret->run_ns);
	ret->remaining_ns = UINT64_MAX;
	if (left == 0)
		ret->remaining_ns = 0;
	else if (ret->blocks_done > 0)
		ret->remaining_ns = (uint64_t)((double)ret->run_ns *
					       ((double)left / (double)ret->blocks_done));
}
