/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvmf_pair_test.c - our initiator on our target under a load that knows every block it wrote.
 *
 * What is shown with real hosts and real targets (tests/hosts/), with both ends ours: 16 namespaces
 * of one subsystem at once, none of whose data may turn up in another; namespaces of 4 KiB blocks
 * with every operation, aligned to nothing, with digests and without; and everything that a target
 * changes under I/O: ANA states, size, namespaces that go and come, hosts shut out and let in.
 *
 * A load is a few workers on one device. Each owns SPAN blocks and knows what stands in each of
 * them: a generation of the load's pattern, zeroes, or nothing certain. What it does next is drawn;
 * each read is judged block by block. The seed of the pattern is the namespace's, so a block of
 * another one is seen as foreign. Afterwards the same is read from the device behind the target.
 *
 * Thread: test bodies run as a task on the primary reactor; both ends share it.
 */
#include "base/pattern.h"
#include "base/rng.h"
#include "base/units.h"
#include "device/nvme_cmds.h"
#include "drivers/nvme/spec.h"
#include "drivers/testing.h"
#include "target/target.h"

#define NQN    "nqn.2019-05.io.openebs:pair"
#define FRIEND "nqn.2014-08.org.example:friend"

enum {
	LISTENERS = 2,
	NAMESPACES = 16,
	WORKERS = 4,
	SPAN = 64, /* blocks of a worker; that many of 4 KiB are more than one command may carry */
	PIECES = 5,
	BLOCK_MAX = 4096,
	WAIT_MS = 5000,
};

/* ---- what stands in a block ----------------------------------------------------------------- */

enum { GEN_ZERO = 0, GEN_UNKNOWN = UINT32_MAX };

struct worker {
	struct load *load;
	struct io io;
	struct iovec iov[PIECES];
	uint8_t *buf; /* 2 * SPAN blocks, owned */
	uint64_t base;
	uint32_t gen[SPAN], next_gen;
	uint32_t at, nlb; /* of the request, from base on */
	bool must_miss;   /* compare, with other data than is there */
};

static struct load {
	struct opened *o;
	uint64_t seed;
	bool may_fail; /* the namespace is gone for a while */
	bool may_lose; /* connections: a pair of commands is not sent again */
	bool is_ending;
	unsigned running, rounds, failed;
	struct rng rng;
	struct task_event over;
	struct worker worker[WORKERS];
} loads[NAMESPACES];

static void worker_next(struct worker *w);

static bool is_block_known(const struct worker *w, uint32_t i, const uint8_t *at)
{
	const uint32_t size = w->load->o->dev->block_size;
	struct pattern_expect expect = { .first_lba = w->base + i,
					 .gen_min = w->gen[i],
					 .gen_max = w->gen[i],
					 .seed = w->load->seed };
	char text[PATTERN_TEXT_MAX];
	struct pattern_fault fault;
	enum pattern_verdict found;

	if (w->gen[i] == GEN_UNKNOWN)
		return true;
	found = pattern_check(at, 1, size, &expect, &fault);
	if (found == (w->gen[i] == GEN_ZERO ? PATTERN_ZERO : PATTERN_OK))
		return true;
	printf("# namespace %u: %s\n", (unsigned)w->load->seed, pattern_describe(&fault, text));
	return false;
}

static void worker_judge(const struct worker *w, const uint8_t *data)
{
	const uint32_t size = w->load->o->dev->block_size;

	for (uint32_t i = 0; i < w->nlb; i++) {
		if (!CHECK(is_block_known(w, w->at + i, data + (size_t)i * size)))
			return;
	}
}

static void worker_set(struct worker *w, uint32_t gen)
{
	for (uint32_t i = 0; i < w->nlb; i++)
		w->gen[w->at + i] = gen;
}

/* ---- one request after the other ------------------------------------------------------------ */

static void worker_done(struct io *io)
{
	struct worker *w = io->owner;
	struct load *load = w->load;

	load->rounds++;
	if (io->op == IO_READ && io->status == IO_OK) {
		worker_judge(w, w->buf);
	} else if (io->op == IO_COMPARE_WRITE && io->status == IO_TRANSPORT && load->may_lose) {
		worker_set(w, GEN_UNKNOWN);
	} else if (w->must_miss) {
		if (io->status != IO_MISCOMPARE && !load->may_fail)
			CHECK_EQ(io->status, IO_MISCOMPARE);
	} else if (io->status == IO_OK) {
		if (io->op == IO_WRITE || io->op == IO_COMPARE_WRITE)
			worker_set(w, w->next_gen);
		else if (io->op == IO_WRITE_ZEROES)
			worker_set(w, GEN_ZERO);
		else if (io->op == IO_UNMAP) /* advice: it may or may not have been done */
			worker_set(w, GEN_UNKNOWN);
	} else {
		if (!load->may_fail)
			CHECK_EQ(io->status, IO_OK);
		load->failed++;
		if (IO_BIT(io->op) & IO_OPS_WRITING)
			worker_set(w, GEN_UNKNOWN);
	}
	if (!load->is_ending)
		worker_next(w);
	else if (--load->running == 0)
		task_event_fire(&load->over);
}

/* The buffer in pieces that are aligned to nothing. */
static void worker_cut(struct worker *w, size_t len)
{
	size_t at = 0;
	uint16_t n = 0;

	while (n < PIECES - 1 && len - at > 2) {
		size_t piece = 1 + rng_below(&w->load->rng, len - at - 1);

		w->iov[n++] = (struct iovec){ w->buf + at, piece };
		at += piece;
	}
	w->iov[n++] = (struct iovec){ w->buf + at, len - at };
	w->io.iov = w->iov;
	w->io.iovcnt = n;
}

/* What stands in the blocks of the request, into the buffer; false: it is not known. */
static bool worker_recall(struct worker *w)
{
	const uint32_t size = w->load->o->dev->block_size;

	for (uint32_t i = 0; i < w->nlb; i++) {
		uint8_t *to = w->buf + (size_t)i * size;

		if (w->gen[w->at + i] == GEN_UNKNOWN)
			return false;
		if (w->gen[w->at + i] == GEN_ZERO)
			memset(to, 0, size);
		else
			pattern_fill(to, 1, size, w->base + w->at + i, w->gen[w->at + i],
				     w->load->seed);
	}
	return true;
}

static enum io_op worker_draw(struct worker *w)
{
	static const enum io_op ops[] = { IO_WRITE,   IO_WRITE,        IO_WRITE, IO_READ,
					  IO_READ,    IO_READ,         IO_UNMAP, IO_WRITE_ZEROES,
					  IO_COMPARE, IO_COMPARE_WRITE };
	struct rng *rng = &w->load->rng;
	enum io_op op = ops[rng_below(rng, ARRAY_LEN(ops))];

	/* half of the requests are small; pairs must be */
	w->nlb = 1 + (uint32_t)rng_below(rng, rng_chance(rng, 1, 2) ? 2 : SPAN);
	if (op == IO_COMPARE_WRITE)
		w->nlb = MIN(w->nlb, w->load->o->dev->max_compare_write_nlb);
	w->at = (uint32_t)rng_below(rng, SPAN - w->nlb + 1);
	w->must_miss = false;
	if (op != IO_COMPARE && op != IO_COMPARE_WRITE)
		return op;
	if (!worker_recall(w))
		return IO_WRITE;
	w->must_miss = rng_chance(rng, 1, 3);
	return op;
}

static void worker_next(struct worker *w)
{
	const struct device *dev = w->load->o->dev;
	enum io_op op = worker_draw(w);
	size_t len = (size_t)w->nlb * dev->block_size;
	uint8_t *data = w->buf + (op == IO_COMPARE_WRITE ? len : 0);

	if (op == IO_WRITE || op == IO_COMPARE_WRITE)
		pattern_fill(data, w->nlb, dev->block_size, w->base + w->at, ++w->next_gen,
			     w->load->seed);
	if (w->must_miss)
		w->buf[rng_below(&w->load->rng, len)] ^= 1;
	w->io.op = (uint8_t)op;
	w->io.lba = w->base + w->at;
	w->io.nlb = w->nlb;
	worker_cut(w, op == IO_COMPARE_WRITE ? 2 * len : len);
	if (!(IO_BIT(op) & IO_OPS_WITH_DATA))
		w->io.iovcnt = 0;
	io_submit(w->load->o->h, &w->io);
}

/* ---- a load --------------------------------------------------------------------------------- */

static struct load *load_start(unsigned index, struct opened *o, uint64_t first_lba)
{
	struct load *load = &loads[index];

	*load = (struct load){ .o = o, .seed = index + 1, .running = WORKERS };
	rng_init(&load->rng, index + 1);
	for (unsigned i = 0; i < WORKERS; i++) {
		struct worker *w = &load->worker[i];

		w->load = load;
		w->base = first_lba + (uint64_t)i * SPAN;
		w->buf = calloc(2 * SPAN, BLOCK_MAX);
		CHECK(w->buf != NULL);
		w->io.done = worker_done;
		w->io.owner = w;
		worker_next(w);
	}
	return load;
}

/* Wait until a load has done, or failed, so many more requests. */
static bool wait_more(const unsigned *count, unsigned more)
{
	const unsigned from = *count;

	for (unsigned i = 0; i < WAIT_MS && *count - from < more; i++)
		task_sleep(NS_PER_MS);
	return CHECK(*count - from >= more);
}

/* End it; then its blocks are read from @back, which the target serves. */
static void load_end(struct load *load, struct device *back)
{
	struct opened o = { .dev = back };
	struct desc_opts opts = {};

	load->is_ending = true;
	task_event_wait(&load->over);
	CHECK_EQ(desc_open(back, &opts, &o.desc, NULL), 0);
	CHECK_EQ(handle_open(o.desc, reactor_primary(), &o.h, NULL), 0);
	for (unsigned i = 0; i < WORKERS; i++) {
		struct worker *w = &load->worker[i];

		w->at = 0;
		w->nlb = SPAN;
		CHECK_EQ(do_io(&o, IO_READ, w->base, SPAN, w->buf, 0), IO_OK);
		worker_judge(w, w->buf);
		free(w->buf);
	}
	desc_close(o.desc);
}

/* ---- both ends ------------------------------------------------------------------------------ */

static struct rig {
	struct target *target;
	struct subsystem *subsystem;
	struct device *back[NAMESPACES];
	char uri[512]; /* both listeners as paths; more parameters follow */
} rig;

static bool rig_up(unsigned namespaces, const char *back_params)
{
	struct subsystem_opts opts = { .nqn = NQN, .has_ana = true };
	struct target_opts target_opts;
	struct err err = {};
	char uri[128];

	target_opts_init(&target_opts);
	if (target_start(&target_opts, &rig.target, &err) < 0 ||
	    subsystem_add(rig.target, &opts, &rig.subsystem, &err) < 0 ||
	    target_listen(rig.target, "127.0.0.1", 0, &err) < 0 ||
	    target_listen(rig.target, "127.0.0.1", 0, &err) < 0)
		return CHECK_STR(err_text(&err), "a target");
	for (unsigned i = 0; i < namespaces; i++) {
		(void)snprintf(uri, sizeof(uri), "malloc:///m%u?%s", i, back_params);
		if (device_create(uri, &rig.back[i], &err) < 0 ||
		    subsystem_add_ns(rig.subsystem, rig.back[i], i + 1, NULL, &err) < 0)
			return CHECK_STR(err_text(&err), "a namespace");
	}
	(void)snprintf(rig.uri, sizeof(rig.uri),
		       "nvmf://127.0.0.1:%u/" NQN "?paths=127.0.0.1:%u&reconnect_delay=20ms",
		       target_listener_port(rig.target, 0), target_listener_port(rig.target, 1));
	return true;
}

static void rig_down(void)
{
	target_stop(rig.target);
	device_remove_all();
	rig = (struct rig){};
}

static bool open_remote(struct opened *o, const char *more)
{
	char uri[768];

	(void)snprintf(uri, sizeof(uri), "%s%s", rig.uri, more);
	return opened_open(o, uri, DESC_WRITE);
}

/* ---- 16 namespaces -------------------------------------------------------------------------- */

ENGINE_TEST(pair_16_namespaces_at_once)
{
	static struct opened all[NAMESPACES];
	char more[32];

	if (!rig_up(NAMESPACES, "size_mb=4"))
		return;
	for (unsigned i = 0; i < NAMESPACES; i++) {
		(void)snprintf(more, sizeof(more), "&nsid=%u", i + 1);
		if (!open_remote(&all[i], more))
			return;
		CHECK(uuid_equal(&all[i].dev->uuid, &rig.back[i]->uuid));
	}
	CHECK_EQ(subsystem_controller_count(rig.subsystem), LISTENERS);
	for (unsigned i = 0; i < NAMESPACES; i++) /* all at the same blocks */
		(void)load_start(i, &all[i], 0);
	for (unsigned i = 0; i < NAMESPACES; i++)
		CHECK(wait_more(&loads[i].rounds, 300));
	for (unsigned i = 0; i < NAMESPACES; i++) {
		load_end(&loads[i], rig.back[i]);
		opened_close(&all[i]);
	}
	rig_down();
}

/* ---- 4 KiB blocks --------------------------------------------------------------------------- */

static uint16_t verify(struct opened *o, uint64_t lba, uint32_t nlb)
{
	struct nvme_cmd cmd = { .opcode = NVME_IO_VERIFY };
	struct io io = { .op = IO_NVME_IO, .cmd = &cmd };

	le32_put(&cmd.cdw10, (uint32_t)lba);
	le32_put(&cmd.cdw12, nlb - 1);
	return io_wait(o->h, &io);
}

static void mixed_4k(const char *more)
{
	struct opened o;
	struct load *load;

	TAP_ROW(more);
	if (!rig_up(1, "size_mb=8&blk_size=4096") || !open_remote(&o, more))
		return;
	CHECK_EQ(o.dev->block_size, 4096);
	CHECK_EQ(o.dev->nblocks, 2048);
	CHECK(o.dev->ops & IO_BIT(IO_COMPARE_WRITE));
	load = load_start(0, &o, 0);
	CHECK_EQ(verify(&o, 0, 32), IO_OK);
	CHECK_EQ(verify(&o, 2047, 1), IO_OK);
	CHECK_EQ(verify(&o, 2047, 2), IO_OUT_OF_RANGE);
	CHECK(wait_more(&load->rounds, 3000));
	load_end(load, rig.back[0]);
	opened_close(&o);
	rig_down();
	TAP_ROW(NULL);
}

ENGINE_TEST(pair_4k_every_operation)
{
	static const char *const rows[] = { "", "&hdgst", "&ddgst", "&hdgst&ddgst",
					    "&queue_depth=3" };

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		mixed_4k(rows[i]);
}

/* ---- what a target changes under I/O -------------------------------------------------------- */

ENGINE_TEST(pair_4k_ana_changes_under_io)
{
	static const struct {
		enum ana_state state[LISTENERS];
	} rows[] = {
		{ { ANA_NON_OPTIMIZED, ANA_OPTIMIZED } }, { { ANA_INACCESSIBLE, ANA_OPTIMIZED } },
		{ { ANA_OPTIMIZED, ANA_INACCESSIBLE } },  { { ANA_CHANGE, ANA_NON_OPTIMIZED } },
		{ { ANA_INACCESSIBLE, ANA_CHANGE } },     { { ANA_OPTIMIZED, ANA_OPTIMIZED } },
	};
	struct err err = {};
	struct opened o;
	struct load *load;

	if (!rig_up(1, "size_mb=8&blk_size=4096") || !open_remote(&o, "&nsid=1"))
		return;
	load = load_start(0, &o, 0);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		bool is_open = false;

		for (int j = 0; j < LISTENERS; j++) {
			is_open |= rows[i].state[j] <= ANA_NON_OPTIMIZED;
			CHECK_EQ(subsystem_set_ana(rig.subsystem, j, 0, rows[i].state[j], &err), 0);
		}
		if (is_open)
			CHECK(wait_more(&load->rounds, 200));
	}
	CHECK_STR(err.msg, "");
	CHECK_EQ(load->failed, 0);
	load_end(load, rig.back[0]);
	opened_close(&o);
	rig_down();
}

ENGINE_TEST(pair_4k_grows_under_io)
{
	enum { OLD = 2048, NEW = 4096 };
	struct load *load, *beyond;
	struct device *dev;
	struct err err = {};
	struct opened o;

	if (!rig_up(1, "size_mb=8&capacity_mb=16&blk_size=4096") || !open_remote(&o, "&nsid=1"))
		return;
	CHECK_EQ(o.dev->nblocks, OLD);
	load = load_start(0, &o, 0);
	CHECK(wait_more(&load->rounds, 100));
	CHECK_EQ(device_create("malloc:///m0?size_mb=16&blk_size=4096&resize", &dev, &err), 0);
	CHECK_STR(err.msg, "");
	for (unsigned i = 0; i < WAIT_MS && o.dev->nblocks == OLD; i++)
		task_sleep(NS_PER_MS);
	CHECK_EQ(o.dev->nblocks, NEW);
	beyond = load_start(1, &o, NEW - WORKERS * SPAN);
	CHECK(wait_more(&beyond->rounds, 200));
	CHECK_EQ(load->failed + beyond->failed, 0);
	load_end(load, rig.back[0]);
	load_end(beyond, rig.back[0]);
	opened_close(&o);
	rig_down();
}

ENGINE_TEST(pair_4k_namespace_goes_and_comes_under_io)
{
	struct load *load, *other;
	struct opened one, two;
	struct err err = {};

	if (!rig_up(2, "size_mb=8&blk_size=4096") || !open_remote(&one, "&nsid=1") ||
	    !open_remote(&two, "&nsid=2"))
		return;
	load = load_start(0, &one, 0);
	other = load_start(1, &two, 0);
	for (unsigned i = 0; i < 3; i++) {
		CHECK(wait_more(&load->rounds, 100));
		load->may_fail = true;
		CHECK_EQ(subsystem_remove_ns(rig.subsystem, 1, &err), 0);
		CHECK(wait_more(&load->failed, 1));
		CHECK_EQ(subsystem_add_ns(rig.subsystem, rig.back[0], 1, NULL, &err), 0);
		/* it fails until the initiator has looked again, and then no more */
		for (unsigned ms = 0, seen = 0; ms < WAIT_MS && seen != load->failed; ms += 20) {
			seen = load->failed;
			task_sleep(20 * NS_PER_MS);
		}
		load->may_fail = false;
	}
	CHECK(wait_more(&load->rounds, 200));
	CHECK(wait_more(&other->rounds, 100));
	CHECK_STR(err.msg, "");
	CHECK_EQ(other->failed, 0); /* the neighbour noticed nothing */
	load_end(load, rig.back[0]);
	load_end(other, rig.back[1]);
	opened_close(&one);
	opened_close(&two);
	rig_down();
}

ENGINE_TEST(pair_4k_hosts_are_refused_and_admitted_under_io)
{
	static const char *const only_friend[] = { FRIEND };
	struct opened guest, companion;
	struct device *dev = NULL;
	struct load *load, *other;
	struct err err = {};
	char uri[768];
	unsigned seen;

	if (!rig_up(2, "size_mb=8&blk_size=4096") || !open_remote(&guest, "&nsid=1") ||
	    !open_remote(&companion, "&nsid=2&hostnqn=" FRIEND))
		return;
	load = load_start(0, &guest, 0);
	load->may_lose = true;
	other = load_start(1, &companion, 0);
	CHECK(wait_more(&load->rounds, 100));
	CHECK_EQ(subsystem_set_hosts(rig.subsystem, only_friend, 1, &err), 0);
	/* nothing of the one who was shut out is under way any more, and nothing new comes */
	CHECK_EQ(subsystem_controller_count(rig.subsystem), LISTENERS);
	(void)snprintf(uri, sizeof(uri), "%s&nsid=1&hostnqn=nqn.2014-08.org.example:x", rig.uri);
	CHECK(device_create(uri, &dev, &err) < 0);
	CHECK_HAS(err.msg, "does not admit");
	seen = load->rounds;
	CHECK(wait_more(&other->rounds, 200));
	CHECK_EQ(load->rounds, seen);
	err_clear(&err);
	CHECK_EQ(subsystem_set_hosts(rig.subsystem, NULL, 0, &err), 0);
	CHECK(wait_more(&load->rounds, 200));
	CHECK_STR(err.msg, "");
	CHECK_EQ(load->failed + other->failed, 0);
	load_end(load, rig.back[0]);
	load_end(other, rig.back[1]);
	opened_close(&guest);
	opened_close(&companion);
	rig_down();
}

TAP_MAIN()
