/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resv.h - the rules of reservations: who is registered, who holds, who may do what. No I/O.
 *
 * Owner:  struct resv is embedded; everything is plain data that may be copied by assignment.
 * Thread: whoever owns the structure.
 * Rules:  resv_apply() changes a state or, when it refuses, leaves it as it was. A registrant is a
 *         host (16 bytes of host id), not a controller: all controllers of a host share it.
 */
#ifndef ASHLAR_TARGET_RESV_H
#define ASHLAR_TARGET_RESV_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/err.h"
#include "base/uuid.h"
#include "drivers/nvme/spec.h"

enum {
	RESV_REGISTRANTS_MAX = 128, /* hosts registered with one namespace */
	RESV_HOST_SIZE = 16,        /* bytes of a host identifier over fabrics */

	RESV_DENY_READ = 1 << 0,  /* read, compare, verify */
	RESV_DENY_WRITE = 1 << 1, /* write, write zeroes, dataset management, flush */
};

struct resv_host {
	uint8_t id[RESV_HOST_SIZE];
};

struct resv_registrant {
	struct resv_host host;
	uint64_t key; /* never 0 */
};

/* Invariants: resv_is_valid(). */
struct resv {
	uint32_t generation; /* of the registrations, as Report shows it; not kept over a restart */
	uint8_t type;        /* enum nvme_resv_type */
	bool is_persistent;  /* PTPL: survives loss of power */
	uint16_t count;
	struct resv_host holder; /* zero where nobody or every registrant holds */
	struct resv_registrant registrant[RESV_REGISTRANTS_MAX];
};

/* A command, taken apart. */
struct resv_request {
	uint8_t opcode; /* NVME_IO_RESV_REGISTER, _ACQUIRE, _RELEASE */
	uint8_t action; /* bits 2:0 of CDW10 */
	uint8_t type;   /* RTYPE; acquire and release */
	uint8_t cptpl;  /* register */
	bool is_key_ignored;
	bool may_persist; /* there is somewhere to write the state to */
	uint64_t crkey;
	uint64_t other_key; /* NRKEY or PRKEY */
	struct resv_host host;
};

/* A host that is to be told what happened to it. */
struct resv_notice {
	struct resv_host host;
	uint8_t type; /* enum nvme_resv_notice */
};

/* What a command brought about. */
struct resv_effects {
	bool is_changed; /* more than the generation: what a restart has to find */
	bool is_abort;   /* commands of hosts with NVME_RESV_REGISTRATION_PREEMPTED are aborted */
	uint16_t count;
	struct resv_notice notice[RESV_REGISTRANTS_MAX];
};

static inline bool resv_host_equal(const struct resv_host *a, const struct resv_host *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

/* Carry out @q on @r. 0 or an NVMe status without DNR; then @r is untouched, @ret empty. */
uint16_t resv_apply(struct resv *r, const struct resv_request *q, struct resv_effects *ret);

/* What @host may not do: RESV_DENY_*, 0: nothing. */
unsigned resv_denied(const struct resv *r, const struct resv_host *host);
bool resv_is_holder(const struct resv *r, const struct resv_host *host);
/* May some host, whether it is connected or not, do other things under @b than under @a? */
bool resv_rights_differ(const struct resv *a, const struct resv *b);
/* Does the state obey its invariants? For states that come from outside, and for tests. */
bool resv_is_valid(const struct resv *r);
/* "write exclusive"; "none" for 0, NULL for what is no type. */
const char *resv_type_name(unsigned type);

/* ---- resv_file.c: a state on disk. These block: worker pool only. ---------------------------- */

/* Make the folder for states, and the making durable; one that is there is fine. */
int resv_file_folder(const char *folder, struct err *err) WARN_UNUSED;
/*
 * Nobody else may keep the state of the device with @uuid in @folder until *@ret_fd is closed.
 * -EBUSY: another process does, or this one already.
 */
int resv_file_lock(const char *folder, const struct uuid *uuid, int *ret_fd,
		   struct err *err) WARN_UNUSED;
/*
 * Read the state of the device with @uuid. No file: an empty state. -EINVAL for a file that is
 * damaged, belongs to another device, or holds what no command can bring about; @ret is untouched.
 */
int resv_file_load(const char *path, const struct uuid *uuid, struct resv *ret,
		   struct err *err) WARN_UNUSED;
/*
 * Make @r what a restart finds, also one after a loss of power; a state that is not persistent
 * leaves no file. On failure the file holds the old state or the new one, whole.
 */
int resv_file_save(const char *path, const struct uuid *uuid, const struct resv *r,
		   struct err *err) WARN_UNUSED;

#endif
