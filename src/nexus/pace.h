/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pace.h - how fast work in the background may go beside the hosts of a device.
 *
 * A rate is bytes per second, on average: what was lost while a range waited for its lock or its
 * device is made good, as far as it is not older than PACE_CREDIT_NS. The governor looks at what
 * requests to the device took since its last look, on average, and compares that with what they may
 * take: too slow, half the speed; else a tenth more. Speed is the share of time in which the work
 * goes on, PACE_SPEED_MIN to 100 percent. Work begins with the least. A device that answered
 * nothing does not mind: all of it. What a request waits at a locked range is not in the device's
 * statistics; whoever locks ranges keeps that short himself.
 *
 * Owner:  embedded; pace_done() frees what it keeps.
 * Thread: primary.
 */
#ifndef ASHLAR_NEXUS_PACE_H
#define ASHLAR_NEXUS_PACE_H

#include "device/device.h"

enum {
	PACE_SPEED_MIN = 10,        /* percent */
	PACE_LOOK_NS = 10000000,    /* between two looks of the governor */
	PACE_CREDIT_NS = 250000000, /* of unused rate, at most */
	PACE_AUTO_MIN_NS = 5000,    /* what a request may take at least, if nobody said */
	PACE_AUTO_FACTOR = 2,       /* times what it took before the work began */
	PACE_AUTO_NS = 2000000,     /* where that is not known */
	PACE_AUTO_OPS = 100,        /* answers it takes to know it */
};

/* As latency_ns: find out what is normal for the device, and allow PACE_AUTO_FACTOR times that. */
#define PACE_AUTO UINT64_MAX

struct pace {
	struct device *dev;  /* borrowed; NULL: not governed */
	uint64_t rate;       /* 0: no limit */
	uint64_t latency_ns; /* 0: not governed */
	uint64_t normal_ns;  /* before the work began; 0: not known */
	unsigned speed;      /* percent */
	uint64_t due_ns;     /* nothing before this, by the rate; reactor clock */
	uint64_t looked_ns, ops, sum_ns;
	struct io_stats *stats; /* owned */
};

int pace_init(struct pace *pace, struct device *dev, uint64_t rate, uint64_t latency_ns,
	      struct err *err) WARN_UNUSED;
void pace_done(struct pace *pace);
/* From now on. */
void pace_set(struct pace *pace, uint64_t rate, uint64_t latency_ns);
/* @bytes were moved: moves due_ns. */
void pace_charge(struct pace *pace, uint64_t bytes);
/* Work was done for @ns: when may the same worker go on, by the governor? */
uint64_t pace_next_ns(struct pace *pace, uint64_t ns);

#endif
