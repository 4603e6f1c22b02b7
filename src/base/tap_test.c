/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of tap.h, on itself: a harness that cannot fail would make every other test worthless. The
 * sample_ tests fail, skip or pass on purpose, and run only in the child that tests start. */
#include "base/tap.h"

#include <sys/wait.h>

#include "base/base.h"

TEST(sample_good)
{
	CHECK(true);
	CHECK_EQ(2 + 2, 4);
	CHECK_STR("a", "a");
	CHECK_HAS("haystack", "stack");
	CHECK_MEM("abc", "abc", 3);
}

TEST(sample_skipped)
{
	SKIP("no %s here", "kernel");
}

TEST(sample_bad_check)
{
	CHECK(1 > 2);
}

TEST(sample_bad_values)
{
	const char *none = NULL;

	TAP_ROW("third");
	CHECK_EQ(1, 2);
	CHECK_STR("a", "b");
	CHECK_STR(none, "b");
	CHECK_HAS("haystack", "needle");
	CHECK_MEM("abc", "abd", 3);
}

TEST(sample_bad_skip)
{
	CHECK(false);
	SKIP("a reason that must not hide the failure");
}

/* Runs the samples whose name contains @filter in a child; its exit code, and what it printed. */
static int run_samples(const char *filter, char *buf, size_t size)
{
	char name[] = "tap_test";
	char *argv[] = { name, strdup(filter), NULL };
	int ends[2], status = -1;
	size_t len = 0;
	ssize_t got;
	pid_t pid;

	(void)fflush(stdout);
	if (!CHECK(argv[1] != NULL) || !CHECK(pipe(ends) == 0))
		return -1;
	pid = fork();
	if (pid == 0) {
		dup2(ends[1], STDOUT_FILENO);
		close(ends[0]);
		close(ends[1]);
		exit(tap_main(2, argv));
	}
	close(ends[1]);
	while ((got = read(ends[0], buf + len, size - 1 - len)) > 0)
		len += (size_t)got;
	buf[len] = '\0';
	close(ends[0]);
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	free(argv[1]);
	return WEXITSTATUS(status);
}

TEST(tap_good_run_succeeds)
{
	char out[4096];

	CHECK_EQ(run_samples("sample_good", out, sizeof(out)), 0);
	CHECK_STR(out, "1..1\nok 1 - sample_good\n# 1 run, 0 failed, 0 skipped\n");
}

TEST(tap_skip_gives_its_reason_and_counts)
{
	char out[4096];

	CHECK_EQ(run_samples("sample_skipped", out, sizeof(out)), 0);
	CHECK_HAS(out, "ok 1 - sample_skipped # SKIP no kernel here\n");
	CHECK_HAS(out, "# 1 run, 0 failed, 1 skipped");
}

TEST(tap_failures_fail_and_show_values)
{
	char out[4096];

	CHECK_EQ(run_samples("sample_bad", out, sizeof(out)), 1);
	CHECK_HAS(out, "1..3\n");
	CHECK_HAS(out, "tap_test.c:26: 1 > 2 is false\nnot ok 1 - sample_bad_check\n");
	CHECK_HAS(out, "1 is 1 (0x1), expected 2 = 2 (0x2) (row 'third')");
	CHECK_HAS(out, "\"a\" is \"a\", expected \"b\"");
	CHECK_HAS(out, "none is NULL, expected b");
	CHECK_HAS(out, "\"haystack\" is \"haystack\", without \"needle\"");
	CHECK_HAS(out, "\"abc\" differs at byte 2 of 3: 0x63, not 0x64");
	CHECK_HAS(out, "not ok 3 - sample_bad_skip");
	CHECK_HAS(out, "# 3 run, 3 failed, 0 skipped");
}

TEST(tap_nothing_selected_is_no_success)
{
	char out[4096];

	CHECK_EQ(run_samples("no such test", out, sizeof(out)), 1);
	CHECK_HAS(out, "1..0\n");
}

int main(int argc, char **argv)
{
	char only_ours[] = "tap_";
	char *ours[] = { argv[0], only_ours, NULL };

	return argc > 1 ? tap_main(argc, argv) : tap_main(2, ours);
}
