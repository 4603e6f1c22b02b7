// SPDX-License-Identifier: Apache-2.0
/*
 * Limits: how much of the target one connection, one host, one subsystem, all of them may take; and
 * which reactor the next connection gets.
 *
 *   accepted       conns_max, conn_memory_max (struct conn)        else closed
 *   Connect        conns_per_host_max, conns_per_subsystem_max,    else Controller Busy without Do
 *                  conn_memory_max (its queue)                     Not Retry: it may pass
 *   no Connect     connect_timeout_ms                              closed
 *   silence        idle_timeout_ms, where the host wanted no       closed
 *                  keep alive
 *   list of hosts  hosts_max                                       the operation fails
 *   a change       device_timeout_ms for a device to end what it    the operation fails
 *                  has (hold.c)
 *
 * The memory of a connection is known from the depth its host asks for, so it is judged and counted
 * before any of it is taken, and given back when the connection is dead. Memory of a reactor
 * (receive chunks, large buffers) does not depend on hosts and is taken at start.
 *
 * Spreading: a new connection goes to the reactor with the fewest, and round robin where there are
 * equals. Admin queues do no work to speak of; one stops counting when its Connect says what it is,
 * so it neither keeps a reactor free nor draws the I/O queues to the other ones.
 *
 * Thread: the primary reactor.
 *
 * Rejected: round robin alone (with two reactors and one I/O queue per controller, all I/O lands on
 * one); counting live connections of a host in a table (connects are rare, a walk is enough).
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "target/internal.h"

int limits_check(const struct target_opts *o, struct err *err)
{
	if (o->conns_max < 1 || o->connect_timeout_ms < 1 || o->device_timeout_ms < 1)
		return err_set(err, -EINVAL,
			       "conns_max, connect_timeout_ms and device_timeout_ms must not be "
			       "0");
	if (o->conns_per_host_max < 1 || o->conns_per_subsystem_max < 1)
		return err_set(err, -EINVAL,
			       "conns_per_host_max and conns_per_subsystem_max must not be 0");
	if (o->conn_memory_max < limits_conn_memory())
		return err_set(err, -EINVAL,
			       "the limit of memory must let one connection in: at least %" PRIu64
			       " bytes",
			       limits_conn_memory());
	for (unsigned i = 0; i < ARRAY_LEN(o->crdt); i++) {
		if (o->crdt[i] > TARGET_CRDT_MAX)
			return err_set(err, -EINVAL,
				       "crdt %u: a retry delay is 0 to %d units of 100 ms",
				       o->crdt[i], TARGET_CRDT_MAX);
	}
	return 0;
}

/* ---- memory --------------------------------------------------------------------------------- */

uint64_t limits_conn_memory(void)
{
	return sizeof(struct conn);
}

uint64_t limits_queue_memory(const struct target_opts *opts, uint16_t qid, uint32_t entries)
{
	uint64_t buf = qid == NVME_QID_ADMIN ? (uint64_t)NVME_TCP_ADMIN_CAPSULE_DATA
					     : MAX(opts->in_capsule_size, (uint32_t)SMALL_BUF);

	return entries * (sizeof(struct slot) + sizeof(uint16_t)) +
	       ALIGN_UP(entries * buf, (uint64_t)DMA_ALIGN) +
	       (qid == NVME_QID_ADMIN ? sizeof(struct ctrlr) : 0);
}

void limits_charge(struct conn *conn, uint64_t bytes)
{
	struct target *target = conn->target;

	conn->memory += bytes;
	target->conn_memory += bytes;
	target->conn_memory_peak = MAX(target->conn_memory_peak, target->conn_memory);
}

void limits_release(struct conn *conn)
{
	conn->target->conn_memory -= conn->memory;
	conn->memory = 0;
	if (conn->is_load)
		conn->core->load--;
}

static bool memory_fits(const struct target *target, uint64_t bytes)
{
	return bytes <= target->opts.conn_memory_max &&
	       target->conn_memory <= target->opts.conn_memory_max - bytes;
}

/* ---- who may come in ------------------------------------------------------------------------ */

bool limits_admit(const struct target *target)
{
	return target->conns < target->opts.conns_max && memory_fits(target, limits_conn_memory());
}

static unsigned host_conns(const struct target *target, const char *hostnqn)
{
	const struct subsystem *ss;
	const struct ctrlr *ctrlr;
	unsigned n = 0;

	list_for_each (ss, &target->subsystems, link) {
		list_for_each (ctrlr, &ss->ctrlrs, link)
			n += strcmp(ctrlr->hostnqn, hostnqn) == 0 ? ctrlr->nqueues : 0;
	}
	return n;
}

uint16_t limits_connect(struct conn *conn, const struct subsystem *ss, const char *hostnqn,
			uint16_t qid, uint32_t entries)
{
	struct target *target = conn->target;
	const struct target_opts *opts = &target->opts;
	const char *limit = NULL;

	if (ss->conns >= opts->conns_per_subsystem_max)
		limit = "connections-per-subsystem";
	else if (host_conns(target, hostnqn) >= opts->conns_per_host_max)
		limit = "connections-per-host";
	else if (!memory_fits(target, limits_queue_memory(opts, qid, entries)))
		limit = "memory";
	if (limit == NULL)
		return 0;
	target->connects_refused++;
	log_warn("refusing a connect: limit reached limit=%s nqn=%s host=%s peer=%s", limit,
		 ss->nqn, hostnqn, conn->peer);
	return NVME_SC_CONNECT_BUSY;
}

/* ---- which reactor -------------------------------------------------------------------------- */

struct core *limits_pick_core(struct target *target)
{
	struct core *best = &target->cores[target->next_core];

	for (unsigned i = 1; i < target->core_count; i++) {
		struct core *core = &target->cores[(target->next_core + i) % target->core_count];

		if (core->load < best->load)
			best = core;
	}
	target->next_core = (unsigned)(best - target->cores + 1) % target->core_count;
	return best;
}

unsigned target_core_load(const struct target *target, unsigned index)
{
	return target->cores[index].load;
}

void limits_is_admin(struct conn *conn)
{
	if (!conn->is_load)
		return;
	conn->is_load = false;
	conn->core->load--;
}
