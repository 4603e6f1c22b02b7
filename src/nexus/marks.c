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
 * What channels write to is in `written` from before the first write until 4: a child with a cache
 * that is lost may lack that. It is less than what is marked.
 *
 * How a page is written is marks_page.c's, what children that come or go need marks_child.c's.
 *
 * Who writes to many segments has more marked than that (want()); what he does not come to is idle.
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
 *   2. marks->lock is held while pages are written or the set of writers changes (attach).
 *
 * Thread: marks_heat() on the channel's reactor; the rest in tasks on the primary.
 */
#include "base/log.h"
#include "nexus/marks_internal.h"
#include "reactor/mem.h"

enum {
	REGION_MIN = 4 << 20, /* bytes */
	REGION_MAX = 64 << 20,
	REGIONS = 1024, /* that a volume has, where these two allow it */
};

/* ---- the data path's ------------------------------------------------------------------------ */

/* Segments, a power of two. */
static uint64_t region_segments(const struct nexus_channel *nc)
{
	uint8_t shift = nc->nx->dev.block_shift + nc->hot.shift;
	uint64_t n = MAX((uint64_t)REGION_MIN >> shift, 1ul);

	while (n * REGIONS < nc->hot.nsegments && n < (uint64_t)REGION_MAX >> shift)
		n *= 2;
	return n;
}

/*
 * Each mark is a durable write that somebody waits for. Who wants many segments between two ticks
 * has all of the region marked around each: a stream then has one mark in 4 MiB or more, and writes
 * all over a volume have soon marked it. What is copied after a crash is so much more.
 */
static void want(struct nexus_channel *nc, uint64_t seg)
{
	struct segmap *wanted = &nc->nx->marks->wanted;
	uint64_t n = 1, end;

	if (segmap_test(wanted, (uint32_t)seg))
		return;
	if (nc->nwanted++ >= nexus_settings.intent_fine)
		n = region_segments(nc);
	seg -= seg % n;
	end = MIN(seg + n, wanted->nsegments);
	while (seg < end)
		segmap_set(wanted, (uint32_t)seg++);
}

bool marks_heat(struct nexus_channel *nc, const struct io *io)
{
	struct marks *marks = nc->nx->marks;
	uint64_t last = (io->lba + io->nlb - 1) >> nc->hot.shift;
	bool is_wanting = false;

	for (uint64_t seg = io->lba >> nc->hot.shift; seg <= last; seg++) {
		if (marks == NULL) {
			segmap_set(&nc->hot, (uint32_t)seg);
		} else if (segmap_test(&marks->durable, (uint32_t)seg)) {
			segmap_set(&marks->written, (uint32_t)seg);
			segmap_set(&nc->hot, (uint32_t)seg);
		} else {
			want(nc, seg);
			is_wanting = true;
		}
	}
	if (is_wanting)
		errand_ring(&nc->nx->mark);
	return !is_wanting;
}

/* ---- marking -------------------------------------------------------------------------------- */

/* Slots of those that writes go to. */
static uint8_t writers(const struct nexus *nx)
{
	uint8_t slots = 0;

	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX; slot++)
		slots |= (uint8_t)((nx->child[slot] != NULL && is_writer(nx->child[slot])) << slot);
	return slots;
}

/* Does the part of @map that page @part holds have a bit? */
static bool has_bits(const struct segmap *map, unsigned part)
{
	uint32_t first = part * INTENT_BITS_BYTES * 8;

	return segmap_next(map, first) < MIN(map->nsegments, first + INTENT_BITS_BYTES * 8);
}

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
		n = marks_page_write_all(marks, INTENT_PAGE_IN_FLIGHT + part, NULL, &marks->noted);
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
	nc->nwanted = 0;
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

static bool flush_writers(const struct nexus *nx) MAY_SUSPEND
{
	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		struct child *child = nx->child[slot];

		if (child != NULL && is_writer(child) && !marks_flush(child))
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
	for (size_t i = 0; i < segmap_nwords(&marks->candidates); i++)
		atomic_fetch_and(&marks->written.words[i],
				 ~atomic_load(&marks->candidates.words[i]));
	for (unsigned part = 0; part < npages(&marks->candidates); part++) {
		if (has_bits(&marks->candidates, part))
			(void)marks_page_write_all(marks, INTENT_PAGE_IN_FLIGHT + part, NULL,
						   &marks->durable);
	}
}

/* Marking writes one copy of a page, as somebody waits for it. */
static void second_copies(struct marks *marks) MAY_SUSPEND
{
	for (unsigned part = 0; part < npages(&marks->durable); part++) {
		unsigned index = INTENT_PAGE_IN_FLIGHT + part;

		if (marks->is_single[index])
			(void)marks_page_write_all(marks, index, NULL, &marks->durable);
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
		    !marks_fold_missed(marks) || is_any_pending(marks->nx))
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
		(void)marks_fold_missed(marks);
	}
	mark_wanted(marks);
	task_mutex_unlock(&marks->lock);
}

/* ---- life ----------------------------------------------------------------------------------- */

static void marks_free(struct marks *marks)
{
	segmap_done(&marks->durable);
	segmap_done(&marks->wanted);
	segmap_done(&marks->written);
	segmap_done(&marks->noted);
	segmap_done(&marks->candidates);
	if (marks->buf != NULL)
		dma_free(marks->buf, marks->unit);
	free(marks);
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
	    segmap_init(&marks->written, nx->dev.nblocks, shift) < 0 ||
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
	is_ok = flush_writers(nx) && (marks == NULL || marks_fold_missed(marks));
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
		(void)marks_page_write_all(marks, INTENT_PAGE_IN_FLIGHT + part, NULL,
					   &marks->durable);
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

uint32_t marks_count(const struct nexus *nx)
{
	return nx->marks != NULL ? segmap_count(&nx->marks->durable) : 0;
}

uint64_t marks_nwrites(const struct nexus *nx)
{
	return nx->marks != NULL ? nx->marks->nwrites : 0;
}
