/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_gather.h - what one sendmsg is made of: headers out of one staging area, data from where it
 * lies.
 *
 * Both ends of NVMe/TCP send at the end of a turn, all they have to say at once. Headers are
 * written one behind the other into @at; neighbours without data in between become one element of
 * the list: an element more costs the kernel more than copying 64 bytes.
 *
 *   staging  |hdr A|hdr B ddgst B|hdr C|...            iov:  [hdr A] [data A] [ddgst A + hdr B] ...
 *
 * The caller keeps room: elements and staging bytes of a PDU are there before it is formatted.
 *
 * Thread: the reactor whose list and staging area these are.
 */
#ifndef ASHLAR_DRIVERS_NVME_TCP_GATHER_H
#define ASHLAR_DRIVERS_NVME_TCP_GATHER_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

/* A gathering under way. Lives for one sendmsg; owns nothing. */
struct gather {
	struct iovec *iov;
	int count;
	uint8_t *at, *end; /* in staging: where the next header goes, and where there is no more */
};

/* @len bytes at @base are next; they stay as they are until the sendmsg. */
static inline void gather_add(struct gather *g, const void *base, size_t len)
{
	if (g->count > 0) {
		struct iovec *last = &g->iov[g->count - 1];

		if ((uint8_t *)last->iov_base + last->iov_len == base) {
			last->iov_len += len;
			return;
		}
	}
	memcpy(&g->iov[g->count].iov_base, &base, sizeof(base)); /* send only reads it */
	g->iov[g->count++].iov_len = len;
}

/* @len bytes at g->at were written: they are next. */
static inline void gather_staged(struct gather *g, size_t len)
{
	gather_add(g, g->at, len);
	g->at += len;
}

/* Leave out the first @skip bytes: an earlier sendmsg took them. Returns where the list begins. */
static inline struct iovec *gather_skip(struct gather *g, size_t skip)
{
	struct iovec *iov = g->iov;

	while (skip > 0 && skip >= iov->iov_len) {
		skip -= iov->iov_len;
		iov++;
		g->count--;
	}
	if (skip > 0) {
		iov->iov_base = (uint8_t *)iov->iov_base + skip;
		iov->iov_len -= skip;
	}
	return iov;
}

#endif
