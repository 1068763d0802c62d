/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who opened a connection that we did not see opening, and the socket behind a file. */
#ifndef KERNO_TCP_DIRECTION_H
#define KERNO_TCP_DIRECTION_H

#include "files.h"
#include "sock.h"

#define DIRECTION_UNKNOWN 0
#define DIRECTION_OUTGOING 1
#define DIRECTION_INCOMING 2

/* What a socket has sent and what of it was acknowledged. */
struct sequence {
	__u64 sent; /* bytes, those sent again included */
	__u64 sent_again;
	__u64 acked;
	__u32 next;
	__u32 unacked; /* the first number that is not acknowledged */
	__u32 end; /* of what the program has given us to send */
};

/*
 * Acknowledged bytes include the SYN of the end that opened, and not the SYN of the other end, whose count begins at the
 * child's birth; and our FIN once it is sent.
 */
static __always_inline __u32 direction_of_sequence(const struct sequence *at, __u8 state)
{
	__u32 in_flight = at->next - at->unacked;
	__u64 not_data = at->acked + in_flight - (at->sent - at->sent_again);

	if (state == TCP_SYN_SENT)
		return DIRECTION_OUTGOING;
	if (state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 || state == TCP_CLOSING || state == TCP_LAST_ACK)
		not_data -= at->next == at->end; /* a FIN is the last thing to be sent */
	else if (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT)
		return DIRECTION_UNKNOWN;
	if (not_data > 1)
		return DIRECTION_UNKNOWN;
	return not_data ? DIRECTION_OUTGOING : DIRECTION_INCOMING;
}

/* Without the socket's lock the answer is that we do not know when the socket was in use meanwhile. */
static __always_inline __u32 direction_from_sequence(const struct sock *sk, __u8 state)
{
	const struct tcp_sock *tcp = (const struct tcp_sock *)sk;
	struct sequence at = {
		.sent = BPF_CORE_READ(tcp, bytes_sent),
		.acked = BPF_CORE_READ(tcp, bytes_acked),
		.next = BPF_CORE_READ(tcp, snd_nxt),
		.unacked = BPF_CORE_READ(tcp, snd_una),
		.sent_again = BPF_CORE_READ(tcp, bytes_retrans),
		.end = BPF_CORE_READ(tcp, write_seq),
	};

	if (state != TCP_SYN_SENT &&
	    (at.sent != BPF_CORE_READ(tcp, bytes_sent) || at.acked != BPF_CORE_READ(tcp, bytes_acked)))
		return DIRECTION_UNKNOWN;
	return direction_of_sequence(&at, state);
}

#define S_IFMT 0170000
#define S_IFSOCK 0140000

/* The TCP socket behind a file, NULL when it is something else. A socket's file cannot be opened by its path. */
static __always_inline const struct sock *tcp_sock_of(const struct socket *socket)
{
	const struct sock *sk = socket ? BPF_CORE_READ(socket, sk) : NULL;

	return sk && BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP ? sk : NULL;
}

static __always_inline const struct sock *tcp_sock_of_file(const struct file *file)
{
	if ((BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return NULL;
	return tcp_sock_of(BPF_CORE_READ(file, private_data));
}

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
} CORE;

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
} CORE;

#endif
