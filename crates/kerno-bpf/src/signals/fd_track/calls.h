/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What each system call did to the table, from its arguments, its result and the memory it wrote. */
#ifndef KERNO_FD_CALLS_H
#define KERNO_FD_CALLS_H

#include "syscall.h"
#include "messages.h"

/* How a call tells its descriptors; the loader fills the tables from the calls' names. Values as in loader.rs. */
#define CALL_RETURNS 1 /* it returns one */
#define CALL_CLOSE 2
#define CALL_CLOSE_RANGE 3
#define CALL_DUP2 4
#define CALL_FCNTL 5
#define CALL_PIPE 6 /* two, stored at argument 0 */
#define CALL_SOCKETPAIR 7 /* two, stored at argument 3 */
#define CALL_SIGNALFD 8
#define CALL_BPF 9
#define CALL_SECCOMP 10
#define CALL_LANDLOCK 11
#define CALL_IO_URING_SETUP 12
#define CALL_CLONE 13
#define CALL_CLONE3 14
#define CALL_RECVMSG 15
#define CALL_RECVMMSG 16
#define CALL_GETSOCKOPT 17
#define CALL_IOCTL 18
#define CALL_EXEC 19
#define CALL_SOCKETCALL 20

const volatile __u8 cfg_calls[MAX_SYSCALLS] = {};
const volatile __u8 cfg_compat_calls[MAX_SYSCALLS] = {};

/* linux/fcntl.h, linux/socket.h and the other user headers, which are the same for all tables of calls. */
#define F_DUPFD 0
#define F_DUPFD_CLOEXEC 1030
#define CLOSE_RANGE_UNSHARE (1u << 1)
#define CLOSE_RANGE_CLOEXEC (1u << 2)
#define SECCOMP_SET_MODE_FILTER 1
#define SECCOMP_FILTER_FLAG_NEW_LISTENER (1u << 3)
#define IORING_SETUP_REGISTERED_FD_ONLY (1u << 15)
#define CLONE_PIDFD 0x1000
#define SO_PEERPIDFD 77
#define SOL_SCTP 132

/* Commands of bpf(2) that return a descriptor: enum bpf_cmd of linux/bpf.h, where the headers may be older than the kernel. */
#define BPF_RETURNS_FD                                                                                                 \
	(1ull << 0 /* MAP_CREATE */ | 1ull << 5 /* PROG_LOAD */ | 1ull << 7 /* OBJ_GET */ |                            \
	 1ull << 13 /* PROG_GET_FD_BY_ID */ | 1ull << 14 /* MAP_GET_FD_BY_ID */ |                                      \
	 1ull << 17 /* RAW_TRACEPOINT_OPEN */ | 1ull << 18 /* BTF_LOAD */ | 1ull << 19 /* BTF_GET_FD_BY_ID */ |        \
	 1ull << 28 /* LINK_CREATE */ | 1ull << 30 /* LINK_GET_FD_BY_ID */ | 1ull << 32 /* ENABLE_STATS */ |           \
	 1ull << 33 /* ITER_CREATE */ | 1ull << 36 /* TOKEN_CREATE */)

/* What a thread's table looked like when its call began. 1 MiB; two threads that share a slot: the earlier one's is lost. */
#define PENDING_SLOTS (1 << 16)

struct pending {
	__u64 open; /* dup2: was the target open; ioctl: 64 descriptors from base */
	__u32 tid; /* 0: none */
	__u32 base;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it to PENDING_SLOTS */
	__type(key, __u32);
	__type(value, struct pending);
} pending SEC(".maps");

static __always_inline struct pending *pending_slot(__u32 tid)
{
	__u32 index = tid & (PENDING_SLOTS - 1);

	return bpf_map_lookup_elem(&pending, &index);
}

static __always_inline void remember(__u64 open, __u32 base)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct pending *slot = pending_slot(tid);

	if (!slot)
		return;
	if (slot->tid && slot->tid != tid)
		count_untracked();
	slot->open = open;
	slot->base = base;
	slot->tid = tid;
}

/* What this thread's call remembered; valid until its next call. */
static __always_inline struct pending *remembered(void)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct pending *slot = pending_slot(tid);

	if (!slot || slot->tid != tid)
		return NULL;
	slot->tid = 0;
	return slot;
}

static __always_inline void dup2_begins(__u32 from, __u32 to)
{
	struct table table;

	if (from != to && table_of(&table, current_task()))
		remember(table_has(&table, to), to);
}

static __always_inline void dup2_ended(__u32 from, int to, __u32 how, int nr)
{
	struct pending *slot = remembered();

	/* To itself: nothing changes, and dup3 refuses it. */
	if ((int)from == to)
		return;
	if (slot && slot->open && slot->base == (__u32)to)
		emit_fd(to, (how & ~0xffu) | OP_CLOSE, nr, 0);
	emit_fd(to, how, nr, 0);
}

/* New descriptors are the lowest free ones, so one word from there tells what an ioctl adds. 1024 descriptors are searched. */
#define MAX_FULL_WORDS 16

static __always_inline void ioctl_begins(void)
{
	const struct files_struct *files;
	struct table table;
	__u64 word = 0;
	__u32 index;

	if (!table_of(&table, current_task()))
		return;
	files = table.files;
	index = BPF_CORE_READ(files, next_fd) / 64;
	for (int i = 0; i < MAX_FULL_WORDS; i++) {
		/* Beyond the end: the table will grow, and is empty there. */
		word = index < table.words ? table_word(table.open, index) : 0;
		if (~word) {
			remember(word, index * 64);
			return;
		}
		index++;
	}
}

/*
 * Which requests make descriptors is each driver's own affair, and so is where they tell them. A table that nobody
 * shares can only have been changed by this call; in a shared one the return value must be the new descriptor.
 */
static __always_inline void ioctl_ended(long ret, __u32 how, int nr)
{
	struct pending *slot = remembered();
	struct table table;
	__u64 added;

	if (!slot || !table_of(&table, current_task()) || slot->base / 64 >= table.words)
		return;
	added = table_word(table.open, slot->base / 64) & ~slot->open;
	if (!added)
		return;
	if (table_users(&table) == 1)
		emit_bits(added, slot->base, how, nr);
	else if (ret >= slot->base && ret < slot->base + 64ll && (added >> (ret & 63) & 1))
		emit_fd(ret, how, nr, 0);
}

static __always_inline void close_range_begins(__u32 first, __u32 last, __u32 flags, __u32 how, int nr)
{
	if (flags & ~(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) || first > last || flags & CLOSE_RANGE_CLOEXEC)
		return;
	emit_open(first, last, how, nr);
}

/* i386 had one number for all socket calls: the first argument says which, the second where its arguments are. */
static __always_inline __u32 socketcall_kind(__u32 call)
{
	switch (call) {
	case 1: /* socket */
	case 5: /* accept */
	case 18: /* accept4 */
		return CALL_RETURNS;
	case 8:
		return CALL_SOCKETPAIR;
	case 15:
		return CALL_GETSOCKOPT;
	case 17:
		return CALL_RECVMSG;
	case 19:
	case 20: /* with 64-bit time */
		return CALL_RECVMMSG;
	default:
		return 0;
	}
}

/* A call's saved registers, or the memory that a socketcall's arguments are in. */
struct arguments {
	const struct pt_regs *regs;
	__u64 memory;
	bool compat;
};

static __always_inline __u64 argument(const struct arguments *from, int n)
{
	__u32 value = 0;

	if (!from->memory)
		return syscall_arg(from->regs, n, from->compat);
	bpf_probe_read_user(&value, sizeof(value), (const void *)(from->memory + n * sizeof(value)));
	return value;
}

static __always_inline __u32 user_u32(__u64 address)
{
	__u32 value = 0;

	if (bpf_probe_read_user(&value, sizeof(value), (const void *)address))
		count_untracked();
	return value;
}

static __always_inline __u64 user_u64(__u64 address)
{
	__u64 value = 0;

	if (bpf_probe_read_user(&value, sizeof(value), (const void *)address))
		count_untracked();
	return value;
}

/* For the calls whose return value is a descriptor only in some cases. */
static __always_inline bool returns_fd(__u32 kind, const struct arguments *args)
{
	__u32 command;

	switch (kind) {
	case CALL_RETURNS:
		return true;
	case CALL_FCNTL:
		command = argument(args, 1);
		return command == F_DUPFD || command == F_DUPFD_CLOEXEC;
	case CALL_SIGNALFD: /* with a descriptor it changes that one */
		return (int)argument(args, 0) == -1;
	case CALL_BPF:
		command = argument(args, 0);
		return command < 64 && (BPF_RETURNS_FD >> command & 1);
	case CALL_SECCOMP:
		return (__u32)argument(args, 0) == SECCOMP_SET_MODE_FILTER &&
		       (argument(args, 1) & SECCOMP_FILTER_FLAG_NEW_LISTENER);
	case CALL_LANDLOCK: /* with flags it returns a version */
		return !(__u32)argument(args, 2);
	case CALL_IO_URING_SETUP: /* the third word of its parameters; a registered ring's number is no descriptor */
		return !(user_u32(argument(args, 1) + 8) & IORING_SETUP_REGISTERED_FD_ONLY);
	case CALL_GETSOCKOPT: /* SCTP_SOCKOPT_PEELOFF and SCTP_SOCKOPT_PEELOFF_FLAGS */
		command = argument(args, 2);
		return (__u32)argument(args, 1) == SOL_SCTP && (command == 102 || command == 122);
	default:
		return false;
	}
}

static __always_inline void call_ended(__u32 kind, const struct arguments *args, long ret, int nr)
{
	__u32 how = HOW(OP_OPEN, SOURCE_SYSCALL, args->compat);
	__u64 address;

	switch (kind) {
	case CALL_DUP2:
		dup2_ended(argument(args, 0), ret, how, nr);
		return;
	case CALL_PIPE:
		emit_stored(argument(args, 0), 2, how, nr, 0);
		return;
	case CALL_SOCKETPAIR:
		emit_stored(argument(args, 3), 2, how, nr, 0);
		return;
	case CALL_CLONE: /* 0 is the child's own return */
		if (ret > 0 && (argument(args, 0) & CLONE_PIDFD))
			emit_stored(argument(args, 2), 1, how, nr, 0);
		return;
	case CALL_CLONE3:
		address = argument(args, 0);
		if (ret > 0 && (user_u64(address) & CLONE_PIDFD))
			emit_stored(user_u64(address + 8), 1, how, nr, 0);
		return;
	case CALL_RECVMSG:
		emit_message(argument(args, 1), how, nr, 0);
		return;
	case CALL_RECVMMSG:
		emit_messages(argument(args, 1), ret, how, nr);
		return;
	case CALL_IOCTL:
		ioctl_ended(ret, how, nr);
		return;
	case CALL_GETSOCKOPT:
		if ((__u32)argument(args, 1) == SOL_SOCKET && (__u32)argument(args, 2) == SO_PEERPIDFD) {
			emit_stored(argument(args, 3), 1, how, nr, 0);
			return;
		}
	}
	if (returns_fd(kind, args))
		emit_fd(ret, how, nr, 0);
}

/* 0 for the calls that change no descriptor, which is nearly all. */
static __always_inline __u32 call_kind(__u64 nr, bool *compat)
{
	nr &= ~(__u64)X32_SYSCALL_BIT;
	if (nr >= MAX_SYSCALLS)
		return 0;
	/* Which table is meant costs a read: only where it matters. */
	if (!(cfg_calls[nr] | cfg_compat_calls[nr]))
		return 0;
	*compat = in_compat_syscall();
	return *compat ? cfg_compat_calls[nr] : cfg_calls[nr];
}

#endif
