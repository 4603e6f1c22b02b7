/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of units.c: tables of what is accepted, refused and printed. */
#include "base/units.h"

#include <errno.h>

#include "base/tap.h"

struct row {
	const char *text;
	int code;
	uint64_t value;
};

typedef int (*parse_fn)(const char *text, uint64_t *ret_value, struct err *err);

/* A refusal must leave the result alone, explain itself, and do without a struct err too. */
static void run_table(parse_fn parse, const struct row *rows, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		uint64_t value = 4711;
		struct err err = {};

		TAP_ROW(rows[i].text);
		CHECK_EQ(parse(rows[i].text, &value, &err), rows[i].code);
		CHECK_EQ(err.code, rows[i].code);
		CHECK_EQ(value, rows[i].code < 0 ? 4711 : rows[i].value);
		CHECK((err.msg[0] != '\0') == (rows[i].code < 0));
		CHECK_EQ(parse(rows[i].text, &value, NULL), rows[i].code);
	}
}

TEST(numbers)
{
	static const struct row rows[] = {
		{ "0", 0, 0 },
		{ "4096", 0, 4096 },
		{ "0x1000", 0, 4096 },
		{ "0XfF", 0, 255 },
		{ "007", 0, 7 },
		{ "18446744073709551615", 0, UINT64_MAX },
		{ "18446744073709551616", -ERANGE, 0 },
		{ "0xffffffffffffffff", 0, UINT64_MAX },
		{ "0x10000000000000000", -ERANGE, 0 },
		{ "99999999999999999999999999999", -ERANGE, 0 },
		{ "", -EINVAL, 0 },
		{ "0x", -EINVAL, 0 },
		{ "-1", -EINVAL, 0 },
		{ "+1", -EINVAL, 0 },
		{ " 1", -EINVAL, 0 },
		{ "1 ", -EINVAL, 0 },
		{ "1k", -EINVAL, 0 },
		{ "ff", -EINVAL, 0 },
		{ "0xfg", -EINVAL, 0 },
		{ "\xff", -EINVAL, 0 },
	};

	run_table(number_parse, rows, ARRAY_LEN(rows));
}

TEST(sizes)
{
	static const struct row rows[] = {
		{ "0", 0, 0 },
		{ "512", 0, 512 },
		{ "512B", 0, 512 },
		{ "4k", 0, 4096 },
		{ "4K", 0, 4096 },
		{ "4Ki", 0, 4096 },
		{ "4KiB", 0, 4096 },
		{ "4kib", 0, 4096 },
		{ "4kB", 0, 4000 },
		{ "64MiB", 0, 64 * MIB },
		{ "64 MiB", 0, 64 * MIB },
		{ "1G", 0, GIB },
		{ "1GB", 0, 1000000000 },
		{ "1.5G", 0, GIB + GIB / 2 },
		{ "0.001k", 0, 1 },
		{ "1.999999999k", 0, 2047 },
		{ "2T", 0, 2 * TIB },
		{ "1P", 0, 1024 * TIB },
		{ "15E", 0, 15ull << 60 },
		{ "16E", -ERANGE, 0 },
		{ "15.999999999E", 0, 18446744072556630111u },
		{ "18446744073709551615", 0, UINT64_MAX },
		{ "18446744073709551616", -ERANGE, 0 },
		{ "18446744073709551615k", -ERANGE, 0 },
		{ "", -EINVAL, 0 },
		{ "k", -EINVAL, 0 },
		{ "-1k", -EINVAL, 0 },
		{ ".5k", -EINVAL, 0 },
		{ "1.k", -EINVAL, 0 },
		{ "1.1234567891k", -EINVAL, 0 },
		{ "1.5.5k", -EINVAL, 0 },
		{ "4kk", -EINVAL, 0 },
		{ "4kbps", -EINVAL, 0 },
		{ "4 4", -EINVAL, 0 },
		{ "4k ", -EINVAL, 0 },
		{ "0x10", -EINVAL, 0 },
		{ "1\xff", -EINVAL, 0 },
	};

	run_table(size_parse, rows, ARRAY_LEN(rows));
}

TEST(durations)
{
	static const struct row rows[] = {
		{ "0", 0, 0 },
		{ "5s", 0, 5 * NS_PER_S },
		{ "5 s", 0, 5 * NS_PER_S },
		{ "500ms", 0, 500 * NS_PER_MS },
		{ "10us", 0, 10 * NS_PER_US },
		{ "10\xc2\xb5s", 0, 10 * NS_PER_US },
		{ "7ns", 0, 7 },
		{ "1.5s", 0, 1500 * NS_PER_MS },
		{ "2m", 0, 120 * NS_PER_S },
		{ "2min", 0, 120 * NS_PER_S },
		{ "1h", 0, 3600 * NS_PER_S },
		{ "1d", 0, 86400 * NS_PER_S },
		{ "1m30s", 0, 90 * NS_PER_S },
		{ "1h 2m 3s", 0, 3723 * NS_PER_S },
		{ "213503d", 0, 213503ull * 86400 * NS_PER_S },
		{ "213504d", -ERANGE, 0 },
		{ "213503d23h35m", -ERANGE, 0 },
		{ "5", -EINVAL, 0 },
		{ "5s3", -EINVAL, 0 },
		{ "s", -EINVAL, 0 },
		{ "", -EINVAL, 0 },
		{ "-5s", -EINVAL, 0 },
		{ "5S", -EINVAL, 0 },
		{ "5 weeks", -EINVAL, 0 },
		{ "5s ,", -EINVAL, 0 },
	};

	run_table(duration_parse, rows, ARRAY_LEN(rows));
}

TEST(refusals_tell_too_large_from_nonsense)
{
	struct err err = {};
	uint64_t value;

	CHECK_EQ(size_parse("16E", &value, &err), -ERANGE);
	CHECK_STR(err.msg, "'16E' is too large for a size");
	err_clear(&err);
	CHECK_EQ(duration_parse("5", &value, &err), -EINVAL);
	CHECK_STR(err.msg, "'5' is not a duration; write a number and a unit, like 10us, 500ms, "
			   "5s, 1m30s, 2h");
}

TEST(switches)
{
	static const struct row rows[] = {
		{ "yes", 0, 1 },   { "no", 0, 0 },    { "on", 0, 1 },      { "off", 0, 0 },
		{ "true", 0, 1 },  { "false", 0, 0 }, { "TRUE", 0, 1 },    { "1", 0, 1 },
		{ "0", 0, 0 },     { "42", 0, 1 },    { "", -EINVAL, 0 },  { "y", -EINVAL, 0 },
		{ "2x", -EINVAL }, { "-1", -EINVAL }, { "yes ", -EINVAL },
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		bool is_true = rows[i].code < 0;

		TAP_ROW(rows[i].text);
		CHECK_EQ(bool_parse(rows[i].text, &is_true, NULL), rows[i].code);
		CHECK_EQ(is_true, rows[i].code < 0 || rows[i].value != 0);
	}
}

TEST(sizes_for_people)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} rows[] = {
		{ "0 B", 0 },
		{ "512 B", 512 },
		{ "1023 B", 1023 },
		{ "1 KiB", 1024 },
		{ "1.50 KiB", 1536 },
		{ "4 KiB", 4096 },
		{ "64 MiB", 64 * MIB },
		{ "12.3 MiB", 12 * MIB + 300 * KIB },
		{ "1.00 MiB", MIB - 1 },
		{ "1023 KiB", 1023 * KIB },
		{ "16.0 EiB", UINT64_MAX },
	};
	char text[UNITS_TEXT_MAX];

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
		CHECK_STR(size_format(rows[i].bytes, text), rows[i].text);
}

TEST(rates_counts_and_durations_for_people)
{
	char text[UNITS_TEXT_MAX];

	CHECK_STR(rate_format(0, text), "0 B/s");
	CHECK_STR(rate_format((double)UINT64_MAX * 1024, text), "16384 EiB/s");
	CHECK_STR(rate_format(1.5 * 1024 * 1024 * 1024, text), "1.50 GiB/s");
	CHECK_STR(count_format(950, text), "950");
	CHECK_STR(count_format(12345, text), "12.3 k");
	CHECK_STR(count_format(1500000, text), "1.50 M");
	CHECK_STR(count_format(999999, text), "1.00 M");
	CHECK_STR(duration_format(0, text), "0 ns");
	CHECK_STR(duration_format(812, text), "812 ns");
	CHECK_STR(duration_format(9410, text), "9.41 us");
	CHECK_STR(duration_format(3200 * NS_PER_MS, text), "3.20 s");
	CHECK_STR(duration_format(125 * NS_PER_S, text), "2 min 05 s");
	CHECK_STR(duration_format(3720 * NS_PER_S, text), "1 h 02 min");
	CHECK_STR(duration_format(60 * NS_PER_S - 1, text), "60.0 s");
	CHECK_STR(duration_format(60 * NS_PER_S, text), "1 min 00 s");
	CHECK_STR(duration_format(3600 * NS_PER_S, text), "1 h 00 min");
	CHECK_STR(duration_format(86400 * NS_PER_S, text), "1 d 00 h");
	CHECK_STR(duration_format(10 * NS_PER_US, text), "10.0 us");
	CHECK_STR(duration_format(100 * NS_PER_US, text), "100 us");
	CHECK_STR(duration_format(76 * 3600 * NS_PER_S, text), "3 d 04 h");
	CHECK_STR(duration_format(UINT64_MAX, text), "213503 d 23 h");
}

TAP_MAIN()
