/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What no probe on these hooks can do without: being called at all, and taking the two timestamps of a latency. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__u64 sink;

SEC("tp_btf/sys_enter")
int empty_enter(void *ctx)
{
	return 0;
}

SEC("tp_btf/sys_exit")
int empty_exit(void *ctx)
{
	return 0;
}

SEC("tp_btf/sys_enter")
int stamp_enter(void *ctx)
{
	sink = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/sys_exit")
int stamp_exit(void *ctx)
{
	sink = bpf_ktime_get_ns();
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
