/* SPDX-License-Identifier: Apache-2.0 */
/*
 * events.c - who is told what, and what a nexus and its children are called towards a client.
 *
 *   nexus state            children                 status
 *   OPEN                   all healthy              Online
 *   OPEN                   one healthy at least     Degraded
 *   OPEN                   none healthy             Faulted
 *   INIT, RECONFIGURING    -                        Degraded
 *   SHUTTING_DOWN, SHUTDOWN                         the same
 *   CLOSED                                          Faulted
 *
 *   child                                  health      reason
 *   INIT                                   Degraded    none
 *   CONFIG_INVALID                         Faulted     none
 *   OPEN, synced / not                     Online / Degraded
 *   CLOSED                                 Degraded
 *   FAULTED, device not closed yet         Unknown     as faulted
 *   FAULTED(NoSpace, Offline)              Degraded    as faulted
 *   FAULTED(anything else)                 Faulted     as faulted
 *
 * Listeners are called in the task that made the change, in the order they came; they must not
 * suspend. A change of status is told once, whatever caused it. Of a child there may be several
 * events for one change (it fell, its device was closed); the log has a line for the first.
 *
 * Thread: primary.
 */
#include <stdarg.h>
#include <string.h>

#include "base/log.h"
#include "nexus/internal.h"

static struct list listeners = { &listeners, &listeners };

void nexus_listen(struct nexus_listener *listener)
{
	list_add_tail(&listeners, &listener->link);
}

void nexus_unlisten(struct nexus_listener *listener)
{
	list_del(&listener->link);
}

unsigned nexus_nhealthy(const struct nexus *nx)
{
	unsigned n = 0;

	for (unsigned i = 0; i < nx->nchildren; i++)
		n += child_is_healthy(nx->child[nx->order[i]]);
	return n;
}

enum nexus_status nexus_status_of(const struct nexus *nx)
{
	unsigned nhealthy = nexus_nhealthy(nx);

	switch (nx->state) {
	case NEXUS_OPEN:
		if (nhealthy == 0)
			return NEXUS_FAULTED;
		return nhealthy == nx->nchildren ? NEXUS_ONLINE : NEXUS_DEGRADED;
	case NEXUS_SHUTTING_DOWN:
		return NEXUS_STATUS_SHUTTING_DOWN;
	case NEXUS_SHUTDOWN:
		return NEXUS_STATUS_SHUTDOWN;
	case NEXUS_CLOSED:
		return NEXUS_FAULTED;
	case NEXUS_INIT:
	case NEXUS_RECONFIGURING:
		break;
	}
	return NEXUS_DEGRADED;
}

/* Nothing is broken. */
static bool is_harmless(enum nexus_reason reason)
{
	return reason == NEXUS_REASON_NO_SPACE || reason == NEXUS_REASON_OFFLINE;
}

enum child_health child_health_of(const struct child *child)
{
	uint32_t word = atomic_load(&child->word);

	switch (child_state_of(word)) {
	case CHILD_OPEN:
		return word & CHILD_SYNCED ? CHILD_HEALTH_ONLINE : CHILD_HEALTH_DEGRADED;
	case CHILD_CONFIG_INVALID:
		return CHILD_HEALTH_FAULTED;
	case CHILD_FAULTED:
		if (child->desc != NULL)
			return CHILD_HEALTH_UNKNOWN;
		return is_harmless(child_reason_of(word)) ? CHILD_HEALTH_DEGRADED
							  : CHILD_HEALTH_FAULTED;
	case CHILD_INIT:
	case CHILD_CLOSED:
		break;
	}
	return CHILD_HEALTH_DEGRADED;
}

void nexus_tell_event(struct nexus_event *event)
{
	struct nexus_listener *listener, *next;

	event->state = event->nx->state;
	event->status = nexus_status_of(event->nx);
	list_for_each_safe (listener, next, &listeners, link)
		listener->fn(listener, event);
}

/* As child_health_of(), but what it will be when its device is closed, in words of a log. */
static const char *log_word(const struct child *child, enum child_health health)
{
	uint32_t word = atomic_load(&child->word);

	if (child_state_of(word) == CHILD_CLOSED)
		return "closed";
	if (health != CHILD_HEALTH_UNKNOWN)
		return child_health_name(health);
	return child_health_name(is_harmless(child_reason_of(word)) ? CHILD_HEALTH_DEGRADED
								    : CHILD_HEALTH_FAULTED);
}

/* Once for what it is. */
static void log_child(struct child *child, const struct nexus_event *event)
{
	const char *word = log_word(child, event->health);
	bool has_reason = event->reason != NEXUS_REASON_NONE;

	if (child->logged != NULL && strcmp(child->logged, word) == 0 &&
	    child->logged_reason == event->reason)
		return;
	child->logged = word;
	child->logged_reason = event->reason;
	log_info("nexus %s: child %s is %s%s%s%s%s%s", child->nx->dev.name, child->uri, word,
		 has_reason ? " (" : "", has_reason ? nexus_reason_name(event->reason) : "",
		 has_reason ? ")" : "", child->why[0] != '\0' ? ": " : "", child->why);
}

void nexus_tell(struct nexus *nx, enum nexus_event_type type, struct child *child)
{
	struct nexus_event event = { .type = type, .nx = nx, .is_ok = true };

	if (child != NULL) {
		event.child = child->uri;
		event.health = child_health_of(child);
		event.reason = child_reason_of(atomic_load(&child->word));
		log_child(child, &event);
	}
	nexus_tell_event(&event);
}

void nexus_tell_status(struct nexus *nx)
{
	enum nexus_status status = nexus_status_of(nx);

	if (nx->state == NEXUS_INIT || (nx->is_told && status == nx->told))
		return;
	nx->told = status;
	nx->is_told = true;
	log_info("nexus %s is %s", nx->dev.name, nexus_status_name(status));
	nexus_tell(nx, NEXUS_EVENT_STATE, NULL);
}

/* ---- names ---------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	enum nexus_error_class class;
	int errnum;
} errors[] = {
	[NEXUS_OK] = { "Ok", NEXUS_CLASS_OK, 0 },
	[NEXUS_E_INVALID_UUID] = { "InvalidUuid", NEXUS_CLASS_INVALID_ARGUMENT, EINVAL },
	[NEXUS_E_INVALID_KEY] = { "InvalidKey", NEXUS_CLASS_INVALID_ARGUMENT, EINVAL },
	[NEXUS_E_INVALID_ARGUMENTS] = { "InvalidArguments", NEXUS_CLASS_INVALID_ARGUMENT, EINVAL },
	[NEXUS_E_INVALID_RESERVATION] = { "InvalidReservation", NEXUS_CLASS_INVALID_ARGUMENT,
					  EINVAL },
	[NEXUS_E_INVALID_SHARE_PROTOCOL] = { "InvalidShareProtocol", NEXUS_CLASS_INVALID_ARGUMENT,
					     EINVAL },
	[NEXUS_E_ALREADY_SHARED] = { "AlreadyShared", NEXUS_CLASS_INVALID_ARGUMENT, EINVAL },
	[NEXUS_E_NOT_SHARED] = { "NotShared", NEXUS_CLASS_INVALID_ARGUMENT, EINVAL },
	[NEXUS_E_CREATE_CHILD] = { "CreateChild", NEXUS_CLASS_INVALID_ARGUMENT, EINVAL },
	[NEXUS_E_OPEN_CHILD] = { "OpenChild", NEXUS_CLASS_INVALID_ARGUMENT, EINVAL },
	[NEXUS_E_MIXED_BLOCK_SIZES] = { "MixedBlockSizes", NEXUS_CLASS_INVALID_ARGUMENT, EINVAL },
	[NEXUS_E_CHILD_GEOMETRY] = { "ChildGeometry", NEXUS_CLASS_INVALID_ARGUMENT, EINVAL },
	[NEXUS_E_CHILD_TOO_SMALL] = { "ChildTooSmall", NEXUS_CLASS_INVALID_ARGUMENT, EINVAL },
	[NEXUS_E_NOT_ALLOWED] = { "OperationNotAllowed", NEXUS_CLASS_FAILED_PRECONDITION, EPERM },
	[NEXUS_E_REMOVE_LAST_CHILD] = { "RemoveLastChild", NEXUS_CLASS_FAILED_PRECONDITION, EPERM },
	[NEXUS_E_REMOVE_LAST_HEALTHY] = { "RemoveLastHealthyChild", NEXUS_CLASS_FAILED_PRECONDITION,
					  EPERM },
	[NEXUS_E_INCOMPLETE] = { "NexusIncomplete", NEXUS_CLASS_FAILED_PRECONDITION, EPERM },
	[NEXUS_E_RESIZE] = { "NexusResize", NEXUS_CLASS_FAILED_PRECONDITION, EPERM },
	[NEXUS_E_NOT_FOUND] = { "NexusNotFound", NEXUS_CLASS_NOT_FOUND, ENOENT },
	[NEXUS_E_CHILD_NOT_FOUND] = { "ChildNotFound", NEXUS_CLASS_NOT_FOUND, ENOENT },
	[NEXUS_E_REBUILD_NOT_FOUND] = { "RebuildJobNotFound", NEXUS_CLASS_NOT_FOUND, ENOENT },
	[NEXUS_E_NAME_EXISTS] = { "NameExists", NEXUS_CLASS_ALREADY_EXISTS, EEXIST },
	[NEXUS_E_CHILD_EXISTS] = { "ChildAlreadyExists", NEXUS_CLASS_ALREADY_EXISTS, EEXIST },
	[NEXUS_E_UUID_EXISTS] = { "UuidExists", NEXUS_CLASS_INTERNAL, EEXIST },
	[NEXUS_E_INITIALISING] = { "NexusInitialising", NEXUS_CLASS_INTERNAL, EBUSY },
	[NEXUS_E_STORE] = { "SaveStateFailed", NEXUS_CLASS_INTERNAL, EIO },
	[NEXUS_E_NO_MEMORY] = { "NoMemory", NEXUS_CLASS_INTERNAL, ENOMEM },
	[NEXUS_E_INTERNAL] = { "Internal", NEXUS_CLASS_INTERNAL, EIO },
};

static_assert(ARRAY_LEN(errors) == NEXUS_E_COUNT_, "a row for each error");

enum nexus_error_class nexus_error_class(enum nexus_error why)
{
	return errors[why].class;
}

const char *nexus_error_name(enum nexus_error why)
{
	return errors[why].name;
}

int nexus_fail(struct nexus_err *ne, enum nexus_error why, const char *fmt, ...)
{
	char text[ERR_MSG_MAX];
	va_list args;

	if (ne == NULL)
		return -errors[why].errnum;
	if (ne->why == NEXUS_OK)
		ne->why = why;
	va_start(args, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (ne->err.code == 0)
		return err_set(&ne->err, -errors[why].errnum, "%s", text);
	return err_prefix(&ne->err, "%s", text);
}

const char *nexus_state_name(enum nexus_state state)
{
	static const char *const names[] = { "Init",         "Open",     "Reconfiguring",
					     "ShuttingDown", "Shutdown", "Closed" };

	return names[state];
}

const char *nexus_status_name(enum nexus_status status)
{
	static const char *const names[] = { "Online", "Degraded", "Faulted", "ShuttingDown",
					     "Shutdown" };

	return names[status];
}

const char *nexus_reason_name(enum nexus_reason reason)
{
	static const char *const names[] = {
		[NEXUS_REASON_NONE] = "None",
		[NEXUS_REASON_UNKNOWN] = "Unknown",
		[NEXUS_REASON_CANT_OPEN] = "CantOpen",
		[NEXUS_REASON_NO_SPACE] = "NoSpace",
		[NEXUS_REASON_TIMED_OUT] = "TimedOut",
		[NEXUS_REASON_IO_ERROR] = "IoFailure",
		[NEXUS_REASON_REBUILD_FAILED] = "RebuildFailed",
		[NEXUS_REASON_ADMIN_FAILED] = "AdminFailed",
		[NEXUS_REASON_OFFLINE] = "ByClient",
		[NEXUS_REASON_OFFLINE_PERMANENT] = "ByClient",
	};

	static_assert(ARRAY_LEN(names) == NEXUS_REASON_COUNT_, "a name for each reason");
	return names[reason];
}

const char *child_health_name(enum child_health health)
{
	static const char *const names[] = { "Unknown", "Online", "Degraded", "Faulted" };

	return names[health];
}
