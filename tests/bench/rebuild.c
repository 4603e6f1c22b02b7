/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rebuild.c - how fast the copy machine of a rebuild is, against a plain copy.
 *
 * Prints lines for tests/bench/run. The plain copy is the floor: a loop of COPY_WINDOW requests of
 * COPY_CHUNK bytes, each a read and then a write of the same blocks, no locks, no map, no questions
 * about holes. Both move all blocks of one device to another of the same kind, in turns, in one
 * process; the copy machine locks its ranges on a third device, as a rebuild does. Elapsed time, as
 * files are copied by the kernel's threads. Destinations are written before, so that no run pays
 * for making memory.
 *
 * Then a child of a mirror of memory devices is rebuilt while hosts write to it, all on one core
 * and with the governor on: what hosts keep, and how fast the rebuild is still.
 *
 *   bench-rebuild [MIB [DIRECTORY]]     size of a device (1024), where its files are made (.)
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/rng.h"
#include "base/units.h"
#include "device/device.h"
#include "engine.h"
#include "nexus/copy.h"
#include "nexus/rebuild.h"
#include "reactor/mem.h"

enum {
	PAIRS = 5,
};

struct side {
	struct device *dev;
	struct desc *desc;
	struct handle *h;
};

static uint64_t mib = 1024;
static const char *directory = ".";
static struct side src, dst, locked;

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* ---- the floor ------------------------------------------------------------------------------ */

static struct plain {
	struct io io[COPY_WINDOW];
	uint64_t next;
	uint32_t nlb;
	unsigned inflight;
	struct task_event ended;
} plain;

static void plain_run(struct io *io, bool has_ended)
{
	for (;;) {
		bool was_read = has_ended && io->op == IO_READ;

		if (has_ended && io->status != IO_OK)
			abort();
		if (!was_read && plain.next >= src.dev->nblocks) {
			if (--plain.inflight == 0)
				task_event_fire(&plain.ended);
			return;
		}
		io->op = was_read ? IO_WRITE : IO_READ;
		if (!was_read) {
			io->lba = plain.next;
			plain.next += plain.nlb;
		}
		if (io_start(was_read ? dst.h : src.h, io) == IO_PENDING)
			return;
		has_ended = true;
	}
}

static void plain_done(struct io *io)
{
	plain_run(io, true);
}

static double plain_copy(uint8_t *bufs) MAY_SUSPEND
{
	uint64_t start = now_ns();

	plain.next = 0;
	plain.nlb = COPY_CHUNK >> src.dev->block_shift;
	plain.inflight = COPY_WINDOW;
	plain.ended = (struct task_event){};
	for (unsigned i = 0; i < COPY_WINDOW; i++) {
		plain.io[i] = (struct io){ .nlb = plain.nlb, .done = plain_done };
		io_set_buf(&plain.io[i], bufs + (size_t)i * COPY_CHUNK, COPY_CHUNK);
		plain_run(&plain.io[i], false);
	}
	task_event_wait(&plain.ended);
	return (double)device_size(src.dev) / (double)(now_ns() - start);
}

/* ---- the machine ---------------------------------------------------------------------------- */

static double machine_copy(void) MAY_SUSPEND
{
	struct copy_opts opts = { .source = { { .desc = src.desc } },
				  .nsources = 1,
				  .dst = dst.desc,
				  .nblocks = src.dev->nblocks,
				  .locked = locked.dev };
	uint64_t start = now_ns(), ns;
	struct copy *copy;
	struct copy_stats stats;
	struct err err = {};

	if (copy_open(&opts, &copy, &err) < 0 || copy_start(copy, &err) < 0 ||
	    copy_wait(copy) != COPY_COMPLETE)
		abort();
	ns = now_ns() - start;
	copy_stats(copy, &stats);
	if (stats.blocks_transferred != src.dev->nblocks)
		abort();
	copy_free(copy);
	return (double)device_size(src.dev) / (double)ns;
}

/* ---- a pair --------------------------------------------------------------------------------- */

static int side_open(struct side *side, const char *uri, struct err *err) MAY_SUSPEND
{
	struct desc_opts opts = { .flags = DESC_WRITE };
	int result = device_create(uri, &side->dev, err);

	if (result == 0)
		result = desc_open(side->dev, &opts, &side->desc, err);
	if (result == 0)
		result = handle_open(side->desc, reactor_primary(), &side->h, err);
	return result;
}

static int side_close(struct side *side, struct err *err) MAY_SUSPEND
{
	desc_close(side->desc);
	return device_remove(side->dev, err);
}

static void fill(const struct side *side, uint8_t *buf, size_t len) MAY_SUSPEND
{
	struct io io = { .op = IO_WRITE, .nlb = (uint32_t)(len >> side->dev->block_shift) };

	io_set_buf(&io, buf, len);
	for (; io.lba + io.nlb <= side->dev->nblocks; io.lba += io.nlb) {
		if (io_wait(side->h, &io) != IO_OK)
			abort();
	}
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int pair(const char *name, const char *from, const char *to, struct err *err) MAY_SUSPEND
{
	size_t len = (size_t)COPY_WINDOW * COPY_CHUNK;
	uint8_t *bufs = dma_alloc(len);
	double ratio[PAIRS], machine[PAIRS], floor[PAIRS];
	char uri[64];
	int result;

	if (bufs == NULL)
		return err_set(err, -12, "no memory");
	memset(bufs, 0x5a, len);
	(void)snprintf(uri, sizeof(uri), "null:///locked?size_mb=%lu", mib);
	result = side_open(&src, from, err);
	if (result == 0)
		result = side_open(&dst, to, err);
	if (result == 0)
		result = side_open(&locked, uri, err);
	if (result < 0)
		return result;
	fill(&src, bufs, len);
	fill(&dst, bufs, len);
	for (unsigned i = 0; i < PAIRS; i++) {
		floor[i] = plain_copy(bufs);
		machine[i] = machine_copy();
		ratio[i] = machine[i] / floor[i];
	}
	qsort(ratio, PAIRS, sizeof(*ratio), by_value);
	qsort(machine, PAIRS, sizeof(*machine), by_value);
	qsort(floor, PAIRS, sizeof(*floor), by_value);
	printf("claim rebuild-speed-%s value=%.3f unit=x target=>=:0.8 copied at %.2f GB/s, "
	       "plain copy at %.2f GB/s\n",
	       name, ratio[PAIRS / 2], machine[PAIRS / 2], floor[PAIRS / 2]);
	dma_free(bufs, len);
	result = side_close(&locked, err);
	if (result == 0)
		result = side_close(&dst, err);
	return result == 0 ? side_close(&src, err) : result;
}

/* ---- beside hosts --------------------------------------------------------------------------- */

enum {
	HOST_QD = 4,
	HOST_BS = 4096,
};

static struct host {
	struct io io[HOST_QD];
	struct rng rng;
	uint64_t nios, nblocks;
	unsigned inflight;
	bool is_over;
	struct task_event ended;
} host;

static void host_next(struct io *io)
{
	if (io->status != IO_OK)
		abort();
	if (host.is_over) {
		if (--host.inflight == 0)
			task_event_fire(&host.ended);
		return;
	}
	host.nios++;
	io->lba = rng_below(&host.rng, host.nblocks);
	io_submit(src.h, io);
}

static void host_start(uint8_t *buf)
{
	rng_init(&host.rng, 1);
	host.is_over = false;
	host.inflight = HOST_QD;
	host.ended = (struct task_event){};
	host.nblocks = src.dev->nblocks;
	for (unsigned i = 0; i < HOST_QD; i++) {
		host.io[i] = (struct io){ .op = IO_WRITE, .nlb = 1, .done = host_next };
		io_set_buf(&host.io[i], buf, HOST_BS);
		host_next(&host.io[i]);
	}
}

/* Requests per second of the hosts with two children, and while one of them is rebuilt. */
static int beside_hosts(struct err *err) MAY_SUSPEND
{
	static const char *const child = "bdev:///leg1";
	uint8_t *buf = dma_alloc((size_t)1 << 20);
	struct nexus_err ne = {};
	uint64_t start, nios;
	double alone, beside;
	struct nexus *nx;
	int result;

	if (buf == NULL)
		return err_set(err, -12, "no memory");
	memset(buf, 0x5a, (size_t)1 << 20);
	result = side_open(&dst, "malloc:///leg1?size_mb=520&blk_size=4096", err);
	if (result < 0)
		return result;
	fill(&dst, buf, (size_t)1 << 16);
	result = side_open(&src,
			   "nexus:///mirror?size=512M&children=bdev:///leg1,"
			   "malloc:///leg0?size_mb=520"
			   "%26blk_size=4096",
			   err);
	if (result < 0)
		return result;
	nx = nexus_of_device(src.dev);
	fill(&src, buf, (size_t)1 << 16);
	host_start(buf);
	nios = host.nios;
	start = now_ns();
	task_sleep(NS_PER_S);
	alone = (double)(host.nios - nios) * 1e9 / (double)(now_ns() - start);
	rebuild_settings_set(&(struct rebuild_settings){ .is_always_full = true });
	if (nexus_child_fault(nx, child, NEXUS_REASON_OFFLINE, &ne) < 0)
		return err_set(err, ne.err.code, "%s", err_text(&ne.err));
	nios = host.nios;
	start = now_ns();
	if (nexus_child_online(nx, child, &ne) < 0)
		return err_set(err, ne.err.code, "%s", err_text(&ne.err));
	nexus_rebuild_wait(nx);
	beside = (double)(host.nios - nios) * 1e9 / (double)(now_ns() - start);
	printf("claim rebuild-beside-hosts value=%.3f unit=x target=>=:0.5 "
	       "hosts wrote %.0f/s alone, "
	       "%.0f/s while a child was rebuilt at %.2f GB/s, one core\n",
	       beside / alone, alone, beside,
	       (double)nexus_rebuild_history(nx, 0)->stats.bytes_per_s / 1e9);
	host.is_over = true;
	task_event_wait(&host.ended);
	dma_free(buf, (size_t)1 << 20);
	result = side_close(&src, err);
	return result == 0 ? side_close(&dst, err) : result;
}

static int bench(void *arg, struct err *err)
{
	char from[4096], to[4096];
	int result;

	(void)arg;
	(void)snprintf(from, sizeof(from), "malloc:///src?size_mb=%lu&blk_size=4096", mib);
	(void)snprintf(to, sizeof(to), "malloc:///dst?size_mb=%lu&blk_size=4096", mib);
	result = pair("malloc", from, to, err);
	(void)snprintf(from, sizeof(from), "uring://%s/bench-rebuild-src?blk_size=4096", directory);
	(void)snprintf(to, sizeof(to), "uring://%s/bench-rebuild-dst?blk_size=4096", directory);
	if (result == 0)
		result = pair("file", from, to, err);
	return result == 0 ? beside_hosts(err) : result;
}

/* The two files, there until the end. */
static int make_files(char path[2][4096])
{
	static const char *const names[] = { "src", "dst" };

	for (unsigned i = 0; i < 2; i++) {
		FILE *f;
		bool is_ok;

		(void)snprintf(path[i], 4096, "%s/bench-rebuild-%s", directory, names[i]);
		f = fopen(path[i], "w");
		if (f == NULL)
			return -1;
		is_ok = ftruncate(fileno(f), (off_t)(mib * MIB)) == 0;
		if (fclose(f) != 0 || !is_ok)
			return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct engine_opts opts = { .reactor.core_mask = 1 };
	static char path[2][4096], cwd[2048];
	struct err err = {};
	int result;

	if (argc > 1)
		mib = strtoull(argv[1], NULL, 10);
	directory = argc > 2 ? argv[2] : getcwd(cwd, sizeof(cwd));
	if (directory == NULL || make_files(path) < 0) {
		perror("rebuild: no files to copy");
		return 1;
	}
	result = engine_run(&opts, bench, NULL, &err);
	(void)unlink(path[0]);
	(void)unlink(path[1]);
	if (result < 0)
		fprintf(stderr, "rebuild: %s\n", err_text(&err));
	return result < 0;
}
