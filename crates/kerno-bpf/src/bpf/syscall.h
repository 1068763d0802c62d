/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which system call table is meant, and a call's number and arguments as they stand in the saved registers. */
#ifndef KERNO_SYSCALL_H
#define KERNO_SYSCALL_H

#include "kernel.h"

#define X86_TS_COMPAT 0x0002 /* arch/x86/include/asm/thread_info.h; cleared only after the exit tracepoint */
#define ARM64_TIF_32BIT 22 /* arch/arm64/include/asm/thread_info.h */

/* Numbers of either table are below; what a newer kernel adds up there is passed over until this grows. */
#define MAX_SYSCALLS 512

/* Set in the number of a call through the x32 table, whose numbers are otherwise the native ones. */
#define X32_SYSCALL_BIT 0x40000000u

#define MAX_ERRNO 4095

/*
 * ERESTARTSYS to ERESTART_RESTARTBLOCK, linux/errno.h: a signal cut the call short, and after the exit hook the kernel restarts
 * it or turns this into EINTR.
 */
#define ERESTART_FIRST 512
#define ERESTART_LAST 516

/* An error, and not a result or an interruption. */
static __always_inline bool call_failed(long ret)
{
	return ret < 0 && ret >= -MAX_ERRNO && (ret > -ERESTART_FIRST || ret < -ERESTART_LAST);
}

struct pt_regs___x86 {
	unsigned long di, si, dx, r10, r8, r9;
	unsigned long bx, cx, bp;
	unsigned long r11, ip, flags;
	unsigned long orig_ax;
} CORE;

struct pt_regs___arm64 {
	__u64 regs[31];
	__u64 orig_x0;
	__s32 syscallno;
} CORE;

/* True in a call made through the 32-bit table. Valid from entry to the exit tracepoint, both included. */
static __always_inline bool in_compat_syscall(void)
{
	const struct task_struct *task = (const struct task_struct *)bpf_get_current_task();

	if (bpf_core_field_exists(task->thread_info.status))
		return BPF_CORE_READ(task, thread_info.status) & X86_TS_COMPAT;
	return BPF_CORE_READ(task, thread_info.flags) & (1ul << ARM64_TIF_32BIT);
}

/* The same of a task that the program may look into directly (bpf_get_current_task_btf). */
static __always_inline bool task_in_compat_syscall(const struct task_struct *task)
{
	if (bpf_core_field_exists(task->thread_info.status))
		return task->thread_info.status & X86_TS_COMPAT;
	return task->thread_info.flags & (1ul << ARM64_TIF_32BIT);
}

/*
 * The number of the call that these saved registers belong to; -1 when a tracer or seccomp cancelled it. Registers are read
 * without a helper call: regs must be a tp_btf program's own argument.
 */
static __always_inline long syscall_nr(const struct pt_regs *regs)
{
	const struct pt_regs___x86 *x86 = (const void *)regs;
	const struct pt_regs___arm64 *arm64 = (const void *)regs;

	if (bpf_core_field_exists(x86->orig_ax))
		return (long)x86->orig_ax;
	return arm64->syscallno;
}

/* Argument 0 to 5 of the call; n must be a constant. Registers keep the arguments up to the exit tracepoint. */
#define SYSCALL_ARG_X86(x86, compat, native_reg, compat_reg)                                                           \
	((compat) ? (__u32)(x86)->compat_reg : (x86)->native_reg)

static __always_inline __u64 syscall_arg(const struct pt_regs *regs, int n, bool compat)
{
	const struct pt_regs___x86 *x86 = (const void *)regs;
	const struct pt_regs___arm64 *arm64 = (const void *)regs;

	if (!bpf_core_field_exists(x86->orig_ax))
		return n ? arm64->regs[n] : arm64->orig_x0;
	switch (n) {
	case 0:
		return SYSCALL_ARG_X86(x86, compat, di, bx);
	case 1:
		return SYSCALL_ARG_X86(x86, compat, si, cx);
	case 2:
		return SYSCALL_ARG_X86(x86, compat, dx, dx);
	case 3:
		return SYSCALL_ARG_X86(x86, compat, r10, si);
	case 4:
		return SYSCALL_ARG_X86(x86, compat, r8, di);
	default:
		return SYSCALL_ARG_X86(x86, compat, r9, bp);
	}
}

#endif
