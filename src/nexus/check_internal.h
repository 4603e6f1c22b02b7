/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check_internal.h - what check.c and check_read.c share; nobody else includes it.
 */
#ifndef ASHLAR_NEXUS_CHECK_INTERNAL_H
#define ASHLAR_NEXUS_CHECK_INTERNAL_H

#include "nexus/check.h"
#include "nexus/intent.h"

/* What is written on one replica. */
struct reading {
	struct check_replica *replica;
	struct device *dev;
	struct handle *h;
	struct intent_page *pair; /* two, and a block of the device */
	uint8_t *block;
	uint32_t unit, block_size;
	struct intent_id id;
	uint64_t head_sequence;
	bool has_come; /* after the nexus was made: it came back, or came new */
	struct segmap in_flight;
	struct segmap missed[INTENT_SUBJECTS_MAX];
	struct uuid subject[INTENT_SUBJECTS_MAX]; /* zero: nothing is known there */
};

/*
 * check_read.c: all records on the device of @uri, which is opened for that and given back. < 0: of
 * no use to go on. What is wrong with this replica alone is noted there.
 */
int check_replica_read(struct reading *r, const char *uri, struct err *err) MAY_SUSPEND;

#endif
