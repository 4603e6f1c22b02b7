/* SPDX-License-Identifier: Apache-2.0 */
/*
 * desc.c - openings of a device, and the per-reactor channels behind their handles.
 *
 * A desc belongs to its opener; a handle is that desc on one reactor; the channel behind it is the
 * device's own state there, made with the first handle on that reactor and freed with the last.
 *
 *     desc A --handle 0--+            +-- channel 0 (reactor 0) --+
 *                        +--> refs ---+                           +--> driver
 *     desc B --handle 0--+            +-- channel 1 (reactor 1) --+
 *     desc B --handle 1---------------+
 *
 * Invariants:
 *   1. dev->channel[r] exists exactly while some handle on reactor r does; the count is refs.
 *   2. Channels come and go under dev->control; one that is born during a quiesce is born with its
 *      gate closed.
 *   3. A channel is freed with nothing in flight and nothing held: its openers promised that.
 *   4. A claim has one holder; it goes with the desc that made it. Who does not claim may still
 *      open.
 *   5. Counters outlive channels: they move to dev->closed_stats.
 *
 * Thread: tasks on the primary reactor.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/channel.h"
#include "device/driver.h"
#include "device/emulate.h"
#include "device/fault.h"

/* ---- channels ----------------------------------------------------------------------------- */

static void channel_free(struct channel *ch)
{
	if (ch == NULL)
		return;
	free(ch->stats);
	free(ch);
}

static int channel_new(struct device *dev, struct reactor *r, struct channel **ret, struct err *err)
{
	size_t size = MAX(dev->driver->channel_size, sizeof(struct channel));
	struct channel *ch = aligned_alloc(64, ALIGN_UP(size, (size_t)64));

	if (ch == NULL)
		return err_set(err, -ENOMEM, "no memory for a channel of %s", dev->name);
	memset(ch, 0, size);
	ch->stats = malloc(sizeof(*ch->stats));
	if (ch->stats == NULL) {
		channel_free(ch);
		return err_set(err, -ENOMEM, "no memory for the statistics of %s", dev->name);
	}
	io_stats_init(ch->stats);
	ch->submit = dev->driver->submit;
	ch->nblocks = dev->nblocks;
	ch->ops = dev->ops;
	ch->block_shift = dev->block_shift;
	ch->reactor = r;
	ch->dev = dev;
	*ret = ch;
	return 0;
}

/* What is closed for the whole device is closed for a new channel. */
static void channel_init_gate(struct channel *ch)
{
	struct range_lock *lock;

	if (ch->dev->is_removed)
		ch->gate |= GATE_REMOVED;
	if (ch->dev->max_io_nlb != 0)
		ch->gate |= GATE_LIMITED;
	if (ch->dev->quiesce_count > 0)
		ch->gate |= GATE_QUIESCED;
	list_for_each (lock, &ch->dev->range_locks, link) {
		if (lock->is_held)
			ch->locked[ch->nlocked++] = lock->range;
	}
	if (ch->nlocked > 0)
		ch->gate |= GATE_LOCKED;
}

/* Faults, emulation and the driver take their places; all or none. */
static int channel_open(struct channel *ch, struct err *err)
{
	const struct driver *driver = ch->dev->driver;
	int result = fault_channel_open(ch, err);

	if (result < 0)
		return result;
	result = emulate_open(ch, err);
	if (result == 0 && driver->channel_open != NULL) {
		result = driver->channel_open(ch, err);
		if (result < 0)
			emulate_close(ch);
	}
	if (result < 0)
		fault_channel_close(ch);
	return result;
}

static int channel_get(struct device *dev, struct reactor *r, struct channel **ret, struct err *err)
{
	struct channel *ch = dev->channel[r->id];
	int result;

	if (ch != NULL) {
		ch->refs++;
		*ret = ch;
		return 0;
	}
	result = channel_new(dev, r, &ch, err);
	if (result < 0)
		return result;
	result = channel_open(ch, err);
	if (result < 0) {
		channel_free(ch);
		return result;
	}
	channel_init_gate(ch);
	ch->refs = 1;
	dev->channel[r->id] = ch;
	*ret = ch;
	return 0;
}

/* All that one channel has counted. */
READS_RACING static void channel_add_op_stats(const struct channel *ch, enum io_op op,
					      struct op_stats *sum)
{
	op_stats_add(sum, &ch->stats->op[op]);
	sum->ops += ch->count[op].ops;
	sum->bytes += ch->count[op].blocks << ch->block_shift;
}

static void channel_add_stats(const struct channel *ch, struct io_stats *sum)
{
	for (unsigned op = 0; op < IO_OP_COUNT_; op++)
		channel_add_op_stats(ch, (enum io_op)op, &sum->op[op]);
}

static void channel_keep_stats(struct channel *ch)
{
	struct device *dev = ch->dev;

	if (dev->closed_stats == NULL) {
		dev->closed_stats = malloc(sizeof(*dev->closed_stats));
		if (dev->closed_stats == NULL)
			return; /* counters are lost, data is not */
		io_stats_init(dev->closed_stats);
	}
	channel_add_stats(ch, dev->closed_stats);
}

static void channel_put(struct channel *ch)
{
	struct device *dev = ch->dev;

	if (--ch->refs > 0)
		return;
	assert(ch->inflight[0] == 0 && ch->inflight[1] == 0 && ch->held.head == NULL);
	if (dev->driver->channel_close != NULL)
		dev->driver->channel_close(ch);
	emulate_close(ch);
	fault_channel_close(ch);
	dev->channel[ch->reactor->id] = NULL;
	channel_keep_stats(ch);
	channel_free(ch);
}

/* ---- handles ------------------------------------------------------------------------------ */

/* What this opening may submit. */
static uint32_t handle_ops(const struct desc *desc)
{
	uint32_t ops = desc->dev->ops | emulated_ops(desc->dev);

	if (!(desc->flags & DESC_WRITE))
		ops &= ~(uint32_t)IO_OPS_WRITING;
	return ops;
}

/* Under the control mutex: what another task may have made meanwhile is looked at again. */
static int handle_new(struct desc *desc, struct reactor *r, struct err *err)
{
	struct handle *h;
	int result;

	if (desc->handle[r->id] != NULL)
		return 0;
	if (desc->dev->is_removed)
		return err_set(err, -ENODEV, "%s was removed", desc->dev->name);
	h = calloc(1, sizeof(*h));
	if (h == NULL)
		return err_set(err, -ENOMEM, "no memory for a handle of %s", desc->dev->name);
	result = channel_get(desc->dev, r, &h->ch, err);
	if (result < 0) {
		free(h);
		return result;
	}
	h->ops = handle_ops(desc);
	h->desc = desc;
	desc->handle[r->id] = h;
	return 0;
}

int handle_open(struct desc *desc, struct reactor *r, struct handle **ret_handle, struct err *err)
{
	int result = 0;

	if (desc->handle[r->id] == NULL) {
		task_mutex_lock(&desc->dev->control);
		result = handle_new(desc, r, err);
		task_mutex_unlock(&desc->dev->control);
	}
	if (result == 0)
		*ret_handle = desc->handle[r->id];
	return result;
}

/* ---- descriptors -------------------------------------------------------------------------- */

int desc_open(struct device *dev, const struct desc_opts *opts, struct desc **ret_desc,
	      struct err *err)
{
	struct desc *desc;

	if (dev->is_removed)
		return err_set(err, -ENODEV, "%s was removed", dev->name);
	if (opts->flags & DESC_WRITE && dev->is_read_only)
		return err_set(err, -EROFS, "%s is read-only, it cannot be written to", dev->name);
	if (opts->flags & DESC_CLAIM && dev->claim != NULL)
		return err_set(err, -EBUSY, "%s is claimed by %s", dev->name, dev->claim);
	desc = calloc(1, sizeof(*desc));
	if (desc == NULL)
		return err_set(err, -ENOMEM, "no memory to open %s", dev->name);
	desc->dev = dev;
	desc->flags = opts->flags;
	desc->event = opts->event;
	desc->owner = opts->owner;
	if (opts->flags & DESC_CLAIM)
		dev->claim = opts->claim != NULL ? opts->claim : "unnamed";
	list_add_tail(&dev->descs, &desc->link);
	*ret_desc = desc;
	return 0;
}

void desc_unclaim(struct desc *desc)
{
	if (desc->flags & DESC_CLAIM)
		desc->dev->claim = NULL;
	desc->flags &= ~(unsigned)DESC_CLAIM;
}

void desc_close(struct desc *desc)
{
	struct device *dev;

	if (desc == NULL)
		return;
	dev = desc->dev;
	task_mutex_lock(&dev->control);
	for (unsigned i = 0; i < REACTORS_MAX; i++) {
		if (desc->handle[i] == NULL)
			continue;
		channel_put(desc->handle[i]->ch);
		free(desc->handle[i]);
	}
	task_mutex_unlock(&dev->control);
	desc_unclaim(desc);
	list_del(&desc->link);
	free(desc);
	device_check_closed(dev);
}

/* ---- statistics --------------------------------------------------------------------------- */

static void device_stats_raw(struct device *dev, struct io_stats *ret_stats)
{
	io_stats_init(ret_stats);
	if (dev->closed_stats != NULL)
		io_stats_add(ret_stats, dev->closed_stats);
	for (unsigned i = 0; i < REACTORS_MAX; i++) {
		if (dev->channel[i] != NULL)
			channel_add_stats(dev->channel[i], ret_stats);
	}
}

void device_stats(struct device *dev, struct io_stats *ret_stats)
{
	device_stats_raw(dev, ret_stats);
	if (dev->baseline != NULL)
		io_stats_subtract(ret_stats, dev->baseline);
}

void device_op_stats(struct device *dev, enum io_op op, struct op_stats *ret_stats)
{
	*ret_stats = (struct op_stats){ .latency_min_ns = UINT64_MAX };
	if (dev->closed_stats != NULL)
		op_stats_add(ret_stats, &dev->closed_stats->op[op]);
	for (unsigned i = 0; i < REACTORS_MAX; i++) {
		if (dev->channel[i] != NULL)
			channel_add_op_stats(dev->channel[i], op, ret_stats);
	}
	if (dev->baseline != NULL)
		op_stats_subtract(ret_stats, &dev->baseline->op[op]);
}

int device_stats_reset(struct device *dev)
{
	if (dev->baseline == NULL)
		dev->baseline = malloc(sizeof(*dev->baseline));
	if (dev->baseline == NULL)
		return -ENOMEM;
	device_stats_raw(dev, dev->baseline);
	return 0;
}

/* ---- waiting ------------------------------------------------------------------------------ */

static void io_wait_done(struct io *io)
{
	task_event_fire(io->waiter);
}

uint16_t io_wait(struct handle *h, struct io *io)
{
	struct task_event event = {};

	assert(h->ch->reactor == reactor_primary());
	io->waiter = &event;
	io->done = io_wait_done;
	if (io_start(h, io) == IO_PENDING)
		task_event_wait(&event);
	return io->status;
}
