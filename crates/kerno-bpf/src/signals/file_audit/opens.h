/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which system calls open: shared by the events and the summary. */
#ifndef KERNO_FILE_AUDIT_OPENS_H
#define KERNO_FILE_AUDIT_OPENS_H

#include "syscall.h"

#define CLASS_OPEN 1
#define CLASS_CREAT 2
#define CLASS_OPENAT 3
#define CLASS_OPENAT2 4
#define CLASS_BY_HANDLE 5

/* Low four bits for the native table, high four for the 32-bit one: CLASS_* above, 0 for a call that opens nothing. */
const volatile __u8 cfg_classes[MAX_SYSCALLS] = {};

#endif
