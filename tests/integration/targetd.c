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
 *   subsystem-opts WORDS            ok              for those made from now on: ana=STATE,
 *                                                   cntlid=MIN-MAX, nexus; none: the defaults
 *   subsystem-remove NQN            ok
 *   add NQN URI                     ok NSID         makes the device
 *   remove NQN NSID                 ok              the device stays
 *   destroy URI                     ok              removes the device itself
 *   resize URI                      ok        (its URI, with the new size and resize)
 *   pause NQN / resume NQN          ok
 *   inject URI / heal URI           ok              arm a fault, disarm it
 *   snapshots ERRNO                 ok              somebody makes them, with this result
 *   snapshot                        ok DEVICE NAME ENTITY TXN TIME  (of the last one asked for)
 *   controllers NQN                 ok COUNT
 *   controllers-of NQN              ok CNTLID:HOSTNQN:LISTENER:IO_QUEUES:KATO_MS ...
 *   ana NQN STATE [LISTENER [GROUP]]                ok
 *   group NQN NSID GROUP            ok              move a namespace to another ANA group
 *   host-add NQN HOSTNQN            ok              and host-del; hosts-any NQN
 *   disconnect NQN HOSTNQN|CNTLID [force]           ok COUNT
 *   cores                           ok LOAD ...     connections of each reactor that count
 *   stats                           ok NAME=VALUE ...
 *
 * It ends at the end of its input, in order: target, devices, engine.
 *
 * Options: --cores MASK, --queue-depth N, --buffers N, --connect-timeout MS, --conns N,
 *          --in-capsule N, --borrow-min BYTES, --no-success, --ptpl-dir DIR, --conns-per-host N,
 *          --conns-per-subsystem N, --hosts N, --memory BYTES, --idle-timeout MS,
 *          --crdt N (of the first; the others are 1, 2 more)
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

enum { WORDS_MAX = 5, LINE_MAX_ = 2048 };

static struct target *target;
static struct target_opts target_opts;
static struct subsystem_opts subsystem_opts; /* but for the NQN */

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
	struct subsystem_opts opts = subsystem_opts;
	struct subsystem *ss;

	opts.nqn = line->word[1];
	if (line->word[2] != NULL) {
		opts.allowed_hosts = hosts;
		opts.allowed_host_count = 1;
	}
	return subsystem_add(target, &opts, &ss, err);
}

static int do_subsystem_opts(struct line *line, struct err *err)
{
	subsystem_opts = (struct subsystem_opts){};
	for (unsigned i = 1; i < line->count; i++) {
		const char *word = line->word[i];
		unsigned min, max;
		int result = 0;

		if (strncmp(word, "ana=", 4) == 0) {
			subsystem_opts.has_ana = true;
			result = ana_state_parse(word + 4, &subsystem_opts.ana_state, err);
		} else if (sscanf(word, "cntlid=%u-%u", &min, &max) == 2) {
			subsystem_opts.cntlid_min = (uint16_t)min;
			subsystem_opts.cntlid_max = (uint16_t)max;
		} else if (strcmp(word, "nexus") == 0) {
			subsystem_opts.kind = SUBSYSTEM_NEXUS;
		} else {
			result = err_set(err, -EINVAL, "unknown option '%s'", word);
		}
		if (result < 0)
			return result;
	}
	return 0;
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
	return subsystem_pause(ss, err);
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

static struct {
	int result;
	char device[DEVICE_NAME_MAX];
	struct snapshot_params params;
} snapshots;

static int make_snapshot(struct device *dev, const struct snapshot_params *params, void *owner)
{
	(void)owner;
	(void)snprintf(snapshots.device, sizeof(snapshots.device), "%s", dev->name);
	snapshots.params = *params;
	task_sleep(1000000); /* it takes a while, as on disks */
	return snapshots.result;
}

static int do_snapshots(struct line *line, struct err *err)
{
	(void)err;
	snapshots.result = -(int)strtol(line->word[1], NULL, 10);
	target_set_snapshot(target, make_snapshot, NULL);
	return 0;
}

static int do_snapshot(struct line *line, struct err *err)
{
	const struct snapshot_params *p = &snapshots.params;

	(void)err;
	(void)snprintf(line->answer, sizeof(line->answer), "%.64s %s %s %s %ju", snapshots.device,
		       p->name, p->entity_id, p->txn_id, (uintmax_t)p->time_s);
	return 0;
}

static int do_controllers(struct line *line, struct err *err)
{
	struct subsystem *ss = find(line, err);

	if (ss == NULL)
		return -ENOENT;
	(void)snprintf(line->answer, sizeof(line->answer), "%u", subsystem_controller_count(ss));
	return 0;
}

static int do_controllers_of(struct line *line, struct err *err)
{
	struct subsystem *ss = find(line, err);
	struct controller_info infos[16];
	unsigned count = ss == NULL ? 0 : subsystem_controllers(ss, infos, 16);
	size_t used = 0;

	if (ss == NULL)
		return -ENOENT;
	for (unsigned i = 0; i < count && i < 16 && used < sizeof(line->answer); i++)
		used += (size_t)snprintf(line->answer + used, sizeof(line->answer) - used,
					 "%s%u:%s:%u:%u:%u", i == 0 ? "" : " ", infos[i].cntlid,
					 infos[i].hostnqn, infos[i].listener, infos[i].io_queues,
					 infos[i].kato_ms);
	return 0;
}

static int do_ana(struct line *line, struct err *err)
{
	struct subsystem *ss = find(line, err);
	int listener = line->word[3] == NULL ? TARGET_LISTENER_ALL
					     : (int)strtol(line->word[3], NULL, 10);
	uint32_t group = line->word[4] == NULL ? 0 : (uint32_t)strtoul(line->word[4], NULL, 10);
	enum ana_state state;
	int result;

	if (ss == NULL)
		return -ENOENT;
	result = ana_state_parse(line->word[2], &state, err);
	return result < 0 ? result : subsystem_set_ana(ss, listener, group, state, err);
}

static int do_group(struct line *line, struct err *err)
{
	struct subsystem *ss = find(line, err);

	if (ss == NULL)
		return -ENOENT;
	return subsystem_set_ns_group(ss, (uint32_t)strtoul(line->word[2], NULL, 10),
				      (uint32_t)strtoul(line->word[3], NULL, 10), err);
}

static int do_host_add(struct line *line, struct err *err)
{
	struct subsystem *ss = find(line, err);

	return ss == NULL ? -ENOENT : subsystem_allow_host(ss, line->word[2], err);
}

static int do_host_del(struct line *line, struct err *err)
{
	struct subsystem *ss = find(line, err);

	return ss == NULL ? -ENOENT : subsystem_disallow_host(ss, line->word[2], err);
}

static int do_hosts_any(struct line *line, struct err *err)
{
	struct subsystem *ss = find(line, err);

	return ss == NULL ? -ENOENT : subsystem_set_hosts(ss, NULL, 0, err);
}

static int do_disconnect(struct line *line, struct err *err)
{
	struct subsystem *ss = find(line, err);
	bool is_host = strncmp(line->word[2], "nqn.", 4) == 0;
	unsigned count = 0;
	int result;

	if (ss == NULL)
		return -ENOENT;
	result = subsystem_disconnect(ss, is_host ? line->word[2] : NULL,
				      (uint16_t)strtoul(line->word[2], NULL, 10),
				      line->word[3] != NULL, &count, err);
	(void)snprintf(line->answer, sizeof(line->answer), "%u", count);
	return result;
}

static int do_cores(struct line *line, struct err *err)
{
	size_t used = 0;

	(void)err;
	for (unsigned i = 0; i < reactor_count(); i++)
		used += (size_t)snprintf(line->answer + used, sizeof(line->answer) - used, "%s%u",
					 i == 0 ? "" : " ", target_core_load(target, i));
	return 0;
}

static int do_stats(struct line *line, struct err *err)
{
	struct target_stats s;

	(void)err;
	target_stats(target, &s);
	(void)snprintf(
		line->answer, sizeof(line->answer),
		"conns_accepted=%ju conns_refused=%ju conns_terminated=%ju "
		"connect_timeouts=%ju keep_alive_timeouts=%ju commands=%ju "
		"buffer_waits=%ju digest_errors=%ju reads_lent=%ju conns=%u buffers_free_min=%u "
		"connects_refused=%ju idle_timeouts=%ju conn_memory=%ju "
		"conn_memory_peak=%ju conn_memory_each=%ju",
		(uintmax_t)s.conns_accepted, (uintmax_t)s.conns_refused,
		(uintmax_t)s.conns_terminated, (uintmax_t)s.connect_timeouts,
		(uintmax_t)s.keep_alive_timeouts, (uintmax_t)s.commands, (uintmax_t)s.buffer_waits,
		(uintmax_t)s.digest_errors, (uintmax_t)s.reads_lent, s.conns, s.buffers_free_min,
		(uintmax_t)s.connects_refused, (uintmax_t)s.idle_timeouts, (uintmax_t)s.conn_memory,
		(uintmax_t)s.conn_memory_peak, (uintmax_t)s.conn_memory_each);
	return 0;
}

static const struct command {
	const char *name;
	unsigned words; /* at least */
	int (*run)(struct line *line, struct err *err);
} commands[] = {
	{ "listen", 2, do_listen },
	{ "subsystem", 2, do_subsystem },
	{ "subsystem-opts", 1, do_subsystem_opts },
	{ "subsystem-remove", 2, do_subsystem_remove },
	{ "add", 3, do_add },
	{ "remove", 3, do_remove },
	{ "destroy", 2, do_destroy },
	{ "resize", 2, do_resize },
	{ "pause", 2, do_pause },
	{ "resume", 2, do_resume },
	{ "inject", 2, do_inject },
	{ "heal", 2, do_heal },
	{ "snapshots", 2, do_snapshots },
	{ "snapshot", 1, do_snapshot },
	{ "controllers", 2, do_controllers },
	{ "controllers-of", 2, do_controllers_of },
	{ "ana", 3, do_ana },
	{ "group", 4, do_group },
	{ "host-add", 3, do_host_add },
	{ "host-del", 3, do_host_del },
	{ "hosts-any", 2, do_hosts_any },
	{ "disconnect", 3, do_disconnect },
	{ "cores", 1, do_cores },
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

static const struct option options[] = {
	{ "cores", required_argument, NULL, 'c' },
	{ "queue-depth", required_argument, NULL, 'q' },
	{ "buffers", required_argument, NULL, 'b' },
	{ "connect-timeout", required_argument, NULL, 't' },
	{ "conns", required_argument, NULL, 'n' },
	{ "in-capsule", required_argument, NULL, 'i' },
	{ "borrow-min", required_argument, NULL, 'B' },
	{ "no-success", no_argument, NULL, 's' },
	{ "ptpl-dir", required_argument, NULL, 'p' },
	{ "conns-per-host", required_argument, NULL, 'H' },
	{ "conns-per-subsystem", required_argument, NULL, 'S' },
	{ "hosts", required_argument, NULL, 'o' },
	{ "memory", required_argument, NULL, 'm' },
	{ "idle-timeout", required_argument, NULL, 'I' },
	{ "crdt", required_argument, NULL, 'r' },
	{},
};

static bool parse_options(int argc, char **argv, struct engine_opts *engine)
{
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
		case 'B':
			target_opts.borrow_min = (uint32_t)value;
			break;
		case 'H':
			target_opts.conns_per_host_max = (uint32_t)value;
			break;
		case 'S':
			target_opts.conns_per_subsystem_max = (uint32_t)value;
			break;
		case 'o':
			target_opts.hosts_max = (uint32_t)value;
			break;
		case 'm':
			target_opts.conn_memory_max = value;
			break;
		case 'I':
			target_opts.idle_timeout_ms = (uint32_t)value;
			break;
		case 'r':
			for (unsigned i = 0; i < 3; i++)
				target_opts.crdt[i] = (uint16_t)(value + i);
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
