/* SPDX-License-Identifier: Apache-2.0 */
/*
 * uri.h - a device's URI, taken apart once, and its parameters, each asked for by name and type.
 *
 * Owner:  uri_parse allocates, uri_free frees; every string inside lives exactly as long.
 * Thread: one at a time (getters mark what they used).
 * Rules:  a driver asks for every parameter it knows, then calls uri_reject_unused, which refuses
 *         what nobody asked for. A getter leaves its result untouched when the parameter is absent,
 *         so the caller puts the default there first. All texts are decoded, and free of NUL; `+`
 *         is itself. A nested URI is one parameter, percent-encoded:
 *         base=aio%3A%2F%2F%2Ftmp%2Fx%3Fblk_size%3D512.
 * Errors: -EINVAL with a message that names the parameter and what it may be; -ENOMEM.
 */
#ifndef BASE_URI_H
#define BASE_URI_H
#include "base/base.h"
#include "base/err.h"
#include "base/uuid.h"

enum {
	URI_LEN_MAX = 4096,    /* characters of the whole text */
	URI_PARAMS_MAX = 64,   /* query parameters of one URI */
	URI_SEGMENTS_MAX = 64, /* path segments of one URI */
	URI_ASKED_MAX = 64,    /* different parameters a driver may know */
};

struct uri_param {
	const char *key;   /* decoded, not empty */
	const char *value; /* decoded; NULL for a bare name */
	bool is_used;
};

struct uri {
	const char *text;      /* as given */
	const char *scheme;    /* lower case */
	const char *authority; /* raw, between // and the next /; "" when empty or absent */
	const char *host; /* decoded, IPv6 without brackets; "" when absent or when authority */
	const char *port; /* is not host[:port], as in pcie://0000:01:00.0; "" when absent */
	const char *path; /* decoded, whole, with its leading slash: "/tmp/x" */
	unsigned nsegments;
	unsigned nparams;
	unsigned nasked;
	const char
		*segments[URI_SEGMENTS_MAX]; /* decoded one by one: %2F stays inside its segment */
	struct uri_param params[URI_PARAMS_MAX];
	const char *asked[URI_ASKED_MAX]; /* borrowed from callers, who pass literals */
	char bytes[];                     /* what the pointers above point into */
};

/* Parses a terminated text. Refuses user information and fragments, because both would be ignored.
 */
WARN_UNUSED int uri_parse(const char *text, struct uri **ret_uri, struct err *err);

/* The same for bytes of any origin, not terminated. */
WARN_UNUSED int uri_parse_bytes(const char *data, size_t len, struct uri **ret_uri,
				struct err *err);

void uri_free(struct uri *uri); /* NULL is fine */

static inline void uri_freep(struct uri **uri)
{
	uri_free(*uri);
	*uri = NULL;
}

/* The path without its leading slash: the name in malloc:///name. */
static inline const char *uri_name(const struct uri *uri)
{
	return uri->path[0] == '/' ? uri->path + 1 : uri->path;
}

/* Whether @key is given; counts as asking for it, not as using it. */
bool uri_has(struct uri *uri, const char *key);

/* Numbers between @min and @max, both inclusive. */
WARN_UNUSED int uri_param_u64(struct uri *uri, const char *key, uint64_t min, uint64_t max,
			      uint64_t *value, struct err *err);
WARN_UNUSED int uri_param_u32(struct uri *uri, const char *key, uint32_t min, uint32_t max,
			      uint32_t *value, struct err *err);

/* As bool_parse (units.h); a bare name is true. */
WARN_UNUSED int uri_param_bool(struct uri *uri, const char *key, bool *value, struct err *err);
WARN_UNUSED int uri_param_uuid(struct uri *uri, const char *key, struct uuid *value,
			       struct err *err);

/* Bytes, as size_parse; nanoseconds, as duration_parse. */
WARN_UNUSED int uri_param_size(struct uri *uri, const char *key, uint64_t *bytes, struct err *err);
WARN_UNUSED int uri_param_duration(struct uri *uri, const char *key, uint64_t *ns, struct err *err);

/* A text that is not empty; it lives as long as @uri. */
WARN_UNUSED int uri_param_str(struct uri *uri, const char *key, const char **value,
			      struct err *err);

/* One of @count names; *index is its place. */
WARN_UNUSED int uri_param_choice(struct uri *uri, const char *key, const char *const names[],
				 unsigned count, unsigned *index, struct err *err);

/* -EINVAL when a parameter was given that nobody used; the message lists what was asked for. */
WARN_UNUSED int uri_reject_unused(const struct uri *uri, struct err *err);

/* @text with everything but unreserved characters percent-encoded, to be freed by the caller; NULL
 * when memory is short. */
char *uri_encode(const char *text);

/* The same for one segment of a path that a person reads and pastes into a shell: ':', '@', '+',
 * ',' and '=' stay. */
char *uri_encode_segment(const char *text);
#endif
