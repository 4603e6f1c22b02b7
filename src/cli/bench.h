/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench.h - what the parts of `ashlar bench` share.
 *
 *   bench.c         options, the task that opens, starts, waits, closes
 *   bench_worker.c  one device on one reactor: the loop that is measured
 *   bench_verify.c  which generation each unit of a device holds; its file
 *   bench_report.c  text and JSON
 *
 * A *unit* is --bs bytes; a device is addressed in whole units, from its first block on.
 *
 * Owner:  struct bench owns everything; a worker is touched by its reactor only while it runs.
 */
#ifndef ASHLAR_CLI_BENCH_H
#define ASHLAR_CLI_BENCH_H

#include <stdatomic.h>

#include "base/hist.h"
#include "base/pattern.h"
#include "base/rng.h"
#include "cli/open.h"
#include "cli/opt.h"

enum {
	BENCH_DEVICES_MAX = OPT_ARGS_MAX,
	BENCH_BATCH = 64,  /* requests a worker starts in one turn of the reactor */
	BENCH_SAMPLE = 64, /* one exact timing per so many requests that end in submit */
	BENCH_QD_MAX = 4096,
	BENCH_NOTES_MAX = 8,               /* failures a worker remembers with their details */
	BENCH_TICK_NS = 100 * 1000 * 1000, /* bar and interrupt are looked at */
	BENCH_PICK_TRIES = 16,             /* draws for a unit that is free and was written */
	BENCH_GEN_MAX = 0x3fffffff,
};

/* All tables together; 4 bytes per unit, so 256 GiB in units of 4 KiB. */
#define BENCH_TABLE_BYTES_MAX (256ull << 20)

enum bench_rw {
	BENCH_RANDREAD,
	BENCH_RANDWRITE,
	BENCH_READ,
	BENCH_WRITE,
	BENCH_RANDRW,
};

struct bench_opts {
	unsigned rw;    /* enum bench_rw */
	uint64_t rwmix; /* per cent of reads in randrw */
	uint64_t bs, qd, time_ns, ops, cores, rate, seed, interval_ns;
	bool verify, fill;
	unsigned json;
	unsigned poll; /* 0 adaptive, 1 always */
	const char *seed_text;
	const char *state; /* file with the generations; NULL: none */
	struct opt_list inject;
};

/* ---- generations (bench_verify.c) --------------------------------------------------------- */

enum {
	GEN_MASK = BENCH_GEN_MAX,
	GEN_BUSY = 1u << 30,   /* a request on the unit is in flight */
	GEN_UNSURE = 1u << 31, /* writes failed: the generation or one of the next two */
};

/* Which generation each unit holds. Workers own disjoint parts of it while they run. */
struct gen_table {
	uint32_t *gen; /* owned; dma memory; 0: never written */
	uint64_t nunits;
	uint64_t seed; /* of this device's pattern */
};

struct bench;
int gen_tables_make(struct bench *b, struct err *err) WARN_UNUSED;
void gen_tables_free(struct bench *b);
/* Blocking: on the worker pool. */
int gen_tables_load(struct bench *b, const char *path, struct err *err) WARN_UNUSED;
int gen_tables_save(const struct bench *b, const char *path, struct err *err) WARN_UNUSED;

/* ---- workers (bench_worker.c) -------------------------------------------------------------- */

struct bench_slot {
	struct io io;
	struct bench_worker *worker;
	struct bench_slot *next; /* in the list of free ones */
	uint64_t start_ns;
	uint64_t unit;
	uint8_t *buf; /* bs bytes, the worker's */
};

/* A failure worth a line of text. */
struct bench_note {
	bool is_status; /* else a verdict of the pattern */
	uint8_t op;
	uint16_t status;
	uint64_t lba;
	struct pattern_fault fault;
};

struct bench_counts {
	uint64_t ops[2];        /* IO_READ, IO_WRITE: those of BENCH_RUN that ended well */
	uint64_t failed_in_run; /* of the errors, those of BENCH_RUN */
	uint64_t errors;
	uint64_t checked_blocks;
	uint64_t bad_blocks;
	uint64_t verdicts[PATTERN_VERDICT_COUNT_];
	struct hist latency;
};

enum bench_phase {
	BENCH_FILL,  /* --fill: each unit is written once */
	BENCH_RUN,   /* what is measured */
	BENCH_CHECK, /* the pass that reads everything back */
	BENCH_OVER,
};

struct bench_worker {
	/* hot */
	struct handle *handle;
	struct reactor *reactor;
	struct bench_slot *free;
	struct rng rng;
	uint64_t first_unit, nunits; /* of the device, where it draws addresses */
	uint32_t unit_nlb;
	uint32_t sample, weight; /* until the next exact timing; what that counts for */
	uint32_t pending;
	uint32_t read_share; /* of 2^32: chance that a random request reads */
	uint8_t rw;
	uint8_t phase;
	bool is_verifying;
	bool is_plain;      /* random, one operation, not verifying, measured: the short way */
	uint64_t next_unit; /* sequential patterns and whole passes */
	uint64_t ops_left;
	uint64_t end_ns;
	uint64_t clock_turn, now_ns; /* exact clock, read once per turn of the reactor */
	uint64_t clock_cost_ns;
	struct bench_counts counts;

	/* --rate */
	double interval_ns; /* 0: as fast as possible */
	double due_ns;
	struct timer due;

	struct poller poller;
	struct timer wake; /* the end of the time, for devices that do not answer */
	atomic_bool *stop; /* the run's */
	struct gen_table *table;
	struct bench_slot *slots;
	uint8_t *bufs;                    /* qd * bs, owned */
	uint64_t part_first, part_nunits; /* of the device; no two workers have the same */
	uint64_t ops_run;                 /* budget of BENCH_RUN */
	uint64_t bs, start_ns, finish_ns;
	uint32_t qd, block_size;
	struct bench_note notes[BENCH_NOTES_MAX];
	unsigned nnotes;
	struct bench *bench;
	struct bench_device *device;
	struct msg over; /* to the primary: this phase has ended */
};

int worker_init(struct bench_worker *w, struct err *err) WARN_UNUSED;
void worker_done(struct bench_worker *w);
/* On the worker's reactor. */
void worker_start(void *worker);

/* ---- the run (bench.c) --------------------------------------------------------------------- */

struct bench_device {
	struct opened open;
	struct gen_table table;
	struct bench_worker *workers; /* one per reactor, in bench.workers */
	uint64_t nunits;
};

struct bench {
	struct bench_opts opts;
	struct opt_args uris;
	struct bench_device *devices;
	struct opened *paths;         /* URIs that lead to one of them as well */
	struct bench_worker *workers; /* device by device, reactor by reactor */
	unsigned ndevices, npaths, nworkers;
	atomic_bool stop;
	bool was_interrupted;

	unsigned running; /* workers in the present phase; primary's */
	struct task *waiter;

	struct bench_intervals *intervals; /* owned; NULL: not asked for */
	uint64_t start_ns, elapsed_ns, cpu_ns;
};

/* Workers ended their phase: called on the primary by worker->over. */
void bench_worker_over(struct msg *msg);

/* ---- while it runs (bench_interval.c) ------------------------------------------------------ */

struct progress;
/* Without --interval nothing is done. The task. */
int interval_init(struct bench *b, struct err *err) WARN_UNUSED;
/* Every BENCH_TICK_NS of the run that began at @since_ns; @bar makes room for a line. */
void interval_tick(struct bench *b, struct progress *bar, uint64_t since_ns);

/* ---- results (bench_report.c) ---------------------------------------------------------------- */

void bench_sum(const struct bench *b, const struct bench_device *only, struct bench_counts *ret);
/* Print all; false when something failed. */
bool bench_report(const struct bench *b);

#endif
