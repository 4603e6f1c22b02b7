/* SPDX-License-Identifier: Apache-2.0 */
/*
 * aio.c - files and block devices through Linux AIO.
 *
 *   aio:///PATH[?blk_size=N][&uuid=UUID][&rescan]
 *
 * submit() notes a request. The flush phase turns what was noted into iocbs and hands the whole
 * batch to one io_submit(). Completions lie in a ring that the kernel maps into our memory; a
 * poller looks at its head and tail, so reaping costs no system call.
 *
 *   submit() -> waiting -> iocb, ready -> io_submit -> in flight -> ring -> io_complete()
 *               (no iocb free, or the kernel says EAGAIN: stays for a later turn)
 *
 * Sleep. A reactor may sleep only if the next completion wakes it, and Linux AIO signals nothing
 * but an eventfd that the iocb names when it is submitted. That signal costs 50 ns per request.
 * It is left out ("quiet") where it would never be needed: while the device ends its requests
 * inside io_submit(), as memory does (tmpfs, zram, the page cache), which is seen by looking at the
 * ring when the call returns. Before sleep the ring is told to read the eventfd; with a quiet
 * request in flight the reactor polls on (a device that was instant and hangs costs CPU until the
 * last quiet request returns; the ones after it signal).
 *
 * FUA is RWF_DSYNC on the write. Flush and everything else that blocks takes a lane (file.c).
 *
 * Invariants:
 *   1. ninflight <= AIO_DEPTH, which is half of what the kernel's ring holds: it cannot overflow.
 *   2. Every iocb is in exactly one of free, ready, the kernel.
 *   3. The poller is active exactly while ninflight > 0.
 *
 * Rejected: libaio (three system calls remain to be wrapped, and its io_submit() is not ours);
 * io_getevents() (a system call per turn); IOCB_CMD_FDSYNC (a kernel worker as well, and
 * not on every file); a thread that waits (35 us here to wake it).
 *
 * Limits: AIO_DEPTH per device and reactor; the system's is fs.aio-max-nr.
 *
 * Thread: as said in aio.h.
 */
#include "drivers/aio.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "drivers/drivers.h"

enum {
	AIO_RING_MAGIC = 0xa10a10a1, /* fs/aio.c of Linux; part of its user space interface */
};

/* What an aio_context_t points to (fs/aio.c, struct aio_ring). */
struct aio_ring {
	uint32_t id;
	uint32_t nr;           /* events */
	_Atomic uint32_t head; /* ours */
	_Atomic uint32_t tail; /* the kernel's */
	uint32_t magic;
	uint32_t compat_features;
	uint32_t incompat_features;
	uint32_t header_length;
	struct io_event events[];
};

static struct aio_channel *aio_of(struct channel *ch)
{
	return container_of(ch, struct aio_channel, base.ch);
}

static inline struct aio_ring *aio_ring(const struct aio_channel *ac)
{
	return (struct aio_ring *)ac->ctx;
}

/* Completions that wait to be taken. */
static inline unsigned aio_ring_count(const struct aio_channel *ac)
{
	struct aio_ring *ring = aio_ring(ac);
	uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);

	return tail >= head ? tail - head : tail + ring->nr - head;
}

/* ---- submission --------------------------------------------------------------------------- */

static inline void aio_queue_flush(struct aio_channel *ac)
{
	if (ac->is_queued)
		return;
	ac->is_queued = true;
	reactor_at_flush(ac->base.ch.reactor, &ac->flush);
}

static inline void aio_prepare(struct aio_channel *ac, struct iocb *cb, struct io *io)
{
	bool is_read = io->op == IO_READ;

	*cb = (struct iocb){
		.aio_data = (uintptr_t)io,
		.aio_fildes = (uint32_t)ac->base.file->fd,
		.aio_offset = (int64_t)(io->lba << ac->base.ch.block_shift),
	};
	if (likely(io->iovcnt == 1)) {
		cb->aio_lio_opcode = is_read ? IOCB_CMD_PREAD : IOCB_CMD_PWRITE;
		cb->aio_buf = (uintptr_t)io->iov->iov_base;
		cb->aio_nbytes = io->iov->iov_len;
	} else {
		cb->aio_lio_opcode = is_read ? IOCB_CMD_PREADV : IOCB_CMD_PWRITEV;
		cb->aio_buf = (uintptr_t)io->iov;
		cb->aio_nbytes = io->iovcnt;
	}
	if (!is_read && io->flags & IO_FUA)
		cb->aio_rw_flags = RWF_DSYNC;
	if (!ac->is_instant) {
		cb->aio_flags = IOCB_FLAG_RESFD;
		cb->aio_resfd = (uint32_t)ac->event_fd;
	}
}

static inline bool iocb_is_quiet(const struct iocb *cb)
{
	return cb->aio_flags == 0;
}

static inline struct io *io_of_iocb(const struct iocb *cb)
{
	return (struct io *)(uintptr_t)cb->aio_data;
}

/* The kernel refused ready[0] itself: its owner is told, the others are tried again. */
static void aio_refused(struct aio_channel *ac, int error)
{
	struct iocb *cb = ac->ready[0];

	ac->nready--;
	memmove(ac->ready, ac->ready + 1, ac->nready * sizeof(*ac->ready));
	ac->free[ac->nfree++] = cb;
	file_complete(&ac->base, io_of_iocb(cb), error);
}

static void aio_taken(struct aio_channel *ac, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		ac->nquiet += iocb_is_quiet(ac->ready[i]);
	if (ac->ninflight == 0)
		poller_start(ac->base.ch.reactor, &ac->poller);
	ac->ninflight += n;
	ac->nready -= n;
	if (unlikely(ac->nready > 0))
		memmove(ac->ready, ac->ready + n, ac->nready * sizeof(*ac->ready));
}

static HOT void aio_flush(struct msg *msg)
{
	struct aio_channel *ac = container_of(msg, struct aio_channel, flush);

	ac->is_queued = false;
	while (ac->nfree > 0 && (msg = msg_list_pop(&ac->waiting)) != NULL) {
		struct iocb *cb = ac->free[--ac->nfree];

		aio_prepare(ac, cb, container_of(msg, struct io, msg));
		ac->ready[ac->nready++] = cb;
	}
	while (ac->nready > 0) {
		long n = syscall(SYS_io_submit, ac->ctx, (long)ac->nready, ac->ready);

		if (likely(n > 0)) {
			aio_taken(ac, (unsigned)n);
		} else if (n == 0 || errno == EAGAIN) {
			aio_queue_flush(ac); /* the kernel is short of requests: next turn */
			return;
		} else if (errno != EINTR) {
			aio_refused(ac, -errno);
		}
	}
	ac->is_instant = aio_ring_count(ac) == ac->ninflight;
}

HOT enum io_result aio_submit(struct channel *ch, struct io *io)
{
	struct aio_channel *ac = aio_of(ch);

	if (unlikely(!file_is_plain(&ac->base, io)))
		return file_submit_slow(&ac->base, io);
	msg_list_push(&ac->waiting, &io->msg);
	aio_queue_flush(ac);
	return IO_PENDING;
}

/* ---- completion --------------------------------------------------------------------------- */

static inline void aio_ended(struct aio_channel *ac, const struct io_event *event)
{
	struct iocb *cb = (struct iocb *)(uintptr_t)event->obj;

	ac->nquiet -= iocb_is_quiet(cb);
	ac->free[ac->nfree++] = cb;
	file_complete(&ac->base, io_of_iocb(cb), event->res);
}

static HOT unsigned aio_poll(struct poller *poller)
{
	struct aio_channel *ac = container_of(poller, struct aio_channel, poller);
	struct aio_ring *ring = aio_ring(ac);
	uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
	struct reactor *r = ac->base.ch.reactor;
	unsigned n = 0;

	if (head == tail)
		return 0;
	for (; head != tail; n++) {
		struct io_event event = ring->events[head];

		head = head + 1 < ring->nr ? head + 1 : 0;
		aio_ended(ac, &event);
	}
	atomic_store_explicit(&ring->head, head, memory_order_release);
	ac->ninflight -= n;
	if (ac->ninflight == 0)
		poller_stop(r, poller);
	if (unlikely(ac->waiting.head != NULL))
		aio_queue_flush(ac);
	return n;
}

/* ---- sleep -------------------------------------------------------------------------------- */

static void aio_closed(struct msg *msg)
{
	task_event_fire(container_of(msg, struct aio_channel, closed_msg)->closed);
}

static void aio_woken(struct uring_op *op, int res, uint32_t flags)
{
	struct aio_channel *ac = container_of(op, struct aio_channel, event_op);

	(void)res;
	(void)flags;
	ac->is_armed = false;
	if (ac->closed != NULL)
		reactor_post(reactor_primary(), &ac->closed_msg);
}

static bool aio_arm(struct poller *poller)
{
	struct aio_channel *ac = container_of(poller, struct aio_channel, poller);
	struct reactor *r = ac->base.ch.reactor;

	if (ac->nquiet > 0 || r->ring == NULL)
		return false;
	if (!ac->is_armed) {
		struct io_uring_sqe *sqe = uring_sqe(r, &ac->event_op);

		io_uring_prep_read(sqe, ac->event_fd, &ac->event_count, sizeof(ac->event_count), 0);
		ac->is_armed = true;
	}
	return true;
}

/* ---- control path ------------------------------------------------------------------------- */

static int aio_setup(struct aio_channel *ac, struct err *err)
{
	const char *name = ac->base.ch.dev->name;
	int result = syscall(SYS_io_setup, AIO_DEPTH, &ac->ctx) < 0 ? -errno : 0;

	if (result == -EAGAIN)
		return err_set(err, result,
			       "%s: the system's limit of asynchronous I/O is reached: raise it "
			       "(sysctl fs.aio-max-nr=1048576)",
			       name);
	if (result < 0)
		return err_set_sys(err, result, "%s: cannot set up Linux AIO", name);
	if (aio_ring(ac)->magic != AIO_RING_MAGIC || aio_ring(ac)->incompat_features != 0)
		return err_set(err, -ENOSYS, "%s: the kernel's AIO ring has an unknown form", name);
	ac->event_fd = eventfd(0, EFD_CLOEXEC);
	if (ac->event_fd < 0)
		return err_set_sys(err, -errno, "%s: cannot make an eventfd (ulimit -n)", name);
	return 0;
}

static void aio_teardown(struct aio_channel *ac)
{
	if (ac->ctx != 0)
		(void)syscall(SYS_io_destroy, ac->ctx); /* only fails for what is no context */
	ac->ctx = 0;
	closep(&ac->event_fd);
}

int aio_channel_open(struct channel *ch, struct err *err)
{
	struct aio_channel *ac = aio_of(ch);
	int result;

	file_channel_init(&ac->base);
	ac->event_fd = -1;
	ac->poller = (struct poller){ .poll = aio_poll, .arm = aio_arm };
	ac->flush.fn = aio_flush;
	ac->event_op.done = aio_woken;
	ac->closed_msg.fn = aio_closed;
	for (unsigned i = AIO_DEPTH; i > 0; i--)
		ac->free[ac->nfree++] = &ac->iocb[i - 1];
	result = aio_setup(ac, err);
	if (result < 0)
		aio_teardown(ac);
	return result;
}

struct aio_disarm {
	struct aio_channel *ac;
	struct task_event closed;
	bool is_waiting;
};

/* On the channel's reactor: end the read of event_fd, if there is one. */
static void aio_disarm(void *arg)
{
	static const uint64_t one = 1;
	struct aio_disarm *d = arg;

	if (!d->ac->is_armed)
		return;
	d->is_waiting = true;
	d->ac->closed = &d->closed;
	if (write(d->ac->event_fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
		log_error("device=%s: cannot end the wait for its eventfd: %s",
			  d->ac->base.ch.dev->name, err_errno_name(-errno));
}

void aio_channel_close(struct channel *ch)
{
	struct aio_disarm d = { .ac = aio_of(ch) };

	task_call(ch->reactor, aio_disarm, &d);
	if (d.is_waiting)
		task_event_wait(&d.closed);
	aio_teardown(d.ac);
}

static int aio_create(struct uri *uri, struct device **ret_dev, struct err *err)
{
	return file_create(&driver_aio, uri, ret_dev, err);
}

const struct driver driver_aio = {
	.name = "aio",
	.product = "AIO disk",
	.schemes = (const char *const[]){ "aio", NULL },
	.help = "aio:///PATH[?blk_size=N][&uuid=UUID][&rescan]",
	.channel_size = sizeof(struct aio_channel),
	.create = aio_create,
	.destroy = file_destroy,
	.channel_open = aio_channel_open,
	.channel_close = aio_channel_close,
	.submit = aio_submit,
	.rescan = file_rescan,
	.resized = file_resized,
};
