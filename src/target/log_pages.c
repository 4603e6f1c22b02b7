// SPDX-License-Identifier: Apache-2.0
/*
 * Log pages that are tables of what there is: supported pages (00h), features (12h).
 *
 * What the other files of the target answer stands here once more, as that is what the pages are
 * for; tests ask for everything that is listed and for some that is not.
 *
 * Thread: the primary reactor.
 */
#include <stdlib.h>

#include "target/internal.h"

void *supported_log_page(const struct subsystem *ss, size_t *ret_size)
{
	static const uint8_t common[] = { NVME_LOG_SUPPORTED, NVME_LOG_ERROR };
	static const uint8_t io[] = { NVME_LOG_SMART,       NVME_LOG_FIRMWARE, NVME_LOG_CHANGED_NS,
				      NVME_LOG_EFFECTS,     NVME_LOG_FEATURES, NVME_LOG_MI,
				      NVME_LOG_RESERVATION, NVME_LOG_LEFTOVER };
	struct le32 *log = calloc(1, NVME_LOG_SUPPORTED_SIZE);

	*ret_size = NVME_LOG_SUPPORTED_SIZE;
	if (log == NULL)
		return NULL;
	for (size_t i = 0; i < ARRAY_LEN(common); i++)
		le32_put(&log[common[i]], NVME_LOG_SUPPORTED_BIT);
	if (ss->is_discovery)
		le32_put(&log[NVME_LOG_DISCOVERY], NVME_LOG_SUPPORTED_BIT);
	for (size_t i = 0; i < ARRAY_LEN(io) && !ss->is_discovery; i++)
		le32_put(&log[io[i]], NVME_LOG_SUPPORTED_BIT);
	if (ss->ana != NULL)
		le32_put(&log[NVME_LOG_ANA], NVME_LOG_SUPPORTED_BIT);
	return log;
}

void *feature_effects_page(size_t *ret_size)
{
	static const uint8_t features[] = {
		NVME_FEAT_ARBITRATION,     NVME_FEAT_POWER,       NVME_FEAT_TEMPERATURE,
		NVME_FEAT_ERROR_RECOVERY,  NVME_FEAT_WRITE_CACHE, NVME_FEAT_QUEUES,
		NVME_FEAT_WRITE_ATOMICITY, NVME_FEAT_ASYNC_EVENT, NVME_FEAT_TIMESTAMP,
		NVME_FEAT_KEEP_ALIVE,      NVME_FEAT_HOST_ID,     NVME_FEAT_HOST_BEHAVIOR,
	};
	static const uint8_t per_ns[] = { NVME_FEAT_RESV_MASK, NVME_FEAT_RESV_PERSIST };
	struct le32 *log = calloc(1, NVME_LOG_FEATURES_SIZE);

	*ret_size = NVME_LOG_FEATURES_SIZE;
	for (size_t i = 0; log != NULL && i < ARRAY_LEN(features); i++)
		le32_put(&log[features[i]], NVME_LOG_SUPPORTED_BIT | NVME_SCOPE_CTRL);
	for (size_t i = 0; log != NULL && i < ARRAY_LEN(per_ns); i++)
		le32_put(&log[per_ns[i]], NVME_LOG_SUPPORTED_BIT | NVME_SCOPE_NS);
	return log;
}
