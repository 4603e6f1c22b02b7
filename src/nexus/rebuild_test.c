/* SPDX-License-Identifier: Apache-2.0 */
/* Rebuilds of a nexus over memory devices: the table of states, full, partial, interrupted. */
#include "nexus/rebuild.h"

#include <unistd.h>

#include "base/units.h"
#include "nexus/pace.h"
#include "nexus/rebuild_testing.h"

/* ---- the table ------------------------------------------------------------------------------ */

TEST(states_and_operations)
{
	static const char *const want[REBUILD_STATE_COUNT_] = {
		/* start stop pause resume force-stop force-fail: Do, Nothing, x */
		[REBUILD_INIT] = "DDDxDD",   [REBUILD_RUNNING] = "NDDNDD",
		[REBUILD_PAUSED] = "xDNDDD", [REBUILD_STOPPED] = "xNxxNN",
		[REBUILD_FAILED] = "xxxxNN", [REBUILD_COMPLETED] = "xxxxNN",
	};

	for (unsigned state = 0; state < REBUILD_STATE_COUNT_; state++) {
		for (unsigned op = 0; op < REBUILD_OP_COUNT_; op++) {
			enum rebuild_state pending;
			enum rebuild_answer answer = rebuild_judge((enum rebuild_state)state,
								   REBUILD_STATE_COUNT_,
								   (enum rebuild_op)op, &pending);
			char got = answer == REBUILD_DO        ? 'D'
				   : answer == REBUILD_NOTHING ? 'N'
							       : 'x';

			TAP_ROW(rebuild_state_name((enum rebuild_state)state));
			CHECK_EQ(got, want[state][op]);
		}
	}
	TAP_ROW(NULL);
}

TEST(what_is_pending_is_not_contradicted)
{
	static const struct {
		enum rebuild_state state, pending;
		enum rebuild_op op;
		enum rebuild_answer answer;
		enum rebuild_state next;
	} rows[] = {
		{ REBUILD_RUNNING, REBUILD_PAUSED, REBUILD_OP_PAUSE, REBUILD_NOTHING, 0 },
		{ REBUILD_RUNNING, REBUILD_PAUSED, REBUILD_OP_STOP, REBUILD_BUSY, 0 },
		{ REBUILD_RUNNING, REBUILD_PAUSED, REBUILD_OP_RESUME, REBUILD_BUSY, 0 },
		{ REBUILD_RUNNING, REBUILD_STOPPED, REBUILD_OP_STOP, REBUILD_NOTHING, 0 },
		{ REBUILD_RUNNING, REBUILD_STOPPED, REBUILD_OP_PAUSE, REBUILD_BUSY, 0 },
		{ REBUILD_RUNNING, REBUILD_STOPPED, REBUILD_OP_FORCE_FAIL, REBUILD_DO,
		  REBUILD_FAILED },
		{ REBUILD_RUNNING, REBUILD_PAUSED, REBUILD_OP_FORCE_STOP, REBUILD_DO,
		  REBUILD_STOPPED },
		{ REBUILD_RUNNING, REBUILD_FAILED, REBUILD_OP_FORCE_STOP, REBUILD_NOTHING, 0 },
		{ REBUILD_RUNNING, REBUILD_FAILED, REBUILD_OP_STOP, REBUILD_BUSY, 0 },
		{ REBUILD_COMPLETED, REBUILD_STATE_COUNT_, REBUILD_OP_STOP, REBUILD_NO, 0 },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		enum rebuild_state next = 0;

		CHECK_EQ(rebuild_judge(rows[i].state, rows[i].pending, rows[i].op, &next),
			 rows[i].answer);
		CHECK_EQ(next, rows[i].next);
	}
}

/* ---- helpers -------------------------------------------------------------------------------- */

static const struct rebuild_record *last(void)
{
	static const struct rebuild_record none;
	const struct rebuild_record *record = nexus_rebuild_history(nx, 0);

	return CHECK(record != NULL) ? record : &none;
}

/* Slow enough to be met while it runs. */
static void slow(void)
{
	rebuild_settings_set(&(struct rebuild_settings){ .rate = 40 << 20 });
}

static void fast(void)
{
	rebuild_settings_set(&(struct rebuild_settings){});
}

static void until_it_moves(const char *uri)
{
	struct rebuild_stats stats = {};

	while (nexus_rebuild_stats(nx, uri, &stats, NULL) == 0 && stats.blocks_transferred == 0)
		task_yield();
	CHECK(stats.blocks_transferred > 0);
}

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

/* ---- interrupted ---------------------------------------------------------------------------- */

ENGINE_TEST(pause_resume_stop_and_start_again)
{
	struct rebuild_stats stats = {}, later = {};
	struct nexus_err ne = {};
	uint32_t missed;

	if (!all_make(2))
		return;
	put_all();
	offline(1);
	put_all();
	slow();
	online(1);
	until_it_moves(uris[1]);
	CHECK_EQ(nexus_rebuild_pause(nx, uris[1], &ne), 0);
	CHECK_EQ(nexus_rebuild_stats(nx, uris[1], &stats, &ne), 0);
	CHECK_EQ(stats.state, REBUILD_PAUSED);
	CHECK_EQ(stats.tasks_active, 0);
	CHECK(stats.blocks_remaining > 0 && stats.blocks_remaining < NBLOCKS);
	task_sleep(5 * NS_PER_MS);
	CHECK_EQ(nexus_rebuild_stats(nx, uris[1], &later, &ne), 0);
	CHECK_EQ(later.blocks_transferred, stats.blocks_transferred);
	CHECK_EQ(nexus_rebuild_start(nx, uris[1], &ne), -EPERM); /* not from paused */
	ne = (struct nexus_err){};
	CHECK_EQ(nexus_rebuild_resume(nx, uris[1], &ne), 0);
	CHECK_EQ(nexus_rebuild_resume(nx, uris[1], &ne), 0);
	CHECK_EQ(nexus_rebuild_stop(nx, uris[1], &ne), 0);
	CHECK_EQ(last()->stats.state, REBUILD_STOPPED);
	CHECK_EQ(child(1).state, CHILD_OPEN);
	CHECK(!child(1).is_synced);
	missed = child(1).missed_segments;
	CHECK(missed > 0 && missed < NBLOCKS / SEGMENT);
	CHECK_EQ((uint64_t)missed * SEGMENT, NBLOCKS - last()->stats.blocks_recovered);
	CHECK_EQ(nexus_rebuild_stop(nx, uris[1], &ne), 0); /* none: fine */
	CHECK_EQ(nexus_rebuild_pause(nx, uris[1], &ne), -ENOENT);
	CHECK_EQ(ne.why, NEXUS_E_REBUILD_NOT_FOUND);
	touch(0, 4, 3); /* behind the position: it goes to the child, and is not copied again */
	fast();
	ne = (struct nexus_err){};
	CHECK_EQ(nexus_rebuild_start(nx, uris[1], &ne), 0);
	nexus_rebuild_wait(nx);
	CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
	CHECK_EQ(last()->stats.blocks_transferred, (uint64_t)missed * SEGMENT);
	CHECK(are_equal(0, 1));
	CHECK_EQ(nexus_rebuild_start(nx, uris[1], &ne), -EPERM); /* it is healthy */
	all_unmake();
}

ENGINE_TEST(a_source_falls_and_another_takes_over)
{
	if (!all_make(3))
		return;
	put_all();
	offline(1);
	put_all();
	slow();
	online(1);
	until_it_moves(uris[1]);
	offline(0); /* returns: the rebuild has let it go */
	CHECK_EQ(child(0).health, CHILD_HEALTH_DEGRADED);
	fast();
	nexus_rebuild_wait(nx);
	CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
	CHECK_STR(last()->source, uris[2]);
	CHECK(are_equal(1, 2));
	all_unmake();
}

/* A rebuild goes on when one of its sources has been removed, and asks nothing of it. */
ENGINE_TEST(a_source_is_removed)
{
	struct nexus_err ne = {};

	if (!all_make(3))
		return;
	put_all();
	offline(1);
	put_all();
	slow();
	online(1);
	until_it_moves(uris[1]);
	CHECK_EQ(nexus_child_remove(nx, uris[0], &ne), 0); /* returns: it is freed */
	CHECK_EQ(nexus_rebuild_leave_source(nx, uris[1], uris[0], &ne), -ENOENT);
	CHECK_EQ(ne.why, NEXUS_E_CHILD_NOT_FOUND);
	offline(1); /* its rebuild is over, and says what it was from */
	CHECK_EQ(last()->stats.state, REBUILD_FAILED);
	CHECK_STR(last()->source, uris[2]);
	fast();
	all_unmake();
}

ENGINE_TEST(another_source_on_request)
{
	struct nexus_err ne = {};

	if (!all_make(3))
		return;
	put_all();
	offline(1);
	put_all();
	slow();
	online(1);
	until_it_moves(uris[1]);
	CHECK_EQ(nexus_rebuild_leave_source(nx, uris[1], uris[3], &ne), -ENOENT);
	ne = (struct nexus_err){};
	CHECK_EQ(nexus_rebuild_leave_source(nx, uris[1], uris[0], &ne), 0);
	fast();
	nexus_rebuild_wait(nx);
	CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
	CHECK_STR(last()->source, uris[2]);
	CHECK_EQ(child(0).health, CHILD_HEALTH_ONLINE);
	CHECK(are_equal(0, 1));
	all_unmake();
}

ENGINE_TEST(the_child_falls_while_it_is_rebuilt)
{
	static const char *const how[] = { "offline", "remove", "a host's write fails" };

	for (unsigned i = 0; i < ARRAY_LEN(how); i++) {
		struct nexus_err ne = {};

		TAP_ROW(how[i]);
		if (!all_make(2))
			return;
		put_all();
		offline(1);
		put_all();
		slow();
		online(1);
		until_it_moves(uris[1]);
		if (i == 0) {
			offline(1);
		} else if (i == 1) {
			CHECK_EQ(nexus_child_remove(nx, uris[1], &ne), 0);
		} else {
			inject("inject://m1?op=write&stage=completion&offset=42000&num_blk=10");
			put(42000 - START, 1, 1);
			settle_down();
		}
		CHECK_EQ(nexus_rebuild_count(nx), 0);
		CHECK_EQ(last()->stats.state, REBUILD_FAILED);
		fault_remove_all();
		fast();
		if (i == 1)
			CHECK_EQ(nexus_child_add(nx, uris[1], true, &ne), 0);
		else
			online(1);
		nexus_rebuild_wait(nx);
		CHECK(!last()->stats.is_partial);
		CHECK_EQ(child(1).health, CHILD_HEALTH_ONLINE);
		CHECK(are_equal(0, 1));
		all_unmake();
	}
	TAP_ROW(NULL);
}

ENGINE_TEST(the_only_source_cannot_be_read)
{
	if (!all_make(2))
		return;
	put_all();
	offline(1);
	put_all();
	inject("inject://m0?op=read&stage=completion&offset=20000&num_blk=1");
	online(1);
	nexus_rebuild_wait(nx);
	settle_down();
	CHECK_EQ(last()->stats.state, REBUILD_FAILED);
	CHECK_HAS(err_text(&last()->why), "no source could be read");
	CHECK_EQ(child(0).health, CHILD_HEALTH_ONLINE); /* a host has not missed anything yet */
	CHECK_EQ(child(1).reason, NEXUS_REASON_REBUILD_FAILED);
	all_unmake();
}

ENGINE_TEST(the_child_is_full)
{
	struct nexus_err ne = {};
	struct device *dev;
	const char *small = "malloc:///small?size_mb=32&capacity_mb=6";

	if (!all_make(1))
		return;
	put_all();
	CHECK_EQ(device_create(small, &dev, NULL), 0);
	CHECK_EQ(nexus_child_add(nx, "bdev:///small", true, &ne), 0);
	nexus_rebuild_wait(nx);
	settle_down();
	CHECK_EQ(last()->stats.state, REBUILD_FAILED);
	CHECK_HAS(err_text(&last()->why), "no space");
	CHECK_EQ(child(1).reason, NEXUS_REASON_REBUILD_FAILED);
	CHECK_EQ(do_io(&o, IO_READ, 0, 1, x, 0), IO_OK);
	put(0, 1, 1);
	all_unmake();
}

ENGINE_TEST(two_at_once_and_the_third_waits)
{
	struct rebuild_stats stats = {};
	struct nexus_err ne = {};

	if (!all_make(1))
		return;
	put_all();
	slow();
	for (unsigned i = 1; i < NCHILDREN; i++)
		CHECK_EQ(nexus_child_add(nx, uris[i], true, &ne), 0);
	CHECK_EQ(nexus_rebuild_count(nx), 3);
	CHECK_EQ(nexus_rebuild_stats(nx, uris[2], &stats, &ne), 0);
	CHECK_EQ(stats.state, REBUILD_RUNNING);
	CHECK_EQ(nexus_rebuild_stats(nx, uris[3], &stats, &ne), 0);
	CHECK_EQ(stats.state, REBUILD_INIT);
	put(7, 1, 99); /* the third does not get it: it is not attached */
	CHECK_EQ(nexus_child_remove(nx, uris[1], &ne), 0);
	fast();
	nexus_rebuild_wait(nx);
	CHECK_EQ(child(1).health, CHILD_HEALTH_ONLINE);
	CHECK_EQ(child(2).health, CHILD_HEALTH_ONLINE);
	CHECK(are_equal(0, 2) && are_equal(0, 3));
	all_unmake();
}

ENGINE_TEST(one_that_waits_is_stopped_or_goes_with_its_child)
{
	struct nexus_err ne = {};

	if (!all_make(1))
		return;
	put_all();
	slow();
	for (unsigned i = 1; i < NCHILDREN; i++)
		CHECK_EQ(nexus_child_add(nx, uris[i], true, &ne), 0);
	CHECK_EQ(nexus_rebuild_pause(nx, uris[3], &ne), 0);
	CHECK_EQ(nexus_rebuild_resume(nx, uris[3], &ne), 0);
	CHECK_EQ(nexus_rebuild_stop(nx, uris[3], &ne), 0);
	CHECK_EQ(nexus_rebuild_count(nx), 2);
	CHECK_EQ(nexus_rebuild_start(nx, uris[3], &ne), 0);
	CHECK_EQ(nexus_child_remove(nx, uris[3], &ne), 0);
	CHECK_EQ(nexus_rebuild_count(nx), 2);
	all_unmake(); /* destroyed while two run */
}

ENGINE_TEST(the_nexus_ends_while_it_rebuilds)
{
	struct nexus_err ne = {};

	if (!all_make(2))
		return;
	put_all();
	offline(1);
	put_all();
	slow();
	online(1);
	until_it_moves(uris[1]);
	CHECK_EQ(nexus_shutdown(nx, &ne), 0);
	CHECK_EQ(nexus_rebuild_count(nx), 0);
	CHECK_EQ(last()->stats.state, REBUILD_STOPPED);
	nexus_unmake();
	fast();
	if (!nexus_make(2)) /* made again: what is left */
		return;
	nexus_rebuild_wait(nx);
	CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
	CHECK(last()->stats.is_partial);
	CHECK(last()->stats.blocks_transferred < NBLOCKS);
	CHECK(are_equal(0, 1));
	all_unmake();
}

ENGINE_TEST(after_a_crash_no_more_than_missed_and_in_flight)
{
	if (!all_make(3))
		return;
	put_all();
	crash(); /* all is in flight still; the next one starts with nothing */
	if (!nexus_make(3))
		return;
	nexus_rebuild_wait(nx);
	CHECK(are_equal(0, 1) && are_equal(0, 2));
	touch(3, 2, 1);
	offline(2);
	touch(50, 5, 2);
	crash();
	memset(x, 0x66, sizeof(x)); /* a write that only one child has got */
	CHECK_EQ(base_do(1, IO_WRITE, START + 3 * SEGMENT, 1, x), IO_OK);
	if (!nexus_make(3))
		return;
	nexus_rebuild_wait(nx);
	for (unsigned i = 0; i < 2; i++) {
		const struct rebuild_record *record = nexus_rebuild_history(nx, i);

		if (!CHECK(record != NULL))
			continue;
		CHECK_EQ(record->stats.state, REBUILD_COMPLETED);
		CHECK(record->stats.is_partial);
		CHECK(record->stats.blocks_transferred <= 7 * SEGMENT);
		CHECK(record->stats.blocks_transferred >= 2 * SEGMENT);
	}
	CHECK(are_equal(0, 1) && are_equal(0, 2));
	all_unmake();
}

/* What was noted when the child was attached holds until it falls. */
ENGINE_TEST(a_crash_in_the_middle_of_a_rebuild)
{
	static const struct {
		const char *how;
		bool is_partial;
	} rows[] = { { "while it runs", true },
		     { "after the child has failed", false },
		     { "after it has ended", true } };

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		TAP_ROW(rows[i].how);
		if (!all_make(2))
			return;
		put_all();
		nexus_unmake(); /* nothing is in flight any more */
		if (!nexus_make(2))
			return;
		offline(1);
		touch(0, 200, 3);
		if (i < 2)
			slow();
		online(1);
		if (i < 2)
			until_it_moves(uris[1]);
		else
			nexus_rebuild_wait(nx);
		touch(230, 2, 4);
		if (i == 1) {
			inject("inject://m1?op=write&stage=completion&retries=1");
			touch(240, 1, 5);
			settle_down();
			touch(250, 1, 6);
			errand_wait(&nx->mark);
		}
		fault_remove_all();
		fast();
		crash();
		if (!nexus_make(2))
			return;
		nexus_rebuild_wait(nx);
		CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
		CHECK_EQ(last()->stats.is_partial, rows[i].is_partial);
		if (rows[i].is_partial)
			CHECK(last()->stats.blocks_transferred <= 202 * SEGMENT);
		CHECK(are_equal(0, 1));
		all_unmake();
	}
	TAP_ROW(NULL);
}

/* A volume made of @uri alone, under the same record. */
static enum nexus_error make_alone(const char *uri)
{
	struct nexus_opts opts = { .name = "n0",
				   .size = 16 << 20,
				   .children = &uri,
				   .nchildren = 1,
				   .info_key = "volume" };
	struct nexus_err ne = {};
	struct nexus *made;

	if (nexus_create(&opts, &made, &ne) == 0)
		CHECK_EQ(nexus_destroy(made, NULL), 0);
	return ne.why;
}

ENGINE_TEST(who_was_left_out_does_not_come_back_alone)
{
	struct nexus_err ne = {};

	if (!all_make(2))
		return;
	put_all();
	nexus_unmake();
	if (!nexus_make(1))
		return;
	touch(3, 1, 1); /* only the first has it */
	nexus_unmake();
	CHECK_EQ(make_alone(uris[1]), NEXUS_E_INCOMPLETE);
	CHECK_EQ(make_alone(uris[0]), NEXUS_OK);
	if (!nexus_make(2))
		return;
	CHECK(!child(1).is_synced);
	nexus_rebuild_wait(nx);
	CHECK(are_equal(0, 1));
	/* one that was removed is a stranger, and may not replace the others after a crash */
	CHECK_EQ(nexus_child_remove(nx, uris[1], &ne), 0);
	touch(4, 1, 1);
	crash();
	CHECK_EQ(make_alone(uris[1]), NEXUS_E_INCOMPLETE);
	if (nexus_make(1))
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
