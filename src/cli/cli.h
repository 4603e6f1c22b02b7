/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli.h - what the commands of the program share: how they are listed, how they end, how they say
 * that something is wrong.
 *
 * Thread: the main thread, or a task while main waits for it.
 * Rules:  results go to standard output, everything else to standard error. A message says what to
 *         do next.
 */
#ifndef ASHLAR_CLI_CLI_H
#define ASHLAR_CLI_CLI_H

#include "base/base.h"
#include "base/err.h"
#include "engine.h"

enum cli_exit {
	CLI_DONE = 0,
	CLI_FAILED = 1,
	CLI_USAGE = 2,
};

struct cli_command {
	const char *name;
	const char *args;    /* "URI..." */
	const char *summary; /* one line, for the list of commands */
	int (*run)(int argc,
		   char **argv); /* argv[0] is the command's name; returns enum cli_exit */
};

extern const struct cli_command cli_bench, cli_copy, cli_ctl, cli_discover, cli_export, cli_nexus,
	cli_uri;

/* The command being run, for messages; "ashlar" before one is known. */
extern const char *cli_name;

/* "ashlar bench: what", coloured on a terminal. */
void cli_error(const char *fmt, ...) PRINTF(1, 2);
void cli_warn(const char *fmt, ...) PRINTF(1, 2);

/*
 * engine_start(), fn() as a task, engine_stop(). Returns what fn() returned, an enum cli_exit; says
 * what went wrong when the engine does not start.
 */
int cli_run_engine(const struct engine_opts *opts, int (*fn)(void *arg, struct err *err),
		   void *arg);

/* The nearest of @count names to what was typed, NULL when none is near. */
const char *cli_nearest(const char *typed, const char *const *names, unsigned count);

#endif
