// SPDX-License-Identifier: Apache-2.0
/*
 * Reservations around the rules (resv.c): commands, what they do to I/O, disk, events.
 *
 *   command (reactor) --msg--> primary: queue of its controller --one task, controllers in turn-->
 *     try the rules on a copy -> refused: nothing happened
 *       -> rights of some host change: hold the namespace (hold.c); also where that host is not
 *            connected any more: its last commands may still be with the device
 *            -> too late: nothing happened
 *       -> the file, if the state is to survive loss of power -> failed: nothing happened
 *            -> take the copy over; rights per controller; every reactor: is anything reserved
 *            -> Preempt and Abort: end what waits of the hosts that went
 *            -> let I/O go on; what was held is checked again
 *       -> notifications -> response
 *
 * So when a host is told that it has the reservation, no write of another that has not is under way
 * any more, none will start, and a restart knows.
 *
 * The data path. Without a reservation a command tests one bit next to its namespace's handle
 * (ns_core.is_reserved). With one it looks into a table of its controller, a byte per namespace
 * (ctrlr.denied), that the primary has worked out before: no host is looked up per command. The
 * generation of the namespace table makes commands that were checked earlier, and are held or wait
 * for data, check again before they go to the device (io.c); it is counted while the subsystem is
 * on hold, so nobody slips through between.
 *
 * A registrant is a host. Its controllers come and go; the registration stays until a command takes
 * it away. Fabrics hosts have 128-bit identifiers, so Report knows only the extended structure, and
 * refuses the other with Host Identifier Inconsistent Format, as Base 7.5 wants it. Controllers are
 * dynamic: Report shows one entry per host, with FFFFh for its controller.
 *
 * PTPL is offered (RESCAP bit 0) where there is a folder for the files and the device's uuid is not
 * made up anew at each start: under another uuid the file would not be found again, and a host that
 * trusts its fence would have none.
 *
 * Notifications are kept per controller, RESV_LOG_MAX of them; of more the oldest go, which a host
 * sees by a gap in their numbers. An event is sent when there are some and the host has read one
 * since the last event.
 *
 * Invariants
 *   1. ns->resv.state changes with ss->control held, in resv_task().
 *   2. What is in ns->resv.state is on disk, if it is persistent.
 *   3. ctrlr.denied of all controllers follows from ns->resv.state whenever ss->control is free.
 *
 * Thread: the primary reactor; resv_cmd_check(), resv_cmd_is_denied() and core_* on the
 *         connection's.
 *
 * Rejected: a table of host numbers per namespace (a number for each host that ever came, and who
 * frees it); a task per command (a host could take all tasks there are).
 */
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/units.h"
#include "target/internal.h"

/* A change that is being made: too large for the stack to be a matter of course. */
struct change {
	struct resv next;
	struct resv_effects fx;
};

static struct resv_host host_of(const struct ctrlr *ctrlr)
{
	struct resv_host host;

	memcpy(host.id, ctrlr->hostid, sizeof(host.id));
	return host;
}

static void finish(struct cmd *cmd, uint16_t status)
{
	cmd->status = status;
	cmd_return(cmd);
}

/* ---- on the reactor of a connection --------------------------------------------------------- */

uint16_t resv_cmd_check(struct cmd *cmd)
{
	uint32_t cdw10 = le32_get(cmd->sqe.cdw10), size;

	cmd->is_via_primary = true;
	if (cmd->sqe.opcode == NVME_IO_RESV_REPORT) {
		uint64_t len = ((uint64_t)cdw10 + 1) * sizeof(struct le32); /* NUMD, 0's based */

		if (len > cmd->conn->core->target->opts.io_size_max)
			return NVME_SC_INVALID_FIELD | NVME_STATUS_DNR;
		cmd->dir = CMD_C2H;
		cmd->len = (uint32_t)len;
		return 0;
	}
	/* Linux sends 16 bytes also with Release, which has 8. */
	size = cmd->sqe.opcode == NVME_IO_RESV_RELEASE ? NVME_RESV_RELEASE_SIZE
						       : sizeof(struct nvme_resv_keys);
	cmd->dir = CMD_H2C;
	cmd->len = le32_get(cmd->sqe.sgl.len);
	if (cmd->len < size || cmd->len > SMALL_BUF)
		return NVME_SC_DATA_SGL_LENGTH_INVALID | NVME_STATUS_DNR;
	return 0;
}

/* One half of a fused pair is refused with the other: they are one write. */
bool resv_cmd_is_denied(const struct cmd *cmd)
{
	uint32_t nsid = le32_get(cmd->sqe.nsid);
	unsigned denied = atomic_load_explicit(&cmd->conn->denied[nsid - 1], memory_order_relaxed);
	bool is_fused = cmd->sqe.flags & NVME_CMD_FUSE_MASK;

	switch (cmd->sqe.opcode) {
	case NVME_IO_READ:
	case NVME_IO_COMPARE:
	case NVME_IO_VERIFY:
		return denied & (is_fused ? RESV_DENY_READ | RESV_DENY_WRITE : RESV_DENY_READ);
	case NVME_IO_RESV_REGISTER:
	case NVME_IO_RESV_REPORT:
	case NVME_IO_RESV_ACQUIRE:
	case NVME_IO_RESV_RELEASE:
		return false;
	default: /* whatever else there will be changes something */
		return denied & RESV_DENY_WRITE;
	}
}

static void core_abort_conn(struct conn *conn, uint32_t nsid)
{
	for (uint32_t i = 0; i < conn->ncmds; i++) {
		struct cmd *cmd = &conn->slots[i].cmd;

		if (cmd->is_via_primary || le32_get(cmd->sqe.nsid) != nsid)
			continue;
		/* Of a fused pair both halves are in some hand: they end when they would run. */
		if (cmd->fuse == 0 && (cmd->state == CMD_WAIT || cmd->state == CMD_HELD)) {
			list_del(&cmd->link);
			cmd_complete(cmd, NVME_SC_PREEMPTED_AND_ABORTED | NVME_STATUS_DNR);
		} else if (cmd->fuse != 0 || cmd->state == CMD_R2T || cmd->state == CMD_R2T_OUT) {
			cmd->is_preempted = true; /* its data still comes, then it ends */
		}
	}
}

static void core_abort(struct core *core, const struct subsys_core *sc, uint32_t nsid)
{
	struct conn *conn;

	/* A closed connection has nothing that waits, and its controller may be gone. */
	list_for_each (conn, &core->conns, link) {
		if (conn->sc == sc && conn->state != CONN_CLOSED &&
		    (atomic_load_explicit(&conn->denied[nsid - 1], memory_order_relaxed) &
		     RESV_ABORTING))
			core_abort_conn(conn, nsid);
	}
}

struct rights_swap {
	struct core *core;
	struct subsys_core *sc;
	uint32_t nsid;
	bool is_reserved, is_abort;
};

static void core_swap_rights(void *arg)
{
	struct rights_swap *swap = arg;

	swap->sc->ns[swap->nsid - 1]->is_reserved = swap->is_reserved;
	swap->sc->ns_generation++;
	if (swap->is_abort)
		core_abort(swap->core, swap->sc, swap->nsid);
}

/* ---- rights --------------------------------------------------------------------------------- */

static void ctrlr_set_rights(struct ctrlr *ctrlr, const struct ns *ns)
{
	struct resv_host host = host_of(ctrlr);

	atomic_store_explicit(&ctrlr->denied[ns->nsid - 1],
			      (uint8_t)resv_denied(&ns->resv.state, &host), memory_order_relaxed);
}

static void ns_set_rights(const struct ns *ns)
{
	struct ctrlr *ctrlr;

	list_for_each (ctrlr, &ns->subsystem->ctrlrs, link)
		ctrlr_set_rights(ctrlr, ns);
}

void resv_ctrlr_joins(struct ctrlr *ctrlr)
{
	list_init(&ctrlr->resv_cmds);
	list_init(&ctrlr->resv_link);
	for (uint32_t nsid = 1; nsid <= TARGET_NAMESPACES_MAX; nsid++) {
		const struct ns *ns = subsystem_ns(ctrlr->subsystem, nsid);

		if (ns != NULL)
			ctrlr_set_rights(ctrlr, ns);
	}
}

void resv_ns_joins(struct ns *ns)
{
	for (unsigned i = 0; i < reactor_count(); i++)
		ns->cores[i].is_reserved = ns->resv.state.type != NVME_RESV_NONE;
	ns_set_rights(ns);
}

static void mark_aborting(const struct ns *ns, const struct resv_effects *fx)
{
	struct ctrlr *ctrlr;

	list_for_each (ctrlr, &ns->subsystem->ctrlrs, link) {
		for (unsigned i = 0; i < fx->count; i++) {
			struct resv_host host = host_of(ctrlr);

			if (fx->notice[i].type == NVME_RESV_REGISTRATION_PREEMPTED &&
			    resv_host_equal(&fx->notice[i].host, &host))
				atomic_fetch_or_explicit(&ctrlr->denied[ns->nsid - 1],
							 RESV_ABORTING, memory_order_relaxed);
		}
	}
}

/* Make @change the state of the namespace, which is on hold, and what hosts may do follow it. */
static void rights_swap(struct ns *ns, const struct change *change) MAY_SUSPEND;
static void rights_swap(struct ns *ns, const struct change *change)
{
	struct subsystem *ss = ns->subsystem;

	ns->resv.state = change->next;
	ns_set_rights(ns);
	if (change->fx.is_abort)
		mark_aborting(ns, &change->fx);
	for (unsigned i = 0; i < reactor_count(); i++) {
		struct rights_swap swap = { .core = &ss->target->cores[i],
					    .sc = &ss->cores[i],
					    .nsid = ns->nsid,
					    .is_reserved = change->next.type != NVME_RESV_NONE,
					    .is_abort = change->fx.is_abort };

		task_call(ss->cores[i].reactor, core_swap_rights, &swap);
	}
	ns_set_rights(ns); /* the marks go */
}

/* ---- disk ----------------------------------------------------------------------------------- */

struct file_job {
	const char *folder, *path;
	const struct uuid *uuid;
	struct resv *state;      /* load: filled; save: what it was */
	const struct resv *next; /* save */
	int lock_fd;             /* load: taken */
	int rc;
	struct err err;
};

static void load_blocking(void *arg)
{
	struct file_job *job = arg;

	job->rc = resv_file_folder(job->folder, &job->err);
	if (job->rc == 0)
		job->rc = resv_file_lock(job->folder, job->uuid, &job->lock_fd, &job->err);
	if (job->rc == 0)
		job->rc = resv_file_load(job->path, job->uuid, job->state, &job->err);
}

static void save_blocking(void *arg)
{
	struct file_job *job = arg;

	job->rc = resv_file_save(job->path, job->uuid, job->next, &job->err);
	/* Nobody will be told that it happened, so a restart should not find it either. */
	if (job->rc != 0 && resv_file_save(job->path, job->uuid, job->state, NULL) != 0)
		log_error("reservations in %s may be newer than hosts were told", job->path);
}

static bool is_path_used(const struct target *target, const char *path)
{
	const struct subsystem *ss;

	list_for_each (ss, &target->subsystems, link) {
		for (unsigned i = 0; i < TARGET_NAMESPACES_MAX; i++) {
			if (ss->ns[i] != NULL && ss->ns[i]->resv.path != NULL &&
			    strcmp(ss->ns[i]->resv.path, path) == 0)
				return true;
		}
	}
	return false;
}

int resv_ns_open(struct ns *ns, struct err *err)
{
	const struct target *target = ns->subsystem->target;
	struct file_job job = { .folder = target->opts.ptpl_dir,
				.uuid = &ns->dev->uuid,
				.state = &ns->resv.state,
				.lock_fd = -1 };
	char uuid[UUID_TEXT_SIZE];
	size_t size;

	if (job.folder == NULL)
		return 0;
	if (ns->dev->is_uuid_random) {
		log_warn("reservations of '%s' will not survive a restart: its uuid is another one "
			 "each time; give it one with uuid=",
			 ns->dev->name);
		return 0;
	}
	size = strlen(job.folder) + sizeof("/.json") + UUID_TEXT_SIZE;
	ns->resv.path = malloc(size);
	if (ns->resv.path == NULL)
		return err_set(err, -ENOMEM, "no memory for a namespace");
	(void)snprintf(ns->resv.path, size, "%s/%s.json", job.folder, uuid_to_text(job.uuid, uuid));
	job.path = ns->resv.path;
	if (is_path_used(target, job.path))
		return err_set(err, -EBUSY, "'%s': another namespace keeps its reservations in %s",
			       ns->dev->name, job.path);
	task_blocking(load_blocking, &job);
	ns->resv.lock_fd = job.lock_fd;
	return job.rc != 0 ? err_set(err, job.rc, "%s", err_text(&job.err)) : 0;
}

void resv_ns_done(struct ns *ns)
{
	closep(&ns->resv.lock_fd);
	free(take(ns->resv.path));
}

/* ---- events --------------------------------------------------------------------------------- */

static void log_add(struct ctrlr *ctrlr, uint8_t type, uint32_t nsid)
{
	struct resv_log *log = &ctrlr->resv_log;

	if (log->used == RESV_LOG_MAX) {
		log->first = (log->first + 1) % RESV_LOG_MAX;
		log->used--;
	}
	log->entry[(log->first + log->used++) % RESV_LOG_MAX] = (struct resv_log_entry){
		.number = ++log->count, .nsid = nsid, .type = type
	};
}

void resv_log_reset(struct ctrlr *ctrlr)
{
	ctrlr->resv_log = (struct resv_log){};
	ctrlr->is_resv_event_masked = false;
}

void *resv_log_page(const struct ctrlr *ctrlr, size_t *ret_size)
{
	struct nvme_resv_log *page = calloc(1, sizeof(*page));
	const struct resv_log *log = &ctrlr->resv_log;

	*ret_size = sizeof(*page);
	if (page == NULL)
		return NULL;
	if (log->used > 0) {
		const struct resv_log_entry *entry = &log->entry[log->first];

		le64_put(&page->count, entry->number);
		page->type = entry->type;
		page->available = (uint8_t)(log->used - 1);
		le32_put(&page->nsid, entry->nsid);
	}
	return page;
}

void resv_log_read(struct ctrlr *ctrlr)
{
	struct resv_log *log = &ctrlr->resv_log;

	ctrlr->is_resv_event_masked = false;
	if (log->used == 0)
		return;
	log->first = (log->first + 1) % RESV_LOG_MAX;
	log->used--;
}

static void announce(const struct ns *ns, const struct resv_effects *fx)
{
	struct ctrlr *ctrlr;

	list_for_each (ctrlr, &ns->subsystem->ctrlrs, link) {
		struct resv_host host = host_of(ctrlr);

		for (unsigned i = 0; i < fx->count; i++) {
			const struct resv_notice *notice = &fx->notice[i];

			if (!resv_host_equal(&notice->host, &host) ||
			    (ns->resv.notice_off & 1 << notice->type))
				continue;
			log_add(ctrlr, notice->type, ns->nsid);
			ctrlr_send_events(ctrlr);
		}
	}
}

/* ---- carrying out --------------------------------------------------------------------------- */

static int save(struct ns *ns, const struct change *change, struct err *err) MAY_SUSPEND;
static int save(struct ns *ns, const struct change *change, struct err *err)
{
	struct file_job job = { .path = ns->resv.path,
				.uuid = &ns->dev->uuid,
				.state = &ns->resv.state,
				.next = &change->next };

	if (!change->fx.is_changed ||
	    (!ns->resv.state.is_persistent && !change->next.is_persistent))
		return 0;
	task_blocking(save_blocking, &job);
	if (err != NULL && job.rc != 0)
		*err = job.err;
	return job.rc;
}

/* Onto disk and into force. The disk comes last but one: what it says, nothing may undo. */
static int take_over(struct ns *ns, const struct change *change, struct err *err) MAY_SUSPEND;
static int take_over(struct ns *ns, const struct change *change, struct err *err)
{
	int result;

	if (!change->fx.is_abort && !resv_rights_differ(&ns->resv.state, &change->next)) {
		result = save(ns, change, err);
		if (result == 0)
			ns->resv.state = change->next;
		return result;
	}
	result = ns_hold(ns, err);
	if (result < 0)
		return result;
	result = save(ns, change, err);
	if (result == 0)
		rights_swap(ns, change);
	ns_let_go(ns);
	return result;
}

/* Some host lost something. Hosts may take a reservation from each other all day long. */
static void log_change(struct ns *ns, const struct change *change)
{
	uint64_t now_ns = reactor_primary()->now_ns;
	struct ns_resv *r = &ns->resv;

	if (r->lines == 0 || now_ns - r->lines_since_ns >= RESV_LINES_S * NS_PER_S) {
		r->lines_since_ns = now_ns;
		r->lines = 0;
	}
	if (r->lines == RESV_LINES_MAX) {
		r->lines_kept++;
		return;
	}
	r->lines++;
	log_info("reservation changed nqn=%s nsid=%u type=\"%s\" registrants=%u told=%u "
		 "not-shown=%u",
		 ns->subsystem->nqn, ns->nsid, resv_type_name(change->next.type),
		 change->next.count, change->fx.count, r->lines_kept);
	r->lines_kept = 0;
}

static uint16_t commit(struct ns *ns, const struct change *change) MAY_SUSPEND;
static uint16_t commit(struct ns *ns, const struct change *change)
{
	struct err err = {};

	if (take_over(ns, change, &err) < 0) {
		log_error("reservation refused nqn=%s nsid=%u: %s", ns->subsystem->nqn, ns->nsid,
			  err_text(&err));
		return NVME_SC_INTERNAL_ERROR;
	}
	if (change->fx.count > 0)
		log_change(ns, change);
	announce(ns, &change->fx);
	return 0;
}

static struct resv_request request_of(const struct cmd *cmd, const struct ctrlr *ctrlr,
				      const struct ns *ns)
{
	const struct nvme_resv_keys *keys = (const void *)cmd->buf;
	uint32_t cdw10 = le32_get(cmd->sqe.cdw10);
	bool has_other = cmd->sqe.opcode != NVME_IO_RESV_RELEASE;

	return (struct resv_request){
		.opcode = cmd->sqe.opcode,
		.action = cdw10 & NVME_RESV_ACTION_MASK,
		.type = (uint8_t)(cdw10 >> NVME_RESV_TYPE_SHIFT),
		.cptpl = (uint8_t)(cdw10 >> NVME_RESV_CPTPL_SHIFT),
		.is_key_ignored = cdw10 & NVME_RESV_IEKEY,
		.may_persist = ns->resv.path != NULL,
		.crkey = le64_get(keys->crkey),
		.other_key = has_other ? le64_get(keys->other) : 0,
		.host = host_of(ctrlr),
	};
}

static uint16_t run_command(struct cmd *cmd, const struct ctrlr *ctrlr,
			    struct change *change) MAY_SUSPEND;
static uint16_t run_command(struct cmd *cmd, const struct ctrlr *ctrlr, struct change *change)
{
	struct ns *ns = subsystem_ns(ctrlr->subsystem, le32_get(cmd->sqe.nsid));
	struct resv_request request;
	uint16_t status;

	if (ns == NULL || ns->is_lost)
		return NVME_SC_INVALID_NAMESPACE;
	request = request_of(cmd, ctrlr, ns);
	change->next = ns->resv.state;
	status = resv_apply(&change->next, &request, &change->fx);
	if (status == NVME_SC_INTERNAL_ERROR)
		log_warn("no more than %d hosts register nqn=%s nsid=%u host=%s",
			 RESV_REGISTRANTS_MAX, ctrlr->subsystem->nqn, ns->nsid, ctrlr->hostnqn);
	return status != 0 ? status : commit(ns, change);
}

/* Set Features 83h: for one namespace, or for all. */
static uint16_t run_persist(struct cmd *cmd, const struct ctrlr *ctrlr,
			    struct change *change) MAY_SUSPEND;
static uint16_t run_persist(struct cmd *cmd, const struct ctrlr *ctrlr, struct change *change)
{
	struct subsystem *ss = ctrlr->subsystem;
	uint32_t nsid = le32_get(cmd->sqe.nsid);
	bool is_on = le32_get(cmd->sqe.cdw11) & 1;
	uint16_t status = 0;

	if (nsid != NVME_NSID_ALL && subsystem_ns(ss, nsid) == NULL)
		return NVME_SC_INVALID_NAMESPACE;
	for (uint32_t i = 1; i <= TARGET_NAMESPACES_MAX; i++) {
		const struct ns *ns = subsystem_ns(ss, i);

		if (is_on && ns != NULL && (nsid == i || nsid == NVME_NSID_ALL) &&
		    ns->resv.path == NULL)
			return NVME_SC_INVALID_FIELD;
	}
	for (uint32_t i = 1; i <= TARGET_NAMESPACES_MAX && status == 0; i++) {
		struct ns *ns = subsystem_ns(ss, i);

		if (ns == NULL || (nsid != i && nsid != NVME_NSID_ALL))
			continue;
		change->next = ns->resv.state;
		change->next.is_persistent = is_on;
		change->fx = (struct resv_effects){ .is_changed = is_on !=
								  ns->resv.state.is_persistent };
		status = commit(ns, change);
	}
	return status;
}

/* With ss->control held. The host may have gone while the command waited for it. */
static uint16_t run_locked(struct cmd *cmd) MAY_SUSPEND;
static uint16_t run_locked(struct cmd *cmd)
{
	const struct ctrlr *ctrlr = cmd->conn->ctrlr;
	CLEANUP(freep) struct change *change = calloc(1, sizeof(*change));
	bool is_admin = cmd->conn->linked_qid == NVME_QID_ADMIN;
	uint16_t status;

	if (!ctrlr_may_command(ctrlr))
		return NVME_SC_COMMAND_SEQUENCE_ERROR | NVME_STATUS_DNR;
	if (change == NULL)
		return NVME_SC_INTERNAL_ERROR;
	status = is_admin ? run_persist(cmd, ctrlr, change) : run_command(cmd, ctrlr, change);
	return status == 0 || status == NVME_SC_INTERNAL_ERROR ? status : status | NVME_STATUS_DNR;
}

/* The next command; NULL: none. Controllers take turns, so that none waits for another's heap. */
static struct cmd *next_cmd(struct subsystem *ss)
{
	struct ctrlr *ctrlr;
	struct cmd *cmd;

	if (list_empty(&ss->resv_ctrlrs))
		return NULL;
	ctrlr = list_first_entry(&ss->resv_ctrlrs, struct ctrlr, resv_link);
	cmd = list_first_entry(&ctrlr->resv_cmds, struct cmd, link);
	list_del(&cmd->link);
	list_del(&ctrlr->resv_link);
	if (!list_empty(&ctrlr->resv_cmds))
		list_add_tail(&ss->resv_ctrlrs, &ctrlr->resv_link);
	return cmd;
}

static void resv_task(void *arg)
{
	struct subsystem *ss = arg;

	while (!list_empty(&ss->resv_ctrlrs)) {
		struct cmd *cmd;
		uint16_t status = 0;

		task_mutex_lock(&ss->control);
		cmd = next_cmd(ss);
		if (cmd != NULL)
			status = run_locked(cmd);
		task_mutex_unlock(&ss->control);
		if (cmd != NULL)
			finish(cmd, status);
	}
	ss->is_resv_running = false;
	subsystem_put_task(ss);
}

static void resv_start(struct subsystem *ss)
{
	struct cmd *cmd;

	if (ss->is_resv_running)
		return;
	if (task_spawn("reservations", resv_task, ss) == 0) {
		ss->is_resv_running = true;
		ss->tasks++;
		return;
	}
	while ((cmd = next_cmd(ss)) != NULL)
		finish(cmd, NVME_SC_INTERNAL_ERROR);
}

void resv_ctrlr_leaves(struct ctrlr *ctrlr)
{
	list_del(&ctrlr->resv_link);
	while (!list_empty(&ctrlr->resv_cmds)) {
		struct cmd *cmd = list_first_entry(&ctrlr->resv_cmds, struct cmd, link);

		list_del(&cmd->link);
		finish(cmd, NVME_SC_COMMAND_SEQUENCE_ERROR | NVME_STATUS_DNR);
	}
}

/* ---- Report --------------------------------------------------------------------------------- */

static uint16_t report(const struct ctrlr *ctrlr, struct cmd *cmd)
{
	const struct ns *ns = subsystem_ns(ctrlr->subsystem, le32_get(cmd->sqe.nsid));
	CLEANUP(freep) struct nvme_resv_status *page = NULL;
	const struct resv *r;
	size_t size;

	if (ns == NULL)
		return NVME_SC_INVALID_NAMESPACE | NVME_STATUS_DNR;
	if (!(le32_get(cmd->sqe.cdw11) & NVME_RESV_EDS))
		return NVME_SC_HOSTID_INCONSISTENT | NVME_STATUS_DNR;
	r = &ns->resv.state;
	size = sizeof(*page) + r->count * sizeof(page->registrant[0]);
	page = calloc(1, size);
	if (page == NULL)
		return NVME_SC_INTERNAL_ERROR;
	le32_put(&page->gen, r->generation);
	page->rtype = r->type;
	le16_put(&page->regctl, r->count);
	page->ptpls = r->is_persistent;
	for (unsigned i = 0; i < r->count; i++) {
		const struct resv_registrant *reg = &r->registrant[i];
		struct nvme_resv_registrant *out = &page->registrant[i];

		le16_put(&out->cntlid, NVME_CNTLID_DYNAMIC);
		out->rcsts = resv_is_holder(r, &reg->host);
		le64_put(&out->rkey, reg->key);
		memcpy(out->hostid, reg->host.id, sizeof(out->hostid));
	}
	cmd_reply(cmd, page, size);
	return 0;
}

void resv_execute(struct cmd *cmd)
{
	struct ctrlr *ctrlr = cmd->conn->ctrlr;

	if (!ctrlr_may_command(ctrlr)) {
		finish(cmd, NVME_SC_COMMAND_SEQUENCE_ERROR | NVME_STATUS_DNR);
		return;
	}
	if (cmd->conn->linked_qid != NVME_QID_ADMIN && cmd->sqe.opcode == NVME_IO_RESV_REPORT) {
		finish(cmd, report(ctrlr, cmd));
		return;
	}
	list_add_tail(&ctrlr->resv_cmds, &cmd->link);
	if (list_empty(&ctrlr->resv_link))
		list_add_tail(&ctrlr->subsystem->resv_ctrlrs, &ctrlr->resv_link);
	resv_start(ctrlr->subsystem);
}

/* ---- Identify and features ------------------------------------------------------------------ */

const struct resv *subsystem_reservations(const struct subsystem *ss, uint32_t nsid)
{
	const struct ns *ns = subsystem_ns(ss, nsid);

	return ns == NULL ? NULL : &ns->resv.state;
}

uint8_t resv_capabilities(const struct ns *ns)
{
	return NVME_RESCAP_ALL_TYPES | NVME_RESCAP_IEKEY |
	       (ns->resv.path != NULL ? NVME_RESCAP_PTPL : 0);
}

uint16_t resv_feature_get(const struct ctrlr *ctrlr, const struct cmd *cmd, uint8_t fid,
			  uint32_t *ret_value)
{
	const struct ns *ns = subsystem_ns(ctrlr->subsystem, le32_get(cmd->sqe.nsid));

	if (ns == NULL) /* also FFFFFFFFh: there may be as many values as namespaces */
		return NVME_SC_INVALID_NAMESPACE;
	*ret_value = fid == NVME_FEAT_RESV_MASK ? ns->resv.notice_off
						: ns->resv.state.is_persistent;
	return 0;
}

uint16_t resv_feature_mask(struct ctrlr *ctrlr, const struct cmd *cmd, uint32_t value)
{
	uint32_t nsid = le32_get(cmd->sqe.nsid);

	if (nsid != NVME_NSID_ALL && subsystem_ns(ctrlr->subsystem, nsid) == NULL)
		return NVME_SC_INVALID_NAMESPACE;
	for (uint32_t i = 1; i <= TARGET_NAMESPACES_MAX; i++) {
		struct ns *ns = subsystem_ns(ctrlr->subsystem, i);

		if (ns != NULL && (nsid == i || nsid == NVME_NSID_ALL))
			ns->resv.notice_off = value & NVME_RESV_MASK_ALL;
	}
	return 0;
}
