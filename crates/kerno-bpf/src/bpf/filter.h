/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The filters every signal shares, with knobs of its own. All are constants by the time the verifier sees them, so a filter that is
 * not asked for costs nothing: its code is removed. Lists hold at most the number given here; the loader refuses longer ones.
 */
#ifndef KERNO_FILTER_H
#define KERNO_FILTER_H

#include "event.h"
#include "kernel.h"

#define MAX_FILTER_PIDS 64
#define MAX_FILTER_COMMS 16
#define MAX_FILTER_UIDS 16
#define MAX_FILTER_CGROUPS 16
#define MAX_CGROUP_DEPTH 32

const volatile __u32 cfg_self_tgid[SIGNALS] = {}; /* our own process, 0 to include it */
const volatile __u32 cfg_pid_count[SIGNALS] = {};
const volatile __u32 cfg_pids[SIGNALS][MAX_FILTER_PIDS] = {};
const volatile __u32 cfg_uid_count[SIGNALS] = {};
const volatile __u32 cfg_uids[SIGNALS][MAX_FILTER_UIDS] = {};
const volatile __u32 cfg_comm_count[SIGNALS] = {};
const volatile __u64 cfg_comms[SIGNALS][MAX_FILTER_COMMS][2] = {}; /* NUL-padded names as two words */
const volatile __u32 cfg_cgroup_count[SIGNALS] = {};
const volatile __u64 cfg_cgroups[SIGNALS][MAX_FILTER_CGROUPS] = {};
const volatile __u64 cfg_min_latency_ns[SIGNALS] = {};
const volatile __u8 cfg_errors_only[SIGNALS] = {};

static __always_inline bool listed_u32(const volatile __u32 *list, __u32 count, __u32 max, __u32 value)
{
	for (__u32 i = 0; i < max && i < count; i++)
		if (list[i] == value)
			return true;
	return false;
}

#define pid_passes(tgid) pid_passes_of(SIGNAL, tgid)
static __always_inline bool pid_passes_of(__u32 signal, __u32 tgid)
{
	if (cfg_self_tgid[signal] && tgid == cfg_self_tgid[signal])
		return false;
	if (!cfg_pid_count[signal])
		return true;
	if (cfg_pid_count[signal] == 1)
		return tgid == cfg_pids[signal][0];
	return listed_u32(cfg_pids[signal], cfg_pid_count[signal], MAX_FILTER_PIDS, tgid);
}

#define uid_passes(uid) uid_passes_of(SIGNAL, uid)
static __always_inline bool uid_passes_of(__u32 signal, __u32 uid)
{
	return !cfg_uid_count[signal] || listed_u32(cfg_uids[signal], cfg_uid_count[signal], MAX_FILTER_UIDS, uid);
}

/* comm must be aligned to 8 bytes, as it is in every record. */
#define comm_passes(comm) comm_passes_of(SIGNAL, comm)
static __always_inline bool comm_passes_of(__u32 signal, const char *comm)
{
	const __u64 *words = (const __u64 *)comm;

	if (!cfg_comm_count[signal])
		return true;
	for (__u32 i = 0; i < MAX_FILTER_COMMS && i < cfg_comm_count[signal]; i++)
		if (cfg_comms[signal][i][0] == words[0] && cfg_comms[signal][i][1] == words[1])
			return true;
	return false;
}

/* Fills 16 bytes, NUL-padded: strncpy semantics, so that comparing whole words is right. */
static __always_inline void task_comm(char *comm, const struct task_struct *task)
{
	__builtin_memset(comm, 0, TASK_COMM_LEN);
	bpf_core_read_str(comm, TASK_COMM_LEN, &task->comm);
}

static __always_inline __u64 task_cgroup_id(const struct task_struct *task)
{
	return BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
}

static __always_inline bool cgroup_listed(__u32 signal, __u64 id)
{
	for (__u32 i = 0; i < MAX_FILTER_CGROUPS && i < cfg_cgroup_count[signal]; i++)
		if (cfg_cgroups[signal][i] == id)
			return true;
	return false;
}

/* True when the task is in one of the asked cgroups or below one: walked upwards, so cgroups created later count. */
#define cgroup_passes(task) cgroup_passes_of(SIGNAL, task)
static __always_inline bool cgroup_passes_of(__u32 signal, const struct task_struct *task)
{
	const struct cgroup_subsys_state *css;
	const struct cgroup *cgrp;

	if (!cfg_cgroup_count[signal])
		return true;
	cgrp = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	for (int depth = 0; depth < MAX_CGROUP_DEPTH && cgrp; depth++) {
		if (cgroup_listed(signal, BPF_CORE_READ(cgrp, kn, id)))
			return true;
		css = BPF_CORE_READ(cgrp, self.parent);
		cgrp = css ? BPF_CORE_READ(css, cgroup) : NULL;
	}
	return false;
}

/* The shared filters on any task, cheapest first; the caller has its tgid by the cheapest way there is. */
#define task_passes(task, tgid) task_passes_of(SIGNAL, task, tgid)
static __always_inline bool task_passes_of(__u32 signal, const struct task_struct *task, __u32 tgid)
{
	char comm[TASK_COMM_LEN] __attribute__((aligned(8)));

	if (!pid_passes_of(signal, tgid))
		return false;
	if (cfg_uid_count[signal] && !uid_passes_of(signal, BPF_CORE_READ(task, cred, uid.val)))
		return false;
	if (cfg_comm_count[signal]) {
		task_comm(comm, task);
		if (!comm_passes_of(signal, comm))
			return false;
	}
	return cgroup_passes_of(signal, task);
}

static __always_inline const struct task_struct *current_task(void)
{
	return (const struct task_struct *)bpf_get_current_task();
}

/*
 * The shared filters on the current task, cheapest first. Each helper is called behind the knob that needs it: the verifier
 * removes the branch of an unset knob, but not a call before it.
 */
#define current_passes(pid_tgid) current_passes_of(SIGNAL, pid_tgid)
static __always_inline bool current_passes_of(__u32 signal, __u64 pid_tgid)
{
	/* Cleared: from 5.18 to 6.3 the helper leaves alone what follows the name's word. */
	char comm[TASK_COMM_LEN] __attribute__((aligned(8))) = {};

	if (!pid_passes_of(signal, pid_tgid >> 32))
		return false;
	if (cfg_uid_count[signal] && !uid_passes_of(signal, (__u32)bpf_get_current_uid_gid()))
		return false;
	if (cfg_comm_count[signal]) {
		bpf_get_current_comm(comm, sizeof(comm));
		if (!comm_passes_of(signal, comm))
			return false;
	}
	return !cfg_cgroup_count[signal] || cgroup_passes_of(signal, current_task());
}

#endif
