/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export_listen.c - where hosts reach an export: what --listen says, the ports, and what is printed
 * for who types on a host.
 *
 * Addresses are numeric: a name may stand for several, and which of them answers is then a matter
 * of luck. With port 0 the system picks, and --port-file carries the number to a script: it is
 * written beside and renamed, so that who waits for it never reads half of it.
 *
 * Thread: tasks on the primary reactor; export_listen_check() any.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/units.h"
#include "base/uri.h"
#include "cli/export.h"

enum {
	PORT_DEFAULT = 4420,       /* assigned by IANA to NVMe over fabrics */
	PORT_WAIT_NS = 1000000000, /* for the port of a process that was killed */
	PORT_LOOK_NS = 10000000,   /* how often it is tried meanwhile */
};

struct endpoint {
	char host[INET6_ADDRSTRLEN];
	uint16_t port;
};

static int endpoint_bad(const char *text, struct err *err)
{
	return err_set(err, -EINVAL,
		       "--listen %s: write a numeric address and a port, 127.0.0.1:4420 or "
		       "[::1]:4420; 0.0.0.0 and [::] stand for all addresses",
		       text);
}

static int endpoint_parse(const char *text, struct endpoint *ep, struct err *err)
{
	bool is_v6 = text[0] == '[';
	const char *host = text + is_v6;
	size_t len = strcspn(host, is_v6 ? "]" : ":");
	const char *rest = host + len;
	struct in6_addr scratch;
	uint64_t port = PORT_DEFAULT;

	if (is_v6) {
		if (*rest != ']')
			return endpoint_bad(text, err);
		rest++;
	}
	if (len == 0 || len >= sizeof(ep->host) || (*rest != '\0' && *rest != ':'))
		return endpoint_bad(text, err);
	memcpy(ep->host, host, len);
	ep->host[len] = '\0';
	if (inet_pton(is_v6 ? AF_INET6 : AF_INET, ep->host, &scratch) != 1)
		return endpoint_bad(text, err);
	if (*rest == ':' && (number_parse(rest + 1, &port, NULL) != 0 || port > UINT16_MAX))
		return endpoint_bad(text, err);
	ep->port = (uint16_t)port;
	return 0;
}

int export_listen_check(const struct export_opts *opts, struct err *err)
{
	struct endpoint ep;
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < opts->listen.count; i++)
		rc = endpoint_parse(opts->listen.items[i], &ep, err);
	return rc;
}

/* A process that was killed is gone before the kernel has let go of its io_uring and the sockets
 * in it, and a supervisor starts the next one at once: a port in use is looked at again for a
 * while. */
static int bind_patiently(struct target *target, const struct endpoint *ep,
			  struct err *err) MAY_SUSPEND
{
	int rc = target_bind(target, ep->host, ep->port, err);

	for (unsigned ns = 0; rc == -EADDRINUSE && ns < PORT_WAIT_NS; ns += PORT_LOOK_NS) {
		task_sleep(PORT_LOOK_NS);
		err_clear(err);
		rc = target_bind(target, ep->host, ep->port, err);
	}
	return rc;
}

int export_bind(struct export *e, struct err *err)
{
	for (unsigned i = 0; i < e->opts.listen.count; i++) {
		struct endpoint ep;
		int rc = endpoint_parse(e->opts.listen.items[i], &ep, err);

		if (rc == 0)
			rc = bind_patiently(e->target, &ep, err);
		if (rc == -EADDRINUSE)
			(void)err_hint(err, "--listen with port 0 takes a free one");
		if (rc == -EADDRNOTAVAIL)
			(void)err_hint(err, "no interface here has that address: see ip address");
		if (rc == -EACCES)
			(void)err_hint(err, "ports below 1024 are root's: take a higher one");
		if (rc != 0)
			return rc;
	}
	return 0;
}

int export_write_port(const struct export *e, struct err *err)
{
	CLEANUP(freep) char *temporary = NULL;
	const char *path = e->opts.port_file;
	CLEANUP(fclosep) FILE *file = NULL;

	if (asprintf(&temporary, "%s.new", path) < 0) {
		temporary = NULL;
		return err_set(err, -ENOMEM, "no memory for a file name");
	}
	file = fopen(temporary, "we");
	if (file == NULL ||
	    fprintf(file, "%u\n", (unsigned)target_listener_port(e->target, 0)) < 0 ||
	    fflush(file) != 0 || rename(temporary, path) != 0)
		return err_set_sys(err, -errno, "--port-file %s", path);
	return 0;
}

/* An NQN as a word for a shell; made from a path it may have a space. */
static void print_word(const char *text)
{
	if (strspn(text,
		   "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:/@+,=") ==
	    strlen(text)) {
		fputs(text, stdout);
		return;
	}
	putchar('\'');
	for (; *text != '\0'; text++) {
		if (*text == '\'')
			fputs("'\\'", stdout);
		putchar(*text);
	}
	putchar('\'');
}

/* What to type on a host, ours or the kernel's. */
static void export_tell_listener(const struct export *e, unsigned i)
{
	const char *nqn = subsystem_nqn(e->subsystem), *addr = target_listener_addr(e->target, i);
	CLEANUP(freep) char *segment = uri_encode_segment(nqn);
	unsigned port = target_listener_port(e->target, i);
	bool is_v6 = addr[0] == '[', is_any;
	char host[INET6_ADDRSTRLEN];

	(void)snprintf(host, sizeof(host), "%.*s", (int)strcspn(addr + is_v6, is_v6 ? "]" : ":"),
		       addr + is_v6);
	is_any = strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
	printf("listening on %s\n", addr);
	if (is_any)
		memcpy(host, "ADDRESS", sizeof("ADDRESS")); /* one of this machine's */
	printf("connect with: nvme connect -t tcp -a %s -s %u -n ", host, port);
	print_word(nqn);
	is_v6 = is_v6 && !is_any;
	printf("\nor use nvmf://%s%s%s:%u/%s\n", is_v6 ? "[" : "", host, is_v6 ? "]" : "", port,
	       segment != NULL ? segment : nqn);
}

void export_tell(const struct export *e)
{
	char size[UNITS_TEXT_MAX];

	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		const struct export_ns *ns = &e->ns[i];

		if (ns->uri != NULL)
			printf("namespace %u: %s, %s, blocks of %u%s\n", ns->nsid, ns->uri,
			       size_format(device_size(ns->dev), size), ns->dev->block_size,
			       ns->dev->is_read_only ? ", read-only" : "");
	}
	for (unsigned i = 0; i < target_listener_count(e->target); i++)
		export_tell_listener(e, i);
	(void)fflush(stdout);
}
