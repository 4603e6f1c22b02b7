/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a nexus while something is under way: what its record says, what is still read of it,
 * who waits for whom, and that nothing of it is left behind.
 */
#include <unistd.h>

#include "base/units.h"
#include "nexus/marks.h"
#include "nexus/testing.h"

static uint8_t buf[BLOCK], back[BLOCK];

/* ---- the record ------------------------------------------------------------------------------ */

/* A write that one child has done is with the other, when nobody is acknowledged any more. */
static void shut_down_under_a_write(bool is_failing)
{
	struct late_call end;
	struct late_io write;
	struct hold hold;

	if (!nexus_make(2))
		return;
	touch(0, 1);
	hold_begin(&hold, "c1", START, 1);
	if (is_failing)
		inject("inject://c1?op=write&stage=completion&retries=1");
	late_start(&write, IO_WRITE, 0, 1, buf);
	call_start(&end, shut_down);
	turns(100);
	CHECK(nx->is_ended && !end.is_done);
	CHECK(!recorded_clean());
	hold_end(&hold);
	CHECK_EQ(call_wait(&end), 0);
	CHECK(write.is_done);
	CHECK_EQ(write.io.status == IO_OK, !is_failing);
	CHECK(recorded_clean());
	CHECK_EQ(recorded(0), 1);
	CHECK_EQ(recorded(1), !is_failing);
	fault_remove_all();
	nexus_unmake();
}

ENGINE_TEST(shutdown_waits_for_what_is_in_flight)
{
	shut_down_under_a_write(false);
}

ENGINE_TEST(a_clean_record_tells_who_fell_during_shutdown)
{
	shut_down_under_a_write(true);
}

/* One that falls while it is destroyed: it ends in order, and not itself for want of a record. */
ENGINE_TEST(a_clean_record_tells_who_fell_during_destruction)
{
	struct late_call end;
	struct late_io write;
	struct hold hold;

	if (!nexus_make(2))
		return;
	touch(0, 1);
	hold_begin(&hold, "c1", START, 1);
	inject("inject://c1?op=write&stage=completion&retries=1");
	late_start(&write, IO_WRITE, 0, 1, buf);
	call_start(&end, destroy);
	while (!nx->is_ended)
		task_yield();
	turns(10);
	hold_end(&hold);
	task_event_wait(&write.event);
	CHECK(write.io.status != IO_OK);
	errand_wait(&nx->retire);
	errand_wait(&nx->monitor);
	CHECK_EQ(nx->state, NEXUS_OPEN);
	CHECK(nx->child[1]->desc == NULL); /* it is closed, as whoever falls */
	desc_close(o.desc);                /* who held it up */
	CHECK_EQ(call_wait(&end), 0);
	CHECK(recorded_clean());
	CHECK_EQ(recorded(0), 1);
	CHECK_EQ(recorded(1), 0);
	fault_remove_all();
	CHECK(device_next(NULL) == NULL);
	nexus_settings_set(&(struct nexus_settings){});
}

/* One that cannot be flushed is out; the others are flushed nevertheless. */
ENGINE_TEST(the_last_flush_goes_to_all)
{
	uint64_t before[2];

	bases_make(true);
	if (!remake(3))
		return;
	touch(0, 3);
	inject("inject://m0?op=flush&stage=completion");
	before[0] = flushes("m1");
	before[1] = flushes("m2");
	nexus_unmake_kept();
	CHECK(flushes("m1") > before[0]);
	CHECK(flushes("m2") > before[1]);
	CHECK(recorded_clean());
	CHECK_EQ(recorded(0), 0);
	CHECK_EQ(recorded(1), 1);
	CHECK_EQ(recorded(2), 1);
	bases_unmake();
}

ENGINE_TEST(not_flushed_is_not_clean)
{
	bases_make(true);
	if (!remake(1))
		return;
	touch(0, 1);
	inject("inject://m0?op=flush&stage=completion");
	nexus_unmake_kept();
	CHECK(!recorded_clean());
	CHECK_EQ(recorded(0), 1); /* never nobody */
	bases_unmake();
}

/* What the lost one missed last is on nobody's pages, because nobody is left to write them. */
ENGINE_TEST(missed_and_not_written_is_not_clean)
{
	struct late_io write;

	bases_make(false);
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(2))
		return;
	touch(0, 1);
	offline(1);
	touch(10, 3);
	inject("inject://m0?op=write&stage=completion&retries=1");
	late_start(&write, IO_WRITE, 0, 1, buf);
	while (!nx->is_frozen)
		task_yield();
	settle_down();
	CHECK_EQ(shut_down(), 0);
	task_event_wait(&write.event);
	nexus_unmake_kept();
	CHECK(!recorded_clean());
	if (!remake(2))
		return;
	CHECK_EQ(given[1].nstarts, 1);
	CHECK(!given[1].is_known || given[1].nsegments == 4);
	nexus_unmake_kept();
	bases_unmake();
}

/* A stale one has it, the last one has no space for it: the next life takes it back. */
ENGINE_TEST(what_the_end_leaves_undecided_is_taken_back)
{
	struct late_call end;
	struct late_io write;
	struct hold hold;

	bases_make(false);
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(2))
		return;
	touch(0, 1);
	hold_begin(&hold, "m0", START, 1);
	inject("inject://m0?op=write&method=status-lvol-nospace&offset=10240&num_blk=1");
	late_start(&write, IO_WRITE, 0, 1, buf);
	offline(1);
	call_start(&end, destroy);
	while (!nx->is_ended)
		task_yield();
	turns(10);
	hold_end(&hold);
	task_event_wait(&write.event);
	CHECK(write.io.status != IO_OK);
	errand_wait(&nx->retire);
	CHECK_EQ(nx->state, NEXUS_OPEN);
	CHECK(child_info(0).is_synced); /* what has no space is no worse than it was */
	desc_close(o.desc);
	CHECK_EQ(call_wait(&end), 0);
	fault_remove_all();
	CHECK(recorded_clean());
	CHECK_EQ(recorded(1), 0);
	if (!remake(2))
		return;
	CHECK_EQ(given[1].nstarts, 1);
	CHECK(given[1].is_known);
	CHECK_EQ(given[1].nsegments, 1);
	nexus_unmake_kept();
	bases_unmake();
}

/* ---- who waits ------------------------------------------------------------------------------- */

static int add_1(void)
{
	struct nexus_err ne = {};

	return nexus_child_add(nx, uris[1], true, &ne);
}

/* An operation waits for a write that the frozen nexus holds; only the end lets that go. */
ENGINE_TEST(shutdown_of_a_frozen_nexus_ends_who_waits_for_its_io)
{
	struct late_call add, end;
	struct late_io write;
	struct hold hold;

	if (!nexus_make(1))
		return;
	touch(0, 1);
	hold_begin(&hold, "c0", START, 1);
	late_start(&write, IO_WRITE, 0, 1, buf);
	call_start(&add, add_1);
	while (nx->dev.quiesce_count == 0) /* to attach the child */
		task_yield();
	inject("inject://c0?op=write&stage=completion&retries=1");
	hold_end(&hold);
	while (!nx->is_frozen)
		task_yield();
	call_start(&end, shut_down);
	for (unsigned n = 0; n < 1000 && !end.is_done; n++)
		task_yield();
	if (!CHECK(end.is_done))
		nexus_end_io(nx);
	CHECK_EQ(call_wait(&end), 0);
	(void)call_wait(&add); /* it has begun, at best */
	task_event_wait(&write.event);
	CHECK(write.io.status != IO_OK);
	CHECK_EQ(recorded(0), 1);
	fault_remove_all();
	nexus_unmake();
}

/* It is asked to come while the last child is on its way back, and is refused for the end. */
static int online_in_use(void)
{
	struct nexus_err ne = {};
	int result = nexus_child_online(nx, uris[0], &ne);

	CHECK_EQ(ne.why, NEXUS_E_NOT_ALLOWED);
	CHECK(nx->child[0]->desc != NULL); /* channels use it; whoever ends them closes it */
	return result;
}

ENGINE_TEST(an_online_that_is_refused_leaves_the_last_child_open)
{
	struct late_call come, end;

	if (!nexus_make(1))
		return;
	touch(0, 1);
	task_mutex_lock(&nx->dev.control); /* the channels are not told before it is free */
	CHECK(nexus_child_fail(nx->child[0], CHILD_FAULTED, NEXUS_REASON_NO_SPACE));
	call_start(&come, online_in_use);
	while (child_state_of(atomic_load(&nx->child[0]->word)) != CHILD_OPEN)
		task_yield(); /* until it is taken back */
	call_start(&end, shut_down);
	while (nx->state == NEXUS_OPEN)
		task_yield();
	CHECK(!come.is_done);
	task_mutex_unlock(&nx->dev.control);
	CHECK(call_wait(&come) < 0);
	CHECK_EQ(call_wait(&end), 0);
	CHECK(recorded_clean());
	CHECK_EQ(recorded(0), 1);
	nexus_unmake();
}

/* ---- what is read ---------------------------------------------------------------------------- */

/*
 * A write is on one child and not on the other, and will never be acknowledged: what is made again
 * may have the old block. One read waits for the write to end; one is on its way from the child.
 */
ENGINE_TEST(what_the_end_leaves_undecided_is_not_read)
{
	struct late_io write, waiting, coming;
	struct hold hold;

	if (!nexus_make(2))
		return;
	nexus_settings.store_timeout_ns = 60 * NS_PER_S;
	touch(0, 1);
	inject("inject://c1?op=write&stage=completion&retries=1");
	fake.is_hanging = true;
	late_start(&write, IO_WRITE, 0, 1, buf);
	while (fake.let_go == NULL)
		task_yield();
	late_start(&waiting, IO_READ, 0, 1, back);
	while (nx->nblocked == 0)
		task_yield();
	hold_begin(&hold, "c0", START, 1);
	late_start(&coming, IO_READ, 0, 1, back);
	nexus_self_shutdown(nx, "the test says so");
	task_event_wait(&write.event);
	CHECK_EQ(write.io.status, IO_ENDED);
	turns(100);
	CHECK(waiting.is_done && waiting.io.status != IO_OK);
	hold_end(&hold);
	task_event_wait(&coming.event);
	CHECK(coming.io.status != IO_OK);
	fake.is_hanging = false;
	task_event_fire(fake.let_go);
	fault_remove_all();
	nexus_unmake();
}

/* A read on the second reactor. */
static struct {
	struct io io;
	struct handle *h;
	struct msg msg;
	_Atomic bool is_done;
} far;

static void far_done(struct io *io)
{
	(void)io;
	far.is_done = true;
}

static void far_go(struct msg *msg)
{
	(void)msg;
	io_submit(far.h, &far.io);
}

static void on_two_reactors(void)
{
	struct late_io write;

	if (!nexus_make(2) || !CHECK_EQ(handle_open(o.desc, reactor_get(1), &far.h, NULL), 0))
		return;
	nexus_settings.store_timeout_ns = 60 * NS_PER_S;
	touch(0, 1);
	inject("inject://c1?op=write&stage=completion&retries=1");
	fake.is_hanging = true;
	late_start(&write, IO_WRITE, 0, 1, buf);
	while (fake.let_go == NULL)
		task_yield();
	far.io = (struct io){ .op = IO_READ, .nlb = 1, .done = far_done };
	io_set_buf(&far.io, back, sizeof(back));
	far.msg.fn = far_go;
	reactor_post(reactor_get(1), &far.msg);
	while (nx->nblocked == 0)
		task_yield();
	nexus_self_shutdown(nx, "the test says so");
	while (!far.is_done)
		task_yield();
	CHECK(far.io.status != IO_OK);
	task_event_wait(&write.event);
	fake.is_hanging = false;
	task_event_fire(fake.let_go);
	fault_remove_all();
	nexus_unmake();
}

static int two_reactors_task(void *arg, struct err *err)
{
	(void)arg;
	(void)err;
	on_two_reactors();
	return 0;
}

/* The other reactor hears of free blocks before it hears of the end. */
TEST(what_the_end_leaves_undecided_is_not_read_elsewhere)
{
	struct engine_opts opts = { .reactor.core_mask = 3 };
	struct err err = {};

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		SKIP("one processor");
	else if (engine_run(&opts, two_reactors_task, NULL, &err) < 0)
		CHECK_STR(err_text(&err), "an engine that runs");
}

/* ---- what is left ---------------------------------------------------------------------------- */

static uint64_t next_timer_ns(void)
{
	return reactor_next_timer_ns(reactor_primary());
}

/* Closing children takes turns; a tick in one of them would find marks that are being freed. */
ENGINE_TEST(no_tick_while_children_are_closed)
{
	struct late_call end;
	struct device *dev;

	bases_make(false);
	CHECK_EQ(next_timer_ns(), UINT64_MAX);
	if (!remake(2))
		return;
	touch(0, 1);
	CHECK(next_timer_ns() != UINT64_MAX);
	desc_close(o.desc);
	dev = device_lookup("m1");
	task_mutex_lock(&dev->control); /* that closes it */
	call_start(&end, destroy);
	while (nx->nchildren == 2)
		task_yield();
	CHECK_EQ(next_timer_ns(), UINT64_MAX);
	task_mutex_unlock(&dev->control);
	CHECK_EQ(call_wait(&end), 0);
	bases_unmake();
}

/* The errand of a fall comes late, when the nexus has closed its last child. Seen by ASan. */
ENGINE_TEST(the_last_child_falls_while_it_is_closed)
{
	struct late_call end;
	struct device *dev;

	bases_make(false);
	if (!remake(2))
		return;
	desc_close(o.desc);
	dev = device_lookup("m0");
	task_mutex_lock(&dev->control); /* that closes it */
	call_start(&end, destroy);
	while (nx->nchildren > 0)
		task_yield();
	device_announce(dev, DEVICE_FAILED);
	task_mutex_unlock(&dev->control);
	CHECK_EQ(call_wait(&end), 0);
	bases_unmake();
}

static int create_2(void)
{
	struct nexus_err ne = {};

	return kept_create(kept, 2, &ne);
}

static void until_the_store_is_asked(void)
{
	while (fake.let_go == NULL)
		task_yield();
}

static void store_goes_on(void)
{
	task_event_fire(take(fake.let_go));
}

/*
 * A nexus that cannot be made, for a child has fallen, is freed while a mark is being written to
 * the other one. Whenever the monitor is called it sees the request, and would look again after a
 * while.
 */
ENGINE_TEST(no_look_of_the_monitor_after_the_end)
{
	struct late_call making;
	struct hold hold;

	bases_make(false);
	nexus_settings.store_timeout_ns = 60 * NS_PER_S;
	inject("inject://m1?op=write&stage=completion&retries=1");
	fake.is_hanging = true;
	call_start(&making, create_2);
	until_the_store_is_asked(); /* for the record of before */
	store_goes_on();
	until_the_store_is_asked(); /* to begin one; a page has not been taken */
	nx = nexus_next(NULL);
	hold_begin(&hold, "m0", META, META_NLB);
	marks_fold(nx);
	while (nx->child[0]->users == 0)
		task_yield();
	fake.is_hanging = false;
	store_goes_on();
	while (nx->state != NEXUS_CLOSED)
		task_yield();
	nexus_gone_ring(nx);
	turns(10);
	hold_end(&hold);
	CHECK(call_wait(&making) < 0);
	CHECK_EQ(next_timer_ns(), UINT64_MAX);
	bases_unmake();
}

/* Of a write that is undecided at the end one child has done its part, and is gone by then. */
ENGINE_TEST(a_child_is_removed_before_a_write_is_abandoned)
{
	struct nexus_err ne = {};
	struct late_call end;
	struct late_io write;
	struct hold hold;

	if (!nexus_make(3))
		return;
	touch(0, 1);
	inject("inject://c0?op=write&stage=completion&offset=10240&num_blk=1");
	hold_begin(&hold, "c0", START, 1);
	late_start(&write, IO_WRITE, 0, 1, buf);
	turns(10); /* the others have it */
	CHECK_EQ(nexus_child_remove(nx, uris[1], &ne), 0);
	CHECK(nx->child[1] == NULL && !write.is_done);
	call_start(&end, shut_down);
	while (!nx->is_ended)
		task_yield();
	hold_end(&hold);
	task_event_wait(&write.event);
	CHECK(write.io.status != IO_OK);
	CHECK_EQ(call_wait(&end), 0);
	fault_remove_all();
	nexus_unmake();
}

TAP_MAIN()
