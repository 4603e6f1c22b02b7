/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_resv.h - reservations as NVMe writes them down: for the target, which keeps them, and for
 * owners of a handle, who ask for them (nvme_cmds.h).
 *
 * Source: NVM Express Base Specification 2.0, 7.2 to 7.5, 8.19; little endian as all of NVMe.
 */
#ifndef ASHLAR_DEVICE_NVME_RESV_H
#define ASHLAR_DEVICE_NVME_RESV_H

#include <assert.h>
#include <stdint.h>

#include "base/le.h"

enum nvme_resv_type { /* RTYPE */
		      NVME_RESV_NONE = 0,
		      NVME_RESV_WRITE_EXCLUSIVE = 1,
		      NVME_RESV_EXCLUSIVE_ACCESS = 2,
		      NVME_RESV_WRITE_EXCLUSIVE_REGISTRANTS = 3,
		      NVME_RESV_EXCLUSIVE_ACCESS_REGISTRANTS = 4,
		      NVME_RESV_WRITE_EXCLUSIVE_ALL = 5,
		      NVME_RESV_EXCLUSIVE_ACCESS_ALL = 6,
};

enum nvme_resv_action {
	NVME_RESV_REGISTER = 0, /* RREGA */
	NVME_RESV_UNREGISTER = 1,
	NVME_RESV_REPLACE = 2,
	NVME_RESV_ACQUIRE = 0, /* RACQA */
	NVME_RESV_PREEMPT = 1,
	NVME_RESV_PREEMPT_AND_ABORT = 2,
	NVME_RESV_RELEASE = 0, /* RRELA */
	NVME_RESV_CLEAR = 1,
};

enum nvme_resv_persist { /* CPTPL: what becomes of it when power is lost */
			 NVME_RESV_CPTPL_KEEP = 0, /* as it is */
			 NVME_RESV_CPTPL_FORGET = 2,
			 NVME_RESV_CPTPL_PERSIST = 3,
};

/* CDW10 of register, acquire, release: action in bits 2:0, RTYPE in 15:8. */
enum {
	NVME_RESV_ACTION_MASK = 7,
	NVME_RESV_IEKEY = 1 << 3,
	NVME_RESV_TYPE_SHIFT = 8,
	NVME_RESV_CPTPL_SHIFT = 30, /* register only */
	NVME_RESV_EDS = 1 << 0,     /* CDW11 of report */
	NVME_RESV_REGISTER_SIZE = 16,
	NVME_RESV_ACQUIRE_SIZE = 16,
	NVME_RESV_RELEASE_SIZE = 8,
};

struct nvme_resv_keys {
	struct le64 crkey;
	struct le64 other; /* register: NRKEY, acquire: PRKEY, release: not there */
};
static_assert(sizeof(struct nvme_resv_keys) == NVME_RESV_REGISTER_SIZE, "Base 7.3");

struct nvme_resv_registrant { /* extended: 128-bit host identifiers */
	struct le16 cntlid;
	uint8_t rcsts; /* bit 0: holds the reservation */
	uint8_t rsvd3[5];
	struct le64 rkey;
	uint8_t hostid[16];
	uint8_t rsvd32[32];
};
static_assert(sizeof(struct nvme_resv_registrant) == 64, "Base 7.5");

struct nvme_resv_status { /* extended */
	struct le32 gen;
	uint8_t rtype;
	struct le16 regctl;
	uint8_t rsvd7[2];
	uint8_t ptpls;
	uint8_t rsvd10[54];
	struct nvme_resv_registrant registrant[];
};
static_assert(sizeof(struct nvme_resv_status) == 64, "Base 7.5");

enum { /* RESCAP of a namespace */
       NVME_RESCAP_PTPL = 1 << 0,
       NVME_RESCAP_ALL_TYPES = 0x7e,
       NVME_RESCAP_IEKEY = 1 << 7, /* IEKEY as revision 1.3 and later define it */
};

enum nvme_resv_notice { /* types of the reservation log; bit of feature 82h */
			NVME_RESV_REGISTRATION_PREEMPTED = 1,
			NVME_RESV_RELEASED = 2,
			NVME_RESV_PREEMPTED = 3,
			NVME_RESV_MASK_ALL = 0x0e,
};

struct nvme_resv_log {     /* Base 5.16.1.24 */
	struct le64 count; /* 0: there is nothing to tell */
	uint8_t type;
	uint8_t available; /* further pages */
	uint8_t rsvd10[2];
	struct le32 nsid;
	uint8_t rsvd16[48];
};
static_assert(sizeof(struct nvme_resv_log) == 64, "Base 5.16.1.24");

#endif
