/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_report.c - what a benchmark found, for a person and for a program.
 *
 * Both forms come from the same sums: one struct bench_counts per device and one of all. The JSON
 * object keeps to the names that scripts rely on (iops, bytes_per_s, lat_ns, cpu_ns_per_io,
 * errors); everything else in it may grow. Latencies are in nanoseconds; a percentile is the upper
 * bound of its histogram bucket, at most an eighth above the true value.
 *
 * Failures are told one by one up to a bound per worker, with the device, the address, what was
 * expected and what was found, and then as sums: a broken disk has many bad blocks and nobody
 * reads a million lines.
 *
 * A run without a single request is a failure too: whoever measures nothing should not read zero
 * errors as success.
 *
 * Thread: the task, after all workers have ended.
 */
#include <jansson.h>
#include <string.h>

#include "base/units.h"
#include "cli/bench.h"
#include "cli/cli.h"
#include "cli/json_text.h"
#include "cli/term.h"
#include "drivers/nvmf/remote.h"

static uint64_t ops_of(const struct bench_counts *c)
{
	return c->ops[IO_READ] + c->ops[IO_WRITE];
}

/* What the processor worked for: all requests of the run, also those that failed. */
static double cpu_ns_per_io(const struct bench *b, const struct bench_counts *c)
{
	uint64_t count = ops_of(c) + c->failed_in_run;

	return count == 0 ? 0.0 : (double)b->cpu_ns / (double)count;
}

static double per_second(const struct bench *b, uint64_t count)
{
	return (double)count * 1e9 / (double)b->elapsed_ns;
}

void bench_sum(const struct bench *b, const struct bench_device *only, struct bench_counts *ret)
{
	*ret = (struct bench_counts){};
	for (unsigned i = 0; i < b->nworkers; i++) {
		const struct bench_counts *c = &b->workers[i].counts;

		if (only != NULL && b->workers[i].device != only)
			continue;
		ret->ops[IO_READ] += c->ops[IO_READ];
		ret->ops[IO_WRITE] += c->ops[IO_WRITE];
		ret->failed_in_run += c->failed_in_run;
		ret->errors += c->errors;
		ret->checked_blocks += c->checked_blocks;
		ret->bad_blocks += c->bad_blocks;
		for (unsigned v = 0; v < PATTERN_VERDICT_COUNT_; v++)
			ret->verdicts[v] += c->verdicts[v];
		hist_merge(&ret->latency, &c->latency);
	}
}

/* "aio:///x: write of 8 blocks at block 160: no space"; @text of at least 512 bytes. */
static const char *note_text(const struct bench_worker *w, const struct bench_note *note,
			     char *text, size_t size)
{
	char detail[PATTERN_TEXT_MAX];

	if (note->is_status)
		(void)snprintf(text, size, "%s: %s of %u blocks at block %llu: %s",
			       w->device->open.uri, io_op_name(note->op), w->unit_nlb,
			       (unsigned long long)note->lba, io_status_name(note->status));
	else
		(void)snprintf(text, size, "%s: %s", w->device->open.uri,
			       pattern_describe(&note->fault, detail));
	return text;
}

/* ---- text ------------------------------------------------------------------------------------ */

static void report_row(const struct bench *b, struct table *t, const char *name,
		       const struct bench_counts *c)
{
	char text[UNITS_TEXT_MAX];
	unsigned row = table_row(t);

	table_set(t, row, 0, "%s", name);
	table_set(t, row, 1, "%s", count_format(per_second(b, ops_of(c)), text));
	table_set(t, row, 2, "%s", rate_format(per_second(b, ops_of(c) * b->opts.bs), text));
	table_set(t, row, 3, "%s", duration_format((uint64_t)hist_mean(&c->latency), text));
	table_set(t, row, 4, "%s", duration_format(hist_percentile(&c->latency, 0.5), text));
	table_set(t, row, 5, "%s", duration_format(hist_percentile(&c->latency, 0.99), text));
	table_set(t, row, 6, "%s", duration_format(hist_percentile(&c->latency, 0.999), text));
	table_set(t, row, 7, "%s", duration_format(c->latency.max_ns, text));
	table_set(t, row, 8, "%llu", (unsigned long long)(c->errors + c->bad_blocks));
}

static void report_notes(const struct bench *b, const struct bench_counts *total)
{
	uint64_t told = 0, all = total->errors + total->bad_blocks;
	char text[1024];

	for (unsigned i = 0; i < b->nworkers; i++) {
		const struct bench_worker *w = &b->workers[i];

		for (unsigned n = 0; n < w->nnotes; n++, told++)
			cli_error("%s", note_text(w, &w->notes[n], text, sizeof(text)));
	}
	if (told < all)
		cli_error("... and %llu more", (unsigned long long)(all - told));
}

static void report_verify(const struct bench *b, const struct bench_counts *total)
{
	bool is_first = true;

	if (!b->opts.verify)
		return;
	printf("verified: %llu blocks", (unsigned long long)total->checked_blocks);
	if (total->bad_blocks == 0)
		printf(", all as written");
	else
		printf(", %llu WRONG:", (unsigned long long)total->bad_blocks);
	for (unsigned v = PATTERN_OK + 1; v < PATTERN_VERDICT_COUNT_; v++) {
		if (total->verdicts[v] == 0)
			continue;
		printf("%s %llu %s", is_first ? "" : ",", (unsigned long long)total->verdicts[v],
		       pattern_verdict_name(v));
		is_first = false;
	}
	printf("%s\n", b->was_interrupted ? " (interrupted: not everything was read back)" : "");
}

/* Has anything happened to the connections of a device? */
static bool remote_of(const struct bench_device *device, struct nvmf_remote_stats *ret)
{
	return nvmf_remote_stats(device->open.dev, ret) &&
	       (ret->lost | ret->attempts | ret->resent | ret->late) != 0;
}

static void report_remote(const struct bench_device *device)
{
	struct nvmf_remote_stats r;
	char outage[UNITS_TEXT_MAX];

	if (remote_of(device, &r))
		printf("%s: connections lost %llu, attempts to reconnect %llu, without one for %s, "
		       "requests sent again %llu, late %llu\n",
		       device->open.uri, (unsigned long long)r.lost, (unsigned long long)r.attempts,
		       duration_format(r.outage_ns, outage), (unsigned long long)r.resent,
		       (unsigned long long)r.late);
}

static void report_text(const struct bench *b, const struct bench_counts *total)
{
	static const char *const titles[] = { "DEVICE", "IOPS",  "BYTES", "MEAN",   "P50",
					      "P99",    "P99.9", "MAX",   "ERRORS", NULL };
	char time[UNITS_TEXT_MAX];
	struct bench_counts one;
	struct table t;

	table_init(&t, titles, 0x1fe);
	for (unsigned i = 0; i < b->ndevices; i++) {
		bench_sum(b, &b->devices[i], &one);
		report_row(b, &t, b->devices[i].open.uri, &one);
	}
	if (b->ndevices > 1)
		report_row(b, &t, "total", total);
	table_print(&t, stdout);
	table_done(&t);
	printf("%llu reads, %llu writes in %s%s; processor time %.1f ns per request\n",
	       (unsigned long long)total->ops[IO_READ], (unsigned long long)total->ops[IO_WRITE],
	       duration_format(b->elapsed_ns, time), b->was_interrupted ? " (interrupted)" : "",
	       cpu_ns_per_io(b, total));
	for (unsigned i = 0; i < b->ndevices; i++)
		report_remote(&b->devices[i]);
	report_verify(b, total);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *json_latency(const struct hist *h)
{
	return json_pack("{s:f, s:I, s:I, s:I, s:I}", "mean", hist_mean(h), "p50",
			 (json_int_t)hist_percentile(h, 0.5), "p99",
			 (json_int_t)hist_percentile(h, 0.99), "p999",
			 (json_int_t)hist_percentile(h, 0.999), "max", (json_int_t)h->max_ns);
}

static json_t *json_counts(const struct bench *b, const struct bench_counts *c)
{
	return json_pack("{s:f, s:f, s:o, s:I, s:I, s:I}", "iops", per_second(b, ops_of(c)),
			 "bytes_per_s", per_second(b, ops_of(c) * b->opts.bs), "lat_ns",
			 json_latency(&c->latency), "errors", (json_int_t)c->errors, "reads",
			 (json_int_t)c->ops[IO_READ], "writes", (json_int_t)c->ops[IO_WRITE]);
}

static json_t *json_verify(const struct bench_counts *c)
{
	json_t *object = json_pack("{s:I, s:I}", "checked_blocks", (json_int_t)c->checked_blocks,
				   "bad_blocks", (json_int_t)c->bad_blocks);

	for (unsigned v = PATTERN_OK + 1; v < PATTERN_VERDICT_COUNT_; v++)
		(void)json_object_set_new(object, pattern_verdict_name(v),
					  json_integer((json_int_t)c->verdicts[v]));
	return object;
}

static json_t *json_config(const struct bench *b)
{
	static const char *const names[] = { "randread", "randwrite", "read", "write", "randrw" };
	const struct bench_opts *o = &b->opts;
	char seed[UNITS_TEXT_MAX];

	(void)snprintf(seed, sizeof(seed), "%llu", (unsigned long long)o->seed);
	return json_pack("{s:s, s:I, s:I, s:I, s:i, s:I, s:b, s:s}", "rw", names[o->rw], "rwmix",
			 (json_int_t)o->rwmix, "bs", (json_int_t)o->bs, "qd", (json_int_t)o->qd,
			 "cores", (int)reactor_count(), "rate", (json_int_t)o->rate, "verify",
			 o->verify, "seed", seed);
}

static json_t *json_failures(const struct bench *b)
{
	json_t *list = json_array();
	char text[1024];

	for (unsigned i = 0; i < b->nworkers; i++) {
		const struct bench_worker *w = &b->workers[i];

		for (unsigned n = 0; n < w->nnotes; n++)
			(void)json_array_append_new(
				list, json_string(note_text(w, &w->notes[n], text, sizeof(text))));
	}
	return list;
}

static json_t *json_device(const struct bench *b, const struct bench_device *device)
{
	struct nvmf_remote_stats r;
	struct bench_counts one;
	json_t *object;

	bench_sum(b, device, &one);
	object = json_counts(b, &one);
	(void)json_object_set_new(object, "uri", json_text(device->open.uri));
	if (remote_of(device, &r))
		(void)json_object_set_new(
			object, "remote",
			json_pack("{s:I, s:I, s:I, s:I, s:I}", "lost", (json_int_t)r.lost,
				  "attempts", (json_int_t)r.attempts, "resent",
				  (json_int_t)r.resent, "late", (json_int_t)r.late, "outage_ns",
				  (json_int_t)r.outage_ns));
	return object;
}

static bool report_json(const struct bench *b, const struct bench_counts *total)
{
	json_t *object = json_counts(b, total), *devices = json_array();

	(void)json_object_set_new(object, "cpu_ns_per_io", json_real(cpu_ns_per_io(b, total)));
	(void)json_object_set_new(object, "seconds", json_real((double)b->elapsed_ns / 1e9));
	(void)json_object_set_new(object, "interrupted", json_boolean(b->was_interrupted));
	for (unsigned i = 0; i < b->ndevices; i++)
		(void)json_array_append_new(devices, json_device(b, &b->devices[i]));
	(void)json_object_set_new(object, "devices", devices);
	if (b->opts.verify)
		(void)json_object_set_new(object, "verify", json_verify(total));
	(void)json_object_set_new(object, "failures", json_failures(b));
	(void)json_object_set_new(object, "config", json_config(b));
	return json_print(object, true);
}

bool bench_report(const struct bench *b)
{
	struct bench_counts total;
	bool is_told = true;

	bench_sum(b, NULL, &total);
	if (b->opts.json)
		is_told = report_json(b, &total);
	else
		report_text(b, &total);
	report_notes(b, &total);
	if (ops_of(&total) + total.errors == 0 && total.checked_blocks == 0) {
		cli_error("no request ended%s", b->was_interrupted ? ": interrupted" : "");
		return false;
	}
	if (b->opts.verify && b->was_interrupted) {
		cli_error("interrupted before everything was read back");
		return false;
	}
	return is_told && total.errors == 0 && total.bad_blocks == 0;
}
