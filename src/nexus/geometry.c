/* SPDX-License-Identifier: Apache-2.0 */
/*
 * geometry.c - the two layouts of a replica, as they are on disks that exist.
 *
 *   V1   0       1 MiB            5 MiB                                   N-34      N
 *        | GPT   | metadata 4 MiB | data ...                             | | GPT    |
 *        | none  | ours: records  |                             end, excl.|
 *
 *   V2   0       1 MiB     4 MiB                              N - 4 MiB              N
 *        | GPT   | meta 3  | data ...                         | unused, GPT          |
 *
 * Nothing was ever written into the reserved areas by the engine that these layouts come from; it
 * kept them free for a partition table and for metadata of older versions. We keep our write-intent
 * records in the metadata part (intent.h).
 *
 * V1, in blocks of b bytes, n blocks of a child, req bytes asked:
 *
 *   lba_end    = n - ceil(16 KiB / b) - 2
 *   data_start = ceil(1 MiB / b) + ceil(4 MiB / b)
 *   child_end  = min(data_start + ceil(req / b) - 1, lba_end)
 *   blocks     = min over children(child_end) - data_start
 *
 * The last line takes an inclusive end for an exclusive one, so a volume is one block shorter than
 * asked. Volumes have that size since they were made, so it stays. Who insists on the exact size
 * (is_exact) gets it where lba_end leaves room for it.
 *
 * V2 has no such slip: min(ceil(req / b), n - 8 MiB / b) blocks from 4 MiB on.
 *
 * Overflow: sizes are below 2^63 bytes (device_register() sees to it for children), what is asked
 * may be anything and is clipped before it is added to something.
 */
#include "nexus/geometry.h"

#include "base/units.h"

enum {
	GPT_ENTRIES_BYTES = 16 << 10, /* 128 entries of 128 bytes (UEFI 2.10, 5.3.2) */
	GPT_TAIL_BLOCKS = 2,          /* the backup header, and one more that is lost */
	BLOCK_SIZE_MIN = 512,
	BLOCK_SIZE_MAX = 65536,
};

#define META_START (1 * MIB)
#define V1_START   (5 * MIB)
#define V2_START   (4 * MIB)
#define V2_TAIL    (4 * MIB)

/* Blocks of data that @child has room for; false: none at all. */
static bool usable(enum nexus_label label, const struct geometry_child *child, uint64_t *ret_start,
		   uint64_t *ret_nblocks)
{
	uint64_t b = child->block_size, start, tail;

	if (label == NEXUS_LABEL_V1) {
		start = DIV_ROUND_UP(META_START, b) + DIV_ROUND_UP(V1_START - META_START, b);
		tail = DIV_ROUND_UP((uint64_t)GPT_ENTRIES_BYTES, b) + GPT_TAIL_BLOCKS;
	} else {
		start = DIV_ROUND_UP(V2_START, b);
		tail = DIV_ROUND_UP(V2_TAIL, b);
	}
	if (child->nblocks <= start + tail)
		return false;
	*ret_start = start;
	*ret_nblocks = child->nblocks - tail - start;
	return true;
}

enum geometry_error geometry_of_child(enum nexus_label label, const struct geometry_child *child,
				      uint64_t size, bool is_exact, struct geometry *ret)
{
	uint64_t start, room, asked, nblocks;

	if (!is_pow2(child->block_size) || child->block_size < BLOCK_SIZE_MIN ||
	    child->block_size > BLOCK_SIZE_MAX)
		return GEOMETRY_BLOCK_SIZE;
	if (!usable(label, child, &start, &room))
		return GEOMETRY_TOO_SMALL;
	asked = DIV_ROUND_UP(size, (uint64_t)child->block_size);
	nblocks = asked;
	if (label == NEXUS_LABEL_V1 && !is_exact)
		nblocks = asked > 0 ? asked - 1 : 0; /* the block that V1 loses */
	if (is_exact && nblocks > room)
		return GEOMETRY_TOO_SMALL;
	nblocks = MIN(nblocks, room);
	if (nblocks == 0)
		return GEOMETRY_TOO_SMALL;
	*ret = (struct geometry){
		.data_start = start,
		.nblocks = nblocks,
		.meta_start = DIV_ROUND_UP(META_START, (uint64_t)child->block_size),
	};
	ret->meta_nlb = start - ret->meta_start;
	return GEOMETRY_OK;
}

enum geometry_error geometry_of(enum nexus_label label, const struct geometry_child *children,
				unsigned count, uint64_t size, bool is_exact, struct geometry *ret,
				unsigned *ret_child)
{
	struct geometry all = {}, one;
	enum geometry_error error = GEOMETRY_OK;

	for (unsigned i = 0; i < count; i++) {
		if (ret_child != NULL)
			*ret_child = i;
		if (children[i].block_size != children[0].block_size)
			return GEOMETRY_MIXED_BLOCKS;
		error = geometry_of_child(label, &children[i], size, is_exact, &one);
		if (error != GEOMETRY_OK)
			return error;
		if (i == 0 || one.nblocks < all.nblocks)
			all = one;
	}
	*ret = all;
	return error;
}
