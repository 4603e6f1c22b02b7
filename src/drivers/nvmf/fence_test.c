/* SPDX-License-Identifier: Apache-2.0 */
/* fence: how many are kept of those for which no controller is left, and who waits for them. The
 * table of controllers is ours; none of them connects. */
#include "base/tap.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/units.h"
#include "drivers/nvmf/ctrlr.h"
#include "reactor/testing.h"

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

/* A device that hangs lost many connections in a row: one more is let in, as it could end them. */
TEST(who_could_ask_is_let_in)
{
	struct nvmf_ctrlr *c = only = calloc(1, sizeof(*c)), other = {};
	struct nvmf_view view;

	c->info.ccrl = c->info.ciu = c->info.cirn = 1;
	list_init(&c->ioqs);
	for (unsigned i = 0; i < FENCES_MAX + 3; i++) {
		CHECK_EQ(fence_begin(c, NULL), 0);
		c->has_lost_write = true;
		fence_end(c);
	}
	CHECK_EQ(fence_begin(c, NULL), 0);
	CHECK_EQ(fence_begin(&other, NULL), -EBUSY);
	c->has_lost_write = true;
	for (unsigned i = FENCES_MAX + 3; i < VIEW_ACTING_MAX; i++) {
		fence_end(c);
		CHECK_EQ(fence_begin(c, NULL), 0);
		c->has_lost_write = true;
	}
	fence_end(c);
	fence_view(&c->opts, &view);
	CHECK_EQ(view.nacting, VIEW_ACTING_MAX);
	CHECK_EQ(view.horizon, 0);
	fence_forget(c);
	only = NULL;
	free(c);
	fence_drop_all();
}

/* ---- who waits ------------------------------------------------------------------------------ */

static struct nvmf_opts family(const char *name, uint64_t patience_ns)
{
	struct nvmf_opts opts = { .connect_timeout_ns = patience_ns };

	(void)snprintf(opts.subnqn, sizeof(opts.subnqn), "nqn.2019-05.x:%s", name);
	return opts;
}

/* It loses its connection for the reason @why, with a write, and goes. */
static void lose(const char *name, bool is_askable, int why)
{
	struct nvmf_ctrlr *c = only = calloc(1, sizeof(*c));

	c->opts = family(name, 0);
	c->opts.kato_ms = 10;
	c->info.ccrl = is_askable;
	c->info.ciu = c->info.cirn = is_askable;
	c->why.code = why;
	list_init(&c->ioqs);
	CHECK_EQ(fence_begin(c, NULL), 0);
	c->has_lost_write = true;
	fence_end(c);
	fence_forget(c);
	only = NULL;
	free(c);
}

static void drop_task(void *arg)
{
	(void)arg;
	fence_drop_all();
}

/* A device that is made again begins with new writes: no lost one may come after them. */
static void made_again(void)
{
	struct nvmf_opts hasty = family("asked", NS_PER_MS),
			 patient = family("asked", 60 * NS_PER_S);
	struct nvmf_opts silent = family("silent", 60 * NS_PER_S), gone = family("gone", 1);
	uint64_t start_ns;

	lose("asked", true, -ECONNRESET);
	CHECK_EQ(fence_settle(&hasty, NULL), -EBUSY);
	CHECK_EQ(fence_settle(&gone, NULL), 0); /* another one's are no concern of it */
	CHECK_EQ(task_spawn("drop", drop_task, NULL), 0);
	CHECK_EQ(fence_settle(&patient, NULL), 0);

	/* nobody can be asked: as long as what lies in the network may still arrive */
	start_ns = reactor_self()->now_ns;
	lose("silent", false, -ETIMEDOUT);
	CHECK_EQ(fence_settle(&silent, NULL), 0);
	CHECK(reactor_self()->now_ns - start_ns >= 20 * NS_PER_MS);
	CHECK(reactor_self()->now_ns - start_ns < 60 * NS_PER_S);
	lose("gone", false, -ECONNRESET); /* it ended the connection: nothing arrives any more */
	CHECK_EQ(fence_settle(&gone, NULL), 0);
	fence_drop_all();
}

TEST(a_device_made_again_waits_for_lost_writes)
{
	in_task(0x1, made_again);
}

TAP_MAIN()
