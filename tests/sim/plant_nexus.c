/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plant_nexus.c - bugs of the nexus, planted as those of plant.c are.
 *
 *   early-ack      children that fell are settled while the record is on its way
 *   no-lock        a rebuild's range lock is granted, and holds nobody
 *   lost-bit       the map of what a child misses begins after the write that failed
 *   old-record     pages of the write-intent records are believed whatever generation they carry
 *   no-rebuild     whoever comes back is attached, and called in sync
 *   racing-writes  the table of blocks that are being written is emptied at every request
 *   blind-record   where the record is lost, the first child's pages are taken for the newest
 */
#include <stdlib.h>
#include <string.h>

#include "mirror.h"
#include "nexus/internal.h"
#include "nexus/marks.h"
#include "nexus/rebuild.h"
#include "world.h"

int __real_record_writer_put(struct record_writer *writer, const char *key, const char *text,
			     uint64_t timeout_ns, struct err *err);
bool __real_nexus_child_fail(struct child *child, enum child_state state, enum nexus_reason reason);
void __real_marks_fold_cache(struct child *child);
int __real_intent_pair_pick(const struct intent_page pair[2], const struct intent_id *id,
			    unsigned index);
enum io_result __real_nexus_submit(struct channel *ch, struct io *io);
bool __real_marks_look(struct child *child, struct marks_seen *ret);

int __wrap_record_writer_put(struct record_writer *writer, const char *key, const char *text,
			     uint64_t timeout_ns, struct err *err);
bool __wrap_nexus_child_fail(struct child *child, enum child_state state, enum nexus_reason reason);
void __wrap_marks_fold_cache(struct child *child);
int __wrap_intent_pair_pick(const struct intent_page pair[2], const struct intent_id *id,
			    unsigned index);
enum io_result __wrap_nexus_submit(struct channel *ch, struct io *io);
bool __wrap_marks_look(struct child *child, struct marks_seen *ret);

static void settle_early(struct nexus *nx) MAY_SUSPEND
{
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];

		if (child_is_pending(atomic_load(&child->word)) && !child->is_healthy)
			atomic_fetch_or(&child->word, CHILD_SETTLED);
	}
	nexus_apply(nx);
}

int __wrap_record_writer_put(struct record_writer *writer, const char *key, const char *text,
			     uint64_t timeout_ns, struct err *err)
{
	struct nexus *nx = nexus_lookup(MIRROR_NAME);

	if (sim_plant == PLANT_NEXUS_EARLY_ACK && nx != NULL)
		settle_early(nx);
	return __real_record_writer_put(writer, key, text, timeout_ns, err);
}

bool __wrap_nexus_child_fail(struct child *child, enum child_state state, enum nexus_reason reason)
{
	bool is_first = __real_nexus_child_fail(child, state, reason);

	if (sim_plant == PLANT_NEXUS_LOST_BIT && is_first && child->missed.words != NULL)
		segmap_zero(&child->missed);
	return is_first;
}

/* What was in flight when a child fell is missed, too: it would bring the lost bit back. */
void __wrap_marks_fold_cache(struct child *child)
{
	if (sim_plant != PLANT_NEXUS_LOST_BIT)
		__real_marks_fold_cache(child);
}

int __wrap_intent_pair_pick(const struct intent_page pair[2], const struct intent_id *id,
			    unsigned index)
{
	struct intent_id any = *id;
	int which = -1;

	for (unsigned copy = 0; copy < 2 && sim_plant == PLANT_NEXUS_OLD_RECORD; copy++) {
		if (!intent_page_is_valid(&pair[copy], index))
			continue;
		any.generation = le64_get(pair[copy].generation);
		which = __real_intent_pair_pick(pair, &any, index);
	}
	return which >= 0 ? which : __real_intent_pair_pick(pair, id, index);
}

enum io_result __wrap_nexus_submit(struct channel *ch, struct io *io)
{
	if (sim_plant == PLANT_NEXUS_RACING_WRITES)
		memset((void *)nexus_of(ch->dev)->overlap, 0, sizeof(struct overlap));
	return __real_nexus_submit(ch, io);
}

bool __wrap_marks_look(struct child *child, struct marks_seen *ret)
{
	bool is_ok = __real_marks_look(child, ret);

	if (sim_plant == PLANT_NEXUS_BLIND_RECORD && ret->sequence > 0) {
		ret->sequence = child->slot == child->nx->order[0] ? UINT64_MAX : 1;
		ret->is_incomplete = false;
	}
	return is_ok;
}

/* Those of disturbers and of repairs lie on their stacks, a rebuild's does not. */
static bool is_on_stack(const void *ptr)
{
	const char *here = __builtin_frame_address(0);

	return labs((const char *)ptr - here) < 64 << 10;
}

bool plant_nexus_lock(struct device *dev, struct range_lock *lock, uint64_t lba, uint64_t nlb)
{
	struct nexus *nx = nexus_of_device(dev);

	if (sim_plant != PLANT_NEXUS_NO_LOCK || nx == NULL || nexus_rebuild_count(nx) == 0 ||
	    is_on_stack(lock))
		return false;
	*lock = (struct range_lock){ .range = { .lba = lba, .nlb = nlb }, .is_held = true };
	list_init(&lock->link);
	return true;
}

bool plant_nexus_unlock(const struct range_lock *lock)
{
	return sim_plant == PLANT_NEXUS_NO_LOCK && list_empty(&lock->link);
}

static int no_rebuild(struct child *child, struct nexus_err *ne)
{
	struct err err = {};

	if (nexus_child_attach(child, &err) < 0 || nexus_child_synced(child, &err) < 0)
		return nexus_fail(ne, NEXUS_E_OPEN_CHILD, "%s", err_text(&err));
	return 0;
}

void plant_nexus(void)
{
	static struct nexus_rebuilder without;

	without = rebuild_jobs;
	without.start = no_rebuild;
	nexus_set_rebuilder(sim_plant == PLANT_NEXUS_NO_REBUILD ? &without : &rebuild_jobs);
}
