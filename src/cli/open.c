/* SPDX-License-Identifier: Apache-2.0 */
/*
 * open.c - the three layers for one URI in one step: device, descriptor, a handle per reactor.
 *
 * Every command starts with this and ends with its reverse, so the order of the steps and what is
 * said when one fails are written once. Writers claim the device: a benchmark that writes and a
 * copy's destination want to be the only ones, and the driver's lock on the file keeps other
 * processes away for the same reason. A message names its URI once, whoever wrote it: with several
 * devices on a command line nobody should have to guess.
 *
 * Handles are made on every reactor at once: a command that runs on several cores submits on each,
 * and one that does not has a single reactor. Rejected: making them on first use, which would put
 * an error of the control path into the middle of a measurement.
 *
 * The first step alone is for a command that takes several URIs of one device: a URI may be a
 * further path to one that is there, and it is for the command to see that.
 *
 * States: zeroed -> device made -> opened -> handles; opened_close() takes any of them.
 *
 * Thread: a task on the primary reactor.
 */
#include "cli/open.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "cli/cli.h"
#include "cli/store.h"
#include "device/fault.h"

enum { URI_SHOWN_MIN = 200 }; /* bytes that tell one URI from another */

int opened_explain(const char *uri, int rc, struct err *err)
{
	const char *text = err_text(err);
	bool is_named = strstr(text, uri) != NULL || /* or as much of it as found room */
			strncmp(text, uri, MIN(strlen(uri), (size_t)URI_SHOWN_MIN)) == 0;

	if (!is_named)
		(void)err_prefix(err, "%s", uri);
	if (rc == -EROFS)
		(void)err_hint(err, "writing needs the permission (ls -l), a file system mounted "
				    "rw, a disk that is not set ro");
	if (rc == -EMFILE)
		(void)err_hint(err, "raise the limit of open files (ulimit -n, LimitNOFILE= in the "
				    "unit)");
	return rc;
}

static int opened_handles(struct opened *o, struct err *err)
{
	for (unsigned i = 0; i < reactor_count(); i++) {
		int rc = handle_open(o->desc, reactor_get(i), &o->handle[i], err);

		if (rc != 0)
			return rc;
	}
	return 0;
}

int opened_make(struct opened *o, const char *uri, struct err *err)
{
	int rc;

	*o = (struct opened){ .uri = uri };
	rc = cli_store_for(uri, err);
	if (rc == 0)
		rc = device_create(uri, &o->dev, err);
	if (rc == 0)
		return 0;
	o->dev = NULL;
	return opened_explain(uri, rc, err);
}

int opened_start(struct opened *o, unsigned flags, struct err *err)
{
	struct desc_opts opts = { .flags = flags, .claim = "ashlar" };
	const char *uri = o->uri;
	int rc = desc_open(o->dev, &opts, &o->desc, err);

	if (rc == 0)
		rc = opened_handles(o, err);
	if (rc == 0)
		return 0;
	opened_close(o);
	return opened_explain(uri, rc, err);
}

int opened_open(struct opened *o, const char *uri, unsigned flags, struct err *err)
{
	int rc = opened_make(o, uri, err);

	return rc == 0 ? opened_start(o, flags, err) : rc;
}

void opened_close(struct opened *o)
{
	struct err err = {};

	desc_close(o->desc);
	if (o->dev != NULL && device_destroy(o->uri, &err) != 0)
		log_warn("device not closed uri=%s: %s, continuing", o->uri, err_text(&err));
	*o = (struct opened){};
}

/* A device may appear later, in the control socket of export; mostly it is a slip of the name. */
static void fault_check_device(const char *uri)
{
	struct fault_spec spec;

	if (fault_parse(uri, &spec, NULL) == 0 && spec.domain != FAULT_CHILD &&
	    device_lookup(spec.device) == NULL)
		cli_warn("--inject %s: there is no device '%s' yet, so nothing will fail; a file's "
			 "device is named by its path: inject:///PATH?...",
			 uri, spec.device);
}

int faults_arm(const struct opt_list *uris, struct err *err)
{
	for (unsigned i = 0; i < uris->count; i++) {
		int rc = fault_add(uris->items[i], err);

		if (rc != 0) {
			if (strstr(err_text(err), uris->items[i]) == NULL)
				(void)err_prefix(err, "--inject %s", uris->items[i]);
			return rc;
		}
		fault_check_device(uris->items[i]);
	}
	return 0;
}
