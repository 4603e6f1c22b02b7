/* SPDX-License-Identifier: Apache-2.0 */
/* opt_test.c - options: every kind, every mistake, and that --help shows all of them. */
#include <errno.h>
#include <string.h>

#include "base/tap.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/opt.h"

struct values {
	bool flag;
	uint64_t number, size, seconds, mask;
	const char *text;
	unsigned choice, output;
	struct opt_list list;
};

#define AT(name) offsetof(struct values, name)

static const char *const colours[] = { "red", "green", NULL };

static const struct opt options[] = {
	{ "flag", NULL, "a flag", OPT_FLAG, AT(flag) },
	{ "number", "N", "a number", OPT_NUMBER, AT(number), 2, 10 },
	{ "size", "BYTES", "a size", OPT_SIZE, AT(size), 512 },
	{ "seconds", "SECONDS",
	  "a time\n"
	  "in two lines",
	  OPT_SECONDS, AT(seconds), 1 },
	{ "mask", "MASK", "a mask", OPT_MASK, AT(mask) },
	{ "text", "TEXT", "a text", OPT_TEXT, AT(text) },
	{ "choice", "COLOUR", "a choice", OPT_CHOICE, AT(choice), .choices = colours },
	{ "list", "WORD", "a list", OPT_LIST, AT(list) },
	OPT_OUTPUT(struct values, output, ""),
	{ NULL },
};

static const struct opt_spec spec = {
	.command = "try",
	.args = "A [B]",
	.summary = "Try.",
	.opts = options,
	.args_min = 1,
	.args_max = 2,
};

static struct values values;
static struct opt_args args;
static struct err err;

/* Parse up to 10 words behind the command's name. */
static enum opt_verdict parse(const char *const *words)
{
	char *argv[12] = { (char *)(uintptr_t) "try" };
	int argc = 1;

	for (; words[argc - 1] != NULL && argc < 11; argc++)
		argv[argc] = (char *)(uintptr_t)words[argc - 1];
	values = (struct values){};
	err_clear(&err);
	return opt_parse(&spec, argc, argv, &values, &args, &err);
}

#define PARSE(...) parse((const char *const[]){ __VA_ARGS__, NULL })

TEST(each_kind_is_stored)
{
	CHECK_EQ(PARSE("--flag", "--number", "7", "--size=4k", "--seconds", "1.5", "x"), OPT_GO);
	CHECK(values.flag);
	CHECK_EQ(values.number, 7);
	CHECK_EQ(values.size, 4096);
	CHECK_EQ(values.seconds, 1500 * NS_PER_MS);
	CHECK_EQ(PARSE("--mask", "0x3", "--text", "t", "--choice=green", "x"), OPT_GO);
	CHECK_EQ(values.mask, 3);
	CHECK_STR(values.text, "t");
	CHECK_EQ(values.choice, 1);
	CHECK_EQ(PARSE("--list", "a", "--list=b", "x", "--seconds", "20ms"), OPT_GO);
	CHECK_EQ(values.list.count, 2);
	CHECK_STR(values.list.items[1], "b");
	CHECK_EQ(values.seconds, 20 * NS_PER_MS);
}

TEST(arguments_mix_with_options)
{
	CHECK_EQ(PARSE("a", "--flag", "b"), OPT_GO);
	CHECK_EQ(args.count, 2);
	CHECK_STR(args.items[1], "b");
	CHECK_EQ(PARSE("--", "--flag"), OPT_GO);
	CHECK(!values.flag);
	CHECK_STR(args.items[0], "--flag");
	CHECK_EQ(PARSE("-"), OPT_GO);
}

TEST(output_has_a_letter_and_its_choices_are_flags)
{
	CHECK_EQ(PARSE("x"), OPT_GO);
	CHECK_EQ(values.output, 0);
	CHECK_EQ(PARSE("x", "-o", "json", "y"), OPT_GO);
	CHECK_EQ(values.output, 1);
	CHECK_EQ(args.count, 2);
	CHECK_EQ(PARSE("--output=json", "x"), OPT_GO);
	CHECK_EQ(values.output, 1);
	CHECK_EQ(PARSE("-o", "json", "x", "--text", "--json"), OPT_GO);
	CHECK_STR(values.text, "--json");
	CHECK_EQ(PARSE("--json", "x"), OPT_GO);
	CHECK_EQ(values.output, 1);
	CHECK_EQ(PARSE("--json", "--text", "t", "--", "-o"), OPT_GO);
	CHECK_STR(args.items[0], "-o");
	CHECK_EQ(values.choice, 0); /* only the output's choices */
	CHECK_EQ(PARSE("--green", "x"), OPT_WRONG);
}

TEST(mistakes_are_told)
{
	static const struct {
		const char *name, *words[4], *says;
	} rows[] = {
		{ "unknown", { "--colour", "x" }, "unknown option --colour" },
		{ "near", { "--nubmer", "3", "x" }, "did you mean --number" },
		{ "short", { "-n", "x" }, "two dashes" },
		{ "no value", { "x", "--number" }, "--number N" },
		{ "value for a flag", { "--flag=1", "x" }, "takes no value" },
		{ "below", { "--number", "1", "x" }, "between 2 and 10" },
		{ "above", { "--number", "11", "x" }, "between 2 and 10" },
		{ "no number", { "--number", "seven", "x" }, "--number" },
		{ "negative", { "--number", "-3", "x" }, "--number" },
		{ "too small", { "--size", "1", "x" }, "at least 512" },
		{ "no size", { "--size", "4x", "x" }, "--size" },
		{ "no choice", { "--choice", "blue", "x" }, "red, green" },
		{ "empty", { "--text", "", "x" }, "empty" },
		{ "no argument", { "--flag" }, "usage: ashlar try" },
		{ "too many", { "a", "b", "c" }, "'c'" },
		{ "no form", { "x", "-o" }, "--output FORMAT" },
		{ "wrong form", { "x", "-o", "xml" }, "text, json" },
		{ "value for a form", { "x", "--json=1" }, "unknown option --json" },
		{ "no time", { "--seconds", "0", "x" }, "longer than nothing" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		TAP_ROW(rows[i].name);
		CHECK_EQ(parse(rows[i].words), OPT_WRONG);
		CHECK_HAS(err.msg, rows[i].says);
	}
}

TEST(help_is_found_anywhere)
{
	CHECK_EQ(PARSE("--number", "x", "--help"), OPT_HELP);
	CHECK_EQ(PARSE("--", "--help"), OPT_HELP); /* nobody names a device so */
}

TEST(help_shows_every_option)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	opt_print_help(&spec, out);
	fclose(out);
	CHECK_HAS(text, "usage: ashlar try [OPTION...] A [B]");
	for (const struct opt *opt = options; opt->name != NULL; opt++) {
		char row[64];

		(void)snprintf(row, sizeof(row), "  %s--%s%s%s ", opt->is_output ? "-o, " : "",
			       opt->name, opt->value ? " " : "", opt->value ? opt->value : "");
		CHECK_HAS(text, row);
	}
	CHECK_HAS(text, "\n                          in two lines\n");
	free(text);
}

TEST(nearest_name)
{
	static const char *const names[] = { "bench", "copy", "export" };

	CHECK_STR(cli_nearest("benhc", names, 3), "bench");
	CHECK_STR(cli_nearest("cp", names, 3), "copy");
	CHECK_STR(cli_nearest("exp", names, 3), "export");
	CHECK(cli_nearest("quark", names, 3) == NULL);
	CHECK(cli_nearest("", names, 3) == NULL);
}

TAP_MAIN()
