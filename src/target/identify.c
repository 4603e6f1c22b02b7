// SPDX-License-Identifier: Apache-2.0
/*
 * Identify: what the controller and its namespaces say about themselves.
 *
 *   CNS   answer                                    who asks
 *   00h   namespace: size, format, hints            everyone
 *   01h   controller                                everyone
 *   02h   active namespaces                         Linux at scan
 *   03h   descriptors: NGUID, UUID                  Linux at scan
 *   05h   NVM command set namespace: nothing more   nvme-cli
 *   06h   NVM command set controller: limits        Linux from 5.16 on
 *   07h   active namespaces of a command set        nvme-cli
 *   08h   command set independent namespace         Linux from 6.0 on
 *
 * Nothing is promised that the devices do not do: Compare, Write Zeroes, Dataset Management appear
 * when some namespace can, hints come from the device, atomicity is one block (AWUN, AWUPF, ACWU
 * are 0's based), of a fused compare-and-write what fits into a slot (NACWU).
 *
 * The volatile write cache is told per controller (VWC), once, at connect; namespaces come later. A
 * host that was told "none" will never flush, so a namespace with a cache that joins afterwards
 * gets all its writes with FUA (subsystem.c, said_no_cache).
 *
 * Thread: the primary reactor.
 */
#include <stdlib.h>
#include <string.h>

#include "target/internal.h"

#define MODEL    "Mayastor NVMe controller"
#define FIRMWARE "0.1.0"

enum {
	KAS_UNIT_MS = 100,
	IOCCSZ_UNIT = 16,
	SQES = 0x66, /* required and largest entry: 2^6 */
	CQES = 0x44,
};

/* Fixed-width fields are padded with blanks (Base 1.4.2). */
static void put_text(char *field, size_t size, const char *text)
{
	size_t len = strlen(text);

	memset(field, ' ', size);
	memcpy(field, text, MIN(len, size));
}

static uint8_t mdts(const struct target *target)
{
	return (uint8_t)u64_log2(target->opts.io_size_max / NVME_PAGE_SIZE);
}

/* ---- controller ----------------------------------------------------------------------------- */

/* Operations that some namespace offers, and whether one has a volatile cache. */
static uint32_t subsystem_ops(const struct subsystem *ss, bool *ret_has_cache)
{
	uint32_t ops = 0;

	*ret_has_cache = false;
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		if (ss->ns[i] == NULL)
			continue;
		ops |= ss->ns[i]->cores[0].handle->ops;
		*ret_has_cache |= ss->ns[i]->dev->has_write_cache;
	}
	return ops;
}

static uint32_t subsystem_block_max(const struct subsystem *ss)
{
	uint32_t max = 0;

	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++)
		max = MAX(max, ss->ns[i] != NULL ? ss->ns[i]->dev->block_size : 0);
	return max;
}

static uint16_t oncs(uint32_t ops)
{
	return (uint16_t)((ops & IO_BIT(IO_COMPARE) ? NVME_ONCS_COMPARE : 0) |
			  (ops & IO_BIT(IO_UNMAP) ? NVME_ONCS_DSM : 0) |
			  (ops & IO_BIT(IO_WRITE_ZEROES) ? NVME_ONCS_WRITE_ZEROES : 0) |
			  NVME_ONCS_RESERVATIONS | NVME_ONCS_VERIFY | NVME_ONCS_SAVE_SELECT |
			  NVME_ONCS_TIMESTAMP);
}

/* What only controllers with namespaces have. */
static void fill_io_ctrl(struct nvme_id_ctrl *id, struct subsystem *ss)
{
	const struct target_opts *opts = &ss->target->opts;
	bool has_cache;
	uint32_t ops = subsystem_ops(ss, &has_cache);

	id->cntrltype = NVME_CNTRLTYPE_IO;
	id->cmic = NVME_CMIC_MULTI_PORT | NVME_CMIC_MULTI_CTRL;
	le32_put(&id->oaes, NVME_OAES_NS_ATTR);
	id->acl = 3; /* 0's based */
	le32_put(&id->nn, TARGET_NAMESPACES_MAX);
	le16_put(&id->oncs, oncs(ops));
	if (ops & IO_BIT(IO_COMPARE_WRITE) && subsystem_block_max(ss) <= fused_size_max(opts))
		le16_put(&id->fuses, NVME_FUSES_COMPARE_WRITE);
	id->vwc = (uint8_t)(NVME_VWC_FLUSH_ALL_NO | (has_cache ? NVME_VWC_PRESENT : 0));
	if (!has_cache)
		ss->said_no_cache = true;
	id->frmw = NVME_FRMW_SLOT1_READ_ONLY | NVME_FRMW_ONE_SLOT;
	id->lpa = NVME_LPA_SMART_NS | NVME_LPA_EFFECTS | NVME_LPA_EXTENDED | NVME_LPA_SUPPORTED;
	le32_put(&id->ioccsz,
		 (uint32_t)(sizeof(struct nvme_cmd) + opts->in_capsule_size) / IOCCSZ_UNIT);
	le32_put(&id->iorcsz, sizeof(struct nvme_cqe) / IOCCSZ_UNIT);
	for (size_t i = 0; i < ARRAY_LEN(id->crdt); i++)
		le16_put(&id->crdt[i], opts->crdt[i]);
	ana_identify_ctrl(ss, id);
}

static void identify_ctrl(struct ctrlr *ctrlr, struct cmd *cmd)
{
	struct subsystem *ss = ctrlr->subsystem;
	const struct target *target = ss->target;
	struct nvme_id_ctrl id = {};

	put_text(id.sn, sizeof(id.sn), ss->serial);
	put_text(id.mn, sizeof(id.mn), MODEL);
	put_text(id.fr, sizeof(id.fr), FIRMWARE);
	id.mdts = mdts(target);
	le16_put(&id.cntlid, ctrlr->cntlid);
	le32_put(&id.ver, NVME_VS_2_0);
	le32_put(&id.ctratt, NVME_CTRATT_HOSTID_128 | NVME_CTRATT_TBKAS);
	id.aerl = ADMIN_AER_MAX - 1;
	le16_put(&id.kas, KATO_GRANULARITY_MS / KAS_UNIT_MS);
	id.sqes = SQES;
	id.cqes = CQES;
	le16_put(&id.maxcmd, (uint16_t)target->opts.queue_depth_max);
	id.elpe = ERROR_LOG_MAX - 1;
	le32_put(&id.sgls, NVME_SGLS_SUPPORTED | NVME_SGLS_OFFSET | NVME_SGLS_TRANSPORT);
	(void)snprintf(id.subnqn, sizeof(id.subnqn), "%s", ss->nqn);
	id.msdbd = 1;
	cross_identify(ctrlr, &id);
	if (ss->is_discovery) {
		id.cntrltype = NVME_CNTRLTYPE_DISCOVERY;
		id.lpa = NVME_LPA_EXTENDED;
		le32_put(&id.oaes, NVME_OAES_DISCOVERY);
	} else {
		fill_io_ctrl(&id, ss);
	}
	cmd_reply(cmd, &id, sizeof(id));
	cmd_finish(cmd, 0);
}

static void identify_ctrl_nvm(const struct ctrlr *ctrlr, struct cmd *cmd)
{
	struct nvme_id_ctrl_nvm id = {
		.vsl = mdts(ctrlr->subsystem->target),
		.dmrl = NVME_DSM_RANGES_MAX - 1, /* what fits into the field */
	};

	cmd_reply(cmd, &id, sizeof(id));
	cmd_finish(cmd, 0);
}

/* ---- namespaces ----------------------------------------------------------------------------- */

/* Hints in 0's based blocks; at most what 16 bits hold. */
static struct le16 hint(uint64_t blocks)
{
	return le16_of((uint16_t)(CLAMP(blocks, (uint64_t)1, (uint64_t)65536) - 1));
}

static void identify_ns(const struct ctrlr *ctrlr, struct cmd *cmd)
{
	uint32_t nsid = le32_get(cmd->sqe.nsid);
	const struct ns *ns = subsystem_ns(ctrlr->subsystem, nsid);
	struct nvme_id_ns id = {};
	const struct device *dev;
	uint64_t physical;

	if (nsid == NVME_NSID_ALL) { /* what is common to all: the format, of which there is none */
		cmd_finish(cmd, NVME_SC_INVALID_NAMESPACE);
		return;
	}
	if (ns == NULL) { /* an NSID that is not in use reads as zeroes (Base 5.17.2.1) */
		cmd_reply(cmd, &id, sizeof(id));
		cmd_finish(cmd, nsid == 0 || nsid > TARGET_NAMESPACES_MAX
					? NVME_SC_INVALID_NAMESPACE
					: 0);
		return;
	}
	dev = ns->dev;
	physical = MAX(dev->physical_block_size, dev->block_size) / dev->block_size;
	le64_put(&id.nsze, dev->nblocks);
	le64_put(&id.ncap, dev->nblocks);
	le64_put(&id.nuse, device_used(dev));
	id.nsfeat = (uint8_t)(NVME_NSFEAT_OPTPERF | (dev->is_thin ? NVME_NSFEAT_THIN : 0));
	if (ns->cores[0].handle->ops & IO_BIT(IO_COMPARE_WRITE)) {
		id.nsfeat |= NVME_NSFEAT_ATOMICS;
		id.nacwu = hint(MIN(
			fused_size_max(&ctrlr->subsystem->target->opts) / dev->block_size,
			dev->max_compare_write_nlb != 0 ? dev->max_compare_write_nlb : UINT32_MAX));
	}
	id.npwg = hint(physical);
	id.npwa = hint(physical);
	id.npdg = hint(physical);
	id.npda = hint(physical);
	id.nows = hint(MAX((uint64_t)dev->optimal_io_nlb, physical));
	id.nmic = NVME_NMIC_SHARED;
	id.rescap = resv_capabilities(ns);
	id.dlfeat = (uint8_t)((dev->unmap_reads_zero ? NVME_DLFEAT_READS_ZERO : 0) |
			      (dev->is_thin ? NVME_DLFEAT_WRITE_ZEROES_DEAC : 0));
	id.nsattr = dev->is_read_only ? NVME_NSATTR_WRITE_PROTECTED : 0;
	le64_put((struct le64 *)(void *)id.nvmcap, device_size(dev));
	memcpy(id.nguid, dev->uuid.b, sizeof(id.nguid));
	id.lbaf[0].lbads = dev->block_shift;
	le32_put(&id.anagrpid, ana_identify_group(ns));
	cmd_reply(cmd, &id, sizeof(id));
	cmd_finish(cmd, 0);
}

static void identify_ns_independent(const struct ctrlr *ctrlr, struct cmd *cmd)
{
	const struct ns *ns = subsystem_ns(ctrlr->subsystem, le32_get(cmd->sqe.nsid));
	struct nvme_id_ns_independent id = {};

	if (ns == NULL) {
		cmd_finish(cmd, NVME_SC_INVALID_NAMESPACE);
		return;
	}
	id.nmic = NVME_NMIC_SHARED;
	id.rescap = resv_capabilities(ns);
	id.nsfeat = (uint8_t)((ns->dev->is_rotational ? NVME_NSFEAT2_ROTATIONAL : 0) |
			      (ns->dev->has_write_cache ? 0 : NVME_NSFEAT2_NO_WRITE_CACHE));
	id.nsattr = ns->dev->is_read_only ? NVME_NSATTR_WRITE_PROTECTED : 0;
	id.nstat = NVME_NSTAT_READY;
	le32_put(&id.anagrpid, ana_identify_group(ns));
	cmd_reply(cmd, &id, sizeof(id));
	cmd_finish(cmd, 0);
}

static void identify_ns_desc(const struct ctrlr *ctrlr, struct cmd *cmd)
{
	const struct ns *ns = subsystem_ns(ctrlr->subsystem, le32_get(cmd->sqe.nsid));
	static const uint8_t types[] = { NVME_NIDT_NGUID, NVME_NIDT_UUID };
	uint8_t page[2 * (sizeof(struct nvme_ns_desc) + sizeof(struct uuid))];
	uint8_t *at = page;

	if (ns == NULL) {
		cmd_finish(cmd, NVME_SC_INVALID_NAMESPACE);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		struct nvme_ns_desc desc = { .nidt = types[i], .nidl = sizeof(struct uuid) };

		memcpy(at, &desc, sizeof(desc));
		memcpy(at + sizeof(desc), ns->dev->uuid.b, sizeof(struct uuid));
		at += sizeof(desc) + sizeof(struct uuid);
	}
	cmd_reply(cmd, page, sizeof(page));
	cmd_finish(cmd, 0);
}

static void identify_active(const struct ctrlr *ctrlr, struct cmd *cmd)
{
	uint32_t after = le32_get(cmd->sqe.nsid);
	struct le32 list[NVME_IDENTIFY_SIZE / sizeof(struct le32)] = {};
	unsigned n = 0;

	if (after >= NVME_NSID_ALL - 1) {
		cmd_finish(cmd, NVME_SC_INVALID_NAMESPACE);
		return;
	}
	for (uint64_t nsid = (uint64_t)after + 1;
	     nsid <= TARGET_NAMESPACES_MAX && n < ARRAY_LEN(list); nsid++) {
		if (subsystem_ns(ctrlr->subsystem, (uint32_t)nsid) != NULL)
			list[n++] = le32_of((uint32_t)nsid);
	}
	cmd_reply(cmd, list, sizeof(list));
	cmd_finish(cmd, 0);
}

/* A page of zeroes for a namespace that exists. */
static void identify_nothing(const struct ctrlr *ctrlr, struct cmd *cmd)
{
	if (subsystem_ns(ctrlr->subsystem, le32_get(cmd->sqe.nsid)) == NULL) {
		cmd_finish(cmd, NVME_SC_INVALID_NAMESPACE);
		return;
	}
	cmd_reply(cmd, "", 1);
	cmd_finish(cmd, 0);
}

void identify_execute(struct ctrlr *ctrlr, struct cmd *cmd)
{
	uint8_t cns = (uint8_t)le32_get(cmd->sqe.cdw10);
	uint8_t csi = (uint8_t)(le32_get(cmd->sqe.cdw11) >> 24);
	bool is_discovery = ctrlr->subsystem->is_discovery;

	if (cmd->dir != CMD_C2H || cmd->len < NVME_IDENTIFY_SIZE) {
		cmd_finish(cmd, NVME_SC_DATA_SGL_LENGTH_INVALID);
		return;
	}
	cmd->len = NVME_IDENTIFY_SIZE;
	if (cns == NVME_CNS_CTRL) {
		identify_ctrl(ctrlr, cmd);
		return;
	}
	if (is_discovery || (csi != 0 && cns >= NVME_CNS_CS_NS && cns <= NVME_CNS_CS_ACTIVE_NS)) {
		cmd_finish(cmd, NVME_SC_INVALID_FIELD);
		return;
	}
	switch (cns) {
	case NVME_CNS_NS:
		identify_ns(ctrlr, cmd);
		break;
	case NVME_CNS_ACTIVE_NS:
	case NVME_CNS_CS_ACTIVE_NS:
		identify_active(ctrlr, cmd);
		break;
	case NVME_CNS_NS_DESC:
		identify_ns_desc(ctrlr, cmd);
		break;
	case NVME_CNS_CS_NS:
		identify_nothing(ctrlr, cmd);
		break;
	case NVME_CNS_CS_CTRL:
		identify_ctrl_nvm(ctrlr, cmd);
		break;
	case NVME_CNS_CS_INDEPENDENT_NS:
		identify_ns_independent(ctrlr, cmd);
		break;
	default:
		cmd_finish(cmd, NVME_SC_INVALID_FIELD);
		break;
	}
}
