// SPDX-License-Identifier: Apache-2.0
/*
 * PDUs as tables: what is taken, what is refused with which fault, and at which byte that shows.
 */
#include "drivers/nvme/tcp_pdu.h"

#include "base/crc32c.h"
#include "base/tap.h"

static const struct pdu_rules before = {};
static const struct pdu_rules plain = { .is_ready = true,
					.capsule_data_max = 4096,
					.h2c_data_max = 131072 };
static const struct pdu_rules digests = { .is_ready = true,
					  .hdgst = true,
					  .ddgst = true,
					  .capsule_data_max = 4096,
					  .h2c_data_max = 131072 };

/* What a controller sends us. */
static const struct pdu_rules host_before = { .is_host = true };
static const struct pdu_rules host = { .is_host = true, .is_ready = true, .c2h_data_max = 131072 };
static const struct pdu_rules host_digests = {
	.is_host = true, .is_ready = true, .hdgst = true, .ddgst = true, .c2h_data_max = 131072
};

struct bytes {
	uint8_t b[256];
};

static struct bytes header(uint8_t type, uint8_t flags, uint8_t hlen, uint8_t pdo, uint32_t plen)
{
	struct bytes bytes = {};
	struct nvme_tcp_hdr hdr = {
		.type = type, .flags = flags, .hlen = hlen, .pdo = pdo, .plen = le32_of(plen)
	};

	memcpy(bytes.b, &hdr, sizeof(hdr));
	return bytes;
}

struct row {
	const char *name;
	const struct pdu_rules *rules;
	uint8_t type, flags, hlen, pdo;
	uint32_t plen;
	uint16_t fes; /* 0: right */
	uint32_t fei;
};

static const struct row rows[] = {
	{ "icreq", &before, 0, 0, 128, 0, 128, 0, 0 },
	{ "icreq, length", &before, 0, 0, 128, 0, 127, 1, 4 },
	{ "icreq, header length", &before, 0, 0, 8, 0, 128, 1, 2 },
	{ "icreq, flag", &before, 0, 1, 128, 0, 128, 1, 1 },
	{ "icreq again", &plain, 0, 0, 128, 0, 128, 2, 0 },
	{ "icresp", &before, 1, 0, 128, 0, 128, 1, 0 },
	{ "c2hterm", &plain, 3, 0, 24, 0, 24, 1, 0 },
	{ "capsule before icreq", &before, 4, 0, 72, 0, 72, 2, 0 },
	{ "capsule", &plain, 4, 0, 72, 0, 72, 0, 0 },
	{ "capsule, pdo without data", &plain, 4, 0, 72, 72, 72, 0, 0 },
	{ "capsule with data", &plain, 4, 0, 72, 72, 72 + 4096, 0, 0 },
	{ "capsule, padded data", &plain, 4, 0, 72, 128, 128 + 512, 0, 0 },
	{ "capsule, too much data", &plain, 4, 0, 72, 72, 72 + 4097, 1, 4 },
	{ "capsule, padding only", &plain, 4, 0, 72, 128, 128, 1, 4 },
	{ "capsule, short", &plain, 4, 0, 72, 0, 71, 1, 4 },
	{ "capsule, nothing", &plain, 4, 0, 72, 0, 0, 1, 4 },
	{ "capsule, all there is", &plain, 4, 0, 72, 72, 0xffffffff, 1, 4 },
	{ "capsule, data inside the header", &plain, 4, 0, 72, 8, 72 + 512, 1, 3 },
	{ "capsule, data not aligned", &plain, 4, 0, 72, 74, 74 + 512, 1, 3 },
	{ "capsule, header digest not agreed", &plain, 4, 1, 72, 0, 72, 1, 1 },
	{ "capsule, data digest not agreed", &plain, 4, 2, 72, 72, 72 + 512, 1, 1 },
	{ "capsule, last", &plain, 4, 4, 72, 0, 72, 1, 1 },
	{ "capsule, header digest missing", &digests, 4, 0, 72, 0, 72, 1, 1 },
	{ "capsule, length without digest", &digests, 4, 1, 72, 0, 72, 1, 4 },
	{ "capsule, data digest missing", &digests, 4, 1, 72, 76, 76 + 512, 1, 1 },
	{ "capsule, data digest without data", &digests, 4, 3, 72, 0, 76, 1, 1 },
	{ "capsule, digest only", &digests, 4, 3, 72, 76, 76 + 4, 1, 4 },
	{ "data, before icreq", &before, 6, 0, 24, 24, 24 + 512, 2, 0 },
	{ "data, header length", &plain, 6, 0, 72, 72, 72 + 512, 1, 2 },
	{ "data, success", &plain, 6, 8, 24, 24, 24 + 512, 1, 1 },
	{ "data, more than allowed", &plain, 6, 4, 24, 24, 24 + 131076, 5, 0 },
	{ "r2t", &plain, 9, 0, 24, 0, 24, 1, 0 },
	{ "type 8", &plain, 8, 0, 24, 0, 24, 1, 0 },
	{ "type 255", &plain, 255, 0, 24, 0, 24, 1, 0 },
	{ "h2cterm", &plain, 2, 0, 24, 0, 24, 0, 0 },
	{ "h2cterm with header", &before, 2, 0, 24, 0, 152, 0, 0 },
	{ "h2cterm, too long", &plain, 2, 0, 24, 0, 153, 1, 4 },
	{ "h2cterm, too short", &plain, 2, 0, 24, 0, 23, 1, 4 },

	{ "host: icresp, length", &host_before, 1, 0, 128, 0, 132, 1, 4 },
	{ "host: icresp again", &host, 1, 0, 128, 0, 128, 2, 0 },
	{ "host: icreq", &host_before, 0, 0, 128, 0, 128, 1, 0 },
	{ "host: h2cterm", &host, 2, 0, 24, 0, 24, 1, 0 },
	{ "host: command", &host, 4, 0, 72, 0, 72, 1, 0 },
	{ "host: h2cdata", &host, 6, 4, 24, 24, 24 + 512, 1, 0 },
	{ "host: response before icresp", &host_before, 5, 0, 24, 0, 24, 2, 0 },
	{ "host: data before icresp", &host_before, 7, 4, 24, 24, 24 + 512, 2, 0 },
	{ "host: r2t before icresp", &host_before, 9, 0, 24, 0, 24, 2, 0 },
	{ "host: response", &host, 5, 0, 24, 0, 24, 0, 0 },
	{ "host: response, pdo", &host, 5, 0, 24, 24, 24, 0, 0 },
	{ "host: response, header length", &host, 5, 0, 72, 0, 24, 1, 2 },
	{ "host: response with data", &host, 5, 0, 24, 24, 24 + 512, 1, 4 },
	{ "host: response, short", &host, 5, 0, 24, 0, 23, 1, 4 },
	{ "host: response, last", &host, 5, 4, 24, 0, 24, 1, 1 },
	{ "host: response, data digest", &host_digests, 5, 3, 24, 0, 28, 1, 1 },
	{ "host: response, header digest missing", &host_digests, 5, 0, 24, 0, 24, 1, 1 },
	{ "host: response, header digest not agreed", &host, 5, 1, 24, 0, 28, 1, 1 },
	{ "host: data, success without last", &host, 7, 8, 24, 24, 24 + 512, 1, 1 },
	{ "host: data, unknown flag", &host, 7, 16, 24, 24, 24 + 512, 1, 1 },
	{ "host: data, more than ever asked for", &host, 7, 4, 24, 24, 24 + 131076, 4, 0 },
	{ "host: data, all there is", &host, 7, 4, 24, 24, 0xffffffff, 4, 0 },
	{ "host: data, inside the header", &host, 7, 4, 24, 20, 24 + 512, 1, 3 },
	{ "host: data, not aligned", &host, 7, 4, 24, 25, 25 + 512, 1, 3 },
	{ "host: data, digest not agreed", &host, 7, 6, 24, 24, 24 + 512, 1, 1 },
	{ "host: data, digest missing", &host_digests, 7, 5, 24, 28, 28 + 512, 1, 1 },
	{ "host: r2t", &host, 9, 0, 24, 0, 24, 0, 0 },
	{ "host: r2t, length", &host, 9, 0, 24, 0, 28, 1, 4 },
	{ "host: r2t, flag", &host, 9, 4, 24, 0, 24, 1, 1 },
	{ "host: c2hterm", &host, 3, 0, 24, 0, 24, 0, 0 },
	{ "host: c2hterm at once", &host_before, 3, 0, 24, 0, 152, 0, 0 },
	{ "host: c2hterm, too long", &host, 3, 0, 24, 0, 153, 1, 4 },
	{ "host: type 8", &host, 8, 0, 24, 0, 24, 1, 0 },
	{ "host: type 10", &host, 10, 0, 24, 0, 24, 1, 0 },
};

TEST(common_header_decides)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const struct row *row = &rows[i];
		struct bytes bytes = header(row->type, row->flags, row->hlen, row->pdo, row->plen);
		struct pdu_fault fault = {};
		struct pdu pdu;

		TAP_ROW(row->name);
		CHECK_EQ(pdu_parse(row->rules, bytes.b, 7, &pdu, &fault), PDU_MORE);
		/* Eight bytes are enough to refuse, not to accept. */
		CHECK_EQ(pdu_parse(row->rules, bytes.b, 8, &pdu, &fault),
			 row->fes != 0 ? PDU_BAD : PDU_MORE);
		CHECK_EQ(fault.fes, row->fes);
		CHECK_EQ(fault.fei, row->fei);
		if (row->fes != 0)
			continue;
		CHECK_EQ(pdu_parse(row->rules, bytes.b, row->hlen - 1u, &pdu, &fault), PDU_MORE);
		CHECK_EQ(pdu_parse(row->rules, bytes.b, row->hlen, &pdu, &fault), PDU_OK);
		CHECK_EQ(pdu.len, row->plen);
	}
}

TEST(data_is_placed)
{
	struct bytes bytes = header(NVME_TCP_CAPSULE_CMD, 0, 72, 128, 128 + 512);
	struct pdu_fault fault;
	struct pdu pdu;

	CHECK_EQ(pdu_parse(&plain, bytes.b, 72, &pdu, &fault), PDU_OK);
	CHECK_EQ(pdu.header_len, 72);
	CHECK_EQ(pdu.data_off, 128);
	CHECK_EQ(pdu.data_len, 512);
}

TEST(header_digest_is_checked)
{
	struct bytes bytes = header(NVME_TCP_CAPSULE_CMD, 3, 72, 76, 76 + 512 + 4);
	struct le32 digest = le32_of(crc32c(0, bytes.b, 72));
	struct pdu_fault fault = {};
	struct pdu pdu;

	memcpy(bytes.b + 72, &digest, sizeof(digest));
	CHECK_EQ(pdu_parse(&digests, bytes.b, 75, &pdu, &fault), PDU_MORE);
	CHECK_EQ(pdu_parse(&digests, bytes.b, 76, &pdu, &fault), PDU_OK);
	CHECK_EQ(pdu.data_off, 76);
	CHECK_EQ(pdu.data_len, 512);
	bytes.b[40] ^= 1;
	CHECK_EQ(pdu_parse(&digests, bytes.b, 76, &pdu, &fault), PDU_BAD);
	CHECK_EQ(fault.fes, NVME_TCP_FES_HEADER_DIGEST);
	CHECK_EQ(fault.fei, le32_get(digest));
}

TEST(icreq_fields)
{
	struct nvme_tcp_ic ic = { .hdr = { .hlen = 128, .plen = le32_of(128) } };
	struct pdu_fault fault = {};
	struct pdu pdu;

	ic.pda = 31;
	ic.dgst = 3;
	CHECK_EQ(pdu_parse(&before, (void *)&ic, 128, &pdu, &fault), PDU_OK);
	ic.pda = 32;
	CHECK_EQ(pdu_parse(&before, (void *)&ic, 128, &pdu, &fault), PDU_BAD);
	CHECK_EQ(fault.fei, 10);
	ic.pda = 0;
	ic.dgst = 4;
	CHECK_EQ(pdu_parse(&before, (void *)&ic, 128, &pdu, &fault), PDU_BAD);
	CHECK_EQ(fault.fei, 11);
	ic.pfv = le16_of(1);
	CHECK_EQ(pdu_parse(&before, (void *)&ic, 128, &pdu, &fault), PDU_BAD);
	CHECK_EQ(fault.fes, NVME_TCP_FES_UNSUPPORTED);
	CHECK_EQ(fault.fei, 8);
}

TEST(icresp_fields)
{
	struct nvme_tcp_ic ic = {
		.hdr = { .type = NVME_TCP_ICRESP, .hlen = 128, .plen = le32_of(128) },
		.pda = 31,
		.dgst = 3,
		.max = le32_of(PDU_H2C_DATA_MIN)
	};
	struct pdu_fault fault = {};
	struct pdu pdu;

	CHECK_EQ(pdu_parse(&host_before, (void *)&ic, 8, &pdu, &fault), PDU_MORE);
	CHECK_EQ(pdu_parse(&host_before, (void *)&ic, 128, &pdu, &fault), PDU_OK);
	ic.max = le32_of(PDU_H2C_DATA_MIN - 4);
	CHECK_EQ(pdu_parse(&host_before, (void *)&ic, 128, &pdu, &fault), PDU_BAD);
	CHECK_EQ(fault.fei, 12);
	ic.max = le32_of(PDU_H2C_DATA_MIN + 2);
	CHECK_EQ(pdu_parse(&host_before, (void *)&ic, 128, &pdu, &fault), PDU_BAD);
	ic.max = le32_of(0xfffffffc);
	CHECK_EQ(pdu_parse(&host_before, (void *)&ic, 128, &pdu, &fault), PDU_OK);
	ic.pda = 32;
	CHECK_EQ(pdu_parse(&host_before, (void *)&ic, 128, &pdu, &fault), PDU_BAD);
	CHECK_EQ(fault.fei, 10);
	ic.pfv = le16_of(1);
	CHECK_EQ(pdu_parse(&host_before, (void *)&ic, 128, &pdu, &fault), PDU_BAD);
	CHECK_EQ(fault.fes, NVME_TCP_FES_UNSUPPORTED);
}

TEST(c2h_data_length_agrees)
{
	struct nvme_tcp_data data = { .hdr = { .type = NVME_TCP_C2H_DATA,
					       .flags = NVME_TCP_LAST | NVME_TCP_SUCCESS,
					       .hlen = 24,
					       .pdo = 128,
					       .plen = le32_of(128 + 512) },
				      .len = le32_of(512) };
	struct pdu_fault fault = {};
	struct pdu pdu;

	CHECK_EQ(pdu_parse(&host, (void *)&data, 24, &pdu, &fault), PDU_OK);
	CHECK_EQ(pdu.data_off, 128);
	CHECK_EQ(pdu.data_len, 512);
	data.hdr.flags = 0;
	CHECK_EQ(pdu_parse(&host, (void *)&data, 24, &pdu, &fault), PDU_OK);
	data.len = le32_of(508);
	CHECK_EQ(pdu_parse(&host, (void *)&data, 24, &pdu, &fault), PDU_BAD);
	CHECK_EQ(fault.fei, 16);
	data.len = le32_of(0);
	data.hdr.plen = le32_of(24);
	CHECK_EQ(pdu_parse(&host, (void *)&data, 24, &pdu, &fault), PDU_BAD);
	CHECK_EQ(fault.fei, 16);
}

TEST(data_length_agrees)
{
	struct nvme_tcp_data data = { .hdr = { .type = NVME_TCP_H2C_DATA,
					       .flags = NVME_TCP_LAST,
					       .hlen = 24,
					       .pdo = 24,
					       .plen = le32_of(24 + 512) },
				      .len = le32_of(512) };
	struct pdu_fault fault = {};
	struct pdu pdu;

	CHECK_EQ(pdu_parse(&plain, (void *)&data, 24, &pdu, &fault), PDU_OK);
	CHECK_EQ(pdu.data_len, 512);
	data.len = le32_of(511);
	CHECK_EQ(pdu_parse(&plain, (void *)&data, 24, &pdu, &fault), PDU_BAD);
	CHECK_EQ(fault.fei, 16);
	data.len = le32_of(0);
	data.hdr.plen = le32_of(24);
	CHECK_EQ(pdu_parse(&plain, (void *)&data, 24, &pdu, &fault), PDU_BAD);
	CHECK_EQ(fault.fei, 16);
}

TEST(offending_header_is_cut)
{
	struct bytes bytes = header(NVME_TCP_CAPSULE_CMD, 0, 72, 0, 72);

	CHECK_EQ(pdu_offending(bytes.b, 200), 72);
	CHECK_EQ(pdu_offending(bytes.b, 9), 9);
	bytes.b[0] = 0x42;
	CHECK_EQ(pdu_offending(bytes.b, 200), 128);
	CHECK_EQ(pdu_offending(bytes.b, 8), 8);
}

TAP_MAIN()
