/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is kept of targets, their threads and their sleeps. */
#ifndef KERNO_WHY_H
#define KERNO_WHY_H

#include "kernel.h"

#define MAX_TARGETS 1024
#define MAX_THREADS 8192
#define MAX_SLEEPS 32768
#define MAX_CPU_WAITS 8192
#define TARGET_SLOTS (1 << 16)

#define TASK_INTERRUPTIBLE 0x1 /* linux/sched.h */
#define TASK_UNINTERRUPTIBLE 0x2
#define TASK_STOPPED 0x4
#define TASK_TRACED 0x8
#define TASK_DEAD 0x80
#define TASK_FROZEN 0x8000 /* since 6.1 */

#define THREAD_RUNS 1
#define THREAD_WAITS 2 /* for a CPU */
#define THREAD_SLEEPS 3
#define THREAD_ENDED 4

/* What a thread sleeps in. Sleeps that are alike in all of this are added up. */
struct sleep {
	__u64 place; /* the kernel's stack in `places`; 0 where the call says enough */
	__u64 object; /* inode number, address of a futex or a lock, hash of a path in `paths` */
	__u32 device; /* of a file, as the kernel has it: major << 20 | minor */
	__u32 tid;
	__u32 other; /* a thread: who holds the lock, as far as it says; who traces */
	__u32 waker; /* the thread that ended it, 0 if an interrupt did or nobody asked */
	__u32 waker_pid;
	__s32 call; /* number of the system call, -1 for none (a page fault, a signal) */
	__s32 fd;
	__u16 flags; /* SLEEPS_* */
	__u8 kind; /* SLEEP_* */
	__u8 pad;
};
_Static_assert(sizeof(struct sleep) == 48, "struct sleep changed size");
const volatile struct sleep *const volatile layout_of_sleep SEC(".rodata") = NULL;

#define SLEEP_OTHER 0 /* the place in the kernel tells */
#define SLEEP_FILE 1
#define SLEEP_PIPE 2
#define SLEEP_SOCKET 3
#define SLEEP_DEVICE 4 /* character device, and what has an inode of none of these kinds (eventfd, inotify, ...) */
#define SLEEP_FUTEX 5
#define SLEEP_POLL 6 /* also epoll and select */
#define SLEEP_TIMER 7
#define SLEEP_CHILD 8
#define SLEEP_SIGNAL 9
#define SLEEP_LOCK 10 /* of the kernel */
#define SLEEP_PATH 11

#define SLEEPS_DEEPLY 0x01 /* uninterruptibly */
#define SLEEPS_STOPPED 0x02
#define SLEEPS_TRACED 0x04
#define SLEEPS_FROZEN 0x08
#define SLEEPS_AWAITS 0x10 /* an answer to what it has sent */
#define SLEEPS_OWES 0x20 /* an answer to what it has received */
#define SLEEPS_COMPAT 0x40 /* the call's number is of the 32-bit table */
#define SLEEPS_JOINS 0x80 /* waits for the end of thread `other` */
#define SLEEPS_LOCKED 0x100 /* a futex with the value of a lock that is taken */

struct slept {
	__u64 count;
	__u64 ns;
	__u64 longest_ns;
};
_Static_assert(sizeof(struct slept) == 24, "struct slept changed size");
const volatile struct slept *const volatile layout_of_slept SEC(".rodata") = NULL;

/* Requests of one thread that are remembered as unanswered. */
#define MAX_AWAITED 4

struct thread {
	__u64 began_ns; /* CLOCK_MONOTONIC since when all its time is accounted for */
	__u64 since_ns; /* when its present state began */
	__u64 ended_ns; /* 0 while it lives */
	__u64 start_ns; /* with tid it names the thread for good */
	__u64 run_ns;
	__u64 wait_ns; /* for a CPU, but not because of a quota */
	__u64 throttled_ns;
	__u64 throttled_mark; /* of its cgroups when it began to wait */
	__u64 lock; /* of the kernel, that it is about to wait for; 0 for none */
	__u64 awaited[MAX_AWAITED]; /* sockets, by inode number */
	struct sleep sleep; /* the present one, or the latest */
	__u32 pid;
	__u32 tid;
	__u32 state;
	__u32 lock_holder;
	__u32 owes; /* sockets with a request that it has read and not answered */
	__u32 looked; /* at what it sleeps in, from elsewhere: how many times; 0 once a hook has met it */
	__u32 parent; /* the process that forked it while both were watched; 0 if it was there before */
	__u32 pad;
	char comm[16];
};
_Static_assert(sizeof(struct thread) == 200, "struct thread changed size");
const volatile struct thread *const volatile layout_of_thread SEC(".rodata") = NULL;

struct cpu_wait_key {
	__u32 tid;
	__u32 holder; /* the process that had the CPU last, 0 the idle task */
};

/* A thread by the id that it has in its own pid namespace: what programs write into their locks. */
struct name_key {
	__u32 pid;
	__u32 tid;
};

/* How many targets have an id that ends so: most tasks are told from targets by this alone. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TARGET_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} target_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_TARGETS);
	__type(key, __u32); /* process */
	__type(value, __u32);
} targets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_THREADS);
	__type(key, __u32);
	__type(value, struct thread);
} threads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_THREADS);
	__type(key, struct name_key);
	__type(value, __u32);
} thread_names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SLEEPS);
	__type(key, struct sleep);
	__type(value, struct slept);
} sleeps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CPU_WAITS);
	__type(key, struct cpu_wait_key);
	__type(value, __u64); /* nanoseconds */
} cpu_waits SEC(".maps");

static __always_inline bool is_target(__u32 pid)
{
	__u32 slot = pid & (TARGET_SLOTS - 1), *found = bpf_map_lookup_elem(&target_slots, &slot);

	return found && *found && pid && bpf_map_lookup_elem(&targets, &pid);
}

/* A child of a target is one, too: servers fork for each connection, scripts for each command. */
static __always_inline void follow(__u32 pid)
{
	__u32 slot = pid & (TARGET_SLOTS - 1), one = 1, *found;

	if (bpf_map_update_elem(&targets, &pid, &one, BPF_NOEXIST))
		return;
	found = bpf_map_lookup_elem(&target_slots, &slot);
	if (found)
		__sync_fetch_and_add(found, 1);
}

/* When it has ended: there is room for another. */
static __always_inline void no_longer_follow(__u32 pid)
{
	__u32 slot = pid & (TARGET_SLOTS - 1), *found;

	if (bpf_map_delete_elem(&targets, &pid))
		return;
	found = bpf_map_lookup_elem(&target_slots, &slot);
	if (found)
		__sync_fetch_and_add(found, -1);
}

static __always_inline __u32 state_of(const struct task_struct *task)
{
	if (bpf_core_field_exists(task->__state))
		return task->__state;
	return BPF_CORE_READ((const struct task_struct___pre_5_14 *)task, state);
}

struct upid {
	int nr;
} CORE;

#define UPID_SIZE 16 /* with a pointer to the namespace */

struct pid {
	unsigned int level;
	struct upid numbers[1]; /* for each level */
} CORE;

struct cfs_bandwidth {
	__u64 throttled_time; /* summed over CPUs; of each, added when it ends */
} CORE;

struct task_group {
	struct cfs_bandwidth cfs_bandwidth;
	struct task_group *parent;
} CORE;

struct task_struct___why {
	struct pid *thread_pid;
	struct task_struct *parent; /* the tracer's, while there is one */
	struct task_group *sched_task_group;
	int on_cpu; /* CONFIG_SMP */
	unsigned int frozen : 1; /* by its cgroup, v2; since 5.2 */
} CORE;

/* The thread's id in its own pid namespace. */
static __always_inline __u32 own_tid(const struct task_struct *task)
{
	const struct pid *pid = BPF_CORE_READ((const struct task_struct___why *)task, thread_pid);
	__u32 nr = 0; /* the first field of its upid */

	if (!pid)
		return 0;
	bpf_probe_read_kernel(&nr, sizeof(nr),
			      (const char *)&pid->numbers +
				      (BPF_CORE_READ(pid, level) & 31) * UPID_SIZE);
	return nr;
}

static __always_inline bool on_cpu(const struct task_struct *task)
{
	const struct task_struct___why *more = (const void *)task;

	return bpf_core_field_exists(more->on_cpu) && BPF_CORE_READ(more, on_cpu);
}

#define MAX_GROUP_DEPTH 6

/*
 * How long the quotas of its cgroup and of those above have held somebody back. What this grows by while a thread waits is the part
 * of the wait that is a quota's; with several CPUs it may be more than that part.
 */
static __always_inline __u64 throttled_until_now(const struct task_struct *task)
{
	const struct task_struct___why *more = (const void *)task;
	const struct task_group *group = NULL;
	__u64 ns = 0;

	if (!bpf_core_field_exists(more->sched_task_group) || !bpf_core_field_exists(group->cfs_bandwidth.throttled_time))
		return 0;
	group = BPF_CORE_READ(more, sched_task_group);
	for (int depth = 0; depth < MAX_GROUP_DEPTH && group; depth++) {
		ns += BPF_CORE_READ(group, cfs_bandwidth.throttled_time);
		group = BPF_CORE_READ(group, parent);
	}
	return ns;
}

#endif
