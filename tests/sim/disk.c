/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disk.c - the simulated disk: a queue, a few workers, latencies, and every way to fail.
 *
 *   submit --> QUEUED --picked at random, at most `parallel`--> RUNNING --latency--> io_complete()
 *     |                                                           |
 *     +-- inline_percent: ends inside submit                      +--> STUCK (until unstick/reset)
 *
 * A request touches the medium unit by unit. Each unit is touched at the start or at the end of
 * the time the request runs, by the dice, so that concurrent requests see each other's halves; a
 * compare-and-write and everything about one unit is one instant. Queued requests are picked in
 * any order: nobody may rely on order without waiting for a completion.
 *
 * Durability, exactly as promised and not more: a write without FUA goes to the cache when there
 * is one; with FUA each unit is stable when it is touched; a flush destages everything that is in
 * the cache at one instant between its submission and its completion.
 *
 * A failing write may have been carried out in part: the dice decide unit by unit.
 *
 * Requests come from several reactors; each ends on the one it came from, because the event that
 * ends it is scheduled for that reactor.
 */
#include "disk.h"

#include <errno.h>
#include <string.h>

#include "guard.h"
#include "world.h"

enum {
	UNITS_MAX = 64, /* of one request; a mask holds a bit each */
	SLOW_FACTOR = 100,
	LATENCY_MAX_NS = 20 * 1000 * 1000,
};

enum op_state { OP_QUEUED, OP_RUNNING, OP_STUCK };

struct disk_op {
	struct event event;
	struct list link;
	struct io *io;
	struct medium *m;
	struct simdisk *disk;
	uint64_t early; /* units touched at the start */
	enum op_state state;
	uint16_t status;
};

struct simdisk {
	struct device dev;
	struct medium *m;
};

/* All requests inside disks, queued first come first; a list for each state would say no more. */
static struct list ops = { &ops, &ops };

unsigned disk_inside(const struct medium *m)
{
	struct disk_op *op;
	unsigned count = 0;

	list_for_each (op, &ops, link)
		count += op->m == m;
	return count;
}

void disk_forget_all(void)
{
	struct disk_op *op, *next;

	list_for_each_safe (op, next, &ops, link) {
		list_del(&op->link);
		free(op);
	}
}

/* ---- touching the medium ------------------------------------------------------------------ */

static void touch_read(struct medium *m, struct io *io, uint64_t off, uint32_t len, size_t at)
{
	(void)iov_from_buf(io->iov, io->iovcnt, at, m->current + off, len);
}

static void touch_write(struct medium *m, struct io *io, uint64_t off, uint32_t len, size_t at)
{
	uint8_t bytes[DEVICE_BLOCK_SIZE_MAX];

	if (plant_strikes(PLANT_MISPLACED_WRITE, 200) && off >= m->unit)
		off -= m->unit;
	(void)iov_to_buf(io->iov, io->iovcnt, at, bytes, len);
	medium_store(m, off, len, bytes, io->flags & IO_FUA && !plant_strikes(PLANT_LOST_FUA, 1));
}

/* What is unmapped reads as zeroes where that is promised; else as anything. */
static void touch_unmap(struct medium *m, uint64_t off, uint32_t len)
{
	uint8_t bytes[DEVICE_BLOCK_SIZE_MAX];

	if (m->opts.unmap_reads_zero || world_chance(1, 3)) {
		medium_store(m, off, len, NULL, false);
	} else if (world_chance(1, 2)) {
		memset(bytes, 0xee, len);
		medium_store(m, off, len, bytes, false);
	}
}

static void touch(struct medium *m, struct io *io, uint64_t off, uint32_t len, size_t at)
{
	switch (io->op) {
	case IO_READ:
		touch_read(m, io, off, len, at);
		break;
	case IO_WRITE:
		touch_write(m, io, off, len, at);
		break;
	case IO_WRITE_ZEROES:
		medium_store(m, off, len, NULL, io->flags & IO_FUA);
		break;
	case IO_UNMAP:
		touch_unmap(m, off, len);
		break;
	default:
		break;
	}
}

static unsigned op_units(const struct medium *m, const struct io *io)
{
	uint32_t bs = m->opts.block_size;

	if (!(IO_BIT(io->op) & IO_OPS_WITH_RANGE) || io->nlb == 0)
		return 0;
	return (unsigned)((io->lba * bs + (uint64_t)io->nlb * bs - 1) / m->unit -
			  io->lba * bs / m->unit + 1);
}

/* Touch the units whose bit is set in @mask; the last bit stands for all beyond it. */
static void op_touch(struct medium *m, struct io *io, uint64_t mask)
{
	uint64_t off = io->lba * m->opts.block_size;
	uint64_t end = off + (uint64_t)io->nlb * m->opts.block_size;
	size_t at = 0;

	for (unsigned i = 0; off < end; i += i < UNITS_MAX - 1) {
		uint32_t len = (uint32_t)MIN(m->unit - off % m->unit, end - off);

		if (mask >> i & 1)
			touch(m, io, off, len, at);
		off += len;
		at += len;
	}
}

/* Would the request need more blocks than the disk may have? Zeroes on a thin one need none. */
static bool op_lacks_space(const struct medium *m, const struct io *io)
{
	if (m->capacity == 0 || io->op == IO_UNMAP || !(IO_BIT(io->op) & IO_OPS_WRITING) ||
	    (io->op == IO_WRITE_ZEROES && m->opts.is_thin))
		return false;
	return medium_used(m) + medium_unwritten(m, io->lba, io->nlb) > m->capacity;
}

/* Units that lie where something is written already: these may be written all the same. */
static uint64_t op_written_units(const struct medium *m, const struct io *io)
{
	uint32_t bs = m->opts.block_size;
	uint64_t off = io->lba * bs, end = off + (uint64_t)io->nlb * bs, mask = 0;

	for (unsigned i = 0; off < end && i < UNITS_MAX - 1; i++) {
		uint64_t len = MIN(m->unit - off % m->unit, end - off);

		mask |= (uint64_t)(medium_unwritten(m, off / bs, len / bs) == 0) << i;
		off += len;
	}
	return mask;
}

static bool op_matches(const struct medium *m, const struct io *io)
{
	size_t len = (size_t)io->nlb * m->opts.block_size;

	return iov_compare(io->iov, io->iovcnt, 0, m->current + io->lba * m->opts.block_size,
			   len) == len;
}

static void op_compare_write(struct medium *m, struct io *io)
{
	size_t len = (size_t)io->nlb * m->opts.block_size;
	uint64_t off = io->lba * m->opts.block_size, end = off + len;
	size_t at = len; /* the second half of the vector */

	while (off < end) {
		uint32_t step = (uint32_t)MIN(m->unit - off % m->unit, end - off);

		touch_write(m, io, off, step, at);
		off += step;
		at += step;
	}
}

static bool op_is_unwritten(const struct medium *m, const struct io *io)
{
	for (uint64_t lba = io->lba; lba < io->lba + io->nlb; lba++) {
		if (m->written[lba])
			return false;
	}
	return true;
}

static uint64_t op_seek(const struct medium *m, const struct io *io)
{
	uint64_t lba = io->lba;

	while (lba < m->nblocks && (m->written[lba] != 0) != (io->op == IO_SEEK_DATA))
		lba++;
	return lba;
}

static uint16_t op_flush(struct medium *m)
{
	if (m->flush_failures > 0) {
		m->flush_failures--;
		medium_flush(m, 50);
		return IO_WRITE_ERROR;
	}
	if (!plant_strikes(PLANT_EARLY_ACK_FLUSH, 2))
		medium_flush(m, 100);
	return IO_OK;
}

/* What happens at one instant, at the end: everything but the units touched early. */
static uint16_t op_finish(struct medium *m, struct io *io, uint64_t early)
{
	uint64_t late = ~early;

	if (!m->has_power)
		return IO_NO_DEVICE;
	if (medium_is_bad(m, io->op, io->lba, io->nlb)) {
		if (IO_BIT(io->op) & IO_OPS_WRITING && io->op != IO_COMPARE_WRITE)
			op_touch(m, io, late & world_rand(UINT64_MAX));
		return IO_BIT(io->op) & IO_OPS_WRITING ? IO_WRITE_ERROR : IO_READ_ERROR;
	}
	if (op_lacks_space(m, io)) {
		if (io->op != IO_COMPARE_WRITE)
			op_touch(m, io, late & op_written_units(m, io) & world_rand(UINT64_MAX));
		return IO_NO_SPACE;
	}
	switch (io->op) {
	case IO_FLUSH:
		return op_flush(m);
	case IO_COMPARE:
		return op_matches(m, io) ? IO_OK : IO_MISCOMPARE;
	case IO_COMPARE_WRITE:
		if (!op_matches(m, io))
			return IO_MISCOMPARE;
		op_compare_write(m, io);
		return IO_OK;
	case IO_SEEK_DATA:
	case IO_SEEK_HOLE:
		io->result = op_seek(m, io);
		return IO_OK;
	case IO_READ:
		if (io->flags & (IO_UNWRITTEN_FAIL | IO_CURRENT_UNWRITTEN_FAIL) &&
		    m->opts.is_thin && op_is_unwritten(m, io))
			return IO_UNWRITTEN;
		FALLTHROUGH;
	default:
		op_touch(m, io, late);
		if (IO_BIT(io->op) & IO_OPS_WRITING)
			medium_heal(m, io->lba, io->nlb);
		return IO_OK;
	}
}

/* ---- queue -------------------------------------------------------------------------------- */

static void disk_pump(struct medium *m);

/*
 * By the dice, a read's data is lent in up to three pieces. Not of a disk whose cache a power cut
 * takes back: no memory changes back while it is read.
 */
static void op_lend(const struct medium *m, struct io *io)
{
	size_t len = (size_t)io->nlb * m->opts.block_size, done = 0;
	uint8_t *from = m->current + io->lba * m->opts.block_size;
	unsigned n = 0;

	if (m->opts.has_write_cache || world_chance(1, 4))
		return;
	for (; done < len; done += io->loan->piece[n++].iov_len)
		io->loan->piece[n] = (struct iovec){ from + done,
						     n == 2 ? len - done
							    : 1 + world_rand(len - done) };
	io_lend(io, n);
}

static void op_end(struct disk_op *op)
{
	struct io *io = op->io;
	struct medium *m = op->m;
	uint16_t status = op->status;

	guard_leave(&op->disk->dev, io);
	list_del(&op->link);
	free(op);
	world_say("%s: %s %lu+%u done", m->name, io_op_name(io->op), io->lba, io->nlb);
	world_trace("disk done", io->op << 16 | status, io->lba);
	if (io->flags & IO_BORROW && status == IO_OK)
		op_lend(m, io);
	io_complete(io, status);
	if (plant_strikes(PLANT_DOUBLE_COMPLETE, 100))
		io_complete(io, status);
	disk_pump(m);
}

static void op_ended(struct event *event)
{
	op_end(container_of(event, struct disk_op, event));
}

static void op_done(struct event *event)
{
	struct disk_op *op = container_of(event, struct disk_op, event);

	op->status = op_finish(op->m, op->io, op->early);
	if (world_chance(1, 10) && op->m->has_power)
		medium_destage_one(op->m);
	op_end(op);
}

static unsigned op_reactor(const struct disk_op *op)
{
	return io_top(op->io)->ch->reactor->id;
}

static void op_start(struct disk_op *op)
{
	struct medium *m = op->m;
	uint64_t latency_ns = world_latency(m->opts.latency_min_ns, m->opts.latency_mean_ns);

	op->state = OP_RUNNING;
	if (m->sticky > 0 && op->io->op != IO_RESET) {
		m->sticky--;
		op->state = OP_STUCK;
		world_trace("disk stuck", op->io->op, op->io->lba);
		return;
	}
	if (m->is_slow)
		latency_ns *= SLOW_FACTOR;
	latency_ns = MIN(latency_ns, (uint64_t)LATENCY_MAX_NS);
	if (op_units(m, op->io) > 0 && m->has_power && op->io->op != IO_COMPARE &&
	    op->io->op != IO_COMPARE_WRITE && !op_lacks_space(m, op->io) &&
	    !medium_is_bad(m, op->io->op, op->io->lba, op->io->nlb)) {
		op->early = world_chance(1, 2) ? 0 : world_rand(UINT64_MAX);
		op_touch(m, op->io, op->early);
	}
	world_at(&op->event, (int)op_reactor(op), latency_ns, op_done);
}

/* Start queued requests while there are workers, in any order. */
static void disk_pump(struct medium *m)
{
	for (;;) {
		struct disk_op *op, *queued[64];
		unsigned running = 0, nqueued = 0;

		list_for_each (op, &ops, link) {
			if (op->m != m)
				continue;
			running += op->state == OP_RUNNING;
			if (op->state == OP_QUEUED && nqueued < ARRAY_LEN(queued))
				queued[nqueued++] = op;
		}
		if (nqueued == 0 || running >= m->opts.parallel)
			return;
		op_start(queued[world_rand(nqueued)]);
	}
}

static enum io_result disk_submit(struct channel *ch, struct io *io)
{
	struct simdisk *disk = container_of(ch->dev, struct simdisk, dev);
	struct medium *m = disk->m;
	struct disk_op *op;

	world_say("%s: %s %lu+%u", m->name, io_op_name(io->op), io->lba, io->nlb);
	world_trace("disk submit", (uint64_t)io->op << 32 | io->nlb, io->lba);
	guard_enter(ch->dev, io);
	if (world_rand(100) < m->opts.inline_percent && m->sticky == 0 && !m->is_slow) {
		io->status = op_finish(m, io, 0);
		guard_leave(ch->dev, io);
		return IO_DONE;
	}
	op = sim_zalloc(sizeof(*op));
	op->io = io;
	op->m = m;
	op->disk = disk;
	op->state = OP_QUEUED;
	list_add_tail(&ops, &op->link);
	if (io->op == IO_RESET)
		(void)disk_unstick(m);
	disk_pump(m);
	return IO_PENDING;
}

unsigned disk_unstick(struct medium *m)
{
	struct disk_op *op;
	unsigned count = 0;

	list_for_each (op, &ops, link) {
		if (op->m != m || op->state != OP_STUCK)
			continue;
		op->state = OP_RUNNING;
		op->status = m->has_power ? IO_ABORTED : IO_NO_DEVICE;
		world_at(&op->event, (int)op_reactor(op), world_rand(20 * USEC), op_ended);
		count++;
	}
	return count;
}

void disk_kill(struct medium *m)
{
	struct disk_op *op;

	world_trace("disk killed", m->npieces, disk_inside(m));
	list_for_each (op, &ops, link) {
		if (op->m == m && world_chance(1, 2))
			(void)op_finish(m, op->io, op->early);
	}
	m->sticky = 0;
	m->has_power = false;
	(void)disk_unstick(m);
}

void disk_power_cut(struct medium *m)
{
	world_trace("power cut", m->npieces, disk_inside(m));
	m->sticky = 0;
	medium_power_cut(m);
	(void)disk_unstick(m);
}

/* ---- driver ------------------------------------------------------------------------------- */

static int disk_create(struct uri *uri, struct device **ret_dev, struct err *err)
{
	struct medium *m = medium_find(uri_name(uri));
	struct simdisk *disk;
	struct uuid uuid = {};
	int result = uri_param_uuid(uri, "uuid", &uuid, err);

	if (result == 0)
		result = uri_reject_unused(uri, err);
	if (result < 0)
		return result;
	if (m == NULL)
		return err_set(err, -ENOENT, "there is no medium '%s'", uri_name(uri));
	if (!m->has_power)
		return err_set(err, -ENXIO, "medium '%s' has no power", m->name);
	disk = sim_zalloc(sizeof(*disk));
	disk->m = m;
	disk->dev.driver = &driver_simdisk;
	(void)snprintf(disk->dev.name, sizeof(disk->dev.name), "%s", m->name);
	disk->dev.uuid = uuid;
	if (uuid_is_zero(&uuid))
		memset(disk->dev.uuid.b, m->name[0], sizeof(disk->dev.uuid.b));
	disk->dev.nblocks = m->nblocks;
	disk->dev.block_size = m->opts.block_size;
	disk->dev.ops = m->opts.ops;
	disk->dev.buf_align = m->opts.buf_align;
	disk->dev.max_io_nlb = m->opts.max_io_nlb;
	disk->dev.has_write_cache = m->opts.has_write_cache;
	disk->dev.is_thin = m->opts.is_thin;
	disk->dev.unmap_reads_zero = m->opts.unmap_reads_zero;
	disk->dev.stack_depth = 1;
	result = device_register(&disk->dev, err);
	if (result < 0) {
		free(disk);
		return result;
	}
	(void)guard_attach(&disk->dev);
	*ret_dev = &disk->dev;
	return 0;
}

static void disk_destroy(struct device *dev)
{
	guard_detach(dev);
	free(container_of(dev, struct simdisk, dev));
}

static int disk_rescan(struct device *dev, uint64_t *ret_nblocks, struct err *err)
{
	(void)err;
	*ret_nblocks = container_of(dev, struct simdisk, dev)->m->nblocks;
	return 0;
}

static int disk_resized(struct device *dev, uint64_t old_nblocks, struct err *err)
{
	struct medium *m = container_of(dev, struct simdisk, dev)->m;

	(void)old_nblocks;
	if (dev->nblocks == 0 || dev->nblocks > m->nblocks_max)
		return err_set(err, -ENOSPC, "%s: has no room for %lu blocks", dev->name,
			       dev->nblocks);
	if (disk_inside(m) > 0)
		world_fail("%s is resized with %u requests inside", dev->name, disk_inside(m));
	medium_resize(m, dev->nblocks);
	return 0;
}

static const char *const disk_schemes[] = { "simdisk", NULL };

const struct driver driver_simdisk = {
	.name = "simdisk",
	.product = "Simulated disk",
	.schemes = disk_schemes,
	.help = "simdisk:///MEDIUM[?uuid=UUID]",
	.channel_size = sizeof(struct channel),
	.create = disk_create,
	.destroy = disk_destroy,
	.submit = disk_submit,
	.rescan = disk_rescan,
	.resized = disk_resized,
};
