/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The networking types that are read, and who talks to whom: from a socket, a request or a packet. */
#ifndef KERNO_TCP_SOCK_H
#define KERNO_TCP_SOCK_H

#include "kernel.h"
#include <bpf/bpf_endian.h>

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6

/* include/net/tcp_states.h */
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_FIN_WAIT1 4
#define TCP_FIN_WAIT2 5
#define TCP_TIME_WAIT 6
#define TCP_CLOSE 7
#define TCP_CLOSE_WAIT 8
#define TCP_LAST_ACK 9
#define TCP_LISTEN 10
#define TCP_CLOSING 11
#define TCP_NEW_SYN_RECV 12

#define SOCK_DONE 1 /* enum sock_flags: the peer's FIN was received */

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
	unsigned int skc_hash;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr; /* CONFIG_IPV6 */
	struct in6_addr skc_v6_rcv_saddr;
	unsigned long skc_flags;
} CORE;

typedef struct {
	int owned;
} CORE socket_lock_t;

struct sock {
	struct sock_common __sk_common;
	socket_lock_t sk_lock;
	__u16 sk_protocol; /* a whole number since 5.6 */
	int sk_err;
	atomic_t sk_drops; /* of a listener: connections it could not take */
	__u32 sk_ack_backlog; /* of a listener: connections that wait to be accepted */
	__u32 sk_max_ack_backlog;
} CORE;

struct inet_sock {
	__be16 inet_sport;
} CORE;

struct inet_connection_sock {
	__u8 icsk_retransmits; /* of the oldest segment that is not acknowledged, in a row */
	__u8 icsk_probes_out; /* of a closed window or of an idle connection, not answered */
} CORE;

struct minmax_sample {
	__u32 v;
} CORE;

struct minmax {
	struct minmax_sample s[3];
} CORE;

struct tcp_sock {
	__u64 bytes_sent;
	__u64 bytes_retrans;
	__u64 bytes_received;
	__u64 bytes_acked;
	__u32 snd_una;
	__u32 snd_nxt;
	__u32 write_seq; /* the end of what the program has given us to send */
	__u32 data_segs_out; /* with payload, those sent again included */
	struct minmax rtt_min; /* of the last minutes, in microseconds; all ones before the first measurement */
	__u32 srtt_us; /* eight times the smoothed round trip */
	__u32 total_retrans;
	__u32 retrans_stamp; /* when what had to be sent again was sent before, in milliseconds; 0 when all has arrived */
	__u32 rcv_tstamp; /* when an acknowledgement came last, in jiffies */
	__u32 lsndtime; /* when data was sent last, also again, in jiffies */
	__u32 mss_cache; /* the most data of a segment, in bytes */
	__u32 packets_out; /* segments that are not acknowledged */
	__u32 sacked_out; /* of these, segments that have arrived behind a gap */
	__u32 delivered; /* segments that have arrived */
	__u32 dsack_dups; /* segments that the other end told us it got twice */
} CORE;

struct request_sock {
	struct sock_common __req_common;
} CORE;

struct socket {
	struct sock *sk;
} CORE;

struct net_device {
	possible_net_t nd_net;
} CORE;

struct sk_buff {
	struct net_device *dev;
	unsigned char *head;
	__u16 network_header;
	__u16 transport_header;
	char cb[48];
} CORE;

struct tcp_skb_cb {
	__u16 tcp_gso_segs;
} CORE;

/* The two ends of a connection. IPv4 addresses, mapped ones included, take the first four bytes. */
struct flow {
	__u8 src_addr[16]; /* ours */
	__u8 dst_addr[16];
	__u32 netns; /* inode */
	__u16 src_port; /* host byte order */
	__u16 dst_port;
	__u32 family;
};

static __always_inline bool is_mapped_v4(const __u8 *addr)
{
	const __u32 *words = (const __u32 *)addr;

	return !words[0] && !words[1] && words[2] == bpf_htonl(0xffff);
}

/* A v6 socket that talks IPv4 has mapped addresses: the IPv4 ones are their last four bytes. */
static __always_inline void unmap_v4(struct flow *flow)
{
	__u32 *src = (__u32 *)flow->src_addr, *dst = (__u32 *)flow->dst_addr;

	if (!is_mapped_v4(flow->dst_addr))
		return;
	flow->family = AF_INET;
	src[0] = src[3];
	dst[0] = dst[3];
	src[1] = src[2] = src[3] = 0;
	dst[1] = dst[2] = dst[3] = 0;
}

/* From what full sockets and requests have in common; the local port is the caller's. */
static __always_inline void flow_of_common(struct flow *flow, const struct sock_common *common)
{
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->family = BPF_CORE_READ(common, skc_family);
	flow->netns = BPF_CORE_READ(common, skc_net.net, ns.inum);
	flow->dst_port = bpf_ntohs(BPF_CORE_READ(common, skc_dport));
	if (flow->family == AF_INET6 && bpf_core_field_exists(common->skc_v6_daddr)) {
		bpf_core_read(flow->src_addr, 16, &common->skc_v6_rcv_saddr);
		bpf_core_read(flow->dst_addr, 16, &common->skc_v6_daddr);
		unmap_v4(flow);
	} else {
		bpf_core_read(flow->src_addr, 4, &common->skc_rcv_saddr);
		bpf_core_read(flow->dst_addr, 4, &common->skc_daddr);
	}
}

/* The port is inet_sport: skc_num is 0 again by the time a socket reaches CLOSE. */
static __always_inline void flow_of_sock(struct flow *flow, const struct sock *sk)
{
	flow_of_common(flow, (const struct sock_common *)sk);
	flow->src_port = bpf_ntohs(BPF_CORE_READ((const struct inet_sock *)sk, inet_sport));
}

static __always_inline void flow_of_request(struct flow *flow, const struct request_sock *req)
{
	flow_of_common(flow, &req->__req_common);
	flow->src_port = BPF_CORE_READ(req, __req_common.skc_num);
}

/* From a packet that came in: its destination is the local end. False when it is neither IPv4 nor IPv6. */
static __always_inline bool flow_of_packet(struct flow *flow, const struct sk_buff *skb)
{
	const unsigned char *head = BPF_CORE_READ(skb, head);
	const unsigned char *ip = head + BPF_CORE_READ(skb, network_header);
	const unsigned char *tcp = head + BPF_CORE_READ(skb, transport_header);
	__be16 ports[2] = {};
	__u8 version = 0;

	__builtin_memset(flow, 0, sizeof(*flow));
	bpf_probe_read_kernel(&version, 1, ip);
	if (version >> 4 == 4) {
		flow->family = AF_INET;
		bpf_probe_read_kernel(flow->dst_addr, 4, ip + 12);
		bpf_probe_read_kernel(flow->src_addr, 4, ip + 16);
	} else if (version >> 4 == 6) {
		flow->family = AF_INET6;
		bpf_probe_read_kernel(flow->dst_addr, 16, ip + 8);
		bpf_probe_read_kernel(flow->src_addr, 16, ip + 24);
	} else {
		return false;
	}
	bpf_probe_read_kernel(ports, sizeof(ports), tcp);
	flow->dst_port = bpf_ntohs(ports[0]);
	flow->src_port = bpf_ntohs(ports[1]);
	flow->netns = BPF_CORE_READ(skb, dev, nd_net.net, ns.inum);
	return true;
}

#endif
