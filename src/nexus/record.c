/* SPDX-License-Identifier: Apache-2.0 */
/*
 * record.c - the record of who is healthy, as JSON and back.
 *
 * What a control plane reads is written as it expects it: clean_shutdown, and children with uuid
 * and healthy. `generation` is ours, sixteen hexadecimal digits as text, because JSON numbers
 * lose bits beyond 2^53; `size` is the bytes asked, `label` is v1 or v2.
 *
 * The reader takes what it knows and passes over the rest, so that a newer engine's record can be
 * read; but a member of a known name and a wrong type is an error, not a default: guessing that a
 * child is healthy could lose data.
 *
 * Thread: any; no state.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "nexus/store.h"

/* A member is at most this long: {"uuid": "36 characters", "healthy": false}, and a comma. */
enum { CHILD_TEXT_MAX = 80 };

static_assert(RECORD_CHILDREN_MAX * CHILD_TEXT_MAX + 128 <= RECORD_TEXT_MAX, "it always fits");

void record_format(const struct nexus_record *record, char text[RECORD_TEXT_MAX])
{
	size_t len;

	len = (size_t)snprintf(text, RECORD_TEXT_MAX, "{\"clean_shutdown\": %s, \"children\": [",
			       record->is_clean ? "true" : "false");
	for (unsigned i = 0; i < record->nchildren; i++) {
		char uuid[UUID_TEXT_SIZE];

		len += (size_t)snprintf(text + len, RECORD_TEXT_MAX - len,
					"%s{\"uuid\": \"%s\", \"healthy\": %s}", i > 0 ? ", " : "",
					uuid_to_text(&record->child[i].uuid, uuid),
					record->child[i].is_healthy ? "true" : "false");
	}
	len += (size_t)snprintf(text + len, RECORD_TEXT_MAX - len, "]");
	if (record->generation != 0)
		len += (size_t)snprintf(text + len, RECORD_TEXT_MAX - len,
					", \"generation\": \"%016" PRIx64 "\"", record->generation);
	if (record->size != 0)
		len += (size_t)snprintf(text + len, RECORD_TEXT_MAX - len, ", \"size\": %" PRIu64,
					record->size);
	if (record->label != 0)
		len += (size_t)snprintf(text + len, RECORD_TEXT_MAX - len, ", \"label\": \"v%u\"",
					record->label);
	(void)snprintf(text + len, RECORD_TEXT_MAX - len, "}");
}

static int child_parse(const json_t *json, struct nexus_record *record, struct err *err)
{
	const json_t *healthy = json_object_get(json, "healthy");
	const char *uuid = json_string_value(json_object_get(json, "uuid"));
	unsigned n = record->nchildren;

	if (n == RECORD_CHILDREN_MAX)
		return err_set(err, -EINVAL, "a record with more than %d children",
			       RECORD_CHILDREN_MAX);
	if (uuid == NULL || !json_is_boolean(healthy))
		return err_set(err, -EINVAL, "child %u of the record lacks uuid or healthy", n);
	if (uuid_from_text(uuid, &record->child[n].uuid, err) < 0)
		return -EINVAL;
	record->child[n].is_healthy = json_is_true(healthy);
	record->nchildren++;
	return 0;
}

static int generation_parse(const json_t *json, uint64_t *ret, struct err *err)
{
	const char *text = json_string_value(json);
	char *end;

	if (json == NULL)
		return 0;
	if (text == NULL || strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
		return err_set(err, -EINVAL,
			       "the record's generation is not 16 hexadecimal digits");
	*ret = strtoull(text, &end, 16);
	return 0;
}

static int size_member(const json_t *json, uint64_t *ret, struct err *err)
{
	if (json == NULL)
		return 0;
	if (!json_is_integer(json) || json_integer_value(json) <= 0)
		return err_set(err, -EINVAL, "the record's size is no number of bytes");
	*ret = (uint64_t)json_integer_value(json);
	return 0;
}

static int label_member(const json_t *json, uint8_t *ret, struct err *err)
{
	const char *text = json_string_value(json);

	if (json == NULL)
		return 0;
	if (text == NULL || (strcmp(text, "v1") != 0 && strcmp(text, "v2") != 0))
		return err_set(err, -EINVAL, "the record's label is neither v1 nor v2");
	*ret = (uint8_t)(text[1] - '0');
	return 0;
}

static void json_freep(json_t **json)
{
	json_decref(*json);
}

int record_parse(const char *text, size_t len, struct nexus_record *ret, struct err *err)
{
	struct nexus_record record = {};
	json_error_t where;
	json_t *root CLEANUP(json_freep) = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);
	const json_t *clean, *children, *child;
	int result = 0;
	size_t i;

	if (root == NULL)
		return err_set(err, -EINVAL, "the record is not JSON: %s at byte %d", where.text,
			       where.position);
	clean = json_object_get(root, "clean_shutdown");
	children = json_object_get(root, "children");
	if (!json_is_boolean(clean) || !json_is_array(children))
		return err_set(err, -EINVAL, "the record lacks clean_shutdown or children");
	record.is_clean = json_is_true(clean);
	json_array_foreach(children, i, child)
	{
		result = child_parse(child, &record, err);
		if (result < 0)
			return result;
	}
	result = generation_parse(json_object_get(root, "generation"), &record.generation, err);
	if (result == 0)
		result = size_member(json_object_get(root, "size"), &record.size, err);
	if (result == 0)
		result = label_member(json_object_get(root, "label"), &record.label, err);
	if (result == 0)
		*ret = record;
	return result;
}
