/* SPDX-License-Identifier: Apache-2.0 */
/*
 * units.h - numbers, sizes and durations as people write and read them.
 *
 * Thread: any.
 * Rules:  parsers take the whole text or fail with -EINVAL (-ERANGE when it is well formed but does
 *         not fit), say what they accept, and leave the result untouched. Formatters write into the
 *         caller's buffer of UNITS_TEXT_MAX bytes and return it.
 */
#ifndef BASE_UNITS_H
#define BASE_UNITS_H
#include "base/base.h"
#include "base/err.h"

enum { UNITS_TEXT_MAX = 32 };

#define KIB       (1024ull)
#define MIB       (1024ull * KIB)
#define GIB       (1024ull * MIB)
#define TIB       (1024ull * GIB)
#define NS_PER_US (1000ull)
#define NS_PER_MS (1000ull * NS_PER_US)
#define NS_PER_S  (1000ull * NS_PER_MS)

/* "4096" or "0x1000": digits only, no sign, no space. */
WARN_UNUSED int number_parse(const char *text, uint64_t *ret_number, struct err *err);

/* yes/no, on/off, true/false in either case, or a number: 0 is false, any other is true. */
WARN_UNUSED int bool_parse(const char *text, bool *ret_is_true, struct err *err);

/* Bytes. Unit none or B = 1; k, K, Ki, KiB = 1024; kB, KB = 1000; so for M, G, T, P, E (case of the
 * first letter is free). A decimal fraction is allowed ("1.5GiB") and rounded down to bytes. */
WARN_UNUSED int size_parse(const char *text, uint64_t *ret_bytes, struct err *err);

/* Nanoseconds. Units ns, us, ms, s, m or min, h, d; parts may follow each other ("1m30s") and may
 * have a fraction ("1.5s"). A number without a unit is refused, but "0" is 0. */
WARN_UNUSED int duration_parse(const char *text, uint64_t *ret_ns, struct err *err);

/* "512 B", "4 KiB", "1.50 GiB": three digits, powers of 1024. */
const char *size_format(uint64_t bytes, char text[UNITS_TEXT_MAX]);

/* "1.50 GiB/s" */
const char *rate_format(double bytes_per_s, char text[UNITS_TEXT_MAX]);

/* "950", "12.3 k", "1.50 M": three digits, powers of 1000. For IOPS and counts. */
const char *count_format(double count, char text[UNITS_TEXT_MAX]);

/* "812 ns", "9.41 us", "3.20 s", "2 min 05 s", "1 h 02 min", "3 d 04 h". */
const char *duration_format(uint64_t ns, char text[UNITS_TEXT_MAX]);
#endif
