/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where in the kernel a thread sleeps: its stack, kept once each and named by a hash. */
#ifndef KERNO_PLACE_H
#define KERNO_PLACE_H

#include "kernel.h"
#include "counters.h"

#define MAX_PLACES 4096
#define MAX_FRAMES 28

struct place {
	__u64 frames[MAX_FRAMES]; /* innermost first; 0 after the last */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PLACES);
	__type(key, __u64);
	__type(value, struct place);
} places SEC(".maps");

/* 0 when the stack cannot be had. */
static __always_inline __u64 place_of(struct place *place, void *ctx, const struct task_struct *task, bool current)
{
	__u64 hash = 0xcbf29ce484222325ull;

	__builtin_memset(place, 0, sizeof(*place));
	if ((current ? bpf_get_stack(ctx, place->frames, sizeof(place->frames), 0)
		     : bpf_get_task_stack((struct task_struct *)task, place->frames, sizeof(place->frames), 0)) <= 0)
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_FRAMES; i++)
		hash = (hash ^ place->frames[i]) * 0x100000001b3ull;
	hash |= 1;
	if (!bpf_map_lookup_elem(&places, &hash) && bpf_map_update_elem(&places, &hash, place, BPF_NOEXIST) == -7 /* E2BIG */)
		count_overflow();
	return hash;
}

#endif
