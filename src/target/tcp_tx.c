// SPDX-License-Identifier: Apache-2.0
/*
 * Sending: everything a connection has to say goes out in one gathered sendmsg at the end of the
 * turn.
 *
 * The queue of a connection holds what is to be sent, not bytes: a slot with a response, with data,
 * with an R2T. Headers are written when the list is gathered (drivers/nvme/tcp_gather.h).
 *
 * What the kernel did not take is gathered again next time from the same slots, which give the same
 * bytes (sqhd and digest are kept in the slot; of what a device lends, as many); out_skip says how
 * many bytes of the first one are gone already. A slot and its buffer are free when its last byte
 * is in the kernel.
 *
 *   queued --flush--> gathered --sendmsg--> all taken:  next
 *                        ^                  part taken: blocked --STREAM_OUT--+
 *                        +----------------------------------------------------+
 *
 * Invariants
 *   1. Order: what was queued first is sent first; ICResp is the first of all, C2HTermReq the last.
 *   2. A blocked connection is not in core->outs; ready(STREAM_OUT) puts it back.
 *
 * Thread: the connection's reactor, flush phase; queueing anywhere on it.
 *
 * Rejected: headers preformatted per slot (they are 24 bytes; one element more per response costs
 * the kernel more than writing them anew); a send per response; MSG_ZEROCOPY (see tcp.c).
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "drivers/nvme/tcp_gather.h"
#include "target/internal.h"

enum {
	IOV_PER_OUT = 3 + IO_LEND_MAX, /* header, data, digest or response, one in reserve */
	STAGING_PER_OUT = 320, /* padded header, digest, response, digest; TermReq: 152 bytes */
};

/* Append the header digest if there is one; returns the length of header and digest. */
static size_t seal(const struct conn *conn, uint8_t *hdr, size_t hlen)
{
	struct le32 digest;

	if (!conn->rules.hdgst)
		return hlen;
	digest = le32_of(crc32c(0, hdr, hlen));
	memcpy(hdr + hlen, &digest, sizeof(digest));
	return hlen + sizeof(digest);
}

static uint8_t hdgst_flag(const struct conn *conn)
{
	return conn->rules.hdgst ? NVME_TCP_HDGST : 0;
}

static uint32_t hdgst_size(const struct conn *conn)
{
	return conn->rules.hdgst ? NVME_TCP_DIGEST_SIZE : 0;
}

/* ---- one of each kind; returns bytes on the wire -------------------------------------------- */

static uint32_t format_resp(struct gather *g, const struct conn *conn, const struct cmd *cmd)
{
	struct nvme_tcp_capsule_resp *resp = (void *)g->at;
	uint32_t len = (uint32_t)sizeof(*resp) + hdgst_size(conn);

	resp->hdr.type = NVME_TCP_CAPSULE_RESP;
	resp->hdr.flags = hdgst_flag(conn);
	resp->hdr.hlen = sizeof(*resp);
	resp->hdr.pdo = 0;
	le32_put(&resp->hdr.plen, len);
	le32_put(&resp->cqe.dw0, cmd->dw0);
	le32_put(&resp->cqe.dw1, cmd->dw1);
	le16_put(&resp->cqe.sqhd, cmd->sqhd);
	le16_put(&resp->cqe.sqid, 0);
	le16_put(&resp->cqe.cid, cmd->cid);
	/* Code in bits 8:1, type in 11:9, CRD in 13:12, DNR in 15 (Base 3.3.3.2.1); ours is the
	 * same shifted. */
	le16_put(&resp->cqe.status,
		 (uint16_t)((cmd->status & 0x1fff) << 1 | (cmd->status & NVME_STATUS_DNR)));
	(void)seal(conn, g->at, sizeof(*resp));
	gather_staged(g, len);
	return len;
}

/* From the buffer, or from where a device lent it: which it is may have changed since last time. */
static void gather_data(struct gather *g, const struct cmd *cmd)
{
	if (likely(!io_is_lent(&cmd->io))) {
		gather_add(g, cmd->buf, cmd->len);
		return;
	}
	for (unsigned i = 0; i < cmd->loan.count; i++)
		gather_add(g, cmd->loan.piece[i].iov_base, cmd->loan.piece[i].iov_len);
}

static uint32_t format_data(struct gather *g, const struct conn *conn, struct cmd *cmd,
			    bool is_success)
{
	struct nvme_tcp_data *hdr = (void *)g->at;
	uint32_t header = (uint32_t)sizeof(*hdr) + hdgst_size(conn);
	uint32_t pdo = (header + conn->data_align) & ~(uint32_t)conn->data_align;
	uint32_t ddgst = conn->rules.ddgst ? NVME_TCP_DIGEST_SIZE : 0;
	uint32_t len = pdo + cmd->len + ddgst;

	hdr->hdr.type = NVME_TCP_C2H_DATA;
	hdr->hdr.flags = (uint8_t)(hdgst_flag(conn) | (ddgst ? NVME_TCP_DDGST : 0) | NVME_TCP_LAST |
				   (is_success ? NVME_TCP_SUCCESS : 0));
	hdr->hdr.hlen = sizeof(*hdr);
	hdr->hdr.pdo = (uint8_t)pdo;
	le32_put(&hdr->hdr.plen, len);
	le16_put(&hdr->cid, cmd->cid);
	le16_put(&hdr->ttag, 0);
	le32_put(&hdr->off, 0);
	le32_put(&hdr->len, cmd->len);
	memset(hdr->rsvd20, 0, sizeof(hdr->rsvd20));
	(void)seal(conn, g->at, sizeof(*hdr));
	if (unlikely(pdo > header))
		memset(g->at + header, 0, pdo - header);
	gather_staged(g, pdo);
	gather_data(g, cmd);
	if (ddgst != 0) {
		struct le32 digest;

		if (!cmd->has_digest) {
			cmd->ddgst = crc32c(0, cmd->buf, cmd->len);
			cmd->has_digest = true;
		}
		digest = le32_of(cmd->ddgst);
		memcpy(g->at, &digest, sizeof(digest));
		gather_staged(g, sizeof(digest));
	}
	return len;
}

static uint32_t format_r2t(struct gather *g, const struct conn *conn, const struct cmd *cmd)
{
	struct nvme_tcp_r2t *r2t = (void *)g->at;
	uint32_t len = (uint32_t)sizeof(*r2t) + hdgst_size(conn);

	*r2t = (struct nvme_tcp_r2t){
		.hdr = { .type = NVME_TCP_R2T,
			 .flags = hdgst_flag(conn),
			 .hlen = sizeof(*r2t),
			 .plen = le32_of(len) },
		.cid = le16_of(cmd->cid),
		.ttag = le16_of(cmd->tag),
		.off = le32_of(0),
		.len = le32_of(cmd->len),
	};
	(void)seal(conn, g->at, sizeof(*r2t));
	gather_staged(g, len);
	return len;
}

static uint32_t format_term(struct gather *g, const struct conn *conn)
{
	memcpy(g->at, &conn->term, sizeof(conn->term));
	memcpy(g->at + sizeof(conn->term), conn->term_data, conn->term_data_len);
	gather_staged(g, sizeof(conn->term) + conn->term_data_len);
	return (uint32_t)sizeof(conn->term) + conn->term_data_len;
}

static void format(struct gather *g, struct conn *conn, struct out *out)
{
	switch ((enum out_kind)out->kind) {
	case OUT_RESP:
		out->size = format_resp(g, conn, out_cmd(out));
		break;
	case OUT_DATA:
		out->size = format_data(g, conn, out_cmd(out), true);
		break;
	case OUT_DATA_RESP:
		out->size = format_data(g, conn, out_cmd(out), false);
		out->size += format_resp(g, conn, out_cmd(out));
		break;
	case OUT_R2T:
		out->size = format_r2t(g, conn, out_cmd(out));
		break;
	case OUT_IC:
		gather_add(g, &conn->ic, sizeof(conn->ic));
		out->size = sizeof(conn->ic);
		break;
	case OUT_TERM:
		out->size = format_term(g, conn);
		break;
	}
}

/* ---- the queue ------------------------------------------------------------------------------ */

void conn_out_reset(struct conn *conn)
{
	conn->out_head = NULL;
	conn->out_tail = &conn->out_head;
	conn->out_skip = 0;
	list_del(&conn->out_link);
}

static void conn_want_flush(struct conn *conn)
{
	struct core *core = conn->core;

	if (list_empty(&conn->out_link))
		list_add_tail(&core->outs, &conn->out_link);
	if (!core->is_flush_queued) {
		core->is_flush_queued = true;
		reactor_at_flush(core->reactor, &core->flush);
	}
}

void conn_queue_out(struct conn *conn, struct out *out, enum out_kind kind)
{
	out->next = NULL;
	out->kind = (uint8_t)kind;
	out->size = 0;
	*conn->out_tail = out;
	conn->out_tail = &out->next;
	if (!conn->is_send_blocked)
		conn_want_flush(conn);
}

static void out_sent(struct conn *conn, struct out *out)
{
	switch ((enum out_kind)out->kind) {
	case OUT_RESP:
	case OUT_DATA:
	case OUT_DATA_RESP:
		cmd_release(out_cmd(out));
		break;
	case OUT_TERM:
		conn_term_sent(conn);
		break;
	case OUT_R2T:
		/* Not before: a host may not answer what it has not got. */
		out_cmd(out)->state = CMD_R2T;
		out_cmd(out)->r2t_ns = conn->core->reactor->now_ns;
		break;
	case OUT_IC:
		break;
	}
}

/* @n more bytes are in the kernel: who is done? */
static void conn_advance(struct conn *conn, size_t n)
{
	n += conn->out_skip;
	while (conn->out_head != NULL && n > 0 && n >= conn->out_head->size) {
		struct out *out = conn->out_head;

		n -= out->size;
		conn->out_head = out->next;
		if (conn->out_head == NULL)
			conn->out_tail = &conn->out_head;
		out_sent(conn, out);
	}
	conn->out_skip = (uint32_t)n;
}

/* Fill the list from the head of the queue; returns how many bytes it describes. */
static size_t conn_gather(struct conn *conn, struct gather *g, struct iovec **ret_iov)
{
	size_t total = 0;

	for (struct out *out = conn->out_head; out != NULL; out = out->next) {
		if (g->count + IOV_PER_OUT > TX_IOV_MAX || g->end - g->at < STAGING_PER_OUT)
			break;
		format(g, conn, out);
		total += out->size;
	}
	*ret_iov = gather_skip(g, conn->out_skip);
	return total - conn->out_skip;
}

/*
 * The rest of what is half sent comes from a copy that is made now: a write that follows in a later
 * turn of this reactor would else be seen in one half of a block and not in the other.
 */
static void conn_keep_head(struct conn *conn)
{
	struct out *out = conn->out_head;

	if (conn->out_skip > 0 && (out->kind == OUT_DATA || out->kind == OUT_DATA_RESP))
		io_unlend(&out_cmd(out)->io);
}

static void conn_flush(struct conn *conn)
{
	struct core *core = conn->core;

	while (conn->out_head != NULL) {
		struct gather g = { .iov = core->iov,
				    .at = core->staging,
				    .end = core->staging + TX_STAGING };
		struct iovec *iov;
		size_t total = conn_gather(conn, &g, &iov);
		ssize_t n = stream_send(conn->stream, iov, g.count);

		if (n < 0 && n != -EAGAIN) {
			conn_broke(conn, (int)n);
			conn_close(conn);
			return;
		}
		if (n > 0) {
			conn->last_tx_ns = core->reactor->now_ns;
			conn_advance(conn, (size_t)n);
		}
		if (n != (ssize_t)total) {
			conn_keep_head(conn);
			conn->is_send_blocked = true;
			stream_arm(conn->stream, STREAM_OUT);
			return;
		}
	}
	if (unlikely(conn->state == CONN_DRAINING))
		conn_check_drained(conn);
}

void core_flush(struct msg *msg)
{
	struct core *core = container_of(msg, struct core, flush);

	core->is_flush_queued = false;
	while (!list_empty(&core->outs)) {
		struct conn *conn = list_first_entry(&core->outs, struct conn, out_link);

		list_del(&conn->out_link);
		conn_flush(conn);
	}
}
