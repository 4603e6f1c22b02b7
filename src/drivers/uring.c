/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uring.c - files and block devices through the reactor's io_uring.
 *
 *   uring:///PATH[?blk_size=N][&uuid=UUID][&rescan]
 *
 * There is nothing to own here: the ring belongs to the reactor, the operation lives in the
 * request's scratch space, and the kernel is entered once per turn by the loop. So submit() fills
 * an entry and is done, and the completion finds its request by address.
 *
 * The better path. io_uring issues a request without blocking (NOWAIT) and leaves it to a thread
 * of its own where the file cannot do that. Such a thread costs more than the request: on zram
 * io_uring is 1.6 to 2.2 times slower than Linux AIO, which calls the driver from io_submit().
 * Whether NOWAIT works is asked once, when the file is opened (preadv2 with RWF_NOWAIT); where it
 * does not, the channel is one of aio.c's, under the name that was asked for.
 *
 *                     file.is_nowait
 *                  yes /          \ no
 *   uring_submit_io()             aio_submit()
 *
 * FUA is RWF_DSYNC on the write; flush is an fsync of the data through the ring. Everything else
 * that blocks takes a lane (file.c).
 *
 * Rejected: registered files and buffers (1 % and 10 % measured; they belong to the ring, which is
 * everybody's; a later change of the reactor may bring them); polling for completions in the driver
 * (IOPOLL wants a ring of its own); SQPOLL (a kernel thread that spins).
 *
 * Limits: none of its own. The reactor's ring hands over when it is full.
 *
 * Thread: submit() and completions on the channel's reactor.
 */
#include <sys/uio.h>

#include "drivers/aio.h"
#include "drivers/drivers.h"

static struct uring_op *op_of(struct io *io)
{
	static_assert(sizeof(struct uring_op) <= sizeof(io->scratch), "it lives there");
	return (struct uring_op *)(void *)io->scratch;
}

static struct io *io_of(struct uring_op *op)
{
	return (struct io *)(void *)((char *)op - offsetof(struct io, scratch));
}

static struct file_channel *channel_of(const struct io *io)
{
	return container_of(io->ch, struct file_channel, ch);
}

static HOT void uring_transferred(struct uring_op *op, int res, uint32_t flags)
{
	struct io *io = io_of(op);

	(void)flags;
	file_complete(channel_of(io), io, res);
}

static void uring_synced(struct uring_op *op, int res, uint32_t flags)
{
	struct io *io = io_of(op);
	struct file *f = channel_of(io)->file;

	(void)flags;
	if (res < 0)
		file_fail(f, -res);
	io_complete(io, atomic_load(&f->failure) == 0 ? IO_OK : IO_WRITE_ERROR);
}

static enum io_result uring_flush(struct file_channel *fc, struct io *io)
{
	struct uring_op *op = op_of(io);

	op->done = uring_synced;
	io_uring_prep_fsync(uring_sqe(fc->ch.reactor, op), fc->file->fd, IORING_FSYNC_DATASYNC);
	return IO_PENDING;
}

static HOT enum io_result uring_submit_io(struct file_channel *fc, struct io *io)
{
	struct uring_op *op = op_of(io);
	struct io_uring_sqe *sqe;
	uint64_t off = io->lba << fc->ch.block_shift;

	if (unlikely(!file_is_plain(fc, io))) {
		if (io->op == IO_FLUSH && atomic_load(&fc->file->failure) == 0)
			return uring_flush(fc, io);
		return file_submit_slow(fc, io);
	}
	op->done = uring_transferred;
	sqe = uring_sqe(fc->ch.reactor, op);
	if (likely(io->iovcnt == 1)) {
		unsigned len = (unsigned)io->iov->iov_len;

		if (io->op == IO_READ)
			io_uring_prep_read(sqe, fc->file->fd, io->iov->iov_base, len, off);
		else
			io_uring_prep_write(sqe, fc->file->fd, io->iov->iov_base, len, off);
	} else if (io->op == IO_READ) {
		io_uring_prep_readv(sqe, fc->file->fd, io->iov, io->iovcnt, off);
	} else {
		io_uring_prep_writev(sqe, fc->file->fd, io->iov, io->iovcnt, off);
	}
	if (unlikely(io->flags & IO_FUA) && io->op == IO_WRITE)
		sqe->rw_flags = RWF_DSYNC;
	return IO_PENDING;
}

static HOT enum io_result uring_submit(struct channel *ch, struct io *io)
{
	struct file_channel *fc = container_of(ch, struct file_channel, ch);

	return likely(fc->file->is_nowait) ? uring_submit_io(fc, io) : aio_submit(ch, io);
}

/* ---- control path ------------------------------------------------------------------------- */

static int uring_channel_open(struct channel *ch, struct err *err)
{
	struct file_channel *fc = container_of(ch, struct file_channel, ch);

	file_channel_init(fc);
	return fc->file->is_nowait ? 0 : aio_channel_open(ch, err);
}

static void uring_channel_close(struct channel *ch)
{
	if (!container_of(ch, struct file_channel, ch)->file->is_nowait)
		aio_channel_close(ch);
}

static int uring_create(struct uri *uri, struct device **ret_dev, struct err *err)
{
	return file_create(&driver_uring, uri, ret_dev, err);
}

const struct driver driver_uring = {
	.name = "uring",
	.product = "URING disk",
	.schemes = (const char *const[]){ "uring", NULL },
	.help = "uring:///PATH[?blk_size=N][&uuid=UUID][&rescan]",
	.channel_size = sizeof(struct aio_channel),
	.create = uring_create,
	.destroy = file_destroy,
	.channel_open = uring_channel_open,
	.channel_close = uring_channel_close,
	.submit = uring_submit,
	.rescan = file_rescan,
	.resized = file_resized,
};
