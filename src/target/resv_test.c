// SPDX-License-Identifier: Apache-2.0
/*
 * The rules of reservations: the corners by name, then random commands against a small model that
 * was written from the tables alone and shares no code with what it judges.
 */
#include "base/rng.h"
#include "base/tap.h"
#include "target/resv.h"

enum { A, B, C, D, HOSTS };

static struct resv r;
static struct resv_effects fx;

static struct resv_host host(unsigned index)
{
	struct resv_host h = { .id = { 0xa0, [15] = (uint8_t)(index + 1) } };

	return h;
}

static uint16_t run(unsigned who, uint8_t opcode, uint8_t action, uint8_t type, uint64_t crkey,
		    uint64_t other)
{
	struct resv_request q = { .opcode = opcode,
				  .action = action,
				  .type = type,
				  .crkey = crkey,
				  .other_key = other,
				  .host = host(who) };

	return resv_apply(&r, &q, &fx);
}

static uint16_t reg(unsigned who, uint64_t key)
{
	return run(who, NVME_IO_RESV_REGISTER, NVME_RESV_REGISTER, 0, 0, key);
}

static uint16_t unreg(unsigned who, uint64_t key)
{
	return run(who, NVME_IO_RESV_REGISTER, NVME_RESV_UNREGISTER, 0, key, 0);
}

static uint16_t acquire(unsigned who, uint64_t key, uint8_t type)
{
	return run(who, NVME_IO_RESV_ACQUIRE, NVME_RESV_ACQUIRE, type, key, 0);
}

static uint16_t preempt(unsigned who, uint64_t key, uint64_t prkey, uint8_t type)
{
	return run(who, NVME_IO_RESV_ACQUIRE, NVME_RESV_PREEMPT, type, key, prkey);
}

static uint16_t release(unsigned who, uint64_t key, uint8_t type)
{
	return run(who, NVME_IO_RESV_RELEASE, NVME_RESV_RELEASE, type, key, 0);
}

static unsigned denied(unsigned who)
{
	struct resv_host h = host(who);

	return resv_denied(&r, &h);
}

static bool holds(unsigned who)
{
	struct resv_host h = host(who);

	return resv_is_holder(&r, &h);
}

/* The type of the notice for @who; 0: none. */
static unsigned told(unsigned who)
{
	struct resv_host h = host(who);
	unsigned type = 0;

	for (unsigned i = 0; i < fx.count; i++) {
		if (!resv_host_equal(&fx.notice[i].host, &h))
			continue;
		CHECK_EQ(type, 0);
		type = fx.notice[i].type;
	}
	return type;
}

/* A (key 1) and B (key 2) are registered, C is not; A acquires @type. */
static void two_registered(uint8_t type)
{
	r = (struct resv){};
	CHECK_EQ(reg(A, 1), 0);
	CHECK_EQ(reg(B, 2), 0);
	if (type != 0)
		CHECK_EQ(acquire(A, 1, type), 0);
}

/* ---- who may do what ------------------------------------------------------------------------ */

TEST(rights_follow_the_figure)
{
	enum { RD = RESV_DENY_READ, WR = RESV_DENY_WRITE };
	static const struct {
		uint8_t type, registrant, outsider;
	} rows[] = {
		{ 0, 0, 0 },       { 1, WR, WR }, { 2, RD | WR, RD | WR }, { 3, 0, WR },
		{ 4, 0, RD | WR }, { 5, 0, WR },  { 6, 0, RD | WR },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		TAP_ROW(resv_type_name(rows[i].type));
		two_registered(rows[i].type);
		CHECK_EQ(denied(A), 0);
		CHECK_EQ(denied(B), rows[i].registrant);
		CHECK_EQ(denied(C), rows[i].outsider);
		CHECK_EQ(holds(A), rows[i].type != 0);
		CHECK_EQ(holds(B), rows[i].type >= 5);
		CHECK(!holds(C));
		CHECK(resv_is_valid(&r));
	}
}

/* ---- Register ------------------------------------------------------------------------------- */

TEST(register_unregister_replace)
{
	struct resv_request q = { .opcode = NVME_IO_RESV_REGISTER, .host = host(A) };

	two_registered(0);
	CHECK_EQ(r.generation, 2);
	CHECK_EQ(reg(A, 1), 0); /* again with the same key */
	CHECK_EQ(r.generation, 3);
	CHECK(!fx.is_changed);
	CHECK_EQ(reg(A, 9), NVME_SC_RESERVATION_CONFLICT);
	CHECK_EQ(reg(C, 0), NVME_SC_INVALID_FIELD);
	CHECK_EQ(unreg(A, 9), NVME_SC_RESERVATION_CONFLICT);
	CHECK_EQ(unreg(C, 1), NVME_SC_RESERVATION_CONFLICT);
	CHECK_EQ(run(A, NVME_IO_RESV_REGISTER, NVME_RESV_REPLACE, 0, 9, 5),
		 NVME_SC_RESERVATION_CONFLICT);
	CHECK_EQ(run(C, NVME_IO_RESV_REGISTER, NVME_RESV_REPLACE, 0, 0, 5),
		 NVME_SC_RESERVATION_CONFLICT);
	CHECK_EQ(run(A, NVME_IO_RESV_REGISTER, NVME_RESV_REPLACE, 0, 1, 0), NVME_SC_INVALID_FIELD);
	CHECK_EQ(run(A, NVME_IO_RESV_REGISTER, 3, 0, 1, 1), NVME_SC_INVALID_FIELD);
	CHECK_EQ(r.generation, 3); /* failures do not count */
	CHECK_EQ(run(A, NVME_IO_RESV_REGISTER, NVME_RESV_REPLACE, 0, 1, 5), 0);
	CHECK_EQ(unreg(A, 5), 0);

	/* IEKEY: whatever key, and replace even without a registration; unregister not. */
	q.is_key_ignored = true;
	q.action = NVME_RESV_UNREGISTER;
	CHECK_EQ(resv_apply(&r, &q, &fx), NVME_SC_RESERVATION_CONFLICT);
	q.action = NVME_RESV_REPLACE;
	q.crkey = 77;
	q.other_key = 6;
	CHECK_EQ(resv_apply(&r, &q, &fx), 0);
	q.other_key = 7;
	CHECK_EQ(resv_apply(&r, &q, &fx), 0);
	CHECK_EQ(acquire(A, 7, 1), 0);
	q.action = NVME_RESV_UNREGISTER;
	CHECK_EQ(resv_apply(&r, &q, &fx), 0);
	CHECK_EQ(r.type, 0);
	CHECK_EQ(r.count, 1);
}

TEST(persistence_wants_a_place)
{
	struct resv_request q = { .opcode = NVME_IO_RESV_REGISTER,
				  .cptpl = NVME_RESV_CPTPL_PERSIST,
				  .other_key = 1,
				  .host = host(A) };

	r = (struct resv){};
	CHECK_EQ(resv_apply(&r, &q, &fx), NVME_SC_INVALID_FIELD);
	CHECK_EQ(r.count, 0);
	q.cptpl = 1; /* reserved */
	q.may_persist = true;
	CHECK_EQ(resv_apply(&r, &q, &fx), NVME_SC_INVALID_FIELD);
	q.cptpl = NVME_RESV_CPTPL_PERSIST;
	CHECK_EQ(resv_apply(&r, &q, &fx), 0);
	CHECK(r.is_persistent && fx.is_changed);
	q.cptpl = NVME_RESV_CPTPL_KEEP;
	CHECK_EQ(resv_apply(&r, &q, &fx), 0);
	CHECK(r.is_persistent && !fx.is_changed);
	q.cptpl = NVME_RESV_CPTPL_FORGET;
	q.other_key = 2; /* a conflict: nothing of it happens */
	CHECK_EQ(resv_apply(&r, &q, &fx), NVME_SC_RESERVATION_CONFLICT);
	CHECK(r.is_persistent);
	q.other_key = 1;
	CHECK_EQ(resv_apply(&r, &q, &fx), 0);
	CHECK(!r.is_persistent && fx.is_changed);
}

TEST(a_table_that_is_full_and_a_host_without_name)
{
	struct resv_request q = { .opcode = NVME_IO_RESV_REGISTER, .other_key = 1 };

	r = (struct resv){};
	CHECK_EQ(resv_apply(&r, &q, &fx), NVME_SC_INVALID_FIELD);
	for (unsigned i = 0; i < RESV_REGISTRANTS_MAX; i++)
		CHECK_EQ(reg(i, 3), 0);
	CHECK_EQ(reg(RESV_REGISTRANTS_MAX, 3), NVME_SC_INTERNAL_ERROR);
	CHECK(resv_is_valid(&r));
	/* The most notices there can be. */
	CHECK_EQ(acquire(0, 3, 5), 0);
	CHECK_EQ(preempt(0, 3, 0, 5), 0);
	CHECK_EQ(fx.count, RESV_REGISTRANTS_MAX - 1);
	CHECK_EQ(r.count, 1);
}

TEST(unregistering_ends_what_the_host_holds)
{
	for (uint8_t type = 1; type <= 6; type++) {
		TAP_ROW(resv_type_name(type));
		two_registered(type);
		CHECK_EQ(unreg(A, 1), 0);
		CHECK_EQ(r.type, type >= 5 ? type : 0);
		CHECK_EQ(told(B), type == 3 || type == 4 ? NVME_RESV_RELEASED : 0);
		CHECK_EQ(told(A), 0);
		CHECK_EQ(unreg(B, 2), 0);
		CHECK_EQ(r.type, 0); /* with the last registrant */
		CHECK_EQ(fx.count, 0);
		CHECK(resv_is_valid(&r));
	}
}

/* ---- Acquire and Release -------------------------------------------------------------------- */

TEST(acquire_needs_key_and_room)
{
	for (uint8_t type = 1; type <= 6; type++) {
		TAP_ROW(resv_type_name(type));
		two_registered(0);
		CHECK_EQ(acquire(C, 1, type), NVME_SC_RESERVATION_CONFLICT);
		CHECK_EQ(acquire(A, 2, type), NVME_SC_RESERVATION_CONFLICT);
		CHECK_EQ(acquire(A, 1, type), 0);
		CHECK_EQ(r.generation, 2);
		CHECK_EQ(acquire(A, 1, type), 0); /* what it has */
		CHECK_EQ(acquire(A, 1, type % 6 + 1), NVME_SC_RESERVATION_CONFLICT);
		CHECK_EQ(acquire(B, 2, type), type >= 5 ? 0 : NVME_SC_RESERVATION_CONFLICT);
	}
	CHECK_EQ(acquire(A, 1, 0), NVME_SC_INVALID_FIELD);
	CHECK_EQ(acquire(A, 1, 7), NVME_SC_INVALID_FIELD);
	CHECK_EQ(run(A, NVME_IO_RESV_ACQUIRE, 3, 1, 1, 0), NVME_SC_INVALID_FIELD);
}

TEST(existing_key_cannot_be_ignored)
{
	struct resv_request q = { .opcode = NVME_IO_RESV_ACQUIRE,
				  .type = 1,
				  .is_key_ignored = true,
				  .crkey = 1,
				  .host = host(A) };

	two_registered(0);
	CHECK_EQ(resv_apply(&r, &q, &fx), NVME_SC_INVALID_FIELD);
	q.opcode = NVME_IO_RESV_RELEASE;
	CHECK_EQ(resv_apply(&r, &q, &fx), NVME_SC_INVALID_FIELD);
}

TEST(release_ends_what_one_holds)
{
	for (uint8_t type = 1; type <= 6; type++) {
		TAP_ROW(resv_type_name(type));
		two_registered(type);
		CHECK_EQ(release(A, 1, type % 6 + 1), NVME_SC_INVALID_FIELD);
		CHECK_EQ(release(A, 9, type), NVME_SC_RESERVATION_CONFLICT);
		CHECK_EQ(release(C, 9, type), NVME_SC_RESERVATION_CONFLICT);
		if (type < 5) {
			CHECK_EQ(release(B, 2, type), 0); /* not the holder: nothing happens */
			CHECK_EQ(r.type, type);
			CHECK(!fx.is_changed);
		}
		CHECK_EQ(release(A, 1, type), 0);
		CHECK_EQ(r.type, 0);
		CHECK_EQ(told(B), type >= 3 ? NVME_RESV_RELEASED : 0);
		CHECK_EQ(r.count, 2);
		CHECK_EQ(release(A, 1, type), 0); /* nothing is held */
	}
}

TEST(clear_by_any_registrant)
{
	for (uint8_t type = 0; type <= 6; type++) {
		TAP_ROW(resv_type_name(type));
		two_registered(type);
		CHECK_EQ(run(C, NVME_IO_RESV_RELEASE, NVME_RESV_CLEAR, 0, 2, 0),
			 NVME_SC_RESERVATION_CONFLICT);
		CHECK_EQ(run(B, NVME_IO_RESV_RELEASE, NVME_RESV_CLEAR, 0, 1, 0),
			 NVME_SC_RESERVATION_CONFLICT);
		CHECK_EQ(run(B, NVME_IO_RESV_RELEASE, NVME_RESV_CLEAR, 0, 2, 0), 0);
		CHECK_EQ(told(A), NVME_RESV_PREEMPTED);
		CHECK_EQ(told(B), 0);
		CHECK_EQ(r.type + r.count, 0);
		CHECK_EQ(r.generation, 3);
	}
	CHECK_EQ(run(B, NVME_IO_RESV_RELEASE, 2, 0, 2, 0), NVME_SC_INVALID_FIELD);
}

/* ---- Preempt -------------------------------------------------------------------------------- */

TEST(preempt_the_holder)
{
	for (uint8_t type = 1; type <= 4; type++) {
		for (uint8_t new = 1; new <= 6; new ++) {
			TAP_ROW(resv_type_name(type));
			two_registered(type);
			CHECK_EQ(reg(C, 3), 0);
			CHECK_EQ(preempt(B, 2, 1, new), 0);
			CHECK_EQ(r.type, new);
			CHECK(holds(B) && !holds(A));
			CHECK_EQ(r.count, 2);
			CHECK_EQ(told(A), NVME_RESV_REGISTRATION_PREEMPTED);
			CHECK_EQ(told(C), new != type ? NVME_RESV_RELEASED : 0);
			CHECK_EQ(told(B), 0);
			CHECK_EQ(r.generation, 4);
			CHECK(!fx.is_abort && resv_is_valid(&r));
		}
	}
}

TEST(preempt_another_registrant)
{
	two_registered(1);
	CHECK_EQ(reg(C, 3), 0);
	CHECK_EQ(preempt(B, 2, 3, 6), 0);
	CHECK_EQ(r.type, 1);
	CHECK(holds(A));
	CHECK_EQ(told(C), NVME_RESV_REGISTRATION_PREEMPTED);
	CHECK_EQ(told(A), 0);
	CHECK_EQ(preempt(B, 2, 3, 6), NVME_SC_RESERVATION_CONFLICT); /* nobody has it */
	CHECK_EQ(preempt(B, 2, 0, 6), NVME_SC_INVALID_FIELD);
	CHECK_EQ(preempt(B, 9, 1, 6), NVME_SC_RESERVATION_CONFLICT);
	CHECK_EQ(preempt(C, 3, 1, 6), NVME_SC_RESERVATION_CONFLICT);
	CHECK_EQ(preempt(B, 2, 1, 0), NVME_SC_INVALID_FIELD);
	CHECK_EQ(preempt(B, 2, 2, 6), 0); /* itself: a registration like any other */
	CHECK_EQ(r.count, 1);
	CHECK(holds(A));
}

TEST(preempt_without_a_reservation)
{
	two_registered(0);
	CHECK_EQ(preempt(A, 1, 9, 1), NVME_SC_RESERVATION_CONFLICT);
	CHECK_EQ(preempt(A, 1, 0, 1), NVME_SC_RESERVATION_CONFLICT);
	CHECK_EQ(preempt(A, 1, 2, 1), 0);
	CHECK_EQ(r.type, 0); /* registrations only */
	CHECK_EQ(r.count, 1);
	CHECK_EQ(told(B), NVME_RESV_REGISTRATION_PREEMPTED);
}

TEST(preempt_oneself_changes_the_type)
{
	two_registered(1);
	CHECK_EQ(reg(C, 1), 0); /* shares the holder's key */
	CHECK_EQ(preempt(A, 1, 1, 4), 0);
	CHECK_EQ(r.type, 4);
	CHECK(holds(A));
	CHECK_EQ(r.count, 2);
	CHECK_EQ(told(B), NVME_RESV_RELEASED);
	CHECK_EQ(told(C), NVME_RESV_REGISTRATION_PREEMPTED);
}

TEST(preempt_all_registrants)
{
	for (uint8_t type = 5; type <= 6; type++) {
		TAP_ROW(resv_type_name(type));
		two_registered(type);
		CHECK_EQ(reg(C, 3), 0);
		CHECK_EQ(preempt(B, 2, 1, 1), 0); /* a key: only that registration */
		CHECK_EQ(r.type, type);
		CHECK_EQ(told(A), NVME_RESV_REGISTRATION_PREEMPTED);
		CHECK_EQ(preempt(B, 2, 9, 1), NVME_SC_RESERVATION_CONFLICT);
		CHECK_EQ(run(B, NVME_IO_RESV_ACQUIRE, NVME_RESV_PREEMPT_AND_ABORT, 1, 2, 0), 0);
		CHECK_EQ(r.type, 1);
		CHECK(holds(B) && fx.is_abort);
		CHECK_EQ(told(C), NVME_RESV_REGISTRATION_PREEMPTED);
		CHECK_EQ(r.count, 1);
		two_registered(type); /* the last one preempts itself */
		CHECK_EQ(unreg(A, 1), 0);
		CHECK_EQ(preempt(B, 2, 2, 1), 0);
		CHECK_EQ(r.type + r.count, 0);
		CHECK(resv_is_valid(&r));
	}
}

/* ---- states that come from outside ---------------------------------------------------------- */

TEST(invalid_states_are_seen)
{
	struct resv good;

	two_registered(1);
	good = r;
	CHECK(resv_is_valid(&good));
	r.type = 7;
	CHECK(!resv_is_valid(&r));
	r = good;
	r.holder = host(C);
	CHECK(!resv_is_valid(&r));
	r = good;
	r.type = 5; /* with one holder */
	CHECK(!resv_is_valid(&r));
	r = good;
	r.type = 0;
	CHECK(!resv_is_valid(&r));
	r = good;
	r.registrant[1].key = 0;
	CHECK(!resv_is_valid(&r));
	r = good;
	r.registrant[1].host = host(A);
	CHECK(!resv_is_valid(&r));
	r = good;
	r.count = RESV_REGISTRANTS_MAX + 1;
	CHECK(!resv_is_valid(&r));
	r = (struct resv){ .type = 6 };
	CHECK(!resv_is_valid(&r));
}

/* ---- the model ------------------------------------------------------------------------------ */

/* key[h] 0: not registered. holder is a bit per host. */
static struct model {
	uint64_t key[HOSTS];
	unsigned type, holders, told[HOSTS];
	uint32_t generation;
} m;

static void model_drop(unsigned h, unsigned why)
{
	m.key[h] = 0;
	m.holders &= ~(1u << h);
	m.told[h] = why;
	if (m.holders == 0)
		m.type = 0;
}

static void model_tell(unsigned who)
{
	for (unsigned h = 0; h < HOSTS; h++) {
		if (h != who && m.key[h] != 0)
			m.told[h] = NVME_RESV_RELEASED;
	}
}

static void model_hold(unsigned who, unsigned type)
{
	m.type = type;
	m.holders = 0;
	for (unsigned h = 0; h < HOSTS; h++) {
		if (h == who || (type >= 5 && m.key[h] != 0))
			m.holders |= 1u << h;
	}
}

static unsigned model_register(unsigned who, const struct resv_request *q)
{
	bool fits = q->is_key_ignored || m.key[who] == q->crkey;
	unsigned before = m.type;

	if (q->action > 2)
		return NVME_SC_INVALID_FIELD;
	if (q->action == 0 && m.key[who] != 0)
		return m.key[who] == q->other_key ? 0 : NVME_SC_RESERVATION_CONFLICT;
	if (q->action != 0 && m.key[who] == 0 && !(q->action == 2 && q->is_key_ignored))
		return NVME_SC_RESERVATION_CONFLICT;
	if (q->action != 0 && !fits)
		return NVME_SC_RESERVATION_CONFLICT;
	if (q->action == 1) {
		model_drop(who, 0);
		if (m.type == 0 && (before == 3 || before == 4))
			model_tell(who);
		return 0;
	}
	if (q->other_key == 0)
		return NVME_SC_INVALID_FIELD;
	m.key[who] = q->other_key;
	if (m.type >= 5)
		m.holders |= 1u << who;
	return 0;
}

static unsigned model_preempt(unsigned who, const struct resv_request *q)
{
	bool is_holders_key = false, is_takeover;
	unsigned before = m.type, hits = 0;

	for (unsigned h = 0; h < HOSTS; h++)
		is_holders_key |= (m.holders >> h & 1) && m.key[h] == q->other_key;
	is_takeover = before >= 5 ? q->other_key == 0 : before != 0 && is_holders_key;
	if (before != 0 && !is_takeover && q->other_key == 0)
		return NVME_SC_INVALID_FIELD;
	for (unsigned h = 0; h < HOSTS; h++) {
		if (m.key[h] == 0 || (is_takeover && h == who) ||
		    (m.key[h] != q->other_key && !(is_takeover && before >= 5)))
			continue;
		hits++;
		model_drop(h, h == who ? 0 : NVME_RESV_REGISTRATION_PREEMPTED);
	}
	if (!is_takeover)
		return hits > 0 ? 0 : NVME_SC_RESERVATION_CONFLICT;
	model_hold(who, q->type);
	if (before != q->type)
		model_tell(who);
	return 0;
}

static unsigned model_acquire(unsigned who, const struct resv_request *q)
{
	if (q->is_key_ignored || q->type < 1 || q->type > 6 || q->action > 2)
		return NVME_SC_INVALID_FIELD;
	if (m.key[who] == 0 || m.key[who] != q->crkey)
		return NVME_SC_RESERVATION_CONFLICT;
	if (q->action != 0)
		return model_preempt(who, q);
	if (m.type == 0)
		model_hold(who, q->type);
	return m.type == q->type && (m.holders >> who & 1) ? 0 : NVME_SC_RESERVATION_CONFLICT;
}

static unsigned model_release(unsigned who, const struct resv_request *q)
{
	if (q->is_key_ignored || q->action > 1)
		return NVME_SC_INVALID_FIELD;
	if (m.key[who] == 0 || m.key[who] != q->crkey)
		return NVME_SC_RESERVATION_CONFLICT;
	if (q->action == 1) {
		for (unsigned h = 0; h < HOSTS; h++) {
			if (m.key[h] != 0)
				model_drop(h, h == who ? 0 : NVME_RESV_PREEMPTED);
		}
		return 0;
	}
	if (m.type != 0 && m.type != q->type)
		return NVME_SC_INVALID_FIELD;
	if (m.type != 0 && (m.holders >> who & 1)) {
		m.holders = m.type = 0;
		if (q->type > 2)
			model_tell(who);
	}
	return 0;
}

static unsigned model_denied(unsigned h)
{
	static const char outsider[] = "-r.r.r."; /* by type: may read, may nothing */

	if (m.type == 0 || (m.holders >> h & 1) || (m.key[h] != 0 && m.type > 2))
		return 0;
	return RESV_DENY_WRITE | (outsider[m.type] == 'r' ? 0 : RESV_DENY_READ);
}

static void model_compare(void)
{
	unsigned registered = 0;

	CHECK_EQ(r.type, m.type);
	CHECK_EQ(r.generation, m.generation);
	for (unsigned h = 0; h < HOSTS; h++) {
		registered += m.key[h] != 0;
		CHECK_EQ(denied(h), model_denied(h));
		CHECK_EQ(holds(h), m.holders >> h & 1);
		CHECK_EQ(told(h), m.told[h]);
	}
	CHECK_EQ(r.count, registered);
	CHECK(resv_is_valid(&r));
}

/* Of all hosts there may be, one more than ever registers. */
static bool rights_differ_from(const struct resv *before)
{
	bool differ = false;

	for (unsigned who = 0; who <= HOSTS; who++) {
		struct resv_host h = host(who);

		differ |= resv_denied(before, &h) != resv_denied(&r, &h);
	}
	return differ;
}

static uint64_t some_key(struct rng *rng, unsigned who)
{
	return rng_chance(rng, 3, 4) ? m.key[who] : rng_below(rng, 4);
}

/* Half of a random command line fits nothing: both halves are worth judging. */
TEST(random_commands_agree_with_the_model)
{
	enum { ROUNDS = 200, STEPS = 300, SEED = 20261125 };
	static const uint8_t opcodes[] = { NVME_IO_RESV_REGISTER, NVME_IO_RESV_ACQUIRE,
					   NVME_IO_RESV_RELEASE };
	unsigned succeeded = 0, refused = 0;
	struct rng rng;

	rng_init(&rng, SEED);
	for (unsigned step = 0; step < ROUNDS * STEPS && tap_.failed == 0; step++) {
		unsigned who = (unsigned)rng_below(&rng, HOSTS), status;
		struct resv before;
		struct resv_request q = {
			.opcode = opcodes[rng_below(&rng, 3)],
			.action = (uint8_t)rng_below(&rng, rng_chance(&rng, 1, 50) ? 8 : 3),
			.type = (uint8_t)rng_below(&rng, 8),
			.is_key_ignored = rng_chance(&rng, 1, 10),
			.crkey = some_key(&rng, who),
			.other_key = some_key(&rng, (unsigned)rng_below(&rng, HOSTS)),
			.host = host(who),
		};

		if (step % STEPS == 0) {
			r = (struct resv){};
			m = (struct model){};
		}
		if (q.action == NVME_RESV_CLEAR && rng_chance(&rng, 3, 4))
			q.action = 0; /* or nothing ever lasts */
		before = r;
		memset(m.told, 0, sizeof(m.told));
		status = q.opcode == NVME_IO_RESV_REGISTER  ? model_register(who, &q)
			 : q.opcode == NVME_IO_RESV_ACQUIRE ? model_acquire(who, &q)
							    : model_release(who, &q);
		if (status == 0 && (q.opcode == NVME_IO_RESV_REGISTER || q.action != 0))
			m.generation++;
		CHECK_EQ(resv_apply(&r, &q, &fx), status);
		model_compare();
		CHECK_EQ(resv_rights_differ(&before, &r), rights_differ_from(&before));
		if (status != 0)
			CHECK(memcmp(&before, &r, sizeof(r)) == 0 && fx.count == 0);
		succeeded += status == 0;
		refused += status != 0;
	}
	CHECK(succeeded > ROUNDS * STEPS / 10);
	CHECK(refused > ROUNDS * STEPS / 10);
}

TAP_MAIN()
