/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The summary of file_audit: how many opens each process makes, how many fail and how, and whether it is the same paths again
 * and again.
 *
 * hooks   tp_btf/sys_exit; sched_process_exit forgets processes that did little
 * key     process
 * cost    one load and one array slot for a call that opens nothing; a hash look-up for an open; a read of its path for one that
 *         fails
 * not     opens through io_uring; what file_audit.bpf.c does not see; our own process
 */
#include "kernel.h"
#include "event.h"
#include "block.h"
#include "counters.h"
#include "self.h"
#include "window.h"
#include "opens.h"

#define MAX_COUNTED_ERRORS 135 /* beyond the last errno of Linux; place 0 is for any other */

/* A process that ends with fewer than these has no place in the summary, and would only fill the map. */
#define NOTABLE_OPENS 256
#define NOTABLE_FAILURES 16

struct opens {
	__u64 opens;
	__u64 errors[MAX_COUNTED_ERRORS];
};

PER_CPU_BLOCK(opens, struct opens);

#define OPENER_ERRORS 6
#define RECENT_PATHS 8

struct opener_error {
	__u64 count;
	__u32 error; /* 0: free */
	__u32 pad;
};

struct opener {
	__u64 born_ns; /* tells this element from an earlier one of the same process id */
	__u64 opens;
	__u64 failed;
	__u64 repeated; /* of these, on one of the last few paths that failed */
	/* From here to window_ns: of that window alone. */
	__u64 same_path; /* failed in a row on the last path */
	__u64 first_failed_ns;
	__u64 window_ns;
	__u64 recent[RECENT_PATHS]; /* hashes of paths */
	__u64 last_path;
	__u32 next_recent;
	__u32 last_error;
	/* The last one also takes what found no room. */
	struct opener_error errors[OPENER_ERRORS];
	char comm[TASK_COMM_LEN];
	char path[MAX_FILENAME_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct opener);
} openers SEC(".maps");

struct path_words {
	__u64 words[MAX_FILENAME_LEN / 8];
};

struct scratch {
	struct opener fresh;
	struct path_words path;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

const volatile struct opens *const volatile layout_of_opens SEC(".rodata") = NULL;
const volatile struct opener *const volatile layout_of_opener SEC(".rodata") = NULL;

static __always_inline struct scratch *this_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

static __always_inline struct opener *opener_of(__u32 pid)
{
	struct opener *opener = bpf_map_lookup_elem(&openers, &pid);
	struct scratch *s;

	if (opener)
		return opener;
	s = this_scratch();
	if (!s)
		return NULL;
	s->fresh.born_ns = bpf_ktime_get_ns();
	bpf_map_update_elem(&openers, &pid, &s->fresh, BPF_NOEXIST);
	opener = bpf_map_lookup_elem(&openers, &pid);
	if (!opener)
		count_overflow();
	return opener;
}

static __always_inline void count_opener_error(struct opener *opener, __u32 error)
{
	for (int i = 0; i < OPENER_ERRORS; i++) {
		struct opener_error *counted = &opener->errors[i];

		if (!counted->error)
			counted->error = error;
		if (counted->error == error || i == OPENER_ERRORS - 1) {
			__sync_fetch_and_add(&counted->count, 1);
			return;
		}
	}
}

/* Reads the path that failed and gives its hash; the folder it is relative to is part of it. Never 0. */
static __always_inline __u64 read_path(struct path_words *path, __u64 user_path, __s32 dirfd)
{
	__u64 hash = 0xcbf29ce484222325;

	__builtin_memset(path, 0, sizeof(*path));
	if (user_path)
		bpf_probe_read_user_str(path, sizeof(*path), (const void *)user_path);
	if ((path->words[0] & 0xff) != '/')
		hash ^= (__u32)dirfd;
	for (int i = 0; i < MAX_FILENAME_LEN / 8; i++) {
		if (!path->words[i])
			break;
		hash = (hash ^ path->words[i]) * 0x100000001b3;
		hash ^= hash >> 29;
	}
	return hash ?: 1;
}

/* True when the path is one of the last few that failed; else it is from now on. */
static __always_inline bool failed_lately(struct opener *opener, __u64 path)
{
	for (int i = 0; i < RECENT_PATHS; i++)
		if (opener->recent[i] == path)
			return true;
	opener->recent[opener->next_recent++ % RECENT_PATHS] = path;
	return false;
}

static __always_inline void count_failure(struct opener *opener, __u32 error, __u64 user_path, __s32 dirfd)
{
	__u64 path, window_ns = window_start_ns();
	struct scratch *s = this_scratch();

	if (!s)
		return;
	path = read_path(&s->path, user_path, dirfd);
	if (opener->window_ns != window_ns) {
		opener->window_ns = window_ns;
		opener->same_path = 0;
		opener->first_failed_ns = bpf_ktime_get_ns();
	}
	__sync_fetch_and_add(&opener->failed, 1);
	count_opener_error(opener, error);
	if (failed_lately(opener, path))
		__sync_fetch_and_add(&opener->repeated, 1);
	if (opener->last_path != path) {
		opener->last_path = path;
		opener->same_path = 0;
		__builtin_memcpy(opener->path, &s->path, sizeof(opener->path));
	}
	__sync_fetch_and_add(&opener->same_path, 1);
	opener->last_error = error;
}

static __always_inline void count_open_error(struct opens *block, __u32 error)
{
	if (error >= MAX_COUNTED_ERRORS)
		error = 0;
	/* Older verifiers (6.1) forget the bound of a copy: what is compared must be what is added. */
	OPAQUE(error);
	if (error < MAX_COUNTED_ERRORS)
		block->errors[error]++;
}

static __always_inline void file_audit_sys_exit(struct pt_regs *regs, long ret)
{
	__u32 nr = (__u32)syscall_nr(regs) & ~X32_SYSCALL_BIT, cpu, error, pid;
	const struct task_struct *task = NULL;
	struct opener *opener;
	struct opens *block;
	__u64 user_path;
	__u8 class;
	bool compat;

	OPAQUE(nr);
	if (nr >= MAX_SYSCALLS)
		return;
	class = cfg_classes[nr];
	if (!class)
		return;
	if (LOOKS_INTO_TASK) {
		task = bpf_get_current_task_btf();
		compat = task_in_compat_syscall(task);
		pid = task->tgid;
	} else {
		compat = in_compat_syscall();
		pid = bpf_get_current_pid_tgid() >> 32;
	}
	class = compat ? class >> 4 : class & 15;
	if (!class || (cfg_self_tgid && pid == cfg_self_tgid))
		return;
	/* Cut short by a signal: made again, or counted as the EINTR that it becomes by nobody. */
	if (ret < 0 && !call_failed(ret))
		return;
	error = ret < 0 ? -ret : 0;

	cpu = bpf_get_smp_processor_id();
	block = bpf_map_lookup_elem(&opens, &cpu);
	if (block) {
		block->opens++;
		if (error)
			count_open_error(block, error);
	}
	opener = opener_of(pid);
	if (!opener)
		return;
	__sync_fetch_and_add(&opener->opens, 1);
	if (LOOKS_INTO_TASK)
		comm_of(opener->comm, task);
	else
		bpf_get_current_comm(opener->comm, sizeof(opener->comm));
	if (!error)
		return;
	user_path = 0;
	if (class == CLASS_OPEN || class == CLASS_CREAT)
		user_path = syscall_arg(regs, 0, compat);
	else if (class != CLASS_BY_HANDLE)
		user_path = syscall_arg(regs, 1, compat);
	count_failure(opener, error, user_path, class >= CLASS_OPENAT ? syscall_arg(regs, 0, compat) : 0);
}

/* Forgets processes that did little. */
static __always_inline void file_audit_sched_process_exit(const struct task_struct *task)
{
	__u32 pid = task->tgid;
	struct opener *opener;

	if (task->pid != task->tgid)
		return;
	opener = bpf_map_lookup_elem(&openers, &pid);
	if (opener && opener->opens < NOTABLE_OPENS && opener->failed < NOTABLE_FAILURES)
		bpf_map_delete_elem(&openers, &pid);
}

#if SIGNALS == 1
SEC("tp_btf/sys_exit")
int BPF_PROG(on_sys_exit, struct pt_regs *regs, long ret)
{
	file_audit_sys_exit(regs, ret);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_sched_process_exit, struct task_struct *task)
{
	file_audit_sched_process_exit(task);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
#endif
