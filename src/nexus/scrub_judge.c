/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scrub_judge.c - a chunk in which children differ: who is right, and the others mended.
 *
 * Who is right? The child that the operator named. Else what more than half of three or more say.
 * Else nobody knows: it is told, and left as it is. Blocks are judged one by one, runs of them with
 * the same verdict are told as one.
 *
 * Only those have a say that could read the chunk. What is mended is written from the one who is
 * right and read back; a child that cannot be mended is retired, as in repair.c. A write that is
 * not answered in time: see child_io_bounded().
 *
 * The range is locked meanwhile, so no host writes what is being judged.
 *
 * Thread: the lane's task on the primary.
 */
#include <string.h>

#include "base/log.h"
#include "nexus/scrub_internal.h"

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

void scrub_judge_chunk(struct scrub_lane *lane, unsigned chunk)
{
	uint32_t block = 0;

	while (block < chunk_nlb(lane, chunk)) {
		if (block_is_equal(lane, chunk, block))
			block++;
		else
			block += judge_run(lane, chunk, block);
	}
}
