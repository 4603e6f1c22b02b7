// SPDX-License-Identifier: Apache-2.0
/*
 * The border of the target: a host's bytes become a struct pdu here or nowhere.
 *
 * A PDU is a common header of 8 bytes, the rest of a header whose length its type fixes, a header
 * digest if agreed, padding, data, a data digest if agreed. Everything that can be judged without
 * knowing the commands in flight is judged here, in the order in which the bytes arrive, so that a
 * PDU is refused at the first byte that is wrong and never waited for when its length is absurd:
 *
 *   8 bytes there:       type known and allowed now, HLEN, flags, PLEN, PDO     fault 1, 2
 *   header + digest:     header digest                                          fault 3
 *                        type's own fields: DATAL agrees with PLEN              fault 1, 5, 6
 *
 * What needs the commands (is this TTAG one of ours, is the offset the next) is tcp.c's.
 *
 * Decisions where the specification leaves room
 *   - The data digest flag must be set exactly when digests were agreed and data is present: Linux
 *     and SPDK do so, and a length that depends on a flag must not be ambiguous.
 *   - PDO is ignored without data (senders disagree between 0 and HLEN).
 *   - We ask for no alignment (CPDA 0), so PDO must be a multiple of 4 behind the header.
 *
 * Thread: pure functions. tests/fuzz/fuzz_pdu.c runs them on arbitrary bytes.
 *
 * Rejected: a state machine per byte or per field (the receive buffer holds whole PDUs nearly
 * always; judging them in place costs a dozen comparisons).
 */
#include "target/tcp_pdu.h"

#include <string.h>

#include "base/crc32c.h"

/* What a type looks like; a zero hlen means that a host may not send it. */
struct shape {
	uint8_t hlen;
	bool has_digest; /* header digest applies */
	bool before_ic;  /* allowed before ICReq was answered */
	bool after_ic;
};

static const struct shape shapes[] = {
	[NVME_TCP_ICREQ] = { .hlen = sizeof(struct nvme_tcp_ic), .before_ic = true },
	[NVME_TCP_H2C_TERM] = { .hlen = sizeof(struct nvme_tcp_term),
				.before_ic = true,
				.after_ic = true },
	[NVME_TCP_CAPSULE_CMD] = { .hlen = sizeof(struct nvme_tcp_capsule_cmd),
				   .has_digest = true,
				   .after_ic = true },
	[NVME_TCP_H2C_DATA] = { .hlen = sizeof(struct nvme_tcp_data),
				.has_digest = true,
				.after_ic = true },
};

static enum pdu_result fault(struct pdu_fault *ret, uint16_t fes, uint32_t fei)
{
	*ret = (struct pdu_fault){ .fes = fes, .fei = fei };
	return PDU_BAD;
}

static enum pdu_result bad_field(struct pdu_fault *ret, size_t off)
{
	return fault(ret, NVME_TCP_FES_INVALID_FIELD, (uint32_t)off);
}

/* Place the data and check the lengths around it: capsules and H2CData. */
static enum pdu_result place_data(const struct pdu_rules *rules, const struct nvme_tcp_hdr *hdr,
				  struct pdu *pdu, struct pdu_fault *ret_fault)
{
	uint32_t ddgst = rules->ddgst ? NVME_TCP_DIGEST_SIZE : 0;
	uint32_t max = pdu->type == NVME_TCP_CAPSULE_CMD ? rules->capsule_data_max
							 : rules->h2c_data_max;
	bool has_data = pdu->len > pdu->header_len;

	if (pdu->len < pdu->header_len)
		return bad_field(ret_fault, offsetof(struct nvme_tcp_hdr, plen));
	if (((hdr->flags & NVME_TCP_DDGST) != 0) != (rules->ddgst && has_data))
		return bad_field(ret_fault, offsetof(struct nvme_tcp_hdr, flags));
	if (!has_data)
		return PDU_OK;
	if (hdr->pdo < pdu->header_len || hdr->pdo % 4 != 0)
		return bad_field(ret_fault, offsetof(struct nvme_tcp_hdr, pdo));
	if (pdu->len <= hdr->pdo + ddgst)
		return bad_field(ret_fault, offsetof(struct nvme_tcp_hdr, plen));
	pdu->data_off = hdr->pdo;
	pdu->data_len = pdu->len - hdr->pdo - ddgst;
	if (pdu->data_len <= max)
		return PDU_OK;
	if (pdu->type == NVME_TCP_H2C_DATA)
		return fault(ret_fault, NVME_TCP_FES_LIMIT, 0);
	return bad_field(ret_fault, offsetof(struct nvme_tcp_hdr, plen));
}

/* The first 8 bytes. */
static enum pdu_result check_common(const struct pdu_rules *rules, const struct nvme_tcp_hdr *hdr,
				    struct pdu *pdu, struct pdu_fault *ret_fault)
{
	const struct shape *shape;
	uint8_t allowed = 0;

	if (hdr->type >= sizeof(shapes) / sizeof(shapes[0]) || shapes[hdr->type].hlen == 0)
		return bad_field(ret_fault, offsetof(struct nvme_tcp_hdr, type));
	shape = &shapes[hdr->type];
	if (rules->is_ready ? !shape->after_ic : !shape->before_ic)
		return fault(ret_fault, NVME_TCP_FES_SEQUENCE, 0);
	if (hdr->hlen != shape->hlen)
		return bad_field(ret_fault, offsetof(struct nvme_tcp_hdr, hlen));
	if (shape->has_digest) {
		allowed = NVME_TCP_HDGST | NVME_TCP_DDGST;
		if (((hdr->flags & NVME_TCP_HDGST) != 0) != rules->hdgst)
			return bad_field(ret_fault, offsetof(struct nvme_tcp_hdr, flags));
	}
	if (hdr->type == NVME_TCP_H2C_DATA)
		allowed |= NVME_TCP_LAST;
	if (hdr->flags & ~allowed)
		return bad_field(ret_fault, offsetof(struct nvme_tcp_hdr, flags));
	pdu->type = hdr->type;
	pdu->flags = hdr->flags;
	pdu->len = le32_get(hdr->plen);
	pdu->header_len = hdr->hlen;
	if (shape->has_digest) {
		pdu->header_len += rules->hdgst ? NVME_TCP_DIGEST_SIZE : 0;
		return place_data(rules, hdr, pdu, ret_fault);
	}
	if (hdr->type == NVME_TCP_ICREQ
		    ? pdu->len != hdr->hlen
		    : pdu->len < hdr->hlen ||
			      pdu->len > hdr->hlen + (uint32_t)NVME_TCP_TERM_DATA_MAX)
		return bad_field(ret_fault, offsetof(struct nvme_tcp_hdr, plen));
	return PDU_OK;
}

static enum pdu_result check_ic(const struct nvme_tcp_ic *ic, struct pdu_fault *ret_fault)
{
	if (le16_get(ic->pfv) != 0)
		return fault(ret_fault, NVME_TCP_FES_UNSUPPORTED,
			     offsetof(struct nvme_tcp_ic, pfv));
	if (ic->pda > NVME_TCP_PDA_MAX)
		return bad_field(ret_fault, offsetof(struct nvme_tcp_ic, pda));
	if (ic->dgst & ~(NVME_TCP_HDGST | NVME_TCP_DDGST))
		return bad_field(ret_fault, offsetof(struct nvme_tcp_ic, dgst));
	return PDU_OK;
}

static enum pdu_result check_data(const struct nvme_tcp_data *data, const struct pdu *pdu,
				  struct pdu_fault *ret_fault)
{
	if (pdu->data_len == 0 || le32_get(data->len) != pdu->data_len)
		return bad_field(ret_fault, offsetof(struct nvme_tcp_data, len));
	return PDU_OK;
}

enum pdu_result pdu_parse(const struct pdu_rules *rules, const uint8_t *buf, size_t len,
			  struct pdu *ret_pdu, struct pdu_fault *ret_fault)
{
	const struct nvme_tcp_hdr *hdr = (const void *)buf;
	enum pdu_result result;

	*ret_pdu = (struct pdu){};
	if (len < sizeof(*hdr))
		return PDU_MORE;
	result = check_common(rules, hdr, ret_pdu, ret_fault);
	if (result != PDU_OK)
		return result;
	if (len < ret_pdu->header_len)
		return PDU_MORE;
	if (ret_pdu->header_len > hdr->hlen) {
		struct le32 digest;

		memcpy(&digest, buf + hdr->hlen, sizeof(digest));
		if (le32_get(digest) != crc32c(0, buf, hdr->hlen))
			return fault(ret_fault, NVME_TCP_FES_HEADER_DIGEST, le32_get(digest));
	}
	if (ret_pdu->type == NVME_TCP_ICREQ)
		return check_ic((const void *)buf, ret_fault);
	if (ret_pdu->type == NVME_TCP_H2C_DATA)
		return check_data((const void *)buf, ret_pdu, ret_fault);
	return PDU_OK;
}

size_t pdu_offending(const uint8_t *buf, size_t len)
{
	const struct nvme_tcp_hdr *hdr = (const void *)buf;
	size_t header = PDU_HEADER_MAX;

	if (len >= sizeof(*hdr) && hdr->type < sizeof(shapes) / sizeof(shapes[0]) &&
	    shapes[hdr->type].hlen != 0)
		header = shapes[hdr->type].hlen;
	return len < header ? len : header;
}
