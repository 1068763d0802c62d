/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What both planes read of a process that begins, changes its program or ends. */
#ifndef KERNO_LIFE_H
#define KERNO_LIFE_H

#include "event.h"
#include "kernel.h"

struct signal_struct___life {
	atomic_t live; /* threads that have not begun to exit */
	int nr_threads; /* threads that have not been released */
	int group_exit_code;
	unsigned int flags;
	unsigned long long sum_sched_runtime; /* of the threads that were released */
	void *oom_mm; /* set when the OOM killer chose it, until it is freed */
} CORE;

struct mm_struct___life {
	unsigned long arg_start;
	unsigned long arg_end;
} CORE;

struct task_struct___life {
	struct task_struct *real_parent;
	int exit_code;
} CORE;

struct kernfs_node___life {
	const char *name; /* of the directory of a cgroup */
} CORE;

struct linux_binprm;

struct linux_binprm___life {
	const char *filename;
} CORE;

#define SIGNAL_GROUP_EXIT 4
#define PF_FORKNOEXEC 0x40 /* has executed no program since it was forked */

#define LIFE_OF(task) ((const struct task_struct___life *)(task))

static __always_inline const struct signal_struct___life *signal_of(const struct task_struct *task)
{
	return (const void *)BPF_CORE_READ(task, signal);
}

/* Since 6.16 the tracepoint itself tells whether the thread is the last of its process. */
const volatile __u8 cfg_exit_tells = 0;

/* Processes whose end was told although more threads of them were dying, so that the last threads, which die together, tell it once. */
struct ended {
	__u64 start_ns; /* of the group's leader: the id is used again, this is not */
	__u32 pid;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct ended);
	__type(value, __u8);
} ended SEC(".maps");

/* Whether a process ends with this thread. */
static __always_inline bool process_ends(const struct task_struct *task, bool group_dead)
{
	const struct signal_struct___life *signal;
	struct ended key = {};
	__u8 told = 1;

	if (cfg_exit_tells)
		return group_dead;
	signal = signal_of(task);
	if (BPF_CORE_READ(signal, live.counter) > 0)
		return false;
	key.start_ns = BPF_CORE_READ(task, group_leader, start_time);
	key.pid = BPF_CORE_READ(task, tgid);
	if (BPF_CORE_READ(signal, nr_threads) == 1)
		return !bpf_map_lookup_elem(&ended, &key);
	return !bpf_map_update_elem(&ended, &key, &told, BPF_NOEXIST);
}

/* What wait(2) gives of a process that ends. */
static __always_inline __u32 wait_status(const struct task_struct *task)
{
	const struct signal_struct___life *signal = signal_of(task);
	const struct task_struct *leader;

	if (BPF_CORE_READ(signal, flags) & SIGNAL_GROUP_EXIT)
		return BPF_CORE_READ(signal, group_exit_code);
	leader = BPF_CORE_READ(task, group_leader);
	return BPF_CORE_READ(LIFE_OF(leader), exit_code);
}

static __always_inline bool killed_for_memory(const struct task_struct *task)
{
	const struct signal_struct___life *signal = signal_of(task);

	return BPF_CORE_READ(signal, oom_mm) != NULL;
}

/* Where the arguments of the current task's program lie, and how many bytes they have, each with its NUL. */
static __always_inline __u64 arguments(const struct task_struct *task, __u64 *bytes)
{
	const struct mm_struct___life *mm = (const void *)BPF_CORE_READ(task, mm);
	__u64 start = BPF_CORE_READ(mm, arg_start), end = BPF_CORE_READ(mm, arg_end);

	*bytes = start && end > start ? end - start : 0;
	return start;
}

/* Not a thread. */
static __always_inline bool is_process(const struct task_struct *task)
{
	return BPF_CORE_READ(task, pid) == BPF_CORE_READ(task, tgid);
}

#endif
