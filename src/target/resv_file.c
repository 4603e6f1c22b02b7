// SPDX-License-Identifier: Apache-2.0
/*
 * Reservations that survive loss of power (PTPL): one small JSON file per device.
 *
 *   {"crc32c": N, "version": 1, "device": UUID, "type": 0 ... 6, "holder": HOST,
 *    "registrants": [{"host": HOST, "key": KEY}, ...]}
 *
 * HOST is a host identifier written like a uuid, KEY 16 hex digits: JSON numbers do not hold 64
 * bits. The sum covers the rest of the object as it is printed compactly with its keys sorted.
 *
 * The file is the word of the hosts: two of them may rely on it that a third cannot write. So what
 * cannot be read is refused, never replaced by an empty state, and a person has to say that the
 * reservations may go (by removing the file). It is treated as hostile: bounded size, no links
 * followed, every value checked, then the invariants of a state as a whole.
 *
 * It is replaced as a whole: write beside it, fsync, rename, fsync of the directory. A state that
 * is not persistent leaves no file.
 *
 * Two processes that keep one device's state would each undo what the other has promised. So who
 * serves the device holds a lock, one byte of the folder's file ".lock" at a place that follows
 * from the uuid: processes may share a folder, not a device. The kernel takes the lock back when
 * the process ends, however it does.
 *
 * Thread: worker pool, or a test; everything here blocks.
 *
 * Rejected: a file per subsystem (devices move from one to another and take theirs along); a lock
 * on the state's own file (it is replaced, and often there is none); a lock file per device (they
 * would stay behind).
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/rng.h"
#include "target/resv.h"

enum {
	FILE_VERSION = 1,
	FILE_SIZE_MAX = 64 << 10, /* 128 registrants take less than 16 KiB */
	FILE_MODE = 0600,
	KEY_DIGITS = 16,
};

static void json_put(json_t **json)
{
	json_decref(*json);
	*json = NULL;
}

static json_t *host_to_json(const struct resv_host *host)
{
	char text[UUID_TEXT_SIZE];
	struct uuid uuid;

	memcpy(uuid.b, host->id, sizeof(uuid.b));
	return json_string(uuid_to_text(&uuid, text));
}

static bool host_from_json(const json_t *json, struct resv_host *ret)
{
	struct uuid uuid;

	if (!json_is_string(json) || uuid_from_text(json_string_value(json), &uuid, NULL) != 0)
		return false;
	memcpy(ret->id, uuid.b, sizeof(ret->id));
	return true;
}

static bool key_from_json(const json_t *json, uint64_t *ret)
{
	const char *text = json_string_value(json);
	char *end;

	if (text == NULL || strlen(text) != KEY_DIGITS ||
	    strspn(text, "0123456789abcdef") != KEY_DIGITS)
		return false;
	*ret = strtoull(text, &end, 16);
	return true;
}

static int sum_add(const char *text, size_t len, void *sum)
{
	*(uint32_t *)sum = crc32c(*(uint32_t *)sum, text, len);
	return 0;
}

/* The sum over @object, which must not hold one yet. False: no memory. */
static bool sum_of(const json_t *object, uint32_t *ret)
{
	*ret = 0;
	return json_dump_callback(object, sum_add, ret, JSON_COMPACT | JSON_SORT_KEYS) == 0;
}

/* ---- reading -------------------------------------------------------------------------------- */

static int bad_file(const char *path, const char *why, struct err *err)
{
	return err_set(err, -EINVAL,
		       "%s: reservations cannot be trusted: %s; mend the file, or remove it if no "
		       "host relies on them",
		       path, why);
}

/* *ret_text is malloc'd, NULL where there is no file. */
static int read_all(const char *path, char **ret_text, size_t *ret_len, struct err *err)
{
	CLEANUP(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	CLEANUP(freep) char *text = NULL;
	size_t len = 0;
	struct stat st;

	*ret_text = NULL;
	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0 || fstat(fd, &st) != 0)
		return err_set_sys(err, -errno, "cannot read the reservations in %s", path);
	if (!S_ISREG(st.st_mode) || st.st_size > FILE_SIZE_MAX)
		return bad_file(path, "not a file of ours", err);
	text = malloc(FILE_SIZE_MAX + 1);
	if (text == NULL)
		return err_set(err, -ENOMEM, "no memory for the reservations in %s", path);
	while (len <= FILE_SIZE_MAX) {
		ssize_t got = read(fd, text + len, FILE_SIZE_MAX + 1 - len);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return err_set_sys(err, -errno, "cannot read the reservations in %s", path);
		if (got == 0)
			break;
		len += (size_t)got;
	}
	*ret_len = len;
	*ret_text = take(text);
	return 0;
}

static const char *parse_registrants(const json_t *list, struct resv *r)
{
	if (!json_is_array(list) || json_array_size(list) > RESV_REGISTRANTS_MAX)
		return "no list of registrants, or too long a one";
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *item = json_array_get(list, i);

		if (!host_from_json(json_object_get(item, "host"), &r->registrant[i].host) ||
		    !key_from_json(json_object_get(item, "key"), &r->registrant[i].key))
			return "a registrant without host or key";
	}
	r->count = (uint16_t)json_array_size(list);
	return NULL;
}

static const char no_memory[] =
	"no memory to look at it"; /* the one that is not the file's fault */

/* Fill @r from @object, which loses its sum. NULL, or what is wrong with it. */
static const char *parse(json_t *object, const struct uuid *uuid, struct resv *r)
{
	const json_t *sum_json = json_object_get(object, "crc32c");
	json_int_t stored = json_integer_value(sum_json), type;
	const json_t *type_json;
	struct resv_host device;
	uint32_t sum;

	if (!json_is_integer(sum_json))
		return "it has no check sum";
	(void)json_object_del(object, "crc32c");
	if (!sum_of(object, &sum))
		return no_memory;
	if (stored != (json_int_t)sum)
		return "its check sum is wrong";
	if (json_integer_value(json_object_get(object, "version")) != FILE_VERSION)
		return "another version wrote it";
	if (!host_from_json(json_object_get(object, "device"), &device) ||
	    memcmp(device.id, uuid->b, sizeof(uuid->b)) != 0)
		return "it belongs to another device";
	type_json = json_object_get(object, "type");
	type = json_integer_value(type_json);
	if (!json_is_integer(type_json) || type < 0 || resv_type_name((unsigned)type) == NULL ||
	    type > UINT8_MAX)
		return "it holds no type";
	r->type = (uint8_t)type;
	if (!host_from_json(json_object_get(object, "holder"), &r->holder))
		return "it holds no holder";
	r->is_persistent = true;
	return parse_registrants(json_object_get(object, "registrants"), r);
}

int resv_file_load(const char *path, const struct uuid *uuid, struct resv *ret, struct err *err)
{
	CLEANUP(json_put) json_t *object = NULL;
	CLEANUP(freep) struct resv *r = calloc(1, sizeof(*r));
	CLEANUP(freep) char *text = NULL;
	json_error_t json_error;
	const char *why;
	size_t len = 0;
	int rc;

	if (r == NULL)
		return err_set(err, -ENOMEM, "no memory for the reservations in %s", path);
	rc = read_all(path, &text, &len, err);
	if (rc != 0)
		return rc;
	if (text != NULL) {
		object = json_loadb(text, len, JSON_REJECT_DUPLICATES, &json_error);
		if (object == NULL && json_error_code(&json_error) == json_error_out_of_memory)
			why = no_memory;
		else
			why = json_is_object(object) ? parse(object, uuid, r) : "it is not JSON";
		if (why == NULL && !resv_is_valid(r))
			why = "no commands lead to what it holds";
		if (why == no_memory)
			return err_set(err, -ENOMEM, "%s: %s", path, why);
		if (why != NULL)
			return bad_file(path, why, err);
	}
	*ret = *r;
	return 0;
}

/* ---- writing -------------------------------------------------------------------------------- */

static json_t *registrants_to_json(const struct resv *r)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < r->count; i++) {
		char key[KEY_DIGITS + 1];

		(void)snprintf(key, sizeof(key), "%016" PRIx64, r->registrant[i].key);
		if (json_array_append_new(list, json_pack("{s:o, s:s}", "host",
							  host_to_json(&r->registrant[i].host),
							  "key", key)) != 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

/* The text of the file; NULL: no memory. */
static char *print(const struct uuid *uuid, const struct resv *r)
{
	char device[UUID_TEXT_SIZE];
	CLEANUP(json_put)
	json_t *object = json_pack("{s:i, s:s, s:i, s:o, s:o}", "version", FILE_VERSION, "device",
				   uuid_to_text(uuid, device), "type", (int)r->type, "holder",
				   host_to_json(&r->holder), "registrants", registrants_to_json(r));
	uint32_t sum;

	if (object == NULL || !sum_of(object, &sum) ||
	    json_object_set_new(object, "crc32c", json_integer(sum)) != 0)
		return NULL;
	return json_dumps(object, JSON_INDENT(1) | JSON_SORT_KEYS);
}

static int sync_folder_of(const char *path, struct err *err)
{
	CLEANUP(freep) char *copy = strdup(path);
	CLEANUP(closep) int fd = -1;
	const char *folder = ".";
	char *slash;

	if (copy == NULL)
		return err_set(err, -ENOMEM, "no memory for a file name");
	slash = strrchr(copy, '/');
	if (slash != NULL) {
		slash[1] = '\0';
		folder = copy;
	}
	fd = open(folder, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
	if (fd < 0 || fsync(fd) != 0)
		return err_set_sys(err, -errno, "reservations not safe in %s", folder);
	return 0;
}

int resv_file_folder(const char *folder, struct err *err)
{
	CLEANUP(freep) char *path = strdup(folder);

	if (path == NULL)
		return err_set(err, -ENOMEM, "no memory for a file name");
	for (size_t len = strlen(path); len > 1 && path[len - 1] == '/'; len--)
		path[len - 1] = '\0';
	if (mkdir(path, 0700) == 0)
		return sync_folder_of(path, err);
	if (errno == EEXIST)
		return 0;
	return err_set_sys(err, -errno, "cannot make the folder %s for reservations", folder);
}

int resv_file_lock(const char *folder, const struct uuid *uuid, int *ret_fd, struct err *err)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1 };
	size_t size = strlen(folder) + sizeof("/.lock");
	CLEANUP(freep) char *path = malloc(size);
	CLEANUP(closep) int fd = -1;
	uint64_t half[2];

	if (path == NULL)
		return err_set(err, -ENOMEM, "no memory for a file name");
	(void)snprintf(path, size, "%s/.lock", folder);
	memcpy(half, uuid->b, sizeof(half));
	half[1] ^= splitmix64(&half[0]);
	lock.l_start = (off_t)(splitmix64(&half[1]) >> 2); /* positive, and so is the end */
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, FILE_MODE);
	if (fd < 0)
		return err_set_sys(err, -errno, "cannot lock the reservations in %s", path);
	if (fcntl(fd, F_OFD_SETLK, &lock) != 0) {
		if (errno != EAGAIN && errno != EACCES)
			return err_set_sys(err, -errno, "cannot lock the reservations in %s", path);
		return err_set(err, -EBUSY,
			       "another process serves this device and keeps its reservations in "
			       "%s; end it, or take another folder",
			       folder);
	}
	*ret_fd = fd;
	fd = -1;
	return 0;
}

static bool write_all(int fd, const char *text)
{
	size_t left = strlen(text);

	while (left > 0) {
		ssize_t done = write(fd, text, left);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return false;
		text += done;
		left -= (size_t)done;
	}
	return true;
}

static int replace(const char *path, const char *text, struct err *err)
{
	CLEANUP(freep) char *temporary = NULL;
	CLEANUP(closep) int fd = -1;
	int rc;

	if (asprintf(&temporary, "%s.new", path) < 0) {
		temporary = NULL;
		return err_set(err, -ENOMEM, "no memory for a file name");
	}
	(void)unlink(temporary); /* what a process that was killed left */
	fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, FILE_MODE);
	if (fd >= 0 && write_all(fd, text) && fsync(fd) == 0 && rename(temporary, path) == 0)
		return 0;
	rc = err_set_sys(err, -errno, "cannot write the reservations to %s", path);
	(void)unlink(temporary);
	return rc;
}

int resv_file_save(const char *path, const struct uuid *uuid, const struct resv *r, struct err *err)
{
	CLEANUP(freep) char *text = NULL;
	int rc;

	if (r->is_persistent) {
		text = print(uuid, r);
		if (text == NULL)
			return err_set(err, -ENOMEM, "no memory for the reservations in %s", path);
		rc = replace(path, text, err);
		if (rc != 0)
			return rc;
	} else if (unlink(path) != 0 && errno != ENOENT) {
		return err_set_sys(err, -errno, "cannot remove the reservations in %s", path);
	}
	return sync_folder_of(path, err);
}
