/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layer.c - one more device in the stack, written to use every freedom of the layer contract.
 *
 * For each request the dice choose one of the ways in which real layers behave:
 *
 *   pass        edit lba, io_forward() without a hook: the layer does not see it come back
 *   hook        the same with a hook that looks and goes on
 *   hold down   keep the request for a while, then send it on from the loop
 *   hold up     the hook keeps it for a while, then io_complete() from the loop
 *
 * Where it has a hook it takes some reads' offer to borrow off on the way down, and makes copies of
 * some loans on the way up.
 *
 * It shows only the blocks from `offset` on, so that a frame that does not restore lba, or a layer
 * above that trusts it too early, is found by the oracle. When the device below changes its size
 * the layer follows through device_resize(); when it goes, the layer removes itself.
 *
 * Events of the device below come outside of tasks, so what they cause runs in a task of its own
 * that finds the layer again by name: it may be gone by then.
 */
#include "layer.h"

#include <errno.h>
#include <string.h>

#include "guard.h"
#include "world.h"

struct simlayer {
	struct device dev;
	struct desc *below; /* owned */
	uint64_t offset;    /* blocks */
	unsigned pass_percent, hold_percent;
};

struct layer_channel {
	struct channel ch;
	struct handle *below; /* owned by the desc */
};

/* A request that is held for a while. */
struct layer_held {
	struct event event;
	struct list link;
	struct io *io;
	struct layer_channel *ch;
};

static struct list helds = { &helds, &helds };

static struct layer_held *layer_hold(struct layer_channel *ch, struct io *io,
				     void (*fn)(struct event *event))
{
	struct layer_held *held = sim_zalloc(sizeof(*held));

	held->io = io;
	held->ch = ch;
	list_add_tail(&helds, &held->link);
	world_at(&held->event, (int)ch->ch.reactor->id, world_latency(USEC, 30 * USEC), fn);
	return held;
}

static struct io *layer_unhold(struct event *event, struct layer_channel **ret_ch)
{
	struct layer_held *held = container_of(event, struct layer_held, event);
	struct io *io = held->io;

	*ret_ch = held->ch;
	list_del(&held->link);
	free(held);
	return io;
}

void layer_forget_all(void)
{
	struct layer_held *held, *next;

	list_for_each_safe (held, next, &helds, link) {
		list_del(&held->link);
		free(held);
	}
}

/* ---- data path ------------------------------------------------------------------------------ */

static struct simlayer *layer_of(const struct channel *ch)
{
	return container_of(ch->dev, struct simlayer, dev);
}

static enum io_result layer_leave(struct io *io)
{
	struct channel *ch = io_top(io)->ch;

	if (io->op == IO_SEEK_DATA || io->op == IO_SEEK_HOLE)
		io->result -= io->status == IO_OK ? layer_of(ch)->offset : 0;
	if (io_top(io)->priv != 0) /* its flag was taken off */
		io->flags |= IO_BORROW;
	else if (io_is_lent(io) && world_chance(1, 4))
		io_unlend(io);
	guard_leave(ch->dev, io);
	return IO_DONE;
}

static enum io_result layer_hook(struct io *io)
{
	return layer_leave(io);
}

static void layer_held_up(struct event *event)
{
	struct layer_channel *ch;
	struct io *io = layer_unhold(event, &ch);

	(void)layer_leave(io);
	io_complete(io, io->status);
}

static enum io_result layer_hook_hold(struct io *io)
{
	struct channel *ch = io_top(io)->ch;

	(void)layer_hold(container_of(ch, struct layer_channel, ch), io, layer_held_up);
	return IO_PENDING;
}

static void layer_remap(const struct simlayer *layer, struct io *io)
{
	if (io->op != IO_FLUSH && io->op != IO_RESET)
		io->lba += layer->offset;
}

static void layer_held_down(struct event *event)
{
	struct layer_channel *ch;
	struct io *io = layer_unhold(event, &ch);

	layer_remap(layer_of(&ch->ch), io);
	if (io_forward(ch->below, io, layer_hook) == IO_DONE)
		io_complete(io, io->status);
}

static enum io_result layer_submit(struct channel *channel, struct io *io)
{
	struct layer_channel *ch = container_of(channel, struct layer_channel, ch);
	struct simlayer *layer = layer_of(channel);
	bool is_seek = io->op == IO_SEEK_DATA || io->op == IO_SEEK_HOLE;
	unsigned roll = (unsigned)world_rand(100);

	if (roll < layer->pass_percent && !is_seek) {
		guard_pass(channel->dev, io);
		layer_remap(layer, io);
		return io_forward(ch->below, io, NULL);
	}
	guard_enter(channel->dev, io);
	io_top(io)->priv = io->flags & IO_BORROW && world_chance(1, 6);
	if (io_top(io)->priv != 0)
		io->flags &= (uint16_t)~IO_BORROW;
	if (roll >= 100 - layer->hold_percent) {
		(void)layer_hold(ch, io, layer_held_down);
		return IO_PENDING;
	}
	layer_remap(layer, io);
	return io_forward(ch->below, io,
			  roll >= 100 - 2 * layer->hold_percent ? layer_hook_hold : layer_hook);
}

/* ---- control path --------------------------------------------------------------------------- */

struct layer_task {
	char name[DEVICE_NAME_MAX];
	enum device_event_type type;
};

static void layer_follow(void *arg)
{
	struct layer_task *task = arg;
	struct device *dev = device_lookup(task->name);
	struct err err = {};

	if (dev != NULL && dev->driver == &driver_simlayer) {
		struct simlayer *layer = container_of(dev, struct simlayer, dev);
		int result = 0;

		if (task->type == DEVICE_REMOVED)
			result = device_remove(dev, &err);
		else if (layer->below->dev->nblocks > layer->offset)
			result = device_resize(dev, layer->below->dev->nblocks - layer->offset,
					       &err);
		world_trace("layer follows", task->type, (uint64_t)-result);
	}
	free(task);
}

static void layer_event(struct desc *desc, const struct device_event *event)
{
	struct simlayer *layer = desc->owner;
	struct layer_task *task;

	if (event->type != DEVICE_REMOVED && event->type != DEVICE_RESIZED)
		return;
	task = sim_zalloc(sizeof(*task));
	(void)snprintf(task->name, sizeof(task->name), "%s", layer->dev.name);
	task->type = event->type;
	if (task_spawn("layer", layer_follow, task) < 0)
		free(task);
}

static int layer_channel_open(struct channel *ch, struct err *err)
{
	return handle_open(layer_of(ch)->below, ch->reactor,
			   &container_of(ch, struct layer_channel, ch)->below, err);
}

static void layer_inherit(struct simlayer *layer, const struct device *below)
{
	layer->dev.driver = &driver_simlayer;
	layer->dev.nblocks = below->nblocks - layer->offset;
	layer->dev.block_size = below->block_size;
	layer->dev.ops = below->ops;
	layer->dev.buf_align = below->buf_align;
	layer->dev.max_io_nlb = below->max_io_nlb;
	layer->dev.max_compare_write_nlb = below->max_compare_write_nlb;
	layer->dev.has_write_cache = below->has_write_cache;
	layer->dev.is_thin = below->is_thin;
	layer->dev.unmap_reads_zero = below->unmap_reads_zero;
	layer->dev.stack_depth = below->stack_depth + 1;
	memset(layer->dev.uuid.b, layer->dev.name[0], sizeof(layer->dev.uuid.b));
	layer->pass_percent = (unsigned)world_rand(50);
	layer->hold_percent = (unsigned)world_rand(20);
}

static int layer_create(struct uri *uri, struct device **ret_dev, struct err *err)
{
	CLEANUP(freep) struct simlayer *layer = sim_zalloc(sizeof(*layer));
	struct desc_opts opts = { .flags = DESC_WRITE | DESC_CLAIM,
				  .claim = "simlayer",
				  .event = layer_event };
	const char *below = "";
	struct uuid uuid = {};
	struct device *dev;
	int result;

	(void)snprintf(layer->dev.name, sizeof(layer->dev.name), "%s", uri_name(uri));
	result = uri_param_str(uri, "below", &below, err);
	if (result == 0)
		result = uri_param_u64(uri, "offset", 0, 1 << 20, &layer->offset, err);
	if (result == 0)
		result = uri_param_uuid(uri, "uuid", &uuid, err);
	if (result == 0)
		result = uri_reject_unused(uri, err);
	if (result < 0)
		return result;
	dev = device_lookup(below);
	if (dev == NULL || dev->nblocks <= layer->offset)
		return err_set(err, -ENOENT, "no device '%s' of that size", below);
	opts.owner = layer;
	result = desc_open(dev, &opts, &layer->below, err);
	if (result < 0)
		return result;
	layer_inherit(layer, dev);
	if (!uuid_is_zero(&uuid))
		layer->dev.uuid = uuid;
	result = device_register(&layer->dev, err);
	if (result < 0) {
		desc_close(layer->below);
		return result;
	}
	(void)guard_attach(&layer->dev);
	*ret_dev = &take(layer)->dev;
	return 0;
}

static void layer_destroy(struct device *dev)
{
	struct simlayer *layer = container_of(dev, struct simlayer, dev);

	guard_detach(dev);
	desc_close(layer->below);
	free(layer);
}

static const char *const layer_schemes[] = { "simlayer", NULL };

const struct driver driver_simlayer = {
	.name = "simlayer",
	.product = "Simulated layer",
	.schemes = layer_schemes,
	.help = "simlayer:///NAME?below=DEVICE&offset=BLOCKS",
	.channel_size = sizeof(struct layer_channel),
	.create = layer_create,
	.destroy = layer_destroy,
	.channel_open = layer_channel_open,
	.submit = layer_submit,
};
