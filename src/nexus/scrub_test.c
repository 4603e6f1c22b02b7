/* SPDX-License-Identifier: Apache-2.0 */
/* A scrub of a nexus over memory devices: what it finds, what it mends, what it leaves alone. */
#include "nexus/scrub.h"

#include "base/units.h"
#include "nexus/rebuild_testing.h"

static struct {
	unsigned nmismatches, nblocks, nunknown, nok;
	char child[128];
	uint64_t lba;
} told;

static void on_event(struct nexus_listener *listener, const struct nexus_event *event)
{
	(void)listener;
	if (event->type != NEXUS_EVENT_MISMATCH)
		return;
	told.nmismatches++;
	told.nblocks += (unsigned)event->nlb;
	told.nunknown += event->child == NULL;
	told.nok += event->is_ok;
	told.lba = event->lba;
	(void)snprintf(told.child, sizeof(told.child), "%s",
		       event->child != NULL ? event->child : "");
}

static struct nexus_listener listener = { .fn = on_event };

static bool make(unsigned nchildren)
{
	if (!all_make(nchildren))
		return false;
	memset(&told, 0, sizeof(told));
	nexus_listen(&listener);
	put_all();
	return true;
}

static void unmake(void)
{
	nexus_unlisten(&listener);
	all_unmake();
}

static struct scrub_stats scrub(const struct scrub_opts *opts)
{
	struct scrub_stats stats = {};
	struct nexus_err ne = {};

	if (nexus_scrub_start(nx, opts, &ne) < 0) {
		CHECK_STR(err_text(&ne.err), "a scrub");
		return stats;
	}
	nexus_scrub_wait(nx);
	nexus_scrub_stats(nx, &stats);
	CHECK_EQ(stats.state, SCRUB_COMPLETED);
	CHECK_EQ(stats.blocks_done, NBLOCKS);
	CHECK_EQ(stats.progress, 100);
	CHECK_EQ(stats.remaining_ns, 0);
	return stats;
}

/* Other data in @nlb blocks of base @i. */
static void damage(unsigned i, uint64_t lba, uint32_t nlb, uint8_t byte)
{
	memset(y, byte, (size_t)nlb * BLOCK);
	CHECK_EQ(base_do(i, IO_WRITE, START + lba, nlb, y), IO_OK);
}

ENGINE_TEST(equal_copies_are_equal)
{
	struct scrub_stats stats;

	if (!make(3))
		return;
	stats = scrub(&(struct scrub_opts){ .is_repairing = true });
	CHECK_EQ(stats.blocks_differ, 0);
	CHECK_EQ(stats.blocks_holes, 0);
	CHECK_EQ(told.nmismatches, 0);
	CHECK_EQ(do_io(&o, IO_UNMAP, 0, NBLOCKS / 2, NULL, 0), IO_OK);
	stats = scrub(&(struct scrub_opts){ .is_repairing = true });
	CHECK_EQ(stats.blocks_differ, 0);
	CHECK_EQ(stats.blocks_holes, NBLOCKS / 2);
	unmake();
}

/* A block, the end of one chunk and the beginning of the next, the last block. */
static const struct {
	uint64_t lba;
	uint32_t nlb;
} places[] = { { 100, 1 }, { 2 * MB + 120, 20 }, { NBLOCKS - 1, 1 } };

ENGINE_TEST(a_majority_mends)
{
	struct scrub_stats stats;

	if (!make(3))
		return;
	for (unsigned i = 0; i < 3; i++)
		damage(i, places[i].lba, places[i].nlb, 0xd0);
	stats = scrub(&(struct scrub_opts){}); /* only reports */
	CHECK_EQ(stats.blocks_differ, 22);
	CHECK_EQ(stats.blocks_repaired, 0);
	CHECK_EQ(stats.first_differ, 100);
	CHECK_EQ(told.nblocks, 22);
	CHECK_EQ(told.nmismatches, 4);
	CHECK_EQ(told.nok + told.nunknown, 0);
	CHECK_STR(told.child, uris[2]);
	CHECK_EQ(told.lba, NBLOCKS - 1);
	CHECK(!are_equal(0, 1));
	stats = scrub(&(struct scrub_opts){ .is_repairing = true });
	CHECK_EQ(stats.blocks_differ, 22);
	CHECK_EQ(stats.blocks_repaired, 22);
	CHECK_EQ(told.nok, 4);
	CHECK(are_equal(0, 1) && are_equal(0, 2));
	memset(y, 0xd0, BLOCK); /* the damage did not win */
	CHECK_EQ(base_do(0, IO_READ, START + 100, 1, x), IO_OK);
	CHECK(memcmp(x, y, BLOCK) != 0);
	stats = scrub(&(struct scrub_opts){ .is_repairing = true });
	CHECK_EQ(stats.blocks_differ, 0);
	for (unsigned i = 0; i < 3; i++)
		CHECK_EQ(child(i).health, CHILD_HEALTH_ONLINE);
	unmake();
}

ENGINE_TEST(without_a_majority_nobody_knows)
{
	struct scrub_stats stats;

	if (!make(3))
		return;
	damage(0, 500, 3, 0xd0);
	damage(1, 500, 3, 0xd1);
	stats = scrub(&(struct scrub_opts){ .is_repairing = true });
	CHECK_EQ(stats.blocks_differ, 3);
	CHECK_EQ(stats.blocks_repaired, 0);
	CHECK_EQ(told.nunknown, 1);
	CHECK_EQ(told.nblocks, 3);
	CHECK(!are_equal(0, 1) && !are_equal(0, 2) && !are_equal(1, 2));
	unmake();
	if (!make(2)) /* one against one */
		return;
	damage(0, 500, 3, 0xd0);
	stats = scrub(&(struct scrub_opts){ .is_repairing = true });
	CHECK_EQ(stats.blocks_differ, 3);
	CHECK_EQ(stats.blocks_repaired, 0);
	CHECK(!are_equal(0, 1));
	stats = scrub(&(struct scrub_opts){ .is_repairing = true, .trusted = uris[1] });
	CHECK_EQ(stats.blocks_repaired, 3);
	CHECK_STR(told.child, uris[0]);
	CHECK(are_equal(0, 1));
	memset(y, 0xd0, BLOCK);
	CHECK_EQ(base_do(0, IO_READ, START + 500, 1, x), IO_OK);
	CHECK(memcmp(x, y, BLOCK) != 0);
	unmake();
}

ENGINE_TEST(a_child_that_cannot_be_mended_is_out)
{
	struct scrub_stats stats;

	if (!make(3))
		return;
	damage(1, 500, 1, 0xd0);
	inject("inject://m1?op=write&method=drop&offset=10740&num_blk=1");
	stats = scrub(&(struct scrub_opts){ .is_repairing = true });
	CHECK_EQ(stats.blocks_differ, 1);
	CHECK_EQ(stats.blocks_repaired, 0);
	settle_down();
	CHECK_EQ(child(1).state, CHILD_FAULTED);
	unmake();
}

ENGINE_TEST(another_owners_children_are_not_mended)
{
	struct nexus_info info;

	if (!make(3))
		return;
	damage(1, 500, 1, 0xd0);
	inject("inject://m1?op=write&stage=completion&method=status-nvme-0-83&offset=10740"
	       "&num_blk=1");
	CHECK_EQ(nexus_scrub_start(nx, &(struct scrub_opts){ .is_repairing = true }, NULL), 0);
	nexus_scrub_wait(nx);
	errand_wait(&nx->retire);
	nexus_info(nx, &info);
	CHECK_EQ(info.state, NEXUS_SHUTDOWN);
	unmake();
}

ENGINE_TEST(what_cannot_be_read_is_not_compared)
{
	struct scrub_stats stats;

	if (!make(3))
		return;
	damage(0, 500, 1, 0xd0);
	inject("inject://m1?op=read&method=status-nvme-2-81&offset=10740&num_blk=1");
	stats = scrub(&(struct scrub_opts){ .is_repairing = true });
	CHECK(stats.read_errors > 0);
	CHECK_EQ(stats.blocks_differ, 1);
	CHECK_EQ(stats.blocks_repaired, 0); /* one against one */
	CHECK_EQ(told.nunknown, 1);
	unmake();
}

ENGINE_TEST(a_scrub_is_refused_stopped_and_ends_with_the_nexus)
{
	struct scrub_opts slow = { .rate = 10 << 20 };
	struct scrub_stats stats;
	struct nexus_err ne = {};

	if (!make(2))
		return;
	nexus_scrub_stats(nx, &stats);
	CHECK_EQ(stats.state, SCRUB_NONE);
	CHECK_EQ(nexus_scrub_start(nx, &(struct scrub_opts){ .trusted = uris[3] }, &ne), -ENOENT);
	ne = (struct nexus_err){};
	CHECK_EQ(nexus_scrub_start(nx, &slow, &ne), 0);
	CHECK_EQ(nexus_scrub_start(nx, &slow, &ne), -EPERM);
	CHECK_HAS(err_text(&ne.err), "already");
	do {
		task_yield();
		nexus_scrub_stats(nx, &stats);
	} while (stats.blocks_done == 0);
	CHECK_EQ(stats.state, SCRUB_RUNNING);
	CHECK(stats.remaining_ns > 0);
	nexus_scrub_stop(nx);
	nexus_scrub_stats(nx, &stats);
	CHECK_EQ(stats.state, SCRUB_STOPPED);
	CHECK(stats.blocks_done < NBLOCKS);
	CHECK_EQ(nexus_scrub_start(nx, &slow, &ne), 0);
	offline(1); /* returns: a scrub holds nobody */
	nexus_scrub_wait(nx);
	nexus_scrub_stats(nx, &stats);
	CHECK_EQ(stats.state, SCRUB_FAILED);
	ne = (struct nexus_err){};
	CHECK_EQ(nexus_scrub_start(nx, &slow, &ne), -EPERM);
	CHECK_HAS(err_text(&ne.err), "nothing to compare");
	online(1);
	nexus_rebuild_wait(nx);
	CHECK_EQ(nexus_scrub_start(nx, &slow, &ne), 0);
	unmake(); /* destroyed while it runs */
}

/* Writes in flight are not differences. */
ENGINE_TEST(hosts_write_while_it_is_scrubbed)
{
	static struct late {
		struct io io;
		struct rng rng;
		uint8_t buf[8 * BLOCK];
	} late[8];
	struct scrub_stats stats;
	struct nexus_err ne = {};

	if (!make(3))
		return;
	CHECK_EQ(nexus_scrub_start(nx, &(struct scrub_opts){}, &ne), 0);
	for (unsigned n = 0; n < 2000; n++) {
		struct late *l = &late[n % 8];

		if (n < 8)
			rng_init(&l->rng, n);
		rng_fill(&l->rng, l->buf, sizeof(l->buf));
		CHECK_EQ(do_io(&o, IO_WRITE, rng_below(&l->rng, NBLOCKS - 8), 8, l->buf, 0), IO_OK);
	}
	nexus_scrub_wait(nx);
	nexus_scrub_stats(nx, &stats);
	CHECK_EQ(stats.state, SCRUB_COMPLETED);
	CHECK_EQ(stats.blocks_differ, 0);
	unmake();
}

TAP_MAIN()
