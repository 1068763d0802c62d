/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What every record shares. The Rust mirrors are each signal's event.rs; a test compares them through BTF. */
#ifndef KERNO_EVENT_H
#define KERNO_EVENT_H

#include "signal.h"

#define TASK_COMM_LEN 16
#define MAX_FILENAME_LEN 256

#define NSEC_PER_USEC 1000ull

/*
 * Keeps a record's type in the object's BTF, where the layout test finds it: a ring map takes no value type and locals
 * leave no trace. One null pointer in .rodata.
 */
#define KEEP_LAYOUT(type) const volatile type *const volatile OF_SIGNAL(layout_of_event) SEC(".rodata") = NULL

/* A record is a multiple of 8 bytes, so the ring's own rounding adds nothing and no padding is implicit. */
#define ASSERT_RECORD(type, bytes)                                                                                     \
	_Static_assert(sizeof(type) == (bytes), #type " changed size");                                                \
	_Static_assert(sizeof(type) % 8 == 0, #type " is not a multiple of 8 bytes")

#endif
