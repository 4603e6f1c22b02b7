/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plant.c - bugs of the engine, planted to prove that the simulator finds them.
 *
 * A simulator that never fails proves nothing unless it is known to fail where it should. Each bug
 * here is one that engines really have. Those of drivers and layers are in disk.c and layer.c, a
 * lost wake-up is in world.c; those of the device layer are here: the linker sends the calls of
 * device_quiesce(), range_lock() and range_unlock() through these wrappers (--wrap), which call the
 * real function unless their bug is planted. So the engine carries no test code.
 *
 *   skip-quiesce-wait  gates close, but nobody waits for what is in flight
 *   lock-too-early     the same for a range lock
 *   range-lock-leak    an unlock forgets one reactor
 *   nvmf-early-cross   the target answers Cross-Controller Reset without ending anything
 */
#include "device/device.h"
#include "target/internal.h"
#include "mirror.h"
#include "world.h"

void __real_device_quiesce(struct device *dev);
int __real_range_lock(struct device *dev, struct range_lock *lock, uint64_t lba, uint64_t nlb,
		      struct err *err);
void __real_range_unlock(struct device *dev, struct range_lock *lock);
void __real_cross_reset(struct ctrlr *ctrlr, struct cmd *cmd);

void __wrap_device_quiesce(struct device *dev);
int __wrap_range_lock(struct device *dev, struct range_lock *lock, uint64_t lba, uint64_t nlb,
		      struct err *err);
void __wrap_range_unlock(struct device *dev, struct range_lock *lock);
void __wrap_cross_reset(struct ctrlr *ctrlr, struct cmd *cmd);

void __wrap_device_quiesce(struct device *dev)
{
	if (!plant_strikes(PLANT_SKIP_QUIESCE_WAIT, 10)) {
		__real_device_quiesce(dev);
		return;
	}
	dev->quiesce_count++;
	for (unsigned i = 0; i < world_nreactors(); i++) {
		if (dev->channel[i] != NULL)
			dev->channel[i]->gate |= GATE_QUIESCED;
	}
}

static void lock_channel(struct channel *ch, const struct range_lock *lock)
{
	if (ch == NULL || ch->nlocked == RANGE_LOCKS_MAX)
		return;
	ch->locked[ch->nlocked++] = lock->range;
	ch->gate |= GATE_LOCKED;
}

int __wrap_range_lock(struct device *dev, struct range_lock *lock, uint64_t lba, uint64_t nlb,
		      struct err *err)
{
	if (plant_nexus_lock(dev, lock, lba, nlb))
		return 0;
	if (sim_plant != PLANT_LOCK_TOO_EARLY || !list_empty(&dev->range_locks) ||
	    !range_fits(lba, nlb, dev->nblocks))
		return __real_range_lock(dev, lock, lba, nlb, err);
	*lock = (struct range_lock){ .range = { .lba = lba, .nlb = nlb }, .is_held = true };
	list_add_tail(&dev->range_locks, &lock->link);
	for (unsigned i = 0; i < world_nreactors(); i++)
		lock_channel(dev->channel[i], lock);
	return 0;
}

void __wrap_range_unlock(struct device *dev, struct range_lock *lock)
{
	struct range_lock copy = *lock;

	if (plant_nexus_unlock(lock))
		return;
	__real_range_unlock(dev, lock);
	if (plant_strikes(PLANT_RANGE_LOCK_LEAK, 10))
		lock_channel(dev->channel[world_rand(world_nreactors())], &copy);
}

void __wrap_cross_reset(struct ctrlr *ctrlr, struct cmd *cmd)
{
	if (sim_plant != PLANT_NVMF_EARLY_CROSS) {
		__real_cross_reset(ctrlr, cmd);
		return;
	}
	cmd->dw0 = 1;
	cmd->status = 0;
	cmd_return(cmd);
}
