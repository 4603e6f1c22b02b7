/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy.c - `ashlar copy`: one device onto another, whatever they are, and again after an
 * interruption where it ended.
 *
 *	open both -> [resume: journal, compare samples] -> copy -> flush -> [compare all] -> report
 *
 * The task does the slow things in order; the bytes are moved by the machine in copy_move.c, which
 * the task starts, watches ten times a second and ends. About once a second it takes a checkpoint:
 * the position in front of which everything was written, then a flush of the destination, then the
 * journal. The order matters: what the journal promises must survive a power failure.
 *
 * To resume is to trust data that another process wrote. The journal must name the same devices
 * with the same sizes, and the first and the last chunk in front of its position must be equal on
 * both sides; else nothing is written and the user is told why.
 *
 * A destination that is larger keeps its tail; one that is smaller is refused. Different block
 * sizes are no obstacle: a last block of the destination that is only partly covered keeps its
 * rest.
 *
 * Ctrl-C ends it with a checkpoint and exit code 1, since the copy is not whole.
 *
 * Rejected: a block map instead of a position, which would allow chunks to be recorded out of
 * order but is worth nothing while chunks are taken in order.
 *
 * Thread: copy_main() and what it calls run in a task on the primary reactor, the only one.
 */
#include "cli/copy.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/units.h"
#include "cli/cli.h"
#include "cli/json_text.h"
#include "cli/term.h"

enum {
	TICK_NS = 100 * 1000 * 1000,
	CHECKPOINT_NS = 1000 * 1000 * 1000,
};

struct copy_opts {
	bool verify, resume;
	unsigned json;
	uint64_t bs, qd, rate;
	const char *state;
	struct opt_list inject;
};

struct copy {
	struct copy_opts opts;
	struct opt_args uris;
	struct opened src, dst;
	uint64_t size, unit;
	struct journal journal;
	bool keeps_journal;
	bool was_interrupted;
	struct progress bar;

	/* results */
	uint64_t resumed_from;
	uint64_t copied_bytes, zeroed_bytes, same_bytes, compared_bytes;
	uint64_t copy_ns, verify_ns;
	uint64_t differing_chunks, first_difference;
	bool is_verified;
};

#define FIELD(name) offsetof(struct copy_opts, name)

static const struct opt copy_options[] = {
	{ "verify", NULL, "read both sides again after the copy and compare them", OPT_FLAG,
	  FIELD(verify) },
	{ "resume", NULL, "go on where an interrupted copy of these two ended", OPT_FLAG,
	  FIELD(resume) },
	{ "bs", "BYTES", "size of a chunk, rounded up to whole blocks (256k)", OPT_SIZE, FIELD(bs),
	  4096, 64 << 20 },
	{ "qd", "DEPTH", "chunks in flight (16)", OPT_NUMBER, FIELD(qd), 1, COPY_QD_MAX },
	{ "rate", "BYTES", "read at most so many bytes of data per second", OPT_SIZE, FIELD(rate),
	  1 },
	{ "state", "FILE",
	  "keep the position of an unfinished copy here instead of\n"
	  "in a file of the user's state directory",
	  OPT_TEXT, FIELD(state) },
	OPT_OUTPUT(struct copy_opts, json, ""),
	{ "inject", "URI", "arm a fault: inject://DEVICE?op=...; may be given several times",
	  OPT_LIST, FIELD(inject) },
	{ NULL },
};

static const struct opt_spec copy_spec = {
	.command = "copy",
	.args = "SRC DST",
	.summary = "Copy one device onto another, skipping holes.",
	.details = "example:\n  ashlar copy uring:///dev/sdb aio:///backup/sdb.img --verify\n",
	.opts = copy_options,
	.args_min = 2,
	.args_max = 2,
};

/* ---- opening --------------------------------------------------------------------------------- */

static int copy_check_sizes(const struct copy *c, struct err *err)
{
	uint64_t src = device_size(c->src.dev), dst = device_size(c->dst.dev);
	char have[UNITS_TEXT_MAX], want[UNITS_TEXT_MAX];

	if (src <= dst)
		return 0;
	return err_set(err, -ENOSPC,
		       "the destination is too small: %s has %s (%llu bytes), %s has %s (%llu "
		       "bytes), %llu bytes are missing",
		       c->dst.uri, size_format(dst, have), (unsigned long long)dst, c->src.uri,
		       size_format(src, want), (unsigned long long)src,
		       (unsigned long long)(src - dst));
}

/* Not more than either device takes in one request. */
static uint64_t chunk_limit(const struct device *dev)
{
	return dev->max_io_nlb != 0 ? (uint64_t)dev->max_io_nlb << dev->block_shift : UINT64_MAX;
}

static int copy_open(struct copy *c, struct err *err)
{
	uint64_t limit;
	int rc = opened_open(&c->src, c->uris.items[0], 0, err);

	if (rc == 0)
		rc = opened_open(&c->dst, c->uris.items[1], DESC_WRITE | DESC_CLAIM, err);
	if (rc == 0)
		rc = copy_check_sizes(c, err);
	if (rc != 0)
		return rc;
	c->size = device_size(c->src.dev);
	c->unit = MAX(c->src.dev->block_size, c->dst.dev->block_size);
	limit = MIN(chunk_limit(c->src.dev), chunk_limit(c->dst.dev));
	c->opts.bs = MAX(ALIGN_DOWN(MIN(ALIGN_UP(c->opts.bs, c->unit), limit), c->unit), c->unit);
	return 0;
}

/* ---- the machine, run ------------------------------------------------------------------------ */

static struct move_opts copy_move_opts(struct copy *c, bool is_compare, uint64_t from, uint64_t to)
{
	return (struct move_opts){
		.src = &c->src,
		.dst = &c->dst,
		.is_compare = is_compare,
		.from = from,
		.to = to,
		.size = c->size,
		.chunk = c->opts.bs,
		.unit = c->unit,
		.qd = (unsigned)c->opts.qd,
		.rate = is_compare ? 0 : c->opts.rate,
	};
}

static void copy_draw(struct copy *c, const struct move *m, uint64_t started_ns)
{
	uint64_t now_ns = reactor_clock(reactor_primary()), left_ns = 0;
	uint64_t done = m->fed - m->opts.from, left = m->opts.to - m->fed;
	double seconds = (double)(now_ns - started_ns) / 1e9;
	char rate[UNITS_TEXT_MAX], size[UNITS_TEXT_MAX], time[UNITS_TEXT_MAX];
	double moved = (double)(m->moved_bytes + m->zeroed_bytes);

	if (done > 0)
		left_ns = (uint64_t)(seconds * 1e9 * ((double)left / (double)done));
	progress_show(&c->bar, now_ns, m->fed, m->opts.to, "%s %s  %s  %s%s",
		      m->opts.is_compare ? "compared" : "copied", size_format(m->fed, size),
		      rate_format(moved / (seconds > 0 ? seconds : 1), rate),
		      left > 0 ? duration_format(left_ns, time) : "", left > 0 ? " left" : "");
}

struct journal_job {
	struct journal *journal;
	struct err *err;
	bool is_save;
	int rc;
};

static void journal_job_run(void *arg)
{
	struct journal_job *job = arg;

	job->rc = job->is_save ? journal_save(job->journal, job->err)
			       : journal_load(job->journal, job->err);
}

static int copy_journal(struct copy *c, bool is_save, struct err *err)
{
	struct journal_job job = { .journal = &c->journal, .err = err, .is_save = is_save };

	task_blocking(journal_job_run, &job);
	return job.rc;
}

static int copy_flush(struct copy *c, struct err *err)
{
	struct io io = { .op = IO_FLUSH };
	uint16_t status = io_wait(c->dst.handle[0], &io);

	if (status == IO_OK)
		return 0;
	return err_set(err, -EIO, "%s: flush failed: %s; what was written may be lost", c->dst.uri,
		       io_status_name(status));
}

/* What lies in front of @position is on the destination for good; write that down. */
static int copy_checkpoint(struct copy *c, uint64_t position, struct err *err)
{
	struct err trouble = {};
	int rc;

	if (!c->keeps_journal || position <= c->journal.position)
		return 0;
	rc = copy_flush(c, err);
	if (rc != 0)
		return rc;
	c->journal.position = position;
	if (copy_journal(c, true, &trouble) != 0) {
		progress_wipe(&c->bar);
		cli_warn("%s; this copy could not be resumed", err_text(&trouble));
		c->keeps_journal = false;
	}
	return 0;
}

static int copy_watch(struct copy *c, struct move *m, bool has_checkpoints, struct err *err)
{
	uint64_t started_ns = reactor_clock(reactor_primary()), saved_ns = started_ns;
	int rc = 0;

	move_start(m);
	while (!move_is_over(m)) {
		move_wait(m, TICK_NS);
		if (engine_is_terminating()) {
			c->was_interrupted = true;
			m->is_stopping = true;
		}
		copy_draw(c, m, started_ns);
		if (has_checkpoints && rc == 0 &&
		    reactor_primary()->now_ns - saved_ns >= CHECKPOINT_NS) {
			rc = copy_checkpoint(c, move_position(m), err);
			saved_ns = reactor_primary()->now_ns;
			m->is_stopping |= rc != 0;
		}
	}
	progress_wipe(&c->bar);
	if (rc == 0)
		rc = move_error(m, err);
	return rc;
}

static int copy_data(struct copy *c, struct err *err)
{
	struct move_opts opts = copy_move_opts(c, false, c->resumed_from, c->size);
	uint64_t started_ns = reactor_clock(reactor_primary()), position;
	struct err trouble = {};
	struct move m;
	int rc = move_init(&m, &opts, err);

	if (rc == 0)
		rc = copy_watch(c, &m, true, err);
	position = m.slots != NULL ? move_position(&m) : 0;
	c->copied_bytes = m.moved_bytes;
	c->zeroed_bytes = m.zeroed_bytes;
	c->same_bytes = m.same_bytes;
	move_done(&m);
	/* Also after a failure: what was copied need not be copied again. */
	if (rc == 0)
		rc = copy_checkpoint(c, position, err);
	else
		(void)copy_checkpoint(c, position, &trouble); /* the first failure is told */
	if (rc == 0 && !c->was_interrupted)
		rc = copy_flush(c, err);
	c->copy_ns = reactor_clock(reactor_primary()) - started_ns;
	return rc;
}

static int copy_compare(struct copy *c, uint64_t from, uint64_t to, struct err *err)
{
	struct move_opts opts = copy_move_opts(c, true, from, to);
	struct move m;
	int rc = move_init(&m, &opts, err);

	if (rc == 0)
		rc = copy_watch(c, &m, false, err);
	if (c->differing_chunks == 0 || m.first_difference < c->first_difference)
		c->first_difference = m.first_difference;
	c->differing_chunks += m.differing_chunks;
	c->compared_bytes += m.moved_bytes + m.same_bytes;
	move_done(&m);
	return rc;
}

/* ---- resume ---------------------------------------------------------------------------------- */

static int copy_check_samples(struct copy *c, uint64_t position, struct err *err)
{
	uint64_t chunk = MIN(c->opts.bs, position);
	uint64_t last = ALIGN_DOWN(position - chunk, c->unit);
	int rc = copy_compare(c, 0, MIN(c->opts.bs, position), err);

	if (rc == 0)
		rc = copy_compare(c, last, position, err);
	if (rc != 0)
		return rc;
	c->compared_bytes = 0;
	if (c->differing_chunks == 0)
		return 0;
	return err_set(err, -EINVAL,
		       "cannot resume: source and destination differ at byte %llu, which the "
		       "journal %s calls copied; one of them has changed since. To copy everything "
		       "again leave out --resume",
		       (unsigned long long)c->first_difference, c->journal.path);
}

static int copy_resume(struct copy *c, struct err *err)
{
	int rc = copy_journal(c, false, err);

	if (rc == -ENOENT) {
		if (!c->opts.json)
			fprintf(stderr, "nothing to resume for these two URIs: copying from the "
					"start\n");
		return 0;
	}
	if (rc == 0 && c->journal.position > 0)
		rc = copy_check_samples(c, c->journal.position, err);
	if (rc == 0)
		c->resumed_from = c->journal.position;
	return rc;
}

static int copy_prepare_journal(struct copy *c, struct err *err)
{
	struct err trouble = {};
	int rc;

	c->journal.src_uri = c->src.uri;
	c->journal.dst_uri = c->dst.uri;
	c->journal.src_size = c->size;
	c->journal.dst_size = device_size(c->dst.dev);
	c->journal.src_block = c->src.dev->block_size;
	c->journal.dst_block = c->dst.dev->block_size;
	rc = journal_place(&c->journal, c->opts.state, &trouble);
	c->keeps_journal = rc == 0;
	if (rc == 0)
		return c->opts.resume ? copy_resume(c, err) : 0;
	if (c->opts.resume)
		return err_set(err, rc, "%s", err_text(&trouble));
	return 0;
}

/* ---- results --------------------------------------------------------------------------------- */

static bool report_json(const struct copy *c, bool is_ok, const struct err *err)
{
	uint64_t moved = c->copied_bytes + c->zeroed_bytes;
	double seconds = (double)c->copy_ns / 1e9;
	json_t *o = json_pack(
		"{s:b, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:b}", "ok", is_ok, "source",
		json_text(c->src.uri), "destination", json_text(c->dst.uri), "bytes",
		(json_int_t)c->size, "copied_bytes", (json_int_t)c->copied_bytes, "zeroed_bytes",
		(json_int_t)c->zeroed_bytes, "skipped_bytes", (json_int_t)c->same_bytes,
		"resumed_from", (json_int_t)c->resumed_from, "seconds", seconds, "bytes_per_s",
		seconds > 0 ? (double)moved / seconds : 0.0, "interrupted", c->was_interrupted);

	if (c->opts.verify) {
		json_t *v = json_pack("{s:b, s:I, s:I, s:f}", "done", c->is_verified,
				      "compared_bytes", (json_int_t)c->compared_bytes,
				      "differing_chunks", (json_int_t)c->differing_chunks,
				      "seconds", (double)c->verify_ns / 1e9);

		if (c->differing_chunks > 0)
			(void)json_object_set_new(v, "first_difference",
						  json_integer((json_int_t)c->first_difference));
		(void)json_object_set_new(o, "verify", v);
	}
	if (!is_ok)
		(void)json_object_set_new(o, "error", json_text(err_text(err)));
	if (!is_ok && c->keeps_journal)
		(void)json_object_set_new(o, "resume_at",
					  json_integer((json_int_t)c->journal.position));
	return json_print(o, true);
}

static void report_text(const struct copy *c)
{
	char all[UNITS_TEXT_MAX], data[UNITS_TEXT_MAX], zero[UNITS_TEXT_MAX];
	char same[UNITS_TEXT_MAX], time[UNITS_TEXT_MAX], rate[UNITS_TEXT_MAX], size[UNITS_TEXT_MAX];
	uint64_t moved = c->copied_bytes + c->zeroed_bytes;

	if (c->resumed_from > 0)
		printf("resumed at %s\n", size_format(c->resumed_from, all));
	printf("copied %s of %s: %s data, %s zeroed, %s skipped, in %s (%s)\n",
	       size_format(moved + c->same_bytes, all), size_format(c->size, size),
	       size_format(c->copied_bytes, data), size_format(c->zeroed_bytes, zero),
	       size_format(c->same_bytes, same), duration_format(c->copy_ns, time),
	       rate_format(c->copy_ns > 0 ? (double)moved * 1e9 / (double)c->copy_ns : 0, rate));
	if (c->is_verified && c->differing_chunks == 0)
		printf("verified: %s are the same on both sides\n",
		       size_format(c->compared_bytes, all));
}

/* What kept the copy from being whole, with what to do about it. */
static bool report_trouble(struct copy *c, int rc, struct err *err)
{
	uint64_t block = c->dst.dev != NULL ? c->dst.dev->block_size : 1;

	if (c->is_verified && c->differing_chunks > 0)
		(void)err_set(err, -EIO,
			      "source and destination differ, first at byte %llu (block %llu of "
			      "the destination), in %llu chunks; one of them was written to "
			      "meanwhile, or a device is faulty",
			      (unsigned long long)c->first_difference,
			      (unsigned long long)(c->first_difference / block),
			      (unsigned long long)c->differing_chunks);
	if (rc != 0 && c->keeps_journal && c->journal.position > 0)
		(void)err_hint(err, "the same command with --resume goes on at byte %llu",
			       (unsigned long long)c->journal.position);
	if (rc == 0 && c->was_interrupted)
		(void)err_set(err, -EINTR,
			      "interrupted at byte %llu of %llu; the same command "
			      "with --resume goes on there",
			      (unsigned long long)c->journal.position, (unsigned long long)c->size);
	return err->code == 0;
}

static int copy_main(void *arg, struct err *err)
{
	struct copy *c = arg;
	uint64_t started_ns;
	bool is_ok;
	int rc = copy_open(c, err);

	progress_init(&c->bar, !c->opts.json);
	if (rc == 0)
		rc = copy_prepare_journal(c, err);
	if (rc == 0)
		rc = faults_arm(&c->opts.inject, err);
	if (rc != 0) {
		opened_close(&c->dst);
		opened_close(&c->src);
		return CLI_FAILED;
	}
	rc = copy_data(c, err);
	if (rc == 0 && c->opts.verify && !c->was_interrupted) {
		started_ns = reactor_clock(reactor_primary());
		rc = copy_compare(c, 0, c->size, err);
		c->verify_ns = reactor_clock(reactor_primary()) - started_ns;
		c->is_verified = rc == 0 && !c->was_interrupted;
	}
	is_ok = report_trouble(c, rc, err);
	if (is_ok)
		journal_remove(&c->journal);
	if (!c->opts.json)
		report_text(c);
	else if (!report_json(c, is_ok, err))
		is_ok = false;
	opened_close(&c->dst);
	opened_close(&c->src);
	return is_ok ? CLI_DONE : CLI_FAILED;
}

static int copy_run(int argc, char **argv)
{
	struct copy c = { .opts = { .bs = 256 << 10, .qd = 16 } };
	struct engine_opts engine = { .handle_signals = true };
	int rc;

	if (!opt_parse_or_tell(&copy_spec, argc, argv, &c.opts, &c.uris, &rc))
		return rc;
	if (strcmp(c.uris.items[0], c.uris.items[1]) == 0) {
		cli_error("source and destination are the same: %s", c.uris.items[0]);
		return CLI_USAGE;
	}
	rc = cli_run_engine(&engine, copy_main, &c);
	journal_done(&c.journal);
	return rc;
}

const struct cli_command cli_copy = {
	.name = "copy",
	.args = "SRC DST",
	.summary = "copy one device onto another, skipping holes",
	.run = copy_run,
};
