/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.h - byte streams between engines: TCP through the kernel, or the simulator's network.
 *
 * Owner:  a stream belongs to whoever accepted or connected it, until stream_close().
 * Thread: after stream_attach(), the reactor it was attached to. Listeners: the primary's.
 * Rules:  send and recv never block. There is no buffering here and no allocation per call.
 *         ready() is called from the reactor's loop, once per arm, never from inside send or recv.
 */
#ifndef ASHLAR_REACTOR_STREAM_H
#define ASHLAR_REACTOR_STREAM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/err.h"
#include "reactor/reactor.h"

enum {
	STREAM_ADDR_MAX = 64, /* "[v6 address%scope]:port" and its NUL */
	STREAM_IOV_MAX = 1024,
};

enum stream_want {
	STREAM_IN = 1,
	STREAM_OUT = 2,
};

struct stream {
	const struct stream_ops *ops;
	struct reactor *reactor;                             /* NULL until attached */
	void (*ready)(struct stream *stream, unsigned want); /* which of the armed came true */
	void *owner;                                         /* the user's */
	char local[STREAM_ADDR_MAX], peer[STREAM_ADDR_MAX];
};

struct stream_ops {
	/* > 0 bytes; 0 end of stream; -EAGAIN; other negative errno: the stream is broken. */
	ssize_t (*recv)(struct stream *stream, const struct iovec *iov, int iovcnt);
	ssize_t (*send)(struct stream *stream, const struct iovec *iov, int iovcnt);
	void (*attach)(struct stream *stream);
	void (*arm)(struct stream *stream, unsigned want);
	/* Any armed readiness is cancelled; @stream is freed once the kernel has let go of it. */
	void (*close)(struct stream *stream);
	/* The same at once and for good: what the peer has not got yet is thrown away. */
	void (*abort)(struct stream *stream);
};

struct listener;

struct listener_opts {
	const char *host; /* numeric IPv4 or IPv6 address without brackets; "" = any */
	uint16_t port;    /* 0: the system picks; listener_port() tells */
	/* A new connection, not attached yet: the callee owns it. Primary reactor's thread. */
	void (*accepted)(struct listener *listener, struct stream *stream, void *arg);
	void *arg;
	/* The address is ours and hosts may knock, but nobody is let in before net.admit(). */
	bool is_held;
};

/* The network seam. net_set() replaces it for the whole process (the simulator does). */
struct net {
	int (*listen)(const struct listener_opts *opts, struct listener **ret, struct err *err);
	void (*admit)(struct listener *listener); /* harmless if it was not held */
	void (*unlisten)(struct listener *listener);
	const char *(*listener_addr)(const struct listener *listener); /* "127.0.0.1:4420" */
	uint16_t (*listener_port)(const struct listener *listener);
	/* Start connecting; ready(STREAM_OUT) after attach and arm tells the end, error() how. */
	int (*connect)(const char *host, uint16_t port, struct stream **ret, struct err *err);
	int (*error)(struct stream *stream); /* 0 once connected, else negative errno */
};

extern const struct net net_tcp;
const struct net *net_get(void);
void net_set(const struct net *net);

static inline ssize_t stream_recv(struct stream *s, const struct iovec *iov, int iovcnt)
{
	return s->ops->recv(s, iov, iovcnt);
}

static inline ssize_t stream_send(struct stream *s, const struct iovec *iov, int iovcnt)
{
	return s->ops->send(s, iov, iovcnt);
}

/* From now on @s belongs to the calling reactor. Set ready and owner before. */
static inline void stream_attach(struct stream *s)
{
	s->reactor = reactor_self();
	s->ops->attach(s);
}

/* Ask for one ready() call when any of @want is possible. Arming an armed direction is harmless. */
static inline void stream_arm(struct stream *s, unsigned want)
{
	s->ops->arm(s, want);
}

static inline void stream_close(struct stream *s)
{
	s->ops->close(s);
}

/* Close so that nothing that still waits here is delivered: the peer sees a reset (TCP: RST). */
static inline void stream_abort(struct stream *s)
{
	s->ops->abort(s);
}

#endif
