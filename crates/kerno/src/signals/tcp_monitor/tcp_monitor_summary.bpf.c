/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcp_monitor_summary: connections opened, accepted, closed and reset, attempts that failed, and segments sent again by the other
 * end. No events.
 *
 * hooks   tp_btf/inet_sock_set_state, tcp_retransmit_skb, tcp_retransmit_synack, tcp_receive_reset, tcp_send_reset; iter/tcp twice
 *         (all sockets; the listening ones only) and iter/task_file, when the reader asks
 * key     the other end with the service's port and the network namespace; failed attempts by process and error too
 * cost    two hash look-ups a connection (one more and an insertion where we open it), one for each retransmission; nothing for a
 *         segment that arrives. A walk takes some milliseconds, mostly for the empty buckets of the kernel's table
 * not     connects that the routing refuses at once: they never reach TCP. Round-trip times between two looks at a connection
 */
#include "kernel.h"
#include "block.h"
#include "counters.h"
#include "event.h"
#include "histogram.h"
#include "sock.h"
#include "direction.h"

#define ETIMEDOUT 110

#define MAX_CONNECTING 16384
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

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_CONNECTING);
	__type(key, __u64); /* the socket's address */
	__type(value, struct connecting);
} connects SEC(".maps");

/* The other end, as a service: its port where we opened the connection, ours where it did. */
struct peer_key {
	__u8 remote[16];
	__u32 netns;
	__u16 port;
	__u8 family;
	__u8 outgoing;
};
_Static_assert(sizeof(struct peer_key) == 24, "struct peer_key changed size");
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
};
_Static_assert(sizeof(struct failure_key) == 32, "struct failure_key changed size");
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

/* Where the sequence numbers do not tell, the service has the lower port. */
static __always_inline struct peer_value *peer_of(const struct flow *flow, __u32 direction)
{
	struct peer_value *found, fresh;
	struct peer_key key;

	__builtin_memset(&key, 0, sizeof(key));
	__builtin_memcpy(key.remote, flow->dst_addr, 16);
	key.netns = flow->netns;
	key.family = flow->family == AF_INET6 ? AF_INET6 : AF_INET;
	key.outgoing = direction == DIRECTION_OUTGOING ||
		       (direction == DIRECTION_UNKNOWN && flow->dst_port < flow->src_port);
	key.port = key.outgoing ? flow->dst_port : flow->src_port;
	found = bpf_map_lookup_elem(&peers, &key);
	if (found)
		return found;
	__builtin_memset(&fresh, 0, sizeof(fresh));
	bpf_map_update_elem(&peers, &key, &fresh, BPF_NOEXIST);
	found = bpf_map_lookup_elem(&peers, &key);
	if (!found)
		count_overflow();
	return found;
}

static __always_inline void count_failure(const struct flow *flow, const struct connecting *who, int error)
{
	struct failure_value *found, fresh;
	struct failure_key key;

	__builtin_memset(&key, 0, sizeof(key));
	__builtin_memcpy(key.remote, flow->dst_addr, 16);
	key.netns = flow->netns;
	key.pid = who ? who->pid : 0;
	key.error = error;
	key.port = flow->dst_port;
	key.family = flow->family == AF_INET6 ? AF_INET6 : AF_INET;
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
	struct connecting who = {};
	__u64 key = (__u64)sk;

	who.start_ns = bpf_ktime_get_ns();
	who.pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(who.comm, sizeof(who.comm));
	if (bpf_map_update_elem(&connects, &key, &who, BPF_ANY))
		count_untracked();
}

static __always_inline void end_connect(const struct sock *sk, int state, int error)
{
	const struct tcp_sock *tcp = (const struct tcp_sock *)sk;
	struct connecting *who;
	struct peer_value *peer;
	__u64 key = (__u64)sk;
	struct flow flow;

	who = bpf_map_lookup_elem(&connects, &key);
	/* A program that gave up after its SYN had to be sent again has got no answer in time. */
	if (state == TCP_CLOSE && !error && BPF_CORE_READ(tcp, total_retrans))
		error = ETIMEDOUT;
	flow_of_sock(&flow, sk);
	if (state == TCP_ESTABLISHED) {
		count(opened);
		peer = peer_of(&flow, DIRECTION_OUTGOING);
		if (peer) {
			__sync_fetch_and_add(&peer->established, 1);
			if (who)
				peer->pid = who->pid;
		}
	} else if (error) {
		count_failure(&flow, who, error);
	}
	bpf_map_delete_elem(&connects, &key);
}

static __always_inline void end_connection(const struct sock *sk, __u8 state)
{
	const struct tcp_sock *tcp = (const struct tcp_sock *)sk;
	const struct inet_connection_sock *icsk = (const struct inet_connection_sock *)sk;
	__u32 srtt_us = BPF_CORE_READ(tcp, srtt_us) >> 3, min_rtt_us = BPF_CORE_READ(tcp, rtt_min.s[0].v);
	struct tcp_block *block = this_cpu_block(&blocks);
	struct peer_value *peer;
	struct flow flow;

	/* Given up on, minutes perhaps after the last answer: that round trip is no news. */
	if (BPF_CORE_READ(icsk, icsk_retransmits))
		srtt_us = 0;
	if (block) {
		__sync_fetch_and_add(&block->closed, 1);
		if (srtt_us)
			histogram_add_atomic(&block->rtt_us, srtt_us);
	}
	flow_of_sock(&flow, sk);
	peer = peer_of(&flow, direction_from_sequence(sk, state));
	if (!peer)
		return;
	__sync_fetch_and_add(&peer->closed, 1);
	__sync_fetch_and_add(&peer->closed_segments, BPF_CORE_READ(tcp, data_segs_out));
	__sync_fetch_and_add(&peer->closed_retransmits, BPF_CORE_READ(tcp, total_retrans));
	__sync_fetch_and_add(&peer->closed_spurious, BPF_CORE_READ(tcp, dsack_dups));
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
	struct peer_value *peer;
	struct flow flow;

	if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	if (new == TCP_SYN_SENT && old == TCP_CLOSE) {
		begin_connect(sk);
	} else if (old == TCP_SYN_SENT) {
		/* By way of SYN_RECV when both opened at once. */
		end_connect(sk, new == TCP_SYN_RECV ? TCP_ESTABLISHED : new, BPF_CORE_READ(sk, sk_err));
	} else if (old == TCP_SYN_RECV && new == TCP_ESTABLISHED) {
		if (direction_from_sequence(sk, TCP_ESTABLISHED) == DIRECTION_OUTGOING)
			return 0;
		count(accepted);
		flow_of_sock(&flow, sk);
		peer = peer_of(&flow, DIRECTION_INCOMING);
		if (peer)
			__sync_fetch_and_add(&peer->established, 1);
	} else if (new == TCP_CLOSE && old != TCP_LISTEN && old != TCP_CLOSE && old != TCP_SYN_RECV) {
		end_connection(sk, old);
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
};
_Static_assert(sizeof(struct tcp_row) == 96, "struct tcp_row changed size");
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
	}
	if (state == TCP_SYN_SENT) {
		who = bpf_map_lookup_elem(&connects, &row.sock);
		if (who) {
			row.pid = who->pid;
			row.since_ns = who->start_ns;
		}
	}
	bpf_seq_write(ctx->meta->seq, &row, sizeof(row));
}

/* Requests and time-wait sockets, which are no full sockets, are left out. */
SEC("iter/tcp")
int on_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	__u8 state;

	if (!common)
		return 0;
	state = common->skc_state;
	if (state != TCP_NEW_SYN_RECV && state != TCP_TIME_WAIT)
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

	if (!task || !file)
		return 0;
	sk = tcp_sock_of_file(file);
	if (!sk)
		return 0;
	row.sock = (__u64)sk;
	row.started_ns = BPF_CORE_READ(task, group_leader, start_time);
	row.pid = BPF_CORE_READ(task, tgid);
	bpf_seq_write(ctx->meta->seq, &row, sizeof(row));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
