// SPDX-License-Identifier: Apache-2.0
/*
 * Get Log Page: build the page, cut the window the host asked for.
 *
 *   page   content                                    side effect without RAE
 *   00h    which pages there are (log_pages.c)        -
 *   01h    error information (errlog.c)               -
 *   02h    SMART: what the devices counted            -
 *   03h    firmware: one slot, read only              -
 *   04h    changed namespaces                         list is empty again, event may be sent again
 *   05h    commands supported and effects             -
 *   0Ch    ANA groups (with ANA only)                 event may be sent again
 *   12h    features supported, 13h: no NVMe-MI        -
 *   70h    discovery (discovery subsystem only)       event may be sent again
 *   80h    the oldest reservation notification        it is gone, event may be sent again
 *   DEh    ours: what dead connections left (cross.c) -
 *
 * A page is made whole on each request; they are small, and control work may allocate. What lies
 * beyond the end of a page reads as zeroes; an offset beyond it is refused (Base 5.16.1).
 *
 * Thread: the primary reactor.
 */
#include <stdlib.h>
#include <string.h>

#include "target/internal.h"

/* ---- pages: malloc'd, size in *ret_size; NULL: no memory ------------------------------------ */

static void add_le128(uint8_t field[16], uint64_t value)
{
	le64_put((struct le64 *)(void *)field, le64_get(*(struct le64 *)(void *)field) + value);
}

static void add_device(struct nvme_smart_log *log, struct device *dev, struct io_stats *stats)
{
	/* Thousands of 512-byte units, rounded up (Base 5.16.1.3). */
	enum { UNIT = 512000 };

	device_stats(dev, stats);
	add_le128(log->data_units_read, DIV_ROUND_UP(stats->op[IO_READ].bytes, UNIT));
	add_le128(log->data_units_written, DIV_ROUND_UP(stats->op[IO_WRITE].bytes, UNIT));
	add_le128(log->host_reads, stats->op[IO_READ].ops);
	add_le128(log->host_writes, stats->op[IO_WRITE].ops);
	add_le128(log->media_errors, stats->op[IO_READ].errors + stats->op[IO_WRITE].errors);
}

static void *page_smart(const struct ctrlr *ctrlr, uint32_t nsid, size_t *ret_size)
{
	enum { SPARE_FULL = 100, SPARE_LOW = 10, ROOM_KELVIN = 300 };
	const uint64_t HOUR_NS = 3600ull * 1000 * 1000 * 1000;
	uint64_t on_ns = reactor_primary()->now_ns - ctrlr->subsystem->target->started_ns;
	CLEANUP(freep) struct io_stats *stats = calloc(1, sizeof(*stats));
	struct nvme_smart_log *log = calloc(1, sizeof(*log));

	*ret_size = sizeof(*log);
	if (log == NULL || stats == NULL) {
		free(log);
		return NULL;
	}
	log->spare = SPARE_FULL;
	log->spare_threshold = SPARE_LOW;
	le16_put(&log->temperature, ROOM_KELVIN);
	add_le128(log->power_cycles, 1); /* this process */
	add_le128(log->power_on_hours, on_ns / HOUR_NS);
	add_le128(log->error_log_entries, ctrlr->error_count);
	for (uint32_t i = 1; i <= TARGET_NAMESPACES_MAX; i++) {
		const struct ns *ns = subsystem_ns(ctrlr->subsystem, i);

		if (ns != NULL && (nsid == 0 || nsid == NVME_NSID_ALL || nsid == i))
			add_device(log, ns->dev, stats);
	}
	return log;
}

static void *page_firmware(size_t *ret_size)
{
	uint8_t *log = calloc(1, NVME_LOG_FIRMWARE_SIZE);

	*ret_size = NVME_LOG_FIRMWARE_SIZE;
	if (log == NULL)
		return NULL;
	log[0] = 1;                     /* slot 1 is active */
	memcpy(log + 8, "0.1.0   ", 8); /* FRS1 */
	return log;
}

static void *page_changed(const struct ctrlr *ctrlr, size_t *ret_size)
{
	struct le32 *log = calloc(NVME_CHANGED_NS_MAX, sizeof(*log));
	unsigned n = 0;

	*ret_size = NVME_CHANGED_NS_MAX * sizeof(*log);
	if (log == NULL)
		return NULL;
	for (uint32_t i = 0; i < TARGET_NAMESPACES_MAX; i++) {
		if (ctrlr->changed[i / 8] & 1 << i % 8)
			log[n++] = le32_of(i + 1);
	}
	return log;
}

static void *page_effects(size_t *ret_size)
{
	static const uint8_t admin[] = { NVME_ADMIN_GET_LOG_PAGE, NVME_ADMIN_IDENTIFY,
					 NVME_ADMIN_ABORT,        NVME_ADMIN_SET_FEATURES,
					 NVME_ADMIN_GET_FEATURES, NVME_ADMIN_ASYNC_EVENT,
					 NVME_ADMIN_KEEP_ALIVE };
	static const uint8_t reading[] = { NVME_IO_FLUSH,         NVME_IO_READ,
					   NVME_IO_COMPARE,       NVME_IO_VERIFY,
					   NVME_IO_RESV_REGISTER, NVME_IO_RESV_REPORT,
					   NVME_IO_RESV_ACQUIRE,  NVME_IO_RESV_RELEASE };
	static const uint8_t writing[] = { NVME_IO_WRITE, NVME_IO_WRITE_ZEROES, NVME_IO_DSM };
	struct le32 *log = calloc(1, NVME_LOG_EFFECTS_SIZE);
	struct le32 *io;

	*ret_size = NVME_LOG_EFFECTS_SIZE;
	if (log == NULL)
		return NULL;
	io = log + 256; /* Base 5.16.1.6: 256 admin commands, then 256 I/O commands */
	for (size_t i = 0; i < ARRAY_LEN(admin); i++)
		le32_put(&log[admin[i]], NVME_EFFECTS_SUPPORTED | NVME_SCOPE_CTRL);
	le32_put(&log[NVME_ADMIN_SNAPSHOT], NVME_EFFECTS_SUPPORTED | NVME_SCOPE_NS);
	for (size_t i = 0; i < ARRAY_LEN(reading); i++)
		le32_put(&io[reading[i]], NVME_EFFECTS_SUPPORTED | NVME_SCOPE_NS);
	for (size_t i = 0; i < ARRAY_LEN(writing); i++)
		le32_put(&io[writing[i]],
			 NVME_EFFECTS_SUPPORTED | NVME_EFFECTS_CONTENT | NVME_SCOPE_NS);
	return log;
}

/* The host has read a page, and did not ask to keep what it was told of (RAE). */
static void page_was_read(struct ctrlr *ctrlr, uint8_t lid)
{
	switch (lid) {
	case NVME_LOG_CHANGED_NS:
		memset(ctrlr->changed, 0, sizeof(ctrlr->changed));
		ctrlr->is_ns_event_due = false;
		ctrlr->is_ns_event_masked = false;
		break;
	case NVME_LOG_ANA:
		ctrlr->is_ana_event_due = false;
		ctrlr->is_ana_event_masked = false;
		break;
	case NVME_LOG_DISCOVERY:
		ctrlr->is_disc_event_due = false;
		ctrlr->is_disc_event_masked = false;
		break;
	case NVME_LOG_RESERVATION:
		resv_log_read(ctrlr);
		break;
	default:
		break;
	}
}

/* ---- the command ---------------------------------------------------------------------------- */

/* 0 and the page, or an NVMe status. */
static uint16_t make_page(const struct ctrlr *ctrlr, const struct cmd *cmd, void **ret_page,
			  size_t *ret_size)
{
	uint32_t cdw10 = le32_get(cmd->sqe.cdw10);
	bool is_discovery = ctrlr->subsystem->is_discovery;
	uint8_t lid = (uint8_t)cdw10;

	if (lid == NVME_LOG_ANA && ctrlr->subsystem->ana == NULL)
		return NVME_SC_INVALID_LOG_PAGE;
	if (is_discovery != (lid == NVME_LOG_DISCOVERY) && lid != NVME_LOG_ERROR &&
	    lid != NVME_LOG_SUPPORTED)
		return NVME_SC_INVALID_LOG_PAGE;
	switch (lid) {
	case NVME_LOG_ERROR:
		*ret_page = error_log_page(ctrlr, ret_size);
		break;
	case NVME_LOG_SUPPORTED:
		*ret_page = supported_log_page(ctrlr->subsystem, ret_size);
		break;
	case NVME_LOG_FEATURES:
		*ret_page = feature_effects_page(ret_size);
		break;
	case NVME_LOG_MI:
		*ret_size = NVME_LOG_MI_SIZE;
		*ret_page = calloc(1, *ret_size);
		break;
	case NVME_LOG_SMART:
		*ret_page = page_smart(ctrlr, le32_get(cmd->sqe.nsid), ret_size);
		break;
	case NVME_LOG_FIRMWARE:
		*ret_page = page_firmware(ret_size);
		break;
	case NVME_LOG_CHANGED_NS:
		*ret_page = page_changed(ctrlr, ret_size);
		break;
	case NVME_LOG_EFFECTS:
		*ret_page = page_effects(ret_size);
		break;
	case NVME_LOG_ANA:
		*ret_page = ana_log(ctrlr, cdw10 & NVME_ANA_LOG_GROUPS_ONLY, ret_size);
		break;
	case NVME_LOG_DISCOVERY:
		*ret_page = discovery_log(ctrlr->subsystem->target, ctrlr, cmd->conn, ret_size);
		break;
	case NVME_LOG_RESERVATION:
		*ret_page = resv_log_page(ctrlr, ret_size);
		break;
	case NVME_LOG_LEFTOVER:
		*ret_page = leftover_log_page(ctrlr, ret_size);
		break;
	default:
		return NVME_SC_INVALID_LOG_PAGE;
	}
	return *ret_page == NULL ? NVME_SC_INTERNAL_ERROR : 0;
}

void log_execute(struct ctrlr *ctrlr, struct cmd *cmd)
{
	uint32_t cdw10 = le32_get(cmd->sqe.cdw10);
	uint64_t numd = (cdw10 >> 16) | (uint64_t)(le32_get(cmd->sqe.cdw11) & 0xffff) << 16;
	uint64_t len = (numd + 1) * sizeof(struct le32);
	uint64_t off = le32_get(cmd->sqe.cdw12) | (uint64_t)le32_get(cmd->sqe.cdw13) << 32;
	CLEANUP(freep) void *page = NULL;
	size_t size = 0;
	uint16_t status;

	if (cmd->dir != CMD_C2H || len > cmd->len) {
		cmd_finish(cmd, NVME_SC_DATA_SGL_LENGTH_INVALID);
		return;
	}
	if (off % sizeof(struct le32) != 0) {
		cmd_finish(cmd, NVME_SC_INVALID_FIELD);
		return;
	}
	status = make_page(ctrlr, cmd, &page, &size);
	if (status == 0 && off > size)
		status = NVME_SC_INVALID_FIELD;
	if (status == 0) {
		cmd->len = (uint32_t)len;
		cmd_reply(cmd, (uint8_t *)page + off, size - off);
		if (!(cdw10 & NVME_LOG_RAE))
			page_was_read(ctrlr, (uint8_t)cdw10);
	}
	cmd_finish(cmd, status);
	ctrlr_send_events(ctrlr);
}
