/* SPDX-License-Identifier: Apache-2.0 */
/*
 * malloc_floor.c - what the memory device costs against a bare copy of the same pattern.
 *
 * Prints lines for tests/bench/run. Time is processor time of the one thread that does both.
 *
 * The floor is a loop of memcpy() between random blocks of a region as large as the device, on
 * huge pages like it, and as many buffers as there are requests in flight. Device and floor take
 * turns in one process on one reactor; a row is the median of the pairs. The ratio is the claim.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"
#include "base/units.h"
#include "device/device.h"
#include "engine.h"
#include "reactor/mem.h"

enum {
	PAIRS = 7,
	QD = 32,
	REGION_MB = 512,
	SLICE_BYTES = 1 << 30, /* copied per measurement */
};

#define REGION ((uint64_t)REGION_MB * MIB)

struct run {
	struct handle *h;
	struct rng rng;
	uint32_t bs;
	uint32_t nlb;
	uint8_t op;
	uint64_t left;
	unsigned inflight;
	struct io io[QD];
	char *bufs;
	char *region; /* of the floor */
	struct task_event ended;
};

/* Processor time of this thread: what other programs take meanwhile does not count. */
static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static void run_next(struct run *run, struct io *io)
{
	if (run->left == 0) {
		if (run->inflight == 0)
			task_event_fire(&run->ended);
		return;
	}
	run->left--;
	run->inflight++;
	io->lba = rng_below(&run->rng, REGION / run->bs) * run->nlb;
	io_submit(run->h, io);
}

static void run_done(struct io *io)
{
	struct run *run = io->owner;

	if (io->status != IO_OK)
		abort();
	run->inflight--;
	run_next(run, io);
}

/* ns per request. */
static double measure_device(struct run *run)
{
	uint64_t n = SLICE_BYTES / run->bs, start;

	run->left = n;
	run->ended = (struct task_event){};
	start = now_ns();
	for (unsigned i = 0; i < QD; i++) {
		run->io[i] = (struct io){
			.op = run->op, .nlb = run->nlb, .owner = run, .done = run_done
		};
		io_set_buf(&run->io[i], run->bufs + (size_t)i * run->bs, run->bs);
		run_next(run, &run->io[i]);
	}
	task_event_wait(&run->ended);
	return (double)(now_ns() - start) / (double)n;
}

static double measure_floor(struct run *run)
{
	uint64_t n = SLICE_BYTES / run->bs, start = now_ns();

	for (uint64_t i = 0; i < n; i++) {
		char *mem = run->region + rng_below(&run->rng, REGION / run->bs) * run->bs;
		char *buf = run->bufs + i % QD * run->bs;

		if (run->op == IO_READ)
			memcpy(buf, mem, run->bs);
		else
			memcpy(mem, buf, run->bs);
		__asm__ volatile("" : : "r"(buf), "r"(mem) : "memory");
	}
	return (double)(now_ns() - start) / (double)n;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *values)
{
	qsort(values, PAIRS, sizeof(*values), by_value);
	return values[PAIRS / 2];
}

static void measure_row(struct run *run, const char *name)
{
	double device[PAIRS], floor[PAIRS], ratio[PAIRS];

	for (unsigned i = 0; i < PAIRS; i++) {
		floor[i] = measure_floor(run);
		device[i] = measure_device(run);
		ratio[i] = device[i] / floor[i];
	}
	printf("claim malloc-%s-qd%d value=%.3f unit=x target=<=:1.15 device %.0f ns, "
	       "memcpy %.0f ns\n",
	       name, QD, median(ratio), median(device), median(floor));
}

/* Every block written once, or reads would all come from one page of zeroes. */
static void fill(struct run *run)
{
	struct io *io = &run->io[0];

	rng_fill(&run->rng, run->bufs, QD * run->bs);
	for (uint64_t off = 0; off < REGION; off += 65536) {
		*io = (struct io){ .op = IO_WRITE, .lba = off / 4096, .nlb = 16 };
		io_set_buf(io, run->bufs + off / 65536 % QD * 65536, 65536);
		if (io_wait(run->h, io) != IO_OK)
			abort();
		memcpy(run->region + off, io->one.iov_base, 65536);
	}
}

static int bench(void *arg, struct err *err)
{
	static struct run run;
	static const struct {
		const char *name;
		enum io_op op;
		uint32_t bs;
	} rows[] = {
		{ "4k-randread", IO_READ, 4096 },
		{ "4k-randwrite", IO_WRITE, 4096 },
		{ "64k-randread", IO_READ, 65536 },
		{ "64k-randwrite", IO_WRITE, 65536 },
	};
	struct desc_opts opts = { .flags = DESC_WRITE };
	struct device *dev;
	struct desc *desc;
	int result;

	(void)arg;
	result = device_create("malloc:///m?size_mb=512&blk_size=4096", &dev, err);
	if (result == 0)
		result = desc_open(dev, &opts, &desc, err);
	if (result == 0)
		result = handle_open(desc, reactor_primary(), &run.h, err);
	if (result < 0)
		return result;
	rng_init(&run.rng, 1);
	run.region = dma_alloc(REGION);
	run.bufs = dma_alloc(QD * 65536);
	if (run.region == NULL || run.bufs == NULL)
		return err_set(err, -ENOMEM, "no memory");
	run.bs = 65536;
	fill(&run);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		run.op = (uint8_t)rows[i].op;
		run.bs = rows[i].bs;
		run.nlb = rows[i].bs / 4096;
		measure_row(&run, rows[i].name);
	}
	dma_free(run.region, REGION);
	dma_free(run.bufs, QD * 65536);
	desc_close(desc);
	return device_remove(dev, err);
}

int main(void)
{
	struct engine_opts opts = { .reactor.core_mask = 1 };
	struct err err = {};

	if (engine_run(&opts, bench, NULL, &err) == 0)
		return 0;
	fprintf(stderr, "malloc_floor: %s\n", err_text(&err));
	return 1;
}
