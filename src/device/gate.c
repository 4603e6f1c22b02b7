/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gate.c - the way of an I/O that is not the fast one, and the way back up for all.
 *
 * io_issue() in device.h takes a request straight to the driver when three conditions hold: the
 * channel's gate word is zero, the driver takes the operation, the range lies inside the device.
 * Everything else comes here: requests that must wait (quiesced device, locked range), that must
 * fail (removed, out of range), that faults are armed for, that the layer emulates, and one in
 * STATS_SAMPLE that is timed exactly.
 *
 *            io_issue
 *               | fast                      slow
 *               v                            v
 *            driver <---- try_driver <-- try_gate ---> held (PENDING, not counted in flight)
 *               |                            ^             |
 *      DONE / io_complete()                  +-------------+ gate opens
 *               v
 *            io_unwind: fault at completion? -> count -> hook of the layer above -> ... -> done()
 *
 * In flight is counted per channel in one of two counters, chosen by the channel's epoch when the
 * request reaches the driver. A quiesce waits for both to become zero; a range lock flips the epoch
 * and waits for the old one only, so that new requests elsewhere do not delay it. One drain runs
 * per channel at a time: the device's control mutex sees to that.
 *
 * Invariants:
 *   1. A request is in exactly one of: a channel's held list, a driver, an emulation, a fault's
 *      delay, the reactor's deferred list, its owner.
 *   2. A request is counted in flight from the moment the driver answered PENDING until its frame
 *      is popped, or until its loan is returned (loan.c); frame.epoch names the counter.
 *   3. Nothing passes a closed gate but requests that were in flight, the holder of a range lock
 *      (through GATE_LOCKED only), and the children of an emulation.
 *   4. done() is called only from io_unwind(), so only from the reactor's loop.
 *
 * Thread: everything here runs on the channel's reactor.
 */
#include "device/channel.h"
#include "device/driver.h"
#include "device/emulate.h"
#include "device/fault.h"

/* ---- counting ----------------------------------------------------------------------------- */

static void account(struct channel *ch, const struct io *io, uint64_t latency_ns, uint64_t weight)
{
	if (unlikely(io->status != IO_OK)) {
		ch->stats->op[io->op].errors++;
		return;
	}
	ch->count[io->op].ops++;
	ch->count[io->op].blocks += io->nlb;
	if (weight > 0)
		op_stats_latency(&ch->stats->op[io->op], latency_ns, weight);
}

/* Always IO_DONE: the request ended badly inside submit. */
enum io_result io_account_error(struct channel *ch, struct io *io)
{
	ch->stats->op[io->op].errors++;
	return IO_DONE;
}

/* ---- the way back up ---------------------------------------------------------------------- */

/* Take the top frame off; the request is the layer above's again. */
static struct io_frame *frame_pop(struct io *io)
{
	struct io_frame *f = &io->frame[--io->depth];

	io->lba = f->lba;
	io->nlb = f->nlb;
	return f;
}

static void channel_check_drained(struct channel *ch)
{
	void (*drained)(struct channel * ch, void *arg) = ch->drained;

	if (drained == NULL || ch->inflight[ch->drain_epoch] != 0)
		return;
	ch->drained = NULL;
	ch->gate &= ~(uint32_t)GATE_DRAINING;
	drained(ch, ch->drained_arg);
}

void channel_leave(struct channel *ch, uint32_t epoch)
{
	assert(ch->inflight[epoch] > 0);
	ch->inflight[epoch]--;
	if (unlikely(ch->gate & GATE_DRAINING))
		channel_check_drained(ch);
}

/* What is lent stays in flight, but for failures, and unless somebody waits for it. */
static void frame_finish_lent(struct io *io, const struct io_frame *f)
{
	if (io->status != IO_OK)
		io_return(io);
	else if (f->ch->gate & GATE_DRAINING && f->epoch == f->ch->drain_epoch)
		io_unlend(io);
}

static void frame_finish(struct io *io)
{
	struct io_frame *f = frame_pop(io);
	struct channel *ch = f->ch;

	if (f->epoch == IO_EPOCH_NONE)
		return;
	/* an exactly timed request may have started after this turn's clock was read */
	account(ch, io, ch->reactor->now_ns > f->submit_ns ? ch->reactor->now_ns - f->submit_ns : 0,
		1);
	if (unlikely(io_is_lent(io)))
		frame_finish_lent(io, f);
	else
		channel_leave(ch, f->epoch);
}

/* Parts of an emulation do not: their parent does. */
static inline bool meets_faults(const struct channel *ch, struct io *io)
{
	return unlikely(ch->gate & GATE_FAULTS) && io_top(io)->epoch != IO_EPOCH_NONE;
}

/* The top frame is done with: call its hook, then go on up, and at the top tell the owner. */
void io_unwind_after(struct io *io)
{
	for (;;) {
		struct io_frame *f = &io->frame[io->depth]; /* the one just popped */
		struct channel *above;

		if (f->hook != NULL && f->hook(io) == IO_PENDING)
			return;
		if (io->depth == 0)
			break;
		above = io_top(io)->ch;
		if (meets_faults(above, io) && fault_complete(above, io) == IO_PENDING)
			return;
		frame_finish(io);
	}
	io->done(io);
}

static void io_unwind(struct msg *msg)
{
	struct io *io = container_of(msg, struct io, msg);
	struct channel *ch = io_top(io)->ch;

	if (meets_faults(ch, io) && fault_complete(ch, io) == IO_PENDING)
		return;
	io_resume_unwind(io);
}

void io_resume_unwind(struct io *io)
{
	frame_finish(io);
	io_unwind_after(io);
}

void io_complete(struct io *io, uint16_t status)
{
	io->status = status;
	io->msg.fn = io_unwind;
	reactor_defer(io_top(io)->ch->reactor, &io->msg);
}

static void io_done_deferred(struct msg *msg)
{
	struct io *io = container_of(msg, struct io, msg);

	io->done(io);
}

void io_defer_done(struct io *io)
{
	io->msg.fn = io_done_deferred;
	reactor_defer(reactor_self(), &io->msg);
}

/* ---- the way down ------------------------------------------------------------------------- */

/* End the request at this layer, before the driver saw it. */
static enum io_result io_refuse(struct channel *ch, struct io *io, uint16_t status)
{
	io->status = status;
	(void)frame_pop(io);
	return io_account_error(ch, io);
}

/* More than the driver takes at once. What it lacks altogether is split by the emulation. */
static bool is_oversize(const struct channel *ch, const struct io *io)
{
	return ch->gate & GATE_LIMITED && IO_BIT(io->op) & IO_OPS_WITH_DATA & ch->ops &&
	       io->nlb > ch->dev->max_io_nlb;
}

static enum io_result driver_submit(struct channel *ch, struct io *io)
{
	if (unlikely(!(ch->ops >> io->op & 1)))
		return emulate_submit(ch, io);
	return unlikely(is_oversize(ch, io)) ? io_bounce(ch, io) : ch->submit(ch, io);
}

/* Everything was checked: the driver, or what stands in for what it lacks. */
static enum io_result try_driver(struct channel *ch, struct io *io)
{
	struct io_frame *f = io_top(io);
	bool is_timed = ch->count[io->op].ops % STATS_SAMPLE == 0;
	enum io_result result;

	f->submit_ns = is_timed ? reactor_clock(ch->reactor) : ch->reactor->now_ns;
	f->epoch = ch->epoch;
	result = driver_submit(ch, io);
	if (result == IO_DONE && unlikely(ch->gate & GATE_FAULTS))
		result = fault_complete(ch, io);
	if (result == IO_PENDING) {
		ch->inflight[f->epoch]++;
		return IO_PENDING;
	}
	(void)frame_pop(io);
	account(ch, io, is_timed ? reactor_clock(ch->reactor) - f->submit_ns : 0,
		is_timed ? STATS_SAMPLE : 0);
	return IO_DONE;
}

/* The holder's flag opens the locks of the device that the request was submitted to; on the devices
 * below it is a request like any other, unless an emulation there has locked for it. */
static bool is_lock_holder(struct channel *ch, const struct io *io)
{
	return io->flags & IO_LOCK_HOLDER && (io->depth == 1 || emulate_holds_lock(ch, io));
}

static bool is_locked_out(struct channel *ch, const struct io *io)
{
	if (!(IO_BIT(io->op) & IO_OPS_WITH_RANGE) || is_lock_holder(ch, io))
		return false;
	for (unsigned i = 0; i < ch->nlocked; i++) {
		const struct lba_range *range = &ch->locked[i];

		if (io->lba < range->lba + range->nlb && range->lba < io->lba + io->nlb)
			return true;
	}
	return false;
}

static enum io_result try_gate(struct channel *ch, struct io *io)
{
	uint32_t gate = ch->gate;

	if (gate & GATE_REMOVED)
		return io_refuse(ch, io, IO_NO_DEVICE);
	if (!io_is_in_range(ch, io))
		return io_refuse(ch, io, IO_OUT_OF_RANGE);
	if (io->op == IO_COMPARE_WRITE && is_oversize(ch, io))
		return io_refuse(ch, io, IO_INVALID); /* its parts would not be atomic */
	if (!((ch->ops | emulated_ops(ch->dev)) >> io->op & 1))
		return io_refuse(ch, io, IO_UNSUPPORTED);
	if (gate & GATE_QUIESCED || (gate & GATE_LOCKED && is_locked_out(ch, io))) {
		msg_list_push(&ch->held, &io->msg);
		return IO_PENDING;
	}
	if (!(ch->ops >> io->op & 1) && !emulate_lock(ch, io))
		return IO_PENDING;
	if (unlikely(gate & GATE_FAULTS)) {
		switch (fault_submit(ch, io)) {
		case FAULT_PASS:
			break;
		case FAULT_HELD:
			return IO_PENDING;
		case FAULT_DONE:
			(void)frame_pop(io);
			account(ch, io, 0, 0);
			return IO_DONE;
		}
	}
	return try_driver(ch, io);
}

enum io_result io_issue_slow(struct channel *ch, struct io *io)
{
	io_top(io)->submit_ns = ch->reactor->now_ns; /* of one that is held; set again later */
	if (ch->gate == 0 && ch->ops >> io->op & 1 && io_is_in_range(ch, io))
		return try_driver(ch, io); /* only here to be timed */
	return try_gate(ch, io);
}

/* A request that upper layers know as pending went down again: if it ended, unwind it. */
void io_reissue(struct io *io)
{
	if (try_gate(io_top(io)->ch, io) == IO_DONE)
		io_unwind_after(io);
}

static void io_unwind_deferred(struct msg *msg)
{
	io_unwind_after(container_of(msg, struct io, msg));
}

/* Runs on a task's stack where the gate was opened on the primary: what ends waits for the loop. */
void channel_release_held(struct channel *ch)
{
	struct msg *msg = msg_list_take_all(&ch->held);

	while (msg != NULL) {
		struct msg *next = atomic_load_explicit(&msg->next, memory_order_relaxed);
		struct io *io = container_of(msg, struct io, msg);

		if (try_gate(ch, io) == IO_DONE) {
			io->msg.fn = io_unwind_deferred;
			reactor_defer(ch->reactor, &io->msg);
		}
		msg = next;
	}
}

enum io_result io_issue_part(struct channel *ch, struct io *part)
{
	struct io_frame *f = &part->frame[part->depth++];

	*f = (struct io_frame){ .ch = ch,
				.lba = part->lba,
				.nlb = part->nlb,
				.submit_ns = ch->reactor->now_ns,
				.epoch = IO_EPOCH_NONE };
	part->ch = ch;
	if (ch->submit(ch, part) == IO_PENDING)
		return IO_PENDING;
	(void)frame_pop(part);
	return IO_DONE;
}
