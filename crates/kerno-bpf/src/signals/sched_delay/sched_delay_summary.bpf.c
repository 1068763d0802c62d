/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sched_delay_summary: how long tasks that could run waited for a CPU, added up; and for long waits after a wake-up, who
 * waited and who held that CPU until then.
 *
 * hooks   tp_btf/sched_switch, tp_btf/sched_wakeup, tp_btf/sched_wakeup_new
 * key     this CPU; long waits: process, and process that held the CPU
 * cost    a wake-up: one timestamp and one array slot; a switch: two slots, this CPU's block, and one timestamp where a
 *         wait begins or ends. Hash maps and names only for waits of cfg_slow_ns and more after a wake-up
 * not     waits that began before it attached; the idle task; time stolen by a hypervisor or by interrupts, which is
 *         no wait in the queue
 */
#include "kernel.h"
#include "block.h"
#include "event.h"
#include "filter.h"
#include "histogram.h"
#include "runq.h"

#define MAX_WAITERS 512
#define MAX_HOLDERS 2048

const volatile __u64 cfg_slow_ns = 5000000;

/*
 * A run of this length makes others wait. Whoever ran for less just before a long wait ended was first in the queue, and waited
 * for the same CPU himself.
 */
#define LONG_RUN_NS 1000000

struct sched_block {
	struct histogram woken_ns; /* waits after a wake-up, and of new tasks */
	struct histogram preempted_ns; /* waits of tasks that could have run on */
	__u64 switches;
	__u64 since_ns; /* since when its task has the CPU; 0 where no wait began or ended at that switch */
	__u64 held_until_ns; /* the latest run of LONG_RUN_NS and more: its end, and whose it was */
	__u32 held_by;
	__u32 pad0;
	char held_comm[TASK_COMM_LEN];
	__u64 pad1[2];
};
PER_CPU_BLOCK(sched_block, struct sched_block);
const volatile struct sched_block *const volatile layout_of_block SEC(".rodata") = NULL;

/* A process's long waits. */
struct slow_waiter {
	__u64 count;
	__u64 total_ns;
	__u64 max_ns; /* two CPUs at once may lose the higher one by a hair */
	__u64 first_ns; /* CLOCK_MONOTONIC when the first of them ended */
	char comm[TASK_COMM_LEN]; /* the thread's that waited first */
};
_Static_assert(sizeof(struct slow_waiter) == 48, "struct slow_waiter changed size");
const volatile struct slow_waiter *const volatile layout_of_waiter SEC(".rodata") = NULL;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_WAITERS);
	__type(key, __u32); /* process */
	__type(value, struct slow_waiter);
} slow_waiters SEC(".maps");

struct holder_key {
	__u32 waiter; /* process */
	__u32 holder; /* process, 0 the idle task */
};
_Static_assert(sizeof(struct holder_key) == 8, "struct holder_key changed size");

/* Who held the CPU: the latest that ran long on it during the wait; if none did, who left it when the wait ended. */
struct holder {
	__u64 count;
	char comm[TASK_COMM_LEN];
};
_Static_assert(sizeof(struct holder) == 24, "struct holder changed size");
const volatile struct holder *const volatile layout_of_holder SEC(".rodata") = NULL;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_HOLDERS);
	__type(key, struct holder_key);
	__type(value, struct holder);
} slow_holders SEC(".maps");

/* We do not count our own waits. */
static __always_inline bool is_own(const struct task_struct *task)
{
	return cfg_self_tgid[SIGNAL] && (__u32)task->tgid == cfg_self_tgid[SIGNAL];
}

static __always_inline struct slow_waiter *slow_waiter(struct task_struct *task, __u64 now)
{
	struct slow_waiter *found, fresh;
	__u32 pid = task->tgid;

	found = bpf_map_lookup_elem(&slow_waiters, &pid);
	if (found)
		return found;
	__builtin_memset(&fresh, 0, sizeof(fresh));
	fresh.first_ns = now;
	task_comm(fresh.comm, task);
	bpf_map_update_elem(&slow_waiters, &pid, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&slow_waiters, &pid);
}

static __always_inline void count_holder(const struct sched_block *block, struct task_struct *prev, __u32 waiter,
					 __u64 began)
{
	bool known = block->held_by && block->held_until_ns >= began;
	struct holder_key key = { .waiter = waiter, .holder = known ? block->held_by : (__u32)prev->tgid };
	struct holder *found, fresh;

	found = bpf_map_lookup_elem(&slow_holders, &key);
	if (!found) {
		__builtin_memset(&fresh, 0, sizeof(fresh));
		if (known)
			__builtin_memcpy(fresh.comm, block->held_comm, sizeof(fresh.comm));
		else
			task_comm(fresh.comm, prev);
		bpf_map_update_elem(&slow_holders, &key, &fresh, BPF_NOEXIST);
		found = bpf_map_lookup_elem(&slow_holders, &key);
	}
	if (found)
		__sync_fetch_and_add(&found->count, 1);
	else
		count_overflow();
}

static __always_inline void waited_long(const struct sched_block *block, struct task_struct *prev,
					struct task_struct *next, __u64 now, __u64 delay)
{
	struct slow_waiter *waiter = slow_waiter(next, now);

	if (!waiter) {
		count_overflow();
		return;
	}
	__sync_fetch_and_add(&waiter->count, 1);
	__sync_fetch_and_add(&waiter->total_ns, delay);
	if (delay > waiter->max_ns)
		waiter->max_ns = delay;
	count_holder(block, prev, next->tgid, now - delay);
}

/* Remembers a task that leaves the CPU after a long run. */
static __always_inline void note_run(struct sched_block *block, struct task_struct *prev, __u64 now)
{
	if (now && block->since_ns && prev->pid && now - block->since_ns >= LONG_RUN_NS) {
		block->held_until_ns = now;
		block->held_by = prev->tgid;
		task_comm(block->held_comm, prev);
	}
	block->since_ns = now;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(on_sched_wakeup, struct task_struct *task)
{
	if (!is_own(task))
		wait_begins(task->pid, REASON_WAKEUP);
	return 0;
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(on_sched_wakeup_new, struct task_struct *task)
{
	if (!is_own(task))
		wait_begins(task->pid, REASON_NEW);
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_sched_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	struct sched_block *block = this_cpu_block(&sched_block);
	__u64 now, delay = 0;
	__u32 reason = 0;
	bool waited;

	if (!block)
		return 0;
	block->switches++;
	now = leaves_cpu(stays_runnable(preempt, prev) && !is_own(prev), prev);
	waited = gets_cpu(next->pid, &now, &delay, &reason);
	note_run(block, prev, now);
	if (!waited)
		return 0;
	if (reason == REASON_PREEMPTED) {
		histogram_add(&block->preempted_ns, delay);
		return 0;
	}
	histogram_add(&block->woken_ns, delay);
	if (delay >= cfg_slow_ns)
		waited_long(block, prev, next, now, delay);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
