/* SPDX-License-Identifier: Apache-2.0 */
/*
 * world.h - the simulated machine: a virtual clock, one seed, N virtual reactors on one thread.
 *
 * Owner:  one world at a time, from world_start() to world_stop().
 * Thread: one; nothing here is atomic, nothing sleeps, nothing asks the system for anything.
 * Rules:  every choice is drawn from world_rand() or a generator seeded by it; nothing may depend
 *         on an address, on real time or on what an earlier seed left behind. Then the same seed
 *         gives the same trace, and world_hash() shows it.
 */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "base/rng.h"
#include "reactor/reactor.h"

enum {
	WORLD_REACTORS_MAX = 4,
	WORLD_NONE = -1, /* for world_at(): the event belongs to the world, not to a reactor */
};

#define USEC UINT64_C(1000)
#define MSEC UINT64_C(1000000)
#define SEC  UINT64_C(1000000000)

/*
 * Something that happens at a time. fn() runs in the reap phase of the reactor it was scheduled
 * for, as a kernel completion would, or between turns for WORLD_NONE. Embedded in its owner.
 */
struct event {
	uint64_t due_ns;
	uint64_t seq; /* order of scheduling, the tie-break */
	void (*fn)(struct event *event);
	struct event *next; /* in a reactor's list of what is due */
	int reactor;
	int place; /* in the heap, from 1 on; 0: not there */
	bool is_due;
};

struct world_opts {
	uint64_t seed;
	unsigned nreactors; /* 0: drawn from the seed */
	bool is_traced;     /* print every event to stderr */
};

struct world_stats {
	uint64_t events; /* deliveries, of any kind */
	uint64_t turns;
	uint64_t sleeps;
	uint64_t wakes;
	uint64_t stalls; /* a reactor lost the processor for a while */
	uint64_t works;  /* blocking calls */
};

void world_start(const struct world_opts *opts);
void world_stop(void);

uint64_t world_now(void);
uint64_t world_seed(void);
uint64_t world_hash(void);
const struct world_stats *world_stats(void);
struct reactor *world_reactor(unsigned i);
unsigned world_nreactors(void);

/* 0 .. bound - 1 */
uint64_t world_rand(uint64_t bound);
/* true @times out of @out_of */
bool world_chance(unsigned times, unsigned out_of);
/* A latency: at least @min, on average @mean, with a long tail. */
uint64_t world_latency(uint64_t min_ns, uint64_t mean_ns);

void world_at(struct event *event, int reactor, uint64_t delay_ns, void (*fn)(struct event *event));
void world_cancel(struct event *event);
static inline bool event_is_queued(const struct event *event)
{
	return event->is_due || event->place > 0;
}

/*
 * One step: a turn of one reactor that the seed picks, or a jump of the clock to what happens next.
 * False when nothing will ever happen again: all sleep and no event or timer is left.
 */
bool world_step(void);
/* Run until *@is_done; false if the world came to a stand-still or @steps_max was used up. */
bool world_run(const bool *is_done, uint64_t steps_max);
/* Run @fn as a task on virtual reactor 0 and step until it returned. False as world_run(). */
bool world_task(void (*fn)(void *arg), void *arg, uint64_t steps_max);

/*
 * Zeroed memory of the simulator's own: never fails, also while allocations of the engine do
 * (alloc.h). Freed with free(). sim_grow() is reallocarray().
 */
/* > 0: the simulator is allocating. Volatile: the compiler knows that calloc() looks at no globals,
 * but the wrapped one does. */
extern volatile unsigned sim_alloc_shield;
void *sim_zalloc(size_t size);
void *sim_grow(void *ptr, size_t n, size_t size);

/* Mix into the hash, print if traced. @what is a literal. */
void world_trace(const char *what, uint64_t a, uint64_t b);
/* Only printed, not hashed. */
void world_say(const char *fmt, ...) PRINTF(1, 2);

/*
 * A property was violated: remembered (first one wins), printed with the seed and how to replay.
 * The run goes on to its end where it can; world_failed() says so.
 */
void world_fail(const char *fmt, ...) PRINTF(1, 2);
bool world_failed(void);
const char *world_failure(void);

/* Bugs planted on purpose (plant.c) ask here. Set before world_start(). */
enum plant {
	PLANT_NONE,
	PLANT_SKIP_QUIESCE_WAIT, /* quiesce returns although requests are in flight */
	PLANT_EARLY_ACK_FLUSH,   /* flush is answered before the cache is on the medium */
	PLANT_LOST_FUA,          /* a disk takes FUA for an ordinary write */
	PLANT_RANGE_LOCK_LEAK,   /* an unlock forgets one channel */
	PLANT_DOUBLE_COMPLETE,   /* a driver ends a request twice */
	PLANT_LOST_WAKE,         /* a message does not wake a sleeping reactor */
	PLANT_MISPLACED_WRITE,   /* one write in many goes to the next block */
	PLANT_LOCK_TOO_EARLY,    /* a range lock is granted while a request is in flight */
	/* of both ends; found by --pair */
	PLANT_NVMF_NO_FENCE,     /* lost writes are sent again at once */
	PLANT_NVMF_EARLY_CROSS,  /* the target says that nothing is left, and does not look */
	PLANT_NVMF_REPEAT,       /* a write is sent again that was answered */
	PLANT_NVMF_STALE_CID,    /* an answer is taken for that of another command */
	PLANT_NVMF_EARLY_READ,   /* a read ends before its last data came */
	PLANT_NVMF_SKIP_REFRESH, /* channels are not told that paths changed */
	PLANT_NVMF_IGNORE_ANA,   /* every path is as good as any */
	/* of the nexus; found by --mirror */
	PLANT_NEXUS_EARLY_ACK,     /* writes are acknowledged before the stale mark is durable */
	PLANT_NEXUS_NO_LOCK,       /* a rebuild copies without a range lock */
	PLANT_NEXUS_LOST_BIT,      /* the write that failed is not in the map of what is missed */
	PLANT_NEXUS_OLD_RECORD,    /* intent records of an older generation are believed */
	PLANT_NEXUS_NO_REBUILD,    /* a lost child is in sync as soon as it is back */
	PLANT_NEXUS_RACING_WRITES, /* overlapping writes do not wait for each other */
	PLANT_NEXUS_BLIND_RECORD,  /* without a record the first child is the source */
	PLANT_COUNT_,
};
extern enum plant sim_plant;
const char *plant_name(enum plant plant);
bool plant_parse(const char *name, enum plant *ret);
/* Is @plant planted, and does it strike now (one time in @one_in)? */
bool plant_strikes(enum plant plant, unsigned one_in);

#endif
