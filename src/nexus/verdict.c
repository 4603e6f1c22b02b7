/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verdict.c - the one table of what a child's error means.
 *
 *   status                  reading             writing, flushing        why
 *   caller's fault          keep, answer it     keep; retire if another  every copy would say it;
 *                                               child did it             if not, they differ now
 *   unsupported             elsewhere, keep     as above                 an opcode says nothing
 *                                                                        about the copy
 *   read error, corrupt     elsewhere, repair   retire                   the medium under one block
 *   not ready, no memory    again               again                    a shortage is no fault
 *   reservation conflict    shut down           shut down                the other owner won
 *   no space                retire, NoSpace     retire, NoSpace          comes back when there is
 *   timed out               retire, TimedOut    retire, TimedOut
 *   anything else           retire, IoError     retire, IoError
 *
 * "Again" is bounded: who counted CHILD_AGAIN_MAX of them retires the child, but for the last one,
 * whose answer the host gets (io_failed.c): it may come again, a frozen nexus does not. A write
 * that some children did and this one did not has been missed, whatever the reason was; the child
 * is retired then even if the table says keep. In the engine that this one stands in for, a
 * shortage of memory at submission retired a healthy child, and a read error was never answered
 * elsewhere.
 */
#include "nexus/verdict.h"

struct child_verdict child_verdict(enum io_op op, uint16_t status)
{
	bool is_reading = !(IO_BIT(op) & (IO_OPS_WRITING | IO_BIT(IO_FLUSH) | IO_BIT(IO_RESET)));
	static const enum nexus_reason reasons[IO_STATUS_COUNT_] = {
		[IO_NO_SPACE] = NEXUS_REASON_NO_SPACE,
		[IO_TIMED_OUT] = NEXUS_REASON_TIMED_OUT,
	};
	struct child_verdict retire = { CHILD_RETIRE, NEXUS_REASON_IO_ERROR };

	if (status < IO_STATUS_COUNT_ && reasons[status] != NEXUS_REASON_NONE)
		retire.reason = reasons[status];
	if (io_status_to_nvme(status) == io_status_to_nvme(IO_RESERVED))
		return (struct child_verdict){ CHILD_SHUTDOWN, NEXUS_REASON_NONE };
	switch (io_status_verdict(status)) {
	case IO_VERDICT_OK:
	case IO_VERDICT_CALLER:
		return (struct child_verdict){ CHILD_KEEP, NEXUS_REASON_NONE };
	case IO_VERDICT_RETRY:
		return (struct child_verdict){ CHILD_AGAIN, NEXUS_REASON_IO_ERROR };
	case IO_VERDICT_ELSEWHERE:
		if (status == IO_UNSUPPORTED)
			return (struct child_verdict){ CHILD_KEEP, NEXUS_REASON_NONE };
		return is_reading ? (struct child_verdict){ CHILD_REPAIR, NEXUS_REASON_IO_ERROR }
				  : retire;
	case IO_VERDICT_FAIL_LEG:
		break;
	}
	return retire;
}
