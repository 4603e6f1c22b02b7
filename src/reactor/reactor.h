/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor.h - one thread per core that runs everything to completion.
 *
 *            +-------------------------------- turn ---------------------------------+
 *   reap kernel events -> pollers -> deferred -> inbox -> timers -> flush -> (sleep?)
 *
 * A turn in which nothing happened leads, after a while that adapts to how often things happen,
 * to sleep in the kernel until an event, a message or the next timer. Everything else in the
 * engine is called from one of these phases.
 *
 * Owner:  the reactors are made by reactors_start() and live until reactors_stop(). One set per
 *         process at a time.
 * Thread: functions that take a struct reactor are for its own thread unless they say "any
 *         thread". Reactor 0 is the primary: all control work runs there.
 * Seams:  clock, sleep, wake, blocking work and randomness come from struct reactor_backend. The
 *         kernel backend lives in uring.c; the simulator brings its own.
 */
#ifndef ASHLAR_REACTOR_REACTOR_H
#define ASHLAR_REACTOR_REACTOR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"
#include "base/err.h"
#include "base/list.h"
#include "base/rng.h"
#include "reactor/msg.h"
#include "reactor/timer.h"

enum {
	REACTORS_MAX = 64, /* one bit each in a core mask */
};

struct reactor;
struct work;

/*
 * Something to look at once per turn while it is in use, e.g. a queue with I/O in flight.
 * poll() returns how many events it handled. arm() is asked before the reactor sleeps: it makes
 * sure that the next event wakes the reactor (say, by a poll request on its ring) and returns
 * true, or returns false to keep the reactor polling. A poller that is idle is taken off.
 */
struct poller {
	struct list link;
	unsigned (*poll)(struct poller *poller);
	bool (*arm)(struct poller *poller);
	bool is_active;
};

/* Where time, sleep and blocking work come from. All run on the reactor's thread, but wake(). */
struct reactor_backend {
	uint64_t (*now)(struct reactor *r);
	unsigned (*reap)(struct reactor *r);                 /* handle kernel events, no wait */
	void (*submit)(struct reactor *r);                   /* hand over what was queued */
	void (*sleep)(struct reactor *r, uint64_t until_ns); /* UINT64_MAX: no timer */
	void (*wake)(struct reactor *r);                     /* any thread */
	void (*work)(struct reactor *r, struct work *work);  /* run where it may block */
};

struct reactor_stats {
	uint64_t turns;
	uint64_t busy_turns; /* turns in which something happened */
	uint64_t sleeps;
	uint64_t wakes_sent; /* to other reactors that slept */
	uint64_t messages;
};

struct reactor {
	/* hot: read by every I/O */
	uint64_t now_ns;       /* clock of this turn; CLOCK_MONOTONIC or virtual */
	struct msg_list ready; /* run in the next "deferred" phase */
	struct msg_list flush; /* run once at the end of this turn */
	struct list pollers;
	struct list *poll_next; /* while the pollers are walked: where to go on */
	struct timer_heap timers;
	unsigned id;      /* 0 is the primary */
	bool is_spinning; /* never sleep (--poll always) */
	const struct reactor_backend *backend;
	struct uring *ring; /* owned; NULL in the simulator */

	/* adaptive sleep */
	uint64_t last_event_ns;
	uint64_t gap_ns; /* moving average of the time between eventful turns */
	uint64_t spin_budget_ns;
	uint64_t calm_until_ns; /* no spinning before this */
	long preemptions;       /* involuntary context switches at the last look */
	unsigned spin_misses;   /* budgets spun away in vain since the last hit */
	bool has_spun;          /* since the last event or sleep */

	struct rng rng;
	struct reactor_stats stats;
	int core; /* pinned to, or -1 */
	bool is_stopping;

	/* touched by others */
	struct mpsc inbox;
	_Alignas(64) atomic_bool is_sleeping;
};

extern __thread struct reactor *reactor_self_;

/* The reactor of the calling thread; NULL outside the engine. */
static inline struct reactor *reactor_self(void)
{
	return reactor_self_;
}

/* Run msg->fn on this reactor in its next deferred phase. */
static inline void reactor_defer(struct reactor *r, struct msg *msg)
{
	msg_list_push(&r->ready, msg);
}

/* Run msg->fn at the end of this turn: system calls and copies that profit from a batch. */
static inline void reactor_at_flush(struct reactor *r, struct msg *msg)
{
	msg_list_push(&r->flush, msg);
}

/* Run msg->fn on @r. Any thread; never fails; wakes @r only if it sleeps. */
void reactor_post(struct reactor *r, struct msg *msg);

void poller_start(struct reactor *r, struct poller *poller);
void poller_stop(struct reactor *r, struct poller *poller);

/* Read the backend's clock now, for the few who need better than the turn's. */
static inline uint64_t reactor_clock(struct reactor *r)
{
	return r->backend->now(r);
}

static inline uint64_t reactor_random(struct reactor *r)
{
	return rng_next(&r->rng);
}

struct reactor_opts {
	uint64_t core_mask; /* one reactor per bit, pinned; 0: one reactor, not pinned */
	bool poll_always;
	uint64_t spin_max_us; /* upper bound of the spin before sleep; 0: measured */
};

/*
 * Start the reactor threads. Fails with -EPERM/-ENOSYS and the reason where io_uring is forbidden,
 * -EINVAL for cores that do not exist, -ENOMEM.
 */
int reactors_start(const struct reactor_opts *opts, struct err *err) WARN_UNUSED;

/* Stop and join them. Called from outside; whatever is in flight must have ended before. */
void reactors_stop(void);

unsigned reactor_count(void);
struct reactor *reactor_get(unsigned id);
static inline struct reactor *reactor_primary(void)
{
	return reactor_get(0);
}

/*
 * For backends and the simulator: make a reactor, register the set, run one turn. A turn returns
 * how many events it handled; it never sleeps. reactor_idle() sleeps if the reactor may.
 */
void reactor_init(struct reactor *r, unsigned id, const struct reactor_backend *backend,
		  uint64_t seed);
void reactors_adopt(struct reactor **reactors, unsigned count);
unsigned reactor_turn(struct reactor *r);
void reactor_idle(struct reactor *r);
/* When the next timer is due, UINT64_MAX without one. */
uint64_t reactor_next_timer_ns(const struct reactor *r);

#endif
