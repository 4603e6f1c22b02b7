/* SPDX-License-Identifier: Apache-2.0 */
/* A nexus that is made again, and the marks that tell it what to believe. */
#include "nexus/intent.h"
#include "nexus/marks.h"
#include "nexus/rebuild.h"
#include "nexus/testing.h"

/* ---- made again ----------------------------------------------------------------------------- */

ENGINE_TEST(after_a_crash_what_was_in_flight_is_given_again)
{
	bases_make(false);
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(2))
		return;
	CHECK_EQ(given[0].nstarts + given[1].nstarts, 0);
	touch(0, 7);
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
	/* it was being rebuilt when it crashes again: the same, and what was in flight since */
	touch(50, 1);
	crash();
	if (!remake(2))
		return;
	CHECK_EQ(given[1].nstarts, 2);
	CHECK(given[1].is_known);
	CHECK_EQ(given[1].nsegments, 8);
	nexus_unmake_kept();
	bases_unmake();
}

ENGINE_TEST(after_a_clean_end_only_the_lost_child_is_given_what_it_missed)
{
	bases_make(false);
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(3))
		return;
	touch(0, 1);
	offline(1);
	touch(10, 12);
	nexus_unmake_kept();
	CHECK(recorded_clean());
	if (!remake(3))
		return;
	CHECK_EQ(given[0].nstarts + given[2].nstarts, 0);
	CHECK_EQ(given[1].nstarts, 1);
	CHECK(given[1].is_known);
	CHECK_EQ(given[1].nsegments, 12);
	nexus_unmake_kept();
	bases_unmake();
}

ENGINE_TEST(a_lost_child_after_a_crash_is_given_both)
{
	bases_make(false);
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(3))
		return;
	touch(0, 1);
	offline(1);
	touch(10, 12);
	errand_wait(&nx->mark);
	crash();
	if (!remake(3))
		return;
	CHECK(given[1].is_known && given[2].is_known);
	CHECK_EQ(given[1].nsegments, 13);
	CHECK_EQ(given[2].nsegments, 13); /* in flight, as far as anybody knows */
	nexus_unmake_kept();
	bases_unmake();
}

ENGINE_TEST(records_of_another_generation_are_void)
{
	char *digit;

	bases_make(false);
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(2))
		return;
	touch(0, 1);
	crash();
	digit = strstr(fake.text, "\"generation\": \"") + strlen("\"generation\": \"");
	*digit = *digit == '0' ? '1' : '0';
	if (!remake(2))
		return;
	CHECK_EQ(given[1].nstarts, 1);
	CHECK(!given[1].is_known);
	nexus_unmake_kept();
	bases_unmake();
}

/* The next life overwrote the newer copy of a page and ended before its record was written. */
ENGINE_TEST(records_that_were_half_overwritten_are_void)
{
	static const char fault[] = "inject://m0?op=write&method=status&offset=2056&num_blk=8";

	bases_make(false);
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(2))
		return;
	touch(0, 3); /* the last is in the first copy of its page only */
	crash();
	inject(fault); /* the second copy of the head: the first copies of all have been written */
	fake.fail_next = 3;
	REFUSED(kept_create(kept, 2, &ne_), NEXUS_E_STORE);
	CHECK_EQ(fault_remove(fault, NULL), 0);
	if (!remake(2))
		return;
	CHECK_EQ(given[1].nstarts, 1);
	CHECK(!given[1].is_known);
	nexus_unmake_kept();
	bases_unmake();
}

ENGINE_TEST(stale_children_alone_make_no_nexus)
{
	bases_make(false);
	if (!remake(2))
		return;
	offline(1);
	nexus_unmake_kept();
	REFUSED(kept_create(&kept[1], 1, &ne_), NEXUS_E_INCOMPLETE);
	(void)snprintf(fake.text, sizeof(fake.text), "damaged");
	REFUSED(kept_create(&kept[1], 1, &ne_), NEXUS_E_STORE);
	CHECK_STR(fake.text, "damaged"); /* evidence is kept */
	bases_unmake();
}

/* It falls while it is marked, as the last: the record has it as healthy, and it is asked next. */
ENGINE_TEST(who_could_not_be_marked_is_not_written_to)
{
	static uint8_t buf[BLOCK], back[BLOCK];
	struct nexus_err ne = {};
	struct late_io write;

	bases_make(false);
	if (!remake(2))
		return;
	inject("inject://m1?op=write&method=delay&delay_us=20000&offset=2048&num_blk=512");
	inject("inject://m1?op=write&method=status&stage=completion&offset=2048&num_blk=512");
	fill(buf, sizeof(buf), 11);
	late_start(&write, IO_WRITE, 0, 1, buf);
	turns(10); /* the other is marked */
	CHECK_EQ(nexus_child_fault(nx, kept[0], NEXUS_REASON_OFFLINE, &ne), 0);
	while (status() != NEXUS_FAULTED)
		task_yield();
	settle_down();
	turns(100);
	CHECK(!write.is_done);
	CHECK_EQ(recorded(1), 1);
	CHECK_EQ(child_do("m1", IO_READ, 10240, 1, back), IO_OK);
	CHECK(memcmp(back, buf, BLOCK) != 0);
	fault_remove_all();
	CHECK_EQ(task_spawn("closer", close_when_done, &write), 0);
	CHECK_EQ(nexus_destroy(nx, &ne), 0);
	CHECK(write.io.status != IO_OK);
	bases_unmake();
}

ENGINE_TEST(marks_are_kept_and_cleared)
{
	struct nexus_info info;

	if (!nexus_make(2))
		return;
	nexus_settings.intent_idle_ns = INTENT_IDLE;
	nexus_info(nx, &info);
	CHECK_EQ(info.segments_in_flight, 0);
	touch(0, 5);
	tick();
	nexus_info(nx, &info);
	CHECK_EQ(info.segments_in_flight, 5); /* written to since the tick before */
	touch(0, 1);
	tick();
	nexus_info(nx, &info);
	CHECK_EQ(info.segments_in_flight, 1);
	tick();
	nexus_info(nx, &info);
	CHECK_EQ(info.segments_in_flight, 0);
	touch(0, 1);
	nexus_info(nx, &info);
	CHECK_EQ(info.segments_in_flight, 1);
	nexus_unmake();
}

ENGINE_TEST(a_store_that_hangs_does_not_hold_the_maker)
{
	bases_make(false);
	fake.is_hanging = true;
	REFUSED(kept_create(kept, 2, &ne_), NEXUS_E_STORE);
	CHECK(nexus_next(NULL) == NULL);
	CHECK_EQ(fake.nputs, 0);
	fake.is_hanging = false;
	task_event_fire(fake.let_go); /* its task ends, and frees what it was lent */
	turns(3);
	bases_unmake();
}

ENGINE_TEST(a_record_is_read_with_patience)
{
	bases_make(false);
	fake.fail_gets = 2; /* of three tries */
	if (!remake(2))
		return;
	nexus_unmake_kept();
	fake.fail_gets = 3;
	REFUSED(kept_create(kept, 2, &ne_), NEXUS_E_STORE);
	bases_unmake();
}

/* ---- what is not believed ------------------------------------------------------------------- */

/* The copy that cannot be read may be the newer one; an older map lacks what was marked last. */
ENGINE_TEST(a_page_that_cannot_be_read_tells_nothing)
{
	for (unsigned copy = 0; copy < 2; copy++) {
		char fault[128];

		bases_make(false);
		nexus_set_rebuilder(&note_rebuilder);
		if (!remake(2))
			return;
		touch(0, 1);
		touch(5, 1); /* each wrote one of the pair */
		crash();
		(void)snprintf(fault, sizeof(fault),
			       "inject://m0?op=read&stage=completion&offset=%u&num_blk=8",
			       META + (2 * INTENT_PAGE_IN_FLIGHT + copy) * 8);
		inject(fault);
		if (!remake(2))
			return;
		CHECK_EQ(given[1].nstarts, 1);
		CHECK(!given[1].is_known);
		nexus_unmake_kept();
		bases_unmake();
	}
}

/* It was a writer before, in the same life: its pages are of that stay unless they are written. */
ENGINE_TEST(who_comes_back_gets_what_others_missed)
{
	const char *const two[] = { kept[1], kept[2] };

	bases_make(false);
	if (!remake(3))
		return;
	nexus_settings.intent_idle_ns = INTENT_IDLE;
	offline(2);
	touch(0, 2);
	offline(1);
	touch(10, 3);
	tick();
	tick();
	CHECK_EQ(marks_count(nx), 0); /* only the pages of what is missed tell of these now */
	online(1);
	nexus_rebuild_wait(nx);
	crash();
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake_of(two, 2)) /* the first is lost: the second is the source */
		return;
	CHECK(given[1].is_known);
	CHECK_EQ(given[1].nsegments, 5);
	nexus_unmake_kept();
	bases_unmake();
}

ENGINE_TEST(what_a_child_missed_stays_known_until_its_rebuild_begins)
{

	bases_make(false);
	nexus_set_rebuilder(&wait_rebuilder);
	if (!remake(2))
		return;
	offline(1);
	touch(0, 2);
	online(1);
	touch(10, 3);
	offline(1);
	CHECK(child_info(1).has_io_log);
	CHECK_EQ(child_info(1).missed_segments, 5);
	touch(20, 1);
	crash();
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(2))
		return;
	CHECK(given[1].is_known);
	CHECK_EQ(given[1].nsegments, 6);
	nexus_unmake_kept();
	bases_unmake();
}

/* Marks of the last life are forgotten, and what they told of is in the source's cache only. */
ENGINE_TEST(the_source_is_flushed_before_old_marks_are_forgotten)
{
	uint64_t before;

	bases_make(true);
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(2))
		return;
	touch(0, 3);
	crash();
	before = flushes("m0");
	if (!remake(2))
		return;
	CHECK_EQ(flushes("m0"), before + 1);
	crash();
	inject("inject://m0?op=flush&stage=completion");
	REFUSED(kept_create(kept, 2, &ne_), NEXUS_E_INCOMPLETE);
	bases_unmake();
}

/* ---- where the record is lost ---------------------------------------------------------------- */

/* Another store, another user. */
static void record_lose(void)
{
	fake.text[0] = '\0';
}

static bool remake_lost(unsigned nchildren)
{
	record_lose();
	memset(given, 0, sizeof(given));
	return remake(nchildren);
}

/* One was served alone under another store; each has acknowledged writes that the other lacks. */
ENGINE_TEST(two_records_are_two_histories)
{
	char text[RECORD_TEXT_MAX];

	bases_make(false);
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(2))
		return;
	touch(0, 1);
	nexus_unmake_kept();
	memcpy(text, fake.text, sizeof(text));
	if (!remake_lost(1))
		return;
	touch(1, 1);
	nexus_unmake_kept();
	memcpy(fake.text, text, sizeof(text));
	REFUSED(kept_create(kept, 2, &ne_), NEXUS_E_INCOMPLETE);
	CHECK_STR(fake.text, text);
	if (!remake_of(&kept[1], 1)) /* the way on that the error names */
		return;
	nexus_unmake_kept();
	if (!remake(2))
		return;
	CHECK(!child_info(0).is_synced && child_info(1).is_synced);
	CHECK_EQ(given[0].nstarts, 1);
	CHECK(!given[0].is_known);
	nexus_unmake_kept();
	bases_unmake();
}

/* A life that ended before it had a record is no history of its own. */
ENGINE_TEST(a_life_without_a_record_is_no_history)
{
	bases_make(false);
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(2))
		return;
	touch(0, 1);
	nexus_unmake_kept();
	fake.fail_next = 3;
	REFUSED(kept_create(kept, 1, &ne_), NEXUS_E_STORE);
	if (!remake(2))
		return;
	CHECK(child_info(0).is_synced && child_info(1).is_synced);
	nexus_unmake_kept();
	bases_unmake();
}

/* The first misses what the second has. Its word is worth nothing, however the life ended. */
ENGINE_TEST(without_a_record_the_newest_is_the_source)
{
	for (unsigned is_clean = 0; is_clean < 2; is_clean++) {
		bases_make(false);
		nexus_set_rebuilder(&note_rebuilder);
		if (!remake(2))
			return;
		touch(0, 1);
		offline(0);
		touch(10, 12);
		errand_wait(&nx->mark);
		if (is_clean)
			nexus_unmake_kept();
		else
			crash();
		if (!remake_lost(2))
			return;
		CHECK(!child_info(0).is_synced && child_info(1).is_synced);
		CHECK_EQ(given[0].nstarts, 1);
		CHECK(!given[0].is_known);
		CHECK(recorded(0) == 0 && recorded(1) == 1);
		nexus_unmake_kept();
		bases_unmake();
	}
}

/* It was not among them any more in the life after. */
ENGINE_TEST(without_a_record_who_went_on_alone_is_the_source)
{
	bases_make(false);
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(2))
		return;
	touch(0, 100);
	nexus_unmake_kept();
	if (!remake_of(&kept[1], 1))
		return;
	touch(5, 1);
	nexus_unmake_kept();
	if (!remake_lost(2))
		return;
	CHECK(!child_info(0).is_synced && child_info(1).is_synced);
	CHECK_EQ(given[0].nstarts, 1);
	nexus_unmake_kept();
	bases_unmake();
}

/* The sequence of a later life does not begin anew. */
ENGINE_TEST(without_a_record_a_long_life_is_not_newer_than_a_later_one)
{
	bases_make(false);
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(3))
		return;
	touch(0, 100);
	nexus_unmake_kept();
	if (!remake_of(&kept[1], 2))
		return;
	touch(5, 1);
	nexus_unmake_kept();
	if (!remake_lost(3))
		return;
	CHECK(!child_info(0).is_synced && child_info(1).is_synced && child_info(2).is_synced);
	nexus_unmake_kept();
	bases_unmake();
}

/* It has the pages of all writers, but not the data. */
ENGINE_TEST(without_a_record_a_child_in_rebuild_is_no_source)
{
	for (unsigned is_clean = 0; is_clean < 2; is_clean++) {
		bases_make(false);
		nexus_set_rebuilder(&note_rebuilder);
		if (!remake(2))
			return;
		offline(0);
		touch(0, 5);
		online(0);
		touch(7, 1);
		if (is_clean)
			nexus_unmake_kept();
		else
			crash();
		record_lose();
		REFUSED(kept_create(kept, 1, &ne_), NEXUS_E_INCOMPLETE);
		if (!remake_lost(2))
			return;
		CHECK(!child_info(0).is_synced && child_info(1).is_synced);
		CHECK_EQ(given[0].nstarts, 1);
		nexus_unmake_kept();
		bases_unmake();
	}
}

/* When the rebuild is over it is as good as the other. */
ENGINE_TEST(without_a_record_equals_stay_equal_after_a_clean_end)
{
	bases_make(false);
	if (!remake(2))
		return;
	offline(0);
	touch(0, 5);
	online(0);
	nexus_rebuild_wait(nx);
	CHECK(child_info(0).is_synced);
	touch(7, 1);
	nexus_unmake_kept();
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake_lost(2))
		return;
	CHECK(child_info(0).is_synced && child_info(1).is_synced);
	touch(9, 1); /* in flight when it crashes: they may differ */
	crash();
	if (!remake_lost(2))
		return;
	CHECK(child_info(0).is_synced && !child_info(1).is_synced);
	CHECK(!given[1].is_known);
	nexus_unmake_kept();
	bases_unmake();
}

/* The first has a page that the second lacks, as the process died between the two. */
static void page_ahead(void)
{
	static uint8_t buf[2 * 2 * INTENT_PAGE_SIZE];
	struct intent_page *page = (void *)buf;
	struct intent_id id = {};
	uint64_t newest = 0;

	CHECK_EQ(child_do("m0", IO_READ, 2048, sizeof(buf) / 512, buf), IO_OK);
	for (unsigned i = 0; i < 4; i++)
		newest = MAX(newest, le64_get(page[i].sequence));
	memcpy(id.nexus.b, page->nexus, sizeof(id.nexus.b));
	memcpy(id.replica.b, page->replica, sizeof(id.replica.b));
	id.generation = le64_get(page->generation);
	id.nsegments = le32_get(page->nsegments);
	id.shift = page->shift;
	intent_page_encode(page, &id, INTENT_PAGE_IN_FLIGHT, newest + 1, NULL, NULL);
	CHECK_EQ(child_do("m0", IO_WRITE, 2048 + 2 * 8, 8, page), IO_OK);
}

/* It got one page more, and is not asked when the other goes on alone. */
ENGINE_TEST(without_a_record_a_page_more_is_not_newer_than_a_life)
{
	bases_make(false);
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(2))
		return;
	touch(0, 3);
	crash();
	page_ahead();
	if (!remake_of(&kept[1], 1))
		return;
	touch(5, 1);
	nexus_unmake_kept();
	if (!remake_lost(2))
		return;
	CHECK(!child_info(0).is_synced && child_info(1).is_synced);
	nexus_unmake_kept();
	bases_unmake();
}

/* Whoever tried to make it without success has written to the first only. */
ENGINE_TEST(without_a_record_a_life_that_had_none_is_not_newer)
{
	bases_make(false);
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(2))
		return;
	touch(0, 3);
	crash();
	for (unsigned i = 0; i < 3; i++) {
		fake.fail_next = 3;
		REFUSED(kept_create(kept, 1, &ne_), NEXUS_E_STORE);
	}
	if (!remake_of(&kept[1], 1))
		return;
	touch(5, 1);
	nexus_unmake_kept();
	if (!remake_lost(2))
		return;
	CHECK(!child_info(0).is_synced && child_info(1).is_synced);
	nexus_unmake_kept();
	bases_unmake();
}

/* A stale one alone knows no better, and a new disk is no equal of what was written to. */
ENGINE_TEST(without_a_record_a_single_replica_is_taken)
{
	bases_make(false);
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(2))
		return;
	touch(0, 3);
	nexus_unmake_kept();
	record_lose();
	if (!remake_of(&kept[1], 1))
		return;
	CHECK(child_info(0).is_synced);
	nexus_unmake_kept();
	record_lose();
	if (!remake_of((const char *const[]){ kept[2], kept[1] }, 2))
		return;
	CHECK(!child_info(0).is_synced && child_info(1).is_synced);
	nexus_unmake_kept();
	bases_unmake();
}

/* Another nexus on old disks is new: nothing of it was written there. */
ENGINE_TEST(without_a_record_another_nexus_is_new)
{
	static const char page[] = "inject://m1?op=read&stage=completion&offset=2048&num_blk=16";
	struct nexus_opts opts = {
		.name = "n1", .size = 16 << 20, .children = kept, .nchildren = 2
	};
	struct nexus_err ne = {};

	bases_make(false);
	nexus_set_rebuilder(&note_rebuilder);
	if (!remake(2))
		return;
	offline(0);
	touch(0, 3);
	crash();
	record_lose();
	inject(page); /* it may be the newer one */
	REFUSED(kept_create(kept, 2, &ne_), NEXUS_E_INCOMPLETE);
	fault_remove_all();
	if (!CHECK_EQ(nexus_create(&opts, &nx, &ne), 0))
		return;
	CHECK(child_info(0).is_synced && child_info(1).is_synced);
	CHECK_EQ(nexus_destroy(nx, &ne), 0);
	bases_unmake();
}

TAP_MAIN()
