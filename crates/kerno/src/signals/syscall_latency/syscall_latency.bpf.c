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
#include "start.h"
#include "syscall.h"

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

/* rt_sigreturn and its kin return whatever the interrupted code held in that register: no error of theirs. */
const volatile __u32 cfg_sigreturn_nr = ~0u;
const volatile __u32 cfg_compat_sigreturn_nrs[2] = { ~0u, ~0u };

/* execve and execveat, native table and 32-bit table. */
const volatile __u32 cfg_exec_nrs[2] = { ~0u, ~0u };
const volatile __u32 cfg_compat_exec_nrs[2] = { ~0u, ~0u };

static __always_inline bool in_set(const volatile __u64 *set, __u32 nr)
{
	nr &= ~X32_SYSCALL_BIT;
	return nr < MAX_SYSCALLS && (set[nr / 64] >> (nr % 64) & 1);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(on_sys_enter, struct pt_regs *regs, long id)
{
	struct start_slot *slot;
	__u64 pid_tgid;

	if (id < 0) /* a tracer or seccomp cancelled the call */
		return 0;
	/* Which table the number belongs to is decided at exit, where it is needed; either may match here. */
	if (cfg_syscalls_set && !in_set(cfg_syscalls, id) && !in_set(cfg_compat_syscalls, id))
		return 0;
	pid_tgid = bpf_get_current_pid_tgid();
	if (!current_passes(pid_tgid))
		return 0;
	slot = start_slot(pid_tgid);
	if (slot)
		start_set(slot, pid_tgid, id);
	return 0;
}

/*
 * The number as the table of the exit has it. An exec that leads from 64 bit to 32 or back enters through one table and leaves
 * through the other, and x86 rewrites the saved number to execve's there.
 */
static __always_inline __u32 number_at_exit(const struct pt_regs *regs, __u32 nr, bool compat)
{
	__u32 execve = compat ? cfg_compat_exec_nrs[0] : cfg_exec_nrs[0];
	__u32 execveat = compat ? cfg_compat_exec_nrs[1] : cfg_exec_nrs[1];

	return syscall_nr(regs) == execve && nr != execveat ? execve : nr;
}

static __always_inline bool failed(long ret, __u32 nr, bool compat)
{
	if (!call_failed(ret))
		return false;
	if (compat)
		return nr != cfg_compat_sigreturn_nrs[0] && nr != cfg_compat_sigreturn_nrs[1];
	return nr != cfg_sigreturn_nr;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_sys_exit, struct pt_regs *regs, long ret)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct start_slot *slot = start_slot(pid_tgid);
	struct syscall_event *event;
	__u64 now, start;
	bool compat;
	__u32 nr;

	if (!slot || !slot->ns || slot->tid != (__u32)pid_tgid)
		return 0;
	start = slot->ns;
	nr = slot->data;
	slot->ns = 0;
	if (cfg_errors_only && !call_failed(ret))
		return 0;
	now = bpf_ktime_get_ns();
	if (now - start < cfg_min_latency_ns)
		return 0;
	compat = in_compat_syscall();
	nr = number_at_exit(regs, nr, compat);
	if (cfg_syscalls_set && !in_set(compat ? cfg_compat_syscalls : cfg_syscalls, nr))
		return 0;
	if (cfg_errors_only && !failed(ret, nr, compat))
		return 0;

	event = event_reserve(struct syscall_event);
	if (!event)
		return 0;
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
	return 0;
}

/* The thread ends inside a call: without this a new thread with its id would return from a call it never made. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_sched_process_exit, struct task_struct *task)
{
	start_clear(task->pid);
	return 0;
}

/* exec in a thread other than the first takes over the first thread's id between entry and exit. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_sched_process_exec, struct task_struct *task, int old_pid)
{
	struct start_slot *from, *to;
	__u32 tid = task->pid;
	__u64 ns;

	if ((__u32)old_pid == tid)
		return 0;
	from = start_slot(old_pid);
	to = start_slot(tid);
	if (!from || !to || !from->ns || from->tid != (__u32)old_pid)
		return 0;
	ns = from->ns;
	from->ns = 0;
	start_set_at(to, tid, from->data, ns);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
