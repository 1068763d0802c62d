/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What no probe on these hooks can do without: being called at all, and taking the timestamps of a latency. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__u64 sink;

#define HOOK(name)                                                                                                     \
	SEC("tp_btf/" #name)                                                                                           \
	int empty_##name(void *ctx)                                                                                    \
	{                                                                                                              \
		return 0;                                                                                              \
	}                                                                                                              \
	SEC("tp_btf/" #name)                                                                                           \
	int stamp_##name(void *ctx)                                                                                    \
	{                                                                                                              \
		sink = bpf_ktime_get_ns();                                                                             \
		return 0;                                                                                              \
	}

HOOK(sys_enter)
HOOK(sys_exit)
HOOK(sched_switch)
HOOK(sched_wakeup)
HOOK(sched_wakeup_new)
HOOK(block_io_start)
HOOK(block_rq_insert)
HOOK(block_rq_issue)
HOOK(block_rq_complete)
HOOK(inet_sock_set_state)
HOOK(tcp_probe)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
