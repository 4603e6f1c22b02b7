// SPDX-License-Identifier: Apache-2.0
/*
 * Subsystems: a name, a serial number, namespaces, and the one way to change them under load.
 *
 * Each reactor has its own view (struct subsys_core): a table NSID -> handle, whether commands are
 * held, how many are with devices. The data path reads only that, without locks; the primary
 * changes it by calling into each reactor.
 *
 *   change a namespace:  pause (hold new commands on every reactor, wait until none is with a
 *                        device) -> swap the table entry on every reactor -> resume
 *
 * Commands that were held, or still wait for their data, look their namespace up again when they
 * go on: a generation in the table tells them whether they must, and one in the entry whether it is
 * still the same device (io.c).
 *
 *   device resized -> event to every controller; the new size is the device's, there is no copy
 *   device removed -> marked lost at once, taken out by a task (an event handler cannot wait);
 *                     the device layer waits for the close that the task ends with
 *
 * Serial number (docs/COMPATIBILITY.md): "DCS" and 17 hex digits of a hash of the uuid, so all
 * paths to one volume show the same.
 *
 * Invariants
 *   1. ss->control is held by whoever changes namespaces or pauses; it is a task_mutex.
 *   2. A subsystem is freed when no connection (conns) and no clean-up task (tasks) knows it.
 *
 * Thread: the primary reactor, in tasks; sc_* on the reactor named in the subsys_core.
 */
#include <errno.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
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

/* ---- pause and resume ----------------------------------------------------------------------- */

static void subsystem_idle_one(struct subsystem *ss)
{
	if (--ss->idle_left == 0)
		task_event_fire(&ss->idle);
}

static void primary_idle(struct msg *msg)
{
	subsystem_idle_one(container_of(msg, struct subsys_core, idle_msg)->subsystem);
}

void subsys_core_idle(struct subsys_core *sc)
{
	sc->is_idle_awaited = false;
	sc->idle_msg.fn = primary_idle;
	reactor_post(reactor_primary(), &sc->idle_msg);
}

static void sc_pause(void *arg)
{
	struct subsys_core *sc = arg;

	sc->is_paused = true;
	sc->is_idle_awaited = true;
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		if (sc->ns[i] != NULL) /* hosts may take their time, devices may go now */
			handle_recall(sc->ns[i]->handle);
	}
	if (sc->inflight == 0)
		subsys_core_idle(sc);
}

static void sc_resume(void *arg)
{
	struct subsys_core *sc = arg;
	struct list held;

	sc->is_paused = false;
	list_init(&held);
	list_splice_tail(&held, &sc->held);
	while (!list_empty(&held)) {
		struct cmd *cmd = list_first_entry(&held, struct cmd, link);

		list_del(&cmd->link);
		io_cmd_submit(cmd);
	}
}

static void pause_locked(struct subsystem *ss)
{
	if (ss->pause_count++ > 0)
		return;
	ss->idle = (struct task_event){};
	ss->idle_left = reactor_count();
	for (unsigned i = 0; i < reactor_count(); i++)
		task_call(ss->cores[i].reactor, sc_pause, &ss->cores[i]);
	task_event_wait(&ss->idle);
}

static void resume_locked(struct subsystem *ss)
{
	if (--ss->pause_count > 0)
		return;
	for (unsigned i = 0; i < reactor_count(); i++)
		task_call(ss->cores[i].reactor, sc_resume, &ss->cores[i]);
}

void subsystem_hold(struct subsystem *ss)
{
	pause_locked(ss);
}

void subsystem_let_go(struct subsystem *ss)
{
	resume_locked(ss);
}

void subsystem_pause(struct subsystem *ss)
{
	task_mutex_lock(&ss->control);
	pause_locked(ss);
	task_mutex_unlock(&ss->control);
}

void subsystem_resume(struct subsystem *ss)
{
	task_mutex_lock(&ss->control);
	resume_locked(ss);
	task_mutex_unlock(&ss->control);
}

/* ---- the tables of the reactors ------------------------------------------------------------- */

struct ns_swap {
	struct subsys_core *sc;
	uint32_t nsid;
	struct ns_core *nc;
};

static void sc_swap_ns(void *arg)
{
	struct ns_swap *swap = arg;

	swap->sc->ns[swap->nsid - 1] = swap->nc;
	swap->sc->ns_generation++;
	if (swap->nc != NULL)
		swap->nc->generation = swap->sc->ns_generation;
}

static void swap_ns(struct subsystem *ss, uint32_t nsid, struct ns_core *cores)
{
	pause_locked(ss);
	for (unsigned i = 0; i < reactor_count(); i++) {
		struct ns_swap swap = { &ss->cores[i], nsid, cores == NULL ? NULL : &cores[i] };

		task_call(ss->cores[i].reactor, sc_swap_ns, &swap);
	}
	resume_locked(ss);
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
	if (event->type != DEVICE_REMOVED || ns->is_lost)
		return;
	ns->is_lost = true;
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
		nc->shift = dev->block_shift;
		nc->never_lend = dev->buf_align > 1;
		nc->ana_bit = 1u << (ns->ana_group - 1);
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

	if (result < 0)
		return result;
	ns = calloc(1, sizeof(*ns));
	if (ns == NULL)
		return err_set(err, -ENOMEM, "no memory for a namespace");
	ns->nsid = nsid;
	ns->ana_group = 1;
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
	if (ns->is_lost) /* removed while we were at it */
		subsystem_reap(ss->target);
	log_info("namespace nqn=%s nsid=%u device=%s", ss->nqn, nsid, dev->name);
	return 0;
}

int subsystem_add_ns(struct subsystem *ss, struct device *dev, uint32_t nsid, uint32_t *ret_nsid,
		     struct err *err)
{
	int result;

	task_mutex_lock(&ss->control);
	result = add_ns_locked(ss, dev, nsid, ret_nsid, err);
	task_mutex_unlock(&ss->control);
	return result;
}

static void remove_ns_locked(struct subsystem *ss, struct ns *ns)
{
	uint32_t nsid = ns->nsid;

	ss->ns[nsid - 1] = NULL;
	ana_ns_changed(ns);
	swap_ns(ss, nsid, NULL);
	ns_free(ns);
	announce_ns(ss, nsid);
	log_info("namespace removed nqn=%s nsid=%u", ss->nqn, nsid);
}

int subsystem_remove_ns(struct subsystem *ss, uint32_t nsid, struct err *err)
{
	struct ns *ns;
	int result = 0;

	task_mutex_lock(&ss->control);
	ns = subsystem_ns(ss, nsid);
	if (ns == NULL)
		result = err_set(err, -ENOENT, "subsystem '%s' has no namespace %u", ss->nqn, nsid);
	else
		remove_ns_locked(ss, ns);
	task_mutex_unlock(&ss->control);
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

static void reap_task(void *arg)
{
	struct subsystem *ss = arg;

	task_mutex_lock(&ss->control);
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		if (ss->ns[i] != NULL && ss->ns[i]->is_lost)
			remove_ns_locked(ss, ss->ns[i]);
	}
	task_mutex_unlock(&ss->control);
	subsystem_put_task(ss);
}

static bool subsystem_has_lost(const struct subsystem *ss)
{
	for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		if (ss->ns[i] != NULL && ss->ns[i]->is_lost)
			return true;
	}
	return false;
}

void subsystem_reap(struct target *target)
{
	enum { RETRY_MS = 100 };
	struct subsystem *ss;

	list_for_each (ss, &target->subsystems, link) {
		if (!subsystem_has_lost(ss))
			continue;
		if (task_spawn("namespace-reap", reap_task, ss) == 0)
			ss->tasks++;
		else
			timer_arm(reactor_primary(), &target->reap_timer, RETRY_MS * 1000000ull);
	}
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

	if (ss == NULL)
		return;
	task_mutex_lock(&ss->control); /* whoever changes it now comes to an end first */
	ss->is_removing = true;
	list_del(&ss->link);
	ss->target->subsystem_count--;
	if (ss->target->discovery == ss)
		ss->target->discovery = NULL;
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
