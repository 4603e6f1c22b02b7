/* SPDX-License-Identifier: Apache-2.0 */
/*
 * le.h - integers as they lie on the wire or on disk, in types that do not mix with ours.
 *
 * Owner:  embedded in wire and on-disk structures; alignment 1, so structures need no packing.
 * Thread: any.
 * Rules:  assigning a number to such a field does not compile: a forgotten byte swap is a type
 *         error. The compiler turns get and put into one move.
 */
#ifndef BASE_LE_H
#define BASE_LE_H
#include <endian.h>
#include <string.h>

#include "base/base.h"

struct le16 {
	uint8_t b[2];
};
struct le32 {
	uint8_t b[4];
};
struct le64 {
	uint8_t b[8];
};
struct be16 {
	uint8_t b[2];
};
struct be32 {
	uint8_t b[4];
};
struct be64 {
	uint8_t b[8];
};

/* Defines x_get, x_put (into a field) and x_of (as a value, for initialisers at run time). */
#define ENDIAN_FUNCS_(name, type, to_host, from_host)               \
	static inline type name##_get(struct name wire)             \
	{                                                           \
		type raw;                                           \
		memcpy(&raw, wire.b, sizeof(raw));                  \
		return to_host(raw);                                \
	}                                                           \
	static inline void name##_put(struct name *wire, type host) \
	{                                                           \
		type raw = from_host(host);                         \
		memcpy(wire->b, &raw, sizeof(raw));                 \
	}                                                           \
	static inline struct name name##_of(type host)              \
	{                                                           \
		struct name wire;                                   \
		name##_put(&wire, host);                            \
		return wire;                                        \
	}                                                           \
	static_assert(sizeof(struct name) == sizeof(type) && _Alignof(struct name) == 1, #name)

ENDIAN_FUNCS_(le16, uint16_t, le16toh, htole16);
ENDIAN_FUNCS_(le32, uint32_t, le32toh, htole32);
ENDIAN_FUNCS_(le64, uint64_t, le64toh, htole64);
ENDIAN_FUNCS_(be16, uint16_t, be16toh, htobe16);
ENDIAN_FUNCS_(be32, uint32_t, be32toh, htobe32);
ENDIAN_FUNCS_(be64, uint64_t, be64toh, htobe64);
#endif
