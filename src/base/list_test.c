/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of list.h: the order it promises. */
#include "base/list.h"

#include "base/tap.h"

struct item {
	int number;
	struct list link;
};

/* "1 2 3" */
static const char *shown(struct list *head, char text[64])
{
	struct item *item;
	int len = 0;

	text[0] = '\0';
	list_for_each (item, head, link)
		len += snprintf(text + len, 64 - (size_t)len, "%s%d", len > 0 ? " " : "",
				item->number);
	return text;
}

TEST(list_keeps_order)
{
	struct item items[4] = { { 1 }, { 2 }, { 3 }, { 4 } };
	struct list head;
	char text[64];

	list_init(&head);
	CHECK(list_empty(&head));
	CHECK(list_first_entry(&head, struct item, link) == NULL);
	CHECK(list_last_entry(&head, struct item, link) == NULL);
	CHECK_STR(shown(&head, text), "");
	list_add_tail(&head, &items[1].link);
	list_add_tail(&head, &items[2].link);
	list_add(&head, &items[0].link);
	CHECK_STR(shown(&head, text), "1 2 3");
	list_add(&items[1].link, &items[3].link); /* behind an element */
	CHECK_STR(shown(&head, text), "1 2 4 3");
	CHECK(list_first_entry(&head, struct item, link) == &items[0]);
	CHECK(list_last_entry(&head, struct item, link) == &items[2]);
}

TEST(list_del_twice_is_harmless)
{
	struct item items[2] = { { 1 }, { 2 } };
	struct list head;
	char text[64];

	list_init(&head);
	list_add_tail(&head, &items[0].link);
	list_add_tail(&head, &items[1].link);
	list_del(&items[0].link);
	CHECK(list_empty(&items[0].link));
	list_del(&items[0].link);
	CHECK_STR(shown(&head, text), "2");
	list_del(&items[1].link);
	CHECK(list_empty(&head));
}

TEST(list_walk_may_free)
{
	struct item *item, *next;
	struct list head;
	int sum = 0;

	list_init(&head);
	for (int i = 1; i <= 10; i++) {
		item = malloc(sizeof(*item));
		if (!CHECK(item != NULL))
			return;
		item->number = i;
		list_add_tail(&head, &item->link);
	}
	list_for_each_safe (item, next, &head, link) {
		sum += item->number;
		list_del(&item->link);
		free(item);
	}
	CHECK_EQ(sum, 55);
	CHECK(list_empty(&head));
}

TEST(list_splice_moves_all)
{
	struct item items[4] = { { 1 }, { 2 }, { 3 }, { 4 } };
	struct list to, from;
	char text[64];

	list_init(&to);
	list_init(&from);
	list_splice_tail(&to, &from);
	CHECK(list_empty(&to));
	list_add_tail(&from, &items[0].link);
	list_add_tail(&from, &items[1].link);
	list_splice_tail(&to, &from);
	CHECK_STR(shown(&to, text), "1 2");
	CHECK(list_empty(&from));
	list_add_tail(&from, &items[2].link);
	list_splice_tail(&to, &from);
	list_splice_tail(&to, &from);
	list_add_tail(&to, &items[3].link);
	CHECK_STR(shown(&to, text), "1 2 3 4");
}

TAP_MAIN()
