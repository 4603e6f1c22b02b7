/* SPDX-License-Identifier: Apache-2.0 */
/*
 * err.h - what went wrong, for the program (a negative errno) and for a person (a sentence).
 *
 * Owner:  the caller, usually on its stack: struct err err = {};
 * Thread: whoever holds it.
 * Rules:  the last argument of a control function; may be NULL when nobody will read the text.
 *         The first error wins: what went wrong later is a consequence. A message says what failed
 *         on which object, why, and what to do; it starts in lower case and ends without a period,
 *         so that context can be put in front of it.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H
#include "base/base.h"

enum { ERR_MSG_MAX = 768 }; /* bytes of a message, its NUL included; longer text is cut: "..." */

struct err {
	int code;              /* 0 or a negative errno */
	char msg[ERR_MSG_MAX]; /* empty while code is 0 */
};

/* Records @code (negative errno) and the sentence, unless @err holds an error already. Returns
 * @code, so that `return err_set(err, -EINVAL, ...)` reads as one step. */
int err_set(struct err *err, int code, const char *fmt, ...) PRINTF(3, 4) COLD;

/* As err_set, and appends ": " and the system's words for @code. */
int err_set_sys(struct err *err, int code, const char *fmt, ...) PRINTF(3, 4) COLD;

/* Puts context in front: "pool 'a': " + what is there. No-op without an error. Returns err->code,
 * or 0 when @err is NULL: keep the code of the call that failed where @err may be NULL. */
int err_prefix(struct err *err, const char *fmt, ...) PRINTF(2, 3) COLD;

/* Appends "; " and what the reader can do about it. No-op without an error. Returns err->code. */
int err_hint(struct err *err, const char *fmt, ...) PRINTF(2, 3) COLD;

static inline void err_clear(struct err *err)
{
	if (err != NULL) {
		err->code = 0;
		err->msg[0] = '\0';
	}
}

/* The message, or the system's words when only a code is known. Never NULL, never empty; the
 * answer lives as long as @err. */
const char *err_text(const struct err *err);

/* "EINVAL" for EINVAL and for -EINVAL; "0" for 0; "E?" for what the system does not know. */
const char *err_errno_name(int code);
#endif
