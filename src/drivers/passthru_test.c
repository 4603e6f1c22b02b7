/* SPDX-License-Identifier: Apache-2.0 */
/* passthru: parameters, properties, counting, and that it follows the device below. */
#include "device/fault.h"
#include "drivers/testing.h"

static unsigned events[DEVICE_EVENT_COUNT_];
static struct device_event last_event;

static void count_event(struct desc *desc, const struct device_event *event)
{
	(void)desc;
	events[event->type]++;
	last_event = *event;
}

/* Let the follower and everything it woke run to their end. */
static void settle(void)
{
	for (unsigned i = 0; i < 1000 && task_count() > 1; i++)
		task_yield();
	CHECK_EQ(task_count(), 1);
}

ENGINE_TEST(passthru_takes_the_documented_parameters)
{
	static const struct uri_case rows[] = {
		{ "passthru:///p?base=null%3A%2F%2F%2Fn%3Fsize_mb%3D1%26blk_size%3D4096", 0, NULL,
		  256, 4096 },
		{ "passthru:///p", -EINVAL, "base=", 0, 0 },
		{ "passthru:///p?base=", -EINVAL, "base", 0, 0 },
		{ "passthru:///p?base=nobody", -ENOENT, "nobody", 0, 0 },
		{ "passthru:///p?base=p", -ENOENT, "'p'", 0, 0 },
		{ "passthru:///p?base=what%3A%2F%2F%2Fx", -EINVAL, "what", 0, 0 },
		{ "passthru:///p?base=null%3A%2F%2F%2Fn", -EINVAL, "base: ", 0, 0 },
		{ "passthru:///p?base=x&uuid=1", -EINVAL, "uuid", 0, 0 },
		{ "passthru:///p?base=x&y=1", -EINVAL, "y", 0, 0 },
		{ "passthru:///?base=x", -EINVAL, "NAME", 0, 0 },
	};

	check_uris(rows, ARRAY_LEN(rows));
}

ENGINE_TEST(passthru_shows_the_properties_of_its_base)
{
	struct device *base, *dev, *twin;

	CHECK_EQ(device_create("malloc:///m?size_mb=2&blk_size=4096", &base, NULL), 0);
	CHECK_EQ(device_create("passthru:///p?base=m", &dev, NULL), 0);
	CHECK_EQ(dev->nblocks, base->nblocks);
	CHECK_EQ(dev->ops & base->ops, base->ops);
	CHECK(dev->is_thin && dev->unmap_reads_zero && !dev->is_read_only);
	CHECK_EQ(dev->stack_depth, base->stack_depth + 1);
	CHECK(!uuid_equal(&dev->uuid, &base->uuid));
	CHECK_EQ(device_create("passthru:///q?base=m", &twin, NULL), 0);
	CHECK(!uuid_equal(&dev->uuid, &twin->uuid));
	/* A base that was there before stays. */
	CHECK_EQ(device_destroy("passthru:///p?base=m", NULL), 0);
	CHECK_EQ(device_destroy("passthru:///q?base=m", NULL), 0);
	CHECK(device_lookup("m") == base && !base->is_removed);
	device_remove_all();
}

ENGINE_TEST(passthru_counts_what_comes_back)
{
	static const char *const bases[] = { "null:///b?size_mb=1", "malloc:///b?size_mb=1" };

	for (size_t i = 0; i < ARRAY_LEN(bases); i++) {
		struct device *base;
		struct opened o;
		uint8_t buf[512] = { 1 };

		TAP_ROW(bases[i]);
		CHECK_EQ(device_create(bases[i], &base, NULL), 0);
		if (!opened_open(&o, "passthru:///p?base=b", DESC_WRITE))
			return;
		CHECK_EQ(passthru_completions(o.dev), 0);
		for (unsigned n = 0; n < 10; n++)
			CHECK_EQ(do_io(&o, n % 2 ? IO_READ : IO_WRITE, n, 1, buf, 0), IO_OK);
		CHECK_EQ(passthru_completions(o.dev), 10);
		CHECK_EQ(do_io(&o, IO_READ, 2048, 1, buf, 0), IO_OUT_OF_RANGE);
		CHECK_EQ(passthru_completions(o.dev), 10); /* never went down */
		CHECK_EQ(passthru_completions(base), 0);
		opened_close(&o);
		CHECK_EQ(device_remove(base, NULL), 0);
	}
	TAP_ROW(NULL);
}

ENGINE_TEST(passthru_follows_resize_and_events)
{
	struct device *base, *dev, *same;
	struct desc_opts opts = { .event = count_event };
	struct device_event lost = { .type = DEVICE_FAILED,
				     .is_data_lost = true,
				     .why = "half of it is gone" };
	struct desc *desc;

	memset(events, 0, sizeof(events));
	CHECK_EQ(device_create("malloc:///m?size_mb=1", &base, NULL), 0);
	CHECK_EQ(device_create("passthru:///p?base=m", &dev, NULL), 0);
	CHECK_EQ(desc_open(dev, &opts, &desc, NULL), 0);
	CHECK_EQ(device_create("malloc:///m?size_mb=3&resize", &same, NULL), 0);
	CHECK(same == base);
	settle();
	CHECK_EQ(dev->nblocks, 3 * 2048);
	CHECK_EQ(events[DEVICE_RESIZED], 1);
	device_announce(base, DEVICE_MEDIA);
	CHECK_EQ(events[DEVICE_MEDIA], 1);
	device_announce_event(base, &lost);
	CHECK_EQ(events[DEVICE_FAILED], 1);
	CHECK(last_event.dev == dev && last_event.is_data_lost);
	CHECK_STR(last_event.why, "half of it is gone");
	CHECK_EQ(events[DEVICE_REMOVED], 0);
	desc_close(desc);
	device_remove_all();
}

static struct desc *to_close;

static void close_task(void *arg)
{
	(void)arg;
	desc_close(take(to_close));
}

static void close_on_removal(struct desc *desc, const struct device_event *event)
{
	if (event->type != DEVICE_REMOVED)
		return;
	to_close = desc;
	CHECK_EQ(task_spawn("close", close_task, NULL), 0);
}

ENGINE_TEST(passthru_goes_when_its_base_goes)
{
	struct desc_opts opts = { .event = close_on_removal };
	struct device *base, *mid, *top;
	struct desc *desc;

	CHECK_EQ(device_create("null:///n?size_mb=1", &base, NULL), 0);
	CHECK_EQ(device_create("passthru:///p?base=n", &mid, NULL), 0);
	CHECK_EQ(device_create("passthru:///q?base=p", &top, NULL), 0);
	CHECK_EQ(desc_open(top, &opts, &desc, NULL), 0);
	CHECK_EQ(device_remove(base, NULL), 0); /* returns once all three are gone */
	CHECK(device_next(NULL) == NULL);
	settle();
}

ENGINE_TEST(passthru_takes_its_own_base_along)
{
	static const char uri[] = "passthru:///p?base=null%3A%2F%2F%2Fn%3Fsize_mb%3D1";
	struct device *dev;

	CHECK_EQ(device_create(uri, &dev, NULL), 0);
	CHECK(device_lookup("n") != NULL);
	CHECK_EQ(device_destroy(uri, NULL), 0);
	CHECK(device_lookup("n") == NULL);
	/* The same when the base is taken away first. */
	CHECK_EQ(device_create(uri, &dev, NULL), 0);
	CHECK_EQ(device_destroy("null:///n?size_mb=1", NULL), 0);
	CHECK(device_next(NULL) == NULL);
	settle();
}

ENGINE_TEST(passthru_stacks_no_deeper_than_a_request_has_frames)
{
	char uri[64];
	struct device *dev;
	struct err err = {};
	int result = 0;
	unsigned n;

	CHECK_EQ(device_create("null:///d0?size_mb=1", &dev, NULL), 0);
	for (n = 1; n < 100 && result == 0; n++) {
		(void)snprintf(uri, sizeof(uri), "passthru:///d%u?base=d%u", n, n - 1);
		result = device_create(uri, &dev, &err);
	}
	CHECK(result < 0);
	CHECK_EQ(n - 1, IO_DEPTH_MAX);
	device_remove_all();
}

/* A request that goes in parts, through the layer and the device below, is one to a fault. */
ENGINE_TEST(passthru_parts_of_a_request_meet_no_fault)
{
	static uint8_t data[8 * 512];
	struct fault_info info = {};
	struct device *base;
	struct opened o;

	CHECK_EQ(device_create("malloc:///m?size_mb=1", &base, NULL), 0);
	base->max_io_nlb = 2;
	CHECK_EQ(fault_add("inject://p?op=write&stage=compl&method=status", NULL), 0);
	if (opened_open(&o, "passthru:///p?base=m", DESC_WRITE)) {
		CHECK(do_io(&o, IO_WRITE, 0, 8, data, 0) != IO_OK);
		CHECK(fault_list(0, &info));
		CHECK_EQ(info.hits, 1);
		opened_close(&o);
	}
	fault_remove_all();
	device_remove_all();
}

/* A loan passes through, counts in flight on both devices, and a drain of either takes it back. */
ENGINE_TEST(passthru_passes_loans_on)
{
	static uint8_t data[8 * 512], buf[8 * 512];
	struct io_loan loan = {};
	struct device *base;
	struct opened o;

	CHECK_EQ(device_create("malloc:///m?size_mb=1", &base, NULL), 0);
	memset(data, 0x77, sizeof(data));
	if (opened_open(&o, "passthru:///p?base=m", DESC_WRITE)) {
		struct channel *above = o.h->ch, *below = base->channel[0];

		CHECK_EQ(do_io(&o, IO_WRITE, 8, 8, data, 0), IO_OK);
		for (unsigned i = 0; i < 2; i++) {
			o.io.loan = &loan;
			CHECK_EQ(do_io(&o, IO_READ, 8, 8, buf, IO_BORROW), IO_OK);
			CHECK(io_is_lent(&o.io));
			CHECK_EQ(above->inflight[0] + above->inflight[1], 1);
			CHECK_EQ(below->inflight[0] + below->inflight[1], 1);
			device_quiesce(i == 0 ? base : o.dev);
			CHECK(!io_is_lent(&o.io));
			CHECK_EQ(above->inflight[0] + above->inflight[1], 0);
			CHECK_EQ(below->inflight[0] + below->inflight[1], 0);
			CHECK(memcmp(buf, data, sizeof(buf)) == 0);
			memset(buf, 0, sizeof(buf));
			device_resume(i == 0 ? base : o.dev);
		}
		opened_close(&o);
	}
	device_remove_all();
}

TAP_MAIN()
