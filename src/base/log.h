/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.h - four levels, one line per message, to stderr.
 *
 * Thread: any. Never called per I/O.
 * Rules:  a line names the object, the operation, the cause and the consequence, with the variable
 *         parts as key=value: log_warn("child lost nexus=%s child=%s: %s, continuing degraded",
 * ...). Library code returns errors; only the one who handles an error logs it.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H
#include <stdatomic.h>
#include <stdarg.h>

#include "base/base.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_LEVEL_COUNT_ };

enum {
	LOG_LINE_MAX = 1024, /* bytes of one message, NUL included; longer text ends in "..." */
	LOG_BURST = 10,      /* lines one call site may write within one interval */
	LOG_INTERVAL_S = 5,  /* length of that interval, seconds */
};

/* Where lines go. @text is one message without a line feed; @now_ns is the log clock's time. The
 * sink is called with no lock held and may be called from several threads at once. */
typedef void (*log_sink_fn)(void *ctx, enum log_level level, uint64_t now_ns, const char *text);
typedef uint64_t (*log_clock_fn)(void *ctx);

/* One per call site, static: how many lines it wrote and kept back in the current interval. */
struct log_site {
	_Atomic uint64_t window; /* number of the interval that `count` counts, plus 1 */
	_Atomic uint32_t count;  /* calls within that interval */
};

extern _Atomic int log_level_now; /* only for the macros below; -1 = not yet read */

/* The level from ASHLAR_LOG (error, warn, info, debug), info when it is unset or unknown. */
COLD int log_level_from_env(void);

static inline bool log_enabled(enum log_level level)
{
	int now = atomic_load_explicit(&log_level_now, memory_order_relaxed);

	if (unlikely(now < 0))
		now = log_level_from_env();
	return (int)level <= now;
}

void log_set_level(enum log_level level);

/* "warn" -> LOG_WARN; -EINVAL for a name that is none. */
WARN_UNUSED int log_level_parse(const char *name, enum log_level *ret_level);
const char *log_level_name(enum log_level level);

/* Replace sink or clock; NULL restores the built-in one. For start-up and tests: the caller sees to
 * it that no other thread logs meanwhile. The clock is CLOCK_REALTIME unless replaced. */
void log_set_sink(log_sink_fn sink, void *ctx);
void log_set_clock(log_clock_fn clock, void *ctx);

void log_write(struct log_site *site, enum log_level level, const char *fmt, ...) PRINTF(3, 4) COLD;

#define log_at_(level, ...)                                        \
	do {                                                       \
		static struct log_site log_site_;                  \
		if (log_enabled(level))                            \
			log_write(&log_site_, level, __VA_ARGS__); \
	} while (0)

#define log_error(...) log_at_(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_at_(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_at_(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_at_(LOG_DEBUG, __VA_ARGS__)
#endif
