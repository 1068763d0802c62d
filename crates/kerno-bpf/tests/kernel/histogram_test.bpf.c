/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kernel side's bucket arithmetic by itself, for the test that holds it against the Rust side's: a run takes a value. */
#include "histogram.h"

#define MAX_VALUES (1 << 21)

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_VALUES);
	__type(key, __u32);
	__type(value, __u64);
} values SEC(".maps");

/* Where each value's bucket is written. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_VALUES);
	__type(key, __u32);
	__type(value, __u64);
} buckets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} next SEC(".maps");

SEC("socket")
int on_run(void *ctx)
{
	__u32 zero = 0, at;
	__u32 *position = bpf_map_lookup_elem(&next, &zero);
	__u64 *value, *bucket;

	if (!position)
		return 0;
	at = (*position)++;
	value = bpf_map_lookup_elem(&values, &at);
	bucket = bpf_map_lookup_elem(&buckets, &at);
	if (value && bucket)
		*bucket = histogram_bucket(*value);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
