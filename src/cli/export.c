/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export.c - `ashlar export`: serve devices over NVMe/TCP until told to stop.
 *
 *	store, target, ports, control socket -> devices -> subsystem -> namespaces 1, 2, ...
 *	   -> let in -> tell -> wait
 *	   wait:  SIGHUP, "rescan"  read sizes again        SIGINT, SIGTERM  stop, in reverse order
 *
 * What is named on this machine is taken first: a port in use, or a control socket of another
 * export, costs an error, and no device has been touched. A mirror that is made begins to rebuild,
 * so to find out afterwards is too late: the same command typed twice would be two masters of the
 * same replicas for a moment.
 *
 * Everything is ready before the first host is let in; who connects earlier waits, and then sees
 * all namespaces at once, in the order of the command line. What a user needs to type on the host
 * is printed after that.
 *
 * Operations come from the control socket, from signals and from start and stop; a lock that
 * suspends keeps them one at a time, since each of them waits for I/O to end somewhere.
 *
 * At the end a device may hang. What hosts have with it is waited for as long as any change waits
 * (--limit device-time); then it is named, everything else is closed in order, and the process ends
 * without it: its memory goes with the process, so that nothing is freed under a driver. What else
 * is with a device (rebuild, scrub, notes of a mirror) is waited for when it is closed: all devices
 * close at once, so a clean end of one does not depend on another, and have CLOSE_DEVICE_TIMES as
 * long.
 *
 * Rejected: a configuration file. What a command line cannot hold is the daemon's business.
 *
 * Thread: tasks on the primary reactor; I/O runs on the reactor of each connection.
 */
#include "cli/export.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/open.h"
#include "cli/store.h"
#include "device/driver.h"
#include "drivers/nvme/spec.h"

enum {
	CONTROL_LOOK_NS = 10000000, /* how often a stop looks whether all has ended */
};

#define NQN_PREFIX  "nqn.2019-05.io.openebs:"
#define FIELD(name) offsetof(struct export_opts, name)

static const char *const poll_names[] = { "adaptive", "always", NULL };

static const char *const ana_names[] = { "optimized",       "non-optimized", "inaccessible",
					 "persistent-loss", "change",        NULL };

static const struct opt export_options[] = {
	{ "listen", "ADDR:PORT",
	  "where to listen (127.0.0.1:4420); [::1]:4420 for IPv6,\n"
	  "port 0: the system picks; may be given several times",
	  OPT_LIST, FIELD(listen) },
	{ "nqn", "NQN", "name of the subsystem (" NQN_PREFIX "\nand the name of the first device)",
	  OPT_TEXT, FIELD(nqn) },
	{ "allow-host", "NQN", "only this host may connect; may be given several times", OPT_LIST,
	  FIELD(hosts) },
	{ "ana", NULL, "tell hosts what each path is good for (ANA), and when it changes", OPT_FLAG,
	  FIELD(ana) },
	{ "ana-state", "STATE",
	  "of all paths at first: optimized (default), non-optimized,\n"
	  "inaccessible, persistent-loss or change",
	  OPT_CHOICE, FIELD(ana_state), .choices = ana_names },
	{ "cntlid-range", "MIN-MAX",
	  "controller ids to hand out (1-65519); exports of one volume\n"
	  "under one name must not overlap",
	  OPT_TEXT, FIELD(cntlid_range) },
	{ "crdt", "N[,N,N]",
	  "delays that hosts keep before they retry, units of 100 ms,\n"
	  "up to 100 (0: none)",
	  OPT_TEXT, FIELD(crdt) },
	{ "limit", "NAME=VALUE",
	  "connections, connections-per-host, connections-per-subsystem,\n"
	  "hosts, memory, connect-time, idle-time, device-time; see\n"
	  "ashlar-export(1)",
	  OPT_LIST, FIELD(limits) },
	{ "cores", "MASK", "one reactor per bit, pinned (one, not pinned)", OPT_MASK,
	  FIELD(cores) },
	{ "poll", "MODE", "adaptive (default), or always: never sleep", OPT_CHOICE, FIELD(poll),
	  .choices = poll_names },
	{ "control", "PATH",
	  "make a unix socket there that takes commands,\n"
	  "one per line: 'help' lists them",
	  OPT_TEXT, FIELD(control) },
	{ "port-file", "PATH", "write the port of the first listener there", OPT_TEXT,
	  FIELD(port_file) },
	{ "ptpl-dir", "DIR",
	  "keep reservations there that hosts want to survive a\n"
	  "loss of power, a file per device; made if missing",
	  OPT_TEXT, FIELD(ptpl_dir) },
	{ "store", "DIR",
	  "where nexuses keep their record of healthy replicas\n"
	  "(~/.local/state/ashlar/nexus); memory: nowhere",
	  OPT_TEXT, FIELD(store) },
	{ "inject", "URI", "arm a fault: inject://DEVICE?op=...; may be given several times",
	  OPT_LIST, FIELD(inject) },
	{ NULL },
};

static const struct opt_spec export_spec = {
	.command = "export",
	.args = "URI...",
	.summary = "Serve devices over NVMe/TCP, as namespaces 1, 2, ... of one subsystem.",
	.details = "SIGHUP reads the sizes of all devices again; SIGINT or SIGTERM ends it.\n\n"
		   "example:\n  ashlar export aio:///var/tmp/disk.img\n",
	.opts = export_options,
	.args_min = 1,
	.args_max = OPT_ARGS_MAX,
};

/* Host and subsystem names come from people: say so before a device is touched. */
static int nqn_check(const char *option, const char *nqn, struct err *err)
{
	if (strcmp(nqn, NVME_DISCOVERY_NQN) == 0)
		return err_set(err, -EINVAL, "--%s %s: that is the name of discovery itself",
			       option, nqn);
	if (strncmp(nqn, "nqn.", 4) == 0 && nqn[4] != '\0' && strlen(nqn) <= TARGET_NQN_MAX)
		return 0;
	return err_set(
		err, -EINVAL,
		"--%s %.100s: not an NVMe qualified name; write nqn.YYYY-MM.DOMAIN:NAME, with a "
		"domain of yours turned around, at most %d bytes",
		option, nqn, TARGET_NQN_MAX);
}

static int export_check_opts(const struct export_opts *opts, struct err *err)
{
	struct subsystem_opts subsystem = {};
	struct target_opts target;
	int rc = opts->nqn != NULL ? nqn_check("nqn", opts->nqn, err) : 0;

	target_opts_init(&target);
	if (rc == 0)
		rc = access_target_opts(opts, &target, err);
	if (rc == 0)
		rc = access_subsystem_opts(opts, &subsystem, err);

	for (unsigned i = 0; rc == 0 && i < opts->hosts.count; i++)
		rc = nqn_check("allow-host", opts->hosts.items[i], err);
	return rc == 0 ? export_listen_check(opts, err) : rc;
}

/* ---- start ----------------------------------------------------------------------------------- */

static int export_add_subsystem(struct export *e, const struct device *first, struct err *err)
{
	char nqn[DEVICE_NAME_MAX + sizeof(NQN_PREFIX)];
	struct subsystem_opts opts = {
		.nqn = e->opts.nqn,
		.uuid = first->uuid,
		.allowed_hosts = e->opts.hosts.items,
		.allowed_host_count = e->opts.hosts.count,
		.kind = first->is_mirror ? SUBSYSTEM_NEXUS : SUBSYSTEM_REPLICA,
	};
	int rc;

	if (opts.nqn == NULL) {
		(void)snprintf(nqn, sizeof(nqn), NQN_PREFIX "%s", first->name);
		opts.nqn = nqn;
	}
	rc = access_subsystem_opts(&e->opts, &opts, err);
	if (rc == 0)
		rc = subsystem_add(e->target, &opts, &e->subsystem, err);
	if (rc != 0 && e->opts.nqn == NULL)
		(void)err_hint(err, "give it a name with --nqn");
	return rc;
}

/* The first device exists before the subsystem, which is named after it. */
static int export_open(struct export *e, struct err *err)
{
	const char *first_uri = e->uris.items[0];
	struct device *first = NULL;
	uint32_t nsid;
	int rc;

	rc = cli_store_for(first_uri, err);
	if (rc == 0)
		rc = device_create(first_uri, &first, err);
	if (rc != 0)
		return opened_explain(first_uri, rc, err);
	rc = export_add_subsystem(e, first, err);
	if (rc != 0)
		return rc;
	rc = subsystem_add_ns(e->subsystem, first, 1, &nsid, err);
	if (rc != 0)
		return opened_explain(first_uri, rc, err);
	e->ns[0] = (struct export_ns){ .uri = strdup(first_uri), .dev = first, .nsid = nsid };
	if (e->ns[0].uri == NULL)
		return err_set(err, -ENOMEM, "no memory for a namespace");
	for (unsigned i = 1; i < e->uris.count && rc == 0; i++)
		rc = export_add(e, e->uris.items[i], i + 1, &nsid, err);
	return rc;
}

/* What is named on this machine, before any device is touched. */
static int export_prepare(struct export *e, struct err *err)
{
	struct target_opts opts;
	int rc = cli_store_check(err);

	target_opts_init(&opts);
	opts.ptpl_dir = e->opts.ptpl_dir;
	if (rc == 0)
		rc = access_target_opts(&e->opts, &opts, err);
	e->close_ns = CLOSE_DEVICE_TIMES * opts.device_timeout_ms * NS_PER_MS;
	if (rc == 0)
		rc = target_start(&opts, &e->target, err);
	if (rc == 0)
		rc = export_bind(e, err);
	if (rc == 0 && e->opts.control != NULL)
		rc = control_open(e, e->opts.control, err);
	return rc;
}

/* All is there: hosts and commands may come. */
static int export_let_in(struct export *e, struct err *err)
{
	target_admit(e->target);
	if (e->opts.port_file != NULL && export_write_port(e, err) < 0)
		return err->code;
	return e->opts.control != NULL ? control_start(e, err) : 0;
}

static void export_wait(struct export *e)
{
	while (!engine_is_terminating()) {
		struct err err = {};
		unsigned signals = engine_wait_signal(0);

		if ((signals & ENGINE_HANGUP) != 0 && export_rescan(e, &err) != 0)
			log_error("rescan failed: %s, continuing with the old size",
				  err_text(&err));
	}
}

static void control_stop_job(void *arg)
{
	control_stop(arg);
}

static void give_up(const char *why)
{
	log_error("ending although something does not answer: %s", why);
	(void)fflush(NULL);
	_exit(CLI_FAILED);
}

/* Something hangs: close what does not, for its clean end must not depend on that. */
static void export_close_others(struct export *e)
{
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		if (e->ns[i].uri != NULL && !export_nexus_is_ending(e->ns[i].dev) &&
		    subsystem_remove_ns(e->subsystem, e->ns[i].nsid, NULL) == 0)
			export_destroy_device(e->ns[i].uri);
	}
}

/*
 * What a nexus without a child holds is let go until none holds anything; commands that run may
 * wait for it, and until they have ended, more may come. A child that hangs keeps its nexus.
 */
static void release_all(struct export *e)
{
	for (uint64_t ns = 0; export_nexus_releasing() || !control_is_over(e);
	     ns += CONTROL_LOOK_NS) {
		if (ns >= CONTROL_STOP_S * NS_PER_S && !control_is_over(e))
			give_up("a command of the control socket");
		if (ns >= CONTROL_STOP_S * NS_PER_S) {
			export_close_others(e);
			give_up("a child of a nexus");
		}
		task_sleep(CONTROL_LOOK_NS);
	}
}

static void control_end(struct export *e)
{
	control_hang_up(e);
	if (e->target != NULL)
		target_hang_up(e->target); /* hosts must not hear how what is held ends */
	release_all(e);
	task_blocking(control_stop_job, e);
}

/* ---- closing devices ------------------------------------------------------------------------- */

struct closing {
	unsigned left; /* devices, and one until all have begun */
	struct task_event over;
	struct timer timer;
};

struct closing_device {
	struct closing *all;
	char *uri; /* owned */
	char name[DEVICE_NAME_MAX];
	bool is_closed;
};

static void closing_one_less(struct closing *all)
{
	if (--all->left == 0)
		task_event_fire(&all->over);
}

static void closing_task(void *arg)
{
	struct closing_device *c = arg;

	export_destroy_device(c->uri);
	free(take(c->uri));
	c->is_closed = true;
	closing_one_less(c->all);
}

static void closing_late(struct timer *timer)
{
	task_event_fire(&container_of(timer, struct closing, timer)->over);
}

/* Some devices do not close: say what each waits for, and end without them. */
static void closing_give_up(const struct closing_device *devices, const struct export *e)
{
	const struct closing_device *last = NULL;
	char text[4 * DEVICE_NAME_MAX], waited[UNITS_TEXT_MAX], what[2 * DEVICE_NAME_MAX];

	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		if (devices[i].all == NULL || devices[i].is_closed)
			continue;
		export_nexus_waits_for(devices[i].name, what, sizeof(what));
		(void)snprintf(text, sizeof(text), "device '%s' waits for %s, for %s now",
			       devices[i].name, what, duration_format(e->close_ns, waited));
		if (last != NULL)
			log_error("%s", text);
		last = &devices[i];
	}
	give_up(text);
}

/* All at once: one that hangs does not keep another from a clean end. */
static void export_close_devices(struct export *e)
{
	struct closing_device *devices = calloc(TARGET_NAMESPACES_MAX, sizeof(*devices));
	struct closing all = { .left = 1, .timer.fn = closing_late };

	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		struct closing_device *c = devices != NULL ? &devices[i] : NULL;
		char *uri = take(e->ns[i].uri);

		if (uri == NULL)
			continue;
		if (c == NULL) {
			export_destroy_device(uri);
			free(uri);
			continue;
		}
		*c = (struct closing_device){ .all = &all, .uri = uri };
		(void)snprintf(c->name, sizeof(c->name), "%s", e->ns[i].dev->name);
		all.left++;
		if (task_spawn("close", closing_task, c) != 0)
			closing_task(c);
	}
	timer_arm(reactor_primary(), &all.timer, e->close_ns);
	closing_one_less(&all);
	task_event_wait(&all.over);
	timer_disarm(reactor_primary(), &all.timer);
	if (all.left > 0)
		closing_give_up(devices, e);
	free(devices);
}

static void export_close(struct export *e)
{
	struct err err = {};

	control_end(e);
	export_lock(e);
	while (e->paused > 0) {
		e->paused--;
		subsystem_resume(e->subsystem);
	}
	release_all(e);
	if (e->target != NULL && target_drain(e->target, &err) < 0) {
		export_close_others(e);
		give_up(err_text(&err));
	}
	target_stop(e->target);
	export_close_devices(e);
	export_events_stop(e);
	task_mutex_unlock(&e->lock);
}

static int export_main(void *arg, struct err *err)
{
	struct export *e = arg;
	int rc;

	task_mutex_init(&e->lock);
	rc = export_events_start(e, err);
	if (rc == 0)
		rc = export_prepare(e, err);
	if (rc == 0)
		rc = export_open(e, err);
	if (rc == 0)
		rc = faults_arm(&e->opts.inject, err);
	if (rc == 0)
		rc = export_let_in(e, err);
	if (rc == 0) {
		export_tell(e);
		export_wait(e);
	}
	if (rc == 0 && e->opts.port_file != NULL)
		(void)unlink(e->opts.port_file); /* who waits for the next one must not read this */
	export_close(e);
	return rc == 0 ? CLI_DONE : CLI_FAILED;
}

static int export_run(int argc, char **argv)
{
	struct engine_opts engine = { .handle_signals = true };
	CLEANUP(freep) struct export *e = calloc(1, sizeof(*e));
	struct err err = {};
	int rc;

	if (e == NULL) {
		cli_error("no memory");
		return CLI_FAILED;
	}
	if (!opt_parse_or_tell(&export_spec, argc, argv, &e->opts, &e->uris, &rc))
		return rc;
	if (e->opts.listen.count == 0)
		e->opts.listen = (struct opt_list){ .items = { "127.0.0.1:4420" }, .count = 1 };
	if (export_check_opts(&e->opts, &err) != 0) {
		cli_error("%s", err_text(&err));
		fprintf(stderr, "Try 'ashlar export --help'.\n");
		return CLI_USAGE;
	}
	cli_store_choose(e->opts.store);
	engine.reactor.core_mask = e->opts.cores;
	engine.reactor.poll_always = e->opts.poll == 1;
	return cli_run_engine(&engine, export_main, e);
}

const struct cli_command cli_export = {
	.name = "export",
	.args = "URI...",
	.summary = "serve devices over NVMe/TCP",
	.run = export_run,
};
