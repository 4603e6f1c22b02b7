/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oracle.c - random operations on every driver and every pair of layers, against an array of bytes.
 *
 *   oracle [--seed N] [--scale PERCENT] [STACK...]     STACK: part of a stack's name
 *   oracle [--seed N] [--scale PERCENT] --uri URI      on this device, at most 4 MiB of it
 *
 * A stack is a list of URIs and the name of the device on top (oracle_stacks.c). On it, every
 * reactor plays: it keeps DEPTH requests in flight, each drawn from the seed: any operation, any
 * range, any flags, any shape of scatter list. A round ends when all have played their share; then
 * the whole window is read and compared, and holes are looked for.
 *
 * The model is one array of bytes and one state per block. A request owns its blocks while it is in
 * flight (readers share), so there is exactly one right answer to each, although reactors work side
 * by side in neighbouring blocks, bytes of one page and bits of one word:
 *
 *   draw -> claim blocks -> submit -> done: status and data as the model says -> model -> release
 *
 * Half of the reads offer to borrow; of what is lent some is kept for a turn of the loop, in which
 * somebody may make a copy of it.
 *
 * States of a block: HOLE (never written, or deallocated), DATA, VAGUE (unmapped where unmap
 * promises nothing: until it is written again its contents are not looked at).
 *
 * The same seed draws the same; when a draw meets blocks that are taken it draws again, so what
 * exactly runs also depends on timing. A failure prints the seed and the request.
 *
 * Thread: play and done on the players' reactors; the model's claims under one lock (a test may
 * have one), its bytes by whoever owns the blocks.
 */
#include "oracle.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/units.h"

enum {
	DEPTH = 12, /* requests in flight per player */
	ROUNDS = 4,
	PIECES_MAX = 20,      /* of a scatter list */
	MOVE_MAX = 128 << 10, /* bytes of a transfer */
	SLACK = 64,           /* bytes of canary between pieces */
	CANARY = 0xc5,
};

enum state { HOLE, DATA, VAGUE };

/* What all players of one stack share. */
static struct {
	const struct stack *stack;
	struct device *dev;
	uint32_t block_size;
	uint64_t first, count; /* the window of blocks that is played on */
	uint8_t *bytes;        /* count * block_size */
	uint8_t *state;        /* enum state of each block */
	int16_t *owners;       /* -1: a writer; n: readers */
	pthread_mutex_t lock;  /* of owners and failed */
	uint64_t played[IO_OP_COUNT_];
	char failed[512]; /* the first failure, empty: none */
} world = { .lock = PTHREAD_MUTEX_INITIALIZER };

struct slot {
	struct io io;
	struct player *player;
	uint64_t lba; /* relative to the window */
	uint32_t nlb;
	uint16_t expected; /* status */
	bool is_owner;     /* of its blocks */
	bool is_writer;
	bool is_corrupted; /* a compare with a wrong byte */
	struct iovec iov[PIECES_MAX];
	struct io_loan loan;
	uint8_t *flat;  /* 2 * MOVE_MAX: data as one piece */
	uint8_t *arena; /* where the scatter list points into */
};

struct player {
	struct handle *h;
	struct rng rng;
	uint64_t left; /* requests to be played in this round */
	unsigned inflight;
	uint64_t played[IO_OP_COUNT_];
	struct slot slot[DEPTH];
	struct task_event ended;
	struct msg msg;
};

static const size_t arena_size = 2 * MOVE_MAX + (PIECES_MAX + 1) * (SLACK + 4096);

/* ---- the model ---------------------------------------------------------------------------- */

static void fail(const struct slot *s, const char *what, uint64_t a, uint64_t b)
{
	pthread_mutex_lock(&world.lock);
	if (world.failed[0] == '\0')
		(void)snprintf(world.failed, sizeof(world.failed),
			       "%s lba=%" PRIu64 " nlb=%u flags=0x%x iovcnt=%u: %s (%" PRIu64
			       ", %" PRIu64 ")",
			       io_op_name(s->io.op), s->lba + world.first, s->nlb, s->io.flags,
			       s->io.iovcnt, what, a, b);
	pthread_mutex_unlock(&world.lock);
}

static bool claim(struct slot *s)
{
	bool is_free = true;

	pthread_mutex_lock(&world.lock);
	for (uint64_t i = s->lba; i < s->lba + s->nlb && is_free; i++)
		is_free = s->is_writer ? world.owners[i] == 0 : world.owners[i] >= 0;
	for (uint64_t i = s->lba; i < s->lba + s->nlb && is_free; i++)
		world.owners[i] = s->is_writer ? -1 : (int16_t)(world.owners[i] + 1);
	pthread_mutex_unlock(&world.lock);
	return s->is_owner = is_free;
}

static void release(struct slot *s)
{
	if (!s->is_owner)
		return;
	pthread_mutex_lock(&world.lock);
	for (uint64_t i = s->lba; i < s->lba + s->nlb; i++)
		world.owners[i] = s->is_writer ? 0 : (int16_t)(world.owners[i] - 1);
	pthread_mutex_unlock(&world.lock);
	s->is_owner = false;
}

static uint8_t *model_at(uint64_t lba)
{
	return world.bytes + lba * world.block_size;
}

static bool model_has(uint64_t lba, uint64_t nlb, enum state state)
{
	return memchr(world.state + lba, (int)state, nlb) != NULL;
}

static size_t slot_len(const struct slot *s)
{
	return (size_t)s->nlb * world.block_size;
}

/* First block that differs from the model, or nlb. Blocks without a promise are passed over. */
static uint32_t model_diff(uint64_t lba, uint32_t nlb, const uint8_t *data)
{
	for (uint32_t i = 0; i < nlb; i++) {
		if (world.state[lba + i] != VAGUE &&
		    memcmp(model_at(lba + i), data + (size_t)i * world.block_size,
			   world.block_size) != 0)
			return i;
	}
	return nlb;
}

static bool model_is_zero(uint64_t lba)
{
	const uint8_t *block = model_at(lba);

	return block[0] == 0 && memcmp(block, block + 1, world.block_size - 1) == 0;
}

static void model_set(const struct slot *s, const uint8_t *data, enum state state)
{
	if (data != NULL)
		memcpy(model_at(s->lba), data, slot_len(s));
	else
		memset(model_at(s->lba), 0, slot_len(s));
	memset(world.state + s->lba, (int)state, s->nlb);
}

/* ---- scatter lists ------------------------------------------------------------------------ */

/* Cut @len bytes into pieces somewhere in the arena, canaries between. */
static void slot_scatter(struct slot *s, size_t len)
{
	struct rng *rng = &s->player->rng;
	unsigned shape = (unsigned)rng_below(rng, 6);
	size_t grain = shape == 0 ? len : shape <= 2 ? world.block_size : shape == 3 ? 4 : 1;
	uint8_t *to = s->arena;
	unsigned n = 0;

	memset(s->arena, CANARY, arena_size);
	while (len > 0) {
		size_t piece = len;

		if (shape != 0 && n + 1 < PIECES_MAX && len > grain)
			piece = grain * rng_range(rng, 1, MIN(len / grain, 1 + rng_below(rng, 64)));
		to += SLACK;
		if (shape <= 2)
			to = (uint8_t *)ALIGN_UP((uintptr_t)to, 4096u);
		else
			to += rng_below(rng, 17);
		s->iov[n++] = (struct iovec){ to, piece };
		to += piece;
		len -= piece;
	}
	s->io.iov = s->iov;
	s->io.iovcnt = (uint16_t)n;
}

/* Did anything write outside of the pieces? */
static bool canaries_live(const struct slot *s)
{
	const uint8_t *at = s->arena;

	for (unsigned i = 0; i <= s->io.iovcnt; i++) {
		const uint8_t *end = i < s->io.iovcnt ? s->iov[i].iov_base : at + SLACK;

		for (; at < end; at++) {
			if (*at != CANARY)
				return false;
		}
		if (i < s->io.iovcnt)
			at += s->iov[i].iov_len;
	}
	return true;
}

/* ---- drawing ------------------------------------------------------------------------------ */

static enum io_op draw_op(struct rng *rng)
{
	static const struct {
		enum io_op op;
		unsigned weight;
	} odds[] = {
		{ IO_READ, 30 },     { IO_WRITE, 30 },  { IO_WRITE_ZEROES, 6 },
		{ IO_UNMAP, 6 },     { IO_COMPARE, 8 }, { IO_COMPARE_WRITE, 8 },
		{ IO_FLUSH, 2 },     { IO_RESET, 1 },   { IO_SEEK_DATA, 3 },
		{ IO_SEEK_HOLE, 3 },
	};
	unsigned draw = (unsigned)rng_below(rng, 97), i = 0;

	while (draw >= odds[i].weight)
		draw -= odds[i++].weight;
	return odds[i].op;
}

static void draw_range(struct slot *s)
{
	struct rng *rng = &s->player->rng;
	uint64_t most = MOVE_MAX / world.block_size;

	if (!(IO_BIT(s->io.op) & IO_OPS_WITH_RANGE)) {
		s->nlb = 0;
		s->lba = s->io.op == IO_SEEK_DATA || s->io.op == IO_SEEK_HOLE
				 ? rng_below(rng, world.count)
				 : 0;
		return;
	}
	if (!(IO_BIT(s->io.op) & IO_OPS_WITH_DATA) && rng_chance(rng, 1, 4))
		most = world.count / 4; /* beyond what is done inline */
	else if (rng_chance(rng, 7, 8))
		most = 9;
	if (s->io.op == IO_COMPARE_WRITE && world.dev->max_compare_write_nlb != 0)
		most = MIN(most, (uint64_t)world.dev->max_compare_write_nlb);
	s->lba = rng_below(rng, world.count);
	s->nlb = (uint32_t)rng_range(rng, 1, MIN(most, world.count - s->lba));
}

static unsigned draw_flags(struct slot *s)
{
	struct rng *rng = &s->player->rng;
	unsigned draw = (unsigned)rng_below(rng, 8);

	switch (s->io.op) {
	case IO_READ:
		return draw == 0 ? IO_UNWRITTEN_FAIL : draw == 1 ? IO_CURRENT_UNWRITTEN_FAIL : 0;
	case IO_WRITE:
		return draw == 0 ? IO_FUA : 0;
	case IO_WRITE_ZEROES:
		return (draw & 1 ? IO_NO_DEALLOCATE : 0) | (draw == 7 ? IO_FUA : 0);
	default:
		return 0;
	}
}

/* The data that goes along, and the status that must come back. */
static void draw_data(struct slot *s)
{
	struct rng *rng = &s->player->rng;
	size_t len = slot_len(s), total = len;
	bool is_caw = s->io.op == IO_COMPARE_WRITE;

	s->expected = IO_OK;
	s->is_corrupted = false;
	if (s->io.op == IO_READ && model_has(s->lba, s->nlb, VAGUE))
		s->io.flags = 0; /* whether it was written is as uncertain as with what */
	if (s->io.op == IO_READ && s->io.flags & (IO_UNWRITTEN_FAIL | IO_CURRENT_UNWRITTEN_FAIL) &&
	    world.stack->knows_holes && model_has(s->lba, s->nlb, HOLE))
		s->expected = IO_UNWRITTEN;
	if (is_caw || s->io.op == IO_COMPARE) {
		memcpy(s->flat, model_at(s->lba), len);
		s->is_corrupted = rng_chance(rng, 1, 3);
		if (s->is_corrupted) {
			s->flat[rng_below(rng, len)] ^= (uint8_t)(1u << rng_below(rng, 8));
			s->expected = IO_MISCOMPARE;
		}
	}
	if (is_caw) {
		rng_fill(rng, s->flat + len, len);
		total = 2 * len;
	} else if (s->io.op == IO_WRITE) {
		rng_fill(rng, s->flat, len);
	}
	slot_scatter(s, total);
	if (s->io.op == IO_READ && rng_chance(rng, 1, 2))
		io_offer(&s->io, &s->loan);
	if (s->io.op != IO_READ)
		(void)iov_from_buf(s->io.iov, s->io.iovcnt, 0, s->flat, total);
}

/* False: the blocks are taken, or it makes no sense on this stack. */
static bool draw(struct slot *s)
{
	enum io_op op = draw_op(&s->player->rng);
	bool compares = op == IO_COMPARE || op == IO_COMPARE_WRITE;

	s->io = (struct io){ .op = (uint8_t)op };
	s->is_writer = IO_BIT(op) & IO_OPS_WRITING;
	if (!(s->player->h->ops >> op & 1) || (compares && world.stack->has_no_data))
		return false;
	draw_range(s);
	if (!claim(s))
		return false;
	if (compares && model_has(s->lba, s->nlb, VAGUE)) {
		release(s);
		return false;
	}
	s->io.flags = (uint16_t)draw_flags(s);
	s->io.lba = s->lba + world.first;
	s->io.nlb = s->nlb;
	if (IO_BIT(op) & IO_OPS_WITH_DATA)
		draw_data(s);
	else
		s->expected = IO_OK;
	return true;
}

/* A request that no device may take; its blocks need no owner. */
static void draw_out_of_range(struct slot *s)
{
	s->io = (struct io){ .op = IO_READ, .nlb = 2 };
	s->io.lba = world.dev->nblocks - rng_below(&s->player->rng, 2);
	s->lba = s->io.lba - world.first;
	s->nlb = 2;
	s->expected = IO_OUT_OF_RANGE;
	s->is_owner = s->is_writer = false;
	slot_scatter(s, 2 * (size_t)world.block_size);
}

/* ---- playing ------------------------------------------------------------------------------ */

/* From where it lies, or after all from the scatter list. */
static void take_loan(struct slot *s)
{
	struct iovec *piece = s->loan.piece;
	size_t len = iov_bytes(piece, s->loan.count);

	if (len != slot_len(s))
		fail(s, "bytes lent", len, slot_len(s));
	if (rng_chance(&s->player->rng, 1, 2)) {
		(void)iov_to_buf(piece, s->loan.count, 0, s->flat, slot_len(s));
		io_return(&s->io);
	} else {
		io_unlend(&s->io);
		(void)iov_to_buf(s->io.iov, s->io.iovcnt, 0, s->flat, slot_len(s));
	}
}

static void check_read(struct slot *s)
{
	uint32_t bad;

	if (io_is_lent(&s->io))
		take_loan(s);
	else
		(void)iov_to_buf(s->io.iov, s->io.iovcnt, 0, s->flat, slot_len(s));
	if (!canaries_live(s))
		fail(s, "bytes outside the scatter list changed", 0, 0);
	if (world.stack->has_no_data)
		return;
	bad = model_diff(s->lba, s->nlb, s->flat);
	if (bad < s->nlb)
		fail(s, "wrong data in block", s->lba + bad + world.first,
		     world.state[s->lba + bad]);
}

/*
 * A reset ends the connections of a remote device. A pair that was under way is not sent again, for
 * it might be carried out twice; whether it was at all nobody can tell.
 */
static bool is_lost_pair(const struct slot *s)
{
	return world.stack->is_remote && s->io.op == IO_COMPARE_WRITE &&
	       s->io.status == IO_TRANSPORT;
}

static void check_and_apply(struct slot *s)
{
	if (is_lost_pair(s)) {
		model_set(s, NULL, VAGUE);
		return;
	}
	if (s->io.status != s->expected) {
		fail(s, io_status_name(s->io.status), s->io.status, s->expected);
		return;
	}
	if (s->io.status != IO_OK)
		return;
	switch (s->io.op) {
	case IO_READ:
		check_read(s);
		break;
	case IO_WRITE:
		model_set(s, s->flat, DATA);
		break;
	case IO_COMPARE_WRITE:
		model_set(s, s->flat + slot_len(s), DATA);
		break;
	case IO_WRITE_ZEROES:
		model_set(s, NULL, s->io.flags & IO_NO_DEALLOCATE ? DATA : HOLE);
		break;
	case IO_UNMAP:
		model_set(s, NULL, world.dev->unmap_reads_zero ? HOLE : VAGUE);
		break;
	case IO_SEEK_DATA:
	case IO_SEEK_HOLE: /* others write meanwhile: all that is certain are the bounds */
		if (s->io.result < s->io.lba || s->io.result > world.dev->nblocks)
			fail(s, "sought out of bounds", s->io.result, world.dev->nblocks);
		break;
	default:
		break;
	}
}

static void told(struct msg *msg)
{
	task_event_fire(&container_of(msg, struct player, msg)->ended);
}

static void slot_done(struct io *io);

static void slot_play(struct slot *s)
{
	struct player *p = s->player;

	if (p->left == 0) {
		if (p->inflight == 0) {
			p->msg.fn = told;
			reactor_post(reactor_primary(), &p->msg);
		}
		return;
	}
	p->left--;
	if (rng_chance(&p->rng, 1, 200)) {
		draw_out_of_range(s);
	} else {
		while (!draw(s))
			;
	}
	s->io.done = slot_done;
	p->inflight++;
	io_submit(p->h, &s->io);
}

static void slot_ended(struct slot *s)
{
	struct io *io = &s->io;
	struct player *p = s->player;

	p->inflight--;
	p->played[io->op]++;
	check_and_apply(s);
	release(s);
	slot_play(s);
}

static void slot_looks(struct msg *msg)
{
	slot_ended(container_of(msg, struct slot, io.msg));
}

static void slot_done(struct io *io)
{
	struct slot *s = container_of(io, struct slot, io);

	if (io_is_lent(io) && rng_chance(&s->player->rng, 1, 2)) {
		io->msg.fn = slot_looks;
		reactor_at_flush(s->player->h->ch->reactor, &io->msg);
	} else {
		slot_ended(s);
	}
}

static void player_start(void *arg)
{
	struct player *p = arg;

	for (unsigned i = 0; i < DEPTH && p->left > 0; i++)
		slot_play(&p->slot[i]);
}

/* ---- between rounds ----------------------------------------------------------------------- */

static uint16_t one(struct player *p, enum io_op op, uint64_t lba, uint32_t nlb, void *buf)
{
	struct slot *s = &p->slot[0];

	s->io = (struct io){ .op = (uint8_t)op, .lba = lba + world.first, .nlb = nlb };
	s->lba = lba;
	s->nlb = nlb;
	if (buf != NULL)
		io_set_buf(&s->io, buf, (size_t)nlb * world.block_size);
	return io_wait(p->h, &s->io);
}

static void verify_data(struct player *p)
{
	uint32_t step = MOVE_MAX / world.block_size;

	for (uint64_t lba = 0; lba < world.count; lba += step) {
		uint32_t nlb = (uint32_t)MIN(step, world.count - lba);
		uint16_t status = one(p, IO_READ, lba, nlb, p->slot[0].flat);
		uint32_t bad = status == IO_OK ? model_diff(lba, nlb, p->slot[0].flat) : 0;

		if (bad < nlb)
			fail(&p->slot[0], "after the round: wrong block, status",
			     lba + bad + world.first, status);
	}
}

/* With nothing in flight a seek has one right answer where holes are known, bounds elsewhere. */
static void verify_seek(struct player *p, uint64_t lba)
{
	struct slot *s = &p->slot[0];
	uint64_t data, hole, want;

	if (one(p, IO_SEEK_DATA, lba, 0, NULL) != IO_OK)
		fail(s, "seek failed", s->io.status, 0);
	data = MIN(s->io.result - world.first, world.count);
	for (uint64_t i = lba; i < data; i++) {
		if (world.state[i] == DATA && !model_is_zero(i))
			fail(s, "data in what is said to be a hole", i + world.first, data);
	}
	for (want = lba; want < world.count && world.state[want] != DATA; want++)
		;
	if (world.stack->knows_holes && !world.stack->is_remote && data != want)
		fail(s, "next data", data + world.first, want + world.first);
	if (one(p, IO_SEEK_HOLE, lba, 0, NULL) != IO_OK)
		fail(s, "seek failed", s->io.status, 0);
	hole = MIN(s->io.result - world.first, world.count);
	for (want = lba; want < world.count && world.state[want] == DATA; want++)
		;
	if (world.stack->knows_holes && !world.stack->is_remote && hole != want)
		fail(s, "next hole", hole + world.first, want + world.first);
}

static void verify(struct player *p)
{
	if (world.stack->has_no_data)
		return;
	verify_data(p);
	for (unsigned i = 0; i < 50; i++)
		verify_seek(p, rng_below(&p->rng, world.count));
}

/* ---- one stack ---------------------------------------------------------------------------- */

static bool player_init(struct player *p, unsigned id, uint64_t seed)
{
	rng_init(&p->rng, seed * 64 + id);
	for (unsigned i = 0; i < DEPTH; i++) {
		p->slot[i].player = p;
		p->slot[i].flat = aligned_alloc(4096, 2 * MOVE_MAX);
		p->slot[i].arena = aligned_alloc(4096, ALIGN_UP(arena_size, 4096u));
		if (p->slot[i].flat == NULL || p->slot[i].arena == NULL)
			return false;
	}
	return true;
}

static void player_done(struct player *p)
{
	for (unsigned op = 0; op < IO_OP_COUNT_; op++)
		world.played[op] += p->played[op];
	for (unsigned i = 0; i < DEPTH; i++) {
		free(p->slot[i].flat);
		free(p->slot[i].arena);
	}
}

static void world_open(const struct stack *stack, struct device *dev)
{
	world.stack = stack;
	world.dev = dev;
	world.block_size = dev->block_size;
	world.first = stack->first;
	world.count = MIN(dev->nblocks - stack->first, (4 * MIB) / dev->block_size);
	world.bytes = calloc(world.count + 1, world.block_size);
	world.state = calloc(world.count, 1);
	world.owners = calloc(world.count, sizeof(*world.owners));
	memset(world.played, 0, sizeof(world.played));
	world.failed[0] = '\0';
	if (stack->is_vague) /* somebody else's contents before us */
		memset(world.state, VAGUE, world.count);
}

static void world_close(void)
{
	free(world.bytes);
	free(world.state);
	free(world.owners);
}

int oracle_play(const struct stack *stack, struct device *dev, const struct play *play,
		struct err *err)
{
	struct desc_opts opts = { .flags = DESC_WRITE };
	unsigned nplayers = reactor_count();
	struct player *players = calloc(nplayers, sizeof(*players));
	struct desc *desc = NULL;
	int result;

	world_open(stack, dev);
	result = players == NULL ? -ENOMEM : desc_open(dev, &opts, &desc, err);
	for (unsigned i = 0; i < nplayers && result == 0; i++) {
		if (!player_init(&players[i], i, play->seed))
			result = -ENOMEM;
		else
			result = handle_open(desc, reactor_get(i), &players[i].h, err);
	}
	for (unsigned round = 0; round < ROUNDS && result == 0; round++) {
		for (unsigned i = 0; i < nplayers; i++) {
			players[i].left = MAX(play->requests / ROUNDS / nplayers, (uint64_t)DEPTH);
			players[i].ended = (struct task_event){};
			task_call(reactor_get(i), player_start, &players[i]);
		}
		for (unsigned i = 0; i < nplayers; i++)
			task_event_wait(&players[i].ended);
		verify(&players[0]);
		if (world.failed[0] != '\0')
			result = err_set(err, -EILSEQ, "round %u: %s", round, world.failed);
	}
	desc_close(desc);
	for (unsigned i = 0; i < nplayers && players != NULL; i++)
		player_done(&players[i]);
	for (unsigned op = 0; op < IO_OP_COUNT_; op++)
		play->ret_played[op] += world.played[op];
	free(players);
	world_close();
	return result;
}
