/* SPDX-License-Identifier: Apache-2.0 */
/*
 * driver.c - a nexus as the device layer knows it: the scheme nexus:///, and the driver's table.
 *
 * A URI says what struct nexus_opts says. Where the two differ:
 *
 *   children=  URIs between commas; a comma within one is encoded once more
 *   uuid=      not given: derived from machine and name, so that hosts, and the notes on the
 *              children, know the volume the next time. The key of its record is the name then.
 *   resv_...=  any of them turns reservations on; else the environment may, with the defaults
 *   ..._warn=0 never
 *
 * A URI stands in a file, and who resized the volume did not change it there: a size below that of
 * the record is refused (is_size_kept), where others are only warned.
 *
 * Thread: tasks on the primary; I/O and channels see io.c, channel.c.
 */
#include <string.h>

#include "base/identity.h"
#include "nexus/internal.h"

/* URIs between commas; a comma inside one is encoded once more. Freed by the caller. */
static unsigned split_children(char *text, const char *ret[NEXUS_CHILDREN_MAX + 1])
{
	unsigned n = 0;
	char *at = text, *next;

	while (at != NULL && n <= NEXUS_CHILDREN_MAX) {
		next = strchr(at, ',');
		if (next != NULL)
			*next++ = '\0';
		ret[n++] = at;
		at = next;
	}
	return n;
}

struct create_args {
	struct nexus_opts opts;
	char *text; /* owned */
	const char *children[NEXUS_CHILDREN_MAX + 1];
};

/* Any of them asks for reservations; so does the environment, with the defaults. */
static int resv_of_uri(struct uri *uri, struct nexus_opts *opts, struct err *err)
{
	static const char *const policies[] = { "argkey", "holder" };
	unsigned policy = 0;
	uint64_t type = NEXUS_RESV_TYPE;
	bool is_asked = uri_has(uri, "resv_key") || uri_has(uri, "resv_type") ||
			uri_has(uri, "preempt_key") || uri_has(uri, "preempt");
	int result;

	opts->resv_key = NEXUS_RESV_KEY;
	result = uri_param_u64(uri, "resv_key", 1, UINT64_MAX, &opts->resv_key, err);
	if (result == 0)
		result = uri_param_u64(uri, "preempt_key", 1, UINT64_MAX, &opts->preempt_key, err);
	if (result == 0)
		result = uri_param_u64(uri, "resv_type", 1, 6, &type, err);
	if (result == 0)
		result = uri_param_choice(uri, "preempt", policies, ARRAY_LEN(policies), &policy,
					  err);
	opts->is_reserving = is_asked;
	opts->resv_type = (uint8_t)type;
	opts->preempt_policy = policy == 1 ? NEXUS_PREEMPT_HOLDER : NEXUS_PREEMPT_ARG_KEY;
	return result;
}

/* Zero turns it off. */
static int warn_param(struct uri *uri, const char *key, uint64_t *ns, struct err *err)
{
	int result = uri_param_duration(uri, key, ns, err);

	if (result == 0 && uri_has(uri, key) && *ns == 0)
		*ns = UINT64_MAX;
	return result;
}

static int warnings_of_uri(struct uri *uri, struct nexus_opts *opts, struct err *err)
{
	int result = warn_param(uri, "stall_warn", &opts->stall_ns, err);

	if (result == 0)
		result = warn_param(uri, "slow_warn", &opts->slow_ns, err);
	if (result == 0)
		result = warn_param(uri, "smart_every", &opts->smart_ns, err);
	return result;
}

/* No uuid given: the same each time, as hosts, and the notes on the children, know it by it. */
static void uuid_of_name(void *arg)
{
	struct nexus_opts *opts = arg;
	char machine[IDENTITY_WHAT_MAX], name[DEVICE_NAME_MAX + 8];

	identity_machine(machine, sizeof(machine));
	(void)snprintf(name, sizeof(name), "nexus:%s", opts->name);
	identity_derive(machine, name, &opts->uuid);
}

static int args_of_uri(struct uri *uri, struct create_args *args, struct err *err)
{
	static const char *const labels[] = { "v1", "v2" }, *const picks[] = { "load",
									       "round-robin" };
	const char *children = NULL;
	unsigned label = 0, pick = 0;
	int result;

	args->opts.name = uri_name(uri);
	if (uri->authority[0] != '\0')
		return err_set(err, -EINVAL, "nexus://%s: three slashes are meant", uri->authority);
	result = uri_param_size(uri, "size", &args->opts.size, err);
	if (result == 0)
		result = uri_param_str(uri, "children", &children, err);
	if (result == 0)
		result = driver_param_uuid(uri, &args->opts.uuid, err);
	if (result == 0)
		result = uri_param_choice(uri, "label", labels, ARRAY_LEN(labels), &label, err);
	if (result == 0)
		result = uri_param_bool(uri, "required_size", &args->opts.is_size_required, err);
	if (result == 0)
		result = uri_param_choice(uri, "read", picks, ARRAY_LEN(picks), &pick, err);
	if (result == 0)
		result = uri_param_str(uri, "key", &args->opts.info_key, err);
	if (result == 0)
		result = uri_param_duration(uri, "child_timeout", &args->opts.child_timeout_ns,
					    err);
	if (result == 0)
		result = warnings_of_uri(uri, &args->opts, err);
	if (result == 0)
		result = resv_of_uri(uri, &args->opts, err);
	if (result == 0)
		result = uri_reject_unused(uri, err);
	if (result < 0)
		return result;
	if (children == NULL)
		return err_set(err, -EINVAL, "a nexus wants children=URI,URI");
	if (uuid_is_zero(&args->opts.uuid)) {
		if (args->opts.info_key == NULL)
			args->opts.info_key = args->opts.name;
		task_blocking(uuid_of_name, &args->opts);
	}
	args->text = strdup(children);
	if (args->text == NULL)
		return err_set(err, -ENOMEM, "no memory for a nexus");
	args->opts.label = label == 0 ? NEXUS_LABEL_V1 : NEXUS_LABEL_V2;
	args->opts.is_round_robin = pick == 1;
	args->opts.is_size_kept = true;
	args->opts.children = args->children;
	args->opts.nchildren = split_children(args->text, args->children);
	return 0;
}

static int nexus_create_uri(struct uri *uri, struct device **ret_dev, struct err *err)
{
	struct create_args args = {};
	struct nexus_err ne = {};
	struct nexus *nx;
	int result = args_of_uri(uri, &args, err);

	if (result == 0) {
		result = nexus_create(&args.opts, &nx, &ne);
		if (result < 0)
			(void)err_set(err, result, "%s", err_text(&ne.err));
		else
			*ret_dev = &nx->dev;
	}
	free(args.text);
	return result;
}

const struct driver driver_nexus = {
	.name = "nexus",
	.product = NEXUS_PRODUCT,
	.schemes = (const char *const[]){ "nexus", NULL },
	.help = "nexus:///NAME?size=BYTES&children=URI,URI[&uuid=UUID][&label=v1|v2]"
		"[&required_size][&read=load|round-robin][&key=KEY][&child_timeout=TIME]"
		"[&stall_warn=TIME][&slow_warn=TIME][&smart_every=TIME]"
		"[&resv_key=N][&resv_type=N][&preempt=argkey|holder][&preempt_key=N]",
	.channel_size = sizeof(struct nexus_channel),
	.create = nexus_create_uri,
	.destroy = nexus_free_device,
	.channel_open = nexus_channel_open,
	.channel_close = nexus_channel_close,
	.submit = nexus_submit,
	.resized = nexus_resized,
};
