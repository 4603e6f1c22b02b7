/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - the program `ashlar`: one table of commands, one file per command.
 *
 * Everything that differs between commands is in their files; what is the same for all is here: the
 * list, the version, and what is said about a command that does not exist. How messages look and
 * how the engine is started for a command is in cli.c.
 *
 * Exit codes: 0 done, 1 failed, 2 wrong usage. The distinction matters to scripts: 2 means that
 * trying again is pointless. A result that could not be written is a failure as well.
 *
 * Rejected: sub-commands found by name in a directory (nothing to install beside the binary), and
 * a log line for what a person is waiting to read.
 *
 * Thread: the process's first thread. It waits in engine_call() while a command runs as a task on
 * the primary reactor; the two never run at once, so commands need no locks.
 */
#include <errno.h>
#include <string.h>

#include "cli/cli.h"

static const struct cli_command *const commands[] = {
	&cli_bench, &cli_copy, &cli_ctl, &cli_discover, &cli_export, &cli_nexus, &cli_uri,
};

static void print_help(FILE *out)
{
	fprintf(out, "usage: ashlar COMMAND [OPTION...] [ARGUMENT...]\n"
		     "A storage engine: makes block devices from URIs; measures, copies, exports "
		     "them.\n\ncommands:\n");
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
	fprintf(out, "\noptions:\n"
		     "  --help     print this; after a command: its options\n"
		     "  --version  print the version\n"
		     "\nexit codes: 0 done, 1 failed, 2 wrong usage\n");
}

static int unknown_command(const char *typed)
{
	const char *names[ARRAY_LEN(commands)];
	const char *near;

	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		names[i] = commands[i]->name;
	near = cli_nearest(typed, names, ARRAY_LEN(names));
	if (typed[0] == '-')
		cli_error("unknown option %s", typed);
	else if (near != NULL)
		cli_error("unknown command '%s'; did you mean '%s'?", typed, near);
	else
		cli_error("unknown command '%s'", typed);
	fprintf(stderr, "Try 'ashlar --help'.\n");
	return CLI_USAGE;
}

/* A pipe that was closed or a full disk must not look like success. */
static int finish_output(int exit_code)
{
	if (fflush(stdout) == 0 && ferror(stdout) == 0)
		return exit_code;
	cli_error("cannot write the result to standard output: %s", strerror(errno));
	return exit_code == CLI_DONE ? CLI_FAILED : exit_code;
}

int main(int argc, char **argv)
{
	static char help[] = "--help";

	if (argc < 2) {
		print_help(stderr);
		return CLI_USAGE;
	}
	if (argc > 2 && strcmp(argv[1], "help") == 0) { /* help COMMAND: COMMAND --help */
		argv[1] = argv[2];
		argv[2] = help;
		argc = 3;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
	    strcmp(argv[1], "help") == 0) {
		print_help(stdout);
		return finish_output(CLI_DONE);
	}
	if (strcmp(argv[1], "--version") == 0) {
		printf("ashlar %s\n", ASHLAR_VERSION_TEXT);
		return finish_output(CLI_DONE);
	}
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (strcmp(argv[1], commands[i]->name) == 0) {
			cli_name = commands[i]->name;
			return finish_output(commands[i]->run(argc - 1, argv + 1));
		}
	}
	return unknown_command(argv[1]);
}
