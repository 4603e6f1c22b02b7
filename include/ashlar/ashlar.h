/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ashlar.h - block devices from URIs, inside your own program, without a daemon.
 *
 *	struct ashlar_volume *vol;
 *	char why[ASHLAR_ERROR_MAX];
 *
 *	if (ashlar_start(NULL, why, sizeof(why)) != 0 ||
 *	    ashlar_open("aio:///var/tmp/disk.img", ASHLAR_WRITE, &vol, why, sizeof(why)) != 0)
 *		errx(1, "%s", why);
 *	ashlar_pwrite(vol, buf, 4096, 0, 0);
 *	ashlar_close(vol);
 *	ashlar_stop();
 *
 * Results:  0, or a negative errno value; ashlar_strerror() has the words. Functions that take
 *           @why, which may be NULL, also write a sentence there that says what to do.
 * Threads:  the engine runs threads of its own, the *reactors*. Functions may be called from any
 *           thread of yours, at the same time, unless they say otherwise. Callbacks run on a
 *           reactor: they must not block, and of this header they may call only ashlar_submit(),
 *           ashlar_request_free(), ashlar_strerror() and what asks about a volume. The others
 *           answer -EDEADLK there.
 * Places:   offsets and lengths are in bytes and must be multiples of the volume's block size; a
 *           length of 0 is refused with -EINVAL.
 *           Buffers may lie anywhere; those of ashlar_buf_alloc() are never copied.
 * Order:    requests in flight at the same time may be carried out in any order. What a write
 *           stored survives the end of the process once it was acknowledged, and a loss of power
 *           once a flush that began afterwards was, or if it was written with ASHLAR_FUA.
 * Forking:  a child of fork() has no engine; it may only exec.
 */
#ifndef ASHLAR_ASHLAR_H
#define ASHLAR_ASHLAR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ASHLAR_API __attribute__((visibility("default")))

enum {
	ASHLAR_ERROR_MAX = 384 /* bytes that hold every sentence, its NUL included */
};

/* ---- the engine ------------------------------------------------------------------------------ */

struct ashlar_options {
	size_t size;        /* sizeof(struct ashlar_options): lets the struct grow */
	uint64_t core_mask; /* one reactor per bit, pinned to that core; 0: one, not pinned */
	int poll_always;    /* not 0: reactors never sleep */
};

/*
 * Start the engine of this process. @options NULL: defaults. -EALREADY: it runs; -EPERM or -ENOSYS
 * where io_uring is forbidden; -EINVAL for a core that does not exist; -ENOMEM.
 */
ASHLAR_API int ashlar_start(const struct ashlar_options *options, char *why, size_t why_size);

/* Closes volumes that are still open and ends the reactors. No call may be under way or follow. */
ASHLAR_API void ashlar_stop(void);

/* "0.1.0", of the library that runs. */
ASHLAR_API const char *ashlar_version(void);

/* Words for what a function returned: "no space left on device". Never NULL. */
ASHLAR_API const char *ashlar_strerror(int result);

/* ---- volumes --------------------------------------------------------------------------------- */

/* An opening of a device. */
struct ashlar_volume;

enum {
	ASHLAR_WRITE = 1 << 0,    /* open for reading and writing; else for reading */
	ASHLAR_EXCLUSIVE = 1 << 1 /* be the only writer; -EBUSY if there is another */
};

/*
 * Open the device that @uri describes (ashlar-uri(7)); it is made if this process has none by the
 * same URI. On success *@volume is the caller's, until ashlar_close().
 */
ASHLAR_API int ashlar_open(const char *uri, unsigned flags, struct ashlar_volume **volume,
			   char *why, size_t why_size);

/* Waits until its requests have ended; frees its requests no more than you do. NULL is fine. */
ASHLAR_API void ashlar_close(struct ashlar_volume *volume);

/* In bytes. The size may change while a volume is open. */
ASHLAR_API uint64_t ashlar_size(const struct ashlar_volume *volume);
ASHLAR_API uint32_t ashlar_block_size(const struct ashlar_volume *volume);
/* The device's name; lives as long as the volume is open. */
ASHLAR_API const char *ashlar_name(const struct ashlar_volume *volume);

/* ---- memory ---------------------------------------------------------------------------------- */

/* Zeroed memory that suits every device. NULL when memory is short. */
ASHLAR_API void *ashlar_buf_alloc(size_t size);
/* @size as it was allocated. NULL is fine. */
ASHLAR_API void ashlar_buf_free(void *buf, size_t size);

/* ---- waiting forms --------------------------------------------------------------------------- */

/* They return when everything is done, or nothing can be said of how much was. */

enum {
	ASHLAR_FUA = 1 << 0 /* done means: on stable media */
};

ASHLAR_API int ashlar_pread(struct ashlar_volume *volume, void *buf, size_t len, uint64_t offset);
ASHLAR_API int ashlar_pwrite(struct ashlar_volume *volume, const void *buf, size_t len,
			     uint64_t offset, unsigned flags);
ASHLAR_API int ashlar_flush(struct ashlar_volume *volume);
/* Give the space back; what is read there afterwards is undefined. -EOPNOTSUPP */
ASHLAR_API int ashlar_unmap(struct ashlar_volume *volume, uint64_t offset, uint64_t len);
ASHLAR_API int ashlar_write_zeroes(struct ashlar_volume *volume, uint64_t offset, uint64_t len,
				   unsigned flags);

/* ---- requests that call back ----------------------------------------------------------------- */

enum ashlar_op {
	ASHLAR_OP_READ = 0,
	ASHLAR_OP_WRITE = 1,
	ASHLAR_OP_FLUSH = 2, /* offset and len are ignored */
	ASHLAR_OP_UNMAP = 3,
	ASHLAR_OP_WRITE_ZEROES = 4
};

struct ashlar_request;

/* @result: 0 or a negative errno. On a reactor. The request may be submitted again or freed. */
typedef void ashlar_done_fn(struct ashlar_request *request, int result, void *arg);

/*
 * A request for one volume, to be used as often as you like, one use at a time. All uses run on
 * the same reactor; requests are spread over the reactors. NULL when memory is short.
 */
ASHLAR_API struct ashlar_request *ashlar_request_alloc(struct ashlar_volume *volume);
/* Not while it is in flight. After its last done() it is also fine once the volume is closed. */
ASHLAR_API void ashlar_request_free(struct ashlar_request *request);

struct ashlar_io {
	enum ashlar_op op;
	unsigned flags; /* ASHLAR_FUA */
	uint64_t offset, len;
	void *buf; /* len bytes, yours, until done(); read and write */
	ashlar_done_fn *done;
	void *arg;
};

/*
 * Begin. 0: done() will be called, exactly once, never from inside this function. Else nothing was
 * begun: -EINVAL for an offset or length that is no multiple of the block size or too large, or
 * without done. @io is copied.
 */
ASHLAR_API int ashlar_submit(struct ashlar_request *request, const struct ashlar_io *io);

#ifdef __cplusplus
}
#endif

#endif
