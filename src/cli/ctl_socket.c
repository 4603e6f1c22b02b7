/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ctl_socket.c - the connection of `ashlar ctl`: a line to the export, a line back.
 *
 * The control socket takes lines and answers lines (export_control.c), so any tool for unix sockets
 * would do; this one says which process is missing when nobody listens, and tells an answer of
 * another program from one of an export.
 *
 * No engine is started: this is a socket and two lines. A command may take as long as the work it
 * asks for, so there is no time limit; Ctrl-C ends the waiting, not the work.
 *
 * Thread: the main thread; every call blocks.
 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/ctl.h"

static int ctl_connect(const char *path, int *ret_fd, struct err *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	CLEANUP(closep) int fd = -1;
	int rc;

	if (strlen(path) >= sizeof(addr.sun_path))
		return err_set(err, -ENAMETOOLONG,
			       "%s: longer than the %zu bytes a socket's name may have", path,
			       sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0) {
		*ret_fd = fd;
		fd = -1;
		return 0;
	}
	rc = err_set_sys(err, -errno, "%s", path);
	if (rc == -ENOENT || rc == -ECONNREFUSED)
		(void)err_hint(err, "is `ashlar export --control %s` running?", path);
	return rc;
}

static int send_line(int fd, const char *line, struct err *err)
{
	size_t left = strlen(line);

	while (left > 0) {
		ssize_t sent = send(fd, line, left, MSG_NOSIGNAL);

		if (sent < 0 && errno != EINTR)
			return err_set_sys(err, -errno, "the command was not taken");
		line += MAX(sent, 0);
		left -= (size_t)MAX(sent, 0);
	}
	return 0;
}

int ctl_open(struct ctl *ctl, struct err *err)
{
	int rc = ctl_connect(ctl->path, &ctl->fd, err), copy;

	if (rc != 0)
		return rc;
	copy = dup(ctl->fd);
	ctl->in = copy >= 0 ? fdopen(copy, "r") : NULL;
	if (ctl->in != NULL)
		return 0;
	rc = err_set_sys(err, -errno, "the answer cannot be read");
	closep(&copy);
	return rc;
}

void ctl_close(struct ctl *ctl)
{
	fclosep(&ctl->in);
	closep(&ctl->fd);
}

static int ctl_answer(struct ctl *ctl, const char *line, char **ret_answer, struct err *err)
{
	CLEANUP(freep) char *answer = NULL;
	size_t size = 0;
	ssize_t len;
	struct err sent = {};
	int rc = send_line(ctl->fd, line, &sent);

	if (rc != 0 && rc != -EPIPE) /* then there may be an answer that says why */
		return err_set(err, rc, "%s", err_text(&sent));
	len = getline(&answer, &size, ctl->in);
	if (len <= 0 || answer[len - 1] != '\n')
		return err_set(err, -EPIPE,
			       "the export ended, or closed the socket, without an answer");
	answer[len - 1] = '\0';
	if (strncmp(answer, "error ", 6) == 0)
		return err_set(err, -EPROTO, "%s", answer + 6);
	if (strncmp(answer, "ok", 2) != 0)
		return err_set(err, -EPROTO,
			       "%s: what listens there is no export: it answered '%s'", ctl->path,
			       answer);
	len = answer[2] == ' ' ? 3 : 2;
	memmove(answer, answer + len, strlen(answer + len) + 1);
	*ret_answer = take(answer);
	return 0;
}

static int ctl_vask(struct ctl *ctl, char **ret_answer, struct err *err, const char *fmt,
		    va_list args)
{
	CLEANUP(freep) char *line = NULL, *words = NULL;

	if (vasprintf(&words, fmt, args) < 0) {
		words = NULL;
		return err_set(err, -ENOMEM, "no memory for a command");
	}
	if (asprintf(&line, "%s\n", words) < 0) {
		line = NULL;
		return err_set(err, -ENOMEM, "no memory for a command");
	}
	return ctl_answer(ctl, line, ret_answer, err);
}

int ctl_ask(struct ctl *ctl, char **ret_answer, struct err *err, const char *fmt, ...)
{
	va_list args;
	int rc;

	va_start(args, fmt);
	rc = ctl_vask(ctl, ret_answer, err, fmt, args);
	va_end(args);
	return rc;
}

int ctl_ask_json(struct ctl *ctl, json_t **ret_answer, struct err *err, const char *fmt, ...)
{
	CLEANUP(freep) char *text = NULL;
	json_t *answer;
	va_list args;
	int rc;

	va_start(args, fmt);
	rc = ctl_vask(ctl, &text, err, fmt, args);
	va_end(args);
	if (rc != 0)
		return rc;
	answer = json_loads(text, 0, NULL);
	if (answer == NULL)
		return err_set(err, -EPROTO, "%s: an answer that is no JSON: %s", ctl->path, text);
	*ret_answer = answer;
	return 0;
}
