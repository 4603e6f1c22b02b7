/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guard.c - the model that says whether a request may be inside a driver now.
 *
 * The engine's promises about its gate can only be judged from below it: what reaches the driver,
 * and when. So each driver of the simulator calls guard_enter() first thing in submit() and
 * guard_leave() last thing before it lets go of a request; the engine's own drivers are watched by
 * a probe in place of each channel's submit, which sees requests enter but not leave.
 *
 * Invariants judged
 *   1. quiesced > 0: nothing is inside, nothing enters.
 *   2. A locked range: no request overlapping it is inside or enters, unless it carries
 *      IO_LOCK_HOLDER. Flush and reset have no range and pass.
 *   3. A request is inside a driver at most once, and leaves only what it entered.
 *   4. When a device goes, nothing is inside.
 *   5. Nothing is lent of a quiesced device, nor of a locked range.
 */
#include "guard.h"

#include <inttypes.h>

#include "world.h"

enum { GUARDS_MAX = 16 };

static struct guard *guards[GUARDS_MAX];

struct guard *guard_find(const struct device *dev)
{
	for (unsigned i = 0; i < GUARDS_MAX; i++) {
		if (guards[i] != NULL && guards[i]->dev == dev)
			return guards[i];
	}
	return NULL;
}

struct guard *guard_attach(struct device *dev)
{
	for (unsigned i = 0; i < GUARDS_MAX; i++) {
		if (guards[i] == NULL) {
			guards[i] = sim_zalloc(sizeof(*guards[i]));
			assert(guards[i] != NULL);
			guards[i]->dev = dev;
			return guards[i];
		}
	}
	assert(!"more devices than GUARDS_MAX");
	return NULL;
}

void guard_detach(struct device *dev)
{
	for (unsigned i = 0; i < GUARDS_MAX; i++) {
		struct guard *g = guards[i];

		if (g == NULL || g->dev != dev)
			continue;
		if (g->ninside > 0)
			world_fail("%s is destroyed with %u requests inside its driver", dev->name,
				   g->ninside);
		free(g);
		guards[i] = NULL;
	}
}

void guard_forget_all(void)
{
	for (unsigned i = 0; i < GUARDS_MAX; i++) {
		free(guards[i]);
		guards[i] = NULL;
	}
}

static bool range_overlaps(const struct guard_range *range, uint64_t lba, uint64_t nlb)
{
	return lba < range->lba + range->nlb && range->lba < lba + nlb;
}

/* The holder's flag counts on the device that he submitted to, not on those below. */
static bool io_is_lockable(uint8_t op, bool is_holder)
{
	return (IO_BIT(op) & IO_OPS_WITH_RANGE) != 0 && !is_holder;
}

static bool io_is_holder(const struct io *io)
{
	return io->flags & IO_LOCK_HOLDER && io->depth == 1;
}

static void guard_check(const struct guard *g, const struct io *io)
{
	if (g->quiesced > 0)
		world_fail("%s %" PRIu64 "+%u reached the driver of %s while it is quiesced",
			   io_op_name(io->op), io->lba, io->nlb, g->dev->name);
	if (!io_is_lockable(io->op, io_is_holder(io)))
		return;
	for (unsigned i = 0; i < g->nlocks; i++) {
		if (range_overlaps(&g->lock[i], io->lba, io->nlb))
			world_fail("%s %" PRIu64 "+%u reached the driver of %s inside the locked "
				   "range %" PRIu64 "+%" PRIu64,
				   io_op_name(io->op), io->lba, io->nlb, g->dev->name,
				   g->lock[i].lba, g->lock[i].nlb);
	}
}

void guard_pass(struct device *dev, const struct io *io)
{
	struct guard *g = guard_find(dev);

	if (g == NULL)
		return;
	g->entered[io->op]++;
	guard_check(g, io);
}

void guard_lent(const struct io *io)
{
	for (unsigned i = io->depth; i < io->loan->depth; i++) {
		const struct io_frame *f = &io->frame[i];
		const struct guard *g = guard_find(f->ch->dev);
		bool is_locked = false;

		for (unsigned k = 0; g != NULL && k < g->nlocks; k++)
			is_locked |= range_overlaps(&g->lock[k], f->lba, f->nlb);
		if (g != NULL && (g->quiesced > 0 || is_locked))
			world_fail("%" PRIu64 "+%u of %s is lent while it is %s", f->lba, f->nlb,
				   f->ch->dev->name, is_locked ? "locked" : "quiesced");
	}
}

void guard_enter(struct device *dev, const struct io *io)
{
	struct guard *g = guard_find(dev);

	if (g == NULL)
		return;
	guard_pass(dev, io);
	for (unsigned i = 0; i < g->ninside; i++) {
		if (g->inside[i].io == io)
			world_fail("%s is given a request that it has already", dev->name);
	}
	assert(g->ninside < GUARD_INSIDE_MAX);
	g->inside[g->ninside++] = (struct guard_range){ .io = io,
							.lba = io->lba,
							.nlb = io->nlb,
							.op = io->op,
							.is_holder = io_is_holder(io) };
}

void guard_leave(struct device *dev, const struct io *io)
{
	struct guard *g = guard_find(dev);

	if (g == NULL)
		return;
	for (unsigned i = 0; i < g->ninside; i++) {
		if (g->inside[i].io == io) {
			g->inside[i] = g->inside[--g->ninside];
			return;
		}
	}
	world_fail("a request leaves the driver of %s that never entered it", dev->name);
}

/* ---- real drivers ------------------------------------------------------------------------- */

static enum io_result probe_submit(struct channel *ch, struct io *io)
{
	struct guard *g = guard_find(ch->dev);

	guard_pass(ch->dev, io);
	return g->submit(ch, io);
}

void guard_watch(struct device *dev)
{
	struct guard *g = guard_find(dev);

	if (g == NULL)
		g = guard_attach(dev);
	g->submit = dev->driver->submit;
	for (unsigned i = 0; i < world_nreactors(); i++) {
		if (dev->channel[i] != NULL && dev->channel[i]->submit == g->submit)
			dev->channel[i]->submit = probe_submit;
	}
}

/* ---- what the scenario holds -------------------------------------------------------------- */

void guard_quiesced(struct device *dev)
{
	struct guard *g = guard_find(dev);

	if (g == NULL)
		return;
	if (g->ninside > 0)
		world_fail("device_quiesce(%s) returned with %u requests inside the driver, first "
			   "%s %" PRIu64 "+%" PRIu64,
			   dev->name, g->ninside, io_op_name(g->inside[0].op), g->inside[0].lba,
			   g->inside[0].nlb);
	g->quiesced++;
}

void guard_resuming(struct device *dev)
{
	struct guard *g = guard_find(dev);

	if (g != NULL)
		g->quiesced--;
}

void guard_locked(struct device *dev, uint64_t lba, uint64_t nlb)
{
	struct guard *g = guard_find(dev);

	if (g == NULL)
		return;
	for (unsigned i = 0; i < g->ninside; i++) {
		const struct guard_range *in = &g->inside[i];

		if (io_is_lockable(in->op, in->is_holder) && range_overlaps(in, lba, nlb))
			world_fail("range_lock(%s, %" PRIu64 "+%" PRIu64
				   ") was granted with %s %" PRIu64 "+%" PRIu64
				   " inside the driver",
				   dev->name, lba, nlb, io_op_name(in->op), in->lba, in->nlb);
	}
	for (unsigned i = 0; i < g->nlocks; i++) {
		if (range_overlaps(&g->lock[i], lba, nlb))
			world_fail("range_lock(%s, %" PRIu64 "+%" PRIu64 ") was granted twice",
				   dev->name, lba, nlb);
	}
	assert(g->nlocks < GUARD_LOCKS_MAX);
	g->lock[g->nlocks++] = (struct guard_range){ .lba = lba, .nlb = nlb };
}

void guard_unlocking(struct device *dev, uint64_t lba, uint64_t nlb)
{
	struct guard *g = guard_find(dev);

	if (g == NULL)
		return;
	for (unsigned i = 0; i < g->nlocks; i++) {
		if (g->lock[i].lba == lba && g->lock[i].nlb == nlb) {
			g->lock[i] = g->lock[--g->nlocks];
			return;
		}
	}
}
