/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rebuild.c - jobs that bring a child in sync, and what became of them.
 *
 *   start (add, online, made again, a client)
 *     |  its turn? NEXUS_REBUILDS_MAX on this nexus, REBUILDS_MAX in all; else it waits (INIT)
 *     v
 *   begin: sources and child taken into use -> attached: hosts' writes go to it, too -> a copy of
 *     |    what it misses (all of it, if that is not known) -> the copy machine runs (RUNNING)
 *     v
 *   the copy is over (in a task of the copy):
 *     complete  the nexus grew meanwhile? the rest. flush -> in sync: recorded, read from
 *               (COMPLETED)
 *     stopped   flush -> what was copied is missed no more; the child stays, out of sync (STOPPED)
 *     failed    the child is faulted: RebuildFailed (FAILED)
 *     -> a record in the history, everything given back, who waited is told, the next job begins
 *
 * Why the result is equal: before the first block is read every write goes to the child, too
 * (attached under a quiesce). A block is read and written while its range is locked on the nexus,
 * so no write comes between, and nothing old lands on something new. The child is recorded as
 * healthy after everything that was copied was flushed there; hosts' writes have the durability
 * they asked for.
 *
 * Sources: healthy children, local ones first. One that falls, or cannot read a block, is replaced
 * without a word; it is not retired for that, as it may be the last. The child that is being
 * rebuilt is retired like any that fails a write.
 *
 * Who does not answer within child_timeout is retired, but for the last healthy child, and cut off.
 * A disk of this machine that does not answer even so ends the job (copy_late.c): it fails. It is
 * over for everybody then, but its memory stays, and the devices that owe an answer are in use,
 * until they have given it.
 *
 * What a child misses after an end: nothing (completed); what was not copied yet (stopped, and
 * exactly known); everything (failed: writes that went to it while it was attached were not noted).
 * The map of the job is its own copy, as a resize makes the child's anew.
 *
 * Growing: a full rebuild copies the new blocks, too. In a partial one they are new to all.
 *
 * Invariants
 *   1. A job that has begun holds its child, and each source, in use (child_use()), until it is
 *      over or the source has been dropped, and until they have answered; the monitor waits for
 *      that before it closes a device.
 *   2. A job leaves the list only in rebuild_job_finish(), which runs once per job.
 *   3. Nothing here holds nx->control while it waits for a job to end, but for those who end a
 *      nexus: an ending job does not take it.
 *
 * Rejected: a task per job that sleeps in between (two tasks of the copy are there anyway); a
 * rebuild that retires the source it could not read (the volume would freeze for what a host never
 * asked for).
 *
 * Thread: tasks on the primary; job_is_good(), job_source_failed() on the copy's reactor.
 */
#include <errno.h>

#include "base/log.h"
#include "nexus/marks.h"
#include "nexus/pace.h"
#include "nexus/rebuild_internal.h"

struct rebuild_waiter {
	struct list link;
	struct task_event event;
};

static struct rebuild_settings settings;
static unsigned nrunning; /* jobs that have begun, all nexuses */
static unsigned next_reactor;

/* ---- lists ---------------------------------------------------------------------------------- */

static struct rebuilds *rebuilds_get(struct nexus *nx)
{
	if (nx->rebuilds == NULL) {
		nx->rebuilds = calloc(1, sizeof(*nx->rebuilds));
		if (nx->rebuilds == NULL)
			return NULL;
		list_init(&nx->rebuilds->jobs);
		list_init(&nx->rebuilds->waiters);
	}
	return nx->rebuilds;
}

struct rebuild *rebuild_job_of(const struct nexus *nx, const struct child *child)
{
	struct rebuild *job;

	if (nx->rebuilds == NULL)
		return NULL;
	list_for_each (job, &nx->rebuilds->jobs, link) {
		if (job->child == child)
			return job;
	}
	return NULL;
}

static unsigned running_here(const struct nexus *nx)
{
	struct rebuild *job;
	unsigned n = 0;

	list_for_each (job, &nx->rebuilds->jobs, link)
		n += job->has_begun;
	return n;
}

static void tell(struct list *waiters)
{
	struct rebuild_waiter *waiter;

	while ((waiter = list_first_entry(waiters, struct rebuild_waiter, link)) != NULL) {
		list_del(&waiter->link);
		task_event_fire(&waiter->event);
	}
}

void rebuild_wait_in(struct list *waiters)
{
	struct rebuild_waiter waiter = {};

	list_add_tail(waiters, &waiter.link);
	task_event_wait(&waiter.event);
}

/* ---- the end of a job ----------------------------------------------------------------------- */

static void job_release(struct rebuild *job)
{
	if (!job->has_begun)
		return;
	for (unsigned i = 0; i < job->opts.nsources; i++) {
		if (job->source[i].is_used)
			child_unuse(job->source[i].child);
		job->source[i].is_used = false;
	}
	if (!job->is_child_free)
		child_unuse(job->child);
}

/* Other jobs may have their turn now, here and elsewhere. */
static void ring_waiting(void)
{
	struct nexus *nx = NULL;
	struct rebuild *job;

	while ((nx = nexus_next(nx)) != NULL) {
		if (nx->rebuilds == NULL)
			continue;
		list_for_each (job, &nx->rebuilds->jobs, link) {
			if (job->state == REBUILD_INIT)
				errand_ring(&nx->rebuild);
		}
	}
}

/* Nobody sees it any more. */
static void job_leave_list(struct rebuild *job)
{
	struct rebuilds *all = job->nx->rebuilds;

	list_del(&job->link);
	tell(&job->waiters);
	if (list_empty(&all->jobs))
		tell(&all->waiters);
	nrunning -= job->has_begun;
	ring_waiting();
}

/* A device owes an answer: what others could wait for is done now. Children that owe none go. */
static void job_linger(struct rebuild *job)
{
	log_warn("nexus %s: the rebuild of child %s keeps its buffers until all is answered",
		 job->nx->dev.name, job->child->uri);
	for (unsigned i = 0; i < job->opts.nsources; i++) {
		if (job->source[i].is_used)
			copy_drop_source(job->copy, i);
	}
	job->is_lingering = true;
	job->is_child_free = !copy_is_dst_late(job->copy);
	if (job->is_child_free)
		child_unuse(job->child);
	job_leave_list(job);
}

void rebuild_job_finish(struct rebuild *job, enum rebuild_state state)
{
	struct nexus *nx = job->nx;
	const char *source = rebuild_source_uri(job);

	job->is_finishing = true;
	job->state = state;
	job->pending = NOTHING;
	job->end_ns = reactor_primary()->now_ns;
	rebuild_job_record(job, source);
	log_info("nexus %s: rebuild of child %s %s, %lu blocks copied, %lu zeroed%s%s",
		 nx->dev.name, job->child->uri, rebuild_state_name(state),
		 nexus_rebuild_history(nx, 0)->stats.blocks_transferred,
		 nexus_rebuild_history(nx, 0)->stats.blocks_cleared, job->why.code != 0 ? ": " : "",
		 job->why.code != 0 ? err_text(&job->why) : "");
	nexus_tell(nx, NEXUS_EVENT_REBUILD, job->child);
	while (job->users > 0)
		task_yield(); /* they are on their way out */
	if (job->copy != NULL && copy_is_late(job->copy))
		job_linger(job);
	copy_free(take(job->copy)); /* dropped sources are given back before the rest */
	job_release(job);
	if (!job->is_lingering)
		job_leave_list(job);
	segmap_done(&job->map);
	free(job);
}

static void job_fail_child(struct rebuild *job)
{
	(void)nexus_child_fail(job->child, CHILD_FAULTED, NEXUS_REASON_REBUILD_FAILED);
}

static int job_flush(struct rebuild *job) MAY_SUSPEND
{
	struct io io = { .op = IO_FLUSH };
	struct handle *h;
	uint16_t status = IO_NO_MEMORY;

	if (handle_open(job->opts.dst, reactor_primary(), &h, &job->why) == 0)
		status = child_io_wait(job->child, h, &io);
	if (status == IO_OK)
		return 0;
	return err_set(&job->why, io_status_to_errno(status), "child %s: flush failed: %s",
		       job->child->uri, io_status_name(status));
}

/* The child stays attached: it misses what was not copied, and nothing else. */
static void job_keep_missed(struct rebuild *job, uint64_t position)
{
	struct child *child = job->child;
	struct segmap *map = &child->missed;

	if (!child->is_writer || child_state_of(atomic_load(&child->word)) != CHILD_OPEN)
		return;
	if (!job->is_partial)
		segmap_fill(map);
	for (uint32_t seg = 0; seg < map->nsegments; seg++) {
		if (((uint64_t)seg + 1) << map->shift > position &&
		    position < MIN(((uint64_t)seg + 1) << map->shift, job->nx->dev.nblocks))
			break;
		segmap_clear(map, seg);
	}
	child->is_missed_known = true;
	if (job->nx->is_ended)
		child->is_writer = false; /* so that it is recorded what is missed */
}

static int job_copy(struct rebuild *job) MAY_SUSPEND;

/* Sources that were dropped may be closed by now. */
static void job_compact(struct rebuild *job)
{
	unsigned n = 0;

	for (unsigned i = 0; i < job->opts.nsources; i++) {
		if (!job->source[i].is_used)
			continue;
		job->source[n] = job->source[i];
		job->opts.source[n] = job->opts.source[i];
		job->opts.source[n].owner = &job->source[n];
		n++;
	}
	job->opts.nsources = n;
}

/* The nexus grew while its old blocks were copied: the new ones. True: they are on their way. */
static bool job_extend(struct rebuild *job) MAY_SUSPEND
{
	struct rebuild_stats stats;
	uint64_t end = job->opts.nblocks;

	if (end >= job->nx->dev.nblocks)
		return false;
	rebuild_job_stats(job, &stats);
	copy_free(take(job->copy));
	job_compact(job);
	job->before = stats;
	job->opts.from = end;
	job->opts.nblocks = job->nx->dev.nblocks;
	if (job_copy(job) == 0)
		return true;
	job_fail_child(job);
	rebuild_job_finish(job, REBUILD_FAILED);
	return true;
}

static void job_complete(struct rebuild *job) MAY_SUSPEND
{
	bool is_ok;

	if (!job->is_partial && job_extend(job))
		return;
	is_ok = job_flush(job) == 0;
	if (is_ok && !job->is_partial && job_extend(job))
		return;
	is_ok = is_ok && nexus_child_synced(job->child, &job->why) == 0;
	if (is_ok) { /* it misses nothing, or what it has missed since */
		marks_lock(job->nx);
		marks_note_missed(job->child);
		marks_unlock(job->nx);
	} else {
		job_fail_child(job);
	}
	rebuild_job_finish(job, is_ok ? REBUILD_COMPLETED : REBUILD_FAILED);
}

static void job_stopped(struct rebuild *job) MAY_SUSPEND
{
	if (job_flush(job) < 0) {
		job_fail_child(job);
		rebuild_job_finish(job, REBUILD_FAILED);
		return;
	}
	job_keep_missed(job, copy_position(job->copy));
	rebuild_job_finish(job, REBUILD_STOPPED);
}

/* A task of the copy: it is over. */
static void job_ended(struct copy *copy) MAY_SUSPEND
{
	struct rebuild *job = copy_owner(copy);

	switch (copy_result(copy)) {
	case COPY_COMPLETE:
		job_complete(job);
		break;
	case COPY_STOPPED:
		job_stopped(job);
		break;
	case COPY_FAILED:
	case COPY_RUNNING:
		(void)copy_error(copy, &job->why);
		job_fail_child(job);
		rebuild_job_finish(job, REBUILD_FAILED);
		break;
	}
}

/* ---- the beginning of a job ----------------------------------------------------------------- */

/* On the copy's reactor, as is the next. */
static bool job_is_good(void *owner)
{
	return child_is_healthy(((struct job_source *)owner)->child);
}

static void job_source_failed(void *owner, uint16_t status, bool is_medium, uint64_t lba,
			      uint32_t nlb)
{
	struct child *child = ((struct job_source *)owner)->child;

	log_warn("nexus %s: child %s could not be read for a rebuild at block %lu: %s",
		 child->nx->dev.name, child->uri, lba, io_status_name(status));
	if (is_medium)
		nexus_repair_ring(child->nx, child->slot, lba, nlb);
}

/* Out, before a write of a host can meet what it is still doing. */
static void job_dst_hangs(void *owner)
{
	const struct rebuild *job = owner;

	(void)nexus_child_fail(job->child, CHILD_FAULTED, NEXUS_REASON_TIMED_OUT);
}

/* As it would be for a read of a host (watch.c): the last healthy one stays. */
static void job_source_hangs(void *owner)
{
	const struct job_source *source = owner;
	struct nexus *nx = source->job->nx;

	if (source->is_used && nexus_nhealthy(nx) > 1)
		(void)nexus_child_fail(source->child, CHILD_FAULTED, NEXUS_REASON_TIMED_OUT);
}

static void job_source_gone(void *owner)
{
	struct job_source *source = owner;

	if (source->is_used)
		child_unuse(source->child);
	source->is_used = false;
}

static void add_sources(struct rebuild *job, bool is_local)
{
	struct nexus *nx = job->nx;

	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];
		struct copy_source *source = &job->opts.source[job->opts.nsources];

		if (!child_is_healthy(child) || child->is_local != is_local ||
		    (source->desc = child_use(child)) == NULL)
			continue;
		source->start = nx->geometry.data_start;
		source->owner = &job->source[job->opts.nsources];
		job->source[job->opts.nsources++] = (struct job_source){ .job = job,
									 .child = child,
									 .is_used = true };
	}
}

/* The map as it is now is the job's. -ENOMEM. */
static int job_map(struct rebuild *job)
{
	const struct child *child = job->child;
	int result;

	job->is_partial = child->is_missed_known && !settings.is_always_full;
	if (!job->is_partial)
		return 0;
	result = segmap_init(&job->map, job->nx->dev.nblocks, child->missed.shift);
	if (result < 0)
		return err_set(&job->why, result, "no memory for the map of a rebuild");
	segmap_or(&job->map, &child->missed);
	job->opts.map = &job->map;
	return 0;
}

static int job_copy(struct rebuild *job)
{
	struct copy *copy;
	int result = copy_open(&job->opts, &copy, &job->why);

	if (result < 0)
		return result;
	job->copy = copy;
	result = copy_start(copy, &job->why);
	if (result < 0)
		return result;
	/* what was asked for, and who fell, while there was none */
	if (job->pending == REBUILD_FAILED)
		copy_abort(copy, "the child is out");
	else if (job->pending == REBUILD_STOPPED)
		copy_stop(copy);
	else if (job->state == REBUILD_PAUSED)
		copy_pause(copy);
	for (unsigned i = 0; i < job->opts.nsources; i++) {
		if (job->source[i].is_used && job->source[i].child->is_leaving)
			copy_drop_source(copy, i);
	}
	return 0;
}

static struct reactor *pick_reactor(void)
{
	unsigned n = reactor_count();

	return n == 1 ? reactor_primary() : reactor_get(1 + next_reactor++ % (n - 1));
}

static uint64_t latency_limit(void)
{
	if (settings.latency_ns == 0)
		return PACE_AUTO;
	return settings.latency_ns == UINT64_MAX ? 0 : settings.latency_ns;
}

/* nx->control is held. On failure the job has not begun, and job->why says why. */
static int job_begin(struct rebuild *job) MAY_SUSPEND
{
	struct nexus *nx = job->nx;
	struct child *child = job->child;
	int result;

	job->opts = (struct copy_opts){ .dst = child_use(child),
					.dst_start = nx->geometry.data_start,
					.locked = &nx->dev,
					.reactor = pick_reactor(),
					.verify = settings.verify,
					.rate = settings.rate,
					.latency_ns = latency_limit(),
					.timeout_ns = nx->child_timeout_ns,
					.is_good = job_is_good,
					.source_failed = job_source_failed,
					.dst_hangs = job_dst_hangs,
					.source_hangs = job_source_hangs,
					.source_gone = job_source_gone,
					.ended = job_ended,
					.owner = job };
	if (job->opts.dst == NULL)
		return err_set(&job->why, -ENODEV, "child %s is closed", child->uri);
	job->has_begun = true;
	nrunning++;
	add_sources(job, true);
	add_sources(job, false);
	if (job->opts.nsources == 0)
		return err_set(&job->why, -ENODEV, "nexus %s has no healthy child to rebuild from",
			       nx->dev.name);
	result = nexus_child_attach(child, &job->why);
	if (result == 0 && child_state_of(atomic_load(&child->word)) != CHILD_OPEN)
		result = err_set(&job->why, -ENODEV, "child %s fell", child->uri);
	if (result < 0)
		return result;
	job->opts.nblocks = nx->dev.nblocks;
	result = job_map(job);
	if (result == 0)
		result = job_copy(job);
	if (result < 0)
		return result;
	if (job->state == REBUILD_INIT)
		job->state = REBUILD_RUNNING;
	job->start_ns = reactor_primary()->now_ns;
	log_info("nexus %s: rebuild of child %s starts, %s", nx->dev.name, child->uri,
		 job->is_partial ? "partial" : "full");
	nexus_tell(nx, NEXUS_EVENT_REBUILD, child);
	return 0;
}

static bool is_its_turn(const struct nexus *nx)
{
	return nrunning < REBUILDS_MAX && running_here(nx) < NEXUS_REBUILDS_MAX;
}

int rebuild_job_start(struct child *child, struct nexus_err *ne)
{
	struct nexus *nx = child->nx;
	struct rebuilds *all = rebuilds_get(nx);
	struct rebuild *job = calloc(1, sizeof(*job));

	if (nx->is_ended) {
		free(job);
		return nexus_fail(ne, NEXUS_E_NOT_ALLOWED, "nexus %s is ended", nx->dev.name);
	}
	if (all == NULL || job == NULL) {
		free(job);
		return nexus_fail(ne, NEXUS_E_NO_MEMORY, "no memory to rebuild child %s",
				  child->uri);
	}
	job->nx = nx;
	job->child = child;
	job->state = REBUILD_INIT;
	job->pending = NOTHING;
	list_init(&job->waiters);
	list_add_tail(&all->jobs, &job->link);
	if (!is_its_turn(nx) || job_begin(job) == 0)
		return 0;
	(void)nexus_fail(ne, job->why.code == -ENOMEM ? NEXUS_E_NO_MEMORY : NEXUS_E_NOT_ALLOWED,
			 "child %s cannot be rebuilt: %s", child->uri, err_text(&job->why));
	rebuild_job_finish(job, REBUILD_FAILED);
	return ne != NULL ? ne->err.code : -EPERM;
}

void nexus_rebuild_run(struct nexus *nx)
{
	struct rebuild *job;
	bool is_any = true;

	task_mutex_lock(&nx->control);
	while (is_any && nx->rebuilds != NULL) {
		is_any = false;
		list_for_each (job, &nx->rebuilds->jobs, link) {
			if (job->state != REBUILD_INIT || job->has_begun || job->is_finishing ||
			    !is_its_turn(nx))
				continue;
			is_any = true;
			if (job_begin(job) < 0) {
				job_fail_child(job);
				rebuild_job_finish(job, REBUILD_FAILED);
			}
			break; /* the list may have changed */
		}
	}
	task_mutex_unlock(&nx->control);
}

/* ---- ended from outside --------------------------------------------------------------------- */

static void job_force(struct rebuild *job, enum rebuild_op op, const char *why) MAY_SUSPEND
{
	enum rebuild_state pending;

	if (job->is_finishing ||
	    rebuild_judge(job->state, job->pending, op, &pending) != REBUILD_DO)
		return;
	job->pending = pending;
	if (job->copy != NULL && pending == REBUILD_FAILED) {
		copy_abort(job->copy, why);
	} else if (job->copy != NULL) {
		copy_stop(job->copy);
	} else if (!job->has_begun) {
		(void)err_set(&job->why, -ECANCELED, "%s", why);
		rebuild_job_finish(job, pending);
	}
}

static void job_leave(struct child *child) MAY_SUSPEND
{
	struct nexus *nx = child->nx;
	struct rebuild *job = rebuild_job_of(nx, child);

	if (job != NULL)
		job_force(job, REBUILD_OP_FORCE_FAIL, "the child is out");
	if (nx->rebuilds == NULL)
		return;
	list_for_each (job, &nx->rebuilds->jobs, link) {
		for (unsigned i = 0; i < job->opts.nsources && job->copy != NULL; i++) {
			if (job->source[i].is_used && job->source[i].child == child)
				copy_drop_source(job->copy, i);
		}
	}
}

const struct nexus_rebuilder rebuild_jobs = { .start = rebuild_job_start, .leave = job_leave };

void nexus_rebuild_end_all(struct nexus *nx)
{
	struct rebuild *job, *next;

	if (nx->rebuilds == NULL)
		return;
	list_for_each_safe (job, next, &nx->rebuilds->jobs, link)
		job_force(job, REBUILD_OP_FORCE_STOP, "the nexus ends");
	nexus_rebuild_wait(nx);
}

void nexus_rebuild_free(struct nexus *nx)
{
	if (nx->rebuilds == NULL)
		return;
	assert(list_empty(&nx->rebuilds->jobs));
	for (unsigned i = 0; i < REBUILD_HISTORY_MAX; i++)
		rebuild_record_free(&nx->rebuilds->history[i]);
	free(take(nx->rebuilds));
}

/* ---- settings ------------------------------------------------------------------------------- */

void rebuild_settings_set(const struct rebuild_settings *s)
{
	struct nexus *nx = NULL;
	struct rebuild *job;

	settings = *s;
	while ((nx = nexus_next(nx)) != NULL) {
		if (nx->rebuilds == NULL)
			continue;
		list_for_each (job, &nx->rebuilds->jobs, link) {
			if (job->copy != NULL)
				copy_set_limits(job->copy, settings.rate, latency_limit());
		}
	}
	next_reactor = 0;
}
