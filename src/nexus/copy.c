/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy.c - the half of a copy that waits: takes ranges, locks them, keeps the copy slow enough.
 *
 *   lane task, COPY_LANES of them:
 *     wait (paused, rate, governor) -> take the next range -> lock -> hand it to the reactor, which
 *     keeps a window of chunks in flight (copy_move.c) -> unlock -> again, until there is none
 *   the last lane to leave tells whoever waits, or calls ended()
 *
 * A range lock is a task's; a window of chunks is not. So a range is large (1 to 4 MiB), is locked
 * once, and its chunks are copied at full depth; with two ranges in flight one is copied while the
 * other is being locked. Each lane holds one lock and waits for none while it does: a host's
 * compare-and-write may queue up behind one range and before the next, and would wait for ever.
 *
 * How long a range is locked is what a host feels. A range is made smaller when the last one took
 * longer than HOLD_NS, larger when it took less than half of that. Waiting for the rate or the
 * governor (pace.h) is done between ranges, with nothing locked.
 *
 * Position: what lies before every range in flight and before the first that was not taken is on
 * the destination. After a flush it is so for good.
 *
 * Rejected: a lock per chunk (a task and a drain for 64 KiB); one task for both ranges (holds a
 * lock while it waits for the next, see above).
 *
 * Thread: tasks on the primary.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/units.h"
#include "nexus/copy_internal.h"
#include "reactor/mem.h"

enum {
	HOLD_NS = 5000000, /* how long a range should be locked at most */
};

struct copy_waiter {
	struct list link;
	struct task_event event;
};

/* ---- waking --------------------------------------------------------------------------------- */

static void lane_wake(struct copy_lane *lane)
{
	struct task_event *wake = take(lane->wake);

	if (wake != NULL)
		task_event_fire(wake);
}

static void lane_due(struct timer *timer)
{
	lane_wake(container_of(timer, struct copy_lane, timer));
}

static void copy_poke(struct copy *copy)
{
	for (unsigned i = 0; i < COPY_LANES; i++)
		lane_wake(&copy->lane[i]);
}

/* Until somebody pokes, or @due_ns; 0: only the former. */
static void lane_sleep(struct copy_lane *lane, uint64_t due_ns) MAY_SUSPEND
{
	struct reactor *r = reactor_primary();
	struct task_event event = {};

	lane->wake = &event;
	if (due_ns != 0)
		timer_arm(r, &lane->timer, due_ns > r->now_ns ? due_ns - r->now_ns : 0);
	task_event_wait(&event);
	timer_disarm(r, &lane->timer);
}

static void tell_waiters(struct copy *copy)
{
	struct copy_waiter *waiter;

	while ((waiter = list_first_entry(&copy->waiters, struct copy_waiter, link)) != NULL) {
		list_del(&waiter->link);
		task_event_fire(&waiter->event);
	}
}

static void wait_for_change(struct copy *copy) MAY_SUSPEND
{
	struct copy_waiter waiter = {};

	list_add_tail(&copy->waiters, &waiter.link);
	task_event_wait(&waiter.event);
}

static bool is_idle(const struct copy *copy)
{
	for (unsigned i = 0; i < COPY_LANES; i++) {
		if (copy->lane[i].is_active)
			return false;
	}
	return true;
}

/* ---- limits --------------------------------------------------------------------------------- */

static uint64_t moved_bytes(const struct copy *copy)
{
	return atomic_load_explicit(&copy->transferred, memory_order_relaxed) << copy->block_shift;
}

static void charge(struct copy *copy)
{
	uint64_t moved = moved_bytes(copy);

	pace_charge(&copy->pace, moved - copy->charged);
	copy->charged = moved;
}

/* A range was locked for so long. */
static void adapt(struct copy *copy, struct copy_lane *lane, uint64_t held_ns)
{
	uint64_t min = MAX((uint64_t)COPY_RANGE_MIN >> copy->block_shift, 1u);
	uint64_t max = MAX((uint64_t)COPY_RANGE_MAX >> copy->block_shift, 1u);

	if (held_ns > HOLD_NS)
		copy->range_nlb = MAX(copy->range_nlb / 2, min);
	else if (held_ns < HOLD_NS / 2)
		copy->range_nlb = MIN(copy->range_nlb * 2, max);
	lane->due_ns = pace_next_ns(&copy->pace, held_ns);
}

/* ---- ranges --------------------------------------------------------------------------------- */

/* From the next dirty segment on; clean ones at the end are left off. False: there is none. */
static bool range_take(struct copy *copy, struct copy_lane *lane)
{
	const struct segmap *map = copy->opts.map;
	uint64_t end, seg;

	if (map != NULL) {
		seg = copy->next >> map->shift;
		if (seg >= map->nsegments || !segmap_test(map, (uint32_t)seg)) {
			seg = segmap_next(map, (uint32_t)MIN(seg, (uint64_t)map->nsegments));
			copy->next = seg >= map->nsegments ? copy->opts.nblocks
							   : MAX(copy->next, seg << map->shift);
		}
	}
	if (copy->next >= copy->opts.nblocks)
		return false;
	end = MIN(copy->next + copy->range_nlb, copy->opts.nblocks);
	if (map != NULL) {
		for (seg = (end - 1) >> map->shift; !segmap_test(map, (uint32_t)seg); seg--)
			;
		end = MIN(end, (seg + 1) << map->shift);
	}
	lane->lba = copy->next;
	lane->end = end;
	copy->next = end;
	return true;
}

static bool is_ending(const struct copy *copy)
{
	return copy->is_stopping || atomic_load(&copy->is_failed);
}

/* Wait until a range may be taken, and take it. False: the lane is through. */
static bool lane_next(struct copy_lane *lane) MAY_SUSPEND
{
	struct copy *copy = lane->copy;

	for (;;) {
		uint64_t due_ns = MAX(copy->pace.due_ns, lane->due_ns);

		if (is_ending(copy))
			return false;
		if (copy->is_paused) {
			lane_sleep(lane, 0);
			continue;
		}
		if (due_ns > reactor_primary()->now_ns) {
			lane_sleep(lane, due_ns);
			continue;
		}
		lane->is_active = range_take(copy, lane);
		return lane->is_active;
	}
}

static void lane_back(struct msg *msg)
{
	task_event_fire(&container_of(msg, struct copy_lane, came_back)->back);
}

static void lane_copy(struct copy_lane *lane) MAY_SUSPEND
{
	lane->back = (struct task_event){};
	lane->go.fn = copy_lane_go;
	lane->came_back.fn = lane_back;
	reactor_post(lane->copy->reactor, &lane->go);
	task_event_wait(&lane->back);
}

static void lane_range(struct copy_lane *lane) MAY_SUSPEND
{
	struct copy *copy = lane->copy;
	struct device *dev = copy->opts.locked;
	uint64_t start_ns;

	if (dev != NULL &&
	    range_lock(dev, &lane->lock, lane->lba, lane->end - lane->lba, NULL) < 0) {
		/* it cannot have shrunk: a bug, or a wrong option; never copied without the lock */
		copy_abort(copy, "its range cannot be locked");
		lane->end = lane->lba;
		return;
	}
	copy->nranges += dev != NULL;
	start_ns = reactor_clock(reactor_primary());
	if (!atomic_load(&copy->is_failed))
		lane_copy(lane);
	adapt(copy, lane, reactor_clock(reactor_primary()) - start_ns);
	if (dev != NULL)
		range_unlock(dev, &lane->lock);
	charge(copy);
}

static void copy_over(struct copy *copy) MAY_SUSPEND
{
	copy->stopped_ns = reactor_primary()->now_ns;
	if (atomic_load(&copy->is_failed))
		copy->end = COPY_FAILED;
	else
		copy->end = copy->next >= copy->opts.nblocks ? COPY_COMPLETE : COPY_STOPPED;
	tell_waiters(copy);
	if (copy->opts.ended != NULL)
		copy->opts.ended(copy);
}

static void lane_task(void *arg)
{
	struct copy_lane *lane = arg;
	struct copy *copy = lane->copy;

	while (lane_next(lane)) {
		lane_range(lane);
		if (!atomic_load(&copy->is_failed))
			lane->is_active = false; /* a failed range keeps the position where it is */
		if (is_idle(copy))
			tell_waiters(copy);
	}
	if (--copy->nlanes == 0)
		copy_over(copy);
}

/* ---- life ----------------------------------------------------------------------------------- */

static void source_gone(struct msg *msg)
{
	struct source_state *s = container_of(msg, struct source_state, gone);
	struct copy *copy = s->copy;

	s->is_gone = true;
	if (copy->opts.source_gone != NULL)
		copy->opts.source_gone(copy->opts.source[s - copy->source].owner);
}

static int check_side(const struct copy_opts *opts, const struct desc *desc, uint64_t start,
		      struct err *err)
{
	const struct device *dev = desc->dev;

	if (dev->block_size != opts->dst->dev->block_size)
		return err_set(err, -EINVAL,
			       "%s has blocks of %u bytes, %s of %u: they must be equal", dev->name,
			       dev->block_size, opts->dst->dev->name, opts->dst->dev->block_size);
	if (!range_fits(start, opts->nblocks, dev->nblocks))
		return err_set(err, -EINVAL, "%s has %lu blocks, %lu from block %lu on do not fit",
			       dev->name, dev->nblocks, opts->nblocks, start);
	return 0;
}

static int check_opts(const struct copy_opts *opts, struct err *err)
{
	int result;

	if (opts->nsources == 0 || opts->nsources > COPY_SOURCES_MAX)
		return err_set(err, -EINVAL, "%u sources of a copy, 1 to %d are possible",
			       opts->nsources, COPY_SOURCES_MAX);
	if (opts->window > COPY_WINDOW_MAX || opts->from > opts->nblocks)
		return err_set(err, -EINVAL, "a copy of %u chunks from block %lu of %lu",
			       opts->window, opts->from, opts->nblocks);
	result = check_side(opts, opts->dst, opts->dst_start, err);
	for (unsigned i = 0; i < opts->nsources && result == 0; i++)
		result = check_side(opts, opts->source[i].desc, opts->source[i].start, err);
	return result;
}

static void defaults(struct copy *copy)
{
	struct copy_opts *opts = &copy->opts;
	const struct device *dst = opts->dst->dev;

	copy->block_shift = dst->block_shift;
	if (opts->window == 0)
		opts->window = COPY_WINDOW;
	if (opts->chunk == 0)
		opts->chunk = COPY_CHUNK;
	copy->chunk_nlb = MAX(opts->chunk >> copy->block_shift, 1u);
	if (dst->max_io_nlb != 0)
		copy->chunk_nlb = MIN(copy->chunk_nlb, dst->max_io_nlb);
	copy->range_nlb = MAX((uint64_t)COPY_RANGE_MAX >> copy->block_shift, 1u);
	copy->can_unmap = dst->unmap_reads_zero && dst->ops & IO_BIT(IO_UNMAP);
	copy->dst_has_seek = dst->ops & IO_BIT(IO_SEEK_DATA);
	copy->is_dst_thin = dst->is_thin;
	copy->next = opts->from;
}

static int open_handles(struct copy *copy, struct err *err) MAY_SUSPEND
{
	int result = handle_open(copy->opts.dst, copy->reactor, &copy->dst, err);

	for (unsigned i = 0; i < copy->opts.nsources && result == 0; i++) {
		struct source_state *s = &copy->source[i];

		s->copy = copy;
		s->drop.fn = copy_source_drop_here;
		s->gone.fn = source_gone;
		s->hangs.fn = copy_late_told;
		s->has_seek = copy->opts.source[i].desc->dev->ops & IO_BIT(IO_SEEK_DATA);
		result = handle_open(copy->opts.source[i].desc, copy->reactor, &s->h, err);
	}
	return result;
}

static int make_window(struct copy *copy, struct err *err)
{
	size_t chunk = (size_t)copy->chunk_nlb << copy->block_shift;
	size_t each = copy->opts.verify == COPY_VERIFY_READ ? 2 * chunk : chunk;

	copy->bufs_len = each * copy->opts.window;
	copy->bufs = dma_alloc(copy->bufs_len);
	copy->slots = calloc(copy->opts.window, sizeof(*copy->slots));
	if (copy->bufs == NULL || copy->slots == NULL)
		return err_set(err, -ENOMEM, "no memory to copy onto %s",
			       copy->opts.dst->dev->name);
	for (unsigned i = copy->opts.window; i-- > 0;) {
		struct copy_slot *slot = &copy->slots[i];

		slot->copy = copy;
		slot->io.done = copy_slot_done;
		slot->buf = copy->bufs + each * i;
		slot->back = each > chunk ? slot->buf + chunk : NULL;
		slot->next = copy->free;
		copy->free = slot;
	}
	return 0;
}

static uint64_t count_dirty(const struct copy *copy)
{
	const struct segmap *map = copy->opts.map;
	uint64_t n = 0;

	if (map == NULL)
		return copy->opts.nblocks - copy->opts.from;
	for (uint32_t seg = segmap_next(map, 0); seg < map->nsegments;
	     seg = segmap_next(map, seg + 1)) {
		uint64_t first = MAX((uint64_t)seg << map->shift, copy->opts.from);
		uint64_t end = MIN(((uint64_t)seg + 1) << map->shift, copy->opts.nblocks);

		n += end > first ? end - first : 0;
	}
	return n;
}

static void copy_freep(struct copy **copy)
{
	copy_free(*copy);
}

int copy_open(const struct copy_opts *opts, struct copy **ret, struct err *err)
{
	struct copy *copy CLEANUP(copy_freep) = NULL;
	int result = check_opts(opts, err);

	if (result < 0)
		return result;
	copy = calloc(1, sizeof(*copy));
	if (copy == NULL)
		return err_set(err, -ENOMEM, "no memory to copy onto %s", opts->dst->dev->name);
	copy->opts = *opts;
	copy->reactor = opts->reactor != NULL ? opts->reactor : reactor_primary();
	list_init(&copy->waiters);
	defaults(copy);
	copy->feed.fn = copy_feed_due;
	copy->again_timer.fn = copy_again_due;
	copy->late_timer.fn = copy_late_due;
	for (unsigned i = 0; i < COPY_LANES; i++) {
		copy->lane[i].copy = copy;
		copy->lane[i].is_over = true;
		copy->lane[i].timer.fn = lane_due;
		copy->lane[i].seek_io.done = copy_seek_done;
	}
	result = pace_init(&copy->pace, opts->locked, opts->rate, opts->latency_ns, err);
	if (result == 0)
		result = make_window(copy, err);
	if (result == 0)
		result = open_handles(copy, err);
	if (result < 0)
		return result;
	copy->ndirty = count_dirty(copy);
	*ret = take(copy);
	return 0;
}

int copy_start(struct copy *copy, struct err *err)
{
	copy->started_ns = reactor_primary()->now_ns;
	for (unsigned i = 0; i < COPY_LANES; i++) {
		if (task_spawn("copy", lane_task, &copy->lane[i]) == 0)
			copy->nlanes++;
	}
	/* one lane is enough */
	return copy->nlanes > 0 ? 0 : err_set(err, -ENOMEM, "no memory for a task to copy");
}

struct at_rest {
	const struct copy *copy;
	bool is_fed; /* no feeding is due */
};

static void look_at_rest(void *arg)
{
	struct at_rest *rest = arg;

	rest->is_fed = !rest->copy->is_feed_queued;
}

/* No message of ours is on its way. */
static bool is_at_rest(struct copy *copy) MAY_SUSPEND
{
	struct at_rest rest = { .copy = copy };

	task_call(copy->reactor, look_at_rest, &rest);
	for (unsigned i = 0; i < copy->opts.nsources; i++) {
		if (copy->source[i].is_drop_sent && !copy->source[i].is_gone)
			return false;
	}
	return rest.is_fed;
}

void copy_free(struct copy *copy)
{
	if (copy == NULL)
		return;
	assert(copy->nlanes == 0);
	copy_late_wait(copy);
	while (!is_at_rest(copy))
		task_yield();
	if (copy->bufs != NULL)
		dma_free(copy->bufs, copy->bufs_len);
	free(copy->slots);
	pace_done(&copy->pace);
	free(copy);
}

/* ---- from outside --------------------------------------------------------------------------- */

void copy_pause(struct copy *copy)
{
	if (copy->is_paused)
		return;
	copy->is_paused = true;
	copy->paused_ns = reactor_primary()->now_ns;
}

void copy_resume(struct copy *copy)
{
	if (!copy->is_paused)
		return;
	copy->is_paused = false;
	copy->pauses_ns += reactor_primary()->now_ns - copy->paused_ns;
	copy_poke(copy);
}

void copy_stop(struct copy *copy)
{
	copy->is_stopping = true;
	copy_resume(copy);
	copy_poke(copy);
}

void copy_abort(struct copy *copy, const char *why)
{
	if (copy->why == NULL)
		copy->why = why;
	atomic_store(&copy->is_failed, true);
	copy_stop(copy);
}

void copy_drop_source(struct copy *copy, unsigned index)
{
	struct source_state *s = &copy->source[index];

	if (s->is_drop_sent)
		return;
	s->is_drop_sent = true;
	reactor_post(copy->reactor, &s->drop);
}

void copy_wait_idle(struct copy *copy)
{
	while (copy->end == COPY_RUNNING && copy->nlanes > 0 && !is_idle(copy))
		wait_for_change(copy);
}

enum copy_end copy_wait(struct copy *copy)
{
	while (copy->end == COPY_RUNNING && copy->nlanes > 0)
		wait_for_change(copy);
	return copy->end;
}

void *copy_owner(const struct copy *copy)
{
	return copy->opts.owner;
}

enum copy_end copy_result(const struct copy *copy)
{
	return copy->end;
}

/* Of a device that has not answered in time. */
static int late_error(const struct copy *copy, struct err *err)
{
	const struct copy_source *source = &copy->opts.source[copy->failed_source];
	bool is_dst = copy->is_dst_failed;
	const struct device *dev = is_dst ? copy->opts.dst->dev : source->desc->dev;
	char text[UNITS_TEXT_MAX];

	return err_set(err, -ETIMEDOUT, "%s: %s at block %lu was not answered within %s", dev->name,
		       io_op_name((enum io_op)copy->failed_op),
		       copy->failed_lba + (is_dst ? copy->opts.dst_start : source->start),
		       duration_format(copy->opts.timeout_ns, text));
}

int copy_error(const struct copy *copy, struct err *err)
{
	const struct desc *side = copy->opts.dst;
	int result = io_status_to_errno(copy->status);

	if (copy->is_failed_late)
		return late_error(copy, err);
	if (copy->status == IO_OK)
		return err_set(err, -ECANCELED, "the copy onto %s was ended: %s", side->dev->name,
			       copy->why != NULL ? copy->why : "no reason given");
	if (copy->status == IO_MISCOMPARE)
		return err_set(err, -EIO, "%s does not give back what was written, at block %lu",
			       side->dev->name, copy->failed_lba + copy->opts.dst_start);
	if (!copy->is_dst_failed && copy->failed_source >= copy->opts.nsources)
		return err_set(err, -ENODEV, "no source is left to copy onto %s, at block %lu",
			       side->dev->name, copy->failed_lba);
	if (!copy->is_dst_failed)
		return err_set(err, result < 0 ? result : -EIO,
			       "no source could be read at block %lu, the last said: %s",
			       copy->failed_lba, io_status_name(copy->status));
	return err_set(err, result < 0 ? result : -EIO, "%s: %s at block %lu failed: %s",
		       side->dev->name, io_op_name((enum io_op)copy->failed_op),
		       copy->failed_lba + copy->opts.dst_start, io_status_name(copy->status));
}

uint64_t copy_position(const struct copy *copy)
{
	uint64_t position = copy->next;

	for (unsigned i = 0; i < COPY_LANES; i++) {
		if (copy->lane[i].is_active)
			position = MIN(position, copy->lane[i].lba);
	}
	return position;
}

/* Blocks that are to be copied, and are behind us. */
static uint64_t done_blocks(const struct copy *copy)
{
	return atomic_load(&copy->transferred) + atomic_load(&copy->cleared) +
	       atomic_load(&copy->same);
}

void copy_stats(const struct copy *copy, struct copy_stats *ret)
{
	uint64_t now_ns = reactor_primary()->now_ns, done = done_blocks(copy);
	uint64_t until = copy->end != COPY_RUNNING ? copy->stopped_ns
			 : copy->is_paused         ? copy->paused_ns
						   : now_ns;
	uint64_t left = copy->ndirty > done ? copy->ndirty - done : 0;

	*ret = (struct copy_stats){
		.blocks_total = copy->opts.nblocks - copy->opts.from,
		.blocks_recovered = copy_position(copy) - copy->opts.from,
		.blocks_dirty = copy->ndirty,
		.blocks_transferred = atomic_load(&copy->transferred),
		.blocks_cleared = atomic_load(&copy->cleared),
		.blocks_same = atomic_load(&copy->same),
		.tasks_total = copy->opts.window,
		.tasks_active = atomic_load(&copy->active),
		.source = copy->last_source,
		.speed = copy->pace.speed,
		.run_ns = copy->started_ns != 0 ? until - copy->started_ns - copy->pauses_ns : 0,
		.ranges_locked = copy->nranges,
		.remaining_ns = UINT64_MAX,
	};
	if (ret->run_ns > 0)
		ret->bytes_per_s = (uint64_t)((double)(done << copy->block_shift) * 1e9 /
					      (double)ret->run_ns);
	if (left == 0)
		ret->remaining_ns = 0;
	else if (done > 0)
		ret->remaining_ns = (uint64_t)((double)ret->run_ns * ((double)left / (double)done));
}

void copy_set_limits(struct copy *copy, uint64_t rate, uint64_t latency_ns)
{
	charge(copy);
	pace_set(&copy->pace, rate, latency_ns);
	copy_poke(copy);
}
