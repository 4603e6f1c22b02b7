/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timer.c - the pairing heap behind a reactor's timers.
 *
 * Why a pairing heap: timers are embedded in their owners, so nothing is allocated and arming
 * cannot fail, which an array heap could not promise; insert is constant, the earliest is the
 * root, removal is logarithmic over time. A timing wheel was rejected: it needs a tick, and an
 * idle reactor has none.
 *
 * Shape: a node knows its first child and its next sibling; prev is the parent for a first child
 * and the left sibling for the others, so a node can be cut out without a search.
 *
 *      root
 *       |child
 *       a --sibling--> b --sibling--> c        b.prev = a, a.prev = root
 *
 * Invariants: no child is due before its parent; root.prev and root.sibling are NULL; is_armed is
 * true exactly for nodes in a heap.
 *
 * Thread: the reactor's own. Equal times fire in no particular order.
 */
#include "reactor/reactor.h"

static struct timer *heap_meld(struct timer *a, struct timer *b)
{
	if (a == NULL)
		return b;
	if (b == NULL)
		return a;
	if (b->due_ns < a->due_ns) {
		struct timer *t = a;

		a = b;
		b = t;
	}
	b->prev = a;
	b->sibling = a->child;
	if (a->child != NULL)
		a->child->prev = b;
	a->child = b;
	return a;
}

/* Two passes over the children of a removed root: meld pairs left to right, then back. */
static struct timer *heap_merge_pairs(struct timer *first)
{
	struct timer *pairs = NULL, *root = NULL;

	while (first != NULL) {
		struct timer *a = first, *b = a->sibling;

		first = b != NULL ? b->sibling : NULL;
		a->prev = a->sibling = NULL;
		if (b != NULL)
			b->prev = b->sibling = NULL;
		a = heap_meld(a, b);
		a->sibling = pairs; /* a stack of melded pairs, linked for this pass only */
		pairs = a;
	}
	while (pairs != NULL) {
		struct timer *next = pairs->sibling;

		pairs->sibling = NULL;
		root = heap_meld(root, pairs);
		pairs = next;
	}
	return root;
}

void timer_heap_insert(struct timer_heap *heap, struct timer *timer)
{
	timer->child = timer->sibling = timer->prev = NULL;
	timer->is_armed = true;
	heap->root = heap_meld(heap->root, timer);
}

void timer_heap_remove(struct timer_heap *heap, struct timer *timer)
{
	struct timer *rest = heap_merge_pairs(timer->child);

	if (timer == heap->root) {
		heap->root = rest;
	} else {
		if (timer->prev->child == timer)
			timer->prev->child = timer->sibling;
		else
			timer->prev->sibling = timer->sibling;
		if (timer->sibling != NULL)
			timer->sibling->prev = timer->prev;
		heap->root = heap_meld(heap->root, rest);
	}
	timer->child = timer->sibling = timer->prev = NULL;
	timer->is_armed = false;
}

void timer_arm(struct reactor *r, struct timer *timer, uint64_t delay_ns)
{
	if (timer->is_armed)
		timer_heap_remove(&r->timers, timer);
	if (__builtin_add_overflow(r->now_ns, delay_ns, &timer->due_ns))
		timer->due_ns = UINT64_MAX - 1;
	timer_heap_insert(&r->timers, timer);
}

void timer_disarm(struct reactor *r, struct timer *timer)
{
	if (timer->is_armed)
		timer_heap_remove(&r->timers, timer);
}
