/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medium.c - platter, volatile cache, power cut.
 *
 * A disk that keeps its promises and not one bit more. Two images are kept: `current`, which reads
 * see, and `stable`, which survives. Every write that is not stable at once becomes a piece: a copy
 * of the bytes of one unit, in the order of writing. All older pieces of a unit are kept, not only
 * the newest, because at a power cut any of them may be what the platter holds.
 *
 *   store(cached)  -> current, piece added
 *   store(stable)  -> current, unit destaged: stable = current, its pieces dropped
 *   flush          -> every dirty unit destaged
 *   destage_one    -> one unit destaged, at any time
 *   power_cut      -> pieces in random order, each written to stable or lost; current = stable
 *
 * Invariants
 *   1. stable[unit] == current[unit] for a unit without pieces.
 *   2. After a power cut a unit holds, byte for byte, the image it had after some write since it
 *      was last destaged, or the destaged image; with blocks smaller than a unit, each block does.
 *   3. written[b] == 0 implies that block b reads as zeroes.
 *
 * Rejected: a log of all writes since the last flush, replayed in prefixes: it would give only the
 * states in which nothing overtook.
 */
#include "medium.h"

#include <string.h>

#include "world.h"

struct piece {
	struct list link;
	uint64_t off;
	uint32_t len;
	uint8_t data[];
};

static struct list media = { &media, &media };

struct medium *medium_new(const struct medium_opts *opts)
{
	struct medium *m = sim_zalloc(sizeof(*m));
	size_t size;

	m->opts = *opts;
	(void)snprintf(m->name, sizeof(m->name), "%s", opts->name);
	m->opts.name = m->name;
	m->nblocks = opts->nblocks;
	m->nblocks_max = opts->nblocks_max != 0 ? opts->nblocks_max : opts->nblocks * 2;
	m->unit = MAX(opts->block_size, 4096u);
	size = ALIGN_UP(m->nblocks_max * opts->block_size, (uint64_t)m->unit);
	m->current = sim_zalloc(size);
	m->stable = sim_zalloc(size);
	m->written = sim_zalloc(m->nblocks_max);
	m->has_power = true;
	list_init(&m->pieces);
	list_add_tail(&media, &m->link);
	return m;
}

static void piece_drop(struct medium *m, struct piece *piece)
{
	list_del(&piece->link);
	m->npieces--;
	free(piece);
}

void medium_free(struct medium *m)
{
	struct piece *piece, *next;

	list_for_each_safe (piece, next, &m->pieces, link)
		piece_drop(m, piece);
	list_del(&m->link);
	free(m->current);
	free(m->stable);
	free(m->written);
	free(m);
}

struct medium *medium_find(const char *name)
{
	struct medium *m;

	list_for_each (m, &media, link) {
		if (strcmp(m->name, name) == 0)
			return m;
	}
	return NULL;
}

void medium_free_all(void)
{
	struct medium *m, *next;

	list_for_each_safe (m, next, &media, link)
		medium_free(m);
}

/* ---- space -------------------------------------------------------------------------------- */

uint64_t medium_unwritten(const struct medium *m, uint64_t lba, uint64_t nlb)
{
	uint64_t count = 0;

	for (uint64_t i = lba; i < lba + nlb; i++)
		count += m->written[i] == 0;
	return count;
}

uint64_t medium_used(const struct medium *m)
{
	return m->nblocks - medium_unwritten(m, 0, m->nblocks);
}

/* ---- bad blocks --------------------------------------------------------------------------- */

bool medium_is_bad(const struct medium *m, unsigned op, uint64_t lba, uint64_t nlb)
{
	for (unsigned i = 0; i < m->nbad; i++) {
		const struct medium_bad *bad = &m->bad[i];

		if (bad->ops >> op & 1 && lba < bad->lba + bad->nlb && bad->lba < lba + nlb)
			return true;
	}
	return false;
}

void medium_bad_add(struct medium *m, uint64_t lba, uint64_t nlb, uint32_t ops)
{
	if (m->nbad < MEDIUM_BAD_MAX)
		m->bad[m->nbad++] = (struct medium_bad){ .lba = lba, .nlb = nlb, .ops = ops };
}

void medium_heal(struct medium *m, uint64_t lba, uint64_t nlb)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < m->nbad; i++) {
		struct medium_bad bad = m->bad[i];

		if (!bad.heals || lba > bad.lba || lba + nlb < bad.lba + bad.nlb)
			m->bad[kept++] = bad;
	}
	m->nbad = kept;
}

/* ---- cache -------------------------------------------------------------------------------- */

static void medium_destage(struct medium *m, uint64_t off)
{
	uint64_t start = off / m->unit * m->unit;
	struct piece *piece, *next;

	memcpy(m->stable + start, m->current + start, m->unit);
	list_for_each_safe (piece, next, &m->pieces, link) {
		if (piece->off / m->unit == off / m->unit)
			piece_drop(m, piece);
	}
}

static void medium_mark_written(struct medium *m, uint64_t off, uint32_t len, bool has_data)
{
	uint32_t bs = m->opts.block_size;

	/* Zeroes over a whole block make a hole only where the disk is thin. */
	memset(m->written + off / bs, has_data || !m->opts.is_thin, len / bs);
}

void medium_store(struct medium *m, uint64_t off, uint32_t len, const void *data, bool is_stable)
{
	struct piece *piece;

	assert(off / m->unit == (off + len - 1) / m->unit);
	assert(off + len <= m->nblocks_max * m->opts.block_size);
	if (data != NULL)
		memcpy(m->current + off, data, len);
	else
		memset(m->current + off, 0, len);
	medium_mark_written(m, off, len, data != NULL);
	if (is_stable || !m->opts.has_write_cache) {
		medium_destage(m, off);
		return;
	}
	piece = sim_zalloc(sizeof(*piece) + len);
	piece->off = off;
	piece->len = len;
	memcpy(piece->data, m->current + off, len);
	list_add_tail(&m->pieces, &piece->link);
	m->npieces++;
	m->npieces_max = MAX(m->npieces_max, m->npieces);
}

void medium_flush(struct medium *m, unsigned share_percent)
{
	struct list todo;
	struct piece *piece;

	list_init(&todo);
	list_splice_tail(&todo, &m->pieces);
	while ((piece = list_first_entry(&todo, struct piece, link)) != NULL) {
		uint64_t off = piece->off;
		struct piece *next;
		bool is_kept = share_percent < 100 && !world_chance(share_percent, 100);

		if (!is_kept) {
			uint64_t start = off / m->unit * m->unit;

			memcpy(m->stable + start, m->current + start, m->unit);
		}
		list_for_each_safe (piece, next, &todo, link) {
			if (piece->off / m->unit != off / m->unit)
				continue;
			if (is_kept) {
				list_del(&piece->link);
				list_add_tail(&m->pieces, &piece->link);
			} else {
				piece_drop(m, piece);
			}
		}
	}
}

void medium_destage_one(struct medium *m)
{
	struct piece *piece;
	uint64_t skip;

	if (m->npieces == 0)
		return;
	skip = world_rand(m->npieces);
	list_for_each (piece, &m->pieces, link) {
		if (skip-- == 0) {
			medium_destage(m, piece->off);
			return;
		}
	}
}

void medium_power_cut(struct medium *m)
{
	struct list lost;
	struct piece *piece;

	m->ncuts++;
	m->has_power = false;
	list_init(&lost);
	while (m->npieces > 0) {
		uint64_t skip = world_rand(MIN(m->npieces, 64u));

		piece = list_first_entry(&m->pieces, struct piece, link);
		while (skip-- > 0)
			piece = list_first_entry(&piece->link, struct piece, link);
		if (world_chance(1, 2))
			memcpy(m->stable + piece->off, piece->data, piece->len);
		else
			m->nlost++;
		medium_mark_written(m, piece->off, piece->len, true);
		list_del(&piece->link);
		list_add_tail(&lost, &piece->link);
		m->npieces--;
	}
	while ((piece = list_first_entry(&lost, struct piece, link)) != NULL) {
		uint64_t start = piece->off / m->unit *
				 m->unit; /* invariant 1: all others are equal */

		memcpy(m->current + start, m->stable + start, m->unit);
		list_del(&piece->link);
		free(piece);
	}
}

void medium_power_on(struct medium *m)
{
	m->has_power = true;
	m->sticky = 0;
	m->flush_failures = 0;
	m->capacity = 0;
}

static struct piece *piece_beyond(struct medium *m, uint64_t off)
{
	struct piece *piece;

	list_for_each (piece, &m->pieces, link) {
		if (piece->off + piece->len > off)
			return piece;
	}
	return NULL;
}

void medium_resize(struct medium *m, uint64_t nblocks)
{
	uint32_t bs = m->opts.block_size;
	struct piece *piece;

	assert(nblocks > 0 && nblocks <= m->nblocks_max);
	if (nblocks < m->nblocks) {
		uint64_t from = nblocks * bs, size = (m->nblocks_max - nblocks) * bs;

		while ((piece = piece_beyond(m, from)) != NULL)
			medium_destage(m, piece->off);
		memset(m->current + from, 0, size);
		memset(m->stable + from, 0, size);
		memset(m->written + nblocks, 0, m->nblocks_max - nblocks);
	}
	m->nblocks = nblocks;
	if (m->resized != NULL)
		m->resized(m);
}
