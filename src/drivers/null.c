/* SPDX-License-Identifier: Apache-2.0 */
/*
 * null.c - the device that stores nothing, and the tutorial for writing a driver.
 *
 *   null:///NAME?size_mb=N|num_blocks=N[&blk_size=512|4096][&uuid=UUID]
 *
 * It measures everything but a medium: whatever an I/O to null costs is what the layers above it
 * cost. So its submit() must be nearly nothing: it answers IO_DONE inline.
 *
 * How a driver is made, in the order of this file:
 *   1. A struct that embeds struct device first. The device layer works on the embedded part.
 *   2. submit(), the data path. The layer has checked range, alignment, capability and state
 *      before; it counts, injects faults and calls the owner afterwards. A driver answers IO_DONE
 *      with a status, or takes the request, answers IO_PENDING and calls io_complete() later, from
 *      the reactor's loop. malloc.c shows a batch, aio.c and uring.c show waiting for the kernel,
 *      passthru.c shows a layer that sends requests on.
 *   3. create() and destroy(), the control path, in a task on the primary reactor. All parameters
 *      are read first; uri_reject_unused() refuses the rest before anything exists.
 *   4. The table at the end, which src/schemes.c lists.
 * Channels (a device's state on one reactor) need nothing here, so the hooks for them are absent.
 *
 * What a read returns. The data of a read is undefined, as in the original: the buffer comes back
 * as it was handed in. Clearing it would cost more than the rest of the request, and would measure
 * memset. But a buffer that carried someone's data before must not reach another host through a
 * null device. That is the concern of whoever reuses buffers across trust borders: only it knows
 * what is in them. The NVMe target's buffers are never handed to a host but for the bytes that a
 * device filled, or cleared ones; see there. Nothing else in the engine gives a read buffer away.
 *
 * For the same reason null knows no compare, and is_void keeps the layer from making one of reads:
 * there is nothing to compare with, and an answer would tell what was in the buffer before.
 *
 * Thread: submit() on any reactor, without any state at all.
 */
#include <errno.h>
#include <stdlib.h>

#include "device/driver.h"
#include "drivers/drivers.h"
#include "drivers/identity.h"

struct null_device {
	struct device dev;
};

/* ---- data path ---------------------------------------------------------------------------- */

static enum io_result null_submit(struct channel *ch, struct io *io)
{
	(void)ch;
	io->status = IO_OK;
	return IO_DONE;
}

/* ---- control path ------------------------------------------------------------------------- */

static int null_create(struct uri *uri, struct device **ret_dev, struct err *err)
{
	CLEANUP(freep) struct null_device *null = calloc(1, sizeof(*null));
	struct device *dev;
	int result;

	if (null == NULL)
		return err_set(err, -ENOMEM, "no memory for a null device");
	dev = &null->dev;
	*dev = (struct device){
		.driver = &driver_null,
		.ops = IO_BIT(IO_READ) | IO_BIT(IO_WRITE) | IO_BIT(IO_FLUSH) | IO_BIT(IO_UNMAP) |
		       IO_BIT(IO_WRITE_ZEROES) | IO_BIT(IO_RESET),
		.buf_align = 1,
		.is_void = true,
		.stack_depth = 1,
	};
	result = identity_name(dev, uri, uri_name(uri), err);
	if (result == 0)
		result = identity_block_size(dev, uri, err);
	if (result == 0)
		result = driver_param_size(uri, dev->block_size, true, &dev->nblocks, err);
	if (result == 0)
		result = driver_param_uuid(uri, &dev->uuid, err);
	if (result == 0)
		result = uri_reject_unused(uri, err);
	if (result == 0)
		result = device_register(dev, err);
	if (result < 0)
		return result;
	*ret_dev = &take(null)->dev;
	return 0;
}

static void null_destroy(struct device *dev)
{
	free(container_of(dev, struct null_device, dev));
}

const struct driver driver_null = {
	.name = "null",
	.product = "Null device",
	.schemes = (const char *const[]){ "null", NULL },
	.help = "null:///NAME?size_mb=N|num_blocks=N[&blk_size=512|4096][&uuid=UUID]",
	.channel_size = sizeof(struct channel),
	.create = null_create,
	.destroy = null_destroy,
	.submit = null_submit,
};
