/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * When did this thread's call (or wait) begin? A plain array, so that the JIT inlines the look-up; direct-mapped by
 * thread id, so that its size does not follow pid_max (4 M on most servers). A slot names its thread: where two live
 * threads share a slot the later one takes it, the earlier one's event is never made, and that is counted (untracked).
 */
#ifndef KERNO_START_H
#define KERNO_START_H

#include "counters.h"

#define MAX_START_SLOTS (1 << 18) /* 4 MiB */

struct start_slot {
	__u64 ns; /* 0: nothing running */
	__u32 tid;
	__u32 data; /* the signal's own: system call number, why it waits, ... */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it to MAX_START_SLOTS, or to pid_max where that is smaller */
	__type(key, __u32);
	__type(value, struct start_slot);
} starts SEC(".maps");

const volatile __u32 cfg_start_mask = MAX_START_SLOTS - 1;

static __always_inline struct start_slot *start_slot(__u32 tid)
{
	__u32 index = tid & cfg_start_mask;

	return bpf_map_lookup_elem(&starts, &index);
}

static __always_inline void start_set_at(struct start_slot *slot, __u32 tid, __u32 data, __u64 ns)
{
	if (slot->ns && slot->tid != tid)
		count_untracked();
	slot->tid = tid;
	slot->data = data;
	slot->ns = ns;
}

static __always_inline void start_set(struct start_slot *slot, __u32 tid, __u32 data)
{
	start_set_at(slot, tid, data, bpf_ktime_get_ns());
}

/* For a thread that ends or whose call will never return. */
static __always_inline void start_clear(__u32 tid)
{
	struct start_slot *slot = start_slot(tid);

	if (slot && slot->tid == tid)
		slot->ns = 0;
}

#endif
