/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub_range.c - one range of a scrub: locked, read from all children in sync, compared.
 *
 *   task      next range -> lock it on the nexus -> children in sync, taken into use
 *   reactor   is it a hole on all? then that is all. Else all chunks of it are read from all
 *             children at once; a chunk that has come from all is compared; the last one ends it
 *   task      chunks that differ are judged (scrub_judge.c) -> children given back -> unlock
 *
 * Under the lock no write is under way in the range, so copies that differ there differ for good.
 *
 * A child that cannot read a chunk is left out of that comparison; a fault of the medium is handed
 * to repair.c. The children of each range are those that are in sync when it is locked, and are
 * held in use only for that long, so a child that leaves waits for one range at most.
 *
 * A child that does not answer within child_timeout is retired, as it would be for a host, and the
 * scrub fails. Reads that are late change nothing, so the range is unlocked at once; the lane keeps
 * its buffers and its children in use until all is answered.
 *
 * Thread: the lane's task on the primary; the reading half on the reactor that was picked.
 */
#include <string.h>

#include "base/log.h"
#include "base/units.h"
#include "nexus/scrub_internal.h"

/* ---- reading, on the reactor ---------------------------------------------------------------- */

static void range_read(struct scrub_lane *lane);

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

void scrub_range_go(struct msg *msg)
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

/* ---- a range, in the task ------------------------------------------------------------------- */

void scrub_children_give_back(struct scrub_lane *lane)
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
	scrub_children_give_back(lane);
	return false;
}

void scrub_lane_back(struct msg *msg)
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

void scrub_range_linger(struct scrub_lane *lane)
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
		scrub_range_linger(lane);
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
			scrub_judge_chunk(lane, chunk);
	}
	scrub_children_give_back(lane);
	lane->scrub->stats.blocks_done += lane->nlb;
}

bool scrub_lane_range(struct scrub_lane *lane)
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
