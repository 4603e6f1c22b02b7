/* SPDX-License-Identifier: Apache-2.0 */
/* ident: what controllers say, sane and hostile; identities; ANA logs; the choice of paths. */
#include "drivers/nvmf/ident.h"

#include <errno.h>
#include <string.h>

#include "base/tap.h"
#include "drivers/nvmf/queue.h"

#define NQN "nqn.2019-05.io.openebs:t"

static struct nvme_id_ctrl good_ctrl(void)
{
	struct nvme_id_ctrl id = { .mdts = 5,
				   .cntrltype = NVME_CNTRLTYPE_IO,
				   .sqes = 0x66,
				   .cqes = 0x44,
				   .vwc = NVME_VWC_PRESENT,
				   .subnqn = NQN };

	memcpy(id.sn, "SN 1                ", sizeof(id.sn));
	le32_put(&id.nn, 4);
	le32_put(&id.sgls, NVME_SGLS_SUPPORTED);
	le32_put(&id.ioccsz, (64 + 8192) / 16);
	le32_put(&id.iorcsz, 1);
	le16_put(&id.kas, 100);
	return id;
}

static struct nvme_id_ns good_ns(void)
{
	struct nvme_id_ns id = { .lbaf[0].lbads = 9 };

	le64_put(&id.nsze, 1000);
	id.nguid[0] = 7;
	return id;
}

TEST(ctrl_is_read)
{
	struct nvme_id_ctrl id = good_ctrl();
	struct nvmf_ctrl_info info;
	struct err err = {};

	CHECK_EQ(nvmf_ctrl_check(&id, NQN, &info, &err), 0);
	CHECK_STR(info.sn, "SN 1");
	CHECK_EQ(info.data_max, 128 << 10);
	CHECK_EQ(info.capsule_data_max, 8192);
	CHECK(info.has_write_cache && info.has_keep_alive && !info.is_discovery);
	CHECK_EQ(info.nanagrpid, 0);
	CHECK_EQ(info.fuse_nlb, 0);
	le16_put(&id.fuses, 1);
	le16_put(&id.acwu, 0xffff);
	CHECK_EQ(nvmf_ctrl_check(&id, NQN, &info, &err), 0);
	CHECK_EQ(info.fuse_nlb, 0xffff);
}

TEST(ctrl_limits_are_cut_to_ours)
{
	struct nvme_id_ctrl id = good_ctrl();
	struct nvmf_ctrl_info info;
	static const uint8_t huge[] = { 0, 9, 18, 19, 31, 32, 63, 64, 255 };

	for (size_t i = 0; i < ARRAY_LEN(huge); i++) {
		id.mdts = huge[i];
		CHECK_EQ(nvmf_ctrl_check(&id, NQN, &info, NULL), 0);
		CHECK_EQ(info.data_max, QUEUE_DATA_MAX);
	}
	le32_put(&id.ioccsz, UINT32_MAX);
	CHECK_EQ(nvmf_ctrl_check(&id, NQN, &info, NULL), 0);
	CHECK_EQ(info.capsule_data_max, QUEUE_DATA_MAX);
	id.cmic = NVME_CMIC_ANA;
	le32_put(&id.nanagrpid, UINT32_MAX);
	CHECK_EQ(nvmf_ctrl_check(&id, NQN, &info, NULL), 0);
	CHECK_EQ(info.nanagrpid, ANA_GROUPS_MAX);
}

static void check_ctrl_refused(const struct nvme_id_ctrl *id, int result, const char *says)
{
	struct nvmf_ctrl_info info = { .nn = 77 };
	struct err err = {};

	TAP_ROW(says);
	CHECK_EQ(nvmf_ctrl_check(id, NQN, &info, &err), result);
	CHECK_HAS(err.msg, says);
	CHECK_EQ(info.nn, 77); /* untouched */
	TAP_ROW(NULL);
}

TEST(ctrl_nonsense_is_refused)
{
	struct nvme_id_ctrl id = good_ctrl();

	le32_put(&id.ioccsz, 3);
	check_ctrl_refused(&id, -EPROTO, "IOCCSZ");
	id = good_ctrl();
	le32_put(&id.iorcsz, 0);
	check_ctrl_refused(&id, -EPROTO, "IORCSZ");
	id = good_ctrl();
	le16_put(&id.icdoff, 1);
	check_ctrl_refused(&id, -ENOTSUP, "ICDOFF");
	id = good_ctrl();
	id.sqes = 0x77;
	check_ctrl_refused(&id, -ENOTSUP, "SQES");
	id = good_ctrl();
	le32_put(&id.sgls, 0);
	check_ctrl_refused(&id, -EPROTO, "SGL");
	id = good_ctrl();
	le32_put(&id.nn, 0);
	check_ctrl_refused(&id, -ENODEV, "no namespaces");
	id = good_ctrl();
	id.cntrltype = 3;
	check_ctrl_refused(&id, -ENOTSUP, "type 3");
	id = good_ctrl();
	id.subnqn[5] = 'x';
	check_ctrl_refused(&id, -EPROTO, "asked for subsystem");
	id = good_ctrl();
	memset(id.subnqn, 'a', sizeof(id.subnqn));
	check_ctrl_refused(&id, -EPROTO, "no end");
}

TEST(ctrl_texts_do_not_reach_a_terminal_raw)
{
	struct nvme_id_ctrl id = good_ctrl();
	struct nvmf_ctrl_info info;

	memset(id.mn, '\033', sizeof(id.mn));
	CHECK_EQ(nvmf_ctrl_check(&id, NQN, &info, NULL), 0);
	CHECK_EQ(strlen(info.mn), 40);
	CHECK(strchr(info.mn, '\033') == NULL);
}

/* Before NVMe 1.4 no controller said of what type it is: the name that was asked for does. */
TEST(ctrl_without_a_type)
{
	struct nvme_id_ctrl id = good_ctrl();
	struct nvmf_ctrl_info info;

	id.cntrltype = 0;
	CHECK_EQ(nvmf_ctrl_check(&id, NQN, &info, NULL), 0);
	CHECK(!info.is_discovery);
	(void)snprintf(id.subnqn, sizeof(id.subnqn), "%s", NVME_DISCOVERY_NQN);
	le32_put(&id.nn, 0);
	CHECK_EQ(nvmf_ctrl_check(&id, NVME_DISCOVERY_NQN, &info, NULL), 0);
	CHECK(info.is_discovery);
}

/* ---- namespaces --------------------------------------------------------------------------- */

static void check_ns_refused(const struct nvme_id_ns *id, int result, const char *says)
{
	struct nvmf_ns_info info;
	struct err err = {};

	TAP_ROW(says);
	CHECK_EQ(nvmf_ns_check(id, 3, &info, &err), result);
	CHECK_HAS(err.msg, says);
	TAP_ROW(NULL);
}

TEST(ns_is_read)
{
	struct nvme_id_ns id = good_ns();
	struct nvmf_ns_info info;

	id.nlbaf = 63;
	id.flbas = 3 << 5 | 0xf; /* format 63 */
	id.lbaf[63].lbads = 12;
	id.nmic = NVME_NMIC_SHARED;
	id.nsfeat = NVME_NSFEAT_OPTPERF;
	le16_put(&id.npwg, 7);
	CHECK_EQ(nvmf_ns_check(&id, 3, &info, NULL), 0);
	CHECK_EQ(info.block_size, 4096);
	CHECK_EQ(info.nblocks, 1000);
	CHECK_EQ(info.physical_nlb, 8);
	CHECK_EQ(info.fuse_nlb, 0);
	id.nsfeat |= NVME_NSFEAT_ATOMICS;
	le16_put(&id.nacwu, 3);
	CHECK_EQ(nvmf_ns_check(&id, 3, &info, NULL), 0);
	CHECK_EQ(info.fuse_nlb, 4);
	CHECK(info.is_shared && !info.is_read_only);
	CHECK(nvmf_ns_has_identity(&info));
}

/* What the device layer would take for "no limit" must not come out of a quotient. */
TEST(ns_with_blocks_that_cannot_be_transferred)
{
	struct nvmf_ctrl_info info = { .data_max = 8192 };
	struct nvmf_ns_info ns = { .nsid = 3, .block_size = 8192 };
	struct err err = {};

	CHECK_EQ(nvmf_ns_check_fits(&ns, &info, &err), 0);
	ns.block_size = 16384;
	CHECK_EQ(nvmf_ns_check_fits(&ns, &info, &err), -ENOTSUP);
	CHECK_HAS(err.msg, "MDTS");
}

/* Deallocating with Write Zeroes needs both: that it may, and that what was reads zeroes. */
TEST(ns_deallocates_with_zeroes)
{
	struct nvme_id_ns id = good_ns();
	struct nvmf_ns_info info;

	for (unsigned dlfeat = 0; dlfeat < 16; dlfeat++) {
		id.dlfeat = (uint8_t)dlfeat;
		CHECK_EQ(nvmf_ns_check(&id, 3, &info, NULL), 0);
		CHECK_EQ(info.has_wz_deac,
			 dlfeat == (NVME_DLFEAT_READS_ZERO | NVME_DLFEAT_WRITE_ZEROES_DEAC));
	}
}

TEST(ns_nonsense_is_refused)
{
	struct nvme_id_ns id = good_ns();

	le64_put(&id.nsze, 0);
	check_ns_refused(&id, -ENODEV, "not active");
	id = good_ns();
	id.flbas = 1;
	check_ns_refused(&id, -EPROTO, "FLBAS");
	id = good_ns();
	id.nlbaf = 255;
	id.flbas = 0x6f;
	check_ns_refused(&id, -ENOTSUP, "2^0 bytes");
	id = good_ns();
	id.lbaf[0].lbads = 200;
	check_ns_refused(&id, -ENOTSUP, "2^200");
	id = good_ns();
	le16_put(&id.lbaf[0].ms, 8);
	check_ns_refused(&id, -ENOTSUP, "metadata");
	id = good_ns();
	id.dps = 1;
	check_ns_refused(&id, -ENOTSUP, "metadata");
	id = good_ns();
	le64_put(&id.nsze, UINT64_MAX);
	check_ns_refused(&id, -EFBIG, "too many");
}

static int check_desc(const void *list, size_t size, struct nvmf_ns_info *info)
{
	struct err err = {};

	return nvmf_ns_check_desc(list, size, info, &err);
}

TEST(descriptors_are_read_and_bounded)
{
	const uint8_t fine[64] = { NVME_NIDT_EUI64, 8,  0, 0, 1, 2, 3, 4, 5, 6, 7, 8,
				   NVME_NIDT_UUID,  16, 0, 0, 9, 9, 9 };
	const uint8_t short_id[32] = { NVME_NIDT_UUID, 8, 0, 0, 1 };
	const uint8_t overrun[20] = { NVME_NIDT_UUID, 17, 0, 0, 1 };
	const uint8_t other_set[32] = { NVME_NIDT_CSI, 1, 0, 0, 2 };
	const uint8_t twice[64] = { NVME_NIDT_EUI64, 8, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
				    NVME_NIDT_EUI64, 8, 0, 0, 2 };
	const uint8_t unknown[64] = { 99, 5, 0, 0, 1, 1, 1, 1, 1, NVME_NIDT_EUI64, 8, 0, 0, 4 };
	struct nvmf_ns_info info = { .nsid = 1 };

	CHECK_EQ(check_desc(fine, sizeof(fine), &info), 0);
	CHECK_EQ(info.eui64[7], 8);
	CHECK_EQ(info.uuid.b[2], 9);
	info = (struct nvmf_ns_info){};
	CHECK_EQ(check_desc(short_id, sizeof(short_id), &info), -EPROTO);
	CHECK_EQ(check_desc(overrun, sizeof(overrun), &info), -EPROTO);
	CHECK_EQ(check_desc(other_set, sizeof(other_set), &info), -ENOTSUP);
	CHECK_EQ(check_desc(twice, sizeof(twice), &info), -EPROTO);
	info = (struct nvmf_ns_info){};
	CHECK_EQ(check_desc(unknown, sizeof(unknown), &info), 0);
	CHECK_EQ(info.eui64[0], 4);
	/* a page that ends anywhere is read without a step beyond it */
	for (size_t size = 0; size <= sizeof(fine); size++) {
		info = (struct nvmf_ns_info){};
		(void)check_desc(fine, size, &info);
	}
}

TEST(identity_decides_what_is_the_same)
{
	struct nvmf_ns_info a = { .block_size = 512 }, b = { .block_size = 512 };

	CHECK(nvmf_ns_is_same(&a, &b)); /* neither has one: NQN and number must do */
	a.nguid[0] = 1;
	CHECK(!nvmf_ns_is_same(&a, &b)); /* it lost its identity */
	b.nguid[0] = 1;
	CHECK(nvmf_ns_is_same(&a, &b));
	b.uuid.b[0] = 3;
	CHECK(nvmf_ns_is_same(&a, &b)); /* one tells more */
	a.uuid.b[0] = 4;
	CHECK(!nvmf_ns_is_same(&a, &b)); /* one contradicts */
	a.uuid.b[0] = 3;
	b.block_size = 4096;
	CHECK(!nvmf_ns_is_same(&a, &b));
}

/* ---- asymmetric access -------------------------------------------------------------------- */

/* A log with @n groups of which group i + 1 has state i + 1 and i namespaces. */
static size_t make_log(uint8_t *log, unsigned n)
{
	struct nvme_ana_log head = {};
	size_t at = sizeof(head);

	le16_put(&head.groups, (uint16_t)n);
	memcpy(log, &head, sizeof(head));
	for (unsigned i = 0; i < n; i++) {
		struct nvme_ana_group group = { .state = (uint8_t)(0xf0 | (i + 1)) };

		le32_put(&group.group, i + 1);
		le32_put(&group.nsids, i);
		memcpy(log + at, &group, sizeof(group));
		at += sizeof(group) + i * 4;
	}
	return at;
}

TEST(ana_logs_are_read_and_bounded)
{
	uint8_t log[512] = {};
	struct ana_group groups[4];
	size_t size = make_log(log, 3);
	struct nvme_ana_group huge = {};
	struct err err = {};

	CHECK_EQ(ana_parse(log, size, groups, 4, &err), 3);
	CHECK_EQ(ana_state(groups, 3, 1), NVME_ANA_OPTIMIZED);
	CHECK_EQ(ana_state(groups, 3, 2), NVME_ANA_NON_OPTIMIZED);
	CHECK_EQ(ana_state(groups, 3, 9), NVME_ANA_INACCESSIBLE); /* a group nobody told of */
	for (size_t cut = 0; cut < size; cut++)
		CHECK_EQ(ana_parse(log, cut, groups, 4, NULL), -EPROTO);
	CHECK_EQ(ana_parse(log, size, groups, 2, NULL), -E2BIG);
	le32_put(&huge.nsids, UINT32_MAX);
	memcpy(log + sizeof(struct nvme_ana_log), &huge, sizeof(huge));
	CHECK_EQ(ana_parse(log, sizeof(log), groups, 4, NULL), -EPROTO);
}

TEST(paths_are_chosen_by_class)
{
	static const struct {
		const char *name;
		enum path_class classes[4];
		unsigned n;
		uint8_t index[4];
	} rows[] = {
		{ "all optimised",
		  { PATH_OPTIMIZED, PATH_OPTIMIZED, PATH_OPTIMIZED, PATH_OPTIMIZED },
		  4,
		  { 0, 1, 2, 3 } },
		{ "one optimised",
		  { PATH_NON_OPTIMIZED, PATH_OPTIMIZED, PATH_NEVER, PATH_WAIT },
		  1,
		  { 1 } },
		{ "none optimised",
		  { PATH_NON_OPTIMIZED, PATH_WAIT, PATH_NON_OPTIMIZED, PATH_INACCESSIBLE },
		  2,
		  { 0, 2 } },
		{ "none usable",
		  { PATH_NEVER, PATH_WAIT, PATH_INACCESSIBLE, PATH_NEVER },
		  0,
		  { 0 } },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint8_t index[4] = {};

		TAP_ROW(rows[i].name);
		CHECK_EQ(path_choose(rows[i].classes, 4, index), rows[i].n);
		CHECK_MEM(index, rows[i].index, rows[i].n);
	}
	TAP_ROW(NULL);
	CHECK_EQ(path_class_of_ana(NVME_ANA_CHANGE), PATH_WAIT);
	CHECK_EQ(path_class_of_ana(NVME_ANA_PERSISTENT_LOSS), PATH_INACCESSIBLE);
	CHECK_EQ(path_class_of_ana(7), PATH_INACCESSIBLE);
}

TAP_MAIN()
