/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The grammar of fault injections, given any bytes: what it accepts must be able to happen.
 */
#include <errno.h>
#include <string.h>

#include "device/fault.h"
#include "fuzz.h"

/* What fault.h promises of a spec. */
static void check_spec(const struct fault_spec *spec)
{
	bool acts = false;

	MUST(spec->device[0] != '\0');
	MUST(memchr(spec->device, '\0', sizeof(spec->device)) != NULL);
	MUST(spec->domain < FAULT_DOMAIN_COUNT_ && spec->method < FAULT_METHOD_COUNT_);
	MUST(spec->ops != 0 && spec->ops < 1u << IO_OP_COUNT_);
	MUST(spec->stages != 0 && (spec->stages & ~(FAULT_SUBMIT | FAULT_COMPLETION)) == 0);
	if (spec->stages & FAULT_SUBMIT)
		acts = spec->ops & fault_method_ops(spec->method, FAULT_SUBMIT);
	if (spec->stages & FAULT_COMPLETION)
		acts |= (spec->ops & fault_method_ops(spec->method, FAULT_COMPLETION)) != 0;
	MUST(acts);
	MUST(spec->status != IO_OK);
	MUST(spec->begin_ms <= spec->end_ms);
	MUST(spec->lba <= spec->end_lba);
	MUST(spec->delay_min_us <= spec->delay_max_us && spec->delay_max_us <= FAULT_DELAY_MAX_US);
	MUST(spec->bits >= 1 && spec->bits <= FAULT_BITS_MAX);
	MUST(spec->probability >= 0.0 && spec->probability <= 1.0);
}

static void check_text(const char *text)
{
	struct fault_spec spec, again;
	struct err err = {};
	int result;

	memset(&spec, 0xa5, sizeof(spec));
	memset(&again, 0xa5, sizeof(again));
	result = fault_parse(text, &spec, &err);
	MUST(result == fault_parse(text, &again, NULL));
	MUST(memcmp(&spec, &again, sizeof(spec)) == 0);
	if (result == 0) {
		MUST(err.code == 0 && err.msg[0] == '\0');
		check_spec(&spec);
		return;
	}
	MUST(result == -EINVAL || result == -ENOMEM);
	MUST(err.code == result && err.msg[0] != '\0');
	MUST(memchr(err.msg, '\0', sizeof(err.msg)) != NULL);
	for (size_t i = 0; i < sizeof(spec); i++)
		MUST(((const uint8_t *)&spec)[i] == 0xa5); /* untouched */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char start[] = "inject://";
	char *text = malloc(sizeof(start) + size);

	if (text == NULL)
		return 0;
	memcpy(text, start, sizeof(start) - 1);
	memcpy(text + sizeof(start) - 1, data, size);
	text[sizeof(start) - 1 + size] = '\0';
	check_text(text);                     /* behind the scheme */
	check_text(text + sizeof(start) - 1); /* as it is */
	free(text);
	return 0;
}
