/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uri.c - `ashlar uri`: which schemes this program knows and what each may be given.
 *
 * The text is the drivers' own: each driver's table names its schemes and one line of help, and
 * this command prints them in the table's order. So the list is what is linked in, never what a
 * page once said; the manual page ashlar-uri(7) has the whole story and a lint rule holds the two
 * together.
 *
 * `ashlar uri TEXT` takes one URI apart without opening anything and says which driver would get
 * it: the quickest answer to "did my shell eat the ampersand?". The most frequent mistake with
 * these URIs is a missing pair of quotes around '?' and '&'.
 *
 * Nothing is opened, so it needs no right to the device, and parameters are shown as they were
 * taken apart, not judged: only the driver knows which of them go together.
 *
 * Thread: the main thread; no engine runs.
 */
#include <errno.h>
#include <jansson.h>
#include <stddef.h>

#include "base/uri.h"
#include "cli/cli.h"
#include "cli/json_text.h"
#include "cli/opt.h"
#include "device/driver.h"
#include "schemes.h"

struct uri_opts {
	unsigned json;
};

static const struct opt uri_options[] = {
	OPT_OUTPUT(struct uri_opts, json, ""),
	{ NULL },
};

static const struct opt_spec uri_spec = {
	.command = "uri",
	.args = "[URI]",
	.summary = "List the URI schemes, or take one URI apart without opening it.",
	.details = "example:\n  ashlar uri 'malloc:///m0?size_mb=64&blk_size=4096'\n",
	.opts = uri_options,
	.args_max = 1,
};

static void print_schemes(void)
{
	for (const struct driver *const *d = drivers(); *d != NULL; d++) {
		for (const char *const *scheme = (*d)->schemes; *scheme != NULL; scheme++)
			printf("%s%s", scheme == (*d)->schemes ? "" : ", ", *scheme);
		printf("\n    %s\n", (*d)->help);
	}
	printf("\nQuote URIs in a shell: '?' and '&' mean something to it. More: ashlar-uri(7).\n");
}

static json_t *json_driver(const struct driver *driver)
{
	json_t *schemes = json_array();

	for (const char *const *scheme = driver->schemes; *scheme != NULL; scheme++)
		(void)json_array_append_new(schemes, json_string(*scheme));
	return json_pack("{s:s, s:s, s:o, s:s}", "driver", driver->name, "product", driver->product,
			 "schemes", schemes, "usage", driver->help);
}

static int print_schemes_json(void)
{
	json_t *list = json_array();

	for (const struct driver *const *d = drivers(); *d != NULL; d++)
		(void)json_array_append_new(list, json_driver(*d));
	return json_print(list, true) ? CLI_DONE : CLI_FAILED;
}

static int print_parts_json(const struct driver *driver, const struct uri *uri)
{
	json_t *parts = json_driver(driver), *params = json_array();

	for (unsigned i = 0; i < uri->nparams; i++)
		(void)json_array_append_new(
			params, json_pack("{s:o, s:o}", "key", json_text(uri->params[i].key),
					  "value", json_text(uri->params[i].value)));
	(void)json_object_set_new(parts, "scheme", json_text(uri->scheme));
	(void)json_object_set_new(parts, "authority", json_text(uri->authority));
	(void)json_object_set_new(parts, "path", json_text(uri->path));
	(void)json_object_set_new(parts, "parameters", params);
	return json_print(parts, true) ? CLI_DONE : CLI_FAILED;
}

static int print_parts(const char *text, bool is_json)
{
	CLEANUP(uri_freep) struct uri *uri = NULL;
	const struct driver *driver;
	struct err err = {};

	if (uri_parse(text, &uri, &err) != 0) {
		cli_error("%s", err_text(&err));
		return CLI_FAILED;
	}
	driver = driver_by_scheme(uri->scheme);
	if (driver == NULL) {
		cli_error("%s: there is no scheme '%s'; 'ashlar uri' lists those there are", text,
			  uri->scheme);
		return CLI_FAILED;
	}
	if (is_json)
		return print_parts_json(driver, uri);
	printf("driver     %s (%s)\n", driver->name, driver->product);
	if (uri->authority[0] != '\0')
		printf("authority  %s\n", uri->authority);
	printf("path       %s\n", uri->path);
	for (unsigned i = 0; i < uri->nparams; i++)
		printf("parameter  %s%s%s\n", uri->params[i].key,
		       uri->params[i].value != NULL ? " = " : "",
		       uri->params[i].value != NULL ? uri->params[i].value : "");
	printf("usage      %s\n", driver->help);
	return CLI_DONE;
}

static int uri_run(int argc, char **argv)
{
	struct uri_opts opts = {};
	struct opt_args args;
	int rc;

	if (!opt_parse_or_tell(&uri_spec, argc, argv, &opts, &args, &rc))
		return rc;
	drivers_set(scheme_table);
	if (args.count > 0)
		return print_parts(args.items[0], opts.json);
	if (opts.json)
		return print_schemes_json();
	print_schemes();
	return CLI_DONE;
}

const struct cli_command cli_uri = {
	.name = "uri",
	.args = "[URI]",
	.summary = "list the URI schemes, or take one URI apart",
	.run = uri_run,
};
