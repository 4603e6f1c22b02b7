/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Children that fall, or are removed, at the wrong moment: while others still work on the same
 * write, on the record, on the intent records, or on closing the very child. Each test holds one of
 * them where it is (testing.h), lets the other happen, and looks before it lets go.
 */
#include "base/units.h"
#include "nexus/marks.h"
#include "nexus/testing.h"

static uint8_t buf[BLOCK];

static int remove_1(void)
{
	struct nexus_err ne = {};

	return nexus_child_remove(nx, uris[1], &ne);
}

/* ---- while a write is under way -------------------------------------------------------------- */

ENGINE_TEST(a_child_stays_until_the_writes_that_it_failed_have_ended)
{
	struct late_call removal;
	struct late_io write;
	struct hold hold;

	if (!nexus_make(3))
		return;
	touch(0, 1);
	hold_begin(&hold, "c0", START, 1);
	inject("inject://c1?op=write&stage=completion&retries=1");
	late_start(&write, IO_WRITE, 0, 1, buf);
	while (child_info(1).write_errors == 0)
		task_yield();
	call_start(&removal, remove_1); /* the write will say that this child missed it */
	turns(100);
	CHECK(!removal.is_done);
	hold_end(&hold);
	task_event_wait(&write.event);
	CHECK_EQ(write.io.status, IO_OK);
	CHECK_EQ(call_wait(&removal), 0);
	CHECK_EQ(nx->nchildren, 2);
	fault_remove_all();
	nexus_unmake();
}

/* Namespace Not Ready: its part of a write is sent again later, and it does not go before. */
ENGINE_TEST(a_child_is_removed_while_a_write_is_patient_with_it)
{
	struct late_call removal;
	struct late_io write;

	if (!nexus_make(3))
		return;
	touch(0, 1);
	inject("inject://c1?op=write&stage=completion&method=status-nvme-0-82&retries=1");
	late_start(&write, IO_WRITE, 0, 1, buf);
	while (child_info(1).write_errors == 0)
		task_yield();
	call_start(&removal, remove_1);
	task_event_wait(&write.event);
	CHECK_EQ(write.io.status, IO_OK);
	CHECK_EQ(call_wait(&removal), 0);
	CHECK_EQ(recorded(0), 1);
	CHECK_EQ(recorded(2), -1); /* two are left */
	fault_remove_all();
	nexus_unmake();
}

/* The blocks that are repaired are read from another child; meanwhile the bad one is removed. */
ENGINE_TEST(a_child_is_removed_while_it_is_repaired)
{
	struct late_call removal;
	struct nexus_info info;
	struct hold hold;

	if (!nexus_make(2))
		return;
	touch(0, 1);
	hold_begin(&hold, "c0", START, 1);
	nexus_repair_ring(nx, nx->child[1]->slot, 0, 1);
	while (nx->child[0]->users == 0)
		task_yield();
	call_start(&removal, remove_1);
	CHECK_EQ(call_wait(&removal), 0);
	hold_end(&hold);
	errand_wait(&nx->mend);
	nexus_info(nx, &info);
	CHECK_EQ(info.repairs, 0);
	CHECK_EQ(info.repairs_failed, 1);
	nexus_unmake();
}

/* ---- while it is read ------------------------------------------------------------------------ */

static uint8_t old[BLOCK], new[BLOCK], back[2][BLOCK];

static void two_contents(void)
{
	fill(old, sizeof(old), 1);
	fill(new, sizeof(new), 2);
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, old, 0), IO_OK);
}

/* One goes to each child, as none has anything to do: one of them comes to where it is held. */
static void read_from_both(struct late_io reads[2])
{
	for (unsigned i = 0; i < 2; i++)
		late_start(&reads[i], IO_READ, 0, 1, back[i]);
}

static void check_read(struct late_io *read, const uint8_t *what)
{
	task_event_wait(&read->event);
	CHECK_EQ(read->io.status, IO_OK);
	CHECK_MEM(read->io.iov[0].iov_base, what, BLOCK);
}

/* It has read what the host was refused; those who are left never had it. Mirror seed 600837. */
ENGINE_TEST(what_a_fallen_child_read_under_a_write_does_not_count)
{
	struct late_io write, reads[2];
	struct hold hold;

	if (!nexus_make(2))
		return;
	two_contents();
	hold_begin(&hold, "c1", START, 1);
	inject("inject://c1?op=write&method=status-nvme-0-81&retries=1");
	late_start(&write, IO_WRITE, 0, 1, new);
	read_from_both(reads);
	while (nx->nblocked == 0) /* the first child's answer waits for the write to end */
		task_yield();
	CHECK(nexus_child_fail(nx->child[0], CHILD_FAULTED, NEXUS_REASON_IO_ERROR));
	settle_down();
	CHECK(!write.is_done && !reads[0].is_done && !reads[1].is_done);
	hold_end(&hold);
	task_event_wait(&write.event);
	CHECK_EQ(write.io.status, IO_NO_SPACE);
	check_read(&reads[0], old);
	check_read(&reads[1], old);
	fault_remove_all();
	nexus_unmake();
}

/* The same without a write: it comes back when its child has missed one. */
ENGINE_TEST(what_a_fallen_child_reads_late_does_not_count)
{
	struct late_io reads[2], *held;
	struct hold hold;

	if (!nexus_make(2))
		return;
	two_contents();
	hold_begin(&hold, "c0", START, 1);
	read_from_both(reads);
	while (!reads[0].is_done && !reads[1].is_done)
		task_yield();
	held = &reads[reads[0].is_done];
	CHECK(nexus_child_fail(nx->child[0], CHILD_FAULTED, NEXUS_REASON_IO_ERROR));
	errand_wait(&nx->retire);
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, new, 0), IO_OK);
	CHECK(!held->is_done);
	hold_end(&hold);
	check_read(held, new);
	nexus_unmake();
}

/* ---- while the record is written ------------------------------------------------------------- */

static int fault_1_for_good(void)
{
	struct nexus_err ne = {};

	return nexus_child_fault(nx, uris[1], NEXUS_REASON_OFFLINE_PERMANENT, &ne);
}

ENGINE_TEST(a_fault_for_good_leaves_the_record_its_time)
{
	struct late_call fault;
	struct late_io write;

	if (!nexus_make(2))
		return;
	nexus_settings.store_timeout_ns = 60 * NS_PER_S;
	touch(0, 1);
	inject("inject://c1?op=write&stage=completion&retries=1");
	fake.is_hanging = true;
	late_start(&write, IO_WRITE, 0, 1, buf);
	while (fake.let_go == NULL)
		task_yield();
	call_start(&fault, fault_1_for_good);
	turns(10);
	nexus_apply(nx); /* as with the next thing that happens to a child */
	turns(10);
	CHECK(!write.is_done);
	CHECK_EQ(recorded(1), 1);
	fake.is_hanging = false;
	task_event_fire(fake.let_go);
	task_event_wait(&write.event);
	CHECK_EQ(write.io.status, IO_OK);
	CHECK_EQ(call_wait(&fault), 0);
	CHECK_EQ(recorded(1), 0);
	CHECK_EQ(child_info(1).reason, NEXUS_REASON_OFFLINE_PERMANENT);
	fault_remove_all();
	nexus_unmake();
}

/* A write may be on the one that is about to be in sync, and not on the one in the record. */
ENGINE_TEST(nobody_comes_in_sync_while_the_nexus_is_frozen)
{
	struct late_io write;
	struct nexus_err ne = {};
	struct err err = {};

	if (!nexus_make(1))
		return;
	touch(0, 1);
	CHECK_EQ(nexus_child_add(nx, uris[1], false, &ne), 0);
	inject("inject://c0?op=write&stage=completion");
	late_start(&write, IO_WRITE, 0, 1, buf);
	while (!nx->is_frozen)
		task_yield();
	settle_down();
	CHECK(nexus_child_synced(nx->child[1], &err) < 0);
	CHECK(!child_info(1).is_synced);
	CHECK_EQ(recorded(0), 1);
	CHECK_EQ(recorded(1), 0);
	CHECK_EQ(shut_down(), 0);
	task_event_wait(&write.event);
	CHECK(write.io.status != IO_OK);
	fault_remove_all();
	nexus_unmake();
}

static bool is_over;
static unsigned nbusy;

static void busy_task(void *arg)
{
	(void)arg;
	while (!is_over)
		task_yield();
	nbusy--;
}

/* Tasks that wait for what only a retirement can bring about. */
ENGINE_TEST(a_fall_is_recorded_where_all_stacks_are_taken)
{
	struct late_io write;

	if (!nexus_make(2))
		return;
	touch(0, 1);
	is_over = false;
	for (nbusy = 0; nbusy < TASKS_MAX; nbusy++)
		CHECK_EQ(task_spawn("busy", busy_task, NULL), 0);
	inject("inject://c1?op=write&stage=completion&retries=1");
	late_start(&write, IO_WRITE, 0, 1, buf);
	for (unsigned n = 0; n < 1000 && !write.is_done; n++)
		task_yield();
	CHECK(write.is_done);
	CHECK_EQ(recorded(1), 0);
	is_over = true;
	while (nbusy > 0)
		task_yield();
	task_event_wait(&write.event);
	settle_down();
	fault_remove_all();
	nexus_unmake();
}

/* ---- while it is closed ---------------------------------------------------------------------- */

/* Whoever removes it frees it when it has left; until then the monitor works on it. */
ENGINE_TEST(a_child_that_is_being_closed_goes_on_leaving)
{
	static const char *const rows[] = { "the nexus ends itself", "its fall is looked at late" };

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		struct late_call removal;
		struct device *dev;

		TAP_ROW(rows[i]);
		if (!nexus_make(2))
			return;
		dev = device_lookup("c1");
		device_pin(dev); /* closing takes its time */
		call_start(&removal, remove_1);
		while (nx->child[1]->desc != NULL)
			task_yield();
		if (i == 0) {
			nexus_self_shutdown(nx, "the test says so");
		} else {
			atomic_fetch_or(&nx->fallen, (uint8_t)(1u << nx->child[1]->slot));
			errand_ring(&nx->retire);
			errand_wait(&nx->retire);
		}
		turns(100);
		CHECK(!removal.is_done);
		device_unpin(dev);
		CHECK_EQ(call_wait(&removal) == 0, i == 1);
		nexus_unmake();
	}
	TAP_ROW(NULL);
}

/*
 * After the end the monitor counts the requests of all children, also of one that has been closed,
 * and whose removal has only to take it off the channels.
 */
ENGINE_TEST(a_child_is_freed_while_the_monitor_counts)
{
	struct late_call removal;
	struct hold hold;

	if (!nexus_make(3))
		return;
	hold_begin(&hold, "c0", META, META_NLB); /* a removal writes there before it forgets */
	call_start(&removal, remove_1);
	while (nx->child[1]->desc != NULL || nx->child[1]->is_leaving)
		task_yield();
	nexus_end_io(nx);
	errand_wait(&nx->monitor);
	task_mutex_lock(&nx->dev.control);
	hold_end(&hold);
	while (list_empty(&nx->dev.control.waiters)) /* the removal, first in the line */
		task_yield();
	nexus_gone_ring(nx); /* the monitor, behind it */
	turns(10);
	task_mutex_unlock(&nx->dev.control);
	CHECK_EQ(call_wait(&removal), 0);
	errand_wait(&nx->monitor);
	CHECK_EQ(nx->nchildren, 2);
	nexus_unmake();
}

/* ---- while it comes -------------------------------------------------------------------------- */

static int online_1(void)
{
	struct nexus_err ne = {};

	return nexus_child_online(nx, kept[1], &ne);
}

/* It falls while the last of its first pages is written. When it comes again nothing is written to
 * it before its rebuild begins, so what it misses is noted. */
ENGINE_TEST(a_child_falls_while_it_is_attached)
{
	const uint64_t last = META + (2 * intent_page_missed(NEXUS_CHILDREN_MAX - 1) + 1) * 8;
	struct late_call coming;
	struct hold hold;

	bases_make(false);
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(2))
		return;
	touch(0, 1);
	offline(1);
	device_lookup("m1")->is_thin = false; /* or room is made first, by a write to all of them */
	hold_begin(&hold, "m1", last, 8);
	call_start(&coming, online_1);
	while (hold.dev->channel[reactor_primary()->id] == NULL ||
	       hold.dev->channel[reactor_primary()->id]->held.head == NULL)
		task_yield();
	device_announce(hold.dev, DEVICE_FAILED);
	errand_wait(&nx->retire);
	hold_end(&hold);
	CHECK(call_wait(&coming) < 0);
	settle_down();
	CHECK(!nx->child[1]->is_writer);
	nexus_set_rebuilder(&wait_rebuilder);
	online(1);
	touch(10, 3);
	CHECK(child_info(1).has_io_log);
	CHECK_EQ(child_info(1).missed_segments, 3);
	nexus_unmake_kept();
	bases_unmake();
}

/* ---- while marks are cleared ----------------------------------------------------------------- */

/* Segments that a tick is about to clear are missed by one whose cache went with him. */
ENGINE_TEST(a_child_falls_during_a_tick)
{
	struct device *dev;

	bases_make(true);
	nexus_set_rebuilder(&note_rebuilder);
	nexus_settings.intent_idle_ns = INTENT_IDLE;
	if (!remake(2))
		return;
	touch(0, 5);
	tick(); /* the first sees that they were written to */
	dev = device_lookup("m0");
	device_quiesce(dev);
	tick_begin(); /* the second waits for a flush */
	while (nx->child[0]->users == 0)
		task_yield();
	CHECK_EQ(marks_count(nx), 0);
	offline(1);
	CHECK(child_info(1).has_io_log);
	CHECK_EQ(child_info(1).missed_segments, 5);
	device_resume(dev);
	errand_wait(&nx->mark);
	CHECK_EQ(marks_count(nx), 5); /* in flight, for all that anybody knows */
	tick();
	CHECK_EQ(marks_count(nx), 0); /* on the pages of what is missed */
	nexus_unmake_kept();
	bases_unmake();
}

/* As the record has it, nobody fell: who reads it now looks for what differs in flight. */
ENGINE_TEST(no_mark_is_cleared_while_a_fall_is_not_recorded)
{
	bases_make(false);
	nexus_set_rebuilder(&note_rebuilder);
	nexus_settings.store_timeout_ns = 60 * NS_PER_S;
	nexus_settings.intent_idle_ns = INTENT_IDLE;
	if (!remake(2))
		return;
	touch(0, 5);
	fake.is_hanging = true;
	device_announce(device_lookup("m1"), DEVICE_FAILED);
	while (fake.let_go == NULL)
		task_yield();
	for (unsigned i = 0; i < 3; i++)
		tick();
	CHECK_EQ(marks_count(nx), 5);
	fake.is_hanging = false;
	task_event_fire(fake.let_go);
	errand_wait(&nx->retire);
	tick();
	CHECK_EQ(marks_count(nx), 0);
	CHECK_EQ(recorded(1), 0);
	nexus_unmake_kept();
	bases_unmake();
}

TAP_MAIN()
