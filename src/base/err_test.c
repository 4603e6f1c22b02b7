/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of err.c: the first error stays, context goes in front, nothing runs over. */
#include "base/err.h"

#include <errno.h>

#include "base/tap.h"

TEST(set_records_and_returns)
{
	struct err err = {};

	CHECK_EQ(err_set(&err, -EINVAL, "block size %d is no power of two", 3), -EINVAL);
	CHECK_EQ(err.code, -EINVAL);
	CHECK_STR(err.msg, "block size 3 is no power of two");
	CHECK_STR(err_text(&err), err.msg);
}

TEST(first_error_stays)
{
	struct err err = {};

	(void)err_set(&err, -EIO, "first");
	CHECK_EQ(err_set(&err, -ENOMEM, "second"), -ENOMEM);
	CHECK_EQ(err_set_sys(&err, -ENOENT, "third"), -ENOENT);
	CHECK_EQ(err.code, -EIO);
	CHECK_STR(err.msg, "first");
	err_clear(&err);
	CHECK_EQ(err.code, 0);
	(void)err_set(&err, -ENOMEM, "second");
	CHECK_STR(err.msg, "second");
}

TEST(null_is_allowed)
{
	CHECK_EQ(err_set(NULL, -EIO, "nobody reads"), -EIO);
	CHECK_EQ(err_set_sys(NULL, -EIO, "nobody reads"), -EIO);
	CHECK_EQ(err_prefix(NULL, "nobody"), 0);
	CHECK_EQ(err_hint(NULL, "nobody"), 0);
	err_clear(NULL);
}

TEST(sys_appends_the_systems_words)
{
	struct err err = {};

	CHECK_EQ(err_set_sys(&err, -ENOENT, "cannot open '%s'", "/x"), -ENOENT);
	CHECK_STR(err.msg, "cannot open '/x': No such file or directory");
}

TEST(prefix_and_hint_build_a_sentence)
{
	struct err err = {};

	CHECK_EQ(err_prefix(&err, "pool"), 0);
	CHECK_EQ(err_hint(&err, "help"), 0);
	CHECK_STR(err.msg, "");
	(void)err_set(&err, -ENOSPC, "no space");
	CHECK_EQ(err_prefix(&err, "volume '%s'", "v1"), -ENOSPC);
	CHECK_EQ(err_prefix(&err, "pool '%s'", "p1"), -ENOSPC);
	CHECK_EQ(err_hint(&err, "add a disk to '%s'", "p1"), -ENOSPC);
	CHECK_STR(err.msg, "pool 'p1': volume 'v1': no space; add a disk to 'p1'");
}

TEST(long_text_is_cut_and_says_so)
{
	char wide[2 * ERR_MSG_MAX];
	struct err err = {};

	memset(wide, 'x', sizeof(wide) - 1);
	wide[sizeof(wide) - 1] = '\0';
	(void)err_set(&err, -EINVAL, "%s", wide);
	CHECK_EQ(strlen(err.msg), ERR_MSG_MAX - 1);
	CHECK_STR(err.msg + ERR_MSG_MAX - 5, "x...");
	(void)err_prefix(&err, "pool");
	CHECK_HAS(err.msg, "pool: xxx");
	CHECK_STR(err.msg + ERR_MSG_MAX - 5, "x...");
	(void)err_hint(&err, "hint");
	CHECK_EQ(strlen(err.msg), ERR_MSG_MAX - 1);
	(void)err_prefix(&err, "%s", wide);
	CHECK_STR(err.msg + ERR_MSG_MAX - 5, "x...");
}

TEST(a_long_name_does_not_hide_the_cause)
{
	char wide[2 * ERR_MSG_MAX];
	struct err err = {};

	memset(wide, 'x', sizeof(wide) - 1);
	wide[sizeof(wide) - 1] = '\0';
	(void)err_set_sys(&err, -ENOENT, "%s", wide);
	CHECK_HAS(err.msg, "xx...: No such file or directory");
	CHECK_EQ(strlen(err.msg), ERR_MSG_MAX - 1);
	err_clear(&err);
	(void)err_set(&err, -EINVAL, "it is too old");
	(void)err_prefix(&err, "%s", wide);
	CHECK_HAS(err.msg, "xx...: it is too old");
	CHECK_EQ(strlen(err.msg), ERR_MSG_MAX - 1);
}

TEST(text_that_just_fits_is_whole)
{
	struct err err = {};

	(void)err_set(&err, -EINVAL, "%0*d", ERR_MSG_MAX - 1, 7);
	CHECK_STR(err.msg + ERR_MSG_MAX - 5, "0007");
	err_clear(&err);
	(void)err_set(&err, -EINVAL, "%0*d", ERR_MSG_MAX, 7);
	CHECK_STR(err.msg + ERR_MSG_MAX - 5, "0...");
}

TEST(every_length_around_the_limit)
{
	char wide[ERR_MSG_MAX + 16];
	struct err err = {};

	for (size_t len = ERR_MSG_MAX - 12; len < sizeof(wide); len++) {
		memset(wide, 'y', len);
		wide[len] = '\0';
		err_clear(&err);
		(void)err_set(&err, -EINVAL, "%s", wide);
		(void)err_hint(&err, "do %s", "this");
		(void)err_prefix(&err, "a");
		CHECK(strnlen(err.msg, ERR_MSG_MAX) < ERR_MSG_MAX);
	}
}

TEST(a_hostile_name_stays_on_its_line)
{
	struct err err = {};

	(void)err_set(&err, -EINVAL, "no '%s'", "a\nb\033[2J\x7f\xc3\xa4");
	(void)err_prefix(&err, "%s", "pool\r");
	(void)err_hint(&err, "%s", "try\tthis");
	CHECK_STR(err.msg, "pool?: no 'a?b?[2J?\xc3\xa4'; try?this");
}

TEST(errno_names)
{
	CHECK_STR(err_errno_name(-EINVAL), "EINVAL");
	CHECK_STR(err_errno_name(ENOSPC), "ENOSPC");
	CHECK_STR(err_errno_name(0), "0");
	CHECK_STR(err_errno_name(-99999), "E?");
	CHECK_STR(err_errno_name(INT32_MIN), "E?");
}

TEST(text_of_a_bare_code)
{
	struct err err = { .code = -ENOENT };

	CHECK_STR(err_text(&err), "No such file or directory");
	err.code = INT32_MIN;
	CHECK_STR(err_text(&err), "unknown error");
	err.code = -99999;
	CHECK_STR(err_text(&err), "unknown error");
}

TAP_MAIN()
