/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tap.h - the harness of the unit tests: the Test Anything Protocol in one header.
 *
 *	TEST(uri_refuses_userinfo)
 *	{
 *		CHECK_EQ(uri_parse("aio://me@host/x", &uri, &err), -EINVAL);
 *		CHECK_HAS(err.msg, "user");
 *	}
 *
 *	TAP_MAIN()
 *
 * Tests run in the order they are written; arguments on the command line select those whose name
 * contains one of them. A failed check prints file, line and values, and the test goes on: every
 * check is an expression that is false when it failed, for `if (!CHECK(x != NULL)) return;`.
 * TAP_ROW(name) names the row of a table whose checks follow. SKIP(reason) then return: the reason
 * is printed and counted. The exit code is 0 when nothing failed, else 1.
 */
#ifndef BASE_TAP_H
#define BASE_TAP_H
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "base/base.h"

struct tap_test {
	const char *name;
	void (*run)(void);
	struct tap_test *next;
};

static struct tap_state {
	struct tap_test *tests; /* in order of definition */
	struct tap_test **last;
	const char *row; /* row of the table under test, or NULL */
	char skip[256];  /* reason; empty when the test was not skipped */
	unsigned failed; /* checks of the running test that failed */
} tap_;

#define TEST(id)                                                                 \
	static void test_##id(void);                                             \
	__attribute__((constructor)) static void tap_add_##id(void)              \
	{                                                                        \
		static struct tap_test test = { .name = #id, .run = test_##id }; \
		tap_add(&test);                                                  \
	}                                                                        \
	static void test_##id(void)

static inline void tap_add(struct tap_test *test)
{
	if (tap_.last == NULL)
		tap_.last = &tap_.tests;
	*tap_.last = test;
	tap_.last = &test->next;
}

#define TAP_ROW(name) (tap_.row = (name))
#define SKIP(...)     ((void)snprintf(tap_.skip, sizeof(tap_.skip), __VA_ARGS__))

static inline PRINTF(3, 4) bool tap_fail(const char *file, int line, const char *fmt, ...)
{
	char text[1024];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	for (char *at = text; (at = strchr(at, '\n')) != NULL;)
		*at = '|'; /* what follows a line feed would not be a comment */
	printf("# %s:%d: %s", file, line, text);
	if (tap_.row != NULL)
		printf(" (row '%s')", tap_.row);
	printf("\n");
	tap_.failed++;
	return false;
}

static inline bool tap_check(const char *file, int line, const char *text, bool is_true)
{
	return is_true || tap_fail(file, line, "%s is false", text);
}

static inline bool tap_eq(const char *file, int line, const char *a_text, const char *b_text,
			  long long a, long long b)
{
	return a == b ||
	       tap_fail(file, line, "%s is %lld (0x%llx), expected %s = %lld (0x%llx)", a_text, a,
			(unsigned long long)a, b_text, b, (unsigned long long)b);
}

static inline bool tap_str(const char *file, int line, const char *a_text, const char *a,
			   const char *b)
{
	if (a == NULL || b == NULL)
		return a == b || tap_fail(file, line, "%s is %s, expected %s", a_text,
					  a != NULL ? a : "NULL", b != NULL ? b : "NULL");
	return strcmp(a, b) == 0 ||
	       tap_fail(file, line, "%s is \"%s\", expected \"%s\"", a_text, a, b);
}

static inline bool tap_has(const char *file, int line, const char *a_text, const char *a,
			   const char *part)
{
	return strstr(a, part) != NULL ||
	       tap_fail(file, line, "%s is \"%s\", without \"%s\"", a_text, a, part);
}

static inline bool tap_mem(const char *file, int line, const char *a_text, const void *a,
			   const void *b, size_t len)
{
	const uint8_t *x = a, *y = b;

	for (size_t i = 0; i < len; i++) {
		if (x[i] != y[i])
			return tap_fail(file, line,
					"%s differs at byte %zu of %zu: 0x%02x, not 0x%02x", a_text,
					i, len, x[i], y[i]);
	}
	return true;
}

#define CHECK(expr)        tap_check(__FILE__, __LINE__, #expr, !!(expr))
#define CHECK_EQ(a, b)     tap_eq(__FILE__, __LINE__, #a, #b, (long long)(a), (long long)(b))
#define CHECK_STR(a, b)    tap_str(__FILE__, __LINE__, #a, a, b)
#define CHECK_HAS(a, part) tap_has(__FILE__, __LINE__, #a, a, part)
#define CHECK_MEM(a, b, n) tap_mem(__FILE__, __LINE__, #a, a, b, n)

static inline bool tap_selected(const struct tap_test *test, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (strstr(test->name, argv[i]) != NULL)
			return true;
	}
	return argc < 2;
}

static inline int tap_main(int argc, char **argv)
{
	unsigned planned = 0, number = 0, failed = 0, skipped = 0;

	for (struct tap_test *test = tap_.tests; test != NULL; test = test->next)
		planned += tap_selected(test, argc, argv);
	(void)setvbuf(stdout, NULL, _IOLBF, 0); /* a crash must not swallow what was printed */
	printf("1..%u\n", planned);
	for (struct tap_test *test = tap_.tests; test != NULL; test = test->next) {
		if (!tap_selected(test, argc, argv))
			continue;
		tap_.row = NULL;
		tap_.failed = 0;
		tap_.skip[0] = '\0';
		test->run();
		failed += tap_.failed != 0;
		skipped += tap_.failed == 0 && tap_.skip[0] != '\0';
		printf("%s %u - %s%s%s\n", tap_.failed != 0 ? "not ok" : "ok", ++number, test->name,
		       tap_.skip[0] != '\0' ? " # SKIP " : "", tap_.skip);
	}
	printf("# %u run, %u failed, %u skipped\n", number, failed, skipped);
	return failed != 0 || planned == 0;
}

#define TAP_MAIN()                           \
	int main(int argc, char **argv)      \
	{                                    \
		return tap_main(argc, argv); \
	}
#endif
