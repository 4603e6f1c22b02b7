/* SPDX-License-Identifier: Apache-2.0 */
/*
 * export_control.c - lines in, answers out, over a unix socket to a running export. What the lines
 * may say is in export_command.c.
 *
 * Each line is answered by one line that begins with "ok" or "error", in order. The socket is made
 * for its owner only (mode 0600): who may open it may do all of that. A file that is left over from
 * a process that was killed is replaced; one on which somebody still listens is not.
 *
 * A thread of its own waits for clients, and each of them, up to CONTROL_CLIENTS_MAX, has one that
 * reads lines and carries them into the engine with engine_call(), so that commands are tasks like
 * any other control work. They cost nothing while nobody connects or speaks. A command may have to
 * wait for a device that does not answer, for ever if it must (a host is disconnected whose writes
 * a nexus without a child holds): its client waits with it, and the others go on, for one of them
 * may have what ends the wait. Commands of one client are in order; those of several are ordered by
 * what they change. A client that sends garbage, too long a line, or does not read its answers
 * loses its connection, nothing else.
 *
 * To stop, a byte in a pipe wakes the thread; it lets nobody in any more, hangs up on the clients,
 * and joins their threads when the commands that run have ended. Who stops it does not wait
 * blindly, but lets go what those commands may be waiting for (control_end() in export.c).
 *
 *   client place: FREE --accept: thread--> USED --its thread is at its end--> OVER --joined--> FREE
 *
 * Rejected: reading the socket on the primary reactor: commands are rare, and a state machine per
 * client is more to get wrong than a thread. One thread for all clients: whoever asked for what
 * never ended took the socket from those who could end it, and kept the process from stopping.
 * HTTP or JSON requests: nothing here has structure, and a shell with a socket tool is enough.
 *
 * Thread: control_run() is the thread; struct control is its own once it runs, but for the pipe,
 *         is_ending and is_over. A client's line is its thread's; its place and its socket are
 *         control_run()'s.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "cli/export.h"

enum {
	SEND_TIMEOUT_S = 5, /* for a client that does not read */
	BACKLOG = 64,
	ACCEPT_AGAIN_MS = 100, /* after the kernel had no file descriptor for a client */
};

enum client_state { CLIENT_FREE, CLIENT_USED, CLIENT_OVER };

/* What is written into the pipe. */
enum { WAKE_STOP = 's', WAKE_REAP = 'r' };

struct client {
	struct control *c;
	_Atomic enum client_state state;
	pthread_t thread;
	int fd; /* -1: the place is free */
	size_t used;
	char line[CONTROL_LINE_MAX];
};

struct control {
	struct export *e;
	pthread_t thread;
	int listener, wake[2];
	bool is_started;       /* there is a thread */
	atomic_bool is_ending; /* no command begins any more */
	atomic_bool is_over;   /* nor does one run */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	struct client clients[CONTROL_CLIENTS_MAX];
};

/* ---- lines ----------------------------------------------------------------------------------- */

static bool send_all(int fd, const char *text)
{
	size_t len = strlen(text);

	while (len > 0) {
		ssize_t sent = send(fd, text, len, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent <= 0)
			return false;
		text += sent;
		len -= (size_t)sent;
	}
	return true;
}

/* False: the client is gone. */
static bool answer(struct control *c, int fd, char *line)
{
	CLEANUP(freep) char *reply = request_answer(c->e, line, fd);

	return reply != NULL && send_all(fd, reply);
}

/* ---- clients: each in its thread ------------------------------------------------------------- */

static void control_wake(struct control *c, char why)
{
	while (write(c->wake[1], &why, 1) < 0 && errno == EINTR)
		;
}

/* Answer the whole lines that are there, which may be hundreds. False: the client is gone, or has
 * to go. */
static bool client_lines(struct client *client)
{
	char *feed, *from = client->line;

	while ((feed = memchr(from, '\n', client->used)) != NULL) {
		*feed = '\0';
		client->used -= (size_t)(feed + 1 - from);
		if (atomic_load(&client->c->is_ending) || !answer(client->c, client->fd, from))
			return false;
		from = feed + 1;
	}
	memmove(client->line, from, client->used);
	if (client->used < sizeof(client->line))
		return true;
	(void)send_all(client->fd, "error the line is too long\n");
	return false;
}

static void *client_run(void *arg)
{
	struct client *client = arg;
	ssize_t got;

	do {
		got = recv(client->fd, client->line + client->used,
			   sizeof(client->line) - client->used, 0);
		client->used += (size_t)MAX(got, 0);
	} while ((got < 0 && errno == EINTR) || (got > 0 && client_lines(client)));
	(void)shutdown(client->fd, SHUT_RDWR); /* it is closed when the place is free again */
	atomic_store(&client->state, CLIENT_OVER);
	control_wake(client->c, WAKE_REAP);
	return NULL;
}

/* ---- the thread that lets them in ------------------------------------------------------------ */

static void client_join(struct client *client)
{
	(void)pthread_join(client->thread, NULL);
	closep(&client->fd);
	client->used = 0;
	atomic_store(&client->state, CLIENT_FREE);
}

static void control_reap(struct control *c)
{
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		if (atomic_load(&c->clients[i].state) == CLIENT_OVER)
			client_join(&c->clients[i]);
	}
}

static struct client *client_place(struct control *c)
{
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		if (atomic_load(&c->clients[i].state) == CLIENT_FREE)
			return &c->clients[i];
	}
	return NULL;
}

/* False: not now, and the next call would say the same. */
static bool control_accept(struct control *c)
{
	struct timeval limit = { .tv_sec = SEND_TIMEOUT_S };
	struct client *client = client_place(c);
	int fd = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0) /* a client that went away meanwhile is no reason to wait */
		return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (client == NULL) {
		(void)send_all(fd, "error too many clients\n");
		close(fd);
		return true;
	}
	client->fd = fd;
	atomic_store(&client->state, CLIENT_USED);
	if (pthread_create(&client->thread, NULL, client_run, client) == 0)
		return true;
	(void)send_all(fd, "error no thread for a client\n");
	closep(&client->fd);
	atomic_store(&client->state, CLIENT_FREE);
	return true;
}

/* What the pipe says. False: stop. */
static bool control_woken(struct control *c)
{
	char why = WAKE_STOP;

	if (read(c->wake[0], &why, 1) < 0 && errno == EINTR)
		return true;
	control_reap(c);
	return why != WAKE_STOP;
}

static void *control_run(void *arg)
{
	struct control *c = arg;
	bool can_accept = true;

	for (;;) {
		struct pollfd fds[] = { { .fd = c->wake[0], .events = POLLIN },
					{ .fd = c->listener, .events = POLLIN } };

		if (poll(fds, can_accept ? 2 : 1, can_accept ? -1 : ACCEPT_AGAIN_MS) < 0 &&
		    errno != EINTR)
			break;
		if (fds[0].revents != 0 && !control_woken(c))
			break;
		can_accept = fds[1].revents == 0 || control_accept(c);
	}
	atomic_store(&c->is_ending, true);
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		if (c->clients[i].fd >= 0)
			(void)shutdown(c->clients[i].fd, SHUT_RD);
	}
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		if (atomic_load(&c->clients[i].state) != CLIENT_FREE)
			client_join(&c->clients[i]);
	}
	atomic_store(&c->is_over, true);
	return NULL;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void control_free(struct control *c)
{
	closep(&c->listener);
	closep(&c->wake[0]);
	closep(&c->wake[1]);
	free(c);
}

/* Does somebody listen there? If not, what is left over is removed. */
static bool is_taken(const struct sockaddr_un *addr)
{
	CLEANUP(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct stat st;

	if (lstat(addr->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
		return false; /* bind() tells what stands in the way */
	if (fd < 0 || connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 ||
	    errno != ECONNREFUSED)
		return true; /* or cannot be asked: then it is left alone */
	(void)unlink(addr->sun_path);
	return false;
}

static int control_bind(struct control *c, const char *path, struct err *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	mode_t mask;
	int rc;

	if (strlen(path) >= sizeof(addr.sun_path))
		return err_set(err, -ENAMETOOLONG,
			       "--control %s: longer than the %zu bytes a socket's name may have",
			       path, sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	memcpy(c->path, path, strlen(path) + 1);
	if (is_taken(&addr))
		return err_set(err, -EADDRINUSE,
			       "--control %s: another process listens there; choose another name",
			       path);
	c->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->listener < 0)
		return err_set_sys(err, -errno, "--control %s", path);
	mask = umask(0177);
	rc = bind(c->listener, (const struct sockaddr *)&addr, sizeof(addr)) == 0 ? 0 : -errno;
	(void)umask(mask);
	if (rc == 0 && listen(c->listener, BACKLOG) != 0)
		rc = -errno;
	if (rc == 0)
		return 0;
	(void)err_set_sys(err, rc, "--control %s", path);
	if (rc == -EADDRINUSE)
		(void)err_hint(err, "what is there is no socket, and is left alone");
	if (rc == -ENOENT)
		(void)err_hint(err, "the folder has to exist");
	return rc;
}

int control_open(struct export *e, const char *path, struct err *err)
{
	struct control *c = calloc(1, sizeof(*c));
	int rc;

	if (c == NULL)
		return err_set(err, -ENOMEM, "no memory for the control socket");
	c->e = e;
	c->listener = c->wake[0] = c->wake[1] = -1;
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		c->clients[i].c = c;
		c->clients[i].fd = -1;
	}
	rc = control_bind(c, path, err);
	if (rc == 0 && pipe2(c->wake, O_CLOEXEC) != 0)
		rc = err_set_sys(err, -errno, "no pipe for the control socket");
	if (rc != 0) {
		control_free(c);
		return rc;
	}
	e->control = c;
	return 0;
}

int control_start(struct export *e, struct err *err)
{
	struct control *c = e->control;
	int rc = -pthread_create(&c->thread, NULL, control_run, c);

	if (rc != 0)
		return err_set_sys(err, rc, "no thread for the control socket");
	c->is_started = true;
	return 0;
}

void control_hang_up(struct export *e)
{
	if (e->control != NULL)
		control_wake(e->control, WAKE_STOP);
}

bool control_is_over(const struct export *e)
{
	return e->control == NULL || !e->control->is_started || atomic_load(&e->control->is_over);
}

void control_stop(struct export *e)
{
	struct control *c = take(e->control);

	if (c == NULL)
		return;
	if (c->is_started)
		(void)pthread_join(c->thread, NULL);
	(void)unlink(c->path);
	control_free(c);
}
