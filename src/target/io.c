// SPDX-License-Identifier: Apache-2.0
/*
 * I/O commands of the NVM command set, translated into struct io.
 *
 *   opcode         data   becomes                          refused when
 *   Flush          -      IO_FLUSH, or nothing to do       NSID is FFFFFFFFh (Identify says so)
 *   Write          in     IO_WRITE, FUA kept               beyond MDTS
 *   Read           out    IO_READ                          beyond MDTS
 *   Compare        in     IO_COMPARE                       beyond MDTS, device cannot
 *   Write Zeroes   -      IO_WRITE_ZEROES; without DEAC    device cannot
 *                         the space stays allocated
 *   Dataset Mgmt   in     IO_UNMAP per range, one after    the list is short
 *                         the other
 *   Verify         -      IO_READ into a spare buffer      beyond MDTS (VSL)
 *
 * Range, capability and read-only are the device layer's to check: it answers with a status, which
 * io_status_to_nvme() translates, once. A fused pair is checked here half by half and becomes one
 * IO_COMPARE_WRITE in fused.c. Reservation commands go to the primary (resv_ns.c); what a
 * reservation denies is refused here, when the command arrives and again when reservations changed
 * since.
 *
 * A large read is sent from where it lies, if the device lends it (device/loan.c), but not with a
 * data digest: what is summed must be what is sent. Its buffer stays reserved for the case that the
 * device has to be quiet before the host has taken everything. A small read is copied although that
 * costs it a sixth of its throughput (tests/bench/borrow): it is how cluster software reads the
 * block that another host changes by compare-and-write on another reactor, and must see whole.
 *
 * A namespace on hold holds what has its data and would go to a device; what is on its way in may
 * arrive. Held data never stays in the receive buffer. What may not go on is told so at once, for a
 * device may take its time: only what may is held, and is asked again when it goes on.
 *
 * Thread: the connection's reactor.
 */
#include <string.h>

#include "target/internal.h"

static inline uint32_t sqe_nlb(const struct cmd *cmd)
{
	return (le32_get(cmd->sqe.cdw12) & NVME_RW_NLB_MASK) + 1;
}

static inline uint64_t sqe_slba(const struct cmd *cmd)
{
	return le32_get(cmd->sqe.cdw10) | (uint64_t)le32_get(cmd->sqe.cdw11) << 32;
}

static void io_cmd_done(struct io *io);

/* Commands that name blocks: fill the request, and what moves. */
static uint16_t check_blocks(struct cmd *cmd, enum io_op op, enum cmd_dir dir)
{
	uint64_t len = (uint64_t)sqe_nlb(cmd) << cmd->ns->shift;

	cmd->io.op = op;
	cmd->io.lba = sqe_slba(cmd);
	cmd->io.nlb = sqe_nlb(cmd);
	if (op != IO_WRITE_ZEROES && len > cmd->conn->core->target->opts.io_size_max)
		return NVME_SC_INVALID_FIELD | NVME_STATUS_DNR;
	cmd->dir = dir;
	cmd->len = dir == CMD_NO_DATA ? 0 : (uint32_t)len;
	return 0;
}

/*
 * Hosts may send more than the ranges they name: Linux always describes a page for the largest
 * list. What is moved is what the descriptor says, within the largest list there can be.
 */
static uint16_t check_dsm(struct cmd *cmd)
{
	const uint32_t size = sizeof(struct nvme_dsm_range);

	cmd->range = 0;
	cmd->ranges = (uint16_t)((le32_get(cmd->sqe.cdw10) & 0xff) + 1);
	cmd->dir = CMD_H2C;
	cmd->len = le32_get(cmd->sqe.sgl.len);
	cmd->io.op = IO_UNMAP;
	if (cmd->len < cmd->ranges * size || cmd->len > NVME_DSM_RANGES_MAX * size)
		return NVME_SC_DATA_SGL_LENGTH_INVALID | NVME_STATUS_DNR;
	return 0;
}

uint16_t io_cmd_check(struct cmd *cmd)
{
	struct subsys_core *sc = cmd->conn->sc;
	uint32_t nsid = le32_get(cmd->sqe.nsid) - 1, cdw12 = le32_get(cmd->sqe.cdw12);

	if (unlikely((cmd->sqe.flags & NVME_CMD_PSDT_MASK) != NVME_CMD_PSDT_SGL))
		return NVME_SC_INVALID_FIELD | NVME_STATUS_DNR;
	cmd->ns = nsid < TARGET_NAMESPACES_MAX ? sc->ns[nsid] : NULL;
	if (unlikely(cmd->ns == NULL))
		return NVME_SC_INVALID_NAMESPACE | NVME_STATUS_DNR;
	cmd->ns_generation = sc->ns_generation;
	if (unlikely(cmd->conn->ana_blocked & cmd->ns->ana_bit))
		return ana_io_status(cmd);
	if (unlikely(cmd->ns->is_reserved) && resv_cmd_is_denied(cmd))
		return io_status_to_nvme(IO_RESERVED) | crd_bits(cmd, IO_RESERVED);
	cmd->io.flags = 0;
	switch (cmd->sqe.opcode) {
	case NVME_IO_READ:
		if (unlikely(cdw12 & (NVME_RW_UNWRITTEN_FAIL | NVME_RW_CURRENT_UNWRITTEN_FAIL))) {
			cmd->io.flags |= cdw12 & NVME_RW_UNWRITTEN_FAIL ? IO_UNWRITTEN_FAIL : 0;
			cmd->io.flags |= cdw12 & NVME_RW_CURRENT_UNWRITTEN_FAIL
						 ? IO_CURRENT_UNWRITTEN_FAIL
						 : 0;
		}
		return check_blocks(cmd, IO_READ, CMD_C2H);
	case NVME_IO_WRITE:
		cmd->io.flags = cmd->ns->write_flags;
		if (cdw12 & NVME_RW_FUA)
			cmd->io.flags |= IO_FUA;
		return check_blocks(cmd, IO_WRITE, CMD_H2C);
	case NVME_IO_COMPARE:
		return check_blocks(cmd, IO_COMPARE, CMD_H2C);
	case NVME_IO_WRITE_ZEROES:
		cmd->io.flags = cmd->ns->write_flags;
		if (cdw12 & NVME_RW_FUA)
			cmd->io.flags |= IO_FUA;
		if (!(cdw12 & NVME_RW_DEAC))
			cmd->io.flags |= IO_NO_DEALLOCATE;
		return check_blocks(cmd, IO_WRITE_ZEROES, CMD_NO_DATA);
	case NVME_IO_FLUSH:
		cmd->io.op = IO_FLUSH;
		cmd->io.lba = 0;
		cmd->io.nlb = 0;
		return 0;
	case NVME_IO_DSM:
		return check_dsm(cmd);
	case NVME_IO_VERIFY:
		return check_blocks(cmd, IO_READ, CMD_SCRATCH);
	case NVME_IO_RESV_REGISTER:
	case NVME_IO_RESV_REPORT:
	case NVME_IO_RESV_ACQUIRE:
	case NVME_IO_RESV_RELEASE:
		return resv_cmd_check(cmd);
	default:
		return NVME_SC_INVALID_OPCODE | NVME_STATUS_DNR;
	}
}

bool io_cmd_may_lend(const struct cmd *cmd)
{
	struct ns_core *ns = cmd->ns;

	if (ns->never_lend || cmd->sqe.opcode == NVME_IO_DSM || cmd->fuse != 0)
		return false;
	if (likely(ns->copy_left == 0))
		return true;
	ns->copy_left--;
	return false;
}

/* ---- ending --------------------------------------------------------------------------------- */

uint16_t io_cmd_status(const struct cmd *cmd, uint16_t status)
{
	uint16_t code;

	if (likely(status == IO_OK))
		return 0;
	code = io_status_to_nvme(status);
	if (io_status_is_final(status))
		return code | NVME_STATUS_DNR;
	return code | crd_bits(cmd, status);
}

/* The next range that is not empty goes to the device; true: none is left, or one failed. */
static bool dsm_step(struct cmd *cmd, uint16_t *ret_status)
{
	const struct nvme_dsm_range *range = (const void *)cmd->buf;

	while (cmd->range < cmd->ranges) {
		const struct nvme_dsm_range *r = &range[cmd->range++];

		if (le32_get(r->nlb) == 0)
			continue;
		cmd->io.op = IO_UNMAP;
		cmd->io.flags = 0;
		cmd->io.lba = le64_get(r->slba);
		cmd->io.nlb = le32_get(r->nlb);
		cmd->io.iovcnt = 0;
		if (io_start(cmd->ns->handle, &cmd->io) == IO_PENDING)
			return false;
		if (cmd->io.status != IO_OK) {
			*ret_status = cmd->io.status;
			return true;
		}
	}
	*ret_status = IO_OK;
	return true;
}

static void io_cmd_finish(struct cmd *cmd, uint16_t status)
{
	if (cmd->lent != NULL && cmd->conn->core->turn - cmd->lent_turn > LENT_TURNS_MAX)
		cmd->ns->copy_left = LENT_RETRY;
	cmd_complete(cmd, io_cmd_status(cmd, status));
}

/* The command was pending and is not any more. */
void io_cmd_left(struct conn *conn, struct ns_core *ns)
{
	if (--ns->inflight == 0 && unlikely(ns->is_idle_awaited))
		ns_core_idle(conn->sc, ns);
	conn_put_busy(conn);
}

static void io_cmd_leave(struct cmd *cmd, uint16_t status)
{
	struct conn *conn = cmd->conn;
	struct ns_core *ns = cmd->ns;

	cmd->state = CMD_SEND;
	if (io_is_lent(&cmd->io)) {
		if (unlikely(ns->hold != HOLD_NO))
			io_unlend(&cmd->io); /* the device may be taken out next */
		else
			conn->core->stats.reads_lent++;
	}
	io_cmd_finish(cmd, status);
	io_cmd_left(conn, ns);
}

static void io_cmd_done(struct io *io)
{
	struct cmd *cmd = container_of(io, struct cmd, io);
	uint16_t status = io->status;

	if (unlikely(cmd->sqe.opcode == NVME_IO_DSM) && status == IO_OK && !dsm_step(cmd, &status))
		return;
	io_cmd_leave(cmd, status);
}

/* ---- starting ------------------------------------------------------------------------------- */

void io_cmd_pending(struct cmd *cmd)
{
	cmd->state = CMD_DEVICE;
	cmd->conn->busy++;
	cmd->ns->inflight++;
}

static void dsm_submit(struct cmd *cmd)
{
	uint16_t status;

	if (!(le32_get(cmd->sqe.cdw11) & NVME_DSM_DEALLOCATE)) {
		cmd_complete(cmd, 0); /* the other attributes are hints */
		return;
	}
	if (!dsm_step(cmd, &status))
		io_cmd_pending(cmd);
	else
		io_cmd_finish(cmd, status);
}

void io_cmd_hold(struct cmd *cmd)
{
	cmd_take_data(cmd);
	cmd->state = CMD_HELD;
	list_add_tail(&cmd->conn->sc->held, &cmd->link);
}

/*
 * The namespaces changed since the command was checked, or who may use them, or the path to them
 * closed. What stands under its number now, if it was not there then, is another device: what was
 * meant for the old one must not reach it.
 */
uint16_t io_cmd_recheck(struct cmd *cmd)
{
	uint32_t generation = cmd->ns_generation;
	uint16_t status;

	if (likely(generation == cmd->conn->sc->ns_generation))
		return 0;
	status = io_cmd_check(cmd);
	if (cmd->ns == NULL || (int32_t)(generation - cmd->ns->generation) < 0 ||
	    (status & NVME_STATUS_DNR))
		return NVME_SC_INVALID_NAMESPACE | NVME_STATUS_DNR;
	return cmd->is_preempted ? NVME_SC_PREEMPTED_AND_ABORTED | NVME_STATUS_DNR : status;
}

void io_cmd_submit(struct cmd *cmd)
{
	struct io *io = &cmd->io;
	uint16_t status;

	if (unlikely(cmd->fuse != 0)) {
		fused_ready(cmd);
		return;
	}
	status = io_cmd_recheck(cmd);
	if (unlikely(status != 0)) {
		cmd->len = 0;
		cmd_complete(cmd, status);
		return;
	}
	if (unlikely(cmd->ns->hold != HOLD_NO)) {
		io_cmd_hold(cmd);
		return;
	}
	io->done = io_cmd_done;
	if (cmd->sqe.opcode == NVME_IO_DSM) {
		dsm_submit(cmd);
		return;
	}
	if (io->op == IO_FLUSH && !(cmd->ns->handle->ops & IO_BIT(IO_FLUSH))) {
		cmd_complete(cmd, 0); /* nothing is cached */
		return;
	}
	io_set_buf(io, cmd->buf, cmd->len);
	if (cmd->dir == CMD_NO_DATA)
		io->iovcnt = 0;
	else if (cmd->dir == CMD_C2H && cmd->len >= cmd->conn->borrow_min)
		io_offer(io, &cmd->loan);
	if (io_start(cmd->ns->handle, io) == IO_PENDING)
		io_cmd_pending(cmd);
	else
		io_cmd_finish(cmd, io->status);
}
