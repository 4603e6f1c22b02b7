/* SPDX-License-Identifier: Apache-2.0 */
/*
 * file.c - the requests to a file or block device for which the kernel has only blocking calls,
 * and how every request ends.
 *
 * A plain read or write (file_is_plain) goes to the kernel through aio.c or uring.c. Unaligned
 * buffers, which no part of the engine makes, go through io_bounce(). Flush and seek take one lane
 * (lane.h), unmap and write-zeroes another, so that no flush waits behind a long discard. When the
 * kernel did only a part of a transfer, the second lane does the whole again until it ends or fails
 * with a reason: a full disk, a file truncated underneath.
 *
 * Durability: a sync that fails is remembered for ever (struct file.failure). The kernel reports a
 * lost write once and forgets it; nobody then knows which acknowledged writes are on the medium. So
 * from then on the device refuses every write and every flush, and only reads go on. A sync that
 * succeeds is believed only if none has failed meanwhile: that one may have heard of its write.
 *
 * Cut off: a read that ends at the end of the file, although the device goes on, met blocks that
 * are gone. That is no medium error, which the owner of several copies would mend by writing: the
 * file would grow again, and all the other lost blocks would read as zeroes. So nothing at all goes
 * through any more (struct file.failure), and the openers hear DEVICE_FAILED, until a rescan says
 * what size is meant. What cannot be seen: a write behind the new end that comes before any read
 * there makes the file longer, and what lies between reads as zeroes.
 *
 * Unmap: a file gets a hole and reads zeroes there. A disk's discard promises nothing about its
 * contents afterwards. Write-zeroes deallocates where it may (no IO_NO_DEALLOCATE).
 *
 * Rejected: bouncing through the page cache with a second descriptor (a dirty page may write back
 * a neighbouring block's old contents over a direct write); one lane for all (a trim of a large
 * disk would hold up the journal's flushes); asking for the size before each write (a system call
 * per I/O, and a race all the same); a lease (whoever cuts the file would hang until it breaks).
 *
 * Thread: file_lane_run() and what it calls on a pool thread, the rest on the channel's reactor.
 */
#include "drivers/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "device/emulate.h"

enum {
	ZERO_CHUNK = 128 * 1024, /* bytes written at a time where the kernel cannot zero */
};

/* ---- lanes: on a pool thread -------------------------------------------------------------- */

void file_fail(struct file *f, int error)
{
	if (!(atomic_fetch_or(&f->failure, FILE_SYNC_FAILED) & FILE_SYNC_FAILED))
		log_error("device=%s: sync failed: %s; acknowledged writes may be lost, refusing "
			  "every write from now on",
			  f->dev.name, err_errno_name(-error));
}

void file_tell_cut_off(struct msg *msg)
{
	struct file *f = container_of(msg, struct file, cut_msg);
	struct device_event event = { .type = DEVICE_FAILED,
				      .dev = &f->dev,
				      .is_data_lost = true,
				      .why = "it was cut off underneath, blocks are lost" };

	atomic_store(&f->is_telling, false);
	device_announce_event(&f->dev, &event);
}

void file_cut_off(struct file *f)
{
	if (atomic_fetch_or(&f->failure, FILE_CUT_OFF) & FILE_CUT_OFF)
		return;
	log_error("device=%s: it ends before its %lu blocks do: it was cut off underneath, and "
		  "what lay there is lost; all I/O fails from now on. Give it its size back and "
		  "fill it from a copy, or let a rescan take over the size it has",
		  f->dev.name, f->dev.nblocks);
	if (!atomic_exchange(&f->is_telling, true))
		reactor_post(reactor_primary(), &f->cut_msg);
}

static bool is_cut_off(const struct file *f)
{
	return atomic_load_explicit(&f->failure, memory_order_relaxed) & FILE_CUT_OFF;
}

static int file_sync(struct file *f)
{
	if (fdatasync(f->fd) == 0)
		return atomic_load(&f->failure) == 0 ? 0 : -EIO;
	file_fail(f, errno);
	return -EIO;
}

/* Write zeroes the long way. */
static int zero_by_writing(const struct file *f, off_t off, uint64_t len)
{
	CLEANUP(freep) char *zeroes = aligned_alloc(4096, ZERO_CHUNK);

	if (zeroes == NULL)
		return -ENOMEM;
	memset(zeroes, 0, ZERO_CHUNK);
	while (len > 0) {
		ssize_t n = pwrite(f->fd, zeroes, MIN(len, (uint64_t)ZERO_CHUNK), off);

		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		off += n;
		len -= (uint64_t)n;
	}
	return 0;
}

static int lane_unmap(const struct file *f, off_t off, uint64_t len)
{
	uint64_t range[2] = { (uint64_t)off, len };
	int result;

	result = f->is_block ? ioctl(f->fd, BLKDISCARD, range)
			     : fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off,
					 (off_t)len);
	return result < 0 ? -errno : 0;
}

static int lane_write_zeroes(const struct file *f, off_t off, uint64_t len, bool may_deallocate)
{
	uint64_t range[2] = { (uint64_t)off, len };
	int mode = may_deallocate ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;

	/* On a disk, PUNCH_HOLE is a write-zeroes that may unmap, ZERO_RANGE one that may not. */
	if (fallocate(f->fd, mode | FALLOC_FL_KEEP_SIZE, off, (off_t)len) == 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != EINVAL)
		return -errno;
	if (f->is_block)
		return ioctl(f->fd, BLKZEROOUT, range) < 0 ? -errno : 0;
	return zero_by_writing(f, off, len);
}

/* First block from @lba that holds data, or that is wholly a hole. 1: the file ends too early. */
static int lane_seek(const struct file *f, struct io *io, uint64_t nblocks)
{
	unsigned shift = f->dev.block_shift;
	uint64_t lba = io->lba;
	struct stat st;

	/* what is behind the end would look like a hole, which whoever copies leaves out */
	if (!f->is_block && fstat(f->fd, &st) == 0 &&
	    (uint64_t)st.st_size < f->dev.nblocks << shift)
		return 1;
	io->result = io->op == IO_SEEK_DATA ? lba : nblocks; /* a disk is data throughout */
	while (!f->is_block && lba < nblocks) {
		off_t at = lseek(f->fd, (off_t)(lba << shift),
				 io->op == IO_SEEK_DATA ? SEEK_DATA : SEEK_HOLE);
		off_t data;

		if (at < 0) {
			io->result = nblocks;
			return errno == ENXIO ? 0 : -errno; /* ENXIO: nothing but a hole follows */
		}
		if (io->op == IO_SEEK_DATA) {
			io->result = MIN((uint64_t)at >> shift, nblocks);
			return 0;
		}
		/* The hole may begin, and end, within a block. */
		lba = ((uint64_t)at + f->dev.block_size - 1) >> shift;
		io->result = MIN(lba, nblocks);
		data = lseek(f->fd, (off_t)(lba << shift), SEEK_DATA);
		if (data < 0 || (uint64_t)data >> shift > lba)
			return data < 0 && errno != ENXIO ? -errno : 0;
		io->result = nblocks;
		lba = ((uint64_t)data >> shift) + 1;
	}
	return 0;
}

/*
 * A read or write that the kernel did only in part: again, to its end or to the reason why not.
 * 1: a read met the end of the file.
 */
static int lane_transfer(const struct file *f, const struct io *io, off_t off)
{
	uint64_t done = 0, len = (uint64_t)io->nlb << f->dev.block_shift;
	struct iovec iov[64];

	while (done < len) {
		uint64_t skip = done;
		ssize_t n;
		int count = 0;

		for (unsigned i = 0; i < io->iovcnt && count < (int)ARRAY_LEN(iov); i++) {
			size_t cut = MIN(skip, io->iov[i].iov_len);

			skip -= cut;
			if (cut == io->iov[i].iov_len)
				continue;
			iov[count++] = (struct iovec){ (char *)io->iov[i].iov_base + cut,
						       io->iov[i].iov_len - cut };
		}
		n = io->op == IO_READ ? preadv(f->fd, iov, count, off + (off_t)done)
				      : pwritev(f->fd, iov, count, off + (off_t)done);
		if (n < 0)
			return -errno;
		if (f->is_direct)
			n = ALIGN_DOWN(n, (ssize_t)f->len_align); /* where it can go on from */
		if (n == 0)
			return io->op == IO_READ ? 1 : -EIO;
		done += (uint64_t)n;
	}
	return 0;
}

static void file_lane_run(struct io *io)
{
	struct file *f = file_of_device(io->ch->dev);
	off_t off = (off_t)(io->lba << f->dev.block_shift);
	uint64_t len = (uint64_t)io->nlb << f->dev.block_shift;
	bool is_write = IO_BIT(io->op) & (IO_OPS_WRITING | IO_BIT(IO_FLUSH));
	int result = -EOPNOTSUPP;

	if (unlikely(is_cut_off(f)))
		result = 1;
	else if (io->op == IO_FLUSH)
		result = file_sync(f);
	else if (io->op == IO_UNMAP)
		result = lane_unmap(f, off, len);
	else if (io->op == IO_WRITE_ZEROES)
		result = lane_write_zeroes(f, off, len, !(io->flags & IO_NO_DEALLOCATE));
	else if (io->op == IO_READ || io->op == IO_WRITE)
		result = lane_transfer(f, io, off);
	else
		result = lane_seek(f, io, io->ch->nblocks);
	if (result == 0 && io->flags & IO_FUA && is_write && io->op != IO_FLUSH)
		result = file_sync(f);
	if (result > 0) {
		file_cut_off(f);
		io->status = IO_FAILED;
		return;
	}
	io->status = io_status_from_errno(result, is_write);
}

/* ---- data path ---------------------------------------------------------------------------- */

void file_channel_init(struct file_channel *fc)
{
	fc->file = file_of_device(fc->ch.dev);
	lane_init(&fc->sync, file_lane_run);
	lane_init(&fc->space, file_lane_run);
}

enum io_result file_submit_slow(struct file_channel *fc, struct io *io)
{
	bool is_write = IO_BIT(io->op) & (IO_OPS_WRITING | IO_BIT(IO_FLUSH));

	if (unlikely(is_cut_off(fc->file))) {
		io->status = IO_FAILED;
		return IO_DONE;
	}
	if (unlikely(is_write && atomic_load_explicit(&fc->file->failure, memory_order_relaxed))) {
		io->status = IO_WRITE_ERROR;
		return IO_DONE;
	}
	switch (io->op) {
	case IO_READ:
	case IO_WRITE:
		return io_bounce(&fc->ch, io);
	case IO_UNMAP:
	case IO_WRITE_ZEROES:
		lane_push(&fc->space, io);
		return IO_PENDING;
	default:
		lane_push(&fc->sync, io);
		return IO_PENDING;
	}
}

void file_complete(struct file_channel *fc, struct io *io, int64_t res)
{
	if (likely(res == (int64_t)io->nlb << fc->ch.block_shift)) {
		bool is_lost = unlikely(io->flags & IO_FUA) && io->op == IO_WRITE &&
			       atomic_load(&fc->file->failure) != 0;

		io_complete(io, is_lost ? IO_WRITE_ERROR : IO_OK);
		return;
	}
	if (res == 0 && io->op == IO_READ) {
		file_cut_off(fc->file);
		io_complete(io, IO_FAILED);
		return;
	}
	if (res >= 0) { /* a part: find out why */
		lane_push(&fc->space, io);
		return;
	}
	if (io->op == IO_WRITE && io->flags & IO_FUA && res == -EIO)
		file_fail(fc->file, EIO); /* written or not, it was not made durable */
	io_complete(io, io_status_from_errno((int)res, io->op == IO_WRITE));
}
