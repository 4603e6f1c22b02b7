/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mirror.h - the play of a nexus: replicas that come and go, a store, a process that dies.
 *
 *   mirror.c          makes the nexus from its record, runs an epoch, ends it in one of four ways
 *   mirror_chaos.c    what happens to replicas, store and nexus meanwhile
 *   mirror_far.c      replicas on another machine, behind our initiator and our target
 *   mirror_lost.c     the record is lost: who may be the source then
 *   store_sim.c       the record of who is healthy, on another machine
 *
 * Owner:  mirror_run() owns everything; it is one at a time.
 * Thread: one.
 */
#ifndef SIM_MIRROR_H
#define SIM_MIRROR_H

#include <stdbool.h>
#include <stdint.h>

#include "medium.h"
#include "nexus/nexus.h"
#include "scene.h"

enum {
	REPLICAS_MAX = 5,
	REPLICA_NAME_MAX = SCENE_NAME_MAX,
};

#define MIRROR_NAME "nexus0"

/* A disk that is a child of the nexus, or may become one. */
struct replica {
	struct medium *medium;       /* owned */
	char disk[REPLICA_NAME_MAX]; /* device of the medium */
	char top[REPLICA_NAME_MAX];  /* device that is the child: the disk, or a layer on it */
	char uri[SCENE_URI_MAX];     /* of the child */
	char disk_uri[SCENE_URI_MAX];
	struct uuid uuid;
	bool is_layered;
	bool is_far;     /* its disk is another machine's; the child is an nvmf device */
	uint64_t offset; /* of the layer, blocks */
	bool is_safe;    /* nothing happens to it in this epoch */
	bool is_busy;    /* somebody is at it */
	bool lost_cache; /* its power was cut while the record may have it as healthy */
	unsigned nbad;   /* reasons for which it cannot be read now */
	uint64_t last_bad_ns;
	unsigned nfull; /* reasons for which it lacks space now */
	uint64_t last_full_ns;
	bool is_recorded; /* the record has it as healthy */
	uint64_t fell_ns; /* since then it has not */
	bool may_tie;     /* when a write was acknowledged for the last time it had just fallen */
};

struct mirror {
	struct scene *scene;
	struct replica replica[REPLICAS_MAX];
	unsigned nreplicas;
	struct uuid uuid;
	enum nexus_label label;
	bool is_exact, is_round_robin;
	bool has_far;              /* some replica is far */
	uint64_t child_timeout_ns; /* 0: longer than anything takes here */
	uint64_t size;             /* bytes asked */
	uint64_t nblocks;          /* of the nexus, as it was last seen */
	uint64_t data_start, tail; /* of a child, blocks */
	uint64_t room;             /* blocks that replicas may grow to */
	bool is_expected;          /* we end it ourselves */
	bool has_ended;            /* it ended itself */
	bool is_resizing;
	bool is_recorded; /* a record of this life is durable */
	unsigned nops;    /* clients' operations on children that are under way */
	uint64_t nop;     /* and that ever were */
	unsigned pace_us;
};

extern struct mirror mirror;

struct mirror_stats {
	uint64_t epochs, quiet, shutdowns, destroys, kills, kill_cuts, self_ends, frozen;
	uint64_t cuts, removals, child_ops, rebuilds, partial, rebuild_ops, scrubs;
	uint64_t resizes, repairs, overlaps, shortages, full_children, told_full;
	uint64_t drops, restarts, crashes, timeouts;
	uint64_t lost, lost_in_life, lost_ties, lost_found;
};
extern struct mirror_stats mirror_stats;

/* The whole play of the world's seed. Run inside a task on virtual reactor 0. */
void mirror_run(void *arg);
/* May a request of a client have ended so? */
bool mirror_has_cause(const struct request *req);
/* It has ended itself. */
bool mirror_has_gone(void);

/* The nexus, pinned; NULL: there is none. mirror_put() unpins. */
struct nexus *mirror_get(void);
void mirror_put(struct nexus *nx);
/* What the nexus says of a replica. False: not a child. */
bool mirror_child(struct nexus *nx, const struct replica *replica, struct nexus_child_info *ret);
unsigned mirror_nhealthy(struct nexus *nx);
/* A layered replica's disk, where it is not there. False: it cannot be made. */
bool replica_attach(struct replica *replica) MAY_SUSPEND;
/* Its device is gone, and comes back as another connection. */
void replica_bad_begin(struct replica *replica);
void replica_bad_end(struct replica *replica);
void replica_full_begin(struct replica *replica);
void replica_full_end(struct replica *replica);
/* The process dies; with it the machines of those replicas in @cuts (1 << index). */
void mirror_kill(unsigned cuts);

/* URIs of which it is made. */
struct making {
	const char *child[REPLICAS_MAX];
	unsigned count;
};

/* Replicas with the given word in the record (-1: it says nothing); each with @times in @out_of. */
unsigned mirror_pick(struct making *making, const struct nexus_record *record, int word,
		     unsigned times, unsigned out_of);
/* What is on its disk for block @lba of the nexus, and those that follow. */
const uint8_t *replica_block(const struct replica *replica, uint64_t lba);

/* What is waited for comes a little later where a network is in between. */
uint64_t mirror_step_ns(void);

/* mirror_chaos.c */
void mirror_chaos_start(void);
/* As long as the dice say, but not past the end of the epoch. */
void mirror_linger(uint64_t ns) MAY_SUSPEND;
/* The child's device, or the disk below it, is removed. */
void mirror_pull(const struct replica *replica, bool is_bottom) MAY_SUSPEND;
/* In a task, when nobody disturbs any more: all children back, and in sync. */
void mirror_heal(void) MAY_SUSPEND;
/* All children in sync are compared by the nexus itself. */
void mirror_scrub(struct nexus *nx) MAY_SUSPEND;

/* mirror_lost.c */
/* A record became durable. */
void lost_note(const struct nexus_record *record);
/* A new life: who fell so late that nobody may be able to tell? Is the record there? */
void lost_begin(void);
/* Who is given where it is lost, so that what was acknowledged can be found; what may come of it is
 * known to the oracle. False: nobody can say, so it had better be found; it is. */
bool lost_pick(struct making *making, const struct nexus_record *record);

/* mirror_far.c */
void far_configure(void);
/* This one lives there. Its uuid and its disk are chosen. */
void far_replica(struct replica *replica, unsigned index);
/* An epoch: the network; no far device, no target; the network goes. */
void far_begin(void);
void far_stop(void) MAY_SUSPEND;
void far_end(void);
/* The disk of a far replica is served. False: it cannot be. */
bool far_attach(struct replica *replica) MAY_SUSPEND;
/* Something happens to the far machine or on the way there, if it may. */
void far_act(void) MAY_SUSPEND;

/* plant_nexus.c */
void plant_nexus(void);
/* True: it is a rebuild's, and its bug is planted, so nothing is locked. */
bool plant_nexus_lock(struct device *dev, struct range_lock *lock, uint64_t lba, uint64_t nlb);
bool plant_nexus_unlock(const struct range_lock *lock);

#endif
