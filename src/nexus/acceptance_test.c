/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of the acceptance list that are shown best from inside; which test shows which row stands at
 * the head of tests/integration/test_nexus_acceptance.py.
 */
#include "base/units.h"
#include "nexus/rebuild.h"
#include "nexus/testing.h"

static uint8_t buf[8 * BLOCK], back[8 * BLOCK];

/* ---- row 1 ---------------------------------------------------------------------------------- */

/*
 * A nexus of 16 MiB. With n blocks of b bytes a child ends at block n - ceil(16 KiB / b) - 2, data
 * begins at 5 MiB, and the nexus is one block shorter than what was asked or what there is.
 */
ENGINE_TEST(sizes_of_children)
{
	static const struct {
		const char *children[3];
		uint64_t size, nblocks; /* 0: refused */
		enum nexus_error why;
	} rows[] = {
		{ { "malloc:///a?size_mb=32" }, 16 * MIB, 32767, 0 },
		{ { "malloc:///a?size_mb=24" }, 16 * MIB, 32767, 0 },
		{ { "malloc:///a?size_mb=16" }, 16 * MIB, 32768 - 34 - 10240, 0 },
		{ { "malloc:///a?size_mb=8" }, 16 * MIB, 0, NEXUS_E_INCOMPLETE },
		{ { "malloc:///a?size_mb=4" }, 16 * MIB, 0, NEXUS_E_INCOMPLETE },
		{ { "malloc:///a?size_mb=4" }, 4 * MIB, 0, NEXUS_E_CHILD_TOO_SMALL },
		{ { "malloc:///a?size_mb=5" }, 4 * MIB, 0, NEXUS_E_CHILD_TOO_SMALL },
		{ { "malloc:///a?size_mb=6" }, 4 * MIB, 12288 - 34 - 10240, 0 },
		{ { "malloc:///a?size_mb=64" }, 64 * MIB, 120798, 0 },
		{ { "malloc:///a?size_mb=70" }, 64 * MIB, 131071, 0 },
		{ { "malloc:///a?size_mb=32", "malloc:///b?size_mb=24", "malloc:///c?size_mb=16" },
		  16 * MIB,
		  32768 - 34 - 10240,
		  0 },
		{ { "malloc:///a?size_mb=32", "malloc:///b?size_mb=8" },
		  16 * MIB,
		  0,
		  NEXUS_E_INCOMPLETE },
		{ { "malloc:///a?size_mb=32&blk_size=4096" }, 16 * MIB, 4095, 0 },
		{ { "malloc:///a?size_mb=16&blk_size=4096" }, 16 * MIB, 4096 - 6 - 1280, 0 },
		{ { "malloc:///a?size_mb=32", "malloc:///b?size_mb=32&blk_size=4096" },
		  16 * MIB,
		  0,
		  NEXUS_E_MIXED_BLOCK_SIZES },
	};

	fake_start();
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct nexus_opts opts = { .name = "n0",
					   .size = rows[i].size,
					   .children = rows[i].children };
		struct nexus_err ne = {};
		struct nexus_info info;

		TAP_ROW(rows[i].children[0]);
		fake.text[0] = '\0';
		while (opts.nchildren < 3 && rows[i].children[opts.nchildren] != NULL)
			opts.nchildren++;
		if (nexus_create(&opts, &nx, &ne) < 0) {
			CHECK_EQ(0, rows[i].nblocks);
			CHECK_STR(nexus_error_name(ne.why), nexus_error_name(rows[i].why));
		} else {
			nexus_info(nx, &info);
			CHECK_EQ(nexus_device(nx)->nblocks, rows[i].nblocks);
			CHECK_EQ(info.size, rows[i].size);
			CHECK_EQ(nexus_destroy(nx, &ne), 0);
		}
		CHECK(device_next(NULL) == NULL);
	}
	nexus_settings_set(&(struct nexus_settings){});
}

/* ---- row 10 --------------------------------------------------------------------------------- */

ENGINE_TEST(the_store_is_lost_while_a_child_is_retired)
{
	char before[RECORD_TEXT_MAX];
	struct late_io late[4];
	struct nexus_info info;

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 8, buf, 0), IO_OK);
	memcpy(before, fake.text, sizeof(before));
	inject("inject://c1?op=write&stage=completion");
	fake.fail_next = UINT32_MAX;
	for (unsigned i = 0; i < 4; i++)
		late_start(&late[i], IO_WRITE, i * 8, 8, buf);
	while (fake.nfailed == 0)
		task_yield();
	nexus_info(nx, &info);
	CHECK_EQ(info.state, NEXUS_OPEN);
	for (unsigned i = 0; i < 4; i++)
		CHECK(!late[i].is_done); /* frozen, as long as it is tried */
	for (unsigned i = 0; i < 4; i++) {
		task_event_wait(&late[i].event);
		CHECK(late[i].io.status != IO_OK);
	}
	settle_down();
	nexus_info(nx, &info);
	CHECK_EQ(info.state, NEXUS_SHUTDOWN);
	CHECK_EQ(info.status, NEXUS_STATUS_SHUTDOWN);
	CHECK_EQ(info.nchildren, 2);
	CHECK_EQ(child_info(0).state, CHILD_CLOSED);
	CHECK_EQ(child_info(1).state, CHILD_FAULTED);
	CHECK(device_lookup("c0") == NULL && device_lookup("c1") == NULL);
	fake.fail_next = 0; /* it is back, and nobody writes to it any more */
	CHECK(do_io(&o, IO_READ, 0, 8, back, 0) != IO_OK);
	CHECK_EQ(nexus_shutdown(nx, NULL), 0);
	fault_remove_all();
	nexus_unmake();
	CHECK_STR(fake.text, before);
}

/* ---- row 11 --------------------------------------------------------------------------------- */

/* fake_put() sees to it that no record ever says that nobody is healthy. */
ENGINE_TEST(the_last_healthy_child)
{
	static const enum nexus_reason reasons[] = { NEXUS_REASON_OFFLINE,
						     NEXUS_REASON_OFFLINE_PERMANENT,
						     NEXUS_REASON_IO_ERROR };
	struct nexus_err ne = {};

	if (!nexus_make(2))
		return;
	CHECK_EQ(nexus_child_fault(nx, uris[1], NEXUS_REASON_OFFLINE, &ne), 0);
	for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
		REFUSED(nexus_child_fault(nx, uris[0], reasons[i], &ne_),
			NEXUS_E_REMOVE_LAST_HEALTHY);
	REFUSED(nexus_child_remove(nx, uris[0], &ne_), NEXUS_E_REMOVE_LAST_HEALTHY);
	CHECK_EQ(nexus_error_class(NEXUS_E_REMOVE_LAST_HEALTHY), NEXUS_CLASS_FAILED_PRECONDITION);
	CHECK_EQ(nexus_error_class(NEXUS_E_REMOVE_LAST_CHILD), NEXUS_CLASS_FAILED_PRECONDITION);
	/* one that is not in sync is no help */
	CHECK_EQ(nexus_child_add(nx, uris[2], false, &ne), 0);
	REFUSED(nexus_child_remove(nx, uris[0], &ne_), NEXUS_E_REMOVE_LAST_HEALTHY);
	/* those that are not healthy may go, and be faulted for good */
	CHECK_EQ(nexus_child_fault(nx, uris[1], NEXUS_REASON_OFFLINE_PERMANENT, &ne), 0);
	CHECK_EQ(child_info(1).health, CHILD_HEALTH_FAULTED);
	CHECK_EQ(nexus_child_remove(nx, uris[1], &ne), 0);
	CHECK_EQ(nexus_child_remove(nx, uris[2], &ne), 0);
	REFUSED(nexus_child_remove(nx, uris[0], &ne_), NEXUS_E_REMOVE_LAST_CHILD);
	CHECK_EQ(recorded(0), 1);
	/* it fails by itself: nobody is healthy, and the record still has it */
	inject("inject://c0?op=rw&stage=completion");
	{
		struct late_io late;

		late_start(&late, IO_WRITE, 0, 8, buf);
		while (status() != NEXUS_FAULTED)
			task_yield();
		settle_down();
		CHECK(!late.is_done);
		CHECK_EQ(recorded(0), 1);
		CHECK_EQ(nexus_shutdown(nx, &ne), 0);
		task_event_wait(&late.event);
		CHECK(late.io.status != IO_OK);
		CHECK_EQ(recorded(0), 1);
	}
	fault_remove_all();
	nexus_unmake();
}

/* ---- row 15 --------------------------------------------------------------------------------- */

/* Full to the last page, and of what hosts have deleted since it was told nothing: there is room
 * for what has to be noted on it, and the rebuild gives back the rest. */
ENGINE_TEST(a_child_that_is_full_to_the_last_page_comes_back)
{
	static const char *const thin[] = { "malloc:///f0?size_mb=16",
					    "malloc:///f1?size_mb=16&capacity_mb=2" };
	static const char *const children[] = { "bdev:///f0", "bdev:///f1" };
	struct nexus_opts opts = {
		.name = "n0", .size = 8 * MIB, .children = children, .nchildren = 2
	};
	struct desc_opts how = { .flags = DESC_WRITE };
	struct nexus_err ne = {};
	struct device *dev;

	fake_start();
	for (unsigned i = 0; i < 2; i++)
		CHECK_EQ(device_create(thin[i], &dev, NULL), 0);
	if (!CHECK_EQ(nexus_create(&opts, &nx, &ne), 0))
		return;
	o = (struct opened){ .dev = nexus_device(nx) };
	CHECK_EQ(desc_open(o.dev, &how, &o.desc, NULL), 0);
	CHECK_EQ(handle_open(o.desc, reactor_primary(), &o.h, NULL), 0);
	for (uint64_t lba = 0; lba < 8 * 1024 && status() == NEXUS_ONLINE; lba += 8)
		CHECK_EQ(do_io(&o, IO_WRITE, lba, 8, buf, 0), IO_OK);
	settle_down();
	CHECK_EQ(child_info(1).reason, NEXUS_REASON_NO_SPACE);
	CHECK_EQ(child_info(1).health, CHILD_HEALTH_DEGRADED);
	CHECK_EQ(do_io(&o, IO_UNMAP, 0, 8 * 1024 - 8, NULL, 0), IO_OK);
	if (nexus_child_online(nx, children[1], &ne) < 0)
		CHECK_STR(err_text(&ne.err), "online");
	nexus_rebuild_wait(nx);
	CHECK_EQ(status(), NEXUS_ONLINE);
	CHECK_EQ(recorded(1), 1);
	nexus_unmake_kept();
	device_remove_all();
	nexus_settings_set(&(struct nexus_settings){});
}

/* ---- row 19 --------------------------------------------------------------------------------- */

static void grow_replica(const char *uri)
{
	struct device *dev;
	struct err err = {};

	if (device_create(uri, &dev, &err) < 0)
		CHECK_STR(err_text(&err), uri);
}

/* 16 MiB on replicas that are as large: their end is the limit, 32768 - 34 - 10240 blocks. */
ENGINE_TEST(replicas_grow_first)
{
	static const char *const tight[] = { "malloc:///t0?size_mb=16", "malloc:///t1?size_mb=16" };
	struct nexus_opts opts = {
		.name = "n0", .size = 16 * MIB, .children = tight, .nchildren = 2
	};
	enum { BEFORE = 32768 - 34 - 10240, AFTER = 2 * 32768 - 34 - 10240 };
	struct nexus_err ne = {};
	struct nexus_info info;

	fake_start();
	if (nexus_create(&opts, &nx, &ne) < 0) {
		CHECK_STR(err_text(&ne.err), "a nexus");
		return;
	}
	CHECK_EQ(nexus_device(nx)->nblocks, BEFORE);
	CHECK_EQ(nexus_resize(nx, 16 * MIB, &ne), 0); /* it is */
	REFUSED(nexus_resize(nx, 32 * MIB, &ne_), NEXUS_E_CHILD_TOO_SMALL);
	REFUSED(nexus_resize(nx, 16 * MIB - 512, &ne_), NEXUS_E_CHILD_TOO_SMALL);
	grow_replica("malloc:///t0?size_mb=32&resize");
	REFUSED(nexus_resize(nx, 32 * MIB, &ne_), NEXUS_E_CHILD_TOO_SMALL);
	nexus_info(nx, &info);
	CHECK_EQ(info.size, 16 * MIB);
	CHECK_EQ(nexus_device(nx)->nblocks, BEFORE);
	grow_replica("malloc:///t1?size_mb=32&resize");
	CHECK_EQ(nexus_device(nx)->nblocks, BEFORE); /* not by itself */
	CHECK_EQ(nexus_resize(nx, 32 * MIB, &ne), 0);
	nexus_info(nx, &info);
	CHECK_EQ(info.size, 32 * MIB);
	CHECK_EQ(nexus_device(nx)->nblocks, AFTER);
	REFUSED(nexus_resize(nx, 16 * MIB, &ne_), NEXUS_E_CHILD_TOO_SMALL);
	REFUSED(nexus_resize(nx, 0, &ne_), NEXUS_E_CHILD_TOO_SMALL);
	nexus_info(nx, &info);
	CHECK_EQ(info.size, 32 * MIB);
	CHECK_EQ(nexus_device(nx)->nblocks, AFTER);
	CHECK_EQ(nexus_shutdown(nx, &ne), 0);
	REFUSED(nexus_resize(nx, 64 * MIB, &ne_), NEXUS_E_NOT_ALLOWED);
	CHECK_EQ(nexus_destroy(nx, &ne), 0);
	nexus_settings_set(&(struct nexus_settings){});
}

/* ---- row 20 --------------------------------------------------------------------------------- */

enum { WRITERS = 16 };

static struct writer {
	struct io io;
	struct task_event ended;
	uint64_t nok;
	uint8_t last; /* byte of the last write that was acknowledged */
	uint8_t buf[8 * BLOCK];
} writers[WRITERS];

static void writer_next(struct writer *w)
{
	memset(w->buf, w->last + 1, sizeof(w->buf));
	io_submit(o.h, &w->io);
}

static void writer_done(struct io *io)
{
	struct writer *w = container_of(io, struct writer, io);

	if (io->status != IO_OK) {
		task_event_fire(&w->ended);
		return;
	}
	w->nok++;
	w->last++;
	writer_next(w);
}

static void writers_start(void)
{
	for (unsigned i = 0; i < WRITERS; i++) {
		struct writer *w = &writers[i];

		*w = (struct writer){ .io = { .op = IO_WRITE,
					      .lba = (uint64_t)i * 200,
					      .nlb = 8,
					      .done = writer_done } };
		io_set_buf(&w->io, w->buf, sizeof(w->buf));
		writer_next(w);
	}
}

static void check_writer(const struct writer *w)
{
	for (unsigned i = 0; i < 2; i++) {
		CHECK_EQ(child_do(i == 0 ? "m0" : "m1", IO_READ, 10240 + w->io.lba, 8, back),
			 IO_OK);
		/* the one that failed may be there or not */
		CHECK(back[0] == w->last || back[0] == (uint8_t)(w->last + 1));
		CHECK(memcmp(back, back + 1, sizeof(back) - 1) == 0);
	}
}

ENGINE_TEST(shutting_down_twice_under_load)
{
	struct late_call first, second;
	struct nexus_info info;

	bases_make(false);
	if (!remake(2))
		return;
	inject("inject://m1?op=write&method=delay&delay_us=200-2000&seed=1");
	writers_start();
	while (writers[WRITERS - 1].nok < 20)
		task_yield();
	/* a second one while the first runs; then a third, and one more */
	call_start(&first, shut_down);
	call_start(&second, shut_down);
	for (unsigned i = 0; i < WRITERS; i++)
		task_event_wait(&writers[i].ended);
	CHECK_EQ(call_wait(&first), 0);
	CHECK_EQ(call_wait(&second), -EPERM);
	CHECK_EQ(shut_down(), 0);
	CHECK_EQ(shut_down(), 0);
	/* the state is kept: it is listed, its children are, and the record is clean */
	nexus_info(nx, &info);
	CHECK(nexus_lookup("n0") == nx);
	CHECK_EQ(info.state, NEXUS_SHUTDOWN);
	CHECK_EQ(info.status, NEXUS_STATUS_SHUTDOWN);
	CHECK_EQ(info.nchildren, 2);
	for (unsigned i = 0; i < 2; i++) {
		CHECK_STR(child_info(i).uri, kept[i]);
		CHECK_EQ(child_info(i).state, CHILD_CLOSED);
		CHECK_EQ(recorded(i), 1);
	}
	CHECK(recorded_clean());
	fault_remove_all();
	for (unsigned i = 0; i < WRITERS; i++)
		check_writer(&writers[i]);
	check_equal("m0", "m1"); /* clean: no rebuild comes */
	nexus_unmake_kept();
	CHECK(recorded_clean());
	bases_unmake();
}

/* ---- row 24 --------------------------------------------------------------------------------- */

static struct fault_info fault(const char *uri)
{
	struct fault_info info = {};

	for (unsigned i = 0; fault_list(i, &info); i++) {
		if (strcmp(info.uri, uri) == 0)
			return info;
	}
	CHECK_STR("no such fault", uri);
	return info;
}

static uint64_t now_ms(void)
{
	return reactor_self()->now_ns / NS_PER_MS;
}

enum { BEGIN_MS = 30, END_MS = 230 };

/* A medium error is mended and the child stays, so one that fires many times is seen to. */
#define WINDOW                                                                                \
	"inject://c1?domain=child&op=read&stage=completion&method=status-nvme-2-81&offset=64" \
	"&num_blk=8&begin_at=30&end_at=230"

static void read_it(void)
{
	memset(back, 0, sizeof(back));
	CHECK_EQ(do_io(&o, IO_READ, 64, 8, back, 0), IO_OK); /* the host sees nothing */
	CHECK_MEM(back, buf, sizeof(buf));
	task_yield();
}

/* Reads through a window; how often the fault fired before, within and after it. */
static void read_through(uint64_t nfired[3])
{
	uint64_t earliest_ms = 0, latest_ms, before_ms = 0, last = 0, n;

	inject(WINDOW);
	/* the clock starts with the first request to the child that matches */
	while (fault(WINDOW).hits == 0) {
		earliest_ms = now_ms();
		read_it();
	}
	latest_ms = now_ms();
	while (before_ms <= latest_ms + END_MS + 30) {
		before_ms = now_ms();
		read_it();
		n = fault(WINDOW).fired - last;
		last += n;
		/* what may lie across an edge counts as within */
		if (now_ms() < earliest_ms + BEGIN_MS)
			nfired[0] += n;
		else if (before_ms > latest_ms + END_MS)
			nfired[2] += n;
		else
			nfired[1] += n;
	}
	CHECK(fault(WINDOW).hits > last);
	fault_remove_all();
}

ENGINE_TEST(a_fault_fires_within_its_time)
{
	uint64_t nfired[3] = {};

	if (!nexus_make(2))
		return;
	fill(buf, sizeof(buf), 3);
	CHECK_EQ(do_io(&o, IO_WRITE, 64, 8, buf, 0), IO_OK);
	/* a machine that is busy elsewhere may miss a window */
	for (unsigned i = 0; i < 5 && nfired[1] == 0; i++)
		read_through(nfired);
	CHECK_EQ(nfired[0], 0);
	CHECK(nfired[1] > 0);
	CHECK_EQ(nfired[2], 0);
	CHECK_EQ(status(), NEXUS_ONLINE);
	nexus_unmake();
}

/* Blocks of the nexus, without what lies in front of them on the child. */
ENGINE_TEST(a_fault_fires_within_its_blocks)
{
	static const struct {
		uint64_t lba;
		uint32_t nlb;
		bool is_hit;
	} rows[] = {
		{ 92, 8, false }, { 108, 8, false }, { 0, 8, false },  { 10240 + 100, 8, false },
		{ 93, 8, true },  { 107, 8, true },  { 100, 8, true }, { 102, 1, true },
	};
	static const struct {
		const char *uri;
		enum io_op op;
	} faults[] = {
		{ "inject://c1?domain=child&op=write&offset=100&num_blk=8", IO_WRITE },
		{ "inject://c1?domain=child&op=write&stage=completion&offset=100&num_blk=8",
		  IO_WRITE },
		{ "inject://c1?op=write&stage=completion&offset=10340&num_blk=8", IO_WRITE },
		{ "inject://c1?domain=child&op=read&stage=completion&offset=100&num_blk=8",
		  IO_READ },
	};

	for (size_t f = 0; f < ARRAY_LEN(faults); f++) {
		for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
			TAP_ROW(faults[f].uri);
			if (!nexus_make(2))
				return;
			inject(faults[f].uri);
			for (unsigned n = 0; n < 2; n++) /* one of each child */
				CHECK_EQ(do_io(&o, faults[f].op, rows[i].lba, rows[i].nlb, buf, 0),
					 IO_OK);
			settle_down();
			CHECK_EQ(fault(faults[f].uri).fired, rows[i].is_hit);
			CHECK_EQ(status(), rows[i].is_hit ? NEXUS_DEGRADED : NEXUS_ONLINE);
			CHECK_EQ(recorded(1), !rows[i].is_hit);
			fault_remove_all();
			nexus_unmake();
		}
	}
	TAP_ROW(NULL);
}

/* ---- names ---------------------------------------------------------------------------------- */

static struct uuid uuid_of(const char *text)
{
	struct uuid uuid = {};

	CHECK_EQ(uuid_from_text(text, &uuid, NULL), 0);
	return uuid;
}

/* A name that is a uuid is the device's, and `uuid` the nexus' own; else both are `uuid`. */
ENGINE_TEST(names_and_uuids)
{
	static const struct {
		const char *name, *uuid, *device, *nexus;
	} rows[] = {
		{ "vol", UUID_3, UUID_3, UUID_3 },
		{ "nexus-" UUID_2, UUID_2, UUID_2, UUID_2 },
		{ UUID_2, UUID_3, UUID_2, UUID_3 },
	};

	fake_start();
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct nexus_opts opts = { .name = rows[i].name,
					   .uuid = uuid_of(rows[i].uuid),
					   .size = 16 * MIB,
					   .children = uris,
					   .nchildren = 1 };
		struct uuid device = uuid_of(rows[i].device), own = uuid_of(rows[i].nexus);
		struct nexus_info info;

		TAP_ROW(rows[i].name);
		fake.text[0] = '\0';
		if (!CHECK_EQ(nexus_create(&opts, &nx, NULL), 0))
			return;
		nexus_info(nx, &info);
		CHECK_STR(info.name, rows[i].name);
		CHECK_STR(nexus_device(nx)->name, rows[i].name);
		CHECK(uuid_equal(&info.device_uuid, &device));
		CHECK(uuid_equal(&nexus_device(nx)->uuid, &device));
		CHECK(uuid_equal(&info.uuid, &own));
		CHECK(nexus_lookup(rows[i].name) == nx && nexus_lookup(rows[i].nexus) == nx);
		CHECK_EQ(nexus_destroy(nx, NULL), 0);
	}
	TAP_ROW(NULL);
	nexus_settings_set(&(struct nexus_settings){});
}

/* Hosts know the device by it, and what is noted on the children is bound to it. */
ENGINE_TEST(a_uri_without_a_uuid_makes_the_same_again)
{
	static const char *const again[] = {
		"nexus:///a?size=16M&children=malloc:///m?size_mb=32",
		"nexus:///a?size=16M&children=malloc:///k?size_mb=32",
		"nexus:///b?size=16M&children=malloc:///m?size_mb=32"
	};
	struct uuid uuid[3] = {};

	fake_start();
	for (size_t i = 0; i < ARRAY_LEN(again); i++) {
		struct device *dev;

		fake.text[0] = '\0';
		if (!CHECK_EQ(device_create(again[i], &dev, NULL), 0))
			return;
		uuid[i] = dev->uuid;
		CHECK_EQ(device_destroy(again[i], NULL), 0);
	}
	CHECK(uuid_equal(&uuid[0], &uuid[1]));
	CHECK(!uuid_equal(&uuid[0], &uuid[2]));
	CHECK(!uuid_is_zero(&uuid[0]));
	nexus_settings_set(&(struct nexus_settings){});
}

TAP_MAIN()
