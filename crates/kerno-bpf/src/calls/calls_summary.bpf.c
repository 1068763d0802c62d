/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The summaries of the signals that follow system calls, with one program a hook for both: each further program on a hook costs 70 to
 * 100 ns an event. Loaded when both are asked for; one alone has its own object.
 *
 * hooks   tp_btf/sys_exit, for both; tp_btf/sys_enter; sched_process_exit, for both; sched_process_exec
 */
#define SIGNALS 2
#include "signal.h"

#define SIGNAL 0
#include "../signals/syscall_latency/syscall_latency_summary.bpf.c"
#undef SIGNAL

#define SIGNAL 1
#include "../signals/file_audit/file_audit_summary.bpf.c"
#undef SIGNAL

SEC("tp_btf/sys_enter")
int BPF_PROG(on_sys_enter, struct pt_regs *regs, long id)
{
	syscall_latency_sys_enter(regs, id);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_sys_exit, struct pt_regs *regs, long ret)
{
	/* First: the call's time ends here. */
	syscall_latency_sys_exit(regs, ret);
	file_audit_sys_exit(regs, ret);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_sched_process_exit, struct task_struct *task)
{
	syscall_latency_sched_process_exit(task);
	file_audit_sched_process_exit(task);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_sched_process_exec, struct task_struct *task, int old_pid)
{
	syscall_latency_sched_process_exec(task, old_pid);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
