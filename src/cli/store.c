/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.c - the records of mirrors, for commands: files below the user's state directory.
 *
 *   export --store, ASHLAR_STORE    a directory, or
 *             memory                nowhere: who is healthy is forgotten with the process, and that
 *                                   is said
 *   otherwise                       $XDG_STATE_HOME/ashlar/nexus, or ~/.local/state/ashlar/nexus
 *
 * A mirror's record is found by the key= of its URI, by its uuid=, or else by its name. A record of
 * that name which knows none of the replicas is not believed, so another volume with the same name
 * does no harm.
 *
 * The directory is made when the first mirror is: commands that have to do with other devices leave
 * nothing behind. One that an option names is made at once, and must take records: an export that
 * is told of its first mirror later should not find out then. One that cannot be made ends the
 * command: forgetting must be asked for. The
 * environment, as it is the same for all commands of a user, and a record that lies in another
 * place than last time is as good as none; the option for who serves, since a unit file says it all
 * in one line.
 *
 * Thread: a task on the primary.
 */
#include "cli/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/uri.h"
#include "cli/cli.h"
#include "nexus/nexus.h"

static struct nexus_store *store; /* lives as long as the process */
static const char *place;         /* as an option said */

void cli_store_choose(const char *where)
{
	place = where;
}

int cli_store(struct nexus_store **ret, struct err *err)
{
	const char *set = place != NULL ? place : getenv("ASHLAR_STORE"),
		   *base = getenv("XDG_STATE_HOME");
	const char *home = getenv("HOME");
	CLEANUP(freep) char *dir = NULL;
	int len = -1, result;

	*ret = store;
	if (store != NULL || (set != NULL && strcmp(set, "memory") == 0))
		return 0;
	if (set != NULL && set[0] != '\0')
		len = asprintf(&dir, "%s", set);
	else if (base != NULL && base[0] == '/')
		len = asprintf(&dir, "%s/ashlar/nexus", base);
	else if (home != NULL && home[0] == '/')
		len = asprintf(&dir, "%s/.local/state/ashlar/nexus", home);
	else
		return err_set(
			err, -ENOENT,
			"neither XDG_STATE_HOME nor HOME is set; say with ASHLAR_STORE where "
			"records of mirrors are kept, or ASHLAR_STORE=memory");
	if (len < 0) {
		dir = NULL;
		return err_set(err, -ENOMEM, "no memory for a file name");
	}
	result = store_file_new(dir, &store, err);
	if (result < 0)
		(void)err_hint(err, "ASHLAR_STORE or export --store names another directory");
	*ret = store;
	return result;
}

static void access_here(void *arg)
{
	int *result = arg;

	*result = access(place, W_OK | X_OK) < 0 ? -errno : 0;
}

int cli_store_check(struct err *err)
{
	struct nexus_store *found = NULL;
	int result;

	if (place == NULL || place[0] == '\0' || strcmp(place, "memory") == 0)
		return 0;
	result = cli_store(&found, err);
	if (result < 0)
		return result;
	task_blocking(access_here, &result);
	return result < 0 ? err_set_sys(err, result, "records in directory %s", place) : 0;
}

int cli_store_for(const char *uri, struct err *err)
{
	CLEANUP(uri_freep) struct uri *parts = NULL;
	struct nexus_store *found;
	int result;

	if (strncmp(uri, "nexus:", 6) != 0)
		return 0;
	result = cli_store(&found, err);
	if (result < 0)
		return result;
	if (found == NULL)
		cli_warn("%s: the record of who is healthy is kept in memory only", uri);
	nexus_settings_set(&(struct nexus_settings){ .store = found });
	return 0;
}
