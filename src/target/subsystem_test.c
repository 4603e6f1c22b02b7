// SPDX-License-Identifier: Apache-2.0
/*
 * The serial number, with values taken from outside (sha256sum); namespaces with a cache; removal
 * while changes are under way.
 */
#include "base/units.h"
#include "device/ram_test.h"
#include "target/internal.h"

static const struct {
	const char *uuid, *serial;
} rows[] = {
	{ "00000000-0000-0000-0000-000000000000", "DCS374708FFF7719DD59" },
	{ "12345678-9abc-4def-8012-3456789abcde", "DCS501D35F30D4DC033E" },
	{ "ffffffff-ffff-ffff-ffff-ffffffffffff", "DCS5AC6A5945F1650091" },
};

TEST(serial_follows_the_uuid)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char serial[SUBSYSTEM_SERIAL_SIZE];
		struct uuid uuid;

		TAP_ROW(rows[i].uuid);
		CHECK_EQ(uuid_from_text(rows[i].uuid, &uuid, NULL), 0);
		subsystem_serial(&uuid, serial);
		CHECK_STR(serial, rows[i].serial);
	}
}

TEST(defaults_are_valid_limits)
{
	struct target_opts opts;

	target_opts_init(&opts);
	CHECK(opts.queues_max <= TARGET_QUEUES_MAX);
	CHECK(opts.queue_depth_max <= TARGET_DEPTH_MAX);
	CHECK_EQ(opts.io_size_max, 131072);
	CHECK_EQ(opts.in_capsule_size, 4096);
	CHECK_EQ(opts.queue_depth_max, 128);
	opts.io_size_max = 4096; /* MDTS 0 would mean no limit */
	CHECK_EQ(target_start(&opts, &(struct target *){ NULL }, NULL), -EINVAL);
}

static struct subsystem *tested;

/* What Identify Controller does when no namespace of the subsystem has a cache. */
static void says_no_cache(void *arg)
{
	(void)arg;
	CHECK(tested->ns[0] == NULL);
	tested->said_no_cache = true;
}

static void cached_namespace_comes(bool is_told_meanwhile)
{
	struct subsystem_opts opts = { .nqn = "nqn.2019-05.io.openebs:test" };
	struct target_opts target_opts;
	struct target *target;
	uint32_t nsid;

	target_opts_init(&target_opts);
	CHECK_EQ(target_start(&target_opts, &target, NULL), 0);
	CHECK_EQ(subsystem_add(target, &opts, &tested, NULL), 0);
	if (is_told_meanwhile)
		CHECK_EQ(task_spawn("host", says_no_cache, NULL), 0);
	CHECK_EQ(subsystem_add_ns(tested, ram_dev, 0, &nsid, NULL), 0);
	for (unsigned i = 0; i < reactor_count(); i++)
		CHECK_EQ(tested->ns[0]->cores[i].write_flags, is_told_meanwhile ? IO_FUA : 0);
	target_stop(target);
}

static void cache_joins(void)
{
	cached_namespace_comes(false);
}

static void cache_joins_late(void)
{
	cached_namespace_comes(true);
}

/* A host that was told "no cache", even while the namespace is being opened, never flushes. */
TEST(cached_namespace_writes_through_for_hosts_that_do_not_flush)
{
	ram.has_cache = ram.is_late = true;
	ram_run(cache_joins);
	ram.has_cache = ram.is_late = true;
	ram_run(cache_joins_late);
}

/* ---- removal -------------------------------------------------------------------------------- */

enum { CHANGES = 3 };

static struct change {
	int result;
	bool is_done;
} changes[CHANGES];

static void change_task(void *arg)
{
	struct change *change = arg;

	change->result = subsystem_add_ns(tested, ram_dev, 0, NULL, NULL);
	change->is_done = true;
}

static void late_change_task(void *arg)
{
	struct subsystem *ss = tested;

	while (!ss->is_removing)
		task_yield();
	change_task(arg);
}

/* One change is under way, one waits for its turn, one comes while the removal waits. */
static void removal_meets_changes(void)
{
	struct subsystem_opts opts = { .nqn = "nqn.2019-05.io.openebs:test" };
	struct target_opts target_opts;
	struct target *target;

	target_opts_init(&target_opts);
	CHECK_EQ(target_start(&target_opts, &target, NULL), 0);
	CHECK_EQ(subsystem_add(target, &opts, &tested, NULL), 0);
	memset(changes, 0, sizeof(changes));
	CHECK_EQ(task_spawn("change", change_task, &changes[0]), 0);
	CHECK_EQ(task_spawn("queued", change_task, &changes[1]), 0);
	CHECK_EQ(task_spawn("late", late_change_task, &changes[2]), 0);
	while (tested->control.owner == NULL)
		task_yield();
	CHECK(!changes[0].is_done);
	subsystem_remove(tested);
	CHECK(changes[0].is_done && changes[1].is_done && changes[2].is_done);
	CHECK_EQ(changes[0].result, 0);
	CHECK_EQ(changes[1].result, -ENODEV);
	CHECK_EQ(changes[2].result, -ENODEV);
	target_stop(target);
}

TEST(removal_waits_for_changes)
{
	ram.is_late = true;
	ram_run(removal_meets_changes);
}

/* ---- a hold that fails ---------------------------------------------------------------------- */

static struct {
	struct timer timer;
	struct msg msg;
} last_command;

static void last_command_leaves(struct msg *msg)
{
	struct ns_core *nc = &tested->ns[0]->cores[0];

	(void)msg;
	if (--nc->inflight == 0 && nc->is_idle_awaited)
		ns_core_idle(&tested->cores[0], nc);
}

static void last_command_ends(struct timer *timer)
{
	(void)timer;
	last_command.msg.fn = last_command_leaves;
	reactor_defer(reactor_primary(), &last_command.msg);
}

/* The device lets go in the turn in which the hold gives up; then somebody holds it again. */
static void device_lets_go_too_late(void)
{
	enum { LIMIT_MS = 5 };
	struct subsystem_opts opts = { .nqn = "nqn.2019-05.io.openebs:test" };
	struct target_opts target_opts;
	struct target *target;
	uint32_t nsid;

	target_opts_init(&target_opts);
	target_opts.device_timeout_ms = LIMIT_MS;
	CHECK_EQ(target_start(&target_opts, &target, NULL), 0);
	CHECK_EQ(subsystem_add(target, &opts, &tested, NULL), 0);
	CHECK_EQ(subsystem_add_ns(tested, ram_dev, 0, &nsid, NULL), 0);
	tested->ns[0]->cores[0].inflight = 1;
	last_command.timer.fn = last_command_ends;
	timer_arm(reactor_primary(), &last_command.timer, LIMIT_MS * NS_PER_MS);
	CHECK_EQ(subsystem_pause(tested, NULL), -ETIMEDOUT);
	CHECK_EQ(tested->ns[0]->cores[0].inflight, 0);
	CHECK(mpsc_is_empty(&reactor_primary()->inbox));
	CHECK_EQ(subsystem_pause(tested, NULL), 0);
	subsystem_resume(tested);
	target_stop(target);
}

TEST(hold_that_failed_leaves_no_message_behind)
{
	ram.is_late = false;
	ram_run_on(1, device_lets_go_too_late);
}

TAP_MAIN()
