/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crash.c - the crash handler.
 *
 * Uses only what is safe in a signal handler (write, and backtrace_symbols_fd after backtrace was
 * called once to load its library) and never returns to the broken code: the default action is
 * restored and the signal is raised again, so exit status and core dump are what they would have
 * been. An overflowed stack cannot run a handler; that signal takes its default course at once.
 *
 * Under sanitizers it stays away: their reports are better.
 */
#include "crash.h"

#include <execinfo.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

enum {
	CRASH_FRAMES_MAX = 64,
};

static void crash_say(const char *text)
{
	if (write(STDERR_FILENO, text, strlen(text)) < 0)
		return; /* nobody listens */
}

UNUSED static void crash_handler(int sig)
{
	void *frames[CRASH_FRAMES_MAX];
	int n = backtrace(frames, CRASH_FRAMES_MAX);

	crash_say("ashlar: fatal signal: ");
	crash_say(sigdescr_np(sig) != NULL ? sigdescr_np(sig) : "?");
	crash_say("\nbacktrace (addr2line -e BINARY ADDRESS tells the lines):\n");
	backtrace_symbols_fd(frames, n, STDERR_FILENO);
	(void)raise(sig); /* SA_RESETHAND: the default action now */
}

void crash_handler_install(void)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	struct sigaction action = { .sa_handler = crash_handler,
				    .sa_flags = (int)SA_RESETHAND | SA_NODEFER };
	void *warm[1];

	(void)backtrace(warm, 1);
	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		(void)sigaction(signals[i], &action, NULL);
#endif
}
