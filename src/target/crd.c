// SPDX-License-Identifier: Apache-2.0
/*
 * Command retry delays: how long a host waits before it sends a command again that failed.
 *
 *   CRD   delay     carried by
 *   1     CRDT1     errors of a nexus
 *   2     CRDT2     of a nexus: reservation conflict, no space (waiting may help with those)
 *   3     CRDT3     every error of a replica
 *
 * The delays are the target's (target_opts.crdt) and told in Identify Controller. Which of them an
 * error means is in two bits of its status. They are set where retrying makes sense (no Do Not
 * Retry), where the delay is not 0, and for a host that said that it knows them: Advanced Command
 * Retry Enable in the feature Host Behavior Support (Base 3.3.3.2.1, 5.27.1.18). Only what a device
 * answered carries them. An error of the path does not: the other path is to be tried at once.
 *
 * Thread: crd_bits() on the connection's reactor; features on the primary, which tells connections
 * by a flag that they read when a command failed.
 */
#include <string.h>

#include "target/internal.h"

unsigned crd_index(enum subsystem_kind kind, uint16_t io_status)
{
	if (kind == SUBSYSTEM_REPLICA)
		return 3;
	return io_status == IO_RESERVED || io_status == IO_NO_SPACE ? 2 : 1;
}

uint16_t crd_bits(const struct cmd *cmd, uint16_t io_status)
{
	const struct conn *conn = cmd->conn;
	unsigned index = crd_index(conn->sc->subsystem->kind, io_status);

	if (!atomic_load_explicit(&conn->is_acre, memory_order_relaxed) ||
	    conn->core->target->opts.crdt[index - 1] == 0)
		return 0;
	return (uint16_t)(index << NVME_STATUS_CRD_SHIFT);
}

/* ---- Host Behavior Support ------------------------------------------------------------------ */

void crd_enable(struct ctrlr *ctrlr, bool is_acre)
{
	ctrlr->is_acre = is_acre;
	for (unsigned i = 0; i <= TARGET_QUEUES_MAX; i++) {
		if (ctrlr->queue[i] != NULL)
			atomic_store_explicit(&ctrlr->queue[i]->is_acre, is_acre,
					      memory_order_relaxed);
	}
}

uint16_t crd_get_behavior(const struct ctrlr *ctrlr, struct cmd *cmd)
{
	bool is_current = (le32_get(cmd->sqe.cdw10) >> 8 & 7) == NVME_SEL_CURRENT;
	struct nvme_host_behavior behavior = { .acre = ctrlr->is_acre && is_current };

	if (cmd->len < sizeof(behavior))
		return NVME_SC_INVALID_FIELD;
	cmd_reply(cmd, &behavior, sizeof(behavior));
	return 0;
}

uint16_t crd_set_behavior(struct ctrlr *ctrlr, const struct cmd *cmd)
{
	const struct nvme_host_behavior *behavior = (const void *)cmd->buf;

	if (cmd->dir != CMD_H2C || cmd->len < sizeof(*behavior) || behavior->acre > 1)
		return NVME_SC_INVALID_FIELD;
	crd_enable(ctrlr, behavior->acre == 1);
	return 0;
}
