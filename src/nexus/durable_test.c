/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must be true of a nexus when it is made again, whatever happened before and meanwhile. The
 * devices below stay; the nexus over them goes and comes.
 */
#include <unistd.h>

#include "base/units.h"
#include "nexus/marks.h"
#include "nexus/rebuild.h"
#include "nexus/testing.h"

/* ---- while it is made ----------------------------------------------------------------------- */

struct making {
	const char *const *children;
	unsigned n;
	struct task_event event;
	int result;
};

static void make_task(void *arg)
{
	struct making *making = arg;
	struct nexus_err ne = {};

	making->result = kept_create(making->children, making->n, &ne);
	task_event_fire(&making->event);
}

/* The record says who is stale. A child that goes before it was read is no reason to write another
 * one, in which everybody else was healthy. */
ENGINE_TEST(who_falls_before_the_record_is_read_changes_nothing_in_it)
{
	static uint8_t buf[BLOCK], back[BLOCK];
	struct making making = { .children = kept, .n = 2 };
	struct nexus_err ne = {};

	bases_make(false);
	if (!remake(2))
		return;
	fill(buf, sizeof(buf), 1);
	offline(0);
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	crash();
	CHECK(recorded(0) == 0 && recorded(1) == 1);

	fake.is_hanging = true;
	fake.let_go = NULL;
	CHECK_EQ(task_spawn("make", make_task, &making), 0);
	while (fake.let_go == NULL)
		task_yield();
	fake.is_hanging = false;
	(void)nexus_child_fail(nexus_lookup("n0")->child[1], CHILD_CLOSED, NEXUS_REASON_NONE);
	turns(50);
	task_event_fire(fake.let_go);
	task_event_wait(&making.event);
	CHECK(making.result < 0);
	CHECK(recorded(0) == 0 && recorded(1) == 1);

	CHECK(kept_create(kept, 1, &ne) < 0); /* alone, it knows nothing of the write */
	if (remake(2)) {
		CHECK_EQ(do_io(&o, IO_READ, 0, 1, back, 0), IO_OK);
		CHECK_MEM(back, buf, BLOCK);
		nexus_unmake_kept();
	}
	bases_unmake();
}

/* ---- who is who ----------------------------------------------------------------------------- */

/* What is behind the name of a base is another disk now: nothing but zeroes. */
static void base_replace(unsigned i)
{
	struct device *dev;

	CHECK_EQ(device_destroy(bases[i], NULL), 0);
	CHECK_EQ(device_create(bases[i], &dev, NULL), 0);
}

/* The first healthy child of the record is the source. Not if it is an empty disk by now. */
ENGINE_TEST(an_empty_disk_in_the_place_of_a_healthy_one_is_no_source)
{
	static uint8_t buf[BLOCK], back[BLOCK];

	for (unsigned is_clean = 0; is_clean < 2; is_clean++) {
		bases_make(false);
		if (!remake(2))
			return;
		fill(buf, sizeof(buf), 2);
		CHECK_EQ(do_io(&o, IO_WRITE, 4000, 1, buf, 0), IO_OK);
		if (is_clean)
			nexus_unmake_kept();
		else
			crash();
		base_replace(0);
		if (!remake(2))
			return;
		CHECK(!child_info(0).is_synced && child_info(1).is_synced);
		nexus_rebuild_wait(nx);
		for (unsigned i = 0; i < 4; i++) {
			memset(back, 0, sizeof(back));
			CHECK_EQ(do_io(&o, IO_READ, 4000, 1, back, 0), IO_OK);
			CHECK_MEM(back, buf, BLOCK);
		}
		check_equal("m0", "m1");
		nexus_unmake_kept();
		bases_unmake();
	}
}

ENGINE_TEST(where_the_only_healthy_one_was_replaced_there_is_no_nexus)
{
	static uint8_t buf[BLOCK];
	struct nexus_err ne = {};

	bases_make(false);
	if (!remake(2))
		return;
	offline(1);
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	nexus_unmake_kept();
	base_replace(0);
	CHECK(kept_create(kept, 2, &ne) < 0);
	CHECK_STR(nexus_error_name(ne.why), "NexusIncomplete");
	bases_unmake();
}

/* ---- marks ---------------------------------------------------------------------------------- */

static uint32_t marked(void)
{
	struct nexus_info info;

	nexus_info(nx, &info);
	return info.segments_in_flight;
}

/*
 * Two slow writes, the second begun at a time when the first keeps ticks from turning. It must stay
 * marked for as long as it is under way, however many ticks there are.
 */
ENGINE_TEST(what_is_under_way_stays_marked)
{
	static uint8_t buf[BLOCK];
	struct late_io first, second;
	uint64_t start_ns;

	bases_make(false);
	nexus_settings.intent_idle_ns = 4 * NS_PER_MS;
	if (!remake(2))
		return;
	inject("inject://m1?op=write&method=delay&delay_us=30000&offset=10240&num_blk=128");
	inject("inject://m1?op=write&method=delay&delay_us=150000&offset=20480&num_blk=128");
	start_ns = reactor_primary()->now_ns;
	late_start(&first, IO_WRITE, 0, 1, buf);
	while (reactor_primary()->now_ns < start_ns + 10 * NS_PER_MS)
		task_yield();
	late_start(&second, IO_WRITE, 10240, 1, buf);
	task_event_wait(&first.event);
	while (!second.is_done) {
		if (!CHECK(marked() > 0))
			break;
		task_yield();
	}
	task_event_wait(&second.event);
	while (marked() > 0)
		task_yield();
	nexus_unmake_kept();
	bases_unmake();
}

/* Each mark costs a durable write; who writes to many segments has few of them, who writes here and
 * there no more marks than he touches. */
ENGINE_TEST(who_writes_to_many_segments_marks_regions)
{
	struct nexus_info before, after;

	bases_make(false);
	nexus_settings.intent_idle_ns = INTENT_IDLE;
	if (!remake(2))
		return;
	nexus_settings.intent_fine = 32;
	for (unsigned seg = 0; seg < 64; seg += 2)
		touch(seg, 1);
	CHECK_EQ(marked(), 32);
	nexus_info(nx, &before);
	touch(100, 20); /* in the region of 64 .. 127 */
	nexus_info(nx, &after);
	CHECK_EQ(after.mark_writes - before.mark_writes, 2); /* one page, two children */
	CHECK_EQ(after.segments_in_flight, 32 + 64);
	touch(255, 1); /* the volume has no more */
	CHECK_EQ(marked(), 32 + 64 + 64);
	tick();
	tick();
	touch(3, 1); /* and from the beginning */
	CHECK_EQ(marked(), 1);
	tick();
	tick();
	CHECK_EQ(marked(), 0);
	nexus_unmake_kept();
	bases_unmake();
}

/* What a lost cache may have held is what was written, not all that was marked with it. */
ENGINE_TEST(a_lost_cache_held_what_was_written)
{
	bases_make(true);
	nexus_settings.intent_idle_ns = INTENT_IDLE;
	nexus_settings.intent_fine = 2;
	if (!remake(2))
		return;
	touch(0, 2);
	touch(70, 1);
	touch(200, 1);
	CHECK(marked() > 100);
	offline(1);
	CHECK_EQ(child_info(1).missed_segments, 4);
	nexus_unmake_kept();
	bases_unmake();
}

/* The newer copy of each page about a lost child rots. The older one must tell as much. */
ENGINE_TEST(a_page_that_rots_does_not_bring_an_older_one_back)
{
	static uint8_t buf[BLOCK];
	static struct intent_page pair[2];
	unsigned nrotten = 0;

	bases_make(false);
	nexus_settings.intent_idle_ns = 2 * NS_PER_MS;
	if (!remake(2))
		return;
	fill(buf, sizeof(buf), 4);
	offline(1);
	for (unsigned i = 0; i < 5; i++) {
		CHECK_EQ(do_io(&o, IO_WRITE, i * 1280, 1, buf, 0), IO_OK);
		while (marked() > 0)
			task_yield();
	}
	errand_wait(&nx->mark);
	crash();
	for (unsigned index = 1; index < INTENT_PAGES; index++) {
		uint64_t lba = 2048 + 16 * index, newest;

		CHECK_EQ(child_do("m0", IO_READ, lba, 16, pair), IO_OK);
		if (!intent_page_is_valid(&pair[0], index) ||
		    !intent_page_is_valid(&pair[1], index))
			continue;
		newest = le64_get(pair[1].sequence) > le64_get(pair[0].sequence);
		pair[newest].bits[3] ^= 0x10;
		CHECK_EQ(child_do("m0", IO_WRITE, lba + 8 * newest, 8, &pair[newest]), IO_OK);
		nrotten++;
	}
	CHECK(nrotten >= 2); /* in flight, and what m1 missed */
	if (remake(2)) {
		nexus_rebuild_wait(nx);
		CHECK(child_info(1).is_synced);
		check_equal("m0", "m1");
		nexus_unmake_kept();
	}
	bases_unmake();
}

/* Do both copies of a page on m0 have this segment, and no other? */
static bool is_on_both(unsigned index, unsigned seg)
{
	static struct intent_page pair[2];
	unsigned n = 0;

	CHECK_EQ(child_do("m0", IO_READ, META + 16ull * index, 16, pair), IO_OK);
	for (unsigned copy = 0; copy < 2; copy++)
		n += intent_page_is_valid(&pair[copy], index) &&
		     pair[copy].bits[seg / 8] == 1u << seg % 8;
	return n == 2;
}

/* A mark is written once, as somebody waits for it, and again at the next tick; what a lost child
 * misses is written twice at once. */
ENGINE_TEST(what_is_noted_is_on_both_copies)
{
	bases_make(false);
	nexus_settings.intent_idle_ns = INTENT_IDLE;
	if (!remake(2))
		return;
	touch(9, 1);
	CHECK(!is_on_both(INTENT_PAGE_IN_FLIGHT, 9));
	tick();
	CHECK_EQ(marked(), 1); /* it was written to a moment ago */
	CHECK(is_on_both(INTENT_PAGE_IN_FLIGHT, 9));
	offline(1);
	errand_wait(&nx->mark); /* that it misses nothing */
	touch(9, 1);
	marks_fold(nx);
	errand_wait(&nx->mark);
	CHECK(is_on_both(intent_page_missed(1), 9));
	nexus_unmake_kept();
	bases_unmake();
}

/* ---- where there is no room for marks -------------------------------------------------------- */

/* Two files with blocks of 64 KiB. */
static char paths[2][40], large[2][120];

static bool large_make(void)
{
	for (unsigned i = 0; i < 2; i++) {
		int fd;

		(void)snprintf(paths[i], sizeof(paths[i]), "/tmp/ashlar-nexus-XXXXXX");
		fd = mkstemp(paths[i]);
		if (!CHECK(fd >= 0))
			return false;
		CHECK_EQ(ftruncate(fd, 32 << 20), 0);
		(void)close(fd);
		(void)snprintf(large[i], sizeof(large[i]), "uring://%s?blk_size=65536", paths[i]);
	}
	fake_start();
	return true;
}

/* Nothing is known of caches there: all of a child that fell is copied, and the record says that
 * the end was clean after a flush only. */
ENGINE_TEST(without_marks_every_rebuild_is_full)
{
	const char *const uris_large[] = { large[0], large[1] };
	static uint8_t buf[65536];
	const struct rebuild_record *last;
	struct nexus_err ne = {};
	char fault[128];

	if (!large_make() || !remake_of(uris_large, 2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(nexus_child_fault(nx, large[1], NEXUS_REASON_OFFLINE, &ne), 0);
	CHECK(!child_info(1).has_io_log);
	CHECK_EQ(do_io(&o, IO_WRITE, 1, 1, buf, 0), IO_OK);
	CHECK_EQ(nexus_child_online(nx, large[1], &ne), 0);
	nexus_rebuild_wait(nx);
	last = nexus_rebuild_history(nx, 0);
	CHECK(last != NULL && last->stats.state == REBUILD_COMPLETED && !last->stats.is_partial);
	nexus_unmake_kept();
	CHECK(recorded_clean());
	if (remake_of(uris_large, 2)) {
		for (unsigned i = 0; i < 2; i++) {
			(void)snprintf(fault, sizeof(fault),
				       "inject://%s?op=flush&stage=completion", paths[i]);
			inject(fault);
		}
		nexus_unmake_kept();
	}
	CHECK(!recorded_clean());
	bases_unmake();
	for (unsigned i = 0; i < 2; i++)
		CHECK_EQ(unlink(paths[i]), 0);
}

TAP_MAIN()
