/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pace.c - a rate, and a governor that looks at what hosts wait; pace.h says how they work.
 *
 * Speed is a share of time, not a number of bytes: nobody has to know what the devices could do.
 *
 * What is normal is the mean of all that the device answered before the work began. It is crude,
 * and it keeps a governor of 2 ms from letting a device that answers in 5 us slow down a hundred
 * times.
 *
 * Rejected: percentiles of the interval (few requests in it make them jump); learning what is
 * normal while the work goes on (the work is in it).
 *
 * Thread: primary.
 */
#include "nexus/pace.h"

#include <errno.h>
#include <stdlib.h>

/* Requests to the device so far, and what they took in sum. */
static void answers(struct pace *pace, uint64_t *ret_ops, uint64_t *ret_sum_ns)
{
	static const enum io_op ops[] = { IO_READ, IO_WRITE };

	*ret_ops = *ret_sum_ns = 0;
	device_stats(pace->dev, pace->stats);
	for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
		*ret_ops += pace->stats->op[ops[i]].latency.count;
		*ret_sum_ns += pace->stats->op[ops[i]].latency.sum_ns;
	}
}

static void learn(struct pace *pace)
{
	uint64_t n, sum_ns;

	if (pace->dev == NULL)
		return;
	answers(pace, &n, &sum_ns);
	pace->normal_ns = n >= PACE_AUTO_OPS ? sum_ns / n : 0;
	pace->ops = n;
	pace->sum_ns = sum_ns;
	if (pace->latency_ns != 0)
		pace->speed = PACE_SPEED_MIN;
}

static uint64_t allowed_ns(const struct pace *pace)
{
	if (pace->latency_ns != PACE_AUTO)
		return pace->latency_ns;
	if (pace->normal_ns == 0)
		return PACE_AUTO_NS;
	return MAX(PACE_AUTO_FACTOR * pace->normal_ns, (uint64_t)PACE_AUTO_MIN_NS);
}

int pace_init(struct pace *pace, struct device *dev, uint64_t rate, uint64_t latency_ns,
	      struct err *err)
{
	*pace = (struct pace){ .dev = dev,
			       .rate = rate,
			       .latency_ns = latency_ns,
			       .speed = 100,
			       .due_ns = reactor_primary()->now_ns,
			       .looked_ns = reactor_primary()->now_ns,
			       .stats = calloc(1, sizeof(*pace->stats)) };
	if (pace->stats == NULL)
		return err_set(err, -ENOMEM, "no memory for statistics");
	learn(pace);
	return 0;
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
	pace->due_ns = reactor_primary()->now_ns;
}

void pace_charge(struct pace *pace, uint64_t bytes)
{
	uint64_t now_ns = reactor_primary()->now_ns;
	uint64_t oldest_ns = now_ns > PACE_CREDIT_NS ? now_ns - PACE_CREDIT_NS : 0;

	if (pace->rate != 0)
		pace->due_ns = MAX(pace->due_ns, oldest_ns) +
			       (uint64_t)((double)bytes * 1e9 / (double)pace->rate);
}

static void look(struct pace *pace)
{
	uint64_t now_ns = reactor_primary()->now_ns, n, sum_ns;

	if (pace->latency_ns == 0 || pace->dev == NULL) {
		pace->speed = 100;
		return;
	}
	if (now_ns - pace->looked_ns < PACE_LOOK_NS)
		return;
	pace->looked_ns = now_ns;
	answers(pace, &n, &sum_ns);
	if (n <= pace->ops || sum_ns < pace->sum_ns) /* none, or somebody reset them */
		pace->speed = 100;
	else if ((sum_ns - pace->sum_ns) / (n - pace->ops) > allowed_ns(pace))
		pace->speed = MAX(pace->speed / 2, (unsigned)PACE_SPEED_MIN);
	else
		pace->speed = MIN(pace->speed + 10, 100u);
	pace->ops = n;
	pace->sum_ns = sum_ns;
}

uint64_t pace_next_ns(struct pace *pace, uint64_t ns)
{
	look(pace);
	if (pace->speed == 100)
		return 0;
	return reactor_primary()->now_ns + ns * (100 - pace->speed) / pace->speed;
}
