// SPDX-License-Identifier: Apache-2.0
/*
 * The life of a connection.
 *
 *   accepted (primary) --msg--> NEW --ICReq--> READY --Connect--> CONNECTING --ok--> LIVE
 *                                |               ^------refused-----'                  |
 *                                +---- error of the host ----> TERMINATED <------------+
 *                                |                               | linger              |
 *                                +---- end of stream, timeout, controller closed ------+
 *                                                                v
 *                       CLOSED: stream closed, slots dropped, --closing--> primary: unlink
 *                               those with a device or the primary   <--unlinked--
 *                               awaited
 *                       unlinked and nothing busy            --gone----> primary: uncount, free
 *
 * LIVE becomes DRAINING when its host is disconnected gracefully: answers go out, new commands are
 * dropped, and the primary closes it when all queues of the controller are done (disconnect.c).
 *
 * The primary learns of a closing connection first and lets go of it (its controller no longer
 * points to it), so that it sends no more messages; the answer "unlinked" comes behind everything
 * the primary sent before, because messages of one sender keep their order. When then the last
 * slot has come back from its device, nobody knows the connection any more and it can be freed.
 *
 * Time limits: from accept to a good Connect opts.connect_timeout_ms; from a termination request
 * to the close CONN_LINGER_MS, in which the host may read why.
 *
 * Thread: the connection's reactor, but for conn_new() and the two halves named primary_*.
 *
 * Rejected: a reference count (two counters with a clear owner each say more); freeing by the
 * reactor (the primary counts connections of target and subsystem, and must do so last).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "target/internal.h"

/* ---- death ---------------------------------------------------------------------------------- */

static void primary_gone(struct msg *msg)
{
	struct conn *conn = container_of(msg, struct conn, msg);

	if (conn->bufs != NULL)
		dma_free(conn->bufs, (size_t)conn->sqsize * conn->buf_size);
	free(conn->slots);
	free(conn->free);
	target_conn_gone(conn);
}

static void conn_maybe_gone(struct conn *conn)
{
	if (conn->state != CONN_CLOSED || !conn->is_unlinked || conn->busy > 0)
		return;
	list_del(&conn->link);
	conn->msg.fn = primary_gone;
	reactor_post(reactor_primary(), &conn->msg);
}

static void conn_unlinked(struct msg *msg)
{
	struct conn *conn = container_of(msg, struct conn, msg);

	conn->is_unlinked = true;
	conn_maybe_gone(conn);
}

static void primary_closing(struct msg *msg)
{
	struct conn *conn = container_of(msg, struct conn, msg);

	ctrlr_unlink(conn);
	conn->msg.fn = conn_unlinked;
	reactor_post(conn->core->reactor, &conn->msg);
}

void conn_put_busy(struct conn *conn)
{
	conn->busy--;
	if (unlikely(conn->state == CONN_CLOSED))
		conn_maybe_gone(conn);
}

/* Many hosts end a connection by a reset, ours among them: that is no trouble of the network. */
void conn_broke(const struct conn *conn, int error)
{
	if (error == -ECONNRESET || error == -EPIPE)
		log_info("connection ended by the host peer=%s", conn->peer);
	else
		log_info("connection broke peer=%s: %s", conn->peer, err_errno_name(error));
}

void conn_close(struct conn *conn)
{
	struct core *core = conn->core;

	if (conn->state == CONN_CLOSED)
		return;
	log_debug("connection closes peer=%s qid=%u busy=%u", conn->peer, conn->qid, conn->busy);
	conn->state = CONN_CLOSED;
	timer_disarm(core->reactor, &conn->timer);
	list_del(&conn->active_link);
	conn_out_reset(conn);
	conn_drop_rest(conn);
	stream_close(take(conn->stream));
	cmd_drop_all(conn, true);
	conn->msg.fn = primary_closing;
	reactor_post(reactor_primary(), &conn->msg);
}

/* ---- termination ---------------------------------------------------------------------------- */

void conn_term_sent(struct conn *conn)
{
	log_debug("termination request sent peer=%s", conn->peer);
}

static void conn_lingered(struct timer *timer)
{
	conn_close(container_of(timer, struct conn, timer));
}

void conn_terminate(struct conn *conn, const struct pdu_fault *fault, const uint8_t *header,
		    size_t len)
{
	struct core *core = conn->core;
	struct nvme_tcp_term *term = &conn->term;

	if (conn->state >= CONN_TERMINATED)
		return;
	log_warn("host broke the protocol, ending the connection peer=%s qid=%u fes=%u "
		 "fei=%" PRIu32,
		 conn->peer, conn->qid, fault->fes, fault->fei);
	core->stats.terminated++;
	conn->state = CONN_TERMINATED;
	conn->tail_len = 0;
	cmd_drop_all(conn, false);
	conn->term_data_len = (uint32_t)MIN(len, sizeof(conn->term_data));
	memcpy(conn->term_data, header, conn->term_data_len);
	*term = (struct nvme_tcp_term){
		.hdr = { .type = NVME_TCP_C2H_TERM,
			 .hlen = sizeof(*term),
			 .plen = le32_of((uint32_t)sizeof(*term) + conn->term_data_len) },
		.fes = le16_of(fault->fes),
		.fei = le32_of(fault->fei),
	};
	conn_queue_out(conn, &conn->term_out, OUT_TERM);
	conn->timer.fn = conn_lingered;
	timer_arm(core->reactor, &conn->timer, CONN_LINGER_MS * 1000000ull);
}

/* ---- birth ---------------------------------------------------------------------------------- */

static void conn_connect_timeout(struct timer *timer)
{
	struct conn *conn = container_of(timer, struct conn, timer);

	conn->core->stats.connect_timeouts++;
	log_warn("no Connect command in time, closing peer=%s", conn->peer);
	conn_close(conn);
}

/* The stream has something for us, or takes something again. */
static void conn_stream_ready(struct stream *stream, unsigned want)
{
	struct conn *conn = stream->owner;

	if (want & STREAM_OUT) {
		conn->is_send_blocked = false;
		if (conn->out_head != NULL && list_empty(&conn->out_link)) {
			list_add_tail(&conn->core->outs, &conn->out_link);
			if (!conn->core->is_flush_queued) {
				conn->core->is_flush_queued = true;
				reactor_at_flush(conn->core->reactor, &conn->core->flush);
			}
		}
	}
	if (want & STREAM_IN) {
		atomic_store_explicit(&conn->last_rx_ns, conn->core->reactor->now_ns,
				      memory_order_relaxed);
		conn_activate(conn);
	}
}

static void conn_start(struct msg *msg)
{
	struct conn *conn = container_of(msg, struct conn, msg);
	struct core *core = conn->core;

	list_add_tail(&core->conns, &conn->link);
	conn->stream->owner = conn;
	conn->stream->ready = conn_stream_ready;
	stream_attach(conn->stream);
	atomic_store_explicit(&conn->last_rx_ns, core->reactor->now_ns, memory_order_relaxed);
	conn->timer.fn = conn_connect_timeout;
	timer_arm(core->reactor, &conn->timer, core->target->opts.connect_timeout_ms * 1000000ull);
	conn_activate(conn);
}

static void conn_close_posted(struct msg *msg)
{
	conn_close(container_of(msg, struct conn, close_msg));
}

int conn_new(struct target *target, struct core *core, struct stream *stream, unsigned listener)
{
	struct conn *conn = calloc(1, sizeof(*conn));

	if (conn == NULL)
		return -ENOMEM;
	conn->core = core;
	conn->target = target;
	conn->serial = target->conns_accepted; /* counted before: starts at 1 */
	conn->stream = stream;
	conn->listener = (uint8_t)listener;
	list_init(&conn->counted_link);
	list_init(&conn->active_link);
	list_init(&conn->out_link);
	list_init(&conn->link);
	conn_out_reset(conn);
	conn->boot.conn = conn;
	conn->boot.tag = TAG_BOOT;
	list_init(&conn->boot.link);
	conn->close_msg.fn = conn_close_posted;
	conn->is_load = true;
	core->load++;
	limits_charge(conn, limits_conn_memory());
	memcpy(conn->peer, stream->peer, sizeof(conn->peer));
	memcpy(conn->local, stream->local, sizeof(conn->local));
	conn->msg.fn = conn_start;
	reactor_post(core->reactor, &conn->msg);
	return 0;
}

/* ---- Connect succeeded ---------------------------------------------------------------------- */

int conn_go_live(struct conn *conn)
{
	const struct target_opts *opts = &conn->core->target->opts;
	const struct connect_result *r = &conn->result;
	uint16_t n = r->sqsize;

	conn->sqsize = n;
	conn->buf_size = r->qid == 0 ? NVME_TCP_ADMIN_CAPSULE_DATA
				     : MAX(opts->in_capsule_size, (uint32_t)SMALL_BUF);
	conn->slots = aligned_alloc(_Alignof(struct slot), n * sizeof(struct slot));
	conn->free = calloc(n, sizeof(*conn->free));
	conn->bufs = dma_alloc((size_t)n * conn->buf_size);
	if (conn->slots == NULL || conn->free == NULL || conn->bufs == NULL) {
		log_warn("no memory for a queue of %u entries peer=%s", n, conn->peer);
		return -ENOMEM; /* primary_gone() frees what there is */
	}
	memset(conn->slots, 0, n * sizeof(struct slot));
	for (uint16_t i = 0; i < n; i++) {
		conn->slots[i].cmd.conn = conn;
		conn->slots[i].cmd.tag = i;
		list_init(&conn->slots[i].cmd.link);
		conn->free[i] = (uint16_t)(n - 1 - i);
	}
	conn->nfree = n;
	conn->sc = r->sc;
	conn->denied = r->denied;
	conn->ana_blocked = r->sc->ana[conn->listener].blocked;
	conn->qid = r->qid;
	conn->ncmds = n;
	conn->sqhd = 1 % n; /* Connect was the first entry */
	conn->is_flow_controlled = r->is_flow_controlled;
	conn->rules.capsule_data_max = r->qid == 0 ? NVME_TCP_ADMIN_CAPSULE_DATA
						   : opts->in_capsule_size;
	conn->rules.h2c_data_max = MAX(opts->io_size_max, (uint32_t)NVME_TCP_ADMIN_CAPSULE_DATA);
	conn->borrow_min = conn->rules.ddgst ? UINT32_MAX : opts->borrow_min;
	conn->state = CONN_LIVE;
	timer_disarm(conn->core->reactor, &conn->timer);
	return 0;
}
