/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ctl.c - `ashlar ctl PATH VERB [ARG...]`: one command to a running export, and its answer.
 *
 * The control socket takes lines and answers lines (export_control.c), so any tool for unix sockets
 * would do; this one is there wherever ashlar is, knows what "error" means for the exit code, and
 * says which process is missing when nobody listens.
 *
 * The words are joined by spaces: what the shell took apart is put together again. The answer is
 * printed without its "ok". JSON is printed as it came, one line, so that it can be piped; on a
 * terminal it is indented, because there a person reads it. --table prints a list of objects as a
 * table: a row for each, under the names that they have, the first TABLE_COLUMNS_MAX; lists in them
 * follow as tables of their own. Of one object there is a line for each name.
 *
 * No engine is started: this is a socket and two lines. A command may take as long as the work it
 * asks for, so there is no time limit; Ctrl-C ends the waiting, not the work.
 *
 * Thread: the main thread.
 */
#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/opt.h"
#include "cli/term.h"

enum { LINE_MAX_BYTES = 8192 }; /* as the other side has it, line feed included */

struct ctl_opts {
	bool is_table;
};

static const struct opt ctl_options[] = {
	{ "table", NULL, "print an answer of JSON as a table", OPT_FLAG,
	  offsetof(struct ctl_opts, is_table) },
	{ NULL },
};

static const struct opt_spec ctl_spec = {
	.command = "ctl",
	.args = "PATH VERB [ARG...]",
	.summary = "Tell something to a running export through its control socket, print the "
		   "answer.",
	.details = "examples:\n  ashlar ctl /run/user/1000/disk.ctl help\n"
		   "  ashlar ctl /run/user/1000/disk.ctl stats\n"
		   "  ashlar ctl --table /run/user/1000/disk.ctl latency\n",
	.opts = ctl_options,
	.args_min = 2,
	.args_max = OPT_ARGS_MAX,
};

static int join(const struct opt_args *args, char line[LINE_MAX_BYTES], struct err *err)
{
	size_t used = 0;

	for (unsigned i = 1; i < args->count; i++) {
		size_t len = strlen(args->items[i]);

		if (strpbrk(args->items[i], "\r\n") != NULL)
			return err_set(err, -EINVAL, "a command is one line");
		if (used + len + 2 > LINE_MAX_BYTES)
			return err_set(err, -E2BIG, "a command has at most %d bytes",
				       LINE_MAX_BYTES - 1);
		if (i > 1)
			line[used++] = ' ';
		memcpy(line + used, args->items[i], len);
		used += len;
	}
	line[used++] = '\n';
	line[used] = '\0';
	return 0;
}

static int ctl_connect(const char *path, int *ret_fd, struct err *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	CLEANUP(closep) int fd = -1;
	int rc;

	if (strlen(path) >= sizeof(addr.sun_path))
		return err_set(err, -ENAMETOOLONG,
			       "%s: longer than the %zu bytes a socket's name may have", path,
			       sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0) {
		*ret_fd = fd;
		fd = -1;
		return 0;
	}
	rc = err_set_sys(err, -errno, "%s", path);
	if (rc == -ENOENT || rc == -ECONNREFUSED)
		(void)err_hint(err, "is `ashlar export --control %s` running?", path);
	return rc;
}

static int send_line(int fd, const char *line, struct err *err)
{
	size_t left = strlen(line);

	while (left > 0) {
		ssize_t sent = send(fd, line, left, MSG_NOSIGNAL);

		if (sent < 0 && errno != EINTR)
			return err_set_sys(err, -errno, "the command was not taken");
		line += MAX(sent, 0);
		left -= (size_t)MAX(sent, 0);
	}
	return 0;
}

/* One line, without its line feed; to be freed. */
static int read_line(int fd, char **ret, struct err *err)
{
	CLEANUP(freep) char *line = NULL;
	CLEANUP(fclosep) FILE *file = NULL;
	size_t size = 0;
	ssize_t len;
	int copy = dup(fd);

	file = copy >= 0 ? fdopen(copy, "r") : NULL;
	if (file == NULL) {
		closep(&copy);
		return err_set_sys(err, -errno, "the answer cannot be read");
	}
	len = getline(&line, &size, file);
	if (len <= 0 || line[len - 1] != '\n')
		return err_set(err, -EPIPE, "the export closed the socket without an answer");
	line[len - 1] = '\0';
	*ret = take(line);
	return 0;
}

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

static void print_answer(const char *text)
{
	json_t *json = isatty(STDOUT_FILENO) ? json_loads(text, 0, NULL) : NULL;

	if (json == NULL || json_dumpf(json, stdout, JSON_INDENT(2)) != 0)
		printf("%s", text);
	json_decref(json);
	if (text[0] != '\0')
		printf("\n");
}

/* A line for each command, as a person reads it. */
static void print_help(const char *text)
{
	const char *end;

	for (; (end = strstr(text, "); ")) != NULL; text = end + 3)
		printf("%.*s)\n", (int)(end - text), text);
	printf("%s\n", text);
}

static int ctl_ask(const struct opt_args *args, const struct ctl_opts *opts, const char *line,
		   struct err *err)
{
	CLEANUP(closep) int fd = -1;
	CLEANUP(freep) char *answer = NULL;
	int rc = ctl_connect(args->items[0], &fd, err);

	if (rc == 0)
		rc = send_line(fd, line, err);
	if (rc == 0)
		rc = read_line(fd, &answer, err);
	if (rc != 0)
		return rc;
	if (strncmp(answer, "error ", 6) == 0)
		return err_set(err, -EPROTO, "%s", answer + 6);
	if (strncmp(answer, "ok", 2) != 0)
		return err_set(err, -EPROTO,
			       "%s: what listens there is no export: it answered '%s'",
			       args->items[0], answer);
	if (opts->is_table)
		return print_table(answer[2] == ' ' ? answer + 3 : "", err);
	if (strcmp(line, "help\n") == 0)
		print_help(answer[2] == ' ' ? answer + 3 : "");
	else
		print_answer(answer[2] == ' ' ? answer + 3 : "");
	return 0;
}

static int ctl_run(int argc, char **argv)
{
	char line[LINE_MAX_BYTES];
	struct ctl_opts opts = {};
	struct opt_args args;
	struct err err = {};
	int rc;

	if (!opt_parse_or_tell(&ctl_spec, argc, argv, &opts, &args, &rc))
		return rc;
	if (join(&args, line, &err) != 0) {
		cli_error("%s", err_text(&err));
		return CLI_USAGE;
	}
	if (ctl_ask(&args, &opts, line, &err) == 0)
		return CLI_DONE;
	cli_error("%s", err_text(&err));
	return CLI_FAILED;
}

const struct cli_command cli_ctl = {
	.name = "ctl",
	.args = "PATH VERB [ARG...]",
	.summary = "tell something to a running export, print its answer",
	.run = ctl_run,
};
