/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue and a controller that is the test itself and behaves: connecting, data in every cut,
 * slots, the end, time. Each command ends once and nothing is left.
 */
#include "drivers/nvmf/queue_testing.h"

/* ---- the happy path ------------------------------------------------------------------------- */

static bool has_data(const struct op *op, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++) {
		if (op->buf[i] != data_byte(i)) {
			printf("# byte %u differs\n", i);
			return false;
		}
	}
	return true;
}

/* All the ways in which read data may arrive: rows of digests, sizes, pieces, steps of recv. */
static void read_one(uint32_t len, uint32_t piece, size_t step, uint32_t pad, bool has_success)
{
	uint8_t flags = NVME_TCP_LAST | (has_success ? NVME_TCP_SUCCESS : 0);
	static uint8_t data[DATA_MAX];
	struct op op;
	uint32_t n;

	if (!op_init(&op, NVME_IO_READ, len))
		return;
	/* three pieces, an empty one, and bytes to skip in front */
	op.buf = realloc(op.buf, len + 8);
	op.iov[0] = (struct iovec){ op.buf + len + 1, 7 };
	op.iov[1] = (struct iovec){ op.buf, 100 };
	op.iov[2] = (struct iovec){ op.buf, 0 };
	op.iov[3] = (struct iovec){ op.buf + 100, 300 };
	op.iov[4] = (struct iovec){ op.buf + 400, len - 400 };
	op.slot->iovcnt = 5;
	op.slot->iov_off = 7;
	op_send(&op);
	fake_turns(1);
	(void)take_capsule(data, &n);
	CHECK_EQ(n, 0);
	fake.in_step = step;
	for (uint32_t off = 0; off < len; off += piece) {
		n = MIN(piece, len - off);
		give_data(op.cid, off, n, off + n == len ? flags : 0, pad);
	}
	if (!has_success)
		give_resp(op.cid, 0, 0);
	for (unsigned i = 0; op.ndone == 0 && i < 100000; i++)
		fake_turns(1);
	CHECK_EQ(op.ndone, 1);
	CHECK_EQ(op.status, 0);
	CHECK(has_data(&op, len));
	fake.in_step = 0;
	op_free(&op);
}

TEST(reads_arrive_however_they_are_cut)
{
	static const uint32_t lens[] = { 512, 4096, 40000, 131072 };
	static const size_t steps[] = { 0, 1, 23, 1000, 5000, 30000 };

	for (unsigned digests = 0; digests < 4; digests++) {
		agreed.hdgst = digests & 1;
		agreed.ddgst = digests & 2;
		begin();
		go_live();
		for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
			for (size_t j = 0; j < ARRAY_LEN(steps); j++) {
				if (steps[j] == 1 && lens[i] > 4096)
					continue; /* takes too long and shows nothing more */
				read_one(lens[i], lens[i], steps[j], 0, true);
				read_one(lens[i], 12000, steps[j], 100, i % 2 == 0);
				read_one(lens[i], MAX(lens[i] / 7, 4u), steps[j], 0, false);
			}
		}
		CHECK_EQ(queue_stats(user.q)->digest_errors, 0);
		CHECK_EQ(queue_state(user.q), QUEUE_LIVE);
		finish();
	}
}

/* A write of @len; the controller takes what it was given, asks for the rest in @piece bytes. */
static void write_one(uint32_t len, uint32_t piece, size_t room)
{
	static uint8_t data[DATA_MAX];
	const struct nvme_cmd *cmd;
	uint32_t n, off = 0, end;
	struct op op;
	bool is_last;

	if (!op_init(&op, NVME_IO_WRITE, len))
		return;
	op.iov[0] = (struct iovec){ op.buf, 1 };
	op.iov[1] = (struct iovec){ op.buf + 1, 333 };
	op.iov[2] = (struct iovec){ op.buf + 334, len - 334 };
	op.slot->iovcnt = 3;
	op.slot->sqe.flags = 0xff;
	if (room > 0)
		fake.room = 0;
	op_send(&op);
	for (unsigned i = 0; room > 0 && i < 2 * len / room + 200; i++) {
		fake.room = room;
		fake_turns(1);
	}
	fake.room = SIZE_MAX;
	fake_turns(2);
	cmd = take_capsule(data, &off);
	if (!CHECK(cmd != NULL))
		return;
	CHECK_EQ(off, len <= IN_CAPSULE ? len : 0);
	CHECK_EQ(cmd->flags, 0x43);
	CHECK_EQ(le32_get(cmd->sgl.len), len);
	while (off < len) {
		end = MIN(off + piece, len);
		give_r2t(op.cid, (uint16_t)(off / 512 + 9), off, end - off);
		if (room > 0)
			fake.room = 0;
		for (unsigned i = 0; room > 0 && i < 2 * piece / room + 200; i++) {
			fake.room = room;
			fake_turns(1);
		}
		fake.room = SIZE_MAX;
		fake_turns(20);
		for (uint32_t at = off; at < end; at += n) {
			if (!take_h2c((uint16_t)(off / 512 + 9), at, data + at, &n, &is_last))
				return;
			CHECK_EQ(is_last, at + n == end);
		}
		off = end;
	}
	CHECK(memcmp(data, op.buf, len) == 0);
	CHECK_EQ(op.ndone, 0);
	give_resp(op.cid, 0, 0);
	fake_turns(2);
	CHECK_EQ(op.ndone, 1);
	CHECK_EQ(op.status, 0);
	op_free(&op);
}

TEST(writes_leave_however_the_socket_takes_them)
{
	static const uint32_t lens[] = { 512, 4096, 4608, 40000, 131072 };
	static const size_t rooms[] = { 0, 71, 1000, 30000 };

	for (unsigned digests = 0; digests < 4; digests++) {
		agreed.hdgst = digests & 1;
		agreed.ddgst = digests & 2;
		agreed.cpda = digests == 2 ? 31 : 0;
		begin();
		go_live();
		for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
			for (size_t j = 0; j < ARRAY_LEN(rooms); j++) {
				write_one(lens[i], lens[i], rooms[j]);
				write_one(lens[i], 20000, rooms[j]);
			}
		}
		CHECK_EQ(fake.out_at, fake.out_len);
		finish();
	}
}

TEST(answers_carry_dwords_and_status)
{
	static uint8_t data[DATA_MAX];
	struct op op;
	uint32_t len;

	begin();
	go_live();
	op_start(&op, NVME_IO_FLUSH, 0);
	fake_turns(1);
	(void)take_capsule(data, &len);
	/* DNR, CRD 2, type 2, code 81h (Base 3.3.3.2.1) */
	give_resp(op.cid, (uint16_t)(0x8000 | 2 << 12 | 2 << 9 | 0x81 << 1), 0x11223344);
	fake_turns(1);
	CHECK_EQ(op.ndone, 1);
	CHECK_EQ(op.status, NVME_STATUS_DNR | 2 << 11 | 0x281);
	CHECK_EQ(op.dw0, 0x11223344);
	finish();
}

TEST(fused_pairs_are_neighbours)
{
	static uint8_t data[DATA_MAX];
	const struct nvme_cmd *cmd;
	struct op op[4];
	uint32_t len;

	begin();
	go_live();
	for (unsigned i = 0; i < 4; i++) {
		if (!op_init(&op[i], i == 1 ? NVME_IO_COMPARE : NVME_IO_WRITE, 512))
			return;
		op[i].slot->sqe.flags = i == 1   ? NVME_CMD_FUSE_FIRST
					: i == 2 ? NVME_CMD_FUSE_SECOND
						 : 0;
	}
	for (unsigned i = 0; i < 4; i++)
		op_send(&op[i]);
	fake_turns(1);
	for (unsigned i = 0; i < 4; i++) {
		cmd = take_capsule(data, &len);
		if (!CHECK(cmd != NULL))
			return;
		CHECK_EQ(le16_get(cmd->cid), op[i].cid);
		CHECK_EQ(cmd->flags & 3, i % 3 == 0 ? 0 : i);
	}
	finish();
	for (unsigned i = 0; i < 4; i++) {
		CHECK_EQ(op[i].ndone, 1);
		op_free(&op[i]);
	}
}

TEST(full_queue_says_when_there_is_room)
{
	struct op op[DEPTH - 1];

	begin();
	go_live();
	CHECK_EQ(queue_depth(user.q), DEPTH - 1);
	for (unsigned i = 0; i < DEPTH - 1; i++)
		op_start(&op[i], NVME_IO_FLUSH, 0);
	CHECK_EQ(queue_inflight(user.q), DEPTH - 1);
	CHECK(queue_get(user.q) == NULL);
	CHECK(queue_get(user.q) == NULL);
	fake_turns(2);
	CHECK_EQ(user.nroom, 0);
	give_resp(op[3].cid, 0, 0);
	give_resp(op[1].cid, 0, 0);
	fake_turns(2);
	CHECK_EQ(user.nroom, 1); /* once for all that became free */
	op_start(&op[1], NVME_IO_FLUSH, 0);
	op_start(&op[3], NVME_IO_FLUSH, 0);
	CHECK(queue_get(user.q) == NULL);
	finish();
}

static void resend_done(struct slot *slot)
{
	struct slot *next = queue_get(slot->queue);

	if (slot->status == NVMF_LOST)
		return;
	(*(unsigned *)slot->owner)++;
	if (!CHECK(next != NULL))
		return;
	CHECK(next != slot);
	next->done = resend_done;
	next->owner = slot->owner;
	queue_send(next);
}

TEST(done_can_send_while_all_others_are_in_flight)
{
	unsigned count = 0;
	struct slot *slot;

	begin();
	go_live();
	for (unsigned i = 0; i < DEPTH - 1; i++) {
		slot = queue_get(user.q);
		slot->done = resend_done;
		slot->owner = &count;
		queue_send(slot);
	}
	for (unsigned i = 0; i < 1000; i++) {
		fake_turns(1);
		slot = queue_next_inflight(user.q, NULL); /* the oldest */
		give_resp(slot->cid, 0, 0);
	}
	fake_turns(1);
	CHECK_EQ(count, 1000);
	CHECK_EQ(queue_inflight(user.q), DEPTH - 1);
	finish();
}

TEST(put_gives_room_back)
{
	struct slot *slot[DEPTH];

	begin();
	go_live();
	for (unsigned i = 0; i < DEPTH - 1; i++)
		slot[i] = queue_get(user.q);
	CHECK(queue_get(user.q) == NULL);
	for (unsigned i = 0; i < DEPTH - 1; i++)
		queue_put(slot[i]);
	CHECK_EQ(user.nroom, 0);
	fake_turns(1);
	CHECK_EQ(user.nroom, 1);
	finish();
}

/* Who needs two slots and gets one gives it back and waits: for an answer, not for himself. */
TEST(put_is_no_news_while_an_answer_is_due)
{
	struct op op;
	struct slot *slot;
	uint32_t len;

	begin_depth(3);
	go_live();
	op_start(&op, NVME_IO_FLUSH, 0);
	fake_turns(1);
	slot = queue_get(user.q);
	CHECK(slot != NULL && queue_get(user.q) == NULL);
	queue_put(slot);
	fake_turns(5);
	CHECK_EQ(user.nroom, 0);
	give_resp(le16_get(take_capsule(NULL, &len)->cid), 0, 0);
	fake_turns(2);
	CHECK_EQ(user.nroom, 1);
	finish();
}

TEST(cid_never_repeats_soon_and_is_never_ffff)
{
	static const uint16_t depths[] = { 2, 8, 127, 128, 1024 };
	uint16_t cid, before = 0;

	for (size_t i = 0; i < ARRAY_LEN(depths); i++) {
		begin_depth(depths[i]);
		go_live();
		for (unsigned n = 0; n < 70000; n++) {
			struct slot *slot = queue_get(user.q);

			cid = slot->cid;
			if (cid == 0xffff || (n > 0 && cid == before))
				CHECK_EQ(cid, before + 1);
			before = cid;
			queue_put(slot);
		}
		finish();
	}
}

/* ---- failing to connect --------------------------------------------------------------------- */

TEST(connect_refuses_what_cannot_be)
{
	struct queue_target target = target_of();
	struct err err = {};
	char nqn[300];

	begin();
	memset(nqn, 'x', sizeof(nqn));
	nqn[224] = '\0';
	target.subnqn = nqn;
	CHECK_EQ(queue_connect(user.q, &target, &err), -EINVAL);
	CHECK_HAS(err.msg, "NQN");
	target.subnqn = "nqn";
	target.hostnqn = "";
	CHECK_EQ(queue_connect(user.q, &target, NULL), -EINVAL);
	target.hostnqn = "nqn";
	target.port = 0;
	CHECK_EQ(queue_connect(user.q, &target, NULL), -EINVAL);
	CHECK_EQ(queue_state(user.q), QUEUE_IDLE);
	queue_disconnect(user.q, -EIO); /* nothing happens */
	fake_turns(2);
	CHECK_EQ(user.ndown, 0);
	finish();
}

TEST(connect_ends_when_nobody_listens)
{
	begin();
	fake.dial_error = -ECONNREFUSED;
	dial();
	fake_turns(3);
	expect_down(-ECONNREFUSED, "cannot connect to fake:1");
	finish();
}

TEST(connect_has_a_limit_in_every_state)
{
	for (unsigned state = 0; state < 3; state++) {
		begin();
		fake.is_dialling = state == 0;
		dial();
		fake_turns(2);
		if (state == 2) {
			give_ic(0);
			fake_turns(2);
		}
		CHECK_EQ(queue_state(user.q), QUEUE_DIAL + (int)state);
		fake_pass(1900 * 1000000ull);
		CHECK_EQ(user.ndown, 0);
		fake_pass(200 * 1000000ull);
		expect_down(-ETIMEDOUT, "in time");
		finish();
	}
}

TEST(connect_command_is_not_told_late)
{
	struct queue_target target = target_of();

	begin();
	target.connect_timeout_ns = 60ull * SECOND;
	CHECK_EQ(queue_connect(user.q, &target, NULL), 0);
	(void)handshake();
	fake_pass(20ull * SECOND);
	CHECK_EQ(user.nlate, 0);
	CHECK_EQ(queue_state(user.q), QUEUE_JOIN);
	finish();
}

TEST(connect_ends_with_what_the_controller_says)
{
	static const struct {
		const char *name;
		uint16_t status; /* as on the wire */
		uint32_t dw0;
		int reason;
		const char *text;
	} rows[] = {
		{ "invalid host", 0x8000 | 0x184 << 1, 0, -EACCES, "refused the Connect" },
		{ "invalid parameter", 0x8000 | 0x182 << 1, 0, -ECONNREFUSED, "status 0x8182" },
		{ "busy", 0x181 << 1, 0, -EBUSY, "status 0x181" },
		{ "authentication", 0, 1 << 17 | 7, -EACCES, "authentication" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		TAP_ROW(rows[i].name);
		begin();
		dial();
		give_resp(handshake(), rows[i].status, rows[i].dw0);
		fake_turns(3);
		expect_down(rows[i].reason, rows[i].text);
		CHECK_EQ(queue_connect_status(user.q),
			 (rows[i].status >> 1 & 0x1fff) | (rows[i].status & 0x8000));
		finish();
	}
	TAP_ROW(NULL);
}

TEST(connect_wants_the_digests_it_asked_for)
{
	for (unsigned asked = 0; asked < 4; asked++) {
		for (unsigned granted = 0; granted < 4; granted++) {
			if (asked == granted)
				continue;
			agreed.hdgst = asked & 1;
			agreed.ddgst = asked & 2;
			begin();
			dial();
			fake_turns(2);
			give_ic((uint8_t)granted);
			fake_turns(3);
			expect_down(-EOPNOTSUPP, "digest");
			finish();
		}
	}
}

TEST(queue_connects_again_and_again)
{
	struct op op;

	begin();
	for (unsigned i = 0; i < 20; i++) {
		go_live();
		op_start(&op, NVME_IO_FLUSH, 0);
		fake_turns(1);
		if (i % 2 == 0) {
			queue_disconnect(user.q, -ESHUTDOWN);
		} else {
			fake.recv_error = 1;
		}
		fake_turns(3);
		fake.recv_error = 0;
		CHECK_EQ(user.ndown, i + 1);
		CHECK_EQ(user.reason, i % 2 == 0 ? -ESHUTDOWN : -ECONNRESET);
		CHECK_EQ(op.ndone, 1);
		CHECK_EQ(op.status, NVMF_LOST);
		CHECK(!op.is_unsent);
	}
	CHECK_EQ(queue_stats(user.q)->connects, 20);
	CHECK_EQ(queue_stats(user.q)->lost, 20);
	finish();
}

/* ---- the end -------------------------------------------------------------------------------- */

TEST(unsent_is_said_truthfully)
{
	struct op op[4];

	begin();
	go_live();
	op_start(&op[0], NVME_IO_WRITE, 512);
	fake_turns(1);
	fake.room = 600; /* the second whole, the third begun */
	op_start(&op[1], NVME_IO_WRITE, 512);
	op_start(&op[2], NVME_IO_WRITE, 512);
	op_start(&op[3], NVME_IO_WRITE, 512);
	fake_turns(1);
	queue_disconnect(user.q, -ESHUTDOWN);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(op[i].ndone, 0); /* from the loop only */
	CHECK(fake.is_aborted);
	fake_turns(1);
	for (unsigned i = 0; i < 4; i++) {
		CHECK_EQ(op[i].ndone, 1);
		CHECK_EQ(op[i].status, NVMF_LOST);
		CHECK_EQ(op[i].is_unsent, i == 3);
		op_free(&op[i]);
	}
	CHECK_EQ(user.ndown, 1);
	finish();
}

/* Closed is what nothing is taken from, and only when that was asked for. */
TEST(queue_is_closed_or_aborted)
{
	static const struct {
		const char *name;
		int reason;
		bool is_sent, is_answered, is_aborted;
	} rows[] = {
		{ "idle", -ESHUTDOWN, false, false, false },
		{ "idle, but given up", -ETIMEDOUT, false, false, true },
		{ "in flight", -ESHUTDOWN, true, false, true },
		{ "answered", -ESHUTDOWN, true, true, false },
	};
	uint32_t len;
	struct op op;

	begin();
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		TAP_ROW(rows[i].name);
		go_live();
		if (rows[i].is_sent) {
			op_start(&op, NVME_IO_FLUSH, 0);
			fake_turns(1);
		}
		if (rows[i].is_answered) {
			give_resp(le16_get(take_capsule(NULL, &len)->cid), 0, 0);
			fake_turns(2);
		}
		queue_disconnect(user.q, rows[i].reason);
		CHECK_EQ(fake.is_aborted, rows[i].is_aborted);
		fake_turns(3);
		CHECK_EQ(user.ndown, i + 1);
	}
	TAP_ROW(NULL);
	finish();
}

TEST(slot_sent_after_the_end_comes_back_unsent)
{
	struct op op[3];

	begin();
	go_live();
	for (unsigned i = 0; i < 3; i++)
		(void)op_init(&op[i], NVME_IO_FLUSH, 0);
	queue_disconnect(user.q, -ESHUTDOWN);
	op_send(&op[0]); /* before down() */
	fake_turns(1);
	CHECK_EQ(user.ndown, 1);
	CHECK_EQ(op[0].ndone, 1);
	op_send(&op[1]); /* after it */
	fake_turns(1);
	CHECK_EQ(op[1].ndone, 1);
	op_send(&op[2]); /* and while it connects again */
	dial();
	fake_turns(1);
	for (unsigned i = 0; i < 3; i++) {
		CHECK_EQ(op[i].ndone, 1);
		CHECK_EQ(op[i].status, NVMF_LOST);
		CHECK(op[i].is_unsent);
	}
	CHECK_EQ(user.ndown, 1);
	finish();
}

TEST(done_may_disconnect)
{
	struct scene scene;

	begin();
	go_live();
	scene_start(&scene);
	scene.read[0].disconnects = true;
	scene.write.disconnects = true; /* again, while it goes down */
	give_data(scene.read[0].cid, 0, 4096, NVME_TCP_LAST | NVME_TCP_SUCCESS, 0);
	give_data(scene.read[1].cid, 0, 4096, NVME_TCP_LAST | NVME_TCP_SUCCESS, 0);
	fake_turns(2);
	CHECK_EQ(scene.read[0].status, 0);
	CHECK_EQ(user.ndown, 1);
	CHECK_EQ(user.reason, -ESHUTDOWN);
	scene_end(&scene);
	finish();
}

static void free_down(struct queue *q, int reason)
{
	(void)reason;
	user.ndown++;
	queue_free(q);
}

TEST(down_may_free_the_queue)
{
	struct queue_opts opts = { .qid = 3, .depth = 4, .up = user_up, .down = free_down };

	begin();
	queue_free(user.q);
	CHECK_EQ(queue_new(&opts, &user.q, NULL), 0);
	go_live();
	queue_send(({
		struct slot *slot = queue_get(user.q);

		slot->done = resend_done;
		slot;
	}));
	queue_disconnect(user.q, -EIO); /* a flush is still due */
	fake_turns(2);
	CHECK_EQ(user.ndown, 1);
	CHECK(fake_stop());
	CHECK_EQ(dma_bytes_in_use(), dma_before);
	agreed = (struct agreed){};
}

TEST(socket_that_breaks_takes_the_queue_down)
{
	struct scene scene;

	begin();
	go_live();
	scene_start(&scene);
	fake.recv_error = -ECONNRESET;
	fake_turns(3);
	CHECK_EQ(user.ndown, 1);
	CHECK_EQ(user.reason, -ECONNRESET);
	CHECK_HAS(queue_err(user.q)->msg, "fake:1");
	CHECK_EQ(scene.read[0].status, NVMF_LOST);
	scene_end(&scene);
	finish();
}

/* ---- time ----------------------------------------------------------------------------------- */

TEST(late_commands_are_told_again_and_again)
{
	struct op op[2];

	begin();
	go_live();
	op_start(&op[0], NVME_IO_FLUSH, 0);
	fake_pass(2ull * SECOND);
	(void)op_init(&op[1], NVME_IO_FLUSH, 0);
	op[1].slot->timeout_ns = SECOND; /* less than the queue's */
	op_send(&op[1]);
	fake_pass(SECOND / 2);
	CHECK_EQ(user.nlate, 0);
	fake_pass(SECOND / 2);
	CHECK_EQ(user.nlate, 1);
	CHECK(user.late == op[1].slot);
	fake_pass(SECOND + SECOND / 10);
	CHECK_EQ(user.nlate, 2);
	CHECK(user.late == op[1].slot);
	give_resp(op[1].cid, 0, 0);
	fake_turns(1);
	CHECK_EQ(op[1].ndone, 1);
	fake_pass(SECOND);
	CHECK_EQ(user.nlate, 3);
	CHECK(user.late == op[0].slot); /* after five seconds */
	CHECK_EQ(op[0].ndone, 0);
	CHECK_EQ(queue_stats(user.q)->late, 3);
	user.disconnects_late = true;
	fake_pass(5ull * SECOND);
	CHECK_EQ(op[0].ndone, 1);
	CHECK_EQ(user.reason, -ETIME);
	finish();
}

/* Who was stopped for a minute blames nobody for what he did not look at. */
TEST(late_is_not_what_we_slept_through)
{
	struct op op;

	begin();
	go_live();
	op_start(&op, NVME_IO_FLUSH, 0);
	fake_turns(1);
	fake_pass(60ull * SECOND);
	CHECK_EQ(user.nlate, 0);
	fake_pass(SECOND);
	CHECK_EQ(user.nlate, 1);
	give_resp(op.cid, 0, 0);
	fake_turns(1);
	CHECK_EQ(op.ndone, 1);
	finish();
}

TEST(order_of_sending_is_kept)
{
	struct op op[5];
	struct slot *slot = NULL;

	begin();
	go_live();
	for (unsigned i = 0; i < 5; i++)
		op_start(&op[i], NVME_IO_FLUSH, 0);
	fake_turns(1);
	give_resp(op[2].cid, 0, 0);
	give_resp(op[0].cid, 0, 0);
	fake_turns(1);
	slot = queue_next_inflight(user.q, NULL);
	CHECK(slot == op[1].slot);
	slot = queue_next_inflight(user.q, slot);
	CHECK(slot == op[3].slot);
	slot = queue_next_inflight(user.q, slot);
	CHECK(slot == op[4].slot);
	CHECK(queue_next_inflight(user.q, slot) == NULL);
	finish();
}

TEST(idle_queue_is_armed_and_wakes)
{
	struct op op;

	begin();
	go_live();
	op_start(&op, NVME_IO_FLUSH, 0);
	fake_pass(SECOND / 1000);
	fake_turns(2);
	CHECK(list_empty(&fake.r->pollers)); /* nothing polls */
	CHECK(fake.armed & STREAM_IN);
	give_resp(op.cid, 0, 0);
	fake_turns(2);
	CHECK_EQ(op.ndone, 1);
	fake_pass(SECOND / 1000);
	CHECK(list_empty(&fake.r->pollers));
	finish();
}

TAP_MAIN()
