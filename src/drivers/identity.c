/* SPDX-License-Identifier: Apache-2.0 */
/*
 * identity.c - names and block sizes of devices, as their URIs have them.
 *
 * Thread: any; no state.
 */
#include "drivers/identity.h"

#include <errno.h>
#include <string.h>

#include "device/driver.h"

int identity_name(struct device *dev, const struct uri *uri, const char *name, struct err *err)
{
	if (uri->authority[0] != '\0')
		return err_set(err, -EINVAL,
			       "%s://%s%s names a host: a local device has three slashes, "
			       "%s:///%s%s",
			       uri->scheme, uri->authority, uri->path, uri->scheme, uri->authority,
			       uri->path);
	if (name[0] == '\0')
		return err_set(err, -EINVAL, "%s: the URI names no device: %s:///NAME", uri->scheme,
			       uri->scheme);
	if (strlen(name) >= sizeof(dev->name))
		return err_set(err, -ENAMETOOLONG, "%s: name of %zu bytes, at most %zu fit",
			       uri->scheme, strlen(name), sizeof(dev->name) - 1);
	memcpy(dev->name, name, strlen(name) + 1);
	return 0;
}

int identity_block_size(struct device *dev, struct uri *uri, struct err *err)
{
	int result = driver_param_block_size(uri, 512, &dev->block_size, err);

	if (result == 0 && dev->block_size != 512 && dev->block_size != 4096)
		return err_set(err, -EINVAL, "blk_size=%u is not possible for %s: 512 or 4096",
			       dev->block_size, uri->scheme);
	return result;
}
