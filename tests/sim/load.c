/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load.c - clients on every reactor that submit every operation and judge every answer.
 *
 *   THINKING --submit--> FLYING --done()/IO_DONE--> judged --> THINKING ... until `left` is 0 or
 *   the scene stops; the last request of a client to rest posts `finished` to the primary.
 *
 * A request is told to the oracle right before it is submitted and right after it ended, so the
 * oracle's interval is never wider than what the engine may use. An answer is judged three times:
 * is this status allowed (a failure needs a cause that was active while the request lived), is the
 * request itself as it was (exactly one end, on its reactor, its frame given back), and is the data
 * allowed (the oracle).
 *
 * A third of the reads offer to borrow. What is lent is looked at some time later, which is when
 * the read ends for the oracle; until then the guard judges whether it may be lent, too.
 *
 * What was touched by an injected lie is not judged, but a lie spoils only requests that lived
 * while it was armed: the oracle then knows the blocks as wild until they are written again.
 *
 * Requests aim at few blocks on purpose: overlaps are where storage goes wrong.
 */
#include "scene.h"

#include <inttypes.h>
#include <string.h>

#include "cover.h"
#include "guard.h"
#include "mirror.h"
#include "pair.h"
#include "reactor/task.h"

enum {
	BLOCK_SIZE_MAX = 4096,
	REQUEST_BYTES = 2 * REQUEST_BLOCKS_MAX * BLOCK_SIZE_MAX,
	HOT_BLOCKS = 12,
	REQUESTS_MAX = WORLD_REACTORS_MAX * 2 * CLIENT_DEPTH_MAX,
};

static uint8_t *pages; /* REQUESTS_MAX buffers, kept for all seeds */

void load_init(void)
{
	pages = aligned_alloc(BLOCK_SIZE_MAX, (size_t)REQUESTS_MAX * REQUEST_BYTES);
	assert(pages != NULL);
}

void load_free(void)
{
	free(pages);
	pages = NULL;
}

uint8_t *load_buffer(unsigned index)
{
	assert(index < REQUESTS_MAX);
	return pages + (size_t)index * REQUEST_BYTES;
}

/* ---- choosing an operation ------------------------------------------------------------------ */

static const struct {
	uint8_t op;
	unsigned weight;
} mix[] = {
	{ IO_READ, 34 },     { IO_WRITE, 34 },  { IO_FLUSH, 6 },         { IO_WRITE_ZEROES, 5 },
	{ IO_UNMAP, 5 },     { IO_COMPARE, 5 }, { IO_COMPARE_WRITE, 5 }, { IO_SEEK_DATA, 2 },
	{ IO_SEEK_HOLE, 2 }, { IO_RESET, 1 },
};

static uint8_t op_choose(const struct scene *scene)
{
	unsigned total = 0, roll;

	for (unsigned i = 0; i < ARRAY_LEN(mix); i++)
		total += mix[i].weight;
	roll = (unsigned)world_rand(total);
	for (unsigned i = 0; i < ARRAY_LEN(mix); i++) {
		if (roll < mix[i].weight) /* a reset is no calm */
			return mix[i].op == IO_RESET && scene->remote > 0 && pair_is_calm()
				       ? IO_FLUSH
				       : mix[i].op;
		roll -= mix[i].weight;
	}
	return IO_READ;
}

static enum cover_state op_state(uint8_t op)
{
	switch (op) {
	case IO_WRITE:
		return COVER_WRITING;
	case IO_FLUSH:
	case IO_RESET:
		return COVER_FLUSHING;
	case IO_UNMAP:
	case IO_WRITE_ZEROES:
		return COVER_UNMAPPING;
	case IO_COMPARE:
	case IO_COMPARE_WRITE:
		return COVER_COMPARING;
	default:
		return COVER_READING;
	}
}

/* Cut @bytes of the buffer into pieces of any length. */
static void request_scatter(struct request *req, size_t bytes)
{
	unsigned count = world_chance(1, 2) ? 1 : 1 + (unsigned)world_rand(REQUEST_IOV_MAX);
	size_t at = 0;
	unsigned n = 0;

	while (at < bytes) {
		size_t rest = bytes - at;
		size_t len = n + 1 < count && rest > 1 ? 1 + world_rand(rest - 1) : rest;

		if (world_chance(1, 2) && len > 512)
			len = ALIGN_DOWN(len, (size_t)512);
		if (n + 1 == REQUEST_IOV_MAX)
			len = rest;
		req->iov[n++] = (struct iovec){ .iov_base = req->buf + at, .iov_len = len };
		at += len;
	}
	req->io.iov = req->iov;
	req->io.iovcnt = (uint16_t)n;
}

static void request_place(struct request *req, const struct device *dev)
{
	uint64_t max = MIN(dev->nblocks, (uint64_t)REQUEST_BLOCKS_MAX);
	uint64_t span = world_chance(2, 3) ? MIN(dev->nblocks, (uint64_t)HOT_BLOCKS) : dev->nblocks;

	/* What is larger than the device's largest goes in parts, but for what must be atomic. */
	if (dev->max_io_nlb != 0 && req->io.op == IO_COMPARE_WRITE)
		max = MIN(max, (uint64_t)dev->max_io_nlb);
	req->io.nlb = world_chance(1, 2) ? 1 : 1 + (uint32_t)world_rand(max);
	req->io.lba = world_rand(span);
	if (req->io.lba + req->io.nlb > dev->nblocks)
		req->io.lba = dev->nblocks - req->io.nlb;
}

static bool op_is_seek(uint8_t op)
{
	return op == IO_SEEK_DATA || op == IO_SEEK_HOLE;
}

/* Something that must be refused: a range that never exists, an operation this opening lacks. */
static void request_make_bad(struct request *req)
{
	struct scene *scene = req->client->scene;

	req->is_refused = true;
	if (!(req->client->handle->ops >> req->io.op & 1)) {
		req->want_status = IO_BIT(req->io.op) & IO_OPS_WRITING &&
						   !(scene->desc->flags & DESC_WRITE)
					   ? IO_READ_ONLY
					   : IO_UNSUPPORTED;
		req->is_counted = false;
		return;
	}
	req->want_status = IO_OUT_OF_RANGE;
	req->io.op = world_chance(1, 2) ? IO_READ : IO_WRITE;
	if (world_chance(1, 2))
		req->io.lba = UINT64_MAX - world_rand(4);
	else
		req->io.lba = scene->nblocks * 4 + world_rand(100);
	req->io.nlb = 1 + (uint32_t)world_rand(REQUEST_BLOCKS_MAX);
	request_scatter(req, (size_t)req->io.nlb * scene->block_size);
}

static void request_begin_write(struct request *req, struct oracle *o, size_t at)
{
	struct scene *scene = req->client->scene;
	enum value_kind kind = VALUE_ZERO;

	if (req->io.op == IO_WRITE || req->io.op == IO_COMPARE_WRITE)
		kind = VALUE_DATA;
	else if (req->io.op == IO_UNMAP && !scene->top->unmap_reads_zero)
		kind = VALUE_WILD;
	req->write_id = oracle_write_begin(o, req->lba, req->io.nlb, kind);
	if (kind == VALUE_DATA)
		oracle_fill(o, req->buf + at, req->lba, req->io.nlb, req->write_id);
}

/* Old answers must not be taken for new ones. */
static void request_scrub(struct request *req, size_t bytes)
{
	for (size_t at = 0; at < bytes; at += 512)
		memset(req->buf + at, 0xa5, 16);
}

static void request_expect(struct request *req, struct oracle *o, size_t bytes)
{
	oracle_guess(o, req->buf, req->lba, req->io.nlb);
	if (world_chance(1, 4))
		req->buf[world_rand(bytes)] ^= 1;
}

static void request_prepare_range(struct request *req)
{
	struct scene *scene = req->client->scene;
	struct oracle *o = scene->oracle;
	size_t bytes;

	request_place(req, scene->top);
	req->lba = req->io.lba + scene->offset[scene->ndevices - 1];
	bytes = (size_t)req->io.nlb * scene->block_size;
	switch (req->io.op) {
	case IO_READ:
		if (scene->top->is_thin && world_chance(1, 4))
			req->io.flags |= IO_UNWRITTEN_FAIL;
		request_scrub(req, bytes);
		if (world_chance(1, 3))
			io_offer(&req->io, &req->loan);
		req->token = oracle_read_begin(o);
		break;
	case IO_COMPARE:
		request_expect(req, o, bytes);
		req->token = oracle_read_begin(o);
		break;
	case IO_COMPARE_WRITE:
		request_expect(req, o, bytes);
		req->token = oracle_read_begin(o);
		request_begin_write(req, o, bytes);
		bytes *= 2;
		break;
	default:
		if (req->io.op != IO_UNMAP && world_chance(1, 4))
			req->io.flags |= IO_FUA;
		request_begin_write(req, o, 0);
		break;
	}
	if (IO_BIT(req->io.op) & IO_OPS_WITH_DATA)
		request_scatter(req, bytes);
}

static void request_done(struct io *io);

static void request_prepare(struct request *req)
{
	struct client *client = req->client;
	struct scene *scene = client->scene;

	req->io = (struct io){ .op = op_choose(scene), .done = request_done, .owner = req };
	req->write_id = req->token = 0;
	req->is_refused = false;
	req->is_counted = true;
	if (!(client->handle->ops >> req->io.op & 1) || world_chance(1, 60)) {
		request_make_bad(req);
		return;
	}
	if (op_is_seek(req->io.op)) {
		req->io.lba = world_rand(scene->top->nblocks);
		req->token = oracle_read_begin(scene->oracle);
	} else if (req->io.op == IO_FLUSH) {
		req->token = oracle_flush_begin(scene->oracle);
	} else if (req->io.op != IO_RESET) {
		request_prepare_range(req);
	}
}

/* ---- judging -------------------------------------------------------------------------------- */

static void request_fail(const struct request *req, const char *what)
{
	world_fail("%s %" PRIu64 "+%u%s ended with '%s' %s", io_op_name(req->io.op), req->io.lba,
		   req->io.nlb, req->io.flags & IO_FUA ? " FUA" : "",
		   io_status_name(req->io.status), what);
}

static bool had_cause(const struct request *req, enum cause cause)
{
	return cause_since(req->client->scene, cause, req->submit_ns);
}

/*
 * A status that crossed the network is not always the one it was: any failure of the far side may
 * look like any other here, but it needs a cause as everywhere.
 */
static bool remote_has_cause(const struct request *req)
{
	for (unsigned cause = 0; cause < CAUSE_NET; cause++) {
		if (had_cause(req, (enum cause)cause))
			return true;
	}
	/* NVMe has a largest pair, which devices of ours do not tell */
	if (req->io.status == IO_INVALID && req->io.op == IO_COMPARE_WRITE && req->io.nlb > 1)
		return true;
	if (req->io.status == IO_TIMED_OUT && pair_may_time_out(req->submit_ns))
		return true;
	return pair_may_fail(req->client->scene, req->io.op, req->submit_ns);
}

/* To reset an initiator's device is to break its connections. */
static bool breaks_connections(const struct request *req)
{
	return req->client->scene->remote > 0 && req->io.op == IO_RESET;
}

/* May the request have ended so? What compares and reads of holes answer is judged elsewhere. */
static bool status_has_cause(const struct request *req)
{
	bool is_injected = had_cause(req, CAUSE_INJECT) || had_cause(req, CAUSE_LIE);

	if (req->client->scene->is_mirror && !is_injected)
		return mirror_has_cause(req);
	if (req->client->scene->remote > 0 && req->io.status != IO_OK &&
	    req->io.status != IO_MISCOMPARE && req->io.status != IO_UNWRITTEN)
		return remote_has_cause(req);
	switch ((enum io_status)req->io.status) {
	case IO_OK:
		return true;
	case IO_READ_ERROR:
	case IO_WRITE_ERROR:
		return is_injected || had_cause(req, CAUSE_MEDIUM);
	case IO_ABORTED:
		return is_injected || had_cause(req, CAUSE_ABORT);
	case IO_NO_DEVICE:
		return is_injected || had_cause(req, CAUSE_GONE);
	case IO_OUT_OF_RANGE:
		return is_injected || had_cause(req, CAUSE_RESIZE);
	case IO_NO_SPACE:
		return is_injected || had_cause(req, CAUSE_SPACE);
	case IO_MISCOMPARE:
		return is_injected || req->io.op == IO_COMPARE || req->io.op == IO_COMPARE_WRITE;
	case IO_UNWRITTEN:
		return is_injected || req->io.flags & IO_UNWRITTEN_FAIL;
	default:
		return is_injected;
	}
}

static void judge_write(struct request *req, bool is_spoilt, bool is_never)
{
	struct scene *scene = req->client->scene;
	enum write_outcome outcome = WRITE_MAYBE;

	if (scene->remote > 0 && req->io.status != IO_OK && !is_never) {
		pair_lost(scene, req->write_id, req->lba, req->io.nlb);
		return;
	}
	if (is_spoilt)
		outcome = WRITE_SPOILT;
	else if (is_never)
		outcome = WRITE_NEVER;
	else if (req->io.status == IO_OK)
		outcome = req->io.flags & IO_FUA || !scene->top->has_write_cache
				  ? WRITE_ACKED_STABLE
				  : WRITE_ACKED;
	if (req->io.status == IO_OK)
		scene->acked_ns = world_now();
	oracle_write_end(scene->oracle, req->write_id, req->lba, req->io.nlb, outcome);
}

static void judge_seek(struct request *req)
{
	struct scene *scene = req->client->scene;
	uint64_t offset = scene->offset[scene->ndevices - 1];
	uint64_t end = req->io.result;

	if (had_cause(req, CAUSE_RESIZE))
		return;
	if (end < req->io.lba || end > scene->top->nblocks) {
		request_fail(req, "and a result outside of the device");
		return;
	}
	/* What lies before the next data is hole; the next hole is one. */
	for (uint64_t lba = req->io.op == IO_SEEK_DATA ? req->io.lba : end;
	     lba < (req->io.op == IO_SEEK_DATA ? end : MIN(end + 1, scene->top->nblocks)); lba++) {
		if (!oracle_may_be_zero(scene->oracle, req->token, lba + offset))
			request_fail(req, "but says hole where there is data");
	}
}

static void judge_unwritten(struct request *req)
{
	struct scene *scene = req->client->scene;

	/* Drivers say so if one block is unwritten, or if all are: at least one is in any case. */
	for (uint64_t lba = req->lba; lba < req->lba + req->io.nlb; lba++) {
		if (oracle_may_be_zero(scene->oracle, req->token, lba))
			return;
	}
	request_fail(req, "although everything was written");
}

static void judge_read(struct request *req, bool is_spoilt)
{
	struct scene *scene = req->client->scene;
	struct oracle *o = scene->oracle;
	char why[ORACLE_TEXT_MAX] = "";
	bool is_good = true;

	if (is_spoilt || op_is_seek(req->io.op)) {
		if (!is_spoilt && req->io.status == IO_OK)
			judge_seek(req);
		oracle_read_drop(o, req->token);
	} else if (req->io.status == IO_OK) {
		is_good = oracle_read_end(o, req->token, req->lba, req->io.nlb, req->buf, why);
	} else if (req->io.status == IO_MISCOMPARE && !had_cause(req, CAUSE_INJECT)) {
		is_good = oracle_differ_end(o, req->token, req->lba, req->io.nlb, req->buf, why);
	} else {
		if (req->io.status == IO_UNWRITTEN && !had_cause(req, CAUSE_INJECT))
			judge_unwritten(req);
		oracle_read_drop(o, req->token);
	}
	if (!is_good)
		request_fail(req, why);
}

static void judge_refused(struct request *req)
{
	if (req->io.status != req->want_status && !had_cause(req, CAUSE_INJECT) &&
	    !had_cause(req, CAUSE_LIE) &&
	    !(req->io.status == IO_NO_DEVICE && had_cause(req, CAUSE_GONE)) &&
	    !(req->client->scene->remote > 0 && remote_has_cause(req)))
		request_fail(req, "but had to be refused otherwise");
}

/* It was under way when its process died: whatever it was may have been done. */
static void request_bury(struct request *req)
{
	struct oracle *o = req->client->scene->oracle;

	if (req->is_refused)
		return;
	if (req->io.op != IO_FLUSH && req->token != 0)
		oracle_read_drop(o, req->token);
	if (req->write_id != 0)
		oracle_write_end(o, req->write_id, req->lba, req->io.nlb,
				 had_cause(req, CAUSE_LIE) ? WRITE_SPOILT : WRITE_MAYBE);
}

static void request_judge(struct request *req)
{
	struct scene *scene = req->client->scene;
	bool is_spoilt = had_cause(req, CAUSE_LIE);

	if (scene->is_dead) {
		request_bury(req);
		return;
	}
	if (req->is_refused) {
		judge_refused(req);
		return;
	}
	if (!status_has_cause(req))
		request_fail(req, "without a cause");
	if (req->io.op == IO_FLUSH) {
		if (req->io.status == IO_OK && !is_spoilt)
			oracle_flush_end(scene->oracle, req->token);
		return;
	}
	if (req->token != 0)
		judge_read(req, is_spoilt);
	if (req->write_id != 0)
		judge_write(req, is_spoilt,
			    req->io.status == IO_MISCOMPARE && !had_cause(req, CAUSE_INJECT));
}

void load_count(struct scene *scene, const struct io *io)
{
	struct scene_counts *counts = &scene->counts;

	if (io->status != IO_OK) {
		counts->errors[io->op]++;
		return;
	}
	counts->ops[io->op]++;
	counts->bytes[io->op] += (uint64_t)io->nlb * scene->block_size;
}

static void request_count(struct request *req)
{
	struct scene *scene = req->client->scene;

	scene->nrequests++;
	scene->nfailed += req->io.status != IO_OK;
	if (req->io.status == IO_NO_SPACE && !scene->is_full && !scene->is_mirror) {
		scene->is_full = true;
		cover_fault_begin(COVER_NO_SPACE);
	}
	if (req->is_counted)
		load_count(scene, &req->io);
}

/* ---- the life of a request ------------------------------------------------------------------ */

static void client_finished(struct msg *msg)
{
	struct client *client = container_of(msg, struct client, finished);

	client->is_running = false;
	if (--client->scene->nrunning == 0)
		task_event_fire(&client->scene->clients_done);
}

static void client_rest(struct client *client)
{
	if (--client->nflying > 0)
		return;
	client->finished.fn = client_finished;
	reactor_post(reactor_primary(), &client->finished);
}

static void request_run(struct request *req);

static void request_think(struct event *event)
{
	request_run(container_of(event, struct request, think));
}

static void request_begin(struct request *req)
{
	struct scene *scene = req->client->scene;

	req->client->left--;
	request_prepare(req);
	req->sent_lba = req->io.lba;
	req->sent_nlb = req->io.nlb;
	req->sent_flags = req->io.flags;
	req->is_flying = true;
	req->submit_ns = world_now();
	world_trace("submit", (uint64_t)req->io.op << 32 | req->io.nlb, req->io.lba);
	if (scene->nflying_all++ == 0)
		cover_state_end(COVER_IDLE);
	cover_state_begin(op_state(req->io.op));
	if (breaks_connections(req))
		cause_begin(scene, CAUSE_NET);
}

static void request_end(struct request *req)
{
	struct scene *scene = req->client->scene;

	world_trace("end", (uint64_t)req->io.op << 16 | req->io.status, req->io.lba);
	if (!req->is_flying)
		request_fail(req, "a second time");
	if (reactor_self() != req->client->reactor)
		request_fail(req, "on another reactor");
	if (req->io.depth != 0 || req->io.lba != req->sent_lba || req->io.nlb != req->sent_nlb ||
	    req->io.flags != req->sent_flags)
		request_fail(req, "without its frame, range or flags restored");
	req->is_flying = false;
	if (breaks_connections(req))
		cause_end(scene, CAUSE_NET);
	if (scene->remote > 0)
		pair_check_stall(req);
	request_judge(req);
	request_count(req);
	cover_state_end(op_state(req->io.op));
	if (--scene->nflying_all == 0)
		cover_state_begin(COVER_IDLE);
}

/* Read the loan in place, into the same buffer, and return it; or have that done. */
static void request_look(struct request *req)
{
	const struct io_loan *loan = &req->loan;
	size_t done = 0;

	guard_lent(&req->io);
	if (world_chance(1, 4)) {
		io_unlend(&req->io);
		return;
	}
	for (unsigned i = 0; i < loan->count; i++)
		done += iov_from_buf(req->io.iov, req->io.iovcnt, done, loan->piece[i].iov_base,
				     loan->piece[i].iov_len);
	io_return(&req->io);
}

static void request_looked(struct event *event)
{
	struct request *req = container_of(event, struct request, think);

	if (io_is_lent(&req->io)) /* else somebody could not wait */
		request_look(req);
	request_end(req);
	request_run(req);
}

static void request_done(struct io *io)
{
	struct request *req = io->owner;

	if (io_is_lent(io) && world_chance(3, 4)) {
		world_at(&req->think, (int)req->client->reactor->id, world_latency(100, 40 * USEC),
			 request_looked);
		return;
	}
	if (io_is_lent(io))
		request_look(req);
	/* One in two goes on at once, inside done(), as a busy owner does. */
	request_end(req);
	if (task_self() != NULL)
		request_fail(req, "with done() called on a task's stack");
	if (world_chance(1, 2))
		request_run(req);
	else
		world_at(&req->think, (int)req->client->reactor->id, world_latency(100, 20 * USEC),
			 request_think);
}

/* Submit requests until one stays pending, or there are no more. */
static void request_run(struct request *req)
{
	struct client *client = req->client;

	for (;;) {
		if (client->left == 0 || client->scene->is_stopping || world_failed()) {
			client_rest(client);
			return;
		}
		request_begin(req);
		if (world_chance(1, 3)) {
			io_submit(client->handle, &req->io);
			return;
		}
		if (io_start(client->handle, &req->io) == IO_PENDING)
			return;
		request_end(req);
	}
}

static void client_start(void *arg)
{
	struct client *client = arg;

	for (unsigned i = 0; i < client->depth; i++)
		request_run(&client->request[i]);
}

void load_start(struct scene *scene)
{
	scene->nrunning = scene->nclients;
	scene->clients_done = (struct task_event){};
	for (unsigned i = 0; i < scene->nclients; i++) {
		struct client *client = &scene->client[i];

		client->is_running = true;
		client->nflying = client->depth;
		for (unsigned k = 0; k < client->depth; k++) {
			struct request *req = &client->request[k];

			memset(req, 0, sizeof(*req));
			req->client = client;
			req->buf = pages + (size_t)(i * CLIENT_DEPTH_MAX + k) * REQUEST_BYTES;
		}
		task_call(client->reactor, client_start, client);
	}
}

void load_wait(struct scene *scene)
{
	task_event_wait(&scene->clients_done);
}

void load_check_age(struct scene *scene)
{
	for (unsigned i = 0; i < scene->nclients; i++) {
		for (unsigned k = 0; k < scene->client[i].depth; k++) {
			struct request *req = &scene->client[i].request[k];
			uint64_t age_ns = world_now() - req->submit_ns;

			if (!req->is_flying || age_ns >> LIVENESS_NS_LOG2 == 0)
				continue;
			world_fail("%s %" PRIu64 "+%u has been under way for %" PRIu64
				   " virtual seconds",
				   io_op_name(req->io.op), req->io.lba, req->io.nlb, age_ns / SEC);
		}
	}
}

void load_verify(struct scene *scene, struct handle *h)
{
	uint64_t nblocks = scene->top->nblocks, offset = scene->offset[scene->ndevices - 1];
	char why[ORACLE_TEXT_MAX];

	for (uint64_t lba = 0; lba < nblocks && !world_failed();) {
		uint32_t nlb = (uint32_t)MIN(nblocks - lba, (uint64_t)REQUEST_BLOCKS_MAX);
		struct io io = { .op = IO_READ, .lba = lba, .nlb = nlb };
		uint64_t token = oracle_read_begin(scene->oracle);

		if (scene->top->max_io_nlb != 0)
			io.nlb = nlb = MIN(nlb, scene->top->max_io_nlb);
		io_set_buf(&io, pages, (size_t)nlb * scene->block_size);
		(void)io_wait(h, &io);
		load_count(scene, &io);
		if (io.status != IO_OK && scene->is_mirror && mirror_has_gone()) {
			oracle_read_drop(scene->oracle, token);
			return; /* a record that it had still tried to write */
		}
		if (io.status != IO_OK) {
			world_fail("verify: read %" PRIu64 "+%u ended with '%s'", lba, nlb,
				   io_status_name(io.status));
			oracle_read_drop(scene->oracle, token);
			return;
		}
		if (!oracle_read_end(scene->oracle, token, lba + offset, nlb, pages, why))
			world_fail("verify: %s", why);
		lba += nlb;
	}
}

void load_prefill(struct scene *scene)
{
	uint64_t offset = scene->offset[scene->ndevices - 1], lba = 0;
	struct handle *h;
	struct err err = {};

	if (handle_open(scene->desc, reactor_primary(), &h, &err) < 0)
		return;
	while (lba + REQUEST_BLOCKS_MAX <= scene->top->nblocks && !world_failed()) {
		struct io io = { .op = IO_WRITE, .lba = lba, .nlb = REQUEST_BLOCKS_MAX };
		uint64_t id = oracle_write_begin(scene->oracle, lba + offset, io.nlb, VALUE_DATA);

		oracle_fill(scene->oracle, pages, lba + offset, io.nlb, id);
		io_set_buf(&io, pages, (size_t)io.nlb * scene->block_size);
		(void)io_wait(h, &io);
		load_count(scene, &io);
		if (io.status != IO_OK && io.status != IO_NO_SPACE)
			world_fail("prefill ended with '%s'", io_status_name(io.status));
		oracle_write_end(scene->oracle, id, lba + offset, io.nlb,
				 io.status == IO_OK ? WRITE_ACKED_STABLE : WRITE_MAYBE);
		lba += REQUEST_BLOCKS_MAX + world_rand(3);
	}
}
