/* SPDX-License-Identifier: Apache-2.0 */
/*
 * info.c - what a nexus and its children say of themselves, to whoever asks.
 *
 * Nothing is kept for this: it is read where it is used. Counters of errors stand in the legs, one
 * for each reactor, and are added up here; those of channels that are closed were left with the
 * child (channel.c). So numbers of a nexus at work are a moment's, but none is ever lost.
 *
 * Who wants to be told instead of asking listens to events.c.
 *
 * Thread: the primary.
 */
#include "nexus/internal.h"
#include "nexus/marks.h"

void nexus_info(struct nexus *nx, struct nexus_info *ret)
{
	*ret = (struct nexus_info){
		.name = nx->dev.name,
		.uuid = nx->uuid,
		.device_uuid = nx->dev.uuid,
		.size = nx->size,
		.device_size = device_size(&nx->dev),
		.label = nx->label,
		.state = nx->state,
		.status = nexus_status_of(nx),
		.why = nx->why,
		.nchildren = nx->nchildren,
		.is_frozen = nx->is_frozen,
		.repairs = atomic_load(&nx->nrepairs),
		.repairs_failed = atomic_load(&nx->nrepairs_failed),
		.overlaps = atomic_load(&nx->noverlaps),
		.segments_in_flight = marks_count(nx),
		.mark_writes = marks_nwrites(nx),
		.segment_size = 1ull << (segment_shift(nx->dev.nblocks, nx->dev.block_shift) +
					 nx->dev.block_shift),
	};
}

void nexus_child_errors(const struct child *child, uint64_t *ret_reads, uint64_t *ret_writes)
{
	const struct nexus *nx = child->nx;

	*ret_reads = child->read_errors;
	*ret_writes = child->write_errors;
	for (unsigned i = 0; i < reactor_count(); i++) {
		const struct leg *leg;

		if (nx->dev.channel[i] == NULL)
			continue;
		leg = &container_of(nx->dev.channel[i], struct nexus_channel, ch)->leg[child->slot];
		*ret_reads += leg->read_errors;
		*ret_writes += leg->write_errors;
	}
}

bool nexus_child_info(struct nexus *nx, unsigned index, struct nexus_child_info *ret)
{
	const struct child *child;
	uint32_t word;

	if (index >= nx->nchildren)
		return false;
	child = nx->child[nx->order[index]];
	word = atomic_load(&child->word);
	*ret = (struct nexus_child_info){
		.uri = child->uri,
		.device_name = child->device_name,
		.uuid = child->uuid,
		.state = child_state_of(word),
		.health = child_health_of(child),
		.reason = child_reason_of(word),
		.why = child->why,
		.is_synced = child_is_healthy(child),
		.is_local = child->is_local,
		.is_leaving = child->is_leaving,
		.is_final = child_state_of(word) != CHILD_OPEN && !child_can_come_back(word),
		.has_io_log = !child_is_healthy(child) && child->is_missed_known,
		.fault_ns = child->fault_ns,
	};
	if (ret->has_io_log)
		ret->missed_segments = segmap_count(&child->missed);
	nexus_child_errors(child, &ret->read_errors, &ret->write_errors);
	nexus_health_of(child, ret);
	return true;
}

bool nexus_child_stats(struct nexus *nx, unsigned index, enum io_op op, struct op_stats *ret)
{
	const struct child *child = index < nx->nchildren ? nx->child[nx->order[index]] : NULL;

	if (child == NULL || child->desc == NULL)
		return false;
	device_op_stats(child->desc->dev, op, ret);
	return true;
}
