/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * why: where the time of the threads of a few processes goes, all of it: on a CPU, waiting for one, asleep in what.
 *
 * hooks   tp_btf/sched_switch, tp_btf/sched_waking, tp_btf/sched_wakeup_new; tp_btf/contention_begin and contention_end (5.19) for
 *         locks of the kernel; tp_btf/sock_send_length and sock_recv_length (6.3) for requests and answers; iter/task for threads
 *         that sleep already
 * key     thread; sleeps by thread, system call, object, place in the kernel, and who ended them
 * cost    of a process that is no target: one array slot a hook. Of a target: a hash look-up a hook, and for each sleep its registers, the
 *         file behind a descriptor, and the kernel's stack where the call alone does not say what it waits for
 * not     what kernel threads do; requests that were sent before it began, where the socket itself does not tell; which lock of a
 *         program a futex is, beyond those that store their owner
 */
#include "kernel.h"
#include "files.h"
#include "syscall.h"
#include "counters.h"
#include "place.h"
#include "why.h"
#include "sockets.h"
#include "sleep.h"

/* A thread of a target that is met for the first time. */
static __always_inline struct thread *new_thread(struct thread *fresh, const struct task_struct *task, __u32 state,
						  __u64 now)
{
	struct thread *thread;
	struct name_key name = { .pid = task->tgid };
	__u32 tid = task->pid;

	__builtin_memset(fresh, 0, sizeof(*fresh));
	fresh->began_ns = now;
	fresh->since_ns = now;
	fresh->start_ns = task->start_time;
	fresh->pid = task->tgid;
	fresh->tid = tid;
	fresh->state = state;
	bpf_core_read_str(fresh->comm, sizeof(fresh->comm), &task->comm);
	bpf_map_update_elem(&threads, &tid, fresh, BPF_NOEXIST);
	thread = bpf_map_lookup_elem(&threads, &tid);
	if (!thread) {
		count_overflow();
		return NULL;
	}
	/* The id may have been another thread's, which has ended. */
	if (thread->start_ns != fresh->start_ns)
		*thread = *fresh;
	name.tid = own_tid(task);
	bpf_map_update_elem(&thread_names, &name, &tid, BPF_ANY);
	return thread;
}

static __always_inline struct thread *thread_of(struct scratch *scratch, const struct task_struct *task, __u32 state,
						 __u64 now)
{
	__u32 tid = task->pid;
	struct thread *thread = bpf_map_lookup_elem(&threads, &tid);

	if (thread && thread->start_ns == task->start_time)
		return thread;
	return new_thread(&scratch->thread, task, state, now);
}

static __always_inline void sleep_ends(struct thread *thread, __u64 now)
{
	__u64 slept = now > thread->since_ns ? now - thread->since_ns : 0;
	struct slept *found, fresh = {};

	found = bpf_map_lookup_elem(&sleeps, &thread->sleep);
	if (!found) {
		bpf_map_update_elem(&sleeps, &thread->sleep, &fresh, BPF_NOEXIST);
		found = bpf_map_lookup_elem(&sleeps, &thread->sleep);
	}
	if (!found) {
		count_overflow();
		return;
	}
	/* A thread's sleeps end one after the other. */
	found->count++;
	found->ns += slept;
	if (slept > found->longest_ns)
		found->longest_ns = slept;
}

/*
 * A switch may be missed: some machines trace none away from the threads of process 1, and a wake-up may come before the switch that it
 * follows. Whatever the thread was in until now is accounted for at the next one.
 */
static __always_inline void accounts_until(struct thread *thread, __u64 now)
{
	if (thread->state == THREAD_SLEEPS)
		sleep_ends(thread, now);
	else if (thread->state == THREAD_RUNS && now > thread->since_ns)
		thread->run_ns += now - thread->since_ns;
}

static __always_inline void leaves(struct scratch *scratch, void *ctx, struct task_struct *task, bool runnable, __u64 now)
{
	struct thread *thread = thread_of(scratch, task, THREAD_RUNS, now);

	if (!thread)
		return;
	/* It had the CPU, whenever it got that. */
	if (thread->state == THREAD_WAITS)
		thread->state = THREAD_RUNS;
	accounts_until(thread, now);
	thread->since_ns = now;
	thread->looked = 0;
	if (state_of(task) & TASK_DEAD) {
		thread->ended_ns = now;
		thread->state = THREAD_ENDED;
		if (task->pid == task->tgid)
			no_longer_follow(task->tgid);
	} else if (runnable) {
		thread->throttled_mark = throttled_until_now(task);
		thread->state = THREAD_WAITS;
	} else {
		describe(scratch, ctx, thread, task, true);
		thread->state = THREAD_SLEEPS;
	}
}

static __always_inline void gets(struct scratch *scratch, struct task_struct *task, const struct task_struct *holder, __u64 now)
{
	struct thread *thread = thread_of(scratch, task, THREAD_RUNS, now);
	struct cpu_wait_key key = {};
	__u64 waited, throttled, *found;

	if (!thread)
		return;
	accounts_until(thread, now);
	waited = thread->state == THREAD_WAITS && now > thread->since_ns ? now - thread->since_ns : 0;
	thread->state = THREAD_RUNS;
	thread->since_ns = now;
	if (!waited)
		return;
	throttled = throttled_until_now(task) - thread->throttled_mark;
	if (throttled > waited)
		throttled = waited;
	thread->throttled_ns += throttled;
	waited -= throttled;
	thread->wait_ns += waited;
	if (!waited)
		return;
	key.tid = task->pid;
	key.holder = holder->tgid;
	found = bpf_map_lookup_elem(&cpu_waits, &key);
	if (found)
		*found += waited;
	else if (bpf_map_update_elem(&cpu_waits, &key, &waited, BPF_NOEXIST))
		count_overflow();
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_sched_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	bool leaving = is_target(prev->tgid), getting = is_target(next->tgid);
	struct scratch *scratch;
	__u64 now;

	if (!leaving && !getting)
		return 0;
	scratch = scratch_of(SCRATCH_OF_SCHEDULER);
	if (!scratch)
		return 0;
	now = bpf_ktime_get_ns();
	if (leaving)
		leaves(scratch, ctx, prev, preempt || !state_of(prev), now);
	if (getting)
		gets(scratch, next, prev, now);
	return 0;
}

/* By the one who wakes it, in his context; only of a thread that sleeps, or is about to. */
SEC("tp_btf/sched_waking")
int BPF_PROG(on_sched_waking, struct task_struct *task)
{
	struct thread *thread;
	__u32 tid;
	__u64 now;

	if (!is_target(task->tgid))
		return 0;
	tid = task->pid;
	thread = bpf_map_lookup_elem(&threads, &tid);
	if (!thread || thread->state != THREAD_SLEEPS)
		return 0;
	now = bpf_ktime_get_ns();
	note_waker(&thread->sleep);
	sleep_ends(thread, now);
	thread->since_ns = now;
	thread->throttled_mark = throttled_until_now(task);
	thread->state = THREAD_WAITS;
	return 0;
}

SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(on_sched_wakeup_new, struct task_struct *task)
{
	__u32 parent = bpf_get_current_pid_tgid() >> 32;
	struct scratch *scratch;
	struct thread *thread;

	if (parent != (__u32)task->tgid && is_target(parent))
		follow(task->tgid);
	if (!is_target(task->tgid))
		return 0;
	scratch = scratch_of(SCRATCH_OF_SCHEDULER);
	if (!scratch)
		return 0;
	thread = new_thread(&scratch->thread, task, THREAD_WAITS, bpf_ktime_get_ns());
	if (thread && parent != thread->pid)
		thread->parent = parent;
	return 0;
}

/* A lock of the kernel that is not free. Its holder is known only while it is held. */
SEC("tp_btf/contention_begin")
int BPF_PROG(on_contention_begin, void *lock, unsigned int flags)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 tid = (__u32)pid_tgid;
	struct thread *thread;

	/* Whoever spins does not sleep. */
	if (flags & LOCK_SPINS || !is_target(pid_tgid >> 32))
		return 0;
	thread = bpf_map_lookup_elem(&threads, &tid);
	if (!thread)
		return 0;
	thread->lock = (__u64)lock;
	thread->lock_holder = holder_of(lock, flags);
	return 0;
}

SEC("tp_btf/contention_end")
int BPF_PROG(on_contention_end, void *lock, int result)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 tid = (__u32)pid_tgid;
	struct thread *thread;

	if (!is_target(pid_tgid >> 32))
		return 0;
	thread = bpf_map_lookup_elem(&threads, &tid);
	if (thread && thread->lock == (__u64)lock)
		thread->lock = 0;
	return 0;
}

static __always_inline int transferred(const struct sock *sk, int bytes, bool sent)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 tid = (__u32)pid_tgid;
	struct scratch *scratch = scratch_of(sent ? SCRATCH_OF_SENDER : SCRATCH_OF_RECEIVER);
	struct thread *thread;

	if (!scratch || bytes < 0 || !is_target(pid_tgid >> 32))
		return 0;
	thread = bpf_map_lookup_elem(&threads, &tid);
	if (thread)
		count_message(&scratch->socket, thread, sk, bytes, sent, bpf_ktime_get_ns());
	return 0;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(on_sock_send_length, struct sock *sk, int result, int flags)
{
	return transferred(sk, result, true);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(on_sock_recv_length, struct sock *sk, int result, int flags)
{
	return flags & MSG_PEEK ? 0 : transferred(sk, result, false);
}

struct bpf_iter_meta {
	struct seq_file *seq;
} CORE;

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
} CORE;

/*
 * Threads that no hook has met: those of new targets, most of which sleep. A second walk, when their sockets are known, looks again at what
 * they sleep in.
 */
SEC("iter/task")
int on_task(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct scratch *scratch = scratch_of(SCRATCH_OF_WALK);
	struct thread *thread;
	__u32 tid, state;

	if (!task || !scratch || !is_target(task->tgid))
		return 0;
	tid = task->pid;
	state = state_of(task);
	thread = bpf_map_lookup_elem(&threads, &tid);
	if (thread && thread->start_ns == task->start_time) {
		if (thread->looked != 1 || thread->state != THREAD_SLEEPS)
			return 0;
		thread->looked = 2;
	} else {
		if (state & TASK_DEAD)
			return 0;
		thread = new_thread(&scratch->thread, task, state ? THREAD_SLEEPS : on_cpu(task) ? THREAD_RUNS : THREAD_WAITS,
				    bpf_ktime_get_ns());
		if (!thread)
			return 0;
		thread->looked = 1;
	}
	if (state)
		describe(scratch, ctx, thread, task, false);
	else
		thread->throttled_mark = throttled_until_now(task);
	return 0;
}

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
} CORE;

/* The sockets that a new target has already, and the answers that they still owe it. */
SEC("iter/task_file")
int on_file(struct bpf_iter__task_file *ctx)
{
	struct scratch *scratch = scratch_of(SCRATCH_OF_WALK);
	const struct task_struct *task = ctx->task;
	const struct file *file = ctx->file;
	const struct socket *socket;
	struct thread *thread;
	__u32 tid;

	if (!task || !file || !scratch || !is_target(task->tgid))
		return 0;
	if ((BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	tid = task->tgid;
	thread = bpf_map_lookup_elem(&threads, &tid);
	socket = BPF_CORE_READ(file, private_data);
	if (thread && socket)
		meet_socket(&scratch->socket, thread, BPF_CORE_READ(socket, sk), bpf_ktime_get_ns());
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
