/* SPDX-License-Identifier: Apache-2.0 */
/*
 * json_text.h - text that came from somewhere, as JSON (json_text.c says why that is a question),
 * and how a command prints its result.
 *
 * Owner:  the caller gets a reference.
 * Thread: any.
 */
#ifndef ASHLAR_CLI_JSON_TEXT_H
#define ASHLAR_CLI_JSON_TEXT_H

#include <jansson.h>
#include <stdbool.h>

/* @text NULL: null. NULL: no memory. */
json_t *json_text(const char *text);

/* Print @json and a line feed, on one line or indented; the reference is taken. False: memory was
 * short (NULL, too), and that is said. */
bool json_print(json_t *json, bool is_indented);

#endif
