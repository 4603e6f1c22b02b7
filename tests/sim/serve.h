/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve.h - an epoch in which hosts use the stack through the NVMe/TCP target.
 *
 * Owner:  the scene; it has built the stack and nothing is open.
 * Thread: one; runs in a task on virtual reactor 0.
 */
#ifndef SIM_SERVE_H
#define SIM_SERVE_H

#include "scene.h"

void serve_play(struct scene *scene, void (*start_chaos)(struct scene *scene),
		void (*wait_chaos)(struct scene *scene)) MAY_SUSPEND;

struct serve_stats {
	uint64_t epochs, connects, commands, bytes;
	uint64_t drops, half_opens, lost; /* lost: commands whose connection broke */
};
extern struct serve_stats serve_stats;

#endif
