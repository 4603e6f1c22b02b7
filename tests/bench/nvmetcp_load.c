// SPDX-License-Identifier: Apache-2.0
/*
 * nvmetcp_load - a load generator for NVMe/TCP targets, and its own floor.
 *
 *   nvmetcp_load --port P [--nqn NQN]  [options]    load a target
 *   nvmetcp_load --echo hot|cold       [options]    load a bare socket echo in a child process
 *
 * The generator is one thread that busy-polls: one recv per connection and turn into a hot buffer
 * (so payload is really copied out of the kernel), completions parsed in place, one gathered
 * sendmsg with the next commands. It measures what a target can answer, so it must cost less than
 * any target does.
 *
 * The echo moves the same bytes the same way and knows nothing of NVMe: for a command of 72 bytes
 * it sends 24 bytes and a payload, for a command with payload it sends 24 bytes. Its payload comes
 * from 1 MiB (hot: what a null device costs) or is copied from and to random places of 512 MiB by
 * the kernel or memcpy (cold: what no memory device can avoid). The same client drives it, so the
 * ratio of the two is the cost of the target.
 *
 * Options: --rw read|write, --bs BYTES, --qd N, --conns N, --time S, --core N (client),
 *          --server-core N (echo), --blocks N (of 512 bytes, to choose from), --nsid N
 * Output:  one line: iops=... mean_us=... p50_us=... p99_us=... cpu_ns=...
 *          cpu_ns: time of the turns in which something was done, per command
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "base/hist.h"
#include "base/rng.h"
#include "drivers/nvme/spec.h"

enum {
	CONNS_MAX = 64,
	DEPTH_MAX = 512,
	IOV_MAX_ = 1024,
	RX_SIZE = 1 << 20,
	SOURCE_HOT = 1 << 20,
	SOURCE_COLD = 512 << 20,
	CAPSULE = sizeof(struct nvme_tcp_capsule_cmd),
	IN_CAPSULE = 4096, /* larger writes wait for R2T; the echo takes any size at once */
	HEADER = 24,       /* C2HData and CapsuleResp */
};

static struct {
	const char *nqn, *echo;
	uint16_t port;
	bool is_write;
	uint32_t bs, qd, conns, nsid;
	double time_s;
	int core, server_core;
	uint64_t blocks;
} opt = { .nqn = "nqn.2019-05.io.openebs:test",
	  .bs = 4096,
	  .qd = 128,
	  .conns = 1,
	  .nsid = 1,
	  .time_s = 1,
	  .core = 1,
	  .server_core = 0,
	  .blocks = 1 << 20 };

/* What both sides keep per connection. */
struct peer {
	int fd;
	uint8_t *tail;
	size_t tail_len, skip; /* skip: payload bytes still to come */
	struct iovec iov[IOV_MAX_];
	int iov_at, iov_count;
	uint8_t *staging; /* headers that iov points to */
	size_t staged;
	/* client */
	uint64_t started_ns[DEPTH_MAX];
	uint32_t again[DEPTH_MAX], nagain;  /* slots to submit */
	uint32_t ending;                    /* slot whose last payload arrives, + 1; 0: none */
	struct nvme_tcp_r2t r2t[DEPTH_MAX]; /* to answer with data */
	uint32_t nr2t;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void exact(int fd, void *buf, size_t len, bool is_send)
{
	ssize_t n = is_send ? send(fd, buf, len, MSG_NOSIGNAL) : recv(fd, buf, len, MSG_WAITALL);

	if (n != (ssize_t)len)
		die("handshake");
}

static void pin(int core)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(core, &set);
	if (core >= 0 && sched_setaffinity(0, sizeof(set), &set) < 0)
		die("sched_setaffinity");
}

static void *memory(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	(void)madvise(p, size, MADV_HUGEPAGE);
	return p;
}

static void peer_init(struct peer *peer, int fd)
{
	int one = 1, size = 2 << 20;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	*peer = (struct peer){ .fd = fd };
	peer->staging = memory((size_t)DEPTH_MAX * CAPSULE);
	peer->tail = memory(CAPSULE);
}

/* ---- sending: gather, send, keep what was not taken ----------------------------------------- */

static void gather(struct peer *peer, const void *header, size_t len, const void *data,
		   size_t data_len)
{
	uint8_t *at = peer->staging + peer->staged;
	struct iovec *last = peer->iov_count > 0 ? &peer->iov[peer->iov_count - 1] : NULL;

	memcpy(at, header, len);
	peer->staged += len;
	if (last != NULL && (uint8_t *)last->iov_base + last->iov_len == at)
		last->iov_len += len;
	else
		peer->iov[peer->iov_count++] = (struct iovec){ at, len };
	if (data_len > 0) {
		memcpy(&peer->iov[peer->iov_count].iov_base, &data, sizeof(data));
		peer->iov[peer->iov_count++].iov_len = data_len;
	}
}

static bool peer_can_gather(const struct peer *peer)
{
	return peer->iov_at == 0 && peer->iov_count + 2 <= IOV_MAX_ &&
	       peer->staged + CAPSULE <= (size_t)DEPTH_MAX * CAPSULE;
}

static void peer_send(struct peer *peer)
{
	struct msghdr msg = { .msg_iov = peer->iov + peer->iov_at,
			      .msg_iovlen = (size_t)(peer->iov_count - peer->iov_at) };
	ssize_t n;

	if (msg.msg_iovlen == 0)
		return;
	n = sendmsg(peer->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN)
		die("sendmsg");
	while (n > 0) {
		struct iovec *iov = &peer->iov[peer->iov_at];
		size_t part = (size_t)n < iov->iov_len ? (size_t)n : iov->iov_len;

		iov->iov_base = (uint8_t *)iov->iov_base + part;
		iov->iov_len -= part;
		n -= (ssize_t)part;
		if (iov->iov_len == 0)
			peer->iov_at++;
	}
	if (peer->iov_at == peer->iov_count) {
		peer->iov_at = 0;
		peer->iov_count = 0;
		peer->staged = 0;
	}
}

/* ---- receiving: handle(header) returns the payload behind it, which lies at `data` if whole - */

static void client_ended(struct peer *peer);

typedef size_t (*handle_fn)(struct peer *peer, const uint8_t *header, const uint8_t *data,
			    size_t available);

/* False: the other side has gone. */
static bool peer_recv(struct peer *peer, uint8_t *rx, size_t header, handle_fn handle)
{
	ssize_t n = recv(peer->fd, rx + peer->tail_len, RX_SIZE - peer->tail_len, MSG_DONTWAIT);
	size_t len, at = 0;

	if (n == 0 || (n < 0 && errno == ECONNRESET))
		return false;
	if (n < 0 && errno != EAGAIN)
		die("recv");
	if (n < 0)
		return true;
	memcpy(rx, peer->tail, peer->tail_len);
	len = peer->tail_len + (size_t)n;
	peer->tail_len = 0;
	while (at < len) {
		if (peer->skip > 0) {
			size_t part = peer->skip < len - at ? peer->skip : len - at;

			peer->skip -= part;
			at += part;
			if (peer->skip == 0 && peer->ending != 0)
				client_ended(peer);
		} else if (len - at < header) {
			peer->tail_len = len - at;
			memcpy(peer->tail, rx + at, peer->tail_len);
			break;
		} else {
			at += header;
			peer->skip = handle(peer, rx + at - header, rx + at, len - at);
		}
	}
	return true;
}

/* ---- the echo ------------------------------------------------------------------------------- */

static uint8_t *source;
static size_t source_size;
static struct rng echo_rng;

static size_t echo_handle(struct peer *peer, const uint8_t *header, const uint8_t *data,
			  size_t available)
{
	const struct nvme_tcp_capsule_cmd *cmd = (const void *)header;
	size_t payload = le32_get(cmd->hdr.plen) - CAPSULE;
	size_t where = rng_next(&echo_rng) % (source_size / opt.bs) * opt.bs;
	struct nvme_tcp_data out = { .hdr = { .type = payload > 0 ? NVME_TCP_CAPSULE_RESP
								  : NVME_TCP_C2H_DATA,
					      .hlen = HEADER } };

	if (payload == 0) {
		out.hdr.plen = le32_of(HEADER + opt.bs);
		out.cid = cmd->cmd.cid;
		gather(peer, &out, sizeof(out), source + where, opt.bs);
		return 0;
	}
	if (source_size == SOURCE_COLD)
		memcpy(source + where, data, payload < available ? payload : available);
	out.hdr.plen = le32_of(HEADER);
	memcpy((uint8_t *)&out + 20, &cmd->cmd.cid, 2); /* CID of a completion: byte 12 of it */
	gather(peer, &out, sizeof(out), NULL, 0);
	return payload;
}

static void echo_serve(int listener)
{
	static struct peer peer[CONNS_MAX];
	uint8_t *rx = memory(RX_SIZE);

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin(opt.server_core);
	source_size = strcmp(opt.echo, "cold") == 0 ? SOURCE_COLD : SOURCE_HOT;
	source = memory(source_size);
	memset(source, 1, source_size);
	rng_init(&echo_rng, 1);
	for (unsigned i = 0; i < opt.conns; i++) {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			die("accept");
		peer_init(&peer[i], fd);
	}
	for (unsigned i = 0; i < opt.conns; i++)
		exact(peer[i].fd, (char[]){ 1 }, 1, true); /* ready: the memory is touched */
	for (;;) {
		for (unsigned i = 0; i < opt.conns; i++) {
			if (peer_can_gather(&peer[i]) && peer[i].iov_count == 0 &&
			    !peer_recv(&peer[i], rx, CAPSULE, echo_handle))
				exit(0);
			peer_send(&peer[i]);
		}
	}
}

static uint16_t echo_start(pid_t *ret_pid)
{
	struct sockaddr_in in = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(in);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || bind(fd, (void *)&in, sizeof(in)) < 0 || listen(fd, CONNS_MAX) < 0 ||
	    getsockname(fd, (void *)&in, &len) < 0)
		die("echo");
	*ret_pid = fork();
	if (*ret_pid == 0)
		echo_serve(fd);
	(void)close(fd);
	return ntohs(in.sin_port);
}

/* ---- the client ----------------------------------------------------------------------------- */

static struct rng client_rng;
static struct hist latency;
static uint64_t done_count, turn_ns, busy_ns;
static uint8_t *payload; /* one block per slot */

/* All of the answer is here: before that the slot is not free, at either end. */
static void client_ended(struct peer *peer)
{
	uint32_t slot = peer->ending - 1;

	peer->ending = 0;
	hist_add(&latency, turn_ns - peer->started_ns[slot], 1);
	done_count++;
	peer->again[peer->nagain++] = slot;
}

static size_t client_handle(struct peer *peer, const uint8_t *header, const uint8_t *data,
			    size_t available)
{
	const struct nvme_tcp_hdr *hdr = (const void *)header;
	const struct nvme_tcp_data *c2h = (const void *)header;
	const struct nvme_tcp_capsule_resp *resp = (const void *)header;
	size_t rest = le32_get(hdr->plen) - HEADER;
	uint16_t cid;

	(void)data;
	(void)available;
	if (hdr->type == NVME_TCP_C2H_DATA) {
		cid = le16_get(c2h->cid);
		if (opt.echo == NULL && !(hdr->flags & NVME_TCP_SUCCESS))
			return rest; /* the completion follows */
	} else if (hdr->type == NVME_TCP_R2T && peer->nr2t < DEPTH_MAX) {
		memcpy(&peer->r2t[peer->nr2t++], header, HEADER);
		return rest;
	} else if (hdr->type == NVME_TCP_CAPSULE_RESP) {
		cid = le16_get(resp->cqe.cid);
		if (le16_get(resp->cqe.status) != 0) {
			(void)fprintf(stderr, "status %#x\n", le16_get(resp->cqe.status) >> 1);
			exit(1);
		}
	} else {
		(void)fprintf(stderr, "PDU type %u from the target\n", hdr->type);
		exit(1);
	}
	peer->ending = cid + 1u;
	if (rest == 0)
		client_ended(peer);
	return rest;
}

/* The data of a write that the target asked for, in one piece. */
static void answer_r2t(struct peer *peer, const struct nvme_tcp_r2t *r2t)
{
	uint32_t len = le32_get(r2t->len);
	struct nvme_tcp_data data = { .hdr = { .type = NVME_TCP_H2C_DATA,
					       .flags = NVME_TCP_LAST,
					       .hlen = HEADER,
					       .pdo = HEADER,
					       .plen = le32_of(HEADER + len) },
				      .cid = r2t->cid,
				      .ttag = r2t->ttag,
				      .off = r2t->off,
				      .len = r2t->len };

	gather(peer, &data, sizeof(data), payload + (size_t)le16_get(r2t->cid) * opt.bs, len);
}

static void submit(struct peer *peer, uint32_t slot)
{
	uint32_t nlb = opt.bs / 512;
	bool is_inline = opt.is_write && (opt.bs <= IN_CAPSULE || opt.echo != NULL);
	uint64_t lba = rng_next(&client_rng) % (opt.blocks / nlb) * nlb;
	struct nvme_tcp_capsule_cmd c = {
		.hdr = { .type = NVME_TCP_CAPSULE_CMD,
			 .hlen = CAPSULE,
			 .pdo = is_inline ? CAPSULE : 0,
			 .plen = le32_of(CAPSULE + (is_inline ? opt.bs : 0)) },
		.cmd = { .opcode = opt.is_write ? NVME_IO_WRITE : NVME_IO_READ,
			 .flags = NVME_CMD_PSDT_SGL,
			 .cid = le16_of((uint16_t)slot),
			 .nsid = le32_of(opt.nsid),
			 .sgl = { .len = le32_of(opt.bs),
				  .id = is_inline ? NVME_SGL_DATA_OFFSET
						  : NVME_SGL_DATA_TRANSPORT },
			 .cdw10 = le32_of((uint32_t)lba),
			 .cdw11 = le32_of((uint32_t)(lba >> 32)),
			 .cdw12 = le32_of(nlb - 1) },
	};

	peer->started_ns[slot] = turn_ns;
	gather(peer, &c, sizeof(c), payload + (size_t)slot * opt.bs, is_inline ? opt.bs : 0);
}

/* One command without answer data, while nothing else is going on; returns dword 0. */
static uint32_t handshake(int fd, const struct nvme_cmd *cmd, void *data, uint32_t len)
{
	struct nvme_tcp_capsule_cmd c = { .hdr = { .type = NVME_TCP_CAPSULE_CMD,
						   .hlen = CAPSULE,
						   .pdo = len > 0 ? CAPSULE : 0,
						   .plen = le32_of(CAPSULE + len) },
					  .cmd = *cmd };
	struct nvme_tcp_capsule_resp resp;

	exact(fd, &c, sizeof(c), true);
	if (len > 0)
		exact(fd, data, len, true);
	exact(fd, &resp, sizeof(resp), false);
	if (le16_get(resp.cqe.status) != 0) {
		(void)fprintf(stderr, "opcode %#x: status %#x\n", cmd->opcode,
			      le16_get(resp.cqe.status) >> 1);
		exit(1);
	}
	return le32_get(resp.cqe.dw0);
}

static int dial(uint16_t port)
{
	struct sockaddr_in in = { .sin_family = AF_INET,
				  .sin_port = htons(port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || connect(fd, (void *)&in, sizeof(in)) < 0)
		die("connect");
	return fd;
}

static int nvme_dial(uint16_t port, uint16_t qid, uint16_t *cntlid)
{
	struct nvme_tcp_ic ic = {
		.hdr = { .type = NVME_TCP_ICREQ, .hlen = sizeof(ic), .plen = le32_of(sizeof(ic)) }
	};
	struct nvme_connect_cmd connect_cmd = {
		.opcode = NVME_FABRICS,
		.flags = NVME_CMD_PSDT_SGL,
		.fctype = NVME_FABRICS_CONNECT,
		.sgl = { .len = le32_of(1024), .id = NVME_SGL_DATA_OFFSET },
		.qid = le16_of(qid),
		.sqsize = le16_of((uint16_t)(qid == 0     ? 31
					     : opt.qd < 2 ? 1
							  : opt.qd - 1)),
		.cattr = NVME_CONNECT_NO_SQ_FLOW_CONTROL,
	};
	struct nvme_connect_data data = { .cntlid = le16_of(*cntlid) };
	struct nvme_property_cmd enable = { .opcode = NVME_FABRICS,
					    .flags = NVME_CMD_PSDT_SGL,
					    .offset = le32_of(NVME_PROP_CC),
					    .value = le64_of(NVME_CC_EN | 6 << 16 | 4 << 20) };
	int fd = dial(port);

	exact(fd, &ic, sizeof(ic), true);
	exact(fd, &ic, sizeof(ic), false);
	(void)snprintf(data.subnqn, sizeof(data.subnqn), "%s", opt.nqn);
	(void)snprintf(data.hostnqn, sizeof(data.hostnqn), "nqn.2014-08.org.nvmexpress:load");
	*cntlid = (uint16_t)handshake(fd, (void *)&connect_cmd, &data, sizeof(data));
	if (qid == 0)
		(void)handshake(fd, (void *)&enable, NULL, 0);
	return fd;
}

static void run(struct peer *peer)
{
	uint8_t *rx = memory(RX_SIZE);
	uint64_t begin, end;

	payload = memory((size_t)DEPTH_MAX * opt.bs);
	memset(payload, 2, (size_t)DEPTH_MAX * opt.bs);
	memset(rx, 0, RX_SIZE);
	for (unsigned i = 0; i < opt.conns; i++) {
		for (uint32_t slot = 0; slot < opt.qd; slot++)
			peer[i].again[peer[i].nagain++] = slot;
	}
	begin = now_ns();
	end = begin + (uint64_t)(opt.time_s * 1e9);
	turn_ns = begin;
	while (turn_ns < end) {
		uint64_t before_ns = turn_ns, before = done_count;

		for (unsigned i = 0; i < opt.conns; i++) {
			if (!peer_recv(&peer[i], rx, HEADER, client_handle)) {
				(void)fprintf(stderr, "the target closed a connection\n");
				exit(1);
			}
			while (peer[i].nr2t > 0 && peer_can_gather(&peer[i]))
				answer_r2t(&peer[i], &peer[i].r2t[--peer[i].nr2t]);
			while (peer[i].nagain > 0 && peer_can_gather(&peer[i]))
				submit(&peer[i], peer[i].again[--peer[i].nagain]);
			peer_send(&peer[i]);
		}
		turn_ns = now_ns();
		if (done_count != before)
			busy_ns += turn_ns - before_ns;
	}
	printf("iops=%.0f mean_us=%.2f p50_us=%.2f p99_us=%.2f cpu_ns=%.1f\n",
	       (double)done_count / ((double)(turn_ns - begin) / 1e9),
	       (double)(turn_ns - begin) / 1e3 * opt.qd * opt.conns / (double)done_count,
	       (double)hist_percentile(&latency, 0.50) / 1e3,
	       (double)hist_percentile(&latency, 0.99) / 1e3, (double)busy_ns / (double)done_count);
}

static bool parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "port", 1, NULL, 'p' },
		{ "nqn", 1, NULL, 'n' },
		{ "echo", 1, NULL, 'e' },
		{ "rw", 1, NULL, 'r' },
		{ "bs", 1, NULL, 'b' },
		{ "qd", 1, NULL, 'q' },
		{ "conns", 1, NULL, 'c' },
		{ "time", 1, NULL, 't' },
		{ "core", 1, NULL, 'C' },
		{ "server-core", 1, NULL, 'S' },
		{ "blocks", 1, NULL, 'B' },
		{ "nsid", 1, NULL, 'N' },
		{},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		unsigned long value = optarg == NULL ? 0 : strtoul(optarg, NULL, 0);

		switch (c) {
		case 'p':
			opt.port = (uint16_t)value;
			break;
		case 'n':
			opt.nqn = optarg;
			break;
		case 'e':
			opt.echo = optarg;
			break;
		case 'r':
			opt.is_write = strcmp(optarg, "write") == 0;
			break;
		case 'b':
			opt.bs = (uint32_t)value;
			break;
		case 'q':
			opt.qd = (uint32_t)value;
			break;
		case 'c':
			opt.conns = (uint32_t)value;
			break;
		case 't':
			opt.time_s = strtod(optarg, NULL);
			break;
		case 'C':
			opt.core = (int)strtol(optarg, NULL, 0);
			break;
		case 'S':
			opt.server_core = (int)strtol(optarg, NULL, 0);
			break;
		case 'B':
			opt.blocks = value;
			break;
		case 'N':
			opt.nsid = (uint32_t)value;
			break;
		default:
			return false;
		}
	}
	return opt.qd >= 1 && opt.qd <= DEPTH_MAX && opt.conns >= 1 && opt.conns <= CONNS_MAX &&
	       (opt.port != 0 || opt.echo != NULL) && opt.bs >= 512 && opt.bs % 512 == 0;
}

int main(int argc, char **argv)
{
	static struct peer peer[CONNS_MAX];
	uint16_t cntlid = NVME_CNTLID_DYNAMIC, port;
	pid_t server = 0;

	if (!parse(argc, argv)) {
		(void)fprintf(stderr, "nvmetcp_load: wrong usage, see the head of its source\n");
		return 2;
	}
	port = opt.echo != NULL ? echo_start(&server) : opt.port;
	pin(opt.core);
	rng_init(&client_rng, 2);
	if (opt.echo == NULL)
		(void)nvme_dial(port, 0, &cntlid); /* stays open until we end */
	for (unsigned i = 0; i < opt.conns; i++)
		peer_init(&peer[i], opt.echo != NULL ? dial(port)
						     : nvme_dial(port, (uint16_t)(i + 1), &cntlid));
	for (unsigned i = 0; opt.echo != NULL && i < opt.conns; i++)
		exact(peer[i].fd, (char[]){ 0 }, 1, false);
	run(peer);
	if (server > 0) {
		(void)kill(server, SIGKILL);
		(void)waitpid(server, NULL, 0);
	}
	return 0;
}
