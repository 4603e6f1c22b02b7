/* SPDX-License-Identifier: Apache-2.0 */
/*
 * discover.c - `ashlar discover HOST:PORT`: which subsystems a target offers, and their URIs.
 *
 * The answer to "what do I type after nvmf://?". The list is a target's discovery log as it was at
 * one moment (drivers/nvmf/discover.c); each NVM subsystem reached by TCP gets the URI to use,
 * ready to be pasted. A referral to another discovery controller is listed, not followed.
 *
 * The log says nothing about namespaces: one subsystem may have many, and a URI without nsid= takes
 * the first. Which there are is told when another one is asked for.
 *
 * With -o json the same as one object, for scripts. The port may be left out; then it is that of a
 * target (4420), where ours answers discovery too, not that of a separate discovery service.
 *
 * Thread: discover_task() is a task on the primary reactor; main waits for it.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "base/units.h"
#include "base/uri.h"
#include "cli/cli.h"
#include "cli/json_text.h"
#include "cli/opt.h"
#include "cli/term.h"
#include "drivers/nvmf/discover.h"

enum { URI_TEXT_MAX = 1024 };

enum output { OUTPUT_TABLE, OUTPUT_JSON };

struct discover {
	const char *hostnqn;
	unsigned output;
	/* not options */
	char host[256];
	uint16_t port;
};

static const char *const outputs[] = { "table", "json", NULL };

#define FIELD(name) offsetof(struct discover, name)

static const struct opt discover_options[] = {
	{ "output", "FORMAT", "table (default) or json", OPT_CHOICE, FIELD(output),
	  .choices = outputs, .is_output = true },
	{ "hostnqn", "NQN", "ask as this host; targets show what it may use", OPT_TEXT,
	  FIELD(hostnqn) },
	{ NULL },
};

static const struct opt_spec discover_spec = {
	.command = "discover",
	.args = "HOST[:PORT]",
	.summary = "List the subsystems that an NVMe/TCP target offers.",
	.details = "example:\n  ashlar discover 127.0.0.1:4420\n",
	.opts = discover_options,
	.args_min = 1,
	.args_max = 1,
};

/* ---- where to ask ------------------------------------------------------------------------- */

static int place_parse(const char *text, struct discover *d, struct err *err)
{
	CLEANUP(uri_freep) struct uri *uri = NULL;
	char whole[512];
	uint64_t port = NVME_TCP_PORT;

	(void)snprintf(whole, sizeof(whole), "nvmf://%s/", text);
	if (strchr(text, '/') != NULL || strlen(text) > 400 || uri_parse(whole, &uri, NULL) != 0 ||
	    uri->host[0] == '\0' || strlen(uri->host) >= sizeof(d->host) ||
	    (uri->port[0] != '\0' &&
	     (number_parse(uri->port, &port, NULL) != 0 || port == 0 || port > UINT16_MAX)))
		return err_set(err, -EINVAL,
			       "'%.100s' is no place to ask: write HOST:PORT, an IPv6 address in "
			       "brackets",
			       text);
	memcpy(d->host, uri->host, strlen(uri->host) + 1);
	d->port = (uint16_t)port;
	return 0;
}

/* ---- what is said ------------------------------------------------------------------------- */

static const char *subtype_name(const struct discover_entry *e)
{
	switch (e->subtype) {
	case NVME_SUBTYPE_DISCOVERY:
		return "referral";
	case NVME_SUBTYPE_NVM:
		return "nvm";
	case NVME_SUBTYPE_CURRENT_DISCOVERY:
		return "discovery";
	default:
		return "unknown";
	}
}

static const char *trtype_name(const struct discover_entry *e)
{
	static const char *const names[] = { "unknown", "rdma", "fc", "tcp" }; /* Base 5.16.1.23 */

	return e->trtype < ARRAY_LEN(names) ? names[e->trtype] : "unknown";
}

static bool has_uri(const struct discover_entry *e)
{
	return e->trtype == NVME_TRTYPE_TCP && e->subtype == NVME_SUBTYPE_NVM;
}

static void uri_text(const struct discover_entry *e, char text[URI_TEXT_MAX])
{
	bool is_v6 = strchr(e->addr, ':') != NULL;
	CLEANUP(freep) char *encoded = uri_encode_segment(e->subnqn);

	(void)snprintf(text, URI_TEXT_MAX, "nvmf://%s%s%s:%s/%s", is_v6 ? "[" : "", e->addr,
		       is_v6 ? "]" : "", e->service, encoded != NULL ? encoded : e->subnqn);
}

static void print_table(const struct discover_list *list)
{
	static const char *const titles[] = { "SUBSYSTEM", "ADDRESS", "PORT",
					      "TRANSPORT", "TYPE",    NULL };
	struct table table;
	char text[URI_TEXT_MAX];
	bool is_any = false;

	table_init(&table, titles, 1u << 2);
	for (unsigned i = 0; i < list->count; i++) {
		const struct discover_entry *e = &list->entry[i];
		unsigned row = table_row(&table);

		table_set(&table, row, 0, "%s", e->subnqn);
		table_set(&table, row, 1, "%s", e->addr);
		table_set(&table, row, 2, "%s", e->service);
		table_set(&table, row, 3, "%s", trtype_name(e));
		table_set(&table, row, 4, "%s", subtype_name(e));
	}
	table_print(&table, stdout);
	table_done(&table);
	for (unsigned i = 0; i < list->count; i++) {
		if (!has_uri(&list->entry[i]))
			continue;
		uri_text(&list->entry[i], text);
		printf("%s%s\n", is_any ? "" : "\nURIs to use:\n", text);
		is_any = true;
	}
}

static bool print_json(const struct discover_list *list)
{
	json_t *entries = json_array();
	json_t *object = json_pack("{s:I, s:o}", "generation", (json_int_t)list->generation,
				   "entries", entries);

	for (unsigned i = 0; i < list->count; i++) {
		const struct discover_entry *e = &list->entry[i];
		char text[URI_TEXT_MAX];
		json_t *entry = json_pack("{s:s, s:s, s:s, s:s, s:s, s:i}", "subsystem", e->subnqn,
					  "address", e->addr, "port", e->service, "transport",
					  trtype_name(e), "type", subtype_name(e), "portid",
					  (int)e->portid);

		uri_text(e, text);
		if (entry != NULL && has_uri(e))
			(void)json_object_set_new(entry, "uri", json_string(text));
		(void)json_array_append_new(entries, entry);
	}
	return json_print(object, false);
}

static int discover_task(void *arg, struct err *err)
{
	struct discover *d = arg;
	CLEANUP(freep) struct discover_list *list = NULL;

	if (nvmf_discover(d->host, d->port, d->hostnqn, &list, err) < 0)
		return CLI_FAILED;
	if (d->output == OUTPUT_JSON)
		return print_json(list) ? CLI_DONE : CLI_FAILED;
	if (list->count > 0)
		print_table(list);
	else
		fprintf(stderr, "%s:%u offers nothing to this host%s\n", d->host, d->port,
			d->hostnqn != NULL ? "" : "; --hostnqn asks as another");
	return CLI_DONE;
}

static int discover_run(int argc, char **argv)
{
	struct discover d = {};
	struct engine_opts opts = {};
	struct opt_args args;
	struct err err = {};
	int rc;

	if (!opt_parse_or_tell(&discover_spec, argc, argv, &d, &args, &rc))
		return rc;
	if (place_parse(args.items[0], &d, &err) != 0) {
		cli_error("%s", err_text(&err));
		return CLI_USAGE;
	}
	return cli_run_engine(&opts, discover_task, &d);
}

const struct cli_command cli_discover = {
	.name = "discover",
	.args = "HOST[:PORT]",
	.summary = "list the subsystems that an NVMe/TCP target offers",
	.run = discover_run,
};
