/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a thread sleeps in: from the registers of its system call, the file behind a descriptor, and the kernel's stack. */
#ifndef KERNO_SLEEP_H
#define KERNO_SLEEP_H

#include "kernel.h"
#include "files.h"
#include "place.h"
#include "syscall.h"
#include "sockets.h"
#include "why.h"

/* What the first arguments of a call are; the loader fills the tables. */
#define CALL_OTHER 0
#define CALL_FD 1 /* a descriptor comes first */
#define CALL_FUTEX 2
#define CALL_POLL 3 /* poll and ppoll: how many descriptors comes second */
#define CALL_SELECT 4 /* the highest descriptor comes first */
#define CALL_EPOLL 5
#define CALL_TIMER 6
#define CALL_CHILD 7
#define CALL_SIGNAL 8
#define CALL_PATH 9 /* a path comes first */
#define CALL_PATH_AT 10 /* a path comes second */

const volatile __u8 cfg_calls[MAX_SYSCALLS] = {};
const volatile __u8 cfg_compat_calls[MAX_SYSCALLS] = {};

#define S_IFMT 0xf000
#define S_IFSOCK 0xc000
#define S_IFREG 0x8000
#define S_IFDIR 0x4000
#define S_IFIFO 0x1000

#define FUTEX_PRIVATE 128
#define FUTEX_CMD_MASK (~(128 | 256))
#define FUTEX_WAIT 0
#define FUTEX_WAIT_BITSET 9
#define FUTEX_LOCK_PI 6
#define FUTEX_LOCK_PI2 13
#define FUTEX_TID_MASK 0x3fffffff
#define OWNER_OFFSET 8 /* of __owner in glibc's pthread_mutex_t, from its lock word */

/* include/trace/events/lock.h */
#define LOCK_SPINS 0x01
#define LOCK_READS 0x02
#define LOCK_WRITES 0x04
#define LOCK_REAL_TIME 0x08
#define LOCK_PER_CPU 0x10
#define LOCK_MUTEX 0x20
#define LOCK_FLAGS 7ull /* in an owner's lowest bits */
#define READERS_HOLD 1ull /* of an rw_semaphore's owner */

#define MAX_PATHS 1024
#define PATH_LEN 128

struct sleep_path {
	char text[PATH_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PATHS);
	__type(key, __u64);
	__type(value, struct sleep_path);
} paths SEC(".maps");

/*
 * What is too large for the stack. Since 7.0 a program may be preempted, and then runs for no other task on that CPU, but others do:
 * each that may be has its own. Those at switches and wake-ups run one after the other.
 */
struct scratch {
	struct place place;
	struct sleep_path path;
	struct socket_row socket;
	struct thread thread;
};

#define SCRATCH_OF_SCHEDULER 0
#define SCRATCH_OF_SENDER 1
#define SCRATCH_OF_RECEIVER 2
#define SCRATCH_OF_WALK 3

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

static __always_inline struct scratch *scratch_of(__u32 whom)
{
	return bpf_map_lookup_elem(&scratches, &whom);
}

struct inode___why {
	unsigned long i_ino;
	__u32 i_rdev;
} CORE;

struct super_block___why {
	__u32 s_dev;
} CORE;

typedef struct {
	long counter;
} CORE atomic64_t;

struct mutex {
	atomic64_t owner;
} CORE;

struct rw_semaphore {
	atomic64_t owner;
} CORE;

struct task_struct___stack {
	void *stack;
} CORE;

/* Of x86-64 and of arm64 with pages of 4 KiB, before 5.15: registers are at the stack's end. */
#define THREAD_SIZE 16384
#define X86_REGISTERS_SIZE 168
#define ARM64_REGISTERS_SIZE 336

/* The registers that a task entered the kernel with; by a helper since 5.15. */
static __always_inline const struct pt_regs *registers_of(const struct task_struct *task)
{
	const struct pt_regs___x86 *x86 = NULL;

	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return (const struct pt_regs *)bpf_task_pt_regs((struct task_struct *)task);
	return (const void *)BPF_CORE_READ((const struct task_struct___stack *)task, stack) + THREAD_SIZE -
	       (bpf_core_field_exists(x86->orig_ax) ? X86_REGISTERS_SIZE : ARM64_REGISTERS_SIZE);
}

#define PF_KTHREAD 0x00200000 /* has no registers of a program */

struct call {
	__s32 nr; /* -1 for none */
	bool compat;
	__u8 class;
	__u64 first, second;
};

#define READ_REGISTER(type, regs, field) BPF_CORE_READ((const struct type *)(regs), field)

static __always_inline void read_call(struct call *call, const struct task_struct *task)
{
	const struct pt_regs *regs = registers_of(task);
	const struct pt_regs___x86 *x86 = (const void *)regs;
	const struct pt_regs___arm64 *arm64 = (const void *)regs;
	__u32 nr;

	call->class = CALL_OTHER;
	call->compat = false;
	call->first = 0;
	call->second = 0;
	call->nr = -1;
	if (task->flags & PF_KTHREAD)
		return;
	if (bpf_core_field_exists(x86->orig_ax)) {
		call->nr = BPF_CORE_READ(x86, orig_ax);
		call->compat = BPF_CORE_READ(task, thread_info.status) & X86_TS_COMPAT;
		call->first = call->compat ? (__u32)BPF_CORE_READ(x86, bx) : BPF_CORE_READ(x86, di);
		call->second = call->compat ? (__u32)BPF_CORE_READ(x86, cx) : BPF_CORE_READ(x86, si);
	} else {
		call->nr = BPF_CORE_READ(arm64, syscallno);
		call->compat = BPF_CORE_READ(task, thread_info.flags) & (1ul << ARM64_TIF_32BIT);
		call->first = BPF_CORE_READ(arm64, orig_x0);
		call->second = BPF_CORE_READ(arm64, regs[1]);
	}
	nr = call->nr;
	if (call->nr < 0) {
		call->nr = -1;
		return;
	}
	nr &= ~X32_SYSCALL_BIT;
	if (nr < MAX_SYSCALLS)
		call->class = call->compat ? cfg_compat_calls[nr] : cfg_calls[nr];
}

static __always_inline void describe_futex(struct thread *thread, const struct call *call, bool current)
{
	struct sleep *sleep = &thread->sleep;
	__u32 operation = call->second & FUTEX_CMD_MASK, word = 0, owner = 0, *tid;
	struct name_key name = { .pid = thread->pid };

	sleep->kind = SLEEP_FUTEX;
	sleep->object = call->first;
	/* The memory of another task cannot be read from here. */
	if (!current || bpf_probe_read_user(&word, sizeof(word), (const void *)call->first))
		return;
	if (operation == FUTEX_LOCK_PI || operation == FUTEX_LOCK_PI2) {
		owner = word & FUTEX_TID_MASK;
		sleep->flags |= SLEEPS_LOCKED;
	} else if (operation != FUTEX_WAIT && operation != FUTEX_WAIT_BITSET) {
		return;
	} else if (word == 2) {
		/* What glibc, musl, Rust and Go have in a lock that is taken and waited for. */
		sleep->flags |= SLEEPS_LOCKED;
		bpf_probe_read_user(&owner, sizeof(owner), (const void *)(call->first + OWNER_OFFSET));
	} else if (!(call->second & FUTEX_PRIVATE)) {
		owner = word;
	}
	if (!owner)
		return;
	/* Only what is a thread of the process: other locks have other things there. */
	name.tid = owner;
	tid = bpf_map_lookup_elem(&thread_names, &name);
	if (!tid || *tid == thread->tid)
		return;
	sleep->other = *tid;
	if (!(sleep->flags & SLEEPS_LOCKED))
		sleep->flags |= SLEEPS_JOINS;
}

static __always_inline void describe_socket(struct scratch *scratch, struct thread *thread, const struct sock *sk, __u64 inode)
{
	struct socket_row *row = socket_row(&scratch->socket, sk, inode, thread->pid);

	if (!row)
		return;
	/* Met in the middle of things, a blocking reader is taken to await what it reads. */
	if (row->role != ROLE_SERVER && (row->awaiting_since_ns || (!row->sent && !row->received)))
		thread->sleep.flags |= SLEEPS_AWAITS;
	if (row->role == ROLE_SERVER && row->owing_since_ns)
		thread->sleep.flags |= SLEEPS_OWES;
}

static __always_inline void describe_file(struct scratch *scratch, struct thread *thread, const struct task_struct *task,
					  __s32 fd)
{
	const struct file *file = file_of(task, fd);
	const struct super_block___why *sb;
	const struct socket *socket;
	const struct inode *inode;
	struct sleep *sleep = &thread->sleep;
	__u16 type;

	if (!file)
		return;
	inode = BPF_CORE_READ(file, f_inode);
	sb = (const void *)BPF_CORE_READ(inode, i_sb);
	type = BPF_CORE_READ(inode, i_mode) & S_IFMT;
	sleep->fd = fd;
	sleep->object = BPF_CORE_READ((const struct inode___why *)inode, i_ino);
	sleep->device = BPF_CORE_READ(sb, s_dev);
	switch (type) {
	case S_IFREG:
	case S_IFDIR:
		sleep->kind = SLEEP_FILE;
		break;
	case S_IFIFO:
		sleep->kind = SLEEP_PIPE;
		break;
	case S_IFSOCK:
		sleep->kind = SLEEP_SOCKET;
		socket = BPF_CORE_READ(file, private_data);
		describe_socket(scratch, thread, BPF_CORE_READ(socket, sk), sleep->object);
		break;
	default:
		sleep->kind = SLEEP_DEVICE;
		sleep->device = BPF_CORE_READ((const struct inode___why *)inode, i_rdev);
	}
}

static __always_inline void describe_path(struct sleep_path *path, struct sleep *sleep, __u64 address)
{
	__u64 hash = 0xcbf29ce484222325ull;

	__builtin_memset(path, 0, sizeof(*path));
	if (bpf_probe_read_user_str(path->text, sizeof(path->text), (const void *)address) <= 0)
		return;
#pragma clang loop unroll(disable)
	for (int i = 0; i < PATH_LEN / 8; i++)
		hash = (hash ^ ((__u64 *)path->text)[i]) * 0x100000001b3ull;
	sleep->kind = SLEEP_PATH;
	sleep->object = hash;
	bpf_map_update_elem(&paths, &hash, path, BPF_NOEXIST);
}

/* Whether a light sleep of this kind can be nothing but what the call is for. */
static __always_inline bool call_says_enough(const struct sleep *sleep)
{
	switch (sleep->kind) {
	case SLEEP_OTHER:
	case SLEEP_FILE:
	case SLEEP_PATH:
	case SLEEP_DEVICE:
	case SLEEP_LOCK:
		return false;
	default:
		return true;
	}
}

static __always_inline void describe_wait_for_events(struct thread *thread)
{
	struct sleep *sleep = &thread->sleep;
	__u64 inode = awaited_socket(thread);

	if (inode) {
		sleep->object = inode;
		sleep->flags |= SLEEPS_AWAITS;
	} else if (thread->owes) {
		sleep->flags |= SLEEPS_OWES;
	}
}

struct pollfd {
	__s32 fd;
	__u32 events;
};

/* To poll one descriptor is to wait for it, as in a read. Of another task the loader looks at which it is. */
static __always_inline void describe_poll(struct scratch *scratch, struct thread *thread, const struct task_struct *task,
					  const struct call *call, bool current)
{
	struct pollfd polled = {};

	thread->sleep.kind = call->second ? SLEEP_POLL : SLEEP_TIMER;
	if (call->second != 1 || !current || bpf_probe_read_user(&polled, sizeof(polled), (const void *)call->first))
		return;
	describe_file(scratch, thread, task, polled.fd);
	/* What can be ready at any time, such as a file, is not waited for. */
	if (thread->sleep.kind != SLEEP_SOCKET && thread->sleep.kind != SLEEP_PIPE)
		thread->sleep.kind = SLEEP_POLL;
}

static __always_inline void describe_call(struct scratch *scratch, struct thread *thread, const struct task_struct *task,
					  const struct call *call, bool current)
{
	struct sleep *sleep = &thread->sleep;

	switch (call->class) {
	case CALL_FD:
		describe_file(scratch, thread, task, call->first);
		break;
	case CALL_FUTEX:
		describe_futex(thread, call, current);
		if (!sleep->other)
			describe_wait_for_events(thread);
		break;
	case CALL_POLL:
		describe_poll(scratch, thread, task, call, current);
		break;
	case CALL_SELECT:
		sleep->kind = call->first ? SLEEP_POLL : SLEEP_TIMER;
		break;
	case CALL_EPOLL:
		sleep->kind = SLEEP_POLL;
		sleep->fd = call->first;
		break;
	case CALL_TIMER:
		sleep->kind = SLEEP_TIMER;
		break;
	case CALL_CHILD:
		sleep->kind = SLEEP_CHILD;
		break;
	case CALL_SIGNAL:
		sleep->kind = SLEEP_SIGNAL;
		break;
	case CALL_PATH:
		if (current)
			describe_path(&scratch->path, sleep, call->first);
		break;
	case CALL_PATH_AT:
		if (current)
			describe_path(&scratch->path, sleep, call->second);
		break;
	}
	if (sleep->kind == SLEEP_POLL)
		describe_wait_for_events(thread);
}

/* Fills in `thread->sleep`. The task is the current one, or one that is looked at from elsewhere. */
static __always_inline void describe(struct scratch *scratch, void *ctx, struct thread *thread,
				     const struct task_struct *task, bool current)
{
	const struct task_struct___why *more = (const void *)task;
	struct sleep *sleep = &thread->sleep;
	__u32 state = state_of(task);
	struct call call;

	__builtin_memset(sleep, 0, sizeof(*sleep));
	sleep->tid = task->pid;
	sleep->fd = -1;
	read_call(&call, task);
	sleep->call = call.nr;
	if (call.compat)
		sleep->flags |= SLEEPS_COMPAT;
	if (state & TASK_STOPPED) {
		sleep->flags |= SLEEPS_STOPPED;
		return;
	}
	if (state & TASK_TRACED) {
		sleep->flags |= SLEEPS_TRACED;
		sleep->other = BPF_CORE_READ(more, parent, tgid);
		return;
	}
	if (state & TASK_FROZEN || (bpf_core_field_exists(more->frozen) && BPF_CORE_READ_BITFIELD_PROBED(more, frozen))) {
		sleep->flags |= SLEEPS_FROZEN;
		return;
	}
	if (state & TASK_UNINTERRUPTIBLE)
		sleep->flags |= SLEEPS_DEEPLY;
	if (current && thread->lock) {
		sleep->kind = SLEEP_LOCK;
		sleep->object = thread->lock;
		sleep->other = thread->lock_holder;
	} else {
		describe_call(scratch, thread, task, &call, current);
	}
	if (state & TASK_UNINTERRUPTIBLE || !call_says_enough(sleep))
		sleep->place = place_of(&scratch->place, ctx, task, current);
}

/* The thread that holds a lock of the kernel, 0 where that is not known. */
static __always_inline __u32 holder_of(const void *lock, unsigned int flags)
{
	unsigned long owner = 0;

	if (flags & LOCK_MUTEX && bpf_core_field_exists(((struct mutex *)0)->owner))
		owner = BPF_CORE_READ((const struct mutex *)lock, owner.counter);
	else if (flags & (LOCK_READS | LOCK_WRITES) && !(flags & (LOCK_PER_CPU | LOCK_REAL_TIME)) &&
		 bpf_core_field_exists(((struct rw_semaphore *)0)->owner)) {
		owner = BPF_CORE_READ((const struct rw_semaphore *)lock, owner.counter);
		if (owner & READERS_HOLD)
			return 0;
	}
	owner &= ~LOCK_FLAGS;
	return owner ? BPF_CORE_READ((const struct task_struct *)owner, pid) : 0;
}

/* Whether it tells something who ends such a sleep. */
static __always_inline bool waker_matters(const struct sleep *sleep)
{
	switch (sleep->kind) {
	case SLEEP_FUTEX:
		return !sleep->other;
	case SLEEP_PIPE:
	case SLEEP_SOCKET:
	case SLEEP_DEVICE:
	case SLEEP_CHILD:
	case SLEEP_SIGNAL:
		return true;
	case SLEEP_POLL:
		return sleep->flags & SLEEPS_OWES && !(sleep->flags & SLEEPS_AWAITS);
	default:
		return false;
	}
}

/* The current task ends a sleep, unless it is an interrupt on top of it: then that is no system call of its own. */
static __always_inline void note_waker(struct sleep *sleep)
{
	__u64 pid_tgid;
	struct call call;

	if (!waker_matters(sleep))
		return;
	pid_tgid = bpf_get_current_pid_tgid();
	if (!(__u32)pid_tgid)
		return;
	if (sleep->kind == SLEEP_FUTEX && LOOKS_INTO_TASK) {
		read_call(&call, bpf_get_current_task_btf());
		/* A thread that ends wakes those that wait for it. */
		if (call.nr < 0)
			return;
	}
	sleep->waker = (__u32)pid_tgid;
	sleep->waker_pid = pid_tgid >> 32;
}

#endif
