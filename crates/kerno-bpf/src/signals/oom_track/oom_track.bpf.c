/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * oom_track: whom the kernel killed for want of memory, how large it was, and who asked for the memory.
 *
 * hooks   tp_btf/mark_victim; where that tells only a pid (before 6.9 and its backports), also tp_btf/signal_generate, which comes
 *         just before it with the victim itself; tp_btf/mm_vmscan_memcg_reclaim_begin and mm_vmscan_direct_reclaim_begin
 * key     thread id of the task that ran out of memory, direct-mapped
 * cost    nothing until memory runs short; then one array store for each reclaim. Some 40 reads a kill. On older
 *         kernels also one comparison a signal
 * not     kills by user space (systemd-oomd, earlyoom, lmkd); allocations that fail without a kill
 */
#include "kernel.h"
#include "event.h"
#include "emit.h"
#include "kill.h"

static __always_inline struct oom_event *kill_reserve(void)
{
	return event_reserve(struct oom_event);
}

static __always_inline void kill_submit(struct oom_event *event, const struct task_struct *victim)
{
	event_submit(event);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
