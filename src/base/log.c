/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log: short lines for the person who runs the engine.
 *
 * A line is "12:34:56.789 warn  text" on stderr, coloured on a terminal, written by a single write
 * so that lines of several threads never mix and no lock is needed. Under systemd or in a container
 * the reader adds the date; on a terminal the day is known.
 *
 * A reader that does not read must not hold up a reactor: a line is written only where stderr takes
 * it without waiting. Lines that it did not take are counted, and the next one that is written
 * comes with their number. Before a write the thread asks poll(); a pipe that has room has a page
 * of it, so LOG_WRITERS_MAX threads may write at once, and more wait for each other, never for the
 * reader. A terminal has room for some, nobody knows how much: a line goes there through an open
 * file of its own that does not wait, and what is cut off ends where the next line begins. What is
 * left is another process that fills the same pipe between the two calls, and a terminal that we
 * may not open (it is another user's).
 *
 * A call site that fires in a loop must not bury the line that explains the loop. Each call site
 * (the macro's static struct log_site) may write LOG_BURST lines per LOG_INTERVAL_S; what exceeds
 * that is counted, and the site's first line of a later interval says how many were kept back. The
 * limit counts by call site and not by text: the site is known without hashing, and one site is one
 * kind of trouble. Debug lines are not limited: who asks for them wants them all.
 *
 * Invariants
 *   1. One message, one line: control characters inside a message become '?', so a hostile name
 *      from the network can neither forge a line nor drive the terminal.
 *   2. errno survives a call: log lines stand between a failing call and its handling.
 *   3. Counting is relaxed: under a race two threads may both write the line that opens an
 * interval. Nothing depends on the exact number.
 *
 * Thread rule: log_write from any thread; the setters before threads start.
 *
 * Rejected: syslog and journald protocols (stderr reaches both); a log thread (a crash would lose
 * the lines that explain it); JSON lines (the text already carries key=value); O_NONBLOCK on stderr
 * (it is shared with whoever started us, and with our children).
 */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "base/err.h"

_Atomic int log_level_now = -1;

static const char *const level_names[] = { "error", "warn", "info", "debug" };
static const char *const level_colours[] = { "\033[31m", "\033[33m", "", "\033[2m" };

static_assert(ARRAY_LEN(level_names) == LOG_LEVEL_COUNT_, "a name for each level");
static_assert(ARRAY_LEN(level_colours) == LOG_LEVEL_COUNT_, "a colour for each level");

enum {
	LOG_HEAD_MAX = 64,   /* bytes of time, level and colours */
	LOG_WRITERS_MAX = 3, /* threads that write at once */
	LOG_PAGE = 4096,     /* bytes that a pipe takes which is ready for some: PIPE_BUF */
};
static_assert(LOG_WRITERS_MAX * (LOG_LINE_MAX + 2 * LOG_HEAD_MAX) <= LOG_PAGE,
	      "what all of them write has room");

static atomic_uint writers;
static _Atomic uint64_t lines_lost; /* since the last that was written */
static atomic_bool is_cut;          /* the last one has no end */

static log_sink_fn sink_fn;   /* NULL: stderr */
static void *sink_ctx;        /* borrowed */
static log_clock_fn clock_fn; /* NULL: CLOCK_REALTIME */
static void *clock_ctx;       /* borrowed */

int log_level_from_env(void)
{
	enum log_level level = LOG_INFO;
	const char *name = getenv("ASHLAR_LOG");
	int unread = -1;

	if (name != NULL && log_level_parse(name, &level) < 0)
		level = LOG_INFO;
	/* Whoever set a level meanwhile wins over the environment. */
	if (atomic_compare_exchange_strong(&log_level_now, &unread, (int)level))
		return (int)level;
	return unread;
}

void log_set_level(enum log_level level)
{
	atomic_store(&log_level_now, (int)level);
}

int log_level_parse(const char *name, enum log_level *ret_level)
{
	for (unsigned i = 0; i < LOG_LEVEL_COUNT_; i++) {
		if (strcmp(name, level_names[i]) == 0) {
			*ret_level = (enum log_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

const char *log_level_name(enum log_level level)
{
	return (unsigned)level < LOG_LEVEL_COUNT_ ? level_names[level] : "?";
}

void log_set_sink(log_sink_fn sink, void *ctx)
{
	sink_fn = sink;
	sink_ctx = ctx;
}

void log_set_clock(log_clock_fn clock, void *ctx)
{
	clock_fn = clock;
	clock_ctx = ctx;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	if (clock_fn != NULL)
		return clock_fn(clock_ctx);
	(void)clock_gettime(CLOCK_REALTIME, &ts); /* cannot fail for this clock */
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static bool takes_some(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLOUT };

	return poll(&pfd, 1, 0) > 0 && (pfd.revents & POLLOUT) != 0;
}

/* False: nobody reads. */
static bool write_some(int fd, const char *line, size_t len)
{
	ssize_t written;

	if (!takes_some(fd))
		return false;
	written = write(fd, line, len);
	if (written < 0)
		return errno != EAGAIN; /* nobody is left to tell when stderr itself fails */
	if ((size_t)written < len)
		atomic_store(&is_cut, true);
	return (size_t)written == len;
}

static bool write_terminal(const char *line, size_t len)
{
	int fd = open("/proc/self/fd/2", O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	bool is_read = write_some(fd >= 0 ? fd : STDERR_FILENO, line, len);

	if (fd >= 0)
		close(fd);
	return is_read;
}

/* False: nobody reads. Nothing of it was written then, or to a terminal its begin. */
static bool write_if_read(const char *line, size_t len)
{
	bool is_read;

	while (atomic_fetch_add(&writers, 1) >= LOG_WRITERS_MAX) {
		atomic_fetch_sub(&writers, 1);
		(void)sched_yield();
	}
	is_read = isatty(STDERR_FILENO) == 1 ? write_terminal(line, len)
					     : write_some(STDERR_FILENO, line, len);
	atomic_fetch_sub(&writers, 1);
	return is_read;
}

static void write_stderr(enum log_level level, uint64_t at_ns, const char *text)
{
	static _Atomic int terminal = -1;
	char line[LOG_LINE_MAX + 2 * LOG_HEAD_MAX];
	uint64_t lost = atomic_exchange(&lines_lost, 0);
	time_t at_s = (time_t)(at_ns / 1000000000u);
	struct tm tm;
	int used = 0;
	int is_terminal = atomic_load_explicit(&terminal, memory_order_relaxed);
	int len;

	if (is_terminal < 0) {
		is_terminal = isatty(STDERR_FILENO) == 1 && getenv("NO_COLOR") == NULL;
		atomic_store_explicit(&terminal, is_terminal, memory_order_relaxed);
	}
	if (localtime_r(&at_s, &tm) == NULL)
		tm = (struct tm){};
	if (lost > 0)
		used = snprintf(line, sizeof(line), "%s(%llu lines lost: nobody read them)\n",
				atomic_exchange(&is_cut, false) ? "\n" : "",
				(unsigned long long)lost);
	len = snprintf(line + used, sizeof(line) - (size_t)used,
		       "%02d:%02d:%02d.%03u %s%-5s%s %s\n", tm.tm_hour, tm.tm_min, tm.tm_sec,
		       (unsigned)(at_ns / 1000000u % 1000u),
		       is_terminal ? level_colours[level] : "", level_names[level],
		       is_terminal ? "\033[0m" : "", text);
	if (!write_if_read(line, (size_t)MIN(used + len, (int)sizeof(line) - 1)))
		atomic_fetch_add(&lines_lost, lost + 1);
}

/* Whether the site may write; *@ret_kept_back counts lines of an earlier interval not yet told. */
static bool site_admits(struct log_site *site, uint64_t at_ns, uint32_t *ret_kept_back)
{
	uint64_t window = at_ns / (LOG_INTERVAL_S * 1000000000ull) + 1;
	uint32_t count;

	*ret_kept_back = 0;
	if (atomic_exchange_explicit(&site->window, window, memory_order_relaxed) != window) {
		count = atomic_exchange_explicit(&site->count, 0, memory_order_relaxed);
		*ret_kept_back = count > LOG_BURST ? count - LOG_BURST : 0;
	}
	return atomic_fetch_add_explicit(&site->count, 1, memory_order_relaxed) < LOG_BURST;
}

/* Keeps UTF-8 as it is; makes one printable line of what a message may have brought along. */
static void one_line(char *text)
{
	for (; *text != '\0'; text++) {
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			*text = '?';
	}
}

void log_write(struct log_site *site, enum log_level level, const char *fmt, ...)
{
	int saved_errno = errno;
	char text[LOG_LINE_MAX];
	uint64_t at_ns = now_ns();
	uint32_t kept_back = 0;
	va_list args;
	int len;

	if (level != LOG_DEBUG && !site_admits(site, at_ns, &kept_back)) {
		errno = saved_errno;
		return;
	}
	va_start(args, fmt);
	len = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (len < 0)
		text[0] = '\0';
	if (kept_back > 0 && len >= 0 && len < (int)sizeof(text))
		len += snprintf(text + len, sizeof(text) - (size_t)len, " (%u more not shown)",
				kept_back);
	if (len >= (int)sizeof(text))
		memcpy(text + sizeof(text) - 4, "...", 4);
	one_line(text);
	if (sink_fn != NULL)
		sink_fn(sink_ctx, level, at_ns, text);
	else
		write_stderr(level, at_ns, text);
	errno = saved_errno;
}
