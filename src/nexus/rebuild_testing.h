/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rebuild_testing.h - what the tests of rebuilds and scrubs share: a nexus over memory devices that
 * outlive it, and a store in memory. Included by tests only, in the place of testing.h.
 *
 * Thread: test bodies run as a task on the primary reactor.
 */
#ifndef ASHLAR_NEXUS_REBUILD_TESTING_H
#define ASHLAR_NEXUS_REBUILD_TESTING_H

#include "nexus/nexus_testing.h"
#include "nexus/rebuild.h"

enum {
	MB = 2048, /* blocks */
	NCHILDREN = 4,
};

#define UUID(n) "00000000-0000-4000-8000-00000000000" n

/* Children are names of devices that stay when they are closed, as disks do. */
static const char *const bases[NCHILDREN] = {
	"malloc:///m0?size_mb=32&uuid=" UUID("0"),
	"malloc:///m1?size_mb=32&uuid=" UUID("1"),
	"malloc:///m2?size_mb=32&uuid=" UUID("2"),
	"malloc:///m3?size_mb=32&uuid=" UUID("3"),
};
static const char *const uris[NCHILDREN] = {
	"bdev:///m0?uuid=" UUID("0"),
	"bdev:///m1?uuid=" UUID("1"),
	"bdev:///m2?uuid=" UUID("2"),
	"bdev:///m3?uuid=" UUID("3"),
};

static uint8_t x[1 << 20], y[1 << 20];
static struct nexus_store *store;

/* Made, or made again over what is there. */
static inline bool nexus_make(unsigned nchildren)
{
	struct nexus_opts opts = { .name = "n0",
				   .size = 16 << 20,
				   .children = uris,
				   .nchildren = nchildren,
				   .info_key = "volume",
				   .is_size_required = true };

	CHECK_EQ(uuid_from_text("00000000-0000-4000-8000-0000000000ff", &opts.uuid, NULL), 0);
	return nexus_make_of(&opts);
}

static inline bool all_make(unsigned nchildren)
{
	struct device *dev;

	store = store_memory_new();
	nexus_settings_set(&(struct nexus_settings){ .store = store });
	rebuild_settings_set(&(struct rebuild_settings){});
	for (size_t i = 0; i < NCHILDREN; i++)
		CHECK_EQ(device_create(bases[i], &dev, NULL), 0);
	return nexus_make(nchildren);
}

static inline void nexus_unmake(void)
{
	nexus_unmake_kept();
}

static inline void all_unmake(void)
{
	fault_remove_all();
	nexus_unmake();
	device_remove_all();
	nexus_settings_set(&(struct nexus_settings){});
	store_free(store);
	CHECK_EQ(task_count(), 1); /* this one */
}

static inline struct nexus_child_info child(unsigned i)
{
	return child_info(i);
}

static inline uint16_t base_do(unsigned i, enum io_op op, uint64_t lba, uint32_t nlb, void *buf)
{
	static const char *const names[NCHILDREN] = { "m0", "m1", "m2", "m3" };

	return child_do(names[i], op, lba, nlb, buf);
}

static inline void put(uint64_t lba, uint32_t nlb, unsigned seed)
{
	struct rng rng;

	rng_init(&rng, seed);
	rng_fill(&rng, x, (size_t)nlb * BLOCK);
	CHECK_EQ(do_io(&o, IO_WRITE, lba, nlb, x, 0), IO_OK);
}

static inline void put_all(void)
{
	for (uint64_t lba = 0; lba < NBLOCKS; lba += MB)
		put(lba, MB, (unsigned)lba + 1);
}

/* One block in each of @n segments from @first on. */
static inline void touch(uint32_t first, uint32_t n, unsigned seed)
{
	for (uint32_t seg = first; seg < first + n; seg++)
		put((uint64_t)seg * SEGMENT + seg % SEGMENT, 1, seed + seg);
}

static inline bool are_equal(unsigned a, unsigned b)
{
	for (uint64_t lba = 0; lba < o.dev->nblocks; lba += MB) {
		uint32_t nlb = (uint32_t)MIN((uint64_t)MB, o.dev->nblocks - lba);

		CHECK_EQ(base_do(a, IO_READ, lba + START, nlb, x), IO_OK);
		CHECK_EQ(base_do(b, IO_READ, lba + START, nlb, y), IO_OK);
		if (memcmp(x, y, (size_t)nlb * BLOCK) != 0)
			return false;
	}
	return true;
}

static inline void offline(unsigned i)
{
	offline_uri(uris[i]);
}

static inline void online(unsigned i)
{
	online_uri(uris[i]);
}

/* ---- rebuilds ------------------------------------------------------------------------------- */

/* The one that ended last. */
static inline const struct rebuild_record *last(void)
{
	static const struct rebuild_record none;
	const struct rebuild_record *record = nexus_rebuild_history(nx, 0);

	return CHECK(record != NULL) ? record : &none;
}

/* Slow enough to be met while it runs. */
static inline void slow(void)
{
	rebuild_settings_set(&(struct rebuild_settings){ .rate = 40 << 20 });
}

static inline void fast(void)
{
	rebuild_settings_set(&(struct rebuild_settings){});
}

static inline void until_it_moves(const char *uri)
{
	struct rebuild_stats stats = {};

	while (nexus_rebuild_stats(nx, uri, &stats, NULL) == 0 && stats.blocks_transferred == 0)
		task_yield();
	CHECK(stats.blocks_transferred > 0);
}

#endif
