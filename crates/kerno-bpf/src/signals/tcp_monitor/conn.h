/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is remembered of a connection, above all whose it is. */
#ifndef KERNO_TCP_CONN_H
#define KERNO_TCP_CONN_H

#include "filter.h"
#include "emit.h"
#include "sock.h"
#include "direction.h"

#define UID_UNKNOWN ((__u32)-1)

#define CONN_OWNED 1 /* the owner is known */
#define CONN_SEEDED 2 /* it was found in a descriptor table at load */
#define CONN_ACCEPTED 4
#define CONN_PASSES 8 /* the filters on the owner let it through */

struct conn {
	__u64 start_ns; /* the first SYN, 0 when not seen */
	__u64 established_ns; /* 0 when not seen */
	__u64 rtt_ns; /* the last round-trip event */
	__u64 owner_since_ns; /* seeded: start of the owner */
	__u64 cgroup_id;
	__u32 pid;
	__u32 uid;
	__u32 flags;
	__u32 direction;
	char comm[TASK_COMM_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* the loader sets it */
	__type(key, __u64);
	__type(value, struct conn);
} conns SEC(".maps");

static __always_inline struct conn *conn_of(const struct sock *sk)
{
	__u64 key = (__u64)sk;

	return bpf_map_lookup_elem(&conns, &key);
}

static __always_inline void conn_init(struct conn *conn)
{
	__builtin_memset(conn, 0, sizeof(*conn));
	conn->uid = UID_UNKNOWN;
	/* A filter on the owner is met by a known owner only. */
	if (!cfg_pid_count[SIGNAL] && !cfg_uid_count[SIGNAL] && !cfg_comm_count[SIGNAL] && !cfg_cgroup_count[SIGNAL])
		conn->flags = CONN_PASSES;
}

static __always_inline struct conn *conn_new(const struct sock *sk, __u64 start_ns, __u32 direction)
{
	__u64 key = (__u64)sk;
	struct conn conn;

	conn_init(&conn);
	conn.start_ns = start_ns;
	conn.direction = direction;
	if (bpf_map_update_elem(&conns, &key, &conn, BPF_ANY)) {
		count_untracked();
		return NULL;
	}
	return bpf_map_lookup_elem(&conns, &key);
}

/* Not inlined: several callers, and the cgroup walk is long. */
static __noinline void conn_learn_owner(struct conn *conn, const struct task_struct *task)
{
	bool passes;

	conn->pid = BPF_CORE_READ(task, tgid);
	conn->uid = BPF_CORE_READ(task, cred, uid.val);
	conn->cgroup_id = task_cgroup_id(task);
	task_comm(conn->comm, task);
	passes = pid_passes(conn->pid) && uid_passes(conn->uid) && comm_passes(conn->comm) && cgroup_passes(task);
	conn->flags = (conn->flags & ~CONN_PASSES) | CONN_OWNED | (passes ? CONN_PASSES : 0);
}

#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */

/*
 * Softirqs and timers leave a socket alone whose lock a task holds (its packets wait in the backlog, which that task
 * works off), so in a hook that runs under the socket's lock a held lock means: the current task holds it, in a call
 * on this socket. Kernel threads close what others opened (delayed fput) and are not taken for owners.
 */
static __always_inline bool held_by_current(const struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_lock.owned) && !(BPF_CORE_READ(current_task(), flags) & PF_KTHREAD);
}

#endif
