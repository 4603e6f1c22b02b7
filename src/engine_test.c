/* SPDX-License-Identifier: Apache-2.0 */
/* The engine in a process: its door, signals, end, and what it says where it may not run. */
#include "engine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/tap.h"
#include "device/device.h"
#include "reactor/mem.h"
#include "reactor/worker.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED 1
#else
#define IS_SANITIZED 0
#endif

enum { NOBODY = 65534 };

/* ---- children: for what ends a process or changes it for good -------------------------------- */

struct child {
	int status;      /* of waitpid */
	char said[8192]; /* on stderr */
};

/* Run fn(arg) in a child; what it returns is the exit status. */
static void child_run(struct child *child, int (*fn)(void *arg), void *arg)
{
	struct rlimit no_core = {};
	int fd[2];
	size_t len = 0;
	ssize_t n;
	pid_t pid;

	memset(child, 0, sizeof(*child));
	child->status = -1;
	if (!CHECK_EQ(pipe2(fd, O_CLOEXEC), 0))
		return;
	(void)fflush(stdout);
	pid = fork();
	if (pid == 0) {
		(void)setrlimit(RLIMIT_CORE, &no_core);
		(void)dup2(fd[1], STDERR_FILENO);
		(void)dup2(fd[1], STDOUT_FILENO);
		(void)close(fd[0]);
		(void)close(fd[1]);
		_exit(fn(arg));
	}
	(void)close(fd[1]);
	while (len < sizeof(child->said) - 1 &&
	       (n = read(fd[0], child->said + len, sizeof(child->said) - 1 - len)) > 0)
		len += (size_t)n;
	(void)close(fd[0]);
	CHECK_EQ(waitpid(pid, &child->status, 0), pid);
}

static bool child_exited(const struct child *child, int code)
{
	return CHECK(WIFEXITED(child->status)) && CHECK_EQ(WEXITSTATUS(child->status), code);
}

static bool child_died(const struct child *child, int sig)
{
	return CHECK(WIFSIGNALED(child->status)) && CHECK_EQ(WTERMSIG(child->status), sig);
}

static unsigned open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	if (dir == NULL)
		return 0;
	while (readdir(dir) != NULL)
		n++;
	(void)closedir(dir);
	return n;
}

static unsigned mappings(void)
{
	FILE *maps CLEANUP(fclosep) = fopen("/proc/self/maps", "re");
	unsigned n = 0;
	int c;

	while (maps != NULL && (c = fgetc(maps)) != EOF)
		n += c == '\n';
	return n;
}

/* Two reactors where there are two cores, one elsewhere. */
static struct engine_opts two(void)
{
	struct engine_opts opts = {};
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	(void)sched_getaffinity(0, sizeof(cpus), &cpus);
	if (CPU_ISSET(0, &cpus) && CPU_ISSET(1, &cpus))
		opts.reactor.core_mask = 0x3;
	return opts;
}

static bool start(const struct engine_opts *opts)
{
	struct err err = {};

	return CHECK_EQ(engine_start(opts, &err), 0) || CHECK_STR(err.msg, "");
}

/* ---- calls ----------------------------------------------------------------------------------- */

enum { CALLERS = 6, CALLS = 300 };

static unsigned nested_calls;

static int count_one(void *arg, struct err *err)
{
	unsigned before = nested_calls;

	(void)err;
	CHECK(task_self() != NULL && reactor_self() == reactor_primary());
	nested_calls = before + 1; /* tasks do not interleave where they do not suspend */
	return *(int *)arg;
}

static int call_nested(void *arg, struct err *err)
{
	const struct task *self = task_self();
	int result = engine_call(count_one, arg, err);

	CHECK(task_self() == self); /* inside a task it is a plain call */
	task_yield();
	if (*(int *)arg % 2 != 0)
		return err_set(err, -EBADMSG, "odd %d", *(int *)arg);
	return result;
}

static void *caller(void *arg)
{
	int first = *(int *)arg;

	for (int i = first; i < first + CALLS; i++) {
		struct err err = {};
		char text[32];
		int result = engine_call(call_nested, &i, &err);

		(void)snprintf(text, sizeof(text), "odd %d", i);
		CHECK_EQ(result, i % 2 != 0 ? -EBADMSG : i);
		CHECK_STR(err.msg, i % 2 != 0 ? text : "");
	}
	return NULL;
}

TEST(engine_call_serves_many_threads)
{
	struct engine_opts opts = two();
	pthread_t thread[CALLERS];
	int first[CALLERS];

	nested_calls = 0;
	if (!start(&opts))
		return;
	for (int i = 0; i < CALLERS; i++) {
		first[i] = i * CALLS;
		CHECK_EQ(pthread_create(&thread[i], NULL, caller, &first[i]), 0);
	}
	for (int i = 0; i < CALLERS; i++)
		CHECK_EQ(pthread_join(thread[i], NULL), 0);
	engine_stop();
	CHECK_EQ(nested_calls, CALLERS * CALLS);
}

/* ---- start and stop -------------------------------------------------------------------------- */

static atomic_int nstarted, nalready, nready;

static void *starter(void *arg)
{
	struct err err = {};
	int result;

	atomic_fetch_add(&nready, 1);
	while (atomic_load(&nready) < 2)
		(void)sched_yield();
	result = engine_start(arg, &err);
	atomic_fetch_add(result == 0 ? &nstarted : &nalready, 1);
	if (result != 0) {
		CHECK_EQ(result, -EALREADY);
		CHECK_HAS(err.msg, "already");
	}
	return NULL;
}

TEST(engine_starts_once)
{
	struct engine_opts opts = {};
	struct err err = {};
	pthread_t thread[2];
	int zero = 0;

	atomic_store(&nready, 0);
	for (size_t i = 0; i < ARRAY_LEN(thread); i++)
		CHECK_EQ(pthread_create(&thread[i], NULL, starter, &opts), 0);
	for (size_t i = 0; i < ARRAY_LEN(thread); i++)
		CHECK_EQ(pthread_join(thread[i], NULL), 0);
	CHECK_EQ(atomic_load(&nstarted), 1);
	CHECK_EQ(atomic_load(&nalready), 1);
	CHECK_EQ(engine_start(&opts, &err), -EALREADY);
	CHECK_EQ(engine_call(count_one, &zero, NULL), 0); /* the first is as it was */
	engine_stop();
	engine_stop(); /* nothing to stop is fine */
	err_clear(&err);
	CHECK_EQ(engine_start(&opts, &err), 0);
	engine_stop();
}

static void leave_late(void *arg)
{
	task_sleep(20000000);
	*(bool *)arg = true;
}

static bool has_left;

static int leave_things_behind(void *arg, struct err *err)
{
	struct device *dev;
	struct desc *desc;

	(void)arg;
	has_left = false;
	CHECK_EQ(task_spawn("late", leave_late, &has_left), 0);
	CHECK_EQ(device_create("malloc:///left?size_mb=4", &dev, err), 0);
	CHECK_EQ(device_create("null:///n?size_mb=4", &dev, err), 0);
	CHECK_EQ(desc_open(dev, &(struct desc_opts){}, &desc, err), 0);
	desc_close(desc);
	return 0;
}

TEST(engine_starts_again_and_leaves_nothing)
{
	struct engine_opts opts = two();
	unsigned files = open_files(), maps = 0;
	uint64_t dma;

	opts.handle_signals = true;
	dma = dma_bytes_in_use();
	for (int i = 0; i < 20; i++) {
		struct err err = {};

		if (!CHECK_EQ(engine_run(&opts, leave_things_behind, NULL, &err), 0))
			return;
		CHECK(has_left); /* stop waits for tasks */
		CHECK_EQ(open_files(), files);
		CHECK_EQ(dma_bytes_in_use(), dma);
		CHECK_EQ(reactor_count(), 0);
		if (i == 4)
			maps = mappings(); /* the C library has its arenas and spare stacks */
	}
	printf("# mappings after 5 and after 20 rounds: %u, %u\n", maps, mappings());
	CHECK(mappings() < maps + 15); /* less than one per round */
}

static int cannot_start_on_core_63(void *arg, struct err *err)
{
	(void)arg;
	(void)err;
	return 0;
}

TEST(engine_survives_a_start_that_failed)
{
	struct engine_opts bad = { .reactor.core_mask = 1ull << 63 | 1, .handle_signals = true };
	struct engine_opts good = {};
	struct err err = {};
	unsigned files = open_files();
	sigset_t before, after;

	(void)pthread_sigmask(SIG_SETMASK, NULL, &before);
	CHECK(engine_run(&bad, cannot_start_on_core_63, NULL, &err) < 0);
	CHECK_HAS(err.msg, "core 63");
	(void)pthread_sigmask(SIG_SETMASK, NULL, &after);
	CHECK_EQ(sigismember(&before, SIGTERM), sigismember(&after, SIGTERM));
	CHECK_EQ(open_files(), files);
	err_clear(&err);
	CHECK_EQ(engine_run(&good, cannot_start_on_core_63, NULL, &err), 0);
}

/* ---- signals --------------------------------------------------------------------------------- */

static int wait_for_signals(void *arg, struct err *err)
{
	uint64_t before_ns = reactor_self()->now_ns; /* what timers count from */

	(void)arg;
	(void)err;
	CHECK(!engine_is_terminating());
	CHECK_EQ(engine_wait_signal(30000000), 0);
	CHECK(reactor_clock(reactor_self()) - before_ns >= 30000000);
	CHECK_EQ(kill(getpid(), SIGHUP), 0);
	CHECK_EQ(engine_wait_signal(0), ENGINE_HANGUP);
	CHECK_EQ(engine_wait_signal(1000000), 0); /* told once */
	CHECK_EQ(kill(getpid(), SIGHUP), 0);
	task_sleep(20000000); /* it arrives while nobody waits */
	CHECK_EQ(engine_wait_signal(5000000000), ENGINE_HANGUP);
	CHECK(!engine_is_terminating());
	CHECK_EQ(kill(getpid(), SIGTERM), 0);
	CHECK_EQ(engine_wait_signal(5000000000), ENGINE_TERMINATE);
	CHECK(engine_is_terminating());
	CHECK_EQ(engine_wait_signal(0), ENGINE_TERMINATE); /* stays true */
	CHECK_EQ(kill(getpid(), SIGHUP), 0);
	task_sleep(20000000);
	CHECK_EQ(engine_wait_signal(0), ENGINE_TERMINATE | ENGINE_HANGUP);
	return 0;
}

TEST(engine_tells_signals)
{
	struct engine_opts opts = two();
	struct err err = {};

	opts.handle_signals = true;
	CHECK_EQ(engine_run(&opts, wait_for_signals, NULL, &err), 0);
	CHECK_EQ(engine_run(&(struct engine_opts){}, count_one, &(int){ 0 }, &err), 0);
	CHECK(!engine_is_terminating()); /* a new engine starts afresh */
}

struct waiting {
	unsigned signals;
	struct task_event ended;
};

static void wait_for_ever(void *arg)
{
	struct waiting *waiting = arg;

	waiting->signals = engine_wait_signal(0);
	task_event_fire(&waiting->ended);
}

static int two_wait(void *arg, struct err *err)
{
	struct waiting waiting[2] = {};

	(void)arg;
	(void)err;
	for (int i = 0; i < 2; i++)
		CHECK_EQ(task_spawn("waiter", wait_for_ever, &waiting[i]), 0);
	task_yield();
	CHECK_EQ(kill(getpid(), SIGHUP), 0);
	for (int i = 0; i < 2; i++) {
		task_event_wait(&waiting[i].ended);
		CHECK_EQ(waiting[i].signals, ENGINE_HANGUP);
	}
	CHECK_EQ(engine_wait_signal(1000000), 0);
	return 0;
}

TEST(engine_tells_every_waiter)
{
	struct engine_opts opts = { .handle_signals = true };
	struct err err = {};

	CHECK_EQ(engine_run(&opts, two_wait, NULL, &err), 0);
}

static int ask_twice(void *arg, struct err *err)
{
	(void)arg;
	(void)err;
	(void)kill(getpid(), SIGTERM);
	(void)engine_wait_signal(0);
	task_sleep(200000000);
	(void)kill(getpid(), SIGTERM);
	task_sleep(20000000000);
	return 0;
}

static int child_ask_twice(void *arg)
{
	struct engine_opts opts = { .handle_signals = true };

	(void)arg;
	return engine_run(&opts, ask_twice, NULL, NULL);
}

TEST(engine_ends_at_once_when_asked_twice)
{
	struct child child;

	child_run(&child, child_ask_twice, NULL);
	(void)child_exited(&child, 128 + SIGTERM);
	CHECK_HAS(child.said, "asked twice");
}

static int ask_by_two_signals(void *arg, struct err *err)
{
	(void)arg;
	(void)err;
	(void)kill(getpid(), SIGTERM);
	(void)engine_wait_signal(0);
	(void)kill(getpid(), SIGINT);
	task_sleep(1200000000); /* what does not answer */
	return 0;
}

static int child_ask_by_two_signals(void *arg)
{
	struct engine_opts opts = { .handle_signals = true };

	(void)arg;
	return engine_run(&opts, ask_by_two_signals, NULL, NULL);
}

/* timeout(1) signals the process and its group; and what takes long is said. */
TEST(engine_takes_two_signals_at_once_for_one)
{
	struct child child;

	child_run(&child, child_ask_by_two_signals, NULL);
	(void)child_exited(&child, 0);
	CHECK_HAS(child.said, "asking again ends at once");
}

static int child_signal_after_stop(void *arg)
{
	struct engine_opts opts = { .handle_signals = true };

	(void)arg;
	if (engine_run(&opts, count_one, &(int){ 0 }, NULL) < 0)
		return 1;
	(void)raise(SIGTERM);
	return 2;
}

TEST(engine_gives_signals_back_when_it_stops)
{
	struct child child;

	child_run(&child, child_signal_after_stop, NULL);
	(void)child_died(&child, SIGTERM);
}

/* ---- crashes --------------------------------------------------------------------------------- */

static void crash(void *arg)
{
	volatile int *volatile nowhere = NULL;

	if (*(int *)arg == SIGSEGV)
		*nowhere = 1;
	abort();
}

struct crash_case {
	const char *name;
	const char *says;
	int sig;
	enum { IN_TASK, ON_OTHER_REACTOR, ON_WORKER, OUTSIDE } where;
};

static int crash_somewhere(void *arg, struct err *err)
{
	const struct crash_case *row = arg;
	int sig = row->sig;

	(void)err;
	switch (row->where) {
	case IN_TASK:
		crash(&sig);
		break;
	case ON_OTHER_REACTOR:
		task_call(reactor_get(reactor_count() - 1), crash, &sig);
		break;
	case ON_WORKER:
		task_blocking(crash, &sig);
		break;
	case OUTSIDE:
		break;
	}
	return 0;
}

static int child_crash(void *arg)
{
	struct engine_opts opts = two();
	int sig = ((const struct crash_case *)arg)->sig;

	opts.handle_signals = true;
	if (engine_start(&opts, NULL) < 0 || engine_call(crash_somewhere, arg, NULL) < 0)
		return 1;
	crash(&sig);
	return 2;
}

TEST(crash_prints_a_backtrace_and_keeps_its_signal)
{
	struct crash_case rows[] = {
		{ "task", "Segmentation fault", SIGSEGV, IN_TASK },
		{ "reactor", "Segmentation fault", SIGSEGV, ON_OTHER_REACTOR },
		{ "worker", "Segmentation fault", SIGSEGV, ON_WORKER },
		{ "outside", "Segmentation fault", SIGSEGV, OUTSIDE },
		{ "task, abort", "Aborted", SIGABRT, IN_TASK },
		{ "worker, abort", "Aborted", SIGABRT, ON_WORKER },
	};
	struct child child;

	if (IS_SANITIZED) {
		SKIP("sanitizers report crashes themselves");
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		TAP_ROW(rows[i].name);
		child_run(&child, child_crash, &rows[i]);
		(void)child_died(&child, rows[i].sig);
		CHECK_HAS(child.said, "fatal signal");
		CHECK_HAS(child.said, rows[i].says);
		CHECK_HAS(child.said, "backtrace");
		CHECK_HAS(child.said, "(+0x"); /* at least one frame of this program */
	}
	TAP_ROW(NULL);
}

/* ---- where the engine may not run ------------------------------------------------------------ */

static void forbid_io_uring(int error)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = ARRAY_LEN(code), .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		abort();
}

/* Start, say the error; the exit status is the error's number. */
static int start_and_say(void)
{
	struct engine_opts opts = two();
	struct err err = {};
	unsigned files = open_files();
	int result;

	opts.handle_signals = true;
	result = engine_start(&opts, &err);
	if (result == 0)
		engine_stop();
	if (result == 0 ? err.code != 0 : err.code != result)
		return 255;
	printf("%s\n", err.msg);
	if (open_files() != files)
		printf("files: %u, then %u\n", files, open_files());
	(void)fflush(stdout);
	return -result;
}

static int child_without_io_uring(void *arg)
{
	forbid_io_uring(*(int *)arg);
	return start_and_say();
}

TEST(engine_says_that_seccomp_forbids_io_uring)
{
	int errors[] = { EPERM, ENOSYS };
	struct child child;

	for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
		child_run(&child, child_without_io_uring, &errors[i]);
		(void)child_exited(&child, errors[i]);
		CHECK_HAS(child.said, "seccomp");
		CHECK_HAS(child.said, "io_uring_setup");
		CHECK(strstr(child.said, "files:") == NULL);
	}
}

#define SYSCTL "/proc/sys/kernel/io_uring_disabled"

/* What the kernel would answer, and a file over the sysctl that says why, for this child alone. */
static int child_with_sysctl(void *arg)
{
	char file[] = "/tmp/ashlar-sysctl-XXXXXX";
	int fd;

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return 253;
	fd = mkstemp(file);
	if (fd < 0 || write(fd, arg, 1) != 1 || write(fd, "\n", 1) != 1)
		return 253;
	(void)close(fd);
	if (mount(file, SYSCTL, NULL, MS_BIND, NULL) < 0) {
		(void)unlink(file);
		return 253;
	}
	(void)unlink(file);
	forbid_io_uring(EPERM);
	return start_and_say();
}

TEST(engine_says_that_a_sysctl_forbids_io_uring)
{
	struct child child;

	if (access(SYSCTL, R_OK) != 0) {
		SKIP("this kernel has no " SYSCTL " (6.6 brought it)");
		return;
	}
	child_run(&child, child_with_sysctl, (char[]){ "2" });
	if (WIFEXITED(child.status) && WEXITSTATUS(child.status) == 253) {
		SKIP("may not mount over " SYSCTL ": run this test as root");
		return;
	}
	(void)child_exited(&child, EPERM);
	CHECK_HAS(child.said, "sysctl kernel.io_uring_disabled=2");
	CHECK_HAS(child.said, "set it to 0");
	child_run(&child, child_with_sysctl, (char[]){ "1" });
	(void)child_exited(&child, EPERM);
	CHECK_HAS(child.said, "io_uring_group");
}

struct limit_case {
	const char *name;
	int resource;
	rlim_t limit;
};

/* As an ordinary user: root is above most limits. */
static int child_with_limit(void *arg)
{
	const struct limit_case *row = arg;
	struct rlimit limit = { .rlim_cur = row->limit, .rlim_max = row->limit };

	if (setrlimit((__rlimit_resource_t)row->resource, &limit) < 0)
		return 254;
	if (geteuid() == 0 && setresuid(NOBODY, NOBODY, NOBODY) < 0)
		return 254;
	return start_and_say();
}

TEST(engine_names_the_limit_of_open_files)
{
	struct limit_case row = { "open files", RLIMIT_NOFILE, 3 };
	unsigned refused = 0;
	struct child child;

	for (; row.limit < 200; row.limit++) {
		child_run(&child, child_with_limit, &row);
		if (!CHECK(WIFEXITED(child.status)) || WEXITSTATUS(child.status) == 0)
			break;
		(void)child_exited(&child, EMFILE);
		CHECK_HAS(child.said, "ulimit -n");
		CHECK(strstr(child.said, "files:") == NULL);
		refused++;
	}
	printf("# refused with %u different limits of open files, starts with %u\n", refused,
	       (unsigned)row.limit);
	CHECK(refused > 2);
	CHECK_EQ(child.status, 0);
}

TEST(engine_starts_with_little_locked_memory_or_says_why)
{
	struct limit_case row = { "locked memory", RLIMIT_MEMLOCK, 0 };
	struct child child;

	child_run(&child, child_with_limit, &row);
	if (!CHECK(WIFEXITED(child.status)) || WEXITSTATUS(child.status) == 0)
		return; /* the kernel does not count rings */
	(void)child_exited(&child, ENOMEM);
	CHECK_HAS(child.said, "ulimit -l");
}

TEST(engine_names_the_limit_of_threads)
{
	struct limit_case row = { "threads", RLIMIT_NPROC, 0 };
	struct child child;

	if (geteuid() != 0 && geteuid() != NOBODY)
		printf("# counted with all processes of user %u\n", geteuid());
	child_run(&child, child_with_limit, &row);
	(void)child_exited(&child, EAGAIN);
	CHECK_HAS(child.said, "ulimit -u");
	CHECK(strstr(child.said, "files:") == NULL);
}

TAP_MAIN()
