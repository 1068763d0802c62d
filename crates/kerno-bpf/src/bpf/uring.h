/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Requests of io_uring as their completion finds them, on kernels that have struct io_cmd_data (6.0). */
#ifndef KERNO_URING_H
#define KERNO_URING_H

#include "kernel.h"

/* linux/io_uring.h */
#define IORING_OP_OPENAT 18
#define IORING_OP_OPENAT2 28

struct io_uring_task {
	struct task_struct *task;
} CORE;

struct io_cqe {
	__u64 user_data;
	__s32 res;
} CORE;

struct io_cmd_data {
	struct file *file;
} CORE;

struct io_rsrc_node {
	unsigned long file_ptr; /* 6.13; flags in the lowest bits */
} CORE;

struct io_rsrc_data {
	struct io_rsrc_node **nodes; /* 6.13 */
	unsigned int nr;
} CORE;

struct io_file_table {
	struct io_rsrc_data data;
} CORE;

struct io_ring_ctx {
	unsigned int compat : 1; /* still in 6.18 */
	unsigned int int_flags; /* in 7.3 */
	struct io_file_table file_table;
} CORE;

struct io_kiocb {
	struct io_cmd_data cmd; /* 6.0: each operation lays a struct of its own over it */
	__u8 opcode;
	struct io_cqe cqe; /* 5.19 */
	struct io_ring_ctx *ctx;
	struct io_uring_task *tctx; /* 6.13, with the task in it */
	struct task_struct *task; /* before */
} CORE;

struct open_how___kernel {
	__u64 flags;
	__u64 mode;
} CORE;

/* What a request to open is about, laid over its beginning (6.0). */
struct io_open {
	__u32 file_slot; /* a place in the ring's own table */
	struct open_how___kernel how;
} CORE;

/* The task that submitted the request: a worker or the ring's poller may complete it. */
static __always_inline const struct task_struct *uring_submitter(const struct io_kiocb *request)
{
	if (bpf_core_field_exists(request->task))
		return BPF_CORE_READ(request, task);
	return BPF_CORE_READ(request, tctx, task);
}

#endif
