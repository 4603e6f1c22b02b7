/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export_jobs.c - what runs for long on a mirror: rebuilds, their limits, and scrub.
 *
 * Nothing that takes long is waited for: a rebuild and a scrub are started, and asked about with
 * `rebuilds` and `scrub`. A socket that waited for hours would be a client place that is taken, and
 * a command that a stop has to wait for. The limits are those of all nexuses, jobs that run
 * included.
 *
 * Thread: tasks on the primary reactor.
 */
#include <errno.h>
#include <string.h>

#include "base/units.h"
#include "cli/export_nexus.h"
#include "cli/json_text.h"
#include "nexus/rebuild.h"
#include "nexus/scrub.h"

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

/* Adds to each child of @object, which is json_nexus(), its job, null without one. */
static void add_rebuilds(struct nexus *nx, json_t *object)
{
	json_t *children = json_object_get(object, "children");
	struct nexus_child_info child;

	for (unsigned i = 0; nexus_child_info(nx, i, &child); i++) {
		struct rebuild_stats stats = {};
		bool has_job = nexus_rebuild_stats(nx, child.uri, &stats, NULL) == 0;

		(void)json_object_set_new(json_array_get(children, i), "rebuild",
					  has_job ? json_rebuild(child.uri, NULL, &stats)
						  : json_null());
	}
}

int run_rebuilds(struct request *req, struct err *err)
{
	json_t *jobs = json_array(), *history = json_array();

	rebuilds_of(req->nx, jobs, history);
	return request_say_json(req, json_pack("{s:o, s:o}", "jobs", jobs, "history", history),
				err);
}

int run_rebuild(struct request *req, struct err *err)
{
	static const struct {
		const char *name;
		int (*fn)(struct nexus *nx, const char *child, struct nexus_err *ne);
	} verbs[] = { { "start", nexus_rebuild_start },
		      { "stop", nexus_rebuild_stop },
		      { "pause", nexus_rebuild_pause },
		      { "resume", nexus_rebuild_resume } };
	const char *uri = req->word[0], *verb = req->word[1];
	struct nexus_err ne = {};

	for (unsigned i = 0; i < ARRAY_LEN(verbs); i++) {
		if (strcmp(verbs[i].name, verb) != 0)
			continue;
		if (verbs[i].fn(req->nx, uri, &ne) != 0)
			return nexus_request_failed(&ne, err);
		return request_say(req, err, "rebuild of %s: %s", uri, verb);
	}
	return request_usage(req, err);
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
		rc = request_usage(req, err);
	}
	if (rc == 0)
		limits = new;
	return rc;
}

int run_rebuild_limits(struct request *req, struct err *err)
{
	char latency[UNITS_TEXT_MAX];
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < req->count; i++)
		rc = limit_take(req, req->word[i], err);
	if (rc != 0)
		return rc;
	if (req->count > 0)
		rebuild_settings_set(&limits);
	if (limits.latency_ns != 0 && limits.latency_ns != UINT64_MAX)
		(void)duration_format(limits.latency_ns, latency);
	return request_say_json(req,
				json_pack("{s:I, s:s}", "rate", (json_int_t)limits.rate, "latency",
					  limits.latency_ns == 0            ? "auto"
					  : limits.latency_ns == UINT64_MAX ? "off"
									    : latency),
				err);
}

const char *scrub_state_text(enum scrub_state state)
{
	static const char *const states[] = { "none", "running", "completed", "stopped", "failed" };

	return states[state];
}

static json_t *json_scrub(const struct scrub_stats *s, uint64_t bs)
{
	return json_pack(
		"{s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:o, s:I, s:o, s:o, s:I}", "state",
		scrub_state_text(s->state), "progress", (int)s->progress, "bytes_total",
		(json_int_t)(s->blocks_total * bs), "bytes_done", (json_int_t)(s->blocks_done * bs),
		"bytes_holes", (json_int_t)(s->blocks_holes * bs), "blocks_differ",
		(json_int_t)s->blocks_differ, "blocks_repaired", (json_int_t)s->blocks_repaired,
		"first_differ", s->blocks_differ != 0 ? json_number(s->first_differ) : json_null(),
		"read_errors", (json_int_t)s->read_errors, "elapsed_ms", json_ms(s->run_ns),
		"remaining_ms", json_ms(s->remaining_ns), "bytes_per_s",
		(json_int_t)s->bytes_per_s);
}

static int run_scrub_start(struct request *req, struct err *err)
{
	struct scrub_opts opts = {};
	struct nexus_err ne = {};

	for (unsigned i = 1; i < req->count; i++) {
		if (strcmp(req->word[i], "repair-from") == 0 && i + 1 < req->count)
			opts.trusted = req->word[++i];
		else if (strcmp(req->word[i], "repair") != 0)
			return request_usage(req, err);
		opts.is_repairing = true;
	}
	if (nexus_scrub_start(req->nx, &opts, &ne) != 0)
		return nexus_request_failed(&ne, err);
	return request_say(req, err, "a scrub has begun; 'scrub status' tells of it");
}

int run_scrub(struct request *req, struct err *err)
{
	const char *verb = req->count > 0 ? req->word[0] : "status";
	struct scrub_stats stats;

	if (strcmp(verb, "start") == 0)
		return run_scrub_start(req, err);
	if (req->count > 1)
		return request_usage(req, err);
	if (strcmp(verb, "stop") == 0) {
		nexus_scrub_stop(req->nx);
		return request_say(req, err, "no scrub runs");
	}
	if (strcmp(verb, "status") != 0)
		return request_usage(req, err);
	nexus_scrub_stats(req->nx, &stats);
	return request_say_json(req, json_scrub(&stats, nexus_device(req->nx)->block_size), err);
}

json_t *json_mirrors(void)
{
	json_t *list = json_array();
	struct nexus *nx = NULL;

	while ((nx = nexus_next(nx)) != NULL) {
		json_t *object = json_nexus(nx);
		struct scrub_stats stats;

		add_rebuilds(nx, object);
		nexus_scrub_stats(nx, &stats);
		(void)json_object_set_new(object, "scrub",
					  json_scrub(&stats, nexus_device(nx)->block_size));
		(void)json_array_append_new(list, object);
	}
	return list;
}
