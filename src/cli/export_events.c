/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export_events.c - what happened to mirrors: the last events, and `events [AFTER] [wait]`.
 *
 * Events are kept in a ring of EVENTS_MAX, numbered from 1 on. Who wants to follow asks for those
 * after the last number seen; a gap in the numbers says how many were lost because it asked too
 * late. With `wait` the answer comes when there is one to tell. So the ring is the queue of every
 * follower, however slow, and who does not read costs nothing: it has not asked.
 *
 * The waiting is done by the client's thread (export_command.c), which sleeps on its socket and on
 * an eventfd that each event wakes: it notices at once that its client went or that the export
 * ends, and the engine has no task that waits.
 *
 * Rejected: a line that stays open and streams. A reader that does not read would need a queue of
 * its own, or lose its connection where it should lose events.
 *
 * Thread: tasks on the primary reactor; events_follow() and events_unfollow() that of a client. The
 *         lock guards the eventfds only.
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/units.h"
#include "cli/export_nexus.h"
#include "cli/json_text.h"
#include "nexus/rebuild.h"

enum { EVENTS_MAX = 256 }; /* that are remembered */

struct event_note {
	uint64_t number, time_ms; /* since 1970 */
	enum nexus_event_type type;
	char *nexus, *child; /* owned; child NULL: about the nexus */
	char *detail;        /* owned; NULL: none */
	const char *state, *status, *health, *reason, *warning;
	const char *job; /* state of the rebuild or scrub it is about; NULL: of none */
	uint64_t lba, nlb;
	bool is_ok;
};

struct export_events {
	struct nexus_listener listener;
	uint64_t last; /* number of the newest */
	pthread_mutex_t lock;
	int news[CONTROL_CLIENTS_MAX]; /* eventfds of who waits, -1: none */
	struct event_note note[EVENTS_MAX];
};

static void note_clear(struct event_note *note)
{
	free(note->nexus);
	free(note->child);
	free(note->detail);
	*note = (struct event_note){};
}

static void events_wake(struct export_events *events)
{
	(void)pthread_mutex_lock(&events->lock);
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		if (events->news[i] >= 0)
			(void)eventfd_write(events->news[i], 1);
	}
	(void)pthread_mutex_unlock(&events->lock);
}

int events_follow(struct export *e)
{
	struct export_events *events = e->events;
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	(void)pthread_mutex_lock(&events->lock);
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX && fd >= 0; i++) {
		if (events->news[i] >= 0)
			continue;
		events->news[i] = fd; /* there is a place: a client waits in one command at most */
		break;
	}
	(void)pthread_mutex_unlock(&events->lock);
	return fd;
}

void events_unfollow(struct export *e, int fd)
{
	struct export_events *events = e->events;

	(void)pthread_mutex_lock(&events->lock);
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		if (events->news[i] == fd)
			events->news[i] = -1;
	}
	(void)pthread_mutex_unlock(&events->lock);
	close(fd);
}

/* Has it begun, or how has it ended? */
static const char *job_state(const struct nexus_event *event)
{
	struct rebuild_stats rebuild = {};
	struct scrub_stats scrub;

	if (event->type == NEXUS_EVENT_SCRUB) {
		nexus_scrub_stats(event->nx, &scrub);
		return scrub_state_text(scrub.state);
	}
	if (event->type == NEXUS_EVENT_REBUILD &&
	    nexus_rebuild_stats(event->nx, event->child, &rebuild, NULL) == 0)
		return rebuild_state_name(rebuild.state);
	return NULL;
}

static void event_heard(struct nexus_listener *listener, const struct nexus_event *event)
{
	struct export_events *events = container_of(listener, struct export_events, listener);
	struct event_note *note = &events->note[++events->last % EVENTS_MAX];
	struct nexus_info info;
	struct timespec now = {};

	(void)clock_gettime(CLOCK_REALTIME, &now);
	nexus_info(event->nx, &info);
	note_clear(note);
	*note = (struct event_note){
		.number = events->last,
		.time_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / NS_PER_MS,
		.type = event->type,
		.nexus = strdup(info.name),
		.child = event->child != NULL ? strdup(event->child) : NULL,
		.state = nexus_state_name(event->state),
		.status = nexus_status_name(event->status),
		.health = child_health_name(event->health),
		.reason = nexus_reason_name(event->reason),
		.warning = nexus_warning_name(event->warning),
		.detail = event->detail != NULL ? strdup(event->detail) : NULL,
		.lba = event->lba,
		.nlb = event->nlb,
		.is_ok = event->is_ok,
		.job = job_state(event),
	};
	events_wake(events);
}

int export_events_start(struct export *e, struct err *err)
{
	e->events = calloc(1, sizeof(*e->events));
	if (e->events == NULL)
		return err_set(err, -ENOMEM, "no memory for events");
	e->events->listener.fn = event_heard;
	(void)pthread_mutex_init(&e->events->lock, NULL);
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++)
		e->events->news[i] = -1;
	nexus_listen(&e->events->listener);
	return 0;
}

void export_events_stop(struct export *e)
{
	struct export_events *events = take(e->events);

	if (events == NULL)
		return;
	nexus_unlisten(&events->listener);
	for (unsigned i = 0; i < EVENTS_MAX; i++)
		note_clear(&events->note[i]);
	(void)pthread_mutex_destroy(&events->lock);
	free(events);
}

static json_t *json_event(const struct event_note *n)
{
	static const char *const types[] = {
		[NEXUS_EVENT_CREATED] = "created",
		[NEXUS_EVENT_DESTROYED] = "destroyed",
		[NEXUS_EVENT_STATE] = "state",
		[NEXUS_EVENT_RESIZED] = "resized",
		[NEXUS_EVENT_CHILD_ADDED] = "child-added",
		[NEXUS_EVENT_CHILD_REMOVED] = "child-removed",
		[NEXUS_EVENT_CHILD_STATE] = "child-state",
		[NEXUS_EVENT_REPAIRED] = "repaired",
		[NEXUS_EVENT_REBUILD] = "rebuild",
		[NEXUS_EVENT_SCRUB] = "scrub",
		[NEXUS_EVENT_MISMATCH] = "mismatch",
		[NEXUS_EVENT_STORE] = "store",
		[NEXUS_EVENT_HEALTH] = "health",
	};
	json_t *object = json_pack("{s:I, s:I, s:s, s:o, s:s, s:s, s:b}", "number",
				   (json_int_t)n->number, "time_ms", (json_int_t)n->time_ms, "type",
				   types[n->type], "nexus", json_text(n->nexus), "state", n->state,
				   "status", n->status, "ok", n->is_ok);

	if (object == NULL)
		return NULL;
	if (n->child != NULL) {
		(void)json_object_set_new(object, "child", json_text(n->child));
		(void)json_object_set_new(object, "health", json_string(n->health));
		(void)json_object_set_new(object, "reason", json_string(n->reason));
	}
	if (n->type == NEXUS_EVENT_HEALTH)
		(void)json_object_set_new(object, "warning", json_string(n->warning));
	if (n->job != NULL)
		(void)json_object_set_new(object, "job", json_string(n->job));
	if (n->detail != NULL)
		(void)json_object_set_new(object, "detail", json_string(n->detail));
	if (n->nlb != 0) {
		(void)json_object_set_new(object, "lba", json_number(n->lba));
		(void)json_object_set_new(object, "blocks", json_number(n->nlb));
	}
	return object;
}

int run_events(struct request *req, struct err *err)
{
	const struct export_events *events = req->e->events;
	const char *last_word = req->count > 0 ? req->word[req->count - 1] : "";
	bool is_waiting = strcmp(last_word, "wait") == 0;
	uint64_t after = 0, first = events->last > EVENTS_MAX ? events->last - EVENTS_MAX : 0;
	json_t *list;
	int rc = 0;

	if (req->count - is_waiting > 1)
		return request_usage(req, err);
	if (req->count - is_waiting == 1)
		rc = number_parse(req->word[0], &after, err);
	if (rc != 0)
		return rc;
	if (after > events->last)
		return err_set(err, -EINVAL,
			       "there are %lu events, none after %lu: an export counts from 1 when "
			       "it starts",
			       events->last, after);
	req->is_early = is_waiting && after >= events->last;
	list = json_array();
	for (uint64_t n = MAX(first, after); n < events->last; n++)
		(void)json_array_append_new(list, json_event(&events->note[(n + 1) % EVENTS_MAX]));
	return request_say_json(req, list, err);
}
