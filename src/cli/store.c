/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.c - the records of mirrors, for commands: files below the user's state directory.
 *
 *   ASHLAR_STORE=DIRECTORY   there
 *   ASHLAR_STORE=memory      nowhere: who is healthy is forgotten with the process, and that is
 * said
 *   otherwise                $XDG_STATE_HOME/ashlar/nexus, or ~/.local/state/ashlar/nexus
 *
 * A mirror is known by its uuid, or by the key= of its URI. One with neither gets a random uuid, so
 * nobody finds its record again: that is said, too.
 *
 * The directory is made when the first mirror is: commands that have to do with other devices leave
 * nothing behind. An environment variable and no option, as it is the same for all commands of a
 * user, and a record that lies in another place than last time would be worse than none.
 *
 * Thread: a task on the primary.
 */
#include "cli/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/uri.h"
#include "cli/cli.h"
#include "nexus/nexus.h"

static struct nexus_store *store; /* lives as long as the process */

int cli_store(struct nexus_store **ret, struct err *err)
{
	const char *set = getenv("ASHLAR_STORE"), *base = getenv("XDG_STATE_HOME");
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
	*ret = store;
	return result;
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
	else if (strstr(uri, "uuid=") == NULL && strstr(uri, "key=") == NULL)
		cli_warn("%s: without uuid= or key= its record is not found again", uri);
	nexus_settings_set(&(struct nexus_settings){ .store = found });
	return 0;
}
