/* SPDX-License-Identifier: Apache-2.0 */
/*
 * discover.c - reading the log of a discovery controller.
 *
 * The log may change while it is read in parts. Its head carries a generation: it is read before
 * and after the entries, and a log that changed in between is read again, a few times, then
 * believed to change for ever and refused (Base 2.0c, 5.16.1.23). Entries are as hostile as any
 * other byte: texts are bounded by their fields, and what is not printable becomes a question
 * mark, since it ends up on a terminal.
 *
 * Rejected: following referrals to other discovery controllers. They are listed, and whoever wants
 * what they know asks them: following by itself means connecting to addresses that a stranger
 * named.
 *
 * Thread: a task on the primary reactor.
 */
#include "drivers/nvmf/discover.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "drivers/nvmf/ctrlr.h"

enum {
	READS_MAX = 8, /* of a log that keeps changing */
	CHUNK = 16,    /* entries of one command */
};

static void text_of(char *to, const char *from, size_t size)
{
	size_t len = strnlen(from, size);

	while (len > 0 && from[len - 1] == ' ')
		len--;
	for (size_t i = 0; i < len; i++)
		to[i] = from[i] >= ' ' && from[i] < 0x7f ? from[i] : '?';
	to[len] = '\0';
}

static void entry_of(struct discover_entry *to, const struct nvme_discovery_entry *from)
{
	text_of(to->subnqn, from->subnqn, sizeof(from->subnqn) - 1);
	text_of(to->addr, from->traddr, sizeof(from->traddr));
	text_of(to->service, from->trsvcid, sizeof(from->trsvcid));
	to->trtype = from->trtype;
	to->adrfam = from->adrfam;
	to->subtype = from->subtype;
	to->portid = le16_get(from->portid);
	to->cntlid = le16_get(from->cntlid);
}

static int read_entries(struct nvmf_ctrlr *c, struct discover_list *list, struct err *err)
{
	CLEANUP(freep) struct nvme_discovery_entry *chunk = malloc(CHUNK * sizeof(*chunk));

	if (chunk == NULL)
		return err_set(err, -ENOMEM, "no memory for a discovery log");
	for (unsigned i = 0; i < list->count; i += CHUNK) {
		unsigned n = MIN(list->count - i, (unsigned)CHUNK);
		uint64_t off = sizeof(struct nvme_discovery_log) + (uint64_t)i * sizeof(*chunk);
		int result = ctrlr_log_page(c, NVME_LOG_DISCOVERY, 0, off, chunk,
					    n * (uint32_t)sizeof(*chunk), err);

		if (result < 0)
			return result;
		for (unsigned k = 0; k < n; k++)
			entry_of(&list->entry[i + k], &chunk[k]);
	}
	return 0;
}

static int read_head(struct nvmf_ctrlr *c, struct nvme_discovery_log *ret_head, struct err *err)
{
	int result = ctrlr_log_page(c, NVME_LOG_DISCOVERY, 0, 0, ret_head, sizeof(*ret_head), err);

	if (result == 0 && le64_get(ret_head->numrec) > DISCOVER_ENTRIES_MAX)
		return err_set(err, -E2BIG, "the log has %lu entries, at most %d are read",
			       le64_get(ret_head->numrec), DISCOVER_ENTRIES_MAX);
	return result;
}

/* One reading of the whole; *ret_list stays NULL when the log changed meanwhile. */
static int read_once(struct nvmf_ctrlr *c, struct discover_list **ret_list, struct err *err)
{
	CLEANUP(freep) struct nvme_discovery_log *head = malloc(sizeof(*head));
	CLEANUP(freep) struct discover_list *list = NULL;
	uint64_t generation;
	unsigned count;
	int result;

	if (head == NULL)
		return err_set(err, -ENOMEM, "no memory for a discovery log");
	result = read_head(c, head, err);
	if (result < 0)
		return result;
	generation = le64_get(head->genctr);
	count = (unsigned)le64_get(head->numrec);
	list = calloc(1, sizeof(*list) + count * sizeof(list->entry[0]));
	if (list == NULL)
		return err_set(err, -ENOMEM, "no memory for a discovery log");
	list->generation = generation;
	list->count = count;
	result = read_entries(c, list, err);
	if (result == 0)
		result = read_head(c, head, err);
	if (result < 0)
		return result;
	if (le64_get(head->genctr) == generation && le64_get(head->numrec) == count)
		*ret_list = take(list);
	return 0;
}

int nvmf_discover(const char *host, uint16_t port, const char *hostnqn,
		  struct discover_list **ret_list, struct err *err)
{
	struct discover_list *list = NULL;
	struct nvmf_opts opts;
	struct nvmf_ctrlr *c;
	int result;

	result = nvmf_opts_init(&opts, hostnqn, err);
	if (result < 0)
		return result;
	if (strlen(host) >= sizeof(opts.host))
		return err_set(err, -ENAMETOOLONG, "the host's name is too long");
	memcpy(opts.host, host, strlen(host) + 1);
	opts.port = port;
	opts.kato_ms = 0; /* it is over before one is due */
	(void)snprintf(opts.subnqn, sizeof(opts.subnqn), "%s", NVME_DISCOVERY_NQN);
	result = ctrlr_get_discovery(&opts, &c, err);
	if (result < 0)
		return result;
	for (unsigned i = 0; result == 0 && list == NULL && i < READS_MAX; i++)
		result = read_once(c, &list, err);
	if (result == 0 && list == NULL)
		result = err_set(err, -EAGAIN, "the log changes faster than it can be read");
	ctrlr_put(c);
	if (result == 0)
		*ret_list = list;
	return result;
}
