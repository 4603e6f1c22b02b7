/* SPDX-License-Identifier: Apache-2.0 */
/* Emulated operations against a device that can do them, and against what two cores do at once. */
#include "device/ram_test.h"

#include "base/rng.h"

enum {
	NLB_MAX = 512, /* blocks of one request: several parts */
	SIZE_MAX_ = NLB_MAX * RAM_BLOCK,
	PIECES = 7,
};

static uint8_t buf[2 * SIZE_MAX_ + 64], shadow[RAM_BYTES];

/* On devices that answer inside submit, from the loop, in turns; with and without a limit. */
static void run_all_ways(void (*body)(void), uint32_t ops, uint32_t buf_align)
{
	for (unsigned way = 0; way < 6; way++) {
		ram.ops = ops;
		ram.buf_align = buf_align;
		ram.is_late = way % 3 == 1;
		ram.is_rotating = way % 3 == 2;
		ram.max_io_nlb = way < 3 ? 0 : 24;
		ram_run(body);
		if (tap_.failed != 0) {
			printf("# way %u\n", way);
			return;
		}
	}
}

TEST(emulate_offers_what_can_be_made)
{
	static const struct {
		const char *name;
		struct device dev;
		uint32_t emulated;
	} rows[] = {
		{ "reads and writes",
		  { .ops = RAM_BASIC },
		  IO_BIT(IO_FLUSH) | IO_BIT(IO_WRITE_ZEROES) | IO_BIT(IO_COMPARE) |
			  IO_BIT(IO_COMPARE_WRITE) | IO_BIT(IO_RESET) | IO_BIT(IO_SEEK_DATA) |
			  IO_BIT(IO_SEEK_HOLE) },
		{ "everything", { .ops = (1 << IO_OP_COUNT_) - 1 }, 0 },
		{ "a cache without a flush is the driver's fault, not ours to hide",
		  { .ops = RAM_BASIC | IO_BIT(IO_COMPARE), .has_write_cache = true },
		  IO_BIT(IO_WRITE_ZEROES) | IO_BIT(IO_COMPARE_WRITE) | IO_BIT(IO_RESET) |
			  IO_BIT(IO_SEEK_DATA) | IO_BIT(IO_SEEK_HOLE) },
		{ "void: what is read means nothing",
		  { .ops = RAM_BASIC, .is_void = true },
		  IO_BIT(IO_FLUSH) | IO_BIT(IO_WRITE_ZEROES) | IO_BIT(IO_RESET) |
			  IO_BIT(IO_SEEK_DATA) | IO_BIT(IO_SEEK_HOLE) },
		{ "read-only",
		  { .ops = RAM_BASIC, .is_read_only = true },
		  IO_BIT(IO_FLUSH) | IO_BIT(IO_COMPARE) | IO_BIT(IO_RESET) | IO_BIT(IO_SEEK_DATA) |
			  IO_BIT(IO_SEEK_HOLE) },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		TAP_ROW(rows[i].name);
		CHECK_EQ(emulated_ops(&rows[i].dev), rows[i].emulated);
		CHECK_EQ(emulated_ops(&rows[i].dev) & IO_BIT(IO_UNMAP), 0);
	}
}

/* ---- random operations against a shadow ----------------------------------------------------- */

/* Cut @len bytes of @data at random places. */
static uint16_t cut(struct rng *rng, uint8_t *data, size_t len, struct iovec *iov)
{
	uint16_t n = 0;

	while (len > 0) {
		size_t step = n == PIECES - 1 ? len : rng_range(rng, 1, len);

		iov[n++] = (struct iovec){ .iov_base = data, .iov_len = step };
		data += step;
		len -= step;
	}
	return n;
}

/* What the shadow says about one operation; it is applied. */
static uint16_t shadow_do(enum io_op op, uint64_t lba, uint32_t nlb, uint8_t *data)
{
	uint8_t *at = shadow + lba * RAM_BLOCK;
	size_t len = (size_t)nlb * RAM_BLOCK;

	switch (op) {
	case IO_READ:
		return memcmp(data, at, len) == 0 ? IO_OK : IO_CORRUPT;
	case IO_WRITE:
		memcpy(at, data, len);
		return IO_OK;
	case IO_WRITE_ZEROES:
		memset(at, 0, len);
		return IO_OK;
	case IO_COMPARE:
	case IO_COMPARE_WRITE:
		if (memcmp(data, at, len) != 0)
			return IO_MISCOMPARE;
		if (op == IO_COMPARE_WRITE)
			memcpy(at, data + len, len);
		return IO_OK;
	default:
		return IO_INVALID;
	}
}

/* Data for a request: of a comparison mostly what is there, sometimes one bit off. */
static void fill(struct rng *rng, enum io_op op, uint64_t lba, uint32_t nlb, uint8_t *data)
{
	size_t len = (size_t)nlb * RAM_BLOCK;

	if (op == IO_COMPARE || op == IO_COMPARE_WRITE) {
		memcpy(data, shadow + lba * RAM_BLOCK, len);
		if (rng_chance(rng, 1, 3))
			data[rng_below(rng, len)] ^= (uint8_t)(1u << rng_below(rng, 8));
		data += len;
	}
	rng_fill(rng, data, len);
}

static void random_request(struct rng *rng, enum io_op op) MAY_SUSPEND
{
	uint32_t nlb = (uint32_t)rng_range(rng, 1, rng_chance(rng, 1, 4) ? NLB_MAX : 20);
	uint64_t lba = rng_below(rng, RAM_BLOCKS - nlb + 1);
	size_t len = (size_t)nlb * RAM_BLOCK * (op == IO_COMPARE_WRITE ? 2 : 1);
	uint8_t *data = buf + rng_below(rng, 60);
	struct iovec iov[PIECES];
	struct io io = { .op = (uint8_t)op, .lba = lba, .nlb = nlb };
	uint16_t status;

	fill(rng, op, lba, nlb, data);
	io.iovcnt = cut(rng, data, len, iov);
	io.iov = iov;
	status = io_wait(ram_h[0], &io);
	CHECK_EQ(status, shadow_do(op, lba, nlb, data));
	CHECK_EQ(io.lba, lba);
	CHECK_EQ(io.nlb, nlb);
	CHECK(io.iov == iov);
}

static void random_body(void)
{
	static const enum io_op ops[] = { IO_READ, IO_WRITE, IO_WRITE_ZEROES, IO_COMPARE,
					  IO_COMPARE_WRITE };
	struct rng rng;

	rng_init(&rng, 11);
	memset(shadow, 0, sizeof(shadow));
	memset(ram.bytes, 0, sizeof(ram.bytes));
	for (int i = 0; i < 800 && tap_.failed == 0; i++) {
		random_request(&rng, ops[rng_below(&rng, ARRAY_LEN(ops))]);
		if (i % 100 == 99)
			CHECK_MEM(ram.bytes, shadow, sizeof(shadow));
	}
	CHECK_EQ(ram_h[0]->ch->inflight[0] + ram_h[0]->ch->inflight[1], 0);
	CHECK_EQ(ram_h[0]->ch->gate & ~(uint32_t)GATE_LIMITED, 0);
}

TEST(emulate_equals_a_device_that_can)
{
	run_all_ways(random_body, RAM_BASIC, 0);
	CHECK_EQ(ram.submitted[IO_COMPARE] + ram.submitted[IO_WRITE_ZEROES] +
			 ram.submitted[IO_COMPARE_WRITE],
		 0);
	CHECK(ram.submitted[IO_READ] > 0);
}

static void bounce_body(void)
{
	random_body();
	CHECK(ram.was_misaligned);
}

TEST(emulate_bounces_wild_buffers)
{
	run_all_ways(bounce_body, RAM_BASIC, 512);
	run_all_ways(bounce_body, RAM_BASIC | IO_BIT(IO_COMPARE), 256);
}

static void bounce_atomic_body(void)
{
	struct io io = { .op = IO_COMPARE_WRITE, .nlb = 1 };

	io_set_buf(&io, buf + 1, 2 * RAM_BLOCK);
	CHECK_EQ(io_wait(ram_h[0], &io), IO_INVALID);
	CHECK_EQ(ram.submitted[IO_COMPARE_WRITE], 0);
}

TEST(emulate_bounces_no_atomic)
{
	ram.ops = RAM_FULL;
	ram.buf_align = 512;
	ram_run(bounce_atomic_body);
}

/* ---- the simple ones ----------------------------------------------------------------------- */

static void simple_body(void)
{
	struct io io = { .op = IO_SEEK_DATA, .lba = 77 };

	CHECK_EQ(io_wait(ram_h[0], &io), IO_OK);
	CHECK_EQ(io.result, 77);
	io = (struct io){ .op = IO_SEEK_HOLE, .lba = 77 };
	CHECK_EQ(io_wait(ram_h[0], &io), IO_OK);
	CHECK_EQ(io.result, RAM_BLOCKS);
	io = (struct io){ .op = IO_SEEK_DATA, .lba = RAM_BLOCKS };
	CHECK_EQ(io_wait(ram_h[0], &io), IO_OK);
	CHECK_EQ(io.result, RAM_BLOCKS);
	CHECK_EQ(ram_do_io(0, IO_FLUSH, 0, 0, buf), IO_OK);
	CHECK_EQ(ram_do_io(1, IO_RESET, 0, 0, buf), IO_OK);
	CHECK_EQ(ram_do_io(0, IO_UNMAP, 0, 8, buf), IO_UNSUPPORTED);
}

TEST(emulate_simple_ones)
{
	ram.ops = RAM_BASIC;
	ram_run(simple_body);
}

static void fua_body(void)
{
	struct io io = { .op = IO_WRITE_ZEROES, .nlb = 1024, .flags = IO_FUA };

	CHECK_EQ(io_wait(ram_h[0], &io), IO_OK);
	CHECK(ram.last_flags & IO_FUA);
	CHECK_EQ(ram.submitted[IO_WRITE], 1);
	io.flags = 0;
	CHECK_EQ(io_wait(ram_h[0], &io), IO_OK);
	CHECK(!(ram.last_flags & IO_FUA));
}

TEST(emulate_zeroes_keep_fua)
{
	ram.ops = RAM_BASIC;
	ram_run(fua_body);
}

static void error_body(void)
{
	static const enum io_op ops[] = { IO_WRITE_ZEROES, IO_COMPARE, IO_COMPARE_WRITE };

	for (unsigned i = 0; i < ARRAY_LEN(ops); i++) {
		TAP_ROW(io_op_name(ops[i]));
		ram.status = IO_NOT_READY;
		CHECK_EQ(ram_do_io(i & 1, ops[i], 0, NLB_MAX, buf), IO_NOT_READY);
		ram.status = IO_OK;
		memset(buf, 0, sizeof(buf));
		memset(ram.bytes, 0, sizeof(ram.bytes));
		CHECK_EQ(ram_do_io(i & 1, ops[i], 0, NLB_MAX, buf), IO_OK);
	}
}

TEST(emulate_passes_errors)
{
	run_all_ways(error_body, RAM_BASIC, 0);
}

static void stats_body(void)
{
	struct io_stats *stats = calloc(1, sizeof(*stats));

	memset(buf, 0, sizeof(buf));
	memset(ram.bytes, 0, sizeof(ram.bytes));
	CHECK_EQ(ram_do_io(0, IO_COMPARE, 0, NLB_MAX, buf), IO_OK);
	CHECK_EQ(ram_do_io(0, IO_WRITE_ZEROES, 0, NLB_MAX, buf), IO_OK);
	CHECK_EQ(ram_do_io(0, IO_COMPARE_WRITE, 0, NLB_MAX, buf), IO_OK);
	buf[5] = 1;
	CHECK_EQ(ram_do_io(0, IO_COMPARE, 0, NLB_MAX, buf), IO_MISCOMPARE);
	device_stats(ram_dev, stats);
	CHECK_EQ(stats->op[IO_COMPARE].ops, 1);
	CHECK_EQ(stats->op[IO_COMPARE].errors, 1);
	CHECK_EQ(stats->op[IO_COMPARE].bytes, SIZE_MAX_);
	CHECK_EQ(stats->op[IO_WRITE_ZEROES].ops, 1);
	CHECK_EQ(stats->op[IO_COMPARE_WRITE].ops, 1);
	CHECK_EQ(stats->op[IO_READ].ops, 0); /* parts are nobody's requests */
	CHECK_EQ(stats->op[IO_WRITE].ops, 0);
	free(stats);
}

TEST(emulate_counts_what_was_asked)
{
	run_all_ways(stats_body, RAM_BASIC, 0);
}

/* ---- many at once -------------------------------------------------------------------------- */

enum { CROWD = 4 * EMULATE_MAX };

static struct ram_io crowd[CROWD];

static void crowd_body(void)
{
	static const enum io_op ops[] = { IO_COMPARE, IO_WRITE_ZEROES, IO_COMPARE_WRITE };

	memset(buf, 0, sizeof(buf));
	memset(ram.bytes, 0, sizeof(ram.bytes));
	for (unsigned n = 0; n < ARRAY_LEN(ops); n++) {
		TAP_ROW(io_op_name(ops[n]));
		for (unsigned i = 0; i < CROWD; i++)
			ram_start(&crowd[i], i & 1, ops[n], i, 200, buf);
		if (n == 1) {
			device_quiesce(ram_dev);
			device_resume(ram_dev);
		}
		for (unsigned i = 0; i < CROWD; i++)
			CHECK_EQ(ram_wait(&crowd[i]), IO_OK);
	}
	TAP_ROW(NULL);
	CHECK_EQ((ram_h[0]->ch->gate | ram_h[1]->ch->gate) & ~(uint32_t)GATE_LIMITED, 0);
	CHECK(list_empty(&ram_dev->range_locks));
}

static struct io many[EMULATE_MAX + 2];
static unsigned many_left;
static struct task_event many_done;

static void one_done(struct io *io)
{
	CHECK_EQ(io->status, IO_OK);
	if (--many_left == 0)
		task_event_fire(&many_done);
}

static void compare_one(struct handle *h, struct io *io)
{
	*io = (struct io){ .op = IO_COMPARE, .nlb = 1, .done = one_done };
	io_set_buf(io, buf, RAM_BLOCK);
	many_left++;
	io_submit(h, io);
}

/* r0 has all contexts of the reactor and its own; r1 gets on all the same. */
static void starved_body(void)
{
	struct desc_opts opts = { .flags = 0 };
	struct device *dev = NULL;
	struct desc *desc = NULL;
	struct handle *h = NULL;

	memset(buf, 0, sizeof(buf));
	memset(ram.bytes, 0, sizeof(ram.bytes));
	many_left = 0;
	many_done = (struct task_event){};
	CHECK_EQ(device_create("ram:///r1", &dev, NULL), 0);
	CHECK_EQ(desc_open(dev, &opts, &desc, NULL), 0);
	CHECK_EQ(handle_open(desc, reactor_self(), &h, NULL), 0);
	ram.submitted[IO_READ] = 0;
	for (unsigned i = 0; i < EMULATE_MAX + 1; i++)
		compare_one(ram_h[0], &many[i]);
	CHECK_EQ(ram.submitted[IO_READ], EMULATE_MAX + 1);
	compare_one(h, &many[EMULATE_MAX + 1]);
	CHECK_EQ(ram.submitted[IO_READ], EMULATE_MAX + 2);
	task_event_wait(&many_done);
	desc_close(desc);
	CHECK_EQ(device_destroy("ram:///r1", NULL), 0);
}

TEST(emulate_starves_no_other_device)
{
	ram.ops = RAM_BASIC;
	ram.is_late = true;
	ram_run(starved_body);
}

TEST(emulate_serves_a_crowd)
{
	run_all_ways(crowd_body, RAM_BASIC, 0);
}

/* Counters on disk, incremented by compare-and-write from both cores: none is lost. */
enum { COUNTER_ROUNDS = 150, COUNTER_AGENTS = 6 };

struct agent {
	struct ram_io r;
	uint64_t block[2][RAM_BLOCK / 8];
	unsigned left;
	unsigned misses;
	bool is_reading;
};

static void counters_body(void)
{
	static struct agent agents[COUNTER_AGENTS];
	unsigned left = COUNTER_AGENTS, misses = 0;

	memset(ram.bytes, 0, sizeof(ram.bytes));
	for (unsigned i = 0; i < COUNTER_AGENTS; i++) {
		agents[i] = (struct agent){ .left = COUNTER_ROUNDS, .is_reading = true };
		ram_start(&agents[i].r, i & 1, IO_READ, 3, 1, agents[i].block);
	}
	for (unsigned i = 0; left > 0; i = (i + 1) % COUNTER_AGENTS) {
		struct agent *a = &agents[i];
		uint16_t status;

		if (a->left == 0)
			continue;
		status = ram_wait(&a->r);
		if (a->is_reading) {
			memcpy(a->block[1], a->block[0], RAM_BLOCK);
			a->block[1][0]++;
			ram_start(&a->r, i & 1, IO_COMPARE_WRITE, 3, 1, a->block);
		} else {
			CHECK(status == IO_OK || status == IO_MISCOMPARE);
			a->misses += status == IO_MISCOMPARE;
			a->left -= status == IO_OK;
			left -= a->left == 0;
			if (a->left > 0)
				ram_start(&a->r, i & 1, IO_READ, 3, 1, a->block);
		}
		a->is_reading = !a->is_reading;
	}
	for (unsigned i = 0; i < COUNTER_AGENTS; i++)
		misses += agents[i].misses;
	CHECK_EQ(*(uint64_t *)(void *)(ram.bytes + 3 * RAM_BLOCK), COUNTER_ROUNDS * COUNTER_AGENTS);
	CHECK(misses > 0); /* they did meet */
}

TEST(emulate_compare_write_is_atomic)
{
	ram.ops = RAM_BASIC;
	ram_run(counters_body);
	ram.ops = RAM_BASIC;
	ram.is_late = true;
	ram_run(counters_body);
}

/* ---- with faults above --------------------------------------------------------------------- */

static void fault_body(void)
{
	CHECK_EQ(fault_add("inject://r0?op=compare_write&retries=1&stage=c", NULL), 0);
	CHECK_EQ(fault_add("inject://r0?op=compare&retries=1", NULL), 0);
	CHECK_EQ(fault_add("inject://r0?op=read", NULL), 0); /* parts do not meet it */
	memset(buf, 0, sizeof(buf));
	memset(ram.bytes, 0, sizeof(ram.bytes));
	CHECK_EQ(ram_do_io(1, IO_COMPARE, 0, 8, buf), IO_TRANSFER);
	CHECK_EQ(ram_do_io(1, IO_COMPARE, 0, 8, buf), IO_OK);
	CHECK_EQ(ram_do_io(1, IO_COMPARE_WRITE, 0, 8, buf), IO_TRANSFER);
	CHECK_EQ(ram_do_io(1, IO_COMPARE_WRITE, 0, 8, buf), IO_OK);
	CHECK_EQ(fault_add("inject://r0?op=compare_write&method=delay&delay_us=3000", NULL), 0);
	CHECK_EQ(fault_add("inject://r0?op=compare_write&method=torn", NULL), 0);
	memset(buf + 8 * RAM_BLOCK, 0xbb, 8 * RAM_BLOCK);
	CHECK_EQ(ram_do_io(0, IO_COMPARE_WRITE, 0, 8, buf), IO_WRITE_ERROR);
	CHECK(list_empty(&ram_dev->range_locks));
	fault_remove_all();
	CHECK_EQ((ram_h[0]->ch->gate | ram_h[1]->ch->gate) & ~(uint32_t)GATE_LIMITED, 0);
}

TEST(emulate_meets_faults)
{
	run_all_ways(fault_body, RAM_BASIC, 0);
}

/* A removed device: what waited for its range fails, and gives it back. */
static void removed_body(void)
{
	struct range_lock lock;

	CHECK_EQ(range_lock(ram_dev, &lock, 0, 8, NULL), 0);
	for (unsigned i = 0; i < CROWD; i++)
		ram_start(&crowd[i], i & 1, IO_COMPARE_WRITE, 4, 8, buf);
	task_sleep(2000000);
	device_gate_all(ram_dev, GATE_REMOVED);
	range_unlock(ram_dev, &lock);
	for (unsigned i = 0; i < CROWD; i++)
		CHECK_EQ(ram_wait(&crowd[i]), IO_NO_DEVICE);
	CHECK_EQ(ram.submitted[IO_READ] + ram.submitted[IO_WRITE], 0);
	CHECK(list_empty(&ram_dev->range_locks));
	device_ungate_all(ram_dev, GATE_REMOVED);
	CHECK_EQ((ram_h[0]->ch->gate | ram_h[1]->ch->gate) & ~(uint32_t)GATE_LIMITED, 0);
}

TEST(emulate_on_a_removed_device)
{
	ram.ops = RAM_BASIC;
	ram_run(removed_body);
}

TAP_MAIN()
