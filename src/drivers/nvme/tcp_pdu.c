// SPDX-License-Identifier: Apache-2.0
/*
 * The border of target and initiator: the peer's bytes become a struct pdu here or nowhere.
 *
 * A PDU is a common header of 8 bytes, the rest of a header whose length its type fixes, a header
 * digest if agreed, padding, data, a data digest if agreed. Everything that can be judged without
 * knowing the commands in flight is judged here, in the order in which the bytes arrive, so that a
 * PDU is refused at the first byte that is wrong and never waited for when its length is absurd:
 *
 *   8 bytes there:       type known and allowed now, HLEN, flags, PLEN, PDO     fault 1, 2
 *   header + digest:     header digest                                          fault 3
 *                        type's own fields: DATAL agrees with PLEN              fault 1, 4, 5, 6
 *
 * What needs the commands (is this TTAG or CID one of ours, is the offset the next) is the
 * business of who receives: target/tcp.c, drivers/nvmf/queue_rx.c.
 *
 * Decisions where the specification leaves room
 *   - The data digest flag must be set exactly when digests were agreed and data is present: Linux
 *     and SPDK do so, and a length that depends on a flag must not be ambiguous.
 *   - PDO is ignored without data (senders disagree between 0 and HLEN).
 *   - We ask for no alignment (CPDA and HPDA 0), so PDO must be a multiple of 4 behind the header.
 *   - SUCCESS without LAST is refused: the command would be over before its data.
 *   - A controller whose MAXH2CDATA is below 4096 or no multiple of 4 is refused, as Linux does.
 *
 * Thread: pure functions. tests/fuzz/fuzz_pdu.c runs them on arbitrary bytes.
 *
 * Rejected: a state machine per byte or per field (the receive buffer holds whole PDUs nearly
 * always; judging them in place costs a dozen comparisons).
 */
#include "drivers/nvme/tcp_pdu.h"

#include <string.h>

#include "base/crc32c.h"

/* What a type looks like; a zero hlen means that this side may not send it. */
struct shape {
	uint8_t hlen;
	uint8_t flags;   /* that may be set, digests aside */
	bool has_digest; /* header digest applies */
	bool has_data;
	bool before_ic; /* allowed before the exchange of ICReq and ICResp */
	bool after_ic;
};

enum { SHAPES = NVME_TCP_R2T + 1 };

/* Rows: sent by a host, sent by a controller. */
static const struct shape shapes[2][SHAPES] = {
	{
		[NVME_TCP_ICREQ] = { .hlen = sizeof(struct nvme_tcp_ic), .before_ic = true },
		[NVME_TCP_H2C_TERM] = { .hlen = sizeof(struct nvme_tcp_term),
					.before_ic = true,
					.after_ic = true },
		[NVME_TCP_CAPSULE_CMD] = { .hlen = sizeof(struct nvme_tcp_capsule_cmd),
					   .has_digest = true,
					   .has_data = true,
					   .after_ic = true },
		[NVME_TCP_H2C_DATA] = { .hlen = sizeof(struct nvme_tcp_data),
					.flags = NVME_TCP_LAST,
					.has_digest = true,
					.has_data = true,
					.after_ic = true },
	},
	{
		[NVME_TCP_ICRESP] = { .hlen = sizeof(struct nvme_tcp_ic), .before_ic = true },
		[NVME_TCP_C2H_TERM] = { .hlen = sizeof(struct nvme_tcp_term),
					.before_ic = true,
					.after_ic = true },
		[NVME_TCP_CAPSULE_RESP] = { .hlen = sizeof(struct nvme_tcp_capsule_resp),
					    .has_digest = true,
					    .after_ic = true },
		[NVME_TCP_C2H_DATA] = { .hlen = sizeof(struct nvme_tcp_data),
					.flags = NVME_TCP_LAST | NVME_TCP_SUCCESS,
					.has_digest = true,
					.has_data = true,
					.after_ic = true },
		[NVME_TCP_R2T] = { .hlen = sizeof(struct nvme_tcp_r2t),
				   .has_digest = true,
				   .after_ic = true },
	},
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

static uint32_t data_max(const struct pdu_rules *rules, uint8_t type)
{
	if (type == NVME_TCP_CAPSULE_CMD)
		return rules->capsule_data_max;
	return rules->is_host ? rules->c2h_data_max : rules->h2c_data_max;
}

/* Place the data and check the lengths around it: capsules, H2CData and C2HData. */
static enum pdu_result place_data(const struct pdu_rules *rules, const struct nvme_tcp_hdr *hdr,
				  struct pdu *pdu, struct pdu_fault *ret_fault)
{
	uint32_t ddgst = rules->ddgst ? NVME_TCP_DIGEST_SIZE : 0;
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
	if (pdu->data_len <= data_max(rules, pdu->type))
		return PDU_OK;
	if (pdu->type == NVME_TCP_H2C_DATA)
		return fault(ret_fault, NVME_TCP_FES_LIMIT, 0);
	if (pdu->type == NVME_TCP_C2H_DATA)
		return fault(ret_fault, NVME_TCP_FES_OUT_OF_RANGE, 0);
	return bad_field(ret_fault, offsetof(struct nvme_tcp_hdr, plen));
}

/* Lengths of what carries no data. */
static enum pdu_result check_len(const struct shape *shape, const struct pdu *pdu,
				 struct pdu_fault *ret_fault)
{
	bool is_term = pdu->type == NVME_TCP_H2C_TERM || pdu->type == NVME_TCP_C2H_TERM;

	if (is_term ? pdu->len < shape->hlen ||
			      pdu->len > shape->hlen + (uint32_t)NVME_TCP_TERM_DATA_MAX
		    : pdu->len != pdu->header_len)
		return bad_field(ret_fault, offsetof(struct nvme_tcp_hdr, plen));
	return PDU_OK;
}

/* The first 8 bytes. */
static enum pdu_result check_common(const struct pdu_rules *rules, const struct nvme_tcp_hdr *hdr,
				    struct pdu *pdu, struct pdu_fault *ret_fault)
{
	const struct shape *shape = &shapes[rules->is_host][hdr->type < SHAPES ? hdr->type : 0];
	uint8_t allowed;

	if (hdr->type >= SHAPES || shape->hlen == 0)
		return bad_field(ret_fault, offsetof(struct nvme_tcp_hdr, type));
	if (rules->is_ready ? !shape->after_ic : !shape->before_ic)
		return fault(ret_fault, NVME_TCP_FES_SEQUENCE, 0);
	if (hdr->hlen != shape->hlen)
		return bad_field(ret_fault, offsetof(struct nvme_tcp_hdr, hlen));
	allowed = shape->flags;
	if (shape->has_digest) {
		allowed |= NVME_TCP_HDGST | (shape->has_data ? NVME_TCP_DDGST : 0);
		if (((hdr->flags & NVME_TCP_HDGST) != 0) != rules->hdgst)
			return bad_field(ret_fault, offsetof(struct nvme_tcp_hdr, flags));
	}
	if ((hdr->flags & ~allowed) ||
	    (hdr->flags & (NVME_TCP_LAST | NVME_TCP_SUCCESS)) == NVME_TCP_SUCCESS)
		return bad_field(ret_fault, offsetof(struct nvme_tcp_hdr, flags));
	pdu->type = hdr->type;
	pdu->flags = hdr->flags;
	pdu->len = le32_get(hdr->plen);
	pdu->header_len = hdr->hlen;
	if (shape->has_digest && rules->hdgst)
		pdu->header_len += NVME_TCP_DIGEST_SIZE;
	return shape->has_data ? place_data(rules, hdr, pdu, ret_fault)
			       : check_len(shape, pdu, ret_fault);
}

/* ICReq, ICResp. What was asked for and what is granted is compared by who asked. */
static enum pdu_result check_ic(const struct nvme_tcp_ic *ic, struct pdu_fault *ret_fault)
{
	uint32_t max = le32_get(ic->max);

	if (le16_get(ic->pfv) != 0)
		return fault(ret_fault, NVME_TCP_FES_UNSUPPORTED,
			     offsetof(struct nvme_tcp_ic, pfv));
	if (ic->pda > NVME_TCP_PDA_MAX)
		return bad_field(ret_fault, offsetof(struct nvme_tcp_ic, pda));
	if (ic->dgst & ~(NVME_TCP_HDGST | NVME_TCP_DDGST))
		return bad_field(ret_fault, offsetof(struct nvme_tcp_ic, dgst));
	if (ic->hdr.type == NVME_TCP_ICRESP && (max < PDU_H2C_DATA_MIN || max % 4 != 0))
		return bad_field(ret_fault, offsetof(struct nvme_tcp_ic, max));
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
	if (ret_pdu->type == NVME_TCP_ICREQ || ret_pdu->type == NVME_TCP_ICRESP)
		return check_ic((const void *)buf, ret_fault);
	if (ret_pdu->type == NVME_TCP_H2C_DATA || ret_pdu->type == NVME_TCP_C2H_DATA)
		return check_data((const void *)buf, ret_pdu, ret_fault);
	return PDU_OK;
}

size_t pdu_offending(const uint8_t *buf, size_t len)
{
	const struct nvme_tcp_hdr *hdr = (const void *)buf;
	size_t header = 0;

	if (len >= sizeof(*hdr) && hdr->type < SHAPES)
		header = MAX(shapes[0][hdr->type].hlen, shapes[1][hdr->type].hlen);
	if (header == 0)
		header = PDU_HEADER_MAX;
	return len < header ? len : header;
}
