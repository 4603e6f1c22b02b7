/* SPDX-License-Identifier: Apache-2.0 */
/* One writer per block: the table, and a mirror under writers that overlap on all reactors. */
#include "nexus/overlap.h"

#include <sched.h>

#include "drivers/testing.h"
#include "nexus/internal.h"

static struct overlap table;

TEST(a_block_has_one_writer)
{
	static const struct {
		uint64_t lba, nlb;
	} rows[] = { { 0, 1 },   { 63, 1 },     { 63, 2 },       { 10, 200 },
		     { 64, 64 }, { 8191, 513 }, { 1u << 20, 7 }, { 5, OVERLAP_NLB_MAX } };

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint64_t lba = rows[i].lba, nlb = rows[i].nlb;

		CHECK(overlap_take(&table, lba, nlb));
		CHECK(!overlap_is_free(&table, lba + nlb - 1, 1));
		CHECK(!overlap_take(&table, lba + nlb - 1, 100));
		CHECK(overlap_is_free(&table, lba + nlb, 99)); /* what it could not have is free */
		CHECK(!overlap_take(&table, lba, 1));
		CHECK(overlap_take(&table, lba + nlb, 1));
		overlap_give(&table, lba + nlb, 1);
		overlap_give(&table, lba, nlb);
		CHECK(overlap_is_free(&table, 0, OVERLAP_NLB_MAX + 1));
	}
}

TEST(the_whole_table_is_taken_step_by_step)
{
	uint64_t next = 0;

	CHECK(overlap_take(&table, 64 * 100 + 3, 1));
	CHECK(!overlap_take_all(&table, &next));
	CHECK_EQ(next, 100);
	CHECK(!overlap_take(&table, 0, 1)); /* what it has got, it keeps */
	CHECK(overlap_take(&table, 64 * 101, 1));
	overlap_give(&table, 64 * 101, 1);
	overlap_give(&table, 64 * 100 + 3, 1);
	CHECK(overlap_take_all(&table, &next));
	CHECK(!overlap_is_free(&table, 12345, 1));
	overlap_give(&table, 0, OVERLAP_NLB_MAX + 1);
	CHECK(overlap_is_free(&table, 0, OVERLAP_NLB_MAX + 1));
}

/* A read meets a write of another reactor in the memory device, which may mix the two within a
 * block, on purpose; the sanitizer cannot know. */
#ifdef __SANITIZE_THREAD__
#define HAS_READS false
#else
#define HAS_READS true
#endif

/* ---- a mirror ------------------------------------------------------------------------------- */

enum {
	WRITERS = 24, /* per reactor */
	WRITES = 12,
	ROUNDS = 120,    /* the last writes of each decide; the legs are compared then */
	HOT_BLOCKS = 12, /* everybody writes here */
	NLB_MAX = 9,
	BLOCK = 512,
};

struct writer {
	struct io io;
	struct handle *h;
	struct rng rng;
	unsigned left;
	uint8_t buf[NLB_MAX * BLOCK];
};

static struct writer *writers;
static _Atomic unsigned nrunning, nbad;
static struct task_event all_done;

static void tell_done(struct msg *msg)
{
	(void)msg;
	task_event_fire(&all_done);
}

static void writer_next(struct io *io)
{
	static struct msg back = { .fn = tell_done };
	struct writer *w = container_of(io, struct writer, io);
	bool is_zero, is_huge, is_read;

	if (io->status != IO_OK)
		nbad++;
	if (w->left-- == 0) {
		if (--nrunning == 0)
			reactor_post(reactor_primary(), &back);
		return;
	}
	is_huge = rng_chance(&w->rng, 1, 200);
	is_zero = is_huge || rng_chance(&w->rng, 1, 8);
	is_read = !is_zero && HAS_READS && rng_chance(&w->rng, 1, 5);
	io->op = is_zero ? IO_WRITE_ZEROES : is_read ? IO_READ : IO_WRITE;
	io->lba = is_huge ? 0 : rng_below(&w->rng, HOT_BLOCKS);
	io->nlb = is_huge ? OVERLAP_NLB_MAX + 9 : (uint32_t)rng_range(&w->rng, 1, NLB_MAX);
	if (io->op == IO_WRITE)
		rng_fill(&w->rng, w->buf, sizeof(w->buf));
	io_set_buf(io, w->buf, (size_t)io->nlb * BLOCK);
	if (is_zero)
		io->iovcnt = 0;
	io_submit(w->h, io);
}

static void writers_go(void *arg)
{
	struct writer *first = arg;

	for (unsigned i = 0; i < WRITERS; i++)
		writer_next(&first[i].io);
}

static bool equal_on_both(struct nexus *nx)
{
	static uint8_t x[256 * BLOCK], y[256 * BLOCK];
	uint8_t *bufs[] = { x, y };

	for (unsigned i = 0; i < 2; i++) {
		struct io io = { .op = IO_READ, .lba = 10240, .nlb = 256 };
		struct handle *h;

		io_set_buf(&io, bufs[i], sizeof(x));
		if (handle_open(nx->child[i]->desc, reactor_primary(), &h, NULL) < 0 ||
		    io_wait(h, &io) != IO_OK)
			return false;
	}
	return CHECK_MEM(x, y, sizeof(x));
}

static void hammer(struct nexus *nx, unsigned seed)
{
	struct opened o = { .dev = nexus_device(nx) };
	struct desc_opts how = { .flags = DESC_WRITE };

	CHECK_EQ(desc_open(o.dev, &how, &o.desc, NULL), 0);
	writers = calloc(WRITERS * reactor_count(), sizeof(*writers));
	all_done = (struct task_event){};
	nrunning = WRITERS * reactor_count();
	for (unsigned r = 0; r < reactor_count(); r++) {
		struct handle *h = NULL;

		CHECK_EQ(handle_open(o.desc, reactor_get(r), &h, NULL), 0);
		for (unsigned i = 0; i < WRITERS; i++) {
			struct writer *w = &writers[r * WRITERS + i];

			w->h = h;
			w->left = WRITES;
			w->io.done = writer_next;
			rng_init(&w->rng, seed * 1000 + r * WRITERS + i);
		}
	}
	for (unsigned r = 0; r < reactor_count(); r++)
		task_call(reactor_get(r), writers_go, &writers[r * WRITERS]);
	task_event_wait(&all_done);
	CHECK_EQ(nbad, 0);
	free(writers);
	desc_close(o.desc);
}

static int overlap_body(void *arg, struct err *err)
{
	static const char *const faults[] = {
		NULL,
		/* legs that answer at different times, in another order */
		"inject://c1?op=all&method=delay&delay_us=1-300&probability=0.3",
	};
	static const char *const children[] = { "malloc:///c0?size_mb=32",
						"malloc:///c1?size_mb=32" };
	struct nexus_opts opts = {
		.name = "n0", .size = 24 << 20, .children = children, .nchildren = 2
	};
	struct nexus_info info;
	struct nexus *nx;

	(void)arg;
	(void)err;
	for (unsigned i = 0; i < ARRAY_LEN(faults); i++) {
		struct nexus_err ne = {};

		TAP_ROW(faults[i]);
		if (faults[i] != NULL && fault_add(faults[i], &ne.err) < 0)
			CHECK_STR(err_text(&ne.err), "a fault");
		if (nexus_create(&opts, &nx, &ne) < 0)
			return CHECK_STR(err_text(&ne.err), "a nexus");
		for (unsigned round = 0; round < ROUNDS; round++) {
			hammer(nx, round);
			if (!CHECK(equal_on_both(nx)))
				break;
		}
		fault_remove_all();
		nexus_info(nx, &info);
		CHECK(info.overlaps > 100);
		CHECK_EQ(info.status, NEXUS_ONLINE);
		CHECK(overlap_is_free(nx->overlap, 0, OVERLAP_NLB_MAX + 1));
		CHECK_EQ(nx->nblocked, 0);
		CHECK_EQ(nexus_destroy(nx, &ne), 0);
	}
	return 0;
}

TEST(overlapping_writes_leave_the_legs_equal)
{
	struct engine_opts opts = { .reactor.core_mask = 0x3 };
	struct err err = {};
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	(void)sched_getaffinity(0, sizeof(cpus), &cpus);
	if (!CPU_ISSET(0, &cpus) || !CPU_ISSET(1, &cpus)) {
		SKIP("two cores are needed");
		return;
	}
	CHECK_EQ(engine_run(&opts, overlap_body, NULL, &err), 0);
}

TAP_MAIN()
