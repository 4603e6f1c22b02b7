/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opt.h - options of a command as one table, from which both the parser and --help work.
 *
 * Owner:  the caller: tables are const, values are one struct of his that holds the defaults before
 *         opt_parse().
 * Thread: the main thread.
 * Rules:  `--name value` or `--name=value`, in any order with the arguments; `--` ends them. The
 *         last one wins, but OPT_LIST collects. One option has a letter: -o, the output's form.
 */
#ifndef ASHLAR_CLI_OPT_H
#define ASHLAR_CLI_OPT_H

#include "base/base.h"
#include "base/err.h"

enum {
	OPT_LIST_MAX = 64, /* how often an OPT_LIST may be given */
	OPT_ARGS_MAX = 64, /* arguments that are no options */
};

enum opt_type {
	OPT_FLAG,    /* bool */
	OPT_NUMBER,  /* uint64_t, within min..max */
	OPT_SIZE,    /* uint64_t bytes, "4k", within min..max */
	OPT_SECONDS, /* uint64_t nanoseconds; "5", "1.5", "200ms"; min..max in nanoseconds */
	OPT_MASK,    /* uint64_t, "0x3" */
	OPT_TEXT,    /* const char *, not empty */
	OPT_CHOICE,  /* unsigned: index into choices */
	OPT_LIST,    /* struct opt_list */
};

struct opt_list {
	const char *items[OPT_LIST_MAX]; /* borrowed from argv */
	unsigned count;
};

struct opt {
	const char *name;  /* without the dashes; NULL ends the table */
	const char *value; /* what --help calls the value, "BYTES"; NULL for a flag */
	const char *help;  /* may have several lines */
	enum opt_type type;
	size_t offset;              /* in the caller's struct */
	uint64_t min, max;          /* max 0: no bound */
	const char *const *choices; /* NULL-terminated */
	bool is_output; /* "output": -o, too, and --CHOICE alone, which is not in the help */
};

/* `-o json` of every command that has a result: field @member of @type is an unsigned, true if JSON
 * is wanted. @more is added to the help. */
#define OPT_OUTPUT(type, member, more)                                                    \
	{                                                                                 \
		"output", "FORMAT", "text (default) or json" more, OPT_CHOICE,            \
			offsetof(type, member), .choices = opt_outputs, .is_output = true \
	}
extern const char *const opt_outputs[]; /* "text", "json" */

struct opt_spec {
	const char *command; /* "bench" */
	const char *args;    /* "URI..." */
	const char *summary;
	const char *details; /* printed below the options; NULL: nothing */
	const struct opt *opts;
	unsigned args_min, args_max;
};

struct opt_args {
	const char *items[OPT_ARGS_MAX]; /* borrowed from argv */
	unsigned count;
};

enum opt_verdict {
	OPT_GO,
	OPT_HELP,  /* help was asked for */
	OPT_WRONG, /* @err says what */
};

/* Fill @values and @args from @argv (argv[0] is skipped). */
enum opt_verdict opt_parse(const struct opt_spec *spec, int argc, char **argv, void *values,
			   struct opt_args *args, struct err *err) WARN_UNUSED;

void opt_print_help(const struct opt_spec *spec, FILE *out);

/*
 * The same, and what a command does about it: prints the help or the mistake. True: go on. False:
 * end with *ret_exit.
 */
bool opt_parse_or_tell(const struct opt_spec *spec, int argc, char **argv, void *values,
		       struct opt_args *args, int *ret_exit) WARN_UNUSED;

#endif
