/* SPDX-License-Identifier: Apache-2.0 */
/* Children by hand and by URI: what is allowed, what is refused, and with which error. */
#include "nexus/testing.h"

ENGINE_TEST(rules_of_removing_and_faulting)
{
	struct nexus_err ne = {};

	if (!nexus_make(3))
		return;
	REFUSED(nexus_child_remove(nx, "malloc:///x?size_mb=32", &ne_), NEXUS_E_CHILD_NOT_FOUND);
	CHECK_EQ(nexus_child_fault(nx, uris[0], NEXUS_REASON_OFFLINE, &ne), 0);
	CHECK_EQ(child_info(0).health, CHILD_HEALTH_DEGRADED);
	CHECK_EQ(recorded(0), 0);
	CHECK_EQ(nexus_child_remove(nx, uris[1], &ne), 0);
	CHECK_EQ(recorded(2), -1); /* two are left in it */
	REFUSED(nexus_child_remove(nx, uris[2], &ne_), NEXUS_E_REMOVE_LAST_HEALTHY);
	REFUSED(nexus_child_fault(nx, uris[2], NEXUS_REASON_OFFLINE, &ne_),
		NEXUS_E_REMOVE_LAST_HEALTHY);
	REFUSED(nexus_child_fault(nx, uris[2], NEXUS_REASON_IO_ERROR, &ne_),
		NEXUS_E_REMOVE_LAST_HEALTHY);
	CHECK_EQ(nexus_child_remove(nx, uris[0], &ne), 0);
	REFUSED(nexus_child_remove(nx, uris[2], &ne_), NEXUS_E_REMOVE_LAST_CHILD);
	CHECK_EQ(status(), NEXUS_ONLINE);
	CHECK_EQ(recorded(0), 1);
	CHECK(device_lookup("c0") == NULL && device_lookup("c1") == NULL);
	nexus_unmake();
}

ENGINE_TEST(who_may_come_back)
{
	static const struct {
		enum nexus_reason reason;
		bool may;
	} rows[] = {
		{ NEXUS_REASON_OFFLINE, true },        { NEXUS_REASON_IO_ERROR, true },
		{ NEXUS_REASON_NO_SPACE, true },       { NEXUS_REASON_TIMED_OUT, true },
		{ NEXUS_REASON_ADMIN_FAILED, true },   { NEXUS_REASON_OFFLINE_PERMANENT, false },
		{ NEXUS_REASON_CANT_OPEN, false },     { NEXUS_REASON_UNKNOWN, false },
		{ NEXUS_REASON_REBUILD_FAILED, true },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct nexus_err ne = {};

		TAP_ROW(nexus_reason_name(rows[i].reason));
		if (!nexus_make(2))
			return;
		CHECK_EQ(nexus_child_online(nx, uris[1], &ne), 0); /* it is */
		CHECK_EQ(nexus_child_fault(nx, uris[1], rows[i].reason, &ne), 0);
		CHECK_EQ(child_info(1).is_final, !rows[i].may);
		if (rows[i].may) {
			CHECK_EQ(nexus_child_online(nx, uris[1], &ne), 0);
			CHECK_EQ(child_info(1).state, CHILD_OPEN);
			CHECK(!child_info(1).is_synced);
			CHECK_EQ(recorded(1), 0);
		} else {
			REFUSED(nexus_child_online(nx, uris[1], &ne_), NEXUS_E_NOT_ALLOWED);
		}
		nexus_unmake();
	}
}

ENGINE_TEST(a_child_that_is_added_gets_writes_and_no_reads)
{
	static uint8_t buf[8 * BLOCK], back[8 * BLOCK];
	struct nexus_err ne = {};
	struct err err = {};

	if (!nexus_make(2))
		return;
	REFUSED(nexus_child_add(nx, uris[1], false, &ne_), NEXUS_E_CHILD_EXISTS);
	REFUSED(nexus_child_add(nx, "malloc:///s?size_mb=16", false, &ne_), NEXUS_E_CHILD_GEOMETRY);
	REFUSED(nexus_child_add(nx, "malloc:///s?size_mb=32&blk_size=4096", false, &ne_),
		NEXUS_E_CHILD_GEOMETRY);
	REFUSED(nexus_child_add(nx, "no:///s", false, &ne_), NEXUS_E_CREATE_CHILD);
	CHECK(device_lookup("s") == NULL);
	fill(buf, sizeof(buf), 9);
	CHECK_EQ(do_io(&o, IO_WRITE, 100, 8, buf, 0), IO_OK);
	CHECK_EQ(nexus_child_add(nx, uris[2], false, &ne), 0);
	CHECK_EQ(status(), NEXUS_DEGRADED);
	CHECK_EQ(recorded(2), 0);
	CHECK_EQ(do_io(&o, IO_WRITE, 200, 8, buf, 0), IO_OK);
	CHECK_EQ(child_do("c2", IO_READ, 10240 + 200, 8, back), IO_OK);
	CHECK_MEM(back, buf, sizeof(buf));
	for (unsigned i = 0; i < 6; i++) {
		CHECK_EQ(do_io(&o, IO_READ, 100, 8, back, 0), IO_OK);
		CHECK_MEM(back, buf, sizeof(buf)); /* c2 has none of it */
	}
	CHECK_EQ(child_do("c2", IO_WRITE, 10240 + 100, 8, buf), IO_OK); /* as a rebuild would */
	CHECK_EQ(nexus_child_synced(nx->child[2], &err), 0);
	CHECK_EQ(status(), NEXUS_ONLINE);
	CHECK_EQ(recorded(2), 1);
	check_equal("c0", "c2");
	nexus_unmake();
}

ENGINE_TEST(a_device_that_goes_closes_its_child)
{
	static uint8_t buf[BLOCK];

	if (!nexus_make(2))
		return;
	CHECK_EQ(device_destroy(uris[1], NULL), 0);
	settle_down();
	CHECK_EQ(child_info(1).state, CHILD_CLOSED);
	CHECK_EQ(child_info(1).health, CHILD_HEALTH_DEGRADED);
	CHECK_EQ(recorded(1), 0);
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(status(), NEXUS_DEGRADED);
	nexus_unmake();
}

ENGINE_TEST(a_device_that_fails_retires_its_child)
{
	struct device_event event = { .type = DEVICE_FAILED, .why = "the cable is out" };
	struct nexus_err ne = {};

	if (!nexus_make(2))
		return;
	event.dev = device_lookup("c1");
	device_announce_event(event.dev, &event);
	settle_down();
	CHECK_EQ(child_info(1).state, CHILD_FAULTED);
	CHECK_EQ(child_info(1).reason, NEXUS_REASON_ADMIN_FAILED);
	CHECK_STR(child_info(1).why, "the cable is out");
	CHECK_EQ(nexus_child_online(nx, uris[1], &ne), 0);
	CHECK_STR(child_info(1).why, "");
	nexus_unmake();
}

/* What it lost was written long ago: nobody has marked it. */
ENGINE_TEST(a_device_that_lost_data_is_given_everything)
{
	struct device_event event = { .type = DEVICE_FAILED };

	for (unsigned i = 0; i < 4; i++) {
		bool is_late = i & 1; /* the child fell a moment before */

		event.is_data_lost = i & 2;
		if (!nexus_make(2))
			return;
		event.dev = device_lookup("c1");
		if (is_late)
			CHECK(nexus_child_fail(nx->child[1], CHILD_FAULTED, NEXUS_REASON_IO_ERROR));
		device_announce_event(event.dev, &event);
		settle_down();
		CHECK_EQ(child_info(1).state, CHILD_FAULTED);
		CHECK_EQ(child_info(1).has_io_log, !event.is_data_lost);
		nexus_unmake();
	}
}

ENGINE_TEST(growing)
{
	static uint8_t buf[BLOCK];
	struct nexus_err ne = {};
	struct nexus_info info;

	if (!nexus_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(nexus_child_fault(nx, uris[1], NEXUS_REASON_OFFLINE, &ne), 0);
	REFUSED(nexus_resize(nx, 20 << 20, &ne_), NEXUS_E_RESIZE);
	CHECK_EQ(nexus_child_online(nx, uris[1], &ne), 0);
	CHECK_EQ(nexus_resize(nx, 16 << 20, &ne), 0);
	REFUSED(nexus_resize(nx, 8 << 20, &ne_), NEXUS_E_CHILD_TOO_SMALL);
	REFUSED(nexus_resize(nx, 32 << 20, &ne_), NEXUS_E_CHILD_TOO_SMALL);
	CHECK_EQ(nexus_resize(nx, 20 << 20, &ne), 0);
	nexus_info(nx, &info);
	CHECK_EQ(info.device_size, 20 << 20);
	CHECK_EQ(info.segments_in_flight, 1);
	CHECK_EQ(do_io(&o, IO_WRITE, (20 << 11) - 1, 1, buf, 0), IO_OK);
	nexus_info(nx, &info);
	CHECK_EQ(info.segments_in_flight, 2);
	nexus_unmake();
}

static int grow_to_20(void)
{
	struct nexus_err ne = {};

	return nexus_resize(nx, 20 << 20, &ne);
}

static int grow_to_32(void)
{
	struct nexus_err ne = {};

	return nexus_resize(nx, 32 << 20, &ne); /* too much for the children */
}

/* The second waits for the first; when it fails, all is as the first has left it. */
ENGINE_TEST(growing_twice_at_once)
{
	static uint8_t buf[BLOCK];
	struct late_call first, second;
	struct nexus_info info;

	if (!nexus_make(2))
		return;
	control_begin(nx); /* both have to wait */
	call_start(&first, grow_to_20);
	call_start(&second, grow_to_32);
	turns(10);
	control_end(nx);
	CHECK_EQ(call_wait(&first), 0);
	CHECK(call_wait(&second) < 0);
	nexus_info(nx, &info);
	CHECK_EQ(info.device_size, 20 << 20);
	CHECK_EQ(info.size, 20 << 20);
	CHECK_EQ(nx->geometry.nblocks, 20 << 11);
	CHECK_EQ(do_io(&o, IO_WRITE, (20 << 11) - 1, 1, buf, 0), IO_OK);
	nexus_unmake();
}

static void add_one(void *arg)
{
	struct nexus_err ne = {};
	int *result = arg;

	*result = nexus_child_add(nx, uris[2], true, &ne);
}

/* An operation under way keeps the nexus until it has ended, well or not. */
ENGINE_TEST(destroyed_while_a_child_is_added)
{
	struct nexus_err ne = {};
	int result = 1;

	if (!nexus_make(2))
		return;
	desc_close(o.desc);
	fake.is_hanging = true;
	CHECK_EQ(task_spawn("add", add_one, &result), 0);
	while (fake.let_go == NULL)
		task_yield();
	fake.is_hanging = false;
	task_event_fire(fake.let_go);
	CHECK_EQ(nexus_destroy(nx, &ne), 0);
	CHECK(result <= 0);
	CHECK(device_next(NULL) == NULL);
	nexus_settings_set(&(struct nexus_settings){});
}

ENGINE_TEST(shutting_down_twice)
{
	static uint8_t buf[BLOCK];
	struct nexus_err ne = {};

	if (!nexus_make(2))
		return;
	CHECK_EQ(nexus_shutdown(nx, &ne), 0);
	CHECK(recorded_clean());
	CHECK_EQ(nexus_shutdown(nx, &ne), 0);
	CHECK_EQ(status(), NEXUS_STATUS_SHUTDOWN);
	CHECK(do_io(&o, IO_WRITE, 0, 1, buf, 0) != IO_OK);
	REFUSED(nexus_child_online(nx, uris[1], &ne_), NEXUS_E_NOT_ALLOWED);
	CHECK(nexus_lookup("n0") == nx);
	nexus_unmake();
}

/* ---- by URI --------------------------------------------------------------------------------- */

ENGINE_TEST(uris)
{
	static const struct uri_case rows[] = {
		{ "nexus:///n?size=16M&children=malloc:///a?size_mb=32,malloc:///b?size_mb=32", 0,
		  NULL, 32767, 512 },
		{ "nexus:///n?size=16M&required_size&children=malloc:///a?size_mb=32", 0, NULL,
		  32768, 512 },
		{ "nexus:///n?size=16M&label=v2&children=malloc:///a?size_mb=32%26blk_size=4096", 0,
		  NULL, 4096, 4096 },
		{ "nexus:///n?size=16M&children=null:///a%252Cb?size_mb=32,null:///c?size_mb=32", 0,
		  NULL, 32767, 512 },
		{ "nexus:///n?size=16M", -EINVAL, "children=", 0, 0 },
		{ "nexus:///n?children=malloc:///a?size_mb=32", -EINVAL, "no size", 0, 0 },
		{ "nexus://n?size=16M&children=malloc:///a?size_mb=32", -EINVAL, "three slashes", 0,
		  0 },
		{ "nexus:///n?size=16M&sizes=1&children=malloc:///a?size_mb=32", -EINVAL, "sizes",
		  0, 0 },
		{ "nexus:///n?size=16M&label=v3&children=malloc:///a?size_mb=32", -EINVAL, "v1", 0,
		  0 },
		{ "nexus:///n?size=64M&children=malloc:///a?size_mb=32", -EPERM, "less than", 0,
		  0 },
		{ "nexus:///n?size=32M&required_size&children=malloc:///a?size_mb=32", -EINVAL,
		  "too small", 0, 0 },
		{ "nexus:///n?size=16M&children=malloc:///a?size_mb=32,malloc:///b?size_mb=32"
		  "%26blk_size=4096",
		  -EINVAL, "block size", 0, 0 },
		{ "nexus:///n?size=16M&children=malloc:///a?size_mb=32,malloc:///a?size_mb=32",
		  -EEXIST, "twice", 0, 0 },
		{ "nexus:///n?size=16M&children=malloc:///a?size_mb=32,no:///b", -EINVAL, "no", 0,
		  0 },
		{ "nexus:///n?size=16M&children=malloc:///a?size_mb=32,malloc:///n?size_mb=32",
		  -EEXIST, "exists", 0, 0 },
		{ "nexus:///n?size=16M&children=a,b,c,d,e,f,g,h,i", -EINVAL, "1 to 8", 0, 0 },
	};

	fake_start();
	check_uris(rows, ARRAY_LEN(rows));
	nexus_settings_set(&(struct nexus_settings){});
}

ENGINE_TEST(arguments_of_version_two)
{
	static const struct {
		const char *name;
		struct nexus_opts opts;
		enum nexus_error why;
	} rows[] = {
		{ "controller ids",
		  { .cntlid_min = 9, .cntlid_max = 8 },
		  NEXUS_E_INVALID_ARGUMENTS },
		{ "controller id", { .cntlid_max = 0xfff0 }, NEXUS_E_INVALID_ARGUMENTS },
		{ "type", { .resv_type = 7 }, NEXUS_E_INVALID_RESERVATION },
		{ "preempt without key", { .preempt_key = 1 }, NEXUS_E_INVALID_ARGUMENTS },
		{ "holder with key",
		  { .resv_key = 1, .preempt_key = 1, .preempt_policy = NEXUS_PREEMPT_HOLDER },
		  NEXUS_E_INVALID_ARGUMENTS },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct nexus_opts opts = rows[i].opts;

		TAP_ROW(rows[i].name);
		opts.name = "n0";
		opts.size = 16 << 20;
		opts.children = uris;
		opts.nchildren = 1;
		REFUSED(nexus_create(&opts, &nx, &ne_), rows[i].why);
		CHECK(nexus_next(NULL) == NULL && device_next(NULL) == NULL);
	}
}

/* No such target: the message shows what the device was to be made from. */
ENGINE_TEST(remote_children_do_not_come_back_by_themselves)
{
	static const struct {
		const char *uri, *says;
	} rows[] = {
		{ "nvmf://127.0.0.1:1/nqn.2019-05.io.openebs:r?nsid=1", "?nsid=1&ctrl_loss=0:" },
		{ "nvmf://127.0.0.1:1/nqn.2019-05.io.openebs:r", "io.openebs:r?ctrl_loss=0:" },
		{ "nvmf://127.0.0.1:1/nqn.2019-05.io.openebs:r?ctrl_loss=5s", "?ctrl_loss=5s:" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct nexus_opts opts = {
			.name = "n0", .size = 16 << 20, .children = &rows[i].uri, .nchildren = 1
		};
		struct nexus_err ne = {};

		CHECK(nexus_create(&opts, &nx, &ne) < 0);
		CHECK_EQ(ne.why, NEXUS_E_CREATE_CHILD);
		CHECK_HAS(err_text(&ne.err), rows[i].says);
	}
}

ENGINE_TEST(duplicates_are_refused)
{
	struct nexus_opts opts = {
		.name = "n0", .size = 16 << 20, .children = &uris[2], .nchildren = 1
	};
	struct nexus_info info;

	if (!nexus_make(1))
		return;
	REFUSED(nexus_create(&opts, &nx, &ne_), NEXUS_E_NAME_EXISTS);
	nexus_info(nx, &info);
	opts.name = "n1";
	opts.uuid = info.uuid;
	REFUSED(nexus_create(&opts, &nx, &ne_), NEXUS_E_UUID_EXISTS);
	nexus_unmake();
}

TAP_MAIN()
