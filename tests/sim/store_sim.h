/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_sim.h - a store of records that is slow, fails, hangs, and keeps what was durable.
 *
 * Owner:  the scenario, one at a time; it outlives the process whose records it keeps, as a store
 *         on another machine does.
 * Thread: one.
 */
#ifndef SIM_STORE_SIM_H
#define SIM_STORE_SIM_H

#include <stdbool.h>

#include "nexus/store.h"

enum simstore_mode {
	SIMSTORE_UP,
	SIMSTORE_SLOW,
	SIMSTORE_FAILS, /* an error; one time in four the record is there nevertheless */
	SIMSTORE_HANGS, /* no answer until the mode changes */
	SIMSTORE_MODES_,
};

/* @applied is called for each record that became durable, whoever is told so or not. */
struct nexus_store *simstore_open(void (*applied)(const struct nexus_record *record));
void simstore_close(void);

void simstore_set(enum simstore_mode mode);
/* Whoever puts has died: what is under way is there or not, what comes afterwards is not. */
void simstore_kill(void);
void simstore_revive(void);
/* The last record that was durable, whether it was lost since or not. False: there was none. */
bool simstore_record(struct nexus_record *ret);
/* The record, if there is one, is gone until the next put; or it was not gone after all. */
void simstore_lose(void);
void simstore_find(void);
bool simstore_has_lost(void);
/* A put is under way. */
bool simstore_is_busy(void);
/* Did a put or get fail, or take long, since the last call? */
bool simstore_had_trouble(void);

#endif
