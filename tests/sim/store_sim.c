/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_sim.c - one record on another machine, and what may happen on the way to it.
 *
 *   put --latency--> durable --> answer            UP, SLOW
 *        --latency--> (durable, one in four) --> error        FAILS
 *        --until the mode changes--> as the new mode has it   HANGS
 *   killed meanwhile: durable or not, by the dice; the answer is an error that nobody hears
 *
 * A record may be lost: its key was deleted, or the store lost all it had. Who asks is told that
 * there is none, until one is put again. What it said is kept here for those who judge.
 *
 * Judged here, as this is where a control plane will look: two puts at once (an old record could
 * replace a newer one), a record without a healthy child (nobody could make the volume again from
 * it), one that cannot be read.
 */
#include "store_sim.h"

#include <errno.h>
#include <string.h>

#include "cover.h"
#include "reactor/task.h"
#include "world.h"

static struct {
	struct nexus_store store;
	void (*applied)(const struct nexus_record *record);
	char text[RECORD_TEXT_MAX];
	char key[STORE_KEY_MAX];
	bool has_record;
	enum simstore_mode mode;
	const char *putting; /* text under way; NULL: none */
	unsigned ngets;      /* under way; he who asked may have given up */
	unsigned life;       /* of whoever uses it */
	bool is_dead, had_trouble, is_lost;
} sim;

bool simstore_record(struct nexus_record *ret)
{
	struct err err = {};

	if (!sim.has_record)
		return false;
	if (record_parse(sim.text, strlen(sim.text), ret, &err) < 0)
		world_fail("the record cannot be read: %s", err.msg);
	return true;
}

void simstore_lose(void)
{
	if (!sim.has_record || sim.is_lost)
		return;
	world_trace("record lost", 0, 0);
	sim.is_lost = true;
	cover_fault_begin(COVER_STORE_LOST);
}

void simstore_find(void)
{
	if (sim.is_lost)
		cover_fault_end(COVER_STORE_LOST);
	sim.is_lost = false;
}

bool simstore_has_lost(void)
{
	return sim.is_lost;
}

static void apply(const char *text)
{
	struct nexus_record record = {};
	unsigned nhealthy = 0;

	(void)snprintf(sim.text, sizeof(sim.text), "%s", text);
	sim.has_record = true;
	simstore_find();
	if (!simstore_record(&record))
		return;
	for (unsigned i = 0; i < record.nchildren; i++)
		nhealthy += record.child[i].is_healthy;
	world_say("record: %s", text);
	world_trace("record", nhealthy, record.is_clean);
	if (nhealthy == 0)
		world_fail("the record says that no child is healthy: %s", text);
	sim.applied(&record);
}

static void wait_answer(unsigned life)
{
	uint64_t latency_ns = 2 * USEC + world_rand(100 * USEC); /* a tenth of any time limit */

	if (sim.mode == SIMSTORE_SLOW)
		latency_ns = world_latency(100 * USEC, MSEC);
	sim.had_trouble |= sim.mode != SIMSTORE_UP;
	task_sleep(latency_ns);
	while (sim.mode == SIMSTORE_HANGS && sim.life == life) {
		sim.had_trouble = true;
		task_sleep(50 * USEC);
	}
	sim.had_trouble |= sim.mode != SIMSTORE_UP;
}

static int sim_put(struct nexus_store *store, const char *key, const char *text, struct err *err)
{
	unsigned life = sim.life;

	(void)store;
	if (sim.is_dead)
		return err_set(err, -EIO, "the process is dead");
	if (sim.putting != NULL)
		world_fail("two puts of one record at once");
	if (sim.has_record && strcmp(sim.key, key) != 0)
		world_fail("the key of the record has changed from %s to %s", sim.key, key);
	(void)snprintf(sim.key, sizeof(sim.key), "%s", key);
	sim.putting = text;
	cover_state_begin(COVER_PERSISTING);
	wait_answer(life);
	cover_state_end(COVER_PERSISTING);
	if (sim.life != life)
		return err_set(err, -EIO, "the process has died");
	sim.putting = NULL;
	if (sim.mode == SIMSTORE_FAILS) {
		if (world_chance(1, 4))
			apply(text);
		return err_set(err, -EIO, "the store fails");
	}
	apply(text);
	return 0;
}

static int sim_get(struct nexus_store *store, const char *key, char text[RECORD_TEXT_MAX],
		   struct err *err)
{
	unsigned life = sim.life;

	(void)store;
	(void)key;
	sim.ngets++;
	wait_answer(life);
	sim.ngets--;
	if (sim.is_dead || sim.mode == SIMSTORE_FAILS)
		return err_set(err, -EIO, "the store fails");
	if (!sim.has_record || sim.is_lost)
		return err_set(err, -ENOENT, "there is no record");
	memcpy(text, sim.text, RECORD_TEXT_MAX);
	return 0;
}

static int sim_del(struct nexus_store *store, const char *key, struct err *err)
{
	(void)store;
	(void)key;
	world_fail("a record is deleted");
	return err_set(err, -EIO, "nobody deletes records");
}

struct nexus_store *simstore_open(void (*applied)(const struct nexus_record *record))
{
	memset(&sim, 0, sizeof(sim));
	sim.store = (struct nexus_store){
		.name = "simulated", .put = sim_put, .get = sim_get, .del = sim_del
	};
	sim.applied = applied;
	return &sim.store;
}

void simstore_close(void)
{
	if (simstore_is_busy())
		world_fail("a put or a get is under way although nobody is left");
}

void simstore_set(enum simstore_mode mode)
{
	world_trace("store mode", mode, 0);
	sim.mode = mode;
	sim.had_trouble |= mode != SIMSTORE_UP;
}

void simstore_kill(void)
{
	world_trace("store killed", sim.putting != NULL, 0);
	sim.life++;
	sim.is_dead = true;
	if (sim.putting != NULL && world_chance(1, 2))
		apply(sim.putting);
	sim.putting = NULL;
}

void simstore_revive(void)
{
	sim.is_dead = false;
}

bool simstore_is_busy(void)
{
	return sim.putting != NULL || sim.ngets > 0;
}

bool simstore_had_trouble(void)
{
	bool had = sim.had_trouble || sim.mode != SIMSTORE_UP;

	sim.had_trouble = false;
	return had;
}
