/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors that a person can act upon.
 *
 * A control function fails for two readers. The program wants a number it can compare; the person
 * at the terminal, or behind a gRPC call, wants to know what failed, on which object, why, and what
 * to do next. The number is the return value; the sentence travels beside it in a buffer that the
 * caller owns, filled where the cause is known and extended with context on the way up.
 *
 * Invariants
 *   1. code == 0 exactly when msg is empty.
 *   2. The first error stays. Cleanup that fails after the real cause must not hide it, so a second
 *      err_set changes nothing (it still returns its own code: the caller's control flow is its
 * own).
 *   3. msg is always terminated; text that does not fit is cut and shows it by "..." where it was.
 *      Prefixes push the tail out, but no more than half of the room: a long path or NQN must not
 *      hide the cause, and who the object is matters more than the last words of a long cause.
 *   4. msg is one line: control characters, which a hostile name may bring along, become '?'.
 *
 * Thread rule: a struct err belongs to one thread; nothing here is global.
 *
 * Rejected: a heap-allocated chain of causes (fails exactly when memory does, and nobody walks it);
 * a thread-local last error (tasks share a thread, and the text would be overwritten before it is
 * read); codes of our own (errno is what the kernel, gRPC tables and NVMe tables already meet at).
 */
#include "base/err.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>

static const char ellipsis[] = "...";

/* The errno behind a code of either sign; INT_MIN, which has no opposite, stays as it is. */
static int errno_of(int code)
{
	return code < 0 && code != INT_MIN ? -code : code;
}

/* Formats into @buf of @size bytes, at least sizeof(ellipsis), and keeps invariants 3 and 4. */
static PRINTF(3, 0) void format(char *buf, size_t size, const char *fmt, va_list args)
{
	int wanted = vsnprintf(buf, size, fmt, args);

	if (wanted < 0)
		buf[0] = '\0';
	if (wanted >= (int)size)
		memcpy(buf + size - sizeof(ellipsis), ellipsis, sizeof(ellipsis));
	for (; *buf != '\0'; buf++) {
		if ((unsigned char)*buf < 0x20 || *buf == 0x7f)
			*buf = '?';
	}
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
	va_list args;

	assert(code < 0);
	if (err == NULL || err->code != 0)
		return code;
	err->code = code;
	va_start(args, fmt);
	format(err->msg, sizeof(err->msg), fmt, args);
	va_end(args);
	return code;
}

static PRINTF(2, 0) void append(struct err *err, const char *fmt, va_list args)
{
	size_t len = strlen(err->msg);
	size_t room = sizeof(err->msg) - len;

	if (room > sizeof(ellipsis))
		format(err->msg + len, room, fmt, args);
}

static PRINTF(2, 3) void append_text(struct err *err, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	append(err, fmt, args);
	va_end(args);
}

/* What may stand in front of ": @cause", the NUL included. */
static size_t room_before(const char *cause)
{
	return ERR_MSG_MAX - MIN(strlen(cause) + 2, (size_t)ERR_MSG_MAX / 2);
}

int err_set_sys(struct err *err, int code, const char *fmt, ...)
{
	char buf[128];
	const char *words = strerror_r(errno_of(code), buf, sizeof(buf));
	va_list args;

	assert(code < 0);
	if (err == NULL || err->code != 0)
		return code;
	err->code = code;
	va_start(args, fmt);
	format(err->msg, room_before(words), fmt, args);
	va_end(args);
	append_text(err, ": %s", words);
	return code;
}

int err_prefix(struct err *err, const char *fmt, ...)
{
	char cause[ERR_MSG_MAX];
	va_list args;

	if (err == NULL || err->code == 0)
		return 0;
	memcpy(cause, err->msg, sizeof(cause));
	va_start(args, fmt);
	format(err->msg, room_before(cause), fmt, args);
	va_end(args);
	append_text(err, ": %s", cause);
	return err->code;
}

int err_hint(struct err *err, const char *fmt, ...)
{
	va_list args;

	if (err == NULL || err->code == 0)
		return 0;
	append_text(err, "; ");
	va_start(args, fmt);
	append(err, fmt, args);
	va_end(args);
	return err->code;
}

const char *err_text(const struct err *err)
{
	const char *words;

	if (err->msg[0] != '\0')
		return err->msg;
	words = strerrordesc_np(errno_of(err->code));
	return words != NULL ? words : "unknown error";
}

const char *err_errno_name(int code)
{
	const char *name = strerrorname_np(errno_of(code));

	return name != NULL ? name : "E?";
}
