/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.c - `ashlar-sim`: seeds in, verdicts out.
 *
 *   ashlar-sim --seeds A..B   run each seed; stop at the first violation
 *   ashlar-sim --seed N --trace   the same run again, every event printed
 *
 * A violation prints what was violated, the seed and the command that replays it. An assertion of
 * the engine, or a crash, is a violation as well: the handler prints the same lines, and the exit
 * status is 1 in all cases. After a violation the process ends: its engine is a wreck.
 *
 * --plant puts a known bug in (world.h, enum plant): a simulator that does not find it within the
 * given seeds has failed, so with --plant the exit status is turned round.
 */
#include <errno.h>
#include <execinfo.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "alloc.h"
#include "base/log.h"
#include "cover.h"
#include "device/driver.h"
#include "disk.h"
#include "guard.h"
#include "layer.h"
#include "mirror.h"
#include "pair.h"
#include "reactor/mem.h"
#include "reactor/task.h"
#include "scene.h"
#include "schemes.h"
#include "serve.h"
#include "world.h"

enum {
	/* Of one seed. Some thousands are usual, with a window of some bytes millions. */
	STEPS_MAX = 20 * 1000 * 1000,
	DRIVERS_MAX = 64,
};

static struct options {
	uint64_t first, last;
	double time_s; /* stop after so long, 0: never */
	bool is_traced, is_covered, prints_hash, runs_twice;
} options = { .first = 1, .last = 100 };

static uint64_t current_seed;
static const char *program;

static void print_replay(FILE *to)
{
	fprintf(to, "seed %" PRIu64 "; replay: %s%s --seed %" PRIu64 "%s%s --trace\n", current_seed,
		program,
		scene_is_mirror   ? " --mirror"
		: scene_is_paired ? " --pair"
				  : "",
		current_seed, sim_plant != PLANT_NONE ? " --plant " : "",
		sim_plant != PLANT_NONE ? plant_name(sim_plant) : "");
}

/* An assertion or a crash. stdio is not safe here, but the process is lost and one thread. */
static void crashed(int sig)
{
	void *frames[32];

	signal(sig, SIG_DFL);
	if (options.is_traced)
		backtrace_symbols_fd(frames, backtrace(frames, 32), STDERR_FILENO);
	printf("VIOLATION the engine died of signal %d\n", sig);
	print_replay(stdout);
	if (sim_plant != PLANT_NONE)
		printf("planted %s: found\n", plant_name(sim_plant));
	fflush(stdout);
	_exit(sim_plant != PLANT_NONE ? 0 : 1);
}

static void catch_crashes(void)
{
	static uint8_t stack[64 << 10];
	stack_t alt = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction act = { .sa_handler = crashed, .sa_flags = SA_ONSTACK | SA_RESETHAND };

	(void)sigaltstack(&alt, NULL);
	(void)sigaction(SIGABRT, &act, NULL);
	(void)sigaction(SIGSEGV, &act, NULL);
	(void)sigaction(SIGBUS, &act, NULL);
}

/* The engine's own drivers and the simulator's. */
static void make_driver_table(void)
{
	static const struct driver *table[DRIVERS_MAX];
	unsigned n = 0;

	for (const struct driver *const *d = scheme_table; *d != NULL; d++)
		table[n++] = *d;
	table[n++] = &driver_simdisk;
	table[n++] = &driver_simlayer;
	assert(n < DRIVERS_MAX);
	drivers_set(table);
}

/* False on a violation, which is printed. */
static bool run_seed(uint64_t seed, uint64_t *ret_hash)
{
	struct world_opts opts = { .seed = seed, .is_traced = options.is_traced };
	uint64_t dma_before = dma_bytes_in_use();

	current_seed = seed;
	alloc_mark();
	world_start(&opts);
	if (!world_task(scene_is_mirror ? mirror_run : scene_run, NULL, STEPS_MAX) &&
	    !world_failed())
		world_fail("nothing happens any more, or it goes on for ever (%" PRIu64 " turns)",
			   world_stats()->turns);
	for (unsigned i = 0; i < 1000 && !world_failed() && task_count() > 0; i++)
		(void)world_step();
	if (!world_failed() && task_count() > 0)
		world_fail("%u tasks are left at the end", task_count());
	*ret_hash = world_hash();
	if (!world_failed()) {
		task_pool_drain();
		world_stop();
		if (alloc_live() > 0) {
			world_fail("%zu allocations were not freed", alloc_live());
			alloc_print(5);
		}
		if (alloc_check_freed() > 0)
			world_fail("memory was written to after it was freed");
		if (dma_bytes_in_use() != dma_before)
			world_fail("%" PRIu64 " bytes of device memory were not freed",
				   dma_bytes_in_use() - dma_before);
	}
	if (!world_failed())
		return true;
	printf("VIOLATION %s\n", world_failure());
	print_replay(stdout);
	return false;
}

static uint64_t total_events, total_turns;

static bool run_one(uint64_t seed)
{
	uint64_t hash, again;

	if (!run_seed(seed, &hash))
		return false;
	total_events += world_stats()->events;
	total_turns += world_stats()->turns;
	if (options.prints_hash)
		printf("%" PRIu64 " %016" PRIx64 " %" PRIu64 "\n", seed, hash,
		       world_stats()->events);
	if (!options.runs_twice)
		return true;
	if (!run_seed(seed, &again))
		return false;
	if (hash == again)
		return true;
	printf("VIOLATION seed %" PRIu64 " is two different runs: %016" PRIx64 ", %016" PRIx64 "\n",
	       seed, hash, again);
	return false;
}

static double seconds_now(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void print_pair(void)
{
	const struct pair_stats *s = &pair_stats;

	printf("both ends: %" PRIu64 " epochs, %" PRIu64 " with two paths, %" PRIu64
	       " of them with one that is well; %" PRIu64 " connects, %" PRIu64 " MiB; %" PRIu64
	       " drops, %" PRIu64 " half-open, %" PRIu64 " partitions, %" PRIu64
	       " restarts, %" PRIu64 " crashes, %" PRIu64 " subsystems and %" PRIu64
	       " paths changed, %" PRIu64 " ANA changes, %" PRIu64 " disconnects, %" PRIu64
	       " shut out, %" PRIu64 " namespaces gone, %" PRIu64 " decoys, %" PRIu64
	       " late, %" PRIu64 " writes lost\n",
	       s->epochs, s->two_paths, s->calm, s->connects, s->bytes >> 20, s->drops,
	       s->half_opens, s->partitions, s->restarts, s->crashes, s->subsystems, s->paths,
	       s->ana, s->disconnects, s->shut_outs, s->namespaces, s->decoys, s->late, s->lost);
}

static void print_mirror(void)
{
	const struct mirror_stats *s = &mirror_stats;

	printf("mirrors: %" PRIu64 " epochs: %" PRIu64 " to the end, %" PRIu64
	       " shut down, %" PRIu64 " destroyed, %" PRIu64 " killed (%" PRIu64
	       " with cuts), %" PRIu64 " ended themselves, %" PRIu64 " froze; %" PRIu64
	       " children cut off, %" PRIu64 " removed, %" PRIu64 " changed by clients; %" PRIu64
	       " rebuilt, %" PRIu64 " of them in part, %" PRIu64 " held up; %" PRIu64
	       " scrubs; %" PRIu64 " resized, %" PRIu64 " blocks mended, %" PRIu64
	       " overlaps; %" PRIu64 " shortages of space, %" PRIu64
	       " children retired by them, %" PRIu64 " writes refused; far: %" PRIu64
	       " connections lost, %" PRIu64 " restarts, %" PRIu64 " crashes; %" PRIu64
	       " times too slow; %" PRIu64 " lives without a record, %" PRIu64 " lost it, %" PRIu64
	       " stale sources, %" PRIu64 " found\n",
	       s->epochs, s->quiet, s->shutdowns, s->destroys, s->kills, s->kill_cuts, s->self_ends,
	       s->frozen, s->cuts, s->removals, s->child_ops, s->rebuilds, s->partial,
	       s->rebuild_ops, s->scrubs, s->resizes, s->repairs, s->overlaps, s->shortages,
	       s->full_children, s->told_full, s->drops, s->restarts, s->crashes, s->timeouts,
	       s->lost, s->lost_in_life, s->lost_ties, s->lost_found);
}

/* What many seeds of mirrors must have met besides pairs of faults and states; printed. */
static unsigned mirror_missing(void)
{
	const struct mirror_stats *s = &mirror_stats;
	const struct {
		const char *what;
		uint64_t count;
	} met[] = {
		{ "a quiet end", s->quiet },
		{ "a shutdown", s->shutdowns },
		{ "a destroy under I/O", s->destroys },
		{ "a death", s->kills },
		{ "a death with power cuts", s->kill_cuts },
		{ "an end by itself", s->self_ends },
		{ "a freeze", s->frozen },
		{ "a full rebuild", s->rebuilds - s->partial },
		{ "a partial rebuild", s->partial },
		{ "a rebuild that is held up", s->rebuild_ops },
		{ "a scrub", s->scrubs },
		{ "a resize", s->resizes },
		{ "a block that was mended", s->repairs },
		{ "overlapping writes", s->overlaps },
		{ "a child retired for want of space", s->full_children },
		{ "a write refused for want of space", s->told_full },
		{ "a connection that was lost", s->drops },
		{ "a child that took too long", s->timeouts },
		{ "a life that begins without a record", s->lost },
		{ "a stale child that may be the source", s->lost_ties },
	};
	unsigned missing = 0;

	for (size_t i = 0; i < ARRAY_LEN(met); i++) {
		if (met[i].count > 0)
			continue;
		printf("never met: %s\n", met[i].what);
		missing++;
	}
	return missing;
}

static bool run_all(void)
{
	double began = seconds_now(), took;
	uint64_t seeds = 0;

	for (uint64_t seed = options.first; seed <= options.last; seed++) {
		if (options.time_s > 0 && seconds_now() - began > options.time_s)
			break;
		if (!run_one(seed))
			return false;
		seeds++;
	}
	took = seconds_now() - began;
	printf("%" PRIu64 " seeds from %" PRIu64 " in %.1f s: %" PRIu64 " epochs, %" PRIu64
	       " requests (%" PRIu64 " failed as they must), %" PRIu64 " power cuts, %" PRIu64
	       " removals\n",
	       seeds, options.first, took, scene_stats.epochs, scene_stats.requests,
	       scene_stats.failed, scene_stats.power_cuts, scene_stats.removals);
	printf("%.0f events and %.0f turns per seed; %" PRIu64 " blocks judged, %" PRIu64
	       " of them with more than one possible value; %" PRIu64 " open after power cuts\n",
	       (double)total_events / (double)MAX(seeds, UINT64_C(1)),
	       (double)total_turns / (double)MAX(seeds, UINT64_C(1)), scene_stats.blocks_judged,
	       scene_stats.ambiguous, scene_stats.crash_choices);
	if (serve_stats.epochs > 0)
		printf("through the target: %" PRIu64 " epochs, %" PRIu64 " connects, %" PRIu64
		       " commands, %" PRIu64 " MiB, %" PRIu64 " connections dropped, %" PRIu64
		       " half-open, %" PRIu64 " commands lost with them\n",
		       serve_stats.epochs, serve_stats.connects, serve_stats.commands,
		       serve_stats.bytes >> 20, serve_stats.drops, serve_stats.half_opens,
		       serve_stats.lost);
	if (pair_stats.epochs > 0)
		print_pair();
	if (mirror_stats.epochs > 0)
		print_mirror();
	return true;
}

static int usage(void)
{
	fprintf(stderr,
		"usage: %s [--pair | --mirror] [--seeds A..B | --seed N] [--trace]\n"
		"       [--time SECONDS]\n"
		"       [--coverage] [--hash] [--twice] [--plant BUG]\n"
		"  --pair         stacks with our initiator and our target in the middle\n"
		"  --mirror       a nexus over disks that come and go\n"
		"  --seeds A..B   run these seeds, both included (1..100)\n"
		"  --seed N       run one\n"
		"  --trace        print every event to stderr\n"
		"  --time S       begin no seed after S seconds\n"
		"  --coverage     print the matrix fault x state; fail where a pair was never met\n"
		"  --hash         print each seed's trace hash and number of events\n"
		"  --twice        run each seed twice, compare the hashes\n"
		"  --plant BUG    put a bug in; exit 0 only if it is found:",
		program);
	for (enum plant plant = PLANT_NONE + 1; plant < PLANT_COUNT_; plant++)
		fprintf(stderr, " %s", plant_name(plant));
	fprintf(stderr, "\n");
	return 2;
}

static bool parse_seeds(const char *text)
{
	char *end;

	errno = 0;
	options.first = options.last = strtoull(text, &end, 10);
	if (strncmp(end, "..", 2) == 0)
		options.last = strtoull(end + 2, &end, 10);
	return errno == 0 && end != text && *end == '\0' && options.first <= options.last;
}

static bool parse(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "seeds", required_argument, NULL, 's' },
		{ "seed", required_argument, NULL, 's' },
		{ "trace", no_argument, NULL, 't' },
		{ "time", required_argument, NULL, 'T' },
		{ "coverage", no_argument, NULL, 'c' },
		{ "hash", no_argument, NULL, 'h' },
		{ "twice", no_argument, NULL, '2' },
		{ "plant", required_argument, NULL, 'p' },
		{ "pair", no_argument, NULL, 'P' },
		{ "mirror", no_argument, NULL, 'M' },
		{},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if ((c == 's' && !parse_seeds(optarg)) ||
		    (c == 'p' && !plant_parse(optarg, &sim_plant)) || c == '?')
			return false;
		if (c == 'T')
			options.time_s = strtod(optarg, NULL);
		scene_is_paired |= c == 'P';
		scene_is_mirror |= c == 'M';
		options.is_traced |= c == 't';
		options.is_covered |= c == 'c';
		options.prints_hash |= c == 'h';
		options.runs_twice |= c == '2';
	}
	return optind == argc;
}

/* What the engine says becomes part of the trace. */
static void log_line(void *ctx, enum log_level level, uint64_t now_ns, const char *text)
{
	(void)ctx;
	(void)now_ns;
	world_say("%s: %s", log_level_name(level), text);
}

static uint64_t log_clock(void *ctx)
{
	(void)ctx;
	return world_now();
}

int main(int argc, char **argv)
{
	bool is_good;

	program = argv[0];
	if (!parse(argc, argv))
		return usage();
	cover_set_play(scene_is_mirror ? COVER_MIRROR : scene_is_paired ? COVER_PAIR : COVER_LOCAL);
	catch_crashes();
	make_driver_table();
	log_set_level(options.is_traced ? LOG_DEBUG : LOG_ERROR);
	/* an initiator has much to complain about, and so has a nexus */
	if (options.is_traced || scene_is_paired || scene_is_mirror)
		log_set_sink(log_line, NULL);
	log_set_clock(log_clock, NULL);
	load_init();
	is_good = run_all();
	if (is_good && options.is_covered) {
		cover_print();
		is_good = cover_missing() + (scene_is_mirror ? mirror_missing() : 0) == 0;
	}
	load_free();
	if (sim_plant == PLANT_NONE)
		return is_good ? 0 : 1;
	printf("planted %s: %s\n", plant_name(sim_plant), is_good ? "NOT FOUND" : "found");
	return is_good ? 1 : 0;
}
