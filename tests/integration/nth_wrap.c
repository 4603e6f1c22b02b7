/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nth_wrap.c - what stands between the engine and the system in the nth-failure test.
 *
 * The linker renames each call FUNCTION of our own objects to __wrap_FUNCTION (ld --wrap), so that
 * it passes here; libraries keep calling the real ones. While armed every call counts down, and the
 * one that reaches zero is refused with the error a real system would give. A second count follows
 * memory from allocation to free, which finds a leak in every build, not only under LeakSanitizer.
 *
 * Rejected: LD_PRELOAD (hits the C library and the sanitizers too), a hook in the engine (the
 * engine that is tested would not be the one that ships).
 *
 * Thread: any; the counters are atomic. The first refusal wins the name.
 */
#include "nth_failure.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <netdb.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <uriparser/Uri.h>

static atomic_bool is_armed;
static atomic_bool stays_armed;
static atomic_uint left;
static _Atomic(const char *) refused;
static atomic_int refused_error;
static atomic_long blocks;

void nth_arm(unsigned n, bool stays)
{
	atomic_store(&refused, NULL);
	atomic_store(&left, n);
	atomic_store(&stays_armed, stays);
	atomic_store(&is_armed, true);
}

const char *nth_disarm(void)
{
	atomic_store(&is_armed, false);
	return atomic_load(&refused);
}

int nth_error(void)
{
	return atomic_load(&refused_error);
}

long nth_blocks(void)
{
	return atomic_load(&blocks);
}

/* Is this call the one? Then errno is set. */
static bool refuse(const char *name, int error)
{
	const char *none = NULL;
	unsigned n;

	if (!atomic_load(&is_armed))
		return false;
	n = atomic_load(&left);
	while (n > 0 && !atomic_compare_exchange_weak(&left, &n, n - 1))
		;
	if (n == 0 ? !atomic_load(&stays_armed) : n > 1)
		return false;
	if (atomic_compare_exchange_strong(&refused, &none, name))
		atomic_store(&refused_error, -error);
	errno = error;
	return true;
}

static void *count(void *block)
{
	if (block != NULL)
		atomic_fetch_add(&blocks, 1);
	return block;
}

/* WRAP(result type, function, arguments): declare the real one and our stand-in. */
#define WRAP(type, name, ...)            \
	type __real_##name(__VA_ARGS__); \
	type __wrap_##name(__VA_ARGS__); \
	type __wrap_##name(__VA_ARGS__)

/* ---- memory ---------------------------------------------------------------------------------- */

WRAP(void *, malloc, size_t size)
{
	return refuse("malloc", ENOMEM) ? NULL : count(__real_malloc(size));
}

WRAP(void *, calloc, size_t n, size_t size)
{
	return refuse("calloc", ENOMEM) ? NULL : count(__real_calloc(n, size));
}

WRAP(void *, realloc, void *block, size_t size)
{
	if (refuse("realloc", ENOMEM))
		return NULL;
	return block == NULL ? count(__real_realloc(NULL, size)) : __real_realloc(block, size);
}

WRAP(void *, aligned_alloc, size_t align, size_t size)
{
	return refuse("aligned_alloc", ENOMEM) ? NULL : count(__real_aligned_alloc(align, size));
}

WRAP(char *, strdup, const char *text)
{
	return refuse("strdup", ENOMEM) ? NULL : count(__real_strdup(text));
}

WRAP(char *, realpath, const char *path, char *resolved)
{
	if (refuse("realpath", ENOMEM))
		return NULL;
	return resolved == NULL ? count(__real_realpath(path, NULL))
				: __real_realpath(path, resolved);
}

WRAP(void, free, void *block)
{
	if (block != NULL)
		atomic_fetch_sub(&blocks, 1);
	__real_free(block);
}

WRAP(void *, mmap64, void *at, size_t size, int protection, int flags, int fd, off_t off)
{
	if (refuse("mmap", ENOMEM))
		return MAP_FAILED;
	return __real_mmap64(at, size, protection, flags, fd, off);
}

/* ---- descriptors and threads ----------------------------------------------------------------- */

WRAP(int, open64, const char *path, int flags, ...)
{
	va_list args;
	mode_t mode;

	va_start(args, flags);
	mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
	va_end(args);
	return refuse("open", EMFILE) ? -1 : __real_open64(path, flags, mode);
}

WRAP(FILE *, fopen64, const char *path, const char *mode)
{
	return refuse("fopen", EMFILE) ? NULL : __real_fopen64(path, mode);
}

WRAP(int, socket, int domain, int type, int protocol)
{
	return refuse("socket", EMFILE) ? -1 : __real_socket(domain, type, protocol);
}

WRAP(int, bind, int fd, const struct sockaddr *addr, socklen_t len)
{
	return refuse("bind", EADDRINUSE) ? -1 : __real_bind(fd, addr, len);
}

WRAP(int, listen, int fd, int backlog)
{
	return refuse("listen", EADDRINUSE) ? -1 : __real_listen(fd, backlog);
}

WRAP(int, eventfd, unsigned value, int flags)
{
	return refuse("eventfd", EMFILE) ? -1 : __real_eventfd(value, flags);
}

WRAP(int, signalfd, int fd, const void *mask, int flags)
{
	return refuse("signalfd", EMFILE) ? -1 : __real_signalfd(fd, mask, flags);
}

WRAP(int, pthread_create, pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
     void *arg)
{
	return refuse("pthread_create", EAGAIN) ? EAGAIN
						: __real_pthread_create(thread, attr, fn, arg);
}

/* ---- what libraries would be refused --------------------------------------------------------- */

WRAP(int, io_uring_queue_init_params, unsigned entries, struct io_uring *ring,
     struct io_uring_params *params)
{
	if (refuse("io_uring_setup", ENOMEM))
		return -ENOMEM;
	return __real_io_uring_queue_init_params(entries, ring, params);
}

WRAP(struct io_uring_probe *, io_uring_get_probe_ring, struct io_uring *ring)
{
	return refuse("io_uring_probe", ENOMEM) ? NULL : __real_io_uring_get_probe_ring(ring);
}

WRAP(int, getaddrinfo, const char *host, const char *service, const struct addrinfo *hints,
     struct addrinfo **ret)
{
	return refuse("getaddrinfo", ENOMEM) ? EAI_MEMORY
					     : __real_getaddrinfo(host, service, hints, ret);
}

WRAP(int, uriParseSingleUriExA, UriUriA *uri, const char *first, const char *after,
     const char **error)
{
	return refuse("uriParseSingleUri", ENOMEM)
		       ? URI_ERROR_MALLOC
		       : __real_uriParseSingleUriExA(uri, first, after, error);
}

/* Only the set-up of a context can be refused; the rest passes, with as many arguments as fit. */
WRAP(long, syscall, long number, ...)
{
	long arg[6];
	va_list args;

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		arg[i] = va_arg(args, long);
	va_end(args);
	if (number == SYS_io_setup && refuse("io_setup", EAGAIN))
		return -1;
	return __real_syscall(number, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
}
