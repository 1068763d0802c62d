/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Keeping entry and exit of a system call together: shared by the events and the summary. */
#ifndef KERNO_SYSCALL_PAIRING_H
#define KERNO_SYSCALL_PAIRING_H

#include "start.h"
#include "syscall.h"

/* rt_sigreturn and its kin return whatever the interrupted code held in that register: no error of theirs. */
const volatile __u32 cfg_sigreturn_nr = ~0u;
const volatile __u32 cfg_compat_sigreturn_nrs[2] = { ~0u, ~0u };

/* execve and execveat, native table and 32-bit table. */
const volatile __u32 cfg_exec_nrs[2] = { ~0u, ~0u };
const volatile __u32 cfg_compat_exec_nrs[2] = { ~0u, ~0u };

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

/*
 * Whether the start is that of an earlier call, whose exit was never seen, nor the entry of this one: the kernel can skip both
 * (docs/decisions/preempted-programs.md). Two calls of one number look the same. An exec may change its number, and sigreturn leaves -1.
 */
static __always_inline bool of_earlier_call(const struct pt_regs *regs, __u32 nr)
{
	long at_exit;

	if (!cfg_skips_runs)
		return false;
	at_exit = syscall_nr(regs);
	if (at_exit < 0 || (__u32)at_exit == nr)
		return false;
	return nr != cfg_exec_nrs[0] && nr != cfg_exec_nrs[1] && nr != cfg_compat_exec_nrs[0] && nr != cfg_compat_exec_nrs[1];
}

static __always_inline bool failed(long ret, __u32 nr, bool compat)
{
	if (!call_failed(ret))
		return false;
	if (compat)
		return nr != cfg_compat_sigreturn_nrs[0] && nr != cfg_compat_sigreturn_nrs[1];
	return nr != cfg_sigreturn_nr;
}

/* The thread ends inside a call: without this a new thread with its id would return from a call it never made. */
static __always_inline void forget_call(const struct task_struct *task)
{
	start_clear(task->pid);
}

/* exec in a thread other than the first takes over the first thread's id between entry and exit. */
static __always_inline void move_call(const struct task_struct *task, int old_pid)
{
	struct start_slot *from, *to;
	__u32 tid = task->pid;
	__u64 ns;

	if ((__u32)old_pid == tid)
		return;
	from = start_slot(old_pid);
	to = start_slot(tid);
	if (!from || !to || !from->ns || from->tid != (__u32)old_pid)
		return;
	ns = from->ns;
	from->ns = 0;
	start_set_at(to, tid, from->data, ns);
}

#endif
