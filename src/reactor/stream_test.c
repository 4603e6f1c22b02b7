/* SPDX-License-Identifier: Apache-2.0 */
/* Streams over loopback TCP through struct net: life, death and every state in between. */
#include "base/tap.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "base/rng.h"
#include "reactor/stream.h"

/* ---- harness: what runs where ---------------------------------------------------------------- */

enum { PATIENCE_S = 30 };

static uint64_t now_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Reactors hold pointers into the test by now: a test that waits in vain cannot go on. */
static void await(atomic_int *value, int target)
{
	uint64_t end_ns = now_ns() + PATIENCE_S * 1000000000ull;

	while (atomic_load(value) < target) {
		if (now_ns() > end_ns) {
			printf("Bail out! waited %d s in vain\n", PATIENCE_S);
			abort();
		}
		(void)sched_yield();
	}
}

struct call {
	struct msg msg;
	void (*fn)(void *arg);
	void *arg;
	atomic_int is_done;
};

static void call_run(struct msg *msg)
{
	struct call *call = container_of(msg, struct call, msg);

	call->fn(call->arg);
	atomic_store(&call->is_done, 1);
}

/* Run fn(arg) on a reactor and wait for it. */
static void on(unsigned reactor, void (*fn)(void *arg), void *arg)
{
	struct call call = { .msg.fn = call_run, .fn = fn, .arg = arg };

	reactor_post(reactor_get(reactor), &call.msg);
	await(&call.is_done, 1);
}

/* The reactor that is not the primary, where there are two cores. */
static unsigned other(void)
{
	return reactor_count() - 1;
}

static unsigned open_files(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	if (dir == NULL)
		return 0;
	while (readdir(dir) != NULL)
		n++;
	(void)closedir(dir);
	return n;
}

static unsigned files_before;

static bool start(void)
{
	struct err err = {};
	cpu_set_t cpus;
	struct reactor_opts opts = {};

	CPU_ZERO(&cpus);
	(void)sched_getaffinity(0, sizeof(cpus), &cpus);
	files_before = open_files();
	if (CPU_ISSET(0, &cpus) && CPU_ISSET(1, &cpus))
		opts.core_mask = 0x3;
	return CHECK_EQ(reactors_start(&opts, &err), 0);
}

/* Whatever the test made is closed when this returns. */
static void stop(int still_open)
{
	reactors_stop();
	CHECK_EQ(open_files(), (int)files_before + still_open);
}

/* ---- a listener and what it accepted --------------------------------------------------------- */

struct server {
	const char *host;
	struct listener *listener;
	struct stream *accepted[64];
	atomic_int naccepted;
	bool closes_itself; /* on the first connection */
	bool is_held;
	int result;
	struct err err;
};

static void server_accepted(struct listener *listener, struct stream *stream, void *arg)
{
	struct server *server = arg;
	int n = atomic_load(&server->naccepted);

	CHECK(reactor_self() == reactor_primary());
	CHECK(stream->reactor == NULL);
	server->accepted[n] = stream;
	if (server->closes_itself) {
		net_get()->unlisten(listener);
		server->listener = NULL;
	}
	atomic_store(&server->naccepted, n + 1);
}

static void server_listen(void *arg)
{
	struct server *server = arg;
	struct listener_opts opts = { .host = server->host,
				      .accepted = server_accepted,
				      .arg = server,
				      .is_held = server->is_held };

	server->result = net_get()->listen(&opts, &server->listener, &server->err);
}

static void server_unlisten(void *arg)
{
	struct server *server = arg;

	if (server->listener != NULL)
		net_get()->unlisten(server->listener);
	server->listener = NULL;
}

static bool server_start(struct server *server)
{
	if (server->host == NULL)
		server->host = "127.0.0.1";
	on(0, server_listen, server);
	return CHECK_EQ(server->result, 0);
}

static void server_stop(struct server *server)
{
	on(0, server_unlisten, server);
}

/* Close what was accepted and belongs to nobody yet. */
static void accepted_drop(void *arg)
{
	struct server *server = arg;

	for (int i = 0; i < atomic_load(&server->naccepted); i++)
		stream_close(server->accepted[i]);
}

/* A client that is a bare blocking socket of the test's thread. */
static int raw_socket(void)
{
	return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static bool raw_connect(int fd, const struct server *server)
{
	struct sockaddr_in in = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				  .sin_port = htons(net_get()->listener_port(server->listener)) };

	return CHECK_EQ(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
}

struct crowd {
	const struct server *server;
	int *fd;
	int count;
};

/* On the listener's reactor, so that it finds all of them at once. */
static void raw_connect_all(void *arg)
{
	struct crowd *crowd = arg;

	for (int i = 0; i < crowd->count; i++)
		(void)raw_connect(crowd->fd[i], crowd->server);
}

static void raw_reset(int fd)
{
	struct linger now = { .l_onoff = 1 };

	CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)), 0);
	(void)close(fd);
}

/* ---- one end of a connection ----------------------------------------------------------------- */

enum { CHUNK_MAX = 192 << 10, PUMP_MAX = 16 };

/* Sends `to_send` bytes of its generator, takes whatever comes, keeps a sum of both. */
struct end {
	struct stream *stream;
	const char *host;
	uint16_t port;
	int result; /* of connect */
	int error;  /* of net->error */
	struct err err;
	struct rng rng;
	uint64_t to_send, to_receive, sent, received;
	uint32_t sent_crc, received_crc;
	size_t chunk_len, chunk_off;
	atomic_int partial;       /* sends that took less than they were given, or nothing */
	atomic_int refused;       /* sends that took nothing */
	bool is_closed, is_wrong; /* ready() came after close, or on another reactor */
	bool closes_in_ready, is_deaf;
	unsigned ready_in, ready_out;
	atomic_int has_sent, has_received, has_ended, nready;
	int recv_result; /* what ended it: 0 or a negative errno */
	char *chunk;     /* owned */
};

static void end_close(void *arg)
{
	struct end *end = arg;

	stream_close(end->stream);
	end->is_closed = true;
	end->stream = NULL;
}

static int split(struct iovec *iov, struct rng *rng, char *buf, size_t len)
{
	int n = 0;

	while (len > 0 && n < 7) {
		size_t part = rng_range(rng, 1, len);

		iov[n++] = (struct iovec){ .iov_base = buf, .iov_len = part };
		buf += part;
		len -= part;
	}
	if (len > 0)
		iov[n++] = (struct iovec){ .iov_base = buf, .iov_len = len };
	return n;
}

static void end_fill(struct end *end)
{
	uint64_t left = end->to_send - end->sent;

	end->chunk_len = MIN(left, rng_range(&end->rng, 1, CHUNK_MAX));
	end->chunk_off = 0;
	for (size_t i = 0; i < end->chunk_len; i += 8) {
		uint64_t word = rng_next(&end->rng);

		memcpy(end->chunk + i, &word, sizeof(word));
	}
	end->sent_crc = crc32c(end->sent_crc, end->chunk, end->chunk_len);
}

/* True: everything is sent. */
static bool end_send(struct end *end)
{
	for (int i = 0; i < PUMP_MAX && end->sent < end->to_send; i++) {
		struct iovec iov[8];
		ssize_t n;

		if (end->chunk_off == end->chunk_len)
			end_fill(end);
		n = stream_send(end->stream, iov,
				split(iov, &end->rng, end->chunk + end->chunk_off,
				      end->chunk_len - end->chunk_off));
		if (n == -EAGAIN) {
			atomic_fetch_add(&end->partial, 1);
			break;
		}
		if (!CHECK(n > 0))
			return true;
		if ((size_t)n < end->chunk_len - end->chunk_off)
			atomic_fetch_add(&end->partial, 1);
		end->chunk_off += (size_t)n;
		end->sent += (uint64_t)n;
	}
	if (end->sent < end->to_send) {
		stream_arm(end->stream, STREAM_OUT);
		return false;
	}
	atomic_store(&end->has_sent, 1);
	return true;
}

static void end_recv(struct end *end)
{
	static __thread char buf[CHUNK_MAX];

	for (int i = 0; i < PUMP_MAX; i++) {
		struct iovec iov[8];
		ssize_t n = stream_recv(end->stream, iov, split(iov, &end->rng, buf, sizeof(buf)));

		if (n == -EAGAIN)
			break;
		if (n <= 0) {
			end->recv_result = (int)n;
			atomic_store(&end->has_ended, 1);
			return;
		}
		end->received += (uint64_t)n;
		end->received_crc = crc32c(end->received_crc, buf, (size_t)n);
	}
	if (end->received == end->to_receive)
		atomic_store(&end->has_received, 1);
	stream_arm(end->stream, STREAM_IN);
}

static void end_ready(struct stream *stream, unsigned want)
{
	struct end *end = stream->owner;

	end->is_wrong |= end->is_closed || stream != end->stream ||
			 stream->reactor != reactor_self();
	end->ready_in += want == STREAM_IN;
	end->ready_out += want == STREAM_OUT;
	if (end->closes_in_ready)
		end_close(end);
	else if (end->is_deaf)
		CHECK(want == STREAM_IN || want == STREAM_OUT);
	else if (want & STREAM_IN)
		end_recv(end);
	else
		(void)end_send(end);
	atomic_fetch_add(&end->nready, 1);
}

static void end_attach(void *arg)
{
	struct end *end = arg;

	end->stream->owner = end;
	end->stream->ready = end_ready;
	stream_attach(end->stream);
}

static void end_arm_both(void *arg)
{
	struct end *end = arg;

	end_attach(end);
	stream_arm(end->stream, STREAM_IN | STREAM_OUT);
}

static void end_connect(void *arg)
{
	struct end *end = arg;

	end->result = net_get()->connect(end->host, end->port, &end->stream, &end->err);
	if (end->result == 0)
		end_arm_both(end);
}

static void end_init(struct end *end, uint64_t to_send, uint64_t to_receive,
		     const struct server *server)
{
	static uint64_t seed;

	*end = (struct end){ .to_send = to_send, .to_receive = to_receive };
	rng_init(&end->rng, seed++);
	end->chunk = malloc(CHUNK_MAX + 8);
	end->host = server->host;
	end->port = net_get()->listener_port(server->listener);
	CHECK(end->chunk != NULL);
}

static void end_done(struct end *end)
{
	CHECK(!end->is_wrong);
	free(end->chunk);
}

/* ---- both families, both ways ---------------------------------------------------------------- */

enum { TRANSFER = 48 << 20 };

/* Connect from reactor @from, serve on reactor @at, both send at once, sums must cross over. */
static void transfer(const char *host, unsigned from, unsigned at)
{
	struct server server = { .host = host };
	struct end client, served;

	if (!server_start(&server))
		return;
	end_init(&client, TRANSFER, TRANSFER + 4097, &server);
	end_init(&served, TRANSFER + 4097, TRANSFER, &server);
	CHECK_HAS(net_get()->listener_addr(server.listener), host);
	on(from, end_connect, &client);
	CHECK_EQ(client.result, 0);
	await(&server.naccepted, 1);
	served.stream = server.accepted[0];
	CHECK_STR(served.stream->peer, client.stream->local);
	CHECK_STR(served.stream->local, net_get()->listener_addr(server.listener));
	CHECK_STR(client.stream->peer, net_get()->listener_addr(server.listener));
	on(at, end_arm_both, &served);
	await(&client.has_received, 1); /* closing with unread data would reset the connection */
	await(&client.has_sent, 1);
	on(from, end_close, &client);
	await(&served.has_ended, 1);
	CHECK_EQ(served.recv_result, 0);
	CHECK_EQ(client.received_crc, served.sent_crc);
	CHECK_EQ(served.received, TRANSFER);
	CHECK_EQ(served.received_crc, client.sent_crc);
	on(at, end_close, &served);
	server_stop(&server);
	printf("# %s: partial sends: client %d, server %d\n", host, client.partial, served.partial);
	end_done(&client);
	end_done(&served);
}

TEST(stream_carries_both_ways_over_ipv4)
{
	if (!start())
		return;
	transfer("127.0.0.1", 0, other());
	transfer("127.0.0.1", other(), 0);
	stop(0);
}

static bool has_ipv6(void)
{
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int fd CLEANUP(closep) = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd >= 0 && bind(fd, (struct sockaddr *)&in6, sizeof(in6)) == 0;
}

TEST(stream_carries_both_ways_over_ipv6)
{
	if (!has_ipv6()) {
		SKIP("this machine has no ::1: enable IPv6 on lo to test it");
		return;
	}
	if (!start())
		return;
	transfer("::1", 0, other());
	stop(0);
}

/* ---- flow control ---------------------------------------------------------------------------- */

TEST(stream_sends_in_parts_when_the_peer_is_slow)
{
	struct server server = {};
	struct end end;
	int fd;
	uint64_t got = 0;
	uint32_t crc = 0;
	static char buf[1 << 16];
	ssize_t n;

	if (!start() || !server_start(&server))
		return;
	fd = raw_socket();
	if (!raw_connect(fd, &server))
		return;
	await(&server.naccepted, 1);
	end_init(&end, TRANSFER, 0, &server);
	end.stream = server.accepted[0];
	on(other(), end_arm_both, &end);
	await(&end.partial, 1); /* it fills the buffers, while nobody reads */
	while (got < TRANSFER && (n = recv(fd, buf, sizeof(buf), 0)) > 0) {
		crc = crc32c(crc, buf, (size_t)n);
		got += (uint64_t)n;
	}
	await(&end.has_sent, 1);
	CHECK_EQ(got, TRANSFER);
	CHECK_EQ(crc, end.sent_crc);
	CHECK(end.ready_out > 1);
	on(other(), end_close, &end);
	(void)close(fd);
	server_stop(&server);
	stop(0);
	end_done(&end);
}

/* ---- closing --------------------------------------------------------------------------------- */

enum { CYCLES = 300 };

struct churn {
	struct end *end;  /* CYCLES of them */
	struct end *last; /* gets the descriptor that the others gave back */
};

/* Each closes in the turn that armed it: the poll requests have not reached the kernel. */
static void churn_run(void *arg)
{
	struct churn *churn = arg;

	for (unsigned i = 0; i < CYCLES; i++) {
		end_connect(&churn->end[i]);
		if (CHECK_EQ(churn->end[i].result, 0))
			end_close(&churn->end[i]);
	}
	end_connect(churn->last);
}

static void accepted_close(struct listener *listener, struct stream *stream, void *arg)
{
	(void)listener;
	(void)arg;
	stream_close(stream); /* never attached */
}

static void server_listen_close(void *arg)
{
	struct server *server = arg;
	struct listener_opts opts = { .host = server->host, .accepted = accepted_close };

	server->result = net_get()->listen(&opts, &server->listener, &server->err);
}

TEST(stream_closed_in_the_turn_that_armed_it_is_silent)
{
	static struct end ends[CYCLES];
	struct server crowd = { .host = "127.0.0.1" }, server = {};
	struct end last, served;
	struct churn churn = { .end = ends, .last = &last };

	if (!start() || !server_start(&server))
		return;
	on(0, server_listen_close, &crowd);
	if (!CHECK_EQ(crowd.result, 0))
		return;
	for (unsigned i = 0; i < CYCLES; i++)
		end_init(&ends[i], 0, 0, &crowd);
	end_init(&last, 100000, 200000, &server);
	end_init(&served, 200000, 100000, &server);
	on(other(), churn_run, &churn);
	await(&server.naccepted, 1);
	served.stream = server.accepted[0];
	on(0, end_arm_both, &served);
	await(&last.has_received, 1);
	await(&served.has_received, 1);
	for (unsigned i = 0; i < CYCLES; i++) {
		CHECK_EQ(atomic_load(&ends[i].nready), 0);
		end_done(&ends[i]);
	}
	on(other(), end_close, &last);
	on(0, end_close, &served);
	server_stop(&server);
	server_stop(&crowd);
	stop(0);
	end_done(&last);
	end_done(&served);
}

/* One end each way that waits for bytes and has no room to send. */
static void end_fill_up(void *arg)
{
	struct end *end = arg;
	char byte[512] = {};
	struct iovec iov = { .iov_base = byte, .iov_len = sizeof(byte) };
	ssize_t n;

	end_attach(end);

	while ((n = stream_send(end->stream, &iov, 1)) > 0)
		end->sent += (uint64_t)n;
	stream_arm(end->stream, STREAM_IN | STREAM_OUT);
}

enum { QUIET = 16 };

/* QUIET connections that are armed both ways and quiet, their peers in @fd. */
static void quiet_ends(struct server *server, struct end *ends, int *fd, bool closes_in_ready)
{
	for (int i = 0; i < QUIET; i++) {
		fd[i] = raw_socket();
		if (!raw_connect(fd[i], server))
			abort();
		await(&server->naccepted, i + 1);
		end_init(&ends[i], 0, 0, server);
		ends[i].stream = server->accepted[i];
		ends[i].closes_in_ready = closes_in_ready;
		on(other(), end_fill_up, &ends[i]);
	}
}

static void quiet_close(void *arg)
{
	struct end *ends = arg;

	for (int i = 0; i < QUIET; i++)
		end_close(&ends[i]);
}

TEST(stream_closed_while_armed_is_silent)
{
	struct server server = {};
	struct end ends[QUIET];
	int fd[QUIET];
	static char buf[1 << 16];

	if (!start() || !server_start(&server))
		return;
	quiet_ends(&server, ends, fd, false);
	on(other(), quiet_close, ends);
	for (int i = 0; i < QUIET; i++) {
		while (recv(fd[i], buf, sizeof(buf), 0) > 0)
			; /* what was sent before arrives, then the end */
		(void)close(fd[i]);
		CHECK_EQ(atomic_load(&ends[i].nready), 0);
	}
	server_stop(&server);
	stop(0);
	for (int i = 0; i < QUIET; i++)
		end_done(&ends[i]);
}

static void quiet_abort_one(struct end *end)
{
	stream_abort(end->stream);
	end->is_closed = true;
	end->stream = NULL;
}

static void quiet_abort(void *arg)
{
	struct end *ends = arg;

	for (int i = 0; i < QUIET; i++)
		quiet_abort_one(&ends[i]);
}

TEST(stream_aborted_delivers_nothing_more)
{
	struct server server = {};
	struct end ends[QUIET];
	int fd[QUIET];
	static char buf[1 << 16];

	if (!start() || !server_start(&server))
		return;
	quiet_ends(&server, ends, fd, false);
	on(other(), quiet_abort, ends);
	for (int i = 0; i < QUIET; i++) {
		uint64_t got = 0;
		ssize_t n;

		while ((n = recv(fd[i], buf, sizeof(buf), 0)) > 0)
			got += (uint64_t)n;
		CHECK_EQ(n, -1);
		CHECK_EQ(errno, ECONNRESET);
		CHECK(got < ends[i].sent); /* what did not fit into its window stayed here */
		(void)close(fd[i]);
		CHECK_EQ(atomic_load(&ends[i].nready), 0);
	}
	server_stop(&server);
	stop(0);
	for (int i = 0; i < QUIET; i++)
		end_done(&ends[i]);
}

static void end_abort_connecting(void *arg)
{
	struct end *end = arg;

	end->result = net_get()->connect(end->host, end->port, &end->stream, &end->err);
	if (!CHECK_EQ(end->result, 0))
		return;
	end_attach(end);
	stream_arm(end->stream, STREAM_OUT);
	quiet_abort_one(end);
}

TEST(stream_may_be_aborted_while_it_connects)
{
	struct server server = {};
	struct end end;

	if (!start() || !server_start(&server))
		return;
	end_init(&end, 0, 0, &server);
	on(other(), end_abort_connecting, &end);
	on(0, accepted_drop, &server);
	server_stop(&server);
	stop(0);
	CHECK_EQ(atomic_load(&end.nready), 0);
	end_done(&end);
}

/* The peer's reset completes both polls at once; the first ready() closes. */
TEST(stream_closed_in_ready_forgets_the_other_completion)
{
	struct server server = {};
	struct end ends[QUIET];
	int fd[QUIET];

	if (!start() || !server_start(&server))
		return;
	quiet_ends(&server, ends, fd, true);
	for (int i = 0; i < QUIET; i++)
		raw_reset(fd[i]);
	for (int i = 0; i < QUIET; i++)
		await(&ends[i].nready, 1);
	server_stop(&server);
	stop(0);
	for (int i = 0; i < QUIET; i++) {
		CHECK_EQ(atomic_load(&ends[i].nready), 1);
		end_done(&ends[i]);
	}
}

/* Close, and stay in this turn until the order to stop has surely arrived. */
static void close_and_linger(struct msg *msg)
{
	struct call *call = container_of(msg, struct call, msg);
	uint64_t end_ns;

	quiet_close(call->arg);
	atomic_store(&call->is_done, 1);
	end_ns = now_ns() + 100000000;
	while (now_ns() < end_ns)
		;
}

TEST(reactors_stop_waits_for_closes_in_flight)
{
	struct server server = {};
	struct end ends[QUIET];
	int fd[QUIET];
	struct call call = { .msg.fn = close_and_linger, .arg = ends };

	if (!start() || !server_start(&server))
		return;
	quiet_ends(&server, ends, fd, false);
	server_stop(&server);
	reactor_post(reactor_get(other()), &call.msg);
	await(&call.is_done, 1);
	stop(QUIET); /* the leak checker tells whether the streams were freed */
	for (int i = 0; i < QUIET; i++) {
		(void)close(fd[i]);
		end_done(&ends[i]);
	}
}

/* ---- peers that fail ------------------------------------------------------------------------- */

static void end_send_one(void *arg)
{
	struct end *end = arg;
	char byte = 0;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };

	end->result = (int)stream_send(end->stream, &iov, 1);
}

TEST(stream_reports_a_peer_that_resets)
{
	struct server server = {};
	struct end end;
	int fd;

	if (!start() || !server_start(&server))
		return;
	fd = raw_socket();
	if (!raw_connect(fd, &server))
		return;
	await(&server.naccepted, 1);
	end_init(&end, 0, 0, &server);
	end.stream = server.accepted[0];
	on(other(), end_arm_both, &end);
	raw_reset(fd);
	await(&end.has_ended, 1);
	CHECK_EQ(end.recv_result, -ECONNRESET);
	on(other(), end_send_one, &end); /* an error, not a signal */
	CHECK_EQ(end.result, -EPIPE);
	on(other(), end_close, &end);
	server_stop(&server);
	stop(0);
	end_done(&end);
}

static void server_admit(void *arg)
{
	struct server *server = arg;

	net_get()->admit(server->listener);
	net_get()->admit(server->listener); /* once is enough, twice harms nobody */
}

TEST(a_held_listener_lets_nobody_in_and_refuses_nobody)
{
	struct server server = { .is_held = true }, unused = { .is_held = true };
	int fd[2];

	if (!start() || !server_start(&server) || !server_start(&unused))
		return;
	fd[0] = raw_socket();
	if (!raw_connect(fd[0], &server))
		return;
	on(0, accepted_drop, &server); /* a turn of its reactor */
	CHECK_EQ(atomic_load(&server.naccepted), 0);
	on(0, server_admit, &server);
	await(&server.naccepted, 1);
	fd[1] = raw_socket();
	CHECK(raw_connect(fd[1], &server));
	await(&server.naccepted, 2);
	on(0, accepted_drop, &server);
	(void)close(fd[0]);
	(void)close(fd[1]);
	server_stop(&server);
	server_stop(&unused); /* that never let anybody in */
	stop(0);
}

/* Descriptors of connected sockets that would notice a peer which vanished without a word. */
static unsigned watched_sockets(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 256; fd++) {
		int value = 0;
		socklen_t len = sizeof(value);

		if (getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, &len) == 0 && value != 0)
			n++;
	}
	return n;
}

TEST(stream_notices_a_peer_that_vanished)
{
	struct server server = {};
	int fd;

	if (!start() || !server_start(&server))
		return;
	fd = raw_socket();
	if (!raw_connect(fd, &server))
		return;
	await(&server.naccepted, 1);
	CHECK_EQ(watched_sockets(), 1); /* the accepted one; the client is bare */
	on(0, accepted_drop, &server);
	(void)close(fd);
	server_stop(&server);
	stop(0);
}

static void end_read_error(void *arg)
{
	struct end *end = arg;

	end->error = net_get()->error(end->stream);
}

TEST(stream_reports_a_refused_connection)
{
	struct server server = {};
	struct end end;

	if (!start() || !server_start(&server))
		return;
	end_init(&end, 0, 0, &server); /* the port was free a moment ago */
	server_stop(&server);
	end.is_deaf = true;
	on(other(), end_connect, &end);
	if (CHECK_EQ(end.result, 0)) {
		await(&end.nready, 1);
		on(other(), end_read_error, &end);
		CHECK_EQ(end.error, -ECONNREFUSED);
		on(other(), end_close, &end);
	}
	stop(0);
	end_done(&end);
}

TEST(stream_reports_a_good_connection)
{
	struct server server = {};
	struct end end;

	if (!start() || !server_start(&server))
		return;
	end_init(&end, 0, 0, &server);
	end.is_deaf = true;
	on(other(), end_connect, &end);
	if (CHECK_EQ(end.result, 0)) {
		await(&end.nready, 1);
		on(other(), end_read_error, &end);
		CHECK_EQ(end.error, 0);
		on(other(), end_close, &end);
	}
	await(&server.naccepted, 1);
	on(0, accepted_drop, &server);
	server_stop(&server);
	stop(0);
	end_done(&end);
}

/* ---- listeners ------------------------------------------------------------------------------- */

struct port_try {
	const char *host;
	uint16_t port;
	int result;
	struct err err;
};

static void try_listen(void *arg)
{
	struct port_try *try = arg;
	struct listener_opts opts = { .host = try->host,
				      .port = try->port,
				      .accepted = accepted_close };
	struct listener *listener = NULL;

	err_clear(&try->err);
	try->result = net_get()->listen(&opts, &listener, &try->err);
	if (try->result == 0)
		net_get()->unlisten(listener);
	else
		CHECK(listener == NULL);
}

TEST(listener_refuses_what_cannot_be)
{
	struct server server = {};
	struct {
		const char *host;
		int result;
		const char *text;
	} rows[] = {
		{ "localhost", -EINVAL, "'localhost' is not a numeric" },
		{ "[::1]", -EINVAL, "not a numeric" },
		{ "1.2.3.4.5", -EINVAL, "not a numeric" },
		{ "192.0.2.1", -EADDRNOTAVAIL, "192.0.2.1" },
	};
	struct port_try try;

	if (!start() || !server_start(&server))
		return;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		TAP_ROW(rows[i].host);
		try = (struct port_try){ .host = rows[i].host };
		on(0, try_listen, &try);
		CHECK_EQ(try.result, rows[i].result);
		CHECK_HAS(try.err.msg, rows[i].text);
	}
	TAP_ROW(NULL);
	try = (struct port_try){ .host = "127.0.0.1",
				 .port = net_get()->listener_port(server.listener) };
	on(0, try_listen, &try);
	CHECK_EQ(try.result, -EADDRINUSE);
	server_stop(&server);
	on(0, try_listen, &try); /* an armed listener lets go of its port at once */
	CHECK_EQ(try.result, 0);
	try.host = "";
	on(0, try_listen, &try);
	CHECK_EQ(try.result, 0);
	stop(0);
}

/* An address that means nothing without its interface: "fe80::1%eth0". */
static bool find_link_local(char *text, size_t size)
{
	struct ifaddrs *all = NULL;
	bool is_found = false;

	if (getifaddrs(&all) < 0)
		return false;
	for (struct ifaddrs *i = all; i != NULL && !is_found; i = i->ifa_next) {
		const struct sockaddr_in6 *in6 = (const void *)i->ifa_addr;

		if (i->ifa_addr != NULL && i->ifa_addr->sa_family == AF_INET6 &&
		    IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr))
			is_found = getnameinfo(i->ifa_addr, sizeof(*in6), text, (socklen_t)size,
					       NULL, 0, NI_NUMERICHOST) == 0;
	}
	freeifaddrs(all);
	return is_found;
}

TEST(listener_names_the_interface_of_a_link_local_address)
{
	char host[64], want[80];
	struct server server = { .host = host };

	if (!find_link_local(host, sizeof(host))) {
		SKIP("no interface here has a link-local IPv6 address");
		return;
	}
	if (!start() || !server_start(&server))
		return;
	(void)snprintf(want, sizeof(want), "[%s]:%u", host,
		       net_get()->listener_port(server.listener));
	CHECK_STR(net_get()->listener_addr(server.listener), want);
	server_stop(&server);
	stop(0);
}

TEST(listener_may_close_while_it_accepts)
{
	struct server server = { .closes_itself = true };
	int fd[3];

	if (!start() || !server_start(&server))
		return;
	for (size_t i = 0; i < ARRAY_LEN(fd); i++)
		fd[i] = raw_socket();
	on(0, raw_connect_all, &(struct crowd){ .fd = fd, .count = 3, .server = &server });
	await(&server.naccepted, 1);
	on(0, accepted_drop, &server);
	CHECK_EQ(atomic_load(&server.naccepted), 1);
	for (size_t i = 0; i < ARRAY_LEN(fd); i++)
		(void)close(fd[i]);
	stop(0);
}

/* ---- out of descriptors ---------------------------------------------------------------------- */

static atomic_int nwarnings;
static uint64_t warned_ns[2];

static void count_warnings(void *ctx, enum log_level level, uint64_t at_ns, const char *text)
{
	int n = atomic_load(&nwarnings);

	(void)ctx;
	(void)at_ns;
	if (level != LOG_WARN || strstr(text, "cannot accept") == NULL)
		return;
	CHECK_HAS(text, "EMFILE");
	CHECK_HAS(text, "ulimit -n");
	if (n < 2)
		warned_ns[n] = now_ns();
	atomic_store(&nwarnings, n + 1);
}

/* No descriptor is free any more. */
static void limit_files(struct rlimit *old)
{
	int lowest = dup(0);
	struct rlimit tight;

	CHECK_EQ(getrlimit(RLIMIT_NOFILE, old), 0);
	(void)close(lowest);
	tight = (struct rlimit){ .rlim_cur = (rlim_t)lowest, .rlim_max = old->rlim_max };
	CHECK_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
}

TEST(listener_pauses_without_descriptors_and_recovers)
{
	struct server server = {}, second = {};
	int fd[2];
	struct rlimit old;

	atomic_store(&nwarnings, 0);
	log_set_sink(count_warnings, NULL);
	if (!start() || !server_start(&server) || !server_start(&second))
		return;
	fd[0] = raw_socket();
	fd[1] = raw_socket();
	limit_files(&old);
	(void)raw_connect(fd[0], &server);
	await(&nwarnings, 2);
	CHECK(warned_ns[1] - warned_ns[0] > 90000000); /* it paused, it did not spin */
	CHECK_EQ(atomic_load(&server.naccepted), 0);
	(void)raw_connect(fd[1], &second);
	await(&nwarnings, 4);
	server_stop(&second); /* while it pauses */
	CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
	await(&server.naccepted, 1);
	on(0, accepted_drop, &server);
	server_stop(&server);
	(void)close(fd[0]);
	(void)close(fd[1]);
	stop(0);
	log_set_sink(NULL, NULL);
	CHECK_EQ(atomic_load(&second.naccepted), 0);
}

TAP_MAIN()
