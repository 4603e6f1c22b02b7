/* SPDX-License-Identifier: Apache-2.0 */
/* The payload of the vendor snapshot command: what is taken, and every way in which it is not. */
#include "base/tap.h"

#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "target/target.h"

struct payload {
	uint8_t bytes[4096];
	size_t len;
};

static void put(struct payload *p, const void *bytes, size_t len)
{
	memcpy(p->bytes + p->len, bytes, len);
	p->len += len;
}

static void put_text(struct payload *p, const char *text, size_t len)
{
	struct le64 size;

	le64_put(&size, len);
	put(p, "\1", 1);
	put(p, &size, sizeof(size));
	put(p, text, len);
}

static void put_none(struct payload *p)
{
	put(p, "\0", 1);
}

/* As peers send it: no parent, no creation time. */
static void make(struct payload *p, const char *name, size_t len)
{
	p->len = 0;
	put(p, "\0\0\0\0", 4);
	put_text(p, "entity", 6);
	put_none(p);
	put_text(p, "txn-1", 5);
	put_text(p, name, len);
	put_text(p, "12345678-9abc-4def-8012-3456789abcde", 36);
	put_none(p);
	put(p, "\1", 1);
}

TEST(snapshot_payload_is_taken_apart)
{
	struct snapshot_params params;
	struct payload p;

	make(&p, "snap", 4);
	CHECK_EQ(snapshot_parse(p.bytes, p.len, &params), 0);
	CHECK_STR(params.entity_id, "entity");
	CHECK_STR(params.parent_id, "");
	CHECK_STR(params.txn_id, "txn-1");
	CHECK_STR(params.name, "snap");
	CHECK_STR(params.uuid, "12345678-9abc-4def-8012-3456789abcde");
	CHECK_STR(params.create_time, "");
	CHECK(params.is_discarded);
	/* What a page holds beyond it is not looked at. */
	memset(p.bytes + p.len, 0xff, sizeof(p.bytes) - p.len);
	CHECK_EQ(snapshot_parse(p.bytes, sizeof(p.bytes), &params), 0);
	p.bytes[p.len - 1] = 0;
	CHECK_EQ(snapshot_parse(p.bytes, p.len, &params), 0);
	CHECK(!params.is_discarded);
}

TEST(snapshot_payload_cut_short_anywhere_is_refused)
{
	struct snapshot_params params;
	struct payload p;

	make(&p, "snap", 4);
	memcpy(params.name, "untouched", sizeof("untouched"));
	for (size_t len = 0; len < p.len; len++)
		CHECK_EQ(snapshot_parse(p.bytes, len, &params), -EINVAL);
	CHECK_STR(params.name, "untouched");
}

TEST(snapshot_payload_with_a_wrong_byte_is_refused)
{
	struct snapshot_params params;
	char text[SNAPSHOT_TEXT_MAX + 1];
	struct payload p;

	memset(text, 'x', sizeof(text));
	make(&p, text, SNAPSHOT_TEXT_MAX);
	CHECK_EQ(snapshot_parse(p.bytes, p.len, &params), 0);
	CHECK_EQ(strlen(params.name), SNAPSHOT_TEXT_MAX);
	make(&p, text, SNAPSHOT_TEXT_MAX + 1);
	CHECK_EQ(snapshot_parse(p.bytes, p.len, &params), -EINVAL);
	make(&p, "a\0b", 3);
	CHECK_EQ(snapshot_parse(p.bytes, p.len, &params), -EINVAL);
	make(&p, "a\nb", 3);
	CHECK_EQ(snapshot_parse(p.bytes, p.len, &params), -EINVAL);
	make(&p, "\xc3\xa4", 2);
	CHECK_EQ(snapshot_parse(p.bytes, p.len, &params), -EINVAL);
	make(&p, "snap", 4);
	p.bytes[0] = 1; /* another variant */
	CHECK_EQ(snapshot_parse(p.bytes, p.len, &params), -EINVAL);
	make(&p, "snap", 4);
	p.bytes[4] = 2; /* neither there nor absent */
	CHECK_EQ(snapshot_parse(p.bytes, p.len, &params), -EINVAL);
	make(&p, "snap", 4);
	memset(p.bytes + 5, 0xff, 8); /* a length that overflows */
	CHECK_EQ(snapshot_parse(p.bytes, p.len, &params), -EINVAL);
	make(&p, "snap", 4);
	p.bytes[p.len - 1] = 2;
	CHECK_EQ(snapshot_parse(p.bytes, p.len, &params), -EINVAL);
}

TAP_MAIN()
