/* SPDX-License-Identifier: Apache-2.0 */
/*
 * head.c - a remote namespace as a device, and the paths that lead to it.
 *
 *   nvmf://HOST:PORT/NQN?...                        (the parameters are in opts.c)
 *
 * The first URI of a namespace makes the device. A further one that leads to the same namespace of
 * the same subsystem as the same host joins it as a path, if the namespace says that it may be
 * reached by several controllers: device_create() returns the device that exists, with one alias
 * more. Destroying a URI takes its path away; the device goes with its last.
 *
 * Same means: NQN, host NQN, host id, and what the namespace calls itself (UUID, NGUID, EUI64). A
 * namespace that has no identity is a device of its own each time, since nothing tells that two are
 * one.
 *
 * A head decides what may be used. Whatever changes on the control side (a connection, an ANA
 * state, a namespace) ends in head_refresh(): each path gets a class, the best ones form a view,
 * and every channel is sent it. Without a usable path I/O is held in the channels, until one is
 * back, or
 *   - all controllers were given up, or none has the namespace any more: DEVICE_FAILED is
 *     announced and I/O fails, without a device where a target says so, else for want of a path;
 *     should the namespace return, the device works again;
 *   - fast_io_fail has passed since the last path went (without that parameter: ctrl_loss; with
 *     ctrl_loss=0 the time a controller may take to change its ANA state): I/O fails, and works
 *     again once a path is back;
 *   - the device is removed.
 *
 * A namespace number may come to mean another medium: a target was set up anew. Its identity is
 * read again after every reconnect and every notice, and a path whose namespace is not ours is
 * foreign: it is never used, however long the device waits. Showing another volume's data under an
 * old name would be the worst that a driver can do. Without any identity serial numbers cannot
 * help, so such a namespace is trusted by NQN and number, as Linux does.
 *
 * Invariants:
 *   1. Paths are added and taken under head->lock and, in the controller's list, under its lock.
 *   2. Channels are in head->chan[] from the end of chan_open() to the start of chan_close().
 *   3. A view that a channel has names only queues which the channel counts.
 *
 * Thread: tasks on the primary; head_refresh() anywhere on the primary, it does not suspend.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/units.h"
#include "drivers/drivers.h"
#include "drivers/identity.h"
#include "drivers/nvmf/ctrlr.h"
#include "drivers/nvmf/remote.h"

/* ---- what is usable ----------------------------------------------------------------------- */

static enum path_class path_class(const struct nvmf_path *path)
{
	const struct nvmf_ctrlr *c = path->ctrlr;

	if (c->state != CTRLR_LIVE || path->is_unread || path->is_gone || path->is_foreign ||
	    path->is_leaving)
		return PATH_NEVER;
	if (c->info.nanagrpid == 0 || path->ns.anagrpid == 0)
		return PATH_OPTIMIZED;
	return path_class_of_ana(ana_state(c->groups, c->ngroups, path->ns.anagrpid));
}

/* Can no path come back without somebody doing something? */
static bool head_is_lost(const struct nvmf_head *head)
{
	const struct nvmf_path *path;

	list_for_each (path, &head->paths, link) {
		if (path->ctrlr->state != CTRLR_DEAD && !path->is_gone && !path->is_foreign &&
		    !path->is_leaving)
			return false;
	}
	return true;
}

/* The best paths, in order; returns how many. */
static unsigned head_choose(const struct nvmf_head *head, const struct nvmf_path *ret_paths[])
{
	const struct nvmf_path *path, *all[PATHS_MAX];
	enum path_class classes[PATHS_MAX];
	uint8_t index[PATHS_MAX];
	unsigned count = 0, n;

	list_for_each (path, &head->paths, link) {
		all[count] = path;
		classes[count++] = path_class(path);
	}
	n = path_choose(classes, count, index);
	for (unsigned i = 0; i < n; i++)
		ret_paths[i] = all[index[i]];
	return n;
}

/* Is a target there that says it does not have the namespace, or has another in its place? */
static bool head_is_denied(const struct nvmf_head *head)
{
	const struct nvmf_path *path;

	list_for_each (path, &head->paths, link) {
		if (path->ctrlr->state == CTRLR_LIVE && (path->is_gone || path->is_foreign))
			return true;
	}
	return false;
}

/*
 * A namespace that was taken away is no trouble of a path: a host that it is exported to again
 * would try its only path for ever.
 */
static uint16_t head_fail_status(const struct nvmf_head *head)
{
	if (head->is_removed || (head_is_lost(head) && head_is_denied(head)))
		return IO_NO_DEVICE;
	return head->is_failing || head_is_lost(head) ? IO_TRANSPORT : IO_OK;
}

void head_view(const struct nvmf_head *head, const struct nvmf_chan *chan,
	       struct nvmf_view *ret_view)
{
	const struct nvmf_path *paths[PATHS_MAX];
	unsigned n = head_choose(head, paths);

	*ret_view = (struct nvmf_view){ .fail = head_fail_status(head) };
	fence_view(&head->opts, ret_view);
	for (unsigned i = 0; i < n; i++) {
		struct nvmf_ioq *ioq = chan->ioq[paths[i]->slot];

		if (ioq == NULL)
			continue;
		ret_view->ioq[ret_view->n] = ioq;
		ret_view->nsid[ret_view->n++] = paths[i]->ns.nsid;
	}
}

struct nvmf_ctrlr *head_ctrlr(const struct nvmf_head *head)
{
	const struct nvmf_path *paths[PATHS_MAX], *path;

	if (head_choose(head, paths) > 0)
		return paths[0]->ctrlr;
	list_for_each (path, &head->paths, link) {
		if (path->ctrlr->state == CTRLR_LIVE)
			return path->ctrlr;
	}
	list_for_each (path, &head->paths, link) {
		if (path->ctrlr->state != CTRLR_DEAD)
			return path->ctrlr;
	}
	return NULL;
}

void head_forward(struct nvmf_head *head, struct io *io)
{
	struct nvmf_ctrlr *c = head_ctrlr(head);

	if (head->is_removed)
		ctrlr_answer(io, IO_NO_DEVICE);
	else if (c == NULL || (c->state != CTRLR_LIVE && head->is_failing))
		ctrlr_answer(io, IO_TRANSPORT);
	else if (io->op == IO_RESET)
		ctrlr_forward_reset(c, io);
	else
		ctrlr_forward_admin(c, io);
}

/* How long I/O may wait for a path. */
static uint64_t head_patience_ns(const struct nvmf_head *head)
{
	const struct nvmf_path *path;
	uint64_t anatt_s = 1;

	if (head->opts.fast_io_fail_ns > 0)
		return head->opts.fast_io_fail_ns;
	if (head->opts.ctrl_loss_ns > 0)
		return head->opts.ctrl_loss_ns;
	list_for_each (path, &head->paths, link)
		anatt_s = MAX(anatt_s, (uint64_t)path->ctrlr->info.anatt_s);
	return anatt_s * NS_PER_S;
}

static void head_publish(struct nvmf_head *head)
{
	for (unsigned i = 0; i < REACTORS_MAX; i++) {
		if (head->chan[i] != NULL)
			chan_publish(head->chan[i]);
	}
}

/* What waits with the controllers instead of in a channel: resets and passed-through commands. */
static void head_end_waiting(struct nvmf_head *head, uint16_t status)
{
	const struct nvmf_path *path;

	list_for_each (path, &head->paths, link)
		ctrlr_end_waiting(path->ctrlr, &head->dev, status);
}

/* A controller that is connected serves what waits with others that are not. */
static void head_move_waiting(struct nvmf_head *head)
{
	struct nvmf_ctrlr *live = head_ctrlr(head);
	const struct nvmf_path *path;

	if (live == NULL || live->state != CTRLR_LIVE)
		return;
	list_for_each (path, &head->paths, link) {
		if (path->ctrlr->state != CTRLR_LIVE)
			ctrlr_move_waiting(path->ctrlr, &head->dev, live);
	}
}

static void fast_fail_due(struct timer *timer)
{
	struct nvmf_head *head = container_of(timer, struct nvmf_head, fast_fail);
	char text[UNITS_TEXT_MAX];

	head->is_failing = true;
	head_end_waiting(head, IO_TRANSPORT);
	log_warn("%s: no usable path for %s, I/O fails until there is one", head->dev.name,
		 duration_format(head_patience_ns(head), text));
	head_publish(head);
}

/* What waits now waits in silence for minutes: say so, and for how long. */
static void head_tell_waiting(const struct nvmf_head *head)
{
	const struct nvmf_path *path;
	bool is_reached = false;
	char text[UNITS_TEXT_MAX];

	list_for_each (path, &head->paths, link)
		is_reached |= path->ctrlr->state == CTRLR_LIVE && !path->is_gone;
	log_warn("%s: no usable path%s, I/O waits for one, at most %s", head->dev.name,
		 is_reached ? ": the target allows no I/O over those that stand (ANA)" : "",
		 duration_format(head_patience_ns(head), text));
}

static void head_path_count_changed(struct nvmf_head *head, unsigned n)
{
	if (n > 0) {
		timer_disarm(reactor_self(), &head->fast_fail);
		head->is_failing = head->is_failed = false;
	} else {
		timer_arm(reactor_self(), &head->fast_fail, head_patience_ns(head));
	}
	if (!list_empty(&head->paths) && head->paths.next != head->paths.prev)
		log_info("%s: paths in use: %u", head->dev.name, n);
	if (n == 0 && !head_is_lost(head))
		head_tell_waiting(head);
	head->nusable = n;
}

/* Nobody leads to it any more: what the last of its controllers said. */
static void head_announce_failed(struct nvmf_head *head)
{
	struct device_event event = { .type = DEVICE_FAILED, .dev = &head->dev };
	const struct nvmf_path *path;

	list_for_each (path, &head->paths, link) {
		if (path->ctrlr->why.code != 0)
			event.why = err_text(&path->ctrlr->why);
	}
	device_announce_event(&head->dev, &event);
}

void head_refresh(struct nvmf_head *head)
{
	const struct nvmf_path *paths[PATHS_MAX];
	unsigned n;

	if (!head->is_registered)
		return;
	n = head_choose(head, paths);
	if (n != head->nusable)
		head_path_count_changed(head, n);
	head_move_waiting(head);
	head_publish(head);
	if (n == 0 && head_is_lost(head) && !head->is_failed && !head->is_removed) {
		head->is_failed = true;
		timer_disarm(reactor_self(), &head->fast_fail);
		log_error("%s: failed, no way leads to it %s", head->dev.name,
			  head_is_denied(head) ? "unless the namespace comes back" : "any more");
		head_announce_failed(head);
	}
}

/* ---- namespaces that change --------------------------------------------------------------- */

static void head_resize(void *arg)
{
	struct nvmf_head *head = arg;
	struct err err = {};

	while (head->want_nblocks != 0) {
		uint64_t nblocks = head->want_nblocks, was = head->dev.nblocks;

		head->want_nblocks = 0;
		if (nblocks == was)
			continue;
		if (device_resize(&head->dev, nblocks, &err) < 0)
			log_warn("%s: %s", head->dev.name, err_text(&err));
		else if (nblocks != was)
			log_info("%s: resized from %lu to %lu blocks", head->dev.name, was,
				 nblocks);
	}
	head->is_resizing = false;
	if (head->resized != NULL)
		task_event_fire(head->resized);
}

/* Not in the caller's task: it holds a controller, and a resize waits for I/O that may need it. */
static void head_want_size(struct nvmf_head *head, uint64_t nblocks)
{
	if (!head->is_registered || head->is_removed)
		return;
	/* a resize under way may be to what another path said before: the last word counts */
	if (nblocks == head->dev.nblocks && !head->is_resizing)
		return;
	head->want_nblocks = nblocks;
	if (head->is_resizing)
		return;
	head->is_resizing = task_spawn("nvmf-resize", head_resize, head) == 0;
	if (!head->is_resizing)
		log_error("%s: no memory to follow the new size", head->dev.name);
}

static void path_set_gone(struct nvmf_path *path, bool is_gone)
{
	if (path->is_gone == is_gone)
		return;
	path->is_gone = is_gone;
	if (is_gone)
		log_warn("%s: namespace %u is gone", path->ctrlr->name, path->ns.nsid);
	else
		log_info("%s: namespace %u is back", path->ctrlr->name, path->ns.nsid);
}

/* Does it tell of the namespace, or only that nothing could be found out now? */
static bool is_verdict(int result)
{
	return result == -EPROTO || result == -ENOTSUP || result == -EFBIG;
}

/* Is what a controller shows under the path's number what its head is? */
static bool path_is_ours(const struct nvmf_path *path, const struct nvmf_ns_info *now)
{
	const struct nvmf_ns_info *ours = &path->head->ns;

	if (path->is_unread && !(ours->is_shared && now->is_shared && nvmf_ns_has_identity(now)))
		return false;
	return nvmf_ns_is_same(now, ours);
}

int path_rescan(struct nvmf_path *path, struct err *err)
{
	struct nvmf_ns_info now;
	struct err why = {};
	int result = ctrlr_read_ns(path->ctrlr, path->ns.nsid, &now, &why);

	/* An answer that was long under way may be older than what another path said since. */
	if (result == 0 && now.nblocks != path->head->dev.nblocks)
		result = ctrlr_read_ns(path->ctrlr, path->ns.nsid, &now, &why);
	if (result == -ENODEV) {
		path_set_gone(path, true);
		return 0;
	}
	if (result < 0 && !is_verdict(result))
		return err_set(err, result, "namespace %u: %s", path->ns.nsid, err_text(&why));
	if (result < 0 || !path_is_ours(path, &now)) {
		if (!path->is_foreign)
			log_error("%s: namespace %u is not what it was (%s), it will not be used",
				  path->ctrlr->name, path->ns.nsid,
				  result < 0 ? err_text(&why) : "another identity");
		path->is_foreign = true;
		return 0;
	}
	if (path->is_foreign)
		log_info("%s: namespace %u is itself again", path->ctrlr->name, path->ns.nsid);
	path->is_unread = path->is_foreign = false;
	path_set_gone(path, false);
	path->ns = now;
	head_want_size(path->head, now.nblocks);
	return 0;
}

int head_rescan(struct device *dev, uint64_t *ret_nblocks, struct err *err)
{
	const struct nvmf_head *head = head_of(dev);
	struct nvmf_ctrlr *c = head_ctrlr(head);
	struct nvmf_ns_info now;
	int result;

	if (c == NULL)
		return err_set(err, -ENOTCONN, "%s: no path is connected", dev->name);
	c->refs++; /* its path may leave meanwhile */
	result = ctrlr_read_ns(c, head->ns.nsid, &now, err);
	ctrlr_put(c);
	if (result == 0 && !nvmf_ns_is_same(&now, &head->ns))
		result = err_set(err, -ESTALE, "%s: namespace %u is another one now", dev->name,
				 head->ns.nsid);
	if (result == 0)
		*ret_nblocks = now.nblocks;
	return result;
}

bool nvmf_remote_stats(const struct device *dev, struct nvmf_remote_stats *ret_stats)
{
	struct nvmf_remote_stats sum = {};
	const struct nvmf_path *path;
	const struct nvmf_ioq *ioq;

	if (dev->driver != &driver_nvmf)
		return false;
	list_for_each (path, &head_of(dev)->paths, link) {
		const struct ctrlr_stats *stats = &path->ctrlr->stats;

		sum.lost += stats->lost;
		sum.attempts += stats->attempts;
		sum.outage_ns += stats->outage_ns;
		sum.resent += stats->retries;
		sum.late += stats->late + stats->late_admin;
		list_for_each (ioq, &path->ctrlr->ioqs, link) {
			sum.resent += atomic_load_explicit(&ioq->retries, memory_order_relaxed);
			sum.late += atomic_load_explicit(&ioq->late, memory_order_relaxed);
		}
	}
	*ret_stats = sum;
	return true;
}

/* ---- coming ------------------------------------------------------------------------------- */

static void path_free(struct nvmf_path *path)
{
	if (path == NULL)
		return;
	ctrlr_put(path->ctrlr);
	free(path->uri);
	free(path);
}

static void path_freep(struct nvmf_path **path)
{
	path_free(*path);
	*path = NULL;
}

static int list_active(struct nvmf_ctrlr *c, uint32_t nsid, struct err *err)
{
	CLEANUP(freep) struct le32 *list = malloc(NVME_IDENTIFY_SIZE);
	char text[128] = "";
	size_t len = 0;

	if (list == NULL || ctrlr_identify(c, NVME_CNS_ACTIVE_NS, 0, list, NULL) < 0)
		return err_set(err, -ENODEV, "it has no namespace %u", nsid);
	for (unsigned i = 0; i < NVME_IDENTIFY_SIZE / sizeof(*list); i++) {
		uint32_t id = le32_get(list[i]);

		if (id == 0)
			break;
		if (len + 16 > sizeof(text)) {
			(void)snprintf(text + len, sizeof(text) - len, " ...");
			break;
		}
		len += (size_t)snprintf(text + len, sizeof(text) - len, " %u", id);
	}
	return err_set(err, -ENODEV, "it has no namespace %u; active are:%s%s", nsid,
		       text[0] != '\0' ? text : " none",
		       text[0] != '\0' ? "; choose with nsid=" : "");
}

static int check_uuid(const struct nvmf_opts *opts, const struct nvmf_ns_info *ns, struct err *err)
{
	char want[UUID_TEXT_SIZE], is[UUID_TEXT_SIZE];
	struct uuid uuid = nvmf_ns_uuid(ns);

	if (uuid_is_zero(&opts->uuid) || uuid_is_zero(&uuid) || uuid_equal(&opts->uuid, &uuid) ||
	    memcmp(opts->uuid.b, ns->nguid, sizeof(ns->nguid)) == 0)
		return 0;
	return err_set(err, -EINVAL, "namespace %u has uuid %s, the URI wants %s", ns->nsid,
		       uuid_to_text(&uuid, is), uuid_to_text(&opts->uuid, want));
}

static struct nvmf_path *path_alloc(const struct nvmf_opts *opts, const char *uri, struct err *err)
{
	CLEANUP(path_freep) struct nvmf_path *path = calloc(1, sizeof(*path));

	if (path != NULL)
		path->uri = strdup(uri);
	if (path == NULL || path->uri == NULL) {
		(void)err_set(err, -ENOMEM, "no memory for a path");
		return NULL;
	}
	path->ns.nsid = opts->nsid;
	list_init(&path->link);
	list_init(&path->in_ctrlr);
	return take(path);
}

static int path_new(const struct nvmf_opts *opts, const char *uri, struct nvmf_path **ret,
		    struct err *err)
{
	CLEANUP(path_freep) struct nvmf_path *path = path_alloc(opts, uri, err);
	struct err why = {};
	int result;

	if (path == NULL)
		return -ENOMEM;
	result = ctrlr_get(opts, &path->ctrlr, err);
	if (result < 0)
		return result;
	result = fence_settle(opts, err);
	if (result < 0)
		return result;
	result = ctrlr_read_ns(path->ctrlr, opts->nsid, &path->ns, &why);
	if (result == -ENODEV)
		return list_active(path->ctrlr, opts->nsid, err);
	if (result < 0)
		return err_set(err, result, "%s", err_text(&why));
	result = check_uuid(opts, &path->ns, err);
	if (result < 0)
		return result;
	*ret = take(path);
	return 0;
}

static uint32_t ops_of(const struct nvmf_ctrl_info *info)
{
	uint32_t ops = IO_BIT(IO_READ) | IO_BIT(IO_WRITE) | IO_BIT(IO_RESET) |
		       IO_BIT(IO_NVME_ADMIN) | IO_BIT(IO_NVME_IO);

	if (info->has_write_cache)
		ops |= IO_BIT(IO_FLUSH);
	if (info->oncs & NVME_ONCS_COMPARE)
		ops |= IO_BIT(IO_COMPARE);
	if (info->oncs & NVME_ONCS_DSM)
		ops |= IO_BIT(IO_UNMAP);
	if (info->oncs & NVME_ONCS_WRITE_ZEROES)
		ops |= IO_BIT(IO_WRITE_ZEROES);
	if (info->fuse_nlb > 0 && info->oncs & NVME_ONCS_COMPARE)
		ops |= IO_BIT(IO_COMPARE_WRITE);
	return ops;
}

static void set_identity(struct device *dev, const struct nvmf_opts *opts,
			 const struct nvmf_ns_info *ns)
{
	char eui64[17];

	dev->uuid = nvmf_ns_uuid(ns);
	if (uuid_is_zero(&dev->uuid))
		dev->uuid = opts->uuid;
	if (!uuid_is_zero(&dev->uuid))
		return;
	for (unsigned i = 0; i < sizeof(ns->eui64); i++)
		(void)snprintf(eui64 + 2 * i, 3, "%02x", ns->eui64[i]);
	if (nvmf_ns_has_identity(ns))
		identity_derive("eui64", eui64, &dev->uuid);
	else
		identity_derive("nvmf", dev->name, &dev->uuid);
}

static void set_limits(struct device *dev, const struct nvmf_ctrl_info *info,
		       const struct nvmf_ns_info *ns)
{
	dev->nblocks = ns->nblocks;
	dev->block_size = ns->block_size;
	dev->ops = ops_of(info);
	dev->buf_align = 1;
	dev->max_io_nlb = info->data_max / ns->block_size;
	if (dev->ops & IO_BIT(IO_COMPARE_WRITE)) /* else it is emulated */
		dev->max_compare_write_nlb = ns->fuse_nlb != 0 ? ns->fuse_nlb : info->fuse_nlb;
	dev->physical_block_size = ns->physical_nlb * ns->block_size;
	dev->optimal_io_nlb = ns->optimal_nlb;
	dev->has_write_cache = info->has_write_cache;
	dev->is_read_only = ns->is_read_only;
	dev->is_thin = ns->is_thin;
	/* to deallocate is advice (NVM 3.2.3): what DLFEAT says holds for blocks that were */
	dev->unmap_reads_zero = false;
	dev->stack_depth = 1;
}

/* A path's place in the arrays of channels. */
static void head_take_slot(struct nvmf_head *head, struct nvmf_path *path)
{
	while (head->slots >> path->slot & 1)
		path->slot++;
	head->slots |= 1u << path->slot;
}

/*
 * Into both lists; the device is registered. The namespace is read once more: an event about it
 * that came before found no path, and a path that was away may have missed some.
 */
static void head_link(struct nvmf_head *head, struct nvmf_path *path)
{
	struct nvmf_ctrlr *c = path->ctrlr;

	path->head = head;
	head_take_slot(head, path);
	list_add_tail(&head->paths, &path->link);
	task_mutex_lock(&c->lock);
	list_add_tail(&c->paths, &path->in_ctrlr);
	if (c->state == CTRLR_LIVE && path_rescan(path, NULL) < 0)
		ctrlr_kick_later(c, KICK_RESCAN, NVMF_LOOK_AGAIN_NS);
	task_mutex_unlock(&c->lock);
}

/* Does @path lead to what @head is? */
static bool head_is_same(const struct nvmf_head *head, const struct nvmf_path *path,
			 const struct nvmf_opts *opts)
{
	return strcmp(head->opts.subnqn, opts->subnqn) == 0 &&
	       strcmp(head->opts.hostnqn, opts->hostnqn) == 0 &&
	       memcmp(head->opts.hostid, opts->hostid, sizeof(opts->hostid)) == 0 &&
	       head->ns.is_shared && path->ns.is_shared && nvmf_ns_has_identity(&path->ns) &&
	       nvmf_ns_is_same(&head->ns, &path->ns) && !head->dev.is_removed;
}

static struct nvmf_head *head_find(const struct nvmf_path *path, const struct nvmf_opts *opts)
{
	for (struct device *dev = device_next(NULL); dev != NULL; dev = device_next(dev)) {
		if (dev->driver == &driver_nvmf && head_is_same(head_of(dev), path, opts))
			return head_of(dev);
	}
	return NULL;
}

bool head_fits(const struct nvmf_head *head, const struct nvmf_ctrl_info *info)
{
	const struct device *dev = &head->dev;

	return info->data_max / dev->block_size >= dev->max_io_nlb &&
	       (dev->ops & ~ops_of(info)) == 0 && (dev->has_write_cache || !info->has_write_cache);
}

static int check_join(const struct nvmf_head *head, const struct nvmf_path *path, struct err *err)
{
	const struct nvmf_ctrl_info *info = &path->ctrlr->info;

	if ((head->slots & ((1u << PATHS_MAX) - 1)) == (1u << PATHS_MAX) - 1)
		return err_set(err, -EMLINK, "%s has %d paths, more are not possible",
			       head->dev.name, PATHS_MAX);
	if (!path->is_unread && !head_fits(head, info))
		return err_set(err, -ENOTSUP,
			       "the controller can do less than that of the first path of %s "
			       "(transfers of %u bytes, operations %#x)",
			       head->dev.name, info->data_max, ops_of(info));
	return 0;
}

static int head_add_to_channels(struct nvmf_head *head, struct nvmf_path *path, struct err *err)
{
	for (unsigned i = 0; i < REACTORS_MAX; i++) {
		int result = head->chan[i] != NULL ? chan_add_path(head->chan[i], path, err) : 0;

		if (result < 0)
			return result;
	}
	return 0;
}

/* Out of lists and channels; the caller frees it. head->lock is held. */
static void head_unlink(struct nvmf_head *head, struct nvmf_path *path)
{
	path->is_leaving = true;
	head_refresh(head);
	for (unsigned i = 0; i < REACTORS_MAX; i++) {
		if (head->chan[i] != NULL)
			chan_remove_path(head->chan[i], path);
	}
	list_del(&path->link);
	head->slots &= ~(1u << path->slot);
	task_mutex_lock(&path->ctrlr->lock);
	list_del(&path->in_ctrlr);
	task_mutex_unlock(&path->ctrlr->lock);
}

static int head_join(struct nvmf_head *head, struct nvmf_path *path, struct err *err)
{
	int result;

	task_mutex_lock(&head->lock);
	if (head->dev.is_removed)
		result = err_set(err, -ENODEV, "%s was removed", head->dev.name);
	else
		result = check_join(head, path, err);
	if (result == 0) {
		head_link(head, path);
		result = head_add_to_channels(head, path, err);
		if (result < 0)
			head_unlink(head, path);
	}
	task_mutex_unlock(&head->lock);
	if (result < 0)
		return result;
	head_refresh(head);
	if (!path->is_unread)
		log_info("%s: %s is a further path", head->dev.name, path->ctrlr->name);
	return 0;
}

static int head_new(const struct nvmf_opts *opts, struct nvmf_path *path, struct device **ret_dev,
		    struct err *err)
{
	CLEANUP(freep) struct nvmf_head *head = calloc(1, sizeof(*head));
	int result;

	if (head == NULL)
		return err_set(err, -ENOMEM, "no memory for an nvmf device");
	head->dev.driver = &driver_nvmf;
	head->opts = *opts;
	head->ns = path->ns;
	head->fast_fail.fn = fast_fail_due;
	list_init(&head->paths);
	task_mutex_init(&head->lock);
	result = nvmf_opts_name(opts, head->dev.name, sizeof(head->dev.name), err);
	if (result < 0)
		return result;
	set_limits(&head->dev, &path->ctrlr->info, &path->ns);
	set_identity(&head->dev, opts, &path->ns);
	result = device_register(&head->dev, err);
	if (result < 0)
		return result;
	device_pin(&head->dev); /* from here on it may be removed by its name */
	head->is_registered = true;
	head->nusable = UINT32_MAX; /* not known: the first look tells */
	head_link(head, path);
	head_refresh(head);
	*ret_dev = &take(head)->dev;
	return 0;
}

/*
 * Into a device that exists, or into a new one. On success the path is the head's, and the device
 * is pinned.
 */
static int head_adopt(const struct nvmf_opts *opts, struct nvmf_path *path, struct device **ret_dev,
		      struct err *err)
{
	struct nvmf_head *head = head_find(path, opts);
	int result;

	if (head == NULL)
		return head_new(opts, path, ret_dev, err);
	device_pin(&head->dev);
	result = head_join(head, path, err);
	if (result == 0)
		*ret_dev = &head->dev;
	else
		device_unpin(&head->dev);
	return result;
}

/* A path to what cannot be reached now. It is used once it was, and is what @dev is. */
static int head_also_later(struct device *dev, const struct nvmf_opts *opts, const char *uri,
			   const struct err *why, struct err *err)
{
	CLEANUP(path_freep) struct nvmf_path *path = path_alloc(opts, uri, err);
	char text[UNITS_TEXT_MAX];
	int result;

	if (path == NULL)
		return -ENOMEM;
	log_warn("%s: goes without the path %s:%u until it can be had: %s; trying again in %s",
		 dev->name, opts->host, opts->port, err_text(why),
		 duration_format(opts->reconnect_delay_ns, text));
	path->is_unread = true;
	result = ctrlr_get_later(opts, why, &path->ctrlr, err);
	if (result == 0)
		result = head_join(head_of(dev), path, err);
	if (result == 0)
		path = NULL;
	return result;
}

/* The places of a URI: its own, then those of paths=. */
static struct nvmf_opts opts_at(const struct nvmf_opts *opts, unsigned place)
{
	struct nvmf_opts at = *opts;

	if (place == 0)
		return at;
	memcpy(at.host, opts->also[place - 1].host, sizeof(at.host));
	at.port = opts->also[place - 1].port;
	return at;
}

struct attempt {
	int result;
	struct err why;
};

/*
 * A place that cannot be had. There is another path already, so what cannot be reached now may come
 * later, as a lost path may, unless losing a path is the end of it (ctrl_loss=0).
 */
static int head_without(struct device *dev, const struct nvmf_opts *at, const char *uri,
			const struct attempt *attempt, struct err *err)
{
	if (attempt->result != -ENODEV && attempt->result != -EINVAL && at->ctrl_loss_ns > 0)
		return head_also_later(dev, at, uri, &attempt->why, err);
	log_warn("%s: goes without the path %s:%u: %s", dev->name, at->host, at->port,
		 err_text(&attempt->why));
	return 0;
}

/* One more place of a device that has a path. */
static int head_also(struct device *dev, const struct nvmf_opts *at, const char *uri,
		     struct err *err)
{
	CLEANUP(path_freep) struct nvmf_path *path = NULL;
	struct nvmf_opts also = *at;
	struct attempt attempt = {};
	struct device *joined;
	int result;

	attempt.result = path_new(&also, uri, &path, &attempt.why);
	if (attempt.result < 0)
		return head_without(dev, &also, uri, &attempt, err);
	if (head_find(path, &also) != head_of(dev))
		return err_set(err, -EINVAL,
			       "paths: %s:%u leads to another namespace, or to one that is not "
			       "shared",
			       also.host, also.port);
	result = head_adopt(&also, path, &joined, err);
	if (result < 0)
		return result;
	path = NULL;
	device_unpin(joined);
	return 0;
}

/* A device keeps the name of its first path, which may have gone and may come back. */
static bool has_path(const struct device *dev, const struct nvmf_opts *opts)
{
	const struct nvmf_path *path;

	if (dev->driver != &driver_nvmf)
		return true;
	list_for_each (path, &head_of(dev)->paths, link) {
		if (path->ns.nsid == opts->nsid && nvmf_opts_same_ctrlr(&path->ctrlr->opts, opts))
			return true;
	}
	return false;
}

/*
 * A path to the first place that can be had; *@ret_place says which that is, and @attempts how
 * those before it failed. What the first one says is told when there is none.
 */
static int path_first(const struct nvmf_opts *opts, const char *uri, struct nvmf_path **ret,
		      unsigned *ret_place, struct attempt attempts[PATHS_MAX], struct err *err)
{
	for (unsigned place = 0; place <= opts->nalso; place++) {
		struct nvmf_opts at = opts_at(opts, place);
		struct attempt *attempt = &attempts[place];

		attempt->result = path_new(&at, uri, ret, &attempt->why);
		if (attempt->result == 0) {
			*ret_place = place;
			return 0;
		}
	}
	(void)err_set(err, attempts[0].result, "%s", err_text(&attempts[0].why));
	if (opts->nalso > 0)
		(void)err_hint(err, "nor can any place of paths= be had");
	return attempts[0].result;
}

/* The other places: those that were tried in vain, and those that were not tried. */
static int head_add_places(struct device *dev, const struct nvmf_opts *opts, const char *uri,
			   unsigned first, const struct attempt attempts[PATHS_MAX],
			   struct err *err)
{
	int result = 0;

	for (unsigned place = 0; result == 0 && place <= opts->nalso; place++) {
		struct nvmf_opts at = opts_at(opts, place);

		if (place < first)
			result = head_without(dev, &at, uri, &attempts[place], err);
		else if (place > first)
			result = head_also(dev, &at, uri, err);
	}
	return result;
}

int head_create(struct uri *uri, struct device **ret_dev, struct err *err)
{
	CLEANUP(path_freep) struct nvmf_path *path = NULL;
	char name[DEVICE_NAME_MAX];
	bool is_ours;
	struct attempt attempts[PATHS_MAX] = {};
	struct nvmf_opts opts;
	struct device *dev;
	unsigned place = 0;
	int result = nvmf_opts_parse(uri, &opts, err);

	if (result == 0)
		result = nvmf_opts_name(&opts, name, sizeof(name), err);
	if (result < 0)
		return result;
	dev = device_lookup(name);
	if (device_lookup(uri->text) != NULL || (dev != NULL && has_path(dev, &opts)))
		return err_set(err, -EEXIST, "a device named '%s' exists already", name);
	result = path_first(&opts, uri->text, &path, &place, attempts, err);
	if (result == -ECONNREFUSED && uri->port[0] == '\0')
		(void)err_hint(err,
			       "the URI names no port, which means %d; ashlar export listens "
			       "on 4420 if not told otherwise",
			       NVMF_PORT);
	if (result == 0 && head_find(path, &opts) == NULL)
		result = leftover_settle(path->ctrlr, err);
	if (result == 0)
		result = head_adopt(&opts, path, &dev, err);
	if (result < 0)
		return result;
	path = NULL;
	result = head_add_places(dev, &opts, uri->text, place, attempts, err);
	if (result == 0 && dev->is_removed)
		result = err_set(err, -ENODEV, "%s was removed while it was made", name);
	is_ours = result < 0 && !dev->is_removed && head_leave(dev, uri->text) != 0 &&
		  !dev->is_removed;
	device_unpin(dev);
	if (is_ours && device_remove(dev, NULL) < 0)
		log_warn("%s stays, somebody else removes it", name);
	if (result == 0)
		*ret_dev = dev;
	return result;
}

/* ---- going -------------------------------------------------------------------------------- */

/* A path that came with @uri; NULL: none. *@ret_staying: how many came with others. */
static struct nvmf_path *path_of_uri(struct nvmf_head *head, const char *uri, unsigned *ret_staying)
{
	struct nvmf_path *path, *found = NULL;

	*ret_staying = 0;
	list_for_each (path, &head->paths, link) {
		if (path->is_leaving)
			continue;
		if (strcmp(path->uri, uri) == 0)
			found = path;
		else
			(*ret_staying)++;
	}
	return found;
}

/* By the place and the namespace of one of its paths: other parameters may be left out. */
struct device *head_find_uri(const struct uri *uri, const char **ret_alias)
{
	struct nvmf_opts want;

	if (nvmf_opts_place(uri, &want) < 0)
		return NULL;
	for (struct device *dev = device_next(NULL); dev != NULL; dev = device_next(dev)) {
		const struct nvmf_path *path;

		if (dev->driver != &driver_nvmf)
			continue;
		list_for_each (path, &head_of(dev)->paths, link) {
			const struct nvmf_opts *is = &path->ctrlr->opts;

			if (path->ns.nsid != want.nsid || is->port != want.port ||
			    strcmp(is->host, want.host) != 0 ||
			    strcmp(is->subnqn, want.subnqn) != 0)
				continue;
			*ret_alias = path->uri;
			return dev;
		}
	}
	return NULL;
}

int head_leave(struct device *dev, const char *uri)
{
	struct nvmf_head *head = head_of(dev);
	struct nvmf_path *path;
	unsigned nstaying;

	path = path_of_uri(head, uri, &nstaying);
	if (path == NULL || nstaying == 0)
		return 1;
	while (path != NULL) {
		path->is_leaving = true;
		task_mutex_lock(&head->lock);
		head_unlink(head, path);
		task_mutex_unlock(&head->lock);
		log_info("%s: the path through %s is gone", dev->name, path->ctrlr->name);
		path_free(path);
		path = path_of_uri(head, uri, &nstaying);
	}
	return 0;
}

void head_removing(struct device *dev)
{
	struct nvmf_head *head = head_of(dev);

	head->is_removed = true;
	head_end_waiting(head, IO_NO_DEVICE);
	head_publish(head);
}

void head_destroy(struct device *dev)
{
	struct nvmf_head *head = head_of(dev);
	struct task_event resized = {};
	struct nvmf_path *path;

	head->want_nblocks = 0;
	if (head->is_resizing) {
		head->resized = &resized;
		task_event_wait(&resized);
	}
	head->is_registered = false; /* nothing is told to it any more, so nothing arms the timer */
	timer_disarm(reactor_self(), &head->fast_fail);
	while ((path = list_first_entry(&head->paths, struct nvmf_path, link)) != NULL) {
		task_mutex_lock(&head->lock);
		head_unlink(head, path);
		task_mutex_unlock(&head->lock);
		path_free(path);
	}
	free(head);
}
