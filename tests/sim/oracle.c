/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oracle.c - each block is a register; this judges whether its readers saw one.
 *
 * The rule for a correct disk: every write takes effect on each of its blocks at one instant
 * between its submission and its completion, every read sees each block as it is at one instant of
 * its own life, and a power cut takes back only what no completed flush (or FUA) covers. The
 * oracle knows neither the instants nor the choice, so it keeps for each block the versions that
 * are still possible and strikes out the others as evidence comes in.
 *
 * A version u lives from `inv` (its write was submitted) and took effect at the latest at `hi` (its
 * write completed, or a read saw it). Evidence strikes:
 *
 *   write w acknowledged        every u with u.hi < w.inv      (u was over before w began)
 *   read from t on saw w        every other u with u.hi < max(t, w.inv)   (u is below w for good)
 *
 * A struck version is dead for every read that begins afterwards; reads in flight may still have
 * seen it: it is allowed while dead_at > the read's token. So nothing changes back: a value that
 * was seen to be replaced is dead, and seeing it again is a violation.
 *
 * Durability. A version is stable when it was acknowledged with FUA, or acknowledged before a flush
 * began that succeeded. A version is gone, even for a power cut, when a stable one follows it:
 * stable s with u.hi < s.inv, or u was struck by a version that is stable or gone itself. After a
 * power cut everything not gone is possible again, one value of them: the first read settles which,
 * for good.
 *
 * Repeated writes. One whose connection broke is sent again by those who survive that, and the
 * first copy may take effect late: until it ends such a write has no latest time, even when it was
 * seen. So a reader may find it, then what followed, then it once more; when it has ended no copy
 * may be left.
 *
 * Failed writes (WRITE_MAYBE) may have taken effect or not: they strike nothing until seen.
 * Zeroes of different writes look the same, and a wild version looks like anything: where several
 * versions explain what was read, only versions that explain nothing are struck.
 *
 * Rejected: a linearizability checker over the recorded history (exponential, and it names a
 * history, not a block); comparing with a byte array at quiet moments only (sees no races).
 */
#include "oracle.h"

#include <inttypes.h>
#include <string.h>

#include "base/rng.h"
#include "world.h"

#define NEVER UINT64_MAX

struct version {
	uint64_t id;
	uint64_t inv, hi;
	uint64_t resp;    /* its write completed */
	uint64_t dead_at; /* struck; NEVER: possible */
	uint64_t killer;  /* id of the version that struck it, 0: none or unknown */
	uint8_t kind;     /* enum value_kind */
	bool is_applied;  /* acknowledged or seen */
	bool is_stable, is_gone;
	bool is_crash;    /* survived a power cut, perhaps */
	bool is_repeated; /* may take effect again until it ends */
};

struct block {
	struct version *v; /* owned */
	unsigned count, room;
};

struct oracle {
	struct block *block;
	uint64_t nblocks, clock, seed, last_id;
	uint64_t crash_at; /* the last power cut */
	uint32_t block_size;
	uint64_t *reads; /* tokens in flight */
	unsigned nreads, reads_room;
	bool may_repeat;
	struct oracle_stats stats;
};

/* ---- contents ------------------------------------------------------------------------------ */

static uint64_t word_base(const struct oracle *o, uint64_t lba, uint64_t id)
{
	uint64_t state = o->seed ^ lba << 40 ^ id;

	return splitmix64(&state);
}

static void block_fill(const struct oracle *o, uint64_t *words, uint64_t lba, uint64_t id)
{
	uint64_t base = word_base(o, lba, id);

	words[0] = id;
	words[1] = lba;
	for (unsigned i = 2; i < o->block_size / 8; i++)
		words[i] = base + i * UINT64_C(0x9e3779b97f4a7c15);
}

void oracle_fill(const struct oracle *o, void *buf, uint64_t lba, uint64_t nlb, uint64_t id)
{
	uint8_t *to = buf;

	for (uint64_t i = 0; i < nlb; i++)
		block_fill(o, (uint64_t *)(void *)(to + i * o->block_size), lba + i, id);
}

enum content { CONTENT_ZERO, CONTENT_OURS, CONTENT_ELSEWHERE, CONTENT_BROKEN };

static enum content block_decode(const struct oracle *o, const uint64_t *words, uint64_t lba,
				 uint64_t *ret_id)
{
	unsigned nwords = o->block_size / 8;
	uint64_t base = word_base(o, words[1], words[0]), all = words[0] | words[1];
	bool is_sound = true;

	for (unsigned i = 2; i < nwords; i++) {
		is_sound &= words[i] == base + i * UINT64_C(0x9e3779b97f4a7c15);
		all |= words[i];
	}
	*ret_id = words[0];
	if (all == 0)
		return CONTENT_ZERO;
	if (!is_sound)
		return CONTENT_BROKEN;
	return words[1] == lba ? CONTENT_OURS : CONTENT_ELSEWHERE;
}

static bool version_explains(const struct version *v, enum content content, uint64_t id)
{
	switch (v->kind) {
	case VALUE_WILD:
		return true;
	case VALUE_ZERO:
		return content == CONTENT_ZERO;
	default:
		return content == CONTENT_OURS && v->id == id;
	}
}

/* ---- versions ------------------------------------------------------------------------------ */

static void block_add(struct block *b, const struct version *v)
{
	if (b->count == b->room) {
		b->room = b->room * 2 + 4;
		b->v = sim_grow(b->v, b->room, sizeof(*b->v));
	}
	b->v[b->count++] = *v;
}

static void block_add_zero(struct block *b, uint64_t now)
{
	block_add(b, &(struct version){ .inv = now,
					.hi = now,
					.resp = now,
					.dead_at = NEVER,
					.kind = VALUE_ZERO,
					.is_applied = true,
					.is_stable = true });
}

static struct version *block_find(struct block *b, uint64_t id)
{
	for (unsigned i = b->count; i-- > 0;) {
		if (b->v[i].id == id)
			return &b->v[i];
	}
	return NULL;
}

static bool version_was_possible(const struct version *v, uint64_t token)
{
	return v->dead_at > token;
}

/* Versions other than @by that took effect before @threshold are below it. */
static void block_strike(struct block *b, const struct version *by, uint64_t threshold,
			 uint64_t now)
{
	for (unsigned i = 0; i < b->count; i++) {
		struct version *v = &b->v[i];

		if (v == by || v->dead_at != NEVER || v->hi >= threshold)
			continue;
		v->dead_at = now;
		v->killer = by->id;
	}
}

static bool version_follows_stable(const struct block *b, const struct version *v)
{
	for (unsigned i = 0; i < b->count; i++) {
		const struct version *s = &b->v[i];

		if (s == v)
			continue;
		if (s->is_stable && v->hi < s->inv)
			return true;
		if (v->dead_at != NEVER && v->killer != 0 && v->killer == s->id &&
		    (s->is_stable || s->is_gone))
			return true;
	}
	return false;
}

static void block_find_gone(struct block *b)
{
	bool is_changed = true;

	while (is_changed) {
		is_changed = false;
		for (unsigned i = 0; i < b->count; i++) {
			if (!b->v[i].is_gone && version_follows_stable(b, &b->v[i]))
				is_changed = b->v[i].is_gone = true;
		}
	}
}

static uint64_t oldest_token(const struct oracle *o)
{
	uint64_t oldest = NEVER;

	for (unsigned i = 0; i < o->nreads; i++)
		oldest = MIN(oldest, o->reads[i]);
	return oldest;
}

/* Forget what neither a read in flight nor a power cut can bring up. */
static void block_prune(struct oracle *o, struct block *b)
{
	uint64_t oldest = oldest_token(o);
	unsigned kept = 0;

	block_find_gone(b);
	for (unsigned i = 0; i < b->count; i++) {
		const struct version *v = &b->v[i];

		if (v->is_gone && v->dead_at < oldest && v->resp != NEVER)
			continue;
		b->v[kept++] = *v;
	}
	b->count = kept;
}

/* ---- life ----------------------------------------------------------------------------------- */

struct oracle *oracle_new(uint64_t nblocks, uint32_t block_size, uint64_t seed)
{
	struct oracle *o = sim_zalloc(sizeof(*o));

	o->nblocks = nblocks;
	o->block_size = block_size;
	o->seed = splitmix64(&seed);
	o->clock = 1;
	o->block = sim_zalloc(nblocks * sizeof(*o->block));
	for (uint64_t i = 0; i < nblocks; i++)
		block_add_zero(&o->block[i], 0);
	return o;
}

void oracle_free(struct oracle *o)
{
	if (o == NULL)
		return;
	for (uint64_t i = 0; i < o->nblocks; i++)
		free(o->block[i].v);
	free(o->block);
	free(o->reads);
	free(o);
}

const struct oracle_stats *oracle_stats(const struct oracle *o)
{
	return &o->stats;
}

/* ---- writes --------------------------------------------------------------------------------- */

uint64_t oracle_write_begin(struct oracle *o, uint64_t lba, uint64_t nlb, enum value_kind kind)
{
	struct version v = { .id = ++o->last_id,
			     .inv = ++o->clock,
			     .hi = NEVER,
			     .resp = NEVER,
			     .dead_at = NEVER,
			     .kind = (uint8_t)kind,
			     .is_repeated = o->may_repeat };

	assert(range_fits(lba, nlb, o->nblocks));
	for (uint64_t i = lba; i < lba + nlb; i++) {
		block_add(&o->block[i], &v);
		o->stats.versions_max = MAX(o->stats.versions_max, o->block[i].count);
	}
	return v.id;
}

static void version_drop(struct block *b, struct version *v)
{
	*v = b->v[--b->count];
}

static void block_write_end(struct oracle *o, struct block *b, uint64_t id,
			    enum write_outcome outcome)
{
	struct version *v = block_find(b, id);

	if (v == NULL)
		return;
	if (outcome == WRITE_NEVER) {
		version_drop(b, v);
		return;
	}
	if (outcome == WRITE_ACKED && v->inv < o->crash_at)
		outcome = WRITE_MAYBE;
	v->resp = o->clock;
	v->hi = MIN(v->hi, o->clock);
	switch (outcome) {
	case WRITE_ACKED_STABLE:
		v->is_stable = true;
		FALLTHROUGH;
	case WRITE_ACKED:
		v->is_applied = true;
		block_strike(b, v, v->inv, o->clock);
		break;
	case WRITE_SPOILT:
		v->kind = VALUE_WILD;
		break;
	case WRITE_MAYBE:
	case WRITE_NEVER:
		break;
	}
	if (b->count > 16)
		block_prune(o, b);
}

void oracle_write_end(struct oracle *o, uint64_t id, uint64_t lba, uint64_t nlb,
		      enum write_outcome outcome)
{
	++o->clock;
	for (uint64_t i = lba; i < lba + nlb; i++)
		block_write_end(o, &o->block[i], id, outcome);
}

void oracle_set_repeats(struct oracle *o, bool may_repeat)
{
	o->may_repeat = may_repeat;
}

void oracle_spoil_in_flight(struct oracle *o)
{
	for (uint64_t i = 0; i < o->nblocks; i++) {
		for (unsigned k = 0; k < o->block[i].count; k++) {
			if (o->block[i].v[k].resp == NEVER)
				o->block[i].v[k].kind = VALUE_WILD;
		}
	}
}

/* ---- reads ---------------------------------------------------------------------------------- */

uint64_t oracle_read_begin(struct oracle *o)
{
	if (o->nreads == o->reads_room) {
		o->reads_room = o->reads_room * 2 + 64;
		o->reads = sim_grow(o->reads, o->reads_room, sizeof(*o->reads));
	}
	o->reads[o->nreads++] = ++o->clock;
	return o->clock;
}

void oracle_read_drop(struct oracle *o, uint64_t token)
{
	++o->clock;
	for (unsigned i = 0; i < o->nreads; i++) {
		if (o->reads[i] == token) {
			o->reads[i] = o->reads[--o->nreads];
			return;
		}
	}
	assert(!"a read that never began");
}

static void block_explain(const struct oracle *o, const struct block *b, uint64_t lba,
			  enum content content, uint64_t id, char why[ORACLE_TEXT_MAX])
{
	static const char *const kinds[] = { "data", "zero", "wild" };
	size_t len;

	if (content == CONTENT_OURS)
		len = (size_t)snprintf(why, ORACLE_TEXT_MAX,
				       "block %" PRIu64 " holds write %" PRIu64
				       " again, or lost what followed it; possible:",
				       lba, id);
	else if (content == CONTENT_ELSEWHERE)
		len = (size_t)snprintf(why, ORACLE_TEXT_MAX,
				       "block %" PRIu64
				       " holds data of another block (write %" PRIu64
				       "); possible:",
				       lba, id);
	else
		len = (size_t)snprintf(why, ORACLE_TEXT_MAX, "block %" PRIu64 " %s; possible:", lba,
				       content == CONTENT_ZERO ? "reads as zeroes" : "is corrupt");
	for (unsigned i = 0; i < b->count && len < ORACLE_TEXT_MAX - 32; i++) {
		const struct version *v = &b->v[i];

		if (v->dead_at == NEVER)
			len += (size_t)snprintf(why + len, ORACLE_TEXT_MAX - len,
						" %s %" PRIu64 "%s", kinds[v->kind], v->id,
						v->is_stable ? " stable" : "");
	}
	(void)o;
}

/* One version explains what was read: it is what the block held. */
static void block_saw(struct oracle *o, struct block *b, struct version *v, uint64_t token)
{
	if (!v->is_repeated || v->resp != NEVER)
		v->hi = MIN(v->hi, o->clock);
	if (v->dead_at != NEVER)
		return;
	v->is_applied = true;
	if (v->is_crash && v->resp < token)
		v->is_stable = true; /* read back after the power cut: it was on the medium */
	block_strike(b, v, MAX(token, v->inv), o->clock);
}

static bool block_judge(struct oracle *o, uint64_t token, uint64_t lba, const uint64_t *words,
			char why[ORACLE_TEXT_MAX])
{
	struct block *b = &o->block[lba];
	struct version *only = NULL;
	unsigned explaining = 0, possible = 0;
	uint64_t id;
	enum content content = block_decode(o, words, lba, &id);

	for (unsigned i = 0; i < b->count; i++) {
		if (!version_was_possible(&b->v[i], token))
			continue;
		possible++;
		if (version_explains(&b->v[i], content, id)) {
			only = &b->v[i];
			explaining++;
		}
	}
	o->stats.blocks_judged++;
	o->stats.ambiguous += possible > 1;
	if (explaining == 0) {
		block_explain(o, b, lba, content, id, why);
		return false;
	}
	if (explaining == 1) {
		block_saw(o, b, only, token);
		return true;
	}
	for (unsigned i = 0; i < b->count; i++) {
		struct version *v = &b->v[i];

		if (v->dead_at == NEVER && v->hi < token && !version_explains(v, content, id))
			v->dead_at = o->clock; /* by whom is not known */
	}
	return true;
}

bool oracle_read_end(struct oracle *o, uint64_t token, uint64_t lba, uint64_t nlb, const void *buf,
		     char why[ORACLE_TEXT_MAX])
{
	const uint8_t *from = buf;
	bool is_good = true;

	oracle_read_drop(o, token);
	if (token < o->crash_at)
		return true;
	o->stats.reads++;
	for (uint64_t i = 0; i < nlb && is_good; i++)
		is_good = block_judge(o, token, lba + i,
				      (const uint64_t *)(const void *)(from + i * o->block_size),
				      why);
	return is_good;
}

bool oracle_differ_end(struct oracle *o, uint64_t token, uint64_t lba, uint64_t nlb,
		       const void *buf, char why[ORACLE_TEXT_MAX])
{
	const uint8_t *from = buf;

	oracle_read_drop(o, token);
	if (token < o->crash_at)
		return true;
	for (uint64_t i = 0; i < nlb; i++) {
		const struct block *b = &o->block[lba + i];
		uint64_t id;
		enum content content = block_decode(
			o, (const uint64_t *)(const void *)(from + i * o->block_size), lba + i,
			&id);

		for (unsigned k = 0; k < b->count; k++) {
			if (version_was_possible(&b->v[k], token) &&
			    (b->v[k].kind == VALUE_WILD ||
			     !version_explains(&b->v[k], content, id)))
				return true;
		}
	}
	(void)snprintf(why, ORACLE_TEXT_MAX,
		       "blocks %" PRIu64 "+%" PRIu64 " can only have been equal", lba, nlb);
	return false;
}

bool oracle_may_be_zero(const struct oracle *o, uint64_t token, uint64_t lba)
{
	const struct block *b = &o->block[lba];

	for (unsigned i = 0; i < b->count; i++) {
		if (version_was_possible(&b->v[i], token) && b->v[i].kind != VALUE_DATA)
			return true;
	}
	return false;
}

void oracle_guess(const struct oracle *o, void *buf, uint64_t lba, uint64_t nlb)
{
	uint8_t *to = buf;

	for (uint64_t i = 0; i < nlb; i++, to += o->block_size) {
		const struct block *b = &o->block[lba + i];
		const struct version *best = NULL;

		for (unsigned k = 0; k < b->count; k++) {
			const struct version *v = &b->v[k];

			if (v->dead_at == NEVER && (best == NULL || v->is_applied))
				best = v;
		}
		if (best != NULL && best->kind == VALUE_DATA)
			block_fill(o, (uint64_t *)(void *)to, lba + i, best->id);
		else
			memset(to, 0, o->block_size);
	}
}

/* ---- durability ----------------------------------------------------------------------------- */

uint64_t oracle_flush_begin(struct oracle *o)
{
	return ++o->clock;
}

void oracle_flush_end(struct oracle *o, uint64_t token)
{
	++o->clock;
	if (token < o->crash_at)
		return;
	for (uint64_t i = 0; i < o->nblocks; i++) {
		struct block *b = &o->block[i];

		for (unsigned k = 0; k < b->count; k++) {
			if (b->v[k].is_applied && b->v[k].resp < token)
				b->v[k].is_stable = true;
		}
		if (b->count > 1)
			block_prune(o, b);
	}
}

void oracle_crash(struct oracle *o)
{
	uint64_t now = ++o->clock;

	o->stats.crashes++;
	o->crash_at = now;
	for (uint64_t i = 0; i < o->nblocks; i++) {
		struct block *b = &o->block[i];
		unsigned kept = 0;

		block_find_gone(b);
		for (unsigned k = 0; k < b->count; k++) {
			if (b->v[k].is_gone)
				continue;
			b->v[k].dead_at = NEVER;
			b->v[k].killer = 0;
			b->v[k].is_stable = false;
			if (b->v[k].resp != NEVER) {
				b->v[k].hi = b->v[k].resp = now;
				b->v[k].is_crash = true;
			} else {
				b->v[k].hi = NEVER;
				b->v[k].is_applied = false;
			}
			b->v[kept++] = b->v[k];
		}
		assert(kept > 0);
		b->count = kept;
		o->stats.crash_choices += kept > 1;
		if (kept == 1)
			b->v[0].is_stable = b->v[0].is_applied = true;
	}
	o->clock++;
}

static void block_may_hold(struct oracle *o, uint64_t lba, const uint64_t *words)
{
	struct block *b = &o->block[lba];
	uint64_t id;
	enum content content = block_decode(o, words, lba, &id);
	struct version v = { .id = id,
			     .inv = o->clock,
			     .hi = o->clock,
			     .resp = o->clock,
			     .dead_at = NEVER,
			     .kind = VALUE_WILD,
			     .is_crash = true };

	for (unsigned i = 0; i < b->count; i++) {
		if (b->v[i].dead_at == NEVER && version_explains(&b->v[i], content, id))
			return;
	}
	if (content == CONTENT_ZERO)
		v.kind = VALUE_ZERO;
	else if (content == CONTENT_OURS)
		v.kind = VALUE_DATA;
	block_add(b, &v);
}

void oracle_may_hold(struct oracle *o, uint64_t lba, uint64_t nlb, const void *buf)
{
	const uint8_t *from = buf;

	++o->clock;
	for (uint64_t i = 0; i < nlb; i++)
		block_may_hold(o, lba + i,
			       (const uint64_t *)(const void *)(from + i * o->block_size));
	++o->clock;
}

void oracle_clear_from(struct oracle *o, uint64_t lba)
{
	uint64_t now = ++o->clock;

	for (uint64_t i = lba; i < o->nblocks; i++) {
		struct block *b = &o->block[i];

		/* A read in flight may have seen what was there; a write in flight may come yet. */
		for (unsigned k = 0; k < b->count; k++) {
			struct version *v = &b->v[k];

			if (v->resp == NEVER)
				continue;
			v->dead_at = MIN(v->dead_at, now);
			v->is_gone = true;
			v->is_stable = false;
		}
		block_prune(o, b);
		block_add_zero(b, now);
	}
	o->clock++;
}
