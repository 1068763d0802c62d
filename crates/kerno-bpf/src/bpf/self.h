/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Our own process, which summaries leave out; 0 to include it. Events have it among their filters (filter.h). */
#ifndef KERNO_SELF_H
#define KERNO_SELF_H

#include "kernel.h"

const volatile __u32 cfg_self_tgid = 0;

#endif
