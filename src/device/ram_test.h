/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ram_test.h - a device of 1,024 blocks of memory for tests of the layer: what it can do, whether
 * it answers inside submit, and what it was asked are the test's to see and to set.
 *
 * A test calls ram_run(body): a fresh engine with two reactors, the device "r0" open for writing on
 * both, and body() as a task on the primary.
 */
#ifndef ASHLAR_DEVICE_RAM_TEST_H
#define ASHLAR_DEVICE_RAM_TEST_H

#include "base/tap.h"

#include <errno.h>

#include "device/channel.h"
#include "device/driver.h"
#include "device/emulate.h"
#include "device/fault.h"
/* lint: allow includes: a test stands outside the layers and needs a running engine */
#include "engine.h"

enum {
	RAM_BLOCKS = 1024,
	RAM_BLOCK = 512,
	RAM_BYTES = RAM_BLOCKS * RAM_BLOCK,
	RAM_BASIC = IO_BIT(IO_READ) | IO_BIT(IO_WRITE),
	RAM_FULL = RAM_BASIC | IO_BIT(IO_FLUSH) | IO_BIT(IO_UNMAP) | IO_BIT(IO_WRITE_ZEROES) |
		   IO_BIT(IO_COMPARE) | IO_BIT(IO_COMPARE_WRITE) | IO_BIT(IO_RESET),
};

static struct {
	/* set before ram_run(), reset after it */
	uint32_t ops;
	uint32_t buf_align, max_io_nlb;
	bool is_late;            /* answer from the loop */
	bool is_rotating;        /* every other request late */
	bool is_lending;         /* answers reads that offer it with a loan, late */
	_Atomic bool is_holding; /* lent reads end when it is off */
	bool has_cache;
	uint16_t status; /* of everything, when not IO_OK */
	/* seen */
	_Atomic unsigned submitted[IO_OP_COUNT_];
	_Atomic uint16_t last_flags;
	_Atomic bool was_misaligned;
	_Atomic bool was_oversize; /* a part of ours was larger than max_io_nlb */
	_Alignas(4096) uint8_t bytes[RAM_BYTES];
} ram = { .ops = RAM_FULL };

static struct device *ram_dev;
static struct desc *ram_desc;
static struct handle *ram_h[2]; /* per reactor */

static void ram_late(struct msg *msg)
{
	struct io *io = container_of(msg, struct io, msg);

	io_complete(io, io->status);
}

static uint16_t ram_do(struct io *io)
{
	size_t off = io->lba * RAM_BLOCK, len = (size_t)io->nlb * RAM_BLOCK;

	if (ram.status != IO_OK)
		return ram.status;
	switch ((enum io_op)io->op) {
	case IO_READ:
		(void)iov_from_buf(io->iov, io->iovcnt, 0, ram.bytes + off, len);
		return IO_OK;
	case IO_COMPARE_WRITE:
	case IO_COMPARE:
		if (iov_compare(io->iov, io->iovcnt, 0, ram.bytes + off, len) != len)
			return IO_MISCOMPARE;
		if (io->op == IO_COMPARE_WRITE)
			(void)iov_to_buf(io->iov, io->iovcnt, len, ram.bytes + off, len);
		return IO_OK;
	case IO_WRITE:
		return iov_to_buf(io->iov, io->iovcnt, 0, ram.bytes + off, len) == len ? IO_OK
										       : IO_INVALID;
	case IO_UNMAP:
	case IO_WRITE_ZEROES:
		memset(ram.bytes + off, 0, len);
		return IO_OK;
	default:
		return IO_OK;
	}
}

static void ram_lend(struct msg *msg)
{
	struct io *io = container_of(msg, struct io, msg);
	size_t off = io->lba * RAM_BLOCK, len = (size_t)io->nlb * RAM_BLOCK;

	if (ram.is_holding) {
		reactor_at_flush(io_top(io)->ch->reactor, msg);
		return;
	}
	if (io->status == IO_OK) {
		/* in two pieces, the second one empty for a single block */
		io->loan->piece[0] = (struct iovec){ ram.bytes + off, RAM_BLOCK };
		io->loan->piece[1] = (struct iovec){ ram.bytes + off + RAM_BLOCK, len - RAM_BLOCK };
		io_lend(io, len > RAM_BLOCK ? 2 : 1);
	}
	io_complete(io, io->status);
}

static enum io_result ram_submit(struct channel *ch, struct io *io)
{
	unsigned number = ram.submitted[io->op]++;

	if (IO_BIT(io->op) & IO_OPS_WITH_DATA &&
	    !iov_is_aligned(io->iov, io->iovcnt, MAX(ram.buf_align, 1u))) {
		ram.submitted[io->op]--;
		ram.was_misaligned = true;
		return io_bounce(ch, io);
	}
	if (ram.max_io_nlb > 0 && io_top(io)->epoch == IO_EPOCH_NONE && io->nlb > ram.max_io_nlb)
		ram.was_oversize = true;
	ram.last_flags = io->flags;
	if (io->flags & IO_BORROW && ram.is_lending) {
		io->status = ram.status;
		io->msg.fn = ram_lend;
		reactor_at_flush(ch->reactor, &io->msg);
		return IO_PENDING;
	}
	io->status = ram_do(io);
	if (!ram.is_late && !(ram.is_rotating && number % 2))
		return IO_DONE;
	io->msg.fn = ram_late;
	reactor_at_flush(ch->reactor, &io->msg);
	return IO_PENDING;
}

static int ram_create(struct uri *uri, struct device **ret_dev, struct err *err);

static void ram_destroy(struct device *dev)
{
	free(dev);
}

static const char *const ram_schemes[] = { "ram", NULL };
static const struct driver ram_driver = {
	.name = "ram",
	.product = "test memory",
	.schemes = ram_schemes,
	.channel_size = sizeof(struct channel),
	.create = ram_create,
	.destroy = ram_destroy,
	.submit = ram_submit,
};

static int ram_create(struct uri *uri, struct device **ret_dev, struct err *err)
{
	struct device *dev = calloc(1, sizeof(*dev));
	int result;

	assert(dev != NULL);
	dev->driver = &ram_driver;
	(void)snprintf(dev->name, sizeof(dev->name), "%s", uri_name(uri));
	dev->nblocks = RAM_BLOCKS;
	dev->block_size = RAM_BLOCK;
	dev->ops = ram.ops;
	dev->buf_align = ram.buf_align;
	dev->max_io_nlb = ram.max_io_nlb;
	dev->has_write_cache = ram.has_cache;
	result = device_register(dev, err);
	if (result < 0) {
		free(dev);
		return result;
	}
	*ret_dev = dev;
	return 0;
}

static const struct driver *const ram_table[] = { &ram_driver, NULL };

static void ram_open(void) MAY_SUSPEND
{
	struct desc_opts opts = { .flags = DESC_WRITE };

	CHECK_EQ(device_create("ram:///r0", &ram_dev, NULL), 0);
	CHECK_EQ(desc_open(ram_dev, &opts, &ram_desc, NULL), 0);
	for (unsigned i = 0; i < reactor_count(); i++)
		CHECK_EQ(handle_open(ram_desc, reactor_get(i), &ram_h[i], NULL), 0);
}

static int ram_body(void *arg, struct err *err)
{
	void (*body)(void);

	(void)err;
	memcpy(&body, &arg, sizeof(body));
	drivers_set(ram_table);
	ram_open();
	if (tap_.failed == 0)
		body();
	desc_close(ram_desc);
	return 0;
}

static void ram_run_on(uint64_t core_mask, void (*body)(void))
{
	struct engine_opts opts = { .reactor.core_mask = core_mask };
	struct err err = {};
	void *arg;

	memcpy(&arg, &body, sizeof(arg));
	for (int op = 0; op < IO_OP_COUNT_; op++)
		ram.submitted[op] = 0;
	ram.was_misaligned = ram.was_oversize = false;
	CHECK_EQ(engine_run(&opts, ram_body, arg, &err), 0);
	CHECK(!ram.was_oversize);
	ram.ops = RAM_FULL;
	ram.buf_align = ram.max_io_nlb = 0;
	ram.is_late = ram.is_rotating = ram.has_cache = ram.is_lending = false;
	ram.status = IO_OK;
}

static void ram_run(void (*body)(void))
{
	ram_run_on(0x3, body);
}

/* ---- requests on either reactor, awaited from the body -------------------------------------- */

struct ram_io {
	struct io io;
	struct handle *h;
	struct msg go, back;
	struct task_event event;
	bool is_done;
	uint64_t from_ns, to_ns; /* on the clock of its reactor, which faults use, too */
};

/* How long the last ram_do_io() took. */
static uint64_t ram_took_ns;

static void ram_io_back(struct msg *msg)
{
	struct ram_io *r = container_of(msg, struct ram_io, back);

	r->is_done = true;
	task_event_fire(&r->event);
}

static void ram_io_done(struct io *io)
{
	struct ram_io *r = container_of(io, struct ram_io, io);

	r->to_ns = reactor_self()->now_ns;
	r->back.fn = ram_io_back;
	reactor_post(reactor_primary(), &r->back);
}

static void ram_io_go(struct msg *msg)
{
	struct ram_io *r = container_of(msg, struct ram_io, go);

	r->from_ns = reactor_self()->now_ns;
	io_submit(r->h, &r->io);
}

static inline void ram_prepare(struct ram_io *r, unsigned core, enum io_op op, uint64_t lba,
			       uint32_t nlb, void *data)
{
	size_t len = (size_t)nlb * RAM_BLOCK;

	*r = (struct ram_io){
		.h = ram_h[core],
		.go.fn = ram_io_go,
		.io = { .op = (uint8_t)op, .lba = lba, .nlb = nlb, .done = ram_io_done },
	};
	io_set_buf(&r->io, data, op == IO_COMPARE_WRITE ? 2 * len : len);
}

static inline void ram_post(struct ram_io *r)
{
	reactor_post(r->h->ch->reactor, &r->go);
}

static inline void ram_start(struct ram_io *r, unsigned core, enum io_op op, uint64_t lba,
			     uint32_t nlb, void *data)
{
	ram_prepare(r, core, op, lba, nlb, data);
	ram_post(r);
}

static inline uint16_t ram_wait(struct ram_io *r) MAY_SUSPEND
{
	task_event_wait(&r->event);
	CHECK(r->io.iov == &r->io.one && r->io.iovcnt == 1 && r->io.depth == 0);
	return r->io.status;
}

static inline uint16_t ram_do_io(unsigned core, enum io_op op, uint64_t lba, uint32_t nlb,
				 void *data) MAY_SUSPEND
{
	struct ram_io r;

	ram_start(&r, core, op, lba, nlb, data);
	(void)ram_wait(&r);
	ram_took_ns = r.to_ns - r.from_ns;
	return r.io.status;
}

#endif
