// SPDX-License-Identifier: Apache-2.0
/*
 * The serial number, with values taken from outside (sha256sum).
 */
#include "base/tap.h"
#include "target/target.h"

static const struct {
	const char *uuid, *serial;
} rows[] = {
	{ "00000000-0000-0000-0000-000000000000", "DCS374708FFF7719DD59" },
	{ "12345678-9abc-4def-8012-3456789abcde", "DCS501D35F30D4DC033E" },
	{ "ffffffff-ffff-ffff-ffff-ffffffffffff", "DCS5AC6A5945F1650091" },
};

TEST(serial_follows_the_uuid)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char serial[SUBSYSTEM_SERIAL_SIZE];
		struct uuid uuid;

		TAP_ROW(rows[i].uuid);
		CHECK_EQ(uuid_from_text(rows[i].uuid, &uuid, NULL), 0);
		subsystem_serial(&uuid, serial);
		CHECK_STR(serial, rows[i].serial);
	}
}

TEST(defaults_are_valid_limits)
{
	struct target_opts opts;

	target_opts_init(&opts);
	CHECK(opts.queues_max <= TARGET_QUEUES_MAX);
	CHECK(opts.queue_depth_max <= TARGET_DEPTH_MAX);
	CHECK_EQ(opts.io_size_max, 131072);
	CHECK_EQ(opts.in_capsule_size, 4096);
	CHECK_EQ(opts.queue_depth_max, 128);
}

TAP_MAIN()
