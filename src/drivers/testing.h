/* SPDX-License-Identifier: Apache-2.0 */
/*
 * testing.h - what the unit tests of drivers share: an engine around a test, a device opened for
 * I/O, one request at a time. Included by tests only, after base/tap.h.
 *
 * Thread: test bodies run as a task on the primary reactor.
 */
#ifndef ASHLAR_DRIVERS_TESTING_H
#define ASHLAR_DRIVERS_TESTING_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/tap.h"
#include "device/driver.h"
#include "drivers/drivers.h"
#include "engine.h" /* lint: allow includes: only tests include this header */

/* TEST that runs inside an engine with one reactor. */
#define ENGINE_TEST(id)                                  \
	static void body_##id(void);                     \
	static int task_##id(void *arg, struct err *err) \
	{                                                \
		(void)arg;                               \
		(void)err;                               \
		body_##id();                             \
		return 0;                                \
	}                                                \
	TEST(id)                                         \
	{                                                \
		in_engine(task_##id);                    \
	}                                                \
	static void body_##id(void)

static inline void in_engine(int (*fn)(void *arg, struct err *err))
{
	struct engine_opts opts = {};
	struct err err = {};

	if (engine_run(&opts, fn, NULL, &err) < 0)
		CHECK_STR(err_text(&err), "an engine that runs");
}

/* A row of a table of URIs. */
struct uri_case {
	const char *uri;
	int result;       /* of device_create() */
	const char *says; /* part of the error's text; NULL: not looked at */
	uint64_t nblocks; /* when it succeeds */
	uint32_t block_size;
};

static inline void check_uris(const struct uri_case *rows, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct device *dev = NULL;
		struct err err = {};

		TAP_ROW(rows[i].uri);
		if (!CHECK_EQ(device_create(rows[i].uri, &dev, &err), rows[i].result)) {
			printf("# %s\n", err_text(&err));
			continue;
		}
		if (rows[i].says != NULL)
			CHECK_HAS(err_text(&err), rows[i].says);
		if (rows[i].result == 0) {
			CHECK_EQ(dev->nblocks, rows[i].nblocks);
			CHECK_EQ(dev->block_size, rows[i].block_size);
			CHECK_EQ(device_destroy(rows[i].uri, &err), 0);
		}
		CHECK(device_next(NULL) == NULL); /* nothing is left behind */
	}
	TAP_ROW(NULL);
}

/* A device with one opening, and a request to use it with. */
struct opened {
	struct device *dev;
	struct desc *desc;
	struct handle *h;
	struct io io;
};

static inline bool opened_open(struct opened *o, const char *uri, unsigned flags)
{
	struct desc_opts opts = { .flags = flags };
	struct err err = {};

	*o = (struct opened){};
	if (device_create(uri, &o->dev, &err) < 0 || desc_open(o->dev, &opts, &o->desc, &err) < 0 ||
	    handle_open(o->desc, reactor_primary(), &o->h, &err) < 0)
		return CHECK_STR(err_text(&err), uri);
	return true;
}

static inline void opened_close(struct opened *o)
{
	struct err err = {};

	desc_close(o->desc);
	CHECK_EQ(device_remove(o->dev, &err), 0);
}

/* One request with one buffer; its status. */
static inline uint16_t do_io(struct opened *o, enum io_op op, uint64_t lba, uint32_t nlb, void *buf,
			     unsigned flags)
{
	size_t len = (size_t)nlb * o->dev->block_size;

	o->io.op = (uint8_t)op;
	o->io.flags = (uint16_t)flags;
	o->io.lba = lba;
	o->io.nlb = nlb;
	io_set_buf(&o->io, buf, op == IO_COMPARE_WRITE ? 2 * len : len);
	if (!(IO_BIT(op) & IO_OPS_WITH_DATA))
		o->io.iovcnt = 0;
	return io_wait(o->h, &o->io);
}

static inline uint64_t do_seek(struct opened *o, enum io_op op, uint64_t lba)
{
	CHECK_EQ(do_io(o, op, lba, 0, NULL, 0), IO_OK);
	return o->io.result;
}

#endif
