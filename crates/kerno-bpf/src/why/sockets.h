/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Requests and answers on the sockets of targets. Whoever took the connection is the server: what it receives is a request until it
 * sends, and what the other side sends is one until it receives.
 */
#ifndef KERNO_WHY_SOCKETS_H
#define KERNO_WHY_SOCKETS_H

#include "kernel.h"
#include "counters.h"
#include "why.h"
#include <bpf/bpf_endian.h>

#define MAX_SOCKETS 8192
#define UNIX_PATH_LEN 104

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOCK_SEQPACKET 5
#define MSG_PEEK 2
#define TCP_ESTABLISHED 1
#define TCP_CLOSE 7
#define DNS_PORT 53

/* So many messages without an answer are a stream in one direction. */
#define ONE_WAY 32

#define ROLE_UNKNOWN 0
#define ROLE_CLIENT 1
#define ROLE_SERVER 2

struct ns_common {
	unsigned int inum;
} CORE;

struct net {
	struct ns_common ns;
} CORE;

typedef struct {
	struct net *net;
} CORE possible_net_t;

struct in6_addr {
	__u8 u6_addr8[16];
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr; /* CONFIG_IPV6 */
	struct in6_addr skc_v6_rcv_saddr;
} CORE;

struct socket;

struct sock {
	struct sock_common __sk_common;
	__u16 sk_type;
	struct socket *sk_socket;
} CORE;

struct socket {
	struct sock *sk;
} CORE;

struct inode___numbered {
	unsigned long i_ino;
} CORE;

/* A socket and its inode are one allocation, the socket first. */
struct socket_alloc {
	struct socket socket;
	struct inode___numbered vfs_inode;
} CORE;

struct sockaddr_un {
	char sun_path[108];
} CORE;

#define SUN_PATH 2 /* in a sockaddr_un, behind the family */

struct unix_address {
	int len;
	struct sockaddr_un name[1];
} CORE;

struct unix_sock {
	struct unix_address *addr;
	struct sock *peer;
} CORE;

struct inet_connection_sock_ack {
	__u32 lrcvtime; /* when data came last, in jiffies */
} CORE;

struct inet_connection_sock___why {
	struct inet_connection_sock_ack icsk_ack;
} CORE;

struct tcp_sock___why {
	__u32 lsndtime; /* when data was sent last */
} CORE;

struct socket_row {
	__u64 sock; /* its address: tells whether it is still the same */
	__u64 sent; /* messages since it was met */
	__u64 received;
	__u64 awaiting_since_ns; /* 0: no answer is outstanding */
	__u64 awaited_ns;
	__u64 owing_since_ns;
	__u64 owed_ns;
	__u64 peer_inode; /* of the other end of a Unix socket */
	__u32 unanswered; /* messages sent since the last one that came */
	__u32 awaiting_tid;
	__u32 owing_tid;
	__u32 pid; /* that was met with it first */
	__u32 netns;
	__u16 family;
	__u16 type;
	__u16 local_port;
	__u16 remote_port;
	__u8 role;
	__u8 state;
	__u8 pad[2];
	__u8 local[16]; /* IPv4 in the first four bytes */
	__u8 remote[16];
	char path[UNIX_PATH_LEN]; /* of the end that has one */
};
_Static_assert(sizeof(struct socket_row) == 232, "struct socket_row changed size");
const volatile struct socket_row *const volatile layout_of_socket SEC(".rodata") = NULL;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SOCKETS);
	__type(key, __u64); /* inode number */
	__type(value, struct socket_row);
} sockets SEC(".maps");

/* Not 0 for a TCP port on which somebody listens here. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << 16);
	__type(key, __u32);
	__type(value, __u32);
} listeners SEC(".maps");

static __always_inline __u64 inode_of_socket(const struct socket *socket)
{
	return socket ? BPF_CORE_READ((const struct socket_alloc *)socket, vfs_inode.i_ino) : 0;
}

static __always_inline bool unix_path(char *path, const struct unix_address *address)
{
	/* A name that begins with NUL is an abstract one: shown with an @, as ss does. */
	if (bpf_probe_read_kernel(path, UNIX_PATH_LEN, (const char *)&address->name + SUN_PATH))
		return false;
	if (!path[0])
		path[0] = '@';
	path[UNIX_PATH_LEN - 1] = 0;
	return true;
}

static __always_inline void describe_unix(struct socket_row *row, const struct sock *sk)
{
	const struct unix_sock *own = (const void *)sk;
	const struct sock *peer_sock = BPF_CORE_READ(own, peer);
	const struct unix_address *address = BPF_CORE_READ(own, addr), *peer_address = NULL;

	if (peer_sock) {
		row->peer_inode = inode_of_socket(BPF_CORE_READ(peer_sock, sk_socket));
		peer_address = BPF_CORE_READ((const struct unix_sock *)peer_sock, addr);
	}
	if (address && !peer_address)
		row->role = ROLE_SERVER;
	else if (peer_address && !address)
		row->role = ROLE_CLIENT;
	if (peer_address)
		unix_path(row->path, peer_address);
	else if (address)
		unix_path(row->path, address);
}

static __always_inline void describe_inet(struct socket_row *row, const struct sock *sk)
{
	const struct sock_common *common = (const void *)sk;
	__u32 port = BPF_CORE_READ(common, skc_num), *listens;

	row->local_port = port;
	row->remote_port = bpf_ntohs(BPF_CORE_READ(common, skc_dport));
	row->netns = BPF_CORE_READ(common, skc_net.net, ns.inum);
	if (row->family == AF_INET6 && bpf_core_field_exists(common->skc_v6_daddr)) {
		bpf_core_read(row->local, 16, &common->skc_v6_rcv_saddr);
		bpf_core_read(row->remote, 16, &common->skc_v6_daddr);
	} else {
		bpf_core_read(row->local, 4, &common->skc_rcv_saddr);
		bpf_core_read(row->remote, 4, &common->skc_daddr);
	}
	if (row->type != SOCK_STREAM)
		return;
	listens = bpf_map_lookup_elem(&listeners, &port);
	row->role = listens && *listens ? ROLE_SERVER : ROLE_CLIENT;
}

/* NULL for what is no socket of a process, and where there is no room. */
static __always_inline struct socket_row *socket_row(struct socket_row *fresh, const struct sock *sk, __u64 inode,
						     __u32 pid)
{
	struct socket_row *row = bpf_map_lookup_elem(&sockets, &inode);

	if (!inode)
		return NULL;
	if (row && row->sock == (__u64)sk) {
		/* It may have been connected only after it was met. */
		if (row->remote_port || row->peer_inode || (row->family != AF_INET && row->family != AF_INET6 && row->family != AF_UNIX))
			return row;
	}
	__builtin_memset(fresh, 0, sizeof(*fresh));
	if (row && row->sock == (__u64)sk)
		*fresh = *row;
	fresh->sock = (__u64)sk;
	fresh->pid = pid;
	fresh->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	fresh->type = BPF_CORE_READ(sk, sk_type);
	fresh->state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (fresh->family == AF_UNIX)
		describe_unix(fresh, sk);
	else if (fresh->family == AF_INET || fresh->family == AF_INET6)
		describe_inet(fresh, sk);
	if (bpf_map_update_elem(&sockets, &inode, fresh, BPF_ANY))
		count_overflow();
	return bpf_map_lookup_elem(&sockets, &inode);
}

static __always_inline bool may_be_answered(const struct socket_row *row)
{
	if (row->unanswered > ONE_WAY && !row->received)
		return false;
	if (row->type == SOCK_STREAM || row->type == SOCK_SEQPACKET)
		return true;
	/* A datagram wants an answer where one has come before, and from a name server. */
	return row->received || row->remote_port == DNS_PORT;
}

static __always_inline void await(struct thread *thread, __u64 inode)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_AWAITED; i++)
		if (!thread->awaited[i] || thread->awaited[i] == inode) {
			thread->awaited[i] = inode;
			return;
		}
	/* The latest of more than these. */
	thread->awaited[MAX_AWAITED - 1] = inode;
}

static __always_inline void no_longer_await(struct thread *thread, __u64 inode)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_AWAITED; i++)
		if (thread->awaited[i] == inode)
			thread->awaited[i] = 0;
}

static __always_inline void answered(struct socket_row *row, __u64 inode, __u64 now)
{
	__u32 tid = row->awaiting_tid;
	struct thread *asker = bpf_map_lookup_elem(&threads, &tid);

	if (now > row->awaiting_since_ns)
		row->awaited_ns += now - row->awaiting_since_ns;
	row->awaiting_since_ns = 0;
	if (asker)
		no_longer_await(asker, inode);
}

static __always_inline void count_message(struct socket_row *fresh, struct thread *thread,
					  const struct sock *sk, int bytes, bool sent, __u64 now)
{
	__u64 inode = inode_of_socket(BPF_CORE_READ(sk, sk_socket));
	struct socket_row *row = socket_row(fresh, sk, inode, thread->pid);

	if (!row)
		return;
	if (row->role == ROLE_UNKNOWN && row->type != SOCK_DGRAM)
		row->role = sent ? ROLE_CLIENT : ROLE_SERVER;
	if (sent) {
		row->sent++;
		row->unanswered++;
	} else {
		row->received++;
		row->unanswered = 0;
	}
	if (row->role == ROLE_SERVER) {
		if (sent && row->owing_since_ns) {
			__u32 tid = row->owing_tid;
			struct thread *debtor = bpf_map_lookup_elem(&threads, &tid);

			if (now > row->owing_since_ns)
				row->owed_ns += now - row->owing_since_ns;
			row->owing_since_ns = 0;
			if (debtor && debtor->owes)
				debtor->owes--;
		} else if (!sent && bytes && !row->owing_since_ns) {
			row->owing_since_ns = now;
			row->owing_tid = thread->tid;
			thread->owes++;
		}
		return;
	}
	if (!sent) {
		if (row->awaiting_since_ns)
			answered(row, inode, now);
	} else if (!may_be_answered(row)) {
		if (row->awaiting_since_ns)
			answered(row, inode, row->awaiting_since_ns);
	} else if (!row->awaiting_since_ns) {
		row->awaiting_since_ns = now;
		row->awaiting_tid = thread->tid;
		await(thread, inode);
	}
}

/* A socket that was there before: whether its latest data was sent, and so wants an answer, only TCP tells. */
static __always_inline void meet_socket(struct socket_row *fresh, struct thread *thread, const struct sock *sk, __u64 now)
{
	__u64 inode = sk ? inode_of_socket(BPF_CORE_READ(sk, sk_socket)) : 0;
	struct socket_row *row = socket_row(fresh, sk, inode, thread->pid);
	__u32 sent, came;

	if (!row || row->sent || row->received || (row->family != AF_INET && row->family != AF_INET6) ||
	    row->type != SOCK_STREAM || row->state != TCP_ESTABLISHED)
		return;
	sent = BPF_CORE_READ((const struct tcp_sock___why *)sk, lsndtime);
	came = BPF_CORE_READ((const struct inet_connection_sock___why *)sk, icsk_ack.lrcvtime);
	if (sent == came)
		return;
	if (row->role == ROLE_CLIENT && (__s32)(sent - came) > 0 && !row->awaiting_since_ns) {
		row->awaiting_since_ns = now;
		row->awaiting_tid = thread->tid;
		await(thread, inode);
	} else if (row->role == ROLE_SERVER && (__s32)(sent - came) < 0 && !row->owing_since_ns) {
		row->owing_since_ns = now;
		row->owing_tid = thread->tid;
		thread->owes++;
	}
}

/* A socket whose answer the thread awaits, 0 for none. One that was closed meanwhile is forgotten. */
static __always_inline __u64 awaited_socket(struct thread *thread)
{
	struct socket_row *row;
	__u64 inode;

#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_AWAITED; i++) {
		inode = thread->awaited[i];
		if (!inode)
			continue;
		row = bpf_map_lookup_elem(&sockets, &inode);
		if (row && row->awaiting_since_ns) {
			const struct sock *sk = (const void *)row->sock;

			if (inode_of_socket(BPF_CORE_READ(sk, sk_socket)) == inode &&
			    (row->type != SOCK_STREAM || BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_CLOSE))
				return inode;
			row->awaiting_since_ns = 0;
		}
		thread->awaited[i] = 0;
	}
	return 0;
}

#endif
