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
 * all namespaces at once. What a user needs to type on the host is printed after that. With port 0
 * the system picks, and --port-file carries the number to a script.
 *
 * Namespaces follow the order of the command line. Devices that are added later get the lowest free
 * number. A device's URI is kept: it is what undoes it.
 *
 * Operations come from the control socket, from signals and from start and stop; a lock that
 * suspends keeps them one at a time, since each of them waits for I/O to end somewhere. Listings
 * take no lock: they look at what is there while nothing else runs, and answer while a device
 * hangs.
 *
 * At the end a device may hang. What hosts have with it is waited for as long as any change waits
 * (--limit device-time); then it is named, everything else is closed in order, and the process ends
 * without it: its memory goes with the process, so that nothing is freed under a driver.
 *
 * Rejected: a configuration file. What a command line cannot hold is the daemon's business.
 *
 * Thread: tasks on the primary reactor; I/O runs on the reactor of each connection.
 */
#include "cli/export.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/units.h"
#include "base/uri.h"
#include "cli/cli.h"
#include "cli/json_text.h"
#include "cli/open.h"
#include "cli/store.h"
#include "device/driver.h"
#include "drivers/nvme/spec.h"

enum {
	PORT_DEFAULT = 4420,        /* assigned by IANA to NVMe over fabrics */
	PORT_WAIT_NS = 1000000000,  /* for the port of a process that was killed */
	PORT_LOOK_NS = 10000000,    /* how often it is looked at */
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

/* ---- where to listen ------------------------------------------------------------------------- */

struct endpoint {
	char host[INET6_ADDRSTRLEN];
	uint16_t port;
};

static int endpoint_bad(const char *text, struct err *err)
{
	return err_set(err, -EINVAL,
		       "--listen %s: write a numeric address and a port, 127.0.0.1:4420 or "
		       "[::1]:4420; 0.0.0.0 and [::] stand for all addresses",
		       text);
}

static int endpoint_parse(const char *text, struct endpoint *ep, struct err *err)
{
	bool is_v6 = text[0] == '[';
	const char *host = text + is_v6;
	size_t len = strcspn(host, is_v6 ? "]" : ":");
	const char *rest = host + len;
	struct in6_addr scratch;
	uint64_t port = PORT_DEFAULT;

	if (is_v6) {
		if (*rest != ']')
			return endpoint_bad(text, err);
		rest++;
	}
	if (len == 0 || len >= sizeof(ep->host) || (*rest != '\0' && *rest != ':'))
		return endpoint_bad(text, err);
	memcpy(ep->host, host, len);
	ep->host[len] = '\0';
	if (inet_pton(is_v6 ? AF_INET6 : AF_INET, ep->host, &scratch) != 1)
		return endpoint_bad(text, err);
	if (*rest == ':' && (number_parse(rest + 1, &port, NULL) != 0 || port > UINT16_MAX))
		return endpoint_bad(text, err);
	ep->port = (uint16_t)port;
	return 0;
}

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
	struct endpoint ep;
	int rc = opts->nqn != NULL ? nqn_check("nqn", opts->nqn, err) : 0;

	target_opts_init(&target);
	if (rc == 0)
		rc = access_target_opts(opts, &target, err);
	if (rc == 0)
		rc = access_subsystem_opts(opts, &subsystem, err);

	for (unsigned i = 0; rc == 0 && i < opts->hosts.count; i++)
		rc = nqn_check("allow-host", opts->hosts.items[i], err);
	for (unsigned i = 0; rc == 0 && i < opts->listen.count; i++)
		rc = endpoint_parse(opts->listen.items[i], &ep, err);
	return rc;
}

/* ---- operations ------------------------------------------------------------------------------ */

static struct export_ns *ns_find(struct export *e, uint32_t nsid)
{
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		if (e->ns[i].uri != NULL && e->ns[i].nsid == nsid)
			return &e->ns[i];
	}
	return NULL;
}

static struct export_ns *ns_free_place(struct export *e)
{
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		if (e->ns[i].uri == NULL)
			return &e->ns[i];
	}
	return NULL;
}

static void ns_destroy_device(const char *uri)
{
	struct err err = {};

	if (device_destroy(uri, &err) != 0)
		log_warn("device not closed uri=%s: %s, continuing", uri, err_text(&err));
}

/* A device may have gone by itself, with its base: the target let go of it, so must we. */
static void export_lock(struct export *e)
{
	task_mutex_lock(&e->lock);
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		struct export_ns *ns = &e->ns[i];

		if (ns->uri == NULL || device_lookup(ns->uri) == ns->dev)
			continue;
		log_warn("device is gone uri=%s nsid=%u", ns->uri, ns->nsid);
		free(ns->uri);
		*ns = (struct export_ns){};
	}
}

static bool export_has(const struct export *e, const struct device *dev)
{
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		if (e->ns[i].uri != NULL && e->ns[i].dev == dev)
			return true;
	}
	return false;
}

static int export_add_locked(struct export *e, const char *uri, uint32_t nsid, uint32_t *ret_nsid,
			     struct err *err)
{
	struct export_ns *ns = ns_free_place(e);
	CLEANUP(freep) char *copy = strdup(uri);
	struct device *dev = NULL;
	int rc;

	if (copy == NULL)
		return err_set(err, -ENOMEM, "no memory for a namespace");
	if (ns == NULL)
		return err_set(err, -ENOSPC, "a subsystem holds at most %d namespaces",
			       TARGET_NAMESPACES_MAX);
	rc = cli_store_for(uri, err);
	if (rc == 0)
		rc = device_create(uri, &dev, err);
	if (rc != 0)
		return opened_explain(uri, rc, err);
	if (export_has(e, dev)) /* resize, rescan and aliases lead to devices that exist */
		return err_set(err, -EBUSY, "%s: '%s' is served already", uri, dev->name);
	rc = subsystem_add_ns(e->subsystem, dev, nsid, ret_nsid, err);
	if (rc != 0) {
		ns_destroy_device(uri);
		return rc;
	}
	*ns = (struct export_ns){ .uri = take(copy), .dev = dev, .nsid = *ret_nsid };
	return 0;
}

int export_add(struct export *e, const char *uri, uint32_t nsid, uint32_t *ret_nsid,
	       struct err *err)
{
	int rc;

	export_lock(e);
	rc = export_add_locked(e, uri, nsid, ret_nsid, err);
	task_mutex_unlock(&e->lock);
	return rc;
}

int export_remove(struct export *e, uint32_t nsid, struct err *err)
{
	struct export_ns *ns;
	int rc = 0;

	export_lock(e);
	ns = ns_find(e, nsid);
	if (ns == NULL)
		rc = err_set(err, -ENOENT, "there is no namespace %u; 'list' shows those there are",
			     nsid);
	else
		export_nexus_release(ns->dev);
	if (rc == 0)
		rc = subsystem_remove_ns(e->subsystem, nsid, err);
	if (rc == 0) {
		CLEANUP(freep) char *uri = take(ns->uri);

		*ns = (struct export_ns){}; /* listings do not see what is half gone */
		ns_destroy_device(uri);
	}
	task_mutex_unlock(&e->lock);
	return rc;
}

/* Ask the driver for the size and take it over. */
int export_rescan_device(struct device *dev, struct err *err)
{
	uint64_t nblocks = 0;
	int rc;

	if (dev->driver->rescan == NULL)
		return 0;
	device_pin(dev);
	rc = dev->driver->rescan(dev, &nblocks, err);
	if (rc == 0 && nblocks != dev->nblocks)
		rc = device_resize(dev, nblocks, err);
	device_unpin(dev);
	return rc;
}

static int ns_rescan(const struct export_ns *ns, struct err *err)
{
	uint64_t old_nblocks = ns->dev->nblocks;
	int rc = export_rescan_device(ns->dev, err);

	if (rc == 0 && ns->dev->nblocks != old_nblocks)
		log_info("size changed nsid=%u uri=%s blocks=%" PRIu64 " before=%" PRIu64, ns->nsid,
			 ns->uri, ns->dev->nblocks, old_nblocks);
	return rc;
}

int export_rescan(struct export *e, struct err *err)
{
	int first = 0;

	export_lock(e);
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		int rc = e->ns[i].uri != NULL ? ns_rescan(&e->ns[i], err) : 0;

		first = first != 0 ? first : rc;
	}
	task_mutex_unlock(&e->lock);
	return first;
}

/* The lock is not kept while it waits: what ends a wait is an operation, too. */
int export_pause(struct export *e, struct err *err)
{
	int rc = subsystem_pause(e->subsystem, err);

	if (rc == 0)
		e->paused++;
	else if (rc == -ETIMEDOUT)
		(void)err_hint(err, "nothing is paused");
	return rc;
}

int export_resume(struct export *e, struct err *err)
{
	int rc = 0;

	export_lock(e);
	if (e->paused == 0) {
		rc = err_set(err, -EINVAL, "it is not paused");
	} else {
		e->paused--;
		subsystem_resume(e->subsystem);
	}
	task_mutex_unlock(&e->lock);
	return rc;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *json_op(const struct op_stats *s)
{
	return json_pack("{s:I, s:I, s:I, s:f, s:I, s:I, s:I}", "ops", (json_int_t)s->ops, "bytes",
			 (json_int_t)s->bytes, "errors", (json_int_t)s->errors, "lat_mean_ns",
			 hist_mean(&s->latency), "lat_p50_ns",
			 (json_int_t)hist_percentile(&s->latency, 0.5), "lat_p99_ns",
			 (json_int_t)hist_percentile(&s->latency, 0.99), "lat_max_ns",
			 (json_int_t)s->latency.max_ns);
}

static json_t *json_ns(const struct export_ns *ns, bool has_stats)
{
	char uuid[UUID_TEXT_SIZE];
	json_t *object = json_pack(
		"{s:I, s:o, s:o, s:s, s:I, s:I, s:b}", "nsid", (json_int_t)ns->nsid, "uri",
		json_text(ns->uri), "name", json_text(ns->dev->name), "uuid",
		uuid_to_text(&ns->dev->uuid, uuid), "blocks", (json_int_t)ns->dev->nblocks,
		"block_size", (json_int_t)ns->dev->block_size, "read_only", ns->dev->is_read_only);
	CLEANUP(freep) struct io_stats *stats = calloc(1, sizeof(*stats));

	if (!has_stats || stats == NULL)
		return object;
	device_stats(ns->dev, stats);
	for (unsigned op = 0; op < IO_OP_COUNT_; op++) {
		if (stats->op[op].ops != 0 || stats->op[op].errors != 0)
			(void)json_object_set_new(object, io_op_name(op), json_op(&stats->op[op]));
	}
	return object;
}

static json_t *json_namespaces(struct export *e, bool has_stats)
{
	json_t *list = json_array();

	for (uint32_t nsid = 1; nsid <= TARGET_NAMESPACES_MAX; nsid++) {
		const struct export_ns *ns = ns_find(e, nsid);

		if (ns != NULL && device_lookup(ns->uri) == ns->dev)
			(void)json_array_append_new(list, json_ns(ns, has_stats));
	}
	return list;
}

static char *json_line(json_t *object)
{
	char *text = object != NULL ? json_dumps(object, JSON_COMPACT) : NULL;

	json_decref(object);
	return text;
}

char *export_list(struct export *e)
{
	return json_line(json_namespaces(e, false));
}

static json_t *json_registrants(const struct resv *r)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < r->count; i++) {
		const struct resv_registrant *reg = &r->registrant[i];
		char host[UUID_TEXT_SIZE], key[2 + 16 + 1];
		struct uuid uuid;

		memcpy(uuid.b, reg->host.id, sizeof(uuid.b));
		(void)snprintf(key, sizeof(key), "0x%" PRIx64, reg->key);
		(void)json_array_append_new(
			list, json_pack("{s:s, s:s, s:b}", "host", uuid_to_text(&uuid, host), "key",
					key, "holds", resv_is_holder(r, &reg->host)));
	}
	return list;
}

char *export_reservations(struct export *e)
{
	json_t *list = json_array();

	for (uint32_t nsid = 1; nsid <= TARGET_NAMESPACES_MAX; nsid++) {
		const struct resv *r = subsystem_reservations(e->subsystem, nsid);

		if (r != NULL)
			(void)json_array_append_new(
				list,
				json_pack("{s:I, s:s, s:b, s:I, s:o}", "nsid", (json_int_t)nsid,
					  "type", resv_type_name(r->type), "persistent",
					  r->is_persistent, "generation", (json_int_t)r->generation,
					  "registrants", json_registrants(r)));
	}
	return json_line(list);
}

char *export_stats(struct export *e)
{
	struct target_stats s = {};
	json_t *object;

	target_stats(e->target, &s);
	object = json_pack(
		"{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
		"s:I, s:I, s:b, s:o}",
		"nqn", subsystem_nqn(e->subsystem), "controllers",
		(json_int_t)subsystem_controller_count(e->subsystem), "connections",
		(json_int_t)s.conns, "accepted", (json_int_t)s.conns_accepted, "refused",
		(json_int_t)s.conns_refused, "terminated", (json_int_t)s.conns_terminated,
		"connect_timeouts", (json_int_t)s.connect_timeouts, "keep_alive_timeouts",
		(json_int_t)s.keep_alive_timeouts, "idle_timeouts", (json_int_t)s.idle_timeouts,
		"connects_refused", (json_int_t)s.connects_refused, "connection_bytes",
		(json_int_t)s.conn_memory, "connection_bytes_peak", (json_int_t)s.conn_memory_peak,
		"connection_bytes_each", (json_int_t)s.conn_memory_each, "commands",
		(json_int_t)s.commands, "buffer_waits", (json_int_t)s.buffer_waits, "digest_errors",
		(json_int_t)s.digest_errors, "paused", e->paused > 0, "namespaces",
		json_namespaces(e, true));
	return json_line(object);
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

/* A process that was killed is gone before the kernel has let go of its io_uring and the sockets
 * in it, and a supervisor starts the next one at once: a port in use is looked at again for a
 * while. */
static int bind_patiently(struct target *target, const struct endpoint *ep,
			  struct err *err) MAY_SUSPEND
{
	int rc = target_bind(target, ep->host, ep->port, err);

	for (unsigned ns = 0; rc == -EADDRINUSE && ns < PORT_WAIT_NS; ns += PORT_LOOK_NS) {
		task_sleep(PORT_LOOK_NS);
		err_clear(err);
		rc = target_bind(target, ep->host, ep->port, err);
	}
	return rc;
}

static int export_bind(struct export *e, struct err *err)
{
	for (unsigned i = 0; i < e->opts.listen.count; i++) {
		struct endpoint ep;
		int rc = endpoint_parse(e->opts.listen.items[i], &ep, err);

		if (rc == 0)
			rc = bind_patiently(e->target, &ep, err);
		if (rc == -EADDRINUSE)
			(void)err_hint(err, "--listen with port 0 takes a free one");
		if (rc == -EADDRNOTAVAIL)
			(void)err_hint(err, "no interface here has that address: see ip address");
		if (rc == -EACCES)
			(void)err_hint(err, "ports below 1024 are root's: take a higher one");
		if (rc != 0)
			return rc;
	}
	return 0;
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
	if (rc == 0)
		rc = target_start(&opts, &e->target, err);
	if (rc == 0)
		rc = export_bind(e, err);
	if (rc == 0 && e->opts.control != NULL)
		rc = control_open(e, e->opts.control, err);
	return rc;
}

static int export_write_port(const struct export *e, struct err *err)
{
	CLEANUP(freep) char *temporary = NULL;
	const char *path = e->opts.port_file;
	CLEANUP(fclosep) FILE *file = NULL;

	if (asprintf(&temporary, "%s.new", path) < 0) {
		temporary = NULL;
		return err_set(err, -ENOMEM, "no memory for a file name");
	}
	file = fopen(temporary, "we");
	if (file == NULL ||
	    fprintf(file, "%u\n", (unsigned)target_listener_port(e->target, 0)) < 0 ||
	    fflush(file) != 0 || rename(temporary, path) != 0)
		return err_set_sys(err, -errno, "--port-file %s", path);
	return 0;
}

/* All is there: hosts and commands may come. */
static int export_let_in(struct export *e, struct err *err)
{
	target_admit(e->target);
	if (e->opts.port_file != NULL && export_write_port(e, err) < 0)
		return err->code;
	return e->opts.control != NULL ? control_start(e, err) : 0;
}

/* An NQN as a word for a shell; made from a path it may have a space. */
static void print_word(const char *text)
{
	if (strspn(text,
		   "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:/@+,=") ==
	    strlen(text)) {
		fputs(text, stdout);
		return;
	}
	putchar('\'');
	for (; *text != '\0'; text++) {
		if (*text == '\'')
			fputs("'\\'", stdout);
		putchar(*text);
	}
	putchar('\'');
}

/* What to type on a host, ours or the kernel's. */
static void export_tell_listener(const struct export *e, unsigned i)
{
	const char *nqn = subsystem_nqn(e->subsystem), *addr = target_listener_addr(e->target, i);
	CLEANUP(freep) char *segment = uri_encode_segment(nqn);
	unsigned port = target_listener_port(e->target, i);
	bool is_v6 = addr[0] == '[', is_any;
	char host[INET6_ADDRSTRLEN];

	(void)snprintf(host, sizeof(host), "%.*s", (int)strcspn(addr + is_v6, is_v6 ? "]" : ":"),
		       addr + is_v6);
	is_any = strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
	printf("listening on %s\n", addr);
	if (is_any)
		memcpy(host, "ADDRESS", sizeof("ADDRESS")); /* one of this machine's */
	printf("connect with: nvme connect -t tcp -a %s -s %u -n ", host, port);
	print_word(nqn);
	is_v6 = is_v6 && !is_any;
	printf("\nor use nvmf://%s%s%s:%u/%s\n", is_v6 ? "[" : "", host, is_v6 ? "]" : "", port,
	       segment != NULL ? segment : nqn);
}

static void export_tell(const struct export *e)
{
	char size[UNITS_TEXT_MAX];

	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		const struct export_ns *ns = &e->ns[i];

		if (ns->uri != NULL)
			printf("namespace %u: %s, %s, blocks of %u%s\n", ns->nsid, ns->uri,
			       size_format(device_size(ns->dev), size), ns->dev->block_size,
			       ns->dev->is_read_only ? ", read-only" : "");
	}
	for (unsigned i = 0; i < target_listener_count(e->target); i++)
		export_tell_listener(e, i);
	(void)fflush(stdout);
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
			ns_destroy_device(e->ns[i].uri);
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
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		if (e->ns[i].uri != NULL)
			ns_destroy_device(e->ns[i].uri);
		free(e->ns[i].uri);
	}
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
