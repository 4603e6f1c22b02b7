/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.c - two places for the record of who is healthy: memory and files.
 *
 * memory: gone with the process. For tests, for volumes that need not outlive it, and as what
 * there is where nobody said anything.
 *
 * files: one per key in a directory. A put writes KEY.tmp, syncs it, renames it over KEY.json and
 * syncs the directory; so at any moment of a crash there is the old record or the new one, whole.
 * Everything that may block runs on the worker pool. A key becomes a file name by
 * percent-encoding what is not a letter, a digit, a hyphen or an underscore: no key can name
 * another directory.
 *
 * A put that failed after the rename is reported as failed though the new record may be there.
 * That is safe: who puts again puts the same or a newer one.
 *
 * A record's lock is one of the kernel's on KEY.lock, so it ends with its owner, kill -9 or not. It
 * is bound to the open file (F_OFD_SETLK), not to the process: a second nexus in this process is
 * kept out as well, and no other close() gives it up. A fork inherits it until it executes
 * something; so it is given up in so many words, not by a close() alone. Who gives it up removes
 * the file first, and who has locked a file looks whether it still is the one of that name. A
 * process that was killed may be gone a little before its locks are, and one that is replaced ends
 * while the next one starts: a lock that is taken is looked at for LOCK_WAIT_MS.
 *
 * Thread: tasks on the primary, one call per store and key at a time (record_writer.c).
 *
 * Rejected: one lock file with a range of bytes for each key (it cannot say whose they are); a
 * process id without a lock (it may be another process's by now, or one of another container); one
 * file with all records (a torn write would concern all volumes); an fsync through
 * the reactor's ring (rename and the directory's sync have none on the oldest kernel).
 */
#include "nexus/store.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "base/list.h"

enum {
	PATH_LEN_MAX = 4096, /* bytes with the NUL, as the kernel has it */
	LOCK_WAIT_MS = 1000,
	LOCK_LOOK_MS = 10,
	PID_TEXT_MAX = 16, /* with the NUL */
};

/* ---- memory --------------------------------------------------------------------------------- */

struct memory_record {
	struct list link;
	char key[STORE_KEY_MAX];
	char text[RECORD_TEXT_MAX];
};

struct memory_store {
	struct nexus_store store;
	struct list records;
};

static struct memory_record *memory_find(struct nexus_store *store, const char *key)
{
	struct memory_store *m = container_of(store, struct memory_store, store);
	struct memory_record *record;

	list_for_each (record, &m->records, link) {
		if (strcmp(record->key, key) == 0)
			return record;
	}
	return NULL;
}

static int memory_put(struct nexus_store *store, const char *key, const char *text, struct err *err)
{
	struct memory_store *m = container_of(store, struct memory_store, store);
	struct memory_record *record = memory_find(store, key);

	if (record == NULL) {
		record = calloc(1, sizeof(*record));
		if (record == NULL)
			return err_set(err, -ENOMEM, "no memory for the record of %s", key);
		(void)snprintf(record->key, sizeof(record->key), "%s", key);
		list_add_tail(&m->records, &record->link);
	}
	(void)snprintf(record->text, sizeof(record->text), "%s", text);
	return 0;
}

static int memory_get(struct nexus_store *store, const char *key, char text[RECORD_TEXT_MAX],
		      struct err *err)
{
	struct memory_record *record = memory_find(store, key);

	if (record == NULL)
		return err_set(err, -ENOENT, "no record of %s", key);
	memcpy(text, record->text, RECORD_TEXT_MAX);
	return 0;
}

static int memory_del(struct nexus_store *store, const char *key, struct err *err)
{
	struct memory_record *record = memory_find(store, key);

	if (record == NULL)
		return err_set(err, -ENOENT, "no record of %s", key);
	list_del(&record->link);
	free(record);
	return 0;
}

static void memory_free(struct nexus_store *store)
{
	struct memory_store *m = container_of(store, struct memory_store, store);
	struct memory_record *record, *next;

	list_for_each_safe (record, next, &m->records, link)
		free(record);
	free(m);
}

struct nexus_store *store_memory_new(void)
{
	struct memory_store *m = calloc(1, sizeof(*m));

	if (m == NULL)
		return NULL;
	m->store = (struct nexus_store){ .name = "memory",
					 .put = memory_put,
					 .get = memory_get,
					 .del = memory_del,
					 .free = memory_free };
	list_init(&m->records);
	return &m->store;
}

/* ---- files ---------------------------------------------------------------------------------- */

struct file_store {
	struct nexus_store store;
	char *dir;  /* owned */
	int dir_fd; /* owned */
};

struct store_lock {
	int fd; /* owned */
	char name[3 * STORE_KEY_MAX + 8];
};

/* A call that runs on the worker pool. */
struct file_call {
	struct file_store *fs;
	const char *key, *text;
	char *ret_text;
	struct store_lock *lock;
	char owner[PID_TEXT_MAX]; /* whose lock it is, if it is another's */
	int (*fn)(struct file_call *call);
	int result;
	struct err *err;
	char name[3 * STORE_KEY_MAX + 8];
};

/* @suffix: five characters */
static void file_name(const char *key, const char *suffix, char name[3 * STORE_KEY_MAX + 8])
{
	size_t len = 0;

	for (; *key != '\0' && len < (size_t)3 * STORE_KEY_MAX - 3; key++) {
		if (isalnum((unsigned char)*key) || *key == '-' || *key == '_')
			name[len++] = *key;
		else
			len += (size_t)snprintf(name + len, 4, "%%%02X", (unsigned char)*key);
	}
	memcpy(name + len, suffix, sizeof(".json"));
}

static int write_all(int fd, const char *text)
{
	size_t left = strlen(text);

	while (left > 0) {
		ssize_t n = write(fd, text, left);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			text += n;
			left -= (size_t)n;
		}
	}
	return 0;
}

static int file_put_here(struct file_call *call)
{
	char temp[sizeof(call->name) + 8];
	int fd CLEANUP(closep) = -1;
	int result;

	(void)snprintf(temp, sizeof(temp), "%s.tmp", call->name);
	fd = openat(call->fs->dir_fd, temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	result = write_all(fd, call->text);
	if (result < 0)
		return result;
	if (fsync(fd) < 0 || renameat(call->fs->dir_fd, temp, call->fs->dir_fd, call->name) < 0 ||
	    fsync(call->fs->dir_fd) < 0)
		return -errno;
	return 0;
}

static int file_get_here(struct file_call *call)
{
	int fd CLEANUP(closep) = openat(call->fs->dir_fd, call->name, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	while ((n = read(fd, call->ret_text + len, RECORD_TEXT_MAX - len)) != 0) {
		if (n < 0 && errno != EINTR)
			return -errno;
		len += n > 0 ? (size_t)n : 0;
		if (len == RECORD_TEXT_MAX)
			return -EFBIG;
	}
	call->ret_text[len] = '\0';
	return 0;
}

static int file_del_here(struct file_call *call)
{
	if (unlinkat(call->fs->dir_fd, call->name, 0) < 0 || fsync(call->fs->dir_fd) < 0)
		return -errno;
	return 0;
}

static void file_call_here(void *arg)
{
	struct file_call *call = arg;

	call->result = call->fn(call);
}

static int file_call(struct nexus_store *store, const char *key, const char *text, char *ret_text,
		     int (*fn)(struct file_call *call), struct err *err)
{
	struct file_call call = { .fs = container_of(store, struct file_store, store),
				  .key = key,
				  .text = text,
				  .ret_text = ret_text,
				  .fn = fn };

	file_name(key, ".json", call.name);
	task_blocking(file_call_here, &call);
	if (call.result < 0)
		return err_set_sys(err, call.result, "record %s/%s", call.fs->dir, call.name);
	return 0;
}

static int file_put(struct nexus_store *store, const char *key, const char *text, struct err *err)
{
	return file_call(store, key, text, NULL, file_put_here, err);
}

static int file_get(struct nexus_store *store, const char *key, char text[RECORD_TEXT_MAX],
		    struct err *err)
{
	return file_call(store, key, NULL, text, file_get_here, err);
}

static int file_del(struct nexus_store *store, const char *key, struct err *err)
{
	return file_call(store, key, NULL, NULL, file_del_here, err);
}

/* ---- locks of files ------------------------------------------------------------------------- */

/* The file may have been removed by its last owner, and another one made, since it was opened. */
static bool is_named(int dir_fd, int fd, const char *name)
{
	struct stat here, there;

	return fstat(fd, &here) == 0 && fstatat(dir_fd, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	       here.st_ino == there.st_ino && here.st_dev == there.st_dev;
}

static void read_owner(int fd, char owner[PID_TEXT_MAX])
{
	ssize_t n = pread(fd, owner, PID_TEXT_MAX - 1, 0);

	owner[n > 0 ? n : 0] = '\0';
	owner[strspn(owner, "0123456789")] = '\0';
}

/* -EAGAIN: it is another's, or was until now. */
static int lock_try(struct file_call *call)
{
	struct flock range = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct store_lock *lock = call->lock;
	int fd CLEANUP(closep) = openat(call->fs->dir_fd, lock->name,
					O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	char pid[PID_TEXT_MAX];

	if (fd < 0)
		return -errno;
	if (fcntl(fd, F_OFD_SETLK, &range) < 0) {
		if (errno != EAGAIN && errno != EACCES)
			return -errno;
		read_owner(fd, call->owner);
		return -EAGAIN;
	}
	if (!is_named(call->fs->dir_fd, fd, lock->name))
		return -EAGAIN;
	(void)snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
	if (ftruncate(fd, 0) < 0)
		return -errno;
	lock->fd = fd;
	fd = -1;
	return write_all(lock->fd, pid);
}

static int file_lock_here(struct file_call *call)
{
	static const struct timespec pause = { .tv_nsec = LOCK_LOOK_MS * 1000000l };
	int result = lock_try(call);

	for (int waited_ms = 0; result == -EAGAIN && waited_ms < LOCK_WAIT_MS;
	     waited_ms += LOCK_LOOK_MS) {
		(void)nanosleep(&pause, NULL);
		result = lock_try(call);
	}
	return result;
}

static int file_unlock_here(struct file_call *call)
{
	struct flock range = { .l_type = F_UNLCK, .l_whence = SEEK_SET };
	struct store_lock *lock = call->lock;

	if (is_named(call->fs->dir_fd, lock->fd, lock->name))
		(void)unlinkat(call->fs->dir_fd, lock->name, 0);
	(void)fcntl(lock->fd, F_OFD_SETLK, &range);
	closep(&lock->fd);
	return 0;
}

static void file_unlock(struct nexus_store *store, struct store_lock *lock)
{
	struct file_call call = { .fs = container_of(store, struct file_store, store),
				  .lock = lock,
				  .fn = file_unlock_here };

	task_blocking(file_call_here, &call);
	free(lock);
}

static int file_lock(struct nexus_store *store, const char *key, struct store_lock **ret,
		     struct err *err)
{
	struct store_lock *lock = calloc(1, sizeof(*lock));
	struct file_call call = { .fs = container_of(store, struct file_store, store),
				  .lock = lock,
				  .fn = file_lock_here };

	if (lock == NULL)
		return err_set(err, -ENOMEM, "no memory for the lock of %s", key);
	lock->fd = -1;
	file_name(key, ".lock", lock->name);
	task_blocking(file_call_here, &call);
	if (call.result == 0) {
		*ret = lock;
		return 0;
	}
	if (lock->fd >= 0)
		file_unlock(store, lock);
	else
		free(lock);
	if (call.result != -EAGAIN)
		return err_set_sys(err, call.result, "no lock in %s for the record of %s",
				   call.fs->dir, key);
	if (strtol(call.owner, NULL, 10) == (long)getpid())
		return err_set(err, -EBUSY, "another nexus of this process keeps the record of %s",
			       key);
	return err_set(err, -EBUSY, "it is served by another process (pid %s, record of %s in %s)",
		       call.owner[0] != '\0' ? call.owner : "unknown", key, call.fs->dir);
}

static void file_free(struct nexus_store *store)
{
	struct file_store *fs = container_of(store, struct file_store, store);

	closep(&fs->dir_fd);
	free(fs->dir);
	free(fs);
}

/* Missing directories on the way are made, as mkdir -p does. */
static int make_dirs(const char *dir)
{
	char path[PATH_LEN_MAX];

	if (strlen(dir) >= sizeof(path))
		return -ENAMETOOLONG;
	for (size_t i = 0; dir[i] != '\0'; i++) {
		path[i] = dir[i];
		path[i + 1] = '\0';
		if ((dir[i + 1] == '/' || dir[i + 1] == '\0') && mkdir(path, 0700) < 0 &&
		    errno != EEXIST)
			return -errno;
	}
	return 0;
}

static int file_open_here(struct file_call *call)
{
	struct file_store *fs = call->fs;
	int result = make_dirs(fs->dir);

	if (result < 0)
		return result;
	fs->dir_fd = open(fs->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fs->dir_fd < 0 ? -errno : 0;
}

int store_file_new(const char *dir, struct nexus_store **ret, struct err *err)
{
	struct file_store *fs = calloc(1, sizeof(*fs));
	struct file_call call = { .fs = fs, .fn = file_open_here };

	if (fs == NULL)
		return err_set(err, -ENOMEM, "no memory for a store in %s", dir);
	fs->store = (struct nexus_store){ .name = "file",
					  .lock = file_lock,
					  .unlock = file_unlock,
					  .put = file_put,
					  .get = file_get,
					  .del = file_del,
					  .free = file_free };
	fs->dir_fd = -1;
	fs->dir = strdup(dir);
	call.result = -ENOMEM;
	if (fs->dir != NULL)
		task_blocking(file_call_here, &call);
	if (call.result < 0) {
		file_free(&fs->store);
		return err_set_sys(err, call.result, "records in directory %s", dir);
	}
	*ret = &fs->store;
	return 0;
}
