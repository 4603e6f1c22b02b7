/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench.c - `ashlar bench`: keep requests in flight on devices, measure, check what was read.
 *
 * A task on the primary reactor does all that is not measured: it opens the devices, lays out one
 * worker per device and reactor (bench_worker.c), sends each to its reactor, and then waits for
 * their word that a phase is over, waking ten times a second to draw the bar and to look whether
 * the user wants to stop. With --verify a second phase reads back every unit that was written.
 *
 *	open -> [load state] -> [BENCH_FILL] -> BENCH_RUN -> [BENCH_CHECK] -> [save state]
 *	     -> report -> close
 *
 * Workers on several reactors divide a device: sequential and verifying patterns by parts, so that
 * nobody needs a lock; plain random ones all draw from the whole.
 *
 * Processor time is the whole process's, from the first to the last request of the run: what the
 * benchmark itself, the bar and the kernel's threads in our name cost is in it.
 *
 * An interrupt (Ctrl-C) ends the phase early; what was measured until then is reported. While
 * units are read back it ends the command as failed, because nothing was proven.
 *
 * Rejected: a main thread that polls shared flags (the tool would disturb what it measures), and
 * one thread per request (it would measure the scheduler).
 *
 * Thread: bench_main() and what it calls run in the task; worker functions on their reactors.
 */
#include "cli/bench.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/log.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/term.h"

static const char *const rw_names[] = {
	[BENCH_RANDREAD] = "randread", [BENCH_RANDWRITE] = "randwrite", [BENCH_READ] = "read",
	[BENCH_WRITE] = "write",       [BENCH_RANDRW] = "randrw",       NULL,
};

static const char *const poll_names[] = { "adaptive", "always", NULL };

#define FIELD(name) offsetof(struct bench_opts, name)

static const struct opt bench_options[] = {
	{ "rw", "MODE",
	  "randread (default), randwrite, read, write or randrw;\n"
	  "writing destroys what is on the device",
	  OPT_CHOICE, FIELD(rw), .choices = rw_names },
	{ "rwmix", "PERCENT", "share of reads in randrw (70)", OPT_NUMBER, FIELD(rwmix), 0, 100 },
	{ "bs", "BYTES", "size of a request, a multiple of the block size (4096)", OPT_SIZE,
	  FIELD(bs), 512, 64 << 20 },
	{ "qd", "DEPTH", "requests in flight per device and core (32)", OPT_NUMBER, FIELD(qd), 1,
	  BENCH_QD_MAX },
	{ "time", "SECONDS", "how long to measure (5, or no limit with --ops)", OPT_SECONDS,
	  FIELD(time_ns), 1 },
	{ "ops", "N", "end after so many requests in total", OPT_NUMBER, FIELD(ops), 1 },
	{ "cores", "MASK",
	  "one reactor per bit, pinned; 0x3 = cores 0 and 1\n"
	  "(one, not pinned)",
	  OPT_MASK, FIELD(cores) },
	{ "verify", NULL,
	  "blocks carry their address and generation; reads check\n"
	  "them, and at the end everything written is read back",
	  OPT_FLAG, FIELD(verify) },
	{ "fill", NULL,
	  "write the whole device once before: reading what was never\n"
	  "written measures something else",
	  OPT_FLAG, FIELD(fill) },
	{ "state", "FILE",
	  "with --verify: start from and leave behind which\n"
	  "generation each block has, to check data of an earlier run",
	  OPT_TEXT, FIELD(state) },
	{ "rate", "N",
	  "offer N requests per second in total; latency counts\n"
	  "from when a request was due",
	  OPT_NUMBER, FIELD(rate), 1 },
	{ "poll", "MODE", "adaptive (default), or always: never sleep", OPT_CHOICE, FIELD(poll),
	  .choices = poll_names },
	{ "seed", "N", "same addresses and data again (random)", OPT_TEXT, FIELD(seed_text) },
	{ "interval", "SECONDS", "say every so often how the last interval was", OPT_SECONDS,
	  FIELD(interval_ns), BENCH_TICK_NS },
	OPT_OUTPUT(struct bench_opts, json,
		   "; with --interval\none object before the last for each"),
	{ "inject", "URI", "arm a fault: inject://DEVICE?op=...; may be given several times",
	  OPT_LIST, FIELD(inject) },
	{ NULL },
};

static const struct opt_spec bench_spec = {
	.command = "bench",
	.args = "URI...",
	.summary = "Measure block devices: requests per second, latency, processor time.",
	.details = "example:\n  ashlar bench 'null:///n0?size_mb=1024&blk_size=4096' --qd 128\n",
	.opts = bench_options,
	.args_min = 1,
	.args_max = BENCH_DEVICES_MAX,
};

static bool is_writing(const struct bench_opts *o)
{
	return o->fill || (o->rw != BENCH_RANDREAD && o->rw != BENCH_READ);
}

/* ---- opening ------------------------------------------------------------------------------- */

static int bench_open_device(struct bench *b, struct bench_device *d, struct err *err)
{
	unsigned flags = is_writing(&b->opts) ? DESC_WRITE | DESC_CLAIM : 0;
	const char *uri = d->open.uri;
	uint32_t block_size;
	int rc = opened_start(&d->open, flags, err);

	if (rc != 0)
		return rc;
	block_size = d->open.dev->block_size;
	if (b->opts.bs % block_size != 0)
		return err_set(err, -EINVAL, "%s: --bs %llu is not a multiple of its blocks of %u",
			       uri, (unsigned long long)b->opts.bs, block_size);
	if (d->open.dev->max_io_nlb != 0 && b->opts.bs / block_size > d->open.dev->max_io_nlb)
		return err_set(err, -EINVAL,
			       "%s: takes at most %llu bytes at once: use a smaller "
			       "--bs",
			       uri, (unsigned long long)d->open.dev->max_io_nlb * block_size);
	d->nunits = device_size(d->open.dev) / b->opts.bs;
	if (d->nunits < reactor_count())
		return err_set(err, -EINVAL,
			       "%s: its %llu bytes are too few for %u cores and --bs %llu", uri,
			       (unsigned long long)device_size(d->open.dev), reactor_count(),
			       (unsigned long long)b->opts.bs);
	return 0;
}

/* An equal part of the --ops for each worker; the first ones take what does not divide. */
static uint64_t share_of(uint64_t total, unsigned parts, unsigned which)
{
	return total / parts + (which < total % parts);
}

static int bench_make_worker(struct bench *b, struct bench_device *d, unsigned id, struct err *err)
{
	unsigned ncores = reactor_count(), index = b->nworkers;
	struct bench_worker *w = &b->workers[index];
	bool is_divided = b->opts.verify || b->opts.rw == BENCH_READ || b->opts.rw == BENCH_WRITE;
	uint64_t part = d->nunits / ncores;

	*w = (struct bench_worker){
		.bench = b,
		.device = d,
		.handle = d->open.handle[id],
		.reactor = reactor_get(id),
		.nunits = d->nunits,
		.unit_nlb = (uint32_t)(b->opts.bs / d->open.dev->block_size),
		.block_size = d->open.dev->block_size,
		.bs = b->opts.bs,
		.qd = (uint32_t)b->opts.qd,
		.rw = (uint8_t)b->opts.rw,
		.read_share = (uint32_t)MIN((b->opts.rwmix << 32) / 100, (uint64_t)UINT32_MAX),
		.is_verifying = b->opts.verify,
		.table = &d->table,
		.stop = &b->stop,
		.part_first = part * id,
		.part_nunits = id + 1 == ncores ? d->nunits - part * id : part,
		.ops_run = UINT64_MAX,
	};
	b->nworkers++;
	rng_init(&w->rng, b->opts.seed ^ ((uint64_t)index << 48));
	if (is_divided) {
		w->first_unit = w->part_first;
		w->nunits = w->part_nunits;
	}
	if (b->opts.ops != 0)
		w->ops_run = share_of(b->opts.ops, b->ndevices * ncores, index);
	if (b->opts.rate != 0)
		w->interval_ns = 1e9 * b->ndevices * ncores / (double)b->opts.rate;
	return worker_init(w, err);
}

/* A URI that leads to a device which another one has made is a further path to it. */
static int bench_open_uri(struct bench *b, const char *uri, struct err *err)
{
	struct opened open;
	int rc = opened_make(&open, uri, err);

	if (rc != 0)
		return rc;
	for (unsigned i = 0; i < b->ndevices; i++) {
		if (b->devices[i].open.dev == open.dev) {
			b->paths[b->npaths++] = open;
			return 0;
		}
	}
	b->devices[b->ndevices].open = open;
	return bench_open_device(b, &b->devices[b->ndevices++], err);
}

static int bench_open(struct bench *b, struct err *err)
{
	int rc = 0;

	b->devices = calloc(b->uris.count, sizeof(*b->devices));
	b->paths = calloc(b->uris.count, sizeof(*b->paths));
	b->workers = calloc((size_t)b->uris.count * reactor_count(), sizeof(*b->workers));
	if (b->devices == NULL || b->paths == NULL || b->workers == NULL)
		return err_set(err, -ENOMEM, "no memory for the workers");
	for (unsigned i = 0; i < b->uris.count && rc == 0; i++)
		rc = bench_open_uri(b, b->uris.items[i], err);
	if (rc == 0 && b->opts.verify)
		rc = gen_tables_make(b, err);
	for (unsigned i = 0; i < b->ndevices; i++) {
		b->devices[i].workers = &b->workers[b->nworkers];
		for (unsigned id = 0; id < reactor_count() && rc == 0; id++)
			rc = bench_make_worker(b, &b->devices[i], id, err);
	}
	return rc;
}

static void bench_close(struct bench *b)
{
	for (unsigned i = 0; i < b->nworkers; i++)
		worker_done(&b->workers[i]);
	for (unsigned i = b->npaths; i-- > 0;)
		opened_close(&b->paths[i]);
	for (unsigned i = b->ndevices; i-- > 0;)
		opened_close(&b->devices[i].open);
}

/* ---- running ------------------------------------------------------------------------------- */

/* The sleep of the task: ended by the tick or by the last worker. */
struct bench_tick {
	struct timer timer;
	struct bench *bench;
};

static void bench_wake(struct bench *b)
{
	struct task *task = take(b->waiter);

	if (task != NULL)
		task_resume(task);
}

static void bench_ticked(struct timer *timer)
{
	bench_wake(container_of(timer, struct bench_tick, timer)->bench);
}

void bench_worker_over(struct msg *msg)
{
	struct bench *b = container_of(msg, struct bench_worker, over)->bench;

	if (--b->running == 0)
		bench_wake(b);
}

static void bench_wait_tick(struct bench *b)
{
	struct bench_tick tick = { .timer.fn = bench_ticked, .bench = b };
	struct reactor *r = reactor_primary();

	b->waiter = task_self();
	timer_arm(r, &tick.timer, BENCH_TICK_NS);
	while (b->waiter != NULL)
		task_suspend();
	timer_disarm(r, &tick.timer);
}

READS_RACING static void bench_draw(struct bench *b, struct progress *bar, uint64_t since_ns,
				    enum bench_phase phase)
{
	char iops[UNITS_TEXT_MAX], rate[UNITS_TEXT_MAX], time[UNITS_TEXT_MAX];
	uint64_t now_ns = reactor_clock(reactor_primary());
	double seconds = (double)(now_ns - since_ns) / 1e9;
	uint64_t ops = 0, failed = 0, checked = 0, bad = 0;

	for (unsigned i = 0; i < b->nworkers; i++) {
		const struct bench_counts *c = &b->workers[i].counts;

		ops += c->ops[IO_READ] + c->ops[IO_WRITE];
		failed += c->failed_in_run;
		checked += c->checked_blocks;
		bad += c->bad_blocks;
	}
	if (phase == BENCH_FILL) {
		progress_show(bar, now_ns, 0, 0, "filling: %s",
			      duration_format(now_ns - since_ns, time));
		return;
	}
	if (phase == BENCH_CHECK) {
		progress_show(bar, now_ns, 0, 0, "reading back: %s blocks, %llu bad",
			      count_format((double)checked, iops), (unsigned long long)bad);
		return;
	}
	progress_show(bar, now_ns, b->opts.ops != 0 ? ops + failed : now_ns - since_ns,
		      b->opts.ops != 0 ? b->opts.ops : b->opts.time_ns, "%s IOPS  %s  %s",
		      count_format((double)ops / seconds, iops),
		      rate_format((double)ops * (double)b->opts.bs / seconds, rate),
		      duration_format(now_ns - since_ns, time));
}

static void bench_phase(struct bench *b, enum bench_phase phase, struct progress *bar)
{
	uint64_t since_ns = reactor_clock(reactor_primary());

	atomic_store(&b->stop, false);
	if (phase == BENCH_RUN)
		interval_tick(b, bar, since_ns);
	b->running = b->nworkers;
	for (unsigned i = 0; i < b->nworkers; i++) {
		b->workers[i].phase = (uint8_t)phase;
		task_call(b->workers[i].reactor, worker_start, &b->workers[i]);
	}
	while (b->running > 0) {
		bench_wait_tick(b);
		if (engine_is_terminating() && !b->was_interrupted) {
			b->was_interrupted = true;
			atomic_store(&b->stop, true);
		}
		if (phase == BENCH_RUN)
			interval_tick(b, bar, since_ns);
		bench_draw(b, bar, since_ns, phase);
	}
	progress_wipe(bar);
}

static uint64_t process_cpu_ns(void)
{
	struct timespec ts = {};

	(void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* Blocking work of a task: load or save the tables. */
struct state_job {
	struct bench *bench;
	struct err *err;
	bool is_save;
	int rc;
};

static void state_job_run(void *arg)
{
	struct state_job *job = arg;
	const char *path = job->bench->opts.state;

	job->rc = job->is_save ? gen_tables_save(job->bench, path, job->err)
			       : gen_tables_load(job->bench, path, job->err);
}

static int bench_state(struct bench *b, bool is_save, struct err *err)
{
	struct state_job job = { .bench = b, .err = err, .is_save = is_save };

	if (b->opts.state == NULL)
		return 0;
	task_blocking(state_job_run, &job);
	if (job.rc == -ENOENT && !is_save) {
		if (is_writing(&b->opts))
			return 0; /* the first run of the experiment */
		return err_set(err, -ENOENT,
			       "%s: there is no such file; write first, with the "
			       "same --state",
			       b->opts.state);
	}
	return job.rc;
}

static int bench_measure(struct bench *b, struct err *err)
{
	uint64_t cpu_ns, first_ns = UINT64_MAX, last_ns = 0;
	struct progress bar;

	progress_init(&bar, !b->opts.json);
	if (b->opts.fill)
		bench_phase(b, BENCH_FILL, &bar);
	cpu_ns = process_cpu_ns();
	if (!b->was_interrupted)
		bench_phase(b, BENCH_RUN, &bar);
	b->cpu_ns = process_cpu_ns() - cpu_ns;
	for (unsigned i = 0; i < b->nworkers; i++) {
		first_ns = MIN(first_ns, b->workers[i].start_ns);
		last_ns = MAX(last_ns, b->workers[i].finish_ns);
	}
	b->elapsed_ns = MAX(last_ns - first_ns, (uint64_t)1);
	if (!b->opts.verify)
		return 0;
	if (!b->was_interrupted)
		bench_phase(b, BENCH_CHECK, &bar);
	return bench_state(b, true, err);
}

static int bench_main(void *arg, struct err *err)
{
	struct bench *b = arg;
	int rc = bench_open(b, err);

	if (rc == 0)
		rc = bench_state(b, false, err);
	if (rc == 0)
		rc = faults_arm(&b->opts.inject, err);
	if (rc == 0)
		rc = interval_init(b, err);
	if (rc == 0)
		rc = bench_measure(b, err);
	if (rc == 0)
		rc = bench_report(b) ? CLI_DONE : CLI_FAILED;
	else
		rc = CLI_FAILED;
	bench_close(b);
	return rc;
}

/* ---- command line --------------------------------------------------------------------------- */

static int bench_check_opts(struct bench_opts *o, struct err *err)
{
	if (o->seed_text != NULL) {
		int rc = number_parse(o->seed_text, &o->seed, err);

		if (rc != 0) {
			(void)err_prefix(err, "--seed");
			return rc;
		}
	} else if (getrandom(&o->seed, sizeof(o->seed), 0) != sizeof(o->seed)) {
		return err_set_sys(err, -errno, "no random seed; give one with --seed");
	}
	if (o->time_ns == 0 && o->ops == 0)
		o->time_ns = 5 * NS_PER_S;
	if (o->state != NULL && !o->verify)
		return err_set(err, -EINVAL, "--state is for --verify: add that");
	if (o->verify && !is_writing(o) && o->state == NULL)
		return err_set(err, -EINVAL,
			       "--verify while only reading needs --state FILE of "
			       "the run that wrote");
	return 0;
}

static int bench_run(int argc, char **argv)
{
	struct bench b = { .opts = { .rwmix = 70, .bs = 4096, .qd = 32 } };
	struct engine_opts engine = { .handle_signals = true };
	struct err err = {};
	int rc;

	if (!opt_parse_or_tell(&bench_spec, argc, argv, &b.opts, &b.uris, &rc))
		return rc;
	if (bench_check_opts(&b.opts, &err) != 0) {
		cli_error("%s", err_text(&err));
		fprintf(stderr, "Try 'ashlar bench --help'.\n");
		return CLI_USAGE;
	}
	engine.reactor.core_mask = b.opts.cores;
	engine.reactor.poll_always = b.opts.poll == 1;
	rc = cli_run_engine(&engine, bench_main, &b);
	gen_tables_free(&b);
	free(b.workers);
	free(b.devices);
	free(b.paths);
	free(b.intervals);
	return rc;
}

const struct cli_command cli_bench = {
	.name = "bench",
	.args = "URI...",
	.summary = "measure devices; with --verify also check what they return",
	.run = bench_run,
};
