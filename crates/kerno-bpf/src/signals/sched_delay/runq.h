/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a task's wait for a CPU begins and ends; what both planes share. The wait's start lies in start.h's slot of its
 * thread, with why it waits as data.
 *
 * One task's wake-ups and switches follow each other in order, by the kernel's run queue locks:
 * - a wake-up of a blocked task is traced only after the switch away from it;
 * - a task that is woken before it has left the CPU stays there: whatever the wake-up stored is cleared or overwritten
 *   at the next switch away from it;
 * - a task is switched away from a last time when it has exited. Its parent may have reaped it by then, and its id may
 *   belong to a new task that waits already: a dead task leaves the slot alone. What lies there is overwritten when a
 *   new task of that id may run for the first time.
 */
#ifndef KERNO_RUNQ_H
#define KERNO_RUNQ_H

#include "kernel.h"
#include "start.h"

#define REASON_WAKEUP 1
#define REASON_PREEMPTED 2
#define REASON_NEW 3

#define TASK_DEAD 0x80 /* linux/sched.h */

static __always_inline __u32 task_state(struct task_struct *task)
{
	if (bpf_core_field_exists(task->__state))
		return task->__state;
	return ((struct task_struct___pre_5_14 *)task)->state;
}

/*
 * Whether the task that leaves the CPU waits for it again. The task's state is read rather than the hook's prev_state, which
 * came in 5.18 (there as the second argument at first) and for years was stale when a pending signal kept the task
 * from sleeping. A blocked task that another CPU is waking is TASK_WAKING here at most: it cannot be TASK_RUNNING before
 * this switch is over.
 */
static __always_inline bool stays_runnable(bool preempt, struct task_struct *task)
{
	return preempt || !task_state(task);
}

/* A task that slept, or is new, may run from now on. */
static __always_inline void wait_begins(__u32 tid, __u32 reason)
{
	struct start_slot *slot = start_slot(tid);

	if (!slot)
		return;
	/* Woken while it waits already (it was preempted on its way to sleep): the wait goes on. */
	if (reason == REASON_WAKEUP && slot->ns && slot->tid == tid)
		return;
	start_set(slot, tid, reason);
}

/*
 * The CPU's switch away from a task: its wait begins when it could have run on. Returns the time if it was read, else 0. Id 0 is every
 * CPU's idle task, always runnable and never waiting.
 */
static __always_inline __u64 leaves_cpu(bool runnable, struct task_struct *task)
{
	__u32 tid = task->pid;
	struct start_slot *slot = tid ? start_slot(tid) : NULL;
	__u64 now = 0;

	if (!slot)
		return 0;
	if (runnable) {
		now = bpf_ktime_get_ns();
		start_set_at(slot, tid, REASON_PREEMPTED, now);
	} else if (slot->ns && slot->tid == tid && !(task_state(task) & TASK_DEAD)) {
		slot->ns = 0;
	}
	return now;
}

/*
 * The switch to a task: its wait ends. False when none was known of. `now` is the time if it was read, else 0, and is the time
 * after.
 */
static __always_inline bool gets_cpu(__u32 tid, __u64 *now, __u64 *delay_ns, __u32 *reason)
{
	struct start_slot *slot = tid ? start_slot(tid) : NULL;
	__u64 start;

	if (!slot || !slot->ns || slot->tid != tid)
		return false;
	start = slot->ns;
	*reason = slot->data;
	slot->ns = 0;
	if (!*now)
		*now = bpf_ktime_get_ns();
	/* The wait may have begun by another CPU's clock, which may be a little ahead. */
	*delay_ns = *now > start ? *now - start : 0;
	return true;
}

#endif
