/* SPDX-License-Identifier: Apache-2.0 */
/*
 * geometry.h - where a nexus puts its blocks inside each child. Pure functions, no state.
 *
 * Owner:  nobody.
 * Thread: any.
 * Rules:  numbers are those of the disks that exist: a replica that another engine of this layout
 *         wrote is read at the same place, to the block. geometry.c has the picture.
 */
#ifndef ASHLAR_NEXUS_GEOMETRY_H
#define ASHLAR_NEXUS_GEOMETRY_H

#include "base/base.h"

enum nexus_label {
	NEXUS_LABEL_V1 = 1, /* data from 5 MiB on */
	NEXUS_LABEL_V2 = 2, /* data from 4 MiB on, in whole 4 MiB where the child is */
};

enum geometry_error {
	GEOMETRY_OK,
	GEOMETRY_TOO_SMALL,   /* no room for the reserved areas, or for the size that is required */
	GEOMETRY_BLOCK_SIZE,  /* not a power of two from 512 to 65,536 */
	GEOMETRY_MIXED_BLOCKS /* children with different block sizes */
};

/* One child. */
struct geometry_child {
	uint64_t nblocks;
	uint32_t block_size; /* bytes */
};

/* What the nexus gets, in blocks of its children. */
struct geometry {
	uint64_t data_start; /* block of a child that is block 0 of the nexus */
	uint64_t nblocks;    /* of the nexus */
	uint64_t meta_start; /* first block of the area for write-intent records */
	uint64_t meta_nlb;   /* blocks of it */
};

/*
 * For one child: how many blocks a nexus of @size bytes can have on it. @is_exact: @size or
 * nothing; otherwise what fits is taken. *ret is untouched on failure.
 */
enum geometry_error geometry_of_child(enum nexus_label label, const struct geometry_child *child,
				      uint64_t size, bool is_exact,
				      struct geometry *ret) WARN_UNUSED;

/*
 * For all children: the smallest decides. *ret_child, if not NULL, is the index of the child that
 * an error is about.
 */
enum geometry_error geometry_of(enum nexus_label label, const struct geometry_child *children,
				unsigned count, uint64_t size, bool is_exact, struct geometry *ret,
				unsigned *ret_child) WARN_UNUSED;

#endif
