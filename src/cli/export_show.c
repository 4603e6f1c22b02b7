/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export_show.c - what an export serves and has counted, as JSON: list, stats, reservations,
 * and status: all that a person looks for first.
 *
 * Listings take no lock: they look at what is there while nothing else runs, and answer while a
 * device hangs. A namespace whose device went by itself is left out until an operation lets go of
 * it.
 *
 * Rejected: a lock shared with operations. One that waits for a device would hold up who wants to
 * know why.
 *
 * Thread: tasks on the primary reactor.
 */
#include <inttypes.h>
#include <string.h>

#include "cli/export_nexus.h"
#include "cli/json_text.h"

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
		const struct export_ns *ns = export_ns_find(e, nsid);

		if (ns != NULL && device_lookup(ns->uri) == ns->dev)
			(void)json_array_append_new(list, json_ns(ns, has_stats));
	}
	return list;
}

json_t *export_list(struct export *e)
{
	return json_namespaces(e, false);
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

json_t *export_reservations(struct export *e)
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
	return list;
}

json_t *export_stats(struct export *e)
{
	struct target_stats s = {};

	target_stats(e->target, &s);
	return json_pack(
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
}

json_t *export_status(struct export *e)
{
	return json_pack("{s:s, s:b, s:o, s:o, s:o, s:o, s:o}", "nqn", subsystem_nqn(e->subsystem),
			 "paused", e->paused > 0, "listeners", export_paths(e), "allowed",
			 export_hosts(e), "controllers", export_controllers(e), "namespaces",
			 json_namespaces(e, false), "mirrors", json_mirrors());
}
