// SPDX-License-Identifier: Apache-2.0
/*
 * Admin commands: a table of opcodes, the features, Abort and Asynchronous Event Request.
 *
 * They arrive as messages from the reactor of the admin queue, with their buffer; each handler sets
 * status and dword 0 (and fills the buffer) and sends the command back. None of them waits, but
 * for Asynchronous Event Request, whose slot rests in the controller until something happens, and
 * Abort, which travels on to the reactor of the queue it aims at.
 *
 * Abort takes a command back only while it waits for a buffer or for a paused subsystem; one that
 * is with a device is let finish, as the specification allows (Base 5.1: dword 0 bit 0 says so).
 *
 * Thread: the primary reactor; abort_search() on the reactor of the searched queue.
 */
#include <string.h>

#include "base/log.h"
#include "target/internal.h"

static void finish(struct cmd *cmd, uint16_t status)
{
	cmd->status = status == 0 ? 0 : status | NVME_STATUS_DNR;
	cmd_return(cmd);
}

/* ---- features ------------------------------------------------------------------------------- */

enum {
	SEL_SUPPORTED = 3,           /* Get Features, SEL: what can be done with it */
	FEATURE_CHANGEABLE = 1 << 2, /* dword 0 of that answer */
	FEATURE_SAVE = 1u << 31,     /* Set Features, SV */
	TEMPERATURE_DEFAULT = 343,   /* kelvin; a threshold nobody measures against */
	ASYNC_CONFIG_MASK = NVME_OAES_NS_ATTR | (int)NVME_OAES_DISCOVERY | 0x1f, /* SMART bits */
};

static bool subsystem_has_cache(const struct subsystem *ss)
{
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		if (ss->ns[i] != NULL && ss->ns[i]->dev->has_write_cache)
			return true;
	}
	return false;
}

static uint32_t queues_granted(const struct ctrlr *ctrlr)
{
	uint32_t n = ctrlr->subsystem->target->opts.queues_max - 1;

	return n | n << 16;
}

/* The value, or an NVMe status in @ret_status. */
static uint32_t feature_value(const struct ctrlr *ctrlr, struct cmd *cmd, uint8_t fid,
			      bool *ret_changeable, uint16_t *ret_status)
{
	*ret_status = 0;
	*ret_changeable = false;
	switch (fid) {
	case NVME_FEAT_ARBITRATION:
	case NVME_FEAT_POWER:
	case NVME_FEAT_ERROR_RECOVERY:
	case NVME_FEAT_WRITE_ATOMICITY:
		return 0;
	case NVME_FEAT_TEMPERATURE:
		*ret_changeable = true;
		return ctrlr->temp_threshold != 0 ? ctrlr->temp_threshold : TEMPERATURE_DEFAULT;
	case NVME_FEAT_WRITE_CACHE:
		return subsystem_has_cache(ctrlr->subsystem);
	case NVME_FEAT_QUEUES:
		*ret_changeable = true;
		return queues_granted(ctrlr);
	case NVME_FEAT_ASYNC_EVENT:
		*ret_changeable = true;
		return ctrlr->async_config;
	case NVME_FEAT_KEEP_ALIVE:
		*ret_changeable = true;
		return ctrlr->kato_ms;
	case NVME_FEAT_HOST_BEHAVIOR:
		*ret_changeable = true;
		*ret_status = crd_get_behavior(ctrlr, cmd);
		return 0;
	case NVME_FEAT_HOST_ID:
		if (cmd->len < sizeof(ctrlr->hostid) || !(le32_get(cmd->sqe.cdw11) & 1))
			*ret_status = NVME_SC_INVALID_FIELD; /* only the 128-bit form exists here */
		else
			cmd_reply(cmd, ctrlr->hostid, sizeof(ctrlr->hostid));
		return 0;
	default:
		*ret_status = NVME_SC_INVALID_FIELD;
		return 0;
	}
}

static void get_features(struct ctrlr *ctrlr, struct cmd *cmd)
{
	uint32_t cdw10 = le32_get(cmd->sqe.cdw10);
	bool is_changeable;
	uint16_t status;
	uint32_t value;

	if (cmd->dir == CMD_C2H && (cdw10 & 0xff) != NVME_FEAT_HOST_ID &&
	    (cdw10 & 0xff) != NVME_FEAT_HOST_BEHAVIOR)
		cmd->len = 0;
	value = feature_value(ctrlr, cmd, (uint8_t)cdw10, &is_changeable, &status);
	if (status == 0)
		cmd->dw0 = (cdw10 >> 8 & 7) == SEL_SUPPORTED
				   ? (is_changeable ? (uint32_t)FEATURE_CHANGEABLE : 0)
				   : value;
	finish(cmd, status);
}

static uint16_t set_queues(struct ctrlr *ctrlr, struct cmd *cmd, uint32_t value)
{
	if ((value & 0xffff) == 0xffff || value >> 16 == 0xffff)
		return NVME_SC_INVALID_FIELD;
	if (ctrlr->nqueues > 1)
		return NVME_SC_COMMAND_SEQUENCE_ERROR;
	cmd->dw0 = queues_granted(ctrlr);
	return 0;
}

static uint32_t async_config_mask(const struct ctrlr *ctrlr)
{
	return (uint32_t)ASYNC_CONFIG_MASK | (ctrlr->subsystem->ana != NULL ? NVME_OAES_ANA : 0);
}

static uint16_t set_feature(struct ctrlr *ctrlr, struct cmd *cmd, uint8_t fid, uint32_t value)
{
	switch (fid) {
	case NVME_FEAT_TEMPERATURE:
		ctrlr->temp_threshold = (uint16_t)value;
		return 0;
	case NVME_FEAT_QUEUES:
		return set_queues(ctrlr, cmd, value);
	case NVME_FEAT_ASYNC_EVENT:
		ctrlr->async_config = value & async_config_mask(ctrlr);
		ctrlr_send_events(ctrlr);
		return 0;
	case NVME_FEAT_KEEP_ALIVE:
		ctrlr_set_kato(ctrlr, value);
		return 0;
	case NVME_FEAT_WRITE_CACHE:
		return (value & 1) == subsystem_has_cache(ctrlr->subsystem)
			       ? 0
			       : NVME_SC_FEATURE_NOT_CHANGEABLE;
	case NVME_FEAT_HOST_BEHAVIOR:
		return crd_set_behavior(ctrlr, cmd);
	case NVME_FEAT_HOST_ID: /* said in Connect, and only there (Base 5.27.1.25) */
		return NVME_SC_COMMAND_SEQUENCE_ERROR;
	case NVME_FEAT_ARBITRATION:
	case NVME_FEAT_POWER:
	case NVME_FEAT_ERROR_RECOVERY:
	case NVME_FEAT_WRITE_ATOMICITY:
		return value == 0 ? 0 : NVME_SC_FEATURE_NOT_CHANGEABLE;
	default:
		return NVME_SC_INVALID_FIELD;
	}
}

static void set_features(struct ctrlr *ctrlr, struct cmd *cmd)
{
	uint32_t cdw10 = le32_get(cmd->sqe.cdw10);

	if (cdw10 & FEATURE_SAVE)
		finish(cmd, NVME_SC_FEATURE_NOT_SAVEABLE);
	else
		finish(cmd, set_feature(ctrlr, cmd, (uint8_t)cdw10, le32_get(cmd->sqe.cdw11)));
}

/* ---- Abort and events ----------------------------------------------------------------------- */

/* On the reactor of the searched queue. */
static void abort_search(struct msg *msg)
{
	struct cmd *cmd = container_of(msg, struct cmd, msg);
	struct conn *conn = cmd->abort_conn;
	uint16_t cid = (uint16_t)(le32_get(cmd->sqe.cdw10) >> 16);

	for (uint32_t i = 0; i < conn->ncmds; i++) {
		struct cmd *found = &conn->slots[i].cmd;

		if (found->cid != cid || found == cmd ||
		    (found->state != CMD_WAIT && found->state != CMD_HELD))
			continue;
		list_del(&found->link);
		cmd_complete(found, NVME_SC_ABORT_REQUESTED);
		cmd->dw0 = 0;
		break;
	}
	cmd_return(cmd);
}

static void abort_command(struct ctrlr *ctrlr, struct cmd *cmd)
{
	uint32_t cdw10 = le32_get(cmd->sqe.cdw10);
	uint16_t sqid = (uint16_t)cdw10, cid = (uint16_t)(cdw10 >> 16);

	cmd->dw0 = 1; /* not aborted */
	if (sqid > TARGET_QUEUES_MAX || ctrlr->queue[sqid] == NULL) {
		finish(cmd, NVME_SC_INVALID_FIELD);
		return;
	}
	for (unsigned i = 0; sqid == NVME_QID_ADMIN && i < ctrlr->naer; i++) {
		struct cmd *aer = ctrlr->aer[i];

		if (aer->cid != cid)
			continue;
		ctrlr->aer[i] = ctrlr->aer[--ctrlr->naer];
		aer->status = NVME_SC_ABORT_REQUESTED;
		cmd_return(aer);
		cmd->dw0 = 0;
		break;
	}
	if (sqid == NVME_QID_ADMIN) {
		finish(cmd, 0);
		return;
	}
	/* It stays alive: a connection is not freed before it was unlinked, and the message that
	 * tells it so comes behind this one. */
	cmd->abort_conn = ctrlr->queue[sqid];
	cmd->msg.fn = abort_search;
	reactor_post(cmd->abort_conn->core->reactor, &cmd->msg);
}

static void async_event(struct ctrlr *ctrlr, struct cmd *cmd)
{
	if (ctrlr->naer == ADMIN_AER_MAX) {
		finish(cmd, NVME_SC_AER_LIMIT_EXCEEDED);
		return;
	}
	ctrlr->aer[ctrlr->naer++] = cmd;
	if (ctrlr->is_draining)
		ctrlr_abort_events(ctrlr);
	else
		ctrlr_send_events(ctrlr);
}

/* ---- dispatch ------------------------------------------------------------------------------- */

void admin_execute(struct cmd *cmd)
{
	struct ctrlr *ctrlr = cmd->conn->ctrlr;
	bool is_discovery = ctrlr != NULL && ctrlr->subsystem->is_discovery;

	if (ctrlr == NULL || (ctrlr->is_closing && !ctrlr->is_draining)) {
		finish(cmd, NVME_SC_COMMAND_SEQUENCE_ERROR);
		return;
	}
	if (!(ctrlr->cc & NVME_CC_EN)) {
		finish(cmd, NVME_SC_COMMAND_SEQUENCE_ERROR);
		return;
	}
	switch (cmd->sqe.opcode) {
	case NVME_ADMIN_IDENTIFY:
		identify_execute(ctrlr, cmd);
		break;
	case NVME_ADMIN_GET_LOG_PAGE:
		log_execute(ctrlr, cmd);
		break;
	case NVME_ADMIN_GET_FEATURES:
		get_features(ctrlr, cmd);
		break;
	case NVME_ADMIN_SET_FEATURES:
		set_features(ctrlr, cmd);
		break;
	case NVME_ADMIN_ASYNC_EVENT:
		async_event(ctrlr, cmd);
		break;
	case NVME_ADMIN_KEEP_ALIVE: /* its arrival was the sign of life */
		finish(cmd, 0);
		break;
	case NVME_ADMIN_CROSS_RESET:
		cross_reset(ctrlr, cmd);
		break;
	case NVME_ADMIN_ABORT:
		if (!is_discovery) {
			abort_command(ctrlr, cmd);
			break;
		}
		FALLTHROUGH;
	default:
		finish(cmd, NVME_SC_INVALID_OPCODE);
		break;
	}
}
