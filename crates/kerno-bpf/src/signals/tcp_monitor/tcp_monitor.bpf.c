/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcp_monitor: connections opened, accepted, refused, reset and closed, segments sent again, round-trip times.
 *
 * hooks   tp_btf/inet_sock_set_state (connect, close), tcp_retransmit_skb, tcp_retransmit_synack, tcp_probe (round
 *         trips), tcp_receive_reset, tcp_send_reset, tcp_rcv_space_adjust (owners), tcp_destroy_sock; for accept
 *         fexit/inet_csk_accept, or tp_btf/sys_exit where functions cannot be hooked; iter/task_file once, for the
 *         sockets that are there already
 * key     the socket's address, from its first state to tcp_destroy_sock
 * cost    one hash look-up for each segment received and for each recv(); with sys_exit, for each system call of the
 *         machine the kernel's slow path for traced calls and, where it does not fail, one comparison
 * not     MPTCP's own sockets (their subflows are seen); with sys_exit, accepts through io_uring and by the kernel
 *         itself (the connection is seen); when connections began that were open before it attached
 *
 * Most of this runs in softirq, where the current task is whoever was interrupted. Whose a socket is gets learnt where
 * the current task is known to act on that very socket, and is remembered: in connect(), at the end of accept(), or
 * when the task holds the socket's lock (held_by_current). Otherwise it stays unknown.
 */
#include "kernel.h"
#include "event.h"
#include "filter.h"
#include "emit.h"
#include "files.h"
#include "syscall.h"
#include "sock.h"
#include "direction.h"
#include "conn.h"

#define EVENT_CONNECT 1
#define EVENT_CLOSE 2
#define EVENT_RETRANSMIT 3
#define EVENT_RTT 4
#define EVENT_ACCEPT 5
#define EVENT_RESET 6
#define EVENT_CONNECT_FAILED 7

#define RESET_NONE 0
#define RESET_BY_US 1
#define RESET_BY_PEER 2

struct tcp_event {
	__u64 timestamp_ns;
	__u64 cgroup_id;
	__u64 latency_ns; /* connect: SYN to established; accept: established to accepted */
	__u64 duration_ns; /* close: since established */
	__u64 bytes_sent; /* close: payload, each byte once */
	__u64 bytes_received;
	__u8 src_addr[16];
	__u8 dst_addr[16];
	__u32 pid;
	__u32 uid;
	__u32 netns;
	__u32 rtt_us;
	__u32 retransmits; /* retransmit: segments */
	__u32 total_retransmits;
	__s32 error;
	__u16 src_port;
	__u16 dst_port;
	__u8 family;
	__u8 event_type;
	__u8 state;
	__u8 direction;
	__u8 reset_by;
	__u8 pad0[3];
	char comm[TASK_COMM_LEN];
};
ASSERT_RECORD(struct tcp_event, 136);
KEEP_LAYOUT(struct tcp_event);

#define MAX_FILTER_PORTS 16

const volatile __u32 cfg_port_count = 0;
const volatile __u32 cfg_ports[MAX_FILTER_PORTS] = {};
const volatile __u64 cfg_rtt_interval_ns = 1000000000; /* at most one round-trip event a socket in this time */
const volatile __u8 cfg_retransmit_has_err = 0; /* tcp_retransmit_skb tells of failed attempts too (6.17, ad892e912b84) */
/* accept, accept4; then accept, accept4, socketcall of the 32-bit table */
const volatile __u32 cfg_accept_nrs[2] = { ~0u, ~0u };
const volatile __u32 cfg_compat_accept_nrs[3] = { ~0u, ~0u, ~0u };

static __noinline bool port_passes(__u32 src_port, __u32 dst_port)
{
	for (__u32 i = 0; i < MAX_FILTER_PORTS && i < cfg_port_count; i++)
		if (cfg_ports[i] == src_port || cfg_ports[i] == dst_port)
			return true;
	return false;
}

/* A record with owner and addresses filled in; NULL when the filters refuse it or the ring is full. */
static __always_inline struct tcp_event *event_begin(__u8 type, __u64 now, const struct conn *conn,
						     const struct flow *flow, int error)
{
	bool failed = type == EVENT_RETRANSMIT || type == EVENT_RESET || type == EVENT_CONNECT_FAILED || error;
	struct tcp_event *event;

	if (!(conn->flags & CONN_PASSES) || (cfg_errors_only[SIGNAL] && !failed))
		return NULL;
	if (cfg_port_count && !port_passes(flow->src_port, flow->dst_port))
		return NULL;
	event = event_reserve(struct tcp_event);
	if (!event)
		return NULL;
	event->timestamp_ns = now;
	event->cgroup_id = conn->cgroup_id;
	__builtin_memcpy(event->src_addr, flow->src_addr, 16);
	__builtin_memcpy(event->dst_addr, flow->dst_addr, 16);
	event->pid = conn->pid;
	event->uid = conn->uid;
	event->netns = flow->netns;
	event->error = error;
	event->src_port = flow->src_port;
	event->dst_port = flow->dst_port;
	event->family = flow->family == AF_INET6 ? AF_INET6 : AF_INET;
	event->event_type = type;
	event->direction = conn->direction;
	__builtin_memcpy(event->comm, conn->comm, TASK_COMM_LEN);
	return event;
}

/* What a full socket knows about its connection. */
static __always_inline void event_fill(struct tcp_event *event, const struct sock *sk, __u8 state)
{
	const struct tcp_sock *tcp = (const struct tcp_sock *)sk;

	event->state = state;
	event->rtt_us = BPF_CORE_READ(tcp, srtt_us) >> 3;
	event->total_retransmits = BPF_CORE_READ(tcp, total_retrans);
}

/* Payload only: a FIN received takes a place in the sequence that bytes_received counts. */
static __always_inline void event_fill_bytes(struct tcp_event *event, const struct sock *sk)
{
	const struct tcp_sock *tcp = (const struct tcp_sock *)sk;
	__u64 received = BPF_CORE_READ(tcp, bytes_received);

	event->bytes_sent = BPF_CORE_READ(tcp, bytes_sent) - BPF_CORE_READ(tcp, bytes_retrans);
	if (received && BPF_CORE_READ(sk, __sk_common.skc_flags) & (1ul << SOCK_DONE))
		received--;
	event->bytes_received = received;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_inet_sock_set_state, struct sock *sk, int old, int new)
{
	bool connects = new == TCP_SYN_SENT && old == TCP_CLOSE;
	struct tcp_event *event;
	struct conn *conn, other;
	struct flow flow;
	__u64 now;
	int error;
	__u8 type;

	if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP || new == TCP_LISTEN)
		return 0;
	if (new == TCP_CLOSE && (old == TCP_LISTEN || old == TCP_CLOSE))
		return 0;
	now = bpf_ktime_get_ns();
	if (connects)
		conn = conn_new(sk, now, DIRECTION_OUTGOING);
	else if (new == TCP_SYN_RECV && old == TCP_LISTEN)
		conn = conn_new(sk, now, DIRECTION_INCOMING);
	else
		conn = conn_of(sk);
	if (!conn) { /* opened before we attached, or no room for it */
		conn_init(&other);
		if (old == TCP_SYN_SENT)
			other.direction = DIRECTION_OUTGOING;
		conn = &other;
	}
	if (!(conn->flags & CONN_OWNED) && (connects || held_by_current(sk)))
		conn_learn_owner(conn, current_task());

	if (new == TCP_ESTABLISHED) {
		conn->established_ns = now;
		if (conn->direction != DIRECTION_OUTGOING)
			return 0; /* accept() makes the event */
		type = EVENT_CONNECT;
		error = 0;
	} else if (new == TCP_CLOSE) {
		type = EVENT_CLOSE;
		if (conn->direction == DIRECTION_OUTGOING && (old == TCP_SYN_SENT || old == TCP_SYN_RECV))
			type = EVENT_CONNECT_FAILED;
		else if (old == TCP_SYN_RECV) /* the child never came to be a connection */
			return 0;
		error = BPF_CORE_READ(sk, sk_err);
	} else {
		return 0;
	}
	if (!(conn->flags & CONN_PASSES))
		return 0;
	flow_of_sock(&flow, sk);
	event = event_begin(type, now, conn, &flow, error);
	if (!event)
		return 0;
	event_fill(event, sk, new == TCP_CLOSE ? old : new);
	if (type == EVENT_CLOSE) {
		event->duration_ns = conn->established_ns ? now - conn->established_ns : 0;
		event_fill_bytes(event, sk);
	} else {
		event->latency_ns = conn->start_ns ? now - conn->start_ns : 0;
	}
	event_submit(event);
	return 0;
}

/* Later than CLOSE: a socket closed by a reset may yet be accepted, or send the reset after it changed its state. */
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(on_tcp_destroy_sock, struct sock *sk)
{
	__u64 key = (__u64)sk;

	bpf_map_delete_elem(&conns, &key);
	return 0;
}

/* A reader shows whose the socket is, where nothing did before: accepted through io_uring, received over a socket. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(on_tcp_rcv_space_adjust, struct sock *sk)
{
	struct conn *conn = conn_of(sk);

	if (conn && !(conn->flags & CONN_OWNED) && held_by_current(sk))
		conn_learn_owner(conn, current_task());
	return 0;
}

static __always_inline bool is_accept(const struct pt_regs *regs)
{
	__u32 nr = (__u32)syscall_nr(regs) & ~X32_SYSCALL_BIT;
	__u32 call;

	if (nr != cfg_accept_nrs[0] && nr != cfg_accept_nrs[1] && nr != cfg_compat_accept_nrs[0] &&
	    nr != cfg_compat_accept_nrs[1] && nr != cfg_compat_accept_nrs[2])
		return false;
	if (!in_compat_syscall())
		return nr == cfg_accept_nrs[0] || nr == cfg_accept_nrs[1];
	if (nr != cfg_compat_accept_nrs[2])
		return nr == cfg_compat_accept_nrs[0] || nr == cfg_compat_accept_nrs[1];
	call = syscall_arg(regs, 0, true);
	return call == 5 || call == 18; /* SYS_ACCEPT, SYS_ACCEPT4 of socketcall(2) */
}

/* The task gets the connection, which may have been reset meanwhile. */
static __always_inline int accepted(const struct sock *sk, const struct task_struct *task)
{
	struct tcp_event *event;
	struct conn *conn;
	struct flow flow;
	__u64 now;

	conn = conn_of(sk);
	if (!conn) /* waited in the queue since before we attached */
		conn = conn_new(sk, 0, DIRECTION_INCOMING);
	if (!conn || conn->flags & CONN_ACCEPTED)
		return 0;
	if (!(conn->flags & CONN_OWNED))
		conn_learn_owner(conn, task);
	conn->flags |= CONN_ACCEPTED;
	conn->direction = DIRECTION_INCOMING;
	if (!(conn->flags & CONN_PASSES))
		return 0;
	now = bpf_ktime_get_ns();
	flow_of_sock(&flow, sk);
	event = event_begin(EVENT_ACCEPT, now, conn, &flow, 0);
	if (!event)
		return 0;
	event_fill(event, sk, BPF_CORE_READ(sk, __sk_common.skc_state));
	event->latency_ns = conn->established_ns ? now - conn->established_ns : 0;
	event_submit(event);
	return 0;
}

#if SIGNALS > 1
/*
 * Whether accepts are taken from sys_exit, where other signals have a program in any case. The loader tells before it attaches anything:
 * only trying shows whether functions can be hooked, and the programs are there by then.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} accepts_by_call SEC(".maps");
#endif

static __always_inline bool takes_accepts_from_calls(void)
{
#if SIGNALS > 1
	__u32 zero = 0, *told = bpf_map_lookup_elem(&accepts_by_call, &zero);

	return told && *told;
#else
	return true;
#endif
}

/* Where the kernel's functions cannot be hooked. */
static __always_inline void tcp_monitor_sys_exit(const struct pt_regs *regs, long ret)
{
	const struct task_struct *task;
	const struct file *file;
	const struct sock *sk;

	if (ret < 0 || !is_accept(regs) || !takes_accepts_from_calls())
		return;
	task = current_task();
	file = file_of(task, ret);
	sk = file ? tcp_sock_of_file(file) : NULL;
	if (sk)
		accepted(sk, task);
}

/* The result is read as a plain number: the verifier takes it for a pointer that is never NULL and would remove the check. */
static __always_inline int accept_returns(const unsigned long long *result)
{
	const struct task_struct *task = current_task();
	const struct sock *sk = NULL;

	bpf_probe_read_kernel(&sk, sizeof(sk), result);
	if (!sk || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	/* io_uring's worker until 5.12, a kernel thread that borrows a process's memory: it does not know for whom it works. */
	if (BPF_CORE_READ(task, flags) & PF_KTHREAD && BPF_CORE_READ(task, mm))
		return 0;
	return accepted(sk, task);
}

SEC("fexit/inet_csk_accept")
int on_accept(unsigned long long *args)
{
	return accept_returns(&args[2]);
}

/* Until 6.10 it had four arguments (92ef0fd55ac8). */
SEC("fexit/inet_csk_accept")
int on_accept_before_6_10(unsigned long long *args)
{
	return accept_returns(&args[4]);
}

static __always_inline void emit_retransmit(const struct conn *conn, const struct flow *flow, const struct sock *sk,
					    __u32 segments)
{
	struct tcp_event *event = event_begin(EVENT_RETRANSMIT, bpf_ktime_get_ns(), conn, flow, 0);

	if (!event)
		return;
	if (sk)
		event_fill(event, sk, BPF_CORE_READ(sk, __sk_common.skc_state));
	else
		event->state = TCP_SYN_RECV;
	event->retransmits = segments;
	event_submit(event);
}

/* Takes the raw arguments: the third is there only on kernels that report failed attempts. */
SEC("tp_btf/tcp_retransmit_skb")
int on_tcp_retransmit_skb(unsigned long long *args)
{
	const struct sock *sk = (const struct sock *)args[0];
	const struct sk_buff *skb = (const struct sk_buff *)args[1];
	const struct tcp_skb_cb *cb;
	struct conn *conn, other;
	struct flow flow;

	if (cfg_retransmit_has_err && (int)((volatile unsigned long long *)args)[2])
		return 0;
	conn = conn_of(sk);
	if (!conn) {
		conn_init(&other);
		conn = &other;
	}
	if (!(conn->flags & CONN_PASSES))
		return 0;
	cb = (const struct tcp_skb_cb *)__builtin_preserve_access_index(&skb->cb);
	flow_of_sock(&flow, sk);
	emit_retransmit(conn, &flow, sk, BPF_CORE_READ(cb, tcp_gso_segs));
	return 0;
}

/* Answers to a SYN that were sent again: there is no connection and no owner yet. */
SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(on_tcp_retransmit_synack, struct sock *listener, struct request_sock *req)
{
	struct conn conn;
	struct flow flow;

	conn_init(&conn);
	conn.direction = DIRECTION_INCOMING;
	flow_of_request(&flow, req);
	emit_retransmit(&conn, &flow, NULL, 1);
	return 0;
}

/* For every segment that an established connection receives. */
SEC("tp_btf/tcp_probe")
int BPF_PROG(on_tcp_probe, struct sock *sk)
{
	struct tcp_event *event;
	struct conn *conn;
	struct flow flow;
	__u64 now, last;

	if (cfg_errors_only[SIGNAL])
		return 0;
	conn = conn_of(sk);
	if (!conn || !(conn->flags & CONN_PASSES))
		return 0;
	now = bpf_ktime_get_ns();
	last = conn->rtt_ns;
	if (!last && !(conn->flags & CONN_OWNED)) /* it may still be accepted */
		last = conn->established_ns;
	if (last && now - last < cfg_rtt_interval_ns)
		return 0;
	if (!BPF_CORE_READ((const struct tcp_sock *)sk, srtt_us)) /* nothing measured yet */
		return 0;
	conn->rtt_ns = now;
	flow_of_sock(&flow, sk);
	event = event_begin(EVENT_RTT, now, conn, &flow, 0);
	if (!event)
		return 0;
	event_fill(event, sk, BPF_CORE_READ(sk, __sk_common.skc_state));
	event_submit(event);
	return 0;
}

static __always_inline void emit_reset(const struct conn *conn, const struct flow *flow, const struct sock *full,
				       __u8 state, __u8 by)
{
	struct tcp_event *event = event_begin(EVENT_RESET, bpf_ktime_get_ns(), conn, flow, 0);

	if (!event)
		return;
	if (full)
		event_fill(event, full, state);
	else
		event->state = state;
	event->reset_by = by;
	event_submit(event);
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(on_tcp_receive_reset, struct sock *sk)
{
	__u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);
	struct conn *conn, other;
	struct flow flow;

	if (state == TCP_SYN_SENT) /* refused: the change of state tells it */
		return 0;
	conn = conn_of(sk);
	if (!conn) {
		conn_init(&other);
		conn = &other;
	}
	if (!(conn->flags & CONN_PASSES))
		return 0;
	flow_of_sock(&flow, sk);
	emit_reset(conn, &flow, sk, state, RESET_BY_PEER);
	return 0;
}

/*
 * Without a packet a socket resets its own connection. With one it is an answer to that packet, and sk may be NULL (6.10),
 * a listener, a request or a time-wait socket, which have only sock_common: then the packet tells who is meant.
 * The arguments are read as plain numbers: from 6.5 until 6.13 said that these may be NULL, the verifier took pointer arguments
 * for never NULL and removed the checks.
 */
SEC("tp_btf/tcp_send_reset")
int on_tcp_send_reset(unsigned long long *args)
{
	const struct sk_buff *skb = NULL;
	const struct sock *sk = NULL;
	struct conn *conn = NULL, other;
	const struct sock *full = NULL;
	__u8 state = TCP_CLOSE;
	struct flow flow;

	bpf_probe_read_kernel(&sk, sizeof(sk), &args[0]);
	bpf_probe_read_kernel(&skb, sizeof(skb), &args[1]);
	if (sk) {
		conn = conn_of(sk);
		state = BPF_CORE_READ(sk, __sk_common.skc_state);
		if (state == TCP_NEW_SYN_RECV)
			state = TCP_SYN_RECV;
		if (conn || !skb)
			full = sk;
	}
	if (!conn) {
		conn_init(&other);
		conn = &other;
	}
	if (!(conn->flags & CONN_PASSES))
		return 0;
	if (full)
		flow_of_sock(&flow, full);
	else if (!skb || !flow_of_packet(&flow, skb))
		return 0;
	if (!flow.netns && sk) /* a listener's packet has let go of its device */
		flow.netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	emit_reset(conn, &flow, full, state, RESET_BY_US);
	return 0;
}

/*
 * Sockets that were open when we attached. Several processes may hold one (fork): the oldest of them is the nearest to
 * who opened it.
 */
static __always_inline void tcp_monitor_task_file(const struct task_struct *task, const struct file *file)
{
	const struct sock *sk;
	struct conn *conn;
	__u64 since;
	__u8 state;

	sk = tcp_sock_of_file(file);
	if (!sk)
		return;
	state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (state == TCP_LISTEN || state == TCP_CLOSE)
		return;
	conn = conn_of(sk);
	if (!conn)
		conn = conn_new(sk, 0, direction_from_sequence(sk, state));
	if (!conn)
		return;
	since = BPF_CORE_READ(task, start_time);
	if (conn->flags & CONN_OWNED && !(conn->flags & CONN_SEEDED && since < conn->owner_since_ns))
		return;
	conn->owner_since_ns = since;
	conn->flags |= CONN_SEEDED;
	conn_learn_owner(conn, task);
}

#if SIGNALS == 1
SEC("tp_btf/sys_exit")
int BPF_PROG(on_sys_exit, struct pt_regs *regs, long ret)
{
	tcp_monitor_sys_exit(regs, ret);
	return 0;
}

SEC("iter/task_file")
int on_task_file(struct bpf_iter__task_file *ctx)
{
	const struct task_struct *task = ctx->task;
	const struct file *file = ctx->file;

	if (task && file)
		tcp_monitor_task_file(task, file);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
#endif
