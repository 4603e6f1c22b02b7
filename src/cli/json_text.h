/* SPDX-License-Identifier: Apache-2.0 */
/*
 * json_text.h - text that came from somewhere, as JSON.
 *
 * Names of files and URIs are bytes, and JSON wants UTF-8: the library refuses what is none, and
 * then the whole object around it would be missing from an answer. So what is no UTF-8 is shown
 * with question marks in the place of its bytes above 127.
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
