/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ctl.h - what the parts of `ashlar ctl` share.
 *
 *   ctl.c         options, and one command with its answer
 *   ctl_socket.c  the connection: a line there, a line back
 *   ctl_print.c   an answer as JSON, as a table; the help
 *   ctl_status.c  `status` for a person
 *   ctl_wait.c    --wait: a job to its end, and --follow: events
 *
 * Thread: the main thread.
 */
#ifndef ASHLAR_CLI_CTL_H
#define ASHLAR_CLI_CTL_H

#include <jansson.h>

#include "base/err.h"
#include "cli/opt.h"

enum { CTL_LINE_MAX = 8192 }; /* as the other side has it, line feed included */

enum ctl_output { CTL_TEXT, CTL_JSON, CTL_TABLE };

struct ctl {
	const char *path; /* of the socket, borrowed */
	int fd;           /* -1: none */
	FILE *in;         /* the same, for reading; owned */
	enum ctl_output output;
	struct opt_args words; /* the command */
};

/* ---- ctl_socket.c ---------------------------------------------------------------------------- */

int ctl_open(struct ctl *ctl, struct err *err) WARN_UNUSED;
void ctl_close(struct ctl *ctl);
/* Send a command, which is put together as by printf; what was answered after "ok", to be freed.
 * An answer of "error" is one. */
int ctl_ask(struct ctl *ctl, char **ret_answer, struct err *err, const char *fmt, ...)
	PRINTF(4, 5) WARN_UNUSED;
/* The same for an answer in JSON, whose reference is the caller's. */
int ctl_ask_json(struct ctl *ctl, json_t **ret_answer, struct err *err, const char *fmt, ...)
	PRINTF(4, 5) WARN_UNUSED;

/* ---- ctl_print.c ----------------------------------------------------------------------------- */

/* @text: what followed "ok". */
int ctl_print(const struct ctl *ctl, const char *text, struct err *err) WARN_UNUSED;
/* Verbs as `help` lists them. */
void ctl_print_help(json_t *verbs);
/* For sentences: the text of a name in @object, "" without it. */
const char *ctl_text(json_t *object, const char *name);
uint64_t ctl_number(json_t *object, const char *name);

/* ---- ctl_status.c ---------------------------------------------------------------------------- */

void ctl_print_status(const struct ctl *ctl, json_t *status);
/* "12.3 MiB/s, 1m20s left" of a rebuild or a scrub that runs, else its state. */
const char *ctl_job_text(json_t *job, char *text, size_t size);

/* ---- ctl_wait.c ------------------------------------------------------------------------------ */

/* Print events as they happen, until the export ends, which is an error. */
int ctl_follow(struct ctl *ctl, struct err *err) WARN_UNUSED;
/* Does the command begin something that can be waited for? */
int ctl_wait_check(const struct opt_args *words, struct err *err) WARN_UNUSED;
/* Until what the command began has ended; an error if not well. */
int ctl_wait(struct ctl *ctl, struct err *err) WARN_UNUSED;

#endif
