/* SPDX-License-Identifier: Apache-2.0 */
/* What a client does with children and rebuilds while something else happens. */
#include "base/units.h"
#include "nexus/rebuild.h"
#include "nexus/rebuild_testing.h"

/* ---- is it the disk that left? -------------------------------------------------------------- */

/* The disk is taken out, and an empty one of the same name and uuid put in its place. */
static void replace(unsigned i)
{
	struct device *dev;

	CHECK_EQ(device_destroy(bases[i], NULL), 0);
	CHECK_EQ(device_create(bases[i], &dev, NULL), 0);
}

ENGINE_TEST(another_disk_in_its_place_gets_everything)
{
	if (!all_make(2))
		return;
	put_all();
	offline(1);
	replace(1);
	touch(3, 1, 1);
	online(1);
	nexus_rebuild_wait(nx);
	CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
	CHECK(!last()->stats.is_partial);
	CHECK(are_equal(0, 1));
	all_unmake();
}

/* The same between two lives of the nexus, however the first one ended. */
ENGINE_TEST(another_disk_after_the_end_gets_everything)
{
	static const struct {
		const char *how;
		bool is_clean, is_stale;
	} rows[] = { { "after a clean end", true, false },
		     { "after a clean end without it", true, true },
		     { "after a crash", false, false },
		     { "after a crash without it", false, true } };

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		TAP_ROW(rows[i].how);
		if (!all_make(2))
			return;
		put_all();
		if (rows[i].is_stale)
			offline(1);
		touch(3, 1, 1);
		if (rows[i].is_clean)
			nexus_unmake();
		else
			crash();
		replace(1);
		if (!nexus_make(2))
			return;
		CHECK(!child(1).is_synced);
		nexus_rebuild_wait(nx);
		CHECK_EQ(last()->stats.state, REBUILD_COMPLETED);
		CHECK(!last()->stats.is_partial);
		CHECK(are_equal(0, 1));
		all_unmake();
	}
	TAP_ROW(NULL);
}

/* A disk that does not do is let go of again, so that another one can take its place. */
ENGINE_TEST(a_disk_that_does_not_do_is_not_kept_open)
{
	struct nexus_err ne = {};
	struct device *dev;

	if (!all_make(2))
		return;
	put_all();
	offline(1);
	CHECK_EQ(device_destroy(bases[1], NULL), 0);
	CHECK_EQ(device_create("malloc:///m1?size_mb=8&uuid=" UUID("1"), &dev, NULL), 0);
	CHECK(nexus_child_online(nx, uris[1], &ne) < 0);
	CHECK_EQ(ne.why, NEXUS_E_CHILD_GEOMETRY);
	CHECK(nx->child[nx->order[1]]->desc == NULL);
	CHECK_EQ(device_destroy(device_uri(dev), NULL), 0);
	CHECK_EQ(device_create("malloc:///m1?size_mb=32&blk_size=4096&uuid=" UUID("1"), &dev, NULL),
		 0);
	CHECK(nexus_child_online(nx, uris[1], &ne) < 0);
	CHECK_HAS(err_text(&ne.err), "has blocks of 4096 bytes");
	CHECK_EQ(device_destroy(device_uri(dev), NULL), 0);
	/* room enough, but less than those that are healthy have */
	CHECK_EQ(device_create("malloc:///m1?size_mb=31&uuid=" UUID("1"), &dev, NULL), 0);
	CHECK(nexus_child_online(nx, uris[1], &ne) < 0);
	CHECK_HAS(err_text(&ne.err), "the smallest healthy one");
	CHECK_EQ(device_destroy(device_uri(dev), NULL), 0);
	CHECK_EQ(device_create(bases[1], &dev, NULL), 0);
	online(1);
	nexus_rebuild_wait(nx);
	CHECK(are_equal(0, 1));
	all_unmake();
}

/* One disk under two names is no mirror, and two of one uuid are one to the record. */
ENGINE_TEST(a_replica_is_taken_once)
{
	static const char *const twice[][2] = {
		{ "bdev:///m0", "bdev:///m0?uuid=" UUID("0") },
		{ "malloc:///a?size_mb=32&uuid=" UUID("7"),
		  "malloc:///b?size_mb=32&uuid=" UUID("7") },
		{ "malloc:///a?size_mb=32", "bdev:///a" },
	};

	if (!all_make(1))
		return;
	for (size_t i = 0; i < ARRAY_LEN(twice); i++) {
		struct nexus_opts opts = {
			.name = "n1", .size = 16 << 20, .children = twice[i], .nchildren = 2
		};
		struct nexus_err ne = {};
		struct nexus *made;

		CHECK(nexus_create(&opts, &made, &ne) < 0);
		CHECK_EQ(ne.why, NEXUS_E_CHILD_EXISTS);
		CHECK_HAS(err_text(&ne.err), "the same replica as");
		CHECK(device_lookup("a") == NULL && device_lookup("b") == NULL);
	}
	for (size_t i = 0; i < 2; i++) {
		static const char *const more[] = { "bdev:///m0",
						    "malloc:///a?size_mb=32&uuid=" UUID("0") };
		struct nexus_err ne = {};

		CHECK(nexus_child_add(nx, more[i], true, &ne) < 0);
		CHECK_EQ(ne.why, NEXUS_E_CHILD_EXISTS);
		CHECK(device_lookup("m0") != NULL && device_lookup("a") == NULL);
	}
	all_unmake();
}

/* A device has as many names as were given to it; the child is there under one of them. */
ENGINE_TEST(another_name_of_its_device_may_go)
{
	struct device *dev;

	if (!all_make(2))
		return;
	CHECK_EQ(device_create("bdev:///m1", &dev, NULL), 0);
	CHECK_EQ(device_destroy("bdev:///m1", NULL), 0);
	settle_down();
	CHECK_EQ(child(1).health, CHILD_HEALTH_ONLINE);
	all_unmake();
}

/* ---- how large was it? ---------------------------------------------------------------------- */

ENGINE_TEST(what_has_grown_is_not_made_again_smaller)
{
	struct nexus_err ne = {};
	struct nexus_opts opts = { .name = "n0",
				   .size = 16 << 20,
				   .children = uris,
				   .nchildren = 2,
				   .info_key = "volume",
				   .is_size_kept = true };
	char text[RECORD_TEXT_MAX];
	struct nexus *made;

	if (!all_make(2))
		return;
	CHECK_EQ(nexus_resize(nx, 20 << 20, &ne), 0);
	CHECK_EQ(store->get(store, "volume", text, NULL), 0);
	CHECK_HAS(text, "\"size\": 20971520"); /* at once: the process may die */
	nexus_unmake();
	CHECK(nexus_create(&opts, &made, &ne) < 0);
	CHECK_EQ(ne.why, NEXUS_E_INVALID_ARGUMENTS);
	CHECK_HAS(err_text(&ne.err), "give size=20971520");
	ne = (struct nexus_err){};
	opts.size = 20 << 20;
	CHECK_EQ(nexus_create(&opts, &made, &ne), 0);
	CHECK_EQ(nexus_destroy(made, &ne), 0);
	opts.size = 16 << 20;
	opts.is_size_kept = false; /* who asks knows */
	CHECK_EQ(nexus_create(&opts, &made, &ne), 0);
	CHECK_EQ(nexus_destroy(made, &ne), 0);
	opts.size = 21 << 20; /* replicas may have grown meanwhile */
	CHECK_EQ(nexus_create(&opts, &made, &ne), 0);
	CHECK_EQ(nexus_destroy(made, &ne), 0);
	device_remove_all();
	nexus_settings_set(&(struct nexus_settings){});
	store_free(store);
}

/* What a resize accepts the next start accepts, and what it refuses changes nothing. */
ENGINE_TEST(it_grows_to_what_it_can_be_made_with_again)
{
	static const struct {
		enum nexus_label label;
		bool is_exact;
		uint64_t min, max;
	} rows[] = {
		{ NEXUS_LABEL_V1, false, (16 << 20) + 512, 32 << 20 },
		{ NEXUS_LABEL_V1, true, (16 << 20) + 512, (32 << 20) - (5 << 20) - 34 * 512 },
		{ NEXUS_LABEL_V2, false, (16 << 20) + 512, 32 << 20 },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct nexus_opts opts = { .name = "n0",
					   .size = 16 << 20,
					   .children = uris,
					   .nchildren = 2,
					   .info_key = "volume",
					   .label = rows[i].label,
					   .is_size_required = rows[i].is_exact,
					   .is_size_kept = true };
		char before[RECORD_TEXT_MAX], after[RECORD_TEXT_MAX], range[64];
		struct nexus_err ne = {};
		struct device *dev;
		uint64_t nblocks;

		TAP_ROW(rows[i].is_exact ? "exact" : rows[i].label == NEXUS_LABEL_V1 ? "v1" : "v2");
		store = store_memory_new();
		nexus_settings_set(&(struct nexus_settings){ .store = store });
		for (unsigned j = 0; j < 2; j++)
			CHECK_EQ(device_create(bases[j], &dev, NULL), 0);
		if (!CHECK_EQ(nexus_create(&opts, &nx, &ne), 0))
			return;
		nblocks = nexus_device(nx)->nblocks;
		CHECK_EQ(store->get(store, "volume", before, NULL), 0);
		CHECK(nexus_resize(nx, rows[i].max + 512, &ne) < 0);
		CHECK_EQ(ne.why, NEXUS_E_CHILD_TOO_SMALL);
		CHECK_HAS(err_text(&ne.err), "m0");
		CHECK_HAS(err_text(&ne.err), "32 MiB");
		(void)snprintf(range, sizeof(range), "from %lu to %lu bytes", rows[i].min,
			       rows[i].max);
		CHECK_HAS(err_text(&ne.err), range);
		CHECK(nexus_resize(nx, rows[i].min - 512 - 1, &ne) < 0);
		CHECK_EQ(nexus_device(nx)->nblocks, nblocks);
		CHECK_EQ(store->get(store, "volume", after, NULL), 0);
		CHECK_STR(after, before);
		CHECK_EQ(nexus_resize(nx, rows[i].min, &ne), 0);
		CHECK_EQ(nexus_device(nx)->nblocks, nblocks + 1);
		CHECK_EQ(nexus_resize(nx, rows[i].max, &ne), 0);
		nblocks = nexus_device(nx)->nblocks;
		CHECK(nexus_resize(nx, rows[i].max + 512, &ne) < 0);
		CHECK_HAS(err_text(&ne.err), "no room left");
		CHECK_EQ(nexus_destroy(nx, &ne), 0);
		opts.size = rows[i].max;
		CHECK_EQ(nexus_create(&opts, &nx, &ne), 0);
		CHECK_EQ(nexus_device(nx)->nblocks, nblocks);
		CHECK_EQ(nexus_destroy(nx, &ne), 0);
		device_remove_all();
		nexus_settings_set(&(struct nexus_settings){});
		store_free(store);
	}
	TAP_ROW(NULL);
}

/* Data begins elsewhere there. With a record that says so, without one, and with an older one. */
ENGINE_TEST(a_volume_keeps_its_label)
{
	static const char *const labels[] = { "", "v1", "v2" };
	struct nexus_opts opts = { .name = "n0",
				   .size = 16 << 20,
				   .children = uris,
				   .nchildren = 2,
				   .info_key = "volume" };
	char text[RECORD_TEXT_MAX];
	struct nexus_err ne = {};
	struct nexus *made;

	CHECK_EQ(uuid_from_text("00000000-0000-4000-8000-0000000000ff", &opts.uuid, NULL), 0);
	if (!all_make(2))
		return;
	nexus_unmake();
	for (unsigned label = NEXUS_LABEL_V1; label <= NEXUS_LABEL_V2; label++) {
		char hint[32];

		TAP_ROW(labels[label]);
		(void)snprintf(hint, sizeof(hint), "give label=%s", labels[label]);
		for (unsigned is_lost = 0; is_lost < 2; is_lost++) {
			ne = (struct nexus_err){};
			opts.label = NEXUS_LABEL_V1 + NEXUS_LABEL_V2 - label;
			CHECK_EQ(nexus_create(&opts, &made, &ne), -EINVAL);
			CHECK_EQ(ne.why, NEXUS_E_INVALID_ARGUMENTS);
			CHECK_HAS(err_text(&ne.err), hint);
			opts.label = label;
			CHECK_EQ(nexus_create(&opts, &made, &ne), 0);
			CHECK_EQ(nexus_destroy(made, &ne), 0);
			CHECK_EQ(store->get(store, "volume", text, NULL), 0);
			CHECK_EQ(store->del(store, "volume", NULL), 0);
		}
		/* a record as it was, of children that do not say: as it is told */
		opts.uuid.b[0] = 1;
		CHECK(strstr(text, ", \"label\"") != NULL);
		(void)snprintf(strstr(text, ", \"label\""), 2, "}");
		CHECK_EQ(store->put(store, "volume", text, NULL), 0);
		opts.label = NEXUS_LABEL_V1 + NEXUS_LABEL_V2 - label;
		CHECK_EQ(nexus_create(&opts, &made, &ne), 0);
		CHECK_EQ(nexus_destroy(made, &ne), 0);
	}
	TAP_ROW(NULL);
	device_remove_all();
	nexus_settings_set(&(struct nexus_settings){});
	store_free(store);
}

/* ---- what happens while a call waits -------------------------------------------------------- */

struct call {
	int (*fn)(struct nexus *nx, const char *uri, struct nexus_err *ne);
	const char *uri;
	struct nexus_err ne;
	bool is_over;
};

static void call_run(void *arg)
{
	struct call *call = arg;

	int result = call->fn(nx, call->uri, &call->ne);

	CHECK_EQ(result, call->ne.err.code);
	call->is_over = true;
}

static void call_start(struct call *call)
{
	CHECK_EQ(task_spawn("call", call_run, call), 0);
}

static void call_end(struct call *call)
{
	while (!call->is_over)
		task_yield();
}

static int child_offline(struct nexus *of, const char *uri, struct nexus_err *ne)
{
	return nexus_child_fault(of, uri, NEXUS_REASON_OFFLINE, ne);
}

/* Children that the record has as healthy. */
static unsigned recorded_healthy(void)
{
	struct nexus_record record = {};
	char text[RECORD_TEXT_MAX];
	unsigned n = 0;

	CHECK_EQ(store->get(store, "volume", text, NULL), 0);
	CHECK_EQ(record_parse(text, strlen(text), &record, NULL), 0);
	for (unsigned i = 0; i < record.nchildren; i++)
		n += record.child[i].is_healthy;
	return n;
}

static void fall(unsigned i)
{
	CHECK(nexus_child_fail(nx->child[nx->order[i]], CHILD_FAULTED, NEXUS_REASON_IO_ERROR));
}

/* The call was right when it began; the child has become the last one since. */
ENGINE_TEST(the_last_child_is_kept_that_was_not_the_last)
{
	struct call call = { .fn = child_offline, .uri = uris[1] };

	if (!all_make(3))
		return;
	task_mutex_lock(&nx->record_lock); /* the retirement of the third takes a while */
	fall(2);
	call_start(&call);
	while (!nx->retire.is_running)
		task_yield();
	task_yield();
	fall(0);
	task_mutex_unlock(&nx->record_lock);
	call_end(&call);
	CHECK_EQ(call.ne.why, NEXUS_E_REMOVE_LAST_HEALTHY);
	CHECK_EQ(child(1).health, CHILD_HEALTH_ONLINE);
	settle_down();
	all_unmake();
}

/* Both go at once, one by the client's word: the record has one of them as healthy for ever. */
ENGINE_TEST(a_record_names_a_healthy_child_whatever_is_removed)
{
	struct call call = { .fn = nexus_child_remove, .uri = uris[1] };

	if (!all_make(2))
		return;
	call_start(&call);
	task_yield();
	CHECK_EQ(child(1).state, CHILD_CLOSED);
	fall(0);
	call_end(&call);
	settle_down();
	CHECK_EQ(call.ne.why, NEXUS_E_REMOVE_LAST_HEALTHY);
	CHECK_EQ(recorded_healthy(), 1);
	all_unmake();
}

/* Whoever comes to a nexus that has ended meanwhile does not stay open. */
ENGINE_TEST(a_child_comes_online_when_all_is_over)
{
	struct call call = { .fn = nexus_child_online, .uri = uris[1] };
	struct nexus_info info;

	if (!all_make(2))
		return;
	offline(1);
	inject("inject://m1?op=read&method=delay&delay_us=20000");
	call_start(&call);
	while (nx->child[nx->order[1]]->desc == NULL)
		task_yield();
	nexus_info(nx, &info);
	CHECK_STR(info.why, "");
	nexus_self_shutdown(nx, "the test says so");
	nexus_info(nx, &info);
	CHECK_STR(info.why, "the test says so");
	call_end(&call);
	CHECK_EQ(call.ne.why, NEXUS_E_NOT_ALLOWED);
	settle_down();
	CHECK(nx->child[nx->order[1]]->desc == NULL);
	all_unmake();
}

static int add_rebuilt(struct nexus *to, const char *uri, struct nexus_err *ne)
{
	return nexus_child_add(to, uri, true, ne);
}

/* The same while its device is still being opened: nobody is started who could not end. */
ENGINE_TEST(a_child_is_opened_when_all_is_over)
{
	const struct {
		const char *how, *device;
		struct call call;
	} rows[] = { { "online", "m1", { .fn = nexus_child_online, .uri = uris[1] } },
		     { "add", "m2", { .fn = add_rebuilt, .uri = uris[2] } } };

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct call call = rows[i].call;
		struct device *dev;

		TAP_ROW(rows[i].how);
		if (!all_make(2))
			return;
		offline(1);
		dev = device_lookup(rows[i].device);
		task_mutex_lock(&dev->control);
		call_start(&call);
		while (list_empty(&dev->control.waiters))
			task_yield();
		nexus_self_shutdown(nx, "the test says so");
		task_mutex_unlock(&dev->control);
		call_end(&call);
		CHECK_EQ(call.ne.why, NEXUS_E_NOT_ALLOWED);
		CHECK_EQ(nx->nchildren, 2);
		CHECK(nx->child[1]->desc == NULL);
		CHECK_EQ(child(1).state, CHILD_FAULTED);
		all_unmake();
	}
	TAP_ROW(NULL);
}

static int grow(struct nexus *of, const char *uri, struct nexus_err *ne)
{
	(void)uri;
	return nexus_resize(of, 20 << 20, ne);
}

/* Who has seen the new size may use it, though the records on the children are still written. */
ENGINE_TEST(a_size_that_is_shown_holds)
{
	struct call call = { .fn = grow };

	if (!all_make(2))
		return;
	inject("inject://m1?op=write&method=delay&delay_us=5000&retries=4");
	call_start(&call);
	while (o.dev->nblocks == NBLOCKS)
		task_yield();
	CHECK(!call.is_over);
	put(NBLOCKS + 10, 1, 1);
	call_end(&call);
	CHECK(are_equal(0, 1));
	all_unmake();
}

/* Whether it is the disk that left is asked of a disk that may take its time. */
ENGINE_TEST(hosts_do_not_wait_for_a_child_that_comes)
{
	struct call call = { .fn = nexus_child_online, .uri = uris[1] };
	uint64_t start_ns;

	if (!all_make(2))
		return;
	offline(1);
	inject("inject://m1?op=read&method=delay&delay_us=1000000&retries=1");
	start_ns = reactor_self()->now_ns;
	call_start(&call);
	while (nx->child[nx->order[1]]->nwaits == 0)
		task_yield();
	touch(7, 1, 1); /* not marked yet */
	CHECK(reactor_self()->now_ns - start_ns < NS_PER_S / 2);
	CHECK(!call.is_over);
	call_end(&call);
	CHECK_EQ(call.ne.why, NEXUS_OK);
	nexus_rebuild_wait(nx);
	CHECK(last()->stats.is_partial);
	CHECK(are_equal(0, 1));
	all_unmake();
}

TAP_MAIN()
