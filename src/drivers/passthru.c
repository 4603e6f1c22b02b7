/* SPDX-License-Identifier: Apache-2.0 */
/*
 * passthru.c - a layer that changes nothing, and the tutorial for writing a layered device.
 *
 *   passthru:///NAME?base=NAME|URI[&uuid=UUID]       (a URI percent-encoded)
 *
 * It sends every request on to the device below and counts it when it comes back: the price of one
 * more layer with a completion hook, and a template for crypto, compression, quality of service.
 *
 * A layer is a driver that is also a user of another device:
 *   1. create() opens a descriptor of the base (making the base first, if the URI names one that
 *      does not exist) and takes over its properties.
 *   2. channel_open() opens a handle of that descriptor on the channel's reactor, so submit() finds
 *      the way down without a look-up.
 *   3. submit() is io_forward(). A layer that does not care about completions passes no hook and
 *      costs half a nanosecond; this one passes a hook, which the device layer calls on the way up
 *      with our frame on top, whether the device below ended the request inline or later.
 *   4. Events of the base: what concerns the data (media, failure) is announced again by us. A
 *      resize or a removal suspends, as no handler may; the follower, a task, does it.
 *
 *   base event -> pending bits -> follower: RESIZED -> device_resize()
 *                                           REMOVED -> device_remove() of ourselves, which closes
 *                                                      the descriptor the base waits for
 *
 * Invariants:
 *   - one follower at a time; it ends before the device is freed: destroy() waits for it, unless
 *     destroy() runs inside it.
 *   - the base that create() made, create() or destroy() removes again; a base that existed before
 *     stays.
 *
 * Thread: submit() and hook on the channel's reactor, the rest on the primary.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "device/driver.h"
#include "device/emulate.h"
#include "drivers/drivers.h"
#include "drivers/identity.h"

struct passthru_device {
	struct device dev;
	struct desc *base;      /* owned */
	char *base_uri;         /* of a base that we made, owned; NULL: it was there before us */
	unsigned pending;       /* events for the follower, 1 << enum device_event_type */
	struct task *follower;  /* NULL: none runs */
	struct task_event done; /* fired when the follower ends while destroy() waits */
	bool is_waited;
	bool is_registered;
	uint64_t completions; /* of channels that are closed */
};

struct passthru_channel {
	struct channel ch;
	struct handle *below; /* owned by the descriptor */
	uint64_t completions;
};

/* ---- data path ---------------------------------------------------------------------------- */

static enum io_result passthru_done(struct io *io)
{
	struct passthru_channel *pc = container_of(io_top(io)->ch, struct passthru_channel, ch);

	pc->completions++;
	return IO_DONE;
}

static enum io_result passthru_submit(struct channel *ch, struct io *io)
{
	struct passthru_channel *pc = container_of(ch, struct passthru_channel, ch);

	return io_forward(pc->below, io, passthru_done);
}

/* ---- following the base ------------------------------------------------------------------- */

static struct passthru_device *passthru_of(const struct device *dev)
{
	return container_of((struct device *)(uintptr_t)dev, struct passthru_device, dev);
}

static void passthru_follow(void *arg)
{
	struct passthru_device *pt = arg;
	struct err err = {};

	pt->follower = task_self();
	while (pt->pending != 0) {
		unsigned pending = pt->pending;

		pt->pending = 0;
		if (pending & 1u << DEVICE_REMOVED) {
			/* 0: it is freed. Otherwise someone else removes it, and waits for us. */
			if (device_remove(&pt->dev, NULL) == 0)
				return;
			break;
		}
		if (device_resize(&pt->dev, pt->base->dev->nblocks, &err) < 0 &&
		    !pt->dev.is_removed)
			log_error("%s does not follow the size of %s: %s", pt->dev.name,
				  pt->base->dev->name, err_text(&err));
	}
	pt->follower = NULL;
	if (pt->is_waited)
		task_event_fire(&pt->done);
}

/* The same event, as ours. */
static void passthru_announce(struct passthru_device *pt, const struct device_event *event)
{
	struct device_event ours = *event;

	ours.dev = &pt->dev;
	device_announce_event(&pt->dev, &ours);
}

static void passthru_event(struct desc *desc, const struct device_event *event)
{
	struct passthru_device *pt = desc->owner;

	if (!pt->is_registered || pt->dev.is_removed)
		return; /* create() looks at the base again; destroy() wants to be the last */
	if (event->type != DEVICE_REMOVED && event->type != DEVICE_RESIZED) {
		if (event->type == DEVICE_ENDED)
			device_end(&pt->dev);
		else if (event->type != DEVICE_LOOPBACK_REMOVED)
			passthru_announce(pt, event);
		return;
	}
	pt->pending |= 1u << event->type;
	if (pt->follower != NULL)
		return;
	pt->follower = (struct task *)pt; /* not NULL: about to start */
	if (task_spawn("passthru", passthru_follow, pt) < 0) {
		pt->follower = NULL;
		log_error("%s cannot follow its base %s: no memory for a task", pt->dev.name,
			  desc->dev->name);
	}
}

/* ---- control path ------------------------------------------------------------------------- */

static void passthru_free(struct passthru_device *pt)
{
	struct err err = {};

	desc_close(pt->base);
	/* -ENOENT, -EALREADY: the base was removed first, and we with it. */
	if (pt->base_uri != NULL && device_destroy(pt->base_uri, &err) < 0 && err.code != -ENOENT &&
	    err.code != -EALREADY)
		log_warn("base of %s stays: %s", pt->dev.name, err_text(&err));
	free(pt->base_uri);
	free(pt);
}

static void passthru_freep(struct passthru_device **pt)
{
	if (*pt != NULL)
		passthru_free(*pt);
}

static void passthru_destroy(struct device *dev)
{
	struct passthru_device *pt = passthru_of(dev);

	if (pt->follower != NULL && pt->follower != task_self()) {
		pt->is_waited = true;
		task_event_wait(&pt->done);
	}
	passthru_free(pt);
}

/* The device below: one that exists, else made from the URI. */
static int passthru_open_base(struct passthru_device *pt, const char *base, struct err *err)
{
	struct desc_opts opts = { .event = passthru_event, .owner = pt };
	struct device *dev = device_lookup(base);
	int result;

	if (dev == NULL && strchr(base, ':') == NULL)
		return err_set(err, -ENOENT,
			       "there is no device '%s' to stand on: name one that exists, or give "
			       "its URI percent-encoded",
			       base);
	if (dev == NULL) {
		CLEANUP(freep) char *uri = strdup(base);

		if (uri == NULL)
			return err_set(err, -ENOMEM, "no memory for a passthru device");
		result = device_create(base, &dev, err);
		if (result < 0) {
			(void)err_prefix(err, "base");
			return result;
		}
		pt->base_uri = take(uri);
	}
	opts.flags = dev->is_read_only ? 0 : DESC_WRITE;
	return desc_open(dev, &opts, &pt->base, err);
}

static void passthru_inherit(struct device *dev, const struct device *base)
{
	char text[UUID_TEXT_SIZE];

	dev->nblocks = base->nblocks;
	dev->block_size = base->block_size;
	dev->ops = base->ops | emulated_ops(base); /* emulated below, where the locks are */
	dev->buf_align = base->buf_align;
	dev->max_io_nlb = base->max_io_nlb;
	dev->max_compare_write_nlb = base->max_compare_write_nlb;
	dev->physical_block_size = base->physical_block_size;
	dev->optimal_io_nlb = base->optimal_io_nlb;
	dev->has_write_cache = base->has_write_cache;
	dev->is_read_only = base->is_read_only;
	dev->is_thin = base->is_thin;
	dev->unmap_reads_zero = base->unmap_reads_zero;
	dev->is_rotational = base->is_rotational;
	dev->is_void = base->is_void;
	dev->stack_depth = base->stack_depth + 1;
	if (uuid_is_zero(&dev->uuid)) /* not the base's: they may be exported side by side */
		identity_derive(uuid_to_text(&base->uuid, text), dev->name, &dev->uuid);
}

static uint64_t passthru_used(const struct device *dev)
{
	return device_used(passthru_of(dev)->base->dev);
}

static int passthru_create(struct uri *uri, struct device **ret_dev, struct err *err)
{
	CLEANUP(passthru_freep) struct passthru_device *pt = calloc(1, sizeof(*pt));
	const char *base = NULL;
	int result;

	if (pt == NULL)
		return err_set(err, -ENOMEM, "no memory for a passthru device");
	pt->dev.driver = &driver_passthru;
	result = identity_name(&pt->dev, uri, uri_name(uri), err);
	if (result == 0)
		result = uri_param_str(uri, "base", &base, err);
	if (result == 0)
		result = driver_param_uuid(uri, &pt->dev.uuid, err);
	if (result == 0)
		result = uri_reject_unused(uri, err);
	if (result < 0)
		return result;
	if (base == NULL)
		return err_set(err, -EINVAL, "passthru wants base=NAME or base=URI");
	if (device_lookup(pt->dev.name) != NULL)
		return err_set(err, -EEXIST, "a device '%s' exists already", pt->dev.name);
	result = passthru_open_base(pt, base, err);
	if (result < 0)
		return result;
	passthru_inherit(&pt->dev, pt->base->dev);
	result = device_register(&pt->dev, err);
	if (result < 0)
		return result;
	pt->is_registered = true;
	*ret_dev = &take(pt)->dev;
	return 0;
}

static int passthru_channel_open(struct channel *ch, struct err *err)
{
	struct passthru_channel *pc = container_of(ch, struct passthru_channel, ch);

	return handle_open(passthru_of(ch->dev)->base, ch->reactor, &pc->below, err);
}

static void passthru_channel_close(struct channel *ch)
{
	passthru_of(ch->dev)->completions += container_of(ch, struct passthru_channel, ch)
						     ->completions;
}

uint64_t passthru_completions(const struct device *dev)
{
	uint64_t sum;

	if (dev->driver != &driver_passthru)
		return 0;
	sum = passthru_of(dev)->completions;
	for (unsigned i = 0; i < REACTORS_MAX; i++) {
		if (dev->channel[i] != NULL)
			sum += container_of(dev->channel[i], struct passthru_channel, ch)
				       ->completions;
	}
	return sum;
}

const struct driver driver_passthru = {
	.name = "passthru",
	.product = "Pass-through layer",
	.schemes = (const char *const[]){ "passthru", NULL },
	.help = "passthru:///NAME?base=NAME|URI[&uuid=UUID]",
	.channel_size = sizeof(struct passthru_channel),
	.create = passthru_create,
	.destroy = passthru_destroy,
	.channel_open = passthru_channel_open,
	.channel_close = passthru_channel_close,
	.submit = passthru_submit,
	.used = passthru_used,
};
