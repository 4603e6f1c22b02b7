/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io.c - the data path: reads from one leg, writes to all.
 *
 *   read:  pick a leg --io_forward()--> read_done: an error? another leg, and if the medium failed,
 *                                       a repair.  a writer at work on these blocks? wait for him
 *
 *   write: may it go? (held) -> marked? (unmarked) -> a fork? (starved) -> blocks free? (blocked)
 *            -> fork_send: one part per writer -> all answered: fork_finish
 *                 all well:  acknowledged
 *                 some not:  io_failed.c says which legs are out, and what becomes of the write
 *
 * Each word in brackets is a list of the channel. A request is in one of them, or on legs, or
 * parked, or its owner's; who takes it off a list starts it from the beginning, so there is one way
 * in, write_start(), and the order of the tests is the order of the lists. Who waits for blocks
 * (io_blocked.c) is the exception: he goes on where he stood, if nothing else is in his way.
 *
 * A read is the owner's own request with another address (no copy, no fork). Where it has been is
 * kept in frame.priv. What comes from a leg that fell meanwhile does not count, and is read again:
 * it may hold a write that the host was refused for want of space on the last child.
 *
 * A write's parts are requests of a fork, which the channel allocated when it was opened, by slot,
 * so that a part's place tells its leg. Parts share the caller's iovec. The parent waits for all of
 * them, even for those on a leg that was dropped: they point to its memory.
 * A leg costs three cache lines of the fork; the free list is a stack, so that they are near.
 *
 * Nothing is borrowed from a child (io_offer()): what is lent goes on to be seen, and a write shows
 * in it that is on one leg and not on another yet. The reader gets a copy, taken while the blocks
 * were free.
 *
 * Which leg reads: the one with the least outstanding work, where a remote leg counts REMOTE_COST
 * requests more than a local one; equals take turns, beginning with the second.
 *
 * Unmap becomes write-zeroes on legs whose unmap leaves the contents open: otherwise two legs could
 * answer differently for ever after. Compare and compare-and-write are not here: the device layer
 * makes them of our reads and writes under a range lock of the whole nexus, and so they are atomic
 * over all legs and all reactors.
 *
 * What a request without trouble passes is in this file, from nexus_submit() to the owner, so that
 * the compiler sees it whole; a function in another file costs it a call.
 *
 * Thread: the channel's reactor.
 *
 * Rejected: answering a write while one leg is still at it (its parts point to the owner's memory);
 * the first part in the owner's own request (a second way to end).
 */
#include <string.h>

#include "nexus/io_internal.h"
#include "reactor/mem.h"

enum {
	ARENA_SIZE_MIN = 2 << 20, /* bytes: from there on memory comes in huge pages */
};

/* ---- legs ----------------------------------------------------------------------------------- */

/* An answer came from a leg. */
static inline void leg_back(struct nexus_channel *nc, struct leg *leg)
{
	if (--leg->inflight == 0 && unlikely(leg->is_leaving))
		nexus_gone_ring(nc->nx);
}

/* Faults of the domain "child" speak of blocks of the nexus. True: the request ends here. */
static COLD bool child_fault(struct nexus_channel *nc, uint8_t slot, enum fault_stage stage,
			     struct io *io)
{
	const struct fault_spec *spec;

	if (stage == FAULT_COMPLETION && io->status != IO_OK)
		return false;
	spec = fault_match(FAULT_CHILD, stage, nc->nx->child[slot]->device_name, io);
	if (spec == NULL || spec->method != FAULT_STATUS)
		return false;
	io->status = spec->status;
	return true;
}

/* ---- reads ---------------------------------------------------------------------------------- */

static enum io_result read_done(struct io *io);

static void note_put(struct io *io, struct read_note note)
{
	memcpy(&io_top(io)->priv, &note, sizeof(note));
}

static enum io_result hold(struct nexus_channel *nc, struct io *io)
{
	msg_list_push(&nc->held, &io->msg);
	return IO_PENDING;
}

/* The reader with the least to do that is not in @tried; NEXUS_CHILDREN_MAX: none. */
static inline uint8_t read_pick(struct nexus_channel *nc, uint8_t tried)
{
	uint8_t best = NEXUS_CHILDREN_MAX, at = nc->turn;
	uint32_t least = UINT32_MAX;

	for (uint8_t n = nc->nreaders; n > 0; n--) {
		uint8_t slot;
		uint32_t cost;

		at = at + 1 < nc->nreaders ? at + 1 : 0;
		slot = nc->readers[at];
		cost = (nc->leg[slot].inflight & nc->load_mask) + nc->leg[slot].cost;
		if (cost >= least || tried >> slot & 1)
			continue;
		least = cost;
		best = slot;
		nc->turn = at;
		if (cost == 0)
			break;
	}
	return best;
}

static inline enum io_result read_send(struct nexus_channel *nc, struct io *io,
				       struct read_note note)
{
	struct leg *leg = &nc->leg[note.slot];

	note.borrow = io->flags & IO_BORROW;
	io->flags &= (uint16_t)~IO_BORROW;
	note_put(io, note);
	leg->inflight++;
	io->status = IO_OK;
	if (unlikely(fault_domain_armed(FAULT_CHILD)) &&
	    child_fault(nc, note.slot, FAULT_SUBMIT, io)) {
		io->lba += nc->data_start;
		return read_done(io);
	}
	io->lba += nc->data_start;
	if (io_forward(leg->h, io, read_done) == IO_DONE)
		return IO_DONE;
	if (unlikely(!nc->is_watching))
		nexus_watch_start(nc);
	return IO_PENDING;
}

static enum io_result read_start(struct nexus_channel *nc, struct io *io, struct read_note note)
{
	if (unlikely(nc->is_ended))
		return end(io, end_status(nc, IO_NO_DEVICE));
	note.slot = read_pick(nc, note.tried);
	if (unlikely(note.slot == NEXUS_CHILDREN_MAX))
		return hold(nc, io);
	return read_send(nc, io, note);
}

/* One leg could not. Another? */
static COLD enum io_result read_failed(struct nexus_channel *nc, struct io *io)
{
	struct read_note note = note_get(io);
	struct child_verdict verdict = child_verdict(io->op, io->status);
	uint8_t bit = (uint8_t)(1u << note.slot);

	nc->leg[note.slot].read_errors++;
	switch (verdict.action) {
	case CHILD_KEEP:
		if (io->status != IO_UNSUPPORTED)
			return IO_DONE;
		break;
	case CHILD_AGAIN:
		note.again++;
		if (note.again > CHILD_AGAIN_MAX && nc->nreaders == 1)
			return IO_DONE; /* there is nobody else: the host may come again */
		if (note.again > CHILD_AGAIN_MAX)
			nexus_leg_fail(nc, note.slot, verdict.reason);
		break;
	case CHILD_REPAIR:
		note.medium |= bit;
		break;
	case CHILD_RETIRE:
		nexus_leg_fail(nc, note.slot, verdict.reason);
		break;
	case CHILD_SHUTDOWN:
		nexus_shutdown_ring(nc->nx);
		return end(io, IO_ENDED); /* the other owner may serve it */
	}
	note.tried |= bit;
	if (read_pick(nc, note.tried) != NEXUS_CHILDREN_MAX)
		return read_start(nc, io, note);
	if (nc->nreaders == 0)
		return read_start(nc, io, (struct read_note){});
	if (verdict.action == CHILD_RETIRE && note.medium != 0)
		io->status = IO_READ_ERROR; /* what is left could not; who went has no say */
	if (verdict.action != CHILD_AGAIN)
		return IO_DONE;   /* every copy has said no, and this one's word stands */
	note.tried = note.medium; /* those who only asked for patience */
	note_put(io, note);
	return nexus_again_later(nc, io);
}

/* From a leg that could not read these blocks, another could. */
static COLD void read_mend(struct nexus_channel *nc, struct io *io, struct read_note note)
{
	for (uint8_t slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		if (note.medium >> slot & 1)
			nexus_repair_ring(nc->nx, slot, io->lba, io->nlb);
	}
}

static enum io_result read_done(struct io *io)
{
	struct nexus_channel *nc = channel_of(io);
	struct read_note note = note_get(io);

	io->lba -= nc->data_start;
	io->flags |= note.borrow;
	leg_back(nc, &nc->leg[note.slot]);
	if (unlikely(fault_domain_armed(FAULT_CHILD)))
		(void)child_fault(nc, note.slot, FAULT_COMPLETION, io);
	if (unlikely(io->status != IO_OK))
		return read_failed(nc, io);
	if (unlikely(note.medium != 0))
		read_mend(nc, io, note);
	if (unlikely(!overlap_is_free(nc->nx->overlap, io->lba, io->nlb)))
		return nexus_blocked_wait(nc, io);
	if (unlikely(!(nc->believed >> note.slot & 1)))
		return read_start(nc, io, (struct read_note){});
	return IO_DONE;
}

/* ---- seeking -------------------------------------------------------------------------------- */

static enum io_result seek_done(struct io *io)
{
	struct nexus_channel *nc = channel_of(io);
	struct read_note note = note_get(io);
	uint64_t found;

	io->lba -= nc->data_start;
	leg_back(nc, &nc->leg[note.slot]);
	if (io->status != IO_OK) {
		/* holes are a hint: all is data, and reading tells what is wrong */
		io->status = IO_OK;
		io->result = io->op == IO_SEEK_DATA ? io->lba : nc->ch.nblocks;
		return IO_DONE;
	}
	found = io->result > nc->data_start ? io->result - nc->data_start : 0;
	io->result = CLAMP(found, io->lba, nc->ch.nblocks);
	return IO_DONE;
}

static enum io_result seek_start(struct nexus_channel *nc, struct io *io)
{
	struct read_note note = {};

	if (nc->is_ended)
		return end(io, end_status(nc, IO_NO_DEVICE));
	note.slot = read_pick(nc, 0);
	if (note.slot == NEXUS_CHILDREN_MAX)
		return hold(nc, io);
	note_put(io, note);
	nc->leg[note.slot].inflight++;
	io->lba += nc->data_start;
	return io_forward(nc->leg[note.slot].h, io, seek_done);
}

/* ---- forks ---------------------------------------------------------------------------------- */

static enum io_result fork_finish(struct fork *fork);
static void part_ended(struct nexus_channel *nc, struct fork *fork, uint8_t slot);

/* The leg has not done its part. Its child stays until the fork has drawn the consequence. */
static COLD void fork_fail(struct nexus_channel *nc, struct fork *fork, uint8_t slot)
{
	if (fork->failed >> slot & 1)
		return;
	fork->failed |= (uint8_t)(1u << slot);
	nc->leg[slot].failing++;
}

static inline void part_prepare(struct io *part, const struct leg *leg, const struct io *io,
				uint64_t lba)
{
	part->lba = lba;
	part->nlb = io->nlb;
	part->op = io->op;
	part->depth = 0;
	part->flags = io->flags & (uint16_t)~IO_LOCK_HOLDER;
	part->status = IO_OK;
	part->iovcnt = io->iovcnt;
	part->iov = io->iov;
	if (unlikely(leg->zeroes_for_unmap && io->op == IO_UNMAP))
		part->op = IO_WRITE_ZEROES;
}

/* True: the leg has it and answers later. */
static inline bool part_send(struct nexus_channel *nc, struct fork *fork, uint8_t slot)
{
	struct leg *leg = &nc->leg[slot];
	struct io *part = fork_part(fork, slot);

	if (unlikely(fault_domain_armed(FAULT_CHILD)) &&
	    child_fault(nc, slot, FAULT_SUBMIT, fork->parent)) {
		part->status = fork->parent->status;
		fork_fail(nc, fork, slot);
		return false;
	}
	if (io_issue(leg->h->ch, part, NULL) == IO_PENDING) {
		leg->inflight++;
		return true;
	}
	if (unlikely(part->status != IO_OK) || unlikely(fault_domain_armed(FAULT_CHILD)))
		part_ended(nc, fork, slot);
	return false;
}

static COLD void missing_mark(struct nexus_channel *nc, const struct io *io)
{
	for (uint8_t slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		if (nc->missing >> slot & 1)
			segmap_set_range(&nc->nx->child[slot]->missed, io->lba, io->nlb);
	}
}

/* To every writer. The blocks, if it is about blocks, are the fork's. */
static inline enum io_result fork_send(struct nexus_channel *nc, struct io *io, bool has_range)
{
	struct fork *fork = nc->free;
	uint64_t lba = has_range ? io->lba + nc->data_start : 0;

	nc->free = fork->next;
	fork->parent = io;
	fork->remaining = 1;
	fork->sent = fork->failed = 0;
	fork->again = 0;
	fork->parity = nc->parity;
	fork->owns_blocks = has_range;
	nc->busy[nc->parity]++;
	if (unlikely(nc->missing != 0) && has_range)
		missing_mark(nc, io);
	for (uint8_t i = 0; i < nc->nwriters; i++) {
		uint8_t slot = nc->writers[i];

		fork->sent |= (uint8_t)(1u << slot);
		part_prepare(fork_part(fork, slot), &nc->leg[slot], io, lba);
		fork->remaining += part_send(nc, fork, slot);
	}
	if (--fork->remaining == 0)
		return fork_finish(fork);
	if (unlikely(!nc->is_watching))
		nexus_watch_start(nc);
	return IO_PENDING;
}

enum io_result nexus_fork_send(struct nexus_channel *nc, struct io *io)
{
	return fork_send(nc, io, true);
}

/* ---- writes --------------------------------------------------------------------------------- */

static COLD enum io_result all_wait(struct nexus_channel *nc, struct io *io)
{
	return nc->is_ended ? end(io, end_status(nc, IO_NO_DEVICE)) : hold(nc, io);
}

static inline enum io_result write_start(struct nexus_channel *nc, struct io *io)
{
	if (unlikely(nc->is_waiting))
		return all_wait(nc, io);
	if (unlikely(io->nlb == 0))
		return end(io, IO_OK);
	if (unlikely(!is_hot(nc, io)) && !marks_heat(nc, io)) {
		msg_list_push(&nc->unmarked, &io->msg);
		return IO_PENDING;
	}
	if (unlikely(nc->free == NULL)) {
		msg_list_push(&nc->starved, &io->msg);
		return IO_PENDING;
	}
	if (unlikely(nc->nblocked > 0 || io->nlb > OVERLAP_NLB_MAX) ||
	    unlikely(!overlap_take(nc->nx->overlap, io->lba, io->nlb)))
		return nexus_blocked_write(nc, io);
	return fork_send(nc, io, true);
}

/* Flush: the whole device. */
static enum io_result all_start(struct nexus_channel *nc, struct io *io)
{
	if (unlikely(nc->is_waiting))
		return all_wait(nc, io);
	if (unlikely(nc->free == NULL)) {
		msg_list_push(&nc->starved, &io->msg);
		return IO_PENDING;
	}
	return fork_send(nc, io, false);
}

/* ---- the way back of a write ---------------------------------------------------------------- */

/* Not OK, or to be looked at by faults: the leg's answer. */
static COLD void part_ended(struct nexus_channel *nc, struct fork *fork, uint8_t slot)
{
	struct io *part = fork_part(fork, slot);

	if (fault_domain_armed(FAULT_CHILD)) {
		part->lba = fork->parent->lba;
		part->nlb = fork->parent->nlb;
		(void)child_fault(nc, slot, FAULT_COMPLETION, part);
	}
	if (part->status == IO_OK)
		return;
	fork_fail(nc, fork, slot);
	nc->leg[slot].write_errors++;
}

static void part_done(struct io *part)
{
	struct fork *fork = part->owner;
	struct nexus_channel *nc = fork->nc;
	struct io *parent = fork->parent;

	leg_back(nc, &nc->leg[part->tag]);
	if (unlikely(part->status != IO_OK) || unlikely(fault_domain_armed(FAULT_CHILD)))
		part_ended(nc, fork, (uint8_t)part->tag);
	if (--fork->remaining > 0 || fork_finish(fork) == IO_PENDING)
		return;
	/* we are in the loop, as done() must be: no need to come back to it */
	if (likely(!(nc->ch.gate & GATE_FAULTS)))
		io_resume_unwind(parent);
	else
		io_complete(parent, parent->status);
}

/* Send those parts again that asked for patience, unless their leg went meanwhile. */
static void part_again(struct nexus_channel *nc, struct io *part)
{
	struct fork *fork = part->owner;
	struct io *parent = fork->parent;
	uint8_t slot = (uint8_t)part->tag;
	bool is_writer = false, is_sent = false;

	for (uint8_t i = 0; i < nc->nwriters; i++)
		is_writer |= nc->writers[i] == slot;
	if (is_writer) {
		part_prepare(part, &nc->leg[slot], parent,
			     fork->owns_blocks ? parent->lba + nc->data_start : 0);
		is_sent = part_send(nc, fork, slot);
	} else {
		part->status = IO_ABORTED;
		fork_fail(nc, fork, slot);
	}
	nexus_fork_let_go(nc, (uint8_t)(1u << slot)); /* fork_again() did not */
	if (is_sent)
		return;
	if (--fork->remaining == 0 && fork_finish(fork) == IO_DONE)
		io_complete(parent, parent->status);
}

static enum io_result fork_finish(struct fork *fork)
{
	struct nexus_channel *nc = fork->nc;
	struct io *parent = fork->parent;

	if (unlikely(fork->failed != 0))
		return nexus_fork_failed(nc, fork);
	fork_free(nc, fork);
	return end(parent, IO_OK);
}

/* ---- in, and in again ----------------------------------------------------------------------- */

static inline enum io_result start(struct nexus_channel *nc, struct io *io)
{
	switch ((enum io_op)io->op) {
	case IO_READ:
		return read_start(nc, io, (struct read_note){});
	case IO_WRITE:
	case IO_WRITE_ZEROES:
	case IO_UNMAP:
		return write_start(nc, io);
	case IO_FLUSH:
		return all_start(nc, io);
	case IO_RESET:
		/* ours alone: a remote child that is connected anew may have lost its cache
		 * between */
		return end(io, nc->is_ended ? end_status(nc, IO_NO_DEVICE) : IO_OK);
	case IO_SEEK_DATA:
	case IO_SEEK_HOLE:
		return seek_start(nc, io);
	default:
		return end(io, IO_UNSUPPORTED);
	}
}

enum io_result nexus_submit(struct channel *ch, struct io *io)
{
	return start(container_of(ch, struct nexus_channel, ch), io);
}

/* From the loop: a request that waited is looked at as if it came now. */
void nexus_restart(struct msg *msg)
{
	struct io *io = container_of(msg, struct io, msg);
	struct nexus_channel *nc = channel_of(io);

	if (start(nc, io) == IO_DONE)
		io_complete(io, io->status);
	if (nc->free != NULL)
		nexus_starved_start(nc);
}

COLD enum io_result nexus_again_later(struct nexus_channel *nc, struct io *io)
{
	msg_list_push(&nc->again, &io->msg);
	if (!nc->again_timer.is_armed)
		timer_arm(nc->ch.reactor, &nc->again_timer, CHILD_AGAIN_MS * 1000000ull);
	return IO_PENDING;
}

void nexus_again_due(struct timer *timer)
{
	struct nexus_channel *nc = container_of(timer, struct nexus_channel, again_timer);
	struct msg *msg = msg_list_take_all(&nc->again);

	while (msg != NULL) {
		struct msg *next = atomic_load_explicit(&msg->next, memory_order_relaxed);
		struct io *io = container_of(msg, struct io, msg);

		if (io->done == part_done)
			part_again(nc, io);
		else if (read_start(nc, io, note_get(io)) == IO_DONE)
			io_complete(io, io->status);
		msg = next;
	}
}

/* ---- the arena ------------------------------------------------------------------------------ */

int nexus_arena_make(struct nexus_channel *nc)
{
	size_t size = sizeof(struct fork) + NEXUS_CHILDREN_MAX * sizeof(struct io);

	nc->fork_size = ALIGN_UP(size, (size_t)64);
	nc->arena_size = MAX(NEXUS_WRITES_MAX * nc->fork_size, (size_t)ARENA_SIZE_MIN);
	nc->arena = dma_alloc(nc->arena_size);
	if (nc->arena == NULL)
		return -ENOMEM;
	for (unsigned i = NEXUS_WRITES_MAX; i-- > 0;) {
		struct fork *fork = (struct fork *)(void *)(nc->arena + i * nc->fork_size);

		fork->nc = nc;
		for (uint8_t slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
			fork->part[slot].owner = fork;
			fork->part[slot].tag = slot;
			fork->part[slot].done = part_done;
		}
		fork->next = nc->free;
		nc->free = fork;
	}
	return 0;
}
