/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_test.c - libashlar as its users see it: this program includes nothing of the engine but the
 * public header, and is linked with the shared library alone.
 */
#include <ashlar/ashlar.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

#include "base/tap.h"

enum {
	BLOCK = 4096,
	SIZE = 8 << 20,
	THREADS = 4,
	CALLS = 200,
	DEPTH = 16,
	CHAIN = 2000,
};

static char why[ASHLAR_ERROR_MAX];

static struct ashlar_volume *open_or_fail(const char *uri, unsigned flags)
{
	struct ashlar_volume *v = NULL;

	CHECK_EQ(ashlar_open(uri, flags, &v, why, sizeof(why)), 0);
	if (v == NULL)
		printf("# %s\n", why);
	return v;
}

#define MEMORY "malloc:///m?size_mb=8&blk_size=4096"

TEST(nothing_works_before_the_start)
{
	struct ashlar_volume *v = NULL;

	CHECK_EQ(ashlar_open(MEMORY, 0, &v, why, sizeof(why)), -ENXIO);
	CHECK_HAS(why, "ashlar_start");
	ashlar_stop();
	CHECK(strchr(ashlar_version(), '.') != NULL);
}

TEST(a_core_that_does_not_exist)
{
	struct ashlar_options options = { .size = sizeof(options), .core_mask = 1ull << 63 };

	CHECK_EQ(ashlar_start(&options, why, sizeof(why)), -EINVAL);
	CHECK_HAS(why, "core");
}

TEST(start_once)
{
	CHECK_EQ(ashlar_start(NULL, why, sizeof(why)), 0);
	CHECK_EQ(ashlar_start(NULL, why, sizeof(why)), -EALREADY);
	CHECK(why[0] != '\0');
}

TEST(errors_say_why)
{
	struct ashlar_volume *v = NULL;

	CHECK_EQ(ashlar_open("nope:///x", 0, &v, why, sizeof(why)), -EINVAL);
	CHECK_HAS(why, "nope");
	CHECK_EQ(ashlar_open("aio:///no/such/file", 0, &v, NULL, 0), -ENOENT);
	CHECK_EQ(ashlar_open(MEMORY, 0x80, &v, why, sizeof(why)), -EINVAL);
	CHECK_STR(ashlar_strerror(-ENOSPC), "No space left on device");
	CHECK(ashlar_strerror(-99999) != NULL);
}

TEST(write_and_read)
{
	struct ashlar_volume *v = open_or_fail(MEMORY, ASHLAR_WRITE);
	uint8_t *buf = ashlar_buf_alloc(4 * BLOCK), odd[BLOCK + 1], zero[BLOCK] = {};

	CHECK_EQ(ashlar_size(v), SIZE);
	CHECK_EQ(ashlar_block_size(v), BLOCK);
	CHECK_STR(ashlar_name(v), "m");
	memset(buf, 0xa5, 4 * BLOCK);
	CHECK_EQ(ashlar_pwrite(v, buf, 4 * BLOCK, BLOCK, ASHLAR_FUA), 0);
	CHECK_EQ(ashlar_flush(v), 0);
	CHECK_EQ(ashlar_pread(v, odd + 1, BLOCK, 2 * BLOCK), 0); /* any alignment will do */
	CHECK_MEM(odd + 1, buf, BLOCK);
	CHECK_EQ(ashlar_write_zeroes(v, 2 * BLOCK, BLOCK, 0), 0);
	CHECK_EQ(ashlar_pread(v, odd + 1, BLOCK, 2 * BLOCK), 0);
	CHECK_MEM(odd + 1, zero, BLOCK);
	CHECK_EQ(ashlar_unmap(v, 0, SIZE), 0);
	ashlar_buf_free(buf, 4 * BLOCK);
	ashlar_close(v);
}

TEST(what_is_refused)
{
	struct ashlar_volume *v = open_or_fail(MEMORY, ASHLAR_WRITE);
	struct ashlar_volume *reader, *other = NULL;
	uint8_t buf[BLOCK] = {};

	CHECK_EQ(ashlar_pread(v, buf, BLOCK, 1), -EINVAL);
	CHECK_EQ(ashlar_pread(v, buf, 100, 0), -EINVAL);
	CHECK_EQ(ashlar_pread(v, buf, 0, 0), -EINVAL);
	CHECK_EQ(ashlar_pread(v, NULL, BLOCK, 0), -EINVAL);
	CHECK_EQ(ashlar_pwrite(v, buf, BLOCK, 0, 0x100), -EINVAL);
	CHECK(ashlar_pread(v, buf, BLOCK, SIZE) < 0);
	CHECK(ashlar_pread(v, buf, BLOCK, UINT64_MAX - BLOCK + 1) < 0);
	reader = open_or_fail(MEMORY, 0);
	CHECK(ashlar_pwrite(reader, buf, BLOCK, 0, 0) < 0);
	CHECK_EQ(ashlar_pread(reader, buf, BLOCK, 0), 0);
	CHECK_EQ(ashlar_open(MEMORY, ASHLAR_EXCLUSIVE, &other, why, sizeof(why)), -EBUSY);
	ashlar_close(reader);
	ashlar_close(v);
	ashlar_close(NULL);
}

TEST(volumes_of_one_uri_share_the_device)
{
	struct ashlar_volume *a = open_or_fail(MEMORY, ASHLAR_WRITE);
	struct ashlar_volume *b = open_or_fail(MEMORY, 0);
	uint8_t out[BLOCK], in[BLOCK] = {};

	memset(out, 0x5a, sizeof(out));
	CHECK_EQ(ashlar_pwrite(a, out, BLOCK, 0, 0), 0);
	ashlar_close(a);
	CHECK_EQ(ashlar_pread(b, in, BLOCK, 0), 0);
	CHECK_MEM(in, out, BLOCK);
	ashlar_close(b);
	b = open_or_fail(MEMORY, 0); /* a new one: the last close destroyed it */
	CHECK_EQ(ashlar_pread(b, in, BLOCK, 0), 0);
	CHECK_EQ(in[0], 0);
	ashlar_close(b);
}

static void *caller(void *arg)
{
	struct ashlar_volume *v = arg;
	uint64_t id = (uint64_t)(uintptr_t)pthread_self(), base;
	static atomic_uint next;
	uint64_t out[BLOCK / 8], in[BLOCK / 8];
	unsigned bad = 0;

	base = (uint64_t)atomic_fetch_add(&next, 1) * CALLS * BLOCK;
	for (unsigned i = 0; i < CALLS; i++) {
		for (unsigned w = 0; w < BLOCK / 8; w++)
			out[w] = id + i;
		bad += ashlar_pwrite(v, out, BLOCK, base + i * BLOCK, 0) != 0;
		bad += ashlar_pread(v, in, BLOCK, base + i * BLOCK) != 0;
		bad += memcmp(in, out, BLOCK) != 0;
	}
	return (void *)(uintptr_t)bad;
}

TEST(many_threads_wait_at_once)
{
	struct ashlar_volume *v = open_or_fail(MEMORY, ASHLAR_WRITE);
	pthread_t threads[THREADS];

	for (unsigned i = 0; i < THREADS; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, caller, v), 0);
	for (unsigned i = 0; i < THREADS; i++) {
		void *bad;

		CHECK_EQ(pthread_join(threads[i], &bad), 0);
		CHECK_EQ((uintptr_t)bad, 0);
	}
	ashlar_close(v);
}

/* A chain: each completion submits the next request from the callback. */
struct chain {
	struct ashlar_volume *volume;
	struct ashlar_request *request;
	uint8_t *buf;
	uint64_t first; /* byte: writes of two reactors to one place have no order */
	unsigned left;
	unsigned *bad;
	atomic_uint *running;
	pthread_mutex_t *lock;
	pthread_cond_t *over;
};

static void chain_done(struct ashlar_request *request, int result, void *arg)
{
	struct chain *c = arg;
	struct ashlar_io io = {
		.op = c->left % 2 ? ASHLAR_OP_READ : ASHLAR_OP_WRITE,
		.offset = c->first + (uint64_t)(c->left % 64) * BLOCK,
		.len = BLOCK,
		.buf = c->buf,
		.done = chain_done,
		.arg = c,
	};

	*c->bad += result != 0;
	*c->bad += ashlar_pread(c->volume, c->buf, BLOCK, 0) != -EDEADLK;
	if (c->left-- > 0) {
		*c->bad += ashlar_submit(request, &io) != 0;
		return;
	}
	ashlar_request_free(request);
	pthread_mutex_lock(c->lock);
	if (atomic_fetch_sub(c->running, 1) == 1)
		pthread_cond_signal(c->over);
	pthread_mutex_unlock(c->lock);
}

TEST(requests_call_back)
{
	struct ashlar_volume *v = open_or_fail(MEMORY, ASHLAR_WRITE);
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t over = PTHREAD_COND_INITIALIZER;
	atomic_uint running = DEPTH;
	struct chain chains[DEPTH];
	unsigned bad[DEPTH] = {};

	for (unsigned i = 0; i < DEPTH; i++) {
		struct ashlar_io io = { .op = ASHLAR_OP_FLUSH,
					.done = chain_done,
					.arg = &chains[i] };

		chains[i] = (struct chain){
			.volume = v,
			.request = ashlar_request_alloc(v),
			.left = CHAIN,
			.buf = ashlar_buf_alloc(BLOCK),
			.bad = &bad[i],
			.running = &running,
			.lock = &lock,
			.over = &over,
			.first = (uint64_t)i * 64 * BLOCK,
		};
		CHECK_EQ(ashlar_submit(chains[i].request, &io), 0);
	}
	pthread_mutex_lock(&lock);
	while (atomic_load(&running) > 0)
		pthread_cond_wait(&over, &lock);
	pthread_mutex_unlock(&lock);
	ashlar_close(v);
	for (unsigned i = 0; i < DEPTH; i++) {
		CHECK_EQ(bad[i], 0);
		ashlar_buf_free(chains[i].buf, BLOCK);
	}
}

static void count_done(struct ashlar_request *request, int result, void *arg)
{
	if (result == 0)
		atomic_fetch_add((atomic_uint *)arg, 1);
	ashlar_request_free(request);
}

TEST(close_waits_for_requests)
{
	struct ashlar_volume *v = open_or_fail("null:///n?size_mb=8", 0);
	uint8_t *buf = ashlar_buf_alloc(BLOCK);
	atomic_uint done = 0;

	for (unsigned i = 0; i < 100; i++) {
		struct ashlar_request *req = ashlar_request_alloc(v);
		struct ashlar_io io = {
			.len = BLOCK, .buf = buf, .done = count_done, .arg = &done
		};

		CHECK_EQ(ashlar_submit(req, &io), 0);
	}
	ashlar_close(v);
	CHECK_EQ(atomic_load(&done), 100);
	ashlar_buf_free(buf, BLOCK);
}

TEST(a_file_keeps_what_was_written)
{
	char path[] = "/tmp/ashlar-api.XXXXXX", uri[64];
	int fd = mkstemp(path);
	struct ashlar_volume *v;
	uint8_t out[BLOCK], in[BLOCK] = {};

	CHECK(fd >= 0 && ftruncate(fd, SIZE) == 0);
	(void)snprintf(uri, sizeof(uri), "aio://%s?blk_size=512", path);
	memset(out, 0x3c, sizeof(out));
	v = open_or_fail(uri, ASHLAR_WRITE | ASHLAR_EXCLUSIVE);
	CHECK_EQ(ashlar_pwrite(v, out, BLOCK, 512, 0), 0);
	CHECK_EQ(ashlar_flush(v), 0);
	ashlar_close(v);
	CHECK_EQ(pread(fd, in, BLOCK, 512), BLOCK);
	CHECK_MEM(in, out, BLOCK);
	close(fd);
	CHECK_EQ(unlink(path), 0);
}

TEST(stop_closes_what_is_open_and_start_works_again)
{
	struct ashlar_options options = { .size = sizeof(options), .core_mask = 3 };

	(void)open_or_fail(MEMORY, ASHLAR_WRITE);
	ashlar_stop();
	if (ashlar_start(&options, why, sizeof(why)) != 0) {
		printf("# two cores: %s\n", why);
		CHECK_EQ(ashlar_start(NULL, why, sizeof(why)), 0);
	}
	test_many_threads_wait_at_once();
	test_requests_call_back();
	ashlar_stop();
}

TAP_MAIN()
