/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker.c - threads for what blocks.
 *
 * A handful of threads shared by all reactors, started when there is more work than idle threads,
 * kept until the engine ends. The queue is one list under one mutex: this is never on the data
 * path of a fast device, and the calls it carries take microseconds to seconds.
 *
 * Threads start with all signals blocked but those of a crash (a fault under a blocked signal kills
 * without a word) and without a reactor of their own. Where no thread can be had at all, the work
 * is done on the spot: a reactor that stands still for a while beats one that waits for ever.
 *
 * Invariant: a struct work is in the queue, in fn() on one pool thread, or on its way back in the
 * origin's inbox; its owner touches it only before submitting and from done() on.
 */
#include "reactor/worker.h"

#include <pthread.h>
#include <signal.h>

#include "base/log.h"

static struct {
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct msg_list queue;
	pthread_t thread[WORKERS_MAX];
	unsigned nthreads, nidle, nqueued;
	bool is_stopping;
} pool = { .lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER };

static void work_back(struct msg *msg)
{
	struct work *work = container_of(msg, struct work, msg);

	work->done(work);
}

static void *worker_thread(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&pool.lock);
	for (;;) {
		struct msg *msg = msg_list_pop(&pool.queue);

		if (msg != NULL) {
			struct work *work = container_of(msg, struct work, msg);

			pool.nqueued--;
			pthread_mutex_unlock(&pool.lock);
			work->fn(work);
			work->msg.fn = work_back;
			reactor_post(work->origin, &work->msg);
			pthread_mutex_lock(&pool.lock);
		} else if (pool.is_stopping) {
			break;
		} else {
			pool.nidle++;
			pthread_cond_wait(&pool.more, &pool.lock);
			pool.nidle--;
		}
	}
	pthread_mutex_unlock(&pool.lock);
	return NULL;
}

static void worker_start(void)
{
	static const int crashes[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	sigset_t all, old;

	sigfillset(&all);
	for (size_t i = 0; i < ARRAY_LEN(crashes); i++)
		sigdelset(&all, crashes[i]);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (pthread_create(&pool.thread[pool.nthreads], NULL, worker_thread, NULL) == 0)
		pool.nthreads++;
	else if (pool.nthreads == 0)
		log_error("cannot start a worker thread: blocking calls hold up their reactor "
			  "(raise the limit of processes: ulimit -u, TasksMax= in the unit)");
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void worker_pool_run(struct reactor *r, struct work *work)
{
	bool has_thread;

	pthread_mutex_lock(&pool.lock);
	if (pool.nqueued >= pool.nidle && pool.nthreads < WORKERS_MAX)
		worker_start();
	has_thread = pool.nthreads > 0;
	if (has_thread) {
		msg_list_push(&pool.queue, &work->msg);
		pool.nqueued++;
		pthread_cond_signal(&pool.more);
	}
	pthread_mutex_unlock(&pool.lock);
	if (has_thread)
		return;
	work->fn(work);
	work->msg.fn = work_back;
	reactor_defer(r, &work->msg);
}

void worker_pool_stop(void)
{
	pthread_mutex_lock(&pool.lock);
	pool.is_stopping = true;
	pthread_cond_broadcast(&pool.more);
	pthread_mutex_unlock(&pool.lock);
	for (unsigned i = 0; i < pool.nthreads; i++)
		pthread_join(pool.thread[i], NULL);
	pool.nthreads = 0;
	pool.is_stopping = false;
}
