/* SPDX-License-Identifier: Apache-2.0 */
/* The record of who is healthy: as JSON, in memory, in files; and a store that hangs. */
#include "nexus/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/units.h"
#include "drivers/testing.h"
#include "nexus/internal.h"

static struct uuid uuid_of(const char *text)
{
	struct uuid uuid = {};

	CHECK_EQ(uuid_from_text(text, &uuid, NULL), 0);
	return uuid;
}

TEST(a_record_as_a_control_plane_reads_it)
{
	struct nexus_record record = { .nchildren = 2, .generation = 0xab }, back;
	char text[RECORD_TEXT_MAX];

	record.child[0].uuid = uuid_of("00000000-0000-4000-8000-00000000000a");
	record.child[0].is_healthy = true;
	record.child[1].uuid = uuid_of("00000000-0000-4000-8000-00000000000b");
	record_format(&record, text);
	CHECK_STR(text, "{\"clean_shutdown\": false, \"children\": ["
			"{\"uuid\": \"00000000-0000-4000-8000-00000000000a\", \"healthy\": true}, "
			"{\"uuid\": \"00000000-0000-4000-8000-00000000000b\", \"healthy\": false}"
			"], \"generation\": \"00000000000000ab\"}");
	record.size = 1ull << 40;
	record_format(&record, text);
	CHECK_HAS(text, ", \"size\": 1099511627776}");
	CHECK_EQ(record_parse(text, strlen(text), &back, NULL), 0);
	CHECK_EQ(back.nchildren, 2);
	CHECK(!back.is_clean && back.child[0].is_healthy && !back.child[1].is_healthy);
	CHECK_EQ(back.generation, 0xab);
	CHECK(uuid_equal(&back.child[1].uuid, &record.child[1].uuid));
	CHECK_EQ(back.size, record.size);
}

TEST(the_largest_record_fits)
{
	struct nexus_record record = { .nchildren = RECORD_CHILDREN_MAX, .generation = ~0ull },
			    back;
	char text[RECORD_TEXT_MAX];

	record.size = INT64_MAX;
	record.label = NEXUS_LABEL_V2;
	record_format(&record, text);
	CHECK_EQ(record_parse(text, strlen(text), &back, NULL), 0);
	CHECK_EQ(back.nchildren, RECORD_CHILDREN_MAX);
	CHECK_EQ(back.generation, ~0ull);
	CHECK_EQ(back.label, NEXUS_LABEL_V2);
}

TEST(a_record_is_not_guessed_at)
{
#define CHILD "{\"uuid\": \"00000000-0000-4000-8000-00000000000a\", \"healthy\": true}"
	static const struct {
		const char *text;
		int result;
	} rows[] = {
		{ "{\"clean_shutdown\": true, \"children\": []}", 0 },
		{ "{\"clean_shutdown\": true, \"children\": [" CHILD "], \"new\": 1}", 0 },
		{ "", -EINVAL },
		{ "null", -EINVAL },
		{ "[]", -EINVAL },
		{ "{\"children\": []}", -EINVAL },
		{ "{\"clean_shutdown\": 1, \"children\": []}", -EINVAL },
		{ "{\"clean_shutdown\": true, \"children\": {}}", -EINVAL },
		{ "{\"clean_shutdown\": true, \"children\": [1]}", -EINVAL },
		{ "{\"clean_shutdown\": true, \"children\": [{\"uuid\": \"x\", "
		  "\"healthy\": true}]}",
		  -EINVAL },
		{ "{\"clean_shutdown\": true, \"children\": [{\"healthy\": true}]}", -EINVAL },
		{ "{\"clean_shutdown\": true, \"children\": [], \"generation\": 5}", -EINVAL },
		{ "{\"clean_shutdown\": true, \"children\": [], \"generation\": \"5\"}", -EINVAL },
		{ "{\"clean_shutdown\": true, \"children\": [], \"size\": \"5\"}", -EINVAL },
		{ "{\"clean_shutdown\": true, \"children\": [], \"size\": -5}", -EINVAL },
		{ "{\"clean_shutdown\": true, \"children\": [], \"label\": \"v1\"}", 0 },
		{ "{\"clean_shutdown\": true, \"children\": [], \"label\": \"v3\"}", -EINVAL },
		{ "{\"clean_shutdown\": true, \"children\": [], \"label\": 1}", -EINVAL },
		{ "{\"clean_shutdown\": true, \"clean_shutdown\": false, \"children\": []}",
		  -EINVAL },
		{ "{\"clean_shutdown\": true, \"children\": [" CHILD "]", -EINVAL },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct nexus_record record;
		struct err err = {};

		TAP_ROW(rows[i].text);
		CHECK_EQ(record_parse(rows[i].text, strlen(rows[i].text), &record, &err),
			 rows[i].result);
		CHECK_EQ(err.code, rows[i].result);
	}
}

static void check_store(struct nexus_store *store)
{
	char text[RECORD_TEXT_MAX];
	struct err err = {};

	CHECK_EQ(store->get(store, "a/../b", text, &err), -ENOENT);
	CHECK_EQ(store->put(store, "a/../b", "one", NULL), 0);
	CHECK_EQ(store->put(store, "other", "two", NULL), 0);
	CHECK_EQ(store->get(store, "a/../b", text, NULL), 0);
	CHECK_STR(text, "one");
	CHECK_EQ(store->put(store, "a/../b", "three", NULL), 0);
	CHECK_EQ(store->get(store, "a/../b", text, NULL), 0);
	CHECK_STR(text, "three");
	CHECK_EQ(store->del(store, "a/../b", NULL), 0);
	CHECK_EQ(store->get(store, "a/../b", text, NULL), -ENOENT);
	CHECK_EQ(store->del(store, "a/../b", NULL), -ENOENT);
}

ENGINE_TEST(a_store_in_memory)
{
	struct nexus_store *store = store_memory_new();

	check_store(store);
	store_free(store);
}

ENGINE_TEST(a_store_of_files)
{
	char dir[] = "/tmp/ashlar-store-XXXXXX", path[64], text[RECORD_TEXT_MAX];
	struct nexus_store *store = NULL;
	struct err err = {};
	struct dirent *entry;
	unsigned nfiles = 0;
	DIR *list;

	CHECK(mkdtemp(dir) != NULL);
	(void)snprintf(path, sizeof(path), "%s/deep/er", dir);
	if (!CHECK_EQ(store_file_new(path, &store, &err), 0))
		return;
	check_store(store);
	store_free(store);
	CHECK_EQ(store_file_new(path, &store, NULL), 0); /* what was put is there the next time */
	CHECK_EQ(store->get(store, "other", text, NULL), 0);
	CHECK_STR(text, "two");
	CHECK_EQ(store->del(store, "other", NULL), 0);
	store_free(store);
	list = opendir(path);
	while (list != NULL && (entry = readdir(list)) != NULL)
		nfiles++;
	CHECK_EQ(nfiles, 2); /* only . and .. */
	(void)closedir(list);
	(void)rmdir(path);
	(void)snprintf(path, sizeof(path), "%s/deep", dir);
	(void)rmdir(path);
	(void)rmdir(dir);
	CHECK(store_file_new("/proc/nowhere", &store, &err) < 0);
	CHECK_HAS(err_text(&err), "/proc/nowhere");
}

/* ---- one owner of a record ------------------------------------------------------------------ */

struct locked_dir {
	char dir[32];
	struct nexus_store *store[2];
};

static void locked_start(struct locked_dir *d)
{
	(void)snprintf(d->dir, sizeof(d->dir), "/tmp/ashlar-store-XXXXXX");
	CHECK(mkdtemp(d->dir) != NULL);
	for (unsigned i = 0; i < ARRAY_LEN(d->store); i++)
		CHECK_EQ(store_file_new(d->dir, &d->store[i], NULL), 0);
}

/* Nothing may be left behind but what is named here. */
static void locked_end(struct locked_dir *d, const char *left)
{
	char path[64];

	for (unsigned i = 0; i < ARRAY_LEN(d->store); i++)
		store_free(d->store[i]);
	(void)snprintf(path, sizeof(path), "%s/%s", d->dir, left != NULL ? left : "");
	CHECK(left == NULL || unlink(path) == 0);
	CHECK_EQ(rmdir(d->dir), 0);
}

ENGINE_TEST(a_record_has_one_owner)
{
	struct store_lock *lock, *other, *again;
	struct err err = {};
	struct locked_dir d;

	locked_start(&d);
	CHECK_EQ(d.store[0]->lock(d.store[0], "a/../v", &lock, &err), 0);
	CHECK_EQ(d.store[1]->lock(d.store[1], "a/../v", &again, &err), -EBUSY);
	CHECK_HAS(err_text(&err), "another nexus of this process");
	CHECK_HAS(err_text(&err), "a/../v");
	CHECK_EQ(d.store[1]->lock(d.store[1], "w", &other, NULL), 0); /* each its own */
	d.store[0]->unlock(d.store[0], lock);
	CHECK_EQ(d.store[1]->lock(d.store[1], "a/../v", &again, NULL), 0);
	d.store[1]->unlock(d.store[1], again);
	d.store[1]->unlock(d.store[1], other);
	locked_end(&d, NULL);
}

/* In a process of its own: lock the file of "v" as a store does, say so, and wait to be killed. */
static void own_until_killed(const char *dir, int told)
{
	struct flock range = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	char path[64];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/v.lock", dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || fcntl(fd, F_OFD_SETLK, &range) < 0 ||
	    dprintf(fd, "%d\n", (int)getpid()) < 0 || write(told, "", 1) != 1)
		_exit(1);
	for (;;)
		(void)pause();
}

ENGINE_TEST(an_owner_is_named_and_its_lock_ends_with_it)
{
	char byte, pid_text[32];
	struct store_lock *lock;
	struct err err = {};
	struct locked_dir d;
	int told[2];
	pid_t child;

	locked_start(&d);
	CHECK_EQ(pipe(told), 0);
	child = fork();
	if (child == 0)
		own_until_killed(d.dir, told[1]);
	(void)close(told[1]);
	CHECK_EQ(read(told[0], &byte, 1), 1);
	(void)close(told[0]);
	CHECK_EQ(d.store[0]->lock(d.store[0], "v", &lock, &err), -EBUSY);
	(void)snprintf(pid_text, sizeof(pid_text), "(pid %d,", (int)child);
	CHECK_HAS(err_text(&err), pid_text);
	CHECK_HAS(err_text(&err), d.dir);
	CHECK_EQ(kill(child, SIGKILL), 0);
	CHECK_EQ(waitpid(child, NULL, 0), child);
	CHECK_EQ(d.store[0]->lock(d.store[0], "v", &lock, NULL), 0);
	d.store[0]->unlock(d.store[0], lock);
	locked_end(&d, NULL);
}

/* A process made while it was kept has the file, too, until it executes something. */
ENGINE_TEST(a_lock_that_was_given_up_is_no_fork_s)
{
	struct store_lock *lock;
	struct locked_dir d;
	pid_t child;

	locked_start(&d);
	CHECK_EQ(d.store[0]->lock(d.store[0], "v", &lock, NULL), 0);
	child = fork();
	while (child == 0)
		(void)pause();
	d.store[0]->unlock(d.store[0], lock);
	CHECK_EQ(d.store[1]->lock(d.store[1], "v", &lock, NULL), 0);
	CHECK_EQ(kill(child, SIGKILL), 0);
	CHECK_EQ(waitpid(child, NULL, 0), child);
	d.store[1]->unlock(d.store[1], lock);
	locked_end(&d, NULL);
}

ENGINE_TEST(a_store_that_cannot_lock_is_of_no_use)
{
	struct store_lock *lock;
	struct err err = {};
	struct locked_dir d;
	char path[64];

	locked_start(&d);
	(void)snprintf(path, sizeof(path), "%s/v.lock", d.dir);
	CHECK_EQ(symlink("nowhere", path), 0); /* not followed: what is behind it is not ours */
	CHECK_EQ(d.store[0]->lock(d.store[0], "v", &lock, &err), -ELOOP);
	CHECK_HAS(err_text(&err), d.dir);
	locked_end(&d, "v.lock");
}

/* ---- a nexus and its lock ------------------------------------------------------------------- */

static struct {
	struct nexus_store *files, store;
	unsigned ngets;
	bool is_hanging;
	struct task_event let_go;
} kept;

static int kept_lock(struct nexus_store *store, const char *key, struct store_lock **ret,
		     struct err *err)
{
	(void)store;
	return kept.files->lock(kept.files, key, ret, err);
}

static void kept_unlock(struct nexus_store *store, struct store_lock *lock)
{
	(void)store;
	kept.files->unlock(kept.files, lock);
}

static int kept_get(struct nexus_store *store, const char *key, char text[RECORD_TEXT_MAX],
		    struct err *err)
{
	(void)store;
	kept.ngets++;
	return kept.files->get(kept.files, key, text, err);
}

static int kept_put(struct nexus_store *store, const char *key, const char *text, struct err *err)
{
	(void)store;
	if (kept.is_hanging)
		task_event_wait(&kept.let_go);
	return kept.files->put(kept.files, key, text, err);
}

static void kept_start(struct nexus_store *files)
{
	kept = (typeof(kept)){ .files = files,
			       .store = { .name = "kept",
					  .lock = kept_lock,
					  .unlock = kept_unlock,
					  .get = kept_get,
					  .put = kept_put } };
	nexus_settings_set(&(struct nexus_settings){
		.store = &kept.store, .store_tries = 1, .store_timeout_ns = 3 * NS_PER_S });
}

static int kept_create(const char *name, struct nexus **ret, struct nexus_err *ne)
{
	const char *children[] = { "malloc:///kept?size_mb=32" };
	struct nexus_opts opts = { .name = name,
				   .size = 16 << 20,
				   .info_key = "v",
				   .children = children,
				   .nchildren = 1 };

	return nexus_create(&opts, ret, ne);
}

static bool is_free(struct nexus_store *store)
{
	struct store_lock *lock;

	if (store->lock(store, "v", &lock, NULL) < 0)
		return false;
	store->unlock(store, lock);
	return true;
}

ENGINE_TEST(a_nexus_owns_its_record_for_life)
{
	struct nexus_err ne = {};
	struct nexus *nx = NULL;
	struct locked_dir d;

	locked_start(&d);
	kept_start(d.store[0]);
	for (unsigned i = 0; i < 3; i++) { /* made again in the same process */
		if (!CHECK_EQ(kept_create("v", &nx, NULL), 0))
			return;
		CHECK(!is_free(d.store[1]));
		if (i == 1) { /* shut down it has written its last, and is still there */
			CHECK_EQ(nexus_shutdown(nx, NULL), 0);
			CHECK(is_free(d.store[1]));
		}
		CHECK_EQ(nexus_destroy(nx, NULL), 0);
		CHECK(is_free(d.store[1]));
	}
	CHECK_EQ(kept_create("v", &nx, NULL), 0);
	kept.ngets = 0;
	CHECK(kept_create("second", &nx, &ne) < 0);
	CHECK_EQ(ne.err.code, -EBUSY); /* before its child was opened: that is the first one's */
	CHECK_HAS(err_text(&ne.err), "volume second: another nexus of this process");
	CHECK_HAS(err_text(&ne.err), "another name");
	CHECK_EQ(kept.ngets, 0);
	CHECK_EQ(nexus_destroy(nexus_lookup("v"), NULL), 0);
	nexus_settings_set(&(struct nexus_settings){});
	locked_end(&d, "v.json");
}

ENGINE_TEST(a_put_that_outlives_its_nexus_keeps_the_lock)
{
	struct nexus *nx = NULL;
	struct locked_dir d;

	locked_start(&d);
	kept_start(d.store[0]);
	CHECK_EQ(kept_create("v", &nx, NULL), 0);
	kept.is_hanging = true;
	nexus_settings.store_timeout_ns = NS_PER_MS;
	CHECK_EQ(nexus_destroy(nx, NULL), 0); /* it ends without its record */
	CHECK(!is_free(d.store[1]));
	kept.is_hanging = false;
	task_event_fire(&kept.let_go);
	nexus_settings.store_timeout_ns = 3 * NS_PER_S;
	CHECK_EQ(kept_create("v", &nx, NULL), 0); /* waits for that end, and has its own lock */
	CHECK(!is_free(d.store[1]));
	CHECK_EQ(nexus_destroy(nx, NULL), 0);
	CHECK(is_free(d.store[1]));
	nexus_settings_set(&(struct nexus_settings){});
	locked_end(&d, "v.json");
}

/* ---- one put at a time ---------------------------------------------------------------------- */

static struct {
	struct nexus_store store;
	unsigned nputs, nactive;
	bool is_hanging;
	char last[RECORD_TEXT_MAX];
	struct task_event let_go;
} slow;

static int slow_put(struct nexus_store *store, const char *key, const char *text, struct err *err)
{
	(void)store;
	(void)key;
	(void)err;
	CHECK_EQ(slow.nactive++, 0); /* never two at once */
	if (slow.is_hanging)
		task_event_wait(&slow.let_go);
	(void)snprintf(slow.last, sizeof(slow.last), "%s", text);
	slow.nputs++;
	slow.nactive--;
	return 0;
}

ENGINE_TEST(a_put_that_hangs_is_not_overtaken)
{
	struct record_writer *writer = record_writer_new();
	static char text[RECORD_TEXT_MAX];
	struct err err = {};

	slow.store = (struct nexus_store){ .name = "slow", .put = slow_put };
	nexus_settings_set(&(struct nexus_settings){ .store = &slow.store });
	CHECK_EQ(record_writer_put(writer, "k", "0", 1000000000, &err), 0);
	slow.is_hanging = true;
	CHECK_EQ(record_writer_put(writer, "k", "1", 1000000, &err), -ETIMEDOUT);
	CHECK_HAS(err_text(&err), "slow");
	err_clear(&err);
	CHECK_EQ(record_writer_put(writer, "k", "2", 1000000, &err), -ETIMEDOUT);
	CHECK_EQ(slow.nputs, 1);
	slow.is_hanging = false;
	task_event_fire(&slow.let_go);
	err_clear(&err);
	CHECK_EQ(record_writer_put(writer, "k", "3", 1000000000, &err), 0);
	CHECK_EQ(slow.nputs, 3); /* the one that hung, and this */
	CHECK_STR(slow.last, "3");
	slow.is_hanging = true;
	slow.let_go = (struct task_event){};
	CHECK_EQ(record_writer_put(writer, "k", "4", 1000000, NULL), -ETIMEDOUT);
	record_writer_free(writer);   /* it goes when the store lets go */
	writer = record_writer_new(); /* of the nexus that is made again: as if it had hung here */
	slow.is_hanging = false;
	CHECK_EQ(record_writer_put(writer, "k", "5", 1000000, NULL), -ETIMEDOUT);
	CHECK_EQ(record_writer_get(writer, "k", text, 1000000, NULL), -ETIMEDOUT);
	CHECK_EQ(slow.nputs, 3);
	task_event_fire(&slow.let_go);
	CHECK_EQ(record_writer_put(writer, "k", "6", 1000000000, NULL), 0);
	CHECK_EQ(slow.nputs, 5);
	CHECK_STR(slow.last, "6");
	record_writer_free(writer);
	nexus_settings_set(&(struct nexus_settings){});
}

TAP_MAIN()
