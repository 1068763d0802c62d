/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Descriptors in the control buffers of received messages. */
#ifndef KERNO_FD_MESSAGES_H
#define KERNO_FD_MESSAGES_H

#include "record.h"

#define SOL_SOCKET 1
#define SCM_RIGHTS 1
#define SCM_PIDFD 4 /* Linux 6.5 */

#define MAX_CONTROL_MESSAGES 16

/* A received control buffer, in the shape of the call's table: 64-bit headers have a length of 8 bytes, 32-bit ones of 4. */
__noinline int emit_control(__u64 control, __u64 length, __u32 how, int nr, __u64 other)
{
	const __u32 size = HOW_COMPAT(how) ? 4 : 8;
	const __u32 header = size + 2 * sizeof(int);
	struct {
		int level, type;
	} kind;
	__u64 bytes;

	for (int i = 0; i < MAX_CONTROL_MESSAGES; i++) {
		if (length < header)
			return 0;
		bytes = 0;
		if (bpf_probe_read_user(&bytes, HOW_COMPAT(how) ? 4 : 8, (const void *)control) ||
		    bpf_probe_read_user(&kind, sizeof(kind), (const void *)(control + size)))
			goto unseen;
		if (bytes < header || bytes > length)
			return 0;
		if (kind.level == SOL_SOCKET && kind.type == SCM_RIGHTS)
			emit_stored(control + header, (bytes - header) / sizeof(int), how, nr, other);
		else if (kind.level == SOL_SOCKET && kind.type == SCM_PIDFD)
			emit_stored(control + header, 1, how, nr, other);
		bytes = (bytes + size - 1) & ~(__u64)(size - 1);
		if (bytes >= length)
			return 0;
		control += bytes;
		length -= bytes;
	}
unseen:
	count_untracked();
	return 0;
}

struct native_msghdr {
	__u64 name, name_bytes, vectors, vector_count, control, control_bytes, flags;
};

struct compat_msghdr {
	__u32 name, name_bytes, vectors, vector_count, control, control_bytes, flags;
};

/* What a message that has been received brought with it. */
__noinline int emit_message(__u64 user, __u32 how, int nr, __u64 other)
{
	struct native_msghdr native;
	struct compat_msghdr compat;

	if (HOW_COMPAT(how)) {
		if (bpf_probe_read_user(&compat, sizeof(compat), (const void *)user))
			count_untracked();
		else if (compat.control_bytes)
			emit_control(compat.control, compat.control_bytes, how, nr, other);
		return 0;
	}
	if (bpf_probe_read_user(&native, sizeof(native), (const void *)user))
		count_untracked();
	else if (native.control_bytes)
		emit_control(native.control, native.control_bytes, how, nr, other);
	return 0;
}

/* UIO_MAXIOV: recvmmsg takes no more. */
#define MAX_MESSAGES 1024
#define PART_MESSAGES 32

/* A header is followed by the message's length; the whole is aligned as its widest member. */
static __always_inline __u32 message_stride(__u32 how)
{
	return HOW_COMPAT(how) ? sizeof(struct compat_msghdr) + 4 : sizeof(struct native_msghdr) + 8;
}

__noinline int emit_messages_part(__u64 user, __u32 count, __u32 how, int nr)
{
	for (__u32 i = 0; i < PART_MESSAGES; i++) {
		if (i >= count)
			break;
		emit_message(user + i * message_stride(how), how, nr, 0);
	}
	return 0;
}

static __always_inline void emit_messages(__u64 user, __u32 count, __u32 how, int nr)
{
	for (__u32 from = 0; from < MAX_MESSAGES; from += PART_MESSAGES) {
		if (from >= count)
			break;
		emit_messages_part(user + from * message_stride(how), count - from, how, nr);
	}
}

#endif
