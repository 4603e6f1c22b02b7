/* SPDX-License-Identifier: Apache-2.0 */
/*
 * channel.c - a nexus on one reactor: made, closed, and told what its children are.
 *
 * A channel knows nothing of its own accord but that a leg failed on it. Everything else it learns
 * in channel_apply(): run on its reactor, called by the primary, it looks at all children's words
 * and makes its arrays from them. So there is one place that says who reads and who writes, and a
 * channel that is told once too often is none the worse.
 *
 *   word                      readers  writers  keeps its missed map   new writes wait
 *   OPEN, synced                 x        x
 *   OPEN, a writer                        x
 *   OPEN, neither                                  x (if known)
 *   else, synced, not settled                      (the failing ones)      x
 *   else, settled                                  x (if known)
 *
 * Writers that are not in sync count only where somebody is: without a source nothing is rebuilt.
 *
 * Invariants
 *   1. nx->child and nx->order change under dev.control, which is held while channels are called,
 *      so apply reads them without a lock.
 *   2. leg.h is looked at only for slots in readers and writers; a child's descriptor is closed
 *      only when no channel has its slot in them and nothing is in flight there (monitor.c).
 *   3. A bell outlives its channel; the channel takes itself off on its own reactor.
 *
 * Thread: apply and bells on the channel's reactor, the rest in tasks.
 */
#include <errno.h>
#include <string.h>

#include "nexus/internal.h"
#include "reactor/mem.h"

/* ---- apply ---------------------------------------------------------------------------------- */

static void leg_apply(struct nexus_channel *nc, const struct child *child)
{
	struct leg *leg = &nc->leg[child->slot];
	uint32_t word = atomic_load(&child->word);
	uint8_t bit = (uint8_t)(1u << child->slot);
	bool is_open = child_state_of(word) == CHILD_OPEN && child->desc != NULL &&
		       child->desc->handle[nc->ch.reactor->id] != NULL;

	leg->is_leaving = child->is_leaving || nc->nx->is_ended;
	if (is_open || child_is_pending(word) || child->is_missed_known)
		nc->mapped |= child->missed.words != NULL ? bit : 0;
	if (is_open && (word & CHILD_SYNCED || child->is_writer)) {
		leg->h = child->desc->handle[nc->ch.reactor->id];
		leg->cost = child->is_local || nc->nx->is_round_robin ? 0 : LEG_REMOTE_COST;
		leg->zeroes_for_unmap = child->zeroes_for_unmap;
		nc->writers[nc->nwriters++] = child->slot;
		if (word & CHILD_SYNCED) {
			nc->readers[nc->nreaders++] = child->slot;
			nc->believed |= bit;
		}
		return;
	}
	leg->silent_ns = 0;
	if (child_is_pending(word))
		nc->stale |= bit;
	else if (child->is_missed_known)
		nc->missing |= bit;
}

static void channel_apply(struct nexus_channel *nc, void *arg)
{
	const struct nexus *nx = nc->nx;

	(void)arg;
	nc->nreaders = nc->nwriters = nc->stale = nc->missing = nc->mapped = nc->believed = 0;
	nc->is_frozen = nx->is_frozen;
	nc->is_ended = nx->is_ended;
	for (unsigned i = 0; i < nx->nchildren; i++)
		leg_apply(nc, nx->child[nx->order[i]]);
	if (nc->is_ended || nc->is_frozen || nc->nreaders == 0)
		nc->nreaders = nc->nwriters = 0;
	nc->turn = nc->turn < nc->nreaders ? nc->turn : 0;
	channel_judge(nc);
	if (!nc->is_waiting || nc->is_ended)
		nexus_parked_resolve(nc);
	nexus_list_start(nc, &nc->held);
	nexus_list_start(nc, &nc->unmarked);
	if (nc->is_ended) {
		timer_disarm(nc->ch.reactor, &nc->again_timer);
		nexus_again_due(&nc->again_timer);
	}
	nexus_blocked_walk(nc);
}

/* ---- every channel -------------------------------------------------------------------------- */

struct channel_call {
	struct nexus_channel *nc;
	void (*fn)(struct nexus_channel *nc, void *arg);
	void *arg;
};

static void channel_call_here(void *arg)
{
	struct channel_call *call = arg;

	call->fn(call->nc, call->arg);
}

/* dev.control is held. */
static void each_channel(struct nexus *nx, void (*fn)(struct nexus_channel *nc, void *arg),
			 void *arg)
{
	for (unsigned i = 0; i < reactor_count(); i++) {
		struct channel_call call = { .fn = fn, .arg = arg };

		if (nx->dev.channel[i] == NULL)
			continue;
		call.nc = container_of(nx->dev.channel[i], struct nexus_channel, ch);
		task_call(nx->dev.channel[i]->reactor, channel_call_here, &call);
	}
}

void nexus_each_channel(struct nexus *nx, void (*fn)(struct nexus_channel *nc, void *arg),
			void *arg)
{
	if (!nx->is_registered)
		return;
	task_mutex_lock(&nx->dev.control);
	each_channel(nx, fn, arg);
	task_mutex_unlock(&nx->dev.control);
}

void nexus_apply(struct nexus *nx)
{
	nexus_each_channel(nx, channel_apply, NULL);
}

int nexus_open_legs(struct nexus *nx, struct child *child, struct err *err)
{
	struct handle *h;
	int result = 0;

	if (!nx->is_registered)
		return 0;
	task_mutex_lock(&nx->dev.control);
	for (unsigned i = 0; i < reactor_count() && result == 0; i++) {
		if (child->desc == NULL)
			result = err_set(err, -ENODEV, "%s went away", child->uri);
		else if (nx->dev.channel[i] != NULL)
			result = handle_open(child->desc, reactor_get(i), &h, err);
	}
	task_mutex_unlock(&nx->dev.control);
	return result;
}

struct inflight {
	uint32_t sum;
	uint8_t slot;
};

static void inflight_add(struct nexus_channel *nc, void *arg)
{
	struct inflight *in = arg;
	const struct leg *leg = &nc->leg[in->slot];
	bool is_used = false;

	for (uint8_t i = 0; i < nc->nwriters; i++)
		is_used |= nc->writers[i] == in->slot;
	in->sum += leg->inflight + leg->failing + is_used;
}

uint32_t nexus_inflight(struct nexus *nx, const struct child *child)
{
	struct inflight in = { .slot = child->slot };

	nexus_each_channel(nx, inflight_add, &in);
	return in.sum;
}

/* ---- bells ---------------------------------------------------------------------------------- */

static void bell_arrived(struct msg *msg)
{
	struct nexus_bell *bell = container_of(msg, struct nexus_bell, msg);

	atomic_store(&bell->is_rung, false);
	if (bell->nc != NULL)
		nexus_blocked_walk(bell->nc);
}

void nexus_bells_ring(struct nexus *nx)
{
	for (unsigned i = 0; i < reactor_count(); i++) {
		struct nexus_bell *bell = &nx->bell[i];

		if (atomic_load(&bell->nblocked) == 0 || atomic_exchange(&bell->is_rung, true))
			continue;
		bell->msg.fn = bell_arrived;
		if (reactor_self() == reactor_get(i))
			reactor_defer(reactor_self(), &bell->msg);
		else
			reactor_post(reactor_get(i), &bell->msg);
	}
}

/* ---- open and close ------------------------------------------------------------------------- */

static void channel_enter(void *arg)
{
	struct nexus_channel *nc = arg;

	nc->nx->bell[nc->ch.reactor->id].nc = nc;
	channel_apply(nc, NULL);
}

static void channel_leave(void *arg)
{
	struct nexus_channel *nc = arg;

	nc->nx->bell[nc->ch.reactor->id].nc = NULL;
	timer_disarm(nc->ch.reactor, &nc->again_timer);
	timer_disarm(nc->ch.reactor, &nc->watch_timer);
}

static void channel_free(struct nexus_channel *nc)
{
	segmap_done(&nc->hot);
	if (nc->arena != NULL)
		dma_free(nc->arena, nc->arena_size);
	nc->arena = NULL;
}

/* Runs under dev.control. A child that cannot be reached from here is out. */
int nexus_channel_open(struct channel *ch, struct err *err)
{
	struct nexus_channel *nc = container_of(ch, struct nexus_channel, ch);
	struct nexus *nx = nexus_of(ch->dev);

	nc->nx = nx;
	nc->data_start = nx->geometry.data_start;
	nc->load_mask = nx->is_round_robin ? 0 : UINT32_MAX;
	nc->again_timer.fn = nexus_again_due;
	nc->watch_timer.fn = nexus_watch_due;
	if (nexus_arena_make(nc) < 0 ||
	    segmap_init(&nc->hot, ch->nblocks, segment_shift(ch->nblocks, ch->block_shift)) < 0) {
		channel_free(nc);
		return err_set(err, -ENOMEM, "no memory for a channel of nexus %s", nx->dev.name);
	}
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];
		struct err why = {};
		struct handle *h;

		if (child->desc == NULL || child_state_of(atomic_load(&child->word)) != CHILD_OPEN)
			continue;
		if (handle_open(child->desc, ch->reactor, &h, &why) < 0)
			(void)nexus_child_fail(child, CHILD_FAULTED, NEXUS_REASON_CANT_OPEN);
	}
	if (nx->marks == NULL)
		segmap_fill(&nc->hot);
	task_call(ch->reactor, channel_enter, nc);
	return 0;
}

void nexus_channel_close(struct channel *ch)
{
	struct nexus_channel *nc = container_of(ch, struct nexus_channel, ch);
	struct nexus *nx = nexus_of(ch->dev);

	task_call(ch->reactor, channel_leave, nc);
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];

		child->read_errors += nc->leg[child->slot].read_errors;
		child->write_errors += nc->leg[child->slot].write_errors;
	}
	channel_free(nc);
}
