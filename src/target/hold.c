// SPDX-License-Identifier: Apache-2.0
/*
 * Holding namespaces: new commands wait, those with the device end; and for how long a change waits
 * for a device that does not let go.
 *
 *   ns_core.hold     NO --begin--> STAY   --let go---------------> NO    a change under live I/O
 *                      --begin--> DRAIN  --nothing in flight----> NO    what came before has ended
 *                                (either)--too late--------------> NO    nothing was changed
 *
 *   primary                              each reactor
 *   wait.left = namespaces * reactors
 *   --call-----------------------------> hold = STAY or DRAIN, lent memory is recalled
 *   <------------------------idle_msg--- nothing of this namespace is with the device here
 *   all said so: the change is made
 *   or device_timeout_ms passed:
 *   --call-----------------------------> hold = NO, what was held goes on, how much is stuck
 *   -ETIMEDOUT: which device, how many
 *
 * A device that hangs keeps its own namespace and nobody else's: each namespace counts what is with
 * its device, and each is let go by itself. It keeps it only so long, since a hold that has no end
 * turns a device that may come back into a host that has given up, and a control operation into
 * one that nobody can undo.
 *
 * Is it sound to give up? Whoever holds wants to know that nothing is with the device before he
 * closes it, gives blocks to somebody else or tells a host that it is alone. If that is not so in
 * time he does none of it: a hold that failed has been undone when the call returns, the namespace
 * and its desc stay open, and with them everything that the driver borrowed. What was held goes on
 * in its order. So a change is made wholly or not at all. Two kinds cannot be undone, as hosts were
 * told already: a path that was closed (DRAIN) and controllers that were ended (disconnect.c). Both
 * are done, and the error says that commands of the time before may still take effect.
 *
 * An idle_msg of a wait that is over may be on its way when the wait ends. It is in the queue of
 * the primary before the answer to the call that ends the hold, hence handled before it; after that
 * call nothing points to the wait any more. The primary calls itself without a message, so there
 * one is sent behind (inbox_passed()).
 *
 * Invariants
 *   1. ss->control is held from the begin of a hold to its end or failure, and whenever ns->holds
 *      changes. Holds nest: only the first and the last of them reach the reactors.
 *   2. ns->holds and ns->wait change on the primary while it calls no reactor; in such a call the
 *      reactors read them.
 *   3. Who waits is in target->waits, so that a target that stops waits for no device twice.
 *
 * Thread: the primary reactor, in tasks; core_* and ns_core_idle() on the namespace's reactors.
 *
 * Rejected: holding the subsystem (one bad device stops all); failing what is held when it is too
 * late (the device may be slow, not dead, and hosts have time-outs of their own); taking the device
 * away from under commands that are with it (their memory is lent to it).
 */
#include <errno.h>

#include "base/units.h"
#include "target/internal.h"

/* ---- waiting, not for ever ------------------------------------------------------------------ */

void wait_one(struct wait *wait)
{
	if (--wait->left == 0 && !wait->is_late)
		task_event_fire(&wait->event);
}

static void wait_give_up(struct wait *wait)
{
	if (wait->left == 0 || wait->is_late)
		return;
	wait->is_late = true;
	task_event_fire(&wait->event);
}

static void wait_timeout(struct timer *timer)
{
	wait_give_up(container_of(timer, struct wait, timer));
}

bool wait_for(struct target *target, struct wait *wait, uint32_t limit_ms)
{
	if (wait->left == 0)
		return true;
	wait->limit_ms = limit_ms;
	wait->timer.fn = wait_timeout;
	timer_arm(reactor_primary(), &wait->timer, limit_ms * NS_PER_MS);
	list_add_tail(&target->waits, &wait->link);
	task_event_wait(&wait->event);
	list_del(&wait->link);
	timer_disarm(reactor_primary(), &wait->timer);
	return !wait->is_late;
}

uint32_t wait_limit_ms(const struct target *target)
{
	return target->is_stopping ? HANG_UP_MS : target->opts.device_timeout_ms;
}

void wait_end_all(struct target *target)
{
	struct wait *wait;

	list_for_each (wait, &target->waits, link) {
		wait->limit_ms = 0;
		wait_give_up(wait);
	}
}

/* ---- on the reactors ------------------------------------------------------------------------ */

struct hold_call {
	struct subsys_core *sc;
	const struct ns *only; /* NULL: every namespace of the groups */
	uint64_t groups;       /* ana_bit of each; 0: all */
	enum hold how;
	struct stuck *stuck;
};

static bool is_meant(const struct hold_call *call, const struct ns *ns)
{
	if (call->only != NULL)
		return ns == call->only;
	return call->groups == 0 || (call->groups & ana_bit_of(ns->ana_group)) != 0;
}

static void primary_idle(struct msg *msg)
{
	struct ns_core *nc = container_of(msg, struct ns_core, idle_msg);

	if (nc->ns->wait != NULL)
		wait_one(nc->ns->wait);
}

/* What was held of it goes on; what is of others stays. */
void ns_core_go_on(struct subsys_core *sc, struct ns_core *nc)
{
	struct list held;

	nc->hold = HOLD_NO;
	list_init(&held);
	list_splice_tail(&held, &sc->held);
	while (!list_empty(&held)) {
		struct cmd *cmd = list_first_entry(&held, struct cmd, link);

		list_del(&cmd->link);
		if (cmd->ns == nc)
			io_cmd_submit(cmd);
		else
			list_add_tail(&sc->held, &cmd->link);
	}
}

void ns_core_idle(struct subsys_core *sc, struct ns_core *nc)
{
	nc->is_idle_awaited = false;
	nc->idle_msg.fn = primary_idle;
	reactor_post(reactor_primary(), &nc->idle_msg);
	if (nc->hold == HOLD_DRAIN)
		ns_core_go_on(sc, nc);
}

static void core_begin(void *arg)
{
	struct hold_call *call = arg;

	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		struct ns_core *nc = call->sc->ns[i];

		if (nc == NULL || nc->ns->wait == NULL)
			continue;
		nc->hold = (uint8_t)call->how;
		nc->is_idle_awaited = true;
		handle_recall(nc->handle); /* hosts may take their time, devices may go now */
		if (nc->inflight == 0)
			ns_core_idle(call->sc, nc);
	}
}

static void core_cancel(void *arg)
{
	struct hold_call *call = arg;

	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		struct ns_core *nc = call->sc->ns[i];

		if (nc == NULL || nc->ns->wait == NULL)
			continue;
		if (nc->is_idle_awaited)
			stuck_add(call->stuck, i + 1, nc->inflight);
		nc->is_idle_awaited = false;
		if (nc->hold != HOLD_NO)
			ns_core_go_on(call->sc, nc);
	}
}

static void core_let_go(void *arg)
{
	struct hold_call *call = arg;

	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		struct ns_core *nc = call->sc->ns[i];

		if (nc != NULL && nc->hold != HOLD_NO && nc->ns->holds == 0)
			ns_core_go_on(call->sc, nc);
	}
}

/* ---- holds ---------------------------------------------------------------------------------- */

static void call_all(struct subsystem *ss, struct hold_call *call, void (*fn)(void *arg))
{
	for (unsigned i = 0; i < reactor_count(); i++) {
		call->sc = &ss->cores[i];
		task_call(ss->cores[i].reactor, fn, call);
	}
}

struct passed {
	struct msg msg;
	struct task_event event;
};

static void passed_here(struct msg *msg)
{
	task_event_fire(&container_of(msg, struct passed, msg)->event);
}

/* Until what is in the queue of the primary now was handled. */
static void inbox_passed(void) MAY_SUSPEND;
static void inbox_passed(void)
{
	struct passed passed = { .msg.fn = passed_here };

	reactor_post(reactor_primary(), &passed.msg);
	task_event_wait(&passed.event);
}

/* @how DRAIN: those that are held have been drained already. */
static int hold(struct subsystem *ss, struct hold_call *call, struct err *err) MAY_SUSPEND;
static int hold(struct subsystem *ss, struct hold_call *call, struct err *err)
{
	struct stuck stuck = {};
	struct wait wait = {};
	bool is_late;

	call->stuck = &stuck;
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		struct ns *ns = ss->ns[i];

		if (ns == NULL || ns->holds > 0 || !is_meant(call, ns))
			continue;
		ns->wait = &wait;
		wait.left += reactor_count();
	}
	if (wait.left > 0)
		call_all(ss, call, core_begin);
	is_late = !wait_for(ss->target, &wait, wait_limit_ms(ss->target));
	if (is_late) {
		call_all(ss, call, core_cancel);
		inbox_passed();
	}
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		struct ns *ns = ss->ns[i];

		if (ns == NULL || !is_meant(call, ns))
			continue;
		ns->wait = NULL;
		if (!is_late && call->how == HOLD_STAY)
			ns->holds++;
	}
	stuck.waited_ms = wait.limit_ms;
	return is_late ? stuck_tell(ss, &stuck, err) : 0;
}

static void let_go(struct subsystem *ss, struct hold_call *call) MAY_SUSPEND;
static void let_go(struct subsystem *ss, struct hold_call *call)
{
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		struct ns *ns = ss->ns[i];

		if (ns != NULL && is_meant(call, ns))
			ns->holds--;
	}
	call_all(ss, call, core_let_go);
}

int ns_hold(struct ns *ns, struct err *err)
{
	struct hold_call call = { .only = ns, .how = HOLD_STAY };

	return hold(ns->subsystem, &call, err);
}

void ns_let_go(struct ns *ns)
{
	struct hold_call call = { .only = ns };

	let_go(ns->subsystem, &call);
}

int subsystem_drain(struct subsystem *ss, uint64_t groups, struct err *err)
{
	struct hold_call call = { .groups = groups, .how = HOLD_DRAIN };

	return hold(ss, &call, err);
}

int subsystem_pause(struct subsystem *ss, struct err *err)
{
	struct hold_call call = { .how = HOLD_STAY };
	int result = subsystem_enter(ss, err);

	if (result < 0)
		return result;
	result = hold(ss, &call, err);
	if (result == 0)
		ss->pause_count++;
	subsystem_leave(ss);
	return result;
}

void subsystem_resume(struct subsystem *ss)
{
	struct hold_call call = {};

	if (subsystem_enter(ss, NULL) < 0)
		return; /* it is going, and what it holds with it */
	ss->pause_count--;
	let_go(ss, &call);
	subsystem_leave(ss);
}

/* ---- who hangs ------------------------------------------------------------------------------ */

void stuck_add(struct stuck *stuck, uint32_t nsid, uint32_t commands)
{
	stuck->commands[nsid - 1] += commands;
	stuck->total += commands;
}

int stuck_tell(const struct subsystem *ss, const struct stuck *stuck, struct err *err)
{
	unsigned others = 0, first = TARGET_NAMESPACES_MAX;
	char time[UNITS_TEXT_MAX];

	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		if (stuck->commands[i] == 0 || ss->ns[i] == NULL)
			continue;
		if (first == TARGET_NAMESPACES_MAX)
			first = i;
		else
			others++;
	}
	if (first == TARGET_NAMESPACES_MAX) /* it came a moment too late, or the target stops */
		return err_set(err, -ETIMEDOUT, "subsystem '%s' did not come to rest", ss->nqn);
	(void)err_set(err, -ETIMEDOUT, "device '%s' (namespace %u) holds %u commands",
		      ss->ns[first]->dev->name, first + 1, stuck->commands[first]);
	if (others > 0)
		(void)err_hint(err, "so do the devices of %u other namespaces", others);
	if (stuck->waited_ms > 0)
		(void)err_hint(err, "they were waited for %s",
			       duration_format(stuck->waited_ms * NS_PER_MS, time));
	return -ETIMEDOUT;
}
