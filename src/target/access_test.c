// SPDX-License-Identifier: Apache-2.0
/*
 * What decides about hosts and paths without a wire: names of states, the list of hosts, which
 * retry delay an error carries, what limits are taken. What hosts see of it is tested in
 * tests/integration/test_target_paths.py.
 */
#include "device/ram_test.h"
#include "target/internal.h"

#define HOST_A "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-00000000000a"
#define HOST_B "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-00000000000b"
#define HOST_C "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-00000000000c"

TEST(state_names)
{
	static const enum ana_state states[] = { ANA_OPTIMIZED, ANA_NON_OPTIMIZED, ANA_INACCESSIBLE,
						 ANA_PERSISTENT_LOSS, ANA_CHANGE };
	enum ana_state state;

	for (size_t i = 0; i < ARRAY_LEN(states); i++) {
		TAP_ROW(ana_state_name(states[i]));
		CHECK_EQ(ana_state_parse(ana_state_name(states[i]), &state, NULL), 0);
		CHECK_EQ(state, states[i]);
	}
	CHECK_EQ(ana_state_parse("", &state, NULL), -EINVAL);
	CHECK_EQ(ana_state_parse("Optimized", &state, NULL), -EINVAL);
	CHECK_EQ(ana_state_parse("?", &state, NULL), -EINVAL);
}

TEST(retry_delay_of_an_error)
{
	CHECK_EQ(crd_index(SUBSYSTEM_NEXUS, IO_FAILED), 1);
	CHECK_EQ(crd_index(SUBSYSTEM_NEXUS, IO_WRITE_ERROR), 1);
	CHECK_EQ(crd_index(SUBSYSTEM_NEXUS, IO_RESERVED), 2);
	CHECK_EQ(crd_index(SUBSYSTEM_NEXUS, IO_NO_SPACE), 2);
	CHECK_EQ(crd_index(SUBSYSTEM_REPLICA, IO_FAILED), 3);
	CHECK_EQ(crd_index(SUBSYSTEM_REPLICA, IO_RESERVED), 3);
	CHECK_EQ(crd_index(SUBSYSTEM_REPLICA, IO_NO_SPACE), 3);
}

static int limits_of(size_t offset, uint64_t value, size_t size)
{
	struct target_opts opts;

	target_opts_init(&opts);
	memcpy((uint8_t *)&opts + offset, &value, size);
	return limits_check(&opts, NULL);
}

#define LIMIT(field, value)                                     \
	limits_of(offsetof(struct target_opts, field), (value), \
		  sizeof(((struct target_opts *)0)->field))

TEST(limits_are_checked)
{
	CHECK_EQ(LIMIT(conns_max, 1), 0);
	CHECK_EQ(LIMIT(conns_max, 0), -EINVAL);
	CHECK_EQ(LIMIT(conns_per_host_max, 0), -EINVAL);
	CHECK_EQ(LIMIT(conns_per_subsystem_max, 0), -EINVAL);
	CHECK_EQ(LIMIT(connect_timeout_ms, 0), -EINVAL);
	CHECK_EQ(LIMIT(idle_timeout_ms, 0), 0);
	CHECK_EQ(LIMIT(hosts_max, 0), 0);
	CHECK_EQ(LIMIT(conn_memory_max, limits_conn_memory()), 0);
	CHECK_EQ(LIMIT(conn_memory_max, limits_conn_memory() - 1), -EINVAL);
	CHECK_EQ(LIMIT(crdt[2], TARGET_CRDT_MAX), 0);
	CHECK_EQ(LIMIT(crdt[2], TARGET_CRDT_MAX + 1), -EINVAL);
}

TEST(memory_of_a_queue)
{
	struct target_opts opts;
	uint64_t one;

	target_opts_init(&opts);
	one = limits_queue_memory(&opts, 1, 1);
	CHECK(one >= sizeof(struct slot) + 4096);
	CHECK_EQ(limits_queue_memory(&opts, 1, 128), 128 * one);
	CHECK(limits_queue_memory(&opts, 0, 32) >=
	      32ull * (8192 + sizeof(struct slot)) + sizeof(struct ctrlr));
	CHECK(limits_queue_memory(&opts, 1, 65536) > 65536ull * 4096); /* what a host may ask for */
	opts.in_capsule_size = 16384;
	CHECK(limits_queue_memory(&opts, 1, 128) >= 128ull * 16384);
}

/* ---- with a target -------------------------------------------------------------------------- */

#define ENDED (1ull << TARGET_ANA_GROUPS_MAX) /* the group of devices that ended */

static struct target *made;

static struct subsystem *make(const struct subsystem_opts *more)
{
	struct subsystem_opts opts = *more;
	struct subsystem *ss = NULL;
	struct target_opts target_opts;

	opts.nqn = "nqn.2019-05.io.openebs:test";
	target_opts_init(&target_opts);
	target_opts.hosts_max = 2;
	CHECK_EQ(target_start(&target_opts, &made, NULL), 0);
	CHECK_EQ(subsystem_add(made, &opts, &ss, NULL), 0);
	return ss;
}

static void host_list_changes(void)
{
	static const char *const two[] = { HOST_A, HOST_B };
	static const char *const bad[] = { HOST_A, "quark" };
	struct subsystem_opts opts = {};
	struct subsystem *ss = make(&opts);
	const char *const *hosts;
	unsigned count;

	CHECK(subsystem_hosts(ss, &hosts, &count));
	CHECK(subsystem_allows(ss, HOST_C));
	CHECK_EQ(subsystem_disallow_host(ss, HOST_C, NULL), -EINVAL);
	CHECK_EQ(subsystem_set_hosts(ss, two, 2, NULL), 0);
	CHECK(subsystem_allows(ss, HOST_A));
	CHECK(!subsystem_allows(ss, HOST_C));
	CHECK_EQ(subsystem_allow_host(ss, HOST_A, NULL), 0);
	CHECK_EQ(subsystem_allow_host(ss, HOST_C, NULL), -ENOSPC);
	/* what fails changes nothing */
	CHECK_EQ(subsystem_set_hosts(ss, bad, 2, NULL), -EINVAL);
	CHECK(!subsystem_hosts(ss, &hosts, &count));
	CHECK_EQ(count, 2);
	CHECK_STR(hosts[1], HOST_B);
	CHECK_EQ(subsystem_disallow_host(ss, HOST_C, NULL), -ENOENT);
	CHECK_EQ(subsystem_disallow_host(ss, HOST_A, NULL), 0);
	CHECK_EQ(subsystem_disallow_host(ss, HOST_B, NULL), 0);
	CHECK(!subsystem_allows(ss, HOST_A));
	CHECK(!subsystem_hosts(ss, &hosts, &count));
	CHECK_EQ(count, 0);
	CHECK_EQ(subsystem_set_hosts(ss, NULL, 0, NULL), 0);
	CHECK(subsystem_allows(ss, HOST_A));
	CHECK_EQ(subsystem_allow_host(ss, HOST_A, NULL), 0);
	CHECK(!subsystem_allows(ss, HOST_B));
	target_stop(made);
}

TEST(the_list_of_hosts)
{
	ram_run(host_list_changes);
}

static void states_change(void)
{
	struct subsystem_opts opts = { .has_ana = true, .ana_state = ANA_NON_OPTIMIZED };
	struct subsystem *ss = make(&opts);
	uint32_t nsid = 0;

	CHECK_EQ(subsystem_ana(ss, 0, 1), ANA_NON_OPTIMIZED);
	CHECK_EQ(subsystem_set_ana(ss, 0, 0, ANA_CHANGE, NULL), -EINVAL); /* no listener */
	CHECK_EQ(target_listen(made, "127.0.0.1", 0, NULL), 0);
	CHECK_EQ(subsystem_set_ana(ss, 0, 33, ANA_CHANGE, NULL), -EINVAL);
	CHECK_EQ(subsystem_add_ns(ss, ram_dev, 0, &nsid, NULL), 0);
	CHECK_EQ(subsystem_set_ana(ss, 0, 32, ANA_CHANGE, NULL), 0);
	CHECK_EQ(subsystem_ana(ss, 0, 31), ANA_NON_OPTIMIZED);
	CHECK_EQ(subsystem_ana(ss, 0, 32), ANA_CHANGE);
	CHECK_EQ(subsystem_ana(ss, 1, 32), ANA_NON_OPTIMIZED);
	CHECK_EQ(subsystem_set_ns_group(ss, nsid, 32, NULL), 0);
	CHECK_EQ(subsystem_set_ns_group(ss, nsid + 1, 32, NULL), -ENOENT);
	CHECK_EQ(subsystem_set_ana(ss, TARGET_LISTENER_ALL, 1, ANA_PERSISTENT_LOSS, NULL), 0);
	for (unsigned i = 0; i < reactor_count(); i++) {
		CHECK_EQ(ss->ns[nsid - 1]->cores[i].ana_bit, 1u << 31);
		CHECK_EQ(ss->cores[i].ana[0].blocked, ENDED | 1u << 31 | 1u);
		CHECK_EQ(ss->cores[i].ana[0].changing, 1u << 31);
		CHECK_EQ(ss->cores[i].ana[15].blocked, ENDED | 1u);
		CHECK_EQ(ss->cores[i].ana[15].lost, 1u);
	}
	target_stop(made);
}

TEST(states_reach_every_reactor)
{
	ram_run(states_change);
}

static void no_states(void)
{
	struct subsystem_opts opts = {};
	struct subsystem *ss = make(&opts);

	CHECK_EQ(subsystem_set_ana(ss, TARGET_LISTENER_ALL, 0, ANA_CHANGE, NULL), -EOPNOTSUPP);
	CHECK_EQ(subsystem_set_ns_group(ss, 1, 1, NULL), -EOPNOTSUPP);
	CHECK_EQ(subsystem_ana(ss, 0, 1), ANA_OPTIMIZED);
	CHECK_EQ(ss->cores[0].ana[0].blocked, ENDED);
	target_stop(made);
}

TEST(states_only_where_reported)
{
	ram_run(no_states);
}

static void end_and_settle(struct subsystem *ss)
{
	device_end(ram_dev);
	while (ss->ns[0]->ana_group != ANA_GROUP_ENDED || ss->tasks > 0)
		task_yield();
}

static void device_ends(void)
{
	struct subsystem_opts opts = { .has_ana = true };
	struct subsystem *ss = make(&opts);
	uint32_t nsid = 0;

	CHECK_EQ(subsystem_add_ns(ss, ram_dev, 0, &nsid, NULL), 0);
	end_and_settle(ss);
	for (unsigned i = 0; i < reactor_count(); i++)
		CHECK_EQ(ss->ns[0]->cores[i].ana_bit, ENDED);
	/* for good, whatever is set */
	CHECK_EQ(subsystem_set_ana(ss, TARGET_LISTENER_ALL, 0, ANA_OPTIMIZED, NULL), 0);
	CHECK_EQ(ss->cores[0].ana[0].blocked, ENDED);
	CHECK_EQ(subsystem_set_ns_group(ss, nsid, 1, NULL), -ENODEV);
	CHECK_EQ(subsystem_add_ns(ss, ram_dev, 0, &nsid, NULL), -ENODEV);
	CHECK(!subsystem_is_over(ss)); /* hosts know what the state means */
	target_stop(made);
}

TEST(a_device_that_ended_closes_its_path)
{
	ram_run(device_ends);
}

static void device_ends_without_ana(void)
{
	struct subsystem_opts opts = {};
	struct subsystem *ss = make(&opts);
	uint32_t nsid = 0;

	CHECK(!subsystem_is_over(ss)); /* it is empty, something may come */
	CHECK_EQ(subsystem_add_ns(ss, ram_dev, 0, &nsid, NULL), 0);
	CHECK(!subsystem_is_over(ss));
	end_and_settle(ss);
	CHECK(subsystem_is_over(ss));
	CHECK_EQ(subsystem_remove_ns(ss, nsid, NULL), 0);
	CHECK(!subsystem_is_over(ss));
	target_stop(made);
}

TEST(without_ana_a_device_that_ended_ends_its_subsystem)
{
	ram_run(device_ends_without_ana);
}

/* The one that had not ended goes: nothing is left that a host could use. */
static void what_had_not_ended_is_removed(void)
{
	struct subsystem_opts opts = {};
	struct subsystem *ss = make(&opts);
	struct device *other = NULL;
	struct ctrlr *ctrlr;
	uint32_t nsid = 0, second = 0;

	CHECK_EQ(device_create("ram:///r1", &other, NULL), 0);
	CHECK_EQ(subsystem_add_ns(ss, ram_dev, 0, &nsid, NULL), 0);
	CHECK_EQ(subsystem_add_ns(ss, other, 0, &second, NULL), 0);
	ctrlr = ctrlr_new(ss, HOST_A, (const uint8_t[16]){ 1 });
	if (!CHECK(ctrlr != NULL))
		return;
	end_and_settle(ss);
	CHECK(!ctrlr->is_closing);
	CHECK_EQ(subsystem_remove_ns(ss, second, NULL), 0);
	CHECK(subsystem_is_over(ss));
	CHECK(ctrlr->is_closing);
	timer_disarm(reactor_primary(), &ctrlr->kato_timer); /* it has no queue to go with */
	resv_ctrlr_leaves(ctrlr);
	list_del(&ctrlr->link);
	ss->ctrlr_count--;
	free(ctrlr);
	target_stop(made);
	CHECK_EQ(device_destroy("ram:///r1", NULL), 0);
}

TEST(without_ana_what_had_not_ended_is_removed)
{
	ram_run(what_had_not_ended_is_removed);
}

TAP_MAIN()
