// SPDX-License-Identifier: Apache-2.0
/*
 * leftover.c - a new device waits for what a dead process has left with the target.
 *
 * A process is killed while its writes are with the target's disk, and the next one is there before
 * the disk has done them. What it reads, repairs and writes then may change back when they land.
 * The fences of the dead one (fence.c) died with it, and its controllers cannot be named any more.
 * But it was the same host, and our target tells how many dead connections of that host still have
 * commands with devices (log page DEh, src/target/cross.c):
 *
 *   first path connected -> read the page --none left, or no such page--> the device is made
 *                             ^      | some are left
 *                             +-wait-+--connect_timeout has passed--> -EBUSY
 *
 * Only the target knows when they end, so it is asked again, soon at first: what a process leaves
 * behind is mostly gone at once.
 *
 * The kernel closes the sockets of a killed process a little after it has gone, when it has undone
 * its rings. Until then they look alive at the target. So where the target has more controllers of
 * this host than this process has, it is asked for GRACE_MS whether they die. They may as well be
 * another process', which lives; then that time is all that it costs.
 *
 * Targets of others never see the question: one that does not know Cross-Controller Reset is not
 * ours. One that knows it may still have no such page, or another vendor's; then nothing can be
 * known, and it goes on as if nothing were left. A page that was there once does not vanish: an
 * error after it tells nothing.
 *
 * What is not covered: a host that died as a whole, whose connections look alive at the target
 * until their keep alive has expired; targets of others; another host of the same volume.
 *
 * Thread: a task on the primary reactor.
 *
 * Rejected: to end the host's other controllers (it may have other processes, which live); to ask
 * when a path is added or made again (fences know what a living process has lost).
 */
#include <errno.h>

#include "base/log.h"
#include "base/units.h"
#include "drivers/nvmf/ctrlr.h"
#include "reactor/task.h"

enum {
	AGAIN_MIN_MS = 1, /* doubled each time, up to: */
	AGAIN_MAX_MS = 100,
	GRACE_MS = 1000, /* for a kernel to close what a killed process had open */
};

/* 0; -ENOTSUP: the target does not tell; else nothing could be found out. */
static int leftover_read(struct nvmf_ctrlr *c, struct nvmf_leftover *ret, struct err *err)
{
	struct nvme_log_leftover page;
	int result = ctrlr_log_page(c, NVME_LOG_LEFTOVER, 0, 0, &page, sizeof(page), err);

	if (result == -EIO)
		return -ENOTSUP;
	return result == 0 ? nvmf_leftover_check(&page, ret) : result;
}

/* Has the target controllers of this host that are not this process'? */
static bool has_others(const struct nvmf_ctrlr *c, const struct nvmf_leftover *left)
{
	const struct nvmf_ctrlr *own;
	uint32_t count = 0;

	for (own = ctrlr_next(NULL); own != NULL; own = ctrlr_next(own))
		count += own->state == CTRLR_LIVE && is_same_family(&own->opts, &c->opts);
	return left->nctrlrs > count;
}

static int still_busy(const struct nvmf_ctrlr *c, const struct nvmf_leftover *left, struct err *err)
{
	if (left->nconns == 0)
		return err_set(err, -EBUSY,
			       "%s does not say what is left of earlier connections; try again",
			       c->name);
	(void)err_set(err, -EBUSY,
		      "commands of %u earlier connections of this host are still with devices of "
		      "%s, and would land on what is written now",
		      left->nconns, c->name);
	(void)err_hint(err, "try again when they have ended; connect_timeout= is how long to wait");
	return -EBUSY;
}

int leftover_settle(struct nvmf_ctrlr *c, struct err *err)
{
	const uint64_t start_ns = reactor_self()->now_ns, limit_ns = c->opts.connect_timeout_ns;
	const uint64_t grace_ns = MIN(limit_ns, GRACE_MS * NS_PER_MS);
	uint64_t again_ns = AGAIN_MIN_MS * NS_PER_MS;
	struct nvmf_leftover left = {};
	bool is_told = false;

	if (c->info.ccrl == 0)
		return 0;
	for (;;) {
		struct err why = {};
		int result = leftover_read(c, &left, &why);
		uint64_t past_ns = reactor_self()->now_ns - start_ns;

		if (result == 0 && left.nconns == 0 &&
		    (past_ns >= grace_ns || !has_others(c, &left)))
			return 0;
		if (result == -ENOTSUP && !is_told) {
			log_debug("%s does not tell what is left of earlier connections", c->name);
			return 0;
		}
		if (result == -ENOTCONN)
			return err_set(err, result, "%s", err_text(&why));
		if (past_ns >= limit_ns)
			return still_busy(c, &left, err);
		is_told |= result == 0;
		task_sleep(MIN(again_ns, limit_ns - past_ns));
		again_ns = MIN(2 * again_ns, (uint64_t)AGAIN_MAX_MS * NS_PER_MS);
	}
}
