/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tasks: what the kernel keeps for every thread anyway, read by walking them. No hook, no cost between two readings.
 *
 * cost    about a microsecond a thread and reading, a fifth of it for one that has not run since the last; a process's descriptors are
 *         counted from the bitmap, 64 at a time
 * not     what a thread did that was born and ended between two readings; bytes that a process's ended threads read and
 *         wrote are in its own account (signal->ioac), their run-queue delay is not kept by the kernel
 */
#include "kernel.h"
#include "files.h"
#include "memory_cgroup.h"

struct task_row {
	__u64 start_ns; /* CLOCK_MONOTONIC; with tid it names the thread for good */
	__u64 start_boottime_ns; /* the same moment by CLOCK_BOOTTIME, as /proc has it */
	__u64 run_ns; /* time on a CPU; of a leader with what ended threads had run */
	__u64 wait_ns; /* time in a run queue, waiting for a CPU (sched_info.run_delay, as in /proc/PID/schedstat) */
	__u64 waits; /* times it got a CPU */
	__u64 arrived_ns; /* when it last got one, by the CPU's own clock */
	__u64 voluntary; /* switches away from it because it slept */
	__u64 involuntary; /* because another was to run */
	__u64 major_faults;
	__u64 read_bytes; /* from storage; of a leader with what ended threads had read */
	__u64 write_bytes; /* dirtied pages, counted when they are made dirty */
	__u64 io_delay_ns; /* waiting for block I/O (delay accounting, where it is on) */
	__u64 reclaim_delay_ns; /* in direct memory reclaim (likewise) */
	__u64 cgroup_id; /* v2 */
	__u64 memory_cgroup_id; /* of what counts for the process (see fds), in the hierarchy that limits memory */
	__u64 fd_soft_limit;
	__u64 fd_hard_limit;
	__u64 anon_pages; /* as fds; 0 for kernel threads */
	__u32 pid;
	__u32 tid;
	__u32 parent_pid;
	__u32 uid;
	__u32 state; /* TASK_* bits, linux/sched.h */
	__u32 flags; /* PF_*; PF_KTHREAD 0x00200000 */
	__u32 fds; /* open descriptors; of a leader, or of the threads that are left when the leader has exited; else 0 */
	__u32 net_namespace; /* inode number, as in /proc/PID/ns/net */
	char comm[16];
};
_Static_assert(sizeof(struct task_row) == 192, "struct task_row changed size");
const volatile struct task_row *const volatile layout_of_row SEC(".rodata") = NULL;

struct rlimit {
	unsigned long rlim_cur;
	unsigned long rlim_max;
} CORE;

struct task_io_accounting {
	__u64 read_bytes;
	__u64 write_bytes;
} CORE;

struct signal_struct {
	int nr_threads; /* that have not been released */
	struct rlimit rlim[16];
	struct task_io_accounting ioac;
	unsigned long long sum_sched_runtime;
} CORE;

struct sched_info {
	unsigned long pcount;
	unsigned long long run_delay;
	unsigned long long last_arrival;
} CORE;

struct sched_entity {
	__u64 sum_exec_runtime;
} CORE;

struct task_delay_info {
	__u64 blkio_delay;
	__u64 freepages_delay;
} CORE;

struct ns_common {
	unsigned int inum;
} CORE;

struct net {
	struct ns_common ns;
} CORE;

struct nsproxy {
	struct net *net_ns;
} CORE;

typedef struct {
	long counter;
} CORE atomic64_t;

struct percpu_counter {
	long count;
} CORE;

/* Until 6.2 rss_stat was one struct with an array of atomics; since then an array of per-CPU counters, whose common part is
 * exact to a few dozen pages a CPU. */
struct mm_rss_stat {
	atomic64_t count[4];
} CORE;

struct mm_struct___pre_6_2 {
	struct mm_rss_stat rss_stat;
} CORE;

struct mm_struct {
	struct percpu_counter rss_stat[4];
} CORE;

/* Fields that only this reads; the flavour's name is cut at the underscores. */
struct task_struct___row {
	struct sched_entity se;
	struct sched_info sched_info;
	struct task_io_accounting ioac;
	struct task_delay_info *delays;
	struct nsproxy *nsproxy;
	struct task_struct *real_parent;
	unsigned long nvcsw;
	unsigned long nivcsw;
	unsigned long maj_flt;
	__u64 start_boottime; /* since 5.5 (cf25e24db61c); before, real_start_time */
} CORE;

#define RLIMIT_NOFILE 7
#define MM_ANONPAGES 1

struct bpf_iter_meta {
	struct seq_file *seq;
} CORE;

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
} CORE;

/* 1,048,576 descriptors; a process that may have more (fs.nr_open raised) counts as having these. */
#define MAX_FD_WORDS (1 << 14)

static __always_inline __u32 ones(__u64 v)
{
	v -= (v >> 1) & 0x5555555555555555ull;
	v = (v & 0x3333333333333333ull) + ((v >> 2) & 0x3333333333333333ull);
	v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0full;
	return (v * 0x0101010101010101ull) >> 56;
}

/* Words of the bitmap read at a time, and looked at in one of as many parts. */
#define CHUNK 16
#define PART (MAX_FD_WORDS / 32)

/*
 * Open descriptors in so many words of a bitmap; -1 when it cannot be read. Not static: the verifier looks at such a function once,
 * and not in each of a thousand turns of the loop that calls it, which would take it seconds.
 */
__attribute__((noinline)) int open_in_chunk(__u64 address, __u32 words)
{
	__u64 chunk[CHUNK] = {};
	int fds = 0;

	if (words >= CHUNK) {
		if (bpf_probe_read_kernel(chunk, sizeof(chunk), (void *)address))
			return -1;
	} else {
#pragma clang loop unroll(disable)
		for (__u32 i = 0; i < CHUNK && i < words; i++)
			if (bpf_probe_read_kernel(&chunk[i], sizeof(chunk[0]), (void *)address + i * sizeof(chunk[0])))
				return -1;
	}
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < CHUNK; i++)
		fds += ones(chunk[i]);
	return fds;
}

/* The same for up to PART words, as far as they can be read: a loop of its own for the same reason. */
__attribute__((noinline)) int open_in_part(__u64 address, __u32 words)
{
	int fds = 0;

#pragma clang loop unroll(disable)
	for (__u32 at = 0; at < PART && at < words; at += CHUNK) {
		int more = open_in_chunk(address + at * sizeof(__u64), words - at);

		if (more < 0)
			break;
		fds += more;
	}
	return fds;
}

static __always_inline __u32 open_descriptors(const struct fdtable *fdt)
{
	__u64 bitmap = (__u64)BPF_CORE_READ(fdt, open_fds);
	__u32 words = BPF_CORE_READ(fdt, max_fds) / 64, fds = 0;

	/* Of a kernel thread it is the table they all share, of a zombie there is none. */
	if (!bitmap)
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 at = 0; at < MAX_FD_WORDS && at < words; at += PART)
		fds += open_in_part(bitmap + at * sizeof(__u64), words - at);
	return fds;
}

static __always_inline __u64 anon_pages(struct task_struct *task)
{
	struct mm_struct *mm = task->mm;
	const struct mm_struct___pre_6_2 *old = (const void *)mm;
	long pages;

	if (!mm)
		return 0;
	if (bpf_core_field_exists(old->rss_stat.count))
		pages = BPF_CORE_READ(old, rss_stat.count[1].counter);
	else
		pages = BPF_CORE_READ(mm, rss_stat[1].count);
	return pages > 0 ? pages : 0;
}

/*
 * What was written of a thread last. Nobody but itself changes what a row tells of it, so one that has not run since is told of by its
 * id alone. What others may change after all (limits, memory that is reclaimed, descriptors that several processes share)
 * shows at the latest when its turn comes.
 */
#define MAX_WRITTEN (1 << 18) /* 10 MiB */
#define TURNS 8
#define TASK_RUNNING 0
#define UNCHANGED (1ull << 63) /* no thread starts so late */

struct written {
	__u64 who; /* as of who_sleeps; 0: nothing of use here */
	__u64 cgroups; /* an address: whoever is moved to another cgroup gets another */
	__u64 parent; /* an address, another's when the parent has ended: to whom a child leaves its bytes must be known */
	__u64 run_ns; /* grows with each turn on a CPU, at the latest when it is over */
	__u32 tid;
	__u32 state;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_WRITTEN); /* the loader lowers it to pid_max where that is smaller */
	__type(key, __u32);
	__type(value, struct written);
} written SEC(".maps");

const volatile __u32 cfg_written_mask = MAX_WRITTEN - 1;
const volatile __u32 cfg_self_tgid = 0;

/* Which threads have their turn in the walk to come. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} turn SEC(".maps");

/* The walk to come is to tell of every thread in full. */
#define EVERYBODY 0xffffffffu

/*
 * Names a thread that sleeps, by its start and whether its process has others. 0 for one that does not, and for the leader of several
 * threads, whose rows hold what the others did.
 */
static __always_inline __u64 who_sleeps(const struct task_struct *task, const struct signal_struct *signal, __u32 state)
{
	__u64 start_ns = task->start_time;

	if (state == TASK_RUNNING)
		return 0;
	if (signal->nr_threads == 1)
		return start_ns | 1ull << 63;
	return task->pid == task->tgid ? 0 : start_ns;
}

static __always_inline bool has_turn(__u32 tid)
{
	__u32 zero = 0, *now = bpf_map_lookup_elem(&turn, &zero);

	return !now || *now == EVERYBODY || (tid ^ *now) % TURNS == 0;
}

SEC("iter/task")
int on_task(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct task_struct___row *more = (void *)task;
	struct seq_file *seq = ctx->meta->seq;
	const struct signal_struct *signal;
	__u64 who, run_ns, cgroups, parent;
	struct written *written_of;
	struct task_row row;
	__u32 slot, state;
	bool leader;

	if (!task || (cfg_self_tgid && (__u32)task->tgid == cfg_self_tgid))
		return 0;
	/*
	 * Each pointer is loaded once, before the ways part: for each load of one that it comes to, the verifier of 6.4 and later looks for
	 * a name among all of the kernel's types, up to four times.
	 */
	signal = task->signal;
	cgroups = (__u64)task->cgroups;
	parent = (__u64)more->real_parent;
	OPAQUE(seq);
	OPAQUE(signal);
	OPAQUE(cgroups);
	OPAQUE(parent);
	slot = task->pid & cfg_written_mask;
	written_of = bpf_map_lookup_elem(&written, &slot);
	if (!written_of)
		return 0;
	/* First: who runs from here on has another one at the next walk. */
	run_ns = more->se.sum_exec_runtime;
	asm volatile("" : "+r"(run_ns) : : "memory");
	state = bpf_core_field_exists(task->__state)
			? task->__state
			: (__u32)BPF_CORE_READ((struct task_struct___pre_5_14 *)task, state);
	who = who_sleeps(task, signal, state);
	if (who && written_of->who == who && written_of->run_ns == run_ns && written_of->tid == (__u32)task->pid &&
	    written_of->state == state && written_of->cgroups == cgroups && written_of->parent == parent &&
	    !has_turn(task->pid)) {
		__u64 unchanged = UNCHANGED | (__u32)task->pid;

		bpf_seq_write(seq, &unchanged, sizeof(unchanged));
		return 0;
	}
	__builtin_memset(&row, 0, sizeof(row));
	/*
	 * Read without a helper call for each field: the task itself and its signal_struct, which lives as long. Nothing that may be NULL
	 * or gone: the main function of a program with others has no exception table before 6.4 (0108a4e9f358), and a read that faults in it
	 * is a fault of the kernel's.
	 */
	leader = task->pid == task->tgid;
	row.start_ns = task->start_time;
	row.start_boottime_ns = more->start_boottime;
	row.run_ns = run_ns;
	row.wait_ns = more->sched_info.run_delay;
	row.waits = more->sched_info.pcount;
	row.arrived_ns = more->sched_info.last_arrival;
	row.voluntary = more->nvcsw;
	row.involuntary = more->nivcsw;
	row.major_faults = more->maj_flt;
	row.read_bytes = more->ioac.read_bytes;
	row.write_bytes = more->ioac.write_bytes;
	if (bpf_core_field_exists(more->delays)) {
		row.io_delay_ns = BPF_CORE_READ(more, delays, blkio_delay);
		row.reclaim_delay_ns = BPF_CORE_READ(more, delays, freepages_delay);
	}
	row.cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	row.pid = task->tgid;
	row.tid = task->pid;
	row.parent_pid = BPF_CORE_READ(more, real_parent, tgid);
	row.uid = BPF_CORE_READ(task, cred, uid.val);
	row.flags = task->flags;
	row.state = state;
	/* Not without a call: gone at exit, and before 6.4 a bad address read directly is fatal here (see above). */
	row.net_namespace = BPF_CORE_READ(more, nsproxy, net_ns, ns.inum);
	if (leader) {
		row.run_ns += signal->sum_sched_runtime;
		row.read_bytes += signal->ioac.read_bytes;
		row.write_bytes += signal->ioac.write_bytes;
	}
	/* A leader may exit before its threads: it stays as a zombie that has given up its files and its memory. */
	if (leader || !BPF_CORE_READ(task, group_leader, files)) {
		row.fds = open_descriptors(BPF_CORE_READ(task, files, fdt));
		row.fd_soft_limit = signal->rlim[RLIMIT_NOFILE].rlim_cur;
		row.fd_hard_limit = signal->rlim[RLIMIT_NOFILE].rlim_max;
		row.anon_pages = anon_pages(task);
		row.memory_cgroup_id = memory_cgroup_id(task);
	}
	bpf_core_read_str(row.comm, sizeof(row.comm), &task->comm);
	/* Where there is no room the kernel comes again with the same task. */
	if (bpf_seq_write(seq, &row, sizeof(row)))
		return 0;
	written_of->who = who;
	written_of->cgroups = cgroups;
	written_of->parent = parent;
	written_of->run_ns = run_ns;
	written_of->tid = task->pid;
	written_of->state = state;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
