// SPDX-License-Identifier: Apache-2.0
/*
 * targetd - a target that tests drive over stdin.
 *
 * `ashlar export` serves what it was started with; tests also want to pause, to resize, to take a
 * device away while hosts use it. One command per line, one answer per line ("ok", "ok VALUE",
 * "error TEXT"):
 *
 *   listen HOST                     ok PORT
 *   subsystem NQN [HOSTNQN]         ok              only HOSTNQN may connect, if given
 *   subsystem-remove NQN            ok
 *   add NQN URI                     ok NSID         makes the device
 *   remove NQN NSID                 ok              the device stays
 *   destroy URI                     ok              removes the device itself
 *   resize URI                      ok        (its URI, with the new size and resize)
 *   pause NQN / resume NQN          ok
 *   inject URI / heal URI           ok              arm a fault, disarm it
 *   controllers NQN                 ok COUNT
 *   stats                           ok NAME=VALUE ...
 *
 * It ends at the end of its input, in order: target, devices, engine.
 *
 * Options: --cores MASK, --queue-depth N, --buffers N, --connect-timeout MS, --conns N,
 *          --in-capsule N, --no-success, --ptpl-dir DIR
 *
 * Thread: the main thread reads lines, each is run as a task by engine_call().
 */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "device/device.h"
#include "device/fault.h"
#include "engine.h"
#include "target/target.h"

enum { WORDS_MAX = 4, LINE_MAX_ = 2048 };

static struct target *target;
static struct target_opts target_opts;

struct line {
	char *word[WORDS_MAX];
	unsigned count;
	char answer[1024];
};

static struct subsystem *find(const struct line *line, struct err *err)
{
	struct subsystem *ss = subsystem_find(target, line->word[1]);

	if (ss == NULL)
		(void)err_set(err, -ENOENT, "no subsystem '%s'", line->word[1]);
	return ss;
}

/* ---- the commands: each in a task ----------------------------------------------------------- */

static int do_listen(struct line *line, struct err *err)
{
	int result = target_listen(target, line->word[1], 0, err);

	if (result == 0)
		(void)snprintf(line->answer, sizeof(line->answer), "%u",
			       target_listener_port(target, target_listener_count(target) - 1));
	return result;
}

static int do_subsystem(struct line *line, struct err *err)
{
	const char *hosts[] = { line->word[2] };
	struct subsystem_opts opts = { .nqn = line->word[1] };
	struct subsystem *ss;

	if (line->word[2] != NULL) {
		opts.allowed_hosts = hosts;
		opts.allowed_host_count = 1;
	}
	return subsystem_add(target, &opts, &ss, err);
}

static int do_subsystem_remove(struct line *line, struct err *err)
{
	struct subsystem *ss = find(line, err);

	if (ss == NULL)
		return -ENOENT;
	subsystem_remove(ss);
	return 0;
}

static int do_add(struct line *line, struct err *err)
{
	struct subsystem *ss = find(line, err);
	struct device *dev;
	uint32_t nsid;
	int result;

	if (ss == NULL)
		return -ENOENT;
	result = device_create(line->word[2], &dev, err);
	if (result == 0)
		result = subsystem_add_ns(ss, dev, 0, &nsid, err);
	if (result == 0)
		(void)snprintf(line->answer, sizeof(line->answer), "%u", nsid);
	return result;
}

static int do_remove(struct line *line, struct err *err)
{
	struct subsystem *ss = find(line, err);

	if (ss == NULL)
		return -ENOENT;
	return subsystem_remove_ns(ss, (uint32_t)strtoul(line->word[2], NULL, 10), err);
}

static int do_destroy(struct line *line, struct err *err)
{
	return device_destroy(line->word[1], err);
}

static int do_resize(struct line *line, struct err *err)
{
	struct device *dev; /* word 1: its URI with the new size and resize, or with rescan */

	return device_create(line->word[1], &dev, err);
}

static int do_pause(struct line *line, struct err *err)
{
	struct subsystem *ss = find(line, err);

	if (ss == NULL)
		return -ENOENT;
	subsystem_pause(ss);
	return 0;
}

static int do_resume(struct line *line, struct err *err)
{
	struct subsystem *ss = find(line, err);

	if (ss == NULL)
		return -ENOENT;
	subsystem_resume(ss);
	return 0;
}

static int do_inject(struct line *line, struct err *err)
{
	return fault_add(line->word[1], err);
}

static int do_heal(struct line *line, struct err *err)
{
	return fault_remove(line->word[1], err);
}

static int do_controllers(struct line *line, struct err *err)
{
	struct subsystem *ss = find(line, err);

	if (ss == NULL)
		return -ENOENT;
	(void)snprintf(line->answer, sizeof(line->answer), "%u", subsystem_controller_count(ss));
	return 0;
}

static int do_stats(struct line *line, struct err *err)
{
	struct target_stats s;

	(void)err;
	target_stats(target, &s);
	(void)snprintf(line->answer, sizeof(line->answer),
		       "conns_accepted=%ju conns_refused=%ju conns_terminated=%ju "
		       "connect_timeouts=%ju keep_alive_timeouts=%ju commands=%ju "
		       "buffer_waits=%ju digest_errors=%ju conns=%u buffers_free_min=%u",
		       (uintmax_t)s.conns_accepted, (uintmax_t)s.conns_refused,
		       (uintmax_t)s.conns_terminated, (uintmax_t)s.connect_timeouts,
		       (uintmax_t)s.keep_alive_timeouts, (uintmax_t)s.commands,
		       (uintmax_t)s.buffer_waits, (uintmax_t)s.digest_errors, s.conns,
		       s.buffers_free_min);
	return 0;
}

static const struct command {
	const char *name;
	unsigned words; /* at least */
	int (*run)(struct line *line, struct err *err);
} commands[] = {
	{ "listen", 2, do_listen },
	{ "subsystem", 2, do_subsystem },
	{ "subsystem-remove", 2, do_subsystem_remove },
	{ "add", 3, do_add },
	{ "remove", 3, do_remove },
	{ "destroy", 2, do_destroy },
	{ "resize", 2, do_resize },
	{ "pause", 2, do_pause },
	{ "resume", 2, do_resume },
	{ "inject", 2, do_inject },
	{ "heal", 2, do_heal },
	{ "controllers", 2, do_controllers },
	{ "stats", 1, do_stats },
};

static int run_line(void *arg, struct err *err)
{
	struct line *line = arg;

	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (strcmp(commands[i].name, line->word[0]) != 0)
			continue;
		if (line->count < commands[i].words)
			return err_set(err, -EINVAL, "'%s' wants more words", line->word[0]);
		return commands[i].run(line, err);
	}
	return err_set(err, -EINVAL, "unknown command '%s'", line->word[0]);
}

static int start(void *arg, struct err *err)
{
	(void)arg;
	return target_start(&target_opts, &target, err);
}

static int stop(void *arg, struct err *err)
{
	(void)arg;
	(void)err;
	target_stop(target);
	return 0;
}

static void serve(void)
{
	char text[LINE_MAX_];

	while (fgets(text, sizeof(text), stdin) != NULL) {
		struct line line = {};
		struct err err = {};
		char *save = NULL;

		for (char *w = strtok_r(text, " \n", &save); w != NULL && line.count < WORDS_MAX;
		     w = strtok_r(NULL, " \n", &save))
			line.word[line.count++] = w;
		if (line.count == 0)
			continue;
		if (engine_call(run_line, &line, &err) < 0)
			printf("error %s\n", err_text(&err));
		else
			printf("ok%s%s\n", line.answer[0] != '\0' ? " " : "", line.answer);
		(void)fflush(stdout);
	}
}

static bool parse_options(int argc, char **argv, struct engine_opts *engine)
{
	static const struct option options[] = {
		{ "cores", required_argument, NULL, 'c' },
		{ "queue-depth", required_argument, NULL, 'q' },
		{ "buffers", required_argument, NULL, 'b' },
		{ "connect-timeout", required_argument, NULL, 't' },
		{ "conns", required_argument, NULL, 'n' },
		{ "in-capsule", required_argument, NULL, 'i' },
		{ "no-success", no_argument, NULL, 's' },
		{ "ptpl-dir", required_argument, NULL, 'p' },
		{},
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		unsigned long value = optarg == NULL ? 0 : strtoul(optarg, NULL, 0);

		switch (opt) {
		case 'c':
			engine->reactor.core_mask = value;
			break;
		case 'q':
			target_opts.queue_depth_max = (uint32_t)value;
			break;
		case 'b':
			target_opts.buffers = (uint32_t)value;
			break;
		case 't':
			target_opts.connect_timeout_ms = (uint32_t)value;
			break;
		case 'n':
			target_opts.conns_max = (uint32_t)value;
			break;
		case 'i':
			target_opts.in_capsule_size = (uint32_t)value;
			break;
		case 'p':
			target_opts.ptpl_dir = optarg;
			break;
		case 's':
			target_opts.no_success_flag = true;
			break;
		default:
			return false;
		}
	}
	return optind == argc;
}

int main(int argc, char **argv)
{
	struct engine_opts engine = {};
	struct err err = {};

	target_opts_init(&target_opts);
	if (!parse_options(argc, argv, &engine))
		return 2;
	if (engine_start(&engine, &err) < 0 || engine_call(start, NULL, &err) < 0) {
		(void)fprintf(stderr, "targetd: %s\n", err_text(&err));
		return 1;
	}
	printf("ready\n");
	(void)fflush(stdout);
	serve();
	if (engine_call(stop, NULL, &err) < 0)
		return 1;
	engine_stop();
	return 0;
}
