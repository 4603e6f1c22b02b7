/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export_nexus.c - a running export is told about its mirrors: children, rebuilds, scrub, events.
 *
 *	nexus [@NAME]  |  latency [@NAME]  |  nexus-resize SIZE  |  events [AFTER]
 *	child-add URI [norebuild]  |  child-remove URI  |  child-online URI  |  child-offline URI
 *	child-fault URI  |  rebuild URI start|stop|pause|resume  |  rebuilds [@NAME]
 *	rebuild-limits [rate=BYTES] [latency=TIME|auto|off]
 *	scrub [start|stop|status] [repair] [repair-from URI]
 *
 * Each may be preceded by @NAME, the name or uuid of a nexus. It is needed only where several are
 * there and no child says which is meant: most exports have one, and who types wants to type less.
 * A child is named by the URI it was given by, as `nexus` shows it.
 *
 * Nothing that takes long is waited for: a rebuild and a scrub are started, and asked about with
 * `rebuilds` and `scrub`.
 *
 * Events are kept in a ring of EVENTS_MAX, numbered from 1 on. Who wants to follow asks for those
 * after the last number seen; a gap in the numbers says that it asked too late. Rejected: a line
 * that stays open and streams. A reader that does not read would need a queue of its own.
 *
 * Thread: tasks on the primary reactor. A nexus is looked up again after each suspension.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/units.h"
#include "cli/export.h"
#include "cli/json_text.h"
#include "nexus/rebuild.h"
#include "nexus/scrub.h"

enum {
	WORDS_MAX = 6,    /* of a command */
	EVENTS_MAX = 256, /* that are remembered */
};

/* ---- what was typed -------------------------------------------------------------------------- */

struct words {
	char *text; /* owned */
	char *word[WORDS_MAX];
	unsigned count;
	const char *nexus; /* after the @; NULL: not said */
};

static void words_done(struct words *w)
{
	free(w->text);
}

static int words_split(const struct request *req, struct words *w, struct err *err)
{
	char *at;

	*w = (struct words){ .text = strdup(req->arg != NULL ? req->arg : "") };
	if (w->text == NULL)
		return err_set(err, -ENOMEM, "no memory for a command");
	at = w->text;
	for (char *word = strsep(&at, " "); word != NULL; word = strsep(&at, " ")) {
		if (word[0] == '\0')
			continue;
		if (word[0] == '@' && w->nexus == NULL) {
			w->nexus = word + 1;
			continue;
		}
		if (w->count == WORDS_MAX)
			return err_set(err, -EINVAL, "%s: too many words", req->command->name);
		w->word[w->count++] = word;
	}
	return 0;
}

static int usage(const struct request *req, struct err *err)
{
	return err_set(err, -EINVAL, "write: %s %s", req->command->name, req->command->arg);
}

static bool has_child(struct nexus *nx, const char *uri)
{
	struct nexus_child_info child;

	for (unsigned i = 0; nexus_child_info(nx, i, &child); i++) {
		if (strcmp(child.uri, uri) == 0)
			return true;
	}
	return false;
}

/* The one that is meant: by name, by @child if one has it, or the only one. */
static struct nexus *nexus_meant(const struct words *w, const char *child, struct err *err)
{
	struct nexus *nx, *only = nexus_next(NULL);

	if (w->nexus != NULL) {
		nx = nexus_lookup(w->nexus);
		if (nx == NULL)
			(void)err_set(err, -ENOENT,
				      "there is no nexus '%s'; 'nexus' shows those there are",
				      w->nexus);
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

/* What a call on a nexus said, as what the socket says. */
static int told(int rc, const struct nexus_err *ne, struct err *err)
{
	return rc == 0 ? 0 : err_set(err, rc, "%s", err_text(&ne->err));
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static int say_object(struct request *req, json_t *object, struct err *err)
{
	char *text = object != NULL ? json_dumps(object, JSON_COMPACT) : NULL;

	json_decref(object);
	return request_say_json(req, text, err);
}

static json_t *json_number(uint64_t value)
{
	return json_integer((json_int_t)value);
}

/* null where it is not known */
static json_t *json_ms(uint64_t ns)
{
	return ns == UINT64_MAX ? json_null() : json_number(ns / NS_PER_MS);
}

static const char *child_state_name(enum child_state state)
{
	static const char *const names[] = { "Init", "ConfigInvalid", "Open", "Closed", "Faulted" };

	return names[state];
}

/* What the device of child @i was asked to do, and how long it took. NULL: it is closed. */
static json_t *json_latency(struct nexus *nx, unsigned i, enum io_op op)
{
	struct op_stats s;

	if (!nexus_child_stats(nx, i, op, &s))
		return NULL;
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "ops", (json_int_t)s.ops,
			 "bytes", (json_int_t)s.bytes, "errors", (json_int_t)s.errors,
			 "lat_mean_ns", (json_int_t)hist_mean(&s.latency), "lat_p50_ns",
			 (json_int_t)hist_percentile(&s.latency, 0.5), "lat_p99_ns",
			 (json_int_t)hist_percentile(&s.latency, 0.99), "lat_p999_ns",
			 (json_int_t)hist_percentile(&s.latency, 0.999), "lat_max_ns",
			 (json_int_t)s.latency.max_ns);
}

static json_t *json_warnings(uint32_t warnings)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < NEXUS_WARN_COUNT_; i++) {
		if (warnings >> i & 1)
			(void)json_array_append_new(
				list, json_string(nexus_warning_name((enum nexus_warning)i)));
	}
	return list;
}

static json_t *json_smart(const struct nexus_child_info *c)
{
	const struct nvme_health *h = &c->smart;

	if (!c->has_smart)
		return json_null();
	return json_pack("{s:i, s:i, s:i, s:i, s:i, s:I}", "critical", (int)h->critical, "spare",
			 (int)h->spare, "spare_threshold", (int)h->spare_threshold, "used",
			 (int)h->used, "temperature_k", (int)h->temperature_k, "media_errors",
			 (json_int_t)MIN(h->media_errors, (uint64_t)INT64_MAX));
}

static const struct {
	const char *name;
	enum io_op op;
} latency_ops[] = { { "read", IO_READ }, { "write", IO_WRITE } };

static json_t *json_child(struct nexus *nx, unsigned n, const struct nexus_child_info *c)
{
	int progress = nexus_rebuild_progress(nx, c->uri);
	char uuid[UUID_TEXT_SIZE];
	json_t *object = json_pack(
		"{s:o, s:o, s:s, s:s, s:s, s:s, s:o, s:b, s:b, s:o, s:o, s:I, s:I, s:o, s:o}",
		"uri", json_text(c->uri), "device", json_text(c->device_name), "uuid",
		uuid_to_text(&c->uuid, uuid), "state", child_state_name(c->state), "health",
		child_health_name(c->health), "reason", nexus_reason_name(c->reason), "why",
		json_text(c->why[0] != '\0' ? c->why : NULL), "synced", c->is_synced, "local",
		c->is_local, "missed_segments",
		c->has_io_log ? json_number(c->missed_segments) : json_null(), "rebuild_progress",
		progress >= 0 ? json_number((uint64_t)progress) : json_null(), "read_errors",
		(json_int_t)c->read_errors, "write_errors", (json_int_t)c->write_errors, "warnings",
		json_warnings(c->warnings), "smart", json_smart(c));

	for (unsigned i = 0; object != NULL && i < ARRAY_LEN(latency_ops); i++) {
		json_t *latency = json_latency(nx, n, latency_ops[i].op);

		if (latency != NULL)
			(void)json_object_set_new(object, latency_ops[i].name, latency);
	}
	return object;
}

static json_t *json_nexus(struct nexus *nx)
{
	char uuid[UUID_TEXT_SIZE], device_uuid[UUID_TEXT_SIZE];
	struct nexus_child_info child;
	json_t *children = json_array();
	struct nexus_info info;

	nexus_info(nx, &info);
	for (unsigned i = 0; nexus_child_info(nx, i, &child); i++)
		(void)json_array_append_new(children, json_child(nx, i, &child));
	return json_pack(
		"{s:o, s:s, s:s, s:s, s:s, s:b, s:I, s:I, s:I, s:s, s:i, s:I, s:I, s:I, s:I, s:I, "
		"s:I, s:o}",
		"name", json_text(info.name), "uuid", uuid_to_text(&info.uuid, uuid), "device_uuid",
		uuid_to_text(&info.device_uuid, device_uuid), "state", nexus_state_name(info.state),
		"status", nexus_status_name(info.status), "frozen", info.is_frozen, "size",
		(json_int_t)info.device_size, "size_asked", (json_int_t)info.size, "block_size",
		(json_int_t)nexus_device(nx)->block_size, "label",
		info.label == NEXUS_LABEL_V1 ? "v1" : "v2", "rebuilds",
		(int)nexus_rebuild_count(nx), "segment_size", (json_int_t)info.segment_size,
		"segments_in_flight", (json_int_t)info.segments_in_flight, "mark_writes",
		(json_int_t)info.mark_writes, "repairs", (json_int_t)info.repairs, "repairs_failed",
		(json_int_t)info.repairs_failed, "overlaps", (json_int_t)info.overlaps, "children",
		children);
}

static json_t *json_rebuild(const char *child, const char *source, const struct rebuild_stats *s)
{
	uint64_t end_ns = s->end_ns != 0 ? s->end_ns : reactor_self()->now_ns;
	uint64_t run_ns = s->start_ns != 0 && end_ns > s->start_ns ? end_ns - s->start_ns : 0;
	uint64_t bs = s->block_size;

	return json_pack("{s:o, s:o, s:s, s:b, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:i}",
			 "child", json_text(child), "source", json_text(source), "state",
			 rebuild_state_name(s->state), "partial", s->is_partial, "progress",
			 (int)s->progress, "bytes_total", (json_int_t)(s->blocks_total * bs),
			 "bytes_recovered", (json_int_t)(s->blocks_recovered * bs),
			 "bytes_transferred", (json_int_t)(s->blocks_transferred * bs),
			 "bytes_cleared", (json_int_t)(s->blocks_cleared * bs), "bytes_remaining",
			 (json_int_t)(s->blocks_remaining * bs), "bytes_per_s",
			 (json_int_t)s->bytes_per_s, "elapsed_ms", json_ms(run_ns), "remaining_ms",
			 json_ms(s->remaining_ns), "speed", (int)s->speed);
}

/* ---- looking --------------------------------------------------------------------------------- */

static int run_nexus(struct request *req, struct err *err)
{
	CLEANUP(words_done) struct words w;
	int rc = words_split(req, &w, err);
	struct nexus *nx = NULL;
	json_t *list;

	if (rc == 0 && w.count > 0)
		rc = usage(req, err);
	if (rc == 0 && w.nexus != NULL && (nx = nexus_meant(&w, NULL, err)) == NULL)
		rc = -ENOENT;
	if (rc != 0)
		return rc;
	list = json_array();
	if (nx != NULL)
		(void)json_array_append_new(list, json_nexus(nx));
	else
		while ((nx = nexus_next(nx)) != NULL)
			(void)json_array_append_new(list, json_nexus(nx));
	return say_object(req, list, err);
}

/* A row for the reads and one for the writes of each child: flat, for `ctl --table`. */
static void latency_of(struct nexus *nx, json_t *rows)
{
	struct nexus_child_info child;
	struct nexus_info info;

	nexus_info(nx, &info);
	for (unsigned i = 0; nexus_child_info(nx, i, &child); i++) {
		for (unsigned j = 0; j < ARRAY_LEN(latency_ops); j++) {
			json_t *latency = json_latency(nx, i, latency_ops[j].op);
			json_t *row = json_pack("{s:o, s:s}", "nexus", json_text(info.name), "op",
						latency_ops[j].name);

			if (latency != NULL && row != NULL &&
			    json_object_update(row, latency) == 0 &&
			    json_object_set_new(row, "child", json_text(child.uri)) == 0)
				(void)json_array_append(rows, row);
			json_decref(row);
			json_decref(latency);
		}
	}
}

static int run_latency(struct request *req, struct err *err)
{
	CLEANUP(words_done) struct words w;
	int rc = words_split(req, &w, err);
	struct nexus *nx = NULL;
	json_t *rows;

	if (rc == 0 && w.count > 0)
		rc = usage(req, err);
	if (rc == 0 && w.nexus != NULL && (nx = nexus_meant(&w, NULL, err)) == NULL)
		rc = -ENOENT;
	if (rc != 0)
		return rc;
	rows = json_array();
	if (nx != NULL)
		latency_of(nx, rows);
	else
		while ((nx = nexus_next(nx)) != NULL)
			latency_of(nx, rows);
	return say_object(req, rows, err);
}

/* Jobs there are, then what became of earlier ones, newest first. */
static void rebuilds_of(struct nexus *nx, json_t *jobs, json_t *history)
{
	const struct rebuild_record *record;
	struct nexus_child_info child;

	for (unsigned i = 0; nexus_child_info(nx, i, &child); i++) {
		struct rebuild_stats stats = {};

		if (nexus_rebuild_stats(nx, child.uri, &stats, NULL) == 0)
			(void)json_array_append_new(jobs, json_rebuild(child.uri, NULL, &stats));
	}
	for (unsigned i = 0; (record = nexus_rebuild_history(nx, i)) != NULL; i++) {
		json_t *object = json_rebuild(record->child, record->source, &record->stats);

		if (object != NULL && record->why.code != 0)
			(void)json_object_set_new(object, "error",
						  json_text(err_text(&record->why)));
		(void)json_array_append_new(history, object);
	}
}

static int run_rebuilds(struct request *req, struct err *err)
{
	CLEANUP(words_done) struct words w;
	int rc = words_split(req, &w, err);
	json_t *jobs, *history;
	struct nexus *nx;

	if (rc == 0 && w.count > 0)
		rc = usage(req, err);
	if (rc != 0)
		return rc;
	nx = nexus_meant(&w, NULL, err);
	if (nx == NULL)
		return -ENOENT;
	jobs = json_array();
	history = json_array();
	rebuilds_of(nx, jobs, history);
	return say_object(req, json_pack("{s:o, s:o}", "jobs", jobs, "history", history), err);
}

/* ---- children -------------------------------------------------------------------------------- */

/* What has become of the child that was meant, or has begun; all may have changed meanwhile. */
static int say_child(struct request *req, const struct words *w, struct err *err)
{
	struct err unread = {};
	struct nexus *nx = nexus_meant(w, w->word[0], &unread);
	struct nexus_child_info child;

	for (unsigned i = 0; nx != NULL && nexus_child_info(nx, i, &child); i++) {
		if (strcmp(child.uri, w->word[0]) != 0)
			continue;
		if (nexus_rebuild_progress(nx, child.uri) >= 0)
			return request_say(req, err,
					   "a rebuild of %s has begun; 'rebuilds' tells of it",
					   child.uri);
		return request_say(req, err, "%s is %s%s", child.uri,
				   child.reason == NEXUS_REASON_OFFLINE ? "offline, "
				   : child.is_synced                    ? "in sync, "
									: "",
				   child_state_name(child.state));
	}
	return request_say(req, err, "%s is gone", w->word[0]);
}

static int run_child_add(struct request *req, struct err *err)
{
	CLEANUP(words_done) struct words w;
	struct nexus_err ne = {};
	int rc = words_split(req, &w, err);
	struct nexus *nx;

	if (rc == 0 &&
	    (w.count < 1 || w.count > 2 || (w.count == 2 && strcmp(w.word[1], "norebuild") != 0)))
		rc = usage(req, err);
	if (rc != 0)
		return rc;
	nx = nexus_meant(&w, NULL, err);
	if (nx == NULL)
		return -ENOENT;
	rc = told(nexus_child_add(nx, w.word[0], w.count == 1, &ne), &ne, err);
	return rc != 0 ? rc : say_child(req, &w, err);
}

/* What takes a child's URI and nothing else. */
static int on_child(struct request *req, struct err *err,
		    int (*fn)(struct nexus *nx, const char *uri, struct nexus_err *ne))
{
	CLEANUP(words_done) struct words w;
	struct nexus_err ne = {};
	int rc = words_split(req, &w, err);
	struct nexus *nx;

	if (rc == 0 && w.count != 1)
		rc = usage(req, err);
	if (rc != 0)
		return rc;
	nx = nexus_meant(&w, w.word[0], err);
	rc = nx == NULL ? -ENOENT : told(fn(nx, w.word[0], &ne), &ne, err);
	return rc != 0 ? rc : say_child(req, &w, err);
}

static int run_child_remove(struct request *req, struct err *err)
{
	return on_child(req, err, nexus_child_remove);
}

static int run_child_online(struct request *req, struct err *err)
{
	return on_child(req, err, nexus_child_online);
}

static int child_offline(struct nexus *nx, const char *uri, struct nexus_err *ne)
{
	return nexus_child_fault(nx, uri, NEXUS_REASON_OFFLINE, ne);
}

static int run_child_offline(struct request *req, struct err *err)
{
	return on_child(req, err, child_offline);
}

static int child_fault(struct nexus *nx, const char *uri, struct nexus_err *ne)
{
	return nexus_child_fault(nx, uri, NEXUS_REASON_OFFLINE_PERMANENT, ne);
}

static int run_child_fault(struct request *req, struct err *err)
{
	return on_child(req, err, child_fault);
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
	CLEANUP(words_done) struct words w;
	struct nexus_err ne = {};
	int rc = words_split(req, &w, err);
	char text[UNITS_TEXT_MAX];
	uint64_t size = 0;
	struct nexus *nx;

	if (rc == 0 && w.count != 1)
		rc = usage(req, err);
	if (rc == 0)
		rc = size_parse(w.word[0], &size, err);
	if (rc != 0)
		return rc;
	nx = nexus_meant(&w, NULL, err);
	rc = nx != NULL ? rescan_children(nx, err) : -ENOENT;
	if (rc == 0)
		nx = nexus_meant(&w, NULL, err);
	if (rc != 0 || nx == NULL)
		return rc != 0 ? rc : -ENOENT;
	rc = told(nexus_resize(nx, size, &ne), &ne, err);
	return rc != 0 ? rc : request_say(req, err, "the size is %s", size_format(size, text));
}

/* ---- rebuild and scrub ----------------------------------------------------------------------- */

static int run_rebuild(struct request *req, struct err *err)
{
	static const struct {
		const char *name;
		int (*fn)(struct nexus *nx, const char *child, struct nexus_err *ne);
	} verbs[] = { { "start", nexus_rebuild_start },
		      { "stop", nexus_rebuild_stop },
		      { "pause", nexus_rebuild_pause },
		      { "resume", nexus_rebuild_resume } };
	CLEANUP(words_done) struct words w;
	struct nexus_err ne = {};
	int rc = words_split(req, &w, err);
	struct nexus *nx;

	if (rc == 0 && w.count != 2)
		rc = usage(req, err);
	if (rc != 0)
		return rc;
	nx = nexus_meant(&w, w.word[0], err);
	if (nx == NULL)
		return -ENOENT;
	for (unsigned i = 0; i < ARRAY_LEN(verbs); i++) {
		if (strcmp(verbs[i].name, w.word[1]) != 0)
			continue;
		rc = told(verbs[i].fn(nx, w.word[0], &ne), &ne, err);
		return rc != 0 ? rc
			       : request_say(req, err, "rebuild of %s: %s", w.word[0], w.word[1]);
	}
	return usage(req, err);
}

/* Of all nexuses here, jobs that run included. */
static struct rebuild_settings limits;

static int limit_take(const struct request *req, const char *word, struct err *err)
{
	struct rebuild_settings new = limits;
	int rc;

	if (strncmp(word, "rate=", 5) == 0) {
		rc = size_parse(word + 5, &new.rate, err);
	} else if (strcmp(word, "latency=off") == 0 || strcmp(word, "latency=auto") == 0) {
		new.latency_ns = strcmp(word, "latency=off") == 0 ? UINT64_MAX : 0;
		rc = 0;
	} else if (strncmp(word, "latency=", 8) == 0) {
		rc = duration_parse(word + 8, &new.latency_ns, err);
	} else {
		rc = usage(req, err);
	}
	if (rc == 0)
		limits = new;
	return rc;
}

static int run_rebuild_limits(struct request *req, struct err *err)
{
	CLEANUP(words_done) struct words w;
	int rc = words_split(req, &w, err);
	char latency[UNITS_TEXT_MAX];

	for (unsigned i = 0; rc == 0 && i < w.count; i++)
		rc = limit_take(req, w.word[i], err);
	if (rc != 0)
		return rc;
	if (w.count > 0)
		rebuild_settings_set(&limits);
	if (limits.latency_ns != 0 && limits.latency_ns != UINT64_MAX)
		(void)duration_format(limits.latency_ns, latency);
	return say_object(req,
			  json_pack("{s:I, s:s}", "rate", (json_int_t)limits.rate, "latency",
				    limits.latency_ns == 0            ? "auto"
				    : limits.latency_ns == UINT64_MAX ? "off"
								      : latency),
			  err);
}

static json_t *json_scrub(const struct scrub_stats *s, uint64_t bs)
{
	static const char *const states[] = { "none", "running", "completed", "stopped", "failed" };

	return json_pack(
		"{s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:o, s:I, s:o, s:o, s:I}", "state",
		states[s->state], "progress", (int)s->progress, "bytes_total",
		(json_int_t)(s->blocks_total * bs), "bytes_done", (json_int_t)(s->blocks_done * bs),
		"bytes_holes", (json_int_t)(s->blocks_holes * bs), "blocks_differ",
		(json_int_t)s->blocks_differ, "blocks_repaired", (json_int_t)s->blocks_repaired,
		"first_differ", s->blocks_differ != 0 ? json_number(s->first_differ) : json_null(),
		"read_errors", (json_int_t)s->read_errors, "elapsed_ms", json_ms(s->run_ns),
		"remaining_ms", json_ms(s->remaining_ns), "bytes_per_s",
		(json_int_t)s->bytes_per_s);
}

static int scrub_opts_parse(struct request *req, const struct words *w, struct scrub_opts *opts,
			    struct err *err)
{
	for (unsigned i = 1; i < w->count; i++) {
		if (strcmp(w->word[i], "repair-from") == 0 && i + 1 < w->count)
			opts->trusted = w->word[++i];
		else if (strcmp(w->word[i], "repair") != 0)
			return usage(req, err);
		opts->is_repairing = true;
	}
	return 0;
}

static int run_scrub(struct request *req, struct err *err)
{
	CLEANUP(words_done) struct words w;
	struct scrub_opts opts = {};
	struct scrub_stats stats;
	struct nexus_err ne = {};
	int rc = words_split(req, &w, err);
	const char *verb = rc == 0 && w.count > 0 ? w.word[0] : "status";
	struct nexus *nx = NULL;

	if (rc == 0)
		nx = nexus_meant(&w, NULL, err);
	if (nx == NULL)
		return rc != 0 ? rc : -ENOENT;
	if (strcmp(verb, "start") == 0) {
		rc = scrub_opts_parse(req, &w, &opts, err);
		rc = rc != 0 ? rc : told(nexus_scrub_start(nx, &opts, &ne), &ne, err);
		return rc != 0 ? rc
			       : request_say(req, err,
					     "a scrub has begun; 'scrub status' tells of it");
	}
	if (w.count > 1)
		return usage(req, err);
	if (strcmp(verb, "stop") == 0) {
		nexus_scrub_stop(nx);
		return request_say(req, err, "no scrub runs");
	}
	if (strcmp(verb, "status") != 0)
		return usage(req, err);
	nexus_scrub_stats(nx, &stats);
	return say_object(req, json_scrub(&stats, nexus_device(nx)->block_size), err);
}

/* ---- events ---------------------------------------------------------------------------------- */

struct event_note {
	uint64_t number, time_ms; /* since 1970 */
	enum nexus_event_type type;
	char *nexus, *child; /* owned; child NULL: about the nexus */
	char *detail;        /* owned; NULL: none */
	const char *state, *status, *health, *reason, *warning;
	uint64_t lba, nlb;
	bool is_ok;
};

struct export_events {
	struct nexus_listener listener;
	uint64_t last; /* number of the newest */
	struct event_note note[EVENTS_MAX];
};

static void note_clear(struct event_note *note)
{
	free(note->nexus);
	free(note->child);
	free(note->detail);
	*note = (struct event_note){};
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
	};
}

int export_events_start(struct export *e, struct err *err)
{
	e->events = calloc(1, sizeof(*e->events));
	if (e->events == NULL)
		return err_set(err, -ENOMEM, "no memory for events");
	e->events->listener.fn = event_heard;
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
	if (n->detail != NULL)
		(void)json_object_set_new(object, "detail", json_string(n->detail));
	if (n->nlb != 0) {
		(void)json_object_set_new(object, "lba", json_number(n->lba));
		(void)json_object_set_new(object, "blocks", json_number(n->nlb));
	}
	return object;
}

static int run_events(struct request *req, struct err *err)
{
	const struct export_events *events = req->e->events;
	uint64_t after = 0, first = events->last > EVENTS_MAX ? events->last - EVENTS_MAX : 0;
	int rc = req->arg != NULL ? number_parse(req->arg, &after, err) : 0;
	json_t *list;

	if (rc != 0)
		return rc;
	list = json_array();
	for (uint64_t n = MAX(first, after); n < events->last; n++)
		(void)json_array_append_new(list, json_event(&events->note[(n + 1) % EVENTS_MAX]));
	return say_object(req, list, err);
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
	{ "nexus", "[@NAME]", "mirrors and their children, as JSON", run_nexus },
	{ "latency", "[@NAME]", "of each child's reads and writes, as JSON", run_latency },
	{ "nexus-resize", "SIZE", "grow a nexus; its replicas were grown before", run_resize },
	{ "child-add", "URI [norebuild]", "one more replica, brought in sync", run_child_add },
	{ "child-remove", "URI", "a replica less", run_child_remove },
	{ "child-online", "URI", "a replica is back: bring it in sync", run_child_online },
	{ "child-offline", "URI", "let a replica rest", run_child_offline },
	{ "child-fault", "URI", "give a replica up for good", run_child_fault },
	{ "rebuild", "URI start|stop|pause|resume", "of one replica", run_rebuild },
	{ "rebuilds", "[@NAME]", "progress and history, as JSON", run_rebuilds },
	{ "rebuild-limits", "[rate=BYTES] [latency=TIME|auto|off]",
	  "per second, and what hosts may wait", run_rebuild_limits },
	{ "scrub", "[start|stop|status] [repair] [repair-from URI]", "compare all copies",
	  run_scrub },
	{ "events", "[AFTER]", "what happened to nexuses, as JSON", run_events },
	{},
};
