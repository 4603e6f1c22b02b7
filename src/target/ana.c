// SPDX-License-Identifier: Apache-2.0
/*
 * Asymmetric namespace access: what a path is good for, per listener and group of namespaces.
 *
 *   optimized <--> non-optimized <--> inaccessible, persistent loss, change
 *        I/O is served                    I/O ends with a path related status: hosts go elsewhere
 *
 * A device that ends (device_end()) without being removed takes its namespace out of its group into
 * one more, which is inaccessible for ever: the data may be served by another engine, so hosts are
 * sent there, and a host without another path waits for as long as it likes. Commands that the
 * device still had end with the same status (IO_ENDED). Without ANA no host would understand; when
 * the last namespace of such a subsystem has ended its controllers end, too, and whoever connects
 * is told to come again: that every host understands. A device that is removed is another matter:
 * the namespace goes, and hosts get Invalid Namespace (subsystem.c).
 *
 * Each namespace is in one of TARGET_ANA_GROUPS_MAX groups, at first in group 1. A controller
 * belongs to the listener its admin queue came over, and so do its I/O queues, wherever they came
 * in; what it sees is that listener's row of the table.
 *
 *   primary reactor                          every reactor
 *   ana.state[listener][group]  --pause,-->  subsys_core.ana[listener] --> conn.ana_blocked
 *   ana.count[listener][group]    swap,
 *                                 resume
 *
 * The data path tests one word of its connection against one bit of the namespace, both of which it
 * has in its hands anyway. Everything else happens on the way out with an error.
 *
 * A change takes hold at once: new commands meet the new state, what is held or waits for its data
 * is judged again (the generation of the table is raised), and when every reactor knows it hosts
 * are told by an event. Then what was with devices is waited for, so nothing is under way on a
 * path that was closed when the call returns. That may take as long as a device hangs, which may be
 * why the path is closed: its hosts were sent elsewhere before. Others of the subsystem wait.
 *
 * Invariants
 *   1. ss->ana is NULL, and nothing of this shows on the wire, unless the subsystem was made with
 *      has_ana.
 *   2. The table has a row for each possible listener from the start, so a listener that comes
 *      later finds its states there.
 *   3. Change counts never go down, and rise with whatever a host can see in its page.
 *
 * Thread: the primary reactor, in tasks where it says so; sc_* and ana_io_status() on the reactor.
 *
 * Rejected: waiting for devices before the change (hosts would wait for the path that is to be
 * taken from them); a table NSID -> handle per listener (256 pointers each, to save one AND);
 * leaving empty groups in the log page (Base 5.16.1.13 wants those with namespaces of this
 * controller).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "target/internal.h"

enum {
	TRANSITION_S = 10, /* ANATT: how long "change" may last before hosts take action */
};

struct ana {
	uint8_t state[TARGET_LISTENERS_MAX][ANA_GROUP_ENDED]; /* by group - 1 */
	uint64_t count[TARGET_LISTENERS_MAX][ANA_GROUP_ENDED];
	uint64_t page_count[TARGET_LISTENERS_MAX];
};

/* ---- names ---------------------------------------------------------------------------------- */

static const struct {
	enum ana_state state;
	const char *name;
} names[] = {
	{ ANA_OPTIMIZED, "optimized" },
	{ ANA_NON_OPTIMIZED, "non-optimized" },
	{ ANA_INACCESSIBLE, "inaccessible" },
	{ ANA_PERSISTENT_LOSS, "persistent-loss" },
	{ ANA_CHANGE, "change" },
};

const char *ana_state_name(enum ana_state state)
{
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		if (names[i].state == state)
			return names[i].name;
	}
	return "?";
}

int ana_state_parse(const char *text, enum ana_state *ret_state, struct err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		if (strcmp(names[i].name, text) != 0)
			continue;
		*ret_state = names[i].state;
		return 0;
	}
	return err_set(err, -EINVAL,
		       "'%s' is no state of a path: optimized, non-optimized, inaccessible, "
		       "persistent-loss or change",
		       text);
}

/* ---- the tables of the reactors ------------------------------------------------------------- */

static bool is_served(enum ana_state state)
{
	return state == ANA_OPTIMIZED || state == ANA_NON_OPTIMIZED;
}

static struct ana_masks masks_of(const struct ana *ana, unsigned listener)
{
	struct ana_masks masks = { .blocked = ana_bit_of(ANA_GROUP_ENDED) };

	for (unsigned i = 0; ana != NULL && i < TARGET_ANA_GROUPS_MAX; i++) {
		uint8_t state = ana->state[listener][i];
		uint64_t bit = 1ull << i;

		if (is_served(state))
			continue;
		masks.blocked |= bit;
		masks.lost |= state == ANA_PERSISTENT_LOSS ? bit : 0;
		masks.changing |= state == ANA_CHANGE ? bit : 0;
	}
	return masks;
}

struct ana_swap {
	struct subsys_core *sc;
	const struct ana_masks *masks; /* of every listener; NULL: they stay */
	struct ns *ns;                 /* moves to its group; NULL: none does */
};

static void sc_swap_ana(void *arg)
{
	const struct ana_swap *swap = arg;
	struct subsys_core *sc = swap->sc;
	struct core *core = &sc->subsystem->target->cores[sc->reactor->id];
	struct conn *conn;

	sc->ns_generation++; /* what is held or under way is judged again */
	if (swap->ns != NULL)
		swap->ns->cores[sc->reactor->id].ana_bit = ana_bit_of(swap->ns->ana_group);
	if (swap->masks == NULL)
		return;
	memcpy(sc->ana, swap->masks, sizeof(sc->ana));
	list_for_each (conn, &core->conns, link) {
		if (conn->sc == sc)
			conn->ana_blocked = sc->ana[conn->listener].blocked;
	}
}

static void swap_all(struct subsystem *ss, const struct ana_masks *masks, struct ns *ns)
{
	for (unsigned i = 0; i < reactor_count(); i++) {
		struct ana_swap swap = { &ss->cores[i], masks, ns };

		task_call(ss->cores[i].reactor, sc_swap_ana, &swap);
	}
}

uint16_t ana_io_status(const struct cmd *cmd)
{
	const struct ana_masks *masks = &cmd->conn->sc->ana[cmd->conn->listener];
	uint64_t bit = cmd->ns->ana_bit;

	/* Without Do Not Retry: hosts shall, on another path (Base 8.1.3). */
	if (masks->lost & bit)
		return NVME_SC_ANA_PERSISTENT_LOSS;
	return masks->changing & bit ? NVME_SC_ANA_TRANSITION : NVME_SC_ANA_INACCESSIBLE;
}

/* ---- changes -------------------------------------------------------------------------------- */

static int ana_check(const struct subsystem *ss, uint32_t group, struct err *err)
{
	if (ss->ana == NULL)
		return err_set(err, -EOPNOTSUPP,
			       "subsystem '%s' was made without asymmetric access (ANA), so its "
			       "hosts do not look at states",
			       ss->nqn);
	if (group > TARGET_ANA_GROUPS_MAX)
		return err_set(err, -EINVAL, "group %u: the largest number is %d", group,
			       TARGET_ANA_GROUPS_MAX);
	return 0;
}

/* Set what differs; returns the listeners whose hosts see something else now. */
static uint32_t states_set(struct ana *ana, int listener, uint32_t group, enum ana_state state)
{
	uint32_t changed = 0;

	for (unsigned l = 0; l < TARGET_LISTENERS_MAX; l++) {
		for (unsigned g = 0; g < TARGET_ANA_GROUPS_MAX; g++) {
			if ((listener != TARGET_LISTENER_ALL && l != (unsigned)listener) ||
			    (group != 0 && g != group - 1) || ana->state[l][g] == state)
				continue;
			ana->state[l][g] = (uint8_t)state;
			ana->count[l][g]++;
			changed |= 1u << l;
		}
		ana->page_count[l] += changed >> l & 1;
	}
	return changed;
}

static void announce(struct subsystem *ss, uint32_t listeners)
{
	struct ctrlr *ctrlr;

	list_for_each (ctrlr, &ss->ctrlrs, link) {
		if (listeners >> ctrlr->listener & 1)
			ctrlr_ana_changed(ctrlr);
	}
}

/* Wait for what is with devices now; hosts see the change already. */
static int drain(struct subsystem *ss, uint32_t group, struct err *err) MAY_SUSPEND;
static int drain(struct subsystem *ss, uint32_t group, struct err *err)
{
	int result = subsystem_drain(ss, group == 0 ? 0 : ana_bit_of(group), err);

	if (result == -ETIMEDOUT)
		(void)err_hint(err, "the change is made, but what a device held before it may "
				    "still be carried out");
	return result;
}

int subsystem_set_ana(struct subsystem *ss, int listener, uint32_t group, enum ana_state state,
		      struct err *err)
{
	struct ana_masks masks[TARGET_LISTENERS_MAX];
	int result = ana_check(ss, group, err);
	const char *where = "all";
	char groups[16] = "all";
	uint32_t changed;

	if (result < 0)
		return result;
	if (group != 0)
		(void)snprintf(groups, sizeof(groups), "%u", group);
	if (listener != TARGET_LISTENER_ALL &&
	    (listener < 0 || (unsigned)listener >= target_listener_count(ss->target)))
		return err_set(err, -EINVAL, "there is no listener %d; the first of %u is 0",
			       listener, target_listener_count(ss->target));
	if (listener != TARGET_LISTENER_ALL)
		where = target_listener_addr(ss->target, (unsigned)listener);
	result = subsystem_enter(ss, err);
	if (result < 0)
		return result;
	changed = states_set(ss->ana, listener, group, state);
	for (unsigned i = 0; i < TARGET_LISTENERS_MAX; i++)
		masks[i] = masks_of(ss->ana, i);
	if (changed != 0)
		swap_all(ss, masks, NULL);
	announce(ss, changed);
	if (changed != 0)
		log_info("path state nqn=%s listener=%s group=%s state=%s", ss->nqn, where, groups,
			 ana_state_name(state));
	if (!is_served(state))
		result = drain(ss, group, err);
	subsystem_leave(ss);
	return result;
}

enum ana_state subsystem_ana(const struct subsystem *ss, unsigned listener, uint32_t group)
{
	if (ss->ana == NULL || listener >= TARGET_LISTENERS_MAX ||
	    group - 1 >= TARGET_ANA_GROUPS_MAX)
		return ANA_OPTIMIZED;
	return (enum ana_state)ss->ana->state[listener][group - 1];
}

static void ns_move(struct ns *ns, uint32_t group) MAY_SUSPEND
{
	struct subsystem *ss = ns->subsystem;
	struct ctrlr *ctrlr;

	ana_ns_changed(ns);
	ns->ana_group = group;
	ana_ns_changed(ns);
	swap_all(ss, NULL, ns);
	if (ss->ana == NULL)
		return;
	list_for_each (ctrlr, &ss->ctrlrs, link)
		ctrlr_ns_changed(ctrlr, ns->nsid); /* ANAGRPID of Identify Namespace */
	announce(ss, UINT32_MAX);
}

void subsystem_end_hosts(struct subsystem *ss)
{
	struct ctrlr *ctrlr;

	if (!subsystem_is_over(ss))
		return;
	list_for_each (ctrlr, &ss->ctrlrs, link) {
		if (!ctrlr->is_closing)
			ctrlr_drain(ctrlr);
	}
}

void ana_ns_ended(struct ns *ns)
{
	struct subsystem *ss = ns->subsystem;

	ns_move(ns, ANA_GROUP_ENDED);
	log_warn("path closed, its device has ended nqn=%s nsid=%u device=%s", ss->nqn, ns->nsid,
		 ns->dev->name);
	subsystem_end_hosts(ss);
}

int subsystem_set_ns_group(struct subsystem *ss, uint32_t nsid, uint32_t group, struct err *err)
{
	struct ns *ns;
	int result = ana_check(ss, group, err);

	if (result == 0 && group == 0)
		result = err_set(err, -EINVAL, "group 0: the smallest number is 1");
	if (result < 0)
		return result;
	result = subsystem_enter(ss, err);
	if (result < 0)
		return result;
	ns = subsystem_ns(ss, nsid);
	if (ns == NULL) {
		result = err_set(err, -ENOENT, "subsystem '%s' has no namespace %u", ss->nqn, nsid);
	} else if (ns->ana_group == ANA_GROUP_ENDED) {
		result = err_set(err, -ENODEV, "namespace %u: its device '%s' has ended", nsid,
				 ns->dev->name);
	} else if (ns->ana_group != group) {
		ns_move(ns, group);
	}
	if (result == 0)
		result = drain(ss, group, err);
	subsystem_leave(ss);
	return result;
}

void ana_ns_changed(const struct ns *ns)
{
	struct ana *ana = ns->subsystem->ana;

	for (unsigned i = 0; ana != NULL && i < TARGET_LISTENERS_MAX; i++) {
		ana->count[i][ns->ana_group - 1]++;
		ana->page_count[i]++;
	}
}

/* ---- what hosts see ------------------------------------------------------------------------- */

/*
 * Linux takes the size of its buffer from NANAGRPID and MNAN and refuses the controller if MNAN is
 * 0 or above NN, or if a group is above ANAGRPMAX; without ANATT it never gives up on "change".
 */
void ana_identify_ctrl(const struct subsystem *ss, struct nvme_id_ctrl *id)
{
	if (ss->ana == NULL)
		return;
	id->cmic |= NVME_CMIC_ANA;
	le32_put(&id->oaes, le32_get(id->oaes) | NVME_OAES_ANA);
	id->anatt = TRANSITION_S;
	id->anacap = NVME_ANACAP_ALL_STATES;
	le32_put(&id->anagrpmax, ANA_GROUP_ENDED);
	le32_put(&id->nanagrpid, ANA_GROUP_ENDED);
	le32_put(&id->mnan, TARGET_NAMESPACES_MAX);
}

uint32_t ana_identify_group(const struct ns *ns)
{
	return ns->subsystem->ana == NULL ? 0 : ns->ana_group;
}

static unsigned group_members(const struct subsystem *ss, uint32_t group)
{
	unsigned n = 0;

	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++)
		n += ss->ns[i] != NULL && ss->ns[i]->ana_group == group;
	return n;
}

/* One group at @at; returns its end. NSIDs go up, as Linux expects. */
static uint8_t *put_group(uint8_t *at, const struct ctrlr *ctrlr, uint32_t group,
			  bool is_groups_only)
{
	const struct subsystem *ss = ctrlr->subsystem;
	struct nvme_ana_group desc = { .group = le32_of(group) };

	le32_put(&desc.nsids, is_groups_only ? 0 : group_members(ss, group));
	le64_put(&desc.change_count, ss->ana->count[ctrlr->listener][group - 1]);
	desc.state = ss->ana->state[ctrlr->listener][group - 1];
	memcpy(at, &desc, sizeof(desc));
	at += sizeof(desc);
	for (unsigned i = 0; !is_groups_only && i < TARGET_NAMESPACES_MAX; i++) {
		struct le32 nsid = le32_of(i + 1);

		if (ss->ns[i] == NULL || ss->ns[i]->ana_group != group)
			continue;
		memcpy(at, &nsid, sizeof(nsid));
		at += sizeof(nsid);
	}
	return at;
}

void *ana_log(const struct ctrlr *ctrlr, bool is_groups_only, size_t *ret_size)
{
	enum {
		SIZE_MAX_ = sizeof(struct nvme_ana_log) +
			    ANA_GROUP_ENDED * sizeof(struct nvme_ana_group) +
			    TARGET_NAMESPACES_MAX * sizeof(struct le32)
	};
	const struct subsystem *ss = ctrlr->subsystem;
	uint8_t *page = calloc(1, SIZE_MAX_);
	struct nvme_ana_log *log = (void *)page;
	uint8_t *at = page + sizeof(*log);
	uint16_t groups = 0;

	if (page == NULL)
		return NULL;
	for (uint32_t group = 1; group <= ANA_GROUP_ENDED; group++) {
		if (group_members(ss, group) == 0)
			continue;
		at = put_group(at, ctrlr, group, is_groups_only);
		groups++;
	}
	le64_put(&log->change_count, ss->ana->page_count[ctrlr->listener]);
	le16_put(&log->groups, groups);
	*ret_size = (size_t)(at - page);
	return page;
}

/* ---- life ----------------------------------------------------------------------------------- */

int ana_init(struct subsystem *ss, const struct subsystem_opts *opts, struct err *err)
{
	enum ana_state state = opts->ana_state == 0 ? ANA_OPTIMIZED : opts->ana_state;

	if (opts->has_ana) {
		ss->ana = calloc(1, sizeof(*ss->ana));
		if (ss->ana == NULL)
			return err_set(err, -ENOMEM, "no memory for a subsystem");
		memset(ss->ana->state, (int)state, sizeof(ss->ana->state));
	}
	for (unsigned l = 0; l < TARGET_LISTENERS_MAX; l++) {
		if (ss->ana != NULL)
			ss->ana->state[l][ANA_GROUP_ENDED - 1] = ANA_INACCESSIBLE;
		for (unsigned i = 0; i < reactor_count(); i++)
			ss->cores[i].ana[l] = masks_of(ss->ana, l);
	}
	return 0;
}

void ana_done(struct subsystem *ss)
{
	free(ss->ana);
}
