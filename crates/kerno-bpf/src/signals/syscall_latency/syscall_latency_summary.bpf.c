/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The summary of syscall_latency: how often each system call was made, how long it took and how it failed; who had slow ones and
 * errors that are not normal life.
 *
 * hooks   tp_btf/sys_exit, tp_btf/sys_enter; sched_process_exit and sched_process_exec keep the pairing right
 * key     call number and table; process for what was slow, failed abnormally or forced data onto storage
 * cost    two timestamps, five array look-ups and two increments a call; a hash look-up for a failed call, a second one for an
 *         abnormal or slow one and for fsync and its kin
 * not     as in syscall_latency.bpf.c; our own process
 */
#include "kernel.h"
#include "event.h"
#include "block.h"
#include "files.h"
#include "histogram.h"
#include "self.h"
#include "window.h"
#include "pairing.h"

/* A call's number with its table: native ones first, then those of the 32-bit table. */
#define MAX_KEYS (2 * MAX_SYSCALLS)

/* Values of cfg_kinds, from doctor/normal.rs. */
#define KIND_WAITS 1 /* by design: never slow */
#define KIND_ON_FILE 2 /* waits by design unless its first argument is a file or a block device */
#define KIND_SYNC 4 /* puts data on storage */
#define KIND_OPENS 8 /* waits by design if what it opens is neither file nor block device */

const volatile __u64 cfg_slow_ns = 10000000;
const volatile __u8 cfg_kinds[MAX_KEYS] = {};

/* Errors that are normal life: which set is a call's, and the sets, a bit an error number. Set 0 goes for every call. */
#define MAX_ERROR_SETS 128
#define ERROR_SET_WORDS 3
const volatile __u8 cfg_error_set[MAX_KEYS] = {};
const volatile __u64 cfg_error_sets[MAX_ERROR_SETS][ERROR_SET_WORDS] = {};

/* Bytes that a read or write of a file moves in this many nanoseconds are not what makes it slow: 128 MB/s. */
#define NS_PER_BYTE 8

/* Histograms a CPU has; the first call of each kind takes one, and the last is for all that come too late. */
const volatile __u32 cfg_slots = 1;

struct calls {
	__u64 calls[MAX_KEYS];
	__u8 slot_of[MAX_KEYS]; /* 0: none yet, else one more than the slot */
	__u32 slots_taken;
	/* The thread that last made a call on this CPU, and where its registers are saved: at the top of its own stack. */
	__u32 entered_tid;
	__u64 entered_regs;
	__u64 entered_at_changes; /* thread_changes then */
	__u32 pad[10];
};

PER_CPU_BLOCK(calls, struct calls);

/* cfg_slots elements a CPU. Not one block a CPU: that could be larger than the largest value a map may have. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct histogram);
} histograms SEC(".maps");

struct error_key {
	__u32 nr;
	__u16 error;
	__u16 compat;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct error_key);
	__type(value, __u64);
} errors SEC(".maps");

struct offender_key {
	__u32 pid;
	__u16 nr;
	__u16 compat;
};

#define OFFENDER_ERRORS 6
#define OFFENDER_EXEMPLARS 4

struct offender_error {
	__u64 count;
	__u32 error; /* 0: free */
	__u32 pad;
};

struct exemplar {
	__u64 timestamp_ns;
	__u64 latency_ns;
	__s64 ret;
	__u32 tid;
	__u32 pad;
};

struct offender {
	__u64 slow;
	__u64 slow_total_ns;
	/* From here to window_ns: of that window alone. */
	__u64 max_ns;
	__u64 first_ns;
	__u64 next_exemplar;
	__u64 window_ns;
	/* The last one also takes what found no room. */
	struct offender_error errors[OFFENDER_ERRORS];
	struct exemplar exemplars[OFFENDER_EXEMPLARS];
	char comm[TASK_COMM_LEN];
	__u32 parent_pid; /* when it was first seen: one that fails may end at once */
	__u32 pad;
};

struct task_struct___offender {
	struct task_struct *real_parent;
} CORE;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__type(key, struct offender_key);
	__type(value, struct offender);
} offenders SEC(".maps");

struct sync_calls {
	__u64 calls;
	__u64 total_ns;
	__u64 max_ns; /* this and the next of the window alone */
	__u64 first_ns;
	__u64 window_ns;
	char comm[TASK_COMM_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__type(key, __u32);
	__type(value, struct sync_calls);
} syncs SEC(".maps");

/* Where a new element comes from: too large for the stack. */
const struct offender no_offender = {};

const volatile struct calls *const volatile layout_of_calls SEC(".rodata") = NULL;
const volatile struct offender *const volatile layout_of_offender SEC(".rodata") = NULL;
const volatile struct sync_calls *const volatile layout_of_sync_calls SEC(".rodata") = NULL;

/* Beside the number of a call of the 32-bit table. */
#define COMPAT_CALL (1u << 31)

/* One call that returned. */
struct call {
	__u64 now;
	__u64 latency_ns;
	__s64 ret;
	__u32 pid;
	__u32 tid;
	__u32 nr;
	__u32 compat;
};

/*
 * Even one call is a third of what we add to the two timestamps, on processors that mistrust returns. So entry leaves behind what
 * exit needs, the table included. The registers tell the table for sure only where an exec writes the number
 * of the table it leads to into them.
 */
#define LEAVES_BEHIND (LOOKS_INTO_TASK && bpf_core_field_exists(((struct pt_regs___x86 *)0)->orig_ax))

/*
 * How many threads have ended or taken another's id. While this stays as it was, a place for saved registers is the same thread's: its
 * stack is given to another only after that.
 */
__u64 thread_changes;

/*
 * True when the thread is the one that made the last call on this CPU, as it mostly is; then entry asks nobody who it is. Where the kernel
 * skips runs it may have skipped that of a thread's end. The table is the native one where SYSCALL has left the address to return to and
 * the flags in these registers; what looks otherwise is asked for.
 */
static __always_inline bool made_the_last_call(const struct calls *block, const struct pt_regs *regs)
{
	const struct pt_regs___x86 *x86 = (const void *)regs;

	return !cfg_skips_runs && block->entered_regs == (__u64)regs && block->entered_at_changes == thread_changes &&
	       x86->cx == x86->ip && x86->r11 == x86->flags;
}

/* For both hooks behind which a place for registers may be another thread's. */
static __always_inline void thread_changed(void)
{
	__sync_fetch_and_add(&thread_changes, 1);
}

static __always_inline void syscall_latency_sys_enter(struct pt_regs *regs, long id)
{
	const struct task_struct *task;
	struct calls *block = NULL;
	struct start_slot *slot;
	__u32 tid, pid, data = id;
	__u64 pid_tgid;

	if (id < 0) /* a tracer or seccomp cancelled the call */
		return;
	if (LEAVES_BEHIND) {
		block = this_cpu_block(&calls);
		if (block && made_the_last_call(block, regs)) {
			tid = block->entered_tid;
			slot = start_slot(tid);
			if (slot)
				start_set(slot, tid, data);
			return;
		}
	}
	if (LOOKS_INTO_TASK) {
		task = bpf_get_current_task_btf();
		tid = task->pid;
		pid = task->tgid;
		if (LEAVES_BEHIND && task_in_compat_syscall(task))
			data |= COMPAT_CALL;
	} else {
		pid_tgid = bpf_get_current_pid_tgid();
		tid = pid_tgid;
		pid = pid_tgid >> 32;
	}
	if (cfg_self_tgid && pid == cfg_self_tgid)
		return;
	slot = start_slot(tid);
	if (!slot)
		return;
	if (LEAVES_BEHIND && block) {
		/* In this order: where tasks are preempted in the middle of a program, exit must not see another's thread. */
		*(volatile __u64 *)&block->entered_regs = (__u64)regs;
		*(volatile __u32 *)&block->entered_tid = tid;
		block->entered_at_changes = thread_changes;
	}
	start_set(slot, tid, data);
}

static __always_inline struct offender *offender_of(const struct call *call)
{
	struct offender_key key = { .pid = call->pid, .nr = call->nr, .compat = call->compat };
	__u64 window_ns = window_start_ns();
	struct offender *offender = bpf_map_lookup_elem(&offenders, &key);

	if (!offender) {
		bpf_map_update_elem(&offenders, &key, &no_offender, BPF_NOEXIST);
		offender = bpf_map_lookup_elem(&offenders, &key);
		if (!offender) {
			count_overflow();
			return NULL;
		}
		offender->parent_pid =
			BPF_CORE_READ((struct task_struct___offender *)bpf_get_current_task(), real_parent, tgid);
	}
	/* Two threads at once may both do this; each then adds its own call, and at worst one maximum is missed. */
	if (offender->window_ns != window_ns) {
		offender->window_ns = window_ns;
		offender->max_ns = 0;
		offender->first_ns = call->now;
		offender->next_exemplar = 0;
	}
	bpf_get_current_comm(offender->comm, sizeof(offender->comm));
	return offender;
}

static __always_inline void keep_exemplar(struct offender *offender, const struct call *call)
{
	struct exemplar *kept = &offender->exemplars[offender->next_exemplar++ % OFFENDER_EXEMPLARS];

	kept->timestamp_ns = call->now;
	kept->latency_ns = call->latency_ns;
	kept->ret = call->ret;
	kept->tid = call->tid;
}

static __always_inline void count_offender_error(struct offender *offender, __u32 error)
{
	for (int i = 0; i < OFFENDER_ERRORS; i++) {
		struct offender_error *counted = &offender->errors[i];

		if (!counted->error)
			counted->error = error;
		if (counted->error == error || i == OFFENDER_ERRORS - 1) {
			__sync_fetch_and_add(&counted->count, 1);
			return;
		}
	}
}

static __always_inline bool is_normal(__u32 key, __u32 error)
{
	__u32 set = cfg_error_set[key & (MAX_KEYS - 1)] & (MAX_ERROR_SETS - 1);
	__u32 word = error / 64;

	if (word >= ERROR_SET_WORDS)
		return false;
	return cfg_error_sets[set][word] >> (error % 64) & 1;
}

static __always_inline void count_error(const struct call *call, __u32 error)
{
	struct error_key key = { .nr = call->nr, .error = error, .compat = call->compat };
	__u64 *count = bpf_map_lookup_elem(&errors, &key);
	__u64 zero = 0;

	if (!count) {
		bpf_map_update_elem(&errors, &key, &zero, BPF_NOEXIST);
		count = bpf_map_lookup_elem(&errors, &key);
	}
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		count_overflow();
}

static __always_inline void count_sync(const struct call *call)
{
	__u64 window_ns = window_start_ns();
	struct sync_calls fresh = {}, *sync = bpf_map_lookup_elem(&syncs, &call->pid);

	if (!sync) {
		bpf_map_update_elem(&syncs, &call->pid, &fresh, BPF_NOEXIST);
		sync = bpf_map_lookup_elem(&syncs, &call->pid);
		if (!sync) {
			count_overflow();
			return;
		}
	}
	if (sync->window_ns != window_ns) {
		sync->window_ns = window_ns;
		sync->max_ns = 0;
		sync->first_ns = call->now;
	}
	if (call->latency_ns > sync->max_ns)
		sync->max_ns = call->latency_ns;
	__sync_fetch_and_add(&sync->calls, 1);
	__sync_fetch_and_add(&sync->total_ns, call->latency_ns);
	bpf_get_current_comm(sync->comm, sizeof(sync->comm));
}

#define S_IFMT 0170000
#define S_IFREG 0100000
#define S_IFDIR 0040000
#define S_IFBLK 0060000

/*
 * A file whose data lies somewhere: not one that the kernel makes up and whose reader may wait for news (kmsg, trace_pipe).
 * Descriptors without a file (eventfd, inotify, ...) look like regular files inside the kernel since 6.16.
 */
static __always_inline bool is_stored(const struct inode *inode)
{
	switch (BPF_CORE_READ(inode, i_sb, s_magic)) {
	case 0x9fa0: /* proc */
	case 0x62656572: /* sysfs */
	case 0x74726163: /* tracefs */
	case 0x64626720: /* debugfs */
	case 0x09041934: /* anon_inode */
	case 0x50495045: /* pipefs */
	case 0x534f434b: /* sockfs */
	case 0x27e0eb: /* cgroup v1 */
	case 0x63677270: /* cgroup v2 */
	case 0x6e736673: /* nsfs */
	case 0x50494446: /* pidfs */
		return false;
	default:
		return true;
	}
}

static __always_inline bool on_file(__s32 fd)
{
	const struct task_struct *task = (const struct task_struct *)bpf_get_current_task();
	const struct file *file = file_of(task, fd);
	const struct inode *inode = file ? BPF_CORE_READ(file, f_inode) : NULL;
	__u32 kind;

	if (!inode)
		return false;
	kind = BPF_CORE_READ(inode, i_mode) & S_IFMT;
	return kind == S_IFBLK || ((kind == S_IFREG || kind == S_IFDIR) && is_stored(inode));
}

static __always_inline bool is_slow(__s32 fd, const struct call *call, __u8 kind)
{
	if (kind & KIND_WAITS)
		return false;
	if (kind & KIND_OPENS)
		return call->ret < 0 || on_file(call->ret);
	if (!(kind & KIND_ON_FILE))
		return true;
	if (call->ret > 0 && call->latency_ns < cfg_slow_ns + call->ret * NS_PER_BYTE)
		return false;
	return on_file(fd);
}

/*
 * A call that was long, failed or synced: the rare path, and a function of its own to keep the other one short; `fd` is the call's
 * first argument, which means something where that is a descriptor. Not static, and with
 * nothing but numbers for arguments: what a static function reads from its caller's stack is a constant to verifiers before 6.8
 * (41f6f64e6999) when it was one on the path they looked at first. 6.1 took the branches of other calls than execve out as dead.
 */
__attribute__((noinline)) int look_closer(__s32 fd, __u32 id, __s64 ret, __u64 now, __u64 latency_ns)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct call made = {
		.now = now,
		.latency_ns = latency_ns,
		.ret = ret,
		.pid = pid_tgid >> 32,
		.tid = pid_tgid,
		.nr = id & ~COMPAT_CALL,
		.compat = !!(id & COMPAT_CALL),
	}, *call = &made;
	struct offender *offender;
	bool slow, abnormal = false;
	__u32 key, error = 0;
	__u8 kind;

	key = call->nr + (call->compat ? MAX_SYSCALLS : 0);
	kind = cfg_kinds[key & (MAX_KEYS - 1)];
	if (kind & KIND_SYNC)
		count_sync(call);
	if (failed(call->ret, call->nr, call->compat)) {
		error = -call->ret;
		count_error(call, error);
		abnormal = !is_normal(key, error);
	}
	slow = call->latency_ns >= cfg_slow_ns && is_slow(fd, call, kind);
	if (!slow && !abnormal)
		return 0;
	offender = offender_of(call);
	if (!offender)
		return 0;
	if (slow) {
		__sync_fetch_and_add(&offender->slow, 1);
		__sync_fetch_and_add(&offender->slow_total_ns, call->latency_ns);
	}
	if (abnormal)
		count_offender_error(offender, error);
	/* A quick failure does not push out a slow call that is worse. */
	if (slow && call->latency_ns > offender->max_ns) {
		offender->max_ns = call->latency_ns;
		keep_exemplar(offender, call);
	} else if (abnormal && offender->next_exemplar < OFFENDER_EXEMPLARS) {
		keep_exemplar(offender, call);
	}
	return 0;
}

static __always_inline struct histogram *histogram_of(struct calls *block, __u32 cpu, __u32 key)
{
	__u32 slot = block->slot_of[key], index;

	if (!slot) {
		slot = block->slots_taken + 1;
		if (slot < cfg_slots)
			block->slots_taken = slot;
		else
			slot = cfg_slots;
		block->slot_of[key] = slot;
	}
	if (slot == cfg_slots)
		count_overflow();
	index = cpu * cfg_slots + slot - 1;
	return bpf_map_lookup_elem(&histograms, &index);
}

/* The current thread's start where entry left it on this CPU and nothing since has made it doubtful; else NULL. */
static __always_inline struct start_slot *left_behind(const struct calls *block, const struct pt_regs *regs)
{
	__u32 tid = *(volatile const __u32 *)&block->entered_tid;
	struct start_slot *slot;

	if (*(volatile const __u64 *)&block->entered_regs != (__u64)regs)
		return NULL;
	slot = start_slot(tid);
	/* An ended thread has no start any more, so whoever has one has this stack: us. */
	if (!slot || !slot->ns || slot->tid != tid || syscall_nr(regs) != (slot->data & ~COMPAT_CALL))
		return NULL;
	return slot;
}

static __always_inline void syscall_latency_sys_exit(struct pt_regs *regs, long ret)
{
	__u32 cpu = bpf_get_smp_processor_id(), nr, key, tid;
	const struct task_struct *task = NULL;
	struct start_slot *slot = NULL;
	struct histogram *histogram;
	__u64 now, latency_ns;
	struct calls *block;
	bool compat;

	block = bpf_map_lookup_elem(&calls, &cpu);
	if (!block)
		return;
	if (LEAVES_BEHIND)
		slot = left_behind(block, regs);
	if (slot) {
		now = bpf_ktime_get_ns();
		latency_ns = now - slot->ns;
		slot->ns = 0;
		nr = slot->data & ~(COMPAT_CALL | X32_SYSCALL_BIT);
		compat = !!(slot->data & COMPAT_CALL);
	} else {
		if (LOOKS_INTO_TASK) {
			task = bpf_get_current_task_btf();
			tid = task->pid;
		} else {
			tid = bpf_get_current_pid_tgid();
		}
		slot = start_slot(tid);
		if (!slot || !slot->ns || slot->tid != tid)
			return;
		now = bpf_ktime_get_ns();
		latency_ns = now - slot->ns;
		slot->ns = 0;
		if (of_earlier_call(regs, slot->data & ~COMPAT_CALL)) {
			count_untracked();
			return;
		}
		compat = LOOKS_INTO_TASK ? task_in_compat_syscall(task) : in_compat_syscall();
		nr = number_at_exit(regs, slot->data & ~COMPAT_CALL, compat) & ~X32_SYSCALL_BIT;
	}
	if (nr >= MAX_SYSCALLS)
		return;
	key = nr + (compat ? MAX_SYSCALLS : 0);
	/* 6.1 forgets the bound where both are joined in 32 bits. */
	OPAQUE(key);
	key &= MAX_KEYS - 1;
	/* Plain increments: the kernel does not run this program on top of itself. */
	block->calls[key]++;
	histogram = histogram_of(block, cpu, key);
	if (histogram)
		histogram_add(histogram, latency_ns);

	if (latency_ns >= cfg_slow_ns || (__u64)ret >= (__u64)-MAX_ERRNO || cfg_kinds[key] & KIND_SYNC)
		look_closer(syscall_arg(regs, 0, compat), nr | (compat ? COMPAT_CALL : 0), ret, now, latency_ns);
}

static __always_inline void syscall_latency_sched_process_exit(const struct task_struct *task)
{
	thread_changed();
	forget_call(task);
}

static __always_inline void syscall_latency_sched_process_exec(const struct task_struct *task, int old_pid)
{
	if ((__u32)old_pid != (__u32)task->pid)
		thread_changed();
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
