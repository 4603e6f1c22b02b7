// SPDX-License-Identifier: Apache-2.0
/*
 * fence.c - no write is sent again while its first copy may still reach the device.
 *
 * A connection that ended leaves commands behind: in the target's receive buffer, with its device,
 * or nowhere. To send a lost write again over another path, and to tell its owner that it is done,
 * would let him write something newer to the same blocks, on top of which the first copy may then
 * land. Nothing that a host alone can do excludes that. So a lost write waits until the controller
 * that had it has been ended by the target, with everything that it still carried:
 *
 *   association lost, some write unanswered       (serial: which association, counted over all)
 *     -> a fence; its writes wait in their channels (chan.c), reads go elsewhere at once
 *     -> Cross-Controller Reset over any live controller of the same subsystem and host
 *     -> answered: nothing of it reaches a device any more; the writes are sent again
 *
 * A target that does not know the command (Identify Controller: CCRL 0) cannot be asked. If it
 * ended the connection itself, nothing more arrives there, and it gets writes again at once, as it
 * would from Linux; what its device is still doing is the risk that is left. If it fell silent,
 * what lies in the network may arrive when that is mended, until its keep-alive timer has ended the
 * controller: writes wait for twice that time, since it may look only once in each (traffic counts
 * as a sign of life). With no keep-alive there is no such time, and none is waited.
 *
 * A device that was given up and is made again (a child of a mirror) begins with new writes, and
 * lost ones of its former life must not land on them either. So fences outlive their controllers,
 * and a new device of the same subsystem and host is there only when none is left
 * (fence_settle()). They do not outlive the process: for what a dead one has sent the next one asks
 * the target (leftover.c), and where that cannot tell it may see it land.
 *
 * What channels may do again they learn with their view: the serials of associations that may still
 * act (those that live and those behind a fence), and the newest serial that the list knows about.
 * A lost write of another serial is free. A view that is on its way while an association comes or
 * goes holds too much, never too little.
 *
 * Numbers: NVM Express Base Specification 2.3, 5.4.3 (Cross-Controller Reset), 3.9 (Keep Alive).
 *
 * Invariants
 *   1. Memory for a fence is there before an association begins (ctrlr->spare), so none is
 *      forgotten.
 *   2. At most FENCES_MAX for one subsystem and host; beyond that nothing connects, but for one
 *      controller where none is live: who else could ask? With more than fit into a view nothing
 *      lost is sent again (view_add()).
 *   3. A task at work counts in ctrlr->fencing, and the controller is not freed before it has gone.
 *   4. A fence without a controller waits for the next one of its subsystem and host. Of those at
 *      most ORPHANS_MAX are kept; the oldest goes first, and says so.
 *
 * Thread: primary reactor.
 *
 * Rejected: to wait for as long as a command may take at the target's device (nobody knows); to
 * order overlapping writes here (the late copy is not ours to order any more).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/units.h"
#include "drivers/nvmf/ctrlr.h"

enum {
	FENCE_TASKS_MAX = 8, /* fences that are asked for at once */
	ORPHANS_MAX = 1024,  /* fences for which no controller is left that could ask */
	AGAIN_MS = 100,      /* when a target was too busy, or we had no task */
	CCR_IMMEDIATE = 1,   /* dword 0: the reset is complete */
	CCR_CIU_SHIFT = 16,  /* dword 10: CNTLID below it */
};

/* The answer takes as long as the slowest command that the other controller has with a device. */
#define CCR_TIMEOUT_NS (1ull << 60)

struct nvmf_fence {
	struct list link;
	uint32_t serial;
	uint16_t cntlid;
	uint8_t ciu;
	uint64_t cirn;
	struct nvmf_opts opts; /* whose: subsystem and host */
	bool is_busy;          /* a task asks for it */
	uint64_t due_ns;       /* nobody can be asked: it is over then; 0: ask */
};

/* A device that is being made. */
struct fence_waiter {
	struct list link;
	const struct nvmf_opts *opts;
	struct timer timer;
	struct task_event event;
};

static struct list fences = { &fences, &fences };
static struct list waiters = { &waiters, &waiters };
static uint32_t last_serial;
static unsigned ntasks;
static struct timer again, expiry;

static void family_refresh(const struct nvmf_opts *opts)
{
	struct nvmf_ctrlr *c;

	for (c = ctrlr_next(NULL); c != NULL; c = ctrlr_next(c)) {
		if (is_same_family(&c->opts, opts))
			ctrlr_refresh_heads(c);
	}
}

/* ---- devices that are made again ------------------------------------------------------------ */

static bool is_on_its_way(const struct nvmf_ctrlr *c)
{
	return c->serial != 0 && (c->is_leaving || c->state == CTRLR_DEAD);
}

/* May a write of an association that is over, or is just being ended, still be carried out? */
static bool is_any_left(const struct nvmf_opts *opts)
{
	const struct nvmf_fence *fence;
	const struct nvmf_ctrlr *c;

	for (c = ctrlr_next(NULL); c != NULL; c = ctrlr_next(c)) {
		if (is_on_its_way(c) && is_same_family(&c->opts, opts))
			return true;
	}
	list_for_each (fence, &fences, link) {
		if (is_same_family(&fence->opts, opts))
			return true;
	}
	return false;
}

static void waiters_look(void)
{
	struct fence_waiter *waiter;

	list_for_each (waiter, &waiters, link) {
		if (!waiter->event.is_fired && !is_any_left(waiter->opts))
			task_event_fire(&waiter->event);
	}
}

static void waiter_due(struct timer *timer)
{
	struct fence_waiter *waiter = container_of(timer, struct fence_waiter, timer);

	if (!waiter->event.is_fired)
		task_event_fire(&waiter->event);
}

int fence_settle(const struct nvmf_opts *opts, struct err *err)
{
	struct fence_waiter waiter = { .opts = opts, .timer.fn = waiter_due };

	if (!is_any_left(opts))
		return 0;
	list_add_tail(&waiters, &waiter.link);
	timer_arm(reactor_self(), &waiter.timer, opts->connect_timeout_ns);
	task_event_wait(&waiter.event);
	timer_disarm(reactor_self(), &waiter.timer);
	list_del(&waiter.link);
	if (!is_any_left(opts))
		return 0;
	return err_set(err, -EBUSY,
		       "writes of an earlier connection are still with the target; try again");
}

/* ---- what may still act --------------------------------------------------------------------- */

static void view_add(struct nvmf_view *view, uint32_t serial)
{
	if (view->nacting < VIEW_ACTING_MAX)
		view->acting[view->nacting++] = serial;
	else
		view->horizon = 0; /* more than fit: nothing lost is sent again for now */
}

void fence_view(const struct nvmf_opts *opts, struct nvmf_view *view)
{
	const struct nvmf_fence *fence;
	const struct nvmf_ctrlr *c;

	view->horizon = last_serial;
	view->nacting = 0;
	for (c = ctrlr_next(NULL); c != NULL; c = ctrlr_next(c)) {
		if (c->serial != 0 && is_same_family(&c->opts, opts))
			view_add(view, c->serial);
	}
	list_for_each (fence, &fences, link) {
		if (is_same_family(&fence->opts, opts))
			view_add(view, fence->serial);
	}
}

/* ---- asking for it -------------------------------------------------------------------------- */

static struct nvmf_ctrlr *fence_ctrlr(const struct nvmf_fence *fence)
{
	struct nvmf_ctrlr *c;

	for (c = ctrlr_next(NULL); c != NULL; c = ctrlr_next(c)) {
		if (c->state == CTRLR_LIVE && c->info.ccrl > 0 && c->fencing < c->info.ccrl &&
		    is_same_family(&c->opts, &fence->opts))
			return c;
	}
	return NULL;
}

static struct nvmf_fence *fence_next(struct nvmf_ctrlr **ret_ctrlr)
{
	struct nvmf_fence *fence;

	list_for_each (fence, &fences, link) {
		*ret_ctrlr = fence->is_busy || fence->due_ns != 0 ? NULL : fence_ctrlr(fence);
		if (*ret_ctrlr != NULL)
			return fence;
	}
	return NULL;
}

static void fence_free(struct nvmf_fence *fence)
{
	list_del(&fence->link);
	free(fence);
	waiters_look();
}

static void again_due(struct timer *timer)
{
	(void)timer;
	fence_kick();
}

static void try_again(void)
{
	again.fn = again_due;
	if (!again.is_armed)
		timer_arm(reactor_self(), &again, AGAIN_MS * NS_PER_MS);
}

/* Does the answer say that it will never be otherwise? */
static bool is_refusal(uint16_t status)
{
	unsigned code = status & 0x7ffu;

	return code == NVME_SC_INVALID_OPCODE || code == NVME_SC_INVALID_FIELD;
}

static void fence_ask(struct nvmf_fence *fence, struct nvmf_ctrlr *c)
{
	struct admin_call call = { .timeout_ns = CCR_TIMEOUT_NS };
	struct err err = {};
	int result;

	call.cmd.opcode = NVME_ADMIN_CROSS_RESET;
	le32_put(&call.cmd.cdw10, fence->cntlid | (uint32_t)fence->ciu << CCR_CIU_SHIFT);
	le32_put(&call.cmd.cdw12, (uint32_t)fence->cirn);
	le32_put(&call.cmd.cdw13, (uint32_t)(fence->cirn >> 32));
	fence->is_busy = true;
	c->fencing++;
	result = ctrlr_admin(c, &call, "ending a lost controller", &err);
	c->fencing--;
	fence->is_busy = false;
	if (result == 0 && !(call.dw0 & CCR_IMMEDIATE))
		result = -EAGAIN;
	if (result == -EIO && is_refusal(call.status)) {
		log_warn("%s: %s; its lost writes are sent again all the same", c->name,
			 err_text(&err));
		result = 0;
	}
	if (result == 0) {
		struct nvmf_opts opts = fence->opts;

		log_debug("%s: nothing of controller %u is left", c->name, fence->cntlid);
		fence_free(fence);
		family_refresh(&opts);
	} else {
		try_again();
	}
}

static void fence_run(void *arg)
{
	struct nvmf_fence *fence;
	struct nvmf_ctrlr *c;

	(void)arg;
	fence = fence_next(&c);
	if (fence != NULL)
		fence_ask(fence, c);
	ntasks--;
	fence_kick();
}

void fence_kick(void)
{
	struct nvmf_ctrlr *c;

	if (again.is_armed || ntasks == FENCE_TASKS_MAX || fence_next(&c) == NULL)
		return;
	if (task_spawn("nvmf-fence", fence_run, NULL) == 0)
		ntasks++;
	else
		try_again();
}

/* ---- waiting, where nobody can be asked ------------------------------------------------------ */

static struct nvmf_fence *fence_soonest(void)
{
	struct nvmf_fence *fence, *soonest = NULL;

	list_for_each (fence, &fences, link) {
		if (fence->due_ns != 0 && (soonest == NULL || fence->due_ns < soonest->due_ns))
			soonest = fence;
	}
	return soonest;
}

static void expiry_due(struct timer *timer)
{
	uint64_t now_ns = reactor_self()->now_ns;
	struct nvmf_fence *fence;

	while ((fence = fence_soonest()) != NULL && fence->due_ns <= now_ns) {
		struct nvmf_opts opts = fence->opts;

		fence_free(fence);
		family_refresh(&opts);
	}
	if (fence != NULL)
		timer_arm(reactor_self(), timer, fence->due_ns - now_ns);
}

/* How long the target of a controller that fell silent may still take what it was sent. */
static uint64_t silence_ns(const struct nvmf_ctrlr *c)
{
	return c->why.code == -ETIMEDOUT ? 2ull * c->opts.kato_ms * NS_PER_MS : 0;
}

static void fence_wait(struct nvmf_fence *fence, uint64_t ns)
{
	uint64_t now_ns = reactor_self()->now_ns;

	fence->due_ns = now_ns + ns;
	expiry.fn = expiry_due;
	timer_disarm(reactor_self(), &expiry);
	timer_arm(reactor_self(), &expiry, fence_soonest()->due_ns - now_ns);
}

/* ---- associations --------------------------------------------------------------------------- */

static bool is_any_live(const struct nvmf_opts *opts)
{
	const struct nvmf_ctrlr *c;

	for (c = ctrlr_next(NULL); c != NULL; c = ctrlr_next(c)) {
		if (c->serial != 0 && is_same_family(&c->opts, opts))
			return true;
	}
	return false;
}

int fence_begin(struct nvmf_ctrlr *c, struct err *err)
{
	const struct nvmf_fence *fence;
	unsigned count = 0;

	list_for_each (fence, &fences, link)
		count += is_same_family(&fence->opts, &c->opts);
	if (count >= FENCES_MAX && (is_any_live(&c->opts) || count >= ORPHANS_MAX))
		return err_set(err, -EBUSY, "writes of earlier connections are still with it");
	if (c->spare == NULL)
		c->spare = calloc(1, sizeof(*c->spare));
	if (c->spare == NULL)
		return err_set(err, -ENOMEM, "no memory to connect a controller");
	last_serial = last_serial == UINT32_MAX ? 1 : last_serial + 1;
	c->serial = last_serial;
	c->has_lost_write = false;
	return 0;
}

void fence_end(struct nvmf_ctrlr *c)
{
	const uint32_t serial = c->serial;
	bool is_askable = c->info.ccrl > 0 && c->info.cirn != 0;
	struct nvmf_ioq *ioq;

	if (serial == 0)
		return;
	list_for_each (ioq, &c->ioqs, link) {
		c->has_lost_write |= ioq->has_lost_write;
		ioq->has_lost_write = false;
	}
	c->serial = 0;
	if (c->has_lost_write && (is_askable || silence_ns(c) > 0)) {
		struct nvmf_fence *fence = take(c->spare);

		fence->serial = serial;
		fence->cntlid = c->cntlid;
		fence->ciu = c->info.ciu;
		fence->cirn = c->info.cirn;
		fence->opts = c->opts;
		list_add_tail(&fences, &fence->link);
		if (is_askable)
			fence_kick();
		else
			fence_wait(fence, silence_ns(c));
	}
	c->has_lost_write = false;
	family_refresh(&c->opts);
	waiters_look();
}

static bool has_ctrlr(const struct nvmf_fence *fence, const struct nvmf_ctrlr *but)
{
	const struct nvmf_ctrlr *c;

	for (c = ctrlr_next(NULL); c != NULL; c = ctrlr_next(c)) {
		if (c != but && is_same_family(&c->opts, &fence->opts))
			return true;
	}
	return false;
}

/* The oldest that nobody but @but could ask for, and how many there are. */
static struct nvmf_fence *orphan(const struct nvmf_ctrlr *but, unsigned *ret_count)
{
	struct nvmf_fence *fence, *oldest = NULL;

	*ret_count = 0;
	list_for_each (fence, &fences, link) {
		if (has_ctrlr(fence, but))
			continue;
		oldest = oldest == NULL ? fence : oldest;
		++*ret_count;
	}
	return oldest;
}

void fence_forget(struct nvmf_ctrlr *c)
{
	struct nvmf_fence *oldest;
	unsigned norphans;

	free(take(c->spare));
	while ((oldest = orphan(c, &norphans)) != NULL && norphans > ORPHANS_MAX) {
		log_warn("%s: too many connections were lost for good: it is forgotten that "
			 "writes of one may still be with the target",
			 oldest->opts.subnqn);
		fence_free(oldest);
	}
}

void fence_drop_all(void)
{
	struct nvmf_fence *fence;

	while ((fence = list_first_entry(&fences, struct nvmf_fence, link)) != NULL)
		fence_free(fence);
	timer_disarm(reactor_self(), &again);
	timer_disarm(reactor_self(), &expiry);
}
