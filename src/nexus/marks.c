/* SPDX-License-Identifier: Apache-2.0 */
#include "nexus/internal.h"

bool marks_heat(struct nexus_channel *nc, const struct io *io)
{
	segmap_set_range(&nc->hot, io->lba, io->nlb);
	return true;
}

void nexus_mark_run(struct nexus *nx)
{
	(void)nx;
}
