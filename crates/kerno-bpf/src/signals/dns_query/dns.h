/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Queries from the call that sends them to the call that takes the answer: shared by the events and the summary, each of which says in
 * dns_ended() what becomes of a query that ended.
 *
 * A socket is marked when it is connected to port 53 or sends something there, or when the iterator finds it. All other calls
 * end at the test of that mark. What is awaited is listed with the mark, so that nothing is kept of a socket that is gone.
 */
#ifndef KERNO_DNS_QUERY_DNS_H
#define KERNO_DNS_QUERY_DNS_H

#include "event.h"
#include "counters.h"
#include "files.h"
#include "syscall.h"
#include "../tcp_monitor/sock.h"

#define DNS_PORT 53
#define IPPROTO_UDP 17
#define DNS_S_IFMT 0170000
#define DNS_S_IFSOCK 0140000

/* What a call does with a socket: the values of cfg_dns_classes. Up to DNS_SENDMMSG it can tell an address. */
#define DNS_CONNECT 1
#define DNS_SENDTO 2
#define DNS_SENDMSG 3
#define DNS_SENDMMSG 4
#define DNS_WRITE 5
#define DNS_WRITEV 6
#define DNS_RECVFROM 7
#define DNS_RECVMSG 8
#define DNS_RECVMMSG 9
#define DNS_READ 10
#define DNS_READV 11
#define DNS_CLOSE 12

/* The wire values of `outcome`; DnsOutcome in event.rs. */
#define DNS_ANSWERED 1
#define DNS_ASKED_AGAIN 2
#define DNS_GIVEN_UP 3
#define DNS_FAILED 4

#define DNS_NAME_LEN 256 /* 255 (RFC 1035, 2.3.4), and nothing behind it */
#define DNS_HEADER 12
#define DNS_MIN_QUERY (DNS_HEADER + 5) /* the root's name, type and class */
#define DNS_MAX_QUERY 4096
#define DNS_PACKET 320 /* what is looked at of a packet: header, question, and the length before it over TCP */
#define DNS_LABEL_MAX 63
#define DNS_MAX_LABELS 128
#define DNS_MESSAGES 16 /* of one call that are looked at */

#define DNS_FLAG_ANSWER 0x80 /* of the third byte */
#define DNS_OPCODE 0x78

#define DNS_EAGAIN 11
#define DNS_EINTR 4

/* Native numbers only: 32-bit programs are not followed. */
const volatile __u8 cfg_dns_classes[MAX_SYSCALLS] = {};

/* A query that is not answered yet. */
struct dns_query {
	__u64 sent_ns;
	__u64 first_ns; /* when it was asked first by this socket */
	__u64 cgroup_id;
	__u8 server[16];
	__u32 pid;
	__u32 tid;
	__u32 uid;
	__u32 netns;
	__u16 id;
	__u16 qtype;
	__u8 family;
	__u8 protocol;
	__u8 attempt;
	__u8 name_len;
	__u64 name_hash; /* of the summary alone; and the parent */
	__u32 parent;
	__u32 pad;
	char comm[TASK_COMM_LEN];
	__u8 name[DNS_NAME_LEN]; /* as in the packet; zero behind its end */
};

struct dns_key {
	__u64 sk;
	__u32 server; /* dns_server_number() */
	__u16 id;
	__u16 pad;
};

#define DNS_AWAITED 4096

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* the loader sets it to DNS_AWAITED */
	__type(key, struct dns_key);
	__type(value, struct dns_query);
} dns_awaited SEC(".maps");

#define DNS_ASKED 16 /* queries of one socket at a time */

struct dns_asked {
	__u32 server;
	__u16 id;
	__u16 used;
};

struct dns_socket {
	__u64 sk;
	__u32 server; /* that was asked last */
	__u16 next;
	__u16 protocol;
	struct dns_asked asked[DNS_ASKED];
};

#define DNS_WAYS 2
#define DNS_SETS 2048

struct dns_set {
	__u64 owners[DNS_WAYS]; /* process and descriptor; 0: free */
	struct dns_socket sockets[DNS_WAYS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it to DNS_SETS */
	__type(key, __u32);
	__type(value, struct dns_set);
} dns_sockets SEC(".maps");

const volatile __u32 cfg_dns_set_mask = 0;

/* Which processes have sockets marked, by the last bits of their ids: at their end these are looked for. */
#define DNS_ASKERS 8192

struct dns_askers {
	__u8 asked[DNS_ASKERS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct dns_askers);
} dns_askers SEC(".maps");

/* Descriptors that are looked for at the end of a process. */
#define DNS_EXIT_FDS 64

/* How a query ended. */
struct dns_end {
	__u64 now;
	__s32 error;
	__u16 flags; /* of the answer's header, in host byte order */
	__u16 answers;
	__u32 outcome;
};

/* One message of a call, on its socket; too large for the stack. */
struct dns_scratch {
	__u64 now;
	__u64 pid_tgid;
	__u64 sk;
	__u64 buffer;
	__u64 name; /* the address that goes with the message, in the caller's memory; 0: none */
	__u32 bytes;
	__u32 set, way;
	__u32 netns;
	__u8 connected; /* to port 53 */
	__u8 protocol;
	__u8 family; /* of `server` */
	__u8 known; /* `server` is */
	__u8 peer_family;
	__u8 pad[3];
	__u8 peer[16]; /* what the socket is connected to */
	__u8 server[16];
	struct dns_key key;
	struct dns_key other; /* of a query that gives way */
	struct dns_end end;
	struct dns_query query;
	__u8 packet[512];
};

/* One for each program: they can interrupt each other where tracepoints are preemptible. */
#define DNS_ON_SYS_EXIT 0
#define DNS_ON_PROCESS_EXIT 1
#define DNS_ON_TASK_FILE 2

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, struct dns_scratch);
} dns_scratch SEC(".maps");

struct dns_iovec {
	__u64 base;
	__u64 len;
};

/* struct user_msghdr; of struct mmsghdr the first part, whose whole has 8 bytes more. */
struct dns_msghdr {
	__u64 name;
	__u32 namelen;
	__u32 pad;
	__u64 iov;
	__u64 iovlen;
	__u64 control;
	__u64 controllen;
	__u64 flags;
	__u32 len; /* of mmsghdr */
	__u32 pad2;
};
#define DNS_MSGHDR 56
#define DNS_MMSGHDR 64

/* Each plane's own: what becomes of a query that ended. */
static __always_inline void dns_ended(const struct dns_query *query, const struct dns_end *end, __u32 program);
/* Each plane's own: what else is noted of a query when it is sent. */
static __always_inline void dns_noted(struct dns_query *query);
/* Each plane's own: whose queries are followed. */
static __always_inline bool dns_passes(__u64 pid_tgid);

static __always_inline __u64 dns_owner(__u64 pid_tgid, __u32 fd)
{
	return (pid_tgid & 0xffffffff00000000ull) | fd;
}

static __always_inline __u32 dns_set_index(__u64 owner)
{
	return ((owner ^ owner >> 32) * 0x9e3779b97f4a7c15ull >> 40) & cfg_dns_set_mask;
}

static __always_inline __u32 dns_way_of(const struct dns_set *set, __u64 owner)
{
	if (set->owners[0] == owner)
		return 0;
	return set->owners[1] == owner ? 1 : DNS_WAYS;
}

/* The test that all calls of these kinds are put to. */
static __always_inline bool dns_marked(__u64 owner)
{
	__u32 index = dns_set_index(owner);
	struct dns_set *set = bpf_map_lookup_elem(&dns_sockets, &index);

	return set && dns_way_of(set, owner) < DNS_WAYS;
}

static __always_inline __u32 dns_server_number(const __u8 *server, __u8 family)
{
	const __u32 *words = (const __u32 *)server;

	return words[0] ^ words[1] * 31 ^ words[2] * 961 ^ words[3] * 29791 ^ family;
}

static __always_inline void dns_unmap(__u8 *address, __u8 *family)
{
	__u32 *words = (__u32 *)address;

	if (*family != AF_INET6 || !is_mapped_v4(address))
		return;
	*family = AF_INET;
	words[0] = words[3];
	words[1] = words[2] = words[3] = 0;
}

/* Reads `s->name` into `s->server`; false if that is not port 53 of anything. */
static __always_inline bool dns_read_name(struct dns_scratch *s)
{
	__u8 first[8] = {};

	if (bpf_probe_read_user(first, sizeof(first), (const void *)s->name))
		return false;
	__builtin_memset(s->server, 0, sizeof(s->server));
	if (*(__u16 *)(first + 2) != bpf_htons(DNS_PORT))
		return false;
	if (*(__u16 *)first == AF_INET) {
		*(__u32 *)s->server = *(__u32 *)(first + 4);
		s->family = AF_INET;
	} else if (*(__u16 *)first == AF_INET6) {
		if (bpf_probe_read_user(s->server, 16, (const void *)(s->name + 8)))
			return false;
		s->family = AF_INET6;
		dns_unmap(s->server, &s->family);
	} else {
		return false;
	}
	s->known = 1;
	return true;
}

/* The server that a message goes to or comes from. */
static __always_inline bool dns_server(struct dns_scratch *s)
{
	s->known = 0;
	if (s->name)
		return dns_read_name(s);
	if (!s->connected)
		return false;
	__builtin_memcpy(s->server, s->peer, sizeof(s->server));
	s->family = s->peer_family;
	s->known = 1;
	return true;
}

/* Copies what is to be looked at of a message; false if it is too short. */
static __always_inline bool dns_read_packet(struct dns_scratch *s)
{
	__u32 bytes = s->bytes;

	if (bytes > DNS_PACKET)
		bytes = DNS_PACKET;
	OPAQUE(bytes);
	bytes &= 511;
	if (bytes < DNS_HEADER)
		return false;
	__builtin_memset(s->packet, 0, sizeof(s->packet));
	return !bpf_probe_read_user(s->packet, bytes, (const void *)s->buffer);
}

static __always_inline __u16 dns_word(const struct dns_scratch *s, __u32 at)
{
	return (__u16)s->packet[at & 511] << 8 | s->packet[(at + 1) & 511];
}

/*
 * Bytes of the name that begins there, its end included; 0 if it is none: a label that is too long or a pointer (which a question never has),
 * or more than 255 bytes. Not static: the verifier looks at such a function once.
 */
__attribute__((noinline)) int dns_name_bytes(__u32 program, __u32 at)
{
	struct dns_scratch *s = bpf_map_lookup_elem(&dns_scratch, &program);
	__u32 bytes = 0, label;

	if (!s)
		return 0;
	for (int i = 0; i < DNS_MAX_LABELS; i++) {
		label = s->packet[(at + bytes) & 511];
		if (!label)
			return bytes + 1;
		if (label > DNS_LABEL_MAX)
			return 0;
		bytes += label + 1;
		if (bytes >= DNS_NAME_LEN - 1)
			return 0;
	}
	return 0;
}

static __always_inline struct dns_socket *dns_socket_at(__u32 index, __u32 way, struct dns_set **in)
{
	struct dns_set *set = bpf_map_lookup_elem(&dns_sockets, &index);

	if (!set)
		return NULL;
	*in = set;
	return way ? &set->sockets[1] : &set->sockets[0];
}

/* All that this socket has asked ends without an answer. */
__attribute__((noinline)) int dns_nothing_came(__u32 program, __u32 index, __u32 way)
{
	struct dns_scratch *s = bpf_map_lookup_elem(&dns_scratch, &program);
	struct dns_set *set = NULL;
	struct dns_socket *socket = dns_socket_at(index, way, &set);
	struct dns_query *query;

	if (!s || !socket || !set)
		return 0;
	for (int i = 0; i < DNS_ASKED; i++) {
		if (!socket->asked[i].used)
			continue;
		socket->asked[i].used = 0;
		s->key.sk = socket->sk;
		s->key.server = socket->asked[i].server;
		s->key.id = socket->asked[i].id;
		s->key.pad = 0;
		query = bpf_map_lookup_elem(&dns_awaited, &s->key);
		if (!query)
			continue;
		dns_ended(query, &s->end, program);
		bpf_map_delete_elem(&dns_awaited, &s->key);
	}
	return 0;
}

static __always_inline void dns_end_all(struct dns_scratch *s, __u32 program, __u32 outcome, __s32 error)
{
	s->end.now = s->now;
	s->end.error = error;
	s->end.flags = 0;
	s->end.answers = 0;
	s->end.outcome = outcome;
	dns_nothing_came(program, s->set, s->way);
}

/* The mark goes, and all that was awaited by it. */
static __always_inline void dns_gone(struct dns_scratch *s, __u32 program)
{
	struct dns_set *set = NULL;

	dns_end_all(s, program, DNS_GIVEN_UP, 0);
	if (!dns_socket_at(s->set, s->way, &set) || !set)
		return;
	if (s->way)
		set->owners[1] = 0;
	else
		set->owners[0] = 0;
}

/*
 * The socket is being closed. glibc learns of an error by poll alone and reads it never, so that the socket has it still. The memory of
 * datagram sockets is given back a grace period later, so that it is there in any case.
 */
static __always_inline void dns_closed(struct dns_scratch *s, __u32 program)
{
	struct dns_set *set = NULL;
	struct dns_socket *socket = dns_socket_at(s->set, s->way, &set);
	const struct sock *sk;
	__s32 error;

	if (socket && socket->protocol == IPPROTO_UDP) {
		sk = (const struct sock *)socket->sk;
		error = BPF_CORE_READ(sk, sk_err);
		if (error > 0 && error <= MAX_ERRNO)
			dns_end_all(s, program, DNS_FAILED, error);
	}
	dns_gone(s, program);
}

/* Finds the place of a descriptor in `s`. */
static __always_inline bool dns_place(struct dns_scratch *s, __u64 owner)
{
	struct dns_set *set;

	s->set = dns_set_index(owner);
	set = bpf_map_lookup_elem(&dns_sockets, &s->set);
	s->way = set ? dns_way_of(set, owner) : DNS_WAYS;
	return s->way < DNS_WAYS;
}

static __always_inline void dns_clear_socket(struct dns_socket *socket, const struct dns_scratch *s)
{
	__builtin_memset(socket, 0, sizeof(*socket));
	socket->sk = s->sk;
	socket->protocol = s->protocol;
}

/* Marks a descriptor. A socket that has to give way is followed no more, which is counted. */
static __always_inline bool dns_mark(struct dns_scratch *s, __u32 program, __u64 owner)
{
	__u32 zero = 0, way = 0;
	struct dns_askers *askers;
	struct dns_socket *socket;
	struct dns_set *set = NULL;

	if (dns_place(s, owner))
		return true;
	set = bpf_map_lookup_elem(&dns_sockets, &s->set);
	if (!set)
		return false;
	if (set->owners[0]) {
		way = 1;
		if (set->owners[1]) {
			s->way = 1;
			count_untracked();
			dns_gone(s, program);
		}
	}
	s->way = way;
	socket = dns_socket_at(s->set, way, &set);
	if (!socket || !set)
		return false;
	dns_clear_socket(socket, s);
	if (way)
		set->owners[1] = owner;
	else
		set->owners[0] = owner;
	askers = bpf_map_lookup_elem(&dns_askers, &zero);
	if (askers)
		askers->asked[(owner >> 32) & (DNS_ASKERS - 1)] = 1;
	return true;
}

/* Notes what a socket asked. Where that is too much at a time, what it asked first is followed no more, which is counted. */
static __always_inline void dns_note_asked(struct dns_socket *socket, struct dns_key *key, struct dns_key *other)
{
	__u32 at = DNS_ASKED;

	for (__u32 i = 0; i < DNS_ASKED; i++)
		if (!socket->asked[i].used)
			at = i;
	if (at >= DNS_ASKED) {
		at = socket->next++;
		OPAQUE(at);
		at &= DNS_ASKED - 1;
		other->sk = socket->sk;
		other->server = socket->asked[at].server;
		other->id = socket->asked[at].id;
		other->pad = 0;
		/* It may have been answered on another descriptor of the same socket. */
		if (!bpf_map_delete_elem(&dns_awaited, other))
			count_untracked();
	}
	OPAQUE(at);
	at &= DNS_ASKED - 1;
	socket->asked[at].server = key->server;
	socket->asked[at].id = key->id;
	socket->asked[at].used = 1;
	socket->server = key->server;
}

#endif
