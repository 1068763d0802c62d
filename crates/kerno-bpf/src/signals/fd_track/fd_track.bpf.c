/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * fd_track: every descriptor that a process gets or gives up, by its number.
 *
 * hooks   tp_btf/sys_exit for all that a call returns; tp_btf/sys_enter where what was there before the call matters
 *         (dup2, close_range, ioctl); sched_prepare_exec or the entry of execve, with sched_process_exec, for
 *         close-on-exec; sched_process_exit for what a process leaves open; io_uring_complete and io_uring_submit_req
 * key     thread id, direct-mapped, from entry to exit of dup2 and ioctl; process id while it executes a new program
 * cost    one table look-up for a call that changes no descriptor; ioctl takes a snapshot of one word of the table
 * not     descriptors that read(2) of fanotify and userfaultfd brings; those a seccomp supervisor adds to another process;
 *         io_uring requests that post no completion; the copy that fork and unshare make of a table is no event
 */
#include "kernel.h"
#include "record.h"
#include "calls.h"
#include "requests.h"

/* Off when only named calls are asked for and these are not among them. */
const volatile __u8 cfg_exec = 1;
const volatile __u8 cfg_exit = 1;
/* Where the kernel has no sched_prepare_exec (before 6.10), every execve that is tried takes a snapshot. */
const volatile __u8 cfg_exec_at_entry = 0;

struct signal_struct {
	atomic_t live; /* threads that have not begun to exit */
	int nr_threads; /* threads that have not been released */
} CORE;

struct linux_binprm {
	unsigned int have_execfd : 1; /* Linux 5.8 */
	int execfd;
} CORE;

/* Always zero: what a new entry of execs is copied from, too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct exec_fds);
} no_exec SEC(".maps");

/* Tables of dying thread groups whose closes have been told, so that the last threads, which die together, tell them once. */
struct dead_table {
	__u64 files;
	__u64 start_time; /* of the group's leader: the address is used again, this is not */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1); /* the loader sets it */
	__type(key, struct dead_table);
	__type(value, __u8);
} dead_tables SEC(".maps");

/* A part of the next. */
__noinline int exec_snapshot_part(__u64 open, __u64 close_on_exec, __u32 from, __u32 words)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct exec_fds *exec = bpf_map_lookup_elem(&execs, &tgid);

	if (!exec)
		return 0;
	for (__u32 i = 0; i < PART_WORDS; i++) {
		__u32 at = from + i;

		if (at >= words || at >= EXEC_WORDS)
			break;
		OPAQUE(at);
		at &= EXEC_WORDS - 1;
		/* A stale close-on-exec bit may outlive its descriptor. */
		exec->closing[at] = table_word((const unsigned long *)open, at) &
				    table_word((const unsigned long *)close_on_exec, at);
	}
	return 0;
}

/* Notes what an exec of the current task, whose entry this is, would close now. */
static __always_inline void exec_snapshot(const struct task_struct *task, struct exec_fds *exec)
{
	struct table table;

	if (!table_of(&table, task))
		return;
	exec->files = (__u64)table.files;
	exec->words = table.words < EXEC_WORDS ? table.words : EXEC_WORDS;
	if (table.words > EXEC_WORDS)
		count_untracked();
	for (__u32 from = 0; from < EXEC_WORDS; from += PART_WORDS) {
		if (from >= table.words)
			break;
		exec_snapshot_part((__u64)table.open, (__u64)table.close_on_exec, from, table.words);
	}
}

static __always_inline void exec_begins(const struct task_struct *task)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32, zero = 0;
	struct exec_fds *exec = bpf_map_lookup_elem(&no_exec, &zero);

	if (!exec)
		return;
	if (bpf_map_update_elem(&execs, &tgid, exec, BPF_ANY)) {
		count_untracked();
		return;
	}
	exec = bpf_map_lookup_elem(&execs, &tgid);
	if (!exec)
		return;
	bpf_get_current_comm(exec->comm, sizeof(exec->comm));
	exec_snapshot(task, exec);
}

static __always_inline void exec_forget(void)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;

	bpf_map_delete_elem(&execs, &tgid);
}

static __always_inline void fd_track_sys_enter(struct pt_regs *regs, long nr)
{
	bool compat = false;
	__u32 kind = call_kind(nr, &compat);

	if (kind != CALL_DUP2 && kind != CALL_IOCTL && kind != CALL_CLOSE_RANGE &&
	    !(kind == CALL_EXEC && cfg_exec_at_entry))
		return;
	if (!current_passes(bpf_get_current_pid_tgid()))
		return;
	if (kind == CALL_DUP2)
		dup2_begins(syscall_arg(regs, 0, compat), syscall_arg(regs, 1, compat));
	else if (kind == CALL_IOCTL)
		ioctl_begins();
	else if (kind == CALL_CLOSE_RANGE)
		close_range_begins(syscall_arg(regs, 0, compat), syscall_arg(regs, 1, compat),
				   syscall_arg(regs, 2, compat), HOW(OP_CLOSE, SOURCE_SYSCALL, compat), nr);
	else if (cfg_exec)
		exec_begins(current_task());
}

static __always_inline void fd_track_sys_exit(struct pt_regs *regs, long ret)
{
	long nr = syscall_nr(regs);
	struct arguments args = { .regs = regs };
	__u32 kind = call_kind(nr, &args.compat);

	if (!kind || kind == CALL_CLOSE_RANGE)
		return;
	if (kind == CALL_EXEC) {
		if (cfg_exec_at_entry && ret < 0)
			exec_forget();
		return;
	}
	/* Whatever else close() returns, interrupted or failed to write: the descriptor is gone. */
	if (kind == CALL_CLOSE ? ret == -EBADF : ret < 0) {
		if (kind == CALL_IOCTL || kind == CALL_DUP2)
			remembered(); /* frees the slot */
		return;
	}
	if (!current_passes(bpf_get_current_pid_tgid()))
		return;
	if (kind == CALL_CLOSE) {
		emit_fd(syscall_arg(regs, 0, args.compat), HOW(OP_CLOSE, SOURCE_SYSCALL, args.compat), nr, 0);
		return;
	}
	if (kind == CALL_SOCKETCALL) {
		kind = socketcall_kind(syscall_arg(regs, 0, args.compat));
		args.memory = syscall_arg(regs, 1, args.compat);
	}
	call_ended(kind, &args, ret, nr);
}

/* Linux 6.10 (c82389947d90): an exec that can no longer fail without killing the process. */
SEC("tp_btf/sched_prepare_exec")
int BPF_PROG(on_sched_prepare_exec, struct task_struct *task)
{
	if (cfg_exec && current_passes(bpf_get_current_pid_tgid()))
		exec_begins(task);
	return 0;
}

/* Tells what the current task's exec closes, in a part of the words that were noted. */
__noinline int emit_exec_part(__u32 from)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct exec_fds *exec = bpf_map_lookup_elem(&execs, &tgid);

	if (!exec)
		return 0;
	for (__u32 i = 0; i < PART_WORDS; i++) {
		__u32 at = from + i;

		if (at >= exec->words || at >= EXEC_WORDS)
			break;
		OPAQUE(at);
		at &= EXEC_WORDS - 1;
		if (exec->closing[at])
			emit_bits(exec->closing[at], at * 64, HOW(OP_CLOSE, SOURCE_EXEC, 0), -1);
	}
	return 0;
}

static __always_inline void fd_track_sched_process_exec(const struct linux_binprm *bprm)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct exec_fds *exec = bpf_map_lookup_elem(&execs, &tgid);

	if (!exec)
		return;
	for (__u32 from = 0; from < EXEC_WORDS; from += PART_WORDS) {
		if (from >= exec->words)
			break;
		emit_exec_part(from);
	}
	exec_forget();
	/* binfmt_misc with flag O hands the interpreter its file open. */
	if (bpf_core_field_exists(bprm->have_execfd) && BPF_CORE_READ_BITFIELD_PROBED(bprm, have_execfd))
		emit_fd(BPF_CORE_READ(bprm, execfd), HOW(OP_OPEN, SOURCE_EXEC, 0), -1, 0);
}

/*
 * True for one of the dying tasks that share a table, once none of them can open or close anything any more.
 * Runs before the task lets go of its table, so the last of a group may still see the others' shares of it.
 */
static __always_inline bool last_user(const struct task_struct *task, const struct table *table)
{
	struct dead_table key = {};
	__u8 told = 1;

	if (BPF_CORE_READ(task, signal, live.counter) > 0)
		/* Other threads live; a table that nobody shares is this thread's own (unshare). */
		return table_users(table) == 1;
	/*
	 * More shares than threads: another process goes on using it (clone with CLONE_FILES), or, until 5.10, someone is reading
	 * /proc/PID/fd at this moment; then the last closes are not told.
	 */
	if (table_users(table) > BPF_CORE_READ(task, signal, nr_threads))
		return false;
	key.files = (__u64)table->files;
	key.start_time = BPF_CORE_READ(task, group_leader, start_time);
	if (BPF_CORE_READ(task, signal, nr_threads) == 1)
		return !bpf_map_lookup_elem(&dead_tables, &key);
	return !bpf_map_update_elem(&dead_tables, &key, &told, BPF_NOEXIST);
}

static __always_inline void fd_track_sched_process_exit(const struct task_struct *task)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct pending *slot = pending_slot(pid_tgid);
	__u32 tgid = pid_tgid >> 32;
	struct exec_fds *exec;
	struct table table;

	if (slot && slot->tid == (__u32)pid_tgid)
		slot->tid = 0;
	if (!table_of(&table, task))
		return;
	exec = bpf_map_lookup_elem(&execs, &tgid);
	if (exec && BPF_CORE_READ(task, signal, live.counter) > 0) {
		/* Another thread's exec ends this one, which may have changed the table since the snapshot. */
		if (exec->files == (__u64)table.files)
			exec_snapshot(task, exec);
		return;
	}
	if (exec)
		exec_forget();
	if (cfg_exit && current_passes(bpf_get_current_pid_tgid()) && last_user(task, &table))
		emit_open(0, ~0u, HOW(OP_CLOSE, SOURCE_EXIT, 0), -1);
}

#if SIGNALS == 1
SEC("tp_btf/sys_enter")
int BPF_PROG(on_sys_enter, struct pt_regs *regs, long nr)
{
	fd_track_sys_enter(regs, nr);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_sys_exit, struct pt_regs *regs, long ret)
{
	fd_track_sys_exit(regs, ret);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_sched_process_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	fd_track_sched_process_exec(bprm);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_sched_process_exit, struct task_struct *task)
{
	fd_track_sched_process_exit(task);
	return 0;
}

SEC("tp_btf/io_uring_complete")
int BPF_PROG(on_io_uring_complete, void *ring, struct io_kiocb *request, struct io_uring_cqe *entry)
{
	fd_track_io_uring_complete(ring, request, entry);
	return 0;
}

SEC("tp_btf/io_uring_complete")
int BPF_PROG(on_io_uring_complete_in_pieces, void *ring, struct io_kiocb *request, __u64 user_data, int result)
{
	fd_track_io_uring_complete_in_pieces(ring, request, user_data, result);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
#endif
