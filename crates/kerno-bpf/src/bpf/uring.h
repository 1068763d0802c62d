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

struct io_ring_ctx;

struct io_kiocb {
	struct io_cmd_data cmd; /* 6.0: each operation lays a struct of its own over it */
	__u8 opcode;
	struct io_cqe cqe; /* 5.19 */
	struct io_ring_ctx *ctx;
	struct io_uring_task *tctx; /* 6.13, with the task in it */
	struct task_struct *task; /* before */
} CORE;

/* The task that submitted the request: a worker or the ring's poller may complete it. */
static __always_inline const struct task_struct *uring_submitter(const struct io_kiocb *request)
{
	if (bpf_core_field_exists(request->task))
		return BPF_CORE_READ(request, task);
	return BPF_CORE_READ(request, tctx, task);
}

#endif
