/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_verify.c - what a verifying benchmark knows about each unit it wrote, and the file in which
 * that outlives the run.
 *
 * Every block that is written carries its own address, the generation of the write and the seed of
 * the run and device (base/pattern.h). To tell a stale block from a good one somebody has to
 * remember which generation is the newest: that is the table, four bytes per unit. Its size is
 * bounded (BENCH_TABLE_BYTES_MAX for all devices); of a larger device only the first part is used,
 * and the run says so.
 *
 * The file (--state) makes two runs one experiment: write; pull a plug, restart an engine, change
 * a byte; read and compare. It also holds the seed, so that the reader looks for the right data.
 * Layout, little endian as the hosts are, one machine's file for the same machine:
 *
 *	char     magic[8]      "ASHBENCH"
 *	uint32_t version       1
 *	uint32_t ndevices
 *	uint64_t bs            bytes of a unit
 *	ndevices times:  uint64_t seed, nunits;  uint32_t gen[nunits]
 *	uint32_t crc           CRC32C of all before
 *
 * A generation of 0 means never written: nothing is expected of such a unit. A unit whose last
 * write failed may hold one of three generations (GEN_UNSURE).
 *
 * Written to a temporary name and renamed, so that there is a whole file or the old one.
 *
 * Thread: gen_tables_make/free in the task; load and save block and run on the worker pool, while
 * no worker of the benchmark runs.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/units.h"
#include "cli/bench.h"
#include "cli/cli.h"
#include "reactor/mem.h"

struct state_head {
	char magic[8];
	uint32_t version;
	uint32_t ndevices;
	uint64_t bs;
};

struct state_device {
	uint64_t seed;
	uint64_t nunits;
};

enum {
	STATE_VERSION = 1,
};

static const char state_magic[8] = { 'A', 'S', 'H', 'B', 'E', 'N', 'C', 'H' };

int gen_tables_make(struct bench *b, struct err *err)
{
	uint64_t units_max = BENCH_TABLE_BYTES_MAX / sizeof(uint32_t) / b->ndevices;

	for (unsigned i = 0; i < b->ndevices; i++) {
		struct bench_device *d = &b->devices[i];
		uint64_t mix = b->opts.seed + i;
		char size[UNITS_TEXT_MAX];

		if (d->nunits > units_max) {
			d->nunits = units_max;
			cli_warn("%s: only the first %s are used: more cannot be kept in mind",
				 d->open.uri, size_format(units_max * b->opts.bs, size));
		}
		d->table.nunits = d->nunits;
		d->table.seed = splitmix64(&mix);
		d->table.gen = dma_alloc(d->nunits * sizeof(uint32_t));
		if (d->table.gen == NULL)
			return err_set(err, -ENOMEM, "%s: no memory for the table of %llu units",
				       d->open.uri, (unsigned long long)d->nunits);
	}
	return 0;
}

void gen_tables_free(struct bench *b)
{
	for (unsigned i = 0; i < b->ndevices; i++) {
		struct gen_table *t = &b->devices[i].table;

		if (t->gen != NULL)
			dma_free(t->gen, t->nunits * sizeof(uint32_t));
		t->gen = NULL;
	}
}

/* ---- the file ------------------------------------------------------------------------------ */

static bool state_get(FILE *file, void *buf, size_t len, uint32_t *crc)
{
	if (fread(buf, 1, len, file) != len)
		return false;
	*crc = crc32c(*crc, buf, len);
	return true;
}

static bool state_put(FILE *file, const void *buf, size_t len, uint32_t *crc)
{
	*crc = crc32c(*crc, buf, len);
	return fwrite(buf, 1, len, file) == len;
}

static int state_load_device(FILE *file, const char *path, struct bench_device *d, uint32_t *crc,
			     struct err *err)
{
	struct state_device head;

	if (!state_get(file, &head, sizeof(head), crc))
		return err_set(err, -EINVAL, "%s: the file is cut short", path);
	if (head.nunits != d->table.nunits)
		return err_set(err, -EINVAL,
			       "%s: was written for a device of %llu units, %s has %llu; give the "
			       "devices and --bs of that run",
			       path, (unsigned long long)head.nunits, d->open.uri,
			       (unsigned long long)d->table.nunits);
	d->table.seed = head.seed;
	if (!state_get(file, d->table.gen, head.nunits * sizeof(uint32_t), crc))
		return err_set(err, -EINVAL, "%s: the file is cut short", path);
	return 0;
}

int gen_tables_load(struct bench *b, const char *path, struct err *err)
{
	CLEANUP(fclosep) FILE *file = fopen(path, "re");
	struct state_head head;
	uint32_t crc = 0, stored;

	if (file == NULL)
		return errno == ENOENT ? -ENOENT : err_set_sys(err, -errno, "%s", path);
	if (!state_get(file, &head, sizeof(head), &crc) ||
	    memcmp(head.magic, state_magic, sizeof(state_magic)) != 0)
		return err_set(err, -EINVAL, "%s: is not a state file of ashlar bench", path);
	if (head.version != STATE_VERSION)
		return err_set(err, -EINVAL, "%s: is of version %u, this program knows %d", path,
			       head.version, STATE_VERSION);
	if (head.ndevices != b->ndevices || head.bs != b->opts.bs)
		return err_set(err, -EINVAL,
			       "%s: was written for %u devices and --bs %llu; give the same", path,
			       head.ndevices, (unsigned long long)head.bs);
	for (unsigned i = 0; i < b->ndevices; i++) {
		int rc = state_load_device(file, path, &b->devices[i], &crc, err);

		if (rc != 0)
			return rc;
	}
	if (fread(&stored, 1, sizeof(stored), file) != sizeof(stored) || stored != crc)
		return err_set(err, -EINVAL, "%s: the check sum is wrong: the file is damaged",
			       path);
	return 0;
}

static bool state_write(FILE *file, const struct bench *b)
{
	struct state_head head = { .version = STATE_VERSION,
				   .ndevices = b->ndevices,
				   .bs = b->opts.bs };
	uint32_t crc = 0;

	memcpy(head.magic, state_magic, sizeof(head.magic));
	if (!state_put(file, &head, sizeof(head), &crc))
		return false;
	for (unsigned i = 0; i < b->ndevices; i++) {
		const struct gen_table *t = &b->devices[i].table;
		struct state_device dev = { .seed = t->seed, .nunits = t->nunits };

		if (!state_put(file, &dev, sizeof(dev), &crc) ||
		    !state_put(file, t->gen, t->nunits * sizeof(uint32_t), &crc))
			return false;
	}
	return fwrite(&crc, 1, sizeof(crc), file) == sizeof(crc) && fflush(file) == 0 &&
	       fsync(fileno(file)) == 0;
}

int gen_tables_save(const struct bench *b, const char *path, struct err *err)
{
	CLEANUP(freep) char *temporary = NULL;
	CLEANUP(fclosep) FILE *file = NULL;

	if (asprintf(&temporary, "%s.new", path) < 0)
		return err_set(err, -ENOMEM, "no memory for a file name");
	file = fopen(temporary, "we");
	if (file == NULL)
		return err_set_sys(err, -errno, "%s", temporary);
	if (!state_write(file, b) || rename(temporary, path) != 0) {
		int rc = errno != 0 ? -errno : -EIO;

		(void)unlink(temporary);
		return err_set_sys(err, rc, "cannot write %s", path);
	}
	return 0;
}
