/* SPDX-License-Identifier: Apache-2.0 */
/* Layouts of replicas, to the block. */
#include "nexus/geometry.h"

#include "base/tap.h"
#include "base/units.h"

TEST(sizes_to_the_block)
{
	static const struct {
		const char *name;
		enum nexus_label label;
		uint64_t child;
		uint32_t block;
		uint64_t size;
		bool is_exact;
		enum geometry_error error;
		uint64_t start, nblocks;
	} rows[] = {
		/* 64 MiB on 64 MiB: lba_end is 131,038 */
		{ "v1 tight", NEXUS_LABEL_V1, 131072, 512, 64 * MIB, false, GEOMETRY_OK, 10240,
		  120798 },
		{ "v1 roomy", NEXUS_LABEL_V1, 200000, 512, 64 * MIB, false, GEOMETRY_OK, 10240,
		  131071 },
		{ "v1 roomy, exact", NEXUS_LABEL_V1, 200000, 512, 64 * MIB, true, GEOMETRY_OK,
		  10240, 131072 },
		{ "v1 tight, exact", NEXUS_LABEL_V1, 131072, 512, 64 * MIB, true,
		  GEOMETRY_TOO_SMALL, 0, 0 },
		{ "v1 4096", NEXUS_LABEL_V1, 16384, 4096, 64 * MIB, false, GEOMETRY_OK, 1280,
		  16384 - 4 - 2 - 1280 },
		{ "v1 4096 roomy", NEXUS_LABEL_V1, 65536, 4096, 64 * MIB, false, GEOMETRY_OK, 1280,
		  16383 },
		{ "v1 smallest", NEXUS_LABEL_V1, 10240 + 34 + 1, 512, 64 * MIB, false, GEOMETRY_OK,
		  10240, 1 },
		{ "v1 too small", NEXUS_LABEL_V1, 10240 + 34, 512, 64 * MIB, false,
		  GEOMETRY_TOO_SMALL, 0, 0 },
		{ "v1 tiny", NEXUS_LABEL_V1, 20, 512, 64 * MIB, false, GEOMETRY_TOO_SMALL, 0, 0 },
		{ "v1 none", NEXUS_LABEL_V1, 0, 512, 64 * MIB, false, GEOMETRY_TOO_SMALL, 0, 0 },
		{ "v1 one block asked", NEXUS_LABEL_V1, 131072, 512, 512, false, GEOMETRY_TOO_SMALL,
		  0, 0 },
		{ "v1 odd size", NEXUS_LABEL_V1, 131072, 512, 1025, false, GEOMETRY_OK, 10240, 2 },
		{ "v1 everything", NEXUS_LABEL_V1, 131072, 512, UINT64_MAX, false, GEOMETRY_OK,
		  10240, 120798 },
		/* a child of whole 4 MiB: data is the child less 8 MiB */
		{ "v2 all", NEXUS_LABEL_V2, 131072, 512, 64 * MIB, false, GEOMETRY_OK, 8192,
		  131072 - 16384 },
		{ "v2 roomy", NEXUS_LABEL_V2, 131072 + 16384, 512, 64 * MIB, false, GEOMETRY_OK,
		  8192, 131072 },
		{ "v2 exact", NEXUS_LABEL_V2, 131072 + 16384, 512, 64 * MIB, true, GEOMETRY_OK,
		  8192, 131072 },
		{ "v2 one short", NEXUS_LABEL_V2, 131072 + 16383, 512, 64 * MIB, true,
		  GEOMETRY_TOO_SMALL, 0, 0 },
		{ "v2 4096", NEXUS_LABEL_V2, 16384, 4096, 8 * MIB, true, GEOMETRY_OK, 1024, 2048 },
		{ "v2 too small", NEXUS_LABEL_V2, 16384, 512, MIB, false, GEOMETRY_TOO_SMALL, 0,
		  0 },
		{ "bad block", NEXUS_LABEL_V2, 131072, 520, MIB, false, GEOMETRY_BLOCK_SIZE, 0, 0 },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct geometry_child child = { rows[i].child, rows[i].block };
		struct geometry g = {};

		TAP_ROW(rows[i].name);
		CHECK_EQ(geometry_of_child(rows[i].label, &child, rows[i].size, rows[i].is_exact,
					   &g),
			 rows[i].error);
		CHECK_EQ(g.data_start, rows[i].start);
		CHECK_EQ(g.nblocks, rows[i].nblocks);
		if (rows[i].error == GEOMETRY_OK)
			CHECK_EQ(g.meta_start * rows[i].block, MIB);
	}
}

TEST(smallest_child_decides)
{
	struct geometry_child children[] = { { 300000, 512 }, { 131072, 512 }, { 300000, 512 } };
	struct geometry g;
	unsigned which = 9;

	CHECK_EQ(geometry_of(NEXUS_LABEL_V1, children, 3, GIB, false, &g, &which), GEOMETRY_OK);
	CHECK_EQ(g.nblocks, 120798);
	CHECK_EQ(g.meta_nlb, 8192);
	children[2].block_size = 4096;
	CHECK_EQ(geometry_of(NEXUS_LABEL_V1, children, 3, GIB, false, &g, &which),
		 GEOMETRY_MIXED_BLOCKS);
	CHECK_EQ(which, 2);
	children[2] = (struct geometry_child){ 100, 512 };
	CHECK_EQ(geometry_of(NEXUS_LABEL_V2, children, 3, GIB, false, &g, NULL),
		 GEOMETRY_TOO_SMALL);
}

TAP_MAIN()
