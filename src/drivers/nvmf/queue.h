/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queue.h - one NVMe/TCP queue pair of the initiator: a connection, a reactor, an array of slots.
 *
 *   IDLE --queue_connect()--> DIAL --TCP up--> IC --ICResp--> JOIN --Connect answered--> LIVE
 *    ^                         |                |               |                         |
 *    |                         +----------------+---------------+-------------------------+
 *    |                                  error, time-out, queue_disconnect()
 *    +--- down(): the stream is closed, every slot has ended with NVMF_LOST <--------------+
 *
 * Between an error and down() the state is QUEUE_DOWN.
 *
 * A queue is made once, with all its memory, and connected as often as it takes; it knows nothing
 * about controllers, namespaces or paths. Who uses it takes a slot, fills the command in, sends it,
 * and is called back exactly once: with what the controller answered, or with NVMF_LOST when the
 * connection ended first. Which of the commands that were lost took effect nobody can tell.
 *
 * Owner:  who called queue_new(); slots belong to the queue and are lent from queue_get() to the
 *         return of done().
 * Thread: everything here runs on the reactor the queue was made on, none of it suspends.
 * Rules:  - queue_send() never calls back. done(), up(), down() and late() come from the loop.
 *         - done() may take and send slots, also of this queue, and may call queue_disconnect(); it
 *           may not free the queue.
 *         - data is sent from and received into the caller's memory (slot->iov), which must stay
 *           as it is until done(). After done() the queue does not touch it any more.
 */
#ifndef ASHLAR_DRIVERS_NVMF_QUEUE_H
#define ASHLAR_DRIVERS_NVMF_QUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/list.h"
#include "drivers/nvme/spec.h"
#include "reactor/reactor.h"

enum {
	QUEUE_DEPTH_MIN = 2,
	QUEUE_DEPTH_MAX = 1024,   /* entries; one is never used (Base 3.3.1.2: full is size - 1) */
	QUEUE_IOV_MAX = 256,      /* elements of one command's data */
	QUEUE_DATA_MAX = 1 << 20, /* bytes of one command's data */
	NVMF_LOST = 0x4000,       /* slot.status: the connection ended before an answer came */
};

struct queue;
struct slot;

enum queue_state {
	QUEUE_IDLE, /* no connection */
	QUEUE_DIAL, /* TCP connects */
	QUEUE_IC,   /* ICReq is sent */
	QUEUE_JOIN, /* Fabrics Connect is sent */
	QUEUE_LIVE,
	QUEUE_DOWN, /* over; the slots and down() follow */
};

enum slot_dir {
	SLOT_NO_DATA,
	SLOT_H2C, /* host to controller */
	SLOT_C2H,
};

/*
 * A command in flight. The first part is the user's to fill between queue_get() and queue_send();
 * queue_get() gives it zeroed. Three cache lines: command, the user's, the queue's.
 */
struct slot {
	struct nvme_cmd sqe;     /* all but flags, cid and the descriptor, which the queue fills in;
				  * of flags only the FUSE bits are kept */
	const struct iovec *iov; /* borrowed until done(); the array too */
	int iovcnt;
	uint32_t iov_off; /* bytes of the vector to skip: a part of a larger request */
	uint32_t len;     /* bytes to transfer */
	uint8_t dir;      /* enum slot_dir */
	void (*done)(struct slot *slot);
	void *owner;
	uint64_t timeout_ns; /* 0: the queue's */

	/* the answer, valid in done() */
	/* 0; NVMe type << 8 | code, NVME_STATUS_DNR, CRD in bits 12:11; NVMF_LOST */
	uint16_t status;
	uint32_t dw0, dw1;
	bool is_unsent; /* with NVMF_LOST: no byte of it was sent, so it cannot have taken effect */

	/* the queue's */
	struct queue *queue;
	struct slot *out_next; /* behind it in what is to be sent */
	uint64_t due_ns;       /* late then */
	uint32_t got;          /* bytes of data received */
	uint32_t asked;        /* bytes of data that left or that R2Ts asked for */
	uint32_t h2c_off;      /* of the R2T that is answered: the next byte */
	uint32_t h2c_left;     /* ... and how many */
	uint32_t out_size;     /* of what is queued: bytes on the wire, known once formatted */
	uint32_t digest;       /* ... of its data, if has_digest */
	uint16_t tag;          /* index, and CID on the wire together with a generation */
	uint16_t cid, ttag;
	uint8_t state;    /* enum slot_state */
	uint8_t out_kind; /* enum slot_out: what of it is queued */
	bool has_digest;
	bool is_begun;    /* some of the capsule is in the kernel */
	bool is_last;     /* the controller said that there is no more data */
	bool is_data_bad; /* a digest was wrong */
	bool is_answered; /* as soon as what is being sent has left it is done */
};

struct queue_opts {
	uint16_t qid;   /* 0: admin */
	uint16_t depth; /* entries asked for */
	void *owner;    /* of the queue */
	/* The end of queue_connect(), well. */
	void (*up)(struct queue *q);
	/* The end of a queue that was connecting or live; @reason: negative errno, see queue_err().
	 * The queue is IDLE then: it may be connected again or freed from here. */
	void (*down)(struct queue *q, int reason);
	/* A slot has been in flight for longer than its time. Again after another such time. May be
	 * NULL. */
	void (*late)(struct queue *q, struct slot *slot);
};

/* How to connect; copied. */
struct queue_target {
	const char *host; /* numeric address */
	uint16_t port;
	const char *subnqn, *hostnqn;
	uint8_t hostid[16];
	uint16_t cntlid;             /* admin: FFFFh, dynamic */
	uint32_t kato_ms;            /* admin only */
	bool hdgst, ddgst;           /* asked for */
	uint32_t capsule_data_max;   /* bytes a command may carry: (IOCCSZ * 16) - 64; admin 8192 */
	uint64_t connect_timeout_ns; /* DIAL to LIVE */
	uint64_t io_timeout_ns;      /* of slots; 0: none */
};

/* Allocates everything it will ever need. -ENOMEM, -EINVAL. */
int queue_new(const struct queue_opts *opts, struct queue **ret_queue, struct err *err) WARN_UNUSED;
/* IDLE only. NULL is fine. */
void queue_free(struct queue *q);

/* From IDLE. up() or down() will be called. Negative errno: it did not even start. */
int queue_connect(struct queue *q, const struct queue_target *target, struct err *err) WARN_UNUSED;
/* Abort the connection (RST, so that nothing of ours is still delivered). down(@reason) will be
 * called from the loop, after the slots. In IDLE: nothing happens. With -ESHUTDOWN a LIVE queue
 * that owes nothing (no command; on an admin queue none that waits to be sent) is closed instead
 * (FIN): a target logs a reset as trouble. */
void queue_disconnect(struct queue *q, int reason);

enum queue_state queue_state(const struct queue *q);
void *queue_owner(const struct queue *q);
uint16_t queue_qid(const struct queue *q);
/* Why the last connection ended or did not come up; never NULL. */
const struct err *queue_err(const struct queue *q);
/* What the controller answered Connect last: 0, a status as in slot.status, or NVMF_LOST when there
 * was no answer. With it set, a failed connection is a refusal and NVME_STATUS_DNR counts. */
uint16_t queue_connect_status(const struct queue *q);
uint16_t queue_cntlid(const struct queue *q); /* as the controller answered Connect */
uint16_t queue_depth(const struct queue *q);  /* commands that may be in flight: entries - 1 */
uint32_t queue_inflight(const struct queue *q);
const char *queue_peer(const struct queue *q);

/* A free slot; NULL: all are in flight, or the queue is not LIVE. Never waits. The slot whose
 * done() runs does not count as in flight. */
struct slot *queue_get(struct queue *q);
/* Give a slot back that was not sent. While others are in flight that is no news of room: who
 * wanted two and got one would be told of his own, turn after turn. */
void queue_put(struct slot *slot);
/* Queue the command; it leaves with all others at the end of the turn. On a queue that went down
 * since queue_get() it ends with NVMF_LOST, unsent. */
void queue_send(struct slot *slot);
/* The second of a fused pair must follow the first with nothing in between: get both before. */

/* Called when a slot became free after a LIVE queue_get() had answered NULL; once per such time. */
void queue_on_room(struct queue *q, void (*room)(struct queue *q));

/* Walk what is in flight, e.g. to find the oldest. NULL starts; NULL ends. Oldest first. */
struct slot *queue_next_inflight(struct queue *q, struct slot *prev);

struct queue_stats {
	uint64_t commands, bytes_in, bytes_out, lost, digest_errors, late, connects;
};
const struct queue_stats *queue_stats(const struct queue *q);

#endif
