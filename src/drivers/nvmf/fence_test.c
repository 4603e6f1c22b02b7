/* SPDX-License-Identifier: Apache-2.0 */
/* fence: how many are kept of those for which no controller is left. The table of controllers is
 * ours; none of them connects. */
#include "base/tap.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "drivers/nvmf/ctrlr.h"

enum { FAMILIES = 600, LOST = 3, ORPHANS_KEPT = 1024 };

static struct nvmf_ctrlr *only;

struct nvmf_ctrlr *ctrlr_next(const struct nvmf_ctrlr *c)
{
	return c == NULL ? only : NULL;
}

int ctrlr_admin(struct nvmf_ctrlr *c, struct admin_call *call, const char *what, struct err *err)
{
	(void)c;
	(void)call;
	return err_set(err, -ENOTCONN, "%s", what);
}

void ctrlr_refresh_heads(struct nvmf_ctrlr *c)
{
	(void)c;
}

/* A controller that is lost with writes, some times, and given up. */
static void family_comes_and_goes(unsigned number)
{
	struct nvmf_ctrlr *c = only = calloc(1, sizeof(*c));

	(void)snprintf(c->opts.subnqn, sizeof(c->opts.subnqn), "nqn.2019-05.x:%u", number);
	c->info.ccrl = c->info.ciu = c->info.cirn = 1;
	list_init(&c->ioqs);
	for (unsigned i = 0; i < LOST; i++) {
		CHECK_EQ(fence_begin(c, NULL), 0);
		c->has_lost_write = true;
		fence_end(c);
	}
	fence_forget(c);
	only = NULL;
	free(c);
}

TEST(orphans_are_bounded)
{
	struct nvmf_opts opts = {};
	struct nvmf_view view;
	unsigned nfences = 0;

	for (unsigned i = 0; i < FAMILIES; i++)
		family_comes_and_goes(i);
	for (unsigned i = 0; i < FAMILIES; i++) {
		(void)snprintf(opts.subnqn, sizeof(opts.subnqn), "nqn.2019-05.x:%u", i);
		fence_view(&opts, &view);
		nfences += view.nacting;
	}
	CHECK_EQ(nfences, ORPHANS_KEPT);
	CHECK_EQ(view.nacting, LOST); /* the newest are among them */
	fence_drop_all();
}

TAP_MAIN()
