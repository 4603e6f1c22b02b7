/* SPDX-License-Identifier: Apache-2.0 */
/* The record of who is healthy: as JSON, in memory, in files; and a store that hangs. */
#include "nexus/store.h"

#include <dirent.h>
#include <sys/stat.h>

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
