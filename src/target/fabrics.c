// SPDX-License-Identifier: Apache-2.0
/*
 * Fabrics commands: Connect, and the properties that take the place of registers.
 *
 * Connect is where a stranger becomes a host; everything he says is checked here once. What is
 * wrong is answered with Connect Invalid Parameters and the place of the wrong field: dword 0 holds
 * its offset (IPO) and whether it lies in the data (IATTR, bit 16) rather than in the command
 * (Base 6.3). The order of the checks is the order of the table in connect_execute().
 *
 * Connects run one after the other on the primary reactor, so two queues can never race for an
 * identifier. The connection is linked to its controller here; its reactor makes the slots when the
 * answer passes by (conn_go_live).
 *
 * Thread: the primary reactor.
 */
#include <string.h>

#include "base/log.h"
#include "target/internal.h"

enum {
	IATTR_DATA = 1 << 16,
	NVMF_VERSION_RECFMT = 0,
	SQSIZE_MIN = 1, /* 0's based: two entries */
};

/* A limit that was reached may not be so a little later: such a host shall try again. */
static void finish(struct cmd *cmd, uint16_t status)
{
	bool may_retry = status == 0 || status == NVME_SC_CONNECT_BUSY;

	cmd->status = may_retry ? status : status | NVME_STATUS_DNR;
	cmd_return(cmd);
}

/* ---- Connect -------------------------------------------------------------------------------- */

static uint16_t invalid_param(struct cmd *cmd, uint32_t where)
{
	cmd->dw0 = where;
	return NVME_SC_CONNECT_INVALID_PARAM;
}

#define IN_COMMAND(field) ((uint32_t)offsetof(struct nvme_connect_cmd, field))
#define IN_DATA(field)    ((uint32_t)(IATTR_DATA | offsetof(struct nvme_connect_data, field)))

static bool nqn_is_valid(const char nqn[NVME_NQN_SIZE])
{
	size_t len = strnlen(nqn, NVME_NQN_SIZE);

	return len > 0 && len <= NVME_NQN_LEN_MAX;
}

static uint16_t connect_admin(struct cmd *cmd, struct subsystem *ss,
			      const struct nvme_connect_cmd *connect,
			      const struct nvme_connect_data *data)
{
	uint16_t sqsize = le16_get(connect->sqsize);
	struct ctrlr *ctrlr;
	uint16_t status;

	if (sqsize < SQSIZE_MIN || sqsize >= ADMIN_DEPTH_MAX)
		return invalid_param(cmd, IN_COMMAND(sqsize));
	if (le16_get(data->cntlid) != NVME_CNTLID_DYNAMIC)
		return invalid_param(cmd, IN_DATA(cntlid));
	status = limits_connect(cmd->conn, ss, data->hostnqn, NVME_QID_ADMIN, sqsize + 1u);
	if (status != 0)
		return status;
	ctrlr = ctrlr_new(ss, data->hostnqn, data->hostid);
	if (ctrlr == NULL) {
		log_warn("no controller left for a host nqn=%s host=%s", ss->nqn, data->hostnqn);
		return NVME_SC_CONNECT_BUSY;
	}
	ctrlr_link(ctrlr, cmd->conn, NVME_QID_ADMIN);
	ctrlr_set_kato(ctrlr, le32_get(connect->kato_ms));
	cmd->dw0 = ctrlr->cntlid;
	log_info("controller nqn=%s cntlid=%u host=%s peer=%s", ss->nqn, ctrlr->cntlid,
		 ctrlr->hostnqn, cmd->conn->peer);
	return 0;
}

static uint16_t connect_io(struct cmd *cmd, struct subsystem *ss,
			   const struct nvme_connect_cmd *connect,
			   const struct nvme_connect_data *data)
{
	const struct target_opts *opts = &ss->target->opts;
	uint16_t qid = le16_get(connect->qid), sqsize = le16_get(connect->sqsize);
	struct ctrlr *ctrlr = ctrlr_find(ss, le16_get(data->cntlid));
	uint16_t status;

	if (ctrlr == NULL)
		return invalid_param(cmd, IN_DATA(cntlid));
	if (strcmp(ctrlr->hostnqn, data->hostnqn) != 0)
		return invalid_param(cmd, IN_DATA(hostnqn));
	if (memcmp(ctrlr->hostid, data->hostid, sizeof(ctrlr->hostid)) != 0)
		return invalid_param(cmd, IN_DATA(hostid));
	if (ss->is_discovery || qid > opts->queues_max)
		return invalid_param(cmd, IN_COMMAND(qid));
	if (sqsize < SQSIZE_MIN || sqsize >= opts->queue_depth_max)
		return invalid_param(cmd, IN_COMMAND(sqsize));
	if (!(ctrlr->cc & NVME_CC_EN) || ctrlr->queue[qid] != NULL)
		return NVME_SC_COMMAND_SEQUENCE_ERROR;
	status = limits_connect(cmd->conn, ss, data->hostnqn, qid, sqsize + 1u);
	if (status != 0)
		return status;
	ctrlr_link(ctrlr, cmd->conn, qid);
	cmd->dw0 = ctrlr->cntlid;
	return 0;
}

static uint16_t connect_check(struct cmd *cmd, const struct nvme_connect_cmd *connect,
			      const struct nvme_connect_data *data, struct subsystem **ret_ss)
{
	struct subsystem *ss;

	if (cmd->len != sizeof(*data))
		return NVME_SC_DATA_SGL_LENGTH_INVALID;
	if (cmd->conn->ctrlr != NULL || cmd->tag != TAG_BOOT)
		return NVME_SC_COMMAND_SEQUENCE_ERROR;
	if (le16_get(connect->recfmt) != NVMF_VERSION_RECFMT)
		return NVME_SC_CONNECT_INCOMPATIBLE;
	if (!nqn_is_valid(data->subnqn))
		return invalid_param(cmd, IN_DATA(subnqn));
	if (!nqn_is_valid(data->hostnqn))
		return invalid_param(cmd, IN_DATA(hostnqn));
	ss = subsystem_find(cmd->conn->target, data->subnqn);
	if (ss == NULL || ss->is_removing || cmd->conn->target->is_stopping) {
		log_warn("host asks for a subsystem that is not here nqn=%s host=%s peer=%s",
			 data->subnqn, data->hostnqn, cmd->conn->peer);
		return invalid_param(cmd, IN_DATA(subnqn));
	}
	if (!subsystem_allows(ss, data->hostnqn)) {
		log_warn("host is not allowed nqn=%s host=%s peer=%s", ss->nqn, data->hostnqn,
			 cmd->conn->peer);
		return NVME_SC_CONNECT_INVALID_HOST;
	}
	if (subsystem_is_over(ss)) /* it has other paths, or waits until this is served anew */
		return NVME_SC_CONNECT_BUSY;
	*ret_ss = ss;
	return 0;
}

static void connect_execute(struct cmd *cmd)
{
	const struct nvme_connect_cmd *connect = (const void *)&cmd->sqe;
	const struct nvme_connect_data *data = (const void *)cmd->buf;
	struct conn *conn = cmd->conn;
	struct subsystem *ss = NULL;
	uint16_t status = connect_check(cmd, connect, data, &ss);

	if (status == 0 && le16_get(connect->qid) == NVME_QID_ADMIN)
		status = connect_admin(cmd, ss, connect, data);
	else if (status == 0)
		status = connect_io(cmd, ss, connect, data);
	if (status == 0) {
		conn->result = (struct connect_result){
			.sc = &ss->cores[conn->core->reactor->id],
			.denied = conn->ctrlr->denied,
			.qid = le16_get(connect->qid),
			.sqsize = (uint16_t)(le16_get(connect->sqsize) + 1),
			.is_flow_controlled = !(connect->cattr & NVME_CONNECT_NO_SQ_FLOW_CONTROL),
		};
		limits_charge(conn, limits_queue_memory(&conn->target->opts, conn->result.qid,
							conn->result.sqsize));
	}
	finish(cmd, status);
}

/* ---- properties ----------------------------------------------------------------------------- */

static uint16_t property_get(struct cmd *cmd, const struct ctrlr *ctrlr,
			     const struct nvme_property_cmd *prop)
{
	uint64_t value;
	unsigned size = 4;

	switch (le32_get(prop->offset)) {
	case NVME_PROP_CAP:
		value = ctrlr_cap(ctrlr->subsystem->target);
		size = 8;
		break;
	case NVME_PROP_VS:
		value = NVME_VS_2_0;
		break;
	case NVME_PROP_CC:
		value = ctrlr->cc;
		break;
	case NVME_PROP_CSTS:
		value = ctrlr->csts;
		break;
	default:
		return NVME_SC_INVALID_FIELD;
	}
	if ((prop->attrib & 7) != (size == 8 ? 1 : 0))
		return NVME_SC_INVALID_FIELD;
	cmd->dw0 = (uint32_t)value;
	cmd->dw1 = (uint32_t)(value >> 32);
	return 0;
}

static uint16_t property_set(struct ctrlr *ctrlr, const struct nvme_property_cmd *prop)
{
	if (le32_get(prop->offset) != NVME_PROP_CC || (prop->attrib & 7) != 0)
		return NVME_SC_INVALID_FIELD;
	ctrlr_set_cc(ctrlr, (uint32_t)le64_get(prop->value));
	return 0;
}

void fabrics_execute(struct cmd *cmd)
{
	const struct nvme_property_cmd *prop = (const void *)&cmd->sqe;
	struct ctrlr *ctrlr = cmd->conn->ctrlr;

	if (prop->fctype == NVME_FABRICS_CONNECT) {
		connect_execute(cmd);
		return;
	}
	if (ctrlr == NULL || cmd->conn->linked_qid != NVME_QID_ADMIN) {
		finish(cmd, NVME_SC_INVALID_FIELD);
		return;
	}
	switch (prop->fctype) {
	case NVME_FABRICS_PROPERTY_GET:
		finish(cmd, property_get(cmd, ctrlr, prop));
		break;
	case NVME_FABRICS_PROPERTY_SET:
		finish(cmd, property_set(ctrlr, prop));
		break;
	default: /* authentication and Disconnect are not offered */
		finish(cmd, NVME_SC_INVALID_OPCODE);
		break;
	}
}
