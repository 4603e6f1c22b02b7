/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oracle_stacks.c - the stacks that oracle.c plays on, the places they stand on, the report.
 *
 * With --uri there is one stack, the device that it names: somebody else made it, over a network
 * maybe, and nothing is taken for granted about what it holds.
 *
 * A place is prepared when the first stack asks for it and cleared away at the end. What cannot be
 * had here (loop and zram want root) is skipped with its reason, each stack counted.
 *
 * At the end stands the coverage: how often each operation met each stack. An operation that a
 * device offers and that never met it is a failure: a game that was too short proves nothing.
 */
#include "oracle.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "base/units.h"
#include "device/driver.h"
#include "device/emulate.h"
#include "engine.h"
#include "target/target.h"

#define OVER(base) base, "passthru:///top?base=%s"

/* clang-format off */
static const struct stack stacks[] = {
	{ "null", { "null:///top?size_mb=4" }, .has_no_data = true },
	{ "malloc 512", { "malloc:///top?size_mb=4" }, .knows_holes = true },
	{ "malloc 4096", { "malloc:///top?size_mb=4&blk_size=4096" }, .knows_holes = true },
	{ "malloc over a segment's end", { "malloc:///top?size_mb=258" },
	  .first = 254 * 2048, .knows_holes = true },
	{ "malloc with a capacity", { "malloc:///top?size_mb=4&capacity_mb=4" },
	  .knows_holes = true },
	{ "bdev of malloc", { "malloc:///m?size_mb=4", "bdev:///m" }, .knows_holes = true },
	{ "passthru over malloc 512", { "malloc:///m?size_mb=4", "passthru:///top?base=m" },
	  .knows_holes = true },
	{ "passthru over malloc 4096", { "malloc:///m?size_mb=4&blk_size=4096",
	  "passthru:///top?base=m" }, .knows_holes = true },
	{ "passthru over null", { "null:///n?size_mb=4", "passthru:///top?base=n" },
	  .has_no_data = true },
	{ "passthru over bdev of malloc", { "malloc:///m?size_mb=4", "bdev:///m",
	  "passthru:///top?base=bdev%%3A%%2F%%2F%%2Fm" }, .knows_holes = true },
	{ "passthru over passthru", { "malloc:///m?size_mb=4", "passthru:///p?base=m",
	  "passthru:///top?base=p" }, .knows_holes = true },
	{ "nexus over two malloc", { "nexus:///top?size=4M&label=v2&children="
	  "malloc:///a?size_mb=16,malloc:///b?size_mb=16" }, .knows_holes = true },
	{ "nexus over three malloc 4096", { "nexus:///top?size=4M&children="
	  "malloc:///a?size_mb=16%%26blk_size=4096,malloc:///b?size_mb=16%%26blk_size=4096,"
	  "malloc:///c?size_mb=16%%26blk_size=4096" }, .knows_holes = true },
	{ "nexus over null and null", { "nexus:///top?size=4M&label=v2&children="
	  "null:///a?size_mb=16,null:///b?size_mb=16" }, .has_no_data = true },
	{ "aio 512 on disk", { "aio://%s" }, "disk" },
	{ "aio 4096 on disk", { "aio://%s?blk_size=4096" }, "disk" },
	{ "uring 512 on disk", { "uring://%s" }, "disk" },
	{ "uring 4096 on disk", { "uring://%s?blk_size=4096" }, "disk" },
	{ "bdev of uring on disk", { "uring://%s", "bdev://%s" }, "disk" },
	{ "passthru over aio on disk", { OVER("aio://%s") }, "disk" },
	{ "passthru over uring on disk", { OVER("uring://%s?blk_size=4096") }, "disk" },
	{ "aio 512 on tmpfs", { "aio://%s" }, "tmpfs" },
	{ "aio 4096 on tmpfs", { "aio://%s?blk_size=4096" }, "tmpfs" },
	{ "uring 512 on tmpfs", { "uring://%s" }, "tmpfs" },
	{ "passthru over aio on tmpfs", { OVER("aio://%s") }, "tmpfs" },
	{ "passthru over uring on tmpfs", { OVER("uring://%s") }, "tmpfs" },
	{ "nvmf over malloc 512", { "malloc:///m?size_mb=4", "nvmf://%s" }, .is_remote = true,
	  .knows_holes = true },
	{ "nvmf over malloc 4096", { "malloc:///m?size_mb=4&blk_size=4096",
	  "nvmf+tcp://%s?queue_depth=4" }, .is_remote = true, .knows_holes = true },
	{ "nvmf with digests", { "malloc:///m?size_mb=4", "nvmf+tcp://%s?hdgst&ddgst" },
	  .is_remote = true, .knows_holes = true },
	{ "passthru over nvmf", { "malloc:///m?size_mb=4", "passthru:///top?base=nvmf://%s" },
	  .is_remote = true, .knows_holes = true },
	{ "aio on a loop device", { "aio://%s" }, "loop", .is_vague = true },
	{ "uring on a loop device", { "uring://%s" }, "loop", .is_vague = true },
	{ "passthru over aio on a loop device", { OVER("aio://%s") }, "loop", .is_vague = true },
	{ "aio on zram", { "aio://%s" }, "zram", .is_vague = true },
	{ "uring on zram", { "uring://%s" }, "zram", .is_vague = true },
	{ "the device of --uri", { "%s" }, "given", .is_vague = true },
};
/* clang-format on */

enum { STACKS = ARRAY_LEN(stacks), GIVEN = STACKS - 1, IMAGE_SIZE = 4 << 20 };

static char dir_disk[128], dir_tmpfs[128], dev_loop[64], dev_zram[64];
static const char *given; /* --uri */
static char why_not[160]; /* the place that was asked for last cannot be had */

/* ---- places ------------------------------------------------------------------------------- */

static PRINTF(2, 3) bool shell(char ret_line[64], const char *fmt, ...)
{
	char command[512], line[64] = "";
	va_list args;
	FILE *pipe;

	va_start(args, fmt);
	(void)vsnprintf(command, sizeof(command), fmt, args);
	va_end(args);
	pipe = popen(command, "re");
	if (pipe == NULL)
		return false;
	if (fgets(line, sizeof(line), pipe) != NULL)
		line[strcspn(line, "\n")] = '\0';
	if (ret_line != NULL)
		memcpy(ret_line, line, sizeof(line));
	return pclose(pipe) == 0;
}

static bool make_image(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	bool is_made = fd >= 0 && ftruncate(fd, IMAGE_SIZE) == 0;

	if (fd >= 0)
		(void)close(fd);
	if (!is_made)
		(void)snprintf(why_not, sizeof(why_not), "cannot make %s", path);
	return is_made;
}

static bool make_dir(char dir[128], const char *parent)
{
	if (dir[0] != '\0')
		return true;
	(void)snprintf(dir, 128, "%s/ashlar-oracle-XXXXXX", parent);
	if (mkdtemp(dir) != NULL)
		return true;
	dir[0] = '\0';
	(void)snprintf(why_not, sizeof(why_not), "cannot make a directory in %s", parent);
	return false;
}

static bool place_disk(char path[256])
{
	const char *tmp = getenv("TMPDIR");

	if (!make_dir(dir_disk, tmp != NULL ? tmp : "/var/tmp"))
		return false;
	(void)snprintf(path, 256, "%s/image", dir_disk);
	return make_image(path);
}

static bool place_tmpfs(char path[256])
{
	struct statfs fs;

	if (statfs("/dev/shm", &fs) < 0 || (uint64_t)fs.f_type != TMPFS_MAGIC) {
		(void)snprintf(why_not, sizeof(why_not), "/dev/shm is no tmpfs");
		return false;
	}
	if (!make_dir(dir_tmpfs, "/dev/shm"))
		return false;
	(void)snprintf(path, 256, "%s/image", dir_tmpfs);
	return make_image(path);
}

static bool place_loop(char path[256])
{
	char image[256];

	if (dev_loop[0] == '\0') {
		if (geteuid() != 0 || !place_disk(image)) {
			(void)snprintf(why_not, sizeof(why_not), "a loop device wants root");
			return false;
		}
		(void)snprintf(image, sizeof(image), "%s/loop", dir_disk);
		if (!make_image(image) ||
		    !shell(dev_loop, "losetup --find --show '%s' 2>/dev/null", image)) {
			(void)snprintf(why_not, sizeof(why_not), "losetup cannot make a device");
			dev_loop[0] = '\0';
			return false;
		}
	}
	(void)snprintf(path, 256, "%s", dev_loop);
	return true;
}

static bool place_zram(char path[256])
{
	char id[64];

	if (dev_zram[0] == '\0') {
		if (geteuid() != 0 || access("/sys/class/zram-control/hot_add", R_OK) < 0 ||
		    !shell(id, "cat /sys/class/zram-control/hot_add")) {
			(void)snprintf(why_not, sizeof(why_not), "zram wants root and its module");
			return false;
		}
		(void)snprintf(dev_zram, sizeof(dev_zram), "/dev/zram%.20s", id);
		if (!shell(NULL, "echo %d > /sys/block/%s/disksize", IMAGE_SIZE, dev_zram + 5))
			(void)snprintf(why_not, sizeof(why_not), "%s takes no size", dev_zram);
	}
	(void)snprintf(path, 256, "%s", dev_zram);
	return access(dev_zram, R_OK | W_OK) == 0;
}

static bool place_given(char path[256])
{
	(void)snprintf(path, 256, "%s", given);
	return true;
}

static bool place(const char *name, char path[256])
{
	static const struct {
		const char *name;
		bool (*prepare)(char path[256]);
	} places[] = {
		{ "disk", place_disk }, { "tmpfs", place_tmpfs }, { "loop", place_loop },
		{ "zram", place_zram }, { "given", place_given },
	};

	path[0] = '\0';
	for (size_t i = 0; i < ARRAY_LEN(places) && name != NULL; i++) {
		if (strcmp(places[i].name, name) == 0)
			return places[i].prepare(path);
	}
	return true;
}

static void clear_places(void)
{
	if (dev_loop[0] != '\0')
		(void)shell(NULL, "losetup -d %s", dev_loop);
	if (dev_zram[0] != '\0')
		(void)shell(NULL,
			    "echo 1 > /sys/block/%s/reset && "
			    "echo %s > /sys/class/zram-control/hot_remove",
			    dev_zram + 5, dev_zram + strlen("/dev/zram"));
	if (dir_disk[0] != '\0')
		(void)shell(NULL, "rm -r '%s'", dir_disk);
	if (dir_tmpfs[0] != '\0')
		(void)shell(NULL, "rm -r '%s'", dir_tmpfs);
}

/* ---- one stack ---------------------------------------------------------------------------- */

struct game {
	const struct stack *stack;
	struct play play;
	char path[256];
	uint32_t ops; /* what the device on top offers */
	uint64_t played[IO_OP_COUNT_];
	bool is_run;
};

#define REMOTE_NQN "nqn.2019-05.io.openebs:oracle"

/* Serve @dev to ourselves; where to find it goes into game->path. */
static int serve(struct game *game, struct device *dev, struct target **ret_target, struct err *err)
{
	struct subsystem_opts subsystem_opts = { .nqn = REMOTE_NQN };
	struct subsystem *subsystem;
	struct target_opts opts;
	int result;

	target_opts_init(&opts);
	result = target_start(&opts, ret_target, err);
	if (result < 0)
		return result;
	result = subsystem_add(*ret_target, &subsystem_opts, &subsystem, err);
	if (result == 0)
		result = subsystem_add_ns(subsystem, dev, 1, NULL, err);
	if (result == 0)
		result = target_listen(*ret_target, "127.0.0.1", 0, err);
	if (result == 0)
		(void)snprintf(game->path, sizeof(game->path), "127.0.0.1:%u/" REMOTE_NQN,
			       target_listener_port(*ret_target, 0));
	return result;
}

static int game_task(void *arg, struct err *err)
{
	struct game *game = arg;
	struct target *target = NULL;
	struct device *dev = NULL;
	char uri[512] = "";
	int result = 0;

	for (unsigned i = 0; i < ARRAY_LEN(game->stack->uris) && result == 0; i++) {
		if (game->stack->uris[i] == NULL)
			break;
		(void)snprintf(uri, sizeof(uri), game->stack->uris[i], game->path);
		result = device_create(uri, &dev, err);
		if (result == 0 && i == 0 && game->stack->is_remote)
			result = serve(game, dev, &target, err);
	}
	if (result == 0) {
		game->ops = (dev->ops | emulated_ops(dev)) &
			    ~(IO_BIT(IO_NVME_ADMIN) | IO_BIT(IO_NVME_IO));
		if (game->stack->has_no_data)
			game->ops &= ~(IO_BIT(IO_COMPARE) | IO_BIT(IO_COMPARE_WRITE));
		result = oracle_play(game->stack, dev, &game->play, err);
	}
	if (game->stack->is_remote && device_lookup(uri) != NULL)
		result = MIN(result, device_destroy(uri, err)); /* before its target */
	target_stop(target);
	device_remove_all();
	return result;
}

static bool play(struct game *game, unsigned number)
{
	struct engine_opts opts = {};
	struct err err = {};
	int result;

	if (!place(game->stack->place, game->path)) {
		printf("ok %u - %s # SKIP %s\n", number, game->stack->name, why_not);
		return true;
	}
	/* Two reactors where there are two cores. */
	opts.reactor.core_mask = sysconf(_SC_NPROCESSORS_ONLN) >= 2 ? 0x3 : 0;
	game->play.ret_played = game->played;
	game->is_run = true;
	result = engine_run(&opts, game_task, game, &err);
	printf("%s %u - %s\n", result == 0 ? "ok" : "not ok", number, game->stack->name);
	if (result != 0)
		printf("# %s\n# replay: oracle --seed %" PRIu64 " '%s'\n", err_text(&err),
		       game->play.seed, game->stack->name);
	return result == 0;
}

/* ---- report ------------------------------------------------------------------------------- */

static bool report_coverage(const struct game *games, unsigned number)
{
	static const char *const heads[] = { "read", "write", "flush", "unmap", "zero",
					     "comp", "caw",   "reset", "data?", "hole?" };
	bool is_covered = true;

	printf("# %-36s", "operations played");
	for (size_t op = 0; op < ARRAY_LEN(heads); op++)
		printf("%7s", heads[op]);
	printf("\n");
	for (unsigned i = 0; i < STACKS; i++) {
		if (!games[i].is_run)
			continue;
		printf("# %-36s", games[i].stack->name);
		for (size_t op = 0; op < ARRAY_LEN(heads); op++) {
			bool is_missing = games[i].ops >> op & 1 && games[i].played[op] == 0;

			printf("%6" PRIu64 "%s", games[i].played[op], is_missing ? "!" : " ");
			is_covered = is_covered && !is_missing;
		}
		printf("\n");
	}
	printf("%s %u - every operation met every stack that offers it\n",
	       is_covered ? "ok" : "not ok", number);
	return is_covered;
}

static bool is_selected(const struct stack *stack, int argc, char **argv)
{
	bool is_any = false;

	if (given != NULL || stack == &stacks[GIVEN])
		return given != NULL && stack == &stacks[GIVEN];
	for (int i = 1; i < argc; i++) {
		if (strncmp(argv[i], "--", 2) == 0) {
			i++;
			continue;
		}
		is_any = true;
		if (strstr(stack->name, argv[i]) != NULL)
			return true;
	}
	return !is_any;
}

int main(int argc, char **argv)
{
	static struct game games[STACKS];
	uint64_t seed = 0, scale = 100;
	unsigned number = 0, failed = 0;

	if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		return 1;
	seed >>= 16;
	for (int i = 1; i + 1 < argc; i++) {
		if (strcmp(argv[i], "--seed") == 0 && number_parse(argv[i + 1], &seed, NULL) < 0)
			return 2;
		if (strcmp(argv[i], "--scale") == 0 && number_parse(argv[i + 1], &scale, NULL) < 0)
			return 2;
		if (strcmp(argv[i], "--uri") == 0)
			given = argv[i + 1];
	}
	if (given != NULL && strlen(given) >= sizeof(games->path)) {
		(void)fprintf(stderr, "oracle: the URI is too long\n");
		return 2;
	}
	(void)setvbuf(stdout, NULL, _IOLBF, 0);
	printf("# seed %" PRIu64 "\n", seed);
	for (unsigned i = 0; i < STACKS; i++) {
		games[i].stack = &stacks[i];
		games[i].play.seed = seed;
		games[i].play.requests = (stacks[i].place == NULL && !stacks[i].is_remote ? 40000
											  : 4000) *
					 scale / 100;
		if (is_selected(&stacks[i], argc, argv))
			failed += !play(&games[i], ++number);
	}
	failed += !report_coverage(games, ++number);
	printf("1..%u\n", number);
	clear_places();
	return failed != 0;
}
