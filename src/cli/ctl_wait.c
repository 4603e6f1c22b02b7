/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ctl_wait.c - what goes on for a while: events as they happen, and a job to its end.
 *
 * Events: `events N wait` is asked again and again, each answered when there is one after N. The
 * export keeps the last 256 for everybody; who reads more slowly than they come finds a gap in
 * their numbers, and says how many it lost.
 *
 * A job: the verb was answered, so what it began is there. `status` is asked ten times a second: on
 * a terminal it is a bar, elsewhere a line for each tenth of the way. A child has no job any more
 * when its rebuild has ended: then it is in sync or it is not, and the history says why. Ctrl-C
 * ends the waiting, not the job.
 *
 * Rejected: a command that the export answers when the job has ended. It would say nothing
 * meanwhile, and the end of an export would have to wait for it, or break it.
 *
 * Thread: the main thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#include "base/units.h"
#include "cli/ctl.h"
#include "cli/json_text.h"
#include "cli/term.h"

enum {
	LOOK_MS = 100,   /* between two looks at a job */
	LINE_EVERY = 10, /* percent between two lines, where there is no bar */
};

/* ---- events ---------------------------------------------------------------------------------- */

static void print_time(uint64_t ms)
{
	time_t seconds = (time_t)(ms / 1000);
	struct tm tm = {};
	char text[32] = "";

	(void)gmtime_r(&seconds, &tm);
	(void)strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	printf("%s.%03uZ", text, (unsigned)(ms % 1000));
}

/* What is said of an event of this kind after its name. */
static void print_what(json_t *event)
{
	const char *type = ctl_text(event, "type"), *detail = ctl_text(event, "detail");
	const char *job = ctl_text(event, "job"), *reason = ctl_text(event, "reason");
	bool is_ok = json_is_true(json_object_get(event, "ok"));

	if (strcmp(type, "health") == 0)
		printf(" %s %s", ctl_text(event, "warning"), is_ok ? "ends" : "begins");
	else if (strcmp(type, "store") == 0)
		printf(" the record %s", is_ok ? "is written again" : "cannot be written");
	else if (strcmp(type, "mismatch") == 0 || strcmp(type, "repaired") == 0)
		printf(" %" PRIu64 " blocks at %" PRIu64 "%s", ctl_number(event, "blocks"),
		       ctl_number(event, "lba"), is_ok ? ", repaired" : "");
	else if (job[0] != '\0')
		printf(" %s", job);
	else if (json_object_get(event, "child") == NULL)
		printf(" %s, %s", ctl_text(event, "state"), ctl_text(event, "status"));
	else
		printf(" %s%s%s", ctl_text(event, "health"),
		       strcmp(reason, "None") != 0 ? ", " : "",
		       strcmp(reason, "None") != 0 ? reason : "");
	printf("%s%s\n", detail[0] != '\0' ? ": " : "", detail);
}

static void print_event(json_t *event)
{
	const char *child = ctl_text(event, "child");

	print_time(ctl_number(event, "time_ms"));
	printf(" %s %s%s%s", ctl_text(event, "nexus"), ctl_text(event, "type"),
	       child[0] != '\0' ? " " : "", child);
	print_what(event);
}

static void print_lost(const struct ctl *ctl, uint64_t count)
{
	printf(ctl->output == CTL_JSON ? "{\"lost\":%" PRIu64 "}\n"
				       : "(%" PRIu64
					 " events were lost: they came faster than they "
					 "were read)\n",
	       count);
}

int ctl_follow(struct ctl *ctl, struct err *err)
{
	const char *from = ctl->words.count > 1 ? ctl->words.items[1] : NULL;
	bool is_new = from == NULL; /* what was forgotten before is not lost to us */
	uint64_t last = 0;
	int rc = 0;

	if (ctl->words.count > 2 || (from != NULL && number_parse(from, &last, NULL) != 0))
		return err_set(err, -EINVAL, "write: events [AFTER] --follow");
	while (rc == 0 && ferror(stdout) == 0) {
		json_t *events = NULL, *event;
		size_t i;

		rc = ctl_ask_json(ctl, &events, err, "events %" PRIu64 " wait", last);
		json_array_foreach(events, i, event)
		{
			uint64_t number = ctl_number(event, "number");

			if (number > last + 1 && !is_new)
				print_lost(ctl, number - last - 1);
			is_new = false;
			last = number;
			if (ctl->output == CTL_JSON)
				(void)json_print(json_incref(event), false);
			else
				print_event(event);
		}
		json_decref(events);
		(void)fflush(stdout);
	}
	return rc;
}

/* ---- jobs ------------------------------------------------------------------------------------ */

struct job {
	const char *uri;   /* of the child; NULL: it is a scrub */
	const char *nexus; /* name or uuid; NULL: not said */
};

static int job_parse(const struct opt_args *words, struct job *job, struct err *err)
{
	const char *word[3] = { "", "", "" };
	unsigned count = 0;

	*job = (struct job){};
	for (unsigned i = 0; i < words->count; i++) {
		if (words->items[i][0] == '@')
			job->nexus = words->items[i] + 1;
		else if (count < ARRAY_LEN(word))
			word[count++] = words->items[i];
	}
	job->uri = strcmp(word[0], "scrub") != 0 ? word[1] : NULL;
	if (strcmp(word[0], "child-online") == 0 ||
	    (strcmp(word[0], "child-add") == 0 && strcmp(word[2], "norebuild") != 0) ||
	    (strcmp(word[0], "scrub") == 0 && strcmp(word[1], "start") == 0) ||
	    (strcmp(word[0], "rebuild") == 0 &&
	     (strcmp(word[2], "start") == 0 || strcmp(word[2], "resume") == 0)))
		return 0;
	return err_set(err, -EINVAL,
		       "--wait: nothing begins with that; it is for child-online, child-add, "
		       "rebuild URI start or resume, and scrub start");
}

int ctl_wait_check(const struct opt_args *words, struct err *err)
{
	struct job job;

	return job_parse(words, &job, err);
}

static json_t *child_of(json_t *mirror, const char *uri)
{
	json_t *child;
	size_t i;

	json_array_foreach(json_object_get(mirror, "children"), i, child)
	{
		if (strcmp(ctl_text(child, "uri"), uri) == 0)
			return child;
	}
	return NULL;
}

/* Where the job is; borrowed from @status. */
static json_t *mirror_of(json_t *status, const struct job *job)
{
	json_t *mirror;
	size_t i;

	json_array_foreach(json_object_get(status, "mirrors"), i, mirror)
	{
		if (job->nexus != NULL && strcmp(ctl_text(mirror, "name"), job->nexus) != 0 &&
		    strcmp(ctl_text(mirror, "uuid"), job->nexus) != 0)
			continue;
		if (job->uri == NULL || child_of(mirror, job->uri) != NULL)
			return mirror;
	}
	return NULL;
}

/* The newest record of a rebuild of @uri; its reference is the caller's. NULL: there is none. */
static json_t *history_of(struct ctl *ctl, json_t *mirror, const char *uri)
{
	json_t *rebuilds = NULL, *record, *found = NULL;
	size_t i;

	if (ctl_ask_json(ctl, &rebuilds, NULL, "rebuilds @%s", ctl_text(mirror, "name")) != 0)
		return NULL;
	json_array_foreach(json_object_get(rebuilds, "history"), i, record)
	{
		if (found == NULL && strcmp(ctl_text(record, "child"), uri) == 0)
			found = json_incref(record);
	}
	json_decref(rebuilds);
	return found;
}

static void print_record(const struct ctl *ctl, json_t *record)
{
	if (ctl->output == CTL_JSON)
		(void)json_print(json_incref(record), false);
}

static int rebuild_ended(struct ctl *ctl, json_t *mirror, json_t *child, struct err *err)
{
	const char *uri = ctl_text(child, "uri"), *why;
	json_t *record = history_of(ctl, mirror, uri);
	char size[UNITS_TEXT_MAX], time[UNITS_TEXT_MAX];
	int rc = 0;

	print_record(ctl, record != NULL ? record : child);
	why = ctl_text(record, "error")[0] != '\0' ? ctl_text(record, "error")
						   : ctl_text(child, "why");
	if (!json_is_true(json_object_get(child, "synced")) &&
	    strcmp(ctl_text(record, "state"), "completed") == 0)
		rc = err_set(err, -EIO, "%s was lost or taken out after its rebuild", uri);
	else if (!json_is_true(json_object_get(child, "synced")))
		rc = err_set(err, -EIO, "%s is not in sync: its rebuild is %s%s%s", uri,
			     record != NULL ? ctl_text(record, "state") : "not there",
			     why[0] != '\0' ? ": " : "", why);
	else if (ctl->output != CTL_JSON && record != NULL)
		printf("%s is in sync: %s copied in %s\n", uri,
		       size_format(ctl_number(record, "bytes_transferred"), size),
		       duration_format(ctl_number(record, "elapsed_ms") * NS_PER_MS, time));
	else if (ctl->output != CTL_JSON)
		printf("%s is in sync\n", uri);
	json_decref(record);
	return rc;
}

static int scrub_ended(struct ctl *ctl, json_t *scrub, struct err *err)
{
	uint64_t differ = ctl_number(scrub, "blocks_differ");
	uint64_t repaired = ctl_number(scrub, "blocks_repaired");
	uint64_t unread = ctl_number(scrub, "read_errors");
	char size[UNITS_TEXT_MAX], time[UNITS_TEXT_MAX];

	print_record(ctl, scrub);
	if (strcmp(ctl_text(scrub, "state"), "completed") != 0)
		return err_set(err, -EIO, "the scrub is %s", ctl_text(scrub, "state"));
	if (differ > repaired)
		return err_set(err, -EIO,
			       "%" PRIu64 " blocks differ, %" PRIu64 " of them were repaired; "
			       "'events' tells which, 'scrub start repair' mends them where three "
			       "or more copies can vote, 'repair-from URI' by your word",
			       differ, repaired);
	if (unread > 0)
		return err_set(err, -EIO, "%" PRIu64 " pieces could not be read from a child",
			       unread);
	if (ctl->output != CTL_JSON)
		printf("all copies are equal: %s compared in %s, %" PRIu64 " blocks repaired\n",
		       size_format(ctl_number(scrub, "bytes_done"), size),
		       duration_format(ctl_number(scrub, "elapsed_ms") * NS_PER_MS, time),
		       repaired);
	return 0;
}

static uint64_t now_ns(void)
{
	struct timespec now = {};

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* @ret_told: percent of the last line, -1: none. */
static void show(const struct ctl *ctl, struct progress *bar, json_t *job, int *ret_told)
{
	int percent = (int)ctl_number(job, "progress");
	char text[128];

	(void)ctl_job_text(job, text, sizeof(text));
	progress_show(bar, now_ns(), (uint64_t)percent, 100, "%s", text);
	if (bar->is_shown || ctl->output == CTL_JSON ||
	    (*ret_told >= 0 && percent / LINE_EVERY == *ret_told / LINE_EVERY))
		return;
	printf("%d %%, %s\n", percent, text);
	(void)fflush(stdout);
	*ret_told = percent;
}

/* One look. 1: it goes on. */
static int look(struct ctl *ctl, const struct job *job, struct progress *bar, int *ret_told,
		struct err *err)
{
	json_t *status = NULL, *mirror, *child, *runs;
	int rc = ctl_ask_json(ctl, &status, err, "status");

	if (rc != 0)
		return rc;
	mirror = mirror_of(status, job);
	child = job->uri != NULL ? child_of(mirror, job->uri) : NULL;
	runs = json_object_get(child != NULL ? child : mirror, child != NULL ? "rebuild" : "scrub");
	if (mirror == NULL) {
		rc = err_set(err, -ENOENT, "%s was removed meanwhile",
			     job->uri != NULL ? job->uri : "the mirror");
	} else if (json_is_object(runs) &&
		   (child != NULL || strcmp(ctl_text(runs, "state"), "running") == 0)) {
		show(ctl, bar, runs, ret_told);
		rc = 1;
	} else {
		progress_wipe(bar);
		rc = child != NULL ? rebuild_ended(ctl, mirror, child, err)
				   : scrub_ended(ctl, runs, err);
	}
	json_decref(status);
	return rc;
}

int ctl_wait(struct ctl *ctl, struct err *err)
{
	struct progress bar;
	struct job job;
	int told = -1, rc = job_parse(&ctl->words, &job, err);

	if (rc != 0)
		return rc;
	progress_init(&bar, ctl->output != CTL_JSON);
	while ((rc = look(ctl, &job, &bar, &told, err)) == 1)
		(void)poll(NULL, 0, LOOK_MS);
	progress_wipe(&bar);
	return rc;
}
