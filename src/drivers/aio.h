/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aio.h - a channel that reaches the kernel through Linux AIO; uring.c uses it too where io_uring
 * would only make threads.
 *
 * Owner:  the device layer allocates the channel; all inside is its own.
 * Thread: aio_submit() on the channel's reactor, the others in tasks.
 */
#ifndef ASHLAR_DRIVERS_AIO_H
#define ASHLAR_DRIVERS_AIO_H

#include <linux/aio_abi.h>

#include "drivers/file.h"
#include "reactor/uring.h"

enum {
	AIO_DEPTH = 256, /* requests in the kernel per channel; the rest waits in order */
};

struct aio_channel {
	struct file_channel base; /* first */
	aio_context_t ctx;        /* 0: none */
	struct poller poller;
	struct msg flush;
	bool is_queued;
	struct msg_list waiting; /* requests without an iocb */
	unsigned nfree;          /* iocbs nobody uses: free[0 .. nfree) */
	unsigned nready;         /* iocbs to hand to the kernel: ready[0 .. nready) */
	unsigned ninflight;
	unsigned nquiet; /* of those in flight: will not signal event_fd */
	bool is_instant; /* the last batch ended inside io_submit() */
	struct iocb *free[AIO_DEPTH];
	struct iocb *ready[AIO_DEPTH];
	struct iocb iocb[AIO_DEPTH];

	/* sleep */
	int event_fd;
	uint64_t event_count; /* where event_fd is read to */
	struct uring_op event_op;
	bool is_armed;             /* the ring reads event_fd */
	struct task_event *closed; /* somebody waits for is_armed to end */
	struct msg closed_msg;
};

int aio_channel_open(struct channel *ch, struct err *err) MAY_SUSPEND WARN_UNUSED;
void aio_channel_close(struct channel *ch) MAY_SUSPEND;
enum io_result aio_submit(struct channel *ch, struct io *io);

#endif
