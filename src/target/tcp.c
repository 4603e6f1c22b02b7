// SPDX-License-Identifier: Apache-2.0
/*
 * Receiving: one recv per active connection and turn into memory that stays hot, PDUs judged and
 * taken in place.
 *
 *   chunk  |used ....|tail of the last recv| what recv brings: PDU PDU PDU PD|
 *                                                                          ^ saved in conn->tail
 *
 * A chunk belongs to the reactor, not to a connection: all connections of a turn are received into
 * the same few hundred KiB one after the other. Commands whose data is lent to a device keep the
 * chunk (refs), and so does a rest that is not judged yet; when it is full another one is taken,
 * and when all are kept a last one serves that never lends. When rests fill that one too, nobody
 * receives until some are judged. What a connection keeps of its own is the beginning of a PDU that
 * is not complete: copied behind `used` before the next recv, so that a PDU is always contiguous.
 *
 * Data of H2CData PDUs is the exception: as soon as the header is known, the rest of the data is
 * received straight to where it belongs (first element of the scatter list) and only what follows
 * it lands in the chunk.
 *
 *   connection:  active (recv tried each turn) --RX_IDLE_US without a byte--> armed (poll request)
 *                  ^---------------------------- ready() ---------------------------'
 *
 * Before the reactor sleeps every active connection is armed.
 *
 * Invariants
 *   1. A connection with a tail has no data transfer half done, and the other way round.
 *   2. After an error no further byte of that connection is judged.
 *   3. Who has a rest (a batch that is not judged yet) does not receive.
 *   4. A chunk is written from its start again only when nothing counts on it (refs is 0).
 *
 * Thread: the connection's reactor.
 *
 * Rejected: reading header and data in separate calls (two system calls per command); multishot
 * receive into many buffers (measured slower for writes: cache footprint); MSG_ZEROCOPY (loses a
 * factor on loopback, needs error-queue reads).
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "target/internal.h"

/* The chunk to receive into, with room for a batch; NULL while rests fill the last one. */
static struct rx_chunk *core_rx(struct core *core)
{
	struct rx_chunk *chunk = core->rx;

	if (likely(chunk->refs == 0)) {
		chunk->used = 0;
		if (likely(chunk->may_lend))
			return chunk;
		if (core->rx_free == NULL)
			return chunk; /* still the last one */
	} else if (RX_CHUNK_SIZE - chunk->used >= RX_ROOM_MIN) {
		return chunk;
	}
	/* Full or the last one: chunks come back through rx_chunk_put(). */
	if (core->rx_free != NULL) {
		chunk = core->rx_free;
		core->rx_free = chunk->next;
	} else {
		chunk = &core->chunk[RX_CHUNK_COUNT];
	}
	core->rx = chunk;
	if (chunk->refs == 0)
		chunk->used = 0;
	return RX_CHUNK_SIZE - chunk->used >= RX_ROOM_MIN ? chunk : NULL;
}

/* ---- host data (H2CData) -------------------------------------------------------------------- */

static void h2c_finish(struct conn *conn)
{
	struct cmd *cmd = conn->h2c;
	struct le32 digest;

	conn->h2c = NULL;
	if (conn->rules.ddgst) {
		memcpy(digest.b, conn->h2c_digest, sizeof(digest));
		if (le32_get(digest) != conn->h2c_crc) {
			conn->core->stats.digest_errors++;
			cmd->is_data_bad = true;
		}
	}
	if (cmd->got == cmd->len)
		cmd_data_ready(cmd);
}

/* @len bytes of the data are at h2c_at. */
static void h2c_landed(struct conn *conn, uint32_t len)
{
	conn->h2c_at += len;
	conn->h2c_left -= len;
	conn->h2c->got += len;
	conn->last_h2c_ns = conn->core->reactor->now_ns;
	if (conn->h2c_left == 0 && conn->h2c_digest_left == 0)
		h2c_finish(conn);
}

/* Take data and digest from the chunk. Returns bytes taken. */
static size_t h2c_take(struct conn *conn, const uint8_t *at, size_t len)
{
	uint32_t n = (uint32_t)MIN(len, (size_t)conn->h2c_left);
	uint32_t d;

	if (n > 0) {
		if (conn->rules.ddgst)
			conn->h2c_crc = crc32c_copy(conn->h2c_crc, conn->h2c_at, at, n);
		else
			memcpy(conn->h2c_at, at, n);
		h2c_landed(conn, n);
	}
	if (conn->h2c == NULL || conn->h2c_left > 0)
		return n;
	d = (uint32_t)MIN(len - n, (size_t)conn->h2c_digest_left);
	memcpy(conn->h2c_digest + NVME_TCP_DIGEST_SIZE - conn->h2c_digest_left, at + n, d);
	conn->h2c_digest_left -= d;
	if (conn->h2c_digest_left == 0)
		h2c_finish(conn);
	return n + d;
}

static struct cmd *h2c_command(struct conn *conn, uint16_t ttag)
{
	if (ttag == TAG_BOOT)
		return &conn->boot;
	return ttag < conn->ncmds ? &conn->slots[ttag].cmd : NULL;
}

/* The header of an H2CData is complete: which command is it for, and is it the next piece? */
static bool h2c_begin(struct conn *conn, const uint8_t *at, const struct pdu *pdu,
		      struct pdu_fault *fault)
{
	const struct nvme_tcp_data *hdr = (const void *)at;
	struct cmd *cmd = h2c_command(conn, le16_get(hdr->ttag));
	uint32_t off = le32_get(hdr->off);

	*fault = (struct pdu_fault){ .fes = NVME_TCP_FES_INVALID_FIELD,
				     .fei = offsetof(struct nvme_tcp_data, ttag) };
	if (cmd == NULL || cmd->state != CMD_R2T)
		return false;
	fault->fei = offsetof(struct nvme_tcp_data, cid);
	if (le16_get(hdr->cid) != cmd->cid)
		return false;
	*fault = (struct pdu_fault){ .fes = NVME_TCP_FES_OUT_OF_RANGE };
	if (off != cmd->got || pdu->data_len > cmd->len - cmd->got)
		return false;
	*fault = (struct pdu_fault){ .fes = NVME_TCP_FES_INVALID_FIELD,
				     .fei = offsetof(struct nvme_tcp_hdr, flags) };
	if (((pdu->flags & NVME_TCP_LAST) != 0) != (off + pdu->data_len == cmd->len))
		return false;
	conn->h2c = cmd;
	conn->h2c_at = cmd->buf + off;
	conn->h2c_left = pdu->data_len;
	conn->h2c_digest_left = conn->rules.ddgst ? NVME_TCP_DIGEST_SIZE : 0;
	conn->h2c_crc = 0;
	return true;
}

/* ---- other PDUs ----------------------------------------------------------------------------- */

static void take_icreq(struct conn *conn, const struct nvme_tcp_ic *req)
{
	const struct target_opts *opts = &conn->core->target->opts;
	struct nvme_tcp_ic *resp = &conn->ic;

	conn->rules.is_ready = true;
	conn->rules.hdgst = req->dgst & NVME_TCP_HDGST;
	conn->rules.ddgst = req->dgst & NVME_TCP_DDGST;
	conn->rules.capsule_data_max = NVME_TCP_ADMIN_CAPSULE_DATA;
	conn->rules.h2c_data_max = MAX(opts->io_size_max, (uint32_t)NVME_TCP_ADMIN_CAPSULE_DATA);
	conn->data_align = (uint8_t)((req->pda + 1) * 4 - 1);
	*resp = (struct nvme_tcp_ic){
		.hdr = { .type = NVME_TCP_ICRESP,
			 .hlen = sizeof(*resp),
			 .plen = le32_of(sizeof(*resp)) },
		.dgst = req->dgst,
		.max = le32_of(conn->rules.h2c_data_max),
	};
	conn->state = CONN_READY;
	conn_queue_out(conn, &conn->ic_out, OUT_IC);
}

/* A free slot, or NULL: the host sent more commands than its queue holds. */
static inline struct cmd *take_slot(struct conn *conn)
{
	struct cmd *cmd;

	if (likely(conn->state == CONN_LIVE)) {
		if (unlikely(conn->nfree == 0))
			return NULL;
		return &conn->slots[conn->free[--conn->nfree]].cmd;
	}
	cmd = &conn->boot;
	return cmd->state == CMD_FREE && conn->state != CONN_DRAINING ? cmd : NULL;
}

static bool take_capsule(struct conn *conn, const uint8_t *at, const struct pdu *pdu,
			 struct rx_chunk *chunk, struct pdu_fault *fault)
{
	const struct nvme_tcp_capsule_cmd *capsule = (const void *)at;
	struct cmd *cmd = take_slot(conn);
	bool is_good = true;

	if (unlikely(cmd == NULL)) {
		if (conn->state == CONN_DRAINING)
			return true; /* dropped: the host learns from the end of the connection */
		*fault = (struct pdu_fault){ .fes = NVME_TCP_FES_SEQUENCE };
		return false;
	}
	cmd->sqe = capsule->cmd;
	cmd->state = CMD_START;
	conn->batch_left--;
	if (conn->rules.ddgst && pdu->data_len > 0) {
		struct le32 digest;

		memcpy(&digest, at + pdu->data_off + pdu->data_len, sizeof(digest));
		is_good = crc32c(0, at + pdu->data_off, pdu->data_len) == le32_get(digest);
		if (!is_good)
			conn->core->stats.digest_errors++;
	}
	if (unlikely(conn->state == CONN_READY))
		conn->state = CONN_CONNECTING;
	cmd_start(cmd, at + pdu->data_off, pdu->data_len, is_good, chunk);
	return true;
}

static void take_term(struct conn *conn, const uint8_t *at)
{
	const struct nvme_tcp_term *term = (const void *)at;

	log_warn("host ended the connection peer=%s fes=%u fei=%u", conn->peer, le16_get(term->fes),
		 le32_get(term->fei));
	conn_close(conn);
}

/* ---- the loop over what was received -------------------------------------------------------- */

/* One PDU; returns bytes taken, 0: not complete yet. */
static size_t take_pdu(struct conn *conn, struct rx_chunk *chunk, const uint8_t *at, size_t len)
{
	struct pdu_fault fault = {};
	struct pdu pdu;
	enum pdu_result result = pdu_parse(&conn->rules, at, len, &pdu, &fault);
	bool is_ok = result != PDU_BAD;

	if (result == PDU_MORE)
		return 0;
	if (likely(is_ok && pdu.type == NVME_TCP_CAPSULE_CMD)) {
		if (len < pdu.len)
			return 0;
		is_ok = take_capsule(conn, at, &pdu, chunk, &fault);
	} else if (is_ok && pdu.type == NVME_TCP_H2C_DATA) {
		if (len < pdu.data_off)
			return 0;
		is_ok = h2c_begin(conn, at, &pdu, &fault);
		if (is_ok)
			return pdu.data_off + h2c_take(conn, at + pdu.data_off, len - pdu.data_off);
	} else if (is_ok) {
		if (len < pdu.len)
			return 0;
		if (pdu.type == NVME_TCP_ICREQ)
			take_icreq(conn, (const void *)at);
		else
			take_term(conn, at);
	}
	if (unlikely(!is_ok)) {
		conn_terminate(conn, &fault, at, pdu_offending(at, len));
		return len;
	}
	return pdu.len;
}

static size_t conn_parse(struct conn *conn, struct rx_chunk *chunk, const uint8_t *at, size_t len)
{
	size_t done = 0, n;

	if (conn->h2c != NULL)
		done = h2c_take(conn, at, len);
	while (done < len && conn->state < CONN_TERMINATED && conn->batch_left > 0) {
		n = take_pdu(conn, chunk, at + done, len - done);
		if (n == 0)
			break;
		done += n;
	}
	return conn->state < CONN_TERMINATED ? done : len;
}

void conn_drop_rest(struct conn *conn)
{
	if (conn->rest_chunk != NULL)
		rx_chunk_put(conn->core, take(conn->rest_chunk));
}

/*
 * Judge the next batch of what was received. A bounded batch keeps both sides busy: a host sees its
 * first answers while the rest of its commands is still being worked on.
 */
static void conn_take_rest(struct conn *conn)
{
	size_t done;

	conn->batch_left = BATCH_MAX;
	done = conn_parse(conn, conn->rest_chunk, conn->rest_at, conn->rest_len);
	if (conn->rest_chunk == NULL)
		return; /* closed meanwhile */
	conn->rest_at += done;
	conn->rest_len -= done;
	if (conn->rest_len > 0 && conn->batch_left == 0 && conn->state < CONN_TERMINATED)
		return;
	conn->tail_len = (uint32_t)conn->rest_len;
	assert(conn->tail_len <= sizeof(conn->tail));
	memcpy(conn->tail, conn->rest_at, conn->tail_len);
	conn_drop_rest(conn);
}

/* What the system call put behind the tail, or straight to its place. */
static void conn_received(struct conn *conn, struct rx_chunk *chunk, uint8_t *base, size_t got)
{
	size_t len, direct = 0;

	if (conn->h2c_left > 0) {
		direct = MIN(got, (size_t)conn->h2c_left);
		if (conn->rules.ddgst)
			conn->h2c_crc = crc32c(conn->h2c_crc, conn->h2c_at, direct);
		h2c_landed(conn, (uint32_t)direct);
	}
	len = conn->tail_len + got - direct;
	conn->tail_len = 0;
	if (len == 0)
		return;
	chunk->refs++; /* mine: it may not be reused while it is judged, or a rest lies in it */
	chunk->used = ALIGN_UP((uint32_t)(base - chunk->base + len), 64u);
	conn->rest_chunk = chunk;
	conn->rest_at = base;
	conn->rest_len = len;
	conn_take_rest(conn);
}

/* Returns the events handled: 0 when there was nothing to read. */
static unsigned conn_recv(struct conn *conn)
{
	struct rx_chunk *chunk;
	struct iovec iov[2];
	int iovcnt = 0;
	uint8_t *base;
	ssize_t got;

	if (conn->rest_chunk != NULL) {
		conn_take_rest(conn);
		return 1;
	}
	chunk = core_rx(conn->core);
	if (unlikely(chunk == NULL))
		return 0; /* each turn judges a batch of every rest: soon there is room */
	base = chunk->base + chunk->used;
	if (conn->h2c_left > 0)
		iov[iovcnt++] = (struct iovec){ conn->h2c_at, conn->h2c_left };
	iov[iovcnt++] = (struct iovec){ base + conn->tail_len,
					RX_CHUNK_SIZE - chunk->used - conn->tail_len };
	got = stream_recv(conn->stream, iov, iovcnt);
	if (got == -EAGAIN)
		return 0;
	if (got <= 0) {
		if (got < 0)
			conn_broke(conn, (int)got);
		conn_close(conn);
		return 1;
	}
	atomic_store_explicit(&conn->last_rx_ns, conn->core->reactor->now_ns, memory_order_relaxed);
	if (unlikely(conn->state == CONN_TERMINATED))
		return 1; /* thrown away */
	memcpy(base, conn->tail, conn->tail_len);
	conn_received(conn, chunk, base, (size_t)got);
	return 1;
}

/* ---- the active set ------------------------------------------------------------------------- */

static void conn_arm(struct conn *conn)
{
	list_del(&conn->active_link);
	stream_arm(conn->stream, STREAM_IN);
}

unsigned core_poll(struct poller *poller)
{
	struct core *core = container_of(poller, struct core, poller);
	uint64_t now = core->reactor->now_ns;
	struct conn *conn, *next;
	unsigned events = 0, n;

	core->turn++;
	list_for_each_safe (conn, next, &core->active, active_link) {
		n = conn_recv(conn);
		events += n;
		if (n == 0 && now - atomic_load_explicit(&conn->last_rx_ns, memory_order_relaxed) >
				      RX_IDLE_US * 1000ull)
			conn_arm(conn);
	}
	if (list_empty(&core->active))
		poller_stop(core->reactor, poller);
	return events;
}

bool core_arm(struct poller *poller)
{
	struct core *core = container_of(poller, struct core, poller);
	struct conn *conn, *next;

	list_for_each_safe (conn, next, &core->active, active_link) {
		if (conn->rest_chunk != NULL)
			return false; /* there is work without any event */
		conn_arm(conn);
	}
	return true;
}

void conn_activate(struct conn *conn)
{
	struct core *core = conn->core;

	if (!list_empty(&conn->active_link))
		return;
	list_add_tail(&core->active, &conn->active_link);
	poller_start(core->reactor, &core->poller);
}
