// SPDX-License-Identifier: Apache-2.0
/*
 * The life of a queue pair, its slots, and the hub that all queues of a reactor share.
 *
 *   IDLE --connect--> DIAL --socket up--> IC --ICResp--> JOIN --Connect answered--> LIVE
 *    ^                 |                   |               |                         |
 *    |                 +-------------------+---------------+-------------------------+
 *    |                                queue_drop(): abort, nothing more is sent
 *    |                                queue_violated(): H2CTermReq first, then wait a moment
 *    |                                                     v
 *    +--- down(), from the loop, after every slot <------ DOWN
 *
 * A slot:
 *
 *   FREE --get--> LENT --send--> QUEUED --in the kernel--> SENT --answer--> DONE --> FREE
 *                   |              +----------- NVMF_LOST ---+---------------^ done() runs
 *                   +--put--> FREE
 *
 * There is one slot more than may be in flight: the one whose done() runs does not count, so that
 * done() can send the next command although the queue is full. Free tags are a stack, so the hot
 * set is what is in flight. A tag is the lower part of the CID, a generation the upper: an answer
 * to a command that has ended is recognised, and CID FFFFh (reserved, Base 3.3.3.1) never occurs.
 *
 * Commands in flight are a ring in the order of sending, linked by tags in an array of its own. One
 * timer looks at it when the first of them is due. Limits of single slots may differ, so the timer
 * walks the ring; it does that once per time-out, not per command.
 *
 * Invariants
 *   1. A slot is in the ring exactly while it is QUEUED or SENT, and done() is called once for it.
 *   2. In DOWN and IDLE nothing is queued for sending and no byte is judged.
 *   3. stream is NULL in IDLE, and in DOWN unless a termination request lingers.
 *   4. queue_send() and queue_disconnect() call nobody back; end_msg does, in the next turn.
 *
 * Decisions where the text leaves room
 *   - A digest that was asked for and is not granted ends the attempt: who asked wants it.
 *   - SQ flow control is switched off; a controller that keeps it is never given more commands than
 *     its queue has entries, and SQHD is not looked at.
 *   - A controller that wants authentication is refused with a text that says so.
 *
 * Thread: the reactor that the queue was made on.
 *
 * Rejected: a timer per command (a heap operation each); a list link in the slot (two cold lines
 * touched per command); freeing the slot before done() (its answer could be overwritten).
 */
#include "drivers/nvmf/queue.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "drivers/nvmf/queue_internal.h"
#include "reactor/mem.h"

#define STALL_NS 1000000000ull /* a timer that is so late was not kept waiting by work */

/* ---- the hub -------------------------------------------------------------------------------- */

static struct hub *hubs[REACTORS_MAX]; /* each touched by its own reactor only */

static void hub_free(struct hub *hub)
{
	if (hub->rx != NULL)
		dma_free(hub->rx, RX_SIZE + TX_STAGING);
	free(hub->iov);
	free(hub);
}

static void hub_flush(struct msg *msg)
{
	struct hub *hub = container_of(msg, struct hub, flush);

	hub->is_flush_queued = false;
	while (!list_empty(&hub->outs)) {
		struct queue *q = list_first_entry(&hub->outs, struct queue, out_link);

		list_del(&q->out_link);
		queue_flush(q);
	}
	if (hub->nqueues == 0)
		hub_free(hub); /* its last queue went in the same turn */
}

static struct hub *hub_get(struct reactor *r)
{
	struct hub *hub = hubs[r->id];

	if (hub == NULL) {
		hub = calloc(1, sizeof(*hub));
		if (hub == NULL)
			return NULL;
		hub->reactor = r;
		list_init(&hub->active);
		list_init(&hub->outs);
		hub->flush.fn = hub_flush;
		hub->poller.poll = hub_poll;
		hub->poller.arm = hub_arm;
		hub->rx = dma_alloc(RX_SIZE + TX_STAGING);
		hub->iov = calloc(TX_IOV_MAX, sizeof(*hub->iov));
		if (hub->rx == NULL || hub->iov == NULL) {
			hub_free(hub);
			return NULL;
		}
		hub->staging = hub->rx + RX_SIZE;
		hubs[r->id] = hub;
	}
	hub->nqueues++;
	return hub;
}

/* A flush that is still due frees it in the end. */
static void hub_put(struct hub *hub)
{
	if (--hub->nqueues > 0)
		return;
	assert(list_empty(&hub->active) && list_empty(&hub->outs));
	hubs[hub->reactor->id] = NULL;
	poller_stop(hub->reactor, &hub->poller);
	if (!hub->is_flush_queued)
		hub_free(hub);
}

void hub_activate(struct queue *q)
{
	struct hub *hub = q->hub;

	q->last_rx_ns = hub->reactor->now_ns;
	if (likely(!list_empty(&q->active_link)))
		return;
	list_add_tail(&hub->active, &q->active_link);
	hub->nactive++;
	poller_start(hub->reactor, &hub->poller);
}

void hub_deactivate(struct queue *q)
{
	if (list_empty(&q->active_link))
		return;
	list_del(&q->active_link);
	q->hub->nactive--;
}

/* ---- slots ---------------------------------------------------------------------------------- */

static void order_add(struct queue *q, uint16_t tag)
{
	struct order *order = q->order;
	uint16_t head = q->nslots, last = order[head].prev;

	order[tag] = (struct order){ .prev = last, .next = head };
	order[last].next = tag;
	order[head].prev = tag;
}

static void order_del(struct queue *q, uint16_t tag)
{
	struct order *order = q->order;

	order[order[tag].prev].next = order[tag].next;
	order[order[tag].next].prev = order[tag].prev;
}

static_assert(offsetof(struct slot, iov) == 64 && offsetof(struct slot, queue) == 128 &&
		      sizeof(struct slot) == 192,
	      "three lines: command, the user's, the queue's");

static struct slot *slot_take(struct queue *q)
{
	struct slot *slot = &q->slots[q->free[--q->nfree]];

	q->lent++;
	memset(slot, 0, offsetof(struct slot, queue));
	slot->state = SLOT_LENT;
	return slot;
}

static void slot_free(struct slot *slot)
{
	struct queue *q = slot->queue;

	slot->state = SLOT_FREE;
	slot->cid = (uint16_t)(slot->cid + q->tag_mask + 1); /* the next generation */
	q->free[q->nfree++] = slot->tag;
}

static void slot_room(struct queue *q)
{
	if (likely(!q->is_starved) || q->is_room_queued)
		return;
	q->is_room_queued = true;
	reactor_defer(q->hub->reactor, &q->room_msg);
}

struct slot *queue_get(struct queue *q)
{
	if (unlikely(q->state != QUEUE_LIVE))
		return NULL;
	if (unlikely(q->lent == q->limit)) {
		q->is_starved = true;
		return NULL;
	}
	return slot_take(q);
}

void queue_put(struct slot *slot)
{
	struct queue *q = slot->queue;

	assert(slot->state == SLOT_LENT);
	q->lent--;
	slot_free(slot);
	if (q->inflight == 0)
		slot_room(q);
}

static void queue_room(struct msg *msg)
{
	struct queue *q = container_of(msg, struct queue, room_msg);

	q->is_room_queued = false;
	if (q->state != QUEUE_LIVE || !q->is_starved || q->lent == q->limit)
		return;
	q->is_starved = false;
	if (q->room != NULL)
		q->room(q);
}

static bool slot_is_large(const struct slot *slot)
{
	return slot->dir == SLOT_C2H && slot->len >= RX_DIRECT_MIN;
}

void slot_finish(struct slot *slot)
{
	struct queue *q = slot->queue;

	order_del(q, slot->tag);
	q->inflight--;
	q->lent--;
	q->nlarge -= slot_is_large(slot);
	slot->state = SLOT_DONE;
	slot->done(slot);
	slot_free(slot);
	slot_room(q);
}

static void queue_end_soon(struct queue *q)
{
	if (q->is_end_queued)
		return;
	q->is_end_queued = true;
	reactor_defer(q->hub->reactor, &q->end_msg);
}

static void slot_watch(struct queue *q, struct slot *slot)
{
	struct reactor *r = q->hub->reactor;
	uint64_t timeout_ns = slot->timeout_ns != 0 ? slot->timeout_ns : q->io_timeout_ns;

	if (unlikely(q->state == QUEUE_JOIN))
		timeout_ns = 0; /* Connect is nobody's business but ours, and has its own limit */
	slot->due_ns = timeout_ns != 0 ? r->now_ns + timeout_ns : UINT64_MAX;
	if (likely(slot->due_ns >= q->late_due_ns))
		return;
	q->late_due_ns = slot->due_ns;
	timer_arm(r, &q->late, timeout_ns);
}

void queue_send(struct slot *slot)
{
	struct queue *q = slot->queue;

	assert(slot->state == SLOT_LENT && slot->done != NULL);
	assert(slot->len <= QUEUE_DATA_MAX && slot->iovcnt <= QUEUE_IOV_MAX);
	assert((slot->dir == SLOT_NO_DATA) == (slot->len == 0));
	slot->state = SLOT_QUEUED;
	slot->got = 0;
	slot->asked = 0;
	slot->has_digest = false;
	slot->is_begun = false;
	slot->is_last = false;
	slot->is_data_bad = false;
	slot->is_answered = false;
	order_add(q, slot->tag);
	q->inflight++;
	q->nlarge += slot_is_large(slot);
	q->stats.commands++;
	if (unlikely(q->state != QUEUE_LIVE && q->state != QUEUE_JOIN)) {
		slot->due_ns = UINT64_MAX;
		queue_end_soon(q);
		return;
	}
	slot_watch(q, slot);
	queue_out(q, slot, OUT_CMD);
	hub_activate(q);
}

void slot_answered(struct slot *slot, uint16_t status)
{
	struct queue *q = slot->queue;

	/* All is well only if all of the data has moved, unharmed. */
	if (status == 0) {
		if (unlikely(slot->is_data_bad))
			status = NVME_SC_TRANSIENT_TRANSPORT;
		else if (slot->dir == SLOT_C2H && unlikely(slot->got < slot->len))
			status = NVME_SC_TRANSIENT_TRANSPORT;
		else if (slot->dir == SLOT_H2C &&
			 unlikely(slot->asked < slot->len || slot->out_kind != OUT_NONE))
			status = NVME_SC_TRANSIENT_TRANSPORT; /* some of it is still here */
		if (unlikely(status != 0 && !slot->is_data_bad))
			log_warn("the controller moved %" PRIu32 " of %" PRIu32
				 " bytes and calls it success, failing the command peer=%s qid=%u "
				 "opcode=%#x",
				 slot->dir == SLOT_C2H ? slot->got : slot->asked, slot->len,
				 q->peer, q->opts.qid, slot->sqe.opcode);
	}
	slot->status = status;
	if (unlikely(slot->out_kind != OUT_NONE)) {
		if (slot == q->out_head && q->out_skip > 0) {
			slot->is_answered = true; /* its rest must go first */
			return;
		}
		queue_out_del(q, slot);
	}
	slot_finish(slot);
}

struct slot *queue_next_inflight(struct queue *q, struct slot *prev)
{
	uint16_t tag = q->order[prev != NULL ? prev->tag : q->nslots].next;

	return tag != q->nslots ? &q->slots[tag] : NULL;
}

/* ---- late ----------------------------------------------------------------------------------- */

/*
 * When we look much later than we meant to, it was we who stood still (stopped, or without a
 * processor), and the answers may lie in the socket, more than one turn takes. The commands get the
 * time back, and a while to be read.
 */
static void queue_forgive(struct queue *q, uint64_t behind_ns)
{
	struct slot *slot = NULL;

	if (behind_ns < STALL_NS)
		return;
	while ((slot = queue_next_inflight(q, slot)) != NULL) {
		if (slot->due_ns != UINT64_MAX)
			slot->due_ns += behind_ns + STALL_NS;
	}
}

static void queue_look_late(struct timer *timer)
{
	struct queue *q = container_of(timer, struct queue, late);
	uint64_t now_ns = q->hub->reactor->now_ns, next_ns = UINT64_MAX;
	struct slot *slot = NULL;

	queue_forgive(q, now_ns - q->late_due_ns);
	q->late_due_ns = UINT64_MAX;
	while ((slot = queue_next_inflight(q, slot)) != NULL && queue_is_open(q)) {
		if (slot->due_ns <= now_ns) {
			slot->due_ns = now_ns + (slot->timeout_ns != 0 ? slot->timeout_ns
								       : q->io_timeout_ns);
			q->stats.late++;
			if (q->opts.late != NULL)
				q->opts.late(q, slot);
		}
		next_ns = MIN(next_ns, slot->due_ns);
	}
	if (!queue_is_open(q) || next_ns >= q->late_due_ns)
		return;
	q->late_due_ns = next_ns;
	timer_arm(q->hub->reactor, &q->late, next_ns - now_ns);
}

/* ---- death ---------------------------------------------------------------------------------- */

/* Lost are all slots once the connection is gone; before that, those that came too late for it. */
static void queue_ended(struct msg *msg)
{
	struct queue *q = container_of(msg, struct queue, end_msg);
	bool is_over = q->stream == NULL;
	struct slot *slot, *next;

	q->is_end_queued = false;
	for (slot = queue_next_inflight(q, NULL); slot != NULL; slot = next) {
		bool is_unsent = slot->state == SLOT_QUEUED && !slot->is_begun;

		next = queue_next_inflight(q, slot);
		if (!is_over && (!is_unsent || slot->out_kind != OUT_NONE))
			continue; /* of another life, or what was sent may still arrive */
		if (!slot->is_answered) {
			slot->status = NVMF_LOST;
			slot->is_unsent = is_unsent;
			q->stats.lost++;
		}
		slot_finish(slot);
	}
	if (!is_over || q->state != QUEUE_DOWN)
		return;
	q->state = QUEUE_IDLE;
	q->opts.down(q, q->reason);
}

/* Does the end of the connection take nothing away? Event requests wait with a controller. */
static bool queue_owes_nothing(const struct queue *q)
{
	if (q->state != QUEUE_LIVE || q->out_head != NULL || q->send_error != 0)
		return false;
	return q->opts.qid == NVME_QID_ADMIN || q->inflight == 0;
}

/* Nothing is sent or judged from now on. */
static void queue_stop(struct queue *q, int reason)
{
	struct reactor *r = q->hub->reactor;

	q->is_clean = reason == -ESHUTDOWN && queue_owes_nothing(q);
	q->state = QUEUE_DOWN;
	q->reason = reason;
	q->is_starved = false;
	timer_disarm(r, &q->life);
	timer_disarm(r, &q->late);
	q->late_due_ns = UINT64_MAX;
	queue_out_reset(q);
	q->in = NULL;
	q->in_left = 0;
	q->in_digest_left = 0;
	q->tail_len = 0;
}

/* In DOWN, and the stream is of no use any more. */
static void queue_abandon(struct queue *q)
{
	timer_disarm(q->hub->reactor, &q->life);
	hub_deactivate(q);
	q->is_terminating = false;
	if (q->is_clean)
		stream_close(take(q->stream));
	else
		stream_abort(take(q->stream));
	queue_end_soon(q);
}

void queue_drop(struct queue *q, int reason)
{
	if (q->state == QUEUE_IDLE || (q->state == QUEUE_DOWN && q->stream == NULL))
		return;
	if (q->state != QUEUE_DOWN) {
		(void)err_set_sys(&q->err, reason, "connection to %s ended", q->peer);
		queue_stop(q, reason);
	}
	queue_abandon(q);
}

void queue_disconnect(struct queue *q, int reason)
{
	queue_drop(q, reason);
}

static void queue_lingered(struct timer *timer)
{
	queue_abandon(container_of(timer, struct queue, life));
}

void queue_violated(struct queue *q, const struct pdu_fault *fault, const char *what,
		    const uint8_t *at, size_t len)
{
	struct {
		struct nvme_tcp_term term;
		uint8_t header[NVME_TCP_TERM_DATA_MAX];
	} pdu = {};
	size_t n = MIN(pdu_offending(at, len), sizeof(pdu.header));
	struct iovec iov = { &pdu, sizeof(pdu.term) + n };
	bool is_between = q->out_skip == 0 && !q->is_send_blocked;

	log_warn("the controller broke the protocol, ending the connection peer=%s qid=%u pdu=%#x "
		 "fes=%u fei=%" PRIu32 ": %s",
		 q->peer, q->opts.qid, len > 0 ? at[0] : 0u, fault->fes, fault->fei, what);
	(void)err_set(&q->err, -EPROTO, "%s broke the protocol: %s", q->peer, what);
	queue_stop(q, -EPROTO);
	pdu.term = (struct nvme_tcp_term){
		.hdr = { .type = NVME_TCP_H2C_TERM,
			 .hlen = sizeof(pdu.term),
			 .plen = le32_of((uint32_t)iov.iov_len) },
		.fes = le16_of(fault->fes),
		.fei = le32_of(fault->fei),
	};
	memcpy(pdu.header, at, n);
	/* Not in the middle of another PDU, and not for long. */
	if (!is_between || stream_send(q->stream, &iov, 1) != (ssize_t)iov.iov_len) {
		queue_abandon(q);
		return;
	}
	q->is_terminating = true;
	q->life.fn = queue_lingered;
	timer_arm(q->hub->reactor, &q->life, TERM_LINGER_MS * 1000000ull);
}

/* ---- birth ---------------------------------------------------------------------------------- */

/* A failure that was put into words. */
static void queue_fail(struct queue *q, int reason)
{
	if (q->state == QUEUE_DOWN)
		return;
	queue_stop(q, reason);
	queue_abandon(q);
}

static int connect_errno(uint16_t status)
{
	switch (status & ~NVME_STATUS_DNR) {
	case NVME_SC_CONNECT_INVALID_HOST:
		return -EACCES;
	case NVME_SC_CONNECT_BUSY:
		return -EBUSY;
	default:
		return -ECONNREFUSED;
	}
}

/* The fabrics Connect command came back. */
static void queue_joined(struct slot *slot)
{
	struct queue *q = slot->queue;
	int result;

	q->connect_status = slot->status;
	if (slot->status == NVMF_LOST)
		return;
	if (slot->status != 0) {
		result = connect_errno(slot->status);
		(void)err_set(&q->err, result,
			      "%s refused the Connect command for queue %u of '%s': status %#x",
			      q->peer, q->opts.qid, q->connect_data.subnqn, slot->status);
		queue_fail(q, result);
		return;
	}
	/* Bits 31:16: authentication is required (Base 6.3, Connect response). */
	if (slot->dw0 >> 16 != 0) {
		(void)err_set(&q->err, -EACCES,
			      "%s wants authentication for '%s', which is not supported; allow "
			      "this host without it",
			      q->peer, q->connect_data.subnqn);
		queue_fail(q, -EACCES);
		return;
	}
	q->cntlid = (uint16_t)slot->dw0;
	q->capsule_data_max = q->capsule_data_target;
	q->state = QUEUE_LIVE;
	q->stats.connects++;
	timer_disarm(q->hub->reactor, &q->life);
	q->opts.up(q);
}

static void queue_join(struct queue *q)
{
	struct slot *slot;
	struct nvme_connect_cmd *cmd;

	q->state = QUEUE_JOIN;
	slot = slot_take(q);
	cmd = (void *)&slot->sqe;
	cmd->opcode = NVME_FABRICS;
	cmd->fctype = NVME_FABRICS_CONNECT;
	cmd->qid = le16_of(q->opts.qid);
	cmd->sqsize = le16_of((uint16_t)(q->opts.depth - 1));
	cmd->cattr = NVME_CONNECT_NO_SQ_FLOW_CONTROL;
	cmd->kato_ms = le32_of(q->kato_ms);
	q->connect_iov = (struct iovec){ &q->connect_data, sizeof(q->connect_data) };
	slot->iov = &q->connect_iov;
	slot->iovcnt = 1;
	slot->len = sizeof(q->connect_data);
	slot->dir = SLOT_H2C;
	slot->done = queue_joined;
	queue_send(slot);
}

void queue_take_ic(struct queue *q, const struct nvme_tcp_ic *ic)
{
	bool hdgst = ic->dgst & NVME_TCP_HDGST, ddgst = ic->dgst & NVME_TCP_DDGST;

	if (hdgst != q->hdgst || ddgst != q->ddgst) {
		(void)err_set(&q->err, -EOPNOTSUPP,
			      "%s wants header digest %s, data digest %s, asked for were %s, %s",
			      q->peer, hdgst ? "on" : "off", ddgst ? "on" : "off",
			      q->hdgst ? "on" : "off", q->ddgst ? "on" : "off");
		queue_fail(q, -EOPNOTSUPP);
		return;
	}
	q->rules.is_ready = true;
	q->rules.hdgst = hdgst;
	q->rules.ddgst = ddgst;
	q->data_align = (uint8_t)((ic->pda + 1) * 4 - 1);
	q->h2c_data_max = MIN(le32_get(ic->max), (uint32_t)QUEUE_DATA_MAX);
	queue_join(q);
}

static void queue_dialled(struct queue *q)
{
	int result = net_get()->error(q->stream);

	if (result < 0) {
		(void)err_set_sys(&q->err, result, "cannot connect to %s", q->peer);
		queue_fail(q, result);
		return;
	}
	q->state = QUEUE_IC;
	q->ic = (struct nvme_tcp_ic){
		.hdr = { .type = NVME_TCP_ICREQ,
			 .hlen = sizeof(q->ic),
			 .plen = le32_of(sizeof(q->ic)) },
		.dgst = (uint8_t)((q->hdgst ? NVME_TCP_HDGST : 0) |
				  (q->ddgst ? NVME_TCP_DDGST : 0)),
		.max = le32_of(0), /* one R2T at a time for each command */
	};
	queue_out(q, &q->ic_slot, OUT_IC);
	hub_activate(q);
}

static void queue_stream_ready(struct stream *stream, unsigned want)
{
	struct queue *q = stream->owner;

	if (q->state == QUEUE_DIAL) {
		queue_dialled(q);
		return;
	}
	if (want & STREAM_OUT)
		queue_unblocked(q);
	if (want & STREAM_IN)
		hub_activate(q);
}

static void queue_connect_timeout(struct timer *timer)
{
	struct queue *q = container_of(timer, struct queue, life);
	static const char *const awaited[] = { [QUEUE_DIAL] = "TCP connection",
					       [QUEUE_IC] = "first word of NVMe/TCP (ICResp)",
					       [QUEUE_JOIN] = "answer to Connect" };

	(void)err_set(&q->err, -ETIMEDOUT, "no %s from %s in time", awaited[q->state], q->peer);
	queue_fail(q, -ETIMEDOUT);
}

static int copy_nqn(char *to, const char *from, const char *what, struct err *err)
{
	size_t len = strlen(from);

	if (len == 0 || len > NVME_NQN_LEN_MAX)
		return err_set(err, -EINVAL, "%s has %zu bytes, allowed are 1 to %d", what, len,
			       NVME_NQN_LEN_MAX);
	memcpy(to, from, len);
	return 0;
}

int queue_connect(struct queue *q, const struct queue_target *target, struct err *err)
{
	struct nvme_connect_data data = { .cntlid = le16_of(target->cntlid) };
	int result;

	assert(q->state == QUEUE_IDLE);
	result = copy_nqn(data.subnqn, target->subnqn, "the subsystem's NQN", err);
	if (result == 0)
		result = copy_nqn(data.hostnqn, target->hostnqn, "the host's NQN", err);
	if (result == 0)
		result = net_get()->connect(target->host, target->port, &q->stream, err);
	if (result < 0)
		return result;
	memcpy(data.hostid, target->hostid, sizeof(data.hostid));
	q->connect_data = data;
	memcpy(q->peer, q->stream->peer, sizeof(q->peer));
	err_clear(&q->err);
	q->hdgst = target->hdgst;
	q->ddgst = target->ddgst;
	q->kato_ms = target->kato_ms;
	q->cntlid = target->cntlid;
	q->connect_status = NVMF_LOST;
	q->capsule_data_max = NVME_TCP_ADMIN_CAPSULE_DATA; /* of fabrics commands */
	q->capsule_data_target = target->capsule_data_max;
	q->io_timeout_ns = target->io_timeout_ns;
	q->is_send_blocked = false;
	q->send_error = 0;
	q->rules = (struct pdu_rules){ .is_host = true, .c2h_data_max = QUEUE_DATA_MAX };
	q->state = QUEUE_DIAL;
	q->life.fn = queue_connect_timeout;
	if (target->connect_timeout_ns != 0)
		timer_arm(q->hub->reactor, &q->life, target->connect_timeout_ns);
	q->stream->owner = q;
	q->stream->ready = queue_stream_ready;
	stream_attach(q->stream);
	stream_arm(q->stream, STREAM_OUT);
	return 0;
}

static void queue_release(struct queue *q)
{
	if (q->hub != NULL)
		hub_put(q->hub);
	free(q->slots);
	free(q->order);
	free(q->free);
	free(q);
}

static void queue_init_slots(struct queue *q)
{
	memset(q->slots, 0, q->nslots * sizeof(*q->slots));
	for (uint16_t tag = 0; tag < q->nslots; tag++) {
		q->slots[tag].queue = q;
		q->slots[tag].tag = tag;
		q->slots[tag].cid = tag;
		q->free[tag] = (uint16_t)(q->nslots - 1 - tag);
	}
	q->nfree = q->nslots;
	q->order[q->nslots] = (struct order){ .prev = q->nslots, .next = q->nslots };
}

int queue_new(const struct queue_opts *opts, struct queue **ret_queue, struct err *err)
{
	struct queue *q;

	if (opts->depth < QUEUE_DEPTH_MIN || opts->depth > QUEUE_DEPTH_MAX)
		return err_set(err, -EINVAL, "a queue has %d to %d entries, not %u",
			       QUEUE_DEPTH_MIN, QUEUE_DEPTH_MAX, opts->depth);
	q = calloc(1, sizeof(*q));
	if (q == NULL)
		return err_set(err, -ENOMEM, "no memory for a queue");
	q->opts = *opts;
	q->nslots = opts->depth;
	q->limit = (uint16_t)(opts->depth - 1);
	q->tag_mask = (uint16_t)((2u << u64_log2(opts->depth)) - 1); /* larger than any tag */
	q->slots = aligned_alloc(64, q->nslots * sizeof(*q->slots));
	q->order = calloc(q->nslots + 1u, sizeof(*q->order));
	q->free = calloc(q->nslots, sizeof(*q->free));
	q->hub = hub_get(reactor_self());
	if (q->slots == NULL || q->order == NULL || q->free == NULL || q->hub == NULL) {
		queue_release(q);
		return err_set(err, -ENOMEM, "no memory for a queue of %u entries", opts->depth);
	}
	queue_init_slots(q);
	list_init(&q->active_link);
	list_init(&q->out_link);
	queue_out_reset(q);
	q->ic_slot.queue = q;
	q->room_msg.fn = queue_room;
	q->end_msg.fn = queue_ended;
	q->late.fn = queue_look_late;
	q->late_due_ns = UINT64_MAX;
	*ret_queue = q;
	return 0;
}

void queue_free(struct queue *q)
{
	if (q == NULL)
		return;
	assert(q->state == QUEUE_IDLE && q->lent == 0);
	assert(!q->is_room_queued && !q->is_end_queued);
	queue_release(q);
}

/* ---- questions ------------------------------------------------------------------------------ */

enum queue_state queue_state(const struct queue *q)
{
	return q->state;
}

void *queue_owner(const struct queue *q)
{
	return q->opts.owner;
}

uint16_t queue_qid(const struct queue *q)
{
	return q->opts.qid;
}

const struct err *queue_err(const struct queue *q)
{
	return &q->err;
}

uint16_t queue_connect_status(const struct queue *q)
{
	return q->connect_status;
}

uint16_t queue_cntlid(const struct queue *q)
{
	return q->cntlid;
}

uint16_t queue_depth(const struct queue *q)
{
	return q->limit;
}

uint32_t queue_inflight(const struct queue *q)
{
	return q->inflight;
}

const char *queue_peer(const struct queue *q)
{
	return q->peer;
}

void queue_on_room(struct queue *q, void (*room)(struct queue *q))
{
	q->room = room;
}

const struct queue_stats *queue_stats(const struct queue *q)
{
	return &q->stats;
}
