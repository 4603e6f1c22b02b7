/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ident.h - what a controller says about itself, checked once, as plain numbers.
 *
 * Owner:  values; nothing here keeps a pointer.
 * Thread: any; no state.
 * Rules:  everything below nvmf_*_check() may trust what it finds in these structures.
 */
#ifndef ASHLAR_DRIVERS_NVMF_IDENT_H
#define ASHLAR_DRIVERS_NVMF_IDENT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/uuid.h"
#include "drivers/nvme/spec.h"

enum {
	ANA_GROUPS_MAX = 1024, /* groups of one controller that we keep track of */
};

struct nvmf_ctrl_info {
	char sn[21], mn[41], fr[9];
	uint32_t capsule_data_max; /* bytes of data in a command of an I/O queue */
	uint32_t data_max;         /* bytes of one command's data, > 0 */
	uint32_t nn;
	uint32_t oaes;
	uint32_t nanagrpid; /* 0: no ANA */
	uint32_t anatt_s;
	uint16_t oncs;
	uint16_t fuse_nlb; /* blocks of an atomic compare-and-write, 0: cannot */
	uint16_t crdt[3];  /* units of 100 ms */
	uint8_t aerl;      /* 0's based */
	uint8_t ccrl;      /* Cross-Controller Resets it takes at once, 0: none */
	uint8_t ciu;       /* of this instance, with: */
	uint64_t cirn;     /* 0: it does not tell */
	bool is_discovery;
	bool has_write_cache;
	bool has_keep_alive;
	bool has_tbkas;
	/* NVM command set, filled in by nvmf_ctrl_check_nvm() */
	uint64_t wz_max;        /* bytes of one write-zeroes, 0: no limit */
	uint32_t dsm_range_max; /* blocks of one range, 0: no limit */
	uint64_t dsm_max;       /* blocks of one command, 0: no limit */
};

struct nvmf_ns_info {
	uint32_t nsid;
	uint64_t nblocks;
	uint32_t block_size;
	uint32_t anagrpid;
	uint32_t optimal_nlb; /* 0: not told */
	uint32_t fuse_nlb;    /* blocks of an atomic compare-and-write, 0: as the controller says */
	uint32_t physical_nlb; /* 1: not told */
	struct uuid uuid;      /* null where the namespace has none; so the next two */
	uint8_t nguid[16], eui64[8];
	bool is_shared, is_read_only, is_thin;
	bool has_wz_deac; /* Write Zeroes may deallocate, and reads zeroes all the same */
};

/* -EPROTO when the page makes no sense, -ENOTSUP when we cannot work with such a controller. */
int nvmf_ctrl_check(const struct nvme_id_ctrl *id, const char *subnqn,
		    struct nvmf_ctrl_info *ret_info, struct err *err) WARN_UNUSED;
void nvmf_ctrl_check_nvm(const struct nvme_id_ctrl_nvm *id, struct nvmf_ctrl_info *info);

/* -ENODEV: the namespace is not active. */
int nvmf_ns_check(const struct nvme_id_ns *id, uint32_t nsid, struct nvmf_ns_info *ret_info,
		  struct err *err) WARN_UNUSED;
/* -ENOTSUP: the controller cannot transfer a single block of it. */
int nvmf_ns_check_fits(const struct nvmf_ns_info *ns, const struct nvmf_ctrl_info *info,
		       struct err *err) WARN_UNUSED;
/* Identification descriptors into @info. -EPROTO: they contradict the namespace or themselves. */
int nvmf_ns_check_desc(const uint8_t *list, size_t size, struct nvmf_ns_info *info,
		       struct err *err) WARN_UNUSED;
/* Is it the same medium, as far as both can tell? */
bool nvmf_ns_is_same(const struct nvmf_ns_info *a, const struct nvmf_ns_info *b);
/* Has it an identity that holds across controllers? */
bool nvmf_ns_has_identity(const struct nvmf_ns_info *ns);
/* The uuid for the device: UUID, else NGUID; null: neither. */
struct uuid nvmf_ns_uuid(const struct nvmf_ns_info *ns);

/* What a target still knows of our host. */
struct nvmf_leftover {
	uint32_t nconns;  /* closed, with commands that are not ended */
	uint32_t nctrlrs; /* that look alive, ours among them */
};

/* -ENOTSUP: it is not a page that we know. */
int nvmf_leftover_check(const struct nvme_log_leftover *page,
			struct nvmf_leftover *ret) WARN_UNUSED;

/* ---- asymmetric access -------------------------------------------------------------------- */

struct ana_group {
	uint32_t id;
	uint8_t state; /* enum nvme_ana_state */
};

/*
 * Read a log of @size bytes. Number of groups, at most @max; -EPROTO when it runs over its end,
 * -E2BIG for more than @max groups.
 */
int ana_parse(const uint8_t *log, size_t size, struct ana_group *groups, unsigned max,
	      struct err *err) WARN_UNUSED;
/* The state of group @id; inaccessible for one that the log does not have. */
uint8_t ana_state(const struct ana_group *groups, unsigned count, uint32_t id);

enum path_class {
	PATH_NEVER,         /* no connection, or the namespace is not there */
	PATH_WAIT,          /* about to change: wait */
	PATH_INACCESSIBLE,  /* connected, but not through here */
	PATH_NON_OPTIMIZED, /* only when there is no better */
	PATH_OPTIMIZED,
	PATH_CLASS_COUNT_,
};

enum path_class path_class_of_ana(uint8_t state);
/* The best usable paths: their indices into @ret_index; returns how many, 0: none is usable. */
unsigned path_choose(const enum path_class classes[], unsigned count, uint8_t ret_index[]);

#endif
