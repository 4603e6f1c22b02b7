/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The URI parser and all its getters, given any bytes.
 */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "base/uri.h"
#include "fuzz.h"

static const char *const keys[] = { "a", "size_mb", "blk_size", "uuid", "base", "" };
static const char *const choices[] = { "one", "two", "three" };

static void check_err(int result, const struct err *err)
{
	MUST(result == 0 || result == -EINVAL || result == -ENOMEM);
	MUST((result != 0) == (err->msg[0] != '\0') && err->code == result);
	MUST(memchr(err->msg, '\0', sizeof(err->msg)) != NULL);
}

/* Every string of the answer ends, and every byte of it may be read. */
static size_t touch(const struct uri *uri)
{
	size_t len = strlen(uri->text) + strlen(uri->scheme) + strlen(uri->authority) +
		     strlen(uri->host) + strlen(uri->port) + strlen(uri->path) +
		     strlen(uri_name(uri));

	for (unsigned i = 0; i < uri->nsegments; i++)
		len += strlen(uri->segments[i]);
	for (unsigned i = 0; i < uri->nparams; i++) {
		MUST(uri->params[i].key[0] != '\0');
		len += strlen(uri->params[i].key);
		len += uri->params[i].value != NULL ? strlen(uri->params[i].value) : 0;
	}
	return len;
}

static void check_numbers(struct uri *uri, const char *key)
{
	uint64_t u64 = 77, ns = 77, bytes = 77;
	uint32_t u32 = 77;
	struct err err = {};
	int result = uri_param_u64(uri, key, 5, 1 << 20, &u64, &err);

	check_err(result, &err);
	MUST(u64 == 77 || (result == 0 && u64 >= 5 && u64 <= 1 << 20));
	err_clear(&err);
	result = uri_param_u32(uri, key, 0, UINT32_MAX, &u32, &err);
	check_err(result, &err);
	MUST(result == 0 || u32 == 77);
	err_clear(&err);
	result = uri_param_size(uri, key, &bytes, &err);
	check_err(result, &err);
	MUST(result == 0 || bytes == 77);
	err_clear(&err);
	result = uri_param_duration(uri, key, &ns, &err);
	check_err(result, &err);
	MUST(result == 0 || ns == 77);
}

static void check_texts(struct uri *uri, const char *key)
{
	struct uuid uuid = {};
	const char *text = NULL;
	unsigned index = 99;
	bool flag = false;
	struct err err = {};

	check_err(uri_param_bool(uri, key, &flag, &err), &err);
	err_clear(&err);
	check_err(uri_param_uuid(uri, key, &uuid, &err), &err);
	err_clear(&err);
	check_err(uri_param_choice(uri, key, choices, 3, &index, &err), &err);
	MUST(index == 99 || index < 3);
	err_clear(&err);
	check_err(uri_param_str(uri, key, &text, &err), &err);
	MUST(text == NULL || text[0] != '\0');
	if (text != NULL)
		MUST(uri_has(uri, key));
}

/* Encoded as a parameter of another URI and decoded again it is the same text. */
static void check_nesting(const char *text)
{
	char *encoded = uri_encode(text), *outer;
	struct uri *uri = NULL;
	const char *base = NULL;
	size_t len;

	if (encoded == NULL)
		return;
	len = strlen(encoded);
	for (size_t i = 0; i < len; i++)
		MUST(isalnum((unsigned char)encoded[i]) || strchr("-._~%", encoded[i]) != NULL);
	outer = malloc(len + 32);
	MUST(outer != NULL);
	(void)snprintf(outer, len + 32, "x:///y?base=%s", encoded);
	if (text[0] != '\0' && len + 32 < URI_LEN_MAX) {
		MUST(uri_parse(outer, &uri, NULL) == 0);
		MUST(uri_param_str(uri, "base", &base, NULL) == 0);
		MUST(strcmp(base, text) == 0);
		MUST(uri_reject_unused(uri, NULL) == 0);
	}
	uri_free(uri);
	free(outer);
	free(encoded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct uri *uri = NULL;
	struct err err = {};
	int result = uri_parse_bytes((const char *)data, size, &uri, &err);

	check_err(result, &err);
	MUST((result == 0) == (uri != NULL));
	if (uri == NULL)
		return 0;
	MUST(size <= URI_LEN_MAX && touch(uri) < 8 * (size + 1));
	MUST(strlen(uri->text) == size && memcmp(uri->text, data, size) == 0);
	for (const char *c = uri->scheme; *c != '\0'; c++)
		MUST(!isupper((unsigned char)*c));
	err_clear(&err);
	check_err(uri_reject_unused(uri, &err), &err);
	for (size_t i = 0; keys[i][0] != '\0'; i++) {
		check_numbers(uri, keys[i]);
		check_texts(uri, keys[i]);
	}
	err_clear(&err);
	check_err(uri_reject_unused(uri, &err), &err);
	check_nesting(uri->text);
	uri_free(uri);
	return 0;
}
