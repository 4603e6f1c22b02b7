/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ashlar.c - the public library: the engine behind a dozen functions that promise to stay.
 *
 *	your thread     ashlar_open() ........ task on the primary: device, opening, handles
 *	                ashlar_pread() ------> message to a reactor: io_submit()
 *	                     sleeps                     |
 *	                     wakes  <------- semaphore -+- done()
 *	                ashlar_submit() -----> the same, but done() calls you, on the reactor
 *
 * Internal structs do not appear in the public header: a volume and a request are opaque, options
 * carry their size, so the engine can change beneath without a new soname.
 *
 * A request belongs to one reactor for life. From another thread it gets there as a message; from
 * a callback on that reactor it is submitted at once. The waiting forms use a request on the
 * caller's stack, and each thread keeps to one reactor, so that its requests share a cache.
 *
 * A device is made by the first volume that names its URI and destroyed with the last; devices of
 * others in the process are left alone. struct shared counts that.
 *
 * Closing waits for requests in flight. The count begins at one, the volume's own share; whoever
 * takes it to zero, the last request or the closer, is the only one to end the wait.
 *
 * Rejected: a file descriptor per volume (nothing here is a file), and an event loop to be driven
 * by the embedding program: the reactors have one.
 *
 * Thread: public functions any thread of the embedder; *_task functions in tasks; *_on_reactor and
 * done functions on the request's reactor. The list of volumes is the primary reactor's.
 */
#include <ashlar/ashlar.h>

#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>

#include "base/list.h"
#include "base/log.h"
#include "device/device.h"
#include "engine.h"
#include "reactor/mem.h"

/* A device that one or more volumes of this library opened. */
struct shared {
	struct list link;
	struct device *dev; /* borrowed from the registry */
	char *uri;          /* owned; what destroys it */
	unsigned refs;      /* volumes */
	unsigned writers;   /* of them */
	bool has_exclusive; /* the only writer asked to be that */
	bool is_ours;       /* made by us, so destroyed by us */
};

struct ashlar_volume {
	struct list link; /* in volumes */
	struct shared *shared;
	struct desc *desc; /* owned */
	struct handle *handle[REACTORS_MAX];
	atomic_uint inflight; /* requests, and one while it is open */
	struct task_event idle;
	struct msg idle_msg;
	unsigned flags; /* that were granted; 0: for reading */
};

struct ashlar_request {
	struct io io;
	struct msg msg;
	struct ashlar_volume *volume;
	unsigned reactor;
	ashlar_done_fn *done;
	void *arg;
};

static struct list devices = { &devices, &devices }, volumes = { &volumes, &volumes };
static atomic_uint next_reactor;
static atomic_bool is_running;
static struct task_mutex devices_lock; /* making and destroying devices suspends */

static void tell_why(char *why, size_t size, const struct err *err)
{
	if (why != NULL && size > 0)
		(void)snprintf(why, size, "%s", err->code != 0 ? err_text(err) : "");
}

static bool on_engine_thread(void)
{
	return reactor_self() != NULL;
}

/* ---- the engine ------------------------------------------------------------------------------ */

int ashlar_start(const struct ashlar_options *options, char *why, size_t why_size)
{
	struct engine_opts opts = {};
	struct ashlar_options known = {};
	struct err err = {};
	int rc;

	if (options != NULL) {
		/* an older caller's struct is shorter: the rest stays zero */
		memcpy(&known, options, MIN(options->size, sizeof(known)));
	}
	opts.reactor.core_mask = known.core_mask;
	opts.reactor.poll_always = known.poll_always != 0;
	if (!atomic_load(&is_running))
		task_mutex_init(&devices_lock);
	rc = engine_start(&opts, &err);
	if (rc == 0)
		atomic_store(&is_running, true);
	tell_why(why, why_size, &err);
	return rc;
}

static void volume_close(struct ashlar_volume *v) MAY_SUSPEND;

static int stop_task(void *arg, struct err *err)
{
	struct ashlar_volume *v;

	while ((v = list_first_entry(&volumes, struct ashlar_volume, link)) != NULL)
		volume_close(v);
	return 0;
}

void ashlar_stop(void)
{
	int rc;

	if (on_engine_thread() || !atomic_exchange(&is_running, false))
		return;
	rc = engine_call(stop_task, NULL, NULL);
	assert(rc == 0);
	engine_stop();
}

const char *ashlar_version(void)
{
	return ASHLAR_VERSION_TEXT;
}

const char *ashlar_strerror(int result)
{
	const char *text = strerrordesc_np(result < 0 ? -result : result);

	return text != NULL ? text : "unknown error";
}

/* ---- volumes --------------------------------------------------------------------------------- */

static struct shared *shared_find(const struct device *dev)
{
	struct shared *s;

	list_for_each (s, &devices, link) {
		if (s->dev == dev)
			return s;
	}
	return NULL;
}

static void destroy_device(const char *uri) MAY_SUSPEND;
static void destroy_device(const char *uri)
{
	struct err err = {};

	if (device_destroy(uri, &err) != 0)
		log_warn("device not destroyed uri=%s: %s, continuing", uri, err_text(&err));
}

static void shared_put(struct shared *s) MAY_SUSPEND;
static void shared_put(struct shared *s)
{
	if (--s->refs > 0)
		return;
	list_del(&s->link);
	if (s->is_ours)
		destroy_device(s->uri);
	free(s->uri);
	free(s);
}

static int shared_get(const char *uri, struct shared **ret, struct err *err) MAY_SUSPEND;
static int shared_get(const char *uri, struct shared **ret, struct err *err)
{
	struct device *dev = device_lookup(uri);
	bool is_ours = dev == NULL;
	struct shared *s;
	int rc = 0;

	if (is_ours)
		rc = device_create(uri, &dev, err);
	if (rc != 0)
		return rc;
	s = shared_find(dev);
	if (s != NULL) {
		s->refs++;
		*ret = s;
		return 0;
	}
	s = calloc(1, sizeof(*s));
	if (s != NULL)
		s->uri = strdup(uri);
	if (s == NULL || s->uri == NULL) {
		free(s);
		if (is_ours)
			destroy_device(uri);
		return err_set(err, -ENOMEM, "no memory for a volume");
	}
	s->dev = dev;
	s->refs = 1;
	s->is_ours = is_ours;
	list_add_tail(&devices, &s->link);
	*ret = s;
	return 0;
}

/* Writers of this library keep the rule among themselves, the claim keeps it towards others. */
static int volume_take_access(struct ashlar_volume *v, unsigned flags, struct err *err)
{
	struct shared *s = v->shared;

	if (flags & ASHLAR_EXCLUSIVE)
		flags |= ASHLAR_WRITE;
	if ((flags & ASHLAR_WRITE) != 0 && s->has_exclusive)
		return err_set(err, -EBUSY, "%s: is open with ASHLAR_EXCLUSIVE", s->dev->name);
	if ((flags & ASHLAR_EXCLUSIVE) != 0 && s->writers > 0)
		return err_set(err, -EBUSY, "%s: is open for writing elsewhere in this program",
			       s->dev->name);
	v->flags = flags;
	s->writers += (flags & ASHLAR_WRITE) != 0;
	s->has_exclusive |= (flags & ASHLAR_EXCLUSIVE) != 0;
	return 0;
}

static void volume_drop_access(struct ashlar_volume *v)
{
	v->shared->writers -= (v->flags & ASHLAR_WRITE) != 0;
	if (v->flags & ASHLAR_EXCLUSIVE)
		v->shared->has_exclusive = false;
}

static void volume_idle(struct msg *msg)
{
	task_event_fire(&container_of(msg, struct ashlar_volume, idle_msg)->idle);
}

/* A request has ended, or the volume gives up its own share. */
static void volume_put(struct ashlar_volume *v)
{
	if (atomic_fetch_sub(&v->inflight, 1) == 1)
		reactor_post(reactor_primary(), &v->idle_msg);
}

static void volume_close(struct ashlar_volume *v)
{
	list_del(&v->link);
	volume_put(v);
	task_event_wait(&v->idle);
	desc_close(v->desc);
	volume_drop_access(v);
	task_mutex_lock(&devices_lock);
	shared_put(v->shared);
	task_mutex_unlock(&devices_lock);
	free(v);
}

struct open_args {
	const char *uri;
	unsigned flags;
	struct ashlar_volume *volume;
};

static int volume_open_device(struct ashlar_volume *v, unsigned flags, struct err *err) MAY_SUSPEND;
static int volume_open_device(struct ashlar_volume *v, unsigned flags, struct err *err)
{
	struct desc_opts opts = { .claim = "libashlar" };
	int rc = volume_take_access(v, flags, err);

	if (rc != 0)
		return rc;
	if (v->flags & ASHLAR_WRITE)
		opts.flags |= DESC_WRITE;
	if (v->flags & ASHLAR_EXCLUSIVE)
		opts.flags |= DESC_CLAIM;
	rc = desc_open(v->shared->dev, &opts, &v->desc, err);
	for (unsigned i = 0; i < reactor_count() && rc == 0; i++)
		rc = handle_open(v->desc, reactor_get(i), &v->handle[i], err);
	return rc;
}

static int open_task(void *arg, struct err *err)
{
	struct open_args *args = arg;
	struct ashlar_volume *v = calloc(1, sizeof(*v));
	int rc;

	if (v == NULL)
		return err_set(err, -ENOMEM, "no memory for a volume");
	list_init(&v->link);
	atomic_init(&v->inflight, 1);
	v->idle_msg.fn = volume_idle;
	task_mutex_lock(&devices_lock);
	rc = shared_get(args->uri, &v->shared, err);
	task_mutex_unlock(&devices_lock);
	if (rc != 0) {
		free(v);
		return rc;
	}
	rc = volume_open_device(v, args->flags, err);
	if (rc != 0) {
		volume_close(v);
		return rc;
	}
	list_add_tail(&volumes, &v->link);
	args->volume = v;
	return 0;
}

int ashlar_open(const char *uri, unsigned flags, struct ashlar_volume **volume, char *why,
		size_t why_size)
{
	struct open_args args = { .uri = uri, .flags = flags };
	struct err err = {};
	int rc;

	if (on_engine_thread())
		return -EDEADLK;
	if (!atomic_load(&is_running))
		rc = err_set(&err, -ENXIO, "the engine does not run: call ashlar_start()");
	else if ((flags & ~(unsigned)(ASHLAR_WRITE | ASHLAR_EXCLUSIVE)) != 0)
		rc = err_set(&err, -EINVAL, "unknown flags 0x%x", flags);
	else
		rc = engine_call(open_task, &args, &err);
	if (rc == 0)
		*volume = args.volume;
	tell_why(why, why_size, &err);
	return rc;
}

static int close_task(void *arg, struct err *err)
{
	volume_close(arg);
	return 0;
}

void ashlar_close(struct ashlar_volume *volume)
{
	int rc;

	if (volume == NULL || on_engine_thread())
		return;
	rc = engine_call(close_task, volume, NULL);
	assert(rc == 0);
}

uint64_t ashlar_size(const struct ashlar_volume *volume)
{
	return device_size(volume->shared->dev);
}

uint32_t ashlar_block_size(const struct ashlar_volume *volume)
{
	return volume->shared->dev->block_size;
}

const char *ashlar_name(const struct ashlar_volume *volume)
{
	return volume->shared->dev->name;
}

/* ---- memory ---------------------------------------------------------------------------------- */

void *ashlar_buf_alloc(size_t size)
{
	return size > 0 ? dma_alloc(size) : NULL;
}

void ashlar_buf_free(void *buf, size_t size)
{
	if (buf != NULL)
		dma_free(buf, size);
}

/* ---- requests -------------------------------------------------------------------------------- */

static void request_done(struct io *io)
{
	struct ashlar_request *req = container_of(io, struct ashlar_request, io);
	struct ashlar_volume *v = req->volume;

	/* done() may free the request, or submit it again: the volume's share is taken before. */
	req->done(req, io_status_to_errno(io->status), req->arg);
	volume_put(v);
}

static void request_on_reactor(struct msg *msg)
{
	struct ashlar_request *req = container_of(msg, struct ashlar_request, msg);

	io_submit(req->volume->handle[req->reactor], &req->io);
}

static void request_init(struct ashlar_request *req, struct ashlar_volume *v, unsigned reactor)
{
	req->volume = v;
	req->reactor = reactor % reactor_count();
	req->msg.fn = request_on_reactor;
	req->io.done = request_done;
}

/* The block count and position of @io in the engine's words. */
static int request_set(struct ashlar_request *req, const struct ashlar_io *io)
{
	static const uint8_t ops[] = {
		[ASHLAR_OP_READ] = IO_READ,
		[ASHLAR_OP_WRITE] = IO_WRITE,
		[ASHLAR_OP_FLUSH] = IO_FLUSH,
		[ASHLAR_OP_UNMAP] = IO_UNMAP,
		[ASHLAR_OP_WRITE_ZEROES] = IO_WRITE_ZEROES,
	};
	unsigned shift = req->volume->shared->dev->block_shift;
	uint64_t mask = (UINT64_C(1) << shift) - 1;
	bool has_data = io->op == ASHLAR_OP_READ || io->op == ASHLAR_OP_WRITE;

	if ((unsigned)io->op >= ARRAY_LEN(ops) || (io->flags & ~(unsigned)ASHLAR_FUA) != 0)
		return -EINVAL;
	req->io.op = ops[io->op];
	req->io.flags = io->flags & ASHLAR_FUA ? IO_FUA : 0;
	req->io.iov = NULL;
	req->io.iovcnt = 0;
	req->io.lba = 0;
	req->io.nlb = 0;
	if (io->op == ASHLAR_OP_FLUSH)
		return 0;
	if (((io->offset | io->len) & mask) != 0 || io->len >> shift > UINT32_MAX || io->len == 0 ||
	    (has_data && io->buf == NULL))
		return -EINVAL;
	req->io.lba = io->offset >> shift;
	req->io.nlb = (uint32_t)(io->len >> shift);
	if (has_data)
		io_set_buf(&req->io, io->buf, io->len);
	return 0;
}

struct ashlar_request *ashlar_request_alloc(struct ashlar_volume *volume)
{
	struct ashlar_request *req = calloc(1, sizeof(*req));

	if (req != NULL)
		request_init(req, volume, atomic_fetch_add(&next_reactor, 1));
	return req;
}

void ashlar_request_free(struct ashlar_request *request)
{
	free(request);
}

static void request_begin(struct ashlar_request *req)
{
	struct reactor *r = reactor_get(req->reactor);

	atomic_fetch_add(&req->volume->inflight, 1);
	if (reactor_self() == r)
		io_submit(req->volume->handle[req->reactor], &req->io);
	else
		reactor_post(r, &req->msg);
}

int ashlar_submit(struct ashlar_request *request, const struct ashlar_io *io)
{
	int rc = io->done != NULL ? request_set(request, io) : -EINVAL;

	if (rc != 0)
		return rc;
	request->done = io->done;
	request->arg = io->arg;
	request_begin(request);
	return 0;
}

/* ---- waiting forms --------------------------------------------------------------------------- */

struct waiting {
	sem_t done;
	int result;
};

/*
 * The request lies on the stack of the thread that waits, so nothing may touch it once the
 * semaphore is posted: the volume's share is given back first.
 */
static void waiting_done(struct io *io)
{
	struct ashlar_request *req = container_of(io, struct ashlar_request, io);
	struct waiting *w = req->arg;

	w->result = io_status_to_errno(io->status);
	volume_put(req->volume);
	(void)sem_post(&w->done); /* fails only beyond two billion posts */
}

static unsigned reactor_of_thread(void)
{
	static _Thread_local unsigned mine = UINT32_MAX;

	if (mine == UINT32_MAX)
		mine = atomic_fetch_add(&next_reactor, 1) & INT32_MAX;
	return mine;
}

static int wait_for(struct ashlar_volume *volume, const struct ashlar_io *io)
{
	struct ashlar_request req = {};
	struct waiting w = {};
	int rc;

	if (on_engine_thread())
		return -EDEADLK;
	request_init(&req, volume, reactor_of_thread());
	req.io.done = waiting_done;
	req.arg = &w;
	rc = request_set(&req, io);
	if (rc != 0)
		return rc;
	if (sem_init(&w.done, 0, 0) != 0)
		return -errno;
	request_begin(&req);
	while (sem_wait(&w.done) != 0)
		; /* a signal handler ran */
	(void)sem_destroy(&w.done);
	return w.result;
}

int ashlar_pread(struct ashlar_volume *volume, void *buf, size_t len, uint64_t offset)
{
	struct ashlar_io io = { .op = ASHLAR_OP_READ, .offset = offset, .len = len, .buf = buf };

	return wait_for(volume, &io);
}

int ashlar_pwrite(struct ashlar_volume *volume, const void *buf, size_t len, uint64_t offset,
		  unsigned flags)
{
	struct ashlar_io io = {
		.op = ASHLAR_OP_WRITE,
		.flags = flags,
		.offset = offset,
		.len = len,
		.buf = (void *)(uintptr_t)buf, /* a write only reads it */
	};

	return wait_for(volume, &io);
}

int ashlar_flush(struct ashlar_volume *volume)
{
	struct ashlar_io io = { .op = ASHLAR_OP_FLUSH };

	return wait_for(volume, &io);
}

int ashlar_unmap(struct ashlar_volume *volume, uint64_t offset, uint64_t len)
{
	struct ashlar_io io = { .op = ASHLAR_OP_UNMAP, .offset = offset, .len = len };

	return wait_for(volume, &io);
}

int ashlar_write_zeroes(struct ashlar_volume *volume, uint64_t offset, uint64_t len, unsigned flags)
{
	struct ashlar_io io = {
		.op = ASHLAR_OP_WRITE_ZEROES, .flags = flags, .offset = offset, .len = len
	};

	return wait_for(volume, &io);
}
