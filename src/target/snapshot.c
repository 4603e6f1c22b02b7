// SPDX-License-Identifier: Apache-2.0
/*
 * The vendor snapshot command (admin opcode C1h): its payload taken apart, and whoever can make
 * snapshots called.
 *
 *   primary: parse --bad--> EINVAL          task: hook(dev, params) --> answer
 *              | nobody makes any --> EOPNOTSUPP      ^
 *              +------------- device pinned ----------+
 *
 * The target knows nothing of pools; target_set_snapshot() is where they come in. A failure is told
 * as peers of the original read it: Internal Error (Generic 06h) with the errno in dword 0.
 *
 * CDW10 and CDW11 are the low and high word of a time stamp in seconds. The payload:
 *
 *   u32 0 (variant V1) | six texts, each absent: 00h, or 01h | u64 length | bytes | u8 discarded
 *
 * little endian, in the order of struct snapshot_params. What follows is not looked at, as hosts
 * send a whole page. Texts end up in logs and on disks, so they are printable ASCII, and no longer
 * than SNAPSHOT_TEXT_MAX.
 *
 * Thread: the primary reactor, the hook in a task there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "target/internal.h"

struct snapshot_job {
	struct cmd *cmd;
	struct target *target;
	struct device *dev; /* pinned */
	struct snapshot_params params;
};

/* ---- the payload ---------------------------------------------------------------------------- */

struct reader {
	const uint8_t *at;
	size_t left;
};

static bool take_bytes(struct reader *r, void *to, size_t len)
{
	if (len > r->left)
		return false;
	memcpy(to, r->at, len);
	r->at += len;
	r->left -= len;
	return true;
}

static bool take_flag(struct reader *r, bool *ret)
{
	uint8_t byte;

	if (!take_bytes(r, &byte, sizeof(byte)) || byte > 1)
		return false;
	*ret = byte;
	return true;
}

static bool take_text(struct reader *r, char *text)
{
	struct le64 len;
	bool is_there;

	if (!take_flag(r, &is_there))
		return false;
	if (!is_there)
		return true;
	if (!take_bytes(r, &len, sizeof(len)) || le64_get(len) > SNAPSHOT_TEXT_MAX ||
	    !take_bytes(r, text, (size_t)le64_get(len)))
		return false;
	for (uint64_t i = 0; i < le64_get(len); i++) {
		if (text[i] < ' ' || text[i] > '~')
			return false;
	}
	return true;
}

int snapshot_parse(const void *payload, size_t len, struct snapshot_params *ret)
{
	struct snapshot_params p = {};
	char *texts[] = { p.entity_id, p.parent_id, p.txn_id, p.name, p.uuid, p.create_time };
	struct reader r = { payload, len };
	struct le32 variant;

	if (!take_bytes(&r, &variant, sizeof(variant)) || le32_get(variant) != 0)
		return -EINVAL;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		if (!take_text(&r, texts[i]))
			return -EINVAL;
	}
	if (!take_flag(&r, &p.is_discarded))
		return -EINVAL;
	*ret = p;
	return 0;
}

/* ---- the command ---------------------------------------------------------------------------- */

static void answer(struct cmd *cmd, int result)
{
	cmd->status = result == 0 ? 0 : NVME_SC_INTERNAL_ERROR | NVME_STATUS_DNR;
	cmd->dw0 = (uint32_t)-result;
	cmd_return(cmd);
}

static void snapshot_task(void *arg)
{
	struct snapshot_job *job = arg;
	struct target *target = job->target;
	int result = -EOPNOTSUPP; /* who made them may have gone before this task came to run */

	if (target->snapshot != NULL)
		result = target->snapshot(job->dev, &job->params, target->snapshot_owner);

	device_unpin(job->dev);
	target->snapshot_tasks--;
	answer(job->cmd, result); /* with it goes what keeps the target */
	free(job);
}

static int snapshot_start(struct target *target, struct device *dev, struct cmd *cmd)
{
	CLEANUP(freep) struct snapshot_job *job = NULL;
	int result;

	job = calloc(1, sizeof(*job));
	if (job == NULL)
		return -ENOMEM;
	result = snapshot_parse(cmd->buf, cmd->len, &job->params);
	if (result < 0)
		return result;
	if (target->snapshot == NULL)
		return -EOPNOTSUPP;
	if (target->snapshot_tasks == SNAPSHOT_TASKS_MAX)
		return -EBUSY;
	job->params.time_s = le32_get(cmd->sqe.cdw10) | (uint64_t)le32_get(cmd->sqe.cdw11) << 32;
	job->cmd = cmd;
	job->target = target;
	job->dev = dev;
	result = task_spawn("snapshot", snapshot_task, job);
	if (result < 0)
		return result;
	device_pin(dev);
	target->snapshot_tasks++;
	(void)take(job);
	return 0;
}

void snapshot_execute(struct ctrlr *ctrlr, struct cmd *cmd)
{
	const struct ns *ns = subsystem_ns(ctrlr->subsystem, le32_get(cmd->sqe.nsid));
	int result;

	if (ns == NULL || cmd->dir != CMD_H2C) {
		cmd->status = (ns == NULL ? NVME_SC_INVALID_NAMESPACE : NVME_SC_INVALID_FIELD) |
			      NVME_STATUS_DNR;
		cmd_return(cmd);
		return;
	}
	result = snapshot_start(ctrlr->subsystem->target, ns->dev, cmd);
	if (result < 0)
		answer(cmd, result);
}

void target_set_snapshot(struct target *target, target_snapshot_fn fn, void *owner)
{
	target->snapshot = fn;
	target->snapshot_owner = owner;
}
