/* SPDX-License-Identifier: Apache-2.0 */
/* malloc: parameters, thinness, capacity, growth, compare-and-write among reactors. */
#include "drivers/testing.h"

#include <sched.h>

#include "base/rng.h"
#include "base/units.h"

ENGINE_TEST(malloc_takes_the_documented_parameters)
{
	static const struct uri_case rows[] = {
		{ "malloc:///m?size_mb=1", 0, NULL, 2048, 512 },
		{ "malloc:///m?size_mb=1&blk_size=4096", 0, NULL, 256, 4096 },
		{ "malloc:///m?num_blocks=3", 0, NULL, 3, 512 },
		{ "malloc:///m?size_mb=1&capacity_mb=1", 0, NULL, 2048, 512 },
		{ "malloc:///m?size_mb=1&resize", 0, NULL, 2048, 512 }, /* nothing there: made */
		{ "malloc:///m?size_mb=1&resize=no", 0, NULL, 2048, 512 },
		{ "malloc:///m?size_mb=8192", 0, NULL, 1 << 24, 512 }, /* beyond 32 bits */
		{ "malloc:///m?num_blocks=8388609", 0, NULL, 8388609, 512 },
		{ "malloc:///m", -EINVAL, "size_mb=N or num_blocks=N", 0, 0 },
		{ "malloc:///m?size_mb=1&num_blocks=2048", -EINVAL, "exclude", 0, 0 },
		{ "malloc:///m?size_mb=0", -EINVAL, "size_mb", 0, 0 },
		{ "malloc:///m?num_blocks=0", -EINVAL, "num_blocks", 0, 0 },
		{ "malloc:///m?size_mb=16777217", -EFBIG, "16 TiB", 0, 0 },
		{ "malloc:///m?size_mb=18446744073709551615", -EFBIG, "larger", 0, 0 },
		{ "malloc:///m?size_mb=1&blk_size=1024", -EINVAL, "512 or 4096", 0, 0 },
		{ "malloc:///m?size_mb=1&blk_size=x", -EINVAL, "blk_size", 0, 0 },
		{ "malloc:///m?size_mb=1&resize=maybe", -EINVAL, "resize", 0, 0 },
		{ "malloc:///m?size_mb=1&capacity_mb=0", -EINVAL, "capacity_mb", 0, 0 },
		{ "malloc:///m?size_mb=1&uuid=0", -EINVAL, "uuid", 0, 0 },
		{ "malloc:///m?size_mb=1&rescan", -EINVAL, "rescan", 0, 0 },
		{ "malloc:///?size_mb=1", -EINVAL, "malloc:///NAME", 0, 0 },
	};

	check_uris(rows, ARRAY_LEN(rows));
}

ENGINE_TEST(malloc_grows_but_never_shrinks)
{
	static const struct {
		const char *uri;
		int result;
		const char *says;
	} rows[] = {
		{ "malloc:///m?size_mb=300", -EEXIST, "m" },
		{ "malloc:///m?size_mb=300&resize", -EINVAL, "blk_size=4096" },
		{ "malloc:///m?size_mb=1&blk_size=4096&resize", -EINVAL, "cannot shrink" },
		{ "malloc:///m?size_mb=300&blk_size=4096&resize"
		  "&uuid=00000000-0000-0000-0000-000000000001",
		  -EINVAL, "uuid" },
		{ "malloc:///m?size_mb=300&blk_size=4096&resize", 0, NULL },
	};
	uint8_t data[4096], buf[4096];
	struct opened o;

	if (!opened_open(&o, "malloc:///m?size_mb=2&blk_size=4096", DESC_WRITE))
		return;
	memset(data, 0xa7, sizeof(data));
	CHECK_EQ(do_io(&o, IO_WRITE, 511, 1, data, 0), IO_OK);
	CHECK_EQ(device_resize(o.dev, 1024, NULL), -EOPNOTSUPP); /* nobody prepared memory */
	CHECK_EQ(device_resize(o.dev, 256, NULL), -EOPNOTSUPP);
	CHECK_EQ(do_io(&o, IO_READ, 512, 1, buf, 0), IO_OUT_OF_RANGE);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct device *dev = NULL;
		struct err err = {};

		TAP_ROW(rows[i].uri);
		CHECK_EQ(device_create(rows[i].uri, &dev, &err), rows[i].result);
		if (rows[i].says != NULL)
			CHECK_HAS(err_text(&err), rows[i].says);
		CHECK_EQ(o.dev->nblocks, rows[i].result == 0 ? 300 * 256 : 512);
	}
	TAP_ROW(NULL);
	CHECK_EQ(do_io(&o, IO_READ, 511, 1, buf, 0), IO_OK);
	CHECK_MEM(buf, data, sizeof(buf));
	memset(data, 0, sizeof(data));
	CHECK_EQ(do_io(&o, IO_READ, 300 * 256 - 1, 1, buf, 0), IO_OK);
	CHECK_MEM(buf, data, sizeof(buf));
	opened_close(&o);
}

ENGINE_TEST(malloc_holds_data_beyond_4_gib_and_across_segments)
{
	static uint8_t data[64 * 1024], buf[64 * 1024];
	/* In blocks of 512 bytes: the middle of a transfer is a multiple of 256 MiB. */
	static const uint64_t lbas[] = { 0, 524288 - 64, 9 * 1024 * 2048ull - 64,
					 10 * 1024 * 2048ull - 128 };
	struct opened o;

	if (!opened_open(&o, "malloc:///m?size_mb=10240", DESC_WRITE))
		return;
	for (size_t i = 0; i < ARRAY_LEN(lbas); i++) {
		memset(data, (int)(i + 1), sizeof(data));
		data[sizeof(data) / 2] = 0xee;
		CHECK_EQ(do_io(&o, IO_WRITE, lbas[i], 128, data, 0), IO_OK);
	}
	for (size_t i = 0; i < ARRAY_LEN(lbas); i++) {
		memset(data, (int)(i + 1), sizeof(data));
		data[sizeof(data) / 2] = 0xee;
		CHECK_EQ(do_io(&o, IO_READ, lbas[i], 128, buf, 0), IO_OK);
		CHECK_MEM(buf, data, sizeof(buf));
		CHECK_EQ(do_io(&o, IO_COMPARE, lbas[i], 128, data, 0), IO_OK);
		data[sizeof(data) - 1] ^= 1;
		CHECK_EQ(do_io(&o, IO_COMPARE, lbas[i], 128, data, 0), IO_MISCOMPARE);
	}
	CHECK_EQ(do_seek(&o, IO_SEEK_HOLE, 0), 128);
	CHECK_EQ(do_seek(&o, IO_SEEK_DATA, 128), lbas[1]);
	CHECK_EQ(do_seek(&o, IO_SEEK_DATA, lbas[1] + 128), lbas[2]);
	CHECK_EQ(do_seek(&o, IO_SEEK_HOLE, lbas[3]), lbas[3] + 128);
	CHECK_EQ(do_seek(&o, IO_SEEK_HOLE, o.dev->nblocks), o.dev->nblocks);
	opened_close(&o);
}

ENGINE_TEST(malloc_knows_unwritten_blocks)
{
	uint8_t buf[8 * 512] = { 7 };
	struct opened o;

	if (!opened_open(&o, "malloc:///m?size_mb=1", DESC_WRITE))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 9, 1, buf, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_READ, 9, 1, buf, IO_UNWRITTEN_FAIL), IO_OK);
	CHECK_EQ(do_io(&o, IO_READ, 8, 1, buf, IO_UNWRITTEN_FAIL), IO_UNWRITTEN);
	CHECK_EQ(do_io(&o, IO_READ, 9, 2, buf, IO_CURRENT_UNWRITTEN_FAIL), IO_UNWRITTEN);
	CHECK_EQ(do_io(&o, IO_READ, 8, 8, buf, 0), IO_OK);
	CHECK_EQ(buf[512], 7);
	CHECK_EQ(buf[511], 0);
	CHECK_EQ(do_io(&o, IO_WRITE_ZEROES, 9, 2, NULL, IO_NO_DEALLOCATE), IO_OK);
	CHECK_EQ(do_io(&o, IO_READ, 9, 2, buf, IO_UNWRITTEN_FAIL), IO_OK);
	CHECK_EQ(buf[0], 0);
	CHECK_EQ(do_io(&o, IO_WRITE_ZEROES, 10, 1, NULL, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_READ, 10, 1, buf, IO_UNWRITTEN_FAIL), IO_UNWRITTEN);
	CHECK_EQ(do_io(&o, IO_UNMAP, 0, 2048, NULL, 0), IO_OK);
	CHECK_EQ(do_seek(&o, IO_SEEK_DATA, 0), 2048);
	opened_close(&o);
}

static uint64_t resident_bytes(void)
{
	CLEANUP(fclosep) FILE *file = fopen("/proc/self/statm", "re");
	unsigned long long total = 0, resident = 0;

	CHECK(file != NULL && fscanf(file, "%llu %llu", &total, &resident) == 2);
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

ENGINE_TEST(malloc_gives_memory_back)
{
	static uint8_t buf[MIB];
	const uint64_t size = 64 * MIB;
	uint64_t before, full, after;
	struct opened o;

	memset(buf, 1, sizeof(buf));
	if (!opened_open(&o, "malloc:///m?size_mb=1024", DESC_WRITE))
		return;
	before = resident_bytes();
	for (uint64_t off = 0; off < size; off += sizeof(buf))
		CHECK_EQ(do_io(&o, IO_WRITE, off / 512, sizeof(buf) / 512, buf, 0), IO_OK);
	full = resident_bytes();
	CHECK(full >= before + size);
	/* Off by one block at both ends: the pages there stay. */
	CHECK_EQ(do_io(&o, IO_UNMAP, 1, (uint32_t)(size / 512) - 2, NULL, 0), IO_OK);
	after = resident_bytes();
	CHECK(after + size - 4 * MIB <= full);
	CHECK_EQ(do_io(&o, IO_READ, 0, 2, buf, 0), IO_OK);
	CHECK_EQ(buf[0], 1);
	CHECK_EQ(buf[511], 1);
	CHECK_EQ(buf[512], 0);
	opened_close(&o);
}

ENGINE_TEST(malloc_has_a_capacity)
{
	static uint8_t buf[2 * MIB];
	const uint32_t half = MIB / 4096 / 2; /* blocks of half the capacity */
	struct opened o;

	memset(buf, 1, sizeof(buf));
	if (!opened_open(&o, "malloc:///m?size_mb=16&blk_size=4096&capacity_mb=1", DESC_WRITE))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 2 * half + 1, buf, 0), IO_NO_SPACE);
	CHECK_EQ(do_seek(&o, IO_SEEK_DATA, 0), o.dev->nblocks); /* all or nothing */
	CHECK_EQ(do_io(&o, IO_WRITE, 1000, half, buf, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_WRITE, 2000, half, buf, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_NO_SPACE);
	CHECK_EQ(do_io(&o, IO_WRITE_ZEROES, 0, 1, NULL, IO_NO_DEALLOCATE), IO_NO_SPACE);
	CHECK_EQ(do_io(&o, IO_WRITE_ZEROES, 0, 256, NULL, IO_NO_DEALLOCATE), IO_NO_SPACE);
	CHECK_EQ(do_io(&o, IO_WRITE_ZEROES, 0, 1, NULL, 0), IO_OK); /* takes none */
	memset(buf, 0, sizeof(buf));
	CHECK_EQ(do_io(&o, IO_COMPARE_WRITE, 0, 1, buf, 0), IO_NO_SPACE);
	CHECK_EQ(do_io(&o, IO_WRITE, 2000, half, buf, 0), IO_OK); /* rewriting takes none */
	CHECK_EQ(do_io(&o, IO_WRITE, 2000 + half - 1, 2, buf, 0), IO_NO_SPACE);
	CHECK_EQ(do_io(&o, IO_UNMAP, 2000, 1, NULL, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_UNMAP, 2000, 1, NULL, 0), IO_OK); /* counted once */
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 2, buf, 0), IO_NO_SPACE);
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_WRITE, 1, 1, buf, 0), IO_NO_SPACE);
	opened_close(&o);
}

ENGINE_TEST(malloc_compares_and_writes)
{
	uint8_t buf[2 * 1024], now[1024];
	struct opened o;

	if (!opened_open(&o, "malloc:///m?size_mb=1", DESC_WRITE))
		return;
	memset(buf, 0, 1024);
	memset(buf + 1024, 9, 1024);
	CHECK_EQ(do_io(&o, IO_COMPARE_WRITE, 5, 2, buf, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_COMPARE_WRITE, 5, 2, buf, 0), IO_MISCOMPARE);
	CHECK_EQ(do_io(&o, IO_READ, 5, 2, now, IO_UNWRITTEN_FAIL), IO_OK);
	CHECK_MEM(now, buf + 1024, 1024);
	opened_close(&o);
}

/*
 * A device that holds more than the caches do writes past them. Every way to write, from any
 * alignment, over the end of a segment, agrees with an array.
 */
ENGINE_TEST(malloc_keeps_what_goes_past_the_caches)
{
	enum { BLOCKS = 512, STEPS = 3000, MOST = 64 };
	const uint64_t first = (256 * MIB) / 512 - BLOCKS / 2; /* over the end of a segment */
	static uint8_t array[BLOCKS * 512], buf[2 * MOST * 512 + 64], filling[MIB];
	struct iovec pieces[2];
	struct rng rng;
	struct opened o;

	rng_init(&rng, 3);
	if (!opened_open(&o, "malloc:///m?size_mb=300", DESC_WRITE))
		return;
	for (uint64_t off = 0; off < 80 * MIB; off += MIB)
		CHECK_EQ(do_io(&o, IO_WRITE, off / 512, MIB / 512, filling, 0), IO_OK);
	memset(array, 0, sizeof(array));
	for (unsigned step = 0; step < STEPS; step++) {
		uint64_t at = rng_below(&rng, BLOCKS);
		uint32_t n = (uint32_t)rng_range(&rng, 1, MIN(BLOCKS - at, (uint64_t)MOST));
		uint8_t *data = buf + rng_below(&rng, 64);
		size_t len = (size_t)n * 512;

		rng_fill(&rng, data, 2 * len);
		if (step % 3 == 0) {
			memcpy(data, array + at * 512, len);
			CHECK_EQ(do_io(&o, IO_COMPARE_WRITE, first + at, n, data, 0), IO_OK);
			data += len;
		} else if (step % 3 == 1) {
			CHECK_EQ(do_io(&o, IO_WRITE, first + at, n, data, 0), IO_OK);
		} else {
			pieces[0] = (struct iovec){ data, len / 3 };
			pieces[1] = (struct iovec){ data + len / 3, len - len / 3 };
			o.io.op = IO_WRITE;
			o.io.lba = first + at;
			o.io.nlb = n;
			o.io.iov = pieces;
			o.io.iovcnt = 2;
			CHECK_EQ(io_wait(o.h, &o.io), IO_OK);
		}
		memcpy(array + at * 512, data, len);
	}
	for (uint64_t at = 0; at < BLOCKS; at += MOST) {
		CHECK_EQ(do_io(&o, IO_READ, first + at, MOST, buf, 0), IO_OK);
		CHECK_MEM(buf, array + at * 512, MOST * 512);
	}
	opened_close(&o);
}

/* ---- several reactors --------------------------------------------------------------------- */

enum { INCREMENTS = 20000, NOISE = 8 };

/* Adds 1 to a block by compare-and-write over and over, and writes blocks nobody looks at. */
struct adder {
	struct handle *h;
	struct io io, noise[NOISE];
	uint64_t data[2][64]; /* a block of what we believe, and of what we want */
	uint8_t junk[4096];
	unsigned added, lost, noisy;
	bool is_done;
	struct task_event ended;
	struct msg msg;
};

static void adder_told(struct msg *msg)
{
	task_event_fire(&container_of(msg, struct adder, msg)->ended);
}

static void adder_check_end(struct adder *a)
{
	if (a->added < INCREMENTS || a->noisy > 0 || a->is_done)
		return;
	a->is_done = true;
	a->msg.fn = adder_told;
	reactor_post(reactor_primary(), &a->msg);
}

static void adder_step(struct adder *a, enum io_op op)
{
	a->io.op = (uint8_t)op;
	a->io.nlb = 1;
	io_set_buf(&a->io, a->data, op == IO_READ ? 512 : 1024);
	io_submit(a->h, &a->io);
}

static void adder_done(struct io *io)
{
	struct adder *a = container_of(io, struct adder, io);
	bool was_read = io->op == IO_READ;

	if (was_read) {
		for (unsigned i = 0; i < 64; i++)
			a->data[1][i] = a->data[0][0] + 1;
		adder_step(a, IO_COMPARE_WRITE);
		return;
	}
	if (io->status == IO_OK)
		a->added++;
	else
		a->lost += io->status == IO_MISCOMPARE;
	if (a->added < INCREMENTS)
		adder_step(a, IO_READ);
	else
		adder_check_end(a);
}

static void noise_done(struct io *io)
{
	struct adder *a = io->owner;

	if (a->added < INCREMENTS) {
		io_submit(a->h, io);
		return;
	}
	a->noisy--;
	adder_check_end(a);
}

static void adder_start(void *arg)
{
	struct adder *a = arg;

	a->io.done = adder_done;
	a->noisy = NOISE;
	for (unsigned i = 0; i < NOISE; i++) {
		struct io *io = &a->noise[i];

		*io = (struct io){ .op = IO_WRITE, .nlb = 8, .owner = a, .done = noise_done };
		io->lba = 8 + 8 * (reactor_self()->id * NOISE + i);
		io_set_buf(io, a->junk, sizeof(a->junk));
		io_submit(a->h, io);
	}
	adder_step(a, IO_READ);
}

static int run_adders(void *arg, struct err *err)
{
	static struct adder adders[2];
	uint64_t block[64];
	struct opened o;
	unsigned sum = 0;

	(void)arg;
	memset(adders, 0, sizeof(adders));
	if (!opened_open(&o, "malloc:///m?size_mb=1", DESC_WRITE))
		return 0;
	for (unsigned i = 0; i < 2; i++)
		CHECK_EQ(handle_open(o.desc, reactor_get(i), &adders[i].h, err), 0);
	for (unsigned i = 0; i < 2; i++)
		task_call(reactor_get(i), adder_start, &adders[i]);
	for (unsigned i = 0; i < 2; i++) {
		task_event_wait(&adders[i].ended);
		sum += adders[i].added;
		printf("# reactor %u: %u added, %u lost the race\n", i, adders[i].added,
		       adders[i].lost);
	}
	CHECK_EQ(do_io(&o, IO_READ, 0, 1, block, 0), IO_OK);
	for (unsigned i = 0; i < 64; i++) {
		if (!CHECK_EQ(block[i], sum))
			break;
	}
	opened_close(&o);
	return 0;
}

TEST(malloc_compare_and_write_is_atomic_among_reactors)
{
	struct engine_opts opts = { .reactor.core_mask = 0x3 };
	struct err err = {};
	cpu_set_t cpus;

	if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0 || !CPU_ISSET(0, &cpus) ||
	    !CPU_ISSET(1, &cpus)) {
		SKIP("needs cores 0 and 1");
		return;
	}
	CHECK_EQ(engine_run(&opts, run_adders, NULL, &err), 0);
}

/* A read that offers to borrow: what was written lies in the device, what was not among zeroes. */
ENGINE_TEST(malloc_lends_what_is_read)
{
	static uint8_t data[8 * 512], buf[(1 << 20) + 512];
	struct io_loan loan;
	struct opened o;

	if (!opened_open(&o, "malloc:///m?size_mb=8", DESC_WRITE))
		return;
	memset(data, 0x3c, sizeof(data));
	CHECK_EQ(do_io(&o, IO_WRITE, 16, 8, data, 0), IO_OK);
	o.io.loan = &loan;
	loan.count = 0;
	CHECK_EQ(do_io(&o, IO_READ, 16, 8, buf, IO_BORROW), IO_OK);
	CHECK(io_is_lent(&o.io) && loan.count == 1 && loan.piece[0].iov_len == sizeof(data));
	CHECK(memcmp(loan.piece[0].iov_base, data, sizeof(data)) == 0 && buf[0] == 0);
	/* Given back to the system while it is lent: it stays mapped. */
	o.io.done = NULL;
	{
		struct io unmap = { .op = IO_UNMAP, .lba = 0, .nlb = 4096 };

		CHECK_EQ(io_wait(o.h, &unmap), IO_OK);
	}
	CHECK_EQ(((uint8_t *)loan.piece[0].iov_base)[0], 0);
	io_return(&o.io);
	loan.count = 0;
	CHECK_EQ(do_io(&o, IO_READ, 0, 2048, buf, IO_BORROW), IO_OK); /* never written: 1 MiB */
	CHECK_EQ(loan.count, 8);
	for (unsigned i = 0; i < loan.count; i++)
		CHECK(loan.piece[i].iov_base == io_zeroes &&
		      loan.piece[i].iov_len == IO_ZEROES_SIZE);
	io_unlend(&o.io);
	CHECK(!io_is_lent(&o.io));
	memset(buf, 1, 512);
	CHECK_EQ(do_io(&o, IO_READ, 0, 2049, buf, IO_BORROW | IO_UNWRITTEN_FAIL), IO_UNWRITTEN);
	CHECK(!io_is_lent(&o.io) && buf[0] == 1);
	opened_close(&o);
}

/* Beyond 256 MiB the memory of a device is in several segments. */
ENGINE_TEST(malloc_lends_across_segments)
{
	static uint8_t data[16 * 512], buf[16 * 512];
	const uint64_t edge = (256 * MIB) / 512;
	struct io_loan loan = {};
	struct opened o;

	if (!opened_open(&o, "malloc:///m?size_mb=512", DESC_WRITE))
		return;
	memset(data, 0x3c, 8 * 512);
	memset(data + 8 * 512, 0x4d, 8 * 512);
	CHECK_EQ(do_io(&o, IO_WRITE, edge - 8, 16, data, 0), IO_OK);
	o.io.loan = &loan;
	CHECK_EQ(do_io(&o, IO_READ, edge - 8, 16, buf, IO_BORROW), IO_OK);
	CHECK_EQ(loan.count, 2);
	CHECK_EQ(loan.piece[0].iov_len, 8 * 512);
	CHECK_EQ(((uint8_t *)loan.piece[1].iov_base)[0], 0x4d);
	io_unlend(&o.io);
	CHECK(memcmp(buf, data, sizeof(data)) == 0);
	opened_close(&o);
}

TAP_MAIN()
