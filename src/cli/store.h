/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.h - where commands that make a nexus keep its record.
 */
#ifndef ASHLAR_CLI_STORE_H
#define ASHLAR_CLI_STORE_H

/* "memory", a folder, NULL: the default. Borrowed. Before the engine starts. */
void cli_store_choose(const char *choice);

#endif
