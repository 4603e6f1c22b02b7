// SPDX-License-Identifier: Apache-2.0
/*
 * The grammar of injections: inject://DEVICE?params, text to struct fault_spec.
 *
 * The first nine parameters and all their spellings are the original's (docs/COMPATIBILITY.md), so
 * that its tests and its command line keep working; the rest is ours. What a person types here
 * decides what a test proves, so a fault that could never fire is refused, not accepted in silence.
 *
 *   domain     child nexus_child NexusChild | block block_device BlockDevice | bdev_io BdevIo
 *   op         read r Read | write w Write | read_write rw ReadWrite | all | any io_op_name()
 *   stage      submit s submission Submission | compl c completion Completion
 *   method     status data status-nvme-SCT-SC status-lvol-nospace status-submit-read
 *              status-submit-write status-admin | delay torn corrupt drop
 *   begin_at, end_at      milliseconds after the first match, end exclusive
 *   offset, num_blk or num_blocks     blocks
 *   retries    fires so often (the original: once less, which was an accident)
 *   delay_us=N or N-M (delay)    torn_ok (torn)    bits=N (corrupt)    probability=0..1    seed=N
 *
 * What a method changes decides where it acts:
 *
 *   method    submission                              completion
 *   status    any operation fails                     any operation that succeeded fails
 *   delay     any operation                           any operation
 *   data      write, compare, compare_write           read
 *   corrupt   write, compare, compare_write           read
 *   torn      write, write_zeroes, unmap, compare_write    -
 *   drop      the same, flush, reset                  -
 *
 * Without `stage` data and corrupt act on both sides, everything else at submission.
 *
 * Invariant: a spec that came out of fault_parse() has at least one operation and one stage in
 * which its method acts.
 *
 * Thread: no state, any.
 *
 * Rejected: ignoring the method at submission, as the original does (its dispatch error has no
 * counterpart here: a status tells more, and costs the caller the same); a list of operations in
 * one URI (two URIs say it, each with its own counters).
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/units.h"
#include "base/uri.h"
#include "device/fault.h"

enum {
	OPS_READ_DATA = IO_BIT(IO_READ),
	OPS_WRITE_DATA = IO_BIT(IO_WRITE) | IO_BIT(IO_COMPARE) | IO_BIT(IO_COMPARE_WRITE),
	OPS_DROPPABLE = IO_OPS_WRITING | IO_BIT(IO_FLUSH) | IO_BIT(IO_RESET),
	OPS_ALL = (1 << IO_OP_COUNT_) - 1,
};

/* Where each method acts. */
static const struct {
	const char *name;
	uint32_t submit, completion; /* IO_BIT()s */
} methods[] = {
	[FAULT_STATUS] = { "status", OPS_ALL, OPS_ALL },
	[FAULT_DATA] = { "data", OPS_WRITE_DATA, OPS_READ_DATA },
	[FAULT_DELAY] = { "delay", OPS_ALL, OPS_ALL },
	[FAULT_TORN] = { "torn", IO_OPS_WRITING, 0 },
	[FAULT_CORRUPT] = { "corrupt", OPS_WRITE_DATA, OPS_READ_DATA },
	[FAULT_DROP] = { "drop", OPS_DROPPABLE, 0 },
};

static_assert(sizeof(methods) / sizeof(methods[0]) == FAULT_METHOD_COUNT_, "a row for each");

uint32_t fault_method_ops(enum fault_method method, enum fault_stage stage)
{
	return stage == FAULT_SUBMIT ? methods[method].submit : methods[method].completion;
}

/* One spelling and what it means. */
struct word {
	const char *text;
	uint32_t value;
};

static const struct word domains[] = {
	{ "child", FAULT_CHILD },        { "nexus_child", FAULT_CHILD },
	{ "NexusChild", FAULT_CHILD },   { "block", FAULT_BLOCK },
	{ "block_device", FAULT_BLOCK }, { "BlockDevice", FAULT_BLOCK },
	{ "bdev_io", FAULT_BDEV_IO },    { "BdevIo", FAULT_BDEV_IO },
};

static const struct word stages[] = {
	{ "submit", FAULT_SUBMIT },         { "s", FAULT_SUBMIT },
	{ "submission", FAULT_SUBMIT },     { "Submission", FAULT_SUBMIT },
	{ "compl", FAULT_COMPLETION },      { "c", FAULT_COMPLETION },
	{ "completion", FAULT_COMPLETION }, { "Completion", FAULT_COMPLETION },
};

static const struct word ops[] = {
	{ "read", IO_BIT(IO_READ) },
	{ "r", IO_BIT(IO_READ) },
	{ "Read", IO_BIT(IO_READ) },
	{ "write", IO_BIT(IO_WRITE) },
	{ "w", IO_BIT(IO_WRITE) },
	{ "Write", IO_BIT(IO_WRITE) },
	{ "read_write", IO_BIT(IO_READ) | IO_BIT(IO_WRITE) },
	{ "rw", IO_BIT(IO_READ) | IO_BIT(IO_WRITE) },
	{ "ReadWrite", IO_BIT(IO_READ) | IO_BIT(IO_WRITE) },
	{ "write_zeroes", IO_BIT(IO_WRITE_ZEROES) },
	{ "unmap", IO_BIT(IO_UNMAP) },
	{ "flush", IO_BIT(IO_FLUSH) },
	{ "compare", IO_BIT(IO_COMPARE) },
	{ "compare_write", IO_BIT(IO_COMPARE_WRITE) },
	{ "reset", IO_BIT(IO_RESET) },
	{ "seek_data", IO_BIT(IO_SEEK_DATA) },
	{ "seek_hole", IO_BIT(IO_SEEK_HOLE) },
	{ "nvme_admin", IO_BIT(IO_NVME_ADMIN) },
	{ "nvme_io", IO_BIT(IO_NVME_IO) },
	{ "all", OPS_ALL },
};

enum { WORDS_MAX = 32 };

static_assert(sizeof(ops) / sizeof(ops[0]) <= WORDS_MAX, "param_word() copies the names");

/* A parameter that is one of @words; *@value stays when it is absent. */
static int param_word(struct uri *uri, const char *key, const struct word *words, unsigned count,
		      uint32_t *value, struct err *err)
{
	const char *names[WORDS_MAX];
	unsigned index = count;
	int result;

	for (unsigned i = 0; i < count; i++)
		names[i] = words[i].text;
	result = uri_param_choice(uri, key, names, count, &index, err);
	if (result == 0 && index < count)
		*value = words[index].value;
	return result;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* One or two hex digits up to @end. */
static bool hex_parse(const char **text, char end, unsigned *ret_value)
{
	unsigned value = 0, ndigits = 0;

	for (; hex_digit(**text) >= 0 && ndigits < 2; (*text)++, ndigits++)
		value = value << 4 | (unsigned)hex_digit(**text);
	*ret_value = value;
	return ndigits > 0 && **text == end;
}

/* status-nvme-SCT-SC, both hexadecimal. */
static int parse_nvme_method(const char *text, uint16_t *ret_status, struct err *err)
{
	const char *at = text + strlen("status-nvme-");
	unsigned sct = 0, sc = 0;
	bool is_good = hex_parse(&at, '-', &sct);

	if (is_good) {
		at++;
		is_good = hex_parse(&at, '\0', &sc);
	}
	if (!is_good || sct > 7 || (sct == 0 && sc == 0))
		return err_set(err, -EINVAL,
			       "parameter 'method' is '%.64s'; after status-nvme- come status code "
			       "type (0-7) and status code (0-ff), hexadecimal, not both 0, as in "
			       "status-nvme-2-81",
			       text);
	*ret_status = io_status_from_nvme((uint8_t)sct, (uint8_t)sc);
	return 0;
}

static int parse_method(struct uri *uri, struct fault_spec *spec, struct err *err)
{
	static const struct {
		const char *text;
		uint16_t status;
	} fixed[] = {
		{ "status-lvol-nospace", IO_NO_SPACE },
		{ "status-submit-read", IO_FAILED },
		{ "status-submit-write", IO_FAILED },
		{ "status-admin", IO_FAILED },
	};
	const char *text = "status";
	int result = uri_param_str(uri, "method", &text, err);

	if (result < 0)
		return result;
	for (unsigned i = 0; i < ARRAY_LEN(methods); i++) {
		if (strcmp(text, methods[i].name) == 0) {
			spec->method = i;
			return 0;
		}
	}
	for (unsigned i = 0; i < ARRAY_LEN(fixed); i++) {
		if (strcmp(text, fixed[i].text) == 0) {
			spec->status = fixed[i].status;
			return 0;
		}
	}
	if (strncmp(text, "status-nvme-", strlen("status-nvme-")) == 0)
		return parse_nvme_method(text, &spec->status, err);
	return err_set(
		err, -EINVAL,
		"parameter 'method' is '%.64s'; it must be one of: status, data, delay, torn, "
		"corrupt, drop, status-nvme-SCT-SC, status-lvol-nospace, status-submit-read, "
		"status-submit-write, status-admin",
		text);
}

/* N or N-M, microseconds. */
static int parse_delay(struct uri *uri, struct fault_spec *spec, struct err *err)
{
	const char *text = NULL;
	char low[24];
	const char *dash, *high;
	int result = uri_param_str(uri, "delay_us", &text, err);

	if (result < 0)
		return result;
	if (text == NULL)
		return err_set(err, -EINVAL, "method=delay needs delay_us=N or delay_us=N-M");
	dash = strchr(text, '-');
	high = dash != NULL ? dash + 1 : text;
	snprintf(low, sizeof(low), "%.*s", dash != NULL ? (int)MIN(dash - text, (ptrdiff_t)23) : 23,
		 text);
	if (number_parse(low, &spec->delay_min_us, NULL) < 0 ||
	    number_parse(high, &spec->delay_max_us, NULL) < 0 ||
	    spec->delay_min_us > spec->delay_max_us || spec->delay_max_us > FAULT_DELAY_MAX_US)
		return err_set(
			err, -EINVAL,
			"parameter 'delay_us' is '%.64s'; it must be N or N-M with N <= M <= "
			"%u microseconds",
			text, FAULT_DELAY_MAX_US);
	return 0;
}

static int parse_probability(struct uri *uri, struct fault_spec *spec, struct err *err)
{
	const char *text = NULL;
	char *end;
	int result = uri_param_str(uri, "probability", &text, err);

	if (result < 0 || text == NULL)
		return result;
	spec->probability = strtod(text, &end);
	if (strspn(text, "0123456789.eE-") != strlen(text) || *end != '\0' ||
	    !(spec->probability >= 0.0 && spec->probability <= 1.0))
		return err_set(
			err, -EINVAL,
			"parameter 'probability' is '%.64s'; it must be a number from 0 to 1",
			text);
	return 0;
}

static int parse_window(struct uri *uri, struct fault_spec *spec, struct err *err)
{
	uint64_t nlb = UINT64_MAX;
	const char *key = uri_has(uri, "num_blocks") ? "num_blocks" : "num_blk";
	int result = uri_param_u64(uri, "begin_at", 0, UINT64_MAX, &spec->begin_ms, err);

	if (result == 0)
		result = uri_param_u64(uri, "end_at", 0, UINT64_MAX, &spec->end_ms, err);
	if (result == 0)
		result = uri_param_u64(uri, "offset", 0, UINT64_MAX, &spec->lba, err);
	if (result == 0 && uri_has(uri, "num_blk") && uri_has(uri, "num_blocks"))
		result = err_set(err, -EINVAL,
				 "num_blk and num_blocks are two names of one thing; give one");
	if (result == 0)
		result = uri_param_u64(uri, key, 1, UINT64_MAX, &nlb, err);
	if (result == 0)
		result = uri_param_u64(uri, "retries", 0, UINT64_MAX, &spec->retries, err);
	if (result < 0)
		return result;
	if (spec->begin_ms > spec->end_ms)
		return err_set(
			err, -EINVAL,
			"begin_at=%llu is after end_at=%llu; times are milliseconds after the "
			"first matching I/O",
			(unsigned long long)spec->begin_ms, (unsigned long long)spec->end_ms);
	if (!u64_add(spec->lba, nlb, &spec->end_lba))
		spec->end_lba = UINT64_MAX;
	return 0;
}

/* What only some methods take; the others' URIs are refused for it by uri_reject_unused(). */
static int parse_method_params(struct uri *uri, struct fault_spec *spec, struct err *err)
{
	int result = parse_probability(uri, spec, err);

	if (result < 0)
		return result;
	spec->has_seed = uri_has(uri, "seed");
	result = uri_param_u64(uri, "seed", 0, UINT64_MAX, &spec->seed, err);
	if (result < 0)
		return result;
	switch (spec->method) {
	case FAULT_DELAY:
		return parse_delay(uri, spec, err);
	case FAULT_TORN:
		spec->status = IO_WRITE_ERROR;
		return uri_param_bool(uri, "torn_ok", &spec->is_torn_ok, err);
	case FAULT_CORRUPT:
		return uri_param_u32(uri, "bits", 1, FAULT_BITS_MAX, &spec->bits, err);
	default:
		return 0;
	}
}

/* Only what can happen stays; nothing left is an error. */
static int narrow(struct fault_spec *spec, bool has_stage, struct err *err)
{
	uint32_t submit = methods[spec->method].submit;
	uint32_t completion = methods[spec->method].completion;
	bool is_two_sided = spec->method == FAULT_DATA || spec->method == FAULT_CORRUPT;

	if (!has_stage)
		spec->stages = is_two_sided ? FAULT_SUBMIT | FAULT_COMPLETION : FAULT_SUBMIT;
	spec->ops &= (spec->stages & FAULT_SUBMIT ? submit : 0) |
		     (spec->stages & FAULT_COMPLETION ? completion : 0);
	if (spec->ops == 0)
		return err_set(
			err, -EINVAL,
			"method=%s never acts on this op at this stage; read data is changed "
			"at completion, written data at submission, and only writes are torn "
			"or dropped",
			methods[spec->method].name);
	return 0;
}

/* host[:port][/path], decoded; a lone slash is no path. */
static int parse_device(const struct uri *uri, struct fault_spec *spec, struct err *err)
{
	bool is_encoded = strchr(uri->authority, '%') != NULL;
	const char *path = strcmp(uri->path, "/") == 0 ? "" : uri->path;
	int len = snprintf(spec->device, sizeof(spec->device), "%s%s%s%s",
			   is_encoded ? uri->host : uri->authority,
			   is_encoded && uri->port[0] != '\0' ? ":" : "",
			   is_encoded ? uri->port : "", path);

	if (len == 0)
		return err_set(err, -EINVAL, "'%.80s' names no device; write inject://DEVICE?...",
			       uri->text);
	if ((size_t)len >= sizeof(spec->device))
		return err_set(err, -EINVAL, "the device's name has %d characters, at most %zu",
			       len, sizeof(spec->device) - 1);
	return 0;
}

static int parse_params(struct uri *uri, struct fault_spec *spec, struct err *err)
{
	uint32_t domain = FAULT_BLOCK;
	int result = param_word(uri, "domain", domains, ARRAY_LEN(domains), &domain, err);

	spec->domain = domain;
	if (result == 0)
		result = param_word(uri, "op", ops, ARRAY_LEN(ops), &spec->ops, err);
	if (result == 0)
		result = param_word(uri, "stage", stages, ARRAY_LEN(stages), &spec->stages, err);
	if (result == 0)
		result = parse_method(uri, spec, err);
	if (result == 0)
		result = parse_window(uri, spec, err);
	if (result == 0)
		result = parse_method_params(uri, spec, err);
	if (result == 0)
		result = uri_reject_unused(uri, err);
	if (result == 0)
		result = narrow(spec, uri_has(uri, "stage"), err);
	return result;
}

int fault_parse(const char *text, struct fault_spec *ret_spec, struct err *err)
{
	CLEANUP(uri_freep) struct uri *uri = NULL;
	struct fault_spec spec = {
		.ops = IO_BIT(IO_READ) | IO_BIT(IO_WRITE),
		.stages = FAULT_SUBMIT,
		.status = IO_TRANSFER,
		.bits = 1,
		.end_ms = UINT64_MAX,
		.retries = UINT64_MAX,
		.probability = 1.0,
	};
	int result;

	/* before the URI is read, whose errors know devices only; a scheme has no case */
	if (strncasecmp(text, "inject:", strlen("inject:")) != 0)
		return err_set(
			err, -EINVAL,
			"'%.80s' is not an injection; write inject://DEVICE?op=...&method=... "
			"(ashlar-uri(7))",
			text);
	result = uri_parse(text, &uri, err);
	if (result < 0)
		return result;
	result = parse_device(uri, &spec, err);
	if (result == 0)
		result = parse_params(uri, &spec, err);
	if (result < 0)
		(void)err_prefix(err, "%.120s", text);
	if (result < 0)
		return result;
	*ret_spec = spec;
	return 0;
}
