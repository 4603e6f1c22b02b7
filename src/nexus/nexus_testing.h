/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nexus_testing.h - the one nexus of a test: opened, looked at, troubled. What it is made of, says
 * testing.h or rebuild_testing.h, which include this; tests include one of them.
 *
 * Thread: test bodies run as a task on the primary reactor.
 */
#ifndef ASHLAR_NEXUS_NEXUS_TESTING_H
#define ASHLAR_NEXUS_NEXUS_TESTING_H

#include "device/fault.h"
/* lint: allow includes: only tests include this header */
#include "drivers/testing.h"
#include "nexus/internal.h"

enum {
	NBLOCKS = 16 * 2048, /* of the nexus: 16 MiB */
	BLOCK = 512,
	SEGMENT = 128, /* blocks */
	START = 10240, /* of the nexus' data on a child, in blocks */
};

static struct nexus *nx;
static struct opened o;

/* It was made; here it is opened. */
static inline bool nexus_opened(void)
{
	struct desc_opts how = { .flags = DESC_WRITE };
	struct err err = {};

	o = (struct opened){ .dev = nexus_device(nx) };
	return CHECK_EQ(desc_open(o.dev, &how, &o.desc, &err), 0) &&
	       CHECK_EQ(handle_open(o.desc, reactor_primary(), &o.h, &err), 0);
}

static inline bool nexus_make_of(const struct nexus_opts *opts)
{
	struct nexus_err ne = {};

	if (nexus_create(opts, &nx, &ne) < 0)
		return CHECK_STR(err_text(&ne.err), "a nexus");
	return nexus_opened();
}

/* Devices below may stay. */
static inline void nexus_unmake_kept(void)
{
	struct nexus_err ne = {};

	desc_close(o.desc);
	CHECK_EQ(nexus_destroy(nx, &ne), 0);
}

/* Gone like a process that is killed: nothing is cleaned up. */
static inline void crash(void)
{
	struct nexus_err ne = {};

	nexus_self_shutdown(nx, "the test says so");
	desc_close(o.desc);
	CHECK_EQ(nexus_destroy(nx, &ne), 0);
}

static inline struct nexus_child_info child_info(unsigned i)
{
	struct nexus_child_info info = {};

	CHECK(nexus_child_info(nx, i, &info));
	return info;
}

/* Blocks of a child's device, past the nexus. */
static inline uint16_t child_do(const char *name, enum io_op op, uint64_t lba, uint32_t nlb,
				void *buf)
{
	struct opened c = { .dev = device_lookup(name) };
	struct desc_opts how = { .flags = DESC_WRITE };
	uint16_t result = IO_NO_DEVICE;

	if (!CHECK(c.dev != NULL) || !CHECK_EQ(desc_open(c.dev, &how, &c.desc, NULL), 0))
		return result;
	if (CHECK_EQ(handle_open(c.desc, reactor_primary(), &c.h, NULL), 0))
		result = do_io(&c, op, lba, nlb, buf, 0);
	desc_close(c.desc);
	return result;
}

/* Arm a fault for the test. */
static inline void inject(const char *uri)
{
	struct err err = {};

	if (fault_add(uri, &err) < 0)
		CHECK_STR(err_text(&err), uri);
}

static inline void offline_uri(const char *uri)
{
	struct nexus_err ne = {};

	if (nexus_child_fault(nx, uri, NEXUS_REASON_OFFLINE, &ne) < 0)
		CHECK_STR(err_text(&ne.err), "offline");
}

static inline void online_uri(const char *uri)
{
	struct nexus_err ne = {};

	if (nexus_child_online(nx, uri, &ne) < 0)
		CHECK_STR(err_text(&ne.err), "online");
}

/* Until retirement and closing have ended. */
static inline void settle_down(void)
{
	errand_wait(&nx->retire);
	for (unsigned i = 0; i < nx->nchildren; i++)
		child_wait_closed(nx->child[nx->order[i]]);
}

#endif
