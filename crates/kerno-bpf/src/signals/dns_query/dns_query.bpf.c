/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * dns_query: who asked which DNS server for which name, what it answered and how long that took.
 *
 * hooks   tp_btf/sys_exit: connect, close, and the calls that send and receive; sched_process_exit for what a process leaves open;
 *         iter/task_file once, for the sockets that are connected already
 * key     socket, server and the id of the query
 * cost    one load and one array slot for a call that is none of these; one slot more for one whose descriptor has nothing to do with
 *         DNS, and for a message with an address a read of that address
 * not     io_uring; 32-bit programs; DNS over TLS, HTTPS and QUIC, multicast DNS; descriptors that were duplicated or passed on before
 *         they sent to an address; queries that other queries follow in the same call over TCP
 *
 * One event for each time that a query is sent, when it is known what came of it.
 */
#include "kernel.h"
#include "event.h"
#include "filter.h"
#include "emit.h"
#include "dns.h"

struct dns_event {
	__u64 timestamp_ns; /* CLOCK_MONOTONIC when it was answered or given up */
	__u64 cgroup_id;
	__u64 latency_ns; /* since it was sent */
	__u64 elapsed_ns; /* since the socket asked this first */
	__u8 server[16];
	__u32 pid;
	__u32 tid;
	__u32 uid;
	__u32 netns;
	__s32 error;
	__u16 id;
	__u16 qtype;
	__u16 flags;
	__u16 answers;
	__u8 family;
	__u8 protocol;
	__u8 outcome;
	__u8 attempt;
	char comm[TASK_COMM_LEN];
	__u8 name[DNS_NAME_LEN];
};
ASSERT_RECORD(struct dns_event, 352);
KEEP_LAYOUT(struct dns_event);

#define DNS_RCODE 15

static __always_inline bool dns_passes(__u64 pid_tgid)
{
	return current_passes(pid_tgid);
}

static __always_inline void dns_noted(struct dns_query *query)
{
}

static __always_inline void dns_ended(const struct dns_query *query, const struct dns_end *end, __u32 program)
{
	__u64 latency = end->now - query->sent_ns;
	struct dns_event *event;

	if (cfg_min_latency_ns[SIGNAL] && latency < cfg_min_latency_ns[SIGNAL])
		return;
	if (cfg_errors_only[SIGNAL] && end->outcome == DNS_ANSWERED && !(end->flags & DNS_RCODE))
		return;
	event = event_reserve(struct dns_event);
	if (!event)
		return;
	event->timestamp_ns = end->now;
	event->cgroup_id = query->cgroup_id;
	event->latency_ns = latency;
	event->elapsed_ns = end->now - query->first_ns;
	__builtin_memcpy(event->server, query->server, sizeof(event->server));
	event->pid = query->pid;
	event->tid = query->tid;
	event->uid = query->uid;
	event->netns = query->netns;
	event->error = end->error;
	event->id = query->id;
	event->qtype = query->qtype;
	event->flags = end->flags;
	event->answers = end->answers;
	event->family = query->family;
	event->protocol = query->protocol;
	event->outcome = end->outcome;
	event->attempt = query->attempt;
	__builtin_memcpy(event->comm, query->comm, sizeof(event->comm));
	__builtin_memcpy(event->name, query->name, sizeof(event->name));
	event_submit(event);
}

#include "calls.h"

#if SIGNALS == 1
SEC("tp_btf/sys_exit")
int BPF_PROG(on_sys_exit, struct pt_regs *regs, long ret)
{
	dns_query_sys_exit(regs, ret);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_sched_process_exit, struct task_struct *task)
{
	dns_query_sched_process_exit(task);
	return 0;
}

struct bpf_iter__task_file {
	struct task_struct *task;
	__u32 fd;
	struct file *file;
} CORE;

SEC("iter/task_file")
int on_task_file(struct bpf_iter__task_file *ctx)
{
	const struct task_struct *task = ctx->task;
	const struct file *file = ctx->file;

	if (task && file)
		dns_query_task_file(task, file, ctx->fd);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
#endif
