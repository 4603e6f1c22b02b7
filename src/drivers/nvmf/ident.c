/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ident.c - the border where a controller's pages become numbers.
 *
 * A target is no more to be trusted than a host. What it says about sizes decides how much memory
 * is touched and how commands are cut, so every number is checked here against what we could do
 * with it: a capsule smaller than a command, a transfer limit of 2^40 pages, a block of 2^200
 * bytes, a log that claims more groups than it has bytes. What makes no sense ends the attempt
 * with a sentence that names the field; what is merely larger than we need is cut down.
 *
 * Identity. A namespace is known by UUID, NGUID and EUI64, whatever of them it has. Two pages speak
 * of the same medium when no identifier that both have differs and they share at least one, or
 * when neither has any (then the caller has only NQN and number to go by). A block size that
 * changed is another medium.
 *
 * Choice of paths. Optimised ones if there is one, else non-optimised; never one that is
 * inaccessible or about to change (Base 8.1, figures "ANA states").
 *
 * Thread: any; pure functions.
 */
#include "drivers/nvmf/ident.h"

#include <errno.h>
#include <string.h>

#include "drivers/nvmf/queue.h"

enum {
	CAPSULE_UNIT = 16, /* bytes, of IOCCSZ and IORCSZ (Base 5.17.2.1) */
	CAPSULE_MAX = 64 + QUEUE_DATA_MAX,
	MDTS_SHIFT_MAX = 19, /* 2^19 pages are 2 GiB: no limit for us */
	LBADS_MIN = 9,       /* 512 bytes */
	LBADS_MAX = 16,      /* 64 KiB, the device layer's limit */
};

/* A field padded with blanks, as text; what a terminal should not see becomes a question mark. */
static void text_of(char *to, const char *from, size_t len)
{
	while (len > 0 && (from[len - 1] == ' ' || from[len - 1] == '\0'))
		len--;
	for (size_t i = 0; i < len; i++)
		to[i] = from[i] >= ' ' && from[i] < 0x7f ? from[i] : '?';
	to[len] = '\0';
}

static int check_capsules(const struct nvme_id_ctrl *id, struct nvmf_ctrl_info *info,
			  struct err *err)
{
	uint64_t capsule = (uint64_t)le32_get(id->ioccsz) * CAPSULE_UNIT;
	uint64_t response = (uint64_t)le32_get(id->iorcsz) * CAPSULE_UNIT;

	if (capsule < sizeof(struct nvme_cmd) || response < sizeof(struct nvme_cqe))
		return err_set(err, -EPROTO,
			       "the controller says that a command has %lu bytes and an answer "
			       "%lu: it makes no sense (IOCCSZ, IORCSZ)",
			       capsule, response);
	if (le16_get(id->icdoff) != 0)
		return err_set(err, -ENOTSUP,
			       "the controller wants data %u units behind the command (ICDOFF), "
			       "which NVMe/TCP does not have",
			       le16_get(id->icdoff));
	capsule = MIN(capsule, (uint64_t)CAPSULE_MAX);
	info->capsule_data_max = (uint32_t)(capsule - sizeof(struct nvme_cmd));
	return 0;
}

static int check_io(const struct nvme_id_ctrl *id, struct nvmf_ctrl_info *info, struct err *err)
{
	int result = check_capsules(id, info, err);

	if (result < 0)
		return result;
	if ((id->sqes & 0xf) > 6 || (id->cqes & 0xf) > 4)
		return err_set(err, -ENOTSUP,
			       "the controller wants queue entries larger than 64 and 16 bytes "
			       "(SQES %#x, CQES %#x)",
			       id->sqes, id->cqes);
	if ((le32_get(id->sgls) & 3) == 0)
		return err_set(err, -EPROTO,
			       "the controller knows no SGLs, without which there are no fabrics");
	info->nn = le32_get(id->nn);
	if (info->nn == 0)
		return err_set(err, -ENODEV, "the controller has no namespaces (NN 0)");
	return 0;
}

static void read_ana(const struct nvme_id_ctrl *id, struct nvmf_ctrl_info *info)
{
	if (!(id->cmic & NVME_CMIC_ANA))
		return;
	info->nanagrpid = MIN(le32_get(id->nanagrpid), (uint32_t)ANA_GROUPS_MAX);
	info->anatt_s = id->anatt;
}

int nvmf_ctrl_check(const struct nvme_id_ctrl *id, const char *subnqn,
		    struct nvmf_ctrl_info *ret_info, struct err *err)
{
	struct nvmf_ctrl_info info = { .data_max = QUEUE_DATA_MAX };
	int result = 0;

	text_of(info.sn, id->sn, sizeof(id->sn));
	text_of(info.mn, id->mn, sizeof(id->mn));
	text_of(info.fr, id->fr, sizeof(id->fr));
	info.is_discovery = id->cntrltype == NVME_CNTRLTYPE_DISCOVERY ||
			    (id->cntrltype == 0 && strcmp(subnqn, NVME_DISCOVERY_NQN) == 0);
	if (memchr(id->subnqn, '\0', sizeof(id->subnqn)) == NULL)
		return err_set(err, -EPROTO, "the controller's subsystem name has no end");
	if (!info.is_discovery && strcmp(id->subnqn, subnqn) != 0)
		return err_set(err, -EPROTO,
			       "asked for subsystem %.100s, got a controller of '%.100s'", subnqn,
			       id->subnqn);
	if (id->cntrltype > NVME_CNTRLTYPE_DISCOVERY)
		return err_set(err, -ENOTSUP, "the controller is of type %u: no I/O through it",
			       id->cntrltype);
	if (!info.is_discovery)
		result = check_io(id, &info, err);
	if (result < 0)
		return result;
	if (id->mdts != 0 && id->mdts < MDTS_SHIFT_MAX)
		info.data_max = MIN(info.data_max, (uint32_t)NVME_PAGE_SIZE << id->mdts);
	info.oaes = le32_get(id->oaes);
	info.ccrl = id->ccrl;
	info.ciu = id->ciu;
	info.cirn = le64_get(id->cirn);
	info.oncs = le16_get(id->oncs);
	info.aerl = id->aerl;
	if (le16_get(id->fuses) & NVME_FUSES_COMPARE_WRITE)
		info.fuse_nlb = (uint16_t)MIN(le16_get(id->acwu) + 1u, 0xffffu);
	info.has_write_cache = id->vwc & NVME_VWC_PRESENT;
	info.has_keep_alive = le16_get(id->kas) != 0 || info.is_discovery;
	info.has_tbkas = le32_get(id->ctratt) & NVME_CTRATT_TBKAS;
	for (unsigned i = 0; i < ARRAY_LEN(info.crdt); i++)
		info.crdt[i] = le16_get(id->crdt[i]);
	read_ana(id, &info);
	*ret_info = info;
	return 0;
}

void nvmf_ctrl_check_nvm(const struct nvme_id_ctrl_nvm *id, struct nvmf_ctrl_info *info)
{
	if (id->wzsl != 0 && id->wzsl < MDTS_SHIFT_MAX)
		info->wz_max = (uint64_t)NVME_PAGE_SIZE << id->wzsl;
	info->dsm_range_max = le32_get(id->dmrsl);
	info->dsm_max = le64_get(id->dmsl);
}

/* ---- namespaces --------------------------------------------------------------------------- */

int nvmf_ns_check_fits(const struct nvmf_ns_info *ns, const struct nvmf_ctrl_info *info,
		       struct err *err)
{
	if (info->data_max >= ns->block_size)
		return 0;
	return err_set(err, -ENOTSUP,
		       "namespace %u has blocks of %u bytes, its controller transfers at most %u: "
		       "it makes no sense (MDTS, LBADS)",
		       ns->nsid, ns->block_size, info->data_max);
}

static int check_format(const struct nvme_id_ns *id, struct nvmf_ns_info *info, struct err *err)
{
	unsigned index = id->flbas & NVME_LBAF_FIRST_BITS;
	const struct nvme_lbaf *f;

	if (id->nlbaf > 15)
		index |= (unsigned)(id->flbas >> 5 & 3) << 4;
	if (index > id->nlbaf || index >= ARRAY_LEN(id->lbaf))
		return err_set(err, -EPROTO,
			       "namespace %u has format %u of %u: it makes no sense (FLBAS)",
			       info->nsid, index, id->nlbaf + 1);
	f = &id->lbaf[index];
	if (f->lbads < LBADS_MIN || f->lbads > LBADS_MAX)
		return err_set(err, -ENOTSUP,
			       "namespace %u has blocks of 2^%u bytes; 512 bytes to 64 KiB are "
			       "possible",
			       info->nsid, f->lbads);
	if (le16_get(f->ms) != 0 || (id->dps & 7) != 0)
		return err_set(err, -ENOTSUP,
			       "namespace %u is formatted with %u bytes of metadata per block, "
			       "which is not supported: format it without (nvme format --ms=0)",
			       info->nsid, le16_get(f->ms));
	info->block_size = 1u << f->lbads;
	return 0;
}

int nvmf_ns_check(const struct nvme_id_ns *id, uint32_t nsid, struct nvmf_ns_info *ret_info,
		  struct err *err)
{
	struct nvmf_ns_info info = { .nsid = nsid, .nblocks = le64_get(id->nsze) };
	uint64_t bytes;
	int result;

	if (info.nblocks == 0)
		return err_set(err, -ENODEV, "namespace %u is not active", nsid);
	result = check_format(id, &info, err);
	if (result < 0)
		return result;
	if (!u64_mul(info.nblocks, info.block_size, &bytes) || bytes > INT64_MAX)
		return err_set(err, -EFBIG, "namespace %u has %lu blocks of %u bytes: too many",
			       nsid, info.nblocks, info.block_size);
	info.anagrpid = le32_get(id->anagrpid);
	info.is_shared = id->nmic & NVME_NMIC_SHARED;
	info.is_read_only = id->nsattr & NVME_NSATTR_WRITE_PROTECTED;
	info.is_thin = id->nsfeat & NVME_NSFEAT_THIN;
	info.has_wz_deac = (id->dlfeat & 7) == NVME_DLFEAT_READS_ZERO &&
			   id->dlfeat & NVME_DLFEAT_WRITE_ZEROES_DEAC;
	info.optimal_nlb = le16_get(id->noiob);
	if (id->nsfeat & NVME_NSFEAT_ATOMICS) /* NACWU, 0's based (NVM 4.1.5.1) */
		info.fuse_nlb = le16_get(id->nacwu) + 1u;
	info.physical_nlb = 1;
	if (id->nsfeat & NVME_NSFEAT_OPTPERF && is_pow2(le16_get(id->npwg) + 1u))
		info.physical_nlb = le16_get(id->npwg) + 1u;
	memcpy(info.nguid, id->nguid, sizeof(info.nguid));
	memcpy(info.eui64, id->eui64, sizeof(info.eui64));
	*ret_info = info;
	return 0;
}

static bool is_zero(const uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (bytes[i] != 0)
			return false;
	}
	return true;
}

/* Take an identifier over; one that is there already must be equal. */
static int take_id(uint8_t *to, const uint8_t *from, size_t len, size_t is_len,
		   const struct nvmf_ns_info *info, struct err *err)
{
	if (is_len != len)
		return err_set(err, -EPROTO, "namespace %u has an identifier of %zu bytes, not %zu",
			       info->nsid, is_len, len);
	if (!is_zero(to, len) && !is_zero(from, len) && memcmp(to, from, len) != 0)
		return err_set(err, -EPROTO, "namespace %u has two different identifiers of a kind",
			       info->nsid);
	if (!is_zero(from, len))
		memcpy(to, from, len);
	return 0;
}

int nvmf_ns_check_desc(const uint8_t *list, size_t size, struct nvmf_ns_info *info, struct err *err)
{
	const size_t head = sizeof(struct nvme_ns_desc);
	int result = 0;

	for (size_t at = 0; result == 0 && at + head <= size;) {
		struct nvme_ns_desc desc;
		const uint8_t *id = list + at + head;

		memcpy(&desc, list + at, head);
		if (desc.nidl == 0)
			break; /* Base 5.17.2.3: the end of the list */
		if (desc.nidl > size - at - head)
			return err_set(err, -EPROTO,
				       "the identifiers of namespace %u run over their page",
				       info->nsid);
		if (desc.nidt == NVME_NIDT_EUI64)
			result = take_id(info->eui64, id, sizeof(info->eui64), desc.nidl, info,
					 err);
		else if (desc.nidt == NVME_NIDT_NGUID)
			result = take_id(info->nguid, id, sizeof(info->nguid), desc.nidl, info,
					 err);
		else if (desc.nidt == NVME_NIDT_UUID)
			result = take_id(info->uuid.b, id, sizeof(info->uuid.b), desc.nidl, info,
					 err);
		else if (desc.nidt == NVME_NIDT_CSI && id[0] != 0)
			return err_set(err, -ENOTSUP,
				       "namespace %u speaks command set %u, not the block one",
				       info->nsid, id[0]);
		at += head + desc.nidl;
	}
	return result;
}

int nvmf_leftover_check(const struct nvme_log_leftover *page, struct nvmf_leftover *ret)
{
	static const char signature[sizeof(page->signature)] = NVME_LEFTOVER_SIGNATURE;

	if (memcmp(page->signature, signature, sizeof(signature)) != 0 ||
	    le32_get(page->version) < NVME_LEFTOVER_VERSION)
		return -ENOTSUP;
	ret->nconns = le32_get(page->conns);
	ret->nctrlrs = le32_get(page->ctrlrs);
	return 0;
}

bool nvmf_ns_has_identity(const struct nvmf_ns_info *ns)
{
	return !uuid_is_zero(&ns->uuid) || !is_zero(ns->nguid, sizeof(ns->nguid)) ||
	       !is_zero(ns->eui64, sizeof(ns->eui64));
}

/* -1: they differ; 0: nothing to compare; 1: equal */
static int id_compare(const uint8_t *a, const uint8_t *b, size_t len)
{
	if (is_zero(a, len) || is_zero(b, len))
		return 0;
	return memcmp(a, b, len) == 0 ? 1 : -1;
}

bool nvmf_ns_is_same(const struct nvmf_ns_info *a, const struct nvmf_ns_info *b)
{
	int uuid = id_compare(a->uuid.b, b->uuid.b, sizeof(a->uuid.b));
	int nguid = id_compare(a->nguid, b->nguid, sizeof(a->nguid));
	int eui64 = id_compare(a->eui64, b->eui64, sizeof(a->eui64));

	if (a->block_size != b->block_size || uuid < 0 || nguid < 0 || eui64 < 0)
		return false;
	return uuid > 0 || nguid > 0 || eui64 > 0 ||
	       (!nvmf_ns_has_identity(a) && !nvmf_ns_has_identity(b));
}

struct uuid nvmf_ns_uuid(const struct nvmf_ns_info *ns)
{
	struct uuid uuid = ns->uuid;

	if (uuid_is_zero(&uuid))
		memcpy(uuid.b, ns->nguid, sizeof(uuid.b));
	return uuid;
}

/* ---- asymmetric access -------------------------------------------------------------------- */

int ana_parse(const uint8_t *log, size_t size, struct ana_group *groups, unsigned max,
	      struct err *err)
{
	struct nvme_ana_log head;
	size_t at = sizeof(head);
	unsigned count;

	if (size < sizeof(head))
		return err_set(err, -EPROTO, "an ANA log of %zu bytes is none", size);
	memcpy(&head, log, sizeof(head));
	count = le16_get(head.groups);
	if (count > max)
		return err_set(err, -E2BIG, "the ANA log has %u groups, %u were announced", count,
			       max);
	for (unsigned i = 0; i < count; i++) {
		struct nvme_ana_group group;
		uint64_t len;

		if (size - at < sizeof(group))
			return err_set(err, -EPROTO, "the ANA log ends inside group %u of %u",
				       i + 1, count);
		memcpy(&group, log + at, sizeof(group));
		len = sizeof(group) + (uint64_t)le32_get(group.nsids) * sizeof(struct le32);
		if (len > size - at)
			return err_set(err, -EPROTO, "group %u of the ANA log runs over its end",
				       le32_get(group.group));
		groups[i] = (struct ana_group){ .id = le32_get(group.group),
						.state = group.state & 0xf };
		at += len;
	}
	return (int)count;
}

uint8_t ana_state(const struct ana_group *groups, unsigned count, uint32_t id)
{
	for (unsigned i = 0; i < count; i++) {
		if (groups[i].id == id)
			return groups[i].state;
	}
	return NVME_ANA_INACCESSIBLE;
}

enum path_class path_class_of_ana(uint8_t state)
{
	switch (state) {
	case NVME_ANA_OPTIMIZED:
		return PATH_OPTIMIZED;
	case NVME_ANA_NON_OPTIMIZED:
		return PATH_NON_OPTIMIZED;
	case NVME_ANA_CHANGE:
		return PATH_WAIT;
	default:
		return PATH_INACCESSIBLE;
	}
}

unsigned path_choose(const enum path_class classes[], unsigned count, uint8_t ret_index[])
{
	enum path_class best = PATH_NON_OPTIMIZED;
	unsigned n = 0;

	for (unsigned i = 0; i < count; i++)
		best = MAX(best, classes[i]);
	for (unsigned i = 0; i < count; i++) {
		if (classes[i] == best)
			ret_index[n++] = (uint8_t)i;
	}
	return n;
}
