/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sched_delay: how long a task that could run waited for a CPU, and who held that CPU until then.
 *
 * hooks   tp_btf/sched_switch, tp_btf/sched_wakeup, tp_btf/sched_wakeup_new
 * key     thread id, direct-mapped (start.h); data is why it waits
 * cost    a wake-up: one timestamp and one array slot; a switch: two slots, and one timestamp where a wait begins or
 *         ends; a task that the filters refuse when its wait begins costs no timestamp. Names are read only for an event
 * not     waits that began before it attached; the idle task; time stolen by a hypervisor or by interrupts, which is
 *         no wait in the queue
 *
 * One task's wake-ups and switches follow each other in order, by the kernel's run queue locks:
 * - a wake-up of a blocked task is traced only after the switch away from it;
 * - a task that is woken before it has left the CPU stays there: whatever the wake-up stored is cleared or overwritten
 *   at the next switch away from it;
 * - every task is switched away from once more when it has exited, so its slot is empty when its id is used again.
 */
#include "kernel.h"
#include "event.h"
#include "filter.h"
#include "emit.h"
#include "start.h"

#define REASON_WAKEUP 1
#define REASON_PREEMPTED 2
#define REASON_NEW 3

struct sched_event {
	__u64 timestamp_ns; /* CLOCK_MONOTONIC when it got the CPU */
	__u64 runq_delay_ns;
	__u64 cgroup_id;
	__u32 pid;
	__u32 tid;
	__u32 cpu;
	__u32 prev_pid; /* 0: the idle task */
	__u32 prev_tid;
	__u8 reason;
	__u8 pad0[3];
	char comm[TASK_COMM_LEN];
	char prev_comm[TASK_COMM_LEN];
};
ASSERT_RECORD(struct sched_event, 80);
KEEP_LAYOUT(struct sched_event);

struct task_struct___pre_5_14 {
	long state;
} CORE;

/*
 * Whether the task that leaves the CPU waits for it again. The task's state is read rather than the hook's prev_state, which
 * came in 5.18 (there as the second argument at first) and for years was stale when a pending signal kept the task
 * from sleeping. A blocked task that another CPU is waking is TASK_WAKING here at most: it cannot be TASK_RUNNING before
 * this switch is over.
 */
static __always_inline bool stays_runnable(bool preempt, struct task_struct *task)
{
	if (preempt)
		return true;
	if (bpf_core_field_exists(task->__state))
		return !task->__state;
	return !((struct task_struct___pre_5_14 *)task)->state;
}

static __always_inline int wait_begins(struct task_struct *task, __u32 reason)
{
	__u32 tid = task->pid;
	struct start_slot *slot;

	if (!task_passes(task, task->tgid))
		return 0;
	slot = start_slot(tid);
	if (!slot)
		return 0;
	/* Woken while it waits already (it was preempted on its way to sleep): the wait goes on. */
	if (reason == REASON_WAKEUP && slot->ns && slot->tid == tid)
		return 0;
	start_set(slot, tid, reason);
	return 0;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(on_sched_wakeup, struct task_struct *task)
{
	return wait_begins(task, REASON_WAKEUP);
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(on_sched_wakeup_new, struct task_struct *task)
{
	return wait_begins(task, REASON_NEW);
}

/* Typed arguments: their fields are plain loads that the verifier checks, not calls. */
SEC("tp_btf/sched_switch")
int BPF_PROG(on_sched_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	__u32 prev_tid = prev->pid, next_tid = next->pid, reason;
	struct sched_event *event;
	struct start_slot *slot;
	__u64 now = 0, start, delay;

	/* Id 0 is every CPU's idle task, always runnable and never waiting. */
	slot = prev_tid ? start_slot(prev_tid) : NULL;
	if (slot) {
		if (stays_runnable(preempt, prev) && task_passes(prev, prev->tgid)) {
			now = bpf_ktime_get_ns();
			start_set_at(slot, prev_tid, REASON_PREEMPTED, now);
		} else if (slot->ns && slot->tid == prev_tid) {
			slot->ns = 0;
		}
	}

	slot = next_tid ? start_slot(next_tid) : NULL;
	if (!slot || !slot->ns || slot->tid != next_tid)
		return 0;
	start = slot->ns;
	reason = slot->data;
	slot->ns = 0;
	if (!now)
		now = bpf_ktime_get_ns();
	/* The wait may have begun by another CPU's clock, which may be a little ahead. */
	delay = now > start ? now - start : 0;
	if (delay < cfg_min_latency_ns)
		return 0;

	event = event_reserve(struct sched_event);
	if (!event)
		return 0;
	event->timestamp_ns = now;
	event->runq_delay_ns = delay;
	event->cgroup_id = next->cgroups->dfl_cgrp->kn->id;
	event->pid = next->tgid;
	event->tid = next_tid;
	event->cpu = bpf_get_smp_processor_id();
	event->prev_pid = prev->tgid;
	event->prev_tid = prev_tid;
	event->reason = reason;
	task_comm(event->comm, next);
	task_comm(event->prev_comm, prev);
	event_submit(event);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
