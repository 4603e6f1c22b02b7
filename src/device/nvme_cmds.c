/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvme_cmds.c - waiting forms of the NVMe commands that owners of a device need.
 *
 * A mirror registers and holds reservations on its children; a tool shows what a controller says
 * about itself. Both may know devices only, so these stand in the device layer, on top of the
 * pass-through operations, and not in a driver: whatever device passes commands on (a remote
 * namespace, a local one over PCIe, a layer above either) can be asked. The namespace of an I/O
 * command is filled in by the driver, which alone knows its number.
 *
 * The layout of a command is written down here once more, in the little that is needed, because
 * the arrow from drivers to devices does not turn around.
 *
 * Rejected: one more operation of the device layer per command. They are rare, control work, and
 * nobody injects faults into an Identify other than by failing IO_NVME_ADMIN.
 *
 * Thread: tasks on the primary reactor.
 */
#include "device/nvme_cmds.h"

#include <errno.h>
#include <string.h>

#include "base/le.h"

struct command { /* Base 3.3.3.1; between nsid and cdw10 lies what the driver fills in */
	uint8_t opcode;
	uint8_t flags;
	struct le16 cid;
	struct le32 nsid;
	uint8_t driver[32];
	struct le32 cdw[6]; /* dwords 10 ... 15 */
};
static_assert(sizeof(struct command) == 64, "Base 3.3.3.1: 64 bytes");

enum { /* Base 5 and 7 */
       ADMIN_GET_LOG_PAGE = 0x02,
       ADMIN_IDENTIFY = 0x06,
       ADMIN_GET_FEATURES = 0x0a,
       IO_RESV_REGISTER = 0x0d,
       IO_RESV_REPORT = 0x0e,
       IO_RESV_ACQUIRE = 0x11,
       IO_RESV_RELEASE = 0x15,
       CNS_NS = 0x00,
       CNS_CTRL = 0x01,
       NSID_ALL = 0xffffffffu,
       FEATURE_HOST_ID = 0x81,
       LOG_HEALTH = 0x02,         /* Base 5.16.1.3 */
       HOST_ID_EXTENDED = 1 << 0, /* CDW11 EXHID */
};

static int pass(struct handle *h, enum io_op op, const void *cmd, void *buf, size_t len,
		uint32_t *ret_dw0, const char *what, struct err *err)
{
	struct io io = { .op = (uint8_t)op, .cmd = cmd };
	uint16_t status;

	if (!(h->ops & IO_BIT(op)))
		return err_set(err, -EOPNOTSUPP, "%s is no NVMe device: %s is not possible",
			       h->desc->dev->name, what);
	if (len > 0)
		io_set_buf(&io, buf, len);
	status = io_wait(h, &io);
	if (ret_dw0 != NULL)
		*ret_dw0 = (uint32_t)io.result;
	if (status == IO_OK)
		return 0;
	return err_set(err, io_status_to_errno(status), "%s: %s failed: %s (NVMe status %#x)",
		       h->desc->dev->name, what, io_status_name(status), io_status_to_nvme(status));
}

int nvme_admin(struct handle *h, const void *cmd, void *buf, size_t len, uint32_t *ret_dw0,
	       struct err *err)
{
	return pass(h, IO_NVME_ADMIN, cmd, buf, len, ret_dw0, "an admin command", err);
}

static int identify(struct handle *h, uint32_t nsid, uint8_t cns, void *page, struct err *err)
{
	struct command cmd = { .opcode = ADMIN_IDENTIFY };

	le32_put(&cmd.nsid, nsid);
	le32_put(&cmd.cdw[0], cns);
	return pass(h, IO_NVME_ADMIN, &cmd, page, NVME_CMDS_PAGE, NULL, "identify", err);
}

int nvme_identify_ctrlr(struct handle *h, void *page, struct err *err)
{
	return identify(h, NSID_ALL, CNS_CTRL, page, err);
}

int nvme_identify_ns(struct handle *h, uint32_t nsid, void *page, struct err *err)
{
	return identify(h, nsid, CNS_NS, page, err);
}

int nvme_log_page(struct handle *h, uint8_t lid, uint32_t nsid, uint64_t off, void *buf,
		  uint32_t len, struct err *err)
{
	struct command cmd = { .opcode = ADMIN_GET_LOG_PAGE };
	uint32_t numd = len / 4 - 1; /* 0's based */

	if (len == 0 || len % 4 != 0 || off % 4 != 0)
		return err_set(err, -EINVAL, "a log page is read in units of 4 bytes");
	le32_put(&cmd.nsid, nsid);
	le32_put(&cmd.cdw[0], lid | (numd & 0xffff) << 16);
	le32_put(&cmd.cdw[1], numd >> 16);
	le32_put(&cmd.cdw[2], (uint32_t)off);
	le32_put(&cmd.cdw[3], (uint32_t)(off >> 32));
	return pass(h, IO_NVME_ADMIN, &cmd, buf, len, NULL, "a log page", err);
}

int nvme_health(struct handle *h, struct nvme_health *ret, struct err *err)
{
	struct {
		uint8_t critical;
		struct le16 temperature;
		uint8_t spare, spare_threshold, used;
		uint8_t between[154];
		struct le64 media_errors[2]; /* 128 bits */
		uint8_t rest[336];
	} page = {};
	int result;

	static_assert(offsetof(typeof(page), media_errors) == 160, "Base 5.16.1.3");
	static_assert(sizeof(page) == 512, "Base 5.16.1.3");
	result = nvme_log_page(h, LOG_HEALTH, NSID_ALL, 0, &page, sizeof(page), err);
	if (result < 0)
		return result;
	*ret = (struct nvme_health){
		.critical = page.critical,
		.spare = page.spare,
		.spare_threshold = page.spare_threshold,
		.used = page.used,
		.temperature_k = le16_get(page.temperature),
		.media_errors = le64_get(page.media_errors[1]) != 0
					? UINT64_MAX
					: le64_get(page.media_errors[0]),
	};
	return 0;
}

int nvme_host_id(struct handle *h, uint8_t id[16], struct err *err)
{
	struct command cmd = { .opcode = ADMIN_GET_FEATURES };

	le32_put(&cmd.cdw[0], FEATURE_HOST_ID);
	le32_put(&cmd.cdw[1], HOST_ID_EXTENDED);
	return pass(h, IO_NVME_ADMIN, &cmd, id, 16, NULL, "the host id", err);
}

/* ---- reservations (Base 7.2 ... 7.5) ------------------------------------------------------ */

int nvme_resv_register(struct handle *h, uint64_t key, uint64_t new_key,
		       enum nvme_resv_action action, enum nvme_resv_persist persist,
		       struct err *err)
{
	struct command cmd = { .opcode = IO_RESV_REGISTER };
	struct le64 keys[2] = { le64_of(key), le64_of(new_key) };

	le32_put(&cmd.cdw[0],
		 (uint32_t)action | NVME_RESV_IEKEY | (uint32_t)persist << NVME_RESV_CPTPL_SHIFT);
	return pass(h, IO_NVME_IO, &cmd, keys, sizeof(keys), NULL, "registering a key", err);
}

int nvme_resv_acquire(struct handle *h, uint64_t key, uint64_t preempt_key,
		      enum nvme_resv_action action, enum nvme_resv_type type, struct err *err)
{
	struct command cmd = { .opcode = IO_RESV_ACQUIRE };
	struct le64 keys[2] = { le64_of(key), le64_of(preempt_key) };

	le32_put(&cmd.cdw[0], (uint32_t)action | (uint32_t)type << NVME_RESV_TYPE_SHIFT);
	return pass(h, IO_NVME_IO, &cmd, keys, sizeof(keys), NULL, "acquiring a reservation", err);
}

int nvme_resv_release(struct handle *h, uint64_t key, enum nvme_resv_action action,
		      enum nvme_resv_type type, struct err *err)
{
	struct command cmd = { .opcode = IO_RESV_RELEASE };
	struct le64 keys = le64_of(key);

	le32_put(&cmd.cdw[0], (uint32_t)action | (uint32_t)type << NVME_RESV_TYPE_SHIFT);
	return pass(h, IO_NVME_IO, &cmd, &keys, sizeof(keys), NULL, "releasing a reservation", err);
}

int nvme_resv_report(struct handle *h, bool is_extended, void *buf, uint32_t len, struct err *err)
{
	struct command cmd = { .opcode = IO_RESV_REPORT };

	if (len == 0 || len % 4 != 0)
		return err_set(err, -EINVAL, "a reservation report is read in units of 4 bytes");
	le32_put(&cmd.cdw[0], len / 4 - 1);
	le32_put(&cmd.cdw[1], is_extended);
	return pass(h, IO_NVME_IO, &cmd, buf, len, NULL, "a reservation report", err);
}
