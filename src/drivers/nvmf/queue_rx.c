// SPDX-License-Identifier: Apache-2.0
/*
 * Receiving: one recv per active queue and turn into memory that stays hot, PDUs judged and taken
 * in place.
 *
 *   hub->rx  |tail of the last recv| what recv brings: PDU PDU PDU PD|
 *                                                                ^ saved in q->tail
 *
 * Everything in the buffer is taken before the next queue receives, so one buffer does for all
 * queues of the reactor. What a queue keeps is the beginning of a header. Data is copied once, from
 * there to the caller's memory, and the digest is computed on the way.
 *
 * Large data pays no copy. As soon as the header of its C2HData is known, the rest of the data is
 * received straight into the caller's memory, the first elements of the scatter list. While large
 * reads are in flight only RX_SMALL bytes are received behind that, so that the next header comes
 * with little of its data and the rest of it directly, too. That is a system call per PDU, which
 * measured as much as copying 32 KiB: RX_DIRECT_MIN. The queue receives several times per turn
 * then, because a turn per answer would mean a sendmsg per command.
 *
 *   queue:  active (recv tried each turn) --RX_IDLE_US without a byte or a command--> armed
 *             ^------------------------ ready(), queue_send() ----------------------'
 *
 * Before the reactor sleeps every active queue is armed.
 *
 * A controller is believed nothing. An answer must name a command in flight by its whole CID, data
 * must be the next bytes of a read and within its length, an R2T the next bytes of a write. What
 * breaks the protocol ends the connection. A wrong data digest is the medium's fault, not the
 * controller's, and the framing is sure: it costs the command alone.
 *
 * Invariants
 *   1. A queue with a tail has no data half received, and the other way round.
 *   2. After an error no further byte of that connection is judged.
 *   3. got grows with bytes that lie in the caller's memory, in order, and never beyond len.
 *
 * Decisions where the text leaves room
 *   - C2HData and R2T must come in order of their offsets, as every known controller sends them.
 *   - The last C2HData need not carry LAST if a response follows; behind one with LAST is no data.
 *   - Only one R2T per command at a time, as we said in ICReq: the next may come when the last byte
 *     for the one before is in the kernel.
 *
 * Thread: the queue's reactor.
 *
 * Rejected: peeking at headers (two system calls per command); one buffer per queue (cold);
 * receiving small data in place, guessing the order of answers (wrong guesses put foreign data into
 * a caller's memory).
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "drivers/nvmf/queue_internal.h"

/* ---- data that is arriving ------------------------------------------------------------------ */

/* All of a C2HData is here. */
static void in_finish(struct queue *q)
{
	struct slot *slot = q->in;

	q->in = NULL;
	if (q->rules.ddgst) {
		struct le32 digest;

		memcpy(digest.b, q->in_digest, sizeof(digest));
		if (unlikely(le32_get(digest) != q->in_crc)) {
			q->stats.digest_errors++;
			slot->is_data_bad = true;
			log_warn("wrong data digest, failing the command peer=%s qid=%u cid=%#x "
				 "offset=%u",
				 q->peer, q->opts.qid, slot->cid, slot->got);
		}
	}
	slot->is_last = q->in_flags & NVME_TCP_LAST;
	if (q->in_flags & NVME_TCP_SUCCESS)
		slot_answered(slot, 0);
}

/* The next place for data and how long it is. */
static inline size_t in_place(struct queue *q, uint8_t **ret_at)
{
	while (q->in_off == q->in_iov->iov_len) {
		q->in_iov++;
		q->in_off = 0;
	}
	*ret_at = (uint8_t *)q->in_iov->iov_base + q->in_off;
	return MIN(q->in_iov->iov_len - q->in_off, (size_t)q->in_left);
}

static inline void in_landed(struct queue *q, size_t n)
{
	q->in_off += n;
	q->in_left -= (uint32_t)n;
	q->in->got += (uint32_t)n;
}

/* Take data and digest from the buffer. Returns bytes taken. */
static size_t in_take(struct queue *q, const uint8_t *from, size_t len)
{
	size_t done = 0, n;
	uint8_t *at;

	while (q->in_left > 0 && done < len) {
		n = MIN(in_place(q, &at), len - done);
		if (q->rules.ddgst)
			q->in_crc = crc32c_copy(q->in_crc, at, from + done, n);
		else
			memcpy(at, from + done, n);
		in_landed(q, n);
		done += n;
	}
	if (q->in_left > 0)
		return done;
	n = MIN(len - done, (size_t)q->in_digest_left);
	memcpy(q->in_digest + NVME_TCP_DIGEST_SIZE - q->in_digest_left, from + done, n);
	q->in_digest_left -= (uint32_t)n;
	if (q->in_digest_left == 0)
		in_finish(q);
	return done + n;
}

/* The first @len bytes of what was received are in the caller's memory already. */
static void in_direct(struct queue *q, size_t len)
{
	while (len > 0) {
		uint8_t *at;
		size_t n = MIN(in_place(q, &at), len);

		if (q->rules.ddgst)
			q->in_crc = crc32c(q->in_crc, at, n);
		in_landed(q, n);
		len -= n;
	}
	if (q->in_left == 0 && q->in_digest_left == 0)
		in_finish(q);
}

/* ---- one PDU -------------------------------------------------------------------------------- */

/* The command in flight that is meant, or NULL. */
static inline struct slot *slot_of(struct queue *q, struct le16 wire)
{
	uint16_t cid = le16_get(wire), tag = cid & q->tag_mask;
	struct slot *slot = &q->slots[tag];

	if (unlikely(tag >= q->nslots || slot->cid != cid))
		return NULL;
	if (likely(slot->state == SLOT_SENT))
		return slot->is_answered ? NULL : slot;
	/* A capsule with data may be refused before the last byte of it has left. */
	if (slot->state == SLOT_QUEUED && slot == q->out_head && q->out_skip > 0 &&
	    !slot->is_answered)
		return slot;
	return NULL;
}

/* What is wrong, in words; NULL: nothing. */
static const char *take_c2h(struct queue *q, const struct nvme_tcp_data *hdr, const struct pdu *pdu,
			    struct pdu_fault *fault)
{
	struct slot *slot = slot_of(q, hdr->cid);
	size_t skip;

	*fault = (struct pdu_fault){ .fes = NVME_TCP_FES_INVALID_FIELD,
				     .fei = offsetof(struct nvme_tcp_data, cid) };
	if (unlikely(slot == NULL))
		return "data for a command that is not in flight";
	if (unlikely(slot->dir != SLOT_C2H))
		return "data for a command that reads nothing";
	*fault = (struct pdu_fault){ .fes = NVME_TCP_FES_OUT_OF_RANGE };
	if (unlikely(slot->is_last))
		return "data after the last data";
	if (unlikely(le32_get(hdr->off) != slot->got))
		return "data with an offset that is not the next";
	if (unlikely(pdu->data_len > slot->len - slot->got))
		return "more data than was asked for";
	q->in = slot;
	q->in_left = pdu->data_len;
	q->in_digest_left = q->rules.ddgst ? NVME_TCP_DIGEST_SIZE : 0;
	q->in_crc = 0;
	q->in_flags = pdu->flags;
	q->in_iov = slot->iov;
	skip = (size_t)slot->iov_off + slot->got;
	while (skip >= q->in_iov->iov_len)
		skip -= q->in_iov++->iov_len;
	q->in_off = skip;
	return NULL;
}

static const char *take_r2t(struct queue *q, const struct nvme_tcp_r2t *r2t,
			    struct pdu_fault *fault)
{
	struct slot *slot = slot_of(q, r2t->cid);
	uint32_t len = le32_get(r2t->len);

	*fault = (struct pdu_fault){ .fes = NVME_TCP_FES_INVALID_FIELD,
				     .fei = offsetof(struct nvme_tcp_r2t, cid) };
	if (unlikely(slot == NULL || slot->state != SLOT_SENT))
		return "R2T for a command that is not in flight";
	if (unlikely(slot->dir != SLOT_H2C))
		return "R2T for a command that writes nothing";
	if (unlikely(slot->out_kind != OUT_NONE)) {
		*fault = (struct pdu_fault){ .fes = NVME_TCP_FES_LIMIT };
		return "R2T before the one before was answered";
	}
	if (unlikely(len == 0)) {
		fault->fei = offsetof(struct nvme_tcp_r2t, len);
		return "R2T for no data";
	}
	*fault = (struct pdu_fault){ .fes = NVME_TCP_FES_OUT_OF_RANGE };
	if (unlikely(le32_get(r2t->off) != slot->asked))
		return "R2T with an offset that is not the next";
	if (unlikely(len > slot->len - slot->asked))
		return "R2T for more data than there is";
	slot->h2c_off = slot->asked;
	slot->h2c_left = len;
	slot->asked += len;
	slot->ttag = le16_get(r2t->ttag);
	queue_out(q, slot, OUT_H2C);
	return NULL;
}

static const char *take_resp(struct queue *q, const struct nvme_cqe *cqe, struct pdu_fault *fault)
{
	struct slot *slot = slot_of(q, cqe->cid);
	uint16_t raw = le16_get(cqe->status);

	if (unlikely(slot == NULL)) {
		*fault = (struct pdu_fault){ .fes = NVME_TCP_FES_INVALID_FIELD,
					     .fei = offsetof(struct nvme_tcp_capsule_resp,
							     cqe.cid) };
		return "response for a command that is not in flight";
	}
	slot->dw0 = le32_get(cqe->dw0);
	slot->dw1 = le32_get(cqe->dw1);
	/* Code, type and CRD are bits 13:1, DNR is bit 15 (Base 3.3.3.2.1). */
	slot_answered(slot, (uint16_t)((raw >> 1 & 0x1fff) | (raw & NVME_STATUS_DNR)));
	return NULL;
}

static void take_term(struct queue *q, const struct nvme_tcp_term *term)
{
	(void)err_set(&q->err, -ECONNABORTED,
		      "%s ended the connection: fatal error status %u, information %u", q->peer,
		      le16_get(term->fes), le32_get(term->fei));
	log_warn("the controller ended the connection peer=%s qid=%u fes=%u fei=%u", q->peer,
		 q->opts.qid, le16_get(term->fes), le32_get(term->fei));
	queue_drop(q, -ECONNABORTED);
}

static const char *take_whole(struct queue *q, const uint8_t *at, uint8_t type,
			      struct pdu_fault *fault)
{
	const struct nvme_tcp_capsule_resp *resp = (const void *)at;

	if (likely(type == NVME_TCP_CAPSULE_RESP))
		return take_resp(q, &resp->cqe, fault);
	if (type == NVME_TCP_R2T)
		return take_r2t(q, (const void *)at, fault);
	if (type == NVME_TCP_ICRESP)
		queue_take_ic(q, (const void *)at);
	else
		take_term(q, (const void *)at);
	return NULL;
}

/* Returns bytes taken, 0: not complete yet. */
static size_t take_pdu(struct queue *q, const uint8_t *at, size_t len)
{
	struct pdu_fault fault = {};
	const char *wrong;
	struct pdu pdu;
	enum pdu_result result = pdu_parse(&q->rules, at, len, &pdu, &fault);

	if (result == PDU_MORE)
		return 0;
	if (unlikely(result == PDU_BAD)) {
		queue_violated(q, &fault,
			       fault.fes == NVME_TCP_FES_HEADER_DIGEST ? "wrong header digest"
								       : "malformed PDU",
			       at, len);
		return len;
	}
	if (pdu.type == NVME_TCP_C2H_DATA) {
		if (len < pdu.data_off)
			return 0;
		wrong = take_c2h(q, (const void *)at, &pdu, &fault);
		if (likely(wrong == NULL))
			return pdu.data_off + in_take(q, at + pdu.data_off, len - pdu.data_off);
	} else {
		if (len < pdu.len)
			return 0;
		wrong = take_whole(q, at, pdu.type, &fault);
	}
	if (unlikely(wrong != NULL))
		queue_violated(q, &fault, wrong, at, len);
	return pdu.len;
}

/* ---- the loop over what was received -------------------------------------------------------- */

/* @len bytes are at @at, behind what was received in place. */
static void queue_parse(struct queue *q, const uint8_t *at, size_t len)
{
	size_t done = 0, n;

	if (q->in != NULL)
		done = in_take(q, at, len);
	while (done < len && queue_is_open(q)) {
		n = take_pdu(q, at + done, len - done);
		if (n == 0)
			break;
		done += n;
	}
	if (!queue_is_open(q) || done == len)
		return;
	q->tail_len = (uint32_t)(len - done);
	assert(q->tail_len <= sizeof(q->tail));
	memcpy(q->tail, at + done, q->tail_len);
}

/* The connection is over by the controller, or the network. */
static void queue_broke(struct queue *q, ssize_t got)
{
	int reason = got == 0 ? -ECONNRESET : (int)got;

	if (got == 0)
		(void)err_set(&q->err, reason, "%s closed the connection%s", q->peer,
			      q->state == QUEUE_IC ? " before it said anything: it has no room "
						     "for one more, or is no NVMe/TCP target"
						   : "");
	queue_drop(q, reason);
}

/* Room for data in place, then for the rest. Returns how much of both. */
static size_t queue_scatter(struct queue *q, int *ret_iovcnt, size_t *ret_direct)
{
	struct hub *hub = q->hub;
	size_t room = RX_SIZE, direct = 0;
	int n = 0;

	if (q->nlarge > 0)
		room = RX_SMALL + (q->in_left < RX_SMALL ? q->in_left : 0);
	if (q->in_left >= (q->nlarge > 0 ? (uint32_t)RX_SMALL : (uint32_t)RX_DIRECT_MIN)) {
		const struct iovec *from = q->in_iov;
		size_t off = q->in_off;

		for (; direct < q->in_left; from++, off = 0) {
			size_t step = MIN(from->iov_len - off, (size_t)q->in_left - direct);

			if (step == 0)
				continue;
			hub->iov[n++] = (struct iovec){ (uint8_t *)from->iov_base + off, step };
			direct += step;
		}
	}
	room -= q->tail_len;
	hub->iov[n++] = (struct iovec){ hub->rx + q->tail_len, room };
	*ret_iovcnt = n;
	*ret_direct = direct;
	return direct + room;
}

/* @got bytes were received, the first @direct of them, if there are so many, in place. */
static void queue_received(struct queue *q, size_t got, size_t direct)
{
	struct hub *hub = q->hub;
	size_t len = got;

	q->last_rx_ns = hub->reactor->now_ns;
	q->stats.bytes_in += got;
	if (unlikely(q->is_terminating))
		return; /* thrown away */
	if (direct > 0) {
		direct = MIN(direct, len);
		len -= direct;
		in_direct(q, direct);
		if (len == 0)
			return;
	}
	memcpy(hub->rx, q->tail, q->tail_len);
	len += q->tail_len;
	q->tail_len = 0;
	queue_parse(q, hub->rx, len);
}

/*
 * One recv, or, while large data is expected, as many as it takes to fill what one would have
 * brought: the commands that follow leave together. Returns the events handled: 0 when there was
 * nothing to read.
 */
static unsigned queue_recv(struct queue *q)
{
	size_t room, direct, total = 0;
	ssize_t got;
	int iovcnt;

	do {
		room = queue_scatter(q, &iovcnt, &direct);
		got = stream_recv(q->stream, q->hub->iov, iovcnt);
		if (got == -EAGAIN) {
			if (likely(q->send_error == 0))
				break;
			got = q->send_error;
		}
		if (unlikely(got <= 0)) {
			queue_broke(q, got);
			return 1;
		}
		queue_received(q, (size_t)got, direct);
		total += (size_t)got;
	} while ((size_t)got == room && total < RX_SIZE && q->nlarge > 0 && queue_is_open(q));
	return total > 0;
}

/* ---- the active set ------------------------------------------------------------------------- */

static void queue_arm(struct queue *q)
{
	hub_deactivate(q);
	stream_arm(q->stream, STREAM_IN);
}

unsigned hub_poll(struct poller *poller)
{
	struct hub *hub = container_of(poller, struct hub, poller);
	uint64_t now_ns = hub->reactor->now_ns;
	unsigned events = 0, n;

	/* Callbacks may take any queue out: each goes to the end of the list before its turn. */
	for (unsigned i = hub->nactive; i > 0 && !list_empty(&hub->active); i--) {
		struct queue *q = list_first_entry(&hub->active, struct queue, active_link);

		list_del(&q->active_link);
		list_add_tail(&hub->active, &q->active_link);
		n = queue_recv(q);
		events += n;
		if (n == 0 && now_ns - q->last_rx_ns >= RX_IDLE_US * 1000ull)
			queue_arm(q);
	}
	if (list_empty(&hub->active))
		poller_stop(hub->reactor, poller);
	return events;
}

bool hub_arm(struct poller *poller)
{
	struct hub *hub = container_of(poller, struct hub, poller);

	while (!list_empty(&hub->active))
		queue_arm(list_first_entry(&hub->active, struct queue, active_link));
	return true;
}
