/* SPDX-License-Identifier: Apache-2.0 */
/* opts: the URI of a remote namespace, its defaults, what is refused; the states' table. */
#include "drivers/nvmf/opts.h"

#include "drivers/nvmf/ctrlr.h"
#include "drivers/testing.h"

static int parse(const char *text, struct nvmf_opts *opts, struct err *err)
{
	CLEANUP(uri_freep) struct uri *uri = NULL;
	int result = uri_parse(text, &uri, err);

	return result < 0 ? result : nvmf_opts_parse(uri, opts, err);
}

ENGINE_TEST(nvmf_opts_have_the_documented_defaults)
{
	struct nvmf_opts opts = {}, again = {};
	char name[DEVICE_NAME_MAX];
	struct err err = {};

	CHECK_EQ(parse("nvmf://10.0.0.1/nqn.2019-05.io.openebs:x", &opts, &err), 0);
	CHECK_STR(opts.host, "10.0.0.1");
	CHECK_STR(opts.subnqn, "nqn.2019-05.io.openebs:x");
	CHECK_EQ(opts.port, 8420);
	CHECK_EQ(opts.nsid, 1);
	CHECK_EQ(opts.kato_ms, 10000);
	CHECK_EQ(opts.io_timeout_ns, 30000000000);
	CHECK_EQ(opts.ctrl_loss_ns, 120000000000);
	CHECK_EQ(opts.fast_io_fail_ns, 0);
	CHECK_EQ(opts.on_timeout, NVMF_TIMEOUT_ABORT);
	CHECK(nvmf_nqn_is_valid(opts.hostnqn));
	CHECK_EQ(nvmf_opts_name(&opts, name, sizeof(name), &err), 0);
	CHECK_STR(name, "10.0.0.1:8420/nqn.2019-05.io.openebs:xn1");
	/* who we are is the same each time */
	CHECK_EQ(parse("nvmf://10.0.0.1/nqn.2019-05.io.openebs:x", &again, &err), 0);
	CHECK(nvmf_opts_same_ctrlr(&opts, &again));
}

ENGINE_TEST(nvmf_opts_are_read)
{
	struct nvmf_opts opts = {};
	char name[DEVICE_NAME_MAX];
	struct err err = {};

	CHECK_EQ(parse("nvmf+tcp://[::1]:4420/nqn.a:b?nsid=9&hdgst&ddgst=no&keep_alive=5s&"
		       "queue_depth=16&queues=2&io_timeout=250ms&ctrl_loss=0&fast_io_fail=2s&"
		       "on_timeout=remove&iopolicy=queue-depth&hostnqn=nqn.h:1&"
		       "hostid=11111111-2222-3333-4444-555555555555&reftag&guard&"
		       "paths=10.0.0.2:4420,%5Bfe80::1%5D:1&"
		       "uuid=5f5cd0a8-6ac9-4ac6-a6cd-a8d4d7fc4fd2",
		       &opts, &err),
		 0);
	CHECK_STR(err.msg, "");
	CHECK_STR(opts.host, "::1");
	CHECK_EQ(opts.nsid, 9);
	CHECK(opts.hdgst && !opts.ddgst);
	CHECK_EQ(opts.kato_ms, 5000);
	CHECK_EQ(opts.queue_depth, 16);
	CHECK_EQ(opts.queues, 2);
	CHECK_EQ(opts.io_timeout_ns, 250000000);
	CHECK_EQ(opts.ctrl_loss_ns, 0);
	CHECK_EQ(opts.on_timeout, NVMF_TIMEOUT_REMOVE);
	CHECK_EQ(opts.iopolicy, NVMF_QUEUE_DEPTH);
	CHECK_STR(opts.hostnqn, "nqn.h:1");
	CHECK_EQ(opts.hostid[15], 0x55);
	CHECK_EQ(opts.nalso, 2);
	CHECK_STR(opts.also[1].host, "fe80::1");
	CHECK_EQ(opts.also[1].port, 1);
	CHECK_EQ(nvmf_opts_name(&opts, name, sizeof(name), &err), 0);
	CHECK_STR(name, "[::1]:4420/nqn.a:bn9");
}

ENGINE_TEST(nvmf_opts_refuse_what_makes_no_sense)
{
	static const struct {
		const char *uri, *says;
	} rows[] = {
		{ "nvmf:///nqn.a", "no host" },
		{ "nvmf://h:1", "exactly one" },
		{ "nvmf://h:1/a/b", "exactly one" },
		{ "nvmf://h:0/nqn.a", "65535" },
		{ "nvmf://h:65536/nqn.a", "65535" },
		{ "nvmf://h/nqn%7Fa", "no qualified name" },
		{ "nvmf://h/nqn.a?nsid=0", "nsid" },
		{ "nvmf://h/nqn.a?nsid=4294967295", "nsid" },
		{ "nvmf://h/nqn.a?queue_depth=1", "queue_depth" },
		{ "nvmf://h/nqn.a?io_timeout=7", "duration" },
		{ "nvmf://h/nqn.a?io_timeout=400d", "longer than a year" },
		{ "nvmf://h/nqn.a?connect_timeout=0", "longer than 0" },
		{ "nvmf://h/nqn.a?keep_alive=2h", "longer than an hour" },
		{ "nvmf://h/nqn.a?on_timeout=panic", "on_timeout" },
		{ "nvmf://h/nqn.a?hostnqn=%01", "no qualified name" },
		{ "nvmf://h/nqn.a?hostid=7", "hostid" },
		{ "nvmf://h/nqn.a?paths=x", "HOST:PORT" },
		{ "nvmf://h/nqn.a?paths=a:1,,b:1", "HOST:PORT" },
		{ "nvmf://h/nqn.a?paths=%5B%5D:1", "without a host" },
		{ "nvmf://h/nqn.a?paths=a:1,a:2,a:3,a:4,a:5,a:6,a:7,a:8", "more than 8" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct nvmf_opts opts;
		struct err err = {};

		TAP_ROW(rows[i].uri);
		CHECK_EQ(parse(rows[i].uri, &opts, &err) < 0, true);
		CHECK_HAS(err.msg, rows[i].says);
	}
	TAP_ROW(NULL);
}

ENGINE_TEST(nvmf_opts_pass_a_bad_environment_over)
{
	struct nvmf_opts opts = {};
	struct err err = {};

	CHECK_EQ(setenv("NVME_TIMEOUT", "soon", 1), 0);
	CHECK_EQ(setenv("NVME_KATO", "3s", 1), 0);
	CHECK_EQ(setenv("HOSTNQN", "nqn.env:h", 1), 0);
	CHECK_EQ(parse("nvmf://h/nqn.a", &opts, &err), 0);
	CHECK_EQ(opts.io_timeout_ns, 30000000000);
	CHECK_EQ(opts.kato_ms, 3000);
	CHECK_STR(opts.hostnqn, "nqn.env:h");
	CHECK_EQ(parse("nvmf://h/nqn.a?hostnqn=nqn.uri:h&keep_alive=1s", &opts, &err), 0);
	CHECK_STR(opts.hostnqn, "nqn.uri:h");
	CHECK_EQ(opts.kato_ms, 1000);
	(void)unsetenv("NVME_TIMEOUT");
	(void)unsetenv("NVME_KATO");
	(void)unsetenv("HOSTNQN");
}

/* Every pair, against the diagram of ctrlr.c. */
TEST(ctrlr_states_follow_the_diagram)
{
	static const char allowed[CTRLR_STATE_COUNT_][CTRLR_STATE_COUNT_ + 1] = {
		/* NEW CONNECTING LIVE RESETTING DEAD DELETING */
		[CTRLR_NEW] = ".c...d",  [CTRLR_CONNECTING] = "..lrxd",
		[CTRLR_LIVE] = "...rxd", [CTRLR_RESETTING] = ".c..xd",
		[CTRLR_DEAD] = ".....d", [CTRLR_DELETING] = "......",
	};

	for (unsigned from = 0; from < CTRLR_STATE_COUNT_; from++) {
		TAP_ROW(ctrlr_state_name(from));
		for (unsigned to = 0; to < CTRLR_STATE_COUNT_; to++)
			CHECK_EQ(ctrlr_may_go(from, to), allowed[from][to] != '.');
	}
	TAP_ROW(NULL);
}

TAP_MAIN()
