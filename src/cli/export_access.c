/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export_access.c - who may use an export, over which paths, and how much of it.
 *
 *	options   --ana, --ana-state, --cntlid-range     -> struct subsystem_opts
 *	          --crdt, --limit NAME=VALUE             -> struct target_opts
 *	control   ana, hosts, host-add, host-del, controllers, disconnect
 *
 * Options are read twice, once before a device is touched, to complain early, and once when they
 * are needed; reading them has no other effect.
 *
 * The operations take no lock: each is one call of the subsystem, which orders them itself, and
 * none looks at the list of namespaces. One that waits for a device that hangs keeps its client
 * waiting, and nobody else.
 *
 * Thread: tasks on the primary reactor; reading options any.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/units.h"
#include "cli/export.h"
#include "drivers/nvme/spec.h"

/* ---- options --------------------------------------------------------------------------------- */

/* "A-B", both numbers. */
static int range_parse(const char *text, struct subsystem_opts *opts, struct err *err)
{
	CLEANUP(freep) char *low = strdup(text);
	char *dash = low != NULL ? strchr(low, '-') : NULL;
	uint64_t min = 0, max = 0;

	if (dash != NULL)
		*dash = '\0';
	if (dash == NULL || number_parse(low, &min, NULL) != 0 ||
	    number_parse(dash + 1, &max, NULL) != 0 || min < 1 || min > max ||
	    max > NVME_CNTLID_MAX)
		return err_set(err, -EINVAL,
			       "--cntlid-range %s: write MIN-MAX, two numbers from 1 to %d", text,
			       NVME_CNTLID_MAX);
	opts->cntlid_min = (uint16_t)min;
	opts->cntlid_max = (uint16_t)max;
	return 0;
}

int access_subsystem_opts(const struct export_opts *o, struct subsystem_opts *opts, struct err *err)
{
	static const enum ana_state states[] = { ANA_OPTIMIZED, ANA_NON_OPTIMIZED, ANA_INACCESSIBLE,
						 ANA_PERSISTENT_LOSS, ANA_CHANGE };

	if (o->ana_state != 0 && !o->ana)
		return err_set(err, -EINVAL,
			       "--ana-state needs --ana: without it hosts are told "
			       "nothing of paths");
	opts->has_ana = o->ana;
	opts->ana_state = states[o->ana_state];
	return o->cntlid_range != NULL ? range_parse(o->cntlid_range, opts, err) : 0;
}

/* "N" stands for all three, "N,N,N" for CRDT1 to 3. */
static int crdt_parse(const char *text, uint16_t crdt[3], struct err *err)
{
	CLEANUP(freep) char *copy = strdup(text);
	char *at = copy;
	unsigned n = 0;

	for (char *part = strsep(&at, ","); part != NULL; part = strsep(&at, ",")) {
		uint64_t value;

		if (n == 3 || number_parse(part, &value, NULL) != 0 || value > TARGET_CRDT_MAX) {
			n = 0;
			break;
		}
		crdt[n++] = (uint16_t)value;
	}
	if (n == 1)
		crdt[1] = crdt[2] = crdt[0];
	if (n != 1 && n != 3)
		return err_set(err, -EINVAL,
			       "--crdt %s: write one number or three with commas, 0 to %d, in "
			       "units of 100 ms",
			       text, TARGET_CRDT_MAX);
	return 0;
}

enum limit_type { LIMIT_COUNT, LIMIT_BYTES, LIMIT_TIME };

static const struct limit {
	const char *name;
	size_t offset;
	enum limit_type type;
	bool may_be_zero;
} limits[] = {
	{ "connections", offsetof(struct target_opts, conns_max), LIMIT_COUNT, false },
	{ "connections-per-host", offsetof(struct target_opts, conns_per_host_max), LIMIT_COUNT,
	  false },
	{ "connections-per-subsystem", offsetof(struct target_opts, conns_per_subsystem_max),
	  LIMIT_COUNT, false },
	{ "hosts", offsetof(struct target_opts, hosts_max), LIMIT_COUNT, true },
	{ "memory", offsetof(struct target_opts, conn_memory_max), LIMIT_BYTES, false },
	{ "connect-time", offsetof(struct target_opts, connect_timeout_ms), LIMIT_TIME, false },
	{ "idle-time", offsetof(struct target_opts, idle_timeout_ms), LIMIT_TIME, true },
	{ "device-time", offsetof(struct target_opts, device_timeout_ms), LIMIT_TIME, false },
};

static int limit_value(const struct limit *limit, const char *text, struct target_opts *opts)
{
	uint8_t *field = (uint8_t *)opts + limit->offset;
	uint64_t value = 0;
	uint32_t small;
	int rc;

	if (limit->type == LIMIT_COUNT)
		rc = number_parse(text, &value, NULL);
	else if (limit->type == LIMIT_BYTES)
		rc = size_parse(text, &value, NULL);
	else
		rc = duration_parse(text, &value, NULL);
	if (limit->type == LIMIT_TIME)
		value = DIV_ROUND_UP(value, NS_PER_MS);
	if (rc != 0 || (value == 0 && !limit->may_be_zero) ||
	    (limit->type != LIMIT_BYTES && value > UINT32_MAX))
		return -EINVAL;
	small = (uint32_t)value;
	if (limit->type == LIMIT_BYTES)
		memcpy(field, &value, sizeof(value));
	else
		memcpy(field, &small, sizeof(small));
	return 0;
}

/* "NAME=VALUE" */
static int limit_parse(const char *text, struct target_opts *opts, struct err *err)
{
	size_t len = strcspn(text, "=");

	for (size_t i = 0; i < ARRAY_LEN(limits) && text[len] == '='; i++) {
		const struct limit *limit = &limits[i];

		if (strlen(limit->name) != len || strncmp(limit->name, text, len) != 0)
			continue;
		if (limit_value(limit, text + len + 1, opts) != 0)
			return err_set(err, -EINVAL, "--limit %s: '%s' is no %s", text,
				       text + len + 1,
				       limit->type == LIMIT_COUNT   ? "number above 0 that fits"
				       : limit->type == LIMIT_BYTES ? "number of bytes"
								    : "time, such as 30s or 1h");
		return 0;
	}
	return err_set(err, -EINVAL,
		       "--limit %s: write NAME=VALUE; the names are connections, "
		       "connections-per-host, connections-per-subsystem, hosts, memory, "
		       "connect-time, idle-time and device-time",
		       text);
}

int access_target_opts(const struct export_opts *o, struct target_opts *opts, struct err *err)
{
	int rc = o->crdt != NULL ? crdt_parse(o->crdt, opts->crdt, err) : 0;

	for (unsigned i = 0; rc == 0 && i < o->limits.count; i++)
		rc = limit_parse(o->limits.items[i], opts, err);
	return rc;
}

/* ---- paths ----------------------------------------------------------------------------------- */

/* A listener by its address or by its number from 0 on. */
static int listener_parse(const struct target *target, const char *text, int *ret, struct err *err)
{
	unsigned count = target_listener_count(target);
	uint64_t number;

	for (unsigned i = 0; i < count; i++) {
		if (strcmp(target_listener_addr(target, i), text) != 0)
			continue;
		*ret = (int)i;
		return 0;
	}
	if (number_parse(text, &number, NULL) != 0 || number >= count)
		return err_set(err, -ENOENT,
			       "ana: no listener '%s'; 'ana' alone shows those there are", text);
	*ret = (int)number;
	return 0;
}

int export_ana(struct export *e, const char *name, const char *listener, struct err *err)
{
	int index = TARGET_LISTENER_ALL, rc = 0;
	enum ana_state state;

	if (listener != NULL)
		rc = listener_parse(e->target, listener, &index, err);
	if (rc == 0)
		rc = ana_state_parse(name, &state, err);
	if (rc != 0)
		return rc;
	rc = subsystem_set_ana(e->subsystem, index, 0, state, err);
	if (rc == -EOPNOTSUPP)
		(void)err_hint(err, "start the export with --ana");
	return rc;
}

json_t *export_paths(struct export *e)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < target_listener_count(e->target); i++) {
		enum ana_state state = subsystem_ana(e->subsystem, i, 1);

		(void)json_array_append_new(list, json_pack("{s:i, s:s, s:s}", "number", (int)i,
							    "listener",
							    target_listener_addr(e->target, i),
							    "state", ana_state_name(state)));
	}
	return list;
}

/* ---- hosts ----------------------------------------------------------------------------------- */

int export_host_add(struct export *e, const char *nqn, struct err *err)
{
	if (strcmp(nqn, "any") == 0)
		return subsystem_set_hosts(e->subsystem, NULL, 0, err);
	return subsystem_allow_host(e->subsystem, nqn, err);
}

int export_host_del(struct export *e, const char *nqn, struct err *err)
{
	return subsystem_disallow_host(e->subsystem, nqn, err);
}

json_t *export_hosts(struct export *e)
{
	const char *const *hosts;
	unsigned count;
	bool is_any = subsystem_hosts(e->subsystem, &hosts, &count);
	json_t *list = json_array();

	for (unsigned i = 0; i < count; i++)
		(void)json_array_append_new(list, json_string(hosts[i]));
	return json_pack("{s:b, s:o}", "any", is_any, "hosts", list);
}

json_t *export_controllers(struct export *e)
{
	unsigned count = subsystem_controllers(e->subsystem, NULL, 0);
	CLEANUP(freep) struct controller_info *infos = calloc(count + 1, sizeof(*infos));
	json_t *list;

	if (infos == NULL)
		return NULL;
	list = json_array();
	count = subsystem_controllers(e->subsystem, infos, count);
	for (unsigned i = 0; i < count; i++)
		(void)json_array_append_new(
			list,
			json_pack("{s:i, s:s, s:s, s:i, s:I, s:b}", "cntlid", (int)infos[i].cntlid,
				  "host", infos[i].hostnqn, "listener",
				  target_listener_addr(e->target, infos[i].listener), "io_queues",
				  (int)infos[i].io_queues, "kato_ms", (json_int_t)infos[i].kato_ms,
				  "closing", infos[i].is_closing));
	return list;
}

int export_disconnect(struct export *e, const char *who, const char *how, unsigned *ret_count,
		      struct err *err)
{
	bool is_host = strncmp(who, "nqn.", 4) == 0;
	uint64_t cntlid = 0;

	if (how != NULL && strcmp(how, "force") != 0)
		return err_set(err, -EINVAL,
			       "disconnect: '%s' is not known; 'force' closes at once", how);
	if (!is_host && (number_parse(who, &cntlid, NULL) != 0 || cntlid > NVME_CNTLID_MAX))
		return err_set(err, -EINVAL,
			       "disconnect: '%s' is neither the NQN of a host nor the number of a "
			       "controller; 'controllers' lists them",
			       who);
	return subsystem_disconnect(e->subsystem, is_host ? who : NULL, (uint16_t)cntlid,
				    how != NULL, ret_count, err);
}
