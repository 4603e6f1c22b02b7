/* SPDX-License-Identifier: Apache-2.0 */
/*
 * file.h - a regular file or a block device, as aio and uring share it: everything but the way a
 * read or a write reaches the kernel.
 *
 * Owner:  file_create() makes it, file_destroy() frees it; the descriptor is its own.
 * Thread: control functions in tasks; file_submit_slow() and file_complete() on the channel's
 *         reactor. `failure` is changed on any thread and read on all.
 */
#ifndef ASHLAR_DRIVERS_FILE_H
#define ASHLAR_DRIVERS_FILE_H

#include <limits.h>
#include <stdatomic.h>

#include "device/driver.h"
#include "drivers/lane.h"

enum file_failure {
	/* A sync failed. Nobody knows which acknowledged writes are on the medium, so nothing may
	 * claim it ever again: writing fails from then on. */
	FILE_SYNC_FAILED = 1 << 0,
	/* It ends before the device does. All I/O fails until its size was read again. */
	FILE_CUT_OFF = 1 << 1,
};

struct file {
	struct device dev; /* dev.name is the path */
	int fd;
	bool is_block;          /* a block device, else a regular file */
	bool is_direct;         /* opened with O_DIRECT */
	bool is_nowait;         /* the kernel can be asked without blocking (RWF_NOWAIT) */
	uint32_t mem_align;     /* O_DIRECT: of buffers, bytes */
	uint32_t len_align;     /* O_DIRECT: of offsets and of each buffer's length, bytes */
	atomic_uint failure;    /* enum file_failure */
	atomic_bool is_telling; /* cut_msg is on its way */
	struct msg cut_msg;     /* to the primary: tell the openers that it is cut off */
};

/* The beginning of both drivers' channels. */
struct file_channel {
	struct channel ch;
	struct file *file;
	struct lane sync;  /* flush, seek: must not wait behind a long discard */
	struct lane space; /* unmap, write-zeroes, and what the kernel did only in part */
};

static inline struct file *file_of_device(const struct device *dev)
{
	return container_of((struct device *)(uintptr_t)dev, struct file, dev);
}

int file_create(const struct driver *driver, struct uri *uri, struct device **ret_dev,
		struct err *err) MAY_SUSPEND WARN_UNUSED;
void file_destroy(struct device *dev) MAY_SUSPEND;
/* The size as it is now, in blocks. */
int file_rescan(struct device *dev, uint64_t *ret_nblocks, struct err *err) MAY_SUSPEND WARN_UNUSED;
int file_resized(struct device *dev, uint64_t old_nblocks, struct err *err);

void file_channel_init(struct file_channel *fc);
/* Everything but a plain read or write: the same contract as a driver's submit(). */
enum io_result file_submit_slow(struct file_channel *fc, struct io *io);
/* A read or write ended with @res, bytes or a negative errno. */
void file_complete(struct file_channel *fc, struct io *io, int64_t res);
/* Remember that a sync failed. Any thread. */
void file_fail(struct file *file, int error);
/* A read ended at or behind the end of the file: stop all I/O, tell the openers. Any thread. */
void file_cut_off(struct file *file);
/* For cut_msg, on the primary. */
void file_tell_cut_off(struct msg *msg);

/* Is @io a read or write that can be given to the kernel as it is? */
static inline bool file_is_plain(const struct file_channel *fc, const struct io *io)
{
	const struct file *f = fc->file;
	unsigned failure = atomic_load_explicit(&f->failure, memory_order_relaxed);

	if (io->op != IO_READ && io->op != IO_WRITE)
		return false;
	if (unlikely(failure != 0) && (io->op == IO_WRITE || failure & FILE_CUT_OFF))
		return false;
	if (unlikely(io->iovcnt > IOV_MAX))
		return false;
	if (!f->is_direct)
		return true;
	for (unsigned i = 0; i < io->iovcnt; i++) {
		if (unlikely(((uintptr_t)io->iov[i].iov_base & (f->mem_align - 1)) != 0 ||
			     (io->iov[i].iov_len & (f->len_align - 1)) != 0))
			return false;
	}
	return true;
}

#endif
