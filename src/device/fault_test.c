/* SPDX-License-Identifier: Apache-2.0 */
/* Faults: the grammar, every method at every stage on every operation, windows, removal. */
#include "device/ram_test.h"
#include "reactor/mem.h"

/* ---- the grammar -------------------------------------------------------------------------- */

TEST(inject_defaults)
{
	struct fault_spec spec;

	CHECK_EQ(fault_parse("inject://lvol0", &spec, NULL), 0);
	CHECK_STR(spec.device, "lvol0");
	CHECK_EQ(spec.domain, FAULT_BLOCK);
	CHECK_EQ(spec.ops, IO_BIT(IO_READ) | IO_BIT(IO_WRITE));
	CHECK_EQ(spec.stages, FAULT_SUBMIT);
	CHECK_EQ(spec.method, FAULT_STATUS);
	CHECK_EQ(spec.status, IO_TRANSFER);
	CHECK_EQ(spec.begin_ms, 0);
	CHECK(spec.end_ms == UINT64_MAX);
	CHECK_EQ(spec.lba, 0);
	CHECK(spec.end_lba == UINT64_MAX);
	CHECK(spec.retries == UINT64_MAX);
	CHECK(spec.probability == 1.0);
	CHECK(!spec.has_seed);
}

TEST(inject_device_names)
{
	static const struct {
		const char *uri, *device;
	} rows[] = {
		{ "inject://lvol0?op=read", "lvol0" },
		{ "inject://lvol0/?op=read", "lvol0" },
		{ "inject:///tmp/disk.img?op=read", "/tmp/disk.img" },
		{ "inject://127.0.0.1:8420/nqn.2019-05.io.openebs:r1n1",
		  "127.0.0.1:8420/nqn.2019-05.io.openebs:r1n1" },
		{ "inject://nqn.2019-05.io.openebs:r1", "nqn.2019-05.io.openebs:r1" },
		{ "inject://a%20b/c%3Fd", "a b/c?d" },
		{ "inject://Case", "Case" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct fault_spec spec = {};

		TAP_ROW(rows[i].uri);
		CHECK_EQ(fault_parse(rows[i].uri, &spec, NULL), 0);
		CHECK_STR(spec.device, rows[i].device);
	}
}

TEST(inject_every_spelling)
{
	static const struct {
		const char *words;
		unsigned value;
	} domains[] = {
		{ "child nexus_child NexusChild", FAULT_CHILD },
		{ "block block_device BlockDevice", FAULT_BLOCK },
		{ "bdev_io BdevIo", FAULT_BDEV_IO },
	}, ops[] = {
		{ "read r Read", IO_BIT(IO_READ) },
		{ "write w Write", IO_BIT(IO_WRITE) },
		{ "read_write rw ReadWrite", IO_BIT(IO_READ) | IO_BIT(IO_WRITE) },
		{ "write_zeroes", IO_BIT(IO_WRITE_ZEROES) },
		{ "unmap", IO_BIT(IO_UNMAP) },
		{ "flush", IO_BIT(IO_FLUSH) },
		{ "compare", IO_BIT(IO_COMPARE) },
		{ "compare_write", IO_BIT(IO_COMPARE_WRITE) },
		{ "reset", IO_BIT(IO_RESET) },
		{ "all", (1 << IO_OP_COUNT_) - 1 },
	}, stages[] = {
		{ "submit s submission Submission", FAULT_SUBMIT },
		{ "compl c completion Completion", FAULT_COMPLETION },
	};
	struct {
		const char *key;
		const void *rows;
		size_t count;
	} tables[] = {
		{ "domain", domains, ARRAY_LEN(domains) },
		{ "op", ops, ARRAY_LEN(ops) },
		{ "stage", stages, ARRAY_LEN(stages) },
	};

	for (size_t t = 0; t < ARRAY_LEN(tables); t++) {
		const __typeof__(domains[0]) *row = tables[t].rows;

		for (size_t i = 0; i < tables[t].count; i++) {
			char words[80], uri[160], *save = NULL, *word;

			(void)snprintf(words, sizeof(words), "%s", row[i].words);
			for (word = strtok_r(words, " ", &save); word != NULL;
			     word = strtok_r(NULL, " ", &save)) {
				struct fault_spec spec = {};

				(void)snprintf(uri, sizeof(uri), "inject://d?%s=%s", tables[t].key,
					       word);
				TAP_ROW(uri);
				CHECK_EQ(fault_parse(uri, &spec, NULL), 0);
				CHECK_EQ(t == 0   ? spec.domain
					 : t == 1 ? spec.ops
						  : spec.stages,
					 row[i].value);
			}
		}
	}
}

TEST(inject_methods)
{
	static const struct {
		const char *params;
		enum fault_method method;
		uint16_t status;
	} rows[] = {
		{ "method=status", FAULT_STATUS, IO_TRANSFER },
		{ "method=status-nvme-2-81", FAULT_STATUS, IO_READ_ERROR },
		{ "method=status-nvme-0-81", FAULT_STATUS, IO_NO_SPACE },
		{ "method=status-nvme-7-1c", FAULT_STATUS, IO_NO_SPACE },
		{ "method=status-nvme-3-2", FAULT_STATUS, IO_STATUS_NVME | 0x302 },
		{ "method=status-nvme-1-FF", FAULT_STATUS, IO_STATUS_NVME | 0x1ff },
		{ "method=status-lvol-nospace", FAULT_STATUS, IO_NO_SPACE },
		{ "method=status-submit-read", FAULT_STATUS, IO_FAILED },
		{ "method=status-submit-write", FAULT_STATUS, IO_FAILED },
		{ "method=status-admin", FAULT_STATUS, IO_FAILED },
		{ "method=data", FAULT_DATA, IO_TRANSFER },
		{ "method=delay&delay_us=5", FAULT_DELAY, IO_TRANSFER },
		{ "method=torn", FAULT_TORN, IO_WRITE_ERROR },
		{ "method=corrupt&bits=3", FAULT_CORRUPT, IO_TRANSFER },
		{ "method=drop", FAULT_DROP, IO_TRANSFER },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct fault_spec spec = {};
		char uri[120];

		(void)snprintf(uri, sizeof(uri), "inject://d?%s", rows[i].params);
		TAP_ROW(uri);
		CHECK_EQ(fault_parse(uri, &spec, NULL), 0);
		CHECK_EQ(spec.method, rows[i].method);
		CHECK_EQ(spec.status, rows[i].status);
	}
}

TEST(inject_numbers)
{
	struct fault_spec spec;

	CHECK_EQ(fault_parse("inject://d?begin_at=5&end_at=7&offset=10&num_blk=20&retries=3&"
			     "probability=0.25&seed=9",
			     &spec, NULL),
		 0);
	CHECK_EQ(spec.begin_ms, 5);
	CHECK_EQ(spec.end_ms, 7);
	CHECK_EQ(spec.lba, 10);
	CHECK_EQ(spec.end_lba, 30);
	CHECK_EQ(spec.retries, 3);
	CHECK(spec.probability == 0.25);
	CHECK(spec.has_seed && spec.seed == 9);
	CHECK_EQ(fault_parse("inject://d?offset=18446744073709551615&num_blocks=2", &spec, NULL),
		 0);
	CHECK(spec.end_lba == UINT64_MAX);
	CHECK_EQ(fault_parse("inject://d?method=delay&delay_us=10-3000", &spec, NULL), 0);
	CHECK_EQ(spec.delay_min_us, 10);
	CHECK_EQ(spec.delay_max_us, 3000);
}

TEST(inject_refusals)
{
	static const struct {
		const char *uri, *why;
	} rows[] = {
		{ "malloc:///m0", "not an injection" },
		{ "inject://", "names no device" },
		{ "inject:///", "names no device" },
		{ "lvol0", "" },
		{ "", "" },
		{ "inject://d?op=reed", "must be one of" },
		{ "inject://d?stage=late", "must be one of" },
		{ "inject://d?domain=nexus", "must be one of" },
		{ "inject://d?method=explode", "must be one of" },
		{ "inject://d?method=status-nvme-8-1", "status code" },
		{ "inject://d?method=status-nvme-0-0", "not both 0" },
		{ "inject://d?method=status-nvme-2", "status code" },
		{ "inject://d?method=status-nvme-2-100", "status code" },
		{ "inject://d?method=status-nvme-2-8g", "status code" },
		{ "inject://d?method=status-nvme--1", "status code" },
		{ "inject://d?colour=red", "unrecognized parameter" },
		{ "inject://d?begin_at=8&end_at=7", "is after end_at" },
		{ "inject://d?begin_at=-1", "begin_at" },
		{ "inject://d?offset=1x", "offset" },
		{ "inject://d?num_blk=0", "num_blk" },
		{ "inject://d?num_blk=1&num_blocks=1", "two names" },
		{ "inject://d?retries=", "retries" },
		{ "inject://d?op=read&op=write", "more than once" },
		{ "inject://d?method=delay", "delay_us" },
		{ "inject://d?method=delay&delay_us=9-8", "delay_us" },
		{ "inject://d?method=delay&delay_us=-5", "delay_us" },
		{ "inject://d?method=delay&delay_us=99999999999", "delay_us" },
		{ "inject://d?delay_us=5", "unrecognized parameter" },
		{ "inject://d?bits=5", "unrecognized parameter" },
		{ "inject://d?method=corrupt&bits=0", "bits" },
		{ "inject://d?torn_ok=1", "unrecognized parameter" },
		{ "inject://d?probability=1.5", "probability" },
		{ "inject://d?probability=nan", "probability" },
		{ "inject://d?probability=-0.1", "probability" },
		{ "inject://d?method=torn&op=read", "never acts" },
		{ "inject://d?method=torn&stage=completion", "never acts" },
		{ "inject://d?method=drop&op=compare", "never acts" },
		{ "inject://d?method=data&op=read&stage=submit", "never acts" },
		{ "inject://d?method=corrupt&op=write&stage=c", "never acts" },
		{ "inject://u@d", "user" },
		{ "d", "write inject://DEVICE?" },
		{ "aio:///d?op=read", "write inject://DEVICE?" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct fault_spec spec = { .bits = 77 };
		struct err err = {};

		TAP_ROW(rows[i].uri);
		CHECK_EQ(fault_parse(rows[i].uri, &spec, &err), -EINVAL);
		CHECK_HAS(err.msg, rows[i].why);
		CHECK_EQ(spec.bits, 77);
	}
}

/* ---- helpers for what follows --------------------------------------------------------------- */

enum { NLB = 8, SIZE = NLB * RAM_BLOCK };

static uint8_t buf[2 * SIZE];

static void arm(const char *params)
{
	char uri[256];
	struct err err = {};

	(void)snprintf(uri, sizeof(uri), "inject://r0?%s", params);
	if (!CHECK_EQ(fault_add(uri, &err), 0))
		printf("# %s\n", err.msg);
}

static void disarm(const char *params)
{
	char uri[256];

	(void)snprintf(uri, sizeof(uri), "inject://r0?%s", params);
	CHECK_EQ(fault_remove(uri, NULL), 0);
}

static struct fault_info info(unsigned index)
{
	struct fault_info ret = {};

	CHECK(fault_list(index, &ret));
	return ret;
}

/* Differing bits of two buffers. */
static unsigned bits_differ(const uint8_t *a, const uint8_t *b, size_t len)
{
	unsigned count = 0;

	for (size_t i = 0; i < len; i++)
		count += (unsigned)__builtin_popcount(a[i] ^ b[i]);
	return count;
}

static bool is_all(const uint8_t *p, int byte, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (p[i] != byte)
			return false;
	}
	return true;
}

/* ---- matrix: method x stage x operation, device inline and late, both reactors -------------- */

static const enum io_op all_ops[] = {
	IO_READ,    IO_WRITE,         IO_FLUSH, IO_UNMAP,     IO_WRITE_ZEROES,
	IO_COMPARE, IO_COMPARE_WRITE, IO_RESET, IO_SEEK_DATA,
};

/* Disk holds 0xaa; what one untroubled request of @op leaves there is another byte, or the same. */
static void one_request_setup(enum io_op op)
{
	memset(ram.bytes, 0xaa, sizeof(ram.bytes));
	memset(buf, op == IO_READ ? 0x11 : op == IO_WRITE ? 0xbb : 0xaa, SIZE);
	memset(buf + SIZE, 0xbb, SIZE);
}

static void status_matrix_body(void)
{
	static const char *const names[] = { "submit", "completion" };

	for (unsigned i = 0; i < ARRAY_LEN(all_ops); i++) {
		for (unsigned core = 0; core < 2; core++) {
			for (unsigned stage = 0; stage < 2; stage++) {
				enum io_op op = all_ops[i];
				bool is_ranged = IO_BIT(op) & IO_OPS_WITH_RANGE;
				uint32_t nlb = is_ranged ? NLB : 0;
				char params[100];
				unsigned before = ram.submitted[op];

				(void)snprintf(params, sizeof(params),
					       "op=%s&stage=%s&method=status-nvme-2-84",
					       io_op_name(op), names[stage]);
				TAP_ROW(params);
				one_request_setup(op);
				arm(params);
				CHECK_EQ(ram_do_io(core, op, 0, nlb, buf), IO_STATUS_NVME | 0x284);
				if (ram.ops >> op & 1)
					CHECK_EQ(ram.submitted[op] - before, stage);
				/* Another operation passes. */
				CHECK_EQ(ram_do_io(core, op == IO_READ ? IO_FLUSH : IO_READ, 0,
						   op == IO_READ ? 0 : 1, buf),
					 IO_OK);
				CHECK_EQ(info(0).fired, 1);
				CHECK_EQ(info(0).hits, 1);
				disarm(params);
				one_request_setup(op);
				CHECK_EQ(ram_do_io(core, op, 0, nlb, buf), IO_OK);
			}
		}
	}
}

TEST(fault_status_on_every_operation)
{
	ram_run(status_matrix_body);
	ram.is_late = true;
	ram_run(status_matrix_body);
}

static void delay_matrix_body(void)
{
	for (unsigned i = 0; i < ARRAY_LEN(all_ops); i++) {
		for (unsigned n = 0; n < 4; n++) {
			enum io_op op = all_ops[i];
			unsigned core = n & 1;
			uint32_t nlb = IO_BIT(op) & IO_OPS_WITH_RANGE ? NLB : 0;
			char params[100];

			(void)snprintf(params, sizeof(params),
				       "op=%s&stage=%s&method=delay&delay_us=2000", io_op_name(op),
				       n & 2 ? "c" : "s");
			TAP_ROW(params);
			one_request_setup(op);
			arm(params);
			CHECK_EQ(ram_do_io(core, op, 0, nlb, buf), IO_OK);
			CHECK(ram_took_ns >= 2000000);
			CHECK_EQ(info(0).fired, 1);
			disarm(params);
			CHECK_EQ(ram_h[core]->ch->gate, 0);
		}
	}
}

TEST(fault_delay_on_every_operation)
{
	ram_run(delay_matrix_body);
	ram.is_late = true;
	ram_run(delay_matrix_body);
}

/* ---- what each method does to data ---------------------------------------------------------- */

static void data_body(void)
{
	static uint8_t first[SIZE];

	arm("method=data");
	one_request_setup(IO_READ);
	CHECK_EQ(ram_do_io(0, IO_READ, 0, NLB, buf), IO_OK);
	CHECK(bits_differ(buf, ram.bytes, SIZE) > SIZE);
	memcpy(first, buf, SIZE);
	CHECK_EQ(ram_do_io(1, IO_READ, 8, NLB, buf), IO_OK);
	CHECK_MEM(buf, first, SIZE); /* the stream is fixed */
	CHECK(is_all(ram.bytes, 0xaa, sizeof(ram.bytes)));
	one_request_setup(IO_WRITE);
	CHECK_EQ(ram_do_io(0, IO_WRITE, 8, NLB, buf), IO_OK);
	CHECK(is_all(buf, 0xbb, SIZE)); /* the owner's data was only read */
	CHECK_MEM(ram.bytes + SIZE, first, SIZE);
	CHECK(is_all(ram.bytes, 0xaa, SIZE));
}

TEST(fault_data_replaces)
{
	ram_run(data_body);
	ram.is_late = true;
	ram_run(data_body);
}

static void corrupt_body(void)
{
	arm("op=all&method=corrupt&bits=5&seed=1");
	for (int i = 0; i < 50; i++) {
		one_request_setup(IO_READ);
		CHECK_EQ(ram_do_io(i & 1, IO_READ, 0, NLB, buf), IO_OK);
		CHECK_EQ(bits_differ(buf, ram.bytes, SIZE), 5);
		one_request_setup(IO_WRITE);
		CHECK_EQ(ram_do_io(i & 1, IO_WRITE, 0, NLB, buf), IO_OK);
		CHECK(is_all(buf, 0xbb, SIZE));
		CHECK_EQ(bits_differ(buf, ram.bytes, SIZE), 5);
		CHECK(is_all(ram.bytes + SIZE, 0xaa, SIZE));
	}
	one_request_setup(IO_COMPARE);
	CHECK_EQ(ram_do_io(0, IO_COMPARE, 0, NLB, buf), IO_MISCOMPARE);
	CHECK(is_all(buf, 0xaa, SIZE));
	/* Only what is written is corrupted, not what is compared. */
	one_request_setup(IO_COMPARE_WRITE);
	CHECK_EQ(ram_do_io(0, IO_COMPARE_WRITE, 0, NLB, buf), IO_OK);
	CHECK_EQ(bits_differ(buf + SIZE, ram.bytes, SIZE), 5);
	CHECK(is_all(buf, 0xaa, SIZE) && is_all(buf + SIZE, 0xbb, SIZE));
	CHECK_EQ(ram_do_io(0, IO_FLUSH, 0, 0, buf), IO_OK);
}

TEST(fault_corrupt_flips_bits)
{
	ram_run(corrupt_body);
	ram.is_late = true;
	ram_run(corrupt_body);
}

static const enum io_op writing_ops[] = { IO_WRITE, IO_WRITE_ZEROES, IO_UNMAP, IO_COMPARE_WRITE };

/* Blocks that were changed: must be a prefix. */
static unsigned prefix_written(int byte)
{
	unsigned n = 0;

	while (n < NLB && is_all(ram.bytes + n * RAM_BLOCK, byte, RAM_BLOCK))
		n++;
	CHECK(is_all(ram.bytes + n * RAM_BLOCK, 0xaa, (NLB - n) * RAM_BLOCK));
	return n;
}

static void torn_body(void)
{
	for (unsigned is_lying = 0; is_lying < 2; is_lying++) {
		const char *params = is_lying ? "op=all&method=torn&torn_ok=1"
					      : "op=all&method=torn";
		unsigned seen = 0;

		TAP_ROW(params);
		arm(params);
		for (unsigned i = 0; i < 400; i++) {
			enum io_op op = writing_ops[i % ARRAY_LEN(writing_ops)];
			bool is_zero = op == IO_UNMAP || op == IO_WRITE_ZEROES;
			unsigned n;

			one_request_setup(op);
			CHECK_EQ(ram_do_io(i / 4 & 1, op, 0, NLB, buf),
				 is_lying ? IO_OK : IO_WRITE_ERROR);
			n = prefix_written(is_zero ? 0 : 0xbb);
			CHECK(n < NLB);
			seen |= 1u << n;
		}
		CHECK_EQ(seen, (1u << NLB) - 1); /* each possible tear was met */
		one_request_setup(IO_READ);
		CHECK_EQ(ram_do_io(0, IO_READ, 0, NLB, buf), IO_OK);
		disarm(params);
	}
}

TEST(fault_torn_writes_a_prefix)
{
	ram_run(torn_body);
	ram.is_rotating = true;
	ram_run(torn_body);
}

static void drop_body(void)
{
	arm("op=all&method=drop");
	for (unsigned i = 0; i < ARRAY_LEN(writing_ops); i++) {
		TAP_ROW(io_op_name(writing_ops[i]));
		one_request_setup(writing_ops[i]);
		CHECK_EQ(ram_do_io(i & 1, writing_ops[i], 0, NLB, buf), IO_OK);
		CHECK(is_all(ram.bytes, 0xaa, sizeof(ram.bytes)));
		CHECK_EQ(ram.submitted[writing_ops[i]], 0);
	}
	CHECK_EQ(ram_do_io(0, IO_FLUSH, 0, 0, buf), IO_OK);
	CHECK_EQ(ram.submitted[IO_FLUSH], 0);
	CHECK_EQ(ram_do_io(0, IO_READ, 0, NLB, buf), IO_OK);
	CHECK_EQ(ram.submitted[IO_READ], 1);
}

TEST(fault_drop_does_nothing)
{
	ram_run(drop_body);
}

static void failed_stays_body(void)
{
	arm("op=write&stage=completion&method=status-nvme-0-81");
	ram.status = IO_NOT_READY;
	CHECK_EQ(ram_do_io(0, IO_WRITE, 0, 1, buf), IO_NOT_READY);
	CHECK_EQ(info(0).hits, 1);
	CHECK_EQ(info(0).fired, 0);
	ram.status = IO_OK;
	CHECK_EQ(ram_do_io(0, IO_WRITE, 0, 1, buf), IO_NO_SPACE);
	CHECK_EQ(info(0).fired, 1);
}

TEST(fault_completion_keeps_a_real_failure)
{
	ram_run(failed_stays_body);
}

/* ---- windows and counters ------------------------------------------------------------------- */

static void block_range_body(void)
{
	static const struct {
		const char *name;
		uint64_t lba;
		uint32_t nlb;
		bool fires;
	} rows[] = {
		{ "before", 90, 10, false }, { "touches the first", 93, 8, true },
		{ "inside", 105, 2, true },  { "touches the last", 119, 8, true },
		{ "behind", 120, 8, false }, { "around", 90, 60, true },
		{ "far", 1000, 24, false },  { "exact", 100, 20, true },
	};
	static uint8_t big[64 * RAM_BLOCK];

	arm("op=rw&offset=100&num_blk=20");
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		TAP_ROW(rows[i].name);
		for (unsigned n = 0; n < 4; n++)
			CHECK_EQ(ram_do_io(n & 1, n & 2 ? IO_READ : IO_WRITE, rows[i].lba,
					   rows[i].nlb, big),
				 rows[i].fires ? IO_TRANSFER : IO_OK);
	}
	TAP_ROW(NULL);
	CHECK_EQ(info(0).fired, 4 * 5);
	CHECK_EQ(info(0).hits, 4 * 5);
}

/* A fault is confined to its blocks: the neighbours do not notice. */
TEST(fault_fires_only_inside_the_block_range)
{
	ram_run(block_range_body);
}

/*
 * The primary's clock stands still and moves only when a test says so. For engines with one
 * reactor: others look at the backend of the one they wake.
 */
static struct reactor_backend frozen;
static const struct reactor_backend *thawed;
static uint64_t frozen_ns;

static uint64_t frozen_now(struct reactor *r)
{
	(void)r;
	return frozen_ns;
}

static void clock_freeze(void)
{
	struct reactor *r = reactor_primary();

	thawed = r->backend;
	frozen = *thawed;
	frozen.now = frozen_now;
	frozen_ns = r->now_ns;
	r->backend = &frozen;
}

static void clock_move(uint64_t ns) MAY_SUSPEND
{
	frozen_ns += ns;
	while (reactor_primary()->now_ns != frozen_ns)
		task_yield();
}

static bool write_fails(void) MAY_SUSPEND
{
	struct io io = { .op = IO_WRITE, .nlb = 1 };

	io_set_buf(&io, buf, RAM_BLOCK);
	return io_wait(ram_h[0], &io) != IO_OK;
}

static void time_window_body(void)
{
	arm("op=read&end_at=1000");
	CHECK_EQ(ram_do_io(0, IO_READ, 0, 1, buf), IO_TRANSFER); /* the first is inside */
	disarm("op=read&end_at=1000");
	arm("op=write&begin_at=20&end_at=40");
	clock_freeze();
	clock_move(30 * 1000000); /* the clock of the fault starts with the first match */
	for (unsigned us = 0; us < 60000; us += 500) {
		CHECK_EQ(write_fails(), us >= 20000 && us < 40000);
		CHECK_EQ(info(0).is_active, us < 40000);
		clock_move(500 * 1000);
	}
	CHECK_EQ(info(0).fired, 40);
	CHECK_EQ(info(0).hits, 120);
	reactor_primary()->backend = thawed;
}

/* A fault is confined to its time. */
TEST(fault_fires_only_inside_the_time_window)
{
	ram_run_on(0x1, time_window_body);
}

static void retries_body(void)
{
	unsigned failed = 0;

	arm("op=write&retries=3&offset=0&num_blk=1");
	CHECK(info(0).is_active);
	for (unsigned i = 0; i < 20; i++)
		failed += ram_do_io(i & 1, IO_WRITE, i % 2 ? 0 : 100, 1, buf) != IO_OK;
	CHECK_EQ(failed, 3); /* exactly, and only firings count */
	CHECK_EQ(info(0).fired, 3);
	CHECK_EQ(info(0).hits, 10);
	CHECK(!info(0).is_active);
}

TEST(fault_retries_fires_so_often)
{
	ram_run(retries_body);
}

static unsigned count_failures(const char *params) MAY_SUSPEND
{
	unsigned failed = 0;

	arm(params);
	for (unsigned i = 0; i < 1000; i++)
		failed += ram_do_io(0, IO_WRITE, 0, 1, buf) != IO_OK;
	CHECK_EQ(info(0).fired, failed);
	CHECK_EQ(info(0).hits, 1000);
	disarm(params);
	return failed;
}

static void probability_body(void)
{
	unsigned n = count_failures("probability=0.3&seed=42");

	CHECK(n > 200 && n < 400);
	CHECK_EQ(count_failures("probability=0.3&seed=42"), n);
	n = count_failures("probability=0.3");
	CHECK(n > 200 && n < 400);
	CHECK_EQ(count_failures("probability=0"), 0);
	CHECK_EQ(count_failures("probability=1"), 1000);
}

TEST(fault_probability_and_seed)
{
	ram_run(probability_body);
}

static void combined_body(void)
{
	arm("op=write&method=delay&delay_us=1000");
	arm("op=write&method=delay&delay_us=2000");
	arm("op=write&method=corrupt");
	arm("op=write&stage=c&method=delay&delay_us=1000");
	one_request_setup(IO_WRITE);
	CHECK_EQ(ram_do_io(1, IO_WRITE, 0, NLB, buf), IO_OK);
	CHECK(ram_took_ns >= 4000000); /* they add up */
	CHECK_EQ(bits_differ(buf, ram.bytes, SIZE), 1);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(info(i).fired, 1);
}

TEST(fault_several_at_once)
{
	ram_run(combined_body);
	ram.is_late = true;
	ram_run(combined_body);
}

/* ---- adding and removing -------------------------------------------------------------------- */

static void registry_body(void)
{
	struct fault_info fault;
	struct device *dev;
	struct err err = {};

	CHECK(!fault_list(0, &fault));
	CHECK_EQ(fault_add("inject://r9?op=write", NULL), 0);
	CHECK_EQ(fault_add("inject://r0?op=write", NULL), 0);
	CHECK_EQ(fault_add("inject://r0?op=write", &err), -EEXIST);
	CHECK_HAS(err.msg, "armed already");
	CHECK_STR(info(0).uri, "inject://r9?op=write");
	CHECK_STR(info(0).device, "r9");
	CHECK(!info(0).is_active);
	CHECK(info(1).is_active);
	CHECK(!fault_list(2, &fault));
	err_clear(&err);
	CHECK_EQ(fault_add("inject://r9?domain=bdev_io&op=write", &err), -ENODEV);
	CHECK_EQ(fault_add("inject://r0?domain=bdev_io&op=flush", NULL), 0);
	CHECK_EQ(fault_remove("inject://r0?op=writ", &err), -ENOENT);
	CHECK_EQ(fault_add("inject://r9?op=?", NULL), -EINVAL);
	/* A device that comes later finds its fault waiting. */
	CHECK_EQ(device_create("ram:///r9", &dev, NULL), 0);
	CHECK(info(0).is_active);
	CHECK_EQ(device_destroy("ram:///r9", NULL), 0);
	CHECK(!info(0).is_active);
	fault_remove_all();
	CHECK(!fault_list(0, &fault));
	CHECK_EQ(ram_do_io(0, IO_WRITE, 0, 1, buf), IO_OK);
}

TEST(fault_registry)
{
	ram_run(registry_body);
}

static void late_device_body(void)
{
	struct device *dev;
	struct desc *desc;
	struct handle *h;
	struct io io = { .op = IO_WRITE, .nlb = 1 };

	CHECK_EQ(fault_add("inject://r9?op=write", NULL), 0);
	for (int round = 0; round < 2; round++) {
		CHECK_EQ(device_create("ram:///r9", &dev, NULL), 0);
		CHECK_EQ(desc_open(dev, &(struct desc_opts){ .flags = DESC_WRITE }, &desc, NULL),
			 0);
		CHECK_EQ(handle_open(desc, reactor_primary(), &h, NULL), 0);
		io_set_buf(&io, buf, RAM_BLOCK);
		CHECK_EQ(io_wait(h, &io), IO_TRANSFER);
		desc_close(desc);
		CHECK_EQ(device_destroy("ram:///r9", NULL), 0);
	}
	CHECK_EQ(info(0).fired, 2);
}

TEST(fault_waits_for_its_device)
{
	ram_run(late_device_body);
}

static void limit_body(void)
{
	char uri[64];
	struct err err = {};

	for (int i = 0; i < FAULTS_MAX; i++) {
		(void)snprintf(uri, sizeof(uri), "inject://none%d", i);
		CHECK_EQ(fault_add(uri, NULL), 0);
	}
	CHECK_EQ(fault_add("inject://none", &err), -ENOSPC);
	CHECK_EQ(fault_remove("inject://none7", NULL), 0);
	CHECK_EQ(fault_add("inject://none", NULL), 0);
}

TEST(fault_limit)
{
	ram_run(limit_body);
}

/* A delay of an hour ends when its fault is removed; what it held succeeds. */
static void removal_body(void)
{
	static const char *const stages[] = { "submit", "completion" };

	for (unsigned i = 0; i < 4; i++) {
		char params[100];
		struct ram_io r;

		(void)snprintf(params, sizeof(params), "stage=%s&method=delay&delay_us=3600000000",
			       stages[i & 1]);
		TAP_ROW(params);
		arm(params);
		one_request_setup(IO_WRITE);
		ram_start(&r, i >> 1, IO_WRITE, 0, NLB, buf);
		while (info(0).fired == 0)
			task_yield();
		task_sleep(1000000);
		CHECK(!r.is_done);
		disarm(params);
		CHECK_EQ(ram_wait(&r), IO_OK);
		CHECK(is_all(ram.bytes, 0xbb, SIZE));
	}
}

TEST(fault_removed_lets_go)
{
	ram_run(removal_body);
	ram.is_late = true;
	ram_run(removal_body);
}

static void device_gone_body(void)
{
	struct ram_io r[2];

	arm("stage=submit&method=delay&delay_us=3600000000&op=write");
	arm("stage=completion&method=delay&delay_us=3600000000&op=read");
	ram_start(&r[0], 0, IO_WRITE, 0, NLB, buf);
	ram_start(&r[1], 1, IO_READ, 0, NLB, buf);
	while (info(0).fired + info(1).fired < 2)
		task_yield();
	device_gate_all(ram_dev, GATE_REMOVED); /* device_remove() would wait for our desc */
	CHECK_EQ(ram_wait(&r[0]), IO_NO_DEVICE);
	CHECK_EQ(ram_wait(&r[1]), IO_OK);
	CHECK_EQ(ram.submitted[IO_WRITE], 0);
	device_ungate_all(ram_dev, GATE_REMOVED);
	fault_remove_all();
	CHECK_EQ(ram_h[0]->ch->gate, 0);
	CHECK_EQ(ram_h[1]->ch->gate, 0);
}

TEST(fault_lets_go_when_the_device_is_removed)
{
	ram_run(device_gone_body);
}

static bool is_quiesced;

static void quiesce_task(void *arg)
{
	(void)arg;
	device_quiesce(ram_dev);
	is_quiesced = true;
}

/* A quiesce does not wait for a delay before submission, does for one behind the driver. */
static void quiesce_body(void)
{
	static const char before[] = "stage=submit&method=delay&delay_us=3600000000";
	static const char behind[] = "stage=completion&method=delay&delay_us=3600000000";
	struct ram_io r;

	arm(before);
	ram_start(&r, 1, IO_WRITE, 0, NLB, buf);
	while (info(0).fired == 0)
		task_yield();
	device_quiesce(ram_dev);
	disarm(before); /* lets it go: the gate holds it */
	task_sleep(5 * 1000000);
	CHECK_EQ(ram.submitted[IO_WRITE], 0);
	CHECK(!r.is_done);
	device_resume(ram_dev);
	CHECK_EQ(ram_wait(&r), IO_OK);
	CHECK_EQ(ram.submitted[IO_WRITE], 1);
	arm(behind);
	ram_start(&r, 1, IO_WRITE, 0, NLB, buf);
	while (info(0).fired == 0)
		task_yield();
	is_quiesced = false;
	CHECK_EQ(task_spawn("quiesce", quiesce_task, NULL), 0);
	task_sleep(5 * 1000000);
	CHECK(!is_quiesced && !r.is_done);
	disarm(behind);
	CHECK_EQ(ram_wait(&r), IO_OK);
	while (!is_quiesced)
		task_yield();
	CHECK_EQ(ram_h[1]->ch->inflight[0] + ram_h[1]->ch->inflight[1], 0);
	device_resume(ram_dev);
}

TEST(fault_and_quiesce)
{
	ram_run(quiesce_body);
}

/* More private data than FAULT_BYTES_MAX: all are served, none twice, none lost. */
enum { STORM = 64, STORM_NLB = 1024 };

static void storm_body(void)
{
	static struct ram_io r[STORM];
	static uint8_t big[STORM_NLB * RAM_BLOCK];
	uint64_t before, peak = 0;

	static_assert((long)STORM * STORM_NLB * RAM_BLOCK > FAULT_BYTES_MAX, "or nobody waits");
	memset(big, 0xbb, sizeof(big));
	arm("op=write&method=corrupt");
	before = dma_bytes_in_use();
	for (unsigned i = 0; i < STORM; i++)
		ram_start(&r[i], 1, IO_WRITE, 0, STORM_NLB, big);
	for (unsigned i = 0; i < STORM; i++) {
		while (!r[i].is_done) {
			uint64_t bytes = dma_bytes_in_use() - before;

			CHECK(bytes <= FAULT_BYTES_MAX);
			peak = MAX(peak, bytes);
			task_yield();
		}
		CHECK_EQ(ram_wait(&r[i]), IO_OK);
	}
	CHECK(peak > 0);
	CHECK_EQ(dma_bytes_in_use(), before);
	CHECK_EQ(info(0).fired, STORM);
	CHECK_EQ(ram.submitted[IO_WRITE], STORM);
	CHECK(is_all(big, 0xbb, sizeof(big)));
	CHECK_EQ(bits_differ(big, ram.bytes, sizeof(big)), 1);
}

TEST(fault_private_memory_is_bounded)
{
	ram.is_late = true;
	ram_run(storm_body);
}

/* Statistics see what the device above the fault saw. */
static void stats_body(void)
{
	struct io_stats *stats = calloc(1, sizeof(*stats));

	arm("op=write&retries=1");
	arm("op=read&stage=c&retries=1");
	CHECK_EQ(ram_do_io(0, IO_WRITE, 0, NLB, buf), IO_TRANSFER);
	CHECK_EQ(ram_do_io(0, IO_WRITE, 0, NLB, buf), IO_OK);
	CHECK_EQ(ram_do_io(0, IO_READ, 0, NLB, buf), IO_TRANSFER);
	CHECK_EQ(ram_do_io(0, IO_READ, 0, NLB, buf), IO_OK);
	device_stats(ram_dev, stats);
	CHECK_EQ(stats->op[IO_WRITE].errors, 1);
	CHECK_EQ(stats->op[IO_WRITE].ops, 1);
	CHECK_EQ(stats->op[IO_READ].errors, 1);
	CHECK_EQ(stats->op[IO_READ].ops, 1);
	free(stats);
}

TEST(fault_is_counted)
{
	ram_run(stats_body);
	ram.is_late = true;
	ram_run(stats_body);
}

static void left_armed_body(void)
{
	struct fault_info fault;

	CHECK(!fault_list(0, &fault));
	CHECK_EQ(ram_do_io(0, IO_WRITE, 0, 1, buf), IO_OK);
	arm("op=write");
	CHECK_EQ(ram_do_io(0, IO_WRITE, 0, 1, buf), IO_TRANSFER);
}

TEST(fault_ends_with_its_engine)
{
	ram_run(left_armed_body);
	ram_run(left_armed_body);
}

static void child_body(void)
{
	struct io io = { .op = IO_WRITE, .lba = 10, .nlb = 1 };
	const struct fault_spec *spec;

	CHECK(fault_match(FAULT_CHILD, FAULT_SUBMIT, "c0", &io) == NULL);
	CHECK_EQ(fault_add("inject://c0?domain=child&op=write&offset=10&num_blk=1&retries=2", NULL),
		 0);
	CHECK(info(0).is_active);
	spec = fault_match(FAULT_CHILD, FAULT_SUBMIT, "c0", &io);
	CHECK(spec != NULL && spec->status == IO_TRANSFER);
	CHECK(fault_match(FAULT_CHILD, FAULT_SUBMIT, "c1", &io) == NULL);
	CHECK(fault_match(FAULT_CHILD, FAULT_COMPLETION, "c0", &io) == NULL);
	CHECK(fault_match(FAULT_BLOCK, FAULT_SUBMIT, "c0", &io) == NULL);
	io.lba = 11;
	CHECK(fault_match(FAULT_CHILD, FAULT_SUBMIT, "c0", &io) == NULL);
	io.lba = 10;
	CHECK(fault_match(FAULT_CHILD, FAULT_SUBMIT, "c0", &io) != NULL);
	CHECK(fault_match(FAULT_CHILD, FAULT_SUBMIT, "c0", &io) == NULL); /* used up */
	CHECK_EQ(info(0).fired, 2);
}

TEST(fault_child_domain)
{
	ram_run(child_body);
}

TAP_MAIN()
