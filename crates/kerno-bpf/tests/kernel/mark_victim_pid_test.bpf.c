/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * oom_track as it is where mark_victim tells only a pid. Kernels at hand tell the task, so the pid is taken from that; from there on
 * everything is what an older kernel would run.
 */
#include "../../src/signals/oom_track/oom_track.bpf.c"

SEC("tp_btf/mark_victim")
int BPF_PROG(on_mark_victim_as_pid, struct task_struct *victim)
{
	return pid_marked(victim->pid);
}
