/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whose code this is. An object has the programs of one signal, or those of several that share hooks (src/calls). What the
 * shared headers declare is there once for each of them, at its number: filters, counters, the window's begin. Such an object defines
 * SIGNALS, their number, and before each one's sources SIGNAL, its number.
 *
 * Large maps of signals that can share an object have one element here and get their size from the loader, so that those of a signal
 * that is not asked for take no memory.
 */
#ifndef KERNO_SIGNAL_H
#define KERNO_SIGNAL_H

#ifndef SIGNALS
#define SIGNALS 1
#define SIGNAL 0
#endif

/*
 * The rare path of a handler that needs much of the stack. Where several signals are in a program it is a function, so that what one
 * needs is not taken from the others: kernels give 512 bytes to all functions on the way to a call.
 */
#if SIGNALS == 1
#define RARE_PATH static __always_inline
#else
#define RARE_PATH static __noinline
#endif

/* NAME_0, NAME_1, ... */
#define OF_SIGNAL(name) OF_NUMBER(name, SIGNAL)
#define OF_NUMBER(name, number) WITH_NUMBER(name, number)
#define WITH_NUMBER(name, number) name##_##number

#endif
