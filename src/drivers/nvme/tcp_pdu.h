/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_pdu.h - the border: is this what the other side may send, and where do its parts lie?
 *
 * Thread: any; pure functions over bytes.
 * Source: NVM Express TCP Transport Specification 1.0c, 3.6 (layouts), 3.3 (digests).
 */
#ifndef ASHLAR_DRIVERS_NVME_TCP_PDU_H
#define ASHLAR_DRIVERS_NVME_TCP_PDU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "drivers/nvme/spec.h"

/* What was agreed with the other side, and our limits. */
struct pdu_rules {
	bool is_host;              /* we are the host: what arrives is a controller's */
	bool is_ready;             /* ICReq was answered; host: ICResp has arrived */
	bool hdgst, ddgst;         /* digests agreed on */
	uint32_t capsule_data_max; /* controller: bytes a command capsule may carry */
	uint32_t h2c_data_max;     /* controller: bytes one H2CData may carry (MAXH2CDATA) */
	uint32_t c2h_data_max;     /* host: bytes one C2HData may carry */
};

struct pdu {
	uint8_t type;
	uint8_t flags;
	uint32_t header_len; /* header and its digest */
	uint32_t data_off;   /* from the start of the PDU; 0 without data */
	uint32_t data_len;   /* bytes, without the digest */
	uint32_t len;        /* the whole PDU */
};

/* What C2HTermReq or H2CTermReq says. */
struct pdu_fault {
	uint16_t fes; /* enum nvme_tcp_fes; 0: nothing to say */
	uint32_t fei;
};

enum pdu_result {
	PDU_MORE, /* the header is not there yet, and nothing is wrong so far */
	PDU_OK,   /* the header is complete and right; the data may still be under way */
	PDU_BAD,
};

/* Judge the PDU that begins at @buf, of which @len bytes are there. */
enum pdu_result pdu_parse(const struct pdu_rules *rules, const uint8_t *buf, size_t len,
			  struct pdu *ret_pdu, struct pdu_fault *ret_fault);

/* The bytes to send back with the fault: at most the header, at most what is there. */
size_t pdu_offending(const uint8_t *buf, size_t len);

enum {
	PDU_HEADER_MAX = 128,    /* ICReq, ICResp */
	PDU_H2C_DATA_MIN = 4096, /* bytes; a smaller MAXH2CDATA is refused (TCP 3.6.2.3) */
	/* A header, its digest and padding to the largest alignment. */
	PDU_DATA_OFF_MAX = 255,
};

#endif
