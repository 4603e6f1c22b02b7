/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cover.h - how often every fault met every state, over all seeds of a run.
 *
 * Thread: one.
 * Rules:  a fault is active from cover_fault_begin() to cover_fault_end(), a state likewise; a pair
 *         is met whenever one of the two begins while the other is active.
 */
#ifndef SIM_COVER_H
#define SIM_COVER_H

#include <stdbool.h>
#include <stdint.h>

enum cover_fault {
	COVER_MEDIUM_READ,
	COVER_MEDIUM_WRITE,
	COVER_FLUSH_ERROR,
	COVER_STUCK,
	COVER_SLOW,
	COVER_POWER_CUT,
	COVER_HOT_REMOVAL,
	COVER_INJECT_STATUS,
	COVER_INJECT_DELAY,
	COVER_INJECT_LIE, /* data, corrupt, drop, torn with success */
	COVER_INJECT_TORN,
	COVER_NO_SPACE,
	COVER_NO_MEMORY, /* an allocation of a control operation fails */
	/* of stacks with a network in the middle */
	COVER_NET_DROP,
	COVER_NET_HALF_OPEN,
	COVER_NET_PARTITION,
	COVER_NET_SLOW,
	COVER_LATE,           /* the far device answers after io_timeout */
	COVER_TARGET_RESTART, /* the target stops and starts */
	COVER_TARGET_CRASH,   /* its machine loses the power */
	COVER_SUBSYSTEM_GONE, /* removed, and added again */
	COVER_PATH_CHANGE,    /* a path's URI is removed and added */
	COVER_ANA,            /* a path is worth less, or nothing */
	COVER_DISCONNECT,     /* the target throws the host out */
	COVER_NAMESPACES,     /* others come and go */
	COVER_SHUT_OUT,       /* the host is not allowed any more */
	COVER_NAMESPACE_GONE, /* ours is removed, and added again */
	/* of mirrors */
	COVER_NODE_CUT,   /* a child's machine loses its power */
	COVER_CHILD_GONE, /* a child's device is removed */
	COVER_STORE_SLOW,
	COVER_STORE_FAILS,
	COVER_STORE_HANGS,
	COVER_STORE_LOST, /* the record is gone, until it is written again */
	COVER_KILL,       /* the process dies */
	COVER_FAULTS_,
};

enum cover_state {
	COVER_IDLE,
	COVER_READING,
	COVER_WRITING,
	COVER_FLUSHING,
	COVER_UNMAPPING, /* unmap or write-zeroes */
	COVER_COMPARING,
	COVER_QUIESCED,
	COVER_LOCKED,
	COVER_RESIZING,
	COVER_OPENING, /* some opening or closing is under way */
	COVER_REMOVING,
	/* of an initiator's controllers: some controller is ... */
	COVER_CTRLR_CONNECTING,
	COVER_CTRLR_LIVE,
	COVER_CTRLR_RESETTING, /* without connection */
	COVER_FAILED_OVER,     /* one is live, another is not */
	/* of mirrors */
	COVER_DEGRADED,   /* some child is not healthy */
	COVER_FROZEN,     /* none is */
	COVER_REBUILDING, /* a child is being brought in sync */
	COVER_PERSISTING, /* a record is on its way to the store */
	COVER_CHILD_OP,   /* a client adds, removes, faults or brings back a child */
	COVER_STATES_,
};

void cover_fault_begin(enum cover_fault fault);
void cover_fault_end(enum cover_fault fault);
void cover_state_begin(enum cover_state state);
void cover_state_end(enum cover_state state);
/* A new world: nothing is active. The counts stay. */
void cover_restart(void);
enum cover_play { COVER_LOCAL, COVER_PAIR, COVER_MIRROR };
/* Which faults and states can be met. */
void cover_set_play(enum cover_play play);
void cover_print(void);
/* Pairs that can be met and never were; printed. */
unsigned cover_missing(void);

#endif
