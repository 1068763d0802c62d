/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * disk_io: how long each request to a disk waited and took, who submitted it and how it ended.
 *
 * hooks   tp_btf/block_io_start (6.5), block_rq_insert, block_rq_issue, block_rq_requeue, block_rq_merge,
 *         block_rq_complete; before 6.5 block_getrq in the place of block_io_start
 * key     address of the request: it is the request's own from its start to its last completion. Sectors are not unique
 * cost    three or four looks into an array of sets a request, no hash map; one that the filters refuse costs one miss each (before
 *         6.5 those on its submitter cost as much as one that passes)
 * not     requests begun before it attaches; the time a bio waits before it becomes a request (cgroup limits, a full
 *         queue); what bio-based drivers (dm, md, zram) do, other than on the disks below them; who dirtied the pages of
 *         a buffered write
 */
#include "kernel.h"
#include "event.h"
#include "emit.h"
#include "requests.h"

struct disk_event {
	__u64 timestamp_ns; /* CLOCK_MONOTONIC at completion */
	__u64 latency_ns; /* last issue to completion */
	__u64 queue_ns; /* first insert (or first issue, when there are more) to last issue, 0 when it never waited */
	__u64 sector;
	__u64 cgroup_id;
	__u32 nr_bytes;
	__u32 dev;
	__u32 pid;
	__u32 tid;
	__u32 error; /* positive errno */
	__u8 op;
	__u8 op_code;
	__u8 flags;
	__u8 pad0;
	char comm[TASK_COMM_LEN];
};
ASSERT_RECORD(struct disk_event, 80);
KEEP_LAYOUT(struct disk_event);

static __always_inline void request_done(const struct pending *pending, __u64 queue_ns, __u64 latency_ns, __u64 now)
{
	struct disk_event *event;

	if (queue_ns + latency_ns < cfg_min_latency_ns[SIGNAL])
		return;
	if (cfg_errors_only[SIGNAL] && !pending->error)
		return;
	event = event_reserve(struct disk_event);
	if (!event)
		return;
	event->timestamp_ns = now;
	event->latency_ns = latency_ns;
	event->queue_ns = queue_ns;
	event->sector = pending->sector;
	event->cgroup_id = pending->submitter.cgroup_id;
	event->nr_bytes = pending->nr_bytes;
	event->dev = pending->dev;
	event->pid = pending->submitter.pid;
	event->tid = pending->submitter.tid;
	event->error = pending->error;
	event->op = record_op(pending->op_code);
	event->op_code = pending->op_code;
	event->flags = pending->flags;
	__builtin_memcpy(event->comm, pending->submitter.comm, sizeof(event->comm));
	event_submit(event);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
