/* SPDX-License-Identifier: Apache-2.0 */
/*
 * health.c - how the children that serve are doing: warnings, long before one has to go.
 *
 * A child that fails is retired, and everybody hears of it. Most disks and networks get worse
 * first, and a mirror hides that well: reads go to the other copy, writes just take longer. So
 * somebody looks, and says what a person would want to know.
 *
 *   warning       begins when                                          ends when
 *   stall         a reactor or a task waits for it, and has had no     for CALM_LOOKS nobody did
 *                 answer for `stall_warn`, or half of child_timeout
 *   slow          its reads or writes took, on average, SLOW_FACTOR    in as many they took less
 *                 times what they took the others, and more than       than half of that
 *                 `slow_warn`, in SLOW_WINDOWS windows in a row
 *   errors        it failed ERRORS_MAX requests in ERRORS_WINDOW       a window had less than half
 *                 that others answered, and stayed
 *   media-errors  its SMART count grew                                 not for CALM_SMARTS readings
 *   spare, worn, hot, unreliable, read-only, backup: SMART says so     it does not any more
 *
 * Only looking. None of this retires a child. What is slow or worn still holds a copy, and to drop
 * it on suspicion would trade a delay for a mirror without redundancy; load, a rebuild elsewhere
 * or a busy network look the same from here. What certainly costs hosts something has rules of its
 * own (verdict.c, watch.c), which act on facts about one request. A person, or a control plane, may
 * take a child offline for what is said here: they know if there is a spare.
 *
 * Cost. Nothing per request. The device layer counts and times what each child's device does, and
 * watch.c knows since when a reactor has waited for one. A task of the primary reads these numbers
 * once per tick, without stopping who writes them, as every reader of statistics does. It runs
 * only while there is something to see:
 *
 *   asleep --a watch starts or ticks, a block wants repair, a task asks a child--> awake, each tick
 *   awake  --nothing was answered, nothing waits, no warning that time ends--> asleep
 *
 * So an idle nexus does not wake, but for SMART, once per `smart_every` and only where a child has
 * it. A look that falls asleep too early is woken by the next tick of the watch.
 *
 * Latency is the mean of a window: exact, two numbers, and a tail that hosts feel moves it. A
 * window ends at the first look with SAMPLES_MIN answers, so few requests make long windows, not
 * wild ones. Children are compared with the median of the others, of which it takes at least one:
 * alone there is no telling slow from busy. While a rebuild runs nothing is judged, because it
 * sends other requests to some children than to others.
 *
 * SMART is read by a task of its own, since an answer may take long: at the start, when a child
 * comes, then now and again, and when its driver says that something about the medium changed. Who
 * hangs delays only the next reading. child_use() keeps the child's device there meanwhile, and
 * the monitor cuts what does not answer when the child or the nexus ends. A child that is no NVMe
 * device, or refuses SMART_TRIES times, is not asked again until it is opened anew. A controller
 * that leaves any admin command unanswered is given up by its driver; this one is no exception.
 *
 * Rejected: percentiles of the window (a copy of two histograms per child, for a verdict that
 * needs no more than a factor of four); a smoothed mean (how long it remembers would depend on the
 * load); one limit of latency for all (a disk and a memory device differ by more than any fault
 * does); acting on it after a grace time (that is retiring, only later).
 *
 * Invariants: warnings of a child exist only while its device is open; each begins and ends once,
 * by one event, or ends with the device; no timer is armed after nexus_health_stop().
 *
 * Thread: tasks of the primary; nexus_health_wake() (internal.h) anywhere.
 */
#include <errno.h>

#include "base/log.h"
#include "base/units.h"
#include "device/nvme_cmds.h"
#include "nexus/internal.h"
#include "nexus/rebuild.h"

enum {
	SAMPLES_MIN = 8,    /* answers in a window of latency */
	SLOW_FACTOR = 4,    /* times the median of the others */
	SLOW_WINDOWS = 5,   /* in a row, to begin and to end */
	STALE_LOOKS = 60,   /* a mean that is older is not compared with */
	CALM_LOOKS = 5,     /* without a stall, to end one */
	ERRORS_MAX = 10,    /* in ERRORS_WINDOW looks */
	ERRORS_WINDOW = 60, /* looks: a minute, at a second each */
	CALM_SMARTS = 10,   /* readings without new media errors */
	SMART_TRIES = 3,    /* failures in a row */
	USED_UP = 100,      /* percent of what it was made for */
	DETAIL_MAX = 160,   /* bytes of an event's text */
};

#define SMART_GAP (1 * NS_PER_S) /* between two readings, whatever a device announces */

/* Reads or writes of one child. */
struct span {
	uint64_t count, sum_ns; /* the device's, when the window began */
	uint64_t mean_ns;       /* of the last window; 0: none yet */
	uint8_t age;            /* looks since that ended */
	uint8_t streak;         /* windows that spoke against is_slow */
	bool is_fresh;          /* a window ended in this look */
	bool is_slow;
};

struct vitals {
	uint32_t warnings; /* 1 << enum nexus_warning */
	struct span span[2];
	uint64_t nanswered; /* at the last look, reads and writes */
	uint8_t calm;       /* looks without a stall, while it is warned of */
	/* requests that it failed: when the window began, and at the last look */
	uint64_t nerrors, nerrors_seen, errors_ns;
	/* SMART */
	bool has_smart, is_mute;
	uint8_t failures, calm_smarts;
	uint64_t asked_ns, due_ns; /* reactor clock */
	struct nvme_health smart;
};

struct health {
	struct nexus *nx;
	struct timer timer;
	bool is_stopped;
	struct vitals vitals[NEXUS_CHILDREN_MAX]; /* by slot */
};

static const enum io_op span_op[2] = { IO_READ, IO_WRITE };

const char *nexus_warning_name(enum nexus_warning warning)
{
	static const char *const names[] = {
		[NEXUS_WARN_STALL] = "stall",
		[NEXUS_WARN_SLOW] = "slow",
		[NEXUS_WARN_ERRORS] = "errors",
		[NEXUS_WARN_MEDIA_ERRORS] = "media-errors",
		[NEXUS_WARN_SPARE] = "spare",
		[NEXUS_WARN_WORN] = "worn",
		[NEXUS_WARN_HOT] = "hot",
		[NEXUS_WARN_UNRELIABLE] = "unreliable",
		[NEXUS_WARN_READ_ONLY] = "read-only",
		[NEXUS_WARN_BACKUP] = "backup",
	};

	static_assert(ARRAY_LEN(names) == NEXUS_WARN_COUNT_, "a name for each warning");
	return names[warning];
}

/* ---- telling -------------------------------------------------------------------------------- */

static struct vitals *vitals_of(const struct child *child)
{
	return &child->nx->health->vitals[child->slot];
}

static bool is_warned(const struct vitals *v, enum nexus_warning warning)
{
	return v->warnings >> warning & 1;
}

/* It is so, or not: told if that is new. */
static void warn(struct child *child, enum nexus_warning warning, bool is_on, const char *fmt, ...)
	PRINTF(4, 5);

static void warn(struct child *child, enum nexus_warning warning, bool is_on, const char *fmt, ...)
{
	struct vitals *v = vitals_of(child);
	struct nexus_event event = { .type = NEXUS_EVENT_HEALTH,
				     .nx = child->nx,
				     .child = child->uri,
				     .warning = warning,
				     .is_ok = !is_on };
	char detail[DETAIL_MAX];
	va_list args;

	if (is_warned(v, warning) == is_on)
		return;
	v->warnings ^= 1u << warning;
	va_start(args, fmt);
	(void)vsnprintf(detail, sizeof(detail), fmt, args);
	va_end(args);
	if (is_on)
		log_warn("nexus %s: child %s, %s: %s", child->nx->dev.name, child->uri,
			 nexus_warning_name(warning), detail);
	else
		log_info("nexus %s: child %s, %s no more: %s", child->nx->dev.name, child->uri,
			 nexus_warning_name(warning), detail);
	event.health = child_health_of(child);
	event.reason = child_reason_of(atomic_load(&child->word));
	event.detail = detail;
	nexus_tell_event(&event);
}

/* ---- stalls --------------------------------------------------------------------------------- */

/* Since when somebody waits for @child that got no answer; 0: nobody does. */
static uint64_t silent_since(const struct child *child)
{
	const struct nexus *nx = child->nx;
	uint64_t since = child->nwaits > 0 ? child->waiting_ns : 0;

	for (unsigned i = 0; i < reactor_count(); i++) {
		const struct nexus_channel *nc;
		uint64_t ns;

		if (nx->dev.channel[i] == NULL)
			continue;
		nc = container_of(nx->dev.channel[i], struct nexus_channel, ch);
		ns = atomic_load(&nc->leg[child->slot].silent_ns);
		if (ns != 0 && (since == 0 || ns < since))
			since = ns;
	}
	return since;
}

static bool look_at_silence(struct child *child, uint64_t now_ns)
{
	struct vitals *v = vitals_of(child);
	uint64_t since_ns = silent_since(child);
	uint64_t limit_ns = MIN(child->nx->stall_ns, child->nx->child_timeout_ns / 2);
	/* the watch of a busy reactor has seen an answer at its last tick only */
	uint64_t least_ns = 2 * nexus_watch_tick_ns(child->nx);
	char text[UNITS_TEXT_MAX];

	if (child->nx->stall_ns == UINT64_MAX)
		return since_ns != 0;
	if (since_ns != 0 && now_ns > since_ns && now_ns - since_ns >= MAX(limit_ns, least_ns)) {
		v->calm = 0;
		warn(child, NEXUS_WARN_STALL, true, "it has answered nothing for %s",
		     duration_format(now_ns - since_ns, text));
	} else if (is_warned(v, NEXUS_WARN_STALL) && ++v->calm >= CALM_LOOKS) {
		warn(child, NEXUS_WARN_STALL, false, "it answers again");
	}
	return since_ns != 0 || is_warned(v, NEXUS_WARN_STALL);
}

/* ---- latency -------------------------------------------------------------------------------- */

/* The window goes on, or ends here, or begins here because it is worth nothing. */
static void span_look(struct span *span, const struct op_stats *s, bool is_void)
{
	uint64_t count = s->latency.count, sum_ns = s->latency.sum_ns;

	span->is_fresh = false;
	span->age += span->age < UINT8_MAX;
	/* fewer than before: somebody has reset the statistics */
	if (is_void || count < span->count || sum_ns < span->sum_ns) {
		span->streak = 0;
	} else if (count - span->count >= SAMPLES_MIN) {
		span->mean_ns = MAX((sum_ns - span->sum_ns) / (count - span->count), 1u);
		span->age = 0;
		span->is_fresh = true;
	} else {
		return;
	}
	span->count = count;
	span->sum_ns = sum_ns;
}

/* Of the others' means, the lower one of two; 0: there is none that could be compared with. */
static uint64_t median_of_others(const struct child *child, unsigned which)
{
	const struct nexus *nx = child->nx;
	uint64_t mean[NEXUS_CHILDREN_MAX];
	unsigned n = 0;

	for (unsigned i = 0; i < nx->nchildren; i++) {
		const struct child *other = nx->child[nx->order[i]];
		const struct span *span = &vitals_of(other)->span[which];
		unsigned at = n;

		if (other == child || other->desc == NULL || span->mean_ns == 0 ||
		    span->age > STALE_LOOKS)
			continue;
		for (; at > 0 && mean[at - 1] > span->mean_ns; at--)
			mean[at] = mean[at - 1];
		mean[at] = span->mean_ns;
		n++;
	}
	return n > 0 ? mean[(n - 1) / 2] : 0;
}

static void judge_latency(struct child *child, unsigned which)
{
	struct vitals *v = vitals_of(child);
	struct span *span = &v->span[which];
	uint64_t floor_ns = child->nx->slow_ns, median_ns, limit_ns;
	char mine[UNITS_TEXT_MAX], others[UNITS_TEXT_MAX];

	if (!span->is_fresh || floor_ns == UINT64_MAX)
		return;
	median_ns = median_of_others(child, which);
	if (median_ns == 0)
		return;
	limit_ns = MAX(floor_ns, SLOW_FACTOR * median_ns);
	if (span->is_slow)
		limit_ns /= 2;
	span->streak = (span->mean_ns > limit_ns) != span->is_slow ? span->streak + 1 : 0;
	if (span->streak < SLOW_WINDOWS)
		return;
	span->streak = 0;
	span->is_slow = !span->is_slow;
	warn(child, NEXUS_WARN_SLOW, v->span[0].is_slow || v->span[1].is_slow,
	     "%s take %s on average, those of the others %s", which == 0 ? "reads" : "writes",
	     duration_format(span->mean_ns, mine), duration_format(median_ns, others));
}

/* ---- errors --------------------------------------------------------------------------------- */

static uint64_t errors_of(const struct child *child)
{
	uint64_t reads, writes;

	nexus_child_errors(child, &reads, &writes);
	return reads + writes;
}

static bool look_at_errors(struct child *child, uint64_t now_ns)
{
	struct vitals *v = vitals_of(child);
	uint64_t n = v->nerrors_seen - v->nerrors;

	/* what came since the last look is the next window's: it may have been long ago */
	if (now_ns - v->errors_ns >= ERRORS_WINDOW * nexus_settings.health_tick_ns) {
		if (n < ERRORS_MAX / 2)
			warn(child, NEXUS_WARN_ERRORS, false, "%lu requests failed lately", n);
		v->nerrors = v->nerrors_seen;
		v->errors_ns = now_ns;
	}
	v->nerrors_seen = errors_of(child);
	n = v->nerrors_seen - v->nerrors;
	if (n >= ERRORS_MAX)
		warn(child, NEXUS_WARN_ERRORS, true, "%lu requests failed", n);
	return is_warned(v, NEXUS_WARN_ERRORS);
}

/* ---- looking -------------------------------------------------------------------------------- */

/* True: there was something to see, so look again. */
static bool look_at_child(struct child *child, uint64_t now_ns, bool is_void)
{
	struct vitals *v = vitals_of(child);
	uint64_t nanswered = 0;
	bool is_busy;

	for (unsigned i = 0; i < ARRAY_LEN(v->span); i++) {
		struct op_stats stats;

		device_op_stats(child->desc->dev, span_op[i], &stats);
		nanswered += stats.ops + stats.errors;
		span_look(&v->span[i], &stats, is_void);
	}
	is_busy = nanswered != v->nanswered;
	v->nanswered = nanswered;
	is_busy |= look_at_silence(child, now_ns);
	is_busy |= look_at_errors(child, now_ns);
	return is_busy;
}

static bool is_serving(const struct child *child)
{
	return child->desc != NULL && child_state_of(atomic_load(&child->word)) == CHILD_OPEN;
}

static void plan(struct nexus *nx)
{
	struct reactor *r = reactor_primary();
	uint64_t due_ns = UINT64_MAX, tick_ns = nexus_settings.health_tick_ns;

	if (nx->health->is_stopped || nx->is_ended)
		return;
	if (atomic_load(&nx->is_observed))
		due_ns = r->now_ns + tick_ns;
	for (unsigned i = 0; i < nx->nchildren && nx->smart_ns != UINT64_MAX; i++) {
		const struct child *child = nx->child[nx->order[i]];
		const struct vitals *v = vitals_of(child);

		/* one that is due is being asked, or will be in a tick */
		if (child->desc != NULL && !v->is_mute)
			due_ns = MIN(due_ns, MAX(v->due_ns, r->now_ns + tick_ns));
	}
	if (due_ns != UINT64_MAX)
		timer_arm(r, &nx->health->timer, due_ns - r->now_ns);
}

void nexus_look_run(struct nexus *nx)
{
	bool is_void = nexus_rebuild_count(nx) > 0, is_busy = false;
	uint64_t now_ns = reactor_primary()->now_ns;

	if (nx->health->is_stopped || nx->is_ended || nx->state != NEXUS_OPEN) {
		atomic_store(&nx->is_observed, false);
		return;
	}
	atomic_store(&nx->is_observed, true);
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];

		if (is_serving(child))
			is_busy |= look_at_child(child, now_ns, is_void);
	}
	for (unsigned i = 0; i < nx->nchildren; i++) {
		struct child *child = nx->child[nx->order[i]];

		for (unsigned which = 0; which < ARRAY_LEN(span_op) && is_serving(child); which++)
			judge_latency(child, which);
	}
	atomic_store(&nx->is_observed, is_busy);
	plan(nx);
}

static bool smart_is_due(const struct child *child)
{
	const struct vitals *v = vitals_of(child);

	return is_serving(child) && !v->is_mute && v->due_ns <= reactor_primary()->now_ns;
}

static void health_due(struct timer *timer)
{
	struct nexus *nx = container_of(timer, struct health, timer)->nx;
	bool is_due = false;

	for (unsigned i = 0; i < nx->nchildren; i++)
		is_due |= smart_is_due(nx->child[nx->order[i]]);
	if (is_due && nx->smart_ns != UINT64_MAX)
		errand_ring(&nx->smart);
	if (atomic_load(&nx->is_observed))
		errand_ring(&nx->look);
	else if (is_due) /* by a task that hangs: the rest is not forgotten */
		plan(nx);
}

/* ---- SMART ---------------------------------------------------------------------------------- */

static void judge_smart(struct child *child, const struct nvme_health *now)
{
	const struct {
		enum nexus_warning warning;
		bool is_on;
	} verdicts[] = {
		{ NEXUS_WARN_SPARE,
		  now->critical & NVME_CRITICAL_SPARE || now->spare < now->spare_threshold },
		{ NEXUS_WARN_WORN, now->used >= USED_UP },
		{ NEXUS_WARN_HOT, now->critical & NVME_CRITICAL_TEMPERATURE },
		{ NEXUS_WARN_UNRELIABLE,
		  now->critical & (NVME_CRITICAL_RELIABILITY | NVME_CRITICAL_MEMORY) },
		{ NEXUS_WARN_READ_ONLY, now->critical & NVME_CRITICAL_READ_ONLY },
		{ NEXUS_WARN_BACKUP, now->critical & NVME_CRITICAL_BACKUP },
	};
	struct vitals *v = vitals_of(child);
	/* those it had before we came are no news */
	bool has_grown = v->has_smart && now->media_errors > v->smart.media_errors;

	for (unsigned i = 0; i < ARRAY_LEN(verdicts); i++)
		warn(child, verdicts[i].warning, verdicts[i].is_on,
		     "SMART says warnings %#x, spare %u %% (at least %u %%), used %u %%, %u K",
		     now->critical, now->spare, now->spare_threshold, now->used,
		     now->temperature_k);
	v->calm_smarts = has_grown ? 0 : v->calm_smarts + (v->calm_smarts < UINT8_MAX);
	if (has_grown)
		warn(child, NEXUS_WARN_MEDIA_ERRORS, true, "SMART counts %lu, and %lu before",
		     now->media_errors, v->smart.media_errors);
	else if (v->calm_smarts >= CALM_SMARTS)
		warn(child, NEXUS_WARN_MEDIA_ERRORS, false, "SMART counts %lu", now->media_errors);
	v->smart = *now;
	v->has_smart = true;
	v->failures = 0;
}

static void smart_failed(struct child *child, const struct err *err)
{
	struct vitals *v = vitals_of(child);

	v->is_mute = err->code == -EOPNOTSUPP || ++v->failures >= SMART_TRIES;
	if (v->is_mute)
		log_debug("nexus %s: child %s is not asked for SMART any more: %s",
			  child->nx->dev.name, child->uri, err_text(err));
}

static void smart_ask(struct child *child) MAY_SUSPEND
{
	struct vitals *v = vitals_of(child);
	struct desc *desc = child_use(child);
	struct nvme_health now;
	struct err err = {};
	struct handle *h;
	int result;

	if (desc == NULL)
		return;
	v->asked_ns = reactor_primary()->now_ns;
	v->due_ns = v->asked_ns + child->nx->smart_ns;
	result = handle_open(desc, reactor_primary(), &h, &err);
	if (result == 0)
		result = nvme_health(h, &now, &err);
	if (is_serving(child) && !child->is_leaving) { /* else it is none of ours any more */
		if (result == 0)
			judge_smart(child, &now);
		else
			smart_failed(child, &err);
	}
	child_unuse(child);
}

void nexus_smart_run(struct nexus *nx)
{
	for (unsigned slot = 0; slot < NEXUS_CHILDREN_MAX; slot++) {
		struct child *child = nx->child[slot];

		if (nx->health->is_stopped || nx->is_ended || nx->smart_ns == UINT64_MAX)
			return;
		if (child != NULL && smart_is_due(child))
			smart_ask(child);
	}
	plan(nx);
}

/* ---- coming and going ----------------------------------------------------------------------- */

struct health *nexus_health_new(struct nexus *nx)
{
	struct health *health = calloc(1, sizeof(*health));

	if (health != NULL) {
		health->nx = nx;
		health->timer.fn = health_due;
	}
	return health;
}

void nexus_health_stop(struct nexus *nx)
{
	if (nx->health == NULL)
		return;
	nx->health->is_stopped = true;
	timer_disarm(reactor_primary(), &nx->health->timer);
}

void nexus_health_child(struct child *child)
{
	struct vitals *v = vitals_of(child);

	v->nerrors = v->nerrors_seen = errors_of(child);
	v->errors_ns = reactor_primary()->now_ns;
	errand_ring(&child->nx->smart);
}

void nexus_health_medium(struct child *child)
{
	struct vitals *v = vitals_of(child);

	v->due_ns = v->asked_ns + SMART_GAP;
	plan(child->nx);
}

void nexus_health_forget(struct child *child)
{
	*vitals_of(child) = (struct vitals){};
}

void nexus_health_of(const struct child *child, struct nexus_child_info *ret)
{
	const struct vitals *v = vitals_of(child);

	if (!is_serving(child))
		return;
	ret->warnings = v->warnings;
	ret->has_smart = v->has_smart;
	ret->smart = v->smart;
}
