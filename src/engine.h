/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.h - the whole engine in a process: start, run a main task, stop.
 *
 * Thread: engine_start/stop/call from a thread outside the engine; the rest as said.
 */
#ifndef ASHLAR_ENGINE_H
#define ASHLAR_ENGINE_H

#include "base/err.h"
#include "reactor/reactor.h"
#include "reactor/task.h"

struct engine_opts {
	struct reactor_opts reactor;
	bool handle_signals; /* SIGINT, SIGTERM, SIGHUP reach the main task; crashes are traced */
};

/* The driver table is set, reactors run. -EALREADY if the process has an engine. */
int engine_start(const struct engine_opts *opts, struct err *err) WARN_UNUSED;
/* Removes all devices, waits for every task, joins the threads. */
void engine_stop(void);

/*
 * Run fn(arg, err) as a task on the primary reactor and wait for its return value. Any thread
 * outside the engine; several at once are fine. Inside a task it is a plain call.
 */
int engine_call(int (*fn)(void *arg, struct err *err), void *arg, struct err *err) WARN_UNUSED;

/* start, call, stop: what a command's main() needs. */
int engine_run(const struct engine_opts *opts, int (*fn)(void *arg, struct err *err), void *arg,
	       struct err *err) WARN_UNUSED;

enum engine_signal {
	ENGINE_TERMINATE = 1, /* SIGINT, SIGTERM; stays true */
	ENGINE_HANGUP = 2,    /* SIGHUP; once to each who waits, or to the next who will */
};

/* In a task: wait until a signal arrived or @timeout_ns passed (0: for ever). 0: timed out. */
unsigned engine_wait_signal(uint64_t timeout_ns) MAY_SUSPEND;
/* Was the process asked to end? Any thread; cheap enough for loops. */
bool engine_is_terminating(void);

#endif
