/* SPDX-License-Identifier: Apache-2.0 */
/*
 * status.h - how an I/O ended, and the one table that says what that means elsewhere.
 *
 * The set is closed: a status is one of the names below, or an NVMe status kept as it came from a
 * peer (IO_STATUS_NVME bit, then type and code). Everything that asks "which errno", "which NVMe
 * status" or "whose fault" asks status.c's table.
 */
#ifndef ASHLAR_DEVICE_STATUS_H
#define ASHLAR_DEVICE_STATUS_H

#include <stdbool.h>
#include <stdint.h>

enum io_status {
	IO_OK = 0,
	IO_FAILED,       /* internal error, cause unknown */
	IO_INVALID,      /* malformed request */
	IO_UNSUPPORTED,  /* the device does not do this */
	IO_OUT_OF_RANGE, /* beyond the last block */
	IO_READ_ONLY,    /* write to a read-only opening or device */
	IO_READ_ERROR,   /* medium: cannot be read */
	IO_WRITE_ERROR,  /* medium: cannot be written */
	IO_MISCOMPARE,   /* data differs */
	IO_UNWRITTEN,    /* block was never written and the read asked to be told */
	IO_TRANSFER,     /* data transfer error */
	IO_CORRUPT,      /* integrity check failed */
	IO_NO_SPACE,     /* thin device is full */
	IO_NO_MEMORY,    /* a bounded resource ran out */
	IO_ABORTED,      /* given up on request */
	IO_TIMED_OUT,
	IO_TRANSPORT, /* the path to the device broke; other paths may work */
	IO_NO_DEVICE, /* removed while in use */
	IO_NOT_READY, /* try again later */
	IO_RESERVED,  /* reservation conflict */
	IO_ENDED,     /* the device ended here, device_end(); its data may be had elsewhere */
	IO_STATUS_COUNT_,

	IO_STATUS_NVME = 0x8000, /* | sct << 8 | sc, as a peer reported it */
};

/* What the owner of several copies or paths should do. */
enum io_verdict {
	IO_VERDICT_OK,
	IO_VERDICT_CALLER,    /* the request itself is at fault: every copy would say the same */
	IO_VERDICT_RETRY,     /* same place, later */
	IO_VERDICT_ELSEWHERE, /* this copy cannot, another may; the copy stays */
	IO_VERDICT_FAIL_LEG,  /* this copy or path can no longer be trusted */
};

static inline uint16_t io_status_nvme(uint8_t sct, uint8_t sc)
{
	return sct == 0 && sc == 0 ? IO_OK : (uint16_t)(IO_STATUS_NVME | (sct & 7) << 8 | sc);
}

/* NVMe status: type << 8 | code (NVMe Base 2.0, 3.3.3.2.1), without the do-not-retry bit. */
uint16_t io_status_to_nvme(uint16_t status);
/* Is asking again pointless? The do-not-retry bit. */
bool io_status_is_final(uint16_t status);
/* The name for an NVMe status where the table has one, else the raw form. */
uint16_t io_status_from_nvme(uint8_t sct, uint8_t sc);
/* 0 or a negative errno. */
int io_status_to_errno(uint16_t status);
/* @error: 0 or a negative errno; @is_write picks the medium error. */
uint16_t io_status_from_errno(int error, bool is_write);
enum io_verdict io_status_verdict(uint16_t status);
/* "no space", or for raw NVMe a static text without the numbers. */
const char *io_status_name(uint16_t status);

#endif
