/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opts.h - what the URI of a remote namespace says, with the defaults filled in.
 *
 * Owner:  the caller; a plain value.
 * Thread: nvmf_opts_parse() in a task (it reads small files on a worker), the rest anywhere.
 */
#ifndef ASHLAR_DRIVERS_NVMF_OPTS_H
#define ASHLAR_DRIVERS_NVMF_OPTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/uri.h"
#include "base/uuid.h"
#include "drivers/nvme/spec.h"
#include "reactor/task.h"

enum {
	NVMF_HOST_MAX = 256, /* a host name or an address, with the NUL */
	NVMF_PORT = 8420,    /* the original's default */
	PATHS_MAX = 8,       /* of one namespace */
};

struct nvmf_place {
	char host[NVMF_HOST_MAX]; /* IPv6 without brackets */
	uint16_t port;
};

/* What to do about a command that has been in flight for io_timeout. */
enum nvmf_on_timeout {
	NVMF_TIMEOUT_IGNORE, /* say so */
	NVMF_TIMEOUT_ABORT,  /* abort it; if that does not help, reset */
	NVMF_TIMEOUT_RESET,  /* reset the controller: all its commands are lost and sent again */
	NVMF_TIMEOUT_REMOVE, /* give the controller up at once */
};

enum nvmf_iopolicy {
	NVMF_ROUND_ROBIN,
	NVMF_QUEUE_DEPTH, /* the path with the least in flight */
};

struct nvmf_opts {
	struct nvmf_place also[PATHS_MAX - 1]; /* paths=: further places of the same subsystem */
	unsigned nalso;
	char host[NVMF_HOST_MAX]; /* IPv6 without brackets */
	uint16_t port;
	char subnqn[NVME_NQN_SIZE];
	char hostnqn[NVME_NQN_SIZE];
	uint8_t hostid[16];
	uint32_t nsid;
	struct uuid uuid; /* what the namespace must be; null: anything */
	bool hdgst, ddgst;
	uint32_t kato_ms; /* 0: no keep alive */
	uint16_t queue_depth;
	uint16_t queues;                          /* I/O queues to ask for, 0: one per reactor */
	uint64_t io_timeout_ns, admin_timeout_ns; /* 0: none */
	uint64_t connect_timeout_ns;
	uint64_t reconnect_delay_ns;
	uint64_t ctrl_loss_ns;    /* 0: a lost connection is the end */
	uint64_t fast_io_fail_ns; /* 0: not before the controller is given up */
	enum nvmf_on_timeout on_timeout;
	enum nvmf_iopolicy iopolicy;
};

/* From a parsed URI and the environment. Warns of parameters nobody knows. 0 or -EINVAL ... */
int nvmf_opts_parse(struct uri *uri, struct nvmf_opts *ret_opts,
		    struct err *err) MAY_SUSPEND WARN_UNUSED;
/* "host:port/nqn" and "n" with the namespace: the device's name. -ENAMETOOLONG. */
int nvmf_opts_name(const struct nvmf_opts *opts, char *name, size_t size,
		   struct err *err) WARN_UNUSED;
/* Host, port, NQN and namespace of a URI alone, to look for what was made. -EINVAL. */
int nvmf_opts_place(const struct uri *uri, struct nvmf_opts *ret_opts) WARN_UNUSED;
/* Do both lead to the same controller? */
bool nvmf_opts_same_ctrlr(const struct nvmf_opts *a, const struct nvmf_opts *b);
/* Defaults alone, for a discovery controller; @hostnqn: NULL for the default. */
int nvmf_opts_init(struct nvmf_opts *opts, const char *hostnqn,
		   struct err *err) MAY_SUSPEND WARN_UNUSED;
/* A qualified name has 1 ... 223 bytes, no space or control character (Base 4.5). */
bool nvmf_nqn_is_valid(const char *nqn);

#endif
