/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_worker.c - one device on one reactor: the loop whose own cost must not show.
 *
 * A worker is a poller. Once per turn of the reactor it starts requests on its free slots. A
 * device that answers inside submit hands the slot back at once, so one turn runs up to
 * BENCH_BATCH requests through the same slot and its hot buffer; a device that answers later keeps
 * the slot until done(), which only puts it on the list of free ones: the poller, which runs after
 * the kernel's events in the same turn, sends all of them down again in one batch.
 *
 *	BENCH_FILL (--fill: each unit is written once) --> told to the primary
 *	BENCH_RUN --time, --ops or stop, nothing pending--> told to the primary
 *	BENCH_CHECK (verify: each written unit is read once) --> told to the primary
 *
 * What it costs: a draw, a multiplication, two stores, a decrement; no allocation, no clock. The
 * clock is read once per turn for requests that stay pending. A request that ends inside submit
 * takes less than reading a clock twice, so one in BENCH_SAMPLE is timed, with what two readings
 * cost taken off, and counts with that weight.
 *
 * A request that failed is counted as an error and as nothing else: a device that refuses within
 * nanoseconds must not look fast.
 *
 * With --rate each request has a time at which it is due, and its latency counts from then, whether
 * or not a slot was free: a stall is charged to every request it delayed.
 *
 * Invariants: (1) a slot is either free or pending. (2) pending == 0 when a phase is told to have
 * ended. (3) with verification no unit has two requests in flight (GEN_BUSY), and workers own
 * disjoint parts of the table, so a read always knows which generation it must find.
 *
 * Rejected: restarting a slot in done(), which saves nothing and loses the batch; a closed list of
 * ready-made random addresses, which measures the cache instead.
 *
 * Thread: the worker's reactor; the primary reads counters while it runs and tolerates tears.
 */
#include <errno.h>
#include <string.h>

#include "base/units.h"
#include "cli/bench.h"
#include "reactor/mem.h"

enum {
	CLOCK_TRIES = 64,
};

static void worker_note_status(struct bench_worker *w, const struct io *io)
{
	w->counts.errors++;
	w->counts.failed_in_run += w->phase == BENCH_RUN;
	if (w->nnotes < BENCH_NOTES_MAX)
		w->notes[w->nnotes++] = (struct bench_note){
			.is_status = true, .op = io->op, .status = io->status, .lba = io->lba
		};
}

static void worker_note_fault(struct bench_worker *w, const struct pattern_fault *fault)
{
	if (w->nnotes < BENCH_NOTES_MAX)
		w->notes[w->nnotes++] = (struct bench_note){ .fault = *fault };
}

/* ---- verification -------------------------------------------------------------------------- */

/* Take @unit for a request, unless another one has it. */
static bool unit_take(struct bench_worker *w, uint64_t unit)
{
	uint32_t *gen = &w->table->gen[unit];

	if (*gen & GEN_BUSY)
		return false;
	*gen |= GEN_BUSY;
	return true;
}

/*
 * The generation of the next write. After failed ones, which may have arrived, any of three may be
 * there: the one before, that of the first (1 more), that of each later (2 more: the same data).
 */
static uint32_t gen_next(uint32_t gen)
{
	uint32_t next = (gen & GEN_MASK) + ((gen & GEN_UNSURE) != 0 ? 2 : 1);

	return next <= BENCH_GEN_MAX ? next : 1;
}

static void slot_fill(struct bench_worker *w, struct bench_slot *s)
{
	pattern_fill(s->buf, w->unit_nlb, w->block_size, s->unit * w->unit_nlb,
		     gen_next(w->table->gen[s->unit]), w->table->seed);
}

static void slot_check(struct bench_worker *w, struct bench_slot *s)
{
	uint32_t gen = w->table->gen[s->unit];
	uint64_t low = gen & GEN_MASK;
	struct pattern_expect expect = {
		.first_lba = s->unit * w->unit_nlb,
		.gen_min = low,
		.gen_max = low + ((gen & GEN_UNSURE) != 0 ? 2 : 0),
		.seed = w->table->seed,
	};
	uint64_t left = w->unit_nlb;
	const uint8_t *at = s->buf;

	w->counts.checked_blocks += left;
	while (left > 0) {
		struct pattern_fault fault = {};
		enum pattern_verdict verdict = pattern_check(at, left, w->block_size, &expect,
							     &fault);

		if (verdict == PATTERN_OK)
			return;
		w->counts.bad_blocks++;
		w->counts.verdicts[verdict]++;
		worker_note_fault(w, &fault);
		at += (fault.block + 1) * w->block_size;
		left -= fault.block + 1;
		expect.first_lba += fault.block + 1;
	}
}

/* The request on s->unit has ended. */
static void slot_settle(struct bench_worker *w, struct bench_slot *s)
{
	uint32_t *gen = &w->table->gen[s->unit];

	if (s->io.op == IO_WRITE) {
		*gen = s->io.status == IO_OK ? gen_next(*gen) : (*gen & GEN_MASK) | GEN_UNSURE;
		return;
	}
	if (s->io.status == IO_OK && (*gen & GEN_MASK) != 0)
		slot_check(w, s);
	*gen &= ~(uint32_t)GEN_BUSY;
}

/*
 * Choose a unit whose expected content is known. Where the pattern writes, a read that finds no
 * written unit becomes a write. False: every unit drawn is in use; try again in the next turn.
 */
static bool worker_pick_known(struct bench_worker *w, struct bench_slot *s)
{
	for (unsigned i = 0; i < BENCH_PICK_TRIES; i++) {
		uint64_t unit = w->first_unit + rng_below(&w->rng, w->nunits);
		bool is_written = (w->table->gen[unit] & GEN_MASK) != 0;

		if (s->io.op == IO_READ && !is_written) {
			if (i + 1 < BENCH_PICK_TRIES)
				continue;
			if (w->rw == BENCH_RANDRW)
				s->io.op = IO_WRITE;
		}
		if (unit_take(w, unit)) {
			s->unit = unit;
			return true;
		}
	}
	return false;
}

/*
 * The next unit of a pass over the worker's part: all of it to write, or what was written to read
 * back. False: none is left.
 */
static bool worker_pick_pass(struct bench_worker *w, struct bench_slot *s)
{
	uint64_t end = w->part_first + w->part_nunits;

	while (w->next_unit < end) {
		uint64_t unit = w->next_unit++;

		if (w->phase == BENCH_CHECK && (w->table->gen[unit] & GEN_MASK) == 0)
			continue;
		if (w->is_verifying)
			w->table->gen[unit] |= GEN_BUSY;
		s->unit = unit;
		s->io.op = w->phase == BENCH_FILL ? IO_WRITE : IO_READ;
		return true;
	}
	w->ops_left = 0;
	return false;
}

/* ---- one request ---------------------------------------------------------------------------- */

static uint64_t worker_next_in_order(struct bench_worker *w)
{
	uint64_t unit = w->next_unit++;

	if (w->next_unit >= w->first_unit + w->nunits)
		w->next_unit = w->first_unit;
	return unit;
}

/* All patterns but the plainest one; verification needs to know units. */
static NOINLINE bool worker_pick_slow(struct bench_worker *w, struct bench_slot *s)
{
	if (w->phase != BENCH_RUN) {
		if (!worker_pick_pass(w, s))
			return false;
	} else {
		s->io.op = IO_READ;
		if (w->rw == BENCH_WRITE || w->rw == BENCH_RANDWRITE)
			s->io.op = IO_WRITE;
		else if (w->rw == BENCH_RANDRW && (uint32_t)rng_next(&w->rng) >= w->read_share)
			s->io.op = IO_WRITE;
		if (w->rw == BENCH_READ || w->rw == BENCH_WRITE) {
			if (w->is_verifying && w->table->gen[w->next_unit] & GEN_BUSY)
				return false;
			s->unit = worker_next_in_order(w);
			if (w->is_verifying)
				w->table->gen[s->unit] |= GEN_BUSY;
		} else if (w->is_verifying) {
			if (!worker_pick_known(w, s))
				return false;
		} else {
			s->unit = w->first_unit + rng_below(&w->rng, w->nunits);
		}
	}
	if (w->is_verifying && s->io.op == IO_WRITE)
		slot_fill(w, s);
	s->io.lba = s->unit * w->unit_nlb;
	return true;
}

static inline bool worker_pick(struct bench_worker *w, struct bench_slot *s)
{
	if (unlikely(!w->is_plain))
		return worker_pick_slow(w, s);
	s->io.op = w->rw == BENCH_RANDREAD ? IO_READ : IO_WRITE;
	s->io.lba = (w->first_unit + rng_below(&w->rng, w->nunits)) * w->unit_nlb;
	return true;
}

/* What is the same for every ended request, whether it was answered at once or later. */
static inline void worker_count(struct bench_worker *w, struct bench_slot *s)
{
	if (unlikely(s->io.status != IO_OK))
		worker_note_status(w, &s->io);
	else if (likely(w->phase == BENCH_RUN))
		w->counts.ops[s->io.op]++;
	if (unlikely(w->is_verifying))
		slot_settle(w, s);
}

/* The exact time, read once per turn. */
static inline uint64_t worker_clock(struct bench_worker *w)
{
	if (w->clock_turn != w->reactor->stats.turns) {
		w->clock_turn = w->reactor->stats.turns;
		w->now_ns = reactor_clock(w->reactor);
	}
	return w->now_ns;
}

static void slot_done(struct io *io)
{
	struct bench_slot *s = container_of(io, struct bench_slot, io);
	struct bench_worker *w = s->worker;
	uint64_t now_ns = worker_clock(w);

	if (w->phase == BENCH_RUN && s->io.status == IO_OK)
		hist_add(&w->counts.latency, now_ns > s->start_ns ? now_ns - s->start_ns : 0, 1);
	worker_count(w, s);
	w->pending--;
	s->next = w->free;
	w->free = s;
}

/* io_start(), timed: the latency of a request that ends inside it. */
static NOINLINE enum io_result worker_start_timed(struct bench_worker *w, struct io *io)
{
	uint64_t before_ns = reactor_clock(w->reactor), took_ns;
	enum io_result result = io_start(w->handle, io);
	uint32_t weight = w->weight;

	w->sample = w->weight = BENCH_SAMPLE;
	if (result == IO_PENDING || w->phase != BENCH_RUN || io->status != IO_OK)
		return result;
	took_ns = reactor_clock(w->reactor) - before_ns;
	took_ns = took_ns > w->clock_cost_ns ? took_ns - w->clock_cost_ns : 0;
	hist_add(&w->counts.latency, took_ns, weight);
	return result;
}

/* Start up to @budget requests on free slots; returns how many. The loop that is measured. */
static HOT unsigned worker_batch(struct bench_worker *w, unsigned budget)
{
	struct bench_slot *s = w->free;
	unsigned started = 0;

	while (started < budget && s != NULL) {
		enum io_result result;

		if (unlikely(!worker_pick(w, s)))
			break;
		started++;
		if (unlikely(--w->sample == 0))
			result = worker_start_timed(w, &s->io);
		else
			result = io_start(w->handle, &s->io);
		if (likely(result == IO_DONE)) {
			worker_count(w, s);
			continue;
		}
		s->start_ns = worker_clock(w);
		w->pending++;
		s = s->next;
	}
	w->free = s;
	return started;
}

/* The same at a fixed rate: a request starts when it is due and its latency counts from then. */
static unsigned worker_batch_paced(struct bench_worker *w)
{
	uint64_t now_ns = worker_clock(w);
	unsigned started = 0;

	while (started < BENCH_BATCH && w->free != NULL && w->due_ns <= (double)now_ns &&
	       w->ops_left > 0) {
		struct bench_slot *s = w->free;
		uint64_t due_ns = (uint64_t)w->due_ns;

		if (!worker_pick(w, s))
			break;
		w->free = s->next;
		w->due_ns += w->interval_ns;
		w->ops_left--;
		started++;
		s->start_ns = due_ns;
		if (io_start(w->handle, &s->io) == IO_PENDING) {
			w->pending++;
			continue;
		}
		now_ns = reactor_clock(w->reactor);
		if (s->io.status == IO_OK)
			hist_add(&w->counts.latency, now_ns - due_ns, 1);
		worker_count(w, s);
		s->next = w->free;
		w->free = s;
	}
	return started;
}

/* ---- the poller ----------------------------------------------------------------------------- */

static void worker_finish(struct bench_worker *w)
{
	poller_stop(w->reactor, &w->poller);
	timer_disarm(w->reactor, &w->wake);
	timer_disarm(w->reactor, &w->due);
	w->finish_ns = reactor_clock(w->reactor);
	reactor_post(reactor_primary(), &w->over);
}

static unsigned worker_poll(struct poller *poller)
{
	struct bench_worker *w = container_of(poller, struct bench_worker, poller);
	unsigned budget, started;

	if (unlikely(w->reactor->now_ns >= w->end_ns ||
		     atomic_load_explicit(w->stop, memory_order_relaxed)))
		w->ops_left = 0;
	if (unlikely(w->ops_left == 0)) {
		if (w->pending == 0)
			worker_finish(w);
		return 0;
	}
	if (w->interval_ns != 0 && w->phase == BENCH_RUN)
		return worker_batch_paced(w);
	budget = (unsigned)MIN(w->ops_left, (uint64_t)BENCH_BATCH);
	started = worker_batch(w, budget);
	w->ops_left -= MIN(w->ops_left, (uint64_t)started);
	return started;
}

/*
 * May the reactor sleep? Yes when every slot is pending (their completion wakes it), when nothing
 * is left to start, or when the next request is due later than a turn takes.
 */
static bool worker_arm(struct poller *poller)
{
	struct bench_worker *w = container_of(poller, struct bench_worker, poller);

	if (w->free == NULL || (w->ops_left == 0 && w->pending != 0))
		return true;
	if (w->interval_ns == 0 || w->phase != BENCH_RUN || w->ops_left == 0)
		return false;
	if (w->due_ns <= (double)w->reactor->now_ns)
		return false;
	timer_arm(w->reactor, &w->due, (uint64_t)w->due_ns - w->reactor->now_ns);
	return true;
}

/* Being awake is all that was wanted: the poller looks at the clock. */
static void worker_woken(struct timer *timer)
{
}

/* ---- life ------------------------------------------------------------------------------------ */

static uint64_t clock_cost(struct reactor *r)
{
	uint64_t least_ns = UINT64_MAX;

	for (unsigned i = 0; i < CLOCK_TRIES; i++) {
		uint64_t before_ns = reactor_clock(r), after_ns = reactor_clock(r);

		least_ns = MIN(least_ns, after_ns - before_ns);
	}
	return least_ns;
}

int worker_init(struct bench_worker *w, struct err *err)
{
	size_t bytes = w->qd * w->bs;
	struct bench_slot *slots = calloc(w->qd, sizeof(*slots));

	w->slots = slots;
	w->bufs = slots == NULL ? NULL : dma_alloc(bytes);
	if (w->bufs == NULL)
		return err_set(
			err, -ENOMEM,
			"no memory for %u requests of %llu bytes; use a smaller --qd or --bs",
			w->qd, (unsigned long long)w->bs);
	if (!w->is_verifying && (w->bench->opts.fill || w->rw == BENCH_WRITE ||
				 w->rw == BENCH_RANDWRITE || w->rw == BENCH_RANDRW))
		rng_fill(&w->rng, w->bufs, bytes);
	for (unsigned i = w->qd; i-- > 0;) {
		struct bench_slot *s = &slots[i];

		s->worker = w;
		s->buf = w->bufs + i * w->bs;
		s->io.nlb = w->unit_nlb;
		s->io.done = slot_done;
		s->io.tag = i;
		io_set_buf(&s->io, s->buf, w->bs);
		s->next = w->free;
		w->free = s;
	}
	w->poller.poll = worker_poll;
	w->poller.arm = worker_arm;
	w->wake.fn = worker_woken;
	w->due.fn = worker_woken;
	w->over.fn = bench_worker_over;
	return 0;
}

void worker_done(struct bench_worker *w)
{
	if (w->bufs != NULL)
		dma_free(w->bufs, w->qd * w->bs);
	free(w->slots);
	w->bufs = NULL;
	w->slots = NULL;
}

void worker_start(void *worker)
{
	struct bench_worker *w = worker;
	uint64_t now_ns = reactor_clock(w->reactor);

	w->clock_cost_ns = clock_cost(w->reactor);
	w->sample = w->weight =
		1; /* the first one counts for itself: a short run has a latency too */
	w->clock_turn = UINT64_MAX;
	w->next_unit = w->phase == BENCH_RUN ? w->first_unit : w->part_first;
	w->ops_left = w->phase == BENCH_RUN ? w->ops_run : UINT64_MAX;
	w->is_plain = w->phase == BENCH_RUN && !w->is_verifying && w->rw <= BENCH_RANDWRITE;
	w->start_ns = now_ns;
	w->due_ns = (double)now_ns;
	w->end_ns = UINT64_MAX;
	if (w->phase == BENCH_RUN && w->bench->opts.time_ns != 0) {
		w->end_ns = now_ns + w->bench->opts.time_ns;
		timer_arm(w->reactor, &w->wake, w->end_ns - now_ns);
	}
	poller_start(w->reactor, &w->poller);
}
