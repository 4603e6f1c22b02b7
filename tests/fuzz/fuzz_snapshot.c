/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The payload of the vendor snapshot command, given any bytes.
 *
 * Held against it: what is accepted is printable and ends inside its field; a payload that is
 * accepted is accepted with more bytes behind it, and refused or equal with fewer.
 */
#include <errno.h>
#include <string.h>

#include "fuzz.h"
#include "target/target.h"

static void check_text(const char *text)
{
	size_t len = strnlen(text, SNAPSHOT_TEXT_MAX + 1);

	MUST(len <= SNAPSHOT_TEXT_MAX);
	for (size_t i = 0; i < len; i++)
		MUST(text[i] >= ' ' && text[i] <= '~');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct snapshot_params params = {}, less = {};
	int result = snapshot_parse(data, size, &params);

	MUST(result == 0 || result == -EINVAL);
	if (result == 0) {
		check_text(params.entity_id);
		check_text(params.parent_id);
		check_text(params.txn_id);
		check_text(params.name);
		check_text(params.uuid);
		check_text(params.create_time);
	}
	if (size > 0 && snapshot_parse(data, size - 1, &less) == 0)
		MUST(result == 0 &&
		     memcmp(&less, &params, offsetof(struct snapshot_params, is_discarded)) == 0);
	return 0;
}
