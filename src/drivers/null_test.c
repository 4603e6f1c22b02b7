/* SPDX-License-Identifier: Apache-2.0 */
/* null: its parameters, and that it answers everything without touching anything. */
#include "drivers/testing.h"

ENGINE_TEST(null_takes_the_documented_parameters)
{
	static const struct uri_case rows[] = {
		{ "null:///n?size_mb=1", 0, NULL, 2048, 512 },
		{ "null:///n?size_mb=1&blk_size=4096", 0, NULL, 256, 4096 },
		{ "null:///n?num_blocks=7&blk_size=512", 0, NULL, 7, 512 },
		{ "null:///a/b?num_blocks=1", 0, NULL, 1, 512 },
		{ "null:///n?size_mb=4194304", 0, NULL, 1ull << 33, 512 }, /* 4 TiB */
		{ "null:///n?size_mb=1&uuid=5f5cd0a8-6ac9-4ac6-a6cd-a8d4d7fc4fd2", 0, NULL, 2048,
		  512 },
		{ "null:///n", -EINVAL, "size_mb=N or num_blocks=N", 0, 0 },
		{ "null:///n?size_mb=1&num_blocks=1", -EINVAL, "exclude", 0, 0 },
		{ "null:///n?size_mb=0", -EINVAL, "size_mb", 0, 0 },
		{ "null:///n?size_mb=-1", -EINVAL, "size_mb", 0, 0 },
		{ "null:///n?size_mb=many", -EINVAL, "size_mb", 0, 0 },
		{ "null:///n?size_mb=18446744073709551615", -EFBIG, "larger", 0, 0 },
		{ "null:///n?num_blocks=18446744073709551615", -EFBIG, "larger", 0, 0 },
		{ "null:///n?size_mb=1&blk_size=511", -EINVAL, "blk_size", 0, 0 },
		{ "null:///n?size_mb=1&blk_size=1024", -EINVAL, "512 or 4096", 0, 0 },
		{ "null:///n?size_mb=1&uuid=xyz", -EINVAL, "uuid", 0, 0 },
		{ "null:///n?size_mb=1&color=red", -EINVAL, "color", 0, 0 },
		{ "null:///?size_mb=1", -EINVAL, "null:///NAME", 0, 0 },
		{ "null://n?size_mb=1", -EINVAL, "three slashes, null:///n", 0, 0 },
	};

	check_uris(rows, ARRAY_LEN(rows));
}

ENGINE_TEST(null_refuses_a_name_that_is_taken)
{
	struct device *dev, *again = NULL;
	struct err err = {};

	CHECK_EQ(device_create("null:///n?size_mb=1", &dev, &err), 0);
	CHECK_EQ(device_create("null:///n?size_mb=2", &again, &err), -EEXIST);
	CHECK_HAS(err.msg, "n");
	CHECK_EQ(device_destroy("null:///n?size_mb=1", NULL), 0);
	CHECK_EQ(device_destroy("null:///n?size_mb=1", NULL), -ENOENT);
}

ENGINE_TEST(null_keeps_the_uuid_it_is_given)
{
	static const char text[] = "5f5cd0a8-6ac9-4ac6-a6cd-a8d4d7fc4fd2";
	struct device *a, *b, *c;
	char buf[UUID_TEXT_SIZE];
	struct err err = {};

	CHECK_EQ(device_create("null:///a?size_mb=1&uuid=5f5cd0a8-6ac9-4ac6-a6cd-a8d4d7fc4fd2", &a,
			       &err),
		 0);
	CHECK_STR(uuid_to_text(&a->uuid, buf), text);
	CHECK_EQ(device_create("null:///b?size_mb=1", &b, &err), 0);
	CHECK_EQ(device_create("null:///c?size_mb=1", &c, &err), 0);
	CHECK(!uuid_is_zero(&b->uuid) && !uuid_equal(&b->uuid, &c->uuid));
	device_remove_all();
}

ENGINE_TEST(null_answers_and_leaves_buffers_alone)
{
	static const enum io_op ops[] = { IO_WRITE, IO_UNMAP, IO_WRITE_ZEROES,
					  IO_FLUSH, IO_RESET, IO_READ };
	uint8_t buf[1024];
	struct opened o;

	if (!opened_open(&o, "null:///n?num_blocks=8", DESC_WRITE))
		return;
	memset(buf, 0x5a, sizeof(buf));
	for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
		bool has_range = IO_BIT(ops[i]) & IO_OPS_WITH_RANGE;

		TAP_ROW(io_op_name(ops[i]));
		CHECK_EQ(do_io(&o, ops[i], has_range ? 6 : 0, has_range ? 2 : 0, buf, 0), IO_OK);
	}
	TAP_ROW(NULL);
	for (size_t i = 0; i < sizeof(buf); i++) {
		if (!CHECK_EQ(buf[i], 0x5a))
			break;
	}
	CHECK_EQ(do_io(&o, IO_READ, 7, 2, buf, 0), IO_OUT_OF_RANGE);
	opened_close(&o);
}

TAP_MAIN()
