/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io_failed.c - a write that a leg has not done: who is out, and what becomes of it.
 *
 * All parts are back (io.c). In this order:
 *
 *   a child is short of something  --> its part again, later; the fork goes on   (bounded)
 *   the reservation is another's   --> the nexus shuts down; the blocks stay taken
 *   every copy finds fault with the request --> nobody missed anything; the host gets the word
 *   else: legs that failed are dropped here and their children retired; then, once the record
 *   says so:
 *        all who are healthy have it      --> acknowledged
 *        one of them has no space for it  --> the host gets that, the blocks stay what they were
 *        one of them has it not           --> sent again, to whoever is left, or held
 *
 *   fork_failed --> fork_drop_legs --> fork_resolve --(mark not durable)--> parked
 *                                          ^                                  |
 *                                          +------ nexus_parked_resolve ------+
 *
 * "Once the record says so" is nc->is_waiting, which a dropped leg sets and channel_apply() takes
 * back. Invariants 1 and 2 of internal.h rest on it: while it is set fork_resolve() parks, and
 * write_start() holds. A parked write keeps its fork and its blocks: who wants them waits.
 *
 * A leg that failed a fork counts it (leg.failing) until the fork has drawn the consequence, and
 * the monitor does not let the child go before.
 *
 * What a child's error means is verdict.c's; the last child in sync is spared where its own word
 * can be given to the host instead (fork_spared()).
 *
 * Thread: the channel's reactor.
 *
 * Rejected: a quiesce for retirement: it waits for what is in flight, and a leg that hangs would
 * keep the record from being written.
 */
#include "nexus/io_internal.h"

/* ---- legs ----------------------------------------------------------------------------------- */

static void slot_remove(uint8_t *slots, uint8_t *count, uint8_t slot)
{
	uint8_t n = 0;

	for (uint8_t i = 0; i < *count; i++) {
		if (slots[i] != slot)
			slots[n++] = slots[i];
	}
	*count = n;
}

/* This channel uses the leg no more. What is on it comes back. */
static void leg_drop(struct nexus_channel *nc, uint8_t slot)
{
	uint32_t word = atomic_load(&nc->nx->child[slot]->word);

	slot_remove(nc->readers, &nc->nreaders, slot);
	slot_remove(nc->writers, &nc->nwriters, slot);
	nc->believed &= (uint8_t) ~(1u << slot);
	if (child_is_pending(word))
		nc->stale |= (uint8_t)(1u << slot);
	channel_judge(nc);
}

/* The child is out. The first who says so, on whichever reactor, has it retired. */
void nexus_leg_fail(struct nexus_channel *nc, uint8_t slot, enum nexus_reason reason)
{
	nexus_child_fail(nc->nx->child[slot], CHILD_FAULTED, reason);
	leg_drop(nc, slot);
}

/* ---- forks ---------------------------------------------------------------------------------- */

COLD void nexus_fork_let_go(struct nexus_channel *nc, uint8_t slots)
{
	for (uint8_t slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		struct leg *leg = &nc->leg[slot];

		if (slots >> slot & 1 && --leg->failing == 0 && leg->is_leaving)
			nexus_gone_ring(nc->nx);
	}
}

/* Parts whose child is short of something: later; it stays until then. True: there are some, the
 * fork goes on. */
static bool fork_again(struct nexus_channel *nc, struct fork *fork)
{
	uint8_t failed = fork->failed;

	if (nc->is_ended || fork->again >= CHILD_AGAIN_MAX)
		return false;
	for (uint8_t slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		struct io *part = fork_part(fork, slot);

		if (!(failed >> slot & 1) ||
		    child_verdict(part->op, part->status).action != CHILD_AGAIN)
			continue;
		fork->failed &= (uint8_t) ~(1u << slot);
		fork->remaining++;
		(void)nexus_again_later(nc, part);
	}
	fork->again += fork->remaining > 0;
	return fork->remaining > 0;
}

/*
 * Each copy says that the request itself is at fault: then nobody has missed anything. So it is
 * when there is but one copy, which has no patience left to ask for: the host may come again.
 */
static bool fork_is_refused(struct fork *fork)
{
	bool is_only = (fork->sent & (fork->sent - 1)) == 0;

	if (fork->failed != fork->sent)
		return false;
	for (uint8_t slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		const struct io *part = fork_part(fork, slot);
		enum child_action action = child_verdict(part->op, part->status).action;

		if (fork->sent >> slot & 1 && action != CHILD_KEEP &&
		    !(is_only && action == CHILD_AGAIN))
			return false;
	}
	return true;
}

/*
 * Legs that stay though they failed. Nobody has the write, so nobody has missed it: those who find
 * fault with the request stay, or where all are short of something, one of them.
 */
static uint8_t fork_spared(const struct nexus_channel *nc, struct fork *fork)
{
	uint8_t kept = 0, short_of = 0;

	if (fork->failed != fork->sent)
		return 0;
	for (uint8_t i = 0; i < nc->nreaders; i++) {
		const struct io *part = fork_part(fork, nc->readers[i]);
		uint8_t bit = fork->failed & (uint8_t)(1u << nc->readers[i]);

		if (bit == 0)
			continue;
		if (child_verdict(part->op, part->status).action == CHILD_KEEP)
			kept |= bit;
		else if (child_verdict(part->op, part->status).action == CHILD_AGAIN)
			short_of = bit;
	}
	return kept != 0 ? kept : short_of;
}

/* The status of the first leg in @slots; there is one. */
static uint16_t fork_status(struct fork *fork, uint8_t slots)
{
	return fork_part(fork, (uint8_t)__builtin_ctz(slots))->status;
}

/*
 * The end of a nexus: nobody decides any more what the blocks hold, on some legs the old and on
 * others the new. They stay taken, so that no read elsewhere returns what may be taken back.
 * Whoever is the source of the next life, the others are given these blocks: who has failed has
 * noted them already (fork_drop_legs()), who has written them does so here. Where another owner has
 * it nobody notes anything; the record is not clean then, and the marks tell.
 */
static enum io_result fork_abandon(struct nexus_channel *nc, struct fork *fork, uint16_t status)
{
	struct io *parent = fork->parent;
	uint8_t ok = fork->owns_blocks ? fork->sent & (uint8_t)~fork->failed : 0;

	for (uint8_t slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		if (ok & nc->mapped & 1u << slot) /* who was removed meanwhile is not there */
			segmap_set_range(&nc->nx->child[slot]->missed, parent->lba, parent->nlb);
	}
	fork->owns_blocks = false;
	fork_free(nc, fork);
	return end(parent, status);
}

static enum io_result fork_end(struct nexus_channel *nc, struct fork *fork, uint16_t status)
{
	struct io *parent = fork->parent;

	fork_free(nc, fork);
	return end(parent, status);
}

/* Until the mark is durable. */
static enum io_result fork_park(struct nexus_channel *nc, struct fork *fork)
{
	fork->next = nc->parked;
	nc->parked = fork;
	return IO_PENDING;
}

/* Legs that failed are out: their children missed this write, if others have it or may have it. */
static void fork_drop_legs(struct nexus_channel *nc, struct fork *fork)
{
	uint8_t dropped = fork->failed & (uint8_t)~fork_spared(nc, fork);

	for (uint8_t slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		const struct io *part = fork_part(fork, slot);
		struct child_verdict verdict;

		if (!(dropped >> slot & 1))
			continue;
		verdict = child_verdict(part->op, part->status);
		nexus_leg_fail(nc, slot,
			       verdict.action == CHILD_RETIRE ? verdict.reason
							      : NEXUS_REASON_IO_ERROR);
		/* after it is out: nexus_child_synced() empties the map of one that is not */
		if (fork->owns_blocks)
			segmap_set_range(&nc->nx->child[slot]->missed, fork->parent->lba,
					 fork->parent->nlb);
	}
}

/*
 * The host is told that there is no space, so the blocks stay what they are on who is healthy. Who
 * has written them all the same differs now: one that fell may be given them again, and one that is
 * being rebuilt, whose copy may be past them, is out.
 */
static enum io_result fork_unwritten(struct nexus_channel *nc, struct fork *fork, uint16_t status)
{
	uint8_t ok = fork->owns_blocks ? fork->sent & (uint8_t)~fork->failed : 0;
	uint8_t writers = 0;

	for (uint8_t i = 0; i < nc->nwriters; i++)
		writers |= (uint8_t)(1u << nc->writers[i]);
	for (uint8_t slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		uint8_t bit = (uint8_t)(1u << slot);

		if (ok & bit & (writers | nc->missing))
			segmap_set_range(&nc->nx->child[slot]->missed, fork->parent->lba,
					 fork->parent->nlb);
		if (ok & bit & writers)
			nexus_leg_fail(nc, slot, NEXUS_REASON_REBUILD_FAILED);
	}
	return nc->is_waiting ? fork_park(nc, fork) : fork_end(nc, fork, status);
}

/*
 * A fork with failed legs, none of whom is undecided any more: every child that is still in sync
 * has it: acknowledged. Else those who are left get it again, but for want of space, which is the
 * host's to know. IO_PENDING: it stays, or is on its way again.
 */
static enum io_result fork_resolve(struct nexus_channel *nc, struct fork *fork)
{
	uint8_t healthy = 0, ok = fork->sent & (uint8_t)~fork->failed;
	struct io *parent = fork->parent;

	if (nc->is_ended)
		return fork_abandon(nc, fork, end_status(nc, IO_ABORTED));
	if (nc->is_waiting)
		return fork_park(nc, fork);
	for (uint8_t i = 0; i < nc->nreaders; i++)
		healthy |= (uint8_t)(1u << nc->readers[i]);
	if ((healthy & ~ok) == 0)
		return fork_end(nc, fork, IO_OK);
	if (healthy & fork->failed) {
		uint16_t status = fork_status(fork, healthy & fork->failed);

		if (child_verdict(parent->op, status).reason == NEXUS_REASON_NO_SPACE)
			return fork_unwritten(nc, fork, status);
	}
	fork_free(nc, fork);
	parent->msg.fn = nexus_restart;
	reactor_defer(nc->ch.reactor, &parent->msg);
	return IO_PENDING;
}

COLD enum io_result nexus_fork_failed(struct nexus_channel *nc, struct fork *fork)
{
	if (fork_again(nc, fork))
		return IO_PENDING;
	for (uint8_t slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		const struct io *part = fork_part(fork, slot);

		if (fork->failed >> slot & 1 &&
		    child_verdict(part->op, part->status).action == CHILD_SHUTDOWN) {
			nexus_shutdown_ring(nc->nx);
			nexus_fork_let_go(nc, fork->failed);
			return fork_abandon(nc, fork, IO_ENDED);
		}
	}
	if (fork_is_refused(fork)) {
		nexus_fork_let_go(nc, fork->failed);
		return fork_end(nc, fork, fork_status(fork, fork->failed));
	}
	fork_drop_legs(nc, fork);
	nexus_fork_let_go(nc, fork->failed);
	return fork_resolve(nc, fork);
}

/* The mark is durable, or there will be none: forks that waited for it. */
void nexus_parked_resolve(struct nexus_channel *nc)
{
	struct fork *fork = take(nc->parked);

	while (fork != NULL) {
		struct fork *next = fork->next;
		struct io *parent = fork->parent;

		if (fork_resolve(nc, fork) == IO_DONE)
			io_complete(parent, parent->status);
		fork = next;
	}
}
