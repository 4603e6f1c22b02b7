/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opt.c - one table says which options a command has; parser and help text read the same rows, so
 * they cannot disagree. The manual pages are compared with --help by a test.
 *
 * A row names the option, the kind of its value, and where in the command's struct it goes. Values
 * are taken whole or refused with the reason and what would be right; nothing is guessed, nothing
 * is rounded. What the parser does not know it compares with what it knows, since most unknown
 * options are slips of the finger.
 *
 * JSON is asked for in one way by every command, with -o json as in the programs around (kubectl,
 * nvme); --json is the same.
 *
 * Rejected: getopt_long(), whose table knows neither types, bounds nor help, so every command would
 * repeat the conversions; more letters than -o, because three of them save nothing and hide the
 * meaning in scripts; abbreviated long options, because a script that uses one breaks when a second
 * option with that beginning appears.
 *
 * Thread: the main thread, before the engine runs. Nothing is allocated: texts stay in argv.
 */
#include "cli/opt.h"

#include <errno.h>
#include <string.h>

#include "base/units.h"
#include "cli/cli.h"

enum {
	HELP_COLUMN = 26, /* where the explanations start */
};

const char *const opt_outputs[] = { "text", "json", NULL };

static const struct opt *opt_find_output(const struct opt *opts)
{
	while (opts->name != NULL && !opts->is_output)
		opts++;
	return opts->name != NULL ? opts : NULL;
}

/* Is @name, as a flag, a choice of that option? */
static bool opt_has_choice(const struct opt *opt, const char *name)
{
	for (unsigned i = 0; opt != NULL && opt->choices[i] != NULL; i++) {
		if (strcmp(opt->choices[i], name) == 0)
			return true;
	}
	return false;
}

static const struct opt *opt_find(const struct opt *opts, const char *name, size_t len)
{
	for (; opts->name != NULL; opts++) {
		if (strlen(opts->name) == len && memcmp(opts->name, name, len) == 0)
			return opts;
	}
	return NULL;
}

static int opt_unknown(const struct opt_spec *spec, const char *text, size_t len, struct err *err)
{
	const char *names[OPT_LIST_MAX];
	unsigned count = 0;
	char typed[64];
	const char *near;

	for (const struct opt *opt = spec->opts; opt->name != NULL && count < OPT_LIST_MAX; opt++)
		names[count++] = opt->name;
	(void)snprintf(typed, sizeof(typed), "%.*s", (int)len, text);
	near = cli_nearest(typed, names, count);
	if (near != NULL)
		return err_set(err, -EINVAL, "unknown option --%s; did you mean --%s?", typed,
			       near);
	return err_set(err, -EINVAL, "unknown option --%s", typed);
}

static int opt_bounds(const struct opt *opt, const char *text, uint64_t value, struct err *err)
{
	if (value >= opt->min && (opt->max == 0 || value <= opt->max))
		return 0;
	if (opt->type == OPT_SECONDS && opt->min == 1 && opt->max == 0)
		return err_set(err, -EINVAL, "--%s %s: must be longer than nothing", opt->name,
			       text);
	if (opt->max == 0)
		return err_set(err, -EINVAL, "--%s %s: must be at least %llu", opt->name, text,
			       (unsigned long long)opt->min);
	return err_set(err, -EINVAL, "--%s %s: must be between %llu and %llu", opt->name, text,
		       (unsigned long long)opt->min, (unsigned long long)opt->max);
}

/* "5" and "1.5" are seconds; anything with a unit is what the unit says. */
static int seconds_parse(const char *text, uint64_t *ret_ns, struct err *err)
{
	char with_unit[64];
	size_t len = strlen(text);

	if (len == 0 || text[len - 1] < '0' || text[len - 1] > '9' || len > sizeof(with_unit) - 2)
		return duration_parse(text, ret_ns, err);
	(void)snprintf(with_unit, sizeof(with_unit), "%ss", text);
	return duration_parse(with_unit, ret_ns, err);
}

static int opt_choice(const struct opt *opt, const char *text, unsigned *ret, struct err *err)
{
	char all[256] = "";
	size_t used = 0;

	for (unsigned i = 0; opt->choices[i] != NULL; i++) {
		if (strcmp(opt->choices[i], text) == 0) {
			*ret = i;
			return 0;
		}
		used += (size_t)snprintf(all + used, sizeof(all) - used, "%s%s", i == 0 ? "" : ", ",
					 opt->choices[i]);
		if (used >= sizeof(all))
			used = sizeof(all) - 1;
	}
	return err_set(err, -EINVAL, "--%s %s: must be one of %s", opt->name, text, all);
}

static int opt_number(const struct opt *opt, const char *text, uint64_t *ret, struct err *err)
{
	uint64_t value = 0;
	int rc;

	if (opt->type == OPT_SIZE)
		rc = size_parse(text, &value, err);
	else if (opt->type == OPT_SECONDS)
		rc = seconds_parse(text, &value, err);
	else
		rc = number_parse(text, &value, err);
	if (rc != 0) {
		(void)err_prefix(err, "--%s", opt->name);
		return rc;
	}
	rc = opt_bounds(opt, text, value, err);
	if (rc == 0)
		*ret = value;
	return rc;
}

static int opt_list_add(const struct opt *opt, const char *text, struct opt_list *list,
			struct err *err)
{
	if (list->count == OPT_LIST_MAX)
		return err_set(err, -E2BIG, "--%s: given more than %d times", opt->name,
			       OPT_LIST_MAX);
	list->items[list->count++] = text;
	return 0;
}

/* The value @text (NULL for a flag) of @opt into the caller's struct. */
static int opt_store(const struct opt *opt, const char *text, void *values, struct err *err)
{
	void *to = (char *)values + opt->offset;

	switch (opt->type) {
	case OPT_FLAG:
		*(bool *)to = true;
		return 0;
	case OPT_NUMBER:
	case OPT_SIZE:
	case OPT_SECONDS:
	case OPT_MASK:
		return opt_number(opt, text, to, err);
	case OPT_CHOICE:
		return opt_choice(opt, text, to, err);
	case OPT_TEXT:
	case OPT_LIST:
		break;
	}
	if (text[0] == '\0')
		return err_set(err, -EINVAL, "--%s: the value is empty", opt->name);
	if (opt->type == OPT_LIST)
		return opt_list_add(opt, text, to, err);
	*(const char **)to = text;
	return 0;
}

/* One argument that starts with two dashes; *ret_used is set when the next one was its value. */
static int opt_take(const struct opt_spec *spec, const char *word, const char *next, void *values,
		    bool *ret_used, struct err *err)
{
	const struct opt *output = opt_find_output(spec->opts);
	const char *name = word + 2, *equals = strchr(name, '=');
	size_t len = equals != NULL ? (size_t)(equals - name) : strlen(name);
	const struct opt *opt = opt_find(spec->opts, name, len);

	*ret_used = false;
	if (opt == NULL && opt_has_choice(output, name))
		return opt_store(output, name, values, err);
	if (opt == NULL)
		return opt_unknown(spec, name, len, err);
	if (opt->type == OPT_FLAG) {
		if (equals != NULL)
			return err_set(err, -EINVAL, "--%s takes no value", opt->name);
		return opt_store(opt, NULL, values, err);
	}
	if (equals != NULL)
		return opt_store(opt, equals + 1, values, err);
	if (next == NULL)
		return err_set(err, -EINVAL, "--%s needs a value: --%s %s", opt->name, opt->name,
			       opt->value);
	*ret_used = true;
	return opt_store(opt, next, values, err);
}

static int opt_arg_add(struct opt_args *args, const char *word, bool is_plain, struct err *err)
{
	if (!is_plain && word[0] == '-' && word[1] != '\0')
		return err_set(err, -EINVAL, "unknown option %s; options start with two dashes",
			       word);
	if (args->count == OPT_ARGS_MAX)
		return err_set(err, -E2BIG, "more than %d arguments", OPT_ARGS_MAX);
	args->items[args->count++] = word;
	return 0;
}

static int opt_check_args(const struct opt_spec *spec, const struct opt_args *args, struct err *err)
{
	if (args->count < spec->args_min)
		return err_set(err, -EINVAL, "%s: usage: ashlar %s [OPTION...] %s",
			       args->count == 0 ? "arguments are missing"
						: "an argument is missing",
			       spec->command, spec->args);
	if (args->count > spec->args_max)
		return err_set(err, -EINVAL,
			       "one argument too many: '%s'; usage: ashlar %s "
			       "[OPTION...] %s",
			       args->items[spec->args_max], spec->command, spec->args);
	return 0;
}

enum opt_verdict opt_parse(const struct opt_spec *spec, int argc, char **argv, void *values,
			   struct opt_args *args, struct err *err)
{
	bool only_args = false, used;

	args->count = 0;
	for (int i = 1; i < argc; i++) {
		if ((strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) && !only_args)
			return OPT_HELP;
	}
	for (int i = 1; i < argc; i++) {
		const char *word = argv[i];

		if (!only_args && strcmp(word, "--") == 0) {
			only_args = true;
			continue;
		}
		if (strcmp(word, "-o") == 0 && opt_find_output(spec->opts) != NULL && !only_args)
			word = "--output";
		if (only_args || strncmp(word, "--", 2) != 0) {
			if (opt_arg_add(args, word, only_args, err) != 0)
				return OPT_WRONG;
			continue;
		}
		if (opt_take(spec, word, i + 1 < argc ? argv[i + 1] : NULL, values, &used, err))
			return OPT_WRONG;
		i += used;
	}
	return opt_check_args(spec, args, err) == 0 ? OPT_GO : OPT_WRONG;
}

static void opt_print_row(const char *letter, const char *name, const char *value, const char *help,
			  FILE *out)
{
	char left[64];
	int len = snprintf(left, sizeof(left), "  %s--%s%s%s", letter, name,
			   value != NULL ? " " : "", value != NULL ? value : "");
	bool is_first = true;

	fputs(left, out);
	if (len > HELP_COLUMN - 2) {
		fputc('\n', out);
		len = 0;
	}
	while (*help != '\0') {
		size_t line = strcspn(help, "\n");

		fprintf(out, "%*s%.*s\n", is_first ? HELP_COLUMN - len : HELP_COLUMN, "", (int)line,
			help);
		is_first = false;
		help += line + (help[line] == '\n');
	}
}

void opt_print_help(const struct opt_spec *spec, FILE *out)
{
	fprintf(out, "usage: ashlar %s [OPTION...] %s\n%s\n\noptions:\n", spec->command, spec->args,
		spec->summary);
	for (const struct opt *opt = spec->opts; opt->name != NULL; opt++)
		opt_print_row(opt->is_output ? "-o, " : "", opt->name, opt->value, opt->help, out);
	opt_print_row("", "help", NULL, "print this", out);
	if (spec->details != NULL)
		fprintf(out, "\n%s", spec->details);
}

bool opt_parse_or_tell(const struct opt_spec *spec, int argc, char **argv, void *values,
		       struct opt_args *args, int *ret_exit)
{
	struct err err = {};

	switch (opt_parse(spec, argc, argv, values, args, &err)) {
	case OPT_GO:
		return true;
	case OPT_HELP:
		opt_print_help(spec, stdout);
		*ret_exit = CLI_DONE;
		return false;
	case OPT_WRONG:
		break;
	}
	cli_error("%s", err_text(&err));
	fprintf(stderr, "Try 'ashlar %s --help'.\n", spec->command);
	*ret_exit = CLI_USAGE;
	return false;
}
