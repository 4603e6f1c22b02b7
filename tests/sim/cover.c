/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cover.c - the matrix of faults and states that tells whether the seeds were worth their time.
 *
 * Thousands of seeds that never cut the power during a resize prove nothing about that. So each run
 * counts how often each fault met each state, and a run that claims coverage fails where a pair
 * stayed at zero. There is no pair that cannot meet: one that comes later is listed here with the
 * reason, not left to silence.
 *
 * A pair is counted when the later of the two begins, not for as long as both last: the figure says
 * how many different meetings there were.
 */
#include "cover.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"

static const char *const fault_names[COVER_FAULTS_] = {
	[COVER_MEDIUM_READ] = "bad block, read",
	[COVER_MEDIUM_WRITE] = "bad block, write",
	[COVER_FLUSH_ERROR] = "flush error",
	[COVER_STUCK] = "stuck request",
	[COVER_SLOW] = "slow disk",
	[COVER_POWER_CUT] = "power cut",
	[COVER_HOT_REMOVAL] = "hot removal",
	[COVER_INJECT_STATUS] = "inject status",
	[COVER_INJECT_DELAY] = "inject delay",
	[COVER_INJECT_LIE] = "inject lie",
	[COVER_INJECT_TORN] = "inject torn",
	[COVER_NO_SPACE] = "no space",
	[COVER_NO_MEMORY] = "no memory",
	[COVER_NET_DROP] = "drop",
	[COVER_NET_HALF_OPEN] = "half open",
	[COVER_NET_PARTITION] = "partition",
	[COVER_NET_SLOW] = "slow network",
	[COVER_LATE] = "late answer",
	[COVER_TARGET_RESTART] = "target restart",
	[COVER_TARGET_CRASH] = "target crash",
	[COVER_SUBSYSTEM_GONE] = "subsystem gone",
	[COVER_PATH_CHANGE] = "path change",
	[COVER_ANA] = "ana",
	[COVER_DISCONNECT] = "disconnect",
	[COVER_NAMESPACES] = "namespaces",
	[COVER_SHUT_OUT] = "shut out",
	[COVER_NAMESPACE_GONE] = "namespace gone",
	[COVER_NODE_CUT] = "node power cut",
	[COVER_CHILD_GONE] = "child gone",
	[COVER_STORE_SLOW] = "store slow",
	[COVER_STORE_FAILS] = "store fails",
	[COVER_STORE_HANGS] = "store hangs",
	[COVER_STORE_LOST] = "record lost",
	[COVER_KILL] = "kill",
};

static const char *const state_names[COVER_STATES_] = {
	[COVER_IDLE] = "idle",
	[COVER_READING] = "reading",
	[COVER_WRITING] = "writing",
	[COVER_FLUSHING] = "flushing",
	[COVER_UNMAPPING] = "unmap",
	[COVER_COMPARING] = "compare",
	[COVER_QUIESCED] = "quiesced",
	[COVER_LOCKED] = "locked",
	[COVER_RESIZING] = "resizing",
	[COVER_OPENING] = "opening",
	[COVER_REMOVING] = "removing",
	[COVER_CTRLR_CONNECTING] = "connects",
	[COVER_CTRLR_LIVE] = "live",
	[COVER_CTRLR_RESETTING] = "resetting",
	[COVER_FAILED_OVER] = "failover",
	[COVER_DEGRADED] = "degraded",
	[COVER_FROZEN] = "frozen",
	[COVER_REBUILDING] = "rebuild",
	[COVER_PERSISTING] = "persist",
	[COVER_CHILD_OP] = "child op",
};

static struct {
	uint64_t met[COVER_FAULTS_][COVER_STATES_];
	uint64_t begun[COVER_FAULTS_], entered[COVER_STATES_];
	unsigned fault[COVER_FAULTS_], state[COVER_STATES_];
	enum cover_play play;
} cover;

void cover_set_play(enum cover_play play)
{
	cover.play = play;
}

/* Those that some mirrors meet, too: they have replicas on another machine. */
static bool is_far(enum cover_fault fault)
{
	return fault <= COVER_NET_SLOW || fault == COVER_TARGET_RESTART ||
	       fault == COVER_TARGET_CRASH;
}

/* Can it be met at all in this play? */
static bool has_fault(enum cover_fault fault)
{
	if (fault >= COVER_NODE_CUT)
		return cover.play == COVER_MIRROR;
	if (fault >= COVER_NET_DROP)
		return cover.play == COVER_PAIR || (cover.play == COVER_MIRROR && is_far(fault));
	if (cover.play != COVER_MIRROR)
		return true;
	/* a mirror's children are cut off and removed one by one */
	return fault != COVER_POWER_CUT && fault != COVER_HOT_REMOVAL;
}

static bool has_state(enum cover_state state)
{
	if (state >= COVER_DEGRADED)
		return cover.play == COVER_MIRROR;
	if (state >= COVER_CTRLR_CONNECTING)
		return cover.play == COVER_PAIR;
	return true;
}

/* The process has died once: what comes to an end afterwards is not seen to begin. */
static bool can_meet(enum cover_fault fault, enum cover_state state)
{
	if (cover.play != COVER_MIRROR)
		return true;
	if (fault == COVER_KILL)
		return state != COVER_REMOVING;
	return true;
}

void cover_fault_begin(enum cover_fault fault)
{
	cover.begun[fault]++;
	if (cover.fault[fault]++ > 0)
		return;
	for (unsigned s = 0; s < COVER_STATES_; s++)
		cover.met[fault][s] += cover.state[s] > 0;
}

void cover_fault_end(enum cover_fault fault)
{
	assert(cover.fault[fault] > 0);
	cover.fault[fault]--;
}

void cover_state_begin(enum cover_state state)
{
	cover.entered[state]++;
	if (cover.state[state]++ > 0)
		return;
	for (unsigned f = 0; f < COVER_FAULTS_; f++)
		cover.met[f][state] += cover.fault[f] > 0;
}

void cover_state_end(enum cover_state state)
{
	assert(cover.state[state] > 0);
	cover.state[state]--;
}

void cover_restart(void)
{
	memset(cover.fault, 0, sizeof(cover.fault));
	memset(cover.state, 0, sizeof(cover.state));
}

void cover_print(void)
{
	printf("%-18s %8s", "fault x state", "begun");
	for (unsigned s = 0; s < COVER_STATES_; s++) {
		if (has_state(s))
			printf(" %9s", state_names[s]);
	}
	printf("\n%-18s %8s", "entered", "");
	for (unsigned s = 0; s < COVER_STATES_; s++) {
		if (has_state(s))
			printf(" %9" PRIu64, cover.entered[s]);
	}
	printf("\n");
	for (unsigned f = 0; f < COVER_FAULTS_; f++) {
		if (!has_fault(f))
			continue;
		printf("%-18s %8" PRIu64, fault_names[f], cover.begun[f]);
		for (unsigned s = 0; s < COVER_STATES_; s++) {
			if (has_state(s))
				printf(" %9" PRIu64, cover.met[f][s]);
		}
		printf("\n");
	}
}

unsigned cover_missing(void)
{
	unsigned missing = 0;

	for (unsigned f = 0; f < COVER_FAULTS_; f++) {
		for (unsigned s = 0; s < COVER_STATES_; s++) {
			if (cover.met[f][s] > 0 || !has_fault(f) || !has_state(s) ||
			    !can_meet(f, s))
				continue;
			printf("never met: %s x %s\n", fault_names[f], state_names[s]);
			missing++;
		}
	}
	return missing;
}
