/* SPDX-License-Identifier: Apache-2.0 */
/* The three layers, the gate, the quiesce primitive, over a driver whose answers a test holds. */
#include "base/tap.h"

#include <errno.h>

#include "device/driver.h"
#include "engine.h"
#include "schemes.h"

/* ---- a driver that ends requests inside submit, later, or when told ------------------------- */

enum answer { ANSWER_INLINE, ANSWER_LATER, ANSWER_WHEN_TOLD };

static enum answer answer;
static uint16_t answer_status;

struct probe_channel {
	struct channel ch;
	struct msg_list told;
	unsigned submitted;
};

static struct probe_channel *probe_of(struct channel *ch)
{
	return container_of(ch, struct probe_channel, ch);
}

static void probe_later(struct msg *msg)
{
	io_complete(container_of(msg, struct io, msg), answer_status);
}

static enum io_result probe_submit(struct channel *ch, struct io *io)
{
	probe_of(ch)->submitted++;
	switch (answer) {
	case ANSWER_INLINE:
		io->status = answer_status;
		return IO_DONE;
	case ANSWER_LATER:
		io->msg.fn = probe_later;
		reactor_at_flush(ch->reactor, &io->msg);
		return IO_PENDING;
	case ANSWER_WHEN_TOLD:
		msg_list_push(&probe_of(ch)->told, &io->msg);
		return IO_PENDING;
	}
	return IO_DONE;
}

static void probe_answer_all(struct channel *ch)
{
	struct msg *msg;

	while ((msg = msg_list_pop(&probe_of(ch)->told)) != NULL)
		io_complete(container_of(msg, struct io, msg), IO_OK);
}

static int probe_create(struct uri *uri, struct device **ret_dev, struct err *err);

static void probe_destroy(struct device *dev)
{
	free(dev);
}

static const char *const probe_schemes[] = { "probe", NULL };
static const struct driver probe_driver = {
	.name = "probe",
	.product = "test device",
	.schemes = probe_schemes,
	.channel_size = sizeof(struct probe_channel),
	.create = probe_create,
	.destroy = probe_destroy,
	.submit = probe_submit,
};

static int probe_create(struct uri *uri, struct device **ret_dev, struct err *err)
{
	struct device *dev = calloc(1, sizeof(*dev));
	int result;

	assert(dev != NULL);
	dev->driver = &probe_driver;
	(void)snprintf(dev->name, sizeof(dev->name), "%s", uri_name(uri));
	dev->nblocks = 1000;
	dev->block_size = 512;
	dev->ops = IO_BIT(IO_READ) | IO_BIT(IO_WRITE) | IO_BIT(IO_FLUSH);
	dev->max_io_nlb = uri_has(uri, "limited") ? 8 : 0;
	result = device_register(dev, err);
	if (result < 0) {
		free(dev);
		return result;
	}
	*ret_dev = dev;
	return 0;
}

static const struct driver *const probe_table[] = { &probe_driver, NULL };

/* ---- harness: run a test's body as a task of a fresh engine --------------------------------- */

static struct device *dev;
static struct desc *desc;
static struct handle *h;
static char data[4096];

static int run_body(void *arg, struct err *err)
{
	void (*body)(void);

	memcpy(&body, &arg, sizeof(body));
	drivers_set(probe_table);
	answer = ANSWER_INLINE;
	answer_status = IO_OK;
	if (!CHECK_EQ(device_create("probe:///p0", &dev, err), 0))
		return 0;
	CHECK_EQ(desc_open(dev, &(struct desc_opts){ .flags = DESC_WRITE }, &desc, err), 0);
	CHECK_EQ(handle_open(desc, reactor_primary(), &h, err), 0);
	body();
	desc_close(desc);
	return 0;
}

static void run(void (*body)(void))
{
	struct engine_opts opts = { .reactor.core_mask = 0x3 };
	struct err err = {};
	void *arg;

	memcpy(&arg, &body, sizeof(arg));
	CHECK_EQ(engine_run(&opts, run_body, arg, &err), 0);
}

static int ndone;

static void count_done(struct io *io)
{
	(void)io;
	ndone++;
}

static void io_prepare(struct io *io, enum io_op op, uint64_t lba, uint32_t nlb)
{
	*io = (struct io){ .op = (uint8_t)op, .lba = lba, .nlb = nlb, .done = count_done };
	io_set_buf(io, data, (size_t)nlb * 512);
}

/* ---- tests ---------------------------------------------------------------------------------- */

static void inline_body(void)
{
	struct io io;
	struct io_stats *stats = malloc(sizeof(*stats));

	assert(stats != NULL);
	io_prepare(&io, IO_READ, 10, 4);
	CHECK_EQ(io_start(h, &io), IO_DONE);
	CHECK_EQ(io.status, IO_OK);
	CHECK_EQ(io.lba, 10);
	device_stats(dev, stats);
	CHECK_EQ(stats->op[IO_READ].ops, 1);
	CHECK_EQ(stats->op[IO_READ].bytes, 2048);
	CHECK_EQ(stats->op[IO_READ].latency.count, STATS_SAMPLE);
	CHECK_EQ(device_stats_reset(dev), 0);
	device_stats(dev, stats);
	CHECK_EQ(stats->op[IO_READ].ops, 0);
	free(stats);
	ndone = 0;
	io_submit(h, &io);
	CHECK_EQ(ndone, 0);
	task_yield();
	task_yield();
	CHECK_EQ(ndone, 1);
}

TEST(device_answers_inline)
{
	run(inline_body);
}

static void refuse_body(void)
{
	struct {
		const char *name;
		enum io_op op;
		uint64_t lba;
		uint32_t nlb;
		uint16_t status;
	} rows[] = {
		{ "last block", IO_READ, 999, 1, IO_OK },
		{ "one beyond", IO_READ, 1000, 1, IO_OUT_OF_RANGE },
		{ "across the end", IO_WRITE, 999, 2, IO_OUT_OF_RANGE },
		{ "overflow", IO_READ, UINT64_MAX, 2, IO_OUT_OF_RANGE },
		{ "nothing at the end", IO_READ, 1000, 0, IO_OK },
		{ "no such operation", IO_NVME_ADMIN, 0, 0, IO_UNSUPPORTED },
	};
	struct desc *reader;
	struct handle *rh;
	struct io io;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		TAP_ROW(rows[i].name);
		io_prepare(&io, rows[i].op, rows[i].lba, rows[i].nlb);
		CHECK_EQ(io_wait(h, &io), rows[i].status);
		CHECK_EQ(io.depth, 0);
	}
	TAP_ROW(NULL);
	CHECK_EQ(desc_open(dev, &(struct desc_opts){}, &reader, NULL), 0);
	CHECK_EQ(handle_open(reader, reactor_primary(), &rh, NULL), 0);
	io_prepare(&io, IO_WRITE, 0, 1);
	CHECK_EQ(io_wait(rh, &io), IO_READ_ONLY);
	io_prepare(&io, IO_READ, 0, 1);
	CHECK_EQ(io_wait(rh, &io), IO_OK);
	desc_close(reader);
}

TEST(device_refuses_what_is_wrong)
{
	run(refuse_body);
}

static void limited_body(void)
{
	struct device *other;
	struct desc *d;
	struct handle *lh;
	struct io io;

	CHECK_EQ(device_create("probe:///small?limited", &other, NULL), 0);
	CHECK_EQ(desc_open(other, &(struct desc_opts){ .flags = DESC_WRITE }, &d, NULL), 0);
	CHECK_EQ(handle_open(d, reactor_primary(), &lh, NULL), 0);
	io_prepare(&io, IO_READ, 0, 8);
	CHECK_EQ(io_wait(lh, &io), IO_OK);
	CHECK_EQ(probe_of(lh->ch)->submitted, 1);
	io_prepare(&io, IO_READ, 0, 8); /* data[] holds no more: two halves of it, twice */
	io.nlb = 16;
	io.iov = (struct iovec[]){ { data, 4096 }, { data, 4096 } };
	io.iovcnt = 2;
	CHECK_EQ(io_wait(lh, &io), IO_OK);
	CHECK_EQ(probe_of(lh->ch)->submitted, 3);
	io_prepare(&io, IO_FLUSH, 0, 0);
	CHECK_EQ(io_wait(lh, &io), IO_OK);
	desc_close(d);
}

TEST(device_gets_what_is_too_large_in_parts)
{
	run(limited_body);
}

static void later_body(void)
{
	struct io io[8];

	answer = ANSWER_LATER;
	ndone = 0;
	for (unsigned i = 0; i < 8; i++) {
		io_prepare(&io[i], IO_WRITE, i, 1);
		io_submit(h, &io[i]);
	}
	CHECK_EQ(h->ch->inflight[h->ch->epoch], 8);
	while (ndone < 8)
		task_yield();
	CHECK_EQ(h->ch->inflight[0] + h->ch->inflight[1], 0);
	answer_status = IO_WRITE_ERROR;
	io_prepare(&io[0], IO_WRITE, 0, 1);
	CHECK_EQ(io_wait(h, &io[0]), IO_WRITE_ERROR);
	CHECK_EQ(h->ch->stats->op[IO_WRITE].errors, 1);
	CHECK_EQ(h->ch->count[IO_WRITE].ops, 8);
}

TEST(device_answers_later)
{
	run(later_body);
}

static bool is_quiesced;

static void quiesce_task(void *arg)
{
	(void)arg;
	device_quiesce(dev);
	is_quiesced = true;
}

static void quiesce_body(void)
{
	struct io first, second;
	unsigned before;

	answer = ANSWER_WHEN_TOLD;
	is_quiesced = false;
	ndone = 0;
	io_prepare(&first, IO_WRITE, 0, 1);
	io_submit(h, &first);
	CHECK_EQ(task_spawn("quiesce", quiesce_task, NULL), 0);
	for (int i = 0; i < 10; i++)
		task_yield();
	CHECK(!is_quiesced);
	before = probe_of(h->ch)->submitted;
	io_prepare(&second, IO_WRITE, 0, 1);
	io_submit(h, &second);
	CHECK_EQ(probe_of(h->ch)->submitted, before); /* held at the gate */
	probe_answer_all(h->ch);
	while (!is_quiesced)
		task_yield();
	CHECK_EQ(ndone, 1);
	CHECK_EQ(probe_of(h->ch)->submitted, before);
	device_resume(dev);
	CHECK_EQ(probe_of(h->ch)->submitted, before + 1);
	probe_answer_all(h->ch);
	while (ndone < 2)
		task_yield();
	CHECK_EQ(second.status, IO_OK);
}

TEST(device_quiesce_waits_and_holds)
{
	run(quiesce_body);
}

static void lock_body(void)
{
	struct range_lock lock;
	struct io inside, outside, holder;
	struct err err = {};

	answer = ANSWER_LATER;
	CHECK_EQ(range_lock(dev, &lock, 100, 50, &err), 0);
	ndone = 0;
	io_prepare(&inside, IO_WRITE, 149, 1);
	io_prepare(&outside, IO_WRITE, 150, 1);
	io_prepare(&holder, IO_WRITE, 100, 1);
	holder.flags = IO_LOCK_HOLDER;
	io_submit(h, &inside);
	io_submit(h, &outside);
	io_submit(h, &holder);
	while (ndone < 2)
		task_yield();
	for (int i = 0; i < 10; i++)
		task_yield();
	CHECK_EQ(ndone, 2);
	range_unlock(dev, &lock);
	while (ndone < 3)
		task_yield();
	CHECK_EQ(inside.status, IO_OK);
	CHECK_EQ(h->ch->gate, 0);
	CHECK_EQ(range_lock(dev, &lock, 999, 2, &err), -EINVAL);
}

TEST(device_range_lock_holds_overlap)
{
	run(lock_body);
}

static int nlocked;

static void second_locker(void *arg)
{
	struct range_lock lock;

	CHECK_EQ(range_lock(dev, &lock, 10, 10, NULL), 0);
	nlocked++;
	range_unlock(dev, &lock);
	(void)arg;
}

static void lock_queue_body(void)
{
	struct range_lock lock;

	nlocked = 0;
	CHECK_EQ(range_lock(dev, &lock, 0, 20, NULL), 0);
	CHECK_EQ(task_spawn("locker", second_locker, NULL), 0);
	for (int i = 0; i < 20; i++)
		task_yield();
	CHECK_EQ(nlocked, 0);
	range_unlock(dev, &lock);
	while (nlocked == 0)
		task_yield();
}

TEST(device_range_lock_queues_lockers)
{
	run(lock_queue_body);
}

static int nevents;
static uint64_t old_nblocks;

static void on_event(struct desc *d, const struct device_event *event)
{
	(void)d;
	nevents++;
	old_nblocks = event->old_nblocks;
}

static void resize_body(void)
{
	struct io io;
	struct err err = {};

	nevents = 0;
	desc->event = on_event;
	io_prepare(&io, IO_READ, 1000, 1);
	CHECK_EQ(io_wait(h, &io), IO_OUT_OF_RANGE);
	CHECK_EQ(device_resize(dev, 2000, &err), 0);
	CHECK_EQ(nevents, 1);
	CHECK_EQ(old_nblocks, 1000);
	io_prepare(&io, IO_READ, 1000, 1);
	CHECK_EQ(io_wait(h, &io), IO_OK);
	CHECK_EQ(device_resize(dev, 2000, &err), 0);
	CHECK_EQ(nevents, 1);
}

TEST(device_resize_is_seen)
{
	run(resize_body);
}

static struct desc *closer_desc;

static void closer_task(void *arg)
{
	desc_close(arg);
}

static void close_on_remove(struct desc *d, const struct device_event *event)
{
	nevents += event->type == DEVICE_REMOVED;
	CHECK_EQ(task_spawn("close", closer_task, d), 0);
}

static void remove_body(void)
{
	struct device *other;
	struct handle *oh;
	struct io io;
	struct err err = {};

	nevents = 0;
	CHECK_EQ(device_create("probe:///p1", &other, &err), 0);
	CHECK_EQ(desc_open(other,
			   &(struct desc_opts){ .flags = DESC_WRITE, .event = close_on_remove },
			   &closer_desc, &err),
		 0);
	CHECK_EQ(handle_open(closer_desc, reactor_get(1), &oh, &err), 0);
	CHECK_EQ(handle_open(closer_desc, reactor_primary(), &oh, &err), 0);
	answer = ANSWER_WHEN_TOLD;
	io_prepare(&io, IO_WRITE, 0, 1);
	ndone = 0;
	io_submit(oh, &io);
	probe_answer_all(oh->ch);
	while (ndone < 1)
		task_yield();
	CHECK_EQ(device_destroy("probe:///p1?other=text", &err), 0);
	CHECK_EQ(nevents, 1);
	CHECK(device_lookup("p1") == NULL);
	CHECK_EQ(device_destroy("probe:///p1", &err), -ENOENT);
}

TEST(device_remove_waits_for_openers)
{
	run(remove_body);
}

static bool is_resized;

static void resizer(void *arg)
{
	CHECK_EQ(device_resize(arg, 2000, NULL), 0);
	is_resized = true;
}

static bool was_destroyed_early;

static void probe_destroy_late(struct device *d)
{
	was_destroyed_early = !is_resized;
	probe_destroy(d);
}

static void remove_in_resize_body(void)
{
	static struct driver late;
	struct device *other;
	struct err err = {};

	is_resized = was_destroyed_early = false;
	CHECK_EQ(device_create("probe:///p2", &other, &err), 0);
	late = probe_driver;
	late.destroy = probe_destroy_late;
	other->driver = &late;
	task_mutex_lock(&other->drain); /* the resize has to wait, with nobody having it open */
	CHECK_EQ(task_spawn("resize", resizer, other), 0);
	task_yield();
	task_yield();
	task_mutex_unlock(&other->drain);
	CHECK_EQ(device_remove(other, &err), 0);
	CHECK(is_resized);
	CHECK(!was_destroyed_early);
}

TEST(device_remove_waits_for_a_resize)
{
	run(remove_in_resize_body);
}

static void claim_body(void)
{
	struct desc_opts opts = { .flags = DESC_WRITE | DESC_CLAIM, .claim = "test" };
	struct desc *a, *b;
	struct err err = {};

	CHECK_EQ(desc_open(dev, &opts, &a, &err), 0);
	CHECK_STR(dev->claim, "test");
	CHECK_EQ(desc_open(dev, &opts, &b, &err), -EBUSY);
	CHECK_HAS(err.msg, "claimed by test");
	desc_close(a);
	CHECK(dev->claim == NULL);
	CHECK_EQ(desc_open(dev, &opts, &a, NULL), 0);
	desc_close(a);
}

TEST(device_claim_is_exclusive)
{
	run(claim_body);
}

static void names_body(void)
{
	struct device *other;
	struct err err = {};

	CHECK_EQ(device_create("probe:///p0", &other, &err), -EEXIST);
	err_clear(&err);
	CHECK_EQ(device_create("nosuch:///x", &other, &err), -EINVAL);
	CHECK_HAS(err.msg, "probe");
	CHECK(device_lookup("probe:///p0") == dev);
	CHECK(device_lookup("p0") == dev);
	CHECK_STR(device_uri(dev), "probe:///p0");
}

TEST(device_names_and_aliases)
{
	run(names_body);
}

struct other_core {
	struct io io;
	struct handle *h;
	struct msg go, back;
	struct task_event event;
};

static void other_back(struct msg *msg)
{
	task_event_fire(&container_of(msg, struct other_core, back)->event);
}

static void other_done(struct io *io)
{
	struct other_core *o = container_of(io, struct other_core, io);

	CHECK_EQ(reactor_self()->id, 1);
	o->back.fn = other_back;
	reactor_post(reactor_primary(), &o->back);
}

static void other_go(struct msg *msg)
{
	struct other_core *o = container_of(msg, struct other_core, go);

	io_submit(o->h, &o->io);
}

static void other_core_body(void)
{
	struct other_core o = { .go.fn = other_go };

	answer = ANSWER_LATER;
	CHECK_EQ(handle_open(desc, reactor_get(1), &o.h, NULL), 0);
	for (int i = 0; i < 100; i++) {
		o.event = (struct task_event){};
		io_prepare(&o.io, IO_WRITE, 0, 1);
		o.io.done = other_done;
		reactor_post(reactor_get(1), &o.go);
		if (i % 10 == 5) {
			device_quiesce(dev);
			device_resume(dev);
		}
		task_event_wait(&o.event);
		CHECK_EQ(o.io.status, IO_OK);
	}
}

TEST(device_works_on_another_reactor)
{
	run(other_core_body);
}

TAP_MAIN()
