/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uring.c - the kernel backend of a reactor: clock, io_uring, sleep and wake.
 *
 * One ring per reactor, made and used by its thread alone, so it can ask for what a single issuer
 * gets: completions are produced only when the thread asks for them (DEFER_TASKRUN), which means
 * no interrupts into a running turn and no cost while there is nothing. The kernel sets a flag in
 * shared memory when it has work to do in our context; reap looks at that flag, so a turn without
 * kernel events makes no system call.
 *
 * Features are found by trying: the richest set-up first, one group of flags less per refusal.
 * Never by kernel version. All opcodes in use are older than the oldest kernel that is served.
 *
 * Sleep is one io_uring_enter that submits what is queued and waits for one completion or the next
 * timer. Wake is one write to an eventfd that the ring always reads; it costs the sender a system
 * call only if the receiver said that it sleeps.
 *
 * Rejected: SQPOLL (a spinning kernel thread), MSG_RING as the wake (measured equal, and it needs
 * the sender to have a ring: threads outside the engine have none).
 *
 * The end: a request may still be in the ring when its reactor ends (a poll that was cancelled a
 * moment ago, the read of the eventfd). Freeing the ring alone would never tell the owners, and the
 * kernel might still write to their memory, so uring_drain() cancels what is left and waits.
 *
 * Limits: URING_ENTRIES submissions between two system calls, four times as many completions; the
 * kernel keeps more aside if they overflow (IORING_FEAT_NODROP), nothing is lost.
 */
#include "reactor/uring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "base/log.h"
#include "reactor/worker.h"

struct uring {
	struct io_uring ring;
	struct uring_op wake_op;
	int wake_fd;
	uint64_t wake_count; /* where the eventfd is read to */
	unsigned inflight;   /* requests with an owner who has not heard the last of them */
	bool is_wake_armed;
};

/* ---- set-up ------------------------------------------------------------------------------- */

/* Why the kernel said no, in words that help. */
static int uring_explain(int error, struct err *err)
{
	int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
	char value = '0';

	if (fd >= 0) {
		if (read(fd, &value, 1) != 1)
			value = '0';
		(void)close(fd);
	}
	if (error == -EPERM && value != '0')
		return err_set(err, error,
			       "io_uring is forbidden by sysctl kernel.io_uring_disabled=%c: "
			       "set it to 0 (root: sysctl kernel.io_uring_disabled=0)%s",
			       value, value == '1' ? ", or run in its io_uring_group" : "");
	if (error == -EPERM || error == -ENOSYS)
		return err_set(err, error,
			       "io_uring is forbidden here, by a seccomp filter or the kernel's "
			       "configuration: allow io_uring_setup, io_uring_enter and "
			       "io_uring_register in the container's seccomp profile");
	if (error == -ENOMEM)
		return err_set(err, error,
			       "no memory for an io_uring: raise the limit of locked memory "
			       "(ulimit -l, LimitMEMLOCK= in the unit)");
	(void)err_set_sys(err, error, "cannot set up io_uring");
	if (error == -EMFILE || error == -ENFILE)
		(void)err_hint(err, "raise the limit of open files (ulimit -n, LimitNOFILE= in "
				    "the unit)");
	return error;
}

static int uring_try_setup(struct uring *u)
{
	static const unsigned sets[] = {
		IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			IORING_SETUP_TASKRUN_FLAG,
		IORING_SETUP_CQSIZE | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		IORING_SETUP_CQSIZE,
	};
	int result = -EINVAL;

	for (size_t i = 0; i < ARRAY_LEN(sets) && result == -EINVAL; i++) {
		struct io_uring_params params = { .flags = sets[i],
						  .cq_entries = 4 * URING_ENTRIES };

		result = io_uring_queue_init_params(URING_ENTRIES, &u->ring, &params);
	}
	return result;
}

static int uring_open_wake(struct uring *u, struct err *err)
{
	int result;

	u->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (u->wake_fd >= 0)
		return 0;
	result = err_set_sys(err, -errno, "cannot make an eventfd");
	(void)err_hint(err, "raise the limit of open files (ulimit -n, LimitNOFILE= in the unit)");
	return result;
}

static void uring_arm_wake(struct reactor *r)
{
	struct uring *u = r->ring;
	struct io_uring_sqe *sqe = uring_sqe(r, &u->wake_op);

	io_uring_prep_read(sqe, u->wake_fd, &u->wake_count, sizeof(u->wake_count), 0);
	u->is_wake_armed = true;
}

static void uring_woken(struct uring_op *op, int res, uint32_t flags)
{
	struct uring *u = container_of(op, struct uring, wake_op);

	(void)res;
	(void)flags;
	u->is_wake_armed = false; /* armed again before the next sleep */
}

int uring_open(struct reactor *r, struct err *err)
{
	struct uring *u = calloc(1, sizeof(*u));
	int result;

	if (u == NULL)
		return err_set(err, -ENOMEM, "no memory for a reactor's ring");
	result = uring_try_setup(u);
	if (result < 0) {
		free(u);
		return uring_explain(result, err);
	}
	result = uring_open_wake(u, err);
	if (result < 0) {
		io_uring_queue_exit(&u->ring);
		free(u);
		return result;
	}
	(void)io_uring_register_ring_fd(&u->ring); /* saves a look-up per call; optional */
	u->wake_op.done = uring_woken;
	r->ring = u;
	uring_arm_wake(r);
	return 0;
}

void uring_close(struct reactor *r)
{
	struct uring *u = r->ring;

	if (u == NULL)
		return;
	io_uring_queue_exit(&u->ring);
	(void)close(u->wake_fd);
	free(u);
	r->ring = NULL;
}

/* ---- the loop's side ---------------------------------------------------------------------- */

struct io_uring_sqe *uring_sqe(struct reactor *r, struct uring_op *op)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring->ring);

	while (unlikely(sqe == NULL)) {
		int result = io_uring_submit(&r->ring->ring);

		/* EBUSY, EAGAIN: the kernel wants completions taken first; overflow is kept. */
		if (result < 0 && result != -EBUSY && result != -EAGAIN && result != -EINTR)
			log_error("io_uring submit: %s, trying again", err_errno_name(result));
		if (result == -EBUSY || result == -EAGAIN)
			(void)io_uring_get_events(&r->ring->ring);
		sqe = io_uring_get_sqe(&r->ring->ring);
	}
	memset(sqe, 0, sizeof(*sqe));
	io_uring_sqe_set_data(sqe, op); /* liburing's prep helpers leave it alone */
	r->ring->inflight += op != NULL;
	return sqe;
}

static uint64_t uring_now(struct reactor *r)
{
	struct timespec ts;

	(void)r;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static unsigned uring_reap(struct reactor *r)
{
	struct io_uring *ring = &r->ring->ring;
	unsigned head, events = 0;
	struct io_uring_cqe *cqe;

	if (unlikely(IO_URING_READ_ONCE(*ring->sq.kflags) &
		     (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)))
		(void)io_uring_get_events(ring);
	if (io_uring_cq_ready(ring) == 0)
		return 0;
	io_uring_for_each_cqe(ring, head, cqe)
	{
		struct uring_op *op = io_uring_cqe_get_data(cqe);

		events++;
		if (op == NULL || (uintptr_t)op == LIBURING_UDATA_TIMEOUT)
			continue;
		r->ring->inflight -= !(cqe->flags & IORING_CQE_F_MORE);
		op->done(op, cqe->res, cqe->flags);
	}
	io_uring_cq_advance(ring, events);
	return events;
}

static void uring_submit(struct reactor *r)
{
	if (io_uring_sq_ready(&r->ring->ring) == 0)
		return;
	/* What does not fit now stays queued and goes with the next turn. */
	(void)io_uring_submit_and_get_events(&r->ring->ring);
}

static void uring_sleep(struct reactor *r, uint64_t until_ns)
{
	struct uring *u = r->ring;
	struct __kernel_timespec ts, *timeout = NULL;
	struct io_uring_cqe *cqe;

	if (!u->is_wake_armed)
		uring_arm_wake(r);
	if (until_ns != UINT64_MAX) {
		uint64_t now_ns = uring_now(r);
		uint64_t delay_ns = until_ns > now_ns ? until_ns - now_ns : 0;

		ts.tv_sec = (int64_t)(delay_ns / 1000000000u);
		ts.tv_nsec = (int64_t)(delay_ns % 1000000000u);
		timeout = &ts;
	}
	(void)io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, timeout, NULL);
}

static void uring_cancel_all(struct reactor *r)
{
	struct io_uring_sqe *sqe = uring_sqe(r, NULL);

	io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY);
	sqe->user_data = 0;
}

void uring_drain(struct reactor *r)
{
	struct __kernel_timespec step = { .tv_nsec = 100000000 };
	uint64_t end_ns = uring_now(r) + URING_DRAIN_MS * 1000000ull;
	struct uring *u = r->ring;
	struct io_uring_cqe *cqe;

	while (u->inflight > 0 && uring_now(r) < end_ns) {
		uring_cancel_all(r);
		(void)io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &step, NULL);
		(void)uring_reap(r);
	}
	if (u->inflight > 0)
		log_error("reactor=%u ends with %u requests that the kernel did not give back",
			  r->id, u->inflight);
}

static void uring_wake(struct reactor *r)
{
	static const uint64_t one = 1;

	if (write(r->ring->wake_fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
		log_error("cannot wake reactor=%u: %s", r->id, err_errno_name(-errno));
}

const struct reactor_backend reactor_backend_uring = {
	.now = uring_now,
	.reap = uring_reap,
	.submit = uring_submit,
	.sleep = uring_sleep,
	.wake = uring_wake,
	.work = worker_pool_run,
};
