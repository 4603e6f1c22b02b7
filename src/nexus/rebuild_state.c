/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rebuild_state.c - what may be done with a rebuild in which state: one table.
 *
 *            start         stop          pause         resume        force stop    force fail
 *   init     running       stopped       paused        -             stopped       failed
 *   running  (is so)       stopped       paused        (is so)       stopped       failed
 *   paused   -             stopped       (is so)       running       stopped       failed
 *   stopped  -             (is so)       -             -             (is so)       (is so)
 *   failed   -             -             -             -             (is so)       (is so)
 *   completed -            -             -             -             (is so)       (is so)
 *
 * An operation first makes its state pending; the job takes it when its ranges have ended. While
 * something is pending a client may ask for the same again, and for nothing else. What the engine
 * itself asks for wins over that, and is not taken back: a job on its way to "failed" does not end
 * as "stopped".
 *
 * Thread: any; no state.
 */
#include "nexus/rebuild.h"

enum { NO = REBUILD_STATE_COUNT_, SO };

static const uint8_t table[REBUILD_STATE_COUNT_][REBUILD_OP_COUNT_] = {
	[REBUILD_INIT] = { REBUILD_RUNNING, REBUILD_STOPPED, REBUILD_PAUSED, NO, REBUILD_STOPPED,
			   REBUILD_FAILED },
	[REBUILD_RUNNING] = { SO, REBUILD_STOPPED, REBUILD_PAUSED, SO, REBUILD_STOPPED,
			      REBUILD_FAILED },
	[REBUILD_PAUSED] = { NO, REBUILD_STOPPED, SO, REBUILD_RUNNING, REBUILD_STOPPED,
			     REBUILD_FAILED },
	[REBUILD_STOPPED] = { NO, SO, NO, NO, SO, SO },
	[REBUILD_FAILED] = { NO, NO, NO, NO, SO, SO },
	[REBUILD_COMPLETED] = { NO, NO, NO, NO, SO, SO },
};

enum rebuild_answer rebuild_judge(enum rebuild_state state, enum rebuild_state pending,
				  enum rebuild_op op, enum rebuild_state *ret_pending)
{
	uint8_t next = table[state][op];

	if (next == NO)
		return REBUILD_NO;
	if (pending != REBUILD_STATE_COUNT_) {
		if (next == pending || pending == REBUILD_FAILED)
			return op >= REBUILD_OP_FORCE_STOP || next == pending ? REBUILD_NOTHING
									      : REBUILD_BUSY;
		if (op < REBUILD_OP_FORCE_STOP)
			return REBUILD_BUSY;
	}
	if (next == SO)
		return REBUILD_NOTHING;
	*ret_pending = (enum rebuild_state)next;
	return REBUILD_DO;
}

const char *rebuild_state_name(enum rebuild_state state)
{
	static const char *const names[] = { "init",    "running", "paused",
					     "stopped", "failed",  "completed" };

	return names[state];
}
