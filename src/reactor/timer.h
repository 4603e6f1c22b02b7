/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timer.h - one-shot timers of one reactor, kept in an intrusive pairing heap.
 *
 * Owner:  whoever embeds the timer.
 * Thread: the reactor the timer was armed on.
 * Rules:  arming an armed timer moves it. fn() runs on the reactor with the timer disarmed, so it
 *         may arm it again. Nothing is allocated: arming cannot fail.
 */
#ifndef ASHLAR_REACTOR_TIMER_H
#define ASHLAR_REACTOR_TIMER_H

#include <stdbool.h>
#include <stdint.h>

struct reactor;

struct timer {
	void (*fn)(struct timer *timer);
	uint64_t due_ns; /* reactor clock */
	/* pairing heap: first child, next sibling, and who points at this one */
	struct timer *child;
	struct timer *sibling;
	struct timer *prev; /* parent if first child, else left sibling */
	bool is_armed;
};

struct timer_heap {
	struct timer *root;
};

/* Due in @delay_ns from the reactor's cached clock. Calling thread must be @r's. */
void timer_arm(struct reactor *r, struct timer *timer, uint64_t delay_ns);
void timer_disarm(struct reactor *r, struct timer *timer);

/* For the reactor only. timer_heap_pop() takes the earliest timer out. */
void timer_heap_insert(struct timer_heap *heap, struct timer *timer);
void timer_heap_remove(struct timer_heap *heap, struct timer *timer);

#endif
