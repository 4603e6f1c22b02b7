/* SPDX-License-Identifier: Apache-2.0 */
/*
 * faults.c - every method at every stage on every operation of real drivers.
 *
 * fault_test.c looks into a device of its own; here the devices are those people use, so what is
 * checked is what their users see: the status, and what is read back once the fault is gone. null
 * keeps nothing, so only statuses count there.
 *
 * For each combination that the grammar accepts: arm, one request that must show the fault, one of
 * a neighbouring block that must not, disarm, the same request again, which must succeed.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/tap.h"
#include "device/driver.h"
#include "device/fault.h"
#include "drivers/drivers.h"
#include "engine.h"
#include "schemes.h"

enum {
	NLB = 8,
	BLOCK = 512,
	SIZE = NLB * BLOCK,
	LBA = 64,      /* where the faults are */
	FAR_LBA = 128, /* where they are not */
};

static struct device *dev;
static struct handle *h;
static const char *armed_device; /* NULL: the one on top */
static bool keeps_data;
static _Alignas(4096) uint8_t buf[2 * SIZE];
static _Alignas(4096) uint8_t back[SIZE];
static unsigned combinations;

static uint16_t request(enum io_op op, uint64_t lba, uint8_t *data) MAY_SUSPEND
{
	bool is_ranged = IO_BIT(op) & IO_OPS_WITH_RANGE;
	struct io io = { .op = (uint8_t)op, .lba = is_ranged ? lba : 0 };

	io.nlb = is_ranged ? NLB : 0;
	io_set_buf(&io, data, op == IO_COMPARE_WRITE ? 2 * SIZE : SIZE);
	if (!(IO_BIT(op) & IO_OPS_WITH_DATA))
		io.iovcnt = 0;
	return io_wait(h, &io);
}

/* The disk holds before(); @op leaves there 0xbb, 0, or what was. null holds zeroes always. */
static int before(void)
{
	return keeps_data ? 0xaa : 0;
}

static void fill_buf(enum io_op op)
{
	memset(buf, op == IO_READ ? 0x11 : op == IO_WRITE ? 0xbb : before(), SIZE);
	memset(buf + SIZE, 0xbb, SIZE);
}

static void setup(enum io_op op) MAY_SUSPEND
{
	memset(buf, before(), sizeof(buf));
	CHECK_EQ(request(IO_WRITE, LBA, buf), IO_OK);
	CHECK_EQ(request(IO_WRITE, FAR_LBA, buf), IO_OK);
	fill_buf(op);
}

static int byte_after(enum io_op op)
{
	if (op == IO_WRITE || op == IO_COMPARE_WRITE)
		return 0xbb;
	return op == IO_WRITE_ZEROES || (op == IO_UNMAP && dev->unmap_reads_zero) ? 0 : 0xaa;
}

static unsigned count_bytes(const uint8_t *data, int byte)
{
	unsigned count = 0;

	for (unsigned i = 0; i < SIZE; i++)
		count += data[i] == byte;
	return count;
}

/* The first @len bytes read back are @byte, the others as before. */
static bool is_prefix(int byte, unsigned len)
{
	for (unsigned i = 0; i < SIZE; i++) {
		if (back[i] != (i < len ? byte : before()))
			return false;
	}
	return true;
}

/* What is on the disk behind one faulty request. */
static void check_disk(enum io_op op, enum fault_method method, unsigned stage) MAY_SUSPEND
{
	unsigned after;

	CHECK_EQ(request(IO_READ, LBA, back), IO_OK);
	if (!keeps_data || (op == IO_UNMAP && !dev->unmap_reads_zero))
		return;
	after = count_bytes(back, byte_after(op));
	if ((method == FAULT_STATUS && stage == FAULT_SUBMIT) || method == FAULT_DROP)
		CHECK_EQ(count_bytes(back, 0xaa), SIZE);
	else if (method == FAULT_STATUS || method == FAULT_DELAY)
		CHECK_EQ(after, SIZE);
	else if (method == FAULT_CORRUPT && op != IO_READ && op != IO_COMPARE)
		CHECK_EQ(after, SIZE - 1);
	else if (method == FAULT_DATA && op != IO_READ && op != IO_COMPARE)
		CHECK(after < SIZE / 8);
	else if (method == FAULT_TORN)
		CHECK(after % BLOCK == 0 && after < SIZE && is_prefix(byte_after(op), after));
}

/* What the faulty request itself must end with. */
static uint16_t status_of(enum io_op op, enum fault_method method)
{
	if (method == FAULT_STATUS)
		return IO_STATUS_NVME | 0x284;
	if (method == FAULT_TORN)
		return IO_WRITE_ERROR;
	if (op == IO_COMPARE && (method == FAULT_CORRUPT || method == FAULT_DATA))
		return IO_MISCOMPARE;
	return IO_OK;
}

/* Data of a read that was meddled with. */
static void check_read(enum fault_method method)
{
	unsigned same = count_bytes(buf, 0xaa);

	if (!keeps_data)
		return;
	if (method == FAULT_CORRUPT)
		CHECK_EQ(same, SIZE - 1);
	else if (method == FAULT_DATA)
		CHECK(same < SIZE / 8);
	else if (method == FAULT_DELAY)
		CHECK_EQ(same, SIZE);
}

static void combine(enum io_op op, enum fault_method method, enum fault_stage stage) MAY_SUSPEND
{
	static const char *const methods[] = {
		[FAULT_STATUS] = "status-nvme-2-84",  [FAULT_DATA] = "data",
		[FAULT_DELAY] = "delay&delay_us=300", [FAULT_TORN] = "torn",
		[FAULT_CORRUPT] = "corrupt",          [FAULT_DROP] = "drop",
	};
	struct fault_info info = {};
	char uri[DEVICE_NAME_MAX + 200];
	uint64_t start_ns;
	uint16_t status;

	(void)snprintf(uri, sizeof(uri),
		       "inject://%s?op=%s&stage=%s&offset=%d&num_blk=%d&method=%s",
		       armed_device != NULL ? armed_device : dev->name, io_op_name(op),
		       stage == FAULT_SUBMIT ? "s" : "c", LBA, NLB, methods[method]);
	TAP_ROW(uri);
	setup(op);
	if (!CHECK_EQ(fault_add(uri, NULL), 0))
		return;
	if (IO_BIT(op) & IO_OPS_WITH_RANGE)
		CHECK_EQ(request(op, FAR_LBA, buf), IO_OK);
	CHECK(fault_list(0, &info) && info.hits == 0);
	fill_buf(op);
	start_ns = reactor_primary()->now_ns;
	status = request(op, LBA, buf);
	CHECK_EQ(status, status_of(op, method));
	if (method == FAULT_DELAY)
		CHECK(reactor_primary()->now_ns - start_ns >= 300000);
	if (op == IO_READ)
		check_read(method);
	CHECK(fault_list(0, &info) && info.fired == 1);
	CHECK_EQ(fault_remove(uri, NULL), 0);
	check_disk(op, method, stage);
	setup(op);
	CHECK_EQ(request(op, LBA, buf), IO_OK);
	CHECK(h->ch->gate == 0);
	combinations++;
}

static void matrix(void) MAY_SUSPEND
{
	for (unsigned op = 0; op < IO_OP_COUNT_; op++) {
		for (unsigned method = 0; method < FAULT_METHOD_COUNT_; method++) {
			for (unsigned stage = FAULT_SUBMIT; stage <= FAULT_COMPLETION; stage++) {
				if (h->ops >> op & 1 && fault_method_ops(method, stage) >> op & 1)
					combine(op, method, stage);
			}
		}
	}
}

/* ---- devices -------------------------------------------------------------------------------- */

static int body(void *arg, struct err *err)
{
	struct desc_opts opts = { .flags = DESC_WRITE };
	struct desc *desc;
	const char *uri = arg;

	drivers_set(scheme_table);
	if (!CHECK_EQ(device_create(uri, &dev, err), 0)) {
		printf("# %s\n", err->msg);
		err_clear(err);
		return 0;
	}
	CHECK_EQ(desc_open(dev, &opts, &desc, err), 0);
	CHECK_EQ(handle_open(desc, reactor_primary(), &h, err), 0);
	combinations = 0;
	matrix();
	TAP_ROW(NULL);
	CHECK(combinations > 30);
	printf("# %u combinations\n", combinations);
	CHECK_EQ(h->ch->gate, 0);
	desc_close(desc);
	CHECK_EQ(device_destroy(uri, err), 0);
	return 0;
}

static void on_device(const char *uri, bool keeps)
{
	char text[300];
	struct engine_opts opts = {};
	struct err err = {};

	keeps_data = keeps;
	(void)snprintf(text, sizeof(text), "%s", uri);
	if (!CHECK_EQ(engine_run(&opts, body, text, &err), 0))
		printf("# %s\n", err.msg);
}

static void on_file(const char *scheme)
{
	char path[] = "/tmp/ashlar-faults-XXXXXX", uri[120];
	int fd = mkstemp(path);

	if (!CHECK(fd >= 0))
		return;
	CHECK_EQ(ftruncate(fd, 1 << 20), 0);
	(void)close(fd);
	(void)snprintf(uri, sizeof(uri), "%s://%s?blk_size=512", scheme, path);
	on_device(uri, true);
	CHECK_EQ(unlink(path), 0);
}

TEST(faults_on_null)
{
	on_device("null:///n0?size_mb=1&blk_size=512", false);
}

TEST(faults_on_malloc)
{
	on_device("malloc:///m0?size_mb=1&blk_size=512", true);
}

/* In a stack: on the layer, and below it. */
TEST(faults_above_and_below_a_layer)
{
	static const char *const armed[] = { NULL, "m0" };

	for (size_t i = 0; i < ARRAY_LEN(armed); i++) {
		armed_device = armed[i];
		on_device("passthru:///p0?base=malloc%3A%2F%2F%2Fm0%3Fsize_mb%3D1%26blk_size%3D512",
			  true);
	}
	armed_device = NULL;
}

/* The device at the bottom emulates much, the layer hands it down. */
TEST(faults_above_and_below_an_emulation)
{
	char path[] = "/tmp/ashlar-faults-XXXXXX", uri[160];
	int fd = mkstemp(path);

	if (!CHECK(fd >= 0))
		return;
	CHECK_EQ(ftruncate(fd, 1 << 20), 0);
	(void)close(fd);
	(void)snprintf(uri, sizeof(uri), "passthru:///p0?base=aio%%3A%%2F%%2F%s%%3Fblk_size%%3D512",
		       path);
	for (unsigned i = 0; i < 2; i++) {
		armed_device = i == 0 ? NULL : path;
		on_device(uri, true);
	}
	armed_device = NULL;
	CHECK_EQ(unlink(path), 0);
}

TEST(faults_on_aio)
{
	on_file("aio");
}

TEST(faults_on_uring)
{
	on_file("uring");
}

TAP_MAIN()
