/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bounded.c - a request of a task to a child, with a range of the nexus locked.
 *
 * Who mends blocks of a child (scrub.c, repair.c) holds the writes of hosts meanwhile. A disk of
 * this machine that does not answer cannot be made to, so he goes on without it. Request and data
 * are then memory of their own, given back when the answer comes; the child is in use until then,
 * so its device stays open.
 *
 *   sent --answer--> done
 *     +--child_timeout--> the child is out, on every channel --> IO_TIMED_OUT
 *                           ... answer --> memory and child are given back
 *
 * A write that is late lands on whatever is there by then. So its child is out first, and every
 * channel has dropped it, before anybody may unlock the range: what hosts write from then on it has
 * missed, and gets from a rebuild, which begins when the device has been closed.
 *
 * The last healthy child is waited for, as everywhere: there is nobody to go on with, and nobody
 * could mend what a late write does to it.
 *
 * Who cannot be mended is out (child_not_mended()). Not so the last one: a block that is bad is
 * less than a volume that is frozen; nor one that is short of something: its block is what it was.
 *
 * Thread: tasks on the primary.
 */
#include <string.h>

#include "base/log.h"
#include "base/units.h"
#include "nexus/internal.h"
#include "reactor/mem.h"

struct bounded {
	struct io io;
	struct child *child; /* in use */
	struct timer timer;
	struct task_event *event; /* who waits; NULL: nobody any more */
	bool is_done;
	uint8_t *buf; /* owned */
	size_t len;
};

static void bounded_free(struct bounded *b)
{
	struct child *child = b->child;

	if (b->buf != NULL)
		dma_free(b->buf, b->len);
	free(b);
	child_unuse(child);
}

static void bounded_done(struct io *io)
{
	struct bounded *b = container_of(io, struct bounded, io);

	b->is_done = true;
	b->child->nwaits--;
	b->child->waiting_ns = reactor_primary()->now_ns;
	if (b->event != NULL)
		task_event_fire(b->event);
	else
		bounded_free(b);
}

static bool is_only_one(const struct child *child)
{
	return child_is_healthy(child) && nexus_nhealthy(child->nx) == 1 && !child->nx->is_ended;
}

static void bounded_due(struct timer *timer)
{
	struct bounded *b = container_of(timer, struct bounded, timer);

	if (is_only_one(b->child))
		timer_arm(reactor_primary(), timer, b->child->nx->child_timeout_ns);
	else
		task_event_fire(b->event);
}

static struct bounded *bounded_new(struct child *child, const struct child_request *request)
{
	size_t len = (size_t)request->nlb << child->nx->dev.block_shift;
	struct bounded *b = calloc(1, sizeof(*b));

	if (b == NULL)
		return NULL;
	b->buf = dma_alloc(len);
	if (b->buf == NULL) {
		free(b);
		return NULL;
	}
	b->len = len;
	b->timer.fn = bounded_due;
	b->io = (struct io){ .op = (uint8_t)request->op,
			     .flags = request->op == IO_WRITE ? IO_FUA : 0,
			     .lba = request->lba,
			     .nlb = request->nlb,
			     .done = bounded_done };
	io_set_buf(&b->io, b->buf, len);
	if (request->op == IO_WRITE)
		memcpy(b->buf, request->buf, len);
	return b;
}

/* Sent. The answer, or IO_TIMED_OUT. */
static uint16_t bounded_wait(struct bounded *b) MAY_SUSPEND
{
	struct child *child = b->child;
	struct nexus *nx = child->nx;
	struct task_event event = {};
	char text[UNITS_TEXT_MAX];

	b->event = &event;
	timer_arm(reactor_primary(), &b->timer, nx->child_timeout_ns);
	task_event_wait(&event);
	timer_disarm(reactor_primary(), &b->timer);
	b->event = NULL;
	if (b->is_done)
		return b->io.status;
	log_warn("nexus %s: child %s has not answered for %s", nx->dev.name, child->uri,
		 duration_format(nx->child_timeout_ns, text));
	(void)nexus_child_fail(child, CHILD_FAULTED, NEXUS_REASON_TIMED_OUT);
	return IO_TIMED_OUT;
}

uint16_t child_io_bounded(struct child *child, const struct child_request *request)
{
	struct desc *desc = child_use(child);
	struct nexus *nx = child->nx;
	struct bounded *b;
	struct handle *h;
	uint16_t status;

	if (desc == NULL)
		return IO_NO_DEVICE;
	b = bounded_new(child, request);
	if (b == NULL || handle_open(desc, reactor_primary(), &h, NULL) < 0) {
		if (b != NULL)
			dma_free(b->buf, b->len);
		free(b);
		child_unuse(child);
		return IO_NO_MEMORY;
	}
	b->child = child;
	if (child->nwaits++ == 0)
		child->waiting_ns = reactor_primary()->now_ns;
	nexus_health_wake(nx);
	io_submit(h, &b->io);
	status = bounded_wait(b);
	if (status == IO_TIMED_OUT && !b->is_done) {
		nexus_apply(nx); /* the device may answer meanwhile, which frees @b */
		return status;
	}
	if (status == IO_OK && request->op == IO_READ)
		memcpy(request->buf, b->buf, b->len);
	bounded_free(b);
	return status;
}

void child_not_mended(struct child *child, uint16_t status)
{
	enum child_action action = child_verdict(IO_WRITE, status).action;

	if (action == CHILD_SHUTDOWN || (action != CHILD_AGAIN && !is_only_one(child)))
		nexus_child_blame(child, IO_WRITE, status);
}
