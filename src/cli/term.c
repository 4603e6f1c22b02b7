/* SPDX-License-Identifier: Apache-2.0 */
/*
 * term.c - bars and tables.
 *
 * A bar is one line on standard error, so that standard output can be piped while it runs. It is
 * written over itself with a carriage return and wiped with spaces before anything else is printed:
 * no cursor movement, no terminal library, nothing to restore when the program is killed. It is
 * redrawn at most ten times a second by the caller's clock, because a terminal over a slow link
 * costs more than an I/O. Its width follows the terminal's at each drawing.
 *
 * A table keeps its cells as text and finds the widths when printed. That is quadratic in nothing
 * and small in everything: tables here have a few dozen rows.
 *
 * States of a bar: hidden (not a terminal, or not wanted) for ever; else wiped or drawn.
 *
 * Thread: one at a time, the command's task; writing to a terminal may block for a moment, which
 * the primary reactor then does too. Only a person who watches pays for that.
 */
#include "cli/term.h"

#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>

enum {
	BAR_CELLS = 24,
	LINE_MAX = 256,
	REDRAW_NS = 100 * 1000 * 1000,
	WIDTH_DEFAULT = 80, /* columns when the terminal does not tell */
};

bool term_has_colours(FILE *out)
{
	const char *term = getenv("TERM"), *no_colour = getenv("NO_COLOR");

	if (no_colour != NULL && no_colour[0] != '\0')
		return false;
	return isatty(fileno(out)) && (term == NULL || strcmp(term, "dumb") != 0);
}

static unsigned term_width(void)
{
	struct winsize size = {};

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
		return WIDTH_DEFAULT;
	return size.ws_col;
}

void progress_init(struct progress *p, bool is_wanted)
{
	*p = (struct progress){ .is_shown = is_wanted && isatty(STDERR_FILENO) };
}

void progress_wipe(struct progress *p)
{
	if (!p->is_drawn)
		return;
	fprintf(stderr, "\r%*s\r", (int)MIN(term_width(), (unsigned)LINE_MAX) - 1, "");
	fflush(stderr);
	p->is_drawn = false;
}

void progress_show(struct progress *p, uint64_t now_ns, uint64_t done, uint64_t total,
		   const char *fmt, ...)
{
	char bar[BAR_CELLS + 1], line[LINE_MAX], text[LINE_MAX - BAR_CELLS - 10];
	unsigned filled, width;
	va_list args;

	if (!p->is_shown || (p->is_drawn && now_ns - p->drawn_ns < REDRAW_NS))
		return;
	va_start(args, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (total != 0) {
		double share = MIN((double)done / (double)total, 1.0);

		filled = (unsigned)(share * BAR_CELLS);
		memset(bar, '#', filled);
		memset(bar + filled, '.', BAR_CELLS - filled);
		bar[BAR_CELLS] = '\0';
		(void)snprintf(line, sizeof(line), "[%s] %3u%%  %s", bar, (unsigned)(share * 100),
			       text);
	} else {
		(void)snprintf(line, sizeof(line), "%s", text);
	}
	width = MIN(term_width(), (unsigned)LINE_MAX) - 1;
	fprintf(stderr, "\r%-*.*s", (int)width, (int)width, line);
	fflush(stderr);
	p->is_drawn = true;
	p->drawn_ns = now_ns;
}

void table_init(struct table *t, const char *const *titles, unsigned right_mask)
{
	unsigned row;

	*t = (struct table){ .right_mask = right_mask };
	while (t->ncolumns < TABLE_COLUMNS_MAX && titles[t->ncolumns] != NULL)
		t->ncolumns++;
	row = table_row(t);
	for (unsigned i = 0; i < t->ncolumns; i++)
		table_set(t, row, i, "%s", titles[i]);
}

unsigned table_row(struct table *t)
{
	size_t ncells = (size_t)(t->nrows + 1) * t->ncolumns;
	char(*cells)[TABLE_CELL_MAX] = realloc(t->cells, ncells * sizeof(*cells));

	if (cells == NULL)
		return UINT32_MAX;
	t->cells = cells;
	memset(cells + (size_t)t->nrows * t->ncolumns, 0, t->ncolumns * sizeof(*cells));
	return t->nrows++;
}

void table_set(struct table *t, unsigned row, unsigned column, const char *fmt, ...)
{
	va_list args;

	if (row >= t->nrows || column >= t->ncolumns)
		return;
	va_start(args, fmt);
	(void)vsnprintf(t->cells[(size_t)row * t->ncolumns + column], TABLE_CELL_MAX, fmt, args);
	va_end(args);
}

void table_print(const struct table *t, FILE *out)
{
	int width[TABLE_COLUMNS_MAX] = {};
	bool is_bold = term_has_colours(out);

	for (unsigned i = 0; i < t->nrows * t->ncolumns; i++)
		width[i % t->ncolumns] = MAX(width[i % t->ncolumns], (int)strlen(t->cells[i]));
	for (unsigned row = 0; row < t->nrows; row++) {
		fputs(row == 0 && is_bold ? TERM_BOLD : "", out);
		for (unsigned column = 0; column < t->ncolumns; column++) {
			const char *cell = t->cells[(size_t)row * t->ncolumns + column];
			bool is_last = column + 1 == t->ncolumns;

			if (t->right_mask >> column & 1)
				fprintf(out, "%*s%s", width[column], cell, is_last ? "" : "  ");
			else
				fprintf(out, "%-*s%s", is_last ? 0 : width[column], cell,
					is_last ? "" : "  ");
		}
		fprintf(out, "%s\n", row == 0 && is_bold ? TERM_PLAIN : "");
	}
}

void table_done(struct table *t)
{
	free(t->cells);
	*t = (struct table){};
}
