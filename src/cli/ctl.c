/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ctl.c - `ashlar ctl PATH VERB [ARG...]`: one command to a running export, and its answer.
 *
 * The words are joined by spaces: what the shell took apart is put together again. What they mean
 * is the export's business, so an older program can talk to a newer export; only what is done with
 * the answer is decided here:
 *
 *	status           a summary for a person (ctl_status.c)
 *	help             two lines for each verb; without PATH those it knows itself
 *	events --follow  a line for each event, until the export ends (ctl_wait.c)
 *	VERB --wait      what the verb begins is watched to its end: that is the exit status
 *	anything else    is printed (ctl_print.c)
 *
 * Rejected: `ctl VERB` with a socket found by itself. Two exports on a machine are common, and a
 * command that reaches the wrong one changes the wrong volume.
 *
 * Thread: the main thread. No engine is started.
 */
#include <errno.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/ctl.h"
#include "cli/export.h"

struct ctl_opts {
	unsigned output;
	bool wait, follow;
};

static const char *const outputs[] = { "text", "json", "table", NULL };

#define FIELD(name) offsetof(struct ctl_opts, name)

static const struct opt ctl_options[] = {
	{ "output", "FORMAT", "text (default), json, or JSON as a table", OPT_CHOICE, FIELD(output),
	  .choices = outputs, .is_output = true },
	{ "wait", NULL, "until the rebuild or scrub that the verb begins has ended", OPT_FLAG,
	  FIELD(wait) },
	{ "follow", NULL, "of events: print each as it happens", OPT_FLAG, FIELD(follow) },
	{ NULL },
};

static const struct opt_spec ctl_spec = {
	.command = "ctl",
	.args = "PATH VERB [ARG...]",
	.summary = "Tell something to a running export through its control socket, print the "
		   "answer.",
	.details = "'ashlar ctl help' lists the verbs, 'ashlar ctl help VERB' explains one.\n\n"
		   "examples:\n  ashlar ctl /run/user/1000/disk.ctl status\n"
		   "  ashlar ctl /run/user/1000/disk.ctl child-online --wait "
		   "aio:///var/tmp/b.img\n"
		   "  ashlar ctl /run/user/1000/disk.ctl events --follow\n"
		   "  ashlar ctl /run/user/1000/disk.ctl latency -o table\n",
	.opts = ctl_options,
	.args_min = 1,
	.args_max = OPT_ARGS_MAX,
};

static int join(const struct opt_args *words, char line[CTL_LINE_MAX], struct err *err)
{
	size_t used = 0;

	for (unsigned i = 0; i < words->count; i++) {
		size_t len = strlen(words->items[i]);

		if (strpbrk(words->items[i], "\r\n") != NULL)
			return err_set(err, -EINVAL, "a command is one line");
		if (used + len + 2 > CTL_LINE_MAX)
			return err_set(err, -E2BIG, "a command has at most %d bytes",
				       CTL_LINE_MAX - 1);
		if (i > 0)
			line[used++] = ' ';
		memcpy(line + used, words->items[i], len);
		used += len;
	}
	line[used] = '\0';
	return 0;
}

static bool is_verb(const struct ctl *ctl, const char *name)
{
	return strcmp(ctl->words.items[0], name) == 0;
}

/* Verbs that this program knows: there is no export to ask. */
static int help_here(const struct ctl *ctl, const char *verb, struct err *err)
{
	json_t *verbs = command_help(verb, err);
	CLEANUP(freep) char *text = NULL;
	int rc = 0;

	if (verbs == NULL)
		return -EINVAL;
	if (ctl->output == CTL_TEXT) {
		ctl_print_help(verbs);
	} else {
		text = json_dumps(verbs, JSON_COMPACT);
		rc = ctl_print(ctl, text != NULL ? text : "", err);
	}
	json_decref(verbs);
	return rc;
}

static int ctl_command(struct ctl *ctl, const char *line, struct err *err)
{
	CLEANUP(freep) char *answer = NULL;
	json_t *json = NULL;
	int rc;

	if (ctl->output == CTL_TEXT && (is_verb(ctl, "status") || is_verb(ctl, "help"))) {
		rc = ctl_ask_json(ctl, &json, err, "%s", line);
		if (rc == 0 && is_verb(ctl, "help"))
			ctl_print_help(json);
		else if (rc == 0)
			ctl_print_status(ctl, json);
		json_decref(json);
		return rc;
	}
	rc = ctl_ask(ctl, &answer, err, "%s", line);
	return rc == 0 ? ctl_print(ctl, answer, err) : rc;
}

static int ctl_do(struct ctl *ctl, const struct ctl_opts *opts, const char *line, struct err *err)
{
	CLEANUP(freep) char *answer = NULL;
	int rc = ctl_open(ctl, err);

	if (rc == 0 && opts->follow)
		rc = ctl_follow(ctl, err);
	else if (rc == 0 && opts->wait)
		rc = ctl_ask(ctl, &answer, err, "%s", line);
	else if (rc == 0)
		rc = ctl_command(ctl, line, err);
	if (rc == 0 && opts->wait)
		rc = ctl_wait(ctl, err);
	ctl_close(ctl);
	return rc;
}

static int ctl_check(const struct ctl *ctl, const struct ctl_opts *opts, char *line,
		     struct err *err)
{
	if (ctl->words.count == 0)
		return err_set(err, -EINVAL,
			       "a verb is missing: status tells most, 'ashlar ctl help' lists "
			       "them all");
	if (opts->follow && (opts->wait || !is_verb(ctl, "events")))
		return err_set(err, -EINVAL, "--follow is for events");
	if (opts->wait && ctl_wait_check(&ctl->words, err) != 0)
		return err->code;
	return join(&ctl->words, line, err);
}

static int ctl_run(int argc, char **argv)
{
	struct ctl ctl = { .fd = -1 };
	struct ctl_opts opts = {};
	char line[CTL_LINE_MAX];
	struct opt_args args;
	struct err err = {};
	int rc;

	if (!opt_parse_or_tell(&ctl_spec, argc, argv, &opts, &args, &rc))
		return rc;
	ctl.path = args.items[0];
	ctl.output = opts.output;
	ctl.words.count = args.count - 1;
	memcpy(ctl.words.items, args.items + 1, ctl.words.count * sizeof(args.items[0]));
	if (args.count <= 2 && strcmp(args.items[0], "help") == 0)
		rc = help_here(&ctl, args.count == 2 ? args.items[1] : NULL, &err);
	else if (ctl_check(&ctl, &opts, line, &err) != 0)
		rc = err.code;
	else if (ctl_do(&ctl, &opts, line, &err) == 0)
		return CLI_DONE;
	else
		rc = 1;
	if (rc != 0)
		cli_error("%s", err_text(&err));
	return rc == 0 ? CLI_DONE : rc < 0 ? CLI_USAGE : CLI_FAILED;
}

const struct cli_command cli_ctl = {
	.name = "ctl",
	.args = "PATH VERB [ARG...]",
	.summary = "tell something to a running export, print its answer",
	.run = ctl_run,
};
