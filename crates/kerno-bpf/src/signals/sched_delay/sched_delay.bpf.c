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
 */
#include "kernel.h"
#include "event.h"
#include "filter.h"
#include "emit.h"
#include "runq.h"

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

static __always_inline int woken(struct task_struct *task, __u32 reason)
{
	if (task_passes(task, task->tgid))
		wait_begins(task->pid, reason);
	return 0;
}

SEC("tp_btf/sched_wakeup")
int BPF_PROG(on_sched_wakeup, struct task_struct *task)
{
	return woken(task, REASON_WAKEUP);
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(on_sched_wakeup_new, struct task_struct *task)
{
	return woken(task, REASON_NEW);
}

/* Typed arguments: their fields are plain loads that the verifier checks, not calls. */
SEC("tp_btf/sched_switch")
int BPF_PROG(on_sched_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	__u32 prev_tid = prev->pid, next_tid = next->pid, reason;
	struct sched_event *event;
	__u64 now, delay;

	now = leaves_cpu(stays_runnable(preempt, prev) && task_passes(prev, prev->tgid), prev);
	if (!gets_cpu(next_tid, &now, &delay, &reason))
		return 0;
	if (delay < cfg_min_latency_ns[SIGNAL])
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
