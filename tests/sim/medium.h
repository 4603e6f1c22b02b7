/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medium.h - what a simulated disk remembers: the platter, the volatile cache in front of it, and
 * what a power cut makes of both.
 *
 * Owner:  the scenario; a medium outlives the devices made from it, as a disk outlives a process.
 * Thread: one.
 * Rules:  a unit of 4 KiB (or one block, where blocks are larger) is written whole or not at all.
 */
#ifndef SIM_MEDIUM_H
#define SIM_MEDIUM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "base/list.h"
#include "device/io.h"

enum {
	MEDIUM_NAME_MAX = 32,
	MEDIUM_BAD_MAX = 8,
};

struct medium_opts {
	const char *name;
	uint64_t nblocks;
	uint64_t nblocks_max; /* room to grow; 0: twice the size */
	uint32_t block_size;
	uint32_t ops;       /* IO_BIT()s the disk takes */
	uint32_t buf_align; /* bytes */
	uint32_t max_io_nlb;
	bool has_write_cache, is_thin, unmap_reads_zero;
	unsigned parallel; /* requests worked on at once */
	uint64_t latency_min_ns, latency_mean_ns;
	unsigned inline_percent; /* requests that end inside submit */
};

struct medium_bad {
	uint64_t lba, nlb;
	uint32_t ops; /* IO_BIT()s that fail there */
	bool heals;   /* until it is written */
};

struct medium {
	char name[MEDIUM_NAME_MAX];
	struct medium_opts opts;
	struct list link;
	uint64_t nblocks;     /* now; at most nblocks_max */
	uint64_t nblocks_max; /* what the platter has room for */
	uint32_t unit;        /* bytes written whole or not at all */
	uint8_t *current;     /* what reads see; owned */
	uint8_t *stable;      /* what survives; owned */
	uint8_t *written;     /* per block: 0 is a hole; owned */
	struct list pieces;   /* of the cache, oldest first */
	unsigned npieces;
	unsigned npieces_max; /* high-water mark */

	struct medium_bad bad[MEDIUM_BAD_MAX];
	unsigned nbad;
	unsigned flush_failures; /* so many next flushes fail */
	unsigned sticky;         /* so many next requests never end by themselves */
	bool is_slow;
	uint64_t capacity; /* blocks that may be written in all; 0: no limit */
	bool is_broken;    /* the scenario is breaking it in some way */
	bool has_power;
	void (*resized)(struct medium *m); /* the scenario's, after every change of nblocks */
	void *owner;                       /* the scenario's */
	unsigned ncuts, nlost;             /* power cuts, pieces lost in them */
};

struct medium *medium_new(const struct medium_opts *opts);
void medium_free(struct medium *m);
struct medium *medium_find(const char *name);
void medium_free_all(void);

/* How many blocks of the range are not written; of the whole disk, how many are. */
uint64_t medium_unwritten(const struct medium *m, uint64_t lba, uint64_t nlb);
uint64_t medium_used(const struct medium *m);
/* Is some block of the range bad for @op? */
bool medium_is_bad(const struct medium *m, unsigned op, uint64_t lba, uint64_t nlb);
void medium_bad_add(struct medium *m, uint64_t lba, uint64_t nlb, uint32_t ops);
/* Blocks that are bad until they are written have been written. */
void medium_heal(struct medium *m, uint64_t lba, uint64_t nlb);

/* Bytes [off, off + len) of the disk lie in one unit. @data NULL: zeroes. */
void medium_store(struct medium *m, uint64_t off, uint32_t len, const void *data, bool is_stable);
/* Bring the cache onto the platter; with @share_percent < 100 a random part of it. */
void medium_flush(struct medium *m, unsigned share_percent);
/* Bring some unit onto the platter, as disks do when they like. */
void medium_destage_one(struct medium *m);
/* The cache is lost but for a random part that made it, in any order. */
void medium_power_cut(struct medium *m);
void medium_power_on(struct medium *m);
/* Grows with zeroes, shrinks; at most nblocks_max. */
void medium_resize(struct medium *m, uint64_t nblocks);

#endif
