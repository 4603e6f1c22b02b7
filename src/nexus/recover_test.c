/* SPDX-License-Identifier: Apache-2.0 */
/* A nexus that is made again, and the marks that tell it what to believe. */
#include "nexus/testing.h"

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

static const struct nexus_rebuilder note_rebuilder = { .start = note_start, .leave = note_stop };

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
	/* it was being rebuilt when it crashes again: the same, and what was in flight since */
	CHECK_EQ(do_io(&o, IO_WRITE, 50 * 128, 1, buf, 0), IO_OK);
	crash();
	if (!remake(2))
		return;
	CHECK_EQ(given[1].nstarts, 2);
	CHECK(given[1].is_known);
	CHECK_EQ(given[1].nsegments, 8);
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

/* The next life overwrote the newer copy of a page and ended before its record was written. */
ENGINE_TEST(records_that_were_half_overwritten_are_void)
{
	static const char fault[] = "inject://m0?op=write&method=status&offset=2056&num_blk=8";
	struct nexus_opts opts = { .name = "n0",
				   .size = 16 << 20,
				   .children = kept,
				   .nchildren = 2,
				   .info_key = "volume" };
	static uint8_t buf[BLOCK];

	memset(given, 0, sizeof(given));
	nexus_set_rebuilder(&note_rebuilder);
	bases_make();
	if (!remake(2))
		return;
	for (unsigned i = 0; i < 3; i++) /* the last is in the first copy of its page only */
		CHECK_EQ(do_io(&o, IO_WRITE, i * 128, 1, buf, 0), IO_OK);
	crash();
	inject(fault); /* the second copy of the head: the first copies of all have been written */
	fake.fail_next = 3;
	CHECK_EQ(uuid_from_text(UUID_3, &opts.uuid, NULL), 0);
	REFUSED(nexus_create(&opts, &nx, &ne_), NEXUS_E_STORE);
	CHECK_EQ(fault_remove(fault, NULL), 0);
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

static void close_when_done(void *arg)
{
	struct late_io *late = arg;

	task_event_wait(&late->event);
	desc_close(take(o.desc));
}

/* It falls while it is marked, as the last: the record has it as healthy, and it is asked next. */
ENGINE_TEST(who_could_not_be_marked_is_not_written_to)
{
	static uint8_t buf[BLOCK], back[BLOCK];
	struct nexus_err ne = {};
	struct late_io write;

	bases_make();
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

ENGINE_TEST(a_store_that_hangs_does_not_hold_the_maker)
{
	struct nexus_opts opts = {
		.name = "n0", .size = 16 << 20, .children = kept, .nchildren = 2
	};

	bases_make();
	fake.is_hanging = true;
	REFUSED(nexus_create(&opts, &nx, &ne_), NEXUS_E_STORE);
	CHECK(nexus_next(NULL) == NULL);
	CHECK_EQ(fake.nputs, 0);
	fake.is_hanging = false;
	task_event_fire(fake.let_go); /* its task ends, and frees what it was lent */
	turns(3);
	bases_unmake();
}

ENGINE_TEST(a_record_is_read_with_patience)
{
	struct nexus_err ne = {};

	bases_make();
	fake.fail_gets = 2; /* of three tries */
	if (!remake(2))
		return;
	desc_close(o.desc);
	CHECK_EQ(nexus_destroy(nx, &ne), 0);
	fake.fail_gets = 3;
	{
		struct nexus_opts opts = {
			.name = "n0", .size = 16 << 20, .children = kept, .nchildren = 2
		};

		REFUSED(nexus_create(&opts, &nx, &ne_), NEXUS_E_STORE);
	}
	bases_unmake();
}

TAP_MAIN()
