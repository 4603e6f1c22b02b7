// SPDX-License-Identifier: Apache-2.0
/*
 * plant_nvmf.c - bugs of the initiator, planted as those of plant.c are, and what the play
 * wants to know of controllers.
 *
 *   no-fence      channels are told that no lost association can act any more
 *   repeat        a write that was answered is sent once more, with the data it had
 *   stale-cid     an answer ends the oldest command of the same kind
 *   early-read    ... or a read whose data is still coming
 *   skip-refresh  a change of paths stays unknown to the channels
 *   ignore-ana    every group is optimized
 *
 * Each change of a controller or a path ends in head_refresh(), and each attempt is a call of
 * ctrlr_connect(): there the states of controllers are read off for the coverage.
 */
#include <stdlib.h>
#include <string.h>

#include "cover.h"
#include "drivers/nvmf/ctrlr.h"
#include "drivers/nvmf/queue_internal.h"
#include "pair.h"
#include "world.h"

void __real_fence_view(const struct nvmf_opts *opts, struct nvmf_view *view);
void __real_slot_answered(struct slot *slot, uint16_t status);
void __real_head_refresh(struct nvmf_head *head);
uint8_t __real_ana_state(const struct ana_group *groups, unsigned count, uint32_t id);
int __real_ctrlr_connect(struct nvmf_ctrlr *c, struct err *err);

void __wrap_fence_view(const struct nvmf_opts *opts, struct nvmf_view *view);
void __wrap_slot_answered(struct slot *slot, uint16_t status);
void __wrap_head_refresh(struct nvmf_head *head);
uint8_t __wrap_ana_state(const struct ana_group *groups, unsigned count, uint32_t id);
int __wrap_ctrlr_connect(struct nvmf_ctrlr *c, struct err *err);

void __wrap_fence_view(const struct nvmf_opts *opts, struct nvmf_view *view)
{
	__real_fence_view(opts, view);
	if (sim_plant != PLANT_NVMF_NO_FENCE)
		return;
	view->nacting = 0;
	view->horizon += 1u << 30;
}

/* The oldest other command in flight of that kind; @is_half: not all of its data is here. */
static struct slot *another(struct slot *slot, uint8_t opcode, bool is_half)
{
	struct slot *other = NULL;

	while ((other = queue_next_inflight(slot->queue, other)) != NULL) {
		bool fits = !is_half || other->got < other->len;

		if (other != slot && other->state == SLOT_SENT && other->sqe.opcode == opcode &&
		    fits)
			return other;
	}
	return NULL;
}

/* A repeated write. Its owner has its memory back and uses it for other things, so it is a copy. */
struct ghost {
	struct iovec iov;
	uint8_t data[];
};

static struct ghost *ghost_new(const struct slot *was)
{
	struct ghost *ghost = sim_zalloc(sizeof(*ghost) + was->len);
	const struct iovec *iov = was->iov;
	size_t skip = was->iov_off, n;

	ghost->iov = (struct iovec){ .iov_base = ghost->data, .iov_len = was->len };
	for (size_t at = 0; at < was->len; at += n, skip = 0, iov++) {
		for (; skip >= iov->iov_len; iov++)
			skip -= iov->iov_len;
		n = MIN(iov->iov_len - skip, was->len - at);
		memcpy(ghost->data + at, (const uint8_t *)iov->iov_base + skip, n);
	}
	return ghost;
}

static void ghost_done(struct slot *slot)
{
	world_trace("ghost", slot->status, 0);
	free(slot->owner);
}

static void send_again(struct queue *q, const struct slot *was, struct ghost *ghost)
{
	struct slot *slot = queue_get(q);

	if (slot == NULL) {
		free(ghost);
		return;
	}
	slot->sqe = was->sqe;
	slot->iov = &ghost->iov;
	slot->iovcnt = 1;
	slot->iov_off = 0;
	slot->len = was->len;
	slot->dir = was->dir;
	slot->done = ghost_done;
	slot->owner = ghost;
	queue_send(slot);
}

void __wrap_slot_answered(struct slot *slot, uint16_t status)
{
	struct queue *q = slot->queue;
	const struct slot was = *slot;
	struct slot *other = NULL;
	struct ghost *ghost = NULL;

	if (q->opts.qid == NVME_QID_ADMIN) {
		__real_slot_answered(slot, status);
		return;
	}
	if (plant_strikes(PLANT_NVMF_STALE_CID, 50))
		other = another(slot, slot->sqe.opcode, false);
	else if (plant_strikes(PLANT_NVMF_EARLY_READ, 50))
		other = another(slot, NVME_IO_READ, true);
	if (other != NULL && other != q->in) {
		other->got = other->asked = other->len;
		__real_slot_answered(other, 0);
		if (sim_plant == PLANT_NVMF_STALE_CID)
			return;
	}
	if (was.sqe.opcode == NVME_IO_WRITE && status == 0 && plant_strikes(PLANT_NVMF_REPEAT, 50))
		ghost = ghost_new(&was);
	__real_slot_answered(slot, status);
	if (ghost != NULL)
		send_again(q, &was, ghost);
}

uint8_t __wrap_ana_state(const struct ana_group *groups, unsigned count, uint32_t id)
{
	if (sim_plant == PLANT_NVMF_IGNORE_ANA)
		return NVME_ANA_OPTIMIZED;
	return __real_ana_state(groups, count, id);
}

/* ---- what controllers do -------------------------------------------------------------------- */

static bool is_on[COVER_STATES_];

static void state_is(enum cover_state state, bool is)
{
	if (is == is_on[state])
		return;
	is_on[state] = is;
	if (is)
		cover_state_begin(state);
	else
		cover_state_end(state);
}

void pair_states_restart(void)
{
	memset(is_on, 0, sizeof(is_on));
}

void pair_process_ends(void)
{
	fence_drop_all();
}

void __wrap_head_refresh(struct nvmf_head *head)
{
	bool is_live = false, is_resetting = false;
	const struct nvmf_ctrlr *c = NULL;

	if (!plant_strikes(PLANT_NVMF_SKIP_REFRESH, 10))
		__real_head_refresh(head);
	while ((c = ctrlr_next(c)) != NULL) {
		is_live |= c->state == CTRLR_LIVE;
		is_resetting |= c->state == CTRLR_RESETTING;
	}
	state_is(COVER_CTRLR_LIVE, is_live);
	state_is(COVER_CTRLR_RESETTING, is_resetting);
	state_is(COVER_FAILED_OVER, is_live && is_resetting);
}

int __wrap_ctrlr_connect(struct nvmf_ctrlr *c, struct err *err)
{
	int result;

	cover_state_begin(COVER_CTRLR_CONNECTING);
	result = __real_ctrlr_connect(c, err);
	cover_state_end(COVER_CTRLR_CONNECTING);
	return result;
}
