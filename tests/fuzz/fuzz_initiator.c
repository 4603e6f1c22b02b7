/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole session of the initiator's queue, fed with any bytes: the input is what a controller
 * sends from the first byte on, cut as the input says, while the queue keeps reads and writes in
 * flight.
 *
 * Byte 0 chooses digests, how the socket cuts and takes, and whether what is needed to come up is
 * put in front (so that an input need not find a good ICResp and Connect answer by itself). Byte 1
 * helps further in: right CIDs and digests are patched into PDUs that look like answers.
 *
 * Held against it: each command ends once, the queue comes down and can be freed, what it received
 * lies within the caller's buffers (a sanitizer looks), and what it sent are whole PDUs.
 */
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "drivers/nvmf/queue.h"
#include "drivers/nvmf/testing.h"
#include "fuzz.h"

enum {
	HAS_HDGST = 1 << 0,
	HAS_DDGST = 1 << 1,
	COMES_UP = 1 << 2,
	CUTS_RECV = 1 << 3,
	CUTS_SEND = 1 << 4,
	DISCONNECTS = 1 << 5, /* from done() */
	PATCHES_CID = 1 << 0, /* byte 1 */
	PATCHES_DIGEST = 1 << 1,

	DEPTH = 8,
	JOBS = 6,
	JOB_BYTES = 40000, /* more than RX_DIRECT_MIN */
	TURNS = 400,
};

struct job {
	struct queue *q;
	struct iovec iov[2];
	uint8_t *buf;
	unsigned nsent, ndone;
	bool is_write;
};

static struct session {
	struct queue *q;
	struct job jobs[JOBS];
	unsigned nup, ndown;
	uint8_t mode;
	unsigned left; /* commands to send again */
} session;

static void job_send(struct job *job);

static void job_done(struct slot *slot)
{
	struct job *job = slot->owner;

	job->ndone++;
	MUST(job->ndone == job->nsent);
	MUST(slot->got <= slot->len && slot->asked <= slot->len);
	if (session.mode & DISCONNECTS)
		queue_disconnect(session.q, -ESHUTDOWN);
	if (session.left > 0 && queue_state(session.q) == QUEUE_LIVE) {
		session.left--;
		job_send(job);
	}
}

static void job_send(struct job *job)
{
	struct slot *slot = queue_get(session.q);
	uint32_t len = (uint32_t)(job - session.jobs) % 3 == 0 ? 512 : JOB_BYTES;

	MUST(slot != NULL);
	slot->sqe.opcode = job->is_write ? NVME_IO_WRITE : NVME_IO_READ;
	slot->iov = job->iov;
	slot->iovcnt = 2;
	slot->len = len;
	slot->dir = job->is_write ? SLOT_H2C : SLOT_C2H;
	slot->done = job_done;
	slot->owner = job;
	slot->timeout_ns = 1000 * FAKE_TURN_NS;
	job->nsent++;
	queue_send(slot);
}

static void session_up(struct queue *q)
{
	MUST(q == session.q);
	session.nup++;
	for (unsigned i = 0; i < JOBS; i++)
		job_send(&session.jobs[i]);
}

static void session_down(struct queue *q, int reason)
{
	MUST(reason < 0 && queue_state(q) == QUEUE_IDLE && queue_inflight(q) == 0);
	session.ndown++;
}

static void jobs_init(void)
{
	for (unsigned i = 0; i < JOBS; i++) {
		struct job *job = &session.jobs[i];

		job->buf = calloc(1, JOB_BYTES);
		MUST(job->buf != NULL);
		job->is_write = i >= JOBS / 2;
		job->iov[0] = (struct iovec){ job->buf, 301 };
		job->iov[1] = (struct iovec){ job->buf + 301, JOB_BYTES - 301 };
	}
}

/* ---- what the controller says --------------------------------------------------------------- */

static void give_preamble(void)
{
	uint8_t dgst = session.mode & (HAS_HDGST | HAS_DDGST);
	struct nvme_tcp_ic ic = {
		.hdr = { .type = NVME_TCP_ICRESP, .hlen = sizeof(ic), .plen = le32_of(sizeof(ic)) },
		.dgst = dgst,
		.max = le32_of(8192)
	};
	struct {
		struct nvme_tcp_capsule_resp resp;
		struct le32 digest;
	} pdu = { .resp = { .hdr = { .type = NVME_TCP_CAPSULE_RESP,
				     .flags = dgst & NVME_TCP_HDGST,
				     .hlen = sizeof(pdu.resp) },
			    .cqe.cid = le16_of(0) } };
	size_t len = sizeof(pdu.resp) + (dgst & NVME_TCP_HDGST ? 4 : 0);

	pdu.resp.hdr.plen = le32_of((uint32_t)len);
	pdu.digest = le32_of(crc32c(0, &pdu.resp, sizeof(pdu.resp)));
	fake_give(&ic, sizeof(ic));
	fake_turns(3); /* it must have asked before it is answered */
	fake_give(&pdu, len);
	fake_turns(2);
}

/* The CID that the command of a job has now: what an attacker would read from the wire. */
static uint16_t cid_in_flight(unsigned n)
{
	struct slot *slot = NULL;

	for (unsigned i = 0; i <= n % JOBS; i++) {
		slot = queue_next_inflight(session.q, slot);
		if (slot == NULL)
			return (uint16_t)n;
	}
	return slot->cid;
}

/* The next PDU of the input, made right where byte 1 says so. Returns bytes used. */
static size_t give_next(const uint8_t *data, size_t len, uint8_t help)
{
	uint8_t pdu[256];
	const struct nvme_tcp_hdr *hdr = (const void *)pdu;
	size_t n = MIN(len, (size_t)256);
	size_t at;

	memcpy(pdu, data, n);
	if (n < 24 || hdr->hlen != 24) {
		fake_give(pdu, n);
		return n;
	}
	at = hdr->type == NVME_TCP_CAPSULE_RESP ? 20 : 8;
	if (help & PATCHES_CID) {
		struct le16 cid = le16_of(cid_in_flight(pdu[at]));

		memcpy(pdu + at, &cid, sizeof(cid));
	}
	if ((help & PATCHES_DIGEST) && n >= 28) {
		struct le32 digest = le32_of(crc32c(0, pdu, 24));

		memcpy(pdu + 24, &digest, sizeof(digest));
	}
	if (le32_get(hdr->plen) > 24 && le32_get(hdr->plen) < n)
		n = le32_get(hdr->plen);
	else if (le32_get(hdr->plen) == 24)
		n = 24;
	fake_give(pdu, n);
	return n;
}

/* ---- what the queue says -------------------------------------------------------------------- */

static void check_sent(void)
{
	size_t at = 0;

	while (fake.out_len - at >= sizeof(struct nvme_tcp_hdr)) {
		const struct nvme_tcp_hdr *hdr = (const void *)(fake.out + at);

		MUST(hdr->type % 2 == 0 && hdr->type <= NVME_TCP_H2C_DATA);
		MUST(le32_get(hdr->plen) >= hdr->hlen);
		if (le32_get(hdr->plen) > fake.out_len - at)
			break; /* the end came in between */
		at += le32_get(hdr->plen);
	}
}

static void session_end(void)
{
	queue_disconnect(session.q, -ESHUTDOWN);
	fake_turns(3);
	MUST(queue_state(session.q) == QUEUE_IDLE);
	MUST(session.ndown == 1);
	check_sent();
	for (unsigned i = 0; i < JOBS; i++) {
		MUST(session.jobs[i].ndone == session.jobs[i].nsent);
		free(session.jobs[i].buf);
	}
	queue_free(session.q);
	MUST(fake_stop());
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct queue_opts opts = {
		.qid = 1, .depth = DEPTH, .up = session_up, .down = session_down
	};
	struct queue_target target = { .host = "192.0.2.1",
				       .port = 1,
				       .subnqn = "nqn.s",
				       .hostnqn = "nqn.h",
				       .capsule_data_max = 4096,
				       .connect_timeout_ns = 100000 * FAKE_TURN_NS };
	size_t at = 2;

	if (size < 2)
		return 0;
	log_set_level(LOG_ERROR);
	memset(&session, 0, sizeof(session));
	session.mode = data[0];
	session.left = 20;
	fake_start();
	jobs_init();
	target.hdgst = session.mode & HAS_HDGST;
	target.ddgst = session.mode & HAS_DDGST;
	MUST(queue_new(&opts, &session.q, NULL) == 0);
	MUST(queue_connect(session.q, &target, NULL) == 0);
	fake_turns(2);
	if (session.mode & COMES_UP)
		give_preamble();
	fake.in_step = session.mode & CUTS_RECV ? 1 + data[1] : 0;
	for (unsigned i = 0; i < TURNS && at < size; i++) {
		if (session.mode & CUTS_SEND)
			fake.room = data[1];
		at += give_next(data + at, size - at, data[1]);
		fake_turns(fake.in_step != 0 ? 4 : 2);
	}
	fake.room = SIZE_MAX;
	fake_turns(20);
	session_end();
	return 0;
}
