/* SPDX-License-Identifier: Apache-2.0 */
/*
 * copy_journal.c - how far an unfinished copy has come, kept where it outlives the process.
 *
 * One small JSON file per pair of source and destination. It names both by URI, size and block
 * size, holds the position in front of which everything was copied and flushed, and a check sum
 * over all of that. A file that does not fit what is being copied is refused, not repaired: to
 * continue a copy at the wrong place would leave a destination that looks whole.
 *
 * Names and sizes do not prove that the data in front of the position is this source's: another
 * image may have taken the place of one of the files. The command therefore compares the first and
 * the last chunk in front of the position before it goes on (copy.c).
 *
 * The file lies in $XDG_STATE_HOME/ashlar (~/.local/state/ashlar), named after the two URIs, or
 * where --state says. It is replaced by rename after fsync, so there is always a whole one; a copy
 * that ended well removes it.
 *
 * Rejected: a file beside the destination, which may be a disk or a host away; a trailer inside
 * the destination, which is the user's.
 *
 * Thread: journal_load() and journal_save() block: worker pool only. The rest: the task.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "cli/copy.h"

enum {
	JOURNAL_VERSION = 1,
	JOURNAL_MODE = 0600,
};

/* mkdir -p for the folder of @path. */
static int make_folder_of(const char *path, struct err *err)
{
	CLEANUP(freep) char *folder = strdup(path);

	if (folder == NULL)
		return err_set(err, -ENOMEM, "no memory for a file name");
	for (char *slash = strchr(folder + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(folder, 0700) != 0 && errno != EEXIST)
			return err_set_sys(err, -errno, "cannot make the folder %s", folder);
		*slash = '/';
	}
	return 0;
}

int journal_place(struct journal *j, const char *state, struct err *err)
{
	const char *base = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	uint32_t src = crc32c(0, j->src_uri, strlen(j->src_uri));
	uint32_t dst = crc32c(0, j->dst_uri, strlen(j->dst_uri));
	int len;

	if (state != NULL)
		len = asprintf(&j->path, "%s", state);
	else if (base != NULL && base[0] == '/')
		len = asprintf(&j->path, "%s/ashlar/copy-%08x%08x.json", base, src, dst);
	else if (home != NULL && home[0] == '/')
		len = asprintf(&j->path, "%s/.local/state/ashlar/copy-%08x%08x.json", home, src,
			       dst);
	else
		return err_set(err, -ENOENT,
			       "neither XDG_STATE_HOME nor HOME is set; give the "
			       "file for the position with --state");
	if (len < 0) {
		j->path = NULL;
		return err_set(err, -ENOMEM, "no memory for a file name");
	}
	return 0;
}

/* Everything that matters, in one text; what the check sum covers. */
static char *journal_text(const struct journal *j)
{
	char *text = NULL;

	if (asprintf(&text, "%d\n%s\n%" PRIu64 "\n%u\n%s\n%" PRIu64 "\n%u\n%" PRIu64 "\n",
		     JOURNAL_VERSION, j->src_uri, j->src_size, j->src_block, j->dst_uri,
		     j->dst_size, j->dst_block, j->position) < 0)
		return NULL;
	return text;
}

static int journal_sum(const struct journal *j, uint32_t *ret_crc, struct err *err)
{
	CLEANUP(freep) char *text = journal_text(j);

	if (text == NULL)
		return err_set(err, -ENOMEM, "no memory for the journal");
	*ret_crc = crc32c(0, text, strlen(text));
	return 0;
}

static json_t *side_to_json(const char *uri, uint64_t size, uint32_t block)
{
	return json_pack("{s:s, s:I, s:I}", "uri", uri, "size", (json_int_t)size, "block_size",
			 (json_int_t)block);
}

int journal_save(const struct journal *j, struct err *err)
{
	CLEANUP(freep) char *temporary = NULL;
	CLEANUP(closep) int fd = -1;
	uint32_t crc;
	json_t *object;
	int rc = journal_sum(j, &crc, err);

	if (rc == 0)
		rc = make_folder_of(j->path, err);
	if (rc != 0)
		return rc;
	if (asprintf(&temporary, "%s.new", j->path) < 0)
		return err_set(err, -ENOMEM, "no memory for a file name");
	object = json_pack("{s:i, s:o, s:o, s:I, s:I}", "version", JOURNAL_VERSION, "source",
			   side_to_json(j->src_uri, j->src_size, j->src_block), "destination",
			   side_to_json(j->dst_uri, j->dst_size, j->dst_block), "position",
			   (json_int_t)j->position, "crc32c", (json_int_t)crc);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, JOURNAL_MODE);
	errno = fd < 0 ? errno : 0;
	if (fd < 0 || object == NULL || json_dumpfd(object, fd, JSON_INDENT(2)) != 0 ||
	    fsync(fd) != 0 || rename(temporary, j->path) != 0)
		rc = err_set_sys(err, errno != 0 ? -errno : -EIO, "cannot write %s", j->path);
	json_decref(object);
	return rc;
}

static int journal_refuse(const struct journal *j, const char *what, struct err *err)
{
	return err_set(err, -EINVAL,
		       "%s: %s; to copy everything again leave out --resume (or remove the file)",
		       j->path, what);
}

static bool side_fits(json_t *object, const char *uri, uint64_t size, uint32_t block)
{
	const char *text = json_string_value(json_object_get(object, "uri"));

	return text != NULL && strcmp(text, uri) == 0 &&
	       (uint64_t)json_integer_value(json_object_get(object, "size")) == size &&
	       (uint64_t)json_integer_value(json_object_get(object, "block_size")) == block;
}

static int journal_take(struct journal *j, json_t *object, struct err *err)
{
	uint64_t position = (uint64_t)json_integer_value(json_object_get(object, "position"));
	uint64_t stored = (uint64_t)json_integer_value(json_object_get(object, "crc32c"));
	uint32_t crc;
	int rc;

	if (json_integer_value(json_object_get(object, "version")) != JOURNAL_VERSION)
		return journal_refuse(j, "it is of another version of this program", err);
	if (!side_fits(json_object_get(object, "source"), j->src_uri, j->src_size, j->src_block))
		return journal_refuse(j,
				      "it belongs to another source, or the source has changed "
				      "its size",
				      err);
	if (!side_fits(json_object_get(object, "destination"), j->dst_uri, j->dst_size,
		       j->dst_block))
		return journal_refuse(j,
				      "it belongs to another destination, or that has changed "
				      "its size",
				      err);
	j->position = position;
	rc = journal_sum(j, &crc, err);
	if (rc != 0)
		return rc;
	if (crc != stored || position > j->src_size)
		return journal_refuse(j, "its check sum is wrong: the file is damaged", err);
	return 0;
}

int journal_load(struct journal *j, struct err *err)
{
	json_error_t where;
	json_t *object;
	int rc;

	j->position = 0;
	if (access(j->path, F_OK) != 0 && errno == ENOENT)
		return -ENOENT;
	object = json_load_file(j->path, JSON_REJECT_DUPLICATES, &where);
	if (object == NULL)
		return journal_refuse(j, "it cannot be read as JSON", err);
	rc = journal_take(j, object, err);
	json_decref(object);
	return rc;
}

void journal_remove(const struct journal *j)
{
	if (j->path != NULL)
		(void)unlink(j->path); /* there may be none */
}

void journal_done(struct journal *j)
{
	free(j->path);
	j->path = NULL;
}
