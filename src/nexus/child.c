/* SPDX-License-Identifier: Apache-2.0 */
/*
 * child.c - a child of a nexus and its device.
 *
 * A child is a URI first. Its device is made from it when the child is opened, and removed when
 * it is closed; so a child that was offline comes back as whatever the URI leads to then
 * (child_join.c finds out whether that is the replica that left).
 *
 * A replica serves once: what is a child already, of this nexus or another, under whatever name, is
 * refused, and so is a second one of the same uuid, since the record tells children apart by it.
 *
 * Decision: a child's uuid is the one in its URI, else that of its device: never a reason to refuse
 * it.
 *
 * Thread: tasks on the primary; child_event() in the announcing task.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "nexus/internal.h"

static bool is_remote(const char *uri)
{
	return strncmp(uri, "nvmf", 4) == 0;
}

/*
 * The replica's uuid, and the URI of the device. A remote child must not come back by itself after
 * its connection was lost: what it had not flushed may be gone. So its device is told to give up at
 * once, unless the URI says something else.
 */
static int child_read_uri(struct child *child, struct nexus_err *ne)
{
	struct uri *uri CLEANUP(uri_freep) = NULL;
	struct err *err = ne != NULL ? &ne->err : NULL;
	int result = uri_parse(child->uri, &uri, err);
	const char *more = "";
	size_t size;

	if (result == 0)
		result = uri_param_uuid(uri, "uuid", &child->uuid, err);
	if (result < 0)
		return nexus_fail(ne, NEXUS_E_CREATE_CHILD, "child %s", child->uri);
	if (!child->is_local && !uri_has(uri, "ctrl_loss"))
		more = strchr(child->uri, '?') != NULL ? "&ctrl_loss=0" : "?ctrl_loss=0";
	size = strlen(child->uri) + strlen(more) + 1;
	child->device_uri = malloc(size);
	if (child->device_uri == NULL)
		return nexus_fail(ne, NEXUS_E_NO_MEMORY, "no memory for child %s", child->uri);
	(void)snprintf(child->device_uri, size, "%s%s", child->uri, more);
	return 0;
}

void child_free(struct child *child)
{
	if (child == NULL)
		return;
	segmap_done(&child->missed);
	free(child->uri);
	free(child->device_uri);
	free(child);
}

struct child *child_new(struct nexus *nx, const char *uri, struct nexus_err *ne)
{
	struct child *child = calloc(1, sizeof(*child));

	if (child == NULL || (child->uri = strdup(uri)) == NULL) {
		child_free(child);
		(void)nexus_fail(ne, NEXUS_E_NO_MEMORY, "no memory for child %s", uri);
		return NULL;
	}
	child->nx = nx;
	child->is_local = !is_remote(uri);
	if (child_read_uri(child, ne) < 0) {
		child_free(child);
		return NULL;
	}
	while (nx->child[child->slot] != NULL)
		child->slot++;
	return child;
}

struct child *child_find(struct nexus *nx, const char *uri)
{
	for (unsigned i = 0; i < nx->nchildren; i++) {
		if (strcmp(nx->child[nx->order[i]]->uri, uri) == 0)
			return nx->child[nx->order[i]];
	}
	return NULL;
}

/* Its device says something. No suspending here. */
static void child_event(struct desc *desc, const struct device_event *event)
{
	struct child *child = desc->owner;

	switch (event->type) {
	case DEVICE_LOOPBACK_REMOVED:
		if (device_has_alias(desc->dev, child->device_uri))
			break; /* it was another name that went */
		FALLTHROUGH;
	case DEVICE_REMOVED:
		/* one that fell before is being closed; one that never served is closed, too */
		(void)nexus_child_fail(child, CHILD_CLOSED, NEXUS_REASON_NONE);
		break;
	case DEVICE_FAILED:
		(void)snprintf(child->why, sizeof(child->why), "%s",
			       event->why != NULL ? event->why : "");
		if (event->is_data_lost) {
			child->has_lost_data = true;
			child->is_missed_known = false; /* it may have fallen a moment ago */
		}
		(void)nexus_child_fail(child, CHILD_FAULTED, NEXUS_REASON_ADMIN_FAILED);
		break;
	case DEVICE_MEDIA:
		nexus_health_medium(child);
		break;
	case DEVICE_RESIZED:
	case DEVICE_RESERVATION: /* a write that meets it says so itself, as the next does */
	case DEVICE_ENDED:
	case DEVICE_EVENT_COUNT_:
		break;
	}
}

static void child_take_over(struct child *child, const struct device *dev)
{
	(void)snprintf(child->device_name, sizeof(child->device_name), "%s", dev->name);
	if (uuid_is_zero(&child->uuid))
		child->uuid = dev->uuid;
	child->why[0] = '\0';
	child->has_lost_data = false;
	child->zeroes_for_unmap = !(dev->ops & IO_BIT(IO_UNMAP)) || !dev->unmap_reads_zero;
}

/* Who has @dev, or in the same nexus the uuid that @child would have with it; NULL: nobody. */
static const struct child *child_twin(const struct child *child, const struct device *dev)
{
	const struct uuid *uuid = uuid_is_zero(&child->uuid) ? &dev->uuid : &child->uuid;
	struct nexus *nx = NULL;

	while ((nx = nexus_next(nx)) != NULL) {
		for (unsigned i = 0; i < nx->nchildren; i++) {
			const struct child *other = nx->child[nx->order[i]];

			if (other != child && ((other->desc != NULL && other->desc->dev == dev) ||
					       (nx == child->nx && uuid_equal(&other->uuid, uuid))))
				return other;
		}
	}
	return NULL;
}

/* What was made for @child is taken away; where it is @twin's device, only the name is. */
static void child_give_back(const struct child *child, const struct device *dev,
			    const struct child *twin)
{
	bool is_shared = twin != NULL && twin->desc != NULL && twin->desc->dev == dev;
	bool is_name = strncmp(child->uri, "bdev:", 5) == 0 ||
		       strncmp(child->uri, "loopback:", 9) == 0 || dev->driver->leave != NULL;

	if (is_shared && (!is_name || strcmp(twin->device_uri, child->device_uri) == 0))
		return;
	if (device_destroy(child->device_uri, NULL) < 0)
		log_debug("child %s went by itself", child->uri);
}

/* Drivers name the URI they were given, ours is the same or the beginning of it. */
static int fail_to_create(const struct child *child, struct nexus_err *ne)
{
	if (ne != NULL &&
	    strncmp(err_text(&ne->err), child->device_uri, strlen(child->device_uri)) == 0)
		return nexus_fail(ne, NEXUS_E_CREATE_CHILD, "child of nexus %s",
				  child->nx->dev.name);
	return nexus_fail(ne, NEXUS_E_CREATE_CHILD, "child %s", child->uri);
}

int child_open(struct child *child, struct nexus_err *ne)
{
	struct desc_opts opts = { .flags = DESC_WRITE, .event = child_event, .owner = child };
	struct err *err = ne != NULL ? &ne->err : NULL;
	const struct child *twin;
	struct device *dev;
	struct handle *h;
	struct desc *desc;
	int result;

	if (device_create(child->device_uri, &dev, err) < 0)
		return fail_to_create(child, ne);
	twin = child_twin(child, dev);
	if (twin != NULL) {
		result = nexus_fail(ne, NEXUS_E_CHILD_EXISTS,
				    "child %s is the same replica as %s of nexus %s", child->uri,
				    twin->uri, twin->nx->dev.name);
		child_give_back(child, dev, twin);
		return result;
	}
	result = desc_open(dev, &opts, &desc, err);
	if (result == 0 && (result = handle_open(desc, reactor_primary(), &h, err)) < 0)
		desc_close(desc); /* without one, no task could do I/O of its own */
	if (result < 0) {
		child_give_back(child, dev, NULL);
		return nexus_fail(ne, NEXUS_E_OPEN_CHILD, "child %s", child->uri);
	}
	child_take_over(child, dev);
	child->desc = desc;
	return 0;
}

void child_close(struct child *child)
{
	struct nexus *nx = child->nx;
	struct desc *desc;
	struct err err = {};

	if (nx->is_registered)
		task_mutex_lock(&nx->dev.control); /* channels that are being made look at it */
	desc = take(child->desc);
	if (nx->is_registered)
		task_mutex_unlock(&nx->dev.control);
	if (desc == NULL)
		return;
	nexus_health_forget(child);
	desc_close(desc);
	/* -ENOENT, -EALREADY: it was removed first, that is why we are here */
	if (device_destroy(child->device_uri, &err) < 0 && err.code != -ENOENT &&
	    err.code != -EALREADY)
		log_warn("nexus %s: the device of child %s stays: %s", nx->dev.name, child->uri,
			 err_text(&err));
}
