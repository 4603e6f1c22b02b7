/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rebuild_client.c - what a client may do with a rebuild: start, stop, pause, resume, watch.
 *
 * Whether it may is one table (rebuild_state.c). What it asks for is pending until the copy has
 * come to rest, and the answer is given then: stop returns when the job has ended, pause when
 * nothing of it is in flight. Somebody else may end the job meanwhile; who asked is told.
 *
 * A job is found by its child's URI each time. Who looks at one across a suspension is counted
 * (job->users), and the job waits for him before it goes; who only waits for its end is told.
 *
 * Thread: tasks on the primary.
 */
#include <errno.h>
#include <string.h>

#include "nexus/rebuild_internal.h"

static struct rebuild *job_find(struct nexus *nx, const char *uri)
{
	struct child *child = child_find(nx, uri);

	return child != NULL ? rebuild_job_of(nx, child) : NULL;
}

unsigned nexus_rebuild_count(const struct nexus *nx)
{
	const struct list *at;
	unsigned n = 0;

	if (nx->rebuilds == NULL)
		return 0;
	for (at = nx->rebuilds->jobs.next; at != &nx->rebuilds->jobs; at = at->next)
		n++;
	return n;
}

static int not_found(struct nexus *nx, const char *uri, struct nexus_err *ne)
{
	return nexus_fail(ne, NEXUS_E_REBUILD_NOT_FOUND, "nexus %s has no rebuild of child %s",
			  nx->dev.name, uri);
}

/* 0: do it, with pending set. 1: it is so. */
static int job_ask(struct rebuild *job, enum rebuild_op op, struct nexus_err *ne)
{
	static const char *const names[] = { "start", "stop", "pause", "resume" };
	enum rebuild_state pending = NOTHING;

	switch (rebuild_judge(job->state, job->pending, op, &pending)) {
	case REBUILD_DO:
		job->pending = pending;
		return 0;
	case REBUILD_NOTHING:
		return 1;
	case REBUILD_BUSY:
		return nexus_fail(ne, NEXUS_E_NOT_ALLOWED,
				  "rebuild of child %s is about to be %s: it cannot %s now",
				  job->child->uri, rebuild_state_name(job->pending), names[op]);
	case REBUILD_NO:
		break;
	}
	return nexus_fail(ne, NEXUS_E_NOT_ALLOWED, "rebuild of child %s is %s: it cannot %s",
			  job->child->uri, rebuild_state_name(job->state), names[op]);
}

int nexus_rebuild_start(struct nexus *nx, const char *uri, struct nexus_err *ne)
{
	struct child *child;
	uint32_t word;
	int result = 0;

	control_begin(nx);
	child = child_find(nx, uri);
	word = child != NULL ? atomic_load(&child->word) : 0;
	if (child == NULL)
		result = nexus_fail(ne, NEXUS_E_CHILD_NOT_FOUND, "nexus %s has no child %s",
				    nx->dev.name, uri);
	else if (nx->state != NEXUS_OPEN || child_state_of(word) != CHILD_OPEN ||
		 word & CHILD_SYNCED)
		result = nexus_fail(ne, NEXUS_E_NOT_ALLOWED,
				    "child %s is %s: only one that is open and out of sync is "
				    "rebuilt",
				    uri, child_health_name(child_health_of(child)));
	else if (rebuild_job_of(nx, child) != NULL)
		result = MIN(job_ask(rebuild_job_of(nx, child), REBUILD_OP_START, ne), 0);
	else
		result = rebuild_job_start(child, ne);
	control_end(nx);
	return result;
}

int nexus_rebuild_stop(struct nexus *nx, const char *uri, struct nexus_err *ne)
{
	struct rebuild *job = job_find(nx, uri);
	int result;

	if (job == NULL)
		return 0;
	result = job_ask(job, REBUILD_OP_STOP, ne);
	if (result < 0)
		return result;
	if (result == 0 && job->copy != NULL)
		copy_stop(job->copy);
	if (result == 0 && job->copy == NULL && !job->has_begun)
		rebuild_job_finish(job, REBUILD_STOPPED);
	else
		rebuild_wait_in(&job->waiters);
	return 0;
}

int nexus_rebuild_pause(struct nexus *nx, const char *uri, struct nexus_err *ne)
{
	struct rebuild *job = job_find(nx, uri);
	int result;

	if (job == NULL)
		return not_found(nx, uri, ne);
	result = job_ask(job, REBUILD_OP_PAUSE, ne);
	if (result != 0)
		return MIN(result, 0);
	job->users++;
	if (job->copy != NULL) {
		copy_pause(job->copy);
		copy_wait_idle(job->copy);
	}
	job->users--;
	if (job->pending == REBUILD_PAUSED && !job->is_finishing) {
		job->pending = NOTHING;
		job->state = REBUILD_PAUSED;
		return 0;
	}
	return nexus_fail(ne, NEXUS_E_NOT_ALLOWED, "rebuild of child %s has ended meanwhile", uri);
}

int nexus_rebuild_resume(struct nexus *nx, const char *uri, struct nexus_err *ne)
{
	struct rebuild *job = job_find(nx, uri);
	int result;

	if (job == NULL)
		return not_found(nx, uri, ne);
	result = job_ask(job, REBUILD_OP_RESUME, ne);
	if (result != 0)
		return MIN(result, 0);
	job->pending = NOTHING;
	job->state = job->copy != NULL ? REBUILD_RUNNING : REBUILD_INIT;
	if (job->copy != NULL)
		copy_resume(job->copy);
	else
		errand_ring(&nx->rebuild);
	return 0;
}

int nexus_rebuild_stats(struct nexus *nx, const char *uri, struct rebuild_stats *ret,
			struct nexus_err *ne)
{
	struct rebuild *job = job_find(nx, uri);

	if (job == NULL)
		return not_found(nx, uri, ne);
	rebuild_job_stats(job, ret);
	return 0;
}

int nexus_rebuild_leave_source(struct nexus *nx, const char *uri, const char *source,
			       struct nexus_err *ne)
{
	struct rebuild *job = job_find(nx, uri);
	unsigned others = 0, which = COPY_SOURCES_MAX;

	if (job == NULL || job->copy == NULL)
		return not_found(nx, uri, ne);
	for (unsigned i = 0; i < job->opts.nsources; i++) {
		if (!job->source[i].is_used)
			continue;
		if (strcmp(job->source[i].child->uri, source) == 0)
			which = i;
		else
			others += child_is_healthy(job->source[i].child);
	}
	if (which == COPY_SOURCES_MAX)
		return nexus_fail(ne, NEXUS_E_CHILD_NOT_FOUND,
				  "rebuild of child %s does not read %s", uri, source);
	if (others == 0)
		return nexus_fail(ne, NEXUS_E_NOT_ALLOWED,
				  "rebuild of child %s has no other source than %s", uri, source);
	copy_drop_source(job->copy, which);
	return 0;
}

int nexus_rebuild_progress(const struct nexus *nx, const char *uri)
{
	struct rebuild *job = job_find((struct nexus *)(uintptr_t)nx, uri);
	struct rebuild_stats stats;

	if (job == NULL)
		return -1;
	rebuild_job_stats(job, &stats);
	return (int)stats.progress;
}

void nexus_rebuild_wait(struct nexus *nx)
{
	device_pin(&nx->dev); /* it is looked at again after each wait */
	while (nx->rebuilds != NULL && !list_empty(&nx->rebuilds->jobs))
		rebuild_wait_in(&nx->rebuilds->waiters);
	device_unpin(&nx->dev);
}
