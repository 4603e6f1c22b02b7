/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scene.h - one seed's play: a stack of devices, clients that hammer it, and those who disturb.
 *
 *   scene.c   builds stacks, runs epochs, judges what is left at the end
 *   load.c    clients: every operation, from every reactor, each answer judged
 *   chaos.c   quiesce, lock, resize, open, inject, break, remove, cut the power
 *   serve.c   the stack used by scripted hosts, through the target
 *   pair.c    our initiator and our target in the middle of the stack
 *   mirror.c  a play of its own: a nexus over disks, with these clients and disturbers
 *
 * Owner:  scene_run() owns everything; it is one at a time.
 * Thread: one.
 */
#ifndef SIM_SCENE_H
#define SIM_SCENE_H

#include <stdbool.h>
#include <stdint.h>

#include "device/device.h"
#include "medium.h"
#include "oracle.h"
#include "world.h"

enum {
	SCENE_DEVICES_MAX = 4,
	SCENE_NAME_MAX = 80,
	SCENE_URI_MAX = 512,
	REQUEST_BLOCKS_MAX = 8,
	REQUEST_IOV_MAX = 8,
	CLIENT_DEPTH_MAX = 12,
	LIVENESS_NS_LOG2 = 35, /* 34 virtual seconds: far above anything that a fault may cost */
};

/* Why a request may fail. */
enum cause {
	CAUSE_MEDIUM, /* bad blocks, failing flush */
	CAUSE_ABORT,  /* stuck requests were given up */
	CAUSE_GONE,   /* removed or without power */
	CAUSE_RESIZE,
	CAUSE_INJECT, /* an injected failure */
	CAUSE_LIE,    /* an injected lie: success without the deed, other data */
	CAUSE_SPACE,  /* the thin device has a limit */
	CAUSE_NET,    /* connections were lost for longer than the URI lets requests wait */
	CAUSE_COUNT_,
};

struct scene;
struct client;

struct request {
	struct io io;
	struct client *client;
	struct event think;
	struct iovec iov[REQUEST_IOV_MAX];
	struct io_loan loan;
	uint8_t *buf;      /* owned by the scene; compare-write needs twice the blocks */
	uint64_t lba;      /* in blocks of the oracle */
	uint64_t write_id; /* 0: none */
	uint64_t token;    /* 0: none */
	uint64_t submit_ns;
	uint64_t sent_lba; /* as submitted: what done() must see again */
	uint32_t sent_nlb;
	uint16_t sent_flags;
	bool is_flying;
	bool is_refused; /* must be refused with want_status */
	uint16_t want_status;
	bool is_counted; /* the device counts it, as success or error */
};

struct client {
	struct scene *scene;
	struct reactor *reactor;
	struct handle *handle;
	struct request request[CLIENT_DEPTH_MAX];
	unsigned depth, nflying, left; /* requests at once; in flight; still to submit */
	struct msg finished;
	bool is_running;
};

/* What the model counted at the top device. */
struct scene_counts {
	uint64_t ops[IO_OP_COUNT_], bytes[IO_OP_COUNT_], errors[IO_OP_COUNT_];
};

struct scene {
	/* the stack, bottom first */
	char uri[SCENE_DEVICES_MAX][SCENE_URI_MAX];
	char name[SCENE_DEVICES_MAX][SCENE_NAME_MAX];
	unsigned ndevices;
	uint64_t offset[SCENE_DEVICES_MAX]; /* of a device's block 0 in the oracle */
	struct medium *medium;              /* owned; NULL where the bottom is no simdisk */
	struct oracle *oracle;              /* owned */
	uint64_t nblocks;                   /* of the oracle's device at the start */
	uint32_t block_size;
	bool is_persistent, has_capacity;
	bool is_served;  /* used through the target, by hosts */
	bool is_mirror;  /* a nexus over disks (mirror.c) */
	unsigned remote; /* index of the nvmf device, 0: none (pair.c) */

	/* an epoch: from opening to closing */
	struct device *top; /* borrowed while desc is open */
	struct desc *desc;
	struct client client[WORLD_REACTORS_MAX * 2];
	unsigned nclients, nrunning;
	struct task_event clients_done;
	unsigned nchaos;
	bool is_stopping; /* clients: submit no more */
	bool must_close;  /* the device is being removed: close desc when nothing is in flight */
	bool is_ending;   /* chaos: put things back and leave */
	bool has_power_cut, is_removed;
	bool is_dead; /* the process was killed: what requests answer, nobody hears */
	bool is_full; /* some request met the limit of a thin device */
	struct event watchdog;

	uint64_t acked_ns;                /* a write was acknowledged for the last time */
	unsigned is_active[CAUSE_COUNT_]; /* so many reasons for it now */
	uint64_t last_ns[CAUSE_COUNT_];
	struct scene_counts counts;
	unsigned nflying_all;

	uint64_t nrequests, nfailed; /* for the report */
};

/* Which stacks a seed may become: all on one machine, or with a network in the middle. */
extern bool scene_is_paired, scene_is_mirror;

/* The whole play of the world's seed. Run inside a task on virtual reactor 0. */
void scene_run(void *arg);

struct scene_stats {
	uint64_t seeds, requests, failed, epochs, power_cuts, removals;
	uint64_t blocks_judged, ambiguous, crash_choices;
};
extern struct scene_stats scene_stats;

/* Allocations of the engine that are alive, but for what the task layer keeps for later. */
size_t engine_memory(void);

/* Where a device stands in the stack. */
unsigned scene_index(const struct scene *scene, const struct device *dev);

void cause_begin(struct scene *scene, enum cause cause);
void cause_end(struct scene *scene, enum cause cause);
/* Was @cause active at some time since @since_ns? */
bool cause_since(const struct scene *scene, enum cause cause, uint64_t since_ns);

/* scene.c, for plays of their own: open the top and its clients; read and judge all; judge what is
 * left when all rest; wait for disturbers, closing the top when somebody waits for that. */
bool scene_open(struct scene *scene) MAY_SUSPEND;
void scene_watch(void);
void scene_verify(struct scene *scene) MAY_SUSPEND;
void scene_check_idle(void);
void scene_check_stats(struct scene *scene) MAY_SUSPEND;
void scene_wait_chaos(struct scene *scene) MAY_SUSPEND;
void scene_watchdog(struct event *event);
/* What the oracle knows goes to the sums of the run; the scene is freed. */
void scene_done(struct scene *scene);

/* load.c */
void load_start(struct scene *scene);
/* In a task: waits until all clients have finished. */
void load_wait(struct scene *scene);
/* A request at the top device ended: count it as the device should. */
void load_count(struct scene *scene, const struct io *io);
/* In a task: write until most of a limited device's room is used. */
void load_prefill(struct scene *scene);
/* In a task: read and judge every block through @h of the primary reactor. */
void load_verify(struct scene *scene, struct handle *h);
/* The pages that requests use, made once for the process. */
void load_init(void);
void load_free(void);
/* One of the buffers; for those who submit in another way. */
uint8_t *load_buffer(unsigned index);
/* A request that is older than the liveness bound. */
void load_check_age(struct scene *scene);

/* chaos.c */
void chaos_start(struct scene *scene);
/* One of those that fit any device, on the scene's: quiesce, lock, open, inject. */
void chaos_act_any(struct scene *scene) MAY_SUSPEND;
/* A new epoch, for those who use chaos_act_any() without chaos_start(). */
void chaos_reset(void);

#endif
