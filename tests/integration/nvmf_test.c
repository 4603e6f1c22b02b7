/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvmf_test.c - the initiator through the device layer, against a target in the same process.
 *
 * What processes cannot show: that a second URI joins a device and leaves it again, which events
 * come, that every operation of the handle arrives, that removal does not wait for a target that is
 * gone, and that nothing is left behind after 64 controllers.
 *
 * Thread: test bodies run as a task on the primary reactor; both ends share it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/units.h"
#include "device/nvme_cmds.h"
#include "drivers/nvme/spec.h"
#include "drivers/nvmf/ctrlr.h"
#include "drivers/testing.h"
#include "reactor/resolve.h"
#include "target/target.h"

#define NQN "nqn.2019-05.io.openebs:nvmf"

enum { LISTENERS = 2, LBA_SIZE = 512 };

static struct rig {
	struct target *target;
	struct subsystem *subsystem;
	struct device *back;
	char uri[LISTENERS][256];
} rig;

static bool rig_up(const char *back_uri)
{
	struct subsystem_opts opts = { .nqn = NQN, .has_ana = true };
	struct target_opts target_opts;
	struct err err = {};
	int result;

	target_opts_init(&target_opts);
	result = device_create(back_uri, &rig.back, &err);
	if (result == 0)
		result = target_start(&target_opts, &rig.target, &err);
	if (result == 0)
		result = subsystem_add(rig.target, &opts, &rig.subsystem, &err);
	if (result == 0)
		result = subsystem_add_ns(rig.subsystem, rig.back, 1, NULL, &err);
	for (unsigned i = 0; result == 0 && i < LISTENERS; i++) {
		result = target_listen(rig.target, "0.0.0.0", 0, &err);
		(void)snprintf(rig.uri[i], sizeof(rig.uri[i]), "nvmf://127.0.0.1:%u/" NQN,
			       target_listener_port(rig.target, i));
	}
	return CHECK_STR(err.msg, "") && result == 0;
}

static void rig_down(void)
{
	target_stop(rig.target);
	device_remove_all();
	rig = (struct rig){};
}

static unsigned events[DEVICE_EVENT_COUNT_];

static void count_event(struct desc *desc, const struct device_event *event)
{
	(void)desc;
	events[event->type]++;
}

static bool wait_event(enum device_event_type type)
{
	for (unsigned i = 0; i < 500 && events[type] == 0; i++)
		task_sleep(10 * NS_PER_MS);
	return events[type] > 0;
}

static bool open_remote(struct opened *o, const char *uri)
{
	memset(events, 0, sizeof(events));
	if (!opened_open(o, uri, DESC_WRITE))
		return false;
	o->desc->event = count_event;
	return true;
}

ENGINE_TEST(nvmf_does_every_operation)
{
	static uint8_t a[8 * LBA_SIZE], b[8 * LBA_SIZE], pair[2 * LBA_SIZE];
	struct opened o;

	if (!rig_up("malloc:///m?size_mb=8") || !open_remote(&o, rig.uri[0]))
		return;
	CHECK_EQ(o.dev->nblocks, rig.back->nblocks);
	CHECK(uuid_equal(&o.dev->uuid, &rig.back->uuid));
	CHECK(rig.back->unmap_reads_zero && !o.dev->unmap_reads_zero); /* to unmap is advice */
	memset(a, 0x5a, sizeof(a));
	CHECK_EQ(do_io(&o, IO_WRITE, 16, 8, a, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_WRITE, 24, 8, a, IO_FUA), IO_OK);
	CHECK_EQ(do_io(&o, IO_READ, 16, 8, b, 0), IO_OK);
	CHECK_MEM(b, a, sizeof(a));
	CHECK_EQ(do_io(&o, IO_COMPARE, 16, 8, a, 0), IO_OK);
	a[1] = 0;
	CHECK_EQ(do_io(&o, IO_COMPARE, 16, 8, a, 0), IO_MISCOMPARE);
	memset(pair, 0x5a, LBA_SIZE);
	memset(pair + LBA_SIZE, 0x33, LBA_SIZE);
	CHECK_EQ(do_io(&o, IO_COMPARE_WRITE, 16, 1, pair, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_COMPARE_WRITE, 16, 1, pair, 0), IO_MISCOMPARE);
	CHECK_EQ(do_io(&o, IO_FLUSH, 0, 0, NULL, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_UNMAP, 16, 4, NULL, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_WRITE_ZEROES, 20, 4, NULL, IO_NO_DEALLOCATE), IO_OK);
	CHECK_EQ(do_io(&o, IO_WRITE_ZEROES, 0, 16384, NULL, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_READ, 16, 8, b, 0), IO_OK);
	memset(a, 0, sizeof(a));
	CHECK_MEM(b, a, sizeof(a));
	CHECK_EQ(do_io(&o, IO_RESET, 0, 0, NULL, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_READ, 16, 8, b, 0), IO_OK);
	CHECK_EQ(do_io(&o, IO_READ, o.dev->nblocks, 1, b, 0), IO_OUT_OF_RANGE);
	opened_close(&o);
	rig_down();
}

ENGINE_TEST(nvmf_passes_commands_through)
{
	static struct nvme_id_ctrl id;
	static struct nvme_id_ns ns;
	static uint8_t log[512];
	struct nvme_cmd cmd = {};
	uint8_t hostid[16] = {};
	struct opened o, mem;
	struct err err = {};

	if (!rig_up("malloc:///m?size_mb=8") || !open_remote(&o, rig.uri[0]))
		return;
	CHECK_EQ(nvme_identify_ctrlr(o.h, &id, &err), 0);
	CHECK_STR(id.subnqn, NQN);
	CHECK_EQ(nvme_identify_ns(o.h, 0, &ns, &err), 0);
	CHECK_EQ(le64_get(ns.nsze), o.dev->nblocks);
	CHECK_EQ(nvme_log_page(o.h, NVME_LOG_SMART, NVME_NSID_ALL, 0, log, sizeof(log), &err), 0);
	CHECK_EQ(nvme_host_id(o.h, hostid, &err), 0);
	CHECK_STR(err.msg, "");
	/* what would take the controller from under us is refused */
	cmd.opcode = NVME_ADMIN_KEEP_ALIVE;
	CHECK_EQ(nvme_admin(o.h, &cmd, NULL, 0, NULL, &err), -EOPNOTSUPP);
	cmd.opcode = NVME_ADMIN_SET_FEATURES;
	le32_put(&cmd.cdw10, NVME_FEAT_QUEUES);
	CHECK_EQ(nvme_admin(o.h, &cmd, NULL, 0, NULL, NULL), -EOPNOTSUPP);
	cmd.opcode = NVME_FABRICS;
	CHECK_EQ(nvme_admin(o.h, &cmd, NULL, 0, NULL, NULL) < 0, true);
	CHECK(opened_open(&mem, "malloc:///other?size_mb=1", 0));
	err_clear(&err);
	CHECK_EQ(nvme_identify_ctrlr(mem.h, &id, &err), -EOPNOTSUPP);
	CHECK_HAS(err.msg, "no NVMe device");
	opened_close(&mem);
	opened_close(&o);
	rig_down();
}

/* ---- pairs: one counter, many who raise it by compare and write ---------------------------- */

enum { RAISERS = 12, RAISES = 20, RAISE_NLB = 8, PIECES = 8 };

static struct raiser {
	struct opened *o;
	struct io io;
	uint8_t data[2 * RAISE_NLB * LBA_SIZE];
	struct iovec iov[PIECES];
	unsigned done, missed;
	struct task_event event;
} raisers[RAISERS];

/* The counter is every byte of its blocks, so that halves of two writes would be seen. */
static void raise_once(struct raiser *r, uint8_t from)
{
	const size_t half = sizeof(r->data) / 2, piece = sizeof(r->data) / PIECES;

	memset(r->data, from, half);
	memset(r->data + half, from + 1, half);
	for (unsigned i = 0; i < PIECES; i++)
		r->iov[i] = (struct iovec){ r->data + i * piece, piece };
	r->io.op = IO_COMPARE_WRITE;
	r->io.lba = 128;
	r->io.nlb = RAISE_NLB;
	r->io.iov = r->iov;
	r->io.iovcnt = PIECES;
	io_submit(r->o->h, &r->io);
}

/* On a miss the next guess: those who know the counter are a crowd, so it is soon right. */
static void raised(struct io *io)
{
	struct raiser *r = io->owner;
	uint8_t from = r->data[0];

	if (io->status == IO_OK)
		r->done++;
	else if (CHECK_EQ(io->status, IO_MISCOMPARE))
		r->missed++;
	else
		r->done = RAISES;
	if (r->done == RAISES)
		task_event_fire(&r->event);
	else
		raise_once(r, (uint8_t)(from + 1));
}

/* FUSES of our target is 1: pairs reach it as pairs, with other commands between them. */
ENGINE_TEST(nvmf_pairs_are_atomic)
{
	static uint8_t buf[RAISE_NLB * LBA_SIZE];
	unsigned missed = 0;
	struct opened o;
	char uri[320];

	if (!rig_up("malloc:///m?size_mb=8"))
		return;
	(void)snprintf(uri, sizeof(uri), "%s?queue_depth=5", rig.uri[0]);
	if (!open_remote(&o, uri))
		return;
	CHECK(o.dev->ops & IO_BIT(IO_COMPARE_WRITE));
	for (unsigned i = 0; i < RAISERS; i++) {
		raisers[i] = (struct raiser){ .o = &o,
					      .io = { .done = raised, .owner = &raisers[i] } };
		raise_once(&raisers[i], 0);
	}
	for (unsigned i = 0; i < RAISERS; i++) {
		CHECK_EQ(do_io(&o, IO_WRITE, i, 1, buf, 0), IO_OK);
		task_event_wait(&raisers[i].event);
		CHECK_EQ(raisers[i].done, RAISES);
		missed += raisers[i].missed;
	}
	CHECK(missed > 0);
	CHECK_EQ(do_io(&o, IO_READ, 128, RAISE_NLB, buf, 0), IO_OK);
	for (size_t i = 0; i < sizeof(buf); i++) {
		if (buf[i] != (uint8_t)(RAISERS * RAISES) && !CHECK_EQ(buf[i], RAISERS * RAISES))
			break;
	}
	CHECK_EQ(do_io(&o, IO_COMPARE_WRITE, 0, o.dev->max_io_nlb, NULL, 0), IO_INVALID);
	opened_close(&o);
	rig_down();
}

/* ---- reservations --------------------------------------------------------------------------- */

/* Two hosts, one namespace, through what owners of a device use. */
ENGINE_TEST(nvmf_reserves)
{
	static uint8_t buf[LBA_SIZE], report[4096];
	const struct nvme_resv_status *status = (const void *)report;
	struct opened one, two;
	struct err err = {};
	uint8_t id[16];
	char uri[320];

	if (!rig_up("malloc:///m?size_mb=8") || !open_remote(&one, rig.uri[0]))
		return;
	(void)snprintf(uri, sizeof(uri), "nvmf://127.0.0.2:%u/" NQN "?hostnqn=nqn.2000-01.x:other",
		       target_listener_port(rig.target, 0));
	if (!opened_open(&two, uri, DESC_WRITE))
		return;
	CHECK(one.dev != two.dev);
	CHECK_EQ(nvme_resv_acquire(one.h, 1, 0, NVME_RESV_ACQUIRE, NVME_RESV_WRITE_EXCLUSIVE, NULL),
		 -EBADE); /* not registered */
	CHECK_EQ(nvme_resv_register(one.h, 0, 1, NVME_RESV_REGISTER, NVME_RESV_CPTPL_KEEP, &err),
		 0);
	CHECK_EQ(nvme_resv_acquire(one.h, 1, 0, NVME_RESV_ACQUIRE, NVME_RESV_WRITE_EXCLUSIVE, &err),
		 0);
	CHECK_EQ(do_io(&one, IO_WRITE, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(do_io(&two, IO_READ, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(do_io(&two, IO_WRITE, 0, 1, buf, 0), IO_RESERVED);
	CHECK_EQ(nvme_resv_report(one.h, true, report, sizeof(report), &err), 0);
	CHECK_EQ(status->rtype, NVME_RESV_WRITE_EXCLUSIVE);
	CHECK_EQ(le16_get(status->regctl), 1);
	CHECK_EQ(le64_get(status->registrant[0].rkey), 1);
	CHECK_EQ(nvme_host_id(one.h, id, &err), 0);
	CHECK_MEM(status->registrant[0].hostid, id, sizeof(id));
	/* the other takes it away, and is told so is the first */
	CHECK_EQ(nvme_resv_register(two.h, 0, 2, NVME_RESV_REGISTER, NVME_RESV_CPTPL_KEEP, &err),
		 0);
	CHECK_EQ(
		nvme_resv_acquire(two.h, 2, 1, NVME_RESV_PREEMPT, NVME_RESV_EXCLUSIVE_ACCESS, &err),
		0);
	CHECK(wait_event(DEVICE_RESERVATION));
	CHECK_EQ(do_io(&one, IO_READ, 0, 1, buf, 0), IO_RESERVED);
	CHECK_EQ(nvme_resv_release(two.h, 2, NVME_RESV_RELEASE, NVME_RESV_EXCLUSIVE_ACCESS, &err),
		 0);
	CHECK_EQ(do_io(&one, IO_READ, 0, 1, buf, 0), IO_OK);
	CHECK_EQ(nvme_resv_register(two.h, 2, 0, NVME_RESV_UNREGISTER, NVME_RESV_CPTPL_KEEP, &err),
		 0);
	CHECK_STR(err.msg, "");
	opened_close(&two);
	opened_close(&one);
	rig_down();
}

ENGINE_TEST(nvmf_second_uri_is_a_path)
{
	static uint8_t buf[LBA_SIZE];
	struct device *dev = NULL;
	struct err err = {};
	struct opened o;

	if (!rig_up("malloc:///m?size_mb=8") || !open_remote(&o, rig.uri[0]))
		return;
	CHECK_EQ(device_create(rig.uri[1], &dev, &err), 0);
	CHECK(dev == o.dev);
	CHECK(device_has_alias(dev, rig.uri[1]));
	CHECK_EQ(subsystem_controller_count(rig.subsystem), 2);
	CHECK_EQ(device_create(rig.uri[1], &dev, NULL), -EEXIST);
	for (unsigned i = 0; i < 8; i++)
		CHECK_EQ(do_io(&o, IO_READ, i, 1, buf, 0), IO_OK);
	/* the URI that came first goes; the device stays, by the other */
	CHECK_EQ(device_destroy(rig.uri[0], &err), 0);
	CHECK_STR(err.msg, "");
	CHECK_EQ(events[DEVICE_REMOVED], 0);
	CHECK(!device_has_alias(o.dev, rig.uri[0]));
	CHECK_EQ(subsystem_controller_count(rig.subsystem), 1);
	for (unsigned i = 0; i < 8; i++)
		CHECK_EQ(do_io(&o, IO_WRITE, i, 1, buf, 0), IO_OK);
	/* and comes back */
	CHECK_EQ(device_create(rig.uri[0], &dev, &err), 0);
	CHECK(dev == o.dev);
	CHECK_EQ(subsystem_controller_count(rig.subsystem), 2);
	CHECK_EQ(device_destroy(rig.uri[1], &err), 0);
	desc_close(o.desc);
	CHECK_EQ(device_destroy(rig.uri[0], &err), 0);
	CHECK_STR(err.msg, "");
	CHECK(device_next(device_next(NULL)) == NULL); /* only the one that is served */
	CHECK_EQ(subsystem_controller_count(rig.subsystem), 0);
	rig_down();
}

ENGINE_TEST(nvmf_is_destroyed_by_a_shorter_uri)
{
	struct device *dev = NULL;
	struct err err = {};
	char uri[320];

	if (!rig_up("malloc:///m?size_mb=8"))
		return;
	(void)snprintf(uri, sizeof(uri), "%s?queue_depth=8", rig.uri[0]);
	CHECK_EQ(device_create(uri, &dev, &err), 0);
	(void)snprintf(uri, sizeof(uri), "%s?queue_depth=9", rig.uri[1]);
	CHECK_EQ(device_create(uri, &dev, &err), 0);
	CHECK_EQ(device_destroy(rig.uri[0], &err), 0); /* a path */
	CHECK_EQ(subsystem_controller_count(rig.subsystem), 1);
	(void)snprintf(uri, sizeof(uri), "%s?nsid=2", rig.uri[1]);
	CHECK_EQ(device_destroy(uri, NULL), -ENOENT);
	CHECK_EQ(device_destroy(rig.uri[0], NULL), -ENOENT);
	CHECK_EQ(device_destroy(rig.uri[1], &err), 0); /* the device */
	CHECK_STR(err.msg, "");
	CHECK(device_next(device_next(NULL)) == NULL);
	rig_down();
}

/* A port that nobody else gets, and at which nobody listens. */
static int port_hold(uint16_t *ret_port)
{
	struct sockaddr_in addr = { .sin_family = AF_INET,
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK_EQ(bind(fd, (struct sockaddr *)&addr, len), 0);
	CHECK_EQ(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
	*ret_port = ntohs(addr.sin_port);
	return fd;
}

static int two_addresses(const char *host, struct resolved *ret, struct err *err)
{
	static const char *const addr[] = { "127.0.0.2", "127.0.0.3" };

	if (strcmp(host, "two.example") != 0)
		return err_set(err, -ENOENT, "no such host");
	ret->count = ARRAY_LEN(addr);
	for (size_t i = 0; i < ARRAY_LEN(addr); i++)
		memcpy(ret->addr[i], addr[i], strlen(addr[i]) + 1);
	return 0;
}

ENGINE_TEST(nvmf_tries_each_address_of_a_name)
{
	static uint8_t buf[LBA_SIZE];
	struct err err = {};
	struct opened o;
	char uri[320];

	if (!rig_up("malloc:///m?size_mb=8"))
		return;
	CHECK_EQ(target_listen(rig.target, "127.0.0.3", 0, &err), 0);
	(void)snprintf(uri, sizeof(uri), "nvmf://two.example:%u/" NQN,
		       target_listener_port(rig.target, LISTENERS));
	resolve_set(two_addresses);
	if (open_remote(&o, uri)) {
		CHECK_EQ(do_io(&o, IO_READ, 0, 1, buf, 0), IO_OK);
		opened_close(&o);
	}
	/* a controller that says no is an answer */
	(void)snprintf(uri, sizeof(uri), "nvmf://two.example:%u/nqn.wrong:one",
		       target_listener_port(rig.target, LISTENERS));
	CHECK(device_create(uri, &o.dev, &err) < 0);
	CHECK_HAS(err.msg, "no such subsystem");
	err_clear(&err);
	(void)snprintf(uri, sizeof(uri), "nvmf://two.example:1/" NQN);
	CHECK_EQ(device_create(uri, &o.dev, &err), -ECONNREFUSED);
	CHECK_HAS(err.msg, "127.0.0.2");
	CHECK_HAS(err.msg, "1 tried");
	resolve_set(NULL);
	rig_down();
}

ENGINE_TEST(nvmf_path_that_comes_later)
{
	static uint8_t buf[LBA_SIZE];
	struct err err = {};
	struct opened o;
	uint16_t port;
	char uri[400];
	int fd = port_hold(&port);

	if (!rig_up("malloc:///m?size_mb=8"))
		return;
	(void)snprintf(uri, sizeof(uri), "%s?paths=127.0.0.1:%u&reconnect_delay=20ms", rig.uri[0],
		       port);
	if (!open_remote(&o, uri))
		return;
	CHECK_EQ(subsystem_controller_count(rig.subsystem), 1);
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	(void)close(fd);
	CHECK_EQ(target_listen(rig.target, "127.0.0.1", port, &err), 0);
	for (unsigned i = 0; i < 500 && subsystem_controller_count(rig.subsystem) < 2; i++)
		task_sleep(10 * NS_PER_MS);
	CHECK_EQ(subsystem_controller_count(rig.subsystem), 2);
	/* it is more than connected: it carries all that the other cannot */
	CHECK_EQ(subsystem_set_ana(rig.subsystem, 0, 0, ANA_INACCESSIBLE, &err), 0);
	CHECK_STR(err.msg, "");
	CHECK_EQ(do_io(&o, IO_READ, 0, 1, buf, 0), IO_OK);
	opened_close(&o);
	CHECK_EQ(subsystem_controller_count(rig.subsystem), 0);
	rig_down();
}

ENGINE_TEST(nvmf_first_path_comes_later)
{
	static uint8_t buf[LBA_SIZE];
	struct device *dev = NULL;
	struct err err = {};
	struct opened o;
	uint16_t port;
	char uri[400];
	int fd = port_hold(&port);

	if (!rig_up("malloc:///m?size_mb=8"))
		return;
	(void)snprintf(uri, sizeof(uri),
		       "nvmf://127.0.0.1:%u/" NQN "?paths=127.0.0.1:%u,127.0.0.1:%u"
		       "&reconnect_delay=20ms",
		       port, target_listener_port(rig.target, 0),
		       target_listener_port(rig.target, 1));
	if (!open_remote(&o, uri))
		return;
	(void)snprintf(uri + 300, 100, "127.0.0.1:%u/" NQN "n1", port);
	CHECK_STR(o.dev->name, uri + 300); /* named as it would be with all of them */
	CHECK_EQ(subsystem_controller_count(rig.subsystem), 2);
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, buf, 0), IO_OK);
	(void)close(fd);
	CHECK_EQ(target_listen(rig.target, "127.0.0.1", port, &err), 0);
	for (unsigned i = 0; i < 500 && subsystem_controller_count(rig.subsystem) < 3; i++)
		task_sleep(10 * NS_PER_MS);
	CHECK_EQ(subsystem_controller_count(rig.subsystem), 3);
	for (int i = 0; i < LISTENERS; i++)
		CHECK_EQ(subsystem_set_ana(rig.subsystem, i, 0, ANA_INACCESSIBLE, &err), 0);
	CHECK_STR(err.msg, "");
	CHECK_EQ(do_io(&o, IO_READ, 0, 1, buf, 0), IO_OK);
	opened_close(&o);
	CHECK_EQ(subsystem_controller_count(rig.subsystem), 0);
	(void)snprintf(uri, sizeof(uri), "nvmf://127.0.0.1:1/" NQN "?paths=127.0.0.1:2");
	CHECK_EQ(device_create(uri, &dev, &err), -ECONNREFUSED);
	CHECK_HAS(err.msg, "127.0.0.1:1");
	CHECK_HAS(err.msg, "nor can any place of paths=");
	rig_down();
}

ENGINE_TEST(nvmf_follows_size_and_presence)
{
	static uint8_t buf[LBA_SIZE];
	struct err err = {};
	struct opened o;
	uint32_t nsid;

	if (!rig_up("malloc:///m?size_mb=8&capacity_mb=16") || !open_remote(&o, rig.uri[0]))
		return;
	CHECK_EQ(device_create("malloc:///m?size_mb=16&resize", &rig.back, &err), 0);
	CHECK(wait_event(DEVICE_RESIZED));
	CHECK_EQ(o.dev->nblocks, 2 * 16384);
	CHECK_EQ(do_io(&o, IO_READ, 2 * 16384 - 1, 1, buf, 0), IO_OK);
	CHECK_EQ(subsystem_remove_ns(rig.subsystem, 1, &err), 0);
	CHECK(wait_event(DEVICE_FAILED));
	CHECK_EQ(do_io(&o, IO_READ, 0, 1, buf, 0), IO_NO_DEVICE);
	/* the same medium under the same number: the device works again */
	CHECK_EQ(subsystem_add_ns(rig.subsystem, rig.back, 1, &nsid, &err), 0);
	for (unsigned i = 0; i < 500 && do_io(&o, IO_READ, 0, 1, buf, 0) != IO_OK; i++)
		task_sleep(10 * NS_PER_MS);
	CHECK_EQ(do_io(&o, IO_READ, 0, 1, buf, 0), IO_OK);
	CHECK_STR(err.msg, "");
	opened_close(&o);
	rig_down();
}

ENGINE_TEST(nvmf_refuses_another_medium)
{
	static uint8_t buf[LBA_SIZE];
	struct device *other;
	struct err err = {};
	struct opened o;

	if (!rig_up("malloc:///m?size_mb=8") || !open_remote(&o, rig.uri[0]))
		return;
	CHECK_EQ(device_create("malloc:///other?size_mb=8", &other, &err), 0);
	CHECK_EQ(subsystem_remove_ns(rig.subsystem, 1, &err), 0);
	CHECK_EQ(subsystem_add_ns(rig.subsystem, other, 1, NULL, &err), 0);
	CHECK(wait_event(DEVICE_FAILED));
	CHECK_EQ(do_io(&o, IO_READ, 0, 1, buf, 0), IO_NO_DEVICE);
	CHECK_STR(err.msg, "");
	opened_close(&o);
	rig_down();
}

/* A read that waits for a target that does not come back: removal ends it. */
static void read_done(struct io *io)
{
	task_event_fire(io->owner);
}

static void remove_task(void *arg)
{
	CHECK_EQ(device_remove(arg, NULL), 0);
}

ENGINE_TEST(nvmf_removal_does_not_wait_for_the_target)
{
	static uint8_t buf[LBA_SIZE];
	static struct {
		struct io io;
		struct task_event event;
	} waits[2];
	struct nvme_cmd cmd = {};
	struct task_event event = {};
	char uri[320];
	struct opened o;

	if (!rig_up("malloc:///m?size_mb=8"))
		return;
	(void)snprintf(uri, sizeof(uri), "%s?ctrl_loss=1h&reconnect_delay=1h", rig.uri[0]);
	if (!open_remote(&o, uri))
		return;
	target_stop(rig.target);
	rig.target = NULL;
	task_sleep(50 * NS_PER_MS);
	o.io = (struct io){ .op = IO_READ, .nlb = 1, .done = read_done, .owner = &event };
	io_set_buf(&o.io, buf, sizeof(buf));
	CHECK_EQ(io_start(o.h, &o.io), IO_PENDING);
	/* what the primary does for a device waits elsewhere */
	cmd.opcode = NVME_ADMIN_IDENTIFY;
	for (unsigned i = 0; i < ARRAY_LEN(waits); i++) {
		waits[i].io = (struct io){ .op = i == 0 ? IO_RESET : IO_NVME_ADMIN,
					   .cmd = &cmd,
					   .done = read_done,
					   .owner = &waits[i].event };
		CHECK_EQ(io_start(o.h, &waits[i].io), IO_PENDING);
	}
	task_sleep(50 * NS_PER_MS);
	CHECK_EQ(task_spawn("remove", remove_task, o.dev), 0);
	task_event_wait(&event);
	task_event_wait(&waits[0].event);
	task_event_wait(&waits[1].event);
	CHECK_EQ(o.io.status, IO_NO_DEVICE);
	CHECK_EQ(waits[0].io.status, IO_NO_DEVICE);
	CHECK_EQ(waits[1].io.status, IO_NO_DEVICE);
	CHECK_EQ(events[DEVICE_REMOVED], 1);
	desc_close(o.desc);
	while (device_lookup(uri) != NULL)
		task_yield();
	rig_down();
}

/* The queue's own Connect is in flight then, and nobody's request. Mirror seed 2001684. */
ENGINE_TEST(nvmf_is_cut_off_while_its_queue_connects)
{
	static uint8_t buf[LBA_SIZE];
	struct slot *slot = NULL;
	struct queue *q;
	char uri[320];
	struct opened o;

	if (!rig_up("malloc:///m?size_mb=8"))
		return;
	(void)snprintf(uri, sizeof(uri), "%s?reconnect_delay=10ms", rig.uri[0]);
	if (!open_remote(&o, uri))
		return;
	CHECK_EQ(do_io(&o, IO_READ, 0, 1, buf, 0), IO_OK);
	q = chan_of(o.h->ch)->ioq[0]->q;
	queue_disconnect(q, -ECONNABORTED);
	for (uint64_t until_ns = reactor_self()->now_ns + 10 * NS_PER_S;
	     slot == NULL && reactor_self()->now_ns < until_ns;) {
		task_yield();
		slot = queue_next_inflight(q, NULL);
	}
	if (CHECK(slot != NULL))
		CHECK(slot->owner == NULL);
	device_abort(o.dev);
	CHECK_EQ(do_io(&o, IO_READ, 0, 1, buf, 0), IO_TRANSPORT);
	opened_close(&o);
	rig_down();
}

static unsigned lines, attempt;

static void count_line(void *ctx, enum log_level level, uint64_t now_ns, const char *text)
{
	const char *at = strstr(text, "reconnecting in ");

	(void)ctx;
	(void)level;
	(void)now_ns;
	if (at != NULL && (at = strstr(at, "(attempt ")) != NULL) {
		lines++;
		attempt = (unsigned)strtoul(at + strlen("(attempt "), NULL, 10);
	}
}

/* Of many attempts in vain a few are told, and late ones among them. */
ENGINE_TEST(nvmf_reconnects_quietly)
{
	char uri[320];
	struct opened o;

	if (!rig_up("malloc:///m?size_mb=8"))
		return;
	(void)snprintf(uri, sizeof(uri), "%s?reconnect_delay=1ms", rig.uri[0]);
	if (!open_remote(&o, uri))
		return;
	lines = attempt = 0;
	log_set_sink(count_line, NULL);
	target_stop(rig.target);
	rig.target = NULL;
	for (unsigned i = 0; i < 5000 && attempt < 65; i++)
		task_sleep(NS_PER_MS);
	log_set_sink(NULL, NULL);
	CHECK_EQ(attempt, 65); /* that is, 64 were made */
	CHECK_EQ(lines, 7);
	opened_close(&o);
	rig_down();
}

ENGINE_TEST(nvmf_ctrl_loss_0_fails_at_once)
{
	static uint8_t buf[LBA_SIZE];
	char uri[320];
	struct opened o;

	if (!rig_up("malloc:///m?size_mb=8"))
		return;
	(void)snprintf(uri, sizeof(uri), "%s?ctrl_loss=0", rig.uri[0]);
	if (!open_remote(&o, uri))
		return;
	CHECK_EQ(do_io(&o, IO_RESET, 0, 0, NULL, 0), IO_OK); /* a reset is no loss */
	CHECK_EQ(do_io(&o, IO_READ, 0, 1, buf, 0), IO_OK);
	target_stop(rig.target);
	rig.target = NULL;
	CHECK(wait_event(DEVICE_FAILED));
	CHECK_EQ(events[DEVICE_FAILED], 1);
	CHECK_EQ(do_io(&o, IO_READ, 0, 1, buf, 0), IO_TRANSPORT);
	CHECK_EQ(do_io(&o, IO_RESET, 0, 0, NULL, 0), IO_TRANSPORT);
	opened_close(&o);
	rig_down();
}

ENGINE_TEST(nvmf_64_controllers)
{
	enum { COUNT = 64 };
	static struct opened all[COUNT];
	static uint8_t buf[LBA_SIZE];
	char uri[400];

	if (!rig_up("malloc:///m?size_mb=8"))
		return;
	for (unsigned i = 0; i < COUNT; i++) {
		/* each another host, so that they do not become paths of one device */
		(void)snprintf(uri, sizeof(uri),
			       "nvmf+tcp://127.0.0.%u:%u/" NQN "?hostnqn=nqn.h:%u", 1 + i,
			       target_listener_port(rig.target, 0), i);
		if (!opened_open(&all[i], uri, 0))
			return;
		CHECK_EQ(do_io(&all[i], IO_READ, i, 1, buf, 0), IO_OK);
	}
	CHECK_EQ(subsystem_controller_count(rig.subsystem), COUNT);
	for (unsigned i = 0; i < COUNT; i++)
		opened_close(&all[i]);
	CHECK_EQ(subsystem_controller_count(rig.subsystem), 0);
	CHECK(device_create("nvmf+rdma+tcp://127.0.0.1:1/nqn.a", &all[0].dev, NULL) < 0);
	rig_down();
}

TAP_MAIN()
