// SPDX-License-Identifier: Apache-2.0
/*
 * How an I/O ended: one table from our statuses to errno, to NVMe and to whose fault it was.
 *
 * A status is born in a driver (an errno of the kernel, a completion of a peer, a full pool) and
 * dies at an owner (an errno for a caller, a completion for a host, a decision of a mirror). In
 * between it travels as one number. Every translation is a look-up in `table`, so that two places
 * cannot disagree on what "no space" is called.
 *
 * Numbers
 *   NVMe: status code type << 8 | status code, NVM Express Base Specification 2.0, 3.3.3.2.1, in
 *   the tables of generic (type 0), media and data integrity (2) and path related (3) status
 *   values; the codes from 0x80 on in the generic table are those of the I/O command sets.
 *   errno: what the Linux block layer answers for the same trouble, so that a file on a device of
 *   ours and one on a kernel device fail alike. Two exceptions: a read of unwritten blocks and a
 *   miscompare are EIO, as the original has it (ReadingUnallocatedBlock, CompareFailed).
 *
 * Invariants
 *   1. A row for each status, in the order of the enum (a static_assert counts, the test names).
 *   2. status -> NVMe -> status is the identity for rows that are `both`. The other rows have a
 *      code of their own on the way out, but a peer who says it need not mean what we mean: on the
 *      way in it stays raw. Raw codes come out again bit by bit.
 *   3. The verdict of a status and of the NVMe code it becomes are equal: a status that crossed a
 *      wire is judged as it would have been at home.
 *
 * Do not retry is set where the same request would fail the same way again. Space, reservations and
 * the medium are not: a host that is told to wait (CRD) may find them better, which the original
 * relies on.
 *
 * Verdicts follow the mirror's rules to come: an unknown opcode keeps the copy, a
 * reservation conflict says nothing about the copy, everything else retires it; media errors of
 * reads are answered by another copy and repaired (docs/ARCHITECTURE.md).
 *
 * Thread: const data, any.
 *
 * Rejected: errno on the data path (EIO has seven causes here); NVMe status as the only currency (a
 * driver of files would have to invent codes, and no space has two); a callback per translation.
 */
#include "device/status.h"

#include <errno.h>

#include "base/base.h"

struct row {
	const char *name;
	int errnum;    /* positive */
	uint16_t nvme; /* type << 8 | code */
	bool is_final; /* do not retry */
	bool is_both;  /* the NVMe code becomes this status again */
	enum io_verdict verdict;
};

static const struct row table[] = {
	[IO_OK] = { "ok", 0, 0x000, false, true, IO_VERDICT_OK },
	/* Internal Error */
	[IO_FAILED] = { "failed", EIO, 0x006, false, true, IO_VERDICT_FAIL_LEG },
	/* Invalid Field in Command */
	[IO_INVALID] = { "invalid request", EINVAL, 0x002, true, true, IO_VERDICT_CALLER },
	/* Invalid Command Opcode */
	[IO_UNSUPPORTED] = { "unsupported", EOPNOTSUPP, 0x001, true, true, IO_VERDICT_ELSEWHERE },
	/* LBA Out of Range */
	[IO_OUT_OF_RANGE] = { "out of range", ERANGE, 0x080, true, true, IO_VERDICT_CALLER },
	/* Namespace is Write Protected */
	[IO_READ_ONLY] = { "read only", EROFS, 0x020, true, true, IO_VERDICT_FAIL_LEG },
	/* Unrecovered Read Error */
	[IO_READ_ERROR] = { "read error", ENODATA, 0x281, false, true, IO_VERDICT_ELSEWHERE },
	/* Write Fault */
	[IO_WRITE_ERROR] = { "write error", ENODATA, 0x280, false, true, IO_VERDICT_FAIL_LEG },
	/* Compare Failure */
	[IO_MISCOMPARE] = { "miscompare", EIO, 0x285, true, true, IO_VERDICT_CALLER },
	/* Deallocated or Unwritten Logical Block */
	[IO_UNWRITTEN] = { "unwritten", EIO, 0x287, true, true, IO_VERDICT_CALLER },
	/* Data Transfer Error */
	[IO_TRANSFER] = { "transfer error", EREMOTEIO, 0x004, false, true, IO_VERDICT_FAIL_LEG },
	/* End-to-end Guard Check Error */
	[IO_CORRUPT] = { "corrupt", EILSEQ, 0x282, false, true, IO_VERDICT_ELSEWHERE },
	/* Capacity Exceeded */
	[IO_NO_SPACE] = { "no space", ENOSPC, 0x081, false, true, IO_VERDICT_FAIL_LEG },
	/* Command Interrupted: the host is asked to send it again */
	[IO_NO_MEMORY] = { "no memory", ENOMEM, 0x021, false, false, IO_VERDICT_RETRY },
	/* Command Abort Requested */
	[IO_ABORTED] = { "aborted", ECANCELED, 0x007, false, true, IO_VERDICT_FAIL_LEG },
	/* Transient Transport Error: nothing nearer exists */
	[IO_TIMED_OUT] = { "timed out", ETIMEDOUT, 0x022, false, false, IO_VERDICT_FAIL_LEG },
	/* Controller Pathing Error */
	[IO_TRANSPORT] = { "transport error", ENOLINK, 0x360, false, true, IO_VERDICT_FAIL_LEG },
	/* Invalid Namespace or Format */
	[IO_NO_DEVICE] = { "no device", ENODEV, 0x00b, true, true, IO_VERDICT_FAIL_LEG },
	/* Namespace Not Ready */
	[IO_NOT_READY] = { "not ready", EAGAIN, 0x082, false, true, IO_VERDICT_RETRY },
	/* Reservation Conflict */
	[IO_RESERVED] = { "reservation conflict", EBADE, 0x083, false, true, IO_VERDICT_CALLER },
	/* Asymmetric Access Inaccessible: a path is closed for other reasons, too */
	[IO_ENDED] = { "ended here", ENOLINK, 0x302, false, false, IO_VERDICT_FAIL_LEG },
};

static_assert(sizeof(table) / sizeof(table[0]) == IO_STATUS_COUNT_, "a row for each status");

enum {
	NVME_MASK = 0x7ff,                   /* type and code */
	NVME_VENDOR_ENOSPC = 0x700 | ENOSPC, /* how the original's replicas say "no space" */
};

static_assert(ENOSPC == 28, "the vendor code of no space is Linux' number");

/* Raw codes whose verdict or errno differs from "this copy failed, EIO". */
static const struct {
	uint16_t nvme;
	uint16_t like; /* the status that is judged alike */
} raw_table[] = {
	{ 0x021, IO_NOT_READY }, /* Command Interrupted */
	{ 0x022, IO_TIMED_OUT }, /* Transient Transport Error */
	{ 0x003, IO_INVALID },   /* Command ID Conflict */
	{ 0x00c, IO_INVALID },   /* Command Sequence Error */
	{ 0x008, IO_TRANSPORT }, /* Aborted due to SQ Deletion */
	{ 0x084, IO_NOT_READY }, /* Format in Progress */
	{ 0x182, IO_READ_ONLY }, /* Attempted Write to Read Only Range */
	{ 0x283, IO_CORRUPT },   /* Application Tag Check Error */
	{ 0x284, IO_CORRUPT },   /* Reference Tag Check Error */
	{ 0x300, IO_TRANSPORT }, /* Internal Path Error */
	{ 0x301, IO_TRANSPORT }, /* Asymmetric Access Persistent Loss */
	{ 0x302, IO_TRANSPORT }, /* Asymmetric Access Inaccessible */
	{ 0x303, IO_NOT_READY }, /* Asymmetric Access Transition */
	{ 0x370, IO_TRANSPORT }, /* Host Pathing Error */
	{ 0x371, IO_ABORTED },   /* Command Aborted By Host */
};

/* errno to status where the table's first match would be wrong or missing. */
static const struct {
	int errnum;
	uint16_t status;
} errno_table[] = {
	{ EPERM, IO_READ_ONLY },        { EBADF, IO_NO_DEVICE },
	{ ENXIO, IO_NO_DEVICE },        { ENOENT, IO_NO_DEVICE },
	{ ESHUTDOWN, IO_NO_DEVICE },    { EDQUOT, IO_NO_SPACE },
	{ EFBIG, IO_OUT_OF_RANGE },     { ENOSYS, IO_UNSUPPORTED },
	{ ENOTTY, IO_UNSUPPORTED },     { ENOBUFS, IO_NO_MEMORY },
	{ EINTR, IO_NOT_READY },        { EBUSY, IO_NOT_READY },
	{ ETIME, IO_TIMED_OUT },        { EBADMSG, IO_CORRUPT },
	{ EUCLEAN, IO_CORRUPT },        { ECONNRESET, IO_TRANSPORT },
	{ ECONNREFUSED, IO_TRANSPORT }, { ECONNABORTED, IO_TRANSPORT },
	{ ENOTCONN, IO_TRANSPORT },     { EPIPE, IO_TRANSPORT },
	{ EHOSTUNREACH, IO_TRANSPORT }, { ENETUNREACH, IO_TRANSPORT },
};

/* The row that says what @status means: its own, or that of the status a raw code is judged as. */
static const struct row *row_of(uint16_t status)
{
	uint16_t nvme = status & NVME_MASK;

	if (!(status & IO_STATUS_NVME))
		return &table[status < IO_STATUS_COUNT_ ? status : IO_FAILED];
	for (size_t i = 0; i < ARRAY_LEN(raw_table); i++) {
		if (raw_table[i].nvme == nvme)
			return &table[raw_table[i].like];
	}
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		if (table[i].nvme == nvme)
			return &table[i];
	}
	return &table[nvme == NVME_VENDOR_ENOSPC ? IO_NO_SPACE : IO_FAILED];
}

uint16_t io_status_to_nvme(uint16_t status)
{
	if (status & IO_STATUS_NVME)
		return status & NVME_MASK;
	return row_of(status)->nvme;
}

bool io_status_is_final(uint16_t status)
{
	return row_of(status)->is_final;
}

uint16_t io_status_from_nvme(uint8_t sct, uint8_t sc)
{
	uint16_t nvme = (uint16_t)((sct & 7) << 8 | sc);

	for (uint16_t status = 0; status < IO_STATUS_COUNT_; status++) {
		if (table[status].is_both && table[status].nvme == nvme)
			return status;
	}
	return nvme == NVME_VENDOR_ENOSPC ? IO_NO_SPACE : io_status_nvme(sct, sc);
}

int io_status_to_errno(uint16_t status)
{
	return -row_of(status)->errnum;
}

uint16_t io_status_from_errno(int error, bool is_write)
{
	int errnum = error < 0 ? -error : error;

	if (errnum == 0)
		return IO_OK;
	/* A kernel device says EIO when it does not know, ENODATA when the medium failed: for the
	 * owner of several copies both are the medium's. */
	if (errnum == EIO || errnum == ENODATA)
		return is_write ? IO_WRITE_ERROR : IO_READ_ERROR;
	for (size_t i = 0; i < ARRAY_LEN(errno_table); i++) {
		if (errno_table[i].errnum == errnum)
			return errno_table[i].status;
	}
	for (uint16_t status = 0; status < IO_STATUS_COUNT_; status++) {
		if (table[status].errnum == errnum)
			return status;
	}
	return IO_FAILED;
}

enum io_verdict io_status_verdict(uint16_t status)
{
	return row_of(status)->verdict;
}

const char *io_status_name(uint16_t status)
{
	static const char *const types[] = {
		"NVMe generic error",         "NVMe command specific error",
		"NVMe media error",           "NVMe path error",
		"NVMe error of unknown type", "NVMe error of unknown type",
		"NVMe error of unknown type", "NVMe vendor specific error",
	};

	if (status & IO_STATUS_NVME)
		return types[status >> 8 & 7];
	return status < IO_STATUS_COUNT_ ? table[status].name : "unknown status";
}
