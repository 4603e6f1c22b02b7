/* SPDX-License-Identifier: Apache-2.0 */
/* The copy machine between memory devices: data, holes, maps, failures, limits. */
#include "nexus/copy.h"

#include "base/units.h"
#include "device/fault.h"
#include "drivers/testing.h"
#include "nexus/pace.h"

enum {
	BLOCK = 512,
	MB = 2048, /* blocks */
	SIZE = 16 * MB,
	SEGMENT = 128, /* blocks */
};

static struct opened a, b, d; /* two sources, a destination */
static uint8_t x[1 << 20], y[1 << 20];

static bool open_all(const char *dst_uri)
{
	return opened_open(&a, "malloc:///a?size_mb=16", DESC_WRITE) &&
	       opened_open(&b, "malloc:///b?size_mb=16", DESC_WRITE) &&
	       opened_open(&d, dst_uri, DESC_WRITE);
}

static void close_all(void)
{
	fault_remove_all();
	opened_close(&d);
	opened_close(&b);
	opened_close(&a);
	CHECK_EQ(task_count(), 1); /* this one */
}

/* The same data at @lba on both sources. */
static void put(uint64_t lba, uint32_t nlb, unsigned seed)
{
	struct rng rng;

	rng_init(&rng, seed);
	rng_fill(&rng, x, (size_t)nlb * BLOCK);
	CHECK_EQ(do_io(&a, IO_WRITE, lba, nlb, x, 0), IO_OK);
	CHECK_EQ(do_io(&b, IO_WRITE, lba, nlb, x, 0), IO_OK);
}

static void put_all(void)
{
	for (uint64_t lba = 0; lba < SIZE; lba += MB)
		put(lba, MB, (unsigned)lba + 1);
}

static bool are_equal(struct opened *one, struct opened *two)
{
	for (uint64_t lba = 0; lba < SIZE; lba += MB) {
		if (!CHECK_EQ(do_io(one, IO_READ, lba, MB, x, 0), IO_OK) ||
		    !CHECK_EQ(do_io(two, IO_READ, lba, MB, y, 0), IO_OK))
			return false;
		if (memcmp(x, y, sizeof(x)) != 0)
			return false;
	}
	return true;
}

static struct copy_opts two_sources(void)
{
	return (struct copy_opts){
		.source = { { .desc = a.desc, .owner = &a }, { .desc = b.desc, .owner = &b } },
		.nsources = 2,
		.dst = d.desc,
		.nblocks = SIZE,
	};
}

static enum copy_end run(const struct copy_opts *opts, struct copy_stats *stats, struct err *err)
{
	struct copy *copy = NULL;
	enum copy_end end;

	if (!CHECK_EQ(copy_open(opts, &copy, err), 0) || !CHECK_EQ(copy_start(copy, err), 0))
		return COPY_RUNNING;
	end = copy_wait(copy);
	copy_stats(copy, stats);
	if (end == COPY_FAILED)
		CHECK(copy_error(copy, err) < 0);
	copy_free(copy);
	return end;
}

/* Blocks of @o that hold something. */
static uint64_t used(struct opened *o)
{
	uint64_t n = 0, at = 0, end;

	while ((at = do_seek(o, IO_SEEK_DATA, at)) < SIZE) {
		end = do_seek(o, IO_SEEK_HOLE, at);
		n += end - at;
		at = end;
	}
	return n;
}

ENGINE_TEST(a_full_copy_is_equal)
{
	static const enum copy_verify verify[] = { COPY_VERIFY_NONE, COPY_VERIFY_READ,
						   COPY_VERIFY_COMPARE };

	for (size_t i = 0; i < ARRAY_LEN(verify); i++) {
		struct copy_opts opts;
		struct copy_stats stats;

		if (!open_all("malloc:///d?size_mb=16"))
			return;
		put_all();
		opts = two_sources();
		opts.verify = verify[i];
		opts.locked = i == 1 ? b.dev : NULL;
		CHECK_EQ(run(&opts, &stats, NULL), COPY_COMPLETE);
		CHECK_EQ(stats.blocks_transferred, SIZE);
		CHECK_EQ(stats.blocks_recovered, SIZE);
		CHECK_EQ(stats.remaining_ns, 0);
		CHECK(i == 1 ? stats.ranges_locked >= 4 && stats.ranges_locked <= 16
			     : stats.ranges_locked == 0); /* of 1 to 4 MiB */
		CHECK(are_equal(&a, &d));
		close_all();
	}
}

ENGINE_TEST(a_map_says_what_is_copied)
{
	static const uint32_t dirty[] = { 0, 1, 2, 17, 63, 64, 65, 100, 127, 128, 200, 255 };
	struct copy_opts opts;
	struct copy_stats stats;
	struct segmap map;

	if (!open_all("malloc:///d?size_mb=16"))
		return;
	put_all();
	opts = two_sources();
	CHECK_EQ(run(&opts, &stats, NULL), COPY_COMPLETE);
	CHECK_EQ(segmap_init(&map, SIZE, 7), 0);
	for (size_t i = 0; i < ARRAY_LEN(dirty); i++) {
		segmap_set(&map, dirty[i]);
		put((uint64_t)dirty[i] * SEGMENT + 5, 10, 77 + dirty[i]);
	}
	opts.map = &map;
	CHECK_EQ(run(&opts, &stats, NULL), COPY_COMPLETE);
	CHECK_EQ(stats.blocks_dirty, 12 * SEGMENT);
	CHECK_EQ(stats.blocks_transferred, 12 * SEGMENT);
	CHECK_EQ(stats.blocks_recovered, SIZE);
	CHECK(are_equal(&a, &d));
	segmap_zero(&map);
	CHECK_EQ(run(&opts, &stats, NULL), COPY_COMPLETE);
	CHECK_EQ(stats.blocks_transferred, 0);
	segmap_done(&map);
	close_all();
}

ENGINE_TEST(holes_stay_holes_and_nothing_old_shines_through)
{
	struct copy_opts opts;
	struct copy_stats stats;

	if (!open_all("malloc:///d?size_mb=16"))
		return;
	put(3 * MB + 8, 100, 1);
	put(9 * MB, 3 * MB / 4, 2);
	memset(x, 0xaa, sizeof(x)); /* stale: under holes, beside data, far from it */
	CHECK_EQ(do_io(&d, IO_WRITE, 0, 50, x, 0), IO_OK);
	CHECK_EQ(do_io(&d, IO_WRITE, 3 * MB, 200, x, 0), IO_OK);
	CHECK_EQ(do_io(&d, IO_WRITE, SIZE - 1, 1, x, 0), IO_OK);
	opts = two_sources();
	CHECK_EQ(run(&opts, &stats, NULL), COPY_COMPLETE);
	CHECK(are_equal(&a, &d));
	CHECK_EQ(stats.blocks_transferred, 100 + 3 * MB / 4);
	CHECK_EQ(used(&d), used(&a));
	CHECK(stats.blocks_cleared >= 50 + 100 + 1);
	CHECK_EQ(stats.blocks_cleared + stats.blocks_same + stats.blocks_transferred, SIZE);
	close_all();
}

/* Sides that know less: zeroes are found by looking, and cleared only where something else is. */
ENGINE_TEST(sides_that_know_no_holes)
{
	static const uint32_t seeks = IO_BIT(IO_SEEK_DATA) | IO_BIT(IO_SEEK_HOLE);

	for (unsigned i = 0; i < 8; i++) {
		struct copy_opts opts;
		struct copy_stats stats;

		TAP_ROW(((const char *[]){ "0", "1", "2", "3", "4", "5", "6", "7" })[i]);
		if (!open_all("malloc:///d?size_mb=16"))
			return;
		a.dev->ops &= i & 1 ? ~seeks : ~0u;
		d.dev->ops &= i & 2 ? ~seeks : ~0u;
		d.dev->unmap_reads_zero = !(i & 4);
		put(5 * MB, MB / 2, 1);
		memset(x, 0xaa, sizeof(x));
		CHECK_EQ(do_io(&d, IO_WRITE, MB, 10, x, 0), IO_OK);
		opts = two_sources();
		opts.verify = i & 2 ? COPY_VERIFY_READ : COPY_VERIFY_NONE;
		CHECK_EQ(run(&opts, &stats, NULL), COPY_COMPLETE);
		d.dev->ops |= seeks;
		a.dev->ops |= seeks;
		CHECK_EQ(stats.blocks_transferred, MB / 2);
		CHECK_EQ(stats.blocks_cleared + stats.blocks_same + MB / 2, SIZE);
		CHECK(stats.blocks_cleared >= 10);
		if (i & 4)
			CHECK(stats.blocks_cleared <= 4 * MB);
		CHECK(are_equal(&a, &d));
		CHECK_EQ(used(&d), MB / 2);
		close_all();
	}
	TAP_ROW(NULL);
}

/* Some of a chunk is data, in every shape, and stale data lies under the rest: it stays thin. */
ENGINE_TEST(holes_within_a_chunk)
{
	static const uint32_t seeks = IO_BIT(IO_SEEK_DATA) | IO_BIT(IO_SEEK_HOLE);

	for (unsigned i = 0; i < 4; i++) {
		struct copy_opts opts;
		struct copy_stats stats;
		uint64_t want;

		TAP_ROW(((const char *[]){ "thin", "thin, verified", "no unmap", "not thin" })[i]);
		if (!open_all("malloc:///d?size_mb=16"))
			return;
		a.dev->ops &= ~seeks;
		d.dev->unmap_reads_zero = i != 2;
		d.dev->is_thin = i != 3;
		for (uint64_t seg = 0; seg < SIZE / SEGMENT; seg += 3) {
			for (uint32_t page = 0; page < 16; page++) {
				if (seg >> (page / 2) & 1)
					put(seg * SEGMENT + page * 8ull, 8, page + 1);
			}
		}
		memset(x, 0xaa, sizeof(x));
		CHECK_EQ(do_io(&d, IO_WRITE, 2 * MB + 3, 1000, x, 0), IO_OK);
		opts = two_sources();
		opts.nsources = 1;
		opts.verify = i == 1 ? COPY_VERIFY_READ : COPY_VERIFY_NONE;
		CHECK_EQ(run(&opts, &stats, NULL), COPY_COMPLETE);
		CHECK_EQ(stats.blocks_cleared + stats.blocks_same + stats.blocks_transferred, SIZE);
		a.dev->ops |= seeks;
		want = used(&a);
		if (i < 3)
			CHECK_EQ(stats.blocks_transferred, want);
		CHECK(i < 3 ? used(&d) == want : used(&d) > want);
		CHECK(are_equal(&a, &d));
		d.dev->unmap_reads_zero = d.dev->is_thin = true;
		close_all();
	}
	TAP_ROW(NULL);
}

/* Under a hole what the destination has does not matter, nor whether it can be read. */
ENGINE_TEST(a_bad_block_under_a_hole_is_cleared)
{
	struct copy_opts opts;
	struct copy_stats stats;
	struct err err = {};

	if (!open_all("malloc:///d?size_mb=16"))
		return;
	d.dev->unmap_reads_zero = false;
	memset(x, 0xaa, sizeof(x));
	CHECK_EQ(do_io(&d, IO_WRITE, 9000, 10, x, 0), IO_OK);
	CHECK_EQ(fault_add("inject://d?op=read&method=status-nvme-2-81&offset=9000&num_blk=10",
			   &err),
		 0);
	opts = two_sources();
	CHECK_EQ(run(&opts, &stats, &err), COPY_COMPLETE);
	fault_remove_all();
	CHECK(are_equal(&a, &d));
	close_all();
}

static unsigned nfailed, nmedium;

static void on_failed(void *owner, uint16_t status, bool is_medium, uint64_t lba, uint32_t nlb)
{
	CHECK(owner == &a);
	CHECK(status != IO_OK);
	CHECK(range_fits(lba, nlb, SIZE));
	nfailed += !is_medium;
	nmedium += is_medium;
}

ENGINE_TEST(another_source_takes_over)
{
	static const struct {
		const char *fault;
		bool is_medium;
	} rows[] = {
		{ "inject://a?op=read&stage=completion&offset=9000&num_blk=10", false },
		{ "inject://a?op=read&method=status-nvme-2-81&offset=9000&num_blk=10", true },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct copy_opts opts;
		struct copy_stats stats;

		TAP_ROW(rows[i].fault);
		if (!open_all("malloc:///d?size_mb=16"))
			return;
		put_all();
		CHECK_EQ(fault_add(rows[i].fault, NULL), 0);
		nfailed = nmedium = 0;
		opts = two_sources();
		opts.source_failed = on_failed;
		CHECK_EQ(run(&opts, &stats, NULL), COPY_COMPLETE);
		CHECK_EQ(nmedium > 0, rows[i].is_medium);
		CHECK_EQ(nfailed > 0, !rows[i].is_medium);
		CHECK_EQ(stats.source, rows[i].is_medium ? 0 : 1);
		fault_remove_all();
		CHECK(are_equal(&b, &d));
		close_all();
	}
	TAP_ROW(NULL);
}

static const void *bad;

static bool on_is_good(void *owner)
{
	return owner != bad;
}

ENGINE_TEST(failures_end_it_with_a_reason)
{
	static const struct {
		const char *fault, *dst, *says;
		enum copy_verify verify;
		unsigned nsources;
	} rows[] = {
		{ "inject://a?op=read&offset=9000&num_blk=10", "malloc:///d?size_mb=16",
		  "no source could be read", COPY_VERIFY_NONE, 1 },
		{ "inject://d?op=write&offset=9000&num_blk=10", "malloc:///d?size_mb=16",
		  "d: write at block", COPY_VERIFY_NONE, 2 },
		{ NULL, "malloc:///d?size_mb=16&capacity_mb=4", "no space", COPY_VERIFY_NONE, 2 },
		{ "inject://d?op=read&method=corrupt&offset=9000&num_blk=1",
		  "malloc:///d?size_mb=16", "does not give back", COPY_VERIFY_READ, 2 },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct err err = {};
		struct copy_opts opts;
		struct copy_stats stats;

		TAP_ROW(rows[i].says);
		if (!open_all(rows[i].dst))
			return;
		put_all();
		if (rows[i].fault != NULL && fault_add(rows[i].fault, &err) < 0)
			CHECK_STR(err_text(&err), "a fault");
		opts = two_sources();
		opts.nsources = rows[i].nsources;
		opts.verify = rows[i].verify;
		CHECK_EQ(run(&opts, &stats, &err), COPY_FAILED);
		CHECK_HAS(err_text(&err), rows[i].says);
		close_all();
	}
	TAP_ROW(NULL);
}

ENGINE_TEST(a_source_that_is_not_good_is_not_read)
{
	struct copy_opts opts;
	struct copy_stats stats;
	struct err err = {};

	if (!open_all("malloc:///d?size_mb=16"))
		return;
	put_all();
	memset(x, 1, sizeof(x));
	CHECK_EQ(do_io(&a, IO_WRITE, 0, MB, x, 0), IO_OK); /* must not be seen */
	bad = &a;
	opts = two_sources();
	opts.is_good = on_is_good;
	CHECK_EQ(run(&opts, &stats, NULL), COPY_COMPLETE);
	CHECK(are_equal(&b, &d));
	opts.nsources = 1;
	CHECK_EQ(run(&opts, &stats, &err), COPY_FAILED);
	CHECK_HAS(err_text(&err), "no source is left");
	bad = NULL;
	close_all();
}

/* What a snapshot holds itself: the rest is left as it is on the destination. */
ENGINE_TEST(only_what_is_the_sources_own)
{
	struct copy_opts opts;
	struct copy_stats stats;

	if (!open_all("malloc:///d?size_mb=16"))
		return;
	put(10, 3, 1);
	put(MB + 128, 256, 2);
	memset(x, 0xcc, sizeof(x));
	CHECK_EQ(do_io(&d, IO_WRITE, 0, MB, x, 0), IO_OK);
	opts = two_sources();
	opts.is_current_only = true;
	CHECK_EQ(run(&opts, &stats, NULL), COPY_COMPLETE);
	CHECK_EQ(stats.blocks_transferred, 259);
	CHECK_EQ(stats.blocks_cleared, 0);
	CHECK_EQ(do_io(&d, IO_READ, 0, 20, y, 0), IO_OK);
	CHECK_EQ(do_io(&a, IO_READ, 0, 20, x, 0), IO_OK);
	CHECK_MEM(y + 10 * BLOCK, x + 10 * BLOCK, 3 * BLOCK);
	CHECK_EQ(y[0], 0xcc);
	CHECK_EQ(y[13 * BLOCK], 0xcc);
	CHECK_EQ(do_io(&d, IO_READ, MB + 128, 256, y, 0), IO_OK);
	CHECK_EQ(do_io(&a, IO_READ, MB + 128, 256, x, 0), IO_OK);
	CHECK_MEM(y, x, 256 * BLOCK);
	close_all();
}

ENGINE_TEST(pause_resume_stop)
{
	struct copy_opts opts;
	struct copy_stats stats;
	struct copy *copy = NULL;
	uint64_t position;

	if (!open_all("malloc:///d?size_mb=16"))
		return;
	put_all();
	opts = two_sources();
	opts.window = 1;
	if (!CHECK_EQ(copy_open(&opts, &copy, NULL), 0) || !CHECK_EQ(copy_start(copy, NULL), 0))
		return;
	do {
		task_yield();
		copy_stats(copy, &stats);
	} while (stats.blocks_transferred == 0);
	copy_pause(copy);
	copy_wait_idle(copy);
	position = copy_position(copy);
	CHECK(position > 0 && position < SIZE);
	copy_stats(copy, &stats);
	CHECK_EQ(stats.blocks_transferred, position);
	CHECK_EQ(stats.tasks_active, 0);
	CHECK(stats.remaining_ns > 0 && stats.remaining_ns < UINT64_MAX);
	for (unsigned i = 0; i < 200; i++)
		task_yield();
	CHECK_EQ(copy_position(copy), position);
	copy_resume(copy);
	copy_pause(copy);
	copy_stop(copy);
	CHECK_EQ(copy_wait(copy), COPY_STOPPED);
	CHECK_EQ(copy_position(copy), position);
	copy_free(copy);
	opts.from = position; /* from there on */
	opts.window = 0;
	CHECK_EQ(run(&opts, &stats, NULL), COPY_COMPLETE);
	CHECK_EQ(stats.blocks_transferred, SIZE - position);
	CHECK(are_equal(&a, &d));
	close_all();
}

ENGINE_TEST(a_rate_is_kept)
{
	struct copy_opts opts;
	struct copy_stats stats;

	if (!open_all("malloc:///d?size_mb=16"))
		return;
	put_all();
	opts = two_sources();
	opts.rate = 80 << 20; /* 16 MiB take 0.2 s, but for the first two ranges */
	CHECK_EQ(run(&opts, &stats, NULL), COPY_COMPLETE);
	CHECK(stats.run_ns > 90 * NS_PER_MS);
	close_all();
}

/* Work takes time, too: with 10 ms of it per 20 ms of the rate, the rate is still met, but what was
 * not used long ago is not made good. */
ENGINE_TEST(a_rate_is_met)
{
	enum { ROUNDS = 20, BYTES = 2 << 20 };
	uint64_t start_ns = reactor_self()->now_ns, now_ns;
	struct pace pace;

	CHECK_EQ(pace_init(&pace, NULL, 100 << 20, 0, NULL), 0);
	for (unsigned i = 0; i < ROUNDS; i++) {
		if (pace.due_ns > reactor_self()->now_ns)
			task_sleep(pace.due_ns - reactor_self()->now_ns);
		task_sleep(10 * NS_PER_MS);
		pace_charge(&pace, BYTES);
	}
	CHECK(pace.due_ns - start_ns >= ROUNDS * 20 * NS_PER_MS);
	CHECK(pace.due_ns - start_ns < ROUNDS * 22 * NS_PER_MS);
	task_sleep(PACE_CREDIT_NS + 300 * NS_PER_MS);
	now_ns = reactor_self()->now_ns;
	pace_charge(&pace, BYTES);
	CHECK(pace.due_ns >= now_ns - PACE_CREDIT_NS + 20 * NS_PER_MS);
	pace_done(&pace);
}

static unsigned ngone;

static void on_gone(void *owner)
{
	CHECK(owner == &a);
	ngone++;
}

ENGINE_TEST(a_source_can_be_taken_away)
{
	struct copy_opts opts;
	struct copy_stats stats;
	struct copy *copy = NULL;

	if (!open_all("malloc:///d?size_mb=16"))
		return;
	put_all();
	opts = two_sources();
	opts.source_gone = on_gone;
	opts.window = 2;
	ngone = 0;
	if (!CHECK_EQ(copy_open(&opts, &copy, NULL), 0) || !CHECK_EQ(copy_start(copy, NULL), 0))
		return;
	task_yield();
	copy_drop_source(copy, 0);
	copy_drop_source(copy, 0);
	while (ngone == 0)
		task_yield();
	memset(x, 1, sizeof(x));
	for (uint64_t lba = 0; lba < SIZE; lba += MB)
		CHECK_EQ(do_io(&a, IO_WRITE, lba, MB, x, 0), IO_OK);
	CHECK_EQ(copy_wait(copy), COPY_COMPLETE);
	copy_stats(copy, &stats);
	CHECK_EQ(stats.source, 1);
	copy_free(copy);
	CHECK_EQ(ngone, 1);
	CHECK(are_equal(&b, &d));
	close_all();
}

ENGINE_TEST(what_does_not_fit_is_refused)
{
	struct copy_opts opts;
	struct copy *copy = NULL;
	struct err err = {};

	if (!open_all("malloc:///d?size_mb=16&blk_size=4096"))
		return;
	opts = two_sources();
	opts.nblocks = 16;
	CHECK_EQ(copy_open(&opts, &copy, &err), -EINVAL);
	CHECK_HAS(err_text(&err), "must be equal");
	opts.dst = b.desc;
	opts.nblocks = SIZE + 1;
	err_clear(&err);
	CHECK_EQ(copy_open(&opts, &copy, &err), -EINVAL);
	CHECK_HAS(err_text(&err), "do not fit");
	close_all();
}

TAP_MAIN()
