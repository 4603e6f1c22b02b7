// SPDX-License-Identifier: Apache-2.0
/*
 * The life of a command slot, from capsule to response, on the reactor of its connection.
 *
 *   FREE -> check -+-> [WAIT for a buffer] -+-> R2T -> data ---+-> HELD (paused) -> DEVICE --+
 *                  |                        |                  |                             |
 *                  +-> data in capsule -----+------------------+-> PRIMARY (admin, fabrics) -+
 *                  +-> refused ------------------------------------------------------------- +
 *                                                                                            v
 *                                                              FREE <---- sent <---------- SEND
 *
 * A slot owns a small buffer, so a command that moves at most 4 KiB (8 KiB on an admin queue) never
 * waits for memory, and what a host reads by mistake of a device that fills nothing is data of its
 * own connection. Larger transfers take a buffer of the reactor's pool; when the pool is empty they
 * wait in order, and who gets one sees nothing of whoever had it before. Free tags are a stack:
 * the hot set is the batch, not the depth.
 *
 * Halves of a fused pair go their own way before they are with the device: fused.c.
 *
 * Data in a capsule lies in the receive buffer. It is lent to the device when the device can be
 * expected to let go of it within the turn (a memory device copies it where it belongs: one copy);
 * otherwise it moves to the slot's buffer first. The receive chunk counts who borrows from it.
 *
 * While commands wait for pool buffers a timer looks for connections that hold some and move
 * nothing: a host that asks for large writes and never sends their data, or never reads its
 * answers, loses its connection before others suffer for long.
 *
 * Invariants
 *   1. A slot is in at most one list; its state says which.
 *   2. conn->busy counts the slots in DEVICE and PRIMARY, and only those outlive a closed stream.
 *   3. cmd->lent and is_in_pool exclude each other; both are gone when the slot is FREE.
 *
 * Thread: the connection's reactor; cmd_return(), cmd_finish() and cmd_reply() the primary.
 *
 * Rejected: one pool for all sizes (4 KiB of each of 128 KiB-spaced buffers fall into the same
 * cache sets); two classes of pool buffers (the slot's own memory does the small class without
 * a wait).
 */
#include <string.h>

#include "base/log.h"
#include "target/internal.h"

/* ---- buffers -------------------------------------------------------------------------------- */

void rx_chunk_put(struct core *core, struct rx_chunk *chunk)
{
	if (--chunk->refs > 0 || chunk == core->rx)
		return;
	chunk->used = 0;
	if (chunk->may_lend) {
		chunk->next = core->rx_free;
		core->rx_free = chunk;
	}
}

static uint8_t *slot_buf(const struct cmd *cmd)
{
	struct conn *conn = cmd->conn;

	if (cmd->tag == TAG_BOOT)
		return conn->boot_data;
	return conn->bufs + (size_t)cmd->tag * conn->buf_size;
}

static uint32_t slot_buf_size(const struct cmd *cmd)
{
	return cmd->tag == TAG_BOOT ? BOOT_DATA : cmd->conn->buf_size;
}

static void cmd_put_buf(struct cmd *cmd)
{
	struct core *core = cmd->conn->core;

	if (cmd->lent != NULL) {
		rx_chunk_put(core, cmd->lent);
		cmd->lent = NULL;
	}
	if (io_is_lent(&cmd->io))
		io_return(&cmd->io);
	if (cmd->is_in_pool) {
		bufpool_put(&core->large, cmd->buf);
		cmd->is_in_pool = false;
		cmd->conn->pool_held--;
		if (!list_empty(&core->waiters) && !core->is_waiters_queued) {
			core->is_waiters_queued = true;
			reactor_defer(core->reactor, &core->waiters_msg);
		}
	}
	cmd->buf = NULL;
}

void cmd_take_data(struct cmd *cmd)
{
	uint8_t *own = slot_buf(cmd);

	if (cmd->lent == NULL)
		return;
	memcpy(own, cmd->buf, cmd->len);
	rx_chunk_put(cmd->conn->core, cmd->lent);
	cmd->lent = NULL;
	cmd->buf = own;
}

static bool cmd_fills_buf(const struct cmd *cmd)
{
	/* one that waited may have lost its namespace, and learns that when it is submitted */
	return cmd->is_via_primary ||
	       (cmd->ns_generation == cmd->conn->sc->ns_generation && cmd->ns->fills_reads);
}

/*
 * A device may leave a read's buffer as it was (null does). What was in it must then be this
 * connection's own: slots are, pool buffers are cleared when they change hands.
 */
static void pool_buf_guard(struct cmd *cmd)
{
	struct core *core = cmd->conn->core;
	size_t index = (size_t)(cmd->buf - (uint8_t *)core->large.base) / core->large.buf_size;

	if (core->large_owner[index] == cmd->conn->serial)
		return;
	core->large_owner[index] = 0;
	if (cmd->dir == CMD_C2H && !cmd_fills_buf(cmd)) {
		memset(cmd->buf, 0, core->target->opts.io_size_max);
		core->large_owner[index] = cmd->conn->serial;
	}
}

/* Memory for cmd->len bytes. False: none now. */
static bool cmd_get_buf(struct cmd *cmd)
{
	struct core *core = cmd->conn->core;

	if (cmd->len <= slot_buf_size(cmd)) {
		cmd->buf = slot_buf(cmd);
		cmd->buf_size = slot_buf_size(cmd);
		return true;
	}
	cmd->buf = bufpool_get(&core->large);
	if (cmd->buf == NULL)
		return false;
	cmd->buf_size = core->target->opts.io_size_max;
	cmd->is_in_pool = true;
	cmd->conn->pool_held++;
	pool_buf_guard(cmd);
	return true;
}

/* ---- going on ------------------------------------------------------------------------------- */

static void cmd_run(struct cmd *cmd)
{
	if (cmd->is_via_primary)
		cmd_post(cmd);
	else
		io_cmd_submit(cmd);
}

static void cmd_have_buf(struct cmd *cmd)
{
	if (cmd->dir == CMD_H2C) {
		cmd->state = CMD_R2T_OUT;
		conn_queue_out(cmd->conn, &cmd->out, OUT_R2T);
	} else {
		cmd_run(cmd);
	}
}

static void cmd_wait_buf(struct cmd *cmd)
{
	struct core *core = cmd->conn->core;

	cmd->state = CMD_WAIT;
	if (list_empty(&core->waiters))
		timer_arm(core->reactor, &core->pressure, PRESSURE_MS * 1000000ull);
	list_add_tail(&core->waiters, &cmd->link);
	core->stats.buffer_waits++;
}

void cmd_fetch(struct cmd *cmd)
{
	if (cmd_get_buf(cmd))
		cmd_have_buf(cmd);
	else
		cmd_wait_buf(cmd);
}

void core_run_waiters(struct msg *msg)
{
	struct core *core = container_of(msg, struct core, waiters_msg);

	core->is_waiters_queued = false;
	while (!list_empty(&core->waiters) && core->large.nfree > 0) {
		struct cmd *cmd = list_first_entry(&core->waiters, struct cmd, link);

		list_del(&cmd->link);
		if (cmd_get_buf(cmd))
			cmd_have_buf(cmd);
	}
}

void cmd_data_ready(struct cmd *cmd)
{
	if (cmd->is_data_bad && cmd->fuse == 0)
		cmd_complete(cmd, NVME_SC_TRANSIENT_TRANSPORT);
	else
		cmd_run(cmd);
}

/* ---- a capsule arrived ---------------------------------------------------------------------- */

/* Does the descriptor fit what the command moves? 0 or an NVMe status. */
static uint16_t check_sgl(const struct cmd *cmd, uint32_t data_len)
{
	const struct nvme_sgl *sgl = &cmd->sqe.sgl;
	uint32_t len = le32_get(sgl->len);

	if (cmd->dir == CMD_H2C && sgl->id == NVME_SGL_DATA_OFFSET) {
		if (le64_get(sgl->addr) != 0)
			return NVME_SC_INVALID_SGL_OFFSET | NVME_STATUS_DNR;
		if (len != cmd->len || len != data_len)
			return NVME_SC_DATA_SGL_LENGTH_INVALID | NVME_STATUS_DNR;
		return 0;
	}
	if (data_len != 0)
		return NVME_SC_INVALID_FIELD | NVME_STATUS_DNR;
	if (cmd->dir == CMD_NO_DATA || cmd->dir == CMD_SCRATCH)
		return 0;
	if (sgl->id != NVME_SGL_DATA_TRANSPORT)
		return NVME_SC_SGL_TYPE_INVALID | NVME_STATUS_DNR;
	if (cmd->dir == CMD_H2C ? len != cmd->len : len < cmd->len)
		return NVME_SC_DATA_SGL_LENGTH_INVALID | NVME_STATUS_DNR;
	return 0;
}

/* Admin and fabrics commands: direction and length come from opcode and descriptor. */
static uint16_t check_via_primary(struct cmd *cmd)
{
	const struct nvme_connect_cmd *fabrics = (const void *)&cmd->sqe;
	bool is_fabrics = cmd->sqe.opcode == NVME_FABRICS;
	unsigned dir = (is_fabrics ? fabrics->fctype : cmd->sqe.opcode) & 3;
	struct conn *conn = cmd->conn;

	cmd->is_via_primary = true;
	if (cmd->tag == TAG_BOOT && !(is_fabrics && fabrics->fctype == NVME_FABRICS_CONNECT))
		return NVME_SC_COMMAND_SEQUENCE_ERROR | NVME_STATUS_DNR;
	if (!is_fabrics && (cmd->sqe.flags & NVME_CMD_FUSE_MASK))
		return NVME_SC_INVALID_FIELD | NVME_STATUS_DNR;
	cmd->len = le32_get(cmd->sqe.sgl.len);
	cmd->dir = dir == 1 ? CMD_H2C : dir == 2 ? CMD_C2H : CMD_NO_DATA;
	if (cmd->len == 0 || cmd->dir == CMD_NO_DATA) {
		cmd->dir = CMD_NO_DATA;
		cmd->len = 0;
	} else if (cmd->sqe.sgl.id != NVME_SGL_DATA_OFFSET &&
		   cmd->sqe.sgl.id != NVME_SGL_DATA_TRANSPORT && cmd->dir == CMD_C2H) {
		return NVME_SC_SGL_TYPE_INVALID | NVME_STATUS_DNR;
	}
	if (cmd->len > MAX(conn->core->target->opts.io_size_max, slot_buf_size(cmd)) ||
	    (cmd->tag == TAG_BOOT && cmd->len > BOOT_DATA))
		return NVME_SC_INVALID_FIELD | NVME_STATUS_DNR;
	return 0;
}

static void start_in_capsule(struct cmd *cmd, const uint8_t *data, struct rx_chunk *chunk)
{
	cmd->got = cmd->len;
	if (!cmd->is_via_primary && chunk->may_lend && io_cmd_may_lend(cmd)) {
		memcpy(&cmd->buf, &data, sizeof(data)); /* devices only read it */
		cmd->lent = chunk;
		cmd->lent_turn = cmd->conn->core->turn;
		chunk->refs++;
	} else {
		cmd->buf = slot_buf(cmd);
		cmd->buf_size = slot_buf_size(cmd);
		memcpy(cmd->buf, data, cmd->len);
	}
	cmd_run(cmd);
}

void cmd_start(struct cmd *cmd, const uint8_t *data, uint32_t data_len, bool is_data_good,
	       struct rx_chunk *chunk)
{
	struct conn *conn = cmd->conn;
	bool is_io = conn->qid != 0 && cmd->sqe.opcode != NVME_FABRICS && conn->sc != NULL;
	uint16_t status;
	unsigned fuse;

	cmd->cid = (uint16_t)(cmd->sqe.cid.b[0] | cmd->sqe.cid.b[1] << 8);
	cmd->dw0 = 0;
	cmd->dw1 = 0;
	cmd->got = 0;
	cmd->len = 0;
	cmd->has_digest = false;
	cmd->is_data_bad = false;
	cmd->is_via_primary = false;
	cmd->is_preempted = false;
	cmd->fuse = 0;
	cmd->dir = CMD_NO_DATA;
	conn->core->stats.commands++;
	if (conn->sqsize != 0 && ++conn->sqhd >= conn->sqsize)
		conn->sqhd = 0;
	status = is_io ? io_cmd_check(cmd) : check_via_primary(cmd);
	if (status == 0)
		status = check_sgl(cmd, data_len);
	if (status == 0 && unlikely(!is_data_good))
		status = NVME_SC_TRANSIENT_TRANSPORT;
	fuse = is_io ? cmd->sqe.flags & NVME_CMD_FUSE_MASK : 0u;
	if (unlikely((fuse | conn->fuse_state) != 0))
		status = fused_arrived(cmd, fuse, status);
	if (unlikely(status != 0)) {
		cmd->dir = CMD_NO_DATA;
		cmd_complete(cmd, status);
	} else if (cmd->dir == CMD_NO_DATA) {
		cmd_run(cmd);
	} else if (data_len != 0) {
		start_in_capsule(cmd, data, chunk);
	} else if (unlikely(cmd->fuse != 0)) {
		fused_start(cmd);
	} else {
		cmd_fetch(cmd);
	}
}

/* ---- ending --------------------------------------------------------------------------------- */

void cmd_complete(struct cmd *cmd, uint16_t status)
{
	struct conn *conn = cmd->conn;
	enum out_kind kind = OUT_RESP;

	if (unlikely(conn->state >= CONN_TERMINATED)) {
		cmd_release(cmd);
		return;
	}
	if (unlikely(conn->state == CONN_CONNECTING))
		conn->state = CONN_READY; /* refused; the host may try again */
	cmd->status = status;
	cmd->sqhd = conn->sqhd;
	cmd->state = CMD_SEND;
	if (unlikely(status != 0))
		error_note(cmd);
	if (status == 0 && cmd->dir == CMD_C2H && cmd->len > 0) {
		/*
		 * SUCCESS saves the response capsule, and with it the SQHD that a host with flow
		 * control needs: tell it now and then (Base 3.3.2.1.1 forbids nothing here, and
		 * hosts that switched flow control off do not look at all).
		 */
		if ((cmd->dw0 | cmd->dw1) == 0 && !conn->core->target->opts.no_success_flag &&
		    (!conn->is_flow_controlled || conn->silent < conn->sqsize / 4)) {
			kind = OUT_DATA;
			conn->silent++;
		} else {
			kind = OUT_DATA_RESP;
			conn->silent = 0;
		}
	} else {
		conn->silent = 0;
		cmd_put_buf(cmd);
	}
	conn_queue_out(conn, &cmd->out, kind);
}

void cmd_release(struct cmd *cmd)
{
	struct conn *conn = cmd->conn;

	cmd_put_buf(cmd);
	cmd->state = CMD_FREE;
	if (cmd->tag != TAG_BOOT)
		conn->free[conn->nfree++] = cmd->tag;
}

static void cmd_drop(struct cmd *cmd, bool is_closed)
{
	struct core *core = cmd->conn->core;

	switch ((enum cmd_state)cmd->state) {
	case CMD_WAIT:
	case CMD_HELD:
		list_del(&cmd->link);
		if (list_empty(&core->waiters))
			timer_disarm(core->reactor, &core->pressure);
		FALLTHROUGH;
	case CMD_R2T:
	case CMD_FUSED:
		cmd_release(cmd);
		break;
	case CMD_R2T_OUT:
	case CMD_SEND:
		if (is_closed)
			cmd_release(cmd);
		break;
	case CMD_FREE:
	case CMD_START:
	case CMD_DEVICE:
	case CMD_PRIMARY: /* somewhere else: it comes back by itself */
		break;
	}
}

void cmd_drop_all(struct conn *conn, bool is_closed)
{
	conn->h2c = NULL;
	conn->h2c_left = 0;
	conn->fuse_first = NULL;
	conn->fuse_state = FUSE_NONE;
	for (uint32_t i = 0; i < conn->ncmds; i++)
		cmd_drop(&conn->slots[i].cmd, is_closed);
	cmd_drop(&conn->boot, is_closed);
}

/* ---- to the primary and back ---------------------------------------------------------------- */

static void cmd_execute(struct msg *msg)
{
	struct cmd *cmd = container_of(msg, struct cmd, msg);

	cmd->status = 0;
	if (cmd->sqe.opcode == NVME_FABRICS)
		fabrics_execute(cmd);
	else if (cmd->conn->linked_qid != NVME_QID_ADMIN)
		resv_execute(cmd); /* nothing else of an I/O queue comes here */
	else
		admin_execute(cmd);
}

void cmd_post(struct cmd *cmd)
{
	cmd->state = CMD_PRIMARY;
	cmd->conn->busy++;
	cmd->msg.fn = cmd_execute;
	reactor_post(reactor_primary(), &cmd->msg);
}

static void cmd_returned(struct msg *msg)
{
	struct cmd *cmd = container_of(msg, struct cmd, msg);
	struct conn *conn = cmd->conn;

	cmd->state = CMD_SEND;
	if (cmd->tag == TAG_BOOT && conn->state == CONN_CONNECTING && cmd->status == 0 &&
	    conn_go_live(conn) < 0)
		conn_close(conn);
	cmd_complete(cmd, cmd->status);
	conn_put_busy(conn);
}

void cmd_return(struct cmd *cmd)
{
	cmd->msg.fn = cmd_returned;
	reactor_post(cmd->conn->core->reactor, &cmd->msg);
}

void cmd_finish(struct cmd *cmd, uint16_t status)
{
	cmd->status = status == 0 ? 0 : status | NVME_STATUS_DNR;
	cmd_return(cmd);
}

void cmd_reply(struct cmd *cmd, const void *data, size_t len)
{
	size_t n = MIN(len, (size_t)cmd->len);

	if (cmd->dir != CMD_C2H)
		return;
	memcpy(cmd->buf, data, n);
	memset(cmd->buf + n, 0, cmd->len - n);
}
