/* SPDX-License-Identifier: Apache-2.0 */
/*
 * outside.c - a program that knows nothing of this project but the installed library: writes a
 * block to a memory device, reads it back, compares. tests/install/run compiles it as strict C11.
 */
#include <ashlar/ashlar.h>

#include <stdio.h>
#include <string.h>

int main(void)
{
	static const char text[] = "dressed stone";
	char why[ASHLAR_ERROR_MAX] = "";
	struct ashlar_volume *volume = NULL;
	char *out, *in;
	size_t block;
	int rc = ashlar_start(NULL, why, sizeof(why));

	if (rc == 0)
		rc = ashlar_open("malloc:///outside?size_mb=4", ASHLAR_WRITE, &volume, why,
				 sizeof(why));
	if (rc != 0) {
		fprintf(stderr, "%s (%s)\n", why, ashlar_strerror(rc));
		return 1;
	}
	block = ashlar_block_size(volume);
	out = ashlar_buf_alloc(block);
	in = ashlar_buf_alloc(block);
	if (out == NULL || in == NULL)
		return 1;
	memcpy(out, text, sizeof(text));
	rc = ashlar_pwrite(volume, out, block, 3 * block, 0);
	if (rc == 0)
		rc = ashlar_pread(volume, in, block, 3 * block);
	if (rc != 0) {
		fprintf(stderr, "%s\n", ashlar_strerror(rc));
		return 1;
	}
	printf("libashlar %s: what was written and what was read are %s\n", ashlar_version(),
	       memcmp(in, out, block) == 0 ? "the same" : "different");
	ashlar_buf_free(in, block);
	ashlar_buf_free(out, block);
	ashlar_close(volume);
	ashlar_stop();
	return 0;
}
