// SPDX-License-Identifier: Apache-2.0
/*
 * Reservations on disk: what was written is read; what was damaged, anywhere, is refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "base/tap.h"
#include "target/resv.h"

static const struct uuid device = { .b = { 1, 2, 3, 4 } };
static char folder[] = "/tmp/ashlar-resv-XXXXXX", path[64];

static void begin(void)
{
	(void)snprintf(folder, sizeof(folder), "/tmp/ashlar-resv-XXXXXX");
	CHECK(mkdtemp(folder) != NULL);
	(void)snprintf(path, sizeof(path), "%s/state.json", folder);
}

static void end(void)
{
	(void)unlink(path);
	CHECK_EQ(rmdir(folder), 0); /* nothing else was left */
}

static struct resv example(void)
{
	struct resv r = { .type = NVME_RESV_WRITE_EXCLUSIVE, .is_persistent = true, .count = 2 };

	r.registrant[0] = (struct resv_registrant){ .host.id = { 9 }, .key = 1 };
	r.registrant[1] = (struct resv_registrant){ .host.id = { 8, 7 }, .key = UINT64_MAX };
	r.holder = r.registrant[1].host;
	return r;
}

static size_t read_file(char *text, size_t size)
{
	CLEANUP(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = read(fd, text, size);

	CHECK(got > 0 && (size_t)got < size);
	return (size_t)got;
}

static void write_file(const char *text, size_t len)
{
	CLEANUP(closep) int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK_EQ(write(fd, text, len), (ssize_t)len);
}

TEST(what_was_saved_is_loaded)
{
	struct resv r = example(), got = { .type = 3 };
	struct stat st;

	begin();
	CHECK_EQ(resv_file_load(path, &device, &got, NULL), 0);
	CHECK_EQ(got.type + got.count, 0); /* no file */
	CHECK_EQ(resv_file_save(path, &device, &r, NULL), 0);
	CHECK_EQ(resv_file_load(path, &device, &got, NULL), 0);
	CHECK(memcmp(&r, &got, sizeof(r)) == 0);
	CHECK_EQ(stat(path, &st), 0);
	CHECK_EQ(st.st_mode & 0777, 0600);
	/* The most there can be. */
	for (unsigned i = 0; i < RESV_REGISTRANTS_MAX; i++)
		r.registrant[i] = (struct resv_registrant){ .host.id = { 9, (uint8_t)i },
							    .key = UINT64_MAX - i };
	r.count = RESV_REGISTRANTS_MAX;
	r.holder = r.registrant[127].host;
	CHECK_EQ(resv_file_save(path, &device, &r, NULL), 0);
	CHECK_EQ(resv_file_load(path, &device, &got, NULL), 0);
	CHECK(memcmp(&r, &got, sizeof(r)) == 0);
	/* Not persistent any more: the file goes. */
	r.is_persistent = false;
	CHECK_EQ(resv_file_save(path, &device, &r, NULL), 0);
	CHECK_EQ(access(path, F_OK), -1);
	CHECK_EQ(resv_file_save(path, &device, &r, NULL), 0);
	end();
}

TEST(what_a_killed_process_left_does_not_matter)
{
	char temporary[80];
	struct resv r = example(), got;

	begin();
	(void)snprintf(temporary, sizeof(temporary), "%s.new", path);
	CHECK_EQ(symlink("/dev/full", temporary), 0);
	CHECK_EQ(resv_file_save(path, &device, &r, NULL), 0);
	CHECK_EQ(access(temporary, F_OK), -1);
	CHECK_EQ(resv_file_load(path, &device, &got, NULL), 0);
	end();
}

TEST(errors_name_the_file)
{
	struct resv r = example(), got = { .type = 3 };
	struct err err = {};
	struct uuid other = { .b = { 5 } };

	begin();
	CHECK_EQ(resv_file_save(path, &device, &r, NULL), 0);
	CHECK_EQ(resv_file_load(path, &other, &got, &err), -EINVAL);
	CHECK_HAS(err.msg, path);
	CHECK_HAS(err.msg, "another device");
	CHECK_EQ(got.type, 3);
	CHECK_EQ(unlink(path), 0);
	CHECK_EQ(symlink("/etc/passwd", path), 0);
	err_clear(&err);
	CHECK(resv_file_load(path, &device, &got, &err) < 0);
	CHECK_EQ(unlink(path), 0);
	CHECK_EQ(mkfifo(path, 0600), 0);
	CHECK_EQ(resv_file_load(path, &device, &got, NULL), -EINVAL);
	CHECK_EQ(unlink(path), 0);
	(void)snprintf(path, sizeof(path), "%s/missing/state.json", folder);
	err_clear(&err);
	CHECK_EQ(resv_file_save(path, &device, &r, &err), -ENOENT);
	CHECK_HAS(err.msg, "missing/state.json");
	end();
}

TEST(folder_is_made)
{
	char deeper[64];

	begin();
	(void)snprintf(deeper, sizeof(deeper), "%s/a/", folder);
	CHECK_EQ(resv_file_folder(deeper, NULL), 0);
	CHECK_EQ(resv_file_folder(deeper, NULL), 0);
	CHECK_EQ(rmdir(deeper), 0);
	(void)snprintf(deeper, sizeof(deeper), "%s/a/b", folder);
	CHECK_EQ(resv_file_folder(deeper, NULL), -ENOENT);
	end();
}

/* Each byte spoiled, and each length too short. Changes that JSON does not see are harmless. */
TEST(damage_is_refused)
{
	char text[4096], copy[4096];
	struct resv r = example(), got;
	unsigned harmless = 0, refused = 0;
	size_t len;

	begin();
	CHECK_EQ(resv_file_save(path, &device, &r, NULL), 0);
	len = read_file(text, sizeof(text));
	for (size_t at = 0; at < len; at++) {
		memcpy(copy, text, len);
		copy[at] ^= 1 << at % 7;
		write_file(copy, len);
		memset(&got, 0, sizeof(got));
		if (resv_file_load(path, &device, &got, NULL) == 0) {
			CHECK(memcmp(&r, &got, sizeof(r)) == 0);
			harmless++;
		} else {
			refused++;
		}
		write_file(text, at);
		CHECK_EQ(resv_file_load(path, &device, &got, NULL), -EINVAL);
	}
	CHECK(refused > len / 2 && harmless < len / 4);
	end();
}

/* Write @body with the right sum. */
static void write_signed(const char *body)
{
	json_t *object = json_loads(body, 0, NULL);
	CLEANUP(freep) char *compact = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS);
	CLEANUP(freep) char *text = NULL;

	CHECK(compact != NULL);
	(void)json_object_set_new(object, "crc32c",
				  json_integer(crc32c(0, compact, strlen(compact))));
	text = json_dumps(object, 0);
	write_file(text, strlen(text));
	json_decref(object);
}

#define DEVICE "\"device\":\"01020304-0000-0000-0000-000000000000\","
#define NOBODY "\"holder\":\"00000000-0000-0000-0000-000000000000\","
#define HOST_9 "\"09000000-0000-0000-0000-000000000000\""
#define REG_9  "{\"host\":" HOST_9 ",\"key\":\"0000000000000001\"}"

TEST(a_right_sum_is_not_enough)
{
	static const char *const bodies[] = {
		"{\"version\":2," DEVICE NOBODY "\"type\":0,\"registrants\":[]}",
		"{\"version\":1," NOBODY "\"type\":0,\"registrants\":[]}",
		"{\"version\":1," DEVICE "\"type\":0,\"registrants\":[]}",
		"{\"version\":1," DEVICE NOBODY "\"registrants\":[]}",
		"{\"version\":1," DEVICE NOBODY "\"type\":0}",
		"{\"version\":1," DEVICE NOBODY "\"type\":\"1\",\"registrants\":[" REG_9 "]}",
		"{\"version\":1," DEVICE NOBODY "\"type\":-1,\"registrants\":[" REG_9 "]}",
		"{\"version\":1," DEVICE NOBODY "\"type\":7,\"registrants\":[" REG_9 "]}",
		"{\"version\":1," DEVICE NOBODY "\"type\":4294967301,\"registrants\":[" REG_9 "]}",
		"{\"version\":1," DEVICE NOBODY "\"type\":1,\"registrants\":[" REG_9 "]}",
		"{\"version\":1," DEVICE NOBODY "\"type\":5,\"registrants\":[]}",
		"{\"version\":1," DEVICE NOBODY "\"type\":0,\"registrants\":[" REG_9 "," REG_9 "]}",
		"{\"version\":1," DEVICE NOBODY "\"type\":0,\"registrants\":[1]}",
		"{\"version\":1," DEVICE NOBODY "\"type\":0,\"registrants\":{\"a\":" REG_9 "}}",
		"{\"version\":1," DEVICE NOBODY "\"type\":0,\"registrants\":[{\"host\":" HOST_9
		",\"key\":\"0000000000000000\"}]}",
		"{\"version\":1," DEVICE NOBODY "\"type\":0,\"registrants\":[{\"host\":" HOST_9
		",\"key\":\"1\"}]}",
		"{\"version\":1," DEVICE NOBODY "\"type\":0,\"registrants\":[{\"host\":" HOST_9
		",\"key\":1}]}",
	};
	struct resv got;

	begin();
	write_signed("{\"version\":1," DEVICE NOBODY "\"type\":5,\"registrants\":[" REG_9 "]}");
	CHECK_EQ(resv_file_load(path, &device, &got, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
		TAP_ROW(bodies[i]);
		write_signed(bodies[i]);
		CHECK_EQ(resv_file_load(path, &device, &got, NULL), -EINVAL);
	}
	TAP_ROW(NULL);
	write_file("[]", 2);
	CHECK_EQ(resv_file_load(path, &device, &got, NULL), -EINVAL);
	write_file("{\"crc32c\":\"x\"}", 14);
	CHECK_EQ(resv_file_load(path, &device, &got, NULL), -EINVAL);
	end();
}

TEST(too_large_a_file_is_refused)
{
	struct resv got;

	begin();
	write_file("{}", 2);
	CHECK_EQ(truncate(path, 1 << 20), 0);
	CHECK_EQ(resv_file_load(path, &device, &got, NULL), -EINVAL);
	end();
}

TEST(one_device_is_kept_once)
{
	const struct uuid other = { .b = { 1, 2, 3, 4, [15] = 1 } };
	CLEANUP(closep) int fd = -1;
	int second = -1, third = -1;
	struct err err = {};
	char lock[80];

	begin();
	CHECK_EQ(resv_file_lock(folder, &device, &fd, NULL), 0);
	CHECK_EQ(resv_file_lock(folder, &device, &second, &err), -EBUSY);
	CHECK_HAS(err.msg, "another process");
	CHECK_HAS(err.msg, folder);
	CHECK_EQ(resv_file_lock(folder, &other, &third, NULL), 0);
	closep(&fd);
	CHECK_EQ(resv_file_lock(folder, &device, &second, NULL), 0);
	closep(&second);
	closep(&third);
	(void)snprintf(lock, sizeof(lock), "%s/.lock", folder);
	CHECK_EQ(unlink(lock), 0);
	end();
}

TAP_MAIN()
