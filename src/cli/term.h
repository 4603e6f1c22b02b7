/* SPDX-License-Identifier: Apache-2.0 */
/*
 * term.h - what a person at a terminal sees: a bar while it runs, a table at the end.
 *
 * Owner:  the caller; nothing is allocated but the cells of a table.
 * Thread: one at a time.
 * Rules:  bars and colours only where the stream is a terminal; elsewhere every call is a no-op
 *         but tables, which are then plain.
 */
#ifndef ASHLAR_CLI_TERM_H
#define ASHLAR_CLI_TERM_H

#include "base/base.h"

#define TERM_RED    "\033[31m"
#define TERM_YELLOW "\033[33m"
#define TERM_BOLD   "\033[1m"
#define TERM_PLAIN  "\033[0m"

/* A terminal that understands colours, and a reader who did not ask for none (NO_COLOR). */
bool term_has_colours(FILE *out);

/* A line on standard error that is written again and again. */
struct progress {
	bool is_shown;     /* standard error is a terminal and the caller wants a bar */
	bool is_drawn;     /* something stands there that must be wiped */
	uint64_t drawn_ns; /* clock of the last drawing */
};

void progress_init(struct progress *p, bool is_wanted);
/* @done of @total; @total 0: unknown, no bar. Draws at most ten times a second of @now_ns. */
void progress_show(struct progress *p, uint64_t now_ns, uint64_t done, uint64_t total,
		   const char *fmt, ...) PRINTF(5, 6);
/* Wipe the line, so that other output may follow. */
void progress_wipe(struct progress *p);

enum {
	TABLE_COLUMNS_MAX = 12,
	TABLE_CELL_MAX = 128, /* bytes with the NUL; longer text is cut */
};

struct table {
	unsigned ncolumns;
	unsigned nrows;
	unsigned right_mask;           /* bit i: column i is right-aligned */
	char (*cells)[TABLE_CELL_MAX]; /* row by row, owned */
};

/* Column titles, NULL-terminated, become row 0. */
void table_init(struct table *t, const char *const *titles, unsigned right_mask);
/* Append a row of empty cells and return its number; that of no row when memory is short. */
unsigned table_row(struct table *t);
void table_set(struct table *t, unsigned row, unsigned column, const char *fmt, ...) PRINTF(4, 5);
void table_print(const struct table *t, FILE *out);
void table_done(struct table *t);

#endif
