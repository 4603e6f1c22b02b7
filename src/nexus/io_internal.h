/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io_internal.h - what the files of the data path share; nobody else includes it.
 *
 *   io.c          the way of a request, there and back, while all is well
 *   io_failed.c   a write that a leg has not done: who is out, what becomes of it
 *   io_blocked.c  a request that waits for blocks, or for a fork
 *
 * All of it runs on the channel's reactor, and what is inline here is so for io.c: the way of a
 * request that meets no trouble is one translation unit.
 */
#ifndef ASHLAR_NEXUS_IO_INTERNAL_H
#define ASHLAR_NEXUS_IO_INTERNAL_H

#include <string.h>

#include "nexus/internal.h"

/* What a read remembers in its frame. */
struct read_note {
	uint8_t slot;    /* where it is */
	uint8_t tried;   /* legs that could not, 1 << slot */
	uint8_t medium;  /* of those, by a fault of the medium */
	uint8_t again;   /* how often it was asked to be patient */
	uint16_t borrow; /* IO_BORROW, if the owner offers it */
	uint16_t unused;
};

static_assert(sizeof(struct read_note) == sizeof(uint64_t), "a note fits the frame");

static inline struct read_note note_get(const struct io *io)
{
	struct read_note note;

	memcpy(&note, &io->frame[io->depth - 1].priv, sizeof(note));
	return note;
}

static inline struct nexus_channel *channel_of(struct io *io)
{
	return container_of(io_top(io)->ch, struct nexus_channel, ch);
}

static inline enum io_result end(struct io *io, uint16_t status)
{
	io->status = status;
	return IO_DONE;
}

/* Of an ended nexus: the host may go elsewhere, unless the volume is being taken away. */
static inline uint16_t end_status(const struct nexus_channel *nc, uint16_t removed)
{
	return nc->nx->dev.is_ended ? IO_ENDED : removed;
}

static inline struct io *fork_part(struct fork *fork, uint8_t slot)
{
	return &fork->part[slot];
}

/* ---- io.c ----------------------------------------------------------------------------------- */

/* To every writer; the blocks are taken. */
enum io_result nexus_fork_send(struct nexus_channel *nc, struct io *io);
/* A read, or a part, whose leg is short of something: again in CHILD_AGAIN_MS. */
enum io_result nexus_again_later(struct nexus_channel *nc, struct io *io) COLD;

/* ---- io_failed.c ---------------------------------------------------------------------------- */

/* All parts are back, and some failed. */
enum io_result nexus_fork_failed(struct nexus_channel *nc, struct fork *fork) COLD;
/* @slots need not stay for a fork of theirs any more. */
void nexus_fork_let_go(struct nexus_channel *nc, uint8_t slots) COLD;

/* ---- io_blocked.c --------------------------------------------------------------------------- */

/* A read that has come back, or a write: until its blocks are free. */
enum io_result nexus_blocked_wait(struct nexus_channel *nc, struct io *io) COLD;
/* A write whose blocks were not free, or behind others who wait. */
enum io_result nexus_blocked_write(struct nexus_channel *nc, struct io *io) COLD;
/* A fork is free: for who waits for one. */
void nexus_starved_start(struct nexus_channel *nc);

/* ---- inline, for both ------------------------------------------------------------------------ */

/* Its blocks and itself go back; the parent is the caller's to end. */
static inline void fork_free(struct nexus_channel *nc, struct fork *fork)
{
	struct io *parent = fork->parent;

	if (likely(fork->owns_blocks)) {
		overlap_give(nc->nx->overlap, parent->lba, parent->nlb);
		if (unlikely(atomic_load(&nc->nx->nblocked) != 0))
			nexus_bells_ring(nc->nx);
	}
	nc->busy[fork->parity]--;
	fork->next = nc->free;
	nc->free = fork;
	if (unlikely(nc->starved.head != NULL))
		nexus_starved_start(nc);
}

/* Are all segments of the request known to be marked, by this channel? */
static inline bool is_hot(const struct nexus_channel *nc, const struct io *io)
{
	uint64_t seg = io->lba >> nc->hot.shift, last = (io->lba + io->nlb - 1) >> nc->hot.shift;

	for (; seg <= last; seg++) {
		if (!segmap_test(&nc->hot, (uint32_t)seg))
			return false;
	}
	return true;
}

#endif
