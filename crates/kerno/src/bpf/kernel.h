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
	unsigned int __state; /* `volatile long state` before 5.14 (2f064a59a11f): struct task_struct___pre_5_14 */
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

#endif
