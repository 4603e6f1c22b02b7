/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chan.c - a remote namespace on one reactor: requests become commands, answers become statuses.
 *
 *   submit -> pick a path -> slot of its queue -> sent ... answered -> complete
 *                |   ^                                         |
 *        no path |   | a view with paths, room, a delay        | lost, path error, busy
 *                v   |                                         v
 *              waiting <---------------------------------------+
 *
 * The channel knows what it may use as a *view*: an array of queues that its head made and sent.
 * Picking a path is an index into it and a look whether that queue has a slot. A queue that dropped
 * answers "none" at once, long before the control side has noticed; so failover to a path that
 * stands costs nothing but the turn in which the loss was seen.
 *
 * Requests that find no path wait in order, in memory that is theirs. They leave when a view with
 * paths comes, or fail when a view says so. How long that may take is head.c's business.
 *
 * Exactly once. The queue calls back once for each command, and a request is sent again only after
 * that. Sent again is what a repeat changes nothing about: reads, writes, zeroes, unmap, flush,
 * compare. A write whose answer was lost may thus be carried out twice, with the same data. It
 * waits until nothing of its first copy is left at the target (fence.c), so none can land on top of
 * what its owner writes there once he knows that it is done. A compare-and-write is not sent again
 * once any of it has left: its first half would meet its own result and report a difference that
 * never was. Nor is what users pass through, whose meaning we do not know. Both end with
 * IO_TRANSPORT, and the owner knows what that means for them.
 *
 * Errors of the path (type 3, an ANA state) take the path out of this reactor's view and ask the
 * head to look again. A controller that is busy or interrupted (no do-not-retry bit) is asked again
 * after the delay that it names (CRDT), else RETRY_NS. All together NVMF_TRIES_MAX times.
 *
 * Late commands: see ioq_late(). An aborted command ends with IO_TIMED_OUT; it is not sent again,
 * because the medium, not the path, was slow. One that an Abort was sent for in vain and whose
 * connection then ended is lost as any other: silence says nothing about the medium.
 *
 * Large write-zeroes and unmaps are cut to what the controller takes and sent one after the other.
 *
 * Thread: the channel's reactor; what is marked primary there.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/units.h"
#include "device/emulate.h"
#include "drivers/nvmf/ctrlr.h"

enum {
	NLB_MAX = 1 << 16,       /* of one command: 16 bits, 0's based */
	CRDT_UNIT_MS = 100,      /* Base 5.17.2.1 */
	CRDT_MAX_MS = 10 * 1000, /* a controller that wants more is not waited for longer */
	FUSED_PARTS = 2,
	DRAIN_MS = 2000,  /* for what is in flight on a path that is taken away */
	NEW_VIEW_MS = 50, /* before the ANA log is read because of an error */
};

#define RETRY_NS (100 * NS_PER_MS)

/* What a request remembers while it is here; io->scratch. */
struct req {
	uint32_t done_nlb; /* of an operation that is sent in parts */
	uint16_t status;   /* worst answer of a fused pair, as in slot.status */
	uint8_t tries;
	uint8_t out;     /* slots that have not come back */
	bool is_aborted; /* we sent an Abort for it */
	bool is_sent;    /* some of a lost one may have taken effect */
	uint32_t serial; /* then: of the association that had it (fence.c) */
};
static_assert(sizeof(struct req) <= sizeof(((struct io *)0)->scratch), "it fits");

enum sent {
	SENT,
	SENT_NOT,  /* no path, or no room: it waits */
	SENT_DONE, /* io->status is set */
};

static struct req *req_of(struct io *io)
{
	return (struct req *)(void *)io->scratch;
}

static enum sent chan_send(struct nvmf_chan *chan, struct io *io);

/* ---- waiting ------------------------------------------------------------------------------ */

static void chan_push_front(struct nvmf_chan *chan, struct msg *msg)
{
	struct msg_list *list = &chan->waiting;

	if (list->head == NULL)
		list->tail = msg;
	atomic_store_explicit(&msg->next, list->head, memory_order_relaxed);
	list->head = msg;
}

static void chan_drain(struct msg *msg)
{
	struct nvmf_chan *chan = container_of(msg, struct nvmf_chan, drain);

	chan->is_draining = false;
	while ((msg = msg_list_pop(&chan->waiting)) != NULL) {
		struct io *io = container_of(msg, struct io, msg);
		enum sent sent = chan_send(chan, io);

		if (sent == SENT_NOT) {
			chan_push_front(chan, msg);
			return;
		}
		if (sent == SENT_DONE)
			io_complete(io, io->status);
	}
}

static void chan_drain_soon(struct nvmf_chan *chan)
{
	if (chan->is_draining || chan->waiting.head == NULL)
		return;
	chan->is_draining = true;
	chan->drain.fn = chan_drain;
	reactor_defer(chan->ch.reactor, &chan->drain);
}

/* May what a lost association had still be carried out? */
static bool view_may_act(const struct nvmf_view *view, uint32_t serial)
{
	if ((int32_t)(serial - view->horizon) > 0)
		return true;
	for (unsigned i = 0; i < view->nacting; i++) {
		if (view->acting[i] == serial)
			return true;
	}
	return false;
}

/* Lost writes go on when nothing of their first copy is left, and fail with the channel. */
static void chan_unfence(struct nvmf_chan *chan)
{
	const struct nvmf_view *view = &chan->view;
	bool has_failed = view->fail != IO_OK && (view->n == 0 || view->fail == IO_NO_DEVICE);
	struct msg_list list = chan->fenced;
	struct msg *msg;

	chan->fenced = (struct msg_list){};
	if (list.head == NULL)
		return;
	while ((msg = msg_list_pop(&list)) != NULL) {
		struct io *io = container_of(msg, struct io, msg);

		if (has_failed) {
			io_complete(io, view->fail);
		} else if (view_may_act(view, req_of(io)->serial)) {
			msg_list_push(&chan->fenced, msg);
		} else {
			req_of(io)->serial = 0;
			msg_list_push(&chan->waiting, msg);
		}
	}
	if (chan->fenced.head == NULL)
		timer_disarm(chan->ch.reactor, &chan->fence_timer);
}

/* The target never said that nothing is left of them. Theirs is the end that nobody knows. */
static void chan_fence_due(struct timer *timer)
{
	struct nvmf_chan *chan = container_of(timer, struct nvmf_chan, fence_timer);
	struct msg_list list = chan->fenced;
	struct msg *msg;

	chan->fenced = (struct msg_list){};
	if (list.head != NULL)
		log_warn("%s: the target does not say what became of lost writes, they fail",
			 chan->ch.dev->name);
	while ((msg = msg_list_pop(&list)) != NULL)
		io_complete(container_of(msg, struct io, msg), IO_TRANSPORT);
}

/* Until a view comes that tells; not for longer than a controller may be lost. */
static void chan_hold_fenced(struct nvmf_chan *chan, struct io *io)
{
	const struct nvmf_opts *opts = &chan->head->opts;

	msg_list_push(&chan->fenced, &io->msg);
	if (chan->fence_timer.is_armed)
		return;
	chan->fence_timer.fn = chan_fence_due;
	timer_arm(chan->ch.reactor, &chan->fence_timer,
		  MAX(opts->ctrl_loss_ns, opts->io_timeout_ns));
}

static void chan_hold(struct nvmf_chan *chan, struct io *io)
{
	msg_list_push(&chan->waiting, &io->msg);
}

static void chan_later_due(struct timer *timer)
{
	struct nvmf_chan *chan = container_of(timer, struct nvmf_chan, later_timer);
	struct msg *msg;

	while ((msg = msg_list_pop(&chan->later)) != NULL)
		msg_list_push(&chan->waiting, msg);
	chan_drain_soon(chan);
}

/* Again after a while. All that wait so wait for the same moment: one timer is enough. */
static void chan_hold_later(struct nvmf_chan *chan, struct io *io, uint64_t delay_ns)
{
	msg_list_push(&chan->later, &io->msg);
	if (!chan->later_timer.is_armed) {
		chan->later_timer.fn = chan_later_due;
		timer_arm(chan->ch.reactor, &chan->later_timer, delay_ns);
	}
}

void ioq_wake(struct nvmf_ioq *ioq)
{
	while (!list_empty(&ioq->waiters)) {
		struct nvmf_chan *chan = list_first_entry(&ioq->waiters, struct nvmf_chan, room);

		list_del(&chan->room);
		chan_drain_soon(chan);
	}
}

void ioq_room(struct queue *q)
{
	ioq_wake(queue_owner(q));
}

static void chan_wait_room(struct nvmf_chan *chan, struct nvmf_ioq *ioq)
{
	if (!list_empty(&chan->room))
		return;
	list_add_tail(&ioq->waiters, &chan->room);
	queue_on_room(ioq->q, ioq_room);
}

/* ---- choosing a path ---------------------------------------------------------------------- */

static unsigned chan_least_busy(const struct nvmf_chan *chan)
{
	uint32_t least = UINT32_MAX;
	unsigned best = 0;

	for (unsigned i = 0; i < chan->view.n; i++) {
		const struct queue *q = chan->view.ioq[i]->q;
		uint32_t inflight = queue_inflight(q);

		if (queue_state(q) == QUEUE_LIVE && inflight < least) {
			least = inflight;
			best = i;
		}
	}
	return best;
}

/* The first path from @turn on that has a slot; NULL: none, then wait for room if that helps. */
static struct slot *chan_slot(struct nvmf_chan *chan, uint32_t *ret_nsid)
{
	const struct nvmf_view *view = &chan->view;
	struct nvmf_ioq *full = NULL;
	unsigned at = chan->turn;

	if (unlikely(chan->is_by_depth))
		at = chan_least_busy(chan);
	for (unsigned i = 0; i < view->n; i++) {
		struct nvmf_ioq *ioq = view->ioq[at];
		struct slot *slot = queue_get(ioq->q);

		if (likely(slot != NULL)) {
			*ret_nsid = view->nsid[at];
			chan->turn = (uint8_t)(at + 1 < view->n ? at + 1 : 0);
			return slot;
		}
		if (queue_state(ioq->q) == QUEUE_LIVE)
			full = ioq;
		at = at + 1 < view->n ? at + 1 : 0;
	}
	if (full != NULL)
		chan_wait_room(chan, full);
	return NULL;
}

/* Not this one, until the head has looked again. */
static void chan_exclude(struct nvmf_chan *chan, const struct nvmf_ioq *ioq)
{
	struct nvmf_view *view = &chan->view;

	for (unsigned i = 0; i < view->n; i++) {
		if (view->ioq[i] != ioq)
			continue;
		view->n--;
		view->ioq[i] = view->ioq[view->n];
		view->nsid[i] = view->nsid[view->n];
		break;
	}
	chan->turn = 0;
}

/* ---- messages to the primary -------------------------------------------------------------- */

static void ioq_kick_arrived(struct msg *msg)
{
	struct nvmf_ioq *ioq = container_of(msg, struct nvmf_ioq, kick_msg);
	struct nvmf_ctrlr *c = ioq->ctrlr;
	unsigned kicks;

	atomic_store(&ioq->is_kicking, false);
	kicks = atomic_exchange(&ioq->kick, 0);
	/* errors told of another state: look a little later, once for all of them */
	if (kicks & KICK_ANA && c->state == CTRLR_LIVE)
		ctrlr_kick_later(c, KICK_ANA, NEW_VIEW_MS * NS_PER_MS);
	if (kicks & KICK_RESET && c->state == CTRLR_LIVE) {
		err_clear(&c->why);
		(void)err_set(&c->why, -ETIMEDOUT, "a command was not answered in time");
	}
	ctrlr_kick(c, kicks & ~(unsigned)KICK_ANA);
}

static void ioq_kick(struct nvmf_ioq *ioq, unsigned kicks)
{
	(void)atomic_fetch_or(&ioq->kick, kicks);
	if (atomic_exchange(&ioq->is_kicking, true))
		return;
	ioq->kick_msg.fn = ioq_kick_arrived;
	reactor_post(reactor_primary(), &ioq->kick_msg);
}

static void ioq_abort_arrived(struct msg *msg)
{
	struct nvmf_ioq *ioq = container_of(msg, struct nvmf_ioq, abort_msg);

	ctrlr_abort(ioq->ctrlr, ioq->qid, ioq->abort_cid);
	atomic_store(&ioq->is_abort_posted, false);
}

/* One writer, so no locked instruction. */
static void ioq_count(_Atomic uint64_t *counter)
{
	uint64_t n = atomic_load_explicit(counter, memory_order_relaxed);

	atomic_store_explicit(counter, n + 1, memory_order_relaxed);
}

/*
 * A command has been in flight for io_timeout (again). The first time it is aborted, the second
 * time, or when another abort is under way, the controller is reset: then it is lost, and the rules
 * for lost commands hold. Who prefers to wait, or to be rid of such a controller at once, says so;
 * with ctrl_loss=0 there is no way back from it.
 */
void ioq_late(struct queue *q, struct slot *slot)
{
	struct nvmf_ioq *ioq = queue_owner(q);
	const struct nvmf_opts *opts = &ioq->ctrlr->opts;
	char text[UNITS_TEXT_MAX];

	ioq_count(&ioq->late);
	if (ioq->late_ns != ioq->reactor->now_ns) /* a whole queue may be late: one line for it */
		log_warn("%s: I/O queue %u: command %#x is not answered after %s", ioq->ctrlr->name,
			 ioq->qid, slot->sqe.opcode, duration_format(opts->io_timeout_ns, text));
	ioq->late_ns = ioq->reactor->now_ns;
	if (opts->on_timeout == NVMF_TIMEOUT_IGNORE)
		return;
	if (opts->on_timeout == NVMF_TIMEOUT_REMOVE) {
		ioq_kick(ioq, KICK_GIVE_UP);
		return;
	}
	if (opts->on_timeout == NVMF_TIMEOUT_ABORT && ioq->aborting == NULL &&
	    !atomic_load(&ioq->is_abort_posted)) {
		ioq->aborting = slot;
		ioq->abort_cid = slot->cid;
		atomic_store(&ioq->is_abort_posted, true);
		ioq->abort_msg.fn = ioq_abort_arrived;
		reactor_post(reactor_primary(), &ioq->abort_msg);
		return;
	}
	/* where the loss of a connection is the end, silence is one: who answers when it is made
	 * again may have lost power meanwhile, and with it what was not flushed */
	ioq_kick(ioq, opts->ctrl_loss_ns == 0 ? KICK_RESET | KICK_LOST : KICK_RESET);
}

/* ---- the way back ------------------------------------------------------------------------- */

static bool is_repeatable(const struct io *io)
{
	return io->op != IO_COMPARE_WRITE && io->op != IO_NVME_IO;
}

static bool slot_is_lost(uint16_t status)
{
	return status & NVMF_LOST || (status & 0x7ffu) == NVME_SC_ABORTED_SQ_DELETION;
}

static uint16_t io_status_of(uint16_t status)
{
	if (status & NVMF_LOST)
		return IO_TRANSPORT;
	return io_status_from_nvme(status >> 8 & 7, status & 0xff);
}

/* Retry delay that a status asks for: CRD in bits 12:11 names one of the controller's three. */
static uint64_t crd_ns(const struct nvmf_ioq *ioq, uint16_t status)
{
	unsigned crd = status >> NVME_STATUS_CRD_SHIFT & 3;
	uint64_t ms;

	if (crd == 0)
		return RETRY_NS;
	ms = (uint64_t)ioq->ctrlr->info.crdt[crd - 1] * CRDT_UNIT_MS;
	return CLAMP(ms, (uint64_t)1, (uint64_t)CRDT_MAX_MS) * NS_PER_MS;
}

static bool is_busy(uint16_t status)
{
	unsigned code = status & 0x7ffu;

	return !(status & NVME_STATUS_DNR) &&
	       (code == NVME_SC_COMMAND_INTERRUPTED || code == NVME_SC_TRANSIENT_TRANSPORT ||
		code == NVME_SC_NAMESPACE_NOT_READY);
}

/* Does the status tell of the path and not of the request? */
static bool is_path_error(uint16_t status)
{
	return (status >> 8 & 7) == NVME_SCT_PATH;
}

/* A command ended badly. True: the request is on its way again. */
static bool chan_retry(struct nvmf_chan *chan, struct io *io, struct nvmf_ioq *ioq, uint16_t status)
{
	struct req *req = req_of(io);
	bool is_lost = slot_is_lost(status);

	if (chan->is_aborted || (req->is_aborted && !is_lost) || req->tries >= NVMF_TRIES_MAX)
		return false;
	if (is_lost && req->is_sent && !is_repeatable(io))
		return false;
	if (!is_lost && !is_path_error(status) && !is_busy(status))
		return false;
	req->tries++;
	req->is_sent = req->is_aborted = false;
	ioq_count(&ioq->retries);
	if (req->serial != 0) {
		chan_hold_fenced(chan, io);
		return true;
	}
	if (is_path_error(status)) {
		chan_exclude(chan, ioq);
		ioq_kick(ioq, KICK_ANA);
	}
	if (is_busy(status) || (is_path_error(status) && req->tries > 2)) {
		chan_hold_later(chan, io, crd_ns(ioq, status));
	} else {
		chan_hold(chan, io);
		chan_drain_soon(chan);
	}
	return true;
}

static void chan_end(struct nvmf_chan *chan, struct io *io, struct nvmf_ioq *ioq, uint16_t status)
{
	struct req *req = req_of(io);

	if (status != 0 && chan_retry(chan, io, ioq, status))
		return;
	if (unlikely(req->is_aborted && (status & 0x7ffu) == NVME_SC_ABORT_REQUESTED))
		io_complete(io, IO_TIMED_OUT);
	else
		io_complete(io, io_status_of(status));
}

static bool is_writing(const struct io *io)
{
	return IO_BIT(io->op) & (IO_OPS_WRITING | IO_BIT(IO_NVME_IO));
}

/* The connection ended. What was sent may have taken effect, or may still do so. */
static void req_lost(struct req *req, const struct slot *slot, struct nvmf_ioq *ioq)
{
	const struct io *io = slot->owner;

	if (slot->is_unsent)
		return;
	req->is_sent = true;
	if (!is_writing(io))
		return;
	req->serial = ioq->serial;
	ioq->has_lost_write = true;
}

/* What every answer does first. */
static struct nvmf_ioq *slot_came_back(struct slot *slot)
{
	struct nvmf_ioq *ioq = queue_owner(slot->queue);
	struct req *req = req_of(slot->owner);

	if (unlikely(!atomic_load_explicit(&ioq->has_traffic, memory_order_relaxed)))
		atomic_store_explicit(&ioq->has_traffic, true, memory_order_relaxed);
	if (unlikely(ioq->aborting == slot)) {
		ioq->aborting = NULL;
		req->is_aborted = slot->status != 0 && !(slot->status & NVMF_LOST);
	}
	if (unlikely(slot_is_lost(slot->status)))
		req_lost(req, slot, ioq);
	return ioq;
}

static void whole_done(struct slot *slot)
{
	struct nvmf_ioq *ioq = slot_came_back(slot);
	struct io *io = slot->owner;

	if (likely(slot->status == 0))
		io_complete(io, IO_OK);
	else
		chan_end(chan_of(io_top(io)->ch), io, ioq, slot->status);
}

static void passthru_done(struct slot *slot)
{
	struct io *io = slot->owner;

	io->result = slot->dw0;
	whole_done(slot);
}

static uint32_t part_nlb(const struct nvmf_ioq *ioq, const struct io *io)
{
	const struct nvmf_ctrl_info *info = &ioq->ctrlr->info;
	uint32_t left = io->nlb - req_of((struct io *)(uintptr_t)io)->done_nlb;
	uint64_t most = NLB_MAX;

	if (io->op == IO_WRITE_ZEROES && info->wz_max != 0) {
		most = MIN(most, info->wz_max >> io->ch->block_shift);
	} else if (io->op == IO_UNMAP) {
		most = info->dsm_range_max != 0 ? info->dsm_range_max : UINT32_MAX;
		if (info->dsm_max != 0)
			most = MIN(most, info->dsm_max);
	}
	return (uint32_t)MIN((uint64_t)left, MAX(most, 1u));
}

static void part_done(struct slot *slot)
{
	struct nvmf_ioq *ioq = slot_came_back(slot);
	struct io *io = slot->owner;
	struct nvmf_chan *chan = chan_of(io_top(io)->ch);
	struct req *req = req_of(io);
	enum sent sent;

	if (slot->status != 0) {
		chan_end(chan, io, ioq, slot->status);
		return;
	}
	req->done_nlb += part_nlb(ioq, io);
	if (req->done_nlb >= io->nlb) {
		io_complete(io, IO_OK);
		return;
	}
	sent = chan_send(chan, io);
	if (sent == SENT_NOT)
		chan_hold(chan, io);
	else if (sent == SENT_DONE)
		io_complete(io, io->status);
}

/* The write of a pair fails because the compare did: the compare's answer is the one to give. */
static bool is_worse(uint16_t status, uint16_t than)
{
	if (than == 0 || (than & 0x7ffu) == NVME_SC_FAILED_FUSED)
		return status != 0;
	return false;
}

static void fused_done(struct slot *slot)
{
	struct nvmf_ioq *ioq = slot_came_back(slot);
	struct io *io = slot->owner;
	struct req *req = req_of(io);

	if (is_worse(slot->status, req->status))
		req->status = slot->status;
	if (--req->out == 0)
		chan_end(chan_of(io_top(io)->ch), io, ioq, req->status);
}

/* ---- the way there ------------------------------------------------------------------------ */

static void cmd_range(struct slot *slot, uint64_t lba, uint32_t nlb, uint32_t flags)
{
	le32_put(&slot->sqe.cdw10, (uint32_t)lba);
	le32_put(&slot->sqe.cdw11, (uint32_t)(lba >> 32));
	le32_put(&slot->sqe.cdw12, (nlb - 1) | flags);
}

static void cmd_data(struct slot *slot, const struct io *io, uint8_t dir)
{
	slot->iov = io->iov;
	slot->iovcnt = io->iovcnt;
	slot->len = io->nlb << io->ch->block_shift;
	slot->dir = dir;
}

static uint32_t flags_of(const struct io *io)
{
	uint32_t flags = io->flags & IO_FUA ? (uint32_t)NVME_RW_FUA : 0;

	if (io->op == IO_READ && io->flags & IO_UNWRITTEN_FAIL)
		flags |= NVME_RW_UNWRITTEN_FAIL;
	if (io->op == IO_READ && io->flags & IO_CURRENT_UNWRITTEN_FAIL)
		flags |= NVME_RW_CURRENT_UNWRITTEN_FAIL;
	if (io->op == IO_WRITE_ZEROES && !(io->flags & IO_NO_DEALLOCATE) &&
	    head_of(io->ch->dev)->ns.has_wz_deac)
		flags |= NVME_RW_DEAC;
	return flags;
}

static void cmd_unmap(struct slot *slot, const struct io *io, uint64_t lba, uint32_t nlb)
{
	struct nvmf_ioq *ioq = queue_owner(slot->queue);
	struct nvmf_dsm *dsm = &ioq->dsm[slot->tag];

	dsm->range = (struct nvme_dsm_range){};
	le32_put(&dsm->range.nlb, nlb);
	le64_put(&dsm->range.slba, lba);
	dsm->iov = (struct iovec){ .iov_base = &dsm->range, .iov_len = sizeof(dsm->range) };
	slot->sqe.opcode = NVME_IO_DSM;
	le32_put(&slot->sqe.cdw10, 0); /* one range, 0's based */
	le32_put(&slot->sqe.cdw11, NVME_DSM_DEALLOCATE);
	slot->iov = &dsm->iov;
	slot->iovcnt = 1;
	slot->len = sizeof(dsm->range);
	slot->dir = SLOT_H2C;
	(void)io;
}

static void send_part(struct slot *slot, struct io *io)
{
	const struct nvmf_ioq *ioq = queue_owner(slot->queue);
	const uint32_t done = req_of(io)->done_nlb, nlb = part_nlb(ioq, io);

	if (io->op == IO_UNMAP) {
		cmd_unmap(slot, io, io->lba + done, nlb);
	} else {
		slot->sqe.opcode = NVME_IO_WRITE_ZEROES;
		cmd_range(slot, io->lba + done, nlb, flags_of(io));
	}
	slot->done = part_done;
	queue_send(slot);
}

/* iov holds the blocks to compare, then those to write. Both slots are of one queue, in order. */
static enum sent send_fused(struct nvmf_chan *chan, struct slot *first, struct io *io,
			    uint32_t nsid)
{
	struct nvmf_ioq *ioq = queue_owner(first->queue);
	struct req *req = req_of(io);
	struct slot *second;

	if (io->nlb > chan->head->dev.max_compare_write_nlb) {
		queue_put(first);
		io->status = IO_INVALID; /* more than it does atomically */
		return SENT_DONE;
	}
	second = queue_get(first->queue);
	if (second == NULL) {
		queue_put(first);
		chan_wait_room(chan, ioq);
		return SENT_NOT;
	}
	first->sqe.opcode = NVME_IO_COMPARE;
	first->sqe.flags = NVME_CMD_FUSE_FIRST;
	second->sqe.opcode = NVME_IO_WRITE;
	second->sqe.flags = NVME_CMD_FUSE_SECOND;
	le32_put(&second->sqe.nsid, nsid);
	cmd_range(first, io->lba, io->nlb, 0);
	cmd_range(second, io->lba, io->nlb, flags_of(io));
	cmd_data(first, io, SLOT_H2C);
	cmd_data(second, io, SLOT_H2C);
	second->iov_off = second->len;
	first->done = second->done = fused_done;
	second->owner = io;
	req->out = FUSED_PARTS;
	req->status = 0;
	queue_send(first);
	queue_send(second);
	return SENT;
}

/* What would change how the queue or its partner is understood is not passed through. */
static enum sent send_passthru(struct slot *slot, struct io *io, uint32_t nsid)
{
	const struct nvme_cmd *cmd = io->cmd;
	size_t len = iov_bytes(io->iov, io->iovcnt);
	unsigned dir = cmd != NULL ? cmd->opcode & 3u : 0;

	io->status = IO_OK;
	if (cmd == NULL || cmd->opcode == NVME_FABRICS || dir == 3 ||
	    cmd->flags & NVME_CMD_FUSE_MASK)
		io->status = IO_UNSUPPORTED;
	else if (len > QUEUE_DATA_MAX || io->iovcnt > QUEUE_IOV_MAX || (len > 0) != (dir != 0))
		io->status = IO_INVALID;
	if (io->status != IO_OK) {
		queue_put(slot);
		return SENT_DONE;
	}
	slot->sqe = *cmd;
	le32_put(&slot->sqe.nsid, nsid);
	slot->iov = io->iov;
	slot->iovcnt = io->iovcnt;
	slot->len = (uint32_t)len;
	slot->dir = dir == 0 ? SLOT_NO_DATA : dir == 1 ? SLOT_H2C : SLOT_C2H;
	slot->done = passthru_done;
	queue_send(slot);
	return SENT;
}

/* Whole commands with the same shape. */
static void send_data(struct slot *slot, struct io *io, uint8_t opcode, uint8_t dir)
{
	slot->sqe.opcode = opcode;
	cmd_range(slot, io->lba, io->nlb, flags_of(io));
	cmd_data(slot, io, dir);
	slot->done = whole_done;
	queue_send(slot);
}

static enum sent chan_send(struct nvmf_chan *chan, struct io *io)
{
	uint32_t nsid = 0;
	struct slot *slot = chan_slot(chan, &nsid);

	if (unlikely(slot == NULL)) {
		if (chan->view.fail == IO_OK || !list_empty(&chan->room))
			return SENT_NOT;
		io->status = chan->view.fail;
		return SENT_DONE;
	}
	le32_put(&slot->sqe.nsid, nsid);
	slot->owner = io;
	switch (io->op) {
	case IO_READ:
		send_data(slot, io, NVME_IO_READ, SLOT_C2H);
		return SENT;
	case IO_WRITE:
		send_data(slot, io, NVME_IO_WRITE, SLOT_H2C);
		return SENT;
	case IO_COMPARE:
		send_data(slot, io, NVME_IO_COMPARE, SLOT_H2C);
		return SENT;
	case IO_FLUSH:
		slot->sqe.opcode = NVME_IO_FLUSH;
		slot->done = whole_done;
		queue_send(slot);
		return SENT;
	case IO_WRITE_ZEROES:
	case IO_UNMAP:
		send_part(slot, io);
		return SENT;
	case IO_COMPARE_WRITE:
		return send_fused(chan, slot, io, nsid);
	case IO_NVME_IO:
		return send_passthru(slot, io, nsid);
	default:
		queue_put(slot);
		io->status = IO_UNSUPPORTED;
		return SENT_DONE;
	}
}

/* Admin commands and resets are the primary's. */
static void forward_arrived(struct msg *msg)
{
	struct io *io = container_of(msg, struct io, msg);

	head_forward(head_of(io_top(io)->ch->dev), io);
}

static enum io_result chan_submit_slow(struct channel *ch, struct io *io)
{
	if (io->op == IO_NVME_ADMIN || io->op == IO_RESET) {
		io->msg.fn = forward_arrived;
		reactor_post(reactor_primary(), &io->msg);
		return IO_PENDING;
	}
	if (io->iovcnt > QUEUE_IOV_MAX && IO_BIT(io->op) & IO_OPS_WITH_DATA)
		return io_bounce(ch, io);
	io->status = IO_OK; /* no blocks, nothing to do */
	return IO_DONE;
}

enum io_result chan_submit(struct channel *ch, struct io *io)
{
	const uint32_t here = ~(IO_BIT(IO_NVME_ADMIN) | IO_BIT(IO_RESET));
	struct nvmf_chan *chan = chan_of(ch);
	enum sent sent;

	if (unlikely(!(IO_BIT(io->op) & here) || (IO_BIT(io->op) & IO_OPS_WITH_RANGE &&
						  (io->nlb == 0 || io->iovcnt > QUEUE_IOV_MAX))))
		return chan_submit_slow(ch, io);
	*req_of(io) = (struct req){};
	if (unlikely(chan->waiting.head != NULL)) {
		chan_hold(chan, io); /* behind those that came earlier */
		return IO_PENDING;
	}
	sent = chan_send(chan, io);
	if (likely(sent == SENT))
		return IO_PENDING;
	if (sent == SENT_DONE)
		return IO_DONE;
	chan_hold(chan, io);
	return IO_PENDING;
}

/* ---- views (primary) ---------------------------------------------------------------------- */

static void chan_landed(struct msg *msg)
{
	struct nvmf_chan *chan = container_of(msg, struct nvmf_chan, post);

	chan->is_posted = false;
	if (chan->is_stale)
		chan_publish(chan);
	else if (chan->landed != NULL)
		task_event_fire(chan->landed);
}

/* On the channel's reactor. */
static void chan_land(struct msg *msg)
{
	struct nvmf_chan *chan = container_of(msg, struct nvmf_chan, post);

	if (!chan->is_aborted)
		chan->view = chan->next;
	chan->turn = 0;
	chan_unfence(chan);
	list_del(&chan->room); /* it may have waited for a queue that is not in it any more */
	chan_drain_soon(chan);
	msg->fn = chan_landed;
	reactor_post(reactor_primary(), msg);
}

void chan_publish(struct nvmf_chan *chan)
{
	if (chan->is_posted) {
		chan->is_stale = true;
		return;
	}
	chan->is_stale = false;
	chan->is_posted = true;
	head_view(chan->head, chan, &chan->next);
	chan->post.fn = chan_land;
	reactor_post(chan->ch.reactor, &chan->post);
}

void chan_settle(struct nvmf_chan *chan)
{
	struct task_event landed = {};

	if (!chan->is_posted)
		return;
	chan->landed = &landed;
	task_event_wait(&landed);
	chan->landed = NULL;
}

/* ---- coming and going (primary) ----------------------------------------------------------- */

int chan_add_path(struct nvmf_chan *chan, struct nvmf_path *path, struct err *err)
{
	return ioq_get(path->ctrlr, chan->ch.reactor, &chan->ioq[path->slot], err);
}

struct inflight_call {
	const struct nvmf_ioq *ioq;
	uint32_t count;
};

static void ioq_inflight_here(void *arg)
{
	struct inflight_call *call = arg;

	call->count = queue_inflight(call->ioq->q);
}

/* What was sent over a path that is healthy is answered before it goes. */
static void ioq_drain(struct nvmf_ioq *ioq)
{
	struct inflight_call call = { .ioq = ioq };

	for (unsigned ms = 0; ms < DRAIN_MS && ioq->ctrlr->state == CTRLR_LIVE; ms++) {
		task_call(ioq->reactor, ioq_inflight_here, &call);
		if (call.count == 0)
			break;
		task_sleep(NS_PER_MS);
	}
}

/* The view without it has landed before its queue goes; what is in flight there is given a while to
 * end, is lost then, and finds another path. */
void chan_remove_path(struct nvmf_chan *chan, struct nvmf_path *path)
{
	struct nvmf_ioq *ioq = chan->ioq[path->slot];

	chan_publish(chan);
	chan_settle(chan);
	if (ioq != NULL && !chan->head->is_removed)
		ioq_drain(ioq);
	chan->ioq[path->slot] = NULL;
	ioq_put(ioq);
}

/* ---- giving up ---------------------------------------------------------------------------- */

struct chan_cut {
	struct nvmf_chan *chan;
	struct nvmf_ioq *ioq[PATHS_MAX]; /* counted meanwhile */
};

static bool has_commands_of(struct queue *q, const struct nvmf_chan *chan)
{
	for (struct slot *slot = queue_next_inflight(q, NULL); slot != NULL;
	     slot = queue_next_inflight(q, slot)) {
		struct io *io = slot->owner;

		if (io != NULL && io_top(io)->ch == &chan->ch) /* NULL: the queue's own Connect */
			return true;
	}
	return false;
}

static void chan_abort_here(void *arg)
{
	struct chan_cut *cut = arg;
	struct nvmf_chan *chan = cut->chan;
	struct msg *msg;

	chan->is_aborted = true;
	chan->view = (struct nvmf_view){ .fail = IO_TRANSPORT };
	list_del(&chan->room);
	timer_disarm(chan->ch.reactor, &chan->later_timer);
	timer_disarm(chan->ch.reactor, &chan->fence_timer);
	while ((msg = msg_list_pop(&chan->fenced)) != NULL)
		msg_list_push(&chan->waiting, msg);
	chan_later_due(&chan->later_timer);
	for (unsigned i = 0; i < PATHS_MAX; i++) {
		if (cut->ioq[i] != NULL && has_commands_of(cut->ioq[i]->q, chan))
			queue_disconnect(cut->ioq[i]->q, -ECONNABORTED);
	}
}

/*
 * What is in flight points to its owners' memory, so only the end of the connection ends it. Other
 * namespaces behind the same controller lose that connection, too, and make another.
 */
void chan_abort(struct channel *ch)
{
	struct chan_cut cut = { .chan = chan_of(ch) };

	for (unsigned i = 0; i < PATHS_MAX; i++) {
		cut.ioq[i] = cut.chan->ioq[i];
		if (cut.ioq[i] != NULL)
			cut.ioq[i]->refs++;
	}
	task_call(ch->reactor, chan_abort_here, &cut);
	for (unsigned i = 0; i < PATHS_MAX; i++)
		ioq_put(cut.ioq[i]);
}

static void chan_close_here(void *arg)
{
	struct nvmf_chan *chan = arg;

	assert(chan->waiting.head == NULL && chan->later.head == NULL && chan->fenced.head == NULL);
	timer_disarm(chan->ch.reactor, &chan->later_timer);
	timer_disarm(chan->ch.reactor, &chan->fence_timer);
	list_del(&chan->room);
}

int chan_open(struct channel *ch, struct err *err)
{
	struct nvmf_chan *chan = chan_of(ch);
	struct nvmf_head *head = head_of(ch->dev);
	struct nvmf_path *path;
	struct err why = {};
	unsigned nopen = 0;
	int result = 0;

	chan->head = head;
	chan->is_by_depth = head->opts.iopolicy == NVMF_QUEUE_DEPTH;
	list_init(&chan->room);
	task_mutex_lock(&head->lock);
	list_for_each (path, &head->paths, link) {
		int rc = chan_add_path(chan, path, &why);

		nopen += rc == 0;
		result = rc < 0 ? rc : result;
	}
	if (nopen > 0 && result < 0)
		log_warn("%s: reactor %u goes without one path: %s", head->dev.name,
			 ch->reactor->id, err_text(&why));
	if (nopen > 0) {
		head->chan[ch->reactor->id] = chan;
		chan_publish(chan);
		chan_settle(chan);
		result = 0;
	} else {
		(void)err_set(err, result, "%s", err_text(&why));
	}
	task_mutex_unlock(&head->lock);
	return result;
}

void chan_close(struct channel *ch)
{
	struct nvmf_chan *chan = chan_of(ch);
	struct nvmf_head *head = chan->head;

	task_mutex_lock(&head->lock);
	head->chan[ch->reactor->id] = NULL;
	chan->is_stale = false;
	chan_settle(chan);
	task_call(ch->reactor, chan_close_here, chan);
	for (unsigned i = 0; i < PATHS_MAX; i++)
		ioq_put(chan->ioq[i]);
	task_mutex_unlock(&head->lock);
}
