/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What requests of io_uring did to the table of the process that submitted them. */
#ifndef KERNO_FD_REQUESTS_H
#define KERNO_FD_REQUESTS_H

#include "uring.h"
#include "messages.h"

const volatile __u8 cfg_io_uring = 1;
const volatile __u32 cfg_ring_compat = 0; /* IO_RING_F_COMPAT of int_flags, an enum without a name */

/* linux/io_uring.h */
#define IORING_OP_RECVMSG 10
#define IORING_OP_ACCEPT 13
#define IORING_OP_CLOSE 19
#define IORING_OP_SOCKET 45
#define IORING_OP_FIXED_FD_INSTALL 54
#define IORING_OP_PIPE 62
#define IORING_ACCEPT_MULTISHOT 1

struct io_uring_cqe {
	__u64 user_data;
	__s32 res;
} CORE;

/* What a request is about lies at its beginning (since 6.0), as in struct io_open. */
struct io_accept {
	int iou_flags; /* since 6.3 */
	__u32 file_slot;
} CORE;

struct io_socket {
	__u32 file_slot;
} CORE;

struct io_close {
	int fd;
	__u32 file_slot;
} CORE;

struct io_pipe {
	int *fds;
	int file_slot;
} CORE;

struct io_sr_msg {
	void *umsg; /* in an anonymous union */
} CORE;

/* Requests that accept again and again: all but their last completion do not say which request they are of. */
struct accepting {
	__u64 ring;
	__u64 user_data;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1); /* the loader sets it */
	__type(key, struct accepting);
	__type(value, __u8);
} accepting SEC(".maps");

/* A request that accepted again and again ends. */
static __always_inline void accepted_last(const struct io_kiocb *request)
{
	struct accepting key = {};

	key.ring = (__u64)BPF_CORE_READ(request, ctx);
	key.user_data = BPF_CORE_READ(request, cqe.user_data);
	bpf_map_delete_elem(&accepting, &key);
}

static __always_inline bool of_compat_ring(const struct io_kiocb *request)
{
	const struct io_ring_ctx *ctx = BPF_CORE_READ(request, ctx);

	if (bpf_core_field_exists(ctx->compat))
		return BPF_CORE_READ_BITFIELD_PROBED(ctx, compat);
	return bpf_core_field_exists(ctx->int_flags) && BPF_CORE_READ(ctx, int_flags) & cfg_ring_compat;
}

static __always_inline void request_completed(const struct io_kiocb *request, int result)
{
	const struct task_struct *task;
	__u32 opcode, slot = 0;
	bool close, same_memory;
	__u64 other;
	__u32 how;
	int fd = result;

	opcode = BPF_CORE_READ(request, opcode);
	if (opcode == IORING_OP_ACCEPT)
		accepted_last(request);
	close = opcode == IORING_OP_CLOSE;
	if (close ? result == -EBADF : result < 0)
		return;
	switch (opcode) {
	case IORING_OP_OPENAT:
	case IORING_OP_OPENAT2:
		slot = BPF_CORE_READ((const struct io_open *)request, file_slot);
		break;
	case IORING_OP_ACCEPT:
		slot = BPF_CORE_READ((const struct io_accept *)request, file_slot);
		break;
	case IORING_OP_CLOSE:
		slot = BPF_CORE_READ((const struct io_close *)request, file_slot);
		fd = BPF_CORE_READ((const struct io_close *)request, fd);
		break;
	case IORING_OP_SOCKET:
		if (bpf_core_type_exists(struct io_socket))
			slot = BPF_CORE_READ((const struct io_socket *)request, file_slot);
		break;
	case IORING_OP_PIPE:
		if (bpf_core_type_exists(struct io_pipe))
			slot = BPF_CORE_READ((const struct io_pipe *)request, file_slot);
		break;
	case IORING_OP_FIXED_FD_INSTALL:
	case IORING_OP_RECVMSG:
		break;
	default:
		return;
	}
	if (slot)
		return;
	task = uring_submitter(request);
	if (!task || !task_passes(task, BPF_CORE_READ(task, tgid)))
		return;
	other = (__u64)task;
	how = HOW(close ? OP_CLOSE : OP_OPEN, SOURCE_IO_URING, 0);
	if (opcode != IORING_OP_PIPE && opcode != IORING_OP_RECVMSG) {
		emit_fd(fd, how, -1, other);
		return;
	}
	/* These store the descriptors in the submitter's memory, which must be ours now. */
	same_memory = BPF_CORE_READ(task, tgid) == (int)(bpf_get_current_pid_tgid() >> 32);
	/* And a 32-bit program's message has another layout. */
	if (!same_memory || (opcode == IORING_OP_RECVMSG && of_compat_ring(request)))
		count_untracked();
	else if (opcode == IORING_OP_RECVMSG)
		emit_message((__u64)BPF_CORE_READ((const struct io_sr_msg *)request, umsg), how, -1, other);
	else if (bpf_core_type_exists(struct io_pipe))
		emit_stored((__u64)BPF_CORE_READ((const struct io_pipe *)request, fds), 2, how, -1, other);
}

/* One more connection of a request that goes on accepting. It is posted by the submitter itself. */
static __always_inline void completed_without_request(void *ring, __u64 user_data, int result)
{
	struct accepting key = { .ring = (__u64)ring, .user_data = user_data };
	struct table table;

	if (result < 0 || !bpf_map_lookup_elem(&accepting, &key) || !current_passes(bpf_get_current_pid_tgid()))
		return;
	/* The number could be a dead ring's, given again. */
	if (table_of(&table, current_task()) && table_has(&table, result))
		emit_fd(result, HOW(OP_OPEN, SOURCE_IO_URING, 0), -1, 0);
}

static __always_inline void fd_track_io_uring_complete(void *ring, const struct io_kiocb *request,
						      const struct io_uring_cqe *entry)
{
	if (!cfg_io_uring)
		return;
	if (request)
		request_completed(request, BPF_CORE_READ(entry, res));
	else
		completed_without_request(ring, BPF_CORE_READ(entry, user_data), BPF_CORE_READ(entry, res));
}

/* Older kernels hand over the completion in pieces (told by the number of arguments). */
static __always_inline void fd_track_io_uring_complete_in_pieces(void *ring, const struct io_kiocb *request, __u64 user_data,
								 int result)
{
	if (!cfg_io_uring)
		return;
	if (request)
		request_completed(request, result);
	else
		completed_without_request(ring, user_data, result);
}

/* Linux 6.4 (2ad57931db64); before, another tracepoint with more arguments was there. */
SEC("tp_btf/io_uring_submit_req")
int BPF_PROG(on_io_uring_submit_req, struct io_kiocb *request)
{
	const struct io_accept *accept = (const void *)request;
	struct accepting key = {};
	__u8 one = 1;

	if (!cfg_io_uring || BPF_CORE_READ(request, opcode) != IORING_OP_ACCEPT)
		return 0;
	if (!bpf_core_field_exists(accept->iou_flags) || BPF_CORE_READ(accept, file_slot) ||
	    !(BPF_CORE_READ(accept, iou_flags) & IORING_ACCEPT_MULTISHOT))
		return 0;
	key.ring = (__u64)BPF_CORE_READ(request, ctx);
	key.user_data = BPF_CORE_READ(request, cqe.user_data);
	bpf_map_update_elem(&accepting, &key, &one, BPF_ANY);
	return 0;
}

#endif
