/* SPDX-License-Identifier: Apache-2.0 */
/*
 * record_writer.c - one put, get or lock at a time, by a task of its own, so that a store that
 * hangs holds nobody for longer than a time limit.
 *
 *   IDLE --put--> task: store->put() --> IDLE          the caller waits for it, or for the limit
 *                    | limit passed: the caller gets -ETIMEDOUT and may come again: he then waits
 *                    v for the put that hangs, because a second one beside it could be overtaken
 *                    by
 *                 HANGING  it, and an old record replace a newer one
 *
 * A writer that is freed while it hangs frees itself when the store lets go of it. Until then its
 * key is taken: a nexus that is made again meanwhile waits for it, too, or the old record would
 * come last after all.
 *
 * The lock of the record is the writer's, for it knows when the last put has ended: it is given up
 * after that, on a task of its own if need be, and the key stays taken until it is. Who has been
 * told of a time limit does not keep what comes later: the lock is given up with the writer.
 *
 * Thread: primary.
 */
#include <errno.h>
#include <string.h>

#include "nexus/internal.h"

struct record_writer {
	struct list link;    /* in orphans */
	struct list waiting; /* in waiters */
	struct task *waiter; /* NULL: nobody waits */
	struct timer timer;
	bool is_busy, is_late, is_orphan;
	enum writer_op { WRITER_PUT, WRITER_GET, WRITER_LOCK } op;
	struct nexus_store *store; /* of the lock */
	struct store_lock *lock;   /* NULL: none */
	bool is_released;          /* the lock goes as soon as nothing is under way */
	int result;
	struct err err;
	char key[STORE_KEY_MAX];
	char text[RECORD_TEXT_MAX];
};

static struct list orphans = { &orphans, &orphans }; /* freed, but still at work */
static struct list waiters = { &waiters, &waiters };

static bool is_taken(const char *key)
{
	const struct record_writer *other;

	list_for_each (other, &orphans, link) {
		if (strcmp(other->key, key) == 0)
			return true;
	}
	return false;
}

static void writer_wake(struct record_writer *writer)
{
	if (writer->waiter != NULL)
		task_resume(take(writer->waiter));
}

static void lock_end(struct record_writer *writer) MAY_SUSPEND
{
	struct store_lock *lock = take(writer->lock);

	if (lock != NULL)
		writer->store->unlock(writer->store, lock);
}

/* It is over with an orphan: whoever waits looks whether it was the one. */
static void orphan_end(struct record_writer *writer) MAY_SUSPEND
{
	struct record_writer *other;

	lock_end(writer);
	list_del(&writer->link);
	free(writer);
	list_for_each (other, &waiters, waiting)
		writer_wake(other);
}

static void writer_task(void *arg)
{
	struct record_writer *writer = arg;
	struct nexus_store *store = nexus_settings.store;

	err_clear(&writer->err);
	if (writer->op == WRITER_GET)
		writer->result = store->get(store, writer->key, writer->text, &writer->err);
	else if (writer->op == WRITER_PUT)
		writer->result = store->put(store, writer->key, writer->text, &writer->err);
	else
		writer->result = store->lock(store, writer->key, &writer->lock, &writer->err);
	if (writer->is_released)
		lock_end(writer);
	writer->is_busy = false;
	if (writer->is_orphan)
		orphan_end(writer);
	else
		writer_wake(writer);
}

static void writer_due(struct timer *timer)
{
	struct record_writer *writer = container_of(timer, struct record_writer, timer);

	writer->is_late = true;
	writer_wake(writer);
}

/* Until nothing is under way for @key any more, or the timer. True: nothing is. */
static bool writer_wait(struct record_writer *writer, const char *key) MAY_SUSPEND
{
	list_add_tail(&waiters, &writer->waiting);
	while ((writer->is_busy || is_taken(key)) && !writer->is_late) {
		writer->waiter = task_self();
		task_suspend();
	}
	writer->waiter = NULL;
	list_del(&writer->waiting);
	return !writer->is_busy && !is_taken(key);
}

struct record_writer *record_writer_new(void)
{
	struct record_writer *writer = calloc(1, sizeof(*writer));

	if (writer != NULL)
		writer->timer.fn = writer_due;
	return writer;
}

/* @text: to put. */
static int writer_call(struct record_writer *writer, enum writer_op op, const char *key,
		       const char *text, uint64_t timeout_ns, struct err *err) MAY_SUSPEND
{
	struct reactor *r = reactor_primary();
	int result = -ETIMEDOUT;

	writer->is_late = false;
	timer_arm(r, &writer->timer, timeout_ns);
	if (writer_wait(writer, key)) {
		(void)snprintf(writer->key, sizeof(writer->key), "%s", key);
		writer->op = op;
		(void)snprintf(writer->text, sizeof(writer->text), "%s", text != NULL ? text : "");
		writer->is_busy = true;
		if (task_spawn_ranked(TASK_PERSIST, "record", writer_task, writer) < 0) {
			writer->is_busy = false;
			result = err_set(err, -ENOMEM, "no memory for a task");
		} else {
			(void)writer_wait(writer, key);
			result = writer->is_busy ? -ETIMEDOUT : writer->result;
		}
	}
	timer_disarm(r, &writer->timer);
	if (result == -ETIMEDOUT)
		return err_set(err, result, "the store '%s' does not answer",
			       nexus_settings.store->name);
	if (result < 0 && err != NULL && err->code == 0)
		*err = writer->err;
	return result;
}

int record_writer_put(struct record_writer *writer, const char *key, const char *text,
		      uint64_t timeout_ns, struct err *err)
{
	return writer_call(writer, WRITER_PUT, key, text, timeout_ns, err);
}

int record_writer_get(struct record_writer *writer, const char *key, char text[RECORD_TEXT_MAX],
		      uint64_t timeout_ns, struct err *err)
{
	int result = writer_call(writer, WRITER_GET, key, NULL, timeout_ns, err);

	if (result == 0)
		memcpy(text, writer->text, RECORD_TEXT_MAX);
	return result;
}

int record_writer_lock(struct record_writer *writer, const char *key, uint64_t timeout_ns,
		       struct err *err)
{
	if (nexus_settings.store->lock == NULL)
		return 0;
	writer->store = nexus_settings.store;
	return writer_call(writer, WRITER_LOCK, key, NULL, timeout_ns, err);
}

void record_writer_unlock(struct record_writer *writer)
{
	writer->is_released = true;
	if (!writer->is_busy)
		lock_end(writer);
}

void record_writer_free(struct record_writer *writer)
{
	if (writer == NULL)
		return;
	if (!writer->is_busy && writer->lock == NULL) {
		free(writer);
		return;
	}
	writer->is_orphan = true;
	list_add_tail(&orphans, &writer->link);
	if (!writer->is_busy)
		orphan_end(writer);
}
