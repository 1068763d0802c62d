/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The events of the signals that meet on hooks, with one program a hook for all of them: each further program on a hook costs 70 to
 * 100 ns an event. Loaded when several of them are asked for; one alone has its own object.
 *
 * hooks   tp_btf/sys_enter, sys_exit, sched_process_exec, sched_process_exit, io_uring_complete, iter/task_file; what one signal alone
 *         hooks is in its own source
 * cost    that of each signal's handler, without the way into a program of its own
 */
#define SIGNALS 6
#include "signal.h"

/* The order of calls::EVENTS in mod.rs. */
#define SYSCALL_LATENCY 0
#define FD_TRACK 1
#define FILE_AUDIT 2
#define TCP_MONITOR 3
#define DNS_QUERY 4
#define PROCESS_LIFE 5

#include "emit.h"

RING(events_0);
RING(events_1);
RING(events_2);
RING(events_3);
RING(events_4);
RING(events_5);

/* Which of them were asked for: the verifier removes the others. */
const volatile __u8 cfg_signals[SIGNALS] = {};

#define SIGNAL 0
#include "../signals/syscall_latency/syscall_latency.bpf.c"
#undef SIGNAL

#define SIGNAL 1
#include "../signals/fd_track/fd_track.bpf.c"
#undef SIGNAL

#define SIGNAL 2
#include "../signals/file_audit/file_audit.bpf.c"
#undef SIGNAL

#define SIGNAL 3
#include "../signals/tcp_monitor/tcp_monitor.bpf.c"
#undef SIGNAL

#define SIGNAL 4
#include "../signals/dns_query/dns_query.bpf.c"
#undef SIGNAL

#define SIGNAL 5
#include "../signals/process_life/process_life.bpf.c"
#undef SIGNAL

/*
 * An argument of the hook, read anew for each handler. The verifier follows a handler once for all that the one before it can have found out about
 * the arguments, such as whether the call failed, as long as they are the same values.
 */
#define ARGUMENT(number) (((volatile unsigned long long *)ctx)[number])
#define REGS ((struct pt_regs *)ARGUMENT(0))
#define NUMBER_OR_RESULT ((long)ARGUMENT(1))

SEC("tp_btf/sys_enter")
int on_sys_enter(unsigned long long *ctx)
{
	if (cfg_signals[FD_TRACK])
		fd_track_sys_enter(REGS, NUMBER_OR_RESULT);
	/* Last: the call's time begins here. */
	if (cfg_signals[SYSCALL_LATENCY])
		syscall_latency_sys_enter(REGS, NUMBER_OR_RESULT);
	return 0;
}

SEC("tp_btf/sys_exit")
int on_sys_exit(unsigned long long *ctx)
{
	/* First: the call's time ends here. */
	if (cfg_signals[SYSCALL_LATENCY])
		syscall_latency_sys_exit(REGS, NUMBER_OR_RESULT);
	if (cfg_signals[FD_TRACK])
		fd_track_sys_exit(REGS, NUMBER_OR_RESULT);
	if (cfg_signals[FILE_AUDIT])
		file_audit_sys_exit(REGS, NUMBER_OR_RESULT);
	if (cfg_signals[TCP_MONITOR])
		tcp_monitor_sys_exit(REGS, NUMBER_OR_RESULT);
	if (cfg_signals[DNS_QUERY])
		dns_query_sys_exit(REGS, NUMBER_OR_RESULT);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_sched_process_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	if (cfg_signals[SYSCALL_LATENCY])
		syscall_latency_sched_process_exec(task, old_pid);
	if (cfg_signals[FD_TRACK])
		fd_track_sched_process_exec(bprm);
	if (cfg_signals[PROCESS_LIFE])
		process_life_sched_process_exec(task, bprm);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_sched_process_exit, struct task_struct *task)
{
	if (cfg_signals[SYSCALL_LATENCY])
		syscall_latency_sched_process_exit(task);
	if (cfg_signals[FD_TRACK])
		fd_track_sched_process_exit(task);
	if (cfg_signals[PROCESS_LIFE])
		process_life_sched_process_exit(task, cfg_exit_tells && ARGUMENT(1));
	if (cfg_signals[DNS_QUERY])
		dns_query_sched_process_exit(task);
	return 0;
}

SEC("tp_btf/io_uring_complete")
int BPF_PROG(on_io_uring_complete, void *ring, struct io_kiocb *request, struct io_uring_cqe *entry)
{
	if (cfg_signals[FD_TRACK])
		fd_track_io_uring_complete(ring, request, entry);
	if (cfg_signals[FILE_AUDIT])
		file_audit_io_uring_complete(request);
	return 0;
}

SEC("tp_btf/io_uring_complete")
int BPF_PROG(on_io_uring_complete_in_pieces, void *ring, struct io_kiocb *request, __u64 user_data, int result)
{
	if (cfg_signals[FD_TRACK])
		fd_track_io_uring_complete_in_pieces(ring, request, user_data, result);
	if (cfg_signals[FILE_AUDIT])
		file_audit_io_uring_complete(request);
	return 0;
}

SEC("iter/task_file")
int on_task_file(struct bpf_iter__task_file *ctx)
{
	const struct task_struct *task = ctx->task;
	const struct file *file = ctx->file;

	if (!task || !file)
		return 0;
	if (cfg_signals[TCP_MONITOR])
		tcp_monitor_task_file(task, file);
	if (cfg_signals[DNS_QUERY])
		dns_query_task_file(task, file, ctx->fd);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
