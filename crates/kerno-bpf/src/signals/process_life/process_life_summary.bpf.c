/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The summary of process_life: which programs are started again and again, by whom, how they end, and who starts so many that it
 * costs.
 *
 * hooks   tp_btf/sched_process_fork, sched_process_exec, sched_process_exit; sched_process_free, where the CPU time of a process is complete
 * key     births: process, until it is freed; programs: who started it, the name of its cgroup, the program's name; starters: the
 *         nearest ancestor that has lived for a while
 * cost    two or three hash look-ups for each of these, and reading the arguments of a program
 * not     threads; children of our own process; who started a process that is older than the summary
 */
#include "kernel.h"
#include "event.h"
#include "block.h"
#include "counters.h"
#include "self.h"
#include "window.h"
#include "life.h"

/* What ends sooner than this can be part of a row of starts, and a cost of starting programs. */
#define SHORT_NS (10 * 1000000000ull)
/* A start that comes later than this after the end before has nothing to do with it. */
#define AGAIN_NS (60 * 1000000000ull)
/* A parent younger than this is not who starts a storm: the script that started it is. */
#define SETTLED_NS 1000000000ull

#define MAX_PLACE_LEN 64
#define MAX_KEPT_ARGS 128
#define PROGRAM_ENDINGS 4
#define STARTED_PROGRAMS 4

struct life_totals {
	__u64 forks;
	__u64 execs;
	__u64 ends;
	__u64 failed; /* exit codes that are not 0 */
	__u64 killed; /* by a signal */
	__u64 dumped; /* of these, with a core dump */
	__u64 oom_killed; /* of these, by the OOM killer */
	__u64 told; /* ends that are in `programs`, too */
};

PER_CPU_BLOCK(life_totals, struct life_totals);

struct program_key {
	__u32 starter;
	__u32 place; /* hash of the name of its cgroup: a service has another cgroup each time, of the same name */
	__u32 forked; /* it executes nothing of its own: a worker that was forked */
	__u32 pad;
	char comm[TASK_COMM_LEN];
};

struct birth {
	__u64 start_ns; /* tells this process from an earlier one of the same id */
	__u64 starter_start_ns;
	__u32 starter; /* who forked it; 0: it is older than the summary */
	__u32 root; /* the nearest ancestor that has lived for a while */
	__u32 executed; /* key is that of its program */
	__u32 pad;
	struct program_key key;
};

/* The oldest go first: they are asked for last, and without them only a starter is not known. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct birth);
} births SEC(".maps");

struct ending {
	__u64 count;
	__u32 status; /* as wait(2) gives it */
	__u32 pad;
};

struct program {
	__u64 born_ns; /* tells this element from an earlier one of the same key */
	__u64 starts;
	__u64 ends;
	__u64 replaced; /* went on as another program */
	__u64 failed;
	__u64 killed;
	__u64 dumped;
	__u64 oom_killed;
	__u64 brief; /* ended within 10 seconds */
	__u64 again_failed; /* started again after it had failed, with the same arguments and none of it running */
	__u64 again_ended; /* after it had ended well and within 10 seconds */
	__u64 same_args; /* started with the arguments of the start before */
	__u64 lived_ns;
	__u64 cpu_ns; /* of those that lived less than 10 seconds */
	/* The last one also takes what found no room. */
	struct ending endings[PROGRAM_ENDINGS];
	/* From here to most_running: of that window alone. */
	__u64 window_ns;
	__u64 shortest_ns;
	__u64 longest_ns;
	__u32 most_running;
	__s32 running;
	__u64 last_start_ns;
	__u64 last_end_ns;
	__u64 args_hash;
	__u64 starter_start_ns;
	__u64 cgroup_id;
	__u32 last_status;
	__u32 last_pid;
	__u32 last_bad; /* the last end was a failure */
	__u32 uid;
	char starter_comm[TASK_COMM_LEN];
	char place[MAX_PLACE_LEN];
	char filename[MAX_KEPT_ARGS];
	char args[MAX_KEPT_ARGS];
};

/* The least used go first: a loop is used again and again, and what a build starts is not. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct program_key);
	__type(value, struct program);
} programs SEC(".maps");

struct started {
	__u64 count;
	char comm[TASK_COMM_LEN];
};

struct starter {
	__u64 start_ns; /* of the process */
	__u64 forks;
	__u64 execs;
	__u64 ends;
	__u64 brief; /* ended within 10 seconds */
	__u64 cpu_ns; /* of those */
	__u64 window_ns; /* what follows is of that window alone */
	struct started started[STARTED_PROGRAMS]; /* the first few different ones */
	char comm[TASK_COMM_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct starter);
} starters SEC(".maps");

/* Always zero: what new elements are copied from, too large for the stack. */
struct fresh {
	struct program program;
	struct starter starter;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fresh);
} fresh SEC(".maps");

const volatile struct life_totals *const volatile layout_of_life_totals SEC(".rodata") = NULL;
const volatile struct birth *const volatile layout_of_birth SEC(".rodata") = NULL;
const volatile struct program *const volatile layout_of_program SEC(".rodata") = NULL;
const volatile struct starter *const volatile layout_of_starter SEC(".rodata") = NULL;

static __always_inline struct fresh *nothing(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&fresh, &zero);
}

static __always_inline struct program *program_of(const struct program_key *key)
{
	struct program *program = bpf_map_lookup_elem(&programs, key);
	struct fresh *zero;

	if (program)
		return program;
	zero = nothing();
	if (!zero)
		return NULL;
	bpf_map_update_elem(&programs, key, &zero->program, BPF_NOEXIST);
	program = bpf_map_lookup_elem(&programs, key);
	if (program)
		program->born_ns = bpf_ktime_get_ns();
	else
		count_overflow();
	return program;
}

static __always_inline struct starter *starter_of(__u32 pid, const struct task_struct *task)
{
	struct starter *starter = bpf_map_lookup_elem(&starters, &pid);
	const struct task_struct *leader;
	struct fresh *zero;

	if (starter && !task)
		return starter;
	if (!starter) {
		zero = nothing();
		if (!zero || !task)
			return NULL;
		bpf_map_update_elem(&starters, &pid, &zero->starter, BPF_NOEXIST);
		starter = bpf_map_lookup_elem(&starters, &pid);
		if (!starter) {
			count_overflow();
			return NULL;
		}
	}
	leader = BPF_CORE_READ(task, group_leader);
	starter->start_ns = BPF_CORE_READ(leader, start_time);
	bpf_core_read_str(starter->comm, TASK_COMM_LEN, &leader->comm);
	return starter;
}

static __always_inline void count_started(struct starter *starter, const char *comm)
{
	__u64 window_ns = window_start_ns();
	const __u64 *words = (const __u64 *)comm;

	if (starter->window_ns != window_ns) {
		starter->window_ns = window_ns;
		__builtin_memset(starter->started, 0, sizeof(starter->started));
	}
	for (int i = 0; i < STARTED_PROGRAMS; i++) {
		__u64 *known = (__u64 *)starter->started[i].comm;

		if (!starter->started[i].count) {
			known[0] = words[0];
			known[1] = words[1];
		}
		if (known[0] == words[0] && known[1] == words[1]) {
			__sync_fetch_and_add(&starter->started[i].count, 1);
			return;
		}
	}
}

static __always_inline const char *cgroup_name(const struct task_struct *task)
{
	const struct kernfs_node___life *directory = (const void *)BPF_CORE_READ(task, cgroups, dfl_cgrp, kn);

	return BPF_CORE_READ(directory, name);
}

/* The name of the task's cgroup, as a hash. Read in words: what lies behind the NUL is cut off. */
static __always_inline __u32 place_of(const struct task_struct *task)
{
	const char *name = cgroup_name(task);
	__u64 hash = 0xcbf29ce484222325, word;

	for (int i = 0; i < MAX_PLACE_LEN / 8; i++) {
		bool ends;

		word = 0;
		if (bpf_probe_read_kernel(&word, sizeof(word), name + i * 8))
			break;
		ends = cut_at_nul(&word);
		hash = (hash ^ word) * 0x100000001b3;
		hash ^= hash >> 29;
		if (ends)
			break;
	}
	return hash ^ hash >> 32;
}

static __always_inline __u64 args_hash(__u64 start, __u64 bytes)
{
	__u64 hash = 0xcbf29ce484222325, word;

	for (int i = 0; i < MAX_KEPT_ARGS / 8; i++) {
		if ((__u64)i * 8 >= bytes)
			break;
		word = 0;
		bpf_probe_read_user(&word, sizeof(word), (const void *)(start + i * 8));
		if (bytes - i * 8 < 8)
			word &= (1ull << (bytes - i * 8) * 8) - 1;
		hash = (hash ^ word) * 0x100000001b3;
		hash ^= hash >> 29;
	}
	return hash ^ bytes;
}

static __always_inline void read_name(char *to, const struct task_struct *leader)
{
	__builtin_memset(to, 0, TASK_COMM_LEN);
	bpf_core_read_str(to, TASK_COMM_LEN, &leader->comm);
}

static __always_inline void process_life_sched_process_fork(const struct task_struct *parent,
							    const struct task_struct *child)
{
	struct life_totals *totals;
	struct birth birth = {}, *before;
	const struct task_struct *leader;
	struct starter *starter;
	__u32 pid;

	if (!is_process(child))
		return;
	birth.starter = BPF_CORE_READ(parent, tgid);
	if (cfg_self_tgid && birth.starter == cfg_self_tgid)
		return;
	totals = this_cpu_block(&life_totals);
	if (totals)
		totals->forks++;
	leader = BPF_CORE_READ(parent, group_leader);
	birth.starter_start_ns = BPF_CORE_READ(leader, start_time);
	birth.start_ns = BPF_CORE_READ(child, start_time);
	birth.root = birth.starter;
	before = bpf_map_lookup_elem(&births, &birth.starter);
	if (before && before->start_ns == birth.starter_start_ns && birth.start_ns - birth.starter_start_ns < SETTLED_NS)
		birth.root = before->root;
	pid = BPF_CORE_READ(child, pid);
	if (bpf_map_update_elem(&births, &pid, &birth, BPF_ANY))
		count_untracked();
	starter = starter_of(birth.root, birth.root == birth.starter ? parent : NULL);
	if (starter)
		__sync_fetch_and_add(&starter->forks, 1);
}

/* A process of this program ends, or goes on as another program. */
static __always_inline void not_running(struct program *program)
{
	if (program->running > 0)
		__sync_fetch_and_add(&program->running, -1);
}

static __always_inline void in_this_window(struct program *program)
{
	__u64 window_ns = window_start_ns();

	if (program->window_ns == window_ns)
		return;
	program->window_ns = window_ns;
	program->shortest_ns = 0;
	program->longest_ns = 0;
	program->most_running = program->running > 0 ? program->running : 0;
}

/* Whose process this is, where it runs, and who started it. */
static __always_inline void tell_who(struct program *program, const struct task_struct *leader, const struct birth *birth)
{
	const struct task_struct *parent;

	program->last_pid = BPF_CORE_READ(leader, tgid);
	program->uid = BPF_CORE_READ(leader, cred, uid.val);
	program->cgroup_id = BPF_CORE_READ(leader, cgroups, dfl_cgrp, kn, id);
	program->starter_start_ns = birth->starter_start_ns;
	bpf_probe_read_kernel_str(program->place, sizeof(program->place), cgroup_name(leader));
	/* Its parent may be another by now, which has adopted it. */
	parent = BPF_CORE_READ(LIFE_OF(leader), real_parent);
	parent = BPF_CORE_READ(parent, group_leader);
	if ((__u32)BPF_CORE_READ(parent, tgid) == birth->starter)
		bpf_core_read_str(program->starter_comm, TASK_COMM_LEN, &parent->comm);
}

static __always_inline void process_life_sched_process_exec(const struct task_struct *task,
							    const struct linux_binprm *bprm)
{
	const struct linux_binprm___life *binary = (const void *)bprm;
	__u64 now = bpf_ktime_get_ns(), start_ns = BPF_CORE_READ(task, group_leader, start_time), bytes, start, hash;
	struct life_totals *totals = this_cpu_block(&life_totals);
	__u32 pid = BPF_CORE_READ(task, tgid);
	struct starter *starter;
	struct program *program;
	struct birth *birth;
	bool same;

	if (totals)
		totals->execs++;
	birth = bpf_map_lookup_elem(&births, &pid);
	if (!birth || birth->start_ns != start_ns)
		return;
	if (birth->executed) {
		program = bpf_map_lookup_elem(&programs, &birth->key);
		if (program) {
			__sync_fetch_and_add(&program->replaced, 1);
			not_running(program);
		}
	}
	birth->executed = 1;
	birth->key.starter = birth->starter;
	birth->key.place = place_of(task);
	birth->key.forked = 0;
	read_name(birth->key.comm, task);
	starter = starter_of(birth->root, NULL);
	if (starter) {
		__sync_fetch_and_add(&starter->execs, 1);
		count_started(starter, birth->key.comm);
	}
	program = program_of(&birth->key);
	if (!program)
		return;
	in_this_window(program);
	start = arguments(task, &bytes);
	hash = args_hash(start, bytes);
	same = program->args_hash == hash;
	program->args_hash = hash;
	if (!same) {
		if (bytes > MAX_KEPT_ARGS)
			bytes = MAX_KEPT_ARGS;
		__builtin_memset(program->args, 0, sizeof(program->args));
		__builtin_memset(program->filename, 0, sizeof(program->filename));
		OPAQUE(bytes);
		if (bytes && bytes <= MAX_KEPT_ARGS)
			bpf_probe_read_user(program->args, bytes, (const void *)start);
		bpf_probe_read_kernel_str(program->filename, sizeof(program->filename), BPF_CORE_READ(binary, filename));
	}
	if (same)
		__sync_fetch_and_add(&program->same_args, 1);
	/* With none of them running: those that run beside each other do not follow each other's failures. */
	if (same && program->running <= 0 && program->last_end_ns > program->last_start_ns &&
	    now - program->last_end_ns < AGAIN_NS) {
		if (program->last_bad)
			__sync_fetch_and_add(&program->again_failed, 1);
		else if (program->last_end_ns - program->last_start_ns < SHORT_NS)
			__sync_fetch_and_add(&program->again_ended, 1);
	}
	__sync_fetch_and_add(&program->starts, 1);
	__sync_fetch_and_add(&program->running, 1);
	if (program->running > (__s32)program->most_running)
		program->most_running = program->running;
	program->last_start_ns = now;
	tell_who(program, task, birth);
}

/* Signals and exit codes by which programs are stopped on purpose: no failures. */
static __always_inline bool is_failure(__u32 status, bool oom_killed)
{
	__u32 signal = status & 0x7f, code = status >> 8 & 0xff;

	if (!signal)
		return code && code != 128 + 1 && code != 128 + 2 && code != 128 + 9 && code != 128 + 13 && code != 128 + 15;
	if (signal == 9)
		return oom_killed;
	/* HUP, INT, PIPE, ALRM, TERM, and those without a meaning of their own. */
	return signal != 1 && signal != 2 && signal != 10 && signal != 12 && signal != 13 && signal != 14 && signal != 15 &&
	       signal < 32;
}

static __always_inline void count_ending(struct program *program, __u32 status)
{
	for (int i = 0; i < PROGRAM_ENDINGS; i++) {
		struct ending *ending = &program->endings[i];

		if (!ending->count)
			ending->status = status;
		if (ending->status == status || i == PROGRAM_ENDINGS - 1) {
			__sync_fetch_and_add(&ending->count, 1);
			return;
		}
	}
}

static __always_inline void count_end(struct life_totals *totals, struct program *program, __u32 status, bool oom_killed,
				      __u64 lived_ns, __u64 now)
{
	in_this_window(program);
	__sync_fetch_and_add(&program->ends, 1);
	__sync_fetch_and_add(&program->lived_ns, lived_ns);
	if (lived_ns < SHORT_NS)
		__sync_fetch_and_add(&program->brief, 1);
	if (!program->shortest_ns || lived_ns < program->shortest_ns)
		program->shortest_ns = lived_ns;
	if (lived_ns > program->longest_ns)
		program->longest_ns = lived_ns;
	if (status & 0x7f)
		__sync_fetch_and_add(&program->killed, 1);
	else if (status)
		__sync_fetch_and_add(&program->failed, 1);
	if (status & 0x80)
		__sync_fetch_and_add(&program->dumped, 1);
	if (oom_killed)
		__sync_fetch_and_add(&program->oom_killed, 1);
	if (status)
		count_ending(program, status);
	program->last_status = status;
	program->last_bad = is_failure(status, oom_killed);
	program->last_end_ns = now;
	if (totals)
		totals->told++;
}

static __always_inline void process_life_sched_process_exit(const struct task_struct *task, bool group_dead)
{
	__u64 now = bpf_ktime_get_ns(), start_ns, lived_ns;
	const struct task_struct *leader;
	struct life_totals *totals;
	struct starter *starter;
	struct program *program;
	struct birth *birth;
	__u32 pid, status;
	bool oom_killed;

	if (!process_ends(task, group_dead))
		return;
	pid = BPF_CORE_READ(task, tgid);
	leader = BPF_CORE_READ(task, group_leader);
	start_ns = BPF_CORE_READ(leader, start_time);
	lived_ns = now - start_ns;
	status = wait_status(task);
	oom_killed = (status & 0x7f) == 9 && killed_for_memory(task);
	birth = bpf_map_lookup_elem(&births, &pid);
	if (birth && birth->start_ns != start_ns)
		birth = NULL;
	totals = this_cpu_block(&life_totals);
	if (totals) {
		totals->ends++;
		if (status & 0x7f)
			totals->killed++;
		else if (status)
			totals->failed++;
		if (status & 0x80)
			totals->dumped++;
		if (oom_killed)
			totals->oom_killed++;
	}
	if (!birth)
		return;
	starter = starter_of(birth->root, NULL);
	if (starter) {
		__sync_fetch_and_add(&starter->ends, 1);
		if (lived_ns < SHORT_NS)
			__sync_fetch_and_add(&starter->brief, 1);
	}
	if (!birth->executed) {
		/* Parts of scripts, most of them: those that fare well are only counted. */
		if (!status)
			return;
		birth->key.starter = birth->starter;
		birth->key.place = place_of(task);
		birth->key.forked = 1;
		read_name(birth->key.comm, leader);
	}
	program = program_of(&birth->key);
	if (!program)
		return;
	if (birth->executed) {
		not_running(program);
	} else {
		__sync_fetch_and_add(&program->starts, 1);
		program->last_start_ns = start_ns;
		tell_who(program, leader, birth);
	}
	count_end(totals, program, status, oom_killed, lived_ns, now);
}

/* Its parent has waited for it, and what it used is complete. Interrupts may be what runs here: nothing is current. */
SEC("tp_btf/sched_process_free")
int BPF_PROG(on_sched_process_free, struct task_struct *task)
{
	const struct signal_struct___life *signal;
	__u64 start_ns, cpu_ns;
	struct program *program;
	struct starter *starter;
	struct birth *birth;
	__u32 pid;

	if (!is_process(task))
		return 0;
	pid = BPF_CORE_READ(task, tgid);
	birth = bpf_map_lookup_elem(&births, &pid);
	start_ns = BPF_CORE_READ(task, start_time);
	if (!birth || birth->start_ns != start_ns)
		return 0;
	if (bpf_ktime_get_ns() - start_ns < SHORT_NS) {
		signal = signal_of(task);
		cpu_ns = BPF_CORE_READ(signal, sum_sched_runtime);
		starter = bpf_map_lookup_elem(&starters, &birth->root);
		if (starter)
			__sync_fetch_and_add(&starter->cpu_ns, cpu_ns);
		program = birth->key.comm[0] ? bpf_map_lookup_elem(&programs, &birth->key) : NULL;
		if (program)
			__sync_fetch_and_add(&program->cpu_ns, cpu_ns);
	}
	bpf_map_delete_elem(&births, &pid);
	return 0;
}

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
