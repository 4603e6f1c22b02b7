/* SPDX-License-Identifier: Apache-2.0 */
/*
 * testing.h - what the tests of the nexus share: a store that the test owns, a nexus of memory
 * devices that go with it, or that stay, requests and calls that are not awaited. Included by tests
 * only.
 *
 * Thread: test bodies run as a task on the primary reactor.
 */
#ifndef ASHLAR_NEXUS_TESTING_H
#define ASHLAR_NEXUS_TESTING_H

#include "base/units.h"
#include "nexus/nexus_testing.h"

enum {
	CHILD_MB = 32,
	META = 2048, /* of the write-intent records on a child, in blocks */
	META_NLB = 2 * INTENT_PAGES * (INTENT_PAGE_SIZE / BLOCK),
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

static inline bool nexus_make(unsigned nchildren)
{
	struct nexus_opts opts = { .name = "n0",
				   .size = 16 * 1024 * 1024,
				   .children = uris,
				   .nchildren = nchildren,
				   .is_size_required = true };

	fake_start();
	return nexus_make_of(&opts);
}

static inline void nexus_unmake(void)
{
	nexus_unmake_kept();
	CHECK(device_next(NULL) == NULL);
	nexus_settings_set(&(struct nexus_settings){});
}

static inline enum nexus_status status(void)
{
	struct nexus_info info;

	nexus_info(nx, &info);
	return info.status;
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

/* ---- children that outlive it, as disks do --------------------------------------------------- */

static const char *const bases[] = {
	"malloc:///m0?size_mb=32&uuid=" UUID_0,
	"malloc:///m1?size_mb=32&uuid=" UUID_1,
	"malloc:///m2?size_mb=32&uuid=" UUID_2,
};
static const char *const kept[] = {
	"bdev:///m0?uuid=" UUID_0,
	"bdev:///m1?uuid=" UUID_1,
	"bdev:///m2?uuid=" UUID_2,
};

/* What rebuilds are given, by slot; nothing is copied. */
static struct {
	bool is_known;
	uint32_t nsegments;
	unsigned nstarts;
} given[NEXUS_CHILDREN_MAX];

static inline int note_start(struct child *child, struct nexus_err *ne)
{
	struct err err = {};

	(void)ne;
	given[child->slot].is_known = child->is_missed_known;
	given[child->slot].nsegments = segmap_count(&child->missed);
	given[child->slot].nstarts++;
	return nexus_child_attach(child, &err);
}

static inline void note_leave(struct child *child)
{
	(void)child;
}

static const struct nexus_rebuilder note_rebuilder = { .start = note_start, .leave = note_leave };

/* As where others are rebuilt first: its turn comes later. */
static inline int wait_start(struct child *child, struct nexus_err *ne)
{
	(void)child;
	(void)ne;
	return 0;
}

static const struct nexus_rebuilder wait_rebuilder = { .start = wait_start, .leave = note_leave };

/* With a volatile cache; a write to one of them is not there for good before a flush. */
static inline void bases_make(bool has_cache)
{
	struct device *dev;

	for (size_t i = 0; i < ARRAY_LEN(bases); i++) {
		CHECK_EQ(device_create(bases[i], &dev, NULL), 0);
		dev->has_write_cache = has_cache;
	}
	fake_start();
	memset(given, 0, sizeof(given));
}

static inline void bases_unmake(void)
{
	fault_remove_all();
	device_remove_all();
	nexus_set_rebuilder(&rebuild_jobs);
	nexus_settings_set(&(struct nexus_settings){});
}

/* Made of @children, or made again. The caller sees to what went wrong. */
static inline int kept_create(const char *const *children, unsigned nchildren, struct nexus_err *ne)
{
	struct nexus_opts opts = { .name = "n0",
				   .size = 16 << 20,
				   .children = children,
				   .nchildren = nchildren,
				   .info_key = "volume" };

	CHECK_EQ(uuid_from_text(UUID_3, &opts.uuid, NULL), 0);
	return nexus_create(&opts, &nx, ne);
}

static inline bool remake_of(const char *const *children, unsigned nchildren)
{
	struct nexus_err ne = {};

	if (kept_create(children, nchildren, &ne) < 0)
		return CHECK_STR(err_text(&ne.err), "a nexus");
	return nexus_opened();
}

static inline bool remake(unsigned nchildren)
{
	return remake_of(kept, nchildren);
}

/* How often a device was flushed. */
static inline uint64_t flushes(const char *name)
{
	struct io_stats stats;

	device_stats(device_lookup(name), &stats);
	return stats.op[IO_FLUSH].ops;
}

static inline void offline(unsigned i)
{
	offline_uri(kept[i]);
}

static inline void online(unsigned i)
{
	online_uri(kept[i]);
}

/* ---- trouble --------------------------------------------------------------------------------- */

/*
 * Requests to these blocks of a child's device wait at its gate, until they are let go. Flushes are
 * about the whole device: device_quiesce() holds them.
 */
struct hold {
	struct device *dev;
	struct range_lock lock;
};

static inline void hold_begin(struct hold *hold, const char *name, uint64_t lba, uint64_t nlb)
{
	hold->dev = device_lookup(name);
	if (!CHECK(hold->dev != NULL))
		return;
	device_pin(hold->dev);
	CHECK_EQ(range_lock(hold->dev, &hold->lock, lba, nlb, NULL), 0);
}

static inline void hold_end(struct hold *hold)
{
	range_unlock(hold->dev, &hold->lock);
	device_unpin(hold->dev); /* its child may be closed now */
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

/* A task: the opening ends with the request. */
static inline void close_when_done(void *arg)
{
	struct late_io *late = arg;

	task_event_wait(&late->event);
	desc_close(take(o.desc));
}

/* Writes to one block in each of the first @n segments from @first on. */
static inline void touch(uint32_t first, uint32_t n)
{
	static uint8_t buf[BLOCK];

	for (uint32_t seg = first; seg < first + n; seg++)
		CHECK_EQ(do_io(&o, IO_WRITE, (uint64_t)seg * SEGMENT, 1, buf, 0), IO_OK);
}

/* A call that is not awaited, in a task of its own. */
struct late_call {
	int (*fn)(void) MAY_SUSPEND;
	int result;
	bool is_done;
	struct task_event event;
};

static inline void late_call_task(void *arg)
{
	struct late_call *late = arg;

	late->result = late->fn();
	late->is_done = true;
	task_event_fire(&late->event);
}

static inline void call_start(struct late_call *late, int (*fn)(void))
{
	*late = (struct late_call){ .fn = fn };
	CHECK_EQ(task_spawn("late call", late_call_task, late), 0);
}

static inline int call_wait(struct late_call *late)
{
	task_event_wait(&late->event);
	return late->result;
}

static inline int shut_down(void)
{
	struct nexus_err ne = {};

	return nexus_shutdown(nx, &ne);
}

static inline int destroy(void)
{
	struct nexus_err ne = {};

	return nexus_destroy(nx, &ne);
}

static inline void turns(unsigned n)
{
	while (n-- > 0)
		task_yield();
}

/*
 * The next look at which marks can be cleared, now and not when it is time. The timer for it is the
 * one that is due first: INTENT_IDLE is less than what anything else here waits for.
 */
#define INTENT_IDLE (500 * NS_PER_MS)

static inline void tick_begin(void)
{
	struct reactor *r = reactor_primary();

	if (CHECK(r->timers.root != NULL))
		timer_arm(r, r->timers.root, 0);
	turns(2); /* it is due, and has rung */
}

static inline void tick(void)
{
	tick_begin();
	errand_wait(&nx->mark);
}

#define REFUSED(call, error)                                                   \
	do {                                                                   \
		struct nexus_err ne_ = {};                                     \
		CHECK((call) < 0);                                             \
		CHECK_STR(nexus_error_name(ne_.why), nexus_error_name(error)); \
	} while (0)

#endif
