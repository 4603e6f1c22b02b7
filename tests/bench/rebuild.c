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
 * Then a child of a mirror of memory devices is rebuilt while hosts write 4 KiB to it, all on one
 * core and with the governor on: what hosts keep, and how fast the rebuild is still. Once they
 * write as fast as four requests in flight can: that is what the governor takes from them, as there
 * is no core to spare. Once they write at half that rate, sent whether or not what came before has
 * been answered: that is how long they wait. A rebuild without hosts and hosts without a rebuild
 * take turns with both. A wait of milliseconds is the scheduler's, not ours: the machine was busy.
 *
 *   bench-rebuild [MIB [DIRECTORY]]     size of a device (1024), where its files are made (.)
 *
 * The figures are those of 4 GiB: tests/bench/run --mib 4096 rebuild. It takes 8 GiB of
 * memory and of disk.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/hist.h"
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

static double median(double *values)
{
	qsort(values, PAIRS, sizeof(*values), by_value);
	return values[PAIRS / 2];
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
	printf("claim rebuild-speed-%s value=%.3f unit=x target=>=:0.8 %lu MiB copied at "
	       "%.2f GB/s, plain copy at %.2f GB/s\n",
	       name, median(ratio), mib, median(machine), median(floor));
	dma_free(bufs, len);
	result = side_close(&locked, err);
	if (result == 0)
		result = side_close(&dst, err);
	return result == 0 ? side_close(&src, err) : result;
}

/* ---- beside hosts --------------------------------------------------------------------------- */

enum {
	HOST_QD = 4,        /* of hosts that write as fast as they can */
	HOST_SLOTS = 64,    /* of hosts that write at a rate */
	HOST_BS = 4096,     /* bytes */
	HOST_MS = 300,      /* how long they are watched without a rebuild */
	HOST_PAUSE_MS = 80, /* before that; who never sleeps is put to sleep by the scheduler */
	HOST_RATE_PART = 2  /* the rate is this part of what they can do */
};

struct host_slot {
	struct io io;
	uint64_t due_ns; /* from here on it waits */
	struct host_slot *next;
};

static struct host {
	struct host_slot slot[HOST_SLOTS], *free;
	struct rng rng;
	double due_ns, interval_ns; /* 0: as fast as they can */
	uint64_t nios;
	unsigned inflight;
	bool is_over;
	struct hist waits;
	struct poller poller;
	struct task_event ended;
} host;

/* What hosts saw in one stretch, and how fast a child was rebuilt in it, if one was. */
struct seen {
	double rate, p50_us, p99_us, gb_per_s;
};

static void host_write(struct host_slot *slot, uint64_t due_ns)
{
	host.inflight++;
	slot->due_ns = due_ns;
	slot->io.lba = rng_below(&host.rng, src.dev->nblocks);
	io_submit(src.h, &slot->io);
}

static void host_done(struct io *io)
{
	struct host_slot *slot = container_of(io, struct host_slot, io);
	uint64_t now = now_ns();

	if (io->status != IO_OK)
		abort();
	host.nios++;
	host.inflight--;
	hist_add(&host.waits, now - slot->due_ns, 1);
	if (!host.is_over && host.interval_ns == 0) {
		host_write(slot, now);
		return;
	}
	slot->next = host.free;
	host.free = slot;
	if (host.is_over && host.inflight == 0)
		task_event_fire(&host.ended);
}

/* At a rate, whether or not what was sent before has been answered: who is late has waited. */
static unsigned host_poll(struct poller *poller)
{
	double now = (double)now_ns();
	unsigned n = 0;

	(void)poller;
	for (; host.free != NULL && host.due_ns <= now; n++) {
		struct host_slot *slot = host.free;

		host.free = slot->next;
		host_write(slot, (uint64_t)host.due_ns);
		host.due_ns += host.interval_ns;
	}
	return n;
}

static bool host_arm(struct poller *poller)
{
	(void)poller;
	return false;
}

static void host_start(uint8_t *buf, double rate)
{
	unsigned nslots = rate == 0 ? HOST_QD : HOST_SLOTS;

	host = (struct host){ .interval_ns = rate == 0 ? 0 : 1e9 / rate,
			      .due_ns = (double)now_ns(),
			      .poller = { .poll = host_poll, .arm = host_arm } };
	rng_init(&host.rng, 1);
	for (unsigned i = 0; i < nslots; i++) {
		struct host_slot *slot = &host.slot[i];

		slot->io = (struct io){ .op = IO_WRITE, .nlb = 1, .done = host_done };
		io_set_buf(&slot->io, buf + (size_t)i * HOST_BS, HOST_BS);
		slot->next = host.free;
		host.free = slot;
	}
	while (rate == 0 && host.free != NULL) {
		struct host_slot *slot = host.free;

		host.free = slot->next;
		host_write(slot, now_ns());
	}
	if (rate != 0)
		poller_start(reactor_primary(), &host.poller);
}

static void host_stop(void) MAY_SUSPEND
{
	if (host.interval_ns != 0)
		poller_stop(reactor_primary(), &host.poller);
	host.is_over = true;
	if (host.inflight > 0)
		task_event_wait(&host.ended);
}

/* One child out and in again, all of it; GB/s. */
static double rebuild(struct nexus *nx) MAY_SUSPEND
{
	static const char *const child = "bdev:///leg1";
	struct nexus_err ne = {};

	if (nexus_child_online(nx, child, &ne) < 0)
		abort();
	nexus_rebuild_wait(nx);
	return (double)nexus_rebuild_history(nx, 0)->stats.bytes_per_s / 1e9;
}

/*
 * Hosts at @rate (0: as fast as they can) for HOST_MS, then while a child is rebuilt. The child is
 * out before the hosts come, so that the time between is nobody's.
 */
static void watch(struct nexus *nx, uint8_t *buf, double rate, struct seen *alone,
		  struct seen *beside) MAY_SUSPEND
{
	struct nexus_err ne = {};

	for (unsigned with = 0; with < 2; with++) {
		struct seen *seen = with ? beside : alone;
		uint64_t start, nios;

		if (with && nexus_child_fault(nx, "bdev:///leg1", NEXUS_REASON_OFFLINE, &ne) < 0)
			abort();
		task_sleep(HOST_PAUSE_MS * 1000000ull);
		if (device_stats_reset(src.dev) < 0) /* the governor learns what is normal now */
			abort();
		host_start(buf, rate);
		task_sleep(HOST_MS * 1000000ull / 10);
		hist_reset(&host.waits);
		nios = host.nios;
		start = now_ns();
		if (with)
			seen->gb_per_s = rebuild(nx);
		else
			task_sleep(HOST_MS * 1000000ull);
		seen->rate = (double)(host.nios - nios) * 1e9 / (double)(now_ns() - start);
		seen->p50_us = (double)hist_percentile(&host.waits, 0.5) / 1e3;
		seen->p99_us = (double)hist_percentile(&host.waits, 0.99) / 1e3;
		host_stop();
	}
}

#define SEEN_MEDIAN(seen, field)                        \
	({                                              \
		double values_[PAIRS];                  \
		for (unsigned i_ = 0; i_ < PAIRS; i_++) \
			values_[i_] = (seen)[i_].field; \
		median(values_);                        \
	})

static void beside_report(const struct seen seen[4][PAIRS], const double *unloaded)
{
	const struct seen *alone = seen[0], *beside = seen[1], *calm = seen[2], *paced = seen[3];
	double ratio[PAIRS], idle[PAIRS];

	for (unsigned i = 0; i < PAIRS; i++) {
		ratio[i] = beside[i].rate / alone[i].rate;
		idle[i] = unloaded[i];
	}
	printf("claim rebuild-beside-hosts value=%.3f unit=x target=>=:0.5 "
	       "hosts wrote %.0f/s alone, %.0f/s while a child was rebuilt at %.2f GB/s, "
	       "%.2f without hosts\n",
	       median(ratio), SEEN_MEDIAN(alone, rate), SEEN_MEDIAN(beside, rate),
	       SEEN_MEDIAN(beside, gb_per_s), median(idle));
	printf("hosts as fast as they can: wait p50 %.1f p99 %.1f us alone, %.1f and %.1f beside\n",
	       SEEN_MEDIAN(alone, p50_us), SEEN_MEDIAN(alone, p99_us), SEEN_MEDIAN(beside, p50_us),
	       SEEN_MEDIAN(beside, p99_us));
	printf("hosts at %.0f/s: wait p50 %.1f p99 %.1f us alone, %.1f and %.1f beside a rebuild "
	       "at %.2f GB/s, which left them %.0f/s\n",
	       SEEN_MEDIAN(calm, rate), SEEN_MEDIAN(calm, p50_us), SEEN_MEDIAN(calm, p99_us),
	       SEEN_MEDIAN(paced, p50_us), SEEN_MEDIAN(paced, p99_us), SEEN_MEDIAN(paced, gb_per_s),
	       SEEN_MEDIAN(paced, rate));
}

static int beside_hosts(struct err *err) MAY_SUSPEND
{
	size_t len = (size_t)HOST_SLOTS * HOST_BS;
	uint8_t *buf = dma_alloc(len);
	struct seen seen[4][PAIRS];
	double unloaded[PAIRS];
	struct nexus_err ne = {};
	struct nexus *nx;
	char uri[256];
	int result;

	if (buf == NULL)
		return err_set(err, -12, "no memory");
	memset(buf, 0x5a, len);
	(void)snprintf(uri, sizeof(uri), "malloc:///leg1?size_mb=%lu&blk_size=4096", mib + 8);
	result = side_open(&dst, uri, err);
	if (result < 0)
		return result;
	fill(&dst, buf, (size_t)1 << 16);
	(void)snprintf(uri, sizeof(uri),
		       "nexus:///mirror?size=%luM&children=bdev:///leg1,"
		       "malloc:///leg0?size_mb=%lu%%26blk_size=4096",
		       mib, mib + 8);
	result = side_open(&src, uri, err);
	if (result < 0)
		return result;
	nx = nexus_of_device(src.dev);
	fill(&src, buf, (size_t)1 << 16);
	rebuild_settings_set(&(struct rebuild_settings){ .is_always_full = true });
	for (unsigned i = 0; i < PAIRS; i++) {
		if (nexus_child_fault(nx, "bdev:///leg1", NEXUS_REASON_OFFLINE, &ne) < 0)
			abort();
		unloaded[i] = rebuild(nx);
		watch(nx, buf, 0, &seen[0][i], &seen[1][i]);
		watch(nx, buf, seen[0][i].rate / HOST_RATE_PART, &seen[2][i], &seen[3][i]);
	}
	beside_report(seen, unloaded);
	dma_free(buf, len);
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
