// SPDX-License-Identifier: Apache-2.0
/*
 * The rules of reservations, as pure code over a table of registrants (Base 2.0, 7.2 to 7.5 and
 * 8.19). What surrounds them - commands, persistence, quiescing, events - is in resv_ns.c.
 *
 * Who may do what (8.19, figure "Command Behavior in the Presence of a Reservation"). R: read,
 * compare, verify. W: write, write zeroes, dataset management, flush. Who holds may do everything.
 *
 *   type                               outsider   registrant   who holds        release is told
 *   1 write exclusive                  R -        R -          one              no
 *   2 exclusive access                 - -        - -          one              no
 *   3 write exclusive, registrants     R -        R W          one              yes
 *   4 exclusive access, registrants    - -        R W          one              yes
 *   5 write exclusive, all             R -        (holds)      all registrants  yes
 *   6 exclusive access, all            - -        (holds)      all registrants  yes
 *
 * Register. Key 0 is no key: it stands for "all" in Preempt, so nobody may register it.
 *
 *   action      not registered            registered, key fits    key differs
 *   register    add (CRKEY is not looked at)  nothing to do         conflict
 *   unregister  conflict                  remove                  conflict; IEKEY: remove
 *   replace     conflict; IEKEY: add      new key                 conflict; IEKEY: new key
 *
 *   A reservation goes with the registration of its holder, and with the last one where all hold.
 *
 * Acquire and Release want a registered host and its key, or it is a conflict; IEKEY is refused
 * (since 1.3).
 *
 *   acquire     nobody holds: take it. I hold this type: nothing to do. Else conflict.
 *   release     nobody holds: nothing to do. Another type: Invalid Field. I do not hold: nothing
 *               to do. Else it ends.
 *   clear       it ends, everybody is unregistered.
 *
 * Preempt looks at what is held and at PRKEY:
 *
 *   held                 PRKEY             what happens
 *   nothing              a key             those with the key go, also I; none: conflict
 *   type 1 to 4          the holder's      others with the key go, I hold with the new type
 *   type 1 to 4          another           those with the key go, also I; none: conflict
 *   type 1 to 4          0                 Invalid Field
 *   type 5, 6            0                 all others go, I hold with the new type
 *   type 5, 6            a key             those with the key go, also I; none: conflict
 *
 *   The holder may name its own key: that changes the type and nothing else.
 *
 * Who is told (never the host that did it): a host whose registration went by Preempt,
 * "registration preempted"; by Clear, "reservation preempted"; a registrant that stays,
 * "reservation released" when one of type 3 to 6 was released, one of type 3 or 4 went with its
 * holder's unregistration, or Preempt changed the type.
 *
 * The generation counts successful registers, clears and preempts, also those without effect.
 *
 * Invariants: resv_is_valid(). One notice at most per host and command, so notices fit.
 *
 * Thread: none; pure functions.
 *
 * Rejected: a list of allocated registrants (a bounded table is copied by assignment, so a command
 * is tried on a copy and taken over when it is on disk).
 */
#include "target/resv.h"

#include "base/base.h"

static const struct kind {
	const char *name;
	uint8_t outsider, registrant; /* RESV_DENY_* */
	bool is_held_by_all;
	bool is_release_told;
} kinds[] = {
	[NVME_RESV_NONE] = { "none", 0, 0, false, false },
	[NVME_RESV_WRITE_EXCLUSIVE] = { "write exclusive", RESV_DENY_WRITE, RESV_DENY_WRITE, false,
					false },
	[NVME_RESV_EXCLUSIVE_ACCESS] = { "exclusive access", RESV_DENY_READ | RESV_DENY_WRITE,
					 RESV_DENY_READ | RESV_DENY_WRITE, false, false },
	[NVME_RESV_WRITE_EXCLUSIVE_REGISTRANTS] = { "write exclusive, registrants only",
						    RESV_DENY_WRITE, 0, false, true },
	[NVME_RESV_EXCLUSIVE_ACCESS_REGISTRANTS] = { "exclusive access, registrants only",
						     RESV_DENY_READ | RESV_DENY_WRITE, 0, false,
						     true },
	[NVME_RESV_WRITE_EXCLUSIVE_ALL] = { "write exclusive, all registrants", RESV_DENY_WRITE, 0,
					    true, true },
	[NVME_RESV_EXCLUSIVE_ACCESS_ALL] = { "exclusive access, all registrants",
					     RESV_DENY_READ | RESV_DENY_WRITE, 0, true, true },
};

static const struct resv_host nobody;

/* ---- looking -------------------------------------------------------------------------------- */

static const struct resv_registrant *find(const struct resv *r, const struct resv_host *host)
{
	for (unsigned i = 0; i < r->count; i++) {
		if (resv_host_equal(&r->registrant[i].host, host))
			return &r->registrant[i];
	}
	return NULL;
}

bool resv_is_holder(const struct resv *r, const struct resv_host *host)
{
	if (r->type == NVME_RESV_NONE)
		return false;
	if (kinds[r->type].is_held_by_all)
		return find(r, host) != NULL;
	return resv_host_equal(&r->holder, host);
}

unsigned resv_denied(const struct resv *r, const struct resv_host *host)
{
	if (r->type == NVME_RESV_NONE || resv_is_holder(r, host))
		return 0;
	return find(r, host) != NULL ? kinds[r->type].registrant : kinds[r->type].outsider;
}

static bool registrants_differ(const struct resv *of, const struct resv *a, const struct resv *b)
{
	for (unsigned i = 0; i < of->count; i++) {
		const struct resv_host *host = &of->registrant[i].host;

		if (resv_denied(a, host) != resv_denied(b, host))
			return true;
	}
	return false;
}

bool resv_rights_differ(const struct resv *a, const struct resv *b)
{
	return resv_denied(a, &nobody) != resv_denied(b, &nobody) || /* all outsiders */
	       registrants_differ(a, a, b) || registrants_differ(b, a, b);
}

bool resv_is_valid(const struct resv *r)
{
	bool has_one_holder;

	if (r->type >= ARRAY_LEN(kinds) || r->count > RESV_REGISTRANTS_MAX)
		return false;
	for (unsigned i = 0; i < r->count; i++) {
		const struct resv_registrant *reg = &r->registrant[i];

		if (reg->key == 0 || resv_host_equal(&reg->host, &nobody) ||
		    find(r, &reg->host) != reg)
			return false;
	}
	has_one_holder = r->type != NVME_RESV_NONE && !kinds[r->type].is_held_by_all;
	if (!has_one_holder)
		return resv_host_equal(&r->holder, &nobody) &&
		       (r->type == NVME_RESV_NONE || r->count > 0);
	return find(r, &r->holder) != NULL;
}

const char *resv_type_name(unsigned type)
{
	return type < ARRAY_LEN(kinds) ? kinds[type].name : NULL;
}

/* ---- changing ------------------------------------------------------------------------------- */

static void take_over(struct resv *r, const struct resv_request *q)
{
	r->type = q->type;
	r->holder = kinds[q->type].is_held_by_all ? nobody : q->host;
}

static void end(struct resv *r)
{
	r->type = NVME_RESV_NONE;
	r->holder = nobody;
}

static void tell(struct resv_effects *fx, const struct resv_host *host, uint8_t type)
{
	fx->notice[fx->count++] = (struct resv_notice){ .host = *host, .type = type };
}

static void tell_others(const struct resv *r, const struct resv_request *q, struct resv_effects *fx,
			uint8_t type)
{
	for (unsigned i = 0; i < r->count; i++) {
		if (!resv_host_equal(&r->registrant[i].host, &q->host))
			tell(fx, &r->registrant[i].host, type);
	}
}

static void unregister(struct resv *r, unsigned index)
{
	struct resv_registrant *reg = &r->registrant[index];
	bool was_holder = resv_is_holder(r, &reg->host);

	r->count--;
	memmove(reg, reg + 1, (r->count - index) * sizeof(*reg));
	memset(&r->registrant[r->count], 0, sizeof(*reg));
	if (was_holder && (r->count == 0 || !kinds[r->type].is_held_by_all))
		end(r);
}

/* Unregister who has PRKEY (@is_any: whatever key), but not the host itself when @spares_me. */
static unsigned preempt_registrations(struct resv *r, const struct resv_request *q,
				      struct resv_effects *fx, bool is_any, bool spares_me)
{
	unsigned gone = 0;

	for (unsigned i = r->count; i-- > 0;) {
		const struct resv_registrant *reg = &r->registrant[i];
		bool is_me = resv_host_equal(&reg->host, &q->host);

		if ((!is_any && reg->key != q->other_key) || (is_me && spares_me))
			continue;
		if (!is_me)
			tell(fx, &reg->host, NVME_RESV_REGISTRATION_PREEMPTED);
		unregister(r, i);
		gone++;
	}
	return gone;
}

/* ---- Register ------------------------------------------------------------------------------- */

static uint16_t add(struct resv *r, const struct resv_request *q, struct resv_effects *fx)
{
	if (q->other_key == 0)
		return NVME_SC_INVALID_FIELD;
	if (r->count == RESV_REGISTRANTS_MAX)
		return NVME_SC_INTERNAL_ERROR;
	r->registrant[r->count++] = (struct resv_registrant){ .host = q->host,
							      .key = q->other_key };
	fx->is_changed = true;
	return 0;
}

static uint16_t do_register(struct resv *r, const struct resv_request *q,
			    const struct resv_registrant *me, struct resv_effects *fx)
{
	if (me == NULL)
		return add(r, q, fx);
	return me->key == q->other_key ? 0 : NVME_SC_RESERVATION_CONFLICT;
}

static uint16_t do_unregister(struct resv *r, const struct resv_request *q,
			      const struct resv_registrant *me, struct resv_effects *fx)
{
	unsigned type = r->type;

	if (me == NULL || (!q->is_key_ignored && me->key != q->crkey))
		return NVME_SC_RESERVATION_CONFLICT;
	unregister(r, (unsigned)(me - r->registrant));
	if (r->type != type && kinds[type].is_release_told)
		tell_others(r, q, fx, NVME_RESV_RELEASED);
	fx->is_changed = true;
	return 0;
}

static uint16_t do_replace(struct resv *r, const struct resv_request *q,
			   const struct resv_registrant *me, struct resv_effects *fx)
{
	if (me == NULL)
		return q->is_key_ignored ? add(r, q, fx) : NVME_SC_RESERVATION_CONFLICT;
	if (!q->is_key_ignored && me->key != q->crkey)
		return NVME_SC_RESERVATION_CONFLICT;
	if (q->other_key == 0)
		return NVME_SC_INVALID_FIELD;
	fx->is_changed = me->key != q->other_key;
	r->registrant[me - r->registrant].key = q->other_key;
	return 0;
}

static uint16_t apply_register(struct resv *r, const struct resv_request *q,
			       const struct resv_registrant *me, struct resv_effects *fx)
{
	uint16_t status = NVME_SC_INVALID_FIELD;
	bool persists = q->cptpl == NVME_RESV_CPTPL_PERSIST;

	if (q->cptpl != NVME_RESV_CPTPL_KEEP && q->cptpl != NVME_RESV_CPTPL_FORGET &&
	    !(persists && q->may_persist))
		return NVME_SC_INVALID_FIELD;
	if (q->action == NVME_RESV_REGISTER)
		status = do_register(r, q, me, fx);
	else if (q->action == NVME_RESV_UNREGISTER)
		status = do_unregister(r, q, me, fx);
	else if (q->action == NVME_RESV_REPLACE)
		status = do_replace(r, q, me, fx);
	if (status != 0)
		return status;
	if (q->cptpl != NVME_RESV_CPTPL_KEEP && r->is_persistent != persists) {
		r->is_persistent = persists;
		fx->is_changed = true;
	}
	r->generation++;
	return 0;
}

/* ---- Acquire -------------------------------------------------------------------------------- */

static uint16_t do_acquire(struct resv *r, const struct resv_request *q, struct resv_effects *fx)
{
	if (r->type != NVME_RESV_NONE)
		return r->type == q->type && resv_is_holder(r, &q->host)
			       ? 0
			       : NVME_SC_RESERVATION_CONFLICT;
	take_over(r, q);
	fx->is_changed = true;
	return 0;
}

static uint16_t do_preempt(struct resv *r, const struct resv_request *q, struct resv_effects *fx)
{
	unsigned type = r->type;
	bool is_all = kinds[type].is_held_by_all, is_taken;

	if (type == NVME_RESV_NONE)
		is_taken = false;
	else if (is_all)
		is_taken = q->other_key == 0;
	else
		is_taken = find(r, &r->holder)->key == q->other_key;
	if (is_taken) {
		(void)preempt_registrations(r, q, fx, is_all, true);
		take_over(r, q);
		if (q->type != type)
			tell_others(r, q, fx, NVME_RESV_RELEASED);
	} else if (q->other_key == 0 && type != NVME_RESV_NONE) {
		return NVME_SC_INVALID_FIELD;
	} else if (preempt_registrations(r, q, fx, false, false) == 0) {
		return NVME_SC_RESERVATION_CONFLICT;
	}
	fx->is_changed = true;
	fx->is_abort = q->action == NVME_RESV_PREEMPT_AND_ABORT;
	r->generation++;
	return 0;
}

static uint16_t apply_acquire(struct resv *r, const struct resv_request *q,
			      const struct resv_registrant *me, struct resv_effects *fx)
{
	if (q->is_key_ignored || q->type == NVME_RESV_NONE || q->type >= ARRAY_LEN(kinds) ||
	    q->action > NVME_RESV_PREEMPT_AND_ABORT)
		return NVME_SC_INVALID_FIELD;
	if (me == NULL || me->key != q->crkey)
		return NVME_SC_RESERVATION_CONFLICT;
	if (q->action == NVME_RESV_ACQUIRE)
		return do_acquire(r, q, fx);
	return do_preempt(r, q, fx);
}

/* ---- Release -------------------------------------------------------------------------------- */

static uint16_t do_release(struct resv *r, const struct resv_request *q, struct resv_effects *fx)
{
	if (r->type == NVME_RESV_NONE)
		return 0;
	if (r->type != q->type)
		return NVME_SC_INVALID_FIELD;
	if (!resv_is_holder(r, &q->host))
		return 0;
	if (kinds[r->type].is_release_told)
		tell_others(r, q, fx, NVME_RESV_RELEASED);
	end(r);
	fx->is_changed = true;
	return 0;
}

static void do_clear(struct resv *r, const struct resv_request *q, struct resv_effects *fx)
{
	tell_others(r, q, fx, NVME_RESV_PREEMPTED);
	end(r);
	memset(r->registrant, 0, sizeof(r->registrant));
	r->count = 0;
	r->generation++;
	fx->is_changed = true;
}

static uint16_t apply_release(struct resv *r, const struct resv_request *q,
			      const struct resv_registrant *me, struct resv_effects *fx)
{
	if (q->is_key_ignored || q->action > NVME_RESV_CLEAR)
		return NVME_SC_INVALID_FIELD;
	if (me == NULL || me->key != q->crkey)
		return NVME_SC_RESERVATION_CONFLICT;
	if (q->action == NVME_RESV_RELEASE)
		return do_release(r, q, fx);
	do_clear(r, q, fx);
	return 0;
}

uint16_t resv_apply(struct resv *r, const struct resv_request *q, struct resv_effects *ret)
{
	const struct resv_registrant *me = find(r, &q->host);

	ret->is_changed = ret->is_abort = false;
	ret->count = 0;
	if (resv_host_equal(&q->host, &nobody))
		return NVME_SC_INVALID_FIELD; /* a host that has no identity cannot be told apart */
	switch (q->opcode) {
	case NVME_IO_RESV_REGISTER:
		return apply_register(r, q, me, ret);
	case NVME_IO_RESV_ACQUIRE:
		return apply_acquire(r, q, me, ret);
	case NVME_IO_RESV_RELEASE:
		return apply_release(r, q, me, ret);
	default:
		return NVME_SC_INVALID_OPCODE;
	}
}
