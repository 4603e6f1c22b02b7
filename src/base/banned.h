/* SPDX-License-Identifier: Apache-2.0 */
/*
 * banned.h - functions that nobody here may call; the build includes it in front of every file.
 *
 * Their headers come first, because a poisoned name may not even be declared any more. What to use
 * instead: snprintf for the string builders, strchr or strtok_r for strtok, number_parse (units.h)
 * for atoi and its family, localtime_r, rng.h for rand, fgets for gets, malloc or a fixed array for
 * alloca.
 */
#ifndef BASE_BANNED_H
#define BASE_BANNED_H
#include <alloca.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#pragma GCC poison strcpy strcat stpcpy strncat sprintf vsprintf strtok atoi atol atoll atof
#pragma GCC poison localtime gmtime ctime asctime rand srand
#undef alloca
#pragma GCC poison alloca
#ifndef __clang__
#pragma GCC poison gets
#endif
#endif
