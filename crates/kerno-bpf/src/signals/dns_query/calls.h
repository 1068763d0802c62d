/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What each call says of a query: its handlers, which both planes have. */
#ifndef KERNO_DNS_QUERY_CALLS_H
#define KERNO_DNS_QUERY_CALLS_H

#include "dns.h"

/* One message was sent: if it is a query, its answer is awaited from now on. */
__attribute__((noinline)) int dns_sent(__u32 program)
{
	struct dns_scratch *s = bpf_map_lookup_elem(&dns_scratch, &program);
	struct dns_query *query, *before;
	struct dns_set *set = NULL;
	struct dns_socket *socket;
	__u32 at = 0, name;

	if (!s || s->bytes < DNS_MIN_QUERY || s->bytes > DNS_MAX_QUERY || !dns_server(s) || !dns_read_packet(s))
		return 0;
	/* Over TCP a length comes first, in the same call or in one of its own. */
	if (s->protocol == IPPROTO_TCP && dns_word(s, 0) + 2u == s->bytes)
		at = 2;
	if (s->packet[(at + 2) & 511] & (DNS_FLAG_ANSWER | DNS_OPCODE))
		return 0;
	/* One question, and no answer to it. */
	if (dns_word(s, at + 4) != 1 || dns_word(s, at + 6))
		return 0;
	name = dns_name_bytes(program, at + DNS_HEADER);
	if (!name || at + DNS_HEADER + name + 4 > s->bytes)
		return 0;
	OPAQUE(name);
	name &= 255;

	query = &s->query;
	s->key.sk = s->sk;
	s->key.server = dns_server_number(s->server, s->family);
	s->key.id = dns_word(s, at);
	s->key.pad = 0;
	socket = dns_socket_at(s->set, s->way, &set);
	if (!socket)
		return 0;
	query->sent_ns = s->now;
	query->first_ns = s->now;
	query->attempt = 1;
	query->qtype = dns_word(s, at + DNS_HEADER + name);
	query->name_len = name;
	before = bpf_map_lookup_elem(&dns_awaited, &s->key);
	if (before) {
		bool again = before->qtype == query->qtype && before->name_len == query->name_len;

		if (again) {
			query->first_ns = before->first_ns;
			query->attempt = before->attempt < 255 ? before->attempt + 1 : 255;
		}
		s->end.now = s->now;
		s->end.error = 0;
		s->end.flags = 0;
		s->end.answers = 0;
		s->end.outcome = again ? DNS_ASKED_AGAIN : DNS_GIVEN_UP;
		dns_ended(before, &s->end, program);
	}
	query->cgroup_id = bpf_get_current_cgroup_id();
	__builtin_memcpy(query->server, s->server, sizeof(query->server));
	query->pid = s->pid_tgid >> 32;
	query->tid = s->pid_tgid;
	query->uid = bpf_get_current_uid_gid();
	query->netns = s->netns;
	query->id = s->key.id;
	query->family = s->family;
	query->protocol = s->protocol;
	__builtin_memset(query->comm, 0, sizeof(query->comm));
	bpf_get_current_comm(query->comm, sizeof(query->comm));
	__builtin_memset(query->name, 0, sizeof(query->name));
	bpf_probe_read_kernel(query->name, name, s->packet + (at ? DNS_HEADER + 2 : DNS_HEADER));
	dns_noted(query);
	if (bpf_map_update_elem(&dns_awaited, &s->key, query, BPF_ANY)) {
		count_untracked();
		return 0;
	}
	if (!before)
		dns_note_asked(socket, &s->key, &s->other);
	return 0;
}

/* One message was received: if it answers what is awaited, that ends. */
__attribute__((noinline)) int dns_received(__u32 program)
{
	struct dns_scratch *s = bpf_map_lookup_elem(&dns_scratch, &program);
	struct dns_set *set = NULL;
	struct dns_socket *socket;
	struct dns_query *query = NULL;
	__u32 at = 0;

	if (!s || s->bytes < DNS_HEADER)
		return 0;
	socket = dns_socket_at(s->set, s->way, &set);
	/* Who sends from elsewhere is no server of ours. Where the caller did not ask who it is, it is who was asked last. */
	if (!socket || (!dns_server(s) && s->name) || !dns_read_packet(s))
		return 0;
	s->key.sk = s->sk;
	s->key.server = s->known ? dns_server_number(s->server, s->family) : socket->server;
	s->key.pad = 0;
	/* Over TCP the length may be there or have been read before: the id that is awaited tells. */
	for (at = 0; at <= 2; at += 2) {
		if (at && s->protocol != IPPROTO_TCP)
			return 0;
		s->key.id = dns_word(s, at);
		if (!(s->packet[(at + 2) & 511] & DNS_FLAG_ANSWER))
			continue;
		query = bpf_map_lookup_elem(&dns_awaited, &s->key);
		if (query)
			break;
	}
	if (!query)
		return 0;
	s->end.now = s->now;
	s->end.error = 0;
	s->end.flags = dns_word(s, at + 2);
	s->end.answers = dns_word(s, at + 6);
	s->end.outcome = DNS_ANSWERED;
	dns_ended(query, &s->end, program);
	bpf_map_delete_elem(&dns_awaited, &s->key);
	for (int i = 0; i < DNS_ASKED; i++)
		if (socket->asked[i].id == s->key.id && socket->asked[i].server == s->key.server)
			socket->asked[i].used = 0;
	return 0;
}

/* Looks at the socket behind a file: false if it is none of IPv4 or IPv6, by UDP or TCP. */
static __always_inline bool dns_socket_of(struct dns_scratch *s, const struct file *file)
{
	const struct socket *socket;
	const struct sock *sk;
	__u16 mode, family;

	if (!file)
		return false;
	mode = BPF_CORE_READ(file, f_inode, i_mode);
	if ((mode & DNS_S_IFMT) != DNS_S_IFSOCK)
		return false;
	socket = BPF_CORE_READ(file, private_data);
	sk = BPF_CORE_READ(socket, sk);
	if (!sk)
		return false;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family != AF_INET && family != AF_INET6)
		return false;
	s->protocol = BPF_CORE_READ(sk, sk_protocol);
	if (s->protocol != IPPROTO_UDP && s->protocol != IPPROTO_TCP)
		return false;
	s->sk = (__u64)sk;
	s->connected = BPF_CORE_READ(sk, __sk_common.skc_dport) == bpf_htons(DNS_PORT);
	s->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	__builtin_memset(s->peer, 0, sizeof(s->peer));
	s->peer_family = family;
	if (family == AF_INET6) {
		if (bpf_core_field_exists(sk->__sk_common.skc_v6_daddr))
			bpf_core_read(s->peer, 16, &sk->__sk_common.skc_v6_daddr);
		dns_unmap(s->peer, &s->peer_family);
	} else {
		bpf_core_read(s->peer, 4, &sk->__sk_common.skc_daddr);
	}
	return true;
}

/* The first buffer of a list that can hold a message; over TCP its length may have one of its own. */
static __always_inline void dns_first_buffer(struct dns_scratch *s, __u64 iov, __u64 iovlen, __u32 bytes)
{
	struct dns_iovec first = {};

	s->bytes = 0;
	if (!iovlen || bpf_probe_read_user(&first, sizeof(first), (const void *)iov))
		return;
	if (first.len <= 2 && iovlen > 1 && bytes > first.len) {
		bytes -= first.len;
		if (bpf_probe_read_user(&first, sizeof(first), (const void *)(iov + sizeof(first))))
			return;
	}
	s->buffer = first.base;
	s->bytes = bytes < first.len ? bytes : first.len;
}

/* Message `i` of a call with one or several headers; false when there is none. */
static __always_inline bool dns_message(struct dns_scratch *s, __u64 headers, __u32 i, long ret, bool several)
{
	struct dns_msghdr header = {};

	if (several) {
		if (i >= ret || bpf_probe_read_user(&header, DNS_MMSGHDR, (const void *)(headers + i * DNS_MMSGHDR)))
			return false;
	} else {
		if (i || bpf_probe_read_user(&header, DNS_MSGHDR, (const void *)headers))
			return false;
		header.len = ret;
	}
	s->name = header.name;
	dns_first_buffer(s, header.iov, header.iovlen, header.len);
	return true;
}

/* A call on a socket that is marked, or that is to be. */
RARE_PATH void dns_call(struct pt_regs *regs, long ret, __u32 class, __u64 pid_tgid)
{
	__u32 program = DNS_ON_SYS_EXIT;
	struct dns_scratch *s = bpf_map_lookup_elem(&dns_scratch, &program);
	__u32 fd = syscall_arg(regs, 0, false);
	__u64 owner = dns_owner(pid_tgid, fd);
	struct dns_socket *socket;
	struct dns_set *set = NULL;
	bool sends = class <= DNS_WRITEV;
	__u64 second;

	if (!s || in_compat_syscall())
		return;
	s->now = bpf_ktime_get_ns();
	s->pid_tgid = pid_tgid;
	if (class == DNS_CLOSE) {
		if (dns_place(s, owner))
			dns_closed(s, program);
		return;
	}
	if (!dns_socket_of(s, file_of((const struct task_struct *)bpf_get_current_task(), fd))) {
		/* The descriptor is something else by now. */
		if (dns_place(s, owner))
			dns_gone(s, program);
		return;
	}
	if (dns_place(s, owner)) {
		socket = dns_socket_at(s->set, s->way, &set);
		if (socket && socket->sk != s->sk) {
			dns_gone(s, program);
			if (!sends)
				return;
		}
	}
	if (!dns_mark(s, program, owner))
		return;
	if (class == DNS_CONNECT)
		return;
	if (ret < 0) {
		if (call_failed(ret) && ret != -DNS_EAGAIN && ret != -DNS_EINTR)
			dns_end_all(s, program, DNS_FAILED, -ret);
		return;
	}
	if (sends && !dns_passes(pid_tgid))
		return;
	s->name = 0;
	s->bytes = ret;
	/* Read once: of what the loop below repeats, the compiler would move the other machine's part before it. */
	second = syscall_arg(regs, 1, false);
	OPAQUE(second);
	s->buffer = second;
	switch (class) {
	case DNS_SENDTO:
	case DNS_RECVFROM:
		s->name = syscall_arg(regs, 4, false);
		break;
	case DNS_WRITEV:
	case DNS_READV:
		dns_first_buffer(s, second, syscall_arg(regs, 2, false), ret);
		break;
	case DNS_SENDMSG:
	case DNS_RECVMSG:
	case DNS_SENDMMSG:
	case DNS_RECVMMSG:
		for (__u32 i = 0; i < DNS_MESSAGES; i++) {
			if (!dns_message(s, second, i, ret, class == DNS_SENDMMSG || class == DNS_RECVMMSG))
				return;
			if (sends)
				dns_sent(program);
			else
				dns_received(program);
		}
		return;
	}
	if (sends)
		dns_sent(program);
	else
		dns_received(program);
}

/* Whether an address in the caller's memory has port 53. */
static __always_inline bool dns_goes_to_port(__u64 name)
{
	__u16 first[2] = {};

	return name && !bpf_probe_read_user(first, sizeof(first), (const void *)name) && first[1] == bpf_htons(DNS_PORT) &&
	       (first[0] == AF_INET || first[0] == AF_INET6);
}

static __always_inline void dns_query_sys_exit(struct pt_regs *regs, long ret)
{
	__u32 nr = (__u32)syscall_nr(regs) & ~X32_SYSCALL_BIT;
	__u64 pid_tgid, name = 0;
	__u8 class;

	OPAQUE(nr);
	if (nr >= MAX_SYSCALLS)
		return;
	class = cfg_dns_classes[nr];
	if (!class)
		return;
	pid_tgid = bpf_get_current_pid_tgid();
	if (class == DNS_CONNECT) {
		if (!dns_goes_to_port(syscall_arg(regs, 1, false)))
			return;
	} else if (!dns_marked(dns_owner(pid_tgid, syscall_arg(regs, 0, false)))) {
		if (class > DNS_SENDMMSG || ret <= 0)
			return;
		if (class == DNS_SENDTO)
			name = syscall_arg(regs, 4, false);
		else if (bpf_probe_read_user(&name, sizeof(name), (const void *)syscall_arg(regs, 1, false)))
			return;
		if (!dns_goes_to_port(name))
			return;
	}
	dns_call(regs, ret, class, pid_tgid);
}

/* What a process awaits when it ends is given up: it closes its descriptors without a call. */
__attribute__((noinline)) int dns_exited(__u32 pid)
{
	__u32 program = DNS_ON_PROCESS_EXIT, zero = 0;
	struct dns_scratch *s = bpf_map_lookup_elem(&dns_scratch, &program);
	struct dns_askers *askers = bpf_map_lookup_elem(&dns_askers, &zero);
	__u64 owner;

	if (!s || !askers || !askers->asked[pid & (DNS_ASKERS - 1)])
		return 0;
	askers->asked[pid & (DNS_ASKERS - 1)] = 0;
	s->now = bpf_ktime_get_ns();
	for (__u32 fd = 0; fd < DNS_EXIT_FDS; fd++) {
		owner = (__u64)pid << 32 | fd;
		if (dns_place(s, owner))
			dns_closed(s, program);
	}
	return 0;
}

static __always_inline void dns_query_sched_process_exit(const struct task_struct *task)
{
	if (task->pid == task->tgid)
		dns_exited(task->tgid);
}

/* Sockets that were connected to a server before. */
static __always_inline void dns_query_task_file(const struct task_struct *task, const struct file *file, __u32 fd)
{
	__u32 program = DNS_ON_TASK_FILE;
	struct dns_scratch *s = bpf_map_lookup_elem(&dns_scratch, &program);
	__u32 pid;

	if (!s || !dns_socket_of(s, file) || !s->connected)
		return;
	pid = BPF_CORE_READ(task, tgid);
	dns_mark(s, program, (__u64)pid << 32 | fd);
}

#endif
