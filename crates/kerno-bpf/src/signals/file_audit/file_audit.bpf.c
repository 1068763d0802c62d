/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * file_audit: which file was opened, by whom, how, and what came of it.
 *
 * hooks   tp_btf/sys_exit alone: the registers still hold the call's arguments there, and what the kernel opened is known;
 *         io_uring_complete for opens that io_uring makes
 * key     none: nothing is kept between events
 * cost    one load and one array slot for a call that opens nothing; an open that passes the filters costs some tens of
 *         nanoseconds for each part of its path
 * not     files the kernel opens by itself (the program and interpreter of an exec, core dumps, swap); files received
 *         through sockets; io_uring opens whose submitter asked for no completion, or before Linux 6.0
 */
#include "kernel.h"
#include "event.h"
#include "filter.h"
#include "emit.h"
#include "syscall.h"
#include "uring.h"
#include "opens.h"
#include "path.h"

struct file_event {
	__u64 timestamp_ns; /* CLOCK_MONOTONIC at exit */
	__u64 cgroup_id;
	__u32 pid;
	__u32 tid;
	__u32 uid;
	__u32 flags;
	__s32 ret;
	__u32 mode;
	__u32 syscall_nr;
	__u8 compat;
	__u8 via;
	__u8 path_kind;
	__u8 truncated;
	char comm[TASK_COMM_LEN];
	char filename[MAX_FILENAME_LEN];
};
ASSERT_RECORD(struct file_event, 320);
KEEP_LAYOUT(struct file_event);

/* The wire values of `via` and `path_kind`; PathKind and OpenVia in event.rs. */
#define VIA_SYSCALL 1
#define VIA_IO_URING 2
#define VIA_IO_URING_DIRECT 3

#define PATH_UNKNOWN 0
#define PATH_RESOLVED 1
#define PATH_REQUESTED 2
#define PATH_RELATIVE 3

/* What io_uring's operations would be as calls. */
const volatile __u32 cfg_openat_nr = 0;
const volatile __u32 cfg_openat2_nr = 0;

const volatile __u32 cfg_path_prefix_len = 0;
const volatile __u64 cfg_path_prefix[MAX_FILENAME_LEN / 8] = {};

/* uapi/asm-generic/fcntl.h; the same on x86 and arm64 */
#define O_ACCMODE 3
#define O_WRONLY 1
#define O_CREAT 0100
#define O_TRUNC 01000
#define O_TMPFILE_BIT 020000000
#define AT_FDCWD -100
#define RESOLVE_IN_ROOT 0x10 /* uapi/linux/openat2.h */

#define FMODE_READ 1
#define FMODE_WRITE 2

/* uapi/linux/io_uring.h */
#define IORING_FILE_INDEX_ALLOC (~0u)

struct fs_struct {
	struct path root;
	struct path pwd;
} CORE;

/* uapi/linux/openat2.h */
struct open_how {
	__u64 flags;
	__u64 mode;
	__u64 resolve;
};

/* One open, whichever way it was made. */
struct open_request {
	const struct task_struct *task;
	const struct file *file; /* what it opened, or NULL */
	__u64 user_path; /* 0: it has none, or none that can be read */
	__u64 resolve;
	__u32 flags;
	__u32 mode;
	__s32 dirfd;
	__s32 ret;
	__u32 nr;
	__u8 compat;
	__u8 via;
};

static __always_inline void read_path(struct path *path, const struct path *from)
{
	path->mnt = BPF_CORE_READ(from, mnt);
	path->dentry = BPF_CORE_READ(from, dentry);
}

/* Fills s->head; returns the kind of path it is. */
static __always_inline __u8 make_path(struct path_scratch *s, __u32 program, const struct open_request *req, __u8 *truncated)
{
	const struct task_struct *task = req->task;
	const struct fs_struct *fs = BPF_CORE_READ(task, fs);
	const struct file *base = NULL;
	struct path root = {}, from = {};
	struct step step;
	__u8 kind = PATH_UNKNOWN;
	enum walk_end end;
	char first = 0;
	__u32 len, at;
	long copied;

	__builtin_memset(s->head, 0, MAX_FILENAME_LEN);
	s->tail_at = PATH_BYTES;

	if (req->file) {
		read_path(&from, &req->file->f_path);
		if (!is_pseudo(&from)) {
			kind = PATH_RESOLVED;
			if (is_deleted(from.dentry))
				prepend(s, " (deleted)", 10, false);
		} else if (is_shmem(from.dentry)) {
			prepend(s, " (deleted)", 10, false);
			read_step(&step, from.dentry);
			prepend_name(s, &step);
			from.dentry = NULL; /* that is all of it */
			kind = PATH_RESOLVED;
		}
	}
	if (kind != PATH_RESOLVED) {
		if (!req->user_path || bpf_probe_read_user(&first, 1, (const void *)req->user_path))
			return PATH_UNKNOWN;
		if (!first)
			return PATH_RELATIVE;
		kind = PATH_REQUESTED;
		from.dentry = NULL;
		if (first != '/' || req->resolve & RESOLVE_IN_ROOT) {
			if (req->dirfd == AT_FDCWD) {
				read_path(&from, &fs->pwd);
			} else {
				base = file_of(task, req->dirfd);
				if (base)
					read_path(&from, &base->f_path);
			}
			if (!from.dentry)
				kind = PATH_RELATIVE;
		}
	}

	if (from.dentry) {
		read_path(&root, &fs->root);
		end = walk_up(s, program, &from, &root);
		if (end != WALK_WHOLE) {
			*truncated = end == WALK_CUT;
			kind = kind == PATH_RESOLVED && s->tail_at == PATH_BYTES ? PATH_UNKNOWN : PATH_RELATIVE;
			/* What is left does not start at the root: without the slash it does not look so either. */
			if (s->tail_at < PATH_BYTES)
				s->tail_at++;
		}
	}
	at = s->tail_at;
	len = PATH_BYTES - at;
	if (len > MAX_FILENAME_LEN)
		len = MAX_FILENAME_LEN;
	OPAQUE(at);
	OPAQUE(len);
	bpf_probe_read_kernel(s->head, len & 511, s->tail + (at & (PATH_BYTES - 1)));
	if (!len && kind == PATH_RESOLVED)
		s->head[len++] = '/';

	if (first && len < MAX_FILENAME_LEN) {
		if (first != '/' && (len || kind == PATH_REQUESTED))
			s->head[len++ & (MAX_FILENAME_LEN - 1)] = '/';
		OPAQUE(len);
		/* More than there is room for, to tell an exact fit from a cut. */
		copied = bpf_probe_read_user_str(s->head + (len & 511), MAX_FILENAME_LEN + 8, (const void *)req->user_path);
		if (copied < 0) { /* the rest of the name lies on a page that is not there */
			s->head[0] = 0;
			return PATH_UNKNOWN;
		}
		len += copied - 1;
	}
	if (len >= MAX_FILENAME_LEN)
		*truncated = 1;
	s->head[MAX_FILENAME_LEN - 1] = 0;
	return kind;
}

static __always_inline bool prefix_passes(const struct path_scratch *s, __u8 kind)
{
	const __u64 *words = (const __u64 *)s->head;
	__u64 mask;

	if (!cfg_path_prefix_len)
		return true;
	if (kind != PATH_RESOLVED && kind != PATH_REQUESTED)
		return false;
	for (__u32 i = 0; i < MAX_FILENAME_LEN / 8; i++) {
		if (i * 8 >= cfg_path_prefix_len)
			return true;
		/* The last word counts as far as the prefix goes; both machines are little-endian. */
		mask = i * 8 + 8 <= cfg_path_prefix_len ? ~0ull : (1ull << (cfg_path_prefix_len % 8 * 8)) - 1;
		if ((words[i] ^ cfg_path_prefix[i]) & mask)
			return false;
	}
	return true;
}

static __always_inline void report(const struct open_request *req, __u32 program)
{
	struct path_scratch *s = bpf_map_lookup_elem(&scratch, &program);
	const struct task_struct *task = req->task;
	struct file_event *event;
	__u8 truncated = 0, kind;
	__u64 pid_tgid;

	if (!s)
		return;
	kind = make_path(s, program, req, &truncated);
	if (!prefix_passes(s, kind))
		return;
	event = event_reserve(struct file_event);
	if (!event)
		return;
	event->timestamp_ns = bpf_ktime_get_ns();
	if (req->via == VIA_SYSCALL) {
		pid_tgid = bpf_get_current_pid_tgid();
		event->cgroup_id = bpf_get_current_cgroup_id();
		event->pid = pid_tgid >> 32;
		event->tid = pid_tgid;
		event->uid = bpf_get_current_uid_gid();
		bpf_get_current_comm(event->comm, sizeof(event->comm));
	} else {
		event->cgroup_id = task_cgroup_id(task);
		event->pid = BPF_CORE_READ(task, tgid);
		event->tid = BPF_CORE_READ(task, pid);
		event->uid = BPF_CORE_READ(task, cred, uid.val);
		bpf_core_read_str(event->comm, sizeof(event->comm), &task->comm);
	}
	event->flags = req->flags;
	event->ret = req->ret;
	if (req->flags & (O_CREAT | O_TMPFILE_BIT))
		event->mode = req->mode;
	event->syscall_nr = req->nr;
	event->compat = req->compat;
	event->via = req->via;
	event->path_kind = kind;
	event->truncated = truncated;
	__builtin_memcpy(event->filename, s->head, sizeof(event->filename));
	event_submit(event);
}

/*
 * openat2 takes its flags from memory that another thread can change while the call runs. What the file may be used for is
 * what the kernel says.
 */
static __always_inline __u32 true_access(const struct file *file, __u32 flags)
{
	__u32 mode = BPF_CORE_READ(file, f_mode) & (FMODE_READ | FMODE_WRITE);

	return mode ? (flags & ~O_ACCMODE) | (mode - 1) : flags;
}

/* An open that passed the filters. */
RARE_PATH void report_call(const struct pt_regs *regs, long ret, __u32 nr, __u32 class, bool compat)
{
	struct open_request req = { .dirfd = AT_FDCWD, .via = VIA_SYSCALL };
	struct open_how how = {};

	req.task = current_task();
	req.ret = ret;
	req.nr = nr;
	req.compat = compat;
	if (ret >= 0)
		req.file = file_of(req.task, ret);
	switch (class) {
	case CLASS_OPEN:
		req.user_path = syscall_arg(regs, 0, compat);
		req.flags = syscall_arg(regs, 1, compat);
		req.mode = syscall_arg(regs, 2, compat);
		break;
	case CLASS_CREAT:
		req.user_path = syscall_arg(regs, 0, compat);
		req.flags = O_CREAT | O_WRONLY | O_TRUNC;
		req.mode = syscall_arg(regs, 1, compat);
		break;
	case CLASS_OPENAT:
		req.dirfd = syscall_arg(regs, 0, compat);
		req.user_path = syscall_arg(regs, 1, compat);
		req.flags = syscall_arg(regs, 2, compat);
		req.mode = syscall_arg(regs, 3, compat);
		break;
	case CLASS_OPENAT2:
		req.dirfd = syscall_arg(regs, 0, compat);
		req.user_path = syscall_arg(regs, 1, compat);
		bpf_probe_read_user(&how, sizeof(how), (const void *)syscall_arg(regs, 2, compat));
		req.flags = req.file ? true_access(req.file, how.flags) : how.flags;
		req.mode = how.mode;
		req.resolve = how.resolve;
		break;
	default:
		req.flags = syscall_arg(regs, 2, compat);
	}
	report(&req, 0);
}

static __always_inline void file_audit_sys_exit(struct pt_regs *regs, long ret)
{
	__u32 nr = (__u32)syscall_nr(regs) & ~X32_SYSCALL_BIT;
	__u8 class;
	bool compat;

	OPAQUE(nr);
	if (nr >= MAX_SYSCALLS)
		return;
	class = cfg_classes[nr];
	if (!class)
		return;
	if (cfg_errors_only[SIGNAL] && !call_failed(ret))
		return;
	compat = in_compat_syscall();
	class = compat ? class >> 4 : class & 15;
	if (class && current_passes(bpf_get_current_pid_tgid()))
		report_call(regs, ret, nr, class, compat);
}

/* A file that went into the ring's own table instead of the process's. */
static __always_inline const struct file *direct_file(const struct io_ring_ctx *ring, __u32 slot)
{
	struct io_rsrc_node **nodes, *node = NULL;

	if (!bpf_core_field_exists(node->file_ptr) || slot >= BPF_CORE_READ(ring, file_table.data.nr))
		return NULL;
	nodes = BPF_CORE_READ(ring, file_table.data.nodes);
	bpf_probe_read_kernel(&node, sizeof(node), nodes + slot);
	return node ? (const struct file *)(BPF_CORE_READ(node, file_ptr) & ~7ul) : NULL;
}

/* The second argument is the request in every kernel that has io_kiocb.cmd; later arguments differ. */
static __always_inline void file_audit_io_uring_complete(const struct io_kiocb *io)
{
	struct open_request req = { .dirfd = AT_FDCWD, .via = VIA_IO_URING };
	const struct task_struct *task;
	const struct io_open *open;
	__u32 slot;
	__u8 opcode;

	if (!io) /* a completion without a request */
		return;
	opcode = BPF_CORE_READ(io, opcode);
	if (opcode != IORING_OP_OPENAT && opcode != IORING_OP_OPENAT2)
		return;
	req.ret = BPF_CORE_READ(io, cqe.res);
	if (cfg_errors_only[SIGNAL] && !call_failed(req.ret))
		return;
	/* The task that asked, not the worker that may have done it. */
	task = uring_submitter(io);
	if (!task || !task_passes(task, BPF_CORE_READ(task, tgid)))
		return;

	req.task = task;
	open = (const void *)io + bpf_core_field_offset(struct io_kiocb, cmd);
	req.flags = BPF_CORE_READ(open, how.flags);
	req.mode = BPF_CORE_READ(open, how.mode);
	req.nr = opcode == IORING_OP_OPENAT ? cfg_openat_nr : cfg_openat2_nr;
	slot = BPF_CORE_READ(open, file_slot);
	if (slot) {
		req.via = VIA_IO_URING_DIRECT;
		if (slot == IORING_FILE_INDEX_ALLOC)
			slot = req.ret;
		else
			slot--;
		if (req.ret >= 0) {
			req.file = direct_file(BPF_CORE_READ(io, ctx), slot);
			req.ret = slot;
		}
	} else if (req.ret >= 0) {
		req.file = file_of(task, req.ret);
	}
	report(&req, 1);
}

#if SIGNALS == 1
SEC("tp_btf/sys_exit")
int BPF_PROG(on_sys_exit, struct pt_regs *regs, long ret)
{
	file_audit_sys_exit(regs, ret);
	return 0;
}

SEC("tp_btf/io_uring_complete")
int BPF_PROG(on_io_uring_complete, void *ring, const struct io_kiocb *io)
{
	file_audit_io_uring_complete(io);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
#endif
