/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections on which nothing moves although there is something to send: what was sent is not acknowledged however often it is sent
 * again, or the other end has no room for more. The walk over all sockets looks at two fields of each; only these few cost more.
 */
#ifndef KERNO_TCP_STUCK_H
#define KERNO_TCP_STUCK_H

#include "kernel.h"
#include "counters.h"
#include "sock.h"

#define MAX_STUCK 1024
#define STUCK_RETRANSMITS 2 /* one is an ordinary loss */

struct stuck_key {
	__u64 sock; /* its address */
	__u32 window; /* the number of the window whose walk met it */
	__u32 pad0;
};
_Static_assert(sizeof(struct stuck_key) == 16, "struct stuck_key changed size");
const volatile struct stuck_key *const volatile layout_of_stuck_key SEC(".rodata") = NULL;

struct stuck_value {
	__u64 acked_bytes; /* since the connection began, the SYN counts as one */
	__u64 at_ns; /* when it was met */
	__u32 outstanding_ms; /* since the oldest segment on its way was sent, or probed for; 0: not known */
	__u32 unsent_jiffies; /* since data was sent last, also again */
	__u32 unacked_bytes;
	__u32 unsent_bytes; /* that the program has handed over */
	__u32 unacked_segments;
	__u32 sacked_segments; /* of these, those that have arrived */
	__u32 delivered_segments; /* since the connection began */
	__u32 mss_bytes;
	__u8 retransmits; /* in a row, of the oldest segment */
	__u8 probes; /* in a row, without an answer */
	__u8 pad0[6];
};
_Static_assert(sizeof(struct stuck_value) == 56, "struct stuck_value changed size");
const volatile struct stuck_value *const volatile layout_of_stuck_value SEC(".rodata") = NULL;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_STUCK);
	__type(key, struct stuck_key);
	__type(value, struct stuck_value);
} stuck SEC(".maps");

static __always_inline void look_whether_stuck(const struct tcp_sock *tcp, __u64 sock, __u32 window)
{
	const struct inet_connection_sock *icsk = (const struct inet_connection_sock *)tcp;
	__u32 unsent = tcp->write_seq - tcp->snd_nxt, stamp;
	struct stuck_value value;
	struct stuck_key key;

	/* With nothing on its way, only the window holds back what is to be sent: zero, or less than is worth a segment. */
	if (icsk->icsk_retransmits < STUCK_RETRANSMITS && !(unsent && !tcp->packets_out))
		return;
	__builtin_memset(&key, 0, sizeof(key));
	__builtin_memset(&value, 0, sizeof(value));
	key.sock = sock;
	key.window = window;
	stamp = tcp->retrans_stamp;
	value.at_ns = bpf_ktime_get_ns();
	if (stamp)
		value.outstanding_ms = (__u32)(value.at_ns / 1000000) - stamp;
	value.acked_bytes = tcp->bytes_acked;
	value.unsent_jiffies = (__u32)bpf_jiffies64() - tcp->lsndtime;
	value.unacked_bytes = tcp->snd_nxt - tcp->snd_una;
	value.unsent_bytes = unsent;
	value.unacked_segments = tcp->packets_out;
	value.sacked_segments = tcp->sacked_out;
	value.delivered_segments = tcp->delivered;
	value.mss_bytes = tcp->mss_cache;
	value.retransmits = icsk->icsk_retransmits;
	value.probes = icsk->icsk_probes_out;
	if (bpf_map_update_elem(&stuck, &key, &value, BPF_ANY))
		count_overflow();
}

#endif
