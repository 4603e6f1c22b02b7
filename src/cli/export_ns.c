/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export_ns.c - what may be done with namespaces while they are served: add, remove, read sizes
 * again, hold I/O.
 *
 * A place in the list is free while it has no URI. Devices that are added get the lowest free
 * number; the URI is kept because it is what undoes them. A device may go by itself, with its
 * base: the target lets go of it, and export_lock() does.
 *
 * Thread: tasks on the primary reactor; what changes the list holds export.lock.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "cli/export.h"
#include "cli/open.h"
#include "cli/store.h"
#include "device/driver.h"

struct export_ns *export_ns_find(struct export *e, uint32_t nsid)
{
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		if (e->ns[i].uri != NULL && e->ns[i].nsid == nsid)
			return &e->ns[i];
	}
	return NULL;
}

static struct export_ns *ns_free_place(struct export *e)
{
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		if (e->ns[i].uri == NULL)
			return &e->ns[i];
	}
	return NULL;
}

void export_destroy_device(const char *uri)
{
	struct err err = {};

	if (device_destroy(uri, &err) != 0)
		log_warn("device not closed uri=%s: %s, continuing", uri, err_text(&err));
}

void export_lock(struct export *e)
{
	task_mutex_lock(&e->lock);
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		struct export_ns *ns = &e->ns[i];

		if (ns->uri == NULL || device_lookup(ns->uri) == ns->dev)
			continue;
		log_warn("device is gone uri=%s nsid=%u", ns->uri, ns->nsid);
		free(ns->uri);
		*ns = (struct export_ns){};
	}
}

static bool export_has(const struct export *e, const struct device *dev)
{
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		if (e->ns[i].uri != NULL && e->ns[i].dev == dev)
			return true;
	}
	return false;
}

static int export_add_locked(struct export *e, const char *uri, uint32_t nsid, uint32_t *ret_nsid,
			     struct err *err)
{
	struct export_ns *ns = ns_free_place(e);
	CLEANUP(freep) char *copy = strdup(uri);
	struct device *dev = NULL;
	int rc;

	if (copy == NULL)
		return err_set(err, -ENOMEM, "no memory for a namespace");
	if (ns == NULL)
		return err_set(err, -ENOSPC, "a subsystem holds at most %d namespaces",
			       TARGET_NAMESPACES_MAX);
	rc = cli_store_for(uri, err);
	if (rc == 0)
		rc = device_create(uri, &dev, err);
	if (rc != 0)
		return opened_explain(uri, rc, err);
	if (export_has(e, dev)) /* resize, rescan and aliases lead to devices that exist */
		return err_set(err, -EBUSY, "%s: '%s' is served already", uri, dev->name);
	rc = subsystem_add_ns(e->subsystem, dev, nsid, ret_nsid, err);
	if (rc != 0) {
		export_destroy_device(uri);
		return rc;
	}
	*ns = (struct export_ns){ .uri = take(copy), .dev = dev, .nsid = *ret_nsid };
	return 0;
}

int export_add(struct export *e, const char *uri, uint32_t nsid, uint32_t *ret_nsid,
	       struct err *err)
{
	int rc;

	export_lock(e);
	rc = export_add_locked(e, uri, nsid, ret_nsid, err);
	task_mutex_unlock(&e->lock);
	return rc;
}

int export_remove(struct export *e, uint32_t nsid, struct err *err)
{
	struct export_ns *ns;
	int rc = 0;

	export_lock(e);
	ns = export_ns_find(e, nsid);
	if (ns == NULL)
		rc = err_set(err, -ENOENT, "there is no namespace %u; 'list' shows those there are",
			     nsid);
	else
		export_nexus_release(ns->dev);
	if (rc == 0)
		rc = subsystem_remove_ns(e->subsystem, nsid, err);
	if (rc == 0) {
		CLEANUP(freep) char *uri = take(ns->uri);

		*ns = (struct export_ns){}; /* listings do not see what is half gone */
		export_destroy_device(uri);
	}
	task_mutex_unlock(&e->lock);
	return rc;
}

/* Ask the driver for the size and take it over. */
int export_rescan_device(struct device *dev, struct err *err)
{
	uint64_t nblocks = 0;
	int rc;

	if (dev->driver->rescan == NULL)
		return 0;
	device_pin(dev);
	rc = dev->driver->rescan(dev, &nblocks, err);
	if (rc == 0 && nblocks != dev->nblocks)
		rc = device_resize(dev, nblocks, err);
	device_unpin(dev);
	return rc;
}

static int ns_rescan(const struct export_ns *ns, struct err *err)
{
	uint64_t old_nblocks = ns->dev->nblocks;
	int rc = export_rescan_device(ns->dev, err);

	if (rc == 0 && ns->dev->nblocks != old_nblocks)
		log_info("size changed nsid=%u uri=%s blocks=%" PRIu64 " before=%" PRIu64, ns->nsid,
			 ns->uri, ns->dev->nblocks, old_nblocks);
	return rc;
}

int export_rescan(struct export *e, struct err *err)
{
	int first = 0;

	export_lock(e);
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		int rc = e->ns[i].uri != NULL ? ns_rescan(&e->ns[i], err) : 0;

		first = first != 0 ? first : rc;
	}
	task_mutex_unlock(&e->lock);
	return first;
}

/* The lock is not kept while it waits: what ends a wait is an operation, too. */
int export_pause(struct export *e, struct err *err)
{
	int rc = subsystem_pause(e->subsystem, err);

	if (rc == 0)
		e->paused++;
	else if (rc == -ETIMEDOUT)
		(void)err_hint(err, "nothing is paused");
	return rc;
}

int export_resume(struct export *e, struct err *err)
{
	int rc = 0;

	export_lock(e);
	if (e->paused == 0) {
		rc = err_set(err, -EINVAL, "it is not paused");
	} else {
		e->paused--;
		subsystem_resume(e->subsystem);
	}
	task_mutex_unlock(&e->lock);
	return rc;
}
