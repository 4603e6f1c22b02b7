/* SPDX-License-Identifier: Apache-2.0 */
/*
 * channel.h - what the files of the device layer share among themselves; nobody else includes it.
 */
#ifndef ASHLAR_DEVICE_CHANNEL_H
#define ASHLAR_DEVICE_CHANNEL_H

#include "device/device.h"

enum {
	IO_EPOCH_NONE = 2, /* frame.epoch: not counted in flight, not in the statistics */
};

/* Let a removal go on if this was the last it waited for. */
void device_check_closed(struct device *dev);

/* Close @gate on every channel; held requests are looked at again. Does not wait. */
void device_gate_all(struct device *dev, uint32_t gate) MAY_SUSPEND;
void device_ungate_all(struct device *dev, uint32_t gate) MAY_SUSPEND;

/* Run fn(ch, arg) for each channel, on the channel's reactor, one after the other. */
void device_each_channel(struct device *dev, void (*fn)(struct channel *ch, void *arg),
			 void *arg) MAY_SUSPEND;

/* From the loop: io->frame[io->depth] is popped and counted; call its hook, then go on up. Also for
 * a hook that held the request and put the frame's own hook back. */
void io_unwind_after(struct io *io);

/* A request that counted in flight on @ch since @epoch does not any more. */
void channel_leave(struct channel *ch, uint32_t epoch);

/* On the channel's reactor: loans that count in flight on it since @epoch become copies. */
void channel_recall(struct channel *ch, uint32_t epoch);

/* On the channel's reactor: let every held request try the gate again. */
void channel_release_held(struct channel *ch);

#endif
