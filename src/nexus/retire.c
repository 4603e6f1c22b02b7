/* SPDX-License-Identifier: Apache-2.0 */
/*
 * retire.c - a child is out: what has to be true before anybody may rely on it.
 *
 *   any reactor   word: OPEN -> FAULTED(reason) | CLOSED       (a leg failed, an event, a client)
 *                 the failing channel drops the leg, parks the write, holds those that follow
 *        | ring
 *        v
 *   task  1 drop     every channel: nobody reads it or writes to it; writes are held
 *                    the monitor cuts its connections if it hangs
 *         2 persist  record: healthy = false. The store away: bounded tries, writes stay held
 *         3 settle   word |= SETTLED
 *         4 release  every channel: parked writes are acknowledged, held ones go to those left
 *         5 close    monitor.c, when nothing is in flight on it any more
 *
 * Nothing here waits for requests on the child: a leg that hangs holds only the requests that are
 * on it. Reads go on throughout: a block that a parked write has changed is its own until it is
 * acknowledged, so no reader sees what the record does not cover yet.
 *
 * The last child. The record never says that nobody is healthy: when the last falls, its entry
 * stays as it is, so that the volume can be made again from it. The nexus is then Faulted and
 * frozen: I/O is held, not failed, until it is shut down, destroyed or made again. One exception:
 * a last child without space. It holds every acknowledged write, and freezing would be no help to
 * a host who could delete something, so the child is taken back and the host gets "no space".
 *
 * The store fails for good: the nexus ends itself. Parked writes fail, the record stays
 * untouched, because somebody else may own it already. The same when a child reports that another
 * owner holds the reservation. The device has ended then (device_end()): what hosts send, and what
 * fails meanwhile, is answered as on a path that is closed, so they go on with the other owner. Who
 * hears of another owner once, while it is made or on its way out, too, writes no record any more.
 *
 * Invariants: one round at a time; a child is settled only after a put that had it as unhealthy,
 * or if it was not in sync; puts are in the order of the changes they tell (record_lock).
 *
 * Thread: tasks on the primary, but nexus_child_fail() and the rings.
 */
#include <errno.h>

#include "base/log.h"
#include "nexus/internal.h"
#include "nexus/marks.h"

bool nexus_child_fail(struct child *child, enum child_state state, enum nexus_reason reason)
{
	uint32_t word = atomic_load(&child->word), next;

	do {
		if (child_state_of(word) != CHILD_OPEN)
			return false;
		next = child_word(state, reason, word & CHILD_SYNCED);
		if (!(word & CHILD_SYNCED))
			next |= CHILD_SETTLED;
	} while (!atomic_compare_exchange_weak(&child->word, &word, next));
	atomic_fetch_or(&child->nx->fallen, (uint8_t)(1u << child->slot));
	errand_ring(&child->nx->retire);
	return true;
}

void nexus_shutdown_ring(struct nexus *nx)
{
	atomic_store(&nx->wants_shutdown, true);
	errand_ring(&nx->retire);
}

void nexus_child_blame(struct child *child, enum io_op op, uint16_t status)
{
	struct child_verdict verdict = child_verdict(op, status);

	if (verdict.action == CHILD_SHUTDOWN)
		nexus_shutdown_ring(child->nx);
	else
		(void)nexus_child_fail(child, CHILD_FAULTED,
				       verdict.action == CHILD_RETIRE ? verdict.reason
								      : NEXUS_REASON_IO_ERROR);
}

/* ---- the record ----------------------------------------------------------------------------- */

static void record_of(const struct nexus *nx, bool is_clean, struct nexus_record *record)
{
	*record = (struct nexus_record){ .is_clean = is_clean,
					 .generation = nx->generation,
					 .size = nx->size,
					 .label = (uint8_t)nx->label };
	for (unsigned i = 0; i < nx->nchildren; i++) {
		const struct child *child = nx->child[nx->order[i]];

		record->child[record->nchildren].uuid = child->uuid;
		record->child[record->nchildren++].is_healthy = child->is_healthy;
	}
	for (unsigned i = 0; i < nx->nabsent && record->nchildren < RECORD_CHILDREN_MAX; i++) {
		bool is_child = false;

		for (unsigned j = 0; j < nx->nchildren; j++)
			is_child |= uuid_equal(&nx->child[nx->order[j]]->uuid, &nx->absent[i]);
		if (!is_child)
			record->child[record->nchildren++].uuid = nx->absent[i];
	}
}

static int persist_tries(struct nexus *nx, bool is_clean, struct err *err)
{
	int result = 0;

	for (unsigned try = 1; try <= nexus_settings.store_tries; try++) {
		struct nexus_record record;
		char text[RECORD_TEXT_MAX];

		if (atomic_load(&nx->wants_shutdown))
			return err_set(err, -EBADE, "a child is reserved by another owner");
		if (nx->is_ended && !is_clean)
			return err_set(err, -ECANCELED, "%s is shut down", nx->dev.name);
		record_of(nx, is_clean, &record);
		record_format(&record, text);
		err_clear(err);
		result = record_writer_put(nx->writer, nx->key, text,
					   nexus_settings.store_timeout_ns, err);
		if (result == 0)
			return 0;
		log_warn("nexus %s: record not written, try %u of %u, writes wait: %s",
			 nx->dev.name, try, nexus_settings.store_tries, err_text(err));
		if (try == 1)
			nexus_tell_event(
				&(struct nexus_event){ .type = NEXUS_EVENT_STORE, .nx = nx });
		if (try < nexus_settings.store_tries)
			task_sleep(nexus_settings.store_pause_ns);
	}
	return result;
}

int nexus_persist(struct nexus *nx, bool is_clean, struct err *err)
{
	struct err why = {};
	int result;

	task_mutex_lock(&nx->record_lock);
	result = persist_tries(nx, is_clean, &why);
	task_mutex_unlock(&nx->record_lock);
	if (result < 0 && err != NULL)
		*err = why;
	return result;
}

/* ---- the end -------------------------------------------------------------------------------- */

void nexus_end_io(struct nexus *nx)
{
	nx->is_ended = true;
	device_end(&nx->dev); /* hosts go elsewhere, unless it is being removed */
	nexus_apply(nx);
	errand_ring(&nx->monitor);
}

void nexus_self_shutdown(struct nexus *nx, const char *why)
{
	if (nx->state != NEXUS_OPEN || nx->is_ended)
		return;
	log_error("nexus %s ends itself: %s; I/O fails from now on", nx->dev.name, why);
	(void)snprintf(nx->why, sizeof(nx->why), "%s", why);
	nx->state = NEXUS_SHUTTING_DOWN;
	nexus_tell_status(nx);
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];
		uint32_t word = atomic_load(&child->word);

		while (child_state_of(word) == CHILD_OPEN &&
		       !atomic_compare_exchange_weak(
			       &child->word, &word,
			       child_word(CHILD_CLOSED, NEXUS_REASON_NONE, word & CHILD_SYNCED)))
			;
		child->is_leaving |= child->desc != NULL;
	}
	nexus_end_io(nx);
	errand_ring(&nx->monitor);
	nx->state = NEXUS_SHUTDOWN;
	nexus_tell_status(nx);
}

/* ---- a round -------------------------------------------------------------------------------- */

/* The last child fell for want of space: it stays. */
static void revive_last(struct nexus *nx)
{
	for (unsigned i = nx->nchildren; i-- > 0;) {
		struct child *child = nx->child[nx->order[i]];
		uint32_t word = atomic_load(&child->word);

		if (!child_is_pending(word) || child->desc == NULL || child->is_leaving ||
		    child_reason_of(word) != NEXUS_REASON_NO_SPACE)
			continue;
		segmap_zero(&child->missed); /* what is on it is what there is */
		atomic_store(&child->word, child_word(CHILD_OPEN, NEXUS_REASON_NONE, true));
		return;
	}
}

/* Who fell leaves, if the monitor is not closing it already. What it misses is known from its last
 * write on, if it was in sync, or was known and nobody had begun to rebuild it. Without marks
 * nobody knows what was in its cache, nor, when it comes back, whether it is what it was. Who lost
 * blocks of all that it had misses more than was written since.
 * Returns those with a cache, 1 << slot. */
static uint8_t children_leave(struct nexus *nx, uint8_t fallen)
{
	uint8_t cached = 0;

	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];
		uint32_t word = atomic_load(&child->word);

		if (!(fallen >> child->slot & 1) || child_state_of(word) == CHILD_OPEN)
			continue;
		child->is_leaving |= child->desc != NULL;
		if (word & CHILD_SYNCED)
			child->is_missed_known = nx->marks != NULL && child->missed.words != NULL;
		else if (child->is_writer)
			child->is_missed_known = false;
		if (child->has_lost_data)
			child->is_missed_known = false;
		child->is_writer = false;
		if (child->desc != NULL && child->desc->dev->has_write_cache)
			cached |= (uint8_t)(1u << child->slot);
		child->fault_ns = reactor_primary()->now_ns;
	}
	return cached;
}

/* Every channel has dropped who fell: what it was sent last is known by now. Until they are settled
 * no tick forgets anything of it (marks.c, is_any_pending()). */
static void caches_fold(struct nexus *nx, uint8_t cached)
{
	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		if (cached >> slot & 1 && nx->child[slot] != NULL)
			marks_fold_cache(nx->child[slot]);
	}
}

/* Children that are pending become unhealthy in the record, but the last. True: it changed. */
static bool record_fallen(struct nexus *nx)
{
	unsigned nrecorded = 0;
	bool is_changed = false;

	for (unsigned i = 0; i < nx->nchildren; i++)
		nrecorded += nx->child[nx->order[i]]->is_healthy;
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];

		if (!child_is_pending(atomic_load(&child->word)) || !child->is_healthy ||
		    nrecorded == 1)
			continue;
		child->is_healthy = false;
		is_changed = true;
		nrecorded--;
	}
	return is_changed;
}

static void settle(struct nexus *nx)
{
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];

		if (!child_is_pending(atomic_load(&child->word)) || child->is_healthy)
			continue;
		atomic_fetch_or(&child->word, CHILD_SETTLED);
		log_info("nexus %s: child %s is recorded as stale", nx->dev.name, child->uri);
	}
}

static void tell_fallen(struct nexus *nx, uint8_t fallen)
{
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];

		if (fallen >> child->slot & 1 &&
		    child_state_of(atomic_load(&child->word)) != CHILD_OPEN)
			nexus_tell(nx, NEXUS_EVENT_CHILD_STATE, child);
	}
	nexus_tell_status(nx);
}

static void retire_round(struct nexus *nx, uint8_t fallen)
{
	struct err err = {};
	uint8_t cached;

	if (nexus_nhealthy(nx) == 0)
		revive_last(nx);
	if (nexus_nhealthy(nx) == 0 && !nx->is_frozen) {
		nx->is_frozen = true;
		log_error("nexus %s has no healthy child left: I/O is held; when its children "
			  "are back stop what serves it and start it again, hosts wait for that; "
			  "to remove it from a target that runs gives them errors",
			  nx->dev.name);
	}
	cached = children_leave(nx, fallen);
	nexus_apply(nx);
	caches_fold(nx, cached);
	tell_fallen(nx, fallen);
	errand_ring(&nx->monitor); /* what hangs is cut off while the store takes its time */
	if (record_fallen(nx) && nexus_persist(nx, false, &err) < 0) {
		nexus_self_shutdown(nx, err_text(&err)); /* unless it is being ended */
		errand_ring(&nx->monitor);
		return;
	}
	settle(nx);
	nexus_apply(nx);
	marks_fold(nx);
	errand_ring(&nx->monitor);
}

/*
 * While a client shuts the nexus down: nobody is acknowledged any more, so nothing waits for the
 * record, but the clean one that is about to be written must not call a child healthy that has
 * missed something.
 */
static void retire_at_end(struct nexus *nx, uint8_t fallen)
{
	uint8_t cached = children_leave(nx, fallen);

	nexus_apply(nx);
	caches_fold(nx, cached);
	(void)record_fallen(nx);
	errand_ring(&nx->monitor);
}

/*
 * While it is made: nobody was promised anything yet, and the record is about to be read, so none
 * is written. Who fell is closed, which ends what hangs there; nexus_create() sees it and fails.
 */
static void retire_early(struct nexus *nx, uint8_t fallen)
{
	(void)children_leave(nx, fallen);
	errand_ring(&nx->monitor);
}

void nexus_retire_run(struct nexus *nx)
{
	uint8_t fallen;

	if (atomic_load(&nx->wants_shutdown))
		nexus_self_shutdown(nx, "a child is reserved by another owner");
	while ((fallen = atomic_exchange(&nx->fallen, 0)) != 0) {
		if (nx->state == NEXUS_OPEN)
			retire_round(nx, fallen);
		else if (nx->state == NEXUS_INIT)
			retire_early(nx, fallen);
		else if (nx->state == NEXUS_SHUTTING_DOWN)
			retire_at_end(nx, fallen);
	}
}
