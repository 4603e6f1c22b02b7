/* SPDX-License-Identifier: Apache-2.0 */
/* aio and uring: the same tests for both, on files of a directory of their own. */
#include "drivers/testing.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/units.h"
#include "drivers/file.h"

/* Stands in front of the C library's: the disk that loses a write once, and then behaves. */
static atomic_uint syncs_to_fail;
static atomic_bool is_sync_held; /* syncs stay under way while this is set */

int fdatasync(int fd)
{
	unsigned left = atomic_load(&syncs_to_fail);

	while (atomic_load(&is_sync_held))
		(void)sched_yield();

	if (left > 0 && atomic_compare_exchange_strong(&syncs_to_fail, &left, left - 1)) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fdatasync, fd);
}

static const char *const schemes[] = { "aio", "uring" };
static char dir[256], path[320];

static char *uri_of(const char *scheme, const char *query)
{
	static char text[512];

	(void)snprintf(text, sizeof(text), "%s://%s%s", scheme, path, query);
	return text;
}

/* A fresh file of @size bytes at `path`. */
static void make_file(const char *name, off_t size)
{
	const char *tmp = getenv("TMPDIR");
	int fd;

	if (dir[0] == '\0') {
		(void)snprintf(dir, sizeof(dir), "%s/ashlar-file-XXXXXX", tmp ? tmp : "/var/tmp");
		CHECK(mkdtemp(dir) != NULL);
	}
	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && ftruncate(fd, size) == 0);
	(void)close(fd);
}

static uint64_t blocks_used(void)
{
	struct stat st;

	CHECK_EQ(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

struct file_case {
	const char *query;
	off_t size;
	int result;
	const char *says;
	uint64_t nblocks;
	uint32_t block_size;
};

ENGINE_TEST(file_takes_the_documented_parameters)
{
	static const struct file_case rows[] = {
		{ "", 1 << 20, 0, NULL, 2048, 512 },
		{ "?blk_size=0", 1 << 20, 0, NULL, 2048, 512 },
		{ "?blk_size=512", 1 << 20, 0, NULL, 2048, 512 },
		{ "?blk_size=4096", 1 << 20, 0, NULL, 256, 4096 },
		{ "?blk_size=65536", 1 << 20, 0, NULL, 16, 65536 },
		{ "?rescan", 1 << 20, 0, NULL, 2048, 512 }, /* nothing there: made */
		{ "?uuid=5f5cd0a8-6ac9-4ac6-a6cd-a8d4d7fc4fd2", 512, 0, NULL, 1, 512 },
		{ "?blk_size=256", 1 << 20, -EINVAL, "power of two", 0, 0 },
		{ "?blk_size=513", 1 << 20, -EINVAL, "power of two", 0, 0 },
		{ "?blk_size=131072", 1 << 20, -EINVAL, "blk_size", 0, 0 },
		{ "?blk_size=big", 1 << 20, -EINVAL, "blk_size", 0, 0 },
		{ "?uuid=1", 1 << 20, -EINVAL, "uuid", 0, 0 },
		{ "?rescan=perhaps", 1 << 20, -EINVAL, "rescan", 0, 0 },
		{ "?size_mb=1", 1 << 20, -EINVAL, "size_mb", 0, 0 },
		{ "", 0, -EINVAL, "empty", 0, 0 },
		{ "", 1000, -EINVAL, "multiple of the block size", 0, 0 },
		{ "?blk_size=4096", 512 * 9, -EINVAL, "multiple of the block size", 0, 0 },
	};

	for (size_t s = 0; s < ARRAY_LEN(schemes); s++) {
		for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
			struct uri_case row = { .result = rows[i].result,
						.says = rows[i].says,
						.nblocks = rows[i].nblocks,
						.block_size = rows[i].block_size };

			make_file("params", rows[i].size);
			row.uri = uri_of(schemes[s], rows[i].query);
			check_uris(&row, 1);
		}
	}
}

ENGINE_TEST(file_says_why_it_cannot_be_opened)
{
	static const struct uri_case rows[] = {
		{ "aio:///nonexistent/file", -ENOENT, "truncate", 0, 0 },
		{ "uring:///nonexistent/file", -ENOENT, "truncate", 0, 0 },
		{ "aio:///tmp", -EISDIR, "neither a file nor a block device", 0, 0 },
		{ "uring:///dev/null", -EINVAL, "neither a file nor a block device", 0, 0 },
		{ "aio:///", -EISDIR, "/", 0, 0 },
		{ "aio://tmp/x", -EINVAL, "three slashes, aio:///tmp/x", 0, 0 },
	};

	check_uris(rows, ARRAY_LEN(rows));
}

ENGINE_TEST(file_is_found_again_under_the_same_uuid)
{
	struct uuid first = {};

	make_file("identity", 1 << 20);
	for (size_t i = 0; i < 4; i++) {
		struct device *dev;

		CHECK_EQ(device_create(uri_of(schemes[i % 2], ""), &dev, NULL), 0);
		if (i == 0)
			first = dev->uuid;
		CHECK(uuid_equal(&dev->uuid, &first));
		CHECK_EQ(device_remove(dev, NULL), 0);
	}
	make_file("identity2", 1 << 20);
	for (size_t i = 0; i < 1; i++) {
		struct device *dev;

		CHECK_EQ(device_create(uri_of("aio", ""), &dev, NULL), 0);
		CHECK(!uuid_equal(&dev->uuid, &first));
		CHECK_EQ(device_remove(dev, NULL), 0);
	}
}

ENGINE_TEST(file_rescan_follows_the_size)
{
	for (size_t s = 0; s < ARRAY_LEN(schemes); s++) {
		struct device *dev, *same = NULL;
		struct err err = {};

		TAP_ROW(schemes[s]);
		make_file("rescan", 1 << 20);
		CHECK_EQ(device_create(uri_of(schemes[s], ""), &dev, NULL), 0);
		CHECK_EQ(device_create(uri_of(schemes[s], ""), &same, &err), -EEXIST);
		CHECK_HAS(err_text(&err), "rescan");
		CHECK_EQ(truncate(path, 3 << 20), 0);
		CHECK_EQ(device_create(uri_of(schemes[s], "?rescan"), &same, NULL), 0);
		CHECK(same == dev);
		CHECK_EQ(dev->nblocks, 3 * 2048);
		CHECK_EQ(truncate(path, (2 << 20) + 100), 0); /* the tail does not count yet */
		CHECK_EQ(device_create(uri_of(schemes[s], "?rescan=1"), &same, NULL), 0);
		CHECK_EQ(dev->nblocks, 2 * 2048);
		CHECK_EQ(truncate(path, 0), 0);
		err_clear(&err);
		CHECK_EQ(device_create(uri_of(schemes[s], "?rescan=1"), &same, &err), -EINVAL);
		CHECK_HAS(err_text(&err), "empty now");
		CHECK_EQ(dev->nblocks, 2 * 2048);
		CHECK_EQ(device_remove(dev, NULL), 0);
	}
	TAP_ROW(NULL);
}

static void let_go(void *arg)
{
	task_sleep(50 * 1000000ull); /* the lock is looked for meanwhile, and held */
	CHECK_EQ(device_remove(arg, NULL), 0);
}

ENGINE_TEST(file_waits_for_a_lock_that_goes)
{
	struct device *dev, *second = NULL;
	char link_path[320];
	char uri[400];

	make_file("going", 1 << 20);
	CHECK_EQ(device_create(uri_of("aio", ""), &dev, NULL), 0);
	(void)snprintf(link_path, sizeof(link_path), "%s/going2", dir);
	(void)unlink(link_path);
	CHECK_EQ(link(path, link_path), 0);
	(void)snprintf(uri, sizeof(uri), "uring://%s", link_path);
	CHECK_EQ(task_spawn("let go", let_go, dev), 0);
	if (CHECK_EQ(device_create(uri, &second, NULL), 0))
		CHECK_EQ(device_remove(second, NULL), 0);
	(void)unlink(link_path);
}

ENGINE_TEST(file_belongs_to_one_writer)
{
	struct device *dev, *second = NULL;
	struct err err = {};
	char link_path[320];
	char uri[400];
	int status = -1;
	pid_t child;

	make_file("lock", 1 << 20);
	CHECK_EQ(device_create(uri_of("aio", ""), &dev, NULL), 0);
	/* The same file under another name, in this process. */
	(void)snprintf(link_path, sizeof(link_path), "%s/lock2", dir);
	(void)unlink(link_path);
	CHECK_EQ(link(path, link_path), 0);
	(void)snprintf(uri, sizeof(uri), "uring://%s", link_path);
	CHECK_EQ(device_create(uri, &second, &err), -EBUSY);
	CHECK_HAS(err_text(&err), "in use by another process");
	/* And from another process. */
	child = fork();
	if (child == 0) {
		struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
		int fd = open(path, O_RDWR);

		_exit(fcntl(fd, F_SETLK, &lock) == 0 ? 1 : errno == EAGAIN ? 0 : 2);
	}
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
	CHECK_EQ(WEXITSTATUS(status), 0);
	CHECK_EQ(device_remove(dev, NULL), 0);
	CHECK_EQ(device_create(uri, &second, NULL), 0); /* the lock went with the device */
	CHECK_EQ(device_remove(second, NULL), 0);
	(void)unlink(link_path);
}

ENGINE_TEST(file_moves_data_in_every_shape)
{
	static _Alignas(4096) uint8_t data[64 * 512 + 16], buf[64 * 512 + 16];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + i / 512);
	for (size_t s = 0; s < ARRAY_LEN(schemes); s++) {
		struct iovec iov[3];
		struct opened o;

		TAP_ROW(schemes[s]);
		make_file("shapes", 1 << 20);
		if (!opened_open(&o, uri_of(schemes[s], ""), DESC_WRITE))
			continue;
		CHECK_EQ(do_io(&o, IO_WRITE, 8, 8, data, IO_FUA), IO_OK); /* aligned */
		CHECK_EQ(do_io(&o, IO_WRITE, 16, 3, data + 3, 0), IO_OK); /* not */
		CHECK_EQ(do_io(&o, IO_FLUSH, 0, 0, NULL, 0), IO_OK);
		CHECK_EQ(do_io(&o, IO_READ, 8, 8, buf + 5, 0), IO_OK);
		CHECK_MEM(buf + 5, data, 8 * 512);
		CHECK_EQ(do_io(&o, IO_READ, 16, 3, buf, 0), IO_OK);
		CHECK_MEM(buf, data + 3, 3 * 512);
		iov[0] = (struct iovec){ buf, 512 };
		iov[1] = (struct iovec){ buf + 1024, 100 };
		iov[2] = (struct iovec){ buf + 2048, 512 - 100 };
		o.io = (struct io){ .op = IO_READ, .lba = 8, .nlb = 2, .iov = iov, .iovcnt = 3 };
		CHECK_EQ(io_wait(o.h, &o.io), IO_OK);
		CHECK_MEM(buf, data, 512);
		CHECK_MEM(buf + 1024, data + 512, 100);
		CHECK_MEM(buf + 2048, data + 612, 412);
		iov[1] = (struct iovec){ buf + 1024, 512 };
		iov[2] = (struct iovec){ buf + 4096, 1024 };
		o.io = (struct io){ .op = IO_WRITE, .lba = 100, .nlb = 4, .iov = iov, .iovcnt = 3 };
		CHECK_EQ(io_wait(o.h, &o.io), IO_OK);
		CHECK_EQ(do_io(&o, IO_READ, 101, 1, data + 60 * 512, 0), IO_OK);
		CHECK_MEM(data + 60 * 512, buf + 1024, 512);
		CHECK_EQ(do_io(&o, IO_COMPARE, 16, 3, data + 3, 0), IO_OK);
		CHECK_EQ(do_io(&o, IO_COMPARE, 17, 3, data + 3, 0), IO_MISCOMPARE);
		opened_close(&o);
	}
	TAP_ROW(NULL);
}

ENGINE_TEST(file_gives_space_back_and_knows_its_holes)
{
	static _Alignas(4096) uint8_t buf[1 << 20], zero[1 << 20];

	for (size_t s = 0; s < ARRAY_LEN(schemes); s++) {
		struct opened o;
		uint64_t full;

		TAP_ROW(schemes[s]);
		make_file("holes", 4 << 20);
		if (!opened_open(&o, uri_of(schemes[s], "?blk_size=4096"), DESC_WRITE))
			continue;
		memset(buf, 1, sizeof(buf));
		CHECK_EQ(do_seek(&o, IO_SEEK_DATA, 0), 1024);
		CHECK_EQ(do_io(&o, IO_WRITE, 256, 256, buf, 0), IO_OK);
		CHECK_EQ(do_io(&o, IO_FLUSH, 0, 0, NULL, 0), IO_OK);
		full = blocks_used();
		CHECK(full >= 1 << 20);
		CHECK_EQ(do_seek(&o, IO_SEEK_DATA, 0), 256);
		CHECK_EQ(do_seek(&o, IO_SEEK_HOLE, 256), 512);
		CHECK_EQ(do_seek(&o, IO_SEEK_DATA, 512), 1024);
		if (!CHECK(o.dev->ops & IO_BIT(IO_UNMAP)))
			continue;
		CHECK_EQ(do_io(&o, IO_UNMAP, 256, 128, NULL, 0), IO_OK);
		CHECK(blocks_used() + (400 << 10) <= full);
		CHECK_EQ(do_seek(&o, IO_SEEK_DATA, 0), 384);
		CHECK_EQ(do_io(&o, IO_WRITE_ZEROES, 384, 64, NULL, 0), IO_OK);
		CHECK_EQ(do_io(&o, IO_WRITE_ZEROES, 448, 64, NULL, IO_NO_DEALLOCATE | IO_FUA),
			 IO_OK);
		CHECK_EQ(do_io(&o, IO_READ, 256, 256, buf, 0), IO_OK);
		CHECK_MEM(buf, zero, sizeof(buf));
		CHECK(blocks_used() >= 64 * 4096); /* what was not deallocated */
		opened_close(&o);
	}
	TAP_ROW(NULL);
}

/* ---- errors ------------------------------------------------------------------------------- */

static unsigned ncut;

static void note_cut(struct desc *desc, const struct device_event *event)
{
	(void)desc;
	ncut += event->type == DEVICE_FAILED && event->is_data_lost;
}

static off_t file_size(void)
{
	struct stat st;

	CHECK_EQ(stat(path, &st), 0);
	return st.st_size;
}

/* Nothing reaches the file, so what is gone does not come back as zeroes. */
static void check_lets_nothing_through(struct opened *o)
{
	static _Alignas(4096) uint8_t buf[16 * 512 + 1];
	off_t size = file_size();

	CHECK_EQ(do_io(o, IO_WRITE, 0, 8, buf, 0), IO_FAILED);
	CHECK_EQ(do_io(o, IO_WRITE, 100, 8, buf, 0), IO_FAILED);
	CHECK_EQ(do_io(o, IO_WRITE, 100, 8, buf + 1, IO_FUA), IO_FAILED);
	CHECK_EQ(do_io(o, IO_WRITE_ZEROES, 100, 8, NULL, IO_NO_DEALLOCATE), IO_FAILED);
	CHECK_EQ(do_io(o, IO_UNMAP, 0, 8, NULL, 0), IO_FAILED);
	CHECK_EQ(do_io(o, IO_FLUSH, 0, 0, NULL, 0), IO_FAILED);
	CHECK_EQ(do_io(o, IO_READ, 0, 8, buf, 0), IO_FAILED);
	CHECK_EQ(do_io(o, IO_READ, 0, 8, buf + 1, 0), IO_FAILED);
	o->io = (struct io){ .op = IO_SEEK_DATA };
	CHECK_EQ(io_wait(o->h, &o->io), IO_FAILED);
	CHECK_EQ(file_size(), size);
}

struct cut_case {
	const char *what;
	enum io_op op;
	uint64_t lba; /* of 8 blocks, behind the end or across it */
	bool is_unaligned;
};

ENGINE_TEST(file_cut_off_underneath_is_no_medium_error)
{
	static const struct cut_case rows[] = {
		{ "behind the end", IO_READ, 100, false },
		{ "across the end", IO_READ, 8, false },
		{ "within a page of the end", IO_READ, 9, false },
		{ "not aligned", IO_READ, 100, true },
		{ "a hole, it seems", IO_SEEK_DATA, 100, false },
	};
	static _Alignas(4096) uint8_t buf[16 * 512 + 1];
	const struct desc_opts opts = { .event = note_cut };

	for (size_t i = 0; i < 2 * ARRAY_LEN(rows); i++) {
		const struct cut_case *row = &rows[i / 2];
		struct desc *desc = NULL;
		struct opened o;

		TAP_ROW(row->what);
		make_file("cut", 1 << 20);
		if (!opened_open(&o, uri_of(schemes[i % 2], ""), DESC_WRITE))
			continue;
		CHECK_EQ(desc_open(o.dev, &opts, &desc, NULL), 0);
		ncut = 0;
		CHECK_EQ(truncate(path, 4096 + 512), 0);
		CHECK_EQ(do_io(&o, IO_READ, 0, 9, buf, 0), IO_OK);
		CHECK_EQ(ncut, 0);
		if (row->op == IO_READ) {
			CHECK_EQ(do_io(&o, IO_READ, row->lba, 8, buf + row->is_unaligned, 0),
				 IO_FAILED);
		} else {
			o.io = (struct io){ .op = (uint8_t)row->op, .lba = row->lba };
			CHECK_EQ(io_wait(o.h, &o.io), IO_FAILED);
		}
		check_lets_nothing_through(&o);
		CHECK_EQ(truncate(path, 1 << 20), 0); /* no way back without a word */
		check_lets_nothing_through(&o);
		task_yield();
		CHECK_EQ(ncut, 1);
		desc_close(desc);
		opened_close(&o);
	}
	TAP_ROW(NULL);
}

ENGINE_TEST(file_cut_off_is_used_again_after_a_rescan)
{
	static const off_t sizes[] = { 1 << 20, 2 << 20, 512 << 10 };
	static _Alignas(4096) uint8_t buf[8 * 512];

	for (size_t i = 0; i < 2 * ARRAY_LEN(sizes); i++) {
		struct device *same = NULL;
		struct opened o;

		TAP_ROW(schemes[i % 2]);
		make_file("cut2", 1 << 20);
		if (!opened_open(&o, uri_of(schemes[i % 2], ""), DESC_WRITE))
			continue;
		for (unsigned round = 0; round < 2; round++) {
			CHECK_EQ(truncate(path, 4096), 0);
			CHECK_EQ(do_io(&o, IO_READ, 8, 8, buf, 0), IO_FAILED);
			CHECK_EQ(do_io(&o, IO_WRITE, 0, 8, buf, 0), IO_FAILED);
			CHECK_EQ(truncate(path, sizes[i / 2]), 0);
			CHECK_EQ(device_create(uri_of(schemes[i % 2], "?rescan"), &same, NULL), 0);
			CHECK_EQ(o.dev->nblocks, (uint64_t)sizes[i / 2] / 512);
			CHECK_EQ(do_io(&o, IO_READ, 8, 8, buf, 0), IO_OK);
			CHECK_EQ(do_io(&o, IO_WRITE, 100, 8, buf, IO_FUA), IO_OK);
			CHECK_EQ(do_io(&o, IO_FLUSH, 0, 0, NULL, 0), IO_OK);
		}
		/* what else keeps writes away stays */
		file_fail(file_of_device(o.dev), EIO);
		CHECK_EQ(truncate(path, 4096), 0);
		CHECK_EQ(do_io(&o, IO_READ, 8, 8, buf, 0), IO_FAILED);
		CHECK_EQ(truncate(path, sizes[i / 2]), 0);
		CHECK_EQ(device_create(uri_of(schemes[i % 2], "?rescan"), &same, NULL), 0);
		CHECK_EQ(do_io(&o, IO_READ, 8, 8, buf, 0), IO_OK);
		CHECK_EQ(do_io(&o, IO_WRITE, 100, 8, buf, 0), IO_WRITE_ERROR);
		opened_close(&o);
	}
	TAP_ROW(NULL);
}

ENGINE_TEST(file_size_limit_ends_the_request_not_the_process)
{
	static _Alignas(4096) uint8_t buf[16 * 512];
	struct rlimit old, limit;

	CHECK_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
	for (size_t s = 0; s < ARRAY_LEN(schemes); s++) {
		struct opened o;

		TAP_ROW(schemes[s]);
		make_file("limit", 1 << 20);
		if (!opened_open(&o, uri_of(schemes[s], ""), DESC_WRITE))
			continue;
		limit = (struct rlimit){ 64 << 10, old.rlim_max };
		CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
		CHECK_EQ(do_io(&o, IO_WRITE, 0, 8, buf, 0), IO_OK);
		CHECK(do_io(&o, IO_WRITE, 1024, 8, buf, 0) != IO_OK);
		CHECK(do_io(&o, IO_WRITE, 120, 16, buf, 0) != IO_OK); /* across the limit */
		CHECK_EQ(do_io(&o, IO_READ, 1024, 8, buf, 0), IO_OK);
		CHECK_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
		CHECK_EQ(do_io(&o, IO_WRITE, 1024, 8, buf, 0), IO_OK);
		opened_close(&o);
	}
	TAP_ROW(NULL);
}

static void check_refuses_writes(struct opened *o)
{
	static _Alignas(4096) uint8_t buf[512];

	CHECK_EQ(do_io(o, IO_WRITE, 0, 1, buf, 0), IO_WRITE_ERROR);
	CHECK_EQ(do_io(o, IO_FLUSH, 0, 0, NULL, 0), IO_WRITE_ERROR);
	CHECK_EQ(do_io(o, IO_UNMAP, 0, 1, NULL, 0), IO_WRITE_ERROR);
	CHECK_EQ(do_io(o, IO_WRITE_ZEROES, 0, 1, NULL, 0), IO_WRITE_ERROR);
	CHECK_EQ(do_io(o, IO_READ, 0, 1, buf, 0), IO_OK);
}

ENGINE_TEST(file_sync_error_stays_for_ever)
{
	static _Alignas(4096) uint8_t buf[512];
	struct opened o;

	/* aio: the call itself fails, once, after a write that was acknowledged. */
	make_file("sync", 1 << 20);
	if (!opened_open(&o, uri_of("aio", ""), DESC_WRITE))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	atomic_store(&syncs_to_fail, 1);
	CHECK_EQ(do_io(&o, IO_FLUSH, 0, 0, NULL, 0), IO_WRITE_ERROR);
	CHECK_EQ(atomic_load(&syncs_to_fail), 0);
	check_refuses_writes(&o);
	opened_close(&o);
	/* The same where FUA made a write-zeroes sync. */
	if (!opened_open(&o, uri_of("aio", ""), DESC_WRITE))
		return;
	atomic_store(&syncs_to_fail, 1);
	CHECK_EQ(do_io(&o, IO_WRITE_ZEROES, 0, 1, NULL, IO_FUA), IO_WRITE_ERROR);
	check_refuses_writes(&o);
	opened_close(&o);
	/* uring: the kernel cannot be made to fail here, what follows from it can. */
	make_file("sync2", 1 << 20);
	if (!opened_open(&o, uri_of("uring", ""), DESC_WRITE))
		return;
	CHECK_EQ(do_io(&o, IO_FLUSH, 0, 0, NULL, 0), IO_OK);
	file_fail(file_of_device(o.dev), EIO);
	check_refuses_writes(&o);
	opened_close(&o);
}

/* Several at once; what ends after a sync failed must not say that it is durable. */
struct at_once {
	struct io io;
	struct task_event done;
};

static void at_once_done(struct io *io)
{
	task_event_fire(&container_of(io, struct at_once, io)->done);
}

static void at_once_submit(struct opened *o, struct at_once *a, enum io_op op, void *buf)
{
	*a = (struct at_once){ .io = { .op = (uint8_t)op, .done = at_once_done } };
	if (op == IO_WRITE) {
		a->io.nlb = 1;
		a->io.flags = IO_FUA;
		io_set_buf(&a->io, buf, 512);
	}
	io_submit(o->h, &a->io);
}

static uint16_t at_once_wait(struct at_once *a)
{
	task_event_wait(&a->done);
	return a->io.status;
}

ENGINE_TEST(file_sync_error_counts_for_what_is_under_way)
{
	static _Alignas(4096) uint8_t buf[512];
	struct at_once flush[3], write;
	struct opened o;

	/* The kernel tells of a lost write once: the next flush succeeds. */
	make_file("sync3", 1 << 20);
	if (!opened_open(&o, uri_of("aio", ""), DESC_WRITE))
		return;
	atomic_store(&syncs_to_fail, 1);
	for (unsigned i = 0; i < ARRAY_LEN(flush); i++)
		at_once_submit(&o, &flush[i], IO_FLUSH, NULL);
	for (unsigned i = 0; i < ARRAY_LEN(flush); i++)
		CHECK_EQ(at_once_wait(&flush[i]), IO_WRITE_ERROR);
	opened_close(&o);
	for (size_t s = 0; s < ARRAY_LEN(schemes); s++) {
		TAP_ROW(schemes[s]);
		if (!opened_open(&o, uri_of(schemes[s], ""), DESC_WRITE))
			return;
		atomic_store(&is_sync_held, true);
		at_once_submit(&o, &flush[0], IO_FLUSH, NULL);
		at_once_submit(&o, &write, IO_WRITE, buf);
		file_fail(file_of_device(o.dev), EIO);
		atomic_store(&is_sync_held, false);
		CHECK_EQ(at_once_wait(&flush[0]), IO_WRITE_ERROR);
		CHECK_EQ(at_once_wait(&write), IO_WRITE_ERROR);
		opened_close(&o);
	}
	TAP_ROW(NULL);
}

ENGINE_TEST(file_on_a_full_file_system_says_no_space)
{
	static _Alignas(4096) uint8_t buf[1 << 20];
	char mount_dir[280], options[] = "size=1m";

	make_file("space", 1 << 20);
	(void)snprintf(mount_dir, sizeof(mount_dir), "%s/small", dir);
	CHECK_EQ(mkdir(mount_dir, 0700), 0);
	if (mount("tmpfs", mount_dir, "tmpfs", 0, options) < 0) {
		SKIP("cannot mount a small tmpfs (%s): wants root", err_errno_name(errno));
		return;
	}
	for (size_t s = 0; s < ARRAY_LEN(schemes); s++) {
		struct opened o;

		TAP_ROW(schemes[s]);
		(void)snprintf(path, sizeof(path), "%s/image", mount_dir);
		(void)unlink(path);
		CHECK(close(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) == 0 &&
		      truncate(path, 4 << 20) == 0);
		if (!opened_open(&o, uri_of(schemes[s], ""), DESC_WRITE))
			continue;
		memset(buf, 5, sizeof(buf));
		CHECK_EQ(do_io(&o, IO_WRITE, 0, 1024, buf, 0), IO_OK);
		CHECK_EQ(do_io(&o, IO_WRITE, 1024, 2048, buf, 0), IO_NO_SPACE);
		CHECK_EQ(do_io(&o, IO_WRITE, 0, 1024, buf, IO_FUA), IO_OK); /* space it has */
		CHECK_EQ(do_io(&o, IO_READ, 4096, 1024, buf, 0), IO_OK);
		CHECK_EQ(do_io(&o, IO_UNMAP, 0, 8192, NULL, 0), IO_OK);
		CHECK_EQ(do_io(&o, IO_WRITE, 4096, 1024, buf, 0), IO_OK); /* space again */
		opened_close(&o);
	}
	TAP_ROW(NULL);
	CHECK_EQ(umount(mount_dir), 0);
}

ENGINE_TEST(file_without_permission_is_read_only)
{
	static _Alignas(4096) uint8_t buf[512];
	bool was_root = geteuid() == 0;

	for (size_t s = 0; s < ARRAY_LEN(schemes); s++) {
		struct opened o;
		struct desc *desc;
		struct err err = {};

		TAP_ROW(schemes[s]);
		make_file("readonly", 1 << 20);
		CHECK_EQ(chmod(path, 0444), 0);
		CHECK_EQ(chmod(dir, 0755), 0);
		if (was_root)
			CHECK_EQ(seteuid(65534), 0); /* root may write to every file */
		if (opened_open(&o, uri_of(schemes[s], ""), 0)) {
			CHECK(o.dev->is_read_only);
			CHECK_EQ(do_io(&o, IO_READ, 0, 1, buf, 0), IO_OK);
			CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_READ_ONLY);
			CHECK(desc_open(o.dev, &(struct desc_opts){ .flags = DESC_WRITE }, &desc,
					&err) < 0);
			opened_close(&o);
		}
		if (was_root)
			CHECK_EQ(seteuid(0), 0);
		(void)unlink(path);
	}
	TAP_ROW(NULL);
}

/* ---- many at once ------------------------------------------------------------------------- */

enum { MANY = 700 }; /* more than AIO_DEPTH */

static struct io many[MANY];
static unsigned many_left;
static struct task_event many_done;

static void one_of_many_done(struct io *io)
{
	CHECK_EQ(io->status, IO_OK);
	if (--many_left == 0)
		task_event_fire(&many_done);
}

ENGINE_TEST(file_takes_more_requests_than_the_kernel)
{
	static _Alignas(4096) uint8_t buf[MANY][512];

	for (size_t s = 0; s < ARRAY_LEN(schemes); s++) {
		static const enum io_op ops[] = { IO_WRITE, IO_READ };
		struct opened o;

		TAP_ROW(schemes[s]);
		make_file("many", 1 << 20);
		if (!opened_open(&o, uri_of(schemes[s], ""), DESC_WRITE))
			continue;
		for (size_t op = 0; op < ARRAY_LEN(ops); op++) {
			many_left = MANY;
			many_done = (struct task_event){};
			for (unsigned i = 0; i < MANY; i++) {
				memset(buf[i], ops[op] == IO_WRITE ? (int)(i % 251) : 255, 512);
				many[i] = (struct io){ .op = (uint8_t)ops[op],
						       .lba = i,
						       .nlb = 1,
						       .done = one_of_many_done };
				io_set_buf(&many[i], buf[i], 512);
				io_submit(o.h, &many[i]);
			}
			task_event_wait(&many_done);
		}
		for (unsigned i = 0; i < MANY; i++)
			CHECK(buf[i][0] == i % 251 && buf[i][511] == i % 251);
		opened_close(&o);
	}
	TAP_ROW(NULL);
}

TEST(file_leaves_nothing_behind)
{
	char command[400];

	CHECK(dir[0] != '\0');
	(void)snprintf(command, sizeof(command), "rm -r '%s'", dir);
	CHECK_EQ(system(command), 0);
}

TAP_MAIN()
