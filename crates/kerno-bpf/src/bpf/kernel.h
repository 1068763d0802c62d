/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel types the programs read: only the fields that are read, found by name in the running kernel's BTF (CO-RE),
 * so offsets here mean nothing. A field whose shape changed carries the version and the way the reader tells them apart.
 * A type that only one signal reads is declared in that signal's own file.
 */
#ifndef KERNO_KERNEL_H
#define KERNO_KERNEL_H

#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define CORE __attribute__((preserve_access_index))

/* Keeps the compiler from dropping a bound that the verifier needs to see. */
#define OPAQUE(variable) asm volatile("" : "+r"(variable))

typedef __u32 kuid_val;

typedef struct {
	int counter;
} CORE atomic_t;

struct kernfs_node {
	__u64 id; /* a plain u64 since 5.5; the cgroup id that user space sees */
} CORE;

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
} CORE;

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
} CORE;

struct css_set {
	struct cgroup *dfl_cgrp; /* the cgroup v2 membership, also on v1 and hybrid hosts */
} CORE;

struct kuid {
	kuid_val val;
};

typedef struct {
	kuid_val val;
} CORE kuid_t;

struct cred {
	kuid_t uid;
} CORE;

struct thread_info {
	__u32 status; /* x86 only; TS_COMPAT below */
	unsigned long flags;
} CORE;

struct files_struct;
struct fs_struct;
struct mm_struct;
struct signal_struct;

struct task_struct {
	struct thread_info thread_info;
	unsigned int __state;
	int exit_state;
	int pid;
	int tgid;
	unsigned int flags;
	struct task_struct *group_leader;
	__u64 start_time; /* CLOCK_MONOTONIC, in nanoseconds */
	char comm[16];
	const struct cred *cred;
	struct mm_struct *mm;
	struct fs_struct *fs;
	struct files_struct *files;
	struct signal_struct *signal;
	struct css_set *cgroups;
} CORE;

struct task_struct___pre_5_14 { /* 2f064a59a11f */
	long state;
} CORE;

/*
 * Linux 5.11 lets a program look into the current task without a call for each look. It is a constant when the program is loaded:
 * what the kernel lacks is not there to be verified.
 */
#define LOOKS_INTO_TASK bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)

/* A word of a name without what an earlier, longer name has left behind its NUL, and whether it has one. Little-endian. */
static __always_inline bool cut_at_nul(__u64 *word)
{
	__u64 nul = (*word - 0x0101010101010101ull) & ~*word & 0x8080808080808080ull;

	if (!nul)
		return false;
	*word &= ((nul & -nul) >> 7) - 1;
	return true;
}

/* bpf_get_current_comm() without the call, of a task that the program may look into. `comm` is aligned to 8 bytes. */
static __always_inline void comm_of(char *comm, const struct task_struct *task)
{
	const __u64 *from = (const __u64 *)&task->comm;
	__u64 first = from[0], second = from[1];

	if (cut_at_nul(&first))
		second = 0;
	else
		cut_at_nul(&second);
	((__u64 *)comm)[0] = first;
	((__u64 *)comm)[1] = second;
}

#endif
