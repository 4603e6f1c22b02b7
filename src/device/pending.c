/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pending.c - stands in until fault.c and emulate.c land in the same session: delete it with them.
 *
 * Nothing is armed, nothing is emulated. The symbols are not weak on purpose: whoever adds the
 * real ones gets a link error that leads here.
 */
#include "device/emulate.h"
#include "device/fault.h"

void fault_device_added(struct device *dev)
{
	(void)dev;
}

void fault_device_removed(struct device *dev)
{
	(void)dev;
}

int fault_channel_open(struct channel *ch, struct err *err)
{
	(void)ch;
	(void)err;
	return 0;
}

void fault_channel_close(struct channel *ch)
{
	(void)ch;
}

enum fault_action fault_submit(struct channel *ch, struct io *io)
{
	(void)ch;
	(void)io;
	return FAULT_PASS;
}

enum io_result fault_complete(struct channel *ch, struct io *io)
{
	(void)ch;
	(void)io;
	return IO_DONE;
}

uint32_t emulated_ops(const struct device *dev)
{
	(void)dev;
	return 0;
}

int emulate_open(struct channel *ch, struct err *err)
{
	(void)ch;
	(void)err;
	return 0;
}

void emulate_close(struct channel *ch)
{
	(void)ch;
}

bool emulate_lock(struct channel *ch, struct io *io)
{
	(void)ch;
	(void)io;
	return true;
}

enum io_result emulate_submit(struct channel *ch, struct io *io)
{
	(void)ch;
	io->status = IO_UNSUPPORTED;
	return IO_DONE;
}
