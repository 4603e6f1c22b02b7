// SPDX-License-Identifier: Apache-2.0
/*
 * Who may connect to a subsystem: any host, or those on its list; the list changes while it is
 * served.
 *
 *   any host --first name added--> list --last name removed--> list of nobody
 *      ^------------------ set_hosts() with count 0 -----------'
 *
 * A list that became empty does not mean "any": whoever takes the last host away wants nobody in.
 *
 * Whoever may not connect any more loses his controllers at once, also one that came in while any
 * host was welcome, and the call returns when nothing of his is in flight (disconnect.c). The
 * discovery log asks the same question as Connect, so it never shows what the asker may not use.
 *
 * A change is complete before anything can suspend: new list, controllers told. So connects and
 * other changes see the old list or the new one.
 *
 * Thread: the primary reactor, in tasks.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "target/internal.h"

/* "nqn.yyyy-mm.reverse.domain:name" or the uuid form (Base 4.5). */
bool nqn_is_good(const char *nqn)
{
	size_t len = nqn == NULL ? 0 : strlen(nqn);

	return len > 4 && len <= TARGET_NQN_MAX && strncmp(nqn, "nqn.", 4) == 0;
}

static int host_check(const char *hostnqn, struct err *err)
{
	if (nqn_is_good(hostnqn))
		return 0;
	return err_set(err, -EINVAL,
		       "host '%.100s' is not an NVMe qualified name: \"nqn.\" and more, at most %d "
		       "bytes",
		       hostnqn == NULL ? "" : hostnqn, TARGET_NQN_MAX);
}

/* Where it stands, or the count. */
static unsigned host_find(const struct subsystem *ss, const char *hostnqn)
{
	unsigned i = 0;

	while (i < ss->allowed_host_count && strcmp(ss->allowed_hosts[i], hostnqn) != 0)
		i++;
	return i;
}

bool subsystem_allows(const struct subsystem *ss, const char *hostnqn)
{
	return ss->is_any_host || host_find(ss, hostnqn) < ss->allowed_host_count;
}

bool subsystem_hosts(const struct subsystem *ss, const char *const **ret_hosts, unsigned *ret_count)
{
	*ret_hosts = (const char *const *)ss->allowed_hosts;
	*ret_count = ss->is_any_host ? 0 : ss->allowed_host_count;
	return ss->is_any_host;
}

/* ---- lists ---------------------------------------------------------------------------------- */

static void list_free(char **hosts, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		free(hosts[i]);
	free(hosts);
}

/* Room for @count names more behind those there are. */
static int list_grow(struct subsystem *ss, unsigned count, struct err *err)
{
	unsigned limit = ss->target->opts.hosts_max;
	char **grown;

	if (count > limit || ss->allowed_host_count > limit - count)
		return err_set(err, -ENOSPC,
			       "subsystem '%s' would list more than %u hosts (hosts_max)", ss->nqn,
			       limit);
	grown = realloc(ss->allowed_hosts,
			(ss->allowed_host_count + count + 1) * sizeof(*ss->allowed_hosts));
	if (grown == NULL)
		return err_set(err, -ENOMEM, "no memory for a list of hosts");
	ss->allowed_hosts = grown;
	return 0;
}

static int list_add_host(struct subsystem *ss, const char *hostnqn, struct err *err)
{
	char *copy;

	if (host_find(ss, hostnqn) < ss->allowed_host_count)
		return 0;
	copy = strdup(hostnqn);
	if (copy == NULL)
		return err_set(err, -ENOMEM, "no memory for a list of hosts");
	ss->allowed_hosts[ss->allowed_host_count++] = copy;
	return 0;
}

int hosts_init(struct subsystem *ss, const char *const *hosts, unsigned count, struct err *err)
{
	int result = 0;

	ss->is_any_host = count == 0;
	if (count > 0)
		result = list_grow(ss, count, err);
	for (unsigned i = 0; i < count && result == 0; i++) {
		result = host_check(hosts[i], err);
		if (result == 0)
			result = list_add_host(ss, hosts[i], err);
	}
	return result;
}

void hosts_done(struct subsystem *ss)
{
	list_free(ss->allowed_hosts, ss->allowed_host_count);
}

/* ---- changes -------------------------------------------------------------------------------- */

/* The list is another one: out with those who are not on it. */
static int hosts_changed(struct subsystem *ss, bool is_shorter, struct err *err) MAY_SUSPEND;
static int hosts_changed(struct subsystem *ss, bool is_shorter, struct err *err)
{
	struct ctrlr *ctrlr;
	int result = 0;

	list_for_each (ctrlr, &ss->ctrlrs, link) {
		if (subsystem_allows(ss, ctrlr->hostnqn) ||
		    (ctrlr->is_closing && !ctrlr->is_draining))
			continue;
		log_info("host is not allowed any more, closing controller nqn=%s cntlid=%u "
			 "host=%s",
			 ss->nqn, ctrlr->cntlid, ctrlr->hostnqn);
		ctrlr_close(ctrlr);
	}
	target_discovery_changed(ss->target);
	if (is_shorter)
		result = fence_wait(ss, err);
	if (result == -ETIMEDOUT)
		(void)err_hint(err, "the list is changed and those hosts are out, but what the "
				    "device holds may still be carried out");
	return result;
}

int subsystem_set_hosts(struct subsystem *ss, const char *const *hosts, unsigned count,
			struct err *err)
{
	unsigned old_count = ss->allowed_host_count;
	char **old = ss->allowed_hosts;
	bool was_any = ss->is_any_host;
	int result;

	ss->allowed_hosts = NULL;
	ss->allowed_host_count = 0;
	result = hosts_init(ss, hosts, count, err);
	if (result < 0) {
		hosts_done(ss);
		ss->allowed_hosts = old;
		ss->allowed_host_count = old_count;
		ss->is_any_host = was_any;
		return result;
	}
	list_free(old, old_count);
	return hosts_changed(ss, true, err);
}

int subsystem_allow_host(struct subsystem *ss, const char *hostnqn, struct err *err)
{
	bool was_any = ss->is_any_host;
	int result = host_check(hostnqn, err);

	if (result == 0)
		result = list_grow(ss, host_find(ss, hostnqn) == ss->allowed_host_count, err);
	if (result == 0)
		result = list_add_host(ss, hostnqn, err);
	if (result < 0)
		return result;
	ss->is_any_host = false;
	return hosts_changed(ss, was_any, err);
}

int subsystem_disallow_host(struct subsystem *ss, const char *hostnqn, struct err *err)
{
	unsigned at = host_find(ss, hostnqn);

	if (ss->is_any_host)
		return err_set(err, -EINVAL,
			       "any host may connect to subsystem '%s'; name those that may, and "
			       "the others are out",
			       ss->nqn);
	if (at == ss->allowed_host_count)
		return err_set(err, -ENOENT, "subsystem '%s' does not list host '%s'", ss->nqn,
			       hostnqn);
	free(ss->allowed_hosts[at]);
	ss->allowed_hosts[at] = ss->allowed_hosts[--ss->allowed_host_count];
	return hosts_changed(ss, true, err);
}
