/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wake.c - what it costs to be reached by a message, and what waiting for one costs.
 *
 *   bench-wake [SECONDS per row [alone]]      alone: no rival for the core
 *
 * One reactor on core 0, one sender on core 1 that sends at random times (Poisson), because a
 * regular beat would flatter an adaptive spin. Per rate: how long until the message runs (median,
 * 99 %), and how much of its core the reactor's thread used. Then the same on a core that another
 * thread wants too, where a spinner would wait in line for whole time slices, and the processor
 * time of an engine in which nothing happens.
 *
 * The sender spins between messages: its clock is better than any timer, and its core is not what
 * is measured. Messages come from a ring that is much longer than what is under way; one that is
 * not back yet counts as late and is skipped.
 *
 * On a machine that is busy otherwise the figures are the machine's, not the reactor's; `chrt -f 1
 * bench-wake 0.5 alone` keeps the others out (without the rival: two real-time threads on one core
 * would wait for each other).
 *
 * Thread: stamps are taken by the sender before it posts and by the reactor when the message runs.
 */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/rng.h"
#include "base/units.h"
#include "reactor/reactor.h"

enum { RING = 4096, SAMPLES_MAX = 1 << 20 };

struct ping {
	struct msg msg;
	uint64_t sent_ns;
	atomic_bool is_under_way;
};

static struct ping ring[RING];
static uint32_t *sample_ns; /* written by the reactor only */
static unsigned nsamples;

static uint64_t now_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void ping_arrived(struct msg *msg)
{
	struct ping *ping = container_of(msg, struct ping, msg);
	uint64_t ns = now_ns() - ping->sent_ns;

	if (nsamples < SAMPLES_MAX)
		sample_ns[nsamples++] = (uint32_t)MIN(ns, (uint64_t)UINT32_MAX);
	atomic_store_explicit(&ping->is_under_way, false, memory_order_release);
}

/* ---- asking the reactor about itself ------------------------------------------------ */

struct question {
	struct msg msg;
	uint64_t cpu_ns; /* its thread's so far */
	uint64_t sleeps;
	atomic_bool is_answered;
};

static void question_arrived(struct msg *msg)
{
	struct question *q = container_of(msg, struct question, msg);
	struct timespec ts;

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	q->cpu_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	q->sleeps = reactor_self()->stats.sleeps;
	atomic_store(&q->is_answered, true);
}

static struct question ask(void)
{
	struct question q = { .msg.fn = question_arrived };

	reactor_post(reactor_primary(), &q.msg);
	while (!atomic_load(&q.is_answered))
		(void)sched_yield();
	return q;
}

/* ---- a rival for the core ----------------------------------------------------------- */

static atomic_bool rival_runs;
static atomic_ulong rival_rounds;

static void pin(int core)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET((size_t)core, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus) < 0)
		perror("cannot pin a thread");
}

static void *rival(void *arg)
{
	(void)arg;
	pin(0);
	while (atomic_load_explicit(&rival_runs, memory_order_relaxed))
		atomic_fetch_add_explicit(&rival_rounds, 1, memory_order_relaxed);
	return NULL;
}

/* ---- one row ------------------------------------------------------------------------ */

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

struct row {
	double p50_us, p99_us, cpu_percent, sleeps_per_s;
	unsigned count, late;
};

static void send_all(struct rng *rng, double rate, uint64_t end_ns, unsigned *ret_late)
{
	uint64_t next_ns = now_ns();
	unsigned i = 0;

	while (next_ns < end_ns) {
		struct ping *ping = &ring[i++ % RING];
		double u = (double)(rng_next(rng) >> 11) / 9007199254740992.0; /* 53 bits */

		next_ns += (uint64_t)(-log(1.0 - u) * 1e9 / rate);
		while (now_ns() < next_ns)
			;
		if (atomic_load_explicit(&ping->is_under_way, memory_order_acquire)) {
			(*ret_late)++;
			continue;
		}
		atomic_store_explicit(&ping->is_under_way, true, memory_order_relaxed);
		ping->sent_ns = now_ns();
		reactor_post(reactor_primary(), &ping->msg);
	}
	for (unsigned k = 0; k < RING; k++) {
		while (atomic_load(&ring[k].is_under_way))
			(void)sched_yield();
	}
}

static struct row measure(double rate, double seconds)
{
	struct question before, after;
	struct row row = {};
	struct rng rng;
	uint64_t start_ns;
	double ns;

	rng_init(&rng, 1);
	before = ask();
	nsamples = 0;
	start_ns = now_ns();
	send_all(&rng, rate, start_ns + (uint64_t)(seconds * 1e9), &row.late);
	ns = (double)(now_ns() - start_ns);
	after = ask();
	row.count = nsamples;
	qsort(sample_ns, nsamples, sizeof(*sample_ns), by_size);
	if (nsamples > 0) {
		row.p50_us = sample_ns[nsamples / 2] / 1e3;
		row.p99_us = sample_ns[(uint64_t)nsamples * 99 / 100] / 1e3;
	}
	row.cpu_percent = (double)(after.cpu_ns - before.cpu_ns) / ns * 100;
	row.sleeps_per_s = (double)(after.sleeps - before.sleeps) / ns * 1e9;
	return row;
}

static void print_row(const char *where, double rate, const struct row *row)
{
	printf("%-16s %6.0f/s  p50 %8.2f us  p99 %9.2f us  cpu %5.1f %%  sleeps %6.0f/s  late %u\n",
	       where, rate, row->p50_us, row->p99_us, row->cpu_percent, row->sleeps_per_s,
	       row->late);
	(void)fflush(stdout);
}

static bool start(bool poll_always)
{
	struct reactor_opts opts = { .core_mask = 1, .poll_always = poll_always };
	struct err err = {};

	if (reactors_start(&opts, &err) == 0)
		return true;
	(void)fprintf(stderr, "bench-wake: %s\n", err_text(&err));
	return false;
}

static void measure_all(double seconds, double *ret_p50_50k, double *ret_cpu_1k)
{
	static const double rates[] = { 100, 1000, 10000, 50000 };

	for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
		struct row row = measure(rates[i], seconds);

		print_row("core of its own", rates[i], &row);
		if (rates[i] > 40000)
			*ret_p50_50k = row.p50_us;
		if (rates[i] > 500 && rates[i] < 5000)
			*ret_cpu_1k = row.cpu_percent;
	}
}

/* The rival's share of the core tells what the reactor's spinning took from it. */
static void measure_rival(const char *where, double seconds)
{
	struct row row;
	pthread_t thread;

	atomic_store(&rival_runs, true);
	atomic_store(&rival_rounds, 0);
	if (pthread_create(&thread, NULL, rival, NULL) != 0)
		return;
	row = measure(10000, seconds);
	atomic_store(&rival_runs, false);
	(void)pthread_join(thread, NULL);
	print_row(where, 10000, &row);
}

static double measure_idle(double seconds)
{
	struct timespec pause = { .tv_sec = (time_t)seconds, .tv_nsec = 0 };
	struct question before = ask(), after;

	if (pause.tv_sec == 0)
		pause.tv_sec = 1;
	(void)nanosleep(&pause, NULL); /* the interval that is measured */
	after = ask();
	return (double)(after.cpu_ns - before.cpu_ns) / ((double)pause.tv_sec * 1e9) * 100;
}

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? strtod(argv[1], NULL) : 1;
	double p50_50k = 0, cpu_1k = 0, idle;

	sample_ns = calloc(SAMPLES_MAX, sizeof(*sample_ns));
	if (sample_ns == NULL || !start(false))
		return 1;
	for (unsigned i = 0; i < RING; i++)
		ring[i].msg.fn = ping_arrived;
	pin(1);
	measure_all(seconds, &p50_50k, &cpu_1k);
	if (argc <= 2)
		measure_rival("shared core", seconds);
	idle = measure_idle(seconds);
	reactors_stop();
	if (argc <= 2) {
		if (!start(true))
			return 1;
		measure_rival("shared, --poll", seconds);
		reactors_stop();
	}
	free(sample_ns);
	printf("claim wake_p50_at_50k value=%.2f unit=us target=<=:5\n", p50_50k);
	printf("claim wake_cpu_at_1k value=%.1f unit=%% target=<=:5\n", cpu_1k);
	printf("claim idle_cpu value=%.3f unit=%% target=<=:0.3\n", idle);
	return 0;
}
