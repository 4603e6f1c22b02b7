// SPDX-License-Identifier: Apache-2.0
/*
 * Subsystems: a name, a serial number, namespaces, and the one way to change them under load.
 *
 * Each reactor has its own view (struct subsys_core): a table NSID -> handle, whether commands are
 * held, how many are with devices. The data path reads only that, without locks; the primary
 * changes it by calling into each reactor.
 *
 *   add     the table entry on every reactor
 *   remove  hold the namespace (hold.c): new commands wait, none is with its device -> clear the
 *           table entry on every reactor -> what was held ends with Invalid Namespace -> close
 *
 * Commands that were held, or still wait for their data, look their namespace up again when they
 * go on: a generation in the table tells them whether they must, and one in the entry whether it is
 * still the same device (io.c).
 *
 *   device resized -> event to every controller; the new size is the device's, there is no copy
 *   device ended   -> its path is closed, by a task, too (ana.c)
 *   device removed -> marked lost at once, taken out by a task (an event handler cannot wait);
 *                     the device layer waits for the close that the task ends with
 *
 * Serial number (docs/COMPATIBILITY.md): "DCS" and 17 hex digits of a hash of the uuid, so all
 * paths to one volume show the same.
 *
 * Invariants
 *   1. ss->control is held by whoever changes namespaces or holds them; it is a task_mutex.
 *   2. A subsystem is freed when no connection (conns) and no task that changes it, or waits for
 *      its turn to, knows it (tasks). Whose turn comes after the removal began is refused.
 *
 * Thread: the primary reactor, in tasks; sc_* on the reactor named in the subsys_core.
 */
#include <errno.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/units.h"
#include "target/internal.h"

#define CLAIM "NVMe-oF Target" /* what listings show as the one who writes */

void subsystem_serial(const struct uuid *uuid, char serial[SUBSYSTEM_SERIAL_SIZE])
{
	static const char digits[] = "0123456789ABCDEF";
	uint8_t hash[SHA256_DIGEST_LENGTH];
	size_t at;

	(void)SHA256(uuid->b, sizeof(uuid->b), hash);
	(void)snprintf(serial, SUBSYSTEM_SERIAL_SIZE, "DCS");
	for (at = 3; at < SUBSYSTEM_SERIAL_SIZE - 1; at++) {
		size_t nibble = at - 3;

		serial[at] = digits[hash[nibble / 2] >> (nibble % 2 == 0 ? 4 : 0) & 0xf];
	}
	serial[at] = '\0';
}

/* ---- who may change it ---------------------------------------------------------------------- */

static int refuse_going(const struct subsystem *ss, struct err *err)
{
	return err_set(err, -ENODEV, "subsystem '%s' is being removed", ss->nqn);
}

int subsystem_enter(struct subsystem *ss, struct err *err)
{
	int result;

	if (ss->is_removing)
		return refuse_going(ss, err);
	ss->tasks++;
	task_mutex_lock(&ss->control);
	if (!ss->is_removing)
		return 0;
	result = refuse_going(ss, err);
	subsystem_leave(ss);
	return result;
}

void subsystem_leave(struct subsystem *ss)
{
	task_mutex_unlock(&ss->control);
	subsystem_put_task(ss);
}

/* ---- the tables of the reactors ------------------------------------------------------------- */

struct ns_swap {
	struct subsys_core *sc;
	uint32_t nsid;
	struct ns_core *nc; /* NULL: what is there goes, and was on hold */
};

static void sc_swap_ns(void *arg)
{
	struct ns_swap *swap = arg;
	struct ns_core *old = swap->sc->ns[swap->nsid - 1];

	swap->sc->ns[swap->nsid - 1] = swap->nc;
	swap->sc->ns_generation++;
	if (swap->nc != NULL)
		swap->nc->generation = swap->sc->ns_generation;
	else
		ns_core_go_on(swap->sc, old); /* to learn that it is gone */
}

static void swap_ns(struct subsystem *ss, uint32_t nsid, struct ns_core *cores)
{
	for (unsigned i = 0; i < reactor_count(); i++) {
		struct ns_swap swap = { &ss->cores[i], nsid, cores == NULL ? NULL : &cores[i] };

		task_call(ss->cores[i].reactor, sc_swap_ns, &swap);
	}
}

static void announce_ns(struct subsystem *ss, uint32_t nsid)
{
	struct ctrlr *ctrlr;

	list_for_each (ctrlr, &ss->ctrlrs, link)
		ctrlr_ns_changed(ctrlr, nsid);
}

/* ---- namespaces ----------------------------------------------------------------------------- */

static void ns_free(struct ns *ns)
{
	if (ns == NULL)
		return;
	desc_close(ns->desc);
	resv_ns_done(ns);
	free(ns->cores);
	free(ns);
}

static void ns_event(struct desc *desc, const struct device_event *event)
{
	struct ns *ns = desc->owner;

	if (event->type == DEVICE_RESIZED && ns->subsystem->ns[ns->nsid - 1] == ns)
		announce_ns(ns->subsystem, ns->nsid);
	if (event->type == DEVICE_ENDED)
		ns->is_ended = true;
	else if (event->type == DEVICE_REMOVED && !ns->is_lost)
		ns->is_lost = true;
	else
		return;
	subsystem_reap(ns->subsystem->target);
}

/* Read the first block into a buffer full of @pattern: was all of it overwritten? Hardly any block
 * holds the pattern by chance, and then nothing worse happens than clearing buffers in vain. */
static bool read_changes(struct ns *ns, uint8_t *buf, int pattern)
{
	uint32_t size = ns->dev->block_size;
	struct io io = { .op = IO_READ, .nlb = 1 };

	memset(buf, pattern, size);
	io_set_buf(&io, buf, size);
	if (io_wait(ns->cores[0].handle, &io) != IO_OK)
		return false;
	for (uint32_t i = 0; i < size; i++) {
		if (buf[i] != (uint8_t)pattern)
			return true;
	}
	return false;
}

static void ns_probe(struct ns *ns)
{
	enum { PATTERN = 0xa5, OTHER = 0x5a };
	uint8_t *buf = dma_alloc(ns->dev->block_size);
	bool fills;

	if (buf == NULL)
		return; /* then it is not proven */
	fills = ns->dev->nblocks > 0 && read_changes(ns, buf, PATTERN) &&
		read_changes(ns, buf, OTHER);
	dma_free(buf, ns->dev->block_size);
	for (unsigned i = 0; i < reactor_count(); i++)
		ns->cores[i].fills_reads = fills;
}

static int ns_open(struct ns *ns, struct device *dev, struct err *err)
{
	struct desc_opts opts = { .event = ns_event, .owner = ns };
	int result;

	if (!dev->is_read_only) {
		opts.flags = DESC_WRITE | DESC_CLAIM;
		opts.claim = CLAIM;
	}
	result = desc_open(dev, &opts, &ns->desc, err);
	if (result < 0)
		return result;
	ns->dev = dev;
	for (unsigned i = 0; i < reactor_count(); i++) {
		struct ns_core *nc = &ns->cores[i];

		result = handle_open(ns->desc, reactor_get(i), &nc->handle, err);
		if (result < 0)
			return result;
		nc->ns = ns;
		nc->hold = ns->holds > 0 ? HOLD_STAY : HOLD_NO;
		nc->shift = dev->block_shift;
		nc->never_lend = dev->buf_align > 1;
		nc->ana_bit = ana_bit_of(ns->ana_group);
	}
	ns_probe(ns);
	return 0;
}

static int ns_pick_nsid(const struct subsystem *ss, uint32_t nsid, uint32_t *ret, struct err *err)
{
	if (nsid > TARGET_NAMESPACES_MAX)
		return err_set(err, -EINVAL, "namespace %u: the largest number is %d", nsid,
			       TARGET_NAMESPACES_MAX);
	if (nsid != 0 && ss->ns[nsid - 1] != NULL)
		return err_set(err, -EEXIST, "subsystem '%s' has a namespace %u already", ss->nqn,
			       nsid);
	for (unsigned i = 0; nsid == 0 && i < TARGET_NAMESPACES_MAX; i++)
		nsid = ss->ns[i] == NULL ? i + 1 : 0;
	if (nsid == 0)
		return err_set(err, -ENOSPC, "subsystem '%s' has %d namespaces, no more fit",
			       ss->nqn, TARGET_NAMESPACES_MAX);
	*ret = nsid;
	return 0;
}

static int add_ns_locked(struct subsystem *ss, struct device *dev, uint32_t nsid,
			 uint32_t *ret_nsid, struct err *err)
{
	struct ns *ns;
	int result = ns_pick_nsid(ss, nsid, &nsid, err);

	if (result == 0 && dev->is_ended)
		result = err_set(err, -ENODEV, "'%s' has ended, there is nothing to serve",
				 dev->name);
	if (result < 0)
		return result;
	ns = calloc(1, sizeof(*ns));
	if (ns == NULL)
		return err_set(err, -ENOMEM, "no memory for a namespace");
	ns->nsid = nsid;
	ns->ana_group = 1;
	ns->resv.lock_fd = -1;
	ns->holds = ss->pause_count;
	ns->subsystem = ss;
	ns->cores = calloc(reactor_count(), sizeof(*ns->cores));
	result = ns->cores == NULL ? err_set(err, -ENOMEM, "no memory for a namespace")
				   : ns_open(ns, dev, err);
	if (result == 0)
		result = resv_ns_open(ns, err);
	if (result < 0) {
		ns_free(ns);
		return result;
	}
	/* from here on Identify Controller counts its cache: what it said before is final */
	ss->ns[nsid - 1] = ns;
	for (unsigned i = 0; ss->said_no_cache && dev->has_write_cache && i < reactor_count(); i++)
		ns->cores[i].write_flags = IO_FUA;
	resv_ns_joins(ns);
	ana_ns_changed(ns);
	swap_ns(ss, nsid, ns->cores);
	announce_ns(ss, nsid);
	if (ret_nsid != NULL)
		*ret_nsid = nsid;
	if (ns->is_lost || ns->is_ended) /* while we were at it */
		subsystem_reap(ss->target);
	log_info("namespace nqn=%s nsid=%u device=%s", ss->nqn, nsid, dev->name);
	return 0;
}

int subsystem_add_ns(struct subsystem *ss, struct device *dev, uint32_t nsid, uint32_t *ret_nsid,
		     struct err *err)
{
	int result = subsystem_enter(ss, err);

	if (result < 0)
		return result;
	result = add_ns_locked(ss, dev, nsid, ret_nsid, err);
	subsystem_leave(ss);
	return result;
}

static int remove_ns_locked(struct subsystem *ss, struct ns *ns, struct err *err) MAY_SUSPEND;
static int remove_ns_locked(struct subsystem *ss, struct ns *ns, struct err *err)
{
	uint32_t nsid = ns->nsid;
	int result = ns_hold(ns, err);

	if (result < 0)
		return result;
	ss->ns[nsid - 1] = NULL;
	ana_ns_changed(ns);
	swap_ns(ss, nsid, NULL);
	ns_free(ns);
	announce_ns(ss, nsid);
	log_info("namespace removed nqn=%s nsid=%u", ss->nqn, nsid);
	subsystem_end_hosts(ss); /* all that are left may have ended before */
	return 0;
}

int subsystem_remove_ns(struct subsystem *ss, uint32_t nsid, struct err *err)
{
	int result = subsystem_enter(ss, err);
	struct ns *ns;

	if (result < 0)
		return result;
	ns = subsystem_ns(ss, nsid);
	if (ns == NULL)
		result = err_set(err, -ENOENT, "subsystem '%s' has no namespace %u", ss->nqn, nsid);
	else
		result = remove_ns_locked(ss, ns, err);
	if (result == -ETIMEDOUT)
		(void)err_hint(err, "the namespace stays");
	subsystem_leave(ss);
	return result;
}

/* ---- lost devices --------------------------------------------------------------------------- */

static void subsystem_maybe_gone(struct subsystem *ss)
{
	if (ss->conns == 0 && ss->tasks == 0 && ss->gone != NULL)
		task_event_fire(ss->gone);
}

void subsystem_put_task(struct subsystem *ss)
{
	ss->tasks--;
	subsystem_maybe_gone(ss);
}

static void reap_later(struct target *target)
{
	enum { RETRY_MS = 100 };

	timer_arm(reactor_primary(), &target->reap_timer, RETRY_MS * NS_PER_MS);
}

static bool ns_is_ending(const struct ns *ns)
{
	return ns != NULL && ns->is_ended && ns->ana_group != ANA_GROUP_ENDED;
}

static void reap_task(void *arg)
{
	struct subsystem *ss = arg;

	task_mutex_lock(&ss->control);
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		struct err err = {};

		if (ns_is_ending(ss->ns[i]))
			ana_ns_ended(ss->ns[i]);
		if (ss->ns[i] == NULL || !ss->ns[i]->is_lost ||
		    remove_ns_locked(ss, ss->ns[i], &err) == 0)
			continue;
		log_warn("namespace stays, its device was removed nqn=%s: %s, trying again",
			 ss->nqn, err_text(&err));
		reap_later(ss->target);
	}
	subsystem_leave(ss);
}

static bool subsystem_has_lost(const struct subsystem *ss)
{
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		if ((ss->ns[i] != NULL && ss->ns[i]->is_lost) || ns_is_ending(ss->ns[i]))
			return true;
	}
	return false;
}

void subsystem_reap(struct target *target)
{
	struct subsystem *ss;

	list_for_each (ss, &target->subsystems, link) {
		if (!subsystem_has_lost(ss))
			continue;
		if (task_spawn("namespace-reap", reap_task, ss) == 0)
			ss->tasks++;
		else
			reap_later(target);
	}
}

bool subsystem_is_over(const struct subsystem *ss)
{
	bool has_ns = false;

	for (unsigned i = 0; ss->ana == NULL && i < TARGET_NAMESPACES_MAX; i++) {
		if (ss->ns[i] != NULL && ss->ns[i]->ana_group != ANA_GROUP_ENDED)
			return false;
		has_ns |= ss->ns[i] != NULL;
	}
	return has_ns;
}

/* ---- subsystems ----------------------------------------------------------------------------- */

void subsystem_put_conn(struct subsystem *ss)
{
	ss->conns--;
	subsystem_maybe_gone(ss);
}

struct subsystem *subsystem_find(struct target *target, const char *nqn)
{
	struct subsystem *ss;

	list_for_each (ss, &target->subsystems, link) {
		if (strcmp(ss->nqn, nqn) == 0)
			return ss;
	}
	return NULL;
}

const char *subsystem_nqn(const struct subsystem *ss)
{
	return ss->nqn;
}

unsigned subsystem_controller_count(const struct subsystem *ss)
{
	return ss->ctrlr_count;
}

static void subsystem_free(struct subsystem *ss)
{
	hosts_done(ss);
	ana_done(ss);
	free(ss->cores);
	free(ss);
}

static int check_new(const struct target *target, const struct subsystem_opts *opts,
		     struct err *err)
{
	if (!nqn_is_good(opts->nqn))
		return err_set(
			err, -EINVAL,
			"'%.100s' is not an NVMe qualified name: \"nqn.\" and more, at most %d "
			"bytes",
			opts->nqn == NULL ? "" : opts->nqn, TARGET_NQN_MAX);
	if (opts->cntlid_min > opts->cntlid_max || opts->cntlid_max > NVME_CNTLID_MAX ||
	    (opts->cntlid_max > 0 && opts->cntlid_min == 0))
		return err_set(err, -EINVAL, "controller ids must lie within 1 and %d",
			       NVME_CNTLID_MAX);
	if (target->subsystem_count >= TARGET_SUBSYSTEMS_MAX)
		return err_set(err, -ENOSPC, "no more than %d subsystems", TARGET_SUBSYSTEMS_MAX);
	return 0;
}

static void subsystem_fill(struct subsystem *ss, struct target *target,
			   const struct subsystem_opts *opts)
{
	ss->target = target;
	(void)snprintf(ss->nqn, sizeof(ss->nqn), "%s", opts->nqn);
	ss->uuid = opts->uuid;
	subsystem_serial(&opts->uuid, ss->serial);
	ss->is_discovery = strcmp(opts->nqn, NVME_DISCOVERY_NQN) == 0;
	ss->cntlid_min = opts->cntlid_max == 0 ? 1 : opts->cntlid_min;
	ss->cntlid_max = opts->cntlid_max == 0 ? NVME_CNTLID_MAX : opts->cntlid_max;
	ss->cntlid_next = ss->cntlid_min;
	ss->kind = opts->kind;
	list_init(&ss->ctrlrs);
	list_init(&ss->resv_ctrlrs);
	list_init(&ss->conn_list);
	task_mutex_init(&ss->control);
	task_mutex_init(&ss->fence_lock);
	list_init(&ss->resets);
	for (unsigned i = 0; i < reactor_count(); i++) {
		ss->cores[i].subsystem = ss;
		ss->cores[i].reactor = reactor_get(i);
		list_init(&ss->cores[i].held);
	}
}

int subsystem_add(struct target *target, const struct subsystem_opts *opts,
		  struct subsystem **ret_subsystem, struct err *err)
{
	struct subsystem *ss;
	int result = check_new(target, opts, err);

	if (result < 0)
		return result;
	if (subsystem_find(target, opts->nqn) != NULL)
		return err_set(err, -EEXIST, "there is a subsystem '%s' already", opts->nqn);
	ss = calloc(1, sizeof(*ss));
	if (ss == NULL)
		return err_set(err, -ENOMEM, "no memory for a subsystem");
	ss->cores = calloc(reactor_count(), sizeof(*ss->cores));
	if (ss->cores == NULL) {
		subsystem_free(ss);
		return err_set(err, -ENOMEM, "no memory for a subsystem");
	}
	subsystem_fill(ss, target, opts);
	result = hosts_init(ss, opts->allowed_hosts, opts->allowed_host_count, err);
	if (result == 0)
		result = ana_init(ss, opts, err);
	if (result < 0) {
		subsystem_free(ss);
		return result;
	}
	list_add_tail(&target->subsystems, &ss->link);
	target->subsystem_count++;
	target_discovery_changed(target);
	*ret_subsystem = ss;
	return 0;
}

void subsystem_remove(struct subsystem *ss)
{
	struct task_event gone = {};
	struct ctrlr *ctrlr;

	if (ss == NULL || ss->is_removing)
		return;
	ss->is_removing = true;
	list_del(&ss->link);
	ss->target->subsystem_count--;
	if (ss->target->discovery == ss)
		ss->target->discovery = NULL;
	task_mutex_lock(&ss->control); /* whoever changes it now comes to an end first */
	task_mutex_unlock(&ss->control);
	target_discovery_changed(ss->target);
	list_for_each (ctrlr, &ss->ctrlrs, link)
		ctrlr_close(ctrlr);
	if (ss->conns > 0 || ss->tasks > 0) {
		ss->gone = &gone;
		task_event_wait(&gone);
	}
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++)
		ns_free(ss->ns[i]);
	subsystem_free(ss);
}
