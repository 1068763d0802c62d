/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * process_life: processes that begin, the programs that they execute, and how they end.
 *
 * hooks   tp_btf/sched_process_fork, sched_process_exec, sched_process_exit
 * key     none; until 6.15 the ends of processes whose last threads die together
 * cost    about 1 us for each of these; nothing for anything else
 * not     threads; execs that fail (a child that never got to a program says so at its end); processes of the kernel's own that
 *         execute nothing are told like others
 */
#include "kernel.h"
#include "event.h"
#include "filter.h"
#include "emit.h"
#include "life.h"

#define LIFE_FORK 1
#define LIFE_EXEC 2
#define LIFE_EXIT 3

#define MAX_ARGS_LEN 256
#define ANCESTORS 4

struct ancestor {
	__u32 pid; /* 0: none */
	__u32 pad0;
	char comm[TASK_COMM_LEN];
};

struct life_event {
	__u64 timestamp_ns; /* CLOCK_MONOTONIC */
	__u64 cgroup_id;
	__u64 start_ns; /* when the process began, CLOCK_MONOTONIC */
	__u64 lived_ns; /* exit: since then */
	__u32 pid;
	__u32 uid;
	__u32 starter_pid; /* fork: who called it, which is not the parent with CLONE_PARENT */
	__u32 status; /* exit: as wait(2) gives it */
	__u32 args_bytes; /* exec: of the arguments with a NUL each, also of what did not fit */
	__u8 op;
	__u8 no_exec; /* it never executed a program of its own */
	__u8 oom_killed;
	__u8 pad0;
	char comm[TASK_COMM_LEN];
	struct ancestor ancestors[ANCESTORS]; /* the parent first */
	char filename[MAX_FILENAME_LEN]; /* exec */
	char args[MAX_ARGS_LEN]; /* exec */
};
ASSERT_RECORD(struct life_event, 680);
KEEP_LAYOUT(struct life_event);

static __always_inline void tell_ancestors(struct life_event *event, const struct task_struct *leader)
{
	const struct task_struct *parent;

#pragma unroll
	for (int i = 0; i < ANCESTORS; i++) {
		parent = BPF_CORE_READ(LIFE_OF(leader), real_parent);
		leader = BPF_CORE_READ(parent, group_leader);
		event->ancestors[i].pid = BPF_CORE_READ(leader, tgid);
		if (!event->ancestors[i].pid)
			break;
		bpf_core_read_str(event->ancestors[i].comm, TASK_COMM_LEN, &leader->comm);
	}
}

/* A record about this process, with what all of them have. */
static __always_inline struct life_event *life_begin(const struct task_struct *leader, __u8 op)
{
	struct life_event *event = event_reserve(struct life_event);

	if (!event)
		return NULL;
	event->timestamp_ns = bpf_ktime_get_ns();
	event->cgroup_id = task_cgroup_id(leader);
	event->start_ns = BPF_CORE_READ(leader, start_time);
	event->pid = BPF_CORE_READ(leader, tgid);
	event->uid = BPF_CORE_READ(leader, cred, uid.val);
	event->op = op;
	task_comm(event->comm, leader);
	tell_ancestors(event, leader);
	return event;
}

static __always_inline void process_life_sched_process_fork(const struct task_struct *parent,
							    const struct task_struct *child)
{
	__u32 starter = BPF_CORE_READ(parent, tgid);
	struct life_event *event;

	/* Of the child itself only its id is new, which nobody can ask for yet. */
	if (cfg_errors_only[SIGNAL] || !is_process(child) || !task_passes(parent, starter))
		return;
	event = life_begin(child, LIFE_FORK);
	if (!event)
		return;
	event->starter_pid = starter;
	event->no_exec = 1;
	event_submit(event);
}

static __always_inline void process_life_sched_process_exec(const struct task_struct *task,
							    const struct linux_binprm *bprm)
{
	const struct linux_binprm___life *program = (const void *)bprm;
	struct life_event *event;
	__u64 start, bytes;

	if (cfg_errors_only[SIGNAL] || !task_passes(task, BPF_CORE_READ(task, tgid)))
		return;
	event = life_begin(task, LIFE_EXEC);
	if (!event)
		return;
	bpf_probe_read_kernel_str(event->filename, sizeof(event->filename), BPF_CORE_READ(program, filename));
	start = arguments(task, &bytes);
	event->args_bytes = bytes;
	if (bytes > MAX_ARGS_LEN)
		bytes = MAX_ARGS_LEN;
	/* Older verifiers forget the bound of a copy. */
	OPAQUE(bytes);
	if (bytes && bytes <= MAX_ARGS_LEN)
		bpf_probe_read_user(event->args, bytes, (const void *)start);
	event_submit(event);
}

static __always_inline void process_life_sched_process_exit(const struct task_struct *task, bool group_dead)
{
	const struct task_struct *leader;
	struct life_event *event;
	__u32 status;

	if (!process_ends(task, group_dead))
		return;
	leader = BPF_CORE_READ(task, group_leader);
	if (!task_passes(leader, BPF_CORE_READ(leader, tgid)))
		return;
	status = wait_status(task);
	if (cfg_errors_only[SIGNAL] && !status)
		return;
	event = life_begin(leader, LIFE_EXIT);
	if (!event)
		return;
	event->lived_ns = event->timestamp_ns - event->start_ns;
	event->status = status;
	event->no_exec = !!(BPF_CORE_READ(task, flags) & PF_FORKNOEXEC);
	event->oom_killed = killed_for_memory(task);
	event_submit(event);
}

/* Nobody else is on this hook. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_sched_process_fork, struct task_struct *parent, struct task_struct *child)
{
	process_life_sched_process_fork(parent, child);
	return 0;
}

#if SIGNALS == 1
SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_sched_process_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	process_life_sched_process_exec(task, bprm);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int on_sched_process_exit(unsigned long long *ctx)
{
	process_life_sched_process_exit((const struct task_struct *)ctx[0], cfg_exit_tells && ctx[1]);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
#endif
