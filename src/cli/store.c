/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.c - without a daemon, the record of which replicas are healthy is a file of the user's.
 *
 * A mirror without its record would take a stale replica for a good one after the next start. So
 * a nexus: URI on a command line gets a store that outlives the process: one file per nexus in
 * $XDG_STATE_HOME/ashlar/nexus (~/.local/state/ashlar/nexus), or where --store or $ASHLAR_STORE
 * says. A directory that cannot be made or opened ends the command: forgetting must be asked for.
 * `memory` in place of a directory asks for it, and is warned about, once.
 *
 * The store is made when the first nexus: URI is met, not at start: a command that mirrors nothing
 * leaves nothing behind.
 *
 * Rejected: the record beside the replicas. They are what it has to judge.
 *
 * Thread: a task on the primary reactor.
 */
#include "cli/store.h"

#include <errno.h>
#include <string.h>

#include "cli/cli.h"
#include "nexus/nexus.h"

#define NEXUS_SCHEME "nexus:"

static struct nexus_store *the_store; /* owned; NULL: no nexus was met */

static int default_dir(char **ret_dir, struct err *err)
{
	const char *base = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	int len;

	if (base != NULL && base[0] == '/')
		len = asprintf(ret_dir, "%s/ashlar/nexus", base);
	else if (home != NULL && home[0] == '/')
		len = asprintf(ret_dir, "%s/.local/state/ashlar/nexus", home);
	else
		return err_set(err, -ENOENT,
			       "a nexus keeps a record of its healthy replicas: set HOME or "
			       "XDG_STATE_HOME, or ASHLAR_STORE");
	if (len >= 0)
		return 0;
	*ret_dir = NULL;
	return err_set(err, -ENOMEM, "no memory for a file name");
}

static int file_store(const char *where, struct err *err) MAY_SUSPEND
{
	CLEANUP(freep) char *dir = NULL;
	int rc = where == NULL ? default_dir(&dir, err) : 0;

	if (rc == 0)
		rc = store_file_new(where != NULL ? where : dir, &the_store, err);
	if (rc != 0)
		(void)err_hint(err, "choose another directory%s",
			       where != NULL ? "" : ": ASHLAR_STORE, or export --store DIR");
	return rc;
}

static int store_make(const char *where, struct err *err) MAY_SUSPEND
{
	int rc = 0;

	if (the_store != NULL)
		return 0;
	if (where == NULL)
		where = getenv("ASHLAR_STORE");
	if (where != NULL && where[0] == '\0')
		where = NULL;
	if (where != NULL && strcmp(where, "memory") == 0) {
		the_store = store_memory_new();
		if (the_store == NULL)
			return err_set(err, -ENOMEM, "no memory for a store");
		cli_warn("store memory: which replicas are stale is forgotten at the end; after "
			 "that one may be taken for a good one");
	} else {
		rc = file_store(where, err);
	}
	if (rc == 0)
		nexus_settings_set(&(struct nexus_settings){ .store = the_store });
	return rc;
}

int store_prepare(const char *uri, const char *where, struct err *err)
{
	if (strncmp(uri, NEXUS_SCHEME, strlen(NEXUS_SCHEME)) != 0)
		return 0;
	return store_make(where, err);
}

int store_get(struct nexus_store **ret, struct err *err)
{
	int rc = store_make(NULL, err);

	*ret = the_store;
	return rc;
}

void store_done(void)
{
	store_free(take(the_store));
}
