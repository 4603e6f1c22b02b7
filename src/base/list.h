/* SPDX-License-Identifier: Apache-2.0 */
/*
 * list.h - an intrusive container: a doubly linked ring.
 *
 * Owner:  the link lives inside the element; the list never allocates or frees. An element is on
 *         at most one list per link.
 * Thread: whoever owns the list; nothing here is atomic.
 * Rules:  list_init a head before use. A link taken off with list_del points at itself again, so
 *         list_del twice is harmless and list_empty(&elem->link) tells whether it is on a list.
 *         Only the _safe walk may remove the element it stands on.
 */
#ifndef BASE_LIST_H
#define BASE_LIST_H
#include "base/base.h"

/* Head and link are the same thing: a ring that is empty points at itself. */
struct list {
	struct list *next, *prev;
};

static inline void list_init(struct list *list)
{
	list->next = list;
	list->prev = list;
}

static inline bool list_empty(const struct list *list)
{
	return list->next == list;
}

static inline void list_insert_(struct list *link, struct list *prev, struct list *next)
{
	link->prev = prev;
	link->next = next;
	prev->next = link;
	next->prev = link;
}

/* As the first element. With an element's link in place of the head: right behind that element. */
static inline void list_add(struct list *head, struct list *link)
{
	list_insert_(link, head, head->next);
}

/* As the last element. With an element's link in place of the head: right before that element. */
static inline void list_add_tail(struct list *head, struct list *link)
{
	list_insert_(link, head->prev, head);
}

static inline void list_del(struct list *link)
{
	link->prev->next = link->next;
	link->next->prev = link->prev;
	list_init(link);
}

/* Moves all elements of @from to the end of @to; @from is empty afterwards. */
static inline void list_splice_tail(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

/* The element that holds @link; @type and @member as in container_of. */
#define list_entry(link, type, member) container_of(link, type, member)

/* The first element, or NULL when the list is empty. */
#define list_first_entry(head, type, member) \
	(list_empty(head) ? NULL : container_of((head)->next, type, member))
#define list_last_entry(head, type, member) \
	(list_empty(head) ? NULL : container_of((head)->prev, type, member))

/* The container at @link even when that is the head itself, where the pointer is only compared:
 * no access is made through it. */
#define list_at_(link, pos, member) \
	((__typeof__(pos))(void *)((uintptr_t)(link)-offsetof(__typeof__(*(pos)), member)))

/* The link inside @pos, by arithmetic: at the head there is no container, and a container may want
 * more alignment than a head has. */
#define list_link_(pos, member) \
	((struct list *)(void *)((uintptr_t)(pos) + offsetof(__typeof__(*(pos)), member)))

/* struct thing *pos; list_for_each (pos, &head, link) { ... } */
#define list_for_each(pos, head, member)                                                   \
	for (pos = list_at_((head)->next, pos, member); list_link_(pos, member) != (head); \
	     pos = list_at_(list_link_(pos, member)->next, pos, member))

/* As list_for_each, but @pos may be removed or freed; @tmp is a second pointer of the same type. */
#define list_for_each_safe(pos, tmp, head, member)                      \
	for (pos = list_at_((head)->next, pos, member),                 \
	    tmp = list_at_(list_link_(pos, member)->next, pos, member); \
	     list_link_(pos, member) != (head);                         \
	     pos = tmp, tmp = list_at_(list_link_(pos, member)->next, pos, member))

#endif
