/* SPDX-License-Identifier: Apache-2.0 */
/*
 * testing.h - what the tests of the nexus share: a store that the test owns, a nexus of memory
 * devices, requests that are not awaited. Included by tests only.
 *
 * Thread: test bodies run as a task on the primary reactor.
 */
#ifndef ASHLAR_NEXUS_TESTING_H
#define ASHLAR_NEXUS_TESTING_H

#include "device/fault.h"
/* lint: allow includes: only tests include this header */
#include "drivers/testing.h"
#include "nexus/internal.h"

enum {
	CHILD_MB = 32,
	NBLOCKS = 16 * 2048, /* of the nexus: 16 MiB */
	BLOCK = 512,
};

/* ---- a store that the test owns ------------------------------------------------------------- */

static struct {
	struct nexus_store store;
	char text[RECORD_TEXT_MAX];
	unsigned nputs, nfailed;
	unsigned fail_next; /* puts */
	unsigned fail_gets;
	bool is_hanging;
	struct task_event *let_go;
} fake;

static inline int fake_put(struct nexus_store *store, const char *key, const char *text,
			   struct err *err)
{
	struct task_event event = {};

	(void)store;
	(void)key;
	if (fake.is_hanging) {
		fake.let_go = &event;
		task_event_wait(&event);
	}
	if (fake.fail_next > 0) {
		fake.fail_next--;
		fake.nfailed++;
		return err_set(err, -EIO, "store is away");
	}
	CHECK_HAS(text, "\"healthy\": true"); /* never nobody */
	(void)snprintf(fake.text, sizeof(fake.text), "%s", text);
	fake.nputs++;
	return 0;
}

static inline int fake_get(struct nexus_store *store, const char *key, char text[RECORD_TEXT_MAX],
			   struct err *err)
{
	struct task_event event = {};

	(void)store;
	if (fake.is_hanging) {
		fake.let_go = &event;
		task_event_wait(&event);
	}
	if (fake.fail_gets > 0) {
		fake.fail_gets--;
		return err_set(err, -EIO, "store is away");
	}
	if (fake.text[0] == '\0')
		return err_set(err, -ENOENT, "no record of %s", key);
	memcpy(text, fake.text, RECORD_TEXT_MAX);
	return 0;
}

static inline void fake_start(void)
{
	fake = (typeof(fake)){
		.store = { .name = "fake", .put = fake_put, .get = fake_get },
	};
	nexus_settings_set(&(struct nexus_settings){ .store = &fake.store,
						     .store_tries = 3,
						     .store_pause_ns = 1000000,
						     .store_timeout_ns = 20000000 });
}

/* What the record says of child @i: -1 not there. */
static inline int recorded(unsigned i)
{
	struct nexus_record record;

	if (record_parse(fake.text, strlen(fake.text), &record, NULL) < 0 || i >= record.nchildren)
		return -1;
	return record.child[i].is_healthy;
}

static inline bool recorded_clean(void)
{
	struct nexus_record record;

	return record_parse(fake.text, strlen(fake.text), &record, NULL) == 0 && record.is_clean;
}

/* ---- a nexus of malloc devices -------------------------------------------------------------- */

#define UUID_0 "00000000-0000-4000-8000-000000000000"
#define UUID_1 "00000000-0000-4000-8000-000000000001"
#define UUID_2 "00000000-0000-4000-8000-000000000002"
#define UUID_3 "00000000-0000-4000-8000-000000000003"

static const char *const uris[] = {
	"malloc:///c0?size_mb=32&uuid=" UUID_0,
	"malloc:///c1?size_mb=32&uuid=" UUID_1,
	"malloc:///c2?size_mb=32&uuid=" UUID_2,
	"malloc:///c3?size_mb=32&uuid=" UUID_3,
};

static struct nexus *nx;
static struct opened o;

static inline bool nexus_make(unsigned nchildren)
{
	struct nexus_opts opts = { .name = "n0",
				   .size = 16 * 1024 * 1024,
				   .children = uris,
				   .nchildren = nchildren,
				   .is_size_required = true };
	struct desc_opts how = { .flags = DESC_WRITE };
	struct nexus_err ne = {};

	fake_start();
	if (nexus_create(&opts, &nx, &ne) < 0)
		return CHECK_STR(err_text(&ne.err), "a nexus");
	o = (struct opened){ .dev = nexus_device(nx) };
	return CHECK_EQ(desc_open(o.dev, &how, &o.desc, &ne.err), 0) &&
	       CHECK_EQ(handle_open(o.desc, reactor_primary(), &o.h, &ne.err), 0);
}

static inline void nexus_unmake(void)
{
	struct nexus_err ne = {};

	desc_close(o.desc);
	CHECK_EQ(nexus_destroy(nx, &ne), 0);
	CHECK(device_next(NULL) == NULL);
	nexus_settings_set(&(struct nexus_settings){});
}

/* The same where devices below stay. */
static inline void nexus_unmake_kept(void)
{
	struct nexus_err ne = {};

	desc_close(o.desc);
	CHECK_EQ(nexus_destroy(nx, &ne), 0);
}

static inline struct nexus_child_info child_info(unsigned i)
{
	struct nexus_child_info info = {};

	CHECK(nexus_child_info(nx, i, &info));
	return info;
}

static inline enum nexus_status status(void)
{
	struct nexus_info info;

	nexus_info(nx, &info);
	return info.status;
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

static inline void fill(uint8_t *buf, size_t len, unsigned seed)
{
	struct rng rng;

	rng_init(&rng, seed);
	rng_fill(&rng, buf, len);
}

/* Is the whole nexus the same on the children that are named? */
static inline void check_equal(const char *a, const char *b)
{
	static uint8_t x[1 << 20], y[1 << 20];

	for (uint64_t lba = 0; lba < NBLOCKS; lba += 2048) {
		CHECK_EQ(child_do(a, IO_READ, lba + 10240, 2048, x), IO_OK);
		CHECK_EQ(child_do(b, IO_READ, lba + 10240, 2048, y), IO_OK);
		if (!CHECK_MEM(x, y, sizeof(x)))
			return;
	}
}

/* Arm a fault for the test. */
static inline void inject(const char *uri)
{
	struct err err = {};

	if (fault_add(uri, &err) < 0)
		CHECK_STR(err_text(&err), uri);
}

/* Until retirement and closing have ended. */
static inline void settle_down(void)
{
	errand_wait(&nx->retire);
	for (unsigned i = 0; i < nx->nchildren; i++)
		child_wait_closed(nx->child[nx->order[i]]);
}

/* ---- requests that are not awaited ----------------------------------------------------------- */

struct late_io {
	struct io io;
	struct task_event event;
	bool is_done;
};

static inline void late_done(struct io *io)
{
	struct late_io *late = container_of(io, struct late_io, io);

	late->is_done = true;
	task_event_fire(&late->event);
}

static inline void late_start(struct late_io *late, enum io_op op, uint64_t lba, uint32_t nlb,
			      void *buf)
{
	*late = (struct late_io){
		.io = { .op = (uint8_t)op, .lba = lba, .nlb = nlb, .done = late_done }
	};
	io_set_buf(&late->io, buf, (size_t)nlb * BLOCK);
	io_submit(o.h, &late->io);
}

static inline void turns(unsigned n)
{
	while (n-- > 0)
		task_yield();
}

#define REFUSED(call, error)                                                   \
	do {                                                                   \
		struct nexus_err ne_ = {};                                     \
		CHECK((call) < 0);                                             \
		CHECK_STR(nexus_error_name(ne_.why), nexus_error_name(error)); \
	} while (0)

#endif
