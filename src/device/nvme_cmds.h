/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_cmds.h - NVMe commands for those who hold a handle: identify, log pages, reservations.
 *
 * Only devices that pass NVMe commands through (IO_NVME_ADMIN, IO_NVME_IO) know them; on any other
 * each of these is -EOPNOTSUPP.
 *
 * Owner:  buffers are the caller's.
 * Thread: a task, with a handle of the primary reactor.
 * Errors: a negative errno made of the status (io_status_to_errno), the command's name in @err:
 *         -EBADE for a reservation conflict, -ENOLINK when no path leads there.
 */
#ifndef ASHLAR_DEVICE_NVME_CMDS_H
#define ASHLAR_DEVICE_NVME_CMDS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "device/device.h"
#include "device/nvme_resv.h"

enum { NVME_CMDS_PAGE = 4096 }; /* bytes of an Identify page */

/* Any admin command of 64 bytes as Base 3.3.3 lays it out. *@ret_dw0 may be NULL. */
int nvme_admin(struct handle *h, const void *cmd, void *buf, size_t len, uint32_t *ret_dw0,
	       struct err *err) MAY_SUSPEND WARN_UNUSED;

int nvme_identify_ctrlr(struct handle *h, void *page, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* @nsid 0: the namespace that the device is. */
int nvme_identify_ns(struct handle *h, uint32_t nsid, void *page,
		     struct err *err) MAY_SUSPEND WARN_UNUSED;
/* @len: a multiple of 4. */
int nvme_log_page(struct handle *h, uint8_t lid, uint32_t nsid, uint64_t off, void *buf,
		  uint32_t len, struct err *err) MAY_SUSPEND WARN_UNUSED;

/* What a controller says of its health: SMART / Health Information, Base 5.16.1.3. */
struct nvme_health {
	uint8_t critical;               /* enum nvme_critical */
	uint8_t spare, spare_threshold; /* percent */
	uint8_t used;                   /* percent of what it was made for; 255: that or more */
	uint16_t temperature_k;
	uint64_t media_errors; /* UINT64_MAX: that many or more */
};

enum nvme_critical {
	NVME_CRITICAL_SPARE = 1 << 0, /* below its threshold */
	NVME_CRITICAL_TEMPERATURE = 1 << 1,
	NVME_CRITICAL_RELIABILITY = 1 << 2, /* media or internal errors */
	NVME_CRITICAL_READ_ONLY = 1 << 3,
	NVME_CRITICAL_BACKUP = 1 << 4, /* of volatile memory: failed */
	NVME_CRITICAL_MEMORY = 1 << 5, /* the persistent memory region */
};

/* Of the whole controller. */
int nvme_health(struct handle *h, struct nvme_health *ret, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* The id by which the controller knows us, 16 bytes. */
int nvme_host_id(struct handle *h, uint8_t id[16], struct err *err) MAY_SUSPEND WARN_UNUSED;

/* The existing key is not looked at (IEKEY), as the original registers. */
int nvme_resv_register(struct handle *h, uint64_t key, uint64_t new_key,
		       enum nvme_resv_action action, enum nvme_resv_persist persist,
		       struct err *err) MAY_SUSPEND WARN_UNUSED;
int nvme_resv_acquire(struct handle *h, uint64_t key, uint64_t preempt_key,
		      enum nvme_resv_action action, enum nvme_resv_type type,
		      struct err *err) MAY_SUSPEND WARN_UNUSED;
int nvme_resv_release(struct handle *h, uint64_t key, enum nvme_resv_action action,
		      enum nvme_resv_type type, struct err *err) MAY_SUSPEND WARN_UNUSED;
/* @is_extended: with 16-byte host ids. @len: a multiple of 4. */
int nvme_resv_report(struct handle *h, bool is_extended, void *buf, uint32_t len,
		     struct err *err) MAY_SUSPEND WARN_UNUSED;

#endif
