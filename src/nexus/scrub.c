/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub.c - compares all children that are in sync, range by range, while hosts go on.
 *
 *   lane task, SCRUB_LANES of them: wait for the pace -> next range -> lock it on the nexus ->
 *     reactor:  is it a hole on all? then that is all.  read all chunks of it from all children at
 *               once; a chunk that has come from all is compared; the last one ends it
 *     task:     chunks that differ: find the blocks, say who is right, write the others, read
 *               them back, tell
 *   -> unlock -> again
 *
 * Under the lock no write is under way in the range, so copies that differ there differ for good.
 *
 * Who is right? The child that the operator named. Else what more than half of three or more say.
 * Else nobody knows: it is told, and left as it is. Blocks are judged one by one, runs of them with
 * the same verdict are told as one.
 *
 * A child that cannot read a chunk is left out of that comparison; a fault of the medium is handed
 * to repair.c. A child that cannot be mended is retired, as there. The children of each range are
 * those that are in sync when it is locked, and are held in use only for that long, so a child that
 * leaves waits for one range at most.
 *
 * A child that does not answer within child_timeout is retired, as it would be for a host, and the
 * scrub fails. Reads that are late change nothing, so the range is unlocked at once; the lane keeps
 * its buffers and its children in use until all is answered. A write that mends is another matter:
 * see child_io_bounded().
 *
 * Rejected: check-sums of blocks exchanged instead of data (children are devices and have none);
 * the copy machine in a comparing mode (it has one source and one destination).
 *
 * Thread: tasks on the primary; the reading half on the reactor that was picked.
 */
#include "nexus/scrub.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/units.h"
#include "nexus/internal.h"
#include "nexus/pace.h"
#include "reactor/mem.h"

enum {
	CHUNKS_MAX = SCRUB_RANGE / SCRUB_CHUNK,
	NAP_NS = 100000000, /* how soon a stop is noticed */
};

static_assert(CHUNKS_MAX <= 32, "a bit per chunk");

struct scrub_lane;

struct scrub_read {
	struct io io;
	struct scrub_lane *lane;
	uint8_t chunk, which; /* of the lane's children */
	bool is_ok;
	bool is_sent; /* and not answered; the reactor's */
};

struct scrub_lane {
	struct scrub *scrub;
	struct range_lock lock;
	uint64_t lba;
	uint32_t nlb;
	struct child *child[NEXUS_CHILDREN_MAX]; /* in use */
	struct handle *h[NEXUS_CHILDREN_MAX];
	unsigned nchildren, nchunks;
	uint8_t *buf; /* owned; SCRUB_RANGE for each child, and one chunk to read back */
	struct scrub_read *reads; /* owned */
	struct msg go, back;
	struct task_event event;
	struct timer timer;
	bool is_back, is_late; /* the range, and not in time */
	uint64_t due_ns;
	/* the reactor's, while the range is there */
	unsigned left[CHUNKS_MAX], pending;
	bool is_seeking, is_hole, is_given_up;
	uint32_t differ; /* 1 << chunk */
};

struct scrub {
	struct nexus *nx;
	struct scrub_opts opts;
	char *trusted; /* owned; NULL: none */
	struct reactor *reactor;
	struct pace pace;
	struct scrub_lane lane[SCRUB_LANES];
	unsigned nlanes; /* tasks */
	unsigned nlate;  /* of those that have ended, but for answers that are late */
	bool is_stopping;
	uint64_t next, started_ns;
	uint32_t range_nlb, chunk_nlb;
	unsigned nreports;
	struct scrub_stats stats;
	struct list waiters;
};

struct scrub_waiter {
	struct list link;
	struct task_event event;
};

/* ---- reading, on the reactor ---------------------------------------------------------------- */

static void range_read(struct scrub_lane *lane);

static uint32_t chunk_nlb(const struct scrub_lane *lane, unsigned chunk)
{
	uint32_t step = lane->scrub->chunk_nlb;

	return MIN(step, lane->nlb - chunk * step);
}

static uint8_t *chunk_buf(const struct scrub_lane *lane, unsigned which, unsigned chunk)
{
	return lane->buf + (size_t)which * SCRUB_RANGE + (size_t)chunk * SCRUB_CHUNK;
}

static struct scrub_read *read_of(struct scrub_lane *lane, unsigned which, unsigned chunk)
{
	return &lane->reads[which * CHUNKS_MAX + chunk];
}

/* All have come: is it the same from all that could read it? */
static void chunk_compare(struct scrub_lane *lane, unsigned chunk)
{
	size_t len = (size_t)chunk_nlb(lane, chunk) << lane->scrub->nx->dev.block_shift;
	const uint8_t *first = NULL;

	for (unsigned i = 0; i < lane->nchildren; i++) {
		const uint8_t *buf = chunk_buf(lane, i, chunk);

		if (!read_of(lane, i, chunk)->is_ok)
			continue;
		if (first == NULL)
			first = buf;
		else if (memcmp(first, buf, len) != 0)
			lane->differ |= 1u << chunk;
	}
}

static void read_failed(struct scrub_read *read)
{
	struct scrub_lane *lane = read->lane;
	struct child *child = lane->child[read->which];
	struct nexus *nx = lane->scrub->nx;

	if (child_verdict(IO_READ, read->io.status).action == CHILD_REPAIR)
		nexus_repair_ring(nx, child->slot,
				  lane->lba + (uint64_t)read->chunk * lane->scrub->chunk_nlb,
				  chunk_nlb(lane, read->chunk));
}

/* An answer. The last one ends the range, or the question whether it is a hole. */
static void read_ended(struct scrub_read *read)
{
	struct scrub_lane *lane = read->lane;
	uint64_t end = lane->scrub->nx->geometry.data_start + lane->lba + lane->nlb;

	read->is_sent = false;
	if (lane->is_seeking) {
		lane->is_hole &= read->io.status == IO_OK && read->io.result >= end;
	} else {
		read->is_ok = read->io.status == IO_OK;
		if (!read->is_ok && !lane->is_given_up)
			read_failed(read);
		if (--lane->left[read->chunk] == 0)
			chunk_compare(lane, read->chunk);
	}
	if (--lane->pending > 0)
		return;
	if (lane->is_seeking && !lane->is_hole && !lane->is_given_up)
		range_read(lane);
	else
		reactor_post(reactor_primary(), &lane->back);
}

static void read_done(struct io *io)
{
	read_ended(container_of(io, struct scrub_read, io));
}

static void read_start(struct scrub_lane *lane, unsigned which, unsigned chunk, enum io_op op)
{
	struct scrub_read *read = read_of(lane, which, chunk);
	struct scrub *scrub = lane->scrub;
	struct io *io = &read->io;

	read->lane = lane;
	read->which = (uint8_t)which;
	read->chunk = (uint8_t)chunk;
	io->done = read_done;
	io->op = (uint8_t)op;
	io->flags = 0;
	io->lba = scrub->nx->geometry.data_start + lane->lba + (uint64_t)chunk * scrub->chunk_nlb;
	io->nlb = op == IO_READ ? chunk_nlb(lane, chunk) : 0;
	io_set_buf(io, chunk_buf(lane, which, chunk),
		   (size_t)io->nlb << scrub->nx->dev.block_shift);
	read->is_sent = true;
	if (io_start(lane->h[which], io) == IO_DONE)
		read_ended(read);
}

static void range_read(struct scrub_lane *lane)
{
	lane->is_seeking = false;
	lane->pending = lane->nchunks * lane->nchildren + 1; /* ours, until all are sent */
	for (unsigned chunk = 0; chunk < lane->nchunks; chunk++) {
		lane->left[chunk] = lane->nchildren;
		for (unsigned i = 0; i < lane->nchildren; i++)
			read_start(lane, i, chunk, IO_READ);
	}
	if (--lane->pending == 0)
		reactor_post(reactor_primary(), &lane->back);
}

static bool all_seek(const struct scrub_lane *lane)
{
	bool can = true;

	for (unsigned i = 0; i < lane->nchildren; i++)
		can &= lane->child[i]->desc->dev->ops >> IO_SEEK_DATA & 1;
	return can;
}

static void range_go(struct msg *msg)
{
	struct scrub_lane *lane = container_of(msg, struct scrub_lane, go);
	unsigned n = lane->nchildren;

	lane->differ = 0;
	lane->is_given_up = false;
	lane->is_hole = all_seek(lane);
	if (!lane->is_hole) {
		range_read(lane);
		return;
	}
	lane->is_seeking = true;
	lane->pending = n + 1;
	for (unsigned i = 0; i < n; i++)
		read_start(lane, i, 0, IO_SEEK_DATA);
	if (--lane->pending > 0)
		return;
	if (lane->is_hole)
		reactor_post(reactor_primary(), &lane->back);
	else
		range_read(lane);
}

/* ---- mending, in the task ------------------------------------------------------------------- */

/* A run of blocks of one chunk that one child has wrong. */
struct wrong {
	unsigned which, winner, chunk;
	uint32_t first, nlb; /* blocks of the chunk */
};

static uint16_t child_do(struct scrub_lane *lane, unsigned which, enum io_op op, uint64_t lba,
			 uint32_t nlb, uint8_t *buf) MAY_SUSPEND
{
	struct child_request request = {
		.op = op, .lba = lane->scrub->nx->geometry.data_start + lba, .nlb = nlb, .buf = buf
	};

	return child_io_bounded(lane->child[which], &request);
}

static bool mend(struct scrub_lane *lane, const struct wrong *wrong) MAY_SUSPEND
{
	unsigned shift = lane->scrub->nx->dev.block_shift;
	size_t off = (size_t)wrong->first << shift, len = (size_t)wrong->nlb << shift;
	uint8_t *right = chunk_buf(lane, wrong->winner, wrong->chunk) + off;
	uint8_t *back = lane->buf + (size_t)NEXUS_CHILDREN_MAX * SCRUB_RANGE;
	uint64_t lba = lane->lba + (uint64_t)wrong->chunk * lane->scrub->chunk_nlb + wrong->first;
	uint16_t status;

	if (!child_is_healthy(lane->child[wrong->which]) ||
	    !child_is_healthy(lane->child[wrong->winner]))
		return false;
	status = child_do(lane, wrong->which, IO_WRITE, lba, wrong->nlb, right);
	if (status == IO_OK)
		status = child_do(lane, wrong->which, IO_READ, lba, wrong->nlb, back);
	if (status == IO_OK && memcmp(back, right, len) == 0)
		return true;
	nexus_child_blame(lane->child[wrong->which], IO_WRITE, status);
	return false;
}

/* @which: who has it wrong, nchildren: nobody knows. */
static void report(struct scrub_lane *lane, const struct wrong *wrong, bool is_ok)
{
	struct scrub *scrub = lane->scrub;
	bool is_known = wrong->which < lane->nchildren;
	struct nexus_event event = {
		.type = NEXUS_EVENT_MISMATCH,
		.nx = scrub->nx,
		.lba = lane->lba + (uint64_t)wrong->chunk * scrub->chunk_nlb + wrong->first,
		.nlb = wrong->nlb,
		.is_ok = is_ok,
	};

	if (is_known) {
		event.child = lane->child[wrong->which]->uri;
		event.health = child_health_of(lane->child[wrong->which]);
	}
	if (scrub->nreports++ >= SCRUB_REPORTS_MAX)
		return;
	log_warn("nexus %s: blocks %lu+%lu differ between its children%s%s: %s",
		 scrub->nx->dev.name, event.lba, event.nlb, is_known ? ", wrong on " : "",
		 is_known ? event.child : "",
		 is_ok      ? "repaired"
		 : is_known ? "not repaired"
			    : "nobody can say which is right");
	nexus_tell_event(&event);
}

static const uint8_t *block_of(const struct scrub_lane *lane, unsigned which, unsigned chunk,
			       uint32_t block)
{
	return chunk_buf(lane, which, chunk) + ((size_t)block << lane->scrub->nx->dev.block_shift);
}

/* Who has the right block? nchildren: nobody knows. */
static unsigned winner_of(struct scrub_lane *lane, unsigned chunk, uint32_t block)
{
	size_t len = lane->scrub->nx->dev.block_size;
	unsigned nvoters = 0;

	for (unsigned i = 0; i < lane->nchildren; i++) {
		const char *trusted = lane->scrub->trusted;

		nvoters += read_of(lane, i, chunk)->is_ok;
		if (trusted != NULL && strcmp(lane->child[i]->uri, trusted) == 0)
			return read_of(lane, i, chunk)->is_ok ? i : lane->nchildren;
	}
	for (unsigned i = 0; i < lane->nchildren && lane->scrub->trusted == NULL; i++) {
		unsigned votes = 0;

		for (unsigned j = 0; j < lane->nchildren && read_of(lane, i, chunk)->is_ok; j++)
			votes += read_of(lane, j, chunk)->is_ok &&
				 memcmp(block_of(lane, i, chunk, block),
					block_of(lane, j, chunk, block), len) == 0;
		if (nvoters >= 3 && 2 * votes > nvoters)
			return i;
	}
	return lane->nchildren;
}

static bool differs(const struct scrub_lane *lane, unsigned a, unsigned b, unsigned chunk,
		    uint32_t block)
{
	return memcmp(block_of(lane, a, chunk, block), block_of(lane, b, chunk, block),
		      lane->scrub->nx->dev.block_size) != 0;
}

/* Is the block equal on all who could read it? */
static bool block_is_equal(struct scrub_lane *lane, unsigned chunk, uint32_t block)
{
	unsigned first = lane->nchildren;

	for (unsigned i = 0; i < lane->nchildren; i++) {
		if (!read_of(lane, i, chunk)->is_ok)
			continue;
		if (first == lane->nchildren)
			first = i;
		else if (differs(lane, first, i, chunk, block))
			return false;
	}
	return true;
}

/* One block, or a run of them where the same child is right: how many were judged. */
static uint32_t judge_run(struct scrub_lane *lane, unsigned chunk, uint32_t first) MAY_SUSPEND
{
	struct scrub *scrub = lane->scrub;
	unsigned winner = winner_of(lane, chunk, first);
	uint32_t end = first + 1;
	bool is_ok = scrub->opts.is_repairing && winner < lane->nchildren;

	while (end < chunk_nlb(lane, chunk) && !block_is_equal(lane, chunk, end) &&
	       winner_of(lane, chunk, end) == winner)
		end++;
	if (winner == lane->nchildren)
		report(lane,
		       &(struct wrong){ .which = lane->nchildren,
					.chunk = chunk,
					.first = first,
					.nlb = end - first },
		       false);
	for (unsigned i = 0; i < lane->nchildren && winner < lane->nchildren; i++) {
		struct wrong wrong = { .which = i, .winner = winner, .chunk = chunk };

		if (i == winner || !read_of(lane, i, chunk)->is_ok)
			continue;
		for (wrong.first = first; wrong.first < end; wrong.first += wrong.nlb) {
			bool is_wrong = differs(lane, winner, i, chunk, wrong.first), is_mended;

			wrong.nlb = 1;
			while (wrong.first + wrong.nlb < end &&
			       differs(lane, winner, i, chunk, wrong.first + wrong.nlb) == is_wrong)
				wrong.nlb++;
			if (!is_wrong)
				continue;
			is_mended = scrub->opts.is_repairing && mend(lane, &wrong);
			is_ok &= is_mended;
			report(lane, &wrong, is_mended);
		}
	}
	if (scrub->stats.blocks_differ == 0 ||
	    lane->lba + (uint64_t)chunk * scrub->chunk_nlb + first < scrub->stats.first_differ)
		scrub->stats.first_differ = lane->lba + (uint64_t)chunk * scrub->chunk_nlb + first;
	scrub->stats.blocks_differ += end - first;
	scrub->stats.blocks_repaired += is_ok ? end - first : 0;
	return end - first;
}

static void judge_chunk(struct scrub_lane *lane, unsigned chunk) MAY_SUSPEND
{
	uint32_t block = 0;

	while (block < chunk_nlb(lane, chunk)) {
		if (block_is_equal(lane, chunk, block))
			block++;
		else
			block += judge_run(lane, chunk, block);
	}
}

/* ---- ranges --------------------------------------------------------------------------------- */

static void children_give_back(struct scrub_lane *lane)
{
	for (unsigned i = 0; i < lane->nchildren; i++)
		child_unuse(lane->child[i]);
	lane->nchildren = 0;
}

/* Those in sync now. False: fewer than two. */
static bool children_take(struct scrub_lane *lane) MAY_SUSPEND
{
	struct nexus *nx = lane->scrub->nx;
	unsigned n = 0;

	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];

		if (child_is_healthy(child) && child_use(child) != NULL)
			lane->child[lane->nchildren++] = child;
	}
	for (unsigned i = 0; i < lane->nchildren; i++)
		n += handle_open(lane->child[i]->desc, lane->scrub->reactor, &lane->h[i], NULL) ==
		     0;
	if (n == lane->nchildren && n >= 2)
		return true;
	children_give_back(lane);
	return false;
}

static void lane_back(struct msg *msg)
{
	struct scrub_lane *lane = container_of(msg, struct scrub_lane, back);

	lane->is_back = true;
	task_event_fire(&lane->event);
}

static void lane_too_late(struct timer *timer)
{
	struct scrub_lane *lane = container_of(timer, struct scrub_lane, timer);

	lane->is_late = true;
	task_event_fire(&lane->event);
}

struct give_up {
	struct scrub_lane *lane;
	uint8_t silent; /* 1 << which */
};

static void give_up_here(void *arg)
{
	struct give_up *give_up = arg;
	struct scrub_lane *lane = give_up->lane;

	for (unsigned i = 0; i < lane->nchildren; i++) {
		for (unsigned chunk = 0; chunk < CHUNKS_MAX; chunk++)
			give_up->silent |= (uint8_t)(read_of(lane, i, chunk)->is_sent << i);
	}
	lane->is_given_up = give_up->silent != 0;
}

/* Some children have not answered: they are out, but for the last healthy one. False: all have. */
static bool range_give_up(struct scrub_lane *lane) MAY_SUSPEND
{
	struct give_up give_up = { .lane = lane };
	struct nexus *nx = lane->scrub->nx;
	char text[UNITS_TEXT_MAX];

	task_call(lane->scrub->reactor, give_up_here, &give_up);
	for (unsigned i = 0; i < lane->nchildren; i++) {
		struct child *child = lane->child[i];

		if (!(give_up.silent >> i & 1))
			continue;
		log_warn("nexus %s: child %s has not answered a scrub for %s, which ends",
			 nx->dev.name, child->uri, duration_format(nx->child_timeout_ns, text));
		if (nexus_nhealthy(nx) > 1)
			(void)nexus_child_fail(child, CHILD_FAULTED, NEXUS_REASON_TIMED_OUT);
	}
	if (give_up.silent != 0)
		lane->scrub->stats.state = SCRUB_FAILED;
	return give_up.silent != 0;
}

/* Until the last answer is here. */
static void range_linger(struct scrub_lane *lane) MAY_SUSPEND
{
	if (!lane->is_back)
		task_event_wait(&lane->event);
}

/* Until all children have answered. False: they did not, in time. */
static bool range_wait(struct scrub_lane *lane) MAY_SUSPEND
{
	struct reactor *r = reactor_primary();

	lane->event = (struct task_event){};
	lane->is_back = lane->is_late = false;
	lane->timer.fn = lane_too_late;
	reactor_post(lane->scrub->reactor, &lane->go);
	timer_arm(r, &lane->timer, lane->scrub->nx->child_timeout_ns);
	task_event_wait(&lane->event);
	timer_disarm(r, &lane->timer);
	lane->event = (struct task_event){};
	lane->is_late = !lane->is_back && range_give_up(lane);
	if (!lane->is_late)
		range_linger(lane);
	return !lane->is_late;
}

static void count_errors(struct scrub_lane *lane)
{
	for (unsigned i = 0; i < lane->nchildren; i++) {
		for (unsigned chunk = 0; chunk < lane->nchunks; chunk++)
			lane->scrub->stats.read_errors += !read_of(lane, i, chunk)->is_ok;
	}
}

/* Locked, children in use. */
static void range_scrub(struct scrub_lane *lane) MAY_SUSPEND
{
	lane->nchunks = DIV_ROUND_UP(lane->nlb, lane->scrub->chunk_nlb);
	if (!range_wait(lane))
		return;
	if (lane->is_hole)
		lane->scrub->stats.blocks_holes += lane->nlb;
	else
		count_errors(lane);
	for (unsigned chunk = 0; chunk < lane->nchunks; chunk++) {
		if (lane->differ >> chunk & 1)
			judge_chunk(lane, chunk);
	}
	children_give_back(lane);
	lane->scrub->stats.blocks_done += lane->nlb;
}

/* False: nothing more is to be done. */
static bool lane_range(struct scrub_lane *lane) MAY_SUSPEND
{
	struct scrub *scrub = lane->scrub;
	struct device *dev = &scrub->nx->dev;
	bool is_enough;
	uint64_t start_ns;

	if (scrub->next >= dev->nblocks)
		return false;
	lane->lba = scrub->next;
	lane->nlb = (uint32_t)MIN((uint64_t)scrub->range_nlb, dev->nblocks - lane->lba);
	scrub->next += lane->nlb;
	if (range_lock(dev, &lane->lock, lane->lba, lane->nlb, NULL) < 0)
		return false;
	start_ns = reactor_clock(reactor_primary());
	is_enough = !scrub->nx->is_ended && children_take(lane);
	if (is_enough)
		range_scrub(lane);
	lane->due_ns = pace_next_ns(&scrub->pace, reactor_clock(reactor_primary()) - start_ns);
	pace_charge(&scrub->pace, (uint64_t)lane->nlb << dev->block_shift);
	range_unlock(dev, &lane->lock);
	if (!is_enough)
		scrub->stats.state = scrub->nx->is_ended ? SCRUB_STOPPED : SCRUB_FAILED;
	return is_enough;
}

static bool lane_wait(struct scrub_lane *lane) MAY_SUSPEND
{
	struct scrub *scrub = lane->scrub;

	for (;;) {
		uint64_t now_ns = reactor_primary()->now_ns;
		uint64_t due_ns = MAX(scrub->pace.due_ns, lane->due_ns);

		if (scrub->is_stopping || scrub->stats.state != SCRUB_RUNNING)
			return false;
		if (due_ns <= now_ns)
			return true;
		task_sleep(MIN(due_ns - now_ns, (uint64_t)NAP_NS));
	}
}

/* ---- life ----------------------------------------------------------------------------------- */

static void lanes_free(struct scrub *scrub)
{
	for (unsigned i = 0; i < SCRUB_LANES; i++) {
		struct scrub_lane *lane = &scrub->lane[i];

		if (lane->buf != NULL)
			dma_free(lane->buf, (size_t)NEXUS_CHILDREN_MAX * SCRUB_RANGE + SCRUB_CHUNK);
		free(lane->reads);
		lane->buf = NULL;
		lane->reads = NULL;
	}
	pace_done(&scrub->pace);
	free(take(scrub->trusted));
}

/* With a sum, if there is something to sum up. */
static void tell_end(struct scrub *scrub)
{
	const struct scrub_stats *stats = &scrub->stats;
	struct nexus_event event = { .type = NEXUS_EVENT_SCRUB, .nx = scrub->nx, .is_ok = true };
	char text[128];

	(void)snprintf(text, sizeof(text),
		       "%lu blocks differ, %lu of them repaired; %u differences were not told one "
		       "by one",
		       stats->blocks_differ, stats->blocks_repaired,
		       scrub->nreports - MIN(scrub->nreports, (unsigned)SCRUB_REPORTS_MAX));
	if (stats->blocks_differ != 0)
		event.detail = text;
	nexus_tell_event(&event);
}

static void scrub_over(struct scrub *scrub)
{
	struct scrub_stats *stats = &scrub->stats;
	struct scrub_waiter *waiter;

	if (stats->state == SCRUB_RUNNING)
		stats->state = stats->blocks_done >= stats->blocks_total ? SCRUB_COMPLETED
									 : SCRUB_STOPPED;
	stats->run_ns = reactor_primary()->now_ns - scrub->started_ns;
	log_info("nexus %s: scrub ended: %lu of %lu blocks compared, %lu differ, %lu of them "
		 "repaired",
		 scrub->nx->dev.name, stats->blocks_done, stats->blocks_total, stats->blocks_differ,
		 stats->blocks_repaired);
	tell_end(scrub);
	while ((waiter = list_first_entry(&scrub->waiters, struct scrub_waiter, link)) != NULL) {
		list_del(&waiter->link);
		task_event_fire(&waiter->event);
	}
}

static void lane_task(void *arg)
{
	struct scrub_lane *lane = arg;
	struct scrub *scrub = lane->scrub;

	while (lane_wait(lane) && lane_range(lane))
		;
	scrub->nlate += lane->is_late;
	if (--scrub->nlanes == 0)
		scrub_over(scrub);
	if (lane->is_late) {
		range_linger(lane); /* the range is unlocked; buffers and children are in use */
		children_give_back(lane);
		scrub->nlate--;
	}
	if (scrub->nlanes == 0 && scrub->nlate == 0)
		lanes_free(scrub);
}

static int lanes_make(struct scrub *scrub, struct nexus_err *ne)
{
	size_t len = (size_t)NEXUS_CHILDREN_MAX * SCRUB_RANGE + SCRUB_CHUNK;

	for (unsigned i = 0; i < SCRUB_LANES; i++) {
		struct scrub_lane *lane = &scrub->lane[i];

		*lane = (struct scrub_lane){ .scrub = scrub };
		lane->go.fn = range_go;
		lane->back.fn = lane_back;
		lane->buf = dma_alloc(len);
		lane->reads = calloc((size_t)NEXUS_CHILDREN_MAX * CHUNKS_MAX, sizeof(*lane->reads));
		if (lane->buf == NULL || lane->reads == NULL)
			return nexus_fail(ne, NEXUS_E_INTERNAL, "no memory to scrub nexus %s",
					  scrub->nx->dev.name);
	}
	return 0;
}

static int scrub_run(struct scrub *scrub, struct nexus_err *ne)
{
	for (unsigned i = 0; i < SCRUB_LANES; i++)
		scrub->nlanes += task_spawn("scrub", lane_task, &scrub->lane[i]) == 0;
	if (scrub->nlanes == 0)
		return nexus_fail(ne, NEXUS_E_INTERNAL, "no memory for a task to scrub nexus %s",
				  scrub->nx->dev.name);
	log_info("nexus %s: scrub starts%s", scrub->nx->dev.name,
		 scrub->opts.is_repairing ? ", repairing" : "");
	nexus_tell(scrub->nx, NEXUS_EVENT_SCRUB, NULL);
	return 0;
}

static int check_start(struct nexus *nx, const struct scrub_opts *opts, struct nexus_err *ne)
{
	if (nx->state != NEXUS_OPEN || nx->is_ended)
		return nexus_fail(ne, NEXUS_E_NOT_ALLOWED, "nexus %s is %s", nx->dev.name,
				  nexus_state_name(nx->state));
	if (nx->scrub != NULL && nx->scrub->nlanes > 0)
		return nexus_fail(ne, NEXUS_E_NOT_ALLOWED, "nexus %s is being scrubbed already",
				  nx->dev.name);
	if (nx->scrub != NULL && nx->scrub->nlate > 0)
		return nexus_fail(ne, NEXUS_E_NOT_ALLOWED,
				  "nexus %s: a child has not yet answered the last scrub",
				  nx->dev.name);
	if (nexus_nhealthy(nx) < 2)
		return nexus_fail(ne, NEXUS_E_NOT_ALLOWED,
				  "nexus %s has %u children in sync: nothing to compare",
				  nx->dev.name, nexus_nhealthy(nx));
	if (opts->trusted != NULL && (child_find(nx, opts->trusted) == NULL ||
				      !child_is_healthy(child_find(nx, opts->trusted))))
		return nexus_fail(ne, NEXUS_E_CHILD_NOT_FOUND,
				  "nexus %s has no child %s that is in sync", nx->dev.name,
				  opts->trusted);
	return 0;
}

int nexus_scrub_start(struct nexus *nx, const struct scrub_opts *opts, struct nexus_err *ne)
{
	uint64_t latency_ns = opts->latency_ns == 0 ? PACE_AUTO : opts->latency_ns;
	struct scrub *scrub;
	int result = check_start(nx, opts, ne);

	if (result < 0)
		return result;
	if (nx->scrub == NULL)
		nx->scrub = calloc(1, sizeof(*nx->scrub));
	scrub = nx->scrub;
	if (scrub == NULL)
		return nexus_fail(ne, NEXUS_E_INTERNAL, "no memory to scrub nexus %s",
				  nx->dev.name);
	*scrub = (struct scrub){ .nx = nx, .opts = *opts, .started_ns = reactor_primary()->now_ns };
	list_init(&scrub->waiters);
	scrub->reactor = reactor_get(reactor_count() - 1);
	scrub->chunk_nlb = SCRUB_CHUNK >> nx->dev.block_shift;
	scrub->range_nlb = SCRUB_RANGE >> nx->dev.block_shift;
	scrub->trusted = opts->trusted != NULL ? strdup(opts->trusted) : NULL;
	scrub->stats = (struct scrub_stats){ .state = SCRUB_RUNNING,
					     .blocks_total = nx->dev.nblocks };
	if (pace_init(&scrub->pace, &nx->dev, opts->rate,
		      opts->latency_ns == UINT64_MAX ? 0 : latency_ns,
		      ne != NULL ? &ne->err : NULL) < 0 ||
	    (opts->trusted != NULL && scrub->trusted == NULL))
		result = nexus_fail(ne, NEXUS_E_INTERNAL, "no memory to scrub nexus %s",
				    nx->dev.name);
	if (result == 0)
		result = lanes_make(scrub, ne);
	if (result == 0)
		result = scrub_run(scrub, ne);
	if (result < 0) {
		lanes_free(scrub);
		scrub->stats.state = SCRUB_FAILED;
	}
	return result;
}

void nexus_scrub_wait(struct nexus *nx)
{
	device_pin(&nx->dev); /* it is looked at again after each wait */
	while (nx->scrub != NULL && nx->scrub->nlanes > 0) {
		struct scrub_waiter waiter = {};

		list_add_tail(&nx->scrub->waiters, &waiter.link);
		task_event_wait(&waiter.event);
	}
	device_unpin(&nx->dev);
}

void nexus_scrub_stop(struct nexus *nx)
{
	if (nx->scrub == NULL)
		return;
	nx->scrub->is_stopping = true;
	nexus_scrub_wait(nx);
}

void nexus_scrub_free(struct nexus *nx)
{
	free(take(nx->scrub));
}

void nexus_scrub_stats(const struct nexus *nx, struct scrub_stats *ret)
{
	const struct scrub *scrub = nx->scrub;
	uint64_t left;

	*ret = (struct scrub_stats){ .remaining_ns = UINT64_MAX };
	if (scrub == NULL)
		return;
	*ret = scrub->stats;
	if (scrub->nlanes > 0)
		ret->run_ns = reactor_primary()->now_ns - scrub->started_ns;
	left = ret->blocks_total - MIN(ret->blocks_total, ret->blocks_done);
	ret->progress = ret->blocks_total > 0
				? (unsigned)(ret->blocks_done * 100 / ret->blocks_total)
				: 100;
	ret->progress = MIN(ret->progress, 100u);
	if (ret->run_ns > 0)
		ret->bytes_per_s = (uint64_t)((double)(ret->blocks_done << nx->dev.block_shift) *
					      1e9 / (double)ret->run_ns);
	ret->remaining_ns = UINT64_MAX;
	if (left == 0)
		ret->remaining_ns = 0;
	else if (ret->blocks_done > 0)
		ret->remaining_ns = (uint64_t)((double)ret->run_ns *
					       ((double)left / (double)ret->blocks_done));
}
