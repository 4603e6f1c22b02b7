/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nexus.c - what a mirror costs.
 *
 * Prints lines for tests/bench/run. Time is processor time of the one reactor that does everything.
 *
 * null: 4 KiB at a queue depth of 128 over 2 and 3 devices that store nothing, records and
 * write-intent marks on, so all time is the engine's; and one such device bare, the floor. malloc:
 * 4 KiB writes over 2 and 3 memory devices against as many copies of a bare memcpy loop between the
 * same number of regions, each copy of a block after the other. Regions and devices are equally
 * large and on huge pages, and the loop's addresses are as random. What a plain loop does not have
 * is the device's way to copy (base/stream.h); so the same loop with that copy is printed, too, and
 * what is beyond it is the engine's. What is compared takes turns in one process; a row is the
 * median.
 *
 *   bench-nexus [null|malloc]     only these
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"
#include "base/stream.h"
#include "base/units.h"
#include "device/device.h"
#include "engine.h"
#include "nexus/nexus.h"
#include "reactor/mem.h"

enum {
	PAIRS = 9,
	QD = 128,
	BS = 4096,
	LEGS_MAX = 3,
	NULL_IOS = 2000000,
	MALLOC_IOS = 150000,
	REGION_MB = 256, /* of the memory devices, and of the floor's regions */
};

#define REGION ((uint64_t)REGION_MB * MIB)

struct run {
	struct desc *desc;
	struct handle *h;
	struct device *dev;
	struct rng rng;
	uint64_t nblocks, left;
	unsigned inflight;
	uint8_t op;
	struct io io[QD];
	struct task_event ended;
};

static struct run run;
static char *bufs, *region[LEGS_MAX];

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* What ends inside submit is sent again at once; the loop is the reactor's otherwise. */
static void run_next(struct io *io)
{
	for (;;) {
		if (run.left == 0) {
			if (--run.inflight == 0)
				task_event_fire(&run.ended);
			return;
		}
		run.left--;
		io->lba = rng_below(&run.rng, run.nblocks);
		if (io_start(run.h, io) == IO_PENDING)
			return;
		if (io->status != IO_OK)
			abort();
	}
}

static void run_done(struct io *io)
{
	if (io->status != IO_OK)
		abort();
	run_next(io);
}

static double measure(uint8_t op, uint64_t nios)
{
	uint64_t start;

	run.op = op;
	run.left = nios;
	run.inflight = QD;
	run.ended = (struct task_event){};
	start = now_ns();
	for (unsigned i = 0; i < QD; i++) {
		run.io[i] = (struct io){ .op = op, .nlb = 1, .done = run_done };
		io_set_buf(&run.io[i], bufs + (size_t)i * BS, BS);
		run_next(&run.io[i]);
	}
	task_event_wait(&run.ended);
	return (double)(now_ns() - start) / (double)nios;
}

static double measure_copies(unsigned nlegs, uint64_t nios, bool is_streamed)
{
	uint64_t start = now_ns();

	for (uint64_t i = 0; i < nios; i++) {
		uint64_t off = rng_below(&run.rng, REGION / BS) * BS;
		const char *buf = bufs + i % QD * BS;

		for (unsigned leg = 0; leg < nlegs; leg++) {
			if (is_streamed)
				stream_copy(region[leg] + off, buf, BS);
			else
				memcpy(region[leg] + off, buf, BS);
			__asm__ volatile("" : : "r"(buf), "r"(region[leg]) : "memory");
		}
	}
	return (double)(now_ns() - start) / (double)nios;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values)
{
	qsort(values, PAIRS, sizeof(*values), by_value);
	return values[PAIRS / 2];
}

static int open_run(const char *uri, struct err *err) MAY_SUSPEND
{
	struct desc_opts opts = { .flags = DESC_WRITE };
	int result = device_create(uri, &run.dev, err);

	if (result == 0)
		result = desc_open(run.dev, &opts, &run.desc, err);
	if (result == 0)
		result = handle_open(run.desc, reactor_primary(), &run.h, err);
	if (result == 0)
		run.nblocks = run.dev->nblocks;
	return result;
}

static int close_run(struct err *err) MAY_SUSPEND
{
	desc_close(run.desc);
	return device_remove(run.dev, err);
}

/* Every block once: memory is there, segments are marked. */
static void warm(void) MAY_SUSPEND
{
	struct io io = { .op = IO_WRITE, .nlb = 16 };

	io_set_buf(&io, bufs, (size_t)16 * BS);
	for (uint64_t lba = 0; lba + 16 <= run.nblocks; lba += 16) {
		io.lba = lba;
		if (io_wait(run.h, &io) != IO_OK)
			abort();
	}
}

static int mirror_uri(char *uri, size_t size, unsigned nlegs, const char *leg, const char *bytes)
{
	int len = snprintf(uri, size, "nexus:///mirror?label=v2&size=%s&children=", bytes);

	for (unsigned i = 0; i < nlegs; i++)
		len += snprintf(uri + len, size - (size_t)len, "%s%s%u%s", i > 0 ? "," : "", leg, i,
				"?size_mb=264%26blk_size=4096");
	return len;
}

static int bench_null(unsigned nlegs, struct err *err) MAY_SUSPEND
{
	double bare[PAIRS], write[PAIRS], read[PAIRS];
	char uri[512];
	int result = 0;

	(void)mirror_uri(uri, sizeof(uri), nlegs, "null:///leg", "256M");
	for (unsigned i = 0; i < PAIRS && result == 0; i++) {
		result = open_run("null:///bare?size_mb=256&blk_size=4096", err);
		if (result < 0)
			return result;
		bare[i] = measure(IO_WRITE, NULL_IOS);
		result = close_run(err);
		if (result == 0)
			result = open_run(uri, err);
		if (result < 0)
			return result;
		warm();
		write[i] = measure(IO_WRITE, NULL_IOS);
		read[i] = measure(IO_READ, NULL_IOS);
		result = close_run(err);
	}
	printf("claim nexus-null-%u-write value=%.1f unit=ns target=<=:%d floor=%.1f "
	       "one bare device\n",
	       nlegs, median(write), nlegs == 2 ? 40 : 50, median(bare));
	printf("claim nexus-null-%u-read value=%.1f unit=ns target=<=:25 floor=%.1f "
	       "one bare device\n",
	       nlegs, median(read), bare[PAIRS / 2]);
	return result;
}

/* One leg: the device itself, to see what of a mirror's cost is not the mirror's. */
static int bench_malloc(unsigned nlegs, struct err *err) MAY_SUSPEND
{
	double mirror[PAIRS], copies[PAIRS], streamed[PAIRS], ratio[PAIRS];
	char uri[512];
	int result;

	if (nlegs == 1)
		(void)snprintf(uri, sizeof(uri), "malloc:///bare?size_mb=256&blk_size=4096");
	else
		(void)mirror_uri(uri, sizeof(uri), nlegs, "malloc:///leg", "256M");
	result = open_run(uri, err);
	if (result < 0)
		return result;
	warm();
	for (unsigned i = 0; i < PAIRS; i++) {
		copies[i] = measure_copies(nlegs, MALLOC_IOS, false);
		streamed[i] = measure_copies(nlegs, MALLOC_IOS, true);
		mirror[i] = measure(IO_WRITE, MALLOC_IOS);
		ratio[i] = mirror[i] / copies[i];
	}
	printf("%s%u-write value=%.3f unit=x target=<=:1.15 device %.0f ns, %u copies %.0f ns, "
	       "past the caches %.0f ns\n",
	       nlegs == 1 ? "bare malloc, for comparison: " : "claim nexus-malloc-", nlegs,
	       median(ratio), median(mirror), nlegs, median(copies), median(streamed));
	return close_run(err);
}

static int bench(void *arg, struct err *err)
{
	const char *only = arg;
	int result = 0;

	rng_init(&run.rng, 1);
	bufs = dma_alloc((size_t)QD * BS);
	for (unsigned i = 0; i < LEGS_MAX; i++) {
		region[i] = dma_alloc(REGION);
		if (region[i] == NULL || bufs == NULL)
			return err_set(err, -12, "no memory");
		memset(region[i], 1, REGION);
	}
	rng_fill(&run.rng, bufs, (size_t)QD * BS);
	for (unsigned nlegs = 2; nlegs <= LEGS_MAX && result == 0; nlegs++) {
		if (only == NULL || strcmp(only, "null") == 0)
			result = bench_null(nlegs, err);
	}
	for (unsigned nlegs = 1; nlegs <= LEGS_MAX && result == 0; nlegs++) {
		if (only == NULL || strcmp(only, "malloc") == 0)
			result = bench_malloc(nlegs, err);
	}
	for (unsigned i = 0; i < LEGS_MAX; i++)
		dma_free(region[i], REGION);
	dma_free(bufs, (size_t)QD * BS);
	return result;
}

int main(int argc, char **argv)
{
	struct engine_opts opts = { .reactor.core_mask = 1 };
	struct err err = {};

	if (engine_run(&opts, bench, argc > 1 ? argv[1] : NULL, &err) == 0)
		return 0;
	fprintf(stderr, "nexus: %s\n", err_text(&err));
	return 1;
}
