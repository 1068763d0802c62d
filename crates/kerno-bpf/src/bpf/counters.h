/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What did not go as asked, counted so that nothing is lost in silence. One set a signal, both planes. */
#ifndef KERNO_COUNTERS_H
#define KERNO_COUNTERS_H

#include "kernel.h"
#include "signal.h"

/*
 * Whether the kernel skips runs of programs: tasks are preempted in the middle of them, since 7.0 (a46023d5616e). What a signal keeps
 * from one hook to the next can be an earlier thing's then (docs/decisions/preempted-programs.md).
 */
const volatile __u8 cfg_skips_runs = 0;

struct event_counters {
	__u64 emitted; /* attempts */
	__u64 lost; /* of these, no room in the ring */
	__u64 untracked; /* starts that could not be remembered (map full, slot taken): events never made */
	__u64 overflow; /* summaries that found no room in a bounded map: what they would have told apart is missing */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SIGNALS);
	__type(key, __u32);
	__type(value, struct event_counters);
} counters SEC(".maps");

static __always_inline struct event_counters *event_counters(__u32 signal)
{
	return bpf_map_lookup_elem(&counters, &signal);
}

/*
 * Atomic although the map is per CPU: a program can be interrupted by another program of the same object (a softirq in
 * the middle of a system call), and a lost increment would break the accounting.
 */
#define count_untracked() count_untracked_of(SIGNAL)
static __always_inline void count_untracked_of(__u32 signal)
{
	struct event_counters *c = event_counters(signal);

	if (c)
		__sync_fetch_and_add(&c->untracked, 1);
}

#define count_overflow() count_overflow_of(SIGNAL)
static __always_inline void count_overflow_of(__u32 signal)
{
	struct event_counters *c = event_counters(signal);

	if (c)
		__sync_fetch_and_add(&c->overflow, 1);
}

#endif
