/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy_feed.c - what a copy moves next: ranges that were handed over, cut into chunks.
 *
 *   lane_feed, while slots are free:
 *     clean segments              passed over
 *     no source knows holes       a chunk to read; zeroes are found in it (copy_move.c)
 *     where does data begin?      a seek on the source; this lane waits, others go on
 *       a hole                    is the destination one there? a seek; else a chunk to clear
 *       data                      where does it end? a seek; then chunks to read, up to there
 *     nothing left                the last chunk sends the lane back to its task
 *
 * What is a hole is asked under the range lock and forgotten with it, as a host may write there the
 * next moment. What is data may be remembered: reading zeroes costs time and nothing else. A seek
 * that fails means data: reading tells what is wrong.
 *
 * Devices may answer within submit; feeding is bounded per turn, so the loop goes round.
 *
 * Invariant: a lane has one seek in flight at most, and goes back only without one, when no slot is
 * busy with it.
 *
 * Thread: the copy's reactor.
 */
#include "nexus/copy_internal.h"

enum {
	FEED_MAX = 16, /* chunks started in one turn */
};

/* ---- holes ---------------------------------------------------------------------------------- */

static bool seek_start(struct copy_lane *lane, enum lane_seek what);

/* Block of the copy that a seek from the lane's cursor has found, within the lane's range. */
static uint64_t seek_found(const struct copy_lane *lane, uint64_t start)
{
	uint64_t at = lane->seek_io.result;

	return MAX(at > start ? at - start : 0, lane->cursor);
}

/* True: another seek is in flight. An error: all is data, and reading tells what is wrong. */
static bool seek_ended(struct copy_lane *lane)
{
	struct copy *copy = lane->copy;
	enum lane_seek what = (enum lane_seek)lane->seek;
	bool is_ok = lane->seek_io.status == IO_OK;
	uint64_t start = copy->opts.dst_start, found;

	lane->seek = LANE_SEEK_NONE;
	if (what == LANE_SEEK_DST) {
		lane->clear_from = is_ok ? seek_found(lane, start) : lane->cursor;
		lane->is_clear_known = true;
		return false;
	}
	start = copy->opts.source[lane->seek_source].start;
	is_ok &= copy_source_is_good(copy, lane->seek_source);
	copy_source_back(copy, lane->seek_source);
	found = is_ok ? seek_found(lane, start) : lane->cursor;
	if (is_ok && what == LANE_SEEK_DATA && found > lane->cursor) {
		lane->hole_end = found;
		lane->is_clear_known = false;
		return false;
	}
	if (is_ok && what == LANE_SEEK_DATA)
		return seek_start(lane, LANE_SEEK_HOLE);
	lane->data_from = lane->cursor;
	lane->data_end = found > lane->cursor ? found : lane->end;
	return false;
}

/* True: in flight. */
static bool seek_start(struct copy_lane *lane, enum lane_seek what)
{
	struct copy *copy = lane->copy;
	struct io *io = &lane->seek_io;
	struct handle *h = copy->dst;
	uint64_t start = copy->opts.dst_start;

	lane->seek = (uint8_t)what;
	lane->seek_source = COPY_SOURCES_MAX;
	if (what != LANE_SEEK_DST) {
		uint8_t i = copy_source_pick(copy, 0);

		if (i == COPY_SOURCES_MAX) { /* reading will tell */
			lane->seek = LANE_SEEK_NONE;
			lane->data_from = lane->cursor;
			lane->data_end = lane->end;
			return false;
		}
		lane->seek_source = i;
		copy->source[i].inflight++;
		h = copy->source[i].h;
		start = copy->opts.source[i].start;
	}
	io->op = what == LANE_SEEK_HOLE ? IO_SEEK_HOLE : IO_SEEK_DATA;
	io->flags = 0;
	io->lba = start + lane->cursor;
	io->nlb = 0;
	io->iovcnt = 0;
	lane->seek_sent_ns = copy->reactor->now_ns;
	copy_late_watch(copy);
	return io_start(h, io) == IO_PENDING || seek_ended(lane);
}

void copy_seek_done(struct io *io)
{
	struct copy_lane *lane = container_of(io, struct copy_lane, seek_io);

	if (unlikely(lane->is_seek_late)) {
		copy_late_back(lane->copy, lane->seek_source);
		return;
	}
	if (!seek_ended(lane))
		copy_feed_later(lane->copy);
}

/* ---- ranges --------------------------------------------------------------------------------- */

/* Over clean segments; how far from there segments are dirty. */
static uint64_t dirty_end(struct copy_lane *lane)
{
	const struct segmap *map = lane->copy->opts.map;
	uint64_t seg;

	if (map == NULL)
		return lane->end;
	seg = segmap_next(map, (uint32_t)(lane->cursor >> map->shift));
	lane->cursor = MAX(lane->cursor, MIN(seg << map->shift, lane->end));
	while (seg < map->nsegments && seg << map->shift < lane->end &&
	       segmap_test(map, (uint32_t)seg))
		seg++;
	return MIN(seg << map->shift, lane->end);
}

/* Within a hole of the source that ends at @end. False: nothing can be started now. */
static bool feed_hole(struct copy_lane *lane, uint64_t end)
{
	struct copy *copy = lane->copy;

	if (copy->dst_has_seek && !lane->is_clear_known && seek_start(lane, LANE_SEEK_DST))
		return false;
	if (copy->dst_has_seek && lane->clear_from > lane->cursor) {
		uint64_t to = MIN(end, lane->clear_from);

		copy_count(&copy->same, to - lane->cursor);
		lane->cursor = to;
		return true;
	}
	if (copy->free == NULL)
		return false;
	if (!copy->can_unmap || copy->opts.verify != COPY_VERIFY_NONE)
		end = MIN(end, lane->cursor + copy->chunk_nlb);
	copy_chunk_start(lane, end, true);
	if (lane->cursor >= lane->hole_end)
		lane->is_clear_known = false;
	else if (lane->clear_from < lane->cursor)
		lane->clear_from = lane->cursor;
	return true;
}

/* One step. False: nothing can be started now. */
static bool lane_feed(struct copy_lane *lane)
{
	struct copy *copy = lane->copy;
	uint64_t end;
	uint8_t i;

	if (lane->is_over || lane->seek != LANE_SEEK_NONE)
		return false;
	if (atomic_load(&copy->is_failed))
		lane->cursor = lane->end;
	end = lane->cursor < lane->end ? dirty_end(lane) : lane->end;
	if (lane->cursor >= lane->end) {
		lane->is_over = lane->busy == 0;
		if (lane->is_over)
			reactor_post(reactor_primary(), &lane->came_back);
		return false;
	}
	i = copy_source_pick(copy, 0);
	if (i != COPY_SOURCES_MAX && copy->source[i].has_seek && !copy->opts.is_current_only) {
		if (lane->cursor < lane->hole_end)
			return feed_hole(lane, MIN(end, lane->hole_end));
		if (lane->cursor < lane->data_from || lane->cursor >= lane->data_end)
			return !seek_start(lane, LANE_SEEK_DATA);
		end = MIN(end, lane->data_end);
	}
	if (copy->free == NULL)
		return false;
	copy_chunk_start(lane, MIN(end, lane->cursor + copy->chunk_nlb), false);
	return true;
}

void copy_feed_due(struct msg *msg)
{
	struct copy *copy = container_of(msg, struct copy, feed);
	unsigned budget = FEED_MAX;
	bool is_any;

	copy->is_feed_queued = false;
	do {
		is_any = false;
		for (unsigned i = 0; i < COPY_LANES && budget > 0; i++) {
			if (!lane_feed(&copy->lane[i]))
				continue;
			is_any = true;
			budget--;
		}
	} while (is_any && budget > 0);
	if (is_any)
		copy_feed_later(copy);
}

void copy_lane_go(struct msg *msg)
{
	struct copy_lane *lane = container_of(msg, struct copy_lane, go);

	lane->cursor = lane->lba;
	lane->hole_end = lane->clear_from = 0;
	lane->is_clear_known = false;
	lane->is_over = false;
	copy_feed_later(lane->copy);
}
