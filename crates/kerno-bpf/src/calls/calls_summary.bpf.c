/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The summaries of the signals that meet on hooks, with one program a hook for all: each further program on a hook costs 70 to
 * 100 ns an event. Loaded when several of them are asked for; one alone has its own object.
 *
 * hooks   tp_btf/sys_exit, for three; tp_btf/sys_enter; sched_process_exit, for all; sched_process_exec, for two; what one
 *         signal alone hooks is in its own source
 */
#define SIGNALS 4
#include "signal.h"

/* The order of the list in summaries.rs. */
#define SYSCALL_LATENCY 0
#define FILE_AUDIT 1
#define PROCESS_LIFE 2
#define DNS_QUERY 3

#include "kernel.h"

/* Which of them were asked for: the verifier removes the others. */
const volatile __u8 cfg_signals[SIGNALS] = {};

#define SIGNAL 0
#include "../signals/syscall_latency/syscall_latency_summary.bpf.c"
#undef SIGNAL

#define SIGNAL 1
#include "../signals/file_audit/file_audit_summary.bpf.c"
#undef SIGNAL

#define SIGNAL 2
#include "../signals/process_life/process_life_summary.bpf.c"
#undef SIGNAL

#define SIGNAL 3
#include "../signals/dns_query/dns_query_summary.bpf.c"
#undef SIGNAL

SEC("tp_btf/sys_enter")
int BPF_PROG(on_sys_enter, struct pt_regs *regs, long id)
{
	if (cfg_signals[SYSCALL_LATENCY])
		syscall_latency_sys_enter(regs, id);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_sys_exit, struct pt_regs *regs, long ret)
{
	/* First: the call's time ends here. */
	if (cfg_signals[SYSCALL_LATENCY])
		syscall_latency_sys_exit(regs, ret);
	if (cfg_signals[FILE_AUDIT])
		file_audit_sys_exit(regs, ret);
	if (cfg_signals[DNS_QUERY])
		dns_query_sys_exit(regs, ret);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_sched_process_exit, struct task_struct *task)
{
	if (cfg_signals[SYSCALL_LATENCY])
		syscall_latency_sched_process_exit(task);
	if (cfg_signals[FILE_AUDIT])
		file_audit_sched_process_exit(task);
	if (cfg_signals[PROCESS_LIFE])
		process_life_sched_process_exit(task, cfg_exit_tells && ctx[1]);
	if (cfg_signals[DNS_QUERY])
		dns_query_sched_process_exit(task);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_sched_process_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	if (cfg_signals[SYSCALL_LATENCY])
		syscall_latency_sched_process_exec(task, old_pid);
	if (cfg_signals[PROCESS_LIFE])
		process_life_sched_process_exec(task, bprm);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
