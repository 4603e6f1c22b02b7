/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nth.c - every control operation of the device layer survives the failure of each of its
 * allocations.
 *
 * The linker's --wrap puts a counter in front of the allocators that the engine calls by name, mmap
 * (buffers) included. For n = 1, 2, 3 ... the n-th allocation of the operation fails, until an
 * operation comes through in which nothing was left to fail. Each failure must be an error with a
 * sentence, must leave the world as it was, and must not keep the same operation from working next.
 * Leaks are found where this program runs under AddressSanitizer, as all unit tests do.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/tap.h"
#include "device/driver.h"
#include "device/emulate.h"
#include "device/fault.h"
#include "engine.h"
#include "schemes.h"

/* ---- the allocator that fails --------------------------------------------------------------- */

/* The engine here has one reactor; only its thread counts, worker threads do not. */
static __thread unsigned fail_in; /* 0: never */
static __thread bool has_failed;

static bool fails_now(void)
{
	if (fail_in == 0 || --fail_in > 0)
		return false;
	has_failed = true;
	errno = ENOMEM;
	return true;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *ptr, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
char *__real_strdup(const char *text);
void *__real_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t off);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *ptr, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
char *__wrap_strdup(const char *text);
void *__wrap_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t off);

void *__wrap_malloc(size_t size)
{
	return fails_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
	return fails_now() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *ptr, size_t size)
{
	return fails_now() ? NULL : __real_realloc(ptr, size);
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
	return fails_now() ? NULL : __real_aligned_alloc(align, size);
}

char *__wrap_strdup(const char *text)
{
	return fails_now() ? NULL : __real_strdup(text);
}

void *__wrap_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t off)
{
	return fails_now() ? MAP_FAILED : __real_mmap(addr, size, prot, flags, fd, off);
}

/* ---- the loop ------------------------------------------------------------------------------- */

enum { NTH_MAX = 500 };

/* One operation and its undoing. Both run in a task. */
struct operation {
	const char *name;
	int (*run)(struct err *err);
	void (*undo)(void);
	void (*check_unchanged)(void); /* after a failure */
	unsigned min_failures;         /* fewer would mean that the wrapper sees nothing */
};

static void nth_loop(const struct operation *op) MAY_SUSPEND
{
	unsigned n, nfailed = 0;

	TAP_ROW(op->name);
	for (n = 1; n < NTH_MAX && tap_.failed == 0; n++) {
		struct err err = {};
		bool was_hit;
		int result;

		has_failed = false;
		fail_in = n;
		result = op->run(&err);
		fail_in = 0;
		was_hit = has_failed;
		if (result == 0) {
			op->undo(); /* also when it did without what failed */
			if (!was_hit)
				break;
			continue;
		}
		nfailed++;
		CHECK(was_hit);
		CHECK_EQ(err.code, result);
		CHECK(err.msg[0] != '\0');
		op->check_unchanged();
		if (tap_.failed > 0)
			printf("# %s: allocation %u, %s\n", op->name, n, err.msg);
	}
	CHECK(n < NTH_MAX);
	CHECK(nfailed >= op->min_failures);
	printf("# %s: %u failures survived\n", op->name, nfailed);
}

/* ---- the world ------------------------------------------------------------------------------ */

static struct device *dev;
static struct desc *desc;
static struct handle *h;

static char uri_made[200];

static bool io_works(void) MAY_SUSPEND
{
	static char buf[4096];
	struct io io = { .op = IO_WRITE, .nlb = 1 };

	io_set_buf(&io, buf, dev->block_size);
	return io_wait(h, &io) == IO_OK;
}

static int open_device(const char *uri, struct err *err) MAY_SUSPEND
{
	int result = device_create(uri, &dev, err);

	if (result == 0)
		result = desc_open(dev, &(struct desc_opts){ .flags = DESC_WRITE }, &desc, err);
	if (result == 0)
		result = handle_open(desc, reactor_primary(), &h, err);
	return result;
}

static void close_device(const char *uri) MAY_SUSPEND
{
	desc_close(desc);
	CHECK_EQ(device_destroy(uri, NULL), 0);
}

/* ---- arming a fault ------------------------------------------------------------------------- */

#define FAULT_URI "inject://m0?op=write&method=status-nvme-0-81"

static int run_fault_add(struct err *err)
{
	return fault_add(FAULT_URI, err);
}

static void undo_fault_add(void)
{
	CHECK(!io_works());
	CHECK_EQ(fault_remove(FAULT_URI, NULL), 0);
	CHECK(io_works());
}

static void unchanged_fault_add(void)
{
	struct fault_info info;

	CHECK(!fault_list(0, &info));
	CHECK_EQ(h->ch->gate, 0);
	CHECK(io_works());
}

/* ---- opening: device, descriptor, handle, its channel with faults and buffers ---------------- */

static int run_handle_open(struct err *err)
{
	int result = desc_open(dev, &(struct desc_opts){ .flags = DESC_WRITE }, &desc, err);

	if (result < 0)
		return result;
	result = handle_open(desc, reactor_primary(), &h, err);
	if (result < 0)
		desc_close(desc);
	return result;
}

static void undo_handle_open(void)
{
	CHECK(!io_works()); /* the fault that waits found the new channel */
	desc_close(desc);
}

static void unchanged_handle_open(void)
{
	CHECK(list_empty(&dev->descs));
	CHECK(dev->channel[0] == NULL);
}

static int run_device_create(struct err *err)
{
	return device_create(uri_made, &dev, err);
}

static void undo_device_create(void)
{
	CHECK_EQ(device_destroy(uri_made, NULL), 0);
	CHECK(device_next(NULL) == NULL);
}

static void unchanged_device_create(void)
{
	CHECK(device_next(NULL) == NULL);
}

/* ---- tests ---------------------------------------------------------------------------------- */

static const char *test_uri;

static int fault_body(void *arg, struct err *err)
{
	static const struct operation op = {
		"fault_add", run_fault_add, undo_fault_add, unchanged_fault_add, 3,
	};

	(void)arg;
	CHECK_EQ(open_device("malloc:///m0?size_mb=1", err), 0);
	nth_loop(&op);
	close_device("malloc:///m0?size_mb=1");
	return 0;
}

static int open_body(void *arg, struct err *err)
{
	static const struct operation op = {
		"handle_open", run_handle_open, undo_handle_open, unchanged_handle_open, 5,
	};

	(void)arg;
	CHECK_EQ(fault_add(FAULT_URI, err), 0);
	CHECK_EQ(device_create(test_uri, &dev, err), 0);
	if (tap_.failed == 0)
		nth_loop(&op);
	CHECK_EQ(device_destroy(test_uri, err), 0);
	fault_remove_all();
	return 0;
}

static int create_body(void *arg, struct err *err)
{
	static const struct operation op = {
		"device_create", run_device_create, undo_device_create, unchanged_device_create, 3,
	};

	(void)arg;
	(void)err;
	(void)snprintf(uri_made, sizeof(uri_made), "%s", test_uri);
	nth_loop(&op);
	return 0;
}

/* A delay or a private copy that finds no memory ends the request, and only that. */
static int data_path_body(void *arg, struct err *err)
{
	static const char *const params[] = {
		"method=delay&delay_us=100",
		"stage=c&method=delay&delay_us=100",
		"method=corrupt",
		"op=write_zeroes&method=torn",
	};
	char buf[8 * 512] = {}, uri[100];

	(void)arg;
	CHECK_EQ(open_device("malloc:///m0?size_mb=1&blk_size=512", err), 0);
	for (size_t i = 0; i < ARRAY_LEN(params); i++) {
		unsigned nfailed = 0;

		(void)snprintf(uri, sizeof(uri), "inject://m0?seed=3&%s", params[i]);
		TAP_ROW(uri);
		CHECK_EQ(fault_add(uri, err), 0);
		for (unsigned n = 1; n < NTH_MAX; n++) {
			struct io io = { .op = i == 3 ? IO_WRITE_ZEROES : IO_WRITE, .nlb = 8 };
			uint16_t status;

			io_set_buf(&io, buf, sizeof(buf));
			has_failed = false;
			fail_in = n;
			status = io_wait(h, &io);
			fail_in = 0;
			CHECK(io.iov == &io.one && io.one.iov_base == buf);
			if (!has_failed)
				break;
			CHECK_EQ(status, IO_NO_MEMORY);
			nfailed++;
		}
		CHECK(nfailed >= 1);
		CHECK_EQ(fault_remove(uri, err), 0);
		CHECK_EQ(h->ch->gate, 0);
		CHECK(io_works());
	}
	close_device("malloc:///m0?size_mb=1&blk_size=512");
	return 0;
}

static void in_engine(int (*body)(void *arg, struct err *err))
{
	struct engine_opts opts = {};
	struct err err = {};

	if (!CHECK_EQ(engine_run(&opts, body, NULL, &err), 0))
		printf("# %s\n", err.msg);
}

TEST(nth_fault_add)
{
	in_engine(fault_body);
}

TEST(nth_fault_data_path)
{
	in_engine(data_path_body);
}

TEST(nth_handle_open_malloc)
{
	test_uri = "malloc:///m0?size_mb=1";
	in_engine(open_body);
}

TEST(nth_device_create_null)
{
	test_uri = "null:///n0?size_mb=1";
	in_engine(create_body);
}

TEST(nth_device_create_malloc)
{
	test_uri = "malloc:///m0?size_mb=1&uuid=00112233-4455-6677-8899-aabbccddeeff";
	in_engine(create_body);
}

static void on_file(const char *scheme)
{
	static char uri[120];
	char path[] = "/tmp/ashlar-nth-XXXXXX";
	int fd = mkstemp(path);

	if (!CHECK(fd >= 0))
		return;
	CHECK_EQ(ftruncate(fd, 1 << 20), 0);
	(void)close(fd);
	(void)snprintf(uri, sizeof(uri), "%s://%s", scheme, path);
	test_uri = uri;
	in_engine(create_body);
	CHECK_EQ(unlink(path), 0);
}

TEST(nth_device_create_aio)
{
	on_file("aio");
}

TEST(nth_device_create_uring)
{
	on_file("uring");
}

TAP_MAIN()
