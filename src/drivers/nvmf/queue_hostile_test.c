/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue and a controller that is the test itself and breaks every rule: rows of misbehaviour,
 * each with how it must end. Whatever it does, each command ends once and nothing is left.
 */
#include "drivers/nvmf/queue_testing.h"

/* ---- controllers that break the protocol ---------------------------------------------------- */

static void raw(uint8_t type, uint8_t flags, uint8_t hlen, uint8_t pdo, uint32_t plen)
{
	struct nvme_tcp_hdr hdr = {
		.type = type, .flags = flags, .hlen = hlen, .pdo = pdo, .plen = le32_of(plen)
	};
	uint8_t bytes[256] = {};

	memcpy(bytes, &hdr, sizeof(hdr));
	fake_give(bytes, sizeof(bytes));
}

static void unknown_type(struct scene *s)
{
	(void)s;
	raw(0x42, 0, 24, 0, 24);
}

static void command_pdu(struct scene *s)
{
	(void)s;
	raw(NVME_TCP_CAPSULE_CMD, 0, 72, 0, 72);
}

static void second_ic(struct scene *s)
{
	(void)s;
	give_ic(0);
}

static void oversized_pdu(struct scene *s)
{
	(void)s;
	raw(NVME_TCP_C2H_DATA, NVME_TCP_LAST, 24, 24, 24 + QUEUE_DATA_MAX + 4);
}

static void absurd_plen(struct scene *s)
{
	(void)s;
	raw(NVME_TCP_C2H_DATA, NVME_TCP_LAST, 24, 24, 0xffffffff);
}

static void short_resp(struct scene *s)
{
	(void)s;
	raw(NVME_TCP_CAPSULE_RESP, 0, 24, 0, 20);
}

static void unknown_cid(struct scene *s)
{
	give_resp((uint16_t)(s->read[0].cid ^ 0x8000), 0, 0);
}

static void cid_beyond_the_slots(struct scene *s)
{
	(void)s;
	give_resp(0x000f, 0, 0);
}

static void answered_twice(struct scene *s)
{
	give_resp(s->read[0].cid, 0x281 << 1, 0);
	give_resp(s->read[0].cid, 0x281 << 1, 0);
}

static void answered_after_success(struct scene *s)
{
	give_data(s->read[0].cid, 0, 4096, NVME_TCP_LAST | NVME_TCP_SUCCESS, 0);
	give_resp(s->read[0].cid, 0, 0);
}

static void data_for_a_write(struct scene *s)
{
	give_data(s->write.cid, 0, 512, NVME_TCP_LAST, 0);
}

static void data_for_nobody(struct scene *s)
{
	give_data((uint16_t)(s->read[0].cid + 16), 0, 512, NVME_TCP_LAST, 0);
}

static void data_beyond_the_end(struct scene *s)
{
	give_data(s->read[0].cid, 0, 4100, NVME_TCP_LAST, 0);
}

static void offset_beyond_the_end(struct scene *s)
{
	give_data(s->read[0].cid, 4096, 512, NVME_TCP_LAST, 0);
}

static void offset_that_wraps(struct scene *s)
{
	give_data(s->read[0].cid, 0xfffffe00, 1024, NVME_TCP_LAST, 0);
}

static void data_out_of_order(struct scene *s)
{
	give_data(s->read[0].cid, 2048, 2048, NVME_TCP_LAST, 0);
}

static void data_twice(struct scene *s)
{
	give_data(s->read[0].cid, 0, 512, 0, 0);
	give_data(s->read[0].cid, 0, 512, 0, 0);
}

static void data_after_last(struct scene *s)
{
	give_data(s->read[0].cid, 0, 512, NVME_TCP_LAST, 0);
	give_data(s->read[0].cid, 512, 512, 0, 0);
}

static void success_without_last(struct scene *s)
{
	give_data(s->read[0].cid, 0, 4096, NVME_TCP_SUCCESS, 0);
}

static void digest_not_agreed(struct scene *s)
{
	give_data(s->read[0].cid, 0, 512, NVME_TCP_LAST | NVME_TCP_DDGST, 0);
}

static void r2t_for_a_read(struct scene *s)
{
	give_r2t(s->read[0].cid, 1, 0, 512);
}

static void r2t_for_nobody(struct scene *s)
{
	give_r2t((uint16_t)(s->write.cid + 16), 1, 0, 512);
}

static void r2t_for_nothing(struct scene *s)
{
	give_r2t(s->write.cid, 1, 0, 0);
}

static void r2t_beyond_the_end(struct scene *s)
{
	give_r2t(s->write.cid, 1, 0, 65540);
}

static void r2t_wraps(struct scene *s)
{
	give_r2t(s->write.cid, 1, 0, 0xfffffff0);
}

static void r2t_out_of_order(struct scene *s)
{
	give_r2t(s->write.cid, 1, 4096, 4096);
}

static void r2t_without_end(struct scene *s)
{
	give_r2t(s->write.cid, 1, 0, 65536);
	fake_turns(8);
	give_r2t(s->write.cid, 1, 0, 65536);
}

static void r2t_before_the_last_was_answered(struct scene *s)
{
	fake.room = 0;
	give_r2t(s->write.cid, 1, 0, 4096);
	give_r2t(s->write.cid, 2, 4096, 4096);
}

struct row {
	const char *name;
	void (*play)(struct scene *s);
	uint16_t fes;
	uint32_t fei;
	const char *text;
	bool is_mute; /* the socket takes nothing: no termination request */
};

static const struct row rows[] = {
	{ "unknown type", unknown_type, 1, 0, "malformed" },
	{ "a host's PDU", command_pdu, 1, 0, "malformed" },
	{ "ICResp again", second_ic, 2, 0, "malformed" },
	{ "oversized PDU", oversized_pdu, 4, 0, "malformed" },
	{ "absurd length", absurd_plen, 4, 0, "malformed" },
	{ "short response", short_resp, 1, 4, "malformed" },
	{ "unknown CID", unknown_cid, 1, 20, "not in flight" },
	{ "CID beyond the slots", cid_beyond_the_slots, 1, 20, "not in flight" },
	{ "answered twice", answered_twice, 1, 20, "not in flight" },
	{ "answered after success", answered_after_success, 1, 20, "not in flight" },
	{ "data for a write", data_for_a_write, 1, 8, "reads nothing" },
	{ "data for nobody", data_for_nobody, 1, 8, "not in flight" },
	{ "data beyond the end", data_beyond_the_end, 4, 0, "more data" },
	{ "offset beyond the end", offset_beyond_the_end, 4, 0, "not the next" },
	{ "offset that wraps", offset_that_wraps, 4, 0, "not the next" },
	{ "data out of order", data_out_of_order, 4, 0, "not the next" },
	{ "data twice", data_twice, 4, 0, "not the next" },
	{ "data after the last", data_after_last, 4, 0, "after the last" },
	{ "success without last", success_without_last, 1, 1, "malformed" },
	{ "digest not agreed on", digest_not_agreed, 1, 1, "malformed" },
	{ "R2T for a read", r2t_for_a_read, 1, 8, "writes nothing" },
	{ "R2T for nobody", r2t_for_nobody, 1, 8, "not in flight" },
	{ "R2T for nothing", r2t_for_nothing, 1, 16, "no data" },
	{ "R2T beyond the end", r2t_beyond_the_end, 4, 0, "than there is" },
	{ "R2T that wraps", r2t_wraps, 4, 0, "than there is" },
	{ "R2T out of order", r2t_out_of_order, 4, 0, "not the next" },
	{ "endless R2T", r2t_without_end, 4, 0, "not the next" },
	{ "two R2Ts at once", r2t_before_the_last_was_answered, 5, 0, "before", .is_mute = true },
};

static void expect_term(const struct row *row)
{
	const struct nvme_tcp_term *term;

	fake.out_at = fake.out_len;
	fake_turns(1);
	/* It is the last thing that was sent: 24 bytes and the header that was wrong. */
	for (fake.out_at = 0; fake.out_at < fake.out_len;) {
		const struct nvme_tcp_hdr *hdr = (const void *)(fake.out + fake.out_at);

		if (fake.out_at + le32_get(hdr->plen) == fake.out_len)
			break;
		fake.out_at += le32_get(hdr->plen);
	}
	term = (const void *)fake_take(sizeof(*term));
	if (!CHECK(term != NULL))
		return;
	CHECK_EQ(term->hdr.type, NVME_TCP_H2C_TERM);
	CHECK_EQ(le16_get(term->fes), row->fes);
	CHECK_EQ(le32_get(term->fei), row->fei);
	CHECK(fake.out_len - fake.out_at >= 24 && fake.out_len - fake.out_at <= 128);
}

TEST(violations_end_the_connection_and_nothing_else)
{
	struct scene scene;

	log_set_level(LOG_ERROR);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		for (unsigned closes = 0; closes < 2; closes++) {
			TAP_ROW(rows[i].name);
			begin();
			go_live();
			scene_start(&scene);
			rows[i].play(&scene);
			fake_turns(4);
			CHECK_HAS(queue_err(user.q)->msg, rows[i].text);
			if (rows[i].is_mute) {
				fake.room = SIZE_MAX;
			} else {
				expect_term(&rows[i]);
				CHECK_EQ(queue_state(user.q), QUEUE_DOWN);
				CHECK_EQ(user.ndown, 0);
				CHECK(queue_get(user.q) == NULL);
				give_resp(scene.read[1].cid, 0, 0); /* not judged any more */
				if (closes)
					fake.recv_error = 1;
				fake_turns(3);
				CHECK_EQ(user.ndown, closes);
				fake_pass(SECOND);
			}
			CHECK_EQ(user.ndown, 1);
			CHECK_EQ(user.reason, -EPROTO);
			CHECK(fake.is_aborted);
			scene_end(&scene);
			fake.recv_error = 0;
			go_live(); /* and it can be used again */
			finish();
		}
	}
	TAP_ROW(NULL);
	log_set_level(LOG_INFO);
}

TEST(violations_before_the_queue_is_up)
{
	log_set_level(LOG_ERROR);
	for (unsigned i = 0; i < 4; i++) {
		begin();
		dial();
		fake_turns(2);
		switch (i) {
		case 0:
			give_resp(0, 0, 0);
			break;
		case 1:
			agreed.h2c_data_max = 512;
			give_ic(0);
			break;
		case 2:
			agreed.cpda = 32;
			give_ic(0);
			break;
		default:
			raw(0xff, 0xff, 0xff, 0xff, 0xffffffff);
			break;
		}
		fake_turns(3);
		fake_pass(SECOND);
		expect_down(-EPROTO, "protocol");
		finish();
	}
	log_set_level(LOG_INFO);
}

/* @sends: the host notices first that it cannot send. */
static void check_terminated(bool sends)
{
	struct {
		struct nvme_tcp_term term;
		uint8_t header[72];
	} pdu = { .term = { .hdr = { .type = NVME_TCP_C2H_TERM,
				     .hlen = 24,
				     .plen = le32_of(sizeof(pdu)) },
			    .fes = le16_of(2),
			    .fei = le32_of(77) } };
	struct scene scene;
	struct op op;

	log_set_level(LOG_ERROR);
	begin();
	go_live();
	scene_start(&scene);
	if (sends) {
		fake.send_error = -EPIPE;
		op_start(&op, NVME_IO_FLUSH, 0);
		fake_turns(1);
	}
	fake_give(&pdu, sizeof(pdu));
	fake_turns(3);
	CHECK_EQ(user.ndown, 1);
	CHECK_EQ(user.reason, -ECONNABORTED);
	CHECK(!sends || (op.ndone == 1 && op.is_unsent));
	CHECK_HAS(queue_err(user.q)->msg, "information 77");
	CHECK_EQ(scene.read[0].status, NVMF_LOST);
	scene_end(&scene);
	finish();
	log_set_level(LOG_INFO);
}

TEST(controller_that_terminates_is_heard)
{
	check_terminated(false);
	check_terminated(true);
}

TEST(socket_that_takes_nothing_and_says_nothing_ends)
{
	struct op op;

	begin();
	go_live();
	fake.send_error = -EPIPE;
	op_start(&op, NVME_IO_FLUSH, 0);
	fake_turns(3);
	CHECK_EQ(user.ndown, 1);
	CHECK_EQ(user.reason, -EPIPE);
	CHECK_EQ(op.ndone, 1);
	CHECK(op.is_unsent);
	finish();
}

/* ---- data that does not arrive well --------------------------------------------------------- */

TEST(success_with_less_data_is_a_fault_of_the_command)
{
	struct scene scene;

	log_set_level(LOG_ERROR);
	for (unsigned how = 0; how < 5; how++) {
		begin();
		go_live();
		scene_start(&scene);
		if (how == 0)
			give_resp(scene.read[0].cid, 0, 0);
		else if (how == 1)
			give_data(scene.read[0].cid, 0, 512, NVME_TCP_LAST | NVME_TCP_SUCCESS, 0);
		else if (how == 2)
			give_data(scene.read[0].cid, 0, 512, 0, 0);
		if (how == 2)
			give_resp(scene.read[0].cid, 0x281 << 1, 0); /* an error may come early */
		if (how == 4)
			give_r2t(scene.write.cid, 1, 0, scene.write.len);
		if (how >= 3)
			give_resp(scene.write.cid, 0, 0); /* without having its data */
		fake_turns(2);
		CHECK_EQ(user.ndown, 0);
		CHECK_EQ(scene.read[0].ndone, how < 3);
		CHECK_EQ(scene.write.ndone, how >= 3);
		CHECK_EQ(how >= 3 ? scene.write.status : scene.read[0].status,
			 how == 2 ? NVME_SC_READ_ERROR : NVME_SC_TRANSIENT_TRANSPORT);
		CHECK_EQ(queue_state(user.q), QUEUE_LIVE);
		finish();
		op_free(&scene.read[0]);
		op_free(&scene.read[1]);
		op_free(&scene.write);
	}
	log_set_level(LOG_INFO);
}

TEST(wrong_data_digest_costs_the_command)
{
	static const uint32_t lens[] = { 512, 65536 };
	struct op op, other;

	log_set_level(LOG_ERROR);
	for (unsigned i = 0; i < 4; i++) {
		agreed.ddgst = true;
		agreed.hdgst = i & 1;
		begin();
		go_live();
		op_start(&op, NVME_IO_READ, lens[i / 2]);
		op_start(&other, NVME_IO_READ, 512);
		fake_turns(1);
		fake.in_step = i == 2 ? 5000 : 0;
		give_data(op.cid, 0, lens[i / 2], NVME_TCP_LAST | NVME_TCP_SUCCESS, 0);
		fake.in[fake.in_len - 1] ^= 1;
		give_data(other.cid, 0, 512, NVME_TCP_LAST | NVME_TCP_SUCCESS, 0);
		fake_turns(100);
		CHECK_EQ(op.ndone, 1);
		CHECK_EQ(op.status, NVME_SC_TRANSIENT_TRANSPORT);
		CHECK_EQ(other.ndone, 1);
		CHECK_EQ(other.status, 0);
		CHECK_EQ(queue_stats(user.q)->digest_errors, 1);
		CHECK_EQ(queue_state(user.q), QUEUE_LIVE);
		finish();
		op_free(&op);
		op_free(&other);
	}
	log_set_level(LOG_INFO);
}

TEST(wrong_header_digest_ends_the_connection)
{
	const struct row row = { .fes = NVME_TCP_FES_HEADER_DIGEST };
	struct row expected = row;
	struct op op;
	struct le32 digest;

	log_set_level(LOG_ERROR);
	agreed.hdgst = true;
	begin();
	go_live();
	op_start(&op, NVME_IO_READ, 512);
	fake_turns(1);
	give_resp(op.cid, 0, 0);
	fake.in[fake.in_len - 1] ^= 1;
	memcpy(&digest, fake.in + fake.in_len - 4, 4);
	expected.fei = le32_get(digest);
	fake_turns(2);
	expect_term(&expected);
	fake_pass(SECOND);
	CHECK_EQ(op.status, NVMF_LOST);
	CHECK_EQ(user.reason, -EPROTO);
	finish();
	op_free(&op);
	log_set_level(LOG_INFO);
}

/* ---- answers while something is half sent --------------------------------------------------- */

TEST(error_while_data_is_being_sent_waits_for_the_pdu)
{
	struct op op, next;

	agreed.h2c_data_max = 4096;
	begin();
	go_live();
	op_start(&op, NVME_IO_WRITE, 16384);
	fake_turns(1);
	fake.room = 1000; /* the first of four PDUs is begun */
	give_r2t(op.cid, 5, 0, 16384);
	fake_turns(2);
	give_resp(op.cid, 0x280 << 1, 0);
	op_start(&next, NVME_IO_FLUSH, 0);
	fake_turns(3);
	CHECK_EQ(op.ndone, 0); /* its memory is still needed */
	fake.room = SIZE_MAX;
	fake_turns(3);
	CHECK_EQ(op.ndone, 1);
	CHECK_EQ(op.status, NVME_SC_WRITE_FAULT);
	/* one whole PDU, none of the others, then the next command */
	fake.out_at = fake.out_len - 72 - 4096 - 24;
	CHECK_EQ(fake.out[fake.out_at], NVME_TCP_H2C_DATA);
	CHECK_EQ(fake.out[fake.out_len - 72], NVME_TCP_CAPSULE_CMD);
	CHECK_EQ(next.ndone, 0);
	finish();
	op_free(&op);
}

TEST(error_before_data_was_sent_takes_it_back)
{
	struct op op, next;
	size_t before;

	begin();
	go_live();
	op_start(&op, NVME_IO_WRITE, 16384);
	fake_turns(1);
	before = fake.out_len;
	fake.room = 0;
	give_r2t(op.cid, 5, 0, 16384);
	fake_turns(2);
	give_resp(op.cid, 0x280 << 1, 0);
	fake_turns(2);
	CHECK_EQ(op.ndone, 1);
	op_start(&next, NVME_IO_FLUSH, 0);
	fake.room = SIZE_MAX;
	fake_turns(3);
	CHECK_EQ(fake.out_len - before, 72);
	finish();
	op_free(&op);
}

TEST(answer_to_what_was_not_sent_is_a_violation)
{
	struct op op;

	log_set_level(LOG_ERROR);
	begin();
	go_live();
	fake.room = 0;
	op_start(&op, NVME_IO_FLUSH, 0);
	give_resp(op.cid, 0, 0);
	fake_turns(3);
	CHECK_HAS(queue_err(user.q)->msg, "not in flight");
	fake_pass(SECOND);
	CHECK_EQ(op.status, NVMF_LOST);
	CHECK(op.is_unsent);
	finish();
	log_set_level(LOG_INFO);
}

TEST(early_refusal_of_a_capsule_with_data)
{
	struct op op;

	begin();
	go_live();
	fake.room = 100; /* the command and a bit of its data */
	op_start(&op, NVME_IO_WRITE, 4096);
	fake_turns(1);
	give_resp(op.cid, 0x280 << 1, 0);
	fake_turns(2);
	CHECK_EQ(op.ndone, 0);
	fake.room = SIZE_MAX;
	fake_turns(2);
	CHECK_EQ(op.ndone, 1);
	CHECK_EQ(op.status, NVME_SC_WRITE_FAULT);
	CHECK_EQ(queue_state(user.q), QUEUE_LIVE);
	finish();
	op_free(&op);
}

TAP_MAIN()
