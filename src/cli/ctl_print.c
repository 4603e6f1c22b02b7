/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ctl_print.c - an answer of an export, as it was asked for: text, JSON or a table.
 *
 * As text, JSON is printed as it came, one line, so that it can be piped; on a terminal it is
 * indented, because there a person reads it. As JSON it is always the one line, and a sentence
 * becomes an object with a "message", so that a program need not guess. A table of a list of
 * objects has a row for each, under the names that they have, the first TABLE_COLUMNS_MAX; lists in
 * them follow as tables of their own. Of one object there is a line for each name.
 *
 * Rejected: a table by default. Scripts read the JSON, and its form must not depend on its content.
 *
 * Thread: the main thread.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cli/ctl.h"
#include "cli/json_text.h"
#include "cli/term.h"

static void table_cell(struct table *t, unsigned row, unsigned column, const json_t *value)
{
	char *text;

	if (json_is_string(value)) {
		table_set(t, row, column, "%s", json_string_value(value));
	} else if (value != NULL) {
		text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
		table_set(t, row, column, "%s", text != NULL ? text : "");
		free(text);
	}
}

/* Column of @key, a new one if it has none; that of none if there are too many. */
static unsigned column_of(const char *titles[TABLE_COLUMNS_MAX + 1], const char *key)
{
	unsigned c = 0;

	while (c < TABLE_COLUMNS_MAX && titles[c] != NULL && strcmp(titles[c], key) != 0)
		c++;
	if (c < TABLE_COLUMNS_MAX)
		titles[c] = key;
	return c;
}

/* Columns are what the rows have and is neither a list nor an object. False: there are none. */
static bool table_fill(struct table *t, const json_t *list)
{
	const char *titles[TABLE_COLUMNS_MAX + 1] = {};
	unsigned right = 0;
	json_t *object, *value;
	const char *key;
	size_t i;

	json_array_foreach(list, i, object)
	{
		json_object_foreach(object, key, value)
		{
			if (!json_is_array(value) && !json_is_object(value))
				right |= (unsigned)json_is_number(value) << column_of(titles, key);
		}
	}
	if (titles[0] == NULL)
		return false;
	table_init(t, titles, right);
	json_array_foreach(list, i, object)
	{
		unsigned row = table_row(t);

		for (unsigned c = 0; titles[c] != NULL; c++)
			table_cell(t, row, c, json_object_get(object, titles[c]));
	}
	return true;
}

static bool is_list_of_objects(const json_t *value)
{
	return json_is_object(json_array_get(value, 0));
}

/* Names and values of @object as rows of @t; those of objects in it after "name." */
static void table_add_names(struct table *t, const char *before, json_t *object)
{
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value)
	{
		char name[TABLE_CELL_MAX];
		unsigned row;

		(void)snprintf(name, sizeof(name), "%s%s%s", before, before[0] != '\0' ? "." : "",
			       key);
		if (json_is_object(value) && strlen(name) < sizeof(name) - 1) {
			table_add_names(t, name, value);
		} else if (!json_is_object(value) && !is_list_of_objects(value)) {
			row = table_row(t);
			table_set(t, row, 0, "%s", name);
			table_cell(t, row, 1, value);
		}
	}
}

static void print_list(json_t *list);

/* The lists in @object, as tables of their own. */
static void print_lists_in(json_t *object)
{
	const json_t *name = json_object_get(object, "name");
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value)
	{
		if (!is_list_of_objects(value))
			continue;
		if (json_is_string(name))
			printf("\n%s of %s:\n", key, json_string_value(name));
		else
			printf("\n%s:\n", key);
		print_list(value);
	}
}

static void print_list(json_t *list)
{
	struct table t;
	json_t *object;
	size_t i;

	if (table_fill(&t, list)) {
		table_print(&t, stdout);
		table_done(&t);
	}
	json_array_foreach(list, i, object) print_lists_in(object);
}

static void print_object(json_t *object)
{
	const char *const titles[] = { "name", "value", NULL };
	struct table t;

	table_init(&t, titles, 0);
	table_add_names(&t, "", object);
	table_print(&t, stdout);
	table_done(&t);
	print_lists_in(object);
}

static int print_table(const char *text, struct err *err)
{
	json_t *answer = json_loads(text, 0, NULL);
	int rc = 0;

	if (is_list_of_objects(answer))
		print_list(answer);
	else if (json_is_object(answer))
		print_object(answer);
	else if (!json_is_array(answer) || json_array_size(answer) > 0)
		rc = err_set(err, -EINVAL, "the answer is no table: %s",
			     text[0] != '\0' ? text : "it is empty");
	json_decref(answer);
	return rc;
}

static void print_text(const char *text)
{
	json_t *json = isatty(STDOUT_FILENO) ? json_loads(text, 0, NULL) : NULL;

	if (json == NULL || json_dumpf(json, stdout, JSON_INDENT(2)) != 0)
		printf("%s", text);
	json_decref(json);
	if (text[0] != '\0')
		printf("\n");
}

static int print_json(const char *text, struct err *err)
{
	json_t *json = json_loads(text, 0, NULL);

	if (json == NULL)
		json = json_pack("{s:o}", "message", json_text(text));
	return json_print(json, false) ? 0 : err_set(err, -ENOMEM, "no memory for the answer");
}

int ctl_print(const struct ctl *ctl, const char *text, struct err *err)
{
	if (ctl->output == CTL_TABLE)
		return print_table(text, err);
	if (ctl->output == CTL_JSON)
		return print_json(text, err);
	print_text(text);
	return 0;
}

void ctl_print_help(json_t *verbs)
{
	json_t *verb;
	size_t i;

	json_array_foreach(verbs, i, verb)
		printf("%s%s%s\n    %s; for example: %s\n", ctl_text(verb, "verb"),
		       ctl_text(verb, "args")[0] != '\0' ? " " : "", ctl_text(verb, "args"),
		       ctl_text(verb, "help"), ctl_text(verb, "example"));
}

const char *ctl_text(json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text != NULL ? text : "";
}

uint64_t ctl_number(json_t *object, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(object, name));
}
