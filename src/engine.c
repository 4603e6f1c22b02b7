/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.c - start, stop and the door for threads outside the engine.
 *
 *   outside thread: engine_start -> engine_call(fn) ... -> engine_stop
 *                                      | message
 *   primary reactor:                   +-> task: fn(arg, err) -> wakes the caller
 *
 * Signals are blocked in every thread and read from a signalfd through the primary's ring, so that
 * they arrive as events like everything else. A second SIGINT or SIGTERM while the first is being
 * obeyed ends the process at once: a person who asks twice means it. One that follows within
 * SAME_WISH_NS is the same wish: timeout(1) signals the process and then its group. Where the first
 * is not obeyed soon, since a device does not answer, that is said: else a person sees nothing
 * happen.
 *
 * Stop: all devices are removed (openers follow the event), then the primary waits until no task
 * is left, then the reactors end. The order means that nothing is freed under somebody's feet.
 *
 * Thread: as engine.h says. The state here belongs to the primary reactor but for the two flags.
 */
#include "engine.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>

#include "base/log.h"
#include "crash.h"
#include "device/driver.h"
#include "device/fault.h"
#include "reactor/uring.h"
#include "schemes.h"

enum {
	STOP_POLL_NS = 1000000,     /* how often a stopping engine looks whether its tasks ended */
	SAME_WISH_NS = 100000000,   /* two requests to end that are one */
	STILL_HERE_NS = 1000000000, /* after which a person wonders */
};

struct signal_waiter {
	struct list link;
	struct timer timer;
	struct task_event event;
	bool is_hangup;
};

static struct {
	atomic_bool is_running; /* from the first step of a start to the last of a stop */
	atomic_bool is_terminating;
	bool handles_signals;
	int signal_fd;
	sigset_t old_mask;
	struct uring_op signal_op;
	struct signalfd_siginfo signal_info;
	bool is_hangup; /* one came while nobody waited */
	struct list waiters;
	uint64_t asked_ns;       /* when the first request to end came */
	struct timer still_here; /* armed from then to the end */
} engine = { .signal_fd = -1 };

/* ---- calls from outside ------------------------------------------------------------------- */

struct engine_call {
	struct msg msg;
	int (*fn)(void *arg, struct err *err);
	void *arg;
	struct err *err;
	int result;
	pthread_mutex_t lock;
	pthread_cond_t done;
	bool is_done;
};

static void engine_call_end(struct engine_call *call, int result)
{
	pthread_mutex_lock(&call->lock);
	call->result = result;
	call->is_done = true;
	pthread_cond_signal(&call->done);
	pthread_mutex_unlock(&call->lock);
}

static void engine_call_task(void *arg)
{
	struct engine_call *call = arg;

	engine_call_end(call, call->fn(call->arg, call->err));
}

static void engine_call_arrived(struct msg *msg)
{
	struct engine_call *call = container_of(msg, struct engine_call, msg);

	if (task_spawn("call", engine_call_task, call) < 0)
		engine_call_end(call, err_set(call->err, -ENOMEM, "no memory for a task"));
}

int engine_call(int (*fn)(void *arg, struct err *err), void *arg, struct err *err)
{
	struct engine_call call = {
		.msg.fn = engine_call_arrived, .fn = fn, .arg = arg, .err = err
	};

	if (task_self() != NULL)
		return fn(arg, err);
	assert(reactor_self() == NULL);
	pthread_mutex_init(&call.lock, NULL);
	pthread_cond_init(&call.done, NULL);
	reactor_post(reactor_primary(), &call.msg);
	pthread_mutex_lock(&call.lock);
	while (!call.is_done)
		pthread_cond_wait(&call.done, &call.lock);
	pthread_mutex_unlock(&call.lock);
	pthread_cond_destroy(&call.done);
	pthread_mutex_destroy(&call.lock);
	return call.result;
}

/* ---- signals ------------------------------------------------------------------------------ */

static void signal_tell_all(bool is_hangup)
{
	struct signal_waiter *waiter;

	if (is_hangup && list_empty(&engine.waiters))
		engine.is_hangup = true;
	while ((waiter = list_first_entry(&engine.waiters, struct signal_waiter, link)) != NULL) {
		list_del(&waiter->link);
		waiter->is_hangup = is_hangup;
		task_event_fire(&waiter->event);
	}
}

static void signal_arm(void)
{
	struct io_uring_sqe *sqe = uring_sqe(reactor_primary(), &engine.signal_op);

	io_uring_prep_read(sqe, engine.signal_fd, &engine.signal_info, sizeof(engine.signal_info),
			   0);
}

static void still_here(struct timer *timer)
{
	(void)timer;
	log_warn("asked to end, but something does not answer: waiting for it; asking again ends "
		 "at once");
}

/* False: it was asked for already, and this is the same wish. */
static bool is_first_request_to_end(void)
{
	uint64_t now_ns = reactor_clock(reactor_primary());

	if (!atomic_exchange(&engine.is_terminating, true)) {
		engine.asked_ns = now_ns;
		engine.still_here.fn = still_here;
		timer_arm(reactor_primary(), &engine.still_here, STILL_HERE_NS);
		return true;
	}
	if (now_ns - engine.asked_ns < SAME_WISH_NS)
		return false;
	log_error("asked twice to end: ending at once");
	_exit(128 + (int)engine.signal_info.ssi_signo);
}

static void signal_arrived(struct uring_op *op, int res, uint32_t flags)
{
	bool is_hangup = engine.signal_info.ssi_signo == SIGHUP;

	(void)op;
	(void)flags;
	if (res != (int)sizeof(engine.signal_info))
		return;
	if (is_hangup || is_first_request_to_end())
		signal_tell_all(is_hangup);
	signal_arm();
}

static void signal_timeout(struct timer *timer)
{
	struct signal_waiter *waiter = container_of(timer, struct signal_waiter, timer);

	list_del(&waiter->link);
	task_event_fire(&waiter->event);
}

unsigned engine_wait_signal(uint64_t timeout_ns)
{
	struct signal_waiter waiter = { .timer.fn = signal_timeout };
	unsigned signals = 0;

	if (!engine_is_terminating() && !engine.is_hangup) {
		list_add_tail(&engine.waiters, &waiter.link);
		if (timeout_ns != 0)
			timer_arm(reactor_self(), &waiter.timer, timeout_ns);
		task_event_wait(&waiter.event);
		timer_disarm(reactor_self(), &waiter.timer);
	}
	if (engine_is_terminating())
		signals |= ENGINE_TERMINATE;
	if (waiter.is_hangup || engine.is_hangup)
		signals |= ENGINE_HANGUP;
	engine.is_hangup = false;
	return signals;
}

bool engine_is_terminating(void)
{
	return atomic_load_explicit(&engine.is_terminating, memory_order_relaxed);
}

/* Before any thread starts, so that all inherit the mask. */
static int signals_block(struct err *err)
{
	sigset_t mask;
	int result;

	sigemptyset(&mask);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &mask, &engine.old_mask);
	engine.signal_fd = signalfd(-1, &mask, SFD_CLOEXEC);
	if (engine.signal_fd < 0) {
		result = err_set_sys(err, -errno, "cannot make a signalfd");
		(void)err_hint(err, "raise the limit of open files (ulimit -n, LimitNOFILE= in "
				    "the unit)");
		return result;
	}
	engine.signal_op.done = signal_arrived;
	crash_handler_install();
	return 0;
}

static void signals_unblock(void)
{
	if (!engine.handles_signals)
		return;
	closep(&engine.signal_fd);
	pthread_sigmask(SIG_SETMASK, &engine.old_mask, NULL);
}

/* ---- start and stop ----------------------------------------------------------------------- */

static int engine_begin(void *arg, struct err *err)
{
	(void)arg;
	(void)err;
	if (engine.handles_signals)
		signal_arm();
	return 0;
}

int engine_start(const struct engine_opts *opts, struct err *err)
{
	int result = 0;

	if (atomic_exchange(&engine.is_running, true))
		return err_set(err, -EALREADY, "this process has an engine already");
	engine.handles_signals = opts->handle_signals;
	atomic_store(&engine.is_terminating, false);
	engine.is_hangup = false;
	list_init(&engine.waiters);
	drivers_set(scheme_table);
	if (engine.handles_signals)
		result = signals_block(err);
	if (result == 0)
		result = reactors_start(&opts->reactor, err);
	if (result == 0) {
		result = engine_call(engine_begin, NULL, err);
		if (result < 0)
			reactors_stop();
	}
	if (result < 0) {
		signals_unblock();
		atomic_store(&engine.is_running, false);
	}
	return result;
}

static int engine_end(void *arg, struct err *err)
{
	(void)arg;
	(void)err;
	fault_remove_all(); /* what they hold goes on, so that devices can go */
	device_remove_all();
	while (task_count() > 1) /* the one is this task */
		task_sleep(STOP_POLL_NS);
	timer_disarm(reactor_primary(), &engine.still_here);
	return 0;
}

static void engine_last(struct msg *msg)
{
	task_pool_drain();
	engine_call_end(container_of(msg, struct engine_call, msg), 0);
}

/* Stacks can only go when the last task has left its own. */
static void engine_drain_stacks(void)
{
	struct engine_call call = { .msg.fn = engine_last,
				    .lock = PTHREAD_MUTEX_INITIALIZER,
				    .done = PTHREAD_COND_INITIALIZER };

	reactor_post(reactor_primary(), &call.msg);
	pthread_mutex_lock(&call.lock);
	while (!call.is_done)
		pthread_cond_wait(&call.done, &call.lock);
	pthread_mutex_unlock(&call.lock);
}

void engine_stop(void)
{
	if (!engine.is_running)
		return;
	if (engine_call(engine_end, NULL, NULL) < 0)
		log_error("no memory left to stop the engine in order: stopping it anyway");
	engine_drain_stacks();
	reactors_stop();
	signals_unblock();
	atomic_store(&engine.is_running, false);
}

int engine_run(const struct engine_opts *opts, int (*fn)(void *arg, struct err *err), void *arg,
	       struct err *err)
{
	int result = engine_start(opts, err);

	if (result < 0)
		return result;
	result = engine_call(fn, arg, err);
	engine_stop();
	return result;
}
