/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * When the reader's window began, for each signal. Counts in summaries only grow, and the reader takes differences; what has no difference (a
 * maximum, a first time, kept examples) starts anew with each window, and this tells the kernel side that one began.
 */
#ifndef KERNO_WINDOW_H
#define KERNO_WINDOW_H

#include "kernel.h"
#include "signal.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SIGNALS);
	__type(key, __u32);
	__type(value, __u64); /* CLOCK_MONOTONIC, in nanoseconds */
} window SEC(".maps");

#define window_start_ns() window_start_of(SIGNAL)
static __always_inline __u64 window_start_of(__u32 signal)
{
	__u64 *start = bpf_map_lookup_elem(&window, &signal);

	return start ? *start : 0;
}

#endif
