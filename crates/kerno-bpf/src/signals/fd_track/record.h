/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The record and the functions that emit it: one, one a bit of a word, one an int in user memory, one an open descriptor. */
#ifndef KERNO_FD_RECORD_H
#define KERNO_FD_RECORD_H

#include "event.h"
#include "filter.h"
#include "emit.h"
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
	__uint(max_entries, 1); /* the loader sets it */
	__type(key, __u32);
	__type(value, struct exec_fds);
} execs SEC(".maps");

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

/*
 * What follows walks long lists in parts, each in a loop and a function of its own: the verifier follows a loop turn by turn, and a function
 * that is not static once, so that two short loops, one within the other, are sooner done than a long one.
 */

/* Descriptors that the kernel stored in user memory as ints; SCM_RIGHTS carries at most 253 (SCM_MAX_FD). */
#define MAX_STORED 256
#define PART_STORED 16

/* How many of them could be read. */
__noinline int emit_stored_part(__u64 user, __u32 count, __u32 how, int nr, __u64 other)
{
	__u32 i;
	int fd;

	for (i = 0; i < PART_STORED; i++) {
		if (i >= count || bpf_probe_read_user(&fd, sizeof(fd), (const void *)(user + i * sizeof(fd))))
			break;
		if (fd >= 0)
			emit_fd(fd, how, nr, other);
	}
	return i;
}

__noinline int emit_stored(__u64 user, __u32 count, __u32 how, int nr, __u64 other)
{
	__u32 from, wanted;

	for (from = 0; from < MAX_STORED && from < count; from += PART_STORED) {
		wanted = count - from < PART_STORED ? count - from : PART_STORED;
		if ((__u32)emit_stored_part(user + from * sizeof(int), wanted, how, nr, other) != wanted)
			break;
	}
	if (from < count)
		count_untracked();
	return 0;
}

/* One event for each open descriptor from first to last, in up to so many words of the bitmap of open ones. */
#define PART_WORDS 32

__noinline int emit_open_part(__u64 open, __u32 first, __u32 last, __u32 how, int nr)
{
	__u32 index;
	__u64 word;

	for (__u32 i = 0; i < PART_WORDS; i++) {
		index = first / 64 + i;
		if (index > last / 64)
			break;
		word = table_word((const unsigned long *)open, index);
		if (index == first / 64)
			word &= ~0ull << (first % 64);
		if (index == last / 64)
			word &= ~0ull >> (63 - last % 64);
		if (word)
			emit_bits(word, index * 64, how, nr);
	}
	return 0;
}

/* The same in the whole table. */
__noinline int emit_open(__u32 first, __u32 last, __u32 how, int nr)
{
	struct table table;
	__u32 from, to;

	if (!table_of(&table, current_task()) || first / 64 >= table.words)
		return 0;
	if (last / 64 >= table.words)
		last = table.words * 64 - 1;
	from = first;
	for (__u32 i = 0; i < MAX_WALK_WORDS / PART_WORDS; i++) {
		to = (from / 64 + PART_WORDS) * 64 - 1;
		if (to >= last) {
			emit_open_part((__u64)table.open, from, last, how, nr);
			return 0;
		}
		emit_open_part((__u64)table.open, from, to, how, nr);
		from = to + 1;
	}
	count_untracked();
	return 0;
}

#endif
