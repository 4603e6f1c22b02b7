/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue_internal.h - what the files of a queue share: queue.c (life), queue_tx.c, queue_rx.c.
 *
 *      reactor --- hub --- queues that poll (active), queues that have something to say (outs)
 *                   +----- memory that all of them receive into and gather headers in
 *
 * Owner:  a hub comes with the first queue of a reactor and goes with the last.
 * Thread: one reactor for a hub and all its queues.
 */
#ifndef ASHLAR_DRIVERS_NVMF_QUEUE_INTERNAL_H
#define ASHLAR_DRIVERS_NVMF_QUEUE_INTERNAL_H

#include "drivers/nvme/tcp_pdu.h"
#include "drivers/nvmf/queue.h"
#include "reactor/reactor.h"
#include "reactor/stream.h"

enum {
	RX_SIZE = 512 << 10,      /* bytes received at once by all queues of a reactor */
	RX_DIRECT_MIN = 32 << 10, /* bytes; larger data is received in place, see queue_rx.c */
	RX_SMALL = 1024,          /* room behind it, and while large data is expected */
	RX_IDLE_US = 100,         /* a queue is polled so long after its last byte */
	TAIL_MAX = 256,           /* the longest header, padding included */
	TX_IOV_MAX = STREAM_IOV_MAX,
	TX_STAGING = 128 << 10, /* bytes of headers per gathered send */
	TERM_LINGER_MS = 100,   /* to let a controller read why we end */
};

enum slot_state {
	SLOT_FREE,
	SLOT_LENT,   /* with the user, not sent */
	SLOT_QUEUED, /* the capsule is not wholly in the kernel */
	SLOT_SENT,   /* the controller may answer */
	SLOT_DONE,   /* inside done() */
};

/* What of a slot is queued for sending. */
enum slot_out {
	OUT_NONE,
	OUT_CMD,
	OUT_H2C, /* one H2CData */
	OUT_IC,
};

/* Which slot was sent before and after; by tag, so that the hot part of the list is a few lines. */
struct order {
	uint16_t prev, next;
};

struct hub {
	struct reactor *reactor;
	struct poller poller;
	struct list active; /* queues whose recv is tried each turn */
	struct list outs;   /* queues with something to send */
	struct msg flush;
	bool is_flush_queued;
	unsigned nqueues, nactive;
	uint8_t *rx;       /* RX_SIZE, owned */
	uint8_t *staging;  /* TX_STAGING, owned; behind rx */
	struct iovec *iov; /* TX_IOV_MAX, owned */
};

struct queue {
	/* hot */
	struct hub *hub;
	struct stream *stream; /* owned; NULL: none */
	struct slot *slots;    /* owned, nslots */
	struct order *order;   /* owned, nslots + 1; the last is the head of the ring */
	uint16_t *free;        /* stack of free tags, owned */
	uint16_t nfree, nslots;
	uint16_t lent, limit; /* slots taken; at most so many */
	uint16_t inflight;
	uint16_t tag_mask; /* of a CID */
	uint16_t nlarge;   /* reads in flight of RX_DIRECT_MIN and more */
	uint8_t state;     /* enum queue_state */
	bool is_send_blocked;
	bool is_starved;    /* queue_get() had nothing to give */
	uint8_t data_align; /* of data that we send, bytes - 1 (CPDA) */
	uint32_t capsule_data_max, h2c_data_max;
	struct pdu_rules rules;
	struct list active_link, out_link;
	uint64_t last_rx_ns;
	uint64_t late_due_ns; /* when the timer looks at slots; UINT64_MAX: not armed */
	uint64_t io_timeout_ns;
	struct queue_stats stats;

	/* sending */
	struct slot *out_head, **out_tail;
	uint32_t out_skip; /* bytes of the head that are in the kernel */

	/* data that is arriving */
	struct slot *in;  /* whose; NULL: none */
	uint32_t in_left; /* bytes of data of this PDU */
	uint32_t in_digest_left, in_crc;
	const struct iovec *in_iov; /* where the next byte goes */
	size_t in_off;
	uint8_t in_flags;
	uint8_t in_digest[NVME_TCP_DIGEST_SIZE];

	uint32_t tail_len;
	uint8_t tail[TAIL_MAX]; /* the beginning of a PDU that is not complete */

	/* life */
	struct queue_opts opts;
	void (*room)(struct queue *q);
	struct msg room_msg, end_msg;
	bool is_room_queued, is_end_queued;
	bool is_terminating; /* H2CTermReq was sent; what arrives is thrown away */
	bool is_clean;       /* the stream is closed, not aborted */
	struct timer life;   /* connect, then linger */
	struct timer late;
	int reason;
	int send_error; /* negative errno: the socket takes nothing any more */
	struct err err;
	bool hdgst, ddgst; /* asked for */
	uint32_t kato_ms;
	uint32_t capsule_data_target; /* once LIVE */
	uint16_t cntlid, connect_status;
	struct slot ic_slot; /* stands for ICReq among what is to be sent */
	struct nvme_tcp_ic ic;
	struct nvme_connect_data connect_data;
	struct iovec connect_iov;
	char peer[STREAM_ADDR_MAX];
};

static inline bool queue_is_open(const struct queue *q)
{
	return q->state >= QUEUE_IC && q->state <= QUEUE_LIVE;
}

/* ---- queue.c -------------------------------------------------------------------------------- */

/* The connection is over: abort it; slots and down() follow from the loop. */
void queue_drop(struct queue *q, int reason);
/*
 * The controller broke the protocol: tell it why (TCP 3.5.3) and end. @what in a few words; the
 * header begins at @at.
 */
COLD void queue_violated(struct queue *q, const struct pdu_fault *fault, const char *what,
			 const uint8_t *at, size_t len);
/* ICResp arrived. */
void queue_take_ic(struct queue *q, const struct nvme_tcp_ic *ic);
/* The slot has its answer: done(), then it is free. */
void slot_finish(struct slot *slot);
/* A command ended with @status as the controller sees it; waits for what is half sent. */
void slot_answered(struct slot *slot, uint16_t status);
void hub_activate(struct queue *q);
void hub_deactivate(struct queue *q);

/* ---- queue_tx.c ----------------------------------------------------------------------------- */

/* Send what is queued, as far as the socket takes it. */
void queue_flush(struct queue *q);
void queue_out(struct queue *q, struct slot *slot, enum slot_out kind);
/* Takes a slot of which nothing was sent yet out of what is to be sent. */
void queue_out_del(struct queue *q, struct slot *slot);
/* Forget what is to be sent; a capsule that was begun remembers it. */
void queue_out_reset(struct queue *q);
/* The socket takes something again. */
void queue_unblocked(struct queue *q);

/* ---- queue_rx.c ----------------------------------------------------------------------------- */

unsigned hub_poll(struct poller *poller);
bool hub_arm(struct poller *poller);

#endif
