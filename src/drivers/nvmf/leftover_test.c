/* SPDX-License-Identifier: Apache-2.0 */
/* leftover: what answers of a target make a new device wait, and for how long. The target is a
 * script of answers, the last of which is given for ever. */
#include "base/tap.h"

#include <errno.h>
#include <string.h>

#include "base/units.h"
#include "drivers/nvmf/ctrlr.h"
#include "reactor/testing.h"

enum { ANSWERS_MAX = 4, FOREVER = UINT32_MAX };

struct answer {
	int result;      /* of the command; 0: a page */
	uint32_t conns;  /* in it */
	uint32_t ctrlrs; /* the same, beyond our own */
	bool is_foreign; /* somebody else's page */
};

static const struct answer *answers;
static unsigned asked, last;
static uint8_t asked_lid;
static struct nvmf_ctrlr *only;

struct nvmf_ctrlr *ctrlr_next(const struct nvmf_ctrlr *prev)
{
	return prev == NULL ? only : NULL;
}

int ctrlr_log_page(struct nvmf_ctrlr *c, uint8_t lid, uint8_t lsp, uint64_t off, void *buf,
		   uint32_t len, struct err *err)
{
	const struct answer *a = &answers[MIN(asked, last)];
	struct nvme_log_leftover *page = buf;

	(void)c;
	(void)lsp;
	(void)off;
	asked_lid = lid;
	asked++;
	memset(buf, a->is_foreign ? 0xa5 : 0, len);
	if (a->result < 0)
		return err_set(err, a->result, "it says no");
	if (!a->is_foreign) {
		memcpy(page->signature, NVME_LEFTOVER_SIGNATURE, sizeof(NVME_LEFTOVER_SIGNATURE));
		le32_put(&page->version, NVME_LEFTOVER_VERSION);
		le32_put(&page->conns, a->conns);
		le32_put(&page->ctrlrs, a->ctrlrs + 1);
	}
	return 0;
}

static const struct row {
	const char *name;
	struct answer answers[ANSWERS_MAX];
	unsigned count;
	int result;
	unsigned asked; /* 0: until the time is over */
} rows[] = {
	{ "nothing is left", { {} }, 1, 0, 1 },
	{ "there is no such page", { { .result = -EIO } }, 1, 0, 1 },
	{ "another vendor's page", { { .is_foreign = true } }, 1, 0, 1 },
	{ "it ends", { { .conns = 3 }, { .conns = 1 }, {} }, 3, 0, 3 },
	{ "it does not end", { { .conns = FOREVER } }, 1, -EBUSY, 0 },
	{ "an error later tells nothing",
	  { { .conns = 1 }, { .result = -EIO }, { .is_foreign = true }, {} },
	  4,
	  0,
	  4 },
	{ "it looked alive, then dead", { { .ctrlrs = 1 }, { .conns = 1 }, {} }, 3, 0, 3 },
	{ "it looked alive, then the page has gone",
	  { { .ctrlrs = 1 }, { .result = -EIO }, {} },
	  3,
	  0,
	  3 },
	{ "no room for the command", { { .result = -EBUSY }, {} }, 2, 0, 2 },
	{ "the connection goes", { { .conns = 1 }, { .result = -ENOTCONN } }, 2, -ENOTCONN, 2 },
};

static void row_play(const struct row *row)
{
	struct nvmf_ctrlr c = { .name = "far", .info.ccrl = 1, .state = CTRLR_LIVE };
	uint64_t start_ns = reactor_self()->now_ns;
	struct err err = {};

	TAP_ROW(row->name);
	c.opts.connect_timeout_ns = row->asked == 0 ? 20 * NS_PER_MS : 60 * NS_PER_S;
	answers = row->answers;
	last = row->count - 1;
	asked = 0;
	only = &c;
	CHECK_EQ(leftover_settle(&c, &err), row->result);
	only = NULL;
	CHECK_EQ(asked_lid, 0xde);
	if (row->asked != 0) {
		CHECK_EQ(asked, row->asked);
		return;
	}
	CHECK(reactor_self()->now_ns - start_ns >= 20 * NS_PER_MS);
	CHECK(asked > 1 && asked < 20);
	CHECK(strstr(err_text(&err), "still with devices of far") != NULL);
}

/* Another process of this host: it is given the time to turn out dead, not more. */
static void sibling_lives(void)
{
	static const struct answer sibling = { .ctrlrs = FOREVER - 1 };
	struct nvmf_ctrlr c = { .name = "far", .info.ccrl = 1, .state = CTRLR_LIVE };
	uint64_t start_ns = reactor_self()->now_ns, past_ns;

	c.opts.connect_timeout_ns = 60 * NS_PER_S;
	answers = &sibling;
	last = asked = 0;
	only = &c;
	CHECK_EQ(leftover_settle(&c, NULL), 0);
	only = NULL;
	past_ns = reactor_self()->now_ns - start_ns;
	CHECK(past_ns >= NS_PER_S && past_ns < 60 * NS_PER_S);
}

static void play(void)
{
	struct nvmf_ctrlr foreign = { .name = "far" };

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		row_play(&rows[i]);
	sibling_lives();
	asked = 0; /* no Cross-Controller Reset: it is not ours, and not asked */
	CHECK_EQ(leftover_settle(&foreign, NULL), 0);
	CHECK_EQ(asked, 0);
}

TEST(a_new_device_waits_for_what_is_left)
{
	in_task(0x1, play);
}

TEST(pages_of_others_are_not_believed)
{
	struct nvme_log_leftover page = { .signature = NVME_LEFTOVER_SIGNATURE };
	struct nvmf_leftover left = { 7, 7 };

	CHECK_EQ(nvmf_leftover_check(&page, &left), -ENOTSUP); /* version 0 */
	le32_put(&page.version, 9);                            /* a later one only adds */
	le32_put(&page.conns, FOREVER);
	CHECK_EQ(nvmf_leftover_check(&page, &left), 0);
	CHECK_EQ(left.nconns, FOREVER);
	CHECK_EQ(left.nctrlrs, 0);
	for (size_t i = 0; i < sizeof(page.signature); i++) {
		left.nconns = 7;
		page.signature[i] ^= 1;
		CHECK_EQ(nvmf_leftover_check(&page, &left), -ENOTSUP);
		CHECK_EQ(left.nconns, 7);
		page.signature[i] ^= 1;
	}
}

TAP_MAIN()
