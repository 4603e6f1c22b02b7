/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvmf.c - the driver of remote namespaces: the table, and where to read on.
 *
 *   opts.c     the URI and the environment                     a value
 *   ident.c    what a controller says, checked                 pure functions
 *   queue*.c   one queue pair over TCP: bytes                  its reactor
 *   ctrlr.c    a controller's life: lost, back, given up       primary
 *   connect.c  from no connection to a live controller         tasks
 *   admin.c    admin commands, events, keep alive              primary
 *   head.c     a namespace as a device, its paths              primary
 *   chan.c     requests to commands and back                   each reactor
 *   fence.c    lost writes wait for the end of their first     primary
 *   discover.c what a discovery controller lists               tasks
 *
 * Three schemes mean the same. The original accepts nvmf+rdma+tcp, for which it connects by TCP
 * whatever the host can do; so do we.
 *
 * Thread: see there.
 */
#include "drivers/drivers.h"
#include "drivers/nvmf/ctrlr.h"

const struct driver driver_nvmf = {
	.name = "nvmf",
	.product = "Remote NVMe namespace over TCP",
	.schemes = (const char *const[]){ "nvmf", "nvmf+tcp", "nvmf+rdma+tcp", NULL },
	.help = "nvmf://HOST[:PORT]/NQN[?nsid=N][&hostnqn=NQN][&ctrl_loss=TIME]...",
	.channel_size = sizeof(struct nvmf_chan),
	.create = head_create,
	.destroy = head_destroy,
	.channel_open = chan_open,
	.channel_close = chan_close,
	.submit = chan_submit,
	.rescan = head_rescan,
	.find = head_find_uri,
	.leave = head_leave,
	.removing = head_removing,
	.abort = chan_abort,
};
