/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * When the reader's window began. Counts in summaries only grow, and the reader takes differences; what has no difference (a
 * maximum, a first time, kept examples) starts anew with each window, and this tells the kernel side that one began.
 */
#ifndef KERNO_WINDOW_H
#define KERNO_WINDOW_H

#include "kernel.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64); /* CLOCK_MONOTONIC, in nanoseconds */
} window SEC(".maps");

static __always_inline __u64 window_start_ns(void)
{
	__u32 zero = 0;
	__u64 *start = bpf_map_lookup_elem(&window, &zero);

	return start ? *start : 0;
}

#endif
