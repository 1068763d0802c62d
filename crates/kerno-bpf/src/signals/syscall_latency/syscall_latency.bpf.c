/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * syscall_latency: how long each system call took and what it returned.
 *
 * hooks   tp_btf/sys_exit, tp_btf/sys_enter; sched_process_exit and sched_process_exec keep the pairing right
 * key     thread id, direct-mapped (start.h)
 * cost    two timestamps and one array slot a call; a call that the filters refuse at entry costs no timestamp
 * not     calls in progress when it attaches; calls that never return (exit, a kill inside the call); calls that
 *         seccomp refuses, which never reach the entry hook; work done by io_uring on a thread's behalf
 */
#include "kernel.h"
#include "event.h"
#include "filter.h"
#include "emit.h"
#include "pairing.h"

struct syscall_event {
	__u64 timestamp_ns; /* CLOCK_MONOTONIC at exit */
	__u64 latency_ns;
	__u64 cgroup_id;
	__s64 ret;
	__u32 pid;
	__u32 tid;
	__u32 syscall_nr;
	__u8 compat;
	__u8 pad0[3];
	char comm[TASK_COMM_LEN];
};
ASSERT_RECORD(struct syscall_event, 64);
KEEP_LAYOUT(struct syscall_event);

/* One bit a call, native table and 32-bit table. */
const volatile __u8 cfg_syscalls_set = 0;
const volatile __u64 cfg_syscalls[MAX_SYSCALLS / 64] = {};
const volatile __u64 cfg_compat_syscalls[MAX_SYSCALLS / 64] = {};

static __always_inline bool in_set(const volatile __u64 *set, __u32 nr)
{
	nr &= ~X32_SYSCALL_BIT;
	return nr < MAX_SYSCALLS && (set[nr / 64] >> (nr % 64) & 1);
}

static __always_inline void syscall_latency_sys_enter(struct pt_regs *regs, long id)
{
	struct start_slot *slot;
	__u64 pid_tgid;

	if (id < 0) /* a tracer or seccomp cancelled the call */
		return;
	/* Which table the number belongs to is decided at exit, where it is needed; either may match here. */
	if (cfg_syscalls_set && !in_set(cfg_syscalls, id) && !in_set(cfg_compat_syscalls, id))
		return;
	pid_tgid = bpf_get_current_pid_tgid();
	if (!current_passes(pid_tgid))
		return;
	slot = start_slot(pid_tgid);
	if (slot)
		start_set(slot, pid_tgid, id);
}

static __always_inline void syscall_latency_sys_exit(struct pt_regs *regs, long ret)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct start_slot *slot = start_slot(pid_tgid);
	struct syscall_event *event;
	__u64 now, start;
	bool compat;
	__u32 nr;

	if (!slot || !slot->ns || slot->tid != (__u32)pid_tgid)
		return;
	start = slot->ns;
	nr = slot->data;
	slot->ns = 0;
	if (of_earlier_call(regs, nr)) {
		count_untracked();
		return;
	}
	if (cfg_errors_only[SIGNAL] && !call_failed(ret))
		return;
	now = bpf_ktime_get_ns();
	if (now - start < cfg_min_latency_ns[SIGNAL])
		return;
	compat = in_compat_syscall();
	nr = number_at_exit(regs, nr, compat);
	if (cfg_syscalls_set && !in_set(compat ? cfg_compat_syscalls : cfg_syscalls, nr))
		return;
	if (cfg_errors_only[SIGNAL] && !failed(ret, nr, compat))
		return;

	event = event_reserve(struct syscall_event);
	if (!event)
		return;
	event->timestamp_ns = now;
	event->latency_ns = now - start;
	event->cgroup_id = bpf_get_current_cgroup_id();
	event->ret = ret;
	event->pid = pid_tgid >> 32;
	event->tid = pid_tgid;
	event->syscall_nr = nr;
	event->compat = compat;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	event_submit(event);
}

static __always_inline void syscall_latency_sched_process_exit(const struct task_struct *task)
{
	forget_call(task);
}

static __always_inline void syscall_latency_sched_process_exec(const struct task_struct *task, int old_pid)
{
	move_call(task, old_pid);
}

#if SIGNALS == 1
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_sched_process_exit, struct task_struct *task)
{
	syscall_latency_sched_process_exit(task);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_sched_process_exec, struct task_struct *task, int old_pid)
{
	syscall_latency_sched_process_exec(task, old_pid);
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(on_sys_enter, struct pt_regs *regs, long id)
{
	syscall_latency_sys_enter(regs, id);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_sys_exit, struct pt_regs *regs, long ret)
{
	syscall_latency_sys_exit(regs, ret);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
#endif
