/* SPDX-License-Identifier: Apache-2.0 */
/*
 * json_text.c - names of files and URIs are bytes, and JSON wants UTF-8.
 *
 * The library refuses what is none, and with it goes the whole object around it: a child of a
 * mirror was missing from an answer because of its name. So what is no UTF-8 is shown with
 * question marks in the place of its bytes above 127. Whoever has to name such a thing uses its
 * URI, where bytes are percent-encoded.
 *
 * Rejected: escapes of our own (a reader would take them for the name).
 *
 * Thread: any; no state.
 */
#include "cli/json_text.h"

#include <string.h>

#include "base/base.h"
#include "cli/cli.h"

enum { DIGITS = 12 }; /* of a fraction: more are noise */

json_t *json_text(const char *text)
{
	json_t *string = text != NULL ? json_string(text) : json_null();
	CLEANUP(freep) char *shown = NULL;

	if (string != NULL)
		return string;
	shown = strdup(text);
	for (char *at = shown; at != NULL && *at != '\0'; at++) {
		if ((unsigned char)*at > 127)
			*at = '?';
	}
	return shown != NULL ? json_string(shown) : NULL;
}

bool json_print(json_t *json, bool is_indented)
{
	size_t flags = JSON_REAL_PRECISION(DIGITS) | (is_indented ? JSON_INDENT(2) : JSON_COMPACT);
	bool is_told = json != NULL && json_dumpf(json, stdout, flags) == 0;

	putchar('\n');
	json_decref(json);
	if (!is_told)
		cli_error("the result cannot be told as JSON: no memory");
	return is_told;
}
