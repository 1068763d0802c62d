/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * fd_track: every descriptor that a process gets or gives up, by its number.
 *
 * hooks   tp_btf/sys_exit for all that a call returns; tp_btf/sys_enter where what was there before the call matters
 *         (dup2, close_range, ioctl); sched_prepare_exec or the entry of execve, with sched_process_exec, for
 *         close-on-exec; sched_process_exit for what a process leaves open; io_uring_complete and io_uring_submit_req
 * key     thread id, direct-mapped, from entry to exit of dup2 and ioctl; process id while it executes a new program
 * cost    one table look-up for a call that changes no descriptor; ioctl takes a snapshot of one word of the table
 * not     descriptors that read(2) of fanotify and userfaultfd brings; those a seccomp supervisor adds to another process;
 *         io_uring requests that post no completion; the copy that fork and unshare make of a table is no event
 */
#include "kernel.h"
#include "event.h"
#include "filter.h"
#include "emit.h"
#include "syscall.h"
#include "table.h"

struct fd_event {
	__u64 timestamp_ns; /* CLOCK_MONOTONIC */
	__u64 cgroup_id;
	__u32 pid;
	__u32 tid;
	__s32 fd;
	__s32 syscall_nr; /* -1 unless source is a call */
	__u8 op;
	__u8 source;
	__u8 compat;
	__u8 pad0[5];
	char comm[TASK_COMM_LEN];
};
ASSERT_RECORD(struct fd_event, 56);
KEEP_LAYOUT(struct fd_event);

#define OP_OPEN 1
#define OP_CLOSE 2

#define SOURCE_SYSCALL 1
#define SOURCE_EXEC 2
#define SOURCE_EXIT 3
#define SOURCE_IO_URING 4

/* What changed a descriptor, in one number: global functions of the verifier take only numbers. */
#define HOW(op, source, compat) ((op) | (source) << 8 | (__u32)(compat) << 16)
#define HOW_OP(how) ((how) & 0xff)
#define HOW_SOURCE(how) ((how) >> 8 & 0xff)
#define HOW_COMPAT(how) ((how) >> 16 & 1)

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

#define MAX_SYSCALLS 512
#define X32_SYSCALL_BIT 0x40000000

const volatile __u8 cfg_calls[MAX_SYSCALLS] = {};
const volatile __u8 cfg_compat_calls[MAX_SYSCALLS] = {};

/* Off when only named calls are asked for and these are not among them. */
const volatile __u8 cfg_exec = 1;
const volatile __u8 cfg_exit = 1;
const volatile __u8 cfg_io_uring = 1;
/* Where the kernel has no sched_prepare_exec (before 6.10), every execve that is tried takes a snapshot. */
const volatile __u8 cfg_exec_at_entry = 0;

/* linux/fcntl.h, linux/socket.h and the other user headers, which are the same for all tables of calls. */
#define F_DUPFD 0
#define F_DUPFD_CLOEXEC 1030
#define CLOSE_RANGE_UNSHARE (1u << 1)
#define CLOSE_RANGE_CLOEXEC (1u << 2)
#define SECCOMP_SET_MODE_FILTER 1
#define SECCOMP_FILTER_FLAG_NEW_LISTENER (1u << 3)
#define IORING_SETUP_REGISTERED_FD_ONLY (1u << 15)
#define CLONE_PIDFD 0x1000
#define SOL_SOCKET 1
#define SO_PEERPIDFD 77
#define SOL_SCTP 132
#define SCM_RIGHTS 1
#define SCM_PIDFD 4
#define IORING_OP_RECVMSG 10
#define IORING_OP_ACCEPT 13
#define IORING_OP_OPENAT 18
#define IORING_OP_CLOSE 19
#define IORING_OP_OPENAT2 28
#define IORING_OP_SOCKET 45
#define IORING_OP_FIXED_FD_INSTALL 54
#define IORING_OP_PIPE 62
#define IORING_ACCEPT_MULTISHOT 1
#define EBADF 9

/* Commands of bpf(2) that return a descriptor: enum bpf_cmd of linux/bpf.h, where the headers may be older than the kernel. */
#define BPF_RETURNS_FD                                                                                                 \
	(1ull << 0 /* MAP_CREATE */ | 1ull << 5 /* PROG_LOAD */ | 1ull << 7 /* OBJ_GET */ |                            \
	 1ull << 13 /* PROG_GET_FD_BY_ID */ | 1ull << 14 /* MAP_GET_FD_BY_ID */ |                                      \
	 1ull << 17 /* RAW_TRACEPOINT_OPEN */ | 1ull << 18 /* BTF_LOAD */ | 1ull << 19 /* BTF_GET_FD_BY_ID */ |        \
	 1ull << 28 /* LINK_CREATE */ | 1ull << 30 /* LINK_GET_FD_BY_ID */ | 1ull << 32 /* ENABLE_STATS */ |           \
	 1ull << 33 /* ITER_CREATE */ | 1ull << 36 /* TOKEN_CREATE */)

struct signal_struct {
	atomic_t live; /* threads that have not begun to exit */
	int nr_threads; /* threads that have not been released */
} CORE;

struct io_uring_task {
	struct task_struct *task;
} CORE;

struct io_uring_cqe {
	__u64 user_data;
	__s32 res;
} CORE;

struct io_kiocb {
	__u8 opcode;
	struct task_struct *task; /* until 6.12 */
	struct io_uring_task *tctx; /* since 6.12 */
	struct io_ring_ctx *ctx;
	struct io_uring_cqe cqe; /* since 5.19 */
} CORE;

/* What a request is about lies at its beginning (since 6.0); a file_slot is a place in the ring's own table. */
struct io_open {
	__u32 file_slot;
} CORE;

struct io_accept {
	int iou_flags; /* since 6.3 */
	__u32 file_slot;
} CORE;

struct io_socket {
	__u32 file_slot;
} CORE;

struct io_close {
	int fd;
	__u32 file_slot;
} CORE;

struct io_pipe {
	int *fds;
	int file_slot;
} CORE;

struct io_sr_msg {
	void *umsg; /* in an anonymous union */
} CORE;

struct linux_binprm {
	unsigned int have_execfd : 1; /* Linux 5.8 */
	int execfd;
} CORE;

/* What a thread's table looked like when its call began. 1 MiB; two threads that share a slot: the earlier one's is lost. */
#define PENDING_SLOTS (1 << 16)

struct pending {
	__u64 open; /* dup2: was the target open; ioctl: 64 descriptors from base */
	__u32 tid; /* 0: none */
	__u32 base;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PENDING_SLOTS);
	__type(key, __u32);
	__type(value, struct pending);
} pending SEC(".maps");

/* What an exec that has begun will close: 16,384 descriptors. */
#define EXEC_WORDS 256

struct exec_fds {
	__u64 files;
	__u64 words;
	char comm[TASK_COMM_LEN]; /* of the program that is replaced: the descriptors were its own */
	__u64 closing[EXEC_WORDS];
};

/* As many execs at once as have passed their snapshot and not yet their end; a full map is counted. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct exec_fds);
} execs SEC(".maps");

/* Always zero: what a new entry of execs is copied from, too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct exec_fds);
} no_exec SEC(".maps");

/* Tables of dying thread groups whose closes have been told, so that the last threads, which die together, tell them once. */
struct dead_table {
	__u64 files;
	__u64 start_time; /* of the group's leader: the address is used again, this is not */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct dead_table);
	__type(value, __u8);
} dead_tables SEC(".maps");

/* Requests that accept again and again: all but their last completion do not say which request they are of. */
struct accepting {
	__u64 ring;
	__u64 user_data;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct accepting);
	__type(value, __u8);
} accepting SEC(".maps");

/*
 * One event, about the task at that address or, with 0, the current one. Not inlined and not static: the verifier looks
 * at it once, whatever the number of places and loops that call it.
 */
__noinline int emit_fd(int fd, __u32 how, int nr, __u64 other)
{
	const struct task_struct *task = (const struct task_struct *)other;
	struct fd_event *event = event_reserve(struct fd_event);
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 tgid = pid_tgid >> 32;
	struct exec_fds *exec;

	if (!event)
		return 0;
	event->timestamp_ns = bpf_ktime_get_ns();
	event->fd = fd;
	event->syscall_nr = nr;
	event->op = HOW_OP(how);
	event->source = HOW_SOURCE(how);
	event->compat = HOW_COMPAT(how);
	if (task) {
		event->cgroup_id = task_cgroup_id(task);
		event->pid = BPF_CORE_READ(task, tgid);
		event->tid = BPF_CORE_READ(task, pid);
		task_comm(event->comm, task);
	} else {
		event->cgroup_id = bpf_get_current_cgroup_id();
		event->pid = tgid;
		event->tid = pid_tgid;
		bpf_get_current_comm(event->comm, sizeof(event->comm));
	}
	if (HOW_SOURCE(how) == SOURCE_EXEC && HOW_OP(how) == OP_CLOSE) {
		exec = bpf_map_lookup_elem(&execs, &tgid);
		if (exec)
			__builtin_memcpy(event->comm, exec->comm, sizeof(event->comm));
	}
	event_submit(event);
	return 0;
}

/* One event a bit. */
__noinline int emit_bits(__u64 word, __u32 base, __u32 how, int nr)
{
	for (int bit = 0; bit < 64; bit++) {
		if (!(word >> bit))
			break;
		if (word >> bit & 1)
			emit_fd(base + bit, how, nr, 0);
	}
	return 0;
}

/* Descriptors that the kernel stored in user memory as ints; SCM_RIGHTS carries at most 253 (SCM_MAX_FD). */
#define MAX_STORED 253

__noinline int emit_stored(__u64 user, __u32 count, __u32 how, int nr, __u64 other)
{
	int fd;

	for (__u32 i = 0; i < MAX_STORED; i++) {
		if (i >= count)
			break;
		if (bpf_probe_read_user(&fd, sizeof(fd), (const void *)(user + i * sizeof(fd)))) {
			count_untracked();
			break;
		}
		if (fd >= 0)
			emit_fd(fd, how, nr, other);
	}
	return 0;
}

#define MAX_CONTROL_MESSAGES 16

/* A received control buffer, in the shape of the call's table: 64-bit headers have a length of 8 bytes, 32-bit ones of 4. */
__noinline int emit_control(__u64 control, __u64 length, __u32 how, int nr, __u64 other)
{
	const __u32 size = HOW_COMPAT(how) ? 4 : 8;
	const __u32 header = size + 2 * sizeof(int);
	struct {
		int level, type;
	} kind;
	__u64 bytes;

	for (int i = 0; i < MAX_CONTROL_MESSAGES; i++) {
		if (length < header)
			return 0;
		bytes = 0;
		if (bpf_probe_read_user(&bytes, HOW_COMPAT(how) ? 4 : 8, (const void *)control) ||
		    bpf_probe_read_user(&kind, sizeof(kind), (const void *)(control + size)))
			goto unseen;
		if (bytes < header || bytes > length)
			return 0;
		if (kind.level == SOL_SOCKET && kind.type == SCM_RIGHTS)
			emit_stored(control + header, (bytes - header) / sizeof(int), how, nr, other);
		else if (kind.level == SOL_SOCKET && kind.type == SCM_PIDFD)
			emit_stored(control + header, 1, how, nr, other);
		bytes = (bytes + size - 1) & ~(__u64)(size - 1);
		if (bytes >= length)
			return 0;
		control += bytes;
		length -= bytes;
	}
unseen:
	count_untracked();
	return 0;
}

struct native_msghdr {
	__u64 name, name_bytes, vectors, vector_count, control, control_bytes, flags;
};

struct compat_msghdr {
	__u32 name, name_bytes, vectors, vector_count, control, control_bytes, flags;
};

/* What a message that has been received brought with it. */
__noinline int emit_message(__u64 user, __u32 how, int nr, __u64 other)
{
	struct native_msghdr native;
	struct compat_msghdr compat;

	if (HOW_COMPAT(how)) {
		if (bpf_probe_read_user(&compat, sizeof(compat), (const void *)user))
			count_untracked();
		else if (compat.control_bytes)
			emit_control(compat.control, compat.control_bytes, how, nr, other);
		return 0;
	}
	if (bpf_probe_read_user(&native, sizeof(native), (const void *)user))
		count_untracked();
	else if (native.control_bytes)
		emit_control(native.control, native.control_bytes, how, nr, other);
	return 0;
}

/* UIO_MAXIOV: recvmmsg takes no more. */
#define MAX_MESSAGES 1024

static __always_inline void emit_messages(__u64 user, __u32 count, __u32 how, int nr)
{
	/* A header is followed by the message's length; the whole is aligned as its widest member. */
	const __u32 stride = HOW_COMPAT(how) ? sizeof(struct compat_msghdr) + 4 : sizeof(struct native_msghdr) + 8;

	for (__u32 i = 0; i < MAX_MESSAGES; i++) {
		if (i >= count)
			break;
		emit_message(user + i * stride, how, nr, 0);
	}
}

/* One event for each open descriptor from first to last. */
__noinline int emit_open(__u32 first, __u32 last, __u32 how, int nr)
{
	struct table table;
	__u32 index;
	__u64 word;

	if (!table_of(&table, current_task()))
		return 0;
	for (__u32 i = 0; i < MAX_WALK_WORDS; i++) {
		index = first / 64 + i;
		if (index >= table.words || index > last / 64)
			return 0;
		word = table_word(table.open, index);
		if (index == first / 64)
			word &= ~0ull << (first % 64);
		if (index == last / 64)
			word &= ~0ull >> (63 - last % 64);
		if (word)
			emit_bits(word, index * 64, how, nr);
	}
	count_untracked();
	return 0;
}

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

/* Notes what an exec of the current task would close now. */
static __always_inline void exec_snapshot(const struct task_struct *task, struct exec_fds *exec)
{
	struct table table;

	if (!table_of(&table, task))
		return;
	exec->files = (__u64)table.files;
	exec->words = table.words < EXEC_WORDS ? table.words : EXEC_WORDS;
	if (table.words > EXEC_WORDS)
		count_untracked();
	for (__u32 i = 0; i < EXEC_WORDS; i++) {
		if (i >= table.words)
			break;
		/* A stale close-on-exec bit may outlive its descriptor. */
		exec->closing[i] = table_word(table.open, i) & table_word(table.close_on_exec, i);
	}
}

static __always_inline void exec_begins(const struct task_struct *task)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32, zero = 0;
	struct exec_fds *exec = bpf_map_lookup_elem(&no_exec, &zero);

	if (!exec)
		return;
	if (bpf_map_update_elem(&execs, &tgid, exec, BPF_ANY)) {
		count_untracked();
		return;
	}
	exec = bpf_map_lookup_elem(&execs, &tgid);
	if (!exec)
		return;
	bpf_get_current_comm(exec->comm, sizeof(exec->comm));
	exec_snapshot(task, exec);
}

static __always_inline void exec_forget(void)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;

	bpf_map_delete_elem(&execs, &tgid);
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

SEC("tp_btf/sys_enter")
int BPF_PROG(on_sys_enter, struct pt_regs *regs, long nr)
{
	bool compat = false;
	__u32 kind = call_kind(nr, &compat);

	if (kind != CALL_DUP2 && kind != CALL_IOCTL && kind != CALL_CLOSE_RANGE &&
	    !(kind == CALL_EXEC && cfg_exec_at_entry))
		return 0;
	if (!current_passes(bpf_get_current_pid_tgid()))
		return 0;
	if (kind == CALL_DUP2)
		dup2_begins(syscall_arg(regs, 0, compat), syscall_arg(regs, 1, compat));
	else if (kind == CALL_IOCTL)
		ioctl_begins();
	else if (kind == CALL_CLOSE_RANGE)
		close_range_begins(syscall_arg(regs, 0, compat), syscall_arg(regs, 1, compat),
				   syscall_arg(regs, 2, compat), HOW(OP_CLOSE, SOURCE_SYSCALL, compat), nr);
	else if (cfg_exec)
		exec_begins(current_task());
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(on_sys_exit, struct pt_regs *regs, long ret)
{
	long nr = syscall_nr(regs);
	struct arguments args = { .regs = regs };
	__u32 kind = call_kind(nr, &args.compat);

	if (!kind || kind == CALL_CLOSE_RANGE)
		return 0;
	if (kind == CALL_EXEC) {
		if (cfg_exec_at_entry && ret < 0)
			exec_forget();
		return 0;
	}
	/* Whatever else close() returns, interrupted or failed to write: the descriptor is gone. */
	if (kind == CALL_CLOSE ? ret == -EBADF : ret < 0) {
		if (kind == CALL_IOCTL || kind == CALL_DUP2)
			remembered(); /* frees the slot */
		return 0;
	}
	if (!current_passes(bpf_get_current_pid_tgid()))
		return 0;
	if (kind == CALL_CLOSE) {
		emit_fd(syscall_arg(regs, 0, args.compat), HOW(OP_CLOSE, SOURCE_SYSCALL, args.compat), nr, 0);
		return 0;
	}
	if (kind == CALL_SOCKETCALL) {
		kind = socketcall_kind(syscall_arg(regs, 0, args.compat));
		args.memory = syscall_arg(regs, 1, args.compat);
	}
	call_ended(kind, &args, ret, nr);
	return 0;
}

/* Linux 6.10: an exec that can no longer fail without killing the process. */
SEC("tp_btf/sched_prepare_exec")
int BPF_PROG(on_sched_prepare_exec, struct task_struct *task)
{
	if (cfg_exec && current_passes(bpf_get_current_pid_tgid()))
		exec_begins(task);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_sched_process_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct exec_fds *exec = bpf_map_lookup_elem(&execs, &tgid);

	if (!exec)
		return 0;
	for (__u32 i = 0; i < EXEC_WORDS; i++) {
		if (i >= exec->words)
			break;
		if (exec->closing[i])
			emit_bits(exec->closing[i], i * 64, HOW(OP_CLOSE, SOURCE_EXEC, 0), -1);
	}
	exec_forget();
	/* binfmt_misc with flag O hands the interpreter its file open. */
	if (bpf_core_field_exists(bprm->have_execfd) && BPF_CORE_READ_BITFIELD_PROBED(bprm, have_execfd))
		emit_fd(BPF_CORE_READ(bprm, execfd), HOW(OP_OPEN, SOURCE_EXEC, 0), -1, 0);
	return 0;
}

static __always_inline bool task_passes(const struct task_struct *task)
{
	char comm[TASK_COMM_LEN] __attribute__((aligned(8)));

	if (!pid_passes(BPF_CORE_READ(task, tgid)))
		return false;
	if (cfg_uid_count && !uid_passes(BPF_CORE_READ(task, cred, uid.val)))
		return false;
	if (cfg_comm_count) {
		task_comm(comm, task);
		if (!comm_passes(comm))
			return false;
	}
	return cgroup_passes(task);
}

/* The task that submitted the request: a worker or the ring's poller may complete it. */
static __always_inline const struct task_struct *submitter(const struct io_kiocb *request)
{
	if (bpf_core_field_exists(request->task))
		return BPF_CORE_READ(request, task);
	return BPF_CORE_READ(request, tctx, task);
}

/* A request that accepted again and again ends. */
static __always_inline void accepted_last(const struct io_kiocb *request)
{
	struct accepting key = {};

	key.ring = (__u64)BPF_CORE_READ(request, ctx);
	key.user_data = BPF_CORE_READ(request, cqe.user_data);
	bpf_map_delete_elem(&accepting, &key);
}

static __always_inline void request_completed(const struct io_kiocb *request, int result)
{
	const struct task_struct *task;
	__u32 opcode, slot = 0;
	bool close, same_memory;
	__u64 other;
	__u32 how;
	int fd = result;

	opcode = BPF_CORE_READ(request, opcode);
	if (opcode == IORING_OP_ACCEPT)
		accepted_last(request);
	close = opcode == IORING_OP_CLOSE;
	if (close ? result == -EBADF : result < 0)
		return;
	switch (opcode) {
	case IORING_OP_OPENAT:
	case IORING_OP_OPENAT2:
		slot = BPF_CORE_READ((const struct io_open *)request, file_slot);
		break;
	case IORING_OP_ACCEPT:
		slot = BPF_CORE_READ((const struct io_accept *)request, file_slot);
		break;
	case IORING_OP_CLOSE:
		slot = BPF_CORE_READ((const struct io_close *)request, file_slot);
		fd = BPF_CORE_READ((const struct io_close *)request, fd);
		break;
	case IORING_OP_SOCKET:
		if (bpf_core_type_exists(struct io_socket))
			slot = BPF_CORE_READ((const struct io_socket *)request, file_slot);
		break;
	case IORING_OP_PIPE:
		if (bpf_core_type_exists(struct io_pipe))
			slot = BPF_CORE_READ((const struct io_pipe *)request, file_slot);
		break;
	case IORING_OP_FIXED_FD_INSTALL:
	case IORING_OP_RECVMSG:
		break;
	default:
		return;
	}
	if (slot)
		return;
	task = submitter(request);
	if (!task || !task_passes(task))
		return;
	other = (__u64)task;
	how = HOW(close ? OP_CLOSE : OP_OPEN, SOURCE_IO_URING, 0);
	if (opcode != IORING_OP_PIPE && opcode != IORING_OP_RECVMSG) {
		emit_fd(fd, how, -1, other);
		return;
	}
	/* These store the descriptors in the submitter's memory, which must be ours now. */
	same_memory = BPF_CORE_READ(task, tgid) == (int)(bpf_get_current_pid_tgid() >> 32);
	if (!same_memory)
		count_untracked();
	else if (opcode == IORING_OP_RECVMSG)
		emit_message((__u64)BPF_CORE_READ((const struct io_sr_msg *)request, umsg), how, -1, other);
	else if (bpf_core_type_exists(struct io_pipe))
		emit_stored((__u64)BPF_CORE_READ((const struct io_pipe *)request, fds), 2, how, -1, other);
}

/* One more connection of a request that goes on accepting. It is posted by the submitter itself. */
static __always_inline void completed_without_request(void *ring, __u64 user_data, int result)
{
	struct accepting key = { .ring = (__u64)ring, .user_data = user_data };
	struct table table;

	if (result < 0 || !bpf_map_lookup_elem(&accepting, &key) || !current_passes(bpf_get_current_pid_tgid()))
		return;
	/* The number could be a dead ring's, given again. */
	if (table_of(&table, current_task()) && table_has(&table, result))
		emit_fd(result, HOW(OP_OPEN, SOURCE_IO_URING, 0), -1, 0);
}

SEC("tp_btf/io_uring_complete")
int BPF_PROG(on_io_uring_complete, void *ring, struct io_kiocb *request, struct io_uring_cqe *entry)
{
	if (!cfg_io_uring)
		return 0;
	if (request)
		request_completed(request, BPF_CORE_READ(entry, res));
	else
		completed_without_request(ring, BPF_CORE_READ(entry, user_data), BPF_CORE_READ(entry, res));
	return 0;
}

/* Before 6.10 the completion came in pieces. */
SEC("tp_btf/io_uring_complete")
int BPF_PROG(on_io_uring_complete_in_pieces, void *ring, struct io_kiocb *request, __u64 user_data, int result)
{
	if (!cfg_io_uring)
		return 0;
	if (request)
		request_completed(request, result);
	else
		completed_without_request(ring, user_data, result);
	return 0;
}

/* Linux 6.3 */
SEC("tp_btf/io_uring_submit_req")
int BPF_PROG(on_io_uring_submit_req, struct io_kiocb *request)
{
	const struct io_accept *accept = (const void *)request;
	struct accepting key = {};
	__u8 one = 1;

	if (!cfg_io_uring || BPF_CORE_READ(request, opcode) != IORING_OP_ACCEPT)
		return 0;
	if (!bpf_core_field_exists(accept->iou_flags) || BPF_CORE_READ(accept, file_slot) ||
	    !(BPF_CORE_READ(accept, iou_flags) & IORING_ACCEPT_MULTISHOT))
		return 0;
	key.ring = (__u64)BPF_CORE_READ(request, ctx);
	key.user_data = BPF_CORE_READ(request, cqe.user_data);
	bpf_map_update_elem(&accepting, &key, &one, BPF_ANY);
	return 0;
}

/*
 * True for one of the dying tasks that share a table, once none of them can open or close anything any more.
 * Runs before the task lets go of its table, so the last of a group may still see the others' shares of it.
 */
static __always_inline bool last_user(const struct task_struct *task, const struct table *table)
{
	struct dead_table key = {};
	__u8 told = 1;

	if (BPF_CORE_READ(task, signal, live.counter) > 0)
		/* Other threads live; a table that nobody shares is this thread's own (unshare). */
		return table_users(table) == 1;
	/* More shares than threads: another process goes on using it (clone with CLONE_FILES). */
	if (table_users(table) > BPF_CORE_READ(task, signal, nr_threads))
		return false;
	key.files = (__u64)table->files;
	key.start_time = BPF_CORE_READ(task, group_leader, start_time);
	if (BPF_CORE_READ(task, signal, nr_threads) == 1)
		return !bpf_map_lookup_elem(&dead_tables, &key);
	return !bpf_map_update_elem(&dead_tables, &key, &told, BPF_NOEXIST);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_sched_process_exit, struct task_struct *task)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct pending *slot = pending_slot(pid_tgid);
	__u32 tgid = pid_tgid >> 32;
	struct exec_fds *exec;
	struct table table;

	if (slot && slot->tid == (__u32)pid_tgid)
		slot->tid = 0;
	if (!table_of(&table, task))
		return 0;
	exec = bpf_map_lookup_elem(&execs, &tgid);
	if (exec && BPF_CORE_READ(task, signal, live.counter) > 0) {
		/* Another thread's exec ends this one, which may have changed the table since the snapshot. */
		if (exec->files == (__u64)table.files)
			exec_snapshot(task, exec);
		return 0;
	}
	if (exec)
		exec_forget();
	if (cfg_exit && current_passes(bpf_get_current_pid_tgid()) && last_user(task, &table))
		emit_open(0, ~0u, HOW(OP_CLOSE, SOURCE_EXIT, 0), -1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
