/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quiesce.c - holding a device's I/O still: all of it, or a range.
 *
 * One primitive serves every structural change (resize, another layer below, another leg): close
 * the gate on every channel, wait until what was in flight has come back, change, open the gate,
 * let the held requests go down the new way. Nobody above notices more than a delay.
 *
 *   device_quiesce:  for each channel, on its reactor: gate |= QUIESCED; in flight == 0 ? -> next
 *   device_resume:   for each channel, on its reactor: gate &= ~QUIESCED; held requests again
 *
 * A range lock is the same for part of the blocks. The lock is first entered on every channel, so
 * that overlapping newcomers are held; then each channel's epoch is flipped and the old epoch's
 * counter awaited: what remains in flight afterwards came later and was checked against the lock.
 * That waits for a little more than the overlapping requests, but costs the data path nothing: no
 * list of requests in flight exists.
 *
 * Invariants:
 *   1. dev->drain is held over a drain, so there is one per channel at a time. dev->control is
 *      held only while channels are walked, so a device whose driver is stuck can still be closed
 *      or removed while somebody waits for its I/O. A channel that is waited for has I/O in
 *      flight, so it does not go; one that comes meanwhile is born with its gate closed.
 *   2. Outside a drain only the current epoch's counter can be above zero, so flipping is safe.
 *   3. A channel's locked[] equals the device's held locks outside of these functions.
 *   4. Locks are granted in order of arrival: one waits for every earlier one it overlaps.
 *
 * A quiesced device's locker, or a quiesce of a device whose lock holder waits for I/O on it, would
 * wait for itself; callers quiesce first or lock first, never across tasks that wait for each
 * other.
 *
 * Thread: tasks on the primary reactor; the *_here functions on the channel's.
 */
#include <errno.h>

#include "device/channel.h"
#include "device/driver.h"

/* ---- every channel ------------------------------------------------------------------------ */

struct channel_call {
	struct channel *ch;
	void (*fn)(struct channel *ch, void *arg);
	void *arg;
};

static void channel_call_here(void *arg)
{
	struct channel_call *call = arg;

	call->fn(call->ch, call->arg);
}

void device_each_channel(struct device *dev, void (*fn)(struct channel *ch, void *arg), void *arg)
{
	for (unsigned i = 0; i < reactor_count(); i++) {
		struct channel_call call = { .ch = dev->channel[i], .fn = fn, .arg = arg };

		if (call.ch != NULL)
			task_call(call.ch->reactor, channel_call_here, &call);
	}
}

static void gate_here(struct channel *ch, void *arg)
{
	ch->gate |= *(uint32_t *)arg;
	channel_release_held(ch); /* a removed device's requests fail now */
}

static void ungate_here(struct channel *ch, void *arg)
{
	ch->gate &= ~*(uint32_t *)arg;
	channel_release_held(ch);
}

void device_gate_all(struct device *dev, uint32_t gate)
{
	task_mutex_lock(&dev->control);
	device_each_channel(dev, gate_here, &gate);
	task_mutex_unlock(&dev->control);
}

void device_ungate_all(struct device *dev, uint32_t gate)
{
	task_mutex_lock(&dev->control);
	device_each_channel(dev, ungate_here, &gate);
	task_mutex_unlock(&dev->control);
}

void device_abort(struct device *dev)
{
	if (dev->driver->abort == NULL)
		return;
	task_mutex_lock(&dev->control);
	for (unsigned i = 0; i < reactor_count(); i++) {
		if (dev->channel[i] != NULL)
			dev->driver->abort(dev->channel[i]);
	}
	task_mutex_unlock(&dev->control);
}

/* ---- draining ----------------------------------------------------------------------------- */

struct drain {
	struct msg back;
	struct task_event event;
	bool is_quiesce; /* hold newcomers; else they go on, in the other epoch */
	bool is_drained;
};

static void drain_back(struct msg *msg)
{
	task_event_fire(&container_of(msg, struct drain, back)->event);
}

static void drain_done(struct channel *ch, void *arg)
{
	struct drain *drain = arg;

	(void)ch;
	drain->back.fn = drain_back;
	reactor_post(reactor_primary(), &drain->back);
}

static void drain_here(struct channel *ch, void *arg)
{
	struct drain *drain = arg;

	assert(ch->drained == NULL && ch->inflight[!ch->epoch] == 0);
	ch->drain_epoch = ch->epoch;
	if (drain->is_quiesce)
		ch->gate |= GATE_QUIESCED;
	else
		ch->epoch = !ch->epoch;
	channel_recall(ch, ch->drain_epoch); /* a reader may be slow for ever */
	drain->is_drained = ch->inflight[ch->drain_epoch] == 0;
	if (drain->is_drained)
		return;
	ch->drained = drain_done;
	ch->drained_arg = drain;
	ch->gate |= GATE_DRAINING;
}

/* The channel stays while the drain is started; then what is in flight keeps it, or it is done. */
static void channel_drain(struct device *dev, unsigned i, bool is_quiesce)
{
	struct drain drain = { .is_quiesce = is_quiesce, .is_drained = true };
	struct channel_call call = { .fn = drain_here, .arg = &drain };

	task_mutex_lock(&dev->control);
	call.ch = dev->channel[i];
	if (call.ch != NULL)
		task_call(call.ch->reactor, channel_call_here, &call);
	task_mutex_unlock(&dev->control);
	if (!drain.is_drained)
		task_event_wait(&drain.event);
}

static void device_drain(struct device *dev, bool is_quiesce)
{
	for (unsigned i = 0; i < reactor_count(); i++)
		channel_drain(dev, i, is_quiesce);
}

/* ---- quiesce, resume, resize -------------------------------------------------------------- */

void device_quiesce(struct device *dev)
{
	task_mutex_lock(&dev->drain);
	if (dev->quiesce_count++ == 0)
		device_drain(dev, true);
	task_mutex_unlock(&dev->drain);
}

void device_resume(struct device *dev)
{
	uint32_t gate = GATE_QUIESCED;

	task_mutex_lock(&dev->drain);
	assert(dev->quiesce_count > 0);
	if (--dev->quiesce_count == 0)
		device_ungate_all(dev, gate);
	task_mutex_unlock(&dev->drain);
}

static void resize_here(struct channel *ch, void *arg)
{
	ch->nblocks = *(uint64_t *)arg;
}

/* Quiesced. Who reads the size of the device may use all of it at once: channels hold what comes
 * instead of refusing it. So they grow before it, and shrink after it. */
static void size_set(struct device *dev, uint64_t nblocks) MAY_SUSPEND
{
	task_mutex_lock(&dev->control);
	dev->nblocks = MIN(dev->nblocks, nblocks);
	device_each_channel(dev, resize_here, &nblocks);
	dev->nblocks = nblocks;
	task_mutex_unlock(&dev->control);
}

int device_resize(struct device *dev, uint64_t nblocks, struct err *err)
{
	struct device_event event = { .type = DEVICE_RESIZED,
				      .dev = dev,
				      .old_nblocks = dev->nblocks };
	int result = 0;

	if (dev->is_removed)
		return err_set(err, -ENODEV, "%s was removed", dev->name);
	if (nblocks == dev->nblocks)
		return 0;
	device_pin(dev);
	device_quiesce(dev);
	event.old_nblocks = dev->nblocks;
	size_set(dev, nblocks);
	if (dev->driver->resized != NULL)
		result = dev->driver->resized(dev, event.old_nblocks, err);
	if (result < 0)
		size_set(dev, event.old_nblocks);
	device_resume(dev);
	if (result == 0)
		device_announce_event(dev, &event);
	device_unpin(dev);
	return result;
}

/* ---- range locks -------------------------------------------------------------------------- */

static bool ranges_overlap(const struct lba_range *a, const struct lba_range *b)
{
	return a->lba < b->lba + b->nlb && b->lba < a->lba + a->nlb;
}

/*
 * May @lock be held now? Not if an earlier one overlaps, nor if too many came earlier: a lock is
 * held only while fewer than RANGE_LOCKS_MAX stand before it, so no more than that are held.
 */
static bool range_lock_is_free(struct device *dev, const struct range_lock *lock)
{
	struct range_lock *other;
	unsigned nearlier = 0;

	list_for_each (other, &dev->range_locks, link) {
		if (other == lock)
			break;
		if (ranges_overlap(&other->range, &lock->range))
			return false;
		nearlier++;
	}
	return nearlier < RANGE_LOCKS_MAX;
}

static void range_lock_here(struct channel *ch, void *arg)
{
	const struct lba_range *range = arg;

	assert(ch->nlocked < RANGE_LOCKS_MAX);
	ch->locked[ch->nlocked++] = *range;
	ch->gate |= GATE_LOCKED;
}

static void range_unlock_here(struct channel *ch, void *arg)
{
	const struct lba_range *range = arg;

	for (unsigned i = 0; i < ch->nlocked; i++) {
		if (ch->locked[i].lba == range->lba && ch->locked[i].nlb == range->nlb) {
			ch->locked[i] = ch->locked[--ch->nlocked];
			break;
		}
	}
	if (ch->nlocked == 0)
		ch->gate &= ~(uint32_t)GATE_LOCKED;
	channel_release_held(ch);
}

int range_lock(struct device *dev, struct range_lock *lock, uint64_t lba, uint64_t nlb,
	       struct err *err)
{
	*lock = (struct range_lock){ .range = { .lba = lba, .nlb = nlb } };
	if (nlb == 0 || !range_fits(lba, nlb, dev->nblocks))
		return err_set(err, -EINVAL, "%s: blocks %lu+%lu cannot be locked, it has %lu",
			       dev->name, lba, nlb, dev->nblocks);
	list_add_tail(&dev->range_locks, &lock->link);
	while (!range_lock_is_free(dev, lock)) {
		lock->waiter = task_self();
		task_suspend();
		lock->waiter = NULL;
	}
	task_mutex_lock(&dev->drain);
	task_mutex_lock(&dev->control);
	lock->is_held = true; /* channels made from now on are born with it */
	device_each_channel(dev, range_lock_here, &lock->range);
	task_mutex_unlock(&dev->control);
	device_drain(dev, false);
	task_mutex_unlock(&dev->drain);
	return 0;
}

void range_unlock(struct device *dev, struct range_lock *lock)
{
	struct range_lock *other;

	assert(lock->is_held);
	task_mutex_lock(&dev->control);
	device_each_channel(dev, range_unlock_here, &lock->range);
	list_del(&lock->link);
	lock->is_held = false;
	task_mutex_unlock(&dev->control);
	list_for_each (other, &dev->range_locks, link) {
		if (other->waiter != NULL) {
			task_resume(other->waiter);
			other->waiter = NULL;
		}
	}
}
