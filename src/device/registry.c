/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry.c - which devices exist, what they are called, how they come and go.
 *
 * One list for the process, touched by the primary reactor only, so there is no lock. A device is
 * known by its name and by any number of aliases: the URIs it was made from or is reached through.
 *
 *   device_create(uri) -> driver.create -> device_register -> LIVE
 *   LIVE -> device_remove -> gates closed, DEVICE_REMOVED announced -> openers close
 *        -> last desc gone -> driver.destroy
 *
 * Invariants:
 *   1. A name is taken from device_register() until driver.destroy() was called, so a name never
 *      means two devices, not even while one is dying.
 *   2. A removed device accepts no new openings.
 *   3. An alias whose driver is not the device's own (loopback) only gives up the alias, and one
 *      that the driver calls a part (a path of several) only the part.
 *
 * Events are delivered in the announcing task, to each opening of the device in the order of
 * opening; a listener must not suspend there, it spawns a task or posts a message.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/channel.h"
#include "device/driver.h"
#include "device/fault.h"

struct alias {
	struct list link;
	const struct driver *driver; /* whose scheme the URI has */
	char uri[];
};

static struct list registry = { &registry, &registry };
static const struct driver *const *driver_table;

/* ---- drivers ------------------------------------------------------------------------------ */

void drivers_set(const struct driver *const *table)
{
	driver_table = table;
}

const struct driver *const *drivers(void)
{
	static const struct driver *const none[] = { NULL };

	return driver_table != NULL ? driver_table : none;
}

const struct driver *driver_by_scheme(const char *scheme)
{
	for (const struct driver *const *d = drivers(); *d != NULL; d++) {
		for (const char *const *s = (*d)->schemes; *s != NULL; s++) {
			if (strcmp(*s, scheme) == 0)
				return *d;
		}
	}
	return NULL;
}

static int driver_unknown(const char *scheme, struct err *err)
{
	char known[256] = "";
	size_t len = 0;

	for (const struct driver *const *d = drivers(); *d != NULL; d++) {
		for (const char *const *s = (*d)->schemes; *s != NULL; s++) {
			int n = snprintf(known + len, sizeof(known) - len, " %s", *s);

			len += (size_t)n < sizeof(known) - len ? (size_t)n : 0;
		}
	}
	return err_set(err, -EINVAL, "unknown scheme '%s': one of%s is possible", scheme, known);
}

/* ---- look-up ------------------------------------------------------------------------------ */

static struct alias *alias_find(const struct device *dev, const char *uri)
{
	struct alias *alias;

	list_for_each (alias, &dev->aliases, link) {
		if (strcmp(alias->uri, uri) == 0)
			return alias;
	}
	return NULL;
}

bool device_has_alias(const struct device *dev, const char *uri)
{
	return alias_find(dev, uri) != NULL;
}

static struct device *device_find_name(const char *name)
{
	struct device *dev;

	list_for_each (dev, &registry, link) {
		if (strcmp(dev->name, name) == 0)
			return dev;
	}
	return NULL;
}

struct device *device_lookup(const char *name)
{
	struct device *dev = device_find_name(name);

	if (dev != NULL)
		return dev;
	list_for_each (dev, &registry, link) {
		if (device_has_alias(dev, name))
			return dev;
	}
	return NULL;
}

struct device *device_next(struct device *prev)
{
	struct list *link = prev == NULL ? registry.next : prev->link.next;

	return link == &registry ? NULL : container_of(link, struct device, link);
}

static struct alias *alias_new(const struct driver *driver, const char *uri, struct err *err)
{
	size_t size = strlen(uri) + 1;
	struct alias *alias = malloc(sizeof(*alias) + size);

	if (alias == NULL) {
		(void)err_set(err, -ENOMEM, "no memory for the name %.200s", uri);
		return NULL;
	}
	alias->driver = driver;
	memcpy(alias->uri, uri, size);
	return alias;
}

/* @alias is the device's then, or freed when the device has it already. */
static void alias_attach(struct device *dev, struct alias *alias)
{
	if (device_has_alias(dev, alias->uri))
		free(alias);
	else
		list_add_tail(&dev->aliases, &alias->link);
}

static bool device_alias_remove(struct device *dev, const char *uri)
{
	struct alias *alias = alias_find(dev, uri);

	if (alias == NULL)
		return false;
	list_del(&alias->link);
	free(alias);
	return true;
}

uint64_t device_used(const struct device *dev)
{
	uint64_t used = dev->driver->used != NULL ? dev->driver->used(dev) : dev->nblocks;

	return MIN(used, dev->nblocks);
}

const char *device_uri(const struct device *dev)
{
	const struct alias *alias = list_first_entry(&dev->aliases, struct alias, link);

	return alias != NULL ? alias->uri : "";
}

/* ---- coming ------------------------------------------------------------------------------- */

static int device_check(const struct device *dev, struct err *err)
{
	uint64_t bytes;

	if (dev->name[0] == '\0')
		return err_set(err, -EINVAL, "a device needs a name");
	if (!is_pow2(dev->block_size) || dev->block_size < DEVICE_BLOCK_SIZE_MIN ||
	    dev->block_size > DEVICE_BLOCK_SIZE_MAX)
		return err_set(
			err, -EINVAL, "%s: block size %u is not a power of two between %d and %d",
			dev->name, dev->block_size, DEVICE_BLOCK_SIZE_MIN, DEVICE_BLOCK_SIZE_MAX);
	if (!u64_mul(dev->nblocks, dev->block_size, &bytes) || bytes > INT64_MAX)
		return err_set(err, -EFBIG, "%s: %lu blocks of %u bytes are too many", dev->name,
			       dev->nblocks, dev->block_size);
	if (dev->stack_depth > IO_DEPTH_MAX)
		return err_set(err, -EMLINK, "%s: more than %d devices on top of each other",
			       dev->name, IO_DEPTH_MAX);
	return 0;
}

int device_register(struct device *dev, struct err *err)
{
	int result;

	if (dev->stack_depth == 0)
		dev->stack_depth = 1;
	if (dev->buf_align == 0)
		dev->buf_align = 1;
	result = device_check(dev, err);
	if (result < 0)
		return result;
	if (device_find_name(dev->name) != NULL)
		return err_set(err, -EEXIST, "a device named '%s' exists already", dev->name);
	dev->is_uuid_random = uuid_is_zero(&dev->uuid);
	if (dev->is_uuid_random)
		uuid_random(&dev->uuid);
	if (dev->physical_block_size == 0)
		dev->physical_block_size = dev->block_size;
	dev->block_shift = (uint8_t)u64_log2(dev->block_size);
	dev->is_removed = dev->is_ended = false;
	dev->quiesce_count = 0;
	dev->pins = 0;
	dev->claim = NULL;
	dev->baseline = dev->closed_stats = NULL;
	dev->closed = (struct task_event){};
	memset(dev->channel, 0, sizeof(dev->channel));
	list_init(&dev->descs);
	list_init(&dev->aliases);
	list_init(&dev->range_locks);
	task_mutex_init(&dev->control);
	task_mutex_init(&dev->drain);
	list_add_tail(&registry, &dev->link);
	fault_device_added(dev);
	return 0;
}

int device_create(const char *text, struct device **ret_dev, struct err *err)
{
	struct uri *uri CLEANUP(uri_freep) = NULL;
	CLEANUP(freep) struct alias *alias = NULL;
	const struct driver *driver;
	struct device *dev = NULL;
	int result;

	result = uri_parse(text, &uri, err);
	if (result < 0)
		return result;
	driver = driver_by_scheme(uri->scheme);
	if (driver == NULL)
		return driver_unknown(uri->scheme, err);
	alias = alias_new(driver, text, err); /* first: a device cannot be made undone by halves */
	if (alias == NULL)
		return -ENOMEM;
	result = driver->create(uri, &dev, err);
	if (result < 0) {
		(void)err_prefix(err, "%s", text);
		return result;
	}
	alias_attach(dev, take(alias));
	*ret_dev = dev;
	return 0;
}

/* ---- going -------------------------------------------------------------------------------- */

void device_announce(struct device *dev, enum device_event_type type)
{
	struct device_event event = { .type = type, .dev = dev };

	device_announce_event(dev, &event);
}

void device_announce_event(struct device *dev, const struct device_event *event)
{
	struct desc *desc, *next;

	list_for_each_safe (desc, next, &dev->descs, link) {
		if (desc->event != NULL)
			desc->event(desc, event);
	}
}

void device_end(struct device *dev)
{
	if (dev->is_ended || dev->is_removed)
		return;
	dev->is_ended = true;
	device_announce(dev, DEVICE_ENDED);
}

static void device_forget(struct device *dev)
{
	struct alias *alias, *next;

	fault_device_removed(dev);
	list_for_each_safe (alias, next, &dev->aliases, link) {
		list_del(&alias->link);
		free(alias);
	}
	free(dev->baseline);
	free(dev->closed_stats);
	dev->baseline = dev->closed_stats = NULL;
	list_del(&dev->link);
}

void device_check_closed(struct device *dev)
{
	if (dev->is_removed && list_empty(&dev->descs) && dev->pins == 0)
		task_event_fire(&dev->closed);
}

void device_pin(struct device *dev)
{
	dev->pins++;
}

void device_unpin(struct device *dev)
{
	assert(dev->pins > 0);
	dev->pins--;
	device_check_closed(dev);
}

int device_remove(struct device *dev, struct err *err)
{
	if (dev->is_removed)
		return err_set(err, -EALREADY, "%s is being removed", dev->name);
	dev->is_removed = true;
	device_gate_all(dev, GATE_REMOVED);
	if (dev->driver->removing != NULL)
		dev->driver->removing(dev);
	device_announce(dev, DEVICE_REMOVED);
	if (!list_empty(&dev->descs) || dev->pins > 0)
		task_event_wait(&dev->closed);
	device_forget(dev);
	dev->driver->destroy(dev);
	return 0;
}

/* The device that was made from @text, or would be: destruction by a shorter URI is allowed. */
static struct device *device_find_uri(const char *text, const struct alias **ret_alias)
{
	struct uri *uri CLEANUP(uri_freep) = NULL;
	const struct driver *driver;
	struct device *dev;

	*ret_alias = NULL;
	list_for_each (dev, &registry, link) {
		*ret_alias = alias_find(dev, text);
		if (*ret_alias != NULL)
			return dev;
	}
	if (uri_parse(text, &uri, NULL) < 0)
		return NULL;
	driver = driver_by_scheme(uri->scheme);
	if (driver != NULL && driver->find != NULL) {
		const char *whole = NULL;

		dev = driver->find(uri, &whole);
		*ret_alias = dev != NULL ? alias_find(dev, whole) : NULL;
		return *ret_alias != NULL ? dev : NULL; /* without one it is being made */
	}
	dev = device_find_name(uri->path);
	if (dev == NULL)
		dev = device_find_name(uri_name(uri));
	return dev != NULL && dev->driver == driver ? dev : NULL;
}

/* A part of a device goes, by the alias @uri. False: it is all there is. */
static bool device_leave(struct device *dev, const char *uri)
{
	bool is_part;

	if (dev->driver->leave == NULL || dev->is_removed)
		return false;
	device_pin(dev); /* it suspends, and the device may be removed meanwhile */
	is_part = dev->driver->leave(dev, uri) == 0;
	if (is_part)
		(void)device_alias_remove(dev, uri);
	device_unpin(dev);
	return is_part;
}

int device_destroy(const char *text, struct err *err)
{
	const struct alias *alias;
	struct device *dev = device_find_uri(text, &alias);
	CLEANUP(freep) char *whole = NULL;

	if (dev == NULL)
		return err_set(err, -ENOENT, "no device was made from '%s'", text);
	if (alias != NULL && alias->driver != dev->driver) {
		(void)device_alias_remove(dev, text);
		device_announce(dev, DEVICE_LOOPBACK_REMOVED);
		return 0;
	}
	if (alias != NULL && strcmp(alias->uri, text) != 0) {
		whole = strdup(alias->uri); /* the alias may go while we wait */
		if (whole == NULL)
			return err_set(err, -ENOMEM, "no memory to find what '%s' is", text);
	}
	if (alias != NULL && device_leave(dev, whole != NULL ? whole : text))
		return 0;
	return device_remove(dev, err);
}

void device_remove_all(void)
{
	struct device *dev, *top;

	/* Top of the stacks first: whoever is opened by another device follows it. */
	while (!list_empty(&registry)) {
		top = NULL;
		list_for_each (dev, &registry, link) {
			if (!dev->is_removed &&
			    (top == NULL || dev->stack_depth > top->stack_depth))
				top = dev;
		}
		if (top == NULL || device_remove(top, NULL) < 0)
			task_yield(); /* somebody else is removing the rest */
	}
}
