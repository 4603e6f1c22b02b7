/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz.h - what a fuzzer is: one function that takes any bytes and must not crash, leak, or accept
 * what breaks the rules of the parser under test.
 */
#ifndef ASHLAR_TESTS_FUZZ_H
#define ASHLAR_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* The name is libFuzzer's. Always returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An invariant of the parser: ends the process like a crash, so that the input is kept. */
#define MUST(expr)                                                                          \
	do {                                                                                \
		if (!(expr)) {                                                              \
			fprintf(stderr, "%s:%d: %s is false\n", __FILE__, __LINE__, #expr); \
			abort();                                                            \
		}                                                                           \
	} while (0)

#endif
