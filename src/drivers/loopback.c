/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loopback.c - one more name for a device that exists.
 *
 *   bdev:///NAME[?uuid=UUID]      loopback:///NAME[?uuid=UUID]
 *
 * A mirror or a command takes device URIs; this scheme lets it take a device that someone else
 * made. Creating adds the URI to the device's aliases; creating it again is fine, because two users
 * may name the same device. Destroying the URI takes the alias away and announces
 * DEVICE_LOOPBACK_REMOVED, whereupon whoever opened the device through it closes it; the device
 * stays. The device layer does both from the URI alone: it remembers which driver an alias belongs
 * to, and an alias of another driver than the device's own is only ever an alias. So there is no
 * device, no channel and no data path here.
 *
 * `uuid` is a safety catch: a name may have been reused for another device since the URI was
 * written down. Where it is given it must be the uuid of the device.
 *
 * A device that is named after a path (aio, uring) is found with its leading slash too:
 * bdev:///var/tmp/x is the device /var/tmp/x, unless one is called var/tmp/x.
 *
 * Rejected: a real device on top (passthru.c is that): it would have a name, statistics and a
 * channel of its own, and would not be the device that was asked for.
 *
 * Thread: tasks on the primary reactor.
 */
#include <errno.h>

#include "device/driver.h"
#include "drivers/drivers.h"

static int loopback_create(struct uri *uri, struct device **ret_dev, struct err *err)
{
	char want[UUID_TEXT_SIZE], has[UUID_TEXT_SIZE];
	struct uuid uuid = {};
	struct device *dev;
	int result;

	if (uri->authority[0] != '\0' || uri_name(uri)[0] == '\0')
		return err_set(err, -EINVAL, "%s wants the name of a device: %s:///NAME",
			       uri->scheme, uri->scheme);
	result = driver_param_uuid(uri, &uuid, err);
	if (result == 0)
		result = uri_reject_unused(uri, err);
	if (result < 0)
		return result;
	dev = device_lookup(uri_name(uri));
	if (dev == NULL)
		dev = device_lookup(uri->path);
	if (dev == NULL)
		return err_set(err, -ENOENT, "there is no device '%s': create it first",
			       uri_name(uri));
	if (!uuid_is_zero(&uuid) && !uuid_equal(&uuid, &dev->uuid))
		return err_set(err, -EINVAL, "device '%s' has uuid %s, not %s", dev->name,
			       uuid_to_text(&dev->uuid, has), uuid_to_text(&uuid, want));
	*ret_dev = dev;
	return 0;
}

const struct driver driver_loopback = {
	.name = "loopback",
	.product = "Alias of a device",
	.schemes = (const char *const[]){ "bdev", "loopback", NULL },
	.help = "bdev:///NAME[?uuid=UUID]",
	.create = loopback_create,
};
