// SPDX-License-Identifier: Apache-2.0
/*
 * Fused compare-and-write: two commands, Compare and Write, that become one IO_COMPARE_WRITE.
 *
 *   capsule FIRST --good--> waits --capsule SECOND, same blocks--> pair --both have data--> device
 *                |            | any other capsule                   | the SECOND is bad
 *                | bad        v                                     v
 *                |          FIRST: 0Ah missing                    FIRST: 09h, SECOND: its fault
 *                +---> FIRST: its fault; a SECOND that comes next: 09h failed
 *
 *   device:  done            both 0          differs   Compare Failure, 09h
 *            write fails     09h, its fault  else      its fault, 09h
 *
 * The two must be neighbours in the submission queue (Base 3.4.2), so all that is kept of a half
 * pair is one state per connection, judged when the next capsule comes. A host that sends a first
 * half and nothing more holds one slot of its own queue, with its data if that came along: no
 * buffer of the pool, as halves are limited to the memory of their slots (NACWU says so), and the
 * host is asked for no data before its second half is there. So no time limit is needed.
 *
 * Both halves have their data in their slots. The first carries the request; the vector of two lies
 * in its loan, which only reads use. A namespace on hold holds the first; the second rests in
 * CMD_FUSED. With a device both are CMD_DEVICE and busy, as the request reads from both slots.
 *
 * Invariants
 *   1. conn->fuse_first is set exactly while fuse_state is FUSE_WAITING, and is CMD_FUSED.
 *   2. cmd->fuse is set from a good capsule to the end of the command; mate means something only
 *      then, and is set from the pairing on.
 *
 * Thread: the connection's reactor.
 *
 * Rejected: sending R2T for a first half at once (when the pair fails the host's data would still
 * be on its way to a command that has ended); larger pairs by pool buffers (two for one command can
 * wait for each other for ever).
 */
#include "target/internal.h"

static bool same_blocks(const struct nvme_cmd *a, const struct nvme_cmd *b)
{
	return le32_get(a->nsid) == le32_get(b->nsid) && le32_get(a->cdw10) == le32_get(b->cdw10) &&
	       le32_get(a->cdw11) == le32_get(b->cdw11) &&
	       (le32_get(a->cdw12) & NVME_RW_NLB_MASK) == (le32_get(b->cdw12) & NVME_RW_NLB_MASK);
}

/* ---- ending --------------------------------------------------------------------------------- */

static void half_end(struct cmd *cmd, uint16_t status)
{
	cmd->fuse = 0;
	cmd->mate = NULL;
	cmd_complete(cmd, status);
}

static void pair_end(struct cmd *first, uint16_t first_status, uint16_t second_status)
{
	struct cmd *second = first->mate;

	half_end(first, first_status);
	half_end(second, second_status);
}

/* What the device says is about one of the two. */
static void pair_finish(struct cmd *first, uint16_t status)
{
	uint16_t code = io_cmd_status(first, status);

	switch (status) {
	case IO_OK:
		pair_end(first, 0, 0);
		break;
	case IO_WRITE_ERROR:
	case IO_NO_SPACE:
	case IO_READ_ONLY:
		pair_end(first, NVME_SC_FAILED_FUSED, code);
		break;
	default:
		pair_end(first, code, NVME_SC_FAILED_FUSED);
		break;
	}
}

static void pair_done(struct io *io)
{
	struct cmd *first = container_of(io, struct cmd, io);
	struct conn *conn = first->conn;
	struct ns_core *ns = first->ns;

	first->state = first->mate->state = CMD_SEND;
	pair_finish(first, io->status);
	conn->busy--;
	io_cmd_left(conn, ns);
}

/* ---- running -------------------------------------------------------------------------------- */

static void pair_submit(struct cmd *first)
{
	struct cmd *second = first->mate;
	struct io *io = &first->io;

	io->op = IO_COMPARE_WRITE;
	io->flags = second->io.flags; /* what a write to this namespace carries */
	io->iov = first->loan.piece;
	io->iovcnt = 2;
	first->loan.piece[0] = (struct iovec){ first->buf, first->len };
	first->loan.piece[1] = (struct iovec){ second->buf, second->len };
	io->done = pair_done;
	if (io_start(first->ns->handle, io) == IO_DONE) {
		pair_finish(first, io->status);
		return;
	}
	io_cmd_pending(first);
	second->state = CMD_DEVICE;
	second->conn->busy++;
}

static void pair_run(struct cmd *first)
{
	const uint16_t failed = NVME_SC_FAILED_FUSED, bad = NVME_SC_TRANSIENT_TRANSPORT;
	struct cmd *second = first->mate;
	uint16_t first_status, second_status;

	if (first->is_data_bad || second->is_data_bad) {
		pair_end(first, first->is_data_bad ? bad : failed,
			 second->is_data_bad ? bad : failed);
		return;
	}
	first_status = io_cmd_recheck(first);
	second_status = io_cmd_recheck(second);
	if (first_status != 0)
		pair_end(first, first_status, failed);
	else if (second_status != 0)
		pair_end(first, failed, second_status);
	else if (first->ns->hold != HOLD_NO)
		io_cmd_hold(first);
	else
		pair_submit(first);
}

static bool half_is_ready(const struct cmd *cmd)
{
	return cmd->state == CMD_FUSED && cmd->got == cmd->len;
}

void fused_ready(struct cmd *cmd)
{
	cmd->state = CMD_FUSED;
	if (cmd->mate != NULL && half_is_ready(cmd->mate))
		pair_run(cmd->fuse == NVME_CMD_FUSE_FIRST ? cmd : cmd->mate);
}

/* ---- capsules ------------------------------------------------------------------------------- */

static uint16_t first_arrived(struct cmd *cmd, uint16_t status)
{
	struct conn *conn = cmd->conn;

	if (status == 0 && cmd->sqe.opcode != NVME_IO_COMPARE)
		status = NVME_SC_INVALID_FIELD | NVME_STATUS_DNR;
	if (status == 0 && cmd->len > conn->buf_size)
		status = NVME_SC_ATOMIC_WRITE_UNIT_EXCEEDED | NVME_STATUS_DNR;
	if (status != 0) {
		conn->fuse_state = FUSE_FAILED;
		return status;
	}
	conn->fuse_state = FUSE_WAITING;
	conn->fuse_first = cmd;
	cmd->fuse = NVME_CMD_FUSE_FIRST;
	cmd->mate = NULL;
	return 0;
}

static uint16_t second_arrived(struct cmd *cmd, struct cmd *first, uint16_t status)
{
	uint16_t first_status = NVME_SC_FAILED_FUSED;

	if (status == 0 && cmd->sqe.opcode != NVME_IO_WRITE) {
		status = NVME_SC_INVALID_FIELD | NVME_STATUS_DNR;
	} else if (status == 0 && !same_blocks(&cmd->sqe, &first->sqe)) {
		/* NVM, fused operation Compare and Write: a fault of both */
		status = NVME_SC_INVALID_FIELD | NVME_STATUS_DNR;
		first_status = status;
	}
	if (status != 0) {
		half_end(first, first_status);
		return status;
	}
	cmd->fuse = NVME_CMD_FUSE_SECOND;
	cmd->mate = first;
	first->mate = cmd;
	if (first->got < first->len)
		cmd_fetch(first);
	return 0;
}

uint16_t fused_arrived(struct cmd *cmd, unsigned fuse, uint16_t status)
{
	struct conn *conn = cmd->conn;
	struct cmd *first = take(conn->fuse_first);
	enum fuse_state was = conn->fuse_state;

	conn->fuse_state = FUSE_NONE;
	if (fuse == NVME_CMD_FUSE_SECOND) {
		if (was == FUSE_WAITING)
			return second_arrived(cmd, first, status);
		return was == FUSE_FAILED ? NVME_SC_FAILED_FUSED : NVME_SC_MISSING_FUSED;
	}
	if (was == FUSE_WAITING)
		half_end(first, NVME_SC_MISSING_FUSED);
	if (fuse == NVME_CMD_FUSE_FIRST)
		return first_arrived(cmd, status);
	return fuse == 0 ? status : NVME_SC_INVALID_FIELD | NVME_STATUS_DNR;
}

void fused_start(struct cmd *cmd)
{
	cmd->state = CMD_FUSED;
	if (cmd->mate != NULL)
		cmd_fetch(cmd);
}

void fused_forget(struct conn *conn)
{
	struct cmd *first = take(conn->fuse_first);

	conn->fuse_state = FUSE_NONE;
	if (first != NULL)
		cmd_release(first);
}

bool fused_abort(struct cmd *cmd)
{
	struct conn *conn = cmd->conn;
	struct cmd *mate = cmd->mate;

	if (conn->fuse_first == cmd) {
		conn->fuse_first = NULL;
		conn->fuse_state = FUSE_FAILED;
		half_end(cmd, NVME_SC_ABORT_REQUESTED);
		return true;
	}
	if (cmd->state != CMD_HELD && (mate == NULL || mate->state != CMD_HELD))
		return false;
	list_del(&cmd->link);
	list_del(&mate->link);
	half_end(cmd, NVME_SC_ABORT_REQUESTED);
	half_end(mate, NVME_SC_FAILED_FUSED);
	return true;
}
