/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The summary of dns_query: how each server answers, what the programs ask for, and the queries that waited long.
 *
 * hooks   tp_btf/sys_exit; sched_process_exit; iter/task_file once
 * key     server and network namespace; name of the thread and name asked for
 * cost    as dns_query.bpf.c: next to nothing for what is no DNS; two hash look-ups more for each query
 * not     what dns_query.bpf.c does not see; our own process
 */
#include "kernel.h"
#include "event.h"
#include "counters.h"
#include "histogram.h"
#include "self.h"
#include "window.h"
#include "dns.h"

#define DNS_RCODE 15
#define DNS_SERVFAIL 2
#define DNS_NXDOMAIN 3
#define DNS_REFUSED 5

#define NSEC_PER_SEC 1000000000ull

/* What is given up sooner is no server's fault: another one has answered, or the program has ended. */
#define DNS_UNANSWERED_NS (1 * NSEC_PER_SEC)
/* Nobody waits longer: the socket was left open. */
#define DNS_FORGOTTEN_NS (30 * NSEC_PER_SEC)
/* Waits that are kept by themselves. */
#define DNS_LONG_NS (2 * NSEC_PER_SEC)

struct dns_server_key {
	__u8 server[16];
	__u32 netns;
	__u32 family;
};

struct dns_server_use {
	__u64 answers;
	__u64 missing;
	__u64 servfail;
	__u64 refused;
	__u64 other_errors;
	__u64 unanswered;
	__u64 abandoned;
	__u64 failed;
	__u32 pid;
	__u32 pad;
	char comm[TASK_COMM_LEN];
	struct histogram latency_ns;
};

#define DNS_SERVERS 128

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* the loader sets it to DNS_SERVERS */
	__type(key, struct dns_server_key);
	__type(value, struct dns_server_use);
} dns_servers SEC(".maps");

struct dns_name_key {
	char comm[TASK_COMM_LEN];
	__u64 hash;
	__u32 netns;
	__u32 pad;
};

/* Of one window alone, whose begin is window_ns. */
struct dns_name_use {
	__u64 window_ns;
	__u64 first_ns;
	__u64 waited_ns;
	__u64 queries;
	__u64 found;
	__u64 missing;
	__u64 errors;
	__u64 unanswered;
	__u64 processes;
	__u32 pid;
	__u32 parent;
	__u8 server[16];
	__u32 family;
	__u32 pad;
	__u8 name[DNS_NAME_LEN];
};

#define DNS_NAMES 2048

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* the loader sets it to DNS_NAMES */
	__type(key, struct dns_name_key);
	__type(value, struct dns_name_use);
} dns_names SEC(".maps");

struct dns_wait_key {
	__u64 sent_ns;
	__u32 tid;
	__u16 id;
	__u16 pad;
};

/* A query that waited long. The reader takes it out. */
struct dns_wait {
	__u64 waited_ns;
	__u8 server[16];
	__u32 netns;
	__u32 family;
	__u32 pid;
	__u32 pad;
	char comm[TASK_COMM_LEN];
};

#define DNS_WAITS 128

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* the loader sets it to DNS_WAITS */
	__type(key, struct dns_wait_key);
	__type(value, struct dns_wait);
} dns_waits SEC(".maps");

/* What new elements are copies of, and keys: too large for the stack. */
struct dns_fresh {
	struct dns_server_key server_key;
	struct dns_name_key name_key;
	struct dns_wait_key wait_key;
	struct dns_wait wait;
	struct dns_server_use server; /* stays zero */
	struct dns_name_use name;
};

/* One for each program, as dns_scratch. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, struct dns_fresh);
} dns_fresh SEC(".maps");

struct task_struct___parent {
	struct task_struct *real_parent;
} CORE;

static __always_inline bool dns_passes(__u64 pid_tgid)
{
	return !cfg_self_tgid || pid_tgid >> 32 != cfg_self_tgid;
}

/* Names that differ by case alone are one. Bytes that are no letters lose a bit as well, which hardly ever makes two names one. */
static __always_inline void dns_noted(struct dns_query *query)
{
	const struct task_struct___parent *task = (const void *)bpf_get_current_task();
	const __u64 *words = (const __u64 *)query->name;
	__u64 hash = query->name_len;

	for (int i = 0; i < DNS_NAME_LEN / 8; i++) {
		hash ^= words[i] | 0x2020202020202020ull;
		hash *= 0x9e3779b97f4a7c15ull;
		hash ^= hash >> 29;
	}
	query->name_hash = hash;
	query->parent = BPF_CORE_READ(task, real_parent, tgid);
}

static __always_inline void dns_add_answer(struct dns_server_use *server, __u32 rcode, __u64 latency)
{
	__sync_fetch_and_add(&server->answers, 1);
	histogram_add_atomic(&server->latency_ns, latency);
	if (rcode == DNS_NXDOMAIN)
		__sync_fetch_and_add(&server->missing, 1);
	else if (rcode == DNS_SERVFAIL)
		__sync_fetch_and_add(&server->servfail, 1);
	else if (rcode == DNS_REFUSED)
		__sync_fetch_and_add(&server->refused, 1);
	else if (rcode)
		__sync_fetch_and_add(&server->other_errors, 1);
}

static __always_inline struct dns_server_use *dns_server_of(struct dns_fresh *fresh, const struct dns_query *query)
{
	struct dns_server_key *key = &fresh->server_key;
	struct dns_server_use *server;

	__builtin_memcpy(key->server, query->server, sizeof(key->server));
	key->netns = query->netns;
	key->family = query->family;
	server = bpf_map_lookup_elem(&dns_servers, key);
	if (server)
		return server;
	bpf_map_update_elem(&dns_servers, key, &fresh->server, BPF_NOEXIST);
	server = bpf_map_lookup_elem(&dns_servers, key);
	if (!server)
		count_overflow();
	return server;
}

static __always_inline struct dns_name_use *dns_name_of(struct dns_fresh *fresh, const struct dns_query *query)
{
	struct dns_name_key *key = &fresh->name_key;
	struct dns_name_use *name;
	__u64 window_ns = window_start_ns();

	__builtin_memcpy(key->comm, query->comm, sizeof(key->comm));
	key->hash = query->name_hash;
	key->netns = query->netns;
	name = bpf_map_lookup_elem(&dns_names, key);
	if (name && name->window_ns == window_ns)
		return name;
	__builtin_memset(&fresh->name, 0, sizeof(fresh->name));
	fresh->name.window_ns = window_ns;
	fresh->name.first_ns = query->sent_ns;
	__builtin_memcpy(fresh->name.name, query->name, sizeof(fresh->name.name));
	bpf_map_update_elem(&dns_names, key, &fresh->name, BPF_ANY);
	name = bpf_map_lookup_elem(&dns_names, key);
	if (!name)
		count_overflow();
	return name;
}

static __always_inline void dns_keep_wait(struct dns_fresh *fresh, const struct dns_query *query, __u64 latency)
{
	struct dns_wait_key *key = &fresh->wait_key;
	struct dns_wait *wait = &fresh->wait;

	key->sent_ns = query->sent_ns;
	key->tid = query->tid;
	key->id = query->id;
	wait->waited_ns = latency;
	__builtin_memcpy(wait->server, query->server, sizeof(wait->server));
	wait->netns = query->netns;
	wait->family = query->family;
	wait->pid = query->pid;
	__builtin_memcpy(wait->comm, query->comm, sizeof(wait->comm));
	if (bpf_map_update_elem(&dns_waits, key, wait, BPF_ANY))
		count_overflow();
}

/* Not inlined: there are four places where a query ends. */
static __noinline void dns_add(const struct dns_query *query, const struct dns_end *end, struct dns_fresh *fresh)
{
	__u64 latency = end->now - query->sent_ns;
	__u32 rcode = end->flags & DNS_RCODE;
	bool unanswered = false;
	struct dns_server_use *server = dns_server_of(fresh, query);
	struct dns_name_use *name;

	if (end->outcome != DNS_ANSWERED && end->outcome != DNS_FAILED)
		unanswered = latency >= DNS_UNANSWERED_NS && latency < DNS_FORGOTTEN_NS;
	if (server) {
		if (end->outcome == DNS_ANSWERED)
			dns_add_answer(server, rcode, latency);
		else if (end->outcome == DNS_FAILED)
			__sync_fetch_and_add(&server->failed, 1);
		else if (unanswered)
			__sync_fetch_and_add(&server->unanswered, 1);
		else
			__sync_fetch_and_add(&server->abandoned, 1);
		server->pid = query->pid;
		__builtin_memcpy(server->comm, query->comm, sizeof(server->comm));
	}
	if (latency >= DNS_LONG_NS && latency < DNS_FORGOTTEN_NS && end->outcome != DNS_FAILED)
		dns_keep_wait(fresh, query, latency);
	name = dns_name_of(fresh, query);
	if (!name)
		return;
	__sync_fetch_and_add(&name->queries, 1);
	if (unanswered || end->outcome == DNS_FAILED)
		__sync_fetch_and_add(&name->unanswered, 1);
	if (end->outcome == DNS_ANSWERED) {
		if (rcode == DNS_NXDOMAIN)
			__sync_fetch_and_add(&name->missing, 1);
		else if (rcode)
			__sync_fetch_and_add(&name->errors, 1);
		else if (end->answers)
			__sync_fetch_and_add(&name->found, 1);
	}
	if (latency < DNS_FORGOTTEN_NS)
		__sync_fetch_and_add(&name->waited_ns, latency);
	if (name->pid != query->pid)
		__sync_fetch_and_add(&name->processes, 1);
	name->pid = query->pid;
	name->parent = query->parent;
	name->family = query->family;
	__builtin_memcpy(name->server, query->server, sizeof(name->server));
}

static __always_inline void dns_ended(const struct dns_query *query, const struct dns_end *end, __u32 program)
{
	struct dns_fresh *fresh = bpf_map_lookup_elem(&dns_fresh, &program);

	if (fresh)
		dns_add(query, end, fresh);
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
#endif

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

#if SIGNALS == 1
char LICENSE[] SEC("license") = "Dual BSD/GPL";
#endif
