/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * disk_io, summed up: requests, bytes and times by device and kind, by submitter, and failures.
 *
 * hooks   those of disk_io.bpf.c (requests.h), since 6.5 without block_rq_insert: waits begin at request.start_time_ns
 * key     (device, kind); (process, device); (device, kind, errno) and the same with the process
 * cost    two look-ups into arrays a completed request, beside those that follow it
 * not     what disk_io.bpf.c does not see either
 */
#include "kernel.h"
#include "event.h"
#include "histogram.h"
#define ONLY_PROCESSES
#include "requests.h"

/* One MiB: a machine with more than 25 disks that are all read, written, flushed and trimmed loses the rest, and says so. */
#define DEVICE_OPS_BITS 7
#define MAX_DEVICE_OPS (1 << DEVICE_OPS_BITS)
/* From where its number says on. */
#define PROBES 16
#define SUBMITTERS_BITS 12
#define MAX_SUBMITTERS (1 << SUBMITTERS_BITS)
#define MAX_ERRORS 128
#define MAX_FAILURES 64

/* How many there were is what either histogram holds. */
struct device_op {
	__u64 number; /* of device and kind; 0: free */
	__u32 claims; /* as in in_flight.h */
	__u32 pad;
	__u64 bytes;
	struct histogram queue_ns;
	struct histogram device_ns;
};
_Static_assert(sizeof(struct device_op) == 24 + 2 * 4 * HISTOGRAM_BUCKETS, "struct device_op changed size");

/* Found without a call, unlike an element of a hash map; none is ever removed. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_DEVICE_OPS);
	__type(key, __u32);
	__type(value, struct device_op);
} device_ops SEC(".maps");

struct submitted {
	__u64 number; /* of process and device; 0: free */
	__u32 claims; /* as in in_flight.h */
	__u32 pad;
	__u64 requests;
	__u64 read_bytes;
	__u64 write_bytes;
	__u64 flushes;
	__u64 total_ns;
	char comm[TASK_COMM_LEN];
};
_Static_assert(sizeof(struct submitted) == 72, "struct submitted changed size");

/* As device_ops; the reader gives the places of processes back that have ended. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_SUBMITTERS);
	__type(key, __u32);
	__type(value, struct submitted);
} submitters SEC(".maps");

struct error_key {
	__u32 dev;
	__u32 op;
	__u32 error;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ERRORS);
	__type(key, struct error_key);
	__type(value, __u64);
} errors SEC(".maps");

struct failure_key {
	__u32 dev;
	__u32 op;
	__u32 error;
	__u32 pid;
};

/* The first failure of a kind since the reader last took them away, and how many there have been. */
struct failure {
	__u64 timestamp_ns;
	__u64 sector;
	__u64 count;
	__u32 nr_bytes;
	__u32 pad;
	char comm[TASK_COMM_LEN];
};
_Static_assert(sizeof(struct failure) == 48, "struct failure changed size");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_FAILURES);
	__type(key, struct failure_key);
	__type(value, struct failure);
} failures SEC(".maps");

const volatile struct device_op *const volatile layout_of_device_op SEC(".rodata") = NULL;
const volatile struct submitted *const volatile layout_of_submitted SEC(".rodata") = NULL;
const volatile struct failure *const volatile layout_of_failure SEC(".rodata") = NULL;

/* Two CPUs with the first of a kind may take a place each: the reader adds them up. */
static __always_inline struct device_op *device_op_of(const struct pending *pending, __u32 op)
{
	__u64 number = (__u64)pending->dev << 8 | op;
	__u32 first = number * IN_FLIGHT_MIX >> (64 - DEVICE_OPS_BITS);
	struct device_op *sum = NULL, *there;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < PROBES; i++) {
		__u32 at = (first + i) % MAX_DEVICE_OPS;

		there = bpf_map_lookup_elem(&device_ops, &at);
		if (there && (there->number == number || in_flight_take(&there->claims, &there->number, number))) {
			sum = there;
			break;
		}
	}
	return sum;
}

/* Likewise, and where a place has been given back: an element may stand behind one that is free. */
static __always_inline struct submitted *submitted_of(const struct pending *pending)
{
	__u64 number = (__u64)pending->submitter.pid << 32 | pending->dev;
	__u32 first = number * IN_FLIGHT_MIX >> (64 - SUBMITTERS_BITS);
	struct submitted *sum = NULL, *there;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < PROBES; i++) {
		__u32 at = (first + i) % MAX_SUBMITTERS;

		there = bpf_map_lookup_elem(&submitters, &at);
		if (!there)
			break;
		if (there->number == number) {
			sum = there;
			break;
		}
		if (in_flight_take(&there->claims, &there->number, number)) {
			__builtin_memcpy(there->comm, pending->submitter.comm, sizeof(there->comm));
			sum = there;
			break;
		}
	}
	return sum;
}

static __always_inline void add_to_submitter(const struct pending *pending, __u32 op, __u64 total_ns)
{
	struct submitted *submitted = submitted_of(pending);

	if (!submitted) {
		count_overflow();
		return;
	}
	__sync_fetch_and_add(&submitted->requests, 1);
	__sync_fetch_and_add(&submitted->total_ns, total_ns);
	if (op == OP_READ)
		__sync_fetch_and_add(&submitted->read_bytes, pending->nr_bytes);
	else if (op == OP_WRITE)
		__sync_fetch_and_add(&submitted->write_bytes, pending->nr_bytes);
	else if (op == OP_FLUSH)
		__sync_fetch_and_add(&submitted->flushes, 1);
}

static __noinline int count_failure(const struct pending *pending, __u32 op, __u64 now)
{
	struct error_key error = {};
	struct failure_key key = {};
	struct failure *known, first = {};
	__u64 *count, none = 0;

	if (!pending)
		return 0;
	error.dev = pending->dev;
	error.op = op;
	error.error = pending->error;
	count = bpf_map_lookup_elem(&errors, &error);
	if (!count) {
		bpf_map_update_elem(&errors, &error, &none, BPF_NOEXIST);
		count = bpf_map_lookup_elem(&errors, &error);
	}
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		count_overflow();

	key.dev = pending->dev;
	key.op = op;
	key.error = pending->error;
	key.pid = pending->submitter.pid;
	known = bpf_map_lookup_elem(&failures, &key);
	if (!known) {
		first.timestamp_ns = now;
		first.sector = pending->sector;
		first.nr_bytes = pending->nr_bytes;
		__builtin_memcpy(first.comm, pending->submitter.comm, sizeof(first.comm));
		bpf_map_update_elem(&failures, &key, &first, BPF_NOEXIST);
		known = bpf_map_lookup_elem(&failures, &key);
	}
	if (known)
		__sync_fetch_and_add(&known->count, 1);
	else
		count_overflow();
	return 0;
}

static __always_inline void request_done(const struct pending *pending, __u64 queue_ns, __u64 device_ns, __u64 now)
{
	__u32 op = record_op(pending->op_code);
	struct device_op *sum = device_op_of(pending, op);

	if (sum) {
		__sync_fetch_and_add(&sum->bytes, pending->nr_bytes);
		histogram_add_atomic(&sum->queue_ns, queue_ns);
		histogram_add_atomic(&sum->device_ns, device_ns);
	} else {
		count_overflow();
	}
	add_to_submitter(pending, op, queue_ns + device_ns);
	if (pending->error)
		count_failure(pending, op, now);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
