/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ctrlr.c - the life of a remote controller: brought up, lost, brought back, given up.
 *
 *                          +------ connected ------> LIVE --- lost, reset ---+
 *                          |                          |                      |
 *   NEW --> CONNECTING ----+                          | give up              v
 *             ^    |       +------ failed ---------------------------> RESETTING
 *             |    |                                  |                  |   |
 *             |    +---- failed the first time -----+ |    give up       |   |
 *             |                                     v v                  |   |
 *             |                                     DEAD <---------------+   |
 *             +---------------- reconnect_delay passed ----------------------+
 *
 *   any of them --- the last path went ---> DELETING
 *
 * While it is LIVE its heads' paths through it are usable. From the loss of any of its connections
 * on they are not, and I/O waits in the channels (chan.c) for another path or for its return. One
 * lost queue takes all others with it: a controller and its queues are one association, and what
 * the rest of it would still do is anybody's guess (Base 2.0c, 3.3.2).
 *
 * The first attempt after a loss follows at once, further ones after reconnect_delay, until
 * ctrl_loss has passed since the loss; then the controller is DEAD, its devices fail
 * (DEVICE_FAILED), and only making them again helps. With ctrl_loss=0 the loss is the end: that is
 * what a mirror asks for, since what a lost target had not flushed may be gone. Silence is a loss,
 * too (chan.c). A reset that someone asked for is tried once even then.
 *
 * Each controller has at most one task at work, its worker, made when there is something to do and
 * gone when there is not: kick bits say what. So a thousand controllers cost no stacks while they
 * are well, and CTRLR_WORKERS_MAX of them while they all reconnect; the rest wait in line.
 * Everything that is only a fact (a dropped queue, an event, a timer) sets a bit and returns.
 *
 * Invariants:
 *   1. State changes go through ctrlr_go(), which asserts the table.
 *   2. Kicks are consumed under ctrlr->lock, and a controller with kicks is in line for a worker or
 *      has one, so no kick is forgotten.
 *   3. A controller is freed by its worker, with no path, no queue open, no timer armed.
 *
 * Rejected: a task per controller (64 stacks are all there are), and state machines of callbacks
 * for the connect sequence (a dozen steps, each of which can fail).
 *
 * Thread: primary reactor; MAY_SUSPEND functions in tasks.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/units.h"
#include "drivers/nvmf/ctrlr.h"

static struct list table = { &table, &table };
static struct list line = { &line, &line }; /* controllers that wait for a worker */
static unsigned nctrlrs, nworkers;
static struct timer spawn_again;

static void workers_start(void);

/* ---- states ------------------------------------------------------------------------------- */

#define TO(state) (1u << CTRLR_##state)

static const struct {
	const char *name;
	unsigned to; /* states that may follow */
} states[] = {
	[CTRLR_NEW] = { "new", TO(CONNECTING) | TO(DELETING) },
	[CTRLR_CONNECTING] = { "connecting", TO(LIVE) | TO(RESETTING) | TO(DEAD) | TO(DELETING) },
	[CTRLR_LIVE] = { "live", TO(RESETTING) | TO(DEAD) | TO(DELETING) },
	[CTRLR_RESETTING] = { "resetting", TO(CONNECTING) | TO(DEAD) | TO(DELETING) },
	[CTRLR_DEAD] = { "dead", TO(DELETING) },
	[CTRLR_DELETING] = { "deleting", 0 },
};

static_assert(ARRAY_LEN(states) == CTRLR_STATE_COUNT_, "a row for each state");

bool ctrlr_may_go(enum ctrlr_state from, enum ctrlr_state to)
{
	return states[from].to >> to & 1;
}

const char *ctrlr_state_name(enum ctrlr_state state)
{
	return states[state].name;
}

static void ctrlr_go(struct nvmf_ctrlr *c, enum ctrlr_state to)
{
	assert(ctrlr_may_go(c->state, to));
	log_debug("%s: %s -> %s", c->name, states[c->state].name, states[to].name);
	c->state = to;
}

struct nvmf_ctrlr *ctrlr_next(const struct nvmf_ctrlr *prev)
{
	struct list *next = prev == NULL ? table.next : prev->link.next;

	return next == &table ? NULL : container_of(next, struct nvmf_ctrlr, link);
}

void ctrlr_refresh_heads(struct nvmf_ctrlr *c)
{
	struct nvmf_path *path;

	list_for_each (path, &c->paths, in_ctrlr)
		head_refresh(path->head);
}

/* An attempt has ended: those that wait for the controller to be made one of theirs look at it. */
static void ctrlr_attempted(struct nvmf_ctrlr *c)
{
	struct ctrlr_wait *wait, *next;

	list_for_each_safe (wait, next, &c->waiters, link) {
		list_del(&wait->link);
		task_event_fire(&wait->event);
	}
}

/* Everybody who waited for a decision gets it. */
static void ctrlr_decided(struct nvmf_ctrlr *c)
{
	uint16_t status = c->state == CTRLR_LIVE ? IO_OK : IO_TRANSPORT;
	struct msg *msg;

	ctrlr_attempted(c);
	while ((msg = msg_list_pop(&c->resets)) != NULL)
		ctrlr_answer(container_of(msg, struct io, msg), status);
	if (c->state == CTRLR_DEAD)
		ctrlr_fail_waiting(c);
	ctrlr_forward_waiting(c);
	ctrlr_refresh_heads(c);
}

/* ---- losing and coming back --------------------------------------------------------------- */

static void ctrlr_die(struct nvmf_ctrlr *c)
{
	char text[UNITS_TEXT_MAX];

	timer_disarm(reactor_self(), &c->retry);
	timer_disarm(reactor_self(), &c->loss);
	ctrlr_go(c, CTRLR_DEAD);
	ctrlr_disconnect(c, -ENOTCONN);
	if (c->lost_ns != 0) {
		c->stats.outage_ns += reactor_self()->now_ns - c->lost_ns;
		log_error("%s: given up %s after the loss (%s)", c->name,
			  duration_format(reactor_self()->now_ns - c->lost_ns, text),
			  err_text(&c->why));
		c->lost_ns = 0;
	}
	ctrlr_decided(c);
}

/* From LIVE: no queue is left afterwards, and the next attempt is due. */
static void ctrlr_lose(struct nvmf_ctrlr *c, bool is_wanted)
{
	const bool is_final = c->opts.ctrl_loss_ns == 0 && !is_wanted;

	c->lost_ns = reactor_self()->now_ns;
	c->attempt = 0;
	c->stats.lost += !is_wanted;
	if (is_wanted)
		log_info("%s: reset", c->name);
	else
		log_warn("%s: connection lost: %s%s", c->name, err_text(&c->why),
			 is_final ? "" : ", reconnecting");
	if (is_final) {
		ctrlr_die(c);
		return;
	}
	ctrlr_go(c, CTRLR_RESETTING);
	ctrlr_refresh_heads(c);
	if (c->opts.ctrl_loss_ns > 0)
		timer_arm(reactor_self(), &c->loss, c->opts.ctrl_loss_ns);
	ctrlr_disconnect(c, is_wanted ? -ECONNRESET : -ENOTCONN);
	c->kicks |= KICK_CONNECT;
}

static void ctrlr_back(struct nvmf_ctrlr *c)
{
	const uint64_t outage_ns = reactor_self()->now_ns - c->lost_ns;
	char text[UNITS_TEXT_MAX];

	timer_disarm(reactor_self(), &c->loss);
	ctrlr_go(c, CTRLR_LIVE);
	c->stats.connects++;
	c->stats.outage_ns += outage_ns;
	log_info("%s: back after %s (attempt %u)", c->name, duration_format(outage_ns, text),
		 c->attempt);
	c->lost_ns = 0;
	c->attempt = 0;
	ctrlr_decided(c);
	fence_kick();
}

/* A target may stay away for days: the first attempts are told, then ever fewer, and those that
 * failed for another reason. */
static bool is_worth_a_line(const struct nvmf_ctrlr *c, const struct err *err)
{
	return (c->attempt & (c->attempt - 1)) == 0 || strcmp(err->msg, c->why.msg) != 0;
}

static void ctrlr_attempt(struct nvmf_ctrlr *c)
{
	char text[UNITS_TEXT_MAX];
	struct err err = {};
	bool is_told;

	c->attempt++;
	c->stats.attempts++;
	ctrlr_go(c, CTRLR_CONNECTING);
	if (ctrlr_connect(c, &err) == 0) {
		ctrlr_back(c);
		return;
	}
	is_told = is_worth_a_line(c, &err);
	c->why = err;
	ctrlr_disconnect(c, -ECONNABORTED);
	ctrlr_go(c, CTRLR_RESETTING);
	if (c->opts.ctrl_loss_ns == 0) {
		ctrlr_die(c); /* the one attempt of a reset */
		return;
	}
	ctrlr_attempted(c);
	if (c->is_leaving)
		return;
	if (is_told)
		log_warn("%s: %s; reconnecting in %s (attempt %u)", c->name, err_text(&err),
			 duration_format(c->opts.reconnect_delay_ns, text), c->attempt + 1);
	timer_arm(reactor_self(), &c->retry, c->opts.reconnect_delay_ns);
}

/* ---- events ------------------------------------------------------------------------------- */

static void announce_all(struct nvmf_ctrlr *c, enum device_event_type type)
{
	struct nvmf_path *path;

	list_for_each (path, &c->paths, in_ctrlr)
		device_announce(&path->head->dev, type);
}

/* Reading a page is what makes its event possible again; what is in these two is for people who
 * ask for it. */
static void read_event_page(struct nvmf_ctrlr *c, uint8_t lid, uint32_t len)
{
	CLEANUP(freep) void *page = malloc(len);

	if (page != NULL && ctrlr_log_page(c, lid, 0, 0, page, len, NULL) == 0 &&
	    lid == NVME_LOG_SMART) {
		const struct nvme_smart_log *smart = page;

		log_warn("%s: health event, critical warning %#x", c->name,
			 smart->critical_warning);
	}
	announce_all(c, DEVICE_MEDIA);
}

static void again_due(struct timer *timer)
{
	struct nvmf_ctrlr *c = container_of(timer, struct nvmf_ctrlr, again);
	unsigned kicks = c->again_kicks;

	c->again_kicks = 0;
	ctrlr_kick(c, kicks);
}

void ctrlr_kick_later(struct nvmf_ctrlr *c, unsigned kicks, uint64_t delay_ns)
{
	c->again_kicks |= kicks;
	if (!c->again.is_armed || c->again.due_ns > reactor_self()->now_ns + delay_ns)
		timer_arm(reactor_self(), &c->again, delay_ns);
}

static void ctrlr_rescan(struct nvmf_ctrlr *c)
{
	const uint32_t size = NVME_CHANGED_NS_MAX * (uint32_t)sizeof(struct le32);
	CLEANUP(freep) void *page = malloc(size);
	struct nvmf_path *path;
	struct err err = {};

	/* which ones it names is not looked at: reading all of ours again misses nothing */
	if (page == NULL || ctrlr_log_page(c, NVME_LOG_CHANGED_NS, 0, 0, page, size, NULL) < 0)
		log_warn("%s: the list of changed namespaces cannot be read", c->name);
	list_for_each (path, &c->paths, in_ctrlr) {
		if (path_rescan(path, &err) == 0)
			continue;
		log_warn("%s: %s", c->name, err_text(&err));
		err_clear(&err);
		ctrlr_kick_later(c, KICK_RESCAN, NVMF_LOOK_AGAIN_NS);
	}
	if (c->info.nanagrpid > 0)
		c->kicks |= KICK_ANA;
	ctrlr_refresh_heads(c);
}

static void ctrlr_ana(struct nvmf_ctrlr *c)
{
	struct err err = {};
	bool is_changing = false;

	if (ctrlr_read_ana(c, &err) < 0) {
		log_warn("%s: %s", c->name, err_text(&err));
		ctrlr_kick_later(c, KICK_ANA, NVMF_LOOK_AGAIN_NS);
	}
	for (unsigned i = 0; i < c->ngroups; i++)
		is_changing |= c->groups[i].state == NVME_ANA_CHANGE;
	/* an event tells the end of a change; if it gets lost, look when it must be over */
	if (is_changing)
		ctrlr_kick_later(c, KICK_ANA, MAX(c->info.anatt_s, 1u) * NS_PER_S);
	ctrlr_refresh_heads(c);
}

static void ctrlr_live_work(struct nvmf_ctrlr *c, unsigned kicks)
{
	if (kicks & KICK_RESCAN)
		ctrlr_rescan(c);
	if (kicks & KICK_ANA)
		ctrlr_ana(c);
	if (kicks & KICK_HEALTH)
		read_event_page(c, NVME_LOG_SMART, NVME_LOG_SMART_SIZE);
	if (kicks & KICK_ERROR_LOG)
		read_event_page(c, NVME_LOG_ERROR, NVME_LOG_ERROR_SIZE);
	if (kicks & KICK_RESERVATION) {
		read_event_page(c, NVME_LOG_RESERVATION, 64);
		announce_all(c, DEVICE_RESERVATION);
	}
}

/* ---- the worker --------------------------------------------------------------------------- */

static void ctrlr_free(struct nvmf_ctrlr *c)
{
	fence_forget(c);
	queue_free(c->admin);
	list_del(&c->link);
	if (--nctrlrs == 0) /* nobody is in line any more */
		timer_disarm(reactor_self(), &spawn_again);
	free(c->groups);
	free(c);
}

/* The lock is held and goes with it. */
static void ctrlr_finish(struct nvmf_ctrlr *c)
{
	const struct ctrlr_stats *stats = &c->stats;
	struct task_event *deleted = c->deleted;
	const uint64_t now_ns = reactor_self()->now_ns;
	const uint64_t outage_ns = stats->outage_ns + (c->lost_ns != 0 ? now_ns - c->lost_ns : 0);
	char text[UNITS_TEXT_MAX];

	if (stats->lost > 0)
		log_info("%s: connections lost: %lu, time without one: %s, attempts to reconnect: "
			 "%lu, requests sent again: %lu",
			 c->name, stats->lost, duration_format(outage_ns, text), stats->attempts,
			 stats->retries);
	if (c->state == CTRLR_LIVE)
		ctrlr_shutdown(c);
	ctrlr_go(c, CTRLR_DELETING);
	timer_disarm(reactor_self(), &c->retry);
	timer_disarm(reactor_self(), &c->loss);
	ctrlr_disconnect(c, -ESHUTDOWN);
	while (c->fencing > 0) /* their commands have ended with the queue */
		task_yield();
	ctrlr_decided(c); /* a reset may have been asked for while a path of it stood */
	assert(list_empty(&c->paths) && list_empty(&c->ioqs));
	task_mutex_unlock(&c->lock);
	ctrlr_free(c);
	if (deleted != NULL)
		task_event_fire(deleted);
}

/* One round of what was asked for. False: the controller is gone. */
static bool ctrlr_step(struct nvmf_ctrlr *c)
{
	unsigned kicks = c->kicks;

	c->kicks = 0;
	if (kicks & KICK_DELETE) {
		ctrlr_finish(c);
		return false;
	}
	if (kicks & KICK_LOSS_DUE && c->state == CTRLR_RESETTING)
		ctrlr_die(c);
	if (kicks & KICK_GIVE_UP && c->state != CTRLR_DEAD) {
		if (c->lost_ns == 0)
			c->lost_ns = reactor_self()->now_ns;
		ctrlr_die(c);
	}
	if (kicks & (KICK_LOST | KICK_RESET) && c->state == CTRLR_LIVE)
		ctrlr_lose(c, !(kicks & KICK_LOST));
	else if (kicks & KICK_RESET && c->state == CTRLR_DEAD)
		ctrlr_decided(c);
	if (kicks & KICK_CONNECT && c->state == CTRLR_RESETTING)
		ctrlr_attempt(c);
	if (c->state == CTRLR_LIVE)
		ctrlr_live_work(c, kicks);
	return true;
}

/* One round for each in turn: who always has something to do holds up nobody. */
static void ctrlr_work(struct nvmf_ctrlr *c)
{
	task_mutex_lock(&c->lock);
	if (!ctrlr_step(c))
		return;
	task_mutex_unlock(&c->lock);
	c->is_queued = c->kicks != 0;
	if (c->is_queued)
		list_add_tail(&line, &c->work);
}

static void worker_run(void *arg)
{
	struct nvmf_ctrlr *c;

	(void)arg;
	while ((c = list_first_entry(&line, struct nvmf_ctrlr, work)) != NULL) {
		list_del(&c->work);
		ctrlr_work(c);
	}
	nworkers--;
}

static void spawn_again_due(struct timer *timer)
{
	(void)timer;
	workers_start();
}

static void workers_start(void)
{
	const unsigned want = CTRLR_WORKERS_MAX;

	if (list_empty(&line) || nworkers == want)
		return;
	if (task_spawn("nvmf", worker_run, NULL) == 0) {
		nworkers++;
		return;
	}
	if (nworkers > 0)
		return; /* one of those will come to it */
	spawn_again.fn = spawn_again_due;
	timer_arm(reactor_self(), &spawn_again, 100 * NS_PER_MS);
}

void ctrlr_kick(struct nvmf_ctrlr *c, unsigned kicks)
{
	if (kicks == 0)
		return;
	c->kicks |= kicks;
	if (c->is_queued)
		return;
	c->is_queued = true;
	list_add_tail(&line, &c->work);
	workers_start();
}

static void retry_due(struct timer *timer)
{
	ctrlr_kick(container_of(timer, struct nvmf_ctrlr, retry), KICK_CONNECT);
}

static void loss_due(struct timer *timer)
{
	struct nvmf_ctrlr *c = container_of(timer, struct nvmf_ctrlr, loss);

	if (c->state == CTRLR_CONNECTING)
		queue_disconnect(c->admin, -ETIMEDOUT); /* the attempt ends now */
	ctrlr_kick(c, KICK_LOSS_DUE);
}

/* ---- coming and going --------------------------------------------------------------------- */

static int ctrlr_new(const struct nvmf_opts *opts, bool is_discovery, struct nvmf_ctrlr **ret,
		     struct err *err)
{
	bool is_v6 = strchr(opts->host, ':') != NULL;
	struct nvmf_ctrlr *c;
	int result;

	if (nctrlrs == CTRLRS_MAX)
		return err_set(err, -EMFILE, "%d controllers are connected, more are not possible",
			       CTRLRS_MAX);
	c = calloc(1, sizeof(*c));
	if (c == NULL)
		return err_set(err, -ENOMEM, "no memory for a controller");
	c->opts = *opts;
	c->is_discovery = is_discovery;
	c->refs = 1;
	(void)snprintf(c->name, sizeof(c->name), "%s%s%s:%u/%s", is_v6 ? "[" : "", opts->host,
		       is_v6 ? "]" : "", opts->port, opts->subnqn);
	c->retry.fn = retry_due;
	c->loss.fn = loss_due;
	c->again.fn = again_due;
	list_init(&c->ioqs);
	list_init(&c->paths);
	list_init(&c->work);
	list_init(&c->waiters);
	task_mutex_init(&c->lock);
	result = ctrlr_admin_new(c, err);
	if (result < 0) {
		free(c);
		return result;
	}
	list_add_tail(&table, &c->link);
	nctrlrs++;
	*ret = c;
	return 0;
}

/* The first time: in the caller's task, and a failure is the end of it. */
static int ctrlr_bring_up(struct nvmf_ctrlr *c, struct err *err)
{
	struct err why = {};
	int result;

	task_mutex_lock(&c->lock);
	ctrlr_go(c, CTRLR_CONNECTING);
	result = ctrlr_connect(c, &why);
	if (result == 0) {
		ctrlr_go(c, CTRLR_LIVE);
		c->stats.connects++;
		log_debug("%s: connected, controller %u, %s, serial %s", c->name, c->cntlid,
			  c->info.mn, c->info.sn);
	} else {
		c->why = why;
		(void)err_set(err, result, "%s", err_text(&why));
		ctrlr_disconnect(c, -ECONNABORTED);
		ctrlr_go(c, CTRLR_DEAD);
	}
	ctrlr_decided(c);
	fence_kick();
	task_mutex_unlock(&c->lock);
	return result;
}

static int ctrlr_wait_decided(struct nvmf_ctrlr *c, struct err *err)
{
	struct ctrlr_wait wait = {};

	if (c->state == CTRLR_LIVE)
		return 0;
	if (c->state == CTRLR_RESETTING)
		return err_set(err, -ENOTCONN,
			       "the controller is being reconnected (%s); try again later",
			       err_text(&c->why));
	list_add_tail(&c->waiters, &wait.link);
	task_event_wait(&wait.event);
	return c->state == CTRLR_LIVE ? 0 : err_set(err, -ENOTCONN, "%s", err_text(&c->why));
}

static struct nvmf_ctrlr *ctrlr_find(const struct nvmf_opts *opts)
{
	struct nvmf_ctrlr *c;

	list_for_each (c, &table, link) {
		if (!c->is_discovery && !c->is_leaving && c->state != CTRLR_DEAD &&
		    nvmf_opts_same_ctrlr(&c->opts, opts))
			return c;
	}
	return NULL;
}

int ctrlr_get(const struct nvmf_opts *opts, struct nvmf_ctrlr **ret, struct err *err)
{
	struct nvmf_ctrlr *c = ctrlr_find(opts);
	int result;

	if (c != NULL) {
		c->refs++;
		result = ctrlr_wait_decided(c, err);
	} else {
		result = ctrlr_new(opts, false, &c, err);
		if (result < 0)
			return result;
		result = ctrlr_bring_up(c, err);
	}
	if (result < 0) {
		ctrlr_put(c);
		return result;
	}
	*ret = c;
	return 0;
}

int ctrlr_get_later(const struct nvmf_opts *opts, const struct err *why, struct nvmf_ctrlr **ret,
		    struct err *err)
{
	struct nvmf_ctrlr *c = ctrlr_find(opts);
	int result;

	if (c != NULL) {
		c->refs++;
		*ret = c;
		return 0;
	}
	result = ctrlr_new(opts, false, &c, err);
	if (result < 0)
		return result;
	c->why = *why;
	c->lost_ns = reactor_self()->now_ns;
	ctrlr_go(c, CTRLR_CONNECTING);
	ctrlr_go(c, CTRLR_RESETTING);
	timer_arm(reactor_self(), &c->loss, c->opts.ctrl_loss_ns);
	timer_arm(reactor_self(), &c->retry, c->opts.reconnect_delay_ns);
	*ret = c;
	return 0;
}

int ctrlr_get_discovery(const struct nvmf_opts *opts, struct nvmf_ctrlr **ret, struct err *err)
{
	struct nvmf_ctrlr *c;
	int result = ctrlr_new(opts, true, &c, err);

	if (result < 0)
		return result;
	result = ctrlr_bring_up(c, err);
	if (result < 0)
		ctrlr_put(c);
	else
		*ret = c;
	return result;
}

void ctrlr_put(struct nvmf_ctrlr *c)
{
	struct task_event deleted = {};

	if (c == NULL || --c->refs > 0)
		return;
	c->is_leaving = true;
	if (c->is_queued && list_empty(&c->work)) {
		/* its worker is at it; an attempt under way would only be in the way */
		if (c->state == CTRLR_CONNECTING)
			queue_disconnect(c->admin, -ECANCELED);
		c->deleted = &deleted;
		ctrlr_kick(c, KICK_DELETE);
		task_event_wait(&deleted);
		return;
	}
	/* here and now: the end of things must need nothing, not even a task */
	list_del(&c->work);
	c->is_queued = true;
	task_mutex_lock(&c->lock);
	ctrlr_finish(c);
}
