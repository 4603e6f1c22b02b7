/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of uri.c: tables of what is accepted and refused, typed parameters, hostile bytes. */
#include "base/uri.h"

#include <errno.h>
#include <pthread.h>

#include "base/rng.h"
#include "base/tap.h"

TEST(parts_of_good_uris)
{
	static const struct {
		const char *text, *scheme, *authority, *host, *port, *path;
		unsigned nsegments, nparams;
	} rows[] = {
		{ "malloc:///m0?size_mb=64&blk_size=4096", "malloc", "", "", "", "/m0", 1, 2 },
		{ "malloc:///?size_mb=64", "malloc", "", "", "", "/", 0, 1 },
		{ "aio:///dev/sdb", "aio", "", "", "", "/dev/sdb", 2, 0 },
		{ "AIO:///dev/sdb", "aio", "", "", "", "/dev/sdb", 2, 0 },
		{ "aio:///tmp/a%20b%2Fc", "aio", "", "", "", "/tmp/a b/c", 2, 0 },
		{ "aio:///tmp/a+b", "aio", "", "", "", "/tmp/a+b", 2, 0 },
		{ "bdev:///nexus-1/child", "bdev", "", "", "", "/nexus-1/child", 2, 0 },
		{ "inject://10.0.0.1:8420/nqn.2019-05.io.openebs:r1n1?domain=block&op=read",
		  "inject", "10.0.0.1:8420", "10.0.0.1", "8420", "/nqn.2019-05.io.openebs:r1n1", 1,
		  2 },
		{ "nvmf+tcp://[::1]:4420/nqn.2014-08.org.nvmexpress.discovery", "nvmf+tcp",
		  "[::1]:4420", "::1", "4420", "/nqn.2014-08.org.nvmexpress.discovery", 1, 0 },
		{ "nvmf://host/nqn.x:y", "nvmf", "host", "host", "", "/nqn.x:y", 1, 0 },
		{ "nvmf://host_a:/n", "nvmf", "host_a:", "host_a", "", "/n", 1, 0 },
		{ "pcie://0000:01:00.0", "pcie", "0000:01:00.0", "", "", "", 0, 0 },
		{ "pcie://0000:01:00.0/?x=1", "pcie", "0000:01:00.0", "", "", "/", 0, 1 },
		{ "null:n0", "null", "", "", "", "n0", 1, 0 },
		{ "malloc://", "malloc", "", "", "", "", 0, 0 },
		{ "x:///?", "x", "", "", "", "/", 0, 0 },
		{ "x:///?&&a&", "x", "", "", "", "/", 0, 1 },
		{ "x:///a//b/", "x", "", "", "", "/a//b/", 4, 0 },
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		CLEANUP(uri_freep) struct uri *uri = NULL;
		struct err err = {};

		TAP_ROW(rows[i].text);
		if (!CHECK_EQ(uri_parse(rows[i].text, &uri, &err), 0))
			continue;
		CHECK_STR(uri->text, rows[i].text);
		CHECK_STR(uri->scheme, rows[i].scheme);
		CHECK_STR(uri->authority, rows[i].authority);
		CHECK_STR(uri->host, rows[i].host);
		CHECK_STR(uri->port, rows[i].port);
		CHECK_STR(uri->path, rows[i].path);
		CHECK_EQ(uri->nsegments, rows[i].nsegments);
		CHECK_EQ(uri->nparams, rows[i].nparams);
		CHECK_STR(err.msg, "");
	}
}

TEST(refused_uris_say_why)
{
	static const struct {
		const char *text, *why;
	} rows[] = {
		{ "", "empty" },
		{ "/dev/sdb", "has no scheme; write aio:///path" },
		{ "dev", "no scheme" },
		{ "dev/a:b", "no scheme" },
		{ ":///x", "no scheme" },
		{ "1x:///a", "no scheme" },
		{ "a_b:///a", "no scheme" },
		{ "aio:///a b", "byte 0x20 at character 9; write it as %20" },
		{ "aio:///a\nb", "byte 0x0a" },
		{ "aio:///a<b", "'<' at character 9; write it as %3C" },
		{ "aio:///\xc3\xa4", "byte 0xc3 at character 8; write it as %C3" },
		{ "aio:///a%zz", "write % itself as %25" },
		{ "aio:///a%2", "ends too early" },
		{ "aio:///a%00b", "%00" },
		{ "x:///?a=%00", "%00" },
		{ "aio://me@host/x", "names a user" },
		{ "aio://me:pw@host/x", "names a user" },
		{ "aio:///x#frag", "behind #" },
		{ "aio:///x#", "behind #" },
		{ "nvmf://h:99999/n", "port '99999' is not between 0 and 65535" },
		{ "nvmf://[::1/n", "'[::1' is neither host nor host:port" },
		{ "nvmf://[::g]/n", "is neither host nor host:port" },
		{ "nvmf://a b/n", "is neither host nor host:port" },
		{ "x:///?=5", "a value but no name" },
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		CLEANUP(uri_freep) struct uri *uri = NULL;
		struct err err = {};

		TAP_ROW(rows[i].text);
		CHECK_EQ(uri_parse(rows[i].text, &uri, &err), -EINVAL);
		CHECK(uri == NULL);
		CHECK_HAS(err.msg, rows[i].why);
		CHECK_EQ(uri_parse(rows[i].text, &uri, NULL), -EINVAL);
	}
}

/* Parses what the test itself wrote and therefore must be good. */
static struct uri *parsed(const char *text)
{
	struct uri *uri = NULL;
	struct err err = {};

	if (!CHECK_EQ(uri_parse(text, &uri, &err), 0))
		printf("# %s\n", err.msg);
	return uri;
}

TEST(segments_are_decoded_one_by_one)
{
	CLEANUP(uri_freep) struct uri *uri = parsed("x:///a%2Fb/c%3Fd");

	CHECK_STR(uri->segments[0], "a/b");
	CHECK_STR(uri->segments[1], "c?d");
	CHECK_STR(uri_name(uri), "a/b/c?d");
}

TEST(nested_uri_survives)
{
	static const char inner[] = "aio:///tmp/x?blk_size=512&uuid=5%";
	CLEANUP(freep) char *encoded = uri_encode(inner);
	char outer[256];
	const char *base = NULL;

	CHECK_STR(encoded, "aio%3A%2F%2F%2Ftmp%2Fx%3Fblk_size%3D512%26uuid%3D5%25");
	snprintf(outer, sizeof(outer), "filter:///f?base=%s&n=1", encoded);
	CLEANUP(uri_freep) struct uri *uri = parsed(outer);

	CHECK_EQ(uri_param_str(uri, "base", &base, NULL), 0);
	CHECK_STR(base, inner);
}

TEST(a_segment_stays_readable)
{
	CLEANUP(freep) char *encoded = uri_encode_segment(
		"nqn.2019-05.io.openebs:/a b?c&d;\xc3\xa4%");
	char text[256];

	CHECK_STR(encoded, "nqn.2019-05.io.openebs:%2Fa%20b%3Fc%26d%3B%C3%A4%25");
	snprintf(text, sizeof(text), "x://h/%s", encoded);
	CLEANUP(uri_freep) struct uri *uri = parsed(text);

	CHECK_EQ(uri->nsegments, 1);
	CHECK_STR(uri->segments[0], "nqn.2019-05.io.openebs:/a b?c&d;\xc3\xa4%");
}

TEST(typed_parameters)
{
	CLEANUP(uri_freep) struct uri *uri = parsed(
		"x:///n?n=0x10&w=4294967295&yes&off=off&num=2&size=64MiB&t=1.5s&s=a%26b=c"
		"&mode=import&uuid=8d9cb0f6-2b1a-4a35-9c55-0123456789ab");
	static const char *const modes[] = { "create", "import" };
	uint64_t n = 0, bytes = 0, ns = 0;
	uint32_t w = 0, absent = 7;
	bool yes = false, off = true, num = false;
	const char *s = NULL;
	unsigned mode = 0;
	struct uuid uuid = {};

	CHECK_EQ(uri_param_u64(uri, "n", 0, UINT64_MAX, &n, NULL), 0);
	CHECK_EQ(uri_param_u32(uri, "w", 0, UINT32_MAX, &w, NULL), 0);
	CHECK_EQ(uri_param_u32(uri, "absent", 1, 2, &absent, NULL), 0);
	CHECK_EQ(uri_param_bool(uri, "yes", &yes, NULL), 0);
	CHECK_EQ(uri_param_bool(uri, "off", &off, NULL), 0);
	CHECK_EQ(uri_param_bool(uri, "num", &num, NULL), 0);
	CHECK_EQ(uri_param_size(uri, "size", &bytes, NULL), 0);
	CHECK_EQ(uri_param_duration(uri, "t", &ns, NULL), 0);
	CHECK_EQ(uri_param_str(uri, "s", &s, NULL), 0);
	CHECK_EQ(uri_param_choice(uri, "mode", modes, 2, &mode, NULL), 0);
	CHECK_EQ(uri_param_uuid(uri, "uuid", &uuid, NULL), 0);
	CHECK_EQ(n, 16);
	CHECK_EQ(w, UINT32_MAX);
	CHECK_EQ(absent, 7);
	CHECK(yes && !off && num);
	CHECK_EQ(bytes, 64 << 20);
	CHECK_EQ(ns, 1500000000);
	CHECK_STR(s, "a&b=c");
	CHECK_EQ(mode, 1);
	CHECK_EQ(uuid.b[15], 0xab);
	CHECK_EQ(uri_reject_unused(uri, NULL), 0);
}

/* One value, asked for as every type; the message names the parameter and what it may be. */
TEST(bad_values_say_what_is_allowed)
{
	static const char *const modes[] = { "create", "import" };
	CLEANUP(uri_freep) struct uri *uri = parsed("x:///n?p=maybe");
	struct err err = {};
	uint64_t u64 = 1;
	uint32_t u32 = 1;
	bool truth = true;
	struct uuid uuid = {};
	unsigned mode = 9;

	CHECK_EQ(uri_param_u64(uri, "p", 0, 9, &u64, &err), -EINVAL);
	CHECK_STR(err.msg, "parameter 'p': 'maybe' is not a number");
	err_clear(&err);
	CHECK_EQ(uri_param_u32(uri, "p", 0, 9, &u32, &err), -EINVAL);
	err_clear(&err);
	CHECK_EQ(uri_param_bool(uri, "p", &truth, &err), -EINVAL);
	CHECK_HAS(err.msg, "parameter 'p': 'maybe' is neither yes/no, on/off, true/false");
	err_clear(&err);
	CHECK_EQ(uri_param_uuid(uri, "p", &uuid, &err), -EINVAL);
	CHECK_HAS(err.msg, "parameter 'p': 'maybe' is not a UUID");
	err_clear(&err);
	CHECK_EQ(uri_param_size(uri, "p", &u64, &err), -EINVAL);
	CHECK_HAS(err.msg, "parameter 'p': 'maybe' is not a size; write");
	err_clear(&err);
	CHECK_EQ(uri_param_duration(uri, "p", &u64, &err), -EINVAL);
	CHECK_HAS(err.msg, "parameter 'p': 'maybe' is not a duration; write");
	err_clear(&err);
	CHECK_EQ(uri_param_choice(uri, "p", modes, 2, &mode, &err), -EINVAL);
	CHECK_STR(err.msg, "parameter 'p' is 'maybe'; it must be one of: create, import");
	CHECK(u64 == 1 && u32 == 1 && truth && uuid_is_zero(&uuid) && mode == 9);
}

TEST(numbers_out_of_range)
{
	static const char *const texts[] = {
		"x:///n?p=511", "x:///n?p=4097",
		"x:///n?p=4294967808",           /* 2^32 + 512: must not be cut to 32 bits */
		"x:///n?p=99999999999999999999", /* more than 64 bits */
	};

	for (unsigned i = 0; i < ARRAY_LEN(texts); i++) {
		CLEANUP(uri_freep) struct uri *uri = parsed(texts[i]);
		struct err err = {};
		uint32_t value = 1;

		TAP_ROW(texts[i]);
		CHECK_EQ(uri_param_u32(uri, "p", 512, 4096, &value, &err), -EINVAL);
		CHECK_HAS(err.msg, "; it must be between 512 and 4096");
		CHECK_EQ(value, 1);
	}
}

TEST(bare_empty_and_repeated_parameters)
{
	CLEANUP(uri_freep) struct uri *uri = parsed("x:///n?bare&empty=&twice=1&twice=2");
	struct err err = {};
	const char *text = NULL;
	uint64_t number = 0;
	bool truth = false;

	CHECK_EQ(uri_param_str(uri, "bare", &text, &err), -EINVAL);
	CHECK_STR(err.msg, "parameter 'bare' needs a value: bare=...");
	err_clear(&err);
	CHECK_EQ(uri_param_u64(uri, "empty", 0, 9, &number, &err), -EINVAL);
	CHECK_HAS(err.msg, "needs a value");
	err_clear(&err);
	CHECK_EQ(uri_param_bool(uri, "empty", &truth, &err), -EINVAL);
	err_clear(&err);
	CHECK_EQ(uri_param_u64(uri, "twice", 0, 9, &number, &err), -EINVAL);
	CHECK_STR(err.msg, "parameter 'twice' is given more than once; give it once");
	CHECK(text == NULL && number == 0 && !truth);
}

TEST(every_type_but_a_switch_wants_a_value)
{
	static const char *const modes[] = { "create" };
	CLEANUP(uri_freep) struct uri *uri = parsed("x:///n?p");
	const char *text;
	struct uuid uuid;
	uint64_t number;
	uint32_t small = 0;
	unsigned mode;

	CHECK_EQ(uri_param_u64(uri, "p", 0, 9, &number, NULL), -EINVAL);
	CHECK_EQ(uri_param_u32(uri, "p", 0, 9, &small, NULL), -EINVAL);
	CHECK_EQ(uri_param_uuid(uri, "p", &uuid, NULL), -EINVAL);
	CHECK_EQ(uri_param_size(uri, "p", &number, NULL), -EINVAL);
	CHECK_EQ(uri_param_duration(uri, "p", &number, NULL), -EINVAL);
	CHECK_EQ(uri_param_str(uri, "p", &text, NULL), -EINVAL);
	CHECK_EQ(uri_param_choice(uri, "p", modes, 1, &mode, NULL), -EINVAL);
}

TEST(absent_parameters_leave_the_default)
{
	static const char *const modes[] = { "create" };
	CLEANUP(uri_freep) struct uri *uri = parsed("x:///n");
	const char *text = "default";
	struct uuid uuid = {};
	uint64_t number = 5;
	unsigned mode = 6;
	bool truth = true;

	CHECK_EQ(uri_param_u64(uri, "p", 0, 9, &number, NULL), 0);
	CHECK_EQ(uri_param_uuid(uri, "p", &uuid, NULL), 0);
	CHECK_EQ(uri_param_size(uri, "p", &number, NULL), 0);
	CHECK_EQ(uri_param_duration(uri, "p", &number, NULL), 0);
	CHECK_EQ(uri_param_str(uri, "p", &text, NULL), 0);
	CHECK_EQ(uri_param_choice(uri, "p", modes, 1, &mode, NULL), 0);
	CHECK_EQ(uri_param_bool(uri, "p", &truth, NULL), 0);
	CHECK_STR(text, "default");
	CHECK(number == 5 && mode == 6 && truth && uuid_is_zero(&uuid));
}

TEST(unused_parameters_are_refused)
{
	CLEANUP(uri_freep) struct uri *uri = parsed("aio:///n?blk_sze=512&uuid");
	struct err err = {};
	uint64_t number = 0;

	CHECK_EQ(uri_reject_unused(uri, &err), -EINVAL);
	CHECK_STR(err.msg, "unrecognized parameter 'blk_sze'; aio takes no parameters");
	err_clear(&err);
	CHECK_EQ(uri_param_u64(uri, "blk_size", 0, 9, &number, NULL), 0);
	CHECK(uri_has(uri, "uuid"));
	CHECK(!uri_has(uri, "blk_size"));
	CHECK_EQ(uri_reject_unused(uri, &err), -EINVAL);
	CHECK_STR(err.msg, "unrecognized parameter 'blk_sze'; aio takes: blk_size, uuid");
	err_clear(&err);
	CHECK_EQ(uri_param_u64(uri, "blk_sze", 0, 512, &number, NULL), 0);
	CHECK_EQ(uri_reject_unused(uri, &err), -EINVAL);
	CHECK_HAS(err.msg, "parameter 'uuid' has no use beside the others");
}

TEST(an_earlier_error_stays_unprefixed)
{
	CLEANUP(uri_freep) struct uri *uri = parsed("x:///n?p=z");
	struct err err = {};
	uint64_t number;

	(void)err_set(&err, -EIO, "first");
	CHECK_EQ(uri_param_u64(uri, "p", 0, 9, &number, &err), -EINVAL);
	CHECK_STR(err.msg, "first");
}

TEST(limits)
{
	static char text[URI_LEN_MAX + 8];
	struct uri *uri = NULL;
	struct err err = {};

	memset(text, 'a', sizeof(text) - 1);
	memcpy(text, "x:///", 5);
	CHECK_EQ(uri_parse(text, &uri, &err), -EINVAL);
	CHECK_HAS(err.msg, "4096 are allowed");
	CHECK_EQ(uri_parse_bytes(text, URI_LEN_MAX, &uri, NULL), 0);
	CHECK_EQ(strlen(uri->path), URI_LEN_MAX - 4);
	uri_freep(&uri);
	for (unsigned count = 63; count <= 65; count++) {
		snprintf(text, sizeof(text), "x:///?");
		for (unsigned i = 0; i < count; i++)
			memcpy(text + 6 + 2 * i, "a&", 3);
		CHECK_EQ(uri_parse(text, &uri, NULL), count <= URI_PARAMS_MAX ? 0 : -EINVAL);
		uri_freep(&uri);
		snprintf(text, sizeof(text), "x://");
		for (unsigned i = 0; i < count; i++)
			memcpy(text + 4 + 2 * i, "/a", 3);
		CHECK_EQ(uri_parse(text, &uri, NULL), count <= URI_SEGMENTS_MAX ? 0 : -EINVAL);
		uri_freep(&uri);
	}
	CHECK_EQ(uri_parse_bytes("x:///a\0b", 8, &uri, &err), -EINVAL);
	CHECK_EQ(uri_parse_bytes("x:///abc", 7, &uri, NULL), 0);
	CHECK_STR(uri->path, "/ab");
	uri_free(uri);
}

/* Looks at everything a parsed URI offers, so that a sanitizer sees a bad pointer. */
static size_t touch(struct uri *uri)
{
	size_t sum = strlen(uri->text) + strlen(uri->scheme) + strlen(uri->authority) +
		     strlen(uri->host) + strlen(uri->port) + strlen(uri->path);
	struct err err = {};
	bool truth;

	for (unsigned i = 0; i < uri->nsegments; i++)
		sum += strlen(uri->segments[i]);
	for (unsigned i = 0; i < uri->nparams; i++)
		sum += strlen(uri->params[i].key) +
		       (uri->params[i].value != NULL ? strlen(uri->params[i].value) : 0);
	sum += uri_param_bool(uri, "a", &truth, &err) < 0;
	sum += uri_reject_unused(uri, &err) < 0;
	return sum + strlen(err.msg);
}

TEST(hostile_bytes_never_crash)
{
	static const char alphabet[] = "ax:/?#[]@&=%25A0+.-_~ \n\xff\x80;,'\"<";
	static const char *const heads[] = { "", "x:", "x://", "x:///", "x:///?", "x://[::" };
	unsigned accepted = 0, refused = 0;
	struct rng rng;

	rng_init(&rng, 2026);
	for (unsigned i = 0; i < 200000; i++) {
		struct uri *uri = NULL;
		struct err err = {};
		char text[96];
		size_t len = (size_t)snprintf(text, sizeof(text), "%s",
					      heads[rng_below(&rng, ARRAY_LEN(heads))]);

		for (uint64_t more = rng_below(&rng, 40); more > 0; more--)
			text[len++] = alphabet[rng_below(&rng, sizeof(alphabet))];
		if (uri_parse_bytes(text, len, &uri, &err) == 0) {
			accepted++;
			CHECK(touch(uri) > 0);
		} else {
			refused++;
			CHECK(uri == NULL && err.code == -EINVAL && err.msg[0] != '\0');
		}
		uri_free(uri);
	}
	printf("# %u accepted, %u refused\n", accepted, refused);
	CHECK(accepted > 1000 && refused > 1000);
}

static void *parse_longest(void *ctx)
{
	static const char fills[] = { 'a', '/', '%', '&', '=', ':', '?', '[', '.', '@' };
	static char text[URI_LEN_MAX];
	unsigned *done = ctx;

	for (unsigned i = 0; i < ARRAY_LEN(fills); i++) {
		static const char *const heads[] = { "x:///", "x:///?", "x://", "x:", "x://[" };

		for (unsigned j = 0; j < ARRAY_LEN(heads); j++) {
			struct uri *uri = NULL;

			memset(text, fills[i], sizeof(text));
			memcpy(text, heads[j], strlen(heads[j]));
			*done += uri_parse_bytes(text, sizeof(text), &uri, NULL) <= 0;
			uri_free(uri);
		}
	}
	return NULL;
}

/* uriparser recurses; control tasks run on small stacks. */
TEST(longest_text_fits_on_a_small_stack)
{
	pthread_attr_t attr;
	pthread_t thread;
	unsigned done = 0;

	CHECK_EQ(pthread_attr_init(&attr), 0);
	CHECK_EQ(pthread_attr_setstacksize(&attr, 64 * 1024), 0);
	if (CHECK_EQ(pthread_create(&thread, &attr, parse_longest, &done), 0))
		CHECK_EQ(pthread_join(thread, NULL), 0);
	CHECK_EQ(done, 50);
	CHECK_EQ(pthread_attr_destroy(&attr), 0);
}

TAP_MAIN()
