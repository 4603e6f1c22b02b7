/* SPDX-License-Identifier: Apache-2.0 */
/*
 * json_text.h - text that came from somewhere, as JSON; json_text.c says why that is a question.
 *
 * Owner:  the caller gets a reference.
 * Thread: any.
 */
#ifndef ASHLAR_CLI_JSON_TEXT_H
#define ASHLAR_CLI_JSON_TEXT_H

#include <jansson.h>

/* @text NULL: null. NULL: no memory. */
json_t *json_text(const char *text);

#endif
