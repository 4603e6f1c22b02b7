/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PDU parser of both ends, given any stream of bytes: byte 0 chooses which end we are and what
 * was agreed, the rest is walked PDU by PDU as the receiver does.
 *
 * Held against it: a verdict does not change when more bytes arrive; a refusal comes at the first
 * byte that allows it; what is accepted lies inside the PDU and within the limits.
 */
#include <string.h>

#include "base/crc32c.h"
#include "fuzz.h"
#include "drivers/nvme/tcp_pdu.h"

enum {
	IS_READY = 1 << 0,
	HAS_HDGST = 1 << 1,
	HAS_DDGST = 1 << 2,
	DIGEST_RIGHT = 1 << 3, /* put a right header digest where one is expected */
	IS_ADMIN = 1 << 4,
	IS_HOST = 1 << 5,
	BUFFER_MAX = 8192,
};

static void check_accepted(const struct pdu_rules *rules, const struct pdu *pdu)
{
	uint32_t max = pdu->type == NVME_TCP_CAPSULE_CMD ? rules->capsule_data_max
		       : pdu->type == NVME_TCP_C2H_DATA  ? rules->c2h_data_max
							 : rules->h2c_data_max;
	uint8_t ic = rules->is_host ? NVME_TCP_ICRESP : NVME_TCP_ICREQ;
	uint8_t term = rules->is_host ? NVME_TCP_C2H_TERM : NVME_TCP_H2C_TERM;

	/* ICReq, H2CTermReq, commands and H2CData are even, the answers odd. */
	MUST(pdu->type % 2 == rules->is_host);
	MUST(pdu->len >= pdu->header_len && pdu->header_len <= PDU_HEADER_MAX);
	MUST(pdu->data_len <= max && pdu->data_off <= PDU_DATA_OFF_MAX);
	MUST((uint64_t)pdu->data_off + pdu->data_len <= pdu->len);
	MUST(pdu->data_len == 0 || pdu->data_off >= pdu->header_len);
	MUST(rules->is_ready != (pdu->type == ic) || pdu->type == term);
}

/* The verdict on every prefix is the verdict on the whole, or "more". */
static void check_prefixes(const struct pdu_rules *rules, const uint8_t *at, size_t len,
			   enum pdu_result result, const struct pdu_fault *fault)
{
	size_t longest = len < PDU_HEADER_MAX ? len : PDU_HEADER_MAX;
	bool is_decided = false;

	for (size_t n = 0; n <= longest; n++) {
		struct pdu_fault early = {};
		struct pdu pdu;
		enum pdu_result verdict = pdu_parse(rules, at, n, &pdu, &early);

		MUST(!is_decided || verdict == result);
		MUST(verdict == PDU_MORE || verdict == result);
		if (verdict == PDU_BAD)
			MUST(early.fes == fault->fes && early.fei == fault->fei);
		is_decided = verdict != PDU_MORE;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t buf[BUFFER_MAX];
	struct pdu_rules rules = { .h2c_data_max = 131072, .c2h_data_max = 1 << 20 };
	size_t at = 0, len;

	if (size < 1)
		return 0;
	rules.is_host = data[0] & IS_HOST;
	rules.is_ready = data[0] & IS_READY;
	rules.hdgst = rules.is_ready && (data[0] & HAS_HDGST);
	rules.ddgst = rules.is_ready && (data[0] & HAS_DDGST);
	rules.capsule_data_max = data[0] & IS_ADMIN ? 8192 : 4096;
	len = size - 1 < sizeof(buf) ? size - 1 : sizeof(buf);
	memcpy(buf, data + 1, len);
	while (at < len) {
		struct pdu_fault fault = {};
		struct pdu pdu;
		enum pdu_result result;

		if ((data[0] & DIGEST_RIGHT) && len - at >= 8 && len - at >= buf[at + 2] + 4u) {
			struct le32 digest = le32_of(crc32c(0, buf + at, buf[at + 2]));

			memcpy(buf + at + buf[at + 2], &digest, sizeof(digest));
		}
		result = pdu_parse(&rules, buf + at, len - at, &pdu, &fault);
		check_prefixes(&rules, buf + at, len - at, result, &fault);
		MUST((result == PDU_BAD) == (fault.fes != 0));
		MUST(pdu_offending(buf + at, len - at) <= NVME_TCP_TERM_DATA_MAX);
		if (result != PDU_OK)
			break;
		check_accepted(&rules, &pdu);
		if (pdu.type == (rules.is_host ? NVME_TCP_ICRESP : NVME_TCP_ICREQ))
			rules.is_ready = true;
		if (pdu.len > len - at)
			break;
		at += pdu.len;
	}
	return 0;
}
