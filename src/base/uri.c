/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device URIs: syntax by uriparser, meaning by whoever asks.
 *
 * A URI arrives from a command line, a gRPC call or a pool's label; all of it may be hostile.
 * Whether the text is a URI at all is decided by uriparser (RFC 3986), which also finds host and
 * port and undoes percent-encoding. This file adds what a driver wants on top: decoded strings that
 * end where C expects it, path segments, query parameters with types, and the refusal of what
 * nobody understood - a misspelled `blk_sze=4096` must not silently become the default.
 *
 * One deviation from the RFC: the authority of pcie://0000:01:00.0 is no host and port. When a text
 * is a URI but for its authority, and that is made of harmless characters, it is kept raw and host
 * and port stay empty.
 *
 * Parameters are pulled, not pushed: a driver asks by name and type, and the asking builds both the
 * list of what was used and the list of what could have been, which is the help in the message.
 *
 * Invariants
 *   1. Every string in struct uri ends inside its `bytes`; sizes follow from the text's length
 *      (struct arena asserts it).
 *   2. No decoded string contains a NUL: %00 is refused before anything is decoded.
 *   3. Limits are checked before the text is looked at; work and memory are linear in its length.
 *
 * Thread rule: a struct uri belongs to one thread at a time.
 *
 * Rejected: `+` for a space (a form's habit, not a URI's; file names contain plus signs); a table
 * of parameters for each driver (types, defaults and checks would live in two places); uriparser's
 * own query list (an allocation for each parameter, and %00 cuts values short).
 */
#include "base/uri.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <uriparser/Uri.h>

#include "base/units.h"

/* Where a part of the text lies; nothing is copied yet. */
struct span {
	const char *first;
	size_t len;
};

/* The raw parts, found by their delimiters as RFC 3986 appendix B describes. */
struct parts {
	struct span scheme, authority, path, query;
	bool has_query, has_fragment;
};

/* Hands out the bytes behind struct uri. */
struct arena {
	char *at, *end;
};

static void uri_membersp(UriUriA *syntax)
{
	uriFreeUriMembersA(syntax);
}

/* A terminated copy of @span, decoded or as it is. */
static const char *arena_copy(struct arena *arena, struct span span, bool decode)
{
	char *copy = arena->at;
	char *end = copy + span.len;

	assert((size_t)(arena->end - arena->at) > span.len);
	if (span.len > 0)
		memcpy(copy, span.first, span.len);
	*end = '\0';
	if (decode)
		(void)uriUnescapeInPlaceExA(copy, URI_FALSE, URI_BR_DONT_TOUCH); /* only shrinks */
	arena->at = end + 1;
	return copy;
}

static struct span range_span(const UriTextRangeA *range)
{
	if (range->first == NULL)
		return (struct span){};
	return (struct span){ range->first, (size_t)(range->afterLast - range->first) };
}

/* Cuts what stands before the first of @stops off @rest. */
static struct span span_until(struct span *rest, const char *stops)
{
	struct span part = { rest->first, 0 };

	while (part.len < rest->len && strchr(stops, rest->first[part.len]) == NULL)
		part.len++;
	rest->first += part.len;
	rest->len -= part.len;
	return part;
}

static bool scheme_is_valid(struct span scheme)
{
	for (size_t i = 0; i < scheme.len; i++) {
		char c = scheme.first[i];

		if (!isalpha((unsigned char)c) &&
		    (i == 0 || (!isdigit((unsigned char)c) && strchr("+-.", c) == NULL)))
			return false;
	}
	return scheme.len > 0;
}

/* @text holds no NUL. */
static int parts_split(const char *text, size_t len, struct parts *parts, struct err *err)
{
	struct span rest = { text, len };

	*parts = (struct parts){ .scheme = span_until(&rest, ":/?#") };
	if (rest.len == 0 || rest.first[0] != ':' || !scheme_is_valid(parts->scheme))
		return err_set(err, -EINVAL,
			       "'%.*s' has no scheme; write aio:///path for a file or device, "
			       "malloc:///name?size_mb=64 for memory",
			       (int)MIN(len, (size_t)80), text);
	rest.first++;
	rest.len--;
	if (rest.len >= 2 && memcmp(rest.first, "//", 2) == 0) {
		rest.first += 2;
		rest.len -= 2;
		parts->authority = span_until(&rest, "/?#");
	}
	parts->path = span_until(&rest, "?#");
	if (rest.len > 0 && rest.first[0] == '?') {
		rest.first++;
		rest.len--;
		parts->query = span_until(&rest, "#");
	}
	parts->has_fragment = rest.len > 0;
	return 0;
}

/* Says why @text is no URI, where @at is the first character that does not fit. */
static int syntax_failed(struct err *err, const char *text, size_t len, const struct parts *parts,
			 const char *at)
{
	const char *host_end = parts->authority.first + parts->authority.len;
	size_t place = (size_t)(at - text);
	unsigned char c = place < len ? (unsigned char)*at : 0;

	if (parts->authority.len > 0 && at >= parts->authority.first && at <= host_end)
		return err_set(err, -EINVAL,
			       "'%.*s' is neither host nor host:port; an IPv6 address stands in "
			       "brackets, and a file's path behind three slashes",
			       (int)MIN(parts->authority.len, (size_t)80), parts->authority.first);
	if (place >= len)
		return err_set(err, -EINVAL, "'%.80s' ends too early for a URI", text);
	if (c == '%' || text[place - 1] == '%' || (place >= 2 && text[place - 2] == '%'))
		return err_set(err, -EINVAL,
			       "'%.80s' has a %% near character %zu that two hexadecimal digits do "
			       "not follow; write %% itself as %%25",
			       text, place + 1);
	if (isgraph(c))
		return err_set(err, -EINVAL,
			       "'%.80s' may not contain the '%c' at character %zu; write it as "
			       "%%%02X",
			       text, c, place + 1, c);
	return err_set(err, -EINVAL,
		       "'%.80s' may not contain the byte 0x%02x at character %zu; write it as "
		       "%%%02X",
		       text, c, place + 1, c);
}

static bool authority_is_harmless(struct span authority)
{
	for (size_t i = 0; i < authority.len; i++) {
		char c = authority.first[i];

		if (!isalnum((unsigned char)c) && strchr("._-:", c) == NULL)
			return false;
	}
	return authority.len > 0;
}

/* Parses @text as it is, or without its authority when only that is in the way. What @syntax holds
 * points into @text or, in the second case, into @scratch (len + 1 bytes). */
static int syntax_parse(const char *text, size_t len, const struct parts *parts, char *scratch,
			UriUriA *syntax, struct err *err)
{
	size_t head = (size_t)(parts->authority.first - text);
	size_t tail = len - head - parts->authority.len;
	const char *at = text;
	int code = uriParseSingleUriExA(syntax, text, text + len, &at);

	if (code == URI_ERROR_SYNTAX && authority_is_harmless(parts->authority)) {
		memcpy(scratch, text, head);
		memcpy(scratch + head, parts->authority.first + parts->authority.len, tail);
		scratch[head + tail] = '\0';
		code = uriParseSingleUriExA(syntax, scratch, scratch + head + tail, &at);
		if (code == URI_ERROR_SYNTAX) /* where that is in the whole text */
			at = text + (at - scratch) + parts->authority.len;
	}
	if (code == URI_ERROR_SYNTAX)
		return syntax_failed(err, text, len, parts, at);
	if (code != URI_SUCCESS)
		return err_set(err, -ENOMEM, "out of memory");
	return 0;
}

static int segments_copy(struct uri *uri, struct arena *arena, const UriUriA *syntax,
			 struct err *err)
{
	if (uri->path[0] == '\0' || strcmp(uri->path, "/") == 0)
		return 0; /* one empty segment, says the RFC; none, says a driver */
	for (const UriPathSegmentA *seg = syntax->pathHead; seg != NULL; seg = seg->next) {
		if (uri->nsegments == URI_SEGMENTS_MAX)
			return err_set(err, -EINVAL, "the path has more than %d segments",
				       URI_SEGMENTS_MAX);
		uri->segments[uri->nsegments++] = arena_copy(arena, range_span(&seg->text), true);
	}
	return 0;
}

static int params_copy(struct uri *uri, struct arena *arena, struct span query, struct err *err)
{
	while (query.len > 0) {
		struct span item = span_until(&query, "&");
		struct span key = span_until(&item, "=");
		struct uri_param *param = &uri->params[uri->nparams];

		if (query.len > 0) { /* the & */
			query.first++;
			query.len--;
		}
		if (key.len == 0 && item.len == 0)
			continue; /* as in a=1&&b=2 */
		if (uri->nparams == URI_PARAMS_MAX)
			return err_set(err, -EINVAL, "there are more than %d parameters",
				       URI_PARAMS_MAX);
		*param = (struct uri_param){ .key = arena_copy(arena, key, true) };
		if (param->key[0] == '\0')
			return err_set(err, -EINVAL, "a parameter has a value but no name");
		if (item.len > 0) { /* the = and what follows it */
			item.first++;
			item.len--;
			param->value = arena_copy(arena, item, true);
		}
		uri->nparams++;
	}
	return 0;
}

static int port_check(const char *port, struct err *err)
{
	uint64_t number;

	if (port[0] != '\0' && (number_parse(port, &number, NULL) < 0 || number > UINT16_MAX))
		return err_set(err, -EINVAL, "port '%.32s' is not between 0 and 65535", port);
	return 0;
}

/* Copies all parts into @uri, which holds the terminated text already. */
static int uri_fill(struct uri *uri, struct arena *arena, const struct parts *parts,
		    const UriUriA *syntax, struct err *err)
{
	char *scheme = arena->at;
	int code;

	uri->scheme = arena_copy(arena, parts->scheme, false);
	for (; *scheme != '\0'; scheme++)
		*scheme = (char)tolower((unsigned char)*scheme);
	uri->authority = arena_copy(arena, parts->authority, false);
	uri->host = arena_copy(arena, range_span(&syntax->hostText), true);
	uri->port = arena_copy(arena, range_span(&syntax->portText), false);
	uri->path = arena_copy(arena, parts->path, true);
	code = port_check(uri->port, err);
	if (code == 0)
		code = segments_copy(uri, arena, syntax, err);
	if (code == 0)
		code = params_copy(uri, arena, parts->query, err);
	return code;
}

/* @text is terminated, holds no other NUL, and is uri->text. */
static int uri_take_apart(struct uri *uri, struct arena *arena, size_t len, char *scratch,
			  struct err *err)
{
	CLEANUP(uri_membersp) UriUriA syntax = {};
	struct parts parts;
	int code;

	code = parts_split(uri->text, len, &parts, err);
	if (code < 0)
		return code;
	if (strstr(uri->text, "%00") != NULL)
		return err_set(err, -EINVAL, "'%.80s' contains %%00, which no name may contain",
			       uri->text);
	if (parts.authority.first == NULL)
		parts.authority.first = parts.path.first;
	code = syntax_parse(uri->text, len, &parts, scratch, &syntax, err);
	if (code < 0)
		return code;
	if (syntax.userInfo.first != NULL)
		return err_set(err, -EINVAL,
			       "'%.80s' names a user before its host, and users mean nothing here; "
			       "leave out everything up to the @",
			       uri->text);
	if (parts.has_fragment)
		return err_set(err, -EINVAL,
			       "'%.80s' has a part behind #, which means nothing here; write a # "
			       "within a name as %%23",
			       uri->text);
	return uri_fill(uri, arena, &parts, &syntax, err);
}

int uri_parse_bytes(const char *data, size_t len, struct uri **ret_uri, struct err *err)
{
	/* The text, and of it: authority twice, path twice, the rest once; a NUL for each. */
	size_t room = 4 * len + URI_SEGMENTS_MAX + 2 * URI_PARAMS_MAX + 16;
	CLEANUP(uri_freep) struct uri *uri = NULL;
	CLEANUP(freep) char *scratch = NULL;
	struct arena arena;
	int code;

	if (len == 0)
		return err_set(err, -EINVAL, "the URI is empty");
	if (len > URI_LEN_MAX)
		return err_set(err, -EINVAL, "the URI is %zu characters long; %d are allowed", len,
			       URI_LEN_MAX);
	if (memchr(data, '\0', len) != NULL)
		return err_set(err, -EINVAL, "the URI contains a NUL byte");
	uri = calloc(1, sizeof(*uri) + room);
	scratch = malloc(len + 1);
	if (uri == NULL || scratch == NULL)
		return err_set(err, -ENOMEM, "out of memory");
	arena = (struct arena){ uri->bytes, uri->bytes + room };
	uri->text = arena_copy(&arena, (struct span){ data, len }, false);
	code = uri_take_apart(uri, &arena, len, scratch, err);
	if (code == 0)
		*ret_uri = take(uri);
	return code;
}

int uri_parse(const char *text, struct uri **ret_uri, struct err *err)
{
	return uri_parse_bytes(text, strnlen(text, URI_LEN_MAX + 1), ret_uri, err);
}

void uri_free(struct uri *uri)
{
	free(uri);
}

static bool is_asked(const struct uri *uri, const char *key)
{
	for (unsigned i = 0; i < uri->nasked; i++) {
		if (strcmp(uri->asked[i], key) == 0)
			return true;
	}
	return false;
}

/* Notes that the driver knows @key; returns its first occurrence or NULL. */
static struct uri_param *param_ask(struct uri *uri, const char *key)
{
	if (!is_asked(uri, key)) {
		assert(uri->nasked < URI_ASKED_MAX);
		uri->asked[uri->nasked++] = key;
	}
	for (unsigned i = 0; i < uri->nparams; i++) {
		if (strcmp(uri->params[i].key, key) == 0)
			return &uri->params[i];
	}
	return NULL;
}

bool uri_has(struct uri *uri, const char *key)
{
	return param_ask(uri, key) != NULL;
}

/* The parameter to use, *@ret_param NULL when absent. Given twice is an error: no choice between
 * the two would be the one that everybody expects. */
static int param_use(struct uri *uri, const char *key, bool may_be_bare,
		     struct uri_param **ret_param, struct err *err)
{
	struct uri_param *param = param_ask(uri, key);

	*ret_param = param;
	if (param == NULL)
		return 0;
	for (struct uri_param *other = param + 1; other < uri->params + uri->nparams; other++) {
		if (strcmp(other->key, key) == 0)
			return err_set(err, -EINVAL,
				       "parameter '%s' is given more than once; give it once", key);
	}
	if (!may_be_bare && (param->value == NULL || param->value[0] == '\0'))
		return err_set(err, -EINVAL, "parameter '%s' needs a value: %s=...", key, key);
	param->is_used = true;
	return 0;
}

/* Reports what a parser of units.h or uuid.h said about the value of @key. */
static int param_failed(struct err *err, const char *key, const struct err *cause)
{
	return err_set(err, -EINVAL, "parameter '%s': %s", key, cause->msg);
}

int uri_param_u64(struct uri *uri, const char *key, uint64_t min, uint64_t max, uint64_t *value,
		  struct err *err)
{
	struct err cause = {};
	struct uri_param *param;
	uint64_t number = 0;
	int code = param_use(uri, key, false, &param, err);

	if (code < 0 || param == NULL)
		return code;
	if (number_parse(param->value, &number, &cause) < 0 && cause.code != -ERANGE)
		return param_failed(err, key, &cause);
	if (cause.code == 0 && number < min && max == UINT64_MAX)
		return err_set(err, -EINVAL, "parameter '%s' is %.32s; it must be at least %llu",
			       key, param->value, (unsigned long long)min);
	if (cause.code == -ERANGE || number < min || number > max)
		return err_set(err, -EINVAL,
			       "parameter '%s' is %.32s; it must be between %llu and %llu", key,
			       param->value, (unsigned long long)min, (unsigned long long)max);
	*value = number;
	return 0;
}

int uri_param_u32(struct uri *uri, const char *key, uint32_t min, uint32_t max, uint32_t *value,
		  struct err *err)
{
	uint64_t wide = *value;
	int code = uri_param_u64(uri, key, min, max, &wide, err);

	if (code == 0)
		*value = (uint32_t)wide;
	return code;
}

int uri_param_bool(struct uri *uri, const char *key, bool *value, struct err *err)
{
	struct err cause = {};
	struct uri_param *param;
	int code = param_use(uri, key, true, &param, err);

	if (code < 0 || param == NULL)
		return code;
	if (param->value == NULL)
		*value = true;
	else if (bool_parse(param->value, value, &cause) < 0)
		return param_failed(err, key, &cause);
	return 0;
}

int uri_param_uuid(struct uri *uri, const char *key, struct uuid *value, struct err *err)
{
	struct err cause = {};
	struct uri_param *param;
	int code = param_use(uri, key, false, &param, err);

	if (code < 0 || param == NULL)
		return code;
	return uuid_from_text(param->value, value, &cause) < 0 ? param_failed(err, key, &cause) : 0;
}

int uri_param_size(struct uri *uri, const char *key, uint64_t *bytes, struct err *err)
{
	struct err cause = {};
	struct uri_param *param;
	int code = param_use(uri, key, false, &param, err);

	if (code < 0 || param == NULL)
		return code;
	return size_parse(param->value, bytes, &cause) < 0 ? param_failed(err, key, &cause) : 0;
}

int uri_param_duration(struct uri *uri, const char *key, uint64_t *ns, struct err *err)
{
	struct err cause = {};
	struct uri_param *param;
	int code = param_use(uri, key, false, &param, err);

	if (code < 0 || param == NULL)
		return code;
	return duration_parse(param->value, ns, &cause) < 0 ? param_failed(err, key, &cause) : 0;
}

int uri_param_str(struct uri *uri, const char *key, const char **value, struct err *err)
{
	struct uri_param *param;
	int code = param_use(uri, key, false, &param, err);

	if (code == 0 && param != NULL)
		*value = param->value;
	return code;
}

/* "a, b, c", cut short where it does not fit. */
static const char *names_join(const char *const names[], unsigned count, char *text, size_t size)
{
	size_t len = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < count && len < size; i++)
		len += (size_t)snprintf(text + len, size - len, "%s%s", i > 0 ? ", " : "",
					names[i]);
	return text;
}

int uri_param_choice(struct uri *uri, const char *key, const char *const names[], unsigned count,
		     unsigned *index, struct err *err)
{
	char list[ERR_MSG_MAX / 2];
	struct uri_param *param;
	int code = param_use(uri, key, false, &param, err);

	if (code < 0 || param == NULL)
		return code;
	for (unsigned i = 0; i < count; i++) {
		if (strcmp(param->value, names[i]) == 0) {
			*index = i;
			return 0;
		}
	}
	return err_set(err, -EINVAL, "parameter '%s' is '%.64s'; it must be one of: %s", key,
		       param->value, names_join(names, count, list, sizeof(list)));
}

int uri_reject_unused(const struct uri *uri, struct err *err)
{
	char list[ERR_MSG_MAX / 2];

	for (unsigned i = 0; i < uri->nparams; i++) {
		const struct uri_param *param = &uri->params[i];

		if (param->is_used)
			continue;
		if (is_asked(uri, param->key))
			return err_set(
				err, -EINVAL,
				"parameter '%.64s' has no use beside the others; leave it out",
				param->key);
		if (uri->nasked == 0)
			return err_set(err, -EINVAL,
				       "unrecognized parameter '%.64s'; %s takes no parameters",
				       param->key, uri->scheme);
		return err_set(err, -EINVAL, "unrecognized parameter '%.64s'; %s takes: %s",
			       param->key, uri->scheme,
			       names_join(uri->asked, uri->nasked, list, sizeof(list)));
	}
	return 0;
}

char *uri_encode(const char *text)
{
	size_t len = strlen(text);
	char *encoded;

	if (len > SIZE_MAX / 3 - 1)
		return NULL;
	encoded = malloc(3 * len + 1);
	if (encoded != NULL)
		(void)uriEscapeExA(text, text + len, encoded, URI_FALSE, URI_FALSE);
	return encoded;
}

char *uri_encode_segment(const char *text)
{
	char *encoded = malloc(3 * strlen(text) + 1), *to = encoded;

	if (encoded == NULL)
		return NULL;
	for (const char *at = text; *at != '\0'; at++) {
		bool is_plain = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') ||
				(*at >= '0' && *at <= '9') || strchr("-._~:@+,=", *at) != NULL;

		if (is_plain) {
			*to++ = *at;
		} else {
			*to++ = '%';
			*to++ = "0123456789ABCDEF"[(unsigned char)*at >> 4];
			*to++ = "0123456789ABCDEF"[*at & 0xf];
		}
	}
	*to = '\0';
	return encoded;
}
