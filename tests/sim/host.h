/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host.h - a scripted NVMe/TCP host: just enough protocol to drive the real target.
 *
 * Owner:  the caller's queues and commands; a command's data stays until it is done or the queue
 *         is closed.
 * Thread: tasks on virtual reactor 0; one task per queue.
 * Rules:  no digests, one controller per admin queue, one waiter per queue.
 */
#ifndef SIM_HOST_H
#define SIM_HOST_H

#include <stdbool.h>
#include <stdint.h>

#include "drivers/nvme/spec.h"
#include "reactor/stream.h"
#include "reactor/task.h"

enum {
	HOST_DEPTH_MAX = 16,
	HOST_IN_CAPSULE = 4096, /* bytes of data that a command may carry on an I/O queue */
};

struct host_cmd {
	uint8_t *data;  /* to or from the controller; borrowed */
	uint32_t len;   /* bytes; 0: none */
	uint32_t moved; /* of them */
	bool to_controller;
	bool is_busy, is_done;
	uint16_t status; /* sct << 8 | sc; valid when done */
	uint32_t result; /* dword 0 */
};

struct host_bytes {
	uint8_t *data; /* owned */
	size_t len, room, at;
};

struct host_queue {
	struct stream *stream;                /* NULL: not connected */
	struct host_cmd *cmd[HOST_DEPTH_MAX]; /* by command id */
	struct host_bytes tx, rx;
	uint32_t h2c_max; /* bytes of one H2CData */
	unsigned in_capsule_percent;
	int error; /* negative errno once broken; -EPROTO: the target broke the rules */
	const char *broken_rule;
	struct task_event *waiter;
	struct timer timer;
};

/*
 * Connect, exchange ICReq and ICResp, send Connect for @qid. 0, a negative errno, or an NVMe status
 * > 0. @cntlid: in for I/O queues, out for the admin queue, which is enabled as well.
 */
int host_connect(struct host_queue *q, const char *addr, uint16_t port, const char *nqn,
		 uint16_t qid, unsigned depth, uint16_t *cntlid, uint64_t timeout_ns) MAY_SUSPEND;
void host_close(struct host_queue *q);

/* Put a command into the queue; @cid < the depth it was connected with, free now. */
void host_submit(struct host_queue *q, uint16_t cid, struct host_cmd *cmd, struct nvme_cmd *sqe);
/* Send, receive, and if nothing was done wait up to @timeout_ns. 0 or what broke the queue. */
int host_poll(struct host_queue *q, uint64_t timeout_ns) MAY_SUSPEND;

#endif
