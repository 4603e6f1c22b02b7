// SPDX-License-Identifier: Apache-2.0
/*
 * Cross-Controller Reset: a host that lost a path asks over another for the end of what it left
 * behind there.
 *
 * A connection that broke at the host may look whole to us, or be gone while its writes are still
 * with the device. A host that sends such a write again elsewhere, has it acknowledged and writes
 * something newer may then see the old copy land on top of it. Nothing the host can do by itself
 * excludes that; only we know when a connection is dead. So it names the controller, by id and by
 * the random number that tells two of the same id apart, and gets its answer when no command of it
 * can reach a device any more:
 *
 *   command --> the controller's queues are closed, if there is one --> wait until each of its
 *   connections is dead (no command with a device) --> dword 0 bit 0: it is done
 *
 * One that is not known (any more) has no connection either: that is done at once.
 *
 * The specification lets a controller answer before the reset is complete and announce the end in a
 * log page and by an event. We never do: the answer comes late instead, because a host has nothing
 * better to do than to wait for it, and one path less is one way less to get it wrong.
 *
 * A process that was killed cannot ask so, and the one that follows it does not know what its
 * controllers were called. It is the same host, though, and we know which of its connections are
 * dead: a log page of our own says how many of them still have commands with devices. A new
 * process waits until there is none (src/drivers/nvmf/leftover.c). What looks alive may be another
 * process of that host; how many such controllers there are the page says as well. Where the whole
 * host died its connections look alive until their keep alive has expired.
 *
 * Numbers: NVM Express Base Specification 2.3, 5.4.3 (Cross-Controller Reset), 5.2.13 (Identify
 * Controller: CIU, CIRN, CCRL), 5.2.12 (log pages C0h to FFh: vendor specific).
 *
 * Invariants
 *   1. A waiting command is linked in ss->resets and counts as with the primary, so its own
 *      connection outlives it; when that connection ends it is given back (cross_abort).
 *   2. ctrlr->ncross <= CROSS_MAX.
 *
 * Thread: the primary reactor.
 *
 * Rejected: to let Connect of a host wait until its dead connections are gone (which of its
 * controllers are dead only the host knows); to order writes to one block across connections (a
 * table of everything in flight, on the data path, for what happens once a year).
 */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "target/internal.h"

enum {
	CROSS_MAX = 8, /* that one controller waits for at a time: CCRL */
	IMMEDIATE = 1, /* dword 0, IRS: the reset is complete */
};

void cross_init(struct ctrlr *ctrlr)
{
	static uint8_t next;

	ctrlr->ciu = next = next == UINT8_MAX ? 1 : (uint8_t)(next + 1);
	do
		ctrlr->instance = reactor_random(reactor_primary());
	while (ctrlr->instance == 0);
}

void cross_identify(const struct ctrlr *ctrlr, struct nvme_id_ctrl *id)
{
	id->ciu = ctrlr->ciu;
	le64_put(&id->cirn, ctrlr->instance);
	id->ccrl = CROSS_MAX;
}

static bool instance_lives(const struct subsystem *ss, uint64_t instance)
{
	const struct conn *conn;

	list_for_each (conn, &ss->conn_list, counted_link) {
		if (conn->instance == instance)
			return true;
	}
	return false;
}

static struct ctrlr *instance_find(struct subsystem *ss, uint16_t cntlid, uint64_t instance)
{
	struct ctrlr *ctrlr;

	list_for_each (ctrlr, &ss->ctrlrs, link) {
		if (ctrlr->cntlid == cntlid && ctrlr->instance == instance)
			return ctrlr;
	}
	return NULL;
}

static bool is_same_host(const struct ctrlr *a, const struct ctrlr *b)
{
	return strcmp(a->hostnqn, b->hostnqn) == 0 &&
	       memcmp(a->hostid, b->hostid, sizeof(a->hostid)) == 0;
}

void cross_reset(struct ctrlr *ctrlr, struct cmd *cmd)
{
	uint16_t cntlid = (uint16_t)le32_get(cmd->sqe.cdw10);
	uint64_t instance = le32_get(cmd->sqe.cdw12) | (uint64_t)le32_get(cmd->sqe.cdw13) << 32;
	struct subsystem *ss = ctrlr->subsystem;
	struct ctrlr *other = instance_find(ss, cntlid, instance);

	if (instance == 0 || other == ctrlr || (other != NULL && !is_same_host(ctrlr, other))) {
		cmd_finish(cmd, NVME_SC_INVALID_FIELD);
		return;
	}
	if (ctrlr->ncross == CROSS_MAX) {
		cmd_finish(cmd, NVME_SC_CCR_LIMIT);
		return;
	}
	if (other != NULL && (!other->is_closing || other->is_draining)) {
		log_info("host ends a controller from another nqn=%s cntlid=%u by=%u host=%s",
			 ss->nqn, cntlid, ctrlr->cntlid, ctrlr->hostnqn);
		ctrlr_close(other);
	}
	if (!instance_lives(ss, instance)) {
		cmd->dw0 = IMMEDIATE;
		cmd_finish(cmd, 0);
		return;
	}
	ctrlr->ncross++;
	cmd->cross_instance = instance;
	list_add_tail(&ss->resets, &cmd->link);
}

void cross_conn_gone(struct subsystem *ss, uint64_t instance)
{
	struct cmd *cmd, *next;

	if (list_empty(&ss->resets) || instance_lives(ss, instance))
		return;
	list_for_each_safe (cmd, next, &ss->resets, link) {
		if (cmd->cross_instance != instance)
			continue;
		list_del(&cmd->link);
		cmd->conn->ctrlr->ncross--;
		cmd->dw0 = IMMEDIATE;
		cmd_finish(cmd, 0);
	}
}

void cross_abort(struct ctrlr *ctrlr, struct conn *conn)
{
	struct cmd *cmd, *next;

	list_for_each_safe (cmd, next, &ctrlr->subsystem->resets, link) {
		if (cmd->conn != conn)
			continue;
		list_del(&cmd->link);
		ctrlr->ncross--;
		cmd->status = NVME_SC_ABORTED_SQ_DELETION;
		cmd_return(cmd);
	}
}

/* ---- what is left of a process -------------------------------------------------------------- */

/* Closed for its host. One that drains is not: its commands go on to their answer. */
static bool is_dead(const struct conn *conn)
{
	return !ctrlr_may_command(conn->ctrlr);
}

static bool is_of_host(const struct conn *conn, const struct ctrlr *ctrlr)
{
	return strcmp(conn->hostnqn, ctrlr->hostnqn) == 0 &&
	       memcmp(conn->hostid, ctrlr->hostid, sizeof(conn->hostid)) == 0;
}

void *leftover_log_page(const struct ctrlr *ctrlr, size_t *ret_size)
{
	struct nvme_log_leftover *log = calloc(1, sizeof(*log));
	uint32_t nconns = 0, nctrlrs = 0;
	const struct ctrlr *other;
	const struct conn *conn;

	*ret_size = sizeof(*log);
	if (log == NULL)
		return NULL;
	list_for_each (conn, &ctrlr->subsystem->conn_list, counted_link)
		nconns += is_dead(conn) && is_of_host(conn, ctrlr);
	list_for_each (other, &ctrlr->subsystem->ctrlrs, link)
		nctrlrs += ctrlr_may_command(other) && is_same_host(other, ctrlr);
	memcpy(log->signature, NVME_LEFTOVER_SIGNATURE, sizeof(NVME_LEFTOVER_SIGNATURE));
	le32_put(&log->version, NVME_LEFTOVER_VERSION);
	le32_put(&log->conns, nconns);
	le32_put(&log->ctrlrs, nctrlrs);
	return log;
}
