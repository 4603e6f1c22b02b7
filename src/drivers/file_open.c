/* SPDX-License-Identifier: Apache-2.0 */
/*
 * file_open.c - what a file or block device is to us: opening, locking, geometry, identity, size.
 *
 *   aio|uring:///PATH[?blk_size=N][&uuid=UUID][&rescan]
 *
 * Opening runs on the worker pool, because a path may lead to a dead NFS server:
 *   open O_DIRECT -> else without -> lock -> geometry -> what discard and NOWAIT can do
 * O_DIRECT is given up where the file system has none (tmpfs before Linux 6.6) or wants more
 * alignment than the block size gives. Where writing is not permitted the device is read-only.
 *
 * The lock is an open-file-description lock on the whole file, shared for read-only: two engines,
 * or two devices of this one, never write one file. A block device is also opened O_EXCL, so that
 * a mounted disk is refused.
 *
 * The uuid, if none is given, comes from the machine and the real path: a host finds its disk
 * again after the engine restarted.
 *
 * The size must be a whole number of blocks when the device is made, so that nobody loses a tail
 * without noticing; a rescan meets files that are growing and counts whole blocks only.
 *
 * has_write_cache is what the kernel says of a disk's cache, and true for every file.
 *
 * Rejected: flock() (udev takes it while it probes, and it would refuse us by chance); refusing
 * whole disks that hold a file system (pools do that, where formatting happens).
 *
 * Thread: tasks on the primary reactor; open_job_run() and what it calls on a pool thread, with the
 * task waiting.
 */
#include "drivers/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "drivers/identity.h"

enum {
	PROBE_SIZE = 4096,   /* bytes; a page */
	LOCK_WAIT_MS = 1000, /* for the lock of a process that was killed */
	LOCK_LOOK_MS = 10,
	IMAGE_BYTES_MIN = 1 << 20, /* of a file that may well be an image of a disk */
};

/* ---- opening: on a pool thread ------------------------------------------------------------ */

struct open_job {
	struct file *file;
	uint32_t block_size; /* asked for, 0: find out */
	bool has_uuid;
	int result;
	struct err err;
};

/* One open() with a set of flags, without O_DIRECT where that is not to be had. */
static int open_as(struct file *f, int mode)
{
	int flags = mode | O_CLOEXEC | (f->is_block && mode != O_RDONLY ? O_EXCL : 0);

	f->is_direct = true;
	f->fd = open(f->dev.name, flags | O_DIRECT);
	if (f->fd < 0 && errno == EINVAL) {
		f->is_direct = false;
		f->fd = open(f->dev.name, flags);
	}
	return f->fd < 0 ? -errno : 0;
}

/* Root may open a disk for writing that is set read-only (blockdev --setro): each write fails. */
static int open_writable(struct file *f)
{
	int result = open_as(f, O_RDWR), is_ro = 0;

	if (result == 0 && f->is_block && ioctl(f->fd, BLKROGET, &is_ro) == 0 && is_ro != 0) {
		(void)close(f->fd);
		f->fd = -1;
		result = -EROFS;
	}
	return result;
}

static int open_path(struct file *f, struct err *err)
{
	const char *path = f->dev.name;
	struct stat st;
	int result;

	if (stat(path, &st) < 0) {
		(void)err_set_sys(err, -errno, "cannot open '%s'", path);
		return errno == ENOENT ? err_hint(err, "create it first: truncate -s 1G %s", path)
				       : err->code;
	}
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(err, S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL,
			       "'%s' is neither a file nor a block device", path);
	f->is_block = S_ISBLK(st.st_mode);
	result = open_writable(f);
	if (result == -EACCES || result == -EROFS || result == -EPERM) {
		f->dev.is_read_only = true;
		if (open_as(f, O_RDONLY) == 0) {
			log_warn("device=%s: %s, opened read-only", path,
				 result == -EROFS ? "read-only disk or file system"
						  : "no permission to write");
			result = 0;
		}
	}
	if (result == -EBUSY)
		return err_set(err, -EBUSY, "'%s' is in use: mounted, or opened by someone else",
			       path);
	if (result == -EINVAL && !f->is_direct)
		return err_set_sys(err, result, "cannot open '%s' (is it a swap file?)", path);
	return result < 0 ? err_set_sys(err, result, "cannot open '%s'", path) : 0;
}

/*
 * A process that was killed is gone before the kernel has let go of its io_uring and the files in
 * it, and a supervisor starts the next one at once. Locks cannot be awaited for a limited time, so
 * this looks again and again; it runs on a worker.
 */
static int open_lock(struct file *f, struct err *err)
{
	static const struct timespec pause = { .tv_nsec = LOCK_LOOK_MS * 1000000l };
	struct flock lock = { .l_type = f->dev.is_read_only ? F_RDLCK : F_WRLCK,
			      .l_whence = SEEK_SET };
	int result = fcntl(f->fd, F_OFD_SETLK, &lock);

	for (int waited_ms = 0; result < 0 && errno == EAGAIN && waited_ms < LOCK_WAIT_MS;
	     waited_ms += LOCK_LOOK_MS) {
		(void)nanosleep(&pause, NULL);
		result = fcntl(f->fd, F_OFD_SETLK, &lock);
	}
	if (result == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return err_set(err, -EBUSY,
			       "'%s' is in use by another process, or by a device of another name",
			       f->dev.name);
	return err_set_sys(err, -errno, "cannot lock '%s' against other processes", f->dev.name);
}

/* A number or word from the request queue's directory of the disk behind a block device. */
static bool queue_attr(dev_t rdev, const char *attr, char *text, size_t size)
{
	static const char *const dirs[] = { "queue", "../queue" }; /* a disk, a partition */

	for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
		char path[128];
		CLEANUP(fclosep) FILE *file = NULL;

		(void)snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/%s", major(rdev),
			       minor(rdev), dirs[i], attr);
		file = fopen(path, "re");
		if (file != NULL && fgets(text, (int)size, file) != NULL) {
			text[strcspn(text, "\n")] = '\0';
			return true;
		}
	}
	return false;
}

static int geometry_block(struct file *f, dev_t rdev, uint32_t *ret_min, struct err *err)
{
	unsigned physical = 0;
	int logical = 0;
	char text[64];

	if (ioctl(f->fd, BLKSSZGET, &logical) < 0 || logical <= 0)
		return err_set_sys(err, -errno, "'%s': cannot read its block size", f->dev.name);
	if (ioctl(f->fd, BLKPBSZGET, &physical) == 0)
		f->dev.physical_block_size = physical;
	f->mem_align = f->len_align = *ret_min = (uint32_t)logical;
	/* Unknown counts as a cache: a flush too many harms nobody. */
	f->dev.has_write_cache = !queue_attr(rdev, "write_cache", text, sizeof(text)) ||
				 strcmp(text, "write through") != 0;
	f->dev.is_rotational = queue_attr(rdev, "rotational", text, sizeof(text)) &&
			       strcmp(text, "1") == 0;
	if (queue_attr(rdev, "discard_max_bytes", text, sizeof(text)) && strcmp(text, "0") != 0)
		f->dev.ops |= IO_BIT(IO_UNMAP);
	f->dev.is_thin = f->dev.ops & IO_BIT(IO_UNMAP);
	return 0;
}

static void geometry_file(struct file *f, uint64_t size)
{
	struct statx stx;

	f->mem_align = f->len_align = 512;
#ifdef STATX_DIOALIGN
	if (statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
	    stx.stx_mask & STATX_DIOALIGN && stx.stx_dio_offset_align != 0) {
		f->mem_align = stx.stx_dio_mem_align;
		f->len_align = stx.stx_dio_offset_align;
	}
#else
	(void)stx;
#endif
	f->dev.has_write_cache = true;
	/* Behind the end of the file there is nothing to punch, but the answer tells. */
	if (!f->dev.is_read_only && fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					      (off_t)size, PROBE_SIZE) == 0)
		f->dev.ops |= IO_BIT(IO_UNMAP);
	f->dev.is_thin = true; /* SEEK_HOLE is answered everywhere, at worst with "all data" */
	f->dev.unmap_reads_zero = true;
}

static int file_bytes(const struct file *f, uint64_t *ret_bytes, struct err *err)
{
	struct stat st;

	if (f->is_block ? ioctl(f->fd, BLKGETSIZE64, ret_bytes) < 0 : fstat(f->fd, &st) < 0)
		return err_set_sys(err, -errno, "'%s': cannot read its size", f->dev.name);
	if (!f->is_block)
		*ret_bytes = (uint64_t)st.st_size;
	return 0;
}

static int open_block_size(struct open_job *job, uint32_t min, struct err *err)
{
	struct file *f = job->file;
	uint32_t size = job->block_size != 0 ? job->block_size : min;

	if (size < min)
		return err_set(err, -EINVAL,
			       "'%s' has sectors of %u bytes: blk_size=%u is too small",
			       f->dev.name, min, size);
	if (size > DEVICE_BLOCK_SIZE_MAX)
		return err_set(err, -EINVAL,
			       "'%s' has sectors of %u bytes, at most %d are supported",
			       f->dev.name, size, DEVICE_BLOCK_SIZE_MAX);
	f->dev.block_size = size;
	return 0;
}

static int open_size(struct file *f, uint64_t bytes, struct err *err)
{
	if (bytes == 0)
		return err_set(err, -EINVAL, "'%s' is empty: give it a size: truncate -s 1G %s",
			       f->dev.name, f->dev.name);
	/* a text, a picture: nobody's disk, and not to be made longer by a line that was pasted */
	if (bytes % f->dev.block_size != 0 && bytes < IMAGE_BYTES_MIN)
		return err_set(err, -EINVAL,
			       "'%s' has %" PRIu64 " bytes, not a multiple of the block size %u%s: "
			       "is it a disk image?",
			       f->dev.name, bytes, f->dev.block_size,
			       f->dev.block_size > 512 ? ", which blk_size makes smaller" : "");
	if (bytes % f->dev.block_size != 0)
		return err_set(err, -EINVAL,
			       "'%s' has %" PRIu64 " bytes, not a multiple of the block size %u: "
			       "%struncate -s %%%u %s makes it larger",
			       f->dev.name, bytes, f->dev.block_size,
			       f->dev.block_size > 512 ? "give a smaller blk_size; " : "",
			       f->dev.block_size, f->dev.name);
	f->dev.nblocks = bytes / f->dev.block_size;
	return 0;
}

/* O_DIRECT wants more than our blocks give: do without it. */
static int open_settle_direct(struct file *f, struct err *err)
{
	int flags = fcntl(f->fd, F_GETFL);

	if (f->is_direct && f->len_align > f->dev.block_size) {
		if (flags < 0 || fcntl(f->fd, F_SETFL, flags & ~O_DIRECT) < 0)
			return err_set_sys(err, -errno, "'%s': cannot turn O_DIRECT off",
					   f->dev.name);
		f->is_direct = false;
	}
	f->dev.buf_align = f->is_direct ? f->mem_align : 1;
	return 0;
}

/* Does the kernel answer RWF_NOWAIT here? Where it does not, io_uring uses threads of its own. */
static bool probe_nowait(const struct file *f)
{
	CLEANUP(freep) void *buf = aligned_alloc(PROBE_SIZE, PROBE_SIZE);
	struct iovec iov = { .iov_base = buf,
			     .iov_len = MIN(f->dev.block_size, (uint32_t)PROBE_SIZE) };

	if (buf == NULL)
		return false;
	return preadv2(f->fd, &iov, 1, 0, RWF_NOWAIT) >= 0 || errno == EAGAIN;
}

static void open_identity(struct file *f)
{
	CLEANUP(freep) char *real = realpath(f->dev.name, NULL);
	char machine[128];

	identity_machine(machine, sizeof(machine));
	identity_derive(machine, real != NULL ? real : f->dev.name, &f->dev.uuid);
}

static int open_all(struct open_job *job, struct err *err)
{
	struct file *f = job->file;
	uint32_t min = DEVICE_BLOCK_SIZE_MIN;
	uint64_t bytes = 0;
	struct stat st;
	int result;

	result = open_path(f, err);
	if (result == 0)
		result = open_lock(f, err);
	if (result == 0)
		result = file_bytes(f, &bytes, err);
	if (result == 0 && fstat(f->fd, &st) < 0)
		result = err_set_sys(err, -errno, "'%s': cannot be looked at", f->dev.name);
	if (result == 0 && f->is_block)
		result = geometry_block(f, st.st_rdev, &min, err);
	else if (result == 0)
		geometry_file(f, bytes);
	if (result == 0)
		result = open_block_size(job, min, err);
	if (result == 0)
		result = open_size(f, bytes, err);
	if (result == 0)
		result = open_settle_direct(f, err);
	if (result < 0)
		return result;
	f->is_nowait = probe_nowait(f);
	if (!job->has_uuid)
		open_identity(f);
	return 0;
}

static void open_job_run(void *arg)
{
	struct open_job *job = arg;

	job->result = open_all(job, &job->err);
}

/* ---- control path ------------------------------------------------------------------------- */

static void file_close(void *arg)
{
	struct file *f = arg;

	/* Only now the lock is gone. The kernel may have a write to report that nobody flushed. */
	if (f->fd >= 0 && close(f->fd) < 0)
		log_error("device=%s: close failed: %s; writes that were not flushed may be lost",
			  f->dev.name, err_errno_name(-errno));
}

void file_destroy(struct device *dev)
{
	struct file *f = file_of_device(dev);

	task_blocking(file_close, f); /* cut_msg, if it was sent, arrives before this returns */
	free(f);
}

static void file_freep(struct file **f)
{
	if (*f != NULL)
		file_destroy(&(*f)->dev);
}

static int parse_block_size(struct uri *uri, uint32_t *ret, struct err *err)
{
	int result = uri_param_u32(uri, "blk_size", 0, DEVICE_BLOCK_SIZE_MAX, ret, err);

	if (result == 0 && *ret != 0 && (!is_pow2(*ret) || *ret < DEVICE_BLOCK_SIZE_MIN))
		return err_set(err, -EINVAL,
			       "blk_size=%u: a power of two from %d to %d, or 0 to find out", *ret,
			       DEVICE_BLOCK_SIZE_MIN, DEVICE_BLOCK_SIZE_MAX);
	return result;
}

struct rescan_job {
	struct file *file;
	uint64_t bytes;
	int result;
	struct err err;
};

static void rescan_run(void *arg)
{
	struct rescan_job *job = arg;

	job->result = file_bytes(job->file, &job->bytes, &job->err);
}

/* Somebody wants it as it is now. */
static void file_take_size(struct file *f)
{
	if (atomic_fetch_and(&f->failure, ~(unsigned)FILE_CUT_OFF) & FILE_CUT_OFF)
		log_warn("device=%s: in use again as it is; blocks that were cut off and are back "
			 "hold zeroes",
			 f->dev.name);
}

int file_rescan(struct device *dev, uint64_t *ret_nblocks, struct err *err)
{
	struct rescan_job job = { .file = file_of_device(dev) };

	task_blocking(rescan_run, &job);
	if (job.result < 0)
		return err_set(err, job.result, "%s", job.err.msg);
	/* A tail that is no whole block yet is not there yet. */
	*ret_nblocks = job.bytes >> dev->block_shift;
	if (*ret_nblocks >= dev->nblocks)
		file_take_size(job.file); /* else file_resized(), when nobody reads any more */
	return 0;
}

int file_resized(struct device *dev, uint64_t old_nblocks, struct err *err)
{
	(void)old_nblocks;
	(void)err;
	file_take_size(file_of_device(dev));
	return 0;
}

/* rescan on a device that exists: give it the size that its file has now. */
static int file_follow_size(struct device *dev, struct err *err)
{
	uint64_t nblocks;
	int result;

	device_pin(dev);
	result = file_rescan(dev, &nblocks, err);
	if (result == 0 && nblocks == 0)
		result = err_set(err, -EINVAL, "'%s' is empty now", dev->name);
	if (result == 0 && nblocks != dev->nblocks)
		result = device_resize(dev, nblocks, err);
	device_unpin(dev);
	return result;
}

int file_create(const struct driver *driver, struct uri *uri, struct device **ret_dev,
		struct err *err)
{
	CLEANUP(file_freep) struct file *f = calloc(1, sizeof(*f));
	struct open_job job = { .file = f };
	bool is_rescan = false;
	struct device *old;
	int result;

	if (f == NULL)
		return err_set(err, -ENOMEM, "no memory for a device");
	f->fd = -1;
	f->cut_msg.fn = file_tell_cut_off;
	f->dev.driver = driver;
	f->dev.stack_depth = 1;
	f->dev.ops = IO_BIT(IO_READ) | IO_BIT(IO_WRITE) | IO_BIT(IO_FLUSH) |
		     IO_BIT(IO_WRITE_ZEROES) | IO_BIT(IO_SEEK_DATA) | IO_BIT(IO_SEEK_HOLE);
	result = identity_name(&f->dev, uri, uri->path, err);
	if (result == 0)
		result = parse_block_size(uri, &job.block_size, err);
	if (result == 0)
		result = driver_param_uuid(uri, &f->dev.uuid, err);
	if (result == 0)
		result = uri_param_bool(uri, "rescan", &is_rescan, err);
	if (result == 0)
		result = uri_reject_unused(uri, err);
	if (result < 0)
		return result;
	job.has_uuid = !uuid_is_zero(&f->dev.uuid);
	old = device_lookup(f->dev.name);
	if (old != NULL && old->driver == driver && is_rescan) {
		*ret_dev = old;
		return file_follow_size(old, err);
	}
	if (old != NULL)
		return err_set(err, -EEXIST, "a device '%s' exists already%s", f->dev.name,
			       old->driver == driver ? "; &rescan reads its size again" : "");
	task_blocking(open_job_run, &job);
	if (job.result < 0)
		return err_set(err, job.result, "%s", job.err.msg);
	result = device_register(&f->dev, err); /* looks again whether the name is free */
	if (result < 0)
		return result;
	*ret_dev = &take(f)->dev;
	return 0;
}
