/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nexus_check.c - `ashlar nexus check`: which of these replicas is the newest, which are stale,
 * why, and what making a nexus of them would rebuild.
 *
 * The question is asked when something went wrong: a node has died, a disk was found in a drawer.
 * So nothing is written, each replica gets its verdict even if others cannot be read, and each
 * verdict says what it rests on. nexus/check.c has the rules.
 *
 * The record of the store decides where it is given: as a file (--record), or by the uuid or key of
 * the volume (--key) in the store that commands use.
 *
 * Exit code 0: all of them are in sync. 1: one is not, or nobody can tell. 2: wrong usage.
 *
 * Thread: a task on the primary reactor.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "base/units.h"
#include "cli/cli.h"
#include "cli/json_text.h"
#include "cli/opt.h"
#include "cli/store.h"
#include "nexus/check.h"

struct check_opts {
	const char *record, *key;
	unsigned json;
};

struct check_call {
	struct check_opts opts;
	struct opt_args args; /* "check", then URIs */
	struct nexus_record record;
	bool has_record;
	struct check_report report;
};

#define FIELD(name) offsetof(struct check_opts, name)

static const struct opt nexus_options[] = {
	{ "record", "FILE", "the store's record of the volume: JSON, as the store has it", OPT_TEXT,
	  FIELD(record) },
	{ "key", "KEY",
	  "look the record up in the store that commands use:\n"
	  "uuid of the nexus, the key= of its URI, or its name",
	  OPT_TEXT, FIELD(key) },
	OPT_OUTPUT(struct check_opts, json, ""),
	{ NULL },
};

static const struct opt_spec nexus_spec = {
	.command = "nexus check",
	.args = "URI...",
	.summary = "Look at the replicas of a mirror: which is newest, which are stale, and why.",
	.details = "example:\n  ashlar nexus check uring:///a.img uring:///b.img --key "
		   "6e3f9d0e-5c2a-4a53-9a42-0f6f8f1c2b11\n",
	.opts = nexus_options,
	.args_min = 2,
	.args_max = 1 + NEXUS_CHILDREN_MAX,
};

/* ---- the record ----------------------------------------------------------------------------- */

static int record_of_file(struct check_call *call, char text[RECORD_TEXT_MAX], struct err *err)
{
	FILE *file = fopen(call->opts.record, "r");
	size_t len;

	if (file == NULL)
		return err_set_sys(err, -errno, "record %s", call->opts.record);
	len = fread(text, 1, RECORD_TEXT_MAX - 1, file);
	text[len] = '\0';
	(void)fclose(file);
	return 0;
}

static int record_of_key(struct check_call *call, char text[RECORD_TEXT_MAX],
			 struct err *err) MAY_SUSPEND
{
	struct nexus_store *store;
	int result = cli_store(&store, err);

	if (result == 0 && store == NULL)
		return err_set(err, -EINVAL, "ASHLAR_STORE=memory keeps no record to look up");
	return result == 0 ? store->get(store, call->opts.key, text, err) : result;
}

static int record_read(struct check_call *call, struct err *err) MAY_SUSPEND
{
	char text[RECORD_TEXT_MAX];
	int result = 0;

	if (call->opts.record == NULL && call->opts.key == NULL)
		return 0;
	result = call->opts.record != NULL ? record_of_file(call, text, err)
					   : record_of_key(call, text, err);
	if (result == 0)
		result = record_parse(text, strlen(text), &call->record, err);
	call->has_record = result == 0;
	return result;
}

/* ---- what is printed ------------------------------------------------------------------------ */

static const char *rebuild_text(const struct check_call *call, const struct check_replica *replica,
				char text[UNITS_TEXT_MAX + 32])
{
	char size[UNITS_TEXT_MAX];

	switch (replica->rebuild) {
	case CHECK_REBUILD_FULL:
		return "full rebuild";
	case CHECK_REBUILD_PARTIAL:
		(void)snprintf(text, UNITS_TEXT_MAX + 32, "rebuild of %s",
			       size_format(replica->segments * call->report.segment_size, size));
		return text;
	case CHECK_REBUILD_NONE:
		break;
	}
	return "nothing to do";
}

static void print_missing(const struct check_report *report)
{
	char uuid[UUID_TEXT_SIZE];

	for (unsigned i = 0; i < report->nmissing; i++)
		printf("%-10s %s\n           it is a replica, too, and is not among those that "
		       "could be read: it may be newer than these, or stale\n",
		       "missing", uuid_to_text(&report->missing[i], uuid));
}

static void print_text(const struct check_call *call)
{
	for (unsigned i = 0; i < call->report.nreplicas; i++) {
		const struct check_replica *replica = &call->report.replica[i];
		bool is_useful = replica->verdict != CHECK_UNREADABLE && call->report.source >= 0 &&
				 (int)i != call->report.source;
		char text[UNITS_TEXT_MAX + 32];

		printf("%-10s %s\n           %s%s%s\n", check_verdict_name(replica->verdict),
		       call->args.items[1 + i], replica->why, is_useful ? "; " : "",
		       is_useful ? rebuild_text(call, replica, text) : "");
		if (replica->has_marks)
			printf("           generation %016" PRIx64 ", sequence %" PRIu64
			       ", %u segments in flight\n",
			       replica->generation, replica->sequence, replica->in_flight);
	}
	print_missing(&call->report);
	if (call->report.advice[0] != '\0')
		printf("%s\n", call->report.advice);
}

static json_t *replica_json(const struct check_call *call, unsigned i)
{
	static const char *const rebuilds[] = { "none", "partial", "full" };
	const struct check_replica *replica = &call->report.replica[i];
	char uuid[UUID_TEXT_SIZE], nexus[UUID_TEXT_SIZE], generation[17];
	json_t *o = json_pack(
		"{s:o, s:s, s:s, s:o, s:s, s:I}", "uri", json_text(call->args.items[1 + i]), "uuid",
		uuid_to_text(&replica->uuid, uuid), "verdict", check_verdict_name(replica->verdict),
		"why", json_text(replica->why), "rebuild", rebuilds[replica->rebuild],
		"rebuild_bytes", (json_int_t)(replica->segments * call->report.segment_size));

	(void)snprintf(generation, sizeof(generation), "%016" PRIx64, replica->generation);
	if (replica->has_marks)
		(void)json_object_set_new(
			o, "marks",
			json_pack("{s:s, s:s, s:I, s:I}", "nexus",
				  uuid_to_text(&replica->nexus, nexus), "generation", generation,
				  "sequence", (json_int_t)replica->sequence, "segments_in_flight",
				  (json_int_t)replica->in_flight));
	if (replica->recorded >= 0)
		(void)json_object_set_new(o, "recorded_healthy",
					  json_boolean(replica->recorded != 0));
	return o;
}

static bool print_json(const struct check_call *call, bool is_ok)
{
	json_t *list = json_array(), *missing = json_array(), *o;
	char uuid[UUID_TEXT_SIZE];

	for (unsigned i = 0; i < call->report.nreplicas; i++)
		(void)json_array_append_new(list, replica_json(call, i));
	for (unsigned i = 0; i < call->report.nmissing; i++)
		(void)json_array_append_new(
			missing, json_string(uuid_to_text(&call->report.missing[i], uuid)));
	o = json_pack("{s:b, s:o, s:o, s:I, s:o}", "ok", is_ok, "replicas", list, "missing",
		      missing, "segment_size", (json_int_t)call->report.segment_size, "advice",
		      json_text(call->report.advice));
	if (call->report.source >= 0)
		(void)json_object_set_new(o, "source",
					  json_text(call->args.items[1 + call->report.source]));
	return json_print(o, true);
}

/* ---- the command ---------------------------------------------------------------------------- */

static bool all_in_sync(const struct check_report *report)
{
	bool is = report->source >= 0;

	for (unsigned i = 0; i < report->nreplicas; i++)
		is &= report->replica[i].verdict >= CHECK_IN_SYNC &&
		      report->replica[i].rebuild == CHECK_REBUILD_NONE;
	return is;
}

static int check_main(void *arg, struct err *err)
{
	struct check_call *call = arg;
	bool is_ok;

	if (record_read(call, err) < 0 ||
	    nexus_check(call->args.items + 1, call->args.count - 1,
			call->has_record ? &call->record : NULL, &call->report, err) < 0)
		return CLI_FAILED;
	is_ok = all_in_sync(&call->report);
	if (!call->opts.json)
		print_text(call);
	else if (!print_json(call, is_ok))
		is_ok = false;
	return is_ok ? CLI_DONE : CLI_FAILED;
}

static int nexus_run(int argc, char **argv)
{
	static struct check_call call;
	struct engine_opts engine = { .handle_signals = true };
	int rc;

	if (!opt_parse_or_tell(&nexus_spec, argc, argv, &call.opts, &call.args, &rc))
		return rc;
	if (strcmp(call.args.items[0], "check") != 0) {
		cli_error("'%s' is nothing that can be done with a nexus; there is 'check'",
			  call.args.items[0]);
		return CLI_USAGE;
	}
	if (call.opts.record != NULL && call.opts.key != NULL) {
		cli_error("--record and --key name two records; one is enough");
		return CLI_USAGE;
	}
	return cli_run_engine(&engine, check_main, &call);
}

const struct cli_command cli_nexus = {
	.name = "nexus",
	.args = "check URI...",
	.summary = "look at the replicas of a mirror: which are stale, and why",
	.run = nexus_run,
};
