/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated network under a toy protocol: an echo server on one reactor, clients on others. */
#include "base/tap.h"

#include <errno.h>

#include "net.h"
#include "reactor/task.h"
#include "world.h"

enum {
	NCLIENTS = 4,
	MESSAGE = 6000, /* bytes that each client sends and wants back */
	CHUNK = 512,
};

/* ---- the server: sends back what it reads, closes when the peer does ------------------------- */

struct echo {
	struct stream *stream;
	uint8_t buf[CHUNK];
	size_t have, sent;
	struct msg attach;
	struct timer patience;
};

static unsigned nechoes;

static void echo_end(struct echo *echo)
{
	timer_disarm(reactor_self(), &echo->patience);
	stream_close(echo->stream);
	free(echo);
	nechoes--;
}

/* Silence for so long: the other end of a half-open connection is gone. */
static void echo_impatient(struct timer *timer)
{
	echo_end(container_of(timer, struct echo, patience));
}

static void echo_run(struct echo *echo)
{
	timer_arm(reactor_self(), &echo->patience, 2 * SEC);
	for (;;) {
		struct iovec iov = { echo->buf + echo->sent, echo->have - echo->sent };
		ssize_t n;

		if (echo->sent < echo->have) {
			n = stream_send(echo->stream, &iov, 1);
			if (n == -EAGAIN) {
				stream_arm(echo->stream, STREAM_OUT);
				return;
			}
			if (n > 0)
				echo->sent += (size_t)n;
		} else {
			iov = (struct iovec){ echo->buf, sizeof(echo->buf) };
			n = stream_recv(echo->stream, &iov, 1);
			if (n == -EAGAIN) {
				stream_arm(echo->stream, STREAM_IN);
				return;
			}
			echo->have = n > 0 ? (size_t)n : 0;
			echo->sent = 0;
		}
		if (n <= 0) {
			echo_end(echo);
			return;
		}
	}
}

static void echo_ready(struct stream *stream, unsigned want)
{
	CHECK(want != 0);
	CHECK(reactor_self() == stream->reactor);
	echo_run(stream->owner);
}

static void echo_attach(struct msg *msg)
{
	struct echo *echo = container_of(msg, struct echo, attach);

	stream_attach(echo->stream);
	echo_run(echo);
}

static void echo_accepted(struct listener *listener, struct stream *stream, void *arg)
{
	struct echo *echo = calloc(1, sizeof(*echo));

	(void)listener;
	(void)arg;
	CHECK(reactor_self() == reactor_primary());
	nechoes++;
	echo->stream = stream;
	stream->owner = echo;
	stream->ready = echo_ready;
	echo->attach.fn = echo_attach;
	echo->patience.fn = echo_impatient;
	reactor_post(world_reactor(world_nreactors() - 1), &echo->attach);
}

/* ---- a client: sends a stream of bytes that it can predict, and compares the echo ------------ */

struct client {
	struct stream *stream;
	unsigned seed;
	size_t sent, received;
	int error; /* how it ended; 1: it runs */
	struct timer patience;
	struct msg start;
	bool is_connected;
};

static struct client clients[NCLIENTS];
static uint16_t port;

static uint8_t client_byte(const struct client *client, size_t at)
{
	return (uint8_t)(client->seed * 31 + at * 7 + at / 251);
}

static void client_end(struct client *client, int error)
{
	client->error = error;
	timer_disarm(reactor_self(), &client->patience);
	stream_close(client->stream);
}

static int client_send(struct client *client)
{
	uint8_t buf[CHUNK];
	struct iovec iov[2];
	size_t len = MIN(sizeof(buf), (size_t)MESSAGE - client->sent);
	ssize_t n;

	for (size_t i = 0; i < len; i++)
		buf[i] = client_byte(client, client->sent + i);
	iov[0] = (struct iovec){ buf, len / 3 };
	iov[1] = (struct iovec){ buf + len / 3, len - len / 3 };
	n = stream_send(client->stream, iov, 2);
	if (n > 0)
		client->sent += (size_t)n;
	return n > 0 ? 0 : (int)n;
}

static int client_recv(struct client *client)
{
	uint8_t buf[CHUNK];
	struct iovec iov[2] = { { buf, 100 }, { buf + 100, sizeof(buf) - 100 } };
	ssize_t n = stream_recv(client->stream, iov, 2);

	if (n <= 0)
		return n == 0 ? -ECONNABORTED : (int)n;
	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] != client_byte(client, client->received++))
			return -EBADMSG;
	}
	return 0;
}

static void client_run(struct client *client)
{
	unsigned want = 0;
	int result = 0;

	while (client->sent < MESSAGE && result == 0)
		result = client_send(client);
	if (result == -EAGAIN)
		want |= STREAM_OUT;
	while ((result == 0 || result == -EAGAIN) && client->received < MESSAGE) {
		result = client_recv(client);
		if (result == -EAGAIN) {
			want |= STREAM_IN;
			break;
		}
	}
	if (client->received == MESSAGE)
		client_end(client, 0);
	else if (result < 0 && result != -EAGAIN)
		client_end(client, result);
	else
		stream_arm(client->stream, want);
}

static void client_ready(struct stream *stream, unsigned want)
{
	struct client *client = stream->owner;
	int error = net_get()->error(stream);

	CHECK(reactor_self() == stream->reactor);
	CHECK(want != 0);
	if (!client->is_connected && error < 0) {
		client_end(client, error);
		return;
	}
	client->is_connected = true;
	client_run(client);
}

static void client_impatient(struct timer *timer)
{
	client_end(container_of(timer, struct client, patience), -ETIME);
}

static void client_start(struct msg *msg)
{
	struct client *client = container_of(msg, struct client, start);

	client->stream->owner = client;
	client->stream->ready = client_ready;
	client->patience.fn = client_impatient;
	timer_arm(reactor_self(), &client->patience, SEC);
	stream_attach(client->stream);
	stream_arm(client->stream, STREAM_OUT);
}

static void client_connect(struct client *client, unsigned i)
{
	*client = (struct client){ .seed = i, .error = 1, .start.fn = client_start };
	simnet_from(i % 2 == 0 ? "10.0.0.1" : "10.0.0.3");
	CHECK_EQ(net_get()->connect("10.0.0.2", port, &client->stream, NULL), 0);
	reactor_post(world_reactor(i % world_nreactors()), &client->start);
}

static bool all_ended(void)
{
	for (unsigned i = 0; i < NCLIENTS; i++) {
		if (clients[i].error == 1)
			return false;
	}
	return nechoes == 0;
}

/* ---- what happens to the connections --------------------------------------------------------- */

enum trouble { NO_TROUBLE, HELD, DROPS, HALF_OPEN, PARTITION, SLOW, NOBODY_LISTENS };

static enum trouble trouble;

static void make_trouble(unsigned round, struct listener *listener)
{
	switch (trouble) {
	case DROPS:
		if (round % 20 == 10)
			(void)simnet_drop();
		break;
	case HALF_OPEN:
		if (round == 10)
			(void)simnet_half_open();
		break;
	case PARTITION:
		if (round == 5 || round == 15)
			simnet_partition("10.0.0.1", "10.0.0.2", round == 5);
		break;
	case SLOW:
		simnet_slow(round % 2 == 0 ? 50 : 1);
		break;
	case HELD:
		if (round == 50) {
			CHECK(!all_ended() && nechoes == 0);
			net_get()->admit(listener);
		}
		break;
	case NO_TROUBLE:
	case NOBODY_LISTENS:
		break;
	}
}

static void body(void *arg)
{
	struct listener_opts opts = { .host = "",
				      .accepted = echo_accepted,
				      .is_held = trouble == HELD };
	struct listener *listener = NULL;

	(void)arg;
	nechoes = 0;
	CHECK_EQ(net_get()->listen(&opts, &listener, NULL), 0);
	port = net_get()->listener_port(listener);
	CHECK(port != 0);
	if (trouble == NOBODY_LISTENS)
		net_get()->unlisten(listener);
	for (unsigned i = 0; i < NCLIENTS; i++)
		client_connect(&clients[i], i);
	for (unsigned round = 0; round < 100000 && !all_ended(); round++) {
		make_trouble(round, listener);
		task_sleep(50 * USEC);
	}
	CHECK(all_ended());
	if (trouble != NOBODY_LISTENS)
		net_get()->unlisten(listener);
}

static uint64_t run(uint64_t seed, enum trouble what, struct simnet_stats *ret_stats)
{
	struct simnet_opts opts = { .latency_min_ns = 5 * USEC,
				    .latency_mean_ns = 50 * USEC,
				    .window_max = 2000,
				    .is_cutting = true };
	uint64_t hash;

	trouble = what;
	world_start(&(struct world_opts){ .seed = seed });
	simnet_start(&opts);
	net_set(&net_sim);
	CHECK(world_task(body, NULL, 20000000));
	CHECK_EQ(simnet_stop(), 0);
	*ret_stats = *simnet_stats();
	net_set(&net_tcp);
	hash = world_hash();
	world_stop();
	return hash;
}

static unsigned count_ends(int error)
{
	unsigned count = 0;

	for (unsigned i = 0; i < NCLIENTS; i++)
		count += clients[i].error == error;
	return count;
}

TEST(net_a_held_listener_is_waited_for)
{
	struct simnet_stats stats;

	for (uint64_t seed = 1; seed <= 10; seed++) {
		run(seed, HELD, &stats);
		CHECK_EQ(count_ends(0), NCLIENTS);
		CHECK_EQ(stats.refused, 0);
	}
}

TEST(net_bytes_arrive_whole_and_in_order_however_they_are_cut)
{
	struct simnet_stats stats;

	for (uint64_t seed = 1; seed <= 30; seed++) {
		run(seed, NO_TROUBLE, &stats);
		CHECK_EQ(count_ends(0), NCLIENTS);
		CHECK(stats.cuts > 20);
		CHECK_EQ(stats.bytes, 2 * NCLIENTS * MESSAGE);
	}
}

TEST(net_same_seed_is_the_same_run)
{
	struct simnet_stats stats;

	for (uint64_t seed = 1; seed <= 10; seed++)
		CHECK_EQ(run(seed, DROPS, &stats), run(seed, DROPS, &stats));
}

TEST(net_dropped_connections_break_at_both_ends)
{
	unsigned broken = 0, whole = 0;
	struct simnet_stats stats;

	for (uint64_t seed = 1; seed <= 30; seed++) {
		run(seed, DROPS, &stats);
		broken += count_ends(-ECONNRESET);
		whole += count_ends(0);
		CHECK_EQ(count_ends(0) + count_ends(-ECONNRESET), NCLIENTS);
	}
	CHECK(broken > 10);
	CHECK(whole > 10);
}

TEST(net_half_open_is_silence_for_one_end)
{
	unsigned silent = 0, broken = 0;
	struct simnet_stats stats;

	for (uint64_t seed = 1; seed <= 30; seed++) {
		run(seed, HALF_OPEN, &stats);
		silent += count_ends(-ETIME) + count_ends(-ECONNRESET);
		broken += stats.half_opens > 0;
	}
	CHECK(silent > 5);
	CHECK(broken > 10);
}

TEST(net_partition_delays_until_it_heals)
{
	struct simnet_stats stats;

	for (uint64_t seed = 1; seed <= 30; seed++) {
		run(seed, PARTITION, &stats);
		CHECK_EQ(count_ends(0), NCLIENTS);
		CHECK_EQ(stats.partitions, 1);
	}
}

TEST(net_slow_peers_finish)
{
	struct simnet_stats stats;

	for (uint64_t seed = 1; seed <= 10; seed++) {
		run(seed, SLOW, &stats);
		CHECK_EQ(count_ends(0), NCLIENTS);
	}
}

TEST(net_nobody_listens_is_refused)
{
	struct simnet_stats stats;

	run(1, NOBODY_LISTENS, &stats);
	CHECK_EQ(count_ends(-ECONNREFUSED), NCLIENTS);
	CHECK_EQ(stats.refused, NCLIENTS);
}

/* ---- abort ----------------------------------------------------------------------------------- */

static struct stream *abort_served;
static size_t abort_sent;
static bool abort_is_cut;

static void abort_accepted(struct listener *listener, struct stream *stream, void *arg)
{
	(void)listener;
	(void)arg;
	abort_served = stream;
}

static void abort_ready(struct stream *stream, unsigned want)
{
	(void)want;
	(void)stream;
}

/* Send until the window is full, abort, look what the other end still gets. */
static void abort_body(void *arg)
{
	struct listener_opts opts = { .host = "", .accepted = abort_accepted };
	uint8_t buf[CHUNK] = {};
	struct iovec iov = { buf, sizeof(buf) };
	struct listener *listener = NULL;
	struct stream *stream;
	size_t got = 0;
	ssize_t n;

	(void)arg;
	abort_served = NULL;
	abort_sent = 0;
	CHECK_EQ(net_get()->listen(&opts, &listener, NULL), 0);
	CHECK_EQ(net_get()->connect("10.0.0.2", net_get()->listener_port(listener), &stream, NULL),
		 0);
	stream->ready = abort_ready;
	stream_attach(stream);
	while (net_get()->error(stream) == -EINPROGRESS)
		task_sleep(10 * USEC);
	abort_served->ready = abort_ready;
	stream_attach(abort_served);
	while ((n = stream_send(stream, &iov, 1)) > 0)
		abort_sent += (size_t)n;
	if (abort_is_cut)
		simnet_partition("10.0.0.1", "10.0.0.2", true);
	stream_abort(stream);
	task_sleep(10 * MSEC);
	while ((n = stream_recv(abort_served, &iov, 1)) > 0)
		got += (size_t)n;
	CHECK_EQ(n, abort_is_cut ? -EAGAIN : -ECONNRESET);
	CHECK(got < abort_sent);
	if (abort_is_cut)
		simnet_partition("10.0.0.1", "10.0.0.2", false);
	task_sleep(10 * MSEC);
	CHECK(stream_recv(abort_served, &iov, 1) <= 0);
	stream_close(abort_served);
	net_get()->unlisten(listener);
}

TEST(net_abort_delivers_nothing_more)
{
	struct simnet_opts opts = { .latency_min_ns = 5 * USEC,
				    .latency_mean_ns = 50 * USEC,
				    .window_max = 2000 };

	for (uint64_t seed = 1; seed <= 30; seed++) {
		abort_is_cut = seed % 2 == 0;
		world_start(&(struct world_opts){ .seed = seed });
		simnet_start(&opts);
		net_set(&net_sim);
		CHECK(world_task(abort_body, NULL, 20000000));
		CHECK_EQ(simnet_stop(), 0);
		net_set(&net_tcp);
		world_stop();
	}
}

/* ---- a machine dies -------------------------------------------------------------------------- */

static ssize_t crash_heard; /* by who talked to it */

static void crash_body(void *arg)
{
	struct listener_opts opts = { .host = "", .accepted = abort_accepted };
	uint8_t buf[16] = {};
	struct iovec iov = { buf, sizeof(buf) };
	struct listener *listener = NULL;
	struct stream *stream;

	(void)arg;
	abort_served = NULL;
	CHECK_EQ(net_get()->listen(&opts, &listener, NULL), 0);
	CHECK_EQ(net_get()->connect("10.0.0.2", net_get()->listener_port(listener), &stream, NULL),
		 0);
	stream->ready = abort_ready;
	stream_attach(stream);
	while (net_get()->error(stream) == -EINPROGRESS)
		task_sleep(10 * USEC);
	abort_served->ready = abort_ready;
	stream_attach(abort_served);
	CHECK(stream_send(abort_served, &iov, 1) > 0);
	simnet_crash("10.0.0.2");
	CHECK_EQ(stream_recv(abort_served, &iov, 1), -ECONNRESET);
	task_sleep(10 * MSEC);
	CHECK_EQ(stream_recv(stream, &iov, 1), -EAGAIN);
	(void)stream_send(stream, &iov, 1);
	crash_heard = stream_recv(stream, &iov, 1);
	stream_close(stream);
	stream_close(abort_served);
	net_get()->unlisten(listener);
}

TEST(net_who_talked_to_a_dead_machine_hears_nothing_or_a_reset)
{
	struct simnet_opts opts = { .latency_min_ns = 5 * USEC,
				    .latency_mean_ns = 50 * USEC,
				    .window_max = 2000 };
	unsigned silent = 0, reset = 0;

	for (uint64_t seed = 1; seed <= 30; seed++) {
		world_start(&(struct world_opts){ .seed = seed });
		simnet_start(&opts);
		net_set(&net_sim);
		CHECK(world_task(crash_body, NULL, 20000000));
		CHECK_EQ(simnet_stop(), 0);
		net_set(&net_tcp);
		world_stop();
		silent += crash_heard == -EAGAIN;
		reset += crash_heard == -ECONNRESET;
	}
	CHECK_EQ(silent + reset, 30);
	CHECK(silent > 5);
	CHECK(reset > 5);
}

TAP_MAIN()
