// SPDX-License-Identifier: Apache-2.0
/*
 * Sending: all commands and data of a queue leave in one gathered sendmsg at the end of the turn.
 *
 * What is to be sent is a list of slots, not of bytes. Headers are written when the list is
 * gathered (drivers/nvme/tcp_gather.h); data goes out from the caller's memory. A command is
 * formatted once more only when the socket did not take all of it, and gives the same bytes then:
 * nothing in the slot changes in between, and the digest is kept.
 *
 *   slot:  queue_send --> OUT_CMD --in the kernel--> (R2T) --> OUT_H2C --more of it--+--> nothing
 *                                                                ^-------------------'
 *
 * Write data travels in the capsule if it fits there, else when the controller asks for it (R2T),
 * in PDUs of at most what it takes at once. Such PDUs queue behind one another like commands, one
 * per slot, so that a large write does not hold up small ones.
 *
 *   queued --flush--> gathered --sendmsg--> all taken:  next
 *                        ^                  part taken: blocked --STREAM_OUT--+
 *                        +----------------------------------------------------+
 *
 * Invariants
 *   1. Order: what was queued first is sent first; two commands queued in a row are neighbours on
 *      the wire but for data PDUs between them, which matter to no one (fused pairs, NVM 3.5).
 *   2. A PDU that was begun is finished, or the connection ends.
 *   3. A blocked queue is not in hub->outs.
 *
 * Thread: the queue's reactor.
 *
 * Rejected: a capsule per slot that is sent from where it lies (one element per command costs the
 * kernel more than copying 64 bytes); formatting in queue_send() into a ring of bytes (large and
 * cold with a deep queue, and data must be gathered at the end anyway); MSG_ZEROCOPY (loses on
 * loopback, needs error-queue reads).
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "drivers/nvme/tcp_gather.h"
#include "drivers/nvmf/queue_internal.h"

enum {
	IOV_PER_OUT = 3,       /* header, digest, and one in reserve; data comes on top */
	STAGING_PER_OUT = 320, /* header, digest, padding, digest */
};

/* @len bytes of the caller's data from @off on. Their digest, unless it is known. */
static void gather_data(struct gather *g, const struct queue *q, struct slot *slot, uint32_t off,
			uint32_t len)
{
	const struct iovec *iov = slot->iov;
	size_t skip = (size_t)slot->iov_off + off;
	bool sums = q->rules.ddgst && !slot->has_digest;

	if (sums)
		slot->digest = 0;
	while (skip >= iov->iov_len)
		skip -= iov++->iov_len;
	while (len > 0) {
		const uint8_t *at = (const uint8_t *)iov->iov_base + skip;
		uint32_t n = (uint32_t)MIN(iov->iov_len - skip, (size_t)len);

		assert(iov < slot->iov + slot->iovcnt);
		if (n > 0)
			gather_add(g, at, n);
		if (sums)
			slot->digest = crc32c(slot->digest, at, n);
		len -= n;
		skip = 0;
		iov++;
	}
	if (q->rules.ddgst) {
		struct le32 digest = le32_of(slot->digest);

		slot->has_digest = true;
		memcpy(g->at, &digest, sizeof(digest));
		gather_staged(g, sizeof(digest));
	}
}

/*
 * Finish the header of @hlen bytes at g->at: digest, and padding if data follows. Returns bytes of
 * the PDU.
 */
static uint32_t seal(struct gather *g, const struct queue *q, struct nvme_tcp_hdr *hdr,
		     uint8_t hlen, uint32_t data_len)
{
	uint32_t pdo = hlen + (q->rules.hdgst ? NVME_TCP_DIGEST_SIZE : 0u), used = pdo;
	uint32_t len = pdo;

	if (q->rules.hdgst)
		hdr->flags |= NVME_TCP_HDGST;
	if (data_len > 0) {
		pdo = (pdo + q->data_align) & ~(uint32_t)q->data_align;
		len = pdo + data_len;
		if (q->rules.ddgst) {
			hdr->flags |= NVME_TCP_DDGST;
			len += NVME_TCP_DIGEST_SIZE;
		}
	}
	hdr->hlen = hlen;
	hdr->pdo = (uint8_t)(data_len > 0 ? pdo : 0);
	le32_put(&hdr->plen, len);
	if (q->rules.hdgst) {
		struct le32 digest = le32_of(crc32c(0, g->at, hlen));

		memcpy(g->at + hlen, &digest, sizeof(digest));
	}
	if (unlikely(pdo > used))
		memset(g->at + used, 0, pdo - used);
	gather_staged(g, pdo);
	return len;
}

static uint32_t format_cmd(struct gather *g, const struct queue *q, struct slot *slot)
{
	struct nvme_tcp_capsule_cmd *capsule = (void *)g->at;
	struct nvme_cmd *cmd = &capsule->cmd;
	bool is_inline = slot->dir == SLOT_H2C && slot->len <= q->capsule_data_max;
	uint32_t len;

	capsule->hdr.type = NVME_TCP_CAPSULE_CMD;
	capsule->hdr.flags = 0;
	*cmd = slot->sqe;
	cmd->flags = (uint8_t)((cmd->flags & NVME_CMD_FUSE_MASK) | NVME_CMD_PSDT_SGL);
	le16_put(&cmd->cid, slot->cid);
	cmd->sgl = (struct nvme_sgl){ .len = le32_of(slot->len),
				      .id = is_inline ? NVME_SGL_DATA_OFFSET
						      : NVME_SGL_DATA_TRANSPORT };
	len = seal(g, q, &capsule->hdr, sizeof(*capsule), is_inline ? slot->len : 0);
	if (is_inline) {
		gather_data(g, q, slot, 0, slot->len);
		slot->asked = slot->len;
	}
	return len;
}

static uint32_t h2c_len(const struct queue *q, const struct slot *slot)
{
	return MIN(slot->h2c_left, q->h2c_data_max);
}

static uint32_t format_h2c(struct gather *g, const struct queue *q, struct slot *slot)
{
	struct nvme_tcp_data *data = (void *)g->at;
	uint32_t n = h2c_len(q, slot), len;

	*data = (struct nvme_tcp_data){
		.hdr = { .type = NVME_TCP_H2C_DATA,
			 .flags = n == slot->h2c_left ? NVME_TCP_LAST : 0 },
		.cid = le16_of(slot->cid),
		.ttag = le16_of(slot->ttag),
		.off = le32_of(slot->h2c_off),
		.len = le32_of(n),
	};
	len = seal(g, q, &data->hdr, sizeof(*data), n);
	gather_data(g, q, slot, slot->h2c_off, n);
	return len;
}

static void format(struct gather *g, const struct queue *q, struct slot *slot)
{
	switch ((enum slot_out)slot->out_kind) {
	case OUT_CMD:
		slot->out_size = format_cmd(g, q, slot);
		break;
	case OUT_H2C:
		slot->out_size = format_h2c(g, q, slot);
		break;
	case OUT_IC:
		gather_add(g, &q->ic, sizeof(q->ic));
		slot->out_size = sizeof(q->ic);
		break;
	case OUT_NONE:
		break;
	}
}

/* ---- the list ------------------------------------------------------------------------------- */

static void queue_want_flush(struct queue *q)
{
	struct hub *hub = q->hub;

	if (list_empty(&q->out_link))
		list_add_tail(&hub->outs, &q->out_link);
	if (!hub->is_flush_queued) {
		hub->is_flush_queued = true;
		reactor_at_flush(hub->reactor, &hub->flush);
	}
}

void queue_out(struct queue *q, struct slot *slot, enum slot_out kind)
{
	slot->out_next = NULL;
	slot->out_kind = (uint8_t)kind;
	slot->out_size = 0;
	*q->out_tail = slot;
	q->out_tail = &slot->out_next;
	if (likely(!q->is_send_blocked))
		queue_want_flush(q);
}

void queue_out_del(struct queue *q, struct slot *slot)
{
	struct slot **at = &q->out_head;

	while (*at != slot)
		at = &(*at)->out_next;
	*at = slot->out_next;
	if (slot->out_next == NULL)
		q->out_tail = at;
	slot->out_kind = OUT_NONE;
}

void queue_out_reset(struct queue *q)
{
	if (q->out_skip > 0)
		q->out_head->is_begun = true;
	for (struct slot *slot = q->out_head; slot != NULL; slot = slot->out_next)
		slot->out_kind = OUT_NONE;
	q->out_head = NULL;
	q->out_tail = &q->out_head;
	q->out_skip = 0;
	list_del(&q->out_link);
}

void queue_unblocked(struct queue *q)
{
	q->is_send_blocked = false;
	if (q->out_head != NULL)
		queue_want_flush(q);
}

/* ---- the socket ----------------------------------------------------------------------------- */

static void h2c_sent(struct queue *q, struct slot *slot)
{
	uint32_t n = h2c_len(q, slot);

	slot->h2c_off += n;
	slot->h2c_left -= n;
	slot->has_digest = false;
	if (slot->h2c_left > 0 && !slot->is_answered)
		queue_out(q, slot, OUT_H2C);
}

static void slot_out_sent(struct queue *q, struct slot *slot)
{
	enum slot_out kind = slot->out_kind;

	slot->out_kind = OUT_NONE;
	if (kind == OUT_CMD) {
		slot->state = SLOT_SENT;
		slot->has_digest = false;
	} else if (kind == OUT_H2C) {
		h2c_sent(q, slot);
	}
}

/* @n more bytes are in the kernel: who is done? */
static void queue_advance(struct queue *q, size_t n)
{
	struct slot *answered = NULL; /* only the head can be, when it was sent in parts */

	n += q->out_skip;
	while (q->out_head != NULL && n > 0 && n >= q->out_head->out_size) {
		struct slot *slot = q->out_head;

		n -= slot->out_size;
		q->out_head = slot->out_next;
		if (q->out_head == NULL)
			q->out_tail = &q->out_head;
		slot_out_sent(q, slot);
		if (unlikely(slot->is_answered))
			answered = slot;
	}
	q->out_skip = (uint32_t)n;
	if (unlikely(answered != NULL))
		slot_finish(answered);
}

/* Fill the list from the head of the queue; returns how many bytes it describes. */
static size_t queue_gather(struct queue *q, struct gather *g, struct iovec **ret_iov)
{
	size_t total = 0;

	for (struct slot *slot = q->out_head; slot != NULL; slot = slot->out_next) {
		int pieces = slot->dir == SLOT_H2C ? slot->iovcnt : 0;

		if (g->count + IOV_PER_OUT + pieces > TX_IOV_MAX ||
		    g->end - g->at < STAGING_PER_OUT)
			break;
		format(g, q, slot);
		total += slot->out_size;
	}
	*ret_iov = gather_skip(g, q->out_skip);
	return total - q->out_skip;
}

void queue_flush(struct queue *q)
{
	struct hub *hub = q->hub;

	while (q->out_head != NULL && !q->is_send_blocked) {
		struct gather g = { .iov = hub->iov,
				    .at = hub->staging,
				    .end = hub->staging + TX_STAGING };
		struct iovec *iov;
		size_t total = queue_gather(q, &g, &iov);
		ssize_t n = stream_send(q->stream, iov, g.count);

		if (unlikely(n < 0 && n != -EAGAIN)) {
			/* Why may still lie in the receive buffer. */
			q->is_send_blocked = true;
			q->send_error = (int)n;
			hub_activate(q);
			return;
		}
		if (n != (ssize_t)total) {
			q->is_send_blocked = true;
			stream_arm(q->stream, STREAM_OUT);
		}
		if (n > 0) {
			q->stats.bytes_out += (uint64_t)n;
			queue_advance(q, (size_t)n);
		}
	}
}
