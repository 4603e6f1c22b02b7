/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export_command.c - one line of the control socket: which verb, which words, what it does, what is
 * answered.
 *
 *	add URI  |  remove NSID  |  list  |  rescan  |  pause  |  resume  |  stats
 *	ana [STATE [LISTENER]]  |  hosts  |  host-add NQN  |  host-del NQN  |  controllers
 *	disconnect NQN|CNTLID [force]  |  reservations  |  inject URI  |  uninject URI  |  help
 *	and what a nexus can be told: export_nexus.c
 *
 * A row of a table says everything of a verb: its words, which nexus it is about, what runs. The
 * words are counted and the nexus is found before it runs, so that no verb looks itself. What takes
 * a URI and nothing else has the rest of the line as it is, for a file's name may have spaces.
 *
 *	show   JSON that costs nothing but looking
 *	child  a change of the child that is named
 *	run    everything else
 *
 * Thread: request_answer() that of a client, outside the engine; the verbs in tasks on the primary
 *         reactor.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/units.h"
#include "cli/export.h"
#include "device/fault.h"
#include "engine.h"

enum { HELP_TEXT_MAX = 4096 };

int request_say(struct request *req, struct err *err, const char *fmt, ...)
{
	va_list args;
	int len;

	va_start(args, fmt);
	len = vasprintf(&req->text, fmt, args);
	va_end(args);
	if (len >= 0)
		return 0;
	req->text = NULL;
	return err_set(err, -ENOMEM, "no memory for the answer");
}

int request_say_json(struct request *req, json_t *json, struct err *err)
{
	req->text = json != NULL ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	return req->text != NULL ? 0 : err_set(err, -ENOMEM, "no memory for the answer");
}

int request_usage(const struct request *req, struct err *err)
{
	return err_set(err, -EINVAL, "write: %s %s", req->command->name, req->command->arg);
}

/* ---- verbs: in a task ------------------------------------------------------------------------ */

static int run_add(struct request *req, struct err *err)
{
	uint32_t nsid = 0;
	int rc = export_add(req->e, req->arg, 0, &nsid, err);

	return rc != 0 ? rc : request_say(req, err, "nsid=%" PRIu32, nsid);
}

static int run_remove(struct request *req, struct err *err)
{
	uint64_t nsid = 0;
	int rc = number_parse(req->arg, &nsid, err);

	if (rc != 0)
		return rc;
	if (nsid == 0 || nsid > TARGET_NAMESPACES_MAX)
		return err_set(err, -EINVAL, "remove %s: a namespace is a number from 1 to %d",
			       req->arg, TARGET_NAMESPACES_MAX);
	return export_remove(req->e, (uint32_t)nsid, err);
}

static int run_rescan(struct request *req, struct err *err)
{
	return export_rescan(req->e, err);
}

static int run_pause(struct request *req, struct err *err)
{
	return export_pause(req->e, err);
}

static int run_resume(struct request *req, struct err *err)
{
	return export_resume(req->e, err);
}

static int run_ana(struct request *req, struct err *err)
{
	if (req->count == 0)
		return request_say_json(req, export_paths(req->e), err);
	return export_ana(req->e, req->word[0], req->word[1], err);
}

static int run_host_add(struct request *req, struct err *err)
{
	return export_host_add(req->e, req->arg, err);
}

static int run_host_del(struct request *req, struct err *err)
{
	return export_host_del(req->e, req->arg, err);
}

static int run_disconnect(struct request *req, struct err *err)
{
	unsigned count = 0;
	int rc = export_disconnect(req->e, req->word[0], req->word[1], &count, err);

	return rc != 0 ? rc : request_say(req, err, "controllers=%u", count);
}

static int run_inject(struct request *req, struct err *err)
{
	return fault_add(req->arg, err);
}

static int run_uninject(struct request *req, struct err *err)
{
	return fault_remove(req->arg, err);
}

static int run_help(struct request *req, struct err *err);

static const struct command commands[] = {
	{ "add", "URI", "serve one more device", .run = run_add },
	{ "remove", "NSID", "stop serving a namespace", .run = run_remove },
	{ "list", NULL, "namespaces, as JSON", .show = export_list },
	{ "rescan", NULL, "read all sizes again", .run = run_rescan },
	{ "pause", NULL, "hold new I/O, wait for what is in flight", .run = run_pause },
	{ "resume", NULL, "let it go on", .run = run_resume },
	{ "stats", NULL, "counters of target and devices, as JSON", .show = export_stats },
	{ "reservations", NULL, "who reserved what, as JSON", .show = export_reservations },
	{ "ana", "[STATE [LISTENER]]", "what paths are good for: show or set", .words_max = 2,
	  .run = run_ana },
	{ "hosts", NULL, "who may connect, as JSON", .show = export_hosts },
	{ "host-add", "NQN", "let a host in; any: every one", .run = run_host_add },
	{ "host-del", "NQN", "shut a host out, at once", .run = run_host_del },
	{ "controllers", NULL, "connected hosts, as JSON", .show = export_controllers },
	{ "disconnect", "NQN|CNTLID [force]", "end a host's controllers, or one", .words_min = 1,
	  .words_max = 2, .run = run_disconnect },
	{ "inject", "URI", "arm a fault: inject://DEVICE?...", .run = run_inject },
	{ "uninject", "URI", "disarm it by the same text", .run = run_uninject },
	{ "help", NULL, "this list", .run = run_help },
};

/* The n-th of all commands: ours, then those for a nexus. NULL: no more. */
static const struct command *command_at(size_t i)
{
	if (i < ARRAY_LEN(commands))
		return &commands[i];
	i -= ARRAY_LEN(commands);
	return nexus_commands[i].name != NULL ? &nexus_commands[i] : NULL;
}

static int run_help(struct request *req, struct err *err)
{
	const struct command *c;
	char all[HELP_TEXT_MAX] = "";
	size_t used = 0;

	for (size_t i = 0; (c = command_at(i)) != NULL && used < sizeof(all); i++)
		used += (size_t)snprintf(all + used, sizeof(all) - used, "%s%s%s%s (%s)",
					 i == 0 ? "" : "; ", c->name, c->arg != NULL ? " " : "",
					 c->arg != NULL ? c->arg : "", c->help);
	return request_say(req, err, "%s", all);
}

static int request_run(void *arg, struct err *err)
{
	struct request *req = arg;
	const struct command *c = req->command;
	int rc = c->nexus != MEANS_NONE ? nexus_request_find(req, err) : 0;

	if (rc != 0)
		return rc;
	if (c->show != NULL)
		return request_say_json(req, c->show(req->e), err);
	return c->child != NULL ? nexus_request_child(req, err) : c->run(req, err);
}

/* ---- lines ----------------------------------------------------------------------------------- */

static int words_split(struct request *req, char *rest, struct err *err)
{
	const struct command *c = req->command;

	for (char *word = strsep(&rest, " "); word != NULL; word = strsep(&rest, " ")) {
		if (word[0] == '\0')
			continue;
		if (word[0] == '@' && c->nexus != MEANS_NONE && req->nexus == NULL)
			req->nexus = word + 1;
		else if (req->count < c->words_max)
			req->word[req->count++] = word;
		else
			return request_usage(req, err);
	}
	return req->count >= c->words_min ? 0 : request_usage(req, err);
}

static int request_parse(struct request *req, char *line, struct err *err)
{
	char *rest = strchr(line, ' ');
	const struct command *c;

	if (rest != NULL) {
		*rest++ = '\0';
		rest += strspn(rest, " ");
		req->arg = *rest != '\0' ? rest : NULL;
	}
	for (size_t i = 0; (c = command_at(i)) != NULL; i++) {
		if (strcmp(c->name, line) == 0)
			req->command = c;
	}
	c = req->command;
	if (c == NULL)
		return err_set(err, -EINVAL, "unknown command '%s'; 'help' lists them", line);
	if (c->arg != NULL && c->arg[0] != '[' && req->arg == NULL)
		return err_set(err, -EINVAL, "%s needs an argument: %s %s", line, line, c->arg);
	if (c->arg == NULL && req->arg != NULL)
		return err_set(err, -EINVAL, "%s takes no argument", line);
	return c->words_max != 0 || c->nexus != MEANS_NONE ? words_split(req, rest, err) : 0;
}

char *request_answer(struct export *e, char *line)
{
	struct request req = { .e = e };
	struct err err = {};
	char *reply;
	int rc;

	line[strcspn(line, "\r")] = '\0';
	rc = request_parse(&req, line, &err);
	if (rc == 0)
		rc = engine_call(request_run, &req, &err);
	if (rc != 0)
		rc = asprintf(&reply, "error %s\n", err_text(&err));
	else
		rc = asprintf(&reply, "ok%s%s\n", req.text != NULL ? " " : "",
			      req.text != NULL ? req.text : "");
	free(req.text);
	return rc >= 0 ? reply : NULL;
}
