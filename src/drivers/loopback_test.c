/* SPDX-License-Identifier: Apache-2.0 */
/* bdev and loopback: one more name, its uuid check, and what happens when the name goes. */
#include "drivers/testing.h"

#define UUID "5f5cd0a8-6ac9-4ac6-a6cd-a8d4d7fc4fd2"

static enum device_event_type seen;
static unsigned nseen;

static void note_event(struct desc *desc, const struct device_event *event)
{
	(void)desc;
	seen = event->type;
	nseen++;
}

ENGINE_TEST(loopback_finds_the_device_or_says_why_not)
{
	static const struct {
		const char *uri;
		int result;
		const char *says;
	} rows[] = {
		{ "bdev:///n/x", 0, NULL },
		{ "bdev:///n/x", 0, NULL }, /* repeat is fine */
		{ "loopback:///n/x", 0, NULL },
		{ "bdev:///n/x?uuid=" UUID, 0, NULL },
		{ "bdev:///n/x?uuid=00000000-0000-0000-0000-000000000001", -EINVAL, UUID },
		{ "bdev:///n/x?uuid=no", -EINVAL, "uuid" },
		{ "bdev:///n/x?size_mb=1", -EINVAL, "size_mb" },
		{ "bdev:///nobody", -ENOENT, "nobody" },
		{ "bdev:///", -EINVAL, "NAME" },
		{ "bdev://n/x", -EINVAL, "NAME" },
	};
	struct device *dev = NULL, *found;

	CHECK_EQ(device_create("null:///n/x?size_mb=1&uuid=" UUID, &dev, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct err err = {};

		TAP_ROW(rows[i].uri);
		found = NULL;
		CHECK_EQ(device_create(rows[i].uri, &found, &err), rows[i].result);
		if (rows[i].says != NULL)
			CHECK_HAS(err_text(&err), rows[i].says);
		if (rows[i].result == 0)
			CHECK(found == dev && device_lookup(rows[i].uri) == dev);
	}
	TAP_ROW(NULL);
	device_remove_all();
}

ENGINE_TEST(loopback_destroy_takes_the_alias_only)
{
	struct desc_opts opts = { .event = note_event };
	struct device *dev, *alias;
	struct desc *desc;

	CHECK_EQ(device_create("null:///n?size_mb=1", &dev, NULL), 0);
	CHECK_EQ(device_create("bdev:///n", &alias, NULL), 0);
	CHECK_EQ(desc_open(alias, &opts, &desc, NULL), 0);
	nseen = 0;
	CHECK_EQ(device_destroy("bdev:///n", NULL), 0);
	CHECK_EQ(nseen, 1);
	CHECK_EQ(seen, DEVICE_LOOPBACK_REMOVED);
	CHECK(device_lookup("bdev:///n") == NULL);
	CHECK(device_lookup("n") == dev && !dev->is_removed);
	desc_close(desc);
	CHECK_EQ(device_destroy("null:///n?size_mb=1", NULL), 0);
}

ENGINE_TEST(loopback_finds_devices_named_by_a_path)
{
	struct device *dev = NULL;
	struct device *slash = NULL;

	CHECK_EQ(device_create("null:////tmp/x?size_mb=1", &dev, NULL), 0);
	CHECK_STR(dev->name, "/tmp/x");
	CHECK_EQ(device_create("bdev:///tmp/x", &slash, NULL), 0);
	CHECK(slash == dev);
	device_remove_all();
}

TAP_MAIN()
