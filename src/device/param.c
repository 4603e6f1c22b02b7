/* SPDX-License-Identifier: Apache-2.0 */
/*
 * param.c - URI parameters that several drivers share, so that they mean the same everywhere.
 *
 * Names and rules are the original's: blk_size, uuid, and the size as size_mb or num_blocks but
 * never both. Its 32-bit arithmetic is not: sizes are 64-bit and checked for overflow.
 *
 * Thread: any; no state. Outputs are untouched on failure.
 */
#include <errno.h>

#include "device/driver.h"

int driver_param_block_size(struct uri *uri, uint32_t fallback, uint32_t *ret, struct err *err)
{
	uint32_t value = fallback;
	int result = uri_param_u32(uri, "blk_size", 0, UINT32_MAX, &value, err);

	if (result < 0)
		return result;
	if (value == 0)
		value = fallback;
	if (!is_pow2(value) || value < DEVICE_BLOCK_SIZE_MIN || value > DEVICE_BLOCK_SIZE_MAX)
		return err_set(err, -EINVAL,
			       "blk_size=%u is not possible: a power of two from %d to %d, usually "
			       "512 or 4096",
			       value, DEVICE_BLOCK_SIZE_MIN, DEVICE_BLOCK_SIZE_MAX);
	*ret = value;
	return 0;
}

int driver_param_uuid(struct uri *uri, struct uuid *ret, struct err *err)
{
	return uri_param_uuid(uri, "uuid", ret, err);
}

int driver_param_size(struct uri *uri, uint32_t block_size, bool required, uint64_t *ret_nblocks,
		      struct err *err)
{
	bool has_mb = uri_has(uri, "size_mb"), has_blocks = uri_has(uri, "num_blocks");
	uint64_t size_mb = 0, nblocks = 0, bytes;
	int result;

	if (has_mb && has_blocks)
		return err_set(err, -EINVAL, "size_mb and num_blocks exclude each other: give one");
	if (!has_mb && !has_blocks) {
		if (required)
			return err_set(err, -EINVAL,
				       "no size given: add size_mb=N or num_blocks=N");
		*ret_nblocks = 0;
		return 0;
	}
	result = has_mb ? uri_param_u64(uri, "size_mb", 1, UINT64_MAX, &size_mb, err)
			: uri_param_u64(uri, "num_blocks", 1, UINT64_MAX, &nblocks, err);
	if (result < 0)
		return result;
	if (has_mb && u64_mul(size_mb, 1 << 20, &bytes))
		nblocks = bytes / block_size;
	else if (has_mb)
		return err_set(err, -EFBIG, "size_mb=%lu is larger than any device", size_mb);
	if (!u64_mul(nblocks, block_size, &bytes) || bytes > INT64_MAX)
		return err_set(err, -EFBIG, "%lu blocks of %u bytes are larger than any device",
			       nblocks, block_size);
	*ret_nblocks = nblocks;
	return 0;
}
