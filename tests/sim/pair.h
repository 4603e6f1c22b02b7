/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pair.h - the play in which the stack has a network in its middle: our initiator, our target.
 *
 *   clients -> (layer) -> nvmf device ==simulated network==> target -> (layer) -> disk
 *
 * Owner:  the scene; `remote` is the index of the nvmf device in its stack, what stands below it is
 *         on the far side.
 * Thread: one; everything here runs in tasks on virtual reactor 0.
 */
#ifndef SIM_PAIR_H
#define SIM_PAIR_H

#include "scene.h"

/* Choose both ends' parameters; appends the nvmf device to the stack. */
void pair_configure(struct scene *scene);
/* The far side's devices are there: network, target, subsystem, namespaces. False: failed. */
bool pair_start(struct scene *scene) MAY_SUSPEND;
/* More paths to the device that scene->uri[remote] made. */
bool pair_add_paths(struct scene *scene) MAY_SUSPEND;
/* Take all its paths away, and so the nvmf device. */
void pair_destroy(struct scene *scene) MAY_SUSPEND;
/* A device that could not be made had connections: wait until the target has let go of them. */
void pair_forgotten(void) MAY_SUSPEND;
/* One path suffers, nothing else happens: no request may take longer than a failover does. */
bool pair_is_calm(void);
void pair_check_stall(const struct request *req);
/* A disturber of the network and the target; it counts in scene->nchaos. */
void pair_trouble(struct scene *scene);
/* All trouble is over: wait until the far side does nothing any more. */
void pair_settle(struct scene *scene) MAY_SUSPEND;
/* The target is stopped: nothing that a host lost can take effect any more. */
void pair_stop(struct scene *scene) MAY_SUSPEND;
/* Both ends are gone: no stream and no listener is left. */
void pair_end(struct scene *scene) MAY_SUSPEND;

/* Was there trouble that may still have consequences for what began then? */
bool pair_had_trouble(const struct scene *scene, uint64_t since_ns);
/* May a request that was submitted then have failed for reasons of network and target? */
bool pair_may_fail(const struct scene *scene, uint8_t op, uint64_t submit_ns);
/* A request that was submitted then may have been aborted, as the URI says. */
bool pair_may_time_out(uint64_t submit_ns);
/* A write failed. What became of it is open for as long as the target lives. */
void pair_lost(struct scene *scene, uint64_t id, uint64_t lba, uint64_t nlb);
/* A controller that was lost since then may be given up for good by now. */
bool pair_may_be_lost(uint64_t since_ns);
/* The target's machine is off, or on its way. */
bool pair_is_down(void);

/* plant_nvmf.c: a new world has no controllers; a new process knows nothing of lost writes. */
void pair_states_restart(void);
void pair_process_ends(void);

struct pair_stats {
	uint64_t epochs, two_paths, calm, drops, half_opens, partitions, restarts, crashes, late,
		lost;
	uint64_t subsystems, paths, ana, disconnects, shut_outs, namespaces, decoys, bytes,
		connects;
};
extern struct pair_stats pair_stats;

#endif
