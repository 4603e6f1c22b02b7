/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export_command.c - one line of the control socket: which verb, which words, what it does, what is
 * answered.
 *
 *	status  |  add URI  |  remove NSID  |  list  |  rescan  |  pause  |  resume  |  stats
 *	ana [STATE [LISTENER]]  |  hosts  |  host-add NQN  |  host-del NQN  |  controllers
 *	disconnect NQN|CNTLID [force]  |  reservations  |  inject URI  |  uninject URI
 *	help [VERB]
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
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/units.h"
#include "cli/cli.h"
#include "cli/export.h"
#include "device/fault.h"
#include "engine.h"

enum { VERBS_MAX = 64 }; /* among which the nearest is looked for */

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
	return err_set(err, -EINVAL, "write: %s %s; for example: %s", req->command->name,
		       req->command->arg, req->command->example);
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
	{ "status", NULL, "all that is served and what runs", "status", .show = export_status },
	{ "add", "URI", "serve one more device", "add aio:///var/tmp/more.img", .run = run_add },
	{ "remove", "NSID", "stop serving a namespace", "remove 2", .run = run_remove },
	{ "list", NULL, "namespaces, as JSON", "list", .show = export_list },
	{ "rescan", NULL, "read all sizes again", "rescan", .run = run_rescan },
	{ "pause", NULL, "hold new I/O, wait for what is in flight", "pause", .run = run_pause },
	{ "resume", NULL, "let it go on", "resume", .run = run_resume },
	{ "stats", NULL, "counters of target and devices, as JSON", "stats -o table",
	  .show = export_stats },
	{ "reservations", NULL, "who reserved what, as JSON", "reservations",
	  .show = export_reservations },
	{ "ana", "[STATE [LISTENER]]", "what paths are good for: show or set", "ana inaccessible 0",
	  .words_max = 2, .run = run_ana },
	{ "hosts", NULL, "who may connect, as JSON", "hosts", .show = export_hosts },
	{ "host-add", "NQN", "let a host in; any: every one",
	  "host-add nqn.2014-08.org.nvmexpress:uuid:6e3f9d0e-5c2a-4a53-9a42-0f6f8f1c2b11",
	  .run = run_host_add },
	{ "host-del", "NQN", "shut a host out, at once",
	  "host-del nqn.2014-08.org.nvmexpress:uuid:6e3f9d0e-5c2a-4a53-9a42-0f6f8f1c2b11",
	  .run = run_host_del },
	{ "controllers", NULL, "connected hosts, as JSON", "controllers -o table",
	  .show = export_controllers },
	{ "disconnect", "NQN|CNTLID [force]", "end a host's controllers, or one",
	  "disconnect 1 force", .words_min = 1, .words_max = 2, .run = run_disconnect },
	{ "inject", "URI", "arm a fault: inject://DEVICE?...",
	  "inject 'inject://m0?op=write&retries=3'", .run = run_inject },
	{ "uninject", "URI", "disarm it by the same text",
	  "uninject 'inject://m0?op=write&retries=3'", .run = run_uninject },
	{ "help", "[VERB]", "this list, or one verb of it", "help child-online", .words_max = 1,
	  .run = run_help },
};

/* The n-th of all commands: ours, then those for a nexus. NULL: no more. */
static const struct command *command_at(size_t i)
{
	if (i < ARRAY_LEN(commands))
		return &commands[i];
	i -= ARRAY_LEN(commands);
	return nexus_commands[i].name != NULL ? &nexus_commands[i] : NULL;
}

static const struct command *command_find(const char *verb, struct err *err)
{
	const char *names[VERBS_MAX], *near;
	const struct command *c;
	unsigned count = 0;

	for (size_t i = 0; (c = command_at(i)) != NULL; i++) {
		if (strcmp(c->name, verb) == 0)
			return c;
		if (count < VERBS_MAX)
			names[count++] = c->name;
	}
	near = cli_nearest(verb, names, count);
	if (near != NULL)
		(void)err_set(err, -EINVAL,
			      "unknown command '%s'; did you mean '%s'? 'help' lists them", verb,
			      near);
	else
		(void)err_set(err, -EINVAL, "unknown command '%s'; 'help' lists them", verb);
	return NULL;
}

json_t *command_help(const char *verb, struct err *err)
{
	const struct command *c = verb != NULL ? command_find(verb, err) : command_at(0);
	json_t *list;

	if (c == NULL)
		return NULL;
	list = json_array();
	for (size_t i = 1; c != NULL; c = verb == NULL ? command_at(i++) : NULL)
		(void)json_array_append_new(list,
					    json_pack("{s:s, s:s, s:s, s:s}", "verb", c->name,
						      "args", c->arg != NULL ? c->arg : "", "help",
						      c->help, "example", c->example));
	return list;
}

static int run_help(struct request *req, struct err *err)
{
	json_t *list = command_help(req->word[0], err);

	return list != NULL ? request_say_json(req, list, err) : -EINVAL;
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
	req->command = c = command_find(line, err);
	if (c == NULL)
		return -EINVAL;
	if (c->arg != NULL && c->arg[0] != '[' && req->arg == NULL)
		return err_set(err, -EINVAL, "%s needs an argument: %s %s; for example: %s", line,
			       line, c->arg, c->example);
	if (c->arg == NULL && req->arg != NULL)
		return err_set(err, -EINVAL, "%s takes no argument", line);
	return c->words_max != 0 || c->nexus != MEANS_NONE ? words_split(req, rest, err) : 0;
}

/* The next event. False: the client is gone, or the export ends. */
static bool event_wait(int fd, int news)
{
	struct pollfd fds[] = { { .fd = fd, .events = POLLRDHUP },
				{ .fd = news, .events = POLLIN } };
	eventfd_t unread;

	if (poll(fds, ARRAY_LEN(fds), -1) < 0)
		return errno == EINTR;
	(void)eventfd_read(news, &unread);
	return fds[0].revents == 0;
}

/* It is looked again after the follower is known, so that no event falls between. */
static int request_follow(struct request *req, int fd, struct err *err)
{
	int news = events_follow(req->e), rc = 0;

	if (news < 0)
		return err_set_sys(err, -errno, "events cannot be waited for");
	do {
		free(take(req->text));
		rc = engine_call(request_run, req, err);
	} while (rc == 0 && req->is_early && event_wait(fd, news));
	events_unfollow(req->e, news);
	return rc;
}

char *request_answer(struct export *e, char *line, int fd)
{
	struct request req = { .e = e };
	struct err err = {};
	char *reply;
	int rc;

	line[strcspn(line, "\r")] = '\0';
	rc = request_parse(&req, line, &err);
	if (rc == 0)
		rc = engine_call(request_run, &req, &err);
	if (rc == 0 && req.is_early)
		rc = request_follow(&req, fd, &err);
	if (rc != 0)
		rc = asprintf(&reply, "error %s\n", err_text(&err));
	else
		rc = asprintf(&reply, "ok%s%s\n", req.text != NULL ? " " : "",
			      req.text != NULL ? req.text : "");
	free(req.text);
	return rc >= 0 ? reply : NULL;
}
