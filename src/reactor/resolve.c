/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resolve.c - the seam for name resolution.
 *
 * getaddrinfo() reads files, speaks to servers, and may take half a minute: it runs on a worker
 * while the task that asked is suspended. It is asked each time, since a name may move to another
 * machine while its old address does not answer any more; caching is the system's business.
 *
 * The simulator replaces the look-up, so that names exist in its world too. A numeric address never
 * reaches the resolver: nothing about it can change.
 *
 * Rejected: a resolver of our own over UDP. It would have to know nsswitch, mDNS and search
 * domains, all of which people rely on without knowing.
 *
 * Thread: a task on the primary reactor; system_resolve() on a worker.
 */
#include "reactor/resolve.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <string.h>

struct look_up {
	const char *host;
	struct resolved found;
	struct err err;
	int result;
};

static int errno_of(int eai)
{
	if (eai == EAI_MEMORY)
		return -ENOMEM;
	return eai == EAI_AGAIN ? -EAGAIN : -ENOENT;
}

static int system_resolve(const char *host, struct resolved *ret, struct err *err)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG };
	struct addrinfo *info;
	int result = getaddrinfo(host, NULL, &hints, &info);

	if (result == EAI_ADDRFAMILY || result == EAI_NONAME) {
		hints.ai_flags = 0; /* a machine with nothing but loopback counts as having none */
		result = getaddrinfo(host, NULL, &hints, &info);
	}
	if (result != 0)
		return err_set(err, errno_of(result), "host '%s' cannot be found: %s", host,
			       gai_strerror(result));
	for (const struct addrinfo *at = info; at != NULL && ret->count < RESOLVE_MAX;
	     at = at->ai_next) {
		result = getnameinfo(at->ai_addr, at->ai_addrlen, ret->addr[ret->count],
				     RESOLVE_ADDR_MAX, NULL, 0, NI_NUMERICHOST);
		if (result != 0)
			break;
		ret->count++;
	}
	freeaddrinfo(info);
	if (result != 0)
		return err_set(err, errno_of(result), "host '%s' has an address without text: %s",
			       host, gai_strerror(result));
	return 0;
}

static resolve_fn resolver = system_resolve;

void resolve_set(resolve_fn fn)
{
	resolver = fn != NULL ? fn : system_resolve;
}

static void look_up_blocking(void *arg)
{
	struct look_up *look = arg;

	look->result = resolver(look->host, &look->found, &look->err);
}

static bool is_numeric(const char *host)
{
	struct in6_addr addr;

	return inet_pton(AF_INET, host, &addr) == 1 || strchr(host, ':') != NULL;
}

int resolve_host(const char *host, struct resolved *ret, struct err *err)
{
	struct look_up look = { .host = host };

	if (is_numeric(host)) {
		if (strlen(host) >= RESOLVE_ADDR_MAX)
			return err_set(err, -EINVAL, "'%s' is no address", host);
		ret->count = 1;
		memcpy(ret->addr[0], host, strlen(host) + 1);
		return 0;
	}
	task_blocking(look_up_blocking, &look);
	if (look.result < 0)
		return err_set(err, look.result, "%s", err_text(&look.err));
	*ret = look.found;
	return 0;
}
