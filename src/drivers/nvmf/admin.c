/* SPDX-License-Identifier: Apache-2.0 */
/*
 * admin.c - commands on a controller's admin queue: waiting forms, events, keep alive, and what
 * users of a device pass through.
 *
 * Control work waits: a task sends a command, suspends, and gets the answer or the loss of the
 * connection; a command that is not answered within admin_timeout costs the connection, because a
 * controller that does not answer its admin queue cannot be managed any more. So no waiting form
 * can hang, and no caller needs a timer.
 *
 * Keep alive (Base 2.0c, 3.9). KEEP_ALIVE_TICKS ticks per time-out; a command that is unanswered
 * after half of them ends the connection. Where the controller counts any command (TBKAS) a tick
 * sends nothing if an answer arrived on an I/O queue since the last. So a peer that was cut off
 * just behind a tick is seen with traffic by the next one, asked by the one after that, and given
 * up two ticks later: within the time-out, and not before half of it.
 *
 * Events. AERS_MAX requests stand with the controller. An answer names a log page; reading it is
 * work for the controller's task, so the answer only kicks it, and the request goes out again at
 * once: the controller keeps that kind of event back until the page was read (Base 5.2). One that
 * does not could keep us busy for ever, so after EVENTS_PER_S of them the request stays here for
 * the rest of the second; what changed meanwhile is told then.
 *
 * Pass-through commands come from any reactor as messages and go back the same way. They may not
 * fill the queue: ADMIN_RESERVE slots are for ourselves. Commands that would take the controller
 * from under us (queues, events, keep alive, fabrics) are refused.
 *
 * Thread: primary reactor.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/units.h"
#include "drivers/nvmf/ctrlr.h"

enum {
	ADMIN_RESERVE = 8,
	EVENTS_PER_S = 32,
	KEEP_ALIVE_TICKS = 4,     /* of a time-out */
	VENDOR_FIRST = 0xc0,      /* of the admin opcodes (Base 5) */
	ANA_GROUPS_ONLY = 1 << 0, /* RGO, in the log specific field (Base 5.16.1.13) */
};

/* Longer than any event takes: requests for events are never late. */
#define AER_TIMEOUT_NS (1ull << 60)

/* ---- the queue ---------------------------------------------------------------------------- */

static void admin_up(struct queue *q)
{
	struct nvmf_ctrlr *c = queue_owner(q);

	c->admin_result = 0;
	if (c->admin_up != NULL)
		task_event_fire(c->admin_up);
}

static void admin_down(struct queue *q, int reason)
{
	struct nvmf_ctrlr *c = queue_owner(q);

	c->admin_result = reason < 0 ? reason : -ENOTCONN;
	c->has_keep_alive_out = false;
	memset(c->aer, 0, sizeof(c->aer));
	if (c->admin_up != NULL)
		task_event_fire(c->admin_up);
	if (c->admin_down != NULL)
		task_event_fire(c->admin_down);
	if (c->state != CTRLR_LIVE)
		return;
	err_clear(&c->why);
	(void)err_set(&c->why, c->admin_result, "%s", err_text(queue_err(q)));
	ctrlr_kick(c, KICK_LOST);
}

static void admin_late(struct queue *q, struct slot *slot)
{
	struct nvmf_ctrlr *c = queue_owner(q);

	if (slot->sqe.opcode == NVME_ADMIN_ASYNC_EVENT)
		return;
	c->stats.late_admin++;
	log_warn("%s: admin command %#x is not answered, giving the connection up", c->name,
		 slot->sqe.opcode);
	queue_disconnect(q, -ETIMEDOUT);
}

int ctrlr_admin_new(struct nvmf_ctrlr *c, struct err *err)
{
	struct queue_opts opts = { .qid = NVME_QID_ADMIN,
				   .depth = ADMIN_DEPTH,
				   .owner = c,
				   .up = admin_up,
				   .down = admin_down,
				   .late = admin_late };

	return queue_new(&opts, &c->admin, err);
}

/* ---- waiting forms ------------------------------------------------------------------------ */

const char *nvmf_status_text(uint16_t status)
{
	static const struct {
		uint16_t status;
		const char *text;
	} texts[] = {
		{ NVME_SC_INVALID_OPCODE, "it does not know the command" },
		{ NVME_SC_INVALID_FIELD, "a field of the command is not to its liking" },
		{ NVME_SC_INTERNAL_ERROR, "internal error" },
		{ NVME_SC_ABORT_REQUESTED, "aborted" },
		{ NVME_SC_INVALID_NAMESPACE, "there is no such namespace" },
		{ NVME_SC_CONNECT_INCOMPATIBLE, "incompatible format of Connect" },
		{ NVME_SC_CONNECT_BUSY,
		  "it is busy: a limit of its connections is reached, or the volume has ended "
		  "there and may be served elsewhere; try again later" },
		{ NVME_SC_CONNECT_INVALID_PARAM, "it has no such subsystem" },
		{ NVME_SC_CONNECT_INVALID_HOST, "the subsystem does not admit this host" },
		{ NVME_SC_INVALID_LOG_PAGE, "it has no such log page" },
	};
	uint16_t code = status & 0x7ff;

	if (status & NVMF_LOST)
		return "the connection was lost";
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		if (texts[i].status == code)
			return texts[i].text;
	}
	return "see the NVMe specification";
}

struct admin_wait {
	struct admin_call *call;
	struct iovec iov;
	struct task_event event;
};

static void admin_wait_done(struct slot *slot)
{
	struct admin_wait *wait = slot->owner;

	wait->call->status = slot->status;
	wait->call->dw0 = slot->dw0;
	wait->call->dw1 = slot->dw1;
	task_event_fire(&wait->event);
}

int ctrlr_admin(struct nvmf_ctrlr *c, struct admin_call *call, const char *what, struct err *err)
{
	struct admin_wait wait = { .call = call,
				   .iov = { .iov_base = call->buf, .iov_len = call->len } };
	struct slot *slot = queue_get(c->admin);
	unsigned code;

	if (slot == NULL)
		return err_set(err, queue_state(c->admin) == QUEUE_LIVE ? -EBUSY : -ENOTCONN,
			       "%s: %s", what,
			       queue_state(c->admin) == QUEUE_LIVE ? "the admin queue is full"
								   : "not connected");
	slot->sqe = call->cmd;
	slot->iov = &wait.iov;
	slot->iovcnt = call->len > 0 ? 1 : 0;
	slot->len = call->len;
	if (call->len > 0)
		slot->dir = (call->cmd.opcode & 3) == 1 ? SLOT_H2C : SLOT_C2H;
	slot->done = admin_wait_done;
	slot->owner = &wait;
	slot->timeout_ns = call->timeout_ns;
	queue_send(slot);
	task_event_wait(&wait.event);
	if (call->status == 0)
		return 0;
	if (call->status & NVMF_LOST)
		return err_set(err, -ENOTCONN, "%s: the connection was lost: %s", what,
			       err_text(queue_err(c->admin)));
	code = call->status & 0x7ffu;
	return err_set(err, -EIO, "%s: the controller answered status %#x: %s", what, code,
		       nvmf_status_text(call->status));
}

static int identify(struct nvmf_ctrlr *c, uint8_t cns, uint32_t nsid, void *page,
		    uint16_t *ret_status, struct err *err)
{
	struct admin_call call = { .buf = page, .len = NVME_IDENTIFY_SIZE };
	int result;

	memset(page, 0, NVME_IDENTIFY_SIZE);
	call.cmd.opcode = NVME_ADMIN_IDENTIFY;
	le32_put(&call.cmd.nsid, nsid);
	le32_put(&call.cmd.cdw10, cns);
	result = ctrlr_admin(c, &call, "identify", err);
	*ret_status = call.status;
	return result;
}

int ctrlr_identify(struct nvmf_ctrlr *c, uint8_t cns, uint32_t nsid, void *page, struct err *err)
{
	uint16_t status;

	return identify(c, cns, nsid, page, &status, err);
}

int ctrlr_log_page(struct nvmf_ctrlr *c, uint8_t lid, uint8_t lsp, uint64_t off, void *buf,
		   uint32_t len, struct err *err)
{
	struct admin_call call = { .buf = buf, .len = len };
	uint32_t numd = len / 4 - 1; /* 0's based dwords (Base 5.16) */

	memset(buf, 0, len);
	call.cmd.opcode = NVME_ADMIN_GET_LOG_PAGE;
	le32_put(&call.cmd.nsid, NVME_NSID_ALL);
	le32_put(&call.cmd.cdw10, lid | (uint32_t)(lsp & 0xf) << 8 | (numd & 0xffff) << 16);
	le32_put(&call.cmd.cdw11, numd >> 16);
	le32_put(&call.cmd.cdw12, (uint32_t)off);
	le32_put(&call.cmd.cdw13, (uint32_t)(off >> 32));
	return ctrlr_admin(c, &call, "log page", err);
}

int ctrlr_property_get(struct nvmf_ctrlr *c, uint32_t off, bool is_64, uint64_t *ret,
		       struct err *err)
{
	struct admin_call call = {};
	struct nvme_property_cmd cmd = { .opcode = NVME_FABRICS,
					 .fctype = NVME_FABRICS_PROPERTY_GET,
					 .attrib = is_64 };
	int result;

	le32_put(&cmd.offset, off);
	memcpy(&call.cmd, &cmd, sizeof(cmd));
	result = ctrlr_admin(c, &call, "reading a property", err);
	if (result == 0)
		*ret = is_64 ? (uint64_t)call.dw1 << 32 | call.dw0 : call.dw0;
	return result;
}

int ctrlr_property_set(struct nvmf_ctrlr *c, uint32_t off, uint32_t value, struct err *err)
{
	struct admin_call call = {};
	struct nvme_property_cmd cmd = { .opcode = NVME_FABRICS,
					 .fctype = NVME_FABRICS_PROPERTY_SET };

	le32_put(&cmd.offset, off);
	le64_put(&cmd.value, value);
	memcpy(&call.cmd, &cmd, sizeof(cmd));
	return ctrlr_admin(c, &call, "writing a property", err);
}

/* Will the controller answer the same when it is asked again? Else it was only out of sorts. */
static bool is_final(uint16_t status)
{
	unsigned code = status & 0x7ffu;

	return code == NVME_SC_INVALID_NAMESPACE || code == NVME_SC_INVALID_FIELD ||
	       code == NVME_SC_INVALID_OPCODE;
}

int ctrlr_read_ns(struct nvmf_ctrlr *c, uint32_t nsid, struct nvmf_ns_info *ret, struct err *err)
{
	CLEANUP(freep) void *page = malloc(NVME_IDENTIFY_SIZE);
	struct nvmf_ns_info info;
	struct err ignored = {};
	uint16_t status = 0;
	int result;

	if (page == NULL)
		return err_set(err, -ENOMEM, "no memory to identify namespace %u", nsid);
	result = identify(c, NVME_CNS_NS, nsid, page, &status, &ignored);
	if (result == -EIO && is_final(status))
		return err_set(err, -ENODEV, "namespace %u is not active", nsid);
	if (result < 0)
		return err_set(err, result, "%s", err_text(&ignored));
	result = nvmf_ns_check(page, nsid, &info, err);
	if (result == 0)
		result = nvmf_ns_check_fits(&info, &c->info, err);
	if (result < 0)
		return result;
	/* a controller before 1.3 knows no descriptors; then what the namespace said is all */
	err_clear(&ignored);
	result = identify(c, NVME_CNS_NS_DESC, nsid, page, &status, &ignored);
	if (result == 0)
		result = nvmf_ns_check_desc(page, NVME_IDENTIFY_SIZE, &info, err);
	else if (result == -EIO && is_final(status))
		result = 0;
	else
		(void)err_set(err, result, "%s", err_text(&ignored));
	if (result == 0)
		*ret = info;
	return result;
}

int ctrlr_read_ana(struct nvmf_ctrlr *c, struct err *err)
{
	uint32_t len = (uint32_t)sizeof(struct nvme_ana_log) +
		       c->info.nanagrpid * (uint32_t)sizeof(struct nvme_ana_group);
	CLEANUP(freep) void *log = NULL;
	int result;

	if (c->info.nanagrpid == 0)
		return 0;
	log = malloc(len);
	if (log == NULL)
		return err_set(err, -ENOMEM, "%s: no memory for the ANA log", c->name);
	result = ctrlr_log_page(c, NVME_LOG_ANA, ANA_GROUPS_ONLY, 0, log, len, err);
	if (result == 0)
		result = ana_parse(log, len, c->groups, c->info.nanagrpid, err);
	if (result < 0)
		return result;
	c->ngroups = (unsigned)result;
	return 0;
}

/* ---- events ------------------------------------------------------------------------------- */

static void aer_send(struct nvmf_ctrlr *c, unsigned i);

/* A command without data; the slot comes zeroed. */
static void slot_fill(struct slot *slot, uint8_t opcode, void (*done)(struct slot *slot),
		      void *owner)
{
	slot->sqe.opcode = opcode;
	slot->done = done;
	slot->owner = owner;
}

/* Base 5.2, figures "Asynchronous Event Information". */
static unsigned aer_kicks(uint32_t dw0)
{
	unsigned type = dw0 & 7, info = dw0 >> 8 & 0xff;

	switch (type) {
	case NVME_AEN_TYPE_ERROR:
		return KICK_ERROR_LOG;
	case NVME_AEN_TYPE_HEALTH:
		return KICK_HEALTH;
	case NVME_AEN_TYPE_NOTICE:
		if (info == NVME_AEN_NS_CHANGED)
			return KICK_RESCAN;
		return info == NVME_AEN_ANA_CHANGED ? KICK_ANA : 0;
	case NVME_AEN_TYPE_IO_SPECIFIC:
		return info == 0 ? KICK_RESERVATION : 0;
	default:
		return 0;
	}
}

static void aer_again(struct timer *timer)
{
	struct nvmf_ctrlr *c = container_of(timer, struct nvmf_ctrlr, aer_timer);

	for (unsigned i = 0; i < AERS_MAX; i++) {
		if (c->aer_due >> i & 1)
			aer_send(c, i);
	}
	c->aer_due = 0;
}

/* Count an event; true: no more of them in this second. */
static bool aer_is_one_too_many(struct nvmf_ctrlr *c)
{
	const uint64_t now_ns = reactor_self()->now_ns;

	if (now_ns - c->aer_second_ns >= NS_PER_S) {
		c->aer_second_ns = now_ns;
		c->aer_count = 0;
	}
	if (++c->aer_count < EVENTS_PER_S)
		return false;
	if (!c->aer_timer.is_armed) {
		log_warn("%s: %u events within a second, hearing no more of them until it is over",
			 c->name, c->aer_count);
		timer_arm(reactor_self(), &c->aer_timer, c->aer_second_ns + NS_PER_S - now_ns);
	}
	return true;
}

static void aer_done(struct slot *slot)
{
	struct nvmf_ctrlr *c = slot->owner;
	unsigned i = 0;

	while (i < AERS_MAX && c->aer[i] != slot)
		i++;
	if (i == AERS_MAX)
		return;
	c->aer[i] = NULL;
	if (slot->status != 0)
		return; /* lost with the connection, or more than it keeps */
	c->stats.events++;
	log_debug("%s: event %#x", c->name, slot->dw0);
	ctrlr_kick(c, aer_kicks(slot->dw0));
	if (aer_is_one_too_many(c))
		c->aer_due |= 1u << i;
	else
		aer_send(c, i);
}

static void aer_send(struct nvmf_ctrlr *c, unsigned i)
{
	struct slot *slot = queue_get(c->admin);

	if (slot == NULL)
		return;
	slot_fill(slot, NVME_ADMIN_ASYNC_EVENT, aer_done, c);
	slot->timeout_ns = AER_TIMEOUT_NS;
	c->aer[i] = slot;
	queue_send(slot);
}

/* ---- keep alive --------------------------------------------------------------------------- */

static void keep_alive_done(struct slot *slot)
{
	struct nvmf_ctrlr *c = slot->owner;

	c->has_keep_alive_out = false;
	if (slot->status != 0 && !(slot->status & NVMF_LOST))
		log_warn("%s: keep alive is answered with status %#x", c->name,
			 slot->status & 0x7ffu);
}

static bool has_traffic(struct nvmf_ctrlr *c)
{
	struct nvmf_ioq *ioq;
	bool is_some = false;

	list_for_each (ioq, &c->ioqs, link)
		is_some |= atomic_exchange_explicit(&ioq->has_traffic, false, memory_order_relaxed);
	return is_some;
}

static void keep_alive_send(struct nvmf_ctrlr *c)
{
	struct slot *slot = queue_get(c->admin);

	if (slot == NULL)
		return; /* full: answers will come or be late */
	slot_fill(slot, NVME_ADMIN_KEEP_ALIVE, keep_alive_done, c);
	c->has_keep_alive_out = true;
	c->keep_alive_age = 0;
	queue_send(slot);
}

static uint64_t keep_alive_tick_ns(const struct nvmf_ctrlr *c)
{
	return c->opts.kato_ms * NS_PER_MS / KEEP_ALIVE_TICKS;
}

static void keep_alive_tick(struct timer *timer)
{
	struct nvmf_ctrlr *c = container_of(timer, struct nvmf_ctrlr, keep_alive);

	if (queue_state(c->admin) != QUEUE_LIVE)
		return;
	if (c->has_keep_alive_out && ++c->keep_alive_age == KEEP_ALIVE_TICKS / 2) {
		log_warn("%s: no answer to keep alive within %u ms, giving the connection up",
			 c->name, c->opts.kato_ms / 2);
		queue_disconnect(c->admin, -ETIMEDOUT);
		return;
	}
	if (!c->has_keep_alive_out && (!has_traffic(c) || !c->info.has_tbkas))
		keep_alive_send(c);
	timer_arm(reactor_self(), timer, keep_alive_tick_ns(c));
}

void ctrlr_events_start(struct nvmf_ctrlr *c)
{
	unsigned count = MIN((unsigned)AERS_MAX, c->info.aerl + 1u);

	for (unsigned i = 0; i < count; i++)
		aer_send(c, i);
	c->aer_timer.fn = aer_again;
	c->keep_alive.fn = keep_alive_tick;
	if (c->opts.kato_ms > 0 && c->info.has_keep_alive)
		timer_arm(reactor_self(), &c->keep_alive, keep_alive_tick_ns(c));
}

void ctrlr_events_stop(struct nvmf_ctrlr *c)
{
	timer_disarm(reactor_self(), &c->keep_alive);
	timer_disarm(reactor_self(), &c->again);
	timer_disarm(reactor_self(), &c->aer_timer);
	c->aer_due = 0;
	c->again_kicks = 0;
}

/* ---- for the users of a device ------------------------------------------------------------ */

static void forward_back(struct msg *msg)
{
	struct io *io = container_of(msg, struct io, msg);

	io_complete(io, io->status);
}

void ctrlr_answer(struct io *io, uint16_t status)
{
	io->status = status;
	io->msg.fn = forward_back;
	reactor_post(io_top(io)->ch->reactor, &io->msg);
}

static bool forward_has_room(const struct nvmf_ctrlr *c)
{
	return queue_inflight(c->admin) + ADMIN_RESERVE < queue_depth(c->admin);
}

static void forward_done(struct slot *slot)
{
	struct nvmf_ctrlr *c = queue_owner(slot->queue);
	struct io *io = slot->owner;

	io->result = slot->dw0;
	if (slot->status & NVMF_LOST)
		ctrlr_answer(io, IO_TRANSPORT);
	else
		ctrlr_answer(io, io_status_from_nvme(slot->status >> 8 & 7, slot->status & 0xff));
	ctrlr_forward_waiting(c);
}

void ctrlr_forward_waiting(struct nvmf_ctrlr *c)
{
	while (c->state == CTRLR_LIVE && c->admin_waiting.head != NULL && forward_has_room(c) &&
	       queue_state(c->admin) == QUEUE_LIVE)
		ctrlr_forward_admin(c,
				    container_of(msg_list_pop(&c->admin_waiting), struct io, msg));
}

/* What would break the connection under its other users (Base 5, figure "Opcodes"). */
static bool is_refused(const struct nvme_cmd *cmd)
{
	const uint8_t opcode = cmd->opcode, feature = cmd->cdw10.b[0];
	static const uint8_t refused[] = {
		NVME_ADMIN_DELETE_SQ, NVME_ADMIN_CREATE_SQ,   NVME_ADMIN_DELETE_CQ,
		NVME_ADMIN_CREATE_CQ, NVME_ADMIN_ASYNC_EVENT, NVME_ADMIN_KEEP_ALIVE,
		NVME_FABRICS,
	};

	if (opcode == NVME_ADMIN_SET_FEATURES)
		return feature == NVME_FEAT_QUEUES || feature == NVME_FEAT_ASYNC_EVENT ||
		       feature == NVME_FEAT_KEEP_ALIVE || feature == NVME_FEAT_HOST_BEHAVIOR;
	return memchr(refused, opcode, sizeof(refused)) != NULL || (opcode & 3) == 3;
}

/* NSID 0 where a command cannot do without: the namespace that the device is. */
static bool wants_our_nsid(const struct nvme_cmd *cmd)
{
	uint32_t cns = le32_get(cmd->cdw10) & 0xff;

	if (le32_get(cmd->nsid) != 0)
		return false;
	if (cmd->opcode >= VENDOR_FIRST)
		return true;
	return cmd->opcode == NVME_ADMIN_IDENTIFY &&
	       (cns == NVME_CNS_NS || cns == NVME_CNS_NS_DESC || cns == NVME_CNS_CS_NS ||
		cns == NVME_CNS_CS_INDEPENDENT_NS);
}

void ctrlr_forward_admin(struct nvmf_ctrlr *c, struct io *io)
{
	const struct nvme_cmd *cmd = io->cmd;
	size_t len = iov_bytes(io->iov, io->iovcnt);
	struct slot *slot;

	if (cmd == NULL || is_refused(cmd)) {
		ctrlr_answer(io, IO_UNSUPPORTED);
		return;
	}
	if (len > QUEUE_DATA_MAX || io->iovcnt > QUEUE_IOV_MAX ||
	    (len > 0 && (cmd->opcode & 3) == 0)) {
		ctrlr_answer(io, IO_INVALID);
		return;
	}
	if (c->state == CTRLR_DEAD) {
		ctrlr_answer(io, IO_TRANSPORT);
		return;
	}
	slot = c->state == CTRLR_LIVE && forward_has_room(c) ? queue_get(c->admin) : NULL;
	if (slot == NULL) { /* until there is room, or the next attempt has ended */
		msg_list_push(&c->admin_waiting, &io->msg);
		return;
	}
	slot->sqe = *cmd;
	slot->sqe.flags = 0;
	if (wants_our_nsid(cmd))
		le32_put(&slot->sqe.nsid, head_of(io_top(io)->ch->dev)->ns.nsid);
	slot->iov = io->iov;
	slot->iovcnt = io->iovcnt;
	slot->len = (uint32_t)len;
	slot->dir = len == 0 ? SLOT_NO_DATA : (cmd->opcode & 3) == 1 ? SLOT_H2C : SLOT_C2H;
	slot->done = forward_done;
	slot->owner = io;
	queue_send(slot);
}

void ctrlr_forward_reset(struct nvmf_ctrlr *c, struct io *io)
{
	msg_list_push(&c->resets, &io->msg);
	ctrlr_kick(c, KICK_RESET);
}

void ctrlr_fail_waiting(struct nvmf_ctrlr *c)
{
	struct msg *msg;

	while ((msg = msg_list_pop(&c->admin_waiting)) != NULL)
		ctrlr_answer(container_of(msg, struct io, msg), IO_TRANSPORT);
}

/* Take the requests of @dev out of @list. */
static struct msg_list take_of_device(struct msg_list *list, const struct device *dev)
{
	struct msg_list all = *list, taken = {};
	struct msg *msg;

	*list = (struct msg_list){};
	while ((msg = msg_list_pop(&all)) != NULL) {
		const struct io *io = container_of(msg, struct io, msg);

		msg_list_push(io->frame[io->depth - 1].ch->dev == dev ? &taken : list, msg);
	}
	return taken;
}

void ctrlr_end_waiting(struct nvmf_ctrlr *c, const struct device *dev, uint16_t status)
{
	struct msg_list commands = take_of_device(&c->admin_waiting, dev);
	struct msg_list resets = take_of_device(&c->resets, dev);
	struct msg *msg;

	while ((msg = msg_list_pop(&commands)) != NULL || (msg = msg_list_pop(&resets)) != NULL)
		ctrlr_answer(container_of(msg, struct io, msg), status);
}

void ctrlr_move_waiting(struct nvmf_ctrlr *c, const struct device *dev, struct nvmf_ctrlr *to)
{
	struct msg_list commands = take_of_device(&c->admin_waiting, dev);
	struct msg *msg;

	while ((msg = msg_list_pop(&commands)) != NULL)
		ctrlr_forward_admin(to, container_of(msg, struct io, msg));
}

static void abort_done(struct slot *slot)
{
	struct nvmf_ctrlr *c = queue_owner(slot->queue);

	/* bit 0 set: it was not aborted (Base 5.1); if it stays late a reset follows */
	if (slot->status != 0 || slot->dw0 & 1)
		log_debug("%s: the controller did not abort the command", c->name);
}

void ctrlr_abort(struct nvmf_ctrlr *c, uint16_t sqid, uint16_t cid)
{
	struct slot *slot = queue_get(c->admin);

	if (slot == NULL)
		return; /* no connection, or full: the command will be late again */
	slot_fill(slot, NVME_ADMIN_ABORT, abort_done, c);
	le32_put(&slot->sqe.cdw10, sqid | (uint32_t)cid << 16);
	queue_send(slot);
}
