/* SPDX-License-Identifier: Apache-2.0 */
/*
 * banned.h - functions that nobody here may call; the build includes it in front of every file.
 *
 * Each is declared once more as unavailable, so that a call does not compile and the compiler says
 * what to use. Poisoning the names would also refuse headers of libraries that merely mention one
 * in a macro. Only under gcc: clang drops the attribute where the C library defined the function
 * inline before, and the builds with clang compile the same files.
 */
#ifndef BASE_BANNED_H
#define BASE_BANNED_H
#ifndef __clang__
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BANNED_(instead) __attribute__((unavailable("use " instead)))

char *strcpy(char *restrict dst, const char *restrict src) BANNED_("snprintf or memcpy");
char *stpcpy(char *restrict dst, const char *restrict src) BANNED_("snprintf or memcpy");
char *strcat(char *restrict dst, const char *restrict src) BANNED_("snprintf");
char *strncat(char *restrict dst, const char *restrict src, size_t n) BANNED_("snprintf");
int sprintf(char *restrict dst, const char *restrict fmt, ...) BANNED_("snprintf");
int vsprintf(char *restrict dst, const char *restrict fmt, va_list args) BANNED_("vsnprintf");
char *strtok(char *restrict text, const char *restrict delimiters) BANNED_("strtok_r");
int atoi(const char *text) BANNED_("number_parse of base/units.h");
long atol(const char *text) BANNED_("number_parse of base/units.h");
long long atoll(const char *text) BANNED_("number_parse of base/units.h");
double atof(const char *text) BANNED_("strtod");
struct tm *localtime(const time_t *at) BANNED_("localtime_r");
struct tm *gmtime(const time_t *at) BANNED_("gmtime_r");
char *ctime(const time_t *at) BANNED_("strftime");
char *asctime(const struct tm *tm) BANNED_("strftime");
int rand(void) BANNED_("base/rng.h");
void srand(unsigned seed) BANNED_("base/rng.h");
char *gets(char *buf) BANNED_("fgets");
#undef alloca
void *alloca(size_t size) BANNED_("malloc or an array of fixed size");
#endif
#endif
