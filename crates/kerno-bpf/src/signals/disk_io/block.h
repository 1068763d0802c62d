/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The block layer's types, as far as they are read, and its numbers. */
#ifndef KERNO_BLOCK_H
#define KERNO_BLOCK_H

#include "kernel.h"

#define EEXIST 17

struct gendisk {
	int major;
	int first_minor;
} CORE;

struct request_queue {
	struct gendisk *disk; /* 5.15 (d152c682f03c) */
} CORE;

struct list_head {
	struct list_head *next;
} CORE;

struct blk_flush_queue {
	unsigned int flush_running_idx : 1;
	struct list_head flush_queue[2];
} CORE;

struct blk_mq_hw_ctx {
	struct blk_flush_queue *fq;
} CORE;

struct bio {
	unsigned int bi_opf;
	unsigned int __bi_nr_segments; /* 6.10 */
} CORE;

struct request {
	struct request_queue *q;
	struct blk_mq_hw_ctx *mq_hctx;
	unsigned int cmd_flags;
	unsigned int rq_flags;
	unsigned int __data_len;
	unsigned long long __sector;
	unsigned long long start_time_ns; /* when it was made; 0 where nobody asked for times (queue/iostats) */
	struct bio *biotail;
	struct list_head queuelist;
} CORE;

struct request___rq_disk {
	struct gendisk *rq_disk; /* before 5.17 (f3fa33acca9f) */
} CORE;

struct request___flush_list {
	struct {
		struct list_head list; /* until the queue of flushes moved to queuelist in 6.9 */
	} flush;
} CORE;

/* The bits have stood where they are since 4.10; the numbers here serve kernels whose BTF has no such enumerator. */
enum req_flag_bits {
	__REQ_SYNC = 11,
	__REQ_META = 12,
	__REQ_FUA = 17,
	__REQ_PREFLUSH = 18,
	__REQ_RAHEAD = 19,
};

/* enum req_op (req_opf before 6.0); these have not changed since 4.8. */
#define REQ_OP_MASK 0xff
#define REQ_OP_READ 0
#define REQ_OP_WRITE 1
#define REQ_OP_FLUSH 2
#define REQ_OP_DISCARD 3

/*
 * block_rq_complete gives a blk_status_t since 5.16 and a negative errno before. The statuses from 14 on moved down by one
 * in 6.10, when the zone write plugs came and BLK_STS_ZONE_RESOURCE went; errnos as in blk_status_to_errno().
 */
static __always_inline __u32 errno_of(int error)
{
	if (error <= 0)
		return -error;
	if (error > 14 && !bpf_core_field_exists(((struct bio *)0)->__bi_nr_segments))
		error--;
	switch (error) {
	case 1: /* NOTSUPP */
		return 95;
	case 2: /* TIMEOUT */
		return 110;
	case 3: /* NOSPC */
		return 28;
	case 4: /* TRANSPORT: ENOLINK */
		return 67;
	case 5: /* TARGET: EREMOTEIO */
		return 121;
	case 6: /* RESV_CONFLICT: EBADE */
		return 52;
	case 7: /* MEDIUM: ENODATA */
		return 61;
	case 8: /* PROTECTION: EILSEQ */
		return 84;
	case 9: /* RESOURCE: ENOMEM */
		return 12;
	case 11: /* DM_REQUEUE: EREMCHG */
		return 78;
	case 12: /* AGAIN */
		return 11;
	case 13: /* DEV_RESOURCE: EBUSY */
		return 16;
	case 14: /* ZONE_OPEN_RESOURCE: ETOOMANYREFS */
		return 109;
	case 15: /* ZONE_ACTIVE_RESOURCE: EOVERFLOW */
		return 75;
	case 16: /* OFFLINE: ENODEV */
		return 19;
	case 17: /* DURATION_LIMIT: ETIME */
		return 62;
	case 19: /* INVAL */
		return 22;
	default: /* IOERR, and what is newer than this table: EIO */
		return 5;
	}
}

#endif
