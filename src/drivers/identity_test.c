/* SPDX-License-Identifier: Apache-2.0 */
/* Derived uuids: stable, distinct, of version 5. The table of schemes: no name twice. */
#include "drivers/testing.h"

#include "drivers/identity.h"
#include "schemes.h"

TEST(identity_is_stable_for_ever)
{
	struct uuid uuid;
	char text[UUID_TEXT_SIZE];

	/* Computed once with another program (Python's uuid.uuid5 over the same bytes). */
	identity_derive("machine", "/var/lib/disk.img", &uuid);
	CHECK_STR(uuid_to_text(&uuid, text), "993f10b9-15b4-56ac-9866-a9b704926e54");
}

TEST(identity_differs_where_its_texts_differ)
{
	static const char *const pairs[][2] = {
		{ "a", "b" }, { "ab", "" },  { "", "ab" },
		{ "b", "a" }, { "a", "bc" }, { "ab", "c" },
	};
	struct uuid uuid[ARRAY_LEN(pairs)];

	for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
		identity_derive(pairs[i][0], pairs[i][1], &uuid[i]);
		CHECK_EQ(uuid[i].b[6] >> 4, 5);
		CHECK_EQ(uuid[i].b[8] >> 6, 2);
		for (size_t j = 0; j < i; j++)
			CHECK(!uuid_equal(&uuid[i], &uuid[j]));
	}
}

TEST(schemes_are_unique_and_documented)
{
	for (const struct driver *const *a = scheme_table; *a != NULL; a++) {
		TAP_ROW((*a)->name);
		CHECK((*a)->help != NULL && (*a)->product != NULL && (*a)->create != NULL);
		for (const char *const *s = (*a)->schemes; *s != NULL; s++) {
			unsigned n = 0;

			for (const struct driver *const *b = scheme_table; *b != NULL; b++) {
				for (const char *const *t = (*b)->schemes; *t != NULL; t++)
					n += strcmp(*s, *t) == 0;
			}
			CHECK_EQ(n, 1);
		}
		CHECK_HAS((*a)->help, (*a)->schemes[0]);
	}
	TAP_ROW(NULL);
}

TAP_MAIN()
