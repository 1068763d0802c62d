/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Each request from its start to its last completion, by its address: the hooks themselves, for both planes. Who includes this
 * says in request_done() what becomes of a request that is done, and by ONLY_PROCESSES that it asks for neither threads nor cgroups.
 */
#ifndef KERNO_REQUESTS_H
#define KERNO_REQUESTS_H

#include "kernel.h"
#include "event.h"
#include "filter.h"
#include "counters.h"
#include "in_flight.h"
#include "block.h"

/* Requests between start and completion, on all disks together, in sets of eight: 1.7 MiB. */
#define REQUESTS_BITS 11

/* Requests that one flush can serve and that are looked at for one we know. */
#define MAX_FLUSH_ASKERS 32

/* Flush askers remembered before Linux 6.5. */
#define MAX_ASKING_BIOS 256

#define MAX_FILTER_DEVICES 16

#define MINORBITS 20

/* op of the record */
#define OP_READ 1
#define OP_WRITE 2
#define OP_FLUSH 3
#define OP_DISCARD 4
#define OP_OTHER 5

/* flags of the record */
#define FLAG_SYNC 1
#define FLAG_META 2
#define FLAG_FUA 4
#define FLAG_PREFLUSH 8
#define FLAG_READAHEAD 16

/* 6.5 (5a80bd075f3b): block_io_start tells of every request in the submitter's context. */
const volatile __u8 cfg_has_io_start = 1;
/* Waits begin when the kernel says the request was made, and not at an insertion, whose hook is one more for each request. */
const volatile __u8 cfg_waits_since_made = 0;
const volatile __u32 cfg_flush_seq_bit = 4; /* of RQF_FLUSH_SEQ: a macro until 6.10, then bit 1 of an enum without a name */
const volatile __u32 cfg_device_count = 0;
const volatile __u32 cfg_devices[MAX_FILTER_DEVICES] = {};

/* Summaries tell of processes; the way to the cgroup's number is four loads that nothing has brought into the cache. */
struct submitter {
#ifndef ONLY_PROCESSES
	__u64 cgroup_id;
	__u32 tid;
#endif
	__u32 pid;
	char comm[TASK_COMM_LEN] __attribute__((aligned(8)));
};

struct pending {
	struct submitter submitter;
	__u64 made_ns; /* the kernel's own time of it, which tells it from a later one at its address; 0: not looked at yet */
	__u64 inserted_ns; /* 0: never waited */
	__u64 issued_ns; /* 0: not with the device */
	__u64 sector;
	__u32 nr_bytes;
	__u32 dev;
	__u32 error; /* of the parts completed so far */
	__u8 op_code;
	__u8 flags;
	__u8 requeued;
	__u8 part_done; /* part of it was completed: sector and length in the request are the rest's */
	__u8 reported; /* kept for the flush that follows its data */
	__u8 refused; /* by the filters on its submitter; before 6.5 only */
	__u8 pad[6];
};

IN_FLIGHT(requests, struct pending, REQUESTS_BITS)

/*
 * Before 6.5 an empty flush meets no hook as a request, and a write that a flush has to follow (FUA, where the device has none)
 * meets its first one in a worker: their submitters are remembered by their bios.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_ASKING_BIOS);
	__type(key, __u64);
	__type(value, struct submitter);
} asking_bios SEC(".maps");

static __noinline void forget_stale(const struct request *rq)
{
	count_untracked();
	requests_leave(requests_place(rq));
}

static __always_inline struct pending *pending_in(struct requests_place place, const struct request *rq)
{
	struct pending *pending = requests_at(place);

	/*
	 * An earlier request's, whose completion was never seen, nor the start of this one: the kernel can skip both (docs/decisions/
	 * preempted-programs.md). The time stands after block_io_start at the latest, and a merge makes it that of the older request:
	 * later it is in another request only.
	 */
	if (!pending || !cfg_skips_runs)
		return pending;
	if (!pending->made_ns) {
		pending->made_ns = rq->start_time_ns;
	} else if (rq->start_time_ns > pending->made_ns) {
		forget_stale(rq);
		return NULL;
	}
	return pending;
}

static __always_inline struct pending *pending_of(const struct request *rq)
{
	return pending_in(requests_place(rq), rq);
}

/* NULL for the requests of a queue that belongs to no disk (controllers' own commands, tapes). */
static __always_inline const struct gendisk *disk_of(const struct request *rq)
{
	const struct request___rq_disk *old = (const void *)rq;

	if (bpf_core_field_exists(old->rq_disk))
		return old->rq_disk;
	return rq->q->disk;
}

static __always_inline bool device_passes(__u32 dev)
{
	return !cfg_device_count || listed_u32(cfg_devices, cfg_device_count, MAX_FILTER_DEVICES, dev);
}

#define FLAG_BIT(cmd_flags, bit)                                                                                       \
	((cmd_flags) >> (bpf_core_enum_value_exists(enum req_flag_bits, bit)                                           \
				 ? bpf_core_enum_value(enum req_flag_bits, bit)                                        \
				 : bit) &                                                                              \
	 1)

static __always_inline __u8 record_flags(__u32 cmd_flags)
{
	__u8 flags = 0;

	if (FLAG_BIT(cmd_flags, __REQ_SYNC))
		flags |= FLAG_SYNC;
	if (FLAG_BIT(cmd_flags, __REQ_META))
		flags |= FLAG_META;
	if (FLAG_BIT(cmd_flags, __REQ_FUA))
		flags |= FLAG_FUA;
	if (FLAG_BIT(cmd_flags, __REQ_PREFLUSH))
		flags |= FLAG_PREFLUSH;
	if (FLAG_BIT(cmd_flags, __REQ_RAHEAD))
		flags |= FLAG_READAHEAD;
	return flags;
}

/* Summaries ask for no more than whether a flush has to precede it. */
static __always_inline __u8 kept_flags(__u32 cmd_flags)
{
#ifdef ONLY_PROCESSES
	return FLAG_BIT(cmd_flags, __REQ_PREFLUSH) * FLAG_PREFLUSH;
#else
	return record_flags(cmd_flags);
#endif
}

static __always_inline bool in_flush_sequence(const struct request *rq)
{
	return rq->rq_flags >> (cfg_flush_seq_bit & 31) & 1;
}

/* The kernel's own numbers of the first four, and one more. */
_Static_assert(OP_READ == REQ_OP_READ + 1 && OP_WRITE == REQ_OP_WRITE + 1 && OP_FLUSH == REQ_OP_FLUSH + 1 &&
		       OP_DISCARD == REQ_OP_DISCARD + 1,
	       "record_op() adds one");

static __always_inline __u8 record_op(__u8 op_code)
{
	return op_code <= REQ_OP_DISCARD ? op_code + 1 : OP_OTHER;
}

static __always_inline void current_submitter(struct submitter *submitter)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();

#ifndef ONLY_PROCESSES
	submitter->cgroup_id = bpf_get_current_cgroup_id();
	submitter->tid = pid_tgid;
#endif
	submitter->pid = pid_tgid >> 32;
	bpf_get_current_comm(submitter->comm, sizeof(submitter->comm));
}

/* The same from the task itself, without a call. */
static __always_inline void submitting_task(struct submitter *submitter, const struct task_struct *task)
{
#ifndef ONLY_PROCESSES
	submitter->cgroup_id = task->cgroups->dfl_cgrp->kn->id;
	submitter->tid = task->pid;
#endif
	submitter->pid = task->tgid;
	comm_of(submitter->comm, task);
}

/* Before 6.5: who submitted the bio, if that was remembered. */
static __always_inline const struct submitter *asked_by(const struct bio *bio)
{
	__u64 key = (__u64)bio;

	/* Without these flags the bio was not remembered, but another one at this address may have been. */
	if (!bio || !(record_flags(BPF_CORE_READ(bio, bi_opf)) & (FLAG_PREFLUSH | FLAG_FUA)))
		return NULL;
	return bpf_map_lookup_elem(&asking_bios, &key);
}

/* The first sight of a request: what is known only now is kept, until its completion. */
static __always_inline struct pending *remember_by(const struct request *rq, const struct submitter *submitter)
{
	const struct gendisk *disk = disk_of(rq);
	const struct task_struct *task = NULL;
	const struct bio *bio = NULL;
	struct pending *pending;
	bool refused = false;
	__u64 pid_tgid;
	__u32 dev;

	if (!disk)
		return NULL;
	dev = (__u32)disk->major << MINORBITS | disk->first_minor;
	if (!device_passes(dev))
		return NULL;
	if (!submitter && !cfg_has_io_start)
		submitter = asked_by(rq->biotail);
	if (!submitter) {
		if (LOOKS_INTO_TASK) {
			task = bpf_get_current_task_btf();
			pid_tgid = (__u64)(__u32)task->tgid << 32 | (__u32)task->pid;
		} else {
			pid_tgid = bpf_get_current_pid_tgid();
		}
		refused = !current_passes(pid_tgid);
		/* Before 6.5 noted, or the worker that hands it to the device would be taken for its submitter. */
		if (refused && cfg_has_io_start)
			return NULL;
	}
	pending = pending_of(rq);
	/* Its completion was never seen: an event that was never made. */
	if (pending && pending->issued_ns && !pending->reported && !pending->refused)
		count_untracked();
	if (!pending)
		pending = requests_add(rq);
	if (!pending) {
		count_untracked();
		return NULL;
	}
	__builtin_memset(pending, 0, sizeof(*pending));
	if (submitter)
		pending->submitter = *submitter;
	else if (task && !refused)
		submitting_task(&pending->submitter, task);
	else if (!refused)
		current_submitter(&pending->submitter);
	pending->dev = dev;
	pending->refused = refused;
	pending->op_code = rq->cmd_flags & REQ_OP_MASK;
	/* Now rather than later: the flush machinery takes PREFLUSH and FUA off the request once it has seen to them. */
	pending->flags = kept_flags(rq->cmd_flags);
	if (!cfg_has_io_start) {
		bio = rq->biotail;
		if (bio)
			pending->flags |= kept_flags(BPF_CORE_READ(bio, bi_opf));
	}
	return pending;
}

/*
 * Read without helper calls, in functions of their own at that: before 6.4 such a program's main function must not fault (0108a4e9f358),
 * but these may. Two of them, and not one to which NULL is handed: with one call for both, verifiers of 5.10 to 6.12 at least now and then
 * take what they found out about the pointer for true of NULL, and do away with the comparison that tells them apart.
 */
static __noinline struct pending *remember(const struct request *rq)
{
	return remember_by(rq, NULL);
}

static __noinline struct pending *remember_for(const struct request *rq, const struct submitter *submitter)
{
	return submitter ? remember_by(rq, submitter) : NULL;
}

SEC("tp_btf/block_io_start")
int BPF_PROG(on_block_io_start, struct request *rq)
{
	remember(rq);
	return 0;
}

static __always_inline int getrq(const struct bio *bio)
{
	struct submitter submitter = {};
	__u64 key = (__u64)bio;
	__u32 flags = record_flags(bio->bi_opf);

	if (!(flags & (FLAG_PREFLUSH | FLAG_FUA)))
		return 0;
	if (!current_passes(bpf_get_current_pid_tgid())) {
		/* Another's, who had a bio at this address before. */
		bpf_map_delete_elem(&asking_bios, &key);
		return 0;
	}
	current_submitter(&submitter);
	bpf_map_update_elem(&asking_bios, &key, &submitter, BPF_ANY);
	return 0;
}

SEC("tp_btf/block_getrq")
int BPF_PROG(on_block_getrq, struct bio *bio)
{
	return getrq(bio);
}

SEC("tp_btf/block_getrq")
int BPF_PROG(on_block_getrq_q, struct request_queue *q, struct bio *bio)
{
	return getrq(bio);
}

static __always_inline int insert(struct request *rq)
{
	struct pending *pending = pending_of(rq);

	if (!cfg_has_io_start && (!pending || (pending->issued_ns && !pending->reported)))
		pending = remember(rq);
	/* Waiting since it was first inserted, whatever sends it back there. */
	if (!cfg_waits_since_made && pending && !pending->inserted_ns)
		pending->inserted_ns = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/block_rq_insert")
int BPF_PROG(on_block_rq_insert, struct request *rq)
{
	return insert(rq);
}

/* Older kernels give the queue first: disk_io/loader.rs. */
SEC("tp_btf/block_rq_insert")
int BPF_PROG(on_block_rq_insert_q, struct request_queue *q, struct request *rq)
{
	return insert(rq);
}

/* The requests that wait for the flush that is now running stand in a list of the flush queue, the oldest first. */
static __always_inline struct list_head *flush_askers(const struct request *rq)
{
	struct blk_flush_queue *fq = BPF_CORE_READ(rq, mq_hctx, fq);

	if (!fq)
		return NULL;
	return BPF_CORE_READ_BITFIELD_PROBED(fq, flush_running_idx) ? &fq->flush_queue[1] : &fq->flush_queue[0];
}

static __always_inline __u32 flush_list_offset(void)
{
	if (bpf_core_field_exists(((struct request___flush_list *)0)->flush.list))
		return bpf_core_field_offset(((struct request___flush_list *)0)->flush.list);
	return bpf_core_field_offset(((struct request *)0)->queuelist);
}

/*
 * Where a request is, as the number of its set and place, and -1 for one that is not known. Not inlined and not static: the verifier looks at it
 * once, and not in each turn of a loop.
 */
__noinline int request_at(__u64 address)
{
	__u64 number = in_flight_number_at(address);
	__u32 index = requests_index(number);
	struct requests_set *set = bpf_map_lookup_elem(&requests, &index);
	__u32 way = set ? in_flight_find(&set->ways, number) : IN_FLIGHT_WAYS;

	return way < IN_FLIGHT_WAYS ? (int)(index * IN_FLIGHT_WAYS + way) : -1;
}

static __always_inline struct pending *pending_at(__u64 address)
{
	int at = request_at(address);
	__u32 index = (__u32)at / IN_FLIGHT_WAYS;
	struct requests_set *set;

	if (at < 0)
		return NULL;
	set = bpf_map_lookup_elem(&requests, &index);
	return set ? &set->values[at % IN_FLIGHT_WAYS] : NULL;
}

/*
 * The kernel's own flush request: it serves whoever called fsync or wrote with FUA, and runs in a worker. It belongs to
 * the first of those that passed the filters, so that each flush is one event.
 */
static __always_inline struct pending *remember_flush(const struct request *rq)
{
	struct list_head *head = flush_askers(rq), *node = head;
	const struct submitter *submitter = NULL;
	struct pending *asker;
	struct request *other;

	if (!head)
		return NULL;
	for (int i = 0; i < MAX_FLUSH_ASKERS; i++) {
		node = BPF_CORE_READ(node, next);
		if (!node || node == head)
			break;
		other = (void *)node - flush_list_offset();
		asker = pending_at((__u64)other);
		if (asker && !asker->refused &&
		    (!asker->made_ns || BPF_CORE_READ(other, start_time_ns) <= asker->made_ns)) {
			submitter = &asker->submitter;
			break;
		}
		if (cfg_has_io_start)
			continue;
		submitter = asked_by(BPF_CORE_READ(other, biotail));
		if (submitter)
			break;
	}
	/* Once, and not within the loop: the verifier would follow it for each turn. */
	return submitter ? remember_for(rq, submitter) : NULL;
}

/* Flushes and commands that are passed through have none: -1 in the request. */
static __always_inline __u64 sector_of(const struct request *rq)
{
	return rq->__sector == ~0ull ? 0 : rq->__sector;
}

static __always_inline int issue(struct request *rq)
{
	struct pending *pending = pending_of(rq);

	if ((rq->cmd_flags & REQ_OP_MASK) == REQ_OP_FLUSH && !(pending && pending->requeued))
		pending = remember_flush(rq);
	else if (!cfg_has_io_start && (!pending || (pending->issued_ns && !pending->reported)))
		pending = remember(rq);
	if (!pending)
		return 0;
	/* What was merged into it is in by now. */
	if (!pending->part_done) {
		pending->sector = sector_of(rq);
		pending->nr_bytes = rq->__data_len;
	}
	/* What a flush has to precede is made before that: what it waits for is no queue. */
	if (cfg_waits_since_made && !pending->inserted_ns &&
	    (!(pending->flags & FLAG_PREFLUSH) || pending->op_code == REQ_OP_FLUSH))
		pending->inserted_ns = rq->start_time_ns;
	pending->issued_ns = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(on_block_rq_issue, struct request *rq)
{
	return issue(rq);
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(on_block_rq_issue_q, struct request_queue *q, struct request *rq)
{
	return issue(rq);
}

/* The device was busy, or did only a part: back to waiting, without passing the insert hook again. */
static __always_inline int requeue(struct request *rq)
{
	struct pending *pending = pending_of(rq);

	if (!pending)
		return 0;
	/* An attempt that came to nothing, or to a part only, counts as waiting: the sum of both times leaves nothing out. */
	if (!pending->inserted_ns)
		pending->inserted_ns = pending->issued_ns;
	pending->issued_ns = 0;
	pending->requeued = 1;
	return 0;
}

SEC("tp_btf/block_rq_requeue")
int BPF_PROG(on_block_rq_requeue, struct request *rq)
{
	return requeue(rq);
}

SEC("tp_btf/block_rq_requeue")
int BPF_PROG(on_block_rq_requeue_q, struct request_queue *q, struct request *rq)
{
	return requeue(rq);
}

/* Taken up by a neighbour before it was issued: it is never completed. */
SEC("tp_btf/block_rq_merge")
int BPF_PROG(on_block_rq_merge, struct request *rq)
{
	requests_leave(requests_place(rq));
	return 0;
}

SEC("tp_btf/block_rq_merge")
int BPF_PROG(on_block_rq_merge_q, struct request_queue *q, struct request *rq)
{
	requests_leave(requests_place(rq));
	return 0;
}

/* Done, all of it: `pending` is complete and stays as it is during the call. */
static __always_inline void request_done(const struct pending *pending, __u64 queue_ns, __u64 device_ns, __u64 now);

static __always_inline void done(const struct pending *pending, __u64 now)
{
	__u64 queue_ns = 0, device_ns = 0;

	if (pending->issued_ns)
		device_ns = now - pending->issued_ns;
	if (pending->inserted_ns)
		queue_ns = (pending->issued_ns ?: now) - pending->inserted_ns;
	request_done(pending, queue_ns, device_ns, now);
}

SEC("tp_btf/block_rq_complete")
int BPF_PROG(on_block_rq_complete, struct request *rq, int error, unsigned int nr_bytes)
{
	struct requests_place place = requests_place(rq);
	struct pending *pending = pending_in(place, rq);
	__u64 now;

	if (!pending)
		return 0;
	if (pending->refused) {
		if (nr_bytes >= rq->__data_len)
			requests_leave(place);
		return 0;
	}
	now = bpf_ktime_get_ns();
	if (error && !pending->error)
		pending->error = errno_of(error);
	if (nr_bytes < rq->__data_len) {
		pending->part_done = 1;
		return 0;
	}
	/* The second completion of a write that a flush had to follow, and the only one of an empty flush: no I/O of theirs. */
	if (pending->reported || (!nr_bytes && pending->flags & FLAG_PREFLUSH && pending->op_code != REQ_OP_FLUSH)) {
		requests_leave(place);
		return 0;
	}
	if (!pending->issued_ns) {
		/* Ended before it got to the device: with an error that is news, without one there was nothing to do. */
		if (!pending->error) {
			requests_leave(place);
			return 0;
		}
		if (!pending->part_done) {
			pending->sector = sector_of(rq);
			pending->nr_bytes = nr_bytes;
		}
	}
	done(pending, now);
	/* A write that the cache flush of a FUA is still to follow names the flush's submitter; it completes once more. */
	if (pending->op_code != REQ_OP_FLUSH && in_flush_sequence(rq))
		pending->reported = 1;
	else
		requests_leave(place);
	return 0;
}

#endif
