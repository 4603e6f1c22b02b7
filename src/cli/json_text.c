/* SPDX-License-Identifier: Apache-2.0 */
/* json_text.c - the header says why. Thread: any. */
#include "cli/json_text.h"

#include <string.h>

#include "base/base.h"

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
