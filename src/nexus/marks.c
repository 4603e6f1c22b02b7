/* SPDX-License-Identifier: Apache-2.0 */
/*
 * marks.c - keeps the write-intent records: which segments may differ between the children.
 *
 *   channel: is the segment hot here? (one bit) --yes--> write
 *               | no: is it durable? (one bit of the nexus) --yes--> hot, write
 *               | no: wanted; the write waits
 *   task:    wanted -> pages on every writer, with FUA -> durable -> waiting writes start
 *
 * Clearing, by a timer (a "tick") while anything is marked. A segment is cleared at a tick at which
 * every channel turned, if no write to it began since the turn before, none that began earlier is
 * still under way, and what was written has been flushed:
 *
 *   1 every channel: what was hot since its last turn is noted. If none of the other parity is
 *     left, it turns: nothing is hot any more, and the parity of new writes is the other one. Then
 *     all that began before its last turn have ended
 *   2 candidates = durable, not noted: no longer durable, for channels, from now on
 *   3 every channel again: who has made a candidate hot between 1 and 2 keeps it
 *   4 flush every writer; what lost children missed goes to their missed maps, durably
 *   5 pages without the candidates
 *
 * Anything that goes wrong in 4 puts the candidates back: a mark too many costs time at the next
 * rebuild, one too few costs data. A child that cannot be marked is retired like one that cannot be
 * written to.
 *
 * A nexus of one child has nobody to differ from: its marks are kept in memory only, and written
 * when a second child is attached. If it was one of several before, its head is written, as it may
 * be compared with those that it went on without.
 *
 * Where the area is too small for the pages (blocks above 16 KiB), no marks are kept, every segment
 * is hot, and every rebuild is full.
 *
 * Invariants
 *   1. hot on a channel implies durable, but between steps 2 and 3.
 *   2. A page is written to the copy that was not written last; the sequence grows over all pages.
 *   3. marks->lock is held while pages are written or the set of writers changes (attach).
 *
 * Thread: marks_heat() on the channel's reactor; the rest in tasks on the primary.
 */
#include "nexus/marks.h"

#include <string.h>

#include "base/log.h"
#include "base/units.h"
#include "nexus/internal.h"
#include "reactor/mem.h"

struct marks {
	struct nexus *nx;
	struct segmap durable, wanted;
	struct segmap noted, candidates; /* of a tick */
	struct task_mutex lock;
	struct timer timer;
	bool is_tick_due, is_fold_due;
	bool is_recorded; /* the record tells of this life; the sequence stays until then */
	uint8_t full;     /* who had no space for a page, 1 << slot */
	uint64_t sequence;
	uint8_t copy[INTENT_PAGES];   /* of a pair: which is written next */
	bool is_single[INTENT_PAGES]; /* the other one is older */
	uint32_t unit;                /* bytes per page on disk */
	void *buf;                    /* owned; unit bytes */
	uint64_t nwrites;             /* pages, all children */
};

/* ---- the data path's ------------------------------------------------------------------------ */

bool marks_heat(struct nexus_channel *nc, const struct io *io)
{
	struct marks *marks = nc->nx->marks;
	uint64_t last = (io->lba + io->nlb - 1) >> nc->hot.shift;
	bool is_wanting = false;

	for (uint64_t seg = io->lba >> nc->hot.shift; seg <= last; seg++) {
		if (marks == NULL || segmap_test(&marks->durable, (uint32_t)seg)) {
			segmap_set(&nc->hot, (uint32_t)seg);
		} else {
			segmap_set(&marks->wanted, (uint32_t)seg);
			is_wanting = true;
		}
	}
	if (is_wanting)
		errand_ring(&nc->nx->mark);
	return !is_wanting;
}

/* ---- pages ---------------------------------------------------------------------------------- */

static bool is_writer(const struct child *child)
{
	uint32_t word = atomic_load(&child->word);

	return child_state_of(word) == CHILD_OPEN && (word & CHILD_SYNCED || child->is_writer);
}

/* Slots of those that writes go to. */
static uint8_t writers(const struct nexus *nx)
{
	uint8_t slots = 0;

	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX; slot++)
		slots |= (uint8_t)((nx->child[slot] != NULL && is_writer(nx->child[slot])) << slot);
	return slots;
}

static struct intent_id id_of(const struct marks *marks, const struct child *child)
{
	return (struct intent_id){ .nexus = marks->nx->uuid,
				   .replica = child->uuid,
				   .generation = marks->nx->generation,
				   .nsegments = marks->durable.nsegments,
				   .shift = marks->durable.shift,
				   .label = (uint8_t)marks->nx->label,
				   .is_incomplete = !(atomic_load(&child->word) & CHILD_SYNCED) };
}

static bool is_last(const struct child *child)
{
	return child->nx->state == NEXUS_OPEN && !child->nx->is_ended && child_is_healthy(child) &&
	       nexus_nhealthy(child->nx) == 1;
}

/* A request of ours to @child, again where it asks for patience; the last one may ask for more. */
static uint16_t child_io(struct child *child, const struct io *what) MAY_SUSPEND
{
	uint16_t status = IO_NO_DEVICE;

	for (unsigned i = 0; i < CHILD_AGAIN_MAX || is_last(child); i++) {
		struct desc *desc = child_use(child);
		struct io io = *what;
		struct handle *h;

		if (desc == NULL)
			return IO_NO_DEVICE;
		if (what->iov == &what->one)
			io.iov = &io.one;
		status = IO_NO_DEVICE;
		if (handle_open(desc, reactor_primary(), &h, NULL) == 0)
			status = child_io_wait(child, h, &io);
		child_unuse(child);
		if (child_verdict((enum io_op)what->op, status).action != CHILD_AGAIN)
			break;
		task_sleep(CHILD_AGAIN_MS * NS_PER_MS);
	}
	return status;
}

/* One copy of one page on one child. */
static uint16_t page_io(struct marks *marks, struct child *child, enum io_op op, unsigned index,
			unsigned copy, void *buf) MAY_SUSPEND
{
	struct nexus *nx = marks->nx;
	uint32_t nlb = marks->unit >> nx->dev.block_shift;
	struct io io = { .op = (uint8_t)op,
			 .flags = op == IO_WRITE ? IO_FUA : 0,
			 .nlb = nlb,
			 .lba = nx->geometry.meta_start + (uint64_t)(2 * index + copy) * nlb };

	io_set_buf(&io, buf, marks->unit);
	marks->nwrites += op == IO_WRITE;
	return child_io(child, &io);
}

/* A child that cannot be marked is one that cannot be written to. */
static bool page_done(struct child *child, enum io_op op, uint16_t status)
{
	if (status == IO_OK)
		return true;
	if (child->nx->marks != NULL && child_verdict(op, status).reason == NEXUS_REASON_NO_SPACE)
		child->nx->marks->full |= (uint8_t)(1u << child->slot);
	nexus_child_blame(child, op, status);
	return false;
}

static bool page_write(struct marks *marks, struct child *child, unsigned index, unsigned copy,
		       const struct uuid *subject, const struct segmap *map) MAY_SUSPEND
{
	struct intent_id id = id_of(marks, child);

	memset(marks->buf, 0, marks->unit);
	intent_page_encode(marks->buf, &id, index, marks->sequence, subject, map);
	return page_done(child, IO_WRITE, page_io(marks, child, IO_WRITE, index, copy, marks->buf));
}

/* The page on every writer. How many have it. */
static unsigned page_write_all(struct marks *marks, unsigned index, const struct uuid *subject,
			       const struct segmap *map) MAY_SUSPEND
{
	struct nexus *nx = marks->nx;
	unsigned copy = marks->copy[index], n = 0;

	if (nx->nchildren < 2)
		return 1; /* nobody to differ from */
	marks->sequence += marks->is_recorded;
	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		if (nx->child[slot] != NULL && is_writer(nx->child[slot]))
			n += page_write(marks, nx->child[slot], index, copy, subject, map);
	}
	marks->copy[index] = !copy;
	marks->is_single[index] = true;
	return n;
}

/* Both copies of a page: a newest one that rots later would leave an older one to be believed. */
static unsigned pair_write_all(struct marks *marks, unsigned index, const struct uuid *subject,
			       const struct segmap *map) MAY_SUSPEND
{
	unsigned n = page_write_all(marks, index, subject, map);

	if (n > 0)
		n = page_write_all(marks, index, subject, map);
	marks->is_single[index] = false;
	return n;
}

static unsigned npages(const struct segmap *map)
{
	return (unsigned)DIV_ROUND_UP(map->nsegments, (uint32_t)INTENT_BITS_BYTES * 8);
}

/* Does the part of @map that page @part holds have a bit? */
static bool has_bits(const struct segmap *map, unsigned part)
{
	uint32_t first = part * INTENT_BITS_BYTES * 8;

	return segmap_next(map, first) < MIN(map->nsegments, first + INTENT_BITS_BYTES * 8);
}

/* ---- marking -------------------------------------------------------------------------------- */

static void unmarked_start(struct nexus_channel *nc, void *arg)
{
	(void)arg;
	nexus_list_start(nc, &nc->unmarked);
}

static void unmarked_refuse(struct nexus_channel *nc, void *arg)
{
	struct msg *msg = msg_list_take_all(&nc->unmarked);

	(void)arg;
	while (msg != NULL) {
		struct msg *next = atomic_load_explicit(&msg->next, memory_order_relaxed);

		io_complete(container_of(msg, struct io, msg), IO_NO_SPACE);
		msg = next;
	}
}

/*
 * Some of those who were asked could not be marked. All channels let go of them: they may be the
 * source of the next life. Who waits wants his segments again then, of those that are left. The
 * last child, if it lacks space, is taken back (retire.c), perhaps it was by now, and would lack it
 * again: that is the host's to know.
 */
static void mark_failed(struct marks *marks) MAY_SUSPEND
{
	struct nexus *nx = marks->nx;
	bool lacks_space = false;

	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		const struct child *child = marks->full >> slot & 1 ? nx->child[slot] : NULL;

		lacks_space |= child != NULL && (child_is_healthy(child) ||
						 (child_is_pending(atomic_load(&child->word)) &&
						  nexus_nhealthy(nx) == 0));
	}
	if (lacks_space)
		nexus_each_channel(nx, unmarked_refuse, NULL);
	nexus_apply(nx);
}

/* Bits of @from that are in the words of page @part go to @to, and leave @from. */
static void move_bits(struct segmap *to, struct segmap *from, unsigned part)
{
	size_t first = (size_t)part * INTENT_BITS_BYTES / 8;

	for (size_t i = first; i < segmap_nwords(from) && i < first + INTENT_BITS_BYTES / 8; i++)
		atomic_fetch_or(&to->words[i], atomic_exchange(&from->words[i], 0));
}

/*
 * What is wanted becomes durable. The bits enter the map before the pages are written, so channels
 * must not see them: the map that is written is noted, durable follows, if all who were asked
 * have it.
 */
static void mark_wanted(struct marks *marks) MAY_SUSPEND
{
	bool is_any = false;

	segmap_zero(&marks->noted);
	for (unsigned part = 0; part < npages(&marks->wanted); part++) {
		uint8_t asked = writers(marks->nx);
		size_t first = (size_t)part * INTENT_BITS_BYTES / 8;
		size_t end = MIN(first + INTENT_BITS_BYTES / 8, segmap_nwords(&marks->wanted));
		unsigned n;

		if (!has_bits(&marks->wanted, part))
			continue;
		move_bits(&marks->noted, &marks->wanted, part);
		for (size_t i = first; i < end; i++)
			atomic_fetch_or(&marks->noted.words[i],
					atomic_load(&marks->durable.words[i]));
		marks->full = 0;
		n = page_write_all(marks, INTENT_PAGE_IN_FLIGHT + part, NULL, &marks->noted);
		if (asked == 0)
			continue; /* whoever waits is held anyway */
		if (asked & ~writers(marks->nx) ||
		    (marks->nx->nchildren > 1 && n < (unsigned)__builtin_popcount(asked))) {
			mark_failed(marks);
			continue;
		}
		for (size_t i = first; i < end; i++)
			atomic_store(&marks->durable.words[i], atomic_load(&marks->noted.words[i]));
		is_any = true;
	}
	if (!is_any)
		return;
	nexus_each_channel(marks->nx, unmarked_start, NULL);
	if (!marks->timer.is_armed && !marks->nx->is_ended)
		timer_arm(reactor_primary(), &marks->timer, nexus_settings.intent_idle_ns);
}

/* ---- clearing ------------------------------------------------------------------------------- */

struct tick {
	struct marks *marks;
	bool is_drained;
};

static void tick_note(struct nexus_channel *nc, void *arg)
{
	struct tick *tick = arg;

	segmap_or(&tick->marks->noted, &nc->hot);
	if (nc->busy[!nc->parity] != 0) {
		tick->is_drained =
			false; /* and what began meanwhile may outlive the next turn, too */
		return;
	}
	segmap_zero(&nc->hot);
	nc->parity = !nc->parity;
}

static void tick_look_again(struct nexus_channel *nc, void *arg)
{
	struct marks *marks = ((struct tick *)arg)->marks;

	for (size_t i = 0; i < segmap_nwords(&nc->hot); i++) {
		uint64_t kept = atomic_load(&nc->hot.words[i]) &
				atomic_load(&marks->candidates.words[i]);

		if (kept == 0)
			continue;
		/* never in neither: marks_fold_cache() may be looking */
		atomic_fetch_or(&marks->durable.words[i], kept);
		atomic_fetch_and(&marks->candidates.words[i], ~kept);
	}
}

static void pick_candidates(struct marks *marks)
{
	for (size_t i = 0; i < segmap_nwords(&marks->durable); i++) {
		uint64_t idle = atomic_load(&marks->durable.words[i]) &
				~atomic_load(&marks->noted.words[i]);

		atomic_store(&marks->candidates.words[i], idle);
		atomic_fetch_and(&marks->durable.words[i], ~idle);
	}
}

/* Somebody has fallen, and the record does not tell yet: what it lacks has to stay in flight, where
 * one who reads the record of now looks for it. */
static bool is_any_pending(const struct nexus *nx)
{
	for (unsigned i = 0; i < nx->nchildren; i++) {
		const struct child *child = nx->child[nx->order[i]];
		uint32_t word = atomic_load(&child->word);

		/* or retire.c has not come to it yet, and its missed map is not to be believed */
		if (child_is_pending(word) || (child_state_of(word) != CHILD_OPEN &&
					       child->desc != NULL && !child->is_leaving))
			return true;
	}
	return false;
}

bool marks_flush(struct child *child)
{
	struct io io = { .op = IO_FLUSH };

	if (child->desc != NULL && !child->desc->dev->has_write_cache)
		return true;
	return page_done(child, IO_FLUSH, child_io(child, &io));
}

static bool flush_writers(const struct nexus *nx) MAY_SUSPEND
{
	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		struct child *child = nx->child[slot];

		if (child != NULL && is_writer(child) && !marks_flush(child))
			return false;
	}
	return true;
}

/* The map of what @child misses; where that is not known, a page that is about nobody. */
static bool write_missed(struct marks *marks, const struct child *child) MAY_SUSPEND
{
	unsigned first = intent_page_missed(child->slot);

	if (!child->is_missed_known)
		return pair_write_all(marks, first, NULL, NULL) > 0;
	for (unsigned part = 0; part < npages(&child->missed); part++) {
		if (pair_write_all(marks, first + part, &child->uuid, &child->missed) == 0)
			return false;
	}
	return true;
}

/*
 * What lost children miss goes to the others' pages: the in-flight map may forget it then. A child
 * that is being rebuilt keeps its page as it was when it was attached: what it has missed since is
 * in flight, as it is a writer, and what was copied since is copied again after a crash.
 */
static bool fold_missed(struct marks *marks) MAY_SUSPEND
{
	struct nexus *nx = marks->nx;

	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		struct child *child = nx->child[slot];

		if (child != NULL && !is_writer(child) && !write_missed(marks, child))
			return false;
	}
	return true;
}

static void candidates_back(struct marks *marks)
{
	segmap_or(&marks->durable, &marks->candidates);
}

static void candidates_clear(struct marks *marks) MAY_SUSPEND
{
	for (unsigned part = 0; part < npages(&marks->candidates); part++) {
		if (has_bits(&marks->candidates, part))
			(void)page_write_all(marks, INTENT_PAGE_IN_FLIGHT + part, NULL,
					     &marks->durable);
	}
}

/* Marking writes one copy of a page, as somebody waits for it. */
static void second_copies(struct marks *marks) MAY_SUSPEND
{
	for (unsigned part = 0; part < npages(&marks->durable); part++) {
		unsigned index = INTENT_PAGE_IN_FLIGHT + part;

		if (marks->is_single[index])
			(void)page_write_all(marks, index, NULL, &marks->durable);
		marks->is_single[index] = false;
	}
}

static void clear_idle(struct marks *marks) MAY_SUSPEND
{
	struct tick tick = { .marks = marks, .is_drained = true };

	segmap_zero(&marks->noted);
	nexus_each_channel(marks->nx, tick_note, &tick);
	if (tick.is_drained) {
		uint8_t flushed = writers(marks->nx);

		pick_candidates(marks);
		nexus_each_channel(marks->nx, tick_look_again, &tick);
		/* who fell meanwhile may have lost what was written to it before */
		if (!flush_writers(marks->nx) || flushed & ~writers(marks->nx) ||
		    !fold_missed(marks) || is_any_pending(marks->nx))
			candidates_back(marks);
		else
			candidates_clear(marks);
		segmap_zero(&marks->candidates);
	}
	second_copies(marks);
	if (segmap_next(&marks->durable, 0) < marks->durable.nsegments && !marks->nx->is_ended)
		timer_arm(reactor_primary(), &marks->timer, nexus_settings.intent_idle_ns);
}

static void tick_due(struct timer *timer)
{
	struct marks *marks = container_of(timer, struct marks, timer);

	marks->is_tick_due = true;
	errand_ring(&marks->nx->mark);
}

void nexus_mark_run(struct nexus *nx)
{
	struct marks *marks = nx->marks;

	if (marks == NULL)
		return;
	task_mutex_lock(&marks->lock);
	if (marks->is_tick_due) {
		marks->is_tick_due = false;
		clear_idle(marks);
	}
	if (marks->is_fold_due) {
		marks->is_fold_due = false;
		(void)fold_missed(marks);
	}
	mark_wanted(marks);
	task_mutex_unlock(&marks->lock);
}

/* ---- children come -------------------------------------------------------------------------- */

/* Everything, both copies, the head first (intent.h, rule 5): what was there before is of no use to
 * anybody then. */
static bool child_write_all(struct marks *marks, struct child *child) MAY_SUSPEND
{
	bool is_ok = true;

	for (unsigned copy = 0; copy < 2 && is_ok; copy++) {
		is_ok = page_write(marks, child, INTENT_PAGE_HEAD, copy, NULL, NULL);
		for (unsigned part = 0; part < npages(&marks->durable) && is_ok; part++)
			is_ok = page_write(marks, child, INTENT_PAGE_IN_FLIGHT + part, copy, NULL,
					   &marks->durable);
	}
	if (is_ok)
		child->head_generation = marks->nx->generation;
	return is_ok;
}

/*
 * What lost children missed, to one that comes: it may have pages of this generation from an
 * earlier stay, and those have grown old. A page about nobody voids them.
 */
static bool child_write_missed(struct marks *marks, struct child *coming) MAY_SUSPEND
{
	struct nexus *nx = marks->nx;
	bool is_ok = true;

	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX && is_ok; slot++) {
		const struct child *child = nx->child[slot];
		unsigned index = intent_page_missed(slot);
		bool is_known = child != NULL && child != coming && !is_writer(child) &&
				child->is_missed_known;
		unsigned n = is_known ? npages(&marks->durable) : 1;

		for (unsigned i = 0; is_ok && i < 2 * n; i++)
			is_ok = page_write(marks, coming, index + i / 2, i % 2,
					   is_known ? &child->uuid : NULL,
					   is_known ? &child->missed : NULL);
	}
	return is_ok;
}

/*
 * Room for what others may miss, on a child that may run out of room: else a full one could not be
 * attached again, nor say what another misses. Zeroes are the page of nobody. If there is no room
 * even now, whoever needs it will find out.
 */
static void child_reserve(struct marks *marks, struct child *child) MAY_SUSPEND
{
	const struct nexus *nx = marks->nx;
	uint32_t n = 2 * npages(&marks->durable), nlb = marks->unit >> nx->dev.block_shift;
	size_t len = (size_t)n * marks->unit;
	void *buf = NULL;
	bool is_ok = true;

	if (child->desc != NULL && child->desc->dev->is_thin)
		buf = dma_alloc(len);
	child->has_room = true;
	if (buf == NULL)
		return;
	memset(buf, 0, len);
	for (unsigned slot = 0; slot < INTENT_SUBJECTS_MAX && is_ok; slot++) {
		struct io io = { .op = IO_WRITE,
				 .nlb = n * nlb,
				 .lba = nx->geometry.meta_start +
					2ull * intent_page_missed(slot) * nlb };

		io_set_buf(&io, buf, len);
		is_ok = child_io(child, &io) == IO_OK;
	}
	dma_free(buf, len);
}

void marks_lock(struct nexus *nx)
{
	if (nx->marks != NULL)
		task_mutex_lock(&nx->marks->lock);
}

void marks_unlock(struct nexus *nx)
{
	if (nx->marks != NULL)
		task_mutex_unlock(&nx->marks->lock);
}

bool marks_write_children(struct nexus *nx, struct child *coming)
{
	struct marks *marks = nx->marks;

	if (marks == NULL || (nx->nchildren < 2 && marks->sequence == 0))
		return true;
	marks->sequence += marks->is_recorded || marks->sequence == 0;
	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		struct child *child = nx->child[slot];

		/* the second child of all: the first has no pages yet */
		if (child != NULL && child != coming && is_writer(child) &&
		    (coming == NULL || nx->nchildren == 2) && child_write_all(marks, child) &&
		    !child->has_room)
			child_reserve(marks, child);
	}
	if (coming == NULL)
		return fold_missed(marks);
	if (!child_write_all(marks, coming))
		return false;
	child_reserve(marks, coming);
	return child_write_missed(marks, coming);
}

/* Both copies of the head, with the sequence as it is. */
static void head_write(struct marks *marks, struct child *child) MAY_SUSPEND
{
	for (unsigned copy = 0; copy < 2; copy++) {
		if (!page_write(marks, child, INTENT_PAGE_HEAD, copy, NULL, NULL))
			return;
	}
}

void marks_note_synced(struct child *child)
{
	/* the sequence stays: this child is no newer than the others */
	if (child->nx->marks != NULL)
		head_write(child->nx->marks, child);
}

/*
 * Who is not given may have one page more than any that is, if the last life died between the two.
 * Past that with two. Not before the record tells of this life: one that never came so far has
 * served nobody, and would make who was given to it newer than who serves next.
 */
void marks_note_recorded(struct nexus *nx)
{
	struct marks *marks = nx->marks;

	if (marks == NULL)
		return;
	task_mutex_lock(&marks->lock);
	marks->is_recorded = true;
	marks->sequence += marks->sequence > 0 ? 2 : 0; /* 0: nobody has pages */
	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX && marks->sequence > 0; slot++) {
		if (nx->child[slot] != NULL && is_writer(nx->child[slot]))
			head_write(marks, nx->child[slot]);
	}
	task_mutex_unlock(&marks->lock);
}

void marks_note_missed(struct child *child)
{
	if (child->nx->marks != NULL)
		(void)write_missed(child->nx->marks, child);
}

void marks_fold(struct nexus *nx)
{
	if (nx->marks == NULL)
		return;
	nx->marks->is_fold_due = true;
	errand_ring(&nx->mark);
}

void marks_fold_cache(struct child *child)
{
	const struct marks *marks = child->nx->marks;

	if (marks == NULL || child->missed.words == NULL)
		return;
	/* of a tick under way; in this order, as bits go from here to there */
	segmap_or(&child->missed, &marks->candidates);
	segmap_or(&child->missed, &marks->durable);
}

/* ---- life ----------------------------------------------------------------------------------- */

static void marks_free(struct marks *marks)
{
	segmap_done(&marks->durable);
	segmap_done(&marks->wanted);
	segmap_done(&marks->noted);
	segmap_done(&marks->candidates);
	if (marks->buf != NULL)
		dma_free(marks->buf, marks->unit);
	free(marks);
}

int marks_open(struct nexus *nx, struct err *err)
{
	struct marks *marks;
	uint8_t shift = segment_shift(nx->dev.nblocks, nx->dev.block_shift);
	uint32_t unit = MAX((uint32_t)INTENT_PAGE_SIZE, nx->dev.block_size);

	if ((uint64_t)2 * INTENT_PAGES * (unit >> nx->dev.block_shift) > nx->geometry.meta_nlb) {
		log_warn("nexus %s: blocks of %u bytes leave no room for write-intent records: "
			 "rebuilds after a crash are full",
			 nx->dev.name, nx->dev.block_size);
		return 0;
	}
	marks = calloc(1, sizeof(*marks));
	if (marks == NULL)
		return err_set(err, -ENOMEM, "no memory for write-intent records");
	marks->nx = nx;
	marks->unit = unit;
	marks->buf = dma_alloc(unit);
	marks->timer.fn = tick_due;
	task_mutex_init(&marks->lock);
	if (marks->buf == NULL || segmap_init(&marks->durable, nx->dev.nblocks, shift) < 0 ||
	    segmap_init(&marks->wanted, nx->dev.nblocks, shift) < 0 ||
	    segmap_init(&marks->noted, nx->dev.nblocks, shift) < 0 ||
	    segmap_init(&marks->candidates, nx->dev.nblocks, shift) < 0) {
		marks_free(marks);
		return err_set(err, -ENOMEM, "no memory for write-intent records");
	}
	nx->marks = marks;
	return 0;
}

bool marks_finish(struct nexus *nx)
{
	struct marks *marks = nx->marks;
	bool is_ok;

	marks_lock(nx);
	/* all of them: who fails is out, the rest must be alike also after a loss of power */
	for (unsigned i = 0; i < NEXUS_CHILDREN_MAX && !flush_writers(nx); i++)
		errand_wait(&nx->retire);
	is_ok = flush_writers(nx) && (marks == NULL || fold_missed(marks));
	marks_unlock(nx);
	errand_wait(&nx->retire);
	return is_ok && nexus_nhealthy(nx) > 0;
}

void marks_clear(struct nexus *nx)
{
	struct marks *marks = nx->marks;

	if (marks == NULL)
		return;
	task_mutex_lock(&marks->lock);
	segmap_zero(&marks->durable);
	for (unsigned part = 0; part < npages(&marks->durable); part++)
		(void)page_write_all(marks, INTENT_PAGE_IN_FLIGHT + part, NULL, &marks->durable);
	task_mutex_unlock(&marks->lock);
}

void marks_stop(struct nexus *nx)
{
	if (nx->marks != NULL)
		timer_disarm(reactor_primary(), &nx->marks->timer);
}

void marks_close(struct nexus *nx)
{
	marks_stop(nx);
	if (nx->marks != NULL)
		marks_free(take(nx->marks));
}

/* ---- another size --------------------------------------------------------------------------- */

/* The blocks of @from, in the segments of @to. */
static void convert(struct segmap *to, const struct segmap *from)
{
	for (uint32_t seg = segmap_next(from, 0); seg < from->nsegments;
	     seg = segmap_next(from, seg + 1))
		segmap_set_range(to, (uint64_t)seg << from->shift, 1ull << from->shift);
}

struct reshape {
	uint64_t nblocks;
	uint8_t shift;
	bool is_full;
	struct segmap hot[REACTORS_MAX];
};

static void hot_swap(struct nexus_channel *nc, void *arg)
{
	struct segmap *next = &((struct reshape *)arg)->hot[nc->ch.reactor->id];
	struct segmap old = nc->hot;

	nc->hot = *next;
	*next = old;
}

enum { MAPS_MAX = 4 + NEXUS_CHILDREN_MAX };

static unsigned maps_of(struct nexus *nx, struct segmap *maps[MAPS_MAX])
{
	struct marks *marks = nx->marks;
	unsigned n = 0;

	if (marks != NULL) {
		maps[n++] = &marks->durable;
		maps[n++] = &marks->wanted;
		maps[n++] = &marks->noted;
		maps[n++] = &marks->candidates;
	}
	for (unsigned i = 0; i < nx->nchildren; i++) {
		if (nx->child[nx->order[i]]->missed.words != NULL)
			maps[n++] = &nx->child[nx->order[i]]->missed;
	}
	return n;
}

/* All maps in another shape, or none: they are looked at side by side. The shape is larger, so that
 * no bit falls off its end. */
static int reshape_all(struct nexus *nx, uint64_t nblocks, uint8_t shift)
{
	struct segmap *maps[MAPS_MAX], next[MAPS_MAX] = {};
	unsigned n = maps_of(nx, maps);
	int result = 0;

	for (unsigned i = 0; i < n && result == 0; i++)
		result = segmap_init(&next[i], nblocks, shift);
	for (unsigned i = 0; i < n; i++) {
		struct segmap old = *maps[i];

		if (result == 0) {
			convert(&next[i], &old);
			*maps[i] = next[i];
			next[i] = old;
		}
		segmap_done(&next[i]);
	}
	return result;
}

int marks_resize(struct nexus *nx, uint64_t nblocks, struct err *err)
{
	struct reshape re = { .nblocks = nblocks,
			      .shift = segment_shift(nblocks, nx->dev.block_shift),
			      .is_full = nx->marks == NULL };
	int result = 0;

	marks_lock(nx);
	for (unsigned i = 0; i < reactor_count() && result == 0; i++) {
		result = segmap_init(&re.hot[i], nblocks, re.shift);
		if (result == 0 && re.is_full)
			segmap_fill(&re.hot[i]);
	}
	if (result == 0)
		result = reshape_all(nx, nblocks, re.shift);
	if (result == 0)
		nexus_each_channel(nx, hot_swap, &re);
	for (unsigned i = 0; i < reactor_count(); i++)
		segmap_done(&re.hot[i]);
	if (result == 0)
		(void)marks_write_children(nx, NULL);
	marks_unlock(nx);
	return result < 0 ? err_set(err, result, "no memory for write-intent records") : 0;
}

uint32_t marks_count(const struct nexus *nx)
{
	return nx->marks != NULL ? segmap_count(&nx->marks->durable) : 0;
}

uint64_t marks_nwrites(const struct nexus *nx)
{
	return nx->marks != NULL ? nx->marks->nwrites : 0;
}

/* Both copies of a page. A write that was torn leaves the other copy true; a copy that cannot be
 * read may be the newer one. */
static bool pair_read(struct marks *marks, struct child *child, unsigned index,
		      struct intent_page pair[2]) MAY_SUSPEND
{
	bool is_ok = true;

	for (unsigned copy = 0; copy < 2; copy++) {
		is_ok &= page_io(marks, child, IO_READ, index, copy, marks->buf) == IO_OK;
		memcpy(&pair[copy], marks->buf, INTENT_PAGE_SIZE);
	}
	return is_ok;
}

/* The map of pages @first.. is added to @map; @subject, if not NULL, is what they must be about. */
static bool map_read(struct nexus *nx, struct child *child, uint64_t generation, unsigned first,
		     const struct uuid *subject, struct segmap *map) MAY_SUSPEND
{
	struct marks *marks = nx->marks;
	struct intent_page *pair = dma_alloc((size_t)2 * INTENT_PAGE_SIZE);
	struct intent_id id = id_of(marks, child);
	bool is_ok = pair != NULL;

	id.generation = generation;
	if (is_ok)
		is_ok = pair_read(marks, child, INTENT_PAGE_HEAD, pair) &&
			intent_head_is_bound(pair, &id);
	for (unsigned part = 0; is_ok && part < npages(&marks->durable); part++) {
		int which = -1;

		if (pair_read(marks, child, first + part, pair))
			which = intent_pair_pick(pair, &id, first + part);
		is_ok = which >= 0 && (subject == NULL || memcmp(pair[which].subject, subject->b,
								 sizeof(subject->b)) == 0);
		if (is_ok)
			intent_page_or(&pair[which], map);
	}
	if (pair != NULL)
		dma_free(pair, (size_t)2 * INTENT_PAGE_SIZE);
	return is_ok;
}

bool marks_are_on(struct child *child, uint64_t generation)
{
	struct marks *marks = child->nx->marks;
	/* no lock: hosts do not wait for a child that is not there yet */
	struct intent_page *page = marks != NULL ? dma_alloc(marks->unit) : NULL;
	bool is_ours = false;

	if (page == NULL)
		return false;
	for (unsigned copy = 0; copy < 2 && !is_ours; copy++) {
		struct intent_id id = id_of(marks, child);

		is_ours = page_io(marks, child, IO_READ, INTENT_PAGE_HEAD, copy, page) == IO_OK &&
			  intent_page_is_valid(page, INTENT_PAGE_HEAD) &&
			  memcmp(page->nexus, id.nexus.b, sizeof(page->nexus)) == 0 &&
			  memcmp(page->replica, id.replica.b, sizeof(page->replica)) == 0 &&
			  (generation == 0 || le64_get(page->generation) == generation);
	}
	dma_free(page, marks->unit);
	return is_ours;
}

enum { LOOK_PAIRS = 8 }; /* that are read at once */

/* Pairs @first.. of @child, which are in @buf, are added to what was seen of it. */
static void look_at(struct marks *marks, const struct child *child, unsigned first, unsigned n,
		    const uint8_t *buf, struct marks_seen *seen)
{
	const struct intent_id id = id_of(marks, child);
	unsigned nparts = npages(&marks->durable);

	for (unsigned i = 0; i < 2 * n; i++) {
		const struct intent_page *page = (const void *)(buf + (size_t)i * marks->unit);
		unsigned index = first + i / 2;
		bool is_ours = intent_page_is_valid(page, index) &&
			       memcmp(page->nexus, id.nexus.b, sizeof(page->nexus)) == 0 &&
			       memcmp(page->replica, id.replica.b, sizeof(page->replica)) == 0;

		if (!is_ours) {
			seen->is_whole &= index > INTENT_PAGE_IN_FLIGHT + nparts - 1;
			continue;
		}
		if (le64_get(page->sequence) > seen->sequence)
			seen->sequence = le64_get(page->sequence);
		if (index != INTENT_PAGE_HEAD)
			continue;
		seen->is_incomplete |= page->is_incomplete != 0;
		seen->label = page->label;
		if (i == 0)
			seen->generation = le64_get(page->generation);
		seen->is_whole &= seen->generation == le64_get(page->generation);
	}
}

bool marks_look(struct child *child, struct marks_seen *ret)
{
	struct marks *marks = child->nx->marks;
	size_t len = marks != NULL ? (size_t)2 * LOOK_PAIRS * marks->unit : 0;
	uint8_t *buf = marks != NULL ? dma_alloc(len) : NULL;
	bool is_ok = marks == NULL || buf != NULL;

	*ret = (struct marks_seen){ .is_whole = marks != NULL };
	for (unsigned first = 0; buf != NULL && is_ok && first < INTENT_PAGES;
	     first += LOOK_PAIRS) {
		unsigned n = MIN((unsigned)LOOK_PAIRS, INTENT_PAGES - first);
		uint32_t nlb = marks->unit >> child->nx->dev.block_shift;
		struct io io = { .op = IO_READ,
				 .nlb = 2 * n * nlb,
				 .lba = child->nx->geometry.meta_start + 2ull * first * nlb };

		io_set_buf(&io, buf, (size_t)2 * n * marks->unit);
		is_ok = child_io(child, &io) == IO_OK;
		if (is_ok)
			look_at(marks, child, first, n, buf, ret);
	}
	if (buf != NULL)
		dma_free(buf, len);
	if (is_ok && marks != NULL) /* the next life goes on from there */
		marks->sequence = MAX(marks->sequence, ret->sequence);
	return is_ok;
}

bool marks_read_in_flight(struct nexus *nx, struct child *source, uint64_t generation,
			  struct segmap *map)
{
	return nx->marks != NULL &&
	       map_read(nx, source, generation, INTENT_PAGE_IN_FLIGHT, NULL, map);
}

bool marks_read_missed(struct nexus *nx, struct child *source, uint64_t generation,
		       const struct uuid *subject, struct segmap *map)
{
	for (unsigned slot = 0; nx->marks != NULL && slot < INTENT_SUBJECTS_MAX; slot++) {
		if (map_read(nx, source, generation, intent_page_missed(slot), subject, map))
			return true;
		segmap_zero(map); /* of pages that were about somebody else in part */
	}
	return false;
}
