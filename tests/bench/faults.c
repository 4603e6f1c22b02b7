/* SPDX-License-Identifier: Apache-2.0 */
/*
 * faults.c - what fault injection costs where nothing is injected.
 *
 * A loop of inline reads of a null device, so that all time is the layer's, in short slices that
 * take turns: nothing armed anywhere; armed on another device of the same reactor; and, to have a
 * figure for what arming costs at all, armed on this device for blocks that are not read. The gate
 * word of a channel is looked at in any case, so the second must cost what the first does.
 *
 * Prints lines for tests/bench/run.
 */
#include <stdlib.h>

#include "base/base.h"
#include "device/driver.h"
#include "device/fault.h"
#include "engine.h"
#include "schemes.h"

enum {
	SLICES = 61,
	SLICE_IOS = 400000,
};

enum kind { BARE, ELSEWHERE, HERE, KINDS };

static const char *const injections[] = {
	[ELSEWHERE] = "inject://n1?op=all",
	[HERE] = "inject://n0?op=all&offset=1000&num_blk=1",
};

static double ns_per_io[KINDS][SLICES];

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, unsigned count)
{
	qsort(values, count, sizeof(*values), compare_doubles);
	return values[count / 2];
}

static double slice(struct handle *h)
{
	struct reactor *r = reactor_primary();
	struct io io = { .op = IO_READ, .nlb = 1 };
	static char buf[4096];
	uint64_t start_ns = reactor_clock(r);

	io_set_buf(&io, buf, sizeof(buf));
	for (unsigned i = 0; i < SLICE_IOS; i++) {
		io.lba = i & 511;
		if (io_start(h, &io) != IO_DONE || io.status != IO_OK)
			abort();
	}
	return (double)(reactor_clock(r) - start_ns) / SLICE_IOS;
}

static int measure(struct handle *h, struct err *err) MAY_SUSPEND
{
	for (unsigned i = 0; i < SLICES; i++) {
		for (unsigned n = 0; n < KINDS; n++) {
			enum kind kind = (n + i) % KINDS; /* no kind always comes first */
			int result = 0;

			if (injections[kind] != NULL)
				result = fault_add(injections[kind], err);
			if (result < 0)
				return result;
			ns_per_io[kind][i] = slice(h);
			if (injections[kind] != NULL)
				result = fault_remove(injections[kind], err);
			if (result < 0)
				return result;
			task_yield();
		}
	}
	return 0;
}

static int body(void *arg, struct err *err)
{
	static const char *const uris[] = { "null:///n0?size_mb=1024&blk_size=4096",
					    "null:///n1?size_mb=1024&blk_size=4096" };
	struct device *dev[2];
	struct desc *desc[2];
	struct handle *h[2];
	int result = 0;

	(void)arg;
	drivers_set(scheme_table);
	for (unsigned i = 0; i < 2 && result == 0; i++) {
		result = device_create(uris[i], &dev[i], err);
		if (result == 0)
			result = desc_open(dev[i], &(struct desc_opts){}, &desc[i], err);
		if (result == 0)
			result = handle_open(desc[i], reactor_primary(), &h[i], err);
	}
	if (result < 0)
		return result;
	result = measure(h[0], err);
	desc_close(desc[0]);
	desc_close(desc[1]);
	return result;
}

int main(void)
{
	double ratio[SLICES];
	struct engine_opts opts = { .reactor.core_mask = 0x1 };
	struct err err = {};

	if (engine_run(&opts, body, NULL, &err) < 0) {
		fprintf(stderr, "faults: %s\n", err_text(&err));
		return 1;
	}
	for (unsigned i = 0; i < SLICES; i++)
		ratio[i] = ns_per_io[ELSEWHERE][i] / ns_per_io[BARE][i];
	printf("claim faults-armed-elsewhere value=%.3f unit=x target=<=:1.03 floor=1\n",
	       median(ratio, SLICES));
	printf("nothing armed %.2f ns, armed elsewhere %.2f ns, ", median(ns_per_io[BARE], SLICES),
	       median(ns_per_io[ELSEWHERE], SLICES));
	printf("armed here for other blocks %.2f ns\n", median(ns_per_io[HERE], SLICES));
	return 0;
}
