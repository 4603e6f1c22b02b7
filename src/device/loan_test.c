/* SPDX-License-Identifier: Apache-2.0 */
/* Loans: what is lent stays in flight; whoever waits for I/O gets it back as a copy. */
#include "device/ram_test.h"

static struct ram_io rd;
static struct io_loan loan;
static uint8_t buf[8 * RAM_BLOCK];

static void fill(void)
{
	for (size_t i = 0; i < sizeof(ram.bytes); i++)
		ram.bytes[i] = (uint8_t)(i * 7 + i / RAM_BLOCK);
	memset(buf, 0xaa, sizeof(buf));
}

static void offer(unsigned core, uint64_t lba, uint32_t nlb)
{
	ram_prepare(&rd, core, IO_READ, lba, nlb, buf);
	io_offer(&rd.io, &loan);
	ram_post(&rd);
}

static void return_here(void *arg)
{
	io_return(arg);
}

static void unlend_here(void *arg)
{
	io_unlend(arg);
}

static void recall_here(void *arg)
{
	handle_recall(arg);
}

static unsigned inflight(unsigned core)
{
	const struct channel *ch = ram_h[core]->ch;

	return ch->inflight[0] + ch->inflight[1];
}

static bool pieces_are(const uint8_t *want, size_t len)
{
	size_t done = 0;

	for (unsigned i = 0; i < loan.count; i++) {
		if (memcmp(loan.piece[i].iov_base, want + done, loan.piece[i].iov_len) != 0)
			return false;
		done += loan.piece[i].iov_len;
	}
	return done == len;
}

static void lends(void)
{
	struct io_stats stats;

	fill();
	for (unsigned core = 0; core < 2; core++) {
		offer(core, 3, 8);
		CHECK_EQ(ram_wait(&rd), IO_OK);
		CHECK(io_is_lent(&rd.io));
		CHECK(loan.piece[0].iov_base == ram.bytes + 3 * (size_t)RAM_BLOCK);
		CHECK(pieces_are(ram.bytes + 3 * (size_t)RAM_BLOCK, sizeof(buf)));
		CHECK_EQ(buf[0], 0xaa);
		CHECK_EQ(inflight(core), 1);
		task_call(reactor_get(core), return_here, &rd.io);
		CHECK(!io_is_lent(&rd.io));
		CHECK_EQ(inflight(core), 0);
		task_call(reactor_get(core), return_here, &rd.io); /* again: nothing */
		CHECK_EQ(inflight(core), 0);
	}
	device_stats(ram_dev, &stats);
	CHECK_EQ(stats.op[IO_READ].ops, 2);
	CHECK_EQ(stats.op[IO_READ].bytes, 2 * sizeof(buf));
}

TEST(a_read_is_answered_where_its_data_lies)
{
	ram.is_lending = true;
	ram_run(lends);
}

static void copies(void)
{
	fill();
	offer(1, 3, 8);
	CHECK_EQ(ram_wait(&rd), IO_OK);
	CHECK(!io_is_lent(&rd.io));
	CHECK(memcmp(buf, ram.bytes + 3 * (size_t)RAM_BLOCK, sizeof(buf)) == 0);
	CHECK_EQ(inflight(1), 0);
}

TEST(a_driver_that_cannot_lend_copies)
{
	ram_run(copies);
}

static void unlends(void)
{
	fill();
	offer(1, 5, 8);
	CHECK_EQ(ram_wait(&rd), IO_OK);
	task_call(reactor_get(1), unlend_here, &rd.io);
	CHECK(!io_is_lent(&rd.io));
	CHECK(memcmp(buf, ram.bytes + 5 * (size_t)RAM_BLOCK, sizeof(buf)) == 0);
	CHECK_EQ(inflight(1), 0);
	offer(1, 5, 8);
	CHECK_EQ(ram_wait(&rd), IO_OK);
	memset(buf, 0, sizeof(buf));
	task_call(reactor_get(0), recall_here, ram_h[0]); /* not of that reactor */
	CHECK(io_is_lent(&rd.io));
	task_call(reactor_get(1), recall_here, ram_h[1]);
	CHECK(!io_is_lent(&rd.io));
	CHECK(memcmp(buf, ram.bytes + 5 * (size_t)RAM_BLOCK, sizeof(buf)) == 0);
}

TEST(a_loan_becomes_a_copy_when_asked)
{
	ram.is_lending = true;
	ram_run(unlends);
}

/* A reader that never returns: the data is the one from before what was waited for. */
static void drains(void)
{
	struct range_lock lock;

	fill();
	offer(1, 0, 8);
	CHECK_EQ(ram_wait(&rd), IO_OK);
	device_quiesce(ram_dev);
	CHECK(!io_is_lent(&rd.io));
	CHECK_EQ(inflight(1), 0);
	memset(ram.bytes, 0x55, 8 * RAM_BLOCK);
	device_resume(ram_dev);
	CHECK_EQ(buf[1], 7);
	CHECK_EQ(buf[8 * RAM_BLOCK - 1], (uint8_t)((8 * RAM_BLOCK - 1) * 7 + 7));

	offer(1, 0, 8);
	CHECK_EQ(ram_wait(&rd), IO_OK);
	CHECK(io_is_lent(&rd.io));
	CHECK_EQ(range_lock(ram_dev, &lock, 100, 1, NULL), 0); /* elsewhere: waits for all */
	CHECK(!io_is_lent(&rd.io));
	CHECK_EQ(buf[0], 0x55);
	offer(1, 0, 8); /* and a new one beside the lock */
	CHECK_EQ(ram_wait(&rd), IO_OK);
	CHECK(io_is_lent(&rd.io));
	range_unlock(ram_dev, &lock);
	CHECK_EQ(device_resize(ram_dev, RAM_BLOCKS - 8, NULL), 0);
	CHECK(!io_is_lent(&rd.io));
	CHECK_EQ(inflight(1), 0);
}

TEST(a_drain_does_not_wait_for_the_reader)
{
	ram.is_lending = true;
	ram_run(drains);
}

struct quiescer {
	struct task_event done;
	bool is_done;
};

static void quiescer(void *arg)
{
	struct quiescer *q = arg;

	device_quiesce(ram_dev);
	q->is_done = true;
	device_resume(ram_dev);
	task_event_fire(&q->done);
}

/* The request is with the driver when the drain begins: what it lends then is taken at once. */
static void drains_before_the_loan(void)
{
	struct quiescer q = {};

	fill();
	ram.is_holding = true;
	offer(1, 0, 8);
	while (ram.submitted[IO_READ] == 0)
		task_sleep(10000);
	CHECK_EQ(task_spawn("quiescer", quiescer, &q), 0);
	while (!(atomic_load(&ram.submitted[IO_READ]) == 1 && ram_dev->quiesce_count == 1))
		task_sleep(10000);
	ram.is_holding = false;
	CHECK_EQ(ram_wait(&rd), IO_OK);
	task_event_wait(&q.done);
	CHECK(q.is_done && !io_is_lent(&rd.io));
	CHECK(memcmp(buf, ram.bytes, sizeof(buf)) == 0);
	CHECK_EQ(inflight(1), 0);
}

TEST(what_is_lent_during_a_drain_is_copied)
{
	ram.is_lending = true;
	ram_run(drains_before_the_loan);
}

static void faults(void)
{
	fill();
	CHECK_EQ(fault_add("inject://r0?op=read&stage=completion&method=data", NULL), 0);
	offer(1, 0, 8);
	CHECK_EQ(ram_wait(&rd), IO_OK);
	CHECK(!io_is_lent(&rd.io));
	CHECK(memcmp(buf, ram.bytes, sizeof(buf)) != 0);
	CHECK_EQ(ram.bytes[1], 7); /* not in the device's memory */
	CHECK_EQ(fault_remove("inject://r0?op=read&stage=completion&method=data", NULL), 0);
	CHECK_EQ(fault_add("inject://r0?op=read&stage=completion&method=status-nvme-2-81", NULL),
		 0);
	offer(1, 0, 8);
	CHECK(ram_wait(&rd) != IO_OK);
	CHECK(!io_is_lent(&rd.io));
	CHECK_EQ(inflight(1), 0);
	fault_remove_all();
}

TEST(faults_see_a_copy)
{
	ram.is_lending = true;
	ram_run(faults);
}

static void bounces(void)
{
	fill();
	offer(1, 8, 8);
	CHECK_EQ(ram_wait(&rd), IO_OK);
	CHECK(!io_is_lent(&rd.io));
	CHECK(memcmp(buf, ram.bytes + 8 * (size_t)RAM_BLOCK, sizeof(buf)) == 0);
}

TEST(the_parts_of_a_split_read_are_copied)
{
	ram.is_lending = true;
	ram.max_io_nlb = 2;
	ram_run(bounces);
}

TAP_MAIN()
