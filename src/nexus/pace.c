/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pace.c - a rate, and a governor that looks at what hosts wait; pace.h says how they work.
 *
 * Speed is a share of time, not a number of bytes: nobody has to know what the devices could do.
 *
 * Rejected: percentiles of the interval (few requests in it make them jump); a governor that learns
 * what is normal (it would have to see the device without the work, which is what never happens).
 *
 * Thread: primary.
 */
#include "nexus/pace.h"

#include <errno.h>
#include <stdlib.h>

int pace_init(struct pace *pace, struct device *dev, uint64_t rate, uint64_t latency_ns,
	      struct err *err)
{
	*pace = (struct pace){ .dev = dev,
			       .rate = rate,
			       .latency_ns = latency_ns,
			       .speed = 100,
			       .looked_ns = reactor_primary()->now_ns,
			       .stats = calloc(1, sizeof(*pace->stats)) };
	return pace->stats == NULL ? err_set(err, -ENOMEM, "no memory for statistics") : 0;
}

void pace_done(struct pace *pace)
{
	free(pace->stats);
	pace->stats = NULL;
}

void pace_set(struct pace *pace, uint64_t rate, uint64_t latency_ns)
{
	pace->rate = rate;
	pace->latency_ns = latency_ns;
	pace->due_ns = 0;
}

void pace_charge(struct pace *pace, uint64_t bytes)
{
	if (pace->rate != 0)
		pace->due_ns = MAX(pace->due_ns, reactor_primary()->now_ns) +
			       (uint64_t)((double)bytes * 1e9 / (double)pace->rate);
}

static void look(struct pace *pace)
{
	static const enum io_op ops[] = { IO_READ, IO_WRITE };
	uint64_t now_ns = reactor_primary()->now_ns, n = 0, sum_ns = 0;

	if (pace->latency_ns == 0 || pace->dev == NULL) {
		pace->speed = 100;
		return;
	}
	if (now_ns - pace->looked_ns < PACE_LOOK_NS)
		return;
	pace->looked_ns = now_ns;
	device_stats(pace->dev, pace->stats);
	for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
		n += pace->stats->op[ops[i]].latency.count;
		sum_ns += pace->stats->op[ops[i]].latency.sum_ns;
	}
	if (pace->has_looked && n > pace->ops && sum_ns >= pace->sum_ns &&
	    (sum_ns - pace->sum_ns) / (n - pace->ops) > pace->latency_ns)
		pace->speed = MAX(pace->speed / 2, (unsigned)PACE_SPEED_MIN);
	else
		pace->speed = MIN(pace->speed + 10, 100u);
	pace->ops = n;
	pace->sum_ns = sum_ns;
	pace->has_looked = true;
}

uint64_t pace_next_ns(struct pace *pace, uint64_t ns)
{
	look(pace);
	if (pace->speed == 100)
		return 0;
	return reactor_primary()->now_ns + ns * (100 - pace->speed) / pace->speed;
}
