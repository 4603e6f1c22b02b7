/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net.c - byte streams that arrive late, in pieces, or never.
 *
 * A connection has two ends. What one sends becomes a segment that is under way for a while, then
 * lies in the other's buffer until it is read; both count against the window, so a slow reader
 * stops the writer as it does in life.
 *
 *   end A --send--> segments under way --arrive--> buffer of end B --recv-->
 *                        |                              |
 *                        +---- window_max in all -------+   freed by recv: A may send again
 *
 *   end:  CONNECTING --SYN-ACK--> OPEN --peer closed, all read--> END OF STREAM
 *             |                    +--reset, drop--> BROKEN (error, at once, unread data is lost)
 *             +--refused, timed out--> BROKEN
 *
 * A partition stops arrivals (they are tried again until it is over) and resets alike: an end
 * cannot learn what happened beyond it. A half-open connection is one end broken and the other in
 * silence.
 *
 * ready() is called from the reap phase of the end's reactor, once per arm, never from send or
 * recv. Arrivals are events of the world, because a network card needs no turn of a reactor.
 *
 * Rejected: packets with loss and retransmission. TCP hides them from its users; what it shows of
 * them is delay, and that is here.
 */
#include "net.h"

#include <errno.h>
#include <string.h>

#include "world.h"

enum {
	HOST_MAX = 32,
	PARTITIONS_MAX = 8,
	CONNECT_TIMEOUT_NS = 2000 * 1000 * 1000,
	RETRY_NS = 1000 * 1000, /* how often a blocked arrival is tried again */
};

struct segment {
	struct segment *next;
	uint32_t len, at; /* bytes, and how many of them were read */
	bool is_last;     /* end of stream; len is 0 */
	bool is_reset;    /* the peer aborted; len is 0 */
	uint8_t data[];
};

struct segments {
	struct segment *first, **last;
};

struct end {
	struct stream stream;
	struct link *link;
	struct event ready;  /* on its reactor */
	struct event arrive; /* of the world: the first segment under way reaches us */
	struct segments under_way, unread;
	uint32_t window_used; /* bytes of both lists */
	uint64_t arrive_ns;   /* of the last segment sent to us: none overtakes */
	unsigned armed;       /* enum stream_want */
	int error;            /* negative errno: broken, or -EINPROGRESS */
	bool is_closed, is_ended;
	char host[HOST_MAX];
};

struct link {
	struct end end[2]; /* 0: who connected */
	struct list list;
	struct event step; /* the handshake */
	struct listener *listener;
	uint32_t window_max;
	bool is_accepted;
	bool is_forgotten; /* one end's machine died: the other may be reset when it speaks */
};

struct listener {
	struct listener_opts opts;
	struct list list;
	char host[HOST_MAX], addr[STREAM_ADDR_MAX];
	uint16_t port;
};

static struct {
	struct simnet_opts opts;
	struct list links, listeners;
	char from[HOST_MAX], aim[HOST_MAX];
	char cut[PARTITIONS_MAX][2][HOST_MAX];
	unsigned ncuts, slow;
	uint16_t next_port;
	struct simnet_stats stats;
} net;

static struct end *end_of(struct stream *stream)
{
	return container_of(stream, struct end, stream);
}

static struct end *end_peer(struct end *end)
{
	return &end->link->end[end == &end->link->end[0]];
}

/* ---- segments ------------------------------------------------------------------------------- */

static void segments_init(struct segments *list)
{
	list->first = NULL;
	list->last = &list->first;
}

static void segments_push(struct segments *list, struct segment *segment)
{
	segment->next = NULL;
	*list->last = segment;
	list->last = &segment->next;
}

static struct segment *segments_pop(struct segments *list)
{
	struct segment *segment = list->first;

	if (segment == NULL)
		return NULL;
	list->first = segment->next;
	if (list->first == NULL)
		list->last = &list->first;
	return segment;
}

static void segments_free(struct segments *list)
{
	struct segment *segment;

	while ((segment = segments_pop(list)) != NULL)
		free(segment);
}

/* ---- readiness ------------------------------------------------------------------------------ */

static unsigned end_can(struct end *end)
{
	struct end *peer = end_peer(end);
	unsigned can = 0;

	if (end->error == -EINPROGRESS)
		return 0;
	if (end->error != 0)
		return STREAM_IN | STREAM_OUT;
	if (end->unread.first != NULL || end->is_ended)
		can |= STREAM_IN;
	if (peer->window_used < end->link->window_max || peer->is_closed)
		can |= STREAM_OUT;
	return can;
}

static void end_ready(struct event *event)
{
	struct end *end = container_of(event, struct end, ready);
	unsigned want = end->armed & end_can(end);

	if (want == 0 || end->is_closed)
		return;
	end->armed &= ~want;
	world_trace("ready", want, end->window_used);
	end->stream.ready(&end->stream, want);
}

/* Something changed: if the user waits for it, tell him soon. */
static void end_poke(struct end *end)
{
	if (end->is_closed || end->stream.reactor == NULL || event_is_queued(&end->ready) ||
	    (end->armed & end_can(end)) == 0)
		return;
	world_at(&end->ready, (int)end->stream.reactor->id, world_rand(2 * USEC), end_ready);
}

/* ---- who hears whom ------------------------------------------------------------------------- */

static bool is_cut_off(const char *a, const char *b)
{
	for (unsigned i = 0; i < net.ncuts; i++) {
		if ((strcmp(net.cut[i][0], a) == 0 && strcmp(net.cut[i][1], b) == 0) ||
		    (strcmp(net.cut[i][0], b) == 0 && strcmp(net.cut[i][1], a) == 0))
			return true;
	}
	return false;
}

static bool link_is_cut(const struct link *link)
{
	return is_cut_off(link->end[0].host, link->end[1].host);
}

static uint64_t any_latency(void)
{
	return world_latency(net.opts.latency_min_ns, net.opts.latency_mean_ns) * net.slow;
}

static void end_arrived(struct event *event);
static void end_break(struct end *end, int error);

/* When the first segment under way arrives. */
static void end_expect(struct end *end, uint64_t delay_ns)
{
	if (end->under_way.first != NULL && !event_is_queued(&end->arrive))
		world_at(&end->arrive, WORLD_NONE, delay_ns, end_arrived);
}

static void end_arrived(struct event *event)
{
	struct end *end = container_of(event, struct end, arrive);
	struct segment *segment;

	if (link_is_cut(end->link)) {
		end_expect(end, RETRY_NS);
		return;
	}
	segment = segments_pop(&end->under_way);
	world_trace("arrive", segment->len, segment->is_last);
	if (segment->is_reset) {
		free(segment);
		end_break(end, -ECONNRESET);
		return;
	}
	if (segment->is_last) {
		end->is_ended = true;
		free(segment);
	} else if (end->is_closed || end->error != 0) {
		end->window_used -= segment->len;
		free(segment);
	} else {
		segments_push(&end->unread, segment);
	}
	end_expect(end, world_chance(1, 2) ? 0 : any_latency() / 4);
	end_poke(end);
}

static void end_send(struct end *to, struct segment *segment)
{
	segments_push(&to->under_way, segment);
	to->window_used += segment->len;
	end_expect(to, any_latency());
}

/* ---- breaking ------------------------------------------------------------------------------- */

static void end_break(struct end *end, int error)
{
	if (end->error != 0 && end->error != -EINPROGRESS)
		return;
	world_trace("broken", (uint64_t)-error, 0);
	end->error = error;
	segments_free(&end->unread);
	segments_free(&end->under_way);
	world_cancel(&end->arrive);
	end->window_used = 0;
	end_poke(end);
}

static bool link_is_whole(const struct link *link)
{
	return link->is_accepted && !link->end[0].is_closed && !link->end[1].is_closed;
}

static bool link_is_aimed_at(const struct link *link)
{
	return link_is_whole(link) &&
	       (net.aim[0] == '\0' || strcmp(link->end[1].host, net.aim) == 0);
}

static struct link *any_link(void)
{
	struct link *link;
	uint64_t skip = 0;

	list_for_each (link, &net.links, list)
		skip += link_is_aimed_at(link);
	if (skip == 0)
		return NULL;
	skip = world_rand(skip);
	list_for_each (link, &net.links, list) {
		if (link_is_aimed_at(link) && skip-- == 0)
			return link;
	}
	return NULL;
}

void simnet_aim(const char *host)
{
	(void)snprintf(net.aim, sizeof(net.aim), "%s", host == NULL ? "" : host);
}

unsigned simnet_count(void)
{
	struct link *link;
	unsigned count = 0;

	list_for_each (link, &net.links, list)
		count += link_is_whole(link);
	return count;
}

bool simnet_drop(void)
{
	struct link *link = any_link();

	if (link == NULL)
		return false;
	net.stats.drops++;
	end_break(&link->end[0], -ECONNRESET);
	end_break(&link->end[1], -ECONNRESET);
	return true;
}

bool simnet_half_open(void)
{
	struct link *link = any_link();
	struct end *end;

	if (link == NULL)
		return false;
	net.stats.half_opens++;
	end = &link->end[world_rand(2)];
	end_break(end, -ECONNRESET);
	/* What was under way to the other never arrives. */
	segments_free(&end_peer(end)->under_way);
	world_cancel(&end_peer(end)->arrive);
	return true;
}

void simnet_crash(const char *host)
{
	struct link *link;

	list_for_each (link, &net.links, list) {
		for (unsigned i = 0; i < 2; i++) {
			struct end *end = &link->end[i], *peer = end_peer(end);

			if (strcmp(end->host, host) != 0 || !link->is_accepted || end->is_closed)
				continue;
			end_break(end, -ECONNRESET);
			segments_free(&peer->under_way);
			world_cancel(&peer->arrive);
			link->is_forgotten = world_chance(1, 2);
		}
	}
}

void simnet_partition(const char *host_a, const char *host_b, bool is_cut)
{
	if (is_cut) {
		assert(net.ncuts < PARTITIONS_MAX);
		(void)snprintf(net.cut[net.ncuts][0], HOST_MAX, "%s", host_a);
		(void)snprintf(net.cut[net.ncuts][1], HOST_MAX, "%s", host_b);
		net.ncuts++;
		net.stats.partitions++;
		return;
	}
	for (unsigned i = 0; i < net.ncuts; i++) {
		if (strcmp(net.cut[i][0], host_a) == 0 && strcmp(net.cut[i][1], host_b) == 0) {
			memmove(&net.cut[i], &net.cut[i + 1],
				(net.ncuts - i - 1) * sizeof(net.cut[0]));
			net.ncuts--;
			return;
		}
	}
}

void simnet_slow(unsigned factor)
{
	net.slow = factor;
}

void simnet_from(const char *host)
{
	(void)snprintf(net.from, sizeof(net.from), "%s", host);
}

/* ---- stream_ops ----------------------------------------------------------------------------- */

/* How much of @max this call moves. */
static uint32_t any_part(uint64_t max)
{
	if (!net.opts.is_cutting || max <= 1 || world_chance(1, 2))
		return (uint32_t)max;
	net.stats.cuts++;
	return 1 + (uint32_t)world_rand(max);
}

static size_t vector_bytes(const struct iovec *iov, int iovcnt)
{
	size_t bytes = 0;

	for (int i = 0; i < iovcnt; i++)
		bytes += iov[i].iov_len;
	return bytes;
}

/* Copy between a vector and bytes; @off bytes into the vector. */
static void vector_copy(const struct iovec *iov, size_t off, uint8_t *bytes, size_t len,
			bool is_out)
{
	while (len > 0) {
		size_t step;

		if (off >= iov->iov_len) {
			off -= iov->iov_len;
			iov++;
			continue;
		}
		step = MIN(iov->iov_len - off, len);
		if (is_out)
			memcpy(bytes, (const uint8_t *)iov->iov_base + off, step);
		else
			memcpy((uint8_t *)iov->iov_base + off, bytes, step);
		off += step;
		bytes += step;
		len -= step;
	}
}

static ssize_t sim_send(struct stream *stream, const struct iovec *iov, int iovcnt)
{
	struct end *end = end_of(stream), *peer = end_peer(end);
	size_t want = vector_bytes(iov, iovcnt);
	struct segment *segment;
	uint32_t len;

	assert(!end->is_closed && stream->reactor == reactor_self());
	if (end->error != 0)
		return end->error == -EINPROGRESS ? -EAGAIN : end->error;
	if (peer->is_closed && end->is_ended)
		return -EPIPE;
	if (peer->window_used >= end->link->window_max || want == 0)
		return -EAGAIN;
	len = any_part(MIN(want, (size_t)(end->link->window_max - peer->window_used)));
	segment = sim_zalloc(sizeof(*segment) + len);
	segment->len = len;
	vector_copy(iov, 0, segment->data, len, true);
	net.stats.bytes += len;
	if (peer->error == 0 || peer->error == -EINPROGRESS) {
		end_send(peer, segment);
		return (ssize_t)len;
	}
	free(segment); /* half-open: into the void */
	if (end->link->is_forgotten && !link_is_cut(end->link))
		end_break(end, -ECONNRESET);
	return (ssize_t)len;
}

static ssize_t sim_recv(struct stream *stream, const struct iovec *iov, int iovcnt)
{
	struct end *end = end_of(stream);
	size_t want = vector_bytes(iov, iovcnt), got = 0;

	assert(!end->is_closed && stream->reactor == reactor_self());
	if (end->error != 0)
		return end->error == -EINPROGRESS ? -EAGAIN : end->error;
	if (end->unread.first == NULL)
		return end->is_ended ? 0 : -EAGAIN;
	while (got < want && end->unread.first != NULL) {
		struct segment *segment = end->unread.first;
		uint32_t len = any_part(MIN(want - got, (size_t)(segment->len - segment->at)));

		vector_copy(iov, got, segment->data + segment->at, len, false);
		segment->at += len;
		got += len;
		if (segment->at < segment->len)
			break;
		free(segments_pop(&end->unread));
	}
	end->window_used -= (uint32_t)got;
	end_poke(end_peer(end));
	return (ssize_t)got;
}

static void sim_attach(struct stream *stream)
{
	end_poke(end_of(stream));
}

static void sim_arm(struct stream *stream, unsigned want)
{
	struct end *end = end_of(stream);

	assert(!end->is_closed && stream->reactor == reactor_self());
	end->armed |= want;
	end_poke(end);
}

static void link_free(struct link *link)
{
	if (event_is_queued(&link->step))
		world_cancel(&link->step);
	for (unsigned i = 0; i < 2; i++) {
		world_cancel(&link->end[i].ready);
		world_cancel(&link->end[i].arrive);
		segments_free(&link->end[i].unread);
		segments_free(&link->end[i].under_way);
	}
	list_del(&link->list);
	free(link);
}

static void sim_close(struct stream *stream)
{
	struct end *end = end_of(stream), *peer = end_peer(end);
	bool has_unread = end->unread.first != NULL || end->under_way.first != NULL;

	assert(!end->is_closed);
	world_trace("close", end == &end->link->end[1], has_unread);
	end->is_closed = true;
	end->armed = 0;
	world_cancel(&end->ready);
	if (peer->is_closed) {
		link_free(end->link);
		return;
	}
	if (!end->link->is_accepted && end == &end->link->end[0]) {
		link_free(end->link); /* given up while connecting: nobody has the other end */
		return;
	}
	if (end->error != 0 || peer->error != 0)
		return;
	if (has_unread && !link_is_cut(end->link)) {
		end_break(peer, -ECONNRESET);
	} else {
		struct segment *segment = sim_zalloc(sizeof(*segment));

		segment->is_last = true;
		end_send(peer, segment);
	}
}

/* Keep so many segments, forget the others. */
static void segments_cut(struct segments *list, unsigned keep, uint32_t *window_used)
{
	struct segment **at = &list->first, *segment, *next;

	while (*at != NULL && keep-- > 0)
		at = &(*at)->next;
	segment = *at;
	*at = NULL;
	list->last = at;
	for (; segment != NULL; segment = next) {
		next = segment->next;
		*window_used -= segment->len;
		free(segment);
	}
}

static unsigned segments_count(const struct segments *list)
{
	unsigned count = 0;

	for (const struct segment *segment = list->first; segment != NULL; segment = segment->next)
		count++;
	return count;
}

/*
 * What was not sent yet is thrown away. What is on the wire may still arrive, and be read, before
 * the reset behind it does. With a partition between nothing arrives, and nobody is told.
 */
static void sim_abort(struct stream *stream)
{
	struct end *end = end_of(stream), *peer = end_peer(end);
	unsigned count = segments_count(&peer->under_way);

	if (end->error == 0 && peer->error == 0 && !peer->is_closed && end->link->is_accepted) {
		bool is_cut = link_is_cut(end->link);

		world_trace("abort", end == &end->link->end[1], peer->window_used);
		segments_cut(&peer->under_way, is_cut || count == 0 ? 0 : world_rand(count),
			     &peer->window_used);
		if (peer->under_way.first == NULL)
			world_cancel(&peer->arrive);
		end->error = -ECONNRESET; /* nothing is sent to it any more */
		if (!is_cut) {
			struct segment *segment = sim_zalloc(sizeof(*segment));

			segment->is_reset = true;
			end_send(peer, segment);
		}
	}
	sim_close(stream);
}

static const struct stream_ops sim_ops = {
	.recv = sim_recv,
	.send = sim_send,
	.attach = sim_attach,
	.arm = sim_arm,
	.close = sim_close,
	.abort = sim_abort,
};

/* ---- connecting ----------------------------------------------------------------------------- */

static void end_init(struct end *end, struct link *link)
{
	end->link = link;
	end->stream.ops = &sim_ops;
	segments_init(&end->under_way);
	segments_init(&end->unread);
}

static void link_established(struct event *event)
{
	struct link *link = container_of(event, struct link, step);

	if (link->end[0].error == -EINPROGRESS)
		link->end[0].error = 0;
	end_poke(&link->end[0]);
}

/* On the primary's loop: hand over the other end. */
static void link_accept(struct event *event)
{
	struct link *link = container_of(event, struct link, step);
	struct listener *listener = link->listener;

	link->listener = NULL;
	if (listener == NULL) {
		end_break(&link->end[0], -ECONNREFUSED);
		return;
	}
	link->is_accepted = true;
	world_at(&link->step, WORLD_NONE, any_latency(), link_established);
	listener->opts.accepted(listener, &link->end[1].stream, listener->opts.arg);
}

static struct listener *listener_find(const char *host, uint16_t port)
{
	struct listener *listener;

	list_for_each (listener, &net.listeners, list) {
		if (listener->port == port &&
		    (listener->host[0] == '\0' || strcmp(listener->host, host) == 0))
			return listener;
	}
	return NULL;
}

static void link_syn(struct event *event)
{
	struct link *link = container_of(event, struct link, step);
	unsigned port = (unsigned)(uintptr_t)link->end[1].stream.owner;

	if (link_is_cut(link)) {
		if (world_now() >= link->end[0].arrive_ns) {
			net.stats.timeouts++;
			end_break(&link->end[0], -ETIMEDOUT);
		} else {
			world_at(&link->step, WORLD_NONE, RETRY_NS, link_syn);
		}
		return;
	}
	link->listener = listener_find(link->end[1].host, (uint16_t)port);
	if (link->listener != NULL && link->listener->opts.is_held) {
		link->listener = NULL; /* it may go meanwhile */
		world_at(&link->step, WORLD_NONE, RETRY_NS, link_syn);
		return;
	}
	link->end[1].stream.owner = NULL;
	if (link->listener == NULL) {
		net.stats.refused++;
		end_break(&link->end[0], -ECONNREFUSED);
		return;
	}
	world_at(&link->step, 0, 0, link_accept);
}

static int sim_connect(const char *host, uint16_t port, struct stream **ret, struct err *err)
{
	struct link *link = sim_zalloc(sizeof(*link));

	(void)err;
	net.stats.connects++;
	end_init(&link->end[0], link);
	end_init(&link->end[1], link);
	list_add_tail(&net.links, &link->list);
	link->window_max = 1 + (uint32_t)world_rand(net.opts.window_max);
	if (world_chance(1, 2))
		link->window_max = net.opts.window_max;
	link->window_max = MAX(link->window_max, net.opts.window_min);
	(void)snprintf(link->end[0].host, HOST_MAX, "%s", net.from);
	(void)snprintf(link->end[1].host, HOST_MAX, "%s", host);
	(void)snprintf(link->end[0].stream.local, STREAM_ADDR_MAX, "%s:%u", net.from,
		       ++net.next_port);
	(void)snprintf(link->end[0].stream.peer, STREAM_ADDR_MAX, "%s:%u", host, port);
	memcpy(link->end[1].stream.local, link->end[0].stream.peer, STREAM_ADDR_MAX);
	memcpy(link->end[1].stream.peer, link->end[0].stream.local, STREAM_ADDR_MAX);
	link->end[0].error = -EINPROGRESS;
	link->end[0].arrive_ns = world_now() + CONNECT_TIMEOUT_NS;
	link->end[1].stream.owner = (void *)(uintptr_t)port; /* until the handshake reads it */
	world_at(&link->step, WORLD_NONE, any_latency(), link_syn);
	*ret = &link->end[0].stream;
	return 0;
}

static int sim_error(struct stream *stream)
{
	return end_of(stream)->error;
}

static int sim_listen(const struct listener_opts *opts, struct listener **ret, struct err *err)
{
	uint16_t port = opts->port != 0 ? opts->port : ++net.next_port;
	struct listener *listener;

	if (listener_find(opts->host, port) != NULL)
		return err_set(err, -EADDRINUSE, "%s port %u is taken", opts->host, port);
	listener = sim_zalloc(sizeof(*listener));
	listener->opts = *opts;
	listener->port = port;
	(void)snprintf(listener->host, HOST_MAX, "%s", opts->host);
	(void)snprintf(listener->addr, STREAM_ADDR_MAX, "%s:%u", listener->host, port);
	list_add_tail(&net.listeners, &listener->list);
	*ret = listener;
	return 0;
}

static void sim_admit(struct listener *listener)
{
	listener->opts.is_held = false;
}

static void sim_unlisten(struct listener *listener)
{
	struct link *link;

	list_for_each (link, &net.links, list) {
		if (link->listener == listener)
			link->listener = NULL;
	}
	list_del(&listener->list);
	free(listener);
}

static const char *sim_listener_addr(const struct listener *listener)
{
	return listener->addr;
}

static uint16_t sim_listener_port(const struct listener *listener)
{
	return listener->port;
}

const struct net net_sim = {
	.listen = sim_listen,
	.admit = sim_admit,
	.unlisten = sim_unlisten,
	.listener_addr = sim_listener_addr,
	.listener_port = sim_listener_port,
	.connect = sim_connect,
	.error = sim_error,
};

/* ---- start and stop ------------------------------------------------------------------------- */

void simnet_start(const struct simnet_opts *opts)
{
	memset(&net, 0, sizeof(net));
	net.opts = *opts;
	net.slow = 1;
	net.next_port = 40000;
	list_init(&net.links);
	list_init(&net.listeners);
	simnet_from("10.0.0.1");
}

unsigned simnet_stop(void)
{
	struct link *link, *next;
	struct listener *listener;
	unsigned left = 0;

	list_for_each (listener, &net.listeners, list)
		left++;
	list_for_each_safe (link, next, &net.links, list) {
		left += !link->end[0].is_closed;
		left += link->is_accepted && !link->end[1].is_closed;
		link_free(link);
	}
	return left;
}

const struct simnet_stats *simnet_stats(void)
{
	return &net.stats;
}
