/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oracle.h - what plays (oracle.c) and what is played on (oracle_stacks.c).
 */
#ifndef ASHLAR_TESTS_INTEGRATION_ORACLE_H
#define ASHLAR_TESTS_INTEGRATION_ORACLE_H

#include <errno.h>
#include <inttypes.h>

#include "base/rng.h"
#include "device/device.h"

struct stack {
	const char *name;
	const char *uris[4]; /* made in this order, the last one on top; %s is the place */
	const char *place;   /* "": memory; "disk", "tmpfs", "loop", "zram": where %s leads */
	uint64_t first;      /* block where the window begins */
	bool knows_holes;    /* exactly, per block */
	bool has_no_data;    /* null: only statuses count */
	bool is_vague;       /* holds anything at the start */
	bool is_remote;      /* the first is served to ourselves, %s is where: HOST:PORT/NQN;
			      * holes show in reads only, they cannot be searched */
};

struct play {
	uint64_t seed;
	uint64_t requests;
	uint64_t *ret_played; /* per operation, added to */
};

/* In a task. -EILSEQ: a mismatch, @err says which. */
int oracle_play(const struct stack *stack, struct device *dev, const struct play *play,
		struct err *err) MAY_SUSPEND;

#endif
