// SPDX-License-Identifier: Apache-2.0
/*
 * bench-stack - a remote namespace as its users have it: device layer, paths and queues.
 *
 *   bench-stack --port P [--nqn NQN] [--rw read|write] [--bs BYTES] [--qd N] [--time S] [--core N]
 *               [--blocks N]
 *
 * Opens nvmf://127.0.0.1:P/NQN, keeps so many requests in flight on a handle, and prints what
 * bench-initiator prints (load.h). The difference between the two is what stands above the queues;
 * that to bench-target (nvmetcp_load.c), all that a user pays more than the least.
 */
#include <errno.h>

#include "device/driver.h"
#include "engine.h"
#include "load.h"
#include "reactor/mem.h"

/* One request that is sent again and again. */
struct job {
	struct io io;
	uint8_t *buf;
	uint64_t started_ns;
};

static struct {
	struct handle *h;
	struct job jobs[LOAD_DEPTH_MAX];
	uint64_t blocks;
	uint32_t nlb, inflight;
	struct task_event over;
} run;

static void job_send(struct job *job);

static void job_done(struct io *io)
{
	struct job *job = io->owner;

	if (io->status != IO_OK) {
		(void)fprintf(stderr, "bench-stack: a request failed, status %u\n", io->status);
		exit(1);
	}
	load_count(job->started_ns);
	run.inflight--;
	if (!load.is_ending)
		job_send(job);
	else if (run.inflight == 0)
		task_event_fire(&run.over);
}

static void job_send(struct job *job)
{
	job->io = (struct io){ .op = opt.is_write ? IO_WRITE : IO_READ,
			       .nlb = run.nlb,
			       .lba = load_lba(run.blocks, run.nlb),
			       .done = job_done,
			       .owner = job };
	io_set_buf(&job->io, job->buf, (size_t)opt.bs);
	job->started_ns = load.last_ns;
	run.inflight++;
	if (io_start(run.h, &job->io) != IO_PENDING) {
		(void)fprintf(stderr, "bench-stack: a request was not even sent\n");
		exit(1);
	}
}

static void nothing_more(void)
{
	/* the last request to end says so */
}

static int keep_full(struct err *err) MAY_SUSPEND
{
	const size_t bs = (size_t)opt.bs, size = (size_t)opt.qd * bs;
	uint8_t *memory = dma_alloc(size);

	if (memory == NULL)
		return err_set(err, -ENOMEM, "no memory for the load");
	memset(memory, 2, size);
	load_begin(nothing_more);
	for (unsigned i = 0; i < opt.qd; i++) {
		run.jobs[i].buf = memory + i * bs;
		job_send(&run.jobs[i]);
	}
	task_event_wait(&run.over);
	dma_free(memory, size);
	return 0;
}

static int body(void *arg, struct err *err)
{
	struct desc_opts desc_opts = { .flags = opt.is_write ? DESC_WRITE : 0 };
	struct desc *desc;
	struct device *dev;
	char uri[512];
	int result;

	(void)arg;
	(void)snprintf(uri, sizeof(uri), "nvmf://127.0.0.1:%u/%s?queue_depth=%u",
		       (unsigned)opt.port, opt.nqn, (unsigned)opt.qd + 1);
	result = device_create(uri, &dev, err);
	if (result == 0)
		result = desc_open(dev, &desc_opts, &desc, err);
	if (result < 0)
		return result;
	run.nlb = (uint32_t)opt.bs / dev->block_size;
	run.blocks = MIN(dev->nblocks, (uint64_t)opt.blocks);
	result = handle_open(desc, reactor_self(), &run.h, err);
	if (result == 0)
		result = keep_full(err);
	desc_close(desc);
	return result;
}

int main(int argc, char **argv)
{
	static const struct load_option none[] = { {} };
	struct engine_opts opts = {};
	struct err err = {};

	if (!load_parse(argc, argv, none)) {
		(void)fprintf(stderr, "bench-stack: wrong usage, see the head of its source\n");
		return 2;
	}
	opts.reactor.core_mask = opt.core >= 0 ? 1ull << opt.core : 0;
	if (engine_run(&opts, body, NULL, &err) < 0) {
		(void)fprintf(stderr, "bench-stack: %s\n", err_text(&err));
		return 1;
	}
	return 0;
}
