/* SPDX-License-Identifier: Apache-2.0 */
/*
 * msg.h - the one unit of deferred work: a function to run on a reactor, embedded in its owner.
 *
 * Owner:  whoever embeds it; it may be reused as soon as fn() has been entered.
 * Thread: an mpsc queue is pushed by any thread and popped by one. A msg_list has one thread.
 * Rules:  a msg is in at most one queue at a time. Nothing is allocated, so nothing can be full.
 */
#ifndef ASHLAR_REACTOR_MSG_H
#define ASHLAR_REACTOR_MSG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct msg {
	struct msg *_Atomic next; /* link, owned by the queue while queued */
	void (*fn)(struct msg *msg);
};

/* A first-in first-out list that one thread fills and drains. */
struct msg_list {
	struct msg *head;
	struct msg *tail;
};

static inline void msg_list_push(struct msg_list *list, struct msg *msg)
{
	atomic_store_explicit(&msg->next, NULL, memory_order_relaxed);
	if (list->head != NULL)
		atomic_store_explicit(&list->tail->next, msg, memory_order_relaxed);
	else
		list->head = msg;
	list->tail = msg;
}

static inline struct msg *msg_list_take_all(struct msg_list *list)
{
	struct msg *head = list->head;

	list->head = NULL;
	return head;
}

static inline struct msg *msg_list_pop(struct msg_list *list)
{
	struct msg *msg = list->head;

	if (msg != NULL)
		list->head = atomic_load_explicit(&msg->next, memory_order_relaxed);
	return msg;
}

/*
 * Many producers, one consumer, intrusive: a push is one exchange and one store, a pop touches
 * only the consumer's end. Between a producer's exchange and its store the chain is broken for an
 * instant; mpsc_pop() then returns NULL while mpsc_is_empty() says false: try again.
 */
struct mpsc {
	_Alignas(64) struct msg *_Atomic head; /* newest; producers exchange it */
	_Alignas(64) struct msg *tail;         /* oldest; consumer only */
	struct msg stub;
};

static inline void mpsc_init(struct mpsc *q)
{
	atomic_init(&q->stub.next, NULL);
	atomic_init(&q->head, &q->stub);
	q->tail = &q->stub;
}

static inline void mpsc_push(struct mpsc *q, struct msg *msg)
{
	struct msg *prev;

	atomic_store_explicit(&msg->next, NULL, memory_order_relaxed);
	prev = atomic_exchange_explicit(&q->head, msg, memory_order_acq_rel);
	atomic_store_explicit(&prev->next, msg, memory_order_release);
}

static inline bool mpsc_is_empty(struct mpsc *q)
{
	return q->tail == &q->stub &&
	       atomic_load_explicit(&q->head, memory_order_acquire) == &q->stub;
}

static inline struct msg *mpsc_pop(struct mpsc *q)
{
	struct msg *tail = q->tail;
	struct msg *next = atomic_load_explicit(&tail->next, memory_order_acquire);

	if (tail == &q->stub) {
		if (next == NULL)
			return NULL;
		q->tail = next;
		tail = next;
		next = atomic_load_explicit(&tail->next, memory_order_acquire);
	}
	if (next != NULL) {
		q->tail = next;
		return tail;
	}
	if (tail != atomic_load_explicit(&q->head, memory_order_acquire))
		return NULL; /* a producer is between its two steps */
	mpsc_push(q, &q->stub);
	next = atomic_load_explicit(&tail->next, memory_order_acquire);
	if (next == NULL)
		return NULL;
	q->tail = next;
	return tail;
}

#endif
