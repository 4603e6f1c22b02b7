/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verdict.h - what an error of one child means for the child and for the request: one table.
 *
 * device/status.h says what a status means for the owner of several copies; this adds what a mirror
 * makes of it, per kind of request. Nobody else in the nexus looks at a child's status.
 *
 * Thread: const data, any.
 */
#ifndef ASHLAR_NEXUS_VERDICT_H
#define ASHLAR_NEXUS_VERDICT_H

#include "device/io.h"
#include "nexus/nexus.h"

enum child_action {
	CHILD_KEEP,     /* the request is at fault: every copy says the same, the child stays */
	CHILD_AGAIN,    /* the same request to the same child, a little later */
	CHILD_REPAIR,   /* read: answer from another child, write it back here; the child stays */
	CHILD_RETIRE,   /* the child is out, for the reason beside */
	CHILD_SHUTDOWN, /* somebody else owns the children: this nexus ends, they stay */
};

struct child_verdict {
	enum child_action action;
	enum nexus_reason reason; /* CHILD_RETIRE: what it is faulted with */
};

struct child_verdict child_verdict(enum io_op op, uint16_t status);

#endif
