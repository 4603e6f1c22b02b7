/* SPDX-License-Identifier: Apache-2.0 */
/*
 * end.c - a nexus ends: shut down, destroyed, or never finished.
 *
 *   OPEN --nexus_shutdown--> SHUTTING_DOWN: I/O ended, children closed, record clean --> SHUTDOWN
 *   OPEN --self-shutdown (retire.c)--> SHUTDOWN, nothing recorded
 *   any --device removed--> end errand: I/O ended, own descriptor closed --> nexus_free_device:
 *                           children closed, record clean if it was OPEN
 *   INIT --nexus_create fails--> nexus_free
 *
 * I/O is ended first of all: an operation that is under way, or an opener, may wait for a request
 * that is held here.
 *
 * Invariants
 *   1. The record says "clean" only where no write can be on one child and not on another: all has
 *      been flushed, and whoever failed meanwhile is recorded. The children's pages are cleared
 *      after that, never before.
 *   2. Nothing is freed while an errand runs or is rung, or a bell is on its way.
 *   3. A child that hangs delays the end until it is cut off, no longer (monitor.c).
 *
 * Thread: tasks on the primary.
 */
#include "base/log.h"
#include "nexus/internal.h"
#include "nexus/marks.h"
#include "nexus/scrub.h"

/* ---- freeing --------------------------------------------------------------------------------- */

static void noop(void *arg)
{
	(void)arg;
}

static void errands_wait(struct nexus *nx)
{
	struct nexus_errand *errands[] = { &nx->retire,  &nx->monitor, &nx->mend, &nx->mark,
					   &nx->rebuild, &nx->end,     &nx->look, &nx->smart };
	bool is_idle;

	/* these have no reserve, and nothing to do for one that goes */
	errand_end(&nx->mend);
	errand_end(&nx->rebuild);
	errand_end(&nx->look);
	errand_end(&nx->smart);
	do {
		is_idle = true;
		for (size_t i = 0; i < ARRAY_LEN(errands); i++) {
			is_idle &= errand_is_idle(errands[i]);
			errand_wait(errands[i]);
		}
	} while (!is_idle);
	for (unsigned i = 0; i < reactor_count(); i++)
		task_call(reactor_get(i), noop, NULL); /* bells on their way have arrived */
}

/* Who still owes an answer to a rebuild or a scrub that is over is cut off, and waited for. */
static void wait_unused(struct nexus *nx) MAY_SUSPEND
{
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];

		if (child->users == 0)
			continue;
		child->is_leaving = true;
		errand_ring(&nx->monitor);
		child_wait_closed(child);
	}
}

void nexus_free(struct nexus *nx)
{
	nx->state = NEXUS_CLOSED; /* children may fall until they are closed */
	nx->is_ended = true;
	nexus_health_stop(nx);
	marks_stop(nx);
	errands_wait(nx); /* a mark that hangs on a child wants it cut off */
	wait_unused(nx);
	timer_disarm(reactor_primary(), &nx->monitor_timer); /* for children that are closed here */
	errands_wait(nx);
	while (nx->nchildren > 0) {
		struct child *child = nx->child[nx->order[--nx->nchildren]];

		child_close(child);
		nx->child[child->slot] = NULL;
		child_free(child);
	}
	errands_wait(nx);
	list_del(&nx->link);
	marks_close(nx);
	nexus_scrub_free(nx);
	nexus_rebuild_free(nx);
	record_writer_free(nx->writer);
	free(nx->health);
	free(nx->overlap);
	free(nx);
}

/* ---- ending ---------------------------------------------------------------------------------- */

void nexus_end_run(struct nexus *nx)
{
	nexus_end_io(nx);
	errand_wait(&nx->mend);
	nexus_scrub_stop(nx);
	nexus_rebuild_end_all(nx);
	desc_close(take(nx->self));
}

/* Close all children; nothing of them is used on any channel. */
static void close_children(struct nexus *nx)
{
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];
		uint32_t word = atomic_load(&child->word);

		if (child_state_of(word) == CHILD_OPEN)
			atomic_store(&child->word, child_word(CHILD_CLOSED, NEXUS_REASON_NONE,
							      word & CHILD_SYNCED));
		child->is_leaving |= child->desc != NULL;
	}
	nexus_apply(nx);
	errand_ring(&nx->monitor);
	for (unsigned i = 0; i < nx->nchildren; i++)
		child_wait_closed(nx->child[nx->order[i]]);
}

/* The record says that the end was clean; only then may the children's pages forget. */
static void record_clean(struct nexus *nx, bool is_clean) MAY_SUSPEND
{
	struct err err = {};

	if (!is_clean) {
		log_warn("nexus %s: not all was flushed, so the record does not say that it was "
			 "shut down in order",
			 nx->dev.name);
		return;
	}
	if (nexus_persist(nx, true, &err) < 0)
		log_warn("nexus %s: the record does not say that it was shut down in order: %s",
			 nx->dev.name, err_text(&err));
	else
		marks_clear(nx);
}

int nexus_shutdown(struct nexus *nx, struct nexus_err *ne)
{
	bool is_clean;

	if (nx->state == NEXUS_SHUTDOWN)
		return 0;
	if (nx->state != NEXUS_OPEN)
		return nexus_fail(ne, NEXUS_E_NOT_ALLOWED, "nexus %s is %s", nx->dev.name,
				  nexus_state_name(nx->state));
	device_pin(&nx->dev); /* who destroys it meanwhile waits */
	nx->state = NEXUS_SHUTTING_DOWN;
	nexus_tell_status(nx);
	nexus_end_io(nx); /* an operation under way may wait for I/O that is held */
	control_begin(nx);
	nexus_scrub_stop(nx);
	nexus_rebuild_end_all(nx);
	device_quiesce(&nx->dev); /* what is on its way to children tells who has it */
	device_resume(&nx->dev);
	errand_wait(&nx->retire);
	is_clean = marks_finish(nx);
	record_clean(nx, is_clean);
	close_children(nx);
	record_writer_unlock(nx->writer); /* whoever comes next may have it */
	nx->state = NEXUS_SHUTDOWN;
	nexus_tell_status(nx);
	control_end(nx);
	device_unpin(&nx->dev);
	return 0;
}

int nexus_destroy(struct nexus *nx, struct nexus_err *ne)
{
	if (device_remove(&nx->dev, ne != NULL ? &ne->err : NULL) < 0)
		return nexus_fail(ne, NEXUS_E_NOT_ALLOWED, "nexus is going already");
	return 0;
}

/* Driver: all descriptors are closed, no channel is left. */
void nexus_free_device(struct device *dev)
{
	struct nexus *nx = nexus_of(dev);
	bool is_open = nx->state == NEXUS_OPEN;

	errands_wait(nx);
	nx->is_registered = false;
	if (is_open) {
		bool is_clean = marks_finish(nx);

		record_clean(nx, is_clean);
	}
	nx->state = NEXUS_CLOSED;
	nexus_tell(nx, NEXUS_EVENT_DESTROYED, NULL);
	nexus_free(nx);
}
