/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue_testing.h - a queue, its user and a controller that the test plays, over the world of
 * testing.h: what queue_test.c and queue_hostile_test.c share.
 *
 * Thread: one. Rules: begin(), go_live(), ..., finish().
 */
#ifndef ASHLAR_DRIVERS_NVMF_QUEUE_TESTING_H
#define ASHLAR_DRIVERS_NVMF_QUEUE_TESTING_H

#include "base/crc32c.h"
#include "base/log.h"
#include "base/tap.h"
#include "drivers/nvmf/queue.h"
#include "drivers/nvmf/testing.h"
#include "reactor/mem.h"

enum {
	DEPTH = 8,
	IN_CAPSULE = 4096,
	DATA_MAX = 256 << 10,
	SECOND = 1000000000,
};

/* ---- the user ------------------------------------------------------------------------------- */

/* One command and how it ended. */
struct op {
	struct slot *slot;
	unsigned ndone;
	uint16_t status;
	uint32_t dw0, dw1;
	bool is_unsent;
	uint16_t cid; /* as the controller saw it */
	uint8_t *buf;
	uint32_t len;
	struct iovec iov[QUEUE_IOV_MAX];
	bool disconnects;
};

static struct user {
	struct queue *q;
	unsigned nup, ndown, nlate, nroom;
	int reason;
	struct slot *late;
	bool disconnects_late;
} user;

static uint64_t dma_before;

static inline void user_up(struct queue *q)
{
	CHECK_EQ(queue_state(q), QUEUE_LIVE);
	user.nup++;
}

static inline void user_down(struct queue *q, int reason)
{
	CHECK_EQ(queue_state(q), QUEUE_IDLE);
	CHECK_EQ(queue_inflight(q), 0);
	CHECK(err_text(queue_err(q))[0] != '\0');
	user.ndown++;
	user.reason = reason;
}

static inline void user_late(struct queue *q, struct slot *slot)
{
	user.nlate++;
	user.late = slot;
	if (user.disconnects_late)
		queue_disconnect(q, -ETIME);
}

static inline void user_room(struct queue *q)
{
	CHECK_EQ(queue_state(q), QUEUE_LIVE);
	user.nroom++;
}

static inline void op_done(struct slot *slot)
{
	struct op *op = slot->owner;

	op->ndone++;
	op->status = slot->status;
	op->dw0 = slot->dw0;
	op->dw1 = slot->dw1;
	op->is_unsent = slot->is_unsent;
	if (op->disconnects)
		queue_disconnect(slot->queue, -ESHUTDOWN);
}

static inline bool op_init(struct op *op, uint8_t opcode, uint32_t len)
{
	memset(op, 0, sizeof(*op));
	op->slot = queue_get(user.q);
	if (!CHECK(op->slot != NULL))
		return false;
	CHECK_EQ(op->slot->len, 0);
	op->slot->sqe.opcode = opcode;
	op->slot->sqe.nsid = le32_of(1);
	op->slot->done = op_done;
	op->slot->owner = op;
	op->len = len;
	if (len == 0)
		return true;
	op->buf = calloc(1, len);
	op->iov[0] = (struct iovec){ op->buf, len };
	op->slot->iov = op->iov;
	op->slot->iovcnt = 1;
	op->slot->len = len;
	op->slot->dir = opcode == NVME_IO_READ ? SLOT_C2H : SLOT_H2C;
	for (uint32_t i = 0; opcode != NVME_IO_READ && i < len; i++)
		op->buf[i] = (uint8_t)(i * 7 + i / 251);
	return true;
}

static inline void op_send(struct op *op)
{
	op->cid = op->slot->cid;
	queue_send(op->slot);
	CHECK_EQ(op->ndone, 0); /* never from inside */
}

static inline void op_free(struct op *op)
{
	free(op->buf);
	op->buf = NULL;
}

static inline void op_start(struct op *op, uint8_t opcode, uint32_t len)
{
	if (op_init(op, opcode, len))
		op_send(op);
}

/* ---- the controller ------------------------------------------------------------------------- */

struct agreed {
	bool hdgst, ddgst;
	uint8_t cpda;
	uint32_t h2c_data_max;
};

static struct agreed agreed;

static inline void give_sealed(uint8_t *pdu, uint8_t hlen, uint32_t pad, const void *data,
			       uint32_t len)
{
	struct nvme_tcp_hdr *hdr = (void *)pdu;
	uint32_t used = hlen;

	hdr->hlen = hlen;
	if (agreed.hdgst) {
		hdr->flags |= NVME_TCP_HDGST;
		used += 4;
	}
	if (agreed.ddgst && len > 0)
		hdr->flags |= NVME_TCP_DDGST;
	if (len > 0)
		hdr->pdo = (uint8_t)(used + pad);
	if (le32_get(hdr->plen) == 0)
		hdr->plen = le32_of(used + (len > 0 ? pad + len + (agreed.ddgst ? 4 : 0) : 0));
	if (agreed.hdgst) {
		struct le32 digest = le32_of(crc32c(0, pdu, hlen));

		memcpy(pdu + hlen, &digest, 4);
	}
	fake_give(pdu, used + (len > 0 ? pad : 0));
	if (len > 0)
		fake_give(data, len);
	if (len > 0 && agreed.ddgst) {
		struct le32 digest = le32_of(crc32c(0, data, len));

		fake_give(&digest, 4);
	}
}

static inline void give_resp(uint16_t cid, uint16_t status, uint32_t dw0)
{
	struct {
		struct nvme_tcp_capsule_resp resp;
		uint8_t digest[4];
	} pdu = { .resp = { .hdr = { .type = NVME_TCP_CAPSULE_RESP },
			    .cqe = { .dw0 = le32_of(dw0),
				     .cid = le16_of(cid),
				     .status = le16_of(status) } } };

	give_sealed((uint8_t *)&pdu, sizeof(pdu.resp), 0, NULL, 0);
}

/* The bytes of the data follow from their place. */
static inline uint8_t data_byte(uint32_t at)
{
	return (uint8_t)(at * 31 + at / 255);
}

static inline void give_data(uint16_t cid, uint32_t off, uint32_t len, uint8_t flags, uint32_t pad)
{
	struct {
		struct nvme_tcp_data data;
		uint8_t rest[256];
	} pdu = { .data = { .hdr = { .type = NVME_TCP_C2H_DATA, .flags = flags },
			    .cid = le16_of(cid),
			    .off = le32_of(off),
			    .len = le32_of(len) } };
	uint8_t *data = malloc(len + 1);

	for (uint32_t i = 0; i < len; i++)
		data[i] = data_byte(off + i);
	give_sealed((uint8_t *)&pdu, sizeof(pdu.data), pad, data, len);
	free(data);
}

static inline void give_r2t(uint16_t cid, uint16_t ttag, uint32_t off, uint32_t len)
{
	struct {
		struct nvme_tcp_r2t r2t;
		uint8_t digest[4];
	} pdu = { .r2t = { .hdr = { .type = NVME_TCP_R2T },
			   .cid = le16_of(cid),
			   .ttag = le16_of(ttag),
			   .off = le32_of(off),
			   .len = le32_of(len) } };

	give_sealed((uint8_t *)&pdu, sizeof(pdu.r2t), 0, NULL, 0);
}

static inline void give_ic(uint8_t dgst)
{
	struct nvme_tcp_ic ic = {
		.hdr = { .type = NVME_TCP_ICRESP, .hlen = sizeof(ic), .plen = le32_of(sizeof(ic)) },
		.pda = agreed.cpda,
		.dgst = dgst,
		.max = le32_of(agreed.h2c_data_max)
	};

	fake_give(&ic, sizeof(ic));
}

/* A capsule was sent: check its frame, return its command; its data goes to @data. */
static inline const struct nvme_cmd *take_capsule(uint8_t *data, uint32_t *ret_len)
{
	const struct nvme_tcp_capsule_cmd *capsule = (const void *)fake_take(sizeof(*capsule));
	uint32_t align = (agreed.cpda + 1u) * 4, used = sizeof(*capsule), len;

	*ret_len = 0;
	if (!CHECK(capsule != NULL) || !CHECK_EQ(capsule->hdr.type, NVME_TCP_CAPSULE_CMD))
		return NULL;
	CHECK_EQ(capsule->hdr.hlen, sizeof(*capsule));
	CHECK_EQ(capsule->cmd.flags & ~3, NVME_CMD_PSDT_SGL);
	len = le32_get(capsule->hdr.plen);
	CHECK_EQ(capsule->hdr.flags & NVME_TCP_HDGST, agreed.hdgst ? NVME_TCP_HDGST : 0);
	if (agreed.hdgst) {
		struct le32 digest;

		memcpy(&digest, fake_take(4), 4);
		CHECK_EQ(le32_get(digest), crc32c(0, capsule, sizeof(*capsule)));
		used += 4;
	}
	if (len == used)
		return &capsule->cmd;
	CHECK_EQ(capsule->hdr.pdo, ALIGN_UP(used, align));
	(void)fake_take(capsule->hdr.pdo - used);
	*ret_len = len - capsule->hdr.pdo - (agreed.ddgst ? 4 : 0);
	CHECK_EQ(capsule->cmd.sgl.id, NVME_SGL_DATA_OFFSET);
	CHECK_EQ(le32_get(capsule->cmd.sgl.len), *ret_len);
	if (!CHECK(*ret_len <= DATA_MAX))
		return NULL;
	memcpy(data, fake_take(*ret_len), *ret_len);
	if (agreed.ddgst) {
		struct le32 digest;

		memcpy(&digest, fake_take(4), 4);
		CHECK_EQ(le32_get(digest), crc32c(0, data, *ret_len));
	}
	return &capsule->cmd;
}

/* An H2CData was sent. */
static inline bool take_h2c(uint16_t ttag, uint32_t off, uint8_t *data, uint32_t *ret_len,
			    bool *ret_last)
{
	const struct nvme_tcp_data *hdr = (const void *)fake_take(sizeof(*hdr));
	uint32_t align = (agreed.cpda + 1u) * 4, used = sizeof(*hdr);

	if (!CHECK(hdr != NULL) || !CHECK_EQ(hdr->hdr.type, NVME_TCP_H2C_DATA))
		return false;
	CHECK_EQ(le16_get(hdr->ttag), ttag);
	CHECK_EQ(le32_get(hdr->off), off);
	*ret_len = le32_get(hdr->len);
	*ret_last = hdr->hdr.flags & NVME_TCP_LAST;
	if (agreed.hdgst) {
		(void)fake_take(4);
		used += 4;
	}
	CHECK_EQ(hdr->hdr.pdo, ALIGN_UP(used, align));
	(void)fake_take(hdr->hdr.pdo - used);
	CHECK(*ret_len <= agreed.h2c_data_max);
	CHECK_EQ(le32_get(hdr->hdr.plen), hdr->hdr.pdo + *ret_len + (agreed.ddgst ? 4 : 0));
	memcpy(data, fake_take(*ret_len), *ret_len);
	if (agreed.ddgst) {
		struct le32 digest;

		memcpy(&digest, fake_take(4), 4);
		CHECK_EQ(le32_get(digest), crc32c(0, data, *ret_len));
	}
	return true;
}

/* ---- connecting ----------------------------------------------------------------------------- */

static struct queue_target target_of(void)
{
	return (struct queue_target){ .host = "192.0.2.1",
				      .port = 4420,
				      .subnqn = "nqn.2019-05.io.openebs:test",
				      .hostnqn = "nqn.2014-08.org.nvmexpress:me",
				      .hostid = { 1, 2, 3 },
				      .cntlid = 7,
				      .hdgst = agreed.hdgst,
				      .ddgst = agreed.ddgst,
				      .capsule_data_max = IN_CAPSULE,
				      .connect_timeout_ns = 2ull * SECOND,
				      .io_timeout_ns = 5ull * SECOND };
}

static inline void dial(void)
{
	struct queue_target target = target_of();
	struct err err = {};

	CHECK_EQ(queue_connect(user.q, &target, &err), 0);
	CHECK_EQ(queue_state(user.q), QUEUE_DIAL);
}

/* Until the Connect command was sent; returns its CID. */
static inline uint16_t handshake(void)
{
	static uint8_t data[DATA_MAX];
	const struct nvme_connect_data *connect = (const void *)data;
	const struct nvme_connect_cmd *cmd;
	const struct nvme_tcp_ic *ic;
	uint32_t len;

	fake_turns(2);
	ic = (const void *)fake_take(sizeof(*ic));
	if (!CHECK(ic != NULL))
		return 0;
	CHECK_EQ(ic->hdr.type, NVME_TCP_ICREQ);
	CHECK_EQ(ic->dgst, (agreed.hdgst ? 1 : 0) | (agreed.ddgst ? 2 : 0));
	CHECK_EQ(le32_get(ic->max), 0);
	give_ic(ic->dgst);
	fake_turns(2);
	cmd = (const void *)take_capsule(data, &len);
	if (cmd == NULL || !CHECK_EQ(len, sizeof(*connect)))
		return 0;
	CHECK_EQ(cmd->opcode, NVME_FABRICS);
	CHECK_EQ(cmd->fctype, NVME_FABRICS_CONNECT);
	CHECK_EQ(le16_get(cmd->qid), 3);
	CHECK_EQ(cmd->cattr, NVME_CONNECT_NO_SQ_FLOW_CONTROL);
	CHECK_STR(connect->subnqn, "nqn.2019-05.io.openebs:test");
	CHECK_STR(connect->hostnqn, "nqn.2014-08.org.nvmexpress:me");
	CHECK_EQ(le16_get(connect->cntlid), 7);
	CHECK_EQ(connect->hostid[2], 3);
	return le16_get(cmd->cid);
}

static inline void go_live(void)
{
	unsigned nup = user.nup;

	dial();
	give_resp(handshake(), 0, 7);
	fake_turns(2);
	CHECK_EQ(user.nup, nup + 1);
	CHECK_EQ(queue_state(user.q), QUEUE_LIVE);
}

static inline void begin_depth(uint16_t depth)
{
	struct queue_opts opts = {
		.qid = 3, .depth = depth, .up = user_up, .down = user_down, .late = user_late
	};
	struct err err = {};

	fake_start();
	memset(&user, 0, sizeof(user));
	dma_before = dma_bytes_in_use();
	if (agreed.h2c_data_max == 0)
		agreed.h2c_data_max = 16384;
	CHECK_EQ(queue_new(&opts, &user.q, &err), 0);
	queue_on_room(user.q, user_room);
}

static inline void begin(void)
{
	begin_depth(DEPTH);
}

/* The test is over: whatever state it left comes down, and nothing stays. */
static inline void finish(void)
{
	if (queue_state(user.q) != QUEUE_IDLE) {
		queue_disconnect(user.q, -ESHUTDOWN);
		fake_turns(2);
	}
	CHECK_EQ(queue_state(user.q), QUEUE_IDLE);
	queue_free(user.q);
	CHECK(fake_stop());
	CHECK_EQ(dma_bytes_in_use(), dma_before);
	agreed = (struct agreed){};
}

static inline void expect_down(int reason, const char *text)
{
	CHECK_EQ(user.ndown, 1);
	CHECK_EQ(user.reason, reason);
	CHECK_HAS(queue_err(user.q)->msg, text);
	CHECK_EQ(queue_state(user.q), QUEUE_IDLE);
	CHECK(!fake.is_connected && fake.is_aborted);
	CHECK_EQ(user.nup, 0);
}

/* ---- a scene: commands in flight that the controller plays with ------------------------------ */

/* Two reads of 4096 and a write of 64 KiB are in flight. */
struct scene {
	struct op read[2], write;
};

static inline void scene_start(struct scene *s)
{
	static uint8_t data[DATA_MAX];
	uint32_t len;

	op_start(&s->read[0], NVME_IO_READ, 4096);
	op_start(&s->read[1], NVME_IO_READ, 4096);
	op_start(&s->write, NVME_IO_WRITE, 65536);
	fake_turns(1);
	for (unsigned i = 0; i < 3; i++)
		(void)take_capsule(data, &len);
}

static inline void scene_end(struct scene *s)
{
	CHECK_EQ(s->read[0].ndone, 1);
	CHECK_EQ(s->read[1].ndone, 1);
	CHECK_EQ(s->write.ndone, 1);
	CHECK_EQ(s->read[1].status, NVMF_LOST);
	CHECK_EQ(s->write.status, NVMF_LOST);
	CHECK(!s->read[1].is_unsent && !s->write.is_unsent);
	op_free(&s->read[0]);
	op_free(&s->read[1]);
	op_free(&s->write);
}

#endif
