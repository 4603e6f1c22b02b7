/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replay.c - runs stored inputs through a fuzzer's function, without libFuzzer or clang.
 *
 *	replay_NAME DIRECTORY|FILE...
 *
 * One TAP point per file. A file that breaks an invariant ends the program; its name was printed
 * before, so the last "# file" says which. Each input is copied to a block of its own size, so that
 * a sanitizer sees one byte too far. A corpus without a file is a failure: somebody lost it.
 */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base.h"
#include "fuzz.h"

enum { INPUT_MAX = 1 << 20 };

static unsigned count;

static void free_names(struct dirent ***names, int n)
{
	for (int i = 0; i < n; i++)
		free((*names)[i]);
	free(*names);
}

static int replay_file(const char *path)
{
	CLEANUP(fclosep) FILE *file = fopen(path, "rb");
	CLEANUP(freep) uint8_t *data = malloc(INPUT_MAX);
	CLEANUP(freep) uint8_t *exact = NULL;
	size_t size;

	if (file == NULL || data == NULL) {
		printf("not ok %u - %s # %s\n", ++count, path, strerror(errno));
		return 1;
	}
	size = fread(data, 1, INPUT_MAX, file);
	exact = malloc(size > 0 ? size : 1);
	if (exact == NULL)
		return 1;
	memcpy(exact, data, size);
	printf("# %s\n", path);
	(void)LLVMFuzzerTestOneInput(exact, size);
	printf("ok %u - %s\n", ++count, strrchr(path, '/') != NULL ? strrchr(path, '/') + 1 : path);
	return 0;
}

static int replay(const char *path)
{
	struct dirent **names = NULL;
	struct stat st;
	int failed = 0;
	int n;

	if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
		return replay_file(path);
	n = scandir(path, &names, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		char name[4096];

		if (names[i]->d_name[0] == '.')
			continue;
		(void)snprintf(name, sizeof(name), "%s/%s", path, names[i]->d_name);
		failed += replay_file(name);
	}
	free_names(&names, MAX(n, 0));
	return failed;
}

int main(int argc, char **argv)
{
	int failed = 0;

	(void)setvbuf(stdout, NULL, _IOLBF, 0); /* a crash must not swallow the name */
	for (int i = 1; i < argc; i++)
		failed += replay(argv[i]);
	if (count == 0)
		printf("not ok 1 - the corpus holds no input\n");
	printf("1..%u\n", count > 0 ? count : 1);
	return failed > 0 || count == 0;
}
