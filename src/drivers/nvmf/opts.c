/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opts.c - the URI of a remote namespace: nvmf://host:port/nqn?parameters.
 *
 * A value comes from the URI, else from the environment where the original reads one, else from the
 * table below. The environment is a fallback for whole fleets, so a bad value there is reported and
 * passed over, while a bad value in a URI is an error: someone typed it just now.
 *
 * Defaults are chosen so that a copy survives the restart of a target without a parameter: a lost
 * connection is tried again every second for two minutes, and I/O waits. Who has another copy of
 * the data (a mirror) wants the opposite and says ctrl_loss=0.
 *
 * Who we are. Targets admit hosts by their NQN and keep reservations by host id, so both must be
 * the same after a restart of the process: hostnqn= of the URI, HOSTNQN, what nvme-cli has put into
 * /etc/nvme/hostnqn, else a name made from the host's. The host id is MAYASTOR_NVMF_HOSTID,
 * /etc/nvme/hostid if the name came from beside it, else derived from the NQN and the machine.
 * (Base 2.0c, 4.5 and 5.27.1.25: one NQN with several host ids, or the reverse, confuses targets.)
 *
 * Rejected: refusing unknown parameters as every other scheme does. The original lets them pass
 * here, control planes add their own, so they only get a warning.
 *
 * Thread: nvmf_opts_parse() in a task; files are read on a worker.
 */
#include "drivers/nvmf/opts.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/units.h"
#include "drivers/identity.h"
#include "drivers/nvmf/queue.h"

enum {
	QUEUES_MAX = 1024,
	KATO_MAX_MS = 3600 * 1000,
	QUEUE_DEPTH_DEFAULT = 128,
};

#define DURATION_MAX_NS (365ull * 24 * 3600 * NS_PER_S)

static const struct duration {
	const char *key; /* of the URI */
	const char *env; /* NULL: none */
	size_t offset;
	uint64_t fallback_ns;
} durations[] = {
	{ "io_timeout", "NVME_TIMEOUT", offsetof(struct nvmf_opts, io_timeout_ns), 30 * NS_PER_S },
	{ "admin_timeout", "NVME_TIMEOUT_ADMIN", offsetof(struct nvmf_opts, admin_timeout_ns),
	  10 * NS_PER_S },
	{ "connect_timeout", "NVMF_FABRICS_CONNECT_TIMEOUT",
	  offsetof(struct nvmf_opts, connect_timeout_ns), 5 * NS_PER_S },
	{ "reconnect_delay", NULL, offsetof(struct nvmf_opts, reconnect_delay_ns), NS_PER_S },
	{ "ctrl_loss", NULL, offsetof(struct nvmf_opts, ctrl_loss_ns), 120 * NS_PER_S },
	{ "fast_io_fail", NULL, offsetof(struct nvmf_opts, fast_io_fail_ns), 0 },
};

static uint64_t *duration_of(struct nvmf_opts *opts, const struct duration *d)
{
	return (uint64_t *)(void *)((char *)opts + d->offset);
}

bool nvmf_nqn_is_valid(const char *nqn)
{
	size_t len = strlen(nqn);

	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)nqn[i] <= ' ' || nqn[i] == 0x7f)
			return false;
	}
	return len > 0 && len <= NVME_NQN_LEN_MAX;
}

/* ---- who we are --------------------------------------------------------------------------- */

struct whoami {
	char hostnqn[NVME_NQN_SIZE];
	char hostid[UUID_TEXT_SIZE];
	char machine[128];
	char node[128];
	int result;
};

/* The first word of a file; "" without the file. A file that is there but cannot be opened now (no
 * memory, no descriptor) is an error: we must not become another host for a moment. */
static int read_line(const char *path, char *text, size_t size)
{
	CLEANUP(fclosep) FILE *file = fopen(path, "re");

	text[0] = '\0';
	if (file != NULL && fgets(text, (int)size, file) != NULL)
		text[strcspn(text, " \t\r\n")] = '\0';
	if (file == NULL && (errno == ENOMEM || errno == EMFILE || errno == ENFILE))
		return -errno;
	return 0;
}

static void whoami_read(void *arg)
{
	struct whoami *who = arg;

	who->result = read_line("/etc/nvme/hostnqn", who->hostnqn, sizeof(who->hostnqn));
	if (who->result == 0)
		who->result = read_line("/etc/nvme/hostid", who->hostid, sizeof(who->hostid));
	if (who->result == 0)
		who->result = read_line("/etc/machine-id", who->machine, sizeof(who->machine));
	if (gethostname(who->node, sizeof(who->node)) < 0)
		who->node[0] = '\0';
	who->node[sizeof(who->node) - 1] = '\0';
}

static void set_hostid(struct nvmf_opts *opts, const struct whoami *who, bool is_systems)
{
	const char *env = getenv("MAYASTOR_NVMF_HOSTID");
	struct uuid id;

	if (env != NULL && uuid_from_text(env, &id, NULL) < 0) {
		log_warn("MAYASTOR_NVMF_HOSTID is no uuid: '%s', passing it over", env);
		env = NULL;
	}
	if (env == NULL &&
	    (!is_systems || uuid_from_text(who->hostid, &id, NULL) < 0 || uuid_is_zero(&id)))
		identity_derive(who->machine[0] != '\0' ? who->machine : who->node, opts->hostnqn,
				&id);
	memcpy(opts->hostid, id.b, sizeof(opts->hostid));
}

static int set_host(struct nvmf_opts *opts, const char *hostnqn, struct err *err)
{
	struct whoami who = {};
	bool is_systems = false;

	task_blocking(whoami_read, &who);
	if (who.result < 0)
		return err_set_sys(err, who.result, "cannot find out which host this is");
	if (hostnqn == NULL)
		hostnqn = getenv("HOSTNQN");
	if (hostnqn == NULL && nvmf_nqn_is_valid(who.hostnqn)) {
		hostnqn = who.hostnqn;
		is_systems = true;
	}
	if (hostnqn != NULL && !nvmf_nqn_is_valid(hostnqn))
		return err_set(
			err, -EINVAL,
			"hostnqn '%.64s' is no qualified name: 1 to %d printable characters, "
			"such as nqn.2014-08.org.nvmexpress:uuid:...",
			hostnqn, NVME_NQN_LEN_MAX);
	if (hostnqn != NULL)
		(void)snprintf(opts->hostnqn, sizeof(opts->hostnqn), "%s", hostnqn);
	else
		(void)snprintf(opts->hostnqn, sizeof(opts->hostnqn),
			       "nqn.2019-05.io.openebs:node-name:%s",
			       who.node[0] != '\0' ? who.node : "unnamed");
	set_hostid(opts, &who, is_systems);
	return 0;
}

/* ---- values ------------------------------------------------------------------------------- */

static void duration_from_env(const struct duration *d, struct nvmf_opts *opts)
{
	const char *text = d->env != NULL ? getenv(d->env) : NULL;
	struct err err = {};
	uint64_t ns;

	if (text == NULL)
		return;
	if (duration_parse(text, &ns, &err) < 0 || ns > DURATION_MAX_NS)
		log_warn("%s='%s' in the environment is no duration: %s, using the default", d->env,
			 text, err.code != 0 ? err_text(&err) : "more than a year");
	else
		*duration_of(opts, d) = ns;
}

static void set_defaults(struct nvmf_opts *opts)
{
	const char *kato = getenv("NVME_KATO");
	uint64_t ns = 0;

	*opts = (struct nvmf_opts){
		.port = NVMF_PORT,
		.nsid = 1,
		.kato_ms = 10 * 1000,
		.queue_depth = QUEUE_DEPTH_DEFAULT,
		.on_timeout = NVMF_TIMEOUT_ABORT,
		.iopolicy = NVMF_ROUND_ROBIN,
	};
	for (size_t i = 0; i < ARRAY_LEN(durations); i++) {
		*duration_of(opts, &durations[i]) = durations[i].fallback_ns;
		duration_from_env(&durations[i], opts);
	}
	if (kato == NULL)
		return;
	if (duration_parse(kato, &ns, NULL) < 0 || ns / NS_PER_MS > KATO_MAX_MS)
		log_warn("NVME_KATO='%s' in the environment is no duration up to 1h, such as 10s; "
			 "using the default",
			 kato);
	else
		opts->kato_ms = (uint32_t)(ns / NS_PER_MS);
}

static int read_durations(struct uri *uri, struct nvmf_opts *opts, struct err *err)
{
	uint64_t kato_ns = opts->kato_ms * NS_PER_MS;

	for (size_t i = 0; i < ARRAY_LEN(durations); i++) {
		uint64_t *value = duration_of(opts, &durations[i]);
		int result = uri_param_duration(uri, durations[i].key, value, err);

		if (result < 0)
			return result;
		if (*value > DURATION_MAX_NS)
			return err_set(err, -EINVAL, "%s is longer than a year", durations[i].key);
	}
	if (opts->connect_timeout_ns == 0 || opts->reconnect_delay_ns == 0)
		return err_set(err, -EINVAL,
			       "connect_timeout and reconnect_delay must be longer than 0");
	if (uri_param_duration(uri, "keep_alive", &kato_ns, err) < 0)
		return -EINVAL;
	if (kato_ns / NS_PER_MS > KATO_MAX_MS)
		return err_set(err, -EINVAL, "keep_alive is longer than an hour");
	opts->kato_ms = (uint32_t)(kato_ns / NS_PER_MS);
	return 0;
}

static int read_numbers(struct uri *uri, struct nvmf_opts *opts, struct err *err)
{
	static const char *const actions[] = { "ignore", "abort", "reset", "remove" };
	static const char *const policies[] = { "round-robin", "queue-depth" };
	uint32_t depth = opts->queue_depth, queues = 0;
	unsigned action = opts->on_timeout, policy = opts->iopolicy;
	bool is_ignored = false;
	int result;

	result = uri_param_u32(uri, "nsid", 1, NVME_NSID_ALL - 1, &opts->nsid, err);
	if (result == 0)
		result = uri_param_u32(uri, "queue_depth", QUEUE_DEPTH_MIN, QUEUE_DEPTH_MAX, &depth,
				       err);
	if (result == 0)
		result = uri_param_u32(uri, "queues", 1, QUEUES_MAX, &queues, err);
	if (result == 0)
		result = uri_param_bool(uri, "hdgst", &opts->hdgst, err);
	if (result == 0)
		result = uri_param_bool(uri, "ddgst", &opts->ddgst, err);
	/* protection information: the original takes the flags; namespaces with it are refused */
	if (result == 0)
		result = uri_param_bool(uri, "reftag", &is_ignored, err);
	if (result == 0)
		result = uri_param_bool(uri, "guard", &is_ignored, err);
	if (result == 0)
		result = uri_param_choice(uri, "on_timeout", actions, ARRAY_LEN(actions), &action,
					  err);
	if (result == 0)
		result = uri_param_choice(uri, "iopolicy", policies, ARRAY_LEN(policies), &policy,
					  err);
	if (result == 0)
		result = uri_param_uuid(uri, "uuid", &opts->uuid, err);
	opts->queue_depth = (uint16_t)depth;
	opts->queues = (uint16_t)queues;
	opts->on_timeout = (enum nvmf_on_timeout)action;
	opts->iopolicy = (enum nvmf_iopolicy)policy;
	return result;
}

/* One HOST:PORT or [HOST]:PORT of @len characters. */
static int read_also(const char *text, size_t len, struct nvmf_place *ret, struct err *err)
{
	char copy[NVMF_HOST_MAX + 16];
	char *colon, *host = copy, *end;
	uint64_t port = 0;

	if (len >= sizeof(copy))
		return err_set(err, -EINVAL, "paths: '%.64s...' is too long", text);
	memcpy(copy, text, len);
	copy[len] = '\0';
	colon = strrchr(copy, ':');
	if (colon == NULL || number_parse(colon + 1, &port, NULL) < 0 || port == 0 ||
	    port > UINT16_MAX)
		return err_set(err, -EINVAL,
			       "paths: '%s' is not HOST:PORT; several are separated by commas",
			       copy);
	*colon = '\0';
	end = colon - 1;
	if (*host == '[' && end > host && *end == ']') {
		*end = '\0';
		host++;
	}
	if (*host == '\0' || strlen(host) >= sizeof(ret->host))
		return err_set(err, -EINVAL, "paths: a place without a host");
	memcpy(ret->host, host, strlen(host) + 1);
	ret->port = (uint16_t)port;
	return 0;
}

static int read_paths(struct uri *uri, struct nvmf_opts *opts, struct err *err)
{
	const char *text = NULL;
	int result = uri_param_str(uri, "paths", &text, err);

	while (result == 0 && text != NULL) {
		size_t len = strcspn(text, ",");

		if (opts->nalso == ARRAY_LEN(opts->also))
			return err_set(err, -EINVAL, "paths: more than %d paths are not possible",
				       PATHS_MAX);
		result = read_also(text, len, &opts->also[opts->nalso++], err);
		text = text[len] == ',' ? text + len + 1 : NULL;
	}
	return result;
}

/* host, port and the one path segment */
static int read_place(const struct uri *uri, struct nvmf_opts *opts, struct err *err)
{
	uint64_t port = opts->port;

	if (uri->host[0] == '\0')
		return err_set(err, -EINVAL,
			       "no host: write nvmf://HOST:PORT/NQN, an IPv6 address in brackets");
	if (strlen(uri->host) >= sizeof(opts->host))
		return err_set(err, -ENAMETOOLONG, "the host has %zu characters, at most %zu fit",
			       strlen(uri->host), sizeof(opts->host) - 1);
	if (uri->port[0] != '\0' &&
	    (number_parse(uri->port, &port, err) < 0 || port == 0 || port > UINT16_MAX)) {
		err_clear(err);
		return err_set(err, -EINVAL, "port '%s' is not between 1 and 65535", uri->port);
	}
	if (uri->nsegments != 1)
		return err_set(err, -EINVAL,
			       "%u path segments: exactly one is wanted, the subsystem's NQN: "
			       "nvmf://HOST:PORT/NQN%s",
			       uri->nsegments,
			       uri->nsegments > 1 ? "; write a '/' in it as %2F" : "");
	if (!nvmf_nqn_is_valid(uri->segments[0]))
		return err_set(err, -EINVAL,
			       "'%.64s' is no qualified name of a subsystem: 1 to %d printable "
			       "characters",
			       uri->segments[0], NVME_NQN_LEN_MAX);
	(void)snprintf(opts->host, sizeof(opts->host), "%s", uri->host);
	(void)snprintf(opts->subnqn, sizeof(opts->subnqn), "%s", uri->segments[0]);
	opts->port = (uint16_t)port;
	return 0;
}

static void warn_unknown(const struct uri *uri)
{
	for (unsigned i = 0; i < uri->nparams; i++) {
		if (!uri->params[i].is_used)
			log_warn("%s: nobody knows the parameter '%s', it is ignored; "
				 "ashlar-uri(7) lists those there are",
				 uri->text, uri->params[i].key);
	}
}

int nvmf_opts_parse(struct uri *uri, struct nvmf_opts *ret_opts, struct err *err)
{
	const char *hostnqn = NULL;
	struct nvmf_opts opts;
	struct uuid hostid = {};
	int result;

	set_defaults(&opts);
	result = read_place(uri, &opts, err);
	if (result == 0)
		result = read_durations(uri, &opts, err);
	if (result == 0)
		result = read_numbers(uri, &opts, err);
	if (result == 0)
		result = read_paths(uri, &opts, err);
	if (result == 0)
		result = uri_param_str(uri, "hostnqn", &hostnqn, err);
	if (result == 0)
		result = uri_param_uuid(uri, "hostid", &hostid, err);
	if (result == 0)
		result = set_host(&opts, hostnqn, err);
	if (result < 0)
		return result;
	if (!uuid_is_zero(&hostid))
		memcpy(opts.hostid, hostid.b, sizeof(opts.hostid));
	warn_unknown(uri);
	*ret_opts = opts;
	return 0;
}

int nvmf_opts_place(const struct uri *uri, struct nvmf_opts *ret_opts)
{
	struct nvmf_opts opts = { .port = NVMF_PORT, .nsid = 1 };
	const char *nsid = NULL;
	uint64_t number = 1;

	for (unsigned i = 0; i < uri->nparams; i++) {
		if (strcmp(uri->params[i].key, "nsid") == 0)
			nsid = uri->params[i].value;
	}
	if (read_place(uri, &opts, NULL) < 0 ||
	    (nsid != NULL && (number_parse(nsid, &number, NULL) < 0 || number >= NVME_NSID_ALL)))
		return -EINVAL;
	opts.nsid = (uint32_t)number;
	*ret_opts = opts;
	return 0;
}

int nvmf_opts_init(struct nvmf_opts *opts, const char *hostnqn, struct err *err)
{
	set_defaults(opts);
	return set_host(opts, hostnqn, err);
}

int nvmf_opts_name(const struct nvmf_opts *opts, char *name, size_t size, struct err *err)
{
	bool is_v6 = strchr(opts->host, ':') != NULL;
	int len = snprintf(name, size, "%s%s%s:%u/%sn%u", is_v6 ? "[" : "", opts->host,
			   is_v6 ? "]" : "", opts->port, opts->subnqn, opts->nsid);

	if (len < 0 || (size_t)len >= size)
		return err_set(err, -ENAMETOOLONG, "host and NQN make a name of %d bytes", len);
	return 0;
}

bool nvmf_opts_same_ctrlr(const struct nvmf_opts *a, const struct nvmf_opts *b)
{
	return strcmp(a->host, b->host) == 0 && a->port == b->port &&
	       strcmp(a->subnqn, b->subnqn) == 0 && strcmp(a->hostnqn, b->hostnqn) == 0 &&
	       memcmp(a->hostid, b->hostid, sizeof(a->hostid)) == 0;
}
