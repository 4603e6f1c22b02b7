/* SPDX-License-Identifier: Apache-2.0 */
/* What may be done with a rebuild in which state: the table, and what is pending. */
#include "nexus/rebuild.h"

#include "base/tap.h"

TEST(states_and_operations)
{
	static const char *const want[REBUILD_STATE_COUNT_] = {
		/* start stop pause resume force-stop force-fail: Do, Nothing, x */
		[REBUILD_INIT] = "DDDxDD",   [REBUILD_RUNNING] = "NDDNDD",
		[REBUILD_PAUSED] = "xDNDDD", [REBUILD_STOPPED] = "xNxxNN",
		[REBUILD_FAILED] = "xxxxNN", [REBUILD_COMPLETED] = "xxxxNN",
	};

	for (unsigned state = 0; state < REBUILD_STATE_COUNT_; state++) {
		for (unsigned op = 0; op < REBUILD_OP_COUNT_; op++) {
			enum rebuild_state pending;
			enum rebuild_answer answer = rebuild_judge((enum rebuild_state)state,
								   REBUILD_STATE_COUNT_,
								   (enum rebuild_op)op, &pending);
			char got = answer == REBUILD_DO        ? 'D'
				   : answer == REBUILD_NOTHING ? 'N'
							       : 'x';

			TAP_ROW(rebuild_state_name((enum rebuild_state)state));
			CHECK_EQ(got, want[state][op]);
		}
	}
	TAP_ROW(NULL);
}

TEST(what_is_pending_is_not_contradicted)
{
	static const struct {
		enum rebuild_state state, pending;
		enum rebuild_op op;
		enum rebuild_answer answer;
		enum rebuild_state next;
	} rows[] = {
		{ REBUILD_RUNNING, REBUILD_PAUSED, REBUILD_OP_PAUSE, REBUILD_NOTHING, 0 },
		{ REBUILD_RUNNING, REBUILD_PAUSED, REBUILD_OP_STOP, REBUILD_BUSY, 0 },
		{ REBUILD_RUNNING, REBUILD_PAUSED, REBUILD_OP_RESUME, REBUILD_BUSY, 0 },
		{ REBUILD_RUNNING, REBUILD_STOPPED, REBUILD_OP_STOP, REBUILD_NOTHING, 0 },
		{ REBUILD_RUNNING, REBUILD_STOPPED, REBUILD_OP_PAUSE, REBUILD_BUSY, 0 },
		{ REBUILD_RUNNING, REBUILD_STOPPED, REBUILD_OP_FORCE_FAIL, REBUILD_DO,
		  REBUILD_FAILED },
		{ REBUILD_RUNNING, REBUILD_PAUSED, REBUILD_OP_FORCE_STOP, REBUILD_DO,
		  REBUILD_STOPPED },
		{ REBUILD_RUNNING, REBUILD_FAILED, REBUILD_OP_FORCE_STOP, REBUILD_NOTHING, 0 },
		{ REBUILD_RUNNING, REBUILD_FAILED, REBUILD_OP_STOP, REBUILD_BUSY, 0 },
		{ REBUILD_COMPLETED, REBUILD_STATE_COUNT_, REBUILD_OP_STOP, REBUILD_NO, 0 },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		enum rebuild_state next = 0;

		CHECK_EQ(rebuild_judge(rows[i].state, rows[i].pending, rows[i].op, &next),
			 rows[i].answer);
		CHECK_EQ(next, rows[i].next);
	}
}

TAP_MAIN()
