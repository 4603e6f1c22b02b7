/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nth_failure.h - the n-th thing a program asks the system for is refused.
 *
 * Owner:  one process-wide counter; tests that include this are linked with --wrap for each
 *         function in nth_wrap.c (tests/integration/meson.build has the list).
 * Thread: calls are counted from every thread of the process while armed.
 */
#ifndef ASHLAR_TESTS_NTH_FAILURE_H
#define ASHLAR_TESTS_NTH_FAILURE_H

#include <stdbool.h>

/* From now on let the @n-th call (1: the first) fail; @stays: and every one after it. */
void nth_arm(unsigned n, bool stays);
/* No more failures. Returns what failed first, "calloc", or NULL if nothing did. */
const char *nth_disarm(void);
/* The error that the refusal stands for, negative; valid after nth_disarm() named one. */
int nth_error(void);

/* Blocks of memory the engine holds now, however they were asked for. */
long nth_blocks(void);

#endif
