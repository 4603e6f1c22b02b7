/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of log.c: levels, the limit of each call site, and lines that cannot be forged. */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <regex.h>
#include <sys/wait.h>

#include "base/tap.h"

struct captured {
	unsigned count;
	enum log_level level;
	uint64_t now_ns;
	char text[LOG_LINE_MAX];
};

static struct captured captured;
static uint64_t virtual_ns;

static void capture(void *ctx, enum log_level level, uint64_t now_ns, const char *text)
{
	struct captured *into = ctx;

	into->count++;
	into->level = level;
	into->now_ns = now_ns;
	snprintf(into->text, sizeof(into->text), "%s", text);
	errno = EPROTO; /* as a sink may */
}

static uint64_t virtual_clock(void *ctx)
{
	return *(uint64_t *)ctx;
}

static void begin(enum log_level level)
{
	captured = (struct captured){};
	virtual_ns = 1000 * 1000000000ull;
	log_set_sink(capture, &captured);
	log_set_clock(virtual_clock, &virtual_ns);
	log_set_level(level);
}

static void end(void)
{
	log_set_sink(NULL, NULL);
	log_set_clock(NULL, NULL);
}

TEST(levels_let_through_what_they_should)
{
	begin(LOG_WARN);
	log_error("e");
	log_warn("w");
	CHECK_EQ(captured.count, 2);
	CHECK_EQ(captured.level, LOG_WARN);
	log_info("i");
	log_debug("d");
	CHECK_EQ(captured.count, 2);
	log_set_level(LOG_DEBUG);
	log_info("i");
	log_debug("d %d", 5);
	CHECK_EQ(captured.count, 4);
	CHECK_STR(captured.text, "d 5");
	CHECK_EQ(captured.now_ns, virtual_ns);
	end();
}

TEST(level_names)
{
	enum log_level level = LOG_ERROR;

	CHECK_EQ(log_level_parse("debug", &level), 0);
	CHECK_EQ(level, LOG_DEBUG);
	CHECK_EQ(log_level_parse("loud", &level), -EINVAL);
	CHECK_EQ(level, LOG_DEBUG);
	CHECK_STR(log_level_name(LOG_WARN), "warn");
	CHECK_STR(log_level_name((enum log_level)9), "?");
}

static void noisy(int i)
{
	log_warn("noise number=%d", i);
}

TEST(a_call_site_is_limited_and_says_what_it_kept_back)
{
	begin(LOG_INFO);
	for (int i = 0; i < LOG_BURST + 25; i++)
		noisy(i);
	CHECK_EQ(captured.count, LOG_BURST);
	log_warn("another site is not limited by it");
	CHECK_EQ(captured.count, LOG_BURST + 1);
	virtual_ns += LOG_INTERVAL_S * 1000000000ull;
	noisy(99);
	CHECK_EQ(captured.count, LOG_BURST + 2);
	CHECK_STR(captured.text, "noise number=99 (25 more not shown)");
	noisy(100);
	CHECK_STR(captured.text, "noise number=100");
	end();
}

TEST(debug_is_not_limited)
{
	begin(LOG_DEBUG);
	for (int i = 0; i < 10 * LOG_BURST; i++)
		log_debug("i=%d", i);
	CHECK_EQ(captured.count, 10 * LOG_BURST);
	end();
}

TEST(a_hostile_name_stays_on_its_line)
{
	begin(LOG_INFO);
	log_info("host=%s", "evil\n12:00:00 error forged\033[2J\x7f\r\xc3\xa4");
	CHECK_STR(captured.text, "host=evil?12:00:00 error forged?[2J??\xc3\xa4");
	end();
}

TEST(long_text_is_cut_and_says_so)
{
	char wide[2 * LOG_LINE_MAX];

	memset(wide, 'x', sizeof(wide) - 1);
	wide[sizeof(wide) - 1] = '\0';
	begin(LOG_INFO);
	log_info("%s", wide);
	CHECK_EQ(strlen(captured.text), LOG_LINE_MAX - 1);
	CHECK_STR(captured.text + LOG_LINE_MAX - 5, "x...");
	end();
}

TEST(errno_survives)
{
	begin(LOG_INFO);
	for (int i = 0; i < LOG_BURST + 5; i++) {
		errno = EXDEV;
		log_info("something");
		CHECK_EQ(errno, EXDEV);
	}
	end();
}

static void *log_some(void *ctx)
{
	(void)ctx;
	for (int i = 0; i < 100; i++)
		log_debug("thread line i=%d abcdefghijklmnopqrstuvwxyz", i);
	return NULL;
}

/* Lets a child log to a pipe as stderr; reads all it wrote. */
static size_t child_output(void (*run)(void), char *buf, size_t size)
{
	int ends[2], status;
	size_t len = 0;
	ssize_t got;
	pid_t pid;

	if (pipe(ends) < 0)
		return 0;
	pid = fork();
	if (pid == 0) {
		dup2(ends[1], STDERR_FILENO);
		close(ends[0]);
		run();
		_exit(0);
	}
	close(ends[1]);
	while ((got = read(ends[0], buf + len, size - 1 - len)) > 0)
		len += (size_t)got;
	buf[len] = '\0';
	close(ends[0]);
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
	return len;
}

static void log_one(void)
{
	log_error("red");
}

TEST(colours_only_on_a_terminal)
{
	char buf[256];
	int master = posix_openpt(O_RDWR | O_NOCTTY), status;
	size_t len = 0;
	ssize_t got;
	pid_t pid;

	(void)child_output(log_one, buf, sizeof(buf));
	CHECK_HAS(buf, " error red\n");
	CHECK(strchr(buf, '\033') == NULL);
	if (!CHECK(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0))
		return;
	pid = fork();
	if (pid == 0) {
		unsetenv("NO_COLOR");
		dup2(open(ptsname(master), O_RDWR | O_NOCTTY), STDERR_FILENO);
		log_one();
		_exit(0);
	}
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
	while (len < sizeof(buf) - 1 && (got = read(master, buf + len, sizeof(buf) - 1 - len)) > 0)
		len += (size_t)got;
	buf[len] = '\0';
	close(master);
	CHECK_HAS(buf, " \033[31merror\033[0m red");
}

static void log_from_threads(void)
{
	pthread_t threads[4];

	log_set_level(LOG_DEBUG);
	for (unsigned i = 0; i < ARRAY_LEN(threads); i++) {
		if (pthread_create(&threads[i], NULL, log_some, NULL) != 0)
			_exit(1);
	}
	for (unsigned i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
}

TEST(lines_of_threads_do_not_mix)
{
	static char buf[256 * 1024];
	unsigned lines = 0;
	regex_t shape;

	if (!CHECK(regcomp(&shape,
			   "^[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3} debug thread line "
			   "i=[0-9]+ abcdefghijklmnopqrstuvwxyz$",
			   REG_EXTENDED | REG_NOSUB) == 0))
		return;
	(void)child_output(log_from_threads, buf, sizeof(buf));
	for (char *rest = buf, *line; (line = strsep(&rest, "\n")) != NULL && *line != '\0';) {
		CHECK_EQ(regexec(&shape, line, 0, NULL, 0), 0);
		lines++;
	}
	CHECK_EQ(lines, 400);
	regfree(&shape);
}

/* A pipe that is full, and nobody reads: no line may wait. */
TEST(nobody_reads)
{
	int ends[2], saved = dup(STDERR_FILENO);
	char buf[65536];
	ssize_t len;

	log_set_level(LOG_WARN);
	CHECK_EQ(pipe(ends), 0);
	CHECK_EQ(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
	CHECK_EQ(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
	memset(buf, '.', sizeof(buf));
	while (write(ends[1], buf, sizeof(buf)) > 0)
		;
	CHECK_EQ(fcntl(ends[1], F_SETFL, 0), 0);
	dup2(ends[1], STDERR_FILENO);
	alarm(20); /* ends a test that waits */
	log_warn("one");
	log_warn("two");
	while (read(ends[0], buf, sizeof(buf)) > 0)
		;
	log_warn("three");
	log_warn("four");
	len = read(ends[0], buf, sizeof(buf) - 1);
	alarm(0);
	dup2(saved, STDERR_FILENO);
	buf[MAX(len, 0)] = '\0';
	CHECK_HAS(buf, "(2 lines lost: nobody read them)\n");
	CHECK_HAS(buf, " three\n");
	CHECK_HAS(buf, " four\n");
	CHECK(strstr(buf, "one") == NULL);
	close(saved);
	close(ends[0]);
	close(ends[1]);
}

/* The same for a terminal, which has room for a part of a line in the end. */
TEST(nobody_reads_the_terminal)
{
	enum { DRAINED_MS = 200 };
	int master = posix_openpt(O_RDWR | O_NOCTTY), saved = dup(STDERR_FILENO), fd;
	struct pollfd pfd = { .fd = master, .events = POLLIN };
	char wide[LOG_LINE_MAX / 2], buf[65536];
	size_t len = 0;
	ssize_t got;

	if (!CHECK(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0))
		return;
	memset(wide, 'x', sizeof(wide) - 1);
	wide[sizeof(wide) - 1] = '\0';
	log_set_level(LOG_DEBUG);
	fd = open(ptsname(master), O_RDWR | O_NOCTTY);
	dup2(fd, STDERR_FILENO);
	alarm(20); /* ends a test that waits */
	for (int i = 0; i < 2000; i++)
		log_debug("%s", wide);
	while (poll(&pfd, 1, DRAINED_MS) > 0 && read(master, buf, sizeof(buf)) > 0)
		;
	buf[0] = '\0';
	log_warn("read again");
	while (len < sizeof(buf) - 1 && strstr(buf, " read again") == NULL &&
	       (got = read(master, buf + len, sizeof(buf) - 1 - len)) > 0) {
		len += (size_t)got;
		buf[len] = '\0';
	}
	alarm(0);
	CHECK_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, 0); /* it is not only ours */
	dup2(saved, STDERR_FILENO);
	CHECK_HAS(buf, "lines lost: nobody read them)");
	close(saved);
	close(fd);
	close(master);
}

static void log_by_env(void)
{
	atomic_store(&log_level_now, -1); /* as at program start */
	log_error("one");
	log_warn("two");
	log_debug("three");
}

TEST(environment_sets_the_level)
{
	static const struct {
		const char *value;
		unsigned lines;
	} rows[] = { { "error", 1 }, { "warn", 2 }, { "debug", 3 }, { "nonsense", 2 } };
	char buf[4096];

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		unsigned lines = 0;

		TAP_ROW(rows[i].value);
		setenv("ASHLAR_LOG", rows[i].value, 1);
		(void)child_output(log_by_env, buf, sizeof(buf));
		for (const char *at = buf; (at = strchr(at, '\n')) != NULL; at++)
			lines++;
		CHECK_EQ(lines, rows[i].lines);
		CHECK(strchr(buf, '\033') == NULL); /* a pipe is no terminal */
	}
	unsetenv("ASHLAR_LOG");
}

TAP_MAIN()
