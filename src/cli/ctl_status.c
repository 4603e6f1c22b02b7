/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ctl_status.c - `ashlar ctl PATH status` for a person: what is served, who is connected, how the
 * mirrors are, and what to do where something is not well.
 *
 *	nqn.2026-11.invalid.ashlar:vol on 127.0.0.1:4420
 *	namespace 1: vol, 1000 MiB, blocks of 512
 *	mirror vol: Degraded, 1 of 2 replicas in sync
 *	  in sync                             aio:///var/tmp/a.img
 *	  rebuild 43 %, 210 MiB/s, 3 s left   aio:///var/tmp/b.img
 *	no host is connected
 *
 * One line for each thing, the state first: states line up and URIs may be as long as they are. It
 * is made from the answer to `status`, which is all of one moment; what is not in there is not
 * guessed.
 *
 * What to type next is spelled as this program was: it can be copied as it stands.
 *
 * Rejected: colours. A state is a word, and the words differ.
 *
 * Thread: the main thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/units.h"
#include "cli/ctl.h"

enum { STATE_TEXT_MAX = 256 };

const char *ctl_job_text(json_t *job, char *text, size_t size)
{
	const json_t *remaining = json_object_get(job, "remaining_ms");
	char rate[UNITS_TEXT_MAX], time[UNITS_TEXT_MAX];
	const char *state = ctl_text(job, "state");

	if (strcmp(state, "running") != 0)
		(void)snprintf(text, size, "%s", strcmp(state, "init") == 0 ? "waits" : state);
	else if (!json_is_integer(remaining))
		(void)snprintf(text, size, "running");
	else
		(void)snprintf(text, size, "%s, %s left",
			       rate_format((double)ctl_number(job, "bytes_per_s"), rate),
			       duration_format(ctl_number(job, "remaining_ms") * NS_PER_MS, time));
	return text;
}

static bool is_in_sync(json_t *child)
{
	return json_is_true(json_object_get(child, "synced")) &&
	       strcmp(ctl_text(child, "state"), "Open") == 0;
}

static void child_text(json_t *child, char text[STATE_TEXT_MAX])
{
	json_t *rebuild = json_object_get(child, "rebuild"), *warning;
	json_t *warnings = json_object_get(child, "warnings");
	const char *reason = ctl_text(child, "reason");
	char job[128];
	size_t i;

	if (json_is_object(rebuild))
		(void)snprintf(text, STATE_TEXT_MAX, "rebuild %d %%, %s",
			       (int)ctl_number(rebuild, "progress"),
			       ctl_job_text(rebuild, job, sizeof(job)));
	else if (is_in_sync(child))
		(void)snprintf(text, STATE_TEXT_MAX, "in sync");
	else if (strcmp(ctl_text(child, "state"), "Open") == 0)
		(void)snprintf(text, STATE_TEXT_MAX, "out of sync, no rebuild");
	else
		(void)snprintf(text, STATE_TEXT_MAX, "%s%s%s", ctl_text(child, "state"),
			       strcmp(reason, "None") != 0 ? ", " : "",
			       strcmp(reason, "None") != 0 ? reason : "");
	json_array_foreach(warnings, i, warning)
	{
		size_t used = strlen(text);

		(void)snprintf(text + used, STATE_TEXT_MAX - used, "%s%s",
			       i == 0 ? "; warning: " : ", ", json_string_value(warning));
	}
}

/* How this program was called, if a shell takes that as one word. */
static const char *self(void)
{
	const char *name = program_invocation_name;

	return name[0] != '\0' && name[strcspn(name, " \t\n'\"\\$&;|<>()*?[]#~`!{}")] == '\0'
		       ? name
		       : "ashlar";
}

/* What brings it back, unless that is on its way. A mirror without a healthy child is made again by
 * who serves it: which child is newest is found out then. */
static void print_remedy(const struct ctl *ctl, json_t *mirror, json_t *child)
{
	bool is_open = strcmp(ctl_text(child, "state"), "Open") == 0;

	if (is_in_sync(child) || json_is_object(json_object_get(child, "rebuild")) ||
	    strcmp(ctl_text(mirror, "state"), "Open") != 0)
		return;
	if (strcmp(ctl_text(mirror, "status"), "Faulted") == 0)
		return;
	if (json_is_true(json_object_get(child, "for_good")))
		printf("  next: %s ctl %s child-remove '%s'\n", self(), ctl->path,
		       ctl_text(child, "uri"));
	else
		printf("  next: %s ctl %s %s '%s'%s --wait\n", self(), ctl->path,
		       is_open ? "rebuild" : "child-online", ctl_text(child, "uri"),
		       is_open ? " start" : "");
}

/* Blocks that a scrub found different and left so. */
static uint64_t nleft_different(json_t *mirror)
{
	json_t *scrub = json_object_get(mirror, "scrub");
	uint64_t repaired = ctl_number(scrub, "blocks_repaired");

	return ctl_number(scrub, "blocks_differ") -
	       MIN(ctl_number(scrub, "blocks_differ"), repaired);
}

/* Two copies cannot say which of them is right, three can, unless all of them differ. */
static void print_scrub_remedy(const struct ctl *ctl, json_t *mirror, unsigned nsynced)
{
	const char *name = ctl_text(mirror, "name");

	if (nleft_different(mirror) == 0 || nsynced < 2 ||
	    strcmp(ctl_text(json_object_get(mirror, "scrub"), "state"), "running") == 0)
		return;
	if (nsynced > 2)
		printf("  next: %s ctl %s scrub '@%s' start repair --wait\n", self(), ctl->path,
		       name);
	printf("  %s: %s ctl %s scrub '@%s' start repair-from URI --wait, with the replica that "
	       "is right\n",
	       nsynced > 2 ? "or, where no two agree" : "next", self(), ctl->path, name);
}

static void print_scrub(json_t *scrub)
{
	const char *state = ctl_text(scrub, "state");
	char job[128];

	if (strcmp(state, "none") == 0)
		return;
	printf("  scrub %d %%, %s, %" PRIu64 " blocks differ", (int)ctl_number(scrub, "progress"),
	       ctl_job_text(scrub, job, sizeof(job)), ctl_number(scrub, "blocks_differ"));
	if (ctl_number(scrub, "blocks_repaired") != 0)
		printf(", %" PRIu64 " repaired", ctl_number(scrub, "blocks_repaired"));
	if (ctl_number(scrub, "read_errors") != 0)
		printf(", %" PRIu64 " could not be read", ctl_number(scrub, "read_errors"));
	printf("\n");
}

static void print_mirror(const struct ctl *ctl, json_t *mirror)
{
	json_t *children = json_object_get(mirror, "children"), *child;
	unsigned synced = 0;
	int width = 0;
	char text[STATE_TEXT_MAX];
	size_t i;

	if (strcmp(ctl_text(mirror, "state"), "Shutdown") == 0) { /* its replicas are another's */
		const char *why = ctl_text(mirror, "why");

		printf("mirror %s: it has ended%s%s\n"
		       "  next: stop the export, and start it where the volume is to be served\n",
		       ctl_text(mirror, "name"), why[0] != '\0' ? " itself: " : "", why);
		return;
	}
	json_array_foreach(children, i, child)
	{
		synced += is_in_sync(child);
		child_text(child, text);
		width = MAX(width, (int)strlen(text));
	}
	printf("mirror %s: %s, %u of %zu replicas in sync%s%s\n", ctl_text(mirror, "name"),
	       ctl_text(mirror, "status"), synced, json_array_size(children),
	       json_is_true(json_object_get(mirror, "frozen")) ? ", I/O is held" : "",
	       nleft_different(mirror) != 0 ? ", but a scrub found differences" : "");
	json_array_foreach(children, i, child)
	{
		child_text(child, text);
		printf("  %-*s  %s\n", width, text, ctl_text(child, "uri"));
		if (ctl_text(child, "why")[0] != '\0')
			printf("    %s\n", ctl_text(child, "why"));
	}
	json_array_foreach(children, i, child) print_remedy(ctl, mirror, child);
	if (strcmp(ctl_text(mirror, "status"), "Faulted") == 0)
		printf("  next: mend the replicas, stop the export and start it again\n");
	print_scrub(json_object_get(mirror, "scrub"));
	print_scrub_remedy(ctl, mirror, synced);
}

static void print_namespaces(json_t *namespaces)
{
	char size[UNITS_TEXT_MAX];
	json_t *ns;
	size_t i;

	if (json_array_size(namespaces) == 0)
		printf("nothing is served: 'add URI' serves a device\n");
	json_array_foreach(namespaces, i, ns)
	{
		uint64_t bs = ctl_number(ns, "block_size");

		printf("namespace %" PRIu64 ": %s, %s, blocks of %" PRIu64 "%s\n",
		       ctl_number(ns, "nsid"), ctl_text(ns, "name"),
		       size_format(ctl_number(ns, "blocks") * bs, size), bs,
		       json_is_true(json_object_get(ns, "read_only")) ? ", read-only" : "");
	}
}

void ctl_print_status(const struct ctl *ctl, json_t *status)
{
	json_t *hosts = json_object_get(status, "controllers"), *item;
	size_t i;

	printf("%s%s\n", ctl_text(status, "nqn"),
	       json_is_true(json_object_get(status, "paused")) ? ", paused: 'resume' lets it go on"
							       : "");
	json_array_foreach(json_object_get(status, "listeners"), i, item) printf(
		"listens on %s, path %s\n", ctl_text(item, "listener"), ctl_text(item, "state"));
	print_namespaces(json_object_get(status, "namespaces"));
	json_array_foreach(json_object_get(status, "mirrors"), i, item) print_mirror(ctl, item);
	json_array_foreach(hosts, i, item) printf(
		"host %s, controller %" PRIu64 ", %" PRIu64 " queue%s, on %s\n",
		ctl_text(item, "host"), ctl_number(item, "cntlid"), ctl_number(item, "io_queues"),
		ctl_number(item, "io_queues") == 1 ? "" : "s", ctl_text(item, "listener"));
	if (json_array_size(hosts) == 0)
		printf("no host is connected\n");
}
