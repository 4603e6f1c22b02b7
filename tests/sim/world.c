/* SPDX-License-Identifier: Apache-2.0 */
/*
 * world.c - virtual time, the event queue, and reactors that take turns by the dice.
 *
 * The engine's real reactor code runs here: reactor_turn() with its phases, its inbox, its timers,
 * its task layer on reactor 0. What is simulated is what lies below (struct reactor_backend) and
 * what lies around it, the scheduler of the machine:
 *
 *                    +-- an awake reactor, picked at random: one turn; the clock moves a little
 *   world_step() ----+
 *                    +-- all asleep: the clock jumps to the next event, timer or end of a stall
 *
 *   AWAKE --nothing happened in a turn, nothing queued--> ASLEEP   (r->is_sleeping is set)
 *   ASLEEP --wake(), event due, timer due--> AWAKE
 *   any --the machine took the processor away--> STALLED until a time, then as before
 *
 * A message becomes visible when its receiver takes a turn; since the seed decides who runs and
 * who stalls, messages between reactors meet every order that real threads could give them. A
 * sleeping reactor runs only if something wakes it: a lost wake-up is a stand-still, and found.
 *
 * Invariants
 *   1. The clock never goes back, and two events with the same due time run in the order of their
 *      scheduling, or, for one reactor, in an order that the seed draws.
 *   2. reactor_self() is the reactor whose turn it is, NULL otherwise.
 *   3. Trace and hash see every delivery: equal hashes mean equal runs.
 *
 * Rejected: a coroutine per reactor so that reactor_idle() itself could be suspended. It would add
 * only the window between is_sleeping and sleep(), which needs two real threads to be a race; that
 * one is the thread sanitizer's.
 */
#include "world.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "base/uuid.h"
#include "reactor/task.h"
#include "reactor/worker.h"

enum {
	TURN_MIN_NS = 60,
	TURN_SPREAD_NS = 600,
	FAILURE_MAX = 1024,
};

struct sim_reactor {
	struct reactor r;
	struct event *due, **due_end; /* delivered in its next turn */
	uint64_t stalled_until_ns;
	bool is_awake;
};

static struct world {
	uint64_t now_ns, seq, hash, seed;
	struct rng rng;
	struct sim_reactor reactor[WORLD_REACTORS_MAX];
	unsigned nreactors;
	unsigned stall_one_in; /* per turn; 0: never */
	bool is_traced, is_running;
	struct world_stats stats;
	struct event **heap; /* 1-based */
	size_t nheap, heap_size;
	bool has_failed;
	char failure[FAILURE_MAX];
} world;

enum plant sim_plant;

/* ---- randomness, trace, failure ----------------------------------------------------------- */

uint64_t world_now(void)
{
	return world.now_ns;
}

uint64_t world_seed(void)
{
	return world.seed;
}

uint64_t world_hash(void)
{
	return world.hash;
}

const struct world_stats *world_stats(void)
{
	return &world.stats;
}

struct reactor *world_reactor(unsigned i)
{
	return &world.reactor[i].r;
}

unsigned world_nreactors(void)
{
	return world.nreactors;
}

uint64_t world_rand(uint64_t bound)
{
	return rng_below(&world.rng, bound);
}

bool world_chance(unsigned times, unsigned out_of)
{
	return rng_chance(&world.rng, times, out_of);
}

/* A geometric number of doublings: cheap, integer, and the tail reaches 1,000 times the mean. */
uint64_t world_latency(uint64_t min_ns, uint64_t mean_ns)
{
	uint64_t span = mean_ns > min_ns ? mean_ns - min_ns : 1;
	unsigned doublings = 0;

	while (doublings < 10 && world_chance(1, 5))
		doublings++;
	return min_ns + world_rand(span + 1) * (UINT64_C(1) << doublings);
}

volatile unsigned sim_alloc_shield;

void *sim_zalloc(size_t size)
{
	void *ptr;

	sim_alloc_shield++;
	ptr = calloc(1, size);
	sim_alloc_shield--;
	assert(ptr != NULL);
	return ptr;
}

void *sim_grow(void *ptr, size_t n, size_t size)
{
	sim_alloc_shield++;
	ptr = reallocarray(ptr, n, size);
	sim_alloc_shield--;
	assert(ptr != NULL);
	return ptr;
}

static void world_mix(uint64_t x)
{
	world.hash ^= x;
	world.hash *= UINT64_C(0x9e3779b97f4a7c15);
	world.hash ^= world.hash >> 29;
}

void world_trace(const char *what, uint64_t a, uint64_t b)
{
	world.stats.events++;
	for (const char *c = what; *c != '\0'; c++)
		world.hash = (world.hash ^ (uint8_t)*c) * UINT64_C(0x100000001b3);
	world_mix(world.now_ns);
	world_mix(a);
	world_mix(b);
	if (world.is_traced)
		fprintf(stderr, "%12" PRIu64 " r%d %-18s %" PRIu64 " %" PRIu64 "\n", world.now_ns,
			reactor_self() != NULL ? (int)reactor_self()->id : -1, what, a, b);
}

void world_say(const char *fmt, ...)
{
	va_list args;

	if (!world.is_traced)
		return;
	fprintf(stderr, "%12" PRIu64 "    ", world.now_ns);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
}

void world_fail(const char *fmt, ...)
{
	va_list args;

	if (world.has_failed)
		return;
	world.has_failed = true;
	va_start(args, fmt);
	(void)vsnprintf(world.failure, sizeof(world.failure), fmt, args);
	va_end(args);
	world_say("VIOLATION %s", world.failure);
}

bool world_failed(void)
{
	return world.has_failed;
}

const char *world_failure(void)
{
	return world.failure;
}

/* ---- event queue: a binary heap by (due, seq) ---------------------------------------------- */

static bool event_before(const struct event *a, const struct event *b)
{
	return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->seq < b->seq;
}

static void heap_put(struct event *event, size_t place)
{
	world.heap[place] = event;
	event->place = (int)place;
}

static void heap_up(struct event *event, size_t place)
{
	while (place > 1 && event_before(event, world.heap[place / 2])) {
		heap_put(world.heap[place / 2], place);
		place /= 2;
	}
	heap_put(event, place);
}

static void heap_down(struct event *event, size_t place)
{
	for (;;) {
		size_t child = place * 2;

		if (child > world.nheap)
			break;
		if (child < world.nheap && event_before(world.heap[child + 1], world.heap[child]))
			child++;
		if (!event_before(world.heap[child], event))
			break;
		heap_put(world.heap[child], place);
		place = child;
	}
	heap_put(event, place);
}

static void heap_remove(struct event *event)
{
	size_t place = (size_t)event->place;
	struct event *last = world.heap[world.nheap--];

	event->place = 0;
	if (last == event)
		return;
	if (place > 1 && event_before(last, world.heap[place / 2]))
		heap_up(last, place);
	else
		heap_down(last, place);
}

void world_at(struct event *event, int reactor, uint64_t delay_ns, void (*fn)(struct event *event))
{
	assert(!event_is_queued(event));
	assert(reactor < (int)world.nreactors);
	if (world.nheap + 2 > world.heap_size) {
		world.heap_size = world.heap_size * 2 + 256;
		world.heap = sim_grow(world.heap, world.heap_size, sizeof(*world.heap));
	}
	event->due_ns = world.now_ns + delay_ns;
	event->seq = ++world.seq;
	event->fn = fn;
	event->reactor = reactor;
	event->is_due = false;
	heap_up(event, ++world.nheap);
}

void world_cancel(struct event *event)
{
	if (event->is_due) {
		struct sim_reactor *sim = &world.reactor[event->reactor];
		struct event **at = &sim->due;

		while (*at != event)
			at = &(*at)->next;
		*at = event->next;
		if (*at == NULL)
			sim->due_end = at;
		event->is_due = false;
	} else if (event->place > 0) {
		heap_remove(event);
	}
}

/* ---- the backend -------------------------------------------------------------------------- */

static uint64_t backend_now(struct reactor *r)
{
	(void)r;
	return world.now_ns;
}

static unsigned backend_reap(struct reactor *r)
{
	struct sim_reactor *sim = container_of(r, struct sim_reactor, r);
	unsigned events = 0;

	while (sim->due != NULL) {
		struct event *event = sim->due;

		sim->due = event->next;
		if (sim->due == NULL)
			sim->due_end = &sim->due;
		event->is_due = false;
		event->fn(event);
		events++;
		if (world_chance(1, 6)) /* completions come in batches of any size */
			break;
	}
	return events;
}

static void backend_submit(struct reactor *r)
{
	(void)r;
}

/* The world puts reactors to sleep itself (world_settle), so nothing of the engine comes here. */
static void backend_sleep(struct reactor *r, uint64_t until_ns)
{
	(void)r;
	(void)until_ns;
	assert(!"reactor_idle() is not called in the simulator");
}

static void sim_wake(struct sim_reactor *sim)
{
	sim->is_awake = true;
	atomic_store_explicit(&sim->r.is_sleeping, false, memory_order_relaxed);
}

static void backend_wake(struct reactor *r)
{
	struct sim_reactor *sim = container_of(r, struct sim_reactor, r);

	world.stats.wakes++;
	world_trace("wake", r->id, 0);
	if (!plant_strikes(PLANT_LOST_WAKE, 50))
		sim_wake(sim);
}

/* A blocking call: runs outside of all reactors some time from now, done() goes home by message. */
struct sim_work {
	struct event event;
	struct work *work;
};

static void sim_work_back(struct msg *msg)
{
	struct work *work = container_of(msg, struct work, msg);

	work->done(work);
}

static void sim_work_run(struct event *event)
{
	struct sim_work *sim = container_of(event, struct sim_work, event);
	struct work *work = sim->work;

	free(sim);
	world_trace("work", work->origin->id, 0);
	work->fn(work);
	work->msg.fn = sim_work_back;
	reactor_post(work->origin, &work->msg);
}

static void backend_work(struct reactor *r, struct work *work)
{
	struct sim_work *sim = sim_zalloc(sizeof(*sim));

	(void)r;
	sim->work = work;
	world.stats.works++;
	world_at(&sim->event, WORLD_NONE, world_latency(5 * USEC, 200 * USEC), sim_work_run);
}

static const struct reactor_backend backend = {
	.now = backend_now,
	.reap = backend_reap,
	.submit = backend_submit,
	.sleep = backend_sleep,
	.wake = backend_wake,
	.work = backend_work,
};

/* ---- scheduler ---------------------------------------------------------------------------- */

static void world_deliver(struct event *event)
{
	struct sim_reactor *sim;

	if (event->reactor == WORLD_NONE) {
		event->fn(event);
		return;
	}
	sim = &world.reactor[event->reactor];
	event->is_due = true;
	if (sim->due != NULL && world_chance(1, 2)) { /* overtakes what is due already */
		event->next = sim->due;
		sim->due = event;
	} else {
		event->next = NULL;
		*sim->due_end = event;
		sim->due_end = &event->next;
	}
	sim_wake(sim);
}

static void world_deliver_due(void)
{
	while (world.nheap > 0 && world.heap[1]->due_ns <= world.now_ns) {
		struct event *event = world.heap[1];

		heap_remove(event);
		world_deliver(event);
	}
	for (unsigned i = 0; i < world.nreactors; i++) {
		struct sim_reactor *sim = &world.reactor[i];

		if (!sim->is_awake && reactor_next_timer_ns(&sim->r) <= world.now_ns)
			sim_wake(sim);
	}
}

static bool sim_is_runnable(const struct sim_reactor *sim)
{
	return sim->is_awake && sim->stalled_until_ns <= world.now_ns;
}

static struct sim_reactor *world_pick(void)
{
	struct sim_reactor *ready[WORLD_REACTORS_MAX];
	unsigned nready = 0;

	for (unsigned i = 0; i < world.nreactors; i++) {
		if (sim_is_runnable(&world.reactor[i]))
			ready[nready++] = &world.reactor[i];
	}
	if (nready == 0)
		return NULL;
	return ready[nready == 1 ? 0 : world_rand(nready)];
}

/* The same questions as reactor_idle() asks. */
static void world_settle(struct sim_reactor *sim, unsigned events)
{
	struct reactor *r = &sim->r;
	struct poller *poller;

	if (events > 0 || sim->due != NULL || r->ready.head != NULL || r->flush.head != NULL ||
	    !mpsc_is_empty(&r->inbox) || world_chance(1, 3)) /* spin a little */
		return;
	list_for_each (poller, &r->pollers, link) {
		if (poller->arm == NULL || !poller->arm(poller))
			return;
	}
	sim->is_awake = false;
	atomic_store_explicit(&r->is_sleeping, true, memory_order_relaxed);
	world.stats.sleeps++;
}

static void world_turn(struct sim_reactor *sim)
{
	unsigned events;

	reactor_self_ = &sim->r;
	events = reactor_turn(&sim->r);
	world.stats.turns++;
	world.now_ns += TURN_MIN_NS + world_rand(TURN_SPREAD_NS);
	world_settle(sim, events);
	reactor_self_ = NULL;
	if (world.stall_one_in != 0 && world_chance(1, world.stall_one_in)) {
		sim->stalled_until_ns = world.now_ns + world_latency(USEC, 100 * USEC);
		world.stats.stalls++;
	}
}

static uint64_t world_next_ns(void)
{
	uint64_t next_ns = world.nheap > 0 ? world.heap[1]->due_ns : UINT64_MAX;

	for (unsigned i = 0; i < world.nreactors; i++) {
		struct sim_reactor *sim = &world.reactor[i];

		if (sim->is_awake)
			next_ns = MIN(next_ns, sim->stalled_until_ns);
		else
			next_ns = MIN(next_ns, reactor_next_timer_ns(&sim->r));
	}
	return next_ns;
}

bool world_step(void)
{
	struct sim_reactor *sim;
	uint64_t next_ns;

	world_deliver_due();
	sim = world_pick();
	if (sim != NULL) {
		world_turn(sim);
		return true;
	}
	next_ns = world_next_ns();
	if (next_ns == UINT64_MAX)
		return false;
	world.now_ns = MAX(world.now_ns, next_ns);
	return true;
}

bool world_run(const bool *is_done, uint64_t steps_max)
{
	while (!*is_done) {
		if (steps_max-- == 0 || !world_step())
			return false;
	}
	return true;
}

struct world_call {
	void (*fn)(void *arg);
	void *arg;
	bool is_done;
};

static void world_task_fn(void *arg)
{
	struct world_call *call = arg;

	call->fn(call->arg);
	call->is_done = true;
}

bool world_task(void (*fn)(void *arg), void *arg, uint64_t steps_max)
{
	struct world_call call = { .fn = fn, .arg = arg };
	int result;

	reactor_self_ = &world.reactor[0].r;
	result = task_spawn("world", world_task_fn, &call);
	assert(result == 0);
	reactor_self_ = NULL;
	sim_wake(&world.reactor[0]);
	return world_run(&call.is_done, steps_max);
}

/* ---- start and stop ----------------------------------------------------------------------- */

void world_start(const struct world_opts *opts)
{
	struct reactor *reactors[WORLD_REACTORS_MAX];

	assert(!world.is_running);
	memset(&world, 0, sizeof(world));
	world.is_running = true;
	world.is_traced = opts->is_traced;
	world.seed = opts->seed;
	world.now_ns = SEC; /* not 0, so that "never" can be told from "at the start" */
	rng_init(&world.rng, opts->seed);
	world.nreactors = opts->nreactors;
	if (world.nreactors == 0)
		world.nreactors = 1 + (unsigned)world_rand(WORLD_REACTORS_MAX);
	world.stall_one_in = world_chance(1, 2) ? 0 : 50 + (unsigned)world_rand(500);
	for (unsigned i = 0; i < world.nreactors; i++) {
		struct sim_reactor *sim = &world.reactor[i];

		reactor_init(&sim->r, i, &backend, rng_next(&world.rng));
		sim->r.now_ns = sim->r.last_event_ns = world.now_ns;
		sim->due_end = &sim->due;
		sim->is_awake = true;
		reactors[i] = &sim->r;
	}
	reactors_adopt(reactors, world.nreactors);
	uuid_set_random(rng_fill, &world.rng);
}

void world_stop(void)
{
	assert(world.is_running);
	reactors_adopt((struct reactor *[]){ NULL }, 0);
	uuid_set_random(NULL, NULL);
	free(world.heap);
	world.heap = NULL;
	world.is_running = false;
}

/* ---- planted bugs ------------------------------------------------------------------------- */

static const char *const plant_names[PLANT_COUNT_] = {
	[PLANT_NONE] = "none",
	[PLANT_SKIP_QUIESCE_WAIT] = "skip-quiesce-wait",
	[PLANT_EARLY_ACK_FLUSH] = "early-ack-flush",
	[PLANT_LOST_FUA] = "lost-fua",
	[PLANT_RANGE_LOCK_LEAK] = "range-lock-leak",
	[PLANT_DOUBLE_COMPLETE] = "double-complete",
	[PLANT_LOST_WAKE] = "lost-wake",
	[PLANT_MISPLACED_WRITE] = "misplaced-write",
	[PLANT_LOCK_TOO_EARLY] = "lock-too-early",
	[PLANT_NVMF_NO_FENCE] = "nvmf-no-fence",
	[PLANT_NVMF_EARLY_CROSS] = "nvmf-early-cross",
	[PLANT_NVMF_REPEAT] = "nvmf-repeat",
	[PLANT_NVMF_STALE_CID] = "nvmf-stale-cid",
	[PLANT_NVMF_EARLY_READ] = "nvmf-early-read",
	[PLANT_NVMF_SKIP_REFRESH] = "nvmf-skip-refresh",
	[PLANT_NVMF_IGNORE_ANA] = "nvmf-ignore-ana",
	[PLANT_NEXUS_EARLY_ACK] = "nexus-early-ack",
	[PLANT_NEXUS_NO_LOCK] = "nexus-no-lock",
	[PLANT_NEXUS_LOST_BIT] = "nexus-lost-bit",
	[PLANT_NEXUS_OLD_RECORD] = "nexus-old-record",
	[PLANT_NEXUS_NO_REBUILD] = "nexus-no-rebuild",
	[PLANT_NEXUS_RACING_WRITES] = "nexus-racing-writes",
	[PLANT_NEXUS_BLIND_RECORD] = "nexus-blind-record",
};

const char *plant_name(enum plant plant)
{
	return plant_names[plant];
}

bool plant_parse(const char *name, enum plant *ret)
{
	for (unsigned i = 0; i < PLANT_COUNT_; i++) {
		if (strcmp(plant_names[i], name) == 0) {
			*ret = (enum plant)i;
			return true;
		}
	}
	return false;
}

bool plant_strikes(enum plant plant, unsigned one_in)
{
	return sim_plant == plant && world_chance(1, one_in);
}
