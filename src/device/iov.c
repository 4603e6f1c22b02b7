// SPDX-License-Identifier: Apache-2.0
/*
 * Scatter lists: walk, copy, compare, and the names of operations.
 *
 * A request's data may lie in any number of pieces of any length, empty ones included. Everybody
 * who must look at bytes (memory devices, emulation, faults, digests) goes through these, so that
 * the walk and its corner cases exist once.
 *
 * Invariants
 *   1. A function touches min(len, bytes behind off) bytes and says how many. An offset beyond the
 *      end is not an error: nothing is there.
 *   2. The array of pieces is never written.
 *
 * Thread: no state, any.
 *
 * Rejected: an iterator object for callers. All of them want a contiguous buffer on the other side,
 * and the walk inlined into each function lets memcpy see its length.
 */
#include "device/io.h"

#include <string.h>

/* Where byte @off of a vector lies. */
struct cursor {
	const struct iovec *iov;
	int count;  /* pieces from iov on */
	size_t off; /* within the first */
};

static inline struct cursor cursor_at(const struct iovec *iov, int iovcnt, size_t off)
{
	while (iovcnt > 0 && off >= iov->iov_len) {
		off -= iov->iov_len;
		iov++;
		iovcnt--;
	}
	return (struct cursor){ .iov = iov, .count = iovcnt, .off = off };
}

/* The next contiguous piece of at most @len bytes; 0 at the end. Moves on. */
static inline size_t cursor_next(struct cursor *at, size_t len, uint8_t **ret_ptr)
{
	size_t step;

	while (at->count > 0 && at->off == at->iov->iov_len) {
		at->iov++;
		at->count--;
		at->off = 0;
	}
	if (at->count <= 0 || len == 0)
		return 0;
	step = MIN(at->iov->iov_len - at->off, len);
	*ret_ptr = (uint8_t *)at->iov->iov_base + at->off;
	at->off += step;
	return step;
}

size_t iov_bytes(const struct iovec *iov, int iovcnt)
{
	size_t bytes = 0;

	for (int i = 0; i < iovcnt; i++)
		bytes += iov[i].iov_len;
	return bytes;
}

size_t iov_to_buf(const struct iovec *iov, int iovcnt, size_t off, void *buf, size_t len)
{
	struct cursor at = cursor_at(iov, iovcnt, off);
	size_t done = 0, step;
	uint8_t *piece;

	while ((step = cursor_next(&at, len - done, &piece)) > 0) {
		memcpy((uint8_t *)buf + done, piece, step);
		done += step;
	}
	return done;
}

size_t iov_from_buf(const struct iovec *iov, int iovcnt, size_t off, const void *buf, size_t len)
{
	struct cursor at = cursor_at(iov, iovcnt, off);
	size_t done = 0, step;
	uint8_t *piece;

	while ((step = cursor_next(&at, len - done, &piece)) > 0) {
		memcpy(piece, (const uint8_t *)buf + done, step);
		done += step;
	}
	return done;
}

size_t iov_fill(const struct iovec *iov, int iovcnt, size_t off, int byte, size_t len)
{
	struct cursor at = cursor_at(iov, iovcnt, off);
	size_t done = 0, step;
	uint8_t *piece;

	while ((step = cursor_next(&at, len - done, &piece)) > 0) {
		memset(piece, byte, step);
		done += step;
	}
	return done;
}

size_t iov_compare(const struct iovec *iov, int iovcnt, size_t off, const void *buf, size_t len)
{
	struct cursor at = cursor_at(iov, iovcnt, off);
	const uint8_t *other = buf;
	size_t done = 0, step;
	uint8_t *piece;

	while ((step = cursor_next(&at, len - done, &piece)) > 0) {
		if (memcmp(piece, other + done, step) != 0) {
			while (*piece == other[done]) {
				piece++;
				done++;
			}
			return done;
		}
		done += step;
	}
	return done; /* @len, or where the vector ended: that is a difference, too */
}

bool iov_is_aligned(const struct iovec *iov, int iovcnt, size_t align)
{
	uintptr_t bits = 0;

	for (int i = 0; i < iovcnt; i++)
		bits |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
	return IS_ALIGNED(bits, align);
}

const char *io_op_name(enum io_op op)
{
	static const char *const names[] = {
		[IO_READ] = "read",
		[IO_WRITE] = "write",
		[IO_FLUSH] = "flush",
		[IO_UNMAP] = "unmap",
		[IO_WRITE_ZEROES] = "write_zeroes",
		[IO_COMPARE] = "compare",
		[IO_COMPARE_WRITE] = "compare_write",
		[IO_RESET] = "reset",
		[IO_SEEK_DATA] = "seek_data",
		[IO_SEEK_HOLE] = "seek_hole",
		[IO_NVME_ADMIN] = "nvme_admin",
		[IO_NVME_IO] = "nvme_io",
	};

	static_assert(ARRAY_LEN(names) == IO_OP_COUNT_, "a name for each operation");
	return op < IO_OP_COUNT_ ? names[op] : "unknown";
}
