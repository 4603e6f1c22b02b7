// SPDX-License-Identifier: Apache-2.0
/*
 * Disconnecting hosts: now, or when their commands are answered; and knowing when nothing of theirs
 * is left.
 *
 *   forced     every queue is closed; what is with a device ends there, unanswered
 *
 *   graceful   primary                        each queue's reactor
 *              events are given back
 *              --drain_msg------------------> DRAINING: commands there are go on to their answer,
 *                                             new ones are dropped without one, and so
 *                                             is half a pair whose other half would be
 *              <-----------------drain_msg--- the last answer is in the kernel
 *              all queues said so, one closed
 *              or DRAIN_MS passed: as forced
 *
 * Queues that are done wait for the others, because a host gives up all of a controller's queues
 * as soon as one closes. A command that is dropped was not begun, so the host can send it again
 * elsewhere; it knows that it must, as it gets no answer and the connection ends.
 *
 * A closed connection may still have commands with a device. The fence waits until all of those
 * that are closing are dead: after it nothing that was sent before reaches a device any more. It
 * takes in whoever was closing already for other reasons, since their commands count too. For a
 * device that hangs it waits only so long (wait_for()); then it names the device. The connections
 * stay what they are, and are freed when the device lets go of their memory.
 *
 * Invariants
 *   1. A connection counts for at most one fence; ss->fence_lock lets one task wait at a time.
 *   2. Whoever waits counts in ss->tasks, so that the subsystem outlives him.
 *   3. drain_msg is on one side at a time: the primary sends it once, the reactor back once.
 *
 * Thread: the primary reactor; conn_drain() and conn_check_drained() the connection's.
 *
 * Rejected: a pause of the subsystem in place of the fence (one hung command of a host that is
 * thrown out would hold everybody else's); answering what comes while draining with an error (it
 * would reach applications on hosts without a second path).
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "target/internal.h"

struct fence {
	struct wait wait;
};

struct stuck_call {
	const struct subsystem *ss;
	struct core *core;
	struct stuck *stuck;
};

/* ---- the fence ------------------------------------------------------------------------------ */

static bool conn_is_ending(const struct conn *conn)
{
	return conn->ctrlr == NULL || conn->ctrlr->is_closing;
}

/* On a reactor: what its closed connections have with devices. */
static void core_find_stuck(void *arg)
{
	struct stuck_call *call = arg;
	struct conn *conn;

	list_for_each (conn, &call->core->conns, link) {
		if (conn->state != CONN_CLOSED || conn->sc == NULL ||
		    conn->sc->subsystem != call->ss)
			continue;
		for (unsigned i = 0; i < conn->ncmds; i++) {
			const struct cmd *cmd = &conn->slots[i].cmd;

			if (cmd->state == CMD_DEVICE)
				stuck_add(call->stuck, cmd->ns->ns->nsid, 1);
		}
	}
}

void fence_find_stuck(struct subsystem *ss, struct stuck *stuck)
{
	struct target *target = ss->target;

	for (unsigned i = 0; i < target->core_count; i++) {
		struct stuck_call call = { ss, &target->cores[i], stuck };

		task_call(target->cores[i].reactor, core_find_stuck, &call);
	}
}

int fence_wait(struct subsystem *ss, struct err *err)
{
	struct fence fence = {};
	struct stuck stuck = {};
	uint32_t limit_ms = wait_limit_ms(ss->target), drain_ms = 0;
	struct conn *conn;
	int result = 0;

	ss->tasks++;
	task_mutex_lock(&ss->fence_lock);
	list_for_each (conn, &ss->conn_list, counted_link) {
		if (!conn_is_ending(conn))
			continue;
		conn->fence = &fence;
		fence.wait.left++;
		if (conn->ctrlr != NULL && conn->ctrlr->is_draining)
			drain_ms = DRAIN_MS; /* it is closed no later than that */
	}
	if (!wait_for(ss->target, &fence.wait, limit_ms + drain_ms)) {
		list_for_each (conn, &ss->conn_list, counted_link)
			conn->fence = NULL;
		fence_find_stuck(ss, &stuck);
		stuck.waited_ms = fence.wait.limit_ms;
		result = stuck_tell(ss, &stuck, err);
	}
	task_mutex_unlock(&ss->fence_lock);
	subsystem_put_task(ss);
	return result;
}

void fence_conn_gone(struct conn *conn)
{
	if (conn->fence != NULL)
		wait_one(&conn->fence->wait);
	if (conn->counted == NULL)
		return;
	list_del(&conn->counted_link);
	cross_conn_gone(conn->counted, conn->instance);
}

/* ---- draining ------------------------------------------------------------------------------- */

static void primary_drained(struct msg *msg)
{
	struct ctrlr *ctrlr = container_of(msg, struct conn, drain_msg)->ctrlr;

	if (ctrlr != NULL && --ctrlr->drain_left == 0)
		ctrlr_close(ctrlr);
}

void conn_check_drained(struct conn *conn)
{
	if (conn->is_drained || conn->nfree != conn->ncmds || conn->boot.state != CMD_FREE)
		return;
	conn->is_drained = true;
	conn->drain_msg.fn = primary_drained;
	reactor_post(reactor_primary(), &conn->drain_msg);
}

void conn_drain(struct msg *msg)
{
	struct conn *conn = container_of(msg, struct conn, drain_msg);

	if (conn->state != CONN_LIVE)
		return; /* it ends by itself, and with it the controller */
	conn->state = CONN_DRAINING;
	fused_forget(conn);
	conn_check_drained(conn);
}

void ctrlr_drain(struct ctrlr *ctrlr)
{
	struct reactor *primary = reactor_primary();

	if (ctrlr->is_closing)
		return;
	ctrlr->is_closing = true;
	ctrlr->is_draining = true;
	ctrlr_abort_events(ctrlr);
	for (unsigned i = 0; i <= TARGET_QUEUES_MAX; i++) {
		struct conn *conn = ctrlr->queue[i];

		if (conn == NULL)
			continue;
		ctrlr->drain_left++;
		conn->drain_msg.fn = conn_drain;
		reactor_post(conn->core->reactor, &conn->drain_msg);
	}
	timer_disarm(primary, &ctrlr->kato_timer);
	timer_arm(primary, &ctrlr->kato_timer, DRAIN_MS * 1000000ull);
}

/* ---- operations ----------------------------------------------------------------------------- */

static bool is_meant(const struct ctrlr *ctrlr, const char *hostnqn, uint16_t cntlid)
{
	if (hostnqn != NULL)
		return strcmp(ctrlr->hostnqn, hostnqn) == 0;
	return ctrlr->cntlid == cntlid;
}

int subsystem_disconnect(struct subsystem *ss, const char *hostnqn, uint16_t cntlid, bool is_forced,
			 unsigned *ret_count, struct err *err)
{
	struct ctrlr *ctrlr;
	unsigned count = 0;
	int result;

	list_for_each (ctrlr, &ss->ctrlrs, link) {
		if (!is_meant(ctrlr, hostnqn, cntlid))
			continue;
		log_info("disconnecting controller nqn=%s cntlid=%u host=%s forced=%d", ss->nqn,
			 ctrlr->cntlid, ctrlr->hostnqn, is_forced);
		if (is_forced)
			ctrlr_close(ctrlr);
		else
			ctrlr_drain(ctrlr);
		count++;
	}
	if (count == 0 && hostnqn != NULL)
		return err_set(err, -ENOENT, "host '%s' is not connected to subsystem '%s'",
			       hostnqn, ss->nqn);
	if (count == 0)
		return err_set(err, -ENOENT, "subsystem '%s' has no controller %u", ss->nqn,
			       cntlid);
	result = fence_wait(ss, err);
	if (result == 0)
		*ret_count = count;
	if (result == -ETIMEDOUT)
		(void)err_hint(err, "the controllers are closed, but what the device holds may "
				    "still be carried out");
	return result;
}

unsigned subsystem_controllers(const struct subsystem *ss, struct controller_info *infos,
			       unsigned max)
{
	const struct ctrlr *ctrlr;
	unsigned n = 0;

	list_for_each (ctrlr, &ss->ctrlrs, link) {
		if (n++ >= max)
			continue;
		infos[n - 1] = (struct controller_info){
			.cntlid = ctrlr->cntlid,
			.io_queues = (uint16_t)(ctrlr->nqueues -
						(ctrlr->queue[NVME_QID_ADMIN] != NULL)),
			.kato_ms = ctrlr->kato_ms,
			.listener = ctrlr->listener,
			.is_closing = ctrlr->is_closing,
		};
		memcpy(infos[n - 1].hostnqn, ctrlr->hostnqn, sizeof(infos[n - 1].hostnqn));
	}
	return n;
}
