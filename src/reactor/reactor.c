/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reactor.c - the loop, the adaptive sleep and the set of reactors.
 *
 * A turn has fixed phases (reactor.h). Their order is what makes batches: kernel events and
 * pollers put completions on the ready list; the ready list runs owners' callbacks, which submit
 * new I/O; drivers only note it, and the flush phase moves the whole batch at once (a copy loop
 * with prefetch, one io_submit, one sendmsg). Work that a phase creates for an earlier phase waits
 * for the next turn, so a turn is bounded.
 *
 * Sleep. Each eventful turn feeds a moving average of the gap between events. While the gap is
 * below the spin budget the next event is likely to arrive sooner than a sleep and a wake would
 * cost, so the reactor polls for one budget; else it sleeps at once, because spinning would catch
 * nothing. The time asleep counts as a gap, so a reactor that became busy finds that out from its
 * first few events.
 *
 *        event                 gap > budget, or quiet for a budget
 *   +--> POLLING ----------------------------------------------> SLEEPING --+
 *   |      ^ |                                                     |        |
 *   +------+ +--<------ kernel event, message, timer <-------------+--------+
 *
 * Two things make spinning harmful, and both are noticed. A thread that was preempted shares its
 * core with something else: a spinner then burns its share and waits in line afterwards, while a
 * sleeper is let in as soon as its event comes. And where the event is the work of a kernel thread
 * that wants this very core (a loop device), it comes only once we sleep: budgets that are spun
 * away in vain one after the other show that. Either way there is no spinning for a while.
 *
 * The hand-shake with senders: a sleeper publishes is_sleeping, fences, looks at its inbox once
 * more and only then sleeps; a sender pushes, fences and reads is_sleeping. One of the two sees
 * the other, and a busy reactor is never woken by a system call.
 *
 * Invariants:
 *   1. Only the reactor's own thread touches anything but inbox and is_sleeping.
 *   2. A poller that is removed while the list is walked is never called again in that turn.
 *   3. A reactor sleeps only if every active poller agreed to wake it (arm()).
 *
 * Rejected: a lock around the inbox; waking by signal; a periodic tick.
 */
#include "reactor/reactor.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>

#include "base/log.h"
#include "reactor/uring.h"
#include "reactor/worker.h"

enum {
	GAP_WEIGHT = 8,               /* the average follows the last few events */
	GAP_MAX_NS = 2 * 1000 * 1000, /* a longer pause counts as this: then forget it quickly */
	SPIN_DEFAULT_NS = 50 * 1000, /* about the cost of one sleep and wake in a virtual machine */
	PREEMPTED_NS = 500 * 1000,   /* a turn this long: look whether the core was taken away */
	CALM_NS = 20 * 1000 * 1000,  /* then do without spinning for a while */
	SPIN_MISSES = 3,             /* in a row: spinning itself keeps the event away */
	MISS_CALM_NS = 2 * 1000 * 1000, /* then this long without, doubled up to 32 times */
	INBOX_BATCH = 256,              /* messages handled per turn */
};

__thread struct reactor *reactor_self_;

static struct {
	struct reactor *reactor[REACTORS_MAX];
	unsigned count;
} set;

unsigned reactor_count(void)
{
	return set.count;
}

struct reactor *reactor_get(unsigned id)
{
	assert(id < set.count);
	return set.reactor[id];
}

void reactors_adopt(struct reactor **reactors, unsigned count)
{
	assert(count <= REACTORS_MAX);
	memcpy(set.reactor, reactors, count * sizeof(*reactors));
	set.count = count;
}

void reactor_init(struct reactor *r, unsigned id, const struct reactor_backend *backend,
		  uint64_t seed)
{
	memset(r, 0, sizeof(*r));
	r->id = id;
	r->backend = backend;
	r->core = -1;
	r->spin_budget_ns = SPIN_DEFAULT_NS;
	r->gap_ns = GAP_MAX_NS;
	list_init(&r->pollers);
	mpsc_init(&r->inbox);
	rng_init(&r->rng, seed);
}

void reactor_post(struct reactor *r, struct msg *msg)
{
	mpsc_push(&r->inbox, msg);
	atomic_thread_fence(memory_order_seq_cst);
	if (r != reactor_self_ && atomic_load_explicit(&r->is_sleeping, memory_order_relaxed)) {
		if (reactor_self_ != NULL)
			reactor_self_->stats.wakes_sent++;
		r->backend->wake(r);
	}
}

/* ---- pollers ------------------------------------------------------------------------------ */

void poller_start(struct reactor *r, struct poller *poller)
{
	if (poller->is_active)
		return;
	poller->is_active = true;
	list_add_tail(&r->pollers, &poller->link);
}

void poller_stop(struct reactor *r, struct poller *poller)
{
	if (!poller->is_active)
		return;
	if (r->poll_next == &poller->link)
		r->poll_next = poller->link.next;
	poller->is_active = false;
	list_del(&poller->link);
}

static unsigned reactor_run_pollers(struct reactor *r)
{
	struct list *link = r->pollers.next;
	unsigned events = 0;

	while (link != &r->pollers) {
		struct poller *poller = container_of(link, struct poller, link);

		r->poll_next = link->next;
		events += poller->poll(poller);
		link = r->poll_next;
	}
	r->poll_next = NULL;
	return events;
}

/* ---- one turn ----------------------------------------------------------------------------- */

static unsigned reactor_run_list(struct msg_list *list)
{
	struct msg *msg = msg_list_take_all(list);
	unsigned events = 0;

	while (msg != NULL) {
		struct msg *next = atomic_load_explicit(&msg->next, memory_order_relaxed);

		if (next != NULL)
			__builtin_prefetch(next);
		msg->fn(msg);
		msg = next;
		events++;
	}
	return events;
}

static unsigned reactor_run_inbox(struct reactor *r)
{
	unsigned events = 0;
	struct msg *msg;

	while (events < INBOX_BATCH && (msg = mpsc_pop(&r->inbox)) != NULL) {
		msg->fn(msg);
		events++;
	}
	r->stats.messages += events;
	return events;
}

static unsigned reactor_run_timers(struct reactor *r)
{
	unsigned events = 0;

	while (r->timers.root != NULL && r->timers.root->due_ns <= r->now_ns) {
		struct timer *timer = r->timers.root;

		timer_heap_remove(&r->timers, timer);
		timer->fn(timer);
		events++;
	}
	return events;
}

uint64_t reactor_next_timer_ns(const struct reactor *r)
{
	return r->timers.root != NULL ? r->timers.root->due_ns : UINT64_MAX;
}

/* Has the kernel taken the core away since the last look? Asked only after a turn that was long. */
static COLD bool reactor_was_preempted(struct reactor *r)
{
	struct rusage usage;
	bool was_preempted;

	if (getrusage(RUSAGE_THREAD, &usage) < 0)
		return false;
	was_preempted = usage.ru_nivcsw != r->preemptions;
	r->preemptions = usage.ru_nivcsw;
	return was_preempted;
}

unsigned reactor_turn(struct reactor *r)
{
	uint64_t now_ns;
	unsigned events;

	now_ns = r->backend->now(r);
	if (unlikely(now_ns - r->now_ns > PREEMPTED_NS) && r->ring != NULL &&
	    reactor_was_preempted(r))
		r->calm_until_ns = now_ns + CALM_NS;
	r->now_ns = now_ns;
	events = r->backend->reap(r);
	if (!list_empty(&r->pollers))
		events += reactor_run_pollers(r);
	if (r->ready.head != NULL)
		events += reactor_run_list(&r->ready);
	if (!mpsc_is_empty(&r->inbox))
		events += reactor_run_inbox(r);
	if (r->timers.root != NULL)
		events += reactor_run_timers(r);
	if (r->flush.head != NULL)
		events += reactor_run_list(&r->flush);
	r->backend->submit(r);
	r->stats.turns++;
	if (events > 0) {
		uint64_t gap_ns = MIN(r->now_ns - r->last_event_ns, (uint64_t)GAP_MAX_NS);

		r->stats.busy_turns++;
		r->gap_ns = (r->gap_ns * (GAP_WEIGHT - 1) + gap_ns) / GAP_WEIGHT;
		r->last_event_ns = r->now_ns;
		if (r->has_spun) {
			r->has_spun = false;
			r->spin_misses = 0;
		}
	}
	return events;
}

/* ---- sleep -------------------------------------------------------------------------------- */

static bool reactor_may_spin(const struct reactor *r)
{
	return r->is_spinning ||
	       (r->gap_ns <= r->spin_budget_ns &&
		r->now_ns - r->last_event_ns < r->spin_budget_ns && r->now_ns >= r->calm_until_ns);
}

static bool reactor_arm_pollers(struct reactor *r)
{
	struct poller *poller;

	list_for_each (poller, &r->pollers, link) {
		if (poller->arm == NULL || !poller->arm(poller))
			return false;
	}
	return true;
}

/* A whole budget was spun away for nothing. Once is bad luck. */
static COLD void reactor_spin_missed(struct reactor *r)
{
	r->has_spun = false;
	if (++r->spin_misses < SPIN_MISSES)
		return;
	r->calm_until_ns = r->now_ns +
			   ((uint64_t)MISS_CALM_NS << MIN(r->spin_misses - SPIN_MISSES, 5u));
}

static void reactor_pause(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#endif
}

void reactor_idle(struct reactor *r)
{
	if (reactor_may_spin(r)) {
		r->has_spun = true;
		reactor_pause();
		return;
	}
	if (r->has_spun)
		reactor_spin_missed(r);
	if (!reactor_arm_pollers(r)) {
		reactor_pause();
		return;
	}
	if (r->ready.head != NULL || r->flush.head != NULL)
		return;
	atomic_store_explicit(&r->is_sleeping, true, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
	if (mpsc_is_empty(&r->inbox)) {
		r->stats.sleeps++;
		r->backend->sleep(r, reactor_next_timer_ns(r));
		r->now_ns = r->backend->now(r);
	}
	atomic_store_explicit(&r->is_sleeping, false, memory_order_relaxed);
}

/* ---- threads ------------------------------------------------------------------------------ */

struct reactor_start {
	struct reactor *r;
	pthread_t thread;
	struct err err;
	int result;
	bool has_thread;
};

static struct reactor_start starts[REACTORS_MAX];
static pthread_barrier_t started_one; /* a reactor thread and its starter */

static int reactor_pin(struct reactor *r, struct err *err)
{
	cpu_set_t cpus;

	if (r->core < 0)
		return 0;
	CPU_ZERO(&cpus);
	CPU_SET((size_t)r->core, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus) < 0) {
		int rc = -errno;

		(void)err_set_sys(err, rc, "cannot run a reactor on core %d", r->core);
		if (rc == -EINVAL)
			(void)err_hint(err, "this process may not use that core, or the machine "
					    "has none: see nproc and taskset -p $$");
		return rc;
	}
	return 0;
}

/*
 * A write beyond RLIMIT_FSIZE or into a broken pipe ends with an error for whoever asked for it;
 * the signal that comes along would end the process. Only in our threads: the rest of the process
 * may be somebody else's.
 */
static void reactor_block_signals(void)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGXFSZ);
	sigaddset(&signals, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
}

static void *reactor_thread(void *arg)
{
	struct reactor_start *start = arg;
	struct reactor *r = start->r;

	reactor_self_ = r;
	reactor_block_signals();
	start->result = reactor_pin(r, &start->err);
	if (start->result == 0)
		start->result = uring_open(r, &start->err);
	r->now_ns = r->last_event_ns = r->backend->now(r);
	pthread_barrier_wait(&started_one);
	while (start->result == 0 && !r->is_stopping) {
		if (reactor_turn(r) == 0 && !r->is_stopping)
			reactor_idle(r);
	}
	if (start->result == 0)
		uring_drain(r);
	reactor_self_ = NULL; /* the ring goes later: others may still be about to wake us */
	return NULL;
}

static void reactor_stop_fn(struct msg *msg)
{
	(void)msg;
	reactor_self()->is_stopping = true;
}

static void reactors_free(void)
{
	for (unsigned i = 0; i < set.count; i++) {
		uring_close(set.reactor[i]);
		free(set.reactor[i]);
	}
	memset(&set, 0, sizeof(set));
}

static int reactors_alloc(const struct reactor_opts *opts, struct err *err)
{
	uint64_t mask = opts->core_mask != 0 ? opts->core_mask : 1;

	for (int core = 0; core < REACTORS_MAX; core++) {
		struct reactor *r;
		uint64_t seed;

		if (!(mask >> core & 1))
			continue;
		r = aligned_alloc(64, ALIGN_UP(sizeof(*r), 64));
		if (r == NULL || getrandom(&seed, sizeof(seed), 0) != sizeof(seed)) {
			free(r);
			return err_set(err, -ENOMEM, "no memory for a reactor");
		}
		reactor_init(r, set.count, &reactor_backend_uring, seed);
		r->core = opts->core_mask != 0 ? core : -1;
		r->is_spinning = opts->poll_always;
		if (opts->spin_max_us != 0)
			r->spin_budget_ns = opts->spin_max_us * 1000;
		set.reactor[set.count++] = r;
	}
	return 0;
}

int reactors_start(const struct reactor_opts *opts, struct err *err)
{
	unsigned started = 0;
	int result;

	assert(set.count == 0);
	result = reactors_alloc(opts, err);
	if (result < 0) {
		reactors_free();
		return result;
	}
	memset(starts, 0, sizeof(starts));
	pthread_barrier_init(&started_one, NULL, 2);
	/* One after the other: each has its ring before the next starts, errors are in order. */
	for (; started < set.count && result == 0; started++) {
		struct reactor_start *start = &starts[started];

		start->r = set.reactor[started];
		if (pthread_create(&start->thread, NULL, reactor_thread, start) != 0) {
			result = err_set(err, -EAGAIN,
					 "cannot start the thread of reactor %u: raise the limit "
					 "of processes (ulimit -u, TasksMax= in the unit)",
					 started);
			break;
		}
		start->has_thread = true;
		pthread_barrier_wait(&started_one);
		if (start->result < 0)
			result = err_set(err, start->result, "%s", start->err.msg);
	}
	if (result < 0)
		reactors_stop();
	return result;
}

void reactors_stop(void)
{
	static struct msg stop[REACTORS_MAX];

	for (unsigned i = 0; i < set.count; i++) {
		if (!starts[i].has_thread)
			continue;
		stop[i].fn = reactor_stop_fn;
		if (starts[i].result == 0)
			reactor_post(set.reactor[i], &stop[i]);
		pthread_join(starts[i].thread, NULL);
	}
	worker_pool_stop();
	pthread_barrier_destroy(&started_one);
	reactors_free();
}
