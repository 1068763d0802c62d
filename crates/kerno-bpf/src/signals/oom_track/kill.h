/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whom the kernel chose to kill, for both planes. The file that includes this says where a kill goes: kill_reserve() gives a
 * zeroed record or NULL, kill_submit() takes it.
 *
 * The hook does not tell whose limit was hit. But a task that ends up in the OOM killer has always tried to reclaim
 * first: in a cgroup's name when the cgroup's limit was hit, directly when the machine had nothing left. So what a
 * thread did last is remembered.
 */
#ifndef KERNO_OOM_KILL_H
#define KERNO_OOM_KILL_H

#include "kernel.h"
#include "event.h"
#include "filter.h"
#include "memory_cgroup.h"

#define SCOPE_UNKNOWN 1
#define SCOPE_GLOBAL 2
#define SCOPE_CGROUP 3

#define SIGKILL 9
#define PF_KTHREAD 0x00200000 /* linux/sched.h */
#define OOM_SCORE_ADJ_MIN (-1000)

/* linux/mm_types_task.h */
#define MM_FILEPAGES 0
#define MM_ANONPAGES 1
#define MM_SWAPENTS 2
#define MM_SHMEMPAGES 3

struct oom_event {
	__u64 timestamp_ns; /* CLOCK_MONOTONIC */
	__u64 cgroup_id; /* the victim's in the v2 hierarchy; 0: unknown */
	__u64 total_pages;
	__u64 rss_pages;
	__u64 anon_pages;
	__u64 file_pages;
	__u64 shmem_pages;
	__u64 swap_pages;
	__u64 pgtables_bytes;
	__u32 pid; /* the victim's */
	__u32 triggered_pid;
	__s32 oom_score;
	__u32 uid;
	__s16 oom_score_adj;
	__u8 scope;
	__u8 known; /* the victim's figures could be read */
	__u8 pad0[4];
	char comm[TASK_COMM_LEN];
	char triggered_comm[TASK_COMM_LEN];
};
ASSERT_RECORD(struct oom_event, 128);
KEEP_LAYOUT(struct oom_event);

static __always_inline struct oom_event *kill_reserve(void);
/* victim is NULL where only its pid is known. */
static __always_inline void kill_submit(struct oom_event *event, const struct task_struct *victim);

struct percpu_counter {
	__s64 count; /* without what each CPU holds back */
	__s32 *counters; /* a per-CPU pointer */
} CORE;

struct bpf_array {
	void *pptrs[0]; /* per-CPU pointers, in the map of a per-CPU array */
} CORE;

typedef struct {
	__s64 counter;
} CORE atomic_long_t;

struct mm_struct {
	unsigned long total_vm;
	atomic_long_t pgtables_bytes;
	struct percpu_counter rss_stat[4]; /* since 6.2 (f1a7941243c1) */
} CORE;

/* Before 6.2 */
struct mm_rss_stat {
	atomic_long_t count[4];
} CORE;

struct mm_struct___pre_6_2 {
	struct mm_rss_stat rss_stat;
} CORE;

struct signal_struct {
	short oom_score_adj;
} CORE;

const volatile __u64 cfg_total_pages = 0; /* memory and swap, as the kernel's badness uses them */
const volatile __u64 cfg_page_size = 4096;

/* The kernel's OOM killer counts in what each CPU holds back, and so do we: the number of possible CPUs, else 0. */
const volatile __u32 cfg_exact_cpus = 0;
#define MAX_EXACT_CPUS 8192

/*
 * No data: where its copies lie tells how far from a per-CPU pointer each CPU's copy of anything is. Into each element is written
 * only ever one address, whichever CPU does it: the first one's copies take their own, the second one's the map's.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} cpu_copies SEC(".maps");

/* What a thread did last. An id that another thread of the same slot overwrote is unknown. */
struct last_act {
	__u32 tid;
	__u32 scope;
	__u64 victim; /* the task it sent SIGKILL to, an address */
};

#define LAST_ACTS 4096

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LAST_ACTS);
	__type(key, __u32);
	__type(value, struct last_act);
} last_acts SEC(".maps");

static __always_inline struct last_act *last_act(__u32 tid)
{
	__u32 index = tid % LAST_ACTS;

	return bpf_map_lookup_elem(&last_acts, &index);
}

static __always_inline int reclaims(__u32 scope)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct last_act *act = last_act(tid);

	if (!act)
		return 0;
	act->tid = tid;
	act->scope = scope;
	act->victim = 0;
	return 0;
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_begin")
int BPF_PROG(on_memcg_reclaim)
{
	return reclaims(SCOPE_CGROUP);
}

SEC("tp_btf/mm_vmscan_direct_reclaim_begin")
int BPF_PROG(on_direct_reclaim)
{
	return reclaims(SCOPE_GLOBAL);
}

/*
 * Each thread of a dying process that runs out of memory itself is marked once more. A process is told of once: known
 * by its id and when it began.
 */
struct told {
	__u64 start_time;
	__u32 pid;
	__u32 pad0;
};

#define TOLD 256

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TOLD);
	__type(key, __u32);
	__type(value, struct told);
} told SEC(".maps");

static __always_inline bool told_before(const struct task_struct *victim, __u32 pid)
{
	__u64 start_time = BPF_CORE_READ(victim, group_leader, start_time);
	__u32 index = pid % TOLD;
	struct told *slot = bpf_map_lookup_elem(&told, &index);

	if (!slot)
		return false;
	if (slot->pid == pid && slot->start_time == start_time)
		return true;
	slot->pid = pid;
	slot->start_time = start_time;
	return false;
}

static __always_inline __u32 scope_of(__u32 tid)
{
	struct last_act *act = last_act(tid);

	if (act && act->tid == tid && act->scope)
		return act->scope;
	/* A kernel thread that did not reclaim carries out someone's request: the SysRq key's, which is global. */
	if (BPF_CORE_READ(current_task(), flags) & PF_KTHREAD)
		return SCOPE_GLOBAL;
	return SCOPE_UNKNOWN;
}

/* An address as a number: the verifier lets nothing be added to what it knows to be a pointer. */
static __always_inline __u64 as_number(volatile __u64 *through, const void *pointer)
{
	*through = (__u64)pointer;
	return *through;
}

/* A counter and what each CPU holds back of it, as percpu_counter_sum(). Not static: the verifier looks at it once. */
__noinline __s64 counter_sum(__u64 address)
{
	const struct percpu_counter *counter = (const void *)address;
	__s64 sum = BPF_CORE_READ(counter, count);
	__u64 counters = (__u64)BPF_CORE_READ(counter, counters), map, base = 0, *copy;
	__u32 first = 0, second = 1;
	__s32 held;

	copy = cfg_exact_cpus ? bpf_map_lookup_elem(&cpu_copies, &second) : NULL;
	if (!copy)
		return sum;
	map = as_number(copy, &cpu_copies);
	bpf_probe_read_kernel(&base, sizeof(base), (const void *)(map + bpf_core_field_offset(struct bpf_array, pptrs)));
	for (__u32 cpu = 0; cpu < MAX_EXACT_CPUS && cpu < cfg_exact_cpus; cpu++) {
		copy = bpf_map_lookup_percpu_elem(&cpu_copies, &first, cpu);
		if (!copy)
			break;
		held = 0;
		bpf_probe_read_kernel(&held, sizeof(held), (const void *)(counters + as_number(copy, copy) - base));
		sum += held;
	}
	return sum;
}

/*
 * As the kernel's own line in the log: a counter that is negative for a moment is 0. A macro, because the index must be
 * a literal: the size of an element is the running kernel's.
 */
#define mm_counter(mm, member)                                                                                         \
	({                                                                                                             \
		const struct mm_struct___pre_6_2 *__old = (const void *)(mm);                                          \
		__s64 __pages = 0;                                                                                     \
		if (cfg_exact_cpus && bpf_core_field_exists((mm)->rss_stat[member].count))                             \
			__pages = counter_sum((__u64)__builtin_preserve_access_index(&(mm)->rss_stat[member]));        \
		else if (bpf_core_field_exists((mm)->rss_stat[member].count))                                          \
			__pages = BPF_CORE_READ(mm, rss_stat[member].count);                                           \
		else if (bpf_core_field_exists(__old->rss_stat.count))                                                 \
			__pages = BPF_CORE_READ(__old, rss_stat.count[member].counter);                                \
		__pages > 0 ? (__u64)__pages : 0;                                                                      \
	})

/* oom_badness() and proc_oom_score(), Linux 5.9 and later. */
static __always_inline __s32 oom_score(const struct oom_event *event)
{
	__s64 total = cfg_total_pages, points, part;

	if (!total || event->oom_score_adj == OOM_SCORE_ADJ_MIN)
		return 0;
	points = event->rss_pages + event->swap_pages + event->pgtables_bytes / cfg_page_size;
	points += event->oom_score_adj * (__s64)((__u64)total / 1000);
	/* Division rounds towards zero; BPF's is unsigned. */
	part = points < 0 ? -(__s64)((__u64)-points * 1000 / (__u64)total) : (__s64)((__u64)points * 1000 / (__u64)total);
	return part < -1000 ? 0 : (__u64)(1000 + part) * 2 / 3;
}

/*
 * The victim's cgroup in the v2 hierarchy. Where v1 hierarchies have the controllers, most hosts leave everybody at the root of v2, or do
 * not even mount it: that tells nothing of whoever ran out of memory.
 */
static __always_inline __u64 victim_cgroup_id(const struct task_struct *victim)
{
	const struct cgroup *cgroup = BPF_CORE_READ(victim, cgroups, dfl_cgrp);
	const struct cgroup_subsys_state *memory = memory_css(victim);

	if (memory && BPF_CORE_READ(memory, cgroup) != cgroup && !BPF_CORE_READ(cgroup, self.parent))
		return 0;
	return BPF_CORE_READ(cgroup, kn, id);
}

static __always_inline void read_victim(struct oom_event *event, const struct task_struct *victim)
{
	const struct mm_struct *mm = BPF_CORE_READ(victim, mm);

	event->known = 1;
	event->cgroup_id = victim_cgroup_id(victim);
	event->uid = BPF_CORE_READ(victim, cred, uid.val);
	event->oom_score_adj = BPF_CORE_READ(victim, signal, oom_score_adj);
	task_comm(event->comm, victim);
	if (!mm)
		return;
	event->total_pages = BPF_CORE_READ(mm, total_vm);
	event->anon_pages = mm_counter(mm, MM_ANONPAGES);
	event->file_pages = mm_counter(mm, MM_FILEPAGES);
	event->shmem_pages = mm_counter(mm, MM_SHMEMPAGES);
	event->swap_pages = mm_counter(mm, MM_SWAPENTS);
	event->rss_pages = event->anon_pages + event->file_pages + event->shmem_pages;
	event->pgtables_bytes = BPF_CORE_READ(mm, pgtables_bytes.counter);
	event->oom_score = oom_score(event);
}

/* Without the task only the pid is known. */
static __always_inline int victim_marked(const struct task_struct *victim, __u32 pid)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct oom_event *event;

	if (victim) {
		pid = BPF_CORE_READ(victim, tgid);
		if (!task_passes(victim, pid) || told_before(victim, pid))
			return 0;
	} else if (!pid_passes(pid) || cfg_uid_count[SIGNAL] || cfg_comm_count[SIGNAL] || cfg_cgroup_count[SIGNAL]) {
		return 0;
	}
	event = kill_reserve();
	if (!event)
		return 0;
	event->timestamp_ns = bpf_ktime_get_ns();
	event->pid = pid;
	event->triggered_pid = pid_tgid >> 32;
	event->scope = scope_of(pid_tgid);
	bpf_get_current_comm(event->triggered_comm, sizeof(event->triggered_comm));
	if (victim)
		read_victim(event, victim);
	kill_submit(event, victim);
	return 0;
}

SEC("tp_btf/mark_victim")
int BPF_PROG(on_mark_victim, struct task_struct *victim)
{
	return victim_marked(victim, 0);
}

/* The kill's signal is sent just before mark_victim, by the same thread, which holds the victim's lock over both. */
SEC("tp_btf/signal_generate")
int BPF_PROG(on_signal_generate, int sig, void *info, struct task_struct *task)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct last_act *act;

	if (sig != SIGKILL)
		return 0;
	act = last_act(tid);
	if (!act)
		return 0;
	if (act->tid != tid)
		act->scope = 0;
	act->tid = tid;
	act->victim = (__u64)task;
	return 0;
}

static __always_inline int pid_marked(int pid)
{
	__u32 tid = bpf_get_current_pid_tgid();
	const struct task_struct *victim = NULL;
	struct last_act *act = last_act(tid);

	if (act && act->tid == tid)
		victim = (const struct task_struct *)act->victim;
	if (victim && BPF_CORE_READ(victim, pid) != pid)
		victim = NULL;
	/* The one that ran out is marked without a signal when it is dying already. */
	if (!victim && (__u32)pid == tid)
		victim = current_task();
	return victim_marked(victim, pid);
}

SEC("tp_btf/mark_victim")
int BPF_PROG(on_mark_victim_pid, int pid)
{
	return pid_marked(pid);
}

#endif
