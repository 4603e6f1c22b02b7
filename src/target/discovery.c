// SPDX-License-Identifier: Apache-2.0
/*
 * The discovery log: which subsystem can be reached where.
 *
 * One entry per subsystem and listener, and only for subsystems that would let this host in: a log
 * is no place to show names to strangers. A listener on a wildcard address is announced with the
 * address at which the asking host found us, the only one of which we know that it reaches us.
 *
 * GENCTR counts changes of the set, so that a host that reads the log in pieces notices one (Base
 * 5.16.1.23). Discovery controllers that enabled the event are told.
 *
 * Thread: the primary reactor.
 */
#include <stdlib.h>
#include <string.h>

#include "target/internal.h"

/* "1.2.3.4:5" or "[v6]:5" into its parts; @host keeps an IPv6 address without brackets. */
static void split_addr(const char *addr, char host[256], char port[32], bool *ret_is_v6)
{
	const char *colon = strrchr(addr, ':');
	size_t len = colon == NULL ? strlen(addr) : (size_t)(colon - addr);

	*ret_is_v6 = addr[0] == '[';
	if (*ret_is_v6 && len >= 2) {
		addr++;
		len -= 2;
	}
	len = MIN(len, (size_t)255);
	memcpy(host, addr, len);
	host[len] = '\0';
	(void)snprintf(port, 32, "%s", colon == NULL ? "" : colon + 1);
}

static bool is_wildcard(const char *host)
{
	return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
}

static void fill_entry(struct nvme_discovery_entry *entry, const struct subsystem *ss,
		       unsigned listener, const struct conn *conn)
{
	char host[256], port[32], own_port[32];
	bool is_v6;

	split_addr(target_listener_addr(ss->target, listener), host, port, &is_v6);
	if (is_wildcard(host))
		split_addr(conn->local, host, own_port, &is_v6);
	if (strncmp(host, "::ffff:", 7) == 0 && strchr(host, '.') != NULL) {
		memmove(host, host + 7, strlen(host + 7) + 1); /* IPv4 on an IPv6 socket */
		is_v6 = false;
	}
	entry->trtype = NVME_TRTYPE_TCP;
	entry->adrfam = is_v6 ? NVME_ADRFAM_IPV6 : NVME_ADRFAM_IPV4;
	entry->subtype = NVME_SUBTYPE_NVM;
	/* Not "secure channel not required": libnvme reads that as an offer, and asks for TLS. */
	entry->treq = NVME_TREQ_NO_SQ_FLOW_CONTROL;
	le16_put(&entry->portid, (uint16_t)listener);
	le16_put(&entry->cntlid, NVME_CNTLID_DYNAMIC);
	le16_put(&entry->asqsz, ADMIN_DEPTH_MAX);
	/* Padded with blanks in neither field: hosts take them as C strings too. */
	memcpy(entry->trsvcid, port, strlen(port));
	memcpy(entry->subnqn, ss->nqn, strlen(ss->nqn));
	memcpy(entry->traddr, host, strlen(host));
}

static bool is_shown(const struct subsystem *ss, const struct ctrlr *ctrlr)
{
	return !ss->is_discovery && !ss->is_removing && subsystem_allows(ss, ctrlr->hostnqn);
}

struct nvme_discovery_log *discovery_log(struct target *target, const struct ctrlr *ctrlr,
					 const struct conn *conn, size_t *ret_size)
{
	struct nvme_discovery_log *log;
	struct subsystem *ss;
	size_t count = 0;

	list_for_each (ss, &target->subsystems, link)
		count += is_shown(ss, ctrlr) ? target->listener_count : 0;
	*ret_size = sizeof(*log) + count * sizeof(log->entry[0]);
	log = calloc(1, *ret_size);
	if (log == NULL)
		return NULL;
	le64_put(&log->genctr, target->genctr);
	le64_put(&log->numrec, count);
	count = 0;
	list_for_each (ss, &target->subsystems, link) {
		for (unsigned i = 0; is_shown(ss, ctrlr) && i < target->listener_count; i++)
			fill_entry(&log->entry[count++], ss, i, conn);
	}
	return log;
}

void target_discovery_changed(struct target *target)
{
	struct ctrlr *ctrlr;

	target->genctr++;
	if (target->discovery == NULL)
		return;
	list_for_each (ctrlr, &target->discovery->ctrlrs, link)
		ctrlr_discovery_changed(ctrlr);
}
