// SPDX-License-Identifier: Apache-2.0
/*
 * Faults on purpose: who is armed where, and what happens to a request.
 *
 * A storage engine is judged by what it does when the device below misbehaves, and a device that
 * misbehaves on demand is hard to come by. So any device can be told to, by URI, while it runs, in
 * the same binary that ships. The grammar is in fault_uri.c; here are the registry (who is armed)
 * and the data path (what it does).
 *
 *   struct fault  --- one per URI; counters are atomic, the rest is constant
 *     struct arm    --- the fault on one channel; a link in fault_channel.arms
 *   struct fault_channel --- a channel: its arms and the requests in our hands
 *     struct held   --- one of those requests
 *
 *        fault_submit
 *   new ------+--- nothing fires -------------------------------------------> driver
 *             +--- status, drop ------------> done
 *             +--- delay --> DELAYED --timer--> READY --io_reissue--> fault_submit: the rest
 *             +--- torn, corrupt, data --> (no bytes left: WAITING ---> READY)
 *                                      --> REDIRECTED --> driver --> fault_complete: put back
 *   fault_complete: status and data at once; delay --> FINISHING --timer--> io_resume_unwind
 *
 * All faults that match are asked in the order they were added, and their answers become one plan:
 * delays add up and come first, then the first status, drop or change of data.
 *
 * Invariants
 *   1. GATE_FAULTS of a channel is set exactly while it has arms or held requests (channel_update).
 *   2. A held request that waits for its submission has frame_hook() as the hook of its frame: what
 *      the gate does to it meanwhile (refuse it after a removal), its struct held is freed.
 *   3. A REDIRECTED request passes fault_complete(), because of 1, and gets its own iovec back
 *      there; its owner's buffer was only read.
 *   4. An arm is touched on its channel's reactor only, lists of faults and channels on the primary
 *      only. A fault is freed after every reactor has been back in its loop once.
 *   5. hits >= fired, and fired <= retries, over all reactors.
 *
 * Delays are slept in slices, so that what a removed fault or device holds is let go soon.
 *
 * Memory for held requests is allocated when a fault fires: the path without faults stays free of
 * it, and a fault that finds no memory says so (IO_NO_MEMORY).
 *
 * Thread: see fault.h.
 *
 * Rejected: a filter device in the stack (adding one to a running device is a re-layering, and the
 * device's own statistics would not see what it did); a global latch (arming one device would cost
 * all others).
 */
#include "device/fault.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "base/rng.h"
#include "reactor/mem.h"

enum {
	DELAY_SLICE_NS = 20 * 1000 * 1000,
};

/* Seed of method=data: any constant, the same in every run. */
#define FAULT_DATA_SEED UINT64_C(0x6173686c61723031)

struct fault {
	struct list link; /* all, in order of addition */
	struct list arms; /* arm.fault_link */
	struct fault_spec spec;
	struct device *dev; /* borrowed; NULL: no such device now */
	bool is_going;
	unsigned slot;
	_Atomic uint64_t hits, fired, draws;
	_Atomic uint64_t first_ns; /* clock of the first match; UINT64_MAX: none yet */
	char uri[];
};

struct fault_channel {
	struct list link;        /* all; primary */
	struct list active_link; /* of its reactor, while GATE_FAULTS */
	struct list arms;        /* arm.channel_link; reactor */
	struct list held;        /* held.link; reactor */
	struct channel *ch;
};

struct arm {
	struct list fault_link;
	struct list channel_link;
	struct fault *fault;
	struct fault_channel *fch;
};

/* What is going to happen to one request. */
struct plan {
	uint64_t delay_ns;
	const struct fault *delayed_by; /* never dereferenced: it may be gone */
	bool ends;                      /* with status, without the driver */
	bool changes;                   /* by method */
	bool is_torn_ok;
	uint8_t method;
	uint16_t status;
	uint32_t bits;
	uint64_t draw; /* random number for blocks or bits */
};

enum held_state {
	HELD_DELAYED,    /* before submission, timer runs */
	HELD_WAITING,    /* before submission, for private memory */
	HELD_READY,      /* sent through the gate again */
	HELD_REDIRECTED, /* at the driver, with our data */
	HELD_FINISHING,  /* behind the driver, timer runs */
};

struct held {
	struct list link;
	struct list wait_link; /* fault_reactor.waiting */
	struct fault_channel *fch;
	struct io *io;
	unsigned depth; /* of the frame; with io the key */
	enum held_state state;
	struct plan plan;
	struct timer timer;
	uint64_t due_ns;
	enum io_result (*hook)(struct io *io); /* the frame's own */
	bool is_hooked;
	const struct iovec *iov; /* the owner's */
	uint16_t iovcnt;
	struct iovec one;
	void *buf;
	size_t size;
};

/* One reactor's share; touched on its thread only. */
struct fault_reactor {
	struct list active;  /* fault_channel.active_link */
	struct list waiting; /* held.wait_link, in order */
	uint64_t bytes;      /* private data in use */
};

static struct fault_reactor per_reactor[REACTORS_MAX];
static struct list faults, channels;
static struct task_mutex control;
static _Atomic(struct fault *) slots[FAULTS_MAX]; /* for fault_match() */
_Atomic unsigned fault_domain_count[FAULT_DOMAIN_COUNT_];
static bool is_ready;

/* First call from the primary, before any channel exists. */
static void init_once(void)
{
	if (is_ready)
		return;
	list_init(&faults);
	list_init(&channels);
	task_mutex_init(&control);
	for (unsigned i = 0; i < REACTORS_MAX; i++) {
		list_init(&per_reactor[i].active);
		list_init(&per_reactor[i].waiting);
	}
	is_ready = true;
}

static void unlock_controlp(bool *is_locked)
{
	if (*is_locked)
		task_mutex_unlock(&control);
}

static bool lock_control(void) MAY_SUSPEND
{
	init_once();
	task_mutex_lock(&control);
	return true;
}

/* ---- matching and firing ------------------------------------------------------------------ */

static bool overlaps(const struct fault_spec *spec, enum io_op op, uint64_t lba, uint64_t nlb)
{
	if (!(IO_BIT(op) & IO_OPS_WITH_RANGE))
		return true; /* it is about the whole device */
	return lba < spec->end_lba && spec->lba < lba + nlb;
}

static bool matches(const struct fault_spec *spec, enum fault_stage stage, enum io_op op,
		    uint64_t lba, uint64_t nlb)
{
	return spec->stages & stage && spec->ops >> op & 1 &&
	       fault_method_ops(spec->method, stage) >> op & 1 && overlaps(spec, op, lba, nlb);
}

static uint64_t draw(struct fault *fault, struct reactor *r)
{
	uint64_t state;

	if (!fault->spec.has_seed)
		return reactor_random(r);
	state = fault->spec.seed + atomic_fetch_add(&fault->draws, 1) * 0x9e3779b97f4a7c15u;
	return splitmix64(&state);
}

/* Is now inside the time window? The first match starts the clock. */
static bool is_in_window(struct fault *fault, uint64_t now_ns)
{
	const struct fault_spec *spec = &fault->spec;
	uint64_t first_ns = UINT64_MAX, elapsed_ms;

	if (atomic_compare_exchange_strong(&fault->first_ns, &first_ns, now_ns))
		first_ns = now_ns;
	elapsed_ms = now_ns > first_ns ? (now_ns - first_ns) / 1000000 : 0;
	return elapsed_ms >= spec->begin_ms && elapsed_ms < spec->end_ms;
}

/* Take one of the retries; only firings count. */
static bool take_retry(struct fault *fault)
{
	uint64_t fired = atomic_load(&fault->fired);

	do {
		if (fired >= fault->spec.retries)
			return false;
	} while (!atomic_compare_exchange_weak(&fault->fired, &fired, fired + 1));
	return true;
}

/* It matched; does it fire? @can_act: the request is in a state that its method can change. */
static bool fires(struct fault *fault, struct reactor *r, bool can_act)
{
	double probability = fault->spec.probability;

	atomic_fetch_add(&fault->hits, 1);
	if (!is_in_window(fault, r->now_ns) || !can_act)
		return false;
	if (probability < 1.0 && (double)(draw(fault, r) >> 11) * 0x1.0p-53 >= probability)
		return false;
	return take_retry(fault);
}

static uint64_t pick_delay_ns(struct fault *fault, struct reactor *r)
{
	uint64_t low = fault->spec.delay_min_us, span = fault->spec.delay_max_us - low + 1;

	return (low + (span > 1 ? draw(fault, r) % span : 0)) * 1000;
}

/* Add what @fault does to the plan; false: nothing further can matter. */
static bool plan_add(struct plan *plan, struct fault *fault, struct reactor *r)
{
	const struct fault_spec *spec = &fault->spec;

	switch (spec->method) {
	case FAULT_DELAY:
		plan->delay_ns += pick_delay_ns(fault, r);
		plan->delayed_by = fault;
		return true;
	case FAULT_STATUS:
	case FAULT_DROP:
		plan->ends = true;
		plan->status = spec->method == FAULT_DROP ? IO_OK : spec->status;
		return false;
	default:
		plan->changes = true;
		plan->method = spec->method;
		plan->status = spec->status;
		plan->is_torn_ok = spec->is_torn_ok;
		plan->bits = spec->bits;
		plan->draw = draw(fault, r);
		return false;
	}
}

static struct plan plan_make(struct fault_channel *fch, const struct io *io,
			     const struct io_frame *f, enum fault_stage stage)
{
	struct plan plan = {};
	struct arm *arm;

	list_for_each (arm, &fch->arms, channel_link) {
		const struct fault_spec *spec = &arm->fault->spec;
		bool can_act = stage == FAULT_SUBMIT || io->status == IO_OK ||
			       spec->method == FAULT_DELAY;

		if (matches(spec, stage, io->op, f->lba, f->nlb) &&
		    fires(arm->fault, fch->ch->reactor, can_act) &&
		    !plan_add(&plan, arm->fault, fch->ch->reactor))
			break;
	}
	return plan;
}

const struct fault_spec *fault_match(enum fault_domain domain, enum fault_stage stage,
				     const char *name, const struct io *io)
{
	if (!fault_domain_armed(domain))
		return NULL;
	for (unsigned i = 0; i < FAULTS_MAX; i++) {
		struct fault *fault = atomic_load_explicit(&slots[i], memory_order_acquire);

		if (fault == NULL || fault->spec.domain != domain ||
		    !matches(&fault->spec, stage, io->op, io->lba, io->nlb) ||
		    strcmp(fault->spec.device, name) != 0)
			continue;
		if (fires(fault, reactor_self(), stage == FAULT_SUBMIT || io->status == IO_OK))
			return &fault->spec;
	}
	return NULL;
}

/* ---- requests in our hands ---------------------------------------------------------------- */

static struct fault_reactor *share_of(const struct fault_channel *fch)
{
	return &per_reactor[fch->ch->reactor->id];
}

static struct fault_channel *channel_find(const struct channel *ch)
{
	struct fault_channel *fch;

	list_for_each (fch, &per_reactor[ch->reactor->id].active, active_link) {
		if (fch->ch == ch)
			return fch;
	}
	return NULL;
}

/* Keep invariant 1. */
static void channel_update(struct fault_channel *fch)
{
	bool is_active = !list_empty(&fch->arms) || !list_empty(&fch->held);

	if (is_active && list_empty(&fch->active_link))
		list_add_tail(&share_of(fch)->active, &fch->active_link);
	else if (!is_active)
		list_del(&fch->active_link);
	if (is_active)
		fch->ch->gate |= GATE_FAULTS;
	else
		fch->ch->gate &= ~(uint32_t)GATE_FAULTS;
}

static struct held *held_find(struct fault_channel *fch, const struct io *io, unsigned depth)
{
	struct held *held;

	list_for_each (held, &fch->held, link) {
		if (held->io == io && held->depth == depth)
			return held;
	}
	return NULL;
}

static void held_timer(struct timer *timer);

/* NULL: no memory. */
static struct held *held_new(struct fault_channel *fch, struct io *io, const struct plan *plan)
{
	struct held *held = calloc(1, sizeof(*held));

	if (held == NULL)
		return NULL;
	held->fch = fch;
	held->io = io;
	held->depth = io->depth;
	held->plan = *plan;
	held->timer.fn = held_timer;
	list_init(&held->wait_link);
	list_add_tail(&fch->held, &held->link);
	channel_update(fch);
	return held;
}

/* Memory came back: whoever waits longest tries again, from the loop. */
static void wake_waiting(struct fault_channel *fch)
{
	struct held *held = list_first_entry(&share_of(fch)->waiting, struct held, wait_link);

	if (held == NULL)
		return;
	list_del(&held->wait_link);
	timer_arm(held->fch->ch->reactor, &held->timer, 0);
}

/* The frame is held->io->frame[held->depth - 1]; the request is as its owner made it afterwards. */
static void held_free(struct held *held)
{
	struct fault_channel *fch = held->fch;
	struct io *io = held->io;

	if (held->is_hooked)
		io->frame[held->depth - 1].hook = held->hook;
	if (held->state == HELD_REDIRECTED) {
		io->iov = held->iov;
		io->iovcnt = held->iovcnt;
		io->nlb = io->frame[held->depth - 1].nlb;
	}
	if (held->buf != NULL) {
		dma_free(held->buf, held->size);
		share_of(fch)->bytes -= held->size;
		wake_waiting(fch);
	}
	timer_disarm(fch->ch->reactor, &held->timer);
	list_del(&held->wait_link);
	list_del(&held->link);
	free(held);
	channel_update(fch);
}

/* The frame of a request that waited is finished, whatever became of it (invariant 2). */
static enum io_result frame_hook(struct io *io)
{
	struct fault_channel *fch = channel_find(io->frame[io->depth].ch);
	struct held *held = held_find(fch, io, io->depth + 1u);
	enum io_result (*hook)(struct io * io) = held->hook;

	held_free(held);
	return hook == NULL ? IO_DONE : hook(io);
}

static void held_hook(struct held *held)
{
	struct io_frame *f = io_top(held->io);

	if (held->is_hooked)
		return;
	held->hook = f->hook;
	held->is_hooked = true;
	f->hook = frame_hook;
}

static void held_sleep(struct held *held)
{
	struct reactor *r = held->fch->ch->reactor;
	uint64_t left_ns = held->due_ns > r->now_ns ? held->due_ns - r->now_ns : 0;

	timer_arm(r, &held->timer, MIN(left_ns, (uint64_t)DELAY_SLICE_NS));
}

static void held_timer(struct timer *timer)
{
	struct held *held = container_of(timer, struct held, timer);
	struct channel *ch = held->fch->ch;
	struct io *io = held->io;

	if (held->due_ns > ch->reactor->now_ns && !(ch->gate & GATE_REMOVED)) {
		held_sleep(held);
		return;
	}
	if (held->state == HELD_FINISHING) {
		held_free(held);
		io_resume_unwind(io);
		return;
	}
	held->state = HELD_READY;
	io_reissue(io);
}

/* ---- changing data ------------------------------------------------------------------------ */

static void flip_bit(const struct iovec *iov, int iovcnt, uint64_t bit)
{
	uint8_t byte;

	if (iov_to_buf(iov, iovcnt, bit / 8, &byte, 1) == 0)
		return;
	byte ^= (uint8_t)(1u << bit % 8);
	(void)iov_from_buf(iov, iovcnt, bit / 8, &byte, 1);
}

/* Flip @plan->bits different bits of @size bytes from @off on: one in each of as many parts. */
static void corrupt(const struct iovec *iov, int iovcnt, size_t off, size_t size,
		    const struct plan *plan)
{
	uint64_t total = (uint64_t)size * 8;
	uint64_t count = MIN((uint64_t)plan->bits, total);
	struct rng rng;

	rng_init(&rng, plan->draw);
	for (uint64_t i = 0; i < count; i++) {
		uint64_t low = total / count * i;

		flip_bit(iov, iovcnt, (uint64_t)off * 8 + low + rng_below(&rng, total / count));
	}
}

static void replace_data(const struct iovec *iov, int iovcnt, size_t off, size_t size)
{
	uint8_t piece[512];
	struct rng rng;

	rng_init(&rng, FAULT_DATA_SEED);
	for (size_t done = 0; done < size; done += sizeof(piece)) {
		rng_fill(&rng, piece, sizeof(piece));
		(void)iov_from_buf(iov, iovcnt, off + done, piece, MIN(size - done, sizeof(piece)));
	}
}

static void change_data(const struct iovec *iov, int iovcnt, size_t off, size_t size,
			const struct plan *plan)
{
	if (plan->method == FAULT_CORRUPT)
		corrupt(iov, iovcnt, off, size, plan);
	else
		replace_data(iov, iovcnt, off, size);
}

/* Private copy of the first @nlb of the blocks, changed; the request points at it. */
static void redirect_data(struct held *held, uint32_t nlb)
{
	struct io *io = held->io;
	unsigned shift = held->fch->ch->block_shift;
	size_t size = (size_t)nlb << shift, off = 0;
	uint8_t *buf = held->buf;

	(void)iov_to_buf(io->iov, io->iovcnt, 0, buf, size);
	if (io->op == IO_COMPARE_WRITE) { /* what is written stands behind what is compared */
		(void)iov_to_buf(io->iov, io->iovcnt, (size_t)io->nlb << shift, buf + size, size);
		off = size;
	}
	held->one = (struct iovec){ .iov_base = buf, .iov_len = off + size };
	io->iov = &held->one;
	io->iovcnt = 1;
	if (held->plan.method != FAULT_TORN)
		change_data(io->iov, 1, off, size, &held->plan);
}

/* ---- submission --------------------------------------------------------------------------- */

static enum fault_action end_with(struct io *io, struct held *held, uint16_t status)
{
	if (held != NULL)
		held_free(held);
	io->status = status;
	return FAULT_DONE;
}

/* Private memory for @held; false: none left, it waits. *@ret_is_short: and never will be. */
static bool held_take_memory(struct held *held, size_t size, bool *ret_is_short)
{
	struct fault_reactor *share = share_of(held->fch);

	*ret_is_short = false;
	if (share->bytes > 0 && share->bytes + size > FAULT_BYTES_MAX) {
		held_hook(held);
		held->state = HELD_WAITING;
		list_add_tail(&share->waiting, &held->wait_link);
		return false;
	}
	held->buf = dma_alloc(size);
	if (held->buf == NULL) {
		*ret_is_short = true;
		return false;
	}
	held->size = size;
	share->bytes += size;
	return true;
}

/* Let the driver see other data, or fewer blocks. */
static enum fault_action redirect(struct fault_channel *fch, struct io *io, struct held *held,
				  const struct plan *plan)
{
	uint32_t nlb = plan->method == FAULT_TORN ? (uint32_t)(plan->draw % io->nlb) : io->nlb;
	size_t size = (size_t)nlb << fch->ch->block_shift;
	bool is_short;

	if (nlb == 0)
		return end_with(io, held, plan->is_torn_ok ? IO_OK : plan->status);
	if (held == NULL)
		held = held_new(fch, io, plan);
	if (held == NULL)
		return end_with(io, NULL, IO_NO_MEMORY);
	if (IO_BIT(io->op) & IO_OPS_WITH_DATA &&
	    !held_take_memory(held, io->op == IO_COMPARE_WRITE ? 2 * size : size, &is_short))
		return is_short ? end_with(io, held, IO_NO_MEMORY) : FAULT_HELD;
	held->iov = io->iov;
	held->iovcnt = io->iovcnt;
	if (held->buf != NULL)
		redirect_data(held, nlb);
	io->nlb = nlb;
	held->state = HELD_REDIRECTED;
	return FAULT_PASS;
}

static enum fault_action delay(struct fault_channel *fch, struct io *io, const struct plan *plan)
{
	struct held *held = held_new(fch, io, plan);

	if (held == NULL)
		return end_with(io, NULL, IO_NO_MEMORY);
	held_hook(held);
	held->state = HELD_DELAYED;
	held->due_ns = fch->ch->reactor->now_ns + plan->delay_ns;
	held_sleep(held);
	return FAULT_HELD;
}

enum fault_action fault_submit(struct channel *ch, struct io *io)
{
	struct fault_channel *fch = channel_find(ch);
	struct held *held;
	struct plan plan;

	if (fch == NULL)
		return FAULT_PASS;
	held = held_find(fch, io, io->depth);
	if (held == NULL) {
		plan = plan_make(fch, io, io_top(io), FAULT_SUBMIT);
		if (plan.delay_ns > 0)
			return delay(fch, io, &plan);
	} else {
		plan = held->plan; /* was held: do the rest of what was decided then */
	}
	if (plan.ends)
		return end_with(io, held, plan.status);
	if (plan.changes)
		return redirect(fch, io, held, &plan);
	if (held != NULL)
		held_free(held);
	return FAULT_PASS;
}

/* ---- completion --------------------------------------------------------------------------- */

/* The driver is done with a redirected request: give the owner's data back. */
static void finish_redirected(struct held *held)
{
	struct io *io = held->io;

	if (held->plan.method == FAULT_TORN && !held->plan.is_torn_ok && io->status == IO_OK)
		io->status = held->plan.status;
	held_free(held);
}

enum io_result fault_complete(struct channel *ch, struct io *io)
{
	struct fault_channel *fch = channel_find(ch);
	const struct io_frame *f = io_top(io);
	struct held *held;
	struct plan plan;

	if (fch == NULL)
		return IO_DONE;
	held = held_find(fch, io, io->depth);
	if (held != NULL)
		finish_redirected(held);
	plan = plan_make(fch, io, f, FAULT_COMPLETION);
	if (plan.changes && io_is_lent(io))
		io_unlend(io); /* what is changed is the reader's copy */
	if (plan.ends)
		io->status = plan.status;
	else if (plan.changes)
		change_data(io->iov, io->iovcnt, 0, (size_t)f->nlb << ch->block_shift, &plan);
	if (plan.delay_ns == 0)
		return IO_DONE;
	held = held_new(fch, io, &plan);
	if (held == NULL) {
		io->status = IO_NO_MEMORY;
		return IO_DONE;
	}
	held->state = HELD_FINISHING;
	held->due_ns = ch->reactor->now_ns + plan.delay_ns;
	held_sleep(held);
	return IO_PENDING;
}

/* ---- arming ------------------------------------------------------------------------------- */

static void arm_here(void *arg)
{
	struct arm *arm = arg;

	list_add_tail(&arm->fch->arms, &arm->channel_link);
	channel_update(arm->fch);
}

static void disarm_here(void *arg)
{
	struct arm *arm = arg;
	struct held *held;

	list_for_each (held, &arm->fch->held, link) {
		if (held->plan.delayed_by == arm->fault && held->timer.is_armed) {
			held->due_ns = 0;
			timer_arm(arm->fch->ch->reactor, &held->timer, 0);
		}
	}
	list_del(&arm->channel_link);
	channel_update(arm->fch);
}

static struct arm *arm_new(struct fault *fault, struct fault_channel *fch)
{
	struct arm *arm = calloc(1, sizeof(*arm));

	if (arm == NULL)
		return NULL;
	arm->fault = fault;
	arm->fch = fch;
	list_add_tail(&fault->arms, &arm->fault_link);
	return arm;
}

static void arm_free(struct arm *arm)
{
	list_del(&arm->fault_link);
	free(arm);
}

static bool is_for_device(const struct fault *fault, const struct device *dev)
{
	return !fault->is_going && fault->spec.domain != FAULT_CHILD &&
	       strcmp(fault->spec.device, dev->name) == 0;
}

/* On every reactor in turn: afterwards nobody holds what he found before. */
static void nothing_here(void *arg)
{
	(void)arg;
}

static void wait_for_all_reactors(void) MAY_SUSPEND
{
	for (unsigned i = 0; i < reactor_count(); i++)
		task_call(reactor_get(i), nothing_here, NULL);
}

/* Off all channels, out of sight, freed. Under the control lock. */
static void fault_end(struct fault *fault) MAY_SUSPEND
{
	struct arm *arm;

	fault->is_going = true;
	if (atomic_load(&slots[fault->slot]) == fault) {
		atomic_store(&slots[fault->slot], NULL);
		atomic_fetch_sub(&fault_domain_count[fault->spec.domain], 1);
	}
	while ((arm = list_first_entry(&fault->arms, struct arm, fault_link)) != NULL) {
		task_call(arm->fch->ch->reactor, disarm_here, arm);
		arm_free(arm);
	}
	wait_for_all_reactors();
	list_del(&fault->link);
	free(fault);
}

/* On every channel its device has now. */
static int fault_arm(struct fault *fault) MAY_SUSPEND
{
	struct fault_channel *fch;

	list_for_each (fch, &channels, link) {
		struct arm *arm;

		if (fch->ch->dev != fault->dev)
			continue;
		arm = arm_new(fault, fch);
		if (arm == NULL)
			return -ENOMEM;
		task_call(fch->ch->reactor, arm_here, arm);
	}
	return 0;
}

static struct fault *fault_find(const char *uri)
{
	struct fault *fault;

	list_for_each (fault, &faults, link) {
		if (strcmp(fault->uri, uri) == 0)
			return fault;
	}
	return NULL;
}

static struct fault *fault_new(const char *uri, const struct fault_spec *spec)
{
	size_t len = strlen(uri) + 1;
	struct fault *fault = calloc(1, sizeof(*fault) + len);

	if (fault == NULL)
		return NULL;
	memcpy(fault->uri, uri, len);
	fault->spec = *spec;
	atomic_init(&fault->first_ns, UINT64_MAX);
	list_init(&fault->arms);
	list_init(&fault->link);
	return fault;
}

static int fault_take_slot(struct fault *fault)
{
	for (unsigned i = 0; i < FAULTS_MAX; i++) {
		if (atomic_load(&slots[i]) != NULL)
			continue;
		fault->slot = i;
		atomic_store_explicit(&slots[i], fault, memory_order_release);
		atomic_fetch_add(&fault_domain_count[fault->spec.domain], 1);
		return 0;
	}
	return -ENOSPC;
}

int fault_add(const char *uri, struct err *err)
{
	struct fault_spec spec;
	struct fault *fault;
	int result = fault_parse(uri, &spec, err);
	CLEANUP(unlock_controlp) bool is_locked = result == 0 && lock_control();

	if (result < 0)
		return result;
	if (fault_find(uri) != NULL)
		return err_set(err, -EEXIST, "%.120s is armed already", uri);
	if (spec.domain == FAULT_BDEV_IO && device_lookup(spec.device) == NULL)
		return err_set(err, -ENODEV,
			       "%.120s: there is no device '%.120s', which domain=bdev_io demands; "
			       "domain=block waits for it",
			       uri, spec.device);
	fault = fault_new(uri, &spec);
	if (fault == NULL)
		return err_set_sys(err, -ENOMEM, "%.120s", uri);
	list_add_tail(&faults, &fault->link);
	result = fault_take_slot(fault);
	if (result < 0) {
		fault_end(fault);
		return err_set(err, result, "%d faults are armed, which is the limit; remove one",
			       FAULTS_MAX);
	}
	if (spec.domain != FAULT_CHILD) {
		fault->dev = device_lookup(spec.device);
		result = fault->dev != NULL ? fault_arm(fault) : 0;
	}
	if (result < 0) {
		fault_end(fault);
		return err_set_sys(err, result, "%.120s", uri);
	}
	return 0;
}

int fault_remove(const char *uri, struct err *err)
{
	CLEANUP(unlock_controlp) bool is_locked = lock_control();
	struct fault *fault = fault_find(uri);

	if (fault == NULL)
		return err_set(err, -ENOENT,
			       "%.120s is not armed; give the text exactly as it was added", uri);
	fault_end(fault);
	return 0;
}

void fault_remove_all(void)
{
	CLEANUP(unlock_controlp) bool is_locked = lock_control();
	struct fault *fault;

	while ((fault = list_first_entry(&faults, struct fault, link)) != NULL)
		fault_end(fault);
}

/* May it still fire? */
static bool fault_is_active(const struct fault *fault)
{
	const struct fault_spec *spec = &fault->spec;
	uint64_t first_ns = atomic_load(&fault->first_ns);
	uint64_t now_ns = reactor_primary()->now_ns;

	if (fault->dev == NULL && spec->domain != FAULT_CHILD)
		return false;
	if (atomic_load(&fault->fired) >= spec->retries)
		return false;
	return first_ns == UINT64_MAX || now_ns < first_ns ||
	       (now_ns - first_ns) / 1000000 < spec->end_ms;
}

bool fault_list(unsigned index, struct fault_info *ret_info)
{
	struct fault *fault;

	init_once();
	list_for_each (fault, &faults, link) {
		if (fault->is_going || index-- > 0)
			continue;
		*ret_info = (struct fault_info){
			.uri = fault->uri,
			.device = fault->spec.device,
			.is_active = fault_is_active(fault),
			.hits = atomic_load(&fault->hits),
			.fired = atomic_load(&fault->fired),
		};
		return true;
	}
	return false;
}

/* ---- devices and channels come and go ----------------------------------------------------- */

void fault_device_added(struct device *dev)
{
	struct fault *fault;

	init_once();
	list_for_each (fault, &faults, link) {
		if (is_for_device(fault, dev))
			fault->dev = dev;
	}
}

void fault_device_removed(struct device *dev)
{
	struct fault *fault;

	list_for_each (fault, &faults, link) {
		if (fault->dev == dev)
			fault->dev = NULL;
	}
}

int fault_channel_open(struct channel *ch, struct err *err)
{
	CLEANUP(unlock_controlp) bool is_locked = lock_control();
	struct fault_channel *fch = calloc(1, sizeof(*fch));
	struct fault *fault;

	if (fch == NULL)
		return err_set_sys(err, -ENOMEM, "%s: fault injection", ch->dev->name);
	fch->ch = ch;
	list_init(&fch->active_link);
	list_init(&fch->arms);
	list_init(&fch->held);
	list_add_tail(&channels, &fch->link);
	list_for_each (fault, &faults, link) {
		struct arm *arm;

		if (fault->dev != ch->dev || fault->is_going)
			continue;
		arm = arm_new(fault, fch);
		if (arm == NULL) {
			is_locked = false;
			task_mutex_unlock(&control);
			fault_channel_close(ch);
			return err_set_sys(err, -ENOMEM, "%s: fault injection", ch->dev->name);
		}
		task_call(ch->reactor, arm_here, arm);
	}
	return 0;
}

void fault_channel_close(struct channel *ch)
{
	CLEANUP(unlock_controlp) bool is_locked = lock_control();
	struct fault_channel *fch;
	struct fault *fault;

	list_for_each (fch, &channels, link) {
		if (fch->ch == ch)
			break;
	}
	assert(&fch->link != &channels);
	list_for_each (fault, &faults, link) {
		struct arm *arm, *next;

		list_for_each_safe (arm, next, &fault->arms, fault_link) {
			if (arm->fch != fch)
				continue;
			task_call(ch->reactor, disarm_here, arm);
			arm_free(arm);
		}
	}
	assert(list_empty(&fch->arms) && list_empty(&fch->held));
	list_del(&fch->link);
	free(fch);
}
