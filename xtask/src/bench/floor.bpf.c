/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What no probe on these hooks can do without: being called at all, and taking the timestamps of a latency. */
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

#define STAMP(hook)                                                                                                    \
	SEC("tp_btf/" #hook)                                                                                           \
	int stamp_##hook(void *ctx)                                                                                    \
	{                                                                                                              \
		sink = bpf_ktime_get_ns();                                                                             \
		return 0;                                                                                              \
	}

STAMP(sys_enter)
STAMP(sys_exit)
STAMP(sched_switch)
STAMP(sched_wakeup)
STAMP(sched_wakeup_new)
STAMP(block_rq_insert)
STAMP(block_rq_issue)
STAMP(block_rq_complete)
STAMP(inet_sock_set_state)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
