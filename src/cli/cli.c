/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli.c - how a command speaks, and how it gets an engine.
 *
 * Messages go to standard error, after what was already printed as result, with the command's name
 * in front; colours only where a person reads: a terminal, with NO_COLOR unset and TERM not "dumb".
 * A mistyped word is answered with the nearest one that exists, by edit distance: at most
 * NEAR_MAX edits and at most half of the word, since a far-fetched guess is worse than none.
 *
 * The engine is started for one call and stopped after it: no command leaves a thread behind, and
 * a failure to start (io_uring forbidden, a core that does not exist) is told with its remedy.
 *
 * Rejected: a log line for what a person is waiting to read. The log is for what happens while
 * nobody looks; a command has somebody who looks.
 *
 * Thread: the main thread, or a task while main waits for it; the two never run at once.
 */
#include "cli/cli.h"

#include <stdarg.h>
#include <string.h>

#include "cli/term.h"

enum {
	NAME_MAX_LEN = 64, /* longest word that cli_nearest() looks at */
	NEAR_MAX = 3,      /* edits within which a name is worth suggesting */
};

const char *cli_name = "";

static void cli_say(const char *colour, const char *kind, const char *fmt, va_list args)
{
	bool is_coloured = term_has_colours(stderr);

	(void)fflush(stdout); /* in the order of events where both are one terminal or file */
	fprintf(stderr, "ashlar%s%s: ", cli_name[0] != '\0' ? " " : "", cli_name);
	if (kind[0] != '\0')
		fprintf(stderr, "%s%s%s", is_coloured ? colour : "", kind,
			is_coloured ? TERM_PLAIN : "");
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
}

void cli_error(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	cli_say(TERM_RED, "error: ", fmt, args);
	va_end(args);
}

void cli_warn(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	cli_say(TERM_YELLOW, "warning: ", fmt, args);
	va_end(args);
}

struct engine_job {
	int (*fn)(void *arg, struct err *err);
	void *arg;
	int exit_code;
};

static int engine_job_run(void *arg, struct err *err)
{
	struct engine_job *job = arg;

	job->exit_code = job->fn(job->arg, err);
	return 0;
}

int cli_run_engine(const struct engine_opts *opts, int (*fn)(void *arg, struct err *err), void *arg)
{
	struct engine_job job = { .fn = fn, .arg = arg, .exit_code = CLI_FAILED };
	struct err err = {};

	if (engine_run(opts, engine_job_run, &job, &err) != 0) {
		cli_error("the engine does not start: %s", err_text(&err));
		return CLI_FAILED;
	}
	if (err.code != 0)
		cli_error("%s", err_text(&err));
	return job.exit_code;
}

/* Levenshtein distance; huge for words that are too long to be a slip. */
static unsigned edit_distance(const char *a, const char *b)
{
	size_t alen = strlen(a), blen = strlen(b);
	unsigned row[NAME_MAX_LEN + 1];

	if (alen > NAME_MAX_LEN || blen > NAME_MAX_LEN)
		return UINT32_MAX;
	for (unsigned j = 0; j <= blen; j++)
		row[j] = j;
	for (unsigned i = 1; i <= alen; i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= blen; j++) {
			unsigned above = row[j];
			unsigned change = diagonal + (a[i - 1] != b[j - 1]);

			row[j] = MIN(change, MIN(above, row[j - 1]) + 1);
			diagonal = above;
		}
	}
	return row[blen];
}

const char *cli_nearest(const char *typed, const char *const *names, unsigned count)
{
	unsigned best = NEAR_MAX + 1;
	const char *name = NULL;

	for (unsigned i = 0; i < count; i++) {
		unsigned distance = edit_distance(typed, names[i]);
		bool is_start = typed[0] != '\0' && strncmp(names[i], typed, strlen(typed)) == 0;

		/* half of a short word may not be wrong */
		if (!is_start && distance * 2 > strlen(names[i]))
			continue;
		if (is_start)
			distance = 0;
		if (distance < best) {
			best = distance;
			name = names[i];
		}
	}
	return name;
}
