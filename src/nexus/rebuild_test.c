/* SPDX-License-Identifier: Apache-2.0 */
/* Rebuilds of a nexus over memory devices: full, partial, under load, of all shapes. */
#include "nexus/rebuild.h"

#include <unistd.h>

#include "base/units.h"
#include "nexus/pace.h"
#include "nexus/rebuild_testing.h"

/* ---- whole ones ----------------------------------------------------------------------------- */

ENGINE_TEST(a_child_that_is_added_gets_everything)
{
	struct nexus_err ne = {};

	if (!all_make(1))
		return;
	put_all();
	memset(x, 0xaa, sizeof(x));
	CHECK_EQ(base_do(1, IO_WRITE, START + 5, 100, x), IO_OK);
	CHECK_EQ(nexus_child_add(nx, uris[1], true, &ne), 0);
	CHECK_EQ(child(1).health, CHILD_HEALTH_DEGRADED);
	nexus_rebuild_wait(nx);
	CHECK_EQ(child(1).health, CHILD_HEALTH_ONLINE);
	CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
	CHECK_EQ(last()->stats.blocks_transferred, NBLOCKS);
	CHECK_EQ(last()->stats.progress, 100);
	CHECK(!last()->stats.is_partial);
	CHECK_STR(last()->child, uris[1]);
	CHECK_STR(last()->source, uris[0]);
	CHECK(last()->stats.end_ns >= last()->stats.start_ns);
	CHECK(are_equal(0, 1));
	CHECK_EQ(nexus_rebuild_progress(nx, uris[1]), -1);
	CHECK(nexus_rebuild_history(nx, 1) == NULL);
	all_unmake();
}

/* Row 4 of the acceptance list, and row 7: a local source first. */
ENGINE_TEST(twelve_dirty_segments_move_twelve)
{
	if (!all_make(3))
		return;
	put_all();
	offline(1);
	CHECK(child(1).has_io_log);
	touch(40, 12, 9);
	CHECK_EQ(child(1).missed_segments, 12);
	nx->child[nx->order[0]]->is_local = false;
	online(1);
	nexus_rebuild_wait(nx);
	CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
	CHECK(last()->stats.is_partial);
	CHECK_EQ(last()->stats.blocks_transferred, 12 * SEGMENT);
	CHECK_EQ(last()->stats.blocks_recovered, NBLOCKS);
	CHECK_EQ(last()->stats.blocks_remaining, 0);
	CHECK_STR(last()->source, uris[2]);
	CHECK_EQ(child(1).health, CHILD_HEALTH_ONLINE);
	CHECK(are_equal(0, 1) && are_equal(0, 2));
	rebuild_settings_set(&(struct rebuild_settings){ .is_always_full = true });
	offline(1);
	online(1);
	nexus_rebuild_wait(nx);
	CHECK(!last()->stats.is_partial);
	CHECK_EQ(last()->stats.blocks_transferred, NBLOCKS);
	all_unmake();
}

/* Row 5: a partial one fails, then a full one, then a partial one. */
ENGINE_TEST(a_second_fault_makes_it_full)
{
	static const bool partial[] = { true, false, true };
	static const enum rebuild_state states[] = { REBUILD_COMPLETED, REBUILD_COMPLETED,
						     REBUILD_FAILED };

	if (!all_make(2))
		return;
	put_all();
	offline(1);
	touch(0, 12, 9);
	inject("inject://m1?op=write&stage=completion&offset=10240&num_blk=128");
	online(1);
	nexus_rebuild_wait(nx);
	settle_down();
	CHECK_EQ(child(1).state, CHILD_FAULTED);
	CHECK_EQ(child(1).reason, NEXUS_REASON_REBUILD_FAILED);
	CHECK(!child(1).has_io_log);
	CHECK_HAS(err_text(&last()->why), "m1: write at block");
	fault_remove_all();
	online(1);
	nexus_rebuild_wait(nx);
	offline(1);
	touch(20, 3, 10);
	online(1);
	nexus_rebuild_wait(nx);
	for (unsigned i = 0; i < 3; i++) {
		const struct rebuild_record *record = nexus_rebuild_history(nx, i);

		if (!CHECK(record != NULL))
			continue;
		CHECK_EQ(record->stats.is_partial, partial[i]);
		CHECK_EQ(record->stats.state, states[i]);
	}
	CHECK(are_equal(0, 1));
	all_unmake();
}

/* ---- under load ----------------------------------------------------------------------------- */

enum { WRITERS = 8 };

struct writer {
	struct io io;
	struct rng rng;
	uint8_t buf[8 * BLOCK];
	struct task_event ended;
};

static struct writer writers[WRITERS];
static bool is_load_over;
static unsigned nwrites;

static void writer_next(struct io *io)
{
	struct writer *w = container_of(io, struct writer, io);

	CHECK_EQ(io->status, IO_OK);
	if (is_load_over) {
		task_event_fire(&w->ended);
		return;
	}
	nwrites++;
	io->nlb = 1 + (uint32_t)rng_below(&w->rng, 8);
	io->lba = rng_below(&w->rng, NBLOCKS - 8);
	io->op = rng_below(&w->rng, 16) == 0 ? IO_WRITE_ZEROES : IO_WRITE;
	io->iovcnt = io->op == IO_WRITE;
	rng_fill(&w->rng, w->buf, sizeof(w->buf));
	io->one.iov_len = (size_t)io->nlb * BLOCK;
	io_submit(o.h, io);
}

static void load_start(void)
{
	is_load_over = false;
	nwrites = 0;
	for (unsigned i = 0; i < WRITERS; i++) {
		struct writer *w = &writers[i];

		*w = (struct writer){ .io.done = writer_next };
		rng_init(&w->rng, i + 1);
		io_set_buf(&w->io, w->buf, sizeof(w->buf));
		writer_next(&w->io);
	}
}

static void load_end(void)
{
	is_load_over = true;
	for (unsigned i = 0; i < WRITERS; i++)
		task_event_wait(&writers[i].ended);
}

ENGINE_TEST(hosts_write_while_it_is_rebuilt)
{
	struct nexus_err ne = {};
	unsigned before;

	if (!all_make(2))
		return;
	put_all();
	load_start();
	for (unsigned round = 0; round < 3; round++) {
		offline(1);
		before = nwrites;
		while (nwrites < before + 200)
			task_yield();
		before = nwrites;
		online(1);
		nexus_rebuild_wait(nx);
		CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
		CHECK(last()->stats.is_partial);
		CHECK(nwrites > before);
	}
	CHECK_EQ(nexus_child_add(nx, uris[2], true, &ne), 0);
	nexus_rebuild_wait(nx);
	CHECK_EQ(child(2).health, CHILD_HEALTH_ONLINE);
	load_end();
	CHECK(are_equal(0, 1) && are_equal(0, 2));
	all_unmake();
}

/* The copy on one reactor, the hosts on the other; limits are kept, sources come and go. */
static void on_two_reactors(void)
{
	struct rebuild_stats stats = {};
	struct nexus_err ne = {};
	unsigned least = 100;

	if (!all_make(2))
		return;
	put_all();
	load_start();
	for (unsigned round = 0; round < 5; round++) {
		rebuild_settings_set(&(struct rebuild_settings){ .latency_ns = round % 2 ? 1 : 0,
								 .rate = round % 2 ? 80 << 20 : 0,
								 .verify = round % 3 });
		CHECK_EQ(nexus_child_add(nx, uris[2], true, &ne), 0);
		if (round == 4)
			offline(0);
		while (nexus_rebuild_stats(nx, uris[2], &stats, NULL) == 0) {
			least = MIN(least, stats.speed);
			if (stats.speed < 100)
				fast(); /* seen; the rest need not take long */
			task_yield();
		}
		CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
		if (round == 4) {
			online(0);
			nexus_rebuild_wait(nx);
		}
		if (round < 4)
			CHECK_EQ(nexus_child_remove(nx, uris[2], &ne), 0);
	}
	load_end();
	CHECK(least < 100); /* hosts that may wait for 1 ns wait for too long */
	CHECK(least >= PACE_SPEED_MIN);
	CHECK(are_equal(0, 1) && are_equal(0, 2));
	all_unmake();
}

static int two_reactors_task(void *arg, struct err *err)
{
	(void)arg;
	(void)err;
	on_two_reactors();
	return 0;
}

TEST(a_copy_on_another_reactor)
{
	struct engine_opts opts = { .reactor.core_mask = 3 };
	struct err err = {};

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP("one processor");
	else if (engine_run(&opts, two_reactors_task, NULL, &err) < 0)
		CHECK_STR(err_text(&err), "an engine that runs");
}

static uint64_t times_fired(const char *uri)
{
	struct fault_info info = {};

	for (unsigned i = 0; fault_list(i, &info); i++) {
		if (strcmp(info.uri, uri) == 0)
			return info.fired;
	}
	return 0;
}

static void write_start(struct writer *w, uint64_t lba)
{
	*w = (struct writer){ .io = { .op = IO_WRITE, .lba = lba, .nlb = 1, .done = writer_next } };
	memset(w->buf, 0x77, sizeof(w->buf));
	io_set_buf(&w->io, w->buf, BLOCK);
	io_submit(o.h, &w->io);
}

/* Row 8: a write into the range that is being copied waits, and is there afterwards. The fault
 * holds the copy's own write of what it has read before, and nothing else. */
ENGINE_TEST(a_write_waits_for_the_range_that_is_copied)
{
	const char *hold = "inject://m1?op=write&method=delay&delay_us=100000&offset=23040"
			   "&num_blk=128&retries=1";
	static struct writer within, beyond;
	struct rebuild_stats stats = {};

	if (!all_make(2))
		return;
	put_all();
	offline(1);
	touch(100, 1, 5);
	inject(hold);
	online(1);
	while (times_fired(hold) == 0)
		task_yield();
	is_load_over = true;
	write_start(&within, 12800 + 100 % SEGMENT); /* what was touched */
	write_start(&beyond, 0);
	task_event_wait(&beyond.ended);
	while (!within.ended.is_fired && nexus_rebuild_count(nx) > 0)
		task_yield();
	/* the copy was first */
	CHECK(nexus_rebuild_stats(nx, uris[1], &stats, NULL) < 0 || stats.blocks_transferred > 0);
	task_event_wait(&within.ended);
	nexus_rebuild_wait(nx);
	CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
	CHECK_EQ(last()->stats.blocks_transferred, SEGMENT);
	CHECK(are_equal(0, 1));
	CHECK_EQ(base_do(1, IO_READ, START + 12800 + 100 % SEGMENT, 1, x), IO_OK);
	CHECK_EQ(x[0], 0x77);
	all_unmake();
}

/* ---- size, thin, verify --------------------------------------------------------------------- */

ENGINE_TEST(the_nexus_grows_while_it_rebuilds)
{
	struct nexus_err ne = {};

	if (!all_make(1))
		return;
	put_all();
	slow();
	memset(x, 0x33, sizeof(x)); /* stale, where the nexus will grow to */
	CHECK_EQ(base_do(1, IO_WRITE, START + NBLOCKS + 100, 50, x), IO_OK);
	CHECK_EQ(nexus_child_add(nx, uris[1], true, &ne), 0);
	until_it_moves(uris[1]);
	CHECK_EQ(nexus_resize(nx, 20 << 20, &ne), 0);
	CHECK(o.dev->nblocks > NBLOCKS);
	put(NBLOCKS + 500, 10, 5);
	fast();
	nexus_rebuild_wait(nx);
	CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
	CHECK_EQ(last()->stats.blocks_total, o.dev->nblocks);
	CHECK_EQ(last()->stats.blocks_recovered, o.dev->nblocks);
	CHECK(are_equal(0, 1));
	all_unmake();
}

/* Row 6: allocated alike on both. */
ENGINE_TEST(thin_stays_thin)
{
	struct nexus_err ne = {};
	uint64_t at[2] = { START, START };

	if (!all_make(1))
		return;
	put(1000, 300, 1);
	put(20 * SEGMENT, 64, 2);
	memset(x, 0xaa, sizeof(x));
	CHECK_EQ(base_do(1, IO_WRITE, START + 4096, 200, x), IO_OK);
	CHECK_EQ(nexus_child_add(nx, uris[1], true, &ne), 0);
	nexus_rebuild_wait(nx);
	CHECK_EQ(last()->stats.blocks_transferred, 364);
	CHECK(last()->stats.blocks_cleared >= 200);
	CHECK(are_equal(0, 1));
	do {
		enum io_op op = at[0] % 2 ? IO_SEEK_HOLE : IO_SEEK_DATA;

		for (unsigned i = 0; i < 2; i++) {
			struct opened c = { .dev = device_lookup(i == 0 ? "m0" : "m1") };

			CHECK_EQ(desc_open(c.dev, &(struct desc_opts){}, &c.desc, NULL), 0);
			CHECK_EQ(handle_open(c.desc, reactor_primary(), &c.h, NULL), 0);
			at[i] = do_seek(&c, op, at[i]);
			desc_close(c.desc);
		}
		CHECK_EQ(at[0], at[1]);
	} while (at[0] == at[1] && at[0]++ == at[1]++ && at[0] < START + NBLOCKS);
	all_unmake();
}

ENGINE_TEST(a_child_that_does_not_keep_what_it_is_given)
{
	static const enum copy_verify verify[] = { COPY_VERIFY_READ, COPY_VERIFY_COMPARE };

	for (size_t i = 0; i < ARRAY_LEN(verify); i++) {
		if (!all_make(2))
			return;
		put_all();
		offline(1);
		touch(7, 1, 3);
		rebuild_settings_set(&(struct rebuild_settings){ .verify = verify[i] });
		inject("inject://m1?op=write&method=drop&offset=11136&num_blk=128");
		online(1);
		nexus_rebuild_wait(nx);
		settle_down();
		CHECK_EQ(last()->stats.state, REBUILD_FAILED);
		CHECK_HAS(err_text(&last()->why), "does not give back what was written");
		fault_remove_all();
		online(1);
		nexus_rebuild_wait(nx);
		CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
		CHECK(are_equal(0, 1));
		all_unmake();
	}
}

/* Not in sync before what was copied is on stable media. */
ENGINE_TEST(a_child_that_cannot_flush)
{
	if (!all_make(2))
		return;
	put_all();
	offline(1);
	touch(7, 1, 3);
	inject("inject://m1?op=flush&stage=completion");
	online(1);
	nexus_rebuild_wait(nx);
	settle_down();
	CHECK_EQ(last()->stats.state, REBUILD_FAILED);
	CHECK_HAS(err_text(&last()->why), "flush failed");
	CHECK_EQ(child(1).reason, NEXUS_REASON_REBUILD_FAILED);
	all_unmake();
}

/* Events: one at the beginning, one at the end. */
static unsigned nevents;

static void on_event(struct nexus_listener *listener, const struct nexus_event *event)
{
	(void)listener;
	nevents += event->type == NEXUS_EVENT_REBUILD;
}

ENGINE_TEST(beginning_and_end_are_told)
{
	struct nexus_listener listener = { .fn = on_event };

	if (!all_make(2))
		return;
	nexus_listen(&listener);
	nevents = 0;
	offline(1);
	online(1);
	nexus_rebuild_wait(nx);
	CHECK_EQ(nevents, 2);
	nexus_unlisten(&listener);
	all_unmake();
}

TAP_MAIN()
