// SPDX-License-Identifier: Apache-2.0
/*
 * resv.c - one owner per replica: reservations that a nexus takes on its NVMe children.
 *
 *   register   our key, whatever was registered for us before
 *   policy     ArgKey: acquire; with a key to preempt, preempt that one's owner
 *              Holder: whoever holds it now is preempted, see holder()
 *   verify     is it as we wanted? else the child cannot be used
 *
 * Two engines may believe that a volume is theirs, after a partition for instance. The second takes
 * the reservation from the first, whose next write meets a conflict: then it ends itself (io.c,
 * retire.c), and hosts find the volume on the other.
 *
 *   held by, as                      wanted           the policy Holder does
 *   nobody                           any              acquire
 *   us, same type and key            same             nothing
 *   a type for one registrant        any              preempt the holder by his key; were we that
 *                                                     holder: register again; acquire
 *   a type for all registrants       for one          release, acquire
 *   a type for all registrants       for all          nothing
 *
 * Children that are no NVMe devices have no reservations, nor have controllers that do not know
 * them: both are used without. Nothing is released when the nexus ends: the next owner preempts or
 * replaces, and until then nobody writes.
 *
 * Off unless asked for (nexus_opts.is_reserving, the setting, or NEXUS_NVMF_RESV_ENABLE in the
 * environment), as in the engine that this one stands in for.
 *
 * Thread: tasks on the primary.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "device/nvme_cmds.h"
#include "nexus/internal.h"

enum {
	REGISTRANTS_MAX = 256, /* that are looked at; a report may have more */
	REPORT_SIZE = sizeof(struct nvme_resv_status) +
		      REGISTRANTS_MAX * sizeof(struct nvme_resv_registrant),
};

/* A report, and who we are in it. */
struct resv_view {
	enum nvme_resv_type type;
	bool is_held, is_ours; /* ours: we hold it, perhaps among others */
	uint64_t key;          /* the holder's; ours if we are one */
	uint8_t host[16];      /* our id */
};

static bool is_for_all(enum nvme_resv_type type)
{
	return type == NVME_RESV_WRITE_EXCLUSIVE_ALL || type == NVME_RESV_EXCLUSIVE_ACCESS_ALL;
}

static void view_of(const struct nvme_resv_status *report, struct resv_view *view)
{
	unsigned n = MIN((unsigned)le16_get(report->regctl), (unsigned)REGISTRANTS_MAX);

	view->type = (enum nvme_resv_type)report->rtype;
	view->is_held = view->is_ours = false;
	view->key = 0;
	for (unsigned i = 0; i < n && view->type != NVME_RESV_NONE; i++) {
		const struct nvme_resv_registrant *reg = &report->registrant[i];
		bool is_us = memcmp(reg->hostid, view->host, sizeof(view->host)) == 0;

		if (!(reg->rcsts & 1) || view->is_ours)
			continue;
		view->is_held = true;
		view->is_ours = is_us;
		view->key = le64_get(reg->rkey);
	}
}

static int look(struct handle *h, struct resv_view *view, struct err *err) MAY_SUSPEND
{
	CLEANUP(freep) struct nvme_resv_status *report = calloc(1, REPORT_SIZE);
	int result;

	if (report == NULL)
		return err_set(err, -ENOMEM, "no memory for a reservation report");
	result = nvme_resv_report(h, true, report, REPORT_SIZE, err);
	if (result == 0)
		view_of(report, view);
	return result;
}

static int join(const struct nexus *nx, struct handle *h, struct err *err) MAY_SUSPEND
{
	enum nvme_resv_persist persist = nexus_settings.is_resv_persistent ? NVME_RESV_CPTPL_PERSIST
									   : NVME_RESV_CPTPL_FORGET;

	return nvme_resv_register(h, 0, nx->resv_key, NVME_RESV_REPLACE, persist, err);
}

static int acquire(const struct nexus *nx, struct handle *h, uint64_t preempt_key,
		   struct err *err) MAY_SUSPEND
{
	return nvme_resv_acquire(h, nx->resv_key, preempt_key,
				 preempt_key != 0 ? NVME_RESV_PREEMPT : NVME_RESV_ACQUIRE,
				 (enum nvme_resv_type)nx->resv_type, err);
}

/* The policy Holder. */
static int holder(const struct nexus *nx, struct handle *h, struct resv_view *view,
		  struct err *err) MAY_SUSPEND
{
	enum nvme_resv_type wanted = (enum nvme_resv_type)nx->resv_type;
	int result = look(h, view, err);

	if (result < 0)
		return result;
	if (!view->is_held)
		return acquire(nx, h, 0, err);
	if (view->is_ours && view->type == wanted && view->key == nx->resv_key)
		return 0;
	if (is_for_all(view->type)) {
		if (is_for_all(wanted))
			return 0;
		result = nvme_resv_release(h, nx->resv_key, NVME_RESV_RELEASE, view->type, err);
		return result < 0 ? result : acquire(nx, h, 0, err);
	}
	result = acquire(nx, h, view->key, err);
	if (result == 0 && view->is_ours)
		result = join(nx, h, err); /* the preemption took our registration, too */
	return result < 0 ? result : acquire(nx, h, 0, err);
}

static int verify(const struct nexus *nx, struct handle *h, struct resv_view *view,
		  struct err *err) MAY_SUSPEND
{
	enum nvme_resv_type wanted = (enum nvme_resv_type)nx->resv_type;
	int result = look(h, view, err);

	if (result < 0)
		return result;
	if (view->type != wanted && !(is_for_all(view->type) && is_for_all(wanted)))
		return err_set(err, -EBADE, "ResvType: its reservation is of type %u, not %u",
			       view->type, wanted);
	if (is_for_all(wanted))
		return 0;
	if (!view->is_held)
		return err_set(err, -EBADE, "ResvNoHolder: nobody holds its reservation");
	if (!view->is_ours || view->key != nx->resv_key)
		return err_set(err, -EBADE, "Holder: its reservation is held with the key %#lx",
			       view->key);
	return 0;
}

static int reserve(const struct nexus *nx, struct handle *h, struct err *err) MAY_SUSPEND
{
	struct resv_view view = {};
	int result = join(nx, h, err);

	if (result == -EOPNOTSUPP) {
		err_clear(err);
		return 0;
	}
	if (result == 0)
		result = nvme_host_id(h, view.host, err);
	if (result == 0)
		result = nx->preempt_policy == NEXUS_PREEMPT_HOLDER
				 ? holder(nx, h, &view, err)
				 : acquire(nx, h, nx->preempt_key, err);
	return result < 0 ? result : verify(nx, h, &view, err);
}

int nexus_reserve(struct child *child, struct nexus_err *ne)
{
	struct desc *desc = child->nx->is_reserving ? child_use(child) : NULL;
	struct handle *h;
	struct err err = {};
	int result;

	if (desc == NULL)
		return 0;
	result = handle_open(desc, reactor_primary(), &h, &err);
	if (result == 0 && h->ops & IO_BIT(IO_NVME_IO) && h->ops & IO_BIT(IO_NVME_ADMIN))
		result = reserve(child->nx, h, &err);
	child_unuse(child);
	if (result < 0)
		return nexus_fail(ne, NEXUS_E_OPEN_CHILD, "child %s cannot be reserved: %s",
				  child->uri, err_text(&err));
	return 0;
}
