/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host.c - the host's half of NVMe/TCP, as a strict reader of it.
 *
 *   connect: stream -> ICReq/ICResp -> Connect -> (admin: CC.EN, wait for CSTS.RDY)
 *   command: capsule, data inside or by R2T -> H2CData; C2HData -> response or SUCCESS
 *
 * Everything the target sends is checked against the rules: lengths, offsets in order, command ids
 * that are in use, one end per command. A rule that is broken makes -EPROTO, which the scenario
 * takes for a violation; any other error is the network's doing.
 *
 * Sequential code in a task: the network may cut, delay and drop at any byte, so all state is in
 * two byte buffers (to send, received) and a table of commands, and any call may find the queue
 * broken.
 */
#include "host.h"

#include <errno.h>
#include <string.h>

#include "world.h"

enum {
	PDU_MAX = 256 << 10,
	RX_STEP = 16 << 10,
};

/* ---- bytes ---------------------------------------------------------------------------------- */

static void bytes_reserve(struct host_bytes *b, size_t more)
{
	if (b->at > 0) {
		memmove(b->data, b->data + b->at, b->len - b->at);
		b->len -= b->at;
		b->at = 0;
	}
	if (b->len + more > b->room) {
		b->room = (b->len + more) * 2;
		b->data = sim_grow(b->data, b->room, 1);
	}
}

static void bytes_add(struct host_bytes *b, const void *data, size_t len)
{
	bytes_reserve(b, len);
	memcpy(b->data + b->len, data, len);
	b->len += len;
}

/* ---- waiting -------------------------------------------------------------------------------- */

static void host_wake(struct host_queue *q)
{
	struct task_event *waiter = q->waiter;

	q->waiter = NULL;
	if (waiter != NULL)
		task_event_fire(waiter);
}

static void host_ready(struct stream *stream, unsigned want)
{
	(void)want;
	host_wake(stream->owner);
}

static void host_timeout(struct timer *timer)
{
	host_wake(container_of(timer, struct host_queue, timer));
}

static void host_wait(struct host_queue *q, uint64_t timeout_ns)
{
	struct task_event event = {};

	q->waiter = &event;
	q->timer.fn = host_timeout;
	timer_arm(reactor_self(), &q->timer, timeout_ns);
	stream_arm(q->stream, q->tx.at < q->tx.len ? STREAM_IN | STREAM_OUT : STREAM_IN);
	task_event_wait(&event);
	timer_disarm(reactor_self(), &q->timer);
}

static void host_break(struct host_queue *q, int error, const char *rule)
{
	if (q->error == 0) {
		q->error = error;
		q->broken_rule = rule;
	}
}

/* ---- what the target sends ------------------------------------------------------------------ */

static struct host_cmd *host_find(struct host_queue *q, struct le16 cid)
{
	struct host_cmd *cmd = le16_get(cid) < HOST_DEPTH_MAX ? q->cmd[le16_get(cid)] : NULL;

	if (cmd == NULL)
		host_break(q, -EPROTO, "a command id that is not in use");
	return cmd;
}

static void host_finish(struct host_queue *q, struct le16 cid, uint16_t status, uint32_t result)
{
	struct host_cmd *cmd = q->cmd[le16_get(cid)];

	q->cmd[le16_get(cid)] = NULL;
	cmd->is_busy = false;
	cmd->is_done = true;
	cmd->status = status;
	cmd->result = result;
	if (status == 0 && !cmd->to_controller && cmd->moved != cmd->len)
		host_break(q, -EPROTO, "success without all data");
}

static void host_take_data(struct host_queue *q, const uint8_t *pdu, uint32_t plen)
{
	const struct nvme_tcp_data *data = (const void *)pdu;
	struct host_cmd *cmd = host_find(q, data->cid);
	uint32_t len = le32_get(data->len);

	if (cmd == NULL)
		return;
	if (cmd->to_controller || le32_get(data->off) != cmd->moved ||
	    len > cmd->len - cmd->moved || data->hdr.pdo + len != plen) {
		host_break(q, -EPROTO, "C2HData out of order or beyond the command's data");
		return;
	}
	memcpy(cmd->data + cmd->moved, pdu + data->hdr.pdo, len);
	cmd->moved += len;
	if ((data->hdr.flags & NVME_TCP_LAST) == 0 && cmd->moved == cmd->len)
		host_break(q, -EPROTO, "the last C2HData does not say so");
	else if (data->hdr.flags & NVME_TCP_SUCCESS)
		host_finish(q, data->cid, 0, 0);
}

static void host_take_r2t(struct host_queue *q, const struct nvme_tcp_r2t *r2t)
{
	struct host_cmd *cmd = host_find(q, r2t->cid);
	uint32_t off = le32_get(r2t->off), left = le32_get(r2t->len);

	if (cmd == NULL)
		return;
	if (!cmd->to_controller || off != cmd->moved || left > cmd->len - off || left == 0) {
		host_break(q, -EPROTO, "R2T out of order or beyond the command's data");
		return;
	}
	while (left > 0) {
		uint32_t len = MIN(left, q->h2c_max);
		struct nvme_tcp_data data = {
			.hdr = { .type = NVME_TCP_H2C_DATA,
				 .hlen = sizeof(data),
				 .pdo = sizeof(data) },
			.cid = r2t->cid,
			.ttag = r2t->ttag,
			.off = le32_of(cmd->moved),
			.len = le32_of(len),
		};

		data.hdr.plen = le32_of((uint32_t)sizeof(data) + len);
		data.hdr.flags = left == len ? NVME_TCP_LAST : 0;
		bytes_add(&q->tx, &data, sizeof(data));
		bytes_add(&q->tx, cmd->data + cmd->moved, len);
		cmd->moved += len;
		left -= len;
	}
}

static void host_take_response(struct host_queue *q, const struct nvme_tcp_capsule_resp *resp)
{
	if (host_find(q, resp->cqe.cid) != NULL)
		host_finish(q, resp->cqe.cid, le16_get(resp->cqe.status) >> 1 & 0x7ff,
			    le32_get(resp->cqe.dw0));
}

static void host_take_pdu(struct host_queue *q, const uint8_t *pdu, uint32_t plen)
{
	const struct nvme_tcp_hdr *hdr = (const void *)pdu;
	static const uint8_t lengths[] = {
		[NVME_TCP_ICRESP] = 128,  [NVME_TCP_C2H_TERM] = 24, [NVME_TCP_CAPSULE_RESP] = 24,
		[NVME_TCP_C2H_DATA] = 24, [NVME_TCP_R2T] = 24,
	};

	if (hdr->type >= sizeof(lengths) || lengths[hdr->type] == 0 ||
	    hdr->hlen != lengths[hdr->type]) {
		host_break(q, -EPROTO, "a PDU of wrong type or length");
		return;
	}
	world_trace("host pdu", hdr->type, plen);
	switch (hdr->type) {
	case NVME_TCP_ICRESP:
		if (q->h2c_max != 0)
			host_break(q, -EPROTO, "a second ICResp");
		q->h2c_max = le32_get(((const struct nvme_tcp_ic *)(const void *)pdu)->max);
		break;
	case NVME_TCP_C2H_TERM:
		host_break(q, -EPROTO, "a termination request, but we kept the rules");
		break;
	case NVME_TCP_CAPSULE_RESP:
		host_take_response(q, (const void *)pdu);
		break;
	case NVME_TCP_C2H_DATA:
		host_take_data(q, pdu, plen);
		break;
	default:
		host_take_r2t(q, (const void *)pdu);
		break;
	}
}

/* ---- moving bytes --------------------------------------------------------------------------- */

static bool host_flush(struct host_queue *q)
{
	bool has_moved = false;

	while (q->error == 0 && q->tx.at < q->tx.len) {
		struct iovec iov = { q->tx.data + q->tx.at, q->tx.len - q->tx.at };
		ssize_t n = stream_send(q->stream, &iov, 1);

		if (n == -EAGAIN)
			break;
		if (n < 0)
			host_break(q, (int)n, NULL);
		else
			q->tx.at += (size_t)n;
		has_moved = true;
	}
	return has_moved;
}

static bool host_receive(struct host_queue *q)
{
	bool has_moved = false;

	while (q->error == 0) {
		struct iovec iov;
		ssize_t n;

		bytes_reserve(&q->rx, RX_STEP);
		iov = (struct iovec){ q->rx.data + q->rx.len, RX_STEP };
		n = stream_recv(q->stream, &iov, 1);
		if (n == -EAGAIN)
			break;
		if (n <= 0)
			host_break(q, n == 0 ? -ECONNABORTED : (int)n, NULL);
		else
			q->rx.len += (size_t)n;
		has_moved = true;
	}
	while (q->rx.len - q->rx.at >= sizeof(struct nvme_tcp_hdr)) {
		const uint8_t *pdu = q->rx.data + q->rx.at;
		uint32_t plen = le32_get(((const struct nvme_tcp_hdr *)(const void *)pdu)->plen);

		if (plen < sizeof(struct nvme_tcp_hdr) || plen > PDU_MAX) {
			host_break(q, -EPROTO, "a PDU of impossible length");
			break;
		}
		if (q->rx.len - q->rx.at < plen || (q->error != 0 && q->error == -EPROTO))
			break;
		q->rx.at += plen;
		host_take_pdu(q, pdu, plen);
	}
	return has_moved;
}

int host_poll(struct host_queue *q, uint64_t timeout_ns)
{
	bool has_moved = host_flush(q);

	has_moved |= host_receive(q);
	if (q->error == 0 && !has_moved) {
		host_wait(q, timeout_ns);
		(void)host_flush(q);
		(void)host_receive(q);
	}
	return q->error;
}

void host_submit(struct host_queue *q, uint16_t cid, struct host_cmd *cmd, struct nvme_cmd *sqe)
{
	bool is_inside = cmd->to_controller && cmd->len > 0 && cmd->len <= HOST_IN_CAPSULE &&
			 world_chance(q->in_capsule_percent, 100);
	struct nvme_tcp_hdr hdr = { .type = NVME_TCP_CAPSULE_CMD,
				    .hlen = sizeof(struct nvme_tcp_capsule_cmd),
				    .pdo = is_inside ? sizeof(struct nvme_tcp_capsule_cmd) : 0 };

	assert(cid < HOST_DEPTH_MAX && q->cmd[cid] == NULL);
	hdr.plen = le32_of((uint32_t)sizeof(struct nvme_tcp_capsule_cmd) +
			   (is_inside ? cmd->len : 0));
	sqe->cid = le16_of(cid);
	sqe->flags = NVME_CMD_PSDT_SGL;
	sqe->sgl = (struct nvme_sgl){ .len = le32_of(cmd->len),
				      .id = is_inside ? NVME_SGL_DATA_OFFSET
						      : NVME_SGL_DATA_TRANSPORT };
	bytes_add(&q->tx, &hdr, sizeof(hdr));
	bytes_add(&q->tx, sqe, sizeof(*sqe));
	if (is_inside)
		bytes_add(&q->tx, cmd->data, cmd->len);
	cmd->moved = is_inside ? cmd->len : 0;
	cmd->is_busy = true;
	cmd->is_done = false;
	q->cmd[cid] = cmd;
}

/* ---- connecting ----------------------------------------------------------------------------- */

/* One command at a time, before the queue is in use. 0, negative errno or NVMe status. */
static int host_sync(struct host_queue *q, struct nvme_cmd *sqe, struct host_cmd *cmd,
		     uint64_t timeout_ns)
{
	uint64_t end_ns = world_now() + timeout_ns;

	host_submit(q, 0, cmd, sqe);
	while (!cmd->is_done) {
		if (world_now() >= end_ns)
			host_break(q, -ETIME, NULL);
		if (host_poll(q, end_ns - MIN(end_ns, world_now()) + 1) < 0)
			return q->error;
	}
	return cmd->status;
}

static int host_connect_cmd(struct host_queue *q, const char *nqn, uint16_t qid, unsigned depth,
			    uint16_t *cntlid, uint64_t timeout_ns)
{
	struct nvme_connect_data data = { .cntlid = le16_of(qid == 0 ? NVME_CNTLID_DYNAMIC
								     : *cntlid) };
	struct nvme_connect_cmd connect = { .opcode = NVME_FABRICS,
					    .fctype = NVME_FABRICS_CONNECT,
					    .qid = le16_of(qid),
					    .sqsize = le16_of(
						    (uint16_t)(qid == 0 ? 31 : depth - 1)) };
	struct host_cmd cmd = { .data = (void *)&data, .len = sizeof(data), .to_controller = true };
	struct nvme_cmd sqe;
	int result;

	memset(data.hostid, 0x42, sizeof(data.hostid));
	(void)snprintf(data.subnqn, sizeof(data.subnqn), "%s", nqn);
	(void)snprintf(data.hostnqn, sizeof(data.hostnqn), "nqn.2024-01.invalid.sim:host");
	memcpy(&sqe, &connect, sizeof(sqe));
	result = host_sync(q, &sqe, &cmd, timeout_ns);
	if (result == 0 && qid == 0)
		*cntlid = (uint16_t)cmd.result;
	return result;
}

static int host_enable(struct host_queue *q, uint64_t timeout_ns)
{
	struct nvme_property_cmd set = { .opcode = NVME_FABRICS,
					 .fctype = NVME_FABRICS_PROPERTY_SET,
					 .offset = le32_of(NVME_PROP_CC) };
	struct nvme_property_cmd get = { .opcode = NVME_FABRICS,
					 .fctype = NVME_FABRICS_PROPERTY_GET,
					 .offset = le32_of(NVME_PROP_CSTS) };
	struct host_cmd cmd = {};
	struct nvme_cmd sqe;
	int result;

	set.value = le64_of(NVME_CC_EN | 6 << NVME_CC_IOSQES_SHIFT | 4 << NVME_CC_IOCQES_SHIFT);
	memcpy(&sqe, &set, sizeof(sqe));
	result = host_sync(q, &sqe, &cmd, timeout_ns);
	while (result == 0) {
		memcpy(&sqe, &get, sizeof(sqe));
		cmd = (struct host_cmd){};
		result = host_sync(q, &sqe, &cmd, timeout_ns);
		if (result == 0 && cmd.result & NVME_CSTS_RDY)
			break;
	}
	return result;
}

int host_connect(struct host_queue *q, const char *addr, uint16_t port, const char *nqn,
		 uint16_t qid, unsigned depth, uint16_t *cntlid, uint64_t timeout_ns)
{
	struct nvme_tcp_ic icreq = { .hdr = { .type = NVME_TCP_ICREQ,
					      .hlen = sizeof(icreq),
					      .plen = le32_of(sizeof(icreq)) } };
	uint64_t end_ns = world_now() + timeout_ns;
	int result = net_get()->connect(addr, port, &q->stream, NULL);

	if (result < 0)
		return result;
	q->in_capsule_percent = 100; /* what Connect carries must lie inside */
	q->stream->owner = q;
	q->stream->ready = host_ready;
	stream_attach(q->stream);
	bytes_add(&q->tx, &icreq, sizeof(icreq));
	while (q->h2c_max == 0) {
		if (world_now() >= end_ns)
			host_break(q, -ETIME, NULL);
		if (host_poll(q, end_ns - MIN(end_ns, world_now()) + 1) < 0)
			return q->error;
	}
	result = host_connect_cmd(q, nqn, qid, depth, cntlid, timeout_ns);
	if (result == 0 && qid == 0)
		result = host_enable(q, timeout_ns);
	q->in_capsule_percent = (unsigned)world_rand(101);
	return result;
}

void host_close(struct host_queue *q)
{
	if (q->stream != NULL)
		stream_close(q->stream);
	free(q->tx.data);
	free(q->rx.data);
	*q = (struct host_queue){};
}
