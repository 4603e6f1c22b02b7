/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spec.h - NVM Express as it lies on the wire: structures, opcodes, codes, bits.
 *
 * Owner:  wire structures are overlaid on buffers; alignment 1, little endian (base/le.h).
 * Thread: any; there is no state here.
 * Rules:  facts only, each group with its source. Shared by target and initiator.
 * Source: "Base" = NVM Express Base Specification 2.0c, "NVM" = NVM Command Set Specification
 *         1.0c, "TCP" = TCP Transport Specification 1.0c; numbers are sections or figure titles.
 */
#ifndef ASHLAR_DRIVERS_NVME_SPEC_H
#define ASHLAR_DRIVERS_NVME_SPEC_H

#include <stdint.h>

#include "base/le.h"
#include "device/nvme_resv.h"

/* ---- commands and completions (Base 3.3.3) -------------------------------------------------- */

/* One scatter-gather descriptor (Base 4.1.2). A keyed one keeps its key in what is rsvd here. */
struct nvme_sgl {
	struct le64 addr;
	struct le32 len;
	uint8_t rsvd[3];
	uint8_t id; /* type << 4 | subtype */
};
static_assert(sizeof(struct nvme_sgl) == 16, "Base figure: SGL descriptor");

enum {
	NVME_SGL_DATA_ADDRESS = 0x00,   /* data block, address */
	NVME_SGL_DATA_OFFSET = 0x01,    /* data block, offset into the capsule */
	NVME_SGL_DATA_TRANSPORT = 0x5a, /* transport data block, transport specific (TCP 3.2) */
};

struct nvme_cmd {
	uint8_t opcode;
	uint8_t flags; /* FUSE in bits 1:0, PSDT in bits 7:6 */
	struct le16 cid;
	struct le32 nsid;
	struct le32 cdw2;
	struct le32 cdw3;
	struct le64 mptr;
	struct nvme_sgl sgl;
	struct le32 cdw10;
	struct le32 cdw11;
	struct le32 cdw12;
	struct le32 cdw13;
	struct le32 cdw14;
	struct le32 cdw15;
};
static_assert(sizeof(struct nvme_cmd) == 64, "Base 3.3.3.1: 64 bytes");

enum {
	NVME_CMD_FUSE_MASK = 0x03,
	NVME_CMD_FUSE_FIRST = 0x01,
	NVME_CMD_FUSE_SECOND = 0x02,
	NVME_CMD_PSDT_MASK = 0xc0,
	NVME_CMD_PSDT_SGL = 0x40, /* data by SGL, metadata pointer is a single buffer */
	NVME_CMD_PSDT_SGL_MPTR = 0x80,
};

struct nvme_cqe {
	struct le32 dw0;
	struct le32 dw1;
	struct le16 sqhd;
	struct le16 sqid; /* reserved over fabrics */
	struct le16 cid;
	/* bit 0: phase (0 over fabrics), 8:1 SC, 11:9 SCT, 13:12 CRD, 15 DNR */
	struct le16 status;
};
static_assert(sizeof(struct nvme_cqe) == 16, "Base 3.3.3.2: 16 bytes");

enum {
	NVME_STATUS_DNR = 0x8000,
	NVME_STATUS_CRD_SHIFT = 11, /* above type << 8 | code: command retry delay, 1 to 3 */
	NVME_NSID_ALL = 0xffffffff,
	NVME_QID_ADMIN = 0,
	NVME_CNTLID_DYNAMIC = 0xffff, /* Base 6.3: Connect, dynamic controller model */
	NVME_CNTLID_STATIC = 0xfffe,
	NVME_CNTLID_MAX = 0xffef,
	NVME_NQN_SIZE = 256,    /* field width on the wire, with the NUL */
	NVME_NQN_LEN_MAX = 223, /* Base 4.5 */
	NVME_IDENTIFY_SIZE = 4096,
	NVME_PAGE_SIZE = 4096, /* CAP.MPSMIN 0 */
};

/* Status as type << 8 | code (Base 3.3.3.2.1, figures "Status Code"). */
enum nvme_status {
	NVME_SC_SUCCESS = 0x000,
	NVME_SC_INVALID_OPCODE = 0x001,
	NVME_SC_INVALID_FIELD = 0x002,
	NVME_SC_CID_CONFLICT = 0x003,
	NVME_SC_DATA_TRANSFER_ERROR = 0x004,
	NVME_SC_INTERNAL_ERROR = 0x006,
	NVME_SC_ABORT_REQUESTED = 0x007,
	NVME_SC_ABORTED_SQ_DELETION = 0x008,
	NVME_SC_FAILED_FUSED = 0x009,
	NVME_SC_MISSING_FUSED = 0x00a,
	NVME_SC_INVALID_NAMESPACE = 0x00b,
	NVME_SC_COMMAND_SEQUENCE_ERROR = 0x00c,
	NVME_SC_INVALID_SGL_COUNT = 0x00e,
	NVME_SC_DATA_SGL_LENGTH_INVALID = 0x00f,
	NVME_SC_SGL_TYPE_INVALID = 0x011,
	NVME_SC_ATOMIC_WRITE_UNIT_EXCEEDED = 0x014,
	NVME_SC_INVALID_SGL_OFFSET = 0x016,
	NVME_SC_HOSTID_INCONSISTENT = 0x018,
	NVME_SC_KEEP_ALIVE_EXPIRED = 0x019,
	NVME_SC_KEEP_ALIVE_INVALID = 0x01a,
	NVME_SC_PREEMPTED_AND_ABORTED = 0x01b,
	NVME_SC_WRITE_PROTECTED = 0x020,
	NVME_SC_TRANSIENT_TRANSPORT = 0x022,
	NVME_SC_LBA_OUT_OF_RANGE = 0x080,
	NVME_SC_CAPACITY_EXCEEDED = 0x081,
	NVME_SC_NAMESPACE_NOT_READY = 0x082,
	NVME_SC_RESERVATION_CONFLICT = 0x083,

	NVME_SC_AER_LIMIT_EXCEEDED = 0x105,
	NVME_SC_INVALID_LOG_PAGE = 0x109,
	NVME_SC_FEATURE_NOT_SAVEABLE = 0x10d,
	NVME_SC_FEATURE_NOT_CHANGEABLE = 0x10e,
	NVME_SC_CCR_LIMIT = 0x141,            /* Base 2.3: Cross-Controller Reset Limit Exceeded */
	NVME_SC_CONNECT_INCOMPATIBLE = 0x180, /* Base 6.3, figure "Connect status" */
	NVME_SC_CONNECT_BUSY = 0x181,
	NVME_SC_CONNECT_INVALID_PARAM = 0x182,
	NVME_SC_CONNECT_RESTART_DISCOVERY = 0x183,
	NVME_SC_CONNECT_INVALID_HOST = 0x184,
	NVME_SC_DISCOVERY_RESTART = 0x190,

	NVME_SC_WRITE_FAULT = 0x280,
	NVME_SC_READ_ERROR = 0x281,
	NVME_SC_COMPARE_FAILED = 0x285,
	NVME_SC_UNWRITTEN = 0x287,

	NVME_SC_ANA_PERSISTENT_LOSS = 0x301, /* path related: another path may do */
	NVME_SC_ANA_INACCESSIBLE = 0x302,
	NVME_SC_ANA_TRANSITION = 0x303,
};

/* ---- opcodes -------------------------------------------------------------------------------- */

enum nvme_admin_opcode { /* Base 5, figure "Opcodes for Admin Commands" */
			 NVME_ADMIN_GET_LOG_PAGE = 0x02,
			 NVME_ADMIN_IDENTIFY = 0x06,
			 NVME_ADMIN_ABORT = 0x08,
			 NVME_ADMIN_SET_FEATURES = 0x09,
			 NVME_ADMIN_GET_FEATURES = 0x0a,
			 NVME_ADMIN_ASYNC_EVENT = 0x0c,
			 NVME_ADMIN_KEEP_ALIVE = 0x18,
			 NVME_ADMIN_CROSS_RESET = 0x38, /* Base 2.3, 5.4.3 */
			 NVME_FABRICS = 0x7f,           /* on both kinds of queue */
			 NVME_ADMIN_SNAPSHOT = 0xc1,    /* Mayastor's */
};

enum nvme_io_opcode { /* NVM 3.2, Base 7 */
		      NVME_IO_FLUSH = 0x00,
		      NVME_IO_WRITE = 0x01,
		      NVME_IO_READ = 0x02,
		      NVME_IO_WRITE_UNCORRECTABLE = 0x04,
		      NVME_IO_COMPARE = 0x05,
		      NVME_IO_WRITE_ZEROES = 0x08,
		      NVME_IO_DSM = 0x09,
		      NVME_IO_VERIFY = 0x0c,
		      NVME_IO_RESV_REGISTER = 0x0d,
		      NVME_IO_RESV_REPORT = 0x0e,
		      NVME_IO_RESV_ACQUIRE = 0x11,
		      NVME_IO_RESV_RELEASE = 0x15,
};

enum nvme_fabrics_type { /* Base 6, figure "Fabrics Command Type" */
			 NVME_FABRICS_PROPERTY_SET = 0x00,
			 NVME_FABRICS_CONNECT = 0x01,
			 NVME_FABRICS_PROPERTY_GET = 0x04,
			 NVME_FABRICS_AUTH_SEND = 0x05,
			 NVME_FABRICS_AUTH_RECV = 0x06,
			 NVME_FABRICS_DISCONNECT = 0x08,
};

/* Bits of read, write, compare, write zeroes (NVM 3.2). NLB is 0's based in CDW12 15:0. */
enum {
	NVME_RW_NLB_MASK = 0xffff,
	NVME_RW_DEAC = 1 << 25, /* write zeroes only */
	NVME_RW_PRINFO_MASK = 0xf << 26,
	NVME_RW_FUA = 1 << 30,
	NVME_RW_UNWRITTEN_FAIL = 1 << 22,         /* read, Mayastor's use of the directive type */
	NVME_RW_CURRENT_UNWRITTEN_FAIL = 1 << 21, /* the same */
	NVME_DSM_DEALLOCATE = 1 << 2,             /* CDW11, NVM 3.2.3 */
	NVME_DSM_RANGES_MAX = 256,
};

struct nvme_dsm_range { /* NVM 3.2.3 */
	struct le32 attributes;
	struct le32 nlb;
	struct le64 slba;
};
static_assert(sizeof(struct nvme_dsm_range) == 16, "NVM 3.2.3: 16 bytes");

/* ---- fabrics commands (Base 6) -------------------------------------------------------------- */

struct nvme_connect_cmd {
	uint8_t opcode;
	uint8_t flags;
	struct le16 cid;
	uint8_t fctype;
	uint8_t rsvd5[19];
	struct nvme_sgl sgl;
	struct le16 recfmt;
	struct le16 qid;
	struct le16 sqsize; /* 0's based */
	uint8_t cattr;
	uint8_t rsvd47;
	struct le32 kato_ms;
	uint8_t rsvd52[12];
};
static_assert(sizeof(struct nvme_connect_cmd) == 64, "Base 6.3");

enum { NVME_CONNECT_NO_SQ_FLOW_CONTROL = 1 << 2 }; /* CATTR */

struct nvme_connect_data {
	uint8_t hostid[16];
	struct le16 cntlid;
	uint8_t rsvd18[238];
	char subnqn[NVME_NQN_SIZE];
	char hostnqn[NVME_NQN_SIZE];
	uint8_t rsvd768[256];
};
static_assert(sizeof(struct nvme_connect_data) == 1024, "Base 6.3");

struct nvme_property_cmd {
	uint8_t opcode;
	uint8_t flags;
	struct le16 cid;
	uint8_t fctype;
	uint8_t rsvd5[35];
	uint8_t attrib; /* bits 2:0: 0 = 4 bytes, 1 = 8 bytes */
	uint8_t rsvd41[3];
	struct le32 offset;
	struct le64 value; /* set only */
	uint8_t rsvd56[8];
};
static_assert(sizeof(struct nvme_property_cmd) == 64, "Base 6.4, 6.5");

enum nvme_property { /* Base 3.1.3 */
		     NVME_PROP_CAP = 0x00,
		     NVME_PROP_VS = 0x08,
		     NVME_PROP_CC = 0x14,
		     NVME_PROP_CSTS = 0x1c,
		     NVME_PROP_NSSR = 0x20,
		     NVME_PROP_CRTO = 0x68,
};

enum {
	NVME_VS_2_0 = 0x00020000,

	NVME_CC_EN = 1 << 0,
	NVME_CC_CSS_SHIFT = 4,
	NVME_CC_MPS_SHIFT = 7,
	NVME_CC_AMS_SHIFT = 11,
	NVME_CC_SHN_SHIFT = 14, /* 2 bits */
	NVME_CC_IOSQES_SHIFT = 16,
	NVME_CC_IOCQES_SHIFT = 20,

	NVME_CSTS_RDY = 1 << 0,
	NVME_CSTS_CFS = 1 << 1,
	NVME_CSTS_SHST_SHIFT = 2,
	NVME_CSTS_SHST_COMPLETE = 2 << 2,
};

/* CAP (Base 3.1.3.1) */
#define NVME_CAP_CQR        (1ull << 16)
#define NVME_CAP_TO(n)      ((uint64_t)(n) << 24) /* units of 500 ms */
#define NVME_CAP_CSS_NVM    (1ull << 37)
#define NVME_CAP_CRMS_CRWMS (1ull << 59)

/* ---- identify (Base 5.17.2, NVM 4.1.5) ------------------------------------------------------ */

enum nvme_cns {
	NVME_CNS_NS = 0x00,
	NVME_CNS_CTRL = 0x01,
	NVME_CNS_ACTIVE_NS = 0x02,
	NVME_CNS_NS_DESC = 0x03,
	NVME_CNS_CS_NS = 0x05,
	NVME_CNS_CS_CTRL = 0x06,
	NVME_CNS_CS_ACTIVE_NS = 0x07,
	NVME_CNS_CS_INDEPENDENT_NS = 0x08,
	NVME_CNS_ALLOCATED_NS = 0x10,
	NVME_CNS_ALLOCATED_NS_DATA = 0x11,
	NVME_CNS_NS_CTRL_LIST = 0x12,
	NVME_CNS_CTRL_LIST = 0x13,
	NVME_CNS_CS_LIST = 0x1c,
};

struct nvme_power_state {
	struct le16 max_power; /* centiwatts */
	uint8_t rsvd2[30];
};
static_assert(sizeof(struct nvme_power_state) == 32, "Base: power state descriptor");

struct nvme_id_ctrl {
	struct le16 vid, ssvid;
	char sn[20], mn[40], fr[8];
	uint8_t rab;
	uint8_t ieee[3];
	uint8_t cmic;
	uint8_t mdts; /* 2^n units of CAP.MPSMIN */
	struct le16 cntlid;
	struct le32 ver, rtd3r, rtd3e, oaes, ctratt;
	struct le16 rrls;
	uint8_t rsvd102[9];
	uint8_t cntrltype;
	uint8_t fguid[16];
	struct le16 crdt[3];
	uint8_t crcap, ciu; /* byte 135; Base 2.3, 5.2.13, as are cirn and ccrl */
	struct le64 cirn;
	uint8_t rsvd144[109];
	uint8_t nvmsr, vwci, mec;
	struct le16 oacs; /* byte 256 */
	uint8_t acl, aerl, frmw, lpa, elpe, npss, avscc, apsta;
	struct le16 wctemp, cctemp, mtfa;
	struct le32 hmpre, hmmin;
	uint8_t tnvmcap[16], unvmcap[16];
	struct le32 rpmbs;
	struct le16 edstt;
	uint8_t dsto, fwug;
	struct le16 kas; /* byte 320, units of 100 ms */
	struct le16 hctma, mntmt, mxtmt;
	struct le32 sanicap, hmminds;
	struct le16 hmmaxd, nsetidmax, endgidmax;
	uint8_t anatt, anacap;
	struct le32 anagrpmax, nanagrpid, pels;
	struct le16 domainid;
	uint8_t rsvd358[10];
	uint8_t megcap[16];
	uint8_t rsvd384[128];
	uint8_t sqes, cqes; /* byte 512 */
	struct le16 maxcmd;
	struct le32 nn;
	struct le16 oncs, fuses;
	uint8_t fna, vwc;
	struct le16 awun, awupf;
	uint8_t icsvscc, nwpc;
	struct le16 acwu, cdfs;
	struct le32 sgls, mnan;
	uint8_t maxdna[16];
	struct le32 maxcna;
	uint8_t rsvd564[204];
	char subnqn[NVME_NQN_SIZE]; /* byte 768 */
	uint8_t rsvd1024[768];
	struct le32 ioccsz; /* byte 1792, units of 16 bytes */
	struct le32 iorcsz;
	struct le16 icdoff;
	uint8_t fcatt, msdbd;
	struct le16 ofcs;
	uint8_t dctype;
	uint8_t ccrl;
	uint8_t rsvd1808[240];
	struct nvme_power_state psd[32];
	uint8_t vs[1024];
};
static_assert(offsetof(struct nvme_id_ctrl, cirn) == 136, "Base 2.3: Identify Controller");
static_assert(offsetof(struct nvme_id_ctrl, oacs) == 256, "Base: Identify Controller");
static_assert(offsetof(struct nvme_id_ctrl, kas) == 320, "Base: Identify Controller");
static_assert(offsetof(struct nvme_id_ctrl, sqes) == 512, "Base: Identify Controller");
static_assert(offsetof(struct nvme_id_ctrl, subnqn) == 768, "Base: Identify Controller");
static_assert(offsetof(struct nvme_id_ctrl, ioccsz) == 1792, "Base: Identify Controller");
static_assert(offsetof(struct nvme_id_ctrl, psd) == 2048, "Base: Identify Controller");
static_assert(sizeof(struct nvme_id_ctrl) == NVME_IDENTIFY_SIZE, "Base: Identify Controller");

enum {
	NVME_CMIC_MULTI_PORT = 1 << 0,
	NVME_CMIC_MULTI_CTRL = 1 << 1,
	NVME_CMIC_ANA = 1 << 3,
	NVME_OAES_NS_ATTR = 1 << 8,
	NVME_OAES_ANA = 1 << 11,
	NVME_OAES_DISCOVERY = 1u << 31,
	NVME_CTRATT_HOSTID_128 = 1 << 0,
	NVME_CTRATT_TBKAS = 1 << 6, /* traffic based keep alive */
	NVME_CNTRLTYPE_IO = 1,
	NVME_CNTRLTYPE_DISCOVERY = 2,
	NVME_LPA_SMART_NS = 1 << 0, /* SMART per namespace */
	NVME_LPA_EFFECTS = 1 << 1,
	NVME_LPA_EXTENDED = 1 << 2,  /* offset and 32-bit length in Get Log Page */
	NVME_LPA_SUPPORTED = 1 << 5, /* pages 00h, 12h, 13h, and scopes in 05h */
	NVME_FRMW_SLOT1_READ_ONLY = 1 << 0,
	NVME_FRMW_ONE_SLOT = 1 << 1,
	NVME_ONCS_COMPARE = 1 << 0,
	NVME_ONCS_WRITE_UNCORRECTABLE = 1 << 1,
	NVME_ONCS_DSM = 1 << 2,
	NVME_ONCS_WRITE_ZEROES = 1 << 3,
	NVME_ONCS_SAVE_SELECT = 1 << 4, /* Get Features knows SEL */
	NVME_ONCS_RESERVATIONS = 1 << 5,
	NVME_ONCS_TIMESTAMP = 1 << 6,
	NVME_ONCS_VERIFY = 1 << 7,
	NVME_FUSES_COMPARE_WRITE = 1 << 0,
	NVME_VWC_PRESENT = 1 << 0,
	NVME_VWC_FLUSH_ALL_NO = 2 << 1, /* Flush with NSID FFFFFFFFh is refused */
	NVME_SGLS_SUPPORTED = 1 << 0,   /* no alignment */
	NVME_SGLS_KEYED = 1 << 2,
	NVME_SGLS_OFFSET = 1 << 20,    /* address field may hold an offset */
	NVME_SGLS_TRANSPORT = 1 << 21, /* transport SGL data block */
};

struct nvme_lbaf {
	struct le16 ms;
	uint8_t lbads; /* log2 of the block size */
	uint8_t rp;
};

struct nvme_id_ns {
	struct le64 nsze, ncap, nuse;
	uint8_t nsfeat, nlbaf, flbas, mc, dpc, dps, nmic, rescap, fpi, dlfeat;
	struct le16 nawun, nawupf, nacwu, nabsn, nabo, nabspf, noiob;
	uint8_t nvmcap[16];
	struct le16 npwg, npwa, npdg, npda, nows; /* byte 64; 0's based, in blocks */
	struct le16 mssrl;
	struct le32 mcl;
	uint8_t msrc;
	uint8_t rsvd81[11];
	struct le32 anagrpid; /* byte 92 */
	uint8_t rsvd96[3];
	uint8_t nsattr;
	struct le16 nvmsetid, endgid;
	uint8_t nguid[16], eui64[8];
	struct nvme_lbaf lbaf[64]; /* byte 128 */
	uint8_t vs[3712];
};
static_assert(offsetof(struct nvme_id_ns, npwg) == 64, "NVM: Identify Namespace");
static_assert(offsetof(struct nvme_id_ns, anagrpid) == 92, "NVM: Identify Namespace");
static_assert(offsetof(struct nvme_id_ns, nguid) == 104, "NVM: Identify Namespace");
static_assert(offsetof(struct nvme_id_ns, lbaf) == 128, "NVM: Identify Namespace");
static_assert(sizeof(struct nvme_id_ns) == NVME_IDENTIFY_SIZE, "NVM: Identify Namespace");

enum {
	NVME_NSFEAT_THIN = 1 << 0,
	NVME_NSFEAT_ATOMICS = 1 << 1, /* NAWUN, NAWUPF and NACWU are valid */
	NVME_NSFEAT_OPTPERF = 1 << 4, /* NPWG, NPWA, NPDG, NPDA and NOWS are valid */
	NVME_NMIC_SHARED = 1 << 0,
	NVME_DLFEAT_READS_ZERO = 1 << 0, /* bits 2:0 = 001b */
	NVME_DLFEAT_WRITE_ZEROES_DEAC = 1 << 3,
	NVME_NSATTR_WRITE_PROTECTED = 1 << 0,
};

/* Command set independent (Base 5.17.2.8). */
struct nvme_id_ns_independent {
	uint8_t nsfeat, nmic, rescap, fpi;
	struct le32 anagrpid;
	uint8_t nsattr;
	uint8_t rsvd9;
	struct le16 nvmsetid, endgid;
	uint8_t nstat;
	uint8_t rsvd15[4081];
};
static_assert(sizeof(struct nvme_id_ns_independent) == NVME_IDENTIFY_SIZE, "Base 5.17.2.8");

enum {
	NVME_NSTAT_READY = 1 << 0,
	NVME_NSFEAT2_ROTATIONAL = 1 << 4,
	NVME_NSFEAT2_NO_WRITE_CACHE = 1 << 5, /* Base 2.1: VWCNP */
};

/* NVM command set specific controller data (NVM 4.1.5.4). */
struct nvme_id_ctrl_nvm {
	uint8_t vsl, wzsl, wusl, dmrl; /* sizes: 2^n pages; dmrl: ranges */
	struct le32 dmrsl;             /* blocks per range */
	struct le64 dmsl;              /* blocks per command */
	uint8_t rsvd16[4080];
};
static_assert(sizeof(struct nvme_id_ctrl_nvm) == NVME_IDENTIFY_SIZE, "NVM 4.1.5.4");

struct nvme_ns_desc { /* Base 5.17.2.3: header of one descriptor */
	uint8_t nidt, nidl;
	uint8_t rsvd2[2];
};
enum { NVME_NIDT_EUI64 = 1, NVME_NIDT_NGUID = 2, NVME_NIDT_UUID = 3, NVME_NIDT_CSI = 4 };

/* ---- features (Base 5.27) ------------------------------------------------------------------- */

enum nvme_feature {
	NVME_FEAT_ARBITRATION = 0x01,
	NVME_FEAT_POWER = 0x02,
	NVME_FEAT_TEMPERATURE = 0x04,
	NVME_FEAT_ERROR_RECOVERY = 0x05, /* NVM 4.1.3.1 */
	NVME_FEAT_WRITE_CACHE = 0x06,
	NVME_FEAT_QUEUES = 0x07,
	NVME_FEAT_INTERRUPT_COALESCING = 0x08,
	NVME_FEAT_WRITE_ATOMICITY = 0x0a, /* NVM 4.1.3.3 */
	NVME_FEAT_ASYNC_EVENT = 0x0b,
	NVME_FEAT_TIMESTAMP = 0x0e,
	NVME_FEAT_KEEP_ALIVE = 0x0f,
	NVME_FEAT_HOST_BEHAVIOR = 0x16,
	NVME_FEAT_HOST_ID = 0x81,
	NVME_FEAT_RESV_MASK = 0x82,
	NVME_FEAT_RESV_PERSIST = 0x83,
};

enum nvme_select { /* SEL of Get Features: bits 10:8 of CDW10 (Base 5.15) */
		   NVME_SEL_CURRENT = 0,
		   NVME_SEL_DEFAULT = 1,
		   NVME_SEL_SAVED = 2,     /* the default, where nothing can be saved */
		   NVME_SEL_SUPPORTED = 3, /* what can be done with it */
};

/* Data of Host Behavior Support (Base 5.27.1.18). */
struct nvme_host_behavior {
	uint8_t acre; /* 1: the host honours CRD */
	uint8_t rsvd1[511];
};
static_assert(sizeof(struct nvme_host_behavior) == 512, "Base 5.27.1.18");

/* ---- log pages and events (Base 5.16, 5.2) -------------------------------------------------- */

enum nvme_log {
	NVME_LOG_SUPPORTED = 0x00,
	NVME_LOG_ERROR = 0x01,
	NVME_LOG_SMART = 0x02,
	NVME_LOG_FIRMWARE = 0x03,
	NVME_LOG_CHANGED_NS = 0x04,
	NVME_LOG_EFFECTS = 0x05,
	NVME_LOG_ANA = 0x0c,
	NVME_LOG_FEATURES = 0x12,
	NVME_LOG_MI = 0x13,
	NVME_LOG_DISCOVERY = 0x70,
	NVME_LOG_RESERVATION = 0x80,
	NVME_LOG_LEFTOVER = 0xde, /* Ashlar's: C0h to FFh are the vendors' (Base 2.3, 5.2.12) */
};

enum {
	NVME_AEN_TYPE_NOTICE = 2,
	NVME_AEN_TYPE_IO_SPECIFIC = 6,
	NVME_AEN_RESERVATION_LOG = 0x00,   /* information of an I/O command specific event */
	NVME_AEN_NS_CHANGED = 0x00,        /* information of a notice */
	NVME_AEN_ANA_CHANGED = 0x03,       /* the same */
	NVME_AEN_DISCOVERY_CHANGED = 0xf0, /* the same */
	NVME_CHANGED_NS_MAX = 1024,
	NVME_LOG_SMART_SIZE = 512,
	NVME_LOG_ERROR_SIZE = 64,
	NVME_LOG_FIRMWARE_SIZE = 512,
	NVME_LOG_EFFECTS_SIZE = 4096,
	NVME_EFFECTS_SUPPORTED = 1 << 0, /* CSUPP */
	NVME_EFFECTS_CONTENT = 1 << 1,   /* LBCC */
	NVME_SCOPE_NS = 1 << 20,         /* of a command or feature; Base 5.16.1.6, 5.16.1.18 */
	NVME_SCOPE_CTRL = 1 << 21,
	NVME_LOG_SUPPORTED_SIZE = 1024,
	NVME_LOG_SUPPORTED_BIT = 1 << 0, /* LSUPP; FSUPP */
	NVME_LOG_FEATURES_SIZE = 1024,
	NVME_LOG_MI_SIZE = 4096,
};

/*
 * Ashlar's own: what connections of the asking host to this subsystem have left with devices
 * (src/target/cross.c). Other vendors have pages of that number too, so it says whose it is. A
 * later version only adds fields.
 */
struct nvme_log_leftover {
	char signature[16]; /* NVME_LEFTOVER_SIGNATURE, zeroes behind it */
	struct le32 version;
	struct le32 conns;  /* closed, with commands that are not ended */
	struct le32 ctrlrs; /* that look alive, the asking one too */
	uint8_t rsvd28[36];
};
static_assert(sizeof(struct nvme_log_leftover) == 64, "a page is read in whole dwords");

#define NVME_LEFTOVER_SIGNATURE "ashlar leftover"
enum { NVME_LEFTOVER_VERSION = 1 };

struct nvme_error_entry { /* Base 5.16.1.2 */
	struct le64 count;
	struct le16 sqid, cid, status, location;
	struct le64 lba;
	struct le32 nsid;
	uint8_t vs, trtype;
	uint8_t rsvd30[2];
	struct le64 cmd_specific;
	struct le16 trtype_specific;
	uint8_t rsvd42[22];
};
static_assert(sizeof(struct nvme_error_entry) == NVME_LOG_ERROR_SIZE, "Base 5.16.1.2");

struct nvme_smart_log {
	uint8_t critical_warning;
	struct le16 temperature; /* kelvin */
	uint8_t spare, spare_threshold, used;
	uint8_t endurance_warning;
	uint8_t rsvd7[25];
	uint8_t data_units_read[16], data_units_written[16]; /* thousands of 512 bytes */
	uint8_t host_reads[16], host_writes[16];
	uint8_t busy_minutes[16], power_cycles[16], power_on_hours[16];
	uint8_t unsafe_shutdowns[16], media_errors[16], error_log_entries[16];
	uint8_t rsvd192[320];
};
static_assert(sizeof(struct nvme_smart_log) == NVME_LOG_SMART_SIZE, "Base 5.16.1.3");

struct nvme_ana_log { /* Base 5.16.1.13: then groups, each with its NSIDs behind it */
	struct le64 change_count;
	struct le16 groups;
	uint8_t rsvd10[6];
};
static_assert(sizeof(struct nvme_ana_log) == 16, "Base 5.16.1.13");

struct nvme_ana_group {
	struct le32 group, nsids;
	struct le64 change_count;
	uint8_t state; /* bits 3:0 */
	uint8_t rsvd17[15];
};
static_assert(sizeof(struct nvme_ana_group) == 32, "Base 5.16.1.13");

enum { NVME_LOG_RAE = 1 << 15 }; /* dword 10, 5.16.1: the event stays */

enum {
	NVME_ANA_LOG_GROUPS_ONLY = 1 << 8, /* RGO: bit 0 of LSP, in dword 10 */
	NVME_ANACAP_ALL_STATES = 0x1f,     /* each of the five is reported */
};

struct nvme_discovery_entry { /* Base 5.16.1.23 */
	uint8_t trtype, adrfam, subtype, treq;
	struct le16 portid, cntlid, asqsz, eflags;
	uint8_t rsvd12[20];
	char trsvcid[32];
	uint8_t rsvd64[192];
	char subnqn[256];
	char traddr[256];
	uint8_t tsas[256];
};
static_assert(sizeof(struct nvme_discovery_entry) == 1024, "Base 5.16.1.23");

struct nvme_discovery_log {
	struct le64 genctr, numrec;
	struct le16 recfmt;
	uint8_t rsvd18[1006];
	struct nvme_discovery_entry entry[];
};
static_assert(sizeof(struct nvme_discovery_log) == 1024, "Base 5.16.1.23");

enum {
	NVME_TRTYPE_TCP = 3,
	NVME_ADRFAM_IPV4 = 1,
	NVME_ADRFAM_IPV6 = 2,
	NVME_SUBTYPE_DISCOVERY = 1, /* a referral */
	NVME_SUBTYPE_NVM = 2,
	NVME_SUBTYPE_CURRENT_DISCOVERY = 3,
	NVME_TREQ_NO_SQ_FLOW_CONTROL = 1 << 2, /* the host may disable flow control */
	NVME_TREQ_NOT_REQUIRED = 2,            /* secure channel */
};

#define NVME_DISCOVERY_NQN "nqn.2014-08.org.nvmexpress.discovery" /* Base 4.5 */

/* ---- NVMe/TCP (TCP 3) ----------------------------------------------------------------------- */

enum nvme_tcp_type { /* TCP 3.6.1 */
		     NVME_TCP_ICREQ = 0x00,
		     NVME_TCP_ICRESP = 0x01,
		     NVME_TCP_H2C_TERM = 0x02,
		     NVME_TCP_C2H_TERM = 0x03,
		     NVME_TCP_CAPSULE_CMD = 0x04,
		     NVME_TCP_CAPSULE_RESP = 0x05,
		     NVME_TCP_H2C_DATA = 0x06,
		     NVME_TCP_C2H_DATA = 0x07,
		     NVME_TCP_R2T = 0x09,
};

enum nvme_tcp_flag {
	NVME_TCP_HDGST = 1 << 0,
	NVME_TCP_DDGST = 1 << 1,
	NVME_TCP_LAST = 1 << 2,    /* H2CData, C2HData */
	NVME_TCP_SUCCESS = 1 << 3, /* C2HData: no response capsule follows */
};

struct nvme_tcp_hdr {
	uint8_t type, flags, hlen, pdo;
	struct le32 plen;
};
static_assert(sizeof(struct nvme_tcp_hdr) == 8, "TCP 3.6.1");

struct nvme_tcp_ic { /* ICReq and ICResp, TCP 3.6.2.2, 3.6.2.3 */
	struct nvme_tcp_hdr hdr;
	struct le16 pfv;
	uint8_t pda;     /* HPDA or CPDA: 0's based dwords, 0 ... 31 */
	uint8_t dgst;    /* bit 0 header digest, bit 1 data digest */
	struct le32 max; /* ICReq: MAXR2T, 0's based; ICResp: MAXH2CDATA, bytes */
	uint8_t rsvd16[112];
};
static_assert(sizeof(struct nvme_tcp_ic) == 128, "TCP 3.6.2.2");

struct nvme_tcp_capsule_cmd {
	struct nvme_tcp_hdr hdr;
	struct nvme_cmd cmd;
};
static_assert(sizeof(struct nvme_tcp_capsule_cmd) == 72, "TCP 3.6.2.6");

struct nvme_tcp_capsule_resp {
	struct nvme_tcp_hdr hdr;
	struct nvme_cqe cqe;
};
static_assert(sizeof(struct nvme_tcp_capsule_resp) == 24, "TCP 3.6.2.7");

struct nvme_tcp_data { /* H2CData and C2HData, TCP 3.6.2.9, 3.6.2.10 */
	struct nvme_tcp_hdr hdr;
	struct le16 cid;
	struct le16 ttag; /* H2CData only */
	struct le32 off;
	struct le32 len;
	uint8_t rsvd20[4];
};
static_assert(sizeof(struct nvme_tcp_data) == 24, "TCP 3.6.2.9");

struct nvme_tcp_r2t {
	struct nvme_tcp_hdr hdr;
	struct le16 cid;
	struct le16 ttag;
	struct le32 off;
	struct le32 len;
	uint8_t rsvd20[4];
};
static_assert(sizeof(struct nvme_tcp_r2t) == 24, "TCP 3.6.2.8");

struct nvme_tcp_term { /* H2CTermReq and C2HTermReq, TCP 3.6.2.4, 3.6.2.5 */
	struct nvme_tcp_hdr hdr;
	struct le16 fes;
	struct le32 fei;
	uint8_t rsvd14[10];
};
static_assert(sizeof(struct nvme_tcp_term) == 24, "TCP 3.6.2.5");

enum nvme_tcp_fes {                                 /* fatal error status, TCP 3.6.2.5 */
		    NVME_TCP_FES_INVALID_FIELD = 1, /* FEI: offset of the field */
		    NVME_TCP_FES_SEQUENCE = 2,
		    NVME_TCP_FES_HEADER_DIGEST = 3, /* FEI: the digest that was received */
		    NVME_TCP_FES_OUT_OF_RANGE = 4,
		    NVME_TCP_FES_LIMIT = 5,       /* data transfer or R2T limit exceeded */
		    NVME_TCP_FES_UNSUPPORTED = 6, /* FEI: offset of the field */
};

/* ---- asymmetric access (Base 5.16.1.13, 8.1) ------------------------------------------------ */

enum nvme_ana_state {
	NVME_ANA_OPTIMIZED = 0x1,
	NVME_ANA_NON_OPTIMIZED = 0x2,
	NVME_ANA_INACCESSIBLE = 0x3,
	NVME_ANA_PERSISTENT_LOSS = 0x4,
	NVME_ANA_CHANGE = 0xf,
};

/* ---- what a host needs besides -------------------------------------------------------------- */

enum {
	NVME_SC_COMMAND_INTERRUPTED = 0x021,
	NVME_SCT_PATH = 3,
	NVME_AEN_TYPE_ERROR = 0, /* Base 5.2, figure "Asynchronous Event Type" */
	NVME_AEN_TYPE_HEALTH = 1,
	NVME_ADMIN_DELETE_SQ = 0x00, /* memory based queues only */
	NVME_ADMIN_CREATE_SQ = 0x01,
	NVME_ADMIN_DELETE_CQ = 0x04,
	NVME_ADMIN_CREATE_CQ = 0x05,
	NVME_CC_SHN_NORMAL = 1 << 14,
	NVME_LBAF_FIRST_BITS = 0x0f, /* FLBAS 3:0, and 6:5 above them when NLBAF > 15 */
};

enum {
	NVME_TCP_DIGEST_SIZE = 4,
	NVME_TCP_TERM_DATA_MAX = 128,       /* bytes of the offending header that are sent back */
	NVME_TCP_ADMIN_CAPSULE_DATA = 8192, /* admin and fabrics commands carry at most, TCP 3.2 */
	NVME_TCP_PDA_MAX = 31,
	NVME_TCP_PORT = 4420,
	NVME_TCP_DISCOVERY_PORT = 8009,
};

#endif
