// SPDX-License-Identifier: Apache-2.0
/*
 * Controllers: what a host got by connecting an admin queue.
 *
 *   Connect (qid 0) --> [disabled] --CC.EN=1--> [ready] --Connect (qid n)--> queues
 *                           ^----CC.EN=0, queues closed----'    |
 *                                                               | admin queue lost, keep-alive
 *                                                               | expired, subsystem removed
 *                                                               v
 *                                  freed <--last queue unlinked-- closing (every queue told)
 *
 * A controller lives on the primary reactor as long as one of its connections is linked to it. The
 * connections live elsewhere and are told to close by message; they come back one by one to be
 * unlinked (tcp_conn.c), and with the last one the controller goes.
 *
 * Keep alive is traffic based (CTRATT.TBKAS): a byte on any of its connections is a sign of life,
 * so the Keep Alive command needs no code of its own, and a busy host is never thrown out because
 * its admin queue was slow. The timer looks at what the connections noted and sleeps on. A host
 * that asked for no keep alive may be silent for target_opts.idle_timeout_ms instead.
 *
 * A controller that drains (disconnect.c) is closing too: it gets no new queue and no event, but
 * its admin commands are still answered; the timer then bounds how long that lasts.
 *
 * Events: a change is remembered per kind (due), announced when the host left an Asynchronous Event
 * Request with us, enabled the kind (feature 0Bh) and has read the log of the last one (mask).
 *
 * Thread: the primary reactor.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "target/internal.h"

enum {
	CAP_TIMEOUT = 30, /* CAP.TO, units of 500 ms; Linux waits so long for RDY */
	IOSQES = 6,       /* log2 of 64 */
	IOCQES = 4,       /* log2 of 16 */
};

uint64_t ctrlr_cap(const struct target *target)
{
	return (target->opts.queue_depth_max - 1) | NVME_CAP_CQR | NVME_CAP_TO(CAP_TIMEOUT) |
	       NVME_CAP_CSS_NVM;
}

/* ---- life ----------------------------------------------------------------------------------- */

struct ctrlr *ctrlr_find(struct subsystem *ss, uint16_t cntlid)
{
	struct ctrlr *ctrlr;

	list_for_each (ctrlr, &ss->ctrlrs, link) {
		if (ctrlr->cntlid == cntlid && !ctrlr->is_closing)
			return ctrlr;
	}
	return NULL;
}

static bool cntlid_is_used(struct subsystem *ss, uint16_t cntlid)
{
	struct ctrlr *ctrlr;

	list_for_each (ctrlr, &ss->ctrlrs, link) {
		if (ctrlr->cntlid == cntlid)
			return true;
	}
	return false;
}

/* The next free id in the subsystem's range; 0: all are in use. */
static uint16_t cntlid_pick(struct subsystem *ss)
{
	unsigned count = (unsigned)ss->cntlid_max - ss->cntlid_min + 1;

	for (unsigned i = 0; i < count; i++) {
		uint16_t id = ss->cntlid_next;

		ss->cntlid_next = id >= ss->cntlid_max ? ss->cntlid_min : (uint16_t)(id + 1);
		if (!cntlid_is_used(ss, id))
			return id;
	}
	return 0;
}

static void ctrlr_kato_expired(struct timer *timer);

struct ctrlr *ctrlr_new(struct subsystem *ss, const char *hostnqn, const uint8_t hostid[16])
{
	uint16_t cntlid = cntlid_pick(ss);
	struct ctrlr *ctrlr = cntlid == 0 ? NULL : calloc(1, sizeof(*ctrlr));

	if (ctrlr == NULL)
		return NULL;
	ctrlr->subsystem = ss;
	ctrlr->cntlid = cntlid;
	ctrlr->temp_threshold[0] = TEMPERATURE_DEFAULT;
	(void)snprintf(ctrlr->hostnqn, sizeof(ctrlr->hostnqn), "%s", hostnqn);
	memcpy(ctrlr->hostid, hostid, sizeof(ctrlr->hostid));
	ctrlr->kato_timer.fn = ctrlr_kato_expired;
	cross_init(ctrlr);
	list_add_tail(&ss->ctrlrs, &ctrlr->link);
	ss->ctrlr_count++;
	resv_ctrlr_joins(ctrlr);
	return ctrlr;
}

static void ctrlr_free(struct ctrlr *ctrlr)
{
	log_info("controller gone nqn=%s cntlid=%u host=%s", ctrlr->subsystem->nqn, ctrlr->cntlid,
		 ctrlr->hostnqn);
	timer_disarm(reactor_primary(), &ctrlr->kato_timer);
	resv_ctrlr_leaves(ctrlr);
	list_del(&ctrlr->link);
	ctrlr->subsystem->ctrlr_count--;
	free(ctrlr);
}

void ctrlr_link(struct ctrlr *ctrlr, struct conn *conn, uint16_t qid)
{
	if (qid == NVME_QID_ADMIN) {
		ctrlr->listener = conn->listener;
		limits_is_admin(conn);
	}
	conn->ctrlr = ctrlr;
	conn->linked_qid = qid;
	conn->instance = ctrlr->instance;
	memcpy(conn->hostnqn, ctrlr->hostnqn, sizeof(conn->hostnqn));
	memcpy(conn->hostid, ctrlr->hostid, sizeof(conn->hostid));
	conn->listener = ctrlr->listener;
	atomic_store_explicit(&conn->is_acre, ctrlr->is_acre, memory_order_relaxed);
	conn->counted = ctrlr->subsystem;
	conn->counted->conns++;
	list_add_tail(&conn->counted->conn_list, &conn->counted_link);
	ctrlr->queue[qid] = conn;
	ctrlr->nqueues++;
}

static void queue_close(struct conn *conn)
{
	if (conn == NULL || conn->is_close_posted)
		return;
	conn->is_close_posted = true;
	reactor_post(conn->core->reactor, &conn->close_msg);
}

void ctrlr_close(struct ctrlr *ctrlr)
{
	ctrlr->is_closing = true;
	timer_disarm(reactor_primary(), &ctrlr->kato_timer);
	for (unsigned i = 0; i <= TARGET_QUEUES_MAX; i++)
		queue_close(ctrlr->queue[i]);
}

void ctrlr_unlink(struct conn *conn)
{
	struct ctrlr *ctrlr = conn->ctrlr;

	if (ctrlr == NULL)
		return;
	conn->ctrlr = NULL;
	ctrlr->queue[conn->linked_qid] = NULL;
	ctrlr->nqueues--;
	if (conn->linked_qid == NVME_QID_ADMIN) {
		ctrlr_abort_events(ctrlr);
		cross_abort(ctrlr, conn);
	}
	if (conn->linked_qid == NVME_QID_ADMIN || ctrlr->is_draining)
		ctrlr_close(ctrlr);
	if (ctrlr->nqueues == 0)
		ctrlr_free(ctrlr);
}

/* ---- keep alive ----------------------------------------------------------------------------- */

static uint64_t ctrlr_last_rx_ns(const struct ctrlr *ctrlr)
{
	uint64_t last = 0;

	for (unsigned i = 0; i <= TARGET_QUEUES_MAX; i++) {
		const struct conn *conn = ctrlr->queue[i];

		if (conn != NULL)
			last = MAX(last, (uint64_t)atomic_load_explicit(&conn->last_rx_ns,
									memory_order_relaxed));
	}
	return last;
}

/* How long all queues may be silent; 0: for ever. */
static uint32_t ctrlr_silence_ms(const struct ctrlr *ctrlr)
{
	return ctrlr->kato_ms != 0 ? ctrlr->kato_ms
				   : ctrlr->subsystem->target->opts.idle_timeout_ms;
}

static void ctrlr_kato_expired(struct timer *timer)
{
	struct ctrlr *ctrlr = container_of(timer, struct ctrlr, kato_timer);
	uint64_t now = reactor_primary()->now_ns, last = ctrlr_last_rx_ns(ctrlr);
	uint64_t limit = ctrlr_silence_ms(ctrlr) * 1000000ull;
	bool is_idle = ctrlr->kato_ms == 0;

	if (ctrlr->is_draining) {
		log_warn("commands not ended in time, closing controller nqn=%s cntlid=%u host=%s",
			 ctrlr->subsystem->nqn, ctrlr->cntlid, ctrlr->hostnqn);
		ctrlr_close(ctrlr);
		return;
	}
	if (last + limit > now) {
		timer_arm(reactor_primary(), timer, last + limit - now);
		return;
	}
	log_warn("%s timeout, closing controller nqn=%s cntlid=%u host=%s limit_ms=%" PRIu32,
		 is_idle ? "idle" : "keep-alive", ctrlr->subsystem->nqn, ctrlr->cntlid,
		 ctrlr->hostnqn, ctrlr_silence_ms(ctrlr));
	if (is_idle)
		ctrlr->subsystem->target->idle_timeouts++;
	else
		ctrlr->subsystem->target->keep_alive_timeouts++;
	ctrlr->csts |= NVME_CSTS_CFS;
	ctrlr_close(ctrlr);
}

void ctrlr_set_kato(struct ctrlr *ctrlr, uint32_t kato_ms)
{
	if (kato_ms == 0 && ctrlr->subsystem->is_discovery)
		kato_ms = KATO_DISCOVERY_MS;
	if (kato_ms > UINT32_MAX - KATO_GRANULARITY_MS)
		kato_ms = UINT32_MAX - KATO_GRANULARITY_MS;
	ctrlr->kato_ms = DIV_ROUND_UP(kato_ms, (uint32_t)KATO_GRANULARITY_MS) * KATO_GRANULARITY_MS;
	if (ctrlr->is_closing)
		return;
	timer_disarm(reactor_primary(), &ctrlr->kato_timer);
	if (ctrlr_silence_ms(ctrlr) != 0)
		timer_arm(reactor_primary(), &ctrlr->kato_timer,
			  ctrlr_silence_ms(ctrlr) * 1000000ull);
}

/* ---- properties ----------------------------------------------------------------------------- */

/* Do we run with what CC asks for? (Base 3.1.3.5) */
static bool cc_is_supported(uint32_t cc)
{
	unsigned iosqes = cc >> NVME_CC_IOSQES_SHIFT & 0xf;
	unsigned iocqes = cc >> NVME_CC_IOCQES_SHIFT & 0xf;

	return (cc >> NVME_CC_CSS_SHIFT & 7) == 0 && (cc >> NVME_CC_MPS_SHIFT & 0xf) == 0 &&
	       (cc >> NVME_CC_AMS_SHIFT & 7) == 0 && (iosqes == IOSQES || iosqes == 0) &&
	       (iocqes == IOCQES || iocqes == 0);
}

/* Controller level reset (Base 3.7.2): I/O queues go, the admin queue stays. */
static void ctrlr_reset(struct ctrlr *ctrlr)
{
	for (unsigned i = 1; i <= TARGET_QUEUES_MAX; i++)
		queue_close(ctrlr->queue[i]);
	ctrlr_abort_events(ctrlr);
	ctrlr->async_config = 0;
	resv_log_reset(ctrlr);
	ctrlr->is_ns_event_due = ctrlr->is_ns_event_masked = false;
	ctrlr->is_ana_event_due = ctrlr->is_ana_event_masked = false;
	ctrlr->is_disc_event_due = ctrlr->is_disc_event_masked = false;
	crd_enable(ctrlr, false);
	ctrlr->csts = 0;
}

void ctrlr_set_cc(struct ctrlr *ctrlr, uint32_t cc)
{
	uint32_t old = ctrlr->cc;

	ctrlr->cc = cc;
	if (!(old & NVME_CC_EN) && (cc & NVME_CC_EN)) {
		ctrlr->csts = cc_is_supported(cc) ? NVME_CSTS_RDY : NVME_CSTS_CFS;
		if (ctrlr->csts & NVME_CSTS_CFS)
			log_warn("host asks for what is not there nqn=%s cntlid=%u cc=%#" PRIx32,
				 ctrlr->subsystem->nqn, ctrlr->cntlid, cc);
	} else if ((old & NVME_CC_EN) && !(cc & NVME_CC_EN)) {
		ctrlr_reset(ctrlr);
	}
	if (cc >> NVME_CC_SHN_SHIFT & 3)
		ctrlr->csts |= NVME_CSTS_SHST_COMPLETE; /* nothing of ours is kept per controller */
}

/* ---- events --------------------------------------------------------------------------------- */

static void ctrlr_send_event(struct ctrlr *ctrlr, uint8_t type, uint8_t info, uint8_t log)
{
	struct cmd *cmd = ctrlr->aer[--ctrlr->naer];

	cmd->dw0 = type | (uint32_t)info << 8 | (uint32_t)log << 16;
	cmd->status = 0;
	cmd_return(cmd);
}

void ctrlr_send_events(struct ctrlr *ctrlr)
{
	if (ctrlr->naer > 0 && ctrlr->is_ns_event_due && !ctrlr->is_ns_event_masked &&
	    (ctrlr->async_config & NVME_OAES_NS_ATTR)) {
		ctrlr->is_ns_event_due = false;
		ctrlr->is_ns_event_masked = true;
		ctrlr_send_event(ctrlr, NVME_AEN_TYPE_NOTICE, NVME_AEN_NS_CHANGED,
				 NVME_LOG_CHANGED_NS);
	}
	if (ctrlr->naer > 0 && ctrlr->is_ana_event_due && !ctrlr->is_ana_event_masked &&
	    (ctrlr->async_config & NVME_OAES_ANA)) {
		ctrlr->is_ana_event_due = false;
		ctrlr->is_ana_event_masked = true;
		ctrlr_send_event(ctrlr, NVME_AEN_TYPE_NOTICE, NVME_AEN_ANA_CHANGED, NVME_LOG_ANA);
	}
	if (ctrlr->naer > 0 && ctrlr->is_disc_event_due && !ctrlr->is_disc_event_masked &&
	    (ctrlr->async_config & NVME_OAES_DISCOVERY)) {
		ctrlr->is_disc_event_due = false;
		ctrlr->is_disc_event_masked = true;
		ctrlr_send_event(ctrlr, NVME_AEN_TYPE_NOTICE, NVME_AEN_DISCOVERY_CHANGED,
				 NVME_LOG_DISCOVERY);
	}
	/* feature 0Bh has no say in this one: feature 82h decides whether there is a page */
	if (ctrlr->naer > 0 && ctrlr->resv_log.used > 0 && !ctrlr->is_resv_event_masked) {
		ctrlr->is_resv_event_masked = true;
		ctrlr_send_event(ctrlr, NVME_AEN_TYPE_IO_SPECIFIC, NVME_AEN_RESERVATION_LOG,
				 NVME_LOG_RESERVATION);
	}
}

void ctrlr_ana_changed(struct ctrlr *ctrlr)
{
	ctrlr->is_ana_event_due = true;
	ctrlr_send_events(ctrlr);
}

void ctrlr_ns_changed(struct ctrlr *ctrlr, uint32_t nsid)
{
	ctrlr->changed[(nsid - 1) / 8] |= (uint8_t)(1 << (nsid - 1) % 8);
	ctrlr->is_ns_event_due = true;
	ctrlr_send_events(ctrlr);
}

void ctrlr_discovery_changed(struct ctrlr *ctrlr)
{
	ctrlr->is_disc_event_due = true;
	ctrlr_send_events(ctrlr);
}

void ctrlr_abort_events(struct ctrlr *ctrlr)
{
	while (ctrlr->naer > 0) {
		struct cmd *cmd = ctrlr->aer[--ctrlr->naer];

		cmd->status = NVME_SC_ABORTED_SQ_DELETION;
		cmd_return(cmd);
	}
}
