// SPDX-License-Identifier: Apache-2.0
/*
 * The table of statuses, checked from outside: numbers as the specifications have them, every way
 * through the table and back, and that a status means the same before and after a wire.
 */
#include "device/status.h"

#include <errno.h>

#include "base/tap.h"

/* Written from the specification, not from the table under test. */
static const struct {
	const char *name;
	uint16_t status;
	uint8_t sct, sc;
	int errnum;
	bool is_final;
	enum io_verdict verdict;
} expected[] = {
	{ "ok", IO_OK, 0, 0x00, 0, false, IO_VERDICT_OK },
	{ "failed", IO_FAILED, 0, 0x06, EIO, false, IO_VERDICT_FAIL_LEG },
	{ "invalid request", IO_INVALID, 0, 0x02, EINVAL, true, IO_VERDICT_CALLER },
	{ "unsupported", IO_UNSUPPORTED, 0, 0x01, EOPNOTSUPP, true, IO_VERDICT_ELSEWHERE },
	{ "out of range", IO_OUT_OF_RANGE, 0, 0x80, ERANGE, true, IO_VERDICT_CALLER },
	{ "read only", IO_READ_ONLY, 0, 0x20, EROFS, true, IO_VERDICT_FAIL_LEG },
	{ "read error", IO_READ_ERROR, 2, 0x81, ENODATA, false, IO_VERDICT_ELSEWHERE },
	{ "write error", IO_WRITE_ERROR, 2, 0x80, ENODATA, false, IO_VERDICT_FAIL_LEG },
	{ "miscompare", IO_MISCOMPARE, 2, 0x85, EIO, true, IO_VERDICT_CALLER },
	{ "unwritten", IO_UNWRITTEN, 2, 0x87, EIO, true, IO_VERDICT_CALLER },
	{ "transfer error", IO_TRANSFER, 0, 0x04, EREMOTEIO, false, IO_VERDICT_FAIL_LEG },
	{ "corrupt", IO_CORRUPT, 2, 0x82, EILSEQ, false, IO_VERDICT_ELSEWHERE },
	{ "no space", IO_NO_SPACE, 0, 0x81, ENOSPC, false, IO_VERDICT_FAIL_LEG },
	{ "no memory", IO_NO_MEMORY, 0, 0x21, ENOMEM, false, IO_VERDICT_RETRY },
	{ "aborted", IO_ABORTED, 0, 0x07, ECANCELED, false, IO_VERDICT_FAIL_LEG },
	{ "timed out", IO_TIMED_OUT, 0, 0x22, ETIMEDOUT, false, IO_VERDICT_FAIL_LEG },
	{ "transport error", IO_TRANSPORT, 3, 0x60, ENOLINK, false, IO_VERDICT_FAIL_LEG },
	{ "no device", IO_NO_DEVICE, 0, 0x0b, ENODEV, true, IO_VERDICT_FAIL_LEG },
	{ "not ready", IO_NOT_READY, 0, 0x82, EAGAIN, false, IO_VERDICT_RETRY },
	{ "reservation conflict", IO_RESERVED, 0, 0x83, EBADE, false, IO_VERDICT_CALLER },
	{ "ended here", IO_ENDED, 3, 0x02, ENOLINK, false, IO_VERDICT_FAIL_LEG },
};

TEST(status_table)
{
	CHECK_EQ(ARRAY_LEN(expected), IO_STATUS_COUNT_);
	for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
		TAP_ROW(expected[i].name);
		CHECK_EQ(expected[i].status, i);
		CHECK_STR(io_status_name(expected[i].status), expected[i].name);
		CHECK_EQ(io_status_to_nvme(expected[i].status),
			 expected[i].sct << 8 | expected[i].sc);
		CHECK_EQ(io_status_to_errno(expected[i].status), -expected[i].errnum);
		CHECK_EQ(io_status_is_final(expected[i].status), expected[i].is_final);
		CHECK_EQ(io_status_verdict(expected[i].status), expected[i].verdict);
	}
}

TEST(status_survives_the_wire)
{
	for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
		uint16_t back = io_status_from_nvme(expected[i].sct, expected[i].sc);
		/* What we call by these codes is not all that a peer may mean by them. */
		bool stays_raw = i == IO_NO_MEMORY || i == IO_TIMED_OUT || i == IO_ENDED;

		TAP_ROW(expected[i].name);
		CHECK_EQ(back, stays_raw ? io_status_nvme(expected[i].sct, expected[i].sc) : i);
		CHECK_EQ(io_status_to_nvme(back), expected[i].sct << 8 | expected[i].sc);
		CHECK_EQ(io_status_verdict(back), expected[i].verdict);
		CHECK_EQ(io_status_is_final(back), expected[i].is_final);
	}
}

TEST(status_every_nvme_code_comes_out_as_it_came_in)
{
	for (unsigned sct = 0; sct < 8; sct++) {
		for (unsigned sc = 0; sc < 256; sc++) {
			uint16_t status = io_status_from_nvme((uint8_t)sct, (uint8_t)sc);
			unsigned want = sct == 7 && sc == 28 ? 0x081 : sct << 8 | sc;

			CHECK_EQ(io_status_to_nvme(status), want);
			CHECK_EQ(status == IO_OK, want == 0);
			CHECK_EQ(io_status_to_errno(status) == 0, want == 0);
			CHECK_EQ(io_status_verdict(status) == IO_VERDICT_OK, want == 0);
		}
	}
}

TEST(status_vendor_no_space)
{
	CHECK_EQ(io_status_from_nvme(7, 28), IO_NO_SPACE);
	CHECK_EQ(io_status_from_nvme(0, 0x81), IO_NO_SPACE);
	CHECK_EQ(io_status_to_errno(io_status_nvme(7, 28)), -ENOSPC);
	CHECK_EQ(io_status_verdict(io_status_nvme(7, 28)), IO_VERDICT_FAIL_LEG);
}

TEST(status_raw_codes_are_judged_like_their_kin)
{
	static const struct {
		const char *name;
		uint16_t nvme;
		enum io_verdict verdict;
		int errnum;
	} rows[] = {
		{ "SQ deletion retires", 0x008, IO_VERDICT_FAIL_LEG, ENOLINK },
		{ "invalid opcode keeps", 0x001, IO_VERDICT_ELSEWHERE, EOPNOTSUPP },
		{ "conflict is the caller's", 0x083, IO_VERDICT_CALLER, EBADE },
		{ "write protected range", 0x182, IO_VERDICT_FAIL_LEG, EROFS },
		{ "ANA transition", 0x303, IO_VERDICT_RETRY, EAGAIN },
		{ "ANA inaccessible", 0x302, IO_VERDICT_FAIL_LEG, ENOLINK },
		{ "reference tag", 0x284, IO_VERDICT_ELSEWHERE, EILSEQ },
		{ "interrupted", 0x021, IO_VERDICT_RETRY, EAGAIN },
		{ "unheard of", 0x4ee, IO_VERDICT_FAIL_LEG, EIO },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint16_t raw = (uint16_t)(IO_STATUS_NVME | rows[i].nvme);

		TAP_ROW(rows[i].name);
		CHECK_EQ(io_status_verdict(raw), rows[i].verdict);
		CHECK_EQ(io_status_to_errno(raw), -rows[i].errnum);
	}
}

TEST(status_errno_both_ways)
{
	for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
		bool is_shared = expected[i].errnum == EIO || expected[i].errnum == ENODATA ||
				 i == IO_ENDED;

		TAP_ROW(expected[i].name);
		if (!is_shared) {
			CHECK_EQ(io_status_from_errno(-expected[i].errnum, false), i);
			CHECK_EQ(io_status_from_errno(expected[i].errnum, true), i);
		}
	}
	TAP_ROW("medium");
	CHECK_EQ(io_status_from_errno(-EIO, false), IO_READ_ERROR);
	CHECK_EQ(io_status_from_errno(-EIO, true), IO_WRITE_ERROR);
	CHECK_EQ(io_status_from_errno(-ENODATA, false), IO_READ_ERROR);
	CHECK_EQ(io_status_from_errno(-ENODATA, true), IO_WRITE_ERROR);
	TAP_ROW("kin");
	CHECK_EQ(io_status_from_errno(-EDQUOT, true), IO_NO_SPACE);
	CHECK_EQ(io_status_from_errno(-ECONNRESET, true), IO_TRANSPORT);
	CHECK_EQ(io_status_from_errno(-ENXIO, true), IO_NO_DEVICE);
	CHECK_EQ(io_status_from_errno(-EPROTO, true), IO_FAILED);
	CHECK_EQ(io_status_from_errno(-99999, true), IO_FAILED);
	for (int errnum = 1; errnum < 200; errnum++)
		CHECK(io_status_from_errno(-errnum, true) != IO_OK);
}

TEST(status_names_and_nonsense)
{
	CHECK_STR(io_status_name(IO_STATUS_NVME | 0x281), "NVMe media error");
	CHECK_STR(io_status_name(IO_STATUS_NVME | 0x7ff), "NVMe vendor specific error");
	CHECK_STR(io_status_name(0x7fff), "unknown status");
	CHECK_EQ(io_status_to_errno(0x7fff), -EIO);
	CHECK_EQ(io_status_to_nvme(0x7fff), 0x006);
	CHECK_EQ(io_status_nvme(0, 0), IO_OK);
}

TAP_MAIN()
