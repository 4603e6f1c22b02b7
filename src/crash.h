/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crash.h - a last word before the process dies: which signal, where, a backtrace to stderr.
 */
#ifndef ASHLAR_CRASH_H
#define ASHLAR_CRASH_H

/* SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT; each then takes its default course (core dump). */
void crash_handler_install(void);

#endif
