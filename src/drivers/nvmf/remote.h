/* SPDX-License-Identifier: Apache-2.0 */
/*
 * remote.h - what happened to the connections behind a remote namespace, for who reports on it.
 *
 * Thread: primary reactor. Does not suspend.
 */
#ifndef ASHLAR_DRIVERS_NVMF_REMOTE_H
#define ASHLAR_DRIVERS_NVMF_REMOTE_H

#include <stdbool.h>
#include <stdint.h>

struct device;

/* Sums over the controllers of all its paths, also for other devices behind the same ones. */
struct nvmf_remote_stats {
	uint64_t lost;      /* connections */
	uint64_t attempts;  /* to have one back, failed ones included */
	uint64_t resent;    /* requests that were sent again, over another path or the same */
	uint64_t late;      /* commands that were not answered in time */
	uint64_t outage_ns; /* without a connection, those that last not counted */
};

/* False: it is no remote namespace. */
bool nvmf_remote_stats(const struct device *dev, struct nvmf_remote_stats *ret_stats);

#endif
