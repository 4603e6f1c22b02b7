// SPDX-License-Identifier: Apache-2.0
/*
 * Admin commands: a table of opcodes, the features, Abort and Asynchronous Event Request.
 *
 * They arrive as messages from the reactor of the admin queue, with their buffer; each handler sets
 * status and dword 0 (and fills the buffer) and sends the command back. None of them waits, but
 * for Asynchronous Event Request, whose slot rests in the controller until something happens, and
 * Abort, which travels on to the reactor of the queue it aims at.
 *
 * Abort takes a command back only while it waits for a buffer, for a paused subsystem or for the
 * second half of a fused pair; one that is with a device is let finish, as the specification allows
 * (Base 5.1: dword 0 bit 0 says so).
 *
 * Thread: the primary reactor; abort_search() on the reactor of the searched queue.
 */
#include <string.h>

#include "base/log.h"
#include "target/internal.h"

/* ---- features ------------------------------------------------------------------------------- */

enum {
	FEATURE_PER_NS = 1 << 1, /* dword 0 of that answer */
	FEATURE_CHANGEABLE = 1 << 2,
	FEATURE_SAVE = 1u << 31, /* Set Features, SV */
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

/* Which of the thresholds CDW11 names: 0 over, 1 under. There is one sensor, the composite one. */
static unsigned temperature_kind(const struct cmd *cmd, uint16_t *ret_status)
{
	uint32_t cdw11 = le32_get(cmd->sqe.cdw11), sensor = cdw11 >> 16 & 0xf;
	bool is_all = sensor == 0xf && cmd->sqe.opcode == NVME_ADMIN_SET_FEATURES;

	if ((cdw11 >> 20 & 3) > 1 || (sensor != 0 && !is_all)) /* Base 5.27.1.3 */
		*ret_status = NVME_SC_INVALID_FIELD;
	return cdw11 >> 20 & 1;
}

/* ---- the time of day that a host believes in (Base 5.27.1.12) ------------------------------- */

enum {
	TIMESTAMP_SIZE = 8,
	TIMESTAMP_SHIFT_ORIGIN = 49, /* 0: since reset, 1: since it was set */
};

static uint16_t timestamp_get(const struct ctrlr *ctrlr, struct cmd *cmd)
{
	uint64_t since_ns = ctrlr->has_timestamp ? ctrlr->timestamp_ns
						 : ctrlr->subsystem->target->started_ns;
	uint64_t now_ms = (reactor_primary()->now_ns - since_ns) / 1000000 + ctrlr->timestamp_ms;
	struct le64 data = {};

	if (ctrlr->subsystem->is_discovery || cmd->len < TIMESTAMP_SIZE)
		return NVME_SC_INVALID_FIELD;
	if ((le32_get(cmd->sqe.cdw10) >> 8 & 7) == NVME_SEL_CURRENT)
		le64_put(&data, (now_ms & ((1ull << 48) - 1)) | (uint64_t)ctrlr->has_timestamp
									<< TIMESTAMP_SHIFT_ORIGIN);
	cmd->len = TIMESTAMP_SIZE;
	cmd_reply(cmd, &data, sizeof(data));
	return 0;
}

static uint16_t timestamp_set(struct ctrlr *ctrlr, const struct cmd *cmd)
{
	struct le64 data;

	if (ctrlr->subsystem->is_discovery || cmd->dir != CMD_H2C || cmd->len != TIMESTAMP_SIZE)
		return NVME_SC_INVALID_FIELD;
	memcpy(&data, cmd->buf, sizeof(data));
	ctrlr->timestamp_ms = le64_get(data) & ((1ull << 48) - 1);
	ctrlr->timestamp_ns = reactor_primary()->now_ns;
	ctrlr->has_timestamp = true;
	return 0;
}

/* ---- getting and setting -------------------------------------------------------------------- */

static bool feature_has_data(uint8_t fid)
{
	return fid == NVME_FEAT_HOST_ID || fid == NVME_FEAT_TIMESTAMP ||
	       fid == NVME_FEAT_HOST_BEHAVIOR;
}

/* What a feature is before a host sets it. @current: of those that never change. */
static uint32_t feature_default(const struct ctrlr *ctrlr, const struct cmd *cmd, uint32_t current)
{
	switch ((uint8_t)le32_get(cmd->sqe.cdw10)) {
	case NVME_FEAT_TEMPERATURE:
		return le32_get(cmd->sqe.cdw11) >> 20 & 1 ? 0 : TEMPERATURE_DEFAULT;
	case NVME_FEAT_ASYNC_EVENT:
	case NVME_FEAT_RESV_MASK:
	case NVME_FEAT_RESV_PERSIST:
		return 0;
	case NVME_FEAT_KEEP_ALIVE:
		return ctrlr->subsystem->is_discovery ? KATO_DISCOVERY_MS : 0;
	default:
		return current;
	}
}

/* The value, or an NVMe status in @ret_status. */
static uint32_t feature_value(const struct ctrlr *ctrlr, struct cmd *cmd, uint8_t fid,
			      bool *ret_changeable, uint16_t *ret_status)
{
	uint32_t value = 0;

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
		return ctrlr->temp_threshold[temperature_kind(cmd, ret_status)];
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
	case NVME_FEAT_TIMESTAMP:
		*ret_changeable = true;
		*ret_status = timestamp_get(ctrlr, cmd);
		return 0;
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
	case NVME_FEAT_RESV_MASK:
	case NVME_FEAT_RESV_PERSIST:
		*ret_changeable = true;
		*ret_status = resv_feature_get(ctrlr, cmd, fid, &value);
		return value;
	default:
		*ret_status = NVME_SC_INVALID_FIELD;
		return 0;
	}
}

static uint32_t feature_support(uint8_t fid, bool is_changeable)
{
	bool is_per_ns = fid == NVME_FEAT_RESV_MASK || fid == NVME_FEAT_RESV_PERSIST;

	return (is_changeable ? FEATURE_CHANGEABLE : 0u) | (is_per_ns ? FEATURE_PER_NS : 0u);
}

static void get_features(struct ctrlr *ctrlr, struct cmd *cmd)
{
	uint32_t cdw10 = le32_get(cmd->sqe.cdw10), sel = cdw10 >> 8 & 7;
	bool is_changeable;
	uint16_t status;
	uint32_t value;

	if (cmd->dir == CMD_C2H && (sel == NVME_SEL_SUPPORTED || !feature_has_data((uint8_t)cdw10)))
		cmd->len = 0;
	value = feature_value(ctrlr, cmd, (uint8_t)cdw10, &is_changeable, &status);
	if (sel == NVME_SEL_SUPPORTED && feature_has_data((uint8_t)cdw10))
		status = 0; /* it wanted to give data that nobody asked for */
	if (sel > NVME_SEL_SUPPORTED)
		status = NVME_SC_INVALID_FIELD;
	if (sel == NVME_SEL_SUPPORTED)
		value = feature_support((uint8_t)cdw10, is_changeable);
	else if (sel != NVME_SEL_CURRENT)
		value = feature_default(ctrlr, cmd, value);
	if (status == 0)
		cmd->dw0 = value;
	cmd_finish(cmd, status);
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
	uint16_t status = 0;
	unsigned kind;

	switch (fid) {
	case NVME_FEAT_TEMPERATURE:
		kind = temperature_kind(cmd, &status);
		if (status == 0)
			ctrlr->temp_threshold[kind] = (uint16_t)value;
		return status;
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
	case NVME_FEAT_TIMESTAMP:
		return timestamp_set(ctrlr, cmd);
	case NVME_FEAT_HOST_BEHAVIOR:
		return crd_set_behavior(ctrlr, cmd);
	case NVME_FEAT_HOST_ID: /* said in Connect, and only there (Base 5.27.1.25) */
		return NVME_SC_COMMAND_SEQUENCE_ERROR;
	case NVME_FEAT_ARBITRATION:
	case NVME_FEAT_POWER:
	case NVME_FEAT_ERROR_RECOVERY:
	case NVME_FEAT_WRITE_ATOMICITY:
		return value == 0 ? 0 : NVME_SC_FEATURE_NOT_CHANGEABLE;
	case NVME_FEAT_RESV_MASK:
		return resv_feature_mask(ctrlr, cmd, value);
	default:
		return NVME_SC_INVALID_FIELD;
	}
}

static void set_features(struct ctrlr *ctrlr, struct cmd *cmd)
{
	uint32_t cdw10 = le32_get(cmd->sqe.cdw10);

	if (cdw10 & FEATURE_SAVE)
		cmd_finish(cmd, NVME_SC_FEATURE_NOT_SAVEABLE);
	else if ((uint8_t)cdw10 == NVME_FEAT_RESV_PERSIST)
		resv_execute(cmd); /* it goes to the disk first */
	else
		cmd_finish(cmd, set_feature(ctrlr, cmd, (uint8_t)cdw10, le32_get(cmd->sqe.cdw11)));
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

		if (found->cid != cid || found == cmd || found->state == CMD_FREE)
			continue;
		if (found->fuse != 0) {
			if (!fused_abort(found))
				continue;
		} else if (found->state == CMD_WAIT || found->state == CMD_HELD) {
			list_del(&found->link);
			cmd_complete(found, NVME_SC_ABORT_REQUESTED);
		} else {
			continue;
		}
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
		cmd_finish(cmd, NVME_SC_INVALID_FIELD);
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
		cmd_finish(cmd, 0);
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
		cmd_finish(cmd, NVME_SC_AER_LIMIT_EXCEEDED);
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

	if (!ctrlr_may_command(ctrlr)) {
		cmd_finish(cmd, NVME_SC_COMMAND_SEQUENCE_ERROR);
		return;
	}
	if (!(ctrlr->cc & NVME_CC_EN)) {
		cmd_finish(cmd, NVME_SC_COMMAND_SEQUENCE_ERROR);
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
		cmd_finish(cmd, 0);
		break;
	case NVME_ADMIN_CROSS_RESET:
		cross_reset(ctrlr, cmd);
		break;
	case NVME_ADMIN_SNAPSHOT:
		if (!is_discovery) {
			snapshot_execute(ctrlr, cmd);
			break;
		}
		cmd_finish(cmd, NVME_SC_INVALID_OPCODE);
		break;
	case NVME_ADMIN_ABORT:
		if (!is_discovery) {
			abort_command(ctrlr, cmd);
			break;
		}
		FALLTHROUGH;
	default:
		cmd_finish(cmd, NVME_SC_INVALID_OPCODE);
		break;
	}
}
