/* SPDX-License-Identifier: Apache-2.0 */
/* A nexus over real devices: data, failing children, the record, operations on children. */
#include "nexus/nexus.h"

#include "device/fault.h"
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
	bool is_hanging;
	struct task_event *let_go;
} fake;

static int fake_put(struct nexus_store *store, const char *key, const char *text, struct err *err)
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
	(void)snprintf(fake.text, sizeof(fake.text), "%s", text);
	fake.nputs++;
	return 0;
}

static int fake_get(struct nexus_store *store, const char *key, char text[RECORD_TEXT_MAX],
		    struct err *err)
{
	(void)store;
	if (fake.text[0] == '\0')
		return err_set(err, -ENOENT, "no record of %s", key);
	memcpy(text, fake.text, RECORD_TEXT_MAX);
	return 0;
}

static void fake_start(void)
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
static int recorded(unsigned i)
{
	struct nexus_record record;

	if (record_parse(fake.text, strlen(fake.text), &record, NULL) < 0 || i >= record.nchildren)
		return -1;
	return record.child[i].is_healthy;
}

static bool recorded_clean(void)
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

static bool nexus_make(unsigned nchildren)
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

static void nexus_unmake(void)
{
	struct nexus_err ne = {};

	desc_close(o.desc);
	CHECK_EQ(nexus_destroy(nx, &ne), 0);
	CHECK(device_next(NULL) == NULL);
	nexus_settings_set(&(struct nexus_settings){});
}

/* The same where devices below stay. */
static void nexus_unmake_kept(void)
{
	struct nexus_err ne = {};

	desc_close(o.desc);
	CHECK_EQ(nexus_destroy(nx, &ne), 0);
}

static struct nexus_child_info child_info(unsigned i)
{
	struct nexus_child_info info = {};

	CHECK(nexus_child_info(nx, i, &info));
	return info;
}

static enum nexus_status status(void)
{
	struct nexus_info info;

	nexus_info(nx, &info);
	return info.status;
}

/* Blocks of a child's device, past the nexus. */
static uint16_t child_do(const char *name, enum io_op op, uint64_t lba, uint32_t nlb, void *buf)
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

static void fill(uint8_t *buf, size_t len, unsigned seed)
{
	struct rng rng;

	rng_init(&rng, seed);
	rng_fill(&rng, buf, len);
}

/* Is the whole nexus the same on the children that are named? */
static void check_equal(const char *a, const char *b)
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
static void inject(const char *uri)
{
	struct err err = {};

	if (fault_add(uri, &err) < 0)
		CHECK_STR(err_text(&err), uri);
}

/* Until retirement and closing have ended. */
static void settle_down(void)
{
	errand_wait(&nx->retire);
	for (unsigned i = 0; i < nx->nchildren; i++)
		child_wait_closed(nx->child[nx->order[i]]);
}

/* ---- data ----------------------------------------------------------------------------------- */

ENGINE_TEST(writes_reach_all_children)
{
	static uint8_t buf[8 * BLOCK], back[8 * BLOCK];

	if (!nexus_make(3))
		return;
	CHECK_EQ(o.dev->nblocks, NBLOCKS);
	fill(buf, sizeof(buf), 1);
	CHECK_EQ(do_io(&o, IO_WRITE, 100, 8, buf, 0), IO_OK);
	for (unsigned i = 0; i < 3; i++) {
		char name[] = { 'c', (char)('0' + i), 0 };

		memset(back, 0, sizeof(back));
		CHECK_EQ(child_do(name, IO_READ, 10240 + 100, 8, back), IO_OK);
		CHECK_MEM(back, buf, sizeof(buf));
		memset(back, 0, sizeof(back));
		CHECK_EQ(do_io(&o, IO_READ, 100, 8, back, 0), IO_OK);
		CHECK_MEM(back, buf, sizeof(buf));
	}
	CHECK_EQ(do_io(&o, IO_WRITE, NBLOCKS - 8, 8, buf, IO_FUA), IO_OK);
	CHECK_EQ(do_io(&o, IO_WRITE, NBLOCKS - 7, 8, buf, 0), IO_OUT_OF_RANGE);
	CHECK_EQ(do_io(&o, IO_FLUSH, 0, 0, NULL, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_RESET, 0, 0, NULL, 0), IO_OK);
	CHECK_EQ(status(), NEXUS_ONLINE);
	nexus_unmake();
}

ENGINE_TEST(zeroes_and_unmap_reach_all_children)
{
	static uint8_t buf[8 * BLOCK], zero[8 * BLOCK], back[8 * BLOCK];
	static const enum io_op ops[] = { IO_WRITE_ZEROES, IO_UNMAP };

	if (!nexus_make(2))
		return;
	fill(buf, sizeof(buf), 2);
	for (unsigned i = 0; i < 2; i++) {
		CHECK_EQ(do_io(&o, IO_WRITE, 64, 8, buf, 0), IO_OK);
		CHECK_EQ(do_io(&o, ops[i], 64, 8, NULL, 0), IO_OK);
		CHECK_EQ(child_do("c0", IO_READ, 10240 + 64, 8, back), IO_OK);
		CHECK_MEM(back, zero, sizeof(zero));
		CHECK_EQ(child_do("c1", IO_READ, 10240 + 64, 8, back), IO_OK);
		CHECK_MEM(back, zero, sizeof(zero));
	}
	/* larger than a span: it takes the whole table */
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 8, buf, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_WRITE_ZEROES, 0, NBLOCKS, NULL, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_READ, 0, 8, back, 0), IO_OK);
	CHECK_MEM(back, zero, sizeof(zero));
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 8, buf, 0), IO_OK);
	check_equal("c0", "c1");
	nexus_unmake();
}

ENGINE_TEST(holes_are_seen_through_the_offset)
{
	static uint8_t buf[8 * BLOCK];

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_seek(&o, IO_SEEK_DATA, 0), NBLOCKS);
	CHECK_EQ(do_io(&o, IO_WRITE, 4096, 8, buf, 0), IO_OK);
	CHECK_EQ(do_seek(&o, IO_SEEK_DATA, 0), 4096);
	CHECK_EQ(do_seek(&o, IO_SEEK_HOLE, 4096), 4104);
	nexus_unmake();
}

ENGINE_TEST(compare_and_write_is_made_for_all_legs)
{
	static uint8_t buf[2 * BLOCK], back[BLOCK];

	if (!nexus_make(2))
		return;
	fill(buf + BLOCK, BLOCK, 3);
	CHECK_EQ(do_io(&o, IO_COMPARE_WRITE, 7, 1, buf, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_COMPARE_WRITE, 7, 1, buf, 0), IO_MISCOMPARE);
	CHECK_EQ(child_do("c1", IO_READ, 10240 + 7, 1, back), IO_OK);
	CHECK_MEM(back, buf + BLOCK, BLOCK);
	check_equal("c0", "c1");
	CHECK_EQ(status(), NEXUS_ONLINE);
	nexus_unmake();
}

/* ---- failing children ----------------------------------------------------------------------- */

ENGINE_TEST(a_failing_leg_is_retired_and_the_host_sees_nothing)
{
	static const struct {
		const char *fault;
		enum io_op op;
		enum nexus_reason reason;
	} rows[] = {
		{ "inject://c1?op=write&stage=completion", IO_WRITE, NEXUS_REASON_IO_ERROR },
		{ "inject://c1?op=write&stage=submit", IO_WRITE, NEXUS_REASON_IO_ERROR },
		{ "inject://c1?op=write&method=status-lvol-nospace&stage=completion", IO_WRITE,
		  NEXUS_REASON_NO_SPACE },
		{ "inject://c1?op=write&method=status-nvme-3-60&stage=completion", IO_WRITE,
		  NEXUS_REASON_IO_ERROR },
		{ "inject://c1?domain=child&op=write&offset=100&num_blk=1&stage=completion",
		  IO_WRITE, NEXUS_REASON_IO_ERROR },
		{ "inject://c1?domain=child&op=write&offset=100&num_blk=1", IO_WRITE,
		  NEXUS_REASON_IO_ERROR },
		{ "inject://c1?op=all&stage=completion", IO_WRITE_ZEROES, NEXUS_REASON_IO_ERROR },
		{ "inject://c1?op=all&stage=completion", IO_UNMAP, NEXUS_REASON_IO_ERROR },
		{ "inject://c1?op=all&stage=completion", IO_FLUSH, NEXUS_REASON_IO_ERROR },
	};
	static uint8_t buf[8 * BLOCK], back[8 * BLOCK];

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		bool has_range = rows[i].op != IO_FLUSH;

		TAP_ROW(rows[i].fault);
		if (!nexus_make(2))
			return;
		CHECK_EQ(do_io(&o, IO_WRITE, 96, 8, buf, 0), IO_OK); /* the segment is marked */
		inject(rows[i].fault);
		fill(buf, sizeof(buf), (unsigned)i);
		CHECK_EQ(do_io(&o, rows[i].op, has_range ? 96 : 0, has_range ? 8 : 0, buf, 0),
			 IO_OK);
		CHECK_EQ(recorded(0), 1);
		CHECK_EQ(recorded(1), 0); /* when it was acknowledged, not later */
		settle_down();
		CHECK_EQ(status(), NEXUS_DEGRADED);
		CHECK_EQ(child_info(1).state, CHILD_FAULTED);
		CHECK_EQ(child_info(1).reason, rows[i].reason);
		CHECK(child_info(1).has_io_log);
		CHECK_EQ(child_info(1).missed_segments, has_range);
		CHECK(device_lookup("c1") == NULL);
		CHECK_EQ(do_io(&o, IO_WRITE, 4096, 8, buf, 0), IO_OK);
		CHECK_EQ(child_info(1).missed_segments, has_range + 1u);
		CHECK_EQ(do_io(&o, IO_READ, 4096, 8, back, 0), IO_OK);
		CHECK_MEM(back, buf, sizeof(buf));
		CHECK_EQ(fault_remove(rows[i].fault, NULL), 0);
		nexus_unmake();
		CHECK(recorded_clean());
	}
}

ENGINE_TEST(a_read_is_answered_by_another_child)
{
	static uint8_t buf[8 * BLOCK], back[8 * BLOCK];

	if (!nexus_make(2))
		return;
	fill(buf, sizeof(buf), 5);
	CHECK_EQ(do_io(&o, IO_WRITE, 100, 8, buf, 0), IO_OK);
	inject("inject://c1?op=read&stage=completion");
	for (unsigned i = 0; i < 2; i++) {
		memset(back, 0, sizeof(back));
		CHECK_EQ(do_io(&o, IO_READ, 100, 8, back, 0), IO_OK);
		CHECK_MEM(back, buf, sizeof(buf));
	}
	settle_down();
	CHECK_EQ(child_info(1).state, CHILD_FAULTED);
	CHECK_EQ(recorded(1), 0);
	CHECK_EQ(fault_remove("inject://c1?op=read&stage=completion", NULL), 0);
	nexus_unmake();
}

/* Unrecovered read error: media, 0x81. */
ENGINE_TEST(a_medium_error_is_repaired_and_the_child_stays)
{
	static uint8_t buf[8 * BLOCK], back[8 * BLOCK];
	const char *fault = "inject://c1?op=read&stage=completion&method=status-nvme-2-81"
			    "&offset=10340&num_blk=8&retries=1";
	struct nexus_info info;

	if (!nexus_make(2))
		return;
	fill(buf, sizeof(buf), 6);
	CHECK_EQ(do_io(&o, IO_WRITE, 100, 8, buf, 0), IO_OK);
	memset(back, 0, sizeof(back));
	CHECK_EQ(child_do("c1", IO_WRITE, 10340, 8, back),
		 IO_OK); /* what repair has to put right */
	inject(fault);
	for (unsigned i = 0; i < 2; i++) {
		CHECK_EQ(do_io(&o, IO_READ, 100, 8, back, 0), IO_OK);
		CHECK_MEM(back, buf, sizeof(buf));
		errand_wait(&nx->mend);
	}
	nexus_info(nx, &info);
	CHECK_EQ(info.repairs, 1);
	CHECK_EQ(info.status, NEXUS_ONLINE);
	CHECK_EQ(child_do("c1", IO_READ, 10340, 8, back), IO_OK);
	CHECK_MEM(back, buf, sizeof(buf));
	CHECK_EQ(fault_remove(fault, NULL), 0);
	nexus_unmake();
}

struct late_io {
	struct io io;
	struct task_event event;
	bool is_done;
};

static void late_done(struct io *io)
{
	struct late_io *late = container_of(io, struct late_io, io);

	late->is_done = true;
	task_event_fire(&late->event);
}

static void late_start(struct late_io *late, enum io_op op, uint64_t lba, uint32_t nlb, void *buf)
{
	*late = (struct late_io){
		.io = { .op = (uint8_t)op, .lba = lba, .nlb = nlb, .done = late_done }
	};
	io_set_buf(&late->io, buf, (size_t)nlb * BLOCK);
	io_submit(o.h, &late->io);
}

static void turns(unsigned n)
{
	while (n-- > 0)
		task_yield();
}

ENGINE_TEST(without_a_healthy_child_io_is_held_until_the_end)
{
	static uint8_t buf[BLOCK];
	struct late_io write, read, flush;
	struct nexus_err ne = {};
	struct nexus_info info;

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	inject("inject://c0?op=write&stage=completion");
	inject("inject://c1?op=write&stage=completion");
	late_start(&write, IO_WRITE, 0, 1, buf);
	while (status() != NEXUS_FAULTED)
		task_yield();
	settle_down();
	late_start(&read, IO_READ, 0, 1, buf);
	late_start(&flush, IO_FLUSH, 0, 0, NULL);
	turns(100);
	CHECK(!write.is_done);
	CHECK(!read.is_done);
	CHECK(!flush.is_done);
	nexus_info(nx, &info);
	CHECK_EQ(info.status, NEXUS_FAULTED);
	CHECK(info.is_frozen);
	CHECK_EQ(recorded(0) + recorded(1), 1); /* never nobody */
	CHECK(nexus_child_add(nx, uris[2], true, &ne) < 0);
	CHECK_EQ(ne.why, NEXUS_E_NOT_ALLOWED);
	ne = (struct nexus_err){};
	CHECK(nexus_child_online(nx, uris[0], &ne) < 0);
	CHECK_EQ(ne.why, NEXUS_E_NOT_ALLOWED);
	ne = (struct nexus_err){};
	CHECK_EQ(nexus_shutdown(nx, &ne), 0);
	task_event_wait(&write.event);
	task_event_wait(&read.event);
	task_event_wait(&flush.event);
	CHECK(write.io.status != IO_OK);
	CHECK(read.io.status != IO_OK);
	CHECK(flush.io.status != IO_OK);
	fault_remove_all();
	nexus_unmake();
}

/* The openers close only when their I/O has ended, and it ends only because the nexus goes. */
static void close_when_done(void *arg)
{
	struct late_io *late = arg;

	task_event_wait(&late->event);
	desc_close(take(o.desc));
}

ENGINE_TEST(a_frozen_nexus_can_be_destroyed_under_its_openers)
{
	static uint8_t buf[BLOCK];
	struct late_io write;
	struct nexus_err ne = {};

	if (!nexus_make(1))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	inject("inject://c0?op=write&stage=completion");
	late_start(&write, IO_WRITE, 0, 1, buf);
	while (status() != NEXUS_FAULTED)
		task_yield();
	settle_down();
	CHECK(!write.is_done);
	CHECK_EQ(recorded(0), 1);
	CHECK_EQ(task_spawn("closer", close_when_done, &write), 0);
	CHECK_EQ(nexus_destroy(nx, &ne), 0);
	CHECK(write.io.status != IO_OK);
	CHECK(device_next(NULL) == NULL);
	fault_remove_all();
}

/* ---- children by hand ----------------------------------------------------------------------- */

#define REFUSED(call, error)                                                   \
	do {                                                                   \
		struct nexus_err ne_ = {};                                     \
		CHECK((call) < 0);                                             \
		CHECK_STR(nexus_error_name(ne_.why), nexus_error_name(error)); \
	} while (0)

ENGINE_TEST(rules_of_removing_and_faulting)
{
	struct nexus_err ne = {};

	if (!nexus_make(3))
		return;
	REFUSED(nexus_child_remove(nx, "malloc:///x?size_mb=32", &ne_), NEXUS_E_CHILD_NOT_FOUND);
	CHECK_EQ(nexus_child_fault(nx, uris[0], NEXUS_REASON_OFFLINE, &ne), 0);
	CHECK_EQ(child_info(0).health, CHILD_HEALTH_DEGRADED);
	CHECK_EQ(recorded(0), 0);
	CHECK_EQ(nexus_child_remove(nx, uris[1], &ne), 0);
	CHECK_EQ(recorded(2), -1); /* two are left in it */
	REFUSED(nexus_child_remove(nx, uris[2], &ne_), NEXUS_E_REMOVE_LAST_HEALTHY);
	REFUSED(nexus_child_fault(nx, uris[2], NEXUS_REASON_OFFLINE, &ne_),
		NEXUS_E_REMOVE_LAST_HEALTHY);
	REFUSED(nexus_child_fault(nx, uris[2], NEXUS_REASON_IO_ERROR, &ne_),
		NEXUS_E_REMOVE_LAST_HEALTHY);
	CHECK_EQ(nexus_child_remove(nx, uris[0], &ne), 0);
	REFUSED(nexus_child_remove(nx, uris[2], &ne_), NEXUS_E_REMOVE_LAST_CHILD);
	CHECK_EQ(status(), NEXUS_ONLINE);
	CHECK_EQ(recorded(0), 1);
	CHECK(device_lookup("c0") == NULL && device_lookup("c1") == NULL);
	nexus_unmake();
}

ENGINE_TEST(who_may_come_back)
{
	static const struct {
		enum nexus_reason reason;
		bool may;
	} rows[] = {
		{ NEXUS_REASON_OFFLINE, true },        { NEXUS_REASON_IO_ERROR, true },
		{ NEXUS_REASON_NO_SPACE, true },       { NEXUS_REASON_TIMED_OUT, true },
		{ NEXUS_REASON_ADMIN_FAILED, true },   { NEXUS_REASON_OFFLINE_PERMANENT, false },
		{ NEXUS_REASON_CANT_OPEN, false },     { NEXUS_REASON_UNKNOWN, false },
		{ NEXUS_REASON_REBUILD_FAILED, true },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct nexus_err ne = {};

		TAP_ROW(nexus_reason_name(rows[i].reason));
		if (!nexus_make(2))
			return;
		CHECK_EQ(nexus_child_online(nx, uris[1], &ne), 0); /* it is */
		CHECK_EQ(nexus_child_fault(nx, uris[1], rows[i].reason, &ne), 0);
		if (rows[i].may) {
			CHECK_EQ(nexus_child_online(nx, uris[1], &ne), 0);
			CHECK_EQ(child_info(1).state, CHILD_OPEN);
			CHECK(!child_info(1).is_synced);
			CHECK_EQ(recorded(1), 0);
		} else {
			REFUSED(nexus_child_online(nx, uris[1], &ne_), NEXUS_E_NOT_ALLOWED);
		}
		nexus_unmake();
	}
}

ENGINE_TEST(a_child_that_is_added_gets_writes_and_no_reads)
{
	static uint8_t buf[8 * BLOCK], back[8 * BLOCK];
	struct nexus_err ne = {};
	struct err err = {};

	if (!nexus_make(2))
		return;
	REFUSED(nexus_child_add(nx, uris[1], false, &ne_), NEXUS_E_CHILD_EXISTS);
	REFUSED(nexus_child_add(nx, "malloc:///s?size_mb=16", false, &ne_), NEXUS_E_CHILD_GEOMETRY);
	REFUSED(nexus_child_add(nx, "malloc:///s?size_mb=32&blk_size=4096", false, &ne_),
		NEXUS_E_CHILD_GEOMETRY);
	REFUSED(nexus_child_add(nx, "no:///s", false, &ne_), NEXUS_E_CREATE_CHILD);
	CHECK(device_lookup("s") == NULL);
	fill(buf, sizeof(buf), 9);
	CHECK_EQ(do_io(&o, IO_WRITE, 100, 8, buf, 0), IO_OK);
	CHECK_EQ(nexus_child_add(nx, uris[2], false, &ne), 0);
	CHECK_EQ(status(), NEXUS_DEGRADED);
	CHECK_EQ(recorded(2), 0);
	CHECK_EQ(do_io(&o, IO_WRITE, 200, 8, buf, 0), IO_OK);
	CHECK_EQ(child_do("c2", IO_READ, 10240 + 200, 8, back), IO_OK);
	CHECK_MEM(back, buf, sizeof(buf));
	for (unsigned i = 0; i < 6; i++) {
		CHECK_EQ(do_io(&o, IO_READ, 100, 8, back, 0), IO_OK);
		CHECK_MEM(back, buf, sizeof(buf)); /* c2 has none of it */
	}
	CHECK_EQ(child_do("c2", IO_WRITE, 10240 + 100, 8, buf), IO_OK); /* as a rebuild would */
	CHECK_EQ(nexus_child_synced(nx->child[2], &err), 0);
	CHECK_EQ(status(), NEXUS_ONLINE);
	CHECK_EQ(recorded(2), 1);
	check_equal("c0", "c2");
	nexus_unmake();
}

ENGINE_TEST(a_device_that_goes_closes_its_child)
{
	static uint8_t buf[BLOCK];

	if (!nexus_make(2))
		return;
	CHECK_EQ(device_destroy(uris[1], NULL), 0);
	settle_down();
	CHECK_EQ(child_info(1).state, CHILD_CLOSED);
	CHECK_EQ(child_info(1).health, CHILD_HEALTH_DEGRADED);
	CHECK_EQ(recorded(1), 0);
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(status(), NEXUS_DEGRADED);
	nexus_unmake();
}

ENGINE_TEST(a_device_that_fails_retires_its_child)
{
	if (!nexus_make(2))
		return;
	device_announce(device_lookup("c1"), DEVICE_FAILED);
	settle_down();
	CHECK_EQ(child_info(1).state, CHILD_FAULTED);
	CHECK_EQ(child_info(1).reason, NEXUS_REASON_ADMIN_FAILED);
	nexus_unmake();
}

ENGINE_TEST(growing)
{
	static uint8_t buf[BLOCK];
	struct nexus_err ne = {};
	struct nexus_info info;

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(nexus_child_fault(nx, uris[1], NEXUS_REASON_OFFLINE, &ne), 0);
	REFUSED(nexus_resize(nx, 20 << 20, &ne_), NEXUS_E_RESIZE);
	CHECK_EQ(nexus_child_online(nx, uris[1], &ne), 0);
	CHECK_EQ(nexus_resize(nx, 16 << 20, &ne), 0);
	REFUSED(nexus_resize(nx, 8 << 20, &ne_), NEXUS_E_CHILD_TOO_SMALL);
	REFUSED(nexus_resize(nx, 32 << 20, &ne_), NEXUS_E_CHILD_TOO_SMALL);
	CHECK_EQ(nexus_resize(nx, 20 << 20, &ne), 0);
	nexus_info(nx, &info);
	CHECK_EQ(info.device_size, 20 << 20);
	CHECK_EQ(info.segments_in_flight, 1);
	CHECK_EQ(do_io(&o, IO_WRITE, (20 << 11) - 1, 1, buf, 0), IO_OK);
	nexus_info(nx, &info);
	CHECK_EQ(info.segments_in_flight, 2);
	nexus_unmake();
}

static void add_one(void *arg)
{
	struct nexus_err ne = {};
	int *result = arg;

	*result = nexus_child_add(nx, uris[2], true, &ne);
}

/* An operation under way keeps the nexus until it has ended, well or not. */
ENGINE_TEST(destroyed_while_a_child_is_added)
{
	struct nexus_err ne = {};
	int result = 1;

	if (!nexus_make(2))
		return;
	desc_close(o.desc);
	fake.is_hanging = true;
	CHECK_EQ(task_spawn("add", add_one, &result), 0);
	while (fake.let_go == NULL)
		task_yield();
	fake.is_hanging = false;
	task_event_fire(fake.let_go);
	CHECK_EQ(nexus_destroy(nx, &ne), 0);
	CHECK(result <= 0);
	CHECK(device_next(NULL) == NULL);
	nexus_settings_set(&(struct nexus_settings){});
}

ENGINE_TEST(shutting_down_twice)
{
	static uint8_t buf[BLOCK];
	struct nexus_err ne = {};

	if (!nexus_make(2))
		return;
	CHECK_EQ(nexus_shutdown(nx, &ne), 0);
	CHECK(recorded_clean());
	CHECK_EQ(nexus_shutdown(nx, &ne), 0);
	CHECK_EQ(status(), NEXUS_STATUS_SHUTDOWN);
	CHECK(do_io(&o, IO_WRITE, 0, 1, buf, 0) != IO_OK);
	REFUSED(nexus_child_online(nx, uris[1], &ne_), NEXUS_E_NOT_ALLOWED);
	CHECK(nexus_lookup("n0") == nx);
	nexus_unmake();
}

/* ---- thin children -------------------------------------------------------------------------- */

/* The first write of a segment marks it, which wants space, too: so all are marked first. */
static bool thin_make(const char *const *children, unsigned n)
{
	struct nexus_opts opts = {
		.name = "n0", .size = 4 << 20, .children = children, .nchildren = n
	};
	struct desc_opts how = { .flags = DESC_WRITE };
	struct nexus_err ne = {};

	fake_start();
	if (nexus_create(&opts, &nx, &ne) < 0)
		return CHECK_STR(err_text(&ne.err), "a nexus");
	o = (struct opened){ .dev = nexus_device(nx) };
	return CHECK_EQ(desc_open(o.dev, &how, &o.desc, &ne.err), 0) &&
	       CHECK_EQ(handle_open(o.desc, reactor_primary(), &o.h, &ne.err), 0);
}

ENGINE_TEST(a_full_child_is_out_and_comes_back)
{
	static const char *const thin[] = { "malloc:///t0?size_mb=16",
					    "malloc:///t1?size_mb=16&capacity_mb=1" };
	static uint8_t buf[2048 * BLOCK];
	struct nexus_err ne = {};

	if (!thin_make(thin, 2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 2048, buf, 0), IO_OK); /* 1 MiB and the marks: too much */
	settle_down();
	CHECK_EQ(child_info(1).reason, NEXUS_REASON_NO_SPACE);
	CHECK_EQ(child_info(1).health, CHILD_HEALTH_DEGRADED);
	CHECK_EQ(status(), NEXUS_DEGRADED);
	CHECK_EQ(nexus_child_online(nx, thin[1], &ne), 0);
	CHECK_EQ(child_info(1).state, CHILD_OPEN);
	nexus_unmake();
}

ENGINE_TEST(where_all_are_full_the_host_hears_it)
{
	static const char *const thin[] = { "malloc:///t0?size_mb=16&capacity_mb=1",
					    "malloc:///t1?size_mb=16&capacity_mb=1" };
	static uint8_t buf[2048 * BLOCK], back[BLOCK];
	unsigned nchildren;

	for (nchildren = 1; nchildren <= 2; nchildren++) {
		if (!thin_make(thin, nchildren))
			return;
		fill(buf, sizeof(buf), 10);
		CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
		for (unsigned i = 0; i < 3; i++)
			CHECK_EQ(do_io(&o, IO_WRITE, 1, 2047 + 1, buf, 0), IO_NO_SPACE);
		settle_down();
		CHECK_EQ(status(), nchildren == 1 ? NEXUS_ONLINE : NEXUS_DEGRADED);
		CHECK_EQ(do_io(&o, IO_READ, 0, 1, back, 0), IO_OK); /* it goes on */
		CHECK_MEM(back, buf, BLOCK);
		CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
		nexus_unmake();
	}
}

/* ---- by URI --------------------------------------------------------------------------------- */

ENGINE_TEST(uris)
{
	static const struct uri_case rows[] = {
		{ "nexus:///n?size=16M&children=malloc:///a?size_mb=32,malloc:///b?size_mb=32", 0,
		  NULL, 32767, 512 },
		{ "nexus:///n?size=16M&required_size&children=malloc:///a?size_mb=32", 0, NULL,
		  32768, 512 },
		{ "nexus:///n?size=16M&label=v2&children=malloc:///a?size_mb=32%26blk_size=4096", 0,
		  NULL, 4096, 4096 },
		{ "nexus:///n?size=16M&children=null:///a%252Cb?size_mb=32,null:///c?size_mb=32", 0,
		  NULL, 32767, 512 },
		{ "nexus:///n?size=16M", -EINVAL, "children=", 0, 0 },
		{ "nexus:///n?children=malloc:///a?size_mb=32", -EINVAL, "no size", 0, 0 },
		{ "nexus://n?size=16M&children=malloc:///a?size_mb=32", -EINVAL, "three slashes", 0,
		  0 },
		{ "nexus:///n?size=16M&sizes=1&children=malloc:///a?size_mb=32", -EINVAL, "sizes",
		  0, 0 },
		{ "nexus:///n?size=16M&label=v3&children=malloc:///a?size_mb=32", -EINVAL, "v1", 0,
		  0 },
		{ "nexus:///n?size=64M&children=malloc:///a?size_mb=32", -EPERM, "less than", 0,
		  0 },
		{ "nexus:///n?size=32M&required_size&children=malloc:///a?size_mb=32", -EINVAL,
		  "too small", 0, 0 },
		{ "nexus:///n?size=16M&children=malloc:///a?size_mb=32,malloc:///b?size_mb=32"
		  "%26blk_size=4096",
		  -EINVAL, "block size", 0, 0 },
		{ "nexus:///n?size=16M&children=malloc:///a?size_mb=32,malloc:///a?size_mb=32",
		  -EEXIST, "twice", 0, 0 },
		{ "nexus:///n?size=16M&children=malloc:///a?size_mb=32,no:///b", -EINVAL, "no", 0,
		  0 },
		{ "nexus:///n?size=16M&children=malloc:///a?size_mb=32,malloc:///n?size_mb=32",
		  -EEXIST, "exists", 0, 0 },
		{ "nexus:///n?size=16M&children=a,b,c,d,e,f,g,h,i", -EINVAL, "1 to 8", 0, 0 },
	};

	fake_start();
	check_uris(rows, ARRAY_LEN(rows));
	nexus_settings_set(&(struct nexus_settings){});
}

ENGINE_TEST(arguments_of_version_two)
{
	static const struct {
		const char *name;
		struct nexus_opts opts;
		enum nexus_error why;
	} rows[] = {
		{ "controller ids",
		  { .cntlid_min = 9, .cntlid_max = 8 },
		  NEXUS_E_INVALID_ARGUMENTS },
		{ "controller id", { .cntlid_max = 0xfff0 }, NEXUS_E_INVALID_ARGUMENTS },
		{ "type", { .resv_type = 7 }, NEXUS_E_INVALID_RESERVATION },
		{ "preempt without key", { .preempt_key = 1 }, NEXUS_E_INVALID_ARGUMENTS },
		{ "holder with key",
		  { .resv_key = 1, .preempt_key = 1, .preempt_policy = NEXUS_PREEMPT_HOLDER },
		  NEXUS_E_INVALID_ARGUMENTS },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct nexus_opts opts = rows[i].opts;

		TAP_ROW(rows[i].name);
		opts.name = "n0";
		opts.size = 16 << 20;
		opts.children = uris;
		opts.nchildren = 1;
		REFUSED(nexus_create(&opts, &nx, &ne_), rows[i].why);
		CHECK(nexus_next(NULL) == NULL && device_next(NULL) == NULL);
	}
}

/* No such target: the message shows what the device was to be made from. */
ENGINE_TEST(remote_children_do_not_come_back_by_themselves)
{
	static const struct {
		const char *uri, *says;
	} rows[] = {
		{ "nvmf://127.0.0.1:1/nqn.2019-05.io.openebs:r?nsid=1", "?nsid=1&ctrl_loss=0:" },
		{ "nvmf://127.0.0.1:1/nqn.2019-05.io.openebs:r", "io.openebs:r?ctrl_loss=0:" },
		{ "nvmf://127.0.0.1:1/nqn.2019-05.io.openebs:r?ctrl_loss=5s", "?ctrl_loss=5s:" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct nexus_opts opts = {
			.name = "n0", .size = 16 << 20, .children = &rows[i].uri, .nchildren = 1
		};
		struct nexus_err ne = {};

		CHECK(nexus_create(&opts, &nx, &ne) < 0);
		CHECK_EQ(ne.why, NEXUS_E_CREATE_CHILD);
		CHECK_HAS(err_text(&ne.err), rows[i].says);
	}
}

ENGINE_TEST(duplicates_are_refused)
{
	struct nexus_opts opts = {
		.name = "n0", .size = 16 << 20, .children = &uris[2], .nchildren = 1
	};
	struct nexus_info info;

	if (!nexus_make(1))
		return;
	REFUSED(nexus_create(&opts, &nx, &ne_), NEXUS_E_NAME_EXISTS);
	nexus_info(nx, &info);
	opts.name = "n1";
	opts.uuid = info.uuid;
	REFUSED(nexus_create(&opts, &nx, &ne_), NEXUS_E_UUID_EXISTS);
	nexus_unmake();
}

/* ---- the store ------------------------------------------------------------------------------ */

ENGINE_TEST(nothing_is_acknowledged_while_the_store_is_away)
{
	static uint8_t buf[8 * BLOCK], back[8 * BLOCK];
	struct late_io first, second, read;

	if (!nexus_make(2))
		return;
	fill(buf, sizeof(buf), 8);
	inject("inject://c1?op=write&stage=completion");
	fake.is_hanging = true;
	late_start(&first, IO_WRITE, 100, 8, buf);
	while (fake.let_go == NULL)
		task_yield();
	late_start(&second, IO_WRITE, 2000, 8, buf);
	late_start(&read, IO_READ, 100, 8, back);
	turns(100);
	CHECK(!first.is_done && !second.is_done);
	CHECK(!read.is_done); /* its blocks are new on one leg only */
	CHECK_EQ(do_io(&o, IO_READ, 5000, 8, back, 0), IO_OK); /* others are read */
	CHECK_EQ(recorded(1), 1);
	fake.is_hanging = false;
	task_event_fire(fake.let_go);
	task_event_wait(&first.event);
	task_event_wait(&second.event);
	task_event_wait(&read.event);
	CHECK_EQ(first.io.status, IO_OK);
	CHECK_EQ(second.io.status, IO_OK);
	CHECK_EQ(read.io.status, IO_OK);
	CHECK_EQ(recorded(1), 0);
	CHECK_EQ(status(), NEXUS_DEGRADED);
	fault_remove_all();
	nexus_unmake();
}

ENGINE_TEST(a_store_that_fails_is_asked_again)
{
	static uint8_t buf[BLOCK];

	if (!nexus_make(2))
		return;
	inject("inject://c1?op=write&stage=completion");
	fake.fail_next = 2;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(fake.nfailed, 2);
	CHECK_EQ(recorded(1), 0);
	fault_remove_all();
	nexus_unmake();
}

ENGINE_TEST(a_store_that_is_lost_ends_the_nexus)
{
	static uint8_t buf[BLOCK];
	struct nexus_info info;

	if (!nexus_make(2))
		return;
	inject("inject://c1?op=write&stage=completion");
	fake.fail_next = 1000;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_ABORTED);
	CHECK_EQ(fake.nfailed, 3);
	CHECK_EQ(recorded(1), 1); /* untouched: somebody else may own it */
	CHECK(!recorded_clean());
	CHECK(do_io(&o, IO_WRITE, 0, 1, buf, 0) != IO_OK);
	CHECK(do_io(&o, IO_READ, 0, 1, buf, 0) != IO_OK);
	nexus_info(nx, &info);
	CHECK_EQ(info.state, NEXUS_SHUTDOWN);
	fault_remove_all();
	nexus_unmake();
	CHECK(!recorded_clean());
}

ENGINE_TEST(a_reservation_conflict_ends_the_nexus)
{
	static uint8_t buf[BLOCK];
	struct nexus_info info;

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	inject("inject://c1?op=write&stage=completion&method=status-nvme-0-83");
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_RESERVED);
	errand_wait(&nx->retire);
	nexus_info(nx, &info);
	CHECK_EQ(info.state, NEXUS_SHUTDOWN);
	CHECK_EQ(recorded(1), 1);
	fault_remove_all();
	nexus_unmake();
}

/* Namespace Not Ready, five times. */
ENGINE_TEST(patience_with_a_child_that_is_not_ready)
{
	static uint8_t buf[BLOCK];
	const char *fault = "inject://c1?op=rw&stage=completion&method=status-nvme-0-82&retries=3";

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	inject(fault);
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(status(), NEXUS_ONLINE);
	fault_remove_all();
	check_equal("c0", "c1");
	nexus_unmake();
}

/* ---- made again ----------------------------------------------------------------------------- */

#define BASE_0 "bdev:///m0?uuid=" UUID_0
#define BASE_1 "bdev:///m1?uuid=" UUID_1
#define BASE_2 "bdev:///m2?uuid=" UUID_2

static const char *const base_uris[] = { "malloc:///m0?size_mb=32&uuid=" UUID_0,
					 "malloc:///m1?size_mb=32&uuid=" UUID_1,
					 "malloc:///m2?size_mb=32&uuid=" UUID_2 };
static const char *const kept[] = { BASE_0, BASE_1, BASE_2 };

static bool remake(unsigned nchildren)
{
	struct nexus_opts opts = { .name = "n0",
				   .size = 16 << 20,
				   .children = kept,
				   .nchildren = nchildren,
				   .info_key = "volume" };
	struct desc_opts how = { .flags = DESC_WRITE };
	struct nexus_err ne = {};

	CHECK_EQ(uuid_from_text(UUID_3, &opts.uuid, NULL), 0);
	if (nexus_create(&opts, &nx, &ne) < 0)
		return CHECK_STR(err_text(&ne.err), "a nexus");
	o = (struct opened){ .dev = nexus_device(nx) };
	return CHECK_EQ(desc_open(o.dev, &how, &o.desc, &ne.err), 0) &&
	       CHECK_EQ(handle_open(o.desc, reactor_primary(), &o.h, &ne.err), 0);
}

/* Gone like a process that is killed: nothing is cleaned up. */
static void crash(void)
{
	struct nexus_err ne = {};

	nexus_self_shutdown(nx, "the test says so");
	desc_close(o.desc);
	CHECK_EQ(nexus_destroy(nx, &ne), 0);
}

static void bases_make(void)
{
	struct device *dev;

	for (size_t i = 0; i < ARRAY_LEN(base_uris); i++)
		CHECK_EQ(device_create(base_uris[i], &dev, NULL), 0);
	fake_start();
}

static void bases_unmake(void)
{
	device_remove_all();
	nexus_settings_set(&(struct nexus_settings){});
}

/* What rebuilds are given. */
static struct {
	bool is_known;
	uint32_t nsegments;
	unsigned nstarts;
} given[NEXUS_CHILDREN_MAX];

static int note_start(struct child *child, struct nexus_err *ne)
{
	struct err err = {};

	(void)ne;
	given[child->slot].is_known = child->is_missed_known;
	given[child->slot].nsegments = segmap_count(&child->missed);
	given[child->slot].nstarts++;
	return nexus_child_attach(child, &err);
}

static void note_stop(struct child *child)
{
	(void)child;
}

static const struct nexus_rebuilder note_rebuilder = { .start = note_start, .stop = note_stop };

ENGINE_TEST(after_a_crash_what_was_in_flight_is_given_again)
{
	static uint8_t buf[BLOCK];

	memset(given, 0, sizeof(given));
	nexus_set_rebuilder(&note_rebuilder);
	bases_make();
	if (!remake(2))
		return;
	CHECK_EQ(given[0].nstarts + given[1].nstarts, 0);
	for (unsigned i = 0; i < 7; i++)
		CHECK_EQ(do_io(&o, IO_WRITE, i * 128, 1, buf, 0), IO_OK);
	crash();
	if (!remake(2))
		return;
	CHECK_EQ(given[0].nstarts, 0);
	CHECK_EQ(given[1].nstarts, 1);
	CHECK(given[1].is_known);
	CHECK_EQ(given[1].nsegments, 7);
	CHECK(child_info(0).is_synced && !child_info(1).is_synced);
	CHECK_EQ(recorded(0), 1);
	CHECK_EQ(recorded(1), 0);
	/* it was being rebuilt when it crashes again: nobody knows how far it came */
	crash();
	if (!remake(2))
		return;
	CHECK_EQ(given[1].nstarts, 2);
	CHECK(!given[1].is_known);
	nexus_unmake_kept();
	nexus_set_rebuilder(NULL);
	bases_unmake();
}

ENGINE_TEST(after_a_clean_end_only_the_lost_child_is_given_what_it_missed)
{
	static uint8_t buf[BLOCK];
	struct nexus_err ne = {};

	memset(given, 0, sizeof(given));
	nexus_set_rebuilder(&note_rebuilder);
	bases_make();
	if (!remake(3))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(nexus_child_fault(nx, kept[1], NEXUS_REASON_OFFLINE, &ne), 0);
	for (unsigned i = 10; i < 22; i++)
		CHECK_EQ(do_io(&o, IO_WRITE, i * 128, 1, buf, 0), IO_OK);
	nexus_unmake_kept();
	CHECK(recorded_clean());
	if (!remake(3))
		return;
	CHECK_EQ(given[0].nstarts + given[2].nstarts, 0);
	CHECK_EQ(given[1].nstarts, 1);
	CHECK(given[1].is_known);
	CHECK_EQ(given[1].nsegments, 12);
	nexus_unmake_kept();
	nexus_set_rebuilder(NULL);
	bases_unmake();
}

ENGINE_TEST(a_lost_child_after_a_crash_is_given_both)
{
	static uint8_t buf[BLOCK];
	struct nexus_err ne = {};

	memset(given, 0, sizeof(given));
	nexus_set_rebuilder(&note_rebuilder);
	bases_make();
	if (!remake(3))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(nexus_child_fault(nx, kept[1], NEXUS_REASON_OFFLINE, &ne), 0);
	for (unsigned i = 10; i < 22; i++)
		CHECK_EQ(do_io(&o, IO_WRITE, i * 128, 1, buf, 0), IO_OK);
	errand_wait(&nx->mark);
	crash();
	if (!remake(3))
		return;
	CHECK(given[1].is_known && given[2].is_known);
	CHECK_EQ(given[1].nsegments, 13);
	CHECK_EQ(given[2].nsegments, 13); /* in flight, as far as anybody knows */
	nexus_unmake_kept();
	nexus_set_rebuilder(NULL);
	bases_unmake();
}

ENGINE_TEST(records_of_another_generation_are_void)
{
	static uint8_t buf[BLOCK];
	char *digit;

	memset(given, 0, sizeof(given));
	nexus_set_rebuilder(&note_rebuilder);
	bases_make();
	if (!remake(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	crash();
	digit = strstr(fake.text, "\"generation\": \"") + strlen("\"generation\": \"");
	*digit = *digit == '0' ? '1' : '0';
	if (!remake(2))
		return;
	CHECK_EQ(given[1].nstarts, 1);
	CHECK(!given[1].is_known);
	nexus_unmake_kept();
	nexus_set_rebuilder(NULL);
	bases_unmake();
}

ENGINE_TEST(stale_children_alone_make_no_nexus)
{
	struct nexus_opts opts = { .name = "n0",
				   .size = 16 << 20,
				   .children = &kept[1],
				   .nchildren = 1,
				   .info_key = "volume" };
	struct nexus_err ne = {};

	bases_make();
	if (!remake(2))
		return;
	CHECK_EQ(nexus_child_fault(nx, kept[1], NEXUS_REASON_OFFLINE, &ne), 0);
	nexus_unmake_kept();
	REFUSED(nexus_create(&opts, &nx, &ne_), NEXUS_E_INCOMPLETE);
	(void)snprintf(fake.text, sizeof(fake.text), "damaged");
	REFUSED(nexus_create(&opts, &nx, &ne_), NEXUS_E_STORE);
	CHECK_STR(fake.text, "damaged"); /* evidence is kept */
	bases_unmake();
}

ENGINE_TEST(marks_are_kept_and_cleared)
{
	static uint8_t buf[BLOCK];
	struct nexus_info info;

	if (!nexus_make(2))
		return;
	nexus_settings.intent_idle_ns = 2000000;
	nexus_info(nx, &info);
	CHECK_EQ(info.segments_in_flight, 0);
	for (unsigned i = 0; i < 5; i++)
		CHECK_EQ(do_io(&o, IO_WRITE, i * 128, 1, buf, 0), IO_OK);
	nexus_info(nx, &info);
	CHECK_EQ(info.segments_in_flight, 5);
	while (info.segments_in_flight > 0) {
		task_yield();
		nexus_info(nx, &info);
	}
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	nexus_info(nx, &info);
	CHECK_EQ(info.segments_in_flight, 1);
	nexus_unmake();
}

TAP_MAIN()
