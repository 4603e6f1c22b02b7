/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nth_failure.c - every control operation, with the n-th thing it asks the system for refused.
 *
 * For n = 1, 2, 3 ... until nothing is refused any more, three times: with one refusal; with all
 * that follow refused too, which is what a real shortage does and what undoing must live with; and
 * with one refusal again for a caller who does not want to read why (err is NULL).
 *
 *   start the engine -> setup -> look at the world -> arm -> act -> disarm -> look again
 *        -> act once more, now for good -> undo -> stop -> nothing may be left
 *
 * An operation that is refused something either fails, and then says so with a code and a sentence,
 * leaves its outputs alone and the world as it was; or it does without, and then it has done all of
 * its work: undo() must find it.
 *
 * The world: devices with their sizes and openings, descriptors, memory for I/O. After the stop
 * also every block of memory the engine ever asked for.
 *
 * Thread: operations run as tasks on the primary reactor; engine_start on the test's own.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <string.h>

#include "base/log.h"
#include "base/tap.h"
#include "device/device.h"
#include "device/fault.h"
#include "engine.h"
#include "nexus/internal.h"
#include "nexus/nexus.h"
#include "nexus/rebuild.h"
#include "nth_failure.h"
#include "reactor/mem.h"
#include "reactor/stream.h"
#include "reactor/worker.h"
#include "target/resv.h"
#include "target/target.h"

enum {
	N_MAX = 2000, /* no operation asks for so much: the loop would not end */
	FILE_SIZE = 8 << 20,
};

/* One control operation. act() returns what it returned and, on success, sets `made`. */
struct op {
	const char *name;
	const char *uri;   /* of the device that setup makes; NULL: none */
	const char *other; /* for act() */
	int (*act)(const struct op *op, struct err *err);
	void (*undo)(const struct op *op);
};

/* What acts leave for their undo; a refused act leaves every one untouched. */
static struct made {
	struct device *dev;
	struct desc *desc;
	struct handle *handle;
	struct target *target;
	struct subsystem *subsystem;
	struct stream *stream;
	struct listener *listener;
	struct range_lock lock;
	uint32_t nsid;
} made;

static struct device *base; /* made by setup() */
static struct desc *base_desc;
static struct nexus_store *records; /* of this round */
static char folder[] = "/tmp/ashlar-nth-XXXXXX";
static char aio_uri[128], uring_uri[128], file_path[64];
static char aio_rescan[160], uring_rescan[160]; /* the same, with &rescan */

/* ---- the world ------------------------------------------------------------------------------- */

struct world {
	char devices[4096];
	unsigned files;
	uint64_t dma;
};

static unsigned open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	if (dir == NULL)
		return 0;
	while (readdir(dir) != NULL)
		n++;
	(void)closedir(dir);
	return n;
}

static unsigned list_length(const struct list *head)
{
	unsigned n = 0;

	for (const struct list *link = head->next; link != head; link = link->next)
		n++;
	return n;
}

/* Of the device that is operated on: a layer keeps its handles below until it goes. */
static unsigned channel_count(const struct device *dev)
{
	unsigned n = 0;

	for (unsigned i = 0; i < REACTORS_MAX; i++)
		n += dev->channel[i] != NULL ? 1u + dev->channel[i]->refs : 0;
	return n;
}

/* In a task. */
static void world_look(struct world *world)
{
	size_t len = 0;

	memset(world, 0, sizeof(*world));
	for (struct device *dev = device_next(NULL); dev != NULL; dev = device_next(dev)) {
		int n = snprintf(world->devices + len, sizeof(world->devices) - len,
				 "%s:%lu:%u:%u:%u:%u:%s:%d ", dev->name, dev->nblocks,
				 list_length(&dev->descs), list_length(&dev->aliases),
				 list_length(&dev->range_locks),
				 dev == base ? channel_count(dev) : 0,
				 dev->claim != NULL ? dev->claim : "",
				 dev->is_removed + (int)dev->quiesce_count);

		len += (size_t)n < sizeof(world->devices) - len ? (size_t)n : 0;
	}
	for (unsigned i = 0;; i++) {
		struct fault_info info;
		int n;

		if (!fault_list(i, &info))
			break;
		n = snprintf(world->devices + len, sizeof(world->devices) - len, "fault %s ",
			     info.uri);
		len += (size_t)n < sizeof(world->devices) - len ? (size_t)n : 0;
	}
	world->files = open_files();
	world->dma = dma_bytes_in_use();
}

/* Work that holds every thread of the pool until all have some. */
struct held_work {
	struct work work;
	struct task_event event;
};

static pthread_barrier_t all_hold;

static void held_fn(struct work *work)
{
	(void)work;
	(void)pthread_barrier_wait(&all_hold);
}

static void held_done(struct work *work)
{
	task_event_fire(&container_of(work, struct held_work, work)->event);
}

/* The pool's threads come once and stay: start them all, so that an operation does not. */
static void pool_fill(void)
{
	struct held_work held[WORKERS_MAX] = {};

	(void)pthread_barrier_init(&all_hold, NULL, WORKERS_MAX);
	for (unsigned i = 0; i < WORKERS_MAX; i++) {
		held[i].work.fn = held_fn;
		held[i].work.done = held_done;
		work_submit(&held[i].work);
	}
	for (unsigned i = 0; i < WORKERS_MAX; i++)
		task_event_wait(&held[i].event);
	(void)pthread_barrier_destroy(&all_hold);
}

/* ---- operations ------------------------------------------------------------------------------ */

static int act_create(const struct op *op, struct err *err)
{
	return device_create(op->other, &made.dev, err);
}

static void undo_create(const struct op *op)
{
	CHECK_EQ(device_destroy(op->other, NULL), 0);
}

static int act_destroy(const struct op *op, struct err *err)
{
	return device_destroy(op->uri, err);
}

static void undo_destroy(const struct op *op)
{
	(void)op;
	CHECK(device_next(NULL) == NULL);
}

static int act_desc_open(const struct op *op, struct err *err)
{
	struct desc_opts opts = { .flags = DESC_WRITE | DESC_CLAIM, .claim = "nth" };

	(void)op;
	return desc_open(base, &opts, &made.desc, err);
}

static void undo_desc_open(const struct op *op)
{
	(void)op;
	desc_close(made.desc);
}

static int open_all_handles(struct desc *desc, struct err *err)
{
	int result = 0;

	for (unsigned i = 0; i < reactor_count() && result == 0; i++) {
		struct handle *handle = NULL;

		result = handle_open(desc, reactor_get(i), &handle, err);
		CHECK_EQ(result == 0, handle != NULL);
	}
	return result;
}

/* The handles of the reactors before the one that failed go with the opening. */
static int act_handle_open(const struct op *op, struct err *err)
{
	struct desc *desc;
	int result;

	(void)op;
	result = desc_open(base, &(struct desc_opts){ .flags = DESC_WRITE }, &desc, err);
	if (result < 0)
		return result;
	result = open_all_handles(desc, err);
	if (result < 0)
		desc_close(desc);
	else
		made.desc = desc;
	return result;
}

static int act_resize(const struct op *op, struct err *err)
{
	(void)op;
	return device_resize(base, 2 * base->nblocks, err);
}

static void undo_resize(const struct op *op)
{
	(void)op;
	CHECK_EQ(device_resize(base, base->nblocks / 2, NULL), 0);
}

static int act_range_lock(const struct op *op, struct err *err)
{
	(void)op;
	return range_lock(base, &made.lock, 10, 10, err);
}

static void undo_range_lock(const struct op *op)
{
	(void)op;
	range_unlock(base, &made.lock);
}

static int act_fault_add(const struct op *op, struct err *err)
{
	return fault_add(op->other, err);
}

static void undo_fault_add(const struct op *op)
{
	CHECK_EQ(fault_remove(op->other, NULL), 0);
}

static int act_fault_remove(const struct op *op, struct err *err)
{
	return fault_remove(op->other, err);
}

static void undo_nothing(const struct op *op)
{
	(void)op;
}

static int act_listen(const struct op *op, struct err *err)
{
	struct listener_opts opts = { .host = op->other };

	return net_get()->listen(&opts, &made.listener, err);
}

static void undo_listen(const struct op *op)
{
	(void)op;
	net_get()->unlisten(made.listener);
}

static void close_at_once(struct listener *listener, struct stream *stream, void *arg)
{
	(void)listener;
	(void)arg;
	stream_close(stream);
}

static int act_connect(const struct op *op, struct err *err)
{
	return net_get()->connect(op->other, net_get()->listener_port(made.listener), &made.stream,
				  err);
}

static void undo_connect(const struct op *op)
{
	(void)op;
	stream_close(made.stream);
	net_get()->unlisten(made.listener);
}

static int act_stats_reset(const struct op *op, struct err *err)
{
	int result = device_stats_reset(base);

	(void)op;
	return result < 0 ? err_set(err, result, "no memory") : 0; /* it has no err of its own */
}

static int act_namespace(const struct op *op, struct err *err);

static int act_target(const struct op *op, struct err *err)
{
	struct target_opts opts;

	target_opts_init(&opts);
	opts.ptpl_dir = op->act == act_namespace ? op->other : NULL;
	return target_start(&opts, &made.target, err);
}

static void undo_target(const struct op *op)
{
	(void)op;
	target_stop(made.target);
	made.target = NULL;
}

static int act_target_listen(const struct op *op, struct err *err)
{
	return target_listen(made.target, op->other, 0, err);
}

static int act_subsystem(const struct op *op, struct err *err)
{
	const char *const hosts[] = { "nqn.2014-08.org.nvmexpress:uuid:a", "nqn.2000-01.x:b" };
	struct subsystem_opts opts = { .nqn = "nqn.2019-05.io.openebs:nth",
				       .allowed_hosts = hosts,
				       .allowed_host_count = 2,
				       .has_ana = true };

	(void)op;
	return subsystem_add(made.target, &opts, &made.subsystem, err);
}

static void undo_subsystem(const struct op *op)
{
	subsystem_remove(made.subsystem);
	CHECK(subsystem_find(made.target, "nqn.2019-05.io.openebs:nth") == NULL);
	(void)op;
}

static int act_namespace(const struct op *op, struct err *err)
{
	(void)op;
	return subsystem_add_ns(made.subsystem, base, 0, &made.nsid, err);
}

static void undo_namespace(const struct op *op)
{
	(void)op;
	CHECK_EQ(subsystem_remove_ns(made.subsystem, made.nsid, NULL), 0);
}

static int act_host_add(const struct op *op, struct err *err)
{
	return subsystem_allow_host(made.subsystem, op->other, err);
}

static void undo_host_add(const struct op *op)
{
	CHECK_EQ(subsystem_disallow_host(made.subsystem, op->other, NULL), 0);
}

static int act_hosts(const struct op *op, struct err *err)
{
	return subsystem_set_hosts(made.subsystem, &op->other, 1, err);
}

static void undo_hosts(const struct op *op)
{
	const char *const *hosts;
	unsigned count;

	CHECK(!subsystem_hosts(made.subsystem, &hosts, &count));
	CHECK_EQ(count, 1);
	CHECK_STR(hosts[0], op->other);
	CHECK_EQ(subsystem_set_hosts(made.subsystem, NULL, 0, NULL), 0);
}

/* ---- of a nexus ------------------------------------------------------------------------------ */

static int nexus_said(int result, const struct nexus_err *ne, struct err *err)
{
	if (err != NULL && result < 0)
		*err = ne->err;
	return result;
}

static int act_child_remove(const struct op *op, struct err *err)
{
	struct nexus_err ne = {};

	return nexus_said(
		nexus_child_remove(nexus_of_device(base), op->other, err != NULL ? &ne : NULL), &ne,
		err);
}

static int act_child_fault(const struct op *op, struct err *err)
{
	struct nexus_err ne = {};

	return nexus_said(nexus_child_fault(nexus_of_device(base), op->other, NEXUS_REASON_OFFLINE,
					    err != NULL ? &ne : NULL),
			  &ne, err);
}

/* What the nexus says of the child: its state, -1 if it has none. */
static int child_state(const struct op *op)
{
	struct nexus_child_info info;

	for (unsigned i = 0; nexus_child_info(nexus_of_device(base), i, &info); i++) {
		if (strcmp(info.uri, op->other) == 0)
			return (int)info.state;
	}
	return -1;
}

/* One that was not rebuilt stays listed, and has to be taken away to make it as it was. */
static int act_child_add(const struct op *op, struct err *err)
{
	struct nexus *nx = nexus_of_device(base);
	struct nexus_err ne = {};
	int result = nexus_child_add(nx, op->other, true, err != NULL ? &ne : NULL);

	if (result < 0 && child_state(op) >= 0) {
		(void)nth_disarm();
		CHECK_EQ(nexus_child_remove(nx, op->other, NULL), 0);
	}
	return nexus_said(result, &ne, err);
}

/* The same; it is offline before. */
static int act_child_online(const struct op *op, struct err *err)
{
	struct nexus_err ne = {};
	int result = nexus_child_online(nexus_of_device(base), op->other, err != NULL ? &ne : NULL);

	while (result < 0 && device_lookup("c1") != NULL) /* it may have been opened */
		task_yield();
	return nexus_said(result, &ne, err);
}

/* Its rebuild may have failed since: that is told, and tried again. */
static void undo_child_rebuilt(const struct op *op)
{
	struct nexus *nx = nexus_of_device(base);

	nexus_rebuild_wait(nx);
	if (child_state(op) == CHILD_FAULTED) {
		CHECK_EQ(nexus_child_online(nx, op->other, NULL), 0);
		nexus_rebuild_wait(nx);
	}
	CHECK_EQ(child_state(op), CHILD_OPEN);
}

static int act_nexus_shutdown(const struct op *op, struct err *err)
{
	struct nexus_err ne = {};

	(void)op;
	return nexus_said(nexus_shutdown(nexus_of_device(base), err != NULL ? &ne : NULL), &ne,
			  err);
}

/* What children miss is folded into each other: whatever was refused, one shape for all. */
static int act_nexus_resize(const struct op *op, struct err *err)
{
	const struct nexus *nx = nexus_of_device(base);
	struct nexus_err ne = {};
	int result = nexus_resize(nexus_of_device(base), 20 << 20, err != NULL ? &ne : NULL);

	(void)op;
	CHECK_EQ(nx->child[0]->missed.nsegments, result < 0 ? 256 : 320); /* of 64 KiB */
	CHECK_EQ(nx->child[1]->missed.nsegments, nx->child[0]->missed.nsegments);
	return nexus_said(result, &ne, err);
}

static void undo_child_faulted(const struct op *op)
{
	CHECK_EQ(child_state(op), CHILD_FAULTED);
}

static void undo_child_gone(const struct op *op)
{
	CHECK_EQ(child_state(op), -1);
}

static void undo_nexus_shutdown(const struct op *op)
{
	struct nexus_info info;

	(void)op;
	nexus_info(nexus_of_device(base), &info);
	CHECK_EQ(info.state, NEXUS_SHUTDOWN);
}

static void undo_nexus_resize(const struct op *op)
{
	(void)op;
	CHECK(device_size(base) > 18 << 20);
}

/* ---- what is there before an operation ------------------------------------------------------- */

static bool needs_subsystem(const struct op *op)
{
	return op->act == act_namespace || op->act == act_host_add || op->act == act_hosts;
}

static bool needs_target(const struct op *op)
{
	return op->act == act_target_listen || op->act == act_subsystem || needs_subsystem(op);
}

static void setup(const struct op *op)
{
	struct err err = {};

	memset(&made, 0, sizeof(made));
	base = NULL;
	pool_fill();
	if (op->uri != NULL)
		CHECK_EQ(device_create(op->uri, &base, &err), 0);
	if (op->act == act_fault_add || op->act == act_fault_remove) {
		CHECK_EQ(desc_open(base, &(struct desc_opts){}, &base_desc, &err), 0);
		CHECK_EQ(open_all_handles(base_desc, &err), 0);
	}
	if (op->act == act_fault_remove)
		CHECK_EQ(fault_add(op->other, &err), 0);
	if (op->act == act_child_online)
		CHECK_EQ(act_child_fault(op, &err), 0);
	if (op->act == act_connect) {
		struct listener_opts opts = { .host = op->other, .accepted = close_at_once };

		CHECK_EQ(net_get()->listen(&opts, &made.listener, &err), 0);
	}
	if (needs_target(op))
		CHECK_EQ(act_target(op, &err), 0);
	if (needs_subsystem(op))
		CHECK_EQ(act_subsystem(op, &err), 0);
	CHECK_STR(err.msg, "");
}

static void teardown(const struct op *op)
{
	if (needs_target(op))
		target_stop(made.target);
	if (base_desc != NULL)
		desc_close(base_desc);
	base_desc = NULL;
}

/* ---- the loop -------------------------------------------------------------------------------- */

enum mode { ONE_CALL, ALL_FROM_ONE_ON, NOBODY_READS, MODE_COUNT_ };

struct round {
	const struct op *op;
	unsigned n;
	enum mode mode;
	const char *refused; /* out */
	int first;           /* out: what act() answered while armed */
	int result;          /* out: what it answered last */
};

static void check_refusal(const struct round *round, const struct err *err,
			  const struct world *before, const struct made *untouched)
{
	struct world after;

	world_look(&after);
	if (round->mode != NOBODY_READS) {
		CHECK_EQ(err->code, round->result);
		CHECK(err->msg[0] != '\0');
	}
	CHECK_STR(after.devices, before->devices);
	CHECK_EQ(after.files, before->files);
	CHECK_EQ(after.dma, before->dma);
	CHECK(memcmp(&made, untouched, sizeof(made)) == 0);
	if (nth_error() == -ENOMEM)
		CHECK_EQ(round->result, -ENOMEM);
}

static int run_round(void *arg, struct err *unused)
{
	struct round *round = arg;
	const struct op *op = round->op;
	struct world before;
	struct made untouched;
	struct err err = {};

	(void)unused;
	setup(op);
	world_look(&before);
	untouched = made;
	nth_arm(round->n, round->mode == ALL_FROM_ONE_ON);
	round->result = op->act(op, round->mode == NOBODY_READS ? NULL : &err);
	round->refused = nth_disarm();
	round->first = round->result;
	if (round->result < 0 && !CHECK(round->refused != NULL))
		printf("# %s\n", err.msg);
	if (round->result < 0) {
		check_refusal(round, &err, &before, &untouched);
		err_clear(&err);
		round->result = op->act(op, &err); /* what was refused once works now */
		if (!CHECK_EQ(round->result, 0))
			printf("# %s\n", err.msg);
	} else {
		CHECK_STR(err.msg, "");
	}
	op->undo(op);
	teardown(op);
	return 0;
}

static struct engine_opts two(void)
{
	struct engine_opts opts = { .handle_signals = true };
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	(void)sched_getaffinity(0, sizeof(cpus), &cpus);
	if (CPU_ISSET(0, &cpus) && CPU_ISSET(1, &cpus))
		opts.reactor.core_mask = 0x3;
	return opts;
}

/* Everything that an engine had is gone. */
static void check_nothing_left(long blocks, unsigned files, uint64_t dma)
{
	CHECK_EQ(nth_blocks(), blocks);
	CHECK_EQ(open_files(), files);
	CHECK_EQ(dma_bytes_in_use(), dma);
	CHECK_EQ(reactor_count(), 0);
}

/*
 * Start when there is room. The rings of an ordinary user count against his locked memory until the
 * kernel frees them, a little after their engine ended, and a test starts hundreds of engines. The
 * kernel tells nobody when it has, so this tries again, and not for ever.
 */
static int start_with_room(const struct engine_opts *opts, struct err *err)
{
	static const struct timespec pause = { .tv_nsec = 10000000 };
	int result = engine_start(opts, err);

	for (int i = 0; i < 500 && result == -ENOMEM; i++) {
		(void)nanosleep(&pause, NULL);
		err_clear(err);
		result = engine_start(opts, err);
	}
	return result;
}

static int run_with_room(const struct engine_opts *opts, struct round *round)
{
	int result = start_with_room(opts, NULL);

	if (result < 0)
		return result;
	records = store_memory_new(); /* no mirror believes what another round has recorded */
	nexus_settings_set(&(struct nexus_settings){
		.store = records,
		.store_tries = 3, /* what is refused for good is refused each time */
		.store_pause_ns = 10000000 });
	result = engine_call(run_round, round, NULL);
	engine_stop();
	store_free(take(records));
	return result;
}

static unsigned run_op(const struct op *op, enum mode mode)
{
	struct engine_opts opts = two();
	unsigned n, before = tap_.failed;
	static bool is_refused[N_MAX]; /* the answers of ONE_CALL */

	for (n = 1; n < N_MAX && tap_.failed == before; n++) {
		struct round round = { .op = op, .n = n, .mode = mode };
		unsigned files = open_files();
		uint64_t dma = dma_bytes_in_use();
		long blocks = nth_blocks();

		if (!CHECK_EQ(run_with_room(&opts, &round), 0))
			break;
		check_nothing_left(blocks, files, dma);
		if (mode == ONE_CALL)
			is_refused[n] = round.first < 0;
		else if (mode == NOBODY_READS)
			CHECK_EQ(round.first < 0, is_refused[n]);
		if (tap_.failed != before)
			printf("# %s: refused %s, n = %u%s\n", op->name,
			       round.refused != NULL ? round.refused : "nothing", n,
			       mode == ALL_FROM_ONE_ON ? " and all that followed" : "");
		if (round.refused == NULL)
			break;
	}
	return n - 1;
}

static void run_ops(const struct op *ops, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		unsigned rounds = 0;

		TAP_ROW(ops[i].name);
		for (enum mode mode = 0; mode < MODE_COUNT_; mode++)
			rounds += run_op(&ops[i], mode);
		printf("# %s: refused in %u rounds\n", ops[i].name, rounds);
	}
	TAP_ROW(NULL);
}

/* ---- tests ----------------------------------------------------------------------------------- */

#define MALLOC "malloc:///m?size_mb=8"

static bool make_file(void)
{
	int fd;

	if (file_path[0] != '\0')
		return true;
	if (!CHECK(mkdtemp(folder) != NULL))
		return false;
	(void)snprintf(file_path, sizeof(file_path), "%s/disk", folder);
	(void)snprintf(aio_uri, sizeof(aio_uri), "aio://%s", file_path);
	(void)snprintf(uring_uri, sizeof(uring_uri), "uring://%s", file_path);
	(void)snprintf(aio_rescan, sizeof(aio_rescan), "%s?rescan", aio_uri);
	(void)snprintf(uring_rescan, sizeof(uring_rescan), "%s?rescan", uring_uri);
	fd = open(file_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (!CHECK(fd >= 0))
		return false;
	CHECK_EQ(ftruncate(fd, FILE_SIZE), 0);
	(void)close(fd);
	return true;
}

__attribute__((destructor)) static void remove_file(void)
{
	if (file_path[0] == '\0')
		return;
	(void)unlink(file_path);
	(void)rmdir(folder);
}

TEST(nth_engine_start)
{
	struct engine_opts opts = two();

	for (int stays = 0; stays < 2; stays++) {
		unsigned n = 1;

		for (unsigned before = tap_.failed; n < N_MAX && tap_.failed == before; n++) {
			unsigned files = open_files();
			uint64_t dma = dma_bytes_in_use();
			long blocks = nth_blocks();
			struct err err = {};
			const char *refused;
			int result;

			nth_arm(n, stays);
			result = engine_start(&opts, &err);
			refused = nth_disarm();
			CHECK_EQ(err.code, result);
			CHECK_EQ(err.msg[0] != '\0', result < 0);
			if (result == 0)
				engine_stop();
			else if (nth_error() == -ENOMEM)
				CHECK_EQ(result, -ENOMEM);
			check_nothing_left(blocks, files, dma);
			if (tap_.failed != before)
				printf("# refused %s, n = %u: %s\n",
				       refused != NULL ? refused : "nothing", n, err.msg);
			if (refused == NULL)
				break;
		}
		printf("# engine_start: refused %u times%s\n", n - 1, stays ? ", to the end" : "");
	}
}

static int stop_short(void *arg, struct err *err)
{
	struct device *dev;

	(void)arg;
	pool_fill();
	CHECK_EQ(device_create(MALLOC, &dev, err), 0);
	return 0;
}

/* The end of an engine must need nothing. */
TEST(nth_engine_stop)
{
	struct engine_opts opts = two();
	unsigned files = open_files();
	uint64_t dma = dma_bytes_in_use();
	long blocks = nth_blocks();
	struct err err = {};
	const char *refused;

	if (!CHECK_EQ(start_with_room(&opts, &err), 0))
		return;
	CHECK_EQ(engine_call(stop_short, NULL, &err), 0);
	nth_arm(1, true);
	engine_stop();
	refused = nth_disarm();
	CHECK_STR(refused, NULL);
	check_nothing_left(blocks, files, dma);
}

TEST(nth_device_create)
{
	struct op ops[] = {
		{ "create null", NULL, "null:///n?size_mb=8", act_create, undo_create },
		{ "create malloc", NULL, "malloc:///n?size_mb=8", act_create, undo_create },
		{ "create aio", NULL, aio_uri, act_create, undo_create },
		{ "create uring", NULL, uring_uri, act_create, undo_create },
		{ "create bdev", MALLOC, "bdev:///m", act_create, undo_create },
		{ "create passthru", MALLOC, "passthru:///p?base=m", act_create, undo_create },
	};

	if (make_file())
		run_ops(ops, ARRAY_LEN(ops));
}

TEST(nth_device_destroy)
{
	struct op ops[] = {
		{ "destroy null", "null:///m?size_mb=8", NULL, act_destroy, undo_destroy },
		{ "destroy malloc", MALLOC, NULL, act_destroy, undo_destroy },
		{ "destroy aio", aio_uri, NULL, act_destroy, undo_destroy },
		{ "destroy uring", uring_uri, NULL, act_destroy, undo_destroy },
	};

	if (make_file())
		run_ops(ops, ARRAY_LEN(ops));
}

TEST(nth_open)
{
	struct op ops[] = {
		{ "open", MALLOC, NULL, act_desc_open, undo_desc_open },
		{ "handles null", "null:///m?size_mb=8", NULL, act_handle_open, undo_desc_open },
		{ "handles malloc", MALLOC, NULL, act_handle_open, undo_desc_open },
		{ "handles aio", aio_uri, NULL, act_handle_open, undo_desc_open },
		{ "handles uring", uring_uri, NULL, act_handle_open, undo_desc_open },
		{ "handles passthru", "passthru:///p?base=malloc%3A%2F%2F%2Fm%3Fsize_mb%3D8", NULL,
		  act_handle_open, undo_desc_open },
	};

	if (make_file())
		run_ops(ops, ARRAY_LEN(ops));
}

TEST(nth_change)
{
	struct op ops[] = {
		{ "resize null", "null:///m?size_mb=8", NULL, act_resize, undo_resize },
		{ "resize malloc", MALLOC, "malloc:///m?size_mb=600&resize", act_create,
		  undo_nothing },
		{ "rescan aio", aio_uri, aio_rescan, act_create, undo_nothing },
		{ "rescan uring", uring_uri, uring_rescan, act_create, undo_nothing },
		{ "statistics reset", MALLOC, NULL, act_stats_reset, undo_nothing },
		{ "lock", MALLOC, NULL, act_range_lock, undo_range_lock },
		{ "fault add", MALLOC, "inject://m?op=write&stage=submit&method=status",
		  act_fault_add, undo_fault_add },
		{ "fault add, no device", MALLOC, "inject://later?op=read&stage=submit",
		  act_fault_add, undo_fault_add },
		{ "fault remove", MALLOC, "inject://m?op=write&stage=submit&method=status",
		  act_fault_remove, undo_nothing },
	};

	if (make_file())
		run_ops(ops, ARRAY_LEN(ops));
}

#define RESERVED "00000000-0000-4000-8000-000000000001"

/* Reservations of the device with the uuid above, in the folder of the test. */
static bool make_reservations(char path[96])
{
	struct resv r = { .is_persistent = true, .count = 1 };
	struct uuid uuid;

	r.registrant[0] = (struct resv_registrant){ .host.id = { 1 }, .key = 1 };
	(void)snprintf(path, 96, "%s/" RESERVED ".json", folder);
	return CHECK_EQ(uuid_from_text(RESERVED, &uuid, NULL), 0) &&
	       CHECK_EQ(resv_file_save(path, &uuid, &r, NULL), 0);
}

TEST(nth_target)
{
	char path[96];
	struct op ops[] = {
		{ "listen", NULL, "127.0.0.1", act_listen, undo_listen },
		{ "connect", NULL, "127.0.0.1", act_connect, undo_connect },
		{ "target", NULL, NULL, act_target, undo_target },
		{ "target listen", NULL, "127.0.0.1", act_target_listen, undo_nothing },
		{ "subsystem", NULL, NULL, act_subsystem, undo_subsystem },
		{ "namespace", MALLOC, NULL, act_namespace, undo_namespace },
		{ "reserved", MALLOC "&uuid=" RESERVED, folder, act_namespace, undo_namespace },
		{ "host add", NULL, "nqn.2000-01.x:c", act_host_add, undo_host_add },
		{ "hosts", NULL, "nqn.2000-01.x:d", act_hosts, undo_hosts },
	};

	if (!make_file() || !make_reservations(path))
		return;
	log_set_level(LOG_ERROR); /* each listener says where it listens */
	run_ops(ops, ARRAY_LEN(ops));
	CHECK_EQ(unlink(path), 0);
}

/* ---- a remote namespace ---------------------------------------------------------------------- */

static int serve_task(void *arg, struct err *err)
{
	struct subsystem_opts subsystem_opts = { .nqn = "nqn.2019-05.io.openebs:far" };
	int *pipe_fd = arg;
	struct subsystem *subsystem;
	struct target_opts opts;
	struct target *target;
	struct device *dev;
	uint16_t port = 0;
	int result;

	target_opts_init(&opts);
	result = device_create(MALLOC, &dev, err);
	if (result == 0)
		result = target_start(&opts, &target, err);
	if (result == 0)
		result = subsystem_add(target, &subsystem_opts, &subsystem, err);
	if (result == 0)
		result = subsystem_add_ns(subsystem, dev, 1, NULL, err);
	if (result == 0)
		result = target_listen(target, "127.0.0.1", 0, err);
	if (result == 0)
		port = target_listener_port(target, 0);
	if (write(*pipe_fd, &port, sizeof(port)) != sizeof(port))
		return -EIO;
	return result;
}

/* The target, in a process to which nothing is refused. Returns its pid; it ends when killed. */
static pid_t serve_elsewhere(uint16_t *ret_port)
{
	struct engine_opts opts = {};
	int fds[2];
	pid_t pid;

	if (!CHECK_EQ(pipe(fds), 0))
		return -1;
	pid = fork();
	if (pid == 0) {
		log_set_level(LOG_ERROR);
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (engine_start(&opts, NULL) != 0 || engine_call(serve_task, &fds[1], NULL) != 0)
			_exit(1);
		for (;;)
			(void)pause();
	}
	(void)close(fds[1]);
	CHECK_EQ(read(fds[0], ret_port, sizeof(*ret_port)), sizeof(*ret_port));
	(void)close(fds[0]);
	return pid;
}

#define FAR "nqn.2019-05.io.openebs:far?reconnect_delay=10ms"

TEST(nth_nvmf)
{
	static char uri[128], second[160];
	struct op ops[] = {
		{ "create nvmf", NULL, uri, act_create, undo_create },
		{ "join as a path", uri, second, act_create, undo_create },
		{ "destroy nvmf", uri, NULL, act_destroy, undo_destroy },
		{ "handles nvmf", uri, NULL, act_handle_open, undo_desc_open },
	};
	uint16_t port = 0;
	pid_t pid = serve_elsewhere(&port);

	if (pid < 0 || !CHECK(port != 0))
		return;
	/* should a refusal cost a connection, a round must not take a second for it */
	(void)snprintf(uri, sizeof(uri), "nvmf://127.0.0.1:%u/" FAR, port);
	(void)snprintf(second, sizeof(second), "nvmf://localhost:%u/" FAR, port);
	log_set_level(LOG_ERROR);
	run_ops(ops, ARRAY_LEN(ops));
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
}

#define CHILD(n) "malloc:///c" #n "?size_mb=32&uuid=00000000-0000-4000-8000-00000000000" #n
#define INNER(n) "malloc:///c" #n "%3Fsize_mb=32%26uuid=00000000-0000-4000-8000-00000000000" #n
#define NEXUS    "nexus:///n?size=16MiB&children=" INNER(0) "," INNER(1)

TEST(nth_nexus)
{
	struct op ops[] = {
		{ "create nexus", NULL, NEXUS, act_create, undo_create },
		{ "destroy nexus", NEXUS, NULL, act_destroy, undo_destroy },
		{ "handles nexus", NEXUS, NULL, act_handle_open, undo_desc_open },
		{ "add child", NEXUS, CHILD(2), act_child_add, undo_child_rebuilt },
		{ "child online", NEXUS, CHILD(1), act_child_online, undo_child_rebuilt },
		{ "remove child", NEXUS, CHILD(1), act_child_remove, undo_child_gone },
		{ "fault child", NEXUS, CHILD(1), act_child_fault, undo_child_faulted },
		{ "resize nexus", NEXUS, NULL, act_nexus_resize, undo_nexus_resize },
		{ "shut down nexus", NEXUS, NULL, act_nexus_shutdown, undo_nexus_shutdown },
	};

	log_set_level(LOG_ERROR);
	run_ops(ops, ARRAY_LEN(ops));
}

TAP_MAIN()
