/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export_nexus.c - a running export is told about its mirrors: which is meant, its children, its
 * size, and how it ends.
 *
 *	nexus [@NAME]  |  latency [@NAME]                           export_nexus_show.c
 *	child-add URI [norebuild]  |  child-remove URI  |  child-online URI  |  child-offline URI
 *	child-fault URI  |  nexus-resize SIZE                       here
 *	rebuild URI start|stop|pause|resume  |  rebuilds [@NAME]
 *	rebuild-limits [rate=BYTES] [latency=TIME|auto|off]
 *	scrub [start|stop|status] [repair] [repair-from URI]        export_jobs.c
 *	events [AFTER] [wait]                                       export_events.c
 *
 * Each may be preceded by @NAME, the name or uuid of a nexus. It is needed only where several are
 * there and no child says which is meant: most exports have one, and who types wants to type less.
 * A child is named by the URI it was given by, as `nexus` shows it.
 *
 * Thread: tasks on the primary reactor. A nexus is looked up again after each suspension.
 */
#include "cli/export_nexus.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/units.h"
#include "nexus/rebuild.h"

/* ---- which is meant -------------------------------------------------------------------------- */

static bool has_child(struct nexus *nx, const char *uri)
{
	struct nexus_child_info child;

	for (unsigned i = 0; nexus_child_info(nx, i, &child); i++) {
		if (strcmp(child.uri, uri) == 0)
			return true;
	}
	return false;
}

/* The one that is meant: by name, by the child that is named if one has it, or the only one. */
static struct nexus *nexus_meant(const struct request *req, struct err *err)
{
	const char *child = req->command->nexus == MEANS_CHILD ? req->word[0] : NULL;
	struct nexus *nx, *only = nexus_next(NULL);

	if (req->nexus != NULL) {
		nx = nexus_lookup(req->nexus);
		if (nx == NULL)
			(void)err_set(err, -ENOENT,
				      "there is no nexus '%s'; 'nexus' shows those there are",
				      req->nexus);
		return nx;
	}
	for (nx = only; nx != NULL && child != NULL; nx = nexus_next(nx)) {
		if (has_child(nx, child))
			return nx;
	}
	if (only == NULL)
		(void)err_set(err, -ENOENT,
			      "no nexus is served here; 'add nexus:///NAME?...' makes one");
	else if (nexus_next(only) != NULL)
		(void)err_set(err, -EINVAL,
			      "there are several nexuses: say which with @NAME; 'nexus' shows "
			      "them");
	else
		return only;
	return NULL;
}

int nexus_request_find(struct request *req, struct err *err)
{
	if (req->command->nexus == MEANS_ALL && req->nexus == NULL)
		return 0;
	req->nx = nexus_meant(req, err);
	return req->nx != NULL ? 0 : -ENOENT;
}

int nexus_request_failed(const struct nexus_err *ne, struct err *err)
{
	static const char *const next[NEXUS_E_COUNT_] = {
		[NEXUS_E_CHILD_NOT_FOUND] =
			"a child is named by its whole URI; 'status' shows them",
		[NEXUS_E_REMOVE_LAST_CHILD] = "'remove NSID' stops serving the mirror as a whole",
		[NEXUS_E_REMOVE_LAST_HEALTHY] =
			"bring another one in sync first; 'remove NSID' stops serving the mirror "
			"as a whole",
	};

	(void)err_set(err, ne->err.code, "%s", err_text(&ne->err));
	if (next[ne->why] != NULL)
		(void)err_hint(err, "%s", next[ne->why]);
	return ne->err.code;
}

/* ---- children -------------------------------------------------------------------------------- */

/* What has become of the child that was meant, or has begun; all may have changed meanwhile. */
static int say_child(struct request *req, struct err *err)
{
	const char *uri = req->word[0];
	struct nexus_child_info child;
	struct err unread = {};
	struct nexus *nx = nexus_meant(req, &unread);

	for (unsigned i = 0; nx != NULL && nexus_child_info(nx, i, &child); i++) {
		if (strcmp(child.uri, uri) != 0)
			continue;
		if (nexus_rebuild_progress(nx, uri) >= 0)
			return request_say(
				req, err, "a rebuild of %s has begun; 'rebuilds' tells of it", uri);
		return request_say(req, err, "%s is %s%s", uri,
				   child.reason == NEXUS_REASON_OFFLINE ? "offline, "
				   : child.is_synced                    ? "in sync, "
									: "",
				   child_state_name(child.state));
	}
	return request_say(req, err, "%s is gone", uri);
}

int nexus_request_child(struct request *req, struct err *err)
{
	struct nexus_err ne = {};

	if (req->command->child(req->nx, req->word[0], &ne) != 0)
		return nexus_request_failed(&ne, err);
	return say_child(req, err);
}

static int run_child_add(struct request *req, struct err *err)
{
	bool is_rebuilt = req->count == 1;
	struct nexus_err ne = {};

	if (!is_rebuilt && strcmp(req->word[1], "norebuild") != 0)
		return request_usage(req, err);
	if (nexus_child_add(req->nx, req->word[0], is_rebuilt, &ne) != 0)
		return nexus_request_failed(&ne, err);
	return say_child(req, err);
}

static int child_offline(struct nexus *nx, const char *uri, struct nexus_err *ne)
{
	return nexus_child_fault(nx, uri, NEXUS_REASON_OFFLINE, ne);
}

static int child_fault(struct nexus *nx, const char *uri, struct nexus_err *ne)
{
	return nexus_child_fault(nx, uri, NEXUS_REASON_OFFLINE_PERMANENT, ne);
}

/* Files and disks do not say that they grew: look. @nx is looked up by its caller again. */
static int rescan_children(struct nexus *nx, struct err *err)
{
	struct nexus_child_info child;
	struct device *dev;
	int rc = 0;

	device_pin(nexus_device(nx));
	for (unsigned i = 0; rc == 0 && nexus_child_info(nx, i, &child); i++) {
		dev = device_lookup(child.device_name);
		rc = dev != NULL ? export_rescan_device(dev, err) : 0;
	}
	device_unpin(nexus_device(nx));
	return rc;
}

static int run_resize(struct request *req, struct err *err)
{
	struct nexus_err ne = {};
	char text[UNITS_TEXT_MAX];
	uint64_t size = 0;
	int rc = size_parse(req->word[0], &size, err);

	if (rc == 0)
		rc = rescan_children(req->nx, err);
	if (rc == 0)
		rc = nexus_request_find(req, err);
	if (rc != 0)
		return rc;
	if (nexus_resize(req->nx, size, &ne) != 0)
		return nexus_request_failed(&ne, err);
	return request_say(req, err, "the size is %s", size_format(size, text));
}

/* ---- the end ------------------------------------------------------------------------------- */

/* A nexus is shut down in a task of its own: who wants that may give up, it does not. */
struct release {
	char name[DEVICE_NAME_MAX];
	struct release_wait *wait; /* NULL: nobody waits any more */
};

struct release_wait {
	struct release *release;
	struct task_event over;
	struct timer timer;
};

static void release_nexus(struct nexus *nx)
{
	struct nexus_err ne = {};
	struct nexus_info info;

	nexus_info(nx, &info);
	if (info.is_frozen && nexus_shutdown(nx, &ne) != 0)
		log_warn("nexus %s: %s, continuing", info.name, err_text(&ne.err));
}

static void release_one_task(void *arg)
{
	CLEANUP(freep) struct release *release = arg;
	struct nexus *nx = nexus_lookup(release->name);

	if (nx != NULL)
		release_nexus(nx);
	if (release->wait != NULL)
		task_event_fire(&release->wait->over);
}

static void release_late(struct timer *timer)
{
	struct release_wait *wait = container_of(timer, struct release_wait, timer);

	if (wait->over.is_fired)
		return;
	wait->release->wait = NULL;
	task_event_fire(&wait->over);
}

void export_nexus_release(struct device *dev)
{
	struct release_wait wait = { .timer.fn = release_late };
	struct nexus *nx = nexus_of_device(dev);
	CLEANUP(freep) struct release *release = NULL;
	struct nexus_info info;

	if (nx == NULL)
		return;
	nexus_info(nx, &info);
	if (!info.is_frozen || info.state != NEXUS_OPEN)
		return;
	release = calloc(1, sizeof(*release));
	if (release == NULL)
		return; /* what it holds is waited for in vain, and that is told */
	(void)snprintf(release->name, sizeof(release->name), "%s", info.name);
	release->wait = &wait;
	wait.release = release;
	if (task_spawn("nexus-release", release_one_task, release) != 0)
		return;
	release = NULL; /* the task's */
	timer_arm(reactor_primary(), &wait.timer, CONTROL_STOP_S * NS_PER_S);
	task_event_wait(&wait.over);
	timer_disarm(reactor_primary(), &wait.timer);
}

static struct nexus *next_frozen(void)
{
	struct nexus *nx = NULL;

	while ((nx = nexus_next(nx)) != NULL) {
		struct nexus_info info;

		nexus_info(nx, &info);
		if (info.is_frozen && info.state == NEXUS_OPEN)
			return nx;
	}
	return NULL;
}

static void release_task(void *arg)
{
	bool *is_releasing = arg;
	struct nexus *nx;

	while ((nx = next_frozen()) != NULL) /* it is not open any more, whatever it says */
		release_nexus(nx);
	*is_releasing = false;
}

bool export_nexus_releasing(void)
{
	static bool is_releasing;

	if (!is_releasing && next_frozen() != NULL)
		is_releasing = task_spawn("nexus-release", release_task, &is_releasing) == 0;
	return is_releasing || next_frozen() != NULL;
}

void export_nexus_waits_for(const char *name, char *text, size_t size)
{
	struct nexus *nx = nexus_lookup(name);
	struct nexus_child_info child;

	(void)snprintf(text, size, "something that was asked of it");
	for (unsigned i = 0; nx != NULL && nexus_child_info(nx, i, &child); i++) {
		if (!child.is_leaving)
			continue;
		(void)snprintf(text, size, "answers of its child %s", child.uri);
		return;
	}
}

bool export_nexus_is_ending(struct device *dev)
{
	struct nexus *nx = nexus_of_device(dev);
	struct nexus_info info;

	if (nx == NULL)
		return false;
	nexus_info(nx, &info);
	return info.state == NEXUS_SHUTTING_DOWN;
}

const struct command nexus_commands[] = {
	{ "nexus", "[@NAME]", "mirrors and their children, as JSON", "nexus @vol", MEANS_ALL, 0, 0,
	  .run = run_nexus },
	{ "latency", "[@NAME]", "of each child's reads and writes, as JSON", "latency -o table",
	  MEANS_ALL, 0, 0, .run = run_latency },
	{ "nexus-resize", "SIZE", "grow a nexus; its replicas were grown before",
	  "nexus-resize 2GiB", MEANS_ONE, 1, 1, .run = run_resize },
	{ "child-add", "URI [norebuild]", "one more replica, brought in sync",
	  "child-add --wait aio:///var/tmp/c.img", MEANS_ONE, 1, 2, .run = run_child_add },
	{ "child-remove", "URI", "a replica less", "child-remove aio:///var/tmp/c.img", MEANS_CHILD,
	  1, 1, .child = nexus_child_remove },
	{ "child-online", "URI", "a replica is back: bring it in sync",
	  "child-online --wait aio:///var/tmp/b.img", MEANS_CHILD, 1, 1,
	  .child = nexus_child_online },
	{ "child-offline", "URI", "let a replica rest", "child-offline aio:///var/tmp/b.img",
	  MEANS_CHILD, 1, 1, .child = child_offline },
	{ "child-fault", "URI", "give a replica up for good", "child-fault aio:///var/tmp/b.img",
	  MEANS_CHILD, 1, 1, .child = child_fault },
	{ "rebuild", "URI start|stop|pause|resume", "of one replica",
	  "rebuild aio:///var/tmp/b.img pause", MEANS_CHILD, 2, 2, .run = run_rebuild },
	{ "rebuilds", "[@NAME]", "progress and history, as JSON", "rebuilds -o table", MEANS_ONE, 0,
	  0, .run = run_rebuilds },
	{ "rebuild-limits", "[rate=BYTES] [latency=TIME|auto|off]",
	  "per second, and what hosts may wait", "rebuild-limits rate=100MiB latency=5ms",
	  MEANS_NONE, 0, 2, .run = run_rebuild_limits },
	{ "scrub", "[start|stop|status] [repair] [repair-from URI]", "compare all copies",
	  "scrub start repair --wait", MEANS_ONE, 0, 4, .run = run_scrub },
	{ "events", "[AFTER] [wait]", "what happened to mirrors, as JSON", "events --follow",
	  MEANS_NONE, 0, 2, .run = run_events },
	{},
};
