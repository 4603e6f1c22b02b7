// SPDX-License-Identifier: Apache-2.0
/*
 * store.c - where a nexus that a command makes keeps its record: files, unless told otherwise.
 *
 *   --store DIR | memory         default: nexus/ in $XDG_STATE_HOME/ashlar (~/.local/state/ashlar)
 *
 * A record that ends with the process would let a replica that had missed writes pass for a good
 * one the next time, so memory is for those who ask for it, and they are warned. The folder is
 * made when the first record is read or written: most commands never see a nexus.
 *
 * Thread: cli_store_choose() on the main thread before the engine; the rest in tasks.
 */
#include "cli/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "nexus/nexus.h"

static struct {
	const char *choice;
	struct nexus_store *files; /* owned; NULL: nobody asked yet */
	struct task_mutex lock;
} place;

/* The folder's name; its parents are made. */
static int state_folder(char **ret_path, struct err *err)
{
	const char *base = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	char *path;
	int len;

	if (place.choice != NULL)
		len = asprintf(&path, "%s", place.choice);
	else if (base != NULL && base[0] == '/')
		len = asprintf(&path, "%s/ashlar/nexus", base);
	else if (home != NULL && home[0] == '/')
		len = asprintf(&path, "%s/.local/state/ashlar/nexus", home);
	else
		return err_set(err, -ENOENT,
			       "neither XDG_STATE_HOME nor HOME is set; give the folder for the "
			       "record with --store");
	if (len < 0)
		return err_set(err, -ENOMEM, "no memory for a folder's name");
	for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(path, 0700) != 0 && errno != EEXIST) {
			(void)err_set_sys(err, -errno, "cannot make the folder %s", path);
			free(path);
			return err->code;
		}
		*slash = '/';
	}
	*ret_path = path;
	return 0;
}

struct folder_call {
	char *path;
	struct err err;
	int result;
};

static void folder_job(void *arg)
{
	struct folder_call *call = arg;

	call->result = state_folder(&call->path, &call->err);
}

static int files_get(struct err *err) MAY_SUSPEND
{
	struct folder_call call = {};
	int result = 0;

	task_mutex_lock(&place.lock);
	if (place.files == NULL) {
		task_blocking(folder_job, &call);
		result = call.result;
		if (result < 0 && err != NULL)
			*err = call.err;
		if (result == 0)
			result = store_file_new(call.path, &place.files, err);
		free(call.path);
	}
	task_mutex_unlock(&place.lock);
	return result;
}

static int place_put(struct nexus_store *store, const char *key, const char *text, struct err *err)
{
	int result = files_get(err);

	(void)store;
	return result < 0 ? result : place.files->put(place.files, key, text, err);
}

static int place_get(struct nexus_store *store, const char *key, char text[RECORD_TEXT_MAX],
		     struct err *err)
{
	int result = files_get(err);

	(void)store;
	return result < 0 ? result : place.files->get(place.files, key, text, err);
}

static int place_del(struct nexus_store *store, const char *key, struct err *err)
{
	int result = files_get(err);

	(void)store;
	return result < 0 ? result : place.files->del(place.files, key, err);
}

static void place_free(struct nexus_store *store)
{
	(void)store;
	store_free(place.files);
	place.files = NULL;
}

static struct nexus_store files_when_needed = {
	.name = "files", .put = place_put, .get = place_get, .del = place_del, .free = place_free
};

void cli_store_choose(const char *choice)
{
	struct nexus_settings settings = { .store = &files_when_needed };

	if (choice != NULL && strcmp(choice, "memory") == 0) {
		cli_warn("--store memory: who of a nexus' children is healthy is forgotten when "
			 "this ends");
		settings.store = NULL;
	}
	place.choice = choice;
	task_mutex_init(&place.lock);
	nexus_settings_set(&settings);
}
