// SPDX-License-Identifier: Apache-2.0
/*
 * The error information log (page 01h): which commands of a controller failed, newest first.
 *
 *   reactor: cmd_complete(status) --> notes of the connection --message--> primary: ring of ctrlr
 *
 * Commands end on the reactors of their queues, the log is the primary's. Each connection has a few
 * notes between the two, written by the one and read by the other, and one message that says there
 * are some. A burst that outruns the primary loses entries, never counts: what found no room is
 * added to the error count, so a host sees the gap.
 *
 * Not noted: commands that were taken back, and comparisons that found a difference, with the
 * second halves that fail with them. Those did what they are for, many times a second in a cluster
 * that locks by compare-and-write, and would push out what somebody looks for.
 *
 * Invariants
 *   1. in - out <= ERROR_NOTES. in is moved by the reactor, out by the primary.
 *   2. The message is under way at most once (is_posted), and always comes to the primary before
 *      the connection does to be unlinked, because messages of one sender keep their order.
 *
 * Thread: error_note() the connection's reactor, the rest the primary.
 */
#include <stdlib.h>

#include "target/internal.h"

/* Where the faulty field is. We do not say (Base 5.16.1.2). */
enum { LOCATION_UNKNOWN = 0xffff };

static bool is_worth_noting(uint16_t status)
{
	switch (status & 0x7ff) {
	case NVME_SC_ABORT_REQUESTED:
	case NVME_SC_ABORTED_SQ_DELETION:
	case NVME_SC_FAILED_FUSED:
	case NVME_SC_COMPARE_FAILED:
		return false;
	default:
		return true;
	}
}

static bool names_blocks(uint8_t opcode)
{
	return opcode == NVME_IO_READ || opcode == NVME_IO_WRITE || opcode == NVME_IO_COMPARE ||
	       opcode == NVME_IO_WRITE_ZEROES || opcode == NVME_IO_VERIFY;
}

static void ring_add(struct ctrlr *ctrlr, const struct error_note *note, uint16_t qid)
{
	struct nvme_error_entry *e = &ctrlr->errors[ctrlr->error_entries++ % ERROR_LOG_MAX];

	ctrlr->error_count++;
	*e = (struct nvme_error_entry){
		.count = le64_of(ctrlr->error_count),
		.sqid = le16_of(qid),
		.cid = le16_of(note->cid),
		.status = le16_of(
			(uint16_t)((note->status & 0x7ff) << 1 | (note->status & NVME_STATUS_DNR))),
		.location = le16_of(LOCATION_UNKNOWN),
		.lba = le64_of(note->lba),
		.nsid = le32_of(note->nsid),
		.trtype = NVME_TRTYPE_TCP,
	};
}

static void errors_arrived(struct msg *msg)
{
	struct error_notes *notes = container_of(msg, struct error_notes, msg);
	struct conn *conn = container_of(notes, struct conn, errors);
	uint32_t out = atomic_load_explicit(&notes->out, memory_order_relaxed);
	uint32_t in;

	atomic_store(&notes->is_posted, false);
	in = atomic_load(&notes->in);
	for (; out != in; out++) {
		if (conn->ctrlr != NULL)
			ring_add(conn->ctrlr, &notes->note[out % ERROR_NOTES], conn->linked_qid);
	}
	atomic_store_explicit(&notes->out, out, memory_order_release);
	if (conn->ctrlr != NULL)
		conn->ctrlr->error_count += atomic_exchange(&notes->lost, 0);
}

void error_note(const struct cmd *cmd)
{
	struct error_notes *notes = &cmd->conn->errors;
	uint32_t in = atomic_load_explicit(&notes->in, memory_order_relaxed);
	uint32_t out = atomic_load_explicit(&notes->out, memory_order_acquire);
	bool has_lba = cmd->conn->qid != 0 && names_blocks(cmd->sqe.opcode);

	if (cmd->conn->state != CONN_LIVE || !is_worth_noting(cmd->status))
		return;
	if (in - out == ERROR_NOTES) {
		atomic_fetch_add(&notes->lost, 1);
	} else {
		notes->note[in % ERROR_NOTES] = (struct error_note){
			.lba = has_lba ? le32_get(cmd->sqe.cdw10) |
						 (uint64_t)le32_get(cmd->sqe.cdw11) << 32
				       : 0,
			.nsid = cmd->sqe.opcode == NVME_FABRICS ? 0 : le32_get(cmd->sqe.nsid),
			.status = cmd->status,
			.cid = cmd->cid,
		};
		atomic_store(&notes->in, in + 1);
	}
	if (atomic_exchange(&notes->is_posted, true))
		return;
	notes->msg.fn = errors_arrived;
	reactor_post(reactor_primary(), &notes->msg);
}

void *error_log_page(const struct ctrlr *ctrlr, size_t *ret_size)
{
	struct nvme_error_entry *log = calloc(ERROR_LOG_MAX, sizeof(*log));
	uint64_t n = ctrlr->error_entries;

	*ret_size = ERROR_LOG_MAX * sizeof(*log);
	for (uint64_t i = 0; log != NULL && i < MIN(n, (uint64_t)ERROR_LOG_MAX); i++)
		log[i] = ctrlr->errors[(n - 1 - i) % ERROR_LOG_MAX];
	return log;
}
