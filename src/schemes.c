/* SPDX-License-Identifier: Apache-2.0 */
/*
 * schemes.c - every driver the engine has. A driver is added here and nowhere else.
 *
 * Why a table: order is defined, static linking drops nothing, and grep finds all of them, which
 * registration by constructors would not give. Const; no thread rule.
 *
 * The order is the one in which help lists the schemes; look-up is by scheme name, so it carries
 * no other meaning. Scheme names are unique across the table.
 */
#include "schemes.h"

#include "drivers/drivers.h"
#include "nexus/nexus.h"

const struct driver *const scheme_table[] = {
	&driver_null,     &driver_malloc, &driver_aio,   &driver_uring, &driver_loopback,
	&driver_passthru, &driver_nvmf,   &driver_nexus, NULL,
};
