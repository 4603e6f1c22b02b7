/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers with units, in both directions.
 *
 * People write 64MiB and 500ms, on command lines, in URIs and in the environment; every such text
 * goes through here, so that one spelling means one thing everywhere. A bare letter is binary (4k
 * is 4096 bytes, as fio, qemu and dd read it); "kB" with the B written out is decimal as the
 * standards have it; "KiB" is binary in everybody's eyes. A duration without a unit is refused:
 * half of all tools read seconds there and the other half milliseconds.
 *
 * Invariants
 *   1. A parser consumes the whole text or fails; on failure the result is untouched.
 *   2. Nothing wraps: arithmetic is in 128 bits and checked against 64 at the end. The fraction is
 *      at most nine digits long, so no intermediate product leaves 128 bits.
 *   3. Text is only looked at up to its NUL, and unknown bytes never index a table.
 *
 * Thread rule: no state.
 *
 * Rejected: strtod (locale, rounding, "nan"); strtoull (accepts a sign and leading space).
 */
#include "base/units.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

static const char size_help[] = "write a number of bytes or a size like 512B, 4k, 64MiB, 1.5G";
static const char duration_help[] = "write a number and a unit, like 10us, 500ms, 5s, 1m30s, 2h";

struct unit {
	const char *name;
	uint64_t factor;
};

static const struct unit size_units[] = {
	{ "", 1 },
	{ "B", 1 },
	{ "K", KIB },
	{ "Ki", KIB },
	{ "KiB", KIB },
	{ "KB", 1000 },
	{ "M", MIB },
	{ "Mi", MIB },
	{ "MiB", MIB },
	{ "MB", 1000000 },
	{ "G", GIB },
	{ "Gi", GIB },
	{ "GiB", GIB },
	{ "GB", 1000000000 },
	{ "T", TIB },
	{ "Ti", TIB },
	{ "TiB", TIB },
	{ "TB", 1000000000000 },
	{ "P", 1024 * TIB },
	{ "Pi", 1024 * TIB },
	{ "PiB", 1024 * TIB },
	{ "PB", 1000000000000000 },
	{ "E", 1024 * 1024 * TIB },
	{ "Ei", 1024 * 1024 * TIB },
	{ "EiB", 1024 * 1024 * TIB },
	{ "EB", 1000000000000000000 },
};

static const struct unit duration_units[] = {
	{ "ns", 1 },
	{ "us", NS_PER_US },
	{ "\xc2\xb5s", NS_PER_US }, /* MICRO SIGN in UTF-8 */
	{ "ms", NS_PER_MS },
	{ "s", NS_PER_S },
	{ "sec", NS_PER_S },
	{ "m", 60 * NS_PER_S },
	{ "min", 60 * NS_PER_S },
	{ "h", 3600 * NS_PER_S },
	{ "d", 86400 * NS_PER_S },
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The value of a hexadecimal digit, or 16 for any other byte. */
static unsigned digit_value(char c)
{
	if (is_digit(c))
		return (unsigned)(c - '0');
	if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
		return (unsigned)((c | 0x20) - 'a') + 10;
	return 16;
}

int number_parse(const char *text, uint64_t *ret_number, struct err *err)
{
	unsigned base = text[0] == '0' && (text[1] | 0x20) == 'x' ? 16 : 10;
	const char *at = base == 16 ? text + 2 : text;
	uint64_t number = 0;

	if (*at == '\0')
		return err_set(err, -EINVAL, "'%.64s' is not a number", text);
	for (; *at != '\0'; at++) {
		if (digit_value(*at) >= base)
			return err_set(err, -EINVAL, "'%.64s' is not a number", text);
		if (!u64_mul(number, base, &number) || !u64_add(number, digit_value(*at), &number))
			return err_set(err, -ERANGE, "'%.64s' is larger than 2^64-1", text);
	}
	*ret_number = number;
	return 0;
}

int bool_parse(const char *text, bool *ret_is_true, struct err *err)
{
	static const char *const words[][2] = { { "no", "yes" },
						{ "off", "on" },
						{ "false", "true" } };
	uint64_t number;

	for (unsigned i = 0; i < ARRAY_LEN(words); i++) {
		for (unsigned j = 0; j < 2; j++) {
			if (strcasecmp(text, words[i][j]) == 0) {
				*ret_is_true = j == 1;
				return 0;
			}
		}
	}
	if (number_parse(text, &number, NULL) < 0)
		return err_set(err, -EINVAL,
			       "'%.64s' is neither yes/no, on/off, true/false nor a number", text);
	*ret_is_true = number != 0;
	return 0;
}

/* A decimal number with up to nine places behind the point, in billionths. */
struct decimal {
	uint64_t whole;
	uint64_t billionths;
};

/* Reads a decimal at *@at and moves behind it. */
static int decimal_parse(const char **at, struct decimal *ret)
{
	uint64_t place = 1000000000;

	*ret = (struct decimal){};
	if (!is_digit(**at))
		return -EINVAL;
	for (; is_digit(**at); ++*at) {
		if (!u64_mul(ret->whole, 10, &ret->whole) ||
		    !u64_add(ret->whole, digit_value(**at), &ret->whole))
			return -ERANGE;
	}
	if (**at != '.')
		return 0;
	++*at;
	if (!is_digit(**at))
		return -EINVAL;
	for (; is_digit(**at); ++*at) {
		place /= 10;
		if (place == 0)
			return -EINVAL;
		ret->billionths += digit_value(**at) * place;
	}
	return 0;
}

/* @number * @factor, rounded down, added to *@sum. */
static int decimal_scale(const struct decimal *number, uint64_t factor, uint64_t *sum)
{
	unsigned __int128 total = (unsigned __int128)number->whole * factor +
				  (unsigned __int128)number->billionths * factor / 1000000000;

	if (total > UINT64_MAX || !u64_add(*sum, (uint64_t)total, sum))
		return -ERANGE;
	return 0;
}

/* The unit whose name is the @len characters at @name; the first letter of a size is free in case.
 */
static const struct unit *unit_find(const struct unit *units, unsigned count, const char *name,
				    size_t len, bool any_case)
{
	for (unsigned i = 0; i < count; i++) {
		if (strlen(units[i].name) != len)
			continue;
		if ((any_case ? strncasecmp(units[i].name, name, len)
			      : strncmp(units[i].name, name, len)) == 0)
			return &units[i];
	}
	return NULL;
}

static int parse_failed(struct err *err, int code, const char *what, const char *text,
			const char *help)
{
	if (code == -ERANGE)
		return err_set(err, code, "'%.64s' is too large for a %s", text, what);
	return err_set(err, code, "'%.64s' is not a %s; %s", text, what, help);
}

int size_parse(const char *text, uint64_t *ret_bytes, struct err *err)
{
	const char *at = text;
	const struct unit *unit = NULL;
	struct decimal number;
	uint64_t bytes = 0;
	int code = decimal_parse(&at, &number);

	if (code == 0) {
		at += strspn(at, " ");
		unit = unit_find(size_units, ARRAY_LEN(size_units), at, strlen(at), true);
		code = unit == NULL ? -EINVAL : decimal_scale(&number, unit->factor, &bytes);
	}
	if (code < 0)
		return parse_failed(err, code, "size", text, size_help);
	*ret_bytes = bytes;
	return 0;
}

/* Reads one number with its unit at *@at, moves behind it and adds it to *@ns. */
static int duration_part(const char **at, uint64_t *ns)
{
	const struct unit *unit;
	struct decimal number;
	size_t len;
	int code = decimal_parse(at, &number);

	if (code < 0)
		return code;
	*at += strspn(*at, " ");
	len = strcspn(*at, "0123456789. ");
	if (len == 0 && number.whole == 0 && number.billionths == 0)
		return 0; /* zero is zero in any unit */
	unit = unit_find(duration_units, ARRAY_LEN(duration_units), *at, len, false);
	if (unit == NULL)
		return -EINVAL;
	*at += len;
	*at += strspn(*at, " ");
	return decimal_scale(&number, unit->factor, ns);
}

int duration_parse(const char *text, uint64_t *ret_ns, struct err *err)
{
	const char *at = text;
	uint64_t ns = 0;
	int code;

	do {
		code = duration_part(&at, &ns);
	} while (code == 0 && *at != '\0');
	if (code < 0)
		return parse_failed(err, code, "duration", text, duration_help);
	*ret_ns = ns;
	return 0;
}

/* Three significant digits; whole numbers without a point. */
static void format_scaled(char text[UNITS_TEXT_MAX], double value, bool is_whole, const char *unit)
{
	int places = is_whole || value >= 100 ? 0 : value >= 10 ? 1 : 2;

	snprintf(text, UNITS_TEXT_MAX, "%.*f%s%s", places, value, unit[0] != '\0' ? " " : "", unit);
}

/* Divides @value by @step until it fits in front of a prefix; what would round up to @step counts
 * as fitting the next one. */
static unsigned scale_down(double *value, double step, unsigned last)
{
	unsigned prefix = 0;

	while (prefix < last && *value >= step - 0.5) {
		*value /= step;
		prefix++;
	}
	return prefix;
}

const char *size_format(uint64_t bytes, char text[UNITS_TEXT_MAX])
{
	static const char *const names[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double value = (double)bytes;
	unsigned prefix = scale_down(&value, 1024, ARRAY_LEN(names) - 1);
	bool is_whole = prefix == 0 || (bytes & ((1ull << (10 * prefix)) - 1)) == 0;

	format_scaled(text, value, is_whole, names[prefix]);
	return text;
}

const char *rate_format(double bytes_per_s, char text[UNITS_TEXT_MAX])
{
	static const char *const names[] = { "B/s",   "KiB/s", "MiB/s", "GiB/s",
					     "TiB/s", "PiB/s", "EiB/s" };
	unsigned prefix = scale_down(&bytes_per_s, 1024, ARRAY_LEN(names) - 1);

	format_scaled(text, bytes_per_s, prefix == 0, names[prefix]);
	return text;
}

const char *count_format(double count, char text[UNITS_TEXT_MAX])
{
	static const char *const names[] = { "", "k", "M", "G", "T", "P", "E" };
	unsigned prefix = scale_down(&count, 1000, ARRAY_LEN(names) - 1);

	format_scaled(text, count, prefix == 0, names[prefix]);
	return text;
}

/* "2 min 05 s" and so on: two neighbouring units, the second with two digits. */
static void format_long(uint64_t s, char text[UNITS_TEXT_MAX])
{
	if (s < 3600)
		snprintf(text, UNITS_TEXT_MAX, "%u min %02u s", (unsigned)(s / 60),
			 (unsigned)(s % 60));
	else if (s < 86400)
		snprintf(text, UNITS_TEXT_MAX, "%u h %02u min", (unsigned)(s / 3600),
			 (unsigned)(s / 60 % 60));
	else
		snprintf(text, UNITS_TEXT_MAX, "%llu d %02u h", (unsigned long long)(s / 86400),
			 (unsigned)(s / 3600 % 24));
}

const char *duration_format(uint64_t ns, char text[UNITS_TEXT_MAX])
{
	static const char *const names[] = { "ns", "us", "ms", "s" };
	double value = (double)ns;
	unsigned prefix;

	if (ns >= 60 * NS_PER_S) {
		format_long(ns / NS_PER_S, text);
		return text;
	}
	prefix = scale_down(&value, 1000, ARRAY_LEN(names) - 1);
	format_scaled(text, value, prefix == 0, names[prefix]);
	return text;
}
