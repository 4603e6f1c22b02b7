/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io.h - one I/O request and its way down and up a stack of devices.
 *
 *   owner --io_start()--> [frame 0: top device] --io_forward()--> [frame 1] ... driver
 *   owner <--- done() --- [account, hook]  <----- unwind -------- [account] <-- io_complete()
 *
 * Owner:  whoever submits it; it embeds struct io and may reuse it once done() was entered (or
 *         io_start() returned IO_DONE). The memory holds a frame for every layer below, so no
 *         layer allocates, looks up, or can be out of requests.
 * Thread: one reactor from submission to completion.
 * Rules:  - submit() returns IO_DONE (status is valid, nothing will be called) or IO_PENDING
 *           (io_complete() will be called later). It never calls back. Stacks do not recurse.
 *         - a hook returns the same: IO_DONE to go on upwards, IO_PENDING if it took the request
 *           over again (sent it on, or holds it).
 *         - a layer may edit lba, nlb, iov, op and flags on the way down; the frame restores lba
 *           and nlb on the way up. What else it changed it puts back in its hook.
 *         - the data pointed to by iov belongs to the owner until done(). Drivers do not write to
 *           the iovec array.
 *         - a reader may offer to take the data where it lies (io_offer(), loan.c). The request is
 *           then in flight, and its owner does not reuse it, until io_return().
 */
#ifndef ASHLAR_DEVICE_IO_H
#define ASHLAR_DEVICE_IO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/base.h"
#include "base/list.h"
#include "device/status.h"
#include "reactor/msg.h"

struct channel;
struct io;
struct task_event;

enum io_op {
	IO_READ,
	IO_WRITE,
	IO_FLUSH, /* whole device; lba and nlb are 0 */
	IO_UNMAP, /* contents undefined or zero afterwards, see device.h */
	IO_WRITE_ZEROES,
	IO_COMPARE,       /* IO_MISCOMPARE if the blocks differ from the data */
	IO_COMPARE_WRITE, /* atomic; iov holds nlb blocks to compare, then nlb blocks to write */
	IO_RESET,         /* whole device */
	IO_SEEK_DATA,     /* result: first lba >= lba that holds data, or number of blocks; nlb 0 */
	IO_SEEK_HOLE,     /* result: first lba >= lba in a hole, or number of blocks; nlb 0 */
	IO_NVME_ADMIN, /* cmd: 64-byte NVMe command, iov its data; result: dword 0 of completion */
	IO_NVME_IO,
	IO_OP_COUNT_,
};

#define IO_BIT(op) (1u << (op))

enum {
	IO_OPS_WRITING = IO_BIT(IO_WRITE) | IO_BIT(IO_UNMAP) | IO_BIT(IO_WRITE_ZEROES) |
			 IO_BIT(IO_COMPARE_WRITE),
	IO_OPS_WITH_RANGE = IO_BIT(IO_READ) | IO_BIT(IO_WRITE) | IO_BIT(IO_UNMAP) |
			    IO_BIT(IO_WRITE_ZEROES) | IO_BIT(IO_COMPARE) | IO_BIT(IO_COMPARE_WRITE),
	IO_OPS_WITH_DATA = IO_BIT(IO_READ) | IO_BIT(IO_WRITE) | IO_BIT(IO_COMPARE) |
			   IO_BIT(IO_COMPARE_WRITE),
};

enum io_flag {
	IO_FUA = 1 << 0,                    /* write, write-zeroes: on stable media when done */
	IO_UNWRITTEN_FAIL = 1 << 1,         /* read: IO_UNWRITTEN if nothing below was written */
	IO_CURRENT_UNWRITTEN_FAIL = 1 << 2, /* read: the same, ancestors do not count */
	IO_NO_DEALLOCATE = 1 << 3,          /* write-zeroes: keep the space allocated */
	IO_LOCK_HOLDER = 1 << 4,            /* passes range locks: sent by the one who holds them */
	IO_BORROW = 1 << 5,                 /* read: may be answered with a loan, see io_offer() */
};

enum io_result {
	IO_DONE,
	IO_PENDING,
};

enum {
	IO_DEPTH_MAX = 8,           /* named devices on one path; checked when a stack is opened */
	IO_LEND_MAX = 8,            /* pieces of one loan; a driver that would need more copies */
	IO_ZEROES_SIZE = 128 << 10, /* bytes; IO_LEND_MAX times that is the largest transfer */
};

/*
 * Where a read's data lies, when a driver lent it instead of copying. The memory is the reader's,
 * and stays it while the request is in flight or lent; a reader of a loan sees count and piece.
 */
struct io_loan {
	uint16_t count; /* 0: nothing is lent, the data is in the request's iov */
	uint8_t depth;  /* of the request when it was lent: frames that count in flight */
	struct io *io;
	struct list link; /* of its reactor, while lent */
	struct iovec piece[IO_LEND_MAX];
};

/* What one layer keeps while the request is below it. */
struct io_frame {
	struct channel *ch;
	enum io_result (*hook)(struct io *io); /* of the layer above; NULL: none */
	uint64_t lba;
	uint64_t submit_ns;
	uint32_t nlb;
	uint32_t epoch; /* which of the channel's in-flight counters it is in */
	uint64_t priv;  /* free for the layer that owns ch, between submit and completion */
};

struct io {
	/* line 0: what every layer reads */
	struct msg msg;     /* deferral, and link for whoever holds the request */
	struct channel *ch; /* the channel it was handed to last */
	uint64_t lba;       /* in blocks of that channel's device */
	uint32_t nlb;       /* number of blocks */
	uint8_t op;         /* enum io_op */
	uint8_t depth;      /* frames in use */
	uint16_t flags;     /* enum io_flag */
	uint16_t status;    /* enum io_status; valid when done */
	uint16_t iovcnt;
	uint32_t tag;            /* the owner's */
	const struct iovec *iov; /* borrowed from the owner */
	void *owner; /* the owner's, as is tag: what done() needs to find its way back */

	/* line 1 */
	void (*done)(struct io *io); /* called from the reactor's loop, never from submit */
	struct iovec one;            /* iov may point here: the common single buffer */
	uint64_t result;             /* seek, passthrough */
	union {
		const void *cmd;      /* passthrough: 64-byte NVMe command, the owner's */
		struct io_loan *loan; /* read with IO_BORROW: the reader's */
	};
	struct task_event *waiter; /* of io_wait() */
	uint64_t scratch[2];       /* free for the driver at the bottom while it is pending */

	struct io_frame frame[IO_DEPTH_MAX];
};

static_assert(offsetof(struct io, done) == 64, "line 0 holds what every layer reads");
static_assert(sizeof(struct io) == 128 + IO_DEPTH_MAX * sizeof(struct io_frame), "no padding");

/* The frame of the device that is handling the request now (inside submit and hooks). */
static inline struct io_frame *io_top(struct io *io)
{
	return &io->frame[io->depth - 1];
}

static inline void io_set_buf(struct io *io, void *buf, size_t len)
{
	io->one = (struct iovec){ .iov_base = buf, .iov_len = len };
	io->iov = &io->one;
	io->iovcnt = 1;
}

/* ---- borrowed reads (loan.c) ---------------------------------------------------------------- */

/*
 * For a reader, before each io_start() of a read: the driver may answer with pieces of its own
 * memory in @loan instead of filling iov, which must have room for all the data nevertheless.
 * When done() comes (or io_start() says IO_DONE) io_is_lent() tells which it was. A loan may be
 * turned into a copy in iov whenever the reactor's loop runs: look again after each return to it,
 * and hand the pieces to nothing that reads them later than within the call. What they show while
 * others write the same blocks is any mixture of old and new. End with io_return().
 */
static inline void io_offer(struct io *io, struct io_loan *loan)
{
	loan->count = 0;
	io->loan = loan;
	io->flags |= IO_BORROW;
}

static inline bool io_is_lent(const struct io *io)
{
	return unlikely(io->flags & IO_BORROW) && io->loan->count > 0;
}

/* Reader: the pieces were used. Nothing happens when nothing is lent. On the request's reactor. */
void io_return(struct io *io);
/* Anybody who has the request, on its reactor: copy what is lent to iov, and return it. */
void io_unlend(struct io *io);
/*
 * Driver, for a read with IO_BORROW that submit() answered with IO_PENDING, just before
 * io_complete() with IO_OK: @count pieces are filled in. The memory stays mapped until the request
 * is no longer in flight; a driver that gives blocks to someone else drains first, as for any read.
 */
void io_lend(struct io *io, unsigned count);

/* IO_ZEROES_SIZE bytes that nobody writes to: where blocks that were never written lie. */
extern uint8_t io_zeroes[];

/* ---- scatter lists -------------------------------------------------------------------------- */

/* Bytes described by @iov. */
size_t iov_bytes(const struct iovec *iov, int iovcnt);
/* Copy at most @len bytes between a vector, from byte @off on, and a buffer; returns how many. */
size_t iov_to_buf(const struct iovec *iov, int iovcnt, size_t off, void *buf, size_t len);
size_t iov_from_buf(const struct iovec *iov, int iovcnt, size_t off, const void *buf, size_t len);
size_t iov_fill(const struct iovec *iov, int iovcnt, size_t off, int byte, size_t len);
/* Compare with a buffer; returns the offset of the first difference, or @len. */
size_t iov_compare(const struct iovec *iov, int iovcnt, size_t off, const void *buf, size_t len);
/* Are every base and length multiples of @align (a power of two)? */
bool iov_is_aligned(const struct iovec *iov, int iovcnt, size_t align);

const char *io_op_name(enum io_op op);

#endif
