/* SPDX-License-Identifier: Apache-2.0 */
/* Children that get worse: what is said of them, when, and that nothing is done about it. */
#include "base/units.h"
#include "nexus/rebuild.h"
#include "nexus/testing.h"

enum {
	NWRITES = 8, /* at once */
	ADMIN_OPCODE_LOG = 0x02,
	HEALTH_PAGE = 0x02,
};

#define TICK      (5 * NS_PER_MS)
#define PATIENCE  (10 * NS_PER_S)
#define SLOW      "inject://c1?op=write&method=delay&stage=completion&delay_us=20000"
#define SLOW_READ "inject://c1?op=read&method=delay&stage=completion&delay_us=20000"
/* of the leg only, so that what mends the block can read it: NVMe 2.81, unrecovered read error */
#define MEDIUM_ERROR \
	"inject://c1?domain=child&op=read&stage=completion&method=status-nvme-2-81&retries=%u"

static uint8_t bufs[NWRITES][BLOCK];

/* ---- who listens ---------------------------------------------------------------------------- */

static struct {
	struct nexus_listener listener;
	unsigned begun[NEXUS_WARN_COUNT_], ended[NEXUS_WARN_COUNT_];
	char child[128], detail[256]; /* of the last */
} ear;

static void heard(struct nexus_listener *listener, const struct nexus_event *event)
{
	(void)listener;
	if (event->type != NEXUS_EVENT_HEALTH)
		return;
	++*(event->is_ok ? &ear.ended[event->warning] : &ear.begun[event->warning]);
	(void)snprintf(ear.child, sizeof(ear.child), "%s", event->child);
	(void)snprintf(ear.detail, sizeof(ear.detail), "%s", event->detail);
}

static void listen(void)
{
	ear = (typeof(ear)){ .listener.fn = heard };
	nexus_listen(&ear.listener);
}

static unsigned nheard(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < NEXUS_WARN_COUNT_; i++)
		n += ear.begun[i] + ear.ended[i];
	return n;
}

static bool watched_make(unsigned nchildren)
{
	if (!nexus_make(nchildren))
		return false;
	nexus_settings.health_tick_ns = TICK;
	nx->child_timeout_ns = 800 * NS_PER_MS; /* before the watch runs: a tick of 100 ms */
	nx->slow_ns = 2 * NS_PER_MS;
	listen();
	/* marked before: what is timed below is the data's */
	return CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, bufs[0], 0), IO_OK);
}

static void watched_unmake(void)
{
	fault_remove_all();
	nexus_unmake();
	nexus_unlisten(&ear.listener);
}

static void load(enum io_op op, unsigned rounds)
{
	struct late_io late[NWRITES];

	while (rounds-- > 0) {
		for (unsigned i = 0; i < NWRITES; i++)
			late_start(&late[i], op, i, 1, bufs[i]);
		for (unsigned i = 0; i < NWRITES; i++)
			task_event_wait(&late[i].event);
	}
}

/* Until it was said @n times, under load of @op; false: it takes too long. */
static bool until(const unsigned *said, unsigned n, enum io_op op)
{
	uint64_t end_ns = reactor_self()->now_ns + PATIENCE;

	while (*said < n && reactor_self()->now_ns < end_ns)
		load(op, 1);
	return CHECK_EQ(*said, n);
}

/* The same, with nothing to do. */
static bool until_by_itself(const unsigned *said, unsigned n)
{
	uint64_t end_ns = reactor_self()->now_ns + PATIENCE;

	while (*said < n && reactor_self()->now_ns < end_ns)
		task_sleep(TICK);
	return CHECK_EQ(*said, n);
}

/* Until a look has seen nothing. */
static void until_asleep(void)
{
	uint64_t end_ns = reactor_self()->now_ns + PATIENCE;

	while (atomic_load(&nx->is_observed) && reactor_self()->now_ns < end_ns)
		task_sleep(TICK);
	CHECK(!atomic_load(&nx->is_observed));
}

/* ---- stalls --------------------------------------------------------------------------------- */

ENGINE_TEST(a_child_that_answers_nothing_is_told_before_it_is_out)
{
	struct late_io late;

	if (!watched_make(2))
		return;
	nx->stall_ns = 50 * NS_PER_MS; /* two ticks of the watch are more */
	inject("inject://c1?op=write&method=delay&delay_us=600000&retries=1");
	late_start(&late, IO_WRITE, 0, 1, bufs[0]);
	CHECK(until_by_itself(&ear.begun[NEXUS_WARN_STALL], 1));
	CHECK(!late.is_done);
	CHECK_STR(ear.child, uris[1]);
	CHECK_HAS(ear.detail, "it has answered nothing for ");
	CHECK_EQ(child_info(1).warnings, 1u << NEXUS_WARN_STALL);
	CHECK_EQ(child_info(0).warnings, 0);
	CHECK_EQ(status(), NEXUS_ONLINE); /* only said */
	task_event_wait(&late.event);
	CHECK_EQ(late.io.status, IO_OK);
	CHECK(until_by_itself(&ear.ended[NEXUS_WARN_STALL], 1));
	CHECK_EQ(child_info(1).warnings, 0);
	CHECK_EQ(status(), NEXUS_ONLINE);
	CHECK_EQ(nheard(), 2);
	watched_unmake();
}

/* What its leg has seen of it before it left does not count when it is back. */
ENGINE_TEST(a_child_that_hung_comes_back_without_a_stall)
{
	struct nexus_err ne = {};
	struct late_io late;

	if (!watched_make(2))
		return;
	inject("inject://c1?op=write&method=delay&delay_us=900000&retries=1");
	late_start(&late, IO_WRITE, 0, 1, bufs[0]);
	task_event_wait(&late.event);
	settle_down();
	CHECK_EQ(child_info(1).reason, NEXUS_REASON_TIMED_OUT);
	CHECK_EQ(ear.begun[NEXUS_WARN_STALL], 1);
	CHECK_EQ(nexus_child_online(nx, uris[1], &ne), 0);
	nexus_rebuild_wait(nx);
	until_asleep();
	CHECK_EQ(child_info(1).warnings, 0);
	CHECK_EQ(ear.begun[NEXUS_WARN_STALL], 1);
	CHECK_EQ(status(), NEXUS_ONLINE);
	watched_unmake();
}

/* A task waits for the child: the segment is to be marked before the write is sent. */
ENGINE_TEST(a_mark_that_hangs_is_a_stall)
{
	struct late_io late;

	if (!watched_make(2))
		return;
	nx->stall_ns = 50 * NS_PER_MS;
	inject("inject://c1?op=write&method=delay&delay_us=600000&retries=1");
	late_start(&late, IO_WRITE, NBLOCKS - 8, 1, bufs[0]);
	CHECK(until_by_itself(&ear.begun[NEXUS_WARN_STALL], 1));
	CHECK(!late.is_done);
	CHECK_STR(ear.child, uris[1]);
	task_event_wait(&late.event);
	CHECK_EQ(status(), NEXUS_ONLINE);
	watched_unmake();
}

ENGINE_TEST(a_busy_child_is_no_stall_however_short_the_limit)
{
	uint64_t end_ns;
	struct late_io late;

	if (!watched_make(2))
		return;
	nx->stall_ns = 1;
	nx->slow_ns = UINT64_MAX;
	inject("inject://c1?op=write&method=delay&delay_us=5000");
	end_ns = reactor_self()->now_ns + 500 * NS_PER_MS;
	while (reactor_self()->now_ns < end_ns) {
		late_start(&late, IO_WRITE, 0, 1, bufs[0]);
		task_event_wait(&late.event);
	}
	CHECK(atomic_load(&nx->is_observed));
	CHECK_EQ(nheard(), 0);
	watched_unmake();
}

ENGINE_TEST(what_is_off_is_not_told)
{
	struct late_io late;

	if (!watched_make(2))
		return;
	nx->stall_ns = nx->slow_ns = UINT64_MAX;
	inject("inject://c1?op=write&method=delay&stage=completion&delay_us=600000&retries=1");
	late_start(&late, IO_WRITE, 0, 1, bufs[0]);
	task_event_wait(&late.event);
	CHECK_EQ(nheard(), 0);
	watched_unmake();
}

/* ---- latency -------------------------------------------------------------------------------- */

static void check_slow(const char *fault, enum io_op op, const char *says)
{
	if (!watched_make(3))
		return;
	inject(fault);
	CHECK(until(&ear.begun[NEXUS_WARN_SLOW], 1, op));
	CHECK_STR(ear.child, uris[1]);
	CHECK_HAS(ear.detail, says);
	CHECK_EQ(child_info(1).warnings, 1u << NEXUS_WARN_SLOW);
	CHECK_EQ(child_info(0).warnings, 0);
	CHECK_EQ(child_info(2).warnings, 0);
	CHECK_EQ(status(), NEXUS_ONLINE);
	fault_remove_all();
	CHECK(until(&ear.ended[NEXUS_WARN_SLOW], 1, op));
	CHECK_EQ(child_info(1).warnings, 0);
	CHECK_EQ(nheard(), 2);
	watched_unmake();
}

ENGINE_TEST(slow_writes_are_told_and_their_end)
{
	check_slow(SLOW, IO_WRITE, "writes take ");
}

ENGINE_TEST(slow_reads_are_told_and_their_end)
{
	check_slow(SLOW_READ, IO_READ, "reads take ");
}

/* As slow as the other, or faster than anybody minds, or with nobody to compare with. */
ENGINE_TEST(slow_is_relative_and_has_a_floor)
{
	static const struct {
		const char *name;
		unsigned nchildren;
		uint64_t slow_ns;
		const char *faults[2];
	} rows[] = {
		{ "both",
		  2,
		  2 * NS_PER_MS,
		  { SLOW, "inject://c0?op=write&method=delay&stage=completion&delay_us=20000" } },
		{ "the floor", 2, NS_PER_S, { SLOW } },
		{ "alone",
		  1,
		  2 * NS_PER_MS,
		  { "inject://c0?op=write&method=delay&stage=completion&delay_us=20000" } },
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		TAP_ROW(rows[i].name);
		if (!watched_make(rows[i].nchildren))
			return;
		nx->slow_ns = rows[i].slow_ns;
		for (unsigned j = 0; j < 2 && rows[i].faults[j] != NULL; j++)
			inject(rows[i].faults[j]);
		load(IO_WRITE, 12);
		CHECK_EQ(nheard(), 0);
		watched_unmake();
	}
	TAP_ROW(NULL);
}

/* A rebuild sends more to some children than to others, so it does not count. */
ENGINE_TEST(nobody_is_slow_while_a_rebuild_runs)
{
	struct nexus_err ne = {};

	if (!watched_make(2))
		return;
	CHECK_EQ(nexus_child_add(nx, uris[2], true, &ne), 0);
	CHECK_EQ(nexus_rebuild_pause(nx, uris[2], &ne), 0);
	inject(SLOW);
	load(IO_WRITE, 12);
	CHECK_EQ(nexus_rebuild_count(nx), 1);
	CHECK_EQ(nheard(), 0);
	CHECK_EQ(nexus_rebuild_resume(nx, uris[2], &ne), 0);
	nexus_rebuild_wait(nx);
	CHECK(until(&ear.begun[NEXUS_WARN_SLOW], 1, IO_WRITE));
	watched_unmake();
}

ENGINE_TEST(a_child_that_leaves_takes_its_warnings_along)
{
	struct nexus_err ne = {};

	if (!watched_make(2))
		return;
	inject(SLOW);
	CHECK(until(&ear.begun[NEXUS_WARN_SLOW], 1, IO_WRITE));
	fault_remove_all();
	CHECK_EQ(nexus_child_fault(nx, uris[1], NEXUS_REASON_OFFLINE, &ne), 0);
	CHECK_EQ(child_info(1).warnings, 0);
	CHECK_EQ(nexus_child_online(nx, uris[1], &ne), 0);
	nexus_rebuild_wait(nx);
	CHECK_EQ(child_info(1).warnings, 0);
	CHECK_EQ(ear.ended[NEXUS_WARN_SLOW], 0); /* it has ended with the child */
	watched_unmake();
}

/* ---- errors --------------------------------------------------------------------------------- */

static void read_errors(unsigned n)
{
	char uri[160];

	(void)snprintf(uri, sizeof(uri), MEDIUM_ERROR, n);
	inject(uri);
	for (uint64_t before = child_info(1).read_errors; child_info(1).read_errors < before + n;)
		CHECK_EQ(do_io(&o, IO_READ, 0, 1, bufs[0], 0), IO_OK);
	fault_remove_all();
	errand_wait(&nx->mend);
}

ENGINE_TEST(errors_that_do_not_retire_are_told)
{
	struct nexus_err ne = {};

	if (!watched_make(2))
		return;
	nx->slow_ns = UINT64_MAX;
	read_errors(9);
	CHECK_EQ(nexus_child_fault(nx, uris[1], NEXUS_REASON_OFFLINE, &ne), 0);
	CHECK_EQ(nexus_child_online(nx, uris[1], &ne), 0); /* a new one, as far as it goes */
	nexus_rebuild_wait(nx);
	read_errors(9); /* one less */
	until_asleep();
	CHECK_EQ(nheard(), 0);
	read_errors(1);
	CHECK(until_by_itself(&ear.begun[NEXUS_WARN_ERRORS], 1));
	CHECK_STR(ear.child, uris[1]);
	CHECK_EQ(child_info(1).warnings, 1u << NEXUS_WARN_ERRORS);
	CHECK_EQ(status(), NEXUS_ONLINE);
	CHECK(until_by_itself(&ear.ended[NEXUS_WARN_ERRORS], 1)); /* a window later, idle */
	CHECK_EQ(nheard(), 2);
	watched_unmake();
}

/* ---- rest ----------------------------------------------------------------------------------- */

ENGINE_TEST(nobody_looks_where_nothing_happens)
{
	if (!watched_make(2))
		return;
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, bufs[0], 0), IO_OK);
	until_asleep();
	watched_unmake();
}

ENGINE_TEST(each_child_has_its_own_latencies)
{
	struct op_stats fast, slow;

	if (!watched_make(2))
		return;
	inject(SLOW);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, bufs[0], 0), IO_OK);
	CHECK(nexus_child_stats(nx, 0, IO_WRITE, &fast));
	CHECK(nexus_child_stats(nx, 1, IO_WRITE, &slow));
	CHECK(!nexus_child_stats(nx, 2, IO_WRITE, &slow));
	CHECK_EQ(fast.ops, slow.ops);
	CHECK(slow.latency.max_ns >= 20 * NS_PER_MS);
	CHECK(hist_percentile(&slow.latency, 0.999) >= 20 * NS_PER_MS);
	CHECK(hist_percentile(&fast.latency, 0.5) < 20 * NS_PER_MS);
	CHECK_EQ(nexus_child_fault(nx, uris[1], NEXUS_REASON_OFFLINE, NULL), 0);
	CHECK(!nexus_child_stats(nx, 1, IO_WRITE, &slow));
	watched_unmake();
}

/* ---- SMART: a disk that says what the test wants --------------------------------------------- */

static struct {
	uint8_t page[512];
	uint16_t status;
	unsigned nasked;
	bool is_hanging; /* SMART */
	bool is_stuck;   /* reads of d1, of which there is one */
	struct io *held;
} disk;

static enum io_result disk_submit(struct channel *ch, struct io *io)
{
	const uint8_t *cmd = io->cmd;

	io->status = IO_OK;
	if (io->op == IO_READ && disk.is_stuck && strcmp(ch->dev->name, "d1") == 0) {
		disk.held = io;
		return IO_PENDING;
	}
	if (io->op != IO_NVME_ADMIN)
		return IO_DONE; /* keeps nothing */
	disk.nasked++;
	CHECK_EQ(cmd[0], ADMIN_OPCODE_LOG);
	CHECK_EQ(cmd[40], HEALTH_PAGE);
	if (disk.is_hanging) {
		disk.held = io;
		return IO_PENDING;
	}
	io->status = disk.status;
	(void)iov_from_buf(io->iov, io->iovcnt, 0, disk.page, sizeof(disk.page));
	return IO_DONE;
}

static void disk_abort(struct channel *ch)
{
	(void)ch;
	if (disk.held != NULL)
		io_complete(take(disk.held), IO_ABORTED);
}

static void disk_destroy(struct device *dev)
{
	free(dev);
}

static int disk_create(struct uri *uri, struct device **ret_dev, struct err *err);

static const struct driver driver_disk = {
	.name = "disk",
	.product = "A disk with SMART",
	.schemes = (const char *const[]){ "disk", NULL },
	.channel_size = sizeof(struct channel),
	.create = disk_create,
	.destroy = disk_destroy,
	.submit = disk_submit,
	.abort = disk_abort,
};

static int disk_create(struct uri *uri, struct device **ret_dev, struct err *err)
{
	struct device *dev = calloc(1, sizeof(*dev));

	*dev = (struct device){
		.driver = &driver_disk,
		.block_size = BLOCK,
		.nblocks = CHILD_MB * 2048,
		.ops = IO_BIT(IO_READ) | IO_BIT(IO_WRITE) | IO_BIT(IO_FLUSH) | IO_BIT(IO_UNMAP) |
		       IO_BIT(IO_WRITE_ZEROES) | IO_BIT(IO_RESET) | IO_BIT(IO_NVME_ADMIN),
		.buf_align = 1,
		.is_void = true,
		.stack_depth = 1,
	};
	(void)snprintf(dev->name, sizeof(dev->name), "%s", uri_name(uri));
	*ret_dev = dev;
	return device_register(dev, err);
}

static const struct driver *const disk_drivers[] = { &driver_disk, &driver_nexus, NULL };
static const struct driver *const *all_drivers;

static void disk_new(void)
{
	disk = (typeof(disk)){ .page = { [3] = 100, [4] = 10 } };
}

static bool disks_make(uint64_t smart_ns)
{
	static const char *const disk_uris[] = { "disk:///d0", "disk:///d1" };
	struct nexus_opts opts = { .name = "n0",
				   .size = 16 * 1024 * 1024,
				   .children = disk_uris,
				   .nchildren = 2,
				   .smart_ns = smart_ns };

	all_drivers = drivers();
	drivers_set(disk_drivers);
	fake_start();
	nexus_settings.health_tick_ns = TICK;
	listen();
	return nexus_make_of(&opts);
}

static void disks_unmake(void)
{
	watched_unmake();
	drivers_set(all_drivers);
}

static void readings(unsigned n)
{
	uint64_t end_ns = reactor_self()->now_ns + PATIENCE;

	for (unsigned end = disk.nasked + 2 * n;
	     disk.nasked < end && reactor_self()->now_ns < end_ns;)
		task_sleep(TICK);
	errand_wait(&nx->smart);
}

ENGINE_TEST(smart_warnings_are_told_and_their_end)
{
	static const struct {
		const char *name;
		unsigned byte;
		uint8_t value;
		enum nexus_warning warning;
	} rows[] = {
		{ "critical: spare", 0, 1 << 0, NEXUS_WARN_SPARE },
		{ "critical: temperature", 0, 1 << 1, NEXUS_WARN_HOT },
		{ "critical: reliability", 0, 1 << 2, NEXUS_WARN_UNRELIABLE },
		{ "critical: read only", 0, 1 << 3, NEXUS_WARN_READ_ONLY },
		{ "critical: backup", 0, 1 << 4, NEXUS_WARN_BACKUP },
		{ "critical: memory region", 0, 1 << 5, NEXUS_WARN_UNRELIABLE },
		{ "spare below its threshold", 3, 9, NEXUS_WARN_SPARE },
		{ "used up", 5, 100, NEXUS_WARN_WORN },
		{ "more than used up", 5, 255, NEXUS_WARN_WORN },
	};

	disk_new();
	if (!disks_make(2 * TICK))
		return;
	readings(1);
	CHECK_EQ(nheard(), 0);
	CHECK(child_info(0).has_smart);
	CHECK_EQ(child_info(0).smart.spare, 100);
	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		uint8_t before = disk.page[rows[i].byte];

		TAP_ROW(rows[i].name);
		memset(&ear.begun, 0, sizeof(ear.begun));
		memset(&ear.ended, 0, sizeof(ear.ended));
		disk.page[rows[i].byte] = rows[i].value;
		readings(3);
		CHECK_EQ(child_info(0).warnings, 1u << rows[i].warning);
		CHECK_EQ(child_info(1).warnings, 1u << rows[i].warning);
		disk.page[rows[i].byte] = before;
		readings(3);
		CHECK_EQ(child_info(0).warnings, 0);
		CHECK_EQ(ear.begun[rows[i].warning], 2);
		CHECK_EQ(ear.ended[rows[i].warning], 2);
		CHECK_EQ(nheard(), 4);
	}
	TAP_ROW(NULL);
	CHECK_EQ(status(), NEXUS_ONLINE);
	disks_unmake();
}

ENGINE_TEST(media_errors_are_told_when_they_grow)
{
	disk_new();
	disk.page[160] = 3; /* old ones */
	if (!disks_make(2 * TICK))
		return;
	readings(3);
	CHECK_EQ(nheard(), 0);
	disk.page[160] = 4;
	CHECK(until_by_itself(&ear.begun[NEXUS_WARN_MEDIA_ERRORS], 2));
	CHECK_EQ(child_info(1).smart.media_errors, 4);
	disk.page[168] = 1; /* more than 64 bits */
	readings(2);
	CHECK_EQ(child_info(1).smart.media_errors, UINT64_MAX);
	CHECK_EQ(ear.begun[NEXUS_WARN_MEDIA_ERRORS], 2);
	CHECK(until_by_itself(&ear.ended[NEXUS_WARN_MEDIA_ERRORS], 2));
	disks_unmake();
}

/* Once at the start; afterwards only when the device has news, and not as often as it likes. */
ENGINE_TEST(smart_is_read_when_the_medium_changed)
{
	uint64_t start_ns = reactor_self()->now_ns;
	struct device *dev;

	disk_new();
	if (!disks_make(3600 * NS_PER_S))
		return;
	readings(1);
	CHECK_EQ(disk.nasked, 2);
	dev = device_lookup("d1");
	for (unsigned i = 0; i < 100; i++)
		device_announce(dev, DEVICE_MEDIA);
	disk.page[5] = 100;
	CHECK(until_by_itself(&ear.begun[NEXUS_WARN_WORN], 1));
	CHECK_STR(ear.child, "disk:///d1");
	CHECK(reactor_self()->now_ns - start_ns >= NS_PER_S);
	CHECK_EQ(disk.nasked, 3);
	disks_unmake();
}

ENGINE_TEST(a_disk_without_smart_is_let_be)
{
	static const struct {
		const char *name;
		uint16_t status;
		unsigned nasked; /* of each */
	} rows[] = {
		{ "unsupported", IO_UNSUPPORTED, 1 },
		{ "another error", IO_FAILED, 3 },
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		TAP_ROW(rows[i].name);
		disk_new();
		disk.status = rows[i].status;
		if (!disks_make(TICK))
			return;
		readings(rows[i].nasked);
		task_sleep(10 * TICK); /* it would be asked again by now */
		CHECK_EQ(disk.nasked, 2 * rows[i].nasked);
		CHECK(!child_info(0).has_smart);
		CHECK_EQ(status(), NEXUS_ONLINE);
		disks_unmake();
	}
	TAP_ROW(NULL);
}

ENGINE_TEST(a_reading_that_hangs_holds_nothing_up)
{
	uint64_t start_ns;

	disk_new();
	disk.is_hanging = true;
	if (!disks_make(TICK))
		return;
	while (disk.held == NULL)
		task_yield();
	CHECK_EQ(do_io(&o, IO_WRITE, 0, 1, bufs[0], 0), IO_OK);
	start_ns = reactor_self()->now_ns;
	disks_unmake();
	CHECK(reactor_self()->now_ns - start_ns < 5 * NS_PER_S);
	CHECK(disk.held == NULL);
	CHECK_EQ(disk.nasked, 1);
}

/* The controller talks, the medium does not: the child is out all the same. */
ENGINE_TEST(smart_is_no_sign_of_life)
{
	uint64_t end_ns;
	struct late_io late;

	disk_new();
	if (!disks_make(TICK))
		return;
	nx->child_timeout_ns = 400 * NS_PER_MS;
	readings(1);
	disk.is_stuck = true;
	while (disk.held == NULL) {
		late_start(&late, IO_READ, 0, 1, bufs[0]);
		turns(3);
	}
	end_ns = reactor_self()->now_ns + PATIENCE;
	while (child_info(1).state == CHILD_OPEN && reactor_self()->now_ns < end_ns)
		task_sleep(TICK);
	if (!CHECK_EQ(child_info(1).reason, NEXUS_REASON_TIMED_OUT))
		disk_abort(NULL);
	CHECK_EQ(ear.begun[NEXUS_WARN_STALL], 1);
	task_event_wait(&late.event);
	CHECK_EQ(late.io.status, IO_OK); /* from the other */
	disks_unmake();
}

TAP_MAIN()
