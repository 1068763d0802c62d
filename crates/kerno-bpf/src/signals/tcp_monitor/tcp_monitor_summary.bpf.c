/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcp_monitor_summary: connections opened, accepted, closed and reset, attempts that failed, and segments sent again by the other
 * end. No events.
 *
 * hooks   tp_btf/inet_sock_set_state, tcp_retransmit_skb, tcp_retransmit_synack, tcp_receive_reset, tcp_send_reset; iter/tcp twice
 *         (all sockets; the listening ones only) and iter/task_file, when the reader asks
 * key     the other end with the service's port and the network namespace; failed attempts by process and error too
 * cost    two hash look-ups a connection, one for each retransmission; nothing for a segment that arrives. A walk takes some
 *         milliseconds, mostly for the empty buckets of the kernel's table
 * not     connects that the routing refuses at once: they never reach TCP. Round-trip times between two looks at a connection
 */
#include "kernel.h"
#include "block.h"
#include "counters.h"
#include "event.h"
#include "histogram.h"
#include "in_flight.h"
#include "sock.h"
#include "direction.h"
#include "met.h"
#include "stuck.h"

#define ETIMEDOUT 110

#define CONNECTING_BITS 11 /* 2,048 sets of eight attempts */
#define MAX_PEERS 16384
#define MAX_FAILURES 4096

const volatile __u8 cfg_retransmit_has_err = 0; /* tcp_retransmit_skb tells of failed attempts too (6.17) */

struct tcp_block {
	struct histogram rtt_us; /* smoothed, when a connection ended */
	__u64 opened;
	__u64 accepted;
	__u64 closed;
	__u64 reset;
	__u64 pad0[4];
};
PER_CPU_BLOCK(blocks, struct tcp_block);

#define count(field)                                                                                                   \
	({                                                                                                             \
		struct tcp_block *__block = this_cpu_block(&blocks);                                                   \
		if (__block)                                                                                           \
			__sync_fetch_and_add(&__block->field, 1);                                                      \
	})

/* Who waits for an answer to a SYN. */
struct connecting {
	__u64 start_ns;
	__u32 pid;
	__u32 pad0;
	char comm[TASK_COMM_LEN];
};

/* By the socket's address. */
IN_FLIGHT(connects, struct connecting, CONNECTING_BITS)

/* The other end, as a service: its port where we opened the connection, ours where it did. */
struct peer_key {
	__u8 remote[16];
	__u32 netns;
	__u16 port;
	__u8 family;
	__u8 outgoing;
	__u32 window; /* its number (met.h) */
	__u32 pad0;
};
_Static_assert(sizeof(struct peer_key) == 32, "struct peer_key changed size");
const volatile struct peer_key *const volatile layout_of_peer_key SEC(".rodata") = NULL;

/* Since the reader last took it away. */
struct peer_value {
	__u64 first_retransmit_ns;
	__u64 retransmits; /* segments, without attempts that failed here */
	__u64 syn_retransmits; /* of these, SYNs and answers to them */
	__u64 closed_segments; /* with data, of connections that ended, since they began */
	__u64 closed_retransmits;
	__u64 closed_spurious; /* of these, segments that had arrived all the same */
	__u64 srtt_sum_us; /* of connections that ended, except those that were given up on */
	__u32 srtt_count;
	__u32 min_rtt_us; /* the lowest of all that ended, 0 for none */
	__u32 established;
	__u32 closed;
	__u32 pid; /* the last that opened one */
	__u32 pad0;
};
_Static_assert(sizeof(struct peer_value) == 80, "struct peer_value changed size");
const volatile struct peer_value *const volatile layout_of_peer_value SEC(".rodata") = NULL;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PEERS);
	__type(key, struct peer_key);
	__type(value, struct peer_value);
} peers SEC(".maps");

struct failure_key {
	__u8 remote[16];
	__u32 netns;
	__u32 pid;
	__s32 error;
	__u16 port;
	__u8 family;
	__u8 pad0;
	__u32 window; /* its number (met.h) */
	__u32 pad1;
};
_Static_assert(sizeof(struct failure_key) == 40, "struct failure_key changed size");
const volatile struct failure_key *const volatile layout_of_failure_key SEC(".rodata") = NULL;

struct failure_value {
	__u64 first_ns;
	__u64 count;
	char comm[TASK_COMM_LEN];
};
_Static_assert(sizeof(struct failure_value) == 32, "struct failure_value changed size");
const volatile struct failure_value *const volatile layout_of_failure_value SEC(".rodata") = NULL;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_FAILURES);
	__type(key, struct failure_key);
	__type(value, struct failure_value);
} failures SEC(".maps");

/*
 * Where the sequence numbers do not tell, the service has the lower port. Here and below the sockets of state changes are read without
 * helper calls, so these programs may have no functions of their own: before 6.4 a read that faults would then be a fault of
 * the kernel's (0108a4e9f358).
 */
static __always_inline void set_service(struct peer_key *key, __u32 direction, __u16 local_port, __u16 remote_port)
{
	key->outgoing = direction == DIRECTION_OUTGOING ||
			(direction == DIRECTION_UNKNOWN && remote_port < local_port);
	key->port = key->outgoing ? remote_port : local_port;
}

/* The other end of a socket. */
static __always_inline void set_remote(struct peer_key *key, const struct tcp_sock *tcp)
{
	const struct sock_common *common = (const struct sock_common *)tcp;
	const __u32 *from;
	__u32 *to = (__u32 *)key->remote;

	__builtin_memset(key, 0, sizeof(*key));
	key->netns = common->skc_net.net->ns.inum;
	key->family = AF_INET;
	if (common->skc_family != AF_INET6 || !bpf_core_field_exists(common->skc_v6_daddr)) {
		to[0] = common->skc_daddr;
		return;
	}
	from = (const __u32 *)&common->skc_v6_daddr;
	if (is_mapped_v4((const __u8 *)from)) {
		to[0] = from[3];
		return;
	}
	key->family = AF_INET6;
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

static __always_inline __u16 remote_port(const struct tcp_sock *tcp)
{
	return bpf_ntohs(((const struct sock_common *)tcp)->skc_dport);
}

static __always_inline struct peer_value *peer_at(const struct peer_key *key)
{
	struct peer_value *found = bpf_map_lookup_elem(&peers, key), fresh;

	if (found)
		return found;
	__builtin_memset(&fresh, 0, sizeof(fresh));
	bpf_map_update_elem(&peers, key, &fresh, BPF_NOEXIST);
	found = bpf_map_lookup_elem(&peers, key);
	if (!found)
		count_overflow();
	return found;
}

static __always_inline struct peer_value *peer_of_sock(const struct tcp_sock *tcp, __u32 direction, __u32 window)
{
	struct peer_key key;

	set_remote(&key, tcp);
	key.window = window;
	set_service(&key, direction, bpf_ntohs(((const struct inet_sock *)tcp)->inet_sport), remote_port(tcp));
	return peer_at(&key);
}

static __always_inline struct peer_value *peer_of(const struct flow *flow, __u32 direction)
{
	struct peer_key key;

	__builtin_memset(&key, 0, sizeof(key));
	__builtin_memcpy(key.remote, flow->dst_addr, 16);
	key.netns = flow->netns;
	key.window = window_now();
	key.family = flow->family == AF_INET6 ? AF_INET6 : AF_INET;
	set_service(&key, direction, flow->src_port, flow->dst_port);
	return peer_at(&key);
}

static __always_inline void count_failure(const struct tcp_sock *tcp, const struct connecting *who, int error)
{
	struct failure_value *found, fresh;
	struct failure_key key;
	struct peer_key remote;

	set_remote(&remote, tcp);
	__builtin_memset(&key, 0, sizeof(key));
	__builtin_memcpy(key.remote, remote.remote, 16);
	key.netns = remote.netns;
	key.pid = who ? who->pid : 0;
	key.error = error;
	key.port = remote_port(tcp);
	key.family = remote.family;
	key.window = window_of(tcp);
	found = bpf_map_lookup_elem(&failures, &key);
	if (!found) {
		__builtin_memset(&fresh, 0, sizeof(fresh));
		fresh.first_ns = bpf_ktime_get_ns();
		if (who)
			__builtin_memcpy(fresh.comm, who->comm, TASK_COMM_LEN);
		bpf_map_update_elem(&failures, &key, &fresh, BPF_NOEXIST);
		found = bpf_map_lookup_elem(&failures, &key);
	}
	if (found)
		__sync_fetch_and_add(&found->count, 1);
	else
		count_overflow();
}

/* connect(): the current task is the one that calls it. */
static __always_inline void begin_connect(const struct sock *sk)
{
	struct connecting *who = connects_begin(sk);
	const struct task_struct *task;

	if (!who) {
		count_untracked();
		return;
	}
	who->start_ns = bpf_ktime_get_ns();
	if (LOOKS_INTO_TASK) {
		task = bpf_get_current_task_btf();
		who->pid = task->tgid;
		comm_of(who->comm, task);
	} else {
		who->pid = bpf_get_current_pid_tgid() >> 32;
		bpf_get_current_comm(who->comm, sizeof(who->comm));
	}
}

static __always_inline void end_connect(const struct sock *sk, const struct tcp_sock *tcp, int state)
{
	struct connects_place place = connects_place(sk);
	const struct connecting *who = connects_at(place);
	struct peer_value *peer;
	int error = sk->sk_err;

	/* A program that gave up after its SYN had to be sent again has got no answer in time. */
	if (state == TCP_CLOSE && !error && tcp->total_retrans)
		error = ETIMEDOUT;
	if (state == TCP_ESTABLISHED) {
		count(opened);
		peer = peer_of_sock(tcp, DIRECTION_OUTGOING, window_now());
		if (peer) {
			__sync_fetch_and_add(&peer->established, 1);
			if (who)
				peer->pid = who->pid;
		}
	} else if (error) {
		count_failure(tcp, who, error);
	}
	connects_leave(place);
}

/* The socket's lock is held. */
static __always_inline __u32 direction_now(const struct tcp_sock *tcp, __u8 state)
{
	const struct sequence at = {
		.sent = tcp->bytes_sent,
		.sent_again = tcp->bytes_retrans,
		.acked = tcp->bytes_acked,
		.next = tcp->snd_nxt,
		.unacked = tcp->snd_una,
		.end = tcp->write_seq,
	};

	return direction_of_sequence(&at, state);
}

static __always_inline void accepted(const struct tcp_sock *tcp)
{
	struct peer_value *peer;

	/* Both opened at once. */
	if (direction_now(tcp, TCP_ESTABLISHED) == DIRECTION_OUTGOING)
		return;
	count(accepted);
	peer = peer_of_sock(tcp, DIRECTION_INCOMING, window_now());
	if (peer)
		__sync_fetch_and_add(&peer->established, 1);
}

/* Most connections end with most of these at zero. */
static __always_inline void add(__u64 *to, __u32 value)
{
	if (value)
		__sync_fetch_and_add(to, value);
}

static __always_inline void end_connection(const struct tcp_sock *tcp, __u8 state)
{
	__u32 srtt_us = tcp->srtt_us >> 3, min_rtt_us = tcp->rtt_min.s[0].v;
	struct tcp_block *block = this_cpu_block(&blocks);
	struct peer_value *peer;

	/* Given up on, minutes perhaps after the last answer: that round trip is no news. */
	if (((const struct inet_connection_sock *)tcp)->icsk_retransmits)
		srtt_us = 0;
	if (block) {
		__sync_fetch_and_add(&block->closed, 1);
		if (srtt_us)
			histogram_add_atomic(&block->rtt_us, srtt_us);
	}
	peer = peer_of_sock(tcp, direction_now(tcp, state), window_of(tcp));
	if (!peer)
		return;
	__sync_fetch_and_add(&peer->closed, 1);
	add(&peer->closed_segments, tcp->data_segs_out);
	add(&peer->closed_retransmits, tcp->total_retrans);
	add(&peer->closed_spurious, tcp->dsack_dups);
	if (!srtt_us)
		return;
	__sync_fetch_and_add(&peer->srtt_sum_us, srtt_us);
	__sync_fetch_and_add(&peer->srtt_count, 1);
	/* Two CPUs may overwrite each other here: then it is one of the lowest. */
	if (min_rtt_us != ~0u && (!peer->min_rtt_us || min_rtt_us < peer->min_rtt_us))
		peer->min_rtt_us = min_rtt_us;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_inet_sock_set_state, struct sock *sk, int old, int new)
{
	const struct tcp_sock *tcp;

	/* Half of a connection's changes of state are steps of its end that tell nothing new. */
	if (new != TCP_SYN_SENT && new != TCP_ESTABLISHED && new != TCP_CLOSE && old != TCP_SYN_SENT)
		return 0;
	/* NULL for another protocol's socket. */
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return 0;
	if (new == TCP_SYN_SENT) {
		if (old == TCP_CLOSE)
			begin_connect(sk);
	} else if (old == TCP_SYN_SENT) {
		/* By way of SYN_RECV when both opened at once. */
		end_connect(sk, tcp, new == TCP_SYN_RECV ? TCP_ESTABLISHED : new);
	} else if (new == TCP_ESTABLISHED) {
		if (old == TCP_SYN_RECV)
			accepted(tcp);
	} else if (old != TCP_LISTEN && old != TCP_CLOSE && old != TCP_SYN_RECV) {
		end_connection(tcp, old);
	}
	return 0;
}

static __always_inline void count_retransmits(struct peer_value *peer, __u32 segments, bool syn)
{
	if (!peer)
		return;
	if (!peer->first_retransmit_ns)
		peer->first_retransmit_ns = bpf_ktime_get_ns();
	__sync_fetch_and_add(&peer->retransmits, segments);
	if (syn)
		__sync_fetch_and_add(&peer->syn_retransmits, segments);
}

/* Takes the raw arguments: the third is there only on kernels that report failed attempts. */
SEC("tp_btf/tcp_retransmit_skb")
int on_tcp_retransmit_skb(unsigned long long *args)
{
	const struct sock *sk = (const struct sock *)args[0];
	const struct sk_buff *skb = (const struct sk_buff *)args[1];
	const struct tcp_skb_cb *cb;
	struct flow flow;
	__u8 state;

	if (cfg_retransmit_has_err && (int)((volatile unsigned long long *)args)[2])
		return 0;
	cb = (const struct tcp_skb_cb *)__builtin_preserve_access_index(&skb->cb);
	state = BPF_CORE_READ(sk, __sk_common.skc_state);
	flow_of_sock(&flow, sk);
	count_retransmits(peer_of(&flow, direction_from_sequence(sk, state)), BPF_CORE_READ(cb, tcp_gso_segs),
			  state == TCP_SYN_SENT);
	return 0;
}

SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(on_tcp_retransmit_synack, struct sock *listener, struct request_sock *req)
{
	struct flow flow;

	flow_of_request(&flow, req);
	count_retransmits(peer_of(&flow, DIRECTION_INCOMING), 1, true);
	return 0;
}

static __always_inline bool had_connection(__u8 state)
{
	return state != TCP_SYN_SENT && state != TCP_SYN_RECV && state != TCP_CLOSE && state != TCP_LISTEN;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(on_tcp_receive_reset, struct sock *sk)
{
	if (had_connection(BPF_CORE_READ(sk, __sk_common.skc_state)))
		count(reset);
	return 0;
}

/*
 * Without a packet a socket resets its own connection, when it has changed its state. With one it is an answer to that packet:
 * a connection ended by it where the socket has just been closed because of it. The arguments are read as plain numbers: they may be
 * NULL, and not every verifier knows.
 */
SEC("tp_btf/tcp_send_reset")
int on_tcp_send_reset(unsigned long long *args)
{
	const struct sock *sk = NULL;

	bpf_probe_read_kernel(&sk, sizeof(sk), &args[0]);
	if (sk && BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_CLOSE)
		count(reset);
	return 0;
}

struct tcp_row {
	__u64 sock; /* its address: with the ports it names the socket while it lives */
	__u64 since_ns; /* SYN_SENT: of the first SYN, where that was seen */
	__u8 local[16];
	__u8 remote[16];
	__u32 netns;
	__u32 data_segments;
	__u32 retransmits;
	__u32 srtt_us;
	__u32 min_rtt_us; /* 0: none yet */
	__u32 queued; /* of a listener */
	__u32 backlog;
	__u32 drops;
	__u32 pid; /* SYN_SENT: who connects, where that was seen */
	__u16 local_port;
	__u16 remote_port;
	__u8 family;
	__u8 state;
	__u8 direction;
	__u8 pad0;
	__u32 spurious; /* of the segments sent again, those that had arrived all the same */
	__u32 silent_jiffies; /* since the last acknowledgement, of whatever */
	__u32 pad1;
};
_Static_assert(sizeof(struct tcp_row) == 104, "struct tcp_row changed size");
const volatile struct tcp_row *const volatile layout_of_tcp_row SEC(".rodata") = NULL;

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
} CORE;

/*
 * As flow_of_sock and direction_from_sequence, but with loads instead of a helper's call for each field, which the verifier allows where
 * it knows the type: most of a walk over very many sockets is this.
 */
static __always_inline void ends_of(struct tcp_row *row, const struct tcp_sock *tcp)
{
	const struct sock_common *common = (const struct sock_common *)tcp;
	__u32 *local = (__u32 *)row->local, *remote = (__u32 *)row->remote;

	row->netns = common->skc_net.net->ns.inum;
	row->family = common->skc_family == AF_INET6 ? AF_INET6 : AF_INET;
	row->local_port = bpf_ntohs(((const struct inet_sock *)tcp)->inet_sport);
	row->remote_port = bpf_ntohs(common->skc_dport);
	if (row->family == AF_INET6) {
		struct flow flow;

		flow_of_sock(&flow, (const struct sock *)tcp);
		__builtin_memcpy(row->local, flow.src_addr, 16);
		__builtin_memcpy(row->remote, flow.dst_addr, 16);
		row->family = flow.family == AF_INET6 ? AF_INET6 : AF_INET;
	} else {
		local[0] = common->skc_rcv_saddr;
		remote[0] = common->skc_daddr;
	}
}

static __always_inline __u32 direction_of(const struct tcp_sock *tcp, __u8 state)
{
	__u64 sent, acked, not_data;
	__u32 next;

	/* The iterator has no lock on the socket on older kernels, and then it asks twice. */
	if (state != TCP_ESTABLISHED)
		return direction_from_sequence((const struct sock *)tcp, state);
	sent = tcp->bytes_sent;
	acked = tcp->bytes_acked;
	next = tcp->snd_nxt;
	not_data = acked + (__u32)(next - tcp->snd_una) - (sent - tcp->bytes_retrans);
	asm volatile("" : : : "memory");
	if (sent != tcp->bytes_sent || acked != tcp->bytes_acked || not_data > 1)
		return DIRECTION_UNKNOWN;
	return not_data ? DIRECTION_OUTGOING : DIRECTION_INCOMING;
}

static __always_inline void write_row(struct bpf_iter__tcp *ctx, struct sock_common *common, __u8 state)
{
	const struct tcp_sock *tcp = bpf_skc_to_tcp_sock(common);
	const struct sock *sk = (const struct sock *)tcp;
	struct connecting *who;
	struct tcp_row row;

	if (!tcp)
		return;
	__builtin_memset(&row, 0, sizeof(row));
	row.sock = (__u64)common;
	row.state = state;
	ends_of(&row, tcp);
	if (state == TCP_LISTEN) {
		row.queued = sk->sk_ack_backlog;
		row.backlog = sk->sk_max_ack_backlog;
		row.drops = sk->sk_drops.counter;
	} else {
		row.data_segments = tcp->data_segs_out;
		row.retransmits = tcp->total_retrans;
		row.spurious = tcp->dsack_dups;
		row.srtt_us = tcp->srtt_us >> 3;
		row.min_rtt_us = tcp->rtt_min.s[0].v;
		if (row.min_rtt_us == ~0u)
			row.min_rtt_us = 0;
		row.direction = direction_of(tcp, state);
		row.silent_jiffies = (__u32)bpf_jiffies64() - tcp->rcv_tstamp;
		if (!meet(common))
			count_overflow();
		if (state != TCP_SYN_SENT)
			look_whether_stuck(tcp, row.sock, window_now());
	}
	if (state == TCP_SYN_SENT) {
		who = connects_find(sk);
		if (who) {
			row.pid = who->pid;
			row.since_ns = who->start_ns;
		}
	}
	bpf_seq_write(ctx->meta->seq, &row, sizeof(row));
}

/* Requests and time-wait sockets, which are no full sockets, are left out. The walk may rest (EAGAIN for the reader) and go on. */
SEC("iter/tcp")
int on_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	__u8 state;

	if (!common)
		return 0;
	state = common->skc_state;
	if (state == TCP_NEW_SYN_RECV || state == TCP_TIME_WAIT)
		return 0;
	if (state != TCP_LISTEN && walk_rests(common))
		return 1;
	write_row(ctx, common, state);
	return 0;
}

/* The listening sockets come first; at the first other one the walk ends (EAGAIN for the reader). */
SEC("iter/tcp")
int on_tcp_listener(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;

	if (!common)
		return 0;
	if (common->skc_state != TCP_LISTEN)
		return 1;
	write_row(ctx, common, TCP_LISTEN);
	return 0;
}

struct owner_row {
	__u64 sock;
	__u64 started_ns; /* the process: the oldest of several is the nearest to who opened it */
	__u32 pid;
	__u32 pad0;
};
_Static_assert(sizeof(struct owner_row) == 24, "struct owner_row changed size");
const volatile struct owner_row *const volatile layout_of_owner_row SEC(".rodata") = NULL;

SEC("iter/task_file")
int on_task_file(struct bpf_iter__task_file *ctx)
{
	const struct task_struct *task = ctx->task;
	const struct file *file = ctx->file;
	struct owner_row row = {};
	const struct sock *sk;

	/* Read with loads as far as the verifier knows the types: a machine has very many descriptors. */
	if (!task || !file || (file->f_inode->i_mode & S_IFMT) != S_IFSOCK)
		return 0;
	sk = tcp_sock_of(file->private_data);
	if (!sk)
		return 0;
	row.sock = (__u64)sk;
	row.started_ns = task->group_leader->start_time;
	row.pid = task->tgid;
	bpf_seq_write(ctx->meta->seq, &row, sizeof(row));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
