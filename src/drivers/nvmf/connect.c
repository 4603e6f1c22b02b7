/* SPDX-License-Identifier: Apache-2.0 */
/*
 * connect.c - from a URI to a controller that takes I/O, and back.
 *
 *   resolve the name -> admin queue, at each address in turn -> CAP, VS -> CC.EN -> CSTS.RDY
 *     -> Identify Controller -> number of queues -> events configured, requested, keep alive
 *     -> ANA log -> the namespaces of our paths, checked against what they were -> I/O queues
 *
 * The same sequence brings a controller up the first time and after every loss. What differs after
 * a loss is that there is something to compare with: a controller that came back smaller than it
 * was (shorter transfers, fewer commands) is refused, since devices have promised its old limits,
 * and a namespace with another identity is never used (head.c).
 *
 * Every step may fail, and the connection may go at any time: each step is a command or a dial that
 * ends by itself within a named time, and the caller closes all queues after a failure. A queue
 * that dropped while a later step ran is noticed at the end, before the controller counts as LIVE.
 *
 * I/O queues are made when a channel is opened on a reactor, one for each, shared by all channels
 * there. The controller says how many it grants; a reactor beyond that gets an error, not a shared
 * queue, because a queue belongs to one thread. A queue outlives its connection: it is made once
 * and connected as often as the controller is.
 *
 * Invariants:
 *   1. Queues are connected and disconnected only under ctrlr->lock.
 *   2. ioq->is_open follows the queue by messages: set before the dial, cleared when the message
 *      of its end arrives.
 *   3. An ioq is freed with its queue idle and none of its messages on the way.
 *
 * Thread: tasks on the primary; the *_here functions and queue callbacks on the queue's reactor.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/units.h"
#include "drivers/nvmf/ctrlr.h"
#include "reactor/resolve.h"

enum {
	FUSED_ENTRIES = 3, /* of a queue that takes a pair at all: one stays empty */
	READY_POLL_MS = 20,
	READY_MAX_S = 30, /* CAP.TO may say up to 127 s; nobody waits that long */
	SHUTDOWN_MAX_MS = 500,
	CAP_MQES_MASK = 0xffff, /* Base 3.1.3.1 */
	CAP_TO_SHIFT = 24,
	CAP_TO_UNIT_MS = 500,
	CAP_CSS_SHIFT = 37,
	CAP_CSS_IO_SETS = 1 << 6, /* bit 6 of CAP.CSS: one or more I/O command sets */
	CC_CSS_IO_SETS = 6,       /* Base 3.1.3.5 */
};

/* ---- the admin queue ---------------------------------------------------------------------- */

static struct queue_target target_of(const struct nvmf_ctrlr *c, bool is_admin)
{
	return (struct queue_target){
		.host = c->addr,
		.port = c->opts.port,
		.subnqn = c->opts.subnqn,
		.hostnqn = c->opts.hostnqn,
		.cntlid = is_admin ? NVME_CNTLID_DYNAMIC : c->cntlid,
		.kato_ms = is_admin ? c->opts.kato_ms : 0,
		.hdgst = c->opts.hdgst,
		.ddgst = c->opts.ddgst,
		.capsule_data_max = is_admin ? NVME_TCP_ADMIN_CAPSULE_DATA
					     : c->info.capsule_data_max,
		.connect_timeout_ns = c->opts.connect_timeout_ns,
		.io_timeout_ns = is_admin ? c->opts.admin_timeout_ns : c->opts.io_timeout_ns,
	};
}

/* Did a controller answer, with no? */
static bool is_refusal(uint16_t status)
{
	return status != 0 && !(status & NVMF_LOST);
}

/* What a refused Connect means, and what to look at. */
static void connect_explain(const struct nvmf_ctrlr *c, uint16_t status, struct err *err)
{
	bool is_v6 = strchr(c->opts.host, ':') != NULL;

	if (!is_refusal(status))
		return;
	(void)err_hint(err, "%s", nvmf_status_text(status));
	if ((status & 0x7ff) == NVME_SC_CONNECT_INVALID_HOST)
		(void)err_hint(err, "we came as '%s', which hostnqn= changes", c->opts.hostnqn);
	if ((status & 0x7ff) != NVME_SC_CONNECT_INVALID_PARAM)
		return;
	(void)err_hint(err, "'ashlar discover %s%s%s:%u' lists those it has", is_v6 ? "[" : "",
		       c->opts.host, is_v6 ? "]" : "", c->opts.port);
	if (strchr(c->opts.subnqn, '&') != NULL)
		(void)err_hint(err, "the first parameter of a URI follows a '?'");
}

static int admin_connect(struct nvmf_ctrlr *c, struct err *err)
{
	struct queue_target target = target_of(c, true);
	struct task_event up = {};
	int result;

	memcpy(target.hostid, c->opts.hostid, sizeof(target.hostid));
	c->admin_result = 0;
	c->admin_up = &up;
	result = queue_connect(c->admin, &target, err);
	if (result == 0) {
		task_event_wait(&up);
		result = c->admin_result;
		if (result < 0)
			(void)err_set(err, result, "%s", err_text(queue_err(c->admin)));
		if (result < 0)
			connect_explain(c, queue_connect_status(c->admin), err);
	}
	c->admin_up = NULL;
	return result;
}

static void admin_disconnect(struct nvmf_ctrlr *c, int reason)
{
	struct task_event down = {};

	if (queue_state(c->admin) == QUEUE_IDLE)
		return;
	c->admin_down = &down;
	queue_disconnect(c->admin, reason);
	task_event_wait(&down);
	c->admin_down = NULL;
}

/* ---- registers ---------------------------------------------------------------------------- */

static int wait_ready(struct nvmf_ctrlr *c, uint64_t limit_ns, struct err *err)
{
	const struct reactor *r = reactor_self();
	uint64_t start_ns = r->now_ns, csts;
	int result;

	for (;;) {
		result = ctrlr_property_get(c, NVME_PROP_CSTS, false, &csts, err);
		if (result < 0)
			return result;
		if (csts & NVME_CSTS_CFS)
			return err_set(err, -EIO,
				       "the controller reports a fatal error (CSTS.CFS)");
		if (csts & NVME_CSTS_RDY)
			return 0;
		if (r->now_ns - start_ns > limit_ns)
			return err_set(err, -ETIMEDOUT,
				       "the controller is not ready within the time it named");
		if (c->is_leaving)
			return err_set(err, -ECANCELED, "not wanted any more");
		task_sleep(READY_POLL_MS * NS_PER_MS);
	}
}

static int enable(struct nvmf_ctrlr *c, struct err *err)
{
	uint64_t cap = 0, limit_ns;
	uint32_t cc = NVME_CC_EN | 6u << NVME_CC_IOSQES_SHIFT | 4u << NVME_CC_IOCQES_SHIFT;
	int result = ctrlr_property_get(c, NVME_PROP_CAP, true, &cap, err);

	if (result < 0)
		return result;
	c->entries_max = (uint32_t)(cap & CAP_MQES_MASK) + 1;
	if (cap >> CAP_CSS_SHIFT & CAP_CSS_IO_SETS)
		cc |= (uint32_t)CC_CSS_IO_SETS << NVME_CC_CSS_SHIFT;
	result = ctrlr_property_set(c, NVME_PROP_CC, cc, err);
	if (result < 0)
		return result;
	limit_ns = (cap >> CAP_TO_SHIFT & 0xff) * CAP_TO_UNIT_MS * NS_PER_MS;
	return wait_ready(c, CLAMP(limit_ns, NS_PER_S, READY_MAX_S * NS_PER_S), err);
}

void ctrlr_shutdown(struct nvmf_ctrlr *c)
{
	const struct reactor *r = reactor_self();
	uint64_t start_ns = r->now_ns, csts = 0;
	uint32_t cc = NVME_CC_EN | NVME_CC_SHN_NORMAL | 6u << NVME_CC_IOSQES_SHIFT |
		      4u << NVME_CC_IOCQES_SHIFT;

	if (queue_state(c->admin) != QUEUE_LIVE ||
	    ctrlr_property_set(c, NVME_PROP_CC, cc, NULL) < 0)
		return;
	while (ctrlr_property_get(c, NVME_PROP_CSTS, false, &csts, NULL) == 0 &&
	       (csts & 3 << NVME_CSTS_SHST_SHIFT) != NVME_CSTS_SHST_COMPLETE &&
	       r->now_ns - start_ns < SHUTDOWN_MAX_MS * NS_PER_MS)
		task_sleep(READY_POLL_MS * NS_PER_MS);
}

/* ---- what the controller is --------------------------------------------------------------- */

/*
 * Devices stand on what the controller could do when they were made. Only what they use of it is
 * looked at, and only where the namespace is there: what a controller offers may depend on the
 * namespaces that it has at the time.
 */
static int check_not_smaller(const struct nvmf_ctrlr *c, struct err *err)
{
	const struct nvmf_path *path;

	list_for_each (path, &c->paths, in_ctrlr) {
		if (!path->is_gone && !head_fits(path->head, &c->info))
			return err_set(
				err, -ENOTSUP,
				"the controller came back with less than %s needs: transfers "
				"of %u bytes, commands %#x; make the device again",
				path->head->dev.name, c->info.data_max, c->info.oncs);
	}
	return 0;
}

static int identify(struct nvmf_ctrlr *c, struct err *err)
{
	CLEANUP(freep) void *page = malloc(NVME_IDENTIFY_SIZE);
	struct nvmf_ctrl_info info;
	struct err ignored = {};
	int result;

	if (page == NULL)
		return err_set(err, -ENOMEM, "no memory to identify a controller");
	result = ctrlr_identify(c, NVME_CNS_CTRL, 0, page, err);
	if (result == 0)
		result = nvmf_ctrl_check(page, c->opts.subnqn, &info, err);
	if (result < 0)
		return result;
	if (info.is_discovery != c->is_discovery)
		return err_set(err, -ENOTSUP,
			       info.is_discovery
				       ? "it is a discovery controller: ashlar discover reads it"
				       : "it is no discovery controller");
	if (!info.is_discovery) {
		/* one before 2.0 does not have the page; then there are no such limits */
		result = ctrlr_identify(c, NVME_CNS_CS_CTRL, 0, page, &ignored);
		if (result == 0)
			nvmf_ctrl_check_nvm(page, &info);
		else if (result != -EIO)
			return err_set(err, result, "%s", err_text(&ignored));
	}
	if (MIN((uint32_t)c->opts.queue_depth, c->entries_max) < FUSED_ENTRIES)
		info.fuse_nlb = 0;
	c->info = info;
	free(c->groups);
	c->ngroups = 0;
	c->groups = calloc(MAX(info.nanagrpid, 1u), sizeof(*c->groups));
	return c->groups != NULL ? 0 : err_set(err, -ENOMEM, "no memory for ANA groups");
}

static int set_feature(struct nvmf_ctrlr *c, uint8_t feature, uint32_t value, uint32_t *ret_dw0,
		       const char *what, struct err *err)
{
	struct admin_call call = {};
	int result;

	call.cmd.opcode = NVME_ADMIN_SET_FEATURES;
	le32_put(&call.cmd.cdw10, feature);
	le32_put(&call.cmd.cdw11, value);
	result = ctrlr_admin(c, &call, what, err);
	if (result == 0)
		*ret_dw0 = call.dw0;
	return result;
}

/* Base 5.27.1.5: both numbers 0's based, and the answer in the same form. */
static int set_queues(struct nvmf_ctrlr *c, struct err *err)
{
	uint32_t want = c->opts.queues != 0 ? c->opts.queues : reactor_count();
	uint32_t granted = 0;
	int result = set_feature(c, NVME_FEAT_QUEUES, (want - 1) | (want - 1) << 16, &granted,
				 "asking for I/O queues", err);

	if (result < 0)
		return result;
	granted = MIN(granted & 0xffff, granted >> 16) + 1;
	c->nqueues = (uint16_t)MIN(granted, want);
	return 0;
}

/* Base 5.27.1.8: critical warnings in bits 7:0, notices where OAES has them. */
static int set_events(struct nvmf_ctrlr *c, struct err *err)
{
	uint32_t mask = c->info.oaes & (NVME_OAES_NS_ATTR | NVME_OAES_ANA), ignored;
	struct err local = {};
	int result = set_feature(c, NVME_FEAT_ASYNC_EVENT, mask | 0x1f, &ignored,
				 "configuring events", &local);

	if (result == -EIO) {
		err_clear(&local);
		result = set_feature(c, NVME_FEAT_ASYNC_EVENT, mask, &ignored, "configuring events",
				     &local);
	}
	if (result == -EIO) {
		log_warn("%s: %s: changes of namespaces will not be noticed", c->name,
			 err_text(&local));
		return 0;
	}
	return result < 0 ? err_set(err, result, "%s", err_text(&local)) : 0;
}

/* Ask for retry delays in statuses (Base 5.27.1.18); without them ours are used. */
static int set_behavior(struct nvmf_ctrlr *c, struct err *err)
{
	struct nvme_host_behavior behavior = { .acre = 1 };
	struct admin_call call = { .buf = &behavior, .len = sizeof(behavior) };
	struct err local = {};
	int result;

	if (c->info.crdt[0] == 0 && c->info.crdt[1] == 0 && c->info.crdt[2] == 0)
		return 0;
	call.cmd.opcode = NVME_ADMIN_SET_FEATURES;
	le32_put(&call.cmd.cdw10, NVME_FEAT_HOST_BEHAVIOR);
	result = ctrlr_admin(c, &call, "asking for retry delays", &local);
	return result == 0 || result == -EIO ? 0 : err_set(err, result, "%s", err_text(&local));
}

static int connect_ioqs(struct nvmf_ctrlr *c, struct err *err)
{
	struct nvmf_ioq *ioq;

	list_for_each (ioq, &c->ioqs, link) {
		int result;

		if (ioq->qid > c->nqueues) {
			log_warn("%s: now grants %u I/O queues, reactor %u gets none", c->name,
				 c->nqueues, ioq->reactor->id);
			continue;
		}
		result = ioq_connect(ioq, err);
		if (result < 0)
			return result;
	}
	return 0;
}

/* Did all that was connected last until now? */
static int check_alive(struct nvmf_ctrlr *c, struct err *err)
{
	struct nvmf_ioq *ioq;

	if (queue_state(c->admin) != QUEUE_LIVE)
		return err_set(err, -ENOTCONN, "the connection was lost: %s",
			       err_text(queue_err(c->admin)));
	list_for_each (ioq, &c->ioqs, link) {
		if (!ioq->is_open && ioq->qid <= c->nqueues)
			return err_set(err, -ENOTCONN, "an I/O queue's connection was lost");
	}
	return c->is_leaving ? err_set(err, -ECANCELED, "not wanted any more") : 0;
}

static int connect_io(struct nvmf_ctrlr *c, struct err *err)
{
	struct nvmf_path *path;
	int result = set_queues(c, err);

	if (result == 0)
		result = set_events(c, err);
	if (result == 0)
		result = set_behavior(c, err);
	if (result < 0)
		return result;
	ctrlr_events_start(c);
	result = ctrlr_read_ana(c, err);
	if (result < 0)
		return result;
	list_for_each (path, &c->paths, in_ctrlr) {
		result = path_rescan(path, err);
		if (result < 0)
			return result;
	}
	result = check_not_smaller(c, err);
	return result == 0 ? connect_ioqs(c, err) : result;
}

/*
 * A name may have several addresses, some of which lead nowhere: each is tried, in the resolver's
 * order, until one lets us in or a controller there says no. The first failure is told.
 */
static int admin_connect_any(struct nvmf_ctrlr *c, const struct resolved *found, struct err *err)
{
	struct err first = {};

	for (unsigned i = 0; i < found->count; i++) {
		struct err why = {};
		int result;

		if (c->is_leaving)
			return err_set(err, -ECANCELED, "not wanted any more");
		memcpy(c->addr, found->addr[i], sizeof(found->addr[i]));
		result = admin_connect(c, &why);
		if (result == 0)
			return 0;
		if (is_refusal(queue_connect_status(c->admin)))
			return err_set(err, result, "%s", err_text(&why));
		if (first.code == 0)
			first = why;
		admin_disconnect(c, -ECONNABORTED);
	}
	(void)err_set(err, first.code, "%s", err_text(&first));
	if (found->count > 1)
		(void)err_hint(err, "other addresses of '%s' lead nowhere, either: %u tried",
			       c->opts.host, found->count - 1);
	return first.code;
}

int ctrlr_connect(struct nvmf_ctrlr *c, struct err *err)
{
	struct resolved found = {};
	int result = resolve_host(c->opts.host, &found, err);

	if (result == 0 && c->is_leaving)
		result = err_set(err, -ECANCELED, "not wanted any more");
	if (result == 0 && !c->is_discovery)
		result = fence_begin(c, err);
	if (result == 0)
		result = admin_connect_any(c, &found, err);
	if (result < 0)
		return result;
	c->cntlid = queue_cntlid(c->admin);
	result = enable(c, err);
	if (result == 0)
		result = identify(c, err);
	if (result == 0 && !c->is_discovery)
		result = connect_io(c, err);
	return result == 0 ? check_alive(c, err) : result;
}

/* ---- I/O queues --------------------------------------------------------------------------- */

static void ioq_up_arrived(struct msg *msg)
{
	struct nvmf_ioq *ioq = container_of(msg, struct nvmf_ioq, up_msg);

	if (ioq->up != NULL)
		task_event_fire(ioq->up);
}

static void ioq_down_arrived(struct msg *msg)
{
	struct nvmf_ioq *ioq = container_of(msg, struct nvmf_ioq, down_msg);
	struct nvmf_ctrlr *c = ioq->ctrlr;

	ioq->is_open = false;
	ioq->result = ioq->down_reason;
	if (ioq->up != NULL)
		task_event_fire(ioq->up);
	if (ioq->down != NULL)
		task_event_fire(ioq->down);
	if (ioq->up != NULL || ioq->down != NULL || c->state != CTRLR_LIVE)
		return;
	c->why = ioq->err;
	ctrlr_kick(c, KICK_LOST);
}

static void ioq_up_here(struct queue *q)
{
	struct nvmf_ioq *ioq = queue_owner(q);

	ioq->up_msg.fn = ioq_up_arrived;
	reactor_post(reactor_primary(), &ioq->up_msg);
}

static void ioq_down_here(struct queue *q, int reason)
{
	struct nvmf_ioq *ioq = queue_owner(q);

	ioq->down_reason = reason < 0 ? reason : -ENOTCONN;
	err_clear(&ioq->err);
	(void)err_set(&ioq->err, ioq->down_reason, "%s", err_text(queue_err(q)));
	ioq->aborting = NULL;
	ioq_wake(ioq);
	ioq->down_msg.fn = ioq_down_arrived;
	reactor_post(reactor_primary(), &ioq->down_msg);
}

struct ioq_call {
	struct nvmf_ioq *ioq;
	struct queue_target target;
	struct err *err;
	int result;
};

static int ioq_make(struct nvmf_ioq *ioq, struct queue **ret, struct err *err)
{
	struct queue_opts opts = { .qid = ioq->qid,
				   .depth = ioq->ctrlr->opts.queue_depth,
				   .owner = ioq,
				   .up = ioq_up_here,
				   .down = ioq_down_here,
				   .late = ioq_late };

	if (ioq->ctrlr->entries_max != 0)
		opts.depth = (uint16_t)MIN((uint32_t)opts.depth, ioq->ctrlr->entries_max);
	return queue_new(&opts, ret, err);
}

static void ioq_new_here(void *arg)
{
	struct ioq_call *call = arg;

	call->result = ioq_make(call->ioq, &call->ioq->q, call->err);
}

/* A queue that was made before the controller said how long it may be, or could be longer. */
static int ioq_fit(struct nvmf_ioq *ioq, struct err *err)
{
	struct queue *q;
	int result;

	if (queue_depth(ioq->q) < ioq->ctrlr->entries_max)
		return 0;
	result = ioq_make(ioq, &q, err);
	if (result < 0)
		return result;
	queue_free(ioq->q);
	ioq->q = q;
	return 0;
}

static void ioq_free_here(void *arg)
{
	struct nvmf_ioq *ioq = arg;

	while (!list_empty(&ioq->waiters))
		list_del(ioq->waiters.next);
	queue_free(ioq->q);
	ioq->q = NULL;
}

static void ioq_connect_here(void *arg)
{
	struct ioq_call *call = arg;

	call->ioq->serial = call->ioq->ctrlr->serial;
	call->ioq->has_lost_write = false;
	call->result = ioq_fit(call->ioq, call->err);
	if (call->result == 0)
		call->result = queue_connect(call->ioq->q, &call->target, call->err);
}

static void ioq_disconnect_here(void *arg)
{
	struct ioq_call *call = arg;

	queue_disconnect(call->ioq->q, call->result);
}

int ioq_connect(struct nvmf_ioq *ioq, struct err *err)
{
	struct nvmf_ctrlr *c = ioq->ctrlr;
	struct ioq_call call = { .ioq = ioq, .target = target_of(c, false), .err = err };
	struct task_event up = {};

	memcpy(call.target.hostid, c->opts.hostid, sizeof(call.target.hostid));
	ioq->result = 0;
	ioq->up = &up;
	ioq->is_open = true;
	task_call(ioq->reactor, ioq_connect_here, &call);
	if (call.result == 0) {
		task_event_wait(&up);
		call.result = ioq->result;
		if (call.result < 0) {
			(void)err_set(err, call.result, "I/O queue %u: %s", ioq->qid,
				      err_text(&ioq->err));
			connect_explain(c, queue_connect_status(ioq->q), err);
		}
	} else {
		ioq->is_open = false;
	}
	ioq->up = NULL;
	return call.result;
}

static void ioq_disconnect(struct nvmf_ioq *ioq, int reason)
{
	struct ioq_call call = { .ioq = ioq, .result = reason };
	struct task_event down = {};

	if (!ioq->is_open)
		return;
	ioq->down = &down;
	task_call(ioq->reactor, ioq_disconnect_here, &call);
	if (ioq->is_open)
		task_event_wait(&down);
	ioq->down = NULL;
}

/* Messages of the reactor to us that are still on the way. */
static bool has_mail(struct nvmf_ioq *ioq)
{
	return atomic_load(&ioq->is_kicking) || atomic_load(&ioq->is_abort_posted);
}

static void ioq_free(struct nvmf_ioq *ioq)
{
	if (ioq->q != NULL)
		task_call(ioq->reactor, ioq_free_here, ioq);
	while (has_mail(ioq))
		task_yield();
	ioq->ctrlr->stats.retries += ioq->retries;
	ioq->ctrlr->stats.late += ioq->late;
	free(ioq->dsm);
	free(ioq);
}

static uint16_t free_qid(const struct nvmf_ctrlr *c)
{
	uint16_t qid = 1;
	struct nvmf_ioq *ioq;
	bool is_taken;

	do {
		is_taken = false;
		list_for_each (ioq, &c->ioqs, link)
			is_taken |= ioq->qid == qid;
		qid += is_taken;
	} while (is_taken);
	return qid;
}

static int ioq_new(struct nvmf_ctrlr *c, struct reactor *r, struct nvmf_ioq **ret, struct err *err)
{
	struct nvmf_ioq *ioq = aligned_alloc(64, ALIGN_UP(sizeof(*ioq), (size_t)64));
	struct ioq_call call = { .ioq = ioq, .err = err };

	if (ioq == NULL)
		return err_set(err, -ENOMEM, "%s: no memory for an I/O queue", c->name);
	memset(ioq, 0, sizeof(*ioq));
	ioq->ctrlr = c;
	ioq->reactor = r;
	ioq->qid = free_qid(c);
	list_init(&ioq->waiters);
	ioq->dsm = calloc(c->opts.queue_depth, sizeof(*ioq->dsm));
	call.result = ioq->dsm != NULL ? 0 : err_set(err, -ENOMEM, "no memory for an I/O queue");
	if (call.result == 0 && c->nqueues != 0 && ioq->qid > c->nqueues)
		call.result = err_set(
			err, -EUSERS,
			"%s grants %u I/O queues, reactor %u would need one more: use "
			"fewer cores",
			c->name, c->nqueues, r->id);
	if (call.result == 0)
		task_call(r, ioq_new_here, &call);
	if (call.result < 0) {
		ioq_free(ioq);
		return call.result;
	}
	list_add_tail(&c->ioqs, &ioq->link);
	*ret = ioq;
	return 0;
}

static struct nvmf_ioq *ioq_find(struct nvmf_ctrlr *c, const struct reactor *r)
{
	struct nvmf_ioq *ioq;

	list_for_each (ioq, &c->ioqs, link) {
		if (ioq->reactor == r)
			return ioq;
	}
	return NULL;
}

/*
 * A queue that a LIVE controller did not take. A refusal, or what we lack, is the caller's to know.
 * Anything else is a connection that was lost, and is made again like any other.
 */
static int ioq_judge(struct nvmf_ioq *ioq, int result, const struct err *why, struct err *err)
{
	uint16_t status = queue_connect_status(ioq->q);

	bool is_lost = result == -ECONNREFUSED || result == -ECONNRESET || result == -ENOTCONN ||
		       result == -EPIPE || result == -ETIMEDOUT;

	if (!is_lost || (status != 0 && !(status & NVMF_LOST)))
		return err_set(err, result, "%s", err_text(why));
	ioq->ctrlr->why = *why;
	ctrlr_kick(ioq->ctrlr, KICK_LOST);
	return 0;
}

int ioq_get(struct nvmf_ctrlr *c, struct reactor *r, struct nvmf_ioq **ret, struct err *err)
{
	struct nvmf_ioq *ioq;
	struct err why = {};
	int result = 0;

	task_mutex_lock(&c->lock);
	ioq = ioq_find(c, r);
	if (ioq == NULL)
		result = ioq_new(c, r, &ioq, err);
	if (result == 0 && !ioq->is_open && c->state == CTRLR_LIVE && !(c->kicks & KICK_LOST))
		result = ioq_connect(ioq, &why);
	if (result < 0 && why.code < 0)
		result = ioq_judge(ioq, result, &why, err);
	if (result == 0) {
		ioq->refs++;
		*ret = ioq;
	} else if (ioq != NULL && ioq->refs == 0) {
		list_del(&ioq->link);
		ioq_free(ioq);
	}
	task_mutex_unlock(&c->lock);
	return result;
}

void ioq_put(struct nvmf_ioq *ioq)
{
	struct nvmf_ctrlr *c;

	if (ioq == NULL)
		return;
	c = ioq->ctrlr;
	task_mutex_lock(&c->lock);
	if (--ioq->refs == 0) {
		ioq_disconnect(ioq, -ESHUTDOWN);
		c->has_lost_write |= ioq->has_lost_write;
		if (ioq->has_lost_write && c->refs > 1) /* it waits for the end of all (fence.c) */
			ctrlr_kick(c, KICK_RESET);
		list_del(&ioq->link);
		ioq_free(ioq);
	}
	task_mutex_unlock(&c->lock);
}

void ctrlr_disconnect(struct nvmf_ctrlr *c, int reason)
{
	struct nvmf_ioq *ioq;

	ctrlr_events_stop(c);
	list_for_each (ioq, &c->ioqs, link)
		ioq_disconnect(ioq, reason);
	admin_disconnect(c, reason);
	ctrlr_fail_waiting(c);
	fence_end(c);
}
