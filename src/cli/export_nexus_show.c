/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export_nexus_show.c - mirrors and their children as JSON: `nexus`, and `latency` as flat rows.
 *
 * Nothing here suspends, so a line is one moment. What is not known is null, and what a closed
 * child cannot have is left out. A child's device counts everything it was asked to do, so rebuilds
 * and scrubs are in its latencies, too.
 *
 * Rejected: nested latencies only. `ctl --table` wants rows that are flat.
 *
 * Thread: tasks on the primary reactor.
 */
#include <string.h>

#include "base/units.h"
#include "cli/export_nexus.h"
#include "cli/json_text.h"
#include "nexus/rebuild.h"

json_t *json_number(uint64_t value)
{
	return json_integer((json_int_t)value);
}

/* null where it is not known */
json_t *json_ms(uint64_t ns)
{
	return ns == UINT64_MAX ? json_null() : json_number(ns / NS_PER_MS);
}

const char *child_state_name(enum child_state state)
{
	static const char *const names[] = { "Init", "ConfigInvalid", "Open", "Closed", "Faulted" };

	return names[state];
}

/* What the device of child @i was asked to do, and how long it took. NULL: it is closed. */
static json_t *json_latency(struct nexus *nx, unsigned i, enum io_op op)
{
	struct op_stats s;

	if (!nexus_child_stats(nx, i, op, &s))
		return NULL;
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "ops", (json_int_t)s.ops,
			 "bytes", (json_int_t)s.bytes, "errors", (json_int_t)s.errors,
			 "lat_mean_ns", (json_int_t)hist_mean(&s.latency), "lat_p50_ns",
			 (json_int_t)hist_percentile(&s.latency, 0.5), "lat_p99_ns",
			 (json_int_t)hist_percentile(&s.latency, 0.99), "lat_p999_ns",
			 (json_int_t)hist_percentile(&s.latency, 0.999), "lat_max_ns",
			 (json_int_t)s.latency.max_ns);
}

static json_t *json_warnings(uint32_t warnings)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < NEXUS_WARN_COUNT_; i++) {
		if (warnings >> i & 1)
			(void)json_array_append_new(
				list, json_string(nexus_warning_name((enum nexus_warning)i)));
	}
	return list;
}

static json_t *json_smart(const struct nexus_child_info *c)
{
	const struct nvme_health *h = &c->smart;

	if (!c->has_smart)
		return json_null();
	return json_pack("{s:i, s:i, s:i, s:i, s:i, s:I}", "critical", (int)h->critical, "spare",
			 (int)h->spare, "spare_threshold", (int)h->spare_threshold, "used",
			 (int)h->used, "temperature_k", (int)h->temperature_k, "media_errors",
			 (json_int_t)MIN(h->media_errors, (uint64_t)INT64_MAX));
}

static const struct {
	const char *name;
	enum io_op op;
} latency_ops[] = { { "read", IO_READ }, { "write", IO_WRITE } };

static json_t *json_child(struct nexus *nx, unsigned n, const struct nexus_child_info *c)
{
	int progress = nexus_rebuild_progress(nx, c->uri);
	char uuid[UUID_TEXT_SIZE];
	json_t *object = json_pack(
		"{s:o, s:o, s:s, s:s, s:s, s:s, s:o, s:b, s:b, s:b, s:o, s:o, s:I, s:I, s:o, s:o}",
		"uri", json_text(c->uri), "device", json_text(c->device_name), "uuid",
		uuid_to_text(&c->uuid, uuid), "state", child_state_name(c->state), "health",
		child_health_name(c->health), "reason", nexus_reason_name(c->reason), "why",
		json_text(c->why[0] != '\0' ? c->why : NULL), "for_good", c->is_final, "synced",
		c->is_synced, "local", c->is_local, "missed_segments",
		c->has_io_log ? json_number(c->missed_segments) : json_null(), "rebuild_progress",
		progress >= 0 ? json_number((uint64_t)progress) : json_null(), "read_errors",
		(json_int_t)c->read_errors, "write_errors", (json_int_t)c->write_errors, "warnings",
		json_warnings(c->warnings), "smart", json_smart(c));

	for (unsigned i = 0; object != NULL && i < ARRAY_LEN(latency_ops); i++) {
		json_t *latency = json_latency(nx, n, latency_ops[i].op);

		if (latency != NULL)
			(void)json_object_set_new(object, latency_ops[i].name, latency);
	}
	return object;
}

json_t *json_nexus(struct nexus *nx)
{
	char uuid[UUID_TEXT_SIZE], device_uuid[UUID_TEXT_SIZE];
	struct nexus_child_info child;
	json_t *children = json_array();
	struct nexus_info info;

	nexus_info(nx, &info);
	for (unsigned i = 0; nexus_child_info(nx, i, &child); i++)
		(void)json_array_append_new(children, json_child(nx, i, &child));
	return json_pack(
		"{s:o, s:s, s:s, s:s, s:s, s:o, s:b, s:I, s:I, s:I, s:s, s:i, s:I, s:I, s:I, s:I, "
		"s:I, s:I, s:o}",
		"name", json_text(info.name), "uuid", uuid_to_text(&info.uuid, uuid), "device_uuid",
		uuid_to_text(&info.device_uuid, device_uuid), "state", nexus_state_name(info.state),
		"status", nexus_status_name(info.status), "why",
		json_text(info.why[0] != '\0' ? info.why : NULL), "frozen", info.is_frozen, "size",
		(json_int_t)info.device_size, "size_asked", (json_int_t)info.size, "block_size",
		(json_int_t)nexus_device(nx)->block_size, "label",
		info.label == NEXUS_LABEL_V1 ? "v1" : "v2", "rebuilds",
		(int)nexus_rebuild_count(nx), "segment_size", (json_int_t)info.segment_size,
		"segments_in_flight", (json_int_t)info.segments_in_flight, "mark_writes",
		(json_int_t)info.mark_writes, "repairs", (json_int_t)info.repairs, "repairs_failed",
		(json_int_t)info.repairs_failed, "overlaps", (json_int_t)info.overlaps, "children",
		children);
}

/* What @fn adds to a list for the nexus that was named, or for all. */
static int say_each(struct request *req, void (*fn)(struct nexus *nx, json_t *list),
		    struct err *err)
{
	struct nexus *nx = req->nx;
	json_t *list = json_array();

	if (nx != NULL)
		fn(nx, list);
	while (req->nx == NULL && (nx = nexus_next(nx)) != NULL)
		fn(nx, list);
	return request_say_json(req, list, err);
}

static void nexus_of(struct nexus *nx, json_t *list)
{
	(void)json_array_append_new(list, json_nexus(nx));
}

int run_nexus(struct request *req, struct err *err)
{
	return say_each(req, nexus_of, err);
}

/* A row for the reads and one for the writes of each child: flat, for `ctl --table`. */
static void latency_of(struct nexus *nx, json_t *rows)
{
	struct nexus_child_info child;
	struct nexus_info info;

	nexus_info(nx, &info);
	for (unsigned i = 0; nexus_child_info(nx, i, &child); i++) {
		for (unsigned j = 0; j < ARRAY_LEN(latency_ops); j++) {
			json_t *latency = json_latency(nx, i, latency_ops[j].op);
			json_t *row = json_pack("{s:o, s:s}", "nexus", json_text(info.name), "op",
						latency_ops[j].name);

			if (latency != NULL && row != NULL &&
			    json_object_update(row, latency) == 0 &&
			    json_object_set_new(row, "child", json_text(child.uri)) == 0)
				(void)json_array_append(rows, row);
			json_decref(row);
			json_decref(latency);
		}
	}
}

int run_latency(struct request *req, struct err *err)
{
	return say_each(req, latency_of, err);
}
