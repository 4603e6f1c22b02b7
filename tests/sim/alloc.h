/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alloc.h - who allocated what and has not freed it; and the n-th allocation that fails.
 *
 * Thread: one.
 * Rules:  sees what the engine and the simulator allocate by name (the linker's --wrap), not what
 *         libraries do inside.
 */
#ifndef SIM_ALLOC_H
#define SIM_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Count from here: everything alive now is forgotten. */
void alloc_mark(void);
/* Blocks allocated since the mark and alive. */
size_t alloc_live(void);
/* The same without the simulator's own. */
size_t alloc_live_engine(void);
/* Print at most @max of them: size and the caller's address, for addr2line. */
void alloc_print(unsigned max);
uint64_t alloc_count(void);
/* How many blocks that the engine freed were written to afterwards; printed. Lets them go. */
size_t alloc_check_freed(void);

/* The @nth allocation from now on for which @applies() is true fails, once; 0: none. */
void alloc_fail_at(unsigned nth, bool (*applies)(void));
bool alloc_has_failed(void);

#endif
