/* SPDX-License-Identifier: Apache-2.0 */
/*
 * testing.h - a world of one reactor, one virtual clock and one connection, whose other end is the
 * test: for unit tests of queues and for the fuzzer that feeds them whole sessions.
 *
 *	fake_start();
 *	queue_new(); queue_connect();     dials nothing: the test is the controller
 *	fake_turns(3);                    what the queue sent is in fake.out
 *	fake_give(&pdu, sizeof(pdu));     what it will receive
 *	...
 *	fake_stop();                      nothing may be left
 *
 * Owner:  one world per process at a time, static.
 * Thread: one; the caller is the reactor's thread.
 * Rules:  only tests include this.
 */
#ifndef ASHLAR_DRIVERS_NVMF_TESTING_H
#define ASHLAR_DRIVERS_NVMF_TESTING_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "drivers/nvme/spec.h"
#include "reactor/reactor.h"
#include "reactor/stream.h"
#include "reactor/worker.h"

enum {
	FAKE_OUT_MAX = 8 << 20,
	FAKE_IN_MAX = 8 << 20,
	FAKE_TURN_NS = 1000, /* the clock moves by so much each turn */
};

static struct fake {
	struct reactor *r;
	uint64_t now_ns;
	/* the connection; there is one at a time */
	struct stream stream;
	bool is_connected; /* a stream exists */
	bool is_aborted;   /* the last one ended by abort */
	int dial_error;    /* what connecting ends with */
	bool is_dialling;  /* connecting has no end yet */
	unsigned armed, nstreams;
	int recv_error; /* when all was read: 0 -EAGAIN, 1 end of stream, else an errno */
	uint8_t *in;    /* for the queue to read */
	size_t in_len, in_at, in_step; /* step: bytes one recv gives at most; 0: all */
	uint8_t *out;                  /* what it sent */
	size_t out_len, out_at;        /* at: how far the test looked */
	size_t room;                   /* bytes that may still be sent */
	int send_error;                /* what sending ends with, if not 0 */
} fake;

/* ---- backend -------------------------------------------------------------------------------- */

static uint64_t fake_now(struct reactor *r)
{
	(void)r;
	return fake.now_ns;
}

static unsigned fake_can(void)
{
	unsigned can = 0;

	if (fake.is_dialling)
		return 0;
	if (fake.in_at < fake.in_len || fake.recv_error != 0)
		can |= STREAM_IN;
	if (fake.room > 0)
		can |= STREAM_OUT;
	return can;
}

static unsigned fake_reap(struct reactor *r)
{
	unsigned want = fake.armed & fake_can();

	(void)r;
	if (!fake.is_connected || want == 0)
		return 0;
	fake.armed &= ~want;
	fake.stream.ready(&fake.stream, want);
	return 1;
}

static void fake_submit(struct reactor *r)
{
	(void)r;
}

static void fake_sleep(struct reactor *r, uint64_t until_ns)
{
	(void)r;
	if (until_ns != UINT64_MAX && until_ns > fake.now_ns)
		fake.now_ns = until_ns;
}

static void fake_work(struct reactor *r, struct work *work)
{
	(void)r;
	(void)work;
	abort(); /* a queue has nothing that blocks */
}

static const struct reactor_backend fake_backend = {
	.now = fake_now,
	.reap = fake_reap,
	.submit = fake_submit,
	.sleep = fake_sleep,
	.wake = fake_submit,
	.work = fake_work,
};

/* ---- stream --------------------------------------------------------------------------------- */

static ssize_t fake_recv(struct stream *stream, const struct iovec *iov, int iovcnt)
{
	size_t left = fake.in_len - fake.in_at, got = 0;

	(void)stream;
	if (left == 0)
		return fake.recv_error == 0 ? -EAGAIN : fake.recv_error == 1 ? 0 : fake.recv_error;
	if (fake.in_step != 0)
		left = MIN(left, fake.in_step);
	for (int i = 0; i < iovcnt && left > 0; i++) {
		size_t n = MIN(iov[i].iov_len, left);

		memcpy(iov[i].iov_base, fake.in + fake.in_at, n);
		fake.in_at += n;
		got += n;
		left -= n;
	}
	return (ssize_t)got;
}

static ssize_t fake_send(struct stream *stream, const struct iovec *iov, int iovcnt)
{
	size_t sent = 0;

	(void)stream;
	if (fake.send_error != 0)
		return fake.send_error;
	if (fake.room == 0)
		return -EAGAIN;
	for (int i = 0; i < iovcnt; i++) {
		size_t n = MIN(iov[i].iov_len, MIN(fake.room, FAKE_OUT_MAX - fake.out_len));

		if (n > 0)
			memcpy(fake.out + fake.out_len, iov[i].iov_base, n);
		fake.out_len += n;
		fake.room -= n;
		sent += n;
		if (n < iov[i].iov_len)
			break;
	}
	return sent > 0 ? (ssize_t)sent : -EAGAIN;
}

static void fake_attach(struct stream *stream)
{
	(void)stream;
}

static void fake_arm(struct stream *stream, unsigned want)
{
	(void)stream;
	fake.armed |= want;
}

static void fake_end(bool is_aborted)
{
	fake.is_connected = false;
	fake.is_aborted = is_aborted;
	fake.armed = 0;
}

static void fake_close(struct stream *stream)
{
	(void)stream;
	fake_end(false);
}

static void fake_abort(struct stream *stream)
{
	(void)stream;
	fake_end(true);
}

static const struct stream_ops fake_ops = {
	.recv = fake_recv,
	.send = fake_send,
	.attach = fake_attach,
	.arm = fake_arm,
	.close = fake_close,
	.abort = fake_abort,
};

static int fake_connect(const char *host, uint16_t port, struct stream **ret, struct err *err)
{
	(void)host;
	if (port == 0)
		return err_set(err, -EINVAL, "no port");
	fake.stream = (struct stream){ .ops = &fake_ops, .peer = "fake:1" };
	fake.is_connected = true;
	fake.is_aborted = false;
	fake.nstreams++;
	fake.in_len = fake.in_at = 0;
	fake.out_len = fake.out_at = 0;
	*ret = &fake.stream;
	return 0;
}

static int fake_error(struct stream *stream)
{
	(void)stream;
	return fake.dial_error;
}

static const struct net fake_net = { .connect = fake_connect, .error = fake_error };

/* ---- what a test does ------------------------------------------------------------------------ */

static inline void fake_start(void)
{
	static uint8_t in[FAKE_IN_MAX], out[FAKE_OUT_MAX];

	memset(&fake, 0, sizeof(fake));
	fake.now_ns = 1000000000;
	fake.room = SIZE_MAX;
	fake.in = in;
	fake.out = out;
	fake.r = aligned_alloc(64, ALIGN_UP(sizeof(struct reactor), 64));
	if (fake.r == NULL)
		abort();
	reactor_init(fake.r, 0, &fake_backend, 1);
	fake.r->now_ns = fake.now_ns;
	reactors_adopt(&fake.r, 1);
	reactor_self_ = fake.r;
	net_set(&fake_net);
}

/* False: something was left behind. */
static inline bool fake_stop(void)
{
	bool is_clean = !fake.is_connected && fake.r->timers.root == NULL &&
			list_empty(&fake.r->pollers);

	net_set(&net_tcp);
	reactor_self_ = NULL;
	reactors_adopt(&fake.r, 0);
	free(fake.r);
	return is_clean;
}

static inline void fake_turns(unsigned n)
{
	while (n-- > 0) {
		fake.now_ns += FAKE_TURN_NS;
		(void)reactor_turn(fake.r);
	}
}

/* Let time pass at once; timers that are due run. */
static inline void fake_pass(uint64_t ns)
{
	fake.now_ns += ns;
	fake_turns(2);
}

static inline void fake_give(const void *bytes, size_t len)
{
	if (len > FAKE_IN_MAX - fake.in_len)
		abort();
	memcpy(fake.in + fake.in_len, bytes, len);
	fake.in_len += len;
}

/* The next @len bytes that were sent; NULL: not so many. */
static inline const uint8_t *fake_take(size_t len)
{
	const uint8_t *at = fake.out + fake.out_at;

	if (fake.out_len - fake.out_at < len)
		return NULL;
	fake.out_at += len;
	return at;
}

#endif
